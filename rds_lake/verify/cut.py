"""Partitions in SQL: which rows of MySQL or of the warehouse belong to which partition.

The audit's own reading of the YAML, apart from the code that extracts and loads.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from rds_lake.cursors import TICKS, Bound, bound, wall_clock
from rds_lake.lake.keys import WHOLE_TABLE
from rds_lake.partitions import Unit, Window
from rds_lake.spec import Cursor, TableSpec
from rds_lake.sql import quote

Server = Literal["mysql", "redshift"]

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}

_KEYS: Mapping[Unit, str] = {
    "hour": "DATE_FORMAT({0}, '%%Y-%%m-%%dT%%H')",
    "day": "DATE_FORMAT({0}, '%%Y-%%m-%%d')",
    "week": "DATE_FORMAT({0} - INTERVAL WEEKDAY({0}) DAY, '%%Y-%%m-%%d')",
    "month": "DATE_FORMAT({0}, '%%Y-%%m')",
}


def partition_key(spec: TableSpec, server: Server) -> str:
    """The SQL of a row's partition: its key in MySQL, the start of its window in the warehouse."""
    if spec.cursor is None or spec.partitions is None:
        return f"'{WHOLE_TABLE}'"
    moment = _moment(spec.cursor, server)
    if server == "mysql":
        return _KEYS[spec.partitions.by].format(moment)
    return f"DATE_TRUNC('{spec.partitions.by}', {moment})"


def _moment(cursor: Cursor, server: Server) -> str:
    name = _name(cursor, server)
    if server == "mysql":
        if cursor.epoch is None:
            return name
        return f"(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {name} * {_MICROSECONDS[cursor.epoch]} MICROSECOND)"
    if cursor.epoch is None:
        return f"CAST({name} AS TIMESTAMP)"  # else a DATE would be cut in the session's time zone
    # Decimals, because a floating-point number would not hold every microsecond.
    seconds = f"FLOOR(CAST({name} AS DECIMAL(26, 6)) / {TICKS[cursor.epoch]})"
    return f"(TIMESTAMP '1970-01-01 00:00:00' + CAST({seconds} AS BIGINT) * INTERVAL '1 second')"


def _name(cursor: Cursor, server: Server) -> str:
    return quote(cursor.column if server == "mysql" else cursor.column.lower(), server)


def inside(
    spec: TableSpec, window: Window | None, server: Server, *, with_null: bool = False
) -> tuple[str, tuple[Bound, ...]]:
    """A condition for the rows of a window of the cursor, and its parameters.

    Args:
        spec: the table's YAML.
        window: the window; None for all rows.
        server: who is asked.
        with_null: whether rows without a cursor value belong to it.
    """
    if spec.cursor is None or window is None:
        return "1 = 1", ()
    name = _name(spec.cursor, server)
    null = f" OR {name} IS NULL" if with_null else ""
    return f"({name} >= %s AND {name} < %s{null})", tuple(bound(spec.cursor, moment) for moment in window)


def above(spec: TableSpec, window: Window | None, fence: datetime) -> tuple[str, tuple[Bound, ...]]:
    """A condition for the source's rows that no read takes yet, and its parameters.

    Args:
        spec: the table's YAML.
        window: the window of the cursor that is looked at; None for all.
        fence: the fence on the cursor's clock.
    """
    if spec.cursor is None:
        return "1 = 0", ()
    name, least = _name(spec.cursor, "mysql"), max(fence, window.lower) if window else fence
    if window is None:
        return f"{name} >= %s", (bound(spec.cursor, least),)
    return f"{name} >= %s AND {name} < %s", (bound(spec.cursor, least), bound(spec.cursor, window.upper))


def outside(spec: TableSpec) -> tuple[str, tuple[Bound, ...]]:
    """A condition for the warehouse's rows that no partition holds, and its parameters."""
    if spec.cursor is None or spec.partitioning is None:
        return "1 = 0", ()
    name = _name(spec.cursor, "redshift")
    null = f" OR {name} IS NULL" if home_of_null(spec) is None else ""
    return f"{name} < %s{null}", (bound(spec.cursor, spec.partitioning.start),)


def home_of_null(spec: TableSpec) -> str | None:
    """The partition that rows without a cursor value belong to, None when they are left out."""
    if spec.cursor is None or spec.partitioning is None or spec.cursor.nulls != "include":
        return None
    return spec.partitioning.key(spec.partitioning.start)


def in_cursor_zone(spec: TableSpec, moment: datetime) -> datetime:
    """An instant (UTC without zone) as the cursor's wall clock shows it."""
    return wall_clock(moment, spec.cursor.zone) if spec.cursor and spec.cursor.epoch is None else moment
