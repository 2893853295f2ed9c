"""Events: through the real chain of bucket, EventBridge and SQS, in every form, order and number in which they come."""

import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote_plus

import pytest
from dropping import OURS, Drops
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.errors import ConfigError, RdsLakeError, TransientError
from rds_lake.files import events
from rds_lake.files.events import EventQueue, Hint, Taken, hints_of, take_events
from rds_lake.files.listing import Cursor, sweep
from rds_lake.files.setup import RECEIVES, EventSetup, Wanted
from rds_lake.files.version import FileVersion

pytestmark = pytest.mark.stack

QUIET = 0.4
"""Seconds without a message after which none comes any more: the local stack delivers within a few hundredths."""

FEED: dict[str, Any] = {
    "columns": [{"name": "id", "type": "bigint"}, {"name": "name", "type": "varchar(20)"}],
    "key": ["id"],
}


class Queue:
    """A queue as a plain client sees it."""

    def __init__(self, drops: Drops, name: str) -> None:
        self.sqs = drops.client("sqs")
        self.name = name
        self.url = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]

    @property
    def arn(self) -> str:
        return str(self.attributes()["QueueArn"])

    def attributes(self) -> dict[str, str]:
        return dict(self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"])

    def send(self, bodies: Sequence[str]) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(at), "MessageBody": body} for at, body in enumerate(bodies[start : start + 10])]
            assert not self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def drain(self, wanted: int = 0) -> list[str]:
        """Take all messages out; waits until that many have come, or none comes any more."""
        bodies: list[str] = []
        quiet_since = time.monotonic()
        while len(bodies) < wanted or time.monotonic() - quiet_since < QUIET:
            found = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
            for message in found:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                bodies.append(message["Body"])
            quiet_since = time.monotonic() if found else quiet_since
            assert time.monotonic() - quiet_since < 20, f"{len(bodies)} of {wanted} messages came"
            time.sleep(0 if found else 0.02)
        return bodies

    def waiting(self) -> int:
        """How many messages are in it, hidden or not."""
        told = self.attributes()
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(told[name]) for name in names)


class Chain:
    """A bucket whose events come through EventBridge into a queue, as `rds-lake files setup` makes it."""

    def __init__(self, drops: Drops) -> None:
        self.drops = drops
        name = f"q_{secrets.token_hex(4)}"
        self.wanted = Wanted(drops.spec.name, drops.bucket, tuple(drops.receiver.prefixes()), name)
        self.setup = EventSetup(drops.s3, drops.client("sqs"), drops.client("events"))
        self.said = list(self.setup.make([self.wanted]))
        self.queue = Queue(drops, name)
        self.dead = Queue(drops, f"{name}_dead")

    def take(self, log: AuditLog | None = None, **more: Any) -> Taken:
        """One look into the queue, as a tick of the sensor takes it."""
        queue = EventQueue(self.drops.client("sqs"), self.wanted.queue)
        return take_events(queue, self.drops.receiver, log or self.drops.log, **more)

    def take_all(self, count: int) -> list[Taken]:
        """Looks until that many messages have been read."""
        looks: list[Taken] = []
        while sum(look.messages for look in looks) < count:
            looks.append(self.take())
            assert len(looks) < 60
        return looks


def bridged(version: FileVersion, **more: Any) -> str:
    """An event as EventBridge sends it."""
    thing = {"key": version.key, "size": version.size, "etag": version.etag, "sequencer": "0"}
    if version.version_id:
        thing["version-id"] = version.version_id
    detail = {"version": "0", "bucket": {"name": version.bucket}, "object": thing, "reason": "PutObject"}
    return json.dumps({"source": "aws.s3", "detail-type": "Object Created", "detail": detail, **more})


def notified(*versions: FileVersion) -> str:
    """A message as S3 itself sends it."""
    return json.dumps(
        {
            "Records": [
                {
                    "eventName": "ObjectCreated:Put",
                    "s3": {
                        "bucket": {"name": version.bucket},
                        "object": {
                            "key": quote_plus(version.key, safe="/"),
                            **({"versionId": version.version_id} if version.version_id else {}),
                        },
                    },
                }
                for version in versions
            ]
        }
    )


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WAIT_SECONDS", 0)


@pytest.fixture
def chain(rooms: Rooms) -> Chain:
    """A drop zone whose table `t` is known."""
    made = Chain(Drops.zone(rooms.environ))
    made.drops.schema("t", "id bigint")
    made.drops.run()
    made.queue.drain(1)
    return made


def drop_some(drops: Drops, count: int, first: int = 0) -> list[FileVersion]:
    return [drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n") for number in range(first, first + count)]


def ids(versions: Iterable[Any]) -> list[str]:
    return sorted(version.file_id for version in versions)


# --- the chain -------------------------------------------------------------------------------------------------------


def test_a_dropped_file_comes_through_the_whole_chain(chain: Chain) -> None:
    dropped = drop_some(chain.drops, 12)
    looks = chain.take_all(12)
    assert ids(record for look in looks for record in look.claimed) == ids(dropped)
    assert chain.queue.waiting() == 0
    assert chain.take().summary == "No event has come."
    chain.drops.work([record for look in looks for record in look.claimed])
    assert chain.drops.rows("t", "id") == [(number,) for number in range(12)]
    chain.drops.check_accounts("t")


def test_events_that_come_five_times_in_any_order_claim_each_file_once(chain: Chain) -> None:
    dropped = drop_some(chain.drops, 20)
    bodies = chain.queue.drain(20) * 5
    random.Random(7).shuffle(bodies)
    chain.queue.send(bodies)
    looks = chain.take_all(100)
    claimed = [record for look in looks for record in look.claimed]
    assert ids(claimed) == ids(dropped)
    chain.drops.work(claimed)
    chain.queue.send(bodies)  # and once more, after everything has been handled
    later = chain.take_all(100)
    assert [record for look in later for record in look.claimed] == []
    assert sum(look.gone for look in later) >= 20
    assert chain.queue.waiting() == 0
    assert chain.drops.rows("t", "id") == [(number,) for number in range(20)]
    assert len(chain.drops.records("t")) == 21
    chain.drops.check_accounts("t")


def test_events_of_a_file_that_is_being_handled_or_was_handled_without_being_moved_claim_nothing(chain: Chain) -> None:
    [file] = drop_some(chain.drops, 1)
    [body] = chain.queue.drain(1)
    [claim] = chain.drops.claim(file)
    chain.queue.send([body, body])
    look = chain.take()
    assert (look.claimed, look.known, look.messages) == ((), 1, 2)
    chain.drops.log.finish(claim, "completed")
    chain.queue.send([body])
    look = chain.take()
    assert (look.claimed, look.known, look.summary) == ((), 1, "1 events: 0 new files, 1 known.")


def test_two_that_read_the_queue_at_once_claim_each_file_once(chain: Chain) -> None:
    dropped = drop_some(chain.drops, 30)
    chain.queue.send([body for body in chain.queue.drain(30) for _ in range(3)])
    with ThreadPoolExecutor(3) as pool:
        looks = list(pool.map(lambda _: chain.take(), range(3)))
    assert sum(look.messages for look in looks) == 90
    assert ids(record for look in looks for record in look.claimed) == ids(dropped)


def test_an_event_of_a_file_that_is_gone_is_done_with(chain: Chain) -> None:
    for file in drop_some(chain.drops, 3):
        chain.drops.s3.delete_object(Bucket=chain.drops.bucket, Key=file.key)
    [look] = chain.take_all(3)
    assert (look.claimed, look.gone, look.messages) == ((), 3, 3)
    assert chain.queue.waiting() == 0
    assert len(chain.drops.all_records()) == 1


def test_of_a_file_that_is_replaced_before_its_event_is_read_the_new_one_is_handled(chain: Chain) -> None:
    drops = chain.drops
    drops.drop("append", "t", "a.csv", "id\n1\n")
    drops.later()
    second = drops.drop("append", "t", "a.csv", "id\n2\n")
    looks = chain.take_all(2)
    claimed = [record for look in looks for record in look.claimed]
    assert ids(claimed) == [second.file_id]
    drops.work(claimed)
    assert drops.rows("t", "id") == [(2,)]
    drops.check_accounts("t")


def test_a_file_that_is_replaced_after_its_claim_is_refused_and_the_new_one_is_handled(chain: Chain) -> None:
    drops = chain.drops
    first = drops.drop("append", "t", "a.csv", "id\n1\n")
    [look] = chain.take_all(1)
    drops.later()
    second = drops.drop("append", "t", "a.csv", "id\n2\n")
    [(record, _)] = drops.work(look.claimed)
    assert (record.file_id, record.status, record.moved_to) == (first.file_id, "rejected", None)
    assert "deleted or replaced" in (record.error or "")
    assert drops.waiting() == [second.key]
    [look] = chain.take_all(1)
    drops.work(look.claimed)
    assert drops.rows("t", "id") == [(2,)]
    drops.check_accounts("t")


def test_with_versions_both_files_of_a_key_are_handled_whichever_event_comes_first(rooms: Rooms) -> None:
    chain = Chain(Drops.zone(rooms.environ, versioned=True))
    drops = chain.drops
    drops.schema("t", "id bigint")
    drops.run()
    chain.queue.drain(1)
    first = drops.drop("append", "t", "a.csv", "id\n1\n")
    second = drops.drop("append", "t", "a.csv", "id\n2\n")
    assert first.version_id != second.version_id
    chain.queue.drain(2)
    # AWS tells the version, the local stack does not.
    chain.queue.send([bridged(second), bridged(first), bridged(first)])
    look = chain.take()
    assert ids(look.claimed) == ids([first, second])
    drops.work(look.claimed)
    assert drops.rows("t", "id") == [(1,), (2,)]
    assert {record.file_id: drops.original(record) for record in drops.records("t") if record.action == "append"} == {
        first.file_id: b"id\n1\n",
        second.file_id: b"id\n2\n",
    }
    drops.check_accounts("t")


def test_with_versions_a_file_whose_event_was_lost_comes_to_light_when_the_one_above_it_is_moved(rooms: Rooms) -> None:
    chain = Chain(Drops.zone(rooms.environ, versioned=True))
    drops = chain.drops
    drops.schema("t", "id bigint")
    drops.run()
    first = drops.drop("append", "t", "a.csv", "id\n1\n")
    second = drops.drop("append", "t", "a.csv", "id\n2\n")
    looks = chain.take_all(3)
    claimed = [record for look in looks for record in look.claimed]
    assert ids(claimed) == [second.file_id]
    drops.work(claimed)
    swept = sweep(drops.receiver, drops.log, Cursor())
    assert ids(swept.claimed) == [first.file_id]
    drops.work(swept.claimed)
    assert drops.rows("t", "id") == [(1,), (2,)]
    drops.check_accounts("t")


@pytest.mark.parametrize("kind", ["zone", "feed"])
def test_what_rds_lake_writes_itself_never_comes_into_the_queue(rooms: Rooms, kind: str) -> None:
    drops = Drops.zone(rooms.environ, discard_limit=0.5) if kind == "zone" else Drops.feed(rooms.environ, "f", **FEED)
    chain = Chain(drops)
    every = Wanted(f"all_{drops.bucket}", drops.bucket, ("",), f"all_{drops.bucket}")
    list(chain.setup.make([every]))  # a second queue hears of all keys: so it is known that there was something to hear
    good, bad = "id,name\n1,Ada\n2,Bo\n3,Cy\n", "id,name\n4,Di\nx,Ed\n"
    if kind == "zone":
        dropped = [
            drops.schema("t", "id bigint", "name varchar(20)"),
            drops.drop("append", "t", "good.csv", good),
            drops.drop("append", "t", "bad.csv", bad),
            drops.drop("truncate", "t", "wrong.csv", "other\n1\n"),
            drops.drop("append", "unknown", "lost.csv", good),
        ]
    else:
        dropped = [drops.source("good.csv", good), drops.source("bad.csv", bad), drops.source("wrong.csv", "a\n1\n")]
    looks = chain.take_all(len(dropped))
    handled = drops.work([record for look in looks for record in look.claimed])
    assert len(handled) == len(dropped)
    written = set(drops.keys("")) - {version.key for version in dropped}
    told = Queue(drops, every.queue).drain(len(dropped) + len(written))
    heard = {hint.key for body in told for hint in hints_of(body)}
    assert heard >= written
    folders = {part for key in written for part in (f"{part}/" for part in key.split("/")) if part in OURS}
    assert folders >= {"processed/", "failed/", "discarded/", "staging/"} - ({"staging/"} if kind == "feed" else set())
    assert chain.queue.waiting() == 0
    assert sum(look.messages for look in looks) == len(dropped)
    assert ids(record for look in looks for record in look.claimed) == ids(dropped)


NAMES = [
    *("a b.csv", "a+b.csv", "100%.csv", "%41.csv", "a%2Bb.csv", "Käse 美.csv", "\U0001f600.csv", "..csv", "...", ".."),
    *('\'"quoted".csv', "a&b<c>.csv", "#1?x=y.csv", "back\\slash.csv", "semi;colon.csv", "~^`{}[]|.csv", " .csv"),
]


def test_files_of_a_feed_come_through_with_any_name(rooms: Rooms) -> None:
    chain = Chain(Drops.feed(rooms.environ, "f", **FEED))
    drops = chain.drops
    bodies = {name: f"id,name\n{number},x\n" for number, name in enumerate(NAMES)}
    dropped = {drops.source(name, body).file_id: name for name, body in bodies.items()}
    deep = ["../x.csv", "//y.csv", "a/../z.csv", "./w.csv", "a//v.csv"]
    refused = {drops.source(name, "id,name\n99,x\n").file_id: name for name in deep}
    looks = chain.take_all(len(dropped) + len(refused))
    claimed = [record for look in looks for record in look.claimed]
    assert {record.file_id for record in claimed} == {*dropped, *refused}
    drops.work(claimed)
    assert [number for number, _ in drops.rows("", "id, name")] == list(range(len(NAMES)))
    for record in drops.all_records():
        if record.file_id in dropped:
            assert (record.status, record.error) == ("completed", None), record
            assert drops.original(record) == bodies[dropped[record.file_id]].encode()
        else:
            assert record.status == "rejected", record
            assert "lies in a folder of its own" in (record.error or "")
    drops.check_accounts("", keyed=True)


def test_files_of_a_zone_come_through_with_any_key(chain: Chain) -> None:
    drops = chain.drops
    bodies = {name: f"id\n{number}\n" for number, name in enumerate(NAMES)}
    dropped = {drops.drop("append", "t", name, body).file_id: name for name, body in bodies.items()}
    wrong = [
        *("x.csv", "append/x.csv", "append//x.csv", "append/t/a/x.csv", "append/../x.csv", "../t/x.csv", "/t/x.csv"),
        *("Append/t/x.csv", "append/t t/x.csv", "append/Ü/x.csv", "append/1t/x.csv", "append/t%/x.csv"),
    ]
    refused = {drops.put(f"{drops.database}/{key}", "id\n99\n").file_id: key for key in wrong}
    looks = chain.take_all(len(dropped) + len(refused))
    claimed = [record for look in looks for record in look.claimed]
    assert {record.file_id for record in claimed} == {*dropped, *refused}
    drops.work(claimed)
    assert drops.rows("t", "id") == [(number,) for number in range(len(NAMES))]
    for record in drops.all_records():
        if record.file_id in refused:
            assert (record.status, record.rows_loaded) == ("rejected", 0), record
            assert drops.original(record) == b"id\n99\n"
        elif record.file_id in dropped:
            assert record.status == "completed", record
            assert drops.original(record) == bodies[dropped[record.file_id]].encode()
    drops.check_accounts("t")


def test_receivers_of_one_bucket_get_their_own_files_only(rooms: Rooms) -> None:
    sales = Chain(Drops.zone(rooms.environ, database="sales"))
    environ = sales.drops.environ
    more = Chain(Drops(environ, sales.drops.spec.model_copy(update={"database": "sales2"})))
    feed = Drops.feed(rooms.environ, "f", **FEED)
    feeding = Chain(Drops(environ, feed.spec))
    files = [sales.drops.drop("append", "t", "a", "1"), more.drops.drop("append", "t", "a", "2")]
    files.append(feeding.drops.source("a.csv", "id,name\n1,x\n"))
    for chain, file in zip((sales, more, feeding), files, strict=True):
        [look] = chain.take_all(1)
        assert ids(look.claimed) == [file.file_id]
        assert chain.queue.drain() == []


# --- other ways than EventBridge -------------------------------------------------------------------------------------


def grant(arn: str, service: str, action: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": action, "Resource": arn}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.parametrize("way", ["s3", "sns", "raw sns"])
@pytest.mark.parametrize("versioned", [False, True])
def test_s3_may_notify_the_queue_itself_or_through_sns(rooms: Rooms, way: str, versioned: bool) -> None:
    drops = Drops.zone(rooms.environ, versioned=versioned)
    sqs = drops.client("sqs")
    name = f"own_{secrets.token_hex(4)}"
    sqs.create_queue(QueueName=name)
    queue = Queue(drops, name)
    service = "s3.amazonaws.com" if way == "s3" else "sns.amazonaws.com"
    policy = grant(queue.arn, service, "sqs:SendMessage")
    sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"Policy": policy})
    if way == "s3":
        wanted = {"QueueConfigurations": [{"QueueArn": queue.arn, "Events": ["s3:ObjectCreated:*"]}]}
    else:
        sns = drops.client("sns")
        topic = sns.create_topic(Name=name)["TopicArn"]
        granted = grant(topic, "s3.amazonaws.com", "sns:Publish")
        sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=granted)
        raw = {"RawMessageDelivery": "true"} if way == "raw sns" else {}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn, Attributes=raw)
        wanted = {"TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]}
    drops.s3.put_bucket_notification_configuration(Bucket=drops.bucket, NotificationConfiguration=wanted)
    dropped = [drops.drop("append", "t", name, name) for name in NAMES]
    messages = len(dropped) + 1  # and S3's own test event
    for _ in range(200):
        if queue.waiting() >= messages:
            break
        time.sleep(0.05)
    taken = take_events(EventQueue(sqs, name), drops.receiver, drops.log)
    assert (taken.messages, taken.problems, taken.gone) == (messages, (), 0)
    assert ids(taken.claimed) == ids(dropped)
    assert {record.version_id is not None for record in taken.claimed} == {versioned}
    assert queue.waiting() == 0


def test_a_message_may_be_of_several_objects(chain: Chain) -> None:
    dropped = drop_some(chain.drops, 3)
    chain.queue.drain(3)
    chain.queue.send([notified(*dropped), notified(dropped[0])])
    look = chain.take()
    assert ids(look.claimed) == ids(dropped)
    assert (look.messages, look.known) == (2, 0)


def test_events_of_other_buckets_and_keys_are_done_with(chain: Chain) -> None:
    [file] = drop_some(chain.drops, 1)
    chain.queue.drain(1)
    other = FileVersion("another-bucket", file.key, file.etag, 1, file.landed_at)
    ours = FileVersion(chain.drops.bucket, f"processed/{file.key}", file.etag, 1, file.landed_at)
    folder = chain.drops.put(f"{chain.drops.database}/append/t/", b"")
    chain.queue.drain(1)
    test = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": chain.drops.bucket})
    chain.queue.send([bridged(other), notified(ours), bridged(folder), test])
    look = chain.take()
    assert (look.claimed, look.foreign, look.messages, look.problems) == ((), 3, 4, ())
    assert look.summary == "4 events: 0 new files, 3 not ours."
    assert chain.queue.waiting() == 0


def test_the_key_of_s3s_own_message_is_encoded_and_that_of_eventbridge_is_not() -> None:
    version = FileVersion("b", "a b+c%41/ü.csv", "e", 1, time_of(0), "v1")
    wanted = Hint("b", "a b+c%41/ü.csv", "v1")
    for body in (bridged(version), notified(version)):
        assert hints_of(body) == (wanted,)
        assert hints_of(json.dumps({"Type": "Notification", "Message": body})) == (wanted,)


def time_of(second: int) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(second, UTC)


# --- what is no event ------------------------------------------------------------------------------------------------

GARBAGE = {
    "no json": "hello",
    "cut": '{"detail": {"bucket": {"name": "b"}, "obj',
    "null": "null",
    "number": "3",
    "list": "[]",
    "text": '"detail"',
    "empty": "{}",
    "no key": '{"detail": {"bucket": {"name": "b"}, "object": {}}}',
    "no bucket": '{"detail": {"object": {"key": "k"}}}',
    "null detail": '{"detail": null}',
    "records null": '{"Records": null}',
    "records of nothing": '{"Records": [{}]}',
    "records of numbers": '{"Records": [1, 2]}',
    "key is a number": '{"detail": {"bucket": {"name": "@"}, "object": {"key": 5}}}',
    "key is null": '{"detail": {"bucket": {"name": "@"}, "object": {"key": null}}}',
    "key is a list": '{"detail": {"bucket": {"name": "@"}, "object": {"key": ["@"]}}}',
    "bucket is a list": '{"detail": {"bucket": {"name": ["@"]}, "object": {"key": "k"}}}',
    "version is a number": '{"detail": {"bucket": {"name": "@"}, "object": {"key": "#/append/t/a", "version-id": 7}}}',
    "half a character": '{"detail": {"bucket": {"name": "@"}, "object": {"key": "#/append/t/\\ud800"}}}',
    "too long": '{"detail": {"bucket": {"name": "@"}, "object": {"key": "#/append/t/' + "x" * 1024 + '"}}}',
    "very deep": "[" * 100_000,
    "sns of no json": '{"Type": "Notification", "Message": "hello"}',
    "sns of null": '{"Type": "Notification", "Message": "null"}',
    "notification of a number": '{"Records": [{"s3": {"bucket": {"name": "@"}, "object": {"key": 5}}}]}',
}


def test_garbage_is_told_and_stops_nobody(chain: Chain) -> None:
    dropped = drop_some(chain.drops, 20)
    names = {"@": chain.drops.bucket, "#": chain.drops.database}
    for body in GARBAGE.values():
        chain.queue.send([body.replace("@", names["@"]).replace("#", names["#"])])
    looks = chain.take_all(len(dropped) + len(GARBAGE))
    assert ids(record for look in looks for record in look.claimed) == ids(dropped)
    problems = [problem for look in looks for problem in look.problems]
    assert len(problems) == len(GARBAGE)
    assert all(problem.startswith("a message is not of S3: ") and len(problem) < 300 for problem in problems)
    assert chain.queue.waiting() == len(GARBAGE), "they stay"


@pytest.mark.parametrize("kind", GARBAGE)
def test_each_kind_of_garbage_is_understood_to_be_none(kind: str) -> None:
    message = events._message("receipt", GARBAGE[kind])
    assert message.problem
    assert message.hints == ()


def test_garbage_ends_among_the_dead_letters(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HIDDEN_SECONDS", 0)
    chain.queue.send(["hello", "[]"])
    problems = 0
    for _ in range(20):
        problems += len(chain.take().problems)
        if chain.queue.waiting() == 0:
            break
    assert problems == 2 * RECEIVES
    assert sorted(chain.dead.drain(2)) == ["[]", "hello"]
    assert chain.take().messages == 0


def test_a_message_is_hidden_from_others_while_it_is_looked_at_and_comes_back(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HIDDEN_SECONDS", 1)
    [file] = drop_some(chain.drops, 1)
    broken = AuditLog(chain.drops.dynamodb, chain.drops.log.name)

    def claim(_: object) -> None:
        raise TransientError("The audit log is away.", "Try again.")

    monkeypatch.setattr(broken, "claim", claim)
    while chain.queue.waiting() == 0:
        time.sleep(0.01)
    with pytest.raises(TransientError, match="away"):
        chain.take(broken)
    assert chain.take().messages == 0
    assert chain.queue.waiting() == 1
    time.sleep(1.1)
    assert ids(chain.take().claimed) == [file.file_id]
    assert chain.queue.waiting() == 0


# --- setting up ------------------------------------------------------------------------------------------------------


def test_setting_up_twice_changes_nothing(chain: Chain) -> None:
    before = [queue.attributes() for queue in (chain.queue, chain.dead)]
    said = list(chain.setup.make([chain.wanted]))
    assert "already" in said[0]
    assert said[1:] == chain.said[1:]
    told = ("Policy", "RedrivePolicy", "MessageRetentionPeriod", "VisibilityTimeout")
    for queue, held in zip((chain.queue, chain.dead), before, strict=True):
        assert {name: queue.attributes().get(name) for name in told} == {name: held.get(name) for name in told}
    [file] = drop_some(chain.drops, 1)
    assert len(chain.queue.drain(1)) == 1, "one event, not two"
    assert file


def test_setting_up_keeps_what_the_bucket_tells_others(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    sqs = drops.client("sqs")
    sqs.create_queue(QueueName=f"other_{drops.bucket}")
    other = Queue(drops, f"other_{drops.bucket}")
    policy = grant(other.arn, "s3.amazonaws.com", "sqs:SendMessage")
    sqs.set_queue_attributes(QueueUrl=other.url, Attributes={"Policy": policy})
    held = {"QueueConfigurations": [{"Id": "mine", "QueueArn": other.arn, "Events": ["s3:ObjectCreated:*"]}]}
    drops.s3.put_bucket_notification_configuration(Bucket=drops.bucket, NotificationConfiguration=held)
    Chain(drops)
    told = drops.s3.get_bucket_notification_configuration(Bucket=drops.bucket)
    assert [item["Id"] for item in told["QueueConfigurations"]] == ["mine"]
    assert "EventBridgeConfiguration" in told


def statements(queue: Queue) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(queue.attributes()["Policy"])["Statement"]
    return found


def test_a_queue_that_is_made_keeps_messages_as_long_as_it_can_and_takes_them_of_its_rule_only(chain: Chain) -> None:
    for queue in (chain.queue, chain.dead):
        assert queue.attributes()["MessageRetentionPeriod"] == str(14 * 86_400)
        [granted] = statements(queue)
        assert granted["Sid"] == "rds_lake"
        assert granted["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(f"/{chain.wanted.rule}")
    assert json.loads(chain.queue.attributes()["RedrivePolicy"])["maxReceiveCount"] in {RECEIVES, str(RECEIVES)}


@pytest.mark.parametrize("form", ["a list", "one statement"])
def test_a_queue_that_is_there_keeps_its_policy_and_its_settings(rooms: Rooms, form: str) -> None:
    drops = Drops.zone(rooms.environ)
    sqs = drops.client("sqs")
    name, own = f"q_{secrets.token_hex(4)}", f"dead_{secrets.token_hex(4)}"
    for each in (own, name):
        sqs.create_queue(QueueName=each, Attributes={"MessageRetentionPeriod": "345600"})
    queue = Queue(drops, name)
    theirs = {"Sid": "team", "Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": queue.arn}
    nameless = {"Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue.arn}
    given = [theirs, nameless] if form == "a list" else theirs
    redrive = json.dumps({"deadLetterTargetArn": Queue(drops, own).arn, "maxReceiveCount": "9"})
    policy = json.dumps({"Version": "2012-10-17", "Id": "held", "Statement": given})
    sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"Policy": policy, "RedrivePolicy": redrive})
    wanted = Wanted(drops.database, drops.bucket, (f"{drops.database}/",), name)
    for _ in range(2):
        list(EventSetup(drops.s3, sqs, drops.client("events")).make([wanted]))
        *kept, ours = statements(queue)
        assert kept == (given if form == "a list" else [theirs])
        assert (ours["Sid"], ours["Action"]) == ("rds_lake", "sqs:SendMessage")
        told = queue.attributes()
        assert json.loads(told["Policy"])["Id"] == "held"
        assert told["MessageRetentionPeriod"] == "345600"
        assert json.loads(told["RedrivePolicy"])["deadLetterTargetArn"].endswith(own)


def test_a_statement_of_ours_from_before_is_replaced(chain: Chain) -> None:
    [ours] = statements(chain.queue)
    unnamed = {key: value for key, value in ours.items() if key != "Sid"}
    stale = {**ours, "Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:events:eu-central-1:1:rule/gone"}}}
    for before in (unnamed, stale):
        policy = json.dumps({"Version": "2012-10-17", "Statement": [before]})
        chain.queue.sqs.set_queue_attributes(QueueUrl=chain.queue.url, Attributes={"Policy": policy})
        list(chain.setup.make([chain.wanted]))
        assert statements(chain.queue) == [ours]


def test_a_queue_that_has_no_dead_letters_gets_them(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    sqs = drops.client("sqs")
    name = f"q_{secrets.token_hex(4)}"
    sqs.create_queue(QueueName=name, Attributes={"MessageRetentionPeriod": "345600"})
    wanted = Wanted(drops.database, drops.bucket, (f"{drops.database}/",), name)
    list(EventSetup(drops.s3, sqs, drops.client("events")).make([wanted]))
    told = Queue(drops, name).attributes()
    assert json.loads(told["RedrivePolicy"])["deadLetterTargetArn"] == Queue(drops, f"{name}_dead").arn


# --- the queue is away -----------------------------------------------------------------------------------------------


def gone(chain: Chain) -> Any:
    chain.queue.sqs.delete_queue(QueueUrl=chain.queue.url)
    return chain.queue.sqs


def refusing(chain: Chain) -> Any:
    import boto3
    from botocore.config import Config

    once = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    return boto3.client("sqs", endpoint_url="http://127.0.0.1:9", config=once, **keys)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (gone, ConfigError, r"The SQS queue q_\w+ does not exist\. Make it with 'rds-lake files setup'"),
        (refusing, TransientError, r"could not be reached while asking for the SQS queue q_\w+"),
    ],
)
def test_without_the_queue_the_listing_finds_all(
    chain: Chain, make: Callable[[Chain], Any], error: type[RdsLakeError], told: str
) -> None:
    dropped = drop_some(chain.drops, 5)
    queue = EventQueue(make(chain), chain.wanted.queue)
    with pytest.raises(error, match=told):
        take_events(queue, chain.drops.receiver, chain.drops.log)
    swept = sweep(chain.drops.receiver, chain.drops.log, Cursor())
    assert ids(swept.claimed) == ids(dropped)
    chain.drops.work(swept.claimed)
    assert chain.drops.rows("t", "id") == [(number,) for number in range(5)]
    chain.drops.check_accounts("t")


def test_what_was_claimed_is_returned_although_the_messages_cannot_be_deleted(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drop_some(chain.drops, 3)
    chain.queue.drain(3)
    chain.queue.send([*(bridged(version) for version in dropped), "{}"])

    def throttled(_: EventQueue, messages: Sequence[Any]) -> None:
        raise TransientError(f"{len(messages)} at once are too many.", "Try again.")

    monkeypatch.setattr(events, "HIDDEN_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(EventQueue, "delete", throttled)
        look = chain.take(most=1)
    assert ids(look.claimed) == ids(dropped)
    assert look.problems == (
        "a message is not of S3: it has no 'detail'",
        "3 messages could not be deleted, and come again: 3 at once are too many. Try again.",
    )
    assert look.summary == "4 events: 3 new files, 1 not understood, 3 not deleted."
    assert chain.take(most=1).known == 3


AWAY = TransientError("The audit log is away.", "Try again.")


def test_what_was_claimed_is_returned_although_the_audit_log_fails_for_others(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drop_some(chain.drops, 3)
    chain.queue.drain(3)
    chain.queue.send([bridged(version) for version in dropped])
    claim = AuditLog.claim

    def failing(self: AuditLog, record: Record) -> Record | None:
        if record.file_name != "0.csv":
            raise AWAY
        return claim(self, record)

    monkeypatch.setattr(events, "HIDDEN_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "claim", failing)
        look = chain.take(most=1)
        with pytest.raises(TransientError, match="The audit log is away"):
            chain.take(most=1)
    assert [record.file_name for record in look.claimed] == ["0.csv"]
    assert look.problems[0] == f"s3://{dropped[1].bucket}/{dropped[1].key} cannot be claimed now: {AWAY}"
    assert ids(chain.take(most=1).claimed) == ids(dropped[1:])


def test_no_look_reads_much_more_than_it_may(chain: Chain) -> None:
    drop_some(chain.drops, 45)
    while chain.queue.waiting() < 45:
        time.sleep(0.01)
    look = chain.take(most=20)
    assert 20 <= look.messages <= 29
    assert chain.take(seconds=0).messages == 0


def halves(versions: Sequence[FileVersion]) -> Iterator[Sequence[FileVersion]]:
    yield versions[::2]
    yield versions[1::2]


def test_what_events_have_not_told_the_listing_finds(chain: Chain) -> None:
    told, silent = halves(drop_some(chain.drops, 20))
    chain.queue.drain(20)
    chain.queue.send([bridged(version) for version in told])
    assert ids(chain.take().claimed) == ids(told)
    swept = sweep(chain.drops.receiver, chain.drops.log, Cursor())
    assert ids(swept.claimed) == ids(silent)
    assert Counter(record.status for record in chain.drops.records("t")) == {"processing": 20, "completed": 1}
