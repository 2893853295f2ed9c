"""The demo, as a user runs it: one command fills the source, syncs it whole, and every independent reader agrees.

All of it runs in a home of its own, through the commands only; what is left behind is read with each client's own
library.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from pipeline import LAKE, Row, World, data_files, exported, plain_rows, rds_lake, redshift, until, write_dagster_home

from rds_lake.definitions import PROJECT, defs
from rds_lake.local import stack as local_stack
from rds_lake.local.demo_data import DAYS, ORDERS, STATUSES
from rds_lake.spec import TableSpec
from rds_lake.sync import table_specs

pytestmark = [pytest.mark.stack, pytest.mark.slow]

NOTHING_DONE = "Everything was in step already; nothing was done"

HEAVY = ("pandas", "dagster_aws", "dagster_graphql", "dagster_webserver", "dagster_dg_core", "grpc", "uvicorn")
"""Packages that take long to import and that no sync needs: the UI's, and other people's components."""


@dataclass
class Demo:
    """What `rds-lake demo --no-ui` left behind."""

    world: World
    folder: Path
    said: str
    spec: TableSpec

    def sync(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return rds_lake("sync", *words, environ=self.world.environ, folder=self.folder)

    def orders(self) -> list[Row]:
        return plain_rows(self.world.ask("SELECT * FROM orders"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    environ = {"RDS_LAKE_HOME": str(folder / "home")}
    try:
        done = rds_lake("demo", "--no-ui", environ=environ, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        environ = exported(rds_lake("env", environ=environ, folder=folder).stdout)
        with dg.DagsterInstance.from_config(environ["DAGSTER_HOME"]) as instance:
            world = World(environ, instance, "demo")
            world.client("s3").create_bucket(Bucket=f"{world.bucket}-answers")
            yield Demo(world, folder, done.stdout, table_specs(defs)["orders"])
    finally:
        local_stack.down(folder / "home")


def test_every_reader_finds_all_orders_split_and_loaded(demo: Demo) -> None:
    world = demo.world
    source = demo.orders()
    good = Counter(row for row in source if row[3] in STATUSES)
    bad = Counter(row for row in source if row[3] not in STATUSES)
    assert len(source) == ORDERS == 68_883

    state = world.state(demo.spec)
    assert state.rows["landing"] == state.rows["archived"] == Counter(source)
    assert state.rows["staging"] == state.rows["warehouse"] == good
    assert Counter({row[:4]: count for row, count in state.rows["discarded"].items()}) == bad
    assert {row[4] for row in state.rows["discarded"]} == {("valid_status",)}
    assert state.counts["staging"] + state.counts["discarded"] == ORDERS
    assert Counter(stage for stage, _ in state.manifests) == dict.fromkeys(LAKE, DAYS)

    for stage in ("staging", "discarded", "archived"):
        [(rows,)] = world.athena(f"SELECT COUNT(*) FROM orders_{stage}")
        assert int(rows or 0) == state.counts[stage], stage
    assert f"{ORDERS:,}" in demo.said
    assert "In step" in demo.said


def test_landing_is_empty_and_the_archive_has_every_landed_file(demo: Demo) -> None:
    world = demo.world
    for table, days in (("orders", DAYS), ("customers", 1)):
        assert world.objects(f"{table}/landing/") == {}
        named = {
            world.key(entry["url"])
            for manifest in world.manifests(table, "landing").values()
            for entry in manifest["entries"]
        }
        assert named <= set(world.objects(f"{table}/archived/"))
        assert len(named) == days


def test_the_sources_own_log_of_extractions_got_a_row_for_each_table(demo: Demo) -> None:
    rows = demo.world.ask("SELECT DISTINCT tablename FROM fetch_details ORDER BY tablename")
    assert rows == [("customers",), ("orders",)]
    late = demo.world.ask("SELECT COUNT(*) FROM fetch_details WHERE last_fetched > updated_at OR last_fetched IS NULL")
    assert late == [(0,)]


def test_a_sync_that_finds_nothing_to_do_imports_nothing_that_it_does_not_need(demo: Demo) -> None:
    code = f"""import sys
sys.argv = ["rds-lake", "sync"]
from rds_lake.cli import main
try:
    main()
finally:
    print("imported:", *[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **demo.world.environ},
        cwd=demo.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert NOTHING_DONE in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


def outside(objects: dict[str, str], partition: str) -> dict[str, str]:
    return {key: etag for key, etag in objects.items() if partition not in key and "/_manifests/warehouse/" not in key}


def sums(demo: Demo) -> Row:
    """Numbers that any change of the warehouse's rows changes."""
    [row] = demo.world.query(
        "SELECT COUNT(*), SUM(CAST(order_id AS BIGINT) * customer_id), MIN(order_last_updated), "
        "SUM(EXTRACT(EPOCH FROM order_last_updated)), SUM(LENGTH(order_status)) FROM orders"
    )
    return row


def test_one_row_more_and_sync_is_one_row_more_in_the_warehouse_and_then_there_is_nothing_to_do(demo: Demo) -> None:
    world = demo.world
    objects, rows = world.objects("orders/"), sums(demo)[0]

    world.ask("INSERT INTO orders VALUES (70001, '2013-10-01 10:00:00', 1, 'COMPLETE')")
    done = demo.sync("orders")
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.query("SELECT * FROM orders WHERE order_id = 70001") == world.ask(
        "SELECT * FROM orders WHERE order_id = 70001"
    )
    loaded = sums(demo)
    assert loaded[0] == rows + 1
    after = world.objects("orders/")
    assert outside(after, "2013-10-01") == outside(objects, "2013-10-01")

    begin = time.monotonic()
    done = demo.sync()
    seconds = time.monotonic() - begin
    assert (done.returncode, NOTHING_DONE in done.stdout) == (0, True)
    assert seconds < 30, "5 s on an idle machine"
    assert world.objects("orders/") == after
    assert sums(demo) == loaded


FIVE = "orders_landing,orders_staging,orders_discarded,orders_archived,orders_warehouse"
LAUNCHES = (
    ("--assets", "orders_landing,orders_warehouse", "--partition", "2013-08-01"),
    ("--assets", FIVE, "--partition-range", "2013-08-02...2013-08-04"),
)


def test_dg_launch_on_a_partition_and_on_a_range_changes_no_count(demo: Demo) -> None:
    """Both at the same time, as two people would."""
    world = demo.world

    def state() -> tuple[object, ...]:
        ledger = {(row[0], row[1], row[5], row[6]) for row in world.ledger(demo.spec)}
        return data_files(world.objects("orders/")), sums(demo), ledger

    before, runs = state(), world.instance.get_runs_count()
    program = Path(sys.executable).parent / "dg"
    environ = {**os.environ, **world.environ}
    launched = [
        subprocess.Popen(
            [program, "launch", *words],
            env=environ,
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in LAUNCHES
    ]
    for process in launched:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    assert world.instance.get_runs_count() == runs + len(LAUNCHES)
    assert state() == before


def test_no_secret_stands_in_dagsters_records_in_a_log_or_in_the_output(demo: Demo) -> None:
    environ = demo.world.environ
    secrets = [environ["AWS_SECRET_ACCESS_KEY"]]
    secrets += [environ[name].split(":")[2].split("@")[0] for name in ("RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL")]
    home = Path(environ["RDS_LAKE_HOME"])
    files = [path for folder in (home / "dagster", home / "logs") for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [path for secret in secrets if secret.encode() in content]
    assert not [secret for secret in secrets if secret in demo.said]


def test_a_sync_that_was_killed_is_taken_up_again(demo: Demo, tmp_path: Path) -> None:
    """Killed once, wherever it happens to be, in a lake and a warehouse of its own."""
    world = demo.world
    with redshift(world.environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
        cursor.execute("CREATE DATABASE killed")
    world.client("s3").create_bucket(Bucket="killed")
    environ = {
        **world.environ,
        "RDS_LAKE_BUCKET": "killed",
        "RDS_LAKE_GLUE_DATABASE": "killed",
        "RDS_LAKE_WAREHOUSE_URL": world.environ["RDS_LAKE_WAREHOUSE_URL"].rsplit("/", 1)[0] + "/killed",
        "DAGSTER_HOME": str(write_dagster_home(tmp_path / "dagster")),
    }
    words = ("sync", "orders", "--since", "2013-09-01", "--until", "2013-09-11")
    wait = random.SystemRandom().uniform(0, 2)

    program = Path(sys.executable).parent / "rds-lake"
    with subprocess.Popen(
        [program, *words], env={**os.environ, **environ}, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("orders 2013-09-01"):
                break
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    was_killed = process.returncode == -signal.SIGKILL

    done = rds_lake(*words, environ=environ, folder=tmp_path)
    assert done.returncode == 0, (wait, done.stdout, done.stderr)
    other = World(environ, world.instance, "killed")
    where = "order_last_updated >= '2013-09-01' AND order_last_updated < '2013-09-11'"
    wanted = Counter(plain_rows(world.ask(f"SELECT * FROM orders WHERE {where}")))
    state = other.state(demo.spec)
    assert state.rows["landing"] == state.rows["archived"] == wanted, wait
    assert state.rows["staging"] == state.rows["warehouse"], wait
    assert state.counts["staging"] + state.counts["discarded"] == wanted.total()
    assert world.query("SELECT 1 FROM pg_stat_activity WHERE datname = 'killed'") == []
    with dg.DagsterInstance.from_config(environ["DAGSTER_HOME"]) as instance:
        statuses = Counter(run.status for run in instance.get_runs())
        assert set(statuses) <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}, wait
        assert statuses[dg.DagsterRunStatus.FAILURE] <= was_killed, wait  # none when killed before the run began
        for pool in ("rds", "warehouse"):
            until(lambda pool=pool: not instance.event_log_storage.get_concurrency_info(pool).claimed_slots)  # type: ignore[misc]
