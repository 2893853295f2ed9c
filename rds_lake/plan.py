"""What is out of step, and with what: the source's fingerprints against the ledger and the lake. No Dagster here.

`observe` asks the source, `examine` asks lake and warehouse, `decide` compares: a pure function. Its answer does not
lean on Dagster's own records, so it is right even when those are lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa

from rds_lake.cursors import holds_nulls, wall_clock
from rds_lake.errors import SpecError
from rds_lake.extract.contract import Shape, same_columns
from rds_lake.extract.fence import Fence
from rds_lake.extract.fingerprint import EMPTY
from rds_lake.extract.indexes import missing_index
from rds_lake.extract.snapshot import Snapshot, open_snapshot
from rds_lake.extract.source import Source, SourceTable
from rds_lake.lake.agreement import present_shape
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.layout import check_layout, check_partitions
from rds_lake.lake.manifest import LOADED_FROM, Manifest, Manifests, lake_state
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.quality.rules import Lookup, compile_rules
from rds_lake.quality.split import needed_lookups
from rds_lake.side_by_side import side_by_side
from rds_lake.spec import LAKE_STAGES, TableSpec
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Warehouse
from rds_lake.warehouse.statements import Target

Kind = Literal["full", "recent", "bounded"]
"""How much an observation looks at: everything, what may have changed lately, or what a person asked for."""

LATEST = "9999-12-31T00:00:00+00:00"
"""A fence that is later than any."""


@dataclass(frozen=True)
class Observation:
    """The source as it is now.

    Attributes:
        table: the table as the source describes it.
        fence: the fence that it was read under.
        fingerprints: for each partition that has rows (or had, the last time it was landed), its fingerprint.
        before_start: rows older than the first partition, which no partition holds.
        without_cursor: rows whose cursor is NULL and which the YAML leaves out (`cursor.nulls: exclude`).
        in_future: rows more than a day above the fence, which wait until it has passed them.
        kind: how much of the table it looked at.
        window: the span of the cursor that it looked at, cut off at the fence; None for a table without a cursor.
        warnings: what makes it costly, with the remedy.
    """

    table: SourceTable
    fence: Fence
    fingerprints: Mapping[str, str]
    before_start: int = 0
    without_cursor: int = 0
    in_future: int = 0
    kind: Kind = "full"
    window: Window | None = None
    warnings: tuple[str, ...] = ()

    @property
    def outside(self) -> int:
        """Rows that no partition holds."""
        return self.before_start + self.without_cursor


def observe(
    source: Source,
    store: ObjectStore,
    spec: TableSpec,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    recent: bool = False,
) -> Observation:
    """Read the fingerprints of a table.

    Args:
        source: the MySQL source.
        store: the lake's bucket; landed partitions whose rows have all been deleted at the source are found there.
        spec: the table's YAML.
        since: observe partitions from the one that holds this moment on (default: all).
        until: observe partitions that begin before this moment (default: all).
        recent: observe the newest landed partition, what has come since, and `cursor.lookback_days` before it, and the
            first partition if it takes the rows without a cursor value. No other is read or reported.

    Raises:
        RdsLakeError: the source or the bucket cannot be read, or a column that the YAML names is missing.
    """
    partitioning = spec.partitioning
    landed = Manifests(store, TableKeys.of(spec)).partitions("landing")
    check_layout(store, spec, landed)
    with open_snapshot(source, spec) as snapshot:
        if partitioning is None:
            return Observation(snapshot.table, snapshot.fence, {WHOLE_TABLE: snapshot.fingerprint()})
        whole = snapshot.below_fence()
        if recent:
            since = recent_since(spec, max(landed, default=None), whole.upper)
        # Cut at the fence before they are counted: an end in the year 9999 has no next partition.
        keys = list(partitioning.keys(since or whole.lower, min(until or whole.upper, whole.upper)))
        window = partitioning.span(keys[0], keys[-1]) if keys else Window(whole.lower, whole.lower)
        found = snapshot.fingerprints(window)
        first = partitioning.key(partitioning.start)
        if recent and first not in keys and holds_nulls(spec, partitioning.window(first)):
            keys.append(first)  # rows without a cursor value may be as new as any
            found |= snapshot.fingerprints(partitioning.window(first))
        known = set(landed)
        if landed or found:
            known |= _home_of_nulls(spec, snapshot.table, first)
        before, without = snapshot.rows_outside()
        future = snapshot.rows_in_future()
        warning = missing_index(spec, snapshot.indexes())
    observed = {**found, **{key: EMPTY for key in known & set(keys) if key not in found}}
    behind = _behind(store, spec, snapshot, observed)
    return Observation(
        table=snapshot.table,
        fence=snapshot.fence,
        fingerprints={key: value for key, value in observed.items() if key not in behind},
        before_start=before,
        without_cursor=without,
        in_future=future,
        kind="recent" if recent else "bounded" if since or until else "full",
        window=snapshot.below_fence(window),
        warnings=(warning,) if warning else (),
    )


def _home_of_nulls(spec: TableSpec, table: SourceTable, first: str) -> set[str]:
    """The first partition of a table whose cursor may be NULL; none of any other.

    It is always reported, even if it never had a row. Was `partitions.start` moved to an earlier date, rows without a
    cursor value lie in the warehouse that came there with another partition, and only the first one takes them away.
    """
    columns = {column.name: column for column in table.columns}
    return {first} if spec.cursor and columns[spec.cursor.column].nullable else set()


def recent_since(spec: TableSpec, newest: str | None, fence: datetime) -> datetime:
    """From when on a recent observation looks.

    Not from the fence alone: after a pause it begins where the last landing ended, so that it leaves no gap.

    Args:
        spec: the YAML of a table with a cursor.
        newest: the key of the newest landed partition, None when nothing was landed yet.
        fence: the fence, in the cursor's zone.
    """
    if spec.cursor is None or spec.partitioning is None:
        raise ValueError(f"{spec.table} has no cursor")
    first = spec.partitioning.start
    start = fence if newest is None else min(fence, spec.partitioning.window(newest).lower)
    days = min(spec.cursor.lookback_days, (start - first).days + 1)  # no more than there are: the calendar has a start
    return max(first, start - timedelta(days=days))


def _behind(store: ObjectStore, spec: TableSpec, snapshot: Snapshot, partitions: Iterable[str]) -> set[str]:
    """The partitions that were landed under a later fence than this one; they wait until it has passed."""
    last = spec.partitioning.key(snapshot.below_fence().upper) if spec.partitioning else ""  # keys sort by time
    cut = [key for key in partitions if key >= last and snapshot.is_behind(key, LATEST)]
    landed = Manifests(store, TableKeys.of(spec)).read_all("landing", cut)
    return {key for key, item in landed.items() if snapshot.is_behind(key, item.manifest.fence)}


@dataclass(frozen=True)
class Standing:
    """What lake and warehouse hold of a table.

    Attributes:
        loaded: the ledger's entries by partition.
        complete: the partitions that have a manifest in every stage.
        unarchived: the partitions whose current landed files are still in `landing`.
        rules: digest of the rules as they are now.
        reshaped: the loaded partitions that were landed in other columns than they would be now.
        moved_on: the loaded partitions of which the lake does not hold what was loaded: a run ended between the two.
        schema: how the source's columns differ from the agreed ones, in words.
    """

    loaded: Mapping[str, ledger.Entry]
    complete: frozenset[str]
    unarchived: frozenset[str]
    rules: str
    reshaped: frozenset[str] = frozenset()
    moved_on: frozenset[str] = frozenset()
    schema: tuple[str, ...] = ()


def examine(source: Source, store: ObjectStore, warehouse: Warehouse, spec: TableSpec, table: SourceTable) -> Standing:
    """Ask lake and warehouse what they hold of a table: one query, one listing per stage, the agreed schema.

    Raises:
        SpecError: the table's contract refuses the source's present columns, or a rule cannot be used.
    """
    shape, is_agreed = present_shape(store, spec, table)
    keys = TableKeys.of(spec)
    manifests = Manifests(store, keys)
    etags = dict(zip(LAKE_STAGES, side_by_side(manifests.partitions, LAKE_STAGES), strict=True))
    complete = frozenset(set.intersection(*map(set, etags.values())))
    with warehouse.connect() as session:
        loaded = ledger.held(session, Target(spec, shape.columns))
    check_partitions(spec, loaded, "the warehouse's ledger")
    return Standing(
        loaded=loaded,
        complete=complete,
        unarchived=_unarchived(store, keys, manifests),
        rules=rules_digest(source, spec, replace(table, columns=shape.columns)),
        reshaped=_reshaped(manifests, loaded, shape, is_agreed=is_agreed),
        moved_on=frozenset(
            key
            for key in complete & loaded.keys()
            if loaded[key].lake not in {None, lake_state(etags[stage][key] for stage in LOADED_FROM)}
        ),
        schema=(*shape.changes, *shape.ignored),
    )


def _reshaped(
    manifests: Manifests, loaded: Mapping[str, ledger.Entry], shape: Shape, *, is_agreed: bool
) -> frozenset[str]:
    """The loaded partitions that lie under another shape; those of earlier versions are told by their columns.

    A change that leaves every batch right (a longer text, a dropped column) has the newest partition landed again,
    which writes it down and takes it to the warehouse.
    """
    unknown = [key for key, entry in loaded.items() if entry.shape is None]
    landed = manifests.read_all("landing", unknown)
    same = {key for key, item in landed.items() if same_columns(item.manifest.columns, shape.columns)}
    same |= {key for key, entry in loaded.items() if is_agreed and entry.shape == shape.digest}
    if shape.changes and loaded:
        same.discard(max(loaded))
    return frozenset(loaded.keys() - same)


def rules_digest(source: Source, spec: TableSpec, table: SourceTable) -> str:
    """What identifies a table's rules now, with the present values of the lookups that they read."""
    columns = tuple(column.name for column in table.columns)
    rules = compile_rules(spec, columns, source_unique=table.is_unique(spec.key), carried=table.columns)
    return rules.digest(lookup_values(source, spec))


def lookup_values(source: Source, spec: TableSpec) -> dict[Lookup, pa.Table]:
    """The present values of every lookup that a table's rules name.

    Raises:
        SpecError: a lookup is not there, or is empty.
    """
    values = {}
    for table, column in needed_lookups(spec):
        try:
            values[table, column] = source.lookup(table, column)
        except SpecError as error:
            raise SpecError(f"{spec.table}: an in_lookup rule cannot be used. {error.problem}", error.remedy) from error
    return values


def _unarchived(store: ObjectStore, keys: TableKeys, manifests: Manifests) -> frozenset[str]:
    """The partitions with files of their current batch in `landing`; orphans of other batches do not count."""
    files = [keys.batch_file(item.key) for item in store.list(keys.stage("landing"))]
    left = {(file.partition, file.batch) for file in files if file}
    current = manifests.read_all("landing", {partition for partition, _ in left})
    return frozenset(key for key, item in current.items() if (key, item.manifest.batch) in left)


@dataclass(frozen=True)
class Plan:
    """What has to be done.

    Attributes:
        land: partitions whose present state never reached the ledger: extract, then everything after it. Rows that
            were landed already are recognised, and their batch is kept.
        resume: partitions that are loaded, but by other rules than now, or not archived: split, then everything after.
    """

    land: tuple[str, ...]
    resume: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether everything is in step."""
        return not self.land and not self.resume


def decide(fingerprints: Mapping[str, str], standing: Standing) -> Plan:
    """Compare the source with lake and warehouse.

    Args:
        fingerprints: the source's fingerprints.
        standing: what lake and warehouse hold.
    """
    land = {
        key
        for key, fingerprint in fingerprints.items()
        if key not in standing.complete
        or (entry := standing.loaded.get(key)) is None
        or entry.fingerprint != fingerprint
        or key in standing.reshaped
        or key in standing.moved_on
    }
    resume = {
        key
        for key in fingerprints.keys() - land
        if key in standing.unarchived or standing.loaded[key].rules != standing.rules
    }
    return Plan(tuple(sorted(land)), tuple(sorted(resume)))


def all_again(spec: TableSpec, seen: Observation, since: datetime | None, until: datetime | None) -> Plan:
    """Land everything that was observed, changed or not; in a window with two ends also what was never landed.

    Args:
        spec: the table's YAML.
        seen: the source as it is now.
        since: the start of the window.
        until: its end.
    """
    asked: set[str] = set()
    if spec.partitioning and spec.cursor and since and until:
        fence = wall_clock(seen.fence.at, spec.cursor.zone)
        asked = set(spec.partitioning.keys(since, min(until, fence)))
    return Plan(tuple(sorted({*seen.fingerprints, *asked})), ())


def land_other_keys(plan: Plan, table: SourceTable, key: tuple[str, ...], landed: Mapping[str, Manifest]) -> Plan:
    """Land again what was landed when another key was unique at the source: no split could catch up with it.

    Args:
        plan: the plan so far.
        table: the table as the source describes it now.
        key: the table's declared key.
        landed: the landed batches of the partitions that the plan resumes.
    """
    unique = table.is_unique(key)
    same = {partition for partition, manifest in landed.items() if manifest.source_unique == unique}
    other = set(plan.resume) - same
    return Plan(tuple(sorted({*plan.land, *other})), tuple(sorted(same & set(plan.resume))))
