"""Reading ahead: a thread that works on an iterator of record batches while others use those that it has made.

What waits is bounded in bytes, not in number: a batch may hold one row of a gigabyte.
"""

from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition, Thread

import pyarrow as pa

WAITING_BYTES = 8 * 1024 * 1024
"""What may wait; a larger batch waits alone."""


class Ahead:
    """The same batches as an iterator gives, worked on by a thread of their own.

    Args:
        batches: the batches; nobody else may ask for them.
        interrupt: called when no more are wanted before their end; it has to make the thread's waiting for data fail.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], interrupt: Callable[[], None]) -> None:
        self._batches = batches
        self._interrupt = interrupt
        self._ready: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._error: BaseException | None = None
        self._ended = self._unwanted = False
        self._thread = Thread(target=self._work, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The batches.

        Raises:
            BaseException: what the iterator raised, after the batches that came before it.
        """
        try:
            while (batch := self._take()) is not None:
                yield batch
        finally:
            self.close()

    def close(self) -> None:
        """Let no further batch be made, and wait until the thread has ended."""
        with self._changed:
            self._unwanted = True
            self._changed.notify_all()
            is_working = not self._ended
        if is_working:
            self._interrupt()
        self._thread.join()

    def _work(self) -> None:
        try:
            for batch in self._batches:
                with self._changed:
                    self._changed.wait_for(lambda: self._bytes < WAITING_BYTES or self._unwanted)
                    if self._unwanted:
                        break
                    self._ready.append(batch)
                    self._bytes += batch.nbytes
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by `_take`, in the thread that waits for it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self) -> pa.RecordBatch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                batch = self._ready.popleft()
                self._bytes -= batch.nbytes
                self._changed.notify_all()
                return batch
        if self._error:
            raise self._error
        return None
