"""What is out of step: the comparison as a pure function, and what source, lake and warehouse are asked for it."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily, mysql_table, refit, rooms, table_spec

from rds_lake.assets.warehouse import accounted_batches
from rds_lake.errors import SpecError
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import land
from rds_lake.lake.manifest import Manifests
from rds_lake.plan import Plan, Standing, decide, examine, observe, rules_digest
from rds_lake.quality.split import Splitter
from rds_lake.warehouse.ledger import Entry
from rds_lake.warehouse.load import load

__all__ = ["mysql_table", "rooms"]


# --- the comparison --------------------------------------------------------------------------------------------------


def standing(loaded=None, *, complete=("a", "b"), unarchived=(), rules="r") -> Standing:
    entries = {
        key: Entry("batch", fingerprint, with_rules, 1, 1) for key, (fingerprint, with_rules) in (loaded or {}).items()
    }
    return Standing(entries, frozenset(complete), frozenset(unarchived), rules)


IN_STEP = {"a": ("1", "r"), "b": ("2", "r")}
SOURCE = {"a": "1", "b": "2"}


def test_nothing_is_to_be_done_when_all_agree():
    plan = decide(SOURCE, standing(IN_STEP))
    assert plan == Plan((), ())
    assert plan.nothing
    assert decide({}, standing({})).nothing


@pytest.mark.parametrize(
    ("source", "state", "plan"),
    [
        (SOURCE, standing({}), Plan(("a", "b"), ())),
        ({**SOURCE, "c": "1"}, standing(IN_STEP), Plan(("c",), ())),
        ({**SOURCE, "b": "9"}, standing(IN_STEP), Plan(("b",), ())),
        (SOURCE, standing({"a": ("1", "r")}), Plan(("b",), ())),
        (SOURCE, standing(IN_STEP, complete=("a",)), Plan(("b",), ())),
        (SOURCE, standing(IN_STEP, unarchived=("b",)), Plan((), ("b",))),
        (SOURCE, standing({**IN_STEP, "a": ("1", "old")}), Plan((), ("a",))),
        (SOURCE, standing(IN_STEP, rules="new"), Plan((), ("a", "b"))),
        ({**SOURCE, "b": "9"}, standing(IN_STEP, rules="new", unarchived=("b",)), Plan(("b",), ("a",))),
        ({"a": "1"}, standing({**IN_STEP, "b": ("old", "old")}, unarchived=("b",)), Plan((), ())),
    ],
    ids=[
        "nothing loaded", "new at the source", "changed at the source", "not in the ledger", "a stage is missing",
        "not archived", "split by other rules", "the rules changed", "landing covers resuming", "not observed",
    ],
)  # fmt: skip
def test_each_way_to_be_out_of_step_asks_for_what_it_needs(source, state, plan):
    assert decide(source, state) == plan


letters = st.sampled_from("abcdef")


@bounded(150)
@given(
    st.dictionaries(letters, st.sampled_from(["0", "1", "2"])),
    st.dictionaries(letters, st.tuples(st.sampled_from(["0", "1", "2"]), st.sampled_from(["r", "s"]))),
    st.sets(letters),
    st.sets(letters),
)
def test_a_partition_is_left_alone_exactly_when_everything_about_it_agrees(source, loaded, complete, unarchived):
    plan = decide(source, standing(loaded, complete=complete, unarchived=unarchived))
    agree = {
        key
        for key, now in source.items()
        if loaded.get(key) == (now, "r") and key in complete and key not in unarchived
    }
    assert sorted({*plan.land, *plan.resume}) == sorted(set(source) - agree)
    assert set(plan.land).isdisjoint(plan.resume)
    assert (list(plan.land), list(plan.resume)) == (sorted(plan.land), sorted(plan.resume))


# --- asking ----------------------------------------------------------------------------------------------------------

RULE = {"rule": "in_lookup", "column": "v", "lookup_column": "v", "name": "valid"}


class Pipeline:
    """One table taken through all rooms by hand."""

    def __init__(self, rooms, mysql_table):
        self.rooms = rooms
        lookup = mysql_table("v VARCHAR(9)", rows=[("ok",)])
        rows = [(n, f"2024-01-0{n} 10:00:00", "ok" if n < 3 else "bad") for n in range(1, 4)]
        self.table = mysql_table("id INT PRIMARY KEY, at DATETIME(6), v VARCHAR(9), KEY (at)", rows=rows)
        self.lookup = lookup
        self.spec = daily(self.table, rules=[{**RULE, "lookup_table": lookup}])
        self.keys = TableKeys.of(self.spec)
        self.manifests = Manifests(rooms.store, self.keys)

    def plan(self) -> Plan:
        seen = observe(self.rooms.source, self.rooms.store, self.spec)
        standing = examine(self.rooms.source, self.rooms.store, self.rooms.warehouse, self.spec, seen.table)
        return decide(seen.fingerprints, standing)

    def land(self, days):
        with open_snapshot(self.rooms.source, self.spec) as snapshot:
            land(snapshot, self.rooms.store, days)

    def split(self, days):
        lookups = {(self.lookup, "v"): self.rooms.source.lookup(self.lookup, "v")}
        splitter = Splitter(self.rooms.store, self.spec, lookups)
        for day in days:
            now = {stage: self.manifests.read(stage, day) for stage in ("staging", "discarded")}
            old = {stage: item.manifest if item else None for stage, item in now.items()}
            done = splitter.split(self.manifests.require("landing", day).manifest, old["staging"], old["discarded"])
            self.manifests.commit(done.staging, now["staging"])
            self.manifests.commit(done.discarded, now["discarded"])

    def archive(self, days):
        landed = list(self.manifests.require_all("landing", days).values())
        archived = self.manifests.read_all("archived", days)
        copies = copy_to_archive(self.rooms.store, self.keys, [item.manifest for item in landed], archived)
        vacate_landing(self.rooms.store, self.keys, landed, {day: item.manifest for day, item in copies.items()})

    def load(self, days):
        staged, states, _ = accounted_batches(self.manifests, days)
        load(self.rooms.warehouse, self.rooms.store, self.spec, staged, states=states)

    def all(self, days):
        for step in (self.land, self.split, self.archive, self.load):
            step(days)


DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")


def test_a_table_goes_from_all_to_do_to_nothing_to_do_and_back_for_what_changed(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    assert pipeline.plan() == Plan(DAYS, ())
    for step in (pipeline.land, pipeline.split, pipeline.archive):
        step(DAYS)
        assert pipeline.plan() == Plan(DAYS, ())  # never reached the ledger: starts again from the source
    pipeline.load(DAYS)
    assert pipeline.plan().nothing
    rooms.sql(f"INSERT INTO {pipeline.table} VALUES (9, '2024-01-02 11:00:00', 'ok')")
    assert pipeline.plan() == Plan((DAYS[1],), ())
    pipeline.all([DAYS[1]])
    assert pipeline.plan().nothing
    rooms.sql(f"INSERT INTO {pipeline.lookup} VALUES ('bad')")
    assert pipeline.plan() == Plan((), DAYS)


def test_a_lake_that_has_moved_on_without_the_warehouse_is_noticed_although_the_source_is_as_it_was_loaded(
    rooms, mysql_table
):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.all(DAYS)
    for steps in ([pipeline.land], [pipeline.land, pipeline.split, pipeline.archive]):
        rooms.sql(f"DELETE FROM {pipeline.table} WHERE id = 2")
        for step in steps:
            step([DAYS[1]])  # and then the run dies
        rooms.sql(f"INSERT INTO {pipeline.table} VALUES (2, '2024-01-02 10:00:00', 'ok')")
        assert pipeline.plan() == Plan((DAYS[1],), ())
        pipeline.all([DAYS[1]])
        assert pipeline.plan().nothing
    rooms.sql(f"DELETE FROM {pipeline.lookup}")
    rooms.sql(f"INSERT INTO {pipeline.lookup} VALUES ('bad')")
    pipeline.split(DAYS[2:])
    rooms.sql(f"UPDATE {pipeline.lookup} SET v = 'ok'")
    assert pipeline.plan() == Plan(DAYS[2:], ())


def test_to_do_anything_again_that_changes_nothing_leaves_nothing_to_do(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.all(DAYS)
    for step in (pipeline.land, pipeline.split, pipeline.archive, pipeline.load):
        step(DAYS)
        assert pipeline.plan().nothing


def test_a_target_that_is_another_one_or_is_gone_holds_nothing(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.all(DAYS)
    old = pipeline.spec
    pipeline.spec = old.model_copy(update={"warehouse": old.warehouse.model_copy(update={"table": f"{old.table}_new"})})
    assert pipeline.plan() == Plan(DAYS, ())
    pipeline.load(DAYS[:1])
    assert pipeline.plan() == Plan(DAYS[1:], ())
    pipeline.load(DAYS[1:])
    assert pipeline.plan().nothing
    rooms.ask(f'DROP TABLE public."{old.table}_new"')
    assert pipeline.plan() == Plan(DAYS, ())


def test_deleted_rows_are_noticed_even_when_the_partition_has_none_left(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.all(DAYS)
    rooms.sql(f"DELETE FROM {pipeline.table} WHERE id = 2")
    seen = observe(rooms.source, rooms.store, pipeline.spec)
    assert seen.fingerprints[DAYS[1]] == "0"
    assert pipeline.plan() == Plan((DAYS[1],), ())
    pipeline.all([DAYS[1]])
    assert pipeline.plan().nothing


def test_files_left_in_landing_are_noticed_and_orphans_of_other_batches_and_strays_are_not(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    for step in (pipeline.land, pipeline.split):
        step(DAYS)
    pipeline.archive(DAYS[:2])
    pipeline.load(DAYS)
    assert pipeline.plan() == Plan((DAYS[2],), ())
    pipeline.archive(DAYS[2:])
    pipeline.load(DAYS[2:])
    rooms.store.put(pipeline.keys.part("landing", DAYS[0], "orphan", 0, "parquet"), b"x")
    for stray in ("landing/", "archived/", "landing/notes/", "_manifests/landing/", "_manifests/staging/notes.json"):
        rooms.store.put(f"{pipeline.keys.table}/{stray}", b"")
    assert pipeline.plan().nothing
    batch = pipeline.manifests.require("landing", DAYS[0]).manifest.batch
    rooms.store.put(pipeline.keys.part("landing", DAYS[0], batch, 0, "parquet"), b"x")
    assert pipeline.plan() == Plan((), (DAYS[0],))


def test_an_observation_can_be_limited_to_a_span(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.all(DAYS)
    rooms.sql(f"DELETE FROM {pipeline.table}")

    def seen(since=None, until=None):
        moments = [datetime.fromisoformat(text) if text else None for text in (since, until)]
        return observe(rooms.source, rooms.store, pipeline.spec, *moments).fingerprints.keys()

    assert seen() == set(DAYS)
    assert seen("2024-01-02T15:00:00") == set(DAYS[1:])
    assert seen(None, "2024-01-03") == set(DAYS[:2])
    assert seen("2024-01-02", "2024-01-03") == {DAYS[1]}
    assert seen("2025-01-01", "2025-01-02") == set()
    assert seen("0001-01-01", "9999-12-31") == set(DAYS)


def test_rows_that_no_partition_holds_are_reported(rooms, mysql_table):
    rows = [(1, None), (2, "2023-12-31 23:59:59"), (3, "2024-01-01"), (4, None)]
    table = mysql_table("id INT PRIMARY KEY, at DATETIME", rows=rows)
    spec = daily(table, cursor={"column": "at", "nulls": "exclude"})
    seen = observe(rooms.source, rooms.store, spec)
    assert (seen.before_start, seen.without_cursor, seen.outside) == (1, 2, 3)
    assert seen.fingerprints.keys() == {"2024-01-01"}


def test_a_table_without_a_cursor_has_one_fingerprint(rooms, mysql_table):
    spec = table_spec(mysql_table("id INT", rows=[(1,), (1,)]))
    seen = observe(rooms.source, rooms.store, spec)
    assert list(seen.fingerprints) == ["all"]
    assert seen.fingerprints["all"].startswith("2-")
    assert seen.outside == 0


def test_the_rules_digest_is_the_one_that_the_split_writes(rooms, mysql_table):
    pipeline = Pipeline(rooms, mysql_table)
    pipeline.land(DAYS[:1])
    pipeline.split(DAYS[:1])
    table = rooms.source.describe(pipeline.table)
    written = pipeline.manifests.require("staging", DAYS[0]).manifest.rules
    assert rules_digest(rooms.source, pipeline.spec, table) == written
    assert rules_digest(rooms.source, pipeline.spec, refit(table, unique_keys=())) != written


def test_a_missing_column_is_found_by_the_observation(rooms, mysql_table):
    spec = daily(mysql_table("id INT PRIMARY KEY"))
    with pytest.raises(SpecError, match="cursor names the column 'at'"):
        observe(rooms.source, rooms.store, spec)
