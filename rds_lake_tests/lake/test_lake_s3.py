"""What S3 and the network say in refusal, as obstore puts it, becomes one of our errors with the right remedy.

MiniStack refuses little, so these answers are made up here, as AWS documents them; the sockets and obstore are real.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import boto3
import pytest
from faults import At, bad_day
from rooms import open_store

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.lake import s3
from rds_lake.lake import store as stores
from rds_lake.lake.aws import ConflictError, GoneError
from rds_lake.lake.store import ObjectStore, Outgoing

ENVIRON = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


def refusal(code: str, message: str = "Because.") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


def kept(code: str) -> str:
    """DeleteObjects has kept an object."""
    return f"<DeleteResult><Error><Key>a/b</Key><Code>{code}</Code><Message>Because</Message></Error></DeleteResult>"


@contextmanager
def answering(status: int, body: str = "") -> Iterator[tuple[ObjectStore, list[str]]]:
    """A bucket at an endpoint that always answers the same; and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(self.command)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            environ = {**ENVIRON, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
            yield open_store(environ, "lake"), asked
        finally:
            server.shutdown()
            thread.join()


ASK = {
    "get": lambda store: store.get("a/b"),
    "size": lambda store: store.size("a/b"),
    "list": lambda store: list(store.list("a/")),
    "put": lambda store: store.put("a/b", b"x"),
    "put_if": lambda store: store.put_if("a/b", b"x", etag=None),
    "copy": lambda store: store.copy("a/b", "a/c"),
    "delete": lambda store: store.delete(["a/b", "a/c"]),
    "fetch": lambda store: store.fetch("a/b"),
}


@pytest.mark.parametrize(
    ("status", "body", "asks", "kind", "said"),
    [
        (403, refusal("AccessDenied"), ("get", "list", "put", "put_if", "copy"), ConfigError, "AccessDenied: Because"),
        (403, "", ("size",), ConfigError, "Check the AWS credentials"),
        (403, refusal("SignatureDoesNotMatch"), ("get",), ConfigError, "Check the AWS credentials"),
        (400, refusal("ExpiredToken"), ("get", "put_if"), ConfigError, "Check the AWS credentials"),
        (301, refusal("PermanentRedirect"), ("get", "list", "put_if"), ConfigError, "Set AWS_DEFAULT_REGION"),
        (400, refusal("AuthorizationHeaderMalformed"), ("get", "list"), ConfigError, "Set AWS_DEFAULT_REGION"),
        (400, "", ("size",), ConfigError, "Set AWS_DEFAULT_REGION"),
        (
            404,
            refusal("NoSuchBucket"),
            ("get", "list", "put", "put_if", "copy", "fetch"),
            ConfigError,
            "RDS_LAKE_BUCKET",
        ),
        (404, refusal("NoSuchKey"), ("copy", "fetch"), GoneError, "is gone"),
        (412, refusal("PreconditionFailed"), ("put_if",), ConflictError, "changed by another run"),
        (409, refusal("ConditionalRequestConflict"), ("put_if",), ConflictError, "changed by another run"),
        (503, refusal("SlowDown"), ("get", "list", "put", "put_if", "copy"), TransientError, "SlowDown: Because"),
        (400, refusal("InvalidRequest"), ("put",), PermanentError, "InvalidRequest: Because"),
        (200, kept("AccessDenied"), ("delete",), ConfigError, "AccessDenied"),
        (200, kept("InternalError"), ("delete",), TransientError, "InternalError"),
    ],
)
def test_what_s3_refuses_is_said_with_its_remedy(monkeypatch, status, body, asks, kind, said):
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with answering(status, body) as (store, asked):
        for ask in asks:
            asked.clear()
            with pytest.raises(RdsLakeError) as raised:
                ASK[ask](store)
            assert type(raised.value) is kind, (ask, raised.value)
            assert said in str(raised.value)
            assert str(raised.value).startswith(("AWS refused s3://lake/a/", "The bucket of s3://", "s3://lake/a/b "))
            assert "Debug source" not in str(raised.value)
            assert len(asked) <= 2 + (kind is ConflictError), f"{ask} was sent {len(asked)} times"


def test_nobody_at_the_endpoint_and_a_name_that_does_not_exist_are_told_apart(monkeypatch):
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for endpoint, why in (
        (f"http://127.0.0.1:{port}", "ConnectionRefused"),
        ("http://no-such-host.invalid", "dns error"),
    ):
        store = open_store({**ENVIRON, "AWS_ENDPOINT_URL": endpoint}, "lake")
        with pytest.raises(
            TransientError, match=rf"could not be reached .*nobody answers to GET {endpoint}.*\({why}\)"
        ):
            store.get("a/b")


def test_variables_that_are_empty_or_somebody_elses_count_for_nothing(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with answering(200, "content") as (store, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "")
        assert store.fetch("a/b") == b"content"
    environ = {**ENVIRON, "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": ""}
    assert s3.open_s3("lake", environ, boto3.Session).config["endpoint"].startswith("https://s3.")


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("eu-central-1", "https://s3.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "https://s3.us-gov-west-1.amazonaws.com"),
    ],
)
def test_the_endpoint_of_a_region_is_the_one_that_boto3_takes(monkeypatch, tmp_path, region, endpoint):
    file = tmp_path / "config"
    file.write_text(f"[default]\nregion = {region}\n", encoding="utf-8")
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    keys = {name: ENVIRON[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    config = s3.open_s3("lake", keys, boto3.Session).config
    assert (config["endpoint"], config["region"]) == (endpoint, region)


def test_an_authority_that_is_not_there_is_named():
    environ = {**ENVIRON, "AWS_ENDPOINT_URL": "https://127.0.0.1:9", "AWS_CA_BUNDLE": "/no/such/file.pem"}
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE cannot be read: .*/no/such/file\.pem.* Correct its path"):
        open_store(environ, "lake")


def write(upload: Outgoing, mebibytes: int) -> None:
    for _ in range(mebibytes):
        upload.write(b"x" * stores.MIB)


@pytest.mark.parametrize("kind", ["swallowed", "late"])
def test_an_upload_in_parts_whose_last_answer_was_lost_is_there(rooms, monkeypatch, kind):
    monkeypatch.setattr(s3, "PATIENCE", s3.timedelta(seconds=0.6))
    key = f"{rooms.name()}/large"
    with bad_day(rooms.environ["AWS_ENDPOINT_URL"], At("^POST .*uploadId", [kind])) as (address, day):
        upload = open_store({**rooms.environ, "AWS_ENDPOINT_URL": address}, rooms.store.bucket).open_upload(key)
        write(upload, 8)
        upload.close()
    assert day.done[kind] == 1
    assert rooms.store.size(key) == 8 * stores.MIB


def test_a_part_that_is_refused_is_an_error_of_ours_with_a_remedy():
    with answering(403, refusal("AccessDenied")) as (store, _):
        upload = store.open_upload("a/b")
        with pytest.raises(ConfigError, match="AccessDenied"):
            write(upload, 40)


INTERRUPTED = """
import signal
import sys
import boto3
from rds_lake.lake.s3 import open_s3
from rds_lake.lake.store import ObjectStore
environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
store = ObjectStore(open_s3("lake", {**environ, "AWS_ENDPOINT_URL": sys.argv[1]}, boto3.Session), None)
try:
    store.get("a/b")
except KeyboardInterrupt:
    print("heard")
"""


def test_ctrl_c_is_heard_while_s3_is_silent():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        command = [sys.executable, "-c", INTERRUPTED, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child, silent.accept()[0]:
            os.kill(child.pid, signal.SIGINT)
            assert child.communicate(timeout=20)[0] == "heard\n"
