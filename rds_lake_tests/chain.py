"""One table through all rooms by hand, without Dagster: what the tests of cursors, keys and shapes of tables share.

`sync` does what `rds-lake sync` does, one load per partition and in any order that a test wants, and `assert_in_step`
compares lake and warehouse with the source, value by value.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rooms import Rooms

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import land
from rds_lake.lake.manifest import Manifests, unaccounted
from rds_lake.plan import Observation, Plan, decide, examine, observe
from rds_lake.quality.split import Splitter
from rds_lake.spec import LAKE_STAGES, TableSpec
from rds_lake.sql import quote, quote_all
from rds_lake.warehouse import ledger
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import Target

Order = Callable[[Sequence[str]], Sequence[str]]


def newest_first(partitions: Sequence[str]) -> Sequence[str]:
    """The order of `rds-lake sync`."""
    return sorted(partitions, reverse=True)


@dataclass
class Chain:
    """A table on its way."""

    rooms: Rooms
    spec: TableSpec
    seen: Observation | None = field(default=None, repr=False)

    @property
    def manifests(self) -> Manifests:
        """The table's manifests."""
        return Manifests(self.rooms.store, TableKeys.of(self.spec))

    def plan(self) -> Plan:
        """What is out of step."""
        self.seen = observe(self.rooms.source, self.rooms.store, self.spec)
        rooms = self.rooms
        return decide(
            self.seen.fingerprints, examine(rooms.source, rooms.store, rooms.warehouse, self.spec, self.seen.table)
        )

    def sync(self, order: Order = newest_first, *, together: bool = False) -> list[str]:
        """Bring the table in step; the partitions that were not."""
        plan = self.plan()
        todo = list(order([*plan.land, *plan.resume]))
        if todo:
            with open_snapshot(self.rooms.source, self.spec) as snapshot:
                land(snapshot, self.rooms.store, plan.land)
            self.split(todo)
            for some in [todo] if together else [[partition] for partition in todo]:
                self.load(some)
        return todo

    def split(self, partitions: Sequence[str]) -> None:
        """Split and archive landed partitions."""
        splitter = Splitter(self.rooms.store, self.spec, {})
        manifests, keys = self.manifests, TableKeys.of(self.spec)
        for partition in partitions:
            landed = manifests.require("landing", partition)
            staged, discarded = (manifests.read(stage, partition) for stage in ("staging", "discarded"))  # type: ignore[arg-type]
            made = splitter.split(
                landed.manifest, staged.manifest if staged else None, discarded.manifest if discarded else None
            )
            manifests.commit(made.staging, staged)
            manifests.commit(made.discarded, discarded)
            current = manifests.read_all("archived", [partition])
            archived = copy_to_archive(self.rooms.store, keys, [landed.manifest], current)[partition]
            vacate_landing(self.rooms.store, keys, [landed], {partition: archived.manifest})

    def load(self, partitions: Sequence[str]) -> dict[str, int]:
        """Load staged partitions in one transaction."""
        staged = [self.manifests.require("staging", partition).manifest for partition in partitions]
        return load(self.rooms.warehouse, self.rooms.store, self.spec, staged).rows

    # --- what is there ---

    def source(self, where: str = "TRUE") -> Counter[tuple[Any, ...]]:
        """The source's rows, read with a plain driver."""
        table = quote(self.spec.source_name, "mysql").replace("%%", "%")
        return counted(self.rooms.sql(f"SELECT * FROM {table} WHERE {where}"))

    def lake(self, stage: str) -> Counter[tuple[Any, ...]]:
        """A stage's rows, read with boto3 and pyarrow."""
        current = self.manifests.read_all(stage, self.manifests.partitions(stage))  # type: ignore[arg-type]
        return counted(row for item in current.values() for row in self.rooms.rows(item.manifest))

    def warehouse(self) -> Counter[tuple[Any, ...]]:
        """The warehouse's rows, read with a plain driver."""
        names = quote_all([column.name.lower() for column in self.rooms.source.describe(self.spec.source_name).columns])
        return counted(self.rooms.ask(f"SELECT {names} FROM public.{quote(self.spec.warehouse_name.lower())}"))

    def loaded(self) -> dict[str, int]:
        """Rows of each partition as the ledger has them."""
        with self.rooms.warehouse.connect() as session:
            return {key: entry.loaded for key, entry in ledger.read(session, self.spec.table).items()}

    def held(self) -> dict[str, int]:
        """Rows of each loaded partition as the warehouse counts them now."""
        with self.rooms.warehouse.connect() as session:
            target = Target(self.spec, self.rooms.source.describe(self.spec.source_name).columns)
            keys = list(ledger.read(session, self.spec.table))
            return ledger.count_target(session, target, keys)

    def assert_in_step(self, where: str = "TRUE") -> None:
        """Assert that lake and warehouse hold exactly the source's rows, and that the books agree with them."""
        rows = self.source(where)
        assert self.lake("landing") == rows
        assert self.lake("staging") == rows
        assert self.warehouse() == rows
        assert self.held() == self.loaded()
        assert sum(self.held().values()) == rows.total()
        landed, staged, discarded, archived = (
            {
                key: item.manifest
                for key, item in self.manifests.read_all(stage, self.manifests.partitions(stage)).items()
            }
            for stage in LAKE_STAGES
        )
        assert unaccounted(landed, staged, discarded) == []
        assert archived.keys() == landed.keys()


def counted(rows: Any) -> Counter[tuple[Any, ...]]:
    """Rows as comparable values with their counts, whatever driver they come from."""
    return Counter(tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows)
