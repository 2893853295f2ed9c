"""One look at one table: what each side holds of each partition, gathered and judged, and the rows that differ.

The hard part is a table whose columns have changed: the source is compared over fewer columns than lake and warehouse
are. The judge sees one set of sums all the same: what the source's sum lacks is taken from landing's own two sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from threading import Lock

import duckdb

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.contract import Reading, Shape
from rds_lake.extract.fingerprint import EMPTY
from rds_lake.extract.snapshot import Snapshot
from rds_lake.extract.source import Source
from rds_lake.lake.agreement import present_shape, read_agreed
from rds_lake.lake.catalog import BatchPlace, Catalog, place_of
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.plan import rules_digest
from rds_lake.side_by_side import side_by_side
from rds_lake.spec import LAKE_STAGES, Stage, TableSpec
from rds_lake.verify import cut
from rds_lake.verify.canonical import is_summed
from rds_lake.verify.checksums import NOTHING, Sum
from rds_lake.verify.comparable import Comparison, comparison, is_reshaped
from rds_lake.verify.judge import NO_TABLE, Evidence, Opinion, Status, opinion, unequal
from rds_lake.verify.rows import KEYS_SHOWN, NONE, Checks, Differences, Place, RowComparison, Side, key_text
from rds_lake.verify.scope import Scope
from rds_lake.verify.sides import DamagedError, LakeSide, SourceSide, WarehouseSide
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.statements import Target
from rds_lake.wording import counted

Report = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _LakeSums:
    """What the lake holds of one partition.

    Attributes:
        sums: rows and checksums by stage; a damaged batch has none.
        damage: what is wrong with files, by stage.
        beside: what landing's checksum has that the source's cannot have: columns that the source has not.
    """

    sums: Mapping[Side, Sum]
    damage: Mapping[Stage, str]
    beside: Sum = NOTHING


@dataclass(frozen=True)
class Verdict:
    """The verdict on one partition.

    Attributes:
        partition: its key.
        status: the outcome.
        rows: rows by side, as counted.
        faults: what differs, in words.
        behind: why the next sync takes it up.
        rows_compared: whether its rows were compared one by one.
        differences: the rows that differ.
    """

    partition: str
    status: Status
    rows: Mapping[Side, int]
    faults: tuple[str, ...] = ()
    behind: str | None = None
    rows_compared: bool = False
    differences: Differences = NONE


@dataclass(frozen=True)
class Findings:
    """What one look found.

    Attributes:
        verdicts: the verdicts by partition.
        faults: what is wrong with the table as a whole.
        notes: what was not covered, and why.
        refused: whether the next sync will refuse the table.
    """

    verdicts: Mapping[str, Verdict]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    refused: bool


class Look:
    """One look at one table.

    Args:
        spec: the table's YAML.
        scope: the partitions that are looked at.
        source: the MySQL source.
        snapshot: the source's snapshot.
        store: the lake's bucket.
        catalog: the lake's catalog.
        session: the warehouse.
        engine: DuckDB.
        entries: the ledger's rows, as they were before the snapshot was opened.
        report: told in words what is going on.
        progress: told of table, partitions counted, and partitions to be counted.
    """

    def __init__(
        self,
        spec: TableSpec,
        scope: Scope,
        source: Source,
        snapshot: Snapshot,
        store: ObjectStore,
        catalog: Catalog,
        session: Session,
        engine: duckdb.DuckDBPyConnection,
        entries: Mapping[str, ledger.Entry],
        report: Report,
        progress: Progress,
    ) -> None:
        self._spec = spec
        self._scope = scope
        self._snapshot = snapshot
        self._catalog = catalog
        self._store = store
        self._entries = entries
        self._report = report
        self._progress = progress
        self._counting = Lock()
        self._counted = self._compared = self._to_count = 0
        self._keys = TableKeys.of(spec)
        self._source = SourceSide(snapshot.connection, spec)
        self._lake = LakeSide(store, engine)
        target = Target(spec, snapshot.table.columns)
        self._target = target.name
        self._warehouse = WarehouseSide(session, target)
        self._compare = RowComparison(spec, self._source, self._lake, self._warehouse)
        self._unreadable: dict[str, dict[Stage, str]] = {}
        self._batches = self._read_batches()
        self._shape, self._refused = self._read_shape()
        self._rules = self._read_rules(source)

    def findings(self, *, rows: bool) -> Findings:
        """The verdicts by partition, the table's own faults, and notes."""
        fingerprints = self._fingerprints()
        catalog = {stage: self._places(stage) for stage in LAKE_STAGES}
        groups = self._groups(fingerprints)
        self._to_count = sum(map(len, groups.values()))
        found: dict[str, Verdict] = {}
        outside = 0
        for asked, partitions in groups.items():
            source, held = self._sums(asked)
            outside = held.get(None, NOTHING).rows
            warehouse = {key: value for key, value in held.items() if key is not None}
            wanted = list(partitions)
            if asked is next(reversed(groups)):  # what only the warehouse knows is asked about as the newest are
                wanted += [key for key in warehouse if not any(key in known for known in groups.values())]
            lake = self._lake_sums(asked, wanted)
            for key in filter(self._scope.has, wanted):
                mine = source.get(key, NOTHING) + lake[key].beside
                evidence = Evidence(
                    partition=key,
                    fingerprint=fingerprints.get(key, EMPTY),
                    held_back=self._held_back(key),
                    reshaped=self._is_reshaped(key),
                    rules=self._rules,
                    batches=self._batches.get(key, {}),
                    entry=self._entries.get(key),
                    sums={**lake[key].sums, "source": mine, "warehouse": warehouse.get(key, NOTHING)},
                    damage=lake[key].damage,
                    unreadable=self._unreadable.get(key, {}),
                    catalog=self._catalog_faults(key, catalog),
                    no_table=not self._warehouse.columns,
                )
                found[key] = self._verdict(asked, evidence, rows=rows)
        some = self._warehouse.outside(asked.across, KEYS_SHOWN) if outside else []
        stray = _stray(outside, [key_text(self._spec, asked.across, row[1:]) for row in some])
        before, left_out = self._snapshot.rows_outside() if self._is_whole else (0, 0)
        faults = self._faults(before, stray and f"{stray}: {self._warehouse.delete_outside()}", catalog)
        return Findings(found, faults, self._notes(groups, left_out, rows=rows), self._refused is not None)

    def _read_batches(self) -> dict[str, dict[Stage, Manifest]]:
        manifests = Manifests(self._store, self._keys)
        found: dict[str, dict[Stage, Manifest]] = {}
        for stage in LAKE_STAGES:
            wanted = [key for key in manifests.partitions(stage) if self._scope.has(key)]
            read = side_by_side(partial(_read, manifests, stage), wanted)
            for key, item in zip(wanted, read, strict=True):
                if isinstance(item, Manifest):
                    found.setdefault(key, {})[stage] = item
                elif item is not None:
                    self._unreadable.setdefault(key, {})[stage] = item
        return found

    def _read_shape(self) -> tuple[Shape, str | None]:
        """How the table would be landed now; if it would be refused: the agreed columns, and the refusal."""
        table = self._snapshot.table
        try:
            return present_shape(self._store, self._spec, table)[0], None
        except SpecError as error:
            stored = read_agreed(self._store, self._keys)
            if stored is None:
                raise
            present = {column.name.lower(): column for column in table.columns}
            readings = []
            for item in stored.agreed.columns:
                source = present.get(item.column.name.lower())
                is_same = source is not None and source.mapped == item.column.mapped
                readings.append(Reading(item.column, source if is_same else None))
            return Shape(tuple(readings), stored.agreed), error.problem

    def _read_rules(self, source: Source) -> str | None:
        """The digest of the rules as they are now, None if the next sync will refuse them, or the table."""
        if self._refused is not None:
            return None
        try:
            return rules_digest(source, self._spec, replace(self._snapshot.table, columns=self._shape.columns))
        except SpecError as error:
            self._refused = error.problem
            return None

    def _is_reshaped(self, partition: str) -> bool:
        landed = self._batches.get(partition, {}).get("landing")
        newest = partition == max(self._entries, default=None)
        return is_reshaped(self._shape, landed, self._entries.get(partition), newest=newest)

    def _fingerprints(self) -> dict[str, str]:
        if self._spec.partitioning is None:
            return {WHOLE_TABLE: self._snapshot.fingerprint()}
        found = self._snapshot.fingerprints(self._scope.window)
        return {key: value for key, value in found.items() if self._scope.has(key)}

    def _held_back(self, partition: str) -> bool:
        landed = self._batches.get(partition, {}).get("landing")
        return landed is not None and self._snapshot.is_behind(partition, landed.fence)

    def _groups(self, fingerprints: Mapping[str, str]) -> dict[Comparison, list[str]]:
        """The partitions by the columns that can be compared in them, the group of the newest ones last."""
        groups: dict[Comparison, list[str]] = {}
        loaded = (key for key in self._entries if self._scope.has(key))
        partitions = sorted({*fingerprints, *self._batches, *self._unreadable, *loaded})
        for key in partitions:
            asked = self._comparison(self._batches.get(key, {}))
            groups[asked] = [*groups.pop(asked, []), key]
        return groups or {self._comparison({}): []}

    def _comparison(self, batches: Mapping[Stage, Manifest]) -> Comparison:
        return comparison(self._shape, self._spec.key, batches.values(), self._warehouse.columns)

    def _sums(self, asked: Comparison) -> tuple[dict[str, Sum], dict[str | None, Sum]]:
        null = self._scope.has_first
        return (
            self._source.sums(asked.source, self._below_fence(self._scope.window), with_null=null),
            self._warehouse.sums(asked.across, self._scope.window, with_null=null),
        )

    def _below_fence(self, window: Window | None) -> Window | None:
        """A window of the cursor cut off at the fence; everything from the first partition on by default."""
        if self._spec.partitioning is None:
            return None
        lower, upper = window or Window(self._spec.partitioning.start, self._fence)
        return Window(lower, max(lower, min(upper, self._fence)))

    @property
    def _fence(self) -> datetime:
        """The fence on the cursor's clock."""
        return cut.in_cursor_zone(self._spec, self._snapshot.fence.at)

    def _lake_sums(self, asked: Comparison, partitions: Sequence[str]) -> dict[str, _LakeSums]:
        found = side_by_side(lambda key: self._lake_sums_of(asked, key), partitions)
        return dict(zip(partitions, found, strict=True))

    def _lake_sums_of(self, asked: Comparison, partition: str) -> _LakeSums:
        """The sums of a partition's batches, and what is wrong with their files; the same files are read once."""
        sums: dict[Side, Sum] = {}
        damage: dict[Stage, str] = {}
        beside = NOTHING
        batches = self._batches.get(partition, {})
        for stage, batch in batches.items():
            twin = next((other for other in batches if other in sums and batches[other].files == batch.files), None)
            try:
                sums[stage] = sums[twin] if twin else self._lake.sum(asked.across, batch)
                if stage == "landing" and not asked.is_one:
                    beside = sums[stage] - self._lake.sum(asked.source, batch)
            except DamagedError as error:
                damage[stage] = error.problem.removesuffix(".")
        with self._counting:
            self._counted += 1
            self._progress(self._spec.table, self._counted, max(self._counted, self._to_count))
        return _LakeSums(sums, damage, beside)

    def _verdict(self, asked: Comparison, found: Evidence, *, rows: bool) -> Verdict:
        thought = opinion(found)
        place = self._place(found.partition)
        # The source apart, where it has not all the columns that the others have.
        turns = [(asked.across, thought.checks)]
        if not asked.is_one:
            apart = Checks(source=thought.checks.source, archived=False, split=False, loaded=False)
            turns = [(asked.across, replace(thought.checks, source=False)), (asked.source, apart)]
        has_read = False
        if self._gave_way(found, thought):
            questions, checks = turns[0]
            self._compare.read(questions, place, found.batches, checks.sides)
            has_read = True
            found = replace(found, superseded=self._compare.superseded(questions, place))
        faults = thought.faults + unequal(found, thought.checks)
        differences = NONE
        is_told = faults and faults != (NO_TABLE,)
        if is_told or rows:
            if is_told:
                self._report(f"comparing rows of {self._spec.table} {found.partition}")
            else:
                self._compared += 1
                self._progress(f"{self._spec.table}, row by row", self._compared, max(self._compared, self._to_count))
            for questions, checks in turns:
                if not has_read:
                    self._compare.read(questions, place, found.batches, checks.sides)
                differences += self._compare.differences(questions, place, found.batches, checks)
                has_read = False
        if differences.keys and not faults:
            faults = (f"{counted(differences.keys, 'row differs', 'rows differ')} in what no checksum covers",)
        status: Status = "DIFFERS" if faults else "behind" if thought.behind else "in step"
        rows_of = {side: found.sum(side).rows for side in found.sums}
        return Verdict(found.partition, status, rows_of, faults, thought.behind, bool(is_told or rows), differences)

    @staticmethod
    def _gave_way(found: Evidence, thought: Opinion) -> bool:
        """Whether staged rows may have given way to newer versions of their keys in other partitions."""
        if not thought.checks.loaded or found.entry is None or found.entry.loaded >= found.entry.staged:
            return False
        return found.sum("staging") != found.sum("warehouse")

    def _place(self, partition: str) -> Place:
        with_null = partition == cut.home_of_null(self._spec)
        if self._spec.partitioning is None:
            return Place(None, None, with_null=False)
        window = self._spec.partitioning.window(partition)
        return Place(self._below_fence(window), window, with_null)

    # --- the catalog -------------------------------------------------------------------------------------------------

    def _places(self, stage: Stage) -> dict[str, BatchPlace]:
        return self._catalog.all_places(self._spec.asset(stage).lower(), self._spec.partitioning is not None)

    def _catalog_faults(self, partition: str, catalog: Mapping[Stage, Mapping[str, BatchPlace]]) -> tuple[str, ...]:
        said = []
        for stage, batch in self._batches.get(partition, {}).items():
            place = place_of(self._keys, stage, batch)
            wanted = self._store.url(place) if place else None
            present = catalog[stage].get(partition)
            location = present.location if present else None
            if location != wanted:
                said.append(
                    f"the catalog has {stage} at {location or 'no place'}, its batch lies at {wanted or 'none'}"
                )
            elif present and present.format != batch.format:
                said.append(f"the catalog has {stage} as {present.format}, its batch is {batch.format}")
        return tuple(said)

    @property
    def _is_whole(self) -> bool:
        """Whether all partitions are looked at."""
        return self._scope.window is None and self._scope.only is None

    def _faults(self, before: int, stray: str, catalog: Mapping[Stage, Mapping[str, BatchPlace]]) -> tuple[str, ...]:
        """What is wrong with the table as a whole."""
        said = []
        if before:
            older = counted(before, "row of the source is", "rows of the source are")
            said.append(f"{older} older than partitions.start, so in no partition")
        if stray:
            said.append(stray)
        lost = sum(entry.loaded for key, entry in self._entries.items() if self._scope.has(key))
        if lost and not self._warehouse.columns:
            said.append(f"{NO_TABLE} ({self._target}), though the ledger says that it holds {counted(lost, 'row')}")
        for stage, places in catalog.items():
            known = self._batches.keys() | self._unreadable.keys()
            gone = [key for key in places if self._scope.has(key) and key not in known]
            if gone:
                said.append(f"the catalog has partitions of {stage} without a manifest, the first is {min(gone)}")
        return tuple(said)

    def _notes(self, groups: Mapping[Comparison, Sequence[str]], left_out: int, *, rows: bool) -> tuple[str, ...]:
        columns = self._shape.columns
        everywhere = {column.name for asked in groups for column in asked.across.columns}
        said = [f"the next sync will refuse: {self._refused}"] if self._refused else []
        if left_out:
            without = counted(left_out, "row of the source has", "rows of the source have")
            said.append(f"{without} no cursor value: left out, as cursor.nulls says (exclude)")
        if above := self._source.above(self._scope.window, self._fence):
            waiting = counted(
                above,
                "row of the source lies above the fence: it comes",
                "rows of the source lie above the fence: they come",
            )
            said.append(f"{waiting} with a later sync")
        said += [f"{text}, as schema_changes says" for text in self._shape.ignored]
        gone = [reading.column for reading in self._shape.readings if reading.source is None]
        said += [f"{column.name} ({column.type}) is not compared with the source" for column in gone]
        said += [
            f"not in the checksum: {column.name} ({column.type}); --rows compares it"
            for column in columns
            if column.name in everywhere and not is_summed(column) and not rows
        ]
        for asked, partitions in groups.items():
            if not partitions:
                continue
            where = f"in {counted(len(partitions), 'partition')} from {partitions[0]} on"
            nowhere = [column for column in columns if column not in asked.across.columns]
            half = [c for c in asked.across.columns if c not in asked.source.columns and c not in gone]
            if missing := ", ".join(f"{column.name} ({column.type})" for column in nowhere):
                said.append(f"not compared {where}: {missing}")
            if missing := ", ".join(f"{column.name} ({column.type})" for column in half):
                said.append(f"not compared with the source {where}: {missing}")
        strangers = self._scope.strangers(self._entries)
        if strangers:
            entries = counted(len(strangers), "ledger row is", "ledger rows are")
            said.append(f"{entries} of no partition as declared now, such as {strangers[0]}")
        return tuple(said)


def _stray(rows: int, some: Sequence[str]) -> str:
    """The rows of the warehouse that no partition holds, in words; nothing where there are none."""
    if not rows:
        return ""
    more = f"; and {rows - len(some):,} more" if rows > len(some) else ""
    said = counted(rows, "row of the warehouse lies", "rows of the warehouse lie")
    return f"{said} in no partition ({'; '.join(some)}{more}). No sync removes them; look at them, then"


def _read(manifests: Manifests, stage: Stage, partition: str) -> Manifest | str | None:
    """A current manifest; in words what is wrong with one that cannot be read."""
    try:
        found = manifests.read(stage, partition)
    except PermanentError as error:
        return str(error).removesuffix(".")
    return found.manifest if found else None
