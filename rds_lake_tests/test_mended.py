"""What a review found, on whole pipelines: each behaviour that was mended stays mended."""

import datetime as dt
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from pipeline import STAGES, World, failures, order_rows
from typer.testing import CliRunner

from rds_lake import cli
from rds_lake.assets import common
from rds_lake.assets import warehouse as warehouse_assets
from rds_lake.assets.warehouse import accounted_batches
from rds_lake.errors import ConfigError, PermanentError
from rds_lake.extract import snapshot as snapshots
from rds_lake.extract.fence import Fence
from rds_lake.lake import s3
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.local import stack as local_stack
from rds_lake.local.ports import HOST
from rds_lake.local.stack import Stack
from rds_lake.plan import observe
from rds_lake.resources.services import LakeResource, ProgressResource, RdsResource
from rds_lake.spec import TableSpec
from rds_lake.sync import WORKER_TAG, Sync, end_dead_runs, worker

stack_test = pytest.mark.stack

DAYS, ROWS = 3, 90
NOWHERE = 1  # a port of this machine on which nothing listens

SetFence = Callable[[str], None]


def day(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def orders(world: World, name: str, **more: Any) -> TableSpec:
    """A few orders over three days."""
    return world.orders(name, **{"rows": order_rows(ROWS, DAYS), **more})


def held(world: World, spec: TableSpec, order: int) -> list[str]:
    """The cursor values under which the warehouse holds an order."""
    found = world.query(
        f"SELECT order_last_updated FROM public.{spec.warehouse_name} WHERE order_id = %s ORDER BY 1", (order,)
    )
    return [str(moment) for (moment,) in found]


def sync_day(world: World, spec: TableSpec, number: int) -> None:
    """Sync one day of January alone."""
    done = world.sync(spec, since=day(f"2024-01-{number:02}"), until=day(f"2024-01-{number + 1:02}"))
    assert (done.ok, done.partitions) == (True, 1)


def move(world: World, spec: TableSpec, order: int, to: str) -> None:
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = %s WHERE order_id = %s", (to, order))


# --- the fence -------------------------------------------------------------------------------------------------------


def put_fence(patch: pytest.MonkeyPatch, at: str) -> None:
    given = Fence(at=day(at), held_back_by=dt.timedelta(), sees_transactions=True)
    patch.setattr(snapshots, "read_fence", lambda *_: given)


@pytest.fixture
def fence(monkeypatch: pytest.MonkeyPatch) -> SetFence:
    """Sets the instant that every snapshot from now on is cut off at."""
    return lambda at: put_fence(monkeypatch, at)


@pytest.fixture(scope="module")
def landed_until_evening(world: World) -> TableSpec:
    """Orders that were synced when the fence stood in the evening of the last day."""
    spec = orders(world, "fenced")
    with pytest.MonkeyPatch.context() as patch:
        put_fence(patch, "2024-01-03T18:00")
        assert world.sync(spec).ok
    assert 0 < world.manifests(spec.table, "landing")["2024-01-03"]["rows"] < ROWS // DAYS
    return spec


@pytest.fixture
def landed_late(landed_until_evening: TableSpec, fence: SetFence) -> TableSpec:
    """The same, seen with the fence of the afternoon of the day before."""
    fence("2024-01-02T15:00")
    return landed_until_evening


@stack_test
def test_an_observation_leaves_out_what_was_landed_under_a_later_fence(world: World, landed_late: TableSpec) -> None:
    seen = observe(RdsResource().source(), LakeResource().store(), landed_late)
    assert sorted(seen.fingerprints) == ["2024-01-01"]


@stack_test
def test_a_sync_under_an_earlier_fence_takes_nothing_back(world: World, landed_late: TableSpec) -> None:
    before = world.state(landed_late)
    done = world.sync(landed_late)
    assert (done.ok, done.partitions) == (True, 0)
    assert world.state(landed_late) == before


@stack_test
def test_a_landing_under_an_earlier_fence_keeps_the_batch_that_is_there(world: World, landed_late: TableSpec) -> None:
    before = world.state(landed_late)
    assert world.materialize(landed_late, *STAGES, partition="2024-01-01", upto="2024-01-03").success
    after = world.state(landed_late)
    assert after.content == before.content
    fences = [
        {at: m["fence"] for (_, at), m in state.manifests.items() if at > "2024-01-01"} for state in (before, after)
    ]
    assert fences[0] == fences[1]


@stack_test
def test_a_fence_that_has_come_back_lets_newer_rows_in(world: World, landed_late: TableSpec, fence: SetFence) -> None:
    world.ask(f"INSERT INTO {landed_late.source_name} VALUES (5001, '2024-01-02 20:00:00', 7, 'CLOSED')")
    assert world.sync(landed_late).partitions == 0, "the new row waits as well"
    fence("2024-02-01T00:00")
    done = world.sync(landed_late)
    assert (done.ok, done.partitions) == (True, 2), "the new row's day, and the last one, which was cut"
    world.assert_in_step(landed_late)
    assert world.sync(landed_late).partitions == 0


# --- rows that move --------------------------------------------------------------------------------------------------


@pytest.fixture
def moved_on(world: World, request: pytest.FixtureRequest) -> TableSpec:
    """Orders of which one has gone on from the 2nd to the 3rd; of that, only the 3rd is synced."""
    spec = orders(world, f"moved_{len(request.node.name)}")
    assert world.sync(spec).ok
    move(world, spec, 41, "2024-01-03 23:59:59")
    sync_day(world, spec, 3)
    assert held(world, spec, 41) == ["2024-01-03 23:59:59"]
    return spec


@stack_test
def test_the_ledger_does_not_vouch_for_a_partition_that_lost_a_row_to_a_newer_one(
    world: World, moved_on: TableSpec
) -> None:
    prints = {row[0]: (row[2], row[5], row[6]) for row in world.ledger(moved_on)}
    staged = world.manifests(moved_on.table, "staging")["2024-01-02"]["rows"]
    assert prints["2024-01-02"] == ("", staged - 1, staged - 1)
    assert [at for at, (mark, *_) in prints.items() if not mark] == ["2024-01-02"]


@stack_test
def test_a_row_that_moved_on_and_was_deleted_never_comes_back(world: World, moved_on: TableSpec) -> None:
    world.ask(f"DELETE FROM {moved_on.source_name} WHERE order_id = 41")
    sync_day(world, moved_on, 3)
    assert held(world, moved_on, 41) == [], "not even until the older day is synced"
    assert world.sync(moved_on).ok
    assert held(world, moved_on, 41) == []
    world.assert_in_step(moved_on)


@stack_test
def test_a_row_that_moved_on_and_back_again_is_there_once(world: World, moved_on: TableSpec) -> None:
    before = str(order_rows(ROWS, DAYS)[40][1])  # then its day has the fingerprint of the first sync again
    move(world, moved_on, 41, before)
    assert world.sync(moved_on).ok
    assert held(world, moved_on, 41) == [before]
    world.assert_in_step(moved_on)


@stack_test
@pytest.mark.parametrize("order", [(1, 3), (3, 1)], ids=["older first", "newer first"])
def test_a_back_dated_row_is_there_once_whichever_partition_comes_first(world: World, order: tuple[int, int]) -> None:
    spec = orders(world, f"backdated{order[0]}")
    assert world.sync(spec).ok
    move(world, spec, 71, "2024-01-01 12:00:00")
    for number in order:
        sync_day(world, spec, number)
    assert held(world, spec, 71) == ["2024-01-01 12:00:00"]
    world.assert_in_step(spec)
    assert world.sync(spec).partitions == 0


# --- loads -----------------------------------------------------------------------------------------------------------


@stack_test
def test_a_users_table_that_is_called_like_the_temporary_one_survives_a_load(world: World) -> None:
    world.query("CREATE TABLE public.incoming_kept (note TEXT)")
    world.query("INSERT INTO public.incoming_kept VALUES ('mine')")
    spec = orders(world, "kept")
    assert world.sync(spec).ok
    assert world.query("SELECT * FROM public.incoming_kept") == [("mine",)]
    world.assert_in_step(spec)


@stack_test
def test_a_run_whose_staged_batches_were_replaced_meanwhile_takes_the_new_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = orders(world, "replaced")
    assert world.sync(spec).ok
    manifests = Manifests(LakeResource().store(), TableKeys.of(spec))
    stale = accounted_batches(manifests, ["2024-01-02"])
    world.ask(f"INSERT INTO {spec.source_name} VALUES (5001, '2024-01-02 12:00:00', 7, 'CLOSED')")
    assert world.materialize(spec, *STAGES[:4], partition="2024-01-02").success
    answers = [stale]

    def read(*given: Any) -> Any:
        return answers.pop() if answers else accounted_batches(*given)

    monkeypatch.setattr(warehouse_assets, "accounted_batches", read)
    monkeypatch.setattr(common, "RETRY_SECONDS", 0)
    done = world.materialize(spec, "warehouse", partition="2024-01-02")
    assert done.success
    assert len([event for event in done.all_events if event.is_step_up_for_retry]) == 1
    world.assert_in_step(spec)


@pytest.fixture(scope="module")
def unaccounted(world: World) -> TableSpec:
    """Orders with a day that was landed again, and not split."""
    spec = orders(world, "alone")
    assert world.sync(spec).ok
    world.ask(f"INSERT INTO {spec.source_name} VALUES (5001, '2024-01-02 12:00:00', 7, 'CLOSED')")
    assert world.materialize(spec, "landing", partition="2024-01-02").success
    return spec


def not_accounted(spec: TableSpec) -> str:
    return (
        f"{spec.table}: the partition 2024-01-02 is not accounted for: its landed rows are not all staged or "
        f"discarded. Materialise {spec.table}_staging for it again, then load it."
    )


@stack_test
def test_batches_that_do_not_account_for_what_was_landed_are_no_batches_to_load(
    world: World, unaccounted: TableSpec
) -> None:
    manifests = Manifests(LakeResource().store(), TableKeys.of(unaccounted))
    assert [batch.partition for batch in accounted_batches(manifests, ["2024-01-01"])[0]] == ["2024-01-01"]
    with pytest.raises(PermanentError) as raised:
        accounted_batches(manifests, ["2024-01-01", "2024-01-02"])
    assert str(raised.value) == not_accounted(unaccounted)
    assert not isinstance(raised.value, ConflictError)


@stack_test
def test_a_run_of_the_warehouse_alone_does_not_load_what_is_not_accounted_for(
    world: World, unaccounted: TableSpec
) -> None:
    before = world.state(unaccounted)
    done = world.materialize(unaccounted, "warehouse", partition="2024-01-02")
    assert not done.success
    assert failures(done) == [not_accounted(unaccounted)]
    assert world.state(unaccounted) == before


@stack_test
def test_a_warehouse_schema_with_capitals_is_the_one_in_lower_case(world: World) -> None:
    spec = orders(world, "capital", warehouse={"schema": "ReportS", "table": "Capital_Orders"})
    done = world.sync(spec)
    assert (done.ok, done.failed) == (True, [])
    [(loaded,)] = world.query("SELECT COUNT(*) FROM reports.capital_orders")
    assert loaded == done.rows["warehouse"] == 87
    assert world.query("SELECT nspname FROM pg_namespace WHERE nspname ILIKE 'reports'") == [("reports",)]
    assert world.sync(spec).partitions == 0


@stack_test
def test_a_primary_key_that_is_dropped_has_the_table_landed_once_more_and_no_more(world: World) -> None:
    spec = orders(world, "keyless")
    assert world.sync(spec).ok
    world.ask(f"ALTER TABLE {spec.source_name} DROP PRIMARY KEY")
    done = world.sync(spec)
    assert (done.ok, done.partitions, done.rows["landing"]) == (True, DAYS, ROWS)
    assert not any(manifest["source_unique"] for manifest in world.manifests("keyless", "landing").values())
    again = world.sync(spec)
    assert (again.ok, again.partitions, again.rows) == (True, 0, {})
    world.assert_in_step(spec)


# --- what a sync says ------------------------------------------------------------------------------------------------


@stack_test
def test_a_hard_error_is_reported_although_a_check_failed_before(world: World) -> None:
    spec = orders(world, "hard")
    assert world.sync(spec).ok
    world.ask(f"INSERT INTO {spec.source_name} VALUES (6001, '2023-12-31', 1, 'CLOSED')")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (6002, '2024-01-02 12:00:00', 1, 'CLOSED')")
    world.query("ALTER TABLE public.hard RENAME COLUMN customer_id TO client_id")
    done = world.sync(spec)
    assert [line.partition(":")[0] for line in done.failed] == ["hard_raw in_a_partition"]
    assert done.error == (
        'The warehouse table "public"."hard" has the columns order_id, order_last_updated, client_id, order_status; it '
        "lacks customer_id, which partitions that are loaded had. Nothing was changed. Somebody dropped or renamed it: "
        "rename it back, or rename the whole table and materialise all partitions again."
    )


@stack_test
def test_a_row_that_no_partition_holds_does_not_keep_others_from_being_synced(world: World) -> None:
    spec = orders(world, "gaps", cursor={"column": "order_last_updated", "nulls": "exclude"})
    assert world.sync(spec).ok
    world.ask(f"INSERT INTO {spec.source_name} VALUES (6001, NULL, 1, 'CLOSED')")
    for number in (1, 3):
        world.ask(f"INSERT INTO {spec.source_name} VALUES ({6001 + number}, '2024-01-{number:02}', 1, 'CLOSED')")
    done = world.sync(spec)
    assert (done.ok, done.error, done.partitions) == (True, None, 2)
    assert any("in_a_partition" in line for line in done.warned)
    assert world.sync(spec).partitions == 0, "one sync did both"


@stack_test
def test_an_aws_endpoint_that_goes_away_during_a_run_is_named_with_the_remedy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = orders(world, "cutoff")
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(common, "RETRY_SECONDS", 0)

    def report(text: str) -> None:
        if text.startswith("cutoff "):  # observed and planned; the run comes next
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{NOWHERE}")

    done = Sync(world.definitions(spec), world.instance, report).table(spec)
    assert (done.ok, done.failed) == (False, [])
    said = done.error or ""
    assert said.startswith(f"The AWS endpoint could not be reached while asking for s3://{world.bucket}/cutoff/")
    assert said.endswith("Check AWS_ENDPOINT_URL and the network; 'rds-lake status' shows the local stack.")
    assert "botocore" not in said


@stack_test
def test_an_unknown_option_of_the_sources_address_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = orders(world, "optional")
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", world.environ["RDS_LAKE_SOURCE_URL"] + "?charset=latin1")
    with pytest.raises(ConfigError) as raised:
        world.sync(spec)
    assert str(raised.value) == (
        "RDS_LAKE_SOURCE_URL has the option 'charset', which is not known. Take it out. For TLS with a verified "
        "server give ssl_ca=<file of the authority's certificate>, for a compressed connection compress=true."
    )


@stack_test
def test_a_certificate_that_is_not_there_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = orders(world, "certified")
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", world.environ["RDS_LAKE_SOURCE_URL"] + "?ssl_ca=/no/such.pem")
    with pytest.raises(ConfigError) as raised:
        world.sync(spec)
    assert str(raised.value) == "The ssl_ca file '/no/such.pem' of RDS_LAKE_SOURCE_URL is not there. Correct its path."


# --- the sensor ------------------------------------------------------------------------------------------------------


def tick(world: World, spec: TableSpec, cursor: str | None = None) -> dg.SensorResult:
    """Evaluate the sensor of a table for landed batches, as the daemon does."""
    sensor = world.definitions(spec).resolve_sensor_def(f"{spec.table}_landed_elsewhere")
    context = dg.build_sensor_context(instance=world.instance, cursor=cursor, resources={"lake": LakeResource()})
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


@stack_test
@pytest.mark.parametrize("known_by", ["tag", "assets"])
def test_the_sensor_waits_while_a_run_of_the_tables_landing_is_unfinished(world: World, known_by: str) -> None:
    spec, other = orders(world, f"waiting_{known_by}"), orders(world, f"other_{known_by}")
    landing = dg.AssetKey(f"{spec.table}_landing")
    job = world.definitions(spec).resolve_implicit_global_asset_job_def()
    given: dict[str, Any] = (
        {"tags": {"rds_lake/table": spec.table}} if known_by == "tag" else {"asset_selection": frozenset({landing})}
    )
    run = world.instance.create_run_for_job(
        job.get_subset(asset_selection={landing}), status=dg.DagsterRunStatus.STARTED, **given
    )

    waiting = tick(world, spec, cursor='{"2024-01-01": "seen"}')
    assert waiting.skip_reason == dg.SkipReason(
        f"A run is landing {spec.table} now; its batches are recorded when it ends."
    )
    assert (waiting.run_requests, waiting.asset_events) == ([], [])
    assert waiting.cursor == '{"2024-01-01": "seen"}', "what was seen before is not forgotten"
    assert tick(world, other).skip_reason == dg.SkipReason(f"Nothing of {other.table} has been landed yet.")

    world.instance.report_run_failed(run)
    assert tick(world, spec).skip_reason == dg.SkipReason(f"Nothing of {spec.table} has been landed yet.")


@stack_test
def test_the_sensor_asks_for_nothing_when_it_ticks_between_a_manifest_and_its_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = orders(world, "racing", rows=[(1, day("2024-01-01T09:00"), 1, "CLOSED")])
    ticks: list[dg.SensorResult] = []

    def listen(asset: str, done: int, total: int) -> None:
        if asset == "racing_landing":  # its manifest is committed, its materialisation not recorded
            ticks.append(tick(world, spec))

    monkeypatch.setattr(ProgressResource, "listener", listen)
    assert world.sync(spec).ok
    assert [(result.run_requests, result.asset_events) for result in ticks] == [([], [])]


# --- the demo --------------------------------------------------------------------------------------------------------


@stack_test
def test_the_demo_does_not_write_into_a_database_that_was_given(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(*_: object, **__: object) -> None:
        pytest.fail("the demo started a stack")

    home = tmp_path / "home"
    given = stack.environ["RDS_LAKE_SOURCE_URL"]
    address = given.rpartition("@")[2]
    monkeypatch.setattr(local_stack, "up", up)
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", given)
    monkeypatch.setenv("RDS_LAKE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rds-lake", "demo", "--no-ui"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    said = capsys.readouterr()
    assert (raised.value.code, said.out) == (2, "")
    assert said.err == (
        f"error: RDS_LAKE_SOURCE_URL names {address}, and the demo would write its sample tables there. Unset "
        "RDS_LAKE_SOURCE_URL (look into .env too) to use the local MySQL, or say --use-my-database.\n"
    )
    assert list(tmp_path.iterdir()) == []


@stack_test
def test_the_local_stacks_own_database_is_not_one_that_was_given(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    own = stack.environ["RDS_LAKE_SOURCE_URL"]
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", own)
    assert local_stack.given_source(stack.home) == ""
    other = own.replace("@", "x@")  # the same server under another password is somebody's
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", other)
    assert local_stack.given_source(stack.home) == other


def test_the_demos_help_tells_of_the_users_own_database() -> None:
    shown = CliRunner().invoke(cli.app, ["demo", "--help"], env={"COLUMNS": "160", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert "--use-my-database" in shown.output
    assert "Write the samples into the database of RDS_LAKE_SOURCE_URL." in " ".join(shown.output.split())


# --- the YAML --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[True], ["YES", False], [1, True]])
def test_accepted_values_are_no_booleans(values: list[Any]) -> None:
    rule = {"rule": "accepted_values", "column": "a", "values": values}
    with pytest.raises(ValueError, match="which YAML makes of ON, OFF, YES and NO: put it in quotes"):
        TableSpec.model_validate({"table": "t", "rules": [rule]})


@pytest.mark.parametrize(
    "name", ["unique_key", "accounted_for", "schema_as_declared", "duplicate_key", "duplicate_row"]
)
def test_a_rule_has_no_name_of_a_check_that_is_always_there(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TableSpec.model_validate({"table": "t", "rules": [{"rule": "not_null", "column": "a", "name": name}]})


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_run_whose_process_is_gone_is_marked_as_failed_however_far_it_had_come(status):
    tags = {"rds_lake/trigger": "sync", WORKER_TAG: f"{socket.gethostname()}:{os.getpid()}:1"}  # started at the boot
    with dg.DagsterInstance.ephemeral() as instance:
        dead = create_run_for_test(instance, tags=tags, status=status)
        living = create_run_for_test(instance, tags={**tags, WORKER_TAG: worker()}, status=status)
        assert end_dead_runs(instance) == 1
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(living.run_id).status == status
