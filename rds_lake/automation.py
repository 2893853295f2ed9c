"""What runs by itself: automation conditions and schedules.

A condition is evaluated for each partition. Landing is asked for when its partition's fingerprint changed, or when an
observed partition has never been landed; everything after it follows. A failed run is not asked for again: retries,
and the next change or the next `rds-lake sync`, cover that.
"""

from typing import Any

import dagster as dg

from rds_lake.assets.common import Condition
from rds_lake.assets.raw import OBSERVE_TAG, RECENT
from rds_lake.checks import VERIFIED
from rds_lake.settings import required
from rds_lake.spec import TableSpec


def landing_condition() -> Condition:
    """Ask for a partition when its fingerprint changed, or once when it was observed and never landed.

    `newly_missing` instead of `missing`: the latter would ask again on every tick until the partition exists, so for
    ever when its run fails. A landing that happened meanwhile (`rds-lake sync`, a person) takes the request back; the
    first evaluation does not (as it would with `since_last_handled`), or a source that was observed before the sensor
    was switched on would never be landed.
    """
    any_reason = dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()
    return (
        any_reason.since(_handled())
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("source partition changed")


def _handled() -> Condition:
    return dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()


def following_condition() -> Condition:
    """Follow whatever comes before, unless a blocking check on it failed.

    What comes before may be asked for on the same tick: then all is one run, in which the check blocks by itself.
    """
    checked = dg.AutomationCondition.all_deps_blocking_checks_passed()
    same_run = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested())
    return (
        dg.AutomationCondition.any_deps_updated().since(_handled())
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & (checked | same_run)
    ).with_label("what comes before was updated")


def automation_is_on() -> bool:
    """Whether sensors and schedules start with the deployment: `RDS_LAKE_AUTOMATION=on`."""
    return required("RDS_LAKE_AUTOMATION").lower() == "on"


def observation_schedules(spec: TableSpec) -> list[dg.ScheduleDefinition]:
    """The regular observations of a table's source, the full and the recent one, each with the job that it runs."""
    schedules = [_observation_schedule(spec, f"{spec.table}_observation", spec.schedule, "Observes all of", {})]
    if spec.recent_schedule:
        name = f"{spec.table}_recent_observation"
        schedules.append(
            _observation_schedule(
                spec, name, spec.recent_schedule, "Observes the recent partitions of", {OBSERVE_TAG: RECENT}
            )
        )
    return schedules


def _observation_schedule(
    spec: TableSpec, name: str, cron: str, doing: str, tags: dict[str, str]
) -> dg.ScheduleDefinition:
    job = dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(spec.asset("raw")),
        description=f"{doing} {spec.source_name}; partitions that changed are landed by automation.",
        tags={"rds_lake/table": spec.table, **tags},
    )
    return dg.ScheduleDefinition(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=cron,
        description=f"{doing} {spec.source_name} regularly ({cron}, UTC).",
        default_status=dg.DefaultScheduleStatus.RUNNING if automation_is_on() else dg.DefaultScheduleStatus.STOPPED,
    )


def verification_job(spec: TableSpec) -> Any:  # noqa: ANN401 - Dagster's type of an unresolved job is private
    """The job that audits a table when somebody starts it."""
    return dg.define_asset_job(
        f"{spec.table}_verification",
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(spec.asset("warehouse")), VERIFIED)),
        description=f"Compares {spec.source_name}, the lake and the warehouse, as 'rds-lake verify' does.",
        tags={"rds_lake/table": spec.table},
    )


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of all tables."""
    return dg.AutomationConditionSensorDefinition(
        "rds_lake_automation",
        target=dg.AssetSelection.all(),
        description="Lands the partitions whose source changed, and lets everything after them follow.",
        default_status=dg.DefaultSensorStatus.RUNNING if automation_is_on() else dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
    )
