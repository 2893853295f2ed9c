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

from rds_lake.lake.files import open_writer
from rds_lake.lake.manifest import File
from rds_lake.lake.scratch import scratch_file, temporary_space
from rds_lake.lake.store import MIB, SINGLE_PUT_BYTES, ObjectStore, Sending

FILE_BYTES = 256 * MIB
"""Size at which a batch goes on in the next file: inside the 128 to 512 MB that Athena and Redshift like."""


class _Sink(io.RawIOBase):
    """Where a file is written: memory, then a temporary file, or S3 itself as soon as it is too large for one request.

    Args:
        send: opens the object that a large file may be sent to while it is written; None if it has to wait for its end.
    """

    def __init__(self, send: Callable[[], Sending] | None) -> None:
        self.held = scratch_file()
        self.sending: Sending | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self._send = send

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, content: Any) -> int:  # noqa: ANN401 - whatever holds bytes
        self.digest.update(content)
        self.size += len(content)
        if self.sending:
            self.sending.write(bytes(content))  # the writer of CSV hands on a buffer that it uses again
        else:
            self.held.write(content)
            if self._send and self.size > SINGLE_PUT_BYTES:
                self._go_over(self._send)
        return len(content)

    def _go_over(self, send: Callable[[], Sending]) -> None:
        """Send what has been held; the rest follows as it comes."""
        self.sending = send()
        self.held.seek(0)
        while content := self.held.read(MIB):
            self.sending.write(content)
        self.held.close()


class Spool:
    """One file in the making.

    Args:
        schema: its columns.
        file_format: its format.
        send: opens the object that it may be sent to while it is written, if it is large; None if it has to wait.

    Attributes:
        content: what is held here of it; of a finished file all, from the start, if nothing was sent yet.
    """

    def __init__(self, schema: pa.Schema, file_format: str, send: Callable[[], Sending] | None = None) -> None:
        self._sink = _Sink(send)
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
            if not self._sink.sending:
                self.content.flush()
                self.content.seek(0)
        self._open = False
        return File(key=key, size=self._sink.size, rows=self.rows, sha256=self._sink.digest.hexdigest())

    def send(self, store: ObjectStore, key: str) -> None:
        """Send a finished file, or what is left of it."""
        if self._sink.sending:
            self._sink.sending.close()
        else:
            store.upload(key, self.content, self._sink.size)

    def discard(self) -> None:
        """Give the memory or the temporary file back; what was sent only in part is given up."""
        with suppress(OSError):  # of a full disk, when the file's end or what was buffered is written
            if self._open:  # else it would be closed by the garbage collector, after its file
                self._open = False
                self._writer.abandon()
        with suppress(OSError):
            self.content.close()
        if self._sink.sending:
            self._sink.sending.abandon()
