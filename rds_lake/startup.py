"""What lets a process start and end quickly and stay small: less looking for garbage, no pandas, little memory kept.

Nothing here changes what a command does; `benchmarks/startup.py` shows what it is worth.
"""

import ctypes
import gc
import sys
from importlib.abc import MetaPathFinder

GARBAGE_AFTER = 50_000
"""New objects after which Python looks for garbage. Its own 700 have it look through all that was imported again and
again, which is a fifth of a start.
"""


HEAPS = 2
"""Heaps of the C library. Its own default is eight for each processor, and what one thread has used and given back,
another one with another heap does not get: the threads of a sync held 180 MB more.
"""

RETURNED_BYTES = 1024 * 1024
"""Pieces of this size are given back to the system when nobody uses them any more. The C library would raise this size
to 32 MB as it goes, and keep what is smaller: 20 MB in a split.
"""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""The numbers of these options of `mallopt` in glibc's malloc.h."""


def begin() -> None:
    """Prepare a process that is about to import much."""
    gc.set_threshold(GARBAGE_AFTER)
    hold_little()


def hold_little() -> None:
    """Have the C library keep less of the memory that was used, where it has such settings (glibc)."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, HEAPS)
        library.mallopt(_M_MMAP_THRESHOLD, RETURNED_BYTES)


def end() -> None:
    """Spare a process that is about to end the last look through all its objects."""
    gc.freeze()


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - Python's own form
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def leave_pandas_out() -> None:
    """Have pyarrow look for pandas now, and not find it.

    It would import it (0.3 s) with the first array that it makes, to see whether it was given an object of pandas. Who
    asks for pandas by name gets it.
    """
    import pyarrow as pa  # noqa: PLC0415 - not every command needs it

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.scalar(0)  # without a type: what infers one asks for pandas in a second place
    finally:
        sys.meta_path.remove(finder)
