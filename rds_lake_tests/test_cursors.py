"""Cursors of every kind, NULL, ties, boundaries, clocks that are set back: through all rooms up to the warehouse."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from chain import Chain
from hypothesis import given
from hypothesis import strategies as st
from rooms import Rooms, bounded, daily, mysql_table, record_batch, rooms, table_spec

from rds_lake.checks import raw_result
from rds_lake.cursors import EPOCH, TICKS, bound, key_of_cut, key_of_start, mysql_cut, wall_clock, warehouse_start
from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract import reader
from rds_lake.extract import snapshot as snapshots
from rds_lake.extract.contract import AgreedCursor
from rds_lake.extract.cursor_type import check_type
from rds_lake.extract.fence import Fence
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake.agreement import agree, agreed_to_json, read_agreed
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import by_partition, land
from rds_lake.partitions import Partitioning
from rds_lake.plan import observe
from rds_lake.spec import Cursor, TableSpec
from rds_lake.warehouse.load import load

__all__ = ["mysql_table", "rooms"]

Make = Callable[..., str]
FIRST = "2024-01-01"
SECOND = timedelta(seconds=1)
TICK = timedelta(microseconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


START = at(FIRST)

# name: (the MySQL type, cursor.epoch, the finest step that the type tells apart)
KINDS: dict[str, tuple[str, str | None, timedelta]] = {
    "date": ("DATE", None, timedelta(days=1)),
    "datetime": ("DATETIME", None, SECOND),
    "datetime3": ("DATETIME(3)", None, timedelta(milliseconds=1)),
    "datetime6": ("DATETIME(6)", None, TICK),
    "timestamp": ("TIMESTAMP NULL", None, SECOND),
    "timestamp6": ("TIMESTAMP(6) NULL", None, TICK),
    "seconds": ("INT", "s", SECOND),
    "unsigned seconds": ("INT UNSIGNED", "s", SECOND),
    "milliseconds": ("BIGINT", "ms", timedelta(milliseconds=1)),
    "microseconds": ("BIGINT", "us", TICK),
    "unsigned microseconds": ("BIGINT UNSIGNED", "us", TICK),
}


def cursor_of(kind: str, **more: Any) -> dict[str, Any]:
    epoch = KINDS[kind][1]
    return {"column": "at", **({"epoch": epoch} if epoch else {}), **more}


def value(kind: str, moment: datetime | None) -> datetime | date | int | None:
    """What a row of this kind of cursor holds for a moment, cut to what the type tells apart."""
    _, epoch, step = KINDS[kind]
    if moment is None:
        return None
    if epoch:
        return (moment - EPOCH) // step
    whole = EPOCH + (moment - EPOCH) // step * step
    return whole.date() if kind == "date" else whole


class Table(Chain):
    """A source table of some kind of cursor, with a key and a text."""

    @classmethod
    def make(cls, rooms: Rooms, mysql_table: Make, kind: str, rows: Sequence[tuple[int, Any]], **more: Any) -> "Table":
        column = f"id INT PRIMARY KEY, at {KINDS[kind][0]}, v VARCHAR(40), KEY (at)"
        table = mysql_table(column, rows=[(key, value(kind, moment), str(value(kind, moment))) for key, moment in rows])
        given = {"cursor": cursor_of(kind), **more}
        found = cls(rooms, daily(table, FIRST, **given))
        found.kind = kind
        return found

    kind: str = ""

    def put(self, key: int, moment: datetime | None, text: str | None = None) -> None:
        """Write a row; its text follows its cursor, unless the cursor is sure to change."""
        held = value(self.kind, moment)
        with self.rooms.mysql() as connection, connection.cursor() as cursor:
            cursor.execute(f"REPLACE INTO {self.spec.source_name} VALUES (%s, %s, %s)", (key, held, text or str(held)))

    def drop(self, key: int) -> None:
        self.rooms.sql(f"DELETE FROM {self.spec.source_name} WHERE id = {key}")


# --- the arithmetic --------------------------------------------------------------------------------------------------

moments = st.datetimes(at("1955-01-01"), at("2105-01-01"))
edges = st.builds(
    lambda day, ticks: START + timedelta(days=day, microseconds=ticks), st.integers(-3, 3), st.integers(-2, 2)
)


@bounded(300)
@given(st.sampled_from(sorted(TICKS)), moments | edges, moments | edges)
def test_an_integer_bound_divides_integers_exactly_as_the_moment_divides_time(epoch, moment, other):
    cursor = Cursor(column="at", epoch=epoch)
    ticks = (other - EPOCH) // TICK * TICKS[epoch] // 1_000_000  # what an application writes at that moment
    exact = EPOCH + timedelta(microseconds=ticks * 1_000_000 // TICKS[epoch])
    assert (ticks < bound(cursor, moment)) == (exact < moment)
    assert bound(cursor, EPOCH) == 0


@bounded(12)
@given(st.sampled_from(["hour", "day", "week", "month"]), st.lists(moments | edges, min_size=1, max_size=12))
def test_mysql_the_warehouse_and_python_cut_every_kind_of_cursor_alike(rooms, unit, given_moments):
    for kind, (_, epoch, _) in KINDS.items():
        values = [value(kind, moment) for moment in given_moments]
        cursor = {"column": "at", **({"epoch": epoch} if epoch else {})}
        spec = table_spec("t", cursor=cursor, partitions={"by": unit, "start": "1950-01-01"})
        partitioning = spec.partitioning
        assert partitioning
        expected = [
            partitioning.key(v if isinstance(v, datetime) else datetime.combine(v, START.time()))
            if isinstance(v, date)
            else partitioning.key(EPOCH + timedelta(microseconds=v * 1_000_000 // TICKS[str(epoch)]))
            for v in values
            if v is not None
        ]
        typed = "%s" if epoch else "CAST(%s AS DATE)" if kind == "date" else "CAST(%s AS DATETIME(6))"
        rows = " UNION ALL ".join(f"SELECT {n} AS n, {typed} AS at" for n in range(len(values)))
        with rooms.mysql() as connection, connection.cursor() as asked:
            asked.execute(f"SELECT {', '.join(mysql_cut(spec))} FROM ({rows}) AS v ORDER BY n", values)
            assert [key_of_cut(spec, *row) for row in asked.fetchall()] == expected, kind
        sent = "BIGINT" if epoch else "DATE" if kind == "date" else "TIMESTAMP"
        rows = " UNION ALL ".join(f"SELECT {n} AS n, CAST(%s AS {sent}) AS at" for n in range(len(values)))
        asked = f"SELECT {warehouse_start(spec, 'at')} FROM ({rows}) AS v ORDER BY n"
        found = [key_of_start(spec, start) for (start,) in rooms.ask(asked, tuple(values))]
        assert found == expected, kind


SCHEMAS = {
    None: arrow_schema((Column("id", "int(11)", nullable=False), Column("at", "datetime(6)"))),
    "us": arrow_schema((Column("id", "int(11)", nullable=False), Column("at", "bigint(20) unsigned"))),
    "s": arrow_schema((Column("id", "int(11)", nullable=False), Column("at", "int(11)"))),
}
inside = st.integers(0, 40 * 24 * 3600 * 10).map(lambda tenths: START + timedelta(seconds=tenths / 10))


@bounded(200)
@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from([None, "us", "s"]),
    st.lists(st.none() | inside | edges.filter(lambda moment: moment >= START), max_size=50),
    st.lists(st.integers(0, 50), max_size=10),
)
def test_cutting_a_stream_puts_every_row_into_exactly_one_partition_and_null_into_the_first(unit, epoch, given, cuts):
    partitioning = Partitioning.of(unit, date(2024, 1, 1))
    cursor = Cursor(column="at", epoch=epoch)
    ordered: list[Any] = sorted(m for m in given if m is not None)
    values = [m if epoch is None else (m - EPOCH) // TICK * TICKS[epoch] // 1_000_000 for m in ordered]
    rows = list(enumerate([None] * given.count(None) + values))
    limits = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [rows[left:right] for left, right in pairwise(limits)]
    found: dict[str, list[Any]] = {}
    for partition, parts in by_partition(
        [record_batch(piece, SCHEMAS[epoch]) for piece in pieces if piece], cursor, partitioning
    ):
        assert partition not in found
        found[partition] = [tuple(row.values()) for part in parts for row in part.to_pylist()]
    assert [row for part in found.values() for row in part] == rows
    for partition, part in found.items():
        window = partitioning.window(partition)
        for _, held in part:
            if held is None:
                assert partition == partitioning.key(partitioning.start)
            else:
                assert bound(cursor, window.lower) <= held < bound(cursor, window.upper)


# --- every kind, through the whole chain -----------------------------------------------------------------------------


def first_rows() -> list[tuple[int, datetime | None]]:
    """NULL, ties, both sides of a boundary, and a day without rows."""
    tie = at("2024-01-02 12:34:56.789012")
    return [
        (1, None),
        (2, None),
        (3, START),
        (4, at("2024-01-01 23:59:59.999999")),
        (5, at("2024-01-02")),
        *((10 + n, tie) for n in range(5)),
        (20, at("2024-01-04 00:00:00.000001")),
    ]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_cursor_of_any_kind_brings_every_row_once_and_heals_what_changes(rooms, mysql_table, kind):
    table = Table.make(rooms, mysql_table, kind, first_rows())
    assert table.sync(together=True) == ["2024-01-04", "2024-01-02", "2024-01-01"]
    table.assert_in_step()
    assert table.loaded() == {"2024-01-01": 4, "2024-01-02": 6, "2024-01-04": 1}
    assert table.plan().nothing

    table.put(1, at("2024-01-02 01:00:00.000001"), "was NULL")
    table.put(10, None, "is NULL")
    table.put(3, at("2024-01-06 05:00:00"), "moved on")
    table.put(20, at("2024-01-02 12:34:56.789013"), "moved back")
    table.drop(11)
    table.put(30, at("2023-12-31 23:59:59.999999"), "before the first partition")
    table.sync(together=True)
    inside = "id <> 30"
    table.assert_in_step(inside)
    assert table.plan().nothing
    assert table.seen
    assert (table.seen.before_start, table.seen.without_cursor) == (1, 0)


@pytest.mark.parametrize("kind", ["datetime6", "microseconds"])
def test_one_microsecond_decides_on_which_side_of_a_boundary_a_row_lies(rooms, mysql_table, kind):
    rows = [(n, at("2024-01-02") + n * TICK) for n in range(-2, 3)]
    table = Table.make(rooms, mysql_table, kind, rows)
    table.sync(together=True)
    table.assert_in_step()
    assert table.loaded() == {"2024-01-01": 2, "2024-01-02": 3}
    table.put(-1, at("2024-01-02"), "one microsecond later")
    assert table.sync() == ["2024-01-02", "2024-01-01"]
    table.assert_in_step()


@pytest.mark.parametrize("unit", ["hour", "week", "month"])
@pytest.mark.parametrize("kind", ["date", "milliseconds"])
def test_a_date_and_an_integer_can_be_cut_by_any_unit(rooms, mysql_table, kind, unit):
    table = Table.make(rooms, mysql_table, kind, first_rows(), partitions={"by": unit, "start": FIRST})
    table.sync(together=True)
    table.assert_in_step()


def test_rows_of_today_with_a_date_for_a_cursor_do_not_wait_for_tomorrow(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATE, KEY (at)")
    rooms.sql(f"INSERT INTO {table} VALUES (1, UTC_DATE()), (2, UTC_DATE() - INTERVAL 1 DAY)")
    for unit in ("hour", "day"):
        spec = daily(table, FIRST, partitions={"by": unit, "start": FIRST})
        with open_snapshot(rooms.source, spec) as snapshot:
            assert sum(int(text.split("-")[0]) for text in snapshot.fingerprints().values()) == 2
            assert sum(batch.num_rows for batch in snapshot.rows()) == 2


def test_a_window_read_again_brings_the_same_rows_whatever_ties_share_a_batch_end(rooms, mysql_table, monkeypatch):
    monkeypatch.setattr(reader, "BATCH_ROWS", 50)
    table = Table.make(rooms, mysql_table, "datetime", [(n, at("2024-01-03 10:00:00")) for n in range(1, 348)])
    assert table.sync() == ["2024-01-03", FIRST]  # the first one takes the rows without a value, had there been any
    table.assert_in_step()
    assert table.held() == {"2024-01-03": 347, FIRST: 0}


# --- NULL ------------------------------------------------------------------------------------------------------------

DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_cursor_that_goes_from_null_to_a_value_and_back_ends_once_in_every_order_of_loads(rooms, mysql_table, order):
    table = Table.make(rooms, mysql_table, "datetime6", [(n, at(day)) for n, day in enumerate(DAYS)] + [(9, None)])

    def shuffled(partitions: Sequence[str]) -> Sequence[str]:
        return sorted(partitions, key=lambda partition: order[DAYS.index(partition)])

    table.sync(shuffled)
    for moment in (at("2024-01-02 05:00:00"), None, at("2024-01-03 05:00:00"), None):
        table.put(9, moment, f"{moment}")
        assert len(table.sync(shuffled)) == 2
        table.assert_in_step()
    assert table.plan().nothing


def test_a_value_is_newer_than_null_even_before_the_first_partition_is_loaded_again(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "datetime6", [(1, at(FIRST)), (9, None)])
    table.sync()
    stale = table.manifests.require("staging", FIRST).manifest
    table.put(9, at("2024-01-03"))
    with open_snapshot(rooms.source, table.spec) as snapshot:
        land(snapshot, rooms.store, [DAYS[2]])
    table.split([DAYS[2]])
    assert table.load([DAYS[2]]) == {DAYS[2]: 1}
    assert table.warehouse() == table.source()
    assert table.loaded() == table.held() == {FIRST: 1, DAYS[2]: 1}
    assert load(rooms.warehouse, rooms.store, table.spec, [stale]).rows == {FIRST: 1}
    assert table.warehouse() == table.source()


def test_null_cursors_that_are_excluded_are_left_out_and_counted(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "datetime6", first_rows(), cursor=cursor_of("datetime6", nulls="exclude"))
    table.sync(together=True)
    table.assert_in_step("at IS NOT NULL")
    assert table.seen
    assert (table.seen.before_start, table.seen.without_cursor) == (0, 2)
    found = raw_result(table.spec, 0, 2)
    assert not found.passed
    assert found.severity.value == "WARN", "they are left out on purpose"
    assert found.description == (
        "2 rows have no at: left out, as cursor.nulls says (exclude). Fill at at the source, or set "
        f"cursor.nulls to include in defs/{table.spec.table}/defs.yaml."
    )


def test_excluding_null_cursors_later_takes_their_rows_out_of_lake_and_warehouse(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "microseconds", first_rows())
    table.sync(together=True)
    assert len(table.warehouse()) == len(first_rows())
    table.spec = daily(table.spec.table, FIRST, cursor=cursor_of("microseconds", nulls="exclude"))
    assert table.sync() == [FIRST]
    table.assert_in_step("at IS NOT NULL")
    table.spec = daily(table.spec.table, FIRST, cursor=cursor_of("microseconds"))
    assert table.sync() == [FIRST]
    table.assert_in_step()


@pytest.mark.parametrize("key", [["id"], []])
def test_null_cursors_can_be_an_error_that_names_one_of_the_rows(rooms, mysql_table, key):
    given = {"cursor": cursor_of("datetime6", nulls="raise"), "key": key}
    table = Table.make(rooms, mysql_table, "datetime6", first_rows(), **given)
    with pytest.raises(SpecError) as caught:
        table.sync()
    example = ", one of them the row with id = 1." if key else "."
    name = table.spec.table
    assert caught.value.problem == f"{name}: 2 rows have no value in the cursor 'at'{example}"
    assert caught.value.remedy == (
        "Fill it at the source, or set cursor.nulls to include (they go with the first partition) or exclude (they are "
        f"left out and reported) in defs/{name}/defs.yaml."
    )
    assert rooms.keys(f"{name}/") == []
    rooms.sql(f"UPDATE {name} SET at = '2024-01-03' WHERE at IS NULL")
    table.sync(together=True)
    table.assert_in_step()


def test_the_row_without_a_cursor_that_is_named_shows_no_personal_value(rooms, mysql_table):
    name = mysql_table("email VARCHAR(30) PRIMARY KEY, at DATETIME", rows=[("ada@example.com", None)])
    given = {
        "cursor": cursor_of("datetime6", nulls="raise"),
        "key": ["email"],
        "columns": {"email": {"personal": True}},
    }
    with pytest.raises(SpecError, match=r"one of them the row with email = a personal value\. Fill it"):
        Chain(rooms, daily(name, FIRST, **given)).sync()


def test_rows_without_a_cursor_are_the_newest_in_nothing(rooms, mysql_table):
    rows = [(1, None, "older"), (1, "2024-01-02", "newer"), (2, None, "a"), (2, None, "b")]
    name = mysql_table("id INT, at DATETIME, v VARCHAR(9)", rows=rows)
    table = Chain(rooms, daily(name, FIRST))
    table.sync(together=True)
    found = {row[0]: row[2] for row in table.warehouse()}
    assert found[1] == "newer"
    assert found.keys() == {1, 2}
    assert table.held() == table.loaded()


# --- what cannot be a cursor -----------------------------------------------------------------------------------------

AN_ID = "An id is no cursor, because a row keeps it when it changes: name a time column,"
FULL = "or leave out cursor and partitions, which extracts the table in full."
NO_TIME = f"name a DATE, DATETIME or TIMESTAMP column, or an integer column with cursor.epoch; {FULL}"


@pytest.mark.parametrize(
    ("kind", "cursor", "problem", "remedy"),
    [
        (
            "bigint(20)",
            {},
            "is an integer (bigint(20)), and the YAML does not say what it counts.",
            f"If it counts the time since 1970, set cursor.epoch to s, ms or us in defs/t/defs.yaml. {AN_ID} {FULL}",
        ),
        (
            "datetime(6)",
            {"epoch": "ms"},
            "has the type datetime(6), but cursor.epoch (ms) is for integers.",
            "Take cursor.epoch out of defs/t/defs.yaml.",
        ),
        (
            "timestamp",
            {"timezone": "Europe/Berlin"},
            "is a TIMESTAMP, which is read in UTC, but cursor.timezone is Europe/Berlin.",
            "Take cursor.timezone out of defs/t/defs.yaml.",
        ),
        *(
            (kind, {}, f"has the type {kind}, which is no moment in time.", f"In defs/t/defs.yaml {NO_TIME}")
            for kind in ("varchar(19)", "double", "decimal(16,6)", "time(6)", "year(4)", "bit(1)")
        ),
    ],
)
def test_a_column_that_cannot_be_the_cursor_is_refused_with_what_to_do(kind, cursor, problem, remedy):
    spec = table_spec("t", cursor={"column": "at", **cursor}, partitions={"start": FIRST})
    with pytest.raises(SpecError) as caught:
        check_type(spec, [Column("id", "int(11)"), Column("at", kind)])
    assert (caught.value.problem, caught.value.remedy) == (f"t: the cursor 'at' {problem}", remedy)


def test_a_cursor_is_not_carried_in_another_way():
    with pytest.raises(
        ValueError, match=r"columns\.at is the cursor, which is read as its own type: take its 'as' out"
    ):
        daily("t", columns={"at": {"as": "string"}})


def test_the_type_of_the_cursor_is_looked_at_before_anything_is_read(rooms, mysql_table):
    table = mysql_table("id INT AUTO_INCREMENT PRIMARY KEY")
    with pytest.raises(SpecError, match="An id is no cursor"):
        observe(rooms.source, rooms.store, daily(table, cursor={"column": "id"}))


def test_an_epoch_has_no_time_zone():
    with pytest.raises(ValueError, match="counts from 1970-01-01 00:00 UTC in every zone: leave timezone out"):
        Cursor(column="at", epoch="s", timezone="Europe/Berlin")


def test_a_cursor_on_a_day_that_the_calendar_lacks_is_named(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME")
    rooms.sql("SET SESSION sql_mode = ''", f"INSERT INTO {table} VALUES (1, '2024-03-00 10:00:00')")
    with pytest.raises(PermanentError, match=r"has a cursor 'at' in 2024-03-00, which the calendar does not have"):
        observe(rooms.source, rooms.store, daily(table))


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["datetime6", "milliseconds", "date"])
def test_rows_in_the_far_future_are_reported_and_the_others_come(rooms, mysql_table, kind):
    table = Table.make(rooms, mysql_table, kind, [(1, at("2024-01-02")), (2, at("2199-12-31"))])
    soon = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=20 if kind != "date" else 0)
    table.put(3, soon)
    table.sync(together=True)
    assert table.seen
    assert table.seen.in_future == 1
    assert {row[0] for row in table.warehouse()} - {3} == {1}
    found = raw_result(table.spec, 0, 0, table.seen.in_future)
    assert (found.passed, found.severity.value) == (False, "WARN")
    assert found.description == (
        "1 row has its at more than a day ahead of the source's clock and waits for it: a date that stands for "
        "'never', a wrong clock, another time zone than UTC, or another cursor.epoch."
    )
    assert raw_result(table.spec, 1, 0, 1).severity.value == "ERROR"


def test_nothing_is_lost_when_the_sources_clock_is_set_back_an_hour(rooms, mysql_table):
    table = Chain(
        rooms,
        daily(
            mysql_table("id INT PRIMARY KEY, at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), KEY (at)"),
            FIRST,
            partitions={"by": "hour", "start": FIRST},
        ),
    )
    clock = at("2024-05-05 10:30:00").replace(tzinfo=UTC).timestamp()
    number = 0
    for step in (0, 20 * 60, 40 * 60, -3600 + 40 * 60, -3600 + 50 * 60, 70 * 60):
        writes = []
        for _ in range(3):
            number += 1
            writes.append(f"INSERT INTO {table.spec.table} (id) VALUES ({number})")
        rooms.sql(f"SET SESSION timestamp = {clock + step}", *writes)
        table.sync()
        table.assert_in_step()
    assert table.held() == {"2024-05-05T10": 12, "2024-05-05T11": 6}


BERLIN = ZoneInfo("Europe/Berlin")
CHANGES = [at("2024-03-31 01:00:00"), at("2024-10-27 01:00:00")]
"""When the clocks of Berlin change, in UTC."""


@bounded(300)
@given(
    st.sampled_from(
        [
            *(("Europe/Berlin", change) for change in CHANGES),
            ("America/New_York", at("2024-11-03 06:00:00")),
            ("Australia/Lord_Howe", at("2024-04-06 15:00:00")),  # by half an hour
            ("Asia/Kolkata", CHANGES[1]),
        ]
    ),
    st.integers(-90 * 60, 90 * 60),
    st.integers(0, 3 * 3600),
)
def test_no_later_moment_is_shown_below_the_fence_and_the_fence_never_moves_back(zone_and_change, off, seconds):
    zone, change = zone_and_change
    fence, later = change + off * SECOND, seconds * SECOND
    known = ZoneInfo(zone)
    held = wall_clock(fence, known)
    shown = (fence + later).replace(tzinfo=UTC).astimezone(known).replace(tzinfo=None)
    assert held <= shown
    assert held <= wall_clock(fence + later, known)
    assert shown - held <= later + timedelta(hours=1)


def test_the_fence_waits_while_clocks_are_about_to_be_set_back():
    shown = [wall_clock(at(f"2024-10-27 {text}"), BERLIN) for text in ("00:00:00", "00:30:00", "00:59:59", "01:10:00")]
    assert shown == [at(f"2024-10-27 {text}") for text in ("02:00:00", "02:00:00", "02:00:00", "02:10:00")]
    assert wall_clock(at("2024-10-26 23:59:59"), BERLIN) == at("2024-10-27 01:59:59")
    assert wall_clock(at("2024-03-31 01:00:00"), BERLIN) == at("2024-03-31 03:00:00")


@pytest.mark.parametrize("change", CHANGES, ids=["spring", "autumn"])
@pytest.mark.parametrize("unit", ["hour", "day"])
def test_a_wall_clock_that_changes_with_the_seasons_loses_and_doubles_nothing(
    rooms, mysql_table, monkeypatch, change, unit
):
    name = mysql_table("id INT PRIMARY KEY, at DATETIME, KEY (at)")
    spec = daily(
        name,
        "2024-03-01",
        cursor={"column": "at", "timezone": "Europe/Berlin"},
        partitions={"by": unit, "start": "2024-03-01"},
    )
    table = Chain(rooms, spec)
    landed = 0
    for step in range(-8, 12, 2):  # quarters of an hour around the change
        now = change + step * timedelta(minutes=15)
        wall = now.replace(tzinfo=UTC).astimezone(BERLIN).replace(tzinfo=None)
        rooms.fill(name, [(100 + step, wall), (200 + step, wall + SECOND)])
        fence = Fence(at=now + 5 * SECOND, held_back_by=timedelta(), sees_transactions=True)
        monkeypatch.setattr(snapshots, "read_fence", lambda *_, fence=fence, **__: fence)
        table.sync(together=True)
        held = sum(table.held().values())
        assert held >= landed, "what was loaded is never taken back"
        landed = held
    table.assert_in_step()
    assert landed == 20


# --- anything at all -------------------------------------------------------------------------------------------------

some_moment = st.sampled_from(
    [
        None,
        None,
        *(START + timedelta(days=day, microseconds=ticks) for day in range(4) for ticks in (0, 1, 86_399_999_999)),
    ]
)
changes = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.just("drop") | some_moment), min_size=1, max_size=5),
    min_size=1,
    max_size=2,
)


@pytest.mark.slow
@bounded(6)
@given(
    st.sampled_from(["datetime6", "microseconds", "date"]),
    st.lists(some_moment, min_size=1, max_size=6),
    changes,
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_after_any_moves_deletes_and_updates_and_loads_in_any_order_the_warehouse_equals_the_source(
    rooms, mysql_table, kind, rows, steps, together, chance
):
    table = Table.make(rooms, mysql_table, kind, list(enumerate(rows, 1)))
    shuffle = _shuffler(chance)
    table.sync(shuffle, together=together)
    table.assert_in_step()
    for step in steps:
        for key, moment in step:
            if moment == "drop":
                table.drop(key)
            else:
                table.put(key, moment)
        table.sync(shuffle, together=together)
        table.assert_in_step()
    assert table.plan().nothing


def _shuffler(chance: random.Random) -> Callable[[Sequence[str]], Sequence[str]]:
    def shuffle(partitions: Sequence[str]) -> Sequence[str]:
        shuffled = sorted(partitions)
        chance.shuffle(shuffled)
        return shuffled

    return shuffle


# --- a changed layout ------------------------------------------------------------------------------------------------

THREE = "the lake holds the partition 2024-01-01 and 2 more, which a table that is cut"
CHANGED = "'partitions' or 'cursor' was changed after rows had been landed."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"partitions": {"by": "month", "start": FIRST}},
            f"{THREE} by month from 2024-01-01 does not have",
        ),
        (
            {"partitions": {"by": "day", "start": "2024-01-02"}},
            "the lake holds the partition 2024-01-01, which a table that is cut by day from 2024-01-02 does not have",
        ),
        (
            {"partitions": {"by": "day", "start": FIRST, "column": "day"}},
            "the lake's folders are called 'at_day=', the YAML makes 'day='",
        ),
        (
            {"cursor": {"column": "other"}},
            "the lake's folders are called 'at_day=', the YAML makes 'other_day='",
        ),
        (
            {"cursor": None, "partitions": None},
            f"{THREE} not at all does not have",
        ),
    ],
    ids=["unit", "later start", "folder", "cursor", "none"],
)
def test_a_layout_that_is_changed_over_landed_rows_is_refused_before_anything_happens(
    rooms, mysql_table, change, problem
):
    rows = [(n, f"2024-01-0{n}", f"2024-01-0{n}") for n in (1, 2, 4)]
    name = mysql_table("id INT PRIMARY KEY, at DATETIME, other DATETIME", rows=rows)
    table = Chain(rooms, daily(name, FIRST))
    table.sync(together=True)
    before = rooms.keys(f"{name}/"), table.warehouse(), table.loaded()
    table.spec = daily(name, FIRST, **change)
    table.spec = TableSpec.model_validate(table.spec.model_dump(by_alias=True))
    with pytest.raises(SpecError) as caught:
        table.sync()
    assert caught.value.problem == f"{name}: {problem}: {CHANGED}"
    assert caught.value.remedy == (
        f"Put it back in defs/{name}/defs.yaml, or start afresh under another name ('table', 'warehouse.table')."
    )
    assert (rooms.keys(f"{name}/"), table.warehouse(), table.loaded()) == before
    table.spec = daily(name, FIRST)
    assert table.plan().nothing


def land_first(table: Chain) -> None:
    with open_snapshot(table.rooms.source, table.spec) as snapshot:
        land(snapshot, table.rooms.store, [FIRST])


@pytest.mark.parametrize(
    ("cursor", "said"),
    [
        ({"column": "at", "epoch": "s", "timezone": "UTC"}, None),
        ({"column": "at", "epoch": "s", "nulls": "exclude", "lag_seconds": 5, "lookback_days": 9}, None),
        ({"column": "at", "epoch": "ms"}, "'at' (epoch ms)"),
        ({"column": "other", "epoch": "s"}, "'other' (epoch s)"),
        ({"column": "moment"}, "'moment' (UTC)"),
        ({"column": "moment", "timezone": "Europe/Berlin"}, "'moment' (Europe/Berlin)"),
    ],
)
def test_another_cursor_over_landed_rows_is_refused_before_anything_happens(rooms, mysql_table, cursor, said):
    columns = "id INT PRIMARY KEY, at BIGINT NOT NULL, other BIGINT NOT NULL, moment DATETIME NOT NULL, KEY (at)"
    rows = [(1, 1_704_110_400, 1_704_110_400, "2024-01-01 12:00:00")]
    cut = {"by": "day", "start": FIRST, "column": "day"}
    table = Chain(rooms, daily(mysql_table(columns, rows=rows), cursor={"column": "at", "epoch": "s"}, partitions=cut))
    land_first(table)
    name, before = table.spec.table, rooms.keys(f"{table.spec.table}/")
    table.spec = daily(name, cursor=cursor, partitions=cut)
    if said is None:
        land_first(table)
        return
    for refused in (Chain.plan, land_first):
        with pytest.raises(SpecError) as caught:
            refused(table)
        assert str(caught.value) == (
            f"{name}: rows have landed by the cursor 'at' (epoch s), the YAML has the cursor {said} now: 'cursor' was "
            f"changed after rows had been landed. Nothing was landed. Put it back in defs/{name}/defs.yaml, or start "
            "afresh under another name ('table', 'warehouse.table')."
        )
    assert rooms.keys(f"{name}/") == before


def test_a_cursor_may_change_until_rows_have_landed_and_an_earlier_version_told_of_none(rooms, mysql_table):
    name = mysql_table("id INT PRIMARY KEY, at DATETIME, KEY (at)", rows=[(1, "2024-01-01 12:00:00")])
    berlin, utc = (
        Chain(rooms, daily(name, cursor={"column": "at", "timezone": zone})) for zone in ("Europe/Berlin", "UTC")
    )
    for table in (berlin, utc):  # nothing has landed: a first landing that failed leaves its agreement behind
        with open_snapshot(rooms.source, table.spec) as snapshot:
            agree(rooms.store, table.spec, snapshot.table)
    land_first(utc)
    keys = TableKeys.of(utc.spec)
    stored = read_agreed(rooms.store, keys)
    assert stored is not None
    assert stored.agreed.cursor == AgreedCursor("at", "UTC")
    rooms.store.put(keys.schema, agreed_to_json(replace(stored.agreed, cursor=None)))
    land_first(utc)
    again = read_agreed(rooms.store, keys)
    assert again is not None
    assert again.agreed == stored.agreed
    with pytest.raises(SpecError, match="rows have landed by the cursor 'at'"):
        land_first(berlin)


@pytest.mark.parametrize("nulls", ["include", "exclude"])
def test_a_row_without_a_value_leaves_with_the_first_partition_however_early_that_begins_now(rooms, mysql_table, nulls):
    table = Table.make(
        rooms, mysql_table, "datetime", [(1, None), (2, at("2024-01-01 10:00:00")), (3, at("2024-01-02"))]
    )
    table.sync()
    table.assert_in_step()
    if nulls == "include":
        rooms.sql(f"DELETE FROM {table.spec.table} WHERE id = 1")
    table.spec = daily(table.spec.table, "2023-12-01", cursor={"column": "at", "nulls": nulls})
    assert table.sync() == ["2024-01-01", "2023-12-01"]
    table.assert_in_step("at IS NOT NULL")
    assert table.plan().nothing


def test_an_empty_table_has_no_first_partition(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "datetime", [])
    assert table.plan().nothing


def test_a_ledger_of_other_partitions_is_refused_even_when_the_lake_is_empty(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "datetime", [(1, at("2024-01-02"))])
    table.sync()
    rooms.store.delete(rooms.keys(f"{table.spec.table}/"))
    table.spec = daily(table.spec.table, "2024-01-03")
    with pytest.raises(SpecError, match=f"the warehouse's ledger holds the partition {FIRST} and 1 more, which"):
        table.sync()


def test_an_earlier_start_is_no_change_of_the_layout(rooms, mysql_table):
    table = Table.make(rooms, mysql_table, "datetime", [(1, at("2024-01-02")), (2, None), (3, at("2023-12-30"))])
    table.sync(together=True)
    assert Counter(row[0] for row in table.warehouse()) == Counter([1, 2])
    table.spec = daily(table.spec.table, "2023-12-30")
    table.sync()
    table.assert_in_step()
    assert table.held() == {"2023-12-30": 2, "2024-01-01": 0, "2024-01-02": 1}
