"""What stages share: ours as a step, steps that no clock looks at, and rows that lie in the lake."""

import io
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders import CannotError, Facts, Step, nothing
from benchmarks.measure import measure
from benchmarks.scene import ROOT, Scene


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
