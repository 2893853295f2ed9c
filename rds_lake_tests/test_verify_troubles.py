"""`rds-lake verify` and `gc` when a table, a manifest or the command line is bad: it is told, and the rest goes on."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from pipeline import World
from test_verify import audit
from test_verify_tables import CUT, spec_of

from rds_lake import cli
from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack

Run = Callable[..., tuple[int, str]]
COLUMNS = "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9)"


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `rds-lake` over tables of this world: exit code, and all that it said."""

    def command(specs: list[TableSpec], *words: str) -> tuple[int, str]:
        monkeypatch.setattr(cli, "_use_local_stack", lambda: None)
        monkeypatch.setattr("rds_lake.loading.load_definitions", lambda: None)
        monkeypatch.setattr("rds_lake.sync.table_specs", lambda _: {spec.table: spec for spec in specs})
        monkeypatch.setattr(sys, "argv", ["rds-lake", *words])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        said = capsys.readouterr()
        return int(raised.value.code or 0), said.out + said.err

    return command


def made(world: World, name: str, **more: Any) -> TableSpec:
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "a") for n in range(9)]
    spec = spec_of(world, name, COLUMNS, rows, **{"key": ["id"], **CUT, **more})
    assert world.sync(spec).ok
    return spec


def test_a_table_that_cannot_be_compared_or_a_manifest_that_cannot_be_read_stops_no_other(
    world: World, run: Run
) -> None:
    gone, good, torn = (made(world, name) for name in ("a_gone", "b_good", "c_torn"))
    world.ask(f"RENAME TABLE {gone.source_name} TO {gone.source_name}_x")
    code, out = run([gone, good, torn], "verify")
    assert code == 2
    assert "verifying b_good (2 of 3)\n" in out
    assert "\nerror a_gone: " in out
    assert out.count(" 3 ") >= 2, "the others' partitions"
    assert "Not compared: 1 of 3 tables" in out
    key = "c_torn/_manifests/staging/2024-01-02.json"
    world.put(key, b"{")
    code, out = run([gone, good, torn], "verify")
    assert code == 1
    place = f"s3://{world.environ['RDS_LAKE_BUCKET']}/{key}"
    assert f"DIFFERS c_torn 2024-01-02: {place} is not a manifest that rds_lake wrote" in out
    assert "Move it away" in out
    assert "There are differences in 1 of 6 partitions (" in out
    assert world.sync(good, again=True).ok
    before = set(world.objects("b_good/"))
    code, out = run([good, torn], "gc", "--grace-hours", "0")
    assert code == 2
    assert "error c_torn: " in out
    assert set(world.objects("b_good/")) < before
    assert "not ours" not in out, "the agreed schema is"


@pytest.mark.parametrize("command", ["verify", "sync"])
def test_a_window_that_ends_before_it_begins_is_a_wrong_command_line(world: World, run: Run, command: str) -> None:
    code, out = run([], command, "--since", "2024-02-01", "--until", "2024-01-01")
    assert code == 2
    assert "--until 2024-01-01 00:00:00 is not after --since 2024-02-01 00:00:00" in out


def test_a_window_without_a_partition_is_not_called_a_success(world: World, run: Run) -> None:
    code, out = run([made(world, "d_short")], "verify", "--since", "2031-01-01")
    assert code == 0
    assert out.splitlines()[-1].startswith("Nothing to compare: there is no partition (")


def test_the_audit_tells_how_far_it_is(world: World) -> None:
    told: list[tuple[str, int, int]] = []
    audit(progress=lambda *step: told.append(step)).table(made(world, "e_told"))
    assert told == [("e_told", 1, 3), ("e_told", 2, 3), ("e_told", 3, 3)]


def test_a_dropped_warehouse_table_is_one_line_and_the_advice_brings_it_back(world: World, run: Run) -> None:
    spec = made(world, "f_dropped")
    world.query("DROP TABLE f_dropped")
    code, out = run([spec], "verify")
    assert code == 1
    assert out.count("DIFFERS") == 1
    fault = 'the warehouse table does not exist ("public"."f_dropped"), though the ledger says that it holds 9 rows'
    assert f"DIFFERS f_dropped: {fault}\n" in out
    assert "  rds-lake sync f_dropped --since 2024-01-01 --until 2024-01-04 --again\n" in out
    assert "There are differences in 3 of 3 partitions and in 1 table as a whole (" in out
    assert world.sync(spec, again=True).ok
    assert run([spec], "verify", "--rows")[0] == 0


def test_rows_left_out_on_purpose_are_noted(world: World, run: Run) -> None:
    spec = made(world, "g_left", cursor={"column": "at", "nulls": "exclude"})
    world.ask(f"INSERT INTO {spec.source_name} VALUES (98, NULL, 'b'), (99, NULL, 'b')")
    code, out = run([spec], "verify")
    assert code == 0
    assert "note g_left: 2 rows of the source have no cursor value: left out, as cursor.nulls says (exclude)\n" in out


def test_rows_of_the_warehouse_in_no_partition_are_named_and_counted_as_the_tables(world: World, run: Run) -> None:
    spec = made(world, "h_stray")
    world.query("INSERT INTO h_stray SELECT 100 + n, '2023-12-31', 'x' FROM generate_series(0, 11) AS n")
    code, out = run([spec], "verify")
    assert code == 1
    assert "12 rows of the warehouse lie in no partition (id 1" in out
    assert "; and 2 more). No sync removes them; look at them, then: DELETE FROM " in out
    assert "There are differences in 0 of 3 partitions and in 1 table as a whole (" in out


def test_a_table_that_a_sync_will_refuse_is_not_said_to_be_taken_up(world: World, run: Run) -> None:
    spec = made(world, "i_frozen", schema_changes="freeze")
    world.ask(f"ALTER TABLE {spec.source_name} ADD COLUMN w INT")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (99, '2024-01-01 11:00:00', 'b', 1)")
    code, out = run([spec], "verify")
    assert code == 0, out
    assert out.rstrip().endswith("1 is behind: a sync will refuse them, see the notes.")
    assert "takes them up" not in out
