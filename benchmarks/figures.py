"""The results as figures: medians, what they are a ratio to, and whether the goals are met. The report shows them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contenders import Role
from benchmarks.results import median

COMPLETE_TOOLS = ("dlt", "sling", "ingestr", "pyspark")
"""Peers that also keep state, types and files in order; the others are readers."""

NAIVE = "the naive way"
FROM_S3 = "from S3 to S3"
"""In the names of those that split an object in S3, not a file."""

SORTED = "sorted as a landing asks"
"""In the name of the limit that reads in the order of the cursor."""

MOST_MB = 400
FLAT_FROM = 1_000_000


@dataclass(frozen=True)
class Figure:
    """The medians of one step of one contender; seconds is None when it failed."""

    contender: str
    role: Role
    step: str
    seconds: float | None
    cpu: float
    peak_mb: float
    facts: Mapping[str, float | str]
    error: str | None

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> "Figure":
        """From what the results keep of it."""
        done = outcome["error"] is None and bool(outcome["seconds"])
        return cls(
            contender=outcome["contender"],
            role=outcome["role"],
            step=outcome["step"],
            seconds=median(outcome["seconds"]) if done else None,
            cpu=median(outcome["cpu"]) if done else 0.0,
            peak_mb=median(outcome["peak_mb"]) if done else 0.0,
            facts=outcome["facts"],
            error=outcome["error"],
        )


def figures(stage: Mapping[str, Any]) -> list[Figure]:
    """A stage's figures."""
    return [Figure.of(outcome) for outcome in stage["outcomes"]]


def steps(found: list[Figure]) -> dict[str, list[Figure]]:
    """Figures by step, in each the limits first, then by seconds, those that failed last."""
    named: dict[str, list[Figure]] = {}
    for each in found:
        named.setdefault(each.step, []).append(each)
    return {name: sorted(some, key=_place) for name, some in named.items()}


def _place(figure: Figure) -> tuple[bool, bool, float]:
    is_limit = figure.role == "limit"
    # Limits stay in the order in which they were run: the first one is what the others are a ratio to.
    return figure.error is not None, not is_limit, 0.0 if is_limit else figure.seconds or 0.0


def base(some: list[Figure]) -> Figure | None:
    """What the others are a ratio to: the first limit; where there is none, the fastest peer."""
    done = [each for each in some if each.seconds]
    limits = [each for each in done if each.role == "limit"]
    peers = [each for each in done if each.role == "peer"]
    return limits[0] if limits else min(peers, key=lambda each: each.seconds or 0.0, default=None)


def ours(some: list[Figure]) -> Figure | None:
    """Our first contender that came through, in the order in which they are run."""
    return next((each for each in some if each.role == "ours" and each.seconds), None)


@dataclass(frozen=True)
class Goal:
    """What was aimed at, and what came out.

    Attributes:
        text: the goal.
        measured: the figure, in words.
        met: whether it is reached.
    """

    text: str
    measured: str
    met: bool


def goals(stages: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """The goals of all stages that were run."""
    found = [
        replace(goal, text=f"{stage['title']}, {stage['rows']:,} rows{goal.text}")
        for stage in stages.values()
        if stage["stage"] in _OF
        for goal in _OF[stage["stage"]](figures(stage))
    ]
    return found + list(_flat(stages))


def _ratio(mine: Figure | None, other: Figure | None, most: float) -> Iterator[Goal]:
    """Ours is at most so many times another's."""
    if mine and other and mine.seconds and other.seconds:
        ratio = mine.seconds / other.seconds
        step = f", {mine.step}" if mine.step else ""
        yield Goal(f"{step}: at most {most:g} x {other.contender}", f"{ratio:.2f} x", ratio <= most)


def _to_base(found: list[Figure], most: float, which: str = "") -> Iterator[Goal]:
    yield from _ratio(ours([each for each in found if which in each.contender]), base(found), most)


def _fastest(found: list[Figure], names: tuple[str, ...]) -> Figure | None:
    """The fastest of some peers."""
    done = [each for each in found if each.seconds and each.contender.startswith(names)]
    return min(done, key=lambda each: each.seconds or 0.0, default=None)


def _faster(found: list[Figure], least: float, names: tuple[str, ...]) -> Iterator[Goal]:
    """Ours is at least so many times faster than the fastest of some peers."""
    mine, best = ours(found), _fastest(found, names)
    if mine and best and mine.seconds and best.seconds:
        factor = best.seconds / mine.seconds
        yield Goal(f": at least {least:g} x faster than {best.contender}", f"{factor:.1f} x", factor >= least)


def _orders(found: list[Figure]) -> Iterator[Goal]:
    yield from _to_base(found, 1.4)
    yield from _faster(found, 2.5, COMPLETE_TOOLS)
    yield from _faster(found, 15, (NAIVE,))


def _wide(found: list[Figure]) -> Iterator[Goal]:
    yield from _to_base(found, 1.3)
    mine = ours(found)
    if mine:
        bent = str(mine.facts.get("bent", "not looked at"))
        yield Goal(": every value as it is", f"bent: {bent}", bent == "nothing")


def _landing(found: list[Figure]) -> Iterator[Goal]:
    yield from _to_base(found, 2, "by day")
    mine = ours([each for each in found if "by day" in each.contender])
    yield from _ratio(mine, next((each for each in found if SORTED in each.contender), None), 2)


def _split(found: list[Figure]) -> Iterator[Goal]:
    yield from _to_base(found, 1.5)
    mine = ours(found)
    yield from _ratio(mine, base([each for each in found if FROM_S3 in each.contender]), 1.5)
    if mine:
        yield Goal(": under 300 MB", f"{mine.peak_mb:.0f} MB", mine.peak_mb < 300)


def _pipeline(found: list[Figure]) -> Iterator[Goal]:
    for step in dict.fromkeys(each.step for each in found):
        some = [each for each in found if each.step == step]
        yield from _ratio(ours(some), _fastest(some, COMPLETE_TOOLS), 1)


def _flat(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    """Memory that does not grow with the table."""
    peaks = {
        stage["rows"]: mine.peak_mb
        for stage in stages.values()
        if stage["stage"] == "growth" and (mine := ours(figures(stage)))
    }
    for rows, peak in sorted(peaks.items()):
        yield Goal(f"A sync's memory at {rows:,} rows: under {MOST_MB} MB", f"{peak:.0f} MB", peak < MOST_MB)
    large = [peak for rows, peak in peaks.items() if rows >= FLAT_FROM]
    if len(large) > 1:
        apart = max(large) / min(large) - 1
        text = f"A sync's memory from {FLAT_FROM:,} rows on: within 10 % of each other"
        yield Goal(text, f"{apart:.0%} apart", apart <= 0.1)


_OF: Mapping[str, Callable[[list[Figure]], Iterator[Goal]]] = {
    "extract_orders": _orders,
    "extract_wide": _wide,
    "landing": _landing,
    "split": _split,
    "load": lambda found: _to_base(found, 2),
    "merge": lambda found: _to_base(found, 1.5),
    "pipeline": _pipeline,
}
