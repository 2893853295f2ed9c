"""Landing: one pass over the source, cut into partitions without losing or doubling a row."""

import itertools
from datetime import date, datetime, timedelta
from threading import Event

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily, record_batch, table_spec

from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.extract.snapshot import Snapshot, open_snapshot
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake.agreement import agree
from rds_lake.lake.batch import BatchWriter
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import by_partition, land
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.spool import Spool
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Partitioning
from rds_lake.spec import Cursor

START = datetime(2023, 12, 30)  # noqa: DTZ001 - the cursor's clock
SCHEMA = arrow_schema((Column("id", "int(11)", nullable=False), Column("at", "datetime(6)")))

moments = st.integers(0, 40 * 24 * 3600 * 10).map(lambda tenths: START + timedelta(seconds=tenths / 10))
edges = st.sampled_from([START + timedelta(days=n) - timedelta(microseconds=m) for n in range(1, 5) for m in (0, 1)])


@bounded(150)
@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.lists(moments | edges, max_size=60).map(sorted),
    st.lists(st.integers(0, 60), max_size=12),
)
def test_cutting_a_sorted_stream_loses_and_doubles_nothing(unit, cursors, cuts):
    partitioning = Partitioning.of(unit, date(2023, 12, 1))
    rows = list(enumerate(cursors))
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [rows[left:right] for left, right in itertools.pairwise(bounds)]
    batches = [record_batch(piece, SCHEMA) for piece in pieces if piece]
    found = {}
    for partition, parts in by_partition(batches, Cursor(column="at"), partitioning):
        assert partition not in found
        found[partition] = [tuple(row.values()) for part in parts for row in part.to_pylist()]
    assert [row for part in found.values() for row in part] == rows
    assert all(partitioning.key(moment) == partition for partition, part in found.items() for _, moment in part)


def test_a_date_can_be_the_cursor():
    schema = arrow_schema((Column("id", "int(11)"), Column("at", "date")))
    batch = record_batch([(1, date(2024, 1, 1)), (2, date(2024, 1, 1)), (3, date(2024, 1, 3))], schema)
    cut = by_partition([batch], Cursor(column="at"), Partitioning.of("day", date(2024, 1, 1)))
    assert [(key, sum(part.num_rows for part in parts)) for key, parts in cut] == [("2024-01-01", 2), ("2024-01-03", 1)]


# --- from the source -------------------------------------------------------------------------------------------------

COLUMNS = "id INT PRIMARY KEY, at DATETIME(6), v VARCHAR(20), KEY (at)"
DAYS = ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-05"]


def lines():
    return [(n, f"2024-01-0{1 + n % 3} 00:00:0{n % 10}.{n:06}", f"v{n}" if n % 4 else None) for n in range(30)]


def landed(rooms, spec, partitions):
    with open_snapshot(rooms.source, spec) as snapshot:
        return land(snapshot, rooms.store, partitions)


def test_each_partition_gets_its_rows_fingerprint_and_fence_and_an_empty_one_no_file(rooms, mysql_table):
    table = mysql_table(COLUMNS, rows=lines())
    spec = daily(table)
    told = []
    with open_snapshot(rooms.source, spec) as snapshot:
        fingerprints = snapshot.fingerprints()
        found = land(snapshot, rooms.store, DAYS, told.append)
    manifests = Manifests(rooms.store, TableKeys.of(spec))
    assert list(found) == DAYS
    for day, item in found.items():
        assert item.new
        assert manifests.require("landing", day).manifest == item.manifest
        assert item.manifest.fingerprint == fingerprints.get(day, "0")
        assert datetime.fromisoformat(item.manifest.fence).replace(tzinfo=None) == snapshot.fence.at
        assert item.manifest.source_unique
        plain = rooms.sql(f"SELECT * FROM {table} WHERE DATE(at) = '{day}' ORDER BY at, id")
        assert rooms.rows(item.manifest) == list(plain)
    assert found["2024-01-05"].manifest.files == ()
    assert max(told) == len(DAYS)


def test_landing_again_what_has_not_changed_is_not_new(rooms, mysql_table):
    table = mysql_table(COLUMNS, rows=lines())
    spec = daily(table)
    first = landed(rooms, spec, DAYS)
    keys = rooms.keys(f"{table}/")
    again = landed(rooms, spec, DAYS)
    assert not any(item.new for item in again.values())
    assert {day: item.manifest.batch for day, item in again.items()} == {
        day: item.manifest.batch for day, item in first.items()
    }
    assert rooms.keys(f"{table}/") == keys


def test_only_the_changed_partition_is_new_and_a_moved_row_changes_two(rooms, mysql_table):
    table = mysql_table(COLUMNS, rows=lines())
    spec = daily(table)
    landed(rooms, spec, DAYS)
    rooms.sql(f"UPDATE {table} SET v = 'changed', at = at + INTERVAL 1 SECOND WHERE id = 3")
    assert [day for day, item in landed(rooms, spec, DAYS).items() if item.new] == ["2024-01-01"]
    rooms.sql(f"UPDATE {table} SET at = '2024-01-05 12:00:00' WHERE id = 4")
    found = landed(rooms, spec, DAYS)
    assert [day for day, item in found.items() if item.new] == ["2024-01-02", "2024-01-05"]
    assert sum(item.manifest.rows for item in found.values()) == 30


def test_a_partition_whose_rows_are_all_gone_is_landed_empty(rooms, mysql_table):
    table = mysql_table(COLUMNS, rows=lines())
    spec = daily(table)
    landed(rooms, spec, DAYS)
    rooms.sql(f"DELETE FROM {table} WHERE DATE(at) = '2024-01-02'")
    item = landed(rooms, spec, ["2024-01-02"])["2024-01-02"]
    assert (item.new, item.manifest.rows, item.manifest.fingerprint) == (True, 0, "0")


def test_a_table_without_a_cursor_is_landed_in_full(rooms, mysql_table):
    table = mysql_table("id INT, v VARCHAR(20)", rows=[(2, "b"), (1, "a"), (1, "a")])
    spec = table_spec(table, key=["id"])
    item = landed(rooms, spec, ["all"])["all"]
    assert rooms.rows(item.manifest) == [(1, "a"), (1, "a"), (2, "b")]
    assert not item.manifest.source_unique
    assert not landed(rooms, spec, ["all"])["all"].new


def test_a_format_that_cannot_carry_a_column_is_refused_before_anything_is_read(rooms, mysql_table):
    spec = table_spec(mysql_table("id INT, v BLOB"), landing={"format": "csv"})
    with pytest.raises(SpecError, match="'v' is binary"):
        landed(rooms, spec, ["all"])
    assert rooms.keys(f"{spec.table}/") == []


def test_an_answer_with_fewer_rows_than_the_source_counts_is_not_landed(rooms, mysql_table):
    spec = daily(mysql_table(COLUMNS, rows=lines()))
    first, last = sorted(landed(rooms, spec, ["2024-01-01"]) | {"2024-01-02": None})
    before = rooms.keys(f"{spec.table}/")
    with open_snapshot(rooms.source, spec) as snapshot:
        with snapshot.connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_select_limit = 1")
        with pytest.raises(PermanentError, match=r"2024-01-01: the source counts 10 rows, and 1 were read\. Nothing"):
            land(snapshot, rooms.store, [first, last])
    assert rooms.keys(f"{spec.table}/") == before


def test_rows_that_change_after_the_snapshot_are_landed_as_they_were_and_wait_for_it_outside_of_memory(
    rooms, mysql_table, monkeypatch
):
    table = mysql_table(COLUMNS, rows=lines())
    spec = daily(table)
    made, asked = Spool.__init__, Snapshot.fingerprints
    opened, held = [], []

    def open_spool(self, *arguments):
        opened.append(self)
        made(self, *arguments)

    def fingerprints(self, window=None):
        held.append([not spool.content.closed for spool in opened])
        return asked(self, window)

    with open_snapshot(rooms.source, spec) as snapshot:
        told = snapshot.fingerprints()
        monkeypatch.setattr(Spool, "__init__", open_spool)
        monkeypatch.setattr(Snapshot, "fingerprints", fingerprints)
        rooms.sql(f"DELETE FROM {table} WHERE id < 2", f"UPDATE {table} SET at = '2024-01-05' WHERE id = 2")
        found = land(snapshot, rooms.store, DAYS)
    assert held == [[False] * 3] * 4
    assert {day: item.manifest.fingerprint for day, item in found.items()} == {**told, "2024-01-05": "0"}
    assert sorted(row[0] for item in found.values() for row in rooms.rows(item.manifest)) == list(range(30))
    assert len(rooms.keys(f"{table}/landing/")) == 3


def test_rows_that_were_bent_on_the_way_are_not_landed(rooms, mysql_table, monkeypatch):
    spec = daily(mysql_table(COLUMNS, rows=lines()))
    as_they_are = Snapshot.rows

    def bent(self, window=None):
        for batch in as_they_are(self, window):
            ids = pc.add(batch.column("id"), 1).cast(pa.int32())
            yield batch.set_column(batch.schema.get_field_index("id"), batch.schema.field("id"), ids)

    monkeypatch.setattr(Snapshot, "rows", bent)
    with open_snapshot(rooms.source, spec) as snapshot:
        rooms.sql(f"DELETE FROM {spec.source_name} WHERE DATE(at) = '{DAYS[0]}'")  # so that the snapshot is asked
        with pytest.raises(PermanentError, match="those that were read are not the same"):
            land(snapshot, rooms.store, DAYS)


def test_a_count_that_is_refused_is_the_error_of_the_landing(rooms, mysql_table):
    table = mysql_table(COLUMNS, rows=[*lines(), (99, None, "v")])
    with pytest.raises(SpecError, match="1 row has no value in the cursor 'at'"):
        landed(rooms, daily(table, cursor={"column": "at", "nulls": "raise"}), DAYS)


def test_a_batch_that_cannot_be_committed_ends_the_landing_and_leaves_no_temporary_file_open(
    rooms, mysql_table, monkeypatch
):
    spec = daily(mysql_table(COLUMNS, rows=lines()))
    opened, first = [], Event()
    made, tried = Spool.__init__, BatchWriter.close

    def open_spool(self, *arguments):
        opened.append(self)
        made(self, *arguments)
        if len(opened) == 2:  # the second partition is being written when the first one's commit fails
            assert first.wait(30)

    def close(self):
        tried(self)
        first.set()

    def put_if(*_, **__):
        raise TransientError("S3 is gone.", "Try again.")

    monkeypatch.setattr(Snapshot, "checksum", lambda _: None)  # else the first partition may wait for the count
    monkeypatch.setattr(Spool, "__init__", open_spool)
    monkeypatch.setattr(BatchWriter, "close", close)
    with monkeypatch.context() as patch, open_snapshot(rooms.source, spec) as snapshot:
        agree(rooms.store, spec, snapshot.table)
        patch.setattr(ObjectStore, "put_if", put_if)
        with pytest.raises(TransientError, match="S3 is gone"):
            land(snapshot, rooms.store, DAYS)
    assert len(opened) >= 2
    assert all(spool.content.closed for spool in opened)
