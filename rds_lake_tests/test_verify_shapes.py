"""The audit of tables whose columns have changed, whose cursor is of another kind, and whose values are not all kept.

Each is taken through all rooms as a sync does it; the audit must find no difference then, and name what is bent after.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from rooms import FENCE, Rooms, daily, mysql_table, rooms
from test_cursors import KINDS, at, cursor_of, first_rows, value
from test_schema_drift import DAYS, DRIFTS, Chain, chain
from test_verify import said

from rds_lake.errors import SpecError
from rds_lake.sql import quote
from rds_lake.verify.audit import Audit, TableVerdict

__all__ = ["chain", "mysql_table", "rooms"]

pytestmark = pytest.mark.stack

Make = Callable[..., Any]


def verify(made: Chain, **more: Any) -> TableVerdict:
    room = made.rooms
    return Audit(room.source, room.store, room.catalog, room.warehouse).table(made.spec, **more)


def assert_clean(made: Chain) -> TableVerdict:
    """No difference, by checksum and row by row."""
    found = verify(made, rows=True)
    assert found.in_step, said(found)
    assert {side: found.total(side) for side in ("source", "landing")} == {
        "source": found.total("archived"),
        "landing": found.total("staging") + found.total("discarded"),
    }
    return found


def assert_named(made: Chain, statement: str, *names: str, restore: str, partition: str | None = None) -> None:
    """Bend the warehouse by a statement, see that the audit names it, and take it back."""
    made.rooms.ask(statement)
    found = verify(made)
    bad = [verdict for verdict in found.partitions if verdict.status == "DIFFERS"]
    assert len(bad) == 1, said(found)
    assert partition in {None, bad[0].partition}
    lines = "\n".join(bad[0].differences.lines)
    assert all(name in lines for name in names), lines
    made.rooms.ask(restore)
    assert not verify(made).differs


# --- the source's columns change -------------------------------------------------------------------------------------


def target(made: Chain) -> str:
    return f'public."{made.spec.warehouse_name}"'


def bend(made: Chain, column: str, row: int) -> None:
    """Bend one value of the warehouse, and see that the audit names column and row."""
    kind = made.types()[column]
    other = "'?'" if kind.startswith("character") else "'1999-01-01'" if kind == "date" else "77"
    [(before,)] = made.rooms.ask(f"SELECT {column} FROM {target(made)} WHERE id = {row}")
    quoted = "NULL" if before is None else f"'{before}'"
    update = f"UPDATE {target(made)} SET {column} = {{}} WHERE id = {row}"
    assert_named(made, update.format(other), f"id {row}: {column} is ", restore=update.format(quoted))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contract"),
    # A column of two words takes no bent one.
    [(name, "evolve") for name in DRIFTS if "one of two words" not in name]
    + [(n, "discard") for n in ("dropped", "widened decimal", "number to text")],
)
def test_columns_that_changed_are_no_difference_and_none_escapes(chain: Make, name: str, contract: str) -> None:
    drift = DRIFTS[name]
    made: Chain = chain(contract)
    assert_clean(made)
    made.alter(drift.alter, mode="" if name.endswith("not strict") else "STRICT_ALL_TABLES")
    made.write(drift.after)
    before = verify(made)
    assert not before.differs, said(before)
    assert {v.partition for v in before.partitions if v.behind} == set(made.plan().land)
    made.sync()
    made.write("UPDATE {} SET at = '2024-01-01 09:00:00' WHERE id = 1")
    made.sync()
    assert_clean(made)
    changed = {*dict(drift.types), *drift.lost} & made.types().keys()
    for column in sorted(changed or {"v"}):
        bend(made, column, 3)
    column = "v" if "v" not in drift.lost else "d"
    made.write(f"UPDATE {{}} SET {column} = '7' WHERE id = 4")  # the cursor does not change, so that no sync sees it
    found = verify(made)
    [bad] = [verdict for verdict in found.partitions if verdict.status == "DIFFERS"]
    assert bad.partition == DAYS[1]
    assert f"{column} is " in bad.differences.lines[0]


def test_a_partition_that_a_sync_will_land_in_other_columns_is_behind(chain: Make) -> None:
    made: Chain = chain()
    made.alter("ALTER TABLE MODIFY d DECIMAL(7,1)")  # rounds, without a change of the cursor
    found = verify(made)
    assert {verdict.behind for verdict in found.partitions} == {"the source's columns have changed since"}
    assert not found.differs, said(found)
    plan = made.plan()
    made.land(plan.land)
    made.split(plan.land)
    made.archive(plan.land)  # and dies before the load
    found = verify(made)
    assert not found.differs, said(found)
    assert made.sync().land == DAYS
    assert_clean(made)


def test_a_change_that_the_contract_refuses_is_told_and_the_rest_is_compared(chain: Make) -> None:
    made: Chain = chain("freeze")
    made.alter("ALTER TABLE ADD COLUMN x INT, DROP COLUMN n")
    with pytest.raises(SpecError):
        made.sync()
    found = verify(made)
    assert not found.differs, said(found)
    assert found.notes[0].startswith("the next sync will refuse: ")
    assert found.notes[1] == "n (int(11)) is not compared with the source"
    bend(made, "n", 3)
    bend(made, "v", 3)


@pytest.mark.parametrize("scale", [6, 8])
def test_numbers_kept_as_text_are_compared_as_far_as_their_text_is_plain(chain: Make, scale: int) -> None:
    rows = [(n, f"2024-01-0{n} 10:00:00", text) for n, text in ((1, "1.5"), (2, "-0.25"), (3, "0"))]
    made: Chain = chain("evolve", "id INT PRIMARY KEY, at DATETIME, v VARCHAR(40), KEY (at)", rows, rules=[])
    made.alter(f"ALTER TABLE MODIFY v DECIMAL(12,{scale})")
    made.sync()
    found = assert_clean(made)
    note = "not compared with the source in 3 partitions from 2024-01-01 on: v (varchar(40))"
    assert found.notes == (() if scale == 6 else (note,))
    bend(made, "v", 3)


# --- cursors ---------------------------------------------------------------------------------------------------------


CURSORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "seconds by week": ("seconds", "week", {}),
    "unsigned microseconds": ("unsigned microseconds", "day", {}),
    "milliseconds by hour, NULL left out": ("milliseconds", "hour", {"nulls": "exclude"}),
    "a date by week": ("date", "week", {}),
    "a date, NULL left out": ("date", "day", {"nulls": "exclude"}),
    "a wall clock in Berlin by month": ("datetime6", "month", {"timezone": "Europe/Berlin"}),
    "an instant by week": ("timestamp6", "week", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURSORS)
def test_a_cursor_of_any_kind_is_no_difference_and_a_bent_row_is_named(
    rooms: Rooms, mysql_table: Make, name: str
) -> None:
    kind, unit, more = CURSORS[name]
    moments = [*first_rows(), (40, at("2024-03-31 02:30:00")), (41, at("2024-10-27 02:30:00.000001"))]
    rows = [(key, value(kind, moment), "a") for key, moment in moments]
    table = mysql_table(f"id INT PRIMARY KEY, at {KINDS[kind][0]}, v VARCHAR(40), KEY (at)", rows=rows)
    cursor = cursor_of(kind, **more)
    made = Chain(rooms, daily(table, cursor=cursor, partitions={"by": unit, "start": "2024-01-01"}))
    made.sync()
    expected = len(rows) - (2 if more.get("nulls") == "exclude" else 0)
    assert assert_clean(made).total("warehouse") == expected
    for row in (41, 1 if expected == len(rows) else 20):
        update = f"UPDATE {target(made)} SET v = '{{}}' WHERE id = {row}"
        assert_named(made, update.format("b"), f"id {row}: v is 'a'", restore=update.format("a"))
        made.write(f"UPDATE {{}} SET v = 'b' WHERE id = {row}")
        [bad] = [verdict for verdict in verify(made).partitions if verdict.status == "DIFFERS"]
        assert bad.differences.lines == (
            f"id {row}: v is 'b' in source but 'a' in landing, archived, staging, warehouse",
        )
        made.write(f"UPDATE {{}} SET v = 'a' WHERE id = {row}")
    if expected < len(rows):
        found = verify(made)
        assert found.in_step, said(found)
        made.rooms.ask(f"INSERT INTO {target(made)} VALUES (99, NULL, 'x')")
        [fault] = verify(made).faults
        assert fault.startswith("1 row of the warehouse lies in no partition (id 99). No sync removes them; ")
        made.rooms.ask(fault.partition("then: ")[2])
        assert verify(made).in_step, "the statement that it gives is the remedy"


def test_rows_that_gave_way_are_told_by_integer_cursors_as_well(rooms: Rooms, mysql_table: Make) -> None:
    kind = "unsigned microseconds"
    moments = [(1, at("2024-01-01 10:00:00")), (2, at("2024-01-01 10:00:00")), (1, at("2024-01-03 10:00:00.000001"))]
    rows = [(key, value(kind, moment), "a") for key, moment in moments]
    table = mysql_table(f"id INT, at {KINDS[kind][0]}, v VARCHAR(40), KEY (at)", rows=rows)
    made = Chain(rooms, daily(table, cursor=cursor_of(kind)))
    made.sync()
    found = verify(made, rows=True)
    assert found.in_step, said(found)
    assert (found.total("staging"), found.total("warehouse")) == (3, 2)


def test_rows_in_the_future_are_no_difference(rooms: Rooms, mysql_table: Make) -> None:
    later = datetime.fromisoformat(FENCE).replace(tzinfo=None) + timedelta(days=9_000)
    rows = [(1, "2024-01-01 10:00:00"), (2, later)]
    made = Chain(rooms, daily(mysql_table("id INT PRIMARY KEY, at DATETIME, KEY (at)", rows=rows)))
    made.sync()
    assert assert_clean(made).total("source") == 1


# --- values that are not all kept ------------------------------------------------------------------------------------


def test_values_that_are_discarded_or_null_are_no_difference(rooms: Rooms, mysql_table: Make) -> None:
    table = mysql_table(
        "id INT PRIMARY KEY, at DATETIME, doc MEDIUMTEXT, photo MEDIUMBLOB, hexed MEDIUMBLOB, born DATE, note TEXT, "
        "file BLOB, KEY (at)"
    )
    long: Sequence[Sequence[Any]] = [
        (1, "x" * 65_536, b"\xff" * 1_024_001, b"\xab" * 32_768, "0000-00-00", "n\0", b"1"),
        (2, "n\0n", b"\xff" * 1_024_000, b"\xab" * 32_767, "2020-02-30", "n", b"2" * 65_535),
        (3, "é", b"", b"", "2020-02-29", "", b""),
        (4, None, None, None, None, None, None),
        (5, "fine", b"\xfe" * 65_536, None, "0001-01-01", None, None),
    ]
    with rooms.mysql() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        for row in long:
            marks = ", ".join(["%s"] * (len(row) - 1))
            cursor.execute(f"INSERT INTO {quote(table, 'mysql')} VALUES (%s, '2024-01-01', {marks})", row)
    columns = {name: {"as": "null"} for name in ("born", "note", "file")} | {"hexed": {"as": "string"}}
    made = Chain(rooms, daily(table, columns=columns))
    made.sync()
    found = assert_clean(made)
    assert (found.total("discarded"), found.total("warehouse")) == (2, 3)
    bend_to = f"UPDATE {target(made)} SET photo = {{}} WHERE id = 5"
    same = "decode(repeat('fe', 65536), 'hex')"
    bent = "decode(repeat('fe', 65535) || 'ff', 'hex')"
    assert_named(made, bend_to.format(bent), "id 5: photo is ", restore=bend_to.format(same))
    born = f"UPDATE {target(made)} SET born = {{}} WHERE id = 3"
    assert_named(made, born.format("NULL"), "id 3: born is 2020-02-29", restore=born.format("'2020-02-29'"))


def test_an_excluded_column_is_not_compared(rooms: Rooms, mysql_table: Make) -> None:
    table = mysql_table("id INT PRIMARY KEY, at DATETIME, shape POINT, KEY (at)")
    rooms.sql(f"INSERT INTO {table} VALUES (1, '2024-01-01', ST_GeomFromText('POINT(1 2)'))")
    made = Chain(rooms, daily(table, columns={"shape": {"as": "exclude"}}))
    made.sync()
    assert_clean(made)
    rooms.sql(f"UPDATE {table} SET shape = ST_GeomFromText('POINT(3 4)')")
    assert_clean(made)
