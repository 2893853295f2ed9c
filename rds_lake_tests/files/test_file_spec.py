"""The YAML of drop zones and feeds: what may be said, and what is refused before any file is touched."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rooms import bounded

from rds_lake.file_sensors import queue_name
from rds_lake.files.options import CsvOptions
from rds_lake.files.setup import Wanted
from rds_lake.files.spec import NAME_MAX, OUR_FOLDERS, Cleaning, DropZoneSpec, FileFeedSpec
from rds_lake.files.types import DeclaredType, fits

FEED = """
feed: bank
columns:
  - { name: ID, type: int, nullable: false }
  - { name: name, type: varchar(5) }
  - { name: paid, type: "decimal(9,2)", thousands: "," }
  - { name: born, type: date, formats: ["%d/%m/%Y"] }
  - { name: at, type: timestamptz }
key: [id]
target: { table: bank_rows }
"""


def zone(text: str = "", **more: Any) -> DropZoneSpec:
    return DropZoneSpec.model_validate({"database": "sales", **(yaml.safe_load(text) or {}), **more})


def feed(text: str = "", **more: Any) -> FileFeedSpec:
    return FileFeedSpec.model_validate({**yaml.safe_load(FEED), **(yaml.safe_load(text) or {}), **more})


def refusal(make: Any, *given: str, **more: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        make(*given, **more)
    return str(caught.value)


# --- drop zones ------------------------------------------------------------------------------------------------------


def test_a_drop_zone_needs_a_database_and_nothing_else():
    spec = zone()
    assert (spec.name, spec.schema_name, spec.new_tables, spec.discard_limit) == ("sales", "sales", True, 0.1)
    assert spec.csv_of("any") == CsvOptions()
    assert spec.limit_of("any") == 0.1
    assert zone(database="Sales").schema_name == "sales"
    assert zone(database="Sales").name == "Sales"


def test_a_table_of_a_drop_zone_may_have_its_own_ways():
    spec = zone(
        """
        schema: Mart
        csv: { delimiter: ";" }
        discard_limit: 0
        tables:
          Customers: { csv: { delimiter: tab }, discard_limit: 1 }
          orders:
        """
    )
    assert spec.schema_name == "mart"
    assert (spec.csv_of("customers").delimiter, spec.limit_of("customers")) == ("\t", 1)
    assert (spec.csv_of("orders").delimiter, spec.limit_of("orders")) == (";", 0)
    assert sorted(spec.tables) == ["customers", "orders"]


@pytest.mark.parametrize("name", [*sorted(OUR_FOLDERS), "Processed", "SCHEMAS"])
def test_a_folder_of_ours_is_no_name(name):
    assert "rds_lake writes itself" in refusal(zone, database=name)
    assert "rds_lake writes itself" in refusal(feed, feed=name)


@pytest.mark.parametrize("name", ["", " ", "1a", "_a", "a-b", "a b", "a/b", "a.b", "é", "a\n", "../a", None, 5])
def test_a_name_has_letters_digits_and_underscores(name):
    refusal(zone, database=name)
    refusal(feed, feed=name)
    refusal(feed, target={"table": name})
    if isinstance(name, str):
        assert "is no name for a table" in refusal(zone, tables={name: None})


def test_a_name_is_short_enough_for_what_is_called_after_it():
    """A rule of EventBridge has 64 characters, a queue of SQS 80."""
    for make, key in ((zone, "database"), (feed, "feed")):
        spec = make(**{key: "x" * 55})
        rule, queue = Wanted(spec.name, "b", (), queue_name(spec)).rule, queue_name(spec)
        assert len(rule) == 64
        assert len(f"{queue}_dead") <= 80
        assert "a name takes 55" in refusal(make, **{key: "x" * 56})
        assert len(f"{queue_name(make(queue='q' * 75))}_dead") == 80


@pytest.mark.parametrize("name", ["", " ", "q" * 76, "a b", "a.fifo", "ä", "a/b", "q\n", "https://sqs/1/q"])
def test_a_queue_has_a_name_that_sqs_takes(name):
    for make in (zone, feed):
        assert make(queue="My-queue_1").queue == "My-queue_1"
        assert "is no name for a queue: it takes 1 to 75 letters" in refusal(make, queue=name)


@pytest.mark.parametrize("name", ["", "1a", "_a", "a-b", "a b", "a.b", "é", "a\n", "s" * 64, 'a"b'])
def test_a_schema_has_a_name_of_letters_digits_and_underscores(name):
    assert zone(schema="S" * 63).schema_name == "s" * 63
    assert feed(target={"table": "t", "schema": "S_" + "1" * 61}).target.db_schema == "S_" + "1" * 61
    assert "is no name for a schema" in refusal(zone, schema=name)
    assert "is no name for a schema" in refusal(feed, target={"table": "t", "schema": name})


def test_a_table_that_redshift_would_cut_is_refused():
    assert list(zone(tables={"t" * 127: None}).tables) == ["t" * 127]
    assert "Redshift takes 127 characters" in refusal(zone, tables={"t" * 128: None})


def test_two_tables_that_differ_in_case_are_refused():
    assert "two tables are called 'orders'" in refusal(zone, tables={"Orders": None, "orders": {"description": "x"}})


@pytest.mark.parametrize(
    "text",
    [
        "databse: sales",
        "table: {}",
        "tables: [customers]",
        "tables: customers",
        "tables: { customers: { delimiter: ';' } }",
        "tables: { customers: { discard_limit: 2 } }",
        "tables: { customers: { csv: { delimiter: '||' } } }",
        "tables: { customers: { csv: { encoding: utf-9 } } }",
        "discard_limit: -0.1",
        "discard_limit: 1.1",
        "discard_limit: 10%",
        "discard_limit: .nan",
        "csv: ';'",
        "csv: { delimiter: ',,' }",
        'csv: { delimiter: "\'", quote: "\'" }',
        "csv: { encoding: ebcdic }",
        "csv: { quote: '' }",
        "csv: { header: yes }",
        "csv: { nulls: NULL }",
        "csv: { skip: 1 }",
        "new_tables: sometimes",
        "owners: team",
        "clean: []",
        "schema: [a]",
    ],
)
def test_what_a_drop_zone_cannot_mean_is_refused(text):
    refusal(zone, text)


# --- feeds -----------------------------------------------------------------------------------------------------------


def test_a_feed_declares_its_columns():
    spec = feed()
    assert (spec.name, spec.root) == ("bank", "bank/")
    assert spec.schema_of_files.names == ["id", "name", "paid", "born", "at"]
    assert spec.schema_of_files.keys == ("id",)
    assert spec.csv.empty_is_null
    assert (spec.target.table, spec.target.db_schema) == ("bank_rows", "public")
    assert feed("target: { table: t, schema: mart }").target.db_schema == "mart"
    assert feed(key=["ID"]).schema_of_files.keys == ("id",)


@pytest.mark.parametrize(
    ("prefix", "root"), [("in/bank", "in/bank/"), ("/in/bank/", "in/bank/"), ("a b", "a b/"), ("2026", "2026/")]
)
def test_a_feed_may_have_a_folder_elsewhere(prefix, root):
    assert feed(prefix=prefix).root == root


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "/",
        "//",
        ".",
        "..",
        "a/../b",
        "a//b",
        "a/./b",
        "a\nb",
        "a\0",
        "source",
        "a/source/b",
        "Processed/a",
        "a/failed",
        "x" * 201,
        "é" * 101,
    ],
)
def test_a_feed_cannot_be_where_others_write(prefix):
    refusal(feed, prefix=prefix)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("columns: []", "columns"),
        ("columns: [id]", "columns"),
        ("columns: [{ name: id, type: money }]", "is no type"),
        ("columns: [{ name: id, type: varchar }]", "needs its length"),
        ("columns: [{ name: id, type: int }, { name: ID, type: int }]", "two columns are called 'id'"),
        ("columns: [{ name: id, type: int }, { name: _raw, type: int }]", "the system keeps for itself"),
        ("columns: [{ name: id, type: int }, { name: _file_id, type: int }]", "the system keeps for itself"),
        ("columns: [{ name: id, type: int, format: '%d' }]", "format"),
        ("columns: [{ name: id, type: date, formats: ['%d/%m'] }]", "leaves open"),
        ("key: []", "key"),
        ("key: [nope]", "keys names 'nope'"),
        ("key: [id, ID]", "twice"),
        ("key: id", "key"),
        ("target: bank_rows", "target"),
        ("target: { schema: public }", "table"),
        ("target: { table: t, database: d }", "database"),
        ("target: { table: t, schema: '' }", "schema"),
        ("tables: {}", "tables"),
        ("new_tables: true", "new_tables"),
        ("clean: [{ column: nope, value: x }]", "clean[0] names the column 'nope'"),
        ("clean: [{ column: name, value: x }, { column: Name, when: invalid, value: y }]", "two entries of clean"),
        ("clean: [{ column: name, when: empty, value: x }]", "when"),
        ("clean: [{ column: name }]", "value"),
        ("clean: [{ value: x }]", "column"),
        ("clean: { name: x }", "clean"),
        ("clean: [{ column: name, value: x, with: y }]", "with"),
    ],
)
def test_what_a_feed_cannot_mean_is_refused(text, told):
    assert told in refusal(feed, text)


def test_a_name_that_postgresql_would_cut_is_refused():
    columns = yaml.safe_load(FEED)["columns"]
    for name in ("x" * NAME_MAX, "é" * 31):
        assert feed(columns=[*columns, {"name": name, "type": "int"}]).schema_of_files.names[-1] == name
    for name in ("x" * (NAME_MAX + 1), "é" * 32):
        assert "which PostgreSQL cuts off" in refusal(feed, columns=[*columns, {"name": name, "type": "int"}])
    refusal(feed, target={"table": "t" * (NAME_MAX + 1)})
    refusal(feed, target={"table": "t", "schema": "s" * (NAME_MAX + 1)})


# --- replacements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["missing", "invalid", "missing_or_invalid"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("id", value) for value in ("N/A", "", " ", "1.5", "1,000", "99999999999", "processing_date", "null")),
        *(("name", value) for value in ("unknown", "éééé", "processing_date", "a\0")),
        *(("paid", value) for value in ("N/A", "1.005", "1,000.00", "12345678.00", "1e3")),
        *(("born", value) for value in ("31/12/2024", "2024-02-30", "today", "2024-01-01T00:00:00", "0000-00-00")),
        *(("at", value) for value in ("now", "2024-01-01 25:00", "2024-01-01T10:00:00+99:00")),
    ],
)
def test_a_replacement_that_is_no_value_of_its_column_is_refused(column, value, when):
    said = refusal(feed, clean=[{"column": column.upper(), "when": when, "value": value}])
    assert f"clean[0] puts '{value}' into {column}, which is no " in said


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("id", value) for value in ("0", "-1", " 7 ", "+7")),
        *(("name", value) for value in ("N/A", "", "éé", "  ", "it's", "%s")),
        *(("paid", value) for value in ("0", "1234567.89", ".5", "-1.10")),
        *(("born", value) for value in ("2024-02-29", "0001-01-01", "processing_date")),
        *(("at", value) for value in ("processing_date", "2024-01-01", "2024-01-01T10:00+02:00")),
    ],
)
def test_a_replacement_that_is_a_value_of_its_column_is_taken(column, value):
    assert feed(clean=[{"column": column, "value": value}]).clean == (Cleaning(column=column, value=value),)


def test_a_feed_may_clean_every_column_in_its_own_way():
    spec = feed(
        """
        clean:
          - { column: ID, value: "0" }
          - { column: " Name ", when: missing_or_invalid, value: N/A }
          - { column: born, when: invalid, value: processing_date }
        """
    )
    assert [(rule.column, rule.missing, rule.invalid) for rule in spec.clean] == [
        *(("id", True, False), ("name", True, True), ("born", False, True))
    ]


moments = st.datetimes(timezones=st.just(UTC), min_value=datetime.fromisoformat("1000-01-01"))


@given(st.sampled_from(["date", "timestamp", "timestamptz", "varchar(19)", "text"]), moments)
@bounded(40)
def test_the_day_of_processing_is_a_value_on_every_day(kind, moment):
    declared = DeclaredType.of(kind)
    text = Cleaning(column="a", value="processing_date").replacement(declared, moment)
    assert text.startswith(f"{moment:%Y-%m-%d}")
    assert fits(declared, text)
