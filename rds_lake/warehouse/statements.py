"""The SQL that is sent to Redshift, as pure text: tables, lock, COPY, the exchange of rows, the ledger.

Every statement here is Redshift's own dialect; a test parses each with a Redshift grammar. No statement holds a
credential (COPY names an IAM role), none is TRUNCATE (it would commit). Keys are not declared: Redshift would believe
them without keeping them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from rds_lake.cursors import Bound, bounds, cut, holds_nulls, warehouse_start, within
from rds_lake.extract.types import Column
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.sql import literal
from rds_lake.sql import quote as quote_in
from rds_lake.sql import quote_all as quote_all_in

quote = partial(quote_in, dialect="redshift")
quote_all = partial(quote_all_in, dialect="redshift")

INTERNAL_SCHEMA = "rds_lake"
"""Schema of the ledger and of the lock tables."""

LEDGER = f"{INTERNAL_SCHEMA}.load_ledger"

FILE_LEDGER = f"{INTERNAL_SCHEMA}.file_ledger"
"""The ledger of the files that are loaded into other tables."""

LEDGER_COLUMNS = (
    ("table_name", "VARCHAR(127) NOT NULL"),
    ("partition_key", "VARCHAR(32) NOT NULL"),
    ("batch_id", "VARCHAR(64) NOT NULL"),
    ("fingerprint", "VARCHAR(64) NOT NULL"),
    ("rules", "VARCHAR(64)"),
    ("manifest", "VARCHAR(1024) NOT NULL"),
    ("rows_staged", "BIGINT NOT NULL"),
    ("rows_loaded", "BIGINT NOT NULL"),
    ("loaded_at", "TIMESTAMP NOT NULL"),
    ("shape", "VARCHAR(64)"),
    ("target", "VARCHAR(260)"),
    ("lake", "VARCHAR(64)"),
)
"""One row per partition that is loaded: which batch, from which source state, how many rows, when (UTC), which columns,
into which table, and from which state of the lake.

A column that is added to this list is added to ledgers of earlier versions, so it must take NULL.
"""


@dataclass(frozen=True)
class Target:
    """The statements for one table of the warehouse.

    Attributes:
        spec: the table's YAML.
        columns: the columns of some staged batches, in the files' order (COPY reads Parquet by position).
        number: which of a load's incoming tables is meant; batches of other columns have another one.
    """

    spec: TableSpec
    columns: tuple[Column, ...]
    number: int = 0

    @property
    def schema(self) -> str:
        """The target's schema."""
        return self.spec.warehouse.db_schema.lower()  # Redshift folds names, quoted or not

    @property
    def name(self) -> str:
        """The target with its schema, quoted."""
        return f"{quote(self.schema)}.{quote(self.spec.warehouse_name.lower())}"

    @property
    def place(self) -> str:
        """The target as the ledger calls it."""
        return f"{self.schema}.{self.spec.warehouse_name.lower()}"

    @property
    def lock_table(self) -> str:
        """The small table that every writer of the target locks, so that readers of the target go on."""
        return f"{INTERNAL_SCHEMA}.{quote(f'lock_{self.spec.table}'.lower())}"

    @property
    def incoming(self) -> str:
        """The temporary table that COPY fills."""
        return quote(f"incoming_{self.spec.table}{f'_{self.number}' if self.number else ''}".lower())

    @property
    def _left(self) -> str:
        """The temporary table of the keys that stood in the partitions that are exchanged."""
        return quote(f"left_{self.spec.table}".lower())

    @property
    def text_keys(self) -> frozenset[str]:
        """The key columns that are text, which no warehouse compares with anything else."""
        return frozenset(key for key in self.spec.key if self._is_text(key))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(column.name.lower() for column in self.columns)

    def setup(self) -> list[str]:
        """What makes schema, ledger, lock table and target exist; each commits by itself, before the load."""
        ledger = ", ".join(f"{name} {kind}" for name, kind in LEDGER_COLUMNS)
        warehouse = self.spec.warehouse
        attributes = f" DISTKEY ({quote(warehouse.distribution_key.lower())})" if warehouse.distribution_key else ""
        if warehouse.sort_keys:
            attributes += f" SORTKEY ({quote_all([key.lower() for key in warehouse.sort_keys])})"
        return [
            f"CREATE SCHEMA IF NOT EXISTS {INTERNAL_SCHEMA}",
            f"CREATE SCHEMA IF NOT EXISTS {quote(self.schema)}",
            f"CREATE TABLE IF NOT EXISTS {LEDGER} ({ledger})",
            f"CREATE TABLE IF NOT EXISTS {self.lock_table} (holder SMALLINT)",
            f"CREATE TABLE IF NOT EXISTS {self.name} ({self._definitions()}){attributes}",
        ]

    def _definitions(self) -> str:
        return ", ".join(f"{quote(column.name.lower())} {column.mapped.redshift}" for column in self.columns)

    def create_incoming(self) -> str:
        """The temporary table, empty, in the files' column order; it ends with the session."""
        return f"CREATE TEMP TABLE {self.incoming} ({self._definitions()})"

    def lock(self) -> str:
        """Wait for other writers of the target; the first statement, so that the snapshot comes after it."""
        return f"LOCK {self.lock_table}"

    def copy(self, manifest_url: str, iam_role: str, *, direct: bool = False) -> str:
        """COPY of the files that a manifest names into the temporary table, or directly into the target."""
        into = self.name if direct else self.incoming
        return f"COPY {into} FROM {literal(manifest_url)} IAM_ROLE {literal(iam_role)} FORMAT AS PARQUET MANIFEST"

    def count_copied(self, *, direct: bool = False) -> str:
        """How many rows are where COPY brought them, by the start of their partition."""
        table = self.name if direct else self.incoming
        if self.spec.partitioning is None:
            return f"SELECT NULL AS start_of, COUNT(*) FROM {table}"
        return f"SELECT {warehouse_start(self.spec, self._cursor())} AS start_of, COUNT(*) FROM {table} GROUP BY 1"

    def any_row(self) -> str:
        """Whether the target has rows: 1, or 0 if it is empty."""
        return f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM {self.name} LIMIT 1) AS any_row"

    def delete_window(self, window: Window) -> tuple[str, tuple[Bound, ...]]:
        """What removes the target's rows of some whole partitions, and its parameters.

        Rows without a cursor value go with the first partition whatever the YAML says of them now: they may have been
        loaded when it said otherwise.
        """
        _, partitioning = cut(self.spec)
        nulls = window.lower <= partitioning.start < window.upper
        return f"DELETE FROM {self.name} WHERE {within(self._cursor(), nulls=nulls)}", bounds(self.spec, window)

    def delete_all(self) -> str:
        """Remove all of the target's rows, inside the transaction."""
        return f"DELETE FROM {self.name}"

    def count_held(self) -> str:
        """How many versions of incoming keys the target holds, by the start of their partition.

        First those that `delete_older` will remove, then those that are newer than one that comes in.
        """
        parts = [f"{self._exact(key, self.name)} AS key_{n}" for n, key in enumerate(self.spec.key)]
        start = warehouse_start(self.spec, f"{self.name}.{self._cursor()}")
        return (
            f"SELECT start_of, SUM(is_older), SUM(1 - is_older) FROM (SELECT DISTINCT {', '.join(parts)}, "
            f"{start} AS start_of, CASE WHEN {self._not_newer()} THEN 1 ELSE 0 END AS is_older "
            f"FROM {self.name} INNER JOIN {self.incoming} ON {self._same_key(self.incoming, self.name)}) "
            "AS versions GROUP BY 1"
        )

    def keep_keys(self, windows: Sequence[Window]) -> tuple[str, tuple[Bound, ...]]:
        """What writes down the keys that some whole partitions hold, before their rows go, and its parameters."""
        _, partitioning = cut(self.spec)
        names = quote_all([key.lower() for key in self.spec.key])
        inside = [within(self._cursor(), nulls=w.lower <= partitioning.start < w.upper) for w in windows]
        text = f"CREATE TEMP TABLE {self._left} AS SELECT {names} FROM {self.name} WHERE {' OR '.join(inside)}"
        return text, tuple(bound for window in windows for bound in bounds(self.spec, window))

    def count_lost_keys(self) -> str:
        """How many of those keys the target does not hold any more."""
        lost = f"NOT EXISTS (SELECT 1 FROM {self.name} WHERE {self._same_key(self._left, self.name)})"
        return f"SELECT COUNT(*) FROM {self._left} WHERE {lost}"

    def delete_older(self) -> str:
        """Remove versions of the incoming keys that are not newer than what comes in."""
        incoming = self.incoming
        same = self._same_key(incoming, self.name)
        return f"DELETE FROM {self.name} USING {incoming} WHERE {same} AND {self._not_newer()}"

    def insert(self) -> str:
        """Insert all incoming rows, of which none has a key that another one or the target has."""
        names = quote_all(self._names)
        return f"INSERT INTO {self.name} ({names}) SELECT {names} FROM {self.incoming}"

    def insert_newest(self) -> str:
        """Insert the newest version of each incoming key, unless the target holds a newer one."""
        names = quote_all(self._names)
        keys = ", ".join(self._exact(key) for key in self.spec.key)
        rank = "version_rank"
        while rank in self._names:
            rank += "_"
        return (
            f"INSERT INTO {self.name} ({names}) SELECT {names} FROM (SELECT {names}, ROW_NUMBER() OVER "
            f"(PARTITION BY {keys} ORDER BY {self._cursor()} DESC NULLS LAST) AS {rank} FROM {self.incoming}) "
            f"AS ranked WHERE {rank} = 1 AND NOT EXISTS (SELECT 1 FROM {self.name} AS held "
            f"WHERE {self._same_key('ranked', 'held')})"
        )

    def count_all(self) -> str:
        """How many rows the target has."""
        return f"SELECT COUNT(*) FROM {self.name}"

    def count_partitions(self, window: Window) -> tuple[str, tuple[Bound, ...]]:
        """A query for the target's rows in some whole partitions, by the start of each, and its parameters."""
        inside = within(self._cursor(), nulls=holds_nulls(self.spec, window))
        start = warehouse_start(self.spec, self._cursor())
        text = f"SELECT {start} AS start_of, COUNT(*) FROM {self.name} WHERE {inside} GROUP BY 1"
        return text, bounds(self.spec, window)

    def _cursor(self) -> str:
        cursor, _ = cut(self.spec)
        return quote(cursor.column.lower())

    def _not_newer(self) -> str:
        """Whether the target's version of a key is at most as new as the incoming one; none is older than any."""
        mine, theirs = (f"{table}.{self._cursor()}" for table in (self.name, self.incoming))
        return f"({mine} IS NULL OR {mine} <= {theirs})"

    def _exact(self, key: str, table: str | None = None) -> str:
        """A key column as an expression that is equal only where the values are.

        Redshift ignores trailing blanks when it compares text; a character after them makes them count.
        """
        name = quote(key.lower()) if table is None else f"{table}.{quote(key.lower())}"
        return f"{name} || '.'" if self._is_text(key) else name

    def _is_text(self, key: str) -> bool:
        return any(column.name == key and column.mapped.redshift.startswith("VARCHAR") for column in self.columns)

    def _same_key(self, one: str, other: str) -> str:
        """Whether two rows have the same key. The plain comparison stays: it is what a distribution key speeds up."""
        parts = [f"{other}.{name} = {one}.{name}" for name in (quote(key.lower()) for key in self.spec.key)]
        parts += [f"{self._exact(key, other)} = {self._exact(key, one)}" for key in self.spec.key if self._is_text(key)]
        return " AND ".join(parts)


def present_columns() -> str:
    """A query for the columns of a table of the warehouse in their order; parameters: schema, table."""
    return (
        "SELECT column_name, data_type, character_maximum_length, numeric_precision, numeric_scale, is_nullable, "
        "column_default FROM information_schema.columns WHERE table_schema = %s AND table_name = %s "
        "ORDER BY ordinal_position"
    )


ENTRY = ("batch_id", "fingerprint", "rules", "rows_staged", "rows_loaded", "shape", "target", "lake")
"""The ledger's columns of which an entry consists."""


def read_ledger(present: Collection[str]) -> str:
    """A query for the partitions of one table and their entries; parameter: the table.

    Args:
        present: the columns that the ledger has; one that an earlier version made has fewer.
    """
    kinds = dict(LEDGER_COLUMNS)
    asked = [name if name in present else f"CAST(NULL AS {kinds[name]}) AS {name}" for name in ENTRY]
    return f"SELECT partition_key, {', '.join(asked)} FROM {LEDGER} WHERE table_name = %s"


READ_SHAPES = f"SELECT DISTINCT shape FROM {LEDGER} WHERE table_name = %s"
"""The shapes in which partitions of a table are loaded; parameter: the table."""

FILES_OF = f"SELECT COUNT(*) FROM {FILE_LEDGER} WHERE table_name = %s"
"""How many files are loaded into a table; parameter: the table."""

READ_LOADS = f"SELECT DISTINCT manifest FROM {LEDGER} WHERE table_name = %s"
"""The addresses of the COPY manifests that a table's ledger rows name; parameter: the table."""

FORGET_ROWS = (
    f"UPDATE {LEDGER} SET rows_loaded = rows_loaded - %s, rows_staged = rows_staged - %s, fingerprint = '' "
    "WHERE table_name = %s AND partition_key = %s"
)
"""Record that a partition lost rows to newer ones: what it was loaded from is no longer what the source holds.

Parameters: how many, twice, the table, the partition.
"""


def doubt(partitions: int) -> str:
    """Take back the word that partitions are in step; parameters: the table, then the partitions."""
    return f"UPDATE {LEDGER} SET fingerprint = '' WHERE table_name = %s AND partition_key IN ({_marks(partitions)})"


def forget(partitions: int) -> str:
    """Remove partitions from the ledger; parameters: the table, then the partitions."""
    return f"DELETE FROM {LEDGER} WHERE table_name = %s AND partition_key IN ({_marks(partitions)})"


def remember(rows: int) -> str:
    """Write ledger rows; parameters: the values of `LEDGER_COLUMNS` for each row, one after the other."""
    names = ", ".join(name for name, _ in LEDGER_COLUMNS)
    return f"INSERT INTO {LEDGER} ({names}) VALUES {', '.join([f'({_marks(len(LEDGER_COLUMNS))})'] * rows)}"


def merge_windows(windows: Sequence[Window]) -> list[Window]:
    """Windows joined where one ends as the next begins, in order."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and merged[-1].upper == window.lower:
            merged[-1] = Window(merged[-1].lower, window.upper)
        else:
            merged.append(window)
    return merged


def _marks(count: int) -> str:
    return ", ".join(["%s"] * count)
