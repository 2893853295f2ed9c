"""Which schema a file is read under, whatever comes first, and whoever died meanwhile."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from dropping import Drops, day
from rooms import Rooms

from rds_lake.errors import TransientError
from rds_lake.files import machine, zone
from rds_lake.files.agreed import SCHEMA_FILES, AgreedSchema, AgreedSchemas
from rds_lake.files.schema import TableSchema
from rds_lake.files.version import FileVersion
from rds_lake.files.work import ATTEMPTS
from rds_lake.files.zone import DropZone
from rds_lake.lake.store import ObjectStore

pytestmark = pytest.mark.stack

HEADERLESS: dict[str, Any] = {"csv": {"header": "absent"}}


class _DiedError(BaseException):
    """Stands for the death of a process, in a test that goes on."""


@pytest.mark.parametrize("versioned", [False, True])
def test_files_are_read_under_the_schema_of_their_moment_and_not_a_later_one(
    rooms: Rooms, versioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 2)
    drops = Drops.zone(rooms.environ, versioned=versioned, **HEADERLESS)
    drops.schema("t", "id bigint", "name varchar(9)")
    drops.run()
    drops.later()
    old = [drops.drop("append", "t", f"old {number}.csv", f"{number},old\n") for number in range(4)]
    drops.later()
    drops.schema("t", "id bigint", "more integer", "name varchar(9)", name="wider.json")
    drops.later()
    drops.drop("append", "t", "new.csv", "9,7,new\n")
    drops.handle(*old[:3])  # as events come: the schema file and the last files have not been noticed
    drops.run()
    assert drops.rows("t", "id, more, name") == [*((number, None, "old") for number in range(4)), (9, 7, "new")]
    drops.check_accounts("t")


A, B = ({"name": name, "type": "integer"} for name in "ab")
DAY = {"name": "a", "type": "date"}

LATE: dict[str, tuple[Any, Any, str, str, list[tuple[Any, ...]]]] = {
    # what changes: the schema before and after, the action and the text of a file of before, the rows that it is
    "the order of the columns": ([A, B], [B, A], "append", "1,2\n", [(1, 2)]),
    "a column more": ([A], [B, A], "append", "1\n", [(1, None)]),
    "a wider type": ([A], [{"name": "a", "type": "bigint"}], "append", "1\n3000000000\n", [(1,)]),
    "how days are written": (
        [{**DAY, "formats": ["%d/%m/%Y"]}],
        [{**DAY, "formats": ["%m/%d/%Y"]}],
        *("append", "03/04/2026\n"),
        [(date(2026, 4, 3),)],
    ),
    "what is allowed": (
        {"columns": [A]},
        {"columns": [A], "allowed_operations": ["append"]},
        "truncate",
        "1\n",
        [(1,)],
    ),
}


@pytest.mark.parametrize("what", LATE)
def test_a_file_that_is_handled_after_a_later_schema_file_is_read_under_its_own(rooms: Rooms, what: str) -> None:
    before, after, action, text, rows = LATE[what]
    drops = Drops.zone(rooms.environ, discard_limit=0.5, **HEADERLESS)
    drops.drop("schema", "t", "before.json", json.dumps(before))
    drops.run()
    drops.later()
    late = drops.drop(action, "t", "late.csv", text)
    claimed = drops.claim(late)
    drops.later()
    drops.handle(drops.drop("schema", "t", "after.json", json.dumps(after)))
    drops.later()
    drops.handle(drops.drop("schema", "t", "once more.json", json.dumps(after)))
    drops.work(claimed)
    assert drops.record(late).status == "completed"
    assert drops.rows("t", ", ".join(sorted(name for name, *_ in drops.types("t")))) == rows
    drops.check_accounts("t")


ONE, TWO = (TableSchema.model_validate({"columns": [A, B][:number]}) for number in (1, 2))


def agree(drops: Drops, schemas: Sequence[TableSchema]) -> AgreedSchema:
    """Agree on schemas of the table `t`, one each hour of a day; what is known then."""
    agreed = AgreedSchemas(drops.store, drops.database)
    for at, schema in enumerate(schemas):
        version = FileVersion(drops.bucket, f"{at}.json", "e", 1, day(1) + timedelta(hours=at))
        agreed.replace("t", schema, version, agreed.read("t"))
    known = agreed.read("t")
    assert known is not None
    return known


def stored(drops: Drops) -> list[dict[str, Any] | None]:
    """The agreed schemas of the table `t` as they lie in the bucket."""
    return [each["schema"] for each in json.loads(drops.body(f"schemas/{drops.database}/t.json"))["taken"]]


def test_the_schema_of_any_moment_is_known_however_many_files_have_changed_nothing(rooms: Rooms) -> None:
    start, schemas = day(1), [ONE, ONE, ONE, TWO, TWO, TWO]
    known = agree(Drops.zone(rooms.environ), schemas)
    for at, schema in enumerate(schemas):
        for minutes in (0, 59):
            assert known.at(start + timedelta(hours=at, minutes=minutes)) == schema
    assert known.at(start - timedelta(days=9)) == schemas[0]
    assert (known.schema, known.of("nobody's")) == (schemas[-1], None)
    assert [each.schema for each in known.taken] == schemas


def test_a_schema_that_is_the_same_as_the_one_before_is_not_stored_again(rooms: Rooms) -> None:
    drops, schemas = Drops.zone(rooms.environ), [ONE, ONE, ONE, TWO, TWO, ONE]
    one, two = ONE.model_dump(mode="json"), TWO.model_dump(mode="json")
    assert [each.schema for each in agree(drops, schemas).taken] == schemas
    assert stored(drops) == [one, None, None, two, None, one]


@pytest.mark.parametrize("schemas", [[ONE, ONE, ONE, ONE, TWO], [ONE, TWO, TWO, TWO, TWO], [ONE, TWO, TWO, ONE, TWO]])
def test_only_the_last_schema_files_are_remembered_and_the_oldest_of_them_is_that_of_all_times_before(
    rooms: Rooms, schemas: list[TableSchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SCHEMA_FILES == 100
    monkeypatch.setattr("rds_lake.files.agreed.SCHEMA_FILES", 3)
    drops = Drops.zone(rooms.environ)
    known = agree(drops, schemas)
    assert [each.landed_at for each in known.taken] == [day(1) + timedelta(hours=at) for at in (2, 3, 4)]
    assert [each.schema for each in known.taken] == schemas[2:]
    assert {known.at(day(1) + timedelta(minutes=minutes)) for minutes in (-1, 0, 60, 119)} == {schemas[2]}
    first, *_ = stored(drops)
    assert first == schemas[2].model_dump(mode="json"), "what it was the same as is forgotten"


def test_a_data_file_of_a_forgotten_schema_is_read_under_the_oldest_one_that_is_remembered(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rds_lake.files.agreed.SCHEMA_FILES", 2)
    drops = Drops.zone(rooms.environ, **HEADERLESS)
    drops.one(drops.schema("t", "a integer"))
    drops.later()
    late = drops.drop("append", "t", "late.csv", "1,2\n")
    claimed = drops.claim(late)
    for columns in (["b integer", "a integer"], ["c integer", "b integer", "a integer"]):
        drops.later()
        drops.one(drops.schema("t", *columns, name=f"{len(columns)}.json"))
    drops.work(claimed)
    assert drops.rows("t", "a, b, c") == [(2, 1, None)]
    drops.check_accounts("t")


def test_of_two_first_schema_files_the_second_waits_for_its_turn(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ, **HEADERLESS)
    drops.drop("append", "t", "first.csv", "1,a\n")
    drops.later()
    drops.schema("t", "id bigint", "name varchar(9)")
    drops.later()
    drops.drop("append", "t", "second.csv", "2,b\n")
    drops.later()
    drops.schema("t", "id bigint", "more integer", "name varchar(9)", name="wider.json")
    drops.later()
    drops.drop("append", "t", "third.csv", "3,7,c\n")
    drops.run()
    assert drops.rows("t", "id, more, name") == [(1, None, "a"), (2, None, "b"), (3, 7, "c")]
    drops.check_accounts("t")


def test_when_the_first_schema_file_is_refused_the_next_one_is_taken_first(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    drops.drop("append", "t", "a.csv", "id\n1\n")
    drops.later()
    bad = drops.drop("schema", "t", "bad.json", "{")
    drops.later()
    drops.schema("t", "id bigint")
    drops.run()
    assert drops.record(bad).status == "rejected"
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


@pytest.mark.parametrize("how", ["by its event", "in another batch"])
def test_a_file_is_not_refused_while_a_good_schema_file_waits_behind_a_bad_one(
    rooms: Rooms, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "AT_ONCE", 2)
    drops = Drops.zone(rooms.environ)
    dropped = drops.drop("append", "t", "a.csv", "id\n1\n")
    drops.later()
    drops.drop("schema", "t", "bad.json", "{")
    drops.later()
    drops.schema("t", "id bigint")
    if how == "by its event":
        drops.handle(dropped)
    drops.run()
    assert drops.record(dropped).status == "completed"
    drops.check_accounts("t")


@pytest.mark.parametrize("first", ["a.json", "d.csv", "b.json"])
def test_schema_files_are_taken_in_their_order_whichever_event_comes_first(rooms: Rooms, first: str) -> None:
    drops = Drops.zone(rooms.environ)
    drops.schema("t", "id bigint", name="0.json")
    drops.run()
    drops.later()
    dropped = [drops.schema("t", "id bigint", "x integer", name="a.json")]
    drops.later()
    dropped.append(drops.drop("append", "t", "d.csv", "id,x\n1,2\n"))
    drops.later()
    dropped.append(drops.schema("t", "id bigint", "x integer", "y integer", name="b.json"))
    drops.handle(next(each for each in dropped if each.name == first))
    drops.run()
    assert [drops.record(version).status for version in dropped] == ["completed"] * 3
    assert drops.rows("t", "id, x, y") == [(1, 2, None)]
    drops.check_accounts("t")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mine", [("1.json",), ("1.json", "3.json"), ("2.json",), ("3.json", "d.csv")])
def test_two_workers_that_need_schema_files_of_each_other_do_not_wait_for_ever_and_read_files_rightly(
    rooms: Rooms, mine: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 300)
    drops = Drops.zone(rooms.environ, **HEADERLESS)
    columns = ["id bigint"]
    drops.schema("t", *columns, name="0.json")
    drops.run()
    drops.later()
    dropped = []
    for number in (1, 2, 3):
        columns.insert(0, f"c{number} integer")
        dropped.append(drops.schema("t", *columns, name=f"{number}.json"))
        drops.later()
    dropped.append(drops.drop("append", "t", "d.csv", "3,2,1,9\n"))
    other = Drops(drops.environ, drops.spec)
    claims = {
        drops: drops.claim(*(each for each in dropped if each.name in mine)),
        other: other.claim(*(each for each in dropped if each.name not in mine)),
    }

    def until_done(worker: Drops) -> None:
        for _ in range(4):  # as Dagster tries a step again
            with suppress(TransientError):
                worker.work(claims[worker])
                return

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(until_done, claims))
    assert [drops.record(version).status for version in dropped] == ["completed"] * 4
    assert drops.rows("t", "c3, c2, c1, id") == [(3, 2, 1, 9)]
    drops.check_accounts("t")


OWN: dict[str, tuple[str, str]] = {
    # what the worker has that landed before the schema file of the other one: a table, and the file's content
    "a schema file of another table": ("t", '[{"name": "id", "type": "bigint"}]'),
    "a bad schema file of its table": ("u", "{"),
}


@pytest.mark.parametrize("what", OWN)
def test_a_file_waits_for_the_first_schema_of_its_table_that_another_worker_takes(rooms: Rooms, what: str) -> None:
    table, content = OWN[what]
    drops = Drops.zone(rooms.environ)
    dropped = drops.drop("append", "u", "d.csv", "id\n1\n")
    drops.later()
    own = drops.drop("schema", table, "own.json", content)
    drops.later()
    good = drops.schema("u", "id bigint", name="good.json")
    other = Drops(drops.environ, drops.spec)
    taken, claimed = other.claim(good), drops.claim(dropped, own)
    with pytest.raises(TransientError, match="Another worker still takes files"):
        drops.work(claimed)
    assert drops.record(dropped).status == "processing"
    other.work(taken)
    drops.work(claimed)  # as Dagster tries a step again
    assert drops.record(dropped).status == "completed"
    drops.check_accounts("u")


def test_a_file_waits_for_a_schema_file_of_its_second_that_another_worker_takes(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ, **HEADERLESS)
    drops.schema("t", "a integer", "b integer", name="0.json")
    drops.run()
    drops.later()
    own = drops.schema("t", "a integer", "b integer", name="1.json")
    drops.later()
    swapped = drops.schema("t", "b integer", "a integer", name="2.json")
    dropped = [drops.drop("append", "t", f"{number}.csv", f"2,{number}\n") for number in range(8)]
    assert {version.landed_at for version in dropped} == {swapped.landed_at}
    other = Drops(drops.environ, drops.spec)
    taken, claimed = other.claim(swapped), drops.claim(own, *dropped)
    with pytest.raises(TransientError, match="Another worker still takes files"):
        drops.work(claimed)
    other.work(taken)
    drops.work(claimed)
    assert drops.rows("t", "a, b") == [(number, 2) for number in range(8)]
    drops.check_accounts("t")


def test_a_schema_file_that_another_worker_has_taken_over_is_waited_for(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    schema = drops.schema("t", "id bigint")
    drops.later()
    dropped = drops.drop("append", "t", "d.csv", "id\n1\n")
    [tired] = [replace(record, attempts=machine.ALONE) for record in drops.claim(schema)]
    claimed = drops.claim(dropped)
    drops.expire(schema)
    other = Drops(drops.environ, drops.spec)
    taken = other.claim(schema)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(drops.work, [tired, *claimed])
        with suppress(FuturesTimeoutError):
            waiting.result(2)
        assert drops.record(dropped).status == "processing"
        other.work(taken)
        waiting.result(20)
    assert drops.record(dropped).status == "completed"
    drops.check_accounts("t")


@pytest.mark.parametrize("with_data", [False, True])
def test_a_schema_file_that_takes_its_worker_down_takes_no_other_file_with_it(
    rooms: Rooms, with_data: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    good = [drops.drop("append", "t", "d.csv", "id\n1\n")] if with_data else []
    drops.later()
    deadly = drops.schema("t", "id bigint", name="deadly.json")
    drops.later()
    good.append(drops.schema("t", "id bigint", name="good.json"))
    read_schema = zone.read_schema

    def dying(content: bytes, name: str) -> TableSchema:
        if name == "deadly.json":
            raise _DiedError
        return read_schema(content, name)

    monkeypatch.setattr(zone, "read_schema", dying)
    for _ in range(3 * ATTEMPTS):
        with suppress(_DiedError, TransientError):
            drops.run()
    assert drops.record(deadly).status == "failed"
    assert {drops.record(version).status for version in good} == {"completed"}
    drops.check_accounts("t")


def test_a_schema_file_that_took_effect_before_its_worker_died_is_completed_after_a_wider_one(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, lease=timedelta(seconds=-1))
    first = drops.schema("t", "id bigint")
    claimed = drops.claim(first)
    put = ObjectStore.put

    def dying(store: ObjectStore, key: str, content: bytes) -> None:
        if key.endswith("report.json"):
            raise _DiedError
        put(store, key, content)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", dying)
        with pytest.raises(_DiedError):
            drops.work(claimed)
    drops.later()
    second = drops.schema("t", "id bigint", "more integer", name="wider.json")
    assert drops.one(second).status == "completed"
    drops.run()
    assert (drops.record(first).status, drops.record(first).error) == ("completed", None)
    assert [name for name, *_ in drops.types("t")] == ["id", "more"]
    drops.check_accounts()


def test_files_behind_a_schema_file_that_waits_say_what_it_waits_for(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PATIENCE", 3600)
    drops = Drops.zone(rooms.environ)
    schema = drops.schema("t", "id bigint")
    away = TransientError("The warehouse is away.", "Start it.")
    with monkeypatch.context() as patch:
        patch.setattr(DropZone, "_prepare", raising(away))
        with pytest.raises(TransientError, match="The warehouse is away"):
            drops.run()
    dropped = drops.drop("append", "t", "a.csv", "1\n")
    with pytest.raises(TransientError, match=r"schema\.json, which comes first, waits: The warehouse is away"):
        drops.run()
    drops.expire(schema, dropped)
    drops.run()
    assert drops.rows("t", "id") == [(1,)]
    drops.check_accounts("t")


def raising(error: Exception) -> Callable[..., None]:
    def made(*_: object) -> None:
        raise error

    return made
