"""Declared types: what a column's `type` may say, and how a text becomes such a value or is found to be none.

The only place that knows them. A value is taken as it is or not at all: what would have to be cut, rounded or guessed
does not fit. The texts are judged by DuckDB; `judge` is the SQL for one column of texts.
"""

import re
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

from rds_lake.files.formats import YEAR, pattern_of
from rds_lake.sql import literal

VARCHAR_MAX = 65_535
"""Bytes that a VARCHAR of Redshift takes."""

Kind = Literal["integer", "decimal", "float", "boolean", "date", "timestamp", "timestamptz", "text"]

KNOWN = (
    "smallint, integer, bigint, decimal(p,s), real, double precision, boolean, date, timestamp, timestamptz, "
    "varchar(n) with n in bytes, text"
)

_PLAIN: dict[str, tuple[str, Kind, pa.DataType]] = {
    "SMALLINT": ("SMALLINT", "integer", pa.int16()),
    "INT2": ("SMALLINT", "integer", pa.int16()),
    "INTEGER": ("INTEGER", "integer", pa.int32()),
    "INT": ("INTEGER", "integer", pa.int32()),
    "INT4": ("INTEGER", "integer", pa.int32()),
    "BIGINT": ("BIGINT", "integer", pa.int64()),
    "INT8": ("BIGINT", "integer", pa.int64()),
    "REAL": ("REAL", "float", pa.float32()),
    "FLOAT4": ("REAL", "float", pa.float32()),
    "DOUBLE PRECISION": ("DOUBLE PRECISION", "float", pa.float64()),
    "DOUBLE": ("DOUBLE PRECISION", "float", pa.float64()),
    "FLOAT": ("DOUBLE PRECISION", "float", pa.float64()),
    "FLOAT8": ("DOUBLE PRECISION", "float", pa.float64()),
    "BOOLEAN": ("BOOLEAN", "boolean", pa.bool_()),
    "BOOL": ("BOOLEAN", "boolean", pa.bool_()),
    "DATE": ("DATE", "date", pa.date32()),
    "TIMESTAMP": ("TIMESTAMP", "timestamp", pa.timestamp("us")),
    "TIMESTAMP WITHOUT TIME ZONE": ("TIMESTAMP", "timestamp", pa.timestamp("us")),
    "DATETIME": ("TIMESTAMP", "timestamp", pa.timestamp("us")),
    "TIMESTAMPTZ": ("TIMESTAMPTZ", "timestamptz", pa.timestamp("us", "UTC")),
    "TIMESTAMP WITH TIME ZONE": ("TIMESTAMPTZ", "timestamptz", pa.timestamp("us", "UTC")),
    "TEXT": (f"VARCHAR({VARCHAR_MAX})", "text", pa.string()),
    "STRING": (f"VARCHAR({VARCHAR_MAX})", "text", pa.string()),
}
_SIZED_TEXT = {"VARCHAR", "CHARACTER VARYING", "NVARCHAR", "CHAR", "CHARACTER"}
_DECIMALS = {"DECIMAL", "NUMERIC"}

_TRUE, _FALSE = "true|t|yes|y|1", "false|f|no|n|0"

_DAY = f"{YEAR}-[0-9]{{2}}-[0-9]{{2}}"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6}0*)?)?"
_UTC = "( ?(Z|[+-]00(:?00)?|UTC))?"
_OFFSET = "( ?(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?|UTC))?"
_FIRST, _AFTER = "TIMESTAMPTZ '0001-01-01'", "TIMESTAMPTZ '10000-01-01'"


@dataclass(frozen=True)
class DeclaredType:
    """A type that a column may have.

    Attributes:
        name: the type as Redshift writes it.
        kind: what its values are.
        arrow: its Arrow type.
        size: most bytes of a text; digits of a decimal.
        scale: digits behind a decimal's point.
    """

    name: str
    kind: Kind
    arrow: pa.DataType
    size: int = 0
    scale: int = 0

    @classmethod
    def of(cls, text: str) -> "DeclaredType":
        """The type that a text names.

        Raises:
            ValueError: it names none; the message says which there are.
        """
        words = " ".join(text.upper().split())
        match = re.fullmatch(r"([A-Z0-9 ]+?) ?(?:\( ?(\d{1,9}) ?(?:, ?(\d{1,9}) ?)?\))?", words)
        name, size, scale = match.groups() if match else (words, None, None)
        if name in _PLAIN and size is None:
            canonical, kind, arrow = _PLAIN[name]
            return cls(canonical, kind, arrow, VARCHAR_MAX if kind == "text" else 0)
        if name in _SIZED_TEXT and scale is None:
            return cls._text(name, size)
        if name in _DECIMALS:
            return cls._decimal(int(size or 18), int(scale or 0))
        raise ValueError(f"'{text[:60]}' is no type; there are {KNOWN}")

    @classmethod
    def _text(cls, name: str, size: str | None) -> "DeclaredType":
        if size is None:
            raise ValueError(f"{name.lower()} needs its length in bytes, such as varchar(200); or say text")
        if not 1 <= int(size) <= VARCHAR_MAX:
            raise ValueError(f"varchar({size}): the length must be from 1 to {VARCHAR_MAX} bytes")
        return cls(f"VARCHAR({int(size)})", "text", pa.string(), int(size))

    @classmethod
    def _decimal(cls, digits: int, scale: int) -> "DeclaredType":
        if not (1 <= digits <= 38 and 0 <= scale <= min(digits, 37)):
            raise ValueError(f"decimal({digits},{scale}): up to 38 digits, of which up to 37 behind the point")
        digits = 20 if digits == 19 else digits  # Redshift's 19 digits end at 9223372036854775807
        return cls(f"DECIMAL({digits},{scale})", "decimal", pa.decimal128(digits, scale), digits, scale)

    @property
    def is_text(self) -> bool:
        """Whether its values are texts, for which an empty one is a value."""
        return self.kind == "text"


def judge(declared: DeclaredType, text: str, *, formats: tuple[str, ...] = (), thousands: str = "") -> str:
    """The SQL that turns texts into values of a type: NULL of one that does not fit, as of NULL.

    It has neither AND nor IN: with hundreds of columns DuckDB plans these for minutes, or until its memory is full.

    Args:
        declared: the type.
        text: SQL of the text.
        formats: how dates and moments may be written, as strptime knows it; ISO 8601 when there is none.
        thousands: what separates thousands in numbers; nothing when empty.
    """
    if declared.kind == "text":
        return f"CASE WHEN strlen({text}) > {declared.size} THEN NULL WHEN NOT contains({text}, chr(0)) THEN {text} END"
    plain = f"trim({text})"
    if declared.kind in {"date", "timestamp", "timestamptz"}:
        return _moment(declared, plain, formats)
    if declared.kind == "boolean":
        return _boolean(plain)
    return _number(declared, plain, thousands)


def fits(declared: DeclaredType, text: str) -> bool:
    """Whether a text stands for a value of a type."""
    if "\x00" in text:  # no type has it, and SQL's own text neither
        return False
    with duckdb.connect(config={"threads": 1}) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        # Not as a parameter, with which DuckDB would import pandas while a command starts.
        judged = judge(declared, f"CAST({literal(text)} AS VARCHAR)")
        return bool(engine.execute(f"SELECT {judged} IS NOT NULL").fetchall()[0][0])


def _number(declared: DeclaredType, text: str, thousands: str) -> str:
    whole = "[0-9]+"
    if thousands:
        whole = f"([0-9]+|[0-9]{{1,3}}({re.escape(thousands)}[0-9]{{3}})+)"
    pattern = {
        "integer": f"[+-]?{whole}",
        "decimal": f"[+-]?({whole}([.][0-9]{{0,{declared.scale}}}0*)?|[.][0-9]{{0,{declared.scale}}}0*)",
        "float": f"[+-]?({whole}([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?",
    }[declared.kind]
    digits = f"replace({text}, {literal(thousands)}, '')" if thousands else text
    value = f"TRY_CAST({digits} AS {_engine_name(declared)})"
    if declared.kind == "float":  # what is too large becomes infinite, what is too small becomes zero
        zero = f"regexp_full_match({text}, '[^1-9eE]*([eE].*)?')"
        value = f"CASE WHEN NOT isfinite({value}) THEN NULL WHEN {value} <> 0 THEN {value} WHEN {zero} THEN {value} END"
    return f"CASE WHEN regexp_full_match({text}, {literal(pattern)}) THEN {value} END"


def _boolean(text: str) -> str:
    true, false = (f"regexp_full_match(lower({text}), '{words}')" for words in (_TRUE, _FALSE))
    return f"CASE WHEN {true} THEN TRUE WHEN {false} THEN FALSE END"


def _moment(declared: DeclaredType, text: str, formats: tuple[str, ...]) -> str:
    value = _iso(declared, text)
    if formats:
        value = f"COALESCE({', '.join(_parsed(declared, text, item) for item in formats)})"
        if declared.kind == "date":  # a time would be cut off
            value = f"CASE WHEN {value} = CAST({value} AS DATE) THEN CAST({value} AS DATE) END"
    if declared.kind == "timestamptz":  # an offset may lead out of the calendar
        value = f"CASE WHEN {value} < {_FIRST} THEN NULL WHEN {value} >= {_AFTER} THEN NULL ELSE {value} END"
    return value


def _parsed(declared: DeclaredType, text: str, item: str) -> str:
    """SQL of the moment that a text of a format is, NULL of any other text."""
    kind = "TIMESTAMPTZ" if declared.kind == "timestamptz" else "TIMESTAMP"
    parsed = f"TRY_CAST(try_strptime({text}, {literal(item)}) AS {kind})"
    return f"CASE WHEN regexp_full_match({text}, {literal(pattern_of(item))}) THEN {parsed} END"


def _iso(declared: DeclaredType, text: str) -> str:
    """SQL of the value that a text of ISO 8601 is, NULL of any other text."""
    pattern = {
        "date": _DAY,
        "timestamp": f"{_DAY}([T ]{_TIME}{_UTC})?",
        "timestamptz": f"{_DAY}([T ]{_TIME}{_OFFSET})?",
    }[declared.kind]
    plain = text
    if declared.kind == "timestamp":  # what says that it is UTC loses just that
        plain = f"regexp_replace({text}, {literal(_UTC + '$')}, '')"
    elif declared.kind == "timestamptz":  # DuckDB needs the seconds before an offset, and no blank
        whole = rf"regexp_replace({text}, '^(.{{16}}) ?(Z|UTC|[+-].*)$', '\1:00\2')"
        plain = rf"regexp_replace(replace({whole}, 'UTC', 'Z'), ' ([Z+-])', '\1')"
    value = f"TRY_CAST({plain} AS {_engine_name(declared)})"
    return f"CASE WHEN regexp_full_match({text}, {literal(pattern)}) THEN {value} END"


def _engine_name(declared: DeclaredType) -> str:
    return {"REAL": "FLOAT", "DOUBLE PRECISION": "DOUBLE"}.get(declared.name, declared.name)


@dataclass(frozen=True)
class Written:
    """How typed values become texts that `judge` takes.

    Attributes:
        kind: the Arrow type to cast them to first.
        text: the SQL of the text then.
        fits: the SQL of whether a value is in the calendar; None where every value has a text of its own.
    """

    kind: pa.DataType
    text: str
    fits: str | None = None


def written(column: str, kind: pa.DataType) -> Written | None:
    """How values of an Arrow type are written.

    Args:
        column: SQL of the column.
        kind: its Arrow type.

    Returns:
        None for a type that has no such text.
    """
    text = f"CAST({column} AS VARCHAR)"
    if pa.types.is_dictionary(kind):
        return written(column, kind.value_type)
    if pa.types.is_floating(kind):
        return Written(pa.float64(), text)  # the shortest text of a REAL is another DOUBLE
    if pa.types.is_timestamp(kind):
        return _written_moment(column, kind)
    if pa.types.is_date(kind):
        return _written_date(column, kind)
    if any(test(kind) for test in (pa.types.is_null, pa.types.is_string_view, pa.types.is_decimal256)):
        return Written(pa.string(), text)
    simple = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_decimal,
        pa.types.is_boolean,
    )
    return Written(kind, text) if any(test(kind) for test in simple) else None


_FIRST_DAY, _LAST_DAY, _DAY_SECONDS = -719_162, 2_932_896, 86_400
"""The first day of the year 1 and the last one of 9999, counted from 1970-01-01, and the seconds of a day."""

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _written_moment(column: str, kind: pa.TimestampType) -> Written:
    """Moments as texts, made of their numbers: DuckDB fails on one that is out of its range, and has infinite ones."""
    each = _PER_SECOND[kind.unit]
    least = max(_FIRST_DAY * _DAY_SECONDS * each, -(2**63))
    most = min((_LAST_DAY + 1) * _DAY_SECONDS * each - 1, 2**63 - 1)
    near = f"least(greatest({column}, {least}), {most})"
    text = f"CAST(make_timestamp({near} * {10**6 // each}) AS VARCHAR)" if each < 10**9 else _nanoseconds(near)
    text = f"({text} || 'Z')" if kind.tz else text
    return _shown(column, kind, near, text)


def _nanoseconds(moment: str) -> str:
    """SQL of the text of nanoseconds, which has nine digits of a second where six do not say it all."""
    rest = f"(({moment} % 1000 + 1000) % 1000)"
    micros = f"make_timestamp({moment} // 1000 - CASE WHEN {moment} % 1000 < 0 THEN 1 ELSE 0 END)"
    fine = f"strftime({micros}, '%Y-%m-%d %H:%M:%S.%f') || lpad(CAST({rest} AS VARCHAR), 3, '0')"
    return f"CASE WHEN {rest} = 0 THEN CAST({micros} AS VARCHAR) ELSE {fine} END"


def _written_date(column: str, kind: pa.DataType) -> Written:
    """Dates as texts, made of their numbers as moments are."""
    each = 1 if pa.types.is_date32(kind) else _DAY_SECONDS * 1000
    near = f"least(greatest({column} // {each}, {_FIRST_DAY}), {_LAST_DAY})"
    text = f"CAST(DATE '1970-01-01' + CAST({near} AS INTEGER) AS VARCHAR)"
    return _shown(column, kind, f"({near} * {each})", text)


def _shown(column: str, kind: pa.DataType, near: str, text: str) -> Written:
    """Values whose text is theirs where the nearest one in the calendar is the value itself.

    Args:
        column: SQL of their number.
        kind: what they are.
        near: SQL of the number of that nearest one.
        text: SQL of its text.
    """
    number = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    count = f"CAST({column} AS VARCHAR) || {literal(f' as {kind}, which is in no year from 1 to 9999')}"
    fits = f"({near} = {column})"
    return Written(number, f"CASE WHEN {fits} THEN {text} ELSE {count} END", fits)
