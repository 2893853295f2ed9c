"""Loading staged files into a table of Redshift, in one transaction with the ledger rows that record them.

Any number of files of one table goes in one transaction. Under the table's lock the ledger is asked first: what is in
there is loaded and not loaded again. Then the rows come in as `rds_lake.files.order` says, so that the table is what
its files make of it in the order in which they landed, and readers see the state before or the state after.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract.widening import holds
from rds_lake.files.order import LoadPlan, plan_load, stands_for
from rds_lake.files.schema import RefusedError
from rds_lake.files.stage import Staged
from rds_lake.files.statements import (
    ENTRIES_SINCE,
    PIPELINE_OF,
    REPEATED,
    REVIVE,
    SUPERSEDED,
    TRUNCATES,
    UNLIMITED,
    FileTarget,
    entries_of,
    entries_of_content,
    limit_wait,
    remember,
)
from rds_lake.files.store import FileStore
from rds_lake.pauses import pause
from rds_lake.warehouse.connection import CollisionError, Session, Warehouse
from rds_lake.warehouse.migrate import (
    Examined,
    Held,
    Migration,
    any_kind_of,
    carry_out,
    enlarge,
    lacking,
    read_columns,
    required_beside,
)
from rds_lake.warehouse.statements import FILES_OF, LEDGER, present_columns

ATTEMPTS = 6
"""How often a load is tried. All loads read and write one ledger, so on a cluster that isolates transactions by
SERIALIZABLE those of different tables are in each other's way: one of two is rolled back (error 1023)."""

PAUSE, PAUSE_MAX = 0.5, 4.0
"""Seconds between two attempts: the first pause, about, and the longest one."""

LOCK_SECONDS = 120
"""How long a load waits for another one of the same table, which may stand still; then its files wait."""

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
        revived: files that repeated others when they were handled, and whose rows came in now, behind a late truncate.
        again: files that were loaded before, and whose rows came in a second time because older ones came late.
        statements: the SQL that ran.
    """

    rows: Mapping[str, int]
    superseded: frozenset[str]
    repeated: Mapping[str, str]
    revived: tuple[str, ...]
    again: tuple[str, ...]
    statements: tuple[str, ...]


class LockedError(TransientError):
    """Another load of the table does not come to its end."""


def load_files(
    warehouse: Warehouse,
    store: FileStore,
    target: FileTarget,
    staged: Sequence[Staged],
    report: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> LoadedFiles:
    """Load staged files of one table.

    Args:
        warehouse: the warehouse.
        store: the bucket that the staged rows lie in.
        target: the table, with all the columns of its schema.
        staged: the files; at least one.
        report: told in words when an attempt is repeated, and of repeats that came in after all.
        sleep: waits some seconds.

    Raises:
        PermanentError: Redshift refused the rows, or COPY brought other ones than were staged. Nothing was changed.
        TransientError: the warehouse could not be reached, or others were in the way, each time.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            loaded = _attempt(warehouse, store, target, staged)
        except LockedError:
            raise
        except TransientError as error:
            if attempt == ATTEMPTS:
                raise
            report(f"{error} Attempt {attempt + 1} of {ATTEMPTS}; the ledger is asked first.")
            sleep(pause(attempt, PAUSE, PAUSE_MAX))
        else:
            if loaded.revived:
                report(
                    f"{target.place}: a truncate landed between these files and those that they were refused for as "
                    f"repeats, so their rows came in behind it: {', '.join(loaded.revived)}"
                )
            return loaded
    raise AssertionError("unreachable")


def _attempt(warehouse: Warehouse, store: FileStore, target: FileTarget, staged: Sequence[Staged]) -> LoadedFiles:
    with warehouse.connect() as session:
        _make(session, target.setup_ledger())
        # What is in is in, whatever has become of the table since then; what is not needs one that is fit for it.
        if len(_known(session, target, staged)) < len(staged):
            _prepare(session, target)
        with _turn(session, target):
            done = _known(session, target, staged)
            new = [file for file in staged if file.file_id not in done]
            plan = _bring_in(session, store, target, new, warehouse.iam_role)
            _record(session, store, target, new, plan)
            told = _repeats_before(session, target, [entry for entry in done.values() if entry.action == REPEATED])
        superseded = {entry.file_id for entry in done.values() if entry.action == SUPERSEDED} | set(plan.superseded)
        repeated = {**told, **plan.repeated}
        idle = superseded | set(repeated)
        rows = {file.file_id: 0 if file.file_id in idle else file.rows for file in staged}
        known = {file.file_id for file in new} | set(plan.revived)
        again = tuple(file_id for file_id in plan.apply if file_id not in known)
        return LoadedFiles(rows, frozenset(superseded), repeated, plan.revived, again, tuple(session.statements))


def _known(session: Session, target: FileTarget, staged: Sequence[Staged]) -> dict[str, Entry]:
    """What the ledger has of some files."""
    return {entry.file_id: entry for entry in _entries(session, entries_of, target, [file.file_id for file in staged])}


@contextmanager
def _turn(session: Session, target: FileTarget) -> Iterator[None]:
    """A transaction that waits for other loads of the table, for some time, and keeps them out.

    Raises:
        LockedError: they have not come to their end.
    """
    session.execute(limit_wait(LOCK_SECONDS))  # outside, for LOCK is to be the first statement
    with session.transaction():
        with _locked(target, "Another load"):
            session.execute(target.lock())
        session.execute(UNLIMITED)
        yield


@contextmanager
def _locked(target: FileTarget, who: str) -> Iterator[None]:
    """Say who it is that a statement has waited for in vain.

    Raises:
        LockedError: it has.
    """
    start = time.monotonic()
    try:
        yield
    except TransientError as error:
        if time.monotonic() - start < LOCK_SECONDS:
            raise
        raise LockedError(
            f"{who} of {target.place} has held its lock for more than {LOCK_SECONDS} seconds.",
            "If it stands still, end its session in the warehouse.",
        ) from error


def _bring_in(session: Session, store: FileStore, target: FileTarget, new: Sequence[Staged], iam_role: str) -> LoadPlan:
    """Bring in the rows of new files, and of those that have to come in behind them; what was done."""
    if not new:
        return plan_load((), (), keyed=bool(target.keys))
    entries = _entries_beside(session, target, new)
    plan = plan_load(new, list(entries.values()), keyed=bool(target.keys))
    fresh = {file.file_id: file for file in new}
    files = [fresh.get(file_id) or _staged_before(store, entries[file_id].manifest) for file_id in plan.apply]
    if plan.empty_first:
        session.execute(target.delete_all())
    _apply(session, store, target, files, iam_role)
    rows = {file.file_id: file.rows for file in files}
    for file_id in plan.revived:
        session.execute(REVIVE, (rows[file_id], target.place, file_id))
    return plan


def _entries_beside(session: Session, target: FileTarget, new: Sequence[Staged]) -> dict[str, Entry]:
    """The entries of the ledger that the plan for new files has to know."""
    since = min(file.landed_at for file in new)
    later = _read(session.execute(ENTRIES_SINCE, (target.place, since.replace(tzinfo=None))))
    contents = sorted({file.content for file in new if file.action == "append"})
    equal = [] if target.keys else list(_entries(session, entries_of_content, target, contents))
    truncates: list[Entry] = []
    if any(entry.landed_at < since for entry in equal):
        truncates = _read(session.execute(TRUNCATES, (target.place,)))
    return {entry.file_id: entry for entry in (*later, *equal, *truncates)}


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
    store.ours.put(key, json.dumps({"entries": entries}).encode())
    return store.url(key)


def _staged_before(store: FileStore, manifest: str) -> Staged:
    """A file that is loaded already and has to come in again.

    Raises:
        PermanentError: its staged rows are not there any more.
    """
    found = store.ours.get(manifest.removeprefix(f"s3://{store.bucket}/"))
    if found is None:
        raise PermanentError(
            f"{manifest} is gone, so a file that landed earlier cannot be put before the one it is of.",
            "Restore it, or drop the late file again under another name, so that it counts as new.",
        )
    return Staged.from_json(found[0], manifest)


def is_loaded(warehouse: Warehouse, target: FileTarget, file_id: str) -> bool:
    """Whether the ledger has a file, which it has in the transaction that its rows came in with."""
    with warehouse.connect() as session:
        _make(session, target.setup_ledger())
        return any(_entries(session, entries_of, target, [file_id]))


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


def _repeats_before(session: Session, target: FileTarget, repeats: Sequence[Entry]) -> dict[str, str]:
    """The files that an earlier attempt found to be repeats, and of each the file whose rows stand for its own."""
    if not repeats:
        return {}
    appends = list(_entries(session, entries_of_content, target, sorted({entry.content for entry in repeats})))
    truncates = _read(session.execute(TRUNCATES, (target.place,)))
    return {entry.file_id: stands_for(entry, appends, truncates) or "an earlier file" for entry in repeats}


def _record(session: Session, store: FileStore, target: FileTarget, new: Sequence[Staged], plan: LoadPlan) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    idle = {**dict.fromkeys(plan.superseded, SUPERSEDED), **dict.fromkeys(plan.repeated, REPEATED)}
    for start in range(0, len(new), LEDGER_ROWS):
        values: list[tuple[object, ...]] = []
        for file in new[start : start + LEDGER_ROWS]:
            landed = file.landed_at.astimezone(UTC).replace(tzinfo=None)
            action = idle.get(file.file_id, file.action)
            values.append(
                (
                    *(target.place, file.file_id, landed, action, file.name, file.content),
                    *(store.url(file.manifest), 0 if file.file_id in idle else file.rows, now),
                )
            )
        session.execute(remember(len(values)), tuple(value for row in values for value in row))


# --- the table -------------------------------------------------------------------------------------------------------


def prepare(session: Session, target: FileTarget, *, adopt: bool) -> None:
    """Make the table, or make it fit for all of the target's columns; only ever wider.

    Args:
        session: a session outside a transaction.
        target: the table, with all the columns of its schema.
        adopt: whether it may have rows although no file has ever been loaded into it.

    Raises:
        RefusedError: the table is somebody else's, needs values that no file has, or has a column with a type that does
            not take the values. Its rows and columns are as they were.
        TransientError: another load of it does not come to its end.
    """
    _make(session, target.setup_ledger())
    _prepare(session, target, adopt=adopt)


def _prepare(session: Session, target: FileTarget, *, adopt: bool = True) -> None:
    _refuse_pipelines(session, target)
    _make(session, target.setup())
    if not adopt:
        _refuse_strangers(session, target)

    def examine() -> Examined:
        held = read_columns(session, target.schema, target.table, any_kind_of)
        return held, _lacking(target, held)

    _, migration = examine()
    if not migration.nothing:
        session.execute(limit_wait(LOCK_SECONDS))
        with _locked(target, "A load or a reader"):
            enlarge(session, target, migration)
        session.execute(UNLIMITED)
        carry_out(session, target, examine, partial(_turn, session, target))


def _make(session: Session, statements: Iterable[str]) -> None:
    """Make what is not there; another session may be doing the same."""
    for statement in statements:
        try:
            session.execute(statement)
        except CollisionError:
            session.execute(statement)  # now it exists


def _refuse_pipelines(session: Session, target: FileTarget) -> None:
    """Refuse a table that a pipeline keeps in step with its source: each would undo what the other does."""
    columns = {row[0] for row in session.execute(present_columns(), tuple(LEDGER.split(".")))}
    found = session.execute(PIPELINE_OF, (target.place,)) if "target" in columns else []
    if found:
        raise RefusedError(
            f"The warehouse table {target.place} is loaded by the table pipeline {found[0][0]}. Nothing was changed.",
            "Drop files for a table of another name, or give the drop zone another schema.",
        )


def _refuse_strangers(session: Session, target: FileTarget) -> None:
    """Refuse a table that has rows of which no file is known: a truncate would take away what somebody else keeps."""
    if session.execute(target.any_row()) == [(0,)]:
        return
    [(files,)] = session.execute(FILES_OF, (target.place,))
    if not files:
        raise RefusedError(
            f"The warehouse table {target.place} has rows that no file has brought. Nothing was changed.",
            f"If files shall be loaded into it, name {target.table} below 'tables' in the YAML of the drop zone; "
            "otherwise choose another name.",
        )


def _lacking(target: FileTarget, held: Sequence[Held]) -> Migration:
    """What a table lacks to take files.

    Raises:
        RefusedError: see `prepare`.
    """
    present = {column.name: column.kind for column in held}
    wanted = dict(target.columns)
    for name, kind in target.columns:
        before = present.get(name)
        if before is None or holds(kind, before):
            continue
        if not holds(before, kind):
            raise RefusedError(
                f"The column {name} of {target.place} is {before} in the warehouse, the schema says {kind}, and "
                "neither holds all values of the other.",
                "Give the schema the type that the warehouse has, or rename that column there.",
            )
        wanted[name] = before
    if needed := required_beside(held, wanted):
        raise RefusedError(
            f"The column {needed[0].name} of {target.place} is NOT NULL without a default in the warehouse, and the "
            "schema does not have it.",
            "Add it to the schema, or let it be NULL, give it a default, or drop it.",
        )
    return lacking(held, wanted)
