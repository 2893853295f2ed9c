"""The type table, row by row."""

from pathlib import Path

import pyarrow as pa
import pytest

from rds_lake.errors import SpecError
from rds_lake.extract.types import TYPE_TABLE, Column, arrow_schema, documented_types, map_type, ways

MICROS = pa.timestamp("us")

ROWS = [
    ("tinyint(1)", pa.int16(), "smallint", "SMALLINT"),
    ("tinyint(3) unsigned", pa.int16(), "smallint", "SMALLINT"),
    ("smallint(6)", pa.int16(), "smallint", "SMALLINT"),
    ("smallint(5) unsigned", pa.int32(), "int", "INTEGER"),
    ("mediumint(9)", pa.int32(), "int", "INTEGER"),
    ("mediumint(8) unsigned", pa.int32(), "int", "INTEGER"),
    ("int(11)", pa.int32(), "int", "INTEGER"),
    ("int", pa.int32(), "int", "INTEGER"),
    ("int unsigned", pa.int64(), "bigint", "BIGINT"),
    ("int(10) unsigned zerofill", pa.int64(), "bigint", "BIGINT"),
    ("bigint(20)", pa.int64(), "bigint", "BIGINT"),
    ("bigint(20) unsigned", pa.decimal128(20, 0), "decimal(20,0)", "DECIMAL(20,0)"),
    ("decimal(10,2)", pa.decimal128(10, 2), "decimal(10,2)", "DECIMAL(10,2)"),
    ("decimal(5,0) unsigned", pa.decimal128(5, 0), "decimal(5,0)", "DECIMAL(5,0)"),
    ("decimal(18,4)", pa.decimal128(18, 4), "decimal(18,4)", "DECIMAL(18,4)"),
    ("decimal(19,4)", pa.decimal128(20, 4), "decimal(20,4)", "DECIMAL(20,4)"),
    ("decimal(38,10)", pa.decimal128(38, 10), "decimal(38,10)", "DECIMAL(38,10)"),
    ("decimal(39,0)", pa.string(), "string", "VARCHAR(42)"),
    ("decimal(65,30)", pa.string(), "string", "VARCHAR(68)"),
    ("float", pa.float32(), "float", "REAL"),
    ("float unsigned", pa.float32(), "float", "REAL"),
    ("double", pa.float64(), "double", "DOUBLE PRECISION"),
    ("double(10,2)", pa.float64(), "double", "DOUBLE PRECISION"),
    ("bit(1)", pa.int16(), "smallint", "SMALLINT"),
    ("bit(63)", pa.int64(), "bigint", "BIGINT"),
    ("bit(64)", pa.decimal128(20, 0), "decimal(20,0)", "DECIMAL(20,0)"),
    ("year(4)", pa.int16(), "smallint", "SMALLINT"),
    ("date", pa.date32(), "date", "DATE"),
    ("datetime", MICROS, "timestamp", "TIMESTAMP"),
    ("datetime(6)", MICROS, "timestamp", "TIMESTAMP"),
    ("timestamp(3)", MICROS, "timestamp", "TIMESTAMP"),
    ("time", pa.string(), "string", "VARCHAR(17)"),
    ("time(6)", pa.string(), "string", "VARCHAR(17)"),
    ("char(3)", pa.string(), "string", "VARCHAR(12)"),
    ("varchar(25)", pa.string(), "string", "VARCHAR(100)"),
    ("varchar(0)", pa.string(), "string", "VARCHAR(1)"),
    ("varchar(16383)", pa.string(), "string", "VARCHAR(65532)"),
    ("varchar(65532)", pa.string(), "string", "VARCHAR(65535)"),
    ("tinytext", pa.string(), "string", "VARCHAR(1020)"),
    ("text", pa.string(), "string", "VARCHAR(65535)"),
    ("mediumtext", pa.string(), "string", "VARCHAR(65535)"),
    ("longtext", pa.string(), "string", "VARCHAR(65535)"),
    ("json", pa.string(), "string", "VARCHAR(65535)"),
    ("enum('a','it''s','x,y)')", pa.string(), "string", "VARCHAR(16)"),
    ("set('a','bc')", pa.string(), "string", "VARCHAR(16)"),
    ("enum('','unsigned')", pa.string(), "string", "VARCHAR(32)"),
    ("binary(16)", pa.binary(), "binary", "VARBYTE(16)"),
    ("varbinary(20)", pa.binary(), "binary", "VARBYTE(20)"),
    ("tinyblob", pa.binary(), "binary", "VARBYTE(255)"),
    ("blob", pa.binary(), "binary", "VARBYTE(65535)"),
    ("mediumblob", pa.binary(), "binary", "VARBYTE(1024000)"),
    ("longblob", pa.binary(), "binary", "VARBYTE(1024000)"),
    ("decimal(38,37)", pa.decimal128(38, 37), "decimal(38,37)", "DECIMAL(38,37)"),
    ("decimal(38,38)", pa.string(), "string", "VARCHAR(41)"),
]


@pytest.mark.parametrize(("mysql", "arrow", "glue", "redshift"), ROWS, ids=[row[0] for row in ROWS])
def test_each_type_becomes_what_the_table_says(mysql, arrow, glue, redshift):
    mapped = map_type(mysql)
    assert (mapped.arrow, mapped.glue, mapped.redshift) == (arrow, glue, redshift)
    assert map_type(mysql.upper() if "'" not in mysql else mysql) == mapped


# type: what is possible instead
REFUSED = {
    "geometry": "'as: string' or 'as: binary' or 'as: exclude'",
    "point": "'as: string' or 'as: binary' or 'as: exclude'",
    "vector(3)": "'as: string' or 'as: binary' or 'as: exclude'",
    "uuid": "'as: string' or 'as: exclude'",
    "inet6": "'as: string' or 'as: exclude'",
    "": "'as: exclude'",
    "no such type": "'as: exclude'",
}


@pytest.mark.parametrize("mysql", REFUSED)
def test_a_type_that_cannot_be_carried_whole_is_refused_by_name(mysql):
    with pytest.raises(SpecError) as caught:
        map_type(mysql, column="where_is_it", table="places")
    assert caught.value.problem == (
        f"places: the column 'where_is_it' has the type {mysql}, which cannot be carried whole by itself."
    )
    view = ", or read it through a view of the source that converts it" if REFUSED[mysql] == "'as: exclude'" else ""
    assert caught.value.remedy == f"Declare {REFUSED[mysql]} for it in defs/places/defs.yaml{view}."


# type: what each `as` makes of it
OVERRIDES = {
    ("tinyint(1)", "boolean"): (pa.bool_(), "boolean", "BOOLEAN"),
    ("bit(1)", "boolean"): (pa.bool_(), "boolean", "BOOLEAN"),
    ("bigint unsigned", "string"): (pa.string(), "string", "VARCHAR(20)"),
    ("decimal(10,2)", "string"): (pa.string(), "string", "VARCHAR(13)"),
    ("float", "string"): (pa.string(), "string", "VARCHAR(32)"),
    ("date", "string"): (pa.string(), "string", "VARCHAR(10)"),
    ("date", "null"): (pa.date32(), "date", "DATE"),
    ("datetime(6)", "string"): (pa.string(), "string", "VARCHAR(26)"),
    ("datetime(6)", "null"): (MICROS, "timestamp", "TIMESTAMP"),
    ("binary(16)", "string"): (pa.string(), "string", "VARCHAR(32)"),
    ("longblob", "string"): (pa.string(), "string", "VARCHAR(65535)"),
    ("longblob", "null"): (pa.binary(), "binary", "VARBYTE(1024000)"),
    ("varchar(25)", "binary"): (pa.binary(), "binary", "VARBYTE(100)"),
    ("longtext", "binary"): (pa.binary(), "binary", "VARBYTE(1024000)"),
    ("longtext", "null"): (pa.string(), "string", "VARCHAR(65535)"),
    ("point", "string"): (pa.string(), "string", "VARCHAR(65535)"),
    ("point", "binary"): (pa.binary(), "binary", "VARBYTE(1024000)"),
    ("uuid", "string"): (pa.string(), "string", "VARCHAR(45)"),
    ("vector(3)", "binary"): (pa.binary(), "binary", "VARBYTE(12)"),
    ("vector(3)", "string"): (pa.string(), "string", "VARCHAR(24)"),
}


@pytest.mark.parametrize(("mysql", "as_"), OVERRIDES)
def test_each_override_makes_what_the_table_says(mysql, as_):
    mapped = map_type(mysql, as_=as_)
    assert (mapped.arrow, mapped.glue, mapped.redshift) == OVERRIDES[mysql, as_]


@pytest.mark.parametrize("row", TYPE_TABLE, ids=lambda row: row.names[0])
def test_every_other_override_is_refused_with_what_is_possible(row):
    for example in row.examples:
        for as_ in {"string", "null", "boolean", "binary"} - set(ways(example)):
            with pytest.raises(SpecError) as caught:
                map_type(example, column="c", table="t", as_=as_)
            assert caught.value.problem == (
                f"t: the column 'c' has the type {example}, which cannot be carried 'as: {as_}'."
            )
            assert caught.value.remedy.startswith("Declare 'as: ")
        for as_ in set(ways(example)) - {"exclude"}:
            assert map_type(example, as_=as_).redshift


def test_a_limit_stands_where_the_source_may_hold_more_than_the_warehouse():
    limited = {example: map_type(example).limit for row in TYPE_TABLE if row.becomes for example in row.examples}
    assert {name: limit for name, limit in limited.items() if limit is not None} == {
        "varchar(20000)": 65_535,
        "text": 65_535,
        "mediumtext": 65_535,
        "longtext": 65_535,
        "json": 65_535,
        "mediumblob": 1_024_000,
        "longblob": 1_024_000,
    }
    assert map_type("blob", as_="string").limit == 65_535


def test_the_documentation_shows_the_table_that_the_code_has():
    page = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")
    shown = [f"| `{mysql}` | {' | '.join(rest)} |" for mysql, *rest in documented_types()]
    missing = "\n".join(shown)
    assert missing in page, f"docs/types.md must hold:\n{missing}"


def test_a_schema_keeps_order_and_nullability():
    schema = arrow_schema((Column("b", "int(11)", nullable=False), Column("a", "date")))
    assert schema == pa.schema([pa.field("b", pa.int32(), nullable=False), pa.field("a", pa.date32())])
