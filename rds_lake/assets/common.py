"""What the stages' assets share: names and descriptions, partitions of a run, errors, and metadata.

Nothing here knows how a stage does its work.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from math import ceil
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
from dagster import AssetExecutionContext, MetadataValue
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake.aws import GoneError
from rds_lake.lake.batch import head_of
from rds_lake.lake.files import open_batches
from rds_lake.lake.keys import WHOLE_TABLE
from rds_lake.lake.manifest import Manifest
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Partitioning
from rds_lake.quality.split import DISCARDED_FIELDS
from rds_lake.spec import Stage, TableSpec

Condition = dg.AutomationCondition[Any]

Fact = Any
"""A metadata value of any kind that Dagster takes."""

RETRIES = 3
RETRY_SECONDS = 5
"""How often, and after how long, a step is tried again when its error may pass by itself; no other error is."""

IN_ONE_RUN = dg.BackfillPolicy.single_run()
"""A backfill over a range is one run: one query at the source, one transaction in the warehouse."""

AGAIN_TAG = "rds_lake/again"
"""Tag of a run that writes new batches even where the current ones hold the same rows."""

RDS_POOL = "rds"
WAREHOUSE_POOL = "warehouse"

_STAGE_KINDS: Mapping[Stage, set[str]] = {
    "raw": {"mysql"},
    "landing": {"s3", "python"},
    "staging": {"s3", "parquet", "duckdb"},
    "discarded": {"s3", "parquet", "duckdb"},
    "archived": {"s3"},
    "warehouse": {"redshift"},
}

_COMES_FROM: Mapping[Stage, Stage] = {
    "landing": "raw",
    "staging": "landing",
    "discarded": "landing",
    "archived": "landing",
    "warehouse": "staging",
}

_STAGE_TEXT: Mapping[Stage, str] = {
    "raw": "The table in MySQL itself. An observation reads one fingerprint per partition; a changed one is landed.",
    "landing": "The source's rows as they were read, one batch per partition. They move to the archive afterwards.",
    "staging": "The rows that keep every rule.",
    "discarded": "The rows that break a rule, with all their columns, the rules they broke and where they came from.",
    "archived": "The landed files, kept after the split.",
    "warehouse": "The newest version of every key in Redshift, loaded from staging in one transaction with the ledger.",
}


def kinds(spec: TableSpec, stage: Stage) -> set[str]:
    """The kinds that the UI shows for a stage's asset."""
    return {*_STAGE_KINDS[stage], *([spec.landing.format] if stage in {"landing", "archived"} else [])}


def description(spec: TableSpec, stage: Stage) -> str:
    """What the UI says of a stage's asset: the stage, the row, the partition, how to rebuild it."""
    unit = spec.partitions.by if spec.partitions else None
    cut = (
        f"A partition is one {unit} of `{spec.cursor.column}` ({spec.cursor.timezone})."
        if spec.cursor
        else "It has no partitions: the table is extracted in full and replaced as a whole."
    )
    rebuild = "" if stage == "raw" else " Materialise it again at any time: the outcome is the same."
    return f"{_STAGE_TEXT[stage]}\n\n{spec.description}\n\n{cut}{rebuild}".strip()


def definition_metadata(spec: TableSpec, stage: Stage) -> dict[str, Fact]:
    """What is known of a stage's asset before it is ever materialised."""
    facts: dict[str, Fact] = {
        "source table": spec.source_name,
        "key": ", ".join(spec.key) or "none: whole rows",
    }
    if spec.cursor:
        facts["cursor"] = spec.cursor.column
    if stage == "raw" and spec.owners:  # Dagster gives a source no owners of its own
        facts["owners"] = ", ".join(spec.owners)
    if stage in {"staging", "discarded", "landing"} and spec.rules:
        facts["rules"] = MetadataValue.md("\n".join(f"- `{rule.label}`" for rule in spec.rules))
    if stage == "warehouse":
        facts["dagster/table_name"] = f"{spec.warehouse.db_schema}.{spec.warehouse_name}".lower()
    return facts


def partitions_def(spec: TableSpec) -> dg.TimeWindowPartitionsDefinition | None:
    """A table's partitions for Dagster, including the one that is still going on."""
    if spec.partitioning is None:
        return None
    return _partitions_def(spec.partitioning, spec.cursor.timezone if spec.cursor else "UTC")


@cache
def _partitions_def(partitioning: Partitioning, zone: str) -> dg.TimeWindowPartitionsDefinition:
    common: dict[str, Any] = {"fmt": partitioning.key_format, "end_offset": 1}
    start = partitioning.start.strftime(partitioning.key_format)
    match partitioning.unit:
        case "hour":  # in UTC, where no hour is missing or doubled; the cursor's clock may be ahead of it
            common["end_offset"] += hours_ahead_of_utc(ZoneInfo(zone))
            return _listed_once(dg.HourlyPartitionsDefinition(start_date=start, **common))
        case "day":
            return _listed_once(dg.DailyPartitionsDefinition(start_date=start, timezone=zone, **common))
        case "week":
            return _listed_once(dg.WeeklyPartitionsDefinition(start_date=start, timezone=zone, day_offset=1, **common))
        case "month":
            return _listed_once(dg.MonthlyPartitionsDefinition(start_date=start, timezone=zone, **common))


def _listed_once(definition: dg.TimeWindowPartitionsDefinition) -> dg.TimeWindowPartitionsDefinition:
    """Have a definition keep the list of its keys until there is one more.

    Dagster counts all keys again for each check of a run, to find that they are too many to look at. That takes 10
    microseconds a key; a table that is cut into hours has 90,000 in ten years.
    """
    list_keys = definition.get_partition_keys
    kept: dict[str | None, Sequence[str]] = {}

    def get_partition_keys(
        current_time: datetime | None = None,
        dynamic_partitions_store: Any = None,  # noqa: ANN401 - Dagster's own form
    ) -> Sequence[str]:
        with dg.partition_loading_context(current_time, dynamic_partitions_store):
            last = definition.get_last_partition_key()
            keys = kept.get(last)
            if keys is None:
                keys = list_keys()
                kept.clear()
                kept[last] = keys
            return list(keys)

    definition.get_partition_keys = get_partition_keys  # type: ignore[method-assign]
    return definition


def hours_ahead_of_utc(zone: ZoneInfo) -> int:
    """How many hours a zone's clocks may show beyond UTC's at any time of the year; none for a zone behind it."""
    year = datetime.now(UTC).year
    offsets = [datetime(year, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in range(1, 13)]
    return max(0, ceil(max(offsets) / timedelta(hours=1)))


class AssetOptions(TypedDict):
    """Arguments that Dagster's decorators and specs share."""

    group_name: str
    description: str
    owners: list[str]
    metadata: dict[str, Fact]
    kinds: set[str]
    partitions_def: dg.TimeWindowPartitionsDefinition | None
    automation_condition: Condition


def asset_options(spec: TableSpec, stage: Stage, condition: Condition) -> AssetOptions:
    """What Dagster is told of every stage's asset in the same way."""
    return {
        "group_name": spec.table,
        "description": description(spec, stage),
        "owners": list(spec.owners),
        "metadata": definition_metadata(spec, stage),
        "kinds": kinds(spec, stage),
        "partitions_def": partitions_def(spec),
        "automation_condition": condition,
    }


def run_partitions(tags: Mapping[str, str], partitioning: Partitioning | None) -> list[str] | None:
    """The partitions that a run is for, from its tags: one, a range, or None when it names none."""
    if partitioning is None:
        return [WHOLE_TABLE]
    if one := tags.get(PARTITION_NAME_TAG):
        return [one]
    first, last = tags.get(ASSET_PARTITION_RANGE_START_TAG), tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if first and last:
        return list(partitioning.keys(*partitioning.span(first, last)))
    return None


def partitions_of(context: AssetExecutionContext, spec: TableSpec) -> list[str]:
    """The partitions that an asset's step is for: one, a range, or the whole table."""
    return list(context.partition_keys) if spec.partitioning else [WHOLE_TABLE]


def is_again(context: AssetExecutionContext) -> bool:
    """Whether a run was asked to write new batches in any case."""
    return AGAIN_TAG in context.run.tags


@contextmanager
def failures() -> Iterator[None]:
    """Have Dagster try a transient error again, and fail at once with a permanent one; its text says what to do.

    What a step has let go of is given back to the system, so that the next one does not come on top of it.
    """
    try:
        yield
    except TransientError as error:
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS) from error
    except PermanentError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    finally:
        pa.default_memory_pool().release_unused()


def column_schema(spec: TableSpec, columns: Sequence[Column]) -> dg.TableSchema:
    """The columns for the UI, with the descriptions from the YAML."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=spec.columns[column.name].description if column.name in spec.columns else None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=spec.key == (column.name,)),
            )
            for column in columns
        ]
    )


def column_lineage(spec: TableSpec, stage: Stage, columns: Sequence[Column]) -> dg.TableColumnLineage:
    """Where a stage's columns come from: those of the same name one stage before."""
    before = dg.AssetKey(spec.asset(_COMES_FROM[stage]))
    return dg.TableColumnLineage(
        {column.name: [dg.TableColumnDep(asset_key=before, column_name=column.name)] for column in columns}
    )


def preview(store: ObjectStore, spec: TableSpec, manifest: Manifest) -> MetadataValue | None:
    """The first rows of a batch as a table, personal data left out; None when it has no rows, or has been moved on."""
    if not manifest.files:
        return None
    schema = arrow_schema(manifest.columns)
    if manifest.stage == "discarded":
        schema = pa.schema([*schema, *DISCARDED_FIELDS])
    shown = [name for name in schema.names if not spec.is_personal(name)]
    first = manifest.head
    if first is None:
        try:
            with open_batches(store, manifest.files[0], schema, manifest.format) as batches:
                first = head_of(next(batches))
        except GoneError:  # another run has archived it meanwhile: nothing that this step has done is wrong
            return None
    head = f"| {' | '.join(shown)} |\n|{'---|' * len(shown)}\n"
    return MetadataValue.md(head + "\n".join(f"| {' | '.join(_cell(row[name]) for name in shown)} |" for row in first))


def _cell(text: str | None) -> str:
    return "NULL" if text is None else text.replace("|", "\\|").replace("\n", " ")


@dataclass(frozen=True)
class Batches:
    """The batches that a step wrote, for its report.

    Attributes:
        spec: the table's YAML.
        stage: their stage.
        by_partition: the batches.
    """

    spec: TableSpec
    stage: Stage
    by_partition: Mapping[str, Manifest]

    @property
    def rows(self) -> int:
        """Rows of all of them."""
        return sum(manifest.rows for manifest in self.by_partition.values())

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(manifest.size for manifest in self.by_partition.values())

    def facts(self, partition: str, store: ObjectStore) -> dict[str, Fact]:
        """What the UI shows of one partition; its numbers are plotted over the partitions and over time."""
        manifest = self.by_partition[partition]
        count = "dagster/row_count" if self.spec.partitioning is None else "dagster/partition_row_count"
        location = manifest.files[0].key.rsplit("/", 1)[0] + "/" if manifest.files else ""
        return {
            count: manifest.rows,
            "rows": manifest.rows,
            "bytes": manifest.size,
            "files": len(manifest.files),
            "batch": manifest.batch,
            "fence": manifest.fence,
            "dagster/uri": store.url(location) if location else "no rows, no files",
        }


def report(
    context: AssetExecutionContext,
    batches: Batches,
    store: ObjectStore,
    more: Mapping[str, Fact] | None = None,
    per_partition: Mapping[str, Mapping[str, Fact]] | None = None,
) -> None:
    """Attach metadata to an asset's materialisations: own numbers to each partition, the step's facts to its last one.

    Args:
        context: the step's context.
        batches: what the step wrote.
        store: the lake's bucket.
        more: facts of the step as a whole.
        per_partition: further facts of single partitions.
    """
    key = dg.AssetKey(batches.spec.asset(batches.stage))
    last = max(batches.by_partition)
    filled = max((p for p, m in batches.by_partition.items() if m.files), default=None)
    shown = preview(store, batches.spec, batches.by_partition[filled]) if filled is not None else None
    columns = batches.by_partition[last].columns
    whole: dict[str, Any] = {
        **(more or {}),
        "rows of the run": batches.rows,
        "dagster/column_schema": column_schema(batches.spec, columns),
        "dagster/column_lineage": column_lineage(batches.spec, batches.stage, columns),
        **({"preview": shown} if shown else {}),
    }
    for partition in batches.by_partition:
        facts: dict[str, Any] = {**batches.facts(partition, store), **(per_partition or {}).get(partition, {})}
        named = None if batches.spec.partitioning is None else partition
        context.add_asset_metadata(
            {**facts, **(whole if partition == last else {})}, asset_key=key, partition_key=named
        )
