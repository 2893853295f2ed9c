"""Temporary files: memory first, then the disk."""

import errno
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rds_lake.errors import PermanentError
from rds_lake.lake.store import MIB

SPOOL_BYTES = 4 * MIB
"""What a temporary file may take of memory before it moves to the disk."""


def scratch_file() -> IO[bytes]:
    """A new temporary file, which is gone when it is closed."""
    return tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)


def digest(content: IO[bytes]) -> str:
    """The SHA-256 of a file's whole content; leaves the file at its start."""
    content.seek(0)
    value = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    content.seek(0)
    return value


class FullDiskError(PermanentError):
    """The disk of temporary files is full."""


@contextmanager
def temporary_space() -> Iterator[None]:
    """Say what to do when the disk of temporary files is full.

    Raises:
        FullDiskError: it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise FullDiskError(
            f"The temporary folder {tempfile.gettempdir()} is full.",
            "Free space there, or set TMPDIR to a folder with more.",
        ) from error
