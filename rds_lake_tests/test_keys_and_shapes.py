"""Keys of every form, and tables of unusual shape: through all rooms up to the warehouse."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chain import Chain
from hypothesis import given
from hypothesis import strategies as st
from rooms import Rooms, bounded, daily, mysql_table, record_batch, rooms, table_spec

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.stream import BLOCK_BYTES
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake import files
from rds_lake.lake.files import read_batches, row_sizes
from rds_lake.lake.landing import land
from rds_lake.lake.spool import Spool
from rds_lake.warehouse.statements import Target

__all__ = ["mysql_table", "rooms"]

Make = Callable[..., str]
DAY = "2024-01-02"
BINARY = "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"


# --- keys ------------------------------------------------------------------------------------------------------------


def test_texts_that_differ_in_trailing_blanks_or_case_are_different_keys_and_all_arrive(rooms, mysql_table):
    texts = ["a", "a ", "a  ", "A", "", " ", "NULL", "a.", "a ."]
    table = mysql_table(
        f"k {BINARY} PRIMARY KEY, at DATETIME(6) NOT NULL, KEY (at)", rows=[(text, f"{DAY} 01:00:00") for text in texts]
    )
    chain = Chain(rooms, daily(table, key=["k"]))
    chain.sync()
    chain.assert_in_step()
    rooms.sql(
        f"UPDATE {table} SET at = '2024-01-04 05:00:00' WHERE k = 'a '", f"DELETE FROM {table} WHERE k IN ('', 'A')"
    )
    chain.sync(sorted)
    chain.assert_in_step()
    assert chain.held() == {DAY: 6, "2024-01-04": 1}


def test_every_comparison_of_a_text_key_ends_with_a_character_that_makes_blanks_count():
    columns = (Column("id", "int(11)"), Column("k", "varchar(9)"), Column("at", "datetime(6)"))
    target = Target(daily("t", key=["k", "id"]), columns)
    same = '"public"."t"."k" || \'.\' = {0}."k" || \'.\''
    assert same.format('"incoming_t"') in target.delete_older()
    assert same.format('"incoming_t"') in target.count_held()
    assert "held.\"k\" || '.' = ranked.\"k\" || '.'" in target.insert_newest()
    assert same.format('"left_t"') in target.count_lost_keys()
    assert 'PARTITION BY "k" || \'.\', "id" ORDER BY "at" DESC NULLS LAST' in target.insert_newest()
    assert 'SELECT DISTINCT "public"."t"."k" || \'.\' AS key_0, "public"."t"."id" AS key_1' in target.count_held()
    assert '"id" ||' not in target.insert_newest() + target.delete_older()


def test_a_key_that_the_sources_collation_calls_the_same_is_a_deleted_and_a_new_one_here(rooms, mysql_table):
    rows = [("a", f"{DAY} 01:00:00"), ("ß", f"{DAY} 02:00:00"), ("x", "2024-01-03 01:00:00")]
    table = mysql_table("k VARCHAR(20) PRIMARY KEY, at DATETIME(6), KEY (at)", rows=rows)
    chain = Chain(rooms, daily(table, key=["k"]))
    chain.sync()
    rooms.sql(
        f"UPDATE {table} SET k = 'A' WHERE k = 'a'", f"UPDATE {table} SET k = 'X', at = '{DAY} 09:00:00' WHERE k = 'x'"
    )
    assert chain.sync() == ["2024-01-03", DAY]
    chain.assert_in_step()
    assert sorted(row[0] for row in chain.warehouse()) == ["A", "X", "ß"]


@pytest.mark.parametrize("together", [True, False])
def test_a_composite_key_of_text_number_and_date_heals_whatever_part_of_it_changes(rooms, mysql_table, together):
    columns = f"shop {BINARY}, number INT, day DATE, at DATETIME(6), v VARCHAR(9), KEY (at)"
    rows = [
        (shop, number, f"2024-02-0{day}", f"2024-01-0{3 + (number + day) % 4} 00:00:00", "x")
        for shop in ("b", "b ", "B")
        for number in (1, 2)
        for day in (1, 2)
    ]
    table = mysql_table(f"{columns}, PRIMARY KEY (shop, number, day)", rows=rows)
    chain = Chain(rooms, daily(table, key=["shop", "number", "day"]))
    chain.sync(together=together)
    chain.assert_in_step()
    rooms.sql(
        f"UPDATE {table} SET number = 7 WHERE shop = 'b ' AND number = 1 AND day = '2024-02-01'",
        f"UPDATE {table} SET shop = 'c', at = at + INTERVAL 1 DAY WHERE shop = 'B'",
        f"UPDATE {table} SET day = '2024-02-09', at = at - INTERVAL 1 DAY WHERE shop = 'b' AND day = '2024-02-02'",
        f"DELETE FROM {table} WHERE shop = 'b' AND number = 1",
    )
    chain.sync(sorted, together=together)
    chain.assert_in_step()
    assert chain.plan().nothing


@pytest.mark.parametrize("touch", ["", ", at = at + INTERVAL 1 SECOND", ", at = at + INTERVAL 2 DAY"])
def test_a_primary_key_that_is_changed_at_the_source_leaves_no_old_key_behind(rooms, mysql_table, touch):
    rows = [(n, f"2024-01-0{n} 10:00:00", "x") for n in range(1, 5)]
    table = mysql_table("id INT PRIMARY KEY, at DATETIME, v VARCHAR(9), KEY (at)", rows=rows)
    chain = Chain(rooms, daily(table))
    chain.sync(together=True)
    rooms.sql(f"UPDATE {table} SET id = id + 100{touch} WHERE id IN (1, 3)")
    assert chain.sync()
    chain.assert_in_step()
    assert {row[0] for row in chain.warehouse()} == {2, 4, 101, 103}


def test_two_rows_that_swap_their_keys_swap_them_in_the_warehouse(rooms, mysql_table):
    table = mysql_table(
        "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9), KEY (at)",
        rows=[(1, f"{DAY} 01:00:00", "one"), (2, "2024-01-03 01:00:00", "two")],
    )
    chain = Chain(rooms, daily(table))
    chain.sync()
    swap = "UPDATE {0} SET id = 9 WHERE id = 1;UPDATE {0} SET id = 1 WHERE id = 2;UPDATE {0} SET id = 2 WHERE id = 9"
    for order in (sorted, lambda partitions: sorted(partitions, reverse=True)):
        rooms.sql(*swap.format(table).split(";"))
        assert len(chain.sync(order)) == 2
        chain.assert_in_step()


def test_hard_deletes_and_moves_of_the_last_rows_empty_partitions_up_to_the_warehouse(rooms, mysql_table):
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00") for n in range(9)]
    table = mysql_table("id INT PRIMARY KEY, at DATETIME, KEY (at)", rows=rows)
    chain = Chain(rooms, daily(table))
    chain.sync(together=True)
    rooms.sql(
        f"DELETE FROM {table} WHERE DATE(at) = '2024-01-01'",
        f"UPDATE {table} SET at = '2024-01-03 10:00:00' WHERE DATE(at) = '2024-01-02'",
    )
    chain.sync()
    chain.assert_in_step()
    assert chain.held() == {"2024-01-01": 0, "2024-01-02": 0, "2024-01-03": 6}


def test_a_key_with_null_is_discarded_and_accounted_for(rooms, mysql_table):
    rows = [
        (1, "x", f"{DAY} 01:00:00"),
        (None, "y", f"{DAY} 02:00:00"),
        (None, "y", f"{DAY} 03:00:00"),
        (2, None, None),
    ]
    table = mysql_table("a INT, b VARCHAR(9), at DATETIME, UNIQUE (a, b), KEY (at)", rows=rows)
    chain = Chain(rooms, daily(table, key=["a", "b"]))
    chain.sync()
    assert chain.lake("landing") == chain.source()
    assert [row[:2] for row in chain.warehouse()] == [(1, "x")]
    reasons = {(row[0], row[1], tuple(row[3])) for row in _discarded(chain)}
    assert reasons == {
        (None, "y", ("not_null_a",)),
        (None, "y", ("not_null_a", "duplicate_key")),
        (2, None, ("not_null_b",)),
    }


def _discarded(chain: Chain) -> list[tuple[Any, ...]]:
    current = chain.manifests.read_all("discarded", chain.manifests.partitions("discarded"))
    return [row for item in current.values() for row in chain.rooms.rows(item.manifest)]


def take(chain: Chain, day: str) -> dict[str, int]:
    """Take one partition to the warehouse, whatever the others are like."""
    with open_snapshot(chain.rooms.source, chain.spec) as snapshot:
        land(snapshot, chain.rooms.store, [day])
    chain.split([day])
    return chain.load([day])


def test_a_key_that_becomes_a_text_brings_back_a_row_that_had_given_way_to_a_newer_one(rooms, mysql_table):
    """The older batch, whose key is still a number, is in nobody's way: it is landed again like all the others."""
    table = mysql_table(
        "id INT PRIMARY KEY, at DATETIME(6) NOT NULL, v VARCHAR(9), KEY (at)",
        rows=[(1, f"{DAY} 10:00:00", "a"), (2, "2024-01-09 10:00:00", "b"), (3, "2024-01-09 11:00:00", "c")],
    )
    chain = Chain(rooms, daily(table))
    chain.sync()
    rooms.sql(f"UPDATE {table} SET at = '{DAY} 12:00:00' WHERE id = 2")
    assert take(chain, DAY) == {DAY: 1}, "the newer one is still in its old place"
    rooms.sql(f"ALTER TABLE {table} MODIFY id VARCHAR(20)")
    assert take(chain, "2024-01-09") == {"2024-01-09": 1}
    assert chain.sync() == [DAY]
    chain.assert_in_step()
    assert chain.held() == {DAY: 2, "2024-01-09": 1}
    assert chain.plan().nothing


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [True, False])
def test_an_empty_table_is_in_step_and_its_first_and_last_row_come_and_go(rooms, mysql_table, cut):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME, KEY (at)")
    chain = Chain(rooms, daily(table) if cut else table_spec(table, key=["id"]))
    chain.sync()
    assert chain.plan().nothing
    rooms.fill(table, [(1, f"{DAY} 10:00:00")])
    chain.sync()
    chain.assert_in_step()
    rooms.sql(f"DELETE FROM {table}")
    chain.sync()
    chain.assert_in_step()
    assert chain.plan().nothing


def test_partitions_without_rows_between_others_are_neither_landed_nor_in_the_way(rooms, mysql_table):
    table = mysql_table(
        "id INT PRIMARY KEY, at DATETIME NOT NULL, KEY (at)",
        rows=[(1, "2024-01-02"), (2, "2024-01-30"), (3, "2024-05-05")],
    )
    chain = Chain(rooms, daily(table))
    assert chain.sync(together=True) == ["2024-05-05", "2024-01-30", DAY]
    chain.assert_in_step()
    assert sorted(chain.manifests.partitions("landing")) == [DAY, "2024-01-30", "2024-05-05"]


MIXED = (
    ("INT", 7),
    ("BIGINT UNSIGNED", 2**64 - 1),
    ("DECIMAL(12,2)", "12345.67"),
    ("DOUBLE", 0.1),
    ("DATE", "2024-02-29"),
    ("DATETIME(6)", "2024-02-29 23:59:59.999999"),
    ("VARCHAR(20)", "Käse 美"),
    ("VARBINARY(20)", b"\x00\xff"),
    ("TIME(3)", "-12:34:56.789"),
    ("CHAR(4)", "ab"),
)


def test_a_table_of_500_columns_of_mixed_types_arrives_whole(rooms, mysql_table):
    kinds = [MIXED[n % len(MIXED)] for n in range(498)]
    columns = ", ".join(f"column_{n} {kind}" for n, (kind, _) in enumerate(kinds))
    table = mysql_table(f"id INT PRIMARY KEY, at DATETIME, {columns}, KEY (at)")
    filled = [value for _, value in kinds]
    rows = [(1, f"{DAY} 10:00:00", *filled), (2, f"{DAY} 10:00:00", *[None] * 498)]
    rows += [(3, "2024-01-04", *[value if n % 2 else None for n, value in enumerate(filled)])]
    rooms.fill(table, rows)
    chain = Chain(rooms, daily(table))
    chain.sync(together=True)
    assert [row[:2] for row in sorted(chain.warehouse())] == [
        (1, _at(DAY, 10)),
        (2, _at(DAY, 10)),
        (3, _at("2024-01-04")),
    ]
    assert len(next(iter(chain.warehouse()))) == 500
    assert chain.lake("staging") == chain.lake("landing") == _without_times(chain)
    assert chain.warehouse() == _without_times(chain)
    assert chain.plan().nothing


def _at(day: str, hour: int = 0) -> datetime:
    return datetime.fromisoformat(day) + timedelta(hours=hour)


def _without_times(chain: Chain) -> Any:
    """The source's rows, with durations in the form that the lake keeps them in."""
    source = chain.source()
    columns = chain.rooms.source.describe(chain.spec.source_name).columns
    asked = ", ".join(f"CAST({c.name} AS CHAR)" if c.type.startswith("time(") else c.name for c in columns)
    found = chain.rooms.sql(f"SELECT {asked} FROM {chain.spec.source_name}")
    assert len(found) == source.total()
    return type(source)(found)


WIDE_COLUMNS = 60
WIDE_TEXT = 32 * 2030


def wide(make: Make, rooms: Rooms, rows: int, narrow: int = 0) -> str:
    """A table with rows of nearly 4 MB, after some that have next to nothing."""
    columns = ", ".join(f"t{n} {'TEXT' if n % 2 else 'BLOB'}" for n in range(WIDE_COLUMNS))
    table = make(f"id INT PRIMARY KEY, at DATETIME, {columns}, KEY (at)")
    texts = ", ".join(["REPEAT(MD5(RAND()), 2030)"] * WIDE_COLUMNS)
    rooms.sql(
        *(f"INSERT INTO {table} (id, at) VALUES ({n}, '{DAY} 01:00:00')" for n in range(narrow)),
        *(f"INSERT INTO {table} SELECT {narrow + n}, '{DAY} 02:00:00', {texts}" for n in range(rows)),
    )
    return table


@pytest.mark.slow
def test_rows_of_4_mb_arrive_whole_in_batches_and_row_groups_of_bounded_size(rooms, mysql_table):
    table = wide(mysql_table, rooms, 20, narrow=30)
    row = WIDE_COLUMNS * WIDE_TEXT
    chain = Chain(rooms, daily(table))
    with open_snapshot(rooms.source, chain.spec) as snapshot:
        sizes = [(batch.num_rows, batch.nbytes) for batch in snapshot.rows()]
    assert sum(rows for rows, _ in sizes) == 50
    assert max(size for _, size in sizes) <= max(BLOCK_BYTES, row + 1000)
    chain.sync()
    chain.assert_in_step()
    for stage in ("landing", "staging"):
        [file] = chain.manifests.require(stage, DAY).manifest.files
        body = rooms.client("s3").get_object(Bucket=rooms.store.bucket, Key=file.key)["Body"].read()
        groups = pq.ParquetFile(_spool(body)).metadata
        held = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
        assert sum(held) == 50
        assert len(held) >= 2
        assert max(held) <= 30 + files.ROW_GROUP_BYTES // row + 1


def _spool(body: bytes) -> Any:
    import io

    return io.BytesIO(body)


PEAK = """
import json, resource, sys
from rooms import Rooms, daily
from chain import Chain
from types import SimpleNamespace
from rds_lake.extract import snapshot as snapshots
from rds_lake.lake import files
from rds_lake.lake.landing import land

files.ROW_GROUP_BYTES = 8 * 1024 * 1024

rooms = Rooms.of(SimpleNamespace(environ=json.loads(sys.argv[1])))
table = Chain(rooms, daily(sys.argv[2]))
with snapshots.open_snapshot(rooms.source, table.spec) as snapshot:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    landed = land(snapshot, rooms.store, ["2024-01-02"])
after_landing = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table.split(["2024-01-02"])
after_split = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([before, after_landing, after_split, sum(item.manifest.rows for item in landed.values())]))
"""


@pytest.mark.slow
def test_the_memory_that_rows_of_4_mb_take_does_not_grow_with_their_number(rooms, mysql_table):
    rows = 140
    table = wide(mysql_table, rooms, rows, narrow=30)
    found = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(dict(rooms.environ)), table],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(files.__file__).parents[2]}"},
    )
    before, landing, split, landed = json.loads(found.stdout)
    assert landed == rows + 30
    total = rows * WIDE_COLUMNS * WIDE_TEXT // 1024
    sys.stderr.write(f"peak memory in KB: before {before}, landing {landing}, split {split}, rows {total}\n")
    assert landing - before < total * 0.5
    assert split - before < total * 0.6


def test_a_change_in_a_row_that_is_longer_than_a_packet_is_seen_in_a_table_without_a_cursor(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, a LONGTEXT, b LONGBLOB, c TINYINT")
    limit = int(rooms.sql("SELECT @@max_allowed_packet")[0][0])
    half = limit // 2 + 1000
    rooms.sql(f"INSERT INTO {table} VALUES (1, REPEAT('x', {half}), NULL, 1), (2, NULL, NULL, 1)")
    rooms.sql(f"UPDATE {table} SET b = REPEAT('y', {half}) WHERE id = 1")

    def seen() -> str:
        with open_snapshot(rooms.source, table_spec(table, key=["id"])) as snapshot:
            return snapshot.fingerprint()

    before = seen()
    rooms.sql(f"UPDATE {table} SET c = 2 WHERE id = 1")
    after = seen()
    assert after != before
    rooms.sql(f"UPDATE {table} SET b = INSERT(b, 5, 1, 'z') WHERE id = 1")
    assert seen() != after


# --- row groups ------------------------------------------------------------------------------------------------------

TEXTS = arrow_schema((Column("id", "int(11)", nullable=False), Column("v", "text"), Column("b", "blob")))
texts = st.none() | st.sampled_from(["", "x", "x" * 400, "美" * 300, "y" * 5000])


@bounded(60)
@given(st.lists(st.tuples(texts, texts), max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_row_groups_end_by_size_wherever_the_rows_were_cut_before(rows, cuts):
    lines = [(n, text, blob.encode() if blob is not None else None) for n, (text, blob) in enumerate(rows)]
    limits = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ROW_GROUP_BYTES", 4000)
        patch.setattr(files, "ROW_GROUP_ROWS", 7)
        for bounds in ([0, len(lines)], limits):
            spool = Spool(TEXTS, "parquet")
            for left, right in pairwise(bounds):
                if left < right:
                    spool.write(record_batch(lines[left:right], TEXTS))
            spool.settle()
            file = spool.finish("k")
            found.append(spool.content.read())
            assert file.rows == len(lines)
            spool.discard()
    assert found[0] == found[1]
    stored = pq.ParquetFile(_spool(found[0]))
    assert [tuple(row.values()) for row in stored.read().to_pylist()] == lines
    counts = [stored.metadata.row_group(n).num_rows for n in range(stored.num_row_groups)]
    sizes = row_sizes(record_batch(lines, TEXTS)).tolist() if lines else []
    place = 0
    for number, count in enumerate(counts):
        group = sizes[place : place + count]
        assert count == 7 or sum(group) >= 4000 or number == len(counts) - 1
        assert sum(group[:-1]) < 4000
        place += count


def test_rows_that_are_read_back_come_in_batches_of_bounded_size():
    def counts(sizes: list[int]) -> list[int]:
        spool = Spool(TEXTS, "parquet")
        spool.write(record_batch([(n, "x" * size, None) for n, size in enumerate(sizes)], TEXTS))
        spool.finish("k")
        found = [batch.num_rows for batch in read_batches(spool.content, TEXTS, "parquet")]
        spool.discard()
        return found

    assert counts([10] * 50) == [50]
    assert counts([files.READ_BYTES * 2 // 5] * 5) == [2, 2, 1]
    assert counts([files.READ_BYTES + 1] * 3) == [1, 1, 1]
