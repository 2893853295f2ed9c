"""Attacks on the fence: real transactions at a real server, at the worst moment.

A reader that takes one window after the other, each from the last fence to the next, must end up with every row; with
any one precaution left out it does not.
"""

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pymysql
import pytest
from private_server import PLAIN, Server, server
from pymysql.connections import Connection
from pymysql.constants.COMMAND import COM_STMT_EXECUTE, COM_STMT_PREPARE
from rooms import daily

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract import fence as fences
from rds_lake.extract import snapshot as snapshots
from rds_lake.extract.fence import Fence, decide, read_fence
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import Source, query
from rds_lake.partitions import Window

TABLE = "rows_of_all"
GATE = "gate"
"""A table of one row. Whoever reads it waits while it is locked: the readers of the other table do not."""

OLD = 1.3
"""Seconds after which the skew, here one second, no longer protects a row by itself."""

INSERT = f"INSERT INTO {TABLE} VALUES (%s, NOW(6))"
THROUGH = f"INSERT INTO {TABLE} SELECT one, NOW(6) FROM {GATE}"
"""Inserts row 1, as soon as the gate lets it."""


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody else uses, and that runs events."""
    with server(tmp_path_factory.mktemp("attacked"), "--event-scheduler=ON") as made:
        yield made


@pytest.fixture(autouse=True)
def _smaller_skew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it, which is still more than a statement's age is rounded by: rows are old enough sooner."""
    monkeypatch.setattr(fences, "SKEW", timedelta(seconds=1))


@pytest.fixture
def reader(mariadb: Server) -> "Reader":
    """A reader of an empty table."""
    mariadb.sql(
        f"DROP TABLE IF EXISTS {TABLE}",
        f"CREATE TABLE {TABLE} (id INT PRIMARY KEY, at DATETIME(6), KEY (at)) ENGINE=InnoDB",
        f"DROP TABLE IF EXISTS {GATE}",
        f"CREATE TABLE {GATE} (one INT PRIMARY KEY) ENGINE=InnoDB",
        f"INSERT INTO {GATE} VALUES (1)",
    )
    return Reader(mariadb.source)


@dataclass
class Reader:
    """Takes one window after the other, as the tools that keep only a watermark do.

    Attributes:
        source: what it reads.
        upto: where its last window ended.
        seen: the keys that it has.
    """

    source: Source
    upto: datetime = datetime(2024, 1, 1)  # noqa: DTZ001 - the cursor's clock
    seen: set[int] = field(default_factory=set)

    def take(self) -> Fence:
        """Read from the last fence to the present one."""
        with open_snapshot(self.source, daily(TABLE)) as snapshot:
            rows = snapshot.rows(Window(self.upto, snapshot.below_fence().upper))
            self.seen |= {row["id"] for batch in rows for row in batch.to_pylist()}
            self.upto = max(self.upto, snapshot.below_fence().upper)
            return snapshot.fence

    @property
    def lost(self) -> set[int]:
        """The rows below the last fence that no window had: no later one will."""
        with self.source.connect() as connection:
            below = query(connection, f"SELECT id FROM {TABLE} WHERE at < %s", (self.upto,))
        return {key for (key,) in below} - self.seen


@contextmanager
def after(monkeypatch: pytest.MonkeyPatch, text: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something right after the fence has sent the statement that holds a text."""
    done: list[object] = []

    def hooked(connection, statement, parameters=()):
        rows = query(connection, statement, parameters)
        if text in statement and not done:
            done.append(act())
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(fences, "query", hooked)
        yield
    assert done, "the moment never came"


@contextmanager
def between_fence_and_snapshot(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[None]:
    """Do something right after the first of the two: the fence has been read, or a snapshot has been opened outside."""
    looks: list[str] = []
    send = Connection.query

    def happened(what: str) -> None:
        looks.append(what)
        if len(looks) == 1:
            act()

    def reading(*arguments):
        with monkeypatch.context() as inside:
            inside.setattr(Connection, "query", send)  # the fence's own transaction is not the snapshot
            found = read_fence(*arguments)
        happened("fence")
        return found

    def sending(connection, text, **more):
        rows = send(connection, text, **more)
        if "CONSISTENT SNAPSHOT" in str(text):
            happened("snapshot")
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "read_fence", reading)
        patch.setattr(Connection, "query", sending)
        yield
    assert sorted(looks) == ["fence", "snapshot"]


@contextmanager
def locked(mariadb: Server) -> Iterator[Callable[[], None]]:
    """The gate locked by somebody; yields what unlocks it."""
    with mariadb.connect() as locker, locker.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {GATE} WRITE")
        yield lambda: cursor.execute("UNLOCK TABLES") and None


def waits_for_lock(mariadb: Server) -> bool:
    return bool(
        mariadb.sql("SELECT id FROM information_schema.processlist WHERE state = 'Waiting for table metadata lock'")
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


# --- transactions --------------------------------------------------------------------------------------------------


def open_insert(mariadb: Server, *before: str):
    """A connection whose transaction has inserted row 1 and is open."""
    writer = mariadb.connect(autocommit=False)
    with writer.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        cursor.execute(INSERT, (1,))
    return writer


FORMS: dict[str, Sequence[str]] = {
    "as they are": [],
    "begun by a read": [f"SELECT COUNT(*) FROM {TABLE}"],
    "begun with a snapshot": ["START TRANSACTION WITH CONSISTENT SNAPSHOT"],
    "read committed": ["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"],
    "in another zone": ["SET time_zone = '-07:00'", "SET time_zone = '+00:00'"],
}


@pytest.mark.parametrize("before", FORMS.values(), ids=FORMS)
def test_a_row_that_commits_between_the_fence_and_the_snapshot_or_after_both_is_not_lost(
    mariadb, reader, monkeypatch, before
):
    for row, moment in ((1, "between"), (2, "after")):
        writer = open_insert(mariadb, *before, f"DELETE FROM {TABLE}")
        with writer.cursor() as cursor:
            cursor.execute(f"UPDATE {TABLE} SET id = {row}")
        time.sleep(0.05)  # younger than InnoDB's copy of its transactions
        if moment == "between":
            with between_fence_and_snapshot(monkeypatch, writer.commit):
                reader.take()
        else:
            reader.take()
            writer.commit()
        assert reader.lost == set()
        writer.close()


def test_an_old_open_transaction_holds_the_fence_and_is_named(mariadb, reader):
    writer = open_insert(mariadb)
    time.sleep(OLD)
    fence = reader.take()
    writer.commit()
    assert reader.lost == set()
    assert fence.held_by
    assert (fence.held_by.kind, fence.held_by.thread) == ("transaction", writer.thread_id())
    assert fence.held_by.account == "root@127.0.0.1"
    assert fence.held_back_by >= timedelta(seconds=1)
    assert fence.at == fence.held_by.since - fences.SKEW
    holder = str(fence.holder())
    who = f"a transaction of root@127.0.0.1, connection {writer.thread_id()}"
    assert holder.endswith(f"held by {who}, since {fence.held_by.since:%F %T} UTC")
    assert "INSERT" not in holder
    writer.close()


def test_with_the_snapshot_opened_before_the_fence_a_row_is_lost_and_the_product_loses_none(
    mariadb, reader, monkeypatch
):
    """The mutation that the order protects from; the product, at the same moment between its own two, loses nothing."""
    writer = open_insert(mariadb)
    time.sleep(OLD)
    with mariadb.source.connect() as connection:
        query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        writer.commit()
        with mariadb.source.connect() as other:
            upto = read_fence(other).at
        seen = query(connection, f"SELECT id FROM {TABLE} WHERE at < %s", (upto,))
    assert (seen, mariadb.sql(f"SELECT id FROM {TABLE} WHERE at < '{upto}'")) == ([], ((1,),))

    mariadb.sql(f"DELETE FROM {TABLE}")
    again = open_insert(mariadb)
    time.sleep(OLD)
    with between_fence_and_snapshot(monkeypatch, again.commit):
        reader.take()
    assert reader.lost == set()
    for connection in (writer, again):
        connection.close()


def test_a_prepared_transaction_without_a_connection_holds_the_fence(mariadb, reader):
    writer = mariadb.connect()
    with writer.cursor() as cursor:
        for statement in ("XA START 'gone'", f"INSERT INTO {TABLE} VALUES (1, NOW(6))", "XA END 'gone'"):
            cursor.execute(statement)
        cursor.execute("XA PREPARE 'gone'")
    writer.close()
    time.sleep(OLD)
    fence = reader.take()
    mariadb.sql("XA COMMIT 'gone'")
    assert reader.lost == set()
    assert fence.held_by
    assert fence.held_by.thread == 0
    assert "see XA RECOVER" in str(fence.holder())
    time.sleep(0.12)
    assert reader.take().held_by is None


def test_a_reading_transaction_that_cannot_write_does_not_hold_the_fence(mariadb, reader):
    with mariadb.connect() as other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION READ ONLY")
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE}")
        slow = threading.Thread(target=cursor.execute, args=(f"SELECT COUNT(*), SLEEP({OLD}) FROM {TABLE}",))
        slow.start()
        time.sleep(OLD - 0.3)
        fence = reader.take()
        slow.join()
    assert (fence.held_by, fence.held_back_by) == (None, timedelta(0))


def test_another_reader_of_the_same_kind_does_not_hold_the_fence(reader):
    with open_snapshot(reader.source, daily(TABLE)):
        time.sleep(1.2)
        assert reader.take().held_by is None


# --- InnoDB's old copy -----------------------------------------------------------------------------------------------


@contextmanager
def monitor(mariadb: Server, pause: float = 0.0) -> Iterator[Callable[[], None]]:
    """Somebody who looks at InnoDB's transactions all the time; yields what stops them."""
    stopped = threading.Event()

    def look() -> None:
        with mariadb.connect() as connection, connection.cursor() as cursor:
            while not stopped.is_set():
                cursor.execute("SELECT COUNT(*) FROM information_schema.innodb_trx")
                time.sleep(pause)

    with in_background(look):
        time.sleep(0.3)
        try:
            yield stopped.set
        finally:
            stopped.set()


def test_a_monitor_that_keeps_innodbs_list_old_is_an_error_and_no_loss(mariadb, reader, monkeypatch):
    monkeypatch.setattr(fences, "PATIENCE", 3)
    with monitor(mariadb):
        writer = open_insert(mariadb)
        time.sleep(OLD)
        with pytest.raises(TransientError) as caught:
            reader.take()
        writer.commit()
    assert caught.value.problem == (
        "The source's list of open transactions was 3 times too old to be used: somebody reads "
        "information_schema.innodb_trx more often than every 0.1 s, and InnoDB does not renew it meanwhile."
    )
    assert reader.lost == set()
    writer.close()


def test_without_the_proof_that_innodbs_list_is_new_a_row_is_lost(mariadb, reader, monkeypatch):
    def unproved(connection, me):
        rows = query(connection, fences._TRANSACTIONS, ("",))
        [now] = query(connection, "SELECT NOW(6)")
        return fences.Transaction(me, *now, True, False), now[0], [fences.Transaction(*row) for *row, _ in rows]

    with monitor(mariadb), monkeypatch.context() as patch:
        writer = open_insert(mariadb)
        time.sleep(OLD)
        patch.setattr(fences, "_fresh_transactions", unproved)
        reader.take()
        writer.commit()
    assert reader.lost == {1}
    writer.close()


def test_the_fence_waits_for_a_monitor_that_stops(mariadb, reader):
    with monitor(mariadb) as stop:
        writer = open_insert(mariadb)
        time.sleep(OLD)
        timer = threading.Timer(0.4, stop)
        timer.start()
        fence = reader.take()
        timer.join()
    assert fence.held_by
    writer.commit()
    assert reader.lost == set()
    writer.close()


def test_the_same_connection_is_not_fooled_by_the_copy_of_its_own_last_look(mariadb, reader):
    with mariadb.source.connect() as connection:
        for _ in range(5):
            assert read_fence(connection).held_by is None
            writer = open_insert(mariadb)
            found = read_fence(connection)
            assert found.held_by is None or found.held_by.thread == writer.thread_id()
            listed = query(connection, "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx")
            assert (writer.thread_id(),) in listed
            writer.rollback()
            writer.close()


# --- statements ------------------------------------------------------------------------------------------------------


def execute_prepared(mariadb: Server) -> None:
    """Insert row 1 by the binary protocol."""
    with mariadb.connect() as connection:
        connection._execute_command(COM_STMT_PREPARE, THROUGH)
        [number] = struct.unpack("<I", connection._read_packet().get_all_data()[1:5])
        connection._execute_command(COM_STMT_EXECUTE, struct.pack("<IBI", number, 0, 1))
        assert connection._read_packet().is_ok_packet()


def execute_procedure(mariadb: Server) -> None:
    mariadb.sql(
        "DROP PROCEDURE IF EXISTS add_row",
        f"CREATE PROCEDURE add_row() BEGIN DO 1; {THROUGH}; END",
        "CALL add_row()",
    )


def execute_function(mariadb: Server) -> None:
    """A SELECT that writes: the function's NOW() is the statement's."""
    mariadb.sql(
        "DROP FUNCTION IF EXISTS add_row",
        f"CREATE FUNCTION add_row() RETURNS INT DETERMINISTIC BEGIN {THROUGH}; RETURN 1; END",
        "SELECT add_row()",
    )


def execute_trigger(mariadb: Server) -> None:
    mariadb.sql(
        "DROP TABLE IF EXISTS watched",
        "CREATE TABLE watched (id INT PRIMARY KEY) ENGINE=InnoDB",
        f"CREATE TRIGGER follow AFTER INSERT ON watched FOR EACH ROW INSERT INTO {TABLE} VALUES (NEW.id, NOW(6))",
        f"INSERT INTO watched SELECT one FROM {GATE}",
    )


def execute_event(mariadb: Server) -> None:
    """An event's statement has the command 'Connect' in the process list."""
    mariadb.sql(f"CREATE EVENT once ON SCHEDULE AT NOW() DO {THROUGH}")
    until(lambda: waits_for_lock(mariadb))
    until(lambda: not waits_for_lock(mariadb))
    until(lambda: bool(mariadb.sql(f"SELECT id FROM {TABLE}")))


def execute_subquery(mariadb: Server) -> None:
    mariadb.sql(f"INSERT INTO {TABLE} VALUES ((SELECT one FROM {GATE}), NOW(6))")


STATEMENTS: dict[str, Callable[[Server], None]] = {
    "a plain statement": lambda mariadb: mariadb.sql(THROUGH),
    "INSERT ... VALUES": execute_subquery,
    "a prepared statement": execute_prepared,
    "a procedure": execute_procedure,
    "a function": execute_function,
    "a trigger": execute_trigger,
    "an event": execute_event,
}


@pytest.mark.parametrize("execute", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_that_waits_for_a_lock_loses_no_row(mariadb, reader, execute):
    with locked(mariadb) as unlock, in_background(lambda: execute(mariadb)):
        until(lambda: waits_for_lock(mariadb))
        time.sleep(OLD)
        fence = reader.take()
        unlock()
    assert mariadb.sql(f"SELECT COUNT(*) FROM {TABLE}") == ((1,),)
    assert reader.lost == set()
    assert fence.held_by
    assert fence.held_by.kind == "statement"


def take_while_locked(mariadb: Server, reader: Reader, seconds: float, name: str = "a plain statement") -> None:
    with locked(mariadb) as unlock, in_background(lambda: STATEMENTS[name](mariadb)):
        until(lambda: waits_for_lock(mariadb))
        time.sleep(seconds)
        reader.take()
        unlock()


def test_without_the_process_list_a_row_is_lost(mariadb, reader, monkeypatch):
    monkeypatch.setattr(fences, "_THREADS", fences._THREADS + " AND FALSE")
    take_while_locked(mariadb, reader, OLD)
    assert reader.lost == {1}


def test_with_ordinary_commands_only_the_row_of_an_event_is_lost(mariadb, reader, monkeypatch):
    monkeypatch.setattr(fences, "_IDLE", fences._IDLE | {"Connect"})
    take_while_locked(mariadb, reader, OLD, "an event")
    assert reader.lost == {1}


def test_without_the_skew_a_row_that_is_younger_than_a_second_is_lost(mariadb, reader, monkeypatch):
    """A statement's age is told in whole seconds."""
    take_while_locked(mariadb, reader, 0.5)
    assert reader.lost == set()
    mariadb.sql(f"DELETE FROM {TABLE}")
    monkeypatch.setattr(fences, "SKEW", timedelta(0))
    take_while_locked(mariadb, reader, 0.5)
    assert reader.lost == {1}


def finishes_its_statement(mariadb: Server, unlock: Callable[[], None]) -> None:
    """Let the waiting statement go through; its transaction stays open."""
    unlock()
    until(lambda: not waits_for_lock(mariadb))
    time.sleep(0.2)


@contextmanager
def waiting_transaction(mariadb: Server) -> Iterator["pymysql.connections.Connection"]:
    """A transaction whose first statement waits for a lock: it is in the process list only, unknown to InnoDB."""
    writer = mariadb.connect(autocommit=False)

    def insert() -> None:
        with writer.cursor() as cursor:
            cursor.execute(THROUGH)

    with in_background(insert):
        until(lambda: waits_for_lock(mariadb))
        time.sleep(OLD)
        yield writer
    writer.close()


def test_a_statement_that_turns_into_a_transaction_between_two_looks_is_seen_by_one_of_them(
    mariadb, reader, monkeypatch
):
    with locked(mariadb) as unlock, waiting_transaction(mariadb) as writer:
        with after(monkeypatch, "processlist", lambda: finishes_its_statement(mariadb, unlock)):
            reader.take()
        writer.commit()
    assert mariadb.sql(f"SELECT COUNT(*) FROM {TABLE}") == ((1,),)
    assert reader.lost == set()


def test_with_the_transactions_looked_at_before_the_statements_such_a_row_is_lost(mariadb, reader, monkeypatch):
    def other_way_round(connection, lag):
        [(now, me)] = query(connection, "SELECT NOW(6), CONNECTION_ID()")
        _, _, transactions = fences._fresh_transactions(connection, me)
        finishes_its_statement(mariadb, unlock)
        threads = [fences.Thread(*row) for row in query(connection, fences._THREADS)]
        return decide(now, fences.writers(now, threads, transactions))

    with locked(mariadb) as unlock, waiting_transaction(mariadb) as writer:
        monkeypatch.setattr(snapshots, "read_fence", other_way_round)
        reader.take()
        writer.commit()
    assert reader.lost == {1}


def test_a_statement_that_is_slow_in_itself_holds_the_fence(mariadb, reader):
    """NOW() stands still from the statement's start to its end; SYSDATE() is later and no danger."""
    numbers = "(SELECT 1 AS n UNION ALL SELECT 2) AS numbers"
    slow = f"INSERT INTO {TABLE} SELECT n, IF(n = 1, NOW(6), SYSDATE(6)) FROM {numbers} WHERE SLEEP({OLD / 2}) = 0"
    with in_background(lambda: mariadb.sql(slow)):
        time.sleep(OLD - 0.2)
        fence = reader.take()
    assert fence.held_by
    assert reader.lost == set()
    assert mariadb.sql(f"SELECT COUNT(*) FROM {TABLE}") == ((2,),)


# --- what the fence cannot know, and the fingerprint does -----------------------------------------------------------


def fingerprints(reader: Reader) -> dict[str, str]:
    with open_snapshot(reader.source, daily(TABLE)) as snapshot:
        return snapshot.fingerprints()


def test_a_writer_with_a_clock_of_its_own_is_caught_by_the_fingerprint_only(mariadb, reader):
    mariadb.sql(f"INSERT INTO {TABLE} VALUES (1, NOW(6) - INTERVAL 2 DAY)")
    reader.take()
    before = fingerprints(reader)
    mariadb.sql("SET timestamp = UNIX_TIMESTAMP() - 2 * 86400", f"INSERT INTO {TABLE} VALUES (2, NOW(6))")
    assert reader.lost == {2}
    now = fingerprints(reader)
    assert {key for key in now if now[key] != before.get(key)} == {str(datetime.now().date() - timedelta(days=2))}  # noqa: DTZ005


def test_a_transaction_whose_first_statement_waited_long_is_caught_by_the_fingerprint(mariadb, reader):
    """InnoDB dates the transaction from the end of the wait: its first NOW() is older, and no list shows it."""
    mariadb.sql(f"INSERT INTO {TABLE} VALUES (9, NOW(6))")
    with locked(mariadb) as unlock, waiting_transaction(mariadb) as writer:
        time.sleep(1)
        finishes_its_statement(mariadb, unlock)
        reader.take()
        before = fingerprints(reader)
        writer.commit()
    time.sleep(0.1)
    assert reader.lost == {1}
    assert fingerprints(reader) != before


# --- what the server lets us see -------------------------------------------------------------------------------------


def test_without_the_privilege_the_fence_is_the_tables_own_lag(mariadb, reader):
    spec = daily(TABLE, cursor={"column": "at", "lag_seconds": 7})
    with open_snapshot(mariadb.source_of(PLAIN), spec) as snapshot, mariadb.source.connect() as connection:
        [(now,)] = query(connection, "SELECT NOW(6)")
        assert timedelta(seconds=7) <= now - snapshot.fence.at < timedelta(seconds=17)
        assert not snapshot.fence.sees_transactions
        [line] = snapshot.fence.story()
    assert line == (
        "The source does not show its open transactions: the fence is cursor.lag_seconds behind the clock. Grant "
        "PROCESS, and on a replica REPLICATION CLIENT, for a tighter one."
    )


def test_a_server_that_takes_no_writes_is_taken_for_a_replica_by_a_user_who_may_not_ask(mariadb, reader):
    mariadb.sql("CREATE USER watcher@'127.0.0.1'", "GRANT SELECT, PROCESS ON *.* TO watcher@'127.0.0.1'")
    source = mariadb.source_of("watcher")
    with source.connect() as connection:
        assert read_fence(connection).sees_transactions
        mariadb.sql("SET GLOBAL read_only = 1")
        try:
            fence = read_fence(connection, timedelta(seconds=40))
        finally:
            mariadb.sql("SET GLOBAL read_only = 0")
        [(now,)] = query(connection, "SELECT NOW(6)")
    assert not fence.sees_transactions
    assert timedelta(seconds=40) <= now - fence.at < timedelta(seconds=50)


def test_a_server_with_another_default_zone_has_the_same_fence(tmp_path):
    with server(tmp_path, "--default-time-zone=+05:00") as shifted:
        with shifted.source.connect() as connection:
            fence = read_fence(connection)
        [(now,)] = shifted.sql("SELECT UTC_TIMESTAMP(6)")
    assert fence.sees_transactions
    assert fences.SKEW <= now - fence.at < fences.SKEW + timedelta(seconds=10)


def test_a_server_whose_operating_system_is_not_in_utc_is_refused_with_the_remedy(tmp_path):
    """InnoDB shows when a transaction began in the operating system's zone, whatever the session's is."""
    with server(tmp_path, environ={"TZ": "Asia/Kolkata"}) as shifted:
        with shifted.source.connect() as connection, pytest.raises(PermanentError) as caught:
            read_fence(connection)
        with shifted.source_of(PLAIN).connect() as connection:
            assert not read_fence(connection).sees_transactions
    assert "The source shows a transaction that began just now as begun at 2" in caught.value.problem
    assert caught.value.remedy == (
        "Run the MySQL server with its operating system's time zone set to UTC (TZ=UTC; RDS does), or take PROCESS "
        "from the user, so that reads end cursor.lag_seconds before now."
    )


# --- everything at once ----------------------------------------------------------------------------------------------


def test_many_writers_at_once_lose_nothing(mariadb, reader):
    """Six connections insert in transactions of every length while a reader takes window after window."""
    numbers = iter(range(1, 10**6))
    stop = threading.Event()
    chance = random.Random(5)

    def write() -> None:
        with mariadb.connect(autocommit=False) as writer, writer.cursor() as cursor:
            while not stop.is_set():
                for _ in range(chance.randint(1, 3)):
                    cursor.execute(INSERT, (next(numbers),))
                    time.sleep(chance.choice([0, 0.01, 0.1, 0.4, 2.5]) / 2)
                writer.commit()

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    windows = 0
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        reader.take()
        windows += 1
        time.sleep(chance.uniform(0, 0.2))
    stop.set()
    for thread in threads:
        thread.join()
    assert windows > 10
    assert reader.lost == set()
    assert len(reader.seen) > 20, "the fence moved"
