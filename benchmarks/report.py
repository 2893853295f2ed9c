"""The report: tables made from the results."""

from pathlib import Path

from benchmarks.results import Results

NAME = "RESULTS.md"


def write(everything: Results, folder: Path) -> None:
    """Write the report."""
