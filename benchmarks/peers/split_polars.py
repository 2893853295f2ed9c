"""`split_polars FILE STATUSES FOLDER`: polars' lazy engine, one pass into two files by the list of valid statuses."""

import sys
from pathlib import Path

import polars as pl


def main() -> None:
    """Split."""
    file, statuses, folder = sys.argv[1:]
    is_valid = pl.col("order_status").is_in(statuses.split(",")).fill_null(value=False)
    rows = pl.scan_parquet(file)
    sides = {"staging": is_valid, "discarded": ~is_valid}
    sinks = [
        rows.filter(side).sink_parquet(Path(folder) / f"{name}.parquet", compression="zstd", lazy=True)
        for name, side in sides.items()
    ]
    pl.collect_all(sinks)


if __name__ == "__main__":
    main()
