"""`split_s3 OBJECT STATUSES PREFIX WORK HOW`: polars from S3 to S3, by itself, or its files fetched and sent by boto3.

HOW is `alone` or `boto3`; WORK is a folder for the files.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

SIDES = ("staging", "discarded")


def split(source: str, statuses: Sequence[str], targets: Sequence[str], options: dict[str, str] | None) -> None:
    """Split by the list of valid statuses, in one pass."""
    is_valid = pl.col("order_status").is_in(statuses).fill_null(value=False)
    rows = pl.scan_parquet(source, storage_options=options)
    pl.collect_all(
        [
            rows.filter(side).sink_parquet(target, compression="zstd", lazy=True, storage_options=options)
            for target, side in zip(targets, (is_valid, ~is_valid), strict=True)
        ]
    )


def by_boto3(source: str, statuses: Sequence[str], target: str, work: Path) -> None:
    """Fetch the object, split the file, send the two."""
    import boto3  # noqa: PLC0415 - the other way does without

    s3 = boto3.client("s3")
    bucket, _, key = source.removeprefix("s3://").partition("/")
    local = work / "landed.parquet"
    s3.download_file(bucket, key, str(local))
    made = [work / f"{side}.parquet" for side in SIDES]
    split(str(local), statuses, [str(file) for file in made], None)
    bucket, _, prefix = target.removeprefix("s3://").partition("/")
    for file in made:
        s3.upload_file(str(file), bucket, f"{prefix}/{file.name}")


def main() -> None:
    """Split."""
    source, names, target, work, how = sys.argv[1:]
    if how == "boto3":
        by_boto3(source, names.split(","), target, Path(work))
        return
    options = {
        "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "aws_region": os.environ["AWS_DEFAULT_REGION"],
        "aws_allow_http": "true",
    }
    split(source, names.split(","), [f"{target}/{side}.parquet" for side in SIDES], options)


if __name__ == "__main__":
    main()
