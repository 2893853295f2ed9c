"""The local stack as seen from outside: start it, stop it, look at it, connect to it.

    up(home)                 start what does not run, wait until all of it answers
    down(home)               stop it; the data stay
    status(home), is_up(home)
    environment(home)        the variables that make any client use it
    kill_service(home, name), restart_service(home, name)

Nothing here owns a server; that is `supervisor.py`, a process of its own, so that the stack outlives the command that
started it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rds_lake import settings
from rds_lake.errors import LocalStackError
from rds_lake.local import aws, dagster_ui, mysql, ports, postgres, process
from rds_lake.local import state as states
from rds_lake.local.layout import (
    BUCKET,
    DROP_BUCKET,
    IAM_ROLE,
    REGION,
    Layout,
    Secrets,
    prepare,
    project_root,
    read_secrets,
)
from rds_lake.local.process import Identity
from rds_lake.local.state import State

START_SECONDS = 600.0  # a download over a slow line included
STOP_SECONDS = 120.0
RESTART_SECONDS = 60.0
POLL = 0.05
SOURCE = "RDS_LAKE_SOURCE_URL"
NOT_SET_UP = "Start it with 'rds-lake up'."

Report = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """A stack that is up."""

    home: Path
    environ: dict[str, str]
    ui_address: str  # empty without the UI


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `rds-lake status`: `up`, `starting`, `restarting`, `failed`, `stopped` or `unreachable`."""

    name: str
    title: str
    state: str
    pid: int | None
    port: int | None
    address: str
    log: str
    note: str = ""


def _silent(_: str) -> None:
    """Report nothing."""


def up(home: Path, *, ui: bool = True, report: Report = _silent) -> Stack:
    """Start the stack, or what is missing of it, and wait until all of it answers.

    Args:
        home: the stack's folder; made when absent.
        ui: also Dagster's webserver and daemon.
        report: called with one line per step.

    Raises:
        LocalStackError: it could not be started; what was started is stopped again.
    """
    layout = prepare(home)
    given = _given_source(read_secrets(layout))
    supervisor = states.holder(layout)
    if supervisor is None:
        _clean_up(layout)
        supervisor = _launch(layout, ui=ui, source_url=given)
    try:
        _wait_until_ready(layout, supervisor, report)
        _complete(layout, supervisor, given=given, ui=ui, report=report)
    except KeyboardInterrupt:
        report("Interrupted: stopping what was started")
        down(home)
        raise
    return Stack(layout.home, environment(home), ui_address(home))


def down(home: Path, *, report: Report = _silent) -> bool:
    """Stop the stack and wait until all of it has stopped; False when nothing ran. The data stay."""
    layout = Layout(home.expanduser().absolute())
    supervisor = states.holder(layout)
    if supervisor is None:
        return _clean_up(layout)
    report("Stopping the servers, so that they save what they hold")
    process.end([supervisor.pid], seconds=STOP_SECONDS)
    _clean_up(layout)
    return True


def status(home: Path) -> list[ServiceStatus]:
    """All services, in the order of their start. Empty when the stack was never set up."""
    layout = Layout(home.expanduser().absolute())
    state = states.load(layout)
    if state is None:
        return []
    running = states.holder(layout) == state.supervisor
    rows = [_given_row(state)] if state.source else []
    for each in state.services.values():
        identity = each.identity
        lives = running and identity is not None and identity.alive()
        word = each.state if lives or (running and each.state != "up") else "restarting" if running else "stopped"
        rows.append(
            ServiceStatus(
                each.name, each.title, word, each.pid if lives else None, each.port, each.address, each.log, each.note
            )
        )
    return rows


def is_up(home: Path) -> bool:
    """Whether the stack is up and every service of it runs."""
    layout = Layout(home.expanduser().absolute())
    state = states.load(layout)
    if state is None or state.phase != "ready" or states.holder(layout) != state.supervisor:
        return False
    return all(row.state == "up" for row in status(home))


def environment(home: Path) -> dict[str, str]:
    """The variables that make rds_lake, boto3 and Dagster use this stack; the same whether it is up or not.

    Raises:
        LocalStackError: the stack was never set up.
    """
    layout = Layout(home.expanduser().absolute())
    kept, known = ports.read(layout), read_secrets(layout)
    if kept is None or known is None:
        raise LocalStackError(f"There is no local stack in {layout.home}.", NOT_SET_UP)
    return {
        "RDS_LAKE_HOME": str(layout.home),
        SOURCE: known.source_url or mysql.url(known.mysql_password, kept[mysql.NAME]),
        "RDS_LAKE_BUCKET": BUCKET,
        "RDS_LAKE_DROP_BUCKET": DROP_BUCKET,
        "RDS_LAKE_WAREHOUSE_URL": postgres.url(known.warehouse_password, kept[postgres.SHIM]),
        "RDS_LAKE_REDSHIFT_IAM_ROLE": IAM_ROLE,
        "RDS_LAKE_POSTGRES_URL": postgres.rds_url(known.warehouse_password, kept[postgres.NAME]),
        "RDS_LAKE_DAGSTER_URL": dagster_ui.address(kept[dagster_ui.NAME]),
        "AWS_ENDPOINT_URL": aws.endpoint(kept[aws.NAME]),
        "AWS_ACCESS_KEY_ID": known.aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": known.aws_secret_access_key,
        "AWS_DEFAULT_REGION": REGION,
        "DAGSTER_HOME": str(layout.dagster),
    }


def given_source(home: Path) -> str:
    """The MySQL address that the user gave instead of the stack's own, now or when it was set up; empty without one.

    Raises:
        LocalStackError: nothing answers there.
    """
    known = read_secrets(Layout(home.expanduser().absolute()))
    return _given_source(known) or (known.source_url if known else "")


def ui_address(home: Path) -> str:
    """Where the UI is; the empty string when the stack runs without it."""
    found = [row for row in status(home) if row.name == dagster_ui.NAME and row.state == "up"]
    return found[0].address if found else ""


def kill_service(home: Path, name: str, sign: signal.Signals = signal.SIGKILL) -> int:
    """Send a service's process a signal, by default the one that cannot be caught; returns its pid.

    Raises:
        LocalStackError: there is no such service, or it does not run.
    """
    found = [row.pid for row in status(home) if row.name == name and row.pid]
    if not found or found[0] is None:
        raise LocalStackError(f"The local stack in {home} runs no service '{name}'.", "See 'rds-lake status'.")
    os.kill(found[0], sign)
    return found[0]


def restart_service(home: Path, name: str, *, kill: bool = False) -> int:
    """End a service, by default gracefully, and wait until its supervisor has it up again; returns the new pid.

    Raises:
        LocalStackError: there is no such service, or it did not come back.
    """
    layout = Layout(home.expanduser().absolute())
    supervisor = states.holder(layout)
    if supervisor:
        _ask(layout, supervisor, signal.SIGHUP)  # forget earlier deaths: this one is wanted
    old = kill_service(home, name, signal.SIGKILL if kill else signal.SIGTERM)
    return wait_for_service(home, name, other_than=old)


def wait_for_service(home: Path, name: str, *, other_than: int = 0, seconds: float = RESTART_SECONDS) -> int:
    """Wait until a service is up with another pid than that; returns the pid.

    Raises:
        LocalStackError: it did not come up in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for row in status(home):
            if row.name == name and row.state == "up" and row.pid and row.pid != other_than:
                return row.pid
        time.sleep(POLL)
    raise LocalStackError(f"The service '{name}' did not come up within {seconds:.0f} seconds.", "See its log.")


# --- how up does it ------------------------------------------------------------------------------------------------


def _given_source(known: Secrets | None) -> str:
    """The source that the user gave in the environment; empty when it is our own, which `rds-lake env` exports."""
    text = os.environ.get(SOURCE, "")
    if not text:
        return ""
    url = settings.parse_database_url(text, scheme="mysql", variable=SOURCE)
    own = known is not None and url.password == known.mysql_password
    if not own and not ports.listens(url.port, url.host):
        raise LocalStackError(
            f"Nothing answers at {url.host}:{url.port}, which {SOURCE} names.",
            f"Start that server, or unset {SOURCE} to have one started.",
        )
    return "" if own else text


def _launch(layout: Layout, *, ui: bool, source_url: str) -> Identity:
    """Start a supervisor; it goes to the background by itself."""
    root = project_root()
    environ = {name: value for name, value in os.environ.items() if name not in {SOURCE, process.MARK}}
    if source_url:
        environ[SOURCE] = source_url
    answer = subprocess.run(
        [sys.executable, "-m", "rds_lake.local.supervisor", "--home", str(layout.home), *(["--ui"] if ui else [])],
        cwd=root,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode not in {0, states.ALREADY_RUNNING}:
        raise LocalStackError(
            f"The supervisor could not be started: {answer.stderr.strip()[-500:]}.",
            "Install again: 'make clean', 'make'.",
        )
    supervisor = states.holder(layout)
    if supervisor is None:
        raise _gone(layout)
    return supervisor


def _wait_until_ready(layout: Layout, supervisor: Identity, report: Report, *, after: int = 0) -> State:
    """Wait for a supervisor, passing on what it reports.

    Raises:
        LocalStackError: it failed, or took too long.
    """
    told = after
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        alive = supervisor.alive()  # before the state is read: its last words count
        state = states.load(layout)
        if state is not None and state.supervisor == supervisor:
            if state.phase != "ready" or told:
                for text in state.messages[told:]:
                    report(text)
            told = len(state.messages)
            if state.phase == "ready":
                return state
            if state.phase == "failed":
                raise LocalStackError(state.problem, state.remedy)
            if state.phase == "stopped":
                raise LocalStackError("The local stack was stopped while it started.", NOT_SET_UP)
        if not alive:
            raise _gone(layout)
        time.sleep(POLL)
    raise LocalStackError(
        f"The local stack was not up within {START_SECONDS:.0f} seconds.", f"Look into {layout.logs}; 'rds-lake down'."
    )


def _complete(layout: Layout, supervisor: Identity, *, given: str, ui: bool, report: Report) -> None:
    """The stack runs: see that it is the one that was asked for, and start what is missing."""
    state = states.load(layout)
    known = read_secrets(layout)
    if state is None or known is None:
        raise _gone(layout)
    if given and given != known.source_url:
        raise LocalStackError(
            f"The local stack runs with another source than {SOURCE} names.", "'rds-lake down' first."
        )
    failed = [each.title for each in state.services.values() if each.state == "failed"]
    if failed:
        report(f"Starting again: {', '.join(failed)}")
    if failed or (ui and not state.ui):
        told = len(state.messages)
        _ask(layout, supervisor, signal.SIGUSR1 if ui else signal.SIGHUP, report=report, told=told)


def _ask(
    layout: Layout, supervisor: Identity, sign: signal.Signals, *, report: Report = _silent, told: int = 0
) -> None:
    """Send the supervisor a request and wait until it was carried out.

    Raises:
        LocalStackError: it could not be.
    """
    before = states.load(layout)
    answered = before.answered if before else 0
    process.send(supervisor, sign)
    deadline = time.monotonic() + START_SECONDS
    while supervisor.alive() and time.monotonic() < deadline:
        state = states.load(layout)
        if state is not None:
            for text in state.messages[told:]:
                report(text)
            told = len(state.messages)
            if state.answered > answered and state.phase == "ready":
                if state.problem:
                    raise LocalStackError(state.problem, state.remedy)
                return
        time.sleep(POLL)
    raise _gone(layout)


def _gone(layout: Layout) -> LocalStackError:
    """The error for a supervisor that ended without a word."""
    log = layout.log("supervisor")
    return LocalStackError(f"The local stack's supervisor ended: {process.tail(log)}.", f"Look into {log}.")


def _clean_up(layout: Layout) -> bool:
    """End what a killed supervisor left behind; True when there was something."""
    state = states.load(layout)
    recorded = [each.identity for each in state.services.values()] if state else []
    left = {identity.pid for identity in recorded if identity and identity.alive()}
    left |= process.offspring(layout.home)
    process.end(left, seconds=30)
    return bool(left)


def _given_row(state: State) -> ServiceStatus:
    """The row of a source that is not ours."""
    url = settings.parse_database_url(state.source, scheme="mysql", variable=SOURCE)
    word = "up" if ports.listens(url.port, url.host) else "unreachable"
    return ServiceStatus(mysql.NAME, "MySQL (given)", word, None, url.port, state.source, "")
