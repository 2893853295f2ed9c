"""`<table>_staging` and `<table>_discarded`: one pass over the landed batch fills both."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue

from rds_lake.assets.common import (
    IN_ONE_RUN,
    Batches,
    Condition,
    asset_options,
    failures,
    partitions_of,
    report,
)
from rds_lake.lake.batch import commit_if_new
from rds_lake.lake.catalog import publish
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ObjectStore, side_by_side
from rds_lake.plan import lookup_values
from rds_lake.quality.split import DISCARDED_GLUE_COLUMNS, Split, Splitter
from rds_lake.resources.services import LakeResource, ProgressResource, RdsResource
from rds_lake.spec import Stage, TableSpec

STAGES: tuple[Stage, Stage] = ("staging", "discarded")


def split_assets(spec: TableSpec, condition: Condition) -> dg.AssetsDefinition:
    """The staging and discarded assets of a table."""

    @dg.multi_asset(
        name=f"{spec.table}_split",
        specs=[
            dg.AssetSpec(
                key=spec.asset(stage),
                deps=[spec.asset("landing")],
                **asset_options(spec, stage, condition),
            )
            for stage in STAGES
        ],
        can_subset=True,
        backfill_policy=IN_ONE_RUN,
    )
    def split(
        context: AssetExecutionContext, rds: RdsResource, lake: LakeResource, progress: ProgressResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        partitions = partitions_of(context, spec)
        with failures():
            store = lake.store()
            tell = progress.of(spec.asset("staging"), len(partitions))
            splitter = Splitter(store, spec, lookup_values(rds.source(), spec))
            done = _split_all(store, spec, splitter, partitions, tell)
            both = {stage: {key: _side(item, stage) for key, item in done.items()} for stage in STAGES}
            for stage in STAGES:
                extra = DISCARDED_GLUE_COLUMNS if stage == "discarded" else ()
                publish(lake.catalog(), store, spec, stage, list(both[stage].values()), extra)
        staged, discarded = (Batches(spec, stage, both[stage]) for stage in STAGES)
        context.log.info(f"Split {staged.rows + discarded.rows:,} rows: {staged.rows:,} valid, {discarded.rows:,} not.")
        for batches in (staged, discarded):
            key = dg.AssetKey(spec.asset(batches.stage))
            if key in context.selected_asset_keys:
                _report(context, store, splitter, batches, done)
                yield dg.MaterializeResult(asset_key=key)

    return split


def _split_all(
    store: ObjectStore, spec: TableSpec, splitter: Splitter, partitions: Sequence[str], tell: Callable[[int], None]
) -> dict[str, Split]:
    manifests = Manifests(store, TableKeys.of(spec))
    finished: list[str] = []

    def one(partition: str) -> Split:
        landed = manifests.require("landing", partition).manifest
        staging, discarded = (manifests.read(stage, partition) for stage in STAGES)
        made = splitter.split(landed, staging.manifest if staging else None, discarded.manifest if discarded else None)
        # Staging last: the load follows it, so a crash in between leaves the discarded rows accounted for.
        commit_if_new(manifests, made.discarded, discarded)
        commit_if_new(manifests, made.staging, staging)
        finished.append(partition)
        tell(len(finished))
        return made

    return dict(zip(partitions, side_by_side(one, partitions), strict=True))


def _side(item: Split, stage: Stage) -> Manifest:
    return item.staging if stage == "staging" else item.discarded


def _report(
    context: AssetExecutionContext, store: ObjectStore, splitter: Splitter, batches: Batches, done: dict[str, Split]
) -> None:
    last = next(reversed(done.values()))
    rules = "\n".join(f"-- {rule.label}\n{rule.condition}" for rule in splitter.rules(last.staging).rules)
    per_partition = {}
    for key, item in done.items():
        landed = item.staging.rows + item.discarded.rows
        per_partition[key] = {
            "rows landed": landed,
            "rows discarded": item.discarded.rows,
            "discarded rate": item.discarded.rows / landed if landed else 0.0,
            **({f"broke {rule}": count for rule, count in item.discarded.details.items()}),
        }
    report(
        context,
        batches,
        store,
        {"rules": MetadataValue.md(f"```sql\n{rules}\n```")},
        per_partition,
    )
