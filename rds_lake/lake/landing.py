"""Landing: a snapshot's rows into the lake, one batch per partition, in one pass over the source.

Rows come in the order of the cursor, so a range of partitions is one query whose stream is cut where the partitions
meet. Files and manifests are sent side by side while the next partition is read.

Before the first row is read, the source's columns are held against the agreed schema (`rds_lake.lake.agreement`), here
and nowhere else, so that no way of asking for a landing gets around the table's contract.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from threading import BoundedSemaphore, Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.cursors import Bound, bound, cut, moment_of
from rds_lake.errors import PermanentError
from rds_lake.extract.carry import carry
from rds_lake.extract.checksum import Checksum
from rds_lake.extract.contract import Shape
from rds_lake.extract.fingerprint import EMPTY, rows_of
from rds_lake.extract.snapshot import Snapshot
from rds_lake.extract.types import arrow_schema
from rds_lake.lake.agreement import agree
from rds_lake.lake.batch import BatchWriter, commit_if_new, new_batch_id
from rds_lake.lake.files import check_format
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.layout import check_layout
from rds_lake.lake.manifest import Committed, Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Partitioning, Window
from rds_lake.side_by_side import CONCURRENCY
from rds_lake.spec import Cursor, TableSpec

WAITING = CONCURRENCY
"""Partitions that may wait to be sent; the reader waits when there are more, so memory stays bounded."""


@dataclass(frozen=True)
class Landed:
    """One landed partition.

    Attributes:
        committed: its batch.
        new: False when the source still held exactly what was landed before.
        behind: True when this read ended below the fence of what is landed, so that the earlier batch was kept.
    """

    committed: Committed
    new: bool
    behind: bool = False

    @property
    def manifest(self) -> Manifest:
        """Its batch's manifest."""
        return self.committed.manifest


def standing(store: ObjectStore, spec: TableSpec, partitions: Sequence[str]) -> dict[str, Committed]:
    """The batches that a landing may replace; asked for before its snapshot is opened.

    Whoever commits a partition after that has seen rows that the snapshot may not have: the landing's own commit, which
    names the batch that it replaces, is refused then. Asked for later, it would replace newer rows by older ones.
    """
    return Manifests(store, TableKeys.of(spec)).read_all("landing", partitions)


def land(
    snapshot: Snapshot,
    store: ObjectStore,
    partitions: Sequence[str],
    report: Callable[[int], None] = lambda _: None,
    shape: Shape | None = None,
    *,
    replacing: Mapping[str, Committed] | None = None,
    again: bool = False,
) -> dict[str, Landed]:
    """Extract some partitions and commit a batch for each.

    Args:
        snapshot: the source's snapshot.
        store: the lake's bucket.
        partitions: their keys; `[WHOLE_TABLE]` for a table without partitions.
        report: told after each partition how many are done.
        shape: the columns agreed on, if the caller has agreed with this very snapshot open.
        replacing: the batches that stood there before the snapshot was opened (`standing`); None to look now, if nobody
            else lands the table.
        again: write new batches even where the current ones hold the same rows.

    Raises:
        RdsLakeError: the source or S3 failed. Partitions committed before stay; the others keep their old batches.
        SpecError: the table's contract refuses the source's present columns; nothing was landed.
    """
    check_layout(store, snapshot.spec)
    check_format(snapshot.spec.landing.format, snapshot.schema, snapshot.spec.table)
    shape = shape or agree(store, snapshot.spec, snapshot.table)
    if replacing is None:
        replacing = standing(store, snapshot.spec, partitions)
    return _Landing(snapshot, shape, store, partitions, report, replacing, again=again).run()


@dataclass(frozen=True)
class _Written:
    """A partition's rows, written but not sent.

    Attributes:
        partition: the partition.
        writer: what has written them.
        fingerprint: their fingerprint.
        is_computed: whether it was computed from the rows; else the source has told it.
        details: how many values became NULL, by column.
    """

    partition: str
    writer: BatchWriter
    fingerprint: str
    is_computed: bool
    details: dict[str, int]


class _Landing:
    def __init__(
        self,
        snapshot: Snapshot,
        shape: Shape,
        store: ObjectStore,
        partitions: Sequence[str],
        report: Callable[[int], None],
        replacing: Mapping[str, Committed],
        *,
        again: bool,
    ) -> None:
        self._snapshot = snapshot
        self._shape = shape
        self._schema = arrow_schema(shape.columns)
        self._store = store
        self._keys = TableKeys.of(snapshot.spec)
        self._manifests = Manifests(store, self._keys)
        self._partitions = sorted(partitions)
        self._current = replacing
        self._report = report
        self._again = again
        self._read = new_batch_id()  # every row of a landing is read in its one snapshot
        self._done = 0
        self._counting = Lock()
        self._slots = BoundedSemaphore(WAITING)
        self._jobs: dict[str, Future[Landed]] = {}
        self._unseen: deque[Future[Landed]] = deque()  # jobs that nobody has looked at since they ended
        self._uncounted: list[_Written] = []
        self._doubtful: list[_Written] = []

    def run(self) -> dict[str, Landed]:
        partitioning = self._snapshot.spec.partitioning
        try:
            with ThreadPoolExecutor(CONCURRENCY) as pool, self._snapshot.asking():
                if partitioning is None:
                    self._land_whole(pool)
                else:
                    for first, last in partitioning.ranges(self._partitions):
                        self._land_range(pool, [key for key in self._partitions if first <= key <= last])
                return {partition: self._jobs[partition].result() for partition in self._partitions}
        finally:
            for written in (*self._uncounted, *self._doubtful):  # none, unless an error has come
                written.writer.abandon()

    def _land_whole(self, pool: ThreadPoolExecutor) -> None:
        told = self._snapshot.fingerprint()
        written = self._write(WHOLE_TABLE, self._rows(), told)
        self._uncounted.append(written)
        self._hand_over(pool, {WHOLE_TABLE: rows_of(told)})

    def _land_range(self, pool: ThreadPoolExecutor, keys: Sequence[str]) -> None:
        """Read neighbouring partitions in one query, and leave their batches to the pool to send and commit.

        Where the fingerprints can be computed from the rows, the source counts them on another connection meanwhile.
        """
        spec = self._snapshot.spec
        window = cut(spec)[1].span(keys[0], keys[-1])
        checksum = self._checksum()
        counting = pool.submit(self._snapshot.counts_now, window) if checksum else None
        told = {} if checksum else self._snapshot.fingerprints(window)
        counts = {key: rows_of(fingerprint) for key, fingerprint in told.items()}
        try:
            for partition, batches in _with_empty(keys, by_partition(self._rows(window), *cut(spec))):
                self._uncounted.append(self._write(partition, batches, checksum or told.get(partition, EMPTY)))
                if counting is None or counting.done() or len(self._uncounted) == WAITING:
                    self._hand_over(pool, counting.result() if counting else counts)
            if counting:
                self._hand_over(pool, counting.result())
                self._clear_doubts(pool)
        finally:
            if counting:
                counting.cancel()  # after an error; nobody waits for a count that has not begun

    def _checksum(self) -> Checksum | None:
        """What computes fingerprints from the rows, if it can, and if the columns that it looks at are as they came."""
        checksum = self._snapshot.checksum()
        if checksum is None:
            return None
        came, agreed = (
            {column.name: column.mapped.arrow for column in columns}
            for columns in (self._snapshot.table.columns, self._shape.columns)
        )
        return checksum if all(came[name] == agreed.get(name) for name in checksum.columns) else None

    def _rows(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The source's rows in the agreed columns."""
        agreed = replace(self._snapshot, table=replace(self._snapshot.table, columns=self._shape.read))
        return carry(agreed.rows(window), self._shape, self._snapshot.spec)

    def _draft(self, partition: str) -> Manifest:
        spec = self._snapshot.spec
        return Manifest(
            table=spec.table,
            stage="landing",
            partition=partition,
            batch=new_batch_id(),
            files=(),
            columns=self._shape.columns,
            fingerprint=EMPTY,
            fence=self._snapshot.fence.at.replace(tzinfo=UTC).isoformat(),
            format=spec.landing.format,
            source_unique=self._snapshot.table.is_unique(spec.key),
            shape=self._shape.digest,
            snapshot=self._read,
        )

    def _write(self, partition: str, batches: Iterable[pa.RecordBatch], fingerprint: str | Checksum) -> _Written:
        """Write a partition's rows.

        Args:
            partition: the partition.
            batches: its rows.
            fingerprint: their fingerprint, or what computes it from them.
        """
        checksum = None if isinstance(fingerprint, str) else fingerprint.new()
        is_new = partition not in self._current
        writer = BatchWriter(self._store, self._keys, self._draft(partition), self._schema, send_early=is_new)
        columns = len(self._schema)
        details: dict[str, int] = {}
        try:
            for batch in batches:
                for place in range(columns, batch.num_columns):
                    mark = batch.schema.names[place]
                    details[mark] = details.get(mark, 0) + batch.column(place).true_count
                rows = pa.record_batch(batch.columns[:columns], schema=self._schema)
                if checksum:
                    checksum.add(rows)
                writer.write(rows)
            writer.settle()
        except BaseException:
            writer.abandon()
            raise
        found = checksum.fingerprint if checksum else str(fingerprint)
        found_nulls = {mark: count for mark, count in details.items() if count}
        return _Written(partition, writer, found, checksum is not None, found_nulls)

    def _hand_over(self, pool: ThreadPoolExecutor, counts: Mapping[str, int]) -> None:
        """Leave what has been written to the pool, provided that the source counts as many rows."""
        while self._uncounted:
            written = self._uncounted[0]
            counted = counts.get(written.partition, 0)
            if written.writer.rows == counted:
                self._submit(pool, written)
            elif written.is_computed:  # the count may be that of another moment
                written.writer.send()  # any number of partitions may have to wait
                self._doubtful.append(written)
            else:
                raise self._unlike(written, counted)
            self._uncounted.pop(0)

    def _clear_doubts(self, pool: ThreadPoolExecutor) -> None:
        """Ask the snapshot itself about the partitions of which the source has counted other rows meanwhile."""
        while self._doubtful:
            written = self._doubtful[0]
            window = cut(self._snapshot.spec)[1].window(written.partition)
            told = self._snapshot.fingerprints(window).get(written.partition, EMPTY)
            if told != written.fingerprint:
                raise self._unlike(written, rows_of(told))
            self._submit(pool, written)
            self._doubtful.pop(0)

    def _unlike(self, written: _Written, counted: int) -> PermanentError:
        """The error over rows that are not those of the source: whatever cut or bent the read, it is seen."""
        read = written.writer.rows
        differ = f"{read:,} were read" if read != counted else "those that were read are not the same"
        return PermanentError(
            f"{self._snapshot.spec.table} {written.partition}: the source counts {counted:,} rows, and {differ}.",
            "Nothing was changed in this partition. Look for what lets the source answer with fewer rows or others (a "
            "view that is not the same each time, a proxy, a limit), then sync again.",
        )

    def _submit(self, pool: ThreadPoolExecutor, written: _Written) -> None:
        self._raise_early()
        self._slots.acquire()
        job = self._jobs[written.partition] = pool.submit(self._commit, written)
        self._unseen.append(job)

    def _raise_early(self) -> None:
        """End the reading soon after a batch could not be sent."""
        while self._unseen and self._unseen[0].done():
            self._unseen.popleft().result()

    def _commit(self, written: _Written) -> Landed:
        partition, writer = written.partition, written.writer
        try:
            current: Committed | None = self._current.get(partition)
            if current is not None and self._snapshot.is_behind(partition, current.manifest.fence):
                writer.abandon()
                return Landed(current, new=False, behind=True)
            done = writer.finish(current.manifest if current and not self._again else None)
            done = replace(done, details=written.details, fingerprint=written.fingerprint)
            committed = commit_if_new(self._manifests, done, current)
            with self._counting:
                self._done += 1
                self._report(self._done)
            return Landed(committed, new=current is None or current.manifest.batch != done.batch)
        finally:
            try:
                writer.close()
            finally:
                self._slots.release()


def _with_empty(
    keys: Sequence[str], parts: Iterable[tuple[str, Iterator[pa.RecordBatch]]]
) -> Iterator[tuple[str, Iterable[pa.RecordBatch]]]:
    """The partitions that have rows, and in their places those that have none."""
    waiting = deque(keys)
    for partition, batches in parts:
        while waiting and waiting[0] < partition:
            yield waiting.popleft(), ()
        waiting.popleft()
        yield partition, batches
    for key in waiting:
        yield key, ()


def by_partition(
    batches: Iterable[pa.RecordBatch], cursor: Cursor, partitioning: Partitioning
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Cut a stream of rows, ordered by the cursor, into partitions; rows without a value come first, for the first one.

    Args:
        batches: the rows.
        cursor: the cursor.
        partitioning: how the table is cut.

    Yields:
        Each partition that has rows, with its rows; they must be consumed before the next partition is asked for.
    """
    pieces = (piece for batch in batches for piece in _pieces(batch, cursor, partitioning))
    for partition, group in groupby(pieces, key=lambda piece: piece[0]):
        yield partition, (batch for _, batch in group)


def _pieces(batch: pa.RecordBatch, cursor: Cursor, partitioning: Partitioning) -> Iterator[tuple[str, pa.RecordBatch]]:
    values = batch.column(cursor.column)
    start = values.null_count
    if start:
        yield partitioning.key(partitioning.start), batch.slice(0, start)
    moments = pc.cast(values, pa.timestamp("us") if cursor.epoch is None else pa.int64())
    ordered = moments.slice(start).to_numpy(zero_copy_only=False)
    while start < batch.num_rows:
        partition = partitioning.key(moment_of(cursor, moments[start].as_py()))
        upper = bound(cursor, partitioning.window(partition).upper)
        end = values.null_count + int(np.searchsorted(ordered, _comparable(upper), side="left"))
        yield partition, batch.slice(start, end - start)
        start = end


def _comparable(value: Bound) -> np.datetime64 | int:
    return np.datetime64(value, "us") if isinstance(value, datetime) else value
