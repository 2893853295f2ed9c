"""The fingerprint: changes with every change of the rows, and with nothing else."""

import random
import zlib
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, bounded, daily, table_spec

from rds_lake.extract.fingerprint import EMPTY, version
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.partitions import KEY_FORMATS, Window

KEYED = "id INT PRIMARY KEY, at DATETIME(6), note VARCHAR(20), KEY (at)"
DAY = "2024-03-01"


def keyed(rooms, table: str, **more) -> dict[str, str]:
    with open_snapshot(rooms.source, daily(table, **more)) as snapshot:
        return snapshot.fingerprints()


def whole(rooms, table: str) -> str:
    with open_snapshot(rooms.source, table_spec(table)) as snapshot:
        return snapshot.fingerprint()


def test_no_rows_have_the_empty_fingerprint(rooms, mysql_table):
    table = mysql_table(KEYED)
    assert keyed(rooms, table) == {}
    assert whole(rooms, table) == EMPTY
    assert version(0, None) == EMPTY


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO {0} VALUES (3, '2024-03-01 10:00:00', 'c')",
        "UPDATE {0} SET at = at + INTERVAL 1 MICROSECOND WHERE id = 1",
        "UPDATE {0} SET id = 9 WHERE id = 1",
        "DELETE FROM {0} WHERE id = 2",
        "UPDATE {0} SET at = CASE id WHEN 1 THEN '2024-03-01 02:00:00' ELSE '2024-03-01 01:00:00' END WHERE id < 3",
    ],
    ids=["insert", "update", "key", "delete", "swapped cursors"],
)
def test_every_change_of_a_keyed_table_shows_in_its_partition_and_in_no_other(rooms, mysql_table, change):
    rows = [(1, f"{DAY} 01:00:00", "a"), (2, f"{DAY} 02:00:00", "b"), (4, "2024-03-02 01:00:00", "d")]
    table = mysql_table(KEYED, rows=rows)
    before = keyed(rooms, table)
    assert before.keys() == {DAY, "2024-03-02"}
    rooms.sql(change.format(table))
    after = keyed(rooms, table)
    assert after[DAY] != before[DAY]
    assert after["2024-03-02"] == before["2024-03-02"]


@pytest.mark.parametrize("name", ["k", "K", "start_of"])
def test_a_column_of_any_name_leaves_the_partitions_as_they_are(rooms, mysql_table, name):
    rows = [(1, f"{DAY} 01:00:00", "a", 1), (2, "2024-03-02 02:00:00", "b", 1), (3, "2024-03-03", "b", 1)]
    table = mysql_table(f"id INT PRIMARY KEY, at DATETIME(6), note VARCHAR(20), {name} INT, KEY (at)", rows=rows)
    assert keyed(rooms, table).keys() == {DAY, "2024-03-02", "2024-03-03"}


def test_the_last_row_that_goes_takes_the_partition_with_it(rooms, mysql_table):
    table = mysql_table(KEYED, rows=[(1, f"{DAY} 01:00:00", "a")])
    rooms.sql(f"DELETE FROM {table}")
    assert keyed(rooms, table) == {}


ROWS = [(1, "a", None), (2, None, "a"), (3, "a,b", "c"), (4, "NULL", "")]


def test_equal_rows_in_another_order_have_the_same_fingerprint(rooms, mysql_table):
    seen = {
        whole(rooms, mysql_table("id INT, a VARCHAR(9), b VARCHAR(9)", rows=rows))
        for rows in list(permutations(ROWS))[::7]
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([(1, None, "x")], [(1, "NULL", "x")]),
        ([(1, "a,b", "c")], [(1, "a", "b,c")]),
        ([(1, "a'", "b")], [(1, "a", "'b")]),
        ([(1, None, "x")], [(1, "x", None)]),
        ([(1, "", "x")], [(1, None, "x")]),
        ([(1, "a", "x")], [(1, "A", "x")]),
        ([(1, "a", "x")], [(1, "a ", "x")]),
        ([(1, "a", "x")] * 2, []),
        ([(1, "a", "x")] * 3, [(1, "a", "x")]),
        ([(1, "a", "x")] * 2, [(2, "b", "y")] * 2),
        ([(1, "a", "x"), (2, "b", "y")], [(1, "a", "y"), (2, "b", "x")]),
        ([(1, "\\", "x")], [(1, "\\\\", "x")]),
    ],
    ids=[
        "null and its name", "comma", "quote", "null elsewhere", "empty", "case", "padding", "a pair does not cancel",
        "three are not one", "pairs", "swapped values", "backslash",
    ],
)  # fmt: skip
def test_different_rows_of_a_keyless_table_have_different_fingerprints(rooms, mysql_table, one, other):
    columns = "id INT, a VARCHAR(9), b VARCHAR(9)"
    assert whole(rooms, mysql_table(columns, rows=one)) != whole(rooms, mysql_table(columns, rows=other))


def test_without_a_key_a_row_that_takes_the_place_of_another_one_shows_although_the_cursor_is_the_same(
    rooms, mysql_table
):
    table = mysql_table("at DATETIME, what VARCHAR(9), KEY (at)", rows=[(f"{DAY} 10:00:00", what) for what in "ab"])
    before = keyed(rooms, table, key=[])
    rooms.sql(f"UPDATE {table} SET what = 'c' WHERE what = 'a'")
    after = keyed(rooms, table, key=[])
    assert after != before
    assert [value.partition("-")[0] for value in after.values()] == ["2"]


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("FLOAT", 16777214, 16777215),
        ("FLOAT", 0.1234567, 0.1234568),
        ("DOUBLE", 0.1, 0.10000000000000002),
        ("DECIMAL(65,30)", "0." + "0" * 29 + "1", "0." + "0" * 29 + "2"),
        ("DATETIME(6)", "2024-01-01 00:00:00.000001", "2024-01-01 00:00:00.000002"),
        ("BIT(64)", 2**63, 2**63 + 1),
        ("BLOB", b"\x00\xff", b"\x00\xfe"),
        ("TIME(6)", "-838:59:59.000001", "-838:59:59.000002"),
        ("TEXT", "x" * 60_000, "x" * 59_999 + "y"),
        ("VARCHAR(9) CHARACTER SET latin1", "ä", "ö"),
    ],
)
def test_the_smallest_difference_of_any_type_shows_in_a_keyless_table(rooms, mysql_table, kind, one, other):
    table = mysql_table(f"v {kind}, w VARCHAR(9) COLLATE utf8mb4_bin, u VARCHAR(9)", rows=[(one, "美", "é")])
    before = whole(rooms, table)
    with rooms.mysql() as connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET v = %s", (other,))
    assert whole(rooms, table) != before


def test_rows_above_the_fence_do_not_count_yet(rooms, mysql_table):
    table = mysql_table(KEYED)
    rooms.sql(f"INSERT INTO {table} VALUES (1, NOW(6) + INTERVAL 1 HOUR, 'x'), (2, '{DAY}', 'y')")
    assert keyed(rooms, table).keys() == {DAY}


def test_rows_that_no_partition_holds_are_counted(rooms, mysql_table):
    rows = [(1, None, "a"), (2, None, "b"), (3, "2023-12-31 23:59:59.999999", "c"), (4, "2024-01-01", "d")]
    table = mysql_table(KEYED, rows=rows)
    with open_snapshot(rooms.source, daily(table, cursor={"column": "at", "nulls": "exclude"})) as snapshot:
        assert snapshot.rows_outside() == (1, 2)
        assert snapshot.fingerprints().keys() == {"2024-01-01"}
    with open_snapshot(rooms.source, table_spec(table)) as snapshot:
        assert snapshot.rows_outside() == (0, 0)


def checksum(key: int, cursor: str) -> int:
    """One row's checksum, computed apart from the server: CRC32 forwards, quoted, and backwards, cursor first."""
    return zlib.crc32(f"'{key}','{cursor}'".encode()) << 32 | zlib.crc32(f"{cursor},{key}"[::-1].encode())


@pytest.mark.parametrize("unit", ["hour", "day", "week", "month"])
def test_the_fingerprints_of_all_partitions_equal_an_independent_computation(rooms, mysql_table, unit):
    start = datetime(2023, 12, 30, 22, 30)  # noqa: DTZ001 - the cursor's clock
    rows = [(n, start + timedelta(hours=7 * n, microseconds=n), None) for n in range(150)]
    rows += [(1000 + n, start + timedelta(days=n), "tie") for n in range(40)]
    table = mysql_table("id INT, at DATETIME(6), note VARCHAR(20)", rows=rows)
    expected = defaultdict(list)
    for number, moment, _ in rows:
        begin = moment - timedelta(days=moment.weekday()) if unit == "week" else moment
        expected[begin.strftime(KEY_FORMATS[unit])].append(checksum(number, f"{moment:%Y-%m-%d %H:%M:%S.%f}"))
    spec = daily(table, partitions={"by": unit, "start": "2023-12-01"})
    with open_snapshot(rooms.source, spec) as snapshot:
        assert snapshot.fingerprints() == {key: f"{len(sums)}-{sum(sums):x}" for key, sums in expected.items()}


def test_a_window_limits_what_is_read(rooms, mysql_table):
    table = mysql_table(KEYED, rows=[(n, f"2024-03-0{n} 12:00:00", None) for n in range(1, 6)])
    with open_snapshot(rooms.source, daily(table)) as snapshot:
        window = Window(datetime(2024, 3, 2), datetime(2024, 3, 4))  # noqa: DTZ001 - the cursor's clock
        assert snapshot.fingerprints(window).keys() == {"2024-03-02", "2024-03-03"}


@bounded(7)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.sampled_from(["a", None])), max_size=12), st.data())
def test_any_two_sets_of_keyed_rows_have_equal_fingerprints_only_when_they_are_equal(rooms, mysql_table, rows, data):
    def made(chosen):
        lines = {key: (key, f"{DAY} 00:00:0{second}", note) for key, second, note in chosen}
        return lines.values(), frozenset((line[0], line[1]) for line in lines.values())

    other = data.draw(st.one_of(st.permutations(rows), st.just(rows[1:]), st.just([*rows, (31, 0, "z")])))
    (one_rows, one), (other_rows, another) = made(rows), made(other)
    found = [keyed(rooms, mysql_table(KEYED, rows=list(each))) for each in (one_rows, other_rows)]
    assert (found[0] == found[1]) == (one == another)


def test_hostile_names_are_read_like_any_other(rooms, mysql_table):
    columns = ", ".join("`" + name.replace("`", "``") + "` DATETIME(6)" for name in HOSTILE_NAMES)
    rows = [(1, *[f"{DAY} 01:00:00"] * len(HOSTILE_NAMES)), (2, *[f"{DAY} 02:00:00"] * len(HOSTILE_NAMES))]
    table = mysql_table(f"`id` INT PRIMARY KEY, {columns}", name=f"{rooms.name()} `a\"b' %s %%d 美", rows=rows)
    for cursor in ("a%s%%d", "back`tick", "brace{0}"):
        spec = daily("t", source_table=table, cursor={"column": cursor}, key=["id", *HOSTILE_NAMES])
        with open_snapshot(rooms.source, spec) as snapshot:
            assert snapshot.fingerprints()[DAY].startswith("2-")
            assert [row["id"] for batch in snapshot.rows() for row in batch.to_pylist()] == [1, 2]
            assert snapshot.schema.names == ["id", *HOSTILE_NAMES]
            assert snapshot.rows_outside() == (0, 0)
    with open_snapshot(rooms.source, table_spec("t", source_table=table, key=HOSTILE_NAMES)) as snapshot:
        assert snapshot.fingerprint().startswith("2-")
        assert sum(batch.num_rows for batch in snapshot.rows()) == 2
    rooms.fill(mysql_table("v VARCHAR(9)", name=f"{table}2"), [("x",)])
    assert rooms.source.lookup(f"{table}2", "v").to_pylist() == [{"value": "x", "text": "x"}]


# --- how wide it is --------------------------------------------------------------------------------------------------


def rank(vectors: list[int]) -> int:
    """How many of these bit vectors are independent over GF(2)."""
    basis: dict[int, int] = {}
    for given_vector in vectors:
        vector = given_vector
        while vector and (place := vector.bit_length()) in basis:
            vector ^= basis[place]
        if vector:
            basis[vector.bit_length()] = vector
    return len(basis)


def changed_bits(form) -> list[int]:
    """What each single bit of a DATETIME(6)'s digits changes in a checksum, for one key."""
    cursor = "2024-03-01 10:20:30.400000"
    places = [place for place, digit in enumerate(cursor) if digit.isdigit()]
    flipped = [
        cursor[:place] + chr(ord(cursor[place]) ^ 1 << bit) + cursor[place + 1 :]
        for place in places
        for bit in range(4)
    ]
    return [form(77, cursor) ^ form(77, other) for other in flipped]


def test_the_two_halves_are_independent_and_a_second_crc_of_the_same_text_would_add_nothing():
    def same_text_twice(key, cursor):
        return zlib.crc32(f"{key},{cursor}".encode()) << 32 | zlib.crc32(f"salt,{cursor},{key}".encode())

    assert rank(changed_bits(checksum)) == 64
    assert rank(changed_bits(same_text_twice)) == 32


def test_no_two_seconds_of_a_day_have_the_same_checksum_whatever_the_key():
    """CRC32 is linear: what the key adds is the same for all of them, so one key stands for every one of its length."""
    start = datetime(2024, 3, 1)  # noqa: DTZ001 - the cursor's clock
    texts = [f"{start + timedelta(seconds=n):%Y-%m-%d %H:%M:%S}" for n in range(86_400)]
    assert len({checksum(77, text) for text in texts}) == 86_400
    assert len({zlib.crc32(text.encode()) for text in texts}) == 86_400


def collisions(width: int, sets: int) -> int:
    """How many of random pairs of row sets have equal sums of checksums cut off at so many bits."""
    chance = random.Random(7)
    seen: dict[int, int] = defaultdict(int)
    for _ in range(sets):
        rows = [(chance.randrange(10**6), f"2024-03-01 10:20:{chance.randrange(10**8):08}") for _ in range(3)]
        seen[sum(checksum(*row) >> (64 - width) for row in rows)] += 1
    return sum(count * (count - 1) // 2 for count in seen.values())


def test_different_rows_collide_as_often_as_chance_says():
    """Measured at a width at which it happens: the sums are as good as random numbers, so 64 bits are 64 bits."""
    sets, width = 20_000, 20
    expected = sets * (sets - 1) / 2 / 2**width
    assert 0.3 * expected < collisions(width, sets) < 1.5 * expected
    assert collisions(64, sets) == 0
