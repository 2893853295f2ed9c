"""Interfaces that users' scripts lean on: what they are today they are tomorrow, or a test here says so."""

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import typer.main
from pipeline import LAKE, World, mysql, redshift

from rds_lake import settings
from rds_lake.cli import app
from rds_lake.definitions import defs
from rds_lake.local import stack as local_stack
from rds_lake.local.stack import Stack
from rds_lake.spec import TableSpec
from rds_lake.sync import table_specs

stack_test = pytest.mark.stack

VARIABLES = [
    "RDS_LAKE_HOME",
    "RDS_LAKE_SOURCE_URL",
    "RDS_LAKE_BUCKET",
    "RDS_LAKE_DROP_BUCKET",
    "RDS_LAKE_WAREHOUSE_URL",
    "RDS_LAKE_REDSHIFT_IAM_ROLE",
    "RDS_LAKE_POSTGRES_URL",
    "RDS_LAKE_DAGSTER_URL",
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "DAGSTER_HOME",
]
MANIFEST = {
    "entries": list,
    "version": int,
    "table": str,
    "stage": str,
    "partition": str,
    "batch": str,
    "rows": int,
    "fingerprint": str,
    "fence": str,
    "format": str,
    "parent": str,
    "rules": str,
    "details": dict,
    "source_unique": bool,
    "shape": str,
    "snapshot": str,
    "schema": list,
}
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "up": ("Start the local stack", ["--no-ui", "--ui"]),
    "down": ("Stop the local stack", []),
    "status": ("Show the local stack's services. Exit code 0 when all are up, 1 otherwise.", []),
    "env": ("Print `export` lines", []),
    "sync": ("Bring tables in step", ["--again", "--recent", "--since", "--until", "--verbose"]),
    "verify": ("Compare source, lake and warehouse", ["--rows", "--since", "--strict", "--until"]),
    "gc": ("Remove what no manifest names any more", ["--dry-run", "--grace-hours"]),
    "drop": ("Put a file where it belongs", ["--action", "--db", "--table"]),
    "receive": ("Notice what has been dropped", []),
    "api": ("Serve the audit log as a REST API", ["--host", "--port"]),
    "demo": (
        "Start the local stack, fill the source",
        ["--no-ui", "--orders", "--replace", "--ui", "--use-my-database"],
    ),
    "tables list": ("List the tables: those that are declared", []),
    "tables add": ("Write a table's defs.yaml", ["--by", "--force", "--print", "--source-table"]),
    "files setup": ("Make what dropped files need in AWS", []),
}


@pytest.fixture(scope="module")
def orders(world: World) -> TableSpec:
    spec = world.orders()
    assert world.sync(spec).ok
    return spec


@stack_test
def test_env_prints_these_variables_and_each_client_connects_with_them_alone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = local_stack.environment(stack.home)
    assert list(environ) == VARIABLES
    assert re.fullmatch(r"mysql://[^:@/]+:[^:@/]+@[^:@/]+:\d+/\w+", environ["RDS_LAKE_SOURCE_URL"])
    assert re.fullmatch(r"redshift://[^:@/]+:[^:@/]+@[^:@/]+:\d+/\w+", environ["RDS_LAKE_WAREHOUSE_URL"])
    with mysql(environ["RDS_LAKE_SOURCE_URL"]) as cursor:
        cursor.execute("SELECT 1")
    with redshift(environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
        cursor.execute("SELECT 1")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    buckets = boto3.Session().client("s3").list_buckets()["Buckets"]
    assert {environ["RDS_LAKE_BUCKET"], environ["RDS_LAKE_DROP_BUCKET"]} <= {bucket["Name"] for bucket in buckets}
    tables = boto3.Session().client("dynamodb").list_tables()["TableNames"]
    assert settings.DEFAULTS["RDS_LAKE_AUDIT_TABLE"] in tables


@stack_test
def test_a_manifest_has_redshifts_form_and_these_keys(world: World, orders: TableSpec) -> None:
    for stage in LAKE:
        manifest: dict[str, Any] = json.loads(world.get(f"orders/_manifests/{stage}/2024-01-02.json"))
        assert list(manifest) == list(MANIFEST)
        missing = {"landing": {"parent", "rules"}, "archived": {"rules"}}.get(stage, set())
        assert {key for key, value in manifest.items() if value is None} == missing
        assert all(isinstance(manifest[key], kind) for key, kind in MANIFEST.items() if key not in missing)
        assert (manifest["version"], manifest["table"], manifest["stage"]) == (1, "orders", stage)
        assert manifest["partition"] == "2024-01-02"
        assert [list(entry) for entry in manifest["entries"]] == [["url", "mandatory", "meta"]]
        [entry] = manifest["entries"]
        assert entry["mandatory"] is True
        assert list(entry["meta"]) == ["content_length", "record_count", "sha256"]
        assert manifest["rows"] == entry["meta"]["record_count"]
        assert re.fullmatch(r"\d+-[0-9a-f]+", manifest["fingerprint"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", manifest["fence"])
        assert manifest["schema"][0] == {"name": "order_id", "type": manifest["schema"][0]["type"], "nullable": False}
    [discarded] = [world.manifests("orders", "discarded")["2024-01-02"]]
    assert discarded["details"] == {"valid_status": discarded["rows"]}


@stack_test
def test_every_object_lies_where_the_layout_says(world: World, orders: TableSpec) -> None:
    batch = r"batch=[0-9a-zA-Z-]+/part-\d{5}\.parquet"
    files = rf"orders/(staging|discarded|archived)/order_last_updated_day=2024-01-\d\d/{batch}"
    manifests = r"orders/_manifests/(landing|staging|discarded|archived)/2024-01-\d\d\.json"
    loads = r"orders/_manifests/warehouse/[0-9a-f]{16}\.json"
    agreed = r"orders/_manifests/schema\.json"
    odd = [key for key in world.objects() if not re.fullmatch(f"{files}|{manifests}|{loads}|{agreed}", key)]
    assert odd == []


@stack_test
def test_the_catalog_has_a_table_for_each_stage_with_the_partition_column(world: World, orders: TableSpec) -> None:
    glue = world.client("glue")
    tables = {item["Name"]: item for item in glue.get_tables(DatabaseName=world.token)["TableList"]}
    assert set(tables) == {f"orders_{stage}" for stage in LAKE}
    for stage in LAKE:
        assert [key["Name"] for key in tables[f"orders_{stage}"]["PartitionKeys"]] == ["order_last_updated_day"]
    discarded = [column["Name"] for column in tables["orders_discarded"]["StorageDescriptor"]["Columns"]]
    assert discarded[-4:] == ["_failed_rules", "_source_batch", "_source_file", "_source_row"]
    [(rows,)] = world.athena("SELECT COUNT(*) FROM orders_staging WHERE order_last_updated_day = '2024-01-02'")
    assert int(rows or 0) == world.manifests("orders", "staging")["2024-01-02"]["rows"]


@stack_test
def test_the_ledger_has_a_row_for_each_partition_that_is_loaded(world: World, orders: TableSpec) -> None:
    columns = world.query(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'rds_lake' "
        "AND table_name = 'load_ledger' ORDER BY ordinal_position"
    )
    assert [name for (name,) in columns] == [
        "table_name",
        "partition_key",
        "batch_id",
        "fingerprint",
        "rules",
        "manifest",
        "rows_staged",
        "rows_loaded",
        "loaded_at",
        "shape",
        "target",
        "lake",
    ]
    staged = {day: (m["batch"], m["fingerprint"], m["rows"]) for day, m in world.manifests("orders", "staging").items()}
    assert {row[0]: (row[1], row[2], row[5]) for row in world.ledger(orders)} == staged


def test_a_warehouse_table_is_named_like_the_sources_unless_the_yaml_says_otherwise() -> None:
    assert TableSpec(table="a").warehouse_name == "a"
    assert TableSpec(table="a", source_table="b").warehouse_name == "b"
    named = TableSpec.model_validate({"table": "a", "source_table": "b", "warehouse": {"table": "c", "schema": "s"}})
    assert (named.warehouse_name, named.warehouse.db_schema) == ("c", "s")
    assert TableSpec(table="a").warehouse.db_schema == "public"


def test_assets_are_named_after_table_and_stage() -> None:
    stages = ("raw", "landing", "staging", "discarded", "archived", "warehouse")
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {
        *(f"{table}_{stage}" for table in ("orders", "customers") for stage in stages),
        *(f"supply/{table}" for table in ("drop_zone", "suppliers", "deliveries")),
        *(f"transactions_{stage}" for stage in ("source", "cleaned", "rds")),
    }
    assert set(table_specs(defs)) == {"customers", "orders"}


def test_the_jobs_schedules_and_sensors_have_these_names() -> None:
    repository = defs.get_repository_def()
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "customers_observation_schedule",
        "orders_observation_schedule",
        "transactions_files_schedule",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "customers_landed_elsewhere",
        "orders_landed_elsewhere",
        "rds_lake_automation",
        *(f"{name}_file_{kind}" for name in ("supply", "transactions") for kind in ("events", "listing")),
    }
    assert {job.name for job in repository.get_all_jobs()} >= {
        f"{table}_{job}" for table in ("customers", "orders") for job in ("observation", "verification")
    } | {"supply_files", "transactions_files"}


def all_commands(group: Any) -> Iterator[tuple[str, Any]]:
    """The commands, those of groups with the group's name before theirs."""
    for name, command in group.commands.items():
        inner = all_commands(command) if hasattr(command, "commands") else None
        yield from [(name, command)] if inner is None else [(f"{name} {word}", found) for word, found in inner]


def test_the_commands_their_options_and_their_help() -> None:
    group: Any = typer.main.get_command(app)
    found_commands = dict(all_commands(group))
    assert list(found_commands) == list(COMMANDS)
    for name, (text, options) in COMMANDS.items():
        command = found_commands[name]
        assert (command.help or "").startswith(text)
        found = [
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        ]
        assert sorted(found) == options
        assert all(getattr(parameter, "help", None) for parameter in command.params)
    assert [parameter.name for parameter in group.commands["sync"].params if not parameter.opts[0].startswith("-")] == [
        "tables"
    ]
    assert "Exit code 0 when everything is in step, 1 when" in group.commands["sync"].help
