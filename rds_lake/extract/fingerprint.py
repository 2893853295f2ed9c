"""The fingerprint: count and order-independent checksum of the source's rows, one per partition.

For a table with a cursor it covers key and cursor, which InnoDB answers from the cursor's index alone (a secondary
index carries the primary key); for a table without one it covers every column. Late rows, back-dated edits and hard
deletes all change it. Sums, not XOR: two equal rows would cancel each other out, and so would two keys that swap their
cursor values, because CRC32 is linear.
"""

from collections.abc import Iterable
from datetime import datetime

from rds_lake.extract.source import Connection, SourceTable, query
from rds_lake.extract.types import Column
from rds_lake.partitions import Partitioning, Unit, Window
from rds_lake.spec import TableSpec
from rds_lake.sql import quote

EMPTY = "0"
"""The fingerprint of no rows."""

_KEY_SQL: dict[Unit, str] = {
    "hour": "DATE_FORMAT({0}, '%%Y-%%m-%%dT%%H')",
    "day": "DATE_FORMAT({0}, '%%Y-%%m-%%d')",
    "week": "DATE_FORMAT({0} - INTERVAL WEEKDAY({0}) DAY, '%%Y-%%m-%%d')",
    "month": "DATE_FORMAT({0}, '%%Y-%%m')",
}


def version(count: int, checksum: int | None) -> str:
    """A fingerprint as text: rows and the checksum in hexadecimal, `0` for none."""
    return f"{count}-{int(checksum):x}" if count and checksum is not None else EMPTY


def _checksum(values: Iterable[str]) -> str:
    # QUOTE tells NULL from the text NULL, and keeps ('a,b') apart from ('a', 'b').
    texts = ", ".join(f"QUOTE({value})" for value in values)
    return f"COUNT(*), SUM(CRC32(CONCAT_WS(',', {texts})))"


def of_partitions(
    connection: Connection, spec: TableSpec, partitioning: Partitioning, window: Window
) -> dict[str, str]:
    """The fingerprints of the partitions that have rows in a window of the cursor, by partition key."""
    if spec.cursor is None:
        raise ValueError(f"{spec.table} has no cursor")
    cursor = quote(spec.cursor.column, "mysql")
    key = _KEY_SQL[partitioning.unit].format(cursor)
    covered = [*(quote(column, "mysql") for column in spec.key), cursor]
    rows = query(
        connection,
        f"SELECT {key} AS k, {_checksum(covered)} FROM {quote(spec.source_name, 'mysql')} "
        f"WHERE {cursor} >= %s AND {cursor} < %s GROUP BY k ORDER BY k",
        (window.lower, window.upper),
    )
    return {partition: version(count, checksum) for partition, count, checksum in rows}


def of_table(connection: Connection, spec: TableSpec, table: SourceTable) -> str:
    """The fingerprint of a whole table, over all its columns."""
    values = map(_exact, table.columns)
    [(count, checksum)] = query(connection, f"SELECT {_checksum(values)} FROM {quote(spec.source_name, 'mysql')}")
    return version(count, checksum)


def _exact(column: Column) -> str:
    name = quote(column.name, "mysql")
    return f"{name} + 0e0" if column.type.lower().startswith("float") else name  # as text it has six digits only


def rows_outside(connection: Connection, spec: TableSpec, first: datetime) -> tuple[int, int]:
    """How many rows no partition holds: those with a cursor before the first partition, and those without one."""
    if spec.cursor is None:
        return 0, 0
    cursor = quote(spec.cursor.column, "mysql")
    table = quote(spec.source_name, "mysql")
    [(before,)] = query(connection, f"SELECT COUNT(*) FROM {table} WHERE {cursor} < %s", (first,))
    [(without,)] = query(connection, f"SELECT COUNT(*) FROM {table} WHERE {cursor} IS NULL")
    return before, without
