"""The audit log on a real DynamoDB: who claims wins alone, who has lost changes nothing, and every record is found."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog, LostClaimError
from rds_lake.audit_log.record import ERROR_CHARACTERS, STATUSES, Record, Status, from_item, key_item, stamp, to_item
from rds_lake.errors import ConfigError, PermanentError, TransientError

pytestmark = pytest.mark.stack

LANDED = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
RECEIVER = "sales"
TABLE = "sales.customers"

Change = Callable[[AuditLog, Record], object]

CHANGES: dict[str, Change] = {
    "begin": lambda log, record: log.begin(record, "run-old"),
    "extend": lambda log, record: log.extend(record),
    "finish": lambda log, record: log.finish(record, "completed", rows_loaded=7),
    "postpone": lambda log, record: log.postpone(record, "the warehouse is away", timedelta(seconds=1)),
}


def a_file(table: str = TABLE, **more: Any) -> Record:
    """What is told of a file that nobody has claimed."""
    given = {"landed_at": LANDED, "receiver": RECEIVER, "bucket": "drop", "key": "sales/append/customers/a.csv", **more}
    return Record(table, secrets.token_hex(16), "a.csv", "append", "processing", **given)


@pytest.fixture(scope="module")
def log(rooms: Rooms) -> AuditLog:
    made = AuditLog(rooms.client("dynamodb"), rooms.name("audit_"))
    made.create()
    return made


def short(log: AuditLog, seconds: float = 0.2) -> AuditLog:
    """The same log for workers whose leases end soon."""
    return AuditLog(log._table.client, log.name, timedelta(seconds=seconds))


def claimed(log: AuditLog, record: Record | None = None) -> Record:
    mine = log.claim(record or a_file())
    assert mine is not None
    return mine


def held(log: AuditLog, record: Record) -> Record:
    found = log.find(record.file_id)
    assert found is not None
    return found


def is_open(log: AuditLog, record: Record) -> bool:
    """Whether a plain look finds the item of open files."""
    key = key_item(f"#OPEN#{record.receiver}", record.file_id)
    return "Item" in log._table.client.get_item(TableName=log.name, Key=key, ConsistentRead=True)


def race(count: int, work: Callable[[], Record | None]) -> list[Record]:
    """What several threads get that do the same at the same moment."""
    start = Barrier(count)

    def one(_: int) -> Record | None:
        start.wait()
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [won for won in pool.map(one, range(count)) if won is not None]


# --- claims ----------------------------------------------------------------------------------------------------------


def test_of_eight_that_claim_a_file_at_once_one_gets_it(log: AuditLog) -> None:
    for _ in range(15):
        record = a_file()
        [won] = race(8, lambda record=record: log.claim(record))  # type: ignore[misc]
        assert held(log, record) == won
        assert log.claim(record) is None


def test_of_eight_that_take_over_a_left_file_at_once_one_gets_it(log: AuditLog) -> None:
    for number in range(15):
        left = claimed(short(log, -1))
        by_claim = number % 2
        [won] = race(8, lambda left=left, by=by_claim: log.claim(left) if by else log.take_over(left))  # type: ignore[misc]
        assert held(log, left) == won
        assert won.owner != left.owner


def test_a_file_is_taken_over_only_after_its_lease(log: AuditLog) -> None:
    hasty = short(log, 0.5)
    first = claimed(hasty)
    until = time.monotonic() + 0.5
    tries = 0
    while (second := hasty.claim(first)) is None:
        tries += 1
        assert held(log, first).owner == first.owner
        time.sleep(0.02)
    assert time.monotonic() >= until - 0.01
    assert tries > 3
    assert second.owner != first.owner
    assert first.lease_until is not None
    assert datetime.now(UTC) >= first.lease_until


def test_a_file_is_certainly_ours_for_the_first_half_of_its_lease_only(log: AuditLog) -> None:
    mine = log.begin(claimed(log), "run")
    assert log.is_fresh(mine)
    now = datetime.now(UTC)
    assert not log.is_fresh(replace(mine, lease_until=now + log.lease / 2))
    assert log.is_fresh(replace(mine, lease_until=now + log.lease / 2 + timedelta(seconds=9)))
    assert not log.is_fresh(replace(mine, lease_until=now - timedelta(seconds=1)))
    assert not short(log, -1).is_fresh(short(log, -1).begin(claimed(log), "run"))


def test_a_lease_that_is_extended_is_not_over(log: AuditLog) -> None:
    hasty = short(log, 0.3)
    mine = claimed(hasty)
    for _ in range(4):
        time.sleep(0.15)
        mine = hasty.extend(mine)
        assert log.claim(mine) is None
        assert log.take_over(held(log, mine)) is None


def test_a_finished_file_is_never_claimed_again(log: AuditLog) -> None:
    mine = claimed(short(log, -1))
    log.finish(mine, "completed")
    assert log.claim(mine) is None
    assert log.take_over(held(log, mine)) is None
    assert log.take_over(mine) is None  # by a worker that has seen it open


def test_what_is_known_of_a_left_file_stays_with_it(log: AuditLog) -> None:
    begun = short(log, -1).begin(claimed(short(log, -1)), "run-1")
    second = claimed(log, replace(begun, attempts=0, started_at=None, run_id=None))
    assert (second.attempts, second.started_at, second.run_id) == (1, begun.started_at, "run-1")
    again = log.begin(second, "run-2")
    assert (again.attempts, again.started_at, again.run_id) == (2, begun.started_at, "run-2")
    assert held(log, again) == again


@pytest.mark.parametrize("name", CHANGES)
def test_the_old_owner_of_a_file_changes_nothing_any_more(log: AuditLog, name: str) -> None:
    hasty = short(log, -1)
    old = hasty.begin(claimed(hasty), "run-old")
    new = log.begin(claimed(log, old), "run-new")
    with pytest.raises(LostClaimError, match=r"a\.csv .* was taken over by another worker"):
        CHANGES[name](log, old)
    assert held(log, old) == new
    assert is_open(log, old)
    assert log.finish(new, "completed").status == "completed"


@pytest.mark.parametrize("name", CHANGES)
def test_a_finished_file_is_changed_by_nobody(log: AuditLog, name: str) -> None:
    mine = log.begin(claimed(log), "run-1")
    ended = log.finish(mine, "rejected", error="it has no rows")
    with pytest.raises(LostClaimError):
        CHANGES[name](log, mine)
    assert held(log, mine) == ended
    assert not is_open(log, mine)


def test_the_attempts_are_counted_where_all_see_them(log: AuditLog) -> None:
    mine = claimed(log)  # a run that is started again begins with the claim as it was made
    assert [log.begin(mine, f"run-{number}").attempts for number in range(1, 4)] == [1, 2, 3]
    assert held(log, mine).attempts == 3
    assert held(log, mine).run_id == "run-3"


def test_the_end_of_a_file_removes_it_from_the_open_ones(log: AuditLog) -> None:
    files = [claimed(log, a_file(receiver="own")) for _ in range(3)]
    assert {record.file_id for record in log.open_files("own")} == {record.file_id for record in files}
    log.finish(files[1], "failed", error="no")
    assert {record.file_id for record in log.open_files("own")} == {files[0].file_id, files[2].file_id}
    assert not is_open(log, files[1])
    assert is_open(log, files[0])
    assert log.open_files("ow") == []


def test_a_postponed_file_waits_and_does_not_count_as_tried_in_vain(log: AuditLog) -> None:
    mine = claimed(log)
    for _ in range(8):
        begun = log.begin(mine, "run-1")
        assert begun.attempts <= 2
        log.postpone(begun, "the warehouse is away", timedelta(seconds=0.1))
        told = held(log, mine)
        assert (told.status, told.error) == ("processing", "the warehouse is away")
        assert log.take_over(told) is None
        time.sleep(0.11)
        taken = log.take_over(told)
        assert taken is not None
        mine = taken


def test_a_file_that_ended_well_shows_no_error_of_before(log: AuditLog) -> None:
    begun = log.begin(claimed(log), "run-1")
    log.postpone(begun, "the warehouse is away", timedelta(seconds=-1))
    again = log.begin(claimed(log, begun), "run-2")
    ended = log.finish(again, "completed", rows_read=1, rows_loaded=1, rows_discarded=0, error=None)
    assert held(log, again) == ended
    assert ended.error is None


@pytest.mark.parametrize("text", ["x" * 5000, "Käse 美 " * 1000, "e" * ERROR_CHARACTERS])
def test_an_error_is_cut_to_what_a_record_holds(log: AuditLog, text: str) -> None:
    ended = log.finish(log.begin(claimed(log), "run-1"), "failed", error=text)
    assert held(log, ended).error == text[:ERROR_CHARACTERS] == ended.error
    begun = log.begin(claimed(log), "run-1")
    log.postpone(begun, text, timedelta(seconds=1))
    assert held(log, begun).error == text[:ERROR_CHARACTERS]


def test_a_record_is_read_as_it_was_written(log: AuditLog) -> None:
    mine = log.begin(claimed(log, a_file(etag="abc", version_id="v1", size=0)), "run-1")
    facts = {
        "rows_read": 10,
        "rows_loaded": 0,
        "rows_discarded": 10,
        "error": "Käse 美 'quoted' \\N\n",
        "content": "0" * 64,
        "report": "s3://drop/failed/report.json",
        "moved_to": "s3://drop/failed/a b+%.csv",
    }
    ended = log.finish(mine, "rejected", **facts)
    assert held(log, mine) == ended
    assert from_item(to_item(ended)) == ended
    assert {name: getattr(ended, name) for name in facts} == facts


# --- questions -------------------------------------------------------------------------------------------------------

MANY = 3000


@pytest.fixture(scope="module")
def many(log: AuditLog) -> list[Record]:
    """Records of one table, newest first: three of each second, of each status every fourth."""
    made = [
        replace(
            a_file("sales.many", landed_at=LANDED + timedelta(seconds=number // 3)),
            status=STATUSES[number % 4],
            file_id=f"{number:032x}",
        )
        for number in range(MANY)
    ]
    puts = [{"PutRequest": {"Item": to_item(record)}} for record in made]
    for start in range(0, len(puts), 25):
        answer = log._table.client.batch_write_item(RequestItems={log.name: puts[start : start + 25]})
        assert not answer["UnprocessedItems"]
    return made[::-1]


def pages(log: AuditLog, **asked: Any) -> Iterator[Sequence[Record]]:
    token = None
    while True:
        page = log.records("sales.many", token=token, **asked)
        yield page.records
        token = page.token
        if token is None:
            return


@pytest.mark.parametrize("status", [None, *STATUSES])
@pytest.mark.parametrize("limit", [7, 400, MANY])
def test_all_records_come_exactly_once_over_the_pages(
    log: AuditLog, many: list[Record], limit: int, status: Status | None
) -> None:
    if limit < 100:  # many pages of few records
        since = many[100].landed_at
        wanted = [record for record in many if record.landed_at >= since]
    else:
        since, wanted = None, many
    wanted = [record for record in wanted if status in {None, record.status}]
    found = list(pages(log, limit=limit, status=status, since=since))
    assert [record for page in found for record in page] == wanted
    assert {len(page) for page in found[:-1]} <= {limit}
    assert len(found) == max(1, -(-len(wanted) // limit))


def test_records_that_come_while_somebody_pages_neither_hide_nor_repeat_others(log: AuditLog) -> None:
    files = [claimed(log, a_file("sales.moving", landed_at=LANDED + timedelta(minutes=n))) for n in range(20)]
    first = log.records("sales.moving", limit=5)
    claimed(log, a_file("sales.moving", landed_at=LANDED + timedelta(hours=9)))  # newer than the page
    claimed(log, a_file("sales.moving", landed_at=LANDED + timedelta(minutes=17, seconds=30)))  # in it
    rest = log.records("sales.moving", limit=100, token=first.token)
    assert [*first.records, *rest.records] == files[::-1]


def test_the_edges_of_a_time_belong_to_it(log: AuditLog, many: list[Record]) -> None:
    at = LANDED + timedelta(seconds=100)
    before, after = at - timedelta(microseconds=1), at + timedelta(microseconds=1)
    exact = {record.file_id for record in many if record.landed_at == at}
    assert len(exact) == 3

    def ids(**asked: Any) -> set[str]:
        return {record.file_id for page in pages(log, **asked) for record in page}

    assert ids(since=at, until=at) == exact
    assert ids(since=before, until=after) == exact
    assert ids(since=after, until=after) == set()
    assert ids(since=after, until=before) == set()
    assert exact <= ids(since=at, limit=1000)
    assert exact <= ids(until=at, limit=1000)
    assert not exact & ids(since=after, limit=1000)
    assert not exact & ids(until=before, limit=1000)
    assert len(ids(since=at, limit=1000)) + len(ids(until=before, limit=1000)) == MANY


def test_a_token_that_is_none_is_refused(log: AuditLog) -> None:
    for token in ("x", "###", "aGVsbG8", "=", "Ä"):
        with pytest.raises(ValueError, match="no page token"):
            log.records(TABLE, token=token)


def test_the_records_of_250_files_are_found_at_once(log: AuditLog) -> None:
    files = [claimed(log, a_file("sales.more")) for _ in range(250)]
    asked = [record.file_id for record in files]
    found = log.find_all([*asked, *asked[:9], "unknown"])
    assert found == {record.file_id: record for record in files}
    assert log.find_all([]) == {}
    assert log.find("unknown") is None


def test_the_tables_that_have_records_are_named_in_order(rooms: Rooms) -> None:
    log = AuditLog(rooms.client("dynamodb"), rooms.name("audit_"))
    assert log.create()
    assert not log.create()
    assert log.tables() == []
    for table in ("sales.b", "sales.a", "feed", "sales.a"):
        claimed(log, a_file(table))
    assert log.tables() == ["feed", "sales.a", "sales.b"]
    assert log.tables(after="feed", limit=1) == ["sales.a"]


def test_a_moment_in_a_key_sorts_as_time_does() -> None:
    moments = [LANDED + timedelta(microseconds=1) * 7**n for n in range(18)]
    assert sorted(map(stamp, moments)) == [stamp(moment) for moment in moments]
    east = timedelta(hours=5, minutes=30)
    assert {len(stamp(moment)) for moment in (*moments, LANDED.replace(year=1970))} == {27}
    assert stamp(LANDED.astimezone(tz=None)) == stamp(LANDED)
    assert stamp(LANDED + east) == "2026-11-20T15:30:00.000000Z"


# --- troubles --------------------------------------------------------------------------------------------------------

QUESTIONS: dict[str, Callable[[AuditLog], object]] = {
    "claim": lambda log: log.claim(a_file()),
    "begin": lambda log: log.begin(a_file(owner="me"), "run"),
    "finish": lambda log: log.finish(a_file(owner="me"), "failed"),
    "find": lambda log: log.find("x"),
    "open_files": lambda log: log.open_files(RECEIVER),
    "records": lambda log: log.records(TABLE),
    "tables": lambda log: log.tables(),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_missing_audit_table_is_named_with_the_command_that_makes_it(rooms: Rooms, name: str) -> None:
    nowhere = AuditLog(rooms.client("dynamodb"), "no_such_table")
    with pytest.raises(ConfigError, match=r"no_such_table.*rds-lake files setup"):
        QUESTIONS[name](nowhere)


def refusing(rooms: Rooms, log: AuditLog, operation: str, *codes: str, pauses: list[float] | None = None) -> AuditLog:
    """The same log over a client whose first requests are refused with these codes, as AWS refuses them.

    A code after a colon is the reason of a cancelled transaction: `TransactionCanceledException:ThrottlingError`.
    """
    access = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    client = boto3.client(
        "dynamodb",
        endpoint_url=rooms.environ["AWS_ENDPOINT_URL"],
        region_name=rooms.environ["AWS_DEFAULT_REGION"],
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        **{name: rooms.environ[variable] for name, variable in access.items()},
    )
    left = list(codes)

    def refuse(request: Any, **_: Any) -> AWSResponse | None:
        if not left:
            return None
        code, _, reason = left.pop(0).partition(":")
        told: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}
        if reason:
            told["CancellationReasons"] = [{"Code": "None"}, {"Code": reason, "Message": "later"}]
        headers = {"content-type": "application/x-amz-json-1.0"}
        return _Answer(request.url, 400, headers, json.dumps(told).encode())

    client.meta.events.register(f"before-send.dynamodb.{operation}", refuse)
    return AuditLog(client, log.name, sleep=(pauses if pauses is not None else []).append)


class _Answer(AWSResponse):
    """An answer that did not come over the network."""

    def __init__(self, url: str, status: int, headers: Any, content: bytes) -> None:
        super().__init__(url, status, headers, None)
        self._content = content


PASSING = ("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded")

TOGETHER: dict[str, Callable[[AuditLog, Record], object]] = {
    "claim": lambda log, _: log.claim(a_file()),
    "finish": lambda log, record: log.finish(record, "completed"),
    "write": lambda log, record: log.write(replace(record, status="completed")),
}


def cancelled(reason: str, times: int) -> list[str]:
    return [f"TransactionCanceledException:{reason}"] * times


@pytest.mark.parametrize("reason", PASSING)
@pytest.mark.parametrize("name", TOGETHER)
def test_what_meets_others_or_finds_no_room_at_that_moment_is_tried_again(
    rooms: Rooms, log: AuditLog, name: str, reason: str
) -> None:
    mine = log.begin(claimed(log), "run-1")
    pauses: list[float] = []
    done = TOGETHER[name](refusing(rooms, log, "TransactWriteItems", *cancelled(reason, 4), pauses=pauses), mine)
    assert len(pauses) == 4
    if name == "claim":
        assert isinstance(done, Record)
        assert held(log, done) == done
    else:
        assert held(log, mine).status == "completed"
    assert is_open(log, mine) == (name != "finish")


@pytest.mark.parametrize("reason", PASSING)
@pytest.mark.parametrize("name", TOGETHER)
def test_what_finds_no_room_again_and_again_is_left_for_later(
    rooms: Rooms, log: AuditLog, name: str, reason: str
) -> None:
    mine = log.begin(claimed(log), "run-1")
    pauses: list[float] = []
    busy = refusing(rooms, log, "TransactWriteItems", *cancelled(reason, 9), pauses=pauses)
    with pytest.raises(
        TransientError, match=r"a\.csv could not be written: .* changes all the time, or has no room"
    ) as e:
        TOGETHER[name](busy, mine)
    assert not isinstance(e.value, LostClaimError)
    assert held(log, mine) == mine
    assert len(pauses) == 4
    assert all(0.5 * 0.05 * 2**n <= seconds <= 1.5 * 0.05 * 2**n for n, seconds in enumerate(pauses))


def test_no_two_wait_for_the_same_time(rooms: Rooms, log: AuditLog) -> None:
    waited = set()
    for _ in range(5):
        pauses: list[float] = []
        refusing(rooms, log, "TransactWriteItems", *cancelled("TransactionConflict", 1), pauses=pauses).claim(a_file())
        waited.add(pauses[0])
    assert len(waited) == 5


@pytest.mark.parametrize("name", TOGETHER)
def test_a_transaction_that_is_wrong_is_not_tried_again(rooms: Rooms, log: AuditLog, name: str) -> None:
    mine = log.begin(claimed(log), "run-1")
    pauses: list[float] = []
    busy = refusing(rooms, log, "TransactWriteItems", *cancelled("ValidationError", 1), pauses=pauses)
    with pytest.raises(PermanentError, match="TransactionCanceledException"):
        TOGETHER[name](busy, mine)
    assert pauses == []


def test_an_end_whose_condition_does_not_hold_is_lost_at_once(rooms: Rooms, log: AuditLog) -> None:
    mine = log.begin(claimed(log), "run-1")
    pauses: list[float] = []
    busy = refusing(rooms, log, "TransactWriteItems", *cancelled("ConditionalCheckFailed", 1), pauses=pauses)
    with pytest.raises(LostClaimError):
        busy.finish(mine, "completed")
    assert pauses == []


def test_those_who_claim_files_of_one_table_share_no_item(rooms: Rooms, log: AuditLog) -> None:
    asked: list[tuple[str, str]] = []
    watched = refusing(rooms, log, "none")
    watched._table.client.meta.events.register(
        "before-call.dynamodb",
        lambda model, params, **_: asked.append((model.name, params["body"].decode())),
    )
    for _ in range(3):
        claimed(watched, a_file("sales.shared"))
    watched.write(replace(a_file("sales.shared"), status="completed"))
    names = [(name, "#TABLES" in body) for name, body in asked]
    assert names == [("PutItem", True), *[("TransactWriteItems", False)] * 4]
    assert "sales.shared" in log.tables()


def test_a_table_is_among_those_with_records_before_its_first_one_is(rooms: Rooms, log: AuditLog) -> None:
    busy = refusing(rooms, log, "TransactWriteItems", *cancelled("TransactionConflict", 9))
    with pytest.raises(TransientError):
        busy.claim(a_file("sales.crashed"))
    assert log.knows("sales.crashed")
    assert log.records("sales.crashed").records == ()
    assert claimed(log, a_file("sales.crashed"))


@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    ],
)
def test_a_table_that_is_asked_too_much_is_worth_another_try(rooms: Rooms, log: AuditLog, code: str) -> None:
    mine = claimed(log)
    with pytest.raises(TransientError, match="Try again"):
        refusing(rooms, log, "UpdateItem", code).extend(mine)
    assert log.extend(mine).owner == mine.owner
