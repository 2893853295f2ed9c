"""Loads that are in each other's way: all write into one ledger, and some clusters roll one of two back for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dropping import Drops

from rds_lake.errors import TransientError
from rds_lake.files import load, zone
from rds_lake.files.load import ATTEMPTS, PAUSE_MAX, load_files
from rds_lake.pauses import pause
from rds_lake.warehouse.connection import Session

pytestmark = pytest.mark.stack

CONFLICT = TransientError("ERROR: 1023 DETAIL: Serializable isolation violation on table.", "Try again.")


def conflicting(times: int) -> Callable[..., Any]:
    """`Session.execute` that fails so often at the end of a transaction."""
    plain, left = Session.execute, [times]

    def execute(session: Session, text: str, parameters: Any = ()) -> Any:
        if text == "COMMIT" and left[0]:
            left[0] -= 1
            raise CONFLICT
        return plain(session, text, parameters)

    return execute


def dropped(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Drops, Any, list[float]]:
    """A file that waits to be loaded, and the pauses that loads make."""
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    pauses: list[float] = []
    monkeypatch.setattr(zone, "load_files", lambda *given: load_files(*given, sleep=pauses.append))
    return drops, drops.drop("append", "things", "a.csv", "1\n"), pauses


def test_a_load_that_is_rolled_back_for_another_one_is_tried_five_times_more(rooms, monkeypatch):
    drops, version, pauses = dropped(rooms, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "execute", conflicting(5))
        record = drops.one(version)
    assert (record.status, record.rows_loaded) == ("completed", 1)
    assert drops.rows("things", "id") == [(1,)]
    assert len(pauses) == 5
    assert len(set(pauses)) == 5
    assert all(0 < pause <= PAUSE_MAX for pause in pauses)
    told = [text for text in drops.said if "1023" in text]
    assert [text.partition(" Attempt ")[2] for text in told] == [
        f"{number} of 6; the ledger is asked first." for number in range(2, 7)
    ]
    drops.check_accounts("things")


def test_one_that_is_rolled_back_every_time_waits_for_the_next_sweep(rooms, monkeypatch):
    drops, version, pauses = dropped(rooms, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "execute", conflicting(ATTEMPTS))
        with pytest.raises(TransientError, match="1023"):
            drops.handle(version)
    assert len(pauses) == ATTEMPTS - 1
    assert drops.rows("things", "id") == []
    drops.expire(version)
    assert drops.one(version).status == "completed"
    assert drops.rows("things", "id") == [(1,)]
    drops.check_accounts("things")


def test_pauses_grow_up_to_a_few_seconds_and_no_two_are_alike():
    pauses = [[pause(attempt, load.PAUSE, PAUSE_MAX) for _ in range(50)] for attempt in range(1, ATTEMPTS)]
    assert all(len(set(some)) > 1 for some in pauses)
    assert max(pauses[0]) <= min(pauses[1])
    assert max(map(max, pauses)) <= PAUSE_MAX


@contextmanager
def standing_still(drops: Drops, table: str) -> Iterator[None]:
    """A load of a table that holds its lock and does not come to its end."""
    [(lock,)] = drops.ask(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'rds_lake' AND table_name LIKE %s",
        (f"lock_file_{drops.database}_{table}%",),
    )
    stopped = drops.connect()
    try:
        with stopped.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f'LOCK rds_lake."{lock}"')
        yield
    finally:
        stopped.close()


def test_a_load_that_stands_still_with_its_lock_keeps_others_waiting_for_a_while_only(rooms, monkeypatch):
    monkeypatch.setattr(load, "LOCK_SECONDS", 1)
    drops = Drops.zone(rooms.environ)
    for table in "ab":
        drops.schema(table, "id bigint")
    drops.one(drops.drop("append", "a", "0.csv", "0\n"))
    waits, other = drops.drop("append", "a", "1.csv", "1\n"), drops.drop("append", "b", "2.csv", "2\n")
    with (
        standing_still(drops, "a"),
        pytest.raises(load.LockedError, match=f"load of {drops.database}.a has held its lock"),
    ):
        drops.run()
    assert (drops.record(waits).status, drops.record(other).status) == ("processing", "completed")
    assert "end its session in the warehouse" in drops.record(waits).error
    drops.expire(waits)
    drops.run()
    assert drops.rows("a", "id") == [(0,), (1,)]
    drops.check_accounts("a")


def test_a_schema_file_waits_for_a_load_that_stands_still_for_a_while_only(rooms, monkeypatch):
    monkeypatch.setattr(load, "LOCK_SECONDS", 1)
    drops = Drops.zone(rooms.environ)
    for table in "ab":
        drops.schema(table, "id bigint")
    drops.run()
    drops.later()
    waits = drops.schema("a", "id bigint", "more integer", name="wider.json")
    other = drops.schema("b", "id bigint", "more integer", name="wider.json")
    with (
        standing_still(drops, "a"),
        pytest.raises(TransientError, match=f"load of {drops.database}.a has held its lock"),
    ):
        drops.run()
    assert (drops.record(waits).status, drops.record(other).status) == ("processing", "completed")
    assert [name for name, *_ in drops.types("a")] == ["id"]
    drops.expire(waits)
    drops.run()
    assert [name for name, *_ in drops.types("a")] == ["id", "more"]
    drops.check_accounts("a", "b")


def test_a_schema_file_that_lengthens_a_text_waits_for_whoever_holds_the_table_for_a_while_only(rooms, monkeypatch):
    monkeypatch.setattr(load, "LOCK_SECONDS", 1)
    drops = Drops.zone(rooms.environ)
    drops.schema("a", "name varchar(3)")
    drops.one(drops.drop("append", "a", "0.csv", "name\nx\n"))
    drops.later()
    waits = drops.schema("a", "name varchar(9)", name="wider.json")
    stopped = drops.connect()
    try:
        with stopped.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"INSERT INTO {drops.table('a')} VALUES ('y')")
        with pytest.raises(TransientError, match=f"A load or a reader of {drops.database}.a has held its lock"):
            drops.run()
    finally:
        stopped.close()
    assert drops.record(waits).status == "processing"
    drops.expire(waits)
    drops.run()
    assert [length for _, _, length, *_ in drops.types("a")] == [9]
    drops.check_accounts("a")
