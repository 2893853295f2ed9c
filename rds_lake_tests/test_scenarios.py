"""The thirty-one ways in which tools that follow a cursor lose or repeat rows, each through the whole pipeline.

Every scenario ends with the same sentence: each row of the source is in the lake and in the warehouse exactly once, in
its newest version. Where a plain watermark goes wrong, `Watermark`, which is such a tool in ten lines, is run beside it
and has to go wrong: so such a scenario fails when it does not bring about what it tells of.
"""

# ruff: noqa: DTZ001, DTZ011 - a DATETIME is a wall-clock time without a zone

import datetime as dt
import inspect
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql
import pytest
from pipeline import LAKE, VALID, Row, World, mysql, order_rows, until

from rds_lake.definitions import PROJECT
from rds_lake.extract import reader, snapshot
from rds_lake.extract.fence import read_fence
from rds_lake.lake.gc import Collector
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.resources.services import LakeResource, WarehouseResource
from rds_lake.spec import TableSpec
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.ledger import loads
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import Target

pytestmark = [pytest.mark.stack, pytest.mark.slow]

Moment = dt.datetime
DAY = dt.datetime(2024, 1, 5)
MICROS = (
    "order_id INT PRIMARY KEY, order_last_updated DATETIME(6), customer_id INT, order_status VARCHAR(25), "
    "INDEX by_cursor (order_last_updated)"
)


class Watermark:
    """A tool that follows a cursor as most do: reads what is `>` (or `>=`) the highest value seen, and appends it."""

    def __init__(self, world: World, spec: TableSpec, comparison: str = ">", page: int = 10**6) -> None:
        self.world = world
        self.cursor = spec.cursor.column if spec.cursor else spec.key[0]
        self.text = f"SELECT * FROM {spec.source_name} WHERE {self.cursor} {comparison} %s ORDER BY {self.cursor}"
        self.comparison, self.page = comparison, page
        self.place = 0 if spec.cursor is None else 1
        self.seen: Any = dt.datetime(1000, 1, 1) if spec.cursor else 0
        self.rows: Counter[Row] = Counter()

    def read(self, keep: Callable[[Any], Any] = lambda value: value) -> None:
        """One run; `keep` is what becomes of the watermark when it is stored."""
        while True:
            found = self.world.ask(f"{self.text} LIMIT {self.page}", (self.seen,))
            self.rows.update(found)
            if found:
                self.seen = keep(max(row[self.place] for row in found))
            if len(found) < self.page:
                return

    def lost(self, spec: TableSpec) -> int:
        """Rows of the source that it never read."""
        return (Counter(self.world.ask(f"SELECT * FROM {spec.source_name}")) - self.rows).total()

    def doubled(self) -> int:
        """Rows that it wrote more than once."""
        return sum(count - 1 for count in self.rows.values())


_count = iter(range(1, 1000))


def few(world: World, rows: list[Row] | None = None, **more: Any) -> TableSpec:
    """A table of some orders of its own: thirty over three days unless given."""
    name = f"orders{next(_count)}"
    return world.orders(name, order_rows(30, 3) if rows is None else rows, **more)


def in_step(world: World, spec: TableSpec, *, swept: bool = False) -> None:
    """Sync, then compare every stage with the source, row by row.

    Args:
        world: the world.
        spec: the table.
        swept: remove first what a killed run or the loser of two left behind.
    """
    done = world.sync(spec)
    assert (done.ok, done.error, done.failed) == (True, None, [])
    if swept:
        lake, warehouse = LakeResource(), WarehouseResource().warehouse()
        with warehouse.connect() as session:
            collector = Collector(
                lake.store(), lake.catalog(), lambda table: loads(session, table), grace=dt.timedelta()
            )
            collector.sweep(spec)
    world.assert_in_step(spec)


def insert(world: World, spec: TableSpec, *rows: tuple[int, Moment | str]) -> None:
    """Insert valid orders: number and cursor."""
    with world.source() as cursor:
        cursor.executemany(f"INSERT INTO {spec.source_name} VALUES (%s, %s, 1, 'CLOSED')", rows)


CHILD = """
import os, signal, sys
import dagster as dg
from rds_lake.components.table_pipeline import table_definitions
from rds_lake.lake.catalog import Catalog
from rds_lake.lake.manifest import Manifests
from rds_lake.resources.services import build_resources
from rds_lake.spec import TableSpec
from rds_lake.sync import Sync
from rds_lake.warehouse.connection import Session

def die(*_, **__):
    print("dying", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

commit, execute = Manifests.commit, Session.execute
{where}
spec = TableSpec.model_validate_json({spec!r})
definitions = dg.Definitions.merge(
    table_definitions(spec), dg.Definitions(resources=build_resources(), executor=dg.in_process_executor)
)
with dg.DagsterInstance.ephemeral() as instance:
    print("ready", flush=True)
    sys.stdin.readline()
    done = Sync(definitions, instance).table(spec)
print(done.error or done.failed or "done", flush=True)
"""


def child(spec: TableSpec, where: str = "") -> "subprocess.Popen[str]":
    """A process of its own that syncs a table once it is told to."""
    text = CHILD.format(spec=spec.model_dump_json(by_alias=True), where=where)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


DIES_BEFORE = """
def before(self, text, parameters=()):
    return die() if text.startswith({0!r}) else execute(self, text, parameters)
Session.execute = before
"""
DIES_AFTER = """
def after(self, text, parameters=()):
    found = execute(self, text, parameters)
    return die() if text.startswith({0!r}) else found
Session.execute = after
"""
DIES_AT_STAGE = """
def at_stage(self, manifest, replacing):
    return die() if manifest.stage == {0!r} else commit(self, manifest, replacing)
Manifests.commit = at_stage
"""


def dies(world: World, spec: TableSpec, where: str) -> None:
    """Sync in a process that is killed at one step: `where` is Python that replaces it by `die`."""
    with child(spec, where) as process:
        said, errors = process.communicate("go\n", timeout=120)
    assert process.returncode == -signal.SIGKILL, (said, errors)
    assert set(said.split()) <= {"ready", "dying", "dyingdying"}, said  # two threads may come there at once
    assert "dying" in said


def visible(world: World, spec: TableSpec, stage: str = "staging") -> int:
    """How many rows a query of Athena sees."""
    [(rows,)] = world.athena(f'SELECT COUNT(*) FROM "{spec.asset(stage)}"')  # type: ignore[arg-type]
    return int(rows or 0)


def recent(world: World, **more: Any) -> TableSpec:
    """A table for rows that are stamped with the present moment, DATETIME(6)."""
    name = f"recent{next(_count)}"
    spec = few(world, [], partitions={"by": "day", "start": dt.date.today() - dt.timedelta(days=2)}, **more)
    source = world.table(name, MICROS)
    return TableSpec.model_validate({**spec.model_dump(by_alias=True), "source_table": source})


def other(world: World) -> "pymysql.Connection[Any]":
    """A writer's own connection, whose transaction stays open until it commits."""
    with mysql(world.environ["RDS_LAKE_SOURCE_URL"]) as cursor:
        given = cursor.connection
        host, port, user, password, database = given.host, given.port, given.user, given.password, given.db
    return pymysql.connect(
        host=host, port=port, user=user, password=password, database=database, init_command="SET time_zone='+00:00'"
    )


def past_the_fence(world: World, spec: TableSpec) -> None:
    """Wait until the fence has passed everything that is committed."""
    [(newest,)] = world.ask(f"SELECT MAX(order_last_updated) FROM {spec.source_name}")
    until(lambda: world.ask("SELECT NOW(6) - INTERVAL 2100000 MICROSECOND")[0][0] > newest)


# --- ties -----------------------------------------------------------------------------------------------------------


def test_01_rows_that_commit_later_with_the_same_cursor_value_arrive_once(world: World) -> None:
    spec = few(world, [(1, DAY, 1, "CLOSED"), (2, DAY, 1, "CLOSED")])
    naive = Watermark(world, spec)
    in_step(world, spec)
    naive.read()
    insert(world, spec, (3, DAY), (4, DAY))
    in_step(world, spec)
    naive.read()
    assert naive.lost(spec) == 2


def test_02_reading_again_at_the_same_value_repeats_nothing(world: World) -> None:
    spec = few(world, [(1, DAY, 1, "CLOSED"), (2, DAY, 1, "CLOSED")])
    naive = Watermark(world, spec, ">=")
    for _ in range(3):
        in_step(world, spec)
        naive.read()
    assert naive.doubled() == 4


def test_03_a_page_that_ends_inside_a_cursor_value_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_ROWS", 50)
    days = [DAY + dt.timedelta(days=day) for day in range(3)]
    spec = few(world, [(number + 1, days[number % 3], 1, "CLOSED") for number in range(420)])
    in_step(world, spec)
    naive = Watermark(world, spec, page=50)
    naive.read()
    assert naive.lost(spec) == 3 * 90


# --- transactions that commit late ----------------------------------------------------------------------------------


def test_04_a_transaction_that_stamps_before_a_run_and_commits_after_it_arrives(world: World) -> None:
    spec = recent(world)
    naive = Watermark(world, spec), Watermark(world, spec, ">=")
    late = other(world)
    with late.cursor() as cursor:
        cursor.execute(f"INSERT INTO {spec.source_name} VALUES (1, NOW(6), 1, 'CLOSED')")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (2, NOW(6), 1, 'CLOSED')")
    past_the_fence(world, spec)
    done = world.sync(spec)
    for each in naive:
        each.read()
    assert (done.ok, done.rows) == (True, {}), "the open transaction holds the fence below both rows"

    late.commit()
    late.close()
    time.sleep(0.3)  # the server shows a transaction for another 0.1 s
    in_step(world, spec)
    for each in naive:
        each.read()
        assert each.lost(spec) == 1


def test_05_a_lower_number_that_commits_after_a_higher_one_is_not_lost(world: World) -> None:
    source = world.table("numbered", "id BIGINT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(20)")
    spec = TableSpec.model_validate(
        {"table": "numbered", "source_table": source, "key": ["id"], "warehouse": {"table": "numbered"}}
    )
    naive = Watermark(world, spec)
    late = other(world)
    with late.cursor() as cursor:
        cursor.execute(f"INSERT INTO {source} (body) VALUES ('low')")
    world.ask(f"INSERT INTO {source} (body) VALUES ('high')")
    assert world.sync(spec).ok
    naive.read()
    assert world.warehouse_rows(spec) == {(2, "high"): 1}

    late.commit()
    late.close()
    assert world.sync(spec).ok
    naive.read()
    assert world.warehouse_rows(spec) == {(1, "low"): 1, (2, "high"): 1}
    assert naive.lost(spec) == 1


def test_06_a_commit_between_the_look_at_the_bound_and_the_read_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = recent(world)
    naive = Watermark(world, spec)
    naive.read()
    late = other(world)
    with late.cursor() as cursor:
        cursor.execute(f"INSERT INTO {spec.source_name} VALUES (1, NOW(6), 1, 'CLOSED')")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (2, NOW(6), 1, 'CLOSED')")
    past_the_fence(world, spec)
    naive.rows.update(world.ask(f"SELECT * FROM {spec.source_name}"))  # its snapshot ...

    def look_then_commit(*given: Any, **more: Any) -> Any:
        seen = read_fence(*given, **more)
        late.commit()
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "read_fence", look_then_commit)
        world.sync(spec)
    late.close()
    time.sleep(0.3)  # the server shows a transaction for another 0.1 s
    in_step(world, spec)
    [(naive.seen,)] = world.ask(f"SELECT MAX(order_last_updated) FROM {spec.source_name}")  # ... its bound
    naive.read()
    assert naive.lost(spec) == 1


def test_07_rows_at_the_highest_stored_value_still_come(world: World) -> None:
    spec = few(world)
    in_step(world, spec)
    [(highest,)] = world.ask(f"SELECT MAX(order_last_updated) FROM {spec.source_name}")
    naive = Watermark(world, spec)
    naive.read()
    insert(world, spec, (101, highest))
    in_step(world, spec)
    naive.read()
    assert naive.lost(spec) == 1


# --- microseconds ---------------------------------------------------------------------------------------------------


def test_08_values_that_differ_in_microseconds_neither_stick_nor_get_lost(world: World) -> None:
    spec = few(world, [])
    world.ask(f"ALTER TABLE {spec.source_name} MODIFY order_last_updated DATETIME(6)")
    naive = Watermark(world, spec), Watermark(world, spec, ">=")

    def cut(moment: Moment) -> Moment:
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    for micro in range(1, 5):
        insert(
            world, spec, (micro, DAY.replace(microsecond=micro)), (10 + micro, DAY.replace(microsecond=999_994 + micro))
        )
        in_step(world, spec)
        naive[0].read()
        naive[1].read(cut)
    assert naive[0].lost(spec) > 0
    assert naive[1].doubled() > 0
    stored = {row[1] for row in world.warehouse_rows(spec)}
    assert {moment.microsecond for moment in stored} == {1, 2, 3, 4, 999_995, 999_996, 999_997, 999_998}


def test_09_rows_in_the_gap_that_a_rounded_state_would_skip_arrive(world: World) -> None:
    spec = few(world, [])
    world.ask(f"ALTER TABLE {spec.source_name} MODIFY order_last_updated DATETIME(6)")
    naive = Watermark(world, spec)
    insert(world, spec, (1, DAY.replace(microsecond=600_000)))
    in_step(world, spec)
    naive.read(lambda moment: moment.replace(microsecond=0) + dt.timedelta(seconds=1))
    insert(world, spec, (2, DAY.replace(microsecond=800_000)))
    in_step(world, spec)
    naive.read()
    assert naive.lost(spec) == 1


# --- rows that change -----------------------------------------------------------------------------------------------


def test_10_a_row_whose_cursor_is_null_at_first_arrives_before_and_after_it_is_set(world: World) -> None:
    spec = few(world)
    naive = Watermark(world, spec)
    in_step(world, spec)
    world.ask(f"INSERT INTO {spec.source_name} VALUES (101, NULL, 1, 'CLOSED'), (102, NULL, 1, 'CLOSED')")
    in_step(world, spec)
    naive.read()
    assert naive.lost(spec) == 2
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = '2024-01-02 10:00:00' WHERE order_id = 101")
    in_step(world, spec)
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = NULL WHERE order_id = 101")
    in_step(world, spec)


def test_11_a_row_that_is_updated_while_pages_are_read_is_there_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_ROWS", 10)
    spec = few(world, order_rows(300, 3))
    naive = Watermark(world, spec, page=100)
    naive.rows.update(world.ask(f"SELECT * FROM {spec.source_name} WHERE order_id <= 100"))  # its first page
    decode = reader.decode
    pages = []

    def update_between(*given: Any) -> Any:
        pages.append(1)
        if len(pages) == 3:
            world.ask(
                f"UPDATE {spec.source_name} SET order_last_updated = '2024-01-03 12:00:00', order_status = 'ON_HOLD' "
                "WHERE order_id IN (5, 150, 295)"
            )
        return decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(reader, "decode", update_between)
        assert world.sync(spec).ok
    assert len(pages) > 3
    in_step(world, spec)
    naive.seen = dt.datetime(2024, 1, 1, 23, 59, 59)
    naive.read()
    assert Counter(row[0] for row in naive.rows)[5] == 2, "the old and the new version"


def test_12_a_clock_that_is_set_back_an_hour_loses_nothing(world: World) -> None:
    spec = few(world, [])
    naive = Watermark(world, spec), Watermark(world, spec, ">=")
    clock = int(dt.datetime(2024, 1, 5, 3, 0, tzinfo=dt.UTC).timestamp())
    for number, shown in enumerate([clock, clock + 600, clock - 3600 + 660, clock - 3600 + 720, clock + 700]):
        with world.source() as cursor:
            cursor.execute(f"SET timestamp = {shown}")
            cursor.execute(f"INSERT INTO {spec.source_name} VALUES ({number + 1}, NOW(), 1, 'CLOSED')")
        in_step(world, spec)
        for each in naive:
            each.read()
    assert [each.lost(spec) for each in naive] == [2, 2]


def test_12_a_timestamp_is_read_in_utc_whatever_the_zone_of_the_writer(world: World) -> None:
    spec = few(world, [])
    world.ask(f"ALTER TABLE {spec.source_name} MODIFY order_last_updated TIMESTAMP(6) NULL")
    for number, zone in enumerate(["+00:00", "+05:30", "-08:00"]):
        with world.source() as cursor:
            cursor.execute(f"SET time_zone = '{zone}'")
            cursor.execute("SET timestamp = 1704458096.5")
            cursor.execute(f"INSERT INTO {spec.source_name} VALUES ({number + 1}, NOW(6), 1, 'CLOSED')")
    in_step(world, spec)
    assert {row[1] for row in world.warehouse_rows(spec)} == {dt.datetime(2024, 1, 5, 12, 34, 56, 500_000)}


def test_13_a_row_that_is_deleted_at_the_source_leaves_lake_and_warehouse(world: World) -> None:
    spec = few(world)
    naive = Watermark(world, spec)
    in_step(world, spec)
    naive.read()
    world.ask(f"DELETE FROM {spec.source_name} WHERE order_id IN (1, 15)")
    in_step(world, spec)
    naive.read()
    assert {row[0] for row in naive.rows} >= {1, 15}, "it keeps them for ever"


def test_14_a_key_that_changes_at_the_source_does_not_stay_under_its_old_value(world: World) -> None:
    spec = few(world)
    naive = Watermark(world, spec)
    in_step(world, spec)
    naive.read()
    world.ask(f"UPDATE {spec.source_name} SET order_id = 1001 WHERE order_id = 1")
    world.ask(
        f"UPDATE {spec.source_name} SET order_id = 1002, order_last_updated = '2024-01-03 23:00:00' WHERE order_id = 2"
    )
    in_step(world, spec)
    naive.read()
    assert {1, 2, 1002} <= {row[0] for row in naive.rows}
    assert 1001 not in {row[0] for row in naive.rows}


# --- crashes --------------------------------------------------------------------------------------------------------


def test_15_a_crash_between_the_files_and_the_commit_leaves_the_rows_once(world: World) -> None:
    spec = few(world)
    dies(world, spec, DIES_AT_STAGE.format("landing"))
    assert world.objects(f"{spec.table}/landing/"), "files were written"
    assert not world.manifests(spec.table, "landing")
    in_step(world, spec, swept=True)


def test_16_a_partition_that_was_committed_and_not_registered_appears_with_the_next_run(world: World) -> None:
    spec = few(world)
    dies(world, spec, "Catalog.register = die")
    assert len(world.manifests(spec.table, "landing")) == 3
    in_step(world, spec)
    assert visible(world, spec) == world.assert_in_step(spec).counts["staging"]


def test_17_data_that_committed_although_its_state_was_never_recorded_are_not_repeated(world: World) -> None:
    spec = few(world)
    naive = Watermark(world, spec)
    dies(world, spec, DIES_AFTER.format("COMMIT"))
    naive.read(lambda _: naive.seen)  # what it appended is there, its state is not
    valid = sum(row[3] in VALID for row in world.ask(f"SELECT * FROM {spec.source_name}"))
    assert world.warehouse_rows(spec).total() == valid
    with dg.DagsterInstance.ephemeral() as empty:  # Dagster's own records are lost as well
        done = world.sync(spec, empty)
    assert (done.ok, done.partitions) == (True, 0)
    world.assert_in_step(spec)
    naive.read()
    assert naive.doubled() == 30


@pytest.mark.parametrize("before", ["DELETE FROM", "INSERT INTO", "COMMIT", "COPY"])
def test_18_a_crash_in_the_middle_of_a_load_leaves_every_key_once(world: World, before: str) -> None:
    spec = few(world)
    in_step(world, spec)
    old = world.warehouse_rows(spec)
    insert(world, spec, (101, "2024-01-02 10:00:00"))
    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = '2024-01-03 10:00:00' WHERE order_id = 12")
    dies(world, spec, DIES_BEFORE.format(before))
    assert world.warehouse_rows(spec) == old
    in_step(world, spec)


def test_19_what_was_acknowledged_before_a_kill_is_there_afterwards(world: World) -> None:
    spec = few(world)
    dies(world, spec, DIES_AFTER.format("COMMIT"))
    world.assert_in_step(spec)
    done = world.sync(spec)
    assert (done.ok, done.partitions) == (True, 0)


def test_20_two_syncs_of_one_table_at_once_end_with_every_row_once(world: World) -> None:
    spec = few(world, order_rows(300, 10))
    first, second = child(spec), child(spec)
    for process in (first, second):
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in (first, second):
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].strip() for process in (first, second)]
    assert all(line == "done" or "another run" in line for line in said), said
    assert "done" in said
    in_step(world, spec, swept=True)


def load_twice(world: World, spec: TableSpec) -> None:
    """Load all staged batches twice at once: one load stands between DELETE and INSERT when the other begins."""
    store, execute = LakeResource().store(), Session.execute
    staged = [
        item.manifest
        for item in Manifests(store, TableKeys.of(spec))
        .read_all("staging", ["2024-01-01", "2024-01-02", "2024-01-03"])
        .values()
    ]
    emptied, go = threading.Event(), threading.Event()
    fills = tuple(f'{word} "public"."{spec.warehouse_name}"' for word in ("INSERT INTO", "COPY"))

    def stand(self: Session, text: str, parameters: tuple[Any, ...] = ()) -> Any:
        if text.startswith(fills) and not emptied.is_set():
            emptied.set()
            assert go.wait(60)
        return execute(self, text, parameters)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(Session, "execute", stand)
        first = pool.submit(load, WarehouseResource().warehouse(), store, spec, staged)
        try:
            assert emptied.wait(60)
            second = pool.submit(load, WarehouseResource().warehouse(), store, spec, staged)
            until(lambda: second.done() or world.query("SELECT 1 FROM pg_locks WHERE NOT granted") != [])
        finally:
            go.set()
        for loaded in (first, second):
            loaded.result()


def test_21_two_loads_of_the_same_keys_at_once_leave_no_key_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = few(world)
    assert world.materialize(spec, *LAKE, partition="2024-01-01", upto="2024-01-03", checks=False).success
    for _ in range(2):  # into an empty target, into a full one
        load_twice(world, spec)
        world.assert_in_step(spec)

    world.query(f'DELETE FROM "public"."{spec.warehouse_name}"')
    world.query("DELETE FROM rds_lake.load_ledger WHERE table_name = %s", (spec.table,))
    monkeypatch.setattr(Target, "lock", lambda _: "SELECT 1")
    load_twice(world, spec)
    assert set(world.warehouse_rows(spec).values()) == {2}, "without the lock every row is there twice"


def test_22_a_load_that_fails_after_it_emptied_the_target_leaves_the_old_rows(world: World) -> None:
    source = world.table("whole", "id INT PRIMARY KEY, body VARCHAR(20)", [(1, "old"), (2, "old")])
    spec = TableSpec.model_validate(
        {"table": "whole", "source_table": source, "key": ["id"], "warehouse": {"table": "whole"}}
    )
    assert world.sync(spec).ok
    old = world.warehouse_rows(spec)
    world.ask(f"UPDATE {source} SET body = 'new'")
    dies(world, spec, DIES_AFTER.format(f'DELETE FROM "public"."{spec.warehouse_name}"'))
    assert world.warehouse_rows(spec) == old
    assert world.sync(spec).ok
    assert world.warehouse_rows(spec) == {(1, "new"): 1, (2, "new"): 1}


def test_23_of_a_key_that_stands_twice_in_a_batch_the_newest_row_wins_and_the_other_is_accounted_for(
    world: World,
) -> None:
    spec = few(world, [])
    world.ask(f"ALTER TABLE {spec.source_name} DROP PRIMARY KEY")
    insert(world, spec, (1, DAY), (1, DAY + dt.timedelta(hours=1)), (2, DAY))
    done = world.sync(spec)
    assert done.error is None
    state = world.state(spec)
    assert state.rows["warehouse"] == {
        (1, DAY + dt.timedelta(hours=1), 1, "CLOSED"): 1,
        (2, DAY, 1, "CLOSED"): 1,
    }
    assert state.counts == {"landing": 3, "staging": 2, "discarded": 1, "archived": 3, "warehouse": 2}


def test_24_a_replacement_that_dies_half_way_leaves_readers_the_old_rows(world: World) -> None:
    spec = few(world)
    in_step(world, spec)
    before = world.lake_rows(spec.table, "staging"), visible(world, spec)
    world.ask(f"DELETE FROM {spec.source_name} WHERE order_id < 20")
    dies(world, spec, DIES_AT_STAGE.format("staging"))
    assert (world.lake_rows(spec.table, "staging"), visible(world, spec)) == before
    in_step(world, spec)
    assert visible(world, spec) < before[1]


# --- others, events, schemas, types ---------------------------------------------------------------------------------


def test_25_a_table_whose_name_begins_like_another_one_is_left_alone(world: World) -> None:
    orders, archive = world.orders("sales", order_rows(30, 3)), world.orders("sales_archive", order_rows(60, 3))
    for spec in (orders, archive):
        in_step(world, spec)
    before = world.outline(archive), world.warehouse_rows(archive)
    world.ask(f"DELETE FROM {orders.source_name} WHERE order_id > 10")
    in_step(world, orders)
    assert (world.outline(archive), world.warehouse_rows(archive)) == before
    world.materialize(orders, "warehouse", partition="2024-01-01", upto="2024-01-03")
    world.assert_in_step(orders)
    world.assert_in_step(archive)


def test_26_a_landed_batch_that_is_announced_twice_late_or_never_is_loaded_once(world: World) -> None:
    spec = few(world)
    definitions = world.definitions(spec)
    assert world.materialize(spec, "landing", partition="2024-01-01", upto="2024-01-03").success
    [sensor] = [each for each in definitions.sensors or () if each.name.endswith("landed_elsewhere")]
    with dg.DagsterInstance.ephemeral() as other_instance:  # to it, the batches were landed elsewhere
        ticks = []
        for _ in range(2):  # the cursor is lost in between: everything is announced twice
            with dg.build_sensor_context(
                instance=other_instance,
                repository_def=definitions.get_repository_def(),
                resources={"lake": LakeResource()},
            ) as context:
                ticks.append(sensor(context))
        keys = [{request.run_key for request in tick.run_requests} for tick in ticks]
        assert keys[0] == keys[1], "Dagster starts one run for each key"
        assert len(keys[0]) == 3
    for _ in range(2):
        for partition in ("2024-01-03", "2024-01-01"):  # twice, out of order, and the third never
            assert world.materialize(spec, "staging", "discarded", "archived", "warehouse", partition=partition).success
    in_step(world, spec)


def test_27_a_column_that_is_added_renamed_widened_or_narrowed_leaves_no_partition_unreadable(world: World) -> None:
    spec = few(world)
    in_step(world, spec)
    changes = (
        "MODIFY customer_id BIGINT",
        "ADD note VARCHAR(20) NOT NULL DEFAULT 'none' AFTER order_id",
        "RENAME COLUMN note TO remark",
        "MODIFY order_status VARCHAR(12)",
        "DROP COLUMN remark",
    )
    for number, change in enumerate(changes, 101):
        world.ask(f"ALTER TABLE {spec.source_name} {change}")
        world.ask(
            f"INSERT INTO {spec.source_name} (order_id, order_last_updated, customer_id, order_status) "
            f"VALUES ({number}, '2024-01-02 10:00:00', {2**40}, 'CLOSED')"
        )
        done = world.sync(spec)
        assert (done.ok, done.error) == (True, None), change
        columns = [row[0] for row in world.ask(f"SHOW COLUMNS FROM {spec.source_name}")]
        source = Counter(
            world.ask(f"SELECT {', '.join(columns)} FROM {spec.source_name} WHERE order_status IN {VALID}")
        )
        named = ", ".join(f'"{column}"' for column in columns)
        assert Counter(world.query(f'SELECT {named} FROM "public"."{spec.warehouse_name}"')) == source, change
        assert visible(world, spec) == source.total(), change
        [(total,)] = world.athena(f'SELECT COUNT(customer_id) FROM "{spec.asset("staging")}"')
        assert int(total or 0) == source.total(), change


def test_28_thirty_characters_that_are_more_bytes_load(world: World) -> None:
    texts = ["González" + "x" * 22, "\N{SNOWMAN}" * 30, "\N{PILE OF POO}" * 30, "x" * 30]
    source = world.table("wide", "id INT PRIMARY KEY, body VARCHAR(30)", list(enumerate(texts)))
    spec = TableSpec.model_validate(
        {"table": "wide", "source_table": source, "key": ["id"], "warehouse": {"table": "wide"}}
    )
    assert world.sync(spec).ok
    assert world.warehouse_rows(spec) == dict.fromkeys(enumerate(texts), 1)


def test_29_times_in_parquet_are_microseconds_for_every_reader(world: World) -> None:
    spec = few(world, [])
    world.ask(f"ALTER TABLE {spec.source_name} MODIFY order_last_updated DATETIME(6)")
    moments = [dt.datetime(2024, 1, 5, 0, 0, 0), dt.datetime(2024, 1, 5, 23, 59, 59, 999_999)]
    insert(world, spec, *enumerate(moments))
    in_step(world, spec)
    for stage in ("staging", "archived"):
        [manifest] = [found for found in world.manifests(spec.table, stage).values() if found["rows"]]
        content = world.get(world.key(manifest["entries"][0]["url"]))
        assert pq.read_schema(io.BytesIO(content)).field("order_last_updated").type == pa.timestamp("us")
    told = world.athena(f'SELECT CAST(year(order_last_updated) AS VARCHAR) FROM "{spec.asset("staging")}"')
    assert set(told) == {("2024",)}
    assert {row[1] for row in world.warehouse_rows(spec)} == set(moments)


def test_30_a_source_that_stops_in_the_middle_fails_the_run_and_moves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = few(world, order_rows(30, 3))
    in_step(world, spec)
    before = world.state(spec).content
    world.ask(  # more than the sockets' buffers hold
        f"INSERT INTO {spec.source_name} SELECT seq + 1000, '2024-01-02 01:00:00', 1, REPEAT('x', 25) "
        "FROM seq_1_to_200000"
    )
    decode, started = reader.decode, reader.Stream.__init__
    numbers: list[int] = []

    def start(self: reader.Stream, driver: Any, *given: Any) -> None:
        numbers.append(driver.thread_id())
        started(self, driver, *given)

    def stop(*given: Any) -> Any:
        while numbers:
            world.ask(f"KILL {numbers.pop()}")
        return decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(reader.Stream, "__init__", start)
        patch.setattr(reader, "decode", stop)
        patch.setattr("rds_lake.assets.common.RETRIES", 0)
        patch.setattr(time, "sleep", lambda _: None)
        done = world.sync(spec)
    assert not done.ok
    assert done.error
    assert world.state(spec).content == before
    in_step(world, spec)


def test_31_a_run_that_finds_nothing_new_writes_nothing(world: World) -> None:
    spec = few(world)
    naive = Watermark(world, spec, ">=")
    in_step(world, spec)
    naive.read()
    before = world.state(spec)
    execute = Session.execute
    copied: list[str] = []

    def listen(self: Session, text: str, parameters: tuple[Any, ...] = ()) -> Any:
        copied.extend([text] if text.startswith("COPY") else [])
        return execute(self, text, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "execute", listen)
        for _ in range(2):
            done = world.sync(spec)
            assert (done.ok, done.partitions, done.rows) == (True, 0, {})
            naive.read()
    assert world.state(spec) == before
    assert copied == []
    assert naive.doubled() == 2, "it writes the newest row again each time"


def test_every_scenario_has_its_test() -> None:
    numbered = {name.split("_")[1] for name in globals() if name.startswith("test_") and name[5:7].isdigit()}
    assert numbered == {f"{number:02d}" for number in range(1, 32)}


def test_the_guarantees_say_beside_which_scenarios_a_plain_watermark_runs() -> None:
    tests = [(name[5:7], test) for name, test in globals().items() if name.startswith("test_") and name[5:7].isdigit()]
    beside = {number for number, test in tests if "Watermark(" in inspect.getsource(test)}
    assert beside == {f"{number:02d}" for number in (*range(1, 15), 17, 31)}
    page = (PROJECT / "docs/guarantees.md").read_text(encoding="utf-8")
    assert "beside the [scenarios](../rds_lake_tests/test_scenarios.py) 01 to 14, 17 and 31, and" in " ".join(
        page.split()
    )
