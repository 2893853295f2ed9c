"""Dropped files: `files sweep FILE` goes over the drop folder once, `files receive FILE` notices and handles all.

Without Dagster. FILE is where the counts are written; `sweep` keeps its cursor beside it.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.ours.counted import CALLS, count_calls
from rds_lake import startup


def main() -> None:
    """Do what the first word says, for the drop zone `bench`."""
    startup.begin()
    word, file = sys.argv[1], Path(sys.argv[2])
    count_calls()

    from rds_lake.files.listing import Cursor, sweep
    from rds_lake.files.machine import Machine
    from rds_lake.files.spec import DropZoneSpec
    from rds_lake.resources.files import FilesResource

    files = FilesResource()
    spec = DropZoneSpec(database="bench", bucket=os.environ["RDS_LAKE_DROP_BUCKET"])
    receiver, log = files.receiver(spec), files.audit_log()
    facts: dict[str, Any]
    if word == "sweep":
        kept = file.with_suffix(".cursor")
        done = sweep(receiver, log, Cursor.of(kept.read_text() if kept.exists() else None), pages=1_000_000)
        kept.write_text(done.cursor.text)
        facts = {"objects": done.listed, "looked up": done.asked, "bytes of cursor": len(done.cursor.text)}
    else:
        claimed = sweep(receiver, log, Cursor(), pages=1_000_000, most=1_000_000).claimed
        ended = Counter(record.status for record, _ in Machine(receiver, log, "benchmark").run(claimed))
        facts = {str(status): count for status, count in ended.items()}
    file.write_text(json.dumps({**facts, **dict(sorted(CALLS.items()))}), encoding="utf-8")


if __name__ == "__main__":
    main()
