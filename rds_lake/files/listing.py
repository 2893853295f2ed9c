"""Listing: finds what no event announced, and what a crashed worker left.

A sweep goes over the prefix in ticks of a few pages each; the cursor says where it goes on. What has been handled is
remembered in short: keys are cut into chunks at places that their own hashes determine, so that a new key changes one
chunk only, and the digest of a chunk of which everything is finished is kept. Such a chunk costs no question at the
audit log until something in it changes. 100,000 handled objects are 200 digests.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.errors import PermanentError
from rds_lake.files.machine import Receiver, new_record
from rds_lake.files.store import PAGE, FileStore
from rds_lake.files.version import FileVersion
from rds_lake.side_by_side import side_by_side

CHUNK = 512
"""Objects of a chunk, on average."""

CHUNK_MAX = PAGE
"""Objects of a chunk at most."""

PAGES = 20
"""Pages of a thousand keys that a tick reads: about two seconds."""

MOST = 500
"""Files that a tick claims."""

SHOWN = 5
"""Objects that may not be looked at, in words."""


@dataclass(frozen=True)
class Cursor:
    """Where a sweep is.

    Attributes:
        prefix: which of the receiver's prefixes it is in.
        after: the key that it goes on behind.
        handled: digests of the chunks that the last sweep found finished.
        finished: those that this one has found so far.
    """

    prefix: int = 0
    after: str = ""
    handled: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()

    @classmethod
    def of(cls, text: str | None) -> "Cursor":
        """The cursor that `text` is, or that of a first sweep."""
        data = json.loads(text) if text else {}
        sets = {name: frozenset(data.get(name, ())) for name in ("handled", "finished")}
        return cls(data.get("prefix", 0), data.get("after", ""), **sets)

    @property
    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        sets = {name: sorted(getattr(self, name)) for name in ("handled", "finished")}
        return json.dumps({"prefix": self.prefix, "after": self.after, **sets}, separators=(",", ":"))

    @property
    def known(self) -> frozenset[str]:
        """Digests of chunks that are finished."""
        return self.handled | self.finished


@dataclass
class Swept:
    """What a tick of a sweep came to.

    Attributes:
        cursor: where the next tick goes on.
        claimed: the files that were claimed.
        listed: objects that were listed.
        asked: objects that the audit log was asked for.
        pages: pages that were read.
        ended: whether the sweep came to its end.
        taken_over: how many of the claimed files another worker had left.
        looked: objects that S3 was asked for, one by one.
        refused: of those that it does not let us look at, what it said.
    """

    cursor: Cursor
    claimed: list[Record] = field(default_factory=list)
    listed: int = 0
    asked: int = 0
    pages: int = 0
    ended: bool = False
    taken_over: int = 0
    looked: int = 0
    refused: list[PermanentError] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The counts in words."""
        where = "the sweep is at its end" if self.ended else f"the sweep goes on behind '{self.cursor.after}'"
        new = len(self.claimed) - self.taken_over
        return (
            f"{self.listed:,} objects listed, {self.asked:,} of them looked up; {new:,} new files, "
            f"{self.taken_over:,} taken over; {where}."
        ) + "".join(f" An object cannot be looked at: {error}" for error in self.refused[:SHOWN])


def sweep(receiver: Receiver, log: AuditLog, cursor: Cursor, pages: int = PAGES, most: int = MOST) -> Swept:
    """Go on with a sweep: claim what is there and not claimed, and what was claimed and left.

    Args:
        receiver: the drop zone or feed.
        log: the audit log.
        cursor: where the last tick ended.
        pages: how many pages may be read.
        most: about how many files may be claimed.

    Raises:
        ConfigError: the sweep has just begun, and S3 lets us look at none of the objects.
    """
    done = Swept(cursor)
    _take_over(receiver, log, done, most)
    versioned = receiver.store.has_versions()
    prefixes = receiver.prefixes()
    while done.pages < pages and len(done.claimed) < most and not done.ended:
        reading = _Reading(receiver.store, prefixes[done.cursor.prefix % len(prefixes)], done, pages)
        for chunk in reading.chunks():
            digest = _digest(chunk)
            is_finished = digest in done.cursor.known or _look_up(receiver, log, chunk, done, versioned=versioned)
            finished = done.cursor.finished | ({digest} if is_finished else set())
            done.cursor = replace(done.cursor, after=chunk[-1].key, finished=finished)
            if len(done.claimed) >= most:
                return done
        if reading.ended:
            _next_prefix(done, len(prefixes))
    # A later tick goes on: it may have come upon a few only, and would come upon them again and again.
    if done.refused and len(done.refused) == done.looked and not cursor.after and not done.claimed:
        raise done.refused[0]
    return done


def _next_prefix(done: Swept, count: int) -> None:
    at = done.cursor.prefix + 1
    if at < count:
        done.cursor = replace(done.cursor, prefix=at, after="")
    else:
        done.cursor, done.ended = Cursor(handled=done.cursor.finished), True


def _take_over(receiver: Receiver, log: AuditLog, done: Swept, most: int) -> None:
    """Claim files whose worker's lease is over, wherever their objects are by now."""
    now = datetime.now(UTC)
    left = [held for held in log.open_files(receiver.name) if held.lease_until is None or held.lease_until <= now]
    for held in left[:most]:
        if mine := log.take_over(held):
            done.claimed.append(mine)
            done.taken_over += 1


class _Reading:
    """The objects below a prefix, in chunks."""

    def __init__(self, store: FileStore, prefix: str, done: Swept, pages: int) -> None:
        self._store = store
        self._prefix = prefix
        self._done = done
        self._pages = pages
        self.ended = False

    def chunks(self) -> Iterator[list[FileVersion]]:
        """The chunks from the cursor on that are whole, as long as pages may be read; one in any case.

        S3 may put few keys on a page: a tick that went on from where the last one began would never come further.
        """
        chunk: list[FileVersion] = []
        after, is_further = self._done.cursor.after, False
        while not self.ended and (self._done.pages < self._pages or not is_further):
            listed = self._store.page(self._prefix, after)
            self._done.pages += 1
            self._done.listed += len(listed.versions)
            for version in listed.versions:
                chunk.append(version)
                if len(chunk) >= CHUNK_MAX or _ends_chunk(version.key):
                    yield chunk
                    chunk, is_further = [], True
            self.ended = not listed.more or not listed.versions
            after = listed.versions[-1].key if listed.versions else after
        if chunk and self.ended:
            yield chunk


def _ends_chunk(key: str) -> bool:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % CHUNK == 0


def _digest(chunk: Sequence[FileVersion]) -> str:
    text = "\n".join(f"{version.key}\0{version.etag}\0{version.landed_at.timestamp():.0f}" for version in chunk)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _look_up(receiver: Receiver, log: AuditLog, chunk: Sequence[FileVersion], done: Swept, *, versioned: bool) -> bool:
    """Claim what is new in a chunk; whether everything in it is finished."""
    there: Iterable[FileVersion | PermanentError | None] = chunk
    if versioned:  # a listing does not say which version an object is
        there = side_by_side(lambda version: _look(receiver.store, version.key), chunk)
    refused = [error for error in there if isinstance(error, PermanentError)]
    done.looked += len(chunk) if versioned else 0
    done.refused += refused
    found = [new_record(receiver, version) for version in there if isinstance(version, FileVersion)]
    ours = [record for record in found if record is not None]
    done.asked += len(ours)
    known = log.find_all([record.file_id for record in ours])
    new = [record for record in ours if record.file_id not in known]
    done.claimed += [claim for claim in side_by_side(log.claim, new) if claim is not None]
    return not new and not refused and all(record.is_finished for record in known.values())


def _look(store: FileStore, key: str) -> FileVersion | PermanentError | None:
    """An object as it is now; an error when S3 does not let us look at it, which stops no other one."""
    try:
        return store.look(key)
    except PermanentError as error:
        return error
