"""The verdict on one partition, without any server."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlfluff
from rooms import daily, table_spec

from rds_lake.cursors import bound
from rds_lake.extract.types import TYPE_TABLE, As, Column, ways
from rds_lake.lake.manifest import File, Manifest
from rds_lake.partitions import Window
from rds_lake.verify import cut
from rds_lake.verify.checksums import Sum
from rds_lake.verify.judge import Evidence, opinion, unequal
from rds_lake.verify.queries import Questions
from rds_lake.warehouse.ledger import Entry

LANDED = Manifest("t", "landing", "p", "b", (File("t/archived/b/f", 1, 3, ""),), (), "3-a", "f")
WHOLE = {
    "landing": LANDED,
    "archived": replace(LANDED, stage="archived", parent="b"),
    "staging": replace(LANDED, stage="staging", batch="s", parent="b", rules="r", files=(File("s", 1, 2, ""),)),
    "discarded": replace(LANDED, stage="discarded", batch="d", parent="b", rules="r", files=(File("d", 1, 1, ""),)),
}
SUMS = {
    "source": Sum(3, 30),
    "landing": Sum(3, 30),
    "archived": Sum(3, 30),
    "staging": Sum(2, 21),
    "discarded": Sum(1, 9),
    "warehouse": Sum(2, 21),
}
GOOD = Evidence("p", "3-a", rules="r", batches=WHOLE, entry=Entry("s", "3-a", "r", 2, 2), sums=SUMS)


def judged(found: Evidence) -> tuple[str | None, tuple[str, ...]]:
    thought = opinion(found)
    return thought.behind, thought.faults + unequal(found, thought.checks)


def test_what_fits_together_is_in_step() -> None:
    assert judged(GOOD) == (None, ())


@pytest.mark.parametrize("side", SUMS)
@pytest.mark.parametrize("bent", [Sum(1, 0), Sum(0, 1)])
def test_a_sum_that_does_not_fit_is_a_fault_whichever_side_it_is(side: str, bent: Sum) -> None:
    behind, faults = judged(replace(GOOD, sums={**SUMS, side: SUMS[side] + bent}))
    assert behind is None
    assert faults


def test_a_changed_source_is_behind_and_the_rest_is_still_compared() -> None:
    changed = replace(GOOD, fingerprint="4-b", sums={**SUMS, "source": Sum(4, 44)})
    assert judged(changed) == ("the source has changed since", ())
    bent = replace(changed, sums={**changed.sums, "warehouse": Sum(2, 22)})
    assert judged(bent)[1] == ("staging and the warehouse hold 2 rows each, with different values",)


def test_changed_rules_are_behind_and_everything_is_still_compared() -> None:
    changed = replace(GOOD, rules="new")
    assert judged(changed) == ("the rules have changed since", ())
    assert opinion(changed).checks == opinion(GOOD).checks
    assert judged(replace(GOOD, rules=None)) == (None, ()), "rules that nobody could apply are a note of the table"


def test_a_partition_whose_fence_was_later_is_behind() -> None:
    behind, faults = judged(replace(GOOD, held_back=True, sums={**SUMS, "source": Sum(1, 1)}))
    assert behind is not None
    assert faults == ()


def test_rows_that_gave_way_to_newer_versions_count_as_held() -> None:
    gave_way = replace(GOOD, sums={**SUMS, "warehouse": Sum(1, 20)}, entry=Entry("s", "3-a", "r", 2, 1))
    assert judged(replace(gave_way, superseded=Sum(1, 1))) == (None, ())
    assert judged(gave_way)[1] == ("staging holds 2 rows, the warehouse 1",)


def without(stage: str) -> Evidence:
    return replace(GOOD, batches={key: batch for key, batch in WHOLE.items() if key != stage})


IN_LANDING = replace(LANDED, batch="new", fingerprint="4-b", files=(File("t/landing/x", 1, 4, ""),))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Evidence("p", "3-a", batches={"landing": LANDED}, sums=SUMS | {"warehouse": Sum()}), "landed, not split yet"),
        (replace(GOOD, entry=None, sums={**SUMS, "warehouse": Sum()}), "staged, not loaded yet"),
        (replace(GOOD, entry=Entry("old", "2-z", "r", 2, 2)), "staged, not loaded yet"),
        (replace(GOOD, entry=Entry("s", "", "r", 1, 1)), "staged, not loaded yet"),
        (replace(GOOD, fingerprint="4-b", batches={**WHOLE, "landing": IN_LANDING}), "landed, not split yet"),
        (replace(GOOD, reshaped=True, sums={**SUMS, "source": Sum(3, 5)}), "the source's columns have changed since"),
        (replace(GOOD, reshaped=True, entry=Entry("old", "3-a", "r", 2, 2)), "the source's columns have changed since"),
        (Evidence("p", "3-a"), "never landed yet"),
    ],
)
def test_what_a_killed_run_leaves_is_behind(found: Evidence, why: str) -> None:
    behind, faults = judged(found)
    assert faults == ()
    assert behind is not None
    assert behind.startswith(why)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (without("landing"), "landing has no manifest, though staging and discarded and archived have one"),
        (without("archived"), "archived has no manifest, though a batch of it was loaded"),
        (without("staging"), "staging has no manifest, though a batch of it was loaded"),
        (replace(GOOD, entry=None), "the ledger has no row for it, though the warehouse holds 2 rows"),
        (replace(GOOD, entry=Entry("x", "3-a", "r", 2, 2)), "the ledger names the batch x, staging holds s"),
        (replace(GOOD, damage={"staging": "the file is gone"}), "the file is gone"),
        (replace(GOOD, catalog=("elsewhere",)), "elsewhere"),
        (Evidence("p", sums={"warehouse": Sum(2, 1)}), "the warehouse holds 2 rows that were never landed"),
    ],
)
def test_what_no_run_leaves_is_a_fault(found: Evidence, fault: str) -> None:
    assert judged(found)[1][0] == fault


def columns_of_every_kind() -> Iterator[Column]:
    """Every type of the type table in each way that it can be carried in."""
    for row in TYPE_TABLE:
        kind = row.examples[0]
        plain: tuple[As | None, ...] = (None,) if row.becomes else ()
        for way in (*plain, *(way for way in ways(kind) if way != "exclude")):
            yield Column(f"C {row.names[0]}" + (f" {way}" if way else ""), kind, as_=way)


COLUMNS = tuple(columns_of_every_kind())


def parse(*texts: str) -> None:
    for text in texts:
        sqlfluff.parse(text.replace("%s", "1").replace("%%", "%") + ";", dialect="redshift")


@pytest.mark.slow
def test_the_audits_statements_are_redshifts_own() -> None:
    asked = Questions(COLUMNS, ("C mediumint",))
    few = Questions(COLUMNS[:8], ("C mediumint",))
    parse(
        asked.sums("warehouse", "public.orders"),
        f"DECLARE audited CURSOR FOR {few.hashes('warehouse', 'public.orders')}",
        "FETCH FORWARD 20000 FROM audited",
        asked.values("warehouse", "public.orders", asked.with_keys("warehouse", 3)),
        "SET extra_float_digits TO 2",
    )


@pytest.mark.parametrize("epoch", [None, "ms"])
def test_the_audits_conditions_are_redshifts_own(epoch: str | None) -> None:
    spec = daily("orders", key=["C int"], cursor={"column": "C at", "epoch": epoch})
    window = Window(*[spec.partitioning.start] * 2) if spec.partitioning else None
    where, _ = cut.inside(spec, window, "redshift", with_null=True)
    parse(f"SELECT {cut.partition_key(spec, 'redshift')} FROM public.orders WHERE {where}")


def test_an_integer_cursor_is_cut_in_its_own_unit() -> None:
    for epoch, factor in (("s", 1), ("ms", 1000), ("us", 1_000_000)):
        spec = daily("t", cursor={"column": "at", "epoch": epoch})
        assert spec.cursor is not None
        assert spec.partitioning is not None
        assert bound(spec.cursor, spec.partitioning.start) == 1_704_067_200 * factor
    assert cut.partition_key(table_spec("t"), "mysql") == "'all'"


@pytest.mark.parametrize("stage", WHOLE)
def test_a_manifest_that_cannot_be_read_is_the_only_fault_of_its_partition(stage: str) -> None:
    found = replace(without(stage), unreadable={stage: "it is not JSON"})
    assert judged(found) == (None, ("it is not JSON",))
