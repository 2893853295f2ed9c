"""`<table>_raw`: the table in MySQL, observed. Its data versions are the partitions' fingerprints."""

from typing import Any

import dagster as dg
from dagster import OpExecutionContext

from rds_lake.assets.common import RDS_POOL, definition_metadata, description, failures, kinds, partitions_def
from rds_lake.plan import Observation, observe
from rds_lake.resources.services import LakeResource, RdsResource
from rds_lake.spec import TableSpec

SPEC_METADATA = "rds_lake/spec"
"""Metadata of the raw asset that holds the table's YAML as JSON."""


def raw_asset(spec: TableSpec) -> Any:  # noqa: ANN401 - Dagster's decorator returns a private type
    """The observable source asset of a table."""

    @dg.observable_source_asset(
        name=spec.asset("raw"),
        group_name=spec.table,
        description=description(spec, "raw"),
        metadata={
            **definition_metadata(spec, "raw"),
            "dagster/table_name": spec.source_name,
            SPEC_METADATA: dg.MetadataValue.json(spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)),
        },
        tags={f"dagster/kind/{kind}": "" for kind in kinds(spec, "raw")},
        partitions_def=partitions_def(spec),
        op_tags={"dagster/concurrency_key": RDS_POOL},
    )
    def raw(
        context: OpExecutionContext, rds: RdsResource, lake: LakeResource
    ) -> dg.DataVersionsByPartition | dg.ObserveResult:
        with failures():
            seen = observe(rds.source(), lake.store(), spec)
        for line in story(spec, seen):
            context.log.info(line)
        if spec.partitioning is None:
            return dg.ObserveResult(data_version=dg.DataVersion(next(iter(seen.fingerprints.values()))))
        return dg.DataVersionsByPartition(dict(seen.fingerprints))

    return raw


def story(spec: TableSpec, seen: Observation) -> list[str]:
    """An observation in words."""
    fence = seen.fence
    rows = sum(int(version.split("-")[0]) for version in seen.fingerprints.values())
    partitions = len(seen.fingerprints)
    lines = [f"{spec.source_name}: {rows:,} rows in {partitions:,} partitions below the fence {fence.at} UTC."]
    if fence.held_back_by.total_seconds() >= 1:
        lines.append(f"An open transaction holds the fence {fence.held_back_by} behind the clock.")
    if not fence.sees_transactions:
        lines.append("The user lacks the PROCESS privilege: the fence is a fixed lag. Grant PROCESS for a tighter one.")
    if seen.outside:
        lines.append(
            f"{seen.before_start:,} rows lie before the first partition and {seen.without_cursor:,} have no "
            f"{spec.cursor.column if spec.cursor else 'cursor'}: no partition holds them."
        )
    return lines
