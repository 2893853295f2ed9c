"""The fence: below everything that an open transaction or a running statement may still write."""

import threading
import time
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily

from rds_lake.extract.fence import LAG_WITHOUT_PROCESS, SKEW, decide, read_fence
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import query

NOW = datetime(2024, 5, 1, 12)  # noqa: DTZ001 - UTC without zone, as the server gives it

ages = st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30))
ORDINARY = timedelta(seconds=30)
"""How far other tests' short statements may hold the fence back."""


@bounded(200)
@given(ages, ages)
def test_the_fence_is_the_oldest_writer_minus_the_skew(transaction, statement):
    times = [NOW - age if age is not None else None for age in (transaction, statement)]
    fence = decide(NOW, *times)
    oldest = max((age for age in (transaction, statement) if age is not None), default=timedelta(0))
    assert fence.at == NOW - oldest - SKEW
    assert fence.held_back_by == oldest
    assert fence.sees_transactions


def test_a_clock_that_jumped_back_cannot_lift_the_fence_above_now():
    ahead = NOW + timedelta(hours=1)
    assert decide(NOW, ahead, ahead).at == NOW - SKEW


def test_the_skew_covers_whole_seconds_and_the_servers_cached_view():
    assert timedelta(seconds=1.1) <= SKEW <= timedelta(seconds=10)
    assert timedelta(minutes=1) <= LAG_WITHOUT_PROCESS


def test_an_open_transaction_holds_the_fence_below_its_start(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6)")
    with rooms.mysql(autocommit=False) as writer, writer.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1, NOW(6))")
        cursor.execute(f"SELECT at FROM {table}")
        [(written,)] = cursor.fetchall()
        time.sleep(2.5)
        with rooms.source.connect() as connection:
            fence = read_fence(connection)
            [(now,)] = query(connection, "SELECT NOW(6)")
        assert fence.sees_transactions
        assert fence.at < written
        assert fence.held_back_by >= timedelta(seconds=2)
        assert now - fence.at >= timedelta(seconds=2) + SKEW
        writer.rollback()
    with rooms.source.connect() as connection:
        time.sleep(0.2)
        assert read_fence(connection).at > now - SKEW - ORDINARY


def test_a_row_that_commits_late_lies_above_the_fence_of_the_snapshot_that_missed_it(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6), KEY (at)")
    spec = daily(table)
    with rooms.mysql(autocommit=False) as writer, writer.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1, NOW(6))")
        cursor.execute(f"SELECT at FROM {table}")
        [(written,)] = cursor.fetchall()
        time.sleep(0.2)  # InnoDB lists a transaction a tenth of a second late, which is what the skew is for
        with open_snapshot(rooms.source, spec) as snapshot:
            writer.commit()
            assert snapshot.fence.at < written
            assert sum(batch.num_rows for batch in snapshot.rows()) == 0
            assert snapshot.fingerprints() == {}


def test_a_statement_that_waits_for_a_lock_holds_the_fence_though_it_has_no_transaction_yet(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6)")
    with rooms.mysql() as locker, locker.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {table} WRITE")
        waiting = threading.Thread(target=rooms.sql, args=(f"INSERT INTO {table} VALUES (1, NOW(6))",))
        waiting.start()
        time.sleep(2.5)
        with rooms.source.connect() as connection:
            fence = read_fence(connection)
        cursor.execute("UNLOCK TABLES")
        waiting.join()
    [(written,)] = rooms.sql(f"SELECT at FROM {table}")
    assert fence.at < written


def test_the_fence_is_taken_in_the_cursors_own_zone(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME(6)")
    windows = {}
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        spec = daily(table, cursor={"column": "at", "timezone": zone})
        with open_snapshot(rooms.source, spec) as snapshot:
            windows[zone] = snapshot.below_fence().upper - snapshot.fence.at
    assert windows["UTC"] == timedelta(0)
    assert windows["Asia/Kolkata"] == timedelta(hours=5, minutes=30)
    assert windows["America/New_York"] in {timedelta(hours=-5), timedelta(hours=-4)}
