"""`load_files_dlt BUCKET PREFIX STATE`: new CSV files into PostgreSQL, by dlt's filesystem source.

It keeps in STATE how far it has come, by the time of the last file. Nothing is moved, and no file has a record.
"""

import os
import sys
from typing import Any

import address
import dlt
from dlt.destinations import postgres
from dlt.sources.filesystem import filesystem, read_csv

COLUMNS: dict[str, Any] = {
    "delivery_id": {"data_type": "bigint"},
    "arrived_at": {"data_type": "timestamp"},
    "weight": {"data_type": "decimal"},
}


def main() -> None:
    """Load."""
    bucket, prefix, state = sys.argv[1:]
    files = filesystem(bucket_url=f"s3://{bucket}/{prefix}", credentials=address.s3(), file_glob="*.csv")
    files.apply_hints(incremental=dlt.sources.incremental("modification_date"))
    rows = (files | read_csv(names=list(COLUMNS), header=None)).with_name("deliveries")
    rows.apply_hints(columns=COLUMNS, write_disposition="append")
    of = {name: os.environ[f"PG{name}"] for name in ("USER", "PASSWORD", "HOST", "PORT", "DATABASE")}
    url = f"postgresql://{of['USER']}:{of['PASSWORD']}@{of['HOST']}:{of['PORT']}/{of['DATABASE']}"
    pipeline = dlt.pipeline(pipeline_name="bench", pipelines_dir=state, destination=postgres(url), dataset_name="bench")
    pipeline.run(rows)


if __name__ == "__main__":
    main()
