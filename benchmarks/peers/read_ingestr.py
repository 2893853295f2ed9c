"""`read_ingestr TABLE FILE`: ingestr to a CSV file, the fastest of what it writes."""

import os
import sys
from pathlib import Path

import address


def main() -> None:
    """Become ingestr."""
    table, file = sys.argv[1:]
    program = str(Path(sys.executable).parent / "ingestr")
    os.environ["SOURCE_URI"], os.environ["DESTINATION_URI"] = address.url(), f"csv://{file}"
    words = ["ingest", "--source-table", f"{address.part('database')}.{table}", "--dest-table", "bench.rows", "--yes"]
    os.execv(program, [program, *words])


if __name__ == "__main__":
    main()
