"""One client's connection: both directions of it, and the COPYs that the shim feeds.

Three tasks run side by side. The pump reads the client, so that its going away is seen at once; the client side takes
the messages from the pump in order and rewrites them; the server side passes the answers back and starts the feeding
of a COPY when PostgreSQL asks for data. The session ends with the first of them.

While a statement runs, the client side waits with the next one: what a message may contain depends on whether a
transaction is open, and that is known only when the one before is answered.
"""

import asyncio
import contextlib
import logging
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from rds_lake.local.shim import protocol as pg
from rds_lake.local.shim.protocol import Message
from rds_lake.local.shim.redshift_copy import CopyJob, SourceError
from rds_lake.local.shim.rewrite import MAX_STATEMENT_BYTES, analyzing, raising, rewrite

log = logging.getLogger("rds_lake.shim")

_READ_BYTES: Final = 256 * 1024
_CONNECTION_FAILURE: Final = "08006"
_PROTOCOL_VIOLATION: Final = "08P01"
_INTERNAL_ERROR: Final = "XX000"  # what Redshift gives for a COPY that fails
_TOO_LARGE: Final = "54000"
_INTERESTING: Final = (pg.READY, pg.COPY_IN, pg.ERROR, pg.COMMAND_COMPLETE, pg.KEY_DATA)
# Messages of the extended protocol: up to Sync they belong together.
_EXTENDED: Final = frozenset({pg.PARSE, pg.BIND, pg.EXECUTE, pg.DESCRIBE, pg.CLOSE, pg.FLUSH})
# Data errors, which Redshift reports as load errors; locks and cancellations keep their own codes.
_LOAD_ERRORS: Final = ("22", "23")

Chunks = Callable[[CopyJob, int, Sequence[str]], Iterator[bytes]]


@dataclass
class Surroundings:
    """What the sessions of one server share."""

    upstream_host: str
    upstream_port: int
    executor: Executor
    chunks: Chunks
    sessions: dict[bytes, "Session"] = field(default_factory=dict)  # by key data, for cancel requests

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to PostgreSQL."""
        return await asyncio.open_connection(self.upstream_host, self.upstream_port)


@dataclass
class _Copy:
    """A COPY under way: its job, the feeding task, and why the feeding gave up."""

    job: CopyJob
    task: asyncio.Task[None]
    reason: str = ""


class Session:
    """One client and its connection to PostgreSQL."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, around: Surroundings) -> None:
        self._client_reader, self._client = reader, writer
        self._around = around
        self._splitter = pg.Splitter(_INTERESTING)
        self._from_client: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=16)
        self._key = b""
        self._status = b"I"
        self._unanswered = 1  # ReadyForQuery messages to come: the start brings the first
        self._idle = asyncio.Event()
        self._extended_open = False
        self._jobs: deque[CopyJob] = deque()
        self._types: dict[CopyJob, tuple[str, ...]] = {}
        self._copy: _Copy | None = None
        self._copy_over = asyncio.Event()
        self._loaded: list[CopyJob] = []
        self._statements: dict[bytes, CopyJob] = {}
        self._portals: dict[bytes, CopyJob] = {}
        self._refused: set[bytes] = set()
        self._collected: list[Message] | None = None
        self._last_copy_count = 0
        self._keeps_count = False
        self._server_ended = False
        self._told_fatal = False
        self._terminated = False

    async def run(self) -> None:
        """Serve the client until one of the two sides goes."""
        try:
            start = await self._start()
            if start is not None:
                await self._serve(start)
        except pg.ProtocolError as error:
            await self._farewell(str(error), _PROTOCOL_VIOLATION)
        finally:
            self._client.close()

    # --- start -------------------------------------------------------------------------------------------------------

    async def _start(self) -> bytes | None:
        """The client's start, as PostgreSQL takes it; None if there is nothing to serve."""
        while (first := await pg.read_startup(self._client_reader)) is not None:
            code, body = first
            if code in (pg.SSL_REQUEST, pg.GSS_REQUEST):
                self._client.write(b"N")
                await self._client.drain()
                continue
            if code == pg.CANCEL_REQUEST:
                await self._forward_cancel(body)
                return None
            parameters = pg.parameters(body)
            # redshift_connector wants a count in COPY's tag, which Redshift itself does not give.
            self._keeps_count = "client_protocol_version" in parameters
            return pg.startup(code, pg.parameters_body(parameters))
        return None

    async def _forward_cancel(self, body: bytes) -> None:
        with contextlib.suppress(OSError):
            await send_cancel(self._around, body)
        session = self._around.sessions.get(body)
        if session is not None:
            session.stop_feeding()

    def stop_feeding(self) -> None:
        """Give up a COPY: PostgreSQL, waiting for data, would not look at a cancel request."""
        if self._copy is not None:
            self._copy.task.cancel()

    async def _serve(self, start: bytes) -> None:
        try:
            self._server_reader, self._server = await self._around.connect()
        except OSError as error:
            where = f"{self._around.upstream_host}:{self._around.upstream_port}"
            await self._farewell(
                f"the local warehouse's PostgreSQL does not answer at {where} ({error.strerror or error})",
                _CONNECTION_FAILURE,
                hint="Start it with 'rds-lake up'.",
            )
            return
        try:
            self._server.write(start)
            await self._until_first_ends(self._pump(), self._client_side(), self._server_side())
        except pg.ProtocolError as error:
            await self._farewell(str(error), _PROTOCOL_VIOLATION)
        finally:
            await self._release()

    @staticmethod
    async def _until_first_ends(*sides: Coroutine[None, None, None]) -> None:
        tasks = [asyncio.create_task(side) for side in sides]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            with contextlib.suppress(OSError):  # the other side has gone
                task.result()

    async def _release(self) -> None:
        """End PostgreSQL's side, so that its transaction and its locks go at once."""
        self._around.sessions.pop(self._key, None)
        if self._copy is not None:
            self._copy.task.cancel()
            await asyncio.gather(self._copy.task, return_exceptions=True)
        busy = self._unanswered > 0 and self._key and not (self._server_ended or self._terminated)
        self._server.transport.abort() if self._copy else self._server.close()
        if busy:
            with contextlib.suppress(OSError):  # a statement that waits for a lock would not see that we left
                await send_cancel(self._around, self._key)

    async def _farewell(self, message: str, state: str, *, hint: str = "") -> None:
        with contextlib.suppress(OSError):
            self._client.write(pg.error(message, state=state, severity="FATAL", hint=hint).encode())
            await self._client.drain()

    # --- from the client ---------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while (message := await pg.read_message(self._client_reader)) is not None:
            await self._from_client.put(message)
            if message.type == pg.TERMINATE:
                if self._copy is None:  # as PostgreSQL: finish what is under way, but do not wait for a whole load
                    self._terminated = True
                    await self._from_client.join()
                return

    async def _client_side(self) -> None:
        handlers = {pg.QUERY: self._query, pg.PARSE: self._parse, pg.BIND: self._bind}
        handlers |= {pg.EXECUTE: self._execute, pg.CLOSE: self._close, pg.SYNC: self._sync}
        while (message := await self._from_client.get()) is not None:
            handler = handlers.get(message.type, self._send)
            await handler(message)
            self._extended_open = message.type in _EXTENDED or (self._extended_open and message.type != pg.SYNC)
            self._from_client.task_done()

    async def _send(self, message: Message) -> None:
        self._server.write(message.encode())
        await self._server.drain()

    def _expect_ready(self) -> None:
        self._unanswered += 1
        self._idle.clear()

    async def _sync(self, message: Message) -> None:
        self._expect_ready()
        await self._send(message)

    def _too_large(self, body: bytes) -> str:
        if len(body) <= MAX_STATEMENT_BYTES:
            return ""
        return raising(
            f"the statement has {len(body)} bytes, and Redshift takes at most {MAX_STATEMENT_BYTES}", state=_TOO_LARGE
        )

    async def _query(self, message: Message) -> None:
        await self._idle.wait()
        await self._analyze()
        too_large = self._too_large(message.body)
        done = rewrite(
            too_large or pg.decode(pg.cut_text(message.body)[0]),
            in_transaction=self._status != b"I",
            last_copy_count=self._last_copy_count,
        )
        if done.jobs and not await self._look_up(done.jobs):
            return
        self._jobs = deque(done.jobs)
        self._expect_ready()
        await self._send(pg.query(done.sql))

    async def _parse(self, message: Message) -> None:
        if not self._extended_open:
            await self._idle.wait()
        name, position = pg.cut_text(message.body)
        text, end = pg.cut_text(message.body, position)
        too_large = self._too_large(text)
        before = too_large or pg.decode(text)
        done = rewrite(before, in_transaction=self._status != b"I", last_copy_count=self._last_copy_count)
        self._statements.pop(name, None)
        if done.jobs:
            if not self._extended_open:
                await self._look_up(done.jobs, answer=False)
            self._statements[name] = done.jobs[0]
        types = message.body[end:]
        self._refused.discard(name)
        if done.refused or too_large:  # it has no parameters any more
            self._refused.add(name)
            types = struct.pack("!h", 0)
        await self._send(Message(pg.PARSE, name + b"\0" + pg.encode(done.sql) + b"\0" + types))

    async def _bind(self, message: Message) -> None:
        portal, position = pg.cut_text(message.body)
        statement, _ = pg.cut_text(message.body, position)
        self._portals.pop(portal, None)
        if statement in self._statements:
            self._portals[portal] = self._statements[statement]
        if statement in self._refused:
            message = Message(pg.BIND, portal + b"\0" + statement + b"\0" + struct.pack("!hhh", 0, 0, 0))
        await self._send(message)

    async def _execute(self, message: Message) -> None:
        job = self._portals.get(pg.cut_text(message.body)[0])
        if job is None:
            await self._send(message)
            return
        # PostgreSQL swallows a Sync that comes while it reads the data, so hold everything back until that is over.
        await self._idle.wait()
        self._jobs = deque([job])
        self._copy_over.clear()
        await self._send(message)
        await self._copy_over.wait()

    async def _close(self, message: Message) -> None:
        known = self._statements if message.body[:1] == b"S" else self._portals
        known.pop(pg.cut_text(message.body, 1)[0], None)
        await self._send(message)

    # --- our own questions -------------------------------------------------------------------------------------------

    async def _analyze(self) -> None:
        """Take the statistics of what was loaded, as Redshift's COPY does by itself (STATUPDATE).

        Nothing else would take those of a temporary table, and without them PostgreSQL takes it for the larger side of
        any join. Other tables are left to autovacuum: ANALYZE would lock out other loads of the same table.
        """
        loaded, self._loaded = self._loaded, []
        for job in loaded:
            if self._status != b"E":
                await self._ask(analyzing(job.target))

    async def _look_up(self, jobs: Sequence[CopyJob], *, answer: bool = True) -> bool:
        """Learn the types of the columns that COPYs fill; tables that their own message creates stay unknown.

        Returns:
            False if PostgreSQL failed, and the client has been told so.
        """
        self._types.clear()
        if self._status == b"E":
            return True
        for job in jobs:
            messages = await self._ask(_columns_sql(job))
            failure = next((m for m in messages if m.type == pg.ERROR), None)
            if failure is not None:
                if answer:
                    self._client.write(failure.encode() + pg.ready(self._status).encode())
                    await self._client.drain()
                return False
            rows = [pg.row_values(m.body) for m in messages if m.type == pg.DATA_ROW]
            known = {name: kind for name, kind in rows if name is not None and kind is not None}
            names = job.columns or tuple(known)
            if names and all(name in known for name in names):
                self._types[job] = tuple(known[name] for name in names)
        return True

    async def _ask(self, sql: str) -> list[Message]:
        """Put a question of our own to PostgreSQL, while the client waits."""
        collected: list[Message] = []
        self._collected, self._splitter.everything = collected, True
        self._expect_ready()
        await self._send(pg.query(sql))
        await self._idle.wait()
        return collected

    # --- from the server ---------------------------------------------------------------------------------------------

    async def _server_side(self) -> None:
        while data := await self._server_reader.read(_READ_BYTES):
            for part in self._splitter.feed(data):
                if isinstance(part, bytes):
                    self._client.write(part)
                elif self._collected is not None:
                    self._collect(self._collected, part)
                else:
                    self._answer(part)
            await self._client.drain()
        self._server_ended = True
        if self._told_fatal or self._terminated:
            return
        await self._farewell(
            "the local warehouse's PostgreSQL closed the connection",
            _CONNECTION_FAILURE,
            hint="See its log, and start it with 'rds-lake up'.",
        )

    def _collect(self, collected: list[Message], message: Message) -> None:
        if message.type == pg.READY:
            self._collected, self._splitter.everything = None, False
            self._ready(message)
        elif message.type in (pg.PARAMETER_STATUS, pg.NOTICE, pg.NOTIFICATION):
            self._client.write(message.encode())
        else:
            collected.append(message)

    def _answer(self, message: Message) -> None:
        if message.type == pg.COPY_IN:
            self._begin_copy(pg.copy_columns(message.body))
            return
        if message.type == pg.READY:
            self._ready(message)
            self._jobs.clear()
        elif message.type == pg.ERROR:
            message = self._end_copy_with_error(message)
        elif message.type == pg.COMMAND_COMPLETE and self._copy is not None:
            message = self._end_copy(message)
        elif message.type == pg.KEY_DATA:
            self._key = message.body
            self._around.sessions[self._key] = self
        self._client.write(message.encode())

    def _ready(self, message: Message) -> None:
        self._status = message.body
        self._unanswered -= 1
        self._copy_over.set()
        if self._unanswered == 0:
            self._idle.set()

    # --- COPY --------------------------------------------------------------------------------------------------------

    def _begin_copy(self, columns: int) -> None:
        if not self._jobs:  # nothing that passes `rewrite` leads here
            self._server.write(Message(pg.COPY_FAIL, b"COPY FROM STDIN is not a statement of Redshift\0").encode())
            return
        job = self._jobs.popleft()
        self._copy = _Copy(job, asyncio.create_task(self._feed(job, columns)))

    async def _feed(self, job: CopyJob, columns: int) -> None:
        """Read the objects in a thread, one chunk ahead of PostgreSQL."""
        loop = asyncio.get_running_loop()
        chunks = self._around.chunks(job, columns, self._types.get(job, ()))
        step = partial(next, chunks, None)
        upcoming = loop.run_in_executor(self._around.executor, step)
        try:
            while (chunk := await asyncio.shield(upcoming)) is not None:
                upcoming = loop.run_in_executor(self._around.executor, step)
                self._server.write(pg.HEADER.pack(pg.COPY_DATA, len(chunk) + 4))
                self._server.write(chunk)
                await self._server.drain()
            self._server.write(Message(pg.COPY_DONE, b"").encode())
        except SourceError as error:
            self._fail_copy(str(error))
        except asyncio.CancelledError:
            if self._copy is not None:  # PostgreSQL has not given it up by itself
                self._fail_copy("canceling statement due to user request")
            raise
        finally:
            upcoming.add_done_callback(lambda done: _finish(done, chunks, self._around.executor))
            self._copy_over.set()

    def _fail_copy(self, reason: str) -> None:
        if self._copy is not None:
            self._copy.reason = reason
        self._server.write(Message(pg.COPY_FAIL, pg.encode(reason) + b"\0").encode())

    def _end_copy(self, message: Message) -> Message:
        copy, self._copy = self._copy, None
        self._last_copy_count = int(message.body.rstrip(b"\0").split(b" ")[-1])
        if copy is not None:
            self._loaded.append(copy.job)
            count = f"{self._last_copy_count} record(s) loaded successfully."
            text = f"Load into table '{copy.job.table_name}' completed, {count}"
            self._client.write(pg.notice(text).encode())
        return message if self._keeps_count else Message(pg.COMMAND_COMPLETE, b"COPY\0")

    def _end_copy_with_error(self, message: Message) -> Message:
        """The error as Redshift words it; the rest of the message's COPYs will not come."""
        self._jobs.clear()
        self._copy_over.set()
        copy, self._copy = self._copy, None
        fields = pg.error_fields(message.body)
        self._told_fatal = fields.get(b"V") in ("FATAL", "PANIC")
        if copy is None:
            return message
        cancelled = copy.task.cancelled() or copy.task.cancelling() > 0
        copy.task.cancel()
        if copy.reason and not cancelled:
            return _load_error(copy.job, copy.reason)
        if fields.get(b"C", "").startswith(_LOAD_ERRORS):
            detail = " ".join(fields[key] for key in (b"M", b"D", b"W") if key in fields)
            return _load_error(copy.job, detail)
        return message


def _load_error(job: CopyJob, reason: str) -> Message:
    return pg.error(f"Load into table '{job.table_name}' failed: {reason}", state=_INTERNAL_ERROR)


def _columns_sql(job: CopyJob) -> str:
    literal = job.target.replace("'", "''")
    return (
        "SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute "
        f"WHERE attrelid = pg_catalog.to_regclass('{literal}') AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )


def _finish(done: asyncio.Future[bytes | None], chunks: Iterator[bytes], executor: Executor) -> None:
    """Let go of a reader that was given up, its file and its error, once its last step is over."""
    if not done.cancelled():
        done.exception()
    close = getattr(chunks, "close", None)
    if close is not None:
        with contextlib.suppress(RuntimeError):  # the executor is shut down: the process ends
            executor.submit(close)


async def send_cancel(around: Surroundings, key: bytes) -> None:
    """Ask PostgreSQL to cancel what a connection runs, and wait until it has heard it."""
    reader, writer = await around.connect()
    try:
        writer.write(pg.startup(pg.CANCEL_REQUEST, key))
        await writer.drain()
        await reader.read()
    finally:
        writer.close()
