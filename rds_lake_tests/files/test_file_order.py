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

from rds_lake.files.order import plan_load, repeats

START = datetime(2026, 11, 20, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """A file: `rows` are keys; each row's value is the file that it is from."""

    file_id: str
    second: int
    action: str = "append"
    rows: tuple[str, ...] = ()
    name: str = "a.csv"
    content: str = "c"

    @property
    def order(self) -> tuple[datetime, str]:
        return START + timedelta(seconds=self.second), self.file_id


class Table:
    """A table with its ledger, loaded as the plan says and in no other way."""

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.rows: list[tuple[str, str]] = []
        self.ledger: dict[str, File] = {}
        self.superseded: set[str] = set()

    def load(self, new: Sequence[File]) -> None:
        first = min(file.order[0] for file in new)
        later = [
            file for file in self.ledger.values() if file.order[0] >= first and file.file_id not in self.superseded
        ]
        plan = plan_load(new, later, keyed=self.keyed)
        self.ledger |= {file.file_id: file for file in new}
        self.superseded |= set(plan.superseded)
        assert set(plan.superseded) <= {file.file_id for file in new}
        assert {file.file_id for file in new} <= {*plan.apply, *plan.superseded}
        assert len(set(plan.apply)) == len(plan.apply)
        if plan.empty_first:
            self.rows = []
        for file_id in plan.apply:
            self.apply(self.ledger[file_id])

    def apply(self, file: File) -> None:
        if self.keyed:
            self.rows = [row for row in self.rows if row[0] not in file.rows]
        self.rows += [(key, file.file_id) for key in file.rows]

    @classmethod
    def in_landed_order(cls, files: Iterable[File], *, keyed: bool) -> "Table":
        """What the files are meant to make of it."""
        made = cls(keyed=keyed)
        for file in sorted(files, key=lambda file: file.order):
            made.rows = [] if file.action == "truncate" else made.rows
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
    files = [
        File(
            file_id,
            draw(st.integers(0, 4)),
            draw(st.sampled_from(["append", "append", "append", "truncate"])),
            tuple(draw(st.lists(st.sampled_from("xyz"), max_size=3, unique=True))),
        )
        for file_id in ids
    ]
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
    assert table.content == Table.in_landed_order(others, keyed=keyed).content
    last = max((file.order for file in everything if file.action == "truncate"), default=None)
    assert all(last is not None and table.ledger[file_id].order < last for file_id in table.superseded)


def plan(new: Collection[File], loaded: Collection[File], *, keyed: bool = False) -> tuple[bool, str, str]:
    found = plan_load(list(new), list(loaded), keyed=keyed)
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
            assert table.content == Counter({("x", "a"): 1, ("x", "b"): 1})
    late = replace(first, file_id="c")
    assert plan([second], [late]) == (False, "", "b")


# --- the same file again ---------------------------------------------------------------------------------------------


def test_an_append_of_the_same_name_and_bytes_is_a_repeat():
    a, b = File("a", 1), File("b", 2)
    assert repeats([b], [a], []) == {"b": "a"}
    assert repeats([a, b], [], []) == {"b": "a"}
    assert repeats([a], [b], []) == {"a": "b"}
    assert repeats([b, File("c", 3)], [a], []) == {"b": "a", "c": "a"}
    for other in (replace(a, name="b.csv"), replace(a, content="d"), replace(a, name="A.csv")):
        assert repeats([b], [other], []) == {}


def test_a_truncate_between_makes_it_none():
    a, b, c, d = (File(name, number) for number, name in enumerate("abcd"))
    truncate = replace(b, action="truncate")
    assert repeats([c], [a], [truncate]) == {}
    assert repeats([c, d], [a], [truncate]) == {"d": "c"}
    assert repeats([d], [a, c], [truncate]) == {"d": "c"}
    assert repeats([a], [c], [truncate]) == {}
    assert repeats([b], [a], [replace(c, action="truncate")]) == {"b": "a"}
    same = replace(c, file_id="z", action="truncate")
    assert repeats([c], [a], [same]) == {"c": "a"}
    assert repeats([c], [a], [replace(same, file_id="0")]) == {}


actions = st.sampled_from(["append", "append", "truncate"])


@given(st.lists(st.tuples(st.integers(0, 5), actions, st.sampled_from("pq"), st.sampled_from("cd")), max_size=8))
@bounded(200)
def test_of_equal_appends_between_two_truncates_the_first_one_counts(given_files):
    files = [File(letters(8)[number], *made[:2], (), *made[2:]) for number, made in enumerate(given_files)]
    ordered = sorted(files, key=lambda file: file.order)
    seen: dict[tuple[str, str], str] = {}
    expected = {}
    for file in ordered:
        if file.action == "truncate":
            seen = {}
        elif (held := seen.setdefault((file.name, file.content), file.file_id)) != file.file_id:
            expected[file.file_id] = held
    appended = [file for file in ordered if file.action == "append"]
    truncates = [file for file in files if file.action == "truncate"]
    assert repeats(appended, [], truncates) == expected
    for at in range(len(appended)):  # the first ones are loaded already, without what repeats them
        loaded = [file for file in appended[:at] if file.file_id not in expected]
        fresh = {file.file_id for file in appended[at:]}
        found = repeats(appended[at:], loaded, truncates)
        assert found == {file_id: held for file_id, held in expected.items() if file_id in fresh}
