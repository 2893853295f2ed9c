"""A snapshot of a source table: one consistent view, below the fence, from which fingerprints and rows are read.

Rows stream as Arrow record batches of bounded size, in the order of cursor and key, each value exactly as the type
table says. What cannot be carried whole stops the read, naming table, column and value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import SSCursor

from rds_lake.errors import PermanentError
from rds_lake.extract import fingerprint
from rds_lake.extract.fence import Fence, read_fence
from rds_lake.extract.source import Connection, Source, SourceTable
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.sql import quote, quote_all

BATCH_ROWS = 20_000
"""Rows of one Arrow batch: some MB of an ordinary table."""


def _bits(value: bytes) -> int:
    return int.from_bytes(value, "big")


# The driver's own conversions, but for durations (a timedelta would lose the text's form) and bit fields.
_CONVERSIONS: dict[Any, Callable[..., Any]] = {
    **{key: value for key, value in conversions.items() if isinstance(key, int)},
    FIELD_TYPE.TIME: str,
    FIELD_TYPE.BIT: _bits,
}


@dataclass
class Snapshot:
    """A consistent view of one source table, read below the fence.

    Attributes:
        spec: the table's YAML.
        table: the table as the source describes it.
        fence: the upper bound of every read from this snapshot.
    """

    spec: TableSpec
    table: SourceTable
    fence: Fence
    _connection: Connection

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows."""
        return arrow_schema(self.table.columns)

    def below_fence(self, window: Window | None = None) -> Window:
        """A window (by default: everything from the first partition on) cut off at the fence, in the cursor's zone."""
        if self.spec.cursor is None or self.spec.partitioning is None:
            raise ValueError(f"{self.spec.table} has no cursor")
        fence = self.fence.at.replace(tzinfo=UTC).astimezone(self.spec.cursor.zone).replace(tzinfo=None)
        lower, upper = window or (self.spec.partitioning.start, fence)
        return Window(lower, max(lower, min(upper, fence)))

    def is_behind(self, partition: str, fence: str) -> bool:
        """Whether reading a partition now would end below a fence that it was read under before.

        The fence may move back (an old transaction, a lost privilege, a clock); what is landed must not.

        Args:
            partition: the partition's key.
            fence: the earlier fence, ISO 8601 in UTC.
        """
        if self.spec.partitioning is None:
            return False
        window = self.spec.partitioning.window(partition)
        is_cut = self.below_fence(window).upper < window.upper
        return is_cut and self.fence.at.replace(tzinfo=UTC) < datetime.fromisoformat(fence)

    def fingerprints(self, window: Window | None = None) -> dict[str, str]:
        """The fingerprints of the partitions that have rows in a window, by partition key."""
        if self.spec.partitioning is None:
            raise ValueError(f"{self.spec.table} has no partitions")
        return fingerprint.of_partitions(self._connection, self.spec, self.spec.partitioning, self.below_fence(window))

    def fingerprint(self) -> str:
        """The fingerprint of the whole table, for a table without a cursor."""
        return fingerprint.of_table(self._connection, self.spec, self.table)

    def rows_outside(self) -> tuple[int, int]:
        """How many rows lie before the first partition, and how many have no cursor value."""
        if self.spec.partitioning is None:
            return 0, 0
        return fingerprint.rows_outside(self._connection, self.spec, self.spec.partitioning.start)

    def rows(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a window (or of a table without a cursor: all), in the order of cursor and key.

        Raises:
            PermanentError: a value cannot be carried whole; the message names table, column and value.
        """
        text, parameters = self.rows_query(window)
        schema = self.schema
        cursor = self._connection.cursor(SSCursor)
        try:
            cursor.execute(text, parameters)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield self._to_batch(rows, schema)
        except BaseException:
            # The driver would read the rest of the rows before it lets go of an unfinished answer.
            unfinished = self._connection._result  # type: ignore[attr-defined]
            if unfinished is not None:
                unfinished.unbuffered_active = False
            self._connection._force_close()  # type: ignore[attr-defined]
            cursor.connection = None  # type: ignore[assignment]
            raise
        cursor.close()

    def rows_query(self, window: Window | None = None) -> tuple[str, tuple[datetime, ...]]:
        """The SELECT that `rows` sends, and its parameters."""
        columns = ", ".join(_select(column) for column in self.table.columns)
        text = f"SELECT {columns} FROM {quote(self.spec.source_name, 'mysql')}"
        order = quote_all([*([self.spec.cursor.column] if self.spec.cursor else []), *self.spec.key], "mysql")
        suffix = f" ORDER BY {order}" if order else ""
        if self.spec.cursor is None:
            return text + suffix, ()
        cursor = quote(self.spec.cursor.column, "mysql")
        return f"{text} WHERE {cursor} >= %s AND {cursor} < %s{suffix}", tuple(self.below_fence(window))

    def _to_batch(self, rows: Any, schema: pa.Schema) -> pa.RecordBatch:  # noqa: ANN401 - the driver's own tuples
        arrays = [self._to_array(field, values) for field, values in zip(schema, zip(*rows, strict=True), strict=True)]
        return pa.record_batch(arrays, schema=schema)

    def _to_array(self, field: pa.Field, values: tuple[Any, ...]) -> pa.Array:
        try:
            return pa.array(values, type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError) as error:
            bad = next(value for value in values if not _fits(value, field.type))
            raise PermanentError(
                f"{self.spec.table}: the column '{field.name}' holds {bad!r}, which is not a whole {field.type}: "
                f"{error}.",
                "Correct the value at the source; no row of this partition was changed in the lake.",
            ) from error


def _fits(value: Any, kind: pa.DataType) -> bool:  # noqa: ANN401 - any value the driver returns
    try:
        pa.array([value], type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError):
        return False
    return True


def _select(column: Column) -> str:
    name = quote(column.name, "mysql")
    kind = column.type.lower()
    if kind.startswith("float"):
        return f"({name} + 0e0) AS {name}"  # as text the server prints six digits of it
    if kind.startswith("decimal") and column.mapped.arrow == pa.string():
        return f"CAST({name} AS CHAR) AS {name}"  # more digits than any decimal on the other side
    return name


@contextmanager
def open_snapshot(source: Source, spec: TableSpec) -> Iterator[Snapshot]:
    """Look at the fence, then open a consistent snapshot, on one connection.

    Raises:
        RdsLakeError: the table or a column that the YAML names is not there, or the server cannot be reached.
    """
    table = source.describe(spec.source_name)
    spec.check_columns([column.name for column in table.columns])
    arrow_schema(table.columns)  # refuses a type that cannot be carried, before anything is read
    with source.connect() as connection:
        connection.decoders = dict(_CONVERSIONS)
        fence = read_fence(connection)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        yield Snapshot(spec, table, fence, connection)
