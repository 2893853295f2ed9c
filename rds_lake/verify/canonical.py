"""Canonical text: the one form of a value that MySQL, DuckDB and Redshift all write in the same way, byte for byte.

The only place of the audit that knows a type. Lake and warehouse hold a value as it was carried, so their form follows
from what a column became; MySQL is asked for what it has to become first (`columns.<name>.as`, another type than the
agreed one), in SQL of its own, not with what extracts. Text and binary values go through MD5, which keeps a row's text
short (Redshift ends at 65,535 bytes) and free of the marks between values. FLOAT and DOUBLE have no text that the three
agree on: they are left out of the checksums, and compared as numbers where rows are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import pyarrow as pa

from rds_lake.extract.types import VARCHAR_MAX, Column
from rds_lake.sql import Dialect, quote

System = Literal["mysql", "lake", "warehouse"]
"""Who is asked: MySQL, DuckDB over the lake's files, Redshift."""

DIALECTS: Mapping[System, Dialect] = {"mysql": "mysql", "lake": "ansi", "warehouse": "redshift"}

SHOWN = 60
"""Characters of a value that a report shows."""

_PIECE = 32_000
"""Bytes of a binary value that are written in hexadecimal at once: twice as many characters fit into a VARCHAR."""


@dataclass(frozen=True)
class Form:
    """How one system writes a value; `{0}` stands for the quoted column, in MySQL for what is carried of it.

    Attributes:
        token: equal in all systems if and only if the values are equal; NULL for NULL.
        shown: what a person reads.
    """

    token: str
    shown: str


@dataclass(frozen=True)
class Canonical:
    """The forms of one type.

    Attributes:
        forms: how each system writes it.
        summed: whether the token is a text that the systems agree on, so that checksums may cover it.
    """

    forms: Mapping[System, Form]
    summed: bool = True

    def token(self, column: str, system: System) -> str:
        """The SQL of a column's token."""
        return self.forms[system].token.format(quote(column, DIALECTS[system]))

    def shown(self, column: str, system: System) -> str:
        """The SQL of what a report shows."""
        return self.forms[system].shown.format(quote(column, DIALECTS[system]))


def _same(mysql: str, lake: str, warehouse: str) -> Canonical:
    return Canonical({"mysql": Form(mysql, mysql), "lake": Form(lake, lake), "warehouse": Form(warehouse, warehouse)})


_AS_TEXT = "CAST({0} AS VARCHAR)"
# + 0 turns BIT, YEAR and ZEROFILL, which MySQL would write in ways of their own, into plain numbers.
_NUMBER = _same("CAST({0} + 0 AS CHAR)", _AS_TEXT, _AS_TEXT)
_DECIMAL = _same("CAST({0} AS CHAR)", _AS_TEXT, _AS_TEXT)
_BOOLEAN = _same(
    "CASE WHEN {0} + 0 <> 0 THEN 'true' WHEN {0} + 0 = 0 THEN 'false' END",
    _AS_TEXT,
    "CASE WHEN {0} THEN 'true' WHEN NOT {0} THEN 'false' END",
)
_DATE = _same(
    "DATE_FORMAT({0}, '%%Y-%%m-%%d')",
    "strftime({0}, '%Y-%m-%d')",
    "TO_CHAR({0}, 'YYYY-MM-DD')",
)
_MOMENT = _same(
    "DATE_FORMAT({0}, '%%Y-%%m-%%d %%H:%%i:%%s.%%f')",
    "strftime({0}, '%Y-%m-%d %H:%M:%S.%f')",
    "TO_CHAR({0}, 'YYYY-MM-DD HH24:MI:SS.US')",
)
_TEXT = Canonical(
    {
        "mysql": Form("MD5({0})", f"LEFT({{0}}, {SHOWN + 1})"),
        "lake": Form("md5({0})", f"left({{0}}, {SHOWN + 1})"),
        "warehouse": Form("MD5({0})", f"LEFT({{0}}, {SHOWN + 1})"),
    }
)
_FLOAT = Canonical(
    {
        "mysql": Form("({0} + 0e0)", "({0} + 0e0)"),
        "lake": Form("CAST({0} AS DOUBLE)", "CAST({0} AS DOUBLE)"),
        "warehouse": Form("CAST({0} AS DOUBLE PRECISION)", "CAST({0} AS DOUBLE PRECISION)"),
    },
    summed=False,
)


@cache
def _binary(most: int) -> Canonical:
    """Binary values of at most so many bytes as upper-case hexadecimal, long ones in pieces whose hashes are hashed.

    A value that is too long for the warehouse is met in MySQL and in the lake only, which hash it as it is: in
    hexadecimal it might be longer than what MySQL lets a function return.
    """
    starts = range(0, most, _PIECE)
    mysql = ", ".join(f"MD5(HEX(SUBSTRING({{0}}, {start + 1}, {_PIECE})))" for start in starts)
    lake = " || ".join(f"md5(substr(hex({{0}}), {2 * start + 1}, {2 * _PIECE}))" for start in starts)
    warehouse = " || ".join(
        f"MD5(UPPER(FROM_VARBYTE(SUBSTRING({{0}}, {start + 1}, {_PIECE}), 'hex')))" for start in starts
    )
    short = f"CASE WHEN OCTET_LENGTH({{0}}) <= {_PIECE} THEN"
    long = f"WHEN OCTET_LENGTH({{0}}) > {most} THEN"
    bytes_shown = SHOWN // 2 + 1
    return Canonical(
        {
            "mysql": Form(
                f"{short} MD5(HEX({{0}})) {long} MD5({{0}}) ELSE MD5(CONCAT({mysql})) END",
                f"HEX(LEFT({{0}}, {bytes_shown}))",
            ),
            "lake": Form(
                f"{short} md5(hex({{0}})) {long} md5({{0}}) ELSE md5({lake}) END", f"left(hex({{0}}), {SHOWN + 2})"
            ),
            "warehouse": Form(
                f"{short} MD5(UPPER(FROM_VARBYTE({{0}}, 'hex'))) ELSE MD5({warehouse}) END",
                f"UPPER(FROM_VARBYTE(SUBSTRING({{0}}, 1, {bytes_shown}), 'hex'))",
            ),
        }
    )


# Bytes that are carried as their hexadecimal text. Where it is too long for the warehouse, it may be too long for a
# function of MySQL as well, so the bytes themselves are hashed.
_HEXED = Canonical(
    {
        "mysql": Form(
            f"CASE WHEN OCTET_LENGTH({{0}}) > {VARCHAR_MAX // 2} THEN MD5({{0}}) ELSE MD5(HEX({{0}})) END",
            f"HEX(LEFT({{0}}, {SHOWN // 2 + 1}))",
        ),
        "lake": Form(
            f"CASE WHEN strlen({{0}}) > {VARCHAR_MAX} THEN md5(unhex({{0}})) ELSE md5({{0}}) END",
            f"left({{0}}, {SHOWN + 2})",
        ),
        "warehouse": Form("MD5({0})", f"LEFT({{0}}, {SHOWN + 2})"),
    }
)


def _decimals(column: Column) -> Canonical:
    kind = column.type.lower()
    return _DECIMAL if kind.startswith("decimal") and "zerofill" not in kind else _NUMBER


def _binaries(column: Column) -> Canonical:
    return _binary(column.mapped.octets)


def _texts(column: Column) -> Canonical:
    return _HEXED if column.kind == "bytes" else _TEXT


_BY_KIND: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Column], Canonical]], ...] = (
    (pa.types.is_floating, lambda _: _FLOAT),
    (pa.types.is_boolean, lambda _: _BOOLEAN),
    (pa.types.is_integer, lambda _: _NUMBER),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_date, lambda _: _DATE),
    (pa.types.is_timestamp, lambda _: _MOMENT),
    (pa.types.is_binary, _binaries),
    (pa.types.is_string, _texts),
)


def canonical(column: Column, source: Column | None = None) -> Canonical:
    """The canonical text of a column's values.

    Args:
        column: the column, as lake and warehouse hold it.
        source: the column that it is read from, where that one is of another type.
    """
    source = source or column
    told = source if pa.types.is_string(column.mapped.arrow) and _is_alike(column, source) else column
    found = next(form(told) for is_kind, form in _BY_KIND if is_kind(column.mapped.arrow))
    carried, mine = _carried(column, source), found.forms["mysql"]
    asked = Form(mine.token.replace("{0}", carried), mine.shown.replace("{0}", carried))
    return Canonical({**found.forms, "mysql": asked}, found.summed)


def is_summed(column: Column) -> bool:
    """Whether checksums cover a column."""
    return canonical(column).summed


# --- what MySQL is asked for -----------------------------------------------------------------------------------------

_PLAIN_FRACTION = 6
"""Digits behind the point up to which Arrow writes every decimal plainly; beyond, some become `0E-8`."""


def can_follow(column: Column, source: Column) -> bool:
    """Whether MySQL can write a column's values as those of the agreed one; not so for some decimals kept as text."""
    to_text = pa.types.is_string(column.mapped.arrow) and pa.types.is_decimal(source.mapped.arrow)
    return not (to_text and source.mapped.arrow.scale > _PLAIN_FRACTION)


def _is_alike(column: Column, source: Column) -> bool:
    mine, theirs = column.mapped.arrow, source.mapped.arrow
    return bool(mine == theirs) or (pa.types.is_integer(mine) and pa.types.is_integer(theirs))


def _carried(column: Column, source: Column) -> str:
    """MySQL's expression for a value as it is carried, in the type of the column that keeps it."""
    read, kind = _read(source), column.mapped.arrow
    if _is_alike(column, source):
        return read
    if pa.types.is_decimal(kind):
        return f"CAST({read} AS DECIMAL(65, {kind.scale}))"
    if pa.types.is_integer(kind):
        return f"CAST({read} AS DECIMAL(65, 0))"
    if pa.types.is_string(kind):
        if pa.types.is_timestamp(source.mapped.arrow):
            return _MOMENT.forms["mysql"].token.replace("{0}", read)
        return f"CAST({read} AS CHAR)" if source.kind == "moment" else f"CAST({read} + 0 AS CHAR)"
    return read


def _read(source: Column) -> str:
    """MySQL's expression for a value as `columns.<name>.as` says that it is read."""
    as_text = pa.types.is_string(source.mapped.arrow)
    if source.kind == "spatial":
        return "ST_AsText({0})" if as_text else "ST_AsBinary({0})"
    if source.kind == "text":
        return _read_text(source)
    if source.kind == "bytes":
        value = "CAST({0} AS BINARY)" if source.type.lower().startswith("vector") else "{0}"
        fits = f"OCTET_LENGTH({value}) <= {source.mapped.octets}"
        return _or_null(fits, value) if source.as_ == "null" else value
    if as_text:
        is_float = source.type.lower().startswith("float")
        return "CAST({0} + 0e0 AS CHAR)" if is_float else f"CAST({{0}}{' + 0' * (source.kind == 'bits')} AS CHAR)"
    return _or_null(_IN_CALENDAR, "{0}") if source.as_ == "null" else "{0}"


def _read_text(source: Column) -> str:
    text = "CONVERT({0} USING utf8mb4)"
    if source.as_ == "null":
        return _or_null(_is_whole_text(source, text), text)
    return f"CONVERT({text} USING binary)" if source.as_ == "binary" else text


_IN_CALENDAR = "YEAR({0}) > 0 AND DATE({0}) = FROM_DAYS(TO_DAYS({0}))"
"""Neither a zero date, nor a partly zero one, nor a 31st of February."""


def _or_null(condition: str, value: str) -> str:
    return f"CASE WHEN {condition} THEN {value} END"


def _is_whole_text(source: Column, text: str) -> str:
    """Whether the warehouse takes a text, and UTF-8 can spell it."""
    parts = [f"OCTET_LENGTH({text}) <= {source.mapped.octets}"]
    if source.mapped.free_text:
        parts.append(f"LOCATE(X'00', CONVERT({text} USING binary)) = 0")
    if source.charset not in {None, "utf8mb4", "binary"}:
        back = f"CONVERT(CONVERT({text} USING {source.charset}) USING binary)"
        parts.append(f"{back} = CONVERT({{0}} USING binary)")
    return " AND ".join(parts)
