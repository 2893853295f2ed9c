"""Sensors: batches that others landed (a Glue job, a colleague's script, a restore) are noticed and go on.

A landed batch is one that landing's manifest names. When Dagster's latest record of the partition names another batch,
the sensor reports the materialisation and asks for the rest of the chain. Every tick that does nothing says why.
"""

import json
from collections.abc import Mapping

import dagster as dg
from dagster import SensorEvaluationContext
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from rds_lake.automation import automation_is_on
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.resources.services import LakeResource
from rds_lake.spec import Stage, TableSpec

BATCHES_PER_TICK = 50
"""Partitions that one tick looks at closely: a tick must end within a minute."""

AFTER_LANDING: tuple[Stage, ...] = ("staging", "discarded", "archived", "warehouse")


def landed_elsewhere_sensor(spec: TableSpec) -> dg.SensorDefinition:
    """The sensor of one table."""
    name = f"{spec.table}_landed_elsewhere"
    rest = [dg.AssetKey(spec.asset(stage)) for stage in AFTER_LANDING]

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*rest),
        description=f"Notices batches of {spec.table} that were landed without Dagster, and takes them on from there.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING if automation_is_on() else dg.DefaultSensorStatus.STOPPED,
    )
    def landed_elsewhere(context: SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        if landing_runs(context.instance, spec):
            text = f"A run is landing {spec.table} now; its batches are recorded when it ends."
            return dg.SensorResult(skip_reason=text, cursor=context.cursor)
        seen: dict[str, str] = json.loads(context.cursor or "{}")
        manifests = Manifests(lake.store(), TableKeys.of(spec))
        listed = manifests.partitions("landing")
        changed = [key for key, etag in listed.items() if seen.get(key) != etag][:BATCHES_PER_TICK]
        landed = {key: item.manifest for key, item in manifests.read_all("landing", changed).items()}
        known = {key: recorded_batch(context.instance, spec, key) for key in landed}
        foreign = {key: manifest for key, manifest in landed.items() if known[key] != manifest.batch}
        cursor = {key: etag for key, etag in {**seen, **{k: listed[k] for k in changed}}.items() if key in listed}
        return dg.SensorResult(
            run_requests=[_request(spec, manifest) for manifest in foreign.values()],
            asset_events=[_event(spec, manifest) for manifest in foreign.values()],
            skip_reason=None if foreign else skip_reason(spec, listed, changed),
            cursor=json.dumps(cursor),
        )

    return landed_elsewhere


def landing_runs(instance: dg.DagsterInstance, spec: TableSpec) -> list[dg.DagsterRun]:
    """The unfinished runs of a table's landing: they commit batches before Dagster has a record of them."""
    landing = dg.AssetKey(spec.asset("landing"))
    return [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
        if run.tags.get("rds_lake/table") == spec.table or landing in (run.asset_selection or ())
    ]


def skip_reason(spec: TableSpec, listed: Mapping[str, str], changed: list[str]) -> str:
    """Why a tick had nothing to do."""
    if not listed:
        return f"Nothing of {spec.table} has been landed yet."
    if not changed:
        return f"No manifest of {len(listed):,} landed partitions of {spec.table} has changed since the last tick."
    return f"{len(changed):,} landed partitions of {spec.table} are new or changed, all of them by Dagster's own runs."


def recorded_batch(instance: dg.DagsterInstance, spec: TableSpec, partition: str) -> str | None:
    """The batch of Dagster's latest record of a landed partition, None when there is none."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(spec.asset("landing")),
            asset_partitions=None if partition == WHOLE_TABLE else [partition],
        ),
        limit=1,
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    batch = records[0].asset_materialization.metadata.get("batch")
    return str(batch.value) if batch is not None else None


def _event(spec: TableSpec, manifest: Manifest) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key=spec.asset("landing"),
        partition=None if manifest.partition == WHOLE_TABLE else manifest.partition,
        description="Landed without Dagster",
        metadata={"batch": manifest.batch, "rows": manifest.rows, "bytes": manifest.size, "files": len(manifest.files)},
    )


def _request(spec: TableSpec, manifest: Manifest) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{spec.table}:{manifest.partition}:{manifest.batch}",
        partition_key=None if manifest.partition == WHOLE_TABLE else manifest.partition,
        asset_selection=[dg.AssetKey(spec.asset(stage)) for stage in AFTER_LANDING],
        tags={"rds_lake/table": spec.table, "rds_lake/trigger": "landed elsewhere"},
    )
