"""What is measured: a stage has contenders, a contender has steps, a step is one process.

Here are also the rounds: in each one every contender has its turn, so that all share the machine's good and bad
moments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.measure import measure
from benchmarks.scene import Scene, say

Role = Literal["limit", "ours", "peer"]
Facts = Mapping[str, float | str]


class CannotError(Exception):
    """A contender cannot take part here, or its outcome is wrong; the message says why."""


def nothing() -> None:
    """Prepare nothing."""


def no_facts() -> Facts:
    """Find nothing to add."""
    return {}


@dataclass(frozen=True)
class Step:
    """One process of a contender.

    Attributes:
        command: the program and its words.
        environ: what its environment has beside the scene's.
        name: what it is called in the report, if the contender has several.
        before: what is made ready before the clock starts.
        after: looks at the outcome when the clock has stopped, and finds further facts; raises CannotError if it is
            wrong.
    """

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    before: Callable[[], object] = nothing
    after: Callable[[], Facts] = no_facts


@dataclass(frozen=True)
class Contender:
    """One of those that do the same work.

    Attributes:
        name: what it is called in the report.
        role: the limit, ours, or a peer.
        steps: makes its processes for a round, counted from 1, with whatever has to be there before them; raises
            CannotError if it cannot take part.
        only_full: whether it takes part in full runs only.
    """

    name: str
    role: Role
    steps: Callable[[int], Sequence[Step]]
    only_full: bool = False


@dataclass(frozen=True)
class Stage:
    """Work that is measured.

    Attributes:
        name: its word on the command line.
        title: its heading in the report.
        rows: of the table, as the report shows them.
        contenders: who does it.
        notes: what a reader has to know of it.
        tidy: what is removed at the end.
    """

    name: str
    title: str
    rows: int
    contenders: Sequence[Contender]
    notes: str = ""
    tidy: Callable[[], object] = nothing


@dataclass
class Outcome:
    """What the rounds of one step of one contender came to.

    Attributes:
        contender: its name.
        role: its role.
        step: the step's name.
        seconds: of each round.
        cpu: processor seconds of each round.
        peak_mb: of each round.
        facts: of the last round.
        error: why it failed; the rounds before it count for nothing.
    """

    contender: str
    role: Role
    step: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    facts: dict[str, float | str] = field(default_factory=dict)
    error: str | None = None


def run(scene: Scene, stage: Stage, rounds: int) -> list[Outcome]:
    """Run a stage's rounds; who has failed once is not asked again."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    failed: set[str] = set()
    for number in range(1, rounds + 1):
        for contender in stage.contenders:
            if contender.name in failed:
                continue
            for outcome in _turn(scene, contender, number, outcomes):
                _tell(number, outcome)
                if outcome.error is not None:
                    failed.add(contender.name)
    return list(outcomes.values())


def _turn(
    scene: Scene, contender: Contender, number: int, outcomes: dict[tuple[str, str], Outcome]
) -> Iterator[Outcome]:
    """One contender's turn in one round, up to the first step that fails: what follows builds on it."""
    name = ""
    try:
        for step in contender.steps(number):
            name = step.name
            outcome = outcomes.setdefault((contender.name, name), Outcome(contender.name, contender.role, name))
            _once(scene, step, outcome)
            yield outcome
    except CannotError as error:
        outcome = outcomes.setdefault((contender.name, name), Outcome(contender.name, contender.role, name))
        outcome.error = str(error)
        yield outcome


def _once(scene: Scene, step: Step, outcome: Outcome) -> None:
    step.before()
    done = measure(step.command, {**scene.environ, **step.environ}, scene.work)
    if done.code:
        raise CannotError(brief(done.said, done.code))
    outcome.facts = dict(step.after())
    outcome.seconds.append(done.seconds)
    outcome.cpu.append(done.cpu)
    outcome.peak_mb.append(done.peak_mb)


def brief(said: str, code: int) -> str:
    """A failing program's last words: from the last line on that speaks of an error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "xception" in line or "panic" in line]
    words = (telling or lines or ["it said nothing"])[-1]
    return f"exit code {code}: {words[:300]}"


def _tell(number: int, outcome: Outcome) -> None:
    name = f"{outcome.contender}{f', {outcome.step}' if outcome.step else ''}"
    if outcome.error is not None:
        say(f"  {number}. {name:<58} fails: {outcome.error[:120]}")
    else:
        figures = f"{outcome.seconds[-1]:>9.2f} s {outcome.cpu[-1]:>8.2f} s cpu {outcome.peak_mb[-1]:>7.0f} MB"
        say(f"  {number}. {name:<58}{figures}")
