"""What the warehouse cannot hold although the lake can: conditions that the columns themselves imply.

Redshift's VARCHAR takes 65,535 bytes and ends at a NUL character, its VARBYTE takes 1,024,000 bytes, and COPY takes
rows of 4 MB. Such a row would fail the load of its whole partition; it is discarded instead, with all its columns and
the reason. Only columns whose type can hold such a value get a condition.
"""

from collections.abc import Iterator, Sequence

from rds_lake.extract.types import Column
from rds_lake.sql import quote

FITS = "fits_"
"""How the names of these conditions begin; the column's name follows."""

ROW_FITS = "row_fits"
"""The name of the condition over a whole row."""

ROW_MAX = 4 * 1024 * 1024
"""Largest row that COPY takes, in bytes."""


def is_fit(label: str) -> bool:
    """Whether a rule's name is one of these conditions'."""
    return label.startswith(FITS) or label == ROW_FITS


def fit_conditions(columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """The names and SQL conditions that a table's columns imply, each true for a row that fits."""
    for column in columns:
        if condition := _condition(column):
            yield FITS + column.name, f"COALESCE({condition}, TRUE)"
    most = sum(column.mapped.octets for column in columns)
    if most > ROW_MAX:
        sizes = " + ".join(_size(column) for column in columns)
        yield ROW_FITS, f"({sizes}) <= {ROW_MAX}"


def _condition(column: Column) -> str:
    mapped = column.mapped
    parts = [f"{_length(column)} <= {mapped.limit}"] if mapped.limit is not None else []
    if mapped.free_text:
        parts.append(f"NOT contains({quote(column.name)}, chr(0))")
    return " AND ".join(parts)


def _length(column: Column) -> str:
    name = quote(column.name)
    return f"octet_length({name})" if column.mapped.glue == "binary" else f"strlen({name})"


def _size(column: Column) -> str:
    if column.mapped.glue in {"string", "binary"}:
        return f"COALESCE({_length(column)}, 0)"
    return str(column.mapped.octets)
