"""Two runs of one table at the same moment: two syncs, a sync beside a run from the UI, two landings of a partition.

One process is held at one of its calls to the outside while the other runs, or both are held at the same call and let
go together. Whatever the order: both end, what was refused says so, the table is in step after the next sync, and a
reader that polls all the while sees whole batches.
"""

import json
import re
import time
from dataclasses import replace

import pytest
from kill_harness import PATIENCE, PAUSE, Done, Job, Worker, Workers
from pipeline import STAGES, World
from scenes import Scene, increment
from witness import Saved, Watch, judge

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(7200)]

SPREAD = 2
"""Calls of one sync at which it is held while another one runs, in an ordinary run."""

CONFLICT = re.compile(
    r"was changed by another run|another run staged a newer batch|another run moved or replaced it|is not accounted for"
)
"""What a run may say that another one got in the way of."""


@pytest.fixture(scope="module")
def scene(world: World, crew: Workers, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return increment(world, crew, tmp_path_factory.mktemp("dagster") / "home")


@pytest.fixture(scope="module")
def saved(scene: Scene) -> Saved:
    return Saved(scene.subject)


def through(crew: Workers, held: Worker, other: Job) -> tuple[Done, Done]:
    """Run another job while one is held; let the held one go when the other has ended, or waits for its lock."""
    second = crew.start(other)
    locking = any(name.startswith("warehouse LOCK") for name in held.lines("calls"))
    deadline = time.monotonic() + PATIENCE
    while not second.ended and not (locking and any("warehouse LOCK" in name for name in second.lines("calls"))):
        assert time.monotonic() < deadline, "the other run waits for one that stands still"
        time.sleep(PAUSE)
    held.go()
    return held.wait(), second.wait()


def assert_healed(crew: Workers, scene: Scene, place: str, *ended: Done) -> None:
    """Both ended well, or in words; what they left is in step at once or after the next sync."""
    for done in ended:
        assert done.ok or CONFLICT.search(done.said), f"{place}: {done.said}"
    if ended and all(done.ok for done in ended):
        assert judge(scene.subject).problems == [], place
    healed = crew.run(scene.job)
    assert healed.ok, f"{place}: {healed.said}"
    assert judge(scene.subject).problems == [], place
    idle = crew.run(scene.job)
    assert (idle.ok, idle.writes) == (True, []), place


def ui_run(scene: Scene) -> Job:
    """A run of all assets over all partitions, as the UI would start it."""
    return replace(scene.job, stages=STAGES, partitions=("2024-01-01", "2024-01-04"))


@pytest.mark.parametrize("kind", ["sync", "run of the UI"])
def test_a_sync_while_another_run_of_the_table_stands_at_any_call(
    world: World,
    crew: Workers,
    scene: Scene,
    saved: Saved,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    first = scene.job if kind == "sync" else ui_run(scene)
    watch = Watch(scene.subject, scene.before, scene.subject.wanted())
    with watch.on():
        with watch.paused():
            saved.restore()
        recorded = crew.run(first)
        assert recorded.ok, recorded.said
        writing = [number for number, name in enumerate(recorded.calls, 1) if name in set(recorded.writes)]
        chosen = writing if request.config.getoption("--kills") == 0 else writing[3 :: len(writing) // SPREAD][:SPREAD]
        for number in chosen:
            with watch.paused():
                saved.restore()
            held = crew.start(replace(first, hold_at=number))
            assert held.held()
            place = f"held at {number}, {held.lines('calls')[-1]}"
            ended = through(crew, held, scene.job)
            assert_healed(crew, scene, place, *ended)
    assert watch.violations == []
    assert watch.reads > 0


MANIFESTS = tuple(f"s3.PutObject more/_manifests/{stage}/2024-01-03" for stage in ("landing", "staging", "archived"))


@pytest.mark.parametrize("commit", [*MANIFESTS, "warehouse LOCK"], ids=lambda name: name.split()[1].replace("/", " "))
def test_two_syncs_that_commit_the_same_at_the_same_moment(
    crew: Workers, scene: Scene, saved: Saved, commit: str
) -> None:
    saved.restore()
    with Watch(scene.subject, scene.before, scene.subject.wanted()).on() as watch:
        both = [crew.start(replace(scene.job, hold=re.escape(commit))) for _ in range(2)]
        assert True in [each.held() for each in both]
        for each in both:
            each.go()
        ended = [each.wait() for each in both]
        assert_healed(crew, scene, commit, *ended)
    assert watch.violations == []
    refused = [name for done in ended for name in done.refused if name.startswith(commit)]
    assert refused or commit not in MANIFESTS, "the second is told that it is the second"


def test_of_two_landings_of_a_partition_at_the_same_moment_one_commits_and_the_other_keeps_its_batch(
    world: World, crew: Workers, scene: Scene, saved: Saved
) -> None:
    saved.restore()
    place = "more/_manifests/landing/2024-01-03.json"
    job = replace(scene.job, stages=("landing",), partitions=("2024-01-03", "2024-01-03"))
    both = [crew.start(replace(job, hold=f"PutObject {place}")) for _ in range(2)]
    assert [each.held() for each in both] == [True, True]
    both[0].go()
    first = both[0].wait()
    committed = world.get(place)
    both[1].go()
    second = both[1].wait()
    assert (first.ok, second.ok) == (True, True), second.said
    assert [done.result["retried"] for done in (first, second) if done.result] == [0, 1]
    assert len([name for name in second.writes if place in name]) == 1, "refused, and a later fence alone is no news"
    assert [json.loads(text)["batch"] for text in (committed, world.get(place))] == [json.loads(committed)["batch"]] * 2
    assert_healed(crew, scene, "landed twice")
