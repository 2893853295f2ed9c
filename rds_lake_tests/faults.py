"""A proxy in front of the AWS endpoint that does what networks and S3 do on a bad day. Real sockets, real HTTP.

500, 503   the request is answered with InternalError, or SlowDown, and not passed on
reset      the connection is reset before the request is passed on
swallowed  the server does the work, then the connection is reset: the answer is lost
stalled    nothing happens until the client has lost patience
late       the server does the work, the answer comes when the client has lost patience
torn       the answer breaks off in its middle
"""

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("500", "503", "reset", "swallowed", "stalled", "late")
CLIENT_PATIENCE = 0.6
"""Seconds that the client under test waits for an answer."""

Decision = Callable[[str], str | None]
"""Tells what shall happen to a request, given `METHOD path`; None for nothing."""


@dataclass
class At:
    """The given faults for the first requests that match a pattern, one each."""

    pattern: str
    kinds: list[str]

    def __call__(self, request: str) -> str | None:
        return self.kinds.pop(0) if self.kinds and re.search(self.pattern, request) else None


@dataclass
class Sometimes:
    """Any fault, at random: the same ones for the same seed and the same order of requests."""

    seed: int
    rate: float
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, _: str) -> str | None:
        return self._random.choice(self.kinds) if self._random.random() < self.rate else None


@dataclass
class BadDay:
    """What the proxy shall do, and what it did."""

    decide: Decision
    done: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, request: str) -> str | None:
        """The fault of a request."""
        with self._lock:
            kind = self.decide(request)
            self.done[kind or "passed on"] += 1
            return kind

    @property
    def faults(self) -> int:
        """How many requests went wrong."""
        return self.done.total() - self.done["passed on"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    day: BadDay

    def _any(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        name = self.headers.get("X-Amz-Target") or f"{self.command} {self.path}"
        kind = self.day.fault(name)
        if kind in {"500", "503"}:
            code = {"500": "InternalError", "503": "SlowDown"}[kind]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>A bad day</Message></Error>"
            self._answer(int(kind), [("Content-Type", "application/xml")], text.encode())
            return
        if kind in {"reset", "stalled"}:
            self._break_off(kind)
            return
        status, headers, answer = self._pass_on(body)
        if kind in {"swallowed", "late"}:
            self._break_off(kind)
            return
        if kind == "torn":
            self._answer(status, headers, answer, sent=len(answer) // 2)
            self._break_off(kind)
            return
        self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - the names that http.server asks for

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def _break_off(self, kind: str) -> None:
        if kind in {"stalled", "late"}:
            time.sleep(2 * CLIENT_PATIENCE)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError, OSError):  # the client is gone, or was sent away
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError, ValueError, OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@contextmanager
def bad_day(endpoint: str, decide: Decision) -> Iterator[tuple[str, BadDay]]:
    """A proxy of an endpoint: its address, and what it did."""
    parts = urlsplit(endpoint)
    day = BadDay(decide)
    handler = type("Handler", (_Handler,), {"upstream": (parts.hostname, parts.port), "day": day})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", day
        finally:
            server.shutdown()
            thread.join()
