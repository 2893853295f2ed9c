"""What the tests of the rooms above the Dagster line share: the stack's servers as the rooms see them, tables, batches.

Each test takes names of its own (`rooms.name()`), so that no test meets another's tables, keys or ledger rows.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pyarrow as pa
import pymysql
import pytest
from hypothesis import HealthCheck, settings

from rds_lake.errors import PermanentError
from rds_lake.extract.source import Source
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake.batch import BatchWriter, new_batch_id
from rds_lake.lake.catalog import Catalog
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Committed, Manifest, Manifests
from rds_lake.lake.s3 import open_s3
from rds_lake.lake.store import ObjectStore
from rds_lake.local.stack import Stack
from rds_lake.quality.split import DISCARDED_FIELDS
from rds_lake.settings import parse_database_url
from rds_lake.spec import Stage, TableSpec
from rds_lake.sql import quote
from rds_lake.warehouse.connection import Session, Warehouse

FENCE = datetime(2030, 1, 1, tzinfo=UTC).isoformat()

HOSTILE_NAMES = (
    "select",
    "two words",
    'double"quote',
    "back`tick",
    "it's",
    "per%cent",
    "a%s%%d",
    "Käse 美 ñ",
    "semi;colon--",
    "brace{0}",
    "back\\slash",
    "n" * 63,
)


def bounded(examples: int) -> settings:
    """Hypothesis settings for a test that may speak to a server."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def table_spec(table: str, **more: Any) -> TableSpec:
    """A table's YAML, given as Python values."""
    return TableSpec.model_validate({"table": table, **more})


def daily(table: str, start: str = "2024-01-01", **more: Any) -> TableSpec:
    """A table with the key `id` and the cursor `at`, cut into days."""
    given = {"key": ["id"], "cursor": {"column": "at"}, "partitions": {"by": "day", "start": start}, **more}
    return table_spec(table, **given)


def lookup_of(texts: Sequence[str]) -> pa.Table:
    """The values of a lookup that is text, as `Source.lookup` returns them."""
    return pa.table({name: pa.array(texts, pa.string()) for name in ("value", "text")})


def as_committed(manifests: Sequence[Manifest]) -> list[Committed]:
    """Manifests as `publish` takes them, with an ETag that no object has: what stands in the lake is looked up."""
    return [Committed(manifest, "") for manifest in manifests]


@dataclass(frozen=True)
class Rooms:
    """The stack's servers, as the rooms see them."""

    environ: Mapping[str, str]
    source: Source
    store: ObjectStore
    catalog: Catalog
    warehouse: Warehouse

    @classmethod
    def of(cls, stack: Stack) -> "Rooms":
        """The rooms of a running stack."""
        environ = stack.environ
        mysql, redshift = "RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL"
        warehouse_url = parse_database_url(environ[redshift], scheme="redshift", variable=redshift)
        return cls(
            environ=environ,
            source=Source(parse_database_url(environ[mysql], scheme="mysql", variable=mysql)),
            store=open_store(environ, environ["RDS_LAKE_BUCKET"]),
            catalog=Catalog(_client(environ, "glue"), cls.name("db_")),
            warehouse=Warehouse(warehouse_url, environ["RDS_LAKE_REDSHIFT_IAM_ROLE"]),
        )

    @staticmethod
    def name(prefix: str = "t_") -> str:
        """A name that no other test uses."""
        return prefix + secrets.token_hex(5)

    def client(self, service: str) -> Any:
        """A boto3 client of the stack's AWS endpoint."""
        return _client(self.environ, service)

    def mysql(self, **options: Any) -> Any:
        """A plain connection to the source, in autocommit; the caller closes it."""
        url = self.source.url
        given = {
            "host": url.host,
            "port": url.port,
            "user": url.user,
            "password": url.password,
            "database": url.database,
            "charset": "utf8mb4",
            "autocommit": True,
            "init_command": "SET time_zone='+00:00'",
            "ssl_disabled": True,  # reading the system's authorities takes the driver 35 ms
            **options,
        }
        return pymysql.connect(**given)

    def sql(self, *statements: str) -> Any:
        """Run statements at the source, without any formatting; the rows of the last one."""
        with self.mysql() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def fill(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows into a table of the source."""
        with self.mysql() as connection, connection.cursor() as cursor:
            for row in rows:
                cursor.execute(
                    f"INSERT INTO {quote(table, 'mysql')} VALUES ({', '.join(['%s'] * len(row))})", tuple(row)
                )

    def postgres(self) -> Any:
        """A plain connection to the warehouse, in autocommit; the caller closes it."""
        url = self.warehouse.url
        connection = psycopg2.connect(
            host=url.host, port=url.port, user=url.user, password=url.password, dbname=url.database
        )
        connection.autocommit = True
        return connection

    def ask(self, text: str, parameters: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement at the warehouse; its rows."""
        connection = self.postgres()
        try:
            with connection.cursor() as cursor:
                cursor.execute(text, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def keys(self, prefix: str) -> list[str]:
        """The keys of all objects below a prefix."""
        pages = self.store.client.get_paginator("list_objects_v2").paginate(Bucket=self.store.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def draft(self, spec: TableSpec, stage: Stage, columns: Sequence[Column], **more: Any) -> Manifest:
        """A batch without files."""
        given = {
            "table": spec.table,
            "stage": stage,
            "partition": "all" if spec.partitions is None else "2024-01-01",
            "batch": new_batch_id(),
            "files": (),
            "columns": tuple(columns),
            "fingerprint": "1-abc",
            "fence": FENCE,
            "format": spec.landing.format if stage == "landing" else "parquet",
            **more,
        }
        return Manifest(**given)

    def batch(
        self,
        spec: TableSpec,
        stage: Stage,
        columns: Sequence[Column],
        rows: Sequence[Sequence[Any]],
        **more: Any,
    ) -> Committed:
        """Write and commit a batch of some rows, in place of the partition's current one."""
        draft = self.draft(spec, stage, columns, **more)
        schema = arrow_schema(tuple(columns))
        if stage == "discarded":
            schema = pa.schema([*schema, *DISCARDED_FIELDS])
        writer = BatchWriter(self.store, TableKeys.of(spec), draft, schema)
        if rows:
            writer.write(record_batch(rows, schema))
        manifests = Manifests(self.store, TableKeys.of(spec))
        current = manifests.read(stage, draft.partition)
        return manifests.commit(writer.finish(None), current)

    def rows(self, manifest: Manifest) -> list[tuple[Any, ...]]:
        """The rows of a Parquet batch as an independent reader sees them: boto3 and pyarrow, nothing of ours."""
        import io

        import pyarrow.parquet as pq

        found: list[tuple[Any, ...]] = []
        for file in manifest.files:
            body = self.store.client.get_object(Bucket=self.store.bucket, Key=file.key)["Body"].read()
            found += [tuple(row.values()) for row in pq.read_table(io.BytesIO(body)).to_pylist()]
        return found


def record_batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as an Arrow batch."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for field, values in zip(schema, columns, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def open_store(environ: Mapping[str, str], bucket: str) -> ObjectStore:
    """A bucket of the stack's AWS endpoint."""
    return ObjectStore(open_s3(bucket, environ, boto3.Session), lambda: _client(environ, "s3"))


def _client(environ: Mapping[str, str], service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=environ["AWS_DEFAULT_REGION"],
    )


@pytest.fixture(scope="session")
def rooms(stack: Stack) -> Rooms:
    """The running stack's rooms."""
    return Rooms.of(stack)


@pytest.fixture
def mysql_table(rooms: Rooms) -> Iterator[Callable[..., str]]:
    """Makes tables of the source that are dropped after the test: `mysql_table("id INT PRIMARY KEY")`."""
    made: list[str] = []

    def make(columns: str, *, name: str | None = None, rows: Sequence[Sequence[Any]] = (), options: str = "") -> str:
        table = name or rooms.name()
        made.append(table)
        rooms.sql(f"CREATE TABLE {_backticks(table)} ({columns}) {options}")
        rooms.fill(table, rows)
        return table

    yield make
    for table in made:
        with suppress(pymysql.MySQLError):
            rooms.sql(f"DROP TABLE {_backticks(table)}")


def _backticks(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def enlarging_no_text(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the warehouse enlarge no text in place, as Redshift does for some encodings; what it is told meanwhile."""
    original, seen = Session.execute, []

    def execute(self: Session, text: str, parameters: tuple[Any, ...] = ()) -> Any:
        seen.append(text)
        if " TYPE VARCHAR" in text:
            raise PermanentError("cannot alter column: it is encoded as bytedict.", "None.")
        return original(self, text, parameters)

    monkeypatch.setattr(Session, "execute", execute)
    return seen


def refit(manifest: Manifest, **changes: Any) -> Manifest:
    """A manifest with some fields changed."""
    return replace(manifest, **changes)


PACKAGE = Path(__file__).parent.parent / "rds_lake"
