"""The load: staged batches into the warehouse, in one transaction with the ledger rows that record them.

Any number of partitions goes in one transaction. Under the target's lock: COPY into a temporary table, remove the rows
of the partitions' windows and the older versions of the incoming keys, insert the newest version of each key, write
the ledger. When the connection breaks on the way, the ledger tells whether it happened.

What has nothing to do is left out. Versions are ranked only where a key may have come twice, or where the target holds
a newer one. Into an empty target COPY goes directly. The transaction is what keeps half a load from being seen.

Batches that were landed before and after a change of the source's columns differ in columns. COPY goes by position, so
each kind of them has a temporary table of its own, and the rows are exchanged one kind after the other, in the same
transaction; the target itself is made fit for all of them before it begins (`rds_lake.warehouse.migrate`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rds_lake.cursors import cut, key_of_start
from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.extract.contract import layout
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import CollisionError, Session, Warehouse
from rds_lake.warehouse.migrate import prepare_ledger, prepare_target, read_held
from rds_lake.warehouse.statements import (
    FILE_LEDGER,
    FILES_OF,
    FORGET_ROWS,
    Target,
    forget,
    merge_windows,
    present_columns,
    remember,
)

ATTEMPTS = 3
"""How often a load is tried when the connection breaks or another transaction is in the way."""


@dataclass(frozen=True)
class Loaded:
    """What a load did.

    Attributes:
        rows: for each partition, the target's rows in its window after the load.
        statements: the SQL that ran, for the record.
        manifest: the address of the load's manifest (of batches of several kinds: of each), None when there was
            nothing to copy.
        repeated: True when an earlier attempt turned out to have committed.
        migrated: what was changed about the target's columns, in words.
    """

    rows: dict[str, int]
    statements: tuple[str, ...]
    manifest: str | None
    repeated: bool = False
    migrated: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """The batches of a load that have the same columns.

    Attributes:
        target: the statements for them.
        batches: the batches.
        copy_from: the address of their COPY manifest, None when they have no files.
    """

    target: Target
    batches: tuple[Manifest, ...]
    copy_from: str | None

    @property
    def keys_differ(self) -> bool:
        """Whether no key can stand in the batches twice.

        In one batch none does: either the source keeps the key unique, or the split has seen to it. Of several, none
        does when they were read in one snapshot, where each row lies in one partition, and the source keeps the key
        unique. A key column that is carried in another way than its type says may have become equal where the source's
        was not.
        """
        key = set(self.target.spec.key)
        if any(column.name in key and column.as_ is not None for column in self.target.columns):
            return False
        snapshots = {batch.snapshot for batch in self.batches}
        is_one_read = None not in snapshots and len(snapshots) == 1
        return len(self.batches) == 1 or (is_one_read and all(batch.source_unique for batch in self.batches))


def load(
    warehouse: Warehouse,
    store: ObjectStore,
    spec: TableSpec,
    staged: Sequence[Manifest],
    report: Callable[[str], None] = lambda _: None,
    *,
    states: Mapping[str, str | None] | None = None,
) -> Loaded:
    """Load the staged batches of some partitions of one table.

    Args:
        warehouse: the warehouse.
        store: the lake's bucket.
        spec: the table's YAML.
        staged: the batches; at least one.
        report: told in words when an attempt is repeated.
        states: for each partition, the state of the lake that its batch belongs to, for the ledger.

    Raises:
        PermanentError: COPY brought other rows than the manifests promise, or Redshift refused a row. Nothing was
            changed.
        SpecError: the target cannot take the batches' columns. Nothing was changed.
        TransientError: the warehouse could not be reached, or others were in the way, three times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(warehouse, store, spec, staged, states or {}, asked=attempt > 1)
        except ConflictError:
            raise  # the batches themselves are out of date: only who read them can read them again
        except TransientError as error:
            if attempt == ATTEMPTS:
                raise
            report(f"{error} Attempt {attempt + 1} of {ATTEMPTS}; the ledger is asked first.")
    raise AssertionError("unreachable")


def _write_load_manifest(store: ObjectStore, spec: TableSpec, staged: Sequence[Manifest]) -> str | None:
    """One COPY manifest over all the batches' files, under a key that the batches determine."""
    entries = [
        {"url": store.url(file.key), "mandatory": True, "meta": {"content_length": file.size}}
        for manifest in staged
        for file in manifest.files
    ]
    if not entries:
        return None
    ids = "/".join(f"{manifest.partition}:{manifest.batch}" for manifest in staged)
    key = TableKeys.of(spec).manifest("warehouse", hashlib.sha256(ids.encode()).hexdigest()[:16])
    store.put(key, json.dumps({"entries": entries}).encode())
    return store.url(key)


def _grouped(store: ObjectStore, spec: TableSpec, staged: Sequence[Manifest], first: int = 0) -> list[_Group]:
    """The batches by their columns, those with the most columns first; their temporary tables count from `first`."""
    kinds: dict[tuple[tuple[str, str, str], ...], list[Manifest]] = {}
    for manifest in staged:
        kinds.setdefault(layout(manifest.columns), []).append(manifest)
    ordered = sorted(kinds.values(), key=lambda batches: -len(batches[0].columns))
    return [
        _Group(Target(spec, batches[0].columns, number), tuple(batches), _write_load_manifest(store, spec, batches))
        for number, batches in enumerate(ordered, first)
    ]


def _attempt(
    warehouse: Warehouse,
    store: ObjectStore,
    spec: TableSpec,
    staged: Sequence[Manifest],
    states: Mapping[str, str | None],
    *,
    asked: bool,
) -> Loaded:
    groups = _grouped(store, spec, staged)
    target = groups[0].target
    with warehouse.connect() as session:
        _refuse_files(session, target)
        for statement in target.setup():
            try:
                session.execute(statement)
            except CollisionError:
                session.execute(statement)  # now it exists
        prepare_ledger(session)
        migrated = prepare_target(session, target, [(m.shape, m.columns) for m in staged])
        with session.transaction():
            session.execute(target.lock())
            if asked and _already(session, spec, staged):
                rows = _count(session, target, staged)
                return Loaded(rows, tuple(session.statements), _copied_from(groups), repeated=True, migrated=migrated)
            _check_current(store, spec, staged)
            eclipsed = _eclipsed(session, spec, staged)
            if eclipsed:
                session.execute(*target.keep_keys(_windows(spec, staged)))
            plain = _take(session, groups, warehouse.iam_role)
            if eclipsed and session.execute(target.count_lost_keys()) != [(0,)]:
                back = _staged_before(store, target, eclipsed)
                brought = _grouped(store, spec, back, len(groups))
                if brought:
                    _take(session, brought, warehouse.iam_role)
                    plain = None
                groups, staged = [*groups, *brought], [*staged, *back]
                states = {**{key: entry.lake for key, entry in eclipsed.items()}, **states}
            rows = plain if plain is not None else _count(session, target, staged)
            for group in groups:
                _record(session, spec, group, rows, states)
        return Loaded(rows, tuple(session.statements), _copied_from(groups), migrated=migrated)


def _refuse_files(session: Session, target: Target) -> None:
    """Refuse a table that files are loaded into: each would undo what the other does."""
    if not session.execute(present_columns(), tuple(FILE_LEDGER.split("."))):
        return
    [(files,)] = session.execute(FILES_OF, (target.place,))
    if files:
        raise SpecError(
            f"The warehouse table {target.place} is loaded from files ({files:,} so far). Nothing was changed.",
            "Give the pipeline another 'warehouse.table' or 'warehouse.schema'. If no more files come for that table, "
            "drop it and delete its rows of rds_lake.file_ledger.",
        )


def _copied_from(groups: Sequence[_Group]) -> str | None:
    return ", ".join(group.copy_from for group in groups if group.copy_from) or None


def _take(session: Session, groups: Sequence[_Group], iam_role: str) -> dict[str, int] | None:
    """COPY some batches, and put their rows in the place of what the target holds of their partitions.

    Returns:
        The target's rows in each partition, if that is plain without counting them there.
    """
    _vacate(session, groups)
    if len(groups) == 1 and _is_direct(session, groups[0]):
        return _copy(session, groups[0], iam_role, direct=True)
    copied: dict[str, int] = {}
    for group in groups:
        session.execute(group.target.create_incoming())
        copied = _copy(session, group, iam_role)
    inserted = [_insert(session, group) for group in groups]
    return copied if inserted == [True] else None


def _vacate(session: Session, groups: Sequence[_Group]) -> None:
    """Remove what the target holds of the partitions."""
    target = groups[0].target
    if target.spec.partitioning is None:
        session.execute(target.delete_all())
    elif _has_rows(session, target):
        for window in _windows(target.spec, [manifest for group in groups for manifest in group.batches]):
            session.execute(*target.delete_window(window))


def _is_direct(session: Session, group: _Group) -> bool:
    """Whether COPY can write into the target itself.

    It goes by position, so the target must have just the files' columns in their order; and nothing may be left to
    compare: neither rows of the target nor, among the incoming, two versions of a key.
    """
    if not group.keys_differ or _has_rows(session, group.target):
        return False
    held = [(column.name, column.kind) for column in read_held(session, group.target)]
    return held == [(column.name.lower(), column.mapped.redshift) for column in group.target.columns]


def _copy(session: Session, group: _Group, iam_role: str, *, direct: bool = False) -> dict[str, int]:
    """COPY a group's files, and hold what came against the manifests; the rows by partition."""
    target = group.target
    if group.copy_from:
        session.execute(target.copy(group.copy_from, iam_role, direct=direct))
    counts = {manifest.partition: 0 for manifest in group.batches}
    for start, rows in session.execute(target.count_copied(direct=direct)):
        key = WHOLE_TABLE if target.spec.partitioning is None else key_of_start(target.spec, start)
        counts[key] = counts.get(key, 0) + rows
    copied, promised = sum(counts.values()), sum(manifest.rows for manifest in group.batches)
    if copied != promised:
        raise PermanentError(
            f"{target.spec.table}: COPY brought {copied} rows, the staging manifests promise {promised}.",
            "Nothing was changed. Materialise the staging partitions again, then the warehouse.",
        )
    return {manifest.partition: counts[manifest.partition] for manifest in group.batches}


def _insert(session: Session, group: _Group) -> bool:
    """Insert a group's newest versions, in the place of older ones; whether those are all of its rows."""
    spec = group.target.spec
    is_compared = spec.partitioning is not None and bool(spec.key)
    is_whole = not is_compared or (not _give_way(session, group.target) and group.keys_differ)
    session.execute(group.target.insert() if is_whole else group.target.insert_newest())
    return is_whole


def _already(session: Session, spec: TableSpec, staged: Sequence[Manifest]) -> bool:
    entries = ledger.read(session, spec.table)
    return all(
        (entry := entries.get(manifest.partition)) is not None and entry.batch == manifest.batch for manifest in staged
    )


def _check_current(store: ObjectStore, spec: TableSpec, staged: Sequence[Manifest]) -> None:
    """Under the lock: nobody may have staged newer batches since these were read, or they would be overwritten."""
    present = Manifests(store, TableKeys.of(spec)).read_all("staging", [manifest.partition for manifest in staged])
    for manifest in staged:
        if manifest.partition in present and present[manifest.partition].manifest.batch != manifest.batch:
            raise ConflictError(
                f"{spec.table}: another run staged a newer batch of the partition {manifest.partition}.",
                "Nothing was changed; the load is tried again with it.",
            )


def _eclipsed(session: Session, spec: TableSpec, staged: Sequence[Manifest]) -> dict[str, ledger.Entry]:
    """Loaded partitions, other than those to load, with rows that the target does not hold: it held newer ones.

    When a load takes a newest version away, an older one that gave way to it has to come back: of a key whose cursor
    is moved back, of which the earlier partition was loaded first, or of one that the source holds more than once.
    """
    if spec.partitioning is None or not spec.key:
        return {}
    loading = {manifest.partition for manifest in staged}
    return {
        key: entry
        for key, entry in ledger.read(session, spec.table).items()
        if entry.loaded < entry.staged and key not in loading
    }


def _staged_before(store: ObjectStore, target: Target, eclipsed: Mapping[str, ledger.Entry]) -> list[Manifest]:
    """The batches that those partitions were loaded from, where they are still the current ones.

    A batch of a time when the key was no text, or was one, is left out: nothing compares the two, and as it lies under
    another shape, it is landed again.
    """
    present = Manifests(store, TableKeys.of(target.spec)).read_all("staging", sorted(eclipsed))
    batches = [item.manifest for key, item in present.items() if item.manifest.batch == eclipsed[key].batch]
    return [batch for batch in batches if Target(target.spec, batch.columns).text_keys == target.text_keys]


def _windows(spec: TableSpec, staged: Sequence[Manifest]) -> list[Window]:
    _, partitioning = cut(spec)
    return merge_windows([partitioning.window(manifest.partition) for manifest in staged])


def _has_rows(session: Session, target: Target) -> bool:
    return session.execute(target.any_row()) != [(0,)]


def _give_way(session: Session, target: Target) -> bool:
    """Remove the older versions of the incoming keys; whether the target holds newer ones."""
    if not _has_rows(session, target):
        return False
    is_newer, is_older = False, False
    for start, older, newer in session.execute(target.count_held()):
        is_newer = is_newer or newer > 0
        if older:
            is_older = True
            forgotten = (int(older), int(older), target.spec.table, key_of_start(target.spec, start))
            session.execute(FORGET_ROWS, forgotten)
    if is_older:
        session.execute(target.delete_older())
    return is_newer


def _count(session: Session, target: Target, staged: Sequence[Manifest]) -> dict[str, int]:
    return ledger.count_target(session, target, [manifest.partition for manifest in staged])


def _record(
    session: Session, spec: TableSpec, group: _Group, rows: Mapping[str, int], states: Mapping[str, str | None]
) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    for start in range(0, len(group.batches), ledger.ROWS_AT_ONCE):
        some = group.batches[start : start + ledger.ROWS_AT_ONCE]
        session.execute(forget(len(some)), (spec.table, *(m.partition for m in some)))
        values = [
            (
                *(spec.table, m.partition, m.batch, m.fingerprint, m.rules, group.copy_from or ""),
                *(m.rows, rows[m.partition], now, m.shape, group.target.place, states.get(m.partition)),
            )
            for m in some
        ]
        session.execute(remember(len(values)), tuple(value for row in values for value in row))
