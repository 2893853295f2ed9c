"""The YAML vocabulary: what it takes, and how it refuses the rest."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from pydantic import ValidationError
from rooms import PACKAGE, table_spec

from rds_lake.errors import SpecError
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.spec import (
    AcceptedValues,
    Between,
    InLookup,
    Matches,
    NotNull,
    SqlRule,
    TableSpec,
    Unique,
    refuse_shared_targets,
)

ORDERS = """
table: orders
key: [order_id]
cursor: {column: changed_at}
partitions: {by: day, start: 2024-01-01}
"""


def read(text: str) -> TableSpec:
    return TableSpec.model_validate(yaml.safe_load(text))


def rule(text: str):
    return read(f"table: t\nrules:\n  - {text}\n").rules[0]


def refusal(text: str) -> str:
    with pytest.raises(ValidationError) as caught:
        read(text)
    return str(caught.value)


# --- what it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "label", "columns"),
    [
        ("{rule: in_lookup, column: a, lookup_table: l, lookup_column: v}", InLookup, "in_lookup_a", ("a",)),
        ("{rule: accepted_values, column: a, values: [x, 1, 2.5]}", AcceptedValues, "accepted_values_a", ("a",)),
        ("{rule: not_null, column: a}", NotNull, "not_null_a", ("a",)),
        ("{rule: unique, columns: [a, b]}", Unique, "unique_a_b", ("a", "b")),
        ("{rule: matches, column: a, pattern: '[A-Z]+'}", Matches, "matches_a", ("a",)),
        ("{rule: between, column: a, min: 1, max: 2}", Between, "between_a", ("a",)),
        ("{rule: between, column: a, min: '2024-01-01'}", Between, "between_a", ("a",)),
        ("{rule: sql, name: sane, where: a > b}", SqlRule, "sane", ()),
        ("{rule: not_null, column: a, name: has_a}", NotNull, "has_a", ("a",)),
    ],
)
def test_every_kind_of_rule_parses(text, kind, label, columns):
    parsed = rule(text)
    assert type(parsed) is kind
    assert (parsed.label, parsed.columns) == (label, columns)


def test_accepted_values_keep_their_types():
    assert rule("{rule: accepted_values, column: a, values: [x, 1, 2.5, '1']}").values == ("x", 1, 2.5, "1")


def test_a_null_breaks_a_rule_unless_the_yaml_allows_it():
    assert rule("{rule: between, column: a, min: 1}").allow_null is False
    assert rule("{rule: between, column: a, min: 1, allow_null: true}").allow_null is True


@pytest.mark.parametrize("pattern", [r"\p{L}+", r"(?i)abc", r"\d{4}-\d{2}", r"[[:alpha:]]+", r"a|b", r"\pN"])
def test_patterns_are_re2_the_engine_that_will_run_them(pattern):
    assert rule(f"{{rule: matches, column: a, pattern: '{pattern}'}}").pattern == pattern


def test_names_follow_the_table_unless_given():
    spec = read(ORDERS)
    assert (spec.source_name, spec.warehouse_name, spec.asset("landing")) == ("orders", "orders", "orders_landing")
    assert (spec.partition_column, spec.warehouse.db_schema) == ("changed_at_day", "public")
    renamed = read(f"{ORDERS}\nsource_table: tbl_orders\nwarehouse: {{schema: shop, table: facts}}")
    assert (renamed.source_name, renamed.warehouse_name, renamed.warehouse.db_schema) == ("tbl_orders", "facts", "shop")
    assert read(f"{ORDERS}\nsource_table: tbl_orders").warehouse_name == "tbl_orders"


def test_the_partition_column_can_be_named():
    text = ORDERS.replace("start: 2024-01-01", "start: 2024-01-01, column: day")
    assert read(text).partition_column == "day"


def test_a_table_needs_no_more_than_its_name():
    spec = read("table: t")
    assert (spec.key, spec.cursor, spec.partitioning, spec.partition_column) == ((), None, None, None)
    assert (spec.landing.format, spec.rules, spec.fetch_details) == ("parquet", (), None)


def test_the_cursors_zone_is_utc_unless_given():
    assert read(ORDERS).cursor.zone == ZoneInfo("UTC")
    berlin = ORDERS.replace("{column: changed_at}", "{column: changed_at, timezone: Europe/Berlin}")
    assert read(berlin).cursor.zone == ZoneInfo("Europe/Berlin")


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        read(ORDERS).table = "other"


def test_a_column_is_personal_only_when_the_yaml_says_so():
    spec = read("table: t\ncolumns: {mail: {personal: true}, city: {description: City}}")
    assert spec.is_personal("mail")
    assert not spec.is_personal("city")
    assert not spec.is_personal("unheard_of")


@pytest.mark.parametrize("owner", ["team:sales", "anna@example.com"])
def test_owners_are_teams_or_addresses(owner):
    assert read(f"table: t\nowners: ['{owner}']").owners == (owner,)


@pytest.mark.parametrize("path", sorted((PACKAGE / "defs").glob("*/defs.yaml")), ids=lambda path: path.parent.name)
def test_the_definitions_that_come_with_it_are_valid_and_live_in_their_own_folder(path: Path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec = {
        "rds_lake.components.TablePipeline": lambda spec: TableSpec.model_validate(spec).table,
        "rds_lake.components.DropZone": lambda spec: DropZoneSpec.model_validate(spec).database,
        "rds_lake.components.FileFeed": lambda spec: FileFeedSpec.model_validate(spec).feed,
    }[given["type"]]
    assert spec(given["attributes"]) == path.parent.name


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("table: t\ncolour: red", "colour", "Extra inputs are not permitted"),
        ("table: t\nlanding: {formt: csv}", "landing.formt", "Extra inputs are not permitted"),
        ("table: t\nlanding: {format: json}", "landing.format", "'parquet' or 'csv'"),
        ("key: [id]", "table", "Field required"),
        ("table: 'a b'", "table", "String should match pattern"),
        ("table: 1st", "table", "String should match pattern"),
        ("table: t\ncursor: {column: at}", "", "cursor without partitions"),
        ("table: t\npartitions: {start: 2024-01-01}", "", "partitions without cursor"),
        ("table: t\ncursor: {timezone: UTC}", "cursor.column", "Field required"),
        ("table: t\ncursor: {column: at, timezone: Mars/Base}", "cursor.timezone", "'Mars/Base' is not a time zone"),
        ("table: t\npartitions: {by: year, start: 2024-01-01}", "partitions.by", "'hour', 'day', 'week' or 'month'"),
        ("table: t\npartitions: {by: day}", "partitions.start", "Field required"),
        ("table: t\npartitions: {start: '2024-02-30'}", "partitions.start", "date"),
        ("table: t\npartitions: {start: 0999-12-31}", "partitions", "of 0999-12-31 begins in the year 999, but MySQL"),
        ("table: t\npartitions: {by: week, start: 1000-01-01}", "partitions", "the week of 1000-01-01 begins in the"),
        ("table: t\npartitions: {start: 9999-01-01}", "partitions", "none can follow 9998: give the first day that"),
        (
            "table: t\ncursor: {column: at, lag_seconds: 300000000}",
            "cursor.lag_seconds",
            "less than or equal to 31622400",
        ),
        ("table: t\nowners: [anna]", "owners", "'anna' is neither an e-mail address nor team:<name>"),
        ("table: t\nowners: ['team:']", "owners", "'team:' is neither"),
        ("table: t\nrules: [{rule: not_nul, column: a}]", "rules.0", "'not_null'"),
        ("table: t\nrules: [{column: a}]", "rules.0", "discriminator"),
        ("table: t\nrules: [{rule: not_null}]", "rules.0.not_null.column", "Field required"),
        ("table: t\nrules: [{rule: not_null, column: a, colum: b}]", "rules.0.not_null.colum", "Extra inputs"),
        ("table: t\nrules: [{rule: in_lookup, column: a, lookup_table: l}]", "lookup_column", "Field required"),
        ("table: t\nrules: [{rule: accepted_values, column: a, values: []}]", "values", "at least 1 item"),
        ("table: t\nrules: [{rule: unique, columns: []}]", "columns", "at least 1 item"),
        ("table: t\nrules: [{rule: between, column: a}]", "rules.0.between", "between needs min, max or both"),
        ("table: t\nrules: [{rule: sql, where: a > 1}]", "rules.0.sql.name", "Field required"),
        ("table: t\nrules: [{rule: matches, column: a, pattern: '['}]", "pattern", "'[' is not a regular expression"),
        ("table: t\nrules: [{rule: matches, column: a, pattern: 'a(?=b)'}]", "pattern", "is not a regular expression"),
        ("table: t\nrules: [{rule: matches, column: a, pattern: '(a)\\1'}]", "pattern", "is not a regular expression"),
        ("table: t\nrules: [{rule: not_null, column: a, name: a b}]", "rules", "'a b' is no name for a rule"),
        ("table: t\nrules: [{rule: not_null, column: a b}]", "rules", "'not_null_a b' is no name for a rule"),
        (
            "table: t\nrules: [{rule: not_null, column: a}, {rule: not_null, column: a}]",
            "rules",
            "two rules are called not_null_a: give one of them a name",
        ),
        (
            "table: t\nrules: [{rule: not_null, column: a, name: x}, {rule: sql, where: b, name: x}]",
            "rules",
            "two rules are called x",
        ),
    ],
)
def test_each_kind_of_wrong_yaml_is_refused_with_its_place(text, place, problem):
    message = refusal(text)
    assert problem in message
    assert place in message


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("key: [ghost]", "key"),
        ("cursor: {column: ghost}\npartitions: {start: 2024-01-01}", "cursor"),
        ("columns: {ghost: {description: none}}", "columns"),
        ("rules: [{rule: not_null, column: ghost}]", "rule not_null_ghost"),
        ("rules: [{rule: unique, columns: [id, ghost], name: once}]", "rule once"),
        ("warehouse: {distribution_key: ghost}", "warehouse.distribution_key"),
        ("warehouse: {sort_keys: [id, ghost]}", "warehouse.sort_keys"),
    ],
)
def test_a_column_that_the_source_lacks_is_named_with_the_place_that_names_it(more, place):
    spec = read(f"table: t\nsource_table: tbl_t\n{more}")
    with pytest.raises(SpecError) as caught:
        spec.check_columns(["id", "at"])
    assert f"t: {place} names the column 'ghost', which the source table 'tbl_t' does not have" in caught.value.problem
    assert "it has: id, at" in caught.value.problem
    assert "defs/t/defs.yaml" in caught.value.remedy
    spec.check_columns(["at", "ghost", "id"])


def test_two_tables_are_not_loaded_into_one() -> None:
    orders = table_spec("orders")
    refuse_shared_targets([orders, table_spec("old_orders", source_table="orders", warehouse={"schema": "old"})])
    with pytest.raises(SpecError) as raised:
        refuse_shared_targets([orders, table_spec("good_orders", source_table="Orders")])
    assert str(raised.value) == (
        "The tables 'orders' and 'good_orders' are both loaded into public.orders. Give one of them another "
        "'warehouse.table' in rds_lake/defs/good_orders/defs.yaml."
    )


def test_two_tables_that_differ_in_case_only_would_share_their_glue_tables() -> None:
    with pytest.raises(SpecError) as raised:
        refuse_shared_targets([table_spec("orders"), table_spec("Orders", warehouse={"table": "others"})])
    assert str(raised.value) == (
        "The tables 'orders' and 'Orders' differ in case only: they would share their Glue tables. Give one of them "
        "another 'table' in rds_lake/defs/Orders/defs.yaml; 'source_table' may stay."
    )
