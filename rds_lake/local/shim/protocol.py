"""Frames of the PostgreSQL wire protocol, version 3: how messages are cut out of bytes and put together.

Pure apart from the two functions that read from a stream. What the messages mean for a connection is the business
of `session`. The constants carry the protocol's own letters; the same letter may mean two things in two directions.
"""

import asyncio
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
# PostgreSQL itself refuses longer ones.
MAX_STARTUP_BYTES: Final = 10_000
MAX_MESSAGE_BYTES: Final = 0x3FFFFFFF
HEADER: Final = struct.Struct("!cI")
_LENGTH: Final = struct.Struct("!I")

# From the client.
QUERY, PARSE, BIND, EXECUTE, DESCRIBE, CLOSE = b"Q", b"P", b"B", b"E", b"D", b"C"
SYNC, FLUSH, FUNCTION_CALL, TERMINATE = b"S", b"H", b"F", b"X"
COPY_DATA, COPY_DONE, COPY_FAIL = b"d", b"c", b"f"
# From the server.
ERROR, NOTICE, READY, COPY_IN, COMMAND_COMPLETE, KEY_DATA = b"E", b"N", b"Z", b"G", b"C", b"K"
DATA_ROW, PARAMETER_STATUS, NOTIFICATION = b"D", b"S", b"A"

# redshift_connector sends more (client_protocol_version, driver_version, ...), and PostgreSQL dies of it.
STARTUP_PARAMETERS: Final = frozenset({"user", "database", "application_name", "client_encoding", "options"})


class ProtocolError(Exception):
    """The other side does not speak the protocol."""


@dataclass(frozen=True)
class Message:
    """One typed message."""

    type: bytes
    body: bytes

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return HEADER.pack(self.type, len(self.body) + 4) + self.body


class Splitter:
    """Cuts a stream of bytes into the messages of interest and runs of bytes that only pass through.

    Rows, the bulk of the traffic, are never copied into messages of their own, and a message of any size passes in
    pieces.

    Args:
        interesting: the types that come out as a `Message`, whole.
    """

    def __init__(self, interesting: Iterable[bytes]) -> None:
        self.interesting = frozenset(interesting)
        self.everything = False
        self._pending = b""
        self._passing = 0  # bytes that the message under way still has to come

    def feed(self, data: bytes) -> list[Message | bytes]:
        """Take more bytes; what can be given out so far, in order."""
        found: list[Message | bytes] = []
        data = self._pending + data if self._pending else data
        size = len(data)
        run = 0  # where the run of passing bytes starts
        position = min(self._passing, size)
        self._passing -= position
        while size - position >= HEADER.size:
            kind, length = HEADER.unpack_from(data, position)
            if not 4 <= length <= MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of type {kind!r} claims {length} bytes")
            end = position + 1 + length
            if not (self.everything or kind in self.interesting):
                position = min(end, size)
                self._passing = end - position
                continue
            if end > size:
                break
            if position > run:
                found.append(data[run:position])
            found.append(Message(kind, data[position + HEADER.size : end]))
            run = position = end
        if position > run:
            found.append(data[run:position])
        self._pending = data[position:]
        return found


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next typed message, or None at the end of the stream."""
    try:
        kind, length = HEADER.unpack(await reader.readexactly(HEADER.size))
        if not 4 <= length <= MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of type {kind!r} claims {length} bytes")
        return Message(kind, await reader.readexactly(length - 4))
    except asyncio.IncompleteReadError:
        return None


async def read_startup(reader: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """The next untyped message of the start: its code or version, and its body; None at the end of the stream."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(4))
        if not 8 <= length <= MAX_STARTUP_BYTES:
            raise ProtocolError(f"a start message claims {length} bytes")
        body = await reader.readexactly(length - 4)
    except asyncio.IncompleteReadError:
        return None
    return _LENGTH.unpack_from(body)[0], body[4:]


def startup(code: int, body: bytes) -> bytes:
    """An untyped message."""
    return _LENGTH.pack(len(body) + 8) + _LENGTH.pack(code) + body


def parameters(body: bytes) -> dict[str, str]:
    """The parameters of a StartupMessage."""
    texts = [part.decode("utf-8", "surrogateescape") for part in body.rstrip(b"\0").split(b"\0")]
    return dict(zip(texts[::2], [*texts[1::2], ""], strict=False))


def parameters_body(values: Mapping[str, str]) -> bytes:
    """The body of a StartupMessage that keeps only what PostgreSQL knows."""
    kept = [text for name, value in values.items() if name in STARTUP_PARAMETERS for text in (name, value)]
    return b"".join(_text(text) for text in kept) + b"\0"


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def decode(sql: bytes) -> str:
    """SQL from the wire; any bytes survive the way through `encode` back."""
    return sql.decode("utf-8", "surrogateescape")


def encode(sql: str) -> bytes:
    """SQL for the wire."""
    return sql.encode("utf-8", "surrogateescape")


def query(sql: str) -> Message:
    """A simple query."""
    return Message(QUERY, encode(sql) + b"\0")


def ready(status: bytes) -> Message:
    """ReadyForQuery; the status is I, T or E."""
    return Message(READY, status)


def error(message: str, *, state: str, severity: str = "ERROR", hint: str = "") -> Message:
    """An ErrorResponse."""
    fields = {b"S": severity, b"V": severity, b"C": state, b"M": message, b"H": hint}
    return Message(ERROR, b"".join(key + _text(value) for key, value in fields.items() if value) + b"\0")


def notice(message: str) -> Message:
    """A NoticeResponse of level INFO."""
    return Message(NOTICE, error(message, state="00000", severity="INFO").body)


def error_fields(body: bytes) -> dict[bytes, str]:
    """The fields of an ErrorResponse or NoticeResponse."""
    return {part[:1]: decode(part[1:]) for part in body.split(b"\0") if part}


def copy_columns(body: bytes) -> int:
    """How many columns a CopyInResponse expects."""
    return int(struct.unpack_from("!h", body, 1)[0])


def row_values(body: bytes) -> list[str | None]:
    """The values of a DataRow in text format."""
    (count,) = struct.unpack_from("!h", body)
    values: list[str | None] = []
    position = 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, position)
        position += 4
        values.append(None if length < 0 else decode(body[position : position + length]))
        position += max(length, 0)
    return values


def cut_text(body: bytes, start: int = 0) -> tuple[bytes, int]:
    """The zero-terminated text at `start`, and where the next field begins."""
    end = body.find(b"\0", start)
    if end < 0:
        raise ProtocolError("a text in a message has no end")
    return body[start:end], end + 1
