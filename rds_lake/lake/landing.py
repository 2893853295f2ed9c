"""Landing: a snapshot's rows into the lake, one batch per partition, in one pass over the source.

Rows come in the order of the cursor, so a range of partitions is one query whose stream is cut where the partitions
meet. Files and manifests are sent side by side while the next partition is read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from itertools import groupby
from threading import BoundedSemaphore, Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.extract.fingerprint import EMPTY
from rds_lake.extract.snapshot import Snapshot
from rds_lake.lake.batch import BatchWriter, commit_if_new, new_batch_id
from rds_lake.lake.files import check_format
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Committed, Manifest, Manifests
from rds_lake.lake.store import CONCURRENCY, ObjectStore
from rds_lake.partitions import Partitioning, Window

WAITING = 2 * CONCURRENCY
"""Partitions that may wait to be sent; the reader waits when there are more, so memory stays bounded."""


@dataclass(frozen=True)
class Landed:
    """One landed partition.

    Attributes:
        manifest: its batch, committed.
        new: False when the source still held exactly what was landed before.
        behind: True when this read ended below the fence of what is landed, so that the earlier batch was kept.
    """

    manifest: Manifest
    new: bool
    behind: bool = False


def land(
    snapshot: Snapshot,
    store: ObjectStore,
    partitions: Sequence[str],
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, Landed]:
    """Extract some partitions and commit a batch for each.

    Args:
        snapshot: the source's snapshot.
        store: the lake's bucket.
        partitions: their keys; `[WHOLE_TABLE]` for a table without partitions.
        report: told after each partition how many are done.

    Raises:
        RdsLakeError: the source or S3 failed. Partitions committed before stay; the others keep their old batches.
    """
    check_format(snapshot.spec.landing.format, snapshot.schema, snapshot.spec.table)
    return _Landing(snapshot, store, partitions, report).run()


class _Landing:
    def __init__(
        self, snapshot: Snapshot, store: ObjectStore, partitions: Sequence[str], report: Callable[[int], None]
    ) -> None:
        self._snapshot = snapshot
        self._store = store
        self._keys = TableKeys.of(snapshot.spec)
        self._manifests = Manifests(store, self._keys)
        self._partitions = sorted(partitions)
        self._current = self._manifests.read_all("landing", self._partitions)
        self._report = report
        self._done = 0
        self._counting = Lock()
        self._slots = BoundedSemaphore(WAITING)
        self._jobs: dict[str, Future[Landed]] = {}

    def run(self) -> dict[str, Landed]:
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for fingerprints, rows in self._reads():
                for partition, batches in rows:
                    writer = self._writer(partition, fingerprints.get(partition, EMPTY))
                    self._fill(writer, batches)
                    self._raise_early()
                    self._slots.acquire()
                    self._jobs[partition] = pool.submit(self._commit, partition, writer)
            for partition in self._partitions:  # without rows
                if partition not in self._jobs:
                    self._slots.acquire()
                    self._jobs[partition] = pool.submit(self._commit, partition, self._writer(partition, EMPTY))
            return {partition: self._jobs[partition].result() for partition in self._partitions}

    def _reads(self) -> Iterator[tuple[dict[str, str], Iterable[tuple[str, Iterator[pa.RecordBatch]]]]]:
        """For each run of neighbouring partitions: the fingerprints, and the rows by partition."""
        partitioning = self._snapshot.spec.partitioning
        if partitioning is None:
            yield {WHOLE_TABLE: self._snapshot.fingerprint()}, [(WHOLE_TABLE, self._snapshot.rows())]
            return
        for first, last in partitioning.ranges(self._partitions):
            window: Window = partitioning.span(first, last)
            fingerprints = self._snapshot.fingerprints(window)
            yield fingerprints, by_partition(self._snapshot.rows(window), self._cursor(), partitioning)

    def _cursor(self) -> str:
        if self._snapshot.spec.cursor is None:
            raise ValueError(f"{self._snapshot.spec.table} has no cursor")
        return self._snapshot.spec.cursor.column

    def _writer(self, partition: str, fingerprint: str) -> BatchWriter:
        spec = self._snapshot.spec
        draft = Manifest(
            table=spec.table,
            stage="landing",
            partition=partition,
            batch=new_batch_id(),
            files=(),
            columns=self._snapshot.table.columns,
            fingerprint=fingerprint,
            fence=self._snapshot.fence.at.replace(tzinfo=UTC).isoformat(),
            format=spec.landing.format,
            source_unique=self._snapshot.table.is_unique(spec.key),
        )
        return BatchWriter(self._store, self._keys, draft, self._snapshot.schema)

    def _raise_early(self) -> None:
        """End the reading as soon as a batch could not be sent."""
        for job in self._jobs.values():
            if job.done() and (error := job.exception()):
                raise error

    def _fill(self, writer: BatchWriter, batches: Iterable[pa.RecordBatch]) -> None:
        try:
            for batch in batches:
                writer.write(batch)
        except BaseException:
            writer.abandon()
            raise

    def _commit(self, partition: str, writer: BatchWriter) -> Landed:
        try:
            current: Committed | None = self._current.get(partition)
            if current is not None and self._snapshot.is_behind(partition, current.manifest.fence):
                writer.abandon()
                return Landed(current.manifest, new=False, behind=True)
            done = writer.finish(current.manifest if current else None)
            commit_if_new(self._manifests, done, current)
            with self._counting:
                self._done += 1
                self._report(self._done)
            return Landed(done, new=current is None or current.manifest.batch != done.batch)
        finally:
            self._slots.release()


def by_partition(
    batches: Iterable[pa.RecordBatch], cursor: str, partitioning: Partitioning
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Cut a stream of rows, ordered by the cursor, into partitions.

    Args:
        batches: the rows.
        cursor: the cursor's column.
        partitioning: how the table is cut.

    Yields:
        Each partition that has rows, with its rows; they must be consumed before the next partition is asked for.
    """
    pieces = (piece for batch in batches for piece in _pieces(batch, cursor, partitioning))
    for partition, group in groupby(pieces, key=lambda piece: piece[0]):
        yield partition, (batch for _, batch in group)


def _pieces(batch: pa.RecordBatch, cursor: str, partitioning: Partitioning) -> Iterator[tuple[str, pa.RecordBatch]]:
    moments = pc.cast(batch.column(cursor), pa.timestamp("us"))
    ordered = moments.to_numpy(zero_copy_only=False)
    start = 0
    while start < batch.num_rows:
        partition = partitioning.key(moments[start].as_py())
        end = int(np.searchsorted(ordered, np.datetime64(partitioning.window(partition).upper, "us"), side="left"))
        yield partition, batch.slice(start, end - start)
        start = end
