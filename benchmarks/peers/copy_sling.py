"""`copy_sling TABLE TARGET`: Sling to a Parquet file, here or in S3, always the whole table.

Its increments into files need a token of its vendor's. It writes Parquet itself here: DuckDB's program, with which it
would by default, it fetches from the network first.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import address
import sling_linux_amd64


def main() -> None:
    """Become Sling."""
    table, target = sys.argv[1:]
    lake = {
        "type": "s3",
        "bucket": urlsplit(target).netloc,
        "endpoint": address.s3()["endpoint_url"],
        "access_key_id": address.s3()["aws_access_key_id"],
        "secret_access_key": address.s3()["aws_secret_access_key"],
        "region": address.s3()["region_name"],
    }
    os.environ |= {"SLING_DUCKDB_COMPUTE": "false", "SLING_DISABLE_TELEMETRY": "true"}
    os.environ["SLING_HOME_DIR"] = str(Path(sys.executable).parent.parent / "home")
    os.environ["SOURCE"], os.environ["LAKE"] = address.url(), json.dumps(lake)
    # The program itself, out of its wheel: the launcher in Python would look for a newer one on the network.
    [program] = map(str, Path(sling_linux_amd64.__file__).parent.glob("bin/sling-*"))
    words = ["run", "--src-conn", "SOURCE", "--src-stream", f"{address.part('database')}.{table}"]
    words += ["--tgt-conn", "LAKE" if target.startswith("s3://") else "LOCAL", "--tgt-object", target]
    words += ["--tgt-options", json.dumps({"format": "parquet", "compression": "zstd"})]
    words += ["--mode", "full-refresh"]
    os.execv(program, [program, *words])


if __name__ == "__main__":
    main()
