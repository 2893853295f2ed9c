"""The garbage collector: what no manifest names any more goes, after a grace period.

Superseded batches, files of runs that were killed, the COPY manifests of loads that the ledger has forgotten, and
uploads that were never finished. The order is what makes it safe beside running syncs: objects are listed first, then
manifests and catalog are read, so that a batch that is committed in between is seen as named; and a batch that is
still being written is younger than the grace period. What does not look like ours is reported and left alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from rds_lake.errors import ConfigError, RdsLakeError
from rds_lake.lake.catalog import Catalog
from rds_lake.lake.keys import BatchFile, TableKeys
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.lake.store import ObjectStore, StoredObject
from rds_lake.spec import LAKE_STAGES, Stage, TableSpec

GRACE = timedelta(hours=24)
"""How long a superseded batch stays, and a file that no manifest names yet: longer than any run or query."""

PAGE = 1000
"""Objects that are looked at together: one page of S3's listing."""

EXAMPLES = 5
"""Objects of a kind that is not ours that a report names."""

LOADS, UPLOADS = "load manifests", "unfinished uploads"


@dataclass
class Swept:
    """What a sweep of one table found.

    Attributes:
        table: the table's name.
        objects: removed objects by stage (or kind).
        bytes: their bytes, likewise.
        strangers: objects that do not look like ours; left alone.
        examples: some of their keys.
        unnamed: files of a table that has no manifest at all: not garbage but a sign that manifests were lost.
        error: why the sweep ended early, None when it did not; what it removed before is counted.
    """

    table: str
    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    strangers: int = 0
    examples: list[str] = field(default_factory=list)
    unnamed: int = 0
    error: str | None = None

    def add(self, kind: str, sizes: Sequence[int]) -> None:
        """Count some objects."""
        if sizes:
            self.objects[kind] = self.objects.get(kind, 0) + len(sizes)
            self.bytes[kind] = self.bytes.get(kind, 0) + sum(sizes)

    def note(self, key: str) -> None:
        """Count an object that is not ours."""
        self.strangers += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(key)


@dataclass(frozen=True)
class Standing:
    """What holds on to the files of one partition of one stage.

    Attributes:
        batches: the partition's current batches in all stages: landing's files may lie in the archive, and a copy into
            the archive has the batch's name before any manifest has.
        since: since when the stage's own manifest has stood; None when there is none.
        place: the key prefix that the catalog points at; None when it points nowhere.
    """

    batches: tuple[Manifest, ...] = ()
    since: datetime | None = None
    place: str | None = None

    def holds(self, key: str, file: BatchFile) -> bool:
        """Whether a file may be read by somebody who asks now."""
        if self.place is not None and key.startswith(self.place):
            return True
        return any(
            file.batch == batch.batch or any(key == named.key for named in batch.files) for batch in self.batches
        )


def is_garbage(item: StoredObject, file: BatchFile, standing: Standing, before: datetime) -> bool:
    """Whether a file can go: nobody names it, and nobody has for the whole grace period.

    Args:
        item: the object.
        file: what its key says.
        standing: what holds on to its partition's files.
        before: the start of the grace period.
    """
    if item.modified >= before or standing.holds(item.key, file):
        return False
    return standing.since is None or standing.since < before


class Collector:
    """Removes what no manifest names.

    Args:
        store: the lake's bucket.
        catalog: the lake's catalog.
        loads: the addresses of the load manifests that the ledger names, of a table.
        grace: the grace period.
        dry_run: find all of it, remove nothing.
        now: the present, UTC.
    """

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        loads: Callable[[str], set[str]],
        *,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        now: datetime | None = None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._loads = loads
        self._before = (now or datetime.now(UTC)) - grace
        self._dry_run = dry_run

    def attempt(self, spec: TableSpec) -> Swept:
        """Sweep one of several tables: what ends its sweep is told with what was found, and the others go on.

        Raises:
            ConfigError: a variable is missing or wrong, so that no table can be swept.
        """
        found = Swept(spec.table)
        try:
            self._sweep(spec, found)
        except ConfigError:
            raise
        except RdsLakeError as error:
            found.error = str(error)
        return found

    def sweep(self, spec: TableSpec) -> Swept:
        """Sweep one table.

        Raises:
            RdsLakeError: the bucket, the catalog or the ledger cannot be read.
        """
        found = Swept(spec.table)
        self._sweep(spec, found)
        return found

    def _sweep(self, spec: TableSpec, found: Swept) -> None:
        keys = TableKeys.of(spec)
        has_manifest = self._has_manifest(keys)
        for page in _pages(self._store.list(f"{spec.table}/")):
            if has_manifest:
                self._sweep_files(spec, keys, page, found)
            else:
                found.unnamed += sum(keys.batch_file(item.key) is not None for item in page)
            self._sweep_loads(spec, keys, page, found)
            for item in page:
                is_ours = keys.batch_file(item.key) or keys.is_manifest(item.key) or item.key == keys.schema
                if not is_ours:
                    found.note(item.key)
        self._sweep_uploads(spec, keys, found)

    def strangers(self, tables: Iterable[str]) -> list[str]:
        """The folders of the bucket that belong to none of the declared tables; nothing below them is touched."""
        known = {f"{table}/" for table in tables}
        return [folder for folder in self._store.folders() if folder not in known]

    def _has_manifest(self, keys: TableKeys) -> bool:
        return any(
            keys.is_manifest(item.key) for stage in LAKE_STAGES for item in self._store.list(keys.manifests(stage))
        )

    def _sweep_files(self, spec: TableSpec, keys: TableKeys, page: Sequence[StoredObject], found: Swept) -> None:
        """The page was listed before anything here is read."""
        old: dict[tuple[Stage, str], list[tuple[StoredObject, BatchFile]]] = {}
        for item in page:
            file = keys.batch_file(item.key)
            if file is not None and item.modified < self._before:
                old.setdefault((file.stage, file.partition), []).append((item, file))
        for stage in LAKE_STAGES:
            partitions = {partition: files for (of, partition), files in old.items() if of == stage}
            self._sweep_stage(spec, keys, stage, partitions, found)

    def _sweep_stage(
        self,
        spec: TableSpec,
        keys: TableKeys,
        stage: Stage,
        partitions: Mapping[str, Sequence[tuple[StoredObject, BatchFile]]],
        found: Swept,
    ) -> None:
        current = Manifests(self._store, keys).read_all(stage, partitions)
        doubtful = {
            partition: files
            for partition, files in partitions.items()
            if partition not in current or any(file.batch != current[partition].manifest.batch for _, file in files)
        }
        standings = self._standings(spec, keys, stage, list(doubtful))
        doomed = [
            item
            for partition, files in doubtful.items()
            for item, file in files
            if is_garbage(item, file, standings[partition], self._before)
        ]
        found.add(stage, [item.size for item in doomed])
        self._delete(doomed)

    def _standings(
        self, spec: TableSpec, keys: TableKeys, stage: Stage, partitions: Sequence[str]
    ) -> dict[str, Standing]:
        manifests = Manifests(self._store, keys)
        current = {other: manifests.read_all(other, partitions) for other in LAKE_STAGES}
        places = self._catalog.places(spec.asset(stage).lower(), spec.partitioning is not None, partitions)
        objects = self._store.find([keys.manifest(stage, partition) for partition in current[stage]])
        found = {}
        for partition in partitions:
            held = tuple(current[other][partition].manifest for other in LAKE_STAGES if partition in current[other])
            place = places.get(partition)
            stands = objects.get(keys.manifest(stage, partition))
            found[partition] = Standing(
                batches=held,
                since=stands.modified if stands else None,
                place=self._store.key(place.location) if place else None,
            )
        return found

    def _sweep_loads(self, spec: TableSpec, keys: TableKeys, page: Sequence[StoredObject], found: Swept) -> None:
        prefix = keys.manifests("warehouse")
        old = [item for item in page if item.key.startswith(prefix) and item.modified < self._before]
        if old:
            named = self._loads(spec.table)
            doomed = [item for item in old if self._store.url(item.key) not in named]
            # A load that is tried again writes its manifest again, under the same key.
            doomed = [item for item in doomed if (self._store.modified(item.key) or self._before) < self._before]
            found.add(LOADS, [item.size for item in doomed])
            self._delete(doomed)

    def _sweep_uploads(self, spec: TableSpec, keys: TableKeys, found: Swept) -> None:
        old = [
            upload
            for upload in self._store.uploads(f"{spec.table}/")
            if upload.started < self._before and keys.batch_file(upload.key) is not None
        ]
        found.add(UPLOADS, [0] * len(old))
        if not self._dry_run:
            for upload in old:
                self._store.abort(upload)

    def _delete(self, doomed: Sequence[StoredObject]) -> None:
        if doomed and not self._dry_run:
            self._store.delete([item.key for item in doomed])


def _pages(items: Iterator[StoredObject]) -> Iterator[list[StoredObject]]:
    while page := list(islice(items, PAGE)):
        yield page
