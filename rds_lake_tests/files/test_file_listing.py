"""The listing: finds what no event announced, exactly once, and asks nothing about what is known to be finished.

The pure part lists a bucket that is a dictionary, in pages as S3 hands them out; a small part lists a real one.
"""

import random
import secrets
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dropping import Drops
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.files import listing
from rds_lake.files.events import EventQueue, take_events
from rds_lake.files.listing import CHUNK, CHUNK_MAX, Cursor, Swept, sweep
from rds_lake.files.store import Listed
from rds_lake.files.version import FileVersion, Place

LANDED = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
LEASE = timedelta(minutes=5)


# --- a bucket and a log that are dictionaries ------------------------------------------------------------------------


class FakeStore:
    """A bucket without versions; `page` is called as the real one's."""

    bucket = "drop"

    def __init__(self, size: Callable[[], int] = lambda: listing.PAGE) -> None:
        self.objects: dict[str, FileVersion] = {}
        self.order: list[str] = []
        self._size = size
        self._writes = 0

    def put(self, key: str) -> FileVersion:
        self._writes += 1
        size = 0 if key.endswith("/") else 1  # what a console makes for a folder
        version = FileVersion(self.bucket, key, f"{self._writes:032x}", size, LANDED + timedelta(seconds=self._writes))
        if key not in self.objects:
            insort(self.order, key)
        self.objects[key] = version
        return version

    def remove(self, key: str) -> None:
        del self.objects[key]
        self.order.remove(key)

    def page(self, prefix: str, after: str = "") -> Listed:
        first = max(bisect_right(self.order, after), bisect_left(self.order, prefix))
        end = bisect_left(self.order, f"{prefix}{chr(0x10FFFF)}")
        shown = self.order[first : min(end, first + self._size())]
        return Listed(tuple(self.objects[key] for key in shown), first + len(shown) < end)

    def has_versions(self) -> bool:
        return False


class FakeReceiver:
    """Takes every file below its prefixes."""

    name = "sales"

    def __init__(self, store: FakeStore, prefixes: Sequence[str] = ("sales/",)) -> None:
        self.store = store
        self._prefixes = prefixes

    def prefixes(self) -> Sequence[str]:
        return self._prefixes

    def place(self, key: str) -> Place | None:
        return Place("sales.customers", "append", "", f"{key.rpartition('/')[0]}/")


class FakeLog:
    """The audit log's promises, without DynamoDB."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.known: dict[str, Record] = {}
        self.asked: list[str] = []
        self.claims: Counter[str] = Counter()

    def find_all(self, file_ids: Sequence[str]) -> dict[str, Record]:
        self.asked += file_ids
        found = {file_id: self.records.get(file_id) or self.known.get(file_id) for file_id in file_ids}
        return {file_id: record for file_id, record in found.items() if record}

    def open_files(self, receiver: str) -> list[Record]:
        return [held for held in self.records.values() if held.receiver == receiver and not held.is_finished]

    def claim(self, record: Record) -> Record | None:
        if record.file_id in self.records or record.file_id in self.known:
            return None
        return self._hold(record)

    def take_over(self, held: Record) -> Record | None:
        return None if held.lease_until and held.lease_until > datetime.now(UTC) else self._hold(held)

    def _hold(self, record: Record) -> Record:
        self.claims[record.file_id] += 1
        mine = replace(record, owner=secrets.token_hex(4), lease_until=datetime.now(UTC) + LEASE)
        self.records[record.file_id] = mine
        return mine

    def finish_all(self, but: Sequence[str] = ()) -> None:
        for file_id, record in self.records.items():
            if file_id not in but:
                self.records[file_id] = replace(record, status="completed")


class Bucket:
    """A fake bucket, its receiver and its log."""

    def __init__(self, count: int = 0, **store: Any) -> None:
        self.store = FakeStore(**store)
        self.receiver: Any = FakeReceiver(self.store)
        self.fake_log = FakeLog()
        self.log: Any = self.fake_log
        for number in range(count):
            self.store.put(f"sales/append/customers/{number:06d}.csv")

    def tick(self, cursor: Cursor, **more: Any) -> Swept:
        """One tick; the cursor goes through its text, as Dagster keeps it."""
        return sweep(self.receiver, self.log, Cursor.of(cursor.text), **more)

    def sweep(self, cursor: Cursor = Cursor(), **more: Any) -> tuple[list[Swept], Cursor]:  # noqa: B008 - it is frozen
        """Ticks until a sweep ends."""
        ticks = []
        while True:
            swept = self.tick(cursor, **more)
            ticks.append(swept)
            cursor = swept.cursor
            if swept.ended:
                return ticks, cursor

    def finished(self) -> Cursor:
        """The cursor after everything has been handled and swept."""
        done = Record("sales.customers", "x", "x.csv", "append", "completed", LANDED)
        self.fake_log.known = {version.file_id: done for version in self.store.objects.values()}
        ticks, cursor = self.sweep()
        assert sum(tick.asked for tick in ticks) == len(self.store.objects)
        return cursor


def ids(versions: Sequence[FileVersion | Record]) -> set[str]:
    return {version.file_id for version in versions}


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_sweep_claims_every_file_once() -> None:
    bucket = Bucket(3500)
    ticks, _ = bucket.sweep(pages=1)
    claimed = [record.file_id for tick in ticks for record in tick.claimed]
    assert sorted(claimed) == sorted(ids(list(bucket.store.objects.values())))
    assert len(ticks) > 3
    again, _ = bucket.sweep(pages=1)
    assert [record for tick in again for record in tick.claimed] == []


def test_no_tick_claims_much_more_than_it_may() -> None:
    bucket = Bucket(3500)
    ticks, _ = bucket.sweep(most=100)
    assert all(len(tick.claimed) <= 100 + CHUNK_MAX for tick in ticks)
    assert set(bucket.fake_log.claims.values()) == {1}
    assert len(bucket.fake_log.claims) == 3500


def test_a_tick_reads_no_more_pages_than_it_may() -> None:
    for pages in (1, 2, 3):
        ticks, _ = Bucket(5000).sweep(pages=pages, most=10**6)
        assert {tick.pages for tick in ticks[:-1]} == {pages}
    [one], _ = Bucket(5000).sweep(most=10**6)
    assert one.pages == 5


def test_what_is_no_file_is_neither_claimed_nor_asked_for_again() -> None:
    bucket = Bucket()
    for key in ("sales/", "sales/append/", "sales/append/customers/", "sales/append/customers/a.csv"):
        bucket.store.put(key)
    [tick], cursor = bucket.sweep()
    assert [record.file_name for record in tick.claimed] == ["a.csv"]
    bucket.fake_log.finish_all()
    _, cursor = bucket.sweep(cursor)
    [tick], _ = bucket.sweep(cursor)
    assert (tick.listed, tick.asked) == (4, 0)


def test_an_empty_bucket_is_swept_at_once() -> None:
    bucket = Bucket()
    [tick], cursor = bucket.sweep()
    assert (tick.listed, tick.asked, tick.claimed, tick.ended) == (0, 0, [], True)
    assert cursor == Cursor()


def test_every_prefix_is_swept_one_after_the_other() -> None:
    bucket = Bucket()
    bucket.receiver = FakeReceiver(bucket.store, ["a/", "b/", "c/"])
    for prefix in ("a", "b", "c", "d"):
        for number in range(1500):
            bucket.store.put(f"{prefix}/{number}.csv")
    ticks, cursor = bucket.sweep(pages=1)
    claimed = {record.key for tick in ticks for record in tick.claimed}
    assert claimed == {key for key in bucket.store.objects if not key.startswith("d/")}
    bucket.fake_log.finish_all()
    _, cursor = bucket.sweep(cursor, pages=1)
    ticks, _ = bucket.sweep(cursor, pages=1)
    assert sum(tick.asked for tick in ticks) == 0


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_missed_or_repeated_while_files_come_and_go_between_the_ticks(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(listing, "CHUNK", 40)
    monkeypatch.setattr(listing, "CHUNK_MAX", 100)
    bucket = Bucket(size=lambda: 100)
    names = chance.sample(range(10**4), 3000)  # some keys begin with others
    for number in names[:2000]:
        bucket.store.put(f"sales/append/t/{number}")
    later = [f"sales/append/t/{number}" for number in names[2000:]]
    cursor, sweeps = Cursor(), 0
    steady = set(bucket.store.objects)
    seen: dict[str, FileVersion] = dict(bucket.store.objects)
    asked_from = 0
    while sweeps < 4:
        swept = bucket.tick(cursor, pages=chance.randint(1, 3))
        cursor = swept.cursor
        if chance.random() < 0.3:
            bucket.fake_log.finish_all()
        if swept.ended:
            asked = Counter(bucket.fake_log.asked[asked_from:])
            claimed = set(bucket.fake_log.claims)
            assert {bucket.store.objects[key].file_id for key in steady} <= claimed, "it was there all the time"
            assert max(asked.values(), default=0) <= 1, "one sweep asks once for a version"
            sweeps, asked_from, steady = sweeps + 1, len(bucket.fake_log.asked), set(bucket.store.objects)
            continue
        for _ in range(chance.randrange(12)):
            key = chance.choice(bucket.store.order)
            what = chance.random()
            if what < 0.4 and later:
                key = later.pop()
                seen[f"{key} new"] = bucket.store.put(key)
            elif what < 0.7:
                bucket.store.remove(key)
                steady.discard(key)
            else:  # replaced by another version
                seen[f"{key} {chance.random()}"] = bucket.store.put(key)
                steady.discard(key)
    bucket.sweep(cursor)
    assert set(bucket.fake_log.claims) >= ids(list(bucket.store.objects.values()))
    assert set(bucket.fake_log.claims) <= ids(list(seen.values()))
    assert set(bucket.fake_log.claims.values()) == {1}


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_goes_on_whatever_the_size_of_the_pages(seed: int) -> None:
    chance = random.Random(seed)  # S3 may return fewer keys than it was asked for
    bucket = Bucket(4000, size=lambda: chance.randint(1, 1000))
    ticks, _ = bucket.sweep(pages=1)
    assert len(ticks) < 100
    assert len(bucket.fake_log.claims) == 4000


# --- what is finished costs nothing ----------------------------------------------------------------------------------


def test_what_is_finished_is_looked_up_once_and_not_again() -> None:
    bucket = Bucket(4000)
    cursor = bucket.finished()
    for pages in (1, 3, 20):
        ticks, cursor = bucket.sweep(cursor, pages=pages)
        assert sum(tick.asked for tick in ticks) == 0
        assert sum(tick.listed for tick in ticks) >= 4000
        assert "0 of them looked up" in ticks[-1].summary


@pytest.mark.parametrize("seed", range(3))
def test_a_changed_file_among_ten_thousand_finished_ones_costs_about_a_chunk(seed: int) -> None:
    chance = random.Random(seed)
    bucket = Bucket(10_000)
    cursor = bucket.finished()
    changes: list[Callable[[str], object]] = [
        bucket.store.put,
        bucket.store.remove,
        lambda key: bucket.store.put(f"{key}.new"),
    ]
    costs = []
    for change in changes:
        change(chance.choice(bucket.store.order))
        ticks, cursor = bucket.sweep(cursor)
        costs.append(sum(tick.asked for tick in ticks))
        bucket.fake_log.finish_all()
        _, cursor = bucket.sweep(cursor)
    # A chunk has at most CHUNK_MAX objects; a cut that is moved has moved again by the next place that its hash names.
    assert max(costs) <= 3 * CHUNK_MAX
    assert sum(costs) / len(costs) <= 3 * CHUNK
    ticks, _ = bucket.sweep(cursor)
    assert sum(tick.asked for tick in ticks) == 0


def test_a_chunk_with_an_unfinished_file_is_looked_up_again() -> None:
    bucket = Bucket(3000)
    cursor = bucket.finished()
    version = bucket.store.put(bucket.store.order[1700])
    costs = []
    for _ in range(3):
        ticks, cursor = bucket.sweep(cursor)
        costs.append(sum(tick.asked for tick in ticks))
    assert 0 < costs[0] == costs[1] == costs[2] <= 2 * CHUNK_MAX
    assert bucket.fake_log.claims[version.file_id] == 1
    bucket.fake_log.finish_all()
    for wanted in (costs[0], 0):
        ticks, cursor = bucket.sweep(cursor)
        assert sum(tick.asked for tick in ticks) == wanted


def test_the_cursor_of_twenty_thousand_files_is_short() -> None:
    bucket = Bucket(20_000)
    cursor = bucket.finished()
    assert len(cursor.text) < 1_200
    longest = 0
    while True:
        swept = bucket.tick(cursor)
        longest, cursor = max(longest, len(swept.cursor.text)), swept.cursor
        if swept.ended:
            break
    assert longest < 2_400
    assert len(cursor.handled) == pytest.approx(20_000 / CHUNK, rel=0.5)


def test_a_cursor_is_the_same_after_it_has_been_kept() -> None:
    for cursor in (Cursor(), Cursor(2, "a 'b' é\n", frozenset({"x", "y"}), frozenset({"z"}))):
        assert Cursor.of(cursor.text) == cursor
    assert Cursor.of(None) == Cursor.of("") == Cursor()


# --- what others have left -------------------------------------------------------------------------------------------


def test_files_whose_worker_has_left_them_are_taken_over_even_if_they_are_gone() -> None:
    bucket = Bucket(6)
    [tick], cursor = bucket.sweep()
    left = [record.file_id for record in tick.claimed[:3]]
    bucket.fake_log.finish_all(but=left)
    bucket.store.remove(tick.claimed[0].key or "")
    [tick], cursor = bucket.sweep(cursor)
    assert tick.claimed == []
    for file_id in left:
        record = bucket.fake_log.records[file_id]
        bucket.fake_log.records[file_id] = replace(record, lease_until=datetime.now(UTC) - timedelta(seconds=1))
    [tick], _ = bucket.sweep(cursor)
    assert ids(tick.claimed) == set(left)
    assert tick.taken_over == 3
    assert "0 new files, 3 taken over" in tick.summary


# --- a real bucket and a real log ------------------------------------------------------------------------------------


@pytest.fixture
def drops(rooms: Rooms) -> Drops:
    return Drops.zone(rooms.environ)


@pytest.mark.stack
@pytest.mark.parametrize("versioned", [False, True])
def test_a_real_bucket_is_swept_over_several_ticks(
    rooms: Rooms, versioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CHUNK", 10)
    monkeypatch.setattr(listing, "CHUNK_MAX", 25)
    monkeypatch.setattr("rds_lake.files.store.PAGE", 25)
    drops = Drops.zone(rooms.environ, versioned=versioned)
    names = [f"{number} ü+%.csv" for number in range(60)]
    dropped = {drops.drop("append", f"t{number % 3}", name, name).file_id for number, name in enumerate(names)}
    drops.s3.put_object(Bucket=drops.bucket, Key=f"{drops.database}/append/t1/", Body=b"")
    drops.s3.put_object(Bucket=drops.bucket, Key=f"{drops.database}x/append/t1/other.csv", Body=b"x")
    cursor, claimed, ticks = Cursor(), [], 0
    while True:
        swept = sweep(drops.receiver, drops.log, cursor, pages=1)
        claimed += swept.claimed
        cursor, ticks = swept.cursor, ticks + 1
        assert swept.pages == 1
        if swept.ended:
            break
    assert ticks >= 3
    assert sorted(record.file_id for record in claimed) == sorted(dropped)
    assert {record.version_id is not None for record in claimed} == {versioned}
    for record in claimed:
        drops.log.finish(record, "completed")
    swept = sweep(drops.receiver, drops.log, cursor, pages=100)
    assert (swept.asked, swept.claimed) == (60, [])
    assert sweep(drops.receiver, drops.log, swept.cursor, pages=100).asked == 0


@pytest.mark.stack
def test_a_file_that_a_dead_worker_had_is_taken_over_from_its_copy(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    drops.schema("customers", "id bigint")
    drops.run()
    file = drops.drop("append", "customers", "a.csv", "id\n1\n")
    [claim] = drops.claim(file)
    begun = drops.log.begin(claim, "run-dead")
    place = drops.receiver.place(file.key)
    assert place
    drops.store.copy(file, f"{place.prefix('staging', file)}original")
    drops.store.delete(file)
    swept = sweep(drops.receiver, drops.log, Cursor())
    assert (swept.listed, swept.taken_over) == (0, 1)
    [(ended, _)] = drops.work(swept.claimed, "run-2")
    assert (ended.status, ended.rows_loaded, ended.attempts, ended.run_id) == ("completed", 1, 2, "run-2")
    assert begun.owner != ended.owner
    assert drops.original(ended) == b"id\n1\n"
    drops.check_accounts("customers")
    assert [key for key in drops.keys("staging/") if key.endswith("/original")] == []


@pytest.mark.stack
def test_events_and_listing_at_the_same_moment_claim_each_file_once(drops: Drops) -> None:
    queue = queue_with_events(drops, [drops.drop("append", "t", f"{number}.csv", "x") for number in range(60)])

    def listing_of(_: int) -> list[Record]:
        return sweep(drops.receiver, drops.log, Cursor()).claimed

    def events_of(_: int) -> list[Record]:
        return list(take_events(queue, drops.receiver, other_log(drops), seconds=3).claimed)

    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda work: work(0), [listing_of, events_of, listing_of, events_of])]
    claimed = Counter(record.file_id for records in found for record in records)
    assert len(claimed) == 60
    assert set(claimed.values()) == {1}
    assert len(drops.all_records()) == 60


def other_log(drops: Drops) -> AuditLog:
    """The log as another process has it."""
    return AuditLog(drops.client("dynamodb"), drops.log.name, drops.log.lease)


def queue_with_events(drops: Drops, versions: Sequence[FileVersion]) -> EventQueue:
    """A queue with one event per version, in the form of EventBridge."""
    from test_file_events import bridged

    sqs = drops.client("sqs")
    name = f"q_{secrets.token_hex(4)}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    for batch in _tens([bridged(version) for version in versions]):
        sqs.send_message_batch(
            QueueUrl=url, Entries=[{"Id": str(at), "MessageBody": body} for at, body in enumerate(batch)]
        )
    return EventQueue(sqs, name)


def _tens(bodies: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(bodies), 10):
        yield bodies[start : start + 10]


def test_objects_from_before_the_versioning_was_suspended_have_the_identity_that_events_tell(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ, versioned=True)
    before = drops.drop("append", "t", "before.csv", "id\n1\n")
    drops.s3.put_bucket_versioning(Bucket=drops.bucket, VersioningConfiguration={"Status": "Suspended"})
    drops.drop("append", "t", "after.csv", "id\n2\n")
    assert before.version_id
    claimed = {record.file_name: record for record in sweep(drops.receiver, drops.log, Cursor()).claimed}
    assert sorted(claimed) == ["after.csv", "before.csv"]
    assert claimed["before.csv"].file_id == before.file_id
    assert drops.claim(before) == [], "an event that comes late tells of the same file"
