"""The canonical texts: MySQL, DuckDB and the warehouse write every value of every type in the same way."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rooms import Rooms, bounded, table_spec

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.types import TYPE_TABLE, As, Column, type_row
from rds_lake.lake.batch import BatchWriter
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.spec import TableSpec
from rds_lake.verify.canonical import is_summed
from rds_lake.verify.checksums import NOTHING, Sum, row_hash
from rds_lake.verify.queries import Questions
from rds_lake.verify.sides import LakeSide, SourceSide, WarehouseSide
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import Target

pytestmark = pytest.mark.stack

# No NUL: PostgreSQL, which stands in for Redshift, cannot hold it in a text.


class Long(bytes):
    """A long value with a short name."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


class Hex(str):
    """Bytes of a text as they stand in the table, in hexadecimal."""

    def __repr__(self) -> str:
        return f"X'{self[:8]}' and so on"


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
marks = st.sampled_from(
    ["", " ", "NULL", "\\N", "-,", "=,", "a,", "a", "A", "a ", "ä", "😀", "'", '"', "%s", "\\", "\n"]
)
texts = text | marks
blobs = st.binary(max_size=20)


def whole(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1) | st.sampled_from([low, low + 2**bits - 1])


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    top = 10**digits - 1
    return st.integers(-top, top).map(lambda n: Decimal(n).scaleb(-scale)) | st.sampled_from([Decimal(0), Decimal(-1)])


moments = st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))  # noqa: DTZ001
whole_seconds = moments.map(lambda m: m.replace(microsecond=0))
stamps = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2038, 1, 18))  # noqa: DTZ001

DOMAINS: dict[str, st.SearchStrategy[Any]] = {
    "tinyint": whole(8, signed=True),
    "tinyint(3) unsigned zerofill": whole(8, signed=False),
    "smallint": whole(16, signed=True),
    "smallint unsigned": whole(16, signed=False),
    "mediumint": whole(24, signed=True),
    "int": whole(32, signed=True),
    "int unsigned": whole(32, signed=False),
    "int(9) zerofill": st.integers(0, 99_999),
    "bigint": whole(64, signed=True),
    "bigint unsigned": whole(64, signed=False),
    "decimal(5,2)": decimals(3, 2),
    "decimal(18,6)": decimals(12, 6),
    "decimal(19,4)": decimals(15, 4),
    "decimal(38,30)": decimals(8, 30),
    "decimal(65,10)": decimals(55, 10),
    "decimal(10,2) zerofill": st.integers(0, 10**9).map(lambda n: Decimal(n).scaleb(-2)),
    "bit(1)": st.integers(0, 1),
    "bit(9)": st.integers(0, 511),
    "bit(64)": whole(64, signed=False),
    "year": st.integers(1901, 2155) | st.just(0),
    "date": st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)),
    "datetime": whole_seconds,
    "datetime(6)": moments,
    "timestamp(3) null": stamps.map(lambda m: m.replace(microsecond=m.microsecond // 1000 * 1000)),
    "time(6)": st.timedeltas(dt.timedelta(hours=-838), dt.timedelta(hours=838)),
    "char(12)": texts,
    "varchar(12)": texts,
    "varchar(12) character set latin1": st.text(
        st.characters(min_codepoint=160, max_codepoint=255) | st.sampled_from("aZ €"), max_size=12
    ),
    "text": texts,
    "longtext": texts | st.just(Long(b"x" * 60_000)),
    "json": st.sampled_from(['{"a": [1, null]}', "null", '"ä"']),
    "enum('','a','b,c','ö€')": st.sampled_from(["", "a", "b,c", "ö€"]),
    "set('a','b','c')": st.sampled_from(["", "a", "a,c", "c,b"]),
    "binary(4)": st.binary(max_size=4),
    "varbinary(20)": blobs,
    "blob": blobs | st.just(Long(b"\xff" * 32_001)) | st.just(Long(b"\xfe" * 65_535)),
    "longblob": blobs | st.just(Long(bytes(range(256)) * 250)),
}
"""Values of every type of the type table that has a canonical text."""

zero_dates = st.sampled_from(["0000-00-00", "2021-01-00", "2021-00-10", "0000-01-01", "2023-02-29", "2021-02-31"])
days = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)) | st.dates(dt.date(1, 1, 1), dt.date(1600, 1, 1))
shapes = st.tuples(whole(8, signed=True), whole(8, signed=True)).map(lambda xy: f"POINT({xy[0]} {xy[1]})")
long_texts = texts | st.just(Long(b"x" * 65_535)) | st.just(Long(b"x" * 65_536)) | st.just("n\0n")
cyrillic = st.text(st.characters(codec="cp1251", exclude_characters="\0"), max_size=12)

WAYS: dict[tuple[str, As], st.SearchStrategy[Any]] = {
    ("tinyint", "string"): whole(8, signed=True),
    ("tinyint unsigned zerofill", "string"): whole(8, signed=False),
    ("tinyint(1)", "boolean"): st.integers(0, 1),
    ("smallint", "string"): whole(16, signed=True),
    ("int unsigned", "string"): whole(32, signed=False),
    ("bigint unsigned", "string"): whole(64, signed=False),
    ("decimal(18,10)", "string"): decimals(8, 10),
    ("float", "string"): st.floats(width=32, allow_nan=False, allow_infinity=False),
    ("double", "string"): st.floats(allow_nan=False, allow_infinity=False),
    ("bit(9)", "string"): st.integers(0, 511),
    ("bit(1)", "boolean"): st.integers(0, 1),
    ("year", "string"): st.integers(1901, 2155) | st.just(0),
    ("date", "string"): days | zero_dates,
    ("date", "null"): days | zero_dates,
    ("datetime(3)", "string"): whole_seconds | zero_dates.map(lambda day: f"{day} 14:02:10.125"),
    ("datetime(6)", "null"): moments | zero_dates.map(lambda day: f"{day} 14:02:10.123456"),
    ("timestamp null", "string"): stamps.map(lambda m: m.replace(microsecond=0)) | st.just("0000-00-00"),
    ("timestamp null", "null"): stamps.map(lambda m: m.replace(microsecond=0)) | st.just("0000-00-00"),
    ("time(6)", "string"): st.timedeltas(dt.timedelta(hours=-838), dt.timedelta(hours=838)),
    ("varchar(12)", "string"): texts,
    ("varchar(12)", "null"): texts | st.just("n\0n"),
    ("varchar(12)", "binary"): texts | st.just("n\0n"),
    ("varchar(12) character set cp1251", "null"): cyrillic | st.just(Hex("FF98")),
    ("char(12) character set cp1251", "binary"): cyrillic,
    ("text", "string"): texts,
    ("longtext", "null"): long_texts,
    ("mediumtext", "binary"): long_texts,
    ("text character set latin1", "null"): st.text("aé€", max_size=12) | st.just(Hex("E9" * 32_768)),
    ("json", "string"): st.sampled_from(['{"a": [1, null]}', "null", '"ä"']),
    ("json", "null"): st.sampled_from(['{"a": [1, null]}', '"ä"', Long(b'"' + b"j" * 65_534 + b'"')]),
    ("json", "binary"): st.sampled_from(['{"a": [1, null]}', "null", '"ä"']),
    ("enum('','a','ö€')", "string"): st.sampled_from(["", "a", "ö€"]),
    ("enum('','a','ö€')", "binary"): st.sampled_from(["", "a", "ö€"]),
    ("set('a','ö')", "string"): st.sampled_from(["", "a", "a,ö"]),
    ("set('a','ö')", "binary"): st.sampled_from(["", "a", "a,ö"]),
    ("binary(4)", "string"): st.binary(max_size=4),
    ("varbinary(20)", "binary"): blobs,
    ("blob", "string"): blobs | st.just(Long(b"\xab" * 32_767)),
    ("mediumblob", "null"): blobs | st.just(Long(b"\xcd" * 1_024_000)) | st.just(Long(b"\xcd" * 1_024_001)),
    ("longblob", "binary"): blobs,
    ("geometry", "string"): shapes,
    ("point", "binary"): shapes,
    ("uuid", "string"): st.uuids().map(str),
    ("inet6", "string"): st.ip_addresses(v=6).map(str),
}
"""Values of every type in every other way that it can be carried in."""


def rows_of(domains: Iterable[st.SearchStrategy[Any]]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.tuples(*(st.none() | domain for domain in domains)), min_size=1, max_size=8)


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, Long) else value


@dataclass
class Trio:
    """One table on all three sides."""

    rooms: Rooms
    spec: TableSpec
    engine: duckdb.DuckDBPyConnection

    def put(self, rows: Sequence[Sequence[Any]]) -> Manifest:
        """Write rows at the source, and take them to the lake and to the warehouse."""
        columns = self.rooms.source.describe(self.spec.table).columns
        with self.rooms.mysql() as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
            cursor.execute(f"TRUNCATE {self.spec.table}")
            for row in rows:
                marks = [_mark(column, value) for column, value in zip(columns, row, strict=True)]
                cursor.execute(f"INSERT INTO {self.spec.table} VALUES ({', '.join(marks)})", [plain(v) for v in row])
        with open_snapshot(self.rooms.source, self.spec) as snapshot:
            draft = self.rooms.draft(self.spec, "staging", snapshot.table.columns)
            writer = BatchWriter(self.rooms.store, TableKeys.of(self.spec), draft, snapshot.schema)
            for batch in snapshot.rows():
                writer.write(batch.select(snapshot.schema.names))
            done = writer.finish(None)
        manifests = Manifests(self.rooms.store, TableKeys.of(self.spec))
        manifest = manifests.commit(done, manifests.read("staging", "all")).manifest
        load(self.rooms.warehouse, self.rooms.store, self.spec, [manifest])
        return manifest

    def sums(self, manifest: Manifest, columns: Sequence[Column]) -> list[Sum]:
        """The sum over some columns: of MySQL, of the lake, of the warehouse."""
        questions = Questions(tuple(columns), self.spec.key)
        with open_snapshot(self.rooms.source, self.spec) as snapshot, self.rooms.warehouse.connect() as session:
            source = SourceSide(snapshot.connection, self.spec).sums(questions, None, with_null=False)
            target = WarehouseSide(session, Target(self.spec, manifest.columns))
            held = target.sums(questions, None, with_null=False)
        lake = LakeSide(self.rooms.store, self.engine).sum(questions, manifest)
        return [source.get("all", NOTHING), lake, held.get("all", NOTHING)]


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        yield connection


def _mark(column: Column, value: Any) -> str:
    if column.type in {"geometry", "point"}:
        return "ST_GeomFromText(%s)"
    return "UNHEX(%s)" if isinstance(value, Hex) else "%s"


@pytest.fixture
def make_trio(rooms: Rooms, mysql_table: Any, engine: duckdb.DuckDBPyConnection) -> Callable[..., Trio]:
    def make(kinds: Iterable[tuple[str, As | None]]) -> Trio:
        named = {f"c{number}": kind for number, kind in enumerate(kinds)}
        definitions = ", ".join(f"{name} {ddl}" for name, (ddl, _) in named.items())
        table = mysql_table(definitions, options="CHARACTER SET utf8mb4")
        columns = {name: {"as": way} for name, (_, way) in named.items() if way}
        return Trio(rooms, table_spec(table, columns=columns), engine)

    return make


def agree_on(trio: Trio, domains: Iterable[st.SearchStrategy[Any]], examples: int) -> int:
    """Let the three systems sum up drawn rows; how many values there were."""
    checked = 0
    strategies = list(domains)

    @settings(bounded(examples), phases=(Phase.generate,))  # a table as wide as this shrinks for ever
    @given(rows_of(strategies))
    def agree(rows: list[tuple[Any, ...]]) -> None:
        nonlocal checked
        manifest = trio.put(rows)
        whole = trio.sums(manifest, manifest.columns)
        if not whole[0] == whole[1] == whole[2]:
            apart = {(c.type, c.as_): trio.sums(manifest, [c]) for c in manifest.columns}
            assert {kind: found for kind, found in apart.items() if len(set(found)) > 1} == {}
        assert whole[0] == whole[1] == whole[2]
        assert whole[0].rows == len(rows)
        checked += len(rows) * len(strategies)

    agree()
    print(checked, "values")  # noqa: T201
    return checked


@pytest.mark.slow
def test_the_three_systems_agree_on_the_checksum_of_every_types_values(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio((ddl, None) for ddl in DOMAINS)
    assert agree_on(trio, DOMAINS.values(), 12) > 300


@pytest.mark.slow
def test_they_agree_on_values_that_are_carried_in_another_way(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio(WAYS)
    assert agree_on(trio, WAYS.values(), 15) > 300


def test_every_type_of_the_type_table_is_tried_in_each_way() -> None:
    own = {type_row(ddl).names for ddl in DOMAINS} | {("float",), ("double",)}  # floats have no checksum
    assert own == {row.names for row in TYPE_TABLE if row.becomes}
    tried = {(type_row(ddl).names, way) for ddl, way in WAYS}
    possible = {(row.names, way) for row in TYPE_TABLE for way in row.ways if row.names != ("vector",)}  # MySQL 9 only
    assert possible - tried == set()


def test_floats_are_left_out_of_the_checksum_and_nothing_else_is() -> None:
    kinds = [row.examples[0] for row in TYPE_TABLE if row.becomes]
    assert {kind for kind in kinds if not is_summed(Column("c", kind))} == {"float", "double"}


def test_null_differs_from_every_text_and_the_place_of_a_value_matters(engine: duckdb.DuckDBPyConnection) -> None:
    columns = [Column("a", "varchar(9)"), Column("b", "varchar(9)")]
    values = [None, "", "NULL", "-,", "=", ",", "-"]
    seen = set()
    for a in values:
        for b in values:
            engine.execute("CREATE OR REPLACE TABLE t AS SELECT ?::VARCHAR AS a, ?::VARCHAR AS b", [a, b])
            seen |= set(engine.execute(f"SELECT {row_hash(columns, 'lake')} FROM t").fetchall())
    assert len(seen) == len(values) ** 2


def test_five_hundred_columns_make_a_text_that_redshift_can_hold(engine: duckdb.DuckDBPyConnection) -> None:
    columns = [Column(f"c{number}", "varchar(9)") for number in range(1600)]
    longest = 2 * len("=" + "f" * 32 + ",") * 100
    assert longest < 65_535
    names = ", ".join(f"'x' AS c{number}" for number in range(1600))
    engine.execute(f"CREATE TABLE wide AS SELECT {names}")
    one = engine.execute(f"SELECT {row_hash(columns, 'lake')} FROM wide").fetchall()
    engine.execute("UPDATE wide SET c1599 = 'y'")
    assert engine.execute(f"SELECT {row_hash(columns, 'lake')} FROM wide").fetchall() != one
