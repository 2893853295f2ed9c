"""A snapshot of a source table: one consistent view, below the fence, from which fingerprints and rows are read.

Rows stream as Arrow record batches of bounded size, in the order of cursor and key, each value exactly as the type
table says. What cannot be carried whole stops the read, naming table, column and value.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from rds_lake.cursors import Bound, bounds, holds_nulls, wall_clock, within
from rds_lake.errors import PermanentError, RdsLakeError, TransientError
from rds_lake.extract import fingerprint
from rds_lake.extract.ahead import Ahead
from rds_lake.extract.carried import carried_columns
from rds_lake.extract.checksum import Checksum
from rds_lake.extract.cursor_type import check_type
from rds_lake.extract.fence import LAG, Fence, read_fence
from rds_lake.extract.indexes import read_indexes
from rds_lake.extract.reader import MisfitError, read
from rds_lake.extract.source import Connection, Source, SourceTable, Whose
from rds_lake.extract.types import Column, arrow_schema, ways
from rds_lake.extract.values import UNSPELT, expression
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.sql import quote, quote_all

SHOWN = 100
"""Characters of a bad value that an error shows."""


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
    _source: Source
    _whose: Whose | None
    _reading: list[Ahead] = field(default_factory=list)  # shared by copies, which share the connection
    _aside: list[tuple[Connection, Whose | None]] = field(default_factory=list)

    @property
    def connection(self) -> Connection:
        """The connection, for other questions to the same view."""
        return self._connection

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows."""
        return arrow_schema(self.table.columns)

    def below_fence(self, window: Window | None = None) -> Window:
        """A window (by default: everything from the first partition on) cut off at the fence, in the cursor's zone."""
        if self.spec.cursor is None or self.spec.partitioning is None:
            raise ValueError(f"{self.spec.table} has no cursor")
        fence = wall_clock(self.fence.at, self.spec.cursor.zone)
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
        """The fingerprints of the partitions that have rows in a window, by partition key.

        Raises:
            SpecError: rows have no cursor value, and the YAML says that this is an error.
        """
        fingerprint.refuse_nulls(self._connection, self.spec)
        return fingerprint.of_partitions(self._connection, self.spec, self.below_fence(window), self.table.columns)

    def fingerprint(self) -> str:
        """The fingerprint of the whole table, for a table without a cursor."""
        return fingerprint.of_table(self._connection, self.spec, self.table)

    def counts_now(self, window: Window) -> dict[str, int]:
        """The rows of the partitions that have some in a window, by partition key.

        They are asked for on a connection of their own, so that they can be while the snapshot is being read; they are
        not the snapshot's if the source has changed since.

        Raises:
            SpecError: rows have no cursor value, and the YAML says that this is an error.
        """
        with self._source.connect() as connection:
            aside = connection, Whose.of(connection)
            self._aside.append(aside)
            try:
                fingerprint.refuse_nulls(connection, self.spec)
                return fingerprint.counts(connection, self.spec, self.below_fence(window))
            finally:
                self._aside.remove(aside)

    def checksum(self) -> Checksum | None:
        """What computes fingerprints from rows that have been read; None if only the source can tell them."""
        return Checksum.of(self.spec, self.table.columns)

    def indexes(self) -> dict[str, list[str]] | None:
        """The columns of each of the table's indexes, by the index's name; None for a view."""
        return read_indexes(self._connection, self.spec.source_name)

    def rows_outside(self) -> tuple[int, int]:
        """How many rows lie before the first partition, and how many are left out for want of a cursor value."""
        if self.spec.partitioning is None:
            return 0, 0
        return fingerprint.rows_outside(self._connection, self.spec, self.spec.partitioning.start)

    def rows_in_future(self) -> int:
        """How many rows lie more than a day above the fence, where no partition will hold them for long."""
        if self.spec.cursor is None:
            return 0
        fence = wall_clock(self.fence.at, self.spec.cursor.zone)
        return fingerprint.rows_in_future(self._connection, self.spec, fence)

    def rows(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a window (or of a table without a cursor: all), in the order of cursor and key.

        Batches have the columns of `schema`, and after them one `nulled_<column>` for each column `as: null`.

        Raises:
            PermanentError: a value cannot be carried whole; the message names table, column, value and key.
        """
        self.stop_reading()
        batches = read(self._connection, self.table.columns, *self.rows_query(window))
        self._reading.append(Ahead(batches, lambda: self._give_up(self._connection, self._whose)))
        try:
            yield from self._reading[-1]
        except MisfitError as error:
            raise self._unfit(error.column, error.row) from error

    @contextmanager
    def asking(self) -> Iterator[None]:
        """What is still being asked of the source at the end, as it is after an error, is given up: nobody waits."""
        try:
            yield
        finally:
            self.stop_reading()
            for connection, whose in list(self._aside):
                self._give_up(connection, whose)

    def _give_up(self, connection: Connection, whose: Whose | None) -> None:
        """End a connection under whoever waits for its data; closing it would first read the rest of them."""
        held: socket.socket | None = connection._sock  # type: ignore[attr-defined]
        if held is None:  # it has ended by itself
            return
        try:
            if whose is not None:
                with suppress(RdsLakeError):  # who gives up has an error of its own to tell
                    self._source.end_statement(whose)
        finally:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def stop_reading(self) -> None:
        """End a read that nobody goes on with; the connection is of no more use then."""
        while self._reading:
            self._reading.pop().close()

    def rows_query(self, window: Window | None = None) -> tuple[str, tuple[Bound, ...]]:
        """The SELECT that `rows` sends, and its parameters."""
        columns = ", ".join(map(_select, self.table.columns))
        text = f"SELECT {columns} FROM {quote(self.spec.source_name, 'mysql')}"
        order = quote_all([*([self.spec.cursor.column] if self.spec.cursor else []), *self.spec.key], "mysql")
        suffix = f" ORDER BY {order}" if order else ""
        if self.spec.cursor is None:
            return text + suffix, ()
        below = self.below_fence(window)
        condition = within(quote(self.spec.cursor.column, "mysql"), nulls=holds_nulls(self.spec, below))
        return f"{text} WHERE {condition}{suffix}", bounds(self.spec, below)

    def _unfit(self, column: Column, values: Mapping[str, Any]) -> PermanentError:
        """The error over one value of one row; personal data is not shown."""
        row_name = ", ".join(f"{name} = {self._shown(name, values[name])}" for name in self.spec.key)
        possible = [f"'as: {way}'" for way in ways(column.type) if way in {"string", "null"} and column.as_ is None]
        unless = f", or declare {' or '.join(possible)} for it" if possible else ", or take its 'as' away"
        return PermanentError(
            f"{self.spec.table}: the column '{column.name}' holds {self._shown(column.name, values[column.name])} "
            f"({column.type}) in the row {row_name or 'without a key'}, which cannot be carried whole as "
            f"{column.mapped.redshift}.",
            f"Correct the value at the source{unless} in defs/{self.spec.table}/defs.yaml; no row of this partition "
            "was changed in the lake.",
        )

    def _shown(self, column: str, value: object) -> str:
        if self.spec.is_personal(column):
            return "a personal value"
        if isinstance(value, str) and value.startswith(UNSPELT):
            return f"the bytes 0x{value.removeprefix(UNSPELT)}"
        text = repr(value) if isinstance(value, str | bytes) else str(value)
        return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _select(column: Column) -> str:
    asked, name = expression(column), quote(column.name, "mysql")
    return asked if asked == name else f"{asked} AS {name}"


@contextmanager
def open_snapshot(source: Source, spec: TableSpec) -> Iterator[Snapshot]:
    """Look at the fence, then open a consistent snapshot, on one connection.

    Raises:
        RdsLakeError: the table or a column that the YAML names is not there, or the server cannot be reached.
    """
    found = source.describe(spec.source_name)
    table = replace(found, columns=carried_columns(spec, found.columns))  # refuses what cannot be carried
    check_type(spec, table.columns)
    with source.connect() as connection:
        fence = read_fence(connection, timedelta(seconds=spec.cursor.lag_seconds) if spec.cursor else LAG)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            # From here to the end nobody can alter the table: what is described next is what the rows have.
            cursor.execute(f"SELECT 1 FROM {quote(spec.source_name, 'mysql')} LIMIT 0", ())  # formatted: %% is one %
        if source.describe(spec.source_name) != found:
            raise TransientError(
                f"{spec.table}: the source table '{spec.source_name}' was altered at this very moment.", "Try again."
            )
        snapshot = Snapshot(spec, table, fence, connection, source, Whose.of(connection))
        try:
            yield snapshot
        finally:
            snapshot.stop_reading()
