"""A sync is killed at every call that it makes to the outside; the next one brings everything in step.

The calls are recorded, not listed (`kill_harness`). For each of them: lake, catalog and warehouse are put back, a sync
is killed there, the next sync must succeed, everything is compared row by row by a reader that is not rds_lake's
(`witness`), and a third sync must find nothing to do. All the while another reader polls, and must see whole batches.

Every run takes a spread of the calls; `pytest --kills 50` takes fifty of each case, `--kills 0` all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from figures import FIGURES
from kill_harness import Done, Workers
from pipeline import World, order_rows
from scenes import CASES, Case, Scene, job_of, valid_status
from witness import Saved, Subject, Watch, judge

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(7200)]


# --- killing ---------------------------------------------------------------------------------------------------------


def points(recorded: Done, wanted: int, certain: Sequence[str] = ()) -> list[tuple[int, str]]:
    """Where to kill: before each call, and after each call that changes something.

    What a call that only reads has answered is known to nobody but the process: a kill after it is one before the next.

    Args:
        recorded: a run that was not killed.
        wanted: how many points, evenly spread over the calls that change something, or over all if these are fewer; 0
            for every point.
        certain: parts of the names of calls; the first such call is a point in any case, after it was answered.
    """
    calls = range(1, len(recorded.calls) + 1)
    writing = [number for number in calls if recorded.calls[number - 1] in recorded.writes]
    critical = [(number, side) for number in writing for side in ("before", "after")]
    every = sorted({*((number, "before") for number in calls), *critical})
    if not wanted or wanted >= len(every):
        return every
    sure = [next((number, "after") for number in writing if part in recorded.calls[number - 1]) for part in certain]
    chosen, spread = critical if wanted <= len(critical) else every, max(0, wanted - len(sure))
    return sorted({*sure, *(chosen[int((place + 0.5) * len(chosen) / spread)] for place in range(spread))})


@dataclass
class Tally:
    """What the kills of one case came to."""

    points: int = 0
    kills: int = 0
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    orphans: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_and_heal(crew: Workers, scene: Scene, recorded: Done, point: tuple[int, str], tally: Tally) -> None:
    """Kill a sync at one point, sync again, compare, and see that a third sync has nothing to do."""
    number, side = point
    killed = crew.run(replace(scene.job, kill=number, side=side))
    healed = crew.run(scene.job)
    idle = crew.run(scene.job)
    found = judge(scene.subject)
    tally.points += 1
    tally.runs += 3
    tally.kills += killed.killed
    tally.lost, tally.doubled = tally.lost + found.lost, tally.doubled + found.doubled
    tally.orphans += found.orphans
    place = f"{side} call {number} ({killed.calls[-1] if killed.calls else 'the first'})"
    if not killed.killed and number < len(recorded.calls) * 0.9:  # how many there are varies by a few
        tally.wrong.append(f"{place}: was not reached")
    if not healed.ok:
        tally.wrong.append(f"{place}: the next sync failed: {healed.said}")
    if not found.clean:
        tally.wrong.append(f"{place}: {found.problems}")
    if not idle.ok or idle.writes or (idle.result or {})["partitions"]:
        tally.wrong.append(f"{place}: the third sync still had work: {idle.said} {idle.writes}")


@pytest.mark.parametrize("make", CASES, ids=lambda case: case.__name__)
def test_a_sync_that_is_killed_at_any_call_is_made_good_by_the_next(
    world: World,
    crew: Workers,
    make: Case,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    scene = make(world, crew, tmp_path / "dagster")
    saved = Saved(scene.subject)
    watch = Watch(scene.subject, scene.before, scene.subject.wanted())
    tally = Tally()
    with watch.on():
        recorded = crew.run(scene.job)
        assert recorded.ok, recorded.said
        assert judge(scene.subject).problems == []
        for point in points(recorded, request.config.getoption("--kills"), scene.certain):
            with watch.paused():
                saved.restore()
            kill_and_heal(crew, scene, recorded, point, tally)
    record_property(
        FIGURES,
        f"{scene.name}: {len(recorded.calls)} calls, {len(recorded.writes)} of them change something; "
        f"{tally.points} of {len(points(recorded, 0))} points, {tally.runs} runs, {tally.kills} killed, rows lost "
        f"{tally.lost}, doubled {tally.doubled}, files left over {tally.orphans}; the other reader: {watch.reads} "
        f"reads, {watch.again} of them again, not whole {len(watch.violations)}",
    )
    assert tally.wrong == []
    assert watch.violations == []
    assert watch.reads > 0
    assert tally.kills >= tally.points * 0.9


# --- the judges can find something -------------------------------------------------------------------------------


@pytest.fixture
def judged(world: World, crew: Workers, tmp_path: Path, request: pytest.FixtureRequest) -> Subject:
    """A table in step, for the judges to be tried on."""
    spec = world.orders(f"tried{abs(hash(request.node.name)) % 10000}", rows=order_rows(20, 2))
    assert crew.run(job_of(world, spec, tmp_path / "dagster")).ok
    return Subject(world, spec, valid_status)


def test_the_judge_sees_a_row_that_is_lost_doubled_or_strange(judged: Subject) -> None:
    assert judge(judged).clean
    table = f"public.{judged.spec.warehouse_name}"
    judged.world.query(f"DELETE FROM {table} WHERE order_id = 1")
    judged.world.query(f"INSERT INTO {table} SELECT * FROM {table} WHERE order_id = 2")
    judged.world.query(f"INSERT INTO {table} VALUES (999, '2024-01-01', 1, 'CLOSED')")
    found = judge(judged)
    assert (found.lost, found.doubled, found.strange) == (1, 1, 1)
    assert any("ledger" in problem for problem in found.problems)


def test_the_watch_sees_half_a_batch(judged: Subject) -> None:
    world, spec, whole = judged.world, judged.spec, judged.wanted()
    with Watch(judged, whole, whole).on() as calm:
        while calm.reads < 60:
            pass
    assert calm.violations == []
    file = next(key for key in world.objects(f"{spec.table}/staging/") if "2024-01-02" in key)
    world.client("s3").delete_object(Bucket=world.bucket, Key=file)
    world.query(f"DELETE FROM public.{spec.warehouse_name} WHERE order_last_updated > %s", ("2024-01-02 12:00:00",))
    watch = Watch(judged, whole, whole)
    with watch.on():
        while watch.reads < 60:
            pass
    seen = " ".join(watch.violations)
    assert "staging/2024-01-02.json names a file that is not there" in seen
    assert "staging 2024-01-02 points at nothing" in seen
    assert "warehouse 2024-01-02" in seen
