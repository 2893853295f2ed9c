"""Troubles: what a sync says when something is wrong. The exact lines, which name the thing and what to do."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from pipeline import STAGES, World, failures

from rds_lake.assets import common
from rds_lake.errors import ConfigError
from rds_lake.local.ports import HOST
from rds_lake.spec import TableSpec
from rds_lake.sync import Sync

pytestmark = pytest.mark.stack

NOWHERE = 1  # a port of this machine on which nothing listens


@pytest.fixture(scope="module")
def orders(world: World) -> TableSpec:
    return world.orders()


def error_of(world: World, spec: TableSpec) -> str:
    """What a sync that cannot be done says; never a secret."""
    try:
        done = world.sync(spec)
    except ConfigError as error:
        said = str(error)  # the command says it once, not for each table
    else:
        assert not done.ok
        said = done.error or ""
    secrets = [urlsplit(world.environ[name]).password for name in ("RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL")]
    for secret in (*secrets, world.environ["AWS_SECRET_ACCESS_KEY"], "s3cret"):
        assert secret
        assert secret not in said
    return said


def changed(spec: TableSpec, **more: Any) -> TableSpec:
    return TableSpec.model_validate({**spec.model_dump(by_alias=True), **more})


def address(world: World, variable: str) -> str:
    """Host, port and database of an address."""
    parts = urlsplit(world.environ[variable])
    return f"{parts.hostname}:{parts.port}{parts.path}"


def broken_url(world: World, variable: str, **parts: Any) -> str:
    """An address with another password, port or database."""
    url = urlsplit(world.environ[variable])
    given = {"password": url.password, "port": url.port, "path": url.path, **parts}
    return f"{url.scheme}://{url.username}:{given['password']}@{url.hostname}:{given['port']}{given['path']}"


def test_a_wrong_password_of_the_source(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", broken_url(world, "RDS_LAKE_SOURCE_URL", password="s3cret"))
    assert error_of(world, orders) == (
        f"MySQL at {address(world, 'RDS_LAKE_SOURCE_URL')} says: Access denied for user 'rds_lake'@'{HOST}' "
        "(using password: YES) (1045). Check the user and the password in RDS_LAKE_SOURCE_URL."
    )


def test_a_source_that_does_not_answer(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", broken_url(world, "RDS_LAKE_SOURCE_URL", port=NOWHERE))
    assert error_of(world, orders) == (
        f"MySQL at {HOST}:{NOWHERE}/retail says: Can't connect to MySQL server on '{HOST}' ([Errno 111] Connection "
        "refused) (2003). Is the server up and reachable? 'rds-lake status' shows the local one."
    )


def test_an_unknown_source_table(world: World, orders: TableSpec) -> None:
    assert error_of(world, changed(orders, source_table="orderz")) == (
        f"MySQL at {address(world, 'RDS_LAKE_SOURCE_URL')} has no table 'orderz' that the user 'rds_lake' can see. "
        "Correct 'table' (or 'source_table') in the table's defs.yaml, or grant SELECT on it."
    )


HAS = "(it has: order_id, order_last_updated, customer_id, order_status)"


@pytest.mark.parametrize(
    ("more", "place", "column"),
    [
        ({"rules": [{"rule": "not_null", "column": "colour"}]}, "rule not_null_colour", "colour"),
        ({"key": ["id"]}, "key", "id"),
        ({"cursor": {"column": "updated"}}, "cursor", "updated"),
        ({"warehouse": {"sort_keys": ["updated"]}}, "warehouse.sort_keys", "updated"),
    ],
)
def test_a_column_that_the_source_does_not_have(
    world: World, orders: TableSpec, more: dict[str, Any], place: str, column: str
) -> None:
    assert error_of(world, changed(orders, **more)) == (
        f"orders: {place} names the column '{column}', which the source table '{orders.source_name}' does not have "
        f"{HAS}. Correct it in defs/orders/defs.yaml, or add the column to the source."
    )


def lookup_rule(table: str) -> dict[str, Any]:
    return {
        "rules": [
            {"rule": "in_lookup", "column": "order_status", "lookup_table": table, "lookup_column": "status_name"}
        ]
    }


def test_a_lookup_table_that_is_not_there(world: World, orders: TableSpec) -> None:
    assert error_of(world, changed(orders, **lookup_rule("no_such_lookup"))) == (
        f"orders: an in_lookup rule cannot be used. MySQL at {address(world, 'RDS_LAKE_SOURCE_URL')} says: "
        "Table 'retail.no_such_lookup' doesn't exist (1146). Correct the name in the table's defs.yaml or in "
        "RDS_LAKE_SOURCE_URL."
    )


def test_a_lookup_table_that_is_empty(world: World, orders: TableSpec) -> None:
    empty = world.table("empty", "status_name VARCHAR(25)")
    assert error_of(world, changed(orders, **lookup_rule(empty))) == (
        f"orders: an in_lookup rule cannot be used. The lookup table '{empty}' has no value in 'status_name': every "
        "row would be discarded. Fill it, or take the in_lookup rule out of the table's defs.yaml."
    )


def test_an_sql_rule_that_is_no_sql(world: World) -> None:
    rules = [{"rule": "sql", "name": "odd", "where": "customer_id %% 2 = 1 AND"}]
    spec = world.orders("oddly", rules=rules)
    said = error_of(world, spec)
    assert said.startswith("oddly: the rule odd cannot be applied: Parser Error: syntax error at or near ")
    assert said.endswith("Correct it in defs/oddly/defs.yaml.")
    assert world.manifests("oddly", "staging") == {}


def test_a_bucket_that_does_not_exist(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_BUCKET", "no-such-bucket")
    assert error_of(world, orders) == (
        "The bucket of s3://no-such-bucket/orders/_manifests/landing/ does not exist. Create it, or correct what "
        "names it: RDS_LAKE_BUCKET, RDS_LAKE_DROP_BUCKET, or a YAML file."
    )


def test_an_aws_endpoint_that_does_not_answer(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{NOWHERE}")
    where = f"http://{HOST}:{NOWHERE}/{world.bucket}?list-type=2&prefix=orders%2F_manifests%2Flanding%2F"
    assert error_of(world, orders) == (
        f"The AWS endpoint could not be reached while asking for s3://{world.bucket}/orders/_manifests/landing/: "
        f"nobody answers to GET {where} (ConnectionRefused). Check AWS_ENDPOINT_URL and the network; 'rds-lake status' "
        "shows the local stack."
    )


def test_missing_aws_credentials(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert error_of(world, orders) == (
        f"No AWS credentials were found while asking for s3://{world.bucket}. Set AWS_ACCESS_KEY_ID "
        'and AWS_SECRET_ACCESS_KEY, a profile or a role; locally: eval "$(rds-lake env)".'
    )


def test_a_wrong_password_of_the_warehouse(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_WAREHOUSE_URL", broken_url(world, "RDS_LAKE_WAREHOUSE_URL", password="s3cret"))
    where = address(world, "RDS_LAKE_WAREHOUSE_URL")
    said = error_of(world, orders)
    assert said.startswith(f"The warehouse at {where} says: ")
    assert said.endswith(
        'FATAL: password authentication failed for user "rds_lake". Check the user and the password in '
        "RDS_LAKE_WAREHOUSE_URL."
    )


def test_a_warehouse_database_that_is_not_there(
    world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_LAKE_WAREHOUSE_URL", broken_url(world, "RDS_LAKE_WAREHOUSE_URL", path="/nowhere"))
    said = error_of(world, orders)
    assert said.endswith('FATAL: database "nowhere" does not exist. Correct the database in RDS_LAKE_WAREHOUSE_URL.')


def test_a_warehouse_that_does_not_answer(world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_WAREHOUSE_URL", broken_url(world, "RDS_LAKE_WAREHOUSE_URL", port=NOWHERE))
    said = error_of(world, orders)
    assert "Connection refused" in said
    assert said.endswith("Is the warehouse up and reachable? 'rds-lake status' shows the local one.")


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        ("RDS_LAKE_BUCKET", "The lake's S3 bucket"),
        ("RDS_LAKE_REDSHIFT_IAM_ROLE", "ARN of the role that Redshift's COPY reads the lake with"),
    ],
)
def test_a_variable_that_is_not_set(
    world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    monkeypatch.delenv(variable)
    assert error_of(world, orders) == (
        f"{variable} is not set ({what}). Set it in the environment or in .env, or start the local stack with "
        "'rds-lake up'."
    )


def test_a_run_that_dagster_starts_says_the_same_and_is_not_tried_again(
    world: World, orders: TableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", broken_url(world, "RDS_LAKE_SOURCE_URL", password="s3cret"))
    done = world.materialize(orders, *STAGES, partition="2024-01-01")
    assert not done.success
    [said] = failures(done)
    assert said.endswith("(1045). Check the user and the password in RDS_LAKE_SOURCE_URL.")
    assert not [event for event in done.all_events if event.is_step_up_for_retry]
    logs = world.instance.all_logs(done.run_id)
    assert "s3cret" not in "\n".join(str(entry) for entry in logs)


# --- one stretch of partitions of several ----------------------------------------------------------------------------


def stretches(world: World, name: str) -> TableSpec:
    """A synced table with a row on each of eight days."""
    rows = [(n, f"2024-01-0{n} 10:00:00", "2024-01-01") for n in range(1, 9)]
    source = world.table(name, "id INT PRIMARY KEY, at DATETIME, d DATE, KEY (at)", rows)
    spec = TableSpec.model_validate(
        {
            "table": name,
            "source_table": source,
            "key": ["id"],
            "cursor": {"column": "at"},
            "partitions": {"by": "day", "start": "2024-01-01"},
            "warehouse": {"table": name},
        }
    )
    assert world.sync(spec).ok
    return spec


def test_a_value_that_cannot_be_carried_stops_no_other_stretch_and_no_row_leaves_before_its_newer_version(
    world: World,
) -> None:
    spec = stretches(world, "poisoned")
    with world.source() as cursor:
        cursor.execute("SET sql_mode = ''")
        for n, day in ((100, 8), (101, 6)):
            cursor.execute(f"INSERT INTO {spec.source_name} VALUES ({n}, '2024-01-0{day} 11:00', '0000-00-00')")
    world.ask(f"UPDATE {spec.source_name} SET at = '2024-01-06 12:00' WHERE id = 4")  # into one that cannot be done
    world.ask(f"UPDATE {spec.source_name} SET at = '2024-01-04 12:00' WHERE id = 2")  # into one that waits
    world.ask(f"INSERT INTO {spec.source_name} VALUES (102, '2024-01-01 11:00', '2024-01-01')")
    done = world.sync(spec)
    assert not done.ok
    error = done.error or ""
    assert "the column 'd' holds '0000-00-00' (date) in the row id = 100" in error
    assert error.endswith(" (1 more stretch of partitions failed.)")
    assert [line for line in done.warned if "waits" in line] == [
        "poisoned 2024-01-04 waits: rows of it may have moved to partitions that could not be done",
        "poisoned 2024-01-01 to 2024-01-02 waits: rows of it may have moved to partitions that could not be done",
    ]
    assert {row[0] for row in world.warehouse_rows(spec)} == {*range(1, 9)}
    world.ask(f"UPDATE {spec.source_name} SET at = '2024-01-02 10:00' WHERE id = 2")
    done = world.sync(spec)
    assert len([line for line in done.warned if "waits" in line]) == 1
    assert {row[0] for row in world.warehouse_rows(spec)} == {*range(1, 9), 102}, "this stretch went on"
    world.ask(f"DELETE FROM {spec.source_name} WHERE d = 0")
    assert world.sync(spec).ok
    assert world.warehouse_rows(spec).total() == 9


def test_a_server_that_goes_away_is_not_tried_for_each_stretch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stretches(world, "cut_off")
    for day in (2, 4, 6):
        world.ask(f"INSERT INTO {spec.source_name} VALUES ({day}0, '2024-01-0{day} 11:00', '2024-01-01')")
    monkeypatch.setattr(common, "RETRY_SECONDS", 0)
    begun = []

    def report(text: str) -> None:
        if text.startswith("cut_off "):  # observed and planned; the runs come next
            begun.append(text)
            monkeypatch.setenv("RDS_LAKE_SOURCE_URL", broken_url(world, "RDS_LAKE_SOURCE_URL", port=NOWHERE))

    done = Sync(world.definitions(spec), world.instance, report).table(spec)
    assert begun == ["cut_off 2024-01-06"]
    assert (done.error or "").startswith("MySQL at ")
