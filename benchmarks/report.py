"""The report: `RESULTS.md` and its plots, made from the results and nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, base, figures, goals, steps
from benchmarks.results import Results
from rds_lake.wording import counted

NAME = "RESULTS.md"
SIZES = {"full": "Full run", "small": "Small run"}
INTRODUCTION = """# Results of the benchmarks

Written by `make bench` (small) and `make bench FULL=1`; not by hand. Whole processes, start included, in interleaved
rounds; medians. **x** is the ratio to the first limit, or to the fastest peer where there is no limit. *cpu* is the
process's own processor time, servers not included; *peak* the most memory that its process tree held. Ratios last,
absolute times do not.
"""


def write(everything: Results, folder: Path) -> None:
    """Write the report into a folder; its plots are there already, or left out."""
    (folder / NAME).write_text("\n".join(_lines(everything, folder)) + "\n", encoding="utf-8")


def plot_name(size: str) -> str:
    """What the plot of a run is called."""
    return f"{size}.svg"


def _lines(everything: Results, folder: Path) -> Iterator[str]:
    yield INTRODUCTION
    for size, title in SIZES.items():
        if stages := everything.get(size):
            yield f"## {title}\n"
            yield from _machines(stages)
            if (folder / plot_name(size)).is_file():
                yield f"![Seconds as a ratio to the limit; memory and seconds against rows]({plot_name(size)})\n"
            if size == "full":  # in a small run the start of a process is most of what is measured
                yield from _goals(stages)
            for stage in stages.values():
                yield from _stage(stage)


def _machines(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What it was measured on: each machine once, with the stages that ran there."""
    found: dict[str, list[str]] = {}
    for key, stage in stages.items():
        of = stage["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
        text = (
            f"{of['processor']}, {of['cores']} cores, {of['memory_gb']} GB, {of['system']}, Python {of['python']}; "
            f"{versions}; {stage['when']}, commit {of['commit']}"
        )
        found.setdefault(text, []).append(f"{key} (load {of['load']})")
    for text, names in found.items():
        where = "" if len(found) == 1 else f" {', '.join(names)}"
        yield f"Machine:{where}: {text}.\n" if where else f"Machine: {text}.\n"


def _goals(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "### Goals\n"
    yield "| goal | measured | |"
    yield "|---|---|---|"
    for goal in goals(stages):
        yield f"| {goal.text} | {goal.measured} | {'met' if goal.met else '**not met**'} |"
    yield ""


def _stage(stage: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {stage['title']}: {stage['rows']:,} rows\n"
    yield f"{stage['notes']} {counted(stage['rounds'], 'round')}.\n".lstrip()
    for name, some in steps(figures(stage)).items():
        if name:
            yield f"**{name}**\n"
        yield "| contender | seconds | x | cpu | peak MB | |"
        yield "|---|---|---|---|---|---|"
        yield from map(_row(base(some)), some)
        yield ""


def _row(to: Figure | None) -> Any:  # noqa: ANN401 - a function of one figure
    def row(figure: Figure) -> str:
        name = f"**{figure.contender}**" if figure.role == "ours" else figure.contender
        if figure.seconds is None:
            return f"| {name} | **fails** | | | | {_cell(figure.error or 'it was not run')} |"
        ratio = f"{figure.seconds / to.seconds:.1f}" if to and to.seconds else ""
        facts = ", ".join(f"{key}: {_number(value)}" for key, value in figure.facts.items())
        return (
            f"| {name} | {figure.seconds:.2f} | {ratio} | {figure.cpu:.2f} | {figure.peak_mb:,.0f} | {_cell(facts)} |"
        )

    return row


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
