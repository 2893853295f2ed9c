"""`<table>_landing`: the source's rows, extracted and committed as one batch per partition."""

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue

from rds_lake.assets.audited import failure_recorded
from rds_lake.assets.common import (
    IN_ONE_RUN,
    RDS_POOL,
    Batches,
    Condition,
    Fact,
    asset_options,
    failures,
    is_again,
    partitions_of,
    report,
)
from rds_lake.extract.contract import Shape
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.agreement import agree
from rds_lake.lake.catalog import publish
from rds_lake.lake.landing import land, standing
from rds_lake.resources.services import AuditResource, LakeResource, ProgressResource, RdsResource
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
        context: AssetExecutionContext,
        rds: RdsResource,
        lake: LakeResource,
        progress: ProgressResource,
        audit: AuditResource,
    ) -> None:
        partitions = partitions_of(context, spec)
        with failures(), failure_recorded(context, audit, spec):
            source, store = rds.source(), lake.store()
            replacing = standing(store, spec, partitions)
            with open_snapshot(source, spec) as snapshot:
                context.log.info(
                    f"Extracting {len(partitions):,} partitions of {spec.source_name} below {snapshot.fence.at} UTC."
                )
                shape = agree(store, spec, snapshot.table)
                for line in shape_story(spec, shape):
                    context.log.warning(line)
                told = progress.of(name, len(partitions))
                landed = land(snapshot, store, partitions, told, shape, replacing=replacing, again=is_again(context))
                text, _ = snapshot.rows_query()
                fence, holder = snapshot.fence.at, snapshot.fence.holder()
                for line in snapshot.fence.story():
                    context.log.info(line)
            batches = Batches(spec, "landing", {key: item.manifest for key, item in landed.items()})
            publish(
                lake.catalog(), store, spec, "landing", [item.committed for item in landed.values()], before=replacing
            )
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
            {
                "sql": MetadataValue.md(f"```sql\n{text}\n```"),
                **_shape_facts(shape),
                **({"fence held by": holder} if holder else {}),
            },
            {
                key: {
                    "new": item.new,
                    "fingerprint": item.manifest.fingerprint,
                    **{name.replace("_", " ", 1): count for name, count in item.manifest.details.items()},
                }
                for key, item in landed.items()
            },
        )

    return landing


def shape_story(spec: TableSpec, shape: Shape) -> list[str]:
    """What the table's contract made of a changed source, in words; nothing when it is as it was."""
    lines = []
    if shape.changes:
        lines.append(
            f"The columns of {spec.source_name} have changed: {'; '.join(shape.changes)}. schema_changes is "
            f"{spec.schema_changes}; this is version {shape.agreed.version} of the agreed schema."
        )
    if shape.ignored:
        lines.append(f"schema_changes is {spec.schema_changes}: of {spec.source_name}, {'; '.join(shape.ignored)}.")
    return lines


def _shape_facts(shape: Shape) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"schema version": shape.agreed.version}
    if shape.changes or shape.ignored:
        facts["schema changes"] = MetadataValue.md("\n".join(f"- {text}" for text in (*shape.changes, *shape.ignored)))
    return facts
