"""What the source knows of its tables beyond what an extraction needs: comments, indexes, sizes, the span of a column.

`rds_lake.scaffold` makes a proposal from it. Everything here is read from `information_schema`, or costs a few index
look-ups on a column that has an index, and one scan on one that has none.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

from rds_lake.errors import SpecError
from rds_lake.extract.source import Connection, Source, query
from rds_lake.sql import quote

FIRST_YEAR = 1000
"""The least year of MySQL's documented range; zero dates, and what was typed wrongly, lie before it."""

COUNTED = 10_000
"""Tables that the server takes to be smaller are counted: for some seconds it takes a table just filled to be empty."""


@dataclass(frozen=True)
class ColumnProfile:
    """One column.

    Attributes:
        name: its name, as the source spells it.
        type: its MySQL type, such as `int(10) unsigned`.
        nullable: whether it may hold NULL.
        comment: what the source's schema says of it.
        sets_itself: whether the server sets it on every update (ON UPDATE CURRENT_TIMESTAMP).
        octets: its greatest length in bytes, 8 where the server gives none.
    """

    name: str
    type: str
    nullable: bool = True
    comment: str = ""
    sets_itself: bool = False
    octets: int = 8

    @property
    def kind(self) -> str:
        """The type's name without its arguments."""
        return self.type.split("(")[0].split()[0].lower()


@dataclass(frozen=True)
class Index:
    """One index: its columns in their order; an expression in it has no name."""

    name: str
    columns: tuple[str | None, ...]
    unique: bool = False


@dataclass(frozen=True)
class TableProfile:
    """One table or view.

    Attributes:
        name: its name.
        columns: its columns in the source's order.
        indexes: its indexes.
        rows: how many rows it has; an estimate of the server's for a table.
        comment: what the source's schema says of it.
        engine: the storage engine, empty for a view.
        timezone: the zone that the server is set to, such as `UTC` or `Europe/Berlin`.
    """

    name: str
    columns: tuple[ColumnProfile, ...]
    indexes: tuple[Index, ...] = ()
    rows: int = 0
    comment: str = ""
    engine: str = "InnoDB"
    timezone: str = "UTC"

    @property
    def is_view(self) -> bool:
        """Whether it is a view."""
        return not self.engine

    @cached_property
    def by_name(self) -> dict[str, ColumnProfile]:
        """The columns by name."""
        return {column.name: column for column in self.columns}


@dataclass(frozen=True)
class Span:
    """The values of one column.

    Attributes:
        first: the least value; zero dates left out.
        last: the greatest one.
        nulls: rows without a value.
        zeros: rows with a zero date.
        now: the server's clock, UTC without zone.
    """

    first: Any
    last: Any
    nulls: int
    zeros: int
    now: datetime


@dataclass(frozen=True)
class Listed:
    """A table of the source in a list: its name, its rows (an estimate; None for a view), what it is."""

    name: str
    rows: int | None
    is_view: bool


def list_tables(source: Source) -> list[Listed]:
    """All tables and views of the source's database that the user can see, in the order of their names."""
    with source.connect() as connection:
        rows = query(
            connection,
            "SELECT table_name, table_rows, table_type FROM information_schema.tables WHERE table_schema = %s "
            "ORDER BY table_name",
            (source.url.database,),
        )
    return [Listed(name, rows, is_view="VIEW" in kind) for name, rows, kind in rows]


def read_profile(source: Source, table: str) -> TableProfile:
    """What the source's schema says of one table.

    Raises:
        SpecError: there is no such table, or the user may not see it; names that are close are given.
    """
    with source.connect() as connection:
        found = query(
            connection,
            "SELECT table_rows, table_comment, engine, table_type FROM information_schema.tables "
            "WHERE table_schema = %s AND table_name = %s",
            (source.url.database, table),
        )
        if not found:
            raise _unknown(source, table)
        [(rows, comment, engine, kind)] = found
        is_view = "VIEW" in kind
        if is_view or int(rows or 0) < COUNTED:
            [(rows,)] = query(connection, f"SELECT COUNT(*) FROM {quote(table, 'mysql')}")
        [(zone,)] = query(
            connection, "SELECT IF(@@global.time_zone = 'SYSTEM', @@system_time_zone, @@global.time_zone)"
        )
        return TableProfile(
            name=table,
            columns=_columns(connection, source.url.database, table),
            indexes=_indexes(connection, source.url.database, table),
            rows=int(rows or 0),
            comment="" if is_view else comment,  # of a view it is the word VIEW
            engine="" if is_view else engine or "",
            timezone=zone,
        )


def _columns(connection: Connection, database: str, table: str) -> tuple[ColumnProfile, ...]:
    rows = query(
        connection,
        "SELECT column_name, column_type, is_nullable, column_comment, extra, character_octet_length "
        "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (database, table),
    )
    return tuple(
        ColumnProfile(
            name,
            kind.decode() if isinstance(kind, bytes) else kind,
            nullable == "YES",
            comment,
            sets_itself="on update" in extra.lower(),
            octets=int(octets or 8),
        )
        for name, kind, nullable, comment, extra, octets in rows
    )


def _indexes(connection: Connection, database: str, table: str) -> tuple[Index, ...]:
    rows = query(
        connection,
        "SELECT index_name, column_name, non_unique FROM information_schema.statistics "
        "WHERE table_schema = %s AND table_name = %s ORDER BY index_name, seq_in_index",
        (database, table),
    )
    columns: dict[str, list[str | None]] = {}
    for name, column, _ in rows:
        columns.setdefault(name, []).append(column)
    unique = {name for name, _, non_unique in rows if not non_unique}
    return tuple(Index(name, tuple(found), name in unique) for name, found in columns.items())


def _unknown(source: Source, table: str) -> SpecError:
    names = [item.name for item in list_tables(source)]
    folded = {name.casefold(): name for name in names}
    close = [folded[name] for name in difflib.get_close_matches(table.casefold(), list(folded), n=3, cutoff=0.6)]
    hint = f"Did you mean {_either(close)}?" if close else "'rds-lake tables' lists what is there."
    return SpecError(
        f"MySQL at {source.url.address} has no table '{table}' that the user '{source.url.user}' can see.", hint
    )


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def read_span(source: Source, table: str, column: ColumnProfile) -> Span:
    """The least and the greatest value of a column, and how many rows have none.

    Args:
        source: the MySQL source.
        table: the table's name.
        column: one of its columns, of dates, times or integers.
    """
    name, place = quote(column.name, "mysql"), quote(table, "mysql")
    is_number = column.kind.endswith("int")
    least = "0" if is_number else f"'{FIRST_YEAR}-01-01'"
    with source.connect() as connection:
        [(first, last, now)] = query(
            connection, f"SELECT MIN({name}), MAX({name}), UTC_TIMESTAMP(6) FROM {place} WHERE {name} >= {least}"
        )
        [(nulls,)] = query(connection, f"SELECT COUNT(*) FROM {place} WHERE {name} IS NULL")
        [(zeros,)] = query(connection, f"SELECT COUNT(*) FROM {place} WHERE {name} < {least}")
    return Span(_moment(first), _moment(last), nulls, zeros, now)


def _moment(value: Any) -> Any:  # noqa: ANN401 - whatever the driver returns
    """A date as its midnight, a partly zero date (which the driver leaves as text) as the least one that it may be."""
    if isinstance(value, str):
        year, month, day = (int(part) for part in value[:10].split("-"))
        value = date(year, month or 1, day or 1)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, datetime.min.time())
    return value
