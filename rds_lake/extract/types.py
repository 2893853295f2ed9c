"""The type table: each MySQL type and what it becomes in Arrow, in the Glue catalog and in Redshift, and why.

The only place that maps a type. `column_type` is the text of `information_schema.columns.column_type`, which has what
driver type codes lack: unsigned, precision, fraction, members. The hard part is what Redshift counts and we do not see:
VARCHAR counts bytes, so utf8mb4 text of n characters needs 4n; 19-digit decimals are 64-bit numbers, so 19 digits are
kept as 20; and a column may hold values that no type there takes. Those have a `limit`, which the split looks at.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import pyarrow as pa

from rds_lake.errors import SpecError

VARCHAR_MAX = 65_535
"""Longest VARCHAR of Redshift, in bytes."""

VARBYTE_MAX = 1_024_000
"""Longest VARBYTE that every release of Redshift takes, in bytes; newer ones take more than a COPY can bring."""

DECIMAL_MAX = 38
"""Most digits of a decimal in Redshift, Athena and Arrow's decimal128."""

SCALE_MAX = 37
"""Most of them behind the point in Redshift."""

As = Literal["string", "null", "boolean", "binary", "exclude"]
"""How a column is carried, if not as its type says."""

Kind = Literal["number", "bits", "moment", "text", "bytes", "spatial", "other"]
"""What a type's values are, as far as asking for them and turning them into something else is concerned."""


@dataclass(frozen=True)
class MappedType:
    """One MySQL type on the other side.

    Attributes:
        arrow: its Arrow type.
        glue: its type in the Glue catalog.
        redshift: its type in Redshift.
        octets: the most bytes that a value takes in the warehouse.
        limit: the most bytes that the warehouse takes, where the source may hold more; None where it cannot.
        free_text: whether a value may be any text, so that it may hold the NUL character, which ends a VARCHAR.
    """

    arrow: pa.DataType
    glue: str
    redshift: str
    octets: int = 16
    limit: int | None = None
    free_text: bool = False


@dataclass(frozen=True)
class SourceType:
    """MySQL's text of a type, taken apart.

    Attributes:
        text: all of it, such as `int(10) unsigned`.
        name: the type's name in lower case.
        arguments: what stands in the parentheses.
        unsigned: whether it has no negative values.
    """

    text: str
    name: str
    arguments: str
    unsigned: bool

    @classmethod
    def of(cls, text: str) -> "SourceType":
        """Take the text of a type apart."""
        match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?\s*(.*)", text.strip(), re.DOTALL)
        name, arguments, attributes = match.groups(default="") if match else (text, "", "")
        return cls(text, name.lower(), arguments, "unsigned" in attributes.lower())

    def number(self, default: int) -> int:
        """The one number in the parentheses."""
        return int(self.arguments) if self.arguments else default

    @property
    def digits(self) -> tuple[int, int]:
        """All digits of a decimal, and those behind the point."""
        digits, _, scale = self.arguments.partition(",")
        return int(digits or 10), int(scale or 0)

    @property
    def members(self) -> list[str]:
        """The members of an ENUM or SET."""
        return [member.replace("''", "'") for member in re.findall(r"'((?:[^']|'')*)'", self.arguments)]


@dataclass(frozen=True)
class TypeRow:
    """One row of the type table.

    Attributes:
        names: the MySQL types that it is for.
        examples: the types that the documentation shows.
        kind: what their values are.
        becomes: what a type becomes by itself; None for one that is refused unless `as` says how it is carried.
        shown: the most bytes of a value as the text that `as: string` makes of it.
        ways: what `as` may say, beside `exclude`.
        why: the reason, where others do it differently or lose values.
    """

    names: tuple[str, ...]
    examples: tuple[str, ...]
    kind: Kind
    becomes: Callable[[SourceType], MappedType] | None
    shown: Callable[[SourceType], int]
    ways: tuple[As, ...]
    why: str


@dataclass(frozen=True)
class Column:
    """A column of a source table.

    Attributes:
        name: its name, as the source spells it.
        type: its MySQL type, such as `varchar(25)` or `int(10) unsigned`.
        nullable: whether it may hold NULL.
        as_: how it is carried, if not as its type says; never `exclude`, because such a column is not carried at all.
        charset: its character set, as far as it is known: of use to the reader only, so no part of what it is.
        generated: the expression that the server computes it by, empty if it computes none, None if that is not known;
            no part of what it is either.
    """

    name: str
    type: str
    nullable: bool = True
    as_: As | None = None
    charset: str | None = field(default=None, compare=False)
    generated: str | None = field(default=None, compare=False)

    @property
    def mapped(self) -> MappedType:
        """Its types in Arrow, Glue and Redshift."""
        return map_type(self.type, column=self.name, as_=self.as_)

    @property
    def kind(self) -> Kind:
        """What its values are."""
        return type_row(self.type).kind


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of rows with these columns, in this order."""
    return pa.schema([pa.field(column.name, column.mapped.arrow, nullable=column.nullable) for column in columns])


_SMALL = MappedType(pa.int16(), "smallint", "SMALLINT")
_INT = MappedType(pa.int32(), "int", "INTEGER")
_BIG = MappedType(pa.int64(), "bigint", "BIGINT")
_REAL = MappedType(pa.float32(), "float", "REAL")
_DOUBLE = MappedType(pa.float64(), "double", "DOUBLE PRECISION")
_DATE = MappedType(pa.date32(), "date", "DATE")
_MICROSECONDS = MappedType(pa.timestamp("us"), "timestamp", "TIMESTAMP")
_BOOLEAN = MappedType(pa.bool_(), "boolean", "BOOLEAN")


def _decimal(digits: int, scale: int) -> MappedType:
    digits = 20 if digits == 19 else digits
    if digits > DECIMAL_MAX or scale > SCALE_MAX:
        return _text(digits + 3)  # sign, point and a leading zero; no rounding
    return MappedType(pa.decimal128(digits, scale), f"decimal({digits},{scale})", f"DECIMAL({digits},{scale})")


def _text(octets: int) -> MappedType:
    most = min(max(octets, 1), VARCHAR_MAX)
    return MappedType(pa.string(), "string", f"VARCHAR({most})", most, VARCHAR_MAX if octets > VARCHAR_MAX else None)


def _free_text(octets: int) -> MappedType:
    return replace(_text(octets), free_text=True)


def _binary(octets: int) -> MappedType:
    most = min(max(octets, 1), VARBYTE_MAX)
    return MappedType(pa.binary(), "binary", f"VARBYTE({most})", most, VARBYTE_MAX if octets > VARBYTE_MAX else None)


def _whole(signed: MappedType, unsigned: MappedType) -> Callable[[SourceType], MappedType]:
    return lambda given: unsigned if given.unsigned else signed


def _bit(given: SourceType) -> MappedType:
    bits = given.number(1)
    return _SMALL if bits == 1 else _BIG if bits < 64 else _decimal(20, 0)


_UTF8_GROWTH = 3
"""How many times longer a text may become in UTF-8: one byte of latin1 may become three, two of ucs2 as well."""

TEXT_OCTETS: Mapping[str, int] = {
    "tinytext": 255,
    "text": 65_535,
    "mediumtext": 2**24 - 1,
    "longtext": 2**32 - 1,
    "json": 2**30,
}
"""The most bytes of each type of text that is not counted in characters."""

BLOB_OCTETS: Mapping[str, int] = {
    "tinyblob": 255,
    "blob": 65_535,
    "mediumblob": 2**24 - 1,
    "longblob": 2**32 - 1,
    "geometry": 2**32 - 1,
}
"""The most bytes of each type of bytes that has no length of its own."""

_SPATIAL = ("point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection")


def _characters(given: SourceType) -> int:
    return 4 * given.number(1)


def _grown(given: SourceType) -> int:
    # 4 x 255 for a TINYTEXT, which is how an ordinary VARCHAR(255) is counted.
    return 4 * 255 if given.name == "tinytext" else _UTF8_GROWTH * TEXT_OCTETS[given.name]


def _longest_member(given: SourceType) -> int:
    return 4 * max(map(len, given.members), default=1)


def _all_members(given: SourceType) -> int:
    return 4 * len(",".join(given.members))


def _blob(given: SourceType) -> int:
    return BLOB_OCTETS.get(given.name, 0) or given.number(1)


def _shown_decimal(given: SourceType) -> int:
    return given.digits[0] + 3


_Octets = Callable[[SourceType], int]


def _digits(most: int) -> _Octets:
    return lambda _: most


def _of(mapping: Callable[[int], MappedType], octets: _Octets) -> Callable[[SourceType], MappedType]:
    return lambda given: mapping(octets(given))


def _hexadecimal(octets: _Octets) -> _Octets:
    return lambda given: 2 * octets(given)


_ANY_LENGTH: _Octets = _digits(2**32 - 1)

TYPE_TABLE: tuple[TypeRow, ...] = (
    TypeRow(
        ("tinyint",),
        ("tinyint", "tinyint(1)", "tinyint unsigned"),
        "number",
        lambda _: _SMALL,
        _digits(20),
        ("string", "boolean"),
        "There is no type of one byte. TINYINT(1) holds -128..127, not only 0 and 1: others make it a boolean and "
        "lose the rest, here it is one only on request.",
    ),
    TypeRow(
        ("smallint",),
        ("smallint", "smallint unsigned"),
        "number",
        _whole(_SMALL, _INT),
        _digits(20),
        ("string",),
        "There are no unsigned types: the next larger signed one. DMS keeps two bytes and overflows above 32,767.",
    ),
    TypeRow(
        ("mediumint", "int"),
        ("mediumint", "int", "int unsigned", "mediumint unsigned"),
        "number",
        lambda given: _BIG if given.unsigned and given.name == "int" else _INT,
        _digits(20),
        ("string",),
        "INT UNSIGNED needs more than four signed bytes. Display width and ZEROFILL are no part of the value.",
    ),
    TypeRow(
        ("bigint",),
        ("bigint", "bigint unsigned"),
        "number",
        _whole(_BIG, _decimal(20, 0)),
        _digits(20),
        ("string",),
        "BIGINT UNSIGNED has 20 digits; in a signed BIGINT, as dlt has it, or in 19 digits its upper half overflows.",
    ),
    TypeRow(
        ("decimal",),
        ("decimal(18,4)", "decimal(19,4)", "decimal(38,10)", "decimal(38,38)", "decimal(65,30)"),
        "number",
        lambda given: _decimal(*given.digits),
        _shown_decimal,
        ("string",),
        "Redshift's 19 digits end at 2^63-1, so they are kept as 20. More than 38 digits, or 37 behind the point, are "
        "kept as text: no type there has them, and nothing is rounded.",
    ),
    TypeRow(
        ("float",),
        ("float",),
        "number",
        lambda _: _REAL,
        _digits(32),
        ("string",),
        "MySQL prints six digits of a FLOAT; it is read as the exact value.",
    ),
    TypeRow(
        ("double",),
        ("double",),
        "number",
        lambda _: _DOUBLE,
        _digits(32),
        ("string",),
        "The same eight bytes everywhere.",
    ),
    TypeRow(
        ("bit",),
        ("bit(1)", "bit(63)", "bit(64)"),
        "bits",
        _bit,
        _digits(20),
        ("string", "boolean"),
        "Drivers hand out bytes; it is the number that they stand for. Others refuse it or make it text.",
    ),
    TypeRow(
        ("year",),
        ("year",),
        "number",
        lambda _: _SMALL,
        _digits(4),
        ("string",),
        "A number from 1901 to 2155, and 0 for the year 0000.",
    ),
    TypeRow(
        ("date",),
        ("date",),
        "moment",
        lambda _: _DATE,
        _digits(10),
        ("string", "null"),
        "Years below 1000 are kept. A zero or partly zero date is none: it fails, it never becomes 1970-01-01.",
    ),
    TypeRow(
        ("datetime",),
        ("datetime", "datetime(6)"),
        "moment",
        lambda _: _MICROSECONDS,
        _digits(26),
        ("string", "null"),
        "A clock on the wall: it has no zone and is never shifted. Microseconds, because nanoseconds end in 2262. "
        "Athena shows milliseconds.",
    ),
    TypeRow(
        ("timestamp",),
        ("timestamp", "timestamp(6)"),
        "moment",
        lambda _: _MICROSECONDS,
        _digits(26),
        ("string", "null"),
        "An instant; it is read and kept in UTC, whatever the server's zone.",
    ),
    TypeRow(
        ("time",),
        ("time", "time(6)"),
        "moment",
        lambda _: _text(17),
        _digits(17),
        ("string",),
        "A duration of up to 838:59:59.999999 with a sign, not a time of day, which is all that the types called TIME "
        "hold; COPY cannot load those from Parquet either. The text is MySQL's own.",
    ),
    TypeRow(
        ("char", "varchar"),
        ("char(3)", "varchar(25)", "varchar(20000)"),
        "text",
        _of(_free_text, _characters),
        _characters,
        ("string", "null", "binary"),
        "VARCHAR counts bytes, and a character may have four. CHAR loses its trailing blanks at the source.",
    ),
    TypeRow(
        ("tinytext", "text", "mediumtext", "longtext"),
        ("tinytext", "text", "mediumtext", "longtext"),
        "text",
        _of(_free_text, _grown),
        _grown,
        ("string", "null", "binary"),
        "The source's sizes are bytes of its own character set; latin1 grows in UTF-8. Redshift takes 65,535 bytes.",
    ),
    TypeRow(
        ("json",),
        ("json",),
        "text",
        _of(_text, _grown),
        _grown,
        ("string", "null", "binary"),
        "The text that MySQL prints; JSON_PARSE makes a SUPER of it. JSON's null is a text, not NULL. MariaDB's JSON "
        "is a LONGTEXT.",
    ),
    TypeRow(
        ("enum",),
        ("enum('a','it''s')",),
        "text",
        _of(_text, _longest_member),
        _longest_member,
        ("string", "binary"),
        "The member's text. The empty text is the error value or a member, and is not NULL.",
    ),
    TypeRow(
        ("set",),
        ("set('a','bc')",),
        "text",
        _of(_text, _all_members),
        _all_members,
        ("string", "binary"),
        "The members with commas, in the order of the definition. The empty text is the empty set, not NULL.",
    ),
    TypeRow(
        ("binary", "varbinary"),
        ("binary(16)", "varbinary(20)"),
        "bytes",
        _of(_binary, _blob),
        _hexadecimal(_blob),
        ("string", "binary"),
        "Bytes stay bytes, 0x00 included; others make text of them. BINARY pads with 0x00 at the source. Of variable "
        "length in Parquet, because COPY refuses the fixed one.",
    ),
    TypeRow(
        ("tinyblob", "blob", "mediumblob", "longblob"),
        ("tinyblob", "blob", "mediumblob", "longblob"),
        "bytes",
        _of(_binary, _blob),
        _hexadecimal(_blob),
        ("string", "null", "binary"),
        "As above. Redshift takes 1,024,000 bytes.",
    ),
    TypeRow(
        ("geometry", "geomcollection", *_SPATIAL),
        ("geometry", "point"),
        "spatial",
        None,
        _ANY_LENGTH,
        ("string", "binary"),
        "What the parts of a shape mean (SRID, order of axes) is not in its text or bytes, so it has to be asked for.",
    ),
    TypeRow(
        ("uuid", "inet4", "inet6"),
        ("uuid", "inet6"),
        "other",
        None,
        _digits(45),
        ("string",),
        "MariaDB's own; their text is whole, but comparing it is not comparing them.",
    ),
    TypeRow(
        ("vector",),
        ("vector(3)",),
        "bytes",
        None,
        lambda given: 8 * given.number(2048),
        ("string", "binary"),
        "The bytes of its floats; there is no such type on the other side.",
    ),
)
"""Every MySQL type that can be carried."""

_BY_NAME: Mapping[str, TypeRow] = {name: row for row in TYPE_TABLE for name in row.names}


def type_row(column_type: str) -> TypeRow:
    """The row of the type table for a MySQL type that `map_type` accepts."""
    return _BY_NAME[SourceType.of(column_type).name]


def ways(column_type: str) -> tuple[As, ...]:
    """What `as` may say for a column of a MySQL type."""
    given = SourceType.of(column_type)
    row = _BY_NAME.get(given.name)
    wide_bit = given.name == "bit" and given.number(1) > 1
    possible = [way for way in (row.ways if row else ()) if not (way == "boolean" and wide_bit)]
    return (*possible, "exclude")


@lru_cache(maxsize=4096)
def map_type(column_type: str, *, column: str = "", table: str = "", as_: As | None = None) -> MappedType:
    """What a MySQL type becomes.

    Args:
        column_type: MySQL's text of the type, such as `bigint(20) unsigned`.
        column: the column's name, for the error message.
        table: the table's name, for the error message.
        as_: how the column is carried, if not as its type says.

    Raises:
        SpecError: the type cannot be carried whole, or not in this way.
    """
    given = SourceType.of(column_type)
    row = _BY_NAME.get(given.name)
    plain = row.becomes if row else None
    if row is None or (as_ is None and plain is None) or (as_ is not None and as_ not in ways(column_type)):
        raise _refusal(given, column, table, as_)
    if plain is not None and as_ in {None, "null"}:
        return plain(given)
    return _BOOLEAN if as_ == "boolean" else _overridden(row, given, as_)


def _overridden(row: TypeRow, given: SourceType, as_: As | None) -> MappedType:
    if as_ == "binary":
        octets = row.shown(given) if row.kind != "bytes" else row.shown(given) // 2
        return _binary(octets)
    return _free_text(row.shown(given)) if row.kind == "text" and given.name != "json" else _text(row.shown(given))


def _refusal(given: SourceType, column: str, table: str, as_: As | None) -> SpecError:
    where = f"{table}: the column" if table else "The column"
    possible = ways(given.text)
    listed = " or ".join(f"'as: {way}'" for way in possible)
    place = f"defs/{table or '<table>'}/defs.yaml"
    unless = "" if possible != ("exclude",) else ", or read it through a view of the source that converts it"
    remedy = f"Declare {listed} for it in {place}{unless}."
    if as_ is None:
        problem = f"{where} '{column}' has the type {given.text}, which cannot be carried whole by itself."
    else:
        problem = f"{where} '{column}' has the type {given.text}, which cannot be carried 'as: {as_}'."
    return SpecError(problem, remedy)


def documented_types() -> Iterator[tuple[str, str, str, str, str, str]]:
    """The type table as the documentation shows it: MySQL, Arrow, Glue, Redshift, `as`, why."""
    for row in TYPE_TABLE:
        for number, example in enumerate(row.examples):
            mapped = map_type(example) if row.becomes else None
            shown = (str(mapped.arrow), mapped.glue, mapped.redshift) if mapped else ("refused", "-", "-")
            possible = ", ".join(way for way in ways(example) if way != "exclude")
            yield (example, *shown, possible, row.why if number == 0 else "")
