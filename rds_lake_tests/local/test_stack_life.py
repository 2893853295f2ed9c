"""The local stack's life: it starts, answers, keeps what it was given, survives what is done to it."""

import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg2
import pymysql
import pytest

from rds_lake import settings
from rds_lake.errors import LocalStackError
from rds_lake.local import process, stack
from rds_lake.local.layout import Layout
from rds_lake.local.stack import Stack
from rds_lake.local.state import holder

pytestmark = pytest.mark.stack
SERVICES = ["mysql", "aws", "postgres", "warehouse"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own, with nothing left running in it afterwards."""
    yield tmp_path / "home"
    stack.down(tmp_path / "home")


class Clients:
    """Plain clients, connected by nothing but the environment that the stack prints."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.source = settings.parse_database_url(environ["RDS_LAKE_SOURCE_URL"], scheme="mysql", variable="")
        self.warehouse = settings.parse_database_url(environ["RDS_LAKE_WAREHOUSE_URL"], scheme="redshift", variable="")
        self.bucket = environ["RDS_LAKE_BUCKET"]
        self.session = {
            "endpoint_url": environ["AWS_ENDPOINT_URL"],
            "aws_access_key_id": environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environ["AWS_SECRET_ACCESS_KEY"],
            "region_name": environ["AWS_DEFAULT_REGION"],
        }

    def mysql(self, sql: str, user: str = "", password: str | None = None) -> tuple[tuple[object, ...], ...]:
        url = self.source
        connection = pymysql.connect(
            host=url.host,
            port=url.port,
            user=user or url.user,
            password=url.password if password is None else password,
            database=url.database,
            autocommit=True,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def redshift(self, sql: str) -> list[tuple[object, ...]]:
        url = self.warehouse
        connection = psycopg2.connect(
            host=url.host, port=url.port, user=url.user, password=url.password, dbname=url.database
        )
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def aws(self, service: str):
        return boto3.client(service, **self.session)

    def write_everywhere(self, word: str) -> None:
        self.mysql("CREATE TABLE IF NOT EXISTS kept (word VARCHAR(20) PRIMARY KEY)")
        self.mysql(f"INSERT INTO kept VALUES ('{word}')")
        self.redshift("CREATE TABLE IF NOT EXISTS kept (word VARCHAR(20))")
        self.redshift(f"INSERT INTO kept VALUES ('{word}')")
        self.aws("s3").put_object(Bucket=self.bucket, Key=f"kept/{word}", Body=word.encode())

    def read_everywhere(self) -> list[set[str]]:
        listed = self.aws("s3").list_objects_v2(Bucket=self.bucket, Prefix="kept/").get("Contents", [])
        return [
            {str(row[0]) for row in self.mysql("SELECT word FROM kept")},
            {str(row[0]) for row in self.redshift("SELECT word FROM kept")},
            {each["Key"].removeprefix("kept/") for each in listed},
        ]


def pids(home: Path) -> dict[str, int | None]:
    return {row.name: row.pid for row in stack.status(home)}


def listeners() -> dict[str, str]:
    """The listening TCP sockets of this machine: inode -> address, as the kernel writes them."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found[fields[9]] = fields[1]
    return found


def inodes(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found |= set(re.findall(r"^socket:\[(\d+)\]$", str(link.readlink())))
        except OSError:
            continue  # closed meanwhile
    return found


def gone_within(home: Path, seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    while (left := process.offspring(home)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_a_stack_keeps_its_rows_objects_and_catalog_over_down_and_up(home: Path) -> None:
    lines: list[str] = []
    first = stack.up(home, ui=False, report=lines.append)
    assert stack.is_up(home)
    assert [row.name for row in stack.status(home)] == SERVICES
    assert sum(" is up on " in line for line in lines) == len(SERVICES)
    clients = Clients(first.environ)
    clients.write_everywhere("first")
    clients.aws("glue").create_database(DatabaseInput={"Name": "kept"})
    before = pids(home)

    # A second up finds everything there, and says so quickly.
    begin = time.monotonic()
    assert stack.up(home, ui=False).environ == first.environ
    assert time.monotonic() - begin < 1
    assert pids(home) == before

    assert stack.down(home)
    assert not stack.is_up(home)
    assert not process.offspring(home)
    assert not stack.down(home), "a second down finds nothing to stop"
    assert {row.state for row in stack.status(home)} == {"stopped"}
    assert stack.environment(home) == first.environ, "the environment does not depend on the stack being up"

    stack.up(home, ui=False)
    assert clients.read_everywhere() == [{"first"}] * 3
    assert [each["Name"] for each in clients.aws("glue").get_databases()["DatabaseList"]] == ["kept"]


def test_a_killed_supervisor_leaves_no_process_and_loses_no_row(home: Path) -> None:
    clients = Clients(stack.up(home, ui=False).environ)
    clients.write_everywhere("before")
    supervisor = holder(Layout(home))
    assert supervisor is not None
    assert len(process.offspring(home)) >= len(SERVICES)

    os.kill(supervisor.pid, signal.SIGKILL)

    assert not gone_within(home, 20)
    assert not stack.is_up(home)
    stack.up(home, ui=False)
    clients.write_everywhere("after")
    assert clients.read_everywhere() == [{"before", "after"}] * 3


def test_servers_of_a_killed_supervisor_that_still_run_are_replaced_by_the_next_up(home: Path) -> None:
    stack.up(home, ui=False)
    supervisor = holder(Layout(home))
    assert supervisor is not None
    old = {pid for pid in pids(home).values() if pid}

    os.kill(supervisor.pid, signal.SIGKILL)
    while supervisor.alive():
        time.sleep(0.001)
    stack.up(home, ui=False)  # at once: some of them are still stopping

    assert stack.is_up(home)
    assert old.isdisjoint({pid for pid in pids(home).values() if pid})
    assert stack.down(home)
    assert not process.offspring(home)


def test_two_stacks_run_beside_each_other(tmp_path: Path, running: Stack, home: Path) -> None:
    other = Clients(stack.up(home, ui=False).environ)
    mine = Clients(running.environ)
    ports = [row.port for each in (home, running.home) for row in stack.status(each)]
    assert len(set(ports)) == 2 * len(SERVICES)
    other.mysql("CREATE TABLE only_here (a INT)")
    assert mine.mysql("SHOW TABLES LIKE 'only_here'") == ()
    stack.down(home)
    assert stack.is_up(running.home)


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_is_started_again(running: Stack, name: str) -> None:
    clients = Clients(running.environ)
    before = pids(running.home)

    new = stack.restart_service(running.home, name, kill=True)

    after = pids(running.home)
    assert new == after[name] != before[name]
    assert {key: pid for key, pid in after.items() if key != name} == {
        key: pid for key, pid in before.items() if key != name
    }
    assert clients.mysql("SELECT 1") == ((1,),)
    assert clients.redshift("SELECT 1") == [(1,)]
    clients.aws("s3").head_bucket(Bucket=clients.bucket)
    [row] = [row for row in stack.status(running.home) if row.name == name]
    assert (row.state, row.note) == ("up", "")


def test_a_service_that_keeps_dying_is_given_up_and_tried_again_by_up(running: Stack) -> None:
    stack.restart_service(running.home, "aws")  # forgets earlier deaths
    pid = 0
    for _ in range(4):
        pid = stack.wait_for_service(running.home, "aws", other_than=pid)
        assert stack.kill_service(running.home, "aws") == pid
    deadline = time.monotonic() + 20
    while stack.is_up(running.home) or "given up" not in stack.status(running.home)[1].note:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    row = stack.status(running.home)[1]
    assert row.state == "failed"
    assert "given up after 5 times within 60 seconds" in row.note

    stack.up(running.home, ui=False)

    assert stack.is_up(running.home)


def test_an_unknown_service_cannot_be_killed(running: Stack) -> None:
    with pytest.raises(LocalStackError, match="runs no service 'oracle'"):
        stack.kill_service(running.home, "oracle")


def test_the_environment_is_complete_and_every_client_connects_with_it(running: Stack) -> None:
    assert set(running.environ) == {
        "RDS_LAKE_HOME",
        "RDS_LAKE_SOURCE_URL",
        "RDS_LAKE_BUCKET",
        "RDS_LAKE_DROP_BUCKET",
        "RDS_LAKE_WAREHOUSE_URL",
        "RDS_LAKE_REDSHIFT_IAM_ROLE",
        "RDS_LAKE_POSTGRES_URL",
        "RDS_LAKE_DAGSTER_URL",
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "DAGSTER_HOME",
    }
    clients = Clients(running.environ)
    assert clients.mysql("SELECT @@time_zone, @@character_set_database, @@innodb_flush_log_at_trx_commit") == (
        ("+00:00", "utf8mb4", 1),
    )
    assert clients.mysql("SELECT COUNT(*) FROM information_schema.innodb_trx") == ((0,),), "needs PROCESS"
    assert clients.redshift("SHOW default_transaction_isolation") == [("repeatable read",)]
    assert clients.redshift("SHOW timezone") == [("UTC",)]
    buckets = clients.aws("s3").list_buckets()["Buckets"]
    assert clients.bucket in {each["Name"] for each in buckets}, "other tests have buckets of their own here"
    assert clients.aws("athena").list_work_groups()["WorkGroups"]
    assert clients.aws("sqs").list_queues()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "S3_Audit_1" in clients.aws("dynamodb").list_tables()["TableNames"]
    assert clients.aws("events").list_event_buses()["EventBuses"]


@pytest.mark.parametrize("user", ["root", "", "mariadb.sys"])
def test_mysql_has_no_user_without_a_password(running: Stack, user: str) -> None:
    clients = Clients(running.environ)
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        clients.mysql("SELECT 1", user=user or "nobody", password="")


def test_only_the_owner_can_read_the_passwords(running: Stack) -> None:
    layout = Layout(running.home)
    assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.home.stat().st_mode) == 0o700
    clients = Clients(running.environ)
    for log in layout.logs.glob("*.log"):
        text = log.read_text(errors="replace")
        assert clients.source.password not in text
        assert clients.warehouse.password not in text
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in process.offspring(layout.home)]
    assert not any(clients.source.password.encode() in command for command in commands)


def test_nothing_listens_on_another_address_than_127_0_0_1(running: Stack) -> None:
    everything = listeners()
    mine = set().union(*(inodes(pid) for pid in process.offspring(running.home))) & set(everything)
    assert len(mine) == len(SERVICES)
    assert {everything[inode].partition(":")[0] for inode in mine} == {"0100007F"}


def test_the_local_mariadb_has_a_temporary_folder_that_no_other_server_empties(running):
    folder = Path(str(Clients(running.environ).mysql("SELECT @@tmpdir")[0][0]))
    assert folder.is_relative_to(running.home)
