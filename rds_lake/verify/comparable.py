"""Which columns can be compared with which, when the source's columns have changed over the time. Pure.

Lake and warehouse keep the agreed columns (`rds_lake.extract.contract`): one that the source dropped stays, and one may
be kept in another type than the source has now. So there are two comparisons: of the source with what was landed, over
the columns that both have, and of lake and warehouse with one another, over all agreed columns.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rds_lake.extract.contract import Shape, same_columns
from rds_lake.extract.types import Column
from rds_lake.lake.manifest import Manifest
from rds_lake.verify.canonical import can_follow
from rds_lake.verify.queries import Questions
from rds_lake.warehouse.ledger import Entry


@dataclass(frozen=True)
class Comparison:
    """What is asked about some partitions.

    Attributes:
        source: what the source and the landed batch are asked.
        across: what lake and warehouse are asked.
    """

    source: Questions
    across: Questions

    @property
    def is_one(self) -> bool:
        """Whether all are asked the same."""
        return self.source.columns == self.across.columns


def comparison(
    shape: Shape, key: tuple[str, ...], batches: Iterable[Manifest], warehouse: Mapping[str, str | None]
) -> Comparison:
    """The columns of a partition that can be compared.

    Args:
        shape: the agreed columns, and how each is read.
        key: the table's key.
        batches: the partition's batches.
        warehouse: the warehouse's columns with their types; none when there is no table yet.
    """
    known = [{column.name.lower(): column for column in batch.columns} for batch in batches]
    held = [
        column
        for column in shape.columns
        if all(_is_same(columns.get(column.name.lower()), column) for columns in known)
        and (not warehouse or _holds(warehouse, column))
    ]
    read = {reading.column.name: reading.source for reading in shape.readings}
    both = [c for c in held if (source := read[c.name]) is not None and can_follow(c, source)]
    sources = tuple(source for c in both if (source := read[c.name]) is not None and source != c)
    across = Questions(tuple(held), key, sources)
    return Comparison(Questions(tuple(both), key, sources), across)


def is_reshaped(shape: Shape, landed: Manifest | None, entry: Entry | None, *, newest: bool) -> bool:
    """Whether a partition lies in other columns than it would be landed in now, so that the next sync lands it again.

    Args:
        shape: how the table would be landed now.
        landed: the landed batch.
        entry: the ledger's row.
        newest: whether it is the newest that is loaded: a sync lands it again to write a change of the columns down.
    """
    if landed is None:
        return False
    digests = {landed.shape, entry.shape if entry else None} - {None}
    if landed.shape is None and not same_columns(landed.columns, shape.columns):
        return True
    return bool(digests - {shape.digest}) or (newest and bool(shape.changes))


def _is_same(held: Column | None, column: Column) -> bool:
    return held is not None and held.mapped.arrow == column.mapped.arrow and held.as_ == column.as_


_LENGTH = re.compile(r"^(VARCHAR|VARBYTE)\(\d+\)$|^(DECIMAL)\(\d+,(\d+)\)$")
_SIZES = {"SMALLINT": "INTEGER", "BIGINT": "INTEGER", "REAL": "DOUBLE PRECISION"}


def _holds(warehouse: Mapping[str, str | None], column: Column) -> bool:
    """Whether the warehouse has a column under a type that writes its values in the same way."""
    if column.name.lower() not in warehouse:
        return False
    kind = warehouse[column.name.lower()]
    return kind is None or _family(kind) == _family(column.mapped.redshift)


def _family(kind: str) -> tuple[str | None, ...]:
    """A type of the warehouse without what does not show in its values' text."""
    match = _LENGTH.match(kind)
    return match.groups() if match else (_SIZES.get(kind, kind),)
