"""Dagster's own records, kept quickly: its SQLite event log with connections that stay open, and few transactions.

A first load records some thousand events (a planned and a done one per partition and asset), and the stock storage
opens and closes three databases for each. Same files, same content, readable by every other Dagster process; used by
`rds-lake sync`, and only where dagster.yaml names no other storage. Whether a partition is done is not asked here but
of the ledger, so `synchronous=NORMAL` (safe when a process dies, not when the power fails) risks no promise, and
neither do events that wait for the rest of their batch.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from alembic.util.exc import CommandError
from dagster import AssetObservation, DagsterEvent, DagsterEventType, DagsterInstance, EventLogEntry
from dagster._core.events import ASSET_EVENTS, AssetObservationData, DagsterEventBatchMetadata
from dagster._core.instance import RUNLESS_JOB_NAME, RUNLESS_RUN_ID, InstanceRef
from dagster._core.storage.event_log import SqlEventLogStorageTable, SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, create_engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from rds_lake.errors import ConfigError, PermanentError

KEPT = 8
"""Databases kept open: there is one per run and one for the index; a sync works on few runs at a time."""

BUSY_SECONDS = 60

INDEX = "index"

LOCK = ".rds_lake_opening"
"""A file in `DAGSTER_HOME` that is locked for as long as its records are opened."""

BATCH = 500
"""Events of one asset's step that are written together."""


class OpenSqliteEventLogStorage(SqliteEventLogStorage):
    """Dagster's SQLite event log with one connection per database that stays open, used under its own lock."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "OpenSqliteEventLogStorage":
        """The storage for a configuration with `base_dir`."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            for old in [name for name in self._engines if name != INDEX][: len(self._engines) - KEPT + 1]:
                self._engines.pop(old).dispose()
            self._engines[shard] = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=StaticPool,
                connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            )
            event.listen(self._engines[shard], "connect", _relax)
        return self._engines[shard]

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; one that it has, it keeps."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of one run in their order, those of assets together."""
        for are_of_assets, some in groupby(events, _is_of_asset):
            if are_of_assets:
                self._store_asset_events(list(some))
            else:
                for event in some:
                    self.store_event(event)

    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        """What storing them one by one comes to, in one transaction for each of the two databases."""
        rows = [self._event_to_row(event) for event in events]
        insert = SqlEventLogStorageTable.insert()
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(insert, rows)
        with self.index_connection() as connection:
            ids = [int(connection.execute(insert, row).lastrowid) for row in rows]
            self._store_asset_event_tags(connection, events, ids)
            # An asset's own row keeps what its last event of each kind says.
            last = {(row["asset_key"], row["dagster_event_type"]): place for place, row in enumerate(rows)}
            for place in sorted(last.values()):
                self._store_asset_event(connection, events[place], ids[place])

    def dispose(self) -> None:
        """Close all connections."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().dispose()


def _is_of_asset(event: EventLogEntry) -> bool:
    return event.is_dagster_event and event.dagster_event_type in ASSET_EVENTS


def _relax(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's own connection
    connection.execute("PRAGMA synchronous=NORMAL")


_DISK = re.compile("database or disk is full|disk I/O error|No space left on device")
"""What SQLite or the system say when there is no space: SQLite's own word for it depends on which file was to grow."""


@contextmanager
def recording() -> Iterator[None]:
    """Say in our words that Dagster's records cannot be written.

    Raises:
        PermanentError: the disk that they lie on is full, or does not work.
    """
    try:
        yield
    except (OperationalError, OSError) as error:
        found = _DISK.search(str(error))
        if found is None:
            raise
        raise PermanentError(
            f"Dagster's records in DAGSTER_HOME ({os.environ.get('DAGSTER_HOME')}) cannot be written: {found.group()}.",
            "Free space on its disk, then sync again: it goes on where this one stopped.",
        ) from error


@contextmanager
def _alone(home: str) -> Iterator[None]:
    """Open Dagster's records while no other process of ours does.

    Each makes their tables when they are not there, and two that do it at once leave a database that none can open any
    more. The lock ends with its process, however that ends.

    Raises:
        ConfigError: they cannot be opened.
    """
    with ExitStack() as held:
        if os.access(home, os.W_OK):  # where nothing can be written, dagster.yaml names other places for the records
            lock = held.enter_context(Path(home, LOCK).open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except (SQLAlchemyError, CommandError) as error:
            if _DISK.search(str(error)):
                raise
            said = str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
            raise ConfigError(
                f"Dagster's records in DAGSTER_HOME ({home}) cannot be opened: {said}.",
                "Try again. If it stays, move all but dagster.yaml out of that folder, or name another one: what is "
                "loaded is recorded elsewhere.",
            ) from error


@recording()
def open_dagster_instance() -> DagsterInstance:
    """The instance at `DAGSTER_HOME`, with the quick event log unless its dagster.yaml names a storage.

    Raises:
        ConfigError: the variable names no folder, or what lies there cannot be opened.
        PermanentError: its disk is full.
    """
    home = os.environ["DAGSTER_HOME"]
    if not (Path(home).is_absolute() and Path(home).is_dir()):
        raise ConfigError(
            f"DAGSTER_HOME names {home}, which is no folder (its whole path is needed).",
            "Make the folder and put dagster.yaml into it, or start the local stack with 'rds-lake up'.",
        )
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(BATCH))  # Dagster's own switch; PostgreSQL profits as well
    reference = InstanceRef.from_dir(home)
    stock = reference.event_storage_data
    if stock is not None and stock.class_name == SqliteEventLogStorage.__name__:
        config = {
            "module": __name__,
            "class": OpenSqliteEventLogStorage.__name__,
            "config": dict(stock.config_dict),
        }
        reference = InstanceRef.from_dir(home, overrides={"event_log_storage": config})
    with _alone(home):
        return DagsterInstance.from_ref(reference)  # it opens all of them


def report_observations(instance: DagsterInstance, found: Iterable[AssetObservation]) -> None:
    """Record observations that belong to no run; the instance itself would take them one by one only."""
    events = [
        DagsterEvent(
            event_type_value=DagsterEventType.ASSET_OBSERVATION.value,
            event_specific_data=AssetObservationData(observation),
            job_name=RUNLESS_JOB_NAME,
        )
        for observation in found
    ]
    batch = str(uuid4())
    for number, each in enumerate(events, 1):
        place = DagsterEventBatchMetadata(batch, is_end=number == len(events))
        instance.report_dagster_event(each, RUNLESS_RUN_ID, batch_metadata=place)
