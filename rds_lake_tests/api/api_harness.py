"""The API under test: an audit log of its own, a real server, and a client that knows nothing of FastAPI."""

import hashlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPMessage
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

import uvicorn
from fastapi import FastAPI
from rooms import Rooms

from rds_lake.api.app import create_app
from rds_lake.api.auth import Auth
from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import TABLES, Record, identity_key, key_item, pointer, to_item

KEY = "a-key-of-the-tests"
TABLE = "sales.customers"
DAGSTER = "http://dagster.example:3000/"
LANDED = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
BATCH = 25
"""Items that one BatchWriteItem takes."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, str]:
        """The common body of errors; anything else in its place fails the test."""
        body = self.json
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"code", "message", "remedy"}, body
        assert all(body["error"].values()), body
        return body["error"]


@dataclass(frozen=True)
class Client:
    """Speaks HTTP to a server."""

    address: str
    headers: dict[str, str] = field(default_factory=lambda: {"X-API-Key": KEY})

    def get(self, path: str, **parameters: object) -> Reply:
        """Ask for a path; parameters are encoded here."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        request = urllib.request.Request(self.address + path + query, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Reply(answer.status, answer.headers, answer.read().decode())
        except HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read().decode())

    def raw(self, method: str, target: str, headers: dict[str, str] | None = None) -> Reply:
        """Ask with any method, for a target that goes out as it is."""
        connection = HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        try:
            connection.request(method, target, headers=self.headers if headers is None else headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()

    def pages(self, path: str, **parameters: object) -> Iterator[dict[str, Any]]:
        """All pages of a list."""
        more: dict[str, object] = {}
        while True:
            reply = self.get(path, **parameters, **more)
            assert reply.status == 200, reply.text
            yield reply.json
            if reply.json["next_page_token"] is None:
                return
            more = {"page_token": reply.json["next_page_token"]}


@contextmanager
def serving(app: FastAPI) -> Iterator[Client]:
    """A real server on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, http="h11", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


def keyed(log: AuditLog, dagster_url: str | None = DAGSTER) -> FastAPI:
    """The API of a log, for whoever knows the key."""
    return create_app(log, auth=Auth("key", KEY), dagster_url=dagster_url)


def new_log(rooms: Rooms) -> AuditLog:
    """An audit log that no other test uses."""
    log = AuditLog(rooms.client("dynamodb"), rooms.name("audit_"))
    log.create()
    return log


def record_of(number: int, table: str = TABLE, **more: Any) -> Record:
    """The record of a file, one second after the one before."""
    given: dict[str, Any] = {
        "table": table,
        "file_id": hashlib.sha256(f"{table}/{number}".encode()).hexdigest()[:32],
        "file_name": f"file_{number}.csv",
        "action": "append",
        "status": "processing",
        "landed_at": LANDED + timedelta(seconds=number),
        "receiver": "drop",
        "bucket": "drop",
        "key": f"{table}/append/file_{number}.csv",
        "etag": "9b2cf535f27731c974343645a3985328",
        "size": 1000 + number,
        **more,
    }
    return Record(**given)


def write(client: Any, log: AuditLog, records: Sequence[Record]) -> None:
    """Write many records at once, as finished ones stand there: with their identities and tables, nothing open."""
    items = [to_item(record) for record in records]
    items += [{**identity_key(record.file_id), **pointer(record)} for record in records]
    items += [key_item(TABLES, table) for table in {record.table for record in records}]
    for start in range(0, len(items), BATCH):
        asked = {log.name: [{"PutRequest": {"Item": item}} for item in items[start : start + BATCH]]}
        while asked:
            asked = client.batch_write_item(RequestItems=asked).get("UnprocessedItems", {})
