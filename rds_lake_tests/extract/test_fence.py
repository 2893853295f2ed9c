"""The fence: below everything that an open transaction or a running statement may still write."""

import threading
import time
from datetime import datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily

from rds_lake.errors import PermanentError
from rds_lake.extract.fence import SKEW, Thread, Transaction, Writer, check_clocks, decide, read_fence, writers
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import query

NOW = datetime(2024, 5, 1, 12)  # noqa: DTZ001 - UTC without zone, as the server gives it

ORDINARY = timedelta(seconds=30)
"""How far other tests' short statements may hold the fence back."""

moments = st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=30)).map(lambda age: NOW - age)
kinds: st.SearchStrategy[Literal["transaction", "statement"]] = st.sampled_from(["transaction", "statement"])
some_writers = st.lists(st.builds(Writer, kinds, st.integers(0, 9), moments), max_size=5)


@bounded(300)
@given(some_writers)
def test_the_fence_is_the_oldest_writer_minus_the_skew_and_never_above_the_clock(found):
    fence = decide(NOW, found)
    assert fence.sees_transactions
    assert fence.at == min([NOW, *(writer.since for writer in found)]) - SKEW
    assert fence.held_back_by == NOW - SKEW - fence.at >= timedelta(0)
    assert all(fence.at < writer.since for writer in found)
    assert (fence.held_by is None) == (fence.held_back_by == timedelta(0))
    assert fence.held_by is None or (fence.held_by in found and fence.held_by.since == fence.at + SKEW)


@bounded(100)
@given(some_writers, some_writers)
def test_one_writer_more_never_lifts_the_fence(found, more):
    assert decide(NOW, [*found, *more]).at <= decide(NOW, found).at


@bounded(200)
@given(
    st.lists(
        st.builds(
            Thread,
            st.integers(1, 6),
            st.sampled_from(["app", "system user", "unauthenticated user"]),
            st.sampled_from(["10.0.0.5:4711", "10.0.0.5", None]),
            st.sampled_from(["Query", "Execute", "Connect", "Bulk_execute", "Sleep", "Daemon", "Binlog Dump"]),
            st.none() | st.integers(-5, 10**6),
        ),
        max_size=5,
        unique_by=lambda thread: thread.id,
    ),
    st.lists(st.builds(Transaction, st.integers(0, 6), moments, st.booleans(), st.booleans()), max_size=5),
)
def test_whoever_may_write_is_among_the_writers_and_nobody_else(threads, transactions):
    found = writers(NOW, threads, transactions)
    writing = [item for item in transactions if not (item.read_only and not item.autocommit)]
    readers = {item.thread for item in transactions if item.read_only and not item.autocommit}
    running = {
        thread.id
        for thread in threads
        if thread.user == "app"
        and thread.seconds is not None
        and thread.command not in {"Sleep", "Daemon", "Binlog Dump"}
        and thread.id not in readers
    }
    assert [(w.thread, w.since) for w in found if w.kind == "transaction"] == [(t.thread, t.started) for t in writing]
    assert {w.thread for w in found if w.kind == "statement"} == running
    assert all(writer.since <= NOW for writer in found if writer.kind == "statement")
    assert {writer.account for writer in found} <= {
        None,
        *(f"{user}@{host}" for user in ("app", "system user", "unauthenticated user") for host in ("10.0.0.5", "?")),
    }


def test_a_clock_that_jumped_back_cannot_lift_the_fence_above_now():
    ahead = Writer("transaction", 1, NOW + timedelta(hours=1))
    assert decide(NOW, [ahead]) == decide(NOW, [])


def test_the_skew_covers_a_statements_age_in_whole_seconds():
    assert timedelta(seconds=1.1) <= SKEW <= timedelta(seconds=10)


def test_a_holder_is_told_with_its_account_and_never_with_its_statement():
    since = NOW - timedelta(minutes=12)
    told = decide(NOW, [Writer("statement", 7, since, "app@10.0.0.5")])
    [line] = told.story()
    assert line == (
        "The fence is 0:12:00 behind the clock, held by a statement of app@10.0.0.5, connection 7, "
        "since 2024-05-01 11:48:00 UTC."
    )
    assert decide(NOW, [Writer("transaction", 7, since)]).holder() == (
        "the fence is 0:12:00 behind the clock, held by a transaction of connection 7, since 2024-05-01 11:48:00 UTC"
    )
    assert decide(NOW, [Writer("statement", 7, NOW - timedelta(seconds=0.5))]).story() == []


@pytest.mark.parametrize("apart", [timedelta(hours=5, minutes=30), -timedelta(hours=1), timedelta(seconds=4)])
def test_clocks_that_do_not_agree_are_an_error(apart):
    check_clocks(NOW, NOW - timedelta(seconds=1), NOW)
    check_clocks(NOW, NOW + timedelta(seconds=40), NOW + timedelta(seconds=41))  # a slow server
    check_clocks(NOW, NOW + timedelta(seconds=1), NOW)
    with pytest.raises(PermanentError, match="its clock in UTC says 2024-05-01 12:00:00"):
        check_clocks(NOW, NOW + apart, NOW)


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
