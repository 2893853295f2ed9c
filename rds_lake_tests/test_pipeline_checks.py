"""Checks: what each says in one line when all is well and when it is not, and what it keeps from happening."""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline import STAGES, World, evaluations, order_rows

from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack

DAY = "2024-01-03"
COLUMNS = {
    "order_id": {"type": "int"},
    "order_last_updated": {"type": "datetime"},
    "customer_id": {},
    "order_status": {"type": "varchar(25)"},
}
WELL = {
    "orders_raw.in_a_partition": "every row lies in a partition",
    "orders_landing.schema_as_declared": "4 declared columns are as declared",
    "orders_landing.fits_warehouse": "Redshift can hold all 1,000 rows",
    "orders_staging.valid_status": "all 966 rows keep valid_status",
    "orders_staging.unique_key": "order_id is unique in all 966 rows",
    "orders_staging.accounted_for": "1,000 landed = 966 staged + 34 discarded in 10 partitions",
    "orders_warehouse.in_step": "966 rows in 10 partitions, as staged",
}
REPORT = "34 of 1,000 rows break valid_status: '' (7), ' PENDING' (7), 'COMPLETED' (7), ..."


@pytest.fixture(scope="module")
def synced(world: World) -> TableSpec:
    spec = world.orders(columns=COLUMNS)
    assert world.sync(spec).ok
    return spec


@pytest.fixture
def orders(world: World, synced: TableSpec) -> Iterator[TableSpec]:
    """The synced table; what a test plants is taken away by the pipeline itself."""
    yield synced
    assert world.materialize(synced, "staging", "discarded", "archived", "warehouse", partition=DAY).success
    assert found(world, synced)[0] == WELL
    world.assert_in_step(synced)


def found(world: World, spec: TableSpec) -> tuple[dict[str, str], dict[str, str]]:
    """The lines of the checks that pass, and of those that fail (landing's report left out)."""
    results = world.check(spec)
    report = results.pop("orders_landing.valid_status")
    assert (report.passed, report.severity) == (False, dg.AssetCheckSeverity.WARN)
    lines: tuple[dict[str, str], dict[str, str]] = {}, {}
    for name, result in results.items():
        lines[not result.passed][name] = result.description or ""
        assert result.passed or result.severity == dg.AssetCheckSeverity.ERROR
    return lines


def edit(world: World, stage: str, change: Any) -> dict[str, Any]:
    """Change a manifest by hand; returns the new one."""
    key = f"orders/_manifests/{stage}/{DAY}.json"
    manifest: dict[str, Any] = json.loads(world.get(key))
    change(manifest)
    world.put(key, json.dumps(manifest).encode())
    return manifest


def plant(world: World, row: dict[str, Any]) -> None:
    """Add a row to a staged file, and have the manifest say so."""

    def change(manifest: dict[str, Any]) -> None:
        [entry] = manifest["entries"]
        table = pq.read_table(io.BytesIO(world.get(world.key(entry["url"]))))
        more = pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])
        sink = io.BytesIO()
        pq.write_table(more, sink)
        entry["url"] = entry["url"].replace("part-00000", "part-planted")
        size, digest = len(sink.getvalue()), hashlib.sha256(sink.getvalue()).hexdigest()
        entry["meta"] = {"content_length": size, "record_count": more.num_rows, "sha256": digest}
        manifest["rows"] = more.num_rows
        world.put(world.key(entry["url"]), sink.getvalue())

    edit(world, "staging", change)


def row_of(world: World, spec: TableSpec, number: int, **more: Any) -> dict[str, Any]:
    [values] = world.ask(f"SELECT * FROM {spec.source_name} WHERE order_id = %s", (number,))
    names = ("order_id", "order_last_updated", "customer_id", "order_status")
    return {**dict(zip(names, values, strict=True)), **more}


def test_every_check_passes_in_one_line_and_landings_report_lists_what_is_bad(world: World, synced: TableSpec) -> None:
    results = world.check(synced)
    report = results.pop("orders_landing.valid_status")
    assert {name: result.description for name, result in results.items()} == WELL
    assert all(result.passed for result in results.values())
    assert report.description == REPORT
    assert report.metadata["rows that break it"].value == 34
    table = report.metadata["bad values"]
    assert isinstance(table, dg.TableMetadataValue)
    shown = {record.data["value"]: record.data["rows"] for record in table.records}
    assert shown == {"''": 7, "' PENDING'": 7, "'COMPLETED'": 7, "'closed'": 7, "NULL": 6}
    keys = report.metadata["some keys"].value
    bad = {str(row[0]) for row in order_rows() if row[3] not in {"COMPLETE", "CLOSED", "PENDING", "ON_HOLD"}}
    assert isinstance(keys, list)
    assert len(keys) == 10
    assert set(keys) <= bad


def test_a_run_of_one_partition_checks_that_partition(world: World, synced: TableSpec) -> None:
    lines = {name: result.description for name, result in world.check(synced, DAY).items()}
    assert lines["orders_staging.accounted_for"] == "100 landed = 97 staged + 3 discarded in 1 partition"
    assert lines["orders_warehouse.in_step"] == "97 rows in 1 partition, as staged"
    assert lines["orders_staging.unique_key"] == "order_id is unique in all 97 rows"


def test_a_bad_row_in_staging_is_found(world: World, orders: TableSpec) -> None:
    plant(world, row_of(world, orders, 201, order_id=9001, order_status="bad"))
    assert found(world, orders)[1] == {
        "orders_staging.valid_status": "1 of 967 rows break valid_status: 'bad' (1)",
        "orders_staging.accounted_for": (f"1 of 10 partitions do not add up, the first is {DAY}. Materialise staging."),
    }


def test_a_row_that_stands_twice_in_staging_is_found(world: World, orders: TableSpec) -> None:
    plant(world, row_of(world, orders, 201))
    lines = found(world, orders)[1]
    assert lines["orders_staging.unique_key"] == "1 values of order_id stand more than once"
    assert "orders_staging.accounted_for" in lines


def test_a_count_that_does_not_add_up_is_found(world: World, orders: TableSpec) -> None:
    edit(world, "discarded", lambda manifest: manifest["entries"][0]["meta"].update(record_count=4))
    assert found(world, orders)[1] == {
        "orders_staging.accounted_for": f"1 of 10 partitions do not add up, the first is {DAY}. Materialise staging."
    }


def test_a_missing_manifest_is_found(world: World, orders: TableSpec) -> None:
    world.client("s3").delete_object(Bucket=world.bucket, Key=f"orders/_manifests/discarded/{DAY}.json")
    assert list(found(world, orders)[1]) == ["orders_staging.accounted_for"]


def test_rows_that_are_missing_in_the_warehouse_are_found(world: World, orders: TableSpec) -> None:
    batch = world.manifests("orders", "staging")[DAY]["batch"]
    world.query("DELETE FROM public.orders WHERE order_id IN (201, 202)")
    assert found(world, orders)[1] == {
        "orders_warehouse.in_step": (
            f"1 of 10 partitions differ, the first is {DAY}: staged 97 rows as {batch}, holds 95 rows of {batch}"
        )
    }


def test_a_ledger_that_names_another_batch_or_none_is_found(world: World, orders: TableSpec) -> None:
    batch = world.manifests("orders", "staging")[DAY]["batch"]
    world.query("UPDATE rds_lake.load_ledger SET batch_id = 'another' WHERE partition_key = %s", (DAY,))
    differ = f"1 of 10 partitions differ, the first is {DAY}: staged 97 rows as {batch}, holds 97 rows"
    assert found(world, orders)[1] == {"orders_warehouse.in_step": f"{differ} of another"}
    world.query("DELETE FROM rds_lake.load_ledger WHERE partition_key = %s", (DAY,))
    assert found(world, orders)[1] == {"orders_warehouse.in_step": f"{differ}, never loaded"}


def test_a_column_that_is_not_as_declared_is_found(world: World, synced: TableSpec) -> None:
    columns = {"customer_id": {"type": "bigint"}, "order_status": {"type": "varchar(25)"}}
    spec = TableSpec.model_validate({**synced.model_dump(by_alias=True), "columns": columns})
    [wrong] = [item for name, item in world.check(spec).items() if name == "orders_landing.schema_as_declared"]
    assert not wrong.passed
    said = wrong.description or ""
    assert said.startswith("customer_id is int")  # older servers add a width
    assert said.endswith(", declared is bigint; not declared: order_id, order_last_updated")


def test_a_blocking_check_that_fails_keeps_archive_and_warehouse_from_running(world: World) -> None:
    """The rule is a coin: rows that kept it when they were split break it when the check reads them again."""
    coin = [{"rule": "sql", "name": "coin", "where": "random() < 0.9"}]
    spec = world.orders("coins", rules=coin)
    done = world.materialize(spec, *STAGES, partition=DAY)
    assert not done.success
    results = evaluations(done)
    assert not results["coins_staging.coin"].passed
    assert results["coins_staging.coin"].blocking
    made = {event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key}
    assert made == {"coins_landing", "coins_staging", "coins_discarded"}
    assert world.manifests("coins", "archived") == {}
    assert world.query("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'coins'") == [(0,)]
    assert world.objects("coins/landing/"), "the landed files stay where they are"

    synced = world.sync(spec)
    assert not synced.ok
    assert all(line.startswith("coins_staging coin: ") for line in synced.failed)


def test_personal_data_never_stand_in_metadata_or_logs(world: World) -> None:
    rows = [(n, f"2024-01-0{1 + n % 2}", n, f"PERSONAL{n}" if n % 3 else "PERSONALbad") for n in range(1, 40)]
    rules = [{"rule": "matches", "column": "order_status", "pattern": "PERSONAL[0-9]+"}]
    spec = world.orders("people", rows, rules=rules, columns={"order_status": {"personal": True}})
    done = world.materialize(spec, *STAGES, partition="2024-01-01", upto="2024-01-02")
    assert done.success
    report = evaluations(done)["people_landing.matches_order_status"]
    assert report.description == "13 of 39 rows break matches_order_status"
    assert "bad values" not in report.metadata
    told = "\n".join(str(entry) for entry in world.instance.all_logs(done.run_id))
    assert "| order_id |" in told, "there are previews"
    assert "PERSONALbad" not in told
    assert "PERSONAL1" not in told
