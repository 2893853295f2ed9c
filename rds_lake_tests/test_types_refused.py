"""What cannot be carried whole: each bad input with its exact message, and nothing of it in the lake."""

import pytest
from carrying import ALL, carry
from pydantic import ValidationError
from rooms import daily, mysql_table, rooms, table_spec

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.carried import carried_columns
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.types import Column
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.landing import land
from rds_lake.lake.manifest import Manifests

__all__ = ["mysql_table", "rooms"]

LAX = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"

# What a column of this type holds: how it is inserted, what the message shows of it, what it says beside.
BAD_VALUES = [
    ("date", None, "'0000-00-00'", "'0000-00-00'", "DATE", "or declare 'as: string' or 'as: null' for it"),
    ("date", None, "'2021-01-00'", "'2021-01-00'", "DATE", "or declare 'as: string' or 'as: null' for it"),
    ("date", None, "'0000-12-31'", "'0000-12-31'", "DATE", "or declare 'as: string' or 'as: null' for it"),
    ("date", None, "'2021-02-30'", "'2021-02-30'", "DATE", "or declare 'as: string' or 'as: null' for it"),
    (
        "datetime(3)",
        None,
        "'0000-00-00 14:02:10.5'",
        "'0000-00-00 14:02:10.500'",
        "TIMESTAMP",
        "or declare 'as: string' or 'as: null' for it",
    ),
    (
        "timestamp",
        None,
        "'0000-00-00 00:00:00'",
        "'0000-00-00 00:00:00'",
        "TIMESTAMP",
        "or declare 'as: string' or 'as: null' for it",
    ),
    ("tinyint(1)", "boolean", "2", "2", "BOOLEAN", "or take its 'as' away"),
    ("tinyint(1)", "boolean", "-1", "-1", "BOOLEAN", "or take its 'as' away"),
    (
        "varchar(5) character set cp1251",
        None,
        "CONCAT(_cp1251 X'CA', _cp1251 X'98')",
        "the bytes 0xCA98",
        "VARCHAR(20)",
        "or declare 'as: string' or 'as: null' for it",
    ),
]


@pytest.mark.stack
@pytest.mark.parametrize(("ddl", "as_", "value", "shown", "redshift", "remedy"), BAD_VALUES)
def test_a_value_that_cannot_be_carried_fails_with_table_column_value_and_key(
    rooms, mysql_table, ddl, as_, value, shown, redshift, remedy
):
    table = mysql_table(f"id INT, part VARCHAR(3), bad {ddl} NULL, PRIMARY KEY (id, part)")
    rooms.sql(LAX, f"INSERT INTO {table} VALUES (1, 'a', NULL), (2, 'b', {value}), (3, 'c', NULL)")
    spec = table_spec(table, key=["id", "part"], columns={"bad": {"as": as_}} if as_ else {})
    with pytest.raises(PermanentError) as caught:
        carry(rooms, spec)
    kind = ddl.split(" ")[0]
    assert caught.value.problem == (
        f"{table}: the column 'bad' holds {shown} ({kind}) in the row id = 2, part = 'b', which cannot be carried "
        f"whole as {redshift}."
    )
    assert caught.value.remedy == (
        f"Correct the value at the source, {remedy} in defs/{table}/defs.yaml; no row of this partition was changed in "
        "the lake."
    )
    assert rooms.keys(f"{table}/") in ([], [f"{table}/_manifests/schema.json"])


@pytest.mark.stack
def test_the_override_that_the_message_names_lets_the_value_pass(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, bad VARCHAR(5) CHARACTER SET cp1251, born DATE")
    rooms.sql(LAX, f"INSERT INTO {table} VALUES (1, _cp1251 X'98', '0000-00-00'), (2, _cp1251 X'CA3F', NULL)")
    spec = table_spec(table, key=["id"], columns={"bad": {"as": "null"}, "born": {"as": "string"}})
    journey = carry(rooms, spec)
    assert rooms.rows(journey.staged) == [(1, None, "0000-00-00"), (2, "К?", None)]  # noqa: RUF001 - a Cyrillic letter
    assert journey.landed.details == {"nulled_bad": 1}


@pytest.mark.stack
def test_a_message_shows_neither_personal_values_nor_a_key_that_there_is_not(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, born DATE")
    rooms.sql(LAX, f"INSERT INTO {table} VALUES (4711, '2021-00-01')")
    personal = {"id": {"personal": True}, "born": {"personal": True}}
    with pytest.raises(PermanentError) as caught:
        carry(rooms, table_spec(table, key=["id"], columns=personal))
    assert "holds a personal value (date) in the row id = a personal value, which" in caught.value.problem
    assert "4711" not in str(caught.value)
    assert "2021" not in str(caught.value)
    with pytest.raises(PermanentError, match=r"holds '2021-00-01' \(date\) in the row without a key, which"):
        carry(rooms, table_spec(table))


@pytest.mark.stack
def test_a_bad_value_leaves_the_batch_of_its_partition_and_the_later_ones_as_they_were(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME, born DATE, INDEX (at)")
    days = ["2024-01-01", "2024-01-02", "2024-01-03"]
    rooms.fill(table, [(number, day, "2000-01-01") for number, day in enumerate(days)])
    spec = daily(table)
    with open_snapshot(rooms.source, spec) as snapshot:
        first = land(snapshot, rooms.store, days)
    rooms.sql(LAX, f"UPDATE {table} SET born = '0000-00-00' WHERE id = 1", f"UPDATE {table} SET id = id + 10")
    with open_snapshot(rooms.source, spec) as snapshot, pytest.raises(PermanentError, match="in the row id = 11,"):
        land(snapshot, rooms.store, days)
    now = Manifests(rooms.store, TableKeys.of(spec)).read_all("landing", days)
    for day in days[1:]:
        assert now[day].manifest == first[day].manifest


# --- what the YAML may not say ---------------------------------------------------------------------------------------

COLUMNS = (Column("id", "int"), Column("at", "datetime"), Column("v", "varchar(5)"), Column("place", "point"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"columns": {"id": {"as": "exclude"}}}, "columns.id is excluded, but key needs it"),
        ({"columns": {"at": {"as": "exclude"}}}, "columns.at is excluded, but cursor needs it"),
        (
            {"columns": {"v": {"as": "exclude"}}, "rules": [{"rule": "not_null", "column": "v"}]},
            "columns.v is excluded, but rule not_null_v needs it",
        ),
        (
            {"columns": {"v": {"as": "exclude"}}, "warehouse": {"sort_keys": ["v"]}},
            "columns.v is excluded, but warehouse.sort_keys needs it",
        ),
        ({"columns": {"id": {"as": None}}}, "columns.id is of the key, which cannot be NULL"),
        ({"columns": {"at": {"as": "string"}}}, "columns.at is the cursor, which is read as its own type"),
        (
            {"rules": [{"rule": "not_null", "name": "fits_v", "column": "v"}]},
            "the name fits_v belongs to a check that every table has",
        ),
    ],
)
def test_the_yaml_may_not_leave_out_what_it_needs(more, message):
    with pytest.raises(ValidationError) as caught:
        daily("t", **more)
    assert message in str(caught.value)


RENAME = (
    "Declare 'as: exclude' for it in defs/t/defs.yaml, or read the table through a view of the source that renames it "
    "(source_table)."
)


@pytest.mark.parametrize(
    ("columns", "more", "problem", "remedy"),
    [
        (
            COLUMNS,
            {},
            "t: the column 'place' has the type point, which cannot be carried whole by itself.",
            "Declare 'as: string' or 'as: binary' or 'as: exclude' for it in defs/t/defs.yaml.",
        ),
        (
            COLUMNS,
            {"place": {"as": "boolean"}},
            "t: the column 'place' has the type point, which cannot be carried 'as: boolean'.",
            "Declare 'as: string' or 'as: binary' or 'as: exclude' for it in defs/t/defs.yaml.",
        ),
        (
            (Column("id", "int"), Column("n", "bit(8)")),
            {"n": {"as": "boolean"}},
            "t: the column 'n' has the type bit(8), which cannot be carried 'as: boolean'.",
            "Declare 'as: string' or 'as: exclude' for it in defs/t/defs.yaml.",
        ),
        (
            (Column("id", "int"), Column("n", "int(11)")),
            {"n": {"as": "null"}},
            "t: the column 'n' has the type int(11), which cannot be carried 'as: null'.",
            "Declare 'as: string' or 'as: exclude' for it in defs/t/defs.yaml.",
        ),
        (
            (Column("id", "int"),),
            {"gone": {"as": "exclude"}},
            "t: columns.gone is excluded, but the source table 't' does not have it (it has: id).",
            "Correct the name in defs/t/defs.yaml, or take it out.",
        ),
        (
            (Column("id", "int"),),
            {"id": {"as": "exclude"}},
            "t: every column of the source table 't' is excluded.",
            "Keep at least one in defs/t/defs.yaml.",
        ),
        *(
            (
                (Column("id", "int"), Column(name, "int")),
                {},
                f"t: the column '{name}' {problem}.",
                RENAME,
            )
            for name, problem in [
                ("ID", "differs from 'id' in case only, which the catalog and Redshift fold"),
                *((name, "is called like a column that Redshift keeps for itself") for name in ("oid", "CTID", "xMin")),
                ("美" * 43, "has a name longer than 127 bytes, which Redshift cuts"),
            ]
        ),
    ],
)
def test_a_column_that_cannot_be_carried_is_refused_before_anything_is_read(columns, more, problem, remedy):
    with pytest.raises(SpecError) as caught:
        carried_columns(table_spec("t", columns=more), columns)
    assert (caught.value.problem, caught.value.remedy) == (problem, remedy)


def test_a_column_called_like_the_partition_column_and_a_table_with_too_long_a_name_are_refused():
    columns = (Column("id", "int"), Column("at", "datetime"), Column("At_Day", "int"))
    with pytest.raises(SpecError, match=r"'At_Day' is called like the lake's partition column .*partitions\.column"):
        carried_columns(daily("t"), columns)
    with pytest.raises(SpecError, match="is longer than 127 bytes, which Redshift cuts") as caught:
        carried_columns(table_spec("t", source_table="美" * 43), columns[:1])
    assert caught.value.remedy == "Give a shorter one as warehouse.table in defs/t/defs.yaml."


def test_an_excluded_column_is_not_looked_at():
    spec = table_spec("t", columns={"place": {"as": "exclude"}, "oid": {"as": "exclude"}, "v": {"as": None}})
    carried = carried_columns(
        spec, (*COLUMNS[:2], Column("v", "text", nullable=False), *COLUMNS[3:], Column("oid", "x"))
    )
    assert carried == (*COLUMNS[:2], Column("v", "text", nullable=True, as_="null"))


@pytest.mark.stack
def test_an_excluded_column_is_nowhere(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, photo LONGBLOB, place POINT", rows=[(1, b"x", None)])
    spec = table_spec(table, columns={"photo": {"as": "exclude"}, "place": {"as": "exclude"}})
    with open_snapshot(rooms.source, spec) as snapshot:
        before = snapshot.fingerprint()
        assert "photo" not in snapshot.rows_query()[0]
    rooms.sql(f"UPDATE {table} SET photo = 'other'")
    with open_snapshot(rooms.source, spec) as snapshot:
        assert snapshot.fingerprint() == before
    journey = carry(rooms, spec)
    assert rooms.rows(journey.staged) == [(1,)]
    assert rooms.ask(f"SELECT * FROM {table}") == [(1,)]
    assert ALL in Manifests(rooms.store, TableKeys.of(spec)).partitions("staging")


def test_the_remedy_of_a_first_landing_that_failed_is_let_through_by_every_contract(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, born DATE")
    rooms.sql("SET SESSION sql_mode = ''", f"INSERT INTO {table} VALUES (1, '0000-00-00')")
    for as_ in (None, "null"):
        spec = table_spec(table, key=["id"], columns={"born": {"as": as_}} if as_ else {}, schema_changes="freeze")
        with open_snapshot(rooms.source, spec) as snapshot:
            if as_ is None:
                with pytest.raises(PermanentError):
                    land(snapshot, rooms.store, [WHOLE_TABLE])
            else:
                assert land(snapshot, rooms.store, [WHOLE_TABLE])[WHOLE_TABLE].manifest.rows == 1
