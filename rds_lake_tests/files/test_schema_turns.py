"""Which schema a file is read under, whatever comes first, and whoever died meanwhile."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from dropping import Drops, day
from rooms import Rooms

from rds_lake.errors import TransientError
from rds_lake.files import machine
from rds_lake.files.agreed import AgreedSchemas
from rds_lake.files.schema import TableSchema
from rds_lake.files.version import FileVersion
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


def test_the_schema_of_any_moment_is_known_however_many_files_have_changed_nothing(rooms: Rooms) -> None:
    drops = Drops.zone(rooms.environ)
    agreed, start = AgreedSchemas(drops.store, drops.database), day(1)
    schemas = [TableSchema.model_validate({"columns": [A, B][: at // 3 + 1]}) for at in range(6)]
    for at, schema in enumerate(schemas):
        version = FileVersion(drops.bucket, f"{at}.json", "e", 1, start + timedelta(hours=at))
        agreed.replace("t", schema, version, agreed.read("t"))
    known = agreed.read("t")
    assert known is not None
    for at, schema in enumerate(schemas):
        for minutes in (0, 59):
            assert known.at(start + timedelta(hours=at, minutes=minutes)) == schema
    assert known.at(start - timedelta(days=9)) == schemas[0]
    assert (known.schema, known.of("nobody's")) == (schemas[-1], None)
    assert [each.schema for each in known.taken] == schemas


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
