"""Dagster's webserver and daemon, against the local stack or, with the same code, anything else."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rds_lake.errors import LocalStackError
from rds_lake.local.aws import answers
from rds_lake.local.layout import PRIVATE_FOLDER, project_root
from rds_lake.local.ports import HOST
from rds_lake.local.service import Service, Site

NAME = "ui"
DAEMON = "daemon"


def prepare_home(site: Site) -> None:
    """Make DAGSTER_HOME, with the project's dagster.yaml in it."""
    site.layout.dagster.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    shutil.copyfile(project_root() / "dagster.yaml", site.layout.dagster / "dagster.yaml")


def address(port: int) -> str:
    """Where the UI is."""
    return f"http://{HOST}:{port}"


def webserver(site: Site, environ: Mapping[str, str]) -> Service:
    """Describe how to run the UI."""
    port = site.ports[NAME]
    options = ("-h", HOST, "-p", str(port), "-w", str(project_root() / "workspace.yaml"))
    return Service(
        name=NAME,
        title="Dagster UI",
        argv=(str(_program("dagster-webserver")), *options),
        cwd=project_root(),
        environ=_environ(site, environ),
        ready=lambda: answers(f"{address(port)}/server_info"),
        address=address(port),
        port=port,
        stop_seconds=15,
        ready_seconds=120,
    )


def daemon(site: Site, environ: Mapping[str, str]) -> Service:
    """Describe how to run the daemon: schedules, sensors, automation and the queue of runs."""
    return Service(
        name=DAEMON,
        title="Dagster daemon",
        argv=(str(_program("dagster-daemon")), "run", "-w", str(project_root() / "workspace.yaml")),
        cwd=project_root(),
        environ=_environ(site, environ),
        ready=lambda: True,
        stop_seconds=15,
    )


def _environ(site: Site, environ: Mapping[str, str]) -> dict[str, str]:
    return {**site.environ, **environ, "DAGSTER_DISABLE_TELEMETRY": "1"}


def _program(name: str) -> Path:
    """A program of the environment that we run in."""
    program = Path(sys.executable).parent / name
    if not program.is_file():
        raise LocalStackError(f"There is no {name} in {program.parent}.", "Install it: pip install -e '.[local]'.")
    return program
