"""The split: one pass over a landed batch; valid rows go to staging, the others to discarded with the reasons.

DuckDB evaluates the rules over the rows as they stream through; the batches themselves are written by
`rds_lake.lake.batch`. Each landed row ends in exactly one of the two, which is counted here as well as checked later.
"""

import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from tempfile import mkdtemp
from threading import Lock

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.batch import BatchWriter, new_batch_id
from rds_lake.lake.files import open_batches
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest
from rds_lake.lake.store import ObjectStore
from rds_lake.quality.rules import (
    FILE,
    KEEPS,
    ROW,
    ROWS,
    CompiledRules,
    Lookup,
    applying_rules,
    compile_rules,
    engine_settings,
    fill_lookups,
    try_rules,
)
from rds_lake.spec import Stage, TableSpec

DISCARDED_FIELDS = (
    pa.field("_failed_rules", pa.list_(pa.string()), nullable=False),
    pa.field("_source_batch", pa.string(), nullable=False),
    pa.field(FILE, pa.string(), nullable=False),
    pa.field(ROW, pa.int64(), nullable=False),
)
"""What a discarded row carries beside all of its own columns: the rules it broke and where it came from."""

DISCARDED_GLUE_COLUMNS = (
    ("_failed_rules", "array<string>"),
    ("_source_batch", "string"),
    (FILE, "string"),
    (ROW, "bigint"),
)


@dataclass(frozen=True)
class Split:
    """The outcome for one landed batch; neither side is committed yet.

    Attributes:
        staging: the valid rows.
        discarded: the invalid rows; `details` counts them by rule (a row may break several).
    """

    staging: Manifest
    discarded: Manifest


class Splitter:
    """Splits landed batches of one table by its rules. Safe to use from several threads.

    Args:
        store: the lake's bucket.
        spec: the table's YAML.
        lookup_values: the present values of every lookup that the rules name.
    """

    def __init__(self, store: ObjectStore, spec: TableSpec, lookup_values: Mapping[Lookup, pa.Table]) -> None:
        self._store = store
        self._spec = spec
        self._keys = TableKeys.of(spec)
        self._lookup_values = lookup_values
        self._engine = Lock()
        self._ready: pa.Schema | None = None
        scratch = mkdtemp(prefix="rds_lake-")
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self._database = duckdb.connect(config=engine_settings(scratch))

    def rules(self, landed: Manifest) -> CompiledRules:
        """The rules for a landed batch."""
        columns = tuple(column.name for column in landed.columns)
        self._spec.check_columns(columns)
        _check_names(landed.table, columns)
        return compile_rules(self._spec, columns, source_unique=landed.source_unique, carried=landed.columns)

    def digest(self, landed: Manifest) -> str:
        """What identifies the rules for a landed batch, with the lookups' present values."""
        return self.rules(landed).digest(self._lookup_values)

    def split(self, landed: Manifest, staged: Manifest | None, discarded: Manifest | None) -> Split:
        """Split one landed batch.

        Args:
            landed: the batch.
            staged: the partition's current batch in staging.
            discarded: the partition's current batch in discarded.

        Raises:
            SpecError: a rule cannot be applied to the landed columns.
            PermanentError: rows were lost on the way, which nothing should be able to cause.
        """
        rules = self.rules(landed)
        schema = arrow_schema(landed.columns)
        drafts = self._drafts(landed, rules.digest(self._lookup_values))
        valid = BatchWriter(self._store, self._keys, drafts["staging"], schema)
        invalid = BatchWriter(self._store, self._keys, drafts["discarded"], pa.schema([*schema, *DISCARDED_FIELDS]))
        broken: dict[str, int] = {}
        try:
            for batch in self._evaluated(landed, schema, rules):
                failed = batch.column("_failed_rules")
                valid.write(batch.filter(failed.is_null()).select(schema.names).cast(schema))
                rest = batch.filter(failed.is_valid())
                if rest.num_rows:
                    invalid.write(_discard(rest, landed.batch, schema))
                    _count(rest.column("_failed_rules"), broken)
            done = Split(valid.finish(staged), replace(invalid.finish(discarded), details=dict(sorted(broken.items()))))
        except BaseException:
            valid.abandon()
            invalid.abandon()
            raise
        if done.staging.rows + done.discarded.rows != landed.rows:
            raise PermanentError(
                f"{landed.table} {landed.partition}: {landed.rows} rows were landed, but {done.staging.rows} "
                f"staged and {done.discarded.rows} discarded.",
                "Nothing was committed. Please report this with the landed batch: it must not happen.",
            )
        return done

    def _drafts(self, landed: Manifest, digest: str) -> dict[Stage, Manifest]:
        common = replace(
            landed, batch=new_batch_id(), parent=landed.batch, rules=digest, files=(), format="parquet", details={}
        )
        stages: tuple[Stage, ...] = ("staging", "discarded")
        return {stage: replace(common, stage=stage) for stage in stages}

    def _evaluated(self, landed: Manifest, schema: pa.Schema, rules: CompiledRules) -> Iterator[pa.RecordBatch]:
        marked = pa.schema([*schema, pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())])
        at_once: list[int] = []
        rows = self._landed_rows(landed, schema, marked, at_once)
        first = next(rows, None)  # fetched before the engine is taken, so that others may use it meanwhile
        if first is None:
            return
        with self._engine:  # one query at a time: DuckDB calls back into Python for the rows
            connection = self._database
            if marked != self._ready:
                fill_lookups(connection, rules, self._lookup_values, landed.table, landed.columns)
                try_rules(connection, rules, landed.table, marked)
                self._ready = marked
            batches = chain([first], rows)
            # The engine reads ahead and counts the rows, not their bytes: a portion is what it may hold of wide ones.
            for portion in ([batch] for batch in batches) if rules.row_by_row else [batches]:
                connection.register(ROWS, pa.RecordBatchReader.from_batches(marked, portion))
                try:
                    with applying_rules(landed.table, f"the partition {landed.partition}"):
                        yield from connection.execute(rules.select(ROWS)).to_arrow_reader(at_once[0])
                finally:
                    connection.unregister(ROWS)

    def _landed_rows(
        self, landed: Manifest, schema: pa.Schema, marked: pa.Schema, at_once: list[int]
    ) -> Iterator[pa.RecordBatch]:
        for file in landed.files:
            name = file.key.rsplit("/", 1)[-1]
            first = 0
            with open_batches(self._store, file, schema, landed.format) as batches:
                at_once.append(batches.at_once)
                for batch in batches:
                    count = batch.num_rows
                    names = pa.array([name], pa.string()).take(pa.array([0] * count, pa.int32()))
                    rows = pa.array(range(first, first + count), pa.int64())
                    yield pa.record_batch([*batch.columns, names, rows], schema=marked)
                    first += count


def needed_lookups(spec: TableSpec) -> tuple[Lookup, ...]:
    """The lookups that a table's rules read."""
    return compile_rules(spec, (), source_unique=True).lookups


def _check_names(table: str, columns: tuple[str, ...]) -> None:
    ours = {field.name for field in DISCARDED_FIELDS}
    for column in columns:
        if column.lower() in ours or column.lower().startswith(KEEPS):
            raise SpecError(
                f"{table}: the column '{column}' is called like one that the split adds to the source's.",
                "Read it through a view of the source that renames it (source_table in the table's defs.yaml).",
            )


def _discard(rows: pa.RecordBatch, batch: str, schema: pa.Schema) -> pa.RecordBatch:
    source_batch = pa.array([batch] * rows.num_rows, pa.string())
    own = [rows.column(name).cast(schema.field(name).type) for name in schema.names]
    marks = [rows.column("_failed_rules"), source_batch, rows.column(FILE), rows.column(ROW)]
    return pa.record_batch([*own, *marks], schema=pa.schema([*schema, *DISCARDED_FIELDS]))


def _count(failed: pa.Array, broken: dict[str, int]) -> None:
    for item in pc.value_counts(pc.list_flatten(failed)).to_pylist():
        broken[item["values"]] = broken.get(item["values"], 0) + item["counts"]
