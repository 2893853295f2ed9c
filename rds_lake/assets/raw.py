"""`<table>_raw`: the table in MySQL, observed. Its data versions are the partitions' fingerprints.

A run observes everything, unless it carries the tag `rds_lake/observe: recent`.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster import OpExecutionContext

from rds_lake.assets.common import RDS_POOL, Fact, definition_metadata, description, failures, kinds, partitions_def
from rds_lake.plan import Observation, observe
from rds_lake.resources.services import LakeResource, RdsResource
from rds_lake.spec import TableSpec
from rds_lake.wording import counted

SPEC_METADATA = "rds_lake/spec"
"""Metadata of the raw asset that holds the table's YAML as JSON."""

OBSERVE_TAG, RECENT = "rds_lake/observe", "recent"
"""Tag of a run that observes what may have changed lately only."""


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
        recent = spec.cursor is not None and context.run.tags.get(OBSERVE_TAG) == RECENT
        with failures():
            seen = observe(rds.source(), lake.store(), spec, recent=recent)
        for line in story(spec, seen):
            context.log.info(line)
        for line in seen.warnings:
            context.log.warning(line)
        if spec.partitioning is None:
            version = next(iter(seen.fingerprints.values()))
            return dg.ObserveResult(data_version=dg.DataVersion(version), metadata=facts(seen))
        for event in observations(spec, seen):
            context.log_event(event)
        return dg.DataVersionsByPartition({})  # told above: Dagster itself would leave out the metadata

    return raw


def observations(spec: TableSpec, seen: Observation) -> Iterator[dg.AssetObservation]:
    """An event for each observed partition, with its data version and rows; the newest has the facts of them all."""
    newest = max(seen.fingerprints, default=None)
    for partition, version in seen.fingerprints.items():
        yield dg.AssetObservation(
            asset_key=spec.asset("raw"),
            partition=partition if spec.partitioning else None,
            tags={"dagster/data_version": version},
            metadata={
                "rows": int(version.split("-")[0]),
                "observation": seen.kind,
                **(facts(seen) if partition == newest else {}),
            },
        )


def facts(seen: Observation) -> dict[str, Fact]:
    """What is known of an observation as a whole."""
    found: dict[str, Fact] = {
        "observation": seen.kind,
        "fence": f"{seen.fence.at} UTC",
        "fence held back by (s)": seen.fence.held_back_by.total_seconds(),
        "rows before the first partition": seen.before_start,
        "rows without a cursor": seen.without_cursor,
    }
    if seen.window:
        found["window"] = f"{seen.window.lower} to {seen.window.upper}"
    if holder := seen.fence.holder():
        found["fence held by"] = holder
    if seen.warnings:
        found["warnings"] = "\n".join(seen.warnings)
    return found


def story(spec: TableSpec, seen: Observation) -> list[str]:
    """An observation in words."""
    rows = sum(int(version.split("-")[0]) for version in seen.fingerprints.values())
    partitions = len(seen.fingerprints)
    span = f" from {seen.window.lower} on" if seen.window and seen.kind != "full" else ""
    found = f"{counted(rows, 'row')} in {counted(partitions, 'partition')} below the fence {seen.fence.at} UTC"
    lines = [f"{spec.source_name}, {seen.kind} observation{span}: {found}.", *seen.fence.story()]
    if seen.outside:
        before, without = counted(seen.before_start, "lies", "lie"), counted(seen.without_cursor, "has", "have")
        column = spec.cursor.column if spec.cursor else "cursor"
        lines.append(
            f"No partition holds {counted(seen.outside, 'row')}: {before} before the first one, {without} no {column}."
        )
    if seen.in_future:
        waiting = counted(seen.in_future, "row lies", "rows lie")
        lines.append(f"{waiting} more than a day above the fence, to be landed when it has passed.")
    return lines
