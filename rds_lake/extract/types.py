"""The type table: each MySQL type and what it becomes in Arrow, in the Glue catalog and in Redshift.

The only place that maps a type. `column_type` is the text of `information_schema.columns.column_type`, which has what
driver type codes lack: unsigned, precision, fraction, members. Facts behind the choices: Redshift's VARCHAR counts
bytes, so utf8mb4 text of n characters needs 4n; its 19-digit decimals are 64-bit numbers, so 19 digits are kept as 20.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from rds_lake.errors import SpecError

VARCHAR_MAX = 65_535
"""Longest VARCHAR of Redshift, in bytes."""

DECIMAL_MAX = 38
"""Most digits of a decimal in Redshift, Athena and Arrow's decimal128."""


@dataclass(frozen=True)
class MappedType:
    """One MySQL type on the other side."""

    arrow: pa.DataType
    glue: str
    redshift: str


@dataclass(frozen=True)
class Column:
    """A column of a source table.

    Attributes:
        name: its name, as the source spells it.
        type: its MySQL type, such as `varchar(25)` or `int(10) unsigned`.
        nullable: whether it may hold NULL.
    """

    name: str
    type: str
    nullable: bool = True

    @property
    def mapped(self) -> MappedType:
        """Its types in Arrow, Glue and Redshift."""
        return map_type(self.type, column=self.name)


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of rows with these columns, in this order."""
    return pa.schema([pa.field(column.name, column.mapped.arrow, nullable=column.nullable) for column in columns])


def _integer(bits: int, glue: str, redshift: str) -> MappedType:
    return MappedType(pa.int16() if bits == 16 else pa.int32() if bits == 32 else pa.int64(), glue, redshift)


_SMALL = _integer(16, "smallint", "SMALLINT")
_INT = _integer(32, "int", "INTEGER")
_BIG = _integer(64, "bigint", "BIGINT")


def _decimal(digits: int, scale: int) -> MappedType:
    digits = 20 if digits == 19 else digits
    if digits > DECIMAL_MAX:
        return _text(digits + 3)  # sign, point and a leading zero; no rounding
    return MappedType(pa.decimal128(digits, scale), f"decimal({digits},{scale})", f"DECIMAL({digits},{scale})")


def _text(octets: int) -> MappedType:
    return MappedType(pa.string(), "string", f"VARCHAR({min(max(octets, 1), VARCHAR_MAX)})")


def _binary(octets: int) -> MappedType:
    return MappedType(pa.binary(), "binary", f"VARBYTE({min(max(octets, 1), VARCHAR_MAX)})")


_MICROSECONDS = MappedType(pa.timestamp("us"), "timestamp", "TIMESTAMP")

_INTEGERS: dict[str, tuple[MappedType, MappedType]] = {  # signed, unsigned
    "tinyint": (_SMALL, _SMALL),
    "smallint": (_SMALL, _INT),
    "mediumint": (_INT, _INT),
    "int": (_INT, _BIG),
    "bigint": (_BIG, _decimal(20, 0)),
}


def _members(arguments: str) -> list[str]:
    return [member.replace("''", "'") for member in re.findall(r"'((?:[^']|'')*)'", arguments)]


def _number(arguments: str, default: int) -> int:
    return int(arguments) if arguments else default


def _bit(arguments: str) -> MappedType:
    bits = _number(arguments, 1)
    return _SMALL if bits == 1 else _BIG if bits < 64 else _decimal(20, 0)


def _decimal_of(arguments: str) -> MappedType:
    digits, _, scale = arguments.partition(",")
    return _decimal(int(digits or 10), int(scale or 0))


_BY_NAME: dict[str, Callable[[str], MappedType]] = {
    "decimal": _decimal_of,
    "float": lambda _: MappedType(pa.float32(), "float", "REAL"),
    "double": lambda _: MappedType(pa.float64(), "double", "DOUBLE PRECISION"),
    "bit": _bit,
    "year": lambda _: _SMALL,
    "date": lambda _: MappedType(pa.date32(), "date", "DATE"),
    "datetime": lambda _: _MICROSECONDS,
    "timestamp": lambda _: _MICROSECONDS,  # in UTC: the session's zone is set to it
    "time": lambda _: _text(17),  # a duration of up to 838:59:59.999999 with a sign, not a time of day
    "char": lambda a: _text(4 * _number(a, 1)),
    "varchar": lambda a: _text(4 * _number(a, 1)),
    "tinytext": lambda _: _text(4 * 255),
    "text": lambda _: _text(VARCHAR_MAX),
    "mediumtext": lambda _: _text(VARCHAR_MAX),
    "longtext": lambda _: _text(VARCHAR_MAX),
    "json": lambda _: _text(VARCHAR_MAX),
    "enum": lambda a: _text(4 * max(map(len, _members(a)), default=1)),
    "set": lambda a: _text(4 * len(",".join(_members(a)))),
    "binary": lambda a: _binary(_number(a, 1)),
    "varbinary": lambda a: _binary(_number(a, 1)),
    "tinyblob": lambda _: _binary(255),
    "blob": lambda _: _binary(VARCHAR_MAX),
    "mediumblob": lambda _: _binary(VARCHAR_MAX),
    "longblob": lambda _: _binary(VARCHAR_MAX),
}


def map_type(column_type: str, *, column: str = "") -> MappedType:
    """What a MySQL type becomes.

    Args:
        column_type: MySQL's text of the type, such as `bigint(20) unsigned`.
        column: the column's name, for the error message.

    Raises:
        SpecError: the type cannot be carried whole.
    """
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?\s*(.*)", column_type.strip(), re.DOTALL)
    name, arguments, attributes = match.groups(default="") if match else (column_type, "", "")
    name = name.lower()
    if name in _INTEGERS:
        return _INTEGERS[name]["unsigned" in attributes.lower()]
    if name in _BY_NAME:
        return _BY_NAME[name](arguments)
    raise SpecError(
        f"The column '{column}' has the type {column_type}, which cannot be carried whole into the lake.",
        "Read it through a view of the source that converts or leaves out this column.",
    )
