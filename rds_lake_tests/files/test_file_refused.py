"""Objects that S3 does not let us look at, or whose owner has deleted them: noticing goes on behind them."""

from collections.abc import Iterable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dropping import Drops
from rooms import Rooms
from test_file_events import Chain, bridged

from rds_lake.errors import ConfigError
from rds_lake.files import events, listing
from rds_lake.files.listing import Cursor, sweep
from rds_lake.files.version import FileVersion

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WAIT_SECONDS", 0)


def refuse(drops: Drops, versions: Iterable[FileVersion], monkeypatch: pytest.MonkeyPatch, code: str = "400") -> None:
    """Have HEAD refuse some objects, as S3 does what is encrypted with a key of its owner's."""
    head, keys = drops.s3.head_object, {version.key for version in versions}
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": int(code)}}

    def made(**given: Any) -> Any:
        if given["Key"] in keys:
            raise ClientError(answer, "HeadObject")
        return head(**given)

    monkeypatch.setattr(drops.s3, "head_object", made)


def ids(found: Iterable[Any]) -> list[str]:
    return sorted(each.file_id for each in found)


def some(drops: Drops, count: int) -> list[FileVersion]:
    return [drops.drop("append", "t", f"{number}.csv", f"id\n{number}\n") for number in range(count)]


@pytest.mark.parametrize("code", ["400", "403"])
def test_events_of_others_are_taken_behind_an_object_that_may_not_be_looked_at(
    rooms: Rooms, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(Drops.zone(rooms.environ))
    first, *others = some(chain.drops, 4)
    chain.queue.drain(4)
    chain.queue.send([bridged(version) for version in (first, *others)])
    refuse(chain.drops, [first], monkeypatch, code)
    look = chain.take()
    assert ids(look.claimed) == ids(others)
    assert look.summary == "4 events: 3 new files, 1 not readable."
    [problem] = look.problems
    assert problem.startswith(f"{first.url} cannot be looked at: AWS refused ")
    assert chain.queue.waiting() == 1, "its message stays"


def test_when_no_object_may_be_looked_at_the_look_fails_and_the_messages_stay(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(Drops.zone(rooms.environ))
    dropped = some(chain.drops, 3)
    chain.queue.drain(3)
    chain.queue.send([bridged(version) for version in dropped])
    refuse(chain.drops, dropped, monkeypatch, "403")
    with pytest.raises(ConfigError, match="403"):
        chain.take()
    assert chain.queue.waiting() == 3


def test_a_sweep_passes_an_object_that_may_not_be_looked_at(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CHUNK_MAX", 2)
    monkeypatch.setattr("rds_lake.files.store.PAGE", 2)
    drops = Drops.zone(rooms.environ, versioned=True)
    dropped = some(drops, 6)
    refuse(drops, dropped[:2], monkeypatch)
    swept = sweep(drops.receiver, drops.log, Cursor())
    assert ids(swept.claimed) == ids(dropped[2:])
    assert swept.ended
    assert len(swept.cursor.handled) == 0
    assert swept.summary.count(" cannot be looked at: AWS refused s3://") == 2
    for record in swept.claimed:
        drops.log.finish(record, "completed")
    again = sweep(drops.receiver, drops.log, swept.cursor)
    assert (again.ended, again.asked, len(again.cursor.handled)) == (True, 4, 2), "only what was read is finished"


def test_a_sweep_that_may_look_at_nothing_fails_unless_it_has_come_further(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, versioned=True)
    dropped = some(drops, 3)
    refuse(drops, dropped, monkeypatch, "403")
    with pytest.raises(ConfigError, match="403"):
        sweep(drops.receiver, drops.log, Cursor())
    assert sweep(drops.receiver, drops.log, Cursor(after=dropped[0].key)).ended


def test_files_go_on_beside_a_schema_file_that_may_not_be_looked_at(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("t", "id bigint")
    drops.run()
    bad = drops.schema("t", "id bigint", "more integer", name="secret.json")
    good = drops.schema("u", "id bigint")
    drops.later()
    files = [drops.drop("append", table, "a.csv", "id\n1\n") for table in "tu"]
    refuse(drops, [bad], monkeypatch)
    drops.handle(*files)
    assert {drops.record(version).status for version in (good, *files)} == {"completed"}
    assert any(told.startswith(f"{bad.url} cannot be looked at: ") for told in drops.said)


def test_a_file_that_its_owner_has_deleted_is_not_loaded_whatever_version_the_event_names(rooms: Rooms) -> None:
    chain = Chain(Drops.zone(rooms.environ, versioned=True))
    drops = chain.drops
    deleted, replaced = (drops.drop("append", "t", name, "id\n1\n") for name in ("deleted.csv", "replaced.csv"))
    drops.s3.delete_object(Bucket=drops.bucket, Key=deleted.key)
    newer = drops.drop("append", "t", "replaced.csv", "id\n2\n")
    chain.queue.drain(3)
    chain.queue.send([bridged(deleted), bridged(replaced), bridged(newer)])
    look = chain.take()
    assert ids(look.claimed) == ids([replaced, newer])
    assert look.gone == 1
