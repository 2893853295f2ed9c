"""The command line: `python -m benchmarks [--full] [--only STAGE]... [--rounds N]`, run by `make bench`."""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report, results
from benchmarks.contenders import CannotError, Contender, Stage, brief, run
from benchmarks.environments import python
from benchmarks.measure import measure
from benchmarks.results import Size
from benchmarks.scene import ROOT, Scene, open_scene, say
from benchmarks.stages import STAGES

ROUNDS = 3


def main(words: Sequence[str] | None = None) -> int:
    """Measure what was asked for, keep the figures, write the report; 1 when a stage or one of ours failed."""
    given = _parser().parse_args(words)
    size: Size = "full" if given.full else "small"
    whole = True
    with open_scene(given.folder.absolute()) as scene:
        for name, rows in _chosen(given.only or list(STAGES), size, given.rows):
            found = _measure(scene, name, rows, given.rounds, given.contender, full=given.full)
            whole = whole and not _ours_failed(found)
            if not given.contender:
                report.write(results.keep(size, found, given.results), given.results.parent)
        if not given.contender:
            _draw(scene, size, given.results)
            report.write(results.read(given.results), given.results.parent)
            say(f"Written: {given.results.parent / report.NAME}")
    return 0 if whole else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours, the peers and the limit.")
    parser.add_argument("--full", action="store_true", help="5 and 20 million rows: hours")
    parser.add_argument("--only", action="append", choices=list(STAGES), help="this stage; may be given several times")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each stage (default %(default)s)")
    parser.add_argument("--rows", type=int, action="append", help="another number of rows than the run's")
    parser.add_argument("--contender", default="", help="only those whose names hold this text; nothing is kept then")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="for tables and environments (.bench)")
    parser.add_argument("--results", type=Path, default=results.FILE, help="the file of the results")
    return parser


def _chosen(names: Sequence[str], size: Size, rows: Sequence[int] | None) -> list[tuple[str, int]]:
    """The stages, each as often as it has numbers of rows."""
    planned = {name: STAGES[name].full if size == "full" else STAGES[name].small for name in names}
    return [(name, number) for name, numbers in planned.items() for number in (rows or numbers)]


def _measure(scene: Scene, name: str, rows: int, rounds: int, only: str, *, full: bool) -> results.Results:
    """One stage's results, whatever happens in it: the others go on."""
    say(f"{name}, {rows:,} rows")
    began = time.monotonic()
    try:
        stage = STAGES[name].make(scene, rows)
        taking_part = [each for each in stage.contenders if only in each.name and _belongs(each, full=full)]
        stage = Stage(stage.name, stage.title, stage.rows, taking_part, stage.notes, stage.tidy)
        try:
            outcomes = run(scene, stage, rounds)
        finally:
            stage.tidy()
            scene.remove_fresh()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is shown and the next stage has its turn
        traceback.print_exc()
        return results.failed(name, rows, f"{type(error).__name__}: {error}")
    return results.record(stage, outcomes, rounds, time.monotonic() - began)


def _draw(scene: Scene, size: Size, file: Path) -> None:
    """Draw a run's plot beside its results; a report without one is better than none."""
    try:
        program = str(python(scene, "plot"))
    except CannotError as error:
        say(f"no plot: {error}")
        return
    words = [str(file.absolute()), size, str(file.absolute().parent / report.plot_name(size))]
    done = measure([program, str(Path(report.__file__).with_name("plot.py")), *words], scene.environ, scene.work)
    if done.code:
        say(f"no plot: {brief(done.said, done.code)}")


def _belongs(contender: Contender, *, full: bool) -> bool:
    return full or not contender.only_full


def _ours_failed(found: results.Results) -> bool:
    mine = [each for each in found["outcomes"] if each["role"] == "ours"]
    return not found["outcomes"] or any(each["error"] for each in mine)


if __name__ == "__main__":
    sys.exit(main())
