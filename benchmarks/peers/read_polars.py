"""`read_polars TABLE FILE`: polars.read_database_uri, which reads with ConnectorX, into a Parquet file."""

import sys

import address
import polars as pl


def main() -> None:
    """Read and write."""
    table, file = sys.argv[1:]
    pl.read_database_uri(f"SELECT * FROM `{table}`", address.url()).write_parquet(file, compression="zstd")


if __name__ == "__main__":
    main()
