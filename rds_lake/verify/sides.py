"""The three sides of the audit: MySQL in one snapshot, the lake's files through DuckDB, the warehouse.

Each answers the same questions in its own SQL. Rows pass through in portions; what has to be held for a comparison is
held by DuckDB, which goes to disk where memory ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Any

import duckdb
import pyarrow as pa
from pymysql.cursors import SSCursor

from rds_lake.errors import PermanentError
from rds_lake.extract.source import Connection, query
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.files import read_batches
from rds_lake.lake.manifest import File, Manifest
from rds_lake.lake.scratch import digest, scratch_file
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.quality.split import DISCARDED_FIELDS
from rds_lake.spec import TableSpec
from rds_lake.sql import literal, quote
from rds_lake.verify import cut
from rds_lake.verify.checksums import Sum
from rds_lake.verify.queries import Questions
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.migrate import kind_of
from rds_lake.warehouse.statements import Target, present_columns

PORTION_ROWS = 20_000
"""Rows that are taken from a server at a time."""

Row = tuple[Any, ...]


class DamagedError(PermanentError):
    """A file of the lake is not what its manifest says."""


class SourceSide:
    """The table in MySQL, in one consistent snapshot.

    Args:
        connection: a connection inside that snapshot.
        spec: the table's YAML.
    """

    def __init__(self, connection: Connection, spec: TableSpec) -> None:
        self._connection = connection
        self._spec = spec
        self._relation = quote(spec.source_name, "mysql")

    def sums(self, questions: Questions, window: Window | None, *, with_null: bool) -> dict[str, Sum]:
        """The sums of the partitions that have rows in a window."""
        where, parameters = cut.inside(self._spec, window, "mysql", with_null=with_null)
        text = questions.sums("mysql", self._relation, where, cut.partition_key(self._spec, "mysql"))
        found: dict[str, Sum] = {}
        for key, rows, checksum in query(self._connection, text, parameters):
            partition = cut.home_of_null(self._spec) if key is None else key
            if partition is not None:
                found[partition] = found.get(partition, Sum()) + Sum(int(rows), int(checksum))
        return found

    def hashes(self, questions: Questions, window: Window | None, *, with_null: bool) -> Iterator[list[Row]]:
        """The rows' hashes, in portions."""
        where, parameters = cut.inside(self._spec, window, "mysql", with_null=with_null)
        with self._connection.cursor(SSCursor) as cursor:
            cursor.execute(questions.hashes("mysql", self._relation, where), parameters)
            while rows := list(cursor.fetchmany(PORTION_ROWS)):
                yield rows

    def values(self, questions: Questions, keys: Sequence[str], window: Window | None, *, with_null: bool) -> list[Row]:
        """The rows of some keys."""
        where, parameters = cut.inside(self._spec, window, "mysql", with_null=with_null)
        where = f"{where} AND {questions.with_keys('mysql', len(keys))}"
        return query(self._connection, questions.values("mysql", self._relation, where), (*parameters, *keys))

    def above(self, window: Window | None, fence: datetime) -> int:
        """How many rows of a window (None for all) lie above the fence, so that no read takes them yet."""
        where, parameters = cut.above(self._spec, window, fence)
        [(rows,)] = query(self._connection, f"SELECT COUNT(*) FROM {self._relation} WHERE {where}", parameters)
        return int(rows)


class WarehouseSide:
    """The table in the warehouse.

    Args:
        session: an open session.
        target: the table.
    """

    def __init__(self, session: Session, target: Target) -> None:
        self._session = session
        self._target = target
        self._spec = target.spec
        place = (target.schema, target.spec.warehouse_name.lower())
        found = session.execute(present_columns(), place)
        self.columns: Mapping[str, str | None] = {name: kind_of(*given) for name, *given, _, _ in found}
        session.execute("SET extra_float_digits TO 2")  # else it would round what it shows of a FLOAT8

    def sums(self, questions: Questions, window: Window | None, *, with_null: bool) -> dict[str | None, Sum]:
        """The sums of the partitions that have rows in a window; None for rows that no partition holds."""
        if not self.columns:
            return {}
        where, parameters = cut.inside(self._spec, window, "redshift", with_null=with_null)
        text = questions.sums("warehouse", self._target.name, where, cut.partition_key(self._spec, "redshift"))
        found: dict[str | None, Sum] = {}
        for start, rows, checksum in self._session.execute(text, parameters):
            key = self._partition(start)
            found[key] = found.get(key, Sum()) + Sum(int(rows), int(checksum))
        return found

    def _partition(self, start: Any) -> str | None:  # noqa: ANN401 - what DATE_TRUNC returns
        partitioning = self._spec.partitioning
        if partitioning is None:
            return str(start)
        if start is None:
            return cut.home_of_null(self._spec)
        moment = start.replace(tzinfo=None)
        return partitioning.key(moment) if moment >= partitioning.start else None

    def hashes(self, questions: Questions, window: Window | None, *, with_null: bool) -> Iterator[list[Row]]:
        """The rows' hashes, in portions."""
        if not self.columns:
            return
        where, parameters = cut.inside(self._spec, window, "redshift", with_null=with_null)
        yield from self._stream(questions.hashes("warehouse", self._target.name, where), parameters)

    def values(self, questions: Questions, keys: Sequence[str], window: Window | None, *, with_null: bool) -> list[Row]:
        """The rows of some keys."""
        if not self.columns:
            return []
        where, parameters = cut.inside(self._spec, window, "redshift", with_null=with_null)
        where = f"{where} AND {questions.with_keys('warehouse', len(keys))}"
        return self._session.execute(questions.values("warehouse", self._target.name, where), (*parameters, *keys))

    def outside(self, questions: Questions, most: int) -> list[Row]:
        """Some rows that no partition holds."""
        where, parameters = cut.outside(self._spec)
        text = questions.values("warehouse", self._target.name, f"({where})")
        return self._session.execute(f"{text} ORDER BY kh LIMIT {most}", parameters)

    def delete_outside(self) -> str:
        """The statement that removes the rows that no partition holds, for a person to run."""
        where, parameters = cut.outside(self._spec)
        shown = (str(value) if isinstance(value, int) else literal(value.isoformat(" ")) for value in parameters)
        return f"DELETE FROM {self._target.name} WHERE {where % tuple(shown)}"

    def newest(self, questions: Questions) -> Iterator[list[Row]]:
        """For each row of the table: its key's hash and its cursor, in portions."""
        if self._spec.cursor is None or not self.columns:
            return
        name = quote(self._spec.cursor.column.lower(), "redshift")
        yield from self._stream(f"SELECT {questions.key_hash('warehouse')}, {name} FROM {self._target.name}", ())

    def _stream(self, text: str, parameters: tuple[Any, ...]) -> Iterator[list[Row]]:
        with self._session.transaction():
            self._session.execute(f"DECLARE audited CURSOR FOR {text}", parameters)
            while rows := self._session.execute(f"FETCH FORWARD {PORTION_ROWS} FROM audited"):
                yield rows


class LakeSide:
    """The files that manifests name. Safe to use from several threads; one query at a time.

    Args:
        store: the lake's bucket.
        engine: an open DuckDB connection.
    """

    def __init__(self, store: ObjectStore, engine: duckdb.DuckDBPyConnection) -> None:
        self._store = store
        self.engine = engine
        self._lock = Lock()

    def sum(self, questions: Questions, manifest: Manifest) -> Sum:
        """The sum of a batch.

        Raises:
            DamagedError: a file is missing, cannot be read, or is not the one that was written.
        """
        found = Sum()
        for file in manifest.files:
            with self._rows(file, manifest) as relation:
                [(rows, checksum)] = self.engine.execute(questions.sums("lake", relation)).fetchall()
            if rows != file.rows:
                raise DamagedError(
                    f"{self._store.url(file.key)} holds {rows:,} rows, the manifest says {file.rows:,}.", _REMEDY
                )
            found += Sum(rows, int(checksum))
        return found

    def insert(self, questions: Questions, manifest: Manifest, insert: str) -> None:
        """Insert a batch's hashes into a table of the engine.

        Args:
            questions: what is asked.
            manifest: the batch.
            insert: the INSERT; `{0}` stands for the query of the hashes.
        """
        for file in manifest.files:
            with self._rows(file, manifest) as relation:
                self.engine.execute(insert.format(f"({questions.hashes('lake', relation)})"))

    def values(self, questions: Questions, manifest: Manifest, keys: Sequence[str]) -> list[Row]:
        """The rows of some keys."""
        found: list[Row] = []
        for file in manifest.files:
            with self._rows(file, manifest) as relation:
                text = questions.values("lake", relation, questions.with_keys("lake", len(keys)))
                found += self.engine.execute(text, list(keys)).fetchall()
        return found

    @contextmanager
    def _rows(self, file: File, manifest: Manifest) -> Iterator[str]:
        """A file's rows as a relation of the engine, which is held until the end."""
        schema = arrow_schema(manifest.columns)
        if manifest.stage == "discarded":
            schema = pa.schema([*schema, *DISCARDED_FIELDS])
        url = self._store.url(file.key)
        with scratch_file() as content:
            self._check(file, url)
            self._store.download(file.key, content, file.size)
            if digest(content) != file.sha256:
                raise DamagedError(f"{url} is not the file that was written: its SHA-256 is another one.", _REMEDY)
            with self._lock:
                try:
                    batches = read_batches(content, schema, manifest.format)
                    self.engine.register("lake_rows", pa.RecordBatchReader.from_batches(schema, batches))
                    yield "lake_rows"
                except (pa.ArrowException, duckdb.Error) as error:
                    raise DamagedError(f"{url} cannot be read: {error}.", _REMEDY) from error
                finally:
                    self.engine.unregister("lake_rows")

    def _check(self, file: File, url: str) -> None:
        size = self._store.size(file.key)
        if size is None:
            raise DamagedError(f"{url} is not there, though the manifest names it.", _REMEDY)
        if size != file.size:
            raise DamagedError(f"{url} has {size:,} bytes, the manifest says {file.size:,}.", _REMEDY)


_REMEDY = "Land the partition again: 'rds-lake sync TABLE --since ... --until ... --again'."
