"""What the end-to-end tests share: a small world of its own in the running stack, and readers that are not rds_lake's.

A `World` has its own bucket, Glue database, warehouse database, Dagster instance and source tables, so that no test
sees another. Its readers use pymysql, boto3, pyarrow, Athena and psycopg2 and the documented formats only.
"""

import datetime as dt
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import dagster as dg
import psycopg2
import pyarrow.parquet as pq
import pymysql
import pytest
from dagster import AssetCheckEvaluation
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from rds_lake.automation import automation_sensor
from rds_lake.checks import VERIFIED
from rds_lake.components.table_pipeline import table_definitions
from rds_lake.definitions import PROJECT
from rds_lake.local.stack import Stack
from rds_lake.resources.services import build_resources
from rds_lake.spec import TableSpec
from rds_lake.sync import Sync, TableResult, table_specs

STAGES = ("landing", "staging", "discarded", "archived", "warehouse")
LAKE = STAGES[:4]
VALID = ("COMPLETE", "CLOSED", "PENDING", "ON_HOLD")
FIRST_DAY = dt.date(2024, 1, 1)
DAYS = 10
ROWS = 1000

Row = tuple[Any, ...]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class State:
    """Everything of a table that a run could change, as seen from outside."""

    objects: Mapping[str, str]
    """The bucket's keys with their ETags."""

    manifests: Mapping[tuple[str, str], Mapping[str, Any]]
    """Manifests by stage and partition."""

    rows: Mapping[str, Counter[Row]]
    """Rows by stage; of the warehouse as well."""

    ledger: Counter[Row]
    """The ledger without its time."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows by stage."""
        return {stage: rows.total() for stage, rows in self.rows.items()}

    @property
    def content(self) -> dict[str, Any]:
        """What no repetition may change: rows, data files, the current batches and their counts, what is loaded."""
        return {
            "rows": self.rows,
            "files": data_files(self.objects),
            "batches": {place: (manifest["batch"], manifest["rows"]) for place, manifest in self.manifests.items()},
            "loaded": Counter(row[:4] + row[5:] for row in self.ledger),
        }

    def outside(self, *partitions: str) -> dict[str, Any]:
        """Everything that belongs to other partitions than these; the load's own manifests left out."""
        return {
            "objects": {
                key: etag
                for key, etag in self.objects.items()
                if "/_manifests/warehouse/" not in key and not any(partition in key for partition in partitions)
            },
            "ledger": Counter(row for row in self.ledger if row[0] not in partitions),
        }


@dataclass
class World:
    """A corner of the running stack that one test module has for itself."""

    environ: dict[str, str] = field(repr=False)
    instance: dg.DagsterInstance
    token: str
    _tables: dict[str, dg.Definitions] = field(default_factory=dict, repr=False)
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    # --- the source ---

    @contextmanager
    def source(self) -> Iterator["pymysql.cursors.Cursor"]:
        """A cursor of the source, in a transaction that is committed at the end."""
        with mysql(self.environ["RDS_LAKE_SOURCE_URL"]) as cursor:
            yield cursor

    def ask(self, text: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement at the source."""
        with self.source() as cursor:
            cursor.execute(text, parameters)
            return list(cursor.fetchall())

    def table(self, name: str, columns: str, rows: Sequence[Row] = ()) -> str:
        """Make a source table; returns its name."""
        real = f"{name}_{self.token}"
        with self.source() as cursor:
            cursor.execute(f"CREATE TABLE {real} ({columns}) DEFAULT CHARACTER SET utf8mb4")
            if rows:
                marks = ", ".join(["%s"] * len(rows[0]))
                cursor.executemany(f"INSERT INTO {real} VALUES ({marks})", rows)
        return real

    def orders(self, name: str = "orders", rows: Sequence[Row] | None = None, **more: Any) -> TableSpec:
        """A table like the demo's orders, with its lookup and its log of extractions, and its YAML as a spec."""
        columns = (
            "order_id INT PRIMARY KEY, order_last_updated DATETIME, customer_id INT, order_status VARCHAR(25), "
            "INDEX by_cursor (order_last_updated)"
        )
        source = self.table(name, columns, order_rows() if rows is None else rows)
        lookup = self.table(f"{name}_status", "status_name VARCHAR(25) PRIMARY KEY", [(text,) for text in VALID])
        log = self.table(
            f"{name}_fetched",
            "metadata_id INT AUTO_INCREMENT PRIMARY KEY, tablename VARCHAR(64), last_fetched DATETIME(6), "
            "updated_at DATETIME(6)",
        )
        declared = {
            "table": name,
            "source_table": source,
            "key": ["order_id"],
            "cursor": {"column": "order_last_updated"},
            "partitions": {"by": "day", "start": FIRST_DAY},
            "rules": [
                {
                    "rule": "in_lookup",
                    "name": "valid_status",
                    "column": "order_status",
                    "lookup_table": lookup,
                    "lookup_column": "status_name",
                }
            ],
            "warehouse": {"table": name},
            "fetch_details": log,
        }
        return TableSpec.model_validate({**declared, **more})

    # --- doing ---

    def definitions(self, spec: TableSpec) -> dg.Definitions:
        """The code location of one table."""
        text = spec.model_dump_json(by_alias=True)
        if text not in self._tables:
            self._tables[text] = dg.Definitions.merge(
                table_definitions(spec),
                dg.Definitions(
                    resources=build_resources(), sensors=[automation_sensor()], executor=dg.in_process_executor
                ),
            )
        return self._tables[text]

    def adopt(self, definitions: dg.Definitions) -> dict[str, TableSpec]:
        """Use the tables of a code location; returns their YAML by name."""
        specs = table_specs(definitions)
        self._tables |= {spec.model_dump_json(by_alias=True): definitions for spec in specs.values()}
        return specs

    def sync(self, spec: TableSpec, instance: dg.DagsterInstance | None = None, **more: Any) -> TableResult:
        """`rds-lake sync` of one table, in this process, after the fence has passed what was written before."""
        return Sync(self.definitions(spec), instance or self.instance).table(spec, **more)

    def materialize(
        self,
        spec: TableSpec,
        *stages: str,
        partition: str | None = None,
        upto: str | None = None,
        checks: bool = True,
    ) -> dg.ExecuteInProcessResult:
        """Run assets of a table for one partition, a range, or the whole table."""
        job = self.definitions(spec).resolve_implicit_global_asset_job_def()
        keys = {dg.AssetKey(spec.asset(stage)) for stage in stages}  # type: ignore[arg-type]
        job = job.get_subset(asset_selection=keys, asset_check_selection=None if checks else set())
        tags = {}
        if partition and upto:
            tags = {ASSET_PARTITION_RANGE_START_TAG: partition, ASSET_PARTITION_RANGE_END_TAG: upto}
            partition = None
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return job.execute_in_process(
            run_config=quiet, instance=self.instance, partition_key=partition, tags=tags, raise_on_error=False
        )

    def check(self, spec: TableSpec, partition: str | None = None) -> dict[str, AssetCheckEvaluation]:
        """Run what a sync checks alone, for all partitions or for one: what each check found, by `asset.check`."""
        job = self.definitions(spec).resolve_implicit_global_asset_job_def()
        keys = {key for key in job.asset_layer.asset_graph.asset_check_keys if key.name != VERIFIED}
        job = job.get_subset(asset_selection=set(), asset_check_selection=keys)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        tags = {PARTITION_NAME_TAG: partition} if partition else {}
        done = job.execute_in_process(run_config=quiet, instance=self.instance, tags=tags, raise_on_error=False)
        return evaluations(done)

    # --- the lake, read with boto3 and pyarrow alone ---

    def client(self, service: str) -> Any:
        """A boto3 client made from the environment's variables."""
        if service not in self._clients:
            self._clients[service] = client(self.environ, service)
        return self._clients[service]

    @property
    def bucket(self) -> str:
        """The lake's bucket."""
        return self.environ["RDS_LAKE_BUCKET"]

    def objects(self, prefix: str = "") -> dict[str, str]:
        """Keys and ETags below a prefix."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}

    def get(self, key: str) -> bytes:
        """An object's content."""
        content: bytes = self.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def get_all(self, keys: Sequence[str]) -> list[bytes]:
        """Objects' contents, several read at once."""
        self.client("s3")  # made once, before the threads ask for it
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.get, keys))

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        self.client("s3").put_object(Bucket=self.bucket, Key=key, Body=content)

    def manifests(self, table: str, stage: str) -> dict[str, dict[str, Any]]:
        """The manifests of a stage, by partition."""
        prefix = f"{table}/_manifests/{stage}/"
        keys = list(self.objects(prefix))
        names = [key.removeprefix(prefix).removesuffix(".json") for key in keys]
        return dict(zip(names, map(json.loads, self.get_all(keys)), strict=True))

    def lake_rows(self, table: str, stage: str) -> Counter[Row]:
        """All rows that a stage's manifests name; Parquet only."""
        entries = [entry for manifest in self.manifests(table, stage).values() for entry in manifest["entries"]]
        found: Counter[Row] = Counter()
        for entry, content in zip(entries, self.get_all([self.key(entry["url"]) for entry in entries]), strict=True):
            assert len(content) == entry["meta"]["content_length"]
            read = pq.read_table(io.BytesIO(content))
            assert read.num_rows == entry["meta"]["record_count"]
            found.update(plain_rows(zip(*(column.to_pylist() for column in read.columns), strict=True)))
        return found

    def key(self, url: str) -> str:
        """The key of an `s3://` address in the lake."""
        return url.removeprefix(f"s3://{self.bucket}/")

    # --- the warehouse ---

    @contextmanager
    def warehouse(self) -> Iterator[Any]:
        """A cursor of the warehouse, each statement by itself."""
        with redshift(self.environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
            yield cursor

    def query(self, text: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement in the warehouse."""
        with self.warehouse() as cursor:
            cursor.execute(text, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def warehouse_rows(self, spec: TableSpec) -> Counter[Row]:
        """All rows of a table of the warehouse."""
        return Counter(plain_rows(self.query(f'SELECT * FROM "{spec.warehouse.db_schema}"."{spec.warehouse_name}"')))

    def ledger(self, spec: TableSpec) -> Counter[Row]:
        """The ledger's rows of a table, without the time."""
        return Counter(
            self.query(
                "SELECT partition_key, batch_id, fingerprint, rules, manifest, rows_staged, rows_loaded "
                "FROM rds_lake.load_ledger WHERE table_name = %s",
                (spec.table,),
            )
        )

    def athena(self, text: str) -> list[tuple[str | None, ...]]:
        """The rows of a query of Athena, as text."""
        athena = self.client("athena")
        started = athena.start_query_execution(
            QueryString=text,
            QueryExecutionContext={"Database": self.environ.get("RDS_LAKE_GLUE_DATABASE", "rds_lake")},
            ResultConfiguration={"OutputLocation": f"s3://{self.bucket}-answers/"},
        )["QueryExecutionId"]
        until(lambda: self._athena_state(athena, started) not in {"QUEUED", "RUNNING"})
        execution = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]
        assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"]
        rows = athena.get_query_results(QueryExecutionId=started)["ResultSet"]["Rows"][1:]
        return [tuple(cell.get("VarCharValue") for cell in row["Data"]) for row in rows]

    @staticmethod
    def _athena_state(athena: Any, started: str) -> str:
        return str(athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]["State"])

    # --- all of it ---

    def state(self, spec: TableSpec) -> State:
        """Everything of a (Parquet) table that a run could change."""
        rows = {stage: self.lake_rows(spec.table, stage) for stage in LAKE}
        manifests = {
            (stage, partition): manifest
            for stage in LAKE
            for partition, manifest in self.manifests(spec.table, stage).items()
        }
        return State(
            objects=self.objects(f"{spec.table}/"),
            manifests=manifests,
            rows={**rows, "warehouse": self.warehouse_rows(spec)},
            ledger=self.ledger(spec),
        )

    def outline(self, spec: TableSpec) -> State:
        """The state without rows and manifests' contents, which the ETags stand for."""
        return State(self.objects(f"{spec.table}/"), {}, {}, self.ledger(spec))

    def assert_in_step(self, spec: TableSpec, valid: Sequence[str] = VALID) -> State:
        """Assert that lake and warehouse hold an orders-like table as the source has it, every row accounted for."""
        source = plain_rows(self.ask(f"SELECT * FROM {spec.source_name}"))
        good = Counter(row for row in source if row[3] in valid)
        bad = Counter(row for row in source if row[3] not in valid)
        state = self.state(spec)
        assert state.rows["landing"] == Counter(source)
        assert state.rows["archived"] == Counter(source)
        assert state.rows["staging"] == good
        assert Counter({row[:4]: count for row, count in state.rows["discarded"].items()}) == bad
        assert all(row[4] == ("valid_status",) for row in state.rows["discarded"])
        assert state.rows["warehouse"] == good
        assert not self.objects(f"{spec.table}/landing/"), "landing is vacated"
        return state


# --- making it -----------------------------------------------------------------------------------------------------


@contextmanager
def make_world(stack: Stack) -> Iterator[World]:
    """A world; this process's environment points at it until the end."""
    token = f"w{os.getpid()}x{next(_numbers)}"
    environ = {
        **stack.environ,
        "RDS_LAKE_BUCKET": token,
        "RDS_LAKE_GLUE_DATABASE": token,
        "RDS_LAKE_WAREHOUSE_URL": stack.environ["RDS_LAKE_WAREHOUSE_URL"].rsplit("/", 1)[0] + f"/{token}",
    }
    with redshift(stack.environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
        cursor.execute(f"CREATE DATABASE {token}")
    s3 = client(environ, "s3")
    s3.create_bucket(Bucket=token)
    s3.create_bucket(Bucket=f"{token}-answers")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield World(environ, instance, token)


def order_rows(rows: int = ROWS, days: int = DAYS, first: dt.date = FIRST_DAY) -> list[Row]:
    """Orders, the same number each day, many in the same second, each thirtieth with a bad status of some kind."""
    start = dt.datetime.combine(first, dt.time())
    bad = ("COMPLETED", "closed", " PENDING", "", None)
    found = []
    for number in range(rows):
        day, place = divmod(number * days, rows)
        moment = start + dt.timedelta(days=day, seconds=(place * 86_400 // rows) // 7 * 7)
        status = bad[number // 30 % len(bad)] if number % 30 == 7 else VALID[number % len(VALID)]
        found.append((number + 1, moment, number % 97, status))
    return found


def client(environ: Mapping[str, str], service: str) -> Any:
    """A boto3 client made from variables."""
    return boto3.client(
        service,
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=environ["AWS_DEFAULT_REGION"],
    )


@contextmanager
def mysql(url: str) -> Iterator["pymysql.cursors.Cursor"]:
    """A cursor of a MySQL server, in UTC and in one transaction."""
    parts = urlsplit(url)
    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.lstrip("/"),
        charset="utf8mb4",
        init_command="SET time_zone = '+00:00'",
        ssl_disabled=True,
    )
    try:
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()
    finally:
        connection.close()


@contextmanager
def redshift(url: str) -> Iterator[Any]:
    """A cursor of a warehouse, in autocommit."""
    parts = urlsplit(url)
    connection = psycopg2.connect(
        host=parts.hostname,
        port=parts.port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        dbname=parts.path.lstrip("/"),
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def plain_rows(rows: Any) -> list[Row]:
    """Rows as comparable values, whatever driver they come from."""
    return [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> Any:
    match value:
        case list():
            return tuple(value)
        case memoryview():
            return bytes(value)
        case _:
            return value


def data_files(objects: Mapping[str, str]) -> dict[str, str]:
    """A table's objects without its manifests, which also hold the fence that was last looked at."""
    return {key: etag for key, etag in objects.items() if "/_manifests/" not in key}


def evaluations(done: dg.ExecuteInProcessResult) -> dict[str, AssetCheckEvaluation]:
    """What the checks of a run found, by `asset.check`."""
    found = done.get_asset_check_evaluations()
    return {f"{item.asset_key.to_user_string()}.{item.check_name}": item for item in found}


def failures(done: dg.ExecuteInProcessResult) -> list[str]:
    """What the failed steps of a run say."""
    found = [event.step_failure_data for event in done.get_step_failure_events()]
    return [data.user_failure_data.description or "" for data in found if data.user_failure_data]


def until(done: Callable[[], bool], seconds: float = 20, pause: float = 0.05) -> None:
    """Wait until something holds; it must in time."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)


def rds_lake(
    *words: str, environ: Mapping[str, str], folder: Path, seconds: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a user does, in a folder of its own."""
    program = Path(sys.executable).parent / "rds-lake"
    return subprocess.run(
        [program, *words],
        env={**os.environ, **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def exported(text: str) -> dict[str, str]:
    """The variables of `rds-lake env`."""
    return dict(word.split("=", 1) for word in shlex.split(text) if word != "export")


@contextmanager
def project(folder: Path, tables: Mapping[str, str]) -> Iterator[Path]:
    """A project folder with a YAML file for each table and no Python of its own.

    Args:
        folder: an empty folder.
        tables: the texts of the YAML files, without the line that names the component.
    """
    package = f"shop{os.getpid()}x{next(_numbers)}"
    (folder / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{package}"\n'
        f'code_location_name = "{package}"\n'
    )
    for name, text in {"__init__.py": "", "defs/__init__.py": ""}.items():
        (folder / package / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / package / name).write_text(text)
    for name, text in tables.items():
        (folder / package / "defs" / name).mkdir()
        (folder / package / "defs" / name / "defs.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def write_dagster_home(folder: Path) -> Path:
    """A DAGSTER_HOME with the project's own dagster.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (PROJECT / "dagster.yaml").read_text(encoding="utf-8")
    (folder / "dagster.yaml").write_text(text, encoding="utf-8")
    return folder
