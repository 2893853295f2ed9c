"""Values: how a column is asked for, and how what the server answers becomes Arrow, whole or not at all.

The hard part is that nothing on the way may round, cut or replace a value silently: a FLOAT is asked for as the double
that it is, a TIME as text (a duration would lose its form), bytes become hexadecimal here, because some of the server's
functions answer NULL beyond max_allowed_packet, a text that its character set cannot spell in UTF-8 is not taken with
question marks in it, and what does not fit its type is pointed at.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pymysql.constants import FIELD_TYPE

from rds_lake.extract.decode import DAY, Flags, Values
from rds_lake.extract.types import Column
from rds_lake.sql import quote

_WHOLE_CHARSETS = frozenset({"utf8mb4", "utf8mb3", "utf8", "latin1", "ucs2", "utf16", "utf16le", "utf32", "binary"})
"""Character sets of which every byte sequence that a column can hold stands for characters of UTF-8."""

SHOWN = 40
"""Characters of such a text that the answer shows: never so many that the answer would be NULL."""

UNSPELT = "\U0010ffff"
"""What the answer for a text begins with that UTF-8 cannot spell; its first bytes follow in hexadecimal."""

WIDE = 1_000
"""Bytes from which a value's checksum is asked for instead of the value, where only its equality matters."""


class UnfitError(ValueError):
    """A value that cannot be carried whole.

    Args:
        position: its place among the values.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(f"value {position} cannot be carried whole")


def expression(column: Column) -> str:
    """The SQL expression of a column's values, as they are carried."""
    name = quote(column.name, "mysql")
    if column.type.lower().startswith("float"):
        name = f"({name} + 0e0)"  # as text the server prints six digits of it
    if column.kind == "spatial":
        return f"{'ST_AsText' if column.as_ == 'string' else 'ST_AsBinary'}({name})"
    if column.type.lower().startswith("vector"):
        return f"CAST({name} AS BINARY)"  # it has no type that the protocol's other values have
    if column.kind == "bits" and column.as_ == "string":
        return f"CAST({name} + 0 AS CHAR)"
    if column.kind in {"number", "moment", "other"} and column.mapped.arrow == pa.string():
        return f"CAST({name} AS CHAR)"
    return _spelt(name, column.charset) if column.charset not in {None, *_WHOLE_CHARSETS} else name


def _spelt(name: str, charset: str | None) -> str:
    """A text of a character set with gaps; the server would put a question mark where it has no character."""
    there_and_back = f"CONVERT(CONVERT({name} USING utf8mb4) USING {charset})"
    return (
        f"IF(CAST({there_and_back} AS BINARY) = CAST({name} AS BINARY), CONVERT({name} USING utf8mb4), "
        f"CONCAT(_utf8mb4 X'{UNSPELT.encode().hex()}', HEX(LEFT({name}, {SHOWN}))))"
    )


def checksummed(column: Column) -> str:
    """An SQL expression that changes whenever a column's value does, short enough to be put beside others.

    It is never binary: MySQL 8 refuses to put quotes around bytes, and to put them beside text.
    """
    value = expression(column)
    if column.mapped.octets > WIDE:
        return f"SHA1({value})"
    if column.kind == "bits":
        return f"({value} + 0)"
    return f"HEX({value})" if column.kind == "bytes" else value


def to_arrow(column: Column, values: Values) -> pa.Array:
    """The values of a column as Arrow.

    Args:
        column: the column.
        values: what the server answered for `expression(column)`.

    Raises:
        UnfitError: one of them cannot be carried whole; for a column `as: null` it is NULL instead.
    """
    given, unfit = _given(column, values)
    kind = column.mapped.arrow
    if unfit is None:
        try:
            return _finished(given.cast(kind), column)
        except pa.ArrowInvalid:
            unfit = _misfits(given, kind)
    if column.as_ != "null":
        raise UnfitError(int(unfit.argmax()))
    return _finished(pc.if_else(_array(pa.bool_(), ~unfit), given, pa.scalar(None, given.type)).cast(kind), column)


def nulled(array: pa.Array, values: Values) -> pa.Array:
    """Which values became NULL on the way to Arrow."""
    marks = array.is_null()
    return marks if values.nulls is None else pc.and_not(marks, _array(pa.bool_(), values.nulls))


def _given(column: Column, values: Values) -> tuple[pa.Array, Flags | None]:
    """The values in the Arrow type that is nearest to the form they came in, and which are known not to fit."""
    content, nulls, kind = values.content, values.nulls, values.field.type
    if kind == FIELD_TYPE.BIT:
        content = _numbers_of_bits(content, nulls)
    if column.as_ == "boolean":
        unfit = (content != 0) & (content != 1)
        return _array(pa.bool_(), content == 1, nulls), _some(unfit if nulls is None else unfit & ~nulls)
    if isinstance(content, pa.Array):
        given = _with_nulls(
            _hexadecimal(content) if column.as_ == "string" and column.kind == "bytes" else content, nulls
        )
        if column.charset in {None, *_WHOLE_CHARSETS}:
            return given, None
        return given, _some(_flags(pc.fill_null(pc.starts_with(given, UNSPELT), fill_value=False)))
    if kind in {FIELD_TYPE.DATE, FIELD_TYPE.NEWDATE}:
        return _array(pa.date32(), (content // DAY).astype(np.int32), nulls), values.unfit
    is_moment = kind in {FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP}
    return _array(pa.timestamp("us") if is_moment else pa.from_numpy_dtype(content.dtype), content, nulls), values.unfit


def _array(kind: pa.DataType, content: Any, nulls: Flags | None = None) -> pa.Array:  # noqa: ANN401 - any numpy array
    """A numpy array as Arrow, without a copy. `pyarrow.array` would do, but imports pandas."""
    data = np.packbits(content, bitorder="little") if pa.types.is_boolean(kind) else np.ascontiguousarray(content)
    return pa.Array.from_buffers(kind, len(content), [_validity(nulls), pa.py_buffer(data)])


def _with_nulls(array: pa.Array, nulls: Flags | None) -> pa.Array:
    """An array of whole values, of which some are NULL."""
    return pa.Array.from_buffers(array.type, len(array), [_validity(nulls), *array.buffers()[1:]])


def _validity(nulls: Flags | None) -> pa.Buffer | None:
    return None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))


def _flags(array: pa.Array) -> Flags:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


def _some(flags: Flags) -> Flags | None:
    return flags if flags.any() else None


def _numbers_of_bits(content: pa.Array, nulls: Flags | None) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """Bit fields, which arrive as bytes, all as many as the column's width takes."""
    numbers = np.zeros(len(content), np.uint64)
    present = np.arange(len(content)) if nulls is None else np.flatnonzero(~nulls)
    if len(present):
        width = len(content[int(present[0])].as_py())
        for part in _bytes_of(content).reshape(len(present), width).T:
            numbers[present] = numbers[present] << np.uint64(8) | part
    return numbers


def _bytes_of(array: pa.Array) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """All bytes of an array of bytes, one value after the other."""
    _, offsets, data = array.buffers()
    last = int(np.frombuffer(offsets, np.int32)[len(array)])
    return np.frombuffer(data, np.uint8, last) if last else np.empty(0, np.uint8)


def _hexadecimal(array: pa.Array) -> pa.Array:
    digits, data = np.frombuffer(b"0123456789ABCDEF", np.uint8), _bytes_of(array)
    text = np.empty(2 * len(data), np.uint8)
    text[0::2], text[1::2] = digits[data >> 4], digits[data & 15]
    offsets = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1] * 2
    return pa.Array.from_buffers(pa.binary(), len(array), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _finished(array: pa.Array, column: Column) -> pa.Array:
    """For a column `as: null` the texts and bytes that the warehouse takes, NULL in place of the others."""
    if column.as_ != "null" or not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
        return array
    whole = pc.less_equal(pc.binary_length(array), column.mapped.octets)
    if column.mapped.free_text:
        whole = pc.and_(whole, pc.invert(pc.match_substring(array, "\0")))
    return pc.if_else(pc.fill_null(whole, fill_value=False), array, pa.scalar(None, array.type))


def _misfits(given: pa.Array, kind: pa.DataType) -> Flags:
    """Which values are none of a type."""
    return np.array([not _fits(given.slice(place, 1), kind) for place in range(len(given))])


def _fits(value: pa.Array, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
