"""Files dropped by real requests, and an independent look at what became of them: plain boto3, psycopg2 and pyarrow.

```
drops = Drops.zone(rooms.environ)                        a bucket, an audit table and a database of its own
drops = Drops.zone(rooms.environ, versioned=True, discard_limit=0.5)
drops = Drops.feed(rooms.environ, "transactions", columns=[...], key=[...], ...)
other = Drops(drops.environ, drops.spec)                 the same things, as another process would see them

drops.schema("customers", "id bigint", "name varchar(20)", keys=["id"])   drops a schema file
drops.drop("append", "customers", "a.csv", "id,name\n1,Ada\n")            drops a file; str is UTF-8; its FileVersion
drops.put(key, body), drops.source("a.csv", body)        the same by key; into a feed's source/
drops.run()                                              one pass: a whole sweep claims, a Machine handles
drops.handle(drops.version(key, landed_at=...))          claim just this version, as an event would, and handle it
drops.expire(*versions)                                  their leases are over, whoever works on them
drops.claim(*versions) -> records, drops.work(records) -> [(Record, Result)]

drops.rows("customers", "id, name")                      the target's rows, ordered by these columns
drops.ask("SELECT ...", parameters)                      any query (the warehouse of a zone, PostgreSQL of a feed)
drops.table("customers")                                 the target's quoted name, for queries
drops.keys(prefix), drops.body(key)                      what lies in the bucket
drops.record(version) / drops.records(table)             what the audit log says: the Record by its own reading
drops.report(record)                                     the report's JSON; drops.discarded(record): rows as dicts
drops.original(record)                                   the bytes where the record says that the file lies now
drops.ledger("customers")                                rows of rds_lake.file_ledger, oldest first, as dicts
drops.check_accounts("customers")                        asserts that nothing is lost: records, ledger, bucket, table
```

`landed_at` of an object is S3's and has whole seconds. In a bucket with versioning the file id does not depend on it,
so there a test may say when a version landed; without versioning `later()` waits for the next second.
"""

import io
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import boto3
import psycopg2
import pyarrow.parquet as pq
from botocore.config import Config
from rooms import open_store

from rds_lake.audit_log.log import LEASE, AuditLog
from rds_lake.audit_log.record import Record, from_item, stamp
from rds_lake.files.feed import FileFeed
from rds_lake.files.listing import Cursor, sweep
from rds_lake.files.machine import Machine, Receiver, new_record
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.files.store import FileStore
from rds_lake.files.upsert import RDS
from rds_lake.files.version import FileVersion
from rds_lake.files.work import Result
from rds_lake.files.zone import DropZone
from rds_lake.settings import DatabaseUrl, parse_database_url
from rds_lake.warehouse.connection import Database, Warehouse

OURS = ("processed/", "failed/", "staging/", "discarded/", "schemas/", "cleaned/")
"""The folders that rds_lake writes into."""

WAREHOUSE, POSTGRES = "RDS_LAKE_WAREHOUSE_URL", "RDS_LAKE_POSTGRES_URL"


class Drops:
    """A drop zone or a feed over the stack's servers, with names that no other test uses.

    Args:
        environ: the product's variables, `RDS_LAKE_DROP_BUCKET` and `RDS_LAKE_AUDIT_TABLE` among them.
        spec: the YAML's content.
        lease: how long a claim is good for.
    """

    def __init__(
        self, environ: Mapping[str, str], spec: DropZoneSpec | FileFeedSpec, *, lease: timedelta = LEASE
    ) -> None:
        self.environ = dict(environ)
        self.spec = spec
        self.bucket = environ["RDS_LAKE_DROP_BUCKET"]
        self.s3 = self.client("s3")
        self.dynamodb = self.client("dynamodb")
        self.log = AuditLog(self.dynamodb, environ["RDS_LAKE_AUDIT_TABLE"], lease)
        self.store = FileStore(self.s3, open_store(self.environ, self.bucket))
        self.said: list[str] = []
        self.is_zone = isinstance(spec, DropZoneSpec)
        self.database = spec.database if isinstance(spec, DropZoneSpec) else ""
        self.receiver = self._receiver()

    def _receiver(self) -> Receiver:
        if isinstance(self.spec, DropZoneSpec):
            return DropZone(self.spec, self.store, self.warehouse, self.said.append)
        return FileFeed(self.spec, self.store, self.postgres, self.said.append)

    @classmethod
    def zone(
        cls, environ: Mapping[str, str], *, versioned: bool = False, lease: timedelta = LEASE, **spec: Any
    ) -> Self:
        """A new drop zone with a new bucket and a new audit table."""
        given = DropZoneSpec.model_validate({"database": f"db_{secrets.token_hex(4)}", **spec})
        return cls._new(environ, given, versioned=versioned, lease=lease)

    @classmethod
    def feed(
        cls, environ: Mapping[str, str], feed: str, *, versioned: bool = False, lease: timedelta = LEASE, **spec: Any
    ) -> Self:
        """A new feed with a new bucket, a new audit table and a schema of its own in PostgreSQL."""
        target = {"schema": f"feed_{secrets.token_hex(4)}", "table": "target", **spec.pop("target", {})}
        given = FileFeedSpec.model_validate({"feed": feed, "target": target, **spec})
        return cls._new(environ, given, versioned=versioned, lease=lease)

    @classmethod
    def _new(
        cls, environ: Mapping[str, str], spec: DropZoneSpec | FileFeedSpec, *, versioned: bool, lease: timedelta
    ) -> Self:
        own = secrets.token_hex(4)
        names = {"RDS_LAKE_DROP_BUCKET": f"drop-{own}", "RDS_LAKE_AUDIT_TABLE": f"audit_{own}"}
        made = cls({**environ, **names}, spec, lease=lease)
        made.s3.create_bucket(Bucket=made.bucket)
        if versioned:
            made.s3.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Enabled"})
        made.log.create()
        return made

    # --- the servers -------------------------------------------------------------------------------------------------

    def client(self, service: Any) -> Any:
        """A boto3 client of the stack."""
        return boto3.client(
            service,
            endpoint_url=self.environ["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environ["AWS_DEFAULT_REGION"],
            config=Config(max_pool_connections=16, retries={"mode": "standard", "max_attempts": 5}),
        )

    def url(self, variable: str) -> DatabaseUrl:
        """The address of the warehouse, or of PostgreSQL on RDS."""
        scheme = "redshift" if variable == WAREHOUSE else "postgresql"
        return parse_database_url(self.environ[variable], scheme=scheme, variable=variable)

    def warehouse(self) -> Warehouse:
        """The warehouse, as the product connects to it."""
        return Warehouse(self.url(WAREHOUSE), self.environ["RDS_LAKE_REDSHIFT_IAM_ROLE"])

    def postgres(self) -> Database:
        """PostgreSQL on RDS, as the product connects to it."""
        return Database(self.url(POSTGRES), RDS)

    def connect(self) -> Any:
        """A plain connection to the target's server, in autocommit; the caller closes it."""
        url = self.url(WAREHOUSE if self.is_zone else POSTGRES)
        raw = psycopg2.connect(host=url.host, port=url.port, user=url.user, password=url.password, dbname=url.database)
        raw.autocommit = True
        return raw

    def ask(self, text: str, parameters: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement at the target's server; its rows."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(text, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    # --- dropping ----------------------------------------------------------------------------------------------------

    def put(self, key: str, body: str | bytes) -> FileVersion:
        """Write an object; the version that it is."""
        content = body.encode() if isinstance(body, str) else body
        made = self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)
        return self.version(key, version_id=made.get("VersionId"))

    def drop(
        self, action: str, table: str, name: str, body: str | bytes, landed_at: datetime | None = None
    ) -> FileVersion:
        """Drop a file into the zone; `landed_at` is for buckets with versioning, see above."""
        made = self.put(f"{self.database}/{action}/{table}/{name}", body)
        return replace(made, landed_at=landed_at) if landed_at else made

    def source(self, name: str, body: str | bytes, landed_at: datetime | None = None) -> FileVersion:
        """Drop a file into the feed's `source/`; `landed_at` is for buckets with versioning."""
        assert isinstance(self.spec, FileFeedSpec)
        made = self.put(f"{self.spec.root}source/{name}", body)
        return replace(made, landed_at=landed_at) if landed_at else made

    def schema(
        self,
        table: str,
        *columns: str,
        name: str = "schema.json",
        landed_at: datetime | None = None,
        required: Sequence[str] = (),
        **more: Any,
    ) -> FileVersion:
        """Drop a schema file: each column as `"name type"`; `required` ones are not nullable."""
        told = [_column(text, required) for text in columns]
        return self.drop("schema", table, name, json.dumps({"columns": told, **more}), landed_at)

    def version(self, key: str, *, version_id: str | None = None, landed_at: datetime | None = None) -> FileVersion:
        """An object as it is now, or one version of it."""
        found = self.store.look(key, version_id)
        assert found is not None, key
        return replace(found, landed_at=landed_at) if landed_at else found

    @staticmethod
    def later() -> None:
        """Wait until whatever is written next has another second than what was written before."""
        time.sleep(1.01 - time.time() % 1)

    # --- handling ----------------------------------------------------------------------------------------------------

    def claim(self, *versions: FileVersion) -> list[Record]:
        """Claim versions, as an event's handler would; those that others hold are left out."""
        records = [new_record(self.receiver, version) for version in versions]
        claims = [self.log.claim(record) for record in records if record is not None]
        return [claim for claim in claims if claim is not None]

    def sweep(self) -> list[Record]:
        """Claim what a whole sweep finds."""
        cursor, claimed = Cursor(), []
        while True:
            swept = sweep(self.receiver, self.log, cursor)
            claimed += swept.claimed
            if swept.ended:
                return claimed
            cursor = swept.cursor

    def machine(self, run_id: str = "run-1") -> Machine:
        """What handles claimed files."""
        return Machine(self.receiver, self.log, run_id, self.said.append)

    def work(self, claimed: Iterable[Record], run_id: str = "run-1") -> list[tuple[Record, Result]]:
        """Handle claimed files."""
        return list(self.machine(run_id).run(list(claimed)))

    def run(self, run_id: str = "run-1") -> list[tuple[Record, Result]]:
        """One pass: claim what a sweep finds, and handle it."""
        return self.work(self.sweep(), run_id)

    def handle(self, *versions: FileVersion, run_id: str = "run-1") -> list[tuple[Record, Result]]:
        """Claim just these versions and handle them together."""
        return self.work(self.claim(*versions), run_id)

    def expire(self, *versions: FileVersion, by: timedelta = timedelta(seconds=1)) -> None:
        """End the leases of claimed files some time ago, as if their workers had stood still."""
        past = stamp(datetime.now(UTC) - by)
        for version in versions:
            held = self.record(version)
            self.dynamodb.update_item(
                TableName=self.log.name,
                Key={"TableName": {"S": held.table}, "LandedKey": {"S": held.landed_key}},
                UpdateExpression="SET LeaseUntil = :past",
                ExpressionAttributeValues={":past": {"S": past}},
            )

    def settled(self, *versions: FileVersion) -> list[Record]:
        """Handle versions together (or find that they are handled), and return the record of each, in this order."""
        self.handle(*versions)
        return [self.record(version) for version in versions]

    def one(self, version: FileVersion) -> Record:
        """Handle one version; its record."""
        return self.settled(version)[0]

    # --- looking -----------------------------------------------------------------------------------------------------

    def table(self, name: str = "") -> str:
        """The target's name in SQL."""
        if isinstance(self.spec, DropZoneSpec):
            return f'"{self.spec.schema_name}"."{name}"'
        return f'"{self.spec.target.db_schema}"."{self.spec.target.table}"'

    def rows(self, name: str = "", columns: str = "*") -> list[tuple[Any, ...]]:
        """The target's rows, in the order of these columns."""
        order = "" if columns == "*" else f" ORDER BY {columns}"
        found = self.ask(f"SELECT {columns} FROM {self.table(name)}{order}")
        return found if order else sorted(found, key=repr)

    def types(self, name: str = "") -> list[tuple[Any, ...]]:
        """Names and types of the target's columns, as the server tells them."""
        schema, table = self.table(name).replace('"', "").split(".")
        return self.ask(
            "SELECT column_name, data_type, character_maximum_length, numeric_precision, numeric_scale "
            "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (schema, table),
        )

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of all objects below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def waiting(self) -> list[str]:
        """The keys of what lies where files are dropped."""
        return [key for prefix in self.receiver.prefixes() for key in self.keys(prefix)]

    def body(self, key: str) -> bytes:
        """The content of an object, by key or by `s3://` address."""
        plain = key.removeprefix(f"s3://{self.bucket}/")
        return self.s3.get_object(Bucket=self.bucket, Key=plain)["Body"].read()

    def all_records(self) -> list[Record]:
        """All records of the audit log, oldest first, read by a plain scan."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.log.name, ConsistentRead=True)
        items = [item for page in pages for item in page["Items"] if not item["TableName"]["S"].startswith("#")]
        return sorted((from_item(item) for item in items), key=lambda record: (record.landed_at, record.file_id))

    def open_files(self) -> list[str]:
        """The ids of files that are claimed and not finished, read by a plain scan."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.log.name, ConsistentRead=True)
        items = [item for page in pages for item in page["Items"]]
        return [item["LandedKey"]["S"] for item in items if item["TableName"]["S"].startswith("#OPEN#")]

    def records(self, table: str) -> list[Record]:
        """The records of a table; its name may come without the database."""
        wanted = table if "." in table or not self.is_zone else f"{self.database}.{table}"
        return [record for record in self.all_records() if record.table == wanted]

    def record(self, version: FileVersion | str) -> Record:
        """The record of a version, or of a file id."""
        file_id = version if isinstance(version, str) else version.file_id
        [found] = [record for record in self.all_records() if record.file_id == file_id]
        return found

    def report(self, record: Record) -> dict[str, Any]:
        """The report that a record names."""
        assert record.report, record
        return dict(json.loads(self.body(record.report)))

    def original(self, record: Record) -> bytes:
        """The content of the file where its record says that it is now."""
        assert record.moved_to, record
        return self.body(record.moved_to)

    def discarded(self, record: Record) -> list[dict[str, Any]]:
        """The rows that `discarded.parquet` of a file has."""
        address = self.report(record)["result"]["details"].get("discarded")
        return [] if address is None else self.parquet(address)

    def parquet(self, key: str) -> list[dict[str, Any]]:
        """The rows of a Parquet object."""
        return list(pq.read_table(io.BytesIO(self.body(key))).to_pylist())

    def ledger(self, name: str = "") -> list[dict[str, Any]]:
        """The ledger's rows of a table, oldest first."""
        place = self.table(name).replace('"', "")
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT * FROM rds_lake.file_ledger WHERE table_name = %s ORDER BY landed_at, file_id", (place,)
                )
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()

    # --- accounts ----------------------------------------------------------------------------------------------------

    def check_accounts(self, *tables: str, keyed: bool = False) -> None:
        """Assert that every file has ended, that all of its rows are somewhere, and that all witnesses agree.

        Args:
            tables: the tables whose row count has to be that of the ledger.
            keyed: whether rows replace others, so that the ledger may have more.
        """
        assert self.waiting() == []
        assert self.open_files() == []
        for record in self.all_records():
            self._check_record(record)
        ledgers = tables if self.is_zone else ("",)
        loaded = {row["file_id"]: row["rows_loaded"] for name in ledgers for row in self.ledger(name)}
        for record in self.all_records():
            is_data = record.action in {"append", "truncate", "upsert"} and record.status == "completed"
            if is_data and (record.table.rpartition(".")[2] in tables or not self.is_zone):
                assert loaded.get(record.file_id) == record.rows_loaded, record
        for name in tables:
            self._check_count(name, keyed=keyed)

    def _check_count(self, name: str, *, keyed: bool) -> None:
        entries = self.ledger(name)
        last = max((at for at, row in enumerate(entries) if row.get("action") == "truncate"), default=0)
        told = sum(row["rows_loaded"] for row in entries[last:])
        [(held,)] = self.ask(f"SELECT COUNT(*) FROM {self.table(name)}")
        assert held <= told if keyed else held == told, (name, held, told)

    def _check_record(self, record: Record) -> None:
        assert record.status in {"completed", "rejected", "failed"}, record
        assert record.started_at, record
        assert record.ended_at, record
        assert record.started_at <= record.ended_at, record
        assert record.attempts >= 1, record
        assert record.run_id, record
        assert record.error or record.status == "completed", record
        outcome = "processed/" if record.status == "completed" else "failed/"
        assert record.report, record
        assert outcome in record.report, record
        report = self.report(record)
        assert report["file_id"] == record.file_id, record
        told = report["result"]
        for name in ("status", "rows_read", "rows_loaded", "rows_discarded", "content"):
            assert told[name] == getattr(record, name), (name, record)
        assert (told["error"] or "")[:2000] == (record.error or ""), record
        if record.status == "completed":
            older = told["details"].get("older", 0)  # rows of a feed that had to give way
            assert record.rows_read == (record.rows_loaded or 0) + (record.rows_discarded or 0) + older, record
        if record.rows_discarded and record.content:
            found = self.discarded(record)
            assert len(found) == record.rows_discarded, record
            assert all(row["_reasons"] for row in found), record
        if record.moved_to:
            assert record.moved_to.rpartition("/")[0] == (record.report or "").rpartition("/")[0], record
            assert len(self.original(record)) == record.size, record


def _column(text: str, required: Sequence[str]) -> dict[str, Any]:
    name, _, kind = text.partition(" ")
    return {"name": name, "type": kind, **({"nullable": False} if name in required else {})}


def day(number: int) -> datetime:
    """A moment of landing, for buckets with versioning; a later one for a greater number."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
