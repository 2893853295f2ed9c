"""What a MySQL server sends: rows of the binary protocol, written value by value as its documentation says."""

import struct
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from pymysql.constants import FIELD_TYPE

from rds_lake.extract.decode import Values, decode
from rds_lake.extract.packets import row_starts
from rds_lake.extract.stream import SLACK, Block, Field

NUMBERS = {
    FIELD_TYPE.TINY: "b",
    FIELD_TYPE.SHORT: "h",
    FIELD_TYPE.YEAR: "h",
    FIELD_TYPE.INT24: "i",
    FIELD_TYPE.LONG: "i",
    FIELD_TYPE.LONGLONG: "q",
    FIELD_TYPE.FLOAT: "f",
    FIELD_TYPE.DOUBLE: "d",
}

Moment = tuple[int, int, int, int, int, int, int]
"""Year, month, day, hour, minute, second, microsecond: what no `datetime` can be if it is partly zero."""


def packets(rows: Iterable[bytes], first: int = 0) -> bytes:
    """Rows as packets with rising sequence numbers; long ones go on in further packets."""
    sent, number = [], first
    for row in rows:
        pieces = [row[at : at + 0xFFFFFF] for at in range(0, len(row) + 1, 0xFFFFFF)]
        for piece in pieces:
            sent.append(len(piece).to_bytes(3, "little") + bytes([number % 256]) + piece)
            number += 1
    return b"".join(sent)


def row(fields: Sequence[Field], values: Sequence[Any]) -> bytes:
    """What the packet of one row carries."""
    bitmap = bytearray((len(fields) + 9) // 8)
    for place, value in enumerate(values, 2):
        if value is None:
            bitmap[place // 8] |= 1 << place % 8
    present = [_value(field, value) for field, value in zip(fields, values, strict=True) if value is not None]
    return b"\0" + bytes(bitmap) + b"".join(present)


def _value(field: Field, value: Any) -> bytes:
    if field.type in NUMBERS:
        form = NUMBERS[field.type]
        return struct.pack("<" + (form.upper() if field.unsigned and form not in "fd" else form), value)
    if isinstance(value, datetime):
        value = (*value.timetuple()[:6], value.microsecond)
    elif isinstance(value, date):
        value = (*value.timetuple()[:3], 0, 0, 0, 0)
    if isinstance(value, tuple):
        return _moment(value)
    content = value.encode() if isinstance(value, str) else str(value).encode() if isinstance(value, Decimal) else value
    return _length(len(content)) + content


def _moment(value: Moment) -> bytes:
    whole = struct.pack("<HBBBBBI", *value)
    size = 11 if value[6] else 7 if any(value[3:]) else 4 if any(value) else 0
    return bytes([size]) + whole[:size]


def _length(size: int) -> bytes:
    if size < 251:
        return bytes([size])
    for first, room in ((0xFC, 2), (0xFD, 3)):
        if size < 1 << 8 * room:
            return bytes([first]) + size.to_bytes(room, "little")
    return b"\xfe" + size.to_bytes(8, "little")


def block(rows: Iterable[bytes]) -> Block:
    """Rows as they lie in a reader's hands."""
    sent = packets(rows)
    content = np.frombuffer(sent + bytes(SLACK), np.uint8)
    starts, stop = row_starts(content, 0, len(sent))
    assert stop == len(sent)
    return Block(content, starts)


def received(field: Field, values: Sequence[Any]) -> Values:
    """One column of values, sent and taken apart."""
    [found] = decode(block([row([field], [value]) for value in values]), [field])
    return found
