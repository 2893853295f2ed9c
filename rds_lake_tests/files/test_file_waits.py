"""One file's trouble is its own: it waits, or ends, and all the others go on."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import obstore
import pytest
from botocore.exceptions import ClientError
from dropping import Drops
from obstore.exceptions import PermissionDeniedError
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record, stamp
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.files import machine, upsert, zone
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion
from rds_lake.files.work import ATTEMPTS
from rds_lake.lake.scratch import FullDiskError
from rds_lake.lake.store import ObjectStore

pytestmark = pytest.mark.stack

AWAY = TransientError("It is away.", "Try again.")


@pytest.fixture
def drops(rooms: Rooms) -> Drops:
    """A drop zone with the tables `a` and `b`."""
    made = Drops.zone(rooms.environ)
    for table in "ab":
        made.schema(table, "id bigint")
    made.run()
    return made


def failing(function: Callable[..., Any], chosen: Callable[..., bool], error: Exception) -> Callable[..., Any]:
    """The same function, which fails for some of its arguments."""

    def made(*given: Any, **more: Any) -> Any:
        if chosen(*given, **more):
            raise error
        return function(*given, **more)

    return made


def statuses(drops: Drops, *versions: FileVersion) -> list[str]:
    return [drops.record(version).status for version in versions]


def refuse_copies(drops: Drops, monkeypatch: pytest.MonkeyPatch, chosen: Callable[[str, str], bool], code: str) -> None:
    """Have S3 refuse copies; `chosen` gets source and target."""
    status = {"InvalidObjectState": 403, "AccessDenied": 403}.get(code, 400)
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(answer, "CopyObject")
    copy = failing(drops.s3.copy_object, lambda **given: chosen(given["CopySource"]["Key"], given["Key"]), error)
    monkeypatch.setattr(drops.s3, "copy_object", copy)
    said = PermissionDeniedError(f"status code: {status}: <Code>{code}</Code><Message>no</Message>")
    monkeypatch.setattr(obstore, "copy", failing(obstore.copy, lambda _, *keys: chosen(*keys), said))


def since(drops: Drops, version: FileVersion, age: timedelta) -> None:
    """Have a file been begun so long ago, and its lease be over."""
    held = drops.record(version)
    drops.dynamodb.update_item(
        TableName=drops.log.name,
        Key={"TableName": {"S": held.table}, "LandedKey": {"S": held.landed_key}},
        UpdateExpression="SET ProcessingStartTimestamp = :past",
        ExpressionAttributeValues={":past": {"S": stamp(datetime.now(UTC) - age)}},
    )
    drops.expire(version)


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [AWAY, FullDiskError("The temporary folder is full.", "Free space there.")])
def test_a_file_that_cannot_be_checked_now_waits_and_the_others_go_on(
    drops: Drops, error: RdsLakeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 2)
    waits, *others = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(5)]
    chosen = lambda *given, **_: given[3].name == "0.csv"  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(zone, "stage", failing(zone.stage, chosen, error))
        with pytest.raises(TransientError, match=error.problem):
            drops.run()
    assert statuses(drops, waits, *others) == ["processing", *["completed"] * 4]
    assert drops.record(waits).error == str(error)
    assert drops.record(waits).attempts == 1
    drops.expire(waits)
    drops.run()
    assert drops.rows("a", "id") == [(number,) for number in range(5)]
    drops.check_accounts("a")


def test_files_of_a_table_wait_for_a_schema_file_that_waits_and_those_of_others_go_on(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 3)
    monkeypatch.setattr(machine, "PATIENCE", 1)
    schema = drops.schema("a", "id bigint", "name varchar(9)", name="wider.json")
    drops.later()
    waiting = [drops.drop("append", "a", f"{number}.csv", f"id,name\n{number},x\n") for number in range(4)]
    good = drops.drop("append", "b", "b.csv", "id\n1\n")
    with monkeypatch.context() as patch:
        patch.setattr(zone, "prepare", failing(zone.prepare, lambda _, target, **__: target.table == "a", AWAY))
        with pytest.raises(TransientError, match="It is away"):
            drops.run()
    assert statuses(drops, good, *waiting) == ["completed", *["processing"] * 4]
    drops.expire(schema, *waiting)
    drops.run()
    assert drops.rows("a", "id, name") == [(number, "x") for number in range(4)]
    drops.check_accounts("a", "b")


def test_files_of_a_table_that_cannot_be_loaded_now_wait_and_those_of_others_go_on(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(3)]
    good = drops.drop("append", "b", "b.csv", "id\n1\n")
    with monkeypatch.context() as patch:
        patch.setattr(zone, "load_files", failing(zone.load_files, lambda *given: given[2].table == "a", AWAY))
        with pytest.raises(TransientError, match="It is away"):
            drops.run()
    assert statuses(drops, good, *waiting) == ["completed", *["processing"] * 3]
    drops.expire(*waiting)
    drops.run()
    assert drops.rows("a", "id") == [(0,), (1,), (2,)]
    drops.check_accounts("a", "b")


def test_a_file_of_a_feed_that_cannot_be_put_in_now_waits_and_the_others_go_on(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "PAUSE", 0.01)
    drops = Drops.feed(rooms.environ, "f", columns=[{"name": "id", "type": "bigint"}], key=["id"])
    waits, good = [drops.source(f"{number}.csv", f"id\n{number}\n") for number in range(2)]
    with monkeypatch.context() as patch:
        attempt = failing(upsert._attempt, lambda *given: given[3].name == "0.csv", AWAY)
        patch.setattr(upsert, "_attempt", attempt)
        with pytest.raises(TransientError, match="It is away"):
            drops.run()
    assert statuses(drops, waits, good) == ["processing", "completed"]
    drops.expire(waits)
    drops.run()
    assert drops.rows("", "id") == [(0,), (1,)]
    drops.check_accounts("", keyed=True)


def test_a_row_that_another_index_refuses_fails_its_file_at_once(rooms: Rooms) -> None:
    columns = [{"name": "id", "type": "bigint"}, {"name": "iban", "type": "varchar(30)"}]
    drops = Drops.feed(rooms.environ, "f", columns=columns, key=["id"])
    drops.source("first.csv", "id,iban\n1,DE1\n")
    drops.run()
    drops.ask(f"CREATE UNIQUE INDEX ON {drops.table()} (iban)")
    drops.later()
    bad = drops.source("bad.csv", "id,iban\n2,DE1\n")
    drops.later()
    good = drops.source("good.csv", "id,iban\n3,DE3\n")
    drops.run()
    assert statuses(drops, bad, good) == ["failed", "completed"]
    assert "violates unique constraint" in (drops.record(bad).error or "")
    told = str([drops.record(bad), drops.report(drops.record(bad)), drops.said])
    assert "DE1" not in told
    drops.check_accounts("", keyed=True)


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "wait"), [(0, 2), (2, 4), (6, 8), (14, 16), (30, 32), (62, 60), (60 * 24, 60)], ids=str
)
def test_each_wait_is_twice_the_one_before_and_an_hour_at_most(
    drops: Drops, age: int, wait: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = drops.drop("append", "a", "a.csv", "id\n1\n")
    monkeypatch.setattr(zone, "load_files", failing(zone.load_files, lambda *_: True, AWAY))
    with pytest.raises(TransientError):
        drops.run()
    since(drops, version, timedelta(minutes=age))
    with pytest.raises(TransientError):
        drops.run()
    until = drops.record(version).lease_until
    assert until
    assert (until - datetime.now(UTC)).total_seconds() == pytest.approx(wait * 60, abs=20)


def test_a_file_that_has_waited_for_three_days_is_failed_with_the_last_error(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = drops.drop("append", "a", "a.csv", "id\n1\n")
    monkeypatch.setattr(zone, "load_files", failing(zone.load_files, lambda *_: True, AWAY))
    for age, status in ((0, "processing"), (71, "processing"), (73, "failed")):
        with suppress(TransientError):
            drops.run()
        if age:
            since(drops, version, timedelta(hours=age))
            with pytest.raises(TransientError):
                drops.run()
        assert drops.record(version).status == status
    record = drops.record(version)
    assert record.error == "It could not be done for 3 days. The last error: It is away. Try again."
    assert drops.original(record) == b"id\n1\n"
    drops.check_accounts("a")


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InvalidObjectState", "KMS.DisabledException", "InvalidRequest", "AccessDenied"])
@pytest.mark.parametrize("others", [0, 2])
def test_a_file_that_s3_does_not_copy_fails_where_it_lies_and_stops_no_other(
    drops: Drops, code: str, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = drops.drop("append", "a", "bad.csv", "id\n9\n")
    unknown = drops.drop("append", "unknown", "bad.csv", "id\n9\n")
    good = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(others)]
    refuse_copies(drops, monkeypatch, lambda source, _: source.endswith("/bad.csv"), code)
    drops.run()
    assert statuses(drops, bad, unknown, *good) == ["failed", "rejected", *["completed"] * others]
    for version in (bad, unknown):
        record = drops.record(version)
        assert record.moved_to is None
        assert code in (record.error or "")
        assert drops.report(record)["now_at"] is None
    assert drops.waiting() == sorted([bad.key, unknown.key])
    assert not [key for key in drops.keys("staging/") if key.endswith(("probe", "probed"))]
    assert drops.run() == []
    for version in (bad, unknown):
        drops.s3.delete_object(Bucket=drops.bucket, Key=version.key)
    drops.check_accounts("a")


@pytest.mark.parametrize("code", ["AccessDenied", "KMS.DisabledException"])
def test_when_nothing_may_be_copied_any_more_all_files_wait(
    drops: Drops, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(4)]
    with monkeypatch.context() as patch:
        refuse_copies(drops, patch, lambda *_: True, code)
        with pytest.raises(ConfigError, match=code):
            drops.run()
    assert statuses(drops, *waiting) == ["processing"] * 4
    drops.expire(*waiting)
    drops.run()
    drops.check_accounts("a")


def test_a_loaded_file_that_cannot_be_brought_to_its_last_place_is_completed_and_says_so(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(2))
    refuse_copies(drops, monkeypatch, lambda _, target: target.endswith("/0.csv"), "InvalidObjectState")
    drops.run()
    record = drops.record(bad)
    assert (record.status, record.rows_loaded, record.moved_to) == ("completed", 1, None)
    assert (record.error or "").startswith("It stays where it is: AWS refused ")
    assert drops.report(record)["result"]["error"] == record.error
    assert drops.record(good).moved_to
    assert drops.waiting() == [bad.key]


@pytest.mark.parametrize("error", [AWAY, ConfigError("No right.", "Give it."), RuntimeError("a bug")])
def test_a_file_that_cannot_be_settled_now_keeps_no_other_from_its_end(
    drops: Drops, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *good = (drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(4))
    ended: list[Record] = []
    with monkeypatch.context() as patch:
        put = failing(ObjectStore.put, lambda _, key, __: "report" in key and bad.file_id[:12] in key, error)
        patch.setattr(ObjectStore, "put", put)
        with pytest.raises(type(error)):
            ended.extend(record for record, _ in drops.machine().run(drops.sweep()))
    assert statuses(drops, bad, *good) == ["processing", *["completed"] * 3]
    assert drops.record(bad).error == (str(error) if isinstance(error, RdsLakeError) else None)
    drops.expire(bad)
    drops.run()
    assert drops.rows("a", "id") == [(number,) for number in range(4)]
    drops.check_accounts("a")


class _DiedError(BaseException):
    """Stands for the death of a process, in a test that goes on."""


@pytest.mark.parametrize("kind", ["zone", "feed"])
def test_a_file_whose_worker_dies_whenever_it_says_so_is_completed_all_the_same(
    rooms: Rooms, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = timedelta(seconds=-1)
    if kind == "zone":
        drops = Drops.zone(rooms.environ, lease=lease)
        schema = drops.schema("a", "id bigint")
        dropped = [drops.drop("append", "a", "a.csv", "id\n1\n"), schema]
    else:
        columns = [{"name": "id", "type": "bigint"}]
        drops = Drops.feed(rooms.environ, "f", lease=lease, columns=columns, key=["id"])
        dropped = [drops.source("a.csv", "id\n1\n")]
    dying = failing(ObjectStore.put, lambda _, key, __: key.endswith("report.json"), _DiedError())  # type: ignore[arg-type]
    deaths = 0
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", dying)
        for _ in range(50):
            try:
                drops.run()
            except _DiedError:
                deaths += 1
    assert deaths >= 2 * ATTEMPTS
    for version in dropped:
        record = drops.record(version)
        assert (record.status, record.moved_to, record.report) == ("completed", None, None)
    assert drops.record(dropped[0]).rows_loaded == 1
    assert drops.rows("a" if kind == "zone" else "", "id") == [(1,)]
    assert drops.open_files() == []


def test_a_file_whose_last_place_may_not_be_written_says_so_and_is_settled_once_it_may(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drops.drop("append", "a", "a.csv", "id\n1\n")
    error = PermanentError("AWS refused processed/: no.", "Allow it.")
    refused = failing(ObjectStore.put, lambda _, key, __: key.endswith("report.json"), error)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", refused)
        for _ in range(2 * ATTEMPTS):
            with pytest.raises(PermanentError, match="AWS refused"):
                drops.run()
            record = drops.record(dropped)
            assert (record.status, record.error, record.attempts) == ("processing", str(error), 1)
            drops.expire(dropped)
    drops.run()
    assert drops.record(dropped).status == "completed"
    drops.check_accounts("a")


def test_a_file_that_takes_its_worker_down_while_it_is_moved_ends_where_it_lies(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    drops.schema("a", "id bigint")
    drops.run()
    bad = drops.drop("append", "a", "bad.csv", "id\n1\n")
    bring = failing(FileStore.bring, lambda _, __, target: target.endswith("/bad.csv"), _DiedError())  # type: ignore[arg-type]
    monkeypatch.setattr(FileStore, "bring", bring)
    deaths = 0
    for _ in range(8):
        try:
            drops.run()
        except _DiedError:
            deaths += 1
    assert deaths == ATTEMPTS
    record = drops.record(bad)
    assert (record.status, record.rows_loaded, record.moved_to) == ("completed", 1, None), "its rows are in the table"
    assert "5 attempts to bring" in (record.error or "")
    assert drops.open_files() == []
    assert drops.waiting() == [bad.key]


# --- what stands in records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zone", "feed"])
def test_a_file_whose_rows_are_in_is_completed_whatever_has_become_of_its_table_since(
    rooms: Rooms, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = timedelta(seconds=-1)
    if kind == "zone":
        drops = Drops.zone(rooms.environ, lease=lease)
        drops.schema("a", "id bigint")
        drops.run()
        dropped = drops.drop("append", "a", "a.csv", "id\n1\n")
    else:
        columns = [{"name": "id", "type": "bigint"}]
        drops = Drops.feed(rooms.environ, "f", lease=lease, columns=columns, key=["id"])
        dropped = drops.source("a.csv", "id\n1\n")
    dying = failing(ObjectStore.put, lambda _, key, __: key.endswith("report.json"), _DiedError())  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", dying)
        with pytest.raises(_DiedError):
            drops.run()
    drops.ask(f"ALTER TABLE {drops.table('a')} ADD COLUMN needed integer NOT NULL DEFAULT 1")
    drops.ask(f"ALTER TABLE {drops.table('a')} ALTER COLUMN needed DROP DEFAULT")
    drops.run()
    record = drops.record(dropped)
    assert (record.status, record.rows_loaded, record.error) == ("completed", 1, None)
    drops.check_accounts("a")


def test_why_a_file_was_put_off_is_not_said_any_more_while_it_is_worked_on(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops.later()
    schema = drops.schema("a", "id bigint", "more integer", name="wider.json")
    with monkeypatch.context() as patch:
        patch.setattr(zone, "prepare", failing(zone.prepare, lambda *_, **__: True, AWAY))
        with pytest.raises(TransientError):
            drops.run()
    assert drops.record(schema).error == str(AWAY)
    drops.expire(schema)
    claimed, begun, go_on, prepare = drops.sweep(), Event(), Event(), zone.prepare

    def slowly(*given: Any, **more: Any) -> None:
        begun.set()
        go_on.wait(20)
        prepare(*given, **more)

    monkeypatch.setattr(zone, "prepare", slowly)
    other = Drops(drops.environ, drops.spec)
    drops.later()
    dropped = other.drop("append", "a", "a.csv", "id,more\n1,2\n")
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(drops.work, claimed)
        begun.wait(20)
        assert drops.record(schema).error is None
        handled = pool.submit(other.handle, dropped)
        time.sleep(1)
        go_on.set()
        taken.result(20)
        handled.result(20)
    assert statuses(drops, schema, dropped) == ["completed"] * 2
    drops.check_accounts("a")


def test_a_file_that_nobody_has_tried_for_days_is_not_given_up_over_one_trouble(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drops.drop("append", "a", "a.csv", "id\n1\n")
    with monkeypatch.context() as patch:
        patch.setattr(zone, "load_files", failing(zone.load_files, lambda *_: True, AWAY))
        with pytest.raises(TransientError):
            drops.run()
        since(drops, dropped, timedelta(days=4))
        drops.expire(dropped, by=timedelta(days=4))  # Dagster was switched off
        with pytest.raises(TransientError):
            drops.run()
    record = drops.record(dropped)
    assert record.status == "processing"
    assert record.started_at is not None
    assert datetime.now(UTC) - record.started_at < timedelta(minutes=1)
    drops.expire(dropped)
    drops.run()
    drops.check_accounts("a")


def test_a_file_that_is_tried_once_a_night_is_given_up_after_three_days(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drops.drop("append", "a", "a.csv", "id\n1\n")
    monkeypatch.setattr(zone, "load_files", failing(zone.load_files, lambda *_: True, AWAY))
    for nights in range(4):
        assert nights == 0 or drops.record(dropped).status == "processing"
        with pytest.raises(TransientError):
            drops.run()
        if nights < 3:
            since(drops, dropped, timedelta(days=nights + 1))
            drops.expire(dropped, by=timedelta(hours=23))
    assert drops.record(dropped).status == "failed"


def test_a_file_that_is_moved_after_all_does_not_say_that_it_stays(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = drops.drop("append", "a", "a.csv", "id\n1\n")
    refused = PermanentError("AWS refused: no.", "Allow it.")
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "bring", failing(FileStore.bring, lambda *_: True, refused))
        patch.setattr(AuditLog, "finish", failing(AuditLog.finish, lambda *_, **__: True, AWAY))
        with pytest.raises(TransientError):
            drops.run()
    drops.expire(dropped)
    drops.run()
    record = drops.record(dropped)
    assert (record.status, record.error) == ("completed", None)
    assert record.moved_to is not None
    drops.check_accounts("a")


def test_a_file_that_cannot_be_begun_counts_no_attempt_of_the_others(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(3)]
    claimed = drops.claim(*dropped)
    begin = failing(AuditLog.begin, lambda _, record, __: record.file_name == "2.csv", AWAY)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "begin", begin)
        with pytest.raises(TransientError, match="It is away"):
            drops.work(claimed)
    assert [(drops.record(each).status, drops.record(each).attempts) for each in dropped] == [
        ("completed", 1),
        ("completed", 1),
        ("processing", 0),
    ]
    drops.work(claimed)  # as Dagster tries a step again
    assert statuses(drops, *dropped) == ["completed"] * 3
    drops.check_accounts("a")


def test_files_wait_for_a_schema_file_that_cannot_be_begun(drops: Drops, monkeypatch: pytest.MonkeyPatch) -> None:
    drops.later()
    schema = drops.schema("a", "id bigint", "more integer", name="wider.json")
    drops.later()
    waits = drops.drop("append", "a", "a.csv", "id,more\n1,2\n")
    good = drops.drop("append", "b", "b.csv", "id\n1\n")
    claimed = drops.claim(schema, waits, good)
    begin = failing(AuditLog.begin, lambda _, record, __: record.file_name == "wider.json", AWAY)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "begin", begin)
        with pytest.raises(TransientError, match="It is away"):
            drops.work(claimed)
    assert statuses(drops, schema, waits, good) == ["processing", "processing", "completed"]
    drops.work(claimed)
    assert drops.rows("a", "id, more") == [(1, 2)]
    drops.check_accounts("a", "b")


def test_a_schema_file_that_comes_along_and_cannot_be_begun_can_be_when_the_step_is_tried_again(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 1)
    drops.later()
    for table in "ab":
        drops.schema(table, "id bigint", "more integer", name=f"wider {table}.json")
    drops.later()
    dropped = [drops.drop("append", table, "f.csv", "id,more\n1,2\n") for table in "ab"]
    claimed = drops.claim(*dropped)
    begin = failing(AuditLog.begin, lambda _, record, __: record.file_name == "wider a.json", AWAY)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "begin", begin)
        with pytest.raises(TransientError, match="It is away"):
            drops.work(claimed)
    assert statuses(drops, *dropped) == ["processing", "completed"]
    drops.work(claimed)
    assert drops.rows("a", "id, more") == [(1, 2)]
    drops.check_accounts("a", "b")


def test_when_no_file_can_be_begun_all_are_left_as_they_were(drops: Drops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 1)
    dropped = [drops.drop("append", "a", f"{number}.csv", f"id\n{number}\n") for number in range(3)]
    claimed, tried = drops.claim(*dropped), []
    begin = failing(AuditLog.begin, lambda _, record, __: tried.append(record) is None, AWAY)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "begin", begin)
        with pytest.raises(TransientError, match="It is away"):
            drops.work(claimed)
    assert len(tried) == 1, "the others would meet the same"
    assert [(record.status, record.attempts) for record in map(drops.record, dropped)] == [("processing", 0)] * 3
    drops.work(claimed)
    drops.check_accounts("a")
