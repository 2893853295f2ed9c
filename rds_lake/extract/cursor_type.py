"""Whether the source's cursor column can be cut as the YAML says: its type, the unit it counts, its time zone."""

import re
from collections.abc import Sequence

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column
from rds_lake.spec import Cursor, TableSpec

_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
_TIMES = {"date", "datetime", "timestamp"}


def check_type(spec: TableSpec, columns: Sequence[Column]) -> None:
    """Check that the source's cursor column can be cut as the YAML says.

    Raises:
        SpecError: its type is no time, or is not the one that the YAML describes.
    """
    if spec.cursor is None:
        return
    column = next(column for column in columns if column.name == spec.cursor.column)
    kind = re.split(r"\W", column.type.strip().lower(), maxsplit=1)[0]
    if problem := _mismatch(spec.cursor, column, kind):
        told, remedy = problem
        raise SpecError(f"{spec.table}: the cursor '{column.name}' {told}.", remedy.format(yaml=_yaml(spec)))


_ID = "An id is no cursor, because a row keeps it when it changes: name a time column,"
_FULL = "or leave out cursor and partitions, which extracts the table in full"


def _mismatch(cursor: Cursor, column: Column, kind: str) -> tuple[str, str] | None:
    """What is wrong with a cursor's type, and what to do."""
    if kind in _INTEGERS and cursor.epoch is None:
        return (
            f"is an integer ({column.type}), and the YAML does not say what it counts",
            f"If it counts the time since 1970, set cursor.epoch to s, ms or us in {{yaml}}. {_ID} {_FULL}.",
        )
    if kind in _INTEGERS:
        return None
    if kind not in _TIMES:
        return (
            f"has the type {column.type}, which is no moment in time",
            f"In {{yaml}} name a DATE, DATETIME or TIMESTAMP column, or an integer column with cursor.epoch; {_FULL}.",
        )
    if cursor.epoch is not None:
        return (
            f"has the type {column.type}, but cursor.epoch ({cursor.epoch}) is for integers",
            "Take cursor.epoch out of {yaml}.",
        )
    if kind == "timestamp" and cursor.timezone != "UTC":
        return (
            f"is a TIMESTAMP, which is read in UTC, but cursor.timezone is {cursor.timezone}",
            "Take cursor.timezone out of {yaml}.",
        )
    return None


def _yaml(spec: TableSpec) -> str:
    return f"defs/{spec.table}/defs.yaml"
