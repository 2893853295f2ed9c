"""Each endpoint, asked over HTTP at a real server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from api_harness import DAGSTER, LANDED, TABLE, Client, keyed, new_log, record_of, serving, write
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record, key_item

pytestmark = pytest.mark.stack

HOSTILE = 'Käse 美 "quoted" & more? #1+%41/x'
FIELDS = {
    *("table_name", "file_id", "file_name", "action", "status", "landed_timestamp", "processing_started"),
    *("processing_ended", "run_id", "run_url", "rows_read", "rows_loaded", "rows_discarded", "error", "location"),
    *("moved_to", "report", "size", "etag", "version_id", "attempts"),
}


@pytest.fixture(scope="module")
def log(rooms: Rooms) -> AuditLog:
    return new_log(rooms)


@pytest.fixture(scope="module")
def records(log: AuditLog) -> dict[str, Record]:
    """One record of each kind, by its status, and one of another table."""
    made: dict[str, Record] = {}
    for number, status in enumerate(("completed", "rejected", "failed", "processing")):
        claimed = log.claim(record_of(number, landed_at=LANDED + timedelta(seconds=number)))
        assert claimed is not None
        made[status] = log.begin(claimed, f"run-{number}")
    facts = {"rows_read": 10, "rows_loaded": 9, "rows_discarded": 1, "report": "s3://lake/report.json"}
    made["completed"] = log.finish(made["completed"], "completed", moved_to="s3://lake/archived/file_0.csv", **facts)
    made["rejected"] = log.finish(made["rejected"], "rejected", error="the header lacks a column")
    made["failed"] = log.finish(made["failed"], "failed", error="Käse 美\x00")
    hostile = log.claim(record_of(0, HOSTILE, landed_at=LANDED.replace(microsecond=120), bucket=None))
    assert hostile is not None
    return {**made, "hostile": hostile}


@pytest.fixture(scope="module")
def client(log: AuditLog, records: dict[str, Record]) -> Iterator[Client]:
    with serving(keyed(log)) as served:
        yield served


def ids(client: Client, **parameters: object) -> list[str]:
    reply = client.get("/logs", **{"table_name": TABLE, **parameters})
    assert reply.status == 200, reply.text
    return [record["file_id"] for record in reply.json["records"]]


# --- GET /logs --------------------------------------------------------------------------------------------------------


def test_the_records_of_a_table_come_newest_first(client: Client, records: dict[str, Record]) -> None:
    order = ["processing", "failed", "rejected", "completed"]
    assert ids(client) == [records[status].file_id for status in order]


def test_a_record_says_all_that_is_known_and_hides_owner_and_lease(client: Client, records: dict[str, Record]) -> None:
    record = records["completed"]
    shown = client.get("/logs", table_name=TABLE, status="completed").json["records"][0]
    assert set(shown) == FIELDS
    assert shown == {
        **shown,
        "table_name": TABLE,
        "file_name": "file_0.csv",
        "action": "append",
        "status": "completed",
        "landed_timestamp": "2026-11-20T10:00:00Z",
        "run_id": "run-0",
        "run_url": f"{DAGSTER}runs/run-0",
        "rows_read": 10,
        "rows_loaded": 9,
        "rows_discarded": 1,
        "error": None,
        "location": f"s3://drop/{TABLE}/append/file_0.csv",
        "moved_to": "s3://lake/archived/file_0.csv",
        "report": "s3://lake/report.json",
        "size": 1000,
        "etag": record.etag,
        "version_id": None,
        "attempts": 1,
    }
    assert datetime.fromisoformat(shown["processing_started"]) == record.started_at
    assert datetime.fromisoformat(shown["processing_ended"]) == record.ended_at
    assert record.owner not in str(shown)


def test_a_record_of_no_object_and_no_run_says_null(client: Client) -> None:
    shown = client.get("/logs", table_name=HOSTILE).json["records"][0]
    assert set(shown) == FIELDS
    assert {name for name, value in shown.items() if value is None} == {
        *("processing_started", "processing_ended", "run_id", "run_url", "rows_read", "rows_loaded"),
        *("rows_discarded", "error", "location", "moved_to", "report", "version_id"),
    }


def test_run_urls_are_null_when_nobody_knows_where_the_ui_is(log: AuditLog, records: dict[str, Record]) -> None:
    with serving(keyed(log, None)) as client:
        shown = client.get(f"/logs/{records['completed'].file_id}").json
    assert (shown["run_id"], shown["run_url"]) == ("run-0", None)


@pytest.mark.parametrize("status", ["processing", "completed", "rejected", "failed"])
def test_a_status_leaves_the_others_out(client: Client, records: dict[str, Record], status: str) -> None:
    assert ids(client, status=status) == [records[status].file_id]


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-20T10:00:01Z",
        "2026-11-20T10:00:01",
        "2026-11-20T10:00:01.0Z",
        "2026-11-20T10:00:01.000000Z",
        "2026-11-20T11:00:01+01:00",
        "2026-11-21T00:00:01+14:00",
        "2026-11-20T10:00:01.000-00:00",
    ],
)
def test_an_exact_moment_finds_its_record_in_any_spelling(
    client: Client, records: dict[str, Record], moment: str
) -> None:
    assert ids(client, landed_timestamp=moment) == [records["rejected"].file_id]


def test_an_exact_moment_finds_no_neighbour(client: Client) -> None:
    assert ids(client, landed_timestamp="2026-11-20T10:00:01.000001Z") == []
    assert ids(client, landed_timestamp="2026-11-20T10:00:00.999999Z") == []


def test_a_timestamp_that_a_record_shows_finds_it_again(client: Client, records: dict[str, Record]) -> None:
    shown = client.get(f"/logs/{records['hostile'].file_id}").json["landed_timestamp"]
    assert shown == "2026-11-20T10:00:00.000120Z"
    assert ids(client, table_name=HOSTILE, landed_timestamp=shown) == [records["hostile"].file_id]


def test_both_ends_of_a_span_belong_to_it(client: Client, records: dict[str, Record]) -> None:
    first, last = "2026-11-20T10:00:01Z", "2026-11-20T10:00:02Z"
    both = [records["failed"].file_id, records["rejected"].file_id]
    assert ids(client, landed_from=first, landed_to=last) == both
    assert ids(client, landed_from=first) == [records["processing"].file_id, *both]
    assert ids(client, landed_to=last) == [*both, records["completed"].file_id]
    assert ids(client, landed_from=first, landed_to=first) == both[1:]
    assert ids(client, landed_from="1970-01-01T00:00:00+14:00", landed_to="2999-12-31T23:59:59-14:00") == ids(client)


def test_a_filter_that_leaves_nothing_answers_an_empty_list(client: Client) -> None:
    reply = client.get("/logs", table_name=TABLE, landed_to="2000-01-01T00:00:00Z")
    assert (reply.status, reply.json) == (200, {"records": [], "next_page_token": None})


def test_a_limit_is_held_and_the_last_page_has_no_token(client: Client) -> None:
    sizes = [len(page["records"]) for page in client.pages("/logs", table_name=TABLE, limit=3)]
    assert sizes == [3, 1]
    assert [len(page["records"]) for page in client.pages("/logs", table_name=TABLE, limit=2)] == [2, 2]
    assert [len(page["records"]) for page in client.pages("/logs", table_name=TABLE, limit=4)] == [4]


@pytest.mark.parametrize(
    "name", ["sales.custmers", "#TABLES", "#FILE#0", "#OPEN#drop", "#", "\x00", "x\x00y", "�", " ", "SALES.CUSTOMERS"]
)
def test_a_table_without_records_is_404_and_the_answer_says_where_the_names_are(client: Client, name: str) -> None:
    reply = client.get("/logs", table_name=name)
    assert reply.status == 404, reply.text
    assert (reply.error["code"], reply.error["remedy"]) == ("unknown_table", "GET /tables lists them.")
    assert name in reply.error["message"]


# --- wrong parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "table_name"),
        ({"table_name": ""}, "table_name"),
        ({"table_name": "x" * 256}, "table_name"),
        ({"table_name": "美" * 2049}, "table_name"),
        *(
            ({"table_name": TABLE, "limit": limit}, "limit")
            for limit in ("0", "1001", "-1", "", "ten", "1.0", "1_0", " 1", "+1", "1e2", "9" * 5000, "٣", "0x10")
        ),
        *(
            ({"table_name": TABLE, name: moment}, name)
            for name in ("landed_timestamp", "landed_from", "landed_to")
            for moment in (
                *("", "yesterday", "2026-11-20", "1763632800", "2026-11-20 10:00:00", "2026-11-20T10:00"),
                *("0000-01-01T00:00:00Z", "9999-99-99T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-20T24:00:00Z"),
                *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z"),
                *("2026-11-20T10:00:60Z", "2026-11-20T10:00:00+24:00", "2026-11-20T10:00:00.1234567Z"),
                *(
                    "2026-11-20T10:00:00 01:00",
                    "202\N{FULLWIDTH DIGIT SIX}-11-20T10:00:00Z",
                    "2026-11-20T10:00:00Z\n",
                    "2026-W47-5T10:00:00Z",
                ),
            )
        ),
        *(({"table_name": TABLE, "status": status}, "status") for status in ("", "Completed", "done", "null")),
    ],
)
def test_a_wrong_parameter_is_named_and_the_answer_says_what_is_right(
    client: Client, parameters: dict[str, str], named: str
) -> None:
    reply = client.get("/logs", **parameters)
    assert (reply.status, reply.error["code"]) == (422, "invalid_parameter"), reply.text
    assert reply.error["message"].startswith(named)
    assert reply.error["remedy"].startswith("Give ")
    assert len(reply.text) < 1000


@pytest.mark.parametrize(
    ("path", "query", "known"),
    [
        ("/logs", f"table_name={TABLE}&stauts=failed", "landed_from"),
        ("/logs", f"table_name={TABLE}&Status=failed", "landed_from"),
        ("/logs", f"table_name={TABLE}&=x", "landed_from"),
        ("/logs", f"table_name={TABLE}&%ff%00={'x' * 2000}", "landed_from"),
        ("/tables", "table_name=x", "page_token"),
        ("/logs/0000", "table_name=x", "none"),
    ],
)
def test_a_parameter_that_does_not_exist_is_refused(client: Client, path: str, query: str, known: str) -> None:
    reply = client.get(f"{path}?{query}")
    assert (reply.status, reply.error["code"]) == (422, "invalid_parameter"), reply.text
    assert reply.error["message"].startswith("There is no parameter ")
    assert known in reply.error["remedy"]


@pytest.mark.parametrize("query", ["table_name=a&table_name=a", f"table_name={TABLE}&limit=1&limit=2"])
def test_a_parameter_that_is_given_twice_is_refused(client: Client, query: str) -> None:
    reply = client.get(f"/logs?{query}")
    assert (reply.status, reply.error["code"]) == (422, "invalid_parameter"), reply.text
    assert "more than once" in reply.error["message"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"landed_timestamp": "2026-11-20T10:00:00Z", "landed_from": "2026-11-20T10:00:00Z"},
        {"landed_timestamp": "2026-11-20T10:00:00Z", "landed_to": "2026-11-20T10:00:00Z"},
        {"landed_from": "2026-11-20T10:00:00.000001Z", "landed_to": "2026-11-20T10:00:00Z"},
        {"landed_from": "2026-11-20T10:00:00Z", "landed_to": "2026-11-20T10:30:00+01:00"},
    ],
)
def test_parameters_that_contradict_each_other_are_400(client: Client, parameters: dict[str, str]) -> None:
    reply = client.get("/logs", table_name=TABLE, **parameters)
    assert (reply.status, reply.error["code"]) == (400, "contradiction"), reply.text


@pytest.mark.parametrize("size", [3_000, 30_000, 10_000_000])
def test_a_huge_request_is_refused(client: Client, size: int) -> None:
    for target in (f"/logs?table_name={'x' * size}", f"/logs/{'x' * size}", f"/tables?page_token={'x' * size}"):
        try:
            reply = client.raw("GET", target)
        except (BrokenPipeError, ConnectionResetError):  # uvicorn closes what has sent more than 64 KB of a head
            assert size > 65_536
        else:
            assert reply.status in {400, 422}, reply.text
    assert client.get("/health").status == 200


# --- page tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/logs", "/tables"])
@pytest.mark.parametrize("token", ["", "x", "%%%", "MjAyNg", "=" * 8, "null", "\x00", "美", "A" * 5000, "-_-_" * 20])
def test_a_page_token_that_is_none_is_400(client: Client, path: str, token: str) -> None:
    given = {"table_name": TABLE} if path == "/logs" else {}
    reply = client.get(path, page_token=token, **given)
    assert (reply.status, reply.error["code"]) == (400, "invalid_page_token"), reply.text


def test_a_page_token_of_another_list_is_400(client: Client) -> None:
    token = client.get("/logs", table_name=TABLE, limit=1).json["next_page_token"]
    names = client.get("/tables", limit=1).json["next_page_token"]
    for path, given in (
        ("/logs", {"table_name": HOSTILE, "page_token": token}),
        ("/logs", {"table_name": TABLE, "page_token": token, "status": "failed"}),
        ("/logs", {"table_name": TABLE, "page_token": token, "landed_from": "2026-11-20T10:00:03Z"}),
        ("/logs", {"table_name": TABLE, "page_token": names}),
        ("/logs", {"table_name": TABLE, "page_token": token[:-1]}),
        ("/logs", {"table_name": TABLE, "page_token": token.swapcase()}),
        ("/tables", {"page_token": token}),
    ):
        reply = client.get(path, **given)
        assert (reply.status, reply.error["code"]) == (400, "invalid_page_token"), reply.text
    assert client.get("/logs", table_name=TABLE, page_token=token).status == 200


def test_a_page_token_goes_on_with_another_limit_and_another_spelling_of_the_same_moment(client: Client) -> None:
    token = client.get("/logs", table_name=TABLE, limit=1, landed_from="2026-11-20T10:00:00Z").json["next_page_token"]
    assert len(ids(client, page_token=token, limit=1000, landed_from="2026-11-20T11:00:00+01:00")) == 3


# --- GET /logs/{file_id}, /tables, /health ----------------------------------------------------------------------------


def test_a_file_id_finds_the_same_record_as_the_list(client: Client, records: dict[str, Record]) -> None:
    reply = client.get(f"/logs/{records['failed'].file_id}")
    assert reply.status == 200
    assert reply.json == client.get("/logs", table_name=TABLE, status="failed").json["records"][0]
    assert reply.json["error"] == "Käse 美\x00"


@pytest.mark.parametrize("file_id", ["0000", "#TABLES", "美", "\x00", "x" * 200, "FILE", ".", "%"])
def test_a_file_id_of_no_record_is_404(client: Client, file_id: str) -> None:
    reply = client.get(f"/logs/{quote(file_id, safe='')}")
    assert (reply.status, reply.error["code"]) == (404, "unknown_file"), reply.text


def test_a_file_id_that_is_too_long_is_refused(client: Client) -> None:
    reply = client.get(f"/logs/{'x' * 201}")
    assert (reply.status, reply.error["code"]) == (422, "invalid_parameter"), reply.text
    assert reply.error["message"].startswith("file_id is ")


def test_the_tables_are_listed_in_pages(client: Client) -> None:
    assert client.get("/tables").json == {"tables": [HOSTILE, TABLE], "next_page_token": None}
    assert [page["tables"] for page in client.pages("/tables", limit=1)] == [[HOSTILE], [TABLE]]


def test_without_tables_the_list_is_empty(rooms: Rooms) -> None:
    with serving(keyed(new_log(rooms))) as client:
        assert client.get("/tables").json == {"tables": [], "next_page_token": None}


def test_a_partition_of_the_log_itself_is_no_table_even_if_it_stands_among_them(rooms: Rooms) -> None:
    log = new_log(rooms)
    write(rooms.client("dynamodb"), log, [record_of(1, name) for name in ("a", "b", "c")])
    rooms.client("dynamodb").put_item(TableName=log.name, Item=key_item("#TABLES", "#OPEN#drop"))
    with serving(keyed(log)) as client:
        assert [page["tables"] for page in client.pages("/tables", limit=2)] == [["a", "b"], ["c"]]
        assert client.get("/logs", table_name="#OPEN#drop").status == 404


def test_health_names_the_table_that_answers(client: Client, log: AuditLog) -> None:
    reply = client.raw("GET", "/health", {})
    assert (reply.status, reply.json) == (200, {"status": "ok", "audit_table": log.name})


@pytest.mark.parametrize("query", ["?x=1", "?limit=1", "?x=1&x=1", "?=", "?x"])
def test_health_takes_no_parameter(client: Client, query: str) -> None:
    reply = client.raw("GET", f"/health{query}", {})
    assert (reply.status, reply.error["code"], reply.error["remedy"]) == (422, "invalid_parameter", "It takes none.")


# --- other paths and methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/logs/", "/log", "/logs/a/b", "/health/", "/tables/x", "/%00", "//logs"])
def test_an_unknown_path_is_404_with_the_common_body(client: Client, path: str) -> None:
    reply = client.raw("GET", path)
    assert (reply.status, reply.error["code"]) == (404, "unknown_path"), reply.text


@pytest.mark.parametrize("path", ["/logs", "/logs/0000", "/tables", "/health"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"])
def test_another_method_is_405_and_the_answer_names_the_one_that_goes(client: Client, path: str, method: str) -> None:
    reply = client.raw(method, path)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")
    assert method == "HEAD" or reply.error["code"] == "method_not_allowed"


def test_moments_without_a_zone_do_not_follow_the_zone_of_the_machine(
    client: Client, records: dict[str, Record]
) -> None:
    local = (LANDED + timedelta(seconds=2)).astimezone(timezone(timedelta(hours=-7, minutes=-30)))
    assert ids(client, landed_timestamp=local.isoformat()) == [records["failed"].file_id]
    assert ids(client, landed_timestamp=local.replace(tzinfo=None).isoformat()) == []
    assert ids(client, landed_timestamp=local.astimezone(UTC).replace(tzinfo=None).isoformat()) == [
        records["failed"].file_id
    ]
