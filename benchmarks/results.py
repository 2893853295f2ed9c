"""The results as JSON: of each size of run and each stage the last figures, so that stages can be run one at a time."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmarks.contenders import Outcome, Stage
from benchmarks.scene import ROOT

Size = Literal["small", "full"]
FILE = Path(__file__).parent / "results.json"
OWN = ("rds_lake", "dagster", "duckdb", "pyarrow", "pymysql")

Results = dict[str, Any]
"""By size and `stage@rows`: what `record` makes."""


def read(file: Path = FILE) -> Results:
    """The results so far."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def record(stage: Stage, outcomes: Sequence[Outcome], rounds: int, seconds: float) -> Results:
    """One stage's results."""
    return {
        "stage": stage.name,
        "title": stage.title,
        "rows": stage.rows,
        "notes": stage.notes,
        "rounds": rounds,
        "took": round(seconds, 1),
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "outcomes": [{**asdict(outcome), **_rounded(outcome)} for outcome in outcomes],
    }


def failed(name: str, rows: int, error: str) -> Results:
    """What is kept of a stage that could not be run at all."""
    return {
        "stage": name,
        "title": name,
        "rows": rows,
        "notes": f"The stage could not be run: {error}",
        "rounds": 0,
        "took": 0,
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "outcomes": [],
    }


def keep(size: Size, found: Results, file: Path = FILE) -> Results:
    """Put a stage's results in the place of its earlier ones; returns all."""
    everything = read(file)
    everything.setdefault(size, {})[f"{found['stage']}@{found['rows']}"] = found
    file.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return everything


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: version(name) for name in OWN},
        "load": round(os.getloadavg()[0], 1),
    }


def median(figures: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(figures)


def _rounded(outcome: Outcome) -> dict[str, list[float]]:
    return {
        "seconds": [round(each, 3) for each in outcome.seconds],
        "cpu": [round(each, 2) for each in outcome.cpu],
        "peak_mb": [round(each, 1) for each in outcome.peak_mb],
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
