"""How an outcome is looked at when the clock has stopped: what a contender wrote must hold all rows."""

import io
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.contenders import CannotError, Facts

MIB = 1024 * 1024


def look_at(place: Path, rows: int) -> Facts:
    """Check that a file, or all below a folder, hold so many rows.

    Raises:
        CannotError: they do not.
    """
    return look_at_csv(place, rows) if place.suffix == ".csv" else look_at_parquet(place, rows)


def look_at_parquet(place: Path, rows: int) -> Facts:
    """Check that a Parquet file, or all below a folder, hold so many rows.

    Raises:
        CannotError: they do not.
    """
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise CannotError("it wrote no Parquet file")
    return _judge(sum(pq.read_metadata(each).num_rows for each in files), rows, files)


def look_at_csv(file: Path, rows: int) -> Facts:
    """Check that a CSV file with a header holds so many rows.

    Raises:
        CannotError: it does not.
    """
    if not file.is_file():
        raise CannotError("it wrote no CSV file")
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(file, parse_options=options) as reader:
        names = reader.schema.names
    texts = pyarrow.csv.ConvertOptions(include_columns=names[:1], column_types={names[0]: "string"})
    with pyarrow.csv.open_csv(file, parse_options=options, convert_options=texts) as reader:
        return _judge(sum(batch.num_rows for batch in reader), rows, [file])


def look_in_s3(s3: Any, bucket: str, prefix: str, rows: int) -> Facts:  # noqa: ANN401 - boto3 makes its classes
    """Check that the Parquet objects below a prefix hold so many rows.

    Raises:
        CannotError: they do not.
    """
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if item["Key"].endswith(".parquet")]
    bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    found = sum(pq.read_metadata(io.BytesIO(body)).num_rows for body in bodies)
    if found != rows:
        raise CannotError(f"there are {found:,} rows in S3, not {rows:,}")
    return {}


def _judge(found: int, rows: int, files: list[Path]) -> Facts:
    if found != rows:
        raise CannotError(f"it wrote {found:,} rows of {rows:,}")
    return {"MB written": round(sum(each.stat().st_size for each in files) / MIB, 1)}
