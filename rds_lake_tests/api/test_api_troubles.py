"""What the API answers when the audit log does not, and that its answers give nothing away."""

import logging
import socket
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from api_harness import KEY, Client, keyed, serving
from botocore.config import Config
from botocore.stub import Stubber
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record

SECRET = "arn:aws:iam::123456789012:user/secret with AKIASECRET and token FQoGZXIvYXdzE"
DATA = ("/logs?table_name=a", "/logs/0000", "/tables")


def local_client(port: int = 9) -> Any:
    return boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="AKIASECRET",
        aws_secret_access_key="secret",
        region_name="eu-central-1",
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def refusing(code: str, path: str) -> Iterator[Client]:
    """The API of a log whose every question DynamoDB refuses."""
    client = local_client()
    stubber = Stubber(client)
    operation = "batch_get_item" if path in {"/logs/0000", "/health"} else "query"
    stubber.add_client_error(operation, service_error_code=code, service_message=SECRET, http_status_code=400)
    with stubber, serving(keyed(AuditLog(client, "audit"))) as served:
        yield served


@pytest.mark.stack
@pytest.mark.parametrize("path", [*DATA, "/health"])
def test_a_log_that_does_not_exist_is_503_and_the_answer_says_how_to_make_it(rooms: Rooms, path: str) -> None:
    with serving(keyed(AuditLog(rooms.client("dynamodb"), "no_such_table"))) as client:
        reply = client.get(path)
    assert (reply.status, reply.error["code"]) == (503, "misconfigured"), reply.text
    assert "no_such_table" in reply.error["message"]
    assert "RDS_LAKE_AUDIT_TABLE" in reply.error["remedy"]


@pytest.mark.parametrize("path", [*DATA, "/health"])
def test_a_log_that_cannot_be_reached_is_503_and_may_be_asked_again(free_port: int, path: str) -> None:
    with serving(keyed(AuditLog(local_client(free_port), "audit"))) as client:
        reply = client.get(path)
    assert (reply.status, reply.error["code"]) == (503, "unavailable"), reply.text
    assert reply.headers["Retry-After"] == "5"
    assert "EndpointConnectionError" in reply.error["message"]
    assert str(free_port) not in reply.text


@pytest.mark.parametrize("path", [*DATA, "/health"])
@pytest.mark.parametrize(
    ("aws", "status", "code"),
    [
        ("AccessDeniedException", 503, "misconfigured"),
        ("UnrecognizedClientException", 503, "misconfigured"),
        ("ExpiredTokenException", 503, "misconfigured"),
        ("ThrottlingException", 503, "unavailable"),
        ("ProvisionedThroughputExceededException", 503, "unavailable"),
        ("RequestLimitExceeded", 503, "unavailable"),
        ("ValidationException", 500, "internal"),
    ],
)
def test_what_aws_says_is_for_the_log_of_the_server_only(
    path: str, aws: str, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for client in refusing(aws, path):
            reply = client.get(path)
    if path == "/health":
        status, code = 503, "misconfigured" if code == "internal" else code
    assert (reply.status, reply.error["code"]) == (status, code), reply.text
    assert aws in reply.error["message"]
    for secret in ("AKIASECRET", "arn:aws", "FQoGZXIvYXdzE", KEY):
        assert secret not in reply.text
    assert (reply.headers["Retry-After"] == "5") == (code == "unavailable")
    assert SECRET in caplog.text


class Broken(AuditLog):
    """A log with a fault of its own."""

    def find(self, file_id: str) -> Record | None:
        raise RuntimeError(f"{SECRET}, for {file_id}")


def test_a_fault_of_ours_is_500_with_the_common_body_and_the_server_lives_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(keyed(Broken(local_client(), "audit"))) as client:
        for _ in range(2):
            reply = client.get("/logs/0000")
            assert (reply.status, reply.error["code"]) == (500, "internal"), reply.text
            assert "AKIASECRET" not in reply.text
    assert capsys.readouterr().err.count(f"RuntimeError: {SECRET}") == 2


def test_without_credentials_it_is_503_and_nothing_is_looked_for_on_the_network(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.Session().client(
        "dynamodb", endpoint_url=f"http://127.0.0.1:{free_port}", region_name="eu-central-1"
    )
    with serving(keyed(AuditLog(client, "audit"))) as served:
        reply = served.get("/health")
    assert (reply.status, reply.error["code"]) == (503, "misconfigured"), reply.text
