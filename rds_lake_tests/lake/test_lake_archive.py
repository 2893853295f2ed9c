"""The archive: a move in steps, each of which can be repeated and none of which can lose a file."""

from datetime import datetime

import pytest
from rooms import daily, refit, table_spec

from rds_lake.errors import RdsLakeError
from rds_lake.extract.types import Column
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.store import FEW

COLUMNS = (Column("id", "int(11)", nullable=False), Column("at", "datetime"))
ROWS = [(n, datetime(2024, 1, 1, n)) for n in range(5)]  # noqa: DTZ001 - the cursor's clock
DAY = "2024-01-01"


class Move:
    """The move of one landed partition, step by step."""

    def __init__(self, rooms, spec=None):
        self.rooms = rooms
        self.spec = spec or daily(rooms.name())
        self.partition = DAY if self.spec.partitions else "all"
        self.keys = TableKeys.of(self.spec)
        self.manifests = Manifests(rooms.store, self.keys)
        self.land()

    def land(self, rows=ROWS):
        self.landed = self.rooms.batch(self.spec, "landing", COLUMNS, rows)

    def copy(self):
        landed = self.manifests.require("landing", self.partition)
        current = self.manifests.read_all("archived", [self.partition])
        return copy_to_archive(self.rooms.store, self.keys, [landed.manifest], current)[self.partition]

    def vacate(self):
        landed = self.manifests.require("landing", self.partition)
        archived = self.manifests.require("archived", self.partition).manifest
        vacate_landing(self.rooms.store, self.keys, [landed], {self.partition: archived})

    def check(self, rows=ROWS):
        landed = self.manifests.require("landing", self.partition).manifest
        archived = self.manifests.require("archived", self.partition).manifest
        assert self.rooms.keys(self.keys.stage("landing")) == []
        assert landed.files == archived.files
        assert all(file.key.startswith(self.keys.stage("archived")) for file in archived.files)
        assert self.rooms.rows(landed) == rows
        assert (archived.batch, archived.parent, archived.stage) == (landed.batch, landed.batch, "archived")
        assert (landed.stage, landed.fingerprint) == ("landing", archived.fingerprint)


@pytest.mark.parametrize("partitioned", [True, False])
def test_landing_is_empty_afterwards_and_its_manifest_points_at_the_copies(rooms, partitioned):
    move = Move(rooms, None if partitioned else table_spec(rooms.name()))
    assert move.copy().moved == 1
    move.vacate()
    move.check()


@pytest.mark.parametrize("steps", ["ccv", "cvv", "cvcv", "ccvv", "cvvccv"])
def test_every_step_can_be_repeated(rooms, steps):
    move = Move(rooms)
    for step in steps:
        move.copy() if step == "c" else move.vacate()
    move.check()


def test_the_second_copy_of_a_finished_move_does_nothing(rooms):
    move = Move(rooms)
    move.copy()
    move.vacate()
    before = move.manifests.require("archived", DAY)
    assert move.copy().moved == 0
    assert move.manifests.require("archived", DAY) == before


def test_a_crash_after_the_copy_and_before_the_manifest_is_made_good(rooms):
    move = Move(rooms)
    [file] = move.landed.manifest.files
    rooms.store.copy(file.key, file.key.replace("/landing/", "/archived/"))
    move.copy()
    move.vacate()
    move.check()


def test_a_crash_half_way_through_a_copy_is_made_good(rooms):
    move = Move(rooms)
    [file] = move.landed.manifest.files
    rooms.store.put(file.key.replace("/landing/", "/archived/"), b"half")
    move.copy()
    move.vacate()
    move.check()


def test_a_crash_after_the_pointer_moved_and_before_the_originals_went_is_made_good(rooms):
    move = Move(rooms)
    move.copy()
    archived = move.manifests.require("archived", DAY).manifest
    move.manifests.commit(move.landed.manifest.with_files(archived.files), move.landed)
    assert rooms.keys(move.keys.stage("landing")) != []
    assert move.copy().moved == 0
    move.vacate()
    move.check()


def test_a_crash_after_the_originals_went_but_not_all_is_made_good(rooms):
    move = Move(rooms)
    move.copy()
    rooms.store.delete([file.key for file in move.landed.manifest.files])
    move.copy()
    move.vacate()
    move.check()


def test_a_new_batch_of_the_same_partition_replaces_the_archived_one(rooms):
    move = Move(rooms)
    move.copy()
    move.vacate()
    move.land(ROWS[:2])
    move.copy()
    move.vacate()
    move.check(ROWS[:2])


def test_an_empty_batch_is_archived_as_one_without_files(rooms):
    move = Move(rooms)
    move.land([])
    assert move.copy().moved == 0
    move.vacate()
    assert move.manifests.require("archived", DAY).manifest.rows == 0


def test_many_partitions_move_together_from_wherever_a_crash_left_each(rooms):
    spec = daily(rooms.name())
    keys, manifests = TableKeys.of(spec), Manifests(rooms.store, TableKeys.of(spec))
    days = [f"2024-01-{day:02}" for day in range(1, FEW + 4)]
    for day in days:
        rooms.batch(spec, "landing", COLUMNS, ROWS if day != days[3] else [], partition=day)

    def move(some):
        landed = manifests.require_all("landing", some)
        current = manifests.read_all("archived", some)
        copied = copy_to_archive(rooms.store, keys, [item.manifest for item in landed.values()], current)
        return landed, {day: item.manifest for day, item in copied.items()}

    move(days[:1])  # killed before the pointer moved
    landed, archived = move(days[1:2])  # killed when the originals had gone, before the pointer moved
    rooms.store.delete([file.key for file in landed[days[1]].manifest.files])
    landed, archived = move(days[2:3])  # done already
    vacate_landing(rooms.store, keys, list(landed.values()), archived)
    landed, archived = move(days)
    vacate_landing(rooms.store, keys, list(landed.values()), archived)
    assert rooms.keys(keys.stage("landing")) == []
    assert len(rooms.keys(keys.stage("archived"))) == len(days) - 1
    assert {day: item.manifest.files for day, item in manifests.require_all("landing", days).items()} == {
        day: item.files for day, item in archived.items()
    }


def test_nothing_is_deleted_when_another_run_landed_meanwhile(rooms):
    move = Move(rooms)
    move.copy()
    stale, archived = move.landed, move.manifests.require("archived", DAY).manifest
    move.land(ROWS[:3])
    with pytest.raises(ConflictError):
        vacate_landing(rooms.store, move.keys, [stale], {DAY: archived})
    assert rooms.rows(move.manifests.require("landing", DAY).manifest) == ROWS[:3]


def test_an_original_that_is_not_what_its_manifest_says_is_not_taken_for_archived(rooms):
    move = Move(rooms)
    [file] = move.landed.manifest.files
    rooms.store.put(file.key, b"damaged")
    with pytest.raises(RdsLakeError, match="has 7 bytes"):
        move.copy()
    assert move.manifests.read("archived", DAY) is None
    assert rooms.store.size(file.key) == 7


def test_a_file_that_is_in_neither_place_is_an_error(rooms):
    move = Move(rooms)
    rooms.store.delete([file.key for file in move.landed.manifest.files])
    with pytest.raises(RdsLakeError, match=move.spec.table):
        move.copy()
    assert move.manifests.read("archived", DAY) is None


def test_another_runs_archive_is_not_overwritten(rooms):
    move = Move(rooms)
    move.copy()
    landed = move.manifests.require("landing", DAY).manifest
    with pytest.raises(ConflictError):
        copy_to_archive(rooms.store, move.keys, [refit(landed, fingerprint="9-9")], {})
