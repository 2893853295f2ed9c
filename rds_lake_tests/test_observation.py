"""Observations: the recent one is cheap and finds what changed lately, the full one finds everything."""

import datetime as dt
import time

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import DAYS, World, order_rows, until
from rooms import bounded, daily

from rds_lake import sync as syncing
from rds_lake.plan import observe, recent_since
from rds_lake.resources.services import LakeResource, RdsResource
from rds_lake.spec import TableSpec

stack_test = pytest.mark.stack
TODAY = dt.datetime.now(dt.UTC).date()
FIRST = TODAY - dt.timedelta(days=DAYS)
"""The first of ten days with rows; the last one is yesterday."""


def day(number: int) -> str:
    """The key of one of the ten days, counted from 1."""
    return str(FIRST + dt.timedelta(days=number - 1))


def recent_orders(world: World, name: str, **more: object) -> TableSpec:
    """1,000 orders over the last ten days."""
    cursor = {"column": "order_last_updated", "lookback_days": 3, **more.pop("cursor", {})}  # type: ignore[dict-item]
    partitions = {"by": "day", "start": FIRST}
    return world.orders(name, order_rows(first=FIRST), cursor=cursor, partitions=partitions, **more)


def recently(world: World, spec: TableSpec):
    return observe(RdsResource().source(), LakeResource().store(), spec, recent=True)


# --- the window ------------------------------------------------------------------------------------------------------


@bounded(200)
@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.integers(0, 40),
    st.none() | st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - the cursor's clock
    st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2026, 1, 1)),  # noqa: DTZ001
)
def test_a_recent_window_leaves_no_gap_after_what_is_landed_and_keeps_its_lookback(unit, lookback, newest, fence):
    spec = daily(
        "t", cursor={"column": "at", "lookback_days": lookback}, partitions={"by": unit, "start": "2024-01-01"}
    )
    partitioning = spec.partitioning
    assert partitioning
    key = None if newest is None else partitioning.key(newest)
    since = recent_since(spec, key, fence)
    back = dt.timedelta(days=lookback)
    assert since >= partitioning.start
    assert since == partitioning.start or since <= fence - back
    if key is not None and since > partitioning.start:
        assert since <= partitioning.window(key).lower - back
        assert key in set(partitioning.keys(since, max(fence, partitioning.window(key).upper)))


def test_a_lookback_beyond_the_calendar_looks_at_everything() -> None:
    spec = daily("t", "1000-01-01", cursor={"column": "at", "lookback_days": 10**12})
    assert recent_since(spec, "1000-01-02", dt.datetime(2024, 1, 1)) == dt.datetime(1000, 1, 1)  # noqa: DTZ001


# --- what each finds -------------------------------------------------------------------------------------------------


@stack_test
def test_a_change_outside_the_lookback_is_found_by_the_full_observation_and_not_by_the_recent_one(world: World) -> None:
    spec = recent_orders(world, "dated_back")
    assert world.sync(spec).partitions == DAYS
    before = world.outline(spec)
    world.ask(f"INSERT INTO {spec.source_name} VALUES (5001, '{day(2)} 12:00:00', 7, 'CLOSED')")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (5002, '{day(10)} 12:00:00', 7, 'CLOSED')")

    done = world.sync(spec, recent=True)
    assert (done.ok, done.partitions) == (True, 1)
    assert world.outline(spec).outside(day(10)) == before.outside(day(10))
    loaded = {row[0] for row in world.warehouse_rows(spec)}
    assert 5002 in loaded
    assert 5001 not in loaded

    done = world.sync(spec)
    assert (done.ok, done.partitions) == (True, 1)
    world.assert_in_step(spec)


@stack_test
def test_a_partition_that_was_emptied_is_seen_inside_the_window_and_left_alone_outside(world: World) -> None:
    spec = recent_orders(world, "emptied")
    assert world.sync(spec).ok
    world.ask(f"DELETE FROM {spec.source_name} WHERE DATE(order_last_updated) IN ('{day(9)}', '{day(3)}')")

    seen = recently(world, spec)
    assert seen.kind == "recent"
    assert seen.window
    assert seen.window.lower == dt.datetime.combine(FIRST + dt.timedelta(days=6), dt.time())
    assert sorted(seen.fingerprints) == [day(1), *(day(number) for number in range(7, 11))], "the first takes NULLs"
    assert seen.fingerprints[day(9)] == "0"

    assert world.sync(spec, recent=True).partitions == 1
    dates = {str(row[1].date()) for row in world.warehouse_rows(spec)}
    assert day(9) not in dates
    assert day(3) in dates, "the recent observation says nothing of it"
    assert world.sync(spec).partitions == 1
    world.assert_in_step(spec)


@stack_test
def test_the_first_recent_sync_takes_the_last_days_and_a_full_one_the_rest(world: World) -> None:
    spec = recent_orders(world, "fresh")
    assert world.sync(spec, recent=True).partitions == 4
    assert sorted(world.manifests("fresh", "staging")) == [day(1), day(8), day(9), day(10)], "the first takes NULLs"
    assert world.sync(spec).partitions == DAYS - 4
    world.assert_in_step(spec)


@stack_test
def test_after_a_pause_the_recent_observation_takes_up_where_the_last_landing_ended(world: World) -> None:
    spec = recent_orders(world, "paused", cursor={"lookback_days": 0})
    upto = dt.datetime.combine(FIRST + dt.timedelta(days=2), dt.time())
    assert world.sync(spec, until=upto).partitions == 2
    assert world.sync(spec, recent=True).partitions == DAYS - 2
    world.assert_in_step(spec)


@stack_test
def test_a_row_that_commits_late_comes_with_the_next_recent_sync(world: World) -> None:
    spec = recent_orders(world, "late")
    with world.source() as cursor:
        cursor.execute(f"INSERT INTO {spec.source_name} VALUES (7001, NOW(), 1, 'CLOSED')")
        time.sleep(1.2)
        assert world.sync(spec).ok
        assert 7001 not in {row[0] for row in world.warehouse_rows(spec)}
    until(lambda: world.sync(spec, recent=True).partitions == 1)
    assert 7001 in {row[0] for row in world.warehouse_rows(spec)}
    world.assert_in_step(spec)
    assert world.sync(spec).partitions == 0


@stack_test
def test_a_row_that_moves_from_one_recent_day_to_another_is_in_the_warehouse_once(world: World) -> None:
    spec = recent_orders(world, "moved")
    assert world.sync(spec).ok
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = '{day(10)} 23:59:59' WHERE order_id = 755")
    assert world.sync(spec, recent=True).partitions == 2
    world.assert_in_step(spec)


@stack_test
def test_a_table_without_a_cursor_is_left_as_it_is_by_a_recent_sync(world: World) -> None:
    source = world.table("whole", "id INT, v VARCHAR(9)", [(1, "a")])
    spec = TableSpec.model_validate({"table": "whole", "source_table": source})
    done = world.sync(spec, recent=True)
    assert (done.ok, done.partitions, done.rows) == (True, 0, {})
    assert world.sync(spec).partitions == 1


# --- what is told ----------------------------------------------------------------------------------------------------


@stack_test
def test_a_sync_says_who_holds_the_fence_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = recent_orders(world, "held")
    assert world.sync(spec).ok
    assert not [line for line in world.sync(spec).warned if "fence" in line], "an ordinary delay is not worth a line"
    monkeypatch.setattr(syncing, "REPORTED", dt.timedelta(seconds=1))
    world.ask(f"INSERT INTO {spec.source_name} VALUES (8001, '{day(10)} 12:00:00', 7, 'secret')")
    with world.source() as cursor:
        cursor.execute(f"SELECT order_status FROM {spec.source_name} WHERE order_status = 'secret' FOR UPDATE")
        cursor.execute("SELECT CONNECTION_ID()")
        thread = cursor.fetchone()[0]  # type: ignore[index]
        time.sleep(2.2)
        done = world.sync(spec)
    [line] = [line for line in done.warned if line.startswith("held: ")]
    assert line.startswith("held: the fence is 0:00:0")
    assert f"behind the clock, held by a transaction of rds_lake@127.0.0.1, connection {thread}, since 20" in line
    assert line.endswith(" UTC: newer rows come with a later sync")
    assert "secret" not in line
    landed = world.instance.fetch_materializations(dg.AssetKey("held_landing"), limit=1).records[0]
    told = landed.asset_materialization.metadata["fence held by"].value  # type: ignore[union-attr]
    assert f"connection {thread}" in str(told)


@stack_test
def test_a_cursor_without_an_index_is_a_warning_with_the_statement_that_mends_it(world: World) -> None:
    source = world.table("bare", "id INT PRIMARY KEY, at DATETIME", [(1, "2024-01-01")])
    spec = daily("bare", source_table=source)
    [line] = world.sync(spec).warned
    assert line == (
        "bare: no index of the source begins with the cursor, so each observation reads the whole table. Make one: "
        f"CREATE INDEX `rds_lake_{source}_at` ON `{source}` (`at`);"
    )
    world.ask(line.partition("Make one: ")[2])
    assert world.sync(spec).warned == []


# --- Dagster ---------------------------------------------------------------------------------------------------------


def observed(world: World, instance: dg.DagsterInstance, spec: TableSpec, job: str) -> dict[str, dg.AssetObservation]:
    """Run an observation's job; the events that it has recorded, by partition."""
    done = world.definitions(spec).resolve_job_def(job).execute_in_process(instance=instance)
    assert done.success
    events = [event.asset_observation_data.asset_observation for event in done.get_asset_observation_events()]
    return {str(event.partition): event for event in events}


@stack_test
def test_automation_follows_the_recent_and_the_full_observation_and_each_says_what_it_is(world: World) -> None:
    spec = recent_orders(world, "followed", recent_schedule="*/15 * * * *")
    assert world.sync(spec).ok
    definitions = world.definitions(spec)
    chain = {f"followed_{stage}" for stage in ("landing", "staging", "discarded", "archived", "warehouse")}
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None

        def tick() -> dict[str, set[str]]:
            nonlocal cursor
            result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
            cursor = result.cursor
            found = {key: result.get_requested_partitions(dg.AssetKey(key)) for key in chain}
            return {key: {str(part) for part in parts} for key, parts in found.items() if parts}

        full = observed(world, instance, spec, "followed_observation")
        assert sorted(full) == [day(number) for number in range(1, 11)]
        assert {event.metadata["observation"].value for event in full.values()} == {"full"}
        assert tick() == {key: set(full) for key in chain}
        for key in chain:
            for number in range(1, 11):
                instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day(number)))
        assert tick() == {}

        for number in (2, 10):
            world.ask(f"INSERT INTO {spec.source_name} VALUES ({9000 + number}, '{day(number)} 12:00:00', 7, 'CLOSED')")
        recent = observed(world, instance, spec, "followed_recent_observation")
        assert sorted(recent) == [day(1), *(day(number) for number in range(7, 11))]
        newest = recent[day(10)].metadata
        assert newest["observation"].value == "recent"
        assert str(newest["window"].value).startswith(f"{day(7)} 00:00:00 to {TODAY}")
        assert newest["rows"].value == 101
        assert tick() == {key: {day(10)} for key in chain}
        for key in chain:
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day(10)))

        observed(world, instance, spec, "followed_observation")
        assert tick() == {key: {day(2)} for key in chain}


def test_the_recent_schedule_is_there_when_the_yaml_asks_for_it() -> None:
    world = World({}, dg.DagsterInstance.ephemeral(), "")
    without = daily("t")
    asked = daily("t", recent_schedule="*/15 * * * *")
    for spec, expected in (
        (without, {"t_observation_schedule": "0 8 * * *"}),
        (asked, {"t_observation_schedule": "0 8 * * *", "t_recent_observation_schedule": "*/15 * * * *"}),
    ):
        schedules = world.definitions(spec).get_repository_def().schedule_defs
        assert {schedule.name: schedule.cron_schedule for schedule in schedules} == expected
    job = world.definitions(asked).resolve_job_def("t_recent_observation")
    assert job.tags["rds_lake/observe"] == "recent"


def test_a_recent_schedule_without_a_cursor_is_an_error_of_the_yaml() -> None:
    with pytest.raises(ValueError, match="recent_schedule without cursor: without one, nothing tells which rows"):
        TableSpec.model_validate({"table": "t", "recent_schedule": "*/15 * * * *"})
