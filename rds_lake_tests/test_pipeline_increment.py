"""Increments: what changes at the source, and nothing else, changes in the lake and in the warehouse."""

from datetime import datetime

import pytest
from pipeline import DAYS, ROWS, VALID, World

from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def orders(world: World) -> TableSpec:
    """1,000 orders over ten days, synced."""
    spec = world.orders()
    done = world.sync(spec)
    assert done.ok
    assert done.partitions == DAYS
    assert done.rows == {"landing": ROWS, "staging": 966, "discarded": 34, "archived": ROWS, "warehouse": 966}
    return spec


def test_one_inserted_row_is_one_more_row_in_the_warehouse_and_touches_one_partition(
    world: World, orders: TableSpec
) -> None:
    before = world.assert_in_step(orders)
    fetched = world.ask(f"SELECT COUNT(*) FROM {orders.fetch_details}")[0][0]

    world.ask(f"INSERT INTO {orders.source_name} VALUES (5001, '2024-01-05 12:00:00', 7, 'CLOSED')")
    done = world.sync(orders)

    after = world.assert_in_step(orders)
    assert (done.ok, done.partitions) == (True, 1)
    assert after.rows["warehouse"] - before.rows["warehouse"] == {
        row: 1 for row in after.rows["warehouse"] if row[0] == 5001
    }
    assert after.counts["warehouse"] == before.counts["warehouse"] + 1
    assert after.outside("2024-01-05") == before.outside("2024-01-05")
    log = world.ask(f"SELECT tablename FROM {orders.fetch_details} ORDER BY metadata_id")
    assert len(log) == fetched + 1
    assert log[-1] == (orders.source_name,)


def test_a_sync_with_nothing_to_do_changes_nothing_and_starts_no_run(world: World, orders: TableSpec) -> None:
    world.sync(orders)
    before, runs = world.state(orders), world.instance.get_runs_count()
    log = world.ask(f"SELECT COUNT(*) FROM {orders.fetch_details}")

    done = world.sync(orders)

    assert (done.ok, done.partitions, done.rows, done.failed) == (True, 0, {}, [])
    assert world.state(orders) == before
    assert world.instance.get_runs_count() == runs
    assert world.ask(f"SELECT COUNT(*) FROM {orders.fetch_details}") == log


HEALED = {
    "a deleted row": ("DELETE FROM {0} WHERE order_id = 401", ["2024-01-05"]),
    "an emptied day": ("DELETE FROM {0} WHERE DATE(order_last_updated) = '2024-01-07'", ["2024-01-07"]),
    "a late row": ("INSERT INTO {0} VALUES (5002, '2024-01-02 00:00:00', 1, 'PENDING')", ["2024-01-02"]),
    "a new day": ("INSERT INTO {0} VALUES (5003, '2024-01-12 00:00:00', 1, 'CLOSED')", ["2024-01-12"]),
    "a row back-dated within its day": (
        "UPDATE {0} SET order_last_updated = order_last_updated - INTERVAL 1 SECOND WHERE order_id = 455",
        ["2024-01-05"],
    ),
    "a row moved to a later day": (
        "UPDATE {0} SET order_last_updated = '2024-01-09 23:59:59' WHERE order_id = 151",
        ["2024-01-02", "2024-01-09"],
    ),
    "a row moved to an earlier day": (
        "UPDATE {0} SET order_last_updated = '2024-01-03 00:00:00' WHERE order_id = 899",
        ["2024-01-03", "2024-01-09"],
    ),
    "a row moved to the day before": (
        "UPDATE {0} SET order_last_updated = order_last_updated - INTERVAL 1 DAY WHERE order_id = 960",
        ["2024-01-09", "2024-01-10"],
    ),
    "a row that turned bad": (
        "UPDATE {0} SET order_last_updated = '2024-01-04', order_status = 'bad' WHERE order_id = 351",
        ["2024-01-04"],
    ),
}


@pytest.mark.parametrize(("statement", "touched"), HEALED.values(), ids=HEALED)
def test_sync_heals(world: World, orders: TableSpec, statement: str, touched: list[str]) -> None:
    assert world.sync(orders).ok
    before = world.outline(orders)

    world.ask(statement.format(orders.source_name))
    done = world.sync(orders)

    assert (done.error, done.failed, done.partitions) == (None, [], len(touched))
    after = world.assert_in_step(orders)
    assert after.outside(*touched) == before.outside(*touched)
    assert world.sync(orders).partitions == 0


def test_a_key_survives_a_load_of_the_partition_that_it_has_left(world: World) -> None:
    """Runs may load partitions in any order: here the one that the key has left, still as it was, comes in between."""
    spec = world.orders("moving")
    assert world.sync(spec).ok
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = '2024-01-03 00:00:00' WHERE order_id = 899")
    chain = ("landing", "staging", "discarded", "archived", "warehouse")

    assert world.materialize(spec, *chain, partition="2024-01-03").success
    assert world.materialize(spec, "warehouse", partition="2024-01-09").success
    assert world.materialize(spec, *chain, partition="2024-01-09").success

    world.assert_in_step(spec)
    assert world.sync(spec).partitions == 0


def test_a_status_that_becomes_valid_moves_its_rows_from_discarded_to_staging(world: World, orders: TableSpec) -> None:
    world.sync(orders)
    before = world.assert_in_step(orders)
    lookup = orders.rules[0].model_dump()["lookup_table"]

    world.ask(f"INSERT INTO {lookup} VALUES ('COMPLETED')")
    done = world.sync(orders)

    after = world.assert_in_step(orders, (*VALID, "COMPLETED"))
    moved = before.counts["discarded"] - after.counts["discarded"]
    assert done.ok
    assert moved == after.counts["warehouse"] - before.counts["warehouse"] > 0
    assert "landing" not in done.rows, "nothing is extracted again"
    assert after.rows["archived"] == before.rows["archived"]

    world.ask(f"DELETE FROM {lookup} WHERE status_name = 'COMPLETED'")
    assert world.sync(orders).ok
    assert world.assert_in_step(orders).rows == before.rows


def test_since_and_until_bound_what_is_synced(world: World) -> None:
    spec = world.orders("bounded")
    done = world.sync(
        spec, since=datetime.fromisoformat("2024-01-03T09:00"), until=datetime.fromisoformat("2024-01-05")
    )
    assert sorted(world.manifests("bounded", "staging")) == ["2024-01-03", "2024-01-04"]
    assert (done.ok, done.partitions) == (True, 2)
    assert world.sync(spec).partitions == DAYS - 2
    world.assert_in_step(spec)


def test_rows_without_a_cursor_or_before_the_start_fail_the_sync_and_are_counted(world: World) -> None:
    spec = world.orders("outside", cursor={"column": "order_last_updated", "nulls": "exclude"})
    world.ask(f"INSERT INTO {spec.source_name} VALUES (6001, NULL, 1, 'CLOSED'), (6002, '2023-12-31', 1, 'CLOSED')")
    done = world.sync(spec)
    assert not done.ok
    left_out = (
        "1 row has no order_last_updated: left out, as cursor.nulls says (exclude). Fill order_last_updated at "
        "the source, or set cursor.nulls to include in defs/outside/defs.yaml."
    )
    found = (
        "outside_raw in_a_partition: 1 row is older than partitions.start (2024-01-01), so in no partition. Set "
        "an earlier start in defs/outside/defs.yaml; a zero date (0000-00-00) is older than any start, correct "
        f"order_last_updated at the source where there is one. {left_out}"
    )
    assert done.failed == [found]
    world.ask(f"DELETE FROM {spec.source_name} WHERE order_id = 6002")
    done = world.sync(spec)
    assert done.ok, "rows that are left out on purpose fail nothing"
    assert done.warned == [f"outside_raw in_a_partition: {left_out}"]
    assert world.state(spec).counts["landing"] == ROWS, "all the others are landed"
