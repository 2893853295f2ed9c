"""The machine that drop zones and feeds share: what happens to a claimed file, from its claim to its end.

1. begin: the record says who works on it since when; a heartbeat extends the lease meanwhile;
2. keep: the version is copied aside, so that nothing that happens to its key matters any more;
3. work: the receiver checks and loads it; the ledger in the target's own transaction says what is in;
4. settle: report, copy to `processed/` or `failed/`, delete where it was dropped, end the record.

Each step can be repeated. Whoever takes a file over finds out from what lies in the bucket and in the ledger how far it
is: a report means that it only has to be settled.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rds_lake.audit_log.log import AuditLog, LostClaimError
from rds_lake.audit_log.record import Record
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.files.keeper import Keeper
from rds_lake.files.lease import heartbeat
from rds_lake.files.settle import Settler, reported
from rds_lake.files.store import FileStore
from rds_lake.files.version import SCHEMA, FileVersion, Place
from rds_lake.files.work import ATTEMPTS, Result, Say, Waits, Work
from rds_lake.side_by_side import side_by_side

AT_ONCE = 100
"""Files that are worked on together: they may be loaded in one transaction."""

ALONE = 2
"""After so many attempts without an end a file is worked on alone: one that takes its worker down takes no others."""

WAIT, LONGEST_WAIT = timedelta(minutes=2), timedelta(hours=1)
"""How long a file is left alone that could not be done for reasons of ours: at first, and at most."""

GIVEN_UP = timedelta(days=3)
"""How long after its first attempt a file is given up that could not be done for reasons of ours."""

PATIENCE = 60.0
"""Seconds to wait for a companion that another worker is taking."""


class Receiver(Protocol):
    """A drop zone or a feed."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def store(self) -> FileStore:
        """The bucket that files are dropped into."""

    def place(self, key: str) -> Place | None:
        """Where a file belongs; None when the key is none of its own."""

    def prefixes(self) -> Sequence[str]:
        """The prefixes that files are dropped under."""

    def companions(self, works: Sequence[Work]) -> Iterable[FileVersion]:
        """Files that have to be handled before or with others, and may not have been noticed yet."""

    def loaded(self, work: Work) -> Result | Waits | None:
        """The result of a file that took effect, though no report says so; None when it did not."""

    def work(self, works: Sequence[Work], kept: Keeper) -> Iterator[tuple[Work, Result | Waits]]:
        """Do what there is to do with some files, in the order in which they landed; each gets one result, or waits."""


def new_record(receiver: Receiver, version: FileVersion) -> Record | None:
    """What the audit log is told of a file when it is claimed; None when it is none of the receiver's."""
    place = receiver.place(version.key)
    is_marker = version.key.endswith("/") and not version.size  # what a console makes for a folder
    if place is None or is_marker:
        return None
    return Record(
        table=place.table,
        file_id=version.file_id,
        file_name=version.name,
        action=place.action,
        status="processing",
        landed_at=version.landed_at,
        receiver=receiver.name,
        bucket=version.bucket,
        key=version.key,
        etag=version.etag,
        version_id=version.version_id,
        size=version.size,
    )


def version_of(record: Record) -> FileVersion:
    """The version that a record is of."""
    return FileVersion(
        record.bucket or "",
        record.key or "",
        record.etag or "",
        record.size or 0,
        record.landed_at,
        record.version_id,
    )


class Machine:
    """Handles claimed files of one receiver.

    Args:
        receiver: the drop zone or feed.
        log: the audit log.
        run_id: the Dagster run that it works in.
        say: told in words what goes on.
        wait: how long files are left alone that could not be done for reasons of ours; not at all if whoever tries
            again has to claim them first.
    """

    def __init__(
        self, receiver: Receiver, log: AuditLog, run_id: str, say: Say = lambda _: None, wait: timedelta = WAIT
    ) -> None:
        self._wait = wait
        self._receiver = receiver
        self._store = receiver.store
        self._log = log
        self._run_id = run_id
        self._say = say
        self._keeper = Keeper(self._store)
        self._settler = Settler(self._store, log, self._keeper, say)
        self._ahead: dict[str, Record] = {}
        self._held: dict[str, Waits] = {}
        self._behind: dict[str, str] = {}
        self._companions: set[str] = set()
        self._tired: set[str] = set()
        self._troubles: list[Exception] = []

    def run(self, claimed: Sequence[Record]) -> Iterator[tuple[Record, Result]]:
        """Handle files, in the order in which they landed; each comes back once it has ended.

        Those that were begun again and again without an end come last, one by one. A file that somebody else has taken
        over meanwhile does not come back.

        Raises:
            ConfigError: something that all files need is not there; they wait for the next attempt.
            TransientError: the same, or some files wait; then it is raised when the others have ended.
        """
        ordered = sorted(claimed, key=lambda record: (record.landed_at, record.file_id))
        self._ahead = {record.file_id: record for record in ordered}
        self._held, self._companions, self._tired, self._troubles = {}, set(), set(), []
        together = [record for record in ordered if record.attempts < ALONE]
        for start in range(0, len(together), AT_ONCE):
            yield from self._some(together[start : start + AT_ONCE])
        # One of them may be what took their worker down: it ends up last, and the others are done by then.
        tired = [record for record in ordered if record.attempts >= ALONE]
        for record in sorted(tired, key=lambda each: (each.attempts, each.action != SCHEMA)):
            yield from self._some([record])
        if self._troubles:
            raise self._troubles[0]

    def _some(self, claimed: Sequence[Record]) -> Iterator[tuple[Record, Result]]:
        works = self._begin([self._ahead.pop(each.file_id) for each in claimed if each.file_id in self._ahead])
        left = {work.record.file_id: work for work in works}
        found: list[tuple[Work, Result]] = []
        waiting: list[tuple[Work, Waits]] = []
        with heartbeat(self._log, left):
            try:
                companions = self._begun_companions(works)
                left.update({work.record.file_id: work for work in companions})
                for work, done in self._results(sorted([*works, *companions], key=lambda work: work.version.order)):
                    if isinstance(done, Waits):
                        self._hold(work, done)
                        over = _age(work) > GIVEN_UP
                        found += [(work, _given_up(done))] if over else []
                        waiting += [] if over else [(work, done)]
                    else:
                        found.append((work, done))
            except (TransientError, ConfigError) as error:
                yield from self._settle_all(found, left)
                for work in list(left.values()):
                    self._postpone(work, error, left)
                raise
            yield from self._settle_all(found, left)
            for work, done in waiting:
                self._postpone(work, done.error, left)
        if first := next((error for error in self._troubles if isinstance(error, ConfigError)), None):
            raise first  # the next ones would meet the same

    def _hold(self, work: Work, done: Waits) -> None:
        self._troubles.append(done.error)
        self._say(f"{work.version.name} waits: {done.error}")
        if done.with_table:
            self._held.setdefault(work.place.table, done)

    def _settle_all(
        self, found: Sequence[tuple[Work, Result]], left: dict[str, Work]
    ) -> Iterator[tuple[Record, Result]]:
        """Bring files to their end, several at once; one that cannot be brought there now is left to others."""
        ended = side_by_side(self._settled, found)
        for (work, _), done in zip(found, ended, strict=True):
            if isinstance(done, RdsLakeError):
                self._postpone(work, done, left)
            if isinstance(done, Exception):
                self._troubles.append(done)
            left.pop(work.record.file_id, None)
            if isinstance(done, tuple):
                yield done

    def _settled(self, item: tuple[Work, Result]) -> tuple[Record, Result] | Exception | None:
        try:
            return self._settler.settle(*item, is_tired=item[0].record.file_id in self._tired)
        except Exception as error:  # noqa: BLE001 - it is raised when the others are settled
            return error

    def _begin(self, claimed: Iterable[Record]) -> list[Work]:
        """Begin with files; one of which that cannot be recorded is left to the next attempt.

        Raises:
            RdsLakeError: it can be recorded of none.
        """
        begun = side_by_side(self._begin_one, claimed)
        errors = [error for error in begun if isinstance(error, RdsLakeError)]
        if errors and len(errors) == len(begun):
            raise errors[0]
        self._troubles += errors
        return [work for work in begun if isinstance(work, Work)]

    def _begin_one(self, record: Record) -> Work | RdsLakeError | None:
        place = self._receiver.place(record.key or "")
        if place is None:
            raise PermanentError(f"{record.key} is no file of {self._receiver.name}.", "Correct the run's config.")
        try:
            begun = self._log.begin(record, self._run_id)
        except LostClaimError as error:
            self._say(str(error))
            return None
        except RdsLakeError as error:
            self._say(f"{record.file_name} cannot be begun: {error}")
            if place.is_of_schema:
                self._hold_table(record, f"{record.file_name}, which comes first, cannot be begun: {error.problem}")
                self._set_free(record, error)
            return error
        return Work(begun, version_of(record), place, record.run_id, record.error)

    def _begun_companions(self, works: Sequence[Work]) -> list[Work]:
        """The companions of some files, begun; those that others have taken over meanwhile are waited for."""
        claimed = self._claimed_companions(works)
        companions = self._begin(claimed)
        begun = {work.record.file_id for work in companions}
        self._companions |= begun
        lost = [record for record in claimed if record.file_id not in begun and record.table not in self._held]
        self._wait_for(lost)
        return companions

    def _claimed_companions(self, works: Sequence[Work]) -> list[Record]:
        """The companions of some files: claimed by us, now or before; those that others have claimed are waited for."""
        needing = [work for work in works if work.place.table not in self._held]
        found = [new_record(self._receiver, version) for version in self._receiver.companions(needing)]
        known = {work.record.file_id for work in works}
        others = [record for record in found if record is not None and record.file_id not in known]
        claims = {record.file_id: self._ahead.pop(record.file_id, None) or self._log.claim(record) for record in others}
        mine = [claim for claim in claims.values() if claim is not None]
        own = [*mine, *(work.record for work in works if work.place.is_of_schema)]
        first = min((record.landed_key for record in own), default=None)
        busy = [record for record in others if claims[record.file_id] is None]
        # Of two workers that wait for companions, the one whose own come first does not wait for the other one: it does
        # what comes before those, and leaves the rest for the next attempt.
        self._wait_for([record for record in busy if first is None or record.landed_key < first])
        self._behind = {}
        for record in self._unfinished([r for r in busy if first is not None and r.landed_key > first]):
            self._behind[record.table] = min(record.landed_key, self._behind.get(record.table, record.landed_key))
        return mine

    def _unfinished(self, records: Sequence[Record]) -> list[Record]:
        """Some files as they are now, without those that are finished."""
        found = self._log.find_all([record.file_id for record in records]).values()
        return [record for record in found if not record.is_finished]

    def _wait_for(self, busy: Sequence[Record]) -> None:
        """Wait until others have finished some files; the tables of those that take too long, or wait, are held."""
        until = time.monotonic() + PATIENCE
        while busy:
            busy = self._unfinished(busy)
            for record in busy:
                if record.error:  # it could not be done for reasons of ours, and is left alone for a while
                    self._hold_table(record, f"{record.file_name}, which comes first, waits: {record.error}")
                elif time.monotonic() > until:
                    self._hold_table(record, self._is_busy)
            busy = [record for record in busy if record.table not in self._held]
            time.sleep(0.5 if busy else 0)

    @property
    def _is_busy(self) -> str:
        return f"Another worker still takes files that {self._receiver.name} needs."

    def _hold_table(self, record: Record, why: str) -> None:
        self._held[record.table] = Waits(TransientError(why, "Try again later."), with_table=True)

    def _results(self, works: Sequence[Work]) -> Iterator[tuple[Work, Result | Waits]]:
        """The result of each file: of those that only have to be settled, then of those that are worked on now."""
        todo = []
        for work in works:
            if (result := self._known(work)) is not None:
                yield work, result
            elif held := self._held_up(work):
                yield work, held
            else:
                todo.append(work)
        if todo:
            yield from self._receiver.work(todo, self._keeper)

    def _held_up(self, work: Work) -> Waits | None:
        """Why a file has to wait for others of its table, None when it need not.

        Data files wait for all schema files: which they need is for the receiver to say.
        """
        behind = self._behind.get(work.place.table)
        if behind is not None and (not work.place.is_of_schema or work.record.landed_key > behind):
            return Waits(TransientError(self._is_busy, "Try again later."))
        return self._held.get(work.place.table)

    def _known(self, work: Work) -> Result | Waits | None:
        """The result of a file that an earlier attempt has come to, or that needs no work."""
        if work.record.attempts <= 1:
            return None
        is_tired = work.record.attempts > ATTEMPTS
        if (told := reported(self._store, work.place, work.version)) is not None:
            self._say(f"{work.version.name} was {told.status} by an earlier attempt; it is settled now")
            if is_tired:
                self._tired.add(work.record.file_id)
            return told
        if is_tired and (done := self._receiver.loaded(work)) is not None:
            self._say(f"{work.version.name} took effect, though {ATTEMPTS} attempts ended before they said so")
            return done
        if is_tired:
            said = f" The last error: {work.last_error.rstrip('.')}." if work.last_error else ""
            error = f"{ATTEMPTS} attempts ended without a result, each with the death of its process or a bug.{said}"
            return Result("failed", error=f"{error} Look into the logs of run {work.last_run or work.record.run_id}.")
        return None

    def _postpone(self, work: Work, error: RdsLakeError, left: dict[str, Work]) -> None:
        """Leave a file for the next attempt; a companion for anybody at once, as this run was not asked for it by name.

        When it is tried again it could not claim it otherwise, and would wait for itself.
        """
        left.pop(work.record.file_id, None)  # no heartbeat may make it longer
        is_free = work.record.file_id in self._companions or not self._wait
        self._set_free(work.record, error, timedelta(0) if is_free else self._next_wait(work))

    def _set_free(self, record: Record, error: RdsLakeError, wait: timedelta = timedelta(0)) -> None:
        """Let anybody have a file after a while."""
        try:
            self._log.postpone(record, str(error), wait)
        except RdsLakeError as other:  # what stopped us may be the audit log itself; the lease ends anyhow
            self._say(f"{record.file_name}: {other}")

    def _next_wait(self, work: Work) -> timedelta:
        """How long a file waits: as long as since its first attempt, so that each wait is twice the one before."""
        return min(_age(work) + self._wait, LONGEST_WAIT)


def _age(work: Work) -> timedelta:
    now = datetime.now(UTC)
    return now - (work.record.started_at or now)


def _given_up(done: Waits) -> Result:
    return Result("failed", error=f"It could not be done for {GIVEN_UP.days} days. The last error: {done.error}")
