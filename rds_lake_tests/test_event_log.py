"""Dagster's records as `rds-lake sync` writes them: many at once, and the same as Dagster writes one by one."""

import itertools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    EngineEventData,
    StepMaterializationData,
)
from dagster._core.storage.event_log import SqliteEventLogStorage

from rds_lake.event_log import OpenSqliteEventLogStorage

KINDS = ("planned", "materialized", "observed", "checked", "said")


def event(number: int, kind: str, asset: str, partition: str | None) -> dg.EventLogEntry:
    key, tags, kinds = dg.AssetKey(asset), {"dagster/data_version": f"v{number}"}, dg.DagsterEventType
    said: dict[str, tuple[dg.DagsterEventType, Any]] = {
        "planned": (kinds.ASSET_MATERIALIZATION_PLANNED, AssetMaterializationPlannedData(key, partition)),
        "materialized": (
            kinds.ASSET_MATERIALIZATION,
            StepMaterializationData(
                dg.AssetMaterialization(key, partition=partition, metadata={"n": number}, tags=tags)
            ),
        ),
        "observed": (
            kinds.ASSET_OBSERVATION,
            AssetObservationData(dg.AssetObservation(key, partition=partition, tags=tags)),
        ),
        "checked": (
            kinds.ASSET_CHECK_EVALUATION,
            dg.AssetCheckEvaluation(asset_key=key, check_name="c", passed=True, metadata={}, partition=None),
        ),
        "said": (kinds.ENGINE_EVENT, EngineEventData()),
    }
    name, data = said[kind]
    return dg.EventLogEntry(
        error_info=None,
        user_message="",
        level=10,
        run_id="a-run",
        timestamp=1.7e9 + number,
        job_name="job",
        dagster_event=dg.DagsterEvent(name.value, "job", event_specific_data=data),
    )


def written(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every row of every table, but when it was written down."""
    for file in ("index.db", "a-run.db"):
        connection = sqlite3.connect(folder / file)
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            shown = ", ".join(
                f'"{name}"' for name in columns if name not in {"create_timestamp", "migration_completed"}
            )
            yield from ((f"{file} {table}", row) for row in connection.execute(f"SELECT {shown} FROM {table}"))
        connection.close()


def test_a_batch_of_events_leaves_what_its_events_leave_one_by_one(tmp_path: Path) -> None:
    told = list(itertools.product(KINDS, ("a", "b"), (None, "2024-01-01", "2024-01-02")))
    random.Random(7).shuffle(told)
    entries = [event(number, *each) for number, each in enumerate(told)]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    storage = SqliteEventLogStorage(str(theirs))
    for entry in entries:
        storage.store_event(entry)
    storage.dispose()
    quick = OpenSqliteEventLogStorage(str(ours))
    quick.store_event_batch(entries)
    quick.dispose()
    assert list(written(ours)) == list(written(theirs))
