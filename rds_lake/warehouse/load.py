"""The load: staged batches into the warehouse, in one transaction with the ledger rows that record them.

Any number of partitions goes in one transaction. Under the target's lock: COPY into a temporary table, remove the rows
of the partitions' windows and the older versions of the incoming keys, insert the newest version of each key, write
the ledger. When the connection breaks on the way, the ledger tells whether it happened.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ConflictError, ObjectStore
from rds_lake.spec import TableSpec
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import CollisionError, Session, Warehouse
from rds_lake.warehouse.statements import FORGET_ROWS, READ_ECLIPSED, Target, forget, merge_windows, remember

LEDGER_ROWS = 1000
"""Ledger rows of one statement: Redshift takes at most 16 MB of text."""

ATTEMPTS = 3
"""How often a load is tried when the connection breaks or another transaction is in the way."""


@dataclass(frozen=True)
class Loaded:
    """What a load did.

    Attributes:
        rows: for each partition, the target's rows in its window after the load.
        statements: the SQL that ran, for the record.
        manifest: the address of the load's manifest, None when there was nothing to copy.
        repeated: True when an earlier attempt turned out to have committed.
    """

    rows: dict[str, int]
    statements: tuple[str, ...]
    manifest: str | None
    repeated: bool = False


def load(
    warehouse: Warehouse,
    store: ObjectStore,
    spec: TableSpec,
    staged: Sequence[Manifest],
    report: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Load the staged batches of some partitions of one table.

    Args:
        warehouse: the warehouse.
        store: the lake's bucket.
        spec: the table's YAML.
        staged: the batches; at least one.
        report: told in words when an attempt is repeated.

    Raises:
        PermanentError: COPY brought other rows than the manifests promise, or Redshift refused a row. Nothing was
            changed.
        TransientError: the warehouse could not be reached, or others were in the way, three times.
    """
    columns = {manifest.columns for manifest in staged}
    if len(columns) > 1:
        raise SpecError(
            f"{spec.table}: the staged partitions {staged[0].partition} to {staged[-1].partition} differ in columns.",
            "Materialise the older ones again from landing on, so that all have the source's present columns.",
        )
    target = Target(spec, columns.pop())
    copy_from = _write_load_manifest(store, spec, staged)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(warehouse, store, target, staged, copy_from, asked=attempt > 1)
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


def _attempt(
    warehouse: Warehouse,
    store: ObjectStore,
    target: Target,
    staged: Sequence[Manifest],
    copy_from: str | None,
    *,
    asked: bool,
) -> Loaded:
    with warehouse.connect() as session:
        for statement in [*target.setup(), target.create_incoming()]:
            try:
                session.execute(statement)
            except CollisionError:
                session.execute(statement)  # now it exists
        _check_target(session, target)
        with session.transaction():
            session.execute(target.lock())
            if asked and _already(session, target.spec, staged):
                return Loaded(_count(session, target, staged), tuple(session.statements), copy_from, repeated=True)
            _check_current(store, target.spec, staged)
            if eclipsed := _eclipsed(session, store, target, staged):
                staged = [*staged, *eclipsed]
                copy_from = _write_load_manifest(store, target.spec, staged)
            if copy_from:
                session.execute(target.copy(copy_from, warehouse.iam_role))
            _check_copied(session, target, staged)
            _exchange(session, target, staged)
            rows = _count(session, target, staged)
            _record(session, target.spec, staged, rows, copy_from)
        return Loaded(rows, tuple(session.statements), copy_from)


def _check_target(session: Session, target: Target) -> None:
    present = [name for (name,) in session.execute(*target.present_columns())]
    wanted = [column.name.lower() for column in target.columns]
    if present != wanted:
        raise SpecError(
            f"The warehouse table {target.name} has the columns {', '.join(present)}; staged are {', '.join(wanted)}.",
            "Alter or rename the warehouse table so that columns and order agree, then materialise it again.",
        )


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


def _eclipsed(session: Session, store: ObjectStore, target: Target, staged: Sequence[Manifest]) -> list[Manifest]:
    """Loaded batches of other partitions with rows that the target does not hold, because it held newer ones.

    A key whose cursor is moved back leaves one partition for an earlier one. When the earlier one is loaded first, its
    row gives way to the newer one in the partition that the key has left; the load that takes that one away has to
    bring the row back. Only where the source keeps the key unique: elsewhere rows give way for good.
    """
    if target.spec.partitioning is None or not all(manifest.source_unique for manifest in staged):
        return []
    loading = {manifest.partition for manifest in staged}
    found = {
        partition: batch
        for partition, batch in session.execute(READ_ECLIPSED, (target.spec.table,))
        if partition not in loading
    }
    present = Manifests(store, TableKeys.of(target.spec)).read_all("staging", sorted(found))
    batches = [present[partition].manifest for partition in found if partition in present]
    return [m for m in batches if m.batch == found[m.partition] and m.columns == target.columns]


def _check_copied(session: Session, target: Target, staged: Sequence[Manifest]) -> None:
    [(copied,)] = session.execute(target.count_incoming())
    promised = sum(manifest.rows for manifest in staged)
    if copied != promised:
        raise PermanentError(
            f"{target.spec.table}: COPY brought {copied} rows, the staging manifests promise {promised}.",
            "Nothing was changed. Materialise the staging partitions again, then the warehouse.",
        )


def _exchange(session: Session, target: Target, staged: Sequence[Manifest]) -> None:
    partitioning = target.spec.partitioning
    if partitioning is None:
        session.execute(target.delete_all())
    else:
        for window in merge_windows([partitioning.window(manifest.partition) for manifest in staged]):
            session.execute(target.delete_window(), tuple(window))
        if target.spec.key:
            for start, rows in session.execute(target.count_older()):
                session.execute(FORGET_ROWS, (rows, rows, target.spec.table, partitioning.key(start)))
            session.execute(target.delete_older())
    session.execute(target.insert())


def _count(session: Session, target: Target, staged: Sequence[Manifest]) -> dict[str, int]:
    return ledger.count_target(session, target, [manifest.partition for manifest in staged])


def _record(
    session: Session, spec: TableSpec, staged: Sequence[Manifest], rows: dict[str, int], copy_from: str | None
) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    for start in range(0, len(staged), LEDGER_ROWS):
        some = staged[start : start + LEDGER_ROWS]
        session.execute(forget(len(some)), (spec.table, *(m.partition for m in some)))
        values = [
            (spec.table, m.partition, m.batch, m.fingerprint, m.rules, copy_from or "", m.rows, rows[m.partition], now)
            for m in some
        ]
        session.execute(remember(len(values)), tuple(value for row in values for value in row))
