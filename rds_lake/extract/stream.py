"""Stream: the answer to a SELECT in MySQL's binary protocol, as blocks of whole rows.

The driver connects, authenticates and speaks of errors; this module has a statement prepared and executed, and reads
the rows' bytes in large blocks instead of packet by packet. In the binary protocol a value has a fixed form (an integer
its bytes and sign, a date its fields), so nothing is guessed from text, and many rows can be taken apart at once.

A row of 16 MiB and more arrives in several packets; it becomes a block of its own.
"""

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymysql import err
from pymysql.constants import CR, FLAG
from pymysql.protocol import FieldDescriptorPacket

from rds_lake.extract.packets import FULL, HEAD, Bytes, Places, length_at, row_starts

BLOCK_BYTES = 2 * 1024 * 1024
"""Bytes that are read before their rows are taken apart: few enough for the processor's cache."""

SLACK = 16
"""Bytes behind a block's rows, so that eight bytes can be read at any place in them."""

_PREPARE, _EXECUTE, _CLOSE = 0x16, 0x17, 0x19
_ERROR = 0xFF
_MAY_BE_END = re.compile(rb"\x05\0\0.\xfe.{4}\Z|\xff..#[0-9A-Z]{5}[^\0]*\Z", re.DOTALL)
"""What the last packet of an answer looks like: the end of the rows, or an error. Rows may look like it by chance."""

_TAIL = 1024


@dataclass(frozen=True)
class Field:
    """One column of an answer.

    Attributes:
        type: its type in the protocol (the driver's `FIELD_TYPE`).
        unsigned: whether an integer has no negative values.
        decimals: digits behind the second of a moment.
    """

    type: int
    unsigned: bool = False
    decimals: int = 0


@dataclass(frozen=True)
class Block:
    """Whole rows of an answer.

    Attributes:
        content: the bytes, `SLACK` more than the rows have.
        starts: where the rows' packets begin.
    """

    content: Bytes
    starts: Places


class Stream:
    """The rows of one SELECT.

    Args:
        driver: the driver's connection; it can be used for nothing else until the rows have been read.
        text: the SELECT, with `%s` for its parameters.
        parameters: the values of the parameters.

    Attributes:
        fields: the answer's columns.

    Raises:
        pymysql.MySQLError: the server refuses the statement.
    """

    def __init__(self, driver: Any, text: str, parameters: Sequence[Any] = ()) -> None:  # noqa: ANN401 - see below
        self._driver = driver  # what is used of it is not in its interface
        driver._execute_command(_PREPARE, driver.cursor().mogrify(text, tuple(parameters)))
        self._statement, columns = struct.unpack_from("<IH", driver._read_packet().get_all_data(), 1)
        self._read_fields(columns)
        driver._execute_command(_EXECUTE, struct.pack("<IBI", self._statement, 0, 1))
        self.fields = self._read_fields(driver._read_packet().read_length_encoded_integer())
        self._room: Bytes = np.empty(max(BLOCK_BYTES, io.DEFAULT_BUFFER_SIZE) + SLACK, np.uint8)
        self._size = 0
        self._is_first_read = True
        self._sequence = driver._next_seq_id

    def _read_fields(self, count: int) -> list[Field]:
        packets = [self._driver._read_packet(FieldDescriptorPacket) for _ in range(count)]
        self._driver._read_packet()  # the end of the fields
        return [Field(packet.type_code, bool(packet.flags & FLAG.UNSIGNED), packet.scale) for packet in packets]

    def blocks(self) -> Iterator[Block]:
        """The rows. A block is good until the next one is asked for.

        Raises:
            pymysql.MySQLError: the server reports an error among the rows, goes away, or is silent for too long.
        """
        stop = 0
        while True:
            self._fill(more=not stop)
            starts, stop = row_starts(self._room, 0, self._size)
            if len(starts):
                self._count(self._room[starts + HEAD - 1])
                yield Block(self._room, starts)
            self._drop(stop)
            if self._size <= HEAD:
                continue
            length = length_at(self._room, 0)
            if self._room[HEAD]:
                self._end(length)
                return
            if length == FULL:
                yield self._huge_row()
                stop = 1  # what follows it may be here already
            elif HEAD + length > self._capacity:
                self._grow(HEAD + length)

    @property
    def _capacity(self) -> int:
        return len(self._room) - SLACK

    def _fill(self, *, more: bool) -> None:
        """Read until there is no room, or until what is there may be all that comes.

        Args:
            more: whether it is known that more comes.
        """
        while self._size < self._capacity:
            if not more and _MAY_BE_END.search(self._room[max(0, self._size - _TAIL) : self._size].tobytes()):
                break
            self._read()
            more = False

    def _read(self) -> None:
        """Read what there is, waiting for it if there is nothing."""
        try:
            if self._is_first_read:  # what the driver holds already, if need be with one look at the socket
                count = self._driver._rfile.readinto1(self._room[: io.DEFAULT_BUFFER_SIZE].data)
            else:
                count = self._driver._rfile.raw.readinto(self._room[self._size : self._capacity].data)
        except OSError as error:
            raise err.OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
            ) from error
        if not count:
            raise err.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server during query")
        self._is_first_read = False
        self._size += count

    def _count(self, numbers: Bytes) -> None:
        """Check that no packet is missing, doubled or out of its turn."""
        expected = (np.arange(len(numbers)) + self._sequence).astype(np.uint8)
        if not np.array_equal(numbers, expected):
            raise err.InternalError("Packet sequence number wrong")
        self._sequence += len(numbers)

    def _drop(self, count: int) -> None:
        """Let go of bytes at the front."""
        self._room[: self._size - count] = self._room[count : self._size].copy()
        self._size -= count

    def _grow(self, size: int) -> None:
        room = np.empty(size + SLACK, np.uint8)
        room[: self._size] = self._room[: self._size]
        self._room = room

    def _take(self, count: int) -> bytes:
        """The next bytes, however many."""
        taken = []
        while count:
            if not self._size:
                self._read()
            part = min(count, self._size)
            taken.append(self._room[:part].tobytes())
            self._drop(part)
            count -= part
        return b"".join(taken)

    def _huge_row(self) -> Block:
        parts = [bytes(HEAD)]
        length = FULL
        while length == FULL:
            head = np.frombuffer(self._take(HEAD), np.uint8)
            self._count(head[HEAD - 1 :])
            length = length_at(head, 0)
            parts.append(self._take(length))
        content = np.frombuffer(b"".join([*parts, bytes(SLACK)]), np.uint8)
        return Block(content, np.zeros(1, np.intp))

    def _end(self, length: int) -> None:
        """Take the packet that ends the rows."""
        packet = self._take(HEAD + length)
        self._count(np.frombuffer(packet[HEAD - 1 : HEAD], np.uint8))
        content = packet[HEAD:]
        if content[0] == _ERROR:
            err.raise_mysql_exception(content)
        self._driver._write_bytes(struct.pack("<iBI", 5, _CLOSE, self._statement))
