"""The machine that drop zones and feeds share: what happens to a claimed file, from its claim to its end.

1. begin: the record says who works on it since when; a heartbeat extends the lease meanwhile;
2. keep: the version is copied aside, so that nothing that happens to its key matters any more;
3. work: the receiver checks and loads it; the ledger in the target's own transaction says what is in;
4. settle: report, copy to `processed/` or `failed/`, delete where it was dropped, end the record.

Each step can be repeated. Whoever takes a file over finds out from what lies in the bucket and in the ledger how far it
is: a report means that it only has to be settled.
"""

import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import IO, Any, Protocol

from rds_lake.audit_log.log import AuditLog, LostClaimError
from rds_lake.audit_log.record import Record, Status, stamp
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.files.store import FileStore, VersionGoneError
from rds_lake.files.version import REPORT, FileVersion, Outcome, Place
from rds_lake.lake.scratch import SPOOL_BYTES
from rds_lake.side_by_side import side_by_side

AT_ONCE = 100
"""Files that are worked on together: they may be loaded in one transaction."""

ATTEMPTS = 5
"""How often a file is begun; one that takes its worker down with it each time is given up."""

ALONE = 2
"""After so many attempts without an end a file is worked on alone: one that takes its worker down takes no others."""

WAIT = timedelta(minutes=2)
"""How long a file is left alone that could not be done for reasons of ours."""

PATIENCE = 60.0
"""Seconds to wait for a companion that another worker is taking."""

KEPT = "original"
"""The name of the copy that is made of a file before it is read."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What became of a file.

    Attributes:
        status: how it ended.
        rows_read: its rows.
        rows_loaded: those that are in the target.
        rows_discarded: those that are in `discarded`.
        error: why it was refused, or why rows were discarded.
        content: the SHA-256 of its content.
        details: what else the report says.
    """

    status: Status
    rows_read: int | None = None
    rows_loaded: int | None = None
    rows_discarded: int | None = None
    error: str | None = None
    content: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def refused(cls, error: RdsLakeError, **facts: Any) -> "Result":  # noqa: ANN401 - as the class's own attributes
        """The result of a file that is at fault."""
        return cls("rejected", error=str(error), **{"rows_loaded": 0, **facts})


@dataclass(frozen=True)
class Work:
    """A claimed file that is worked on.

    Attributes:
        record: its record.
        version: the file.
        place: where it belongs.
        last_run: the run that worked on it before, as far as the claim says so.
    """

    record: Record
    version: FileVersion
    place: Place
    last_run: str | None = None


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

    def work(self, works: Sequence[Work], kept: "Keeper") -> Iterator[tuple[Work, Result]]:
        """Do what there is to do with some files, in the order in which they landed; each gets one result."""


class UnreadableError(PermanentError):
    """S3 does not let us read one file, such as one that is encrypted with a key of somebody else's."""


class Keeper:
    """Hands out the content of files, from copies that nobody but us writes."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._kept: dict[str, FileVersion] = {}
        self._digests: dict[str, str] = {}

    def keep(self, work: Work) -> FileVersion:
        """The copy of a file, which is made if it is not there.

        Raises:
            VersionGoneError: there is no copy, and the version is not there any more.
            UnreadableError: it may not be read.
        """
        file_id = work.version.file_id
        if file_id not in self._kept:
            key = f"{work.place.prefix('staging', work.version)}{KEPT}"
            before = self._store.look(key) if work.record.attempts > 1 else None
            try:
                self._kept[file_id] = before or self._store.copy(work.version, key)
            except ConfigError as error:
                raise UnreadableError(error.problem, "See to it that it can be read, then drop it again.") from error
        return self._kept[file_id]

    @contextmanager
    def content(self, work: Work) -> Iterator[tuple[IO[bytes], str]]:
        """A file's content, from its start, and its SHA-256.

        Raises:
            VersionGoneError, UnreadableError: as `keep`.
        """
        held = self.keep(work)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, prefix="rds_lake_") as target:
            self._digests[work.version.file_id] = digest = self._store.fetch(held, target)
            yield target, digest

    def digest(self, work: Work) -> str | None:
        """The SHA-256 of a file's content, as far as it has been read."""
        return self._digests.get(work.version.file_id)

    def release(self, work: Work) -> None:
        """Delete the copy of a file that has been brought to its last place."""
        self._store.delete(self._kept.pop(work.version.file_id), ours=True)


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
        self._ahead: dict[str, Record] = {}

    def run(self, claimed: Sequence[Record]) -> Iterator[tuple[Record, Result]]:
        """Handle files, in the order in which they landed; each comes back once it has ended.

        Those that were begun again and again without an end come last, one by one. A file that somebody else has taken
        over meanwhile does not come back.

        Raises:
            TransientError, ConfigError: something that all files need is not there; they wait for the next attempt.
        """
        ordered = sorted(claimed, key=lambda record: (record.landed_at, record.file_id))
        self._ahead = {record.file_id: record for record in ordered}
        together = [record for record in ordered if record.attempts < ALONE]
        for start in range(0, len(together), AT_ONCE):
            yield from self._some(together[start : start + AT_ONCE])
        # One of them may be what took their worker down: it ends up last, and the others are done by then.
        for record in sorted((each for each in ordered if each.attempts >= ALONE), key=lambda each: each.attempts):
            yield from self._some([record])

    def _some(self, claimed: Sequence[Record]) -> Iterator[tuple[Record, Result]]:
        works = self._begin([self._ahead.pop(each.file_id) for each in claimed if each.file_id in self._ahead])
        left = {work.record.file_id: work for work in works}
        found: list[tuple[Work, Result]] = []
        companions: list[Work] = []
        with _heartbeat(self._log, left):
            try:
                companions = self._begin(self._claimed_companions(works))
                left.update({work.record.file_id: work for work in companions})
                found.extend(self._results(sorted([*works, *companions], key=lambda work: work.version.order)))
            except (TransientError, ConfigError) as error:
                yield from self._settle_all(found, left)
                self._postpone(left.values(), error, {work.record.file_id for work in companions})
                raise
            yield from self._settle_all(found, left)

    def _settle_all(
        self, found: Sequence[tuple[Work, Result]], left: dict[str, Work]
    ) -> Iterator[tuple[Record, Result]]:
        """Bring files to their end, several at once; they are not left any more."""
        ended = side_by_side(lambda item: self._settle(*item), found)
        for (work, result), record in zip(found, ended, strict=True):
            del left[work.record.file_id]
            if record is not None:
                yield record, result

    def _begin(self, claimed: Iterable[Record]) -> list[Work]:
        begun = side_by_side(self._begin_one, claimed)
        return [work for work in begun if work is not None]

    def _begin_one(self, record: Record) -> Work | None:
        place = self._receiver.place(record.key or "")
        if place is None:
            raise PermanentError(f"{record.key} is no file of {self._receiver.name}.", "Correct the run's config.")
        try:
            return Work(self._log.begin(record, self._run_id), version_of(record), place, record.run_id)
        except LostClaimError as error:
            self._say(str(error))
            return None

    def _claimed_companions(self, works: Sequence[Work]) -> list[Record]:
        """The companions of some files: claimed by us, now or before; those that others have claimed are waited for."""
        found = [new_record(self._receiver, version) for version in self._receiver.companions(works)]
        known = {work.record.file_id for work in works}
        others = [record for record in found if record is not None and record.file_id not in known]
        claims = {record.file_id: self._ahead.pop(record.file_id, None) or self._log.claim(record) for record in others}
        mine = [claim for claim in claims.values() if claim is not None]
        first = min((record.landed_key for record in mine), default=None)
        # Of two workers that wait for companions, the one whose own come first does not wait for the other one.
        busy = [r.file_id for r in others if claims[r.file_id] is None and (first is None or r.landed_key < first)]
        self._wait_for(busy)
        return mine

    def _wait_for(self, file_ids: Sequence[str]) -> None:
        """Wait until others have finished some files.

        Raises:
            TransientError: it takes too long.
        """
        until = time.monotonic() + PATIENCE
        while file_ids and any(not record.is_finished for record in self._log.find_all(file_ids).values()):
            if time.monotonic() > until:
                raise TransientError(
                    f"Another worker still takes files that {self._receiver.name} needs.", "Try again."
                )
            time.sleep(0.5)

    def _results(self, works: Sequence[Work]) -> Iterator[tuple[Work, Result]]:
        """The result of each file: of those that only have to be settled, then of those that are worked on now."""
        known = {work.record.file_id: self._known(work) for work in works}
        yield from ((work, result) for work in works if (result := known[work.record.file_id]) is not None)
        todo = [work for work in works if known[work.record.file_id] is None]
        if todo:
            yield from self._receiver.work(todo, self._keeper)

    def _known(self, work: Work) -> Result | None:
        """The result of a file that an earlier attempt has come to, or that needs no work."""
        if work.record.attempts <= 1:
            return None
        outcomes: tuple[Outcome, ...] = ("processed", "failed")
        for outcome in outcomes:
            if found := self._store.get(work.place.prefix(outcome, work.version) + REPORT):
                told = json.loads(found[0])["result"]
                self._say(f"{work.version.name} was {told['status']} by an earlier attempt; it is settled now")
                return Result(**told)
        if work.record.attempts > ATTEMPTS:
            said = f" The last error: {work.record.error}." if work.record.error else ""
            error = f"{ATTEMPTS} attempts ended without a result, each with the death of its process.{said}"
            return Result("failed", error=f"{error} Look into the logs of run {work.last_run or work.record.run_id}.")
        return None

    # --- settling ----------------------------------------------------------------------------------------------------

    def _settle(self, work: Work, result: Result) -> Record | None:
        """Bring a file to its end; None when somebody else has taken it over."""
        result = replace(result, content=result.content or self._keeper.digest(work))
        outcome: Outcome = "processed" if result.status == "completed" else "failed"
        report, target = work.place.prefix(outcome, work.version) + REPORT, work.place.file(outcome, work.version)
        try:
            # Still ours, or what follows would overwrite the report of whoever has finished it.
            self._log.extend(work.record)
            self._store.put(report, _report(work, result, self._store.url(target)))
            moved = self._move(work, target)
            return self._log.finish(
                work.record,
                result.status,
                rows_read=result.rows_read,
                rows_loaded=result.rows_loaded,
                rows_discarded=result.rows_discarded,
                error=result.error,
                content=result.content,
                report=self._store.url(report),
                moved_to=self._store.url(target) if moved else None,
            )
        except LostClaimError as error:
            self._say(str(error))
            return None

    def _move(self, work: Work, target: str) -> bool:
        """Copy a file to its last place and delete it where it was; whether it is there."""
        try:
            self._store.copy(self._keeper.keep(work), target)
        except VersionGoneError:
            return self._store.look(target) is not None
        except UnreadableError as error:
            self._say(f"{work.version.url} stays where it is: {error}")
            return False
        self._store.delete(work.version)
        self._keeper.release(work)
        return True

    def _postpone(self, works: Iterable[Work], error: RdsLakeError, companions: Collection[str]) -> None:
        """Leave files for the next attempt; companions for anybody at once, as this run was not asked for them by name.

        When it is tried again it could not claim them otherwise, and would wait for itself.
        """
        for work in list(works):
            try:
                wait = timedelta(0) if work.record.file_id in companions else self._wait
                self._log.postpone(work.record, str(error), wait)
            except RdsLakeError as other:  # what stopped us may be the audit log itself; the lease ends anyhow
                self._say(f"{work.version.name}: {other}")


def _report(work: Work, result: Result, target: str) -> bytes:
    return json.dumps(
        {
            "file": work.version.url,
            "file_id": work.version.file_id,
            "table": work.place.table,
            "action": work.place.action,
            "landed_at": stamp(work.version.landed_at),
            "size": work.version.size,
            "etag": work.version.etag,
            "version_id": work.version.version_id,
            "run_id": work.record.run_id,
            "written_at": stamp(datetime.now(UTC)),
            "now_at": target,
            "result": asdict(result),
        },
        indent=1,
    ).encode()


@contextmanager
def _heartbeat(log: AuditLog, works: dict[str, Work]) -> Iterator[None]:
    """Extend the leases of files for as long as the block runs."""
    done = Event()

    def beat() -> None:
        while not done.wait(log.lease.total_seconds() / 3):
            for work in list(works.values()):
                try:
                    log.extend(work.record)
                except RdsLakeError:
                    continue  # whoever settles the file finds out; the next beat may get through

    thread = Thread(target=beat, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
