"""`<table>_archived`: the landed files, moved out of `landing` once they have been split."""

from dataclasses import replace

import dagster as dg
from dagster import AssetExecutionContext

from rds_lake.assets.audited import failure_recorded
from rds_lake.assets.common import (
    IN_ONE_RUN,
    Batches,
    Condition,
    asset_options,
    failures,
    partitions_of,
    report,
)
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.catalog import publish
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.resources.services import AuditResource, LakeResource, ProgressResource
from rds_lake.spec import TableSpec


def archived_asset(spec: TableSpec, condition: Condition) -> dg.AssetsDefinition:
    """The archive asset of a table."""
    name = spec.asset("archived")

    @dg.asset(
        name=name,
        deps=[spec.asset("staging"), spec.asset("discarded")],
        backfill_policy=IN_ONE_RUN,
        **asset_options(spec, "archived", condition),
    )
    def archived(
        context: AssetExecutionContext, lake: LakeResource, progress: ProgressResource, audit: AuditResource
    ) -> None:
        partitions = partitions_of(context, spec)
        tell = progress.of(name, len(partitions))
        with failures(), failure_recorded(context, audit, spec):
            store, catalog, keys = lake.store(), lake.catalog(), TableKeys.of(spec)
            manifests = Manifests(store, keys)
            current = manifests.read_all(
                "archived", partitions
            )  # before landing's, so that a newer one is not replaced
            landed = list(manifests.require_all("landing", partitions).values())
            copied = copy_to_archive(store, keys, [item.manifest for item in landed], current)
            kept = {key: item.manifest for key, item in copied.items()}
            publish(catalog, store, spec, "archived", [item.committed for item in copied.values()], before=current)
            vacated = [
                replace(item, manifest=item.manifest.with_files(kept[item.manifest.partition].files)) for item in landed
            ]
            publish(catalog, store, spec, "landing", vacated)
            vacate_landing(store, keys, landed, kept)
            tell(len(partitions))
        moved = sum(item.moved for item in copied.values())
        context.log.info(f"Moved {moved:,} files from landing to the archive.")
        report(context, Batches(spec, "archived", kept), store, {"files moved": moved})

    return archived
