"""Extraction: a table of the source to one Parquet file with zstd, by ours and by everyone else."""

from pathlib import Path

from benchmarks.contenders import Contender, Facts, Stage
from benchmarks.limits import reading
from benchmarks.looks import look_at_parquet
from benchmarks.peers import extractors
from benchmarks.scene import Scene
from benchmarks.stages.common import ours
from benchmarks.tables import make_orders, make_wide, orders_yaml, wide_yaml


def extract_orders(scene: Scene, rows: int) -> Stage:
    """`orders` to one file."""
    table = make_orders(scene.source, rows)
    whole = _ours(scene, "rds_lake", orders_yaml(table, by=None), rows)
    ordered = _ours(scene, "rds_lake, in the order of the cursor", orders_yaml(table), rows)
    return Stage(
        "extract_orders",
        "Extract orders to one Parquet file",
        rows,
        [*reading(scene, table), whole, ordered, *extractors(scene, table, rows)],
        notes="Whole processes, start included. Ours reads through its snapshot, below the fence.",
    )


def extract_wide(scene: Scene, rows: int) -> Stage:
    """The table of 30 columns to one file."""
    table = make_wide(scene.source, rows)
    return Stage(
        "extract_wide",
        "Extract a table of 30 columns to one Parquet file",
        rows,
        [
            *reading(scene, table),
            _ours(scene, "rds_lake", wide_yaml(table), rows),
            *extractors(scene, table, rows),
        ],
        notes="Unsigned integers, DECIMAL(38,10), DATETIME(6), TIME, YEAR, BIT, ENUM, SET, JSON, latin1, binary; "
        "many NULLs. A peer that fails is shown with its message; one that does not may still have bent values.",
    )


def _ours(scene: Scene, name: str, yaml: dict[str, object], rows: int) -> Contender:
    file = scene.results / "ours.parquet"
    return Contender(name, "ours", lambda _: [ours("extract", yaml, str(file), after=lambda: _look(file, rows))])


def _look(file: Path, rows: int) -> Facts:
    facts = look_at_parquet(file, rows)
    file.unlink()
    return facts
