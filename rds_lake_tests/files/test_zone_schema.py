"""Schema files: they make tables and widen them under their rows, whatever comes first, and never lose a value."""

import threading
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from dropping import Drops, day
from rooms import enlarging_no_text, table_spec

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column
from rds_lake.files import load as load_module
from rds_lake.files.spec import ZoneTable
from rds_lake.files.zone import DropZone
from rds_lake.warehouse import ledger, migrate
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import LEDGER, LEDGER_COLUMNS

AT = datetime.fromisoformat("2026-01-02T00:00:00")

WIDER: list[tuple[str, str, str, Any, str, Any, tuple[Any, ...]]] = [
    # from, to, a text before, its value afterwards, a text that only fits afterwards, its value, the type as told
    ("smallint", "integer", "-32768", -32768, "2147483647", 2**31 - 1, ("integer", None)),
    ("smallint", "bigint", "32767", 32767, "-9223372036854775808", -(2**63), ("bigint", None)),
    ("smallint", "real", "32767", 32767.0, "0.5", 0.5, ("real", None)),
    ("integer", "bigint", "7", 7, "9223372036854775807", 2**63 - 1, ("bigint", None)),
    ("integer", "double precision", "2147483647", 2147483647.0, "0.1", 0.1, ("double precision", None)),
    (
        "integer",
        "decimal(12,2)",
        "-2147483648",
        Decimal("-2147483648.00"),
        "0.01",
        Decimal("0.01"),
        ("numeric", (12, 2)),
    ),
    ("bigint", "decimal(20,0)", str(2**63 - 1), Decimal(2**63 - 1), "1" * 20, Decimal("1" * 20), ("numeric", (20, 0))),
    (
        "decimal(5,2)",
        "decimal(7,2)",
        "-999.99",
        Decimal("-999.99"),
        "12345.67",
        Decimal("12345.67"),
        ("numeric", (7, 2)),
    ),
    ("decimal(5,2)", "decimal(9,4)", "999.99", Decimal("999.9900"), "0.0001", Decimal("0.0001"), ("numeric", (9, 4))),
    ("decimal(5,0)", "bigint", "-99999", -99999, "100000", 100000, ("bigint", None)),
    ("real", "double precision", "0.5", 0.5, "1e300", 1e300, ("double precision", None)),
    (
        "date",
        "timestamp",
        "2026-01-02",
        AT,
        "2026-01-02T00:00:01",
        AT.replace(second=1),
        ("timestamp without time zone", None),
    ),
    ("date", "varchar(10)", "0001-01-01", "0001-01-01", "anything", "anything", ("character varying", 10)),
    ("bigint", "varchar(20)", "-9223372036854775808", "-9223372036854775808", "x", "x", ("character varying", 20)),
    ("varchar(5)", "varchar(50)", "five5", "five5", "x" * 50, "x" * 50, ("character varying", 50)),
    ("varchar(5)", "text", " a ", " a ", "x" * 60000, "x" * 60000, ("character varying", 65535)),
]


def test_columns_become_wider_under_their_rows(rooms):
    drops = Drops.zone(rooms.environ, versioned=True, discard_limit=1)
    names = [f"v{number}" for number in range(len(WIDER))]
    befores, afters, olds, helds, texts, values, tolds = zip(*WIDER, strict=True)
    drops.schema("things", "id bigint", *(f"{name} {kind}" for name, kind in zip(names, befores, strict=True)))
    drops.run()
    old = "".join(f"1,{','.join(olds)}\n2{',BACK_N' * len(WIDER)}\n").replace("BACK_N", "\\N")
    drops.one(drops.drop("append", "things", "a.csv", old, day(1)))
    one_each = "".join(
        f"{number + 3},{',' * number}{text}{',' * (len(WIDER) - number - 1)}\n" for number, text in enumerate(texts)
    )
    refused = drops.one(drops.drop("append", "things", "b.csv", one_each, day(2)))
    assert (refused.status, refused.rows_discarded) == ("rejected", len(WIDER))
    assert [row["_reasons"] for row in drops.discarded(refused)] == [
        [f"{name} is no {kind}"] for name, kind in zip(names, befores, strict=True)
    ]
    columns = [f"{name} {kind}" for name, kind in zip(names, afters, strict=True)]
    widened = drops.one(drops.schema("things", "id bigint", *columns, landed_at=day(400)))
    assert (widened.status, widened.error) == ("completed", None)
    kinds = {name: kind for name, *kind in drops.types("things")}
    for name, told in zip(names, tolds, strict=True):
        kind, length, digits, scale = kinds[name]
        assert (kind, {"character varying": length, "numeric": (digits, scale)}.get(kind)) == told, name
    everything = ", ".join(["id", *names])
    assert drops.rows("things", everything) == [(1, *helds), (2, *[None] * len(WIDER))]
    drops.one(drops.drop("append", "things", "c.csv", f"3,{','.join(texts)}\n", day(401)))
    assert drops.rows("things", everything) == [(1, *helds), (2, *[None] * len(WIDER)), (3, *values)]
    drops.check_accounts("things")


def test_a_key_becomes_wider_and_still_identifies_its_rows(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id smallint", "code varchar(2)", "n bigint", keys=["id", "code"])
    drops.run()
    drops.one(drops.drop("append", "things", "a.csv", "1,a,1\n1,a ,1\n2,a,1\n", day(1)))
    drops.one(
        drops.schema("things", "id bigint", "code varchar(9)", "n bigint", keys=["id", "code"], landed_at=day(400))
    )
    drops.one(drops.drop("append", "things", "b.csv", "1,a ,2\n100000,long code,2\n", day(401)))
    assert set(drops.rows("things", "id, code, n")) == {
        (1, "a", 1),
        (1, "a ", 2),
        (2, "a", 1),
        (100000, "long code", 2),
    }
    late = drops.one(drops.drop("append", "things", "c.csv", "1,a,0\n2,a,0\n3,a,0\n", day(0)))
    assert late.status == "completed"
    assert set(drops.rows("things", "id, code, n")) == {
        (1, "a", 1),
        (1, "a ", 2),
        (2, "a", 1),
        (3, "a", 0),
        (100000, "long code", 2),
    }
    drops.check_accounts("things", keyed=True)


def test_a_new_column_is_empty_in_old_rows_and_files_of_either_form_are_read_right(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "name varchar(9)")
    drops.run()
    drops.one(drops.drop("append", "things", "a.csv", "1,old\n", day(1)))
    drops.one(drops.schema("things", "id bigint", "mail varchar(9)", "name varchar(9)", landed_at=day(400)))
    assert drops.rows("things", "id, name, mail") == [(1, "old", None)]
    drops.one(drops.drop("append", "things", "b.csv", "id,name\n2,named\n", day(401)))
    drops.one(drops.drop("append", "things", "c.csv", "name,mail,id\nthird,3@x,3\n", day(402)))
    drops.one(drops.drop("append", "things", "d.csv", "4,4@x,fourth\n", day(403)))  # in the order of the schema file
    assert drops.rows("things", "id, name, mail") == [
        (1, "old", None),
        (2, "named", None),
        (3, "third", "3@x"),
        (4, "fourth", "4@x"),
    ]
    late = drops.one(drops.drop("truncate", "things", "t.csv", "id\n0\n", day(0)))  # puts in all of them again
    assert late.status == "completed"
    assert [row[0] for row in drops.rows("things", "id, name, mail")] == [0, 1, 2, 3, 4]
    drops.check_accounts("things")


def test_a_column_may_become_nullable(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "name varchar(9)", required=["name"])
    drops.run()
    assert drops.one(drops.drop("append", "things", "a.csv", "id\n1\n", day(1))).error == (
        "a.csv lacks the column 'name', which needs a value. Add it."
    )
    drops.one(drops.schema("things", "id bigint", "name varchar(9)", landed_at=day(400)))
    drops.one(drops.drop("append", "things", "a.csv", "id\n1\n", day(401)))
    assert drops.rows("things", "id, name") == [(1, None)]


REFUSED = {
    "a narrower type": (
        {"columns": ["id integer", "name varchar(9)"]},
        "id is bigint, and integer does not hold all of its values",
    ),
    "a shorter text": (
        {"columns": ["id bigint", "name varchar(8)"]},
        "name is varchar(9), and varchar(8) does not hold all of its values",
    ),
    "a type that looks wider": (
        {"columns": ["id double precision", "name varchar(9)"]},
        "id is bigint, and double precision does not hold all of its values",
    ),
    "a column left out": ({"columns": ["id bigint"]}, "name is left out"),
    "a column renamed": ({"columns": ["id bigint", "title varchar(9)"]}, "name is left out"),
    "a new column that needs a value": (
        {"columns": ["id bigint", "name varchar(9)", "more date"], "required": ["more"]},
        "more is new and not nullable, but rows that are there have no value for it",
    ),
    "a column that begins to need a value": (
        {"columns": ["id bigint", "name varchar(9)"], "required": ["name"]},
        "name may have rows without a value, so it stays nullable",
    ),
    "keys where there were none": (
        {"columns": ["id bigint", "name varchar(9)"], "keys": ["id"]},
        "it has no keys, so rows that are there may repeat those that it is given",
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_change_that_would_lose_data_is_refused_and_changes_nothing(rooms, change):
    given, problem = dict(REFUSED[change][0]), REFUSED[change][1]
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "name varchar(9)")
    drops.drop("append", "things", "a.csv", "1,kept\n")
    drops.run()
    before = drops.types("things"), drops.body(f"schemas/{drops.database}/things.json")
    record = drops.one(drops.schema("things", *given.pop("columns"), landed_at=day(400), **given))
    assert (record.status, record.error) == (
        "rejected",
        (
            f"The schema of {drops.database}.things would lose data: {problem}. "
            "Add columns and widen types only; for anything else make another table."
        ),
    )
    assert (drops.types("things"), drops.body(f"schemas/{drops.database}/things.json")) == before
    assert drops.rows("things", "id, name") == [(1, "kept")]
    drops.check_accounts("things")


def test_keys_cannot_be_changed_or_taken_away(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "n bigint", keys=["id"])
    drops.run()
    for keys, told in ((["n"], "n"), (["id", "n"], "id, n"), ([], "none")):
        record = drops.one(drops.schema("things", "id bigint", "n bigint", keys=keys, landed_at=day(400)))
        assert record.error == (
            f"The schema of {drops.database}.things would lose data: the keys are id and cannot become {told}. "
            "Add columns and widen types only; for anything else make another table."
        )
    drops.check_accounts("things", keyed=True)


# --- what comes first ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [False, True])
def test_a_data_file_whose_event_comes_before_that_of_its_schema_file_takes_it_along(rooms, versioned):
    drops = Drops.zone(rooms.environ, versioned=versioned)
    data = drops.drop("append", "Things", "a.csv", "1,x\n")
    schema = drops.schema("things", "id bigint", "name varchar(9)")
    drops.schema("others", "id bigint")  # of no concern
    results = drops.handle(data)
    assert [record.file_id for record, _ in results] == [schema.file_id, data.file_id]
    assert [record.table for record, _ in drops.run()] == [f"{drops.database}.others"]
    assert len(drops.all_records()) == 3
    assert drops.rows("things", "id, name") == [(1, "x")]
    drops.check_accounts("things")


def test_data_files_that_landed_long_before_the_first_schema_file_are_loaded_with_it(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    versions = [drops.drop("append", "things", f"{number}.csv", f"{number}\n", day(number)) for number in range(3)]
    versions.append(drops.schema("things", "id bigint", landed_at=day(9)))
    assert {record.status for record in drops.settled(*versions)} == {"completed"}
    assert drops.rows("things", "id") == [(0,), (1,), (2,)]
    drops.check_accounts("things")


def test_a_wider_schema_of_the_same_second_is_taken_before_the_data_files(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id smallint")
    drops.run()
    versions = [drops.drop("append", "things", f"{number}.csv", f"{number}00000\n", day(400)) for number in range(1, 4)]
    schema = drops.schema("things", "id bigint", landed_at=day(400))
    assert {record.status for record in drops.settled(*versions, schema)} == {"completed"}
    assert drops.rows("things", "id") == [(100000,), (200000,), (300000,)]
    drops.check_accounts("things")


def test_of_files_that_are_handled_together_each_is_read_under_the_schema_of_its_time(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint")
    drops.run()
    old = drops.drop("append", "things", "a.csv", "1\n", day(401))
    schema = drops.schema("things", "id bigint", "name varchar(9)", landed_at=day(402))
    new = drops.drop("append", "things", "b.csv", "2,x\n", day(403))
    assert [record.status for record in drops.settled(new, schema, old)] == ["completed"] * 3
    assert drops.rows("things", "id, name") == [(1, None), (2, "x")]
    drops.check_accounts("things")


def test_many_schema_files_of_one_pass_are_taken_in_their_order(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    columns = ["id bigint", *(f"c{number} date" for number in range(6))]
    versions = [
        drops.schema("things", *columns[: number + 1], name=f"{9 - number}.json", landed_at=day(number))
        for number in range(7)
    ]
    assert {record.status for record in drops.settled(*versions)} == {"completed"}
    assert [name for name, *_ in drops.types("things")] == [text.split()[0] for text in columns]


def test_an_unchanged_schema_file_is_taken_and_changes_nothing(rooms):
    drops = Drops.zone(rooms.environ)
    first = drops.schema("things", "id bigint", "name varchar(9)", keys=["id"])
    drops.drop("append", "things", "a.csv", "1,x\n")
    drops.run()
    before = drops.types("things")
    drops.later()
    again = [
        drops.schema("things", "id bigint", "name varchar(9)", keys=["id"]),
        drops.schema("things", "ID int8", "NAME  VARCHAR( 9 )", keys=["Id"], name="other.json"),
    ]
    drops.run()
    assert again[0].file_id != first.file_id
    for version in (first, *again):
        assert drops.record(version).status == "completed"
    assert drops.types("things") == before
    assert drops.rows("things", "id, name") == [(1, "x")]
    drops.check_accounts("things", keyed=True)


def test_an_older_schema_file_that_comes_after_a_newer_one_is_refused(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    old = drops.schema("things", "id bigint", landed_at=day(1))
    new = drops.schema("things", "id bigint", "name varchar(9)", landed_at=day(2))
    assert drops.one(new).status == "completed"
    record = drops.one(old)
    assert (record.status, record.error) == (
        "rejected",
        (
            f"schema.json landed before the file that the present schema of {drops.database}.things is from. "
            "Drop it again if it is meant."
        ),
    )
    assert [name for name, *_ in drops.types("things")] == ["id", "name"]
    drops.check_accounts("things")


def test_of_two_workers_that_change_a_schema_at_once_none_takes_back_what_the_other_did(rooms, monkeypatch):
    monkeypatch.setattr(DropZone, "companions", lambda *_: ())  # neither sees the other, and waits for it
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", landed_at=day(1))
    drops.run()
    one = drops.schema("things", "id bigint", "a date", name="a.json", landed_at=day(400))
    two = drops.schema("things", "id bigint", "b date", name="b.json", landed_at=day(400))
    other = Drops(drops.environ, drops.spec)
    threads = [threading.Thread(target=drops.handle, args=[one]), threading.Thread(target=other.handle, args=[two])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = {version.name: drops.record(version).status for version in (one, two)}
    assert sorted(statuses.values()) == ["completed", "rejected"]
    [taken] = [name[0] for name, status in statuses.items() if status == "completed"]
    body = "id,b\n1,2026-01-01\n" if taken == "b" else "id,a\n1,2026-01-01\n"
    assert drops.one(drops.drop("append", "things", "x.csv", body, day(401))).status == "completed"
    assert drops.rows("things", f"id, {taken}") == [(1, date(2026, 1, 1))]


# --- tables that are there already -----------------------------------------------------------------------------------


def made(rooms: Any, columns: str, rows: str = "", **spec: Any) -> Drops:
    """A zone in whose schema somebody else has made a table, which its YAML names unless it says otherwise."""
    drops = Drops.zone(rooms.environ, **{"tables": {"things": None}, **spec})
    drops.ask(f'CREATE SCHEMA "{drops.spec.schema_name}"')
    drops.ask(f"CREATE TABLE {drops.table('things')} ({columns})")
    if rows:
        drops.ask(f"INSERT INTO {drops.table('things')} VALUES {rows}")
    return drops


def test_a_table_with_narrower_columns_is_widened_under_its_rows(rooms):
    drops = made(rooms, "id smallint, name varchar(3), born date", "(1, 'old', '2026-01-01'), (2, NULL, NULL)")
    schema = drops.schema("things", "id bigint", "name varchar(9)", "born timestamp", "more varchar(5)")
    dropped = drops.drop("append", "things", "a.csv", "100000,longer,2026-01-01T01:00:00,x\n")
    drops.run()
    assert drops.record(schema).status == "completed"
    assert drops.record(dropped).status == "completed"
    assert {name: kind for name, kind, *_ in drops.types("things")} == {
        "id": "bigint",
        "name": "character varying",
        "born": "timestamp without time zone",
        "more": "character varying",
    }
    assert drops.rows("things", "id, name, born, more") == [
        (1, "old", datetime.fromisoformat("2026-01-01T00:00:00"), None),
        (2, None, None, None),
        (100000, "longer", datetime.fromisoformat("2026-01-01T01:00:00"), "x"),
    ]


def test_a_table_with_wider_and_other_columns_stays_as_it_is(rooms):
    drops = made(rooms, "id bigint, other date, name varchar(100)", "(1, '2026-01-01', 'old')")
    before = drops.types("things")
    drops.schema("things", "name varchar(9)", "id integer")
    drops.drop("append", "things", "a.csv", "new,2\n")
    drops.run()
    assert drops.types("things") == before
    assert drops.rows("things", "id, name, other") == [(1, "old", date(2026, 1, 1)), (2, "new", None)]


def test_a_table_with_a_column_of_quite_another_type_is_left_alone_and_the_schema_file_refused(rooms):
    drops = made(rooms, "id date, name varchar(9)", "('2026-01-01', 'old')")
    schema = drops.schema("things", "id bigint", "name varchar(9)")
    dropped = drops.drop("append", "things", "a.csv", "2,new\n")
    drops.run()
    assert drops.record(schema).status == "rejected"
    assert drops.record(schema).error == (
        f"The column id of {drops.database}.things is DATE in the warehouse, the schema says BIGINT, and neither holds "
        "all values of the other. Give the schema the type that the warehouse has, or rename that column there."
    )
    assert drops.record(dropped).error == (
        f"The table {drops.database}.things is unknown: it has no schema. "
        f"Drop a schema file into {drops.database}/schema/things/ first, then this file again."
    )
    assert drops.rows("things", "id, name") == [(date(2026, 1, 1), "old")]


OTHER_TYPE = (
    "The column id of {} is %s in the warehouse, the schema says BIGINT, and neither holds all values of the other. "
    "Give the schema the type that the warehouse has, or rename that column there."
)
REQUIRED = (
    "The column needed of {} is NOT NULL without a default in the warehouse, and the schema does not have it. "
    "Add it to the schema, or let it be NULL, give it a default, or drop it."
)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("id bigint, needed bigint not null", REQUIRED),
        ("id timestamptz", OTHER_TYPE % "TIMESTAMPTZ"),
        ("id char(20)", OTHER_TYPE % "CHAR(20)"),
    ],
)
def test_a_table_that_cannot_take_files_is_left_alone_and_its_schema_file_refused(rooms, columns, problem):
    drops = made(rooms, columns)
    before = drops.types("things")
    schema, other = drops.schema("things", "id bigint"), drops.schema("others", "id bigint")
    bad = drops.drop("append", "things", "a.csv", "2\n")
    good = drops.drop("append", "others", "a.csv", "2\n")
    drops.run()
    record = drops.record(schema)
    assert (record.status, record.error) == ("rejected", problem.format(f"{drops.database}.things"))
    assert drops.record(bad).status == "rejected"
    assert [drops.record(version).status for version in (other, good)] == ["completed", "completed"]
    assert drops.types("things") == before
    assert drops.rows("things") == []


def test_columns_of_a_table_that_need_no_value_or_have_a_zone_do_not_matter(rooms):
    drops = made(rooms, "id bigint, at timestamptz, other date, kind bigint not null default 7")
    drops.schema("things", "id bigint", "at timestamptz")
    dropped = drops.drop("append", "things", "a.csv", "2,2026-01-01T00:00:00Z\n")
    drops.run()
    assert drops.record(dropped).status == "completed"
    assert drops.rows("things", "id, other, kind") == [(2, None, 7)]


def test_a_text_that_cannot_be_enlarged_in_place_is_exchanged(rooms, monkeypatch):
    drops = made(rooms, "id bigint, name varchar(3)", "(1, 'old')")
    drops.ask(f'ALTER TABLE {drops.table("things")} DROP CONSTRAINT "name: too large for its type"')  # the stand-in's
    drops.schema("things", "id bigint", "name varchar(9)")
    with monkeypatch.context() as patch:
        seen = enlarging_no_text(patch)
        drops.run()
    assert any(text.startswith("UPDATE") and "CAST" in text for text in seen)
    assert {name: length for name, _, length, *_ in drops.types("things")} == {"id": None, "name": 9}
    drops.one(drops.drop("append", "things", "a.csv", "2,123456789\n"))
    assert drops.rows("things", "id, name") == [(1, "old"), (2, "123456789")]


# --- whose tables they are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["id bigint", "other date"])
def test_a_table_with_rows_of_others_is_not_taken_unless_the_yaml_names_it(rooms, columns):
    value = "7" if columns == "id bigint" else "'2026-01-01'"
    drops = made(rooms, columns, f"({value})", tables={})
    before = drops.types("things"), drops.rows("things")
    schema = drops.schema("things", "id bigint")
    dropped = drops.drop("truncate", "things", "t.csv", "1\n")
    drops.run()
    record = drops.record(schema)
    assert (record.status, record.error) == (
        "rejected",
        (
            f"The warehouse table {drops.database}.things has rows that no file has brought. Nothing was changed. "
            "If files shall be loaded into it, name things below 'tables' in the YAML of the drop zone; "
            "otherwise choose another name."
        ),
    )
    assert drops.record(dropped).status == "rejected"
    assert (drops.types("things"), drops.rows("things")) == before
    assert drops.keys("schemas/") == []
    named = Drops(drops.environ, drops.spec.model_copy(update={"tables": {"things": ZoneTable()}}))
    assert named.one(named.schema("things", "id bigint", name="b.json")).status == "completed"
    assert named.one(named.drop("truncate", "things", "u.csv", "1\n")).status == "completed"
    assert named.rows("things", "id") == [(1,)]


def test_an_empty_table_of_others_and_one_that_files_have_filled_are_taken(rooms):
    drops = made(rooms, "id bigint", tables={})
    assert drops.one(drops.schema("things", "id bigint", name="a.json")).status == "completed"
    assert drops.one(drops.drop("append", "things", "a.csv", "1\n")).status == "completed"
    drops.later()
    assert drops.one(drops.schema("things", "id bigint", "name varchar(9)", name="b.json")).status == "completed"
    assert drops.rows("things", "id, name") == [(1, None)]


@pytest.mark.parametrize("tables", [{}, {"things": None}])
def test_a_table_that_a_pipeline_loads_is_not_taken_whatever_the_yaml_says(rooms, tables):
    drops = made(rooms, "id bigint", "(7)", tables=tables)
    is_loaded_by(drops, "orders")
    schema = drops.schema("things", "id bigint", "name varchar(9)")
    dropped = drops.drop("truncate", "things", "t.csv", "1,x\n")
    drops.run()
    record = drops.record(schema)
    assert (record.status, record.error) == (
        "rejected",
        (
            f"The warehouse table {drops.database}.things is loaded by the table pipeline orders. Nothing was changed. "
            "Drop files for a table of another name, or give the drop zone another schema."
        ),
    )
    assert drops.record(dropped).status == "rejected"
    assert [name for name, *_ in drops.types("things")] == ["id"]
    assert drops.rows("things", "id") == [(7,)]


def test_a_table_that_a_pipeline_has_taken_meanwhile_takes_no_file(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    is_loaded_by(drops, "orders")
    drops.ask(f"INSERT INTO {drops.table('things')} VALUES (7)")
    record = drops.one(drops.drop("truncate", "things", "t.csv", "1\n"))
    assert record.status == "failed"
    assert "is loaded by the table pipeline orders" in record.error
    assert drops.rows("things", "id") == [(7,)]


def test_a_table_that_files_are_loaded_into_is_taken_by_no_pipeline(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.one(drops.drop("append", "things", "t.csv", "7\n"))
    spec = table_spec(rooms.name(), warehouse={"schema": drops.spec.schema_name, "table": "THINGS"})
    staged = rooms.batch(spec, "staging", [Column("id", "bigint")], [(8,)], partition="all").manifest
    with pytest.raises(SpecError, match=rf"{drops.database}.things is loaded from files \(1 so far\)") as raised:
        load(rooms.warehouse, rooms.store, spec, [staged])
    assert "warehouse.table" in raised.value.remedy
    assert drops.rows("things", "id") == [(7,)]
    with rooms.warehouse.connect() as session:
        assert ledger.read(session, spec.table) == {}


def is_loaded_by(drops: Drops, pipeline: str) -> None:
    """Write into the pipelines' ledger that one has loaded the table."""
    drops.ask("CREATE SCHEMA IF NOT EXISTS rds_lake")
    drops.ask(f"CREATE TABLE IF NOT EXISTS {LEDGER} ({', '.join(f'{name} {kind}' for name, kind in LEDGER_COLUMNS)})")
    values = (pipeline, "all", "b", "f", "m", 1, 1, f"{drops.spec.schema_name}.things")
    drops.ask(
        f"INSERT INTO {LEDGER} (table_name, partition_key, batch_id, fingerprint, manifest, rows_staged, rows_loaded, "
        f"loaded_at, target) VALUES ({', '.join(['%s'] * 7)}, NOW(), %s)",
        values,
    )


def test_readers_see_every_value_while_columns_are_widened(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "g integer")
    drops.one(drops.drop("truncate", "things", "t.csv", "g\n" + "1\n" * 500))
    stop, seen = threading.Event(), []

    def read() -> None:
        connection = drops.connect()
        with connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute(f"SELECT COUNT(*), COUNT(g), SUM(g) FROM {drops.table('things')}")
                seen.append(tuple(map(int, cursor.fetchone())))
        connection.close()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for at, kind in enumerate(["bigint", "decimal(30,2)", "decimal(32,4)", "decimal(34,6)"]):
        assert drops.one(drops.schema("things", f"g {kind}", name=f"{at}.json")).status == "completed"
    stop.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 20
    assert set(seen) == {(500, 500, 500)}
    assert [name for name, *_ in drops.types("things")] == ["g"]


WIDE_AREA = "rds_lake_wide_area integer"
"""A column of somebody's own that is called almost like those that widening makes."""


def test_a_wider_column_that_a_dead_worker_has_left_is_removed_by_the_next_change(rooms, monkeypatch):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "g integer", "h integer", WIDE_AREA)
    drops.one(drops.drop("append", "things", "t.csv", "1,2,9\n"))
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "_exchange", died)
        wider = drops.schema("things", "g bigint", "h bigint", WIDE_AREA, name="wider.json")
        with pytest.raises(KeyboardInterrupt):
            drops.one(wider)
    left = [name for name, *_ in drops.types("things") if name.startswith(migrate.WIDE)]
    assert len(left) == 3
    assert drops.rows("things", "g, h") == [(1, 2)]
    drops.ask(f"INSERT INTO {drops.table('things')} (g, h) VALUES (3, NULL)")
    dropped = drops.schema("things", "g bigint", "h bigint", WIDE_AREA, name="again.json")
    drops.expire(wider)
    drops.run()
    assert [drops.record(version).status for version in (wider, dropped)] == ["completed"] * 2
    assert sorted((name, kind) for name, kind, *_ in drops.types("things")) == [
        ("g", "bigint"),
        ("h", "bigint"),
        ("rds_lake_wide_area", "integer"),
    ]
    assert drops.rows("things", "g, h, rds_lake_wide_area") == [(1, 2, 9), (3, None, None)]


@pytest.mark.parametrize(
    ("meanwhile", "after"),
    [
        ("INSERT INTO {} (g, name) VALUES (5, 'new ')", [(1, "old"), (2, None), (5, "new ")]),
        ("UPDATE {} SET g = 7, name = 'old ' WHERE g = 1", [(2, None), (7, "old ")]),
        ("UPDATE {} SET g = NULL, name = NULL WHERE g = 1", [(2, None), (None, None)]),
        ("UPDATE {} SET name = 'known' WHERE g = 2", [(1, "old"), (2, "known")]),
        ("DELETE FROM {} WHERE g = 1", [(2, None)]),
    ],
)
def test_what_others_do_to_a_table_while_its_columns_are_widened_stays(rooms, meanwhile, after, monkeypatch):
    drops = made(rooms, "g integer, name varchar(5)", "(1, 'old'), (2, NULL)")
    drops.ask(f'ALTER TABLE {drops.table("things")} DROP CONSTRAINT "name: too large for its type"')  # the stand-in's
    turn, turns = load_module._turn, []

    def watched(*given: Any) -> Any:
        turns.append(given)
        if len(turns) == 2:
            drops.ask(meanwhile.format(drops.table("things")))
        return turn(*given)

    monkeypatch.setattr(load_module, "_turn", watched)
    with monkeypatch.context() as patch:
        enlarging_no_text(patch)
        assert drops.one(drops.schema("things", "g bigint", "name varchar(9)")).status == "completed"
    assert drops.rows("things", "g, name") == after
    assert {name: kind for name, kind, *_ in drops.types("things")} == {"g": "bigint", "name": "character varying"}
    assert len(turns) == 2


def died(*_: object) -> None:
    """Stands for the death of the process."""
    raise KeyboardInterrupt


def test_a_column_that_was_made_too_narrow_by_hand_is_widened_again_before_the_next_file(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "name varchar(9)")
    drops.run()
    drops.one(drops.drop("append", "things", "a.csv", "1,abc\n", day(1)))
    drops.ask(f"ALTER TABLE {drops.table('things')} DROP COLUMN name")
    drops.ask(f"ALTER TABLE {drops.table('things')} ADD COLUMN name varchar(2)")
    assert drops.one(drops.drop("truncate", "things", "b.csv", "2,123456789\n", day(2))).status == "completed"
    assert drops.rows("things", "id, name") == [(2, "123456789")]


def test_a_table_that_was_dropped_by_hand_is_made_again(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint")
    drops.run()
    drops.one(drops.drop("append", "things", "a.csv", "1\n", day(1)))
    drops.ask(f"DROP TABLE {drops.table('things')}")
    drops.one(drops.drop("truncate", "things", "b.csv", "2\n", day(2)))
    assert drops.rows("things", "id") == [(2,)]


# --- the YAML --------------------------------------------------------------------------------------------------------


def test_a_zone_that_takes_no_new_tables_refuses_the_schema_file_of_one(rooms):
    drops = Drops.zone(rooms.environ, new_tables=False, tables={"Known": None})
    known, other = drops.schema("KNOWN", "id bigint"), drops.schema("other", "id bigint")
    dropped = drops.drop("append", "other", "a.csv", "1\n")
    drops.run()
    assert drops.record(known).status == "completed"
    assert drops.record(other).error == (
        f"The table {drops.database}.other is not named in the YAML, and new_tables is false. "
        f"Add it below 'tables' of the drop zone {drops.database}."
    )
    assert drops.record(dropped).status == "rejected"
    assert [name for name, *_ in drops.types("known")] == ["id"]
    assert drops.types("other") == []


def test_tables_may_lie_in_a_schema_of_another_name(rooms):
    name = f"Other_{rooms.name()}"
    drops = Drops.zone(rooms.environ, schema=name)
    drops.schema("Things", "id bigint")
    drops.drop("append", "THINGS", "a.csv", "1\n")
    drops.run()
    assert drops.ask(f'SELECT id FROM "{name.lower()}"."things"') == [(1,)]
    assert [row["table_name"] for row in drops.ledger("things")] == [f"{name.lower()}.things"]
    drops.check_accounts("things")
