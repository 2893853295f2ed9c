"""`read_duckdb TABLE FILE`: DuckDB's mysql extension, without the protocol's compression, into a Parquet file."""

import sys
from pathlib import Path

import address
import duckdb
import duckdb_extension_mysql


def extension() -> Path:
    """The extension's file, under the name by which it can be loaded."""
    [file] = Path(duckdb_extension_mysql.__file__).parent.rglob("mysql.duckdb_extension")
    named = file.with_name("mysql_scanner.duckdb_extension")
    if not named.exists():
        named.symlink_to(file.name)
    return named


def main() -> None:
    """Read and write."""
    table, file = sys.argv[1:]
    words = " ".join(f"{name}={address.part(name)}" for name in ("host", "port", "user", "password", "database"))
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension()}'")
    connection.execute("SET mysql_tinyint1_as_boolean = false")
    connection.execute(f"ATTACH '{words} compression=disabled' AS source (TYPE mysql, READ_ONLY)")
    connection.execute(f"COPY (SELECT * FROM source.{table}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")


if __name__ == "__main__":
    main()
