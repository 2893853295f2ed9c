"""The garbage collector: superseded batches and orphans go after the grace period, nothing that is named ever does."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import Rooms, as_committed, bounded, daily, refit, table_spec

from rds_lake.extract.types import Column
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.catalog import publish
from rds_lake.lake.gc import GRACE, LOADS, UPLOADS, Collector, Standing, Swept, is_garbage
from rds_lake.lake.keys import BatchFile, TableKeys
from rds_lake.lake.manifest import File, Manifest, Manifests
from rds_lake.lake.store import ObjectStore, StoredObject
from rds_lake.spec import LAKE_STAGES, TableSpec

COLUMNS = (Column("id", "int(11)"), Column("v", "varchar(9)"))
LATER = timedelta(hours=25)


def now() -> datetime:
    return datetime.now(UTC)


def sweep(rooms: Rooms, spec: TableSpec, **more: object) -> Swept:
    given = {"now": now() + LATER, **more}
    store = given.pop("store", rooms.store)
    loads = given.pop("loads", lambda _: set())
    return Collector(store, rooms.catalog, loads, **given).sweep(spec)


@pytest.fixture
def spec(rooms: Rooms) -> TableSpec:
    return daily(rooms.name())


def put(rooms: Rooms, spec: TableSpec, stage: str, rows: object = ((1, "a"),), **more: object) -> Manifest:
    return rooms.batch(spec, stage, COLUMNS, rows, **more).manifest


def test_superseded_batches_of_every_stage_go_and_the_current_ones_stay(rooms, spec):
    old = {stage: put(rooms, spec, stage) for stage in ("landing", "staging", "archived")}
    new = {stage: put(rooms, spec, stage, [(2, "b")]) for stage in old}
    other = put(rooms, spec, "staging", partition="2024-01-02")
    dry = sweep(rooms, spec, dry_run=True)
    assert dry.objects == dict.fromkeys(old, 1)
    assert dry.bytes == {stage: old[stage].size for stage in old}
    before = rooms.keys(f"{spec.table}/")
    assert sweep(rooms, spec) == dry
    after = rooms.keys(f"{spec.table}/")
    assert set(before) - set(after) == {file.key for batch in old.values() for file in batch.files}
    assert {file.key for batch in (*new.values(), other) for file in batch.files} <= set(after)
    again = sweep(rooms, spec)
    assert (again.objects, again.strangers, rooms.keys(f"{spec.table}/")) == ({}, 0, after)


def test_a_table_without_partitions_is_swept_as_well(rooms):
    spec = table_spec(rooms.name())
    old, new = put(rooms, spec, "staging"), put(rooms, spec, "staging", [(2, "b")])
    publish(rooms.catalog, rooms.store, spec, "staging", as_committed([new]))
    assert sweep(rooms, spec).objects == {"staging": 1}
    left = rooms.keys(f"{spec.table}/staging/")
    assert left == [file.key for file in new.files] != [file.key for file in old.files]


def test_orphans_of_a_killed_run_go(rooms, spec):
    named = put(rooms, spec, "staging")
    keys = TableKeys.of(spec)
    orphans = [
        keys.part("landing", "2024-01-05", "killed", 0, "parquet"),
        keys.part("staging", "2024-01-01", "k", 3, "csv"),
    ]
    for key in orphans:
        rooms.store.put(key, b"half a file")
    assert sweep(rooms, spec).objects == {"landing": 1, "staging": 1}
    assert set(rooms.keys(f"{spec.table}/")).isdisjoint(orphans)
    assert named.files[0].key in rooms.keys(f"{spec.table}/")


def test_nothing_goes_within_the_grace_period(rooms, spec):
    put(rooms, spec, "staging")
    put(rooms, spec, "staging", [(2, "b")])
    rooms.store.put(TableKeys.of(spec).part("landing", "2024-01-05", "running", 0, "parquet"), b"x")
    assert sweep(rooms, spec, now=now()).objects == {}
    assert sweep(rooms, spec, now=now() + GRACE - timedelta(minutes=5)).objects == {}


def test_a_batch_that_was_superseded_a_moment_ago_stays_for_those_who_still_read_it(rooms, spec):
    """An old file, an old manifest; then a new manifest: the old file is old enough, its successor is not."""
    old = put(rooms, spec, "staging")
    standing = Standing((refit(old, batch="new", files=()),), since=now(), place=None)
    [file] = old.files
    item = StoredObject(file.key, file.size, "", now() - timedelta(days=9))
    parsed = TableKeys.of(spec).batch_file(file.key)
    assert parsed is not None
    assert not is_garbage(item, parsed, standing, now() - GRACE)
    assert is_garbage(item, parsed, refit(standing, since=now() - 2 * GRACE), now() - GRACE)


def test_landed_files_that_lie_in_the_archive_stay(rooms, spec):
    keys, manifests = TableKeys.of(spec), Manifests(rooms.store, TableKeys.of(spec))
    rooms.batch(spec, "landing", COLUMNS, [(1, "a")])
    landed = manifests.require("landing", "2024-01-01")
    copied = copy_to_archive(rooms.store, keys, [landed.manifest], {})["2024-01-01"]
    # Killed before the archive's manifest: the copies are named by nobody, and the archive will go on with them.
    rooms.store.delete([keys.manifest("archived", "2024-01-01")])
    assert sweep(rooms, spec).objects == {}
    copied = copy_to_archive(rooms.store, keys, [landed.manifest], {})["2024-01-01"]
    vacate_landing(rooms.store, keys, [landed], {"2024-01-01": copied.manifest})
    rooms.store.delete([keys.manifest("archived", "2024-01-01")])
    assert sweep(rooms, spec).objects == {}
    assert rooms.keys(f"{spec.table}/archived/") == [file.key for file in copied.manifest.files]


def test_what_the_catalog_points_at_stays(rooms, spec):
    old = put(rooms, spec, "staging")
    publish(rooms.catalog, rooms.store, spec, "staging", as_committed([old]))
    new = put(rooms, spec, "staging", [(2, "b")])
    assert sweep(rooms, spec).objects == {}, "a killed run told the manifest, not yet the catalog"
    publish(rooms.catalog, rooms.store, spec, "staging", as_committed([new]))
    assert sweep(rooms, spec).objects == {"staging": 1}


class Meanwhile(ObjectStore):
    """A bucket in which something happens right after a listing, before anything else is read."""

    def __init__(self, store: ObjectStore, prefix: str, happen: Callable[[], None]) -> None:
        super().__init__(store.s3, lambda: store.client)
        self._prefix = prefix
        self._happen = happen

    def list(self, prefix: str) -> Iterator[StoredObject]:
        yield from super().list(prefix)
        if prefix == self._prefix:
            self._happen()


def test_a_batch_that_is_committed_between_listing_and_deleting_stays(rooms, spec):
    manifests = Manifests(rooms.store, TableKeys.of(spec))
    put(rooms, spec, "staging")
    running = put(rooms, spec, "staging", [(2, "b")])
    present = manifests.read("staging", "2024-01-01")
    put(rooms, spec, "staging", [(3, "c")])  # now the one before is a batch that nobody names

    def commit() -> None:
        current = manifests.read("staging", "2024-01-01")
        manifests.commit(running, current)

    assert present is not None
    store = Meanwhile(rooms.store, f"{spec.table}/", commit)
    sweep(rooms, spec, store=store)
    assert manifests.require("staging", "2024-01-01").manifest == running
    assert [file.key for file in running.files] == [
        key for key in rooms.keys(f"{spec.table}/staging/") if running.batch in key
    ]


def test_manifests_of_loads_that_the_ledger_does_not_name_go(rooms, spec):
    put(rooms, spec, "staging")
    keys = TableKeys.of(spec)
    named, forgotten = keys.manifest("warehouse", "0" * 16), keys.manifest("warehouse", "1" * 16)
    for key in (named, forgotten):
        rooms.store.put(key, json.dumps({"entries": []}).encode())
    assert sweep(rooms, spec, now=now(), loads=lambda _: set()).objects == {}
    found = sweep(rooms, spec, loads=lambda table: {rooms.store.url(named)} if table == spec.table else set())
    assert found.objects == {LOADS: 1}
    assert rooms.keys(keys.manifests("warehouse")) == [named]


def test_unfinished_uploads_are_given_up(rooms, spec):
    put(rooms, spec, "staging")
    key = TableKeys.of(spec).part("landing", "2024-01-01", "b", 0, "parquet")
    rooms.store.client.create_multipart_upload(Bucket=rooms.store.bucket, Key=key)
    assert sweep(rooms, spec, now=now()).objects == {}
    assert sweep(rooms, spec, dry_run=True).objects == {UPLOADS: 1}
    assert sweep(rooms, spec).objects == {UPLOADS: 1}
    assert list(rooms.store.uploads(f"{spec.table}/")) == []


def test_what_does_not_look_like_ours_is_reported_and_left(rooms, spec):
    put(rooms, spec, "staging")
    strange = [
        f"{spec.table}/notes.txt",
        f"{spec.table}/staging/at_day=2024-01-01/part-00000.parquet",
        f"{spec.table}/staging/other=2024-01-01/batch=b/part-00000.parquet",
        f"{spec.table}/staging/at_day=2024-01-01/batch=b/part-0.parquet",
        f"{spec.table}/incoming/batch=b/part-00000.parquet",
        f"{spec.table}/_manifests/else/all.json",
    ]
    for key in strange:
        rooms.store.put(key, b"x")
    found = sweep(rooms, spec)
    assert (found.objects, found.strangers) == ({}, len(strange))
    assert set(found.examples) < set(strange)
    assert set(strange) <= set(rooms.keys(f"{spec.table}/"))


def test_a_table_whose_manifests_are_all_gone_is_left(rooms, spec):
    batch = put(rooms, spec, "staging")
    rooms.store.delete([TableKeys.of(spec).manifest("staging", batch.partition)])
    rooms.store.put(TableKeys.of(spec).manifests("staging"), b"")  # what a console makes for a folder is no manifest
    found = sweep(rooms, spec)
    assert (found.objects, found.unnamed) == ({}, 1)
    assert [file.key for file in batch.files] == rooms.keys(f"{spec.table}/staging/")


def test_tables_with_a_name_that_begins_alike_are_not_touched(rooms, spec):
    longer = daily(f"{spec.table}_archive")
    put(rooms, spec, "staging")
    put(rooms, longer, "staging")
    kept = put(rooms, longer, "staging", [(2, "b")])
    before = rooms.keys(f"{longer.table}/")
    assert sweep(rooms, spec).objects == {}
    assert rooms.keys(f"{longer.table}/") == before
    assert kept.files[0].key in before
    collector = Collector(rooms.store, rooms.catalog, lambda _: set())
    assert f"{longer.table}/" in collector.strangers([spec.table])
    assert f"{spec.table}/" not in collector.strangers([spec.table])


batches = st.sampled_from(["a", "b", "c", "d"])
ages = st.integers(0, 60).map(lambda hours: timedelta(hours=hours))


@bounded(300)
@given(
    file=batches,
    age=ages,
    named=st.dictionaries(st.sampled_from(LAKE_STAGES), st.tuples(batches, batches), max_size=4),
    stands=st.none() | ages,
    place=st.none() | batches,
)
def test_no_reader_of_now_or_of_the_grace_period_loses_a_file(file, age, named, stands, place):
    """He may hold what any manifest or the catalog names now, and what was named within the grace period."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    keys = TableKeys("t", "d")
    key = keys.part("staging", "p", file, 0, "parquet")
    held = tuple(
        Manifest("t", stage, "p", batch, (File(keys.part("staging", "p", lies, 0, "parquet"), 1, 1, ""),), (), "", "")
        for stage, (batch, lies) in named.items()
    )
    standing = Standing(
        held, moment - stands if stands is not None else None, keys.batch("staging", "p", place) if place else None
    )
    item = StoredObject(key, 1, "", moment - age)
    goes = is_garbage(item, BatchFile("staging", "p", file), standing, moment - GRACE)
    is_named = any(key == each.key for batch in held for each in batch.files) or place == file
    was_named = stands is not None and stands <= GRACE  # its stage's manifest may have named it before
    if is_named or was_named or age <= GRACE:
        assert not goes
    elif all(file not in (batch, lies) for batch, lies in named.values()):
        assert goes
