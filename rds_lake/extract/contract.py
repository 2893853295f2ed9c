"""The contract of a table's columns: what a change at the source does to what is read, as a pure decision.

Lake and warehouse keep an *agreed* schema. Its columns keep their order for ever: a new one goes to the end, one that
the source dropped stays and is NULL from then on, and a type that still holds the source's values stays as well, even
if the source needs less room now. So batches of different ages fit together by name and by position.

The hard part is which older batches are still right. `ALTER TABLE` changes values without touching the cursor: it fills
a new column, rounds a decimal, brings a dropped column back, exchanges the names of two columns (all that shows is
their order). Each agreed column therefore has a stamp that is renewed
when its values may have changed; the digest over names, types and stamps (the *shape*) is written beside every batch
and every loaded partition, and whatever lies under another shape is landed again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rds_lake.errors import SpecError
from rds_lake.extract.gentle import is_gentle, same_charset, same_type
from rds_lake.extract.types import As, Column
from rds_lake.extract.widening import holds, wider

Contract = Literal["evolve", "freeze", "discard"]

HISTORY = 20
"""Changes that an agreed schema remembers."""


@dataclass(frozen=True)
class AgreedColumn:
    """One column of the agreed schema.

    Attributes:
        column: how it is carried.
        source: the source's MySQL type when it was last looked at.
        stamp: when its values may last have changed without the cursor's knowledge, ISO 8601 in UTC.
        dropped: when the source was first found without it, None while it has it.
        source_as: the YAML's `as` when it was last looked at; the column itself may be kept in another way.
    """

    column: Column
    source: str
    stamp: str
    dropped: str | None = None
    source_as: As | None = None


@dataclass(frozen=True)
class Change:
    """One change of the agreed schema: the version that it made, when, and in words what."""

    version: int
    at: str
    what: tuple[str, ...]


@dataclass(frozen=True)
class AgreedCursor:
    """The cursor that a table is cut by: its column, and what its values mean (the YAML's `timezone` and `epoch`)."""

    column: str
    timezone: str
    epoch: str | None = None


@dataclass(frozen=True)
class Agreed:
    """The schema that lake and warehouse agree on.

    Attributes:
        version: 1 for the first one, one more with each change.
        since: when this version was agreed on, ISO 8601 in UTC.
        columns: its columns, in the order of every batch.
        changes: the latest changes, the newest last.
        order: their names in lower case, in the source's order; None in one that an earlier version wrote.
        cursor: what the table is cut by; None without a cursor, and in one that an earlier version wrote.
    """

    version: int
    since: str
    columns: tuple[AgreedColumn, ...]
    changes: tuple[Change, ...] = ()
    order: tuple[str, ...] | None = None
    cursor: AgreedCursor | None = None

    def lacks(self, other: "Agreed") -> bool:
        """Whether an earlier version wrote it, which did not know all that another one tells of the source."""
        told = [item.column.generated is not None for item in other.columns]
        known = [item.column.generated is not None for item in self.columns]
        return self.order is None or (self.cursor is None and other.cursor is not None) or known != told


@dataclass(frozen=True)
class Reading:
    """How one column of a batch is read.

    Attributes:
        column: the column as it is landed.
        source: the column as the source has it; None when it is NULL in every row.
    """

    column: Column
    source: Column | None


@dataclass(frozen=True)
class Shape:
    """How a table is read now.

    Attributes:
        readings: the batches' columns in order.
        agreed: the agreed schema that this makes.
        changes: what is new in it, in words; it has to be written down before anything is landed.
        ignored: the source's columns that the contract leaves out.
    """

    readings: tuple[Reading, ...]
    agreed: Agreed
    changes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a batch, in order."""
        return tuple(reading.column for reading in self.readings)

    @property
    def read(self) -> tuple[Column, ...]:
        """The source's columns that are read, in the order of the batch."""
        return tuple(reading.source for reading in self.readings if reading.source is not None)

    @property
    def digest(self) -> str:
        """What identifies names, types and stamps of the columns."""
        known = [
            [item.column.name.lower(), str(item.column.mapped.arrow), _how(item.column), item.stamp]
            for item in self.agreed.columns
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def decide(
    contract: Contract, table: str, source_table: str, agreed: Agreed | None, present: Sequence[Column], now: str
) -> Shape:
    """How a table is read whose source has these columns now.

    Args:
        contract: the YAML's `schema_changes`.
        table: the table's name, for messages.
        source_table: its name in MySQL, for messages.
        agreed: the agreed schema; None before the first landing, which agrees on whatever is there.
        present: the source's columns now.
        now: the time, ISO 8601 in UTC.

    Raises:
        SpecError: the contract is `freeze` and a column changed, or a change is one that nothing can follow.
    """
    if agreed is None:
        columns = tuple(AgreedColumn(column, column.type, now, source_as=_how(column)) for column in present)
        order = tuple(column.name.lower() for column in present)
        return Shape(tuple(Reading(column, column) for column in present), Agreed(1, now, columns, order=order))
    decision = _Decision(contract, f"{table}: the source table '{source_table}'", agreed, present, now)
    if contract == "freeze" and decision.what:
        raise SpecError(
            f"{table}: the source table '{source_table}' has changed, and schema_changes is freeze: "
            f"{'; '.join(decision.what)}. Nothing was landed.",
            f"Take the change back, or set schema_changes to evolve (to follow it) or discard (to keep "
            f"the columns as they were) in defs/{table}/defs.yaml.",
        )
    return decision.shape()


def same_columns(mine: Sequence[Column], others: Sequence[Column]) -> bool:
    """Whether two lists of columns have the same names and types, in whatever order."""
    return {_identity(column) for column in mine} == {_identity(column) for column in others}


def layout(columns: Sequence[Column]) -> tuple[tuple[str, str, str], ...]:
    """Names and types in order: what COPY by position and readers by name can tell apart."""
    return tuple((c.name.lower(), str(c.mapped.arrow), c.mapped.redshift) for c in columns)


class _Decision:
    """The comparison of one agreed schema with the source's columns."""

    def __init__(self, contract: Contract, who: str, agreed: Agreed, present: Sequence[Column], now: str) -> None:
        self.contract = contract
        self.who = who
        self.agreed = agreed
        self.now = now
        self.what: list[str] = []
        self.ignored: list[str] = []
        self._dropped: list[Column] = []
        others = {column.name.lower(): column for column in present}
        pairs = [(item, others.pop(item.column.name.lower(), None)) for item in agreed.columns]
        self.items = [self._follow(item, source) for item, source in pairs]
        self.readings = [Reading(item.column, source) for item, (_, source) in zip(self.items, pairs, strict=True)]
        self._add(list(others.values()))
        self.order = self._in_order(present)

    def _follow(self, item: AgreedColumn, source: Column | None) -> AgreedColumn:
        if source is None:
            return item if item.dropped else self._drop(item)
        if item.dropped:
            self.what.append(f"'{source.name}' ({source.type}) is back")
            return replace(self._join(item, source), stamp=self.now, dropped=None)
        as_text = _is_printed(item.column, source)
        if changes := _changes(item, source, as_text=as_text):
            self.what += changes
            gentle = (
                item.source_as == _how(source)
                and _is_computed_alike(item.column, source)
                and is_gentle(replace(item.column, type=item.source, as_=item.source_as), source, as_text=as_text)
            )
            return replace(self._join(item, source), stamp=item.stamp if gentle else self.now)
        joined = self._join(item, source)
        if _identity(joined.column) != _identity(item.column):  # what `discard` kept as it was, `evolve` follows
            self.what.append(f"'{source.name}' is carried as {_said(source)} from now on")
        return joined

    def _drop(self, item: AgreedColumn) -> AgreedColumn:
        self.what.append(f"'{item.column.name}' ({item.source}) was dropped")
        self._dropped.append(item.column)
        return replace(item, column=replace(item.column, nullable=True), dropped=self.now)

    def _join(self, item: AgreedColumn, source: Column) -> AgreedColumn:
        """The agreed column that also holds the source's values, or (`discard`) keeps its type."""
        held, wanted = item.column.mapped, source.mapped
        item = replace(item, source=source.type, source_as=_how(source))
        if (held.arrow, held.redshift) == (wanted.arrow, wanted.redshift):
            return replace(item, column=source)
        kept = replace(
            item.column,
            name=source.name,
            nullable=source.nullable,
            charset=source.charset,
            generated=source.generated,
        )
        if self.contract != "freeze" and wider(held.redshift, wanted.redshift) is None:
            raise SpecError(
                f"{self.who} has the column '{source.name}' as {_said(source)} now; it was {_said(item.column)}, and "
                f"no type holds the values of both. Nothing was landed.",
                "Give the new values a column of another name at the source (take back a new 'as'), or start over with "
                "the present columns (see schema_changes in docs/tables.md).",
            )
        if self.contract != "evolve" or holds(held.redshift, wanted.redshift):
            return replace(item, column=kept)
        return replace(item, column=source)

    def _add(self, added: Sequence[Column]) -> None:
        names = [f"'{column.name}' ({_said(column)})" for column in added]
        if self.contract == "discard":
            self.ignored = [f"{name} is not read" for name in names]
            return
        self.what += [f"{name} was added" for name in names]
        if self._dropped and added:
            self.what.append("a renamed column looks like one that was dropped and one that was added")
        self.items += [AgreedColumn(column, column.type, self.now, source_as=_how(column)) for column in added]
        self.readings += [Reading(column, column) for column in added]

    def _in_order(self, present: Sequence[Column]) -> tuple[str, ...]:
        """The names in the source's order; columns that have changed places may have exchanged their names."""
        known = {item.column.name.lower() for item in self.items}
        order = tuple(column.name.lower() for column in present if column.name.lower() in known)
        before = [name for name in self.agreed.order or () if name in order]
        after = [name for name in order if name in before]
        if moved := [old for old, new in zip(before, after, strict=True) if old != new]:
            self.what.append(f"the columns stand in another order now, from '{moved[0]}' on, or have exchanged names")
            self.items = [
                replace(item, stamp=self.now) if item.column.name.lower() in moved else item for item in self.items
            ]
        return order

    def shape(self) -> Shape:
        if not any(reading.source for reading in self.readings):
            raise SpecError(
                f"{self.who} has none of the agreed columns any more.",
                "Start over with the present columns (see schema_changes in docs/tables.md).",
            )
        agreed = replace(self.agreed, columns=tuple(self.items), order=self.order)
        if self.what:
            change = Change(self.agreed.version + 1, self.now, tuple(self.what))
            history = (*self.agreed.changes, change)[-HISTORY:]
            agreed = replace(agreed, version=change.version, since=self.now, changes=history)
        return Shape(tuple(self.readings), agreed, tuple(self.what), tuple(self.ignored))


def _how(column: Column) -> As | None:
    """How the YAML says that a column is carried."""
    return column.as_


def _identity(column: Column) -> tuple[str, str, str, str | None]:
    mapped = column.mapped
    return column.name.lower(), str(mapped.arrow), mapped.redshift, _how(column)


def _said(column: Column, kind: str | None = None) -> str:
    text, how = kind or column.type, _how(column)
    return f"{text} as {how}" if how else text


def _as(how: str | None) -> str:
    return f"'as: {how}'" if how else "no 'as'"


def _is_printed(held: Column, source: Column) -> bool:
    """Whether a column's numbers or moments are carried as text."""
    return source.kind != "text" and "string" in {str(held.mapped.arrow), str(source.mapped.arrow)}


def _is_computed_alike(held: Column, source: Column) -> bool:
    """Whether the server computes a column as it did, as far as that is known."""
    return None in {held.generated, source.generated} or held.generated == source.generated


def _changes(item: AgreedColumn, source: Column, *, as_text: bool) -> list[str]:
    """In words, how a column is not what it was; another display width is no change."""
    was, found = item.column, []
    if not same_type(item.source, source.type, as_text=as_text):
        found.append(f"'{source.name}' is now {_said(source)}, was {_said(was, item.source)}")
    elif item.source_as != _how(source):
        found.append(f"'{source.name}' has {_as(_how(source))} in the YAML now, had {_as(item.source_as)}")
    if was.nullable != source.nullable:
        found.append(f"'{source.name}' {'may be NULL now' if source.nullable else 'is NOT NULL now'}")
    if not same_charset(was, source):
        found.append(f"'{source.name}' is in the character set {source.charset} now, was in {was.charset}")
    if not _is_computed_alike(was, source):
        now, then = (f"computed as {text}" if text else "not computed" for text in (source.generated, was.generated))
        found.append(f"'{source.name}' is {now} now, was {then}")
    return found
