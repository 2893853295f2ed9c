"""What lets the process of a command start and end quickly: less looking for garbage, and no pandas.

Nothing here changes what a command does; `benchmarks/startup.py` shows what it is worth.
"""

import gc
import sys
from importlib.abc import MetaPathFinder

GARBAGE_AFTER = 50_000
"""New objects after which Python looks for garbage. Its own 700 have it look through all that was imported again and
again, which is a fifth of a start.
"""


def begin() -> None:
    """Prepare a process that is about to import much."""
    gc.set_threshold(GARBAGE_AFTER)


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
