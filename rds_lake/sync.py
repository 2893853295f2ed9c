"""`sync`: observe, do what changed, check; in one process, recorded in the same Dagster instance as everything else.

What cron, CI and benchmarks call. It needs no daemon and no webserver: the runs are executed here.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetCheckEvaluation, AssetCheckSeverity, DagsterInstance
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from dagster_shared.error import SerializableErrorInfo

from rds_lake.assets.common import AGAIN_TAG
from rds_lake.assets.raw import SPEC_METADATA, observations
from rds_lake.checks import VERIFIED, raw_result
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, SpecError, TransientError
from rds_lake.event_log import open_dagster_instance, recording, report_observations
from rds_lake.extract.fence import REPORTED
from rds_lake.extract.fingerprint import EMPTY
from rds_lake.lake.aws import ConflictError, GoneError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.plan import Observation, Plan, all_again, decide, examine, land_other_keys, observe
from rds_lake.resources.services import LakeResource, RdsResource, WarehouseResource
from rds_lake.spec import Stage, TableSpec, refuse_shared_targets
from rds_lake.undone import Undone
from rds_lake.warehouse import ledger
from rds_lake.wording import counted

WORKER_TAG = "rds_lake/worker"
"""Tag of a run that says which process executes it: `host:pid:start`, to tell a dead one from a living one."""

CHAIN: tuple[Stage, ...] = ("landing", "staging", "discarded", "archived", "warehouse")

PROC = Path("/proc")

BLOCKED = "DagsterAssetCheckFailedError"
"""What Dagster raises in the step of a blocking check that failed."""

OWN_ERRORS = {
    cls.__name__ for cls in (PermanentError, TransientError, ConfigError, SpecError, ConflictError, GoneError)
}

OTHER_ERRORS = OWN_ERRORS - {PermanentError.__name__}
"""Those of them that any other partition would meet as well."""

WAITS = "rows of it may have moved to partitions that could not be done"

Report = Callable[[str], None]


@dataclass
class TableResult:
    """What a sync did for one table.

    Attributes:
        table: the table's name.
        partitions: how many partitions were out of step.
        rows: rows of the batches that were written, by stage.
        passed: checks that passed.
        warned: what checks found that do not fail a sync, one line each.
        failed: what failing checks found, one line each.
        error: why it could not be done, None when it was.
        seconds: how long it took.
    """

    table: str
    partitions: int = 0
    rows: dict[Stage, int] = field(default_factory=dict)
    passed: int = 0
    warned: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything was done and no failing check failed."""
        return self.error is None and not self.failed


def table_specs(definitions: dg.Definitions) -> dict[str, TableSpec]:
    """The declared tables of a code location, by name."""
    graph = definitions.resolve_asset_graph()
    found = {}
    for key in graph.get_all_asset_keys():
        declared = graph.get(key).metadata.get(SPEC_METADATA)
        if declared is not None:
            spec = TableSpec.model_validate(declared.value)
            found[spec.table] = spec
    refuse_shared_targets(found.values())
    return found


def choose(specs: dict[str, TableSpec], names: Sequence[str]) -> list[TableSpec]:
    """The tables of these names; all when there are none.

    Raises:
        SpecError: there is no such table.
    """
    unknown = [name for name in names if name not in specs]
    if unknown:
        raise SpecError(
            f"There is no table '{unknown[0]}' in rds_lake/defs (there are: {', '.join(sorted(specs)) or 'none'}).",
            "Correct the name, or declare the table in rds_lake/defs/<table>/defs.yaml.",
        )
    return [specs[name] for name in (names or sorted(specs))]


def open_instance() -> DagsterInstance:
    """Dagster's instance at `DAGSTER_HOME`.

    Raises:
        ConfigError: the variable is not set, or names no folder with a dagster.yaml.
    """
    if not os.environ.get("DAGSTER_HOME"):
        raise ConfigError(
            "DAGSTER_HOME is not set, so there is no place to record what was done.",
            "Start the local stack with 'rds-lake up', or set it to the folder that holds dagster.yaml.",
        )
    return open_dagster_instance()


class Sync:
    """Brings tables in step.

    Args:
        definitions: the code location.
        instance: the Dagster instance that records everything.
        report: told in words what is going on.
        verbose: whether Dagster's log is printed as well; it is recorded in any case.
    """

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: DagsterInstance,
        report: Report = lambda _: None,
        *,
        verbose: bool = False,
    ) -> None:
        self._definitions = definitions
        self._log_level = "INFO" if verbose else "CRITICAL"
        self._instance = instance
        self._report = report
        self._lake = LakeResource()

    def table(
        self,
        spec: TableSpec,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        recent: bool = False,
        again: bool = False,
    ) -> TableResult:
        """Observe a table, do what changed, check.

        Args:
            spec: the table's YAML.
            since: only partitions from the one that holds this moment on.
            until: only partitions that begin before this moment.
            recent: only what may have changed lately; a table without a cursor is left as it is.
            again: do all of them, changed or not, in new batches.

        Raises:
            ConfigError: a variable is missing or wrong; any other error is in the result.
        """
        started = time.monotonic()
        result = TableResult(spec.table)
        try:
            if recent and spec.cursor is None:
                self._report(f"{spec.table} has no cursor that tells which rows are recent: left as it is")
            else:
                with recording():
                    self._do(spec, result, since, until, recent=recent, again=again)
        except ConfigError:
            raise  # no table can be done with it
        except RdsLakeError as error:
            result.error = str(error)
        result.seconds = time.monotonic() - started
        return result

    def _do(
        self,
        spec: TableSpec,
        result: TableResult,
        since: datetime | None,
        until: datetime | None,
        *,
        recent: bool,
        again: bool,
    ) -> None:
        self._report(f"observing {spec.table}")
        seen, plan, schema = self._look(spec, since, until, recent=recent)
        if again:
            plan = all_again(spec, seen, since, until)
            with WarehouseResource().warehouse().connect() as session:
                ledger.doubt(session, spec.table, plan.land)  # so that a sync takes up what this one leaves undone
        result.warned += [*seen.warnings, *(f"{spec.table}: {line}" for line in schema)]
        if seen.fence.held_back_by > REPORTED:
            result.warned.append(f"{spec.table}: {seen.fence.holder()}: newer rows come with a later sync")
        self._record_source_check(spec, seen, result)
        result.partitions = len(plan.land) + len(plan.resume)
        self._record_observation(spec, seen, plan)
        failures: list[str | None] = []
        undone = Undone(RdsResource().source(), self._lake.store(), WarehouseResource().warehouse(), spec, seen.table)
        for stages, partitions in ((CHAIN, plan.land), (CHAIN[1:], plan.resume)):
            # The newest first: a row that was updated leaves an old partition for a newer one, and must not be
            # missing from the warehouse between the two loads. Nor may it be when the newer one fails.
            for first, last in reversed(_ranges(spec, partitions)):
                window = spec.partitioning.span(first, last) if spec.partitioning else None
                if failures and window and stages is CHAIN and undone.waits(window):
                    undone.add(window)
                    result.warned.append(f"{spec.table} {_span(first, last)} waits: {WAITS}")
                    continue
                failure = self._run(spec, stages, first, last, result, again=again)
                if failure is None:
                    continue
                repeats = failure.why is not None and failure.why in failures
                failures.append(failure.why)
                result.error = _told(failures)
                if repeats or not failure.is_of_the_data:
                    return
                if window:
                    undone.add(window)

    def _look(
        self, spec: TableSpec, since: datetime | None, until: datetime | None, *, recent: bool
    ) -> tuple[Observation, Plan, Sequence[str]]:
        source, store = RdsResource().source(), self._lake.store()
        seen = observe(source, store, spec, since, until, recent=recent)
        standing = examine(source, store, WarehouseResource().warehouse(), spec, seen.table)
        plan = decide(seen.fingerprints, standing)
        landed = Manifests(store, TableKeys.of(spec)).read_all("landing", plan.resume)
        plan = land_other_keys(plan, seen.table, spec.key, {key: item.manifest for key, item in landed.items()})
        return seen, plan, standing.schema

    def _record_source_check(self, spec: TableSpec, seen: Observation, result: TableResult) -> None:
        found = raw_result(spec, seen.before_start, seen.without_cursor, seen.in_future)
        if found.passed:
            result.passed += 1
        else:
            told = result.warned if found.severity == AssetCheckSeverity.WARN else result.failed
            told.append(f"{spec.asset('raw')} in_a_partition: {found.description}")
        self._instance.report_runless_asset_event(
            AssetCheckEvaluation(
                asset_key=dg.AssetKey(spec.asset("raw")),
                check_name="in_a_partition",
                passed=found.passed,
                metadata=found.metadata,
                severity=found.severity,
                description=found.description,
            )
        )

    def _record_observation(self, spec: TableSpec, seen: Observation, plan: Plan) -> None:
        """Tell Dagster of the partitions that changed, as an observation of the source would."""
        changed = {partition: seen.fingerprints.get(partition, EMPTY) for partition in plan.land}
        report_observations(self._instance, observations(spec, replace(seen, fingerprints=changed)))

    def _run(
        self, spec: TableSpec, stages: Sequence[Stage], first: str, last: str, result: TableResult, *, again: bool
    ) -> "_Failure | None":
        """Execute a run; why it failed, be it by an error or by a blocking check, and None when it did not."""
        keys = {dg.AssetKey(spec.asset(stage)) for stage in stages}
        whole = self._definitions.resolve_implicit_global_asset_job_def()
        checks = whole.asset_layer.asset_graph.get_check_keys_for_assets(keys)
        job = whole.get_subset(
            asset_selection=keys, asset_check_selection={key for key in checks if key.name != VERIFIED}
        )
        tags = {"rds_lake/table": spec.table, "rds_lake/trigger": "sync", WORKER_TAG: worker()}
        tags |= {AGAIN_TAG: "true"} if again else {}
        if spec.partitioning:
            tags |= {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
        self._report(f"{spec.table} {_span(first, last)}")
        log = {"loggers": {"console": {"config": {"log_level": self._log_level}}}}
        done = job.execute_in_process(run_config=log, instance=self._instance, tags=tags, raise_on_error=False)
        _collect(spec, done.all_events, result)
        return None if done.success else _Failure(_why(done.all_events), _is_of_the_data(done.all_events))


@dataclass(frozen=True)
class _Failure:
    """How a run failed.

    Attributes:
        why: its own words; None when a blocking check alone stopped it, which speaks for itself.
        is_of_the_data: whether other partitions may fare better.
    """

    why: str | None
    is_of_the_data: bool


def _span(first: str, last: str) -> str:
    return first if last == first else f"{first} to {last}"


def _told(failures: Sequence[str | None]) -> str | None:
    """The first error, and how many more stretches failed; None when checks alone failed them."""
    first = next((why for why in failures if why), None)
    more = len(failures) - 1
    return (
        f"{first} ({counted(more, 'more stretch', 'more stretches')} of partitions failed.)"
        if first and more
        else first
    )


def _ranges(spec: TableSpec, partitions: Sequence[str]) -> list[tuple[str, str]]:
    if spec.partitioning is None:
        return [(partition, partition) for partition in partitions]
    return spec.partitioning.ranges(partitions)


def _collect(spec: TableSpec, events: Sequence[dg.DagsterEvent], result: TableResult) -> None:
    """Add what a run's events say to a table's result."""
    by_asset: dict[str, Stage] = {spec.asset(stage): stage for stage in CHAIN}
    for event in events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            stage = by_asset[made.asset_key.to_user_string()]
            rows = made.metadata.get("rows")
            result.rows[stage] = result.rows.get(stage, 0) + (int(str(rows.value)) if rows else 0)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found: Any = event.event_specific_data
            line = f"{found.asset_key.to_user_string()} {found.check_name}: {found.description}"
            if found.passed:
                result.passed += 1
            elif found.severity == AssetCheckSeverity.WARN:
                result.warned.append(line)
            else:
                result.failed.append(line)


def _why(events: Sequence[dg.DagsterEvent]) -> str | None:
    """The first failure's own words; None when a blocking check alone stopped the run, which speaks for itself."""
    failures = [event.step_failure_data for event in events if event.is_step_failure]
    if not failures:
        return "the run failed before its first step; see Dagster's log"
    for data in failures:
        if data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
        if data.error is None or data.error.cls_name != BLOCKED:
            return _own_words(data.error)
    return None


def _is_of_the_data(events: Sequence[dg.DagsterEvent]) -> bool:
    """Whether a run failed over what it read: a blocking check, or an error that neither passes nor is of the YAML."""
    names: set[str] = set()
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            names.add(error.cls_name or "")
            error = error.cause
    return bool(names & {BLOCKED, PermanentError.__name__}) and not names & OTHER_ERRORS


def _own_words(error: SerializableErrorInfo | None) -> str:
    """The message of the rds_lake error in a chain of causes, or else of the innermost one."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.cause
    for each in chain:
        if each.cls_name in OWN_ERRORS:
            return each.message.partition(": ")[2].strip()
    return chain[-1].message.strip() if chain else "a step failed"


def worker() -> str:
    """What tells this process from any other, also from a later one with the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"[:63]


def _started(pid: int) -> str:
    """When a process of this host started, in the kernel's own ticks; empty when there is none."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:  # gone, or a system without /proc
        return ""


@recording()
def end_dead_runs(instance: DagsterInstance) -> int:
    """Mark the runs of syncs that were killed on this host as failed, and free the pool slots that they hold.

    Returns:
        How many there were.

    Raises:
        PermanentError: the disk of Dagster's records is full.
    """
    ended = 0
    for run in instance.get_runs(
        dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES), tags={"rds_lake/trigger": "sync"})
    ):
        host, pid, start = run.tags.get(WORKER_TAG, "::").split(":")
        if host == socket.gethostname() and start and _started(int(pid)) != start:
            instance.report_run_failed(run, "The process that executed this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended += 1
    return ended
