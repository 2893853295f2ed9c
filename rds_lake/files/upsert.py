"""Putting a feed's cleaned rows into a table of PostgreSQL on RDS, in one transaction with the ledger that records it.

Unlike Redshift, PostgreSQL keeps keys unique and knows ON CONFLICT. A row gives way only to one of a file that landed
later, so that the outcome does not depend on the order in which files are handled.
"""

import io
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
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
from rds_lake.files.types import DeclaredType, Kind
from rds_lake.pauses import pause
from rds_lake.sql import quote as quote_in
from rds_lake.sql import quote_all as quote_all_in
from rds_lake.warehouse.connection import STOOD_STILL, CollisionError, Database, Session, Whose
from rds_lake.warehouse.migrate import kind_of

quote = partial(quote_in, dialect="redshift")  # that of psycopg2
quote_all = partial(quote_all_in, dialect="redshift")

RDS = Whose("PostgreSQL on RDS", "RDS_LAKE_POSTGRES_URL")

FILE_ID, LANDED = "_file_id", "_landed_at"

OWN = {FILE_ID: "TEXT", LANDED: "TIMESTAMPTZ", LINE: "BIGINT", RAW: "JSONB"}
"""The columns that tell where a row is from, and their types."""

_OWN_KINDS: Mapping[str, Collection[str]] = {
    FILE_ID: {"text", "character varying"},
    LANDED: {"timestamp with time zone"},
    LINE: {"bigint"},
    RAW: {"jsonb"},
}
"""What PostgreSQL may call these types in a table that is there already."""

_UNCUT: Mapping[Kind, Collection[str]] = {
    "integer": {"numeric", "text"},
    "decimal": {"numeric", "text"},
    "float": {"text"},
    "boolean": {"text"},
    "date": {"text", "timestamp with time zone"},
    "timestamp": {"text"},
    "timestamptz": {"text", "timestamp with time zone"},
}
"""What else holds the values of our types: PostgreSQL's types without a length, which the type table does not know."""

LEDGER = "rds_lake.file_ledger"

LEDGER_COLUMNS = (
    "table_name TEXT NOT NULL, file_id TEXT NOT NULL, file_name TEXT NOT NULL, content TEXT NOT NULL, "
    "landed_at TIMESTAMPTZ NOT NULL, rows_loaded BIGINT NOT NULL, loaded_at TIMESTAMPTZ NOT NULL"
)

IDLE_SECONDS = 300
"""How long a worker that stands still inside a transaction may keep others waiting: as long as its lease. Nothing but
PostgreSQL is waited for in there, so that a worker that goes on never stands still so long."""

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
        columns = [f"{quote(column.name)} {self._type(column.name)}" for column in self.files.columns]
        columns += [f"{quote(name)} {kind}{'' if name == RAW else ' NOT NULL'}" for name, kind in OWN.items()]
        keys = quote_all(self.files.keys)
        return [
            f"CREATE SCHEMA IF NOT EXISTS {quote(self.schema)}",
            "CREATE SCHEMA IF NOT EXISTS rds_lake",
            f"CREATE TABLE IF NOT EXISTS {LEDGER} ({LEDGER_COLUMNS}, PRIMARY KEY (table_name, file_id))",
            f"CREATE TABLE IF NOT EXISTS {self.name} ({', '.join(columns)}, PRIMARY KEY ({keys}))",
        ]

    def relation(self) -> str:
        """A query for what bears the table's name: `r` and `p` are tables; parameters: schema, table."""
        return (
            "SELECT c.relkind::text FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
        )

    def present(self) -> str:
        """A query for the columns that the table has, their types, and whether a row must bring a value.

        Parameters: schema, table.
        """
        return (
            "SELECT column_name, is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' "
            "AND is_generated = 'NEVER', CASE WHEN data_type LIKE 'timestamp%%' AND datetime_precision < 6 "
            "THEN data_type || '(' || datetime_precision || ')' ELSE data_type END, "
            "character_maximum_length, numeric_precision, numeric_scale "
            "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        )

    def unique(self) -> str:
        """A query for the columns of each unique index that ON CONFLICT can go by; parameters: schema, table.

        That is a full one, of columns only, which is not deferred.
        """
        return (
            "SELECT array_agg(a.attname::text) FROM pg_catalog.pg_index i "
            "JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place) "
            "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number "
            "WHERE n.nspname = %s AND c.relname = %s AND i.indisunique AND i.indisvalid AND i.indimmediate "
            "AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts GROUP BY i.indexrelid"
        )

    def add(self, column: str) -> str:
        """Add a column that the feed has and the table has not; a row that is there already has no value for it."""
        kind = OWN.get(column) or self._type(column)
        return f"ALTER TABLE {self.name} ADD COLUMN IF NOT EXISTS {quote(column)} {kind}"

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

        A row that no file has brought gives way to any. It returns how many were put in.
        """
        own = [*self.files.names, LINE, *([RAW] if self.has_raw else [])]
        names = quote_all([*own, FILE_ID, LANDED])
        taken = [name for name in own if name not in self.files.keys]
        changes = ", ".join(f"{quote(name)} = EXCLUDED.{quote(name)}" for name in (*taken, FILE_ID, LANDED))
        changes += "" if self.has_raw else f", {quote(RAW)} = NULL"  # it told of the row that is replaced
        landed = f"COALESCE({self.name}.{quote(LANDED)}, '-infinity')"
        when = f"{landed}, COALESCE({self.name}.{quote(FILE_ID)}, '')"
        return (
            f"WITH put AS (INSERT INTO {self.name} ({names}) SELECT {quote_all(own)}, %s, %s FROM incoming_feed "
            f"ON CONFLICT ({quote_all(self.files.keys)}) DO UPDATE SET {changes} "
            f"WHERE ({when}) <= (EXCLUDED.{quote(LANDED)}, EXCLUDED.{quote(FILE_ID)}) RETURNING 1) "
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
    with tempfile.TemporaryFile(prefix="rds_lake_") as part:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _attempt(database, store, table, staged, part)
            except TransientError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(pause(attempt, PAUSE))
    raise AssertionError("unreachable")


def _attempt(database: Database, store: FileStore, table: FeedTable, staged: Staged, part: IO[bytes]) -> Done:
    with database.connect() as session:
        if (known := _loaded(session, table, staged.file_id)) is not None:  # whatever has become of the table since
            return Done(known, is_new=False)
        _prepare(session, table)
        _fetch(store, staged, part)  # before the transaction, which has to wait for nobody but PostgreSQL
        with session.transaction():
            session.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
            now = datetime.now(UTC)
            row = (table.place, staged.file_id, staged.name, staged.content, staged.landed_at, staged.rows, now)
            if not session.execute(table.claim(), row):
                [(rows,)] = session.execute(table.loaded(), (table.place, staged.file_id))
                return Done(rows, is_new=False)
            session.execute(table.create_incoming())
            _bring(session, table, staged, part)
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
        return _loaded(session, table, file_id) is not None


def _loaded(session: Session, table: FeedTable, file_id: str) -> int | None:
    """How many rows of a file were put in, None when it is not in the ledger, which need not be there."""
    if not session.execute(table.present(), tuple(LEDGER.split("."))):
        return None
    found = session.execute(table.loaded(), (table.place, file_id))
    return found[0][0] if found else None


@dataclass(frozen=True)
class _Column:
    """A column that the table has.

    Attributes:
        is_required: whether a row must bring a value.
        word: its type as PostgreSQL calls it, without its length.
        length: the characters that a text may have, None for any number.
        kind: its type as the type table writes it, None for one that it does not write.
    """

    is_required: bool
    word: str
    length: int | None
    kind: str | None

    @property
    def shown(self) -> str:
        """Its type, for messages."""
        return self.kind or (self.word if self.length is None else f"{self.word}({self.length})")

    def holds(self, declared: DeclaredType) -> bool:
        """Whether it keeps every value of a type as it is.

        PostgreSQL would round a number, and cut off a time or the blanks at a text's end, without a word.
        """
        is_text = self.word in {"text", "character varying"}
        if declared.is_text:
            return is_text and (self.length is None or self.length >= declared.size)
        if self.kind is not None:
            return holds(self.kind, declared.name)
        return self.length is None and (self.word in _UNCUT[declared.kind] or is_text)


def _prepare(session: Session, table: FeedTable) -> None:
    """See to it that the table is there and has what the feed needs; refuse one that cannot take its rows first."""
    place = (table.schema, table.table)
    is_there = _is_there(session, table)
    present = {
        name: _Column(is_required, word, length, kind_of(word, length, *digits))
        for name, is_required, word, length, *digits in session.execute(table.present(), place)
    }
    if is_there:
        _check(table, present, [set(names) for (names,) in session.execute(table.unique(), place)])
    for statement in table.setup():
        try:
            session.execute(statement)
        except CollisionError:
            session.execute(statement)  # now it exists
    for name in (*table.files.names, *OWN):
        if is_there and name not in present:
            session.execute(table.add(name))


def _is_there(session: Session, table: FeedTable) -> bool:
    """Whether there is such a table.

    Raises:
        PermanentError: there is something else of its name.
    """
    found = session.execute(table.relation(), (table.schema, table.table))
    if any(kind not in {"r", "p"} for (kind,) in found):
        raise _refused(
            f"{table.place} is no table (a view, or the like).",
            "Name another one as 'target' in the YAML, or move it away",
        )
    return bool(found)


def _check(table: FeedTable, present: Mapping[str, _Column], unique: Collection[set[str]]) -> None:
    """Refuse a table, of which nothing has been changed yet, that cannot take the rows of the feed.

    Raises:
        PermanentError: it is one.
    """
    if set(table.files.keys) not in unique:
        keys = ", ".join(table.files.keys)
        raise _refused(
            f"{table.place} is there already, but has no primary key and no unique constraint on exactly ({keys}), the "
            "key of the feed.",
            "Add one (a full one, not deferrable), or correct 'key' in the YAML",
        )
    for name, column in present.items():
        declared = next((each.declared for each in table.files.columns if each.name == name), None)
        if declared is not None and not column.holds(declared):
            raise _refused(
                f"The column {name} of {table.place} is {column.shown}, and the YAML says {declared.name}, which it "
                "does not hold.",
                "Alter the table, or correct the YAML",
            )
        if declared is None and column.word not in _OWN_KINDS.get(name, {column.word}):
            raise _refused(
                f"The column {name} of {table.place} is {column.shown}, and rds_lake keeps {OWN[name]} there.",
                "Alter it, or give it another name",
            )
        if column.is_required and (name == RAW or (declared is None and name not in OWN)):
            raise _refused(
                f"The column {name} of {table.place} needs a value, which the files of the feed do not bring.",
                "Give it a default, let it be NULL, or add it to the YAML",
            )


def _refused(problem: str, remedy: str) -> PermanentError:
    return PermanentError(problem, f"{remedy}; then drop the file again.")


def _fetch(store: FileStore, staged: Staged, part: IO[bytes]) -> None:
    """Read a file's cleaned rows from the bucket, anew in each attempt: the one before may have stopped half-way."""
    held = store.look(staged.part or "")
    if held is None:
        raise PermanentError(f"{store.url(staged.part or '')} is gone.", "Drop the file again.")
    part.seek(0)
    part.truncate()
    store.fetch(held, part)


def _bring(session: Session, table: FeedTable, staged: Staged, part: IO[bytes]) -> None:
    """Send the cleaned rows to PostgreSQL.

    Raises:
        TransientError: this process stood still; what the driver says of a COPY does not tell that.
    """
    last = time.time()  # that of the machine: it goes on while it is suspended
    for piece in _pieces(part):
        try:
            session.copy_in(table.copy(), piece)
        except TransientError as error:
            if (idle := time.time() - last) >= IDLE_SECONDS:
                raise TransientError(
                    f"PostgreSQL on RDS ended the session that was putting in {staged.name}, after {idle:,.0f} s "
                    "without a word of ours.",
                    STOOD_STILL,
                ) from error
            raise
        last = time.time()


def _pieces(part: IO[bytes]) -> Iterator[IO[bytes]]:
    """The cleaned rows as CSV, in pieces: NULL is an empty field, an empty text is `""`."""
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    for rows in pq.ParquetFile(part).iter_batches(PIECE_ROWS):
        piece = io.BytesIO()
        pyarrow.csv.write_csv(rows.cast(_written(rows.schema)), piece, options)
        piece.seek(0)
        yield piece


def _written(schema: pa.Schema) -> pa.Schema:
    """What the columns are written as: decimals as texts, which keep all of their digits."""
    return pa.schema([pa.field(f.name, pa.string() if pa.types.is_decimal(f.type) else f.type) for f in schema])
