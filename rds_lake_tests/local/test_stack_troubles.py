"""What the local stack says when it cannot start: each message names the thing and the remedy."""

import os
import socket
import stat
from pathlib import Path

import pytest

from rds_lake.errors import ConfigError, LocalStackError
from rds_lake.local import layout, ports, process, stack
from rds_lake.local.layout import Layout
from rds_lake.local.stack import Stack

pytestmark = pytest.mark.stack
ELSEWHERE = "Choose another folder with RDS_LAKE_HOME, for example RDS_LAKE_HOME=~/rds_lake_data."


@pytest.mark.parametrize("name", ["mysql", "aws", "postgres", "warehouse"])
def test_a_port_taken_by_another_process_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    kept = ports.keep(layout.prepare(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", kept[name]))
        other.listen()
        with pytest.raises(LocalStackError) as caught:
            stack.up(tmp_path, ui=False)
    assert caught.value.problem.startswith(f"Port {kept[name]} of the local stack's '{name}' service is in use by ")
    assert f"(pid {os.getpid()})" in caught.value.problem
    assert caught.value.remedy == f"Stop that process, or delete {tmp_path}/ports.json to have new ports chosen."
    assert not process.offspring(tmp_path), "what was started before is stopped again"


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("not a folder")
    with pytest.raises(LocalStackError) as caught:
        stack.up(home, ui=False)
    assert caught.value.problem == f"The local stack cannot write to its folder {home}: File exists."
    assert caught.value.remedy == ELSEWHERE


def test_a_home_on_a_read_only_file_system_is_refused() -> None:
    home = Path("/proc/rds_lake")
    with pytest.raises(LocalStackError) as caught:
        stack.up(home, ui=False)
    assert caught.value.problem == f"The local stack cannot write to its folder {home}: No such file or directory."
    assert caught.value.remedy == ELSEWHERE


def test_a_home_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["long" * 20] * 5)
    with pytest.raises(LocalStackError, match=r"has \d+ characters; the servers allow 300"):
        stack.up(home, ui=False)
    assert not home.exists()


def test_a_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "NEEDED_MB", 10**9)
    with pytest.raises(LocalStackError, match=r"is nearly full: \d+ MB are free, 1000000000 MB are needed"):
        stack.up(tmp_path, ui=False)


def test_a_damaged_file_of_ports_or_passwords_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(LocalStackError, match=r"ports.json is damaged. Delete it"):
        stack.environment(tmp_path)
    with pytest.raises(LocalStackError, match=r"secrets.json is damaged. Restore it"):
        layout.read_secrets(Layout(tmp_path))


def test_a_stack_that_was_never_set_up_says_so(tmp_path: Path) -> None:
    assert stack.status(tmp_path) == []
    assert not stack.is_up(tmp_path)
    assert not stack.down(tmp_path)
    with pytest.raises(LocalStackError, match=r"There is no local stack in .*\. Start it with 'rds-lake up'"):
        stack.environment(tmp_path)


@pytest.mark.parametrize("url", ["postgresql://a:b@c/d", "mysql://nobody"])
def test_a_given_source_that_is_no_mysql_url_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", url)
    with pytest.raises(ConfigError, match="RDS_LAKE_SOURCE_URL"):
        stack.up(tmp_path, ui=False)


def test_a_given_source_that_does_not_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but it does not listen
        port = held.getsockname()[1]
        monkeypatch.setenv("RDS_LAKE_SOURCE_URL", f"mysql://me:secret@127.0.0.1:{port}/shop")
        with pytest.raises(LocalStackError) as caught:
            stack.up(tmp_path, ui=False)
    assert caught.value.problem == f"Nothing answers at 127.0.0.1:{port}, which RDS_LAKE_SOURCE_URL names."


def test_a_given_source_is_used_and_no_mysql_is_started(
    tmp_path: Path, running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = running.environ["RDS_LAKE_SOURCE_URL"]
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", given)
    try:
        started = stack.up(tmp_path / "home", ui=False)
        assert started.environ["RDS_LAKE_SOURCE_URL"] == given
        rows = {row.name: row for row in stack.status(tmp_path / "home")}
        assert rows["mysql"].title == "MySQL (given)"
        assert rows["mysql"].state == "up"
        assert not (tmp_path / "home/mysql").exists()
        assert stat.S_IMODE((tmp_path / "home/secrets.json").stat().st_mode) == 0o600
    finally:
        stack.down(tmp_path / "home")


def test_the_stacks_own_source_url_in_the_environment_is_not_a_given_one(
    running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_LAKE_SOURCE_URL", running.environ["RDS_LAKE_SOURCE_URL"])
    assert stack.up(running.home, ui=False).environ == running.environ
    assert "mysql" in {row.name for row in stack.status(running.home) if row.pid}


def test_an_unknown_kind_of_mysql_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_MYSQL", "oracle")
    with pytest.raises(LocalStackError, match=r"RDS_LAKE_MYSQL is 'oracle'\. Set it to one of path, debian, seekdb"):
        stack.up(tmp_path, ui=False)
    assert not process.offspring(tmp_path)
