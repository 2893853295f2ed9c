"""Names of tables and columns: whatever MySQL allows goes through lake, catalog, Athena and warehouse."""

import pytest
from carrying import athena, carry, in_warehouse
from rooms import HOSTILE_NAMES, daily, mysql_table, rooms, table_spec

from rds_lake.spec import TableSpec
from rds_lake.sql import quote

__all__ = ["mysql_table", "rooms"]

pytestmark = pytest.mark.stack

COLUMNS = (
    *HOSTILE_NAMES,
    "MixedCase",
    "ORDER",
    "order date",
    "group",
    "timestamp",
    "user",
    "a.b",
    "a,b",
    "tab\there",
    "nulled_x",
    "v",
    "_",
    "1st",
    "é" * 31,
)


TABLES = ("order", "Two Words", 'a"b`c', "per%cent %s", "It's; -- no", "Käse 美", "UPPER" * 12)


def test_every_name_of_a_column_goes_through_the_whole_chain(rooms, mysql_table):
    definitions = ", ".join(f"{quote(name, 'mysql').replace('%%', '%')} VARCHAR(9)" for name in COLUMNS)
    table = mysql_table(f"id INT PRIMARY KEY, {definitions}")
    values = tuple(f"v{number}" for number in range(len(COLUMNS)))
    rooms.fill(table, [(1, *values), (2, *[None] * len(COLUMNS)), (3, *["a\0b"] * len(COLUMNS))])
    spec = table_spec(table, key=["id"])
    journey = carry(rooms, spec)
    assert rooms.rows(journey.staged) == [(1, *values), (2, *[None] * len(COLUMNS))]
    assert rooms.rows(journey.discarded)[0][-4] == [f"fits_{name}" for name in COLUMNS]
    assert in_warehouse(rooms, spec) == {1: (1, *values), 2: (2, *[None] * len(COLUMNS))}
    asked = rooms.ask(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position", (table,)
    )
    assert [name for (name,) in asked] == ["id", *map(str.lower, COLUMNS)]
    for number, name in enumerate(COLUMNS):
        rows = athena(rooms, f"SELECT {quote(name.lower())} FROM {quote(spec.asset('staging'))} WHERE id = 1")
        assert rows[1:] == [(f"v{number}",)], name


@pytest.mark.parametrize("name", TABLES)
def test_every_name_of_a_table_goes_through_the_whole_chain(rooms, mysql_table, name):
    source = mysql_table("id INT PRIMARY KEY, v VARCHAR(5)", name=f"{name} {rooms.name('')}"[:63], rows=[(1, "a")])
    spec = table_spec(rooms.name(), source_table=source, key=["id"])
    assert rooms.rows(carry(rooms, spec).staged) == [(1, "a")]
    assert in_warehouse(rooms, spec) == {1: (1, "a")}
    assert athena(rooms, f"SELECT v FROM {quote(spec.asset('staging'))}")[1:] == [("a",)]


@pytest.mark.parametrize("name", ["order date", 'a"b`c', "per%cent %s", "a/b", "Käse 美"])
def test_a_cursor_of_any_name_makes_a_partition_column_of_plain_letters(world, name):
    table = f"odd{len(name)}"
    plain = quote(name, "mysql").replace("%%", "%")
    columns = f"id INT PRIMARY KEY, {plain} DATETIME, INDEX ({plain})"
    source = world.table(table, columns, [(1, "2024-01-02 03:04:05")])
    given = {"table": table, "source_table": source, "cursor": {"column": name}, "key": ["id"]}
    spec = TableSpec.model_validate({**given, "partitions": {"by": "day", "start": "2024-01-01"}})
    assert world.sync(spec).ok
    assert (spec.partition_column or "").replace("_", "").isalnum()
    assert world.athena(f"SELECT id, {spec.partition_column} FROM {table}_staging") == [("1", "2024-01-02")]
    assert world.sync(spec).partitions == 0


def test_the_folder_of_a_partition_is_named_after_the_cursor_in_plain_letters():
    assert daily("t", cursor={"column": "Order date/%"}).partition_column == "order_date___day"
    assert daily("t").partition_column == "at_day"
