"""The cursor: what a window of time means for the column that a table is cut by, in MySQL and in the warehouse.

A cursor counts time as DATE, DATETIME or TIMESTAMP, or as an integer since 1970 (`cursor.epoch`). A row without a value
belongs to the first partition, unless the YAML says otherwise: both databases sort and count it apart, so the rule
stands here once. Integers are computed with integers only; no bound goes through a floating-point number.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from rds_lake.partitions import Partitioning, Window
from rds_lake.spec import Cursor, TableSpec
from rds_lake.sql import literal, quote

Bound = datetime | int
"""A moment as the cursor has it: a wall-clock time, or an integer since 1970."""

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall-clock time, as all windows are
TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""How many of a unit a second has."""

FUTURE = timedelta(days=1)
"""How far above the fence a row must lie to be reported: more than an open transaction would explain."""

_MICROSECOND = timedelta(microseconds=1)


def cut(spec: TableSpec) -> tuple[Cursor, Partitioning]:
    """A table's cursor and partitions.

    Raises:
        ValueError: it has none.
    """
    if spec.cursor is None or spec.partitioning is None:
        raise ValueError(f"{spec.table} has no cursor")
    return spec.cursor, spec.partitioning


def bound(cursor: Cursor, moment: datetime) -> Bound:
    """The least cursor value that is not before a moment."""
    if cursor.epoch is None:
        return moment
    microseconds = (moment - EPOCH) // _MICROSECOND
    return -(-microseconds * TICKS[cursor.epoch] // TICKS["us"])


def moment_of(cursor: Cursor, value: Bound) -> datetime:
    """The moment that a cursor value stands for."""
    if isinstance(value, datetime):
        return value
    return EPOCH + timedelta(microseconds=value * TICKS["us"] // TICKS[cursor.epoch or "us"])


def wall_clock(fence: datetime, zone: ZoneInfo) -> datetime:
    """The fence on a zone's clocks: no later moment shows an earlier time there.

    In the hour before clocks are set back, every time shown will be shown once more: the fence waits at the first of
    them. It would otherwise move back with the clocks, and what was landed with it.

    Args:
        fence: the moment, UTC without zone.
        zone: the cursor's time zone.
    """
    moment = fence.replace(tzinfo=UTC)
    local = moment.astimezone(zone)
    shown = local.replace(tzinfo=None)
    again = local.replace(fold=1).utcoffset()
    now = local.utcoffset()
    if local.fold or again is None or now is None or again >= now:
        return shown
    before, after = moment, moment + (now - again)
    while after - before > _MICROSECOND:
        middle = before + (after - before) // 2
        before, after = (middle, after) if middle.astimezone(zone).utcoffset() == now else (before, middle)
    return after.astimezone(zone).replace(tzinfo=None)


def holds_nulls(spec: TableSpec, window: Window) -> bool:
    """Whether rows without a cursor value are read with a window: with the one that the first partition begins."""
    cursor, partitioning = cut(spec)
    return cursor.nulls == "include" and window.lower <= partitioning.start < window.upper


def within(name: str, *, nulls: bool) -> str:
    """The condition that a column lies in a window; parameters: lower, upper.

    Args:
        name: the column, quoted.
        nulls: whether rows without a value belong to it.
    """
    inside = f"{name} >= %s AND {name} < %s"
    return f"({inside} OR {name} IS NULL)" if nulls else inside


def bounds(spec: TableSpec, window: Window) -> tuple[Bound, Bound]:
    """A window's bounds as parameters."""
    cursor, _ = cut(spec)
    return bound(cursor, window.lower), bound(cursor, window.upper)


def mysql_cut(spec: TableSpec) -> list[str]:
    """MySQL's expressions for what tells the partition that a row belongs to: the day, for hours the hour as well.

    Both are numbers to MySQL; the text of a partition's key would take it longer than all that is counted by it.
    """
    cursor, partitioning = cut(spec)
    moment = name = quote(cursor.column, "mysql")
    if cursor.epoch is not None:
        ticks = TICKS[cursor.epoch]
        # DIV cuts towards zero; a moment before 1970 lies one second lower.
        seconds = name if ticks == 1 else f"({name} DIV {ticks} - ({name} MOD {ticks} < 0))"
        moment = f"(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {seconds} SECOND)"
    return [f"DATE({moment})", *([f"HOUR({moment})"] if partitioning.unit == "hour" else [])]


def key_of_cut(spec: TableSpec, day: date | None, hour: int = 0) -> str:
    """The key of the partition that `mysql_cut` tells; of the first one for rows without a cursor value."""
    _, partitioning = cut(spec)
    return first_key(spec) if day is None else partitioning.key(datetime.combine(day, time(hour)))


def warehouse_start(spec: TableSpec, name: str) -> str:
    """The warehouse's expression for the start of the partition that a row belongs to; NULL for one without a value.

    Args:
        spec: the table's YAML.
        name: the cursor's column, quoted.
    """
    cursor, partitioning = cut(spec)
    moment = f"CAST({name} AS TIMESTAMP)"
    if cursor.epoch is not None:
        whole, ticks = f"CAST({name} AS BIGINT)", TICKS[cursor.epoch]
        seconds = f"({whole} - MOD({whole}, {ticks})) / {ticks} - CASE WHEN MOD({whole}, {ticks}) < 0 THEN 1 ELSE 0 END"
        moment = f"TIMESTAMP 'epoch' + ({whole if ticks == 1 else seconds}) * INTERVAL '1 second'"
    return f"DATE_TRUNC({literal(partitioning.unit)}, {moment})"


def key_of_start(spec: TableSpec, start: datetime | None) -> str:
    """The key of the partition that starts at a moment; of the first one for rows without a cursor value."""
    _, partitioning = cut(spec)
    return first_key(spec) if start is None else partitioning.key(start)


def first_key(spec: TableSpec) -> str:
    """The key of the first partition."""
    _, partitioning = cut(spec)
    return partitioning.key(partitioning.start)
