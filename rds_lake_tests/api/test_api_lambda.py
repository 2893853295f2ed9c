"""The Lambda function, called as API Gateway calls it: payload 2.0 of HTTP APIs, payload 1.0 of REST APIs."""

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from api_harness import KEY, TABLE, new_log, record_of, write
from rooms import Rooms

from rds_lake.api import lambda_handler
from rds_lake.api.auth import came_through_iam

pytestmark = pytest.mark.stack

ARN = "arn:aws:sts::123456789012:assumed-role/reader/session"
PAYLOADS = ("1.0", "2.0")
Call = Callable[..., tuple[int, Any]]


def event_of(
    version: str,
    path: str,
    parameters: dict[str, str] | None = None,
    *,
    method: str = "GET",
    iam: bool = False,
    key: str | None = None,
    stage: str = "$default",
) -> dict[str, Any]:
    """What API Gateway calls the function with."""
    headers = {"host": "abc.execute-api.eu-central-1.amazonaws.com", **({"x-api-key": key} if key else {})}
    if version == "2.0":
        shown = path if stage == "$default" else f"/{stage}{path}"
        context: dict[str, Any] = {
            "accountId": "123456789012",
            "stage": stage,
            "http": {"method": method, "path": shown, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.9"},
        }
        if iam:
            context["authorizer"] = {"iam": {"userArn": ARN, "accountId": "123456789012", "callerId": "A:B"}}
        return {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": shown,
            "rawQueryString": urlencode(parameters or {}),
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": False,
        }
    identity = {"sourceIp": "203.0.113.9", "userArn": ARN if iam else None}
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": parameters,
        "multiValueQueryStringParameters": {name: [value] for name, value in (parameters or {}).items()} or None,
        "requestContext": {"stage": stage, "identity": identity, "resourcePath": "/{proxy+}"},
        "body": None,
        "isBase64Encoded": False,
    }


@pytest.fixture(scope="module")
def table(rooms: Rooms) -> str:
    log = new_log(rooms)
    write(rooms.client("dynamodb"), log, [record_of(number, status="completed") for number in range(5)])
    return log.name


@pytest.fixture(autouse=True)
def _loop() -> Iterator[None]:
    """Mangum takes the thread's event loop; in a Lambda nobody else has any."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def call(rooms: Rooms, table: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Starts the function afresh with an environment, and calls it."""
    for name, value in {**rooms.environ, "RDS_LAKE_AUDIT_TABLE": table}.items():
        monkeypatch.setenv(name, value)
    lambda_handler._adapter.cache_clear()

    def run(event: dict[str, Any], **environ: str) -> tuple[int, Any]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        context = SimpleNamespace(function_name="rds-lake-api", aws_request_id="1")
        answer = lambda_handler.handler(event, context)
        assert answer["headers"]["content-type"] == "application/json"
        assert answer["isBase64Encoded"] is False
        return answer["statusCode"], json.loads(answer["body"])

    yield run
    lambda_handler._adapter.cache_clear()


IAM = {"RDS_LAKE_API_AUTH": "iam"}


@pytest.mark.parametrize("version", PAYLOADS)
def test_with_iams_proof_the_answer_comes(call: Call, version: str) -> None:
    status, body = call(event_of(version, "/logs", {"table_name": TABLE, "limit": "2"}, iam=True), **IAM)
    assert (status, [record["file_name"] for record in body["records"]]) == (200, ["file_4.csv", "file_3.csv"])
    more = {"table_name": TABLE, "limit": "2", "page_token": body["next_page_token"]}
    status, body = call(event_of(version, "/logs", more, iam=True))
    assert (status, [record["file_name"] for record in body["records"]]) == (200, ["file_2.csv", "file_1.csv"])
    status, found = call(event_of(version, f"/logs/{body['records'][0]['file_id']}", iam=True))
    assert (status, found) == (200, body["records"][0])
    assert call(event_of(version, "/tables", iam=True)) == (200, {"tables": [TABLE], "next_page_token": None})


@pytest.mark.parametrize("version", PAYLOADS)
@pytest.mark.parametrize("key", [None, KEY])
def test_without_iams_proof_it_is_403_whatever_else_stands_in_the_request(
    call: Call, version: str, key: str | None
) -> None:
    event = event_of(version, "/logs", {"table_name": TABLE}, key=key)
    event["headers"]["requestContext"] = event["headers"]["authorizer"] = json.dumps({"iam": {"userArn": ARN}})
    status, body = call(event, RDS_LAKE_API_KEY=KEY, **IAM)
    assert (status, body["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"authorizer": None},
        {"authorizer": {"iam": None}},
        {"authorizer": {"iam": {}}},
        {"authorizer": {"iam": {"userArn": ""}}},
        {"authorizer": {"iam": {"userArn": None}}},
        {"authorizer": {"iam": ARN}},
        {"authorizer": {"jwt": {"claims": {"userArn": ARN}}}},
        {"authorizer": {"lambda": {"iam": {"userArn": ARN}}}},
        {"identity": {"userArn": ARN}},
    ],
)
def test_what_looks_like_a_proof_of_an_http_api_is_none(context: dict[str, Any]) -> None:
    assert not came_through_iam({"version": "2.0", "requestContext": context})


@pytest.mark.parametrize(
    "event",
    [
        *(None, "", {}, {"requestContext": None}, {"requestContext": "arn:"}, {"identity": {"userArn": ARN}}),
        {"requestContext": {"authorizer": {"iam": {"userArn": ARN}}}},
        {"version": "1.0", "requestContext": {"identity": {"userArn": None, "user": "x", "accountId": "1"}}},
        {"version": "1.0", "requestContext": {"authorizer": {"userArn": ARN}, "identity": {}}},
    ],
)
def test_what_looks_like_a_proof_of_a_rest_api_is_none(event: Any) -> None:
    assert not came_through_iam(event)


def test_an_http_api_with_the_old_payload_proves_it_in_the_old_place() -> None:
    assert came_through_iam({"version": "1.0", "requestContext": {"identity": {"userArn": ARN}}})


@pytest.mark.parametrize("version", PAYLOADS)
def test_a_key_works_in_a_lambda_too(call: Call, version: str) -> None:
    asked = {"table_name": TABLE}
    assert call(event_of(version, "/logs", asked, key=KEY), RDS_LAKE_API_KEY=KEY)[0] == 200
    assert call(event_of(version, "/logs", asked, key="wrong"))[0] == 401
    assert call(event_of(version, "/logs", asked))[0] == 401
    assert call(event_of(version, "/logs", asked, iam=True))[0] == 401
    assert call(event_of(version, "/health"))[0] == 200


@pytest.mark.parametrize("version", PAYLOADS)
def test_a_lambda_that_anybody_could_call_answers_nobody(call: Call, version: str) -> None:
    for path in ("/logs", "/health", "/tables"):
        status, body = call(event_of(version, path))
        assert (status, body["error"]["code"]) == (503, "misconfigured")
        assert "RDS_LAKE_API_KEY" in body["error"]["message"]


def test_a_lambda_whose_configuration_is_mended_answers_at_once(call: Call) -> None:
    event = event_of("2.0", "/tables", key=KEY)
    assert call(event, RDS_LAKE_API_AUTH="nonsense")[0] == 503
    assert call(event, RDS_LAKE_API_AUTH="key", RDS_LAKE_API_KEY=KEY)[0] == 200


@pytest.mark.parametrize("stage", ["prod", "logs", "p"])
def test_the_name_of_a_stage_is_no_part_of_the_path(call: Call, stage: str) -> None:
    asked = {"table_name": TABLE}
    assert call(event_of("2.0", "/logs", asked, iam=True, stage=stage), **IAM)[0] == 200
    event = event_of("2.0", "/logs", asked, iam=True, stage="$default")
    event["requestContext"]["stage"] = "lo"  # a domain of one's own: the path comes without the stage
    assert call(event)[0] == 200
    assert call(event_of("1.0", "/logs", asked, iam=True, stage=stage))[0] == 200


@pytest.mark.parametrize("version", PAYLOADS)
def test_other_methods_and_paths_have_the_common_body(call: Call, version: str) -> None:
    status, body = call(event_of(version, "/logs", method="POST", iam=True), **IAM)
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
    status, body = call(event_of(version, "/nowhere", iam=True))
    assert (status, body["error"]["code"]) == (404, "unknown_path")


@pytest.mark.parametrize("version", PAYLOADS)
@pytest.mark.parametrize("parameter", ["table_name", "page_token", "landed_from", "limit", "status", "x" * 10])
@pytest.mark.parametrize("value", ["x" * 10_000_000, "\x00", "9" * 5000])
def test_huge_and_strange_values_are_refused(call: Call, version: str, parameter: str, value: str) -> None:
    asked = {"table_name": TABLE, parameter: value}
    status, body = call(event_of(version, "/logs", asked, iam=True), **IAM)
    assert status in {400, 404, 422}
    assert len(str(body)) < 1000
    assert call(event_of(version, f"/logs/{value[:3]}{value[3:]}", iam=True))[0] in {404, 422}


@pytest.mark.parametrize("version", PAYLOADS)
def test_half_a_surrogate_pair_is_refused(call: Call, version: str) -> None:
    event = event_of(version, "/logs", {"table_name": TABLE}, iam=True)
    if version == "2.0":
        event["rawQueryString"] = "table_name=\ud800"
    else:
        event["multiValueQueryStringParameters"] = {"table_name": ["\ud800"]}
    status, body = call(event, **IAM)
    assert (status, body["error"]["code"]) == (400, "bad_request")
    event = event_of(version, "/logs/\ud800", iam=True)
    assert call(event)[0] == 422


def test_an_event_of_something_else_is_an_error_of_whoever_sent_it(call: Call) -> None:
    with pytest.raises(RuntimeError, match="unable to infer a handler"):
        call({"source": "aws.events"}, **IAM)
