"""Which columns of a source table are carried, and how: its own columns, with the YAML's overrides and limits applied.

Names are checked here as well, because MySQL allows more of them than the catalog and the warehouse do: both fold case,
Redshift ends a name after 127 bytes and keeps some for itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column, map_type
from rds_lake.spec import TableSpec

NAME_MAX = 127
"""Longest name of Redshift, in bytes."""

SYSTEM_NAMES = frozenset(
    {"oid", "xmin", "ctid", "cmin", "xmax", "cmax", "tableoid", "deletexid", "insertxid"},
)
"""Names of columns that Redshift keeps for itself."""


def carried_columns(spec: TableSpec, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns of a table that are carried, each as the YAML says.

    Args:
        spec: the table's YAML.
        columns: the source's columns.

    Raises:
        SpecError: the YAML names a column that is not there; a type cannot be carried, or not as it says; a name cannot
            be one in the catalog or the warehouse. The message names table, column, type and what is possible.
    """
    present = [column.name for column in columns]
    spec.check_columns(present)
    for name in spec.excluded:
        if name not in present:
            raise SpecError(
                f"{spec.table}: columns.{name} is excluded, but the source table '{spec.source_name}' does not have it "
                f"(it has: {', '.join(present)}).",
                f"Correct the name in defs/{spec.table}/defs.yaml, or take it out.",
            )
    kept = tuple(_carried(spec, column) for column in columns if column.name not in spec.excluded)
    _check_names(spec, kept)
    return kept


def _carried(spec: TableSpec, column: Column) -> Column:
    declared = spec.columns.get(column.name)
    as_ = declared.as_ if declared else None
    map_type(column.type, column=column.name, table=spec.table, as_=as_)
    return replace(column, as_=as_, nullable=column.nullable or as_ == "null")


def _check_names(spec: TableSpec, columns: Sequence[Column]) -> None:
    if not columns:
        raise SpecError(
            f"{spec.table}: every column of the source table '{spec.source_name}' is excluded.",
            f"Keep at least one in defs/{spec.table}/defs.yaml.",
        )
    if len(spec.warehouse_name.encode()) > NAME_MAX:
        raise SpecError(
            f"{spec.table}: the table's name '{spec.warehouse_name}' is longer than {NAME_MAX} bytes, which Redshift "
            "cuts.",
            f"Give a shorter one as warehouse.table in defs/{spec.table}/defs.yaml.",
        )
    seen: dict[str, str] = {}
    for column in columns:
        if problem := name_problem(column.name, seen.get(column.name.lower()), spec.partition_column):
            raise SpecError(
                f"{spec.table}: the column '{column.name}' {problem}.",
                f"Declare 'as: exclude' for it in defs/{spec.table}/defs.yaml, or read the table through a view of the "
                "source that renames it (source_table).",
            )
        seen[column.name.lower()] = column.name


def name_problem(name: str, twin: str | None = None, partition_column: str | None = None) -> str | None:
    """Why a column cannot have its name in the catalog or the warehouse, None when it can.

    Args:
        name: the column's name.
        twin: another column of the table whose name differs in case only.
        partition_column: the name of the lake's partition column.
    """
    folded = name.lower()
    if twin is not None:
        return f"differs from '{twin}' in case only, which the catalog and Redshift fold"
    if folded in SYSTEM_NAMES:
        return "is called like a column that Redshift keeps for itself"
    if len(name.encode()) > NAME_MAX:
        return f"has a name longer than {NAME_MAX} bytes, which Redshift cuts"
    if partition_column is not None and folded == partition_column.lower():
        return "is called like the lake's partition column (another one can be given as partitions.column)"
    return None
