"""Decode: the rows of a block, column by column, in the forms that they have in MySQL's binary protocol.

A row is a bitmap of its NULLs and, one after the other, the values that are not: integers and floats of fixed width;
moments as a length and as many of the fields year, month, day, hour, minute, second, microsecond as are not zero;
everything else (texts, bytes, decimals, bits) as a length and that many bytes. Where a value begins depends on those
before it, so all rows go through the columns together, each with its own place. The source of the forms is MySQL's
documentation, "Binary Protocol Value".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from pymysql.constants import FIELD_TYPE

from rds_lake.extract.packets import HEAD, Bytes, Places
from rds_lake.extract.stream import Block, Field

Flags = np.ndarray[Any, np.dtype[np.bool_]]

_INTEGERS = {
    FIELD_TYPE.TINY: "i1",
    FIELD_TYPE.SHORT: "i2",
    FIELD_TYPE.YEAR: "i2",
    FIELD_TYPE.INT24: "i4",
    FIELD_TYPE.LONG: "i4",
    FIELD_TYPE.LONGLONG: "i8",
}
_FLOATS = {FIELD_TYPE.FLOAT: "f4", FIELD_TYPE.DOUBLE: "f8"}
MOMENTS = {FIELD_TYPE.DATE, FIELD_TYPE.NEWDATE, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP}

_LONG_FORMS = ((0xFC, 2), (0xFD, 3), (0xFE, 8))
"""First byte of a length that does not fit into one, and how many bytes follow that hold it."""

DAY = 86_400_000_000
"""Microseconds."""


@dataclass(frozen=True)
class Values:
    """One column of some rows, as it came.

    Attributes:
        field: the column.
        content: numbers, microseconds since 1970 of moments, or an Arrow array of bytes. What stands in the place of a
            NULL or of a moment that is none means nothing.
        nulls: which values are NULL; None if none is.
        unfit: which moments are no day that the calendar has (zero or partly zero dates, 30 February); None if none is.
        first_unfit: the first of them as MySQL writes it.
    """

    field: Field
    content: Any
    nulls: Flags | None
    unfit: Flags | None = None
    first_unfit: str = ""


def decode(block: Block, fields: Sequence[Field]) -> list[Values]:
    """The columns of a block's rows."""
    content, bitmap = block.content, block.starts + (HEAD + 1)
    places = bitmap + (len(fields) + 9) // 8
    return [_column(content, field, places, _nulls(content, bitmap, number)) for number, field in enumerate(fields)]


def _nulls(content: Bytes, bitmap: Places, number: int) -> Flags | None:
    byte, bit = divmod(number + 2, 8)
    flags = (content[bitmap + byte] & np.uint8(1 << bit)) != 0
    return flags if flags.any() else None


def _column(content: Bytes, field: Field, places: Places, nulls: Flags | None) -> Values:
    """A column's values; the places are moved on to the next column's."""
    if field.type in _INTEGERS or field.type in _FLOATS:
        kind = np.dtype(_FLOATS.get(field.type) or _INTEGERS[field.type].replace("i", "u" if field.unsigned else "i"))
        numbers = _at(content, kind, places)
        places += kind.itemsize if nulls is None else np.where(nulls, 0, kind.itemsize)
        return Values(field, numbers, nulls)
    if field.type in MOMENTS:
        return _moments(content, field, places, nulls)
    if field.type == FIELD_TYPE.TIME:
        raise ValueError("a TIME is asked for as text")
    if field.type == FIELD_TYPE.NULL:
        return Values(field, pa.nulls(len(places), pa.binary()), np.ones(len(places), np.bool_))
    return Values(field, _bytes(content, places, nulls), nulls)


def _at(content: Bytes, kind: "np.dtype[Any]", places: Places) -> Any:  # noqa: ANN401 - an array of that kind
    """The values of a fixed width that begin at some places."""
    everywhere = np.ndarray((len(content) - kind.itemsize + 1,), kind.newbyteorder("<"), content.data, 0, (1,))
    return everywhere[places]


def _bytes(content: Bytes, places: Places, nulls: Flags | None) -> pa.Array:
    lengths = content[places].astype(np.intp)
    long = lengths > 250 if nulls is None else (lengths > 250) & ~nulls
    heads: Any = 1
    if nulls is not None:
        lengths[nulls] = 0
        heads = np.where(nulls, 0, 1)
    if long.any():
        heads = np.where(long, 1, heads)
        for first, size in _LONG_FORMS:
            rows = np.flatnonzero(long & (content[places] == first))
            held = _at(content, np.dtype("u8"), places[rows] + 1)
            lengths[rows] = held if size == 8 else held & np.uint64((1 << 8 * size) - 1)
            heads[rows] = 1 + size
    begin = places + heads
    places[:] = begin + lengths
    return _pieces(content, begin, places)


def _pieces(content: Bytes, begin: Places, end: Places) -> pa.Array:
    """The pieces of the bytes between some places, as an Arrow array that holds them alone.

    The whole block as an array whose every other value is a gap, without the gaps: copied by Arrow, not byte by byte.
    """
    offsets = np.empty(2 * len(begin) + 1, np.int32)
    offsets[0:-1:2], offsets[1::2], offsets[-1] = begin, end, end[-1] if len(end) else 0
    with_gaps = pa.Array.from_buffers(pa.binary(), 2 * len(begin), [None, pa.py_buffer(offsets), pa.py_buffer(content)])
    return with_gaps.take(_whole_numbers(np.arange(0, 2 * len(begin), 2, dtype=np.int32)))


def _whole_numbers(values: "np.ndarray[Any, np.dtype[np.int32]]") -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])


@cache
def _calendar() -> tuple[Any, Any]:
    """For each year and month (at 16 x year + month): days from 1970 to the day before its first; its days."""
    before = np.zeros(10_000 * 16, np.int64)
    lengths = np.zeros(10_000 * 16, np.uint8)  # months 0 and 13 to 15 have no days
    months = np.arange("0001-01", "10000-01", dtype="datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    number = months.astype(np.int64) + 1970 * 12
    place = number // 12 * 16 + number % 12 + 1
    before[place] = first - 1
    lengths[place] = (months + 1).astype("datetime64[D]").astype(np.int64) - first
    return before, lengths


def _moments(content: Bytes, field: Field, places: Places, nulls: Flags | None) -> Values:
    packed = _at(content, np.dtype("u8"), places)
    sizes = (packed & np.uint64(0xFF)).astype(np.intp)  # 0, 4, 7 or 11
    if nulls is not None:
        sizes[nulls] = -1
    before, lengths = _calendar()
    with_date, with_time, with_fraction = sizes >= 4, sizes >= 7, sizes == 11
    month = np.where(with_date, _part(packed, 8, 0xFFFF) * 16 + _part(packed, 24, 0xFF), 0)
    month[month >= len(lengths)] = 0
    day = _part(packed, 32, 0xFF)
    unfit = (day < 1) | (day > lengths[month])
    seconds = (_part(packed, 40, 0xFF) * 60 + _part(packed, 48, 0xFF)) * 60 + _part(packed, 56, 0xFF)
    moments = (before[month] + day) * DAY + np.where(with_time, seconds, 0) * 1_000_000
    if with_fraction.any():
        rows = np.flatnonzero(with_fraction)
        moments[rows] += _at(content, np.dtype("u4"), places[rows] + 8)
    places += sizes + 1
    if nulls is not None:
        unfit &= ~nulls
    if not unfit.any():
        return Values(field, moments, nulls)
    first = int(unfit.argmax())
    begin = int(places[first]) - int(sizes[first])
    return Values(field, moments, nulls, unfit, _spelt(field, content[begin : int(places[first])].tobytes()))


def _spelt(field: Field, sent: bytes) -> str:
    """A moment as MySQL writes it."""
    year, month, day, hour, minute, second, micros = struct.unpack("<HBBBBBI", sent.ljust(11, b"\0"))
    date = f"{year:04}-{month:02}-{day:02}"
    if field.type not in {FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP}:
        return date
    fraction = f".{micros:06}"[: field.decimals + 1] if field.decimals else ""
    return f"{date} {hour:02}:{minute:02}:{second:02}{fraction}"


def _part(packed: "np.ndarray[Any, np.dtype[np.uint64]]", shift: int, mask: int) -> Places:
    part: Places = ((packed >> np.uint64(shift)) & np.uint64(mask)).astype(np.intp)
    return part
