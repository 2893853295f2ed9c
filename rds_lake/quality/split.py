"""The split: one pass over a landed batch; valid rows go to staging, the others to discarded with the reasons.

Rows are read and judged (`rds_lake.quality.judge`) in one thread, while those before them are written by
`rds_lake.lake.batch` in another. Each landed row ends in exactly one of the two, which is counted here as well as
checked later.
"""

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.batch import BatchWriter, new_batch_id
from rds_lake.lake.files import open_batches
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest
from rds_lake.lake.store import ObjectStore
from rds_lake.quality.judge import Judge, Judged, Rows
from rds_lake.quality.rules import FILE, KEEPS, ROW, CompiledRules, Lookup, compile_rules
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


Item = TypeVar("Item")


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
        self._judge = Judge(lookup_values)

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
        valid = BatchWriter(self._store, self._keys, drafts["staging"], schema, send_early=staged is None)
        with_reasons = pa.schema([*schema, *DISCARDED_FIELDS])
        invalid = BatchWriter(self._store, self._keys, drafts["discarded"], with_reasons, send_early=discarded is None)
        broken: dict[str, int] = {}
        try:
            with _ahead(self._divided(landed, schema, rules)) as parts:
                for keeping, others in parts:
                    valid.write(keeping)
                    if others is not None:
                        invalid.write(others)
                        _count(others.column("_failed_rules"), broken)
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

    def _divided(
        self, landed: Manifest, schema: pa.Schema, rules: CompiledRules
    ) -> Generator[tuple[pa.RecordBatch, pa.RecordBatch | None], None, None]:
        """The landed rows, some at a time: those that keep the rules, and the others, if there are any."""
        for part in self._judge.judged(landed, rules, lambda dictionaries: self._rows(landed, schema, dictionaries)):
            yield part.valid(), _discarded(part, landed.batch) if len(part.bad) else None

    def _rows(self, landed: Manifest, schema: pa.Schema, dictionaries: bool) -> Iterator[Rows]:
        before = 0
        for file in landed.files:
            name = file.key.rsplit("/", 1)[-1]
            first = before
            with open_batches(self._store, file, schema, landed.format, dictionaries=dictionaries) as batches:
                for batch in batches:
                    yield Rows(batch, name, before - first, before)
                    before += batch.num_rows


@contextmanager
def _ahead(items: Generator[Item, None, None]) -> Iterator[Iterator[Item]]:
    """Items that are made in a thread of their own, one ahead of the one that is used."""
    with ThreadPoolExecutor(1) as pool:

        def made() -> Iterator[Item]:
            upcoming = pool.submit(next, items, None)
            while (item := upcoming.result()) is not None:
                upcoming = pool.submit(next, items, None)
                yield item

        try:
            yield made()
        finally:
            pool.submit(items.close).result()  # in that thread, after what it may be making


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


def _discarded(part: Judged, batch: str) -> pa.RecordBatch:
    rows = part.invalid()
    texts = [pa.repeat(pa.scalar(text, pa.string()), len(part.bad)) for text in (batch, part.rows.file)]
    marks = [part.reasons, *texts, pc.add(part.bad, part.rows.first)]
    return pa.record_batch([*rows.columns, *marks], schema=pa.schema([*rows.schema, *DISCARDED_FIELDS]))


def _count(failed: pa.Array, broken: dict[str, int]) -> None:
    for item in pc.value_counts(pc.list_flatten(failed)).to_pylist():
        broken[item["values"]] = broken.get(item["values"], 0) + item["counts"]
