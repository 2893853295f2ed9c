"""The commands of the local stack, run as a user runs them; and the stack with Dagster's UI."""

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_lake.local import process, stack
from rds_lake.local.layout import Layout
from rds_lake.local.stack import Stack
from rds_lake.local.state import holder

pytestmark = pytest.mark.stack
PROGRAM = Path(sys.executable).parent / "rds-lake"


def rds_lake(*words: str, home: Path) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "RDS_LAKE_HOME": str(home)}
    return subprocess.run([PROGRAM, *words], env=environ, cwd=home.parent, capture_output=True, text=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    stack.down(tmp_path / "home")


def test_help_is_quick_and_names_the_commands(tmp_path: Path) -> None:
    begin = time.monotonic()
    answer = rds_lake("--help", home=tmp_path)
    assert time.monotonic() - begin < 2, "0.4 s on an idle machine"
    assert answer.returncode == 0
    for command in ("up", "down", "status", "env"):
        assert f" {command} " in answer.stdout


def test_env_prints_lines_that_a_shell_takes_over(running: Stack) -> None:
    answer = rds_lake("env", home=running.home)
    assert answer.returncode == 0
    script = f"{answer.stdout}\nenv -0"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin"})
    seen = dict(line.split("=", 1) for line in shell.stdout.split("\0") if line)
    assert seen.items() >= running.environ.items()
    assert all(
        line == f"export {shlex.split(line)[1].partition('=')[0]}={line.split('=', 1)[1]}"
        for line in answer.stdout.splitlines()
    )


def test_status_shows_every_service_and_exits_0_only_when_all_are_up(running: Stack, home: Path) -> None:
    answer = rds_lake("status", home=running.home)
    assert answer.returncode == 0
    assert answer.stdout.count(" up ") == 4
    for row in stack.status(running.home):
        assert str(row.pid) in answer.stdout
    absent = rds_lake("status", home=home)
    assert absent.returncode == 1
    assert absent.stdout.strip().startswith("No local stack was set up in")


def test_an_error_is_one_line_and_exit_code_2(home: Path) -> None:
    answer = rds_lake("env", home=home)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr == f"error: There is no local stack in {home}. Start it with 'rds-lake up'.\n"
    assert rds_lake("down", home=home).stdout == "Nothing was running.\n"


def test_up_says_when_it_is_already_up(running: Stack) -> None:
    answer = rds_lake("up", "--no-ui", home=running.home)
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"Already up, in {running.home}.")
    assert len(answer.stdout.splitlines()) == 1


@pytest.mark.slow
def test_the_ui_is_added_to_a_running_stack_and_leaves_nothing_behind(home: Path) -> None:
    assert stack.up(home, ui=False).ui_address == ""
    before = {row.name: row.pid for row in stack.status(home)}

    lines: list[str] = []
    address = stack.up(home, ui=True, report=lines.append).ui_address

    assert [line.partition(" is up")[0] for line in lines] == ["Dagster daemon", "Dagster UI"]
    with urllib.request.urlopen(address) as answer:
        assert b"dagster" in answer.read().lower()
    after = {row.name: row.pid for row in stack.status(home)}
    assert after.items() >= before.items()
    assert set(after) - set(before) == {"ui", "daemon"}
    assert stack.up(home, ui=False).ui_address == address, "up without UI does not stop a UI that runs"
    servers = process.offspring(home)
    assert len(servers) >= len(after) + 1, "Dagster's own code servers carry our mark too"

    supervisor = holder(Layout(home))
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (left := process.offspring(home)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
