"""The fingerprint: count and order-independent checksum of the source's rows, one per partition.

For a table with a cursor and a key it covers both, which InnoDB answers from the cursor's index alone (a secondary
index carries the primary key); for a table that lacks one of them it covers every column. Late rows, back-dated edits
and hard deletes all change it. Sums, not XOR: two equal rows would cancel each other out, and so would two keys that
swap their cursor values, because CRC32 is linear. For the same reason a second CRC32 of the same text would add
nothing; of the text read backwards it adds 32 bits (docs/decisions/0005-a-fingerprint-of-64-bits.md).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rds_lake.cursors import FUTURE, Bound, bound, bounds, cut, holds_nulls, key_of_cut, mysql_cut, within
from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.source import Connection, SourceTable, query
from rds_lake.extract.types import Column
from rds_lake.extract.values import checksummed
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.sql import quote, quote_all
from rds_lake.wording import counted

EMPTY = "0"
"""The fingerprint of no rows."""


def version(count: int, checksum: int | None) -> str:
    """A fingerprint as text: rows and the checksum in hexadecimal, `0` for none."""
    return f"{count}-{int(checksum):x}" if count and checksum is not None else EMPTY


def rows_of(fingerprint: str) -> int:
    """How many rows a fingerprint counts."""
    return int(fingerprint.partition("-")[0])


def _checksum(values: Iterable[str]) -> str:
    named = list(values)
    # QUOTE tells NULL from the text NULL, and keeps ('a,b') apart from ('a', 'b').
    forwards = ", ".join(f"QUOTE({value})" for value in named)
    backwards = ", ".join(reversed(named))
    return f"COUNT(*), SUM((CRC32(CONCAT_WS(',', {forwards})) << 32) | CRC32(REVERSE(CONCAT_WS(',', {backwards}))))"


def of_partitions(
    connection: Connection, spec: TableSpec, window: Window, columns: Sequence[Column] = ()
) -> dict[str, str]:
    """The fingerprints of the partitions that have rows in a window of the cursor, by partition key.

    Raises:
        PermanentError: a cursor value is no date that the calendar has.
    """
    cursor, _ = cut(spec)
    known = {item.name: checksummed(item) for item in columns}
    # Without a key, two rows of one cursor value are told apart by nothing less than all of them.
    told_by = spec.key or [name for name in known if name != cursor.column]
    covered = [*(known.get(name, quote(name, "mysql")) for name in told_by), quote(cursor.column, "mysql")]
    found: dict[str, tuple[int, int]] = {}
    for partition, count, checksum in _by_partition(connection, spec, window, _checksum(covered)):
        rows, total = found.get(partition, (0, 0))
        found[partition] = (rows + count, total + int(checksum))
    return {partition: version(*both) for partition, both in sorted(found.items())}


def counts(connection: Connection, spec: TableSpec, window: Window) -> dict[str, int]:
    """The rows of the partitions that have some in a window of the cursor, by partition key."""
    found: Counter[str] = Counter()
    for partition, count in _by_partition(connection, spec, window, "COUNT(*)"):
        found[partition] += count
    return dict(found)


def _by_partition(
    connection: Connection, spec: TableSpec, window: Window, asked: str
) -> Iterator[tuple[str, *tuple[Any, ...]]]:
    """What is asked of the rows in a window, each partition in one or several portions."""
    cursor, _ = cut(spec)
    column, parts = quote(cursor.column, "mysql"), mysql_cut(spec)
    places = ", ".join(str(place + 1) for place in range(len(parts)))  # a name may also be a column of the table
    rows = query(
        connection,
        f"SELECT {', '.join(parts)}, {asked} FROM {quote(spec.source_name, 'mysql')} "
        f"WHERE {within(column, nulls=holds_nulls(spec, window))} GROUP BY {places}",
        bounds(spec, window),
    )
    for row in rows:
        day, *hour = row[: len(parts)]
        if isinstance(day, str):  # the driver's word for a date that is none
            raise PermanentError(
                f"{spec.table}: a row has a cursor '{cursor.column}' in {day}, which the calendar does not have.",
                "Correct the value at the source; nothing was changed.",
            )
        yield key_of_cut(spec, day, *hour), *row[len(parts) :]


def of_table(connection: Connection, spec: TableSpec, table: SourceTable) -> str:
    """The fingerprint of a whole table, over all its columns."""
    values = map(checksummed, table.columns)
    [(count, checksum)] = query(connection, f"SELECT {_checksum(values)} FROM {quote(spec.source_name, 'mysql')}")
    return version(count, checksum)


def rows_outside(connection: Connection, spec: TableSpec, first: datetime) -> tuple[int, int]:
    """How many rows no partition holds: those with a cursor before the first partition, and those without one."""
    if spec.cursor is None:
        return 0, 0
    before = _count(connection, spec, "{0} < %s", (bound(spec.cursor, first),))
    without = _count(connection, spec, "{0} IS NULL") if spec.cursor.nulls == "exclude" else 0
    return before, without


def rows_in_future(connection: Connection, spec: TableSpec, fence: datetime) -> int:
    """How many rows lie far above the fence, where only a mistake can have put them.

    Args:
        connection: the source.
        spec: the table's YAML.
        fence: the fence on the cursor's own clock.
    """
    if spec.cursor is None:
        return 0
    return _count(connection, spec, "{0} >= %s", (bound(spec.cursor, fence + FUTURE),))


def refuse_nulls(connection: Connection, spec: TableSpec) -> None:
    """Refuse rows without a cursor value, for a table whose YAML says so.

    Raises:
        SpecError: there are some; the message names one, personal data left out.
    """
    if spec.cursor is None or spec.cursor.nulls != "raise":
        return
    column, table = (quote(name, "mysql") for name in (spec.cursor.column, spec.source_name))
    shown = quote_all(spec.key, "mysql") or "'a row'"
    some = query(connection, f"SELECT {shown} FROM {table} WHERE {column} IS NULL LIMIT 1")
    if not some:
        return
    count = _count(connection, spec, "{0} IS NULL")
    example = ", ".join(
        f"{name} = {'a personal value' if spec.is_personal(name) else repr(value)}"
        for name, value in zip(spec.key, some[0], strict=False)
    )
    raise SpecError(
        f"{spec.table}: {counted(count, 'row has', 'rows have')} no value in the cursor '{spec.cursor.column}'"
        + (f", one of them the row with {example}." if example else "."),
        "Fill it at the source, or set cursor.nulls to include (they go with the first partition) or exclude (they are "
        f"left out and reported) in defs/{spec.table}/defs.yaml.",
    )


def _count(connection: Connection, spec: TableSpec, condition: str, parameters: tuple[Bound, ...] = ()) -> int:
    column = quote(spec.cursor.column if spec.cursor else "", "mysql")
    text = f"SELECT COUNT(*) FROM {quote(spec.source_name, 'mysql')} WHERE {condition.replace('{0}', column)}"
    [(rows,)] = query(connection, text, parameters)
    return int(rows)
