"""Writing batches: rows in, files in S3, then the manifest, which makes the batch the current one.

A batch is written under an id of its own, so that nothing a reader sees is touched before the commit; a crash leaves
files that no manifest names. When the new files hold the same bytes as the current batch, nothing is committed.
"""

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa

from rds_lake.errors import RdsLakeError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Committed, File, Head, Manifest, Manifests
from rds_lake.lake.spool import Spool
from rds_lake.lake.store import ObjectStore

HEAD_ROWS = 5
"""Rows that a batch keeps at hand for its preview."""

CELL = 80
"""Characters of a value that its preview shows."""


def new_batch_id(now: datetime | None = None) -> str:
    """An id for a batch whose content no input determines: sorts by time, never repeats."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class BatchWriter:
    """Writes the files of one batch.

    A file that is full is sent while the next one is written. The last one waits until `finish` or `send`, so that a
    batch of one file that turns out to be the current one need not be sent.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        draft: what the batch will be, still without files.
        schema: the rows' schema.
        send_early: whether large files are sent while they are written: they are new, for the partition has no current
            batch.
    """

    def __init__(
        self, store: ObjectStore, keys: TableKeys, draft: Manifest, schema: pa.Schema, *, send_early: bool = False
    ) -> None:
        self._store = store
        self._keys = keys
        self._draft = draft
        self._schema = schema
        self._send_early = send_early
        self._files: list[File] = []
        self._spool: Spool | None = None
        self._head: Head | None = None
        self._sender: ThreadPoolExecutor | None = None
        self._sending: Future[None] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if not batch.num_rows:
            return
        if not self.rows:
            self._head = head_of(batch)
        if self._spool is None:
            open_upload = partial(self._store.open_upload, self._key) if self._send_early else None
            self._spool = Spool(self._schema, self._draft.format, open_upload)
        self._spool.write(batch)
        if self._spool.full:
            self._send_aside(self._spool)

    @property
    def rows(self) -> int:
        """The rows that were written so far."""
        return sum(file.rows for file in self._files) + (self._spool.rows if self._spool else 0)

    def settle(self) -> None:
        """Let go of the memory that rows take which wait to be written: a batch may itself wait to be sent."""
        if self._spool is not None:
            self._spool.settle()

    def send(self) -> None:
        """Send what was written, and hold nothing of it; no more rows will come."""
        self._wait()
        if self._spool is not None:
            self._send_last(self._spool.finish(self._key), self._spool)
        self.close()

    def finish(self, current: Manifest | None) -> Manifest:
        """Send what is left and return the batch, not yet committed.

        Args:
            current: the partition's current batch. When it holds the same bytes it is returned, and nothing new stays.
        """
        self._wait()
        spool = self._spool
        file = spool.finish(self._key) if spool else None
        done = replace(self._draft, files=(*self._files, *([file] if file else [])), head=self._head)
        if current is not None and done.same_content(current) and is_whole(self._store, current):
            self.abandon()
            return replace(done, batch=current.batch, files=current.files)
        if spool and file:
            self._send_last(file, spool)
        return done

    def close(self) -> None:
        """Let go of rows that were not sent; what was sent stays, for it may have been committed."""
        if self._spool:
            self._spool.discard()
            self._spool = None
        if self._sender:
            self._sender.shutdown()  # waits; who gives up has an error of its own to tell
            self._sender = None

    def abandon(self) -> None:
        """Take back what has been written, as far as S3 can be asked; the rest no manifest names."""
        self.close()
        with suppress(RdsLakeError):  # who gives up has an error of its own to tell
            self._store.delete([file.key for file in self._files])
        self._files = []

    @property
    def _key(self) -> str:
        """The key of the file that is being written."""
        draft = self._draft
        return self._keys.part(draft.stage, draft.partition, draft.batch, len(self._files), draft.format)

    def _send_last(self, file: File, spool: Spool) -> None:
        self._spool = None
        self._files.append(file)
        self._upload(file, spool)

    def _send_aside(self, spool: Spool) -> None:
        """Send a full file in a thread of its own, one at a time."""
        file = spool.finish(self._key)
        self._wait()
        self._sender = self._sender or ThreadPoolExecutor(1)
        self._spool = None
        self._files.append(file)
        self._sending = self._sender.submit(self._upload, file, spool)

    def _wait(self) -> None:
        if self._sending:
            sending, self._sending = self._sending, None
            sending.result()

    def _upload(self, file: File, spool: Spool) -> None:
        try:
            spool.deliver(self._store, file.key)
        finally:
            spool.discard()


def head_of(batch: pa.RecordBatch) -> Head:
    """The first rows of a batch as short texts: plain Python values, which hold on to no other memory."""
    return tuple(
        {name: None if value is None else str(value)[:CELL] for name, value in row.items()}
        for row in batch.slice(0, HEAD_ROWS).to_pylist()
    )


def is_whole(store: ObjectStore, manifest: Manifest) -> bool:
    """Whether all files that a manifest names are there, at their full size."""
    found = store.find([file.key for file in manifest.files])
    return all(file.key in found and found[file.key].size == file.size for file in manifest.files)


def commit_if_new(manifests: Manifests, done: Manifest, current: Committed | None) -> Committed:
    """Commit a batch, unless the current manifest says the same already.

    A later fence or snapshot alone is no news: the same rows are what a read under the earlier one gave.
    """
    if current is not None:
        held = current.manifest
        if held == replace(done, fence=held.fence, snapshot=held.snapshot):
            return current
    return manifests.commit(done, current)
