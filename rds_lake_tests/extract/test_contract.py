"""The contract of a table's columns: the decision alone, without a server."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.errors import SpecError
from rds_lake.extract.contract import HISTORY, Agreed, Shape, decide, layout, same_columns
from rds_lake.extract.gentle import is_gentle
from rds_lake.extract.types import Column
from rds_lake.extract.widening import holds, wider

ID, V, N = Column("id", "int(11)", nullable=False), Column("v", "varchar(10)"), Column("n", "int(11)")
NOW, LATER, LAST = "2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00", "2024-01-03T00:00:00+00:00"


def first(*columns: Column) -> Agreed:
    return decide("evolve", "t", "s", None, columns, NOW).agreed


def after(contract, *columns, agreed=None, now=LATER) -> Shape:
    return decide(contract, "t", "s", agreed or first(ID, V, N), columns, now)


BIG, LONG = Column("n", "bigint(20)"), Column("v", "varchar(99)")
MONEY, SHORT = Column("n", "decimal(5,2)"), Column("n", "varchar(3)")


def typed(column: Column, kind: str) -> Column:
    return Column(column.name, kind, column.nullable)


def test_the_first_landing_agrees_on_what_is_there():
    shape = decide("freeze", "t", "s", None, (ID, V), NOW)
    assert (shape.columns, shape.read, shape.changes, shape.ignored) == ((ID, V), (ID, V), (), ())
    assert (shape.agreed.version, shape.agreed.since) == (1, NOW)
    assert [item.stamp for item in shape.agreed.columns] == [NOW, NOW]


@pytest.mark.parametrize("contract", ["evolve", "freeze", "discard"])
@pytest.mark.parametrize(
    "present",
    [
        (ID, V, N),
        (typed(ID, "int"), V, typed(N, "int(9)")),
        (Column("ID", "int(11)", nullable=False), V, N),
    ],
    ids=["equal", "other display width", "other case"],
)
def test_what_is_no_change(contract, present):
    shape = after(contract, *present)
    assert not shape.changes
    assert not shape.ignored
    assert [column.name.lower() for column in shape.columns] == ["id", "v", "n"]
    assert shape.digest == after(contract, ID, V, N).digest
    assert layout(shape.columns) == layout((ID, V, N))


@pytest.mark.parametrize(
    ("present", "said", "renewed", "columns"),
    [
        ((ID, V, Column("x", "date"), N), ["'x' (date) was added"], ["x"], [ID, V, N, Column("x", "date")]),
        ((ID, N), ["'v' (varchar(10)) was dropped"], [], [ID, V, N]),
        (
            (ID, Column("w", "varchar(10)"), N),
            [
                "'v' (varchar(10)) was dropped",
                "'w' (varchar(10)) was added",
                "a renamed column looks like one that was dropped and one that was added",
            ],
            ["w"],
            [ID, V, N, Column("w", "varchar(10)")],
        ),
        ((ID, V, BIG), ["'n' is now bigint(20), was int(11)"], [], [ID, V, BIG]),
        ((ID, LONG, N), ["'v' is now varchar(99), was varchar(10)"], [], [ID, LONG, N]),
        ((ID, typed(V, "varchar(5)"), N), ["'v' is now varchar(5), was varchar(10)"], ["v"], [ID, V, N]),
        ((ID, typed(V, "char(10)"), N), ["'v' is now char(10), was varchar(10)"], ["v"], [ID, V, N]),
        ((ID, replace(V, nullable=False), N), ["'v' is NOT NULL now"], ["v"], [ID, V, N]),
        ((replace(ID, nullable=True), V, N), ["'id' may be NULL now"], [], [ID, V, N]),
        ((ID, V, typed(N, "smallint(6)")), ["'n' is now smallint(6), was int(11)"], ["n"], [ID, V, N]),
        ((ID, V, MONEY), ["'n' is now decimal(5,2), was int(11)"], ["n"], [ID, V, MONEY]),
        ((ID, V, SHORT), ["'n' is now varchar(3), was int(11)"], ["n"], [ID, V, SHORT]),
        ((ID, typed(V, "smallint(6)"), N), ["'v' is now smallint(6), was varchar(10)"], ["v"], [ID, V, N]),
    ],
    ids=[
        "added", "dropped", "renamed", "widened", "text widened", "text narrowed", "text cut", "NOT NULL", "NULL",
        "narrowed", "another number", "number to text", "text to number",
    ],
)  # fmt: skip
def test_evolve_follows(present, said, renewed, columns):
    shape = after("evolve", *present)
    assert list(shape.changes) == said
    assert layout(shape.columns) == layout(columns)
    assert [item.column.name for item in shape.agreed.columns if item.stamp == LATER] == renewed
    assert (shape.agreed.version, shape.agreed.since) == (2, LATER)
    assert shape.agreed.changes[-1].what == shape.changes
    again = after("evolve", *present, agreed=shape.agreed, now=LAST)
    assert (again.changes, again.digest, again.columns) == ((), shape.digest, shape.columns)


def test_what_may_have_changed_values_is_another_shape_and_what_cannot_have_is_not():
    before = after("evolve", ID, V, N).digest
    for present in (
        (ID, N),
        (ID, typed(V, "varchar(99)"), N),
        (ID, typed(V, "longtext"), N),
    ):
        assert after("evolve", *present).digest == before
    for present in ((ID, V, N, Column("x", "int")), (ID, V, typed(N, "bigint(20)")), (ID, typed(V, "int"), N),
                    (ID, V, typed(N, "tinyint(4)")), (ID, typed(V, "char(10)"), N)):  # fmt: skip
        assert after("evolve", *present).digest != before


@pytest.mark.parametrize(
    ("old", "new"), [("int(11)", "bigint(20)"), ("varchar(30)", "char(30)"), ("enum('a')", "set('a')")]
)
@pytest.mark.parametrize("contract", ["evolve", "discard"])
def test_a_stamp_is_renewed_exactly_where_the_change_is_not_gentle(contract, old, new):
    shape = after(contract, ID, typed(V, new), agreed=first(ID, typed(V, old)))
    assert shape.changes == (f"'v' is now {new}, was {old}",)
    gentle = is_gentle(typed(V, old), typed(V, new), as_text=False)
    assert shape.agreed.columns[1].stamp == (NOW if gentle else LATER)


@pytest.mark.parametrize(
    ("old", "new", "renewed"),
    [
        ("decimal(8,2)", "decimal(9,2)", False),
        ("decimal(8,2)", "decimal(9,3)", True),
        ("datetime", "datetime(3)", True),
        ("int(11)", "bigint(20)", False),
        ("int(5)", "int(5) zerofill", True),
    ],
)
def test_a_number_that_is_carried_as_text_is_another_value_when_it_is_printed_otherwise(old, new, renewed):
    asked = first(ID, Column("v", old, as_="string"))
    held = after("evolve", ID, Column("v", old), agreed=first(ID, Column("v", "varchar(40)"))).agreed
    for agreed, how in ((asked, "string"), (held, None)):
        shape = after("evolve", ID, Column("v", new, as_=how), agreed=agreed, now=LAST)
        assert (shape.agreed.columns[1].stamp == LAST) == renewed


@pytest.mark.parametrize("contract", ["evolve", "discard"])
@pytest.mark.parametrize(
    ("kind", "was", "now"),
    [
        ("date", None, "null"),
        ("date", "null", None),
        ("date", None, "string"),
        ("int(11)", None, "string"),
        ("int(11)", "string", None),
        ("varchar(10)", None, "null"),
    ],
)
def test_another_as_is_one_change_and_then_none(contract, kind, was, now):
    old, new = Column("v", kind, as_=was), Column("v", kind, as_=now)
    shape = after(contract, ID, new, agreed=first(ID, old))
    said = ["no 'as'" if how is None else f"'as: {how}'" for how in (now, was)]
    assert shape.changes == (f"'v' has {said[0]} in the YAML now, had {said[1]}",)
    assert shape.agreed.columns[1].stamp == LATER, "all partitions are landed again"
    later = after(contract, ID, new, agreed=shape.agreed, now=LAST)
    assert (later.changes, later.digest) == ((), shape.digest)


def test_another_character_set_is_a_change():
    agreed = first(ID, replace(V, charset="utf8mb4"))
    shape = after("discard", ID, replace(V, charset="latin1"), agreed=agreed)
    assert shape.changes == ("'v' is in the character set latin1 now, was in utf8mb4",)
    assert shape.agreed.columns[1].stamp == LATER
    assert not after("discard", ID, replace(V, charset="latin1"), agreed=shape.agreed, now=LAST).changes


@pytest.mark.parametrize("contract", ["evolve", "discard"])
def test_another_order_may_be_an_exchange_of_names_so_that_all_is_landed_again(contract):
    said = "the columns stand in another order now, from 'v' on, or have exchanged names"
    shape = after(contract, ID, N, V)
    assert shape.changes == (said,)
    assert [item.stamp for item in shape.agreed.columns] == [NOW, LATER, LATER]
    assert layout(shape.columns) == layout((ID, V, N)), "lake and warehouse keep theirs"
    again = after(contract, ID, N, V, agreed=shape.agreed, now=LAST)
    assert (again.changes, again.digest) == ((), shape.digest)
    with pytest.raises(SpecError, match=said):
        after("freeze", ID, N, V)


def test_a_column_more_or_less_between_others_is_no_other_order():
    more = Column("x", "date")
    grown = after("evolve", more, ID, V, N)
    assert grown.changes == ("'x' (date) was added",)
    assert after("evolve", more, ID, N, agreed=grown.agreed, now=LAST).changes == ("'v' (varchar(10)) was dropped",)
    assert after("discard", ID, more, V, N).changes == ()


def test_another_expression_of_a_generated_column_has_all_landed_again():
    def doubled(by: str) -> Column:
        return replace(N, generated=by)

    agreed = first(ID, doubled("`a` * 2"))
    shape = after("evolve", ID, doubled("`a` * 5"), agreed=agreed)
    assert shape.changes == ("'n' is computed as `a` * 5 now, was computed as `a` * 2",)
    assert [item.stamp for item in shape.agreed.columns] == [NOW, LATER]
    assert after("evolve", ID, doubled(""), agreed=agreed).changes == (
        "'n' is not computed now, was computed as `a` * 2",
    )
    assert not after("evolve", ID, doubled("`a` * 5"), agreed=shape.agreed, now=LAST).changes


def test_what_an_earlier_version_did_not_know_is_no_change_and_is_filled_in():
    old = replace(first(ID, V, N), order=None)
    present = tuple(replace(column, generated="") for column in (V, N, ID))
    shape = after("freeze", *present, agreed=old)
    assert not shape.changes
    assert shape.agreed.order == ("v", "n", "id")
    assert old.lacks(shape.agreed)
    assert not shape.agreed.lacks(shape.agreed)


def test_a_column_that_comes_back_is_landed_again_for_all():
    gone = after("evolve", ID, N)
    assert gone.read == (ID, N)
    back = after("evolve", ID, V, N, agreed=gone.agreed, now=LAST)
    assert back.changes == ("'v' (varchar(10)) is back",)
    assert back.digest != gone.digest
    assert back.agreed.columns[1].dropped is None


def test_discard_keeps_the_columns_and_says_what_it_leaves_out():
    shape = after("discard", ID, Column("x", "date"), typed(N, "bigint(20)"))
    assert layout(shape.columns) == layout((ID, V, N))
    assert shape.ignored == ("'x' (date) is not read",)
    assert shape.changes == ("'v' (varchar(10)) was dropped", "'n' is now bigint(20), was int(11)")
    assert [reading.source and reading.source.type for reading in shape.readings] == ["int(11)", None, "bigint(20)"]
    assert shape.digest == after("discard", ID, V, N).digest
    again = after("discard", ID, Column("x", "date"), typed(N, "bigint(20)"), agreed=shape.agreed, now=LAST)
    assert (again.changes, again.ignored, again.columns) == ((), shape.ignored, shape.columns)


def test_evolve_after_discard_follows_what_was_left_out():
    kept = after("discard", ID, V, typed(N, "bigint(20)"), Column("x", "date"))
    shape = after("evolve", ID, V, typed(N, "bigint(20)"), Column("x", "date"), agreed=kept.agreed, now=LAST)
    assert shape.changes == ("'n' is carried as bigint(20) from now on", "'x' (date) was added")
    assert layout(shape.columns) == layout((ID, V, typed(N, "bigint(20)"), Column("x", "date")))


def test_freeze_names_every_change():
    with pytest.raises(SpecError) as caught:
        after("freeze", ID, typed(N, "date"), Column("x", "date"))
    assert str(caught.value) == (
        "t: the source table 's' has changed, and schema_changes is freeze: 'v' (varchar(10)) was dropped; 'n' is now "
        "date, was int(11); 'x' (date) was added; a renamed column looks like one that was dropped and one that was "
        "added. Nothing was landed. Take the change back, or set schema_changes to evolve (to follow it) "
        "or discard (to keep the columns as they were) in defs/t/defs.yaml."
    )


def test_freeze_passes_what_was_agreed_on_under_another_contract():
    evolved = after("evolve", ID, V, typed(N, "smallint(6)")).agreed
    assert not after("freeze", ID, V, typed(N, "smallint(6)"), agreed=evolved).changes
    with pytest.raises(SpecError, match=r"'n' is now int\(11\), was smallint\(6\)"):
        after("freeze", ID, V, N, agreed=evolved)


@pytest.mark.parametrize("contract", ["evolve", "discard"])
def test_a_type_that_nothing_can_follow_is_refused(contract):
    with pytest.raises(SpecError) as caught:
        after(contract, ID, V, typed(N, "date"))
    assert str(caught.value) == (
        "t: the source table 's' has the column 'n' as date now; it was int(11), and no type holds the values of both. "
        "Nothing was landed. Give the new values a column of another name at the source (take back a new 'as'), or "
        "start over with the present columns (see schema_changes in docs/tables.md)."
    )


def test_a_table_of_other_columns_altogether_is_refused_under_discard():
    with pytest.raises(SpecError, match="has none of the agreed columns any more"):
        after("discard", Column("a", "int"), Column("b", "int"))


def test_columns_are_the_same_in_whatever_order_and_display_width():
    assert same_columns((ID, V), (V, typed(ID, "int")))
    assert not same_columns((ID, V), (ID, typed(V, "varchar(11)")))
    assert not same_columns((ID, V), (ID,))


KINDS = ["int(11)", "bigint(20)", "smallint(6)", "varchar(10)", "varchar(50)", "decimal(8,2)", "decimal(8,4)", "date"]
tables = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(KINDS)).map(
    lambda found: (ID, *(Column(name, kind) for name, kind in found.items()))
)


@bounded(200)
@given(
    st.lists(tables, min_size=1, max_size=6), st.lists(st.sampled_from(["evolve", "discard"]), min_size=6, max_size=6)
)
def test_whatever_happens_columns_keep_their_place_and_their_room(history, contracts):
    agreed = None
    for number, (present, contract) in enumerate(zip(history, contracts, strict=False)):
        now = f"{number}"
        try:
            shape = decide(contract, "t", "s", agreed, present, now)
        except SpecError:
            before = {item.column.name: item.column.mapped.redshift for item in agreed.columns}
            assert any(c.name in before and wider(before[c.name], c.mapped.redshift) is None for c in present)
            continue
        kept = {item.column.name: item.column for item in agreed.columns} if agreed else {}
        names = [column.name for column in shape.columns]
        assert names[: len(kept)] == list(kept)
        for name, column in kept.items():
            now_held, then = shape.columns[names.index(name)].mapped.redshift, column.mapped.redshift
            if contract == "discard":
                assert now_held == then
            else:
                assert holds(now_held, then) or now_held in {c.mapped.redshift for c in present}
        missing = {column.name for column in present} - set(names)
        assert not missing or contract == "discard"
        assert len(shape.agreed.changes) <= HISTORY
        again = decide(contract, "t", "s", shape.agreed, present, "later")
        assert (again.changes, again.digest, again.agreed) == ((), shape.digest, shape.agreed)
        agreed = shape.agreed
