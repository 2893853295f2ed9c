"""What runs by itself: exactly the partitions whose source changed, each once; and batches that others landed.

No daemon: conditions and sensors are evaluated here as the daemon would.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest
from pipeline import STAGES, World

from rds_lake.resources.services import LakeResource
from rds_lake.spec import TableSpec

stack_test = pytest.mark.stack

DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")
AFTER = STAGES[1:]


@pytest.fixture
def spec() -> TableSpec:
    """A table that no server is asked about."""
    return TableSpec.model_validate(
        {
            "table": "orders",
            "key": ["order_id"],
            "cursor": {"column": "order_last_updated"},
            "partitions": {"by": "day", "start": "2024-01-01"},
        }
    )


@dataclass
class Daemon:
    """The automation sensor's evaluations, one after the other."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    cursor: Any = None

    def tick(self) -> dict[str, set[str]]:
        """Evaluate once; the partitions that are requested, by asset."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = defaultdict(set)
        for key in self.definitions.resolve_asset_graph().materializable_asset_keys:
            if found := result.get_requested_partitions(key):
                requested[key.to_user_string()] = {str(partition) for partition in found}
        return dict(requested)

    def observe(self, versions: Mapping[str, str]) -> None:
        """Record an observation of the source, as its asset does."""
        for partition, version in versions.items():
            self.instance.report_runless_asset_event(
                dg.AssetObservation("orders_raw", partition=partition, tags={"dagster/data_version": version})
            )

    def materialize(self, partition: str, *stages: str) -> None:
        """Record that assets were made, as `rds-lake sync` or a person does."""
        for stage in stages or STAGES:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(f"orders_{stage}", partition=partition))


@pytest.fixture
def daemon(spec: TableSpec) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(World({}, instance, "").definitions(spec), instance)


def chain(*partitions: str) -> dict[str, set[str]]:
    return {f"orders_{stage}": set(partitions) for stage in STAGES}


@pytest.mark.parametrize("early", [True, False], ids=["before the first tick", "after the first tick"])
def test_the_first_observation_requests_every_observed_partition_and_the_chain_with_it(
    daemon: Daemon, early: bool
) -> None:
    if not early:
        assert daemon.tick() == {}, "what was never observed is not requested"
    daemon.observe(dict.fromkeys(DAYS, "1-a"))
    assert daemon.tick() == chain(*DAYS)
    assert daemon.tick() == {}


def test_exactly_the_partition_whose_fingerprint_changed_is_requested(daemon: Daemon) -> None:
    daemon.observe(dict.fromkeys(DAYS, "1-a"))
    daemon.tick()
    for day in DAYS:
        daemon.materialize(day)
    assert daemon.tick() == {}

    daemon.observe({DAYS[0]: "1-a", DAYS[1]: "2-b", DAYS[2]: "1-a"})
    assert daemon.tick() == chain(DAYS[1])
    daemon.materialize(DAYS[1])
    daemon.observe({DAYS[1]: "2-b"})
    assert daemon.tick() == {}, "the same versions again"


def test_a_run_that_failed_is_not_asked_for_again_until_the_source_changes(daemon: Daemon) -> None:
    daemon.tick()
    daemon.observe({DAYS[0]: "1-a"})
    assert daemon.tick() == chain(DAYS[0])
    for _ in range(3):
        daemon.observe({DAYS[0]: "1-a"})
        assert daemon.tick() == {}
    daemon.observe({DAYS[0]: "1-b"})
    assert daemon.tick() == chain(DAYS[0])


def test_a_sync_between_two_ticks_takes_the_request_back(daemon: Daemon) -> None:
    daemon.tick()
    daemon.observe({DAYS[0]: "1-a", DAYS[1]: "1-a"})
    daemon.materialize(DAYS[0])
    assert daemon.tick() == chain(DAYS[1])


def test_what_a_sync_has_done_before_the_first_tick_is_not_asked_for(daemon: Daemon) -> None:
    daemon.observe(dict.fromkeys(DAYS, "1-a"))
    for day in DAYS:
        daemon.materialize(day)
    assert daemon.tick() == {}
    daemon.observe({"2024-01-05": "1-a"})
    assert daemon.tick() == chain("2024-01-05")


def test_a_landing_alone_lets_the_rest_follow(daemon: Daemon) -> None:
    daemon.observe({DAYS[0]: "1-a"})
    daemon.tick()
    daemon.materialize(DAYS[0])
    daemon.tick()
    daemon.materialize(DAYS[0], "landing")
    assert daemon.tick() == {f"orders_{stage}": {DAYS[0]} for stage in AFTER}


def test_a_staging_whose_blocking_check_failed_is_not_followed(daemon: Daemon) -> None:
    daemon.observe({DAYS[0]: "1-a"})
    daemon.tick()
    daemon.materialize(DAYS[0])
    daemon.tick()
    daemon.materialize(DAYS[0], "staging")
    daemon.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=dg.AssetKey("orders_staging"), check_name="accounted_for", passed=False)
    )
    assert daemon.tick() == {}


SHOW = """
from rds_lake.definitions import defs
repository = defs.get_repository_def()
for item in (*repository.schedule_defs, *repository.sensor_defs):
    print(item.name, getattr(item, "cron_schedule", ""), item.default_status.value, bool(item.description), sep="|")
"""


def automations(status: str) -> list[str]:
    return [
        f"customers_landed_elsewhere||{status}|True",
        f"customers_observation_schedule|0 8 * * *|{status}|True",
        f"orders_landed_elsewhere||{status}|True",
        f"orders_observation_schedule|0 8 * * *|{status}|True",
        f"rds_lake_automation||{status}|True",
        f"supply_file_events||{status}|True",
        f"supply_file_listing||{status}|True",
        f"transactions_file_events||{status}|True",
        f"transactions_file_listing||{status}|True",
        f"transactions_files_schedule|0 8 * * *|{status}|True",
    ]


def test_schedules_and_sensors_are_stopped_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SHOW)
    assert sorted(capsys.readouterr().out.splitlines()) == automations("STOPPED")


def test_schedules_and_sensors_run_where_automation_is_on() -> None:
    environ = {**os.environ, "RDS_LAKE_AUTOMATION": "on"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOW], env=environ, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.splitlines()) == automations("RUNNING")


# --- batches that others landed ------------------------------------------------------------------------------------


@dataclass
class Sensor:
    """A table's sensor for landed batches, ticked by hand."""

    world: World
    spec: TableSpec
    cursor: str | None = None

    def tick(self) -> dg.SensorResult:
        """Evaluate once and record what it reports, as the daemon does."""
        definitions = self.world.definitions(self.spec)
        sensor = definitions.resolve_sensor_def(f"{self.spec.table}_landed_elsewhere")
        context = dg.build_sensor_context(
            instance=self.world.instance, cursor=self.cursor, resources={"lake": LakeResource()}
        )
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            self.world.instance.report_runless_asset_event(event)
        self.cursor = result.cursor
        return result


def land_elsewhere(world: World, table: str, partition: str, batch: str) -> None:
    """Land a batch without rds_lake: the rows of the current one under new names, but for one, and a manifest."""
    key = f"{table}/_manifests/landing/{partition}.json"
    manifest = json.loads(world.get(key))
    [entry] = manifest["entries"]
    content = world.get(world.key(entry["url"]))
    new = f"{table}/landing/order_last_updated_day={partition}/batch={batch}/part-00000.parquet"
    world.put(new, content)
    digest = hashlib.sha256(content).hexdigest()
    entry |= {"url": f"s3://{world.bucket}/{new}", "meta": {**entry["meta"], "sha256": digest}}
    world.put(key, json.dumps({**manifest, "batch": batch}).encode())


@stack_test
def test_a_batch_that_others_landed_is_noticed_once_and_taken_on(world: World) -> None:
    spec = world.orders("foreign")
    sensor = Sensor(world, spec)
    assert sensor.tick().skip_reason == dg.SkipReason("Nothing of foreign has been landed yet.")
    assert world.sync(spec).ok
    own = sensor.tick()
    assert (own.run_requests, own.asset_events) == ([], [])
    assert own.skip_reason == dg.SkipReason(
        "10 landed partitions of foreign are new or changed, all of them by Dagster's own runs."
    )
    idle = dg.SkipReason("No manifest of 10 landed partitions of foreign has changed since the last tick.")
    assert sensor.tick().skip_reason == idle

    land_elsewhere(world, "foreign", "2024-01-04", "by-a-colleague")
    noticed = sensor.tick()
    assert noticed.skip_reason is None
    [request] = noticed.run_requests or []
    assert (request.run_key, request.partition_key) == ("foreign:2024-01-04:by-a-colleague", "2024-01-04")
    assert request.asset_selection == [dg.AssetKey(f"foreign_{stage}") for stage in AFTER]
    assert request.tags["rds_lake/trigger"] == "landed elsewhere"
    [event] = noticed.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert (event.asset_key, event.partition) == (dg.AssetKey("foreign_landing"), "2024-01-04")
    assert (event.metadata["batch"].value, event.metadata["rows"].value) == ("by-a-colleague", 100)
    assert sensor.tick().skip_reason == idle

    assert world.materialize(spec, *AFTER, partition="2024-01-04").success
    assert world.manifests("foreign", "staging")["2024-01-04"]["parent"] == "by-a-colleague"
    world.assert_in_step(spec)
    archived = sensor.tick()
    assert (archived.run_requests, archived.asset_events) == ([], []), "the archive changed landing's manifest"


@stack_test
def test_the_source_asset_observes_a_fingerprint_for_each_partition(world: World) -> None:
    spec = world.orders("observed")
    definitions = world.definitions(spec)
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("observed_observation")
        assert job.execute_in_process(instance=instance).success
        seen = instance.fetch_observations(dg.AssetKey("observed_raw"), limit=100).records
    versions = {record.partition_key: record.asset_observation for record in seen}
    assert sorted(str(day) for day in versions) == [f"2024-01-{day:02}" for day in range(1, 11)]
    counts = {
        str(observation.tags["dagster/data_version"]).split("-")[0] for observation in versions.values() if observation
    }
    assert counts == {"100"}
