"""The sensors and the job, as Dagster runs them: real definitions of components, over the stack's real servers."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

import dagster as dg
import pytest
from dropping import Drops
from rich.console import Console
from rooms import Rooms
from test_file_events import Queue, ids

from rds_lake import file_sensors, receiving
from rds_lake.assets.files import claim_of, claim_text, job_name, op_name, run_config
from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.components import DropZone, FileFeed
from rds_lake.console import show_received
from rds_lake.errors import RdsLakeError, TransientError
from rds_lake.file_sensors import FILES_OF_A_RUN, queue_name
from rds_lake.files import events, listing, machine
from rds_lake.files import feed as feed_module
from rds_lake.files.listing import Cursor
from rds_lake.files.machine import new_record
from rds_lake.files.settle import reported
from rds_lake.files.spec import DropZoneSpec
from rds_lake.files.version import FileVersion, Place
from rds_lake.receiving import Receive, Received, set_up
from rds_lake.resources.files import FilesResource
from rds_lake.resources.services import WarehouseResource
from rds_lake.warehouse.connection import Warehouse

pytestmark = pytest.mark.stack

Tick = Any
"""Dagster's `SensorExecutionData`, which it does not export."""

FEED: dict[str, Any] = {
    "columns": [
        {"name": "id", "type": "bigint"},
        {"name": "name", "type": "varchar(20)"},
        {"name": "day", "type": "date"},
    ],
    "key": ["id"],
    "clean": [{"column": "name", "when": "missing", "value": "N/A"}],
    "discard_limit": 0.5,
}


@dataclass
class Location:
    """A code location with one drop zone or feed, and where its runs are recorded."""

    drops: Drops
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def name(self) -> str:
        return self.drops.spec.name

    def tick(self, kind: str, cursor: str | None = None) -> Tick:
        """What a tick of a sensor asks for, as the daemon evaluates it."""
        sensor = self.definitions.resolve_sensor_def(f"{self.name}_file_{kind}")
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            definitions=self.definitions,
            sensor_name=sensor.name,
            resources={"files": FilesResource()},
        )
        return sensor.evaluate_tick(context)

    def claims(self, tick: Tick) -> list[Record]:
        """The claims that the runs of a tick are for."""
        found = []
        for request in tick.run_requests or []:
            [op] = request.run_config["ops"].values()
            found += [claim_of(text) for text in op["config"]["claimed"]]
        return found

    def run(self, config: Mapping[str, Any], **more: Any) -> dg.ExecuteInProcessResult:
        """Run the job as the daemon would launch it."""
        job = self.definitions.resolve_job_def(job_name(self.drops.spec))
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return job.execute_in_process(run_config={**config, **quiet}, instance=self.instance, **more)

    def run_all(self, tick: Tick) -> list[dg.ExecuteInProcessResult]:
        return [self.run(request.run_config) for request in tick.run_requests or []]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def locate(drops: Drops, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A location whose resources read the variables of `drops`, with all that events need."""
    for name, value in drops.environ.items():
        if name.startswith(("RDS_LAKE_", "AWS_")):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(events, "WAIT_SECONDS", 0)
    component = DropZone(drops.spec) if isinstance(drops.spec, DropZoneSpec) else FileFeed(drops.spec)
    definitions = dg.Definitions.merge(
        dg.build_defs_for_component(component),
        dg.Definitions(resources={"files": FilesResource()}, executor=dg.in_process_executor),
    )
    list(set_up([drops.spec], FilesResource()))
    return Location(drops, definitions, instance)


@pytest.fixture
def zone(rooms: Rooms, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Location:
    drops = Drops.zone(rooms.environ, tables={"t": {"description": "Things."}, "u": {}}, discard_limit=0.5)
    return locate(drops, instance, monkeypatch)


@pytest.fixture
def feed(rooms: Rooms, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Location:
    drops = Drops.feed(rooms.environ, "things", **FEED)
    return locate(drops, instance, monkeypatch)


LANDED = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


class KeepsAll:
    """A receiver for which every key is a file."""

    def __init__(self, receiver: Any) -> None:
        self.name, self.store = receiver.name, receiver.store

    def place(self, key: str) -> Place:
        return Place("t" * 200, "append", "", key)


def queue_of(location: Location) -> Queue:
    return Queue(location.drops, queue_name(location.drops.spec))


def events_in(location: Location, count: int) -> Queue:
    """Wait until that many events have come into the queue."""
    queue = queue_of(location)
    while queue.waiting() < count:
        pass
    return queue


# --- ticks -----------------------------------------------------------------------------------------------------------


def test_an_event_becomes_a_run_that_handles_its_file(zone: Location) -> None:
    drops = zone.drops
    dropped = [drops.schema("t", "id bigint"), drops.drop("append", "t", "a.csv", "id\n1\n")]
    queue = events_in(zone, 2)
    tick = zone.tick("events")
    assert tick.skip_message is None
    [request] = tick.run_requests or []
    assert request.tags["rds_lake/receiver"] == zone.name
    assert request.tags["rds_lake/trigger"] == "event"
    assert ids(zone.claims(tick)) == ids(dropped)
    assert queue.waiting() == 0
    assert zone.tick("events").skip_message == "No event has come."
    [result] = zone.run_all(tick)
    assert result.success
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


def test_what_no_event_told_becomes_a_run_of_the_listing_and_its_cursor_is_kept(zone: Location) -> None:
    drops = zone.drops
    dropped = [drops.schema("t", "id bigint"), drops.drop("append", "t", "a.csv", "id\n1\n")]
    tick = zone.tick("listing")
    [request] = tick.run_requests or []
    assert request.tags["rds_lake/trigger"] == "listing"
    assert ids(zone.claims(tick)) == ids(dropped)
    assert tick.cursor is not None
    zone.run_all(tick)
    drops.put(f"{drops.database}/append/t/b/c.csv", "x")
    second = zone.tick("listing", tick.cursor)
    zone.run_all(second)
    assert "1 new files" not in (second.skip_message or "")
    third = zone.tick("listing", second.cursor)
    assert (
        third.skip_message
        == "0 objects listed, 0 of them looked up; 0 new files, 0 taken over; the sweep is at its end."
    )
    drops.check_accounts("t")


def test_the_cursor_of_a_tick_lets_the_next_one_go_on(zone: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    drops = zone.drops
    monkeypatch.setattr("rds_lake.files.store.PAGE", 10)
    monkeypatch.setattr(listing, "CHUNK_MAX", 10)
    monkeypatch.setattr(listing, "CHUNK", 2**32)  # no chunk ends by its keys
    monkeypatch.setattr(file_sensors, "sweep", lambda *given: listing.sweep(*given, pages=1))
    dropped = [drops.drop("append", "t", f"{number:02}.csv", "id\n1\n") for number in range(25)]
    cursor, claimed, counts = None, [], []
    for _ in range(3):
        tick = zone.tick("listing", cursor)
        claimed += zone.claims(tick)
        counts.append(len(zone.claims(tick)))
        cursor = tick.cursor
    assert ids(claimed) == ids(dropped)
    assert counts == [10, 10, 5]
    assert Cursor.of(cursor) == Cursor(), "the next sweep begins anew"


def test_a_skipped_tick_says_what_it_saw(zone: Location) -> None:
    drops = zone.drops
    gone = drops.drop("append", "t", "a.csv", "x")
    events_in(zone, 1)
    drops.s3.delete_object(Bucket=drops.bucket, Key=gone.key)
    queue_of(zone).send(["hello"])
    tick = zone.tick("events")
    assert not tick.run_requests
    assert tick.skip_message == "2 events: 0 new files, 1 gone, 1 not understood."


def test_no_run_is_asked_for_more_files_than_its_configuration_holds(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FILES_OF_A_RUN == 250
    monkeypatch.setattr(file_sensors, "FILES_OF_A_RUN", 20)
    drops = zone.drops
    keys = [f"{drops.database}/append/t/{number}.csv" for number in range(47)]
    for key in keys:
        drops.s3.put_object(Bucket=drops.bucket, Key=key, Body=b"id\n1\n")
    tick = zone.tick("listing")
    configs = [request.run_config["ops"][op_name(drops.spec)]["config"] for request in tick.run_requests]
    assert [len(config["claimed"]) for config in configs] == [20, 20, 7]
    assert sorted(record.key or "" for record in zone.claims(tick)) == sorted(keys)
    assert not zone.tick("listing").run_requests


def dropped_before_their_schema(drops: Drops) -> None:
    """Data files of which the one that is listed first landed last, and the schema file that they wait for."""
    for name in "ba":
        drops.drop("append", "t", f"{name}.csv", "id\n1\n")
        drops.later()
    drops.schema("t", "id bigint")


def test_runs_are_asked_for_schema_files_first_and_then_for_files_as_they_landed(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sensors, "FILES_OF_A_RUN", 2)
    monkeypatch.setattr(machine, "PATIENCE", 1)
    dropped_before_their_schema(zone.drops)
    tick = zone.tick("listing")
    assert len(tick.run_requests) == 2
    assert [record.file_name for record in zone.claims(tick)] == ["schema.json", "b.csv", "a.csv"]
    assert all(result.success for result in zone.run_all(tick))
    assert zone.drops.rows("t", "id") == [(1,), (1,)]
    zone.drops.check_accounts("t")


def test_receive_takes_schema_files_before_the_many_files_that_wait_for_them(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sensors, "FILES_OF_A_RUN", 2)
    monkeypatch.setattr(machine, "PATIENCE", 1)
    without_queue(zone, "no queue", monkeypatch)  # a listing has all of append/ before what is in schema/
    dropped_before_their_schema(zone.drops)
    received, _ = receive(zone)
    assert (received.ok, received.failed) == (True, [])
    assert received.records[0].file_name == "schema.json"
    assert zone.drops.rows("t", "id") == [(1,), (1,)]
    zone.drops.check_accounts("t")


def test_the_configuration_of_a_full_run_is_small_enough_for_dagster(zone: Location) -> None:
    version = FileVersion("b" * 63, "k" * 1024, "e" * 35, 5 * 1024**4, LANDED, "v" * 32)
    keeps_all: Any = KeepsAll(zone.drops.receiver)
    record = new_record(keeps_all, version)
    assert record
    text = json.dumps(run_config(zone.drops.spec, [record] * FILES_OF_A_RUN))
    assert len(text) < 2_000_000  # it goes through gRPC, whose messages may have 50 MB, and into the run's storage


def test_a_claim_goes_through_a_runs_configuration_unchanged(zone: Location) -> None:
    version = zone.drops.drop("append", "t", "Käse 美 '\"\\{{x}}.csv", "x")
    [claim] = zone.drops.claim(version)
    begun = zone.drops.log.begin(claim, "run-1")
    for record in (claim, begun):
        config = json.loads(json.dumps(run_config(zone.drops.spec, [record])))
        [text] = config["ops"][op_name(zone.drops.spec)]["config"]["claimed"]
        assert claim_of(text) == record == claim_of(claim_text(record))


def test_a_message_is_deleted_only_after_its_claim(zone: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HIDDEN_SECONDS", 0)
    dropped = [zone.drops.drop("append", "t", f"{number}.csv", "x") for number in range(3)]
    queue = events_in(zone, 3)
    claim, left = AuditLog.claim, [1]

    def failing(self: AuditLog, record: Record) -> Record | None:
        if record.file_name == "1.csv" and left and left.pop():
            raise TransientError("The audit log is away.", "Try again.")
        return claim(self, record)

    monkeypatch.setattr(AuditLog, "claim", failing)
    monkeypatch.setattr(events, "MESSAGES", 1)  # one that fails stops no other one of the same tick
    monkeypatch.setattr(file_sensors, "take_events", lambda *given: events.take_events(*given, most=1))
    with pytest.raises(TransientError, match="The audit log is away"):
        _all_ticks(zone)
    assert queue.waiting() > 0
    claimed = _all_ticks(zone)
    assert "1.csv" in {record.file_name for record in claimed}
    assert len(zone.drops.all_records()) == len(dropped)
    assert queue.waiting() == 0


def _all_ticks(location: Location) -> list[Record]:
    claimed: list[Record] = []
    while queue_of(location).waiting():
        claimed += location.claims(location.tick("events"))
    return claimed


def without_queue(zone: Location, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the queue away; what is said of it."""
    if how == "no queue":
        queue = queue_of(zone)
        queue.sqs.delete_queue(QueueUrl=queue.url)
        return f"The SQS queue rds_lake_{zone.name} does not exist. Make it with 'rds-lake files setup'"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
    monkeypatch.setattr("rds_lake.resources.services.ATTEMPTS", 1)
    return f"The AWS endpoint could not be reached while asking for the SQS queue rds_lake_{zone.name}"


@pytest.mark.parametrize("how", ["no queue", "nobody answers"])
def test_without_its_queue_the_event_sensor_says_so_and_the_listing_finds_all(
    zone: Location, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = [zone.drops.schema("t", "id bigint"), zone.drops.drop("append", "t", "a.csv", "id\n1\n")]
    wanted = without_queue(zone, how, monkeypatch)
    with pytest.raises(RdsLakeError, match=wanted):
        zone.tick("events")
    tick = zone.tick("listing")
    assert ids(zone.claims(tick)) == ids(dropped)
    assert all(result.success for result in zone.run_all(tick))
    zone.drops.check_accounts("t")


@pytest.mark.parametrize("how", ["no queue", "nobody answers"])
def test_without_its_queue_receive_says_so_and_lists(zone: Location, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = [zone.drops.schema("t", "id bigint"), zone.drops.drop("append", "t", "a.csv", "id\n1\n")]
    wanted = without_queue(zone, how, monkeypatch)
    received = Receive(zone.definitions, zone.instance, lambda _: None).one(zone.drops.spec)
    [note] = received.notes
    assert note.startswith(f"No event was read, the bucket was listed instead: {wanted}")
    assert ids(received.records) == ids(dropped)
    assert received.ok
    zone.drops.check_accounts("t")


def test_receive_tells_of_messages_that_it_does_not_understand(zone: Location) -> None:
    queue_of(zone).send(["{}"])
    received = Receive(zone.definitions, zone.instance, lambda _: None).one(zone.drops.spec)
    assert received.notes == ["a message is not of S3: it has no 'detail'"]
    assert received.records == []


def receive(location: Location) -> tuple[Received, str]:
    """What `rds-lake receive` does for a location, and what it prints."""
    received = Receive(location.definitions, location.instance, lambda _: None).one(location.drops.spec)
    target = io.StringIO()
    show_received(Console(file=target, width=200), [received])
    return received, target.getvalue()


def test_receive_tells_of_files_that_wait_and_shows_no_stack(zone: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    received, text = receive(zone)
    assert received.ok
    for number in range(5):
        drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n")
    monkeypatch.setattr("rds_lake.assets.common.RETRIES", 0)
    monkeypatch.setattr("rds_lake.files.load.ATTEMPTS", 1)
    with monkeypatch.context() as patch:
        away = drops.environ["RDS_LAKE_WAREHOUSE_URL"].rsplit(":", 1)[0] + ":9/none"
        patch.setenv("RDS_LAKE_WAREHOUSE_URL", away)
        received, text = receive(zone)
    [failed] = received.failed
    assert failed.startswith("The warehouse at ")
    assert failed.endswith("Is the warehouse up and reachable? 'rds-lake status' shows the local one.")
    assert "Traceback" not in text
    assert "File " not in text
    again, text = receive(zone)  # the warehouse is back; the files are left alone for two minutes
    assert (again.ok, again.records, again.failed) == (False, [], [])
    [told] = again.waiting
    assert re.match(
        r"5 files wait until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(.\.csv, .\.csv, .\.csv, \.\.\.\): The w", told
    )
    assert told in text
    assert "Nothing new" not in text
    drops.expire(*(drops.version(key) for key in drops.waiting()))
    received, text = receive(zone)
    assert received.ok
    assert drops.rows("t", "id") == [(number,) for number in range(5)]
    _, text = receive(zone)
    assert text == "Nothing new has been dropped.\n"
    drops.check_accounts("t")


def test_receive_tells_of_files_that_others_work_on(zone: Location) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    assert receive(zone)[0].ok
    claims = drops.claim(drops.drop("append", "t", "a.csv", "id\n1\n"))
    received, text = receive(zone)
    assert not received.ok
    assert "1 file is worked on (a.csv); if the worker has died, it can be taken over from " in text
    drops.log.begin(claims[0], "a-run-of-elsewhere")
    assert "1 file is worked on (a.csv)" in receive(zone)[1]


def test_receive_looks_whether_the_runs_of_files_that_wait_go_on(zone: Location) -> None:
    drops = zone.drops
    dropped = {name: drops.drop("append", "t", f"{name}.csv", "id\n1\n") for name in ("tried", "silent")}
    job = zone.definitions.resolve_job_def(job_name(drops.spec))
    before, now = (zone.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED) for _ in range(2))
    [tried] = drops.claim(dropped["tried"])
    drops.log.postpone(drops.log.begin(tried, before.run_id), "The warehouse is away.", timedelta(minutes=2))
    [silent] = drops.claim(dropped["silent"])
    drops.log.begin(silent, now.run_id)

    def told() -> set[str]:
        return {re.sub(r" until .* UTC|; if .*", "", line) for line in receive(zone)[0].waiting}

    [busy] = told()
    assert busy.startswith("2 files are worked on (")
    zone.instance.report_run_failed(before)
    away = "1 file waits (tried.csv): The warehouse is away."
    assert told() == {away, "1 file is worked on (silent.csv)"}
    zone.instance.report_run_failed(now)
    assert told() == {away, "1 file waits (silent.csv): Its worker has ended without a word."}


def test_after_one_that_was_interrupted_receive_tells_of_its_files(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    assert receive(zone)[0].ok
    drops.drop("append", "t", "a.csv", "id\n1\n")

    def interrupted(_: WarehouseResource) -> Warehouse:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WarehouseResource, "warehouse", interrupted)
        received, text = receive(zone)
    assert received.failed == ["It was interrupted."]
    for _ in range(2):
        assert not received.ok
        assert re.search(r"1 file waits until .* UTC \(a\.csv\): Its worker has ended without a word\.", text)
        received, text = receive(zone)


def test_receive_handles_what_it_has_claimed_although_the_queue_or_the_listing_fails(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    drops.drop("append", "t", "a.csv", "id\n1\n")
    events_in(zone, 2)

    def away(*_: Any) -> None:
        raise TransientError("It is away.", "Try again.")

    monkeypatch.setattr(events.EventQueue, "delete", away)
    monkeypatch.setattr(receiving, "claim_waiting", away)
    received, text = receive(zone)
    assert [record.status for record in received.records] == ["completed", "completed"]
    assert received.failed == ["It is away. Try again."]
    assert received.notes == ["2 messages could not be deleted, and come again: It is away. Try again."]
    assert (received.ok, received.is_only_misconfigured, received.waiting) == (False, False, [])
    assert "error" in text
    drops.check_accounts("t")


def test_receive_goes_on_when_it_cannot_be_asked_what_became_of_the_files_of_a_run(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sensors, "FILES_OF_A_RUN", 1)
    drops = zone.drops
    drops.schema("t", "id bigint")
    drops.drop("append", "t", "a.csv", "id\n1\n")
    claim_waiting = receiving.claim_waiting

    def claimed(*given: Any) -> list[Record]:
        found = claim_waiting(*given)
        find_all = away_once(AuditLog.find_all, "The audit log")
        monkeypatch.setattr(AuditLog, "find_all", lambda log, ids: find_all(log, ids) if ids else {})
        return found

    monkeypatch.setattr(receiving, "claim_waiting", claimed)
    received, text = receive(zone)
    assert received.failed == ["The audit log is away. Try again."]
    assert f"error {zone.name}: The audit log is away. Try again." in text
    assert [record.file_name for record in received.records] == ["a.csv"]
    assert (received.ok, received.is_only_misconfigured, received.waiting) == (False, False, [])
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


def test_a_receiver_that_cannot_be_asked_is_told_of_with_the_settings_that_may_be_wrong(zone: Location) -> None:
    spec = zone.drops.spec.model_copy(update={"bucket": "a-bucket-that-is-not-there"})
    received = Receive(zone.definitions, zone.instance, lambda _: None).one(spec)
    assert not received.ok
    assert received.is_only_misconfigured
    [told] = received.failed
    assert "a-bucket-that-is-not-there" in told
    assert " does not exist. Create it, or correct what names it: RDS_LAKE_BUCKET, RDS_LAKE_DROP_BUCKET, or " in told


def test_a_run_that_never_came_is_asked_for_again_by_the_listing(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = zone.drops
    dropped = [drops.schema("t", "id bigint"), drops.drop("append", "t", "a.csv", "id\n1\n")]
    monkeypatch.setattr("rds_lake.resources.services.AuditLog", hasty_log(5))  # longer than a slow tick takes
    lost = zone.tick("listing")
    assert not zone.tick("listing").run_requests
    pause(5)
    monkeypatch.setattr("rds_lake.resources.services.AuditLog", AuditLog)
    tick = zone.tick("listing")
    assert ids(zone.claims(tick)) == ids(dropped) == ids(zone.claims(lost))
    zone.run_all(tick)
    for result in zone.run_all(lost):  # and comes after all
        assert result.success
        assert not result.asset_materializations_for_node(op_name(drops.spec))
    assert drops.rows("t", "id") == [(1,)]
    assert {record.attempts for record in drops.all_records()} == {1}
    drops.check_accounts("t")


def hasty_log(seconds: float) -> Any:
    return lambda client, name: AuditLog(client, name, timedelta(seconds=seconds))


def pause(seconds: float) -> None:
    import time

    time.sleep(seconds)


# --- runs ------------------------------------------------------------------------------------------------------------


def told(instance: dg.DagsterInstance, key: dg.AssetKey, kind: str) -> list[Any]:
    """The materialisations or observations that an instance keeps of an asset, oldest first."""
    fetch = instance.fetch_materializations if kind == "materialization" else instance.fetch_observations
    records = fetch(key, limit=1000).records
    data = [record.event_log_entry.dagster_event.event_specific_data for record in records]  # type: ignore[union-attr]
    return [getattr(item, "materialization", None) or item.asset_observation for item in data][::-1]  # type: ignore[union-attr]


def values(event: Any) -> dict[str, Any]:
    return {name: value.value for name, value in event.metadata.items()}


def test_each_accepted_file_of_a_zone_is_a_materialisation_and_each_refused_one_an_observation(zone: Location) -> None:
    drops, name = zone.drops, zone.name
    dropped = {
        version.name: version
        for version in (
            drops.schema("t", "id bigint", "name varchar(9)"),
            drops.schema("other", "id bigint", name="other.json"),
            drops.drop("append", "t", "a.csv", "id,name\n1,x\n2,y\n"),
            drops.drop("append", "t", "b.csv", "id,name\n3,x\nq,y\n"),
            drops.drop("append", "t", "bad.csv", "wrong\n1\n"),
            drops.drop("append", "other", "o.csv", "id\n1\n"),
            drops.drop("append", "u", "unknown.csv", "id\n1\n"),
            drops.put(f"{drops.database}/lost.csv", "x"),
        )
    }
    result = zone.run(run_config(drops.spec, zone.claims(zone.tick("listing"))))
    assert result.success
    table, unknown, rest = (dg.AssetKey([name, part]) for part in ("t", "u", "drop_zone"))
    made = {key: told(zone.instance, key, "materialization") for key in (table, unknown, rest)}
    seen = {key: told(zone.instance, key, "observation") for key in (table, unknown, rest)}
    assert {event.description for event in made[table]} == {"schema.json", "a.csv", "b.csv"}
    assert {event.description for event in made[rest]} == {"other.json", "o.csv"}
    assert made[unknown] == []
    assert [event.description for event in seen[table]] == ["bad.csv was rejected"]
    assert [event.description for event in seen[unknown]] == ["unknown.csv was rejected"]
    assert [event.description for event in seen[rest]] == ["lost.csv was rejected"]
    [event] = [event for event in made[table] if event.description == "b.csv"]
    record = drops.record(dropped["b.csv"])
    facts = values(event)
    assert facts.pop("landed at") == record.landed_at.timestamp()
    assert facts == {
        "file": "b.csv",
        "status": "completed",
        "action": "append",
        "version": record.etag,
        "file id": record.file_id,
        "bytes": record.size,
        "rows read": 2,
        "rows loaded": 1,
        "rows discarded": 1,
        "discard rate": 0.5,
        "note": record.error,
        "lies at": record.moved_to,
        "report": record.report,
        "discarded": drops.report(record)["result"]["details"]["discarded"],
        "reasons": {"id is no bigint": 1},
    }
    [event] = seen[table]
    assert "rows loaded" not in event.metadata
    assert values(event)["error"] == drops.record(dropped["bad.csv"]).error
    checks = {check.asset_key: check for check in result.get_asset_check_evaluations()}
    assert {key: check.passed for key, check in checks.items()} == {table: False, unknown: False, rest: False}
    assert {check.severity for check in checks.values()} == {dg.AssetCheckSeverity.WARN}
    assert "`bad.csv`" in str(values(checks[table])["why"])
    assert (values(checks[table])["files"], values(checks[table])["refused"]) == (4, 1)
    drops.check_accounts("t", "other")


def test_each_accepted_file_of_a_feed_is_a_materialisation_of_its_three_assets(feed: Location) -> None:
    drops = feed.drops
    drops.source("a.csv", "id,name,day\n1,x,2026-01-01\n2,,2026-01-02\n")
    drops.source("b.csv", "id,name,day\n3,x,2026-01-01\n4,y,never\n")
    drops.source("c.csv", "name\nx\n")
    events_in(feed, 3)
    [result] = feed.run_all(feed.tick("events"))
    assert result.success
    source, cleaned, rds = (dg.AssetKey(f"things_{stage}") for stage in ("source", "cleaned", "rds"))
    for key in (source, cleaned, rds):
        made = told(feed.instance, key, "materialization")
        assert {event.description: values(event)["rows loaded"] for event in made} == {"a.csv": 2, "b.csv": 1}
    assert [event.description for event in told(feed.instance, source, "observation")] == ["c.csv was rejected"]
    assert told(feed.instance, rds, "observation") == []
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {name: check.passed for name, check in checks.items()} == {
        "every_file_accepted": False,
        "required_columns": False,
        "rows_fit": False,
        "name_present": False,
    }
    assert values(checks["name_present"]) == {"count": 1, "files": "- a.csv: 1"}
    assert values(checks["rows_fit"]) == {"count": 1, "files": "- b.csv: 1"}
    assert drops.rows("", "id, name") == [(1, "x"), (2, "N/A"), (3, "x")]
    drops.check_accounts("")


def test_a_run_without_claims_handles_all_that_waits(zone: Location) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    for number in range(3):
        drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n")
    assert zone.run({}).success
    assert drops.rows("t", "id") == [(0,), (1,), (2,)]
    assert len(told(zone.instance, dg.AssetKey([zone.name, "t"]), "materialization")) == 4
    drops.check_accounts("t")
    again = zone.run({})
    assert again.success
    assert not again.get_asset_check_evaluations()
    assert len(told(zone.instance, dg.AssetKey([zone.name, "t"]), "materialization")) == 4


def test_the_check_of_required_columns_counts_files_that_lack_one_whatever_their_texts_say(feed: Location) -> None:
    """A word of the refusal's code, not of its text, which may hold the file's own."""
    drops = feed.drops
    drops.source("lacks the column.csv", "id,lacks the column\n1,2\n")
    drops.source("good.csv", "id,name,day\n1,x,2026-01-01\n")

    def passed() -> bool:
        return next(
            each for each in feed.run({}).get_asset_check_evaluations() if each.check_name == "required_columns"
        ).passed

    assert passed()
    lacking = drops.source("lacking.csv", "name,day\nx,2026-01-01\n")
    assert not passed()
    assert drops.report(drops.record(lacking))["result"]["details"] == {"code": "missing_column"}


@pytest.mark.parametrize("how", ["again", "after a death"])
@pytest.mark.parametrize("kind", ["zone", "feed"])
def test_a_run_that_is_started_again_with_the_same_claims_does_nothing_twice(
    kind: str, how: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    location: Location = request.getfixturevalue(kind)
    drops = location.drops
    if kind == "zone":
        drops.schema("t", "id bigint")
        drops.drop("append", "t", "a.csv", "id\n1\n")
        drops.drop("append", "t", "bad.csv", "wrong,header\n1,2\n")
    else:
        drops.source("a.csv", "id,name,day\n1,x,2026-01-01\n")
        drops.source("bad.csv", "wrong,header\n1,2\n")
    count = len(drops.waiting())
    config = run_config(drops.spec, location.claims(location.tick("listing")))
    if how == "after a death":
        with monkeypatch.context() as patch:  # all is done and moved, and only the record does not say so yet
            patch.setattr(AuditLog, "finish", _die)
            with pytest.raises(KeyboardInterrupt):
                location.run(config)
        assert len(drops.open_files()) == count
        assert drops.waiting() == []
    else:
        location.run(config)
    ledger = drops.ledger("t")
    second = location.run(config)
    assert second.success
    assert drops.ledger("t") == ledger
    assert drops.rows("t", "id") == [(1,)]
    records = drops.all_records()
    assert Counter(record.status for record in records) == {"completed": count - 1, "rejected": 1}
    assert {record.attempts for record in records} == {2 if how == "after a death" else 1}
    made = [
        event.description
        for key in location.definitions.resolve_all_asset_keys()
        for event in told(location.instance, key, "materialization")
    ]
    assert set(Counter(made).values()) <= {1 if kind == "zone" else 3}
    assert len(set(made)) == count - 1
    drops.check_accounts("t")


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_run_whose_warehouse_is_away_fails_and_the_files_wait_for_the_next(
    zone: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    zone.run({})
    drops.drop("append", "t", "a.csv", "id\n1\n")
    drops.drop("append", "t", "bad.csv", "wrong,header\n1,2\n")
    monkeypatch.setattr("rds_lake.assets.common.RETRIES", 0)
    monkeypatch.setattr("rds_lake.files.load.ATTEMPTS", 1)
    with monkeypatch.context() as patch:
        away = drops.environ["RDS_LAKE_WAREHOUSE_URL"].rsplit(":", 1)[0] + ":9/none"
        patch.setenv("RDS_LAKE_WAREHOUSE_URL", away)
        assert not zone.run({}, raise_on_error=False).success
    states = {record.file_name: (record.status, record.error) for record in drops.records("t")}
    assert states["bad.csv"][0] == "rejected", "what needs no warehouse has been done"
    assert states["a.csv"][0] == "processing"
    assert "says" in (states["a.csv"][1] or "")
    assert zone.run({}).success
    states = {record.file_name: (record.status, record.error) for record in drops.records("t")}
    assert states["a.csv"] == ("completed", None)
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


@pytest.mark.parametrize("asked", [True, False])
def test_a_step_that_is_tried_again_handles_its_files(
    zone: Location, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = zone.drops
    drops.schema("t", "id bigint")
    zone.run({})
    drops.drop("append", "t", "a.csv", "id\n1\n")
    monkeypatch.setattr("rds_lake.assets.common.RETRY_SECONDS", 0.1)
    warehouse, left = WarehouseResource.warehouse, [1]

    def away(self: WarehouseResource) -> Warehouse:
        if left and left.pop():
            raise TransientError("The warehouse is away.", "Try again.")
        return warehouse(self)

    monkeypatch.setattr(WarehouseResource, "warehouse", away)
    result = zone.run(run_config(drops.spec, zone.claims(zone.tick("listing"))) if asked else {})
    assert result.success
    assert [event.step_key for event in result.all_events if event.is_step_restarted] == [op_name(drops.spec)]
    [record] = [record for record in drops.records("t") if record.action == "append"]
    assert (record.status, record.error) == ("completed", None)
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


def away_once(function: Callable[..., Any], what: str = "S3") -> Callable[..., Any]:
    """A function that speaks to a server, which is away the first time."""
    answers = chain([TransientError(f"{what} is away.", "Try again.")], repeat(None))

    def once(*given: Any) -> Any:
        if error := next(answers):
            raise error
        return function(*given)

    return once


@pytest.mark.parametrize("failures", [1, 99])
@pytest.mark.parametrize("asked", [True, False])
def test_the_checks_are_of_all_files_of_a_run_however_often_its_step_is_tried(
    feed: Location, asked: bool, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops, put, left = feed.drops, feed_module.put, [None] * failures

    def away(*given: Any) -> Any:
        if left:
            left.pop()
            raise TransientError("PostgreSQL is away.", "Try again.")
        return put(*given)

    monkeypatch.setattr("rds_lake.assets.common.RETRY_SECONDS", 0.1)
    monkeypatch.setattr(feed_module, "put", away)
    monkeypatch.setattr("rds_lake.assets.files.reported", away_once(reported))
    drops.source("refused.csv", "id,name\n1\n")
    drops.later()
    drops.source("good.csv", "id,name,day\n1,a,2026-01-01\n")
    config = run_config(drops.spec, feed.claims(feed.tick("listing"))) if asked else {}
    result = feed.run(config, raise_on_error=False)
    assert result.success is (failures == 1)
    checks = [event for event in result.get_asset_check_evaluations() if event.check_name == "every_file_accepted"]
    files = 2 if failures == 1 else 1
    assert (checks[-1].passed, checks[-1].description) == (False, f"1 of {files} files were refused")


def test_the_sensors_start_stopped_unless_automation_is_on(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    from rds_lake.file_sensors import receiver_sensors

    spec = DropZoneSpec(database="sales")
    for value, status in (("off", dg.DefaultSensorStatus.STOPPED), ("on", dg.DefaultSensorStatus.RUNNING)):
        monkeypatch.setenv("RDS_LAKE_AUTOMATION", value)
        assert {sensor.default_status for sensor in receiver_sensors(spec)} == {status}
