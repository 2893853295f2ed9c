"""The type table, row by row."""

import pyarrow as pa
import pytest

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column, arrow_schema, map_type

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
    ("longblob", pa.binary(), "binary", "VARBYTE(65535)"),
]


@pytest.mark.parametrize(("mysql", "arrow", "glue", "redshift"), ROWS, ids=[row[0] for row in ROWS])
def test_each_type_becomes_what_the_table_says(mysql, arrow, glue, redshift):
    mapped = map_type(mysql)
    assert (mapped.arrow, mapped.glue, mapped.redshift) == (arrow, glue, redshift)
    assert map_type(mysql.upper() if "'" not in mysql else mysql) == mapped


@pytest.mark.parametrize("mysql", ["geometry", "point", "vector(3)", "uuid", "inet6", "", "no such type"])
def test_a_type_that_cannot_be_carried_whole_is_refused_by_name(mysql):
    with pytest.raises(SpecError) as caught:
        map_type(mysql, column="where_is_it")
    assert f"The column 'where_is_it' has the type {mysql}" in caught.value.problem
    assert "view" in caught.value.remedy


def test_a_schema_keeps_order_and_nullability():
    schema = arrow_schema((Column("b", "int(11)", nullable=False), Column("a", "date")))
    assert schema == pa.schema([pa.field("b", pa.int32(), nullable=False), pa.field("a", pa.date32())])
