"""The order of files: however they are handled, a table is what they make of it in the order in which they landed."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.files.order import plan_load, stands_for

START = datetime(2026, 11, 20, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """A file: `rows` are keys. Those of equal bodies are equal; without one it is like no other file."""

    file_id: str
    second: int
    action: str = "append"
    rows: tuple[str, ...] = ()
    name: str = "a.csv"
    body: str = ""

    @property
    def content(self) -> str:
        return self.body or self.file_id

    @property
    def order(self) -> tuple[datetime, str]:
        return START + timedelta(seconds=self.second), self.file_id


class Table:
    """A table with its ledger, loaded as the plan says and in no other way; a row's value is the body it is from."""

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.rows: list[tuple[str, str]] = []
        self.ledger: dict[str, File] = {}

    @property
    def superseded(self) -> set[str]:
        return self.of("superseded")

    def of(self, action: str) -> set[str]:
        return {file.file_id for file in self.ledger.values() if file.action == action}

    def beside(self, new: Sequence[File]) -> list[File]:
        """What the ledger is asked for: see `rds_lake.files.load`."""
        entries = self.ledger.values()
        first = min(file.order[0] for file in new)
        later = [file for file in entries if file.order[0] >= first and file.action != "superseded"]
        contents = {file.content for file in new if file.action == "append"}
        equal = [file for file in entries if not self.keyed and file.action == "append" and file.content in contents]
        old = [file for file in entries if file.action == "truncate" and any(one.order[0] < first for one in equal)]
        return list(dict.fromkeys([*later, *equal, *old]))

    def load(self, new: Sequence[File]) -> None:
        plan = plan_load(new, self.beside(new), keyed=self.keyed)
        fresh = {file.file_id: file for file in new}
        before = self.of("append") | self.of("truncate")
        known = self.ledger | fresh
        assert len(set(plan.apply)) == len(plan.apply)
        assert sorted(fresh) == sorted([*(set(plan.apply) & set(fresh)), *plan.superseded, *plan.repeated])
        assert set(plan.apply) <= {*fresh, *before, *plan.revived}
        assert set(plan.revived) <= self.of("repeated")
        changed = {
            **dict.fromkeys(plan.superseded, "superseded"),
            **dict.fromkeys(plan.repeated, "repeated"),
            **dict.fromkeys(plan.revived, "append"),
        }
        self.ledger = known | {file_id: replace(known[file_id], action=action) for file_id, action in changed.items()}
        for file_id, other in plan.repeated.items():
            assert self.ledger[other].action == "append"
            assert (known[other].name, known[other].content) == (known[file_id].name, known[file_id].content)
        if plan.empty_first:
            self.rows = []
        for file_id in plan.apply:
            self.apply(self.ledger[file_id])

    def apply(self, file: File) -> None:
        if self.keyed:
            self.rows = [row for row in self.rows if row[0] not in file.rows]
        self.rows += [(key, file.content) for key in file.rows]

    @classmethod
    def in_landed_order(cls, files: Iterable[File], *, keyed: bool) -> "Table":
        """What the files are meant to make of it."""
        made = cls(keyed=keyed)
        seen: set[tuple[str, str]] = set()
        for file in sorted(files, key=lambda file: file.order):
            if file.action == "truncate":
                made.rows, seen = [], set()
            elif (file.name, file.content) in seen and not keyed:
                continue
            else:
                seen.add((file.name, file.content))
            made.apply(file)
        return made

    @property
    def content(self) -> Counter[tuple[str, str]]:
        return Counter(self.rows)


def letters(count: int) -> Sequence[str]:
    return [chr(ord("a") + number) for number in range(count)]


@st.composite
def histories(draw: st.DrawFn) -> list[list[File]]:
    """Files in groups, in the order in which they are handled, which has nothing to do with when they landed."""
    count = draw(st.integers(1, 9))
    ids = draw(st.permutations(letters(count)))
    keys = st.lists(st.sampled_from("xyz"), max_size=3, unique=True).map(tuple)
    bodies = {body: draw(keys) for body in "12"}
    files = []
    for file_id in ids:
        body = draw(st.sampled_from(["", "1", "1", "2"]))
        action = draw(st.sampled_from(["append", "append", "append", "truncate"]))
        name = draw(st.sampled_from(["a.csv", "a.csv", "b.csv"]))
        rows = bodies[body] if body else draw(keys)
        files.append(File(file_id, draw(st.integers(0, 4)), action, rows, name, body))
    groups: list[list[File]] = [[]]
    for file in files:
        if groups[-1] and draw(st.booleans()):
            groups.append([])
        groups[-1].append(file)
    return groups


@given(histories(), st.booleans())
@example([[File("b", 5, "append", ("x",))], [File("a", 3, "append", ("x",))]], True)
@example([[File("b", 5, "append", ("x",))], [File("a", 3, "truncate", ("x",))]], False)
@example(
    [[File("c", 5, "truncate", ("x",))], [File("a", 3, "truncate", ("y",)), File("b", 4, "append", ("z",))]], False
)
@example([[File("a", 1, "truncate")], [File("b", 1, "append", ("x",))]], True)
@example(
    [
        [File("a", 1, "append", ("x",), body="1")],
        [File("b", 3, "append", ("x",), body="1")],
        [File("c", 2, "truncate")],
    ],
    False,
)
@example(
    [
        [File("b", 3, "append", ("x",), body="1")],
        [File("a", 1, "append", ("x",), body="1")],
        [File("c", 2, "truncate")],
    ],
    False,
)
@bounded(500)
def test_whatever_the_order_and_grouping_the_table_is_that_of_the_landed_order(groups, keyed):
    table = Table(keyed=keyed)
    for group in groups:
        table.load(group)
    everything = [file for group in groups for file in group]
    assert table.content == Table.in_landed_order(everything, keyed=keyed).content


@pytest.mark.parametrize("keyed", [False, True])
def test_all_orders_of_a_small_history_end_in_the_same_table(keyed):
    files = [
        File("a", 1, "append", ("x", "y")),
        File("e", 2, "truncate", ("x", "z")),
        File("b", 2, "append", ("x",)),
        File("c", 3, "append", ("z",)),
        File("d", 4, "append", ("x", "y")),
    ]
    expected = Table.in_landed_order(files, keyed=keyed).content
    assert expected.total() == (3 if keyed else 5)
    for order in permutations(files):
        for cut in range(1, len(files)):
            table = Table(keyed=keyed)
            table.load(order[:cut])
            table.load(order[cut:])
            assert table.content == expected


@given(histories(), st.booleans())
@bounded(150)
def test_what_is_superseded_has_no_effect(groups, keyed):
    table = Table(keyed=keyed)
    for group in groups:
        table.load(group)
    everything = [file for group in groups for file in group]
    others = [file for file in everything if file.file_id not in table.superseded]
    assert {file.file_id for file in others} == table.of("append") | table.of("truncate") | table.of("repeated")
    assert table.content == Table.in_landed_order(others, keyed=keyed).content
    last = max((file.order for file in everything if file.action == "truncate"), default=None)
    assert all(last is not None and table.ledger[file_id].order < last for file_id in table.superseded)


def plan(new: Collection[File], loaded: Collection[File], *, keyed: bool = False) -> tuple[bool, str, str]:
    found = plan_load(list(new), list(loaded), keyed=keyed)
    assert (found.repeated, found.revived) == ({}, ())
    return found.empty_first, "".join(found.apply), "".join(found.superseded)


def test_the_plan_does_no_more_than_it_has_to():
    a, b, c = File("a", 1), File("b", 2), File("c", 3)
    truncate = {file.file_id: replace(file, action="truncate") for file in (a, b, c)}
    assert plan([a], []) == (False, "a", "")
    assert plan([c, a], []) == (False, "ac", "")
    assert plan([a], [b, c]) == (False, "a", "")
    assert plan([a], [b, c], keyed=True) == (False, "abc", "")
    assert plan([b], [a, c], keyed=True) == (False, "bc", "")
    assert plan([c], [a, b], keyed=True) == (False, "c", "")
    assert plan([truncate["b"]], [a, c]) == (True, "bc", "")
    assert plan([a], [truncate["b"], c]) == (False, "", "a")
    assert plan([a, c], [truncate["b"]]) == (False, "c", "a")
    assert plan([a, truncate["b"], c], []) == (True, "bc", "a")
    assert plan([truncate["a"], truncate["b"]], [truncate["c"]]) == (False, "", "ab")
    assert plan([truncate["a"], truncate["c"]], [truncate["b"]]) == (True, "c", "a")


def test_files_of_one_second_have_one_order_too():
    first, second = File("a", 1, "truncate", ("x",)), File("b", 1, "append", ("x",))
    for files in permutations([first, second]):
        for together in (True, False):
            table = Table(keyed=False)
            for group in [files] if together else [[file] for file in files]:
                table.load(group)
            assert table.content == Counter({("x", first.content): 1, ("x", second.content): 1})
    late = replace(first, file_id="c")
    assert plan([second], [late]) == (False, "", "b")


# --- the same file again ---------------------------------------------------------------------------------------------


def same(file_id: str, second: int, action: str = "append", **more: str) -> File:
    """A file that has the name and the bytes of all others of this kind."""
    return replace(File(file_id, second, action, ("x",), body="1"), **more)


def repeats(new: Collection[File], loaded: Collection[File], *, keyed: bool = False) -> tuple[str, dict[str, str], str]:
    found = plan_load(list(new), list(loaded), keyed=keyed)
    return "".join(found.apply), dict(found.repeated), "".join(found.revived)


def test_an_append_of_the_same_name_and_bytes_is_a_repeat():
    a, b, c = same("a", 1), same("b", 2), same("c", 3)
    assert repeats([b], [a]) == ("", {"b": "a"}, "")
    assert repeats([a, b], []) == ("a", {"b": "a"}, "")
    assert repeats([a], [b]) == ("", {"a": "b"}, "")
    assert repeats([b, c], [a]) == ("", {"b": "a", "c": "a"}, "")
    assert repeats([a, c], [b]) == ("", {"a": "b", "c": "b"}, "")
    for other in (replace(a, name="b.csv"), replace(a, body="2"), replace(a, name="A.csv")):
        assert repeats([b], [other]) == ("b", {}, "")
    assert repeats([b], [a], keyed=True) == ("b", {}, "")
    assert repeats([a, b], [], keyed=True) == ("ab", {}, "")


def test_a_truncate_between_makes_it_none():
    a, b, c, d = (same(name, number) for number, name in enumerate("abcd"))
    assert repeats([c], [a, replace(b, action="truncate")]) == ("c", {}, "")
    assert repeats([c, d], [a, replace(b, action="truncate")]) == ("c", {"d": "c"}, "")
    assert repeats([d], [a, replace(b, action="truncate"), c]) == ("", {"d": "c"}, "")
    truncate = same("t", 2, "truncate")  # of the same second as c, and with the same name and bytes itself
    assert repeats([c], [truncate]) == ("", {}, "")
    assert repeats([c], [replace(truncate, file_id="0")]) == ("c", {}, "")


def test_a_truncate_that_comes_late_brings_in_the_repeats_that_landed_after_it():
    a, b, c = same("a", 1), same("b", 3), same("c", 4)
    repeated = {file.file_id: replace(file, action="repeated") for file in (a, b, c)}
    truncate = File("t", 2, "truncate")
    assert repeats([truncate], [a, repeated["b"]]) == ("tb", {}, "b")
    assert repeats([truncate], [a, repeated["b"], repeated["c"]]) == ("tb", {}, "b")
    assert repeats([truncate], [repeated["a"], b]) == ("tb", {}, "")
    assert repeats([truncate], [repeated["b"], c]) == ("tc", {}, ""), "it is in, and stays so"
    assert repeats([truncate, c], [a, repeated["b"]]) == ("tc", {}, ""), "its record can still say so"
    assert repeats([replace(truncate, second=0)], [a, repeated["b"]]) == ("ta", {}, "")
    assert repeats([replace(truncate, second=0), c], [a, repeated["b"]]) == ("ta", {"c": "a"}, "")
    assert repeats([replace(truncate, second=5)], [a, repeated["b"]]) == ("t", {}, "")
    assert repeats([File("n", 0)], [a, repeated["b"]], keyed=False) == ("n", {}, "")


@pytest.mark.parametrize("keyed", [False, True])
def test_all_orders_and_groupings_of_equal_files_around_a_truncate_end_in_the_same_table(keyed):
    files = [same("a", 1), same("d", 1), File("t", 2, "truncate", ("y",)), same("b", 3), same("c", 4)]
    expected = Table.in_landed_order(files, keyed=keyed).content
    assert expected == Counter({("x", "1"): 1, ("y", "t"): 1})
    for order in permutations(files):
        for cuts in range(2 ** (len(files) - 1)):
            table = Table(keyed=keyed)
            groups: list[list[File]] = [[order[0]]]
            for at, file in enumerate(order[1:]):
                if cuts >> at & 1:
                    groups.append([])
                groups[-1].append(file)
            for group in groups:
                table.load(group)
            assert table.content == expected, groups


@given(histories())
@bounded(150)
def test_each_repeat_names_the_file_whose_rows_are_in_for_it(groups):
    table = Table(keyed=False)
    for group in groups:
        table.load(group)
    appends, truncates = (
        [table.ledger[name] for name in sorted(table.of(action))] for action in ("append", "truncate")
    )
    last = max((file.order for file in truncates), default=None)
    for file_id in table.of("repeated"):
        file = table.ledger[file_id]
        equal = [one for one in appends if one.content == file.content]
        held = stands_for(file, equal, truncates)
        if last is None or file.order > last:
            assert held is not None
            assert table.ledger[held].name == file.name
            assert last is None or table.ledger[held].order > last
