"""Quoting: any name and any constant survives each of the three SQL dialects."""

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, bounded, mysql_table, rooms

from rds_lake.extract.source import query
from rds_lake.sql import literal, quote, quote_all

__all__ = ["mysql_table", "rooms"]

ENGINE = duckdb.connect()

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=15)


def test_every_name_is_quoted_and_the_quote_inside_it_doubled():
    assert quote("id") == '"id"'
    assert quote('a"b') == '"a""b"'
    assert quote("a`b", "mysql") == "`a``b`"
    assert quote("a`b") == '"a`b"'
    assert quote_all(["a", "b"], "mysql") == "`a`, `b`"


def test_percent_signs_are_doubled_only_for_drivers_that_read_them():
    assert quote("a%s") == '"a%s"'
    assert quote("a%s", "mysql") == "`a%%s`"
    assert quote("a%s", "redshift") == '"a%%s"'


def test_mysql_takes_every_hostile_name(rooms, mysql_table):
    columns = [*HOSTILE_NAMES, "m" * 64]
    table = mysql_table(
        ", ".join("`" + name.replace("`", "``") + "` INT" for name in columns), name='to `%s` "drop" \''
    )
    rooms.fill(table, [range(len(columns))])
    with rooms.source.connect() as connection:
        text = f"SELECT {quote_all(columns, 'mysql')} FROM {quote(table, 'mysql')}"
        assert query(connection, text) == [tuple(range(len(columns)))]
        assert query(connection, f"{text} WHERE {quote(columns[6], 'mysql')} = %s", (6,)) == [
            tuple(range(len(columns)))
        ]
    assert [column.name for column in rooms.source.describe(table).columns] == columns


def test_the_warehouse_takes_every_hostile_name(rooms):
    with rooms.warehouse.connect() as session:
        definitions = ", ".join(f"{quote(name, 'redshift')} INTEGER" for name in HOSTILE_NAMES)
        table = quote(rooms.name('% %s "q" \''), "redshift")
        session.execute(f"CREATE TEMP TABLE {table} ({definitions})")
        marks = ", ".join(["%s"] * len(HOSTILE_NAMES))
        session.execute(f"INSERT INTO {table} VALUES ({marks})", tuple(range(len(HOSTILE_NAMES))))
        for number, name in enumerate(HOSTILE_NAMES):
            column = quote(name, "redshift")
            assert session.execute(f"SELECT {column} FROM {table}") == [(number,)]
            assert session.execute(f"SELECT {column} FROM {table} WHERE {column} = %s", (number,)) == [(number,)]


@bounded(60)
@given(names)
def test_duckdb_reads_a_quoted_name_as_that_name(name):
    with ENGINE.cursor() as connection:
        assert connection.execute(f"SELECT 1 AS {quote(name)}").description[0][0] == name


@bounded(100)
@given(texts)
def test_duckdb_reads_a_literal_as_that_text(text):
    with ENGINE.cursor() as connection:
        assert connection.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]


@bounded(60)
@given(st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False))
def test_duckdb_reads_a_literal_as_that_number(number):
    kind = "DOUBLE" if isinstance(number, float) else "BIGINT"
    with ENGINE.cursor() as connection:
        assert connection.execute(f"SELECT CAST({literal(number)} AS {kind})").fetchall() == [(number,)]


@pytest.mark.parametrize("text", ["it's", "'; DROP TABLE x; --", "a\\b", "", "Käse 美", "two\nlines", '"'])
def test_the_warehouse_reads_a_literal_as_that_text(rooms, text):
    with rooms.warehouse.connect() as session:
        assert session.execute(f"SELECT {literal(text)}") == [(text,)]
