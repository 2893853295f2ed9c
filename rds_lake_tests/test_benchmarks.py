"""The benchmark harness: it measures a process, makes its tables, judges outcomes and writes a report from results."""

import datetime as dt
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from rooms import Rooms

from benchmarks import report, results
from benchmarks.contenders import CannotError, Contender, Outcome, Stage, Step, run
from benchmarks.faithful import same
from benchmarks.figures import figures, goals, steps
from benchmarks.measure import measure
from benchmarks.scene import Scene
from benchmarks.tables import DAYS, WIDE, make_changes, make_orders, make_wide, orders_yaml, wide_yaml
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.local.stack import Stack
from rds_lake.spec import TableSpec

HOLD = "held = bytearray(80 * 2**20); import time; time.sleep(0.3)"


def outcome(name: str, role: str, seconds: float, **more: object) -> Outcome:
    return Outcome(name, role, "", [seconds, 9.0, seconds], [0.1] * 3, [100.0] * 3, **more)  # type: ignore[arg-type]


def extraction(*outcomes: Outcome) -> results.Results:
    stage = Stage("extract_orders", "Extract orders", 1000, [], "Notes.")
    return results.record(stage, outcomes, 3, 1.0)


def test_a_process_is_measured_with_what_its_children_hold(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}], check=True)"
    done = measure([sys.executable, "-c", child], {}, tmp_path)
    assert (done.code, done.said) == (0, "")
    assert done.seconds >= 0.3
    assert 0 < done.cpu < done.seconds + 1
    assert 85 < done.peak_mb < 150


def test_a_process_that_does_not_end_is_ended_and_says_so(tmp_path: Path) -> None:
    done = measure([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path, timeout=0.3)
    assert done.code < 0
    assert "ended after" in done.said


def test_a_contender_that_fails_is_shown_with_its_message_and_the_others_go_on(tmp_path: Path) -> None:
    turns: list[tuple[str, int]] = []

    def steps_of(name: str, text: str, number: int) -> list[Step]:
        turns.append((name, number))
        return [Step([sys.executable, "-c", text])]

    def cannot(_: int) -> list[Step]:
        raise CannotError("it cannot be installed")

    bad = "raise ValueError('scale is not equal')"
    contenders = [
        Contender("good", "ours", lambda number: steps_of("good", "", number)),
        Contender("bad", "peer", lambda number: steps_of("bad", bad, number)),
        Contender("absent", "peer", cannot),
    ]
    found = {each.contender: each for each in run(Scene(tmp_path, {}), Stage("s", "S", 1, contenders), 2)}
    assert turns == [("good", 1), ("bad", 1), ("good", 2)]
    assert len(found["good"].seconds) == 2
    assert found["bad"].error == "exit code 1: ValueError: scale is not equal"
    assert found["absent"].error == "it cannot be installed"


@pytest.mark.stack
def test_the_tables_have_the_rows_and_columns_that_they_promise(stack: Stack) -> None:
    rooms = Rooms.of(stack)
    source = rooms.source
    orders, changes, wide = make_orders(source, 1000), make_changes(source, 1000, 100, 0), make_wide(source, 200)
    assert make_orders(source, 1000) == orders, "made once"
    days = rooms.sql(f"SELECT COUNT(DISTINCT DATE(order_last_updated)), COUNT(*) FROM {orders}")
    assert days[0][0] > 0.9 * DAYS
    assert days[0][1] == 1000
    assert rooms.sql(f"SELECT COUNT(*) FROM {changes} c JOIN {orders} o USING (order_id)") == ((100,),)
    for yaml, rows in ((orders_yaml(orders), 1000), (wide_yaml(wide), 200)):
        spec = TableSpec.model_validate(yaml)
        with open_snapshot(source, spec) as snapshot:
            assert sum(batch.num_rows for batch in snapshot.rows()) == rows
    nulls = rooms.sql(f"SELECT {', '.join(f'SUM(`{name}` IS NULL)' for name in WIDE)} FROM {wide}")[0]
    assert len(nulls) == 30
    assert sum(count > 0 for count in nulls) > 12


@pytest.mark.parametrize(
    ("given", "got", "is_same"),
    [
        (2**64 - 1, Decimal(2**64 - 1), True),
        (2**64 - 1, float(2**64 - 1), False),
        (Decimal("1.10"), "1.1", True),
        (0.3333333, 0.33333334, True),
        (dt.timedelta(hours=-831, minutes=-8, seconds=-1), "-831:08:01", True),
        (dt.timedelta(hours=26), dt.time(2), False),
        (dt.timedelta(hours=2), dt.time(2), True),
        (dt.datetime(2024, 1, 1, 0, 0, 0, 5), dt.datetime(2024, 1, 1), False),  # noqa: DTZ001
        (dt.datetime(2024, 1, 1), "2024-01-01 00:00:00", True),  # noqa: DTZ001
        (dt.date(2024, 1, 1), dt.date(2024, 1, 1), True),
        (b"\x05", 5, True),
        (b"\x05\x00", b"\x05", False),
        (None, "", False),
        ("Zoë", "Zoë".encode(), True),
        ("Zoë", "Zo?", False),
    ],
)
def test_a_value_may_come_in_another_form_but_must_say_the_same(given: object, got: object, is_same: bool) -> None:
    assert same(given, got) is is_same


def test_the_report_shows_ratios_goals_and_failures(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    found = extraction(
        outcome("limit: C", "limit", 1.0),
        outcome("rds_lake", "ours", 1.3, facts={"MB written": 30.5}),
        outcome("dlt 1", "peer", 4.0),
        outcome("the naive way: pandas", "peer", 13.0),
        Outcome("polars 2", "peer", "", error="it panics | here"),
    )
    results.keep("full", found, file)
    everything = results.keep("small", found, file)
    report.write(everything, tmp_path)
    text = (tmp_path / report.NAME).read_text(encoding="utf-8")
    assert "| **rds_lake** | 1.30 | 1.3 | 0.10 | 100 | MB written: 30.5 |" in text
    assert "| polars 2 | **fails** | | | | it panics \\| here |" in text
    assert "| Extract orders, 1,000 rows: at most 1.4 x limit: C | 1.30 x | met |" in text
    assert (
        "| Extract orders, 1,000 rows: at least 15 x faster than the naive way: pandas | 10.0 x | **not met** |" in text
    )
    assert text.index("## Full run") < text.index("## Small run")


def test_figures_are_medians_and_stand_in_the_order_of_their_seconds() -> None:
    found = extraction(outcome("slow", "peer", 5.0), outcome("quick", "ours", 2.0), outcome("limit: C", "limit", 3.0))
    [(_, some)] = steps(figures(found)).items()
    assert [(each.contender, each.seconds) for each in some] == [("limit: C", 3.0), ("quick", 2.0), ("slow", 5.0)]
    assert [goal.met for goal in goals({"extract_orders@1000": found})] == [True]
