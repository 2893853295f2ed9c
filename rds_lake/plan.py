"""What is out of step, and with what: the source's fingerprints against the ledger and the lake. No Dagster here.

`observe` asks the source, `examine` asks lake and warehouse, `decide` compares: a pure function. Its answer does not
lean on Dagster's own records, so it is right even when those are lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rds_lake.errors import SpecError
from rds_lake.extract.fence import Fence
from rds_lake.extract.fingerprint import EMPTY
from rds_lake.extract.snapshot import Snapshot, open_snapshot
from rds_lake.extract.source import Source, SourceTable
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.quality.rules import Lookup, compile_rules
from rds_lake.quality.split import needed_lookups
from rds_lake.spec import LAKE_STAGES, TableSpec
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Warehouse

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
        without_cursor: rows whose cursor is NULL, which no partition holds.
    """

    table: SourceTable
    fence: Fence
    fingerprints: Mapping[str, str]
    before_start: int = 0
    without_cursor: int = 0

    @property
    def outside(self) -> int:
        """Rows that no partition holds."""
        return self.before_start + self.without_cursor


def observe(
    source: Source, store: ObjectStore, spec: TableSpec, since: datetime | None = None, until: datetime | None = None
) -> Observation:
    """Read the fingerprints of a table.

    Args:
        source: the MySQL source.
        store: the lake's bucket; landed partitions whose rows have all been deleted at the source are found there.
        spec: the table's YAML.
        since: observe partitions from the one that holds this moment on (default: all).
        until: observe partitions that begin before this moment (default: all).

    Raises:
        RdsLakeError: the source or the bucket cannot be read, or a column that the YAML names is missing.
    """
    partitioning = spec.partitioning
    with open_snapshot(source, spec) as snapshot:
        if partitioning is None:
            return Observation(snapshot.table, snapshot.fence, {WHOLE_TABLE: snapshot.fingerprint()})
        whole = snapshot.below_fence()
        keys = list(partitioning.keys(since or whole.lower, until or whole.upper))
        window = partitioning.span(keys[0], keys[-1]) if keys else Window(whole.lower, whole.lower)
        found = snapshot.fingerprints(window)
        before, without = snapshot.rows_outside()
    landed = Manifests(store, TableKeys.of(spec)).partitions("landing")
    observed = {**found, **{key: EMPTY for key in landed if key not in found and key in set(keys)}}
    behind = _behind(store, spec, snapshot, observed)
    kept = {key: value for key, value in observed.items() if key not in behind}
    return Observation(snapshot.table, snapshot.fence, kept, before, without)


def _behind(store: ObjectStore, spec: TableSpec, snapshot: Snapshot, partitions: Iterable[str]) -> set[str]:
    """The partitions that were landed under a later fence than this one; they wait until it has passed."""
    cut = [key for key in partitions if snapshot.is_behind(key, LATEST)]
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
    """

    loaded: Mapping[str, ledger.Entry]
    complete: frozenset[str]
    unarchived: frozenset[str]
    rules: str


def examine(source: Source, store: ObjectStore, warehouse: Warehouse, spec: TableSpec, table: SourceTable) -> Standing:
    """Ask lake and warehouse what they hold of a table: one query, one listing per stage."""
    keys = TableKeys.of(spec)
    manifests = Manifests(store, keys)
    stages: list[set[str]] = [set(manifests.partitions(stage)) for stage in LAKE_STAGES]
    with warehouse.connect() as session:
        loaded = ledger.read(session, spec.table)
    return Standing(
        loaded=loaded,
        complete=frozenset(set.intersection(*stages)),
        unarchived=_unarchived(store, keys, manifests),
        rules=rules_digest(source, spec, table),
    )


def rules_digest(source: Source, spec: TableSpec, table: SourceTable) -> str:
    """What identifies a table's rules now, with the present values of the lookups that they read."""
    columns = tuple(column.name for column in table.columns)
    rules = compile_rules(spec, columns, source_unique=table.is_unique(spec.key))
    return rules.digest(lookup_values(source, spec))


def lookup_values(source: Source, spec: TableSpec) -> dict[Lookup, tuple[str, ...]]:
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
    left = {batch_of(item.key) for item in store.list(keys.stage("landing"))}
    current = manifests.read_all("landing", {partition for partition, _ in left})
    return frozenset(key for key, item in current.items() if (key, item.manifest.batch) in left)


def batch_of(key: str) -> tuple[str, str]:
    """The partition and the batch id that a file's key names."""
    *_, folder, batch, _ = key.split("/")
    return (folder.partition("=")[2] or WHOLE_TABLE), batch.partition("=")[2]


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
    }
    resume = {
        key
        for key in fingerprints.keys() - land
        if key in standing.unarchived or standing.loaded[key].rules != standing.rules
    }
    return Plan(tuple(sorted(land)), tuple(sorted(resume)))


def land_reshaped(plan: Plan, table: SourceTable, key: tuple[str, ...], landed: Mapping[str, Manifest]) -> Plan:
    """Land again what was landed from a table of other columns or another unique key: no split could catch up with it.

    Args:
        plan: the plan so far.
        table: the table as the source describes it now.
        key: the table's declared key.
        landed: the landed batches of the partitions that the plan resumes.
    """
    same = {
        partition
        for partition, manifest in landed.items()
        if manifest.columns == table.columns and manifest.source_unique == table.is_unique(key)
    }
    other = set(plan.resume) - same
    return Plan(tuple(sorted({*plan.land, *other})), tuple(sorted(same & set(plan.resume))))
