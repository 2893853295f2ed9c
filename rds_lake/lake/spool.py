"""Spool: one file in the making.

It is held in memory first, then in a temporary file, or, where it is large and new, sent to S3 while it is written. S3
shows an upload when it is whole, so it never holds a torn file.
"""

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from rds_lake.errors import RdsLakeError
from rds_lake.lake.files import open_writer
from rds_lake.lake.manifest import File
from rds_lake.lake.scratch import scratch_file, temporary_space
from rds_lake.lake.store import MIB, SINGLE_PUT_BYTES, ObjectStore, Outgoing

FILE_BYTES = 256 * MIB
"""Size at which a batch goes on in the next file: inside the 128 to 512 MB that Athena and Redshift like."""


class _Sink(io.RawIOBase):
    """Where a file is written: memory, then a temporary file, or S3 itself as soon as it is too large for one request.

    Args:
        open_upload: opens the object that a large file is sent to while it is written; None if it has to wait here.
    """

    def __init__(self, open_upload: Callable[[], Outgoing] | None) -> None:
        self.held = scratch_file()
        self.outgoing: Outgoing | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self._open_upload = open_upload
        self._is_dropped = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, content: Any) -> int:  # noqa: ANN401 - whatever holds bytes
        if self._is_dropped:
            return len(content)
        self.digest.update(content)
        self.size += len(content)
        if self.outgoing:
            self.outgoing.write(bytes(content))  # the writer of CSV hands on a buffer that it uses again
        else:
            self.held.write(content)
            if self._open_upload and self.size > SINGLE_PUT_BYTES:
                self._go_over(self._open_upload)
        return len(content)

    def _go_over(self, open_upload: Callable[[], Outgoing]) -> None:
        """Send what has been held; the rest follows as it comes."""
        self.outgoing = open_upload()
        self.held.seek(0)
        while content := self.held.read(MIB):
            self.outgoing.write(content)
        self.held.close()

    def drop(self) -> None:
        """Take nothing more of what is still written."""
        self._is_dropped = True


class Spool:
    """One file in the making.

    Args:
        schema: its columns.
        file_format: its format.
        open_upload: opens the object that a large one is sent to while it is written; None if it has to wait here.

    Attributes:
        content: what is held here of it; of a finished file all, from the start, if nothing was sent yet.
    """

    def __init__(self, schema: pa.Schema, file_format: str, open_upload: Callable[[], Outgoing] | None = None) -> None:
        self._sink = _Sink(open_upload)
        self.content = self._sink.held
        self._writer = open_writer(self._sink, schema, file_format)
        self._open = True
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows.

        Raises:
            PermanentError: the temporary folder is full.
        """
        with temporary_space():
            self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def settle(self) -> None:
        """Keep little in memory from now on; no more rows will come."""
        self._writer.settle()

    @property
    def full(self) -> bool:
        """Whether the batch should go on in the next file."""
        return self._sink.size >= FILE_BYTES

    def finish(self, key: str) -> File:
        """Close the file; it can be sent afterwards.

        Args:
            key: the key that it will have.

        Raises:
            PermanentError: the temporary folder is full.
        """
        with temporary_space():
            self._writer.close()
            if not self._sink.outgoing:
                self.content.flush()
                self.content.seek(0)
        self._open = False
        return File(key=key, size=self._sink.size, rows=self.rows, sha256=self._sink.digest.hexdigest())

    def deliver(self, store: ObjectStore, key: str) -> None:
        """Send a finished file, or what is left of it."""
        if self._sink.outgoing:
            self._sink.outgoing.close()
        else:
            store.upload(key, self.content, self._sink.size)

    def discard(self) -> None:
        """Give the memory or the temporary file back; what was sent only in part is given up.

        Whoever discards may have an error of its own to tell, which none of the ones in here must hide.
        """
        self._sink.drop()
        with suppress(OSError):  # of a full disk, when what was buffered is written
            if self._open:  # else it would be closed by the garbage collector, after its file
                self._open = False
                self._writer.abandon()
        with suppress(OSError):
            self.content.close()
        if self._sink.outgoing:
            with suppress(RdsLakeError):  # `rds_lake.lake.gc` gives up what stays unfinished
                self._sink.outgoing.abandon()
