"""What a review found, on single rooms: loads that are overtaken, and streams that are not read to their end."""

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace

import pytest
from pipeline import until
from rooms import Rooms, daily, mysql_table, rooms, table_spec

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.types import Column
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.manifest import Manifest
from rds_lake.spec import TableSpec
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import Target

__all__ = ["mysql_table", "rooms"]

pytestmark = pytest.mark.stack

COLUMNS = (Column("id", "int(11)", nullable=False), Column("at", "datetime(6)"), Column("v", "varchar(20)"))


# --- a load that is overtaken ----------------------------------------------------------------------------------------


def stage(rooms: Rooms, spec: TableSpec, *values: str) -> Manifest:
    """Stage one day anew, in place of its current batch."""
    rows = [(number, datetime(2024, 1, 1, 9), value) for number, value in enumerate(values)]  # noqa: DTZ001
    return rooms.batch(spec, "staging", COLUMNS, rows, partition="2024-01-01", source_unique=True).manifest


def content(rooms: Rooms, spec: TableSpec) -> list[list[tuple]]:
    """Everything of a table that a load writes, the ledger with its time."""
    return [
        rooms.ask(f"SELECT * FROM public.{spec.warehouse_name} ORDER BY id"),
        rooms.ask("SELECT * FROM rds_lake.load_ledger WHERE table_name = %s", (spec.table,)),
    ]


@pytest.fixture
def spec(rooms: Rooms) -> TableSpec:
    """A table with one day in the warehouse."""
    spec = daily(rooms.name())
    load(rooms.warehouse, rooms.store, spec, [stage(rooms, spec, "first")])
    return spec


def test_a_load_of_batches_that_were_replaced_is_refused_and_changes_nothing(rooms, spec):
    before, told = content(rooms, spec), []
    read = stage(rooms, spec, "second", "old")
    stage(rooms, spec, "third")
    with pytest.raises(ConflictError, match=f"^{spec.table}: another run staged a newer batch of the partition 2024-"):
        load(rooms.warehouse, rooms.store, spec, [read], told.append)
    assert content(rooms, spec) == before
    assert told == [], "the same batches are not tried again"


def test_a_load_that_is_overtaken_while_it_waits_for_the_lock_changes_nothing(rooms, spec):
    before = content(rooms, spec)
    read = stage(rooms, spec, "second", "old")
    lock_table = Target(spec, COLUMNS).lock_table
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with ThreadPoolExecutor(1) as pool:
        other = rooms.postgres()
        try:
            other.autocommit = False
            with other.cursor() as cursor:
                cursor.execute(f"LOCK {lock_table}")
            overtaken = pool.submit(load, rooms.warehouse, rooms.store, spec, [read])
            until(lambda: bool(rooms.ask(waits, (lock_table,))))
            newer = stage(rooms, spec, "third")
        finally:
            other.close()
        with pytest.raises(ConflictError):
            overtaken.result()
    assert content(rooms, spec) == before
    assert load(rooms.warehouse, rooms.store, spec, [newer]).rows == {"2024-01-01": 1}


# --- a stream that is not read to its end ----------------------------------------------------------------------------

STREAM_ROWS = 300_000
PAD = 200
DIGITS = f"({' UNION '.join(f'SELECT {digit} AS d' for digit in range(10))})"


@pytest.fixture
def long_table(rooms, mysql_table) -> TableSpec:
    """A table of which the server sends some 60 MB."""
    table = mysql_table("id INT PRIMARY KEY, v CHAR(200)")
    number = "a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d"
    tables = ", ".join(f"{DIGITS} {name}" for name in "abcef")
    rooms.sql(
        f"INSERT INTO {table} SELECT {number}, REPEAT('x', {PAD}) "
        f"FROM {tables}, (SELECT 0 d UNION SELECT 1 UNION SELECT 2) g"
    )
    return table_spec(table, key=["id"])


class EndedEarlyError(Exception):
    """What the reader of a stream raises."""


def sent(rooms: Rooms) -> int:
    """How many bytes the server has sent to all of its clients."""
    return int(rooms.sql("SHOW GLOBAL STATUS LIKE 'Bytes_sent'")[0][1])


def is_connected(rooms: Rooms, connection: int) -> bool:
    return connection in {row[0] for row in rooms.sql("SHOW PROCESSLIST")}


def test_a_reader_that_fails_half_way_has_the_server_stop_sending_and_warns_of_nothing(rooms, long_table, monkeypatch):
    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unraisable.append(repr(found.exc_value)))
    before, seen = sent(rooms), SimpleNamespace(rows=0, connection=0)

    def read() -> None:
        with open_snapshot(rooms.source, long_table) as snapshot:
            seen.connection = snapshot._connection.thread_id()
            rows = snapshot.rows()
            seen.rows = next(rows).num_rows
            rows.throw(EndedEarlyError())

    with pytest.raises(EndedEarlyError):
        read()
    until(lambda: not is_connected(rooms, seen.connection))
    assert 0 < seen.rows < STREAM_ROWS / 2
    assert sent(rooms) - before < STREAM_ROWS * PAD / 2
    assert unraisable == []


def test_a_reader_that_goes_on_reads_to_the_end(rooms, long_table):
    before = sent(rooms)
    with open_snapshot(rooms.source, long_table) as snapshot:
        assert sum(batch.num_rows for batch in snapshot.rows()) == STREAM_ROWS
    assert sent(rooms) - before > STREAM_ROWS * PAD
