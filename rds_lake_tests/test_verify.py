"""`rds-lake verify`: whatever is bent by hand is found and named; where nothing is, nothing is said."""

import json
from datetime import datetime
from typing import Any

import pytest
from pipeline import LAKE, VALID, World

from rds_lake.resources.services import LakeResource, RdsResource, WarehouseResource
from rds_lake.spec import TableSpec
from rds_lake.verify import view
from rds_lake.verify.audit import Audit, TableVerdict
from rds_lake.verify.look import Verdict

pytestmark = pytest.mark.stack

DAY = "2024-01-03"


@pytest.fixture(scope="module")
def orders(world: World) -> TableSpec:
    spec = world.orders(columns={"customer_id": {"personal": True}})
    assert world.sync(spec).error is None
    return spec


def audit(**more: Any) -> Audit:
    lake = LakeResource()
    return Audit(RdsResource().source(), lake.store(), lake.catalog(), WarehouseResource().warehouse(), **more)


def verify(spec: TableSpec, **more: Any) -> TableVerdict:
    return audit().table(spec, **more)


def said(found: TableVerdict) -> str:
    return "\n".join(view.lines(found))


def only(found: TableVerdict) -> Verdict:
    """The one partition that differs."""
    [verdict] = [verdict for verdict in found.partitions if verdict.status == "DIFFERS"]
    return verdict


def heal(world: World, spec: TableSpec, found: TableVerdict) -> None:
    """Do what the audit advises, and see that it helped."""
    commands = view.remedies(spec, found)
    assert commands
    for command in commands:
        words = command.split()
        assert words[:3] == ["rds-lake", "sync", spec.table]
        given = {
            word[2:]: datetime.fromisoformat(words[place + 1])
            for place, word in enumerate(words)
            if word in {"--since", "--until"}
        }
        assert words[-1] == "--again"
        assert world.sync(spec, again=True, **given).error is None
    after = verify(spec, rows=True)
    assert not after.differs, said(after)


def test_nothing_wrong_is_no_difference(world: World, orders: TableSpec) -> None:
    for rows in (False, True):
        found = verify(orders, rows=rows)
        assert said(found) == ""
        assert found.in_step
        assert (len(found.partitions), found.total("source")) == (10, 1000)
        assert found.total("staging") + found.total("discarded") == found.total("archived") == 1000
        assert found.total("warehouse") == found.total("staging") < 1000


def test_a_row_edited_at_the_source_without_its_cursor_is_named(world: World, orders: TableSpec) -> None:
    [(key, status)] = world.ask(
        f"SELECT order_id, order_status FROM {orders.source_name} WHERE order_last_updated >= '{DAY}' LIMIT 1"
    )
    world.ask(f"UPDATE {orders.source_name} SET order_status = 'ON_HOLD', customer_id = 5 WHERE order_id = {key}")
    assert world.sync(orders).partitions == 0, "the fingerprint cannot see it"
    found = verify(orders)
    verdict = only(found)
    assert verdict.partition == DAY
    assert verdict.faults == ("the source and landing hold 100 rows each, with different values",)
    assert verdict.differences.lines == (
        (
            f"order_id {key}: customer_id (personal) differs: source from landing, archived, staging, warehouse; "
            f"order_status is 'ON_HOLD' in source but '{status}' in landing, archived, staging, warehouse"
        ),
    )
    heal(world, orders, found)


def faults(found: TableVerdict) -> dict[str, tuple[str, ...]]:
    """What is wrong, by day."""
    return {verdict.partition[-2:]: verdict.faults for verdict in found.partitions if verdict.status == "DIFFERS"}


def staged(world: World, day: str) -> int:
    return int(world.manifests("orders", "staging")[f"2024-01-{day}"]["rows"])


def test_rows_of_the_warehouse_bent_by_hand_are_named(world: World, orders: TableSpec) -> None:
    for statement in (
        "UPDATE orders SET order_status = 'x' WHERE order_id = 50",
        "DELETE FROM orders WHERE order_id = 150",
        "INSERT INTO orders VALUES (4711, '2024-01-03 10:00:00', 7, 'CLOSED')",
        "INSERT INTO orders SELECT * FROM orders WHERE order_id = 350",
        "UPDATE orders SET order_last_updated = '2024-01-05 00:00:01' WHERE order_id = 450",
    ):
        world.query(statement)
    found = verify(orders)
    named = faults(found)
    assert sorted(named) == ["01", "02", "03", "04", "05"]
    for day, change in (("02", -1), ("03", 1), ("04", 1)):
        rows = staged(world, day)
        assert named[day] == (
            f"the ledger says that {rows} rows were loaded, there are {rows + change}",
            f"staging holds {rows} rows, the warehouse {rows + change}",
        )
    for day in ("01", "05"):
        assert named[day] == (f"staging and the warehouse hold {staged(world, day)} rows each, with different values",)
    lines = {v.partition[-2:]: v.differences.lines for v in found.partitions if v.status == "DIFFERS"}
    assert lines["01"] == (
        "order_id 50: order_status is 'CLOSED' in source, landing, archived, staging but 'x' in warehouse",
    )
    assert lines["02"] == ("order_id 150: not in warehouse (in source, landing, archived, staging)",)
    assert lines["03"] == ("order_id 4711: not in source, landing, archived, staging (in warehouse)",)
    assert lines["04"] == ("order_id 350: 1 in source, 1 in landing, 1 in archived, 1 in staging, 2 in warehouse",)
    [moved] = lines["05"]
    assert moved.startswith("order_id 450: order_last_updated is 2024-01-05 11:")
    assert moved.endswith("in source, landing, archived, staging but 2024-01-05 00:00:01.000000 in warehouse")
    heal(world, orders, found)


def test_rows_beyond_every_partition_are_reported(world: World, orders: TableSpec) -> None:
    world.query("INSERT INTO orders VALUES (1, '1999-01-01', 1, 'CLOSED'), (2, '2030-01-01', 1, 'CLOSED')")
    try:
        found = verify(orders)
        [fault] = found.faults
        assert fault == (
            "1 row of the warehouse lies in no partition (order_id 1). No sync removes them; look at them, then: "
            'DELETE FROM "public"."orders" WHERE "order_last_updated" < \'2024-01-01 00:00:00\''
        )
        verdict = only(found)
        assert verdict.partition == "2030-01-01"
        assert verdict.faults == ("the warehouse holds 1 row that was never landed",)
    finally:
        world.query("DELETE FROM orders WHERE order_last_updated IN ('1999-01-01', '2030-01-01')")
    assert verify(orders).in_step


def current_file(world: World, stage: str, day: str) -> str:
    [entry] = world.manifests("orders", stage)[f"2024-01-{day}"]["entries"]
    return world.key(entry["url"])


def test_files_that_were_replaced_or_deleted_are_named(world: World, orders: TableSpec) -> None:
    flipped = [current_file(world, "staging", "01"), current_file(world, "discarded", "02")]
    for key in flipped:
        content = bytearray(world.get(key))
        content[len(content) // 2] ^= 1
        world.put(key, bytes(content))  # of the right size: only its digest tells
    longer = current_file(world, "archived", "03")
    size = len(world.get(longer))
    world.put(longer, world.get(longer) + b"x")
    gone = [current_file(world, stage, f"0{day}") for day, stage in enumerate(LAKE[1:], 4)]
    for key in gone:
        world.client("s3").delete_object(Bucket=world.bucket, Key=key)
    found = verify(orders)
    url = f"s3://{world.bucket}/"
    assert faults(found) == {
        "01": (f"{url}{flipped[0]} is not the file that was written: its SHA-256 is another one",),
        "02": (f"{url}{flipped[1]} is not the file that was written: its SHA-256 is another one",),
        "03": (f"{url}{longer} has {size + 1:,} bytes, the manifest says {size:,}",),
        **{f"0{day}": (f"{url}{key} is not there, though the manifest names it",) for day, key in enumerate(gone, 4)},
    }
    heal(world, orders, found)


def test_manifests_that_were_deleted_or_lie_are_named(world: World, orders: TableSpec) -> None:
    for day, stage in enumerate(LAKE, 1):
        world.client("s3").delete_object(Bucket=world.bucket, Key=f"orders/_manifests/{stage}/2024-01-0{day}.json")
    key = "orders/_manifests/staging/2024-01-05.json"
    manifest = json.loads(world.get(key))
    manifest["entries"][0]["meta"]["record_count"] += 1
    world.put(key, json.dumps(manifest).encode())
    found = verify(orders)
    named = faults(found)
    assert sorted(named) == ["01", "02", "03", "04", "05"]
    for day, stage in enumerate(LAKE, 1):
        assert f"{stage} has no manifest" in named[f"0{day}"][0]
    rows = manifest["rows"]
    assert any(f"holds {rows} rows, the manifest says {rows + 1}" in fault for fault in named["05"])
    heal(world, orders, found)


def test_a_ledger_and_a_catalog_bent_by_hand_are_named(world: World, orders: TableSpec) -> None:
    for day, statement in enumerate(
        (
            "DELETE FROM {0}",
            "UPDATE {0} SET rows_loaded = 5",
            "UPDATE {0} SET rows_staged = 5",
            "UPDATE {0} SET batch_id = 'b'",
        ),
        1,
    ):
        place = f" WHERE table_name = 'orders' AND partition_key = '2024-01-0{day}'"
        world.query(statement.format("rds_lake.load_ledger") + place)
    glue, database = world.client("glue"), world.environ["RDS_LAKE_GLUE_DATABASE"]
    given = {"DatabaseName": database, "TableName": "orders_staging"}
    serde = {"SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde"}
    for day, bent in (("05", {"Location": f"s3://{world.bucket}/elsewhere/"}), ("07", {"SerdeInfo": serde})):
        values = [f"2024-01-{day}"]
        present = glue.get_partition(**given, PartitionValues=values)["Partition"]["StorageDescriptor"]
        changed = {"Values": values, "StorageDescriptor": {**present, **bent}}
        glue.batch_update_partition(**given, Entries=[{"PartitionValueList": values, "PartitionInput": changed}])
    glue.delete_partition(**given, PartitionValues=["2024-01-06"])
    found = verify(orders)
    named = faults(found)
    for day, said_of_it in {
        "01": f"the ledger has no row for it, though the warehouse holds {staged(world, '01')} rows",
        "02": f"the ledger says that 5 rows were loaded, there are {staged(world, '02')}",
        "03": f"the ledger says that 5 rows were staged, they are {staged(world, '03')}",
        "04": "the ledger names the batch b, staging holds ",
        "05": f"the catalog has staging at s3://{world.bucket}/elsewhere/, its batch lies at s3://{world.bucket}/ord",
        "06": "the catalog has staging at no place, its batch lies at ",
        "07": "the catalog has staging as org.apache.hadoop.hive.serde2.OpenCSVSerde, its batch is parquet",
    }.items():
        assert [fault[: len(said_of_it)] for fault in named.pop(day)] == [said_of_it]
    assert named == {}
    heal(world, orders, found)


def test_a_change_of_the_source_is_behind_and_no_difference(world: World, orders: TableSpec) -> None:
    world.ask(f"INSERT INTO {orders.source_name} VALUES (5000, '2024-01-05 12:00:00', 1, 'CLOSED')")
    world.ask(f"DELETE FROM {orders.source_name} WHERE order_id = 1")
    found = verify(orders)
    assert not found.differs
    assert not found.in_step
    behind = {verdict.partition: verdict.behind for verdict in found.partitions if verdict.status == "behind"}
    assert behind == dict.fromkeys(["2024-01-01", "2024-01-05"], "the source has changed since")
    assert world.sync(orders).ok
    assert verify(orders, rows=True).in_step


def test_rules_whose_lookup_changed_are_behind_and_no_difference(world: World, orders: TableSpec) -> None:
    lookup = f"orders_status_{world.token}"
    world.ask(f"UPDATE {lookup} SET status_name = 'OPEN' WHERE status_name = 'CLOSED'")
    found = verify(orders)
    assert (found.differs, found.in_step) == (False, False)
    assert {verdict.behind for verdict in found.partitions} == {"the rules have changed since"}
    world.ask(f"DELETE FROM {lookup}")
    found = verify(orders)
    assert found.refused
    assert f"the next sync will refuse: orders: an in_lookup rule cannot be used. The lookup table '{lookup}'" in said(
        found
    )
    with world.source() as cursor:
        cursor.executemany(f"INSERT INTO {lookup} VALUES (%s)", [(text,) for text in VALID])
    assert verify(orders).in_step


def test_a_partition_that_was_never_landed_is_behind(world: World, orders: TableSpec) -> None:
    world.ask(f"INSERT INTO {orders.source_name} VALUES (5001, '2024-02-05 12:00:00', 1, 'CLOSED')")
    found = verify(orders)
    assert [(v.partition, v.behind) for v in found.partitions if v.behind] == [("2024-02-05", "never landed yet")]
    assert world.sync(orders).ok
    assert verify(orders).in_step


@pytest.mark.parametrize(
    "upto", [("landing",), ("landing", "staging", "discarded"), ("landing", "staging", "discarded", "archived")]
)
def test_a_run_that_ended_on_its_way_is_behind(world: World, orders: TableSpec, upto: tuple[str, ...]) -> None:
    world.ask(
        f"UPDATE {orders.source_name} SET order_last_updated = order_last_updated + INTERVAL 1 SECOND "
        "WHERE order_id = 333"
    )
    assert world.materialize(orders, *upto, partition="2024-01-04").success
    found = verify(orders)
    assert not found.differs, said(found)
    assert [verdict.partition for verdict in found.partitions if verdict.status == "behind"] == ["2024-01-04"]
    assert world.sync(orders).ok
    assert verify(orders, rows=True).in_step


def test_ten_rows_of_a_partition_are_named_and_the_others_counted(world: World, orders: TableSpec) -> None:
    world.query("DELETE FROM orders WHERE order_last_updated >= '2024-01-07' AND order_last_updated < '2024-01-08'")
    found = verify(orders)
    verdict = only(found)
    assert (verdict.differences.keys, len(verdict.differences.lines)) == (96, 10)
    assert said(found).endswith("        and 86 more")
    heal(world, orders, found)


def test_a_window_looks_at_its_partitions_only(world: World, orders: TableSpec) -> None:
    world.query("DELETE FROM orders WHERE order_id = 250")
    assert verify(orders, since=datetime(2024, 1, 4)).in_step  # noqa: DTZ001
    assert verify(orders, until=datetime(2024, 1, 3)).in_step  # noqa: DTZ001
    found = verify(orders, since=datetime(2024, 1, 3, 5), until=datetime(2024, 1, 4))  # noqa: DTZ001
    assert [verdict.partition for verdict in found.partitions] == [DAY]
    heal(world, orders, found)
