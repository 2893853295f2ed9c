"""Files that replace the whole content of a table: readers see the old rows or the new ones, a bad file keeps the old.

`truncate` never empties a table that it does not fill again in the same transaction.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import pytest
from dropping import Drops, day

from rds_lake.files import zone
from rds_lake.files.load import load_files
from rds_lake.files.stage import Staged
from rds_lake.files.version import FileVersion

TRUNCATES = 30
OLD = [(1, "old"), (2, "old")]
COLUMNS = ("id bigint", "name varchar(10)")


def batch(number: int) -> str:
    """A file whose rows say which one it is, and how many of them there are."""
    return "".join(f"{row},{number}\n" for row in range(40 + number))


@contextmanager
def watched(drops: Drops, query: str) -> Iterator[list[tuple[Any, ...]]]:
    """What a reader sees who asks again and again meanwhile; each state once."""
    seen: list[tuple[Any, ...]] = []
    done = threading.Event()

    def watch() -> None:
        connection = drops.connect()
        with connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute(query)
                row = cursor.fetchone()
                if not seen or seen[-1] != row:
                    seen.append(row)
        connection.close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_a_reader_never_sees_an_empty_table_or_rows_of_two_files(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "batch bigint", keys=["id"])
    drops.drop("truncate", "things", "0.csv", batch(0))
    drops.run()
    with watched(drops, f"SELECT COUNT(*), MIN(batch), MAX(batch) FROM {drops.table('things')}") as seen:
        for number in range(1, TRUNCATES + 1):
            name, landed = f"{number % 2}.csv", day(400 + number)
            assert drops.one(drops.drop("truncate", "things", name, batch(number), landed)).rows_loaded == 40 + number
    assert all(row == (40 + row[1], row[1], row[1]) for row in seen), seen
    numbers = [row[1] for row in seen]
    assert numbers == sorted(numbers)
    assert len(numbers) > TRUNCATES / 2  # it looked often enough to have seen something
    drops.check_accounts("things", keyed=True)


def test_a_reader_that_has_begun_goes_on_seeing_what_it_saw(rooms):
    drops = filled(rooms)
    reader = drops.connect()
    with reader.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(f"SELECT id, name FROM {drops.table('things')} ORDER BY id")
        assert cursor.fetchall() == OLD
        assert drops.one(drops.drop("truncate", "things", "b.csv", "3,new\n", day(2))).status == "completed"
        cursor.execute(f"SELECT id, name FROM {drops.table('things')} ORDER BY id")
        assert cursor.fetchall() == OLD
        cursor.execute("COMMIT")
    reader.close()
    assert drops.rows("things", "id, name") == [(3, "new")]


def filled(rooms: Any, **spec: Any) -> Drops:
    """A zone with a table that has two rows."""
    drops = Drops.zone(rooms.environ, versioned=True, **spec)
    drops.schema("things", *COLUMNS)
    drops.run()
    assert drops.one(drops.drop("truncate", "things", "a.csv", "1,old\n2,old\n", day(1))).status == "completed"
    return drops


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "b.csv is empty. Drop a file with rows."),
        ("id,name\n", "b.csv has no rows, only a header. Drop a file with rows."),
        (
            '3,new\n4,"new\n5,new\n',
            (
                "b.csv, line 2: a quoted field begins there and never ends. "
                "Close it, or double the quotes inside of fields."
            ),
        ),
        (
            "3,new\nx,new\n",
            (
                "1 of 2 rows of b.csv do not fit, more than the 10% that may be discarded. The first: line 2: id is no "
                "bigint. Correct the file, or the schema; all such rows lie in discarded/ with their reasons."
            ),
        ),
        (
            "id,surname\n3,new\n",
            (
                "The first row of b.csv looks like a header, but names the column 'surname', "
                "which the table does not have (it has id, name). "
                "Correct the header, or drop a schema file that adds the column. If it is a row: say 'header: absent'."
            ),
        ),
    ],
    ids=["empty", "only a header", "broken", "too many bad rows", "an unknown column"],
)
def test_a_bad_file_leaves_the_old_rows(rooms, body, error):
    drops = filled(rooms)
    record = drops.one(drops.drop("truncate", "things", "b.csv", body, day(2)))
    assert (record.status, record.rows_loaded, record.error) == ("rejected", 0, error)
    assert drops.rows("things", "id, name") == OLD
    assert len(drops.ledger("things")) == 1
    record = drops.one(drops.drop("truncate", "things", "b.csv", "3,new\n", day(3)))
    assert (record.status, drops.rows("things", "id, name")) == ("completed", [(3, "new")])
    drops.check_accounts("things")


@contextmanager
def before_loading(patch: pytest.MonkeyPatch, meddle: Callable[[Sequence[Staged]], None]) -> Iterator[None]:
    """Do something when files have been staged and are about to be loaded; the first time only."""
    begun = []

    def load(*given: Any) -> Any:
        if not begun:
            begun.append(True)
            meddle(given[3])
        return load_files(*given)

    with patch.context() as inner:
        inner.setattr(zone, "load_files", load)
        yield


def test_a_file_whose_staged_rows_vanish_before_they_are_loaded_leaves_the_old_rows(rooms, monkeypatch):
    drops = filled(rooms)

    def vanish(staged: Sequence[Staged]) -> None:
        for file in staged:
            drops.s3.delete_object(Bucket=drops.bucket, Key=file.part)

    dropped = drops.drop("truncate", "things", "b.csv", "3,new\n", day(2))
    with before_loading(monkeypatch, vanish):
        record = drops.one(dropped)
    assert (record.status, record.rows_read, record.rows_loaded) == ("failed", 1, 0)
    assert "part-00000.parquet" in record.error
    assert drops.rows("things", "id, name") == OLD
    assert drops.original(record) == b"3,new\n"
    drops.check_accounts("things")


def test_a_file_whose_staged_rows_are_replaced_before_they_are_loaded_leaves_the_old_rows(rooms, monkeypatch):
    drops = filled(rooms)
    [old] = [key for key in drops.keys("staging/") if key.endswith(".parquet")]

    def replace(staged: Sequence[Staged]) -> None:
        drops.put(staged[0].part, drops.body(old))

    dropped = drops.drop("truncate", "things", "b.csv", "3,new\n", day(2))
    with before_loading(monkeypatch, replace):
        record = drops.one(dropped)
    assert record.status == "failed"
    assert drops.rows("things", "id, name") == OLD
    drops.check_accounts("things")


def test_a_file_that_cannot_be_loaded_takes_no_other_of_its_table_with_it(rooms, monkeypatch):
    drops = filled(rooms)

    def vanish(staged: Sequence[Staged]) -> None:
        [part] = [file.part for file in staged if file.action == "truncate"]
        drops.s3.delete_object(Bucket=drops.bucket, Key=part)

    bad = drops.drop("truncate", "things", "b.csv", "3,new\n", day(3))
    good = [
        drops.drop("append", "things", "c.csv", "4,more\n", day(2)),
        drops.drop("append", "things", "d.csv", "5,more\n", day(4)),
    ]
    with before_loading(monkeypatch, vanish):
        records = drops.settled(bad, *good)
    assert [record.status for record in records] == ["failed", "completed", "completed"]
    assert drops.rows("things", "id, name") == [*OLD, (4, "more"), (5, "more")]
    drops.check_accounts("things")


def test_a_table_whose_column_was_exchanged_by_hand_keeps_its_rows_and_the_record_names_it(rooms):
    drops = filled(rooms)
    drops.ask(f"ALTER TABLE {drops.table('things')} DROP COLUMN id")
    drops.ask(f"ALTER TABLE {drops.table('things')} ADD COLUMN id DATE")
    record = drops.one(drops.drop("truncate", "things", "b.csv", "3,new\n", day(2)))
    assert record.status == "failed"
    assert record.error == (
        f"The column id of {drops.database}.things is DATE in the warehouse, the schema says BIGINT, and neither holds "
        "all values of the other. Give the schema the type that the warehouse has, or rename that column there."
    )
    assert drops.rows("things", "name, id") == [("old", None), ("old", None)]


def test_a_truncate_that_landed_before_another_one_changes_nothing(rooms):
    drops = filled(rooms)
    assert drops.one(drops.drop("truncate", "things", "c.csv", "3,new\n", day(3))).status == "completed"
    late = [
        drops.drop("truncate", "things", "b.csv", "2,late\n", day(2)),
        drops.drop("append", "things", "b.csv", "2,late\n", day(2)),
    ]
    for record in drops.settled(*late):
        assert (record.status, record.rows_read, record.rows_loaded) == ("rejected", 1, 0)
        assert record.error == (
            "b.csv landed before a file that has replaced the whole table. Drop it again if it is meant."
        )
    assert drops.rows("things", "id, name") == [(3, "new")]
    assert [(row["action"], row["rows_loaded"]) for row in drops.ledger("things")] == [
        ("truncate", 2),
        ("superseded", 0),
        ("superseded", 0),
        ("truncate", 1),
    ]
    drops.check_accounts("things")


def test_a_late_truncate_keeps_what_landed_after_it(rooms):
    drops = filled(rooms)
    drops.handle(
        drops.drop("append", "things", "b.csv", "2,before\n", day(2)),
        drops.drop("append", "things", "d.csv", "4,after\n", day(4)),
        drops.drop("append", "things", "e.csv", "5,after\n", day(5)),
    )
    record = drops.one(drops.drop("truncate", "things", "c.csv", "3,late\n", day(3)))
    assert record.status == "completed"
    assert drops.rows("things", "id, name") == [(3, "late"), (4, "after"), (5, "after")]
    drops.check_accounts("things")


def test_a_late_file_whose_newer_ones_are_not_staged_any_more_changes_nothing(rooms):
    drops = filled(rooms)
    newer = drops.drop("append", "things", "d.csv", "4,after\n", day(4))
    drops.handle(newer)
    [manifest] = [row["manifest"] for row in drops.ledger("things") if row["file_id"] == newer.file_id]
    drops.s3.delete_object(Bucket=drops.bucket, Key=manifest.removeprefix(f"s3://{drops.bucket}/"))
    record = drops.one(drops.drop("truncate", "things", "c.csv", "3,late\n", day(3)))
    assert record.status == "failed"
    assert record.error == (
        f"{manifest} is gone, so a file that landed earlier cannot be put before the one it is of. "
        "Restore it, or drop the late file again under another name, so that it counts as new."
    )
    assert drops.rows("things", "id, name") == [*OLD, (4, "after")]
    drops.check_accounts("things")


def test_files_of_one_second_have_an_order_of_their_own_that_does_not_depend_on_who_handles_them(rooms):
    tables = []
    for groups in (1, 4):
        drops = Drops.zone(rooms.environ, versioned=True)
        drops.schema("things", *COLUMNS)
        drops.run()
        files = [
            drops.drop(action, "things", f"{number}.csv", f"{number},{action[:6]}\n", day(2))
            for number, action in enumerate(["append", "truncate", "append", "truncate", "append"])
        ]
        for start in range(groups):
            drops.handle(*files[start::groups])
        wanted: list[tuple[int, str]] = []
        for version in sorted(files, key=lambda version: version.file_id):
            action = version.key.split("/")[1]
            row = (int(version.name[0]), action[:6])
            wanted = [row] if action == "truncate" else [*wanted, row]
        assert drops.rows("things", "id, name") == sorted(wanted)
        tables.append(drops)
        drops.check_accounts("things")


def test_a_truncated_table_with_keys_takes_each_key_once(rooms):
    drops = Drops.zone(rooms.environ, versioned=True, discard_limit=0.5)
    drops.schema("things", *COLUMNS, keys=["id"])
    drops.run()
    drops.one(drops.drop("append", "things", "a.csv", "1,old\n9,old\n", day(1)))
    record = drops.one(drops.drop("truncate", "things", "b.csv", "1,first\n2,only\n1,second\n", day(2)))
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (3, 2, 1)
    assert drops.rows("things", "id, name") == [(1, "second"), (2, "only")]
    drops.check_accounts("things", keyed=True)


# --- the same file again ---------------------------------------------------------------------------------------------

ONCE = "1\n2\n"


def again(drops: Drops, table: str) -> list[FileVersion]:
    """A file, one that replaces the whole table, and the first one again, in the order in which they landed."""
    drops.schema(table, "id bigint")
    return [
        drops.drop("append", table, "f.csv", ONCE, day(1)),
        drops.drop("truncate", table, "t.csv", "100\n", day(2)),
        drops.drop("append", table, "f.csv", ONCE, day(3)),
    ]


def test_a_file_that_repeats_another_one_is_in_once_a_truncate_lies_between_whatever_is_handled_first(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    orders = list(permutations(range(3)))
    tables = [f"things_{number}_{cut}" for number in range(len(orders)) for cut in (1, 2, 3)]
    dropped = {table: again(drops, table) for table in tables}
    drops.handle(*(drops.version(key) for key in drops.keys(f"{drops.database}/schema/")))
    for number, order in enumerate(orders):
        for cut in (1, 2, 3):  # the first ones together, then each of the others
            table = f"things_{number}_{cut}"
            ordered = [dropped[table][at] for at in order]
            for group in (ordered[:cut], *([version] for version in ordered[cut:])):
                drops.handle(*group)
            assert drops.rows(table, "id") == [(1,), (2,), (100,)], (order, cut)
            assert [row["rows_loaded"] for row in drops.ledger(table)][1:] == [1, 2]
    drops.check_accounts(*tables)


def test_a_late_truncate_says_which_repeats_came_in_behind_it(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    first, truncate, second = again(drops, "things")
    third = drops.drop("append", "things", "f.csv", ONCE, day(4))
    drops.handle(first)
    drops.handle(second)
    drops.handle(third)
    assert drops.rows("things", "id") == [(1,), (2,)]
    assert [(row["file_id"], row["action"], row["rows_loaded"]) for row in drops.ledger("things")] == [
        (first.file_id, "append", 2),
        (second.file_id, "repeated", 0),
        (third.file_id, "repeated", 0),
    ]
    record = drops.one(truncate)
    assert (record.status, record.rows_loaded) == ("completed", 1)
    assert drops.report(record)["result"]["details"]["came in after it"] == [second.file_id]
    assert "loaded again after it" not in drops.report(record)["result"]["details"]
    [told] = [text for text in drops.said if "repeats" in text]
    assert told == (
        f"{drops.database}.things: a truncate landed between these files and those that they were refused for as "
        f"repeats, so their rows came in behind it: {second.file_id}"
    )
    assert drops.rows("things", "id") == [(1,), (2,), (100,)]
    assert [(row["file_id"], row["action"], row["rows_loaded"]) for row in drops.ledger("things")] == [
        (first.file_id, "append", 2),
        (truncate.file_id, "truncate", 1),
        (second.file_id, "append", 2),
        (third.file_id, "repeated", 0),
    ]
    for repeat in (second, third):
        assert (drops.record(repeat).status, drops.record(repeat).rows_loaded) == ("rejected", 0)
    drops.check_accounts("things")


def test_a_repeat_whose_worker_dies_after_the_load_is_a_repeat_for_the_next_one(rooms, monkeypatch):
    drops = Drops.zone(rooms.environ, versioned=True)
    first, truncate, second = again(drops, "things")
    drops.handle(first)

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zone.DropZone, "_loaded", die)
        with pytest.raises(KeyboardInterrupt):
            drops.handle(second)
    assert [row["action"] for row in drops.ledger("things")] == ["append", "repeated"]
    drops.expire(second)
    record = drops.one(second)
    assert (record.status, record.rows_loaded, record.attempts) == ("rejected", 0, 2)
    assert f"{first.file_id} has its name and its bytes" in record.error
    assert drops.rows("things", "id") == [(1,), (2,)]
    drops.one(truncate)
    assert drops.rows("things", "id") == [(1,), (2,), (100,)]
    drops.check_accounts("things")


def test_a_repeat_whose_staged_rows_are_gone_lets_the_late_truncate_fail_and_changes_nothing(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    first, truncate, second = again(drops, "things")
    drops.handle(first)
    drops.handle(second)
    manifest = drops.ledger("things")[1]["manifest"]
    drops.s3.delete_object(Bucket=drops.bucket, Key=manifest.removeprefix(f"s3://{drops.bucket}/"))
    record = drops.one(truncate)
    assert record.status == "failed"
    assert f"{manifest} is gone" in record.error
    assert drops.rows("things", "id") == [(1,), (2,)]
    assert [row["action"] for row in drops.ledger("things")] == ["append", "repeated"]
    drops.check_accounts("things")
