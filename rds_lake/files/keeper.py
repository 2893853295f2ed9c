"""The copies that are made of files before they are read: nothing that happens to a file's key matters any more."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

from rds_lake.errors import ConfigError, PermanentError
from rds_lake.files.store import FileStore, VersionGoneError
from rds_lake.files.version import FileVersion
from rds_lake.files.work import Work
from rds_lake.lake.scratch import SPOOL_BYTES

Made = TypeVar("Made")

KEPT = "original"
"""The name of the copy that is made of a file before it is read."""

PROBE, PROBED = "probe", "probed"
"""Names of objects that are written, copied and deleted to see whether it is one file that cannot be copied, or any."""


class UnreadableError(PermanentError):
    """S3 does not let us copy one file, such as one that is encrypted with a key of somebody else's."""


class Keeper:
    """Hands out the content of files, from copies that nobody but us writes."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._kept: dict[str, FileVersion] = {}
        self._digests: dict[str, str] = {}
        self._has_copied = False

    def keep(self, work: Work) -> FileVersion:
        """The copy of a file, which is made if it is not there.

        Raises:
            VersionGoneError: there is no copy, and the version is not there any more.
            UnreadableError: it may not be read.
            ConfigError: no file may be.
        """
        file_id = work.version.file_id
        if file_id not in self._kept:
            key = f"{work.place.prefix('staging', work.version)}{KEPT}"
            before = self._store.look(key) if work.record.attempts > 1 else None
            self._kept[file_id] = before or self._tried(work, lambda: self._store.copy(work.version, key))
        return self._kept[file_id]

    def bring(self, work: Work, target: str) -> None:
        """Copy a file to its last place.

        Raises:
            VersionGoneError, UnreadableError, ConfigError: as `keep`.
        """
        held = self.keep(work)
        self._tried(work, lambda: self._store.bring(held, target))

    def _tried(self, work: Work, copy: Callable[[], Made]) -> Made:
        try:
            made = copy()
        except PermanentError as error:
            if self._can_copy(work):
                raise UnreadableError(error.problem, "See to it that it can be read, then drop it again.") from error
            raise ConfigError(error.problem, error.remedy) from error
        self._has_copied = True
        return made

    def _can_copy(self, work: Work) -> bool:
        """Whether other objects of the bucket can be copied: then the file is at fault, not what we may do."""
        if self._has_copied:
            return True
        folder = work.place.prefix("staging", work.version)
        try:
            self._store.ours.put(folder + PROBE, b"probe")
            if (probe := self._store.look(folder + PROBE)) is None:
                return False
            probed = self._store.copy(probe, folder + PROBED)
            for each in (probe, probed):
                self._store.delete(each, ours=True)
        except (PermanentError, VersionGoneError):
            return False
        return True

    @contextmanager
    def content(self, work: Work) -> Iterator[tuple[IO[bytes], str]]:
        """A file's content, from its start, and its SHA-256.

        Raises:
            VersionGoneError, UnreadableError, ConfigError: as `keep`.
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
