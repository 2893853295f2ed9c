"""What an observation costs: the fingerprints of 5,000,000 rows over 365 days, beside a bare count of the same index.

`python benchmarks/observation.py` starts a stack of its own, fills a table, and asks in turn, five rounds, so that all
share the machine's good and bad moments. It prints medians: the clock, and each one's ratio to the count.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rds_lake.extract.snapshot import Snapshot, open_snapshot
from rds_lake.extract.source import Source, query
from rds_lake.local import stack as local_stack
from rds_lake.partitions import Window
from rds_lake.settings import parse_database_url
from rds_lake.spec import TableSpec

DAYS = 365
ROUNDS = 5
START = datetime(2024, 1, 1)  # noqa: DTZ001 - the cursor's clock
SPEC = TableSpec.model_validate(
    {
        "table": "observed",
        "key": ["id"],
        "cursor": {"column": "at"},
        "partitions": {"by": "day", "start": START.date()},
    }
)


def fill(source: Source, rows: int) -> None:
    """Make the table, its rows spread evenly over the days; MariaDB's sequences are the quickest source of them."""
    step = timedelta(days=DAYS) / rows
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS observed")
        cursor.execute(
            "CREATE TABLE observed "
            "(id INT PRIMARY KEY, at DATETIME(6), who INT, status VARCHAR(25), KEY by_cursor (at))"
        )
        cursor.execute(
            f"INSERT INTO observed SELECT seq, '{START}' + INTERVAL seq * {step / timedelta(microseconds=1):.0f} "
            f"MICROSECOND, seq % 12435, 'COMPLETE' FROM seq_0_to_{rows - 1}"
        )
        cursor.execute("ANALYZE TABLE observed")


def questions(snapshot: Snapshot) -> dict[str, Callable[[], object]]:
    """What is asked, by its name in the table."""
    end = START + timedelta(days=DAYS)
    last = Window(end - timedelta(days=3), end)
    one = Window(end - timedelta(days=1), end)
    return {
        "a bare count of the index": lambda: query(
            snapshot.connection, "SELECT COUNT(*) FROM observed FORCE INDEX (by_cursor) WHERE at >= %s", (START,)
        ),
        "a full observation": snapshot.fingerprints,
        "a recent one of three days": lambda: snapshot.fingerprints(last),
        "the fingerprint of one day": lambda: snapshot.fingerprints(one),
        "rows that no partition holds": snapshot.rows_outside,
    }


def measure(source: Source) -> dict[str, float]:
    """Median seconds of each question."""
    taken: dict[str, list[float]] = {}
    with open_snapshot(source, SPEC) as snapshot:
        asked = questions(snapshot)
        for ask in asked.values():
            ask()  # so that the index is in memory
        for _ in range(ROUNDS):
            for name, ask in asked.items():
                began = time.perf_counter()
                ask()
                taken.setdefault(name, []).append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What an observation of a large table costs.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="observation") as folder:
        home = Path(folder) / "home"
        try:
            environ = local_stack.up(home, ui=False).environ
            url = parse_database_url(environ["RDS_LAKE_SOURCE_URL"], scheme="mysql", variable="RDS_LAKE_SOURCE_URL")
            source = Source(url)
            fill(source, given.rows)
            medians = measure(source)
        finally:
            local_stack.down(home)
    count = medians["a bare count of the index"]
    sys.stdout.write(f"{given.rows:,} rows, {DAYS} days, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    for name, seconds in medians.items():
        sys.stdout.write(f"{name:<32}{seconds:>9.4f} s{seconds / count:>9.3f} x the count\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
