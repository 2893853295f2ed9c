"""Who may call a server, and which servers are not started at all."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

import pytest
from api_harness import KEY, TABLE, Client, keyed, new_log, record_of, serving
from rooms import Rooms

from rds_lake.api import serve
from rds_lake.api.app import create_app
from rds_lake.api.auth import Auth
from rds_lake.audit_log.log import AuditLog
from rds_lake.errors import ConfigError

stack_test = pytest.mark.stack
PATHS = ("/logs?table_name=sales.customers", "/logs", "/logs?nonsense=1", "/logs/0000", "/tables", "/tables?limit=0")


@pytest.fixture(scope="module")
def log(rooms: Rooms) -> AuditLog:
    made = new_log(rooms)
    assert made.claim(record_of(1)) is not None
    return made


@pytest.fixture(scope="module")
def client(log: AuditLog) -> Iterator[Client]:
    with serving(keyed(log)) as served:
        yield served


@stack_test
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": f"{KEY}, {KEY}"},
        {"X-API-Key": "Kä\xff"},
        {"Authorization": f"Bearer {KEY}"},
        {"Cookie": f"X-API-Key={KEY}"},
    ],
)
def test_without_the_right_key_nothing_is_shown_not_even_what_is_wrong_with_the_request(
    client: Client, path: str, headers: dict[str, str]
) -> None:
    reply = client.raw("GET", path, headers)
    assert (reply.status, reply.error["code"]) == (401, "unauthorized"), reply.text
    assert reply.headers["WWW-Authenticate"] == "ApiKey"
    assert KEY not in reply.text


@stack_test
def test_the_key_of_the_query_does_not_count(client: Client) -> None:
    assert client.raw("GET", f"/tables?X-API-Key={KEY}", {}).status == 401


@stack_test
def test_with_the_right_key_the_answer_comes(client: Client) -> None:
    assert client.get("/logs", table_name=TABLE).status == 200


@stack_test
def test_a_key_outside_of_ascii_works_too(log: AuditLog) -> None:
    with serving(create_app(log, auth=Auth("key", "Schlüssel-美"), dagster_url=None)) as client:
        given = "Schlüssel-美".encode().decode("latin-1")
        assert client.raw("GET", "/tables", {"X-API-Key": given}).status == 200
        assert client.raw("GET", "/tables", {"X-API-Key": "Schlüssel"}).status == 401


@stack_test
def test_health_and_the_description_take_no_key(client: Client) -> None:
    for path in ("/health", "/openapi.json", "/docs"):
        reply = client.raw("GET", path, {})
        assert reply.status == 200
        assert KEY not in reply.text


@stack_test
def test_without_a_key_and_without_iam_anybody_may_call(log: AuditLog) -> None:
    with serving(create_app(log, auth=Auth("off"), dagster_url=None)) as client:
        assert client.raw("GET", "/tables", {}).status == 200
        assert "401" not in str(client.raw("GET", "/openapi.json", {}).json["paths"])


def test_a_page_of_a_browser_that_names_this_machine_otherwise_is_refused_without_a_key(log: AuditLog) -> None:
    hosts = {"127.0.0.1": 200, "localhost:8000": 200, "[::1]": 200, "evil.example": 403, "127.0.0.1.evil.example": 403}
    with serving(create_app(log, auth=Auth("off"), dagster_url=None)) as client:
        for host, status in hosts.items():
            assert client.raw("GET", "/tables", {"Host": host}).status == status, host


@stack_test
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": KEY}, {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}])
def test_a_server_of_its_own_has_no_proof_of_iam_so_nobody_may_call(log: AuditLog, headers: dict[str, str]) -> None:
    with serving(create_app(log, auth=Auth("iam"), dagster_url=None)) as client:
        for path in PATHS:
            reply = client.raw("GET", path, headers)
            assert (reply.status, reply.error["code"]) == (403, "forbidden"), reply.text
        assert client.raw("GET", "/health", {}).status == 200


# --- which servers are started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_a_server_that_others_can_reach_is_not_started_without_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="Set RDS_LAKE_API_KEY, or listen on"):
        serve.serve(host, 0, {"RDS_LAKE_AUDIT_TABLE": "none"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_a_server_that_only_this_machine_can_reach_needs_no_key(host: str) -> None:
    assert serve.auth_for(host, {}) == Auth("off")


def test_with_a_key_a_server_may_listen_anywhere() -> None:
    assert serve.auth_for("0.0.0.0", {"RDS_LAKE_API_KEY": "k"}) == Auth("key", "k")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_iam_is_refused_where_no_api_gateway_is_in_front(host: str) -> None:
    with pytest.raises(ConfigError, match="only API Gateway can prove"):
        serve.auth_for(host, {"RDS_LAKE_API_AUTH": "iam", "RDS_LAKE_API_KEY": "k"})


def test_a_host_that_does_not_exist_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        serve.auth_for("no-such-host.invalid", {})


@pytest.mark.parametrize("auth", ["off", "none", "IAM", "key,iam"])
def test_an_unknown_mode_is_an_error_of_the_configuration(auth: str) -> None:
    with pytest.raises(ConfigError, match=f"RDS_LAKE_API_AUTH is '{auth}'"):
        serve.auth_for("127.0.0.1", {"RDS_LAKE_API_AUTH": auth})


@pytest.mark.parametrize("key", [" k", "k\n", "a\x00b", " "])
def test_a_key_that_no_header_can_carry_is_an_error_and_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve.auth_for("127.0.0.1", {"RDS_LAKE_API_KEY": key})
    assert repr(key) not in str(caught.value)


def test_the_key_does_not_show_in_logs_of_the_object() -> None:
    assert KEY not in repr(Auth("key", KEY))


@pytest.mark.parametrize(("mode", "key"), [("key", ""), ("off", "k"), ("iam", "k")])
def test_a_key_and_its_mode_come_together(mode: str, key: str) -> None:
    with pytest.raises(ValueError, match="a key belongs to"):
        Auth(mode, key)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{}, {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "nonsense"}])
def test_without_a_region_or_with_a_wrong_endpoint_no_server_is_started(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="Set AWS_DEFAULT_REGION"):
        serve.serve("127.0.0.1", 0, {})


# --- the process that `rds-lake api` runs -----------------------------------------------------------------------------


@contextmanager
def process(environ: dict[str, str], host: str = "127.0.0.1") -> Iterator[tuple[Client, "subprocess.Popen[str]"]]:
    """A process that serves the API on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    started = subprocess.Popen(
        [sys.executable, "-c", f"from rds_lake.api.serve import serve; serve({host!r}, {port})"],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Client(f"http://127.0.0.1:{port}"), started
    finally:
        started.terminate()
        started.communicate()


@stack_test
def test_serve_reads_the_environment_and_answers(rooms: Rooms, log: AuditLog) -> None:
    given = {
        "RDS_LAKE_API_KEY": KEY,
        "RDS_LAKE_AUDIT_TABLE": log.name,
        "RDS_LAKE_DAGSTER_URL": "http://127.0.0.1:3000",
    }
    with process({**os.environ, **rooms.environ, **given}) as (client, started):
        for _ in range(300):
            try:
                reply = client.get("/health")
                break
            except URLError:
                assert started.poll() is None
                time.sleep(0.1)
        assert (reply.status, reply.json["audit_table"]) == (200, log.name)
        assert client.get("/logs", table_name=TABLE).json["records"][0]["file_name"] == "file_1.csv"
        assert client.raw("GET", "/tables", {}).status == 401
        assert "server" not in client.get("/health").headers
        started.terminate()
        said, _ = started.communicate(timeout=30)
    assert KEY not in said
    assert rooms.environ["AWS_SECRET_ACCESS_KEY"] not in said


def test_nothing_of_the_api_loads_dagster() -> None:
    code = (
        "import sys, rds_lake.api.serve, rds_lake.api.lambda_handler; "
        "sys.exit(any(name.split('.')[0].startswith('dagster') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
