"""Inspection: reading batches again, apart from the split that wrote them, to see whether they keep the rules.

What the asset checks report: how many rows break each rule, with which values, in which rows; and whether a key stands
twice in one partition.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from rds_lake.errors import PermanentError
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.files import open_batches
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
from rds_lake.spec import TableSpec
from rds_lake.sql import literal, quote, quote_all

VALUES_SHOWN = 20
"""Distinct bad values of a rule that a report shows."""

KEYS_SHOWN = 10
"""Keys of bad rows that a report shows."""

PORTION_ROWS = 500_000
"""Rows that are looked at together; a single batch may be larger, and then goes to disk where it must."""

PARTITION = f"{KEEPS}partition"
"""The column, inside the query only, that says which partition a row is of; no source's column is called so."""


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
        repeated_keys: keys that stand more than once in their partition.
    """

    rows: int
    rules: tuple[RuleReport, ...]
    repeated_keys: int


def inspect(
    store: ObjectStore,
    spec: TableSpec,
    lookup_values: Mapping[Lookup, pa.Table],
    manifests: Sequence[Manifest],
) -> Report:
    """Read batches and report how they keep the rules.

    Args:
        store: the lake's bucket.
        spec: the table's YAML.
        lookup_values: the present values of every lookup that the rules name.
        manifests: the batches, of one stage of one table.
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
        duckdb.connect(config=engine_settings(scratch)) as connection,
    ):
        fill_lookups(connection, single, lookup_values, spec.table, widest.columns)
        repeated = sum(
            _scan(connection, store, portion, single, spec.key or columns, widest, first=number == 0)
            for number, portion in enumerate(_portions(filled))
        )
        broken = {label for (label,) in _rows_of(connection, "SELECT DISTINCT unnest(_failed_rules) FROM broken")}
        rules = tuple(
            _report(connection, spec, rule.label, declared) if rule.label in broken else RuleReport(rule.label, 0)
            for rule in single.rules
        )
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


def _scan(
    connection: duckdb.DuckDBPyConnection,
    store: ObjectStore,
    manifests: Sequence[Manifest],
    rules: CompiledRules,
    key: tuple[str, ...],
    widest: Manifest,
    *,
    first: bool,
) -> int:
    """Read batches once: bad rows are added to the table `broken`; returns how many keys repeat in a partition."""
    schema = arrow_schema(widest.columns)
    marks = [pa.field(PARTITION, pa.string()), pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())]
    full = pa.schema([*schema, *marks])
    if first:
        try_rules(connection, rules, manifests[-1].table, full)
        connection.register(ROWS, pa.Table.from_batches([], full))
        connection.execute(f"CREATE TABLE broken AS {rules.select(ROWS)}")
        connection.unregister(ROWS)
    reader = pa.RecordBatchReader.from_batches(full, _rows(store, manifests, schema, marks))
    connection.register(ROWS, reader)
    with applying_rules(manifests[-1].table, f"{len(manifests):,} partitions"):
        connection.execute(f"CREATE TEMP TABLE scanned AS {rules.select(ROWS)}")
    connection.unregister(ROWS)
    connection.execute("INSERT INTO broken SELECT * FROM scanned WHERE _failed_rules IS NOT NULL")
    twice = f"SELECT 1 FROM scanned GROUP BY {PARTITION}, {quote_all(key)} HAVING COUNT(*) > 1"
    [(repeated,)] = _rows_of(connection, f"SELECT COUNT(*) FROM ({twice})")
    connection.execute("DROP TABLE scanned")
    return int(repeated)


def _rows(
    store: ObjectStore, manifests: Sequence[Manifest], schema: pa.Schema, marks: list[pa.Field]
) -> Iterator[pa.RecordBatch]:
    full = pa.schema([*schema, *marks])
    for manifest in manifests:
        for file in manifest.files:
            with open_batches(store, file, arrow_schema(manifest.columns), manifest.format) as batches:
                for batch in batches:
                    texts = [pa.array([text] * batch.num_rows, pa.string()) for text in (manifest.partition, file.key)]
                    rows = pa.array(range(batch.num_rows), pa.int64())
                    yield pa.record_batch([*_fitted(batch, schema, manifest), *texts, rows], schema=full)


def _fitted(batch: pa.RecordBatch, schema: pa.Schema, manifest: Manifest) -> list[pa.Array]:
    """A batch's columns as the batches of another age have them: by name, NULL where it has none."""
    places = {name.lower(): place for place, name in enumerate(batch.schema.names)}
    arrays = []
    for field in schema:
        place = places.get(field.name.lower())
        try:
            arrays.append(
                pa.nulls(batch.num_rows, field.type) if place is None else batch.column(place).cast(field.type)
            )
        except pa.ArrowInvalid as error:
            raise PermanentError(
                f"{manifest.table}: the partition {manifest.partition} was landed with another type of the column "
                f"'{field.name}', which does not become {field.type}: {error}.",
                f"Land it again: run 'rds-lake sync {manifest.table}'.",
            ) from error
    return arrays


def _report(
    connection: duckdb.DuckDBPyConnection, spec: TableSpec, label: str, declared: Mapping[str, Any]
) -> RuleReport:
    where = f"list_contains(_failed_rules, {literal(label)})"
    broken = _rows_of(connection, f"SELECT COUNT(*) FROM broken WHERE {where}")[0][0]
    columns = declared[label].columns if label in declared else ()  # an implied rule's values may be of any length
    values: list[tuple[str | None, int]] = []
    if columns and not spec.is_personal(columns[0]):
        value = f"CAST({quote(columns[0])} AS VARCHAR)"
        values = _rows_of(
            connection,
            f"SELECT {value}, COUNT(*) FROM broken WHERE {where} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {VALUES_SHOWN}",
        )
    keys = [key for key in spec.key if not spec.is_personal(key)]
    sample: list[tuple[str]] = []
    if keys:
        text = f"concat_ws(', ', {quote_all(keys)})"
        sample = _rows_of(connection, f"SELECT {text} FROM broken WHERE {where} ORDER BY 1 LIMIT {KEYS_SHOWN}")
    return RuleReport(label, broken, tuple(values), tuple(row[0] for row in sample))


def _rows_of(connection: duckdb.DuckDBPyConnection, text: str) -> list[Any]:
    return connection.execute(text).fetchall()
