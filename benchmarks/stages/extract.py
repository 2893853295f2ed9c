"""Extraction: a table of the source to one Parquet file with zstd, by ours and by everyone else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, Facts, Stage
from benchmarks.faithful import bent_columns
from benchmarks.limits import reading
from benchmarks.looks import look_at
from benchmarks.peers import Look, extractors
from benchmarks.scene import Scene
from benchmarks.stages.common import ours
from benchmarks.tables import make_orders, make_wide, orders_yaml, wide_yaml


def extract_orders(scene: Scene, rows: int) -> Stage:
    """`orders` to one file."""
    table = make_orders(scene.source, rows)

    def look(place: Path) -> Facts:
        return look_at(place, rows)

    whole = _ours(scene, "rds_lake", orders_yaml(table, by=None), look)
    ordered = _ours(scene, "rds_lake, in the order of the cursor", orders_yaml(table), look)
    return Stage(
        "extract_orders",
        "Extract orders to one Parquet file",
        rows,
        [*reading(scene, table), whole, ordered, *extractors(scene, table, look)],
        notes="Ours reads through its snapshot, below the fence.",
    )


def extract_wide(scene: Scene, rows: int) -> Stage:
    """The table of 30 columns to one file."""
    table = make_wide(scene.source, rows)

    def look(place: Path) -> Facts:
        facts = look_at(place, rows)
        if place.suffix == ".csv":  # which has no types that could be held against the source's
            return facts
        bent = bent_columns(scene, table, place)
        return {**facts, "bent": ", ".join(bent) or "nothing"}

    return Stage(
        "extract_wide",
        "Extract a table of 30 columns to one Parquet file",
        rows,
        [
            *reading(scene, table),
            _ours(scene, "rds_lake", wide_yaml(table), look),
            *extractors(scene, table, look),
        ],
        notes="Unsigned integers, DECIMAL(38,10), DATETIME(6), TIME, YEAR, BIT, ENUM, SET, JSON, latin1, binary; many "
        "NULLs. *bent*: the columns of which a value (of 20,000 rows, read beside by the plain driver) says something "
        "else than at the source, whatever type it came in.",
    )


def _ours(scene: Scene, name: str, yaml: Mapping[str, Any], look: Look) -> Contender:
    file = scene.results / "ours.parquet"

    def after() -> Facts:
        try:
            return look(file)
        finally:
            file.unlink(missing_ok=True)

    return Contender(name, "ours", lambda _: [ours("extract", yaml, str(file), after=after)])
