"""What the commands print: whole numbers on a narrow terminal, and every declared table."""

import io

import pytest
from rich.console import Console
from rooms import daily

from rds_lake import console as view
from rds_lake import sweeping
from rds_lake.extract.profile import Listed
from rds_lake.lake.gc import Swept
from rds_lake.resources.services import ProgressResource
from rds_lake.spec import LAKE_STAGES
from rds_lake.sync import TableResult
from rds_lake.verify import view as audit_view
from rds_lake.verify.audit import TableVerdict
from rds_lake.verify.look import Verdict
from rds_lake.verify.rows import SIDES
from rds_lake.wording import counted

SPEC = daily("a_table_with_a_rather_long_name")
MANY = 123_456_789_012


def narrow() -> Console:
    return Console(file=io.StringIO(), width=40)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("command", ["sync", "verify", "gc"])
def test_a_narrow_terminal_cuts_no_number_and_no_name(command: str) -> None:
    console = narrow()
    if command == "sync":
        view.show(console, [TableResult(SPEC.table, 9, dict.fromkeys(view.SHOWN_STAGES, MANY))], 1.0)
        numbers, heads = len(view.SHOWN_STAGES), [*view.SHOWN_STAGES]
    elif command == "verify":
        verdict = Verdict("2024-01-01", "in step", dict.fromkeys(SIDES, MANY))
        audit_view.show(console, [(SPEC, TableVerdict(SPEC.table, (verdict,)))], 1.0)
        numbers, heads = len(SIDES), ["in step", *SIDES]
    else:
        sweeping.show(console, [Swept(SPEC.table, dict.fromkeys(LAKE_STAGES, MANY))], [], dry_run=True)
        numbers, heads = len(LAKE_STAGES), [*sweeping.KINDS]
    [row] = [line for line in text(console).splitlines() if line.strip().startswith(SPEC.table)]
    assert row.count(f"{MANY:,}") == numbers
    [head] = [line for line in text(console).splitlines() if line.strip().startswith("table ")]
    assert all(word in head for word in heads)


def test_without_a_terminal_a_line_now_and_then_tells_how_far_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = narrow()
    with view.progress(console) as say:
        say("landing orders")
        ProgressResource.tell("orders_landing", 1, 1_000)
        monkeypatch.setattr(view, "EVERY", 0.0)
        ProgressResource.tell("orders_landing", 999, 1_000)
    ProgressResource.tell("orders_landing", 1_000, 1_000)
    assert text(console) == "landing orders\n  orders_landing: 999 of 1,000\n"


def test_two_tables_over_one_source_are_both_in_the_source() -> None:
    console = narrow()
    declared = [daily("one", source_table="s"), daily("two", source_table="s")]
    view.show_tables(console, declared, [Listed("s", 1234, False), Listed("other", 5, False)])
    assert "not in the source" not in text(console)
    assert text(console).count("1,234") == 2
    assert text(console).count("not declared") == 1


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows")])
def test_a_count_knows_singular_from_plural(number: int, said: str) -> None:
    assert counted(number, "row") == said
    assert counted(number, "row lies", "rows lie").endswith("row lies" if number == 1 else "rows lie")
