"""Values: how a column is asked for, and how what the driver hands out becomes Arrow, whole or not at all.

The hard part is that nothing on the way may round, cut or replace a value silently: a FLOAT is asked for as the double
that it is, a TIME as text (a driver's duration would lose its form), bytes become hexadecimal here, because some of the
server's functions answer NULL beyond max_allowed_packet, a text that its character set cannot spell in UTF-8 is not
taken with question marks in it, and what does not fit its type is pointed at.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from rds_lake.extract.types import Column
from rds_lake.sql import quote

_MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError)
"""What Arrow raises over a value that is none of a type."""

_WHOLE_CHARSETS = frozenset({"utf8mb4", "utf8mb3", "utf8", "latin1", "ucs2", "utf16", "utf16le", "utf32", "binary"})
"""Character sets of which every byte sequence that a column can hold stands for characters of UTF-8."""

SHOWN = 40
"""Characters of such a text that the answer shows: never so many that the answer would be NULL."""

UNSPELT = "\U0010ffff"
"""What the answer for a text begins with that UTF-8 cannot spell; its first bytes follow in hexadecimal."""

WIDE = 1_000
"""Bytes from which a value's checksum is asked for instead of the value, where only its equality matters."""


def _bits(value: bytes) -> int:
    return int.from_bytes(value, "big")


CONVERSIONS: dict[Any, Callable[..., Any]] = {
    **{key: value for key, value in conversions.items() if isinstance(key, int)},
    FIELD_TYPE.BIT: _bits,
}
"""The driver's own conversions, but for bit fields."""


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
        return f"CAST({name} AS BINARY)"  # the driver would take its bytes for ASCII
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


def to_arrow(column: Column, values: Sequence[Any]) -> pa.Array:
    """The values of a column as Arrow.

    Args:
        column: the column.
        values: what the driver handed out for `expression(column)`.

    Raises:
        UnfitError: one of them cannot be carried whole; for a column `as: null` it is NULL instead.
    """
    kind = column.mapped.arrow
    if column.as_ == "boolean":
        values = _booleans(values)
    elif column.as_ == "string" and column.kind == "bytes":
        values = [None if value is None else value.hex().upper() for value in values]
    elif column.charset not in {None, *_WHOLE_CHARSETS}:
        values = _spelt_only(column, values)
    try:
        array = pa.array(values, type=kind)
    except _MISFITS as error:
        fitting = [_fits(value, kind) for value in values]
        if column.as_ != "null":
            raise UnfitError(fitting.index(False)) from error
        array = pa.array([value if fits else None for value, fits in zip(values, fitting, strict=True)], type=kind)
    return _only_whole(array, column) if column.as_ == "null" else array


def nulled(array: pa.Array, values: Sequence[Any]) -> pa.Array:
    """Which values became NULL on the way to Arrow."""
    return pc.and_(array.is_null(), pa.array([value is not None for value in values], type=pa.bool_()))


def _spelt_only(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    bad = [place for place, value in enumerate(values) if value is not None and value.startswith(UNSPELT)]
    if not bad:
        return values
    if column.as_ != "null":
        raise UnfitError(bad[0])
    return [None if place in set(bad) else value for place, value in enumerate(values)]


def _booleans(values: Sequence[Any]) -> list[bool | None]:
    for position, value in enumerate(values):
        if value not in {0, 1, None}:
            raise UnfitError(position)
    return [None if value is None else bool(value) for value in values]


def _only_whole(array: pa.Array, column: Column) -> pa.Array:
    """Texts and bytes that the warehouse takes; NULL in place of the others."""
    if not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
        return array
    whole = pc.less_equal(pc.binary_length(array), column.mapped.octets)
    if column.mapped.free_text:
        whole = pc.and_(whole, pc.invert(pc.match_substring(array, "\0")))
    return pc.if_else(pc.fill_null(whole, fill_value=False), array, pa.scalar(None, array.type))


def _fits(value: Any, kind: pa.DataType) -> bool:  # noqa: ANN401 - any value the driver returns
    try:
        pa.array([value], type=kind)
    except _MISFITS:
        return False
    return True
