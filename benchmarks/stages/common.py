"""What stages share: ours as a step, and how an outcome is looked at."""

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders import CannotError, Facts, Step, nothing
from benchmarks.measure import measure
from benchmarks.scene import ROOT, Scene

MIB = 1024 * 1024


def ours(
    program: str,
    table: Mapping[str, Any],
    *words: str,
    environ: Mapping[str, str] | None = None,
    before: Callable[[], object] = nothing,
    after: Callable[[], Facts] = dict,
) -> Step:
    """A step that runs one of `benchmarks.ours`, in the product's own environment, for a table's YAML."""
    command = [sys.executable, "-m", f"benchmarks.ours.{program}", json.dumps(table, default=str), *words]
    return Step(command, {**(environ or {}), "PYTHONPATH": str(ROOT)}, "", before, after)


def look_at_parquet(file: Path, rows: int) -> Facts:
    """Check that a Parquet file, or a folder of them, has all rows; then remove it.

    Raises:
        CannotError: it has not.
    """
    files = sorted(file.rglob("*.parquet")) if file.is_dir() else [file]
    if not files or not files[0].is_file():
        raise CannotError("it wrote no Parquet file")
    found = sum(pq.read_metadata(each).num_rows for each in files)
    size = sum(each.stat().st_size for each in files)
    if found != rows:
        raise CannotError(f"it wrote {found:,} rows of {rows:,}")
    return {"MB written": round(size / MIB, 1)}


def prepare(scene: Scene, step: Step) -> None:
    """Run a step that no clock looks at.

    Raises:
        CannotError: it failed.
    """
    step.before()
    done = measure(step.command, {**scene.environ, **step.environ}, scene.work)
    if done.code:
        raise CannotError(f"the preparation failed: {done.said[-400:]}")


def download(scene: Scene, bucket: str, prefix: str) -> pa.Table:
    """The rows of all Parquet files below a prefix of a bucket."""
    found = []
    for page in scene.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            body = scene.s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found.append(pq.read_table(io.BytesIO(body)))
    return pa.concat_tables(found)
