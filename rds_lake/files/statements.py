"""The SQL of loading files into Redshift, as pure text; each statement is Redshift's own dialect.

Beside the tables there is one ledger of files, `rds_lake.file_ledger`, whose rows are written in the data's own
transaction: it alone says what is loaded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rds_lake.sql import literal
from rds_lake.sql import quote as quote_in
from rds_lake.sql import quote_all as quote_all_in
from rds_lake.warehouse.statements import FILE_LEDGER, INTERNAL_SCHEMA, LEDGER

quote = partial(quote_in, dialect="redshift")
quote_all = partial(quote_all_in, dialect="redshift")

FILE_LEDGER_COLUMNS = (
    ("table_name", "VARCHAR(260) NOT NULL"),
    ("file_id", "VARCHAR(64) NOT NULL"),
    ("landed_at", "TIMESTAMP NOT NULL"),
    ("action", "VARCHAR(16) NOT NULL"),
    ("file_name", "VARCHAR(4096) NOT NULL"),
    ("content", "VARCHAR(64) NOT NULL"),
    ("manifest", "VARCHAR(4096) NOT NULL"),
    ("rows_loaded", "BIGINT NOT NULL"),
    ("loaded_at", "TIMESTAMP NOT NULL"),
)
"""One row per file: of which table, when it landed, what it did, which bytes, from which manifest, how many rows."""

SUPERSEDED = "superseded"
"""The action of a file that had no effect, because a truncate that landed later was loaded before it."""

REPEATED = "repeated"
"""The action of an appended file whose rows are not in, because those of another one of its name and bytes are."""

LOCK_BYTES = 40
"""Bytes of the table's own name in that of its lock: PostgreSQL cuts names off after 63."""

_NAMES = ", ".join(name for name, _ in FILE_LEDGER_COLUMNS)
_ENTRY = "file_id, landed_at, action, file_name, content, manifest, rows_loaded"


@dataclass(frozen=True)
class FileTarget:
    """The statements for one table that files are loaded into.

    Attributes:
        schema: its schema.
        table: its name.
        columns: names and types of the columns that some files bring.
        keys: the columns that identify a row.
        line: the column of staged files that says which line a row is from; it stays out of the table.
    """

    schema: str
    table: str
    columns: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    line: str

    @property
    def name(self) -> str:
        """The table with its schema, quoted."""
        return f"{quote(self.schema)}.{quote(self.table)}"

    @property
    def place(self) -> str:
        """The table as the ledger calls it."""
        return f"{self.schema}.{self.table}"

    @property
    def lock_table(self) -> str:
        """The small table that every load of the target locks, so that readers of the target go on.

        A name that the server would cut off might become that of another table's lock.
        """
        begin = f"{self.schema}_{self.table}".encode()[:LOCK_BYTES].decode(errors="ignore")
        digest = hashlib.sha256(self.place.encode()).hexdigest()[:8]
        return f"{INTERNAL_SCHEMA}.{quote(f'lock_file_{begin}_{digest}')}"

    @property
    def incoming(self) -> str:
        """The temporary table that COPY fills."""
        return quote("incoming_file")

    def setup_ledger(self) -> list[str]:
        """What makes the ledger and the lock table exist; each commits by itself, before the load."""
        ledger = ", ".join(f"{name} {kind}" for name, kind in FILE_LEDGER_COLUMNS)
        return [
            f"CREATE SCHEMA IF NOT EXISTS {INTERNAL_SCHEMA}",
            f"CREATE TABLE IF NOT EXISTS {FILE_LEDGER} ({ledger})",
            f"CREATE TABLE IF NOT EXISTS {self.lock_table} (holder SMALLINT)",
        ]

    def setup(self) -> list[str]:
        """What makes schema and target exist, likewise."""
        return [
            f"CREATE SCHEMA IF NOT EXISTS {quote(self.schema)}",
            f"CREATE TABLE IF NOT EXISTS {self.name} ({_definitions(self.columns)})",
        ]

    def lock(self) -> str:
        """Wait for other loads of the target; the first statement, so that the snapshot comes after it."""
        return f"LOCK {self.lock_table}"

    def create_incoming(self) -> str:
        """The temporary table, in the files' own column order, which COPY of Parquet goes by."""
        return f"CREATE TEMP TABLE {self.incoming} ({_definitions((*self.columns, (self.line, 'BIGINT')))})"

    def drop_incoming(self) -> str:
        """Make room for files with other columns."""
        return f"DROP TABLE {self.incoming}"

    def clear_incoming(self) -> str:
        """Empty the temporary table."""
        return f"DELETE FROM {self.incoming}"

    def copy(self, manifest_url: str, iam_role: str) -> str:
        """COPY of the staged files that a manifest names."""
        source = f"{literal(manifest_url)} IAM_ROLE {literal(iam_role)}"
        return f"COPY {self.incoming} FROM {source} FORMAT AS PARQUET MANIFEST"

    def count_incoming(self) -> str:
        """How many rows COPY brought."""
        return f"SELECT COUNT(*) FROM {self.incoming}"

    def any_row(self) -> str:
        """Whether the table has rows: 1, or 0 if it is empty."""
        return f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM {self.name} LIMIT 1) AS any_row"

    def delete_all(self) -> str:
        """Remove all rows, inside the transaction."""
        return f"DELETE FROM {self.name}"

    def delete_same_keys(self) -> str:
        """Remove the rows whose keys come in."""
        texts = {name for name, kind in self.columns if kind.startswith("VARCHAR")}
        same = []
        for key in self.keys:
            mine, theirs = f"{self.name}.{quote(key)}", f"{self.incoming}.{quote(key)}"
            same.append(f"{mine} = {theirs}")
            if key in texts:  # Redshift ignores trailing blanks when it compares; a character after them counts
                same.append(f"{mine} || '.' = {theirs} || '.'")
        return f"DELETE FROM {self.name} USING {self.incoming} WHERE {' AND '.join(same)}"

    def insert(self) -> str:
        """Insert what came in."""
        names = quote_all([name for name, _ in self.columns])
        return f"INSERT INTO {self.name} ({names}) SELECT {names} FROM {self.incoming}"


def _definitions(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{quote(name)} {kind}" for name, kind in columns)


def entries_of(count: int) -> str:
    """A query for the ledger's entries of some files; parameters: the table, then their ids."""
    marks = ", ".join(["%s"] * count)
    return f"SELECT {_ENTRY} FROM {FILE_LEDGER} WHERE table_name = %s AND file_id IN ({marks})"


def limit_wait(seconds: int) -> str:
    """Have the session's statements end after some time, until `UNLIMITED`."""
    return f"SET statement_timeout TO {1000 * seconds}"


UNLIMITED = "RESET statement_timeout"
"""Have the session's statements take as long as the user's may."""


ENTRIES_SINCE = (
    f"SELECT {_ENTRY} FROM {FILE_LEDGER} WHERE table_name = %s AND landed_at >= %s AND action <> '{SUPERSEDED}'"
)
"""The entries of a table's files that landed at a moment or later; parameters: the table, the moment."""


def entries_of_content(count: int) -> str:
    """A query for the appended files of some contents; parameters: the table, then the digests."""
    marks = ", ".join(["%s"] * count)
    return f"SELECT {_ENTRY} FROM {FILE_LEDGER} WHERE table_name = %s AND action = 'append' AND content IN ({marks})"


TRUNCATES = f"SELECT {_ENTRY} FROM {FILE_LEDGER} WHERE table_name = %s AND action = 'truncate'"
"""The entries of the files that replaced a table's content; parameter: the table."""


REVIVE = f"UPDATE {FILE_LEDGER} SET action = 'append', rows_loaded = %s WHERE table_name = %s AND file_id = %s"
"""Record that the rows of a repeat are in after all; parameters: how many, the table, the file."""


def remember(rows: int) -> str:
    """Write ledger rows; parameters: the values of `FILE_LEDGER_COLUMNS` for each, one after the other."""
    marks = ", ".join(["%s"] * len(FILE_LEDGER_COLUMNS))
    return f"INSERT INTO {FILE_LEDGER} ({_NAMES}) VALUES {', '.join([f'({marks})'] * rows)}"


PIPELINE_OF = f"SELECT table_name FROM {LEDGER} WHERE target = %s LIMIT 1"
"""The pipeline that loads a table of the warehouse; parameter: the table."""
