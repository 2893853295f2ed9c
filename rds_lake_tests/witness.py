"""An independent reader of everything that a table is: the source, the lake's stages, the catalog, the warehouse.

It uses pymysql, boto3, pyarrow and psycopg2 and the documented formats only. `judge` compares all of it row by row when
nothing runs; a `Watch` reads all the while that something does, and accepts whole batches only: each partition as it
was before, or as it will be after. `Saved` puts lake, catalog and warehouse back to where they were.

How a reader has to read: the manifest (or the partition in the catalog) first, then the files that it names. A file
that is gone by then has been moved or replaced since: read the manifest again. Only a file that the manifest still
names must be there.
"""

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow.parquet as pq
from pipeline import LAKE, Row, World, client, plain_rows, redshift

from rds_lake.spec import TableSpec

WHOLE = "all"
Rows = Counter[Row]
Content = dict[str, dict[str, Rows]]
"""Rows by stage and partition; a partition without rows is left out."""

PAUSE = 0.015
"""Seconds between two reads of a `Watch`: it shall look often, and not take the machine from those it looks at."""

AGAIN = 10
"""How often a reader looks again before it complains that what is named is not there."""


@dataclass(frozen=True)
class Subject:
    """A table under observation.

    Attributes:
        world: where it lives.
        spec: its YAML.
        good: whether a row of the source keeps all rules.
    """

    world: World
    spec: TableSpec
    good: Callable[[Row], bool]

    def partition(self, row: Row) -> str:
        """The partition of a row (of days, with the cursor as second column)."""
        return WHOLE if self.spec.cursor is None else f"{row[1]:%Y-%m-%d}"

    def cut(self, rows: Any) -> dict[str, Rows]:
        """Rows by partition."""
        found: dict[str, Rows] = {}
        for row in rows:
            found.setdefault(self.partition(row), Counter())[row] += 1
        return found

    def wanted(self) -> Content:
        """What each stage must hold, from the source as it is now."""
        source = plain_rows(self.world.ask(f"SELECT * FROM {self.spec.source_name}"))
        everything = self.cut(source)
        good = self.cut(row for row in source if self.good(row))
        bad = self.cut(row for row in source if not self.good(row))
        return {"landing": everything, "archived": everything, "staging": good, "discarded": bad, "warehouse": good}


@dataclass
class Verdict:
    """What a comparison found: rows that are missing, there too often, or of nowhere; and everything else."""

    lost: int = 0
    doubled: int = 0
    strange: int = 0
    orphans: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong; files that no manifest names are not wrong."""
        return not (self.lost or self.doubled or self.strange or self.problems)


def judge(subject: Subject) -> Verdict:
    """Compare source, lake, catalog, ledger and warehouse, row by row, while nothing runs."""
    world, spec = subject.world, subject.spec
    wanted = subject.wanted()
    verdict = Verdict()
    manifests = {stage: world.manifests(spec.table, stage) for stage in LAKE}
    for stage in LAKE:
        partitions = manifests[stage].keys() | wanted[stage].keys()
        for partition in partitions:
            entries = manifests[stage].get(partition, {}).get("entries", [])
            rows = Counter(row for entry in entries for row in parquet_rows(world.get(key_of(world, entry))))
            _compare(verdict, f"{stage} {partition}", wanted[stage].get(partition, Counter()), rows)
    loaded = subject.cut(plain_rows(world.query(_select(spec))))
    for partition in loaded.keys() | wanted["warehouse"].keys():
        good = wanted["warehouse"].get(partition, Counter())
        _compare(verdict, f"warehouse {partition}", good, loaded.get(partition, Counter()))
    _judge_catalog(subject, manifests, verdict)
    _judge_ledger(subject, manifests, loaded, verdict)
    named = {key_of(world, entry) for by in manifests.values() for m in by.values() for entry in m["entries"]}
    verdict.orphans = len(
        [key for key in world.objects(f"{spec.table}/") if "/_manifests/" not in key and key not in named]
    )
    return verdict


def _compare(verdict: Verdict, where: str, wanted: Rows, found: Rows) -> None:
    missing, extra = wanted - found, found - wanted
    doubled = Counter({row: count for row, count in extra.items() if row in wanted})
    verdict.lost += missing.total()
    verdict.doubled += doubled.total()
    verdict.strange += extra.total() - doubled.total()
    if missing or extra:
        verdict.problems.append(f"{where}: missing {dict(missing)}, too much {dict(extra)}")


def _judge_catalog(subject: Subject, manifests: Mapping[str, Mapping[str, Any]], verdict: Verdict) -> None:
    world, spec = subject.world, subject.spec
    for stage in LAKE:
        named = {
            partition: sorted(key_of(world, entry) for entry in manifest["entries"])
            for partition, manifest in manifests[stage].items()
            if manifest["entries"] and stage != "landing"
        }
        shown = {
            partition: sorted(world.objects(world.key(location)))
            for partition, location in locations(world.client("glue"), subject, stage).items()
        }
        shown = {partition: keys for partition, keys in shown.items() if keys or spec.cursor}
        if named != shown:
            verdict.problems.append(f"the catalog's {stage} shows {shown}, the manifests name {named}")


def _judge_ledger(
    subject: Subject, manifests: Mapping[str, Mapping[str, Any]], loaded: Mapping[str, Rows], verdict: Verdict
) -> None:
    for partition, manifest in manifests["staging"].items():
        rows = [row for row in subject.world.ledger(subject.spec).elements() if row[0] == partition]
        fingerprint = manifests["landing"][partition]["fingerprint"]
        count = loaded.get(partition, Counter()).total()
        wanted = [(partition, manifest["batch"], fingerprint, manifest["rules"], manifest["rows"], count)]
        found = [row[:4] + row[5:] for row in rows]
        if found != wanted:
            verdict.problems.append(f"the ledger says {found} of {partition}, not {wanted}")
        parents = {manifests[stage].get(partition, {}).get("parent") for stage in ("staging", "discarded", "archived")}
        if parents != {manifests["landing"][partition]["batch"]}:
            verdict.problems.append(f"{partition} was not made from one landed batch: {parents}")


def locations(glue: Any, subject: Subject, stage: str) -> dict[str, str]:
    """Where the catalog says that a stage's partitions are."""
    database, table = subject.world.environ["RDS_LAKE_GLUE_DATABASE"], f"{subject.spec.table}_{stage}"
    try:
        if subject.spec.cursor is None:
            found = glue.get_table(DatabaseName=database, Name=table)["Table"]
            return {WHOLE: found["StorageDescriptor"]["Location"]}
        pages = glue.get_paginator("get_partitions").paginate(DatabaseName=database, TableName=table)
        parts = [part for page in pages for part in page["Partitions"]]
    except glue.exceptions.EntityNotFoundException:
        return {}
    return {part["Values"][0]: part["StorageDescriptor"]["Location"] for part in parts}


@lru_cache(maxsize=512)
def parquet_rows(content: bytes) -> list[Row]:
    """The rows of a Parquet file, without the columns that `discarded` has at the end."""
    read = pq.ParquetFile(io.BytesIO(content)).read(use_threads=False)
    columns = [column for name, column in zip(read.column_names, read.columns, strict=True) if name[0] != "_"]
    return plain_rows(zip(*(column.to_pylist() for column in columns), strict=True))


def _padded(row: Row, width: int) -> Row:
    return (*row, *[None] * (width - len(row)))


def key_of(world: World, entry: Mapping[str, Any]) -> str:
    """The key of a manifest's entry."""
    return world.key(entry["url"])


def _select(spec: TableSpec) -> str:
    return f'SELECT * FROM "{spec.warehouse.db_schema}"."{spec.warehouse_name}"'


# --- a state, put back ---------------------------------------------------------------------------------------------


class Saved:
    """Lake, catalog and warehouse of a table as they were when this was made."""

    def __init__(self, subject: Subject) -> None:
        self._world = subject.world
        self._prefix = f"{subject.spec.table}/"
        self._objects = {key: self._world.get(key) for key in self._world.objects(self._prefix)}
        self._catalog = self._read_catalog()
        self._world.query("CREATE SCHEMA IF NOT EXISTS saved")
        for (name,) in self._world.query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'saved'"
        ):
            self._world.query(f'DROP TABLE saved."{name}"')
        self._tables = self._present()
        self._columns = {table: self._columns_of(*table) for table in self._tables}
        for schema, name in self._tables:
            self._world.query(f'CREATE TABLE saved."{schema}.{name}" AS SELECT * FROM "{schema}"."{name}"')

    def restore(self) -> None:
        """Put all of it back."""
        s3 = self._world.client("s3")
        for key in self._world.objects(self._prefix):
            if key not in self._objects:
                s3.delete_object(Bucket=self._world.bucket, Key=key)
        for key, content in self._objects.items():
            self._world.put(key, content)
        self._write_catalog()
        for schema, name in self._present():
            if (schema, name) in self._tables:
                for column in self._columns_of(schema, name) - self._columns[schema, name]:
                    self._world.query(f'ALTER TABLE "{schema}"."{name}" DROP COLUMN "{column}"')
                self._world.query(f'DELETE FROM "{schema}"."{name}"')
                self._world.query(f'INSERT INTO "{schema}"."{name}" SELECT * FROM saved."{schema}.{name}"')
            else:
                self._world.query(f'DROP TABLE "{schema}"."{name}"')

    def _present(self) -> list[Row]:
        return self._world.query(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema IN ('public', 'rds_lake')"
        )

    def _columns_of(self, schema: str, name: str) -> set[str]:
        text = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        return {column for (column,) in self._world.query(text, (schema, name))}

    def _read_catalog(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        glue, database = self._world.client("glue"), self._world.environ["RDS_LAKE_GLUE_DATABASE"]
        try:
            tables = glue.get_tables(DatabaseName=database)["TableList"]
        except glue.exceptions.EntityNotFoundException:
            return []
        kept = ("Name", "Description", "TableType", "Parameters", "PartitionKeys", "StorageDescriptor")
        found = []
        for table in tables:
            parts = glue.get_partitions(DatabaseName=database, TableName=table["Name"])["Partitions"]
            inputs = [{"Values": part["Values"], "StorageDescriptor": part["StorageDescriptor"]} for part in parts]
            found.append(({name: table[name] for name in kept if name in table}, inputs))
        return found

    def _write_catalog(self) -> None:
        glue, database = self._world.client("glue"), self._world.environ["RDS_LAKE_GLUE_DATABASE"]
        try:
            present = glue.get_tables(DatabaseName=database)["TableList"]
        except glue.exceptions.EntityNotFoundException:
            return
        for table in present:
            glue.delete_table(DatabaseName=database, Name=table["Name"])
        for table, parts in self._catalog:
            glue.create_table(DatabaseName=database, TableInput=table)
            if parts:
                glue.batch_create_partition(DatabaseName=database, TableName=table["Name"], PartitionInputList=parts)


# --- reading all the while -----------------------------------------------------------------------------------------


class Watch:
    """A reader of its own that looks at lake, catalog and warehouse all the while.

    Args:
        subject: the table.
        before: what each stage held before the change.
        after: what each stage holds after it.
    """

    def __init__(self, subject: Subject, before: Content, after: Content) -> None:
        self._subject = subject
        self._before = before
        self._after = after
        self._s3 = client(subject.world.environ, "s3")
        self._glue = client(subject.world.environ, "glue")
        self._running = threading.Lock()
        self._stopped = threading.Event()
        self.reads = 0
        self.again = 0
        self.violations: list[str] = []
        self.error: BaseException | None = None

    @contextmanager
    def on(self) -> Iterator["Watch"]:
        """Read until the end of the block."""
        thread = threading.Thread(target=self._live)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()
        if self.error is not None:
            raise self.error

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not read, while the test itself puts things back."""
        with self._running:
            yield

    def _live(self) -> None:
        try:
            with redshift(self._subject.world.environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
                while not self._stopped.is_set():
                    for look in self._looks(cursor):
                        with self._running:
                            look()
                        if self._stopped.wait(PAUSE):
                            break
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread, which raises it
            self.error = error

    def _looks(self, cursor: Any) -> list[Callable[[], None]]:
        partitions = sorted({key for by in (self._before, self._after) for rows in by.values() for key in rows})
        looks: list[Callable[[], None]] = [lambda: self._warehouse(cursor)]
        for stage in LAKE:
            looks += [lambda s=stage, p=partition: self._by_manifest(s, p) for partition in partitions]  # type: ignore[misc]
            looks += [lambda s=stage: self._by_catalog(s), lambda: self._warehouse(cursor)]  # type: ignore[misc]
        return looks

    def _accept(self, how: str, stage: str, partition: str, rows: Rows) -> None:
        self.reads += 1
        whole = [content.get(stage, {}).get(partition, Counter()) for content in (self._before, self._after)]
        if rows not in whole:
            self.violations.append(
                f"{how} {stage} {partition}: {rows.total()} rows, {[w.total() for w in whole]} are whole"
            )

    def _by_manifest(self, stage: str, partition: str) -> None:
        key, seen = f"{self._subject.spec.table}/_manifests/{stage}/{partition}.json", None
        for _ in range(AGAIN):
            body = self._get(key)
            if body is None:
                if self._before.get(stage, {}).get(partition):
                    self.violations.append(f"the manifest {key} is gone")
                return
            if body == seen:
                self.violations.append(f"the manifest {key} names a file that is not there")
                return
            files = [self._get(key_of(self._subject.world, entry)) for entry in json.loads(body)["entries"]]
            if None not in files:
                self._accept("manifest", stage, partition, self._rows(files))
                return
            seen = body
            self.again += 1

    def _by_catalog(self, stage: str) -> None:
        shown = locations(self._glue, self._subject, stage)
        for partition, location in shown.items():
            self._at(stage, partition, location)
        if stage == "landing":
            return  # vacated on purpose: the archive has it
        for partition, rows in self._before.get(stage, {}).items():
            if rows and self._after[stage].get(partition) and partition not in shown:
                self.violations.append(f"the catalog lost {stage} {partition}")

    def _at(self, stage: str, partition: str, location: str) -> None:
        prefix = self._subject.world.key(location)
        for _ in range(AGAIN):
            keys = [
                item["Key"]
                for item in self._s3.list_objects_v2(Bucket=self._subject.world.bucket, Prefix=prefix).get(
                    "Contents", []
                )
            ]
            files = [self._get(key) for key in keys]
            if files and None not in files:
                self._accept("catalog", stage, partition, self._rows(files))
                return
            self.again += 1
            now = locations(self._glue, self._subject, stage).get(partition)
            if now is None or (not files and self._may_be_empty(stage, partition)):
                return
            if now == location and not files:
                self.violations.append(f"the catalog's {stage} {partition} points at nothing: {location}")
                return
            prefix = self._subject.world.key(now)

    def _may_be_empty(self, stage: str, partition: str) -> bool:
        """Landing is vacated on purpose; a table without partitions stays in the catalog when a stage has no rows."""
        if stage == "landing":
            return True
        if self._subject.spec.cursor is not None:
            return False
        return not all(by.get(stage, {}).get(partition) for by in (self._before, self._after))

    def _rows(self, files: list[bytes | None]) -> Rows:
        return Counter(row for content in files if content is not None for row in parquet_rows(content))

    def _get(self, key: str) -> bytes | None:
        try:
            content: bytes = self._s3.get_object(Bucket=self._subject.world.bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return content

    def _warehouse(self, cursor: Any) -> None:
        spec = self._subject.spec
        cursor.execute("SELECT to_regclass(%s)", (f'"{spec.warehouse.db_schema}"."{spec.warehouse_name}"',))
        if cursor.fetchone()[0] is None:
            return
        cursor.execute(_select(spec))
        width = len(cursor.description)
        found = self._subject.cut(plain_rows(cursor.fetchall()))
        for partition in found.keys() | self._before.get("warehouse", {}).keys():
            self._accept_loaded(partition, found.get(partition, Counter()), width)
        self._accept_keys(Counter(row[0] for rows in found.values() for row in rows.elements()))

    def _accept_loaded(self, partition: str, rows: Rows, width: int) -> None:
        """A partition of the warehouse may also lack what has already been loaded in a newer partition.

        Columns that were added to the table are NULL in it until the load.
        """
        elsewhere = {row[0] for other, held in self._after["warehouse"].items() if other > partition for row in held}
        before = self._before.get("warehouse", {}).get(partition, Counter())
        left = Counter({_padded(row, width): count for row, count in before.items() if row[0] not in elsewhere})
        if rows == left:
            self.reads += 1
        else:
            self._accept("warehouse", "warehouse", partition, rows)

    def _accept_keys(self, keys: Counter[Any]) -> None:
        both = [
            {row[0] for rows in by.get("warehouse", {}).values() for row in rows} for by in (self._before, self._after)
        ]
        if missing := (both[0] & both[1]) - keys.keys():
            self.violations.append(f"the warehouse lacks the keys {sorted(missing)}")
        if doubled := [key for key, count in keys.items() if count > 1]:
            self.violations.append(f"the warehouse has the keys {doubled} twice")
