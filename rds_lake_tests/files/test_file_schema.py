"""Schema files: what they may say, what is wrong with one that is none, and how a table's schema may change."""

import json
import re
from datetime import date, datetime, time
from decimal import Context, Decimal
from itertools import product
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rooms import HOSTILE_NAMES, bounded

from rds_lake.extract.widening import holds
from rds_lake.files.schema import (
    COLUMNS_MAX,
    RESERVED,
    SYSTEM_COLUMNS,
    FileColumn,
    RefusedError,
    TableSchema,
    evolve,
    read_schema,
)
from rds_lake.files.types import DeclaredType, judge

ENGINE = duckdb.connect()
EXACT = Context(prec=100)


def column(name: str, kind: str = "integer", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def schema(*columns: dict[str, Any] | str, **more: Any) -> TableSchema:
    """A schema whose columns are integers unless they say otherwise."""
    return TableSchema.model_validate(
        {"columns": [column(item) if isinstance(item, str) else item for item in columns], **more}
    )


def as_stored(schema: TableSchema) -> TableSchema:
    """A schema that has been written and read again."""
    return read_schema(schema.model_dump_json().encode(), "again.json")


def read(value: object) -> TableSchema:
    return read_schema(json.dumps(value).encode(), "customers.json")


def refusal(content: bytes | object) -> str:
    given = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(RefusedError) as caught:
        read_schema(given, "customers.json")
    assert str(caught.value).startswith("customers.json is no")
    assert len(str(caught.value)) < 1500
    return str(caught.value)


# --- what a schema file may say --------------------------------------------------------------------------------------


def test_a_schema_file_says_columns_keys_and_what_may_be_done():
    found = read(
        {
            "columns": [
                {"name": " ID ", "type": "INT8", "nullable": False, "description": "who"},
                {"name": "Born", "type": "date", "formats": ["%d/%m/%Y"]},
                {"name": "Pay", "type": "Numeric( 12 , 2 )", "thousands": ",", "personal": True},
            ],
            "keys": ["Id"],
            "allowed_operations": ["append"],
            "description": "Customers.",
        }
    )
    assert found.names == ["id", "born", "pay"]
    assert [item.type for item in found.columns] == ["bigint", "date", "decimal(12,2)"]
    assert (found.keys, found.required, found.allowed_operations) == (("id",), {"id"}, ("append",))
    assert found.columns[1].formats == ("%d/%m/%Y",)
    assert as_stored(found) == found


def test_a_list_is_a_schema_of_these_columns():
    listed = read([column("id", "bigint"), column("name", "varchar(20)")])
    assert listed == read({"columns": [column("id", "bigint"), column("name", "varchar(20)")]})
    assert listed.keys == ()
    assert listed.allowed_operations == ("append", "truncate", "schema")


def test_a_byte_order_mark_and_blanks_around_are_no_harm():
    text = json.dumps([column("id")])
    expected = read([column("id")])
    assert read_schema(text.encode("utf-8-sig"), "a.json") == expected
    assert read_schema(f"\r\n\t {text}\n\n".encode(), "a.json") == expected


def test_a_reserved_word_is_taken_and_told():
    found = read([column(name) for name in ("select", "Table", "id", "ORDER", "user", "username")])
    assert found.reserved == ["select", "table", "order", "user"]
    assert {"select", "table", "order", "user", "timestamp", "tag", "all", "without"} <= RESERVED


def test_hostile_names_are_taken_as_they_are():
    found = read([column(name) for name in HOSTILE_NAMES])
    assert found.names == [name.lower() for name in HOSTILE_NAMES]


@pytest.mark.parametrize("operations", [[], ["append"], ["schema", "truncate"]])
def test_operations_may_be_left_out(operations):
    assert read({"columns": [column("id")], "allowed_operations": operations}).allowed_operations == tuple(operations)


def test_a_name_has_at_most_127_bytes():
    for name in ("n" * 127, "é" * 63 + "x", " " + "n" * 127 + " "):
        assert read([column(name)]).names == [name.strip()]
    for name in ("n" * 128, "é" * 64, "🧀" * 32, "İ" * 43):
        assert "127 bytes" in refusal([column(name)])


def test_a_table_has_one_column_less_than_redshift_takes():
    """The table that rows come in through has one more, their line."""
    assert len(read([column(f"c{number}") for number in range(COLUMNS_MAX)]).columns) == 1599
    for count in (1600, 1601, 5000):
        assert "1599" in refusal([column(f"c{number}") for number in range(count)])


# --- what is no schema -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b" ", b"id,name\n1,Ada\n", b"{", b"[", b"[}", b"{'columns': []}", b'[{"name": "id",}]', b"[1,]"),
        *(b"nul", b"\x00", b"\xff\xfe[\x00]\x00", b'["\xff"]', b"\xef\xbb\xbf", b"PK\x03\x04", b"\x1f\x8b\x08"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b"-" + b"9" * 100_000),
        *(
            b'{"columns": [], "columns": []}',
            b'[{"name": "id", "type": "integer", "name": "name"}]',
            b"[1] 2",
            b"// no\n[]",
        ),
    ],
    ids=lambda content: f"{len(content)}:{content[:12]!r}",
)
def test_what_is_not_json_is_refused(content):
    assert "is not JSON" in refusal(content)


def test_a_key_that_comes_twice_is_named():
    assert "the key 'columns' comes twice" in refusal(b'{"columns": [], "columns": []}')


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "dictionary"),
        (True, "dictionary"),
        (5, "dictionary"),
        ("id", "dictionary"),
        (1e300, "dictionary"),
        ({}, "columns: Field required"),
        ([column("id", "money")], "columns[0].type: 'money' is no type; there are"),
        ([], "columns: Tuple should have at least 1 item"),
        ({"columns": []}, "columns: Tuple should have at least 1 item"),
        ({"columns": None}, "columns: "),
        ({"columns": {"id": "integer"}}, "columns: "),
        ({"columns": "id"}, "columns: "),
        ([None], "columns[0]: "),
        (["id"], "columns[0]: "),
        ([[]], "columns[0]: "),
        ([{}], "columns[0].name: Field required; columns[0].type: Field required"),
        ([column("id"), {"name": "a"}], "columns[1].type: Field required"),
        ([column("id"), {"type": "date"}], "columns[1].name: Field required"),
        ([{**column("id"), "null": True}], "columns[0].null: Extra inputs are not permitted"),
        ({"columns": [column("id")], "key": ["id"]}, "key: Extra inputs are not permitted"),
        ([column("id", "money")], "columns[0].type: 'money' is no type"),
        ([column("id", "varchar")], "columns[0].type: varchar needs its length"),
        ([column("id", "char")], "columns[0].type: char needs its length"),
        ([column("id", "varchar(65536)")], "columns[0].type: varchar(65536)"),
        ([column("id", "decimal(39,0)")], "up to 38 digits"),
        ([{"name": "id", "type": None}], "columns[0].type: "),
        ([{"name": "id", "type": 5}], "columns[0].type: "),
        ([{"name": 5, "type": "date"}], "columns[0].name: "),
        ([{"name": ["id"], "type": "date"}], "columns[0].name: "),
        ([column("")], "columns[0].name: '' is no name"),
        ([column(" \t")], "is no name"),
        ([column("a\nb")], "is no name"),
        ([column("a\0b")], "is no name"),
        ([column("id", nullable="maybe")], "columns[0].nullable: "),
        ([column("id", nullable=None)], "columns[0].nullable: "),
        ([column("id"), column("ID")], "two columns are called 'id'"),
        ([column("straße"), column(" STRAßE ")], "two columns are called 'straße'"),
        ([column("id"), column("name"), column("Name")], "two columns are called 'name'"),
        ({"columns": [column("id")], "keys": ["name"]}, "keys names 'name', which is none of the columns"),
        ({"columns": [column("id")], "keys": [""]}, "keys names ''"),
        ({"columns": [column("id")], "keys": ["id", "ID"]}, "keys: a column is named twice in keys"),
        ({"columns": [column("id")], "keys": "id"}, "keys: "),
        ({"columns": [column("id")], "keys": [1]}, "keys[0]: "),
        ({"columns": [column("id")], "allowed_operations": ["upsert"]}, "allowed_operations[0]: "),
        ({"columns": [column("id")], "allowed_operations": "append"}, "allowed_operations: "),
        ({"columns": [column("id")], "allowed_operations": ["Append"]}, "allowed_operations[0]: "),
        ([column("id", "date", formats=["%Q"])], "has '%Q'"),
        ([column("id", "date", formats=["%d/%m"])], "leaves open"),
        ([column("id", "date", formats="%d/%m/%Y")], "columns[0].formats: "),
        ([column("id", "timestamp", formats=["%d/%m/%Y %z"])], "timestamptz"),
        ([column("id", "integer", formats=["%d/%m/%Y"])], "formats are for dates and times, and id is integer"),
        ([column("id", "date", thousands=",")], "thousands is for numbers, and id is date"),
        ([column("id", "text", thousands=",")], "thousands is for numbers"),
        ([column("id", thousands=",,")], "columns[0].thousands: "),
        *(([column("id", thousands=mark)], "cannot separate thousands") for mark in "0.+-eE\n\0\t"),
        *(([column("id", "date", description=half)], "is not JSON") for half in ("\ud800", "a\udfffb")),
        ([column("\udc80")], "is not JSON"),
        ({"columns": [column("id")], "x" * 100_000: 1}, "x: Extra inputs are not permitted"),
        ([column("x" * 1_000_000)], "is no name"),
        ([column("id", "x" * 1_000_000)], "is no type"),
        ([{"name": "id", "type": "integer", "nullable": 10**400}], "columns[0].nullable: "),
        ([column("id", "money") for _ in range(1000)], "columns[4].type: 'money' is no type"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(content, told):
    assert told in refusal(content)


@pytest.mark.parametrize("name", sorted(SYSTEM_COLUMNS))
def test_the_systems_own_columns_are_refused(name):
    assert "the system keeps for itself" in refusal([column("id"), column(name.upper())])


def test_the_systems_own_columns_are_all_that_we_and_the_databases_add():
    ours = {"_line", "_raw", "_file", "_reasons", "_file_id", "_landed_at"}
    assert ours | {"oid", "xmin", "xmax", "ctid", "tableoid", "deletexid", "insertxid"} <= SYSTEM_COLUMNS


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.sampled_from(["id", "integer", "date"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["columns", "keys", "name", "type", "nullable", "formats", "allowed_operations", "x"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
@bounded(300)
def test_any_json_is_a_schema_or_refused(value):
    try:
        found = read(value)
    except RefusedError:
        return
    assert as_stored(found) == found


@given(st.binary(max_size=60))
@bounded(300)
def test_any_bytes_are_a_schema_or_refused(content):
    with pytest.raises(RefusedError):
        read_schema(content, "a.json")


# --- how a schema may change -----------------------------------------------------------------------------------------

SAMPLES: dict[str, list[Any]] = {
    "smallint": [0, -(2**15), 2**15 - 1],
    "integer": [0, -(2**31), 2**31 - 1, 2**24 + 1],
    "bigint": [0, -(2**63), 2**63 - 1, 2**53 + 1],
    **{
        f"decimal({size},{scale})": [Decimal(sign * (10**size - 1)).scaleb(-scale, EXACT) for sign in (1, -1)]
        for size, scale in [
            (1, 0),
            (2, 2),
            (4, 0),
            (5, 0),
            (9, 2),
            (10, 0),
            (18, 0),
            (20, 0),
            (20, 2),
            (22, 2),
            (38, 0),
        ]
    },
    "real": [0.0, 16777215.0, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45],
    "double precision": [0.1, 2.0**53 + 2, 1.7976931348623157e308, 5e-324],
    "boolean": [True, False],
    "date": [date.min, date.max],
    "timestamp": [datetime.combine(date.min, time()), datetime.combine(date.max, time.max)],
    "timestamptz": [],
    **{f"varchar({size})": ["", "x" * size, "é" * (size // 2)] for size in (1, 4, 6, 10, 11, 20, 22, 26, 41, 200)},
    "text": ["", "x" * 65_535],
}


def written(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def is_held(kind: str, value: Any) -> bool:
    """Whether a value is, as it is, one of another type too: Python compares what DuckDB made of it."""
    judged = judge(DeclaredType.of(kind), "value")
    ENGINE.execute("CREATE OR REPLACE TEMP TABLE given AS SELECT ?::VARCHAR AS value", [written(value)])
    [(found,)] = ENGINE.sql(f"SELECT {judged} FROM given").fetchall()
    if isinstance(found, str):
        return found == written(value)
    if isinstance(found, datetime) and not isinstance(value, datetime):
        return isinstance(value, date) and found == datetime.combine(value, time())
    return found is not None and type(value) in {type(found), int, Decimal, float} and found == value


def test_whatever_a_change_of_type_is_taken_for_every_old_value_is_one_of_the_new_type():
    taken = set()
    for old, new in product(SAMPLES, SAMPLES):
        held, wanted = schema(column("a", old)), schema(column("a", new))
        try:
            found = evolve(held, wanted, "sales.t")
        except RefusedError as error:
            assert f"a is {held.columns[0].type}, and {wanted.columns[0].type} does not hold" in str(error)  # noqa: PT017
            assert not holds(DeclaredType.of(new).name, DeclaredType.of(old).name)
            continue
        assert found == wanted
        assert holds(DeclaredType.of(new).name, DeclaredType.of(old).name)
        assert all(is_held(new, value) for value in SAMPLES[old]), (old, new)
        taken.add((old, new))
    assert taken >= {
        ("smallint", "integer"),
        ("integer", "bigint"),
        ("varchar(4)", "varchar(200)"),
        ("date", "timestamp"),
    }
    assert taken >= {("integer", "decimal(10,0)"), ("bigint", "decimal(20,0)"), ("real", "double precision")}
    assert taken >= {("integer", "varchar(11)"), ("bigint", "varchar(20)"), ("timestamp", "varchar(26)")}
    assert taken.isdisjoint({("integer", "decimal(9,2)"), ("integer", "real"), ("bigint", "double precision")})
    assert taken.isdisjoint({("bigint", "integer"), ("text", "varchar(200)"), ("timestamp", "date"), ("real", "text")})
    assert taken.isdisjoint({("timestamp", "timestamptz"), ("decimal(10,0)", "integer"), ("boolean", "varchar(6)")})


names = st.sampled_from("abcdefgh")
kinds = st.sampled_from(["smallint", "integer", "bigint", "decimal(12,2)", "varchar(20)", "text", "date", "timestamp"])
columns = st.builds(lambda name, kind, nullable: column(name, kind, nullable=nullable), names, kinds, st.booleans())


@st.composite
def schemas(draw: st.DrawFn) -> TableSchema:
    given = draw(st.lists(columns, min_size=1, max_size=6, unique_by=lambda item: item["name"]))
    keys = draw(st.lists(st.sampled_from([item["name"] for item in given]), max_size=2, unique=True))
    return schema(*given, keys=keys if draw(st.booleans()) else [])


@given(schemas())
@bounded(150)
def test_a_schema_may_become_itself(held):
    assert evolve(held, held, "sales.t") == held


@given(schemas(), schemas())
@bounded(600)
def test_what_is_taken_loses_nothing_and_what_is_refused_is_named(held, wanted):
    old, new = ({item.name: item for item in one.columns} for one in (held, wanted))
    lost = {name for name in old if name not in new}
    lost |= {name for name in old.keys() & new.keys() if name not in held.required and not new[name].nullable}
    lost |= {
        *(name for name in old.keys() & new.keys() if not holds(new[name].declared.name, old[name].declared.name)),
        *(name for name in new.keys() - old.keys() if name in wanted.required),
    }
    try:
        found = evolve(held, wanted, "sales.t")
    except RefusedError as error:
        said = str(error)
        assert said.startswith("The schema of sales.t would lose data: ")
        assert all(re.search(rf"\b{name} (is|may)\b", said) for name in lost)
        assert lost or wanted.keys != held.keys
        return
    assert not lost
    assert wanted.keys == held.keys
    assert found.names == wanted.names
    assert set(found.names) >= set(held.names)
    assert found.required <= held.required
    assert evolve(found, found, "sales.t") == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (schema("id", keys=["id"]), "name is left out"),
        (
            schema("id", column("name", "varchar(19)"), keys=["id"]),
            "name is varchar(20), and varchar(19) does not hold",
        ),
        (schema("id", column("name", "integer"), keys=["id"]), "name is varchar(20), and integer does not hold"),
        (
            schema("id", column("name", "varchar(20)", nullable=False), keys=["id"]),
            "name may have rows without a value",
        ),
        (
            schema("id", column("name", "text"), column("new", nullable=False), keys=["id"]),
            "new is new and not nullable",
        ),
        (schema("id", column("name", "text")), "the keys are id and cannot become none"),
        (schema("id", column("name", "text"), keys=["id", "name"]), "the keys are id and cannot become id, name"),
        (schema("id", column("name", "text"), keys=["name"]), "the keys are id and cannot become name"),
        (schema("idx", column("name", "text"), keys=["idx"]), "id is left out; idx is new and not nullable"),
    ],
)
def test_each_kind_of_loss_is_refused_with_its_column(wanted, told):
    held = schema("id", column("name", "varchar(20)"), keys=["id"])
    with pytest.raises(RefusedError, match=re.escape(told)) as caught:
        evolve(held, wanted, "sales.customers")
    assert "sales.customers" in str(caught.value)
    assert "another table" in str(caught.value)


def test_a_key_may_be_called_what_it_is():
    """It is never NULL, whether the first schema file has said so or not."""
    held = schema("id", "other", keys=["id"])
    wanted = schema(column("id", nullable=False), "other", keys=["id"])
    assert evolve(held, wanted, "sales.t") == wanted
    assert evolve(wanted, held, "sales.t") == held
    with pytest.raises(RefusedError, match="other may have rows without a value, so it stays nullable"):
        evolve(held, schema("id", column("other", nullable=False), keys=["id"]), "sales.t")


def test_a_table_without_keys_gets_none():
    with pytest.raises(RefusedError, match="it has no keys"):
        evolve(schema("id"), schema("id", keys=["id"]), "sales.t")


def test_everything_that_loses_nothing_may_change_at_once():
    held = schema(column("id", nullable=False), column("name", "varchar(20)"), keys=["id"], description="old")
    wanted = schema(
        column("added", "date", formats=["%d/%m/%Y"]),
        column("name", "text", description="who", personal=True),
        column("id", "bigint", thousands=","),
        keys=["id"],
        allowed_operations=["append"],
        description="new",
    )
    assert evolve(held, wanted, "sales.t") == wanted


def test_a_column_stays_personal_until_a_file_says_that_it_is_not():
    held = as_stored(schema(column("id"), column("name", "text", personal=True)))
    plain = read_schema(b'[{"name": "id", "type": "bigint"}, {"name": "NAME", "type": "text"}]', "s.json")
    kept = evolve(held, plain, "sales.t")
    assert [item.personal for item in kept.columns] == [False, True]
    again = evolve(as_stored(kept), plain, "sales.t")
    assert again == kept
    told = schema(column("id"), column("name", "text", personal=False))
    assert [item.personal for item in evolve(held, told, "sales.t").columns] == [False, False]


def test_a_schema_cannot_be_changed_in_place():
    found = schema("id")
    with pytest.raises(ValidationError):
        found.keys = ("id",)  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.columns[0].name = "x"  # type: ignore[misc]
    assert FileColumn.model_validate(column("id")) == found.columns[0]
