"""The lake's rooms: the landing with S3, manifests, fingerprints and catalog, and the split of what landed."""

import json
from collections.abc import Sequence
from functools import partial

import pyarrow.parquet as pq

from benchmarks.contenders import CannotError, Contender, Facts, Stage, Step
from benchmarks.limits import reading
from benchmarks.peers import splitters
from benchmarks.scene import Scene
from benchmarks.stages.common import download, ours, prepare
from benchmarks.tables import LOOKUP, make_orders, orders_yaml


def landing(scene: Scene, rows: int) -> Stage:
    """The asset `orders_landing`, in partitions of several lengths, beside a client that discards the rows."""
    table = make_orders(scene.source, rows)

    def step(by: str | None, _: int) -> Sequence[Step]:
        return [_landing(scene, table, rows, by)]

    contenders = [
        Contender(f"rds_lake: landed {f'by {by}' if by else 'as one batch'}", "ours", partial(step, by))
        for by in (None, "month", "day")
    ]
    return Stage(
        "landing",
        "Land orders: the asset orders_landing",
        rows,
        [*reading(scene, table, "order_last_updated, order_id"), *contenders],
        notes="Files in S3, one batch and manifest for each partition, fingerprints checked, catalog told. As one "
        "batch: the table is declared without a cursor, so its fingerprint is over all columns.",
    )


def _landing(scene: Scene, table: str, rows: int, by: str | None) -> Step:
    bucket = "bench-landing"
    environ = {"RDS_LAKE_BUCKET": bucket, "RDS_LAKE_GLUE_DATABASE": "bench_landing"}

    def look() -> Facts:
        found = _rows_of(scene, bucket, "orders/_manifests/landing/")
        scene.empty_bucket(bucket)
        if found != rows:
            raise CannotError(f"it landed {found:,} rows of {rows:,}")
        return {}

    yaml = orders_yaml(table, by=by)
    return ours("landing", yaml, environ=environ, before=lambda: scene.empty_bucket(bucket), after=look)


def split(scene: Scene, rows: int) -> Stage:
    """One landed batch into staging and discarded, beside the bare split of the same file on the local disk."""
    table = make_orders(scene.source, rows)
    bucket = scene.empty_bucket("bench-split")
    environ = {"RDS_LAKE_BUCKET": bucket, "RDS_LAKE_GLUE_DATABASE": "bench_split"}
    yaml = orders_yaml(table, by=None)
    prepare(scene, ours("landing", yaml, environ=environ))
    landed = scene.kept / f"{table}.parquet"
    pq.write_table(download(scene, bucket, "orders/landing/"), landed, compression="zstd", row_group_size=122_880)
    statuses = [str(name) for (name,) in scene.sql(f"SELECT status_name FROM {LOOKUP} ORDER BY 1")]

    def clear() -> Facts:
        for stage in ("staging", "discarded"):
            scene.empty_bucket(bucket, f"orders/{stage}/")
        return {}

    step = ours("split", yaml, environ=environ, after=clear)
    return Stage(
        "split",
        "Split orders by a lookup of valid statuses",
        rows,
        [
            Contender("rds_lake: from S3 to S3, with reasons", "ours", lambda _: [step]),
            *splitters(scene, landed, statuses, rows),
        ],
        notes="The peers do the bare split of a local file, or of the object in S3; ours reads it from S3, gives each "
        "discarded row its reasons and its place, writes both sides to S3 and counts. The S3 endpoint is a process of "
        "its own on the same processor, and reads the whole object for each part that it is asked for.",
        tidy=lambda: scene.empty_bucket(bucket),
    )


def _rows_of(scene: Scene, bucket: str, prefix: str) -> int:
    """The rows that the manifests below a prefix promise."""
    found = 0
    for page in scene.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            found += json.loads(scene.s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())["rows"]
    return found
