"""The stages, by their words on the command line, in the order of the report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.contenders import Stage
from benchmarks.scene import Scene
from benchmarks.stages.extract import extract_orders, extract_wide
from benchmarks.stages.files import dropped, listing
from benchmarks.stages.pipeline import first_load, growth, pipeline
from benchmarks.stages.rooms import landing, split
from benchmarks.stages.warehouse import load, merge

Maker = Callable[[Scene, int], Stage]


@dataclass(frozen=True)
class Planned:
    """A stage and how many rows it is measured with.

    Attributes:
        make: makes its data, and it.
        small: rows of a small run; several mean one stage for each.
        full: rows of a full run.
    """

    make: Maker
    small: tuple[int, ...]
    full: tuple[int, ...]


STAGES: Mapping[str, Planned] = {
    "extract_orders": Planned(extract_orders, (1_000_000,), (5_000_000,)),
    "extract_wide": Planned(extract_wide, (100_000,), (1_000_000,)),
    "landing": Planned(landing, (1_000_000,), (5_000_000,)),
    "split": Planned(split, (1_000_000,), (5_000_000,)),
    "load": Planned(load, (1_000_000,), (5_000_000,)),
    "merge": Planned(merge, (1_000_000,), (5_000_000,)),
    "pipeline": Planned(pipeline, (68_883,), (68_883, 5_000_000)),
    "first_load": Planned(first_load, (1_000_000,), (5_000_000,)),
    "listing": Planned(listing, (10_000,), (100_000,)),
    "dropped": Planned(dropped, (100,), (1_000,)),
    "growth": Planned(growth, (100_000, 1_000_000), (100_000, 1_000_000, 5_000_000, 20_000_000)),
}
