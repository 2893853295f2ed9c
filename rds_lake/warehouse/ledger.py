"""Reading the ledger and the target: what the warehouse holds, and from which state of the source.

The ledger's rows are written by the load, in the data's own transaction; here they are only asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rds_lake.cursors import key_of_start
from rds_lake.warehouse import statements
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.statements import (
    LEDGER,
    READ_LOADS,
    READ_SHAPES,
    Target,
    present_columns,
    read_ledger,
)

ROWS_AT_ONCE = 1000
"""Ledger rows of one statement: Redshift takes at most 16 MB of text."""


@dataclass(frozen=True)
class Entry:
    """One loaded partition.

    Attributes:
        batch: the staging batch that is loaded.
        fingerprint: the source's fingerprint that it was extracted with.
        rules: digest of the rules that it was split by.
        staged: rows of the staging batch.
        loaded: rows of the target in the partition's window, right after the load.
        shape: digest of the columns that it was landed in; None when an earlier version loaded it.
        target: schema and table that it was loaded into; None as above.
        lake: the state of the lake that it was loaded from (`rds_lake.lake.manifest.lake_state`); None as above, or
            when the load did not say.
    """

    batch: str
    fingerprint: str
    rules: str | None
    staged: int
    loaded: int
    shape: str | None = None
    target: str | None = None
    lake: str | None = None


def read(session: Session, table: str) -> dict[str, Entry]:
    """What is loaded of a table, by partition; nothing when there is no ledger yet."""
    columns = {row[0] for row in session.execute(present_columns(), tuple(LEDGER.split(".")))}
    if not columns:
        return {}
    return {row[0]: Entry(*row[1:]) for row in session.execute(read_ledger(columns), (table,))}


def held(session: Session, target: Target) -> dict[str, Entry]:
    """What a target holds, by partition: nothing if the table is not there, nothing that went into another one."""
    entries = read(session, target.spec.table)
    if not session.execute(present_columns(), (target.schema, target.spec.warehouse_name.lower())):
        return {}
    return {key: entry for key, entry in entries.items() if entry.target in {None, target.place}}


def doubt(session: Session, table: str, partitions: Sequence[str]) -> None:
    """Have the next sync take partitions for out of step, whatever the source says, until they are loaded again."""
    if not session.execute(present_columns(), tuple(LEDGER.split("."))):
        return
    for start in range(0, len(partitions), ROWS_AT_ONCE):
        some = partitions[start : start + ROWS_AT_ONCE]
        session.execute(statements.doubt(len(some)), (table, *some))


def shapes(session: Session, table: str) -> set[str | None]:
    """The shapes in which partitions of a table are loaded; none when none is."""
    return {shape for (shape,) in session.execute(READ_SHAPES, (table,))}


def loads(session: Session, table: str) -> set[str]:
    """The addresses of the COPY manifests that a table's partitions were loaded from; none without a ledger."""
    if not session.execute(present_columns(), tuple(LEDGER.split("."))):
        return set()
    return {address for (address,) in session.execute(READ_LOADS, (table,))}


def count_target(session: Session, target: Target, partitions: Sequence[str]) -> dict[str, int]:
    """The target's rows in each partition's window, in one pass over them."""
    partitioning = target.spec.partitioning
    if partitioning is None:
        [(rows,)] = session.execute(target.count_all())
        return dict.fromkeys(partitions, rows)
    counts: dict[str, int] = {}
    for start, rows in session.execute(*target.count_partitions(partitioning.span(min(partitions), max(partitions)))):
        key = key_of_start(target.spec, start)
        counts[key] = counts.get(key, 0) + rows
    return {partition: counts.get(partition, 0) for partition in partitions}
