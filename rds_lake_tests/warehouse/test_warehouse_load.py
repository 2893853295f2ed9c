"""The load: data and ledger in one transaction, repeatable, and right in whatever order partitions come."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, Rooms, bounded, daily, refit, table_spec

from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.extract.types import Column
from rds_lake.sql import quote
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Session, Warehouse
from rds_lake.warehouse.load import ATTEMPTS, load
from rds_lake.warehouse.statements import Target

COLUMNS = (Column("id", "int(11)", nullable=False), Column("at", "datetime(6)"), Column("v", "varchar(20)"))


def at(day: int, second: int = 0) -> datetime:
    return datetime(2024, 1, day) + timedelta(seconds=second)  # noqa: DTZ001 - the cursor's clock


class Loading:
    """One table of the warehouse, loaded from batches made here."""

    def __init__(self, rooms: Rooms, **more):
        self.rooms = rooms
        self.spec = daily(rooms.name(), **more)

    def stage(self, day: int, rows, columns=COLUMNS, **more):
        given = {"partition": f"2024-01-{day:02}", "source_unique": True, **more}
        return self.rooms.batch(self.spec, "staging", columns, rows, **given).manifest

    def load(self, *staged, warehouse=None, report=lambda _: None):
        return load(warehouse or self.rooms.warehouse, self.rooms.store, self.spec, staged, report)

    def put(self, day: int, rows, **more):
        return self.load(self.stage(day, rows, **more))

    def target(self) -> list[tuple]:
        return self.rooms.ask(f'SELECT id, at, v FROM public."{self.spec.warehouse_name}" ORDER BY at, id, v')

    def ledger(self) -> dict[str, ledger.Entry]:
        with self.rooms.warehouse.connect() as session:
            return ledger.read(session, self.spec.table)


@pytest.fixture
def loading(rooms):
    return Loading(rooms)


# --- one load --------------------------------------------------------------------------------------------------------


def test_several_partitions_are_loaded_in_one_transaction_with_their_ledger_rows(loading):
    first = loading.stage(1, [(1, at(1), "a"), (2, at(1, 1), None)], fingerprint="2-a", rules="r")
    second, third = loading.stage(2, [(3, at(2), "")]), loading.stage(5, [])
    done = loading.load(first, second, third)
    assert loading.target() == [(1, at(1), "a"), (2, at(1, 1), None), (3, at(2), "")]
    assert done.rows == {"2024-01-01": 2, "2024-01-02": 1, "2024-01-05": 0}
    assert not done.repeated
    assert (done.statements.count("BEGIN"), done.statements.count("COMMIT")) == (1, 1)
    assert done.statements.index("BEGIN") < min(n for n, text in enumerate(done.statements) if text.startswith("COPY"))
    place = f"public.{loading.spec.table}"
    assert loading.ledger() == {
        "2024-01-01": ledger.Entry(first.batch, "2-a", "r", 2, 2, target=place),
        "2024-01-02": ledger.Entry(second.batch, "1-abc", None, 1, 1, target=place),
        "2024-01-05": ledger.Entry(third.batch, "1-abc", None, 0, 0, target=place),
    }


def test_loading_again_changes_nothing(loading):
    staged = [loading.stage(1, [(1, at(1), "a")]), loading.stage(2, [(2, at(2), "b")])]
    loading.load(*staged)
    before = loading.target(), loading.ledger()
    for again in (staged, staged[:1], staged[1:], staged[::-1]):
        loading.load(*again)
        assert (loading.target(), loading.ledger()) == before


def test_an_empty_batch_removes_the_rows_of_its_window_and_no_others(loading):
    loading.load(
        *[loading.stage(day, [(day, at(day), "x"), (10 + day, at(day, 86399.999999), "x")]) for day in (1, 2, 3)]
    )
    done = loading.put(2, [])
    assert [row[0] for row in loading.target()] == [1, 11, 3, 13]
    assert done.manifest is None
    assert loading.ledger()["2024-01-02"].loaded == 0


def test_a_row_that_changed_within_its_partition_is_replaced(loading):
    loading.put(1, [(1, at(1), "old"), (2, at(1), "gone")])
    loading.put(1, [(1, at(1, 5), "new")])
    assert loading.target() == [(1, at(1, 5), "new")]


def test_a_table_without_a_cursor_is_replaced_as_a_whole(rooms):
    spec = table_spec(rooms.name(), key=["id"])
    for rows in ([(1, None, "a"), (2, None, "b")], [(2, None, "c")], []):
        staged = rooms.batch(spec, "staging", COLUMNS, rows).manifest
        assert load(rooms.warehouse, rooms.store, spec, [staged]).rows == {"all": len(rows)}
        assert rooms.ask(f"SELECT id, at, v FROM {spec.table} ORDER BY id") == rows


def test_the_cursor_can_be_part_of_the_key(rooms):
    loading = Loading(rooms, key=["id", "at"])
    loading.put(1, [(1, at(1), "a"), (1, at(1, 1), "b")])
    loading.put(2, [(1, at(2), "c")])
    assert loading.target() == [(1, at(1), "a"), (1, at(1, 1), "b"), (1, at(2), "c")]
    assert {key: entry.loaded for key, entry in loading.ledger().items()} == {"2024-01-01": 2, "2024-01-02": 1}


def test_rows_of_a_table_without_a_key_are_all_kept(rooms):
    loading = Loading(rooms, key=[])
    loading.put(1, [(1, at(1), "a"), (1, at(1, 1), "a")])
    assert loading.target() == [(1, at(1), "a"), (1, at(1, 1), "a")]


# --- keys that move between partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1, 3), (3, 1)])
def test_the_newest_version_of_a_moved_key_wins_in_both_orders_of_loading(loading, order):
    loading.put(1, [(1, at(1), "old"), (2, at(1), "stays")])
    now = {1: loading.stage(1, [(2, at(1), "stays")]), 3: loading.stage(3, [(1, at(3), "new")])}
    for day in order:
        loading.load(now[day])
        assert (2, at(1), "stays") in loading.target()
    assert loading.target() == [(2, at(1), "stays"), (1, at(3), "new")]


def test_a_stale_partition_does_not_overwrite_a_newer_version(loading):
    stale = loading.stage(1, [(1, at(1), "old"), (2, at(1), "other")])
    loading.put(3, [(1, at(3), "new")])
    done = loading.load(stale)
    assert loading.target() == [(2, at(1), "other"), (1, at(3), "new")]
    assert done.rows == {"2024-01-01": 1}


def test_both_versions_in_one_load_leave_the_newest(loading):
    loading.load(loading.stage(1, [(1, at(1), "old")]), loading.stage(2, [(1, at(2), "new")]))
    assert loading.target() == [(1, at(2), "new")]


def test_the_older_partition_counts_what_it_holds_after_a_key_has_left_it(loading):
    loading.put(1, [(1, at(1), "a"), (2, at(1), "b")])
    loading.put(2, [(1, at(2), "a")])
    with loading.rooms.warehouse.connect() as session:
        counts = ledger.count_target(session, Target(loading.spec, COLUMNS), ["2024-01-01", "2024-01-02", "2024-01-03"])
    assert counts == {"2024-01-01": 1, "2024-01-02": 1, "2024-01-03": 0}


changes = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 4), st.none() | st.integers(1, 4), min_size=1, max_size=3),
        st.sets(st.integers(1, 4)),
    ),
    min_size=1,
    max_size=3,
)


@bounded(8)
@given(changes, st.permutations([1, 2, 3, 4]))
def test_whatever_moved_and_in_whatever_order_it_was_loaded_the_warehouse_ends_like_the_source(rooms, steps, order):
    loading = Loading(rooms)
    source: dict[int, tuple] = {}
    loaded: dict[int, list] = {day: [] for day in order}

    def put(day: int) -> None:
        rows = sorted(row for row in source.values() if row[1].day == day)
        if rows != loaded[day]:
            loading.put(day, rows)
            loaded[day] = rows

    for number, (moves, days) in enumerate(steps):
        for key, day in moves.items():
            source.pop(key, None)
            if day is not None:
                source[key] = (key, at(day, number), f"v{number}")
        for day in sorted(days):
            put(day)
    for day in order:
        put(day)
    if any(rows for rows in loaded.values()) or loading.ledger():
        assert loading.target() == sorted(source.values(), key=lambda row: (row[1], row[0]))


versions = st.dictionaries(
    st.tuples(st.integers(1, 2), st.integers(1, 3)), st.booleans(), min_size=1, max_size=4
)  # a key on a day: whether the source has it


@bounded(8)
@given(st.lists(versions, min_size=1, max_size=3), st.permutations([1, 2, 3]))
def test_of_a_key_that_the_source_holds_more_than_once_the_newest_that_is_left_stands_whatever_the_order(
    rooms, steps, order
):
    loading = Loading(rooms)
    source: dict[tuple[int, int], tuple] = {}

    def out_of_step(day: int) -> bool:
        entry = loading.ledger().get(f"2024-01-{day:02}")
        return entry is not None and entry.fingerprint == ""

    def put(day: int) -> None:
        rows = [row for (_, stands), row in sorted(source.items()) if stands == day]
        loading.put(day, rows, source_unique=False)

    for number, step in enumerate(steps):
        for (key, day), there in step.items():
            source.pop((key, day), None)
            if there:
                source[key, day] = (key, at(day, number), f"v{number}")
        changed = {day for _, day in step}
        for day in [day for day in order if day in changed or out_of_step(day)]:
            put(day)
        for day in filter(out_of_step, order):  # what the next sync does
            put(day)
        newest = {key: row for (key, _), row in sorted(source.items())}
        assert sorted(loading.target()) == sorted(newest.values())
        assert not any(map(out_of_step, order))


# --- steps that are left out -----------------------------------------------------------------------------------------


def is_direct(done) -> bool:
    return any(text.startswith('COPY "public"') for text in done.statements)


def is_ranked(done) -> bool:
    return any("ROW_NUMBER" in text for text in done.statements)


def test_batches_of_one_snapshot_go_straight_into_an_empty_target_and_into_no_other(loading):
    def both(second: int):
        rows = [[(1, at(1, second), "a"), (2, at(1), "b")], [(3, at(2, second), "c")]]
        return [loading.stage(day, some, snapshot=f"s{second}") for day, some in enumerate(rows, 1)]

    done = loading.load(*both(1))
    assert is_direct(done)
    assert done.rows == {"2024-01-01": 2, "2024-01-02": 1}
    again = loading.load(*both(2))  # both windows are emptied first
    assert is_direct(again)
    assert loading.target() == [(2, at(1), "b"), (1, at(1, 2), "a"), (3, at(2, 2), "c")]
    third = loading.load(loading.stage(3, [(4, at(3), "d")]))
    assert not is_direct(third)
    assert not is_ranked(third)
    assert not any(text.startswith("DELETE") and "USING" in text for text in third.statements)
    assert third.rows == {"2024-01-03": 1}
    assert len(loading.target()) == 4


@pytest.mark.parametrize(
    "more",
    [
        [{}, {}],
        [{"snapshot": "s1"}, {"snapshot": "s2"}],
        [{"snapshot": "s1"}, {}],
        [{"snapshot": "s", "source_unique": False}] * 2,
    ],
)
def test_a_key_that_may_come_in_two_batches_is_compared(loading, more):
    staged = [loading.stage(day, [(1, at(day), f"v{day}")], **given) for day, given in enumerate(more, 1)]
    done = loading.load(*staged)
    assert loading.target() == [(1, at(2), "v2")]
    assert done.rows == {"2024-01-01": 0, "2024-01-02": 1}


def test_a_key_that_is_carried_as_something_coarser_is_compared(rooms):
    loading = Loading(rooms)
    columns = (Column("id", "tinyint(4)", as_="boolean"), *COLUMNS[1:])
    loading.put(1, [(True, at(1), "one"), (True, at(1, 5), "two"), (False, at(1), "none")], columns=columns)
    assert loading.target() == [(False, at(1), "none"), (True, at(1, 5), "two")]


def test_copy_goes_by_position_so_it_does_not_go_into_a_target_of_another_order(loading):
    columns = (Column("a", "int(11)"), Column("b", "int(11)"), *COLUMNS)
    name = loading.spec.table
    loading.rooms.ask(f"CREATE TABLE public.{name} (b INTEGER, a INTEGER, id INTEGER, at TIMESTAMP, v VARCHAR(20))")
    assert not is_direct(loading.put(1, [(10, 20, 1, at(1), "x")], columns=columns))
    assert loading.rooms.ask(f"SELECT a, b FROM public.{name}") == [(10, 20)]


def test_what_is_newer_in_the_target_stays_and_is_not_counted(loading):
    loading.put(3, [(1, at(3), "newer")])
    loading.put(1, [(2, at(1), "older")])
    first = [(1, at(2), "stale"), (2, at(2), "newest"), (3, at(2), "new")]
    done = loading.put(2, first)
    assert done.rows == {"2024-01-02": 2}
    assert loading.target() == [(2, at(2), "newest"), (3, at(2), "new"), (1, at(3), "newer")]
    assert {key: entry.loaded for key, entry in loading.ledger().items()} == {
        "2024-01-01": 0,
        "2024-01-02": 2,
        "2024-01-03": 1,
    }


staged_steps = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 3), st.integers(1, 3), min_size=1, max_size=2),  # where keys move
        st.sets(st.integers(1, 3)),  # the days that are staged then
        st.sets(st.integers(1, 3)),  # the days that are loaded then, from what was staged last
    ),
    min_size=2,
    max_size=4,
)


@bounded(10)
@given(staged_steps)
def test_batches_of_whatever_snapshots_are_loaded_together_no_key_stands_twice(rooms, steps):
    loading = Loading(rooms)
    source: dict[int, tuple] = {}
    staged: dict[int, Any] = {}

    def stage(day: int, number: int) -> None:
        rows = [row for _, row in sorted(source.items()) if row[1].day == day]
        staged[day] = loading.stage(day, rows, snapshot=f"s{number}")

    for number, (moves, days, loads) in enumerate(steps):
        for key, day in moves.items():
            source[key] = (key, at(day, number), f"v{number}")
        for day in days:
            stage(day, number)
        if chosen := [staged[day] for day in sorted(loads & staged.keys())]:
            loading.load(*chosen)
            keys = [row[0] for row in loading.target()]
            assert len(keys) == len(set(keys))
    for day in (1, 2, 3):
        stage(day, len(steps))
    done = loading.load(*staged.values())
    assert loading.target() == sorted(source.values(), key=lambda row: (row[1], row[0]))
    assert sum(done.rows.values()) == len(source)


def test_the_ledger_says_into_which_table_and_from_which_state_of_the_lake_a_partition_was_loaded(loading):
    first, second = loading.stage(1, [(1, at(3), "a")]), loading.stage(2, [])
    load(loading.rooms.warehouse, loading.rooms.store, loading.spec, [first, second], states={"2024-01-01": "x"})
    place = f"public.{loading.spec.table}"
    assert [(entry.target, entry.lake) for entry in loading.ledger().values()] == [(place, "x"), (place, None)]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_copy_that_brings_other_rows_than_promised_changes_nothing(loading):
    loading.put(1, [(1, at(1), "a")])
    before = loading.target(), loading.ledger()
    staged = loading.stage(1, [(1, at(1), "b"), (2, at(1), "b")])
    lying = staged.with_files([refit(file, rows=3) for file in staged.files])
    with pytest.raises(PermanentError, match="COPY brought 2 rows, the staging manifests promise 3"):
        loading.load(lying)
    assert (loading.target(), loading.ledger()) == before


def test_a_file_that_is_missing_changes_nothing(loading):
    loading.put(1, [(1, at(1), "a")])
    before = loading.target(), loading.ledger()
    staged = loading.stage(1, [(1, at(1), "b")])
    loading.rooms.store.delete([file.key for file in staged.files])
    with pytest.raises(PermanentError):
        loading.load(staged)
    assert (loading.target(), loading.ledger()) == before


def test_a_target_of_another_order_is_loaded_by_name(loading):
    loading.rooms.ask(f"CREATE TABLE public.{loading.spec.table} (at TIMESTAMP, v VARCHAR(80), id INTEGER)")
    loading.put(1, [(1, at(1), "a")])
    assert loading.rooms.ask(f"SELECT * FROM public.{loading.spec.table}") == [(at(1), "a", 1)]


def test_an_empty_target_gets_the_columns_that_it_lacks_and_keeps_its_own(loading):
    loading.rooms.ask(f"CREATE TABLE public.{loading.spec.table} (note VARCHAR(9), at TIMESTAMP)")
    loading.put(1, [(1, at(1), "a")])
    assert loading.rooms.ask(f"SELECT * FROM public.{loading.spec.table}") == [(None, at(1), 1, "a")]


def test_a_target_with_somebody_elses_rows_is_refused_by_name(loading):
    loading.rooms.ask(f"CREATE TABLE public.{loading.spec.table} (id INTEGER, note INTEGER)")
    loading.rooms.ask(f"INSERT INTO public.{loading.spec.table} VALUES (7, 7)")
    with pytest.raises(SpecError) as caught:
        loading.put(1, [(1, at(1), "a")])
    table = loading.spec.table
    assert str(caught.value) == (
        f'The warehouse table "public"."{table}" has rows that rds_lake did not load, and the columns id, note; it '
        f"lacks at, v. Nothing was changed. Give defs/{table}/defs.yaml another warehouse.table, or add the columns "
        "yourself."
    )
    assert loading.rooms.ask(f"SELECT * FROM public.{table}") == [(7, 7)]
    assert loading.ledger() == {}


def test_partitions_that_differ_in_columns_are_loaded_together(loading):
    loading.load(
        loading.stage(1, [(1, at(1)), (2, at(1))], COLUMNS[:2]),
        loading.stage(2, [(1, at(2), "a"), (3, at(2), "b")]),
        loading.stage(3, [("x" * 30, 4, at(3))], (Column("v", "varchar(30)"), *COLUMNS[:2])),
    )
    assert loading.target() == [(2, at(1), None), (1, at(2), "a"), (3, at(2), "b"), (4, at(3), "x" * 30)]
    assert {key: (entry.staged, entry.loaded) for key, entry in loading.ledger().items()} == {
        "2024-01-01": (2, 1),
        "2024-01-02": (2, 2),
        "2024-01-03": (1, 1),
    }


# --- broken connections ----------------------------------------------------------------------------------------------


class Breaking(Warehouse):
    """A warehouse that calls `hook` before and after each statement of each session."""

    def __init__(self, warehouse: Warehouse, hook: Callable[[int, str, str, Session], None]) -> None:
        super().__init__(warehouse.url, warehouse.iam_role)
        self.attempts = 0
        self._hook = hook

    @contextmanager
    def connect(self):
        self.attempts += 1
        attempt, hook = self.attempts, self._hook
        with super().connect() as session:
            plain = session.execute

            def execute(text, parameters=()):
                hook(attempt, "before", text, session)
                rows = plain(text, parameters)
                hook(attempt, "after", text, session)
                return rows

            session.execute = execute
            yield session


def test_a_connection_lost_after_the_commit_is_known_from_the_ledger(loading):
    def hook(attempt, when, text, session):
        if (attempt, when, text) == (1, "after", "COMMIT"):
            raise TransientError("The connection was lost.", "Try again.")

    told = []
    staged = loading.stage(1, [(1, at(1), "a")])
    done = loading.load(staged, warehouse=Breaking(loading.rooms.warehouse, hook), report=told.append)
    assert done.repeated
    assert done.rows == {"2024-01-01": 1}
    assert not any(text.startswith(("COPY", "DELETE", "INSERT")) for text in done.statements)
    assert loading.target() == [(1, at(1), "a")]
    assert len(told) == 1
    assert "Attempt 2 of 3; the ledger is asked first" in told[0]


def test_a_backend_killed_before_any_statement_of_the_transaction_costs_nothing_but_an_attempt(loading):
    loading.put(1, [(1, at(1), "old"), (2, at(1), "gone")])
    seen: list[str] = []

    def note(attempt, when, text, session):
        if when == "before":
            seen.append(text)

    plain = Breaking(loading.rooms.warehouse, note)
    loading.load(loading.stage(1, [(1, at(1), "0")]), warehouse=plain)
    steps = range(seen.index("BEGIN"), len(seen))
    assert len(steps) > 8
    for step in steps:
        count = 0

        def hook(attempt, when, text, session, step=step):
            nonlocal count
            if attempt == 1 and when == "before":
                if count == step:
                    pid = session._raw.info.backend_pid
                    loading.rooms.ask("SELECT pg_terminate_backend(%s)", (pid,))
                    time.sleep(0.02)
                count += 1

        breaking = Breaking(loading.rooms.warehouse, hook)
        staged = loading.stage(1, [(1, at(1, step), f"v{step}")], fingerprint=f"1-{step}")
        done = loading.load(staged, warehouse=breaking)
        assert (breaking.attempts, done.repeated) == (2, False)
        assert loading.target() == [(1, at(1, step), f"v{step}")]
        assert loading.ledger()["2024-01-01"].fingerprint == f"1-{step}"


def test_a_load_gives_up_after_some_attempts_and_changes_nothing(loading):
    loading.put(1, [(1, at(1), "a")])

    def hook(attempt, when, text, session):
        if when == "before" and text == "COMMIT":
            raise TransientError("In the way.", "Try again.")

    breaking = Breaking(loading.rooms.warehouse, hook)
    told = []
    with pytest.raises(TransientError, match="In the way"):
        loading.load(loading.stage(1, []), warehouse=breaking, report=told.append)
    assert (breaking.attempts, len(told)) == (ATTEMPTS, ATTEMPTS - 1)
    assert loading.target() == [(1, at(1), "a")]


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_loads_of_one_table_take_turns_and_readers_see_whole_states_only(loading):
    loading.put(1, [(1, at(1), "a"), (2, at(1), "a")])
    holding, release, overlapped = threading.Event(), threading.Event(), []

    def first(attempt, when, text, session):
        if when == "before" and text == "COMMIT":
            holding.set()
            release.wait(20)

    def second(attempt, when, text, session):
        if when == "after" and text.startswith("LOCK"):
            overlapped.append(not release.is_set())

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(
            loading.load, loading.stage(1, [(1, at(1), "b")]), warehouse=Breaking(loading.rooms.warehouse, first)
        )
        assert holding.wait(20)
        other = pool.submit(
            loading.load, loading.stage(2, [(1, at(2), "c")]), warehouse=Breaking(loading.rooms.warehouse, second)
        )
        time.sleep(0.3)
        assert not other.done()
        assert loading.target() == [(1, at(1), "a"), (2, at(1), "a")]
        release.set()
        one.result()
        other.result()
    assert overlapped == [False]
    assert loading.target() == [(1, at(2), "c")]


def test_many_loads_at_once_of_a_table_that_is_not_there_yet_all_succeed(rooms):
    for _ in range(3):  # one round alone meets the collision only now and then
        loading = Loading(rooms)
        staged = [loading.stage(day, [(day, at(day), "x")]) for day in range(1, 7)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(loading.load, staged))
        assert [row[0] for row in loading.target()] == [1, 2, 3, 4, 5, 6]
        assert loading.ledger().keys() == {manifest.partition for manifest in staged}


# --- names -----------------------------------------------------------------------------------------------------------


def test_hostile_names_are_loaded_like_any_other(rooms):
    names = [name.lower() for name in HOSTILE_NAMES]
    columns = (Column("id", "int(11)"), *(Column(name, "datetime") for name in HOSTILE_NAMES))
    for cursor in ("a%s%%d", "it's", 'double"quote'):
        warehouse = {"table": f'{rooms.name()} "%s" it\'s', "distribution_key": "two words", "sort_keys": ["per%cent"]}
        loading = Loading(rooms, key=["id", cursor], cursor={"column": cursor}, warehouse=warehouse)
        rows = [(n, *[at(1, n)] * len(names)) for n in range(3)]
        # An own folder name: S3 keys and Glue have their own idea of what a name may be.
        loading.spec = refit_spec(loading.spec)
        for _ in range(2):
            assert loading.put(1, rows, columns=columns).rows == {"2024-01-01": 3}
        found = rooms.ask(f"SELECT * FROM public.{quote(warehouse['table'])} ORDER BY id")
        assert found == rows


def test_a_table_and_columns_that_are_called_like_names_of_the_loads_own_are_loaded_like_any_other(rooms):
    names = ("version_rank", "version_rank_", "start_of", "key_0")
    columns = (Column("id", "varchar(9)"), Column("at", "datetime"), *(Column(name, "int") for name in names))
    for table in ("ranked", "held", "older"):
        loading = Loading(rooms, warehouse={"schema": rooms.name(), "table": table})
        loading.put(1, [("a", at(1), 5, 6, 7, 8), ("b", at(1), 1, 2, 3, 4)], columns=columns)
        loading.put(2, [("a", at(2), 0, 0, 0, 0)], columns=columns)
        found = rooms.ask(f"SELECT * FROM {loading.spec.warehouse.db_schema}.{table} ORDER BY id")
        assert found == [("a", at(2), 0, 0, 0, 0), ("b", at(1), 1, 2, 3, 4)]


def refit_spec(spec):
    given = spec.model_dump(by_alias=True, exclude_none=True)
    given["partitions"] = {**given["partitions"], "column": "day"}
    return type(spec).model_validate(given)


def test_names_are_lower_case_in_the_warehouse(rooms):
    loading = Loading(rooms, key=["ID"], cursor={"column": "At"}, warehouse={"table": rooms.name("Mixed_")})
    columns = (Column("ID", "int(11)"), Column("At", "datetime"), Column("V", "varchar(20)"))
    loading.put(1, [(1, at(1), "a")], columns=columns)
    assert rooms.ask(f"SELECT id, at, v FROM {loading.spec.warehouse_name.lower()}") == [(1, at(1), "a")]
