"""Every MySQL type, value by value: source -> Parquet -> warehouse, compared with what the server says that it holds.

Hypothesis draws the values over each type's whole domain; the boundaries are added by hand. The judge is another
reading of the server: CAST to text, or hexadecimal.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from carrying import Journey, by_key, carry, in_warehouse, judged
from figures import FIGURES
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rooms import Rooms, mysql_table, rooms, table_spec

from rds_lake.definitions import PROJECT
from rds_lake.extract.types import TYPE_TABLE, SourceType, map_type
from rds_lake.plan import lookup_values
from rds_lake.quality.split import Splitter
from rds_lake.spec import TableSpec

__all__ = ["mysql_table", "rooms"]

pytestmark = pytest.mark.stack

DRAWN = 120
"""Values that are drawn for each column; the boundaries come on top."""

Value = Any


def draw(strategy: st.SearchStrategy[Value], count: int = DRAWN) -> list[Value]:
    """Some values of a strategy, the same ones in every run."""
    found: list[Value] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def take(value: Value) -> None:
        found.append(value)

    take()
    return found


# How a value is asked for, and what the answer's text stands for.
Reader = Callable[[str], Value]


@dataclass(frozen=True)
class Case:
    """One column of the table that goes round.

    Attributes:
        ddl: its definition.
        values: what is inserted.
        asked: how the judge asks for it; `{}` is the column.
        read: what the judge's answer means on the other side.
        as_: the column's override.
    """

    ddl: str
    values: list[Value]
    asked: str
    read: Reader
    as_: str | None = None

    @property
    def name(self) -> str:
        """The type's name, in lower case."""
        return SourceType.of(self.ddl).name


TEXT = "CAST({} AS CHAR)"
HEX = "HEX({})"
UTF8 = "HEX(CONVERT({} USING utf8mb4))"
BITS = "CAST({} + 0 AS CHAR)"
EXACT = "CAST({} + 0e0 AS CHAR)"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)  # the server prints four digits of the year


def utf8(text: str) -> str:
    return bytes.fromhex(text).decode()


def integers(bits: int, *, unsigned: bool) -> list[int]:
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return [low, low + 1, 0, 1, high - 1, high, *draw(st.integers(low, high))]


def decimals(digits: int, scale: int) -> list[Decimal]:
    most = 10**digits - 1
    numbers = [most, -most, 0, 1, -1, *draw(st.integers(-most, most))]
    return [Decimal(f"{number}E-{scale}") for number in numbers]


def floats(width: int) -> list[float]:
    most, least = (3.4028234663852886e38, 2.0**-149) if width == 32 else (1.7976931348623157e308, 5e-324)
    drawn = draw(st.floats(width=width, allow_nan=False, allow_infinity=False))  # type: ignore[call-overload]
    return [0.0, most, -most, least, -least, 0.1 if width == 64 else 0.10000000149011612, *drawn]


def texts(most: int, codec: str = "utf-8") -> list[str]:
    # NUL apart: the warehouse cannot hold it. Quotes, percent signs, line ends and words for NULL are always there.
    drawn = draw(st.text(st.characters(codec=codec, exclude_characters="\0"), max_size=most))
    sharp = ["", " ", "  x  ", "NULL", "\\N", "it's", '"', ",", "%s", "\n", "\r\n", "\t|\\", "0000-00-00"]
    wide = ["🧀" * most, "é" * most] if codec == "utf-8" else ["é" * most] if codec == "cp1252" else ["Я" * most]
    return [*(text for text in sharp if len(text) <= most), *wide, *drawn]


def blobs(most: int) -> list[bytes]:
    return [b"", b"\0", b"\0" * most, b"\xff" * most, b"'\"\\\x1a\n", *draw(st.binary(max_size=most))]


def dates() -> list[date]:
    return [date(1, 1, 1), date(18, 4, 1), date(1000, 1, 1), date(1582, 10, 10), date(9999, 12, 31), *draw(st.dates())]


def moments(fraction: int, low: datetime, high: datetime) -> list[datetime]:
    step = 10 ** (6 - fraction)
    drawn = draw(st.datetimes(low, high))
    return [low, high, *(item.replace(microsecond=item.microsecond // step * step) for item in drawn)]


def durations(fraction: int) -> list[str]:
    most = (838 * 3600 + 59 * 60 + 59) * 10**fraction
    return [_duration(n, fraction) for n in [most, -most, 0, 1, -1, *draw(st.integers(-most, most))]]


def _duration(number: int, fraction: int) -> str:
    seconds, rest = divmod(abs(number), 10**fraction)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return ("-" if number < 0 else "") + text + (f".{rest:0{fraction}}" if fraction else "")


def documents() -> list[str]:
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    drawn = draw(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)))
    return ["null", "[]", '{"a": 1.50}', '"🧀"', '"\\u0000"', *(json.dumps(item) for item in drawn)]


def sets(members: str) -> list[str]:
    return ["", *draw(st.sets(st.sampled_from(members)).map(lambda chosen: ",".join(sorted(chosen))))]


FIRST = datetime(1970, 1, 1, 0, 0, 1)  # noqa: DTZ001
LAST = datetime(2038, 1, 19, 3, 14, 7)  # noqa: DTZ001
EARLY, LATE = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001


def cases() -> Iterator[tuple[str, Case]]:
    """Every type by itself, as no override changes it."""
    for name, bits in (("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)):
        yield name, Case(name, integers(bits, unsigned=False), TEXT, int)
        yield f"u{name}", Case(f"{name} unsigned", integers(bits, unsigned=True), TEXT, int)
    yield "flagged", Case("tinyint(1)", integers(8, unsigned=False), TEXT, int)
    yield "filled", Case("int(8) unsigned zerofill", integers(32, unsigned=True), TEXT, int)
    for digits, scale in ((10, 2), (18, 18), (19, 0), (20, 19), (38, 10), (39, 0), (65, 30)):
        yield f"dec_{digits}_{scale}", _decimal(digits, scale)
    yield "single", Case("float", floats(32), EXACT, np.float32)
    yield "rounded", Case("float(7,2)", [*floats(32)[:2], 0.01, 12345.67], EXACT, np.float32)
    yield "precise", Case("double", floats(64), TEXT, float)
    for bits in (1, 8, 63, 64):
        yield f"bit_{bits}", Case(f"bit({bits})", integers(bits, unsigned=True), BITS, int)
    yield "anno", Case("year", [0, 1901, 2155, *draw(st.integers(1901, 2155))], TEXT, int)
    yield "born", Case("date", dates(), TEXT, date.fromisoformat)
    for fraction in range(7):
        high = LATE.replace(microsecond=999_999 // 10 ** (6 - fraction) * 10 ** (6 - fraction))
        yield f"wall_{fraction}", Case(f"datetime({fraction})", moments(fraction, EARLY, high), TEXT, moment)
        yield f"span_{fraction}", Case(f"time({fraction})", durations(fraction), TEXT, str)
    for fraction in (0, 3, 6):
        yield f"stamp_{fraction}", Case(f"timestamp({fraction}) null", moments(fraction, FIRST, LAST), TEXT, moment)
    yield "fixed", Case("char(3)", texts(3), UTF8, utf8)
    yield "short", Case("varchar(40)", texts(40), UTF8, utf8)
    yield "latin", Case("varchar(40) character set latin1", texts(40, "cp1252"), UTF8, utf8)
    yield "cyrillic", Case("varchar(40) character set cp1251", texts(40, "cp1251"), UTF8, utf8)
    for name in ("tinytext", "text", "mediumtext", "longtext"):
        yield name, Case(name, texts(60), UTF8, utf8)
    yield "document", Case("json", documents(), UTF8, utf8)
    yield "choice", Case("enum('a','it''s','','x,y','美')", ["a", "it's", "", "x,y", "美"] * 5, UTF8, utf8)
    yield "several", Case("set('x','y','z','美')", sets("xyz美"), UTF8, utf8)
    yield "bytes_4", Case("binary(4)", blobs(4), HEX, bytes.fromhex)
    yield "bytes_20", Case("varbinary(20)", blobs(20), HEX, bytes.fromhex)
    for name in ("tinyblob", "blob", "mediumblob", "longblob"):
        yield name, Case(name, blobs(60), HEX, bytes.fromhex)


def _decimal(digits: int, scale: int) -> Case:
    kind = f"decimal({digits},{scale})"
    return Case(kind, decimals(digits, scale), TEXT, str if map_type(kind).arrow == pa.string() else Decimal)


def mariadb_more() -> Iterator[tuple[str, Case]]:
    """Decimals with more digits behind the point, and durations a little longer, than MySQL has."""
    yield "span_edge", Case("time(6)", ["838:59:59.999999", "-838:59:59.999999"], TEXT, str)
    for scale in (37, 38):
        yield f"dec_38_{scale}", _decimal(38, scale)


def shapes() -> list[str]:
    number = st.integers(-1000, 1000)
    points = draw(st.tuples(number, number).map(lambda xy: f"POINT({xy[0]} {xy[1]})"), 20)
    return [*points, "LINESTRING(0 0,1 1)", "POLYGON((0 0,1 0,1 1,0 0))", "GEOMETRYCOLLECTION(POINT(1 1))"]


ZERO = ["0000-00-00", "2021-01-00", "2021-00-10", "0000-01-01", "2024-02-29", "0018-04-01"]


def _date_or_none(text: str) -> date | None:
    return None if "-00" in text or text.startswith("0000") else date.fromisoformat(text[:10])


def _moment_or_none(text: str) -> datetime | None:
    day = _date_or_none(text)
    return None if day is None else moment(text)


def overridden() -> Iterator[tuple[str, Case]]:
    """Columns that the YAML carries in another way."""
    for name, case in cases():
        if case.name not in {"float", "bit", "binary", "varbinary", "blob", "tinyblob", "mediumblob", "longblob"}:
            asked, read = (UTF8, utf8) if case.asked == UTF8 else (TEXT, str)
        elif case.asked == HEX:
            asked, read = HEX, str
        else:
            asked, read = case.asked, str
        yield f"{name}_text", Case(case.ddl, case.values, asked, read, "string")
    yield "truth", Case("tinyint(1)", [0, 1], TEXT, lambda text: text == "1", "boolean")
    yield "bit_truth", Case("bit(1)", [0, 1], BITS, lambda text: text == "1", "boolean")
    yield "zero_text", Case("date", ZERO, TEXT, str, "string")
    yield "zero_wall_text", Case("datetime(3)", [f"{day} 14:02:10.125" for day in ZERO], TEXT, str, "string")
    yield "zero_none", Case("date", ZERO, TEXT, _date_or_none, "null")
    yield "zero_wall_none", Case("datetime", [f"{day} 14:02:10" for day in ZERO], TEXT, _moment_or_none, "null")
    yield "zero_stamp_none", Case("timestamp null", ["0000-00-00 00:00:00", LAST], TEXT, _moment_or_none, "null")
    yield "shape_text", Case("geometry", shapes(), "ST_AsText({})", str, "string")
    yield "shape_bytes", Case("geometry", shapes(), "HEX(ST_AsBinary({}))", bytes.fromhex, "binary")
    yield "fixed_bytes", Case("char(3)", texts(3), UTF8, bytes.fromhex, "binary")
    yield "latin_bytes", Case("text character set latin1", texts(40, "cp1252"), UTF8, bytes.fromhex, "binary")
    yield "document_bytes", Case("json", documents(), UTF8, bytes.fromhex, "binary")
    yield "choice_bytes", Case("enum('a','美')", ["a", "美"], UTF8, bytes.fromhex, "binary")
    yield "several_bytes", Case("set('a','美')", ["", "a,美"], UTF8, bytes.fromhex, "binary")
    yield "bytes_20_bytes", Case("varbinary(20)", blobs(20), HEX, bytes.fromhex, "binary")


def mariadb_only() -> Iterator[tuple[str, Case]]:
    """Types that MySQL does not have."""
    versions = st.uuids(version=4)  # outside strict mode MariaDB makes NULL of what is no version at all
    yield "uuid_text", Case("uuid", draw(versions.map(str), 20), TEXT, str, "string")
    yield "inet4_text", Case("inet4", draw(st.ip_addresses(v=4).map(str), 20), TEXT, str, "string")
    yield (
        "inet6_text",
        Case("inet6", ["::", "::ffff:1.2.3.4", *draw(st.ip_addresses(v=6).map(str), 20)], TEXT, str, "string"),
    )


def mysql_only() -> Iterator[tuple[str, Case]]:
    """Types that MariaDB does not have."""
    numbers = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)
    vectors = [np.array(item, "<f4").tobytes() for item in draw(numbers, 20)]
    yield "vector_text", Case("vector(3)", vectors, HEX, str, "string")
    yield "vector_bytes", Case("vector(3)", vectors, HEX, bytes.fromhex, "binary")


def make(rooms: Rooms, mysql_table: Callable[..., str], table: Mapping[str, Case], **more: Any) -> TableSpec:
    """A source table with the cases' columns and values, and NULL in the last row."""
    definitions = ", ".join(f"`{name}` {case.ddl}" for name, case in table.items())
    made = mysql_table(f"id INT PRIMARY KEY, {definitions}", options="DEFAULT CHARACTER SET utf8mb4")
    count = max(len(case.values) for case in table.values())
    marks = ", ".join("ST_GeomFromText(%s)" if case.name == "geometry" else "%s" for case in table.values())
    with rooms.mysql() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        for number in range(count):
            row = [case.values[number] if number < len(case.values) else None for case in table.values()]
            cursor.execute(f"INSERT INTO `{made}` VALUES (%s, {marks})", (number, *row))
        cursor.execute(f"INSERT INTO `{made}` (id) VALUES (%s)", (count,))
    columns = {name: {"as": case.as_} for name, case in table.items() if case.as_}
    return table_spec(made, key=["id"], columns=columns, **more)


def compare(rooms: Rooms, spec: TableSpec, journey: Journey, table: Mapping[str, Case]) -> int:
    """Compare every value in Parquet and in the warehouse with the server's own; how many there were beside NULL."""
    asked = {name: case.asked.format(f"`{name}`") for name, case in table.items()}
    truth = judged(rooms, spec.source_name, asked)
    parquet, warehouse = by_key(rooms.rows(journey.staged)), in_warehouse(rooms, spec)
    assert set(parquet) == set(warehouse) == set(truth)
    assert journey.discarded.rows == 0
    count = 0
    for key, answers in truth.items():
        for place, (name, case) in enumerate(table.items()):
            answer = answers[place]
            expected = None if answer is None else case.read(answer)
            for where, rows in (("Parquet", parquet), ("warehouse", warehouse)):
                found = rows[key][place + 1]
                if isinstance(expected, np.float32):  # a driver shows the shortest text of the same four bytes
                    found = np.float32(found)
                assert found == expected, f"{name} ({case.ddl}) of row {key} in {where}: {found!r}, not {answer!r}"
                assert isinstance(found, bool) == isinstance(expected, bool), (name, key, where)
            count += answer is not None
    return count


def look_up(rooms: Rooms, spec: TableSpec, table: Mapping[str, Case], journey: Journey) -> None:
    """Every landed value is found where it comes from: each column is its own lookup, but for shapes as bytes."""
    rule = {"rule": "in_lookup", "lookup_table": spec.source_name, "allow_null": True}
    names = [name for name in table if name not in {"shape_bytes", "vector_text", "vector_bytes"}]
    given = spec.model_dump(by_alias=True, exclude_none=True)
    for start in range(0, len(names), 10):  # so that the engine's memory holds them
        rules = [{**rule, "column": name, "lookup_column": name} for name in names[start : start + 10]]
        ruled = TableSpec.model_validate({**given, "rules": rules})
        split = Splitter(rooms.store, ruled, lookup_values(rooms.source, ruled)).split(journey.landed, None, None)
        assert split.discarded.details == {}


def is_mariadb(rooms: Rooms) -> bool:
    [(version,)] = rooms.sql("SELECT VERSION()")
    return "MariaDB" in version


def told(record_property: Callable[[str, Any], None], table: Mapping[str, Case], count: int, *, stated: bool) -> None:
    """Record how many values were compared.

    Args:
        record_property: pytest's.
        table: the columns.
        count: how many values were compared: all that were inserted, or the server has not taken some.
        stated: whether docs/guarantees.md states it.
    """
    assert count == sum(len(case.values) for case in table.values())
    types = len({case.name for case in table.values()})
    said = f"{count:,} values in {len(table)} columns of {types} types"
    record_property(FIGURES, f"round trip: {said}")
    assert not stated or said in (PROJECT / "docs/guarantees.md").read_text(encoding="utf-8")


def test_every_value_of_every_type_arrives_as_the_server_holds_it(rooms, mysql_table, record_property):
    table = dict(cases()) | (dict(mariadb_more()) if is_mariadb(rooms) else {})
    spec = make(rooms, mysql_table, table)
    journey = carry(rooms, spec)
    count = compare(rooms, spec, journey, table)
    look_up(rooms, spec, table, journey)
    assert {case.name for case in table.values()} >= {n for row in TYPE_TABLE if row.becomes for n in row.names}
    told(record_property, table, count, stated=is_mariadb(rooms))


def test_every_override_carries_every_value_as_it_says(rooms, mysql_table, record_property):
    table = dict(overridden()) | dict(mariadb_only() if is_mariadb(rooms) else mysql_only())
    spec = make(rooms, mysql_table, table)
    journey = carry(rooms, spec)
    count = compare(rooms, spec, journey, table)
    look_up(rooms, spec, table, journey)
    assert journey.landed.details == {"nulled_zero_none": 4, "nulled_zero_wall_none": 4, "nulled_zero_stamp_none": 1}
    told(record_property, table, count, stated=is_mariadb(rooms))
