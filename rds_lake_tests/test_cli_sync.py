"""`rds-lake sync`: what it says and its exit code when the command, the configuration or a YAML file is wrong."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pipeline import write_dagster_home

from rds_lake import cli
from rds_lake.definitions import PROJECT
from rds_lake.local.ports import HOST
from rds_lake.local.stack import Stack

pytestmark = pytest.mark.stack

Sync = Callable[..., tuple[int, str, str]]


@pytest.fixture
def environ(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """A complete configuration that leans on no local stack."""
    return {
        **stack.environ,
        "RDS_LAKE_HOME": str(tmp_path / "no stack here"),
        "DAGSTER_HOME": str(write_dagster_home(tmp_path / "dagster")),
    }


@pytest.fixture
def sync(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Sync:
    """Run `rds-lake sync` in this process: exit code, output, errors. No secret in either, and no traceback."""

    def run(*words: str, without: str = "", **changed: str) -> tuple[int, str, str]:
        for name, value in {**environ, **changed}.items():
            monkeypatch.setenv(name, value)
        if without:
            monkeypatch.delenv(without)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["rds-lake", "sync", *words])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        said = capsys.readouterr()
        check_silence(environ, said.out + said.err)
        return int(raised.value.code or 0), said.out, said.err

    return run


def check_silence(environ: Mapping[str, str], text: str) -> None:
    passwords = [urlsplit(environ[name]).password for name in ("RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL")]
    for secret in (*passwords, environ["AWS_SECRET_ACCESS_KEY"], "s3cret", "Traceback"):
        assert secret
        assert secret not in text


def test_a_table_that_is_not_declared(sync: Sync) -> None:
    code, out, error = sync("nope")
    assert (code, out) == (2, "")
    assert error == (
        "error: There is no table 'nope' in rds_lake/defs (there are: customers, orders). Correct the name, or declare "
        "the table in rds_lake/defs/<table>/defs.yaml.\n"
    )


def test_a_recent_sync_with_a_span_of_its_own_is_a_wrong_command_line(sync: Sync) -> None:
    for word in ("--since", "--until"):
        code, out, error = sync("--recent", word, "2024-01-01")
        assert (code, out) == (2, "")
        assert error == "error: --recent has a span of its own. Leave out --since and --until, or --recent.\n"


def test_no_place_for_dagsters_records(sync: Sync) -> None:
    code, out, error = sync(without="DAGSTER_HOME")
    assert (code, out) == (2, "")
    assert error == (
        "error: DAGSTER_HOME is not set, so there is no place to record what was done. Start the local stack with "
        "'rds-lake up', or set it to the folder that holds dagster.yaml.\n"
    )


def test_a_dagster_home_that_is_not_there(sync: Sync, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    code, _, error = sync(DAGSTER_HOME=str(gone))
    assert code == 2
    assert error == (
        f"error: DAGSTER_HOME names {gone}, which is no folder (its whole path is needed). Make the folder and put "
        "dagster.yaml into it, or start the local stack with 'rds-lake up'.\n"
    )


def test_no_configuration_and_no_local_stack(sync: Sync, tmp_path: Path) -> None:
    assert sync(without="RDS_LAKE_SOURCE_URL") == (
        2,
        "",
        f"error: There is no local stack in {tmp_path / 'no stack here'}. Start it with 'rds-lake up'.\n",
    )


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgres://u:s3cret@h/d", "RDS_LAKE_SOURCE_URL starts with 'postgres:', not with 'mysql:'."),
        ("mysql://u:s3cret@h:port/d", "RDS_LAKE_SOURCE_URL is not a URL."),
        ("mysql://u:s3cret@h", "RDS_LAKE_SOURCE_URL names no database."),
    ],
)
def test_an_address_that_is_none(sync: Sync, url: str, problem: str) -> None:
    code, _, error = sync("orders", RDS_LAKE_SOURCE_URL=url)
    remedy = "Set it to mysql://user:password@host:3306/database (percent-encode the password)."
    assert (code, error) == (2, f"error: {problem} {remedy}\n")


def test_a_wrong_password_is_a_wrong_configuration(sync: Sync, environ: dict[str, str]) -> None:
    url = urlsplit(environ["RDS_LAKE_SOURCE_URL"])
    code, _, error = sync("orders", RDS_LAKE_SOURCE_URL=f"mysql://rds_lake:s3cret@{HOST}:{url.port}/retail")
    assert code == 2
    assert error == (
        f"error: MySQL at {HOST}:{url.port}/retail says: Access denied for user 'rds_lake'@'{HOST}' (using password: "
        "YES) (1045). Check the user and the password in RDS_LAKE_SOURCE_URL.\n"
    )


def test_a_table_that_cannot_be_done_is_exit_code_1_and_the_others_go_on(sync: Sync) -> None:
    code, out, error = sync("orders", "customers", RDS_LAKE_SOURCE_URL=f"mysql://rds_lake:s3cret@{HOST}:1/retail")
    assert (code, error) == (1, "")
    for table in ("orders", "customers"):
        assert f"error {table}: MySQL at {HOST}:1/retail says: Can't connect to MySQL server on '{HOST}'" in out
    assert out.count("Is the server up and reachable? 'rds-lake status' shows the local one.") == 2
    assert "Not everything is in step" in out


@pytest.mark.parametrize(
    "words", [("--since", "yesterday"), ("--since", "2024-01-01T00:00:00Z"), ("--colour",), ("--until",)]
)
def test_a_wrong_option_is_exit_code_2_and_a_wrong_day_is_told_its_form(sync: Sync, words: tuple[str, ...]) -> None:
    code, _, error = sync(*words)
    assert code == 2
    assert ("YYYY-MM-DD" in error) == (words[0] == "--since")


def test_a_mistake_in_the_yaml_is_one_line_and_exit_code_2(environ: dict[str, str], tmp_path: Path) -> None:
    """In a copy of the project, as its users have it."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "rds_lake", copy / "rds_lake", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", copy)
    file = copy / "rds_lake" / "defs" / "orders" / "defs.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith("  partitions:"))
    lines[line - 1] = "  partitionz:"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", "from rds_lake.cli import main; main()", "sync"],
        env={**os.environ, **environ, "PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    check_silence(environ, done.stdout + done.stderr)
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {file}:{line}: partitionz: Extra inputs are not permitted. Correct it; 'dg check defs' shows the "
        "lines.\n"
    )
