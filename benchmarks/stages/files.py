"""Files that land in S3: the listing over objects that are handled already, and many files that are dropped at once."""

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import boto3

from benchmarks.contenders import CannotError, Contender, Facts, Stage, Step
from benchmarks.environments import python, release
from benchmarks.scene import ROOT, WAREHOUSE, Scene
from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Item, identity_key, pointer, to_item
from rds_lake.files.machine import new_record
from rds_lake.files.spec import DropZoneSpec
from rds_lake.files.store import FileStore
from rds_lake.files.zone import DropZone
from rds_lake.lake.s3 import open_s3
from rds_lake.lake.store import ObjectStore
from rds_lake.warehouse.connection import Warehouse

PREFIX = "bench/append/deliveries/"
ROWS_OF_A_FILE = 20
PEERS = ROOT / "benchmarks" / "peers"
SCHEMA = [
    {"name": "delivery_id", "type": "bigint", "nullable": False},
    {"name": "arrived_at", "type": "timestamp"},
    {"name": "weight", "type": "decimal(10,2)"},
]


def listing(scene: Scene, rows: int) -> Stage:
    """A sweep over objects that are all handled, as the sensor of a prefix that is never emptied does them."""
    bucket = scene.empty_bucket("bench-listing")
    environ = _environ(scene, bucket, f"bench_listing_{rows}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: scene.s3.put_object(Bucket=bucket, Key=_key(at), Body=b"1"), range(rows)))
    _record_all(scene, bucket, environ["RDS_LAKE_AUDIT_TABLE"])
    facts = scene.kept / "listing.json"
    facts.with_suffix(".cursor").unlink(missing_ok=True)
    sweep = [
        Step(_ours("sweep", facts), _path(environ), name, after=partial(_facts, facts))
        for name in ("first sweep", "next sweep")
    ]

    def swept(_: int) -> Sequence[Step]:
        facts.with_suffix(".cursor").unlink(missing_ok=True)
        return sweep

    def dagster(_: int) -> Sequence[Step]:
        command = [sys.executable, str(PEERS / "list_dagster.py"), bucket, PREFIX]
        return [Step(command, environ, name) for name in ("first sweep", "next sweep")]

    return Stage(
        "listing",
        "Sweep over a prefix of handled objects",
        rows,
        [
            Contender("dagster_aws get_objects", "peer", dagster),
            Contender("rds_lake: the listing sensor", "ours", swept),
        ],
        notes="Ours asks the audit log for each object the first time, then for those only that are in a stretch of "
        "keys that has changed. The sensor does 20 pages a tick. get_objects lists, and knows nothing of what is done.",
        tidy=lambda: scene.empty_bucket(bucket),
    )


def dropped(scene: Scene, rows: int) -> Stage:
    """Many small files at once into one table."""
    bucket = "bench-dropped"
    facts = scene.kept / "dropped.json"

    def fill(turn: int, database: str) -> dict[str, str]:
        scene.empty_bucket(bucket)
        environ = _environ(scene, bucket, f"bench_dropped_{turn}_{datetime.now(UTC):%H%M%S}")
        environ[WAREHOUSE] = scene.fresh_database(database)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda at: scene.s3.put_object(Bucket=bucket, Key=_key(at), Body=_content(at)), range(rows)))
        return environ

    def naive(turn: int) -> Sequence[Step]:
        environ = fill(turn, "bench_naive")
        columns = "delivery_id BIGINT, arrived_at TIMESTAMP, weight DECIMAL(10,2)"
        scene.postgres("bench_naive", "CREATE SCHEMA bench", f"CREATE TABLE bench.deliveries ({columns})")
        command = [sys.executable, str(PEERS / "copy_files.py"), bucket, PREFIX]
        return [Step(command, environ, after=lambda: _check(scene, "bench_naive", rows, {}))]

    def dlt(turn: int) -> Sequence[Step]:
        database, state = "bench_dlt", scene.fresh_folder("dlt-files")
        environ = {**fill(turn, database), **scene.postgres_environ(database)}
        command = [str(python(scene, "dlt")), str(PEERS / "load_files_dlt.py"), bucket, PREFIX, str(state)]
        return [Step(command, environ, after=lambda: _check(scene, database, rows, {}))]

    def ours(turn: int) -> Sequence[Step]:
        environ = fill(turn, "bench_dropped")
        schema = json.dumps(SCHEMA).encode()
        scene.s3.put_object(Bucket=bucket, Key="bench/schema/deliveries/deliveries.json", Body=schema)
        check = lambda: _check(scene, "bench_dropped", rows, _facts(facts))  # noqa: E731
        return [Step(_ours("receive", facts), _path(environ), after=check)]

    return Stage(
        "dropped",
        f"Many files at once, {ROWS_OF_A_FILE} rows each",
        rows,
        [
            Contender("the naive way: COPY each file", "peer", naive),
            Contender(f"{release('dlt', 'dlt')}: filesystem source into PostgreSQL", "peer", dlt),
            Contender("rds_lake", "ours", ours),
        ],
        notes="Here rows are files. Ours: each is claimed, kept, checked row by row, staged as Parquet, loaded with "
        "its ledger row, reported, moved and recorded. dlt tells new files by the time of the last one, checks "
        "and moves none, and writes into PostgreSQL without the warehouse's shim between.",
        tidy=lambda: scene.empty_bucket(bucket),
    )


def _environ(scene: Scene, bucket: str, table: str) -> dict[str, str]:
    """The variables of a drop zone with an audit log of its own."""
    environ = {**scene.environ, "RDS_LAKE_DROP_BUCKET": bucket, "RDS_LAKE_AUDIT_TABLE": table}
    AuditLog(_client(scene, "dynamodb"), table).create()
    return environ


def _client(scene: Scene, service: Any) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    return boto3.client(
        service,
        endpoint_url=scene.environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=scene.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=scene.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=scene.environ["AWS_DEFAULT_REGION"],
    )


def _path(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "PYTHONPATH": str(ROOT)}


def _ours(word: str, facts: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.ours.files", word, str(facts)]


def _key(at: int) -> str:
    return f"{PREFIX}{at:06d}.csv"


def _content(at: int) -> bytes:
    rows = (f"{at * ROWS_OF_A_FILE + row},2026-01-01 10:00:00,{row}.50\n" for row in range(ROWS_OF_A_FILE))
    return "".join(rows).encode()


def _facts(file: Path) -> Facts:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _check(scene: Scene, database: str, files: int, facts: Facts) -> Facts:
    [(rows,)] = scene.postgres(database, "SELECT COUNT(*) FROM bench.deliveries")
    if rows != files * ROWS_OF_A_FILE:
        raise CannotError(f"{rows:,} rows were loaded, not {files * ROWS_OF_A_FILE:,}")
    scene.drop_database(database)
    return facts


def _record_all(scene: Scene, bucket: str, table: str) -> None:
    """Have the audit log say of all objects that they are completed, as it would once they are."""
    s3 = open_s3(bucket, scene.environ, boto3.Session)
    store = FileStore(scene.s3, ObjectStore(s3, lambda: scene.s3))
    zone = DropZone(DropZoneSpec(database="bench"), store, _no_warehouse)
    dynamodb = _client(scene, "dynamodb")

    def items() -> Iterator[Item]:
        for version in store.list(PREFIX):
            if record := new_record(zone, version):
                done = {**to_item(record), "Status": {"S": "completed"}}
                yield done
                yield {**identity_key(record.file_id), **pointer(record)}

    found = items()
    while some := list(islice(found, 25)):
        dynamodb.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": item}} for item in some]})


def _no_warehouse() -> Warehouse:
    raise CannotError("nothing is loaded here")
