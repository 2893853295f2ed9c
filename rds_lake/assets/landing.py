"""`<table>_landing`: the source's rows, extracted and committed as one batch per partition."""

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue

from rds_lake.assets.common import (
    IN_ONE_RUN,
    RDS_POOL,
    Batches,
    Condition,
    asset_options,
    failures,
    partitions_of,
    report,
)
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.catalog import publish
from rds_lake.lake.landing import land
from rds_lake.resources.services import LakeResource, ProgressResource, RdsResource
from rds_lake.spec import TableSpec


def landing_asset(spec: TableSpec, condition: Condition) -> dg.AssetsDefinition:
    """The landing asset of a table."""
    name = spec.asset("landing")

    @dg.asset(
        name=name,
        deps=[spec.asset("raw")],
        backfill_policy=IN_ONE_RUN,
        **asset_options(spec, "landing", condition),
        pool=RDS_POOL,
    )
    def landing(
        context: AssetExecutionContext, rds: RdsResource, lake: LakeResource, progress: ProgressResource
    ) -> None:
        partitions = partitions_of(context, spec)
        with failures():
            source, store = rds.source(), lake.store()
            with open_snapshot(source, spec) as snapshot:
                context.log.info(
                    f"Extracting {len(partitions):,} partitions of {spec.source_name} below {snapshot.fence.at} UTC."
                )
                landed = land(snapshot, store, partitions, progress.of(name, len(partitions)))
                text, _ = snapshot.rows_query()
                fence = snapshot.fence.at
            batches = Batches(spec, "landing", {key: item.manifest for key, item in landed.items()})
            publish(lake.catalog(), store, spec, "landing", list(batches.by_partition.values()))
            if spec.fetch_details:
                source.append_fetch_details(spec.fetch_details, spec.source_name, fence)
        new = sum(item.new for item in landed.values())
        context.log.info(
            f"Landed {batches.rows:,} rows in {new:,} new batches; {len(landed) - new:,} were as they had been."
        )
        report(
            context,
            batches,
            store,
            {"sql": MetadataValue.md(f"```sql\n{text}\n```")},
            {key: {"new": item.new, "fingerprint": item.manifest.fingerprint} for key, item in landed.items()},
        )

    return landing
