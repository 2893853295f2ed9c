"""`copy_dlt TABLE BACKEND TARGET STATE [CURSOR]`: dlt's sql_database to Parquet in a folder or in S3.

With a cursor it takes what is new since the last run, as its records in the folder STATE say.
"""

import sys

import address
import dlt
from dlt.destinations import filesystem
from dlt.sources.sql_database import sql_table


def main() -> None:
    """Copy."""
    table, backend, target, state, *cursor = sys.argv[1:]
    rows = sql_table(
        credentials=address.url("mysql+pymysql"),
        table=table,
        backend=backend,
        chunk_size=100_000,
        **({"incremental": dlt.sources.incremental(cursor[0])} if cursor else {}),
    )
    credentials = address.s3() if target.startswith("s3://") else None
    pipeline = dlt.pipeline(
        pipeline_name="bench",
        pipelines_dir=state,
        destination=filesystem(bucket_url=target, credentials=credentials),
        dataset_name="lake",
    )
    pipeline.run(rows, loader_file_format="parquet", write_disposition="append" if cursor else "replace")


if __name__ == "__main__":
    main()
