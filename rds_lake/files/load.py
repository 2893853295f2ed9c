"""Loading staged files into a table of Redshift, in one transaction with the ledger rows that record them.

Any number of files of one table goes in one transaction. Under the table's lock the ledger is asked first: what is in
there is loaded and not loaded again. Then the rows come in as `rds_lake.files.order` says, so that the table is what
its files make of it in the order in which they landed, and readers see the state before or the state after.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract.widening import holds
from rds_lake.files.order import Dated, plan_load, repeats
from rds_lake.files.schema import RefusedError
from rds_lake.files.stage import Staged
from rds_lake.files.statements import (
    ENTRIES_SINCE,
    SUPERSEDED,
    TRUNCATES,
    FileTarget,
    entries_of,
    entries_of_content,
    remember,
)
from rds_lake.files.store import FileStore
from rds_lake.warehouse.connection import CollisionError, Session, Warehouse
from rds_lake.warehouse.migrate import Migration, kind_of, statements_alone, statements_together
from rds_lake.warehouse.statements import present_columns

ATTEMPTS = 3
LEDGER_ROWS = 500
"""Ledger rows and ids of one statement."""


@dataclass(frozen=True)
class Entry:
    """A row of the ledger of files."""

    file_id: str
    landed_at: datetime
    action: str
    name: str
    content: str
    manifest: str
    rows: int

    @property
    def order(self) -> tuple[datetime, str]:
        """Its place among all files."""
        return self.landed_at, self.file_id


@dataclass(frozen=True)
class LoadedFiles:
    """What a load did.

    Attributes:
        rows: for each file, how many of its rows are in; 0 for one that was superseded.
        superseded: the files without effect.
        repeated: the appended files that hold the bytes of one of the same name that is loaded already: that one's id.
        again: files that were loaded before, and whose rows came in a second time because older ones came late.
        statements: the SQL that ran.
    """

    rows: Mapping[str, int]
    superseded: frozenset[str]
    repeated: Mapping[str, str]
    again: tuple[str, ...]
    statements: tuple[str, ...]


def load_files(
    warehouse: Warehouse,
    store: FileStore,
    target: FileTarget,
    staged: Sequence[Staged],
    report: Callable[[str], None] = lambda _: None,
) -> LoadedFiles:
    """Load staged files of one table.

    Args:
        warehouse: the warehouse.
        store: the bucket that the staged rows lie in.
        target: the table, with all the columns of its schema.
        staged: the files; at least one.
        report: told in words when an attempt is repeated.

    Raises:
        PermanentError: Redshift refused the rows, or COPY brought other ones than were staged. Nothing was changed.
        TransientError: the warehouse could not be reached, or others were in the way, three times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(warehouse, store, target, staged)
        except TransientError as error:
            if attempt == ATTEMPTS:
                raise
            report(f"{error} Attempt {attempt + 1} of {ATTEMPTS}; the ledger is asked first.")
    raise AssertionError("unreachable")


def _attempt(warehouse: Warehouse, store: FileStore, target: FileTarget, staged: Sequence[Staged]) -> LoadedFiles:
    with warehouse.connect() as session:
        prepare(session, target)
        with session.transaction():
            session.execute(target.lock())
            ids = [file.file_id for file in staged]
            done = {entry.file_id: entry for entry in _entries(session, entries_of, target, ids)}
            new = [file for file in staged if file.file_id not in done]
            repeated = _repeated(session, target, new)
            new = [file for file in new if file.file_id not in repeated]
            plan, again = _bring_in(session, store, target, new, warehouse.iam_role)
            superseded = frozenset(plan) | {entry.file_id for entry in done.values() if entry.action == SUPERSEDED}
            _record(session, store, target, new, superseded)
        rows = {file.file_id: 0 if file.file_id in superseded else file.rows for file in staged}
        return LoadedFiles(rows, superseded, repeated, again, tuple(session.statements))


def _bring_in(
    session: Session, store: FileStore, target: FileTarget, new: Sequence[Staged], iam_role: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Bring rows in; the files that have no effect, and those that were loaded before and came in again."""
    if not new:
        return (), ()
    known = {file.file_id: file for file in new}
    since = min(file.landed_at for file in new).replace(tzinfo=None)
    later = _read(session.execute(ENTRIES_SINCE, (target.place, since)))
    plan = plan_load(new, later, keyed=bool(target.keys))
    manifests = {entry.file_id: entry.manifest for entry in later}
    files = [known.get(file_id) or _staged_before(store, manifests[file_id]) for file_id in plan.apply]
    if plan.empty_first:
        session.execute(target.delete_all())
    _apply(session, store, target, files, iam_role)
    return plan.superseded, tuple(file_id for file_id in plan.apply if file_id not in known)


def _apply(session: Session, store: FileStore, target: FileTarget, files: Iterable[Staged], iam_role: str) -> None:
    """COPY staged files and put their rows in; those of the same columns share a temporary table, or even a COPY."""
    for columns, some in groupby((file for file in files if file.part), key=lambda file: file.columns):
        own = FileTarget(target.schema, target.table, columns, target.keys, target.line)
        session.execute(own.create_incoming())
        for number, together in enumerate(_together(list(some), keyed=bool(target.keys))):
            if number:
                session.execute(own.clear_incoming())
            _copy(session, store, own, together, iam_role)
            if target.keys:
                session.execute(own.delete_same_keys())
            session.execute(own.insert())
        session.execute(own.drop_incoming())


def _together(files: Sequence[Staged], *, keyed: bool) -> Iterator[Sequence[Staged]]:
    """What one COPY may bring: without keys all, with keys one after the other, as later rows replace earlier ones."""
    if keyed:
        yield from ([file] for file in files)
    else:
        yield files


def _copy(session: Session, store: FileStore, target: FileTarget, files: Sequence[Staged], iam_role: str) -> None:
    session.execute(target.copy(_copy_manifest(store, target, files), iam_role))
    [(brought,)] = session.execute(target.count_incoming())
    staged = sum(file.rows for file in files)
    if brought != staged:
        raise PermanentError(
            f"COPY brought {brought:,} rows into {target.place}, {staged:,} are staged. Nothing was changed.",
            "Look for others who write below staging/ in the bucket; then drop the files again.",
        )


def _copy_manifest(store: FileStore, target: FileTarget, files: Sequence[Staged]) -> str:
    """The address of a COPY manifest over some files: of one file its own, of several a new one."""
    if len(files) == 1:
        return store.url(files[0].manifest)
    entries = [
        {"url": store.url(file.part or ""), "mandatory": True, "meta": {"content_length": file.part_size}}
        for file in files
    ]
    digest = hashlib.sha256(" ".join(file.file_id for file in files).encode()).hexdigest()[:16]
    key = f"staging/_loads/{target.schema}/{target.table}/{digest}.json"
    store.put(key, json.dumps({"entries": entries}).encode())
    return store.url(key)


def _staged_before(store: FileStore, manifest: str) -> Staged:
    """A file that is loaded already and has to come in again.

    Raises:
        PermanentError: its staged rows are not there any more.
    """
    found = store.get(manifest.removeprefix(f"s3://{store.bucket}/"))
    if found is None:
        raise PermanentError(
            f"{manifest} is gone, so a file that landed earlier cannot be put before the one it is of.",
            "Restore it, or drop the late file again under another name, so that it counts as new.",
        )
    return Staged.from_json(found[0], manifest)


# --- the ledger ------------------------------------------------------------------------------------------------------


def _read(rows: Iterable[Sequence[object]]) -> list[Entry]:
    return [_entry(*row) for row in rows]  # type: ignore[arg-type]


def _entry(file_id: str, landed_at: datetime, action: str, name: str, content: str, manifest: str, rows: int) -> Entry:
    return Entry(file_id, landed_at.replace(tzinfo=UTC), action, name, content, manifest, rows)


def _entries(
    session: Session, query: Callable[[int], str], target: FileTarget, values: Sequence[str]
) -> Iterator[Entry]:
    for start in range(0, len(values), LEDGER_ROWS):
        some = values[start : start + LEDGER_ROWS]
        yield from _read(session.execute(query(len(some)), (target.place, *some)))


def _repeated(session: Session, target: FileTarget, new: Sequence[Staged]) -> dict[str, str]:
    """The appended files that repeat one of the same name, loaded or beside them, byte by byte: that one's id.

    Of a table with keys no row is doubled by that, and none of these is: to drop the same again may be meant.
    """
    appended = sorted((file for file in new if file.action == "append"), key=lambda file: file.order)
    if target.keys or not appended:
        return {}
    held: list[Dated] = list(_entries(session, entries_of_content, target, [file.content for file in appended]))
    truncates: list[Dated] = [file for file in new if file.action == "truncate"]
    if held or len(appended) > 1:
        truncates += _read(session.execute(TRUNCATES, (target.place,)))
    return repeats(appended, held, truncates)


def _record(
    session: Session, store: FileStore, target: FileTarget, new: Sequence[Staged], superseded: frozenset[str]
) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    for start in range(0, len(new), LEDGER_ROWS):
        values: list[tuple[object, ...]] = []
        for file in new[start : start + LEDGER_ROWS]:
            is_in = file.file_id not in superseded
            landed = file.landed_at.astimezone(UTC).replace(tzinfo=None)
            action = file.action if is_in else SUPERSEDED
            values.append(
                (
                    *(target.place, file.file_id, landed, action, file.name, file.content),
                    *(store.url(file.manifest), file.rows if is_in else 0, now),
                )
            )
        session.execute(remember(len(values)), tuple(value for row in values for value in row))


# --- the table -------------------------------------------------------------------------------------------------------


def prepare(session: Session, target: FileTarget) -> None:
    """Make the table, or make it fit for all of the target's columns; only ever wider.

    Args:
        session: a session outside a transaction.
        target: the table, with all the columns of its schema.

    Raises:
        RefusedError: a column is there with a type that does not take the values.
    """
    for statement in target.setup():
        try:
            session.execute(statement)
        except CollisionError:
            session.execute(statement)  # now it exists
    migration = _lacking(session, target)
    if migration.nothing:
        return
    for text in statements_alone(target, migration):
        session.execute(text)
    with session.transaction():
        session.execute(target.lock())
        for text in statements_together(target, _lacking(session, target), _held(session, target)):
            session.execute(text)


def _held(session: Session, target: FileTarget) -> dict[str, str | None]:
    rows = session.execute(present_columns(), (target.schema, target.table))
    return {name: kind_of(kind, length, digits, scale) for name, kind, length, digits, scale, _, _ in rows}


def _lacking(session: Session, target: FileTarget) -> Migration:
    held = _held(session, target)
    add = tuple((name, kind) for name, kind in target.columns if name not in held)
    narrow = [
        (name, kind, before)
        for name, kind in target.columns
        if (before := held.get(name)) is not None and not holds(before, kind)
    ]
    for name, kind, before in narrow:
        if not holds(kind, before):
            raise RefusedError(
                f"The column {name} of {target.place} is {before} in the warehouse, the schema says {kind}, and "
                "neither holds all values of the other.",
                "Give the schema the type that the warehouse has, or rename that column there.",
            )
    texts = tuple((name, kind) for name, kind, before in narrow if _both_text(before, kind))
    return Migration(add, texts, tuple((name, kind) for name, kind, before in narrow if not _both_text(before, kind)))


def _both_text(held: str, wanted: str) -> bool:
    return held.startswith("VARCHAR") and wanted.startswith("VARCHAR")
