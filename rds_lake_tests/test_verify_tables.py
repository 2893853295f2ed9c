"""The audit of other tables than a simple one, beside running syncs, and by its other doors: command line and check."""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import dagster as dg
import pytest
from pipeline import World
from test_verify import said, verify

from rds_lake import cli
from rds_lake.errors import TransientError
from rds_lake.spec import TableSpec
from rds_lake.verify.look import Look

pytestmark = pytest.mark.stack


def spec_of(world: World, name: str, columns: str, rows: Any, **more: Any) -> TableSpec:
    source = world.table(name, columns, rows)
    return TableSpec.model_validate({"table": name, "source_table": source, "warehouse": {"table": name}, **more})


CUT = {"cursor": {"column": "at"}, "partitions": {"by": "day", "start": "2024-01-01"}}


def test_a_table_without_cursor_and_key_landed_as_csv(world: World) -> None:
    rows = [(1, "a", None, 1.5), (1, "a", None, 1.5), (2, "", "NULL", None), (None, "é😀", 'x,y\n"z"', 0.1)]
    rows += [(7, "c", "d", 1.5), (7, "c", "d", 2.5)]
    spec = spec_of(world, "loose", "n INT, v VARCHAR(9), w TEXT, f FLOAT", rows, landing={"format": "csv"})
    assert world.sync(spec).error is None
    found = verify(spec, rows=True)
    assert found.in_step, said(found)
    assert {side: found.total(side) for side in ("source", "archived", "staging", "discarded", "warehouse")} == {
        "source": 6,
        "archived": 6,
        "staging": 5,
        "discarded": 1,
        "warehouse": 5,
    }
    world.query("UPDATE loose SET v = 'b' WHERE n = 2")
    world.query("UPDATE loose SET f = CASE n WHEN 1 THEN 2.25 ELSE 1.5 END WHERE n IN (1, 7)")
    found = verify(spec)
    everywhere = "source, landing, archived, staging"
    once = "1 in source, 1 in landing, 1 in archived, 1 in staging"
    twice = "2 in source, 2 in landing, 2 in archived, 1 in staging, 1 in discarded, 0 in warehouse"
    assert found.partitions[0].differences.lines == (
        f"n 1, v 'a', w NULL, with f 1.5: {twice}; with f 2.25: not in {everywhere} (in warehouse)",
        f"n 2, v '', w 'NULL', f NULL: not in warehouse (in {everywhere})",
        f"n 2, v 'b', w 'NULL', f NULL: not in {everywhere} (in warehouse)",
        f"n 7, v 'c', w 'd', with f 1.5: {once}, 2 in warehouse; with f 2.5: not in warehouse (in {everywhere})",
    )
    assert world.sync(spec, again=True).error is None
    assert verify(spec, rows=True).in_step


def test_floats_are_not_in_the_checksum_and_rows_compares_them(world: World) -> None:
    rows = [(1, 0.1, 0.1), (2, 1e300, -0.0), (3, None, 3.4e38)]
    spec = spec_of(world, "prices", "id INT PRIMARY KEY, price DOUBLE, weight FLOAT", rows, key=["id"])
    assert world.sync(spec).ok
    found = verify(spec, rows=True)
    assert found.in_step, said(found)
    assert found.notes == ()
    world.query("UPDATE prices SET price = 0.10000000000000002 WHERE id = 1")
    found = verify(spec)
    assert found.in_step
    assert found.notes == (
        "not in the checksum: price (double); --rows compares it",
        "not in the checksum: weight (float); --rows compares it",
    )
    found = verify(spec, rows=True)
    assert found.partitions[0].faults == ("1 row differs in what no checksum covers",)
    assert found.partitions[0].differences.lines == (
        "id 1: price is 0.1 in source, landing, archived, staging but 0.10000000000000002 in warehouse",
    )


def test_rows_that_gave_way_to_a_newer_version_of_a_key_are_no_difference(world: World) -> None:
    """The source does not keep the key unique: older versions stay in the lake, the warehouse has the newest."""
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "old") for n in range(9)]
    rows += [(n, f"2024-01-05 10:00:0{n}", "new") for n in range(4)]
    rows += [(8, "2024-01-03 09:00:00", "discarded")]
    spec = spec_of(world, "versions", "id INT, at DATETIME, v VARCHAR(9)", rows, key=["id"], **CUT)
    assert world.sync(spec).ok
    found = verify(spec)
    assert found.in_step, said(found)
    assert (found.total("staging"), found.total("warehouse")) == (13, 9)
    world.query("DELETE FROM versions WHERE id = 8")
    found = verify(spec, rows=True)
    [bad] = [verdict for verdict in found.partitions if verdict.status == "DIFFERS"]
    assert bad.differences.lines == (
        "id 8, with at 2024-01-03 10:00:00.000000, v 'old': not in warehouse (in source, landing, archived, staging)",
    )


def test_a_sync_beside_the_audit_makes_no_difference(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "a") for n in range(9)]
    spec = spec_of(world, "busy", "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9)", rows, key=["id"], **CUT)
    assert world.sync(spec).ok
    plain: Callable[..., Any] = Look._fingerprints
    times = 0

    def moving(limit: int) -> Callable[[Look], Any]:
        def fingerprints(look: Look) -> Any:
            """The audit has its snapshot; now the source changes, and a sync takes it through to the warehouse."""
            nonlocal times
            times += 1
            if times <= limit:
                world.ask(f"UPDATE {spec.source_name} SET at = at + INTERVAL 1 SECOND, v = 'b{times}' WHERE id = 1")
                assert world.sync(spec).ok
            return plain(look)

        return fingerprints

    monkeypatch.setattr(Look, "_fingerprints", moving(1))
    found = verify(spec)
    assert (times, found.in_step) == (2, True), said(found)
    times = 0
    monkeypatch.setattr(Look, "_fingerprints", moving(2))
    found = verify(spec)
    assert not found.differs
    assert [verdict.partition for verdict in found.partitions if verdict.status == "moving"] == ["2024-01-02"]
    monkeypatch.undo()
    assert verify(spec, rows=True).in_step


def test_rows_older_than_every_partition_are_a_fault_and_rows_above_the_fence_a_note(world: World) -> None:
    rows = [(1, "2023-12-31 10:00:00"), (2, "2024-01-01 00:00:00"), (3, "2998-01-01 00:00:00")]
    spec = spec_of(world, "early", "id INT PRIMARY KEY, at DATETIME", rows, key=["id"], **CUT)
    world.sync(spec)
    found = verify(spec)
    assert found.faults == ("1 row of the source is older than partitions.start, so in no partition",)
    assert [verdict.status for verdict in found.partitions] == ["in step"]
    assert found.notes == ("1 row of the source lies above the fence: it comes with a later sync",)
    assert verify(spec, since=datetime(2998, 1, 2)).notes == ()  # noqa: DTZ001 - wall-clock time, as the cursor's


@pytest.mark.parametrize(("unit", "moment"), [("hour", "2024-01-01 0{0}"), ("month", "2024-0{0}-01 00")])
def test_partitions_of_other_lengths_and_names_of_every_kind(world: World, unit: str, moment: str) -> None:
    rows = [(n, f"{moment.format(1 + n // 4)}:59:59.99999{n}", "a") for n in range(9)]
    spec = spec_of(
        world,
        f"by_{unit}",
        "`the key` INT PRIMARY KEY, `select` DATETIME(6), `100%s{0}` VARCHAR(9)",
        rows,
        key=["the key"],
        cursor={"column": "select"},
        partitions={"by": unit, "start": "2024-01-01", "column": "cut"},
    )
    assert world.sync(spec).ok
    found = verify(spec, rows=True)
    assert found.in_step, said(found)
    assert found.total("source") == found.total("warehouse") == 9


def test_the_check_audits_when_asked_for_and_no_sync_or_automation_runs_it(world: World) -> None:
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "a") for n in range(9)]
    spec = spec_of(world, "checked", "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9)", rows, key=["id"], **CUT)
    assert world.sync(spec).ok
    key = dg.AssetCheckKey(dg.AssetKey("checked_warehouse"), "verified")
    history = world.instance.event_log_storage.get_asset_check_execution_history
    assert history(key, limit=5) == []
    graph = world.definitions(spec).resolve_asset_graph()
    assert graph.get(key).automation_condition is not None, "else it rides along with every automated run"
    assert not graph.get(key).blocking
    world.query("DELETE FROM checked WHERE id = 4")
    job = world.definitions(spec).resolve_job_def("checked_verification")
    done = job.execute_in_process(instance=world.instance, raise_on_error=False)
    [result] = done.get_asset_check_evaluations()
    assert (result.check_name, result.passed) == ("verified", False)
    assert result.description is not None
    assert result.description.startswith("1 of 3 partitions differ: 2024-01-02: ")
    assert "id 4: not in warehouse" in str(result.metadata["rows that differ"].value)


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `rds-lake` over tables of this world: exit code and output."""

    def command(spec: TableSpec, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(cli, "_use_local_stack", lambda: None)
        monkeypatch.setattr("rds_lake.loading.load_definitions", lambda: world.definitions(spec))
        monkeypatch.setattr(sys, "argv", ["rds-lake", *words])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        return int(raised.value.code or 0), capsys.readouterr().out

    return command


def test_the_commands_say_what_they_found_and_end_with_what_to_do(
    world: World, run: Callable[..., tuple[int, str]]
) -> None:
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "a") for n in range(9)]
    spec = spec_of(world, "told", "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9)", rows, key=["id"], **CUT)
    assert world.sync(spec).ok
    code, out = run(spec, "verify", "told")
    assert code == 0
    assert out.splitlines()[-1].startswith("No difference in 3 partitions (")
    world.ask(f"INSERT INTO {spec.source_name} VALUES (99, '2024-01-01 11:00:00', 'b')")
    code, out = run(spec, "verify")
    assert code == 0
    assert "behind told 2024-01-01: the source has changed since" in out
    assert out.rstrip().endswith("1 is behind: 'rds-lake sync' takes them up.")
    assert run(spec, "verify", "--strict")[0] == 1
    world.query("DELETE FROM told WHERE id = 4")
    code, out = run(spec, "verify", "--rows")
    assert code == 1
    assert "DIFFERS told 2024-01-02: " in out
    assert "        id 4: not in warehouse (in source, landing, archived, staging)\n" in out
    assert "  rds-lake sync told --since 2024-01-02 --until 2024-01-03 --again\n" in out
    assert out.splitlines()[-1].startswith("There are differences in 1 of 3 partitions (")
    assert run(spec, "verify", "nope")[0] == 2

    assert world.sync(spec, again=True).ok
    world.put("undeclared/file", b"x")
    before = set(world.objects("told/"))
    code, out = run(spec, "gc", "--dry-run", "--grace-hours", "0")
    assert code == 0
    assert "Nothing was removed." in out
    assert "left undeclared/: no declared table is called so" in out
    assert set(world.objects("told/")) == before
    assert "Nothing to remove." in run(spec, "gc")[1], "all of it is younger than a day"
    code, out = run(spec, "gc", "--grace-hours", "0")
    assert code == 0
    assert out.splitlines()[-1].startswith("Removed ")
    after = set(world.objects("told/"))
    assert after < before
    batches = {key for key in after if "/_manifests/" not in key}
    assert len(batches) == 6, "three partitions, in the archive and in staging"
    assert verify(spec, rows=True).in_step
    assert "Nothing to remove." in run(spec, "gc", "--grace-hours", "0")[1]


def test_a_partition_that_was_emptied_is_archived_whatever_ended_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no file in `landing` that would tell of an unfinished archive: only the ledger, written last, can."""
    rows = [(n, f"2024-01-0{1 + n % 3} 10:00:00", "a") for n in range(9)]
    spec = spec_of(world, "emptied", "id INT PRIMARY KEY, at DATETIME, v VARCHAR(9)", rows, key=["id"], **CUT)
    assert world.sync(spec).ok
    world.ask(f"DELETE FROM {spec.source_name} WHERE at < '2024-01-02'")

    def fails(*_: Any) -> Any:
        raise TransientError("The archive cannot be reached.", "Try again.")

    monkeypatch.setattr("rds_lake.assets.archived.copy_to_archive", fails)
    assert world.sync(spec).error is not None
    monkeypatch.undo()
    found = verify(spec)
    assert not found.differs, said(found)
    assert world.sync(spec).partitions == 1
    assert verify(spec, rows=True).in_step
    assert world.lake_rows("emptied", "archived").total() == 6
