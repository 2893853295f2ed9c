"""Migrating a table of the warehouse: from the columns that it has to those that staged batches need.

Only ever wider: a column is added, a type enlarged, nothing is narrowed, and nothing that others added is touched. The
comparison is pure and refuses before anything is changed.

The hard part is doing it under the eyes of readers and of other loads, and surviving a kill between any two statements.
Redshift enlarges a VARCHAR in place, but outside a transaction block only; any other type takes a new column, an
UPDATE and a rename. So: enlarging commits by itself. Then one transaction adds columns and fills those that are to take
the place of narrower ones, under names of their own, and a second one exchanges the names. A reader who waits for it
has the snapshot of before, and finds in it the rows of the first transaction, not new columns without values. Both are
under the load's lock, before the load's own, and each step leaves a table that is right for older and newer loads. A
table that is only added to is locked for a moment, not for the time of a COPY. What another session did meanwhile is
seen by looking again.
"""

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.extract.types import Column
from rds_lake.extract.widening import holds, wider
from rds_lake.warehouse.connection import CollisionError, Session
from rds_lake.warehouse.ledger import shapes
from rds_lake.warehouse.statements import LEDGER, LEDGER_COLUMNS, Target, present_columns, quote

_PLAIN = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "REAL",
    "double precision": "DOUBLE PRECISION",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp without time zone": "TIMESTAMP",
}
_SIZED = {"character varying": "VARCHAR", "binary varying": "VARBYTE", "varbyte": "VARBYTE"}


WIDE, NARROW = "rds_lake_wide_", "rds_lake_narrow_"
"""What columns are called for a moment: a wider one before it takes a column's place, and that column afterwards."""

_WIDE = re.compile(f"{WIDE}[0-9a-f]{{8}}")

EXCHANGES = 5
"""How often columns are exchanged anew because another session was faster."""

Staged = Sequence[tuple[str | None, tuple[Column, ...]]]
"""For each batch the digest of its shape (None of an earlier version's), and its columns."""


class Named(Protocol):
    """A table of the warehouse."""

    @property
    def name(self) -> str:
        """Its name with its schema, quoted."""


@dataclass(frozen=True)
class Held:
    """A column that a table of the warehouse has.

    Attributes:
        name: its name.
        kind: its type as the type table writes it; None for any other, which is left to Redshift's own judgement.
        required: whether a row must bring a value.
    """

    name: str
    kind: str | None
    required: bool = False


@dataclass(frozen=True)
class Migration:
    """What has to be done to a table; names and types.

    Attributes:
        add: new columns.
        enlarge: text columns that become longer.
        exchange: columns whose type becomes a wider one.
    """

    add: tuple[tuple[str, str], ...] = ()
    enlarge: tuple[tuple[str, str], ...] = ()
    exchange: tuple[tuple[str, str], ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether the table is as it has to be."""
        return not (self.add or self.enlarge or self.exchange)


Examined = tuple[Sequence[Held], Migration]
"""The columns that a table has, and what it lacks."""


def compare(target: Target, held: Sequence[Held], batches: Iterable[Sequence[Column]]) -> Migration:
    """What a table lacks to take some batches.

    Args:
        target: the table.
        held: the columns that it has.
        batches: the columns of the batches, each kind of them once.

    Raises:
        SpecError: a column cannot become what is staged, or the table needs values that no batch has.
    """
    present = {column.name: column for column in held}
    wanted: dict[str, str] = {}
    for columns in batches:
        for column in columns:
            name, kind = column.name.lower(), column.mapped.redshift
            before = wanted.get(name, present[name].kind if name in present else kind)
            if before is not None:
                wanted[name] = _joined(target, name, before, kind)
    _refuse_required(target, required_beside(held, wanted))
    migration = lacking(held, wanted)
    _refuse_layout(target, [name for name, _ in migration.exchange])
    return migration


def lacking(held: Sequence[Held], wanted: Mapping[str, str]) -> Migration:
    """What a table lacks so that its columns have some types.

    Args:
        held: the columns that it has.
        wanted: names and types; of a column that is there a type that holds all of its values. Columns of a type that
            is not known are left out of it, or left as they are.
    """
    kinds = {column.name: column.kind for column in held}
    add = tuple((name, kind) for name, kind in wanted.items() if name not in kinds)
    changed = [(name, kind) for name, kind in wanted.items() if kinds.get(name) not in {None, kind}]
    enlarge = tuple((name, kind) for name, kind in changed if _is_longer_text(kinds[name], kind))
    return Migration(add, enlarge, tuple(item for item in changed if item not in enlarge))


def required_beside(held: Sequence[Held], brought: Collection[str]) -> list[Held]:
    """The columns of a table that need a value which nobody brings."""
    return [column for column in held if column.required and column.name not in brought]


def _joined(target: Target, name: str, held: str, staged: str) -> str:
    kind = wider(held, staged)
    if kind is None:
        raise SpecError(
            f"The column {name} of the warehouse table {target.name} is {held}, staged is {staged}, and no type holds "
            "the values of both. Nothing was changed.",
            "Rename or drop that column in the warehouse, then materialise all partitions of the table again.",
        )
    return kind


def _is_longer_text(held: str | None, kind: str) -> bool:
    return held is not None and held.startswith("VARCHAR") and holds(kind, held) and kind.startswith("VARCHAR")


def _refuse_required(target: Target, columns: Sequence[Held]) -> None:
    if columns:
        raise SpecError(
            f"The warehouse table {target.name} has the column {columns[0].name}, which is NOT NULL without a default "
            "and which no staged batch has. Nothing was changed.",
            "Let it be NULL, give it a default, or drop it, then materialise the table again.",
        )


def _refuse_layout(target: Target, names: Sequence[str]) -> None:
    warehouse = target.spec.warehouse
    fixed = {key.lower() for key in (warehouse.distribution_key, *warehouse.sort_keys) if key}
    for name in names:
        if name in fixed:
            raise SpecError(
                f"The column {name} of the warehouse table {target.name} needs a wider type, but it is its "
                "distribution or sort key, which Redshift does not exchange. Nothing was changed.",
                "Rename the warehouse table, then materialise all partitions of it again.",
            )


# --- the statements --------------------------------------------------------------------------------------------------


def statements_alone(target: Named, migration: Migration) -> list[str]:
    """What commits by itself, because Redshift takes it outside a transaction block only."""
    return [f"ALTER TABLE {target.name} ALTER COLUMN {quote(name)} TYPE {kind}" for name, kind in migration.enlarge]


def statements_beside(target: Named, migration: Migration, wide: Mapping[str, str]) -> list[str]:
    """What belongs in one transaction: columns that are new, and wider ones, filled, beside those that they replace.

    A text that could not be enlarged in place (Redshift refuses it for some encodings) is exchanged like any other.

    Args:
        target: the table.
        migration: what has to be done.
        wide: for each column that is exchanged, the name that the wider one has meanwhile.
    """
    texts = [f"ALTER TABLE {target.name} ADD COLUMN {quote(name)} {kind}" for name, kind in migration.add]
    for name, kind in (*migration.enlarge, *migration.exchange):
        texts += [
            f"ALTER TABLE {target.name} ADD COLUMN {quote(wide[name])} {kind}",
            f"UPDATE {target.name} SET {quote(wide[name])} = CAST({quote(name)} AS {kind})",
        ]
    return texts


def statements_instead(target: Named, migration: Migration, wide: Mapping[str, str]) -> list[str]:
    """What belongs in the next transaction: what came in or was changed meanwhile is filled in, the names exchanged.

    Args:
        target: the table.
        migration: what has to be done.
        wide: as above.
    """
    texts = []
    for name, kind in (*migration.enlarge, *migration.exchange):
        new, old = quote(wide[name]), quote(wide[name].replace(WIDE, NARROW))
        value = f"CAST({quote(name)} AS {kind})"
        texts += [
            f"UPDATE {target.name} SET {new} = {value} WHERE {_differ(new, value, kind)}",
            f"ALTER TABLE {target.name} RENAME COLUMN {quote(name)} TO {old}",
            f"ALTER TABLE {target.name} RENAME COLUMN {new} TO {quote(name)}",
            f"ALTER TABLE {target.name} DROP COLUMN {old}",
        ]
    return texts


def _differ(one: str, other: str, kind: str) -> str:
    """SQL of whether two values are not the same; Redshift compares texts without the blanks at their ends."""
    unequal = f"{one} <> {other}"
    if kind.startswith("VARCHAR"):
        unequal += f" OR OCTET_LENGTH({one}) <> OCTET_LENGTH({other})"
    one_is_null = f"({one} IS NULL AND {other} IS NOT NULL)"
    return f"{unequal} OR {one_is_null} OR ({one} IS NOT NULL AND {other} IS NULL)"


# --- doing it --------------------------------------------------------------------------------------------------------


def prepare_ledger(session: Session) -> None:
    """Give a ledger that an earlier version made the columns that it lacks."""
    schema, _, table = LEDGER.partition(".")
    present = {row[0] for row in session.execute(present_columns(), (schema, table))}
    for name, kind in LEDGER_COLUMNS:
        if name not in present:
            _tolerantly(session, f"ALTER TABLE {LEDGER} ADD COLUMN {name} {kind}")


def prepare_target(
    session: Session, target: Target, staged: Sequence[tuple[str | None, tuple[Column, ...]]]
) -> tuple[str, ...]:
    """Make a table fit for staged batches.

    Args:
        session: a session outside a transaction.
        target: the table, which exists.
        staged: the batches that it has to take.

    Returns:
        What was changed, in words.

    Raises:
        SpecError: it cannot be done; nothing was changed.
    """
    kinds = list(dict.fromkeys(columns for _, columns in staged))

    def examine() -> Examined:
        held = read_held(session, target)
        return held, compare(target, held, kinds)

    @contextmanager
    def turn() -> Iterator[None]:
        with session.transaction():
            session.execute(target.lock())
            yield

    held, migration = examine()
    if migration.nothing:
        return ()
    if migration.add:
        _check_ours(session, target, held, migration, staged)
    enlarge(session, target, migration)
    carry_out(session, target, examine, turn)
    return (
        *(f"added {name} {kind}" for name, kind in migration.add),
        *(f"enlarged {name} to {kind}" for name, kind in (*migration.enlarge, *migration.exchange)),
    )


def enlarge(session: Session, target: Named, migration: Migration) -> None:
    """Make texts longer, as far as that can be done in place; it waits for all who read or write the table.

    Args:
        session: a session outside a transaction.
        target: the table.
        migration: what it lacks.
    """
    for text in statements_alone(target, migration):
        _tolerantly(session, text)


def carry_out(
    session: Session,
    target: Named,
    examine: Callable[[], Examined],
    turn: Callable[[], AbstractContextManager[None]],
) -> None:
    """Do to a table what it still lacks after `enlarge`; others may be doing the same.

    Args:
        session: a session outside a transaction.
        target: the table.
        examine: looks at the columns that it has now, and what it lacks.
        turn: a transaction that waits for other loads of the table, and keeps them out.
    """
    if examine()[1].nothing:
        return
    for _ in range(EXCHANGES):
        with turn():
            held, lacks = examine()
            wide = {name: f"{WIDE}{secrets.token_hex(4)}" for name, _ in (*lacks.enlarge, *lacks.exchange)}
            for left in [column.name for column in held if _WIDE.fullmatch(column.name)]:  # of somebody who died
                session.execute(f"ALTER TABLE {target.name} DROP COLUMN {quote(left)}")
            for text in statements_beside(target, lacks, wide):
                session.execute(text)
        if not wide:
            return
        with turn():
            if _exchange(session, target, wide, *examine()):
                return
    raise TransientError(f"Others are changing the columns of {target.name}, too.", "Try again.")


def _exchange(session: Session, target: Named, wide: Mapping[str, str], held: Sequence[Held], lacks: Migration) -> bool:
    """Have wider columns take the places of others; False if another session has removed one or done it by itself."""
    wanted = {name for name, _ in (*lacks.enlarge, *lacks.exchange)}
    if wanted != set(wide) or not set(wide.values()) <= {column.name for column in held}:
        return False
    for text in statements_instead(target, lacks, wide):
        session.execute(text)
    return True


def read_held(session: Session, target: Target) -> list[Held]:
    """The columns that the warehouse table of a pipeline has, in their order."""
    return read_columns(session, target.schema, target.spec.warehouse_name.lower(), kind_of)


def read_columns(session: Session, schema: str, table: str, named: Callable[..., str | None]) -> list[Held]:
    """The columns that a table of the warehouse has, in their order.

    Args:
        session: a session.
        schema: the table's schema.
        table: its name.
        named: which types are known: `kind_of`, or `any_kind_of`.
    """
    return [
        Held(name, named(kind, length, digits, scale), nullable == "NO" and default is None)
        for name, kind, length, digits, scale, nullable, default in session.execute(present_columns(), (schema, table))
    ]


def kind_of(kind: str, length: int | None, digits: int | None, scale: int | None) -> str | None:
    """A type of `information_schema` as the type table writes it; None for one that it does not write."""
    if kind == "numeric" and digits is not None:
        return f"DECIMAL({digits},{scale or 0})"
    if kind in _SIZED and length is not None:
        return f"{_SIZED[kind]}({length})"
    return _PLAIN.get(kind)


def any_kind_of(kind: str, length: int | None, digits: int | None, scale: int | None) -> str | None:
    """As `kind_of`, and what no pipeline writes: a moment with its zone, and CHAR, which drops trailing blanks."""
    if kind == "timestamp with time zone":
        return "TIMESTAMPTZ"
    return f"CHAR({length})" if kind == "character" else kind_of(kind, length, digits, scale)


def _tolerantly(session: Session, text: str) -> None:
    """Run a statement that another session may have run already, or that Redshift may refuse for this very column.

    Whoever calls this looks again afterwards and does by other means, or fails over, what is still to be done.
    """
    try:
        session.execute(text)
    except (CollisionError, PermanentError):
        return


def _check_ours(
    session: Session,
    target: Target,
    held: Sequence[Held],
    migration: Migration,
    staged: Staged,
) -> None:
    """Refuse to add columns to a table that is somebody else's, or one that has been altered by hand."""
    loaded = shapes(session, target.spec.table)
    lacks = ", ".join(name for name, _ in migration.add)
    if not loaded:
        [(rows,)] = session.execute(target.any_row())
        if rows:
            raise SpecError(
                f"The warehouse table {target.name} has rows that rds_lake did not load, and the columns "
                f"{', '.join(column.name for column in held)}; it lacks {lacks}. Nothing was changed.",
                f"Give defs/{target.spec.table}/defs.yaml another warehouse.table, or add the columns yourself.",
            )
        return
    new = {name for name, _ in migration.add}
    for shape, columns in staged:
        if shape in loaded and new & {column.name.lower() for column in columns}:
            raise SpecError(
                f"The warehouse table {target.name} has the columns {', '.join(column.name for column in held)}; it "
                f"lacks {lacks}, which partitions that are loaded had. Nothing was changed.",
                "Somebody dropped or renamed it: rename it back, or rename the whole table and materialise all "
                "partitions again.",
            )
