"""`<table>_archived`: the landed files, moved out of `landing` once they have been split."""

from dataclasses import replace

import dagster as dg
from dagster import AssetExecutionContext

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
from rds_lake.lake.store import side_by_side
from rds_lake.resources.services import LakeResource, ProgressResource
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
    def archived(context: AssetExecutionContext, lake: LakeResource, progress: ProgressResource) -> None:
        partitions = partitions_of(context, spec)
        tell = progress.of(name, len(partitions))
        with failures():
            store, catalog, keys = lake.store(), lake.catalog(), TableKeys.of(spec)
            manifests = Manifests(store, keys)
            current = manifests.read_all(
                "archived", partitions
            )  # before landing's, so that a newer one is not replaced
            landed = {partition: manifests.require("landing", partition) for partition in partitions}
            copied = side_by_side(
                lambda key: copy_to_archive(store, keys, landed[key].manifest, current.get(key)), partitions
            )
            kept = {key: item.manifest for key, item in zip(partitions, copied, strict=True)}
            publish(catalog, store, spec, "archived", [item.committed for item in copied])
            vacated = [
                replace(landed[key], manifest=landed[key].manifest.with_files(kept[key].files)) for key in partitions
            ]
            publish(catalog, store, spec, "landing", vacated)
            side_by_side(lambda key: vacate_landing(store, keys, landed[key], kept[key]), partitions)
            tell(len(partitions))
        moved = sum(item.moved for item in copied)
        context.log.info(f"Moved {moved:,} files from landing to the archive.")
        report(context, Batches(spec, "archived", kept), store, {"files moved": moved})

    return archived
