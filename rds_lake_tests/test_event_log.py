"""Dagster's records as `rds-lake sync` writes them: many at once, and the same as Dagster writes one by one."""

import itertools
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    EngineEventData,
    StepMaterializationData,
)
from dagster._core.storage.event_log import SqliteEventLogStorage

from rds_lake.errors import ConfigError
from rds_lake.event_log import OpenSqliteEventLogStorage, _alone, open_dagster_instance

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


AT_ONCE = """
import os, sys, traceback
from pathlib import Path
from rds_lake.event_log import open_dagster_instance

def look():
    try:
        with open_dagster_instance() as instance:
            instance.get_runs(limit=1), instance.all_instigator_state(), instance.all_asset_keys()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def fork():
    return os.fork() or look()

ended = []
for trial in range(6):
    os.environ["DAGSTER_HOME"] = home = os.path.join(sys.argv[1], str(trial))
    Path(home).mkdir()
    for count in (4, 1):
        children = [fork() for _ in range(count)]
        ended += [os.waitpid(child, 0)[1] for child in children]
sys.exit(any(ended))
"""


def test_processes_that_open_a_fresh_home_at_once_leave_one_that_each_can_open(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AT_ONCE, str(tmp_path)],
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for home in tmp_path.iterdir():
        for name in ("runs.db", "event_log.db", "schedules.db", "index.db"):
            for file in home.rglob(name):
                connection = sqlite3.connect(file)
                heads = connection.execute("SELECT version_num FROM alembic_version").fetchall()
                connection.close()
                assert len(heads) == 1, file


def test_records_that_cannot_be_opened_are_told_of_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_dagster_instance():
        pass
    [file] = tmp_path.rglob("schedules.db")
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO alembic_version VALUES ('another')")
    connection.commit()
    connection.close()
    told = r"DAGSTER_HOME \(.*\) cannot be opened: Version table 'alembic_version' has more than one head.*\. Try again"
    with pytest.raises(ConfigError, match=told):
        open_dagster_instance()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be opened: file is not a database"):
        open_dagster_instance()


def test_a_home_that_cannot_be_written_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with _alone(str(tmp_path)):
        assert list(tmp_path.iterdir()) == []
