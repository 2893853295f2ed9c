"""The peers: who does what, each in an environment of its own. The other modules here are the programs that they run.

A program knows nothing of ours: it finds the source's address in BENCH_* variables.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.scene import Scene


def extractors(scene: Scene, table: str, rows: int) -> list[Contender]:
    """Those that write a table to Parquet."""
    return []


def splitters(scene: Scene, landed: Path, statuses: Sequence[str], rows: int) -> list[Contender]:
    """Those that split a file."""
    return []


def copiers(scene: Scene, table: str, less: Callable[[], None], more: Callable[[], None]) -> list[Contender]:
    """Those that copy a table to S3, and then what is new in it."""
    return []
