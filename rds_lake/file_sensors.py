"""Sensors of dropped files: one reads the events, one lists what no event announced. Both end in the same claim.

A sensor claims files in the audit log and asks for a run that handles them; the claim comes first, the message is
deleted after it, and the run finds the claims in its configuration. When the run never comes, the lease ends and the
listing takes the files over. Every tick says what it saw.
"""

from collections.abc import Sequence

import dagster as dg
from dagster import SensorEvaluationContext
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from rds_lake.assets.files import job_name, run_config
from rds_lake.audit_log.record import Record
from rds_lake.automation import automation_is_on
from rds_lake.files.events import take_events
from rds_lake.files.listing import Cursor, sweep
from rds_lake.files.version import SCHEMA
from rds_lake.resources.files import FilesResource, ReceiverSpec

FILES_OF_A_RUN = 250
"""Files that one run is asked for: they stand in its configuration."""

RUNS = 4
"""Unfinished runs of a receiver from which on its sensors claim nothing."""

EVENT_SECONDS, LISTING_SECONDS = 5, 60
"""How often the sensors look."""


def queue_name(spec: ReceiverSpec) -> str:
    """The queue of a receiver's events."""
    return spec.queue or f"rds_lake_{spec.name}"


def shared_out(claimed: Sequence[Record]) -> list[Sequence[Record]]:
    """Claimed files as runs are asked for them, one after the other: schema files first, then those that landed first.

    A data file waits for the schema files of its table, in vain for one that is left to a run that comes after its own.
    """
    ordered = sorted(claimed, key=lambda record: (record.action != SCHEMA, record.landed_at))
    return [ordered[start : start + FILES_OF_A_RUN] for start in range(0, len(ordered), FILES_OF_A_RUN)]


def receiver_job(spec: ReceiverSpec, assets: dg.AssetsDefinition) -> dg.JobDefinition:
    """The job that handles files of a drop zone or feed."""
    return dg.define_asset_job(
        job_name(spec),
        selection=dg.AssetSelection.assets(*assets.keys),
        description=f"Handles the files of {spec.name} that it is asked for, or all that wait.",
        tags={"rds_lake/receiver": spec.name},
    )  # type: ignore[return-value]  # Dagster's type of an unresolved job is private


def receiver_sensors(spec: ReceiverSpec) -> list[dg.SensorDefinition]:
    """The sensors of a drop zone or feed."""
    status = dg.DefaultSensorStatus.RUNNING if automation_is_on() else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=f"{spec.name}_file_events",
        job_name=job_name(spec),
        minimum_interval_seconds=EVENT_SECONDS,
        default_status=status,
        description=f"Claims the files of {spec.name} that S3 announces, seconds after they land.",
    )
    def file_events(context: SensorEvaluationContext, files: FilesResource) -> dg.SensorResult:
        if busy := _busy(context, spec):
            return dg.SensorResult(skip_reason=busy)
        taken = take_events(files.queue(queue_name(spec)), files.receiver(spec), files.audit_log())
        for problem in taken.problems:
            context.log.warning(problem)
        context.log.info(taken.summary)
        return _result(spec, taken.claimed, taken.summary, "event", None)

    @dg.sensor(
        name=f"{spec.name}_file_listing",
        job_name=job_name(spec),
        minimum_interval_seconds=LISTING_SECONDS,
        default_status=status,
        description=f"Claims the files of {spec.name} that no event announced, and those that a crashed run left.",
    )
    def file_listing(context: SensorEvaluationContext, files: FilesResource) -> dg.SensorResult:
        if busy := _busy(context, spec):
            return dg.SensorResult(skip_reason=busy, cursor=context.cursor)
        swept = sweep(files.receiver(spec), files.audit_log(), Cursor.of(context.cursor))
        context.log.info(swept.summary)
        return _result(spec, swept.claimed, swept.summary, "listing", swept.cursor.text)

    return [file_events, file_listing]


def _busy(context: SensorEvaluationContext, spec: ReceiverSpec) -> str | None:
    """Why a tick claims nothing: runs wait already, and what they are for would wait beyond its lease."""
    filters = dg.RunsFilter(tags={"rds_lake/receiver": spec.name}, statuses=list(NOT_FINISHED_STATUSES))
    runs = context.instance.get_runs_count(filters)
    return (
        f"{runs:,} runs of {spec.name} are not finished yet; new files wait where they are." if runs >= RUNS else None
    )


def _result(
    spec: ReceiverSpec, claimed: Sequence[Record], summary: str, trigger: str, cursor: str | None
) -> dg.SensorResult:
    requests = [
        dg.RunRequest(
            run_config=run_config(spec, some),
            tags={"rds_lake/receiver": spec.name, "rds_lake/trigger": trigger},
        )
        for some in shared_out(claimed)
    ]
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else summary, cursor=cursor)
