"""`split_duckdb FILE STATUSES FOLDER`: DuckDB, one COPY for each side."""

import sys

import duckdb


def main() -> None:
    """Split."""
    file, statuses, folder = sys.argv[1:]
    names = ", ".join(f"'{name}'" for name in statuses.split(","))
    sides = {
        "staging": f"order_status IN ({names})",
        "discarded": f"order_status IS NULL OR order_status NOT IN ({names})",
    }
    for name, condition in sides.items():
        duckdb.execute(
            f"COPY (SELECT * FROM read_parquet('{file}') WHERE {condition}) "
            f"TO '{folder}/{name}.parquet' (FORMAT parquet, COMPRESSION zstd)"
        )


if __name__ == "__main__":
    main()
