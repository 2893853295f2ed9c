"""`naive TABLE FILE`: the script that everybody writes first. To `s3://BUCKET/KEY` by way of a local file."""

import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import address
import pandas as pd
import sqlalchemy


def main() -> None:
    """Read it all, write it all."""
    table, target = sys.argv[1:]
    engine = sqlalchemy.create_engine(address.url("mysql+pymysql"))
    with engine.connect() as connection:
        frame = pd.read_sql(sqlalchemy.text(f"SELECT * FROM `{table}`"), connection)
    if not target.startswith("s3://"):
        frame.to_parquet(target, compression="zstd")
        return
    import boto3  # noqa: PLC0415 - only for S3

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        frame.to_parquet(file, compression="zstd")
        parts = urlsplit(target)
        boto3.client("s3", **address.s3()).upload_file(str(file), parts.netloc, parts.path.lstrip("/"))


if __name__ == "__main__":
    main()
