"""The fence on a replica: a real primary and a real replica, that follows, is late, or has stopped."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from private_server import Server, server
from rooms import daily

from rds_lake.errors import PermanentError
from rds_lake.extract.fence import LAG, decide_unseen, read_fence
from rds_lake.extract.replica import Replication, channel_lag
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import query

NOW = datetime(2024, 5, 1, 12)  # noqa: DTZ001 - UTC without zone, as the server gives it
WATCHER = "watcher"
"""A user who may look at the replica's status."""

SPEC = daily("moments", cursor={"column": "at", "lag_seconds": 1})


@dataclass
class Pair:
    """A primary and the replica that follows it."""

    primary: Server
    replica: Server

    def follow(self, **options: int) -> None:
        """Let the replica follow, with further options of CHANGE MASTER."""
        more = "".join(f", {name}={value}" for name, value in options.items())
        self.replica.sql("STOP SLAVE", f"CHANGE MASTER TO MASTER_USE_GTID=slave_pos{more}", "START SLAVE")
        until(lambda: self.replica.status()["Seconds_Behind_Master"] is not None)

    def arrived(self, number: int) -> bool:
        """Whether the replica has a row."""
        return bool(self.replica.sql(f"SELECT 1 FROM moments WHERE id = {number}"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folders = [tmp_path_factory.mktemp(name) for name in ("primary", "replica")]
    with (
        server(folders[0], "--log-bin=bin", "--server-id=1") as primary,
        server(folders[1], "--server-id=2", "--read-only=1") as replica,
    ):
        made = Pair(primary, replica)
        replica.sql(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, MASTER_USER='root', "
            "MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos",
            f"CREATE USER {WATCHER}@'127.0.0.1'",
            f"GRANT SELECT, PROCESS, REPLICA MONITOR ON *.* TO {WATCHER}@'127.0.0.1'",
            "CREATE USER guest@'127.0.0.1'",
            "GRANT SELECT, PROCESS ON *.* TO guest@'127.0.0.1'",
            # What the two made for themselves when they were set up is no news.
            f"SET GLOBAL gtid_slave_pos = '{primary.sql('SELECT @@gtid_binlog_pos')[0][0]}'",
        )
        made.follow()
        primary.sql("CREATE TABLE moments (id INT PRIMARY KEY, at DATETIME(6), KEY (at)) ENGINE=InnoDB")
        primary.sql("INSERT INTO moments VALUES (0, '2024-01-02')")
        until(lambda: bool(replica.sql("SHOW TABLES LIKE 'moments'")) and made.arrived(0))
        yield made


def read(pair: Pair, user: str = WATCHER) -> tuple[set[int], datetime]:
    """The rows below the replica's fence, and the fence."""
    with open_snapshot(pair.replica.source_of(user), SPEC) as snapshot:
        rows = {row["id"] for batch in snapshot.rows() for row in batch.to_pylist()}
        return rows, snapshot.fence.at


def below(pair: Pair, fence: datetime) -> set[int]:
    """What the primary has below a fence."""
    return {number for (number,) in pair.primary.sql(f"SELECT id FROM moments WHERE at < '{fence}'")}


def test_rows_arrive_and_the_fence_keeps_the_fixed_lag_below_the_replicas_own(pair):
    pair.primary.sql("INSERT INTO moments VALUES (10, NOW(6))")
    until(lambda: pair.arrived(10))
    time.sleep(1.2)
    with pair.replica.source_of(WATCHER).connect() as connection:
        fence = read_fence(connection, timedelta(seconds=1))
        [(now,)] = query(connection, "SELECT NOW(6)")
    assert fence.replica_lag is not None
    assert not fence.sees_transactions
    assert timedelta(seconds=1) + fence.replica_lag <= now - fence.at < timedelta(seconds=20)
    until(lambda: 10 in read(pair)[0])
    rows, at = read(pair)
    assert rows == below(pair, at)
    [line] = fence.story()
    assert line.startswith("The source is a replica, 0:00:0")
    assert line.endswith("whose open transactions it does not show: the fence keeps cursor.lag_seconds more.")


def test_the_primary_itself_is_not_taken_for_a_replica(pair):
    with pair.primary.source.connect() as connection:
        fence = read_fence(connection)
    assert (fence.sees_transactions, fence.replica_lag) == (True, None)


def test_a_replica_that_is_late_loses_nothing(pair):
    """It applies everything six seconds late, and says so; the fence stays below what it has not applied."""
    pair.follow(MASTER_DELAY=6)
    try:
        for number in range(20, 26):
            pair.primary.sql(f"INSERT INTO moments VALUES ({number}, NOW(6))")
            time.sleep(0.5)
            rows, at = read(pair)
            assert rows == below(pair, at)
        missing = not pair.arrived(25)
    finally:
        pair.follow(MASTER_DELAY=0)
    assert missing, "it was late"
    until(lambda: pair.arrived(25))
    until(lambda: 25 in read(pair)[0])


def test_without_the_replicas_lag_a_row_is_lost(pair, monkeypatch):
    """What the one before protects from."""
    monkeypatch.setattr("rds_lake.extract.fence.read_replication", lambda _: Replication(lag=timedelta(seconds=0)))
    pair.follow(MASTER_DELAY=4)
    try:
        pair.primary.sql("INSERT INTO moments VALUES (30, NOW(6))")
        time.sleep(1.5)
        rows, at = read(pair)
        assert below(pair, at) - rows == {30}
    finally:
        pair.follow(MASTER_DELAY=0)
    until(lambda: pair.arrived(30))


@pytest.mark.parametrize(("thread", "io", "sql"), [("SQL_THREAD", "Yes", "No"), ("IO_THREAD", "No", "Yes")])
def test_a_replica_that_has_stopped_is_an_error_with_the_remedy(pair, thread, io, sql):
    pair.replica.sql(f"STOP SLAVE {thread}")
    try:
        with pytest.raises(PermanentError) as caught:
            read(pair)
    finally:
        pair.follow()
    assert caught.value.problem == (
        f"The source is a replica that does not follow its primary: IO thread {io}, SQL thread {sql}."
    )
    assert caught.value.remedy == (
        "Start it again (START REPLICA; what it says of itself: SHOW REPLICA STATUS), or let RDS_LAKE_SOURCE_URL name "
        "the primary."
    )


def test_a_server_that_takes_writes_and_still_knows_a_primary_is_told_to_forget_it(pair):
    pair.replica.sql("STOP SLAVE", "SET GLOBAL read_only=0")
    try:
        with pytest.raises(PermanentError) as caught:
            read(pair)
    finally:
        pair.replica.sql("SET GLOBAL read_only=1")
        pair.follow()
    assert caught.value.remedy.endswith(
        "This server takes writes: if it has become a primary itself, let it forget the old one (RESET REPLICA ALL; on "
        "RDS CALL mysql.rds_reset_external_master)."
    )


def test_a_replica_that_stopped_at_an_error_names_its_number_and_not_the_row(pair):
    pair.replica.sql("INSERT INTO moments VALUES (40, '2024-02-02')")
    pair.primary.sql("INSERT INTO moments VALUES (40, '2024-03-03')")
    until(lambda: pair.replica.status()["Slave_SQL_Running"] == "No")
    with pytest.raises(PermanentError) as caught:
        read(pair)
    pair.replica.sql("DELETE FROM moments WHERE id = 40")
    pair.follow()
    assert caught.value.problem == (
        "The source is a replica that does not follow its primary: IO thread Yes, SQL thread No, SQL error 1062."
    )
    until(lambda: pair.arrived(40))


def test_a_user_who_may_not_ask_gets_the_fixed_lag_because_the_server_takes_no_writes(pair):
    with pair.replica.source_of("guest").connect() as connection:
        fence = read_fence(connection)
        [(now,)] = query(connection, "SELECT NOW(6)")
    assert (fence.sees_transactions, fence.replica_lag) == (False, None)
    assert now - LAG - timedelta(seconds=10) < fence.at <= now - LAG


# --- pure ------------------------------------------------------------------------------------------------------------

MYSQL = {"Replica_IO_Running": "Yes", "Replica_SQL_Running": "Yes", "Seconds_Behind_Source": 7, "SQL_Delay": 0}
OLD_MYSQL = {"Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes", "Seconds_Behind_Master": 7, "SQL_Delay": 0}


@pytest.mark.parametrize("status", [MYSQL, OLD_MYSQL], ids=["MySQL 8", "older and MariaDB"])
def test_the_lag_is_read_under_every_servers_names(status):
    assert channel_lag(status) == timedelta(seconds=7)
    delay = "SQL_Delay"
    assert channel_lag({**status, delay: 60}) == timedelta(minutes=1)
    for name in list(status)[:2]:
        for state in ("No", "Connecting", "Preparing"):
            with pytest.raises(PermanentError, match=rf"thread {state}"):
                channel_lag({**status, name: state})
    unknown = next(name for name in status if name.startswith("Seconds"))
    with pytest.raises(PermanentError, match="does not follow its primary"):
        channel_lag({**status, unknown: None})


def test_the_lags_add_up():
    assert decide_unseen(NOW, LAG).at == NOW - LAG
    found = decide_unseen(NOW, LAG, Replication(lag=timedelta(seconds=9)))
    assert found.at == NOW - LAG - timedelta(seconds=9)
    assert decide_unseen(NOW, LAG, Replication(lag=None)).at == NOW - LAG
