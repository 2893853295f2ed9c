"""The snapshot: exactly the server's rows, each value as it is, or an error that names the bad one."""

import struct
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from threading import Thread
from time import monotonic, sleep

import pyarrow as pa
import pymysql
import pytest
from rooms import daily, table_spec

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract import reader
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.partitions import Window

# column: (type, values); NULL is added to each.
CARRIED = {
    "tiny": ("TINYINT", [-128, 0, 127]),
    "utiny": ("TINYINT UNSIGNED", [0, 1, 255]),
    "small": ("SMALLINT", [-32768, 0, 32767]),
    "usmall": ("SMALLINT UNSIGNED", [0, 1, 65535]),
    "medium": ("MEDIUMINT", [-8388608, 0, 8388607]),
    "umedium": ("MEDIUMINT UNSIGNED", [0, 1, 16777215]),
    "whole": ("INT", [-(2**31), 0, 2**31 - 1]),
    "uwhole": ("INT UNSIGNED", [0, 1, 2**32 - 1]),
    "big": ("BIGINT", [-(2**63), 0, 2**63 - 1]),
    "ubig": ("BIGINT UNSIGNED", [0, 2**63, 2**64 - 1]),
    "money": ("DECIMAL(10,2)", [Decimal("-99999999.99"), Decimal("0.00"), Decimal("99999999.99")]),
    "nineteen": ("DECIMAL(19,0)", [Decimal(-9999999999999999999), Decimal(0), Decimal(9999999999999999999)]),
    "longest": ("DECIMAL(38,10)", [Decimal("-" + "9" * 28 + "." + "9" * 10), Decimal("0E-10"), Decimal("1.5")]),
    "huge": ("DECIMAL(65,30)", [Decimal("9" * 35 + "." + "9" * 30), Decimal("-" + "1" * 35), Decimal("1E-30")]),
    "single": ("FLOAT", [0.1, 16777215.0, -3.4028234e38]),
    "twice": ("DOUBLE", [0.1, 1.7976931348623157e308, 5e-324]),
    "flag": ("BIT(1)", [0, 1, 1]),
    "bits": ("BIT(64)", [0, 2**63, 2**64 - 1]),
    "anno": ("YEAR", [1901, 2024, 2155]),
    "day": ("DATE", [date(1000, 1, 1), date(2024, 2, 29), date(9999, 12, 31)]),
    "moment": ("DATETIME(6)", [datetime(1000, 1, 1), datetime(2024, 2, 29, 23, 59, 59, 999999), datetime(9999, 12, 31, 23, 59, 59, 1)]),  # noqa: DTZ001, E501
    "stamp": ("TIMESTAMP(6) NULL", [datetime(1970, 1, 1, 0, 0, 1), datetime(2024, 3, 31, 1, 30), datetime(2038, 1, 19, 3, 14, 7, 999999)]),  # noqa: DTZ001, E501
    "spell": ("TIME(6)", ["-838:59:59.000000", "00:00:00.000001", "838:59:59.000000"]),
    "code": ("CHAR(3)", ["", "abc", "美"]),
    "text25": ("VARCHAR(25)", ["", " padded ", "it's \"quoted\", \\n\n\t🧀"]),
    "latin": ("VARCHAR(25) CHARACTER SET latin1", ["Käse", "€", "NULL"]),
    "long": ("MEDIUMTEXT", ["", "x" * 65_535, "🧀" * 16_383]),
    "choice": ("ENUM('a','it''s','')", ["a", "it's", ""]),
    "several": ("SET('x','y','z')", ["", "x,z", "x,y,z"]),
    "bytes16": ("BINARY(4)", [b"\0\0\0\0", b"\xff\xfe\0\n", b"abcd"]),
    "bytes": ("VARBINARY(20)", [b"", b"\0\xff'\"", "美".encode()]),
    "blob": ("BLOB", [b"", bytes(range(256)), b"\0"]),
}  # fmt: skip


def read(rooms, spec, window=None) -> list[dict]:
    with open_snapshot(rooms.source, spec) as snapshot:
        return [row for batch in snapshot.rows(window) for row in batch.to_pylist()]


@pytest.fixture
def carried(mysql_table):
    columns = ", ".join(f"`{name}` {kind}" for name, (kind, _) in CARRIED.items())
    rows = [[n, *(values[n] for _, values in CARRIED.values())] for n in range(3)]
    return mysql_table(f"n INT PRIMARY KEY, {columns}", rows=[*rows, [3, *[None] * len(CARRIED)]])


def test_every_value_of_every_type_arrives_as_it_was_written(rooms, carried):
    rows = read(rooms, table_spec(carried, key=["n"]))
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    for name, (kind, values) in CARRIED.items():
        found = [row[name] for row in rows]
        expected = list(values)
        if kind == "FLOAT":
            expected = [struct.unpack("f", struct.pack("f", value))[0] for value in values]
        elif name == "huge":
            found = [Decimal(value) if value is not None else None for value in found]
        assert found == [*expected, None], name


def test_the_rows_equal_a_plain_read_of_another_client(rooms, carried):
    rows = [list(row.values()) for row in read(rooms, table_spec(carried, key=["n"]))]
    columns = ["n", *(f"{name} + 0e0" if name == "single" else f"`{name}`" for name in CARRIED)]
    plain = [list(row) for row in rooms.sql(f"SELECT {', '.join(columns)} FROM {carried} ORDER BY n")]
    for number, name in enumerate(["n", *CARRIED]):
        for row in plain:
            value = row[number]
            if isinstance(value, timedelta):
                micros = value // timedelta(microseconds=1)
                seconds, fraction = divmod(abs(micros), 1_000_000)
                sign = "-" if micros < 0 else ""
                row[number] = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"
            elif name in {"flag", "bits"} and value is not None:
                row[number] = int.from_bytes(value, "big")
            elif name == "huge" and value is not None:
                row[number] = format(value, "f")
    assert rows == plain


def test_the_batches_have_the_schema_of_the_type_table_and_a_bounded_size(rooms, mysql_table, monkeypatch):
    monkeypatch.setattr(reader, "BATCH_ROWS", 7)
    table = mysql_table("id INT PRIMARY KEY, v VARCHAR(3)", rows=[(n, f"v{n}") for n in range(20)])
    with open_snapshot(rooms.source, table_spec(table, key=["id"])) as snapshot:
        batches = list(snapshot.rows())
        assert [batch.num_rows for batch in batches] == [7, 7, 6]
        assert {batch.schema for batch in batches} == {snapshot.schema}
        assert snapshot.schema == pa.schema([pa.field("id", pa.int32(), nullable=False), pa.field("v", pa.string())])


def test_rows_come_in_the_order_of_cursor_and_key_and_only_those_of_the_window(rooms, mysql_table):
    rows = [(n, f"2024-01-0{1 + n % 5} 00:00:00.{n % 3:06}") for n in range(40)]
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6)", rows=rows)
    window = Window(datetime(2024, 1, 2), datetime(2024, 1, 4, 0, 0, 0, 1))  # noqa: DTZ001 - the cursor's clock
    found = [(row["at"], row["id"]) for row in read(rooms, daily(table), window)]
    assert found == sorted(found)
    assert {number for _, number in found} == {
        number for number, text in rows if window.lower <= datetime.fromisoformat(text) < window.upper
    }
    assert all(left != right for left, right in pairwise(found))


def test_a_snapshot_does_not_see_what_commits_after_it_was_opened(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6)", rows=[(1, "2024-01-01"), (2, "2024-01-02")])
    with open_snapshot(rooms.source, daily(table)) as snapshot:
        before = snapshot.fingerprints()
        rooms.sql(f"DELETE FROM {table} WHERE id = 1", f"INSERT INTO {table} VALUES (3, '2024-01-03')")
        assert snapshot.fingerprints() == before
        assert [row["id"] for batch in snapshot.rows() for row in batch.to_pylist()] == [1, 2]


def test_a_reader_that_stops_half_way_does_not_wait_for_the_rest(rooms, mysql_table, monkeypatch):
    monkeypatch.setattr(reader, "BATCH_ROWS", 1)
    table = mysql_table("id INT PRIMARY KEY, v LONGTEXT", rows=[(n, "x" * 10_000) for n in range(300)])
    with open_snapshot(rooms.source, table_spec(table, key=["id"])) as snapshot:
        assert next(snapshot.rows()).num_rows == 1
    assert len(read(rooms, table_spec(table))) == 300


@pytest.mark.parametrize("leads_elsewhere", [False, True])
def test_a_statement_that_nobody_waits_for_is_ended_at_the_server_if_it_is_surely_ours(
    rooms, mysql_table, monkeypatch, leads_elsewhere
):
    table = mysql_table("id INT PRIMARY KEY", rows=[(n,) for n in range(3)])
    rooms.sql(f"CREATE VIEW {table}_slow AS SELECT id, SLEEP(1) AS slept FROM {table}")
    busy = f"SELECT id FROM information_schema.processlist WHERE info LIKE '%{table}_slow%' AND id <> CONNECTION_ID()"

    def read_on(snapshot):
        with suppress(pymysql.MySQLError):
            list(snapshot.rows())

    with open_snapshot(rooms.source, table_spec(f"{table}_slow")) as snapshot:
        if leads_elsewhere:
            assert snapshot._whose is not None
            monkeypatch.setattr(snapshot, "_whose", replace(snapshot._whose, server=("another", 3306)))
        thread = Thread(target=read_on, args=[snapshot])
        thread.start()
        while not (snapshot._reading and rooms.sql(busy)):
            sleep(0.01)
        snapshot.stop_reading()
        began = monotonic()
        while rooms.sql(busy):
            sleep(0.01)
        assert (monotonic() - began > 0.5) == leads_elsewhere
        thread.join()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("DATE", "0000-00-00"),
        ("DATETIME(6)", "0000-00-00 00:00:00"),
        ("DATE", "2024-00-10"),
        ("DATETIME", "2024-02-00"),
    ],
)
def test_a_date_that_is_none_stops_the_read_with_table_column_and_value(rooms, mysql_table, kind, value):
    table = mysql_table(f"id INT PRIMARY KEY, born {kind}", rows=[(1, "2024-01-01")])
    rooms.sql("SET SESSION sql_mode = ''", f"INSERT INTO {table} VALUES (2, '{value}')")
    with pytest.raises(PermanentError) as caught:
        read(rooms, table_spec(table, key=["id"]))
    assert table in caught.value.problem
    assert "'born'" in caught.value.problem
    assert value in caught.value.problem
    assert "Correct the value at the source" in caught.value.remedy


def test_a_column_that_the_yaml_names_and_the_source_lacks_is_found_before_anything_is_read(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY")
    with pytest.raises(SpecError, match=r"cursor names the column 'at'"), open_snapshot(rooms.source, daily(table)):
        pass


def test_a_type_that_cannot_be_carried_is_refused_before_anything_is_read(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, place POINT")
    with pytest.raises(SpecError, match=r"'place' has the type point"), open_snapshot(rooms.source, table_spec(table)):
        pass
