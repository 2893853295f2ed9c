"""A table's YAML as it is proposed: keys, values, and the comments that say what each guess leans on. Pure.

What only a person can know is marked `confirm`.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import available_timezones

from rds_lake.errors import SpecError
from rds_lake.extract.carried import name_problem
from rds_lake.extract.indexes import lacking
from rds_lake.extract.profile import ColumnProfile, Span, TableProfile
from rds_lake.extract.types import map_type
from rds_lake.partitions import Unit, following
from rds_lake.scaffold.guess import (
    MOST_PARTITIONS,
    TIMES,
    Candidate,
    Epoch,
    Extent,
    candidates,
    choose_unit,
    looks_personal,
    settle,
)
from rds_lake.scaffold.text import Entry, line, one_line, whole_file
from rds_lake.wording import counted

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""What a table may be called in rds_lake."""

CARRIED_AS: dict[str, str] = {
    **dict.fromkeys(("geometry", "point", "linestring", "polygon", "geometrycollection", "geomcollection"), "binary"),
    **dict.fromkeys(("multipoint", "multilinestring", "multipolygon", "vector"), "binary"),
    **dict.fromkeys(("uuid", "inet4", "inet6"), "string"),
}
"""How a column is carried whose type has no counterpart on the other side; any other such type is left out."""

UTC_NAMES = frozenset({"UTC", "Etc/UTC", "GMT", "Universal", "Zulu", "UCT", "+00:00"})


@dataclass(frozen=True)
class Proposal:
    """A table's YAML as it is proposed.

    Attributes:
        table: the table's name in rds_lake.
        source_table: its name in MySQL.
        entries: the YAML's attributes.
    """

    table: str
    source_table: str
    entries: tuple[Entry, ...]

    @property
    def text(self) -> str:
        """The file."""
        head = (
            f"Proposed by 'rds-lake tables add' from the source's schema of {self.source_table}. "
            "What is marked 'confirm' is a guess."
        )
        return whole_file(head, self.entries)

    @property
    def notes(self) -> list[str]:
        """What was found and guessed, on one line each."""
        return [one_line(note) for entry in self.entries for note in entry.notes]


Measure = Callable[[ColumnProfile], Span]
"""Asks the source for the span of a column."""


def propose(name: str, table: TableProfile, measure: Measure, by: Unit | None = None) -> Proposal:
    """A table's YAML.

    Args:
        name: the table's name in rds_lake.
        table: what the source's schema says of it.
        measure: asked for the span of the columns that may be the cursor, until one is chosen.
        by: the length of a partition, if the user has chosen it.

    Raises:
        SpecError: the name cannot be that of a table.
    """
    if not NAME.fullmatch(name):
        raise SpecError(
            f"'{name}' cannot be the name of a table: it begins with a letter and holds letters, digits and _ only.",
            "Choose another name, and give the source's own with --source-table.",
        )
    entries = [Entry("table", name)]
    entries += [Entry("source_table", table.name)] if table.name != name else []
    entries += [Entry("description", one_line(table.comment))] if table.comment else []
    key = _key(table)
    cursor = _cursor(table, key.value or (), measure, by)
    named = {*(key.value or ()), *(entry.value["column"] for entry in cursor if entry.key == "cursor" and entry.value)}
    entries += [key, *cursor, *_columns(table, named)]
    return Proposal(name, table.name, tuple(entry for entry in entries if entry.value is not None or entry.notes))


def _key(table: TableProfile) -> Entry:
    """The primary key, else the narrowest unique index without NULL, else none."""
    primary = next((index for index in table.indexes if index.name == "PRIMARY"), None)
    if primary is not None:
        return Entry("key", list(primary.columns))
    usable: list[tuple[int, int, list[str]]] = []
    for index in table.indexes:
        names = [column for column in index.columns if column is not None]
        whole = index.unique and len(names) == len(index.columns)
        if whole and not any(table.by_name[column].nullable for column in names):
            usable.append((len(names), sum(table.by_name[column].octets for column in names), names))
    if usable:
        return Entry("key", min(usable)[2], ("No primary key: the narrowest unique index without NULL.",))
    what = (
        "A view has no key" if table.is_view else "The table has neither a primary key nor a unique index without NULL"
    )
    return Entry(
        "key", None, (f"confirm: {what}, so whole rows are compared. Name the columns if a set of them is one.",)
    )


def _cursor(table: TableProfile, key: Sequence[str], measure: Measure, by: Unit | None) -> list[Entry]:
    for candidate in candidates(table):
        span = measure(candidate.column)
        extent = settle(candidate, span)
        if extent is None:
            continue
        entries = _windows(table, key, candidate, span, extent, by)
        return entries if candidate.sees_edits else [_full(candidate, entries)]
    return [Entry("cursor", None, ("No column looks like a cursor: the table is extracted in full when it changes.",))]


def _full(candidate: Candidate, entries: Sequence[Entry]) -> Entry:
    """Full extraction, because the only candidate does not see edits; the other choice as a comment."""
    reason = (
        "Extracted in full when it changes: no column is set on every update. "
        f"{candidate.column.name} is set on insert only, so as a cursor it would hide edits. If rows are never edited:"
    )
    return Entry("cursor", None, (reason, *(line(entry.key, entry.value) for entry in entries)))


def _windows(
    table: TableProfile,
    key: Sequence[str],
    candidate: Candidate,
    span: Span,
    extent: Extent,
    by: Unit | None,
) -> list[Entry]:
    """The entries `cursor` and `partitions`."""
    column = candidate.column
    unit = by or choose_unit(table.rows, extent, span.now)
    cursor: dict[str, Any] = {"column": column.name}
    zone, zone_notes = _zone(table, column, span)
    cursor |= {"timezone": zone} if zone else {}
    cursor |= {"epoch": extent.epoch} if extent.epoch else {}
    notes = [candidate.reason, *zone_notes, *_odd_rows(column, span)]
    if extent.epoch:
        unit_name = _UNIT_NAMES[extent.epoch]
        newest = f"{extent.last:%Y-%m-%d %H:%M}"
        notes.append(f"confirm: the values of {column.name} look like {unit_name} since 1970, the newest {newest}.")
    indexes = {index.name: index.columns for index in table.indexes}
    if not table.is_view and (lack := lacking(table.name, column.name, key, indexes)):
        notes.append(f"{lack[0].upper()}{lack[1:]}")
    partitions: dict[str, Any] = {"by": unit, "start": extent.first.date()}
    partitions |= _partition_column(table, column, unit)
    return [
        Entry("cursor", cursor, tuple(notes)),
        Entry("partitions", partitions, (_size(table, extent, unit),)),
    ]


_UNIT_NAMES: dict[Epoch, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def _zone(table: TableProfile, column: ColumnProfile, span: Span) -> tuple[str | None, list[str]]:
    """The zone of a DATETIME or DATE, as far as the server's setting tells it; a TIMESTAMP and a number are UTC."""
    if column.kind not in {"datetime", "date"}:
        return None, []
    zone, note = None, f"confirm: {column.name} is a {column.kind.upper()}, which has no zone; "
    if table.timezone in UTC_NAMES:
        note += "the server's, UTC, is taken."
    elif table.timezone in available_timezones():
        zone = table.timezone
        note += "the server's is taken."
    else:
        note += f"the server's is {table.timezone}. Give it as timezone: with its IANA name, such as Europe/Berlin."
    if span.last is not None and span.last > span.now + timedelta(minutes=5):
        note += (
            f" The newest value, {span.last:%Y-%m-%d %H:%M}, lies after the clock in UTC, {span.now:%Y-%m-%d %H:%M}."
        )
    return zone, [note]


def _odd_rows(column: ColumnProfile, span: Span) -> Iterator[str]:
    if span.nulls:
        yield f"Rows without {column.name}: {span.nulls:,}. They are part of the first partition (nulls: include)."
    if span.zeros and column.kind in {*TIMES, "date"}:
        held = "No partition holds them; the check in_a_partition counts them."
        yield f"Rows with a zero date in {column.name}: {span.zeros:,}. {held}"


def _partition_column(table: TableProfile, column: ColumnProfile, unit: Unit) -> dict[str, str]:
    """A name for the lake's partition column where the one made from the cursor would not do."""
    usual = f"{column.name}_{unit}".lower()
    plain = re.sub(r"[^a-z0-9_]+", "_", usual).strip("_")
    taken = {name.lower() for name in table.by_name}
    while plain in taken:
        plain = f"{plain}_partition"
    return {} if plain == usual else {"column": plain}


def _size(table: TableProfile, extent: Extent, unit: Unit) -> str:
    if not table.rows:
        return "The table is empty: correct start if older rows will come."
    count, moment = 0, extent.first
    while moment <= extent.last and count <= MOST_PARTITIONS:
        count, moment = count + 1, following(moment, unit)
    return (
        f"About {counted(table.rows, 'row')} from {extent.first:%Y-%m-%d} to {extent.last:%Y-%m-%d}: "
        f"about {round(table.rows / max(count, 1)):,} in a partition."
    )


def _columns(table: TableProfile, needed: Collection[str]) -> Iterator[Entry]:
    """What is worth saying of columns: the source's comments, personal data, what cannot be carried as it is.

    Args:
        table: what the source's schema says of it.
        needed: the columns that cannot be left out.
    """
    found: dict[str, dict[str, Any]] = {}
    notes = []
    for column in table.columns:
        said: dict[str, Any] = {}
        if column.comment:
            said["description"] = one_line(column.comment)
        if looks_personal(column.name):
            said["personal"] = True
        way, note = _way(column, is_needed=column.name in needed)
        said |= {"as": way} if way else {}
        notes += [note] if note else []
        if said:
            found[column.name] = said
    if personal := [name for name, said in found.items() if "personal" in said]:
        notes.insert(0, f"confirm: personal data, by the names of {', '.join(map(one_line, personal))}.")
    if found or notes:
        yield Entry("columns", tuple(Entry(name, said) for name, said in found.items()) or None, tuple(notes))


def _way(column: ColumnProfile, *, is_needed: bool) -> tuple[str | None, str | None]:
    """How a column is carried that cannot be carried as it is, and the note that says so."""
    why, way = name_problem(column.name), "exclude"
    if why is None and not _is_mapped(column):
        why, way = f"has the type {column.kind}, which the lake does not have", CARRIED_AS.get(column.kind, way)
    if why is None:
        return None, None
    if way != "exclude":
        return way, f"{column.name} {why}: it is carried 'as: {way}' (see docs/types.md)."
    if is_needed:
        return None, f"confirm: {column.name} {why}, so sync refuses the table: {_VIEW}, and add that one instead."
    return way, f"confirm: {column.name} {why}, so it is left out ('as: exclude'): to carry it, {_VIEW}."


_VIEW = "make a view at the source that renames or converts it"


def _is_mapped(column: ColumnProfile) -> bool:
    try:
        map_type(column.type, column=column.name)
    except SpecError:
        return False
    return True
