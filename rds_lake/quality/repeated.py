"""Which of many 64-bit numbers occur more than once, in bounded memory.

The numbers are hashes of keys: where none occurs twice no key does, and only where one does the keys themselves have to
be looked at. Those of a large batch wait on the disk, in one file for each leading digit, and are sorted file by file.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.uint64]]

HELD = 2_000_000
"""Numbers that are held in memory: 16 MB, and as much again while they are sorted."""

FILES = 64
"""Files that more are divided over, a power of two: of 100 million, each gets 13 MB."""


class Repeated:
    """Takes numbers and says which of them came more than once.

    Args:
        folder: where those may wait that are too many.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Numbers] = []
        self._count = 0
        self._files: list[Path] = []

    def add(self, numbers: Numbers) -> None:
        """Take some numbers."""
        self._waiting.append(numbers)
        self._count += len(numbers)
        if self._count > HELD:
            self._put_aside()

    def found(self) -> Numbers:
        """Those that came more than once, each once, in order. Nothing is left of any of them."""
        if not self._files:
            return _twice(self._taken())
        self._put_aside()
        parts = []
        for file in self._files:
            parts.append(_twice(np.fromfile(file, np.uint64)))
            file.unlink()
        self._files = []
        return np.concatenate(parts)

    def _taken(self) -> Numbers:
        taken = np.concatenate([np.zeros(0, np.uint64), *self._waiting])
        self._waiting, self._count = [], 0
        return taken

    def _put_aside(self) -> None:
        """Move what is held into the files."""
        if not self._files:
            self._files = [self._folder / f"hashes_{number:02}" for number in range(FILES)]
        numbers = self._taken()
        place = numbers >> np.uint64(64 - (FILES - 1).bit_length())
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(FILES + 1, dtype=np.uint64))
        for file, (start, end) in zip(self._files, pairwise(ends), strict=True):
            with file.open("ab") as content:
                numbers[order[start:end]].tofile(content)


def _twice(numbers: Numbers) -> Numbers:
    numbers.sort()
    return np.unique(numbers[1:][numbers[1:] == numbers[:-1]])
