"""A large Parquet file that is read while it is fetched, from its front to its end, without a copy on the disk."""

import io

from rds_lake.lake.manifest import File
from rds_lake.lake.store import ObjectStore

FOOTER_BYTES = 256 * 1024
"""What is fetched of a file's end, where its footer is: mostly more than that takes, never less than Arrow asks for."""


class Passing(io.RawIOBase):
    """A Parquet file that is fetched from its front to its end while it is read: its end first, then what is shown.

    Args:
        store: the lake's bucket.
        file: the file.
    """

    def __init__(self, store: ObjectStore, file: File) -> None:
        self._size = file.size
        self._end = memoryview(store.fetch_part(file.key, max(0, file.size - FOOTER_BYTES), file.size))
        footer = int.from_bytes(self._end[-8:-4], "little") + 8
        if len(self._end) < footer <= file.size:
            self._end = memoryview(store.fetch_part(file.key, file.size - footer, file.size))
        self._chunks = store.fetch_along(file.key)
        self._place = 0  # that is read next
        self._shown, self._start = memoryview(b""), 0  # what is shown, and where it begins
        self._over, self._behind = memoryview(b""), 0  # what has come and is still to be shown, and where it begins

    def show(self, start: int, end: int) -> None:
        """Have the bytes from one place up to another at hand.

        Args:
            start: the first; not before the end of what was shown before, as row groups lie in a file that we wrote.
            end: the one behind the last.
        """
        self._shown = memoryview(b"")  # given back before more is taken
        parts = []
        while self._behind < end:
            if not len(self._over):
                self._over = memoryview(next(self._chunks, b""))
                if not len(self._over):
                    raise OSError(f"a file ends at {self._behind} bytes, and its footer speaks of {end}")
            count = min(len(self._over), (start if self._behind < start else end) - self._behind)
            if self._behind >= start:
                parts.append(self._over[:count])
            self._over, self._behind = self._over[count:], self._behind + count
        self._shown, self._start = memoryview(b"".join(parts)), start

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, to what is at hand."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read at another place next."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Some bytes.

        Raises:
            OSError: they are not at hand.
        """
        stop = self._size if size < 0 else min(self._size, self._place + size)
        held, start = (self._end, self._size - len(self._end))
        if self._place < start:
            held, start = self._shown, self._start
        if not start <= self._place <= stop <= start + len(held):
            raise OSError(f"the bytes {self._place} to {stop} of a file are not at hand")
        found = bytes(held[self._place - start : stop - start])
        self._place = stop
        return found

    def close(self) -> None:
        """Fetch no more."""
        self._chunks.close()
        super().close()
