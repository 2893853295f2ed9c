"""Once: any asset again, on any partition, in any order, changes nothing; a range is as good as its partitions."""

import pytest
from pipeline import DAYS, STAGES, State, World, failures

from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack

FIRST, LAST = "2024-01-01", "2024-01-10"


@pytest.fixture(scope="module")
def orders(world: World) -> TableSpec:
    spec = world.orders()
    assert world.sync(spec).ok
    return spec


@pytest.fixture(scope="module")
def synced(world: World, orders: TableSpec) -> State:
    """What the one sync left behind; no test here may change its content."""
    return world.assert_in_step(orders)


def again(world: World, spec: TableSpec, *stages: str, first: str | None = None, last: str | None = None) -> None:
    assert world.materialize(spec, *stages, partition=first, upto=last).success


@pytest.mark.parametrize("stage", STAGES)
def test_any_asset_again_on_one_partition_a_range_and_the_whole_table_changes_nothing(
    world: World, orders: TableSpec, synced: State, stage: str
) -> None:
    again(world, orders, stage, first="2024-01-04")
    again(world, orders, stage, first="2024-01-04")
    again(world, orders, stage, first="2024-01-02", last="2024-01-03")
    again(world, orders, stage, first=FIRST, last=LAST)
    assert world.state(orders).content == synced.content


def test_assets_in_the_wrong_order_change_nothing(world: World, orders: TableSpec, synced: State) -> None:
    for stage in ("warehouse", "archived", "archived", "discarded", "landing", "warehouse", "staging", "archived"):
        again(world, orders, stage, first="2024-01-06")
    assert world.state(orders).content == synced.content
    world.sync(orders)
    assert world.state(orders).content == synced.content


def test_the_whole_chain_again_changes_nothing_and_says_that_nothing_was_new(
    world: World, orders: TableSpec, synced: State
) -> None:
    done = world.materialize(orders, *STAGES, partition=FIRST, upto=LAST)
    assert done.success
    landed = done.asset_materializations_for_node("orders_landing")
    assert len(landed) == DAYS
    assert {event.metadata["new"].value for event in landed} == {False}
    assert world.state(orders).content == synced.content


def test_a_partition_without_rows_can_be_materialised_like_any_other(
    world: World, orders: TableSpec, synced: State
) -> None:
    again(world, orders, *STAGES, first="2024-02-01")
    after = world.state(orders)
    assert after.rows == synced.rows
    assert {stage: world.manifests("orders", stage)["2024-02-01"]["rows"] for stage in STAGES[:4]} == dict.fromkeys(
        STAGES[:4], 0
    )


def test_an_asset_whose_input_was_never_made_fails_with_the_remedy(world: World, orders: TableSpec) -> None:
    done = world.materialize(orders, "warehouse", partition="2024-03-01")
    assert not done.success
    found = (
        "orders: the partition 2024-03-01 has no batch in staging. Materialise orders_staging for it first, or run "
        "'rds-lake sync orders'."
    )
    assert failures(done) == [found]


def test_a_range_run_equals_one_run_per_partition(world: World) -> None:
    days = ["2024-01-02", "2024-01-03", "2024-01-04"]
    ranged, single = world.orders("ranged"), world.orders("single")
    again(world, ranged, *STAGES, first=days[0], last=days[-1])
    for day in reversed(days):
        again(world, single, *STAGES, first=day)

    one, other = world.state(ranged), world.state(single)
    assert one.rows["warehouse"].total() == 290
    for stage in ("landing", "staging", "archived", "warehouse"):
        assert one.rows[stage] == other.rows[stage]
    marks = 2  # _source_batch and _source_file differ
    assert {row[:5] + row[5 + marks :] for row in one.rows["discarded"]} == {
        row[:5] + row[5 + marks :] for row in other.rows["discarded"]
    }
    same = ("rows", "fingerprint", "details", "source_unique", "format", "schema", "stage", "partition")
    assert {k: [m[name] for name in same] for k, m in one.manifests.items()} == {
        k: [m[name] for name in same] for k, m in other.manifests.items()
    }
    assert {(row[0], row[2], row[5], row[6]) for row in one.ledger} == {
        (row[0], row[2], row[5], row[6]) for row in other.ledger
    }
