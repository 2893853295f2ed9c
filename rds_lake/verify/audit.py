"""The audit of one table: gather what each side holds, judge each partition, name the rows that differ.

The source is read in one consistent snapshot. Lake and warehouse may move meanwhile: a partition whose manifests or
ledger row are not the same at the end as at the start is looked at once more, and called `moving` when it moves again.
Manifests' counts, the ledger and the product's own readers are not trusted: every number is counted again.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryDirectory

import duckdb

from rds_lake.errors import ConfigError, RdsLakeError
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import Source
from rds_lake.lake.catalog import Catalog
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.quality.rules import engine_settings
from rds_lake.spec import LAKE_STAGES, Stage, TableSpec
from rds_lake.verify.judge import Status
from rds_lake.verify.look import Findings, Look, Progress, Report, Verdict
from rds_lake.verify.rows import Side
from rds_lake.verify.scope import Scope
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Session, Warehouse
from rds_lake.wording import counted


@dataclass(frozen=True)
class TableVerdict:
    """The verdict on one table.

    Attributes:
        table: its name.
        partitions: the verdicts on its partitions, in order.
        faults: what is wrong with the table as a whole.
        notes: what the audit did not cover, and why.
        seconds: how long it took.
        error: why it could not be compared, None when it was.
        refused: whether the next sync will refuse it, so that none takes up what is behind.
    """

    table: str
    partitions: tuple[Verdict, ...]
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    refused: bool = False

    def count(self, status: Status) -> int:
        """How many partitions have a status."""
        return sum(verdict.status == status for verdict in self.partitions)

    def total(self, side: Side) -> int:
        """Rows of a side."""
        return sum(verdict.rows.get(side, 0) for verdict in self.partitions)

    @property
    def differs(self) -> bool:
        """Whether something is not what it must be."""
        return bool(self.faults) or bool(self.count("DIFFERS"))

    @property
    def in_step(self) -> bool:
        """Whether there is nothing left to do either."""
        return not self.differs and self.error is None and self.count("in step") == len(self.partitions)


@dataclass(frozen=True)
class _State:
    """What may move while the audit looks: the manifests' ETags and the ledger."""

    etags: Mapping[Stage, Mapping[str, str]]
    entries: Mapping[str, ledger.Entry]

    def of(self, partition: str) -> tuple[object, ...]:
        return (*(self.etags[stage].get(partition) for stage in LAKE_STAGES), self.entries.get(partition))

    def partitions(self) -> set[str]:
        return {key for stage in LAKE_STAGES for key in self.etags[stage]} | set(self.entries)


class Audit:
    """Audits tables.

    Args:
        source: the MySQL source.
        store: the lake's bucket.
        catalog: the lake's catalog.
        warehouse: the warehouse.
        report: told in words what is going on.
        progress: told of table, partitions counted, and partitions to be counted.
    """

    def __init__(
        self,
        source: Source,
        store: ObjectStore,
        catalog: Catalog,
        warehouse: Warehouse,
        report: Report = lambda _: None,
        progress: Progress = lambda _table, _done, _total: None,
    ) -> None:
        self._source = source
        self._store = store
        self._catalog = catalog
        self._warehouse = warehouse
        self._report = report
        self._progress = progress

    def table(
        self,
        spec: TableSpec,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        only: Collection[str] | None = None,
        rows: bool = False,
    ) -> TableVerdict:
        """Audit one table.

        Args:
            spec: the table's YAML.
            since: only partitions from the one that holds this moment on.
            until: only partitions that begin before this moment.
            only: only these partitions.
            rows: compare the rows of every partition one by one, not only of those that differ.

        Raises:
            RdsLakeError: source, lake or warehouse cannot be read.
        """
        started = time.monotonic()
        first = self._pass(spec, Scope.of(spec, since, until, only), rows=rows)
        told, verdicts = first.findings, dict(first.findings.verdicts)
        if first.moved:
            self._report(f"verifying {spec.table} again: {counted(len(first.moved), 'partition')} moved")
            second = self._pass(spec, Scope.of(spec, since, until, first.moved), rows=rows)
            verdicts |= second.findings.verdicts
            verdicts |= {key: Verdict(key, "moving", verdicts[key].rows) for key in second.moved if key in verdicts}
        ordered = tuple(verdicts[key] for key in sorted(verdicts))
        seconds = time.monotonic() - started
        return TableVerdict(spec.table, ordered, told.faults, told.notes, seconds, refused=told.refused)

    def attempt(
        self, spec: TableSpec, since: datetime | None = None, until: datetime | None = None, *, rows: bool = False
    ) -> TableVerdict:
        """Audit one of several tables: what keeps it from being compared is its verdict, and the others go on.

        Args:
            spec: the table's YAML.
            since: only partitions from the one that holds this moment on.
            until: only partitions that begin before this moment.
            rows: compare the rows of every partition one by one.

        Raises:
            ConfigError: a variable is missing or wrong, so that no table can be compared.
        """
        started = time.monotonic()
        try:
            return self.table(spec, since, until, rows=rows)
        except ConfigError:
            raise
        except RdsLakeError as error:
            return TableVerdict(spec.table, (), seconds=time.monotonic() - started, error=str(error))

    def _pass(self, spec: TableSpec, scope: Scope, *, rows: bool) -> "_Pass":
        with ExitStack() as stack:
            session = stack.enter_context(self._warehouse.connect())
            before = self._state(spec, session)
            snapshot = stack.enter_context(open_snapshot(self._source, spec))
            engine = stack.enter_context(_engine())
            looking = Look(
                spec,
                scope,
                self._source,
                snapshot,
                self._store,
                self._catalog,
                session,
                engine,
                before.entries,
                self._report,
                self._progress,
            )
            findings = looking.findings(rows=rows)
            after = self._state(spec, session)
        wanted = [key for key in before.partitions() | after.partitions() if scope.has(key)]
        moved = {key for key in wanted if before.of(key) != after.of(key)}
        return _Pass(findings, moved)

    def _state(self, spec: TableSpec, session: Session) -> _State:
        manifests = Manifests(self._store, TableKeys.of(spec))
        return _State({stage: manifests.partitions(stage) for stage in LAKE_STAGES}, ledger.read(session, spec.table))


@dataclass(frozen=True)
class _Pass:
    findings: Findings
    moved: set[str]


@contextmanager
def _engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB, bounded in memory, with a folder of its own."""
    with (
        TemporaryDirectory(prefix="rds_lake-") as scratch,
        duckdb.connect(config=engine_settings(scratch)) as connection,
    ):
        yield connection
