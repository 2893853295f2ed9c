"""Inspection: reading batches again, apart from the split that wrote them, to see whether they keep the rules.

What the asset checks report: how many rows break each rule, with which values, in which rows; and whether a key stands
twice in one partition.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from rds_lake.extract.types import arrow_schema
from rds_lake.lake.files import open_batches
from rds_lake.lake.manifest import Manifest
from rds_lake.lake.store import ObjectStore
from rds_lake.quality.rules import (
    FILE,
    ROW,
    CompiledRules,
    Lookup,
    applying_rules,
    compile_rules,
    fill_lookups,
    try_rules,
)
from rds_lake.spec import TableSpec
from rds_lake.sql import literal, quote, quote_all

VALUES_SHOWN = 20
"""Distinct bad values of a rule that a report shows."""

KEYS_SHOWN = 10
"""Keys of bad rows that a report shows."""

PARTITION = "_partition"


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
        rules: a report for each declared rule that looks at one row at a time.
        repeated_keys: keys that stand more than once in their partition.
    """

    rows: int
    rules: tuple[RuleReport, ...]
    repeated_keys: int


def inspect(
    store: ObjectStore,
    spec: TableSpec,
    lookup_values: Mapping[Lookup, tuple[str, ...]],
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
    columns = tuple(column.name for column in filled[-1].columns)
    compiled = compile_rules(spec, columns, source_unique=True)
    single = CompiledRules(
        tuple(rule for rule in compiled.rules if getattr(declared.get(rule.label), "rule", "") != "unique"),
        compiled.lookups,
    )
    with duckdb.connect() as connection:
        fill_lookups(connection, single, lookup_values)
        _scan(connection, store, filled, single, columns)
        rules = tuple(_report(connection, spec, rule.label, declared) for rule in single.rules)
        repeated = _repeated(connection, spec.key or columns)
    return Report(sum(manifest.rows for manifest in filled), rules, repeated)


def _scan(
    connection: duckdb.DuckDBPyConnection,
    store: ObjectStore,
    manifests: Sequence[Manifest],
    rules: CompiledRules,
    columns: tuple[str, ...],
) -> None:
    schema = arrow_schema(manifests[-1].columns)
    marks = [pa.field(PARTITION, pa.string()), pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())]
    full = pa.schema([*schema, *marks])
    try_rules(connection, rules, manifests[-1].table, full)
    reader = pa.RecordBatchReader.from_batches(full, _rows(store, manifests, schema, marks))
    connection.register("landed", reader)
    names = quote_all(columns)
    with applying_rules(manifests[-1].table, f"{len(manifests):,} partitions"):
        connection.execute(
            f"CREATE TABLE scanned AS SELECT {PARTITION}, {names}, _failed_rules FROM ({rules.select('landed')})"
        )


def _rows(
    store: ObjectStore, manifests: Sequence[Manifest], schema: pa.Schema, marks: list[pa.Field]
) -> Iterator[pa.RecordBatch]:
    full = pa.schema([*schema, *marks])
    for manifest in manifests:
        for file in manifest.files:
            with open_batches(store, file, schema, manifest.format) as batches:
                for batch in batches:
                    texts = [pa.array([text] * batch.num_rows, pa.string()) for text in (manifest.partition, file.key)]
                    rows = pa.array(range(batch.num_rows), pa.int64())
                    yield pa.record_batch([*batch.columns, *texts, rows], schema=full)


def _report(
    connection: duckdb.DuckDBPyConnection, spec: TableSpec, label: str, declared: Mapping[str, Any]
) -> RuleReport:
    where = f"list_contains(_failed_rules, {literal(label)})"
    broken = _rows_of(connection, f"SELECT COUNT(*) FROM scanned WHERE {where}")[0][0]
    if not broken:
        return RuleReport(label, 0)
    columns = declared[label].columns if label in declared else ()
    values: list[tuple[str | None, int]] = []
    if columns and not spec.is_personal(columns[0]):
        value = f"CAST({quote(columns[0])} AS VARCHAR)"
        values = _rows_of(
            connection,
            f"SELECT {value} AS v, COUNT(*) AS n FROM scanned WHERE {where} GROUP BY v "
            f"ORDER BY n DESC, v LIMIT {VALUES_SHOWN}",
        )
    keys = [key for key in spec.key if not spec.is_personal(key)]
    sample: list[tuple[str]] = []
    if keys:
        text = f"concat_ws(', ', {quote_all(keys)})"
        sample = _rows_of(connection, f"SELECT {text} FROM scanned WHERE {where} ORDER BY 1 LIMIT {KEYS_SHOWN}")
    return RuleReport(label, broken, tuple(values), tuple(row[0] for row in sample))


def _repeated(connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...]) -> int:
    names = quote_all(columns)
    text = f"SELECT 1 FROM scanned GROUP BY {PARTITION}, {names} HAVING COUNT(*) > 1"
    [(repeated,)] = _rows_of(connection, f"SELECT COUNT(*) FROM ({text})")
    return int(repeated)


def _rows_of(connection: duckdb.DuckDBPyConnection, text: str) -> list[Any]:
    return connection.execute(text).fetchall()
