"""`receive`: notice what has been dropped and handle it, in one process, recorded in the same Dagster instance.

What cron calls where no daemon runs, and what the demo and tests call. It does what the sensors do, once.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import dagster as dg
from dagster._utils.error import SerializableErrorInfo  # type: ignore[attr-defined]  # it is of another package now

from rds_lake.assets.files import RECEIVER_METADATA, claim_waiting, job_name, run_config
from rds_lake.audit_log.record import Record
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, SpecError
from rds_lake.event_log import recording
from rds_lake.file_sensors import queue_name, shared_out
from rds_lake.files.events import take_events
from rds_lake.files.schema import NAME_BYTES
from rds_lake.files.setup import EventSetup, Wanted
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.files.zone import ACTIONS, UNKNOWN
from rds_lake.resources.files import FilesResource, ReceiverSpec
from rds_lake.resources.services import aws_client
from rds_lake.wording import counted

Report = Callable[[str], None]

WAITING_LINES, WAITING_NAMES = 5, 3
"""How many reasons why files wait are told, and how many files of each are named."""

INTERRUPTED = {KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__}
"""What ends a run when Ctrl-C is pressed."""

_OURS = re.compile(r"rds_lake[\w.]*: ")
"""How Dagster begins the text of one of our errors."""


@dataclass
class Received:
    """What was done for one drop zone or feed.

    Attributes:
        name: the drop zone or feed.
        records: the files that were handled, as the audit log has them.
        failed: what could not be asked, and runs that failed, each with what it said.
        notes: what is wrong with the events; the listing finds what they do not tell.
        waiting: the files that are left alone for now, in words: why, and until when.
        misconfigured: whether nothing could be noticed because of a setting.
    """

    name: str
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    misconfigured: bool = False

    @property
    def ok(self) -> bool:
        """Whether every file was taken, and none waits."""
        return not self.failed and not self.waiting and self._all_taken

    @property
    def is_only_misconfigured(self) -> bool:
        """Whether a setting is all that was in the way."""
        return self.misconfigured and len(self.failed) == 1 and not self.waiting and self._all_taken

    @property
    def _all_taken(self) -> bool:
        return all(record.status == "completed" for record in self.records)


def only_misconfigured(results: Sequence[Received]) -> bool:
    """Whether something went wrong, and settings are all that was wrong."""
    bad = [result for result in results if not result.ok]
    return bool(bad) and all(result.is_only_misconfigured for result in bad)


class AlreadyWaitingError(ConfigError):
    """A file of the same name lies there and has not been handled yet."""


def receiver_specs(definitions: dg.Definitions, environ: Mapping[str, str] = os.environ) -> dict[str, ReceiverSpec]:
    """The declared drop zones and feeds of a code location, by name.

    Args:
        definitions: the code location.
        environ: the environment, which may name the buckets; without it what the YAML itself says is checked.

    Raises:
        SpecError: two have one name, or take the same files, or one takes the lake's own.
    """
    assets = [each for each in definitions.assets or () if isinstance(each, dg.AssetsDefinition)]
    declared = [spec.metadata.get(RECEIVER_METADATA) for each in assets for spec in each.specs]
    specs = [_spec_of(found.value) for found in declared if found is not None]
    refuse_disputes(specs, environ)
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}


def refuse_disputes(specs: Sequence[ReceiverSpec], environ: Mapping[str, str]) -> None:
    """Refuse drop zones and feeds of which one would take what is another's.

    Args:
        specs: all of them.
        environ: names the buckets of those that name none, and that of the lake.

    Raises:
        SpecError: two have one name or one queue, two lie in one folder, or one in that of another, or in the lake, or
            two load the same tables.
    """
    for spec in specs:
        if _bucket(spec, environ) is not None and _bucket(spec, environ) == environ.get("RDS_LAKE_BUCKET"):
            raise SpecError(
                f"{spec.name} takes files in the bucket {_bucket(spec, environ)}, which is that of the lake "
                "(RDS_LAKE_BUCKET): it would take the lake's own objects.",
                "Give one of them another bucket.",
            )
    for one, other in itertools.permutations(specs, 2):
        if one.name.lower() == other.name.lower():
            raise SpecError(
                f"Two drop zones or feeds are called {one.name} (upper and lower case are the same to Redshift).",
                "Give one of them another name.",
            )
        if queue_name(one) == queue_name(other):
            raise SpecError(
                f"{one.name} and {other.name} have the same queue, {queue_name(one)}: each would take the other's "
                "events.",
                "Give one of them another one, with 'queue'.",
            )
        if _bucket(one, environ) == _bucket(other, environ) and one.root.startswith(other.root):
            raise SpecError(
                f"{one.name} takes files below {one.root}, which lies in the folder {other.root} of {other.name}.",
                "Give one of them another folder, or another bucket.",
            )
        if _target(one) == _target(other):
            is_zone = isinstance(one, DropZoneSpec)
            raise SpecError(
                f"{one.name} and {other.name} load the same {'schema' if is_zone else 'table'}, "
                f"{'.'.join(_target(one)[1:])}: one would replace, or empty, what the other has loaded.",
                f"Give one of them another {'schema' if is_zone else 'target'}.",
            )


def _target(spec: ReceiverSpec) -> tuple[str, ...]:
    """What it loads, and where: upper and lower case are the same to Redshift, to PostgreSQL they are not."""
    if isinstance(spec, DropZoneSpec):
        return "Redshift", spec.schema_name.lower()
    return "PostgreSQL", spec.target.db_schema, spec.target.table


def _bucket(spec: ReceiverSpec, environ: Mapping[str, str]) -> str | None:
    return spec.bucket or environ.get("RDS_LAKE_DROP_BUCKET") or None


def _spec_of(data: dict[str, object]) -> ReceiverSpec:
    if "zone" in data:
        return DropZoneSpec.model_validate(data["zone"])
    return FileFeedSpec.model_validate(data["feed"])


def choose_receivers(specs: dict[str, ReceiverSpec], names: Sequence[str]) -> list[ReceiverSpec]:
    """The drop zones and feeds of these names; all when there are none.

    Raises:
        SpecError: there is no such one.
    """
    for name in names:
        if name not in specs:
            raise SpecError(
                f"There is no drop zone or feed '{name}' (there are: {', '.join(specs) or 'none'}).",
                "Correct the name, or declare it in rds_lake/defs/<name>/defs.yaml.",
            )
    return [specs[name] for name in (names or specs)]


def set_up(specs: Sequence[ReceiverSpec], files: FilesResource) -> Iterator[str]:
    """Make the audit log's table, and what events need; says in words what is there now."""
    log = files.audit_log()
    yield f"the DynamoDB table {log.name} {'is made' if log.create() else 'is there already'}"
    wanted = []
    for spec in specs:
        receiver = files.receiver(spec)
        wanted.append(Wanted(spec.name, receiver.store.bucket, tuple(receiver.prefixes()), queue_name(spec)))
    if wanted:
        yield from EventSetup(aws_client("s3"), aws_client("sqs"), aws_client("events")).make(wanted)


def drop(specs: dict[str, ReceiverSpec], file: Path, database: str, table: str | None, action: str | None) -> str:
    """Put a file where it belongs, unless one of the same name waits there; its address.

    Args:
        specs: the declared drop zones and feeds.
        file: the file.
        database: the drop zone, or the feed.
        table: the table; none for a feed.
        action: what the file does; none for a feed.

    Raises:
        AlreadyWaitingError: one waits there.
        RdsLakeError: there is no such place, or no such file.
    """
    [spec] = choose_receivers(specs, [database])
    receiver = FilesResource().receiver(spec)
    if not file.is_file():
        raise ConfigError(f"There is no file {file}.", "Correct its path.")
    if isinstance(spec, FileFeedSpec):
        if table or action:
            raise ConfigError(f"{database} is a feed, which has neither tables nor actions.", "Leave both out.")
        key = f"{receiver.prefixes()[0]}{file.name}"
    else:
        if not table or action not in ACTIONS:
            raise ConfigError(
                f"The drop zone {database} needs a table and an action.",
                f"Give --table, and --action {'|'.join(ACTIONS)}.",
            )
        key = f"{spec.database}/{action}/{table}/{file.name}"
    place = receiver.place(key)
    if place is None or place.action == UNKNOWN:
        raise ConfigError(
            f"{key} is no place for a file: '{table}' is no name for a table.",
            f"A table's name begins with a letter, has letters, digits and _ only, and at most {NAME_BYTES} of them.",
        )
    url = receiver.store.url(key)
    if not receiver.store.upload_new(key, file):
        raise AlreadyWaitingError(
            f"{url} is waiting there already.", "Run 'rds-lake receive' first, or give the file another name."
        )
    return url


class Receive:
    """Handles what has been dropped.

    Args:
        definitions: the code location.
        instance: where runs are recorded.
        say: told in words what goes on.
        files: the resource of dropped files.
    """

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, say: Report, files: FilesResource | None = None
    ) -> None:
        self._definitions = definitions
        self._instance = instance
        self._say = say
        self._files = files or FilesResource()

    def one(self, spec: ReceiverSpec) -> Received:
        """Notice and handle the files of one drop zone or feed.

        What cannot be asked is told in the result: it stops neither what has been claimed nor the other ones.
        """
        done = Received(spec.name)
        claimed: list[Record] = []
        try:
            for some in self._claims(spec, done):
                claimed += some
        except RdsLakeError as error:
            done.failed.append(str(error))
            done.misconfigured = isinstance(error, ConfigError | SpecError)
        self._say(f"{spec.name}: {len(claimed):,} new files")
        for some in shared_out(claimed):
            try:
                self._run(spec, some, done)
            except RdsLakeError as error:
                done.failed.append(str(error))
        self._look_who_waits(done)
        return done

    def _claims(self, spec: ReceiverSpec, done: Received) -> Iterator[Sequence[Record]]:
        """Claim what events tell of, then what a listing finds: the order in which the sensors see it."""
        log, receiver = self._files.audit_log(), self._files.receiver(spec)
        try:
            taken = take_events(self._files.queue(queue_name(spec)), receiver, log, most=100_000, seconds=60)
            done.notes += taken.problems
            yield taken.claimed
        except RdsLakeError as error:  # if it is not the queue that is away, the listing meets the same and says so
            done.notes.append(f"No event was read, the bucket was listed instead: {error}")
        yield claim_waiting(receiver, log)

    def _look_who_waits(self, done: Received) -> None:
        """Tell of files that are claimed and not finished: those that were put off, and those of other workers."""
        try:
            waiting = self._files.audit_log().open_files(done.name)
        except RdsLakeError as error:
            if not done.failed:  # else it has most likely been told already
                done.failed.append(str(error))
            return
        ours = {run_id: self._is_running(run_id) for run_id in {record.run_id for record in waiting} if run_id}
        done.waiting += waiting_told(waiting, ours)

    def _is_running(self, run_id: str) -> bool | None:
        """Whether a run goes on; None when it is recorded elsewhere."""
        run = self._instance.get_run_by_id(run_id)
        return None if run is None else not run.is_finished

    def _run(self, spec: ReceiverSpec, claimed: Sequence[Record], done: Received) -> None:
        job = self._definitions.resolve_job_def(job_name(spec))
        with recording():
            result = job.execute_in_process(
                run_config={**run_config(spec, claimed), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                instance=self._instance,
                raise_on_error=False,
                tags={"rds_lake/receiver": spec.name, "rds_lake/trigger": "receive"},
            )
        log = self._files.audit_log()
        done.records += log.find_all([record.file_id for record in claimed]).values()
        if not result.success:
            done.failed.append(_said(result))


def waiting_told(waiting: Sequence[Record], runs: Mapping[str, bool | None]) -> list[str]:
    """What there is to say of files that are claimed and not finished, in a few lines.

    Args:
        waiting: the files.
        runs: whether their runs go on; None where nobody knows.
    """
    groups: dict[str | None, list[Record]] = {}
    for record in sorted(waiting, key=lambda each: (each.landed_at, each.file_id)):
        goes_on = runs.get(record.run_id or "")
        if goes_on or (goes_on is None and not record.error):
            groups.setdefault(None, []).append(record)
        else:
            groups.setdefault(record.error or "Its worker has ended without a word.", []).append(record)
    lines = [_group_told(reason, some) for reason, some in islice(groups.items(), WAITING_LINES)]
    more = sum(map(len, list(groups.values())[WAITING_LINES:]))
    return [*lines, *([f"{counted(more, 'more file')} for other reasons; the audit log has them."] if more else [])]


def _group_told(reason: str | None, some: Sequence[Record]) -> str:
    """One line for files that wait for one reason; None when they are worked on."""
    named = ", ".join(
        [*(record.file_name for record in some[:WAITING_NAMES]), *(["..."] * (len(some) > WAITING_NAMES))]
    )
    ends = [record.lease_until for record in some if record.lease_until]
    until = f"{max(ends):%Y-%m-%d %H:%M:%S} UTC" if ends else "the next 'rds-lake receive'"
    one = len(some) == 1
    if reason is None:
        return (
            f"{counted(len(some), 'file')} {'is' if one else 'are'} worked on ({named}); if the worker has died, "
            f"{'it' if one else 'they'} can be taken over from {until} on."
        )
    return f"{counted(len(some), 'file')} {'waits' if one else 'wait'} until {until} ({named}): {reason}"


def _said(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            user = event.step_failure_data.user_failure_data
            return (user.description if user and user.description else _problem(error)).strip()
    raise PermanentError(f"Run {result.run_id} failed without a word.", "Look at it in Dagster's UI.")


def _problem(error: SerializableErrorInfo) -> str:
    """What an error of a step says, without the stack: ours if it is one, or was raised from one."""
    each: SerializableErrorInfo | None = error
    while each is not None:  # one that was tried again too often is not ours, but its cause is
        if found := _OURS.match(each.message):
            return each.message[found.end() :]
        each = each.cause
    if error.cls_name in INTERRUPTED:
        return "It was interrupted."
    return f"{error.message.strip().rstrip('.')}. Dagster's UI has the whole story of the run."
