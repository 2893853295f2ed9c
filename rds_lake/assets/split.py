"""`<table>_staging` and `<table>_discarded`: one pass over the landed batch fills both."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue

from rds_lake.assets.audited import failure_recorded
from rds_lake.assets.common import (
    IN_ONE_RUN,
    Batches,
    Condition,
    asset_options,
    failures,
    is_again,
    partitions_of,
    report,
)
from rds_lake.lake.batch import commit_if_new
from rds_lake.lake.catalog import publish
from rds_lake.lake.files import memory_of
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Committed, Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.plan import lookup_values
from rds_lake.quality.split import DISCARDED_GLUE_COLUMNS, Splitter
from rds_lake.resources.services import AuditResource, LakeResource, ProgressResource, RdsResource
from rds_lake.settings import memory_for_rows
from rds_lake.side_by_side import side_by_side
from rds_lake.spec import Stage, TableSpec

STAGES: tuple[Stage, Stage] = ("staging", "discarded")

LOOKED_UP = 100
"""Partitions whose manifests are looked up together. The fewer, the less often another run has been there meanwhile."""


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
        context: AssetExecutionContext,
        rds: RdsResource,
        lake: LakeResource,
        progress: ProgressResource,
        audit: AuditResource,
    ) -> Iterator[dg.MaterializeResult[None]]:
        partitions = partitions_of(context, spec)
        with failures(), failure_recorded(context, audit, spec):
            store = lake.store()
            tell = progress.of(spec.asset("staging"), len(partitions))
            splitter = Splitter(store, spec, lookup_values(rds.source(), spec))
            committed, before = _split_all(store, spec, splitter, partitions, tell, again=is_again(context))
            catalog = lake.catalog()

            def show(stage: Stage) -> None:
                extra = DISCARDED_GLUE_COLUMNS if stage == "discarded" else ()
                made = [item[stage] for item in committed.values()]
                publish(catalog, store, spec, stage, made, extra, before=before[stage])

            side_by_side(show, STAGES)
        both = {stage: {key: item[stage].manifest for key, item in committed.items()} for stage in STAGES}
        staged, discarded = (Batches(spec, stage, both[stage]) for stage in STAGES)
        context.log.info(f"Split {staged.rows + discarded.rows:,} rows: {staged.rows:,} valid, {discarded.rows:,} not.")
        for batches in (staged, discarded):
            key = dg.AssetKey(spec.asset(batches.stage))
            if key in context.selected_asset_keys:
                _report(context, store, splitter, batches, both)
                yield dg.MaterializeResult(asset_key=key)

    return split


def _split_all(
    store: ObjectStore,
    spec: TableSpec,
    splitter: Splitter,
    partitions: Sequence[str],
    tell: Callable[[int], None],
    *,
    again: bool,
) -> tuple[dict[str, dict[Stage, Committed]], dict[Stage, dict[str, Committed]]]:
    """The new batches by partition, and those that stood there before, by stage."""
    manifests = Manifests(store, TableKeys.of(spec))
    before: dict[Stage, dict[str, Committed]] = {stage: {} for stage in STAGES}
    landed: dict[str, Committed] = {}
    finished: list[str] = []

    def one(partition: str) -> dict[Stage, Committed]:
        staging, discarded = (before[stage].get(partition) for stage in STAGES)
        kept = [item.manifest if item and not again else None for item in (staging, discarded)]
        made = splitter.split(landed[partition].manifest, *kept)
        # Staging last: the load follows it, so a crash in between leaves the discarded rows accounted for.
        unfit = commit_if_new(manifests, made.discarded, discarded)
        valid = commit_if_new(manifests, made.staging, staging)
        finished.append(partition)
        tell(len(finished))
        return {"staging": valid, "discarded": unfit}

    committed: dict[str, dict[Stage, Committed]] = {}
    for start in range(0, len(partitions), LOOKED_UP):
        some = partitions[start : start + LOOKED_UP]
        # Before landing's: whoever lands and splits a partition meanwhile makes these two out of date, and the
        # conditional commits above are refused. The other way round this split would replace a newer one.
        for stage in STAGES:
            before[stage] |= manifests.read_all(stage, some)
        landed |= manifests.require_all("landing", some)
        costs = {key: memory_of(item.manifest.size) for key, item in landed.items()}
        committed |= zip(some, side_by_side(one, some, costs.__getitem__, memory_for_rows()), strict=True)
    return committed, before


def _report(
    context: AssetExecutionContext,
    store: ObjectStore,
    splitter: Splitter,
    batches: Batches,
    both: dict[Stage, dict[str, Manifest]],
) -> None:
    last = next(reversed(both["staging"].values()))
    rules = "\n".join(f"-- {rule.label}\n{rule.condition}" for rule in splitter.rules(last).rules)
    per_partition = {}
    for key, discarded in both["discarded"].items():
        landed = both["staging"][key].rows + discarded.rows
        per_partition[key] = {
            "rows landed": landed,
            "rows discarded": discarded.rows,
            "discarded rate": discarded.rows / landed if landed else 0.0,
            **({f"broke {rule}": count for rule, count in discarded.details.items()}),
        }
    report(
        context,
        batches,
        store,
        {"rules": MetadataValue.md(f"```sql\n{rules}\n```")},
        per_partition,
    )
