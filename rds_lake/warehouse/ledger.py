"""Reading the ledger and the target: what the warehouse holds, and from which state of the source.

The ledger's rows are written by the load, in the data's own transaction; here they are only asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rds_lake.sql import literal, quote
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.statements import INTERNAL_SCHEMA, READ_LEDGER, Target


@dataclass(frozen=True)
class Entry:
    """One loaded partition.

    Attributes:
        batch: the staging batch that is loaded.
        fingerprint: the source's fingerprint that it was extracted with.
        rules: digest of the rules that it was split by.
        staged: rows of the staging batch.
        loaded: rows of the target in the partition's window, right after the load.
    """

    batch: str
    fingerprint: str
    rules: str | None
    staged: int
    loaded: int


def read(session: Session, table: str) -> dict[str, Entry]:
    """What is loaded of a table, by partition; nothing when there is no ledger yet."""
    [(ledgers,)] = session.execute(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name = 'load_ledger'",
        (INTERNAL_SCHEMA,),
    )
    if not ledgers:
        return {}
    return {row[0]: Entry(*row[1:]) for row in session.execute(READ_LEDGER, (table,))}


def count_target(session: Session, target: Target, partitions: Sequence[str]) -> dict[str, int]:
    """The target's rows in each partition's window, in one pass over them."""
    partitioning = target.spec.partitioning
    if partitioning is None or target.spec.cursor is None:
        [(rows,)] = session.execute(target.count_all())
        return dict.fromkeys(partitions, rows)
    span = partitioning.span(min(partitions), max(partitions))
    cursor = quote(target.spec.cursor.column.lower(), "redshift")
    found = session.execute(
        f"SELECT DATE_TRUNC({literal(partitioning.unit)}, {cursor}) AS start_of, COUNT(*) FROM {target.name} "
        f"WHERE {cursor} >= %s AND {cursor} < %s GROUP BY 1",
        tuple(span),
    )
    counts = {partitioning.key(start): rows for start, rows in found}
    return {partition: counts.get(partition, 0) for partition in partitions}
