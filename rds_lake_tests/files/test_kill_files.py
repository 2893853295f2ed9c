"""Dropped files have exactly one effect, whatever happens to the process that handles them, at whichever of its calls.

The calls are recorded, not listed (`kill_harness`). At each of them a process is killed that notices and handles a set
of files; a second one comes when its lease is over. Then the table is what the files make of it, the ledger has each
file once, the records are true, every file lies in `processed/` or `failed/` byte by byte, and nothing is left open or
lying about.

Every run takes a spread of the calls; `pytest --kills 50` takes fifty of each case, `--kills 0` all of them.
"""

import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dropping import Drops
from figures import FIGURES
from kill_harness import Job, Workers
from rooms import Rooms
from test_file_events import bridged

from rds_lake.audit_log.record import Record
from rds_lake.errors import TransientError
from rds_lake.files import machine
from rds_lake.files.keeper import KEPT, Keeper
from rds_lake.files.version import FileVersion
from rds_lake.files.work import ATTEMPTS, Work

pytestmark = pytest.mark.stack

LEASE = 1.5
"""Seconds that a claim is good for: a killed process is waited for so long, and a living one has a few heartbeats."""

PASSES = 3
"""Passes after a kill that may be needed. One is enough, unless the first of two versions under one key was noticed by
its event only, and the process was killed with the message: then it comes to light when the second one is moved."""

COPY_MANIFESTS = "staging/_loads/"
"""Of loads of several files; they stay, because what Redshift tells of its loads names them."""

CHANGING = ("s3.Put", "s3.Copy", "s3.Delete", "dynamodb.Trans", "dynamodb.Upd", "sqs.Delete", "warehouse INS", "COMMIT")

NEARBY = 8
"""Calls, one behind the other, of which one is found at which a process can be stopped: they vary by a few."""

Row = tuple[Any, ...]


# --- sets of files ---------------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What has to become of a file.

    Attributes:
        statuses: how it may end, each with the rows that are loaded then.
        discarded: its bad rows.
        body: its content.
        in_ledger: whether the ledger has it.
    """

    statuses: dict[str, int | None]
    discarded: int | None
    body: str
    in_ledger: bool = True


@dataclass
class Scene:
    """Files that wait, and what they have to come to."""

    drops: Drops
    table: str = ""
    queue: str = ""
    expected: dict[str, Expected] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def drop(
        self, name: str, body: str, statuses: dict[str, int | None], *, discarded: int | None = 0, action: str = ""
    ) -> FileVersion:
        """Drop a file; its event comes, unless it is one of those that are never announced."""
        drops = self.drops
        version = drops.drop(action, self.table, name, body) if action else drops.source(name, body)
        in_ledger = "completed" in statuses
        self.expected[version.file_id] = Expected(statuses, discarded, body, in_ledger)
        if not name.startswith("silent"):
            self.events.append(bridged(version))
        return version

    def ready(self) -> None:
        """Put the events into the queue, some of them twice."""
        sqs = self.drops.client("sqs")
        self.queue = f"q_{secrets.token_hex(4)}"
        url = sqs.create_queue(QueueName=self.queue)["QueueUrl"]
        for body in [*self.events, *self.events[:2]]:
            sqs.send_message(QueueUrl=url, MessageBody=body)

    def job(self, **more: Any) -> Job:
        """A process that notices and handles what waits."""
        quick = {"rds_lake.files.events:WAIT_SECONDS": 0, "rds_lake.files.events:HIDDEN_SECONDS": 1}
        spec = self.drops.spec.model_dump(mode="json", by_alias=True)
        kind = "zone" if self.drops.is_zone else "feed"
        return Job(self.drops.environ, spec, receiver=kind, queue=self.queue, patch=quick, **{"lease": LEASE, **more})

    def wait_for_leases(self) -> None:
        """Wait until nobody's lease holds a file any more."""
        ends = [record.lease_until for record in self.drops.log.open_files(self.drops.spec.name)]
        until = max((end for end in ends if end), default=datetime.now(UTC))
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds() + 0.02))


Step = Callable[[Scene], object]
Steps = tuple[Callable[[Rooms], Scene], list[Step]]

ZONE_ROWS = [(number, f"n{number}") for number in (11, 12, 13, 21, 22, 23, 24)]


def csv(rows: Sequence[Row], *more: str) -> str:
    return "\n".join(["id,name", *(",".join(map(str, row)) for row in rows), *more]) + "\n"


def _schema(scene: Scene, **more: Any) -> None:
    version = scene.drops.schema(scene.table, "id bigint", "name varchar(20)", **more)
    body = scene.drops.body(version.key).decode()
    scene.expected[version.file_id] = Expected({"completed": 0}, 0, body, in_ledger=False)
    scene.events.append(bridged(version))


def _two_at_the_end(scene: Scene) -> None:
    late = csv(ZONE_ROWS[3:], "bad,row")
    scene.drop("silent late.csv", late, {"completed": 4}, discarded=1, action="append")
    scene.drop("broken.csv", "id,wrong\n99,x\n", {"rejected": 0}, discarded=None, action="append")


def zone() -> Steps:
    """A schema, an append that a truncate makes vain, an append with a bad row, and a file that is refused."""
    vain = csv([(1, "n1"), (2, "n2")])
    return (
        lambda rooms: Scene(Drops.zone(rooms.environ, discard_limit=0.5), "t", rows=ZONE_ROWS),
        [
            _schema,
            lambda scene: scene.drop("early.csv", vain, {"rejected": 0, "completed": 2}, action="append"),
            lambda scene: scene.drop("whole.csv", csv(ZONE_ROWS[:3]), {"completed": 3}, action="truncate"),
            _two_at_the_end,
        ],
    )


def versions() -> Steps:
    """A bucket with versions and a table with a key: two versions under one key of S3, and a file that is refused."""
    rows = [(1, "one"), (2, "two"), (3, "two"), (4, "three")]
    return (
        lambda rooms: Scene(Drops.zone(rooms.environ, versioned=True), "t", rows=rows),
        [
            lambda scene: _schema(scene, keys=["id"]),
            lambda scene: scene.drop("a.csv", csv([(1, "one"), (2, "one")]), {"completed": 2}, action="append"),
            lambda scene: scene.drop("a.csv", csv([(2, "two"), (3, "two")]), {"completed": 2}, action="append"),
            lambda scene: scene.drop("silent b.csv", csv([(4, "three")]), {"completed": 1}, action="append"),
            lambda scene: scene.drop("c.csv", "id,wrong\n9,x\n", {"rejected": 0}, discarded=None, action="append"),
        ],
    )


def feed() -> Steps:
    """Two files with the same keys, the second with a bad row, and a file that is refused."""
    columns = [{"name": "id", "type": "bigint"}, {"name": "name", "type": "varchar(20)"}]
    clean = [{"column": "name", "when": "missing", "value": "N/A"}]
    spec: dict[str, Any] = {"columns": columns, "key": ["id"], "clean": clean, "discard_limit": 0.5}
    old, new = csv([(1, "old"), (2, "old"), (3, "old")]), csv([(2, "new"), (3, ""), (4, "new")], "bad,row")
    return (
        lambda rooms: Scene(
            Drops.feed(rooms.environ, "things", **spec), rows=[(1, "old"), (2, "new"), (3, "N/A"), (4, "new")]
        ),
        [
            lambda scene: scene.drop("silent old.csv", old, {"completed": 3}),
            lambda scene: scene.drop("new.csv", new, {"completed": 3}, discarded=1),
            lambda scene: scene.drop("broken.csv", "id,wrong\n9,x\n", {"rejected": 0}, discarded=None),
        ],
    )


def scenes(rooms: Rooms, steps: Steps, count: int) -> list[Scene]:
    """Sets of files, all alike, each in a bucket of its own; the files of one step land before those of the next."""
    make, then = steps
    made = [make(rooms) for _ in range(count)]
    for number, step in enumerate(then):
        if number:
            Drops.later()
        for scene in made:
            step(scene)
    for scene in made:
        scene.ready()
    return made


# --- judging ---------------------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What is there after all."""

    lost: int
    doubled: int
    left: list[str]
    problems: list[str]


def judge(scene: Scene) -> Judged:
    """Compare table, ledger, records and bucket with what the files have to come to, read without rds_lake."""
    drops, problems = scene.drops, []
    found, wanted = Counter(drops.rows(scene.table, "id, name")), Counter(scene.rows)
    if found != wanted:
        problems.append(f"rows {found} instead of {wanted}")
    ledger = Counter(row["file_id"] for row in drops.ledger(scene.table))
    told = Counter(file_id for file_id, each in scene.expected.items() if each.in_ledger)
    if ledger != told:
        problems.append(f"ledger {ledger} instead of {told}")
    records = {record.file_id: record for record in drops.all_records()}
    if records.keys() != scene.expected.keys() or len(drops.all_records()) != len(records):
        problems.append(f"records of {sorted(records)} instead of {sorted(scene.expected)}")
    for file_id, each in scene.expected.items():
        problems += _wrong(drops, records.get(file_id), each)
    if drops.log.open_files(drops.spec.name) or drops.open_files():
        problems.append(f"open: {drops.open_files()}")
    if drops.waiting() or _versions(drops):
        problems.append(f"not moved: {drops.waiting()} {_versions(drops)}")
    keys = _keys_of(scene, records)
    left = sorted(key for key in set(drops.keys("")) - keys if not key.startswith(COPY_MANIFESTS))
    if lacking := sorted(keys - set(drops.keys(""))):
        problems.append(f"lacking: {lacking}")
    if not problems:
        try:
            drops.check_accounts(scene.table, keyed=True)
        except AssertionError as error:
            problems.append(str(error))
    return Judged((wanted - found).total(), (found - wanted).total(), left, problems)


def _versions(drops: Drops) -> list[str]:
    """Versions and delete markers where files are dropped, below one another."""
    told = [drops.s3.list_object_versions(Bucket=drops.bucket, Prefix=prefix) for prefix in drops.receiver.prefixes()]
    return [item["Key"] for page in told for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, ())]


def _wrong(drops: Drops, record: Record | None, each: Expected) -> Iterator[str]:
    if record is None:
        return
    if record.status not in each.statuses or record.rows_loaded != each.statuses[record.status]:
        yield f"{record.file_name} is {record.status} with {record.rows_loaded} rows: {record.error}"
    if record.rows_discarded != each.discarded:
        yield f"{record.file_name} has {record.rows_discarded} bad rows"
    if record.moved_to is None or drops.body(record.moved_to) != each.body.encode():
        yield f"{record.file_name} does not lie as it was at {record.moved_to}"


def _keys_of(scene: Scene, records: dict[str, Record]) -> set[str]:
    """The keys that a run without any trouble would leave."""
    drops, keys = scene.drops, set()
    for file_id, record in records.items():
        keys |= {address.split("/", 3)[3] for address in (record.moved_to, record.report) if address}
        if file_id not in scene.expected:
            continue
        each, name = scene.expected[file_id], f"{record.landed_at:%Y%m%dT%H%M%S}-{file_id[:12]}"
        folder = f"{drops.database}/{record.action}/{scene.table}/{name}/" if drops.is_zone else f"{name}/"
        root, valid = ("", "staging") if drops.is_zone else ("things/", "cleaned")
        if each.in_ledger:
            keys |= {f"{root}{valid}/{folder}{part}" for part in ("manifest.json", "part-00000.parquet")}
        if each.discarded:
            keys.add(f"{root}discarded/{folder}discarded.parquet")
        if record.action == "schema":
            keys.add(f"schemas/{drops.database}/{scene.table}.json")
    return keys


# --- killing ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the kills of one case came to."""

    points: int = 0
    kills: int = 0
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    excused: int = 0
    passes: Counter[int] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, place: str, found: Judged) -> None:
        self.lost, self.doubled = self.lost + found.lost, self.doubled + found.doubled
        self.left.update("/".join((key.split("/")[0], key.split("/")[-1])) for key in found.left)
        self.wrong += [f"{place}: {problem}" for problem in found.problems]


def points(calls: Sequence[str], wanted: int) -> list[tuple[int, str]]:
    """Where to kill: before each call and after its answer; when few are wanted, a spread of what changes something."""
    every = [(number, side) for number in range(1, len(calls) + 1) for side in ("before", "after")]
    if not wanted or wanted >= len(every):
        return every
    writing = [point for point in every if any(part in calls[point[0] - 1] for part in CHANGING)]
    reached = writing[: int(len(writing) * 0.9) + 1]  # how many calls there are varies by a few
    return [reached[int((place + 0.5) * len(reached) / wanted)] for place in range(wanted)]


def heal(crew: Workers, scene: Scene, tally: Tally, place: str) -> None:
    """Let others come until nothing is open, then judge, and see that one more has nothing to do."""
    for number in range(1, PASSES + 1):
        scene.wait_for_leases()
        healed = crew.run(scene.job())
        tally.runs += 1
        if not healed.ok:
            tally.wrong.append(f"{place}: pass {number} failed: {healed.said}")
        if not scene.drops.open_files() and not scene.drops.waiting():
            tally.passes[number] += 1
            break
    else:
        tally.wrong.append(f"{place}: {PASSES} passes left something")
    tally.add(place, judge(scene))
    before = scene.drops.all_records()
    idle = crew.run(scene.job())
    tally.runs += 1
    if not idle.ok or (idle.result or {})["claimed"] or scene.drops.all_records() != before:
        tally.wrong.append(f"{place}: one more still had work: {idle.said} {idle.result}")


def supply(rooms: Rooms, steps: Steps, wanted: int) -> Iterator[Scene]:
    """Sets of files without end, made as many at once as may be wanted."""
    while True:
        yield from scenes(rooms, steps, wanted + 1 if wanted else 50)


CASES = [zone, versions, feed]


def figures(case: str, calls: Sequence[str], every: int, tally: Tally, what: str) -> str:
    passes = ", ".join(f"{count} times {number}" for number, count in sorted(tally.passes.items()))
    return (
        f"files of a {case}: {len(calls)} calls; {tally.points} of {every} points, {tally.runs} runs, {tally.kills} "
        f"{what}; passes: {passes}; rows lost {tally.lost}, doubled {tally.doubled}; left over "
        f"{dict(tally.left) or 'nothing'}{f'; same bytes deleted: {tally.excused}' if tally.excused else ''}"
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_files_of_a_process_that_is_killed_at_any_call_are_made_good_by_the_next(
    rooms: Rooms,
    crew: Workers,
    case: Callable[[], Steps],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    wanted = request.config.getoption("--kills")
    waiting = supply(rooms, case(), wanted)
    first = next(waiting)
    recorded = crew.run(first.job(lease=60))  # without a heartbeat, which comes at any place
    assert recorded.ok, recorded.said
    assert judge(first) == Judged(0, 0, [], [])
    tally = Tally()
    for number, side in points(recorded.calls, wanted):
        scene = next(waiting)
        killed = crew.run(scene.job(kill=number, side=side))
        tally.points, tally.kills, tally.runs = tally.points + 1, tally.kills + killed.killed, tally.runs + 1
        place = f"{side} call {number} ({killed.calls[-1] if killed.calls else 'the first'})"
        if not killed.killed and number < len(recorded.calls) * 0.9:  # how many there are varies by a few
            tally.wrong.append(f"{place}: was not reached")
        heal(crew, scene, tally, place)
    every = len(points(recorded.calls, 0))
    record_property(FIGURES, figures(case.__name__, recorded.calls, every, tally, "killed"))
    assert tally.wrong == []
    assert tally.left == {}
    assert tally.kills >= tally.points * 0.9


# --- stopping --------------------------------------------------------------------------------------------------------


def holding(calls: Sequence[str]) -> list[int]:
    """The calls before which a process may be stopped; inside a transaction it would hold the warehouse's lock."""
    return [number for number in range(1, len(calls) + 1) if not in_transaction(calls[:number])]


def in_transaction(calls: Sequence[str]) -> bool:
    """Whether the last call is one inside a transaction, its COMMIT included."""
    began = max((at for at, name in enumerate(calls[:-1]) if name == "warehouse BEGIN"), default=-1)
    return began >= 0 and "warehouse COMMIT" not in calls[began:-1]


@dataclass
class Stopped:
    """A process that stands still.

    Attributes:
        worker: the process.
        begun: how many calls it has begun, 0 if it does not stand still; other threads went on a little.
        answered: the numbers of those that were answered.
    """

    worker: Any
    begun: int = 0
    answered: frozenset[str] = frozenset()


def stop(crew: Workers, scene: Scene, number: int) -> Stopped:
    """A process that stands still before a call, unless calls are others than in the record."""
    worker = crew.start(scene.job(hold_at=number))
    if not worker.held() or in_transaction(worker.lines("calls")):
        worker.go()
        return Stopped(worker)
    os.kill(worker.pid, signal.SIGSTOP)
    stopped = Stopped(worker, len(worker.lines("calls")), frozenset(worker.lines("answered")))
    worker.go()
    return stopped


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", [zone, feed], ids=lambda case: case.__name__)
def test_a_process_that_stands_still_beyond_its_lease_has_no_second_effect(
    rooms: Rooms,
    crew: Workers,
    case: Callable[[], Steps],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    wanted = request.config.getoption("--kills")
    waiting = supply(rooms, case(), wanted)
    recorded = crew.run(next(waiting).job(lease=60))
    assert recorded.ok, recorded.said
    held = holding(recorded.calls)
    chosen = [held[int((at + 0.5) * len(held) / wanted)] for at in range(wanted)] if wanted else held
    tally = Tally()
    for number in chosen:
        for at in range(number, number + NEARBY):
            scene = next(waiting)
            stopped = stop(crew, scene, at)
            tally.runs += 1
            if stopped.begun:
                break
            stopped.worker.wait()
        tally.points, tally.kills = tally.points + 1, tally.kills + bool(stopped.begun)
        place = f"at call {at}"
        if not stopped.begun:
            continue
        try:
            heal(crew, scene, tally, place)
            new = drop_again(scene)
        finally:
            with suppress(ProcessLookupError):
                os.kill(stopped.worker.pid, signal.SIGCONT)
        done = stopped.worker.wait()
        place = f"{place} ({done.calls[at - 1] if at <= len(done.calls) else '-'})"
        if not done.ok:
            tally.wrong.append(f"{place}: {done.said}")
        lying = {scene.drops.version(key).file_id for key in scene.drops.waiting()}
        known = {record.file_id for record in scene.drops.all_records()}  # it may have noticed and handled them
        for each in (each for each in new if each.file_id not in lying | known):
            if each.name != "broken.csv" or not was_deleting(done.calls, stopped, each.key):
                tally.wrong.append(f"{place}: {each.key} is gone")
            tally.excused += 1
            del scene.expected[each.file_id]
        heal(crew, scene, tally, f"{place}, then")
    record_property(FIGURES, figures(case.__name__, recorded.calls, len(held), tally, "stopped"))
    assert tally.wrong == []
    assert tally.kills >= tally.points * 0.8
    # It may have copied anew what was dropped under the same key with the same bytes; nobody deletes that any more.
    assert {name.rsplit("/")[-1] for name in tally.left} <= {KEPT}


def was_deleting(calls: Sequence[str], stopped: Stopped, key: str) -> bool:
    """Whether a process stood still between its last look at an object and the answer to its request to delete it.

    S3 deletes on the condition of an ETag, not of a time: then nothing tells the same bytes, dropped again, from these.
    """
    asked = [at for at, name in enumerate(calls, 1) if name == f"s3.DeleteObject {key}"]
    deleted = next((at for at in asked if str(at) not in stopped.answered), 0)
    looked = max((at for at, name in enumerate(calls[:deleted], 1) if name == f"s3.HeadObject {key}"), default=0)
    return 0 < looked <= stopped.begun


def drop_again(scene: Scene) -> list[FileVersion]:
    """Drop other files under the keys of those that have been handled: one with other content, one with the same."""
    Drops.later()
    rows = [(71, "new"), (72, "new")]
    action = "append" if scene.drops.is_zone else ""
    new = scene.drop("silent again.csv", csv(rows), {"completed": 2}, action=action)
    broken = next(each.body for each in scene.expected.values() if "wrong" in each.body)
    same = scene.drop("broken.csv", broken, {"rejected": 0}, discarded=None, action=action)
    name = "silent late.csv" if scene.drops.is_zone else "silent old.csv"
    late = scene.drop(name, csv([(81, "late")]), {"completed": 1}, action=action)
    scene.rows = sorted([*scene.rows, *rows, (81, "late")])
    return [new, same, late]


# --- one process -----------------------------------------------------------------------------------------------------


class _DiedError(BaseException):
    """Stands for the death of a process, in a test that goes on."""


def dying_of(drops: Drops, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever works on a file die of it."""
    work = drops.receiver.work

    def deadly(works: Sequence[Work], kept: Keeper) -> Iterator[Any]:
        if any(each.version.name == name for each in works):
            raise _DiedError
        return work(works, kept)

    monkeypatch.setattr(drops.receiver, "work", deadly)


def test_a_file_that_takes_its_worker_down_each_time_is_given_up_and_takes_no_others_with_it(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    drops.schema("t", "id bigint")
    drops.run()
    good = [drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n") for number in range(5)]
    deadly = drops.drop("append", "t", "deadly.csv", "id\n99\n")
    dying_of(drops, "deadly.csv", monkeypatch)
    deaths = 0
    for number in range(12):
        with suppress(_DiedError):
            deaths += 1
            drops.run(f"run-{number}")
            deaths -= 1
    assert deaths == ATTEMPTS
    assert drops.rows("t", "id") == [(number,) for number in range(5)]
    assert {drops.record(version).status for version in good} == {"completed"}
    record = drops.record(deadly)
    assert record.status == "failed"
    told = "5 attempts ended without a result, each with the death of its process or a bug."
    assert record.error == f"{told} Look into the logs of run run-{deaths - 1}."
    assert drops.original(record) == b"id\n99\n"
    drops.check_accounts("t")


def test_a_lease_is_kept_for_as_long_as_the_work_takes(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=0.6))
    drops.schema("t", "id bigint")
    drops.run()
    file = drops.drop("append", "t", "a.csv", "id\n1\n")
    claimed = drops.claim(file)
    stolen: list[Record] = []
    work = drops.receiver.work

    def slowly(works: Sequence[Work], kept: Keeper) -> Iterator[Any]:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            stolen.extend(Drops(drops.environ, drops.spec).sweep())
            time.sleep(0.05)
        return work(works, kept)

    monkeypatch.setattr(drops.receiver, "work", slowly)
    [(record, _)] = drops.work(claimed)
    assert stolen == []
    assert (record.status, record.attempts) == ("completed", 1)


def test_a_schema_file_that_comes_last_in_a_run_is_taken_with_the_first_files_that_need_it(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 2)
    monkeypatch.setattr(machine, "PATIENCE", 1)
    drops = Drops.zone(rooms.environ)
    for number in range(5):
        drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n")
    drops.later()
    drops.schema("t", "id bigint")
    handled = drops.run()
    assert Counter(record.status for record, _ in handled) == {"completed": 6}
    assert drops.rows("t", "id") == [(number,) for number in range(5)]
    drops.check_accounts("t")


def test_a_worker_waits_for_a_schema_file_that_another_one_is_taking(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    schema = drops.schema("t", "id bigint")
    file = drops.drop("append", "t", "a.csv", "id\n1\n")
    other = Drops(drops.environ, drops.spec)
    taken = other.claim(schema)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(drops.handle, file)
        time.sleep(0.7)
        assert not waiting.done()
        other.work(taken)
        [(record, _)] = waiting.result(20)
    assert (record.status, record.rows_loaded) == ("completed", 1)
    drops.check_accounts("t")


def test_a_worker_does_not_wait_forever_for_a_schema_file_that_a_dead_one_has(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 0.5)
    drops = Drops.zone(rooms.environ)
    schema = drops.schema("t", "id bigint")
    file = drops.drop("append", "t", "a.csv", "id\n1\n")
    Drops(drops.environ, drops.spec, lease=timedelta(seconds=2)).claim(schema)
    impatient = machine.Machine(drops.receiver, drops.log, "run-1", wait=timedelta(0))
    with pytest.raises(TransientError, match="Another worker still takes files"):
        list(impatient.run(drops.claim(file)))
    record = drops.record(file)
    assert (record.status, record.error) == (
        "processing",
        f"Another worker still takes files that {drops.database} needs. Try again later.",
    )
    time.sleep(2)
    drops.run()
    assert drops.record(file).error is None
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


def test_a_step_that_is_tried_again_has_its_schema_files_too(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 1)
    drops = Drops.zone(rooms.environ)
    schema = drops.schema("t", "id bigint")
    claimed = drops.claim(drops.drop("append", "t", "a.csv", "id\n1\n"))
    away = Drops({**drops.environ, "RDS_LAKE_WAREHOUSE_URL": "redshift://a:b@127.0.0.1:9/c"}, drops.spec)
    with pytest.raises(TransientError):
        away.work(claimed)
    assert {record.file_id for record in drops.all_records()} == {schema.file_id, claimed[0].file_id}
    handled = drops.work(claimed)  # as Dagster tries it again: with the same claims, seconds later
    assert Counter(record.status for record, _ in handled) == {"completed": 2}
    assert {record.error for record in drops.all_records()} == {None}
    drops.check_accounts("t")


@pytest.mark.parametrize("how", ["died", "gave up for a while"])
def test_what_was_loaded_stays_loaded_when_the_file_is_replaced_before_it_could_be_recorded(
    rooms: Rooms, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    drops.schema("t", "id bigint")
    drops.run()
    first = drops.drop("append", "t", "a.csv", "id\n1\n")
    claimed = drops.claim(first)
    error = _DiedError() if how == "died" else TransientError("The warehouse is away.", "Try again.")
    work = drops.receiver.work

    def in_vain(works: Sequence[Work], kept: Keeper) -> Iterator[Any]:
        list(work(works, kept))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(drops.receiver, "work", in_vain)
        with pytest.raises(type(error)):
            drops.work(claimed)
    assert drops.rows("t", "id") == [(1,)]
    drops.later()
    second = drops.drop("append", "t", "a.csv", "id\n2\n")
    assert len(drops.work(claimed)) == 1  # the run that is started again has the same claims
    assert (drops.record(first).status, drops.record(first).rows_loaded) == ("completed", 1)
    assert drops.original(drops.record(first)) == b"id\n1\n"
    assert drops.waiting() == [second.key]
    drops.run()
    assert drops.rows("t", "id") == [(1,), (2,)]
    drops.check_accounts("t")


@pytest.mark.parametrize("versioned", [False, True])
def test_what_was_dropped_again_with_the_same_bytes_is_not_deleted_for_the_file_before(
    rooms: Rooms, versioned: bool
) -> None:
    drops = Drops.zone(rooms.environ, versioned=versioned)
    first = drops.drop("append", "t", "a.csv", "id\n1\n")
    drops.later()
    second = drops.drop("append", "t", "a.csv", "id\n1\n")
    assert first.etag == second.etag
    drops.store.delete(first)
    assert drops.version(second.key) == second
