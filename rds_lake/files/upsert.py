"""Putting a feed's cleaned rows into a table of PostgreSQL on RDS, in one transaction with the ledger that records it.

Unlike Redshift, PostgreSQL keeps keys unique and knows ON CONFLICT. A row gives way only to one of a file that landed
later, so that the outcome does not depend on the order in which files are handled.
"""

import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import IO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract.widening import holds
from rds_lake.files.check import RAW
from rds_lake.files.schema import LINE, TableSchema
from rds_lake.files.stage import Staged
from rds_lake.files.store import FileStore
from rds_lake.pauses import pause
from rds_lake.sql import quote as quote_in
from rds_lake.sql import quote_all as quote_all_in
from rds_lake.warehouse.connection import CollisionError, Database, Session, Whose
from rds_lake.warehouse.migrate import kind_of

quote = partial(quote_in, dialect="redshift")  # that of psycopg2
quote_all = partial(quote_all_in, dialect="redshift")

RDS = Whose("PostgreSQL on RDS", "RDS_LAKE_POSTGRES_URL")

FILE_ID, LANDED = "_file_id", "_landed_at"

LEDGER = "rds_lake.file_ledger"

LEDGER_COLUMNS = (
    "table_name TEXT NOT NULL, file_id TEXT NOT NULL, file_name TEXT NOT NULL, content TEXT NOT NULL, "
    "landed_at TIMESTAMPTZ NOT NULL, rows_loaded BIGINT NOT NULL, loaded_at TIMESTAMPTZ NOT NULL"
)

IDLE_SECONDS = 300
"""How long a worker that stands still inside a transaction may keep others waiting: as long as its lease."""

PIECE_ROWS = 4096
"""Rows that are sent at a time."""

ATTEMPTS = 3

PAUSE = 1.0
"""Seconds before the second attempt, about; each pause is twice the one before."""


@dataclass(frozen=True)
class Done:
    """What became of a file's rows.

    Attributes:
        rows: how many are in the table; the others were older than those that are.
        is_new: whether they were put in now, and not before.
    """

    rows: int
    is_new: bool


@dataclass(frozen=True)
class FeedTable:
    """The statements for one table of PostgreSQL.

    Attributes:
        schema: its schema.
        table: its name.
        files: the columns and keys of the feed's files.
        has_raw: whether its files bring the old values of those that were replaced.
    """

    schema: str
    table: str
    files: TableSchema
    has_raw: bool

    @property
    def name(self) -> str:
        """The table with its schema, quoted."""
        return f"{quote(self.schema)}.{quote(self.table)}"

    @property
    def place(self) -> str:
        """The table as the ledger calls it."""
        return f"{self.schema}.{self.table}"

    def setup(self) -> list[str]:
        """What makes schema, ledger and table exist, each of its own."""
        own = [(FILE_ID, "TEXT NOT NULL"), (LANDED, "TIMESTAMPTZ NOT NULL"), (LINE, "BIGINT NOT NULL")]
        columns = [f"{quote(column.name)} {self._type(column.name)}" for column in self.files.columns]
        columns += [f"{quote(RAW)} JSONB", *(f"{quote(name)} {kind}" for name, kind in own)]
        keys = quote_all(self.files.keys)
        return [
            f"CREATE SCHEMA IF NOT EXISTS {quote(self.schema)}",
            "CREATE SCHEMA IF NOT EXISTS rds_lake",
            f"CREATE TABLE IF NOT EXISTS {LEDGER} ({LEDGER_COLUMNS}, PRIMARY KEY (table_name, file_id))",
            f"CREATE TABLE IF NOT EXISTS {self.name} ({', '.join(columns)}, PRIMARY KEY ({keys}))",
        ]

    def present(self) -> str:
        """A query for the columns that the table has, and their types; parameters: schema, table."""
        return (
            "SELECT column_name, data_type, character_maximum_length, numeric_precision, numeric_scale "
            "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        )

    def add(self, column: str) -> str:
        """Add a column that the feed has and the table has not."""
        return f"ALTER TABLE {self.name} ADD COLUMN IF NOT EXISTS {quote(column)} {self._type(column)}"

    def claim(self) -> str:
        """Write the ledger row unless it is there; whoever comes second waits for the first one's end."""
        return (
            f"INSERT INTO {LEDGER} (table_name, file_id, file_name, content, landed_at, rows_loaded, loaded_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING file_id"
        )

    def create_incoming(self) -> str:
        """A temporary table of what a file brings, which ends with the transaction."""
        columns = [f"{quote(column.name)} {self._type(column.name)}" for column in self.files.columns]
        columns += [f"{quote(LINE)} BIGINT", *([f"{quote(RAW)} JSONB"] if self.has_raw else [])]
        return f"CREATE TEMP TABLE incoming_feed ({', '.join(columns)}) ON COMMIT DROP"

    def copy(self) -> str:
        """Fill it with CSV from the client."""
        return "COPY incoming_feed FROM STDIN (FORMAT csv)"

    def upsert(self) -> str:
        """Put its rows into the table; the later file's row stays. Parameters: the file's id, when it landed.

        It returns how many were put in.
        """
        own = [*self.files.names, LINE, *([RAW] if self.has_raw else [])]
        names = quote_all([*own, FILE_ID, LANDED])
        taken = [name for name in own if name not in self.files.keys]
        changes = ", ".join(f"{quote(name)} = EXCLUDED.{quote(name)}" for name in (*taken, FILE_ID, LANDED))
        changes += "" if self.has_raw else f", {quote(RAW)} = NULL"  # it told of the row that is replaced
        when = f"{quote(LANDED)}, {self.name}.{quote(FILE_ID)}"
        return (
            f"WITH put AS (INSERT INTO {self.name} ({names}) SELECT {quote_all(own)}, %s, %s FROM incoming_feed "
            f"ON CONFLICT ({quote_all(self.files.keys)}) DO UPDATE SET {changes} "
            f"WHERE ({self.name}.{when}) <= (EXCLUDED.{quote(LANDED)}, EXCLUDED.{quote(FILE_ID)}) RETURNING 1) "
            "SELECT COUNT(*) FROM put"
        )

    def loaded(self) -> str:
        """A query for how many rows of a file were put in. Parameters: table, file."""
        return f"SELECT rows_loaded FROM {LEDGER} WHERE table_name = %s AND file_id = %s"

    def count(self) -> str:
        """Write into the ledger how many rows were put in. Parameters: rows, table, file."""
        return f"UPDATE {LEDGER} SET rows_loaded = %s WHERE table_name = %s AND file_id = %s"

    def _type(self, name: str) -> str:
        column = next(column for column in self.files.columns if column.name == name)
        kind = "TEXT" if column.declared.is_text else column.declared.name
        return f"{kind} NOT NULL" if name in self.files.keys else kind


def put(database: Database, store: FileStore, table: FeedTable, staged: Staged) -> Done:
    """Put a file's cleaned rows into the table, once.

    Args:
        database: PostgreSQL.
        store: the bucket that the cleaned rows lie in.
        table: the table.
        staged: the file.

    Raises:
        PermanentError: PostgreSQL refused the rows, or its table cannot hold them. Nothing was changed.
        TransientError: it could not be reached, or others were in the way, three times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(database, store, table, staged)
        except TransientError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(pause(attempt, PAUSE))
    raise AssertionError("unreachable")


def _attempt(database: Database, store: FileStore, table: FeedTable, staged: Staged) -> Done:
    with database.connect() as session:
        _prepare(session, table)
        with session.transaction():
            session.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
            now = datetime.now(UTC)
            row = (table.place, staged.file_id, staged.name, staged.content, staged.landed_at, staged.rows, now)
            if not session.execute(table.claim(), row):
                [(rows,)] = session.execute(table.loaded(), (table.place, staged.file_id))
                return Done(rows, is_new=False)
            session.execute(table.create_incoming())
            for piece in _pieces(store, staged):
                session.copy_in(table.copy(), piece)
            [(brought,)] = session.execute("SELECT COUNT(*) FROM incoming_feed")
            if brought != staged.rows:
                raise PermanentError(
                    f"{brought:,} rows of {staged.name} came in, {staged.rows:,} are cleaned. Nothing was changed.",
                    "Look for others who write below cleaned/ in the bucket; then drop the file again.",
                )
            [(rows,)] = session.execute(table.upsert(), (staged.file_id, staged.landed_at))
            session.execute(table.count(), (rows, table.place, staged.file_id))
    return Done(rows, is_new=True)


def is_loaded(database: Database, table: FeedTable, file_id: str) -> bool:
    """Whether the ledger has a file, which it has in the transaction that its rows came in with."""
    with database.connect() as session:
        if not session.execute(table.present(), tuple(LEDGER.split("."))):
            return False
        return bool(session.execute(table.loaded(), (table.place, file_id)))


def _prepare(session: Session, table: FeedTable) -> None:
    for statement in table.setup():
        try:
            session.execute(statement)
        except CollisionError:
            session.execute(statement)  # now it exists
    present = {name: kind_of(*kind) for name, *kind in session.execute(table.present(), (table.schema, table.table))}
    for column in table.files.columns:
        held = present.get(column.name)
        if column.name not in present:
            session.execute(table.add(column.name))
        elif held is not None and not column.declared.is_text and not holds(held, column.declared.name):
            raise PermanentError(  # PostgreSQL would round a number, and cut off a time, without a word
                f"The column {column.name} of {table.place} is {held}, and the YAML says {column.declared.name}, which "
                "it does not hold.",
                "Alter the table, or correct the YAML; then drop the file again.",
            )


def _pieces(store: FileStore, staged: Staged) -> Iterator[IO[bytes]]:
    """The cleaned rows as CSV, in pieces: NULL is an empty field, an empty text is `""`."""
    held = store.look(staged.part or "")
    if held is None:
        raise PermanentError(f"{store.url(staged.part or '')} is gone.", "Drop the file again.")
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    with tempfile.TemporaryFile(prefix="rds_lake_") as file:
        store.fetch(held, file)
        for rows in pq.ParquetFile(file).iter_batches(PIECE_ROWS):
            piece = io.BytesIO()
            pyarrow.csv.write_csv(rows.cast(_written(rows.schema)), piece, options)
            piece.seek(0)
            yield piece


def _written(schema: pa.Schema) -> pa.Schema:
    """What the columns are written as: decimals as texts, which keep all of their digits."""
    return pa.schema([pa.field(f.name, pa.string() if pa.types.is_decimal(f.type) else f.type) for f in schema])
