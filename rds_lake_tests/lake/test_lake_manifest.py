"""Keys and manifests: an interface that users' scripts lean on, and the commit point."""

import json
from threading import Lock
from time import sleep

import pytest
from rooms import FENCE, daily, open_store, refit, table_spec

from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.extract.types import Column
from rds_lake.lake import store as stores
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.keys import BatchFile, TableKeys, is_batch_file
from rds_lake.lake.manifest import File, Manifest, Manifests
from rds_lake.lake.store import FEW
from rds_lake.side_by_side import side_by_side

COLUMNS = (Column("id", "int(11)", nullable=False), Column("at", "datetime"))
FILES = (File("orders/staging/p/a.parquet", 10, 2, "aa"), File("orders/staging/p/b.parquet", 20, 3, "bb"))
MANIFEST = Manifest(
    table="orders",
    stage="staging",
    partition="2024-01-01",
    batch="0123",
    files=FILES,
    columns=COLUMNS,
    fingerprint="5-abc",
    fence=FENCE,
    parent="landed-1",
    rules="feed",
    details={"valid_status": 3},
    source_unique=True,
)


# --- where things lie ------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_design():
    keys = TableKeys.of(daily("orders", cursor={"column": "changed"}))
    assert keys.part("staging", "2024-01-01", "b1", 0, "parquet") == (
        "orders/staging/changed_day=2024-01-01/batch=b1/part-00000.parquet"
    )
    assert keys.manifest("staging", "2024-01-01") == "orders/_manifests/staging/2024-01-01.json"
    assert keys.partition_of(keys.manifest("staging", "2024-01-01T05")) == "2024-01-01T05"


def test_a_key_tells_partition_and_batch_of_a_file():
    for spec, partition in ((daily("orders"), "2024-01-01"), (table_spec("customers"), "all")):
        key = TableKeys.of(spec).part("landing", partition, "20240101T000000-ab", 3, "parquet")
        assert TableKeys.of(spec).batch_file(key) == BatchFile("landing", partition, "20240101T000000-ab")
        assert is_batch_file(key)


def test_a_table_without_partitions_has_no_partition_folder():
    keys = TableKeys.of(table_spec("customers"))
    assert keys.part("landing", "all", "b1", 12, "csv") == "customers/landing/batch=b1/part-00012.csv"
    assert keys.manifest("landing", "all") == "customers/_manifests/landing/all.json"


def test_no_prefix_of_a_table_matches_another_tables_keys():
    one, other = TableKeys.of(daily("orders")), TableKeys.of(daily("orders_archive"))
    for prefix in (one.stage("landing"), one.partition("landing", "2024-01-0"), one.manifests("landing")):
        assert prefix.endswith("/")
        assert not other.part("landing", "2024-01-01", "b", 0, "parquet").startswith(prefix)
        assert not other.manifest("landing", "2024-01-01").startswith(prefix)
    assert not one.part("landing", "2024-01-01", "b10", 0, "x").startswith(one.batch("landing", "2024-01-01", "b1"))


# --- the format ------------------------------------------------------------------------------------------------------


def test_a_manifest_has_exactly_the_documented_fields():
    assert json.loads(MANIFEST.to_json("lake")) == {
        "entries": [
            {
                "url": "s3://lake/orders/staging/p/a.parquet",
                "mandatory": True,
                "meta": {"content_length": 10, "record_count": 2, "sha256": "aa"},
            },
            {
                "url": "s3://lake/orders/staging/p/b.parquet",
                "mandatory": True,
                "meta": {"content_length": 20, "record_count": 3, "sha256": "bb"},
            },
        ],
        "version": 1,
        "table": "orders",
        "stage": "staging",
        "partition": "2024-01-01",
        "batch": "0123",
        "rows": 5,
        "fingerprint": "5-abc",
        "fence": FENCE,
        "format": "parquet",
        "parent": "landed-1",
        "rules": "feed",
        "details": {"valid_status": 3},
        "source_unique": True,
        "shape": None,
        "snapshot": None,
        "schema": [
            {"name": "id", "type": "int(11)", "nullable": False},
            {"name": "at", "type": "datetime", "nullable": True},
        ],
    }


def test_a_manifest_comes_back_as_it_was_written():
    for manifest in (MANIFEST, refit(MANIFEST, files=(), parent=None, rules=None, details={}, format="csv")):
        assert Manifest.from_json(manifest.to_json("lake"), "lake", "here") == manifest


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"entries": [{"url": "s3://lake/x"}]}'])
def test_what_is_no_manifest_is_refused_with_its_address(content):
    with pytest.raises(PermanentError, match=r"s3://lake/there is not a manifest that rds_lake wrote"):
        Manifest.from_json(content, "lake", "s3://lake/there")


def test_batches_have_the_same_content_wherever_their_files_lie():
    moved = MANIFEST.with_files([refit(file, key=f"elsewhere/{file.sha256}") for file in FILES])
    assert moved.same_content(MANIFEST)
    assert refit(moved, batch="other", fingerprint="x", fence="y").same_content(MANIFEST)
    assert not moved.with_files(moved.files[:1]).same_content(MANIFEST)
    assert not moved.with_files(moved.files[::-1]).same_content(MANIFEST)
    assert not refit(moved, columns=COLUMNS[:1]).same_content(MANIFEST)
    assert not refit(moved, format="csv").same_content(MANIFEST)


# --- the commit ------------------------------------------------------------------------------------------------------


def kept(rooms) -> tuple[Manifests, Manifest]:
    spec = daily(rooms.name())
    return Manifests(rooms.store, TableKeys.of(spec)), refit(MANIFEST, table=spec.table)


def test_what_was_committed_is_what_is_read(rooms):
    manifests, first = kept(rooms)
    assert manifests.read("staging", first.partition) is None
    with pytest.raises(PermanentError, match=rf"{first.table}: the partition 2024-01-01 has no batch in staging"):
        manifests.require("staging", first.partition)
    committed = manifests.commit(first, None)
    assert manifests.read("staging", first.partition) == committed
    second = manifests.commit(refit(first, batch="2"), committed)
    assert manifests.require("staging", first.partition) == second
    assert second.etag != committed.etag


def test_a_commit_over_another_runs_commit_is_refused_and_changes_nothing(rooms):
    manifests, first = kept(rooms)
    committed = manifests.commit(first, None)
    with pytest.raises(ConflictError, match="changed by another run"):
        manifests.commit(refit(first, batch="late"), None)
    newer = manifests.commit(refit(first, batch="2"), committed)
    with pytest.raises(ConflictError):
        manifests.commit(refit(first, batch="late"), committed)
    assert manifests.require("staging", first.partition) == newer


def test_of_many_first_commits_at_once_exactly_one_wins(rooms):
    manifests, first = kept(rooms)

    def attempt(number: int) -> bool:
        try:
            manifests.commit(refit(first, batch=str(number)), None)
        except ConflictError:
            return False
        return True

    assert side_by_side(attempt, range(12)).count(True) == 1


def test_all_partitions_of_a_stage_are_listed_with_their_etags_and_no_others(rooms):
    manifests, first = kept(rooms)
    partitions = [f"2024-01-{day:02}" for day in range(1, 13)]
    etags = {key: manifests.commit(refit(first, partition=key), None).etag for key in partitions}
    manifests.commit(refit(first, stage="landing", partition="2024-02-01"), None)
    assert manifests.partitions("staging") == etags
    assert manifests.partitions("discarded") == {}
    found = manifests.read_all("staging", ["2024-01-03", "2024-02-01", "2024-01-01"])
    assert [item.manifest.partition for item in found.values()] == ["2024-01-03", "2024-01-01"]


def test_many_manifests_are_read_as_they_stand_whatever_this_process_remembers(rooms):
    manifests, first = kept(rooms)
    others = Manifests(open_store(rooms.environ, rooms.store.bucket), TableKeys.of(daily(first.table)))
    partitions = [f"2024-01-{day:02}" for day in range(1, FEW + 3)]
    mine = {key: manifests.commit(refit(first, partition=key), None) for key in partitions[1:]}
    assert manifests.read_all("staging", partitions) == mine
    mine[partitions[5]] = others.commit(refit(mine[partitions[5]].manifest, batch="2"), mine[partitions[5]])
    mine[partitions[0]] = others.commit(refit(first, partition=partitions[0]), None)
    rooms.store.delete([TableKeys.of(daily(first.table)).manifest("staging", partitions[-1])])
    del mine[partitions[-1]]
    found = manifests.read_all("staging", partitions)
    assert found == mine
    assert list(found) == partitions[:-1]
    assert manifests.require_all("staging", partitions[:-1]) == mine
    with pytest.raises(PermanentError, match=rf"the partition {partitions[-1]} has no batch in staging"):
        manifests.require_all("staging", partitions)


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_missing_bucket_is_an_error_of_the_configuration(rooms):
    store = open_store(rooms.environ, "no-such-bucket")
    for use in (lambda: store.get("x"), lambda: list(store.list("x")), lambda: store.put("x", b"")):
        with pytest.raises(ConfigError, match=r"bucket of s3://no-such-bucket/x does not exist.*RDS_LAKE_BUCKET"):
            use()


def test_missing_objects_are_no_error_where_none_is_expected(rooms):
    assert rooms.store.get(f"{rooms.name()}/nothing") is None
    assert rooms.store.size(f"{rooms.name()}/nothing") is None
    assert list(rooms.store.list(f"{rooms.name()}/")) == []
    rooms.store.delete([f"{rooms.name()}/nothing"])


def test_a_missing_object_that_a_manifest_named_may_have_been_moved_and_is_looked_for_again(rooms):
    import io

    key = f"{rooms.name()}/moved"
    for use in (lambda: rooms.store.download(key, io.BytesIO(), 1), lambda: rooms.store.copy(key, f"{key}-copy")):
        with pytest.raises(TransientError) as raised:
            use()
        assert str(raised.value) == (
            f"{rooms.store.url(key)} is gone: another run moved or replaced it since its manifest was read. Run it "
            "again; if it stays gone, materialise the partition again from landing on."
        )


def test_more_objects_than_one_request_takes_are_deleted(rooms):
    prefix = f"{rooms.name()}/"
    side_by_side(lambda number: rooms.store.put(f"{prefix}{number:04}", b"x"), range(1100))
    keys = [item.key for item in rooms.store.list(prefix)]
    assert keys == [f"{prefix}{number:04}" for number in range(1100)]
    rooms.store.delete(keys)
    assert rooms.keys(prefix) == []


def test_many_objects_are_found_among_others_by_a_listing_as_they_are_one_by_one(rooms):
    prefix = f"{rooms.name()}/"
    folders = [f"{prefix}{number:02}/" for number in range(30)]
    side_by_side(lambda key: rooms.store.put(key, b"x"), [f"{folder}{name}" for folder in folders for name in "abc"])
    for wanted in (folders[3:5], folders[2::2]):
        keys = [f"{folder}{name}" for folder in wanted for name in "bd"]
        assert sorted(rooms.store.find(keys)) == [key for key in keys if key.endswith("b")]
        inside = [f"{folder}{name}" for folder in wanted for name in "abc"]
        assert [item.key for item in rooms.store.inside(wanted)] == inside
    assert rooms.store.find([]) == {}
    assert list(rooms.store.inside([])) == []


def test_what_is_remembered_is_bounded_and_never_taken_for_what_stands_there(rooms, monkeypatch):
    monkeypatch.setattr(stores, "REMEMBERED_BYTES", 25)
    store, prefix = open_store(rooms.environ, rooms.store.bucket), rooms.name()
    etags = [store.put_if(f"{prefix}{number}", f"content {number}".encode(), etag=None) for number in range(3)]
    assert store.recall(f"{prefix}0") is None, "the oldest went"
    assert store.recall(f"{prefix}2") == (b"content 2", etags[2])
    rooms.store.put(f"{prefix}2", b"another's")
    changed = rooms.store.find([f"{prefix}2"])[f"{prefix}2"].etag
    assert store.get_as(f"{prefix}2", etags[2]) == (b"content 2", etags[2])
    assert store.get_as(f"{prefix}2", changed) == store.get(f"{prefix}2") == (b"another's", changed)
    assert store.get_as(f"{prefix}0", etags[0]) == (b"content 0", etags[0])


def test_objects_of_strangers_are_listed_whatever_they_are_called(rooms):
    prefix = f"{rooms.name()}/"
    names = ["a", "b", "x//y", "x/../y", "z\x01", "é %20"]
    for name in names:
        rooms.store.client.put_object(Bucket=rooms.store.bucket, Key=f"{prefix}{name}", Body=b"x")
    assert [item.key for item in rooms.store.list(prefix)] == sorted(f"{prefix}{name}" for name in names)
    some = rooms.store.list(prefix, first=f"{prefix}x/", last=f"{prefix}x//y")
    assert [item.key for item in some] == [f"{prefix}x/../y", f"{prefix}x//y"]


def test_a_large_object_is_sent_and_fetched_in_parts(rooms):
    import io
    import tempfile

    content = bytes(range(256)) * 70_000
    key = f"{rooms.name()}/large"
    rooms.store.upload(key, io.BytesIO(content), len(content))
    rooms.store.copy(key, f"{key}-copy")
    with tempfile.TemporaryFile() as target:
        rooms.store.download(f"{key}-copy", target, len(content))
        target.seek(0)
        assert target.read() == content
    assert rooms.store.size(key) == len(content)


def test_items_that_are_worked_on_side_by_side_keep_to_a_budget_and_a_dear_one_is_alone():
    lock, held, most = Lock(), [], []

    def work(cost):
        with lock:
            held.append(cost)
            most.append(list(held))
        sleep(0.01)
        with lock:
            held.remove(cost)
        return cost

    costs = [3, 4, 3, 20, 1, 1, 9, 2, 2, 2, 2, 2]
    assert side_by_side(work, costs, lambda cost: cost, budget=10) == costs
    assert all(sum(together) <= 10 or len(together) == 1 for together in most)
    assert max(map(len, most)) > 1
