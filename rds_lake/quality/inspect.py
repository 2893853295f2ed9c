"""Inspection: reading batches again, apart from the split that wrote them, to see whether they keep the rules.

What the asset checks report: how many rows break each rule, with which values, in which rows; and whether a key stands
twice in one partition.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rds_lake.errors import PermanentError
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.files import open_batches
from rds_lake.lake.manifest import Manifest
from rds_lake.lake.store import MIB, ObjectStore
from rds_lake.quality.repeated import Numbers, Repeated
from rds_lake.quality.rules import (
    FILE,
    KEEPS,
    ROW,
    ROWS,
    CompiledRules,
    Lookup,
    applying_rules,
    columns_read,
    compile_rules,
    engine_settings,
    fill_lookups,
    try_rules,
)
from rds_lake.spec import TableSpec
from rds_lake.sql import literal, quote, quote_all

VALUES_SHOWN = 20
"""Distinct bad values of a rule that a report shows."""

KEYS_SHOWN = 10
"""Keys of bad rows that a report shows."""

PORTION_ROWS = 250_000
"""Rows of batches that are looked at together; a single batch may be larger."""

CHUNK_ROWS = 65_536
"""Rows that the engine is given at once."""

CHUNK_BYTES = 8 * MIB
"""Bytes of values that it is given at once, but for the last batch that is read."""

SUSPECTS = 50_000
"""Hashes up to which only the keys that have one of them are compared: they are gone through again for each chunk."""

MEMORY = "96MB"
"""What the engine may hold before it goes to disk."""

PARTITION = f"{KEEPS}partition"
"""The column, inside the query only, that numbers the partition a row is of; no source's column is called so."""


@dataclass(frozen=True)
class RuleReport:
    """How batches keep one rule.

    Attributes:
        label: the rule.
        broken: rows that break it.
        values: the commonest bad values as text (NULL as None) with their counts, most frequent first.
        keys: keys of some of the bad rows, as text.
    """

    label: str
    broken: int
    values: tuple[tuple[str | None, int], ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What an inspection found.

    Attributes:
        rows: rows that were read.
        rules: a report for each rule that looks at one row at a time.
        repeated_keys: keys that stand more than once in their partition, if it was looked for them.
    """

    rows: int
    rules: tuple[RuleReport, ...]
    repeated_keys: int


def inspect(
    store: ObjectStore,
    spec: TableSpec,
    lookup_values: Mapping[Lookup, pa.Table],
    manifests: Sequence[Manifest],
    *,
    keys: bool = True,
) -> Report:
    """Read batches and report how they keep the rules.

    Args:
        store: the lake's bucket.
        spec: the table's YAML.
        lookup_values: the present values of every lookup that the rules name.
        manifests: the batches, of one stage of one table.
        keys: whether to look for keys that repeat.
    """
    filled = [manifest for manifest in manifests if manifest.rows]
    declared = {rule.label: rule for rule in spec.rules}
    if not filled:
        return Report(0, tuple(RuleReport(label, 0) for label in declared if declared[label].rule != "unique"), 0)
    widest = max(filled, key=lambda manifest: len(manifest.columns))
    columns = tuple(column.name for column in widest.columns)
    compiled = compile_rules(spec, columns, source_unique=True, carried=widest.columns)
    single = CompiledRules(
        tuple(rule for rule in compiled.rules if getattr(declared.get(rule.label), "rule", "") != "unique"),
        compiled.compared,
    )
    with (
        TemporaryDirectory(prefix="rds_lake-") as scratch,
        duckdb.connect(config={**engine_settings(scratch), "memory_limit": MEMORY}) as connection,
    ):
        fill_lookups(connection, single, lookup_values, spec.table, widest.columns)
        every = pa.schema([*arrow_schema(widest.columns), (FILE, pa.string()), (ROW, pa.int64())])
        try_rules(connection, single, spec.table, every)
        key = (spec.key or columns) if keys else ()
        named = {name for rule in declared.values() for name in rule.columns}
        needed = named.union(key, spec.key, *columns_read(connection, single, every.names))
        seen = pa.schema([(PARTITION, pa.int32()), *(field for field in every if field.name in needed)])
        scan = _Scan(connection, store, spec, single, seen, Path(scratch))
        # A rule over many rows is one over those of a partition, as it is in the split.
        portions = _portions(filled) if single.row_by_row else ([manifest] for manifest in filled)
        repeated = sum(scan.add(portion, key) for portion in portions)
        rules = tuple(scan.report(rule.label) for rule in single.rules)
    return Report(sum(manifest.rows for manifest in filled), rules, repeated)


def _portions(manifests: Sequence[Manifest]) -> Iterator[list[Manifest]]:
    """Batches in portions of some rows, so that what is held does not grow with the table."""
    portion: list[Manifest] = []
    for manifest in manifests:
        portion.append(manifest)
        if sum(item.rows for item in portion) >= PORTION_ROWS:
            yield portion
            portion = []
    if portion:
        yield portion


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches in portions that are worth a query."""
    chunk: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        chunk.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, rows, size = [], 0, 0
    if chunk:
        yield chunk


class _Scan:
    """Reads batches once, as far as somebody asks for their columns, and gathers what breaks the rules.

    What it gathers are values with their counts and a few keys, not rows: there may be as many bad rows as rows.

    Args:
        connection: the engine.
        store: the lake's bucket.
        spec: the table's YAML.
        rules: the rules, tried.
        seen: the columns that are looked at.
        scratch: a folder for what does not fit into memory.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        store: ObjectStore,
        spec: TableSpec,
        rules: CompiledRules,
        seen: pa.Schema,
        scratch: Path,
    ) -> None:
        self._connection, self._store, self._rules, self._seen = connection, store, rules, seen
        self._scratch = scratch
        declared = {rule.label: rule.columns for rule in spec.rules}
        # An implied rule's values may be of any length.
        self._shown = {label: names[0] for label, names in declared.items() if names and not spec.is_personal(names[0])}
        self._keys = [key for key in spec.key if not spec.is_personal(key)]
        connection.execute("CREATE TABLE bad_values (label VARCHAR, value VARCHAR, rows BIGINT)")
        connection.execute("CREATE TABLE bad_keys (label VARCHAR, key VARCHAR)")

    def add(self, manifests: Sequence[Manifest], key: Sequence[str]) -> int:
        """Look at some batches; how many keys stand more than once in their partition.

        Keys are compared by their hashes first; those whose hash repeats are read again, and compared themselves. If no
        columns are named it is not looked for them.
        """
        hashed = f"hash({PARTITION}, {quote_all(list(key))})"
        hashes = Repeated(self._scratch)
        for _ in self._given(manifests):
            with applying_rules(manifests[-1].table, f"{len(manifests):,} partitions"):
                self._gather_bad()
            if key:
                found: dict[str, Any] = self._connection.execute(f"SELECT {hashed} AS hash FROM {ROWS}").fetchnumpy()
                hashes.add(found["hash"])
        suspects = hashes.found()
        return self._repeated(manifests, key, hashed, suspects) if len(suspects) else 0

    def _repeated(self, manifests: Sequence[Manifest], key: Sequence[str], hashed: str, suspects: Numbers) -> int:
        """How many keys stand more than once in their partition, of those with some hashes, or of all."""
        names = f"{PARTITION}, {quote_all(list(key))}"
        keys = f"SELECT {names} FROM {ROWS}"
        if len(suspects) <= SUSPECTS:
            self._connection.register("suspects", pa.table({"hash": suspects}))
            keys += f" WHERE {hashed} IN (FROM suspects)"
        for number, _ in enumerate(self._given(manifests)):
            self._connection.execute(f"INSERT INTO keys {keys}" if number else f"CREATE TEMP TABLE keys AS {keys}")
        [(repeated,)] = self._answer(f"SELECT COUNT(*) FROM (SELECT 1 FROM keys GROUP BY {names} HAVING COUNT(*) > 1)")
        self._connection.execute("DROP TABLE keys")
        return int(repeated)

    def _given(self, manifests: Sequence[Manifest]) -> Iterator[None]:
        """Give the engine the rows of some batches, some at a time; all at once to rules that look at many of them."""
        if not self._rules.row_by_row:
            self._connection.register(ROWS, pa.RecordBatchReader.from_batches(self._seen, self._rows(manifests)))
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE every_row AS FROM {ROWS}")
            self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {ROWS} AS FROM every_row")
            yield
            self._connection.execute(f"DROP VIEW {ROWS}")
            return
        for chunk in _chunks(self._rows(manifests)):
            self._connection.register(ROWS, pa.Table.from_batches(chunk))
            yield
            self._connection.unregister(ROWS)

    def _gather_bad(self) -> None:
        """Keep what is reported of those rows that the engine has been given and that break a rule."""
        chosen = f"SELECT * FROM ({self._rules.select(ROWS)}) WHERE _failed_rules IS NOT NULL"
        self._connection.execute(f"CREATE TEMP TABLE bad AS {chosen}")
        for (label,) in self._answer("SELECT DISTINCT unnest(_failed_rules) FROM bad"):
            bad = f"FROM bad WHERE list_contains(_failed_rules, {literal(label)})"
            value = f"CAST({quote(self._shown[label])} AS VARCHAR)" if label in self._shown else "NULL"
            self._connection.execute(
                f"INSERT INTO bad_values SELECT {literal(label)}, {value}, COUNT(*) {bad} GROUP BY 2"
            )
            if self._keys:
                text = f"concat_ws(', ', {quote_all(self._keys)})"
                first = f"SELECT {literal(label)}, {text} {bad} ORDER BY 2 LIMIT {KEYS_SHOWN}"
                self._connection.execute(f"INSERT INTO bad_keys {first}")
        self._connection.execute("DROP TABLE bad")

    def report(self, label: str) -> RuleReport:
        """How all batches keep one rule."""
        values, keys = (f"FROM {name} WHERE label = {literal(label)}" for name in ("bad_values", "bad_keys"))
        [(broken,)] = self._answer(f"SELECT COALESCE(SUM(rows), 0)::BIGINT {values}")
        most = f"SELECT value, SUM(rows)::BIGINT {values} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {VALUES_SHOWN}"
        some = self._answer(f"SELECT key {keys} ORDER BY 1 LIMIT {KEYS_SHOWN}")
        shown = tuple(self._answer(most)) if label in self._shown else ()
        return RuleReport(label, broken, shown, tuple(key for (key,) in some))

    def _answer(self, text: str) -> list[Any]:
        return self._connection.execute(text).fetchall()

    def _rows(self, manifests: Sequence[Manifest]) -> Iterator[pa.RecordBatch]:
        for number, manifest in enumerate(manifests):
            wanted = {name.lower() for name in self._seen.names}
            columns = pa.schema([field for field in arrow_schema(manifest.columns) if field.name.lower() in wanted])
            for file in manifest.files:
                first = 0
                with open_batches(self._store, file, columns, manifest.format) as batches:
                    for batch in batches:
                        yield self._fitted(batch, manifest, number, file.key, first)
                        first += batch.num_rows

    def _fitted(self, batch: pa.RecordBatch, manifest: Manifest, number: int, file: str, first: int) -> pa.RecordBatch:
        """A batch as those of another age are: columns by name, NULL where it has none; and where the rows stand."""
        count = batch.num_rows
        held = {name.lower(): column for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        marks = {
            PARTITION: pa.repeat(pa.scalar(number, pa.int32()), count),
            FILE: pa.repeat(pa.scalar(file, pa.string()), count),
            ROW: pa.array(np.arange(first, first + count)),
        }
        arrays = []
        for field in self._seen:
            column = marks[field.name] if field.name in marks else held.get(field.name.lower())
            try:
                arrays.append(pa.nulls(count, field.type) if column is None else column.cast(field.type))
            except pa.ArrowInvalid as error:
                raise PermanentError(
                    f"{manifest.table}: the partition {manifest.partition} was landed with another type of the column "
                    f"'{field.name}', which does not become {field.type}: {error}.",
                    f"Land it again: run 'rds-lake sync {manifest.table}'.",
                ) from error
        return pa.record_batch(arrays, schema=self._seen)
