"""A table is one YAML file: from its columns to the warehouse without any Python, whatever its partitions and rules."""

import itertools
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pipeline import STAGES, Row, World, plain_rows, project

from rds_lake.components import TablePipeline
from rds_lake.definitions import build_definitions
from rds_lake.errors import SpecError
from rds_lake.loading import MISTAKES, explain
from rds_lake.resources.services import build_resources
from rds_lake.spec import Column, TableSpec

stack_test = pytest.mark.stack

TABLE = """
type: rds_lake.components.TablePipeline
attributes:
  table: {table}
  source_table: {source}
  key: [id]
  cursor: {{column: happened_at}}
  partitions: {{by: {unit}, start: 2023-12-28}}
  warehouse: {{table: {table}}}
"""

PAYMENTS = """
type: rds_lake.components.TablePipeline
attributes:
  table: payments
  source_table: {source}
  description: One row is one payment.
  owners: ["team:finance", "someone@example.com"]
  key: [payment_id]
  cursor:
    column: paid_at
  partitions: {{by: month, start: 2024-01-01}}
  columns:
    amount: {{description: In the currency, type: "decimal(10,2)"}}
    note: {{personal: true}}
  rules:
    - {{rule: in_lookup, column: currency, lookup_table: {lookup}, lookup_column: code}}
    - {{rule: accepted_values, column: method, values: [card, cash, transfer]}}
    - {{rule: not_null, column: note}}
    - {{rule: unique, columns: [reference]}}
    - {{rule: matches, column: reference, pattern: "P-[0-9]{{6}}"}}
    - {{rule: between, column: amount, min: 0.01, max: 1000}}
    - {{rule: sql, name: cash_is_small, where: "method <> 'cash' OR amount < 500"}}
  warehouse: {{schema: finance, distribution_key: payment_id, sort_keys: [paid_at]}}
"""

UNITS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": None, "month": "%Y-%m"}


def happenings() -> list[Row]:
    """Rows around the start of an hour, a day, a week, a month and a year; with ties."""
    edges = ["2023-12-31T23:59:59.999999", "2024-01-01", "2024-01-01T01:00:00.000001"]
    moments = [datetime.fromisoformat(text) for text in edges for _ in range(3)]
    return [(number, moment, f"text {number}") for number, moment in enumerate(moments)]


def key_of(moment: datetime, unit: str) -> str:
    if unit == "week":
        return f"{moment - timedelta(days=moment.weekday()):%Y-%m-%d}"
    return moment.strftime(UNITS[unit] or "")


@stack_test
def test_tables_in_hours_days_weeks_and_months_need_only_their_yaml(world: World, tmp_path: Path) -> None:
    rows = happenings()
    columns = "id BIGINT PRIMARY KEY, happened_at DATETIME(6), words VARCHAR(20), INDEX by_cursor (happened_at)"
    yaml = {
        unit: TABLE.format(table=f"{unit}ly", unit=unit, source=world.table(f"{unit}ly", columns, rows))
        for unit in UNITS
    }
    with project(tmp_path, yaml) as folder:
        specs = world.adopt(build_definitions(folder))
    for unit in UNITS:
        spec = specs[f"{unit}ly"]
        done = world.sync(spec)
        assert done.ok, done
        expected = Counter(key_of(row[1], unit) for row in rows)
        staged = {key: m["rows"] for key, m in world.manifests(spec.table, "staging").items()}
        assert {key: rows for key, rows in staged.items() if rows} == expected
        assert world.warehouse_rows(spec) == Counter(rows)
        assert world.sync(spec).partitions == 0


@stack_test
def test_every_kind_of_rule_is_applied_from_the_yaml_alone(world: World, tmp_path: Path) -> None:
    source = world.table(
        "payments",
        "payment_id BIGINT UNSIGNED PRIMARY KEY, paid_at DATETIME, amount DECIMAL(10,2), currency CHAR(3), "
        "reference VARCHAR(40), method VARCHAR(20), note TEXT, INDEX by_cursor (paid_at)",
        payments(),
    )
    lookup = world.table("currencies", "code CHAR(3) PRIMARY KEY", [("EUR",), ("USD",), ("JPY",)])
    with project(tmp_path, {"payments": PAYMENTS.format(source=source, lookup=lookup)}) as folder:
        spec = world.adopt(build_definitions(folder))["payments"]

    done = world.sync(spec)

    assert done.ok, done
    rows = plain_rows(world.ask(f"SELECT * FROM {source}"))
    broken = broken_rules(rows)
    assert {label for labels in broken.values() for label in labels} == {
        "in_lookup_currency",
        "accepted_values_method",
        "not_null_note",
        "unique_reference",
        "matches_reference",
        "between_amount",
        "cash_is_small",
    }, "the data break every rule"
    good = Counter(row for row in rows if row[0] not in broken)
    assert world.lake_rows("payments", "staging") == world.warehouse_rows(spec) == good
    discarded = world.lake_rows("payments", "discarded")
    assert {row[0]: row[7] for row in discarded} == broken
    assert Counter(row[:7] for row in discarded) == Counter(row for row in rows if row[0] in broken)
    assert world.query(f"SELECT COUNT(*) FROM finance.{source}") == [(good.total(),)]


def payments() -> list[Row]:
    """Payments of three months that break each rule, several rules, or none."""
    notes: list[Any] = ["thanks", "", None, "é|\n"]
    found: list[Row] = []
    for number in range(1, 301):
        currency = "XXX" if number % 17 == 0 else None if number % 29 == 0 else ("EUR", "USD", "JPY")[number % 3]
        method = "Card" if number % 19 == 0 else None if number % 31 == 0 else ("card", "cash", "transfer")[number % 3]
        reference = f"P-{number:06d}"
        if number % 23 == 0:
            reference = f"P-{number - 3:06d}"  # which another payment of the month has
        elif number % 37 == 0:
            reference = f"x{reference}"
        amount = Decimal(number * 7 % 1200) + Decimal("0.01") * (number % 2) - (1 if number % 41 == 0 else 0)
        moment = datetime(2024, 1 + number % 3, 1 + number % 28, number % 24)  # noqa: DTZ001 - MySQL's own
        found.append(
            (number, moment, amount, currency, reference, method, notes[number % 13 if number % 13 < 4 else 0])
        )
    return found


def broken_rules(rows: list[Row]) -> dict[int, tuple[str, ...]]:
    """The rules that each row breaks, by its key, in the YAML's order; computed here, without rds_lake."""
    newest: dict[tuple[str, Any], int] = {}
    shared = defaultdict(list)
    for row in rows:
        shared[f"{row[1]:%Y-%m}", row[4]].append(row)
    for place, group in shared.items():
        newest[place] = max(group, key=lambda row: (row[1], -row[0]))[0]
    found = {}
    for row in rows:
        number, moment, amount, currency, reference, method, note = row
        breaks = {
            "in_lookup_currency": currency not in {"EUR", "USD", "JPY"},
            "accepted_values_method": method not in {"card", "cash", "transfer"},
            "not_null_note": note is None,
            "unique_reference": newest[f"{moment:%Y-%m}", reference] != number,
            "matches_reference": len(reference) != 8 or not reference.startswith("P-"),
            "between_amount": not Decimal("0.01") <= amount <= 1000,
            "cash_is_small": not (amount < 500 or method not in {"cash", None}),
        }
        labels = tuple(label for label, bad in breaks.items() if bad)
        if labels:
            found[number] = labels
    return found


def test_a_tables_assets_checks_schedule_and_sensor_have_the_names_that_users_lean_on(tmp_path: Path) -> None:
    with project(tmp_path, {"payments": PAYMENTS.format(source="payments", lookup="currencies")}) as folder:
        definitions = build_definitions(folder)
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        f"payments_{stage}" for stage in ("raw", *STAGES)
    }
    assert {f"{key.asset_key.to_user_string()}.{key.name}" for key in graph.asset_check_keys} == {
        "payments_raw.in_a_partition",
        "payments_landing.schema_as_declared",
        "payments_landing.fits_warehouse",
        "payments_staging.accounted_for",
        "payments_staging.unique_key",
        "payments_warehouse.in_step",
        "payments_warehouse.verified",
        *(
            f"payments_{stage}.{label}"
            for stage, label in itertools.product(
                ("landing", "staging"),
                (
                    "in_lookup_currency",
                    "accepted_values_method",
                    "not_null_note",
                    "matches_reference",
                    "between_amount",
                    "cash_is_small",
                ),
            )
        ),
    }
    assert [schedule.name for schedule in repository.schedule_defs] == ["payments_observation_schedule"]
    assert {sensor.name for sensor in repository.sensor_defs} == {"payments_landed_elsewhere", "rds_lake_automation"}
    for stage in STAGES:
        node = graph.get(dg.AssetKey(f"payments_{stage}"))
        assert node.group_name == "payments"
        assert node.owners == ["team:finance", "someone@example.com"]
        assert "One row is one payment." in (node.description or "")


WRONG = {
    "an unknown key": ("table: t\n  colour: red", "4: colour: Extra inputs are not permitted."),
    "a wrong type": ("table: t\n  owners: someone", "4: owners: Input should be a valid array."),
    "a rule without its column": (
        "table: t\n  rules:\n    - {rule: not_null}",
        "5: rules.0.not_null.column: Field required.",
    ),
    "a cursor without partitions": (
        "table: t\n  cursor: {column: x}",
        "2: attributes: cursor without partitions: a partition is a window of the cursor, so give both or none.",
    ),
    "an unknown unit": (
        "table: t\n  cursor: {column: x}\n  partitions: {by: year, start: 2024-01-01}",
        "5: partitions.by: Input should be 'hour', 'day', 'week' or 'month'.",
    ),
    "no table": ("description: nothing", "2: table: Field required."),
    "text that is no YAML": ("table: [t\n  owners: x", "4: expected ',' or ']', but got ':'."),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_in_the_yaml_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    yaml = f"type: rds_lake.components.TablePipeline\nattributes:\n  {text}\n"
    with project(tmp_path, {"wrong": yaml}) as folder, pytest.raises(MISTAKES) as raised:
        build_definitions(folder)
    [file] = tmp_path.rglob("defs.yaml")
    assert explain(raised.value) == f"{file}:{message}"


def test_a_component_that_is_not_there_is_named(tmp_path: Path) -> None:
    with project(tmp_path, {"wrong": "type: rds_lake.components.Nope"}) as folder, pytest.raises(MISTAKES) as raised:
        build_definitions(folder)
    assert explain(raised.value) == (
        "A table's defs.yaml cannot be loaded: Module `rds_lake.components` has no attribute `Nope`."
    )


def test_yaml_without_a_folder_makes_the_same_assets_and_a_key_with_nothing_below_it_is_empty() -> None:
    nothing = dict.fromkeys(("owners", "key", "columns", "rules", "landing", "warehouse"))
    component = TablePipeline.from_attributes_dict(attributes={"table": "plain", **nothing})
    assert component.spec == TableSpec(table="plain")
    assert TableSpec.model_validate({"table": "t", "columns": {"id": None}}).columns == {"id": Column()}
    definitions = dg.Definitions.merge(
        dg.build_defs_for_component(component), dg.Definitions(resources=build_resources())
    )
    assert {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()} == {
        f"plain_{stage}" for stage in ("raw", *STAGES)
    }


def test_a_column_that_only_the_yaml_knows_is_named_with_the_place_that_names_it() -> None:
    spec = TableSpec.model_validate({"table": "t", "rules": [{"rule": "not_null", "column": "gone"}]})
    with pytest.raises(SpecError) as raised:
        spec.check_columns(["id"])
    assert str(raised.value) == (
        "t: rule not_null_gone names the column 'gone', which the source table 't' does not have (it has: id). "
        "Correct it in defs/t/defs.yaml, or add the column to the source."
    )


@pytest.mark.parametrize("personal", [False, True])
def test_a_column_that_is_only_described_is_not_dropped_silently_and_the_message_says_why(*, personal: bool) -> None:
    spec = TableSpec.model_validate({"table": "t", "columns": {"mail": {"description": "x", "personal": personal}}})
    with pytest.raises(SpecError) as raised:
        spec.check_columns(["e_mail"])
    warned = ": it is personal, and its values would be shown under another name" if personal else ""
    assert str(raised.value) == (
        "t: columns names the column 'mail', which the source table 't' does not have (it has: e_mail). A column that "
        "the YAML names is never dropped silently, whatever schema_changes says. If the source renamed it, rename "
        f"columns.mail in defs/t/defs.yaml as well{warned}; if it dropped it, take the entry out."
    )
