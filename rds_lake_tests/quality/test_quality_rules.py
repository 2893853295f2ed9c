"""Rules as SQL: two-valued, byte-exact, and safe for any label and value."""

from datetime import date, datetime
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, bounded, daily, lookup_of, record_batch, table_spec

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.quality.rules import FILE, ROW, CompiledRule, CompiledRules, compile_rules, fill_lookups

LOOKUP = ("statuses", "name")
COLUMNS = (
    Column("text", "varchar(25)"),
    Column("number", "int"),
    Column("money", "decimal(10,2)"),
    Column("day", "date"),
)
SCHEMA = arrow_schema(COLUMNS)


def broken(spec, rows, schema=SCHEMA, *, lookup=(), source_unique=True) -> list[list[str]]:
    """For each row, the rules that it breaks."""
    marked = [(*row, "f", number) for number, row in enumerate(rows)]
    full = pa.schema([*schema, pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())])
    rules = compile_rules(spec, tuple(schema.names), source_unique=source_unique)
    with duckdb.connect() as connection:
        columns = COLUMNS if schema is SCHEMA else [Column(name, "text") for name in schema.names]
        given = lookup if isinstance(lookup, pa.Table) else lookup_of(lookup)
        fill_lookups(connection, rules, {LOOKUP: given}, "t", columns)
        connection.register("landed", pa.Table.from_batches([record_batch(marked, full)]))
        found = connection.execute(f"SELECT _failed_rules FROM ({rules.select('landed')}) ORDER BY {ROW}").fetchall()
        if not any("OVER" in rule.condition for rule in rules.rules):
            kept = connection.execute(f"SELECT COUNT(*) FROM landed WHERE {rules.predicate}").fetchall()
            assert kept == [(sum(labels is None for (labels,) in found),)]
    assert all(labels is None or labels for (labels,) in found)
    return [labels or [] for (labels,) in found]


def verdicts(rule: dict, column: str, values, *, lookup=("CLOSED",)) -> list[bool]:
    """Whether each value keeps the rule."""
    number = SCHEMA.names.index(column)
    rows = [tuple(value if n == number else None for n in range(4)) for value in values]
    return [not labels for labels in broken(table_spec("t", rules=[{"column": column, **rule}]), rows, lookup=lookup)]


EACH_KIND = [
    ({"rule": "in_lookup", "lookup_table": "statuses", "lookup_column": "name"}, "text", "CLOSED", "closed"),
    ({"rule": "accepted_values", "values": ["CLOSED"]}, "text", "CLOSED", "CLOSED "),
    ({"rule": "accepted_values", "values": [1, 2]}, "number", 2, 3),
    ({"rule": "matches", "pattern": "[A-Z]{3}"}, "text", "ABC", "ABCD"),
    ({"rule": "between", "min": 1, "max": 5}, "number", 5, 6),
]


@pytest.mark.parametrize(("rule", "column", "good", "bad"), EACH_KIND, ids=[row[0]["rule"] for row in EACH_KIND])
def test_a_rule_is_never_null_and_a_null_breaks_it_unless_allowed(rule, column, good, bad):
    assert verdicts(rule, column, [good, bad, None]) == [True, False, False]
    assert verdicts({**rule, "allow_null": True}, column, [good, bad, None]) == [True, False, True]


def test_not_null_looks_at_null_only():
    spec = table_spec("t", rules=[{"rule": "not_null", "column": "text"}])
    assert broken(spec, [("", 1, None, None), (None, 1, None, None)]) == [[], ["not_null_text"]]


def test_an_sql_rule_that_is_null_counts_as_broken():
    spec = table_spec("t", rules=[{"rule": "sql", "name": "sane", "where": "number > 1 OR text = 'x'"}])
    assert broken(spec, [(None, 2, None, None), (None, None, None, None), ("x", None, None, None)]) == [
        [],
        ["sane"],
        [],
    ]


STATUSES = ["CLOSED", "ON_HOLD ", "é", "NULL", ""]


def test_a_lookup_compares_byte_for_byte():
    values = [*STATUSES, "closed", "CLOSED ", " CLOSED", "ON_HOLD", "e", "e\u0301", "null", " ", "CLOSED\0", "CLOSE_"]
    rule = {"rule": "in_lookup", "lookup_table": "statuses", "lookup_column": "name"}
    assert verdicts(rule, "text", values, lookup=STATUSES) == [value in STATUSES for value in values]
    accepted = {"rule": "accepted_values", "values": STATUSES}
    assert verdicts(accepted, "text", values) == [value in STATUSES for value in values]


def test_numbers_and_dates_are_looked_up_in_texts_as_the_engine_writes_them():
    rule = {"rule": "in_lookup", "lookup_table": "statuses", "lookup_column": "name"}
    assert verdicts(rule, "number", [7, 70, 8, 9], lookup=["7", "8.0", "8.4", "09", "x"]) == [True, False, False, False]
    assert verdicts(rule, "money", [Decimal("1.50"), Decimal("1.51")], lookup=["1.50"]) == [True, False]
    assert verdicts(rule, "day", [date(2024, 1, 1), date(2024, 1, 2)], lookup=["2024-01-01"]) == [True, False]


@pytest.mark.parametrize(
    ("column", "good", "bad", "values"),
    [
        ("number", 7, 8, pa.array([7, 9], pa.int64())),
        ("number", 2**31 - 1, 8, pa.array([2**31 - 1, 2**40], pa.int64())),
        ("number", 7, 8, pa.array([7.0, 7.9, 1e300], pa.float64())),
        ("number", 7, 8, pa.array([Decimal("7.00"), Decimal("7.90")], pa.decimal128(38, 2))),
        (
            "money",
            Decimal("1.50"),
            Decimal("1.51"),
            pa.array([Decimal("1.500"), Decimal("1.512")], pa.decimal128(4, 3)),
        ),
        ("money", Decimal("0.10"), Decimal("7.00"), pa.array([0.1, None], pa.float64())),
        ("day", date(2024, 1, 1), date(2024, 1, 2), pa.array([datetime(2024, 1, 1), datetime(2024, 1, 2, 3)])),  # noqa: DTZ001
    ],
)
def test_values_of_two_types_are_equal_where_one_becomes_the_other_unchanged(column, good, bad, values):
    rule = {"rule": "in_lookup", "lookup_table": "statuses", "lookup_column": "name"}
    lookup = pa.table({"value": values, "text": values.cast(pa.string())})
    assert verdicts(rule, column, [good, bad], lookup=lookup) == [True, False]


@pytest.mark.parametrize(
    ("column", "values"),
    [("number", pa.array(["x"])), ("number", pa.array([date(2024, 1, 1)])), ("text", pa.array([b"a"]))],
)
def test_a_lookup_of_which_the_column_can_have_no_value_is_an_error_since_it_would_discard_every_row(column, values):
    rule = {"rule": "in_lookup", "lookup_table": "statuses", "lookup_column": "name"}
    with pytest.raises(
        SpecError, match=rf"^t: no value of the lookup 'statuses\.name' .* the column '{column}'.*as'\)"
    ):
        verdicts(rule, column, [None], lookup=pa.table({"value": values, "text": ["a"]}))


def test_a_pattern_matches_the_whole_text():
    assert verdicts({"rule": "matches", "pattern": "ab|c"}, "text", ["ab", "c", "abx", "xc", ""]) == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert verdicts({"rule": "matches", "pattern": r"\d+"}, "number", [12, -1]) == [True, False]
    assert verdicts({"rule": "matches", "pattern": r"\p{L}+"}, "text", ["Käse", "K4se"]) == [True, False]


@pytest.mark.parametrize(
    ("bounds", "column", "values", "expected"),
    [
        ({"min": 2}, "number", [1, 2, 2**31 - 1], [False, True, True]),
        ({"max": 0}, "number", [1, 0, -5], [False, True, True]),
        ({"min": 1.5, "max": 2.5}, "money", [Decimal("1.49"), Decimal("1.50"), Decimal("2.51")], [False, True, False]),
        ({"min": "2024-01-01"}, "day", [date(2023, 12, 31), date(2024, 1, 1)], [False, True]),
        ({"min": "b", "max": "c"}, "text", ["a", "b", "c", "ca"], [False, True, True, False]),
        ({"min": -1, "max": 0}, "number", [-2, -1, 0], [False, True, True]),
    ],
)
def test_bounds_include_themselves(bounds, column, values, expected):
    assert verdicts({"rule": "between", **bounds}, column, values) == expected


# --- repetitions -----------------------------------------------------------------------------------------------------

KEYED = pa.schema([("id", pa.int32()), ("at", pa.timestamp("us")), ("v", pa.string())])


def noon(second: int) -> datetime:
    return datetime(2024, 1, 1, 12, 0, second)  # noqa: DTZ001 - the cursor's clock


def test_of_rows_with_one_key_the_newest_stays():
    rows = [(1, noon(1), "old"), (1, noon(3), "new"), (1, None, "none"), (2, noon(1), "alone"), (1, noon(2), "older")]
    found = broken(daily("t"), rows, KEYED, source_unique=False)
    assert found == [["duplicate_key"], [], ["duplicate_key"], [], ["duplicate_key"]]
    assert broken(daily("t"), rows, KEYED, source_unique=True) == [[]] * 5


def test_of_rows_that_tie_the_first_stays():
    found = broken(daily("t"), [(1, noon(1), "a"), (1, noon(1), "b")], KEYED, source_unique=False)
    assert found == [[], ["duplicate_key"]]


def test_without_a_key_whole_rows_do_not_repeat_and_null_equals_null():
    rows = [(1, None, "a"), (1, None, "a"), (1, None, None), (1, None, None), (1, noon(1), "a"), (1, None, "A")]
    found = broken(table_spec("t"), rows, KEYED, source_unique=False)
    assert found == [[], ["duplicate_row"], [], ["duplicate_row"], [], []]


def test_unique_columns_may_be_others_than_the_key():
    spec = daily("t", rules=[{"rule": "unique", "columns": ["v"], "name": "one_v"}])
    rows = [(1, noon(1), "a"), (2, noon(2), "a"), (3, noon(3), "b")]
    assert broken(spec, rows, KEYED) == [["one_v"], [], []]


def test_a_key_column_is_never_null_whatever_the_yaml_says():
    assert broken(daily("t"), [(None, noon(1), "a"), (1, noon(1), "a")], KEYED) == [["not_null_id"], []]
    spec = daily("t", rules=[{"rule": "not_null", "column": "id", "name": "has_id"}])
    assert broken(spec, [(None, noon(1), "a")], KEYED) == [["has_id"]]


# --- hostile names and values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [*HOSTILE_NAMES, "label", "v", "landed", "number", "_keeps", "lookup_0"])
def test_columns_of_any_name_can_be_ruled(column):
    schema = pa.schema([("n", pa.int32()), (column, pa.string())])
    rules = [
        {"rule": "not_null", "column": column, "name": "label"},
        {"rule": "accepted_values", "column": column, "values": ["ok", "x'; --"], "name": "v"},
        {"rule": "in_lookup", "column": column, "lookup_table": "statuses", "lookup_column": "name", "name": "look"},
        {"rule": "unique", "columns": ["n", column], "name": "once"},
    ]
    found = broken(table_spec("t", rules=rules), [(1, "ok"), (2, None), (3, "x'; --"), (4, "y")], schema, lookup=["ok"])
    assert found == [[], ["label", "v", "look"], ["look"], ["v", "look"]]


def test_a_label_cannot_leave_its_quotes_even_if_the_yaml_let_it_pass():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE landed AS SELECT unnest([1, 2]) AS n")
        for label in (*HOSTILE_NAMES, "'), ('x"):
            rules = CompiledRules((CompiledRule(label, '"n" > 1'),), ())
            found = connection.execute(f"SELECT _failed_rules FROM ({rules.select('landed')})").fetchall()
            assert found == [([label],), (None,)]


@bounded(60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4), st.data())
def test_accepted_values_may_be_any_text(values, data):
    tried = data.draw(st.lists(st.sampled_from(values) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)))
    if tried:
        accepted = {"rule": "accepted_values", "values": values}
        assert verdicts(accepted, "text", tried) == [value in values for value in tried]


# --- the digest ------------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_the_rules_and_with_the_lookups_values_and_with_nothing_else():
    def digest(values=("a",), **more):
        rule = {"rule": "in_lookup", "column": "text", "lookup_table": "statuses", "lookup_column": "name", **more}
        spec = table_spec("t", rules=[rule], description=str(more))
        return compile_rules(spec, tuple(SCHEMA.names), source_unique=True).digest({LOOKUP: lookup_of(values)})

    assert digest() == digest()
    assert len({digest(), digest(("a", "b")), digest(name="x"), digest(allow_null=True), digest(column="number")}) == 5
