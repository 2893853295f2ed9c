"""What all tests share: an environment without the developer's own settings, and one running local stack."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import FIGURES
from kill_harness import Workers, workers
from pipeline import World, make_world

from rds_lake.local import stack as local_stack

OURS = ("RDS_LAKE_", "AWS_", "DAGSTER_")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this suite."""
    parser.addoption(
        "--kills", type=int, default=2, help="at how many of its calls each sync is killed; 0: at every one"
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are numbered, not shown: packed ones hold the moment, and all processes have to collect the same tests."""
    return argname if isinstance(val, bytes) else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end what tests came to; the processes that run them have no terminal."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    said = [value for report in reports for name, value in report.user_properties if name == FIGURES]
    if said:
        terminalreporter.section("figures")
        for line in said:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first, so that no process is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    """Tests see no RDS_LAKE_*, AWS_* or DAGSTER_* variable of the shell that started them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS) and name != "AWS_CA_BUNDLE"]:
            patch.delenv(name)
        # Without these botocore would look for credentials on the network.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_stack.Stack]:
    """The local stack without the UI: `.home` and `.environ`. A stack that does not start fails the tests."""
    home: Path = tmp_path_factory.mktemp("stack") / "home"
    try:
        yield local_stack.up(home, ui=False)
    finally:
        local_stack.down(home)


@pytest.fixture(scope="module")
def world(stack: local_stack.Stack) -> Iterator[World]:
    """A bucket, a source and a warehouse for the tests of one file."""
    with make_world(stack) as made:
        yield made


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Processes that run syncs, and can be killed."""
    with workers(tmp_path_factory.mktemp("jobs")) as made:
        yield made
