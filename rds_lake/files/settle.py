"""Settling: a file's report, its last place, the end of its record. Each step can be repeated."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

from rds_lake.audit_log.log import AuditLog, LostClaimError
from rds_lake.audit_log.record import Record, stamp
from rds_lake.files.keeper import Keeper, UnreadableError
from rds_lake.files.store import FileStore, VersionGoneError
from rds_lake.files.version import REPORT, FileVersion, Outcome, Place
from rds_lake.files.work import ATTEMPTS, Result, Say, Work

STAYS = "It stays where it is: "
"""What begins the reason why a file lies where it was dropped."""


def reported(store: FileStore, place: Place, version: FileVersion) -> Result | None:
    """What the report of a file says, None when it has none."""
    outcomes: tuple[Outcome, ...] = ("processed", "failed")
    for outcome in outcomes:
        if found := store.ours.get(place.prefix(outcome, version) + REPORT):
            return Result(**json.loads(found[0])["result"])
    return None


class Settler:
    """Brings files to their ends.

    Args:
        store: the bucket.
        log: the audit log.
        keeper: hands out their content.
        say: told in words what goes on.
    """

    def __init__(self, store: FileStore, log: AuditLog, keeper: Keeper, say: Say) -> None:
        self._store = store
        self._log = log
        self._keeper = keeper
        self._say = say

    def settle(self, work: Work, result: Result, *, is_tired: bool) -> tuple[Record, Result] | None:
        """Bring a file to its end.

        Args:
            work: the file.
            result: what became of it.
            is_tired: whether nobody has survived that so far.

        Returns:
            Its record and its result; None when somebody else has taken it over.

        Raises:
            RdsLakeError: it cannot be brought there now.
        """
        content = result.content or self._keeper.digest(work)
        result = replace(result, content=content, error=_without_stay(result.error))
        outcome: Outcome = "processed" if result.status == "completed" else "failed"
        report, target = work.place.prefix(outcome, work.version) + REPORT, work.place.file(outcome, work.version)
        try:
            # Still ours, or what follows would overwrite the report of whoever has finished it.
            if not self._log.is_fresh(work.record):
                self._log.extend(work.record)
            can_tell = work.record.attempts <= 2 * ATTEMPTS  # else that itself has ended it, again and again
            moved = False
            if can_tell:
                self._store.ours.put(report, _report(work, result, self._store.url(target)))
                try:
                    moved = self._move(work, target, is_tired=is_tired)
                except UnreadableError as error:
                    result = _stays(result, error)
                    self._say(f"{work.version.url} stays where it is: {error}")
                    self._store.ours.put(report, _report(work, result, None))
            record = self._log.finish(
                work.record,
                result.status,
                rows_read=result.rows_read,
                rows_loaded=result.rows_loaded,
                rows_discarded=result.rows_discarded,
                error=result.error,
                content=result.content,
                report=self._store.url(report) if can_tell else None,
                moved_to=self._store.url(target) if moved else None,
            )
        except LostClaimError as error:
            self._say(str(error))
            return None
        return record, result

    def _move(self, work: Work, target: str, *, is_tired: bool) -> bool:
        """Copy a file to its last place and delete it where it was; whether it is there.

        Raises:
            UnreadableError: it cannot be copied, or nobody has survived that.
        """
        if is_tired:
            if self._store.look(target) is not None:
                return True
            told = f"{ATTEMPTS} attempts to bring {work.version.url} to its last place ended without a result."
            raise UnreadableError(told, "Move it yourself.")
        try:
            self._keeper.bring(work, target)
        except VersionGoneError:
            return self._store.look(target) is not None
        self._store.delete(work.version)
        self._keeper.release(work)
        return True


def _stays(result: Result, error: UnreadableError) -> Result:
    """The result of a file that stays where it was dropped."""
    if result.error and str(error) in result.error:
        return result
    told = f"{result.error.rstrip('.')}. " if result.error else ""
    return replace(result, error=f"{told}{STAYS}{error}")


def _without_stay(error: str | None) -> str | None:
    """What is said of a file, without what an earlier attempt to move it came to."""
    return (error.partition(STAYS)[0].rstrip() or None) if error else None


def _report(work: Work, result: Result, target: str | None) -> bytes:
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
