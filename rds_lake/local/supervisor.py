"""The process that owns the local stack's servers: starts them in order, restarts what dies, stops them in reverse.

`python -m rds_lake.local.supervisor --home FOLDER [--ui]` goes to the background at once. Others talk to it by signal
(SIGTERM: stop; SIGUSR1: start the UI too, and what was given up; SIGHUP: only the latter) and read its `state.json`.
It has one thread, because a child's signal at our death belongs to the thread that started it.
"""

import argparse
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rds_lake import settings
from rds_lake.errors import LocalStackError
from rds_lake.local import aws, dagster_ui, mysql, ports, postgres, process
from rds_lake.local.layout import Layout, keep_secrets
from rds_lake.local.process import Identity, StoppedError
from rds_lake.local.service import Service, Site
from rds_lake.local.stack import environment
from rds_lake.local.state import ALREADY_RUNNING, ServiceState, State

MOST_DEATHS, DEATHS_WINDOW = 5, 60.0  # so many within so many seconds: give up
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before a restart; doubled with each death
FOREIGN = ("AWS_", "PG", "MYSQL_", "MARIADB_")  # the user's own settings for other servers


@dataclass
class Child:
    """A service and its process."""

    service: Service
    popen: "subprocess.Popen[bytes] | None" = None
    deaths: list[float] = field(default_factory=list)
    due: float | None = None  # when to start it again

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.popen is not None and self.popen.poll() is None


class Supervisor:
    """One stack's servers, from the first start to the last stop."""

    def __init__(self, layout: Layout, *, ui: bool, source_url: str) -> None:
        identity = Identity.of(os.getpid())
        if identity is None:
            raise LocalStackError("This system does not say when a process started.", "Install 'ps'.")
        self.layout = layout
        self.want_ui = ui
        self.source_url = source_url
        self.children: dict[str, Child] = {}  # in the order of their start
        self.stopping = False
        self.requests: list[signal.Signals] = []
        self.state = State(identity)

    # --- life --------------------------------------------------------------------------------------------------

    def live(self) -> int:
        """Start everything, watch it until told to stop, stop it. Returns the exit code."""
        waker = self._listen()
        log = self.layout.log("supervisor")
        problem, remedy = "The local stack's supervisor failed.", f"Look into {log}."  # unless one of these says better
        try:
            self._start_all()
            self._watch(waker)
            problem = ""
        except StoppedError:
            problem = ""  # told to stop while starting
        except LocalStackError as error:
            problem, remedy = error.problem, error.remedy
        finally:
            self.state.problem, self.state.remedy = problem, remedy
            self._stop_all()
        return 1 if self.state.problem else 0

    def _listen(self) -> int:
        """Handle signals; returns a descriptor that can be read from whenever one came."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._told_to_stop)
        for sign in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(sign, lambda number, _: self.requests.append(signal.Signals(number)))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a child ended: wake up
        return reader

    def _told_to_stop(self, *_: object) -> None:
        self.stopping = True

    def _start_all(self) -> None:
        self._say("starting")
        known = keep_secrets(self.layout, source_url=self.source_url)
        self.site = Site(
            layout=self.layout,
            ports=ports.keep(self.layout),
            secrets=known,
            environ=_child_environ(self.layout),
            report=self._report,
            stopping=lambda: self.stopping,
        )
        if self.source_url:
            given = settings.parse_database_url(self.source_url, scheme="mysql", variable="RDS_LAKE_SOURCE_URL")
            self.state.source = str(given)
            self._report(f"MySQL: using the given source {given}")
        else:
            self._start(mysql.service)
        for make in (aws.service, postgres.service, postgres.shim_service):
            self._start(make)
        dagster_ui.prepare_home(self.site)
        if self.want_ui:
            self._start_ui()
        self._say("ready")

    def _start_ui(self) -> None:
        environ = environment(self.layout.home)
        # The daemon first: it takes as long to load the code as the UI, and need not be waited for.
        self._start(lambda site: dagster_ui.daemon(site, environ))
        self._start(lambda site: dagster_ui.webserver(site, environ))
        self.state.ui = True

    def _watch(self, waker: int) -> None:
        while not self.stopping:
            due = [child.due for child in self.children.values() if child.due is not None]
            patience = max(0.0, min(due) - time.monotonic()) if due else None
            select.select([waker], [], [], patience)
            while _drained(waker):
                pass
            for child in self.children.values():
                self._look_at(child)
            self._answer_requests()

    # --- one service -------------------------------------------------------------------------------------------

    def _start(self, make: Callable[[Site], Service]) -> None:
        """Set a service up and start it for the first time."""
        if self.stopping:
            raise StoppedError
        service = make(self.site)
        if service.name in self.children and self.children[service.name].running:
            return
        if service.port:
            ports.check_free(self.layout, dict(self.site.ports), (service.name,))
        child = Child(service)
        self.children[service.name] = child
        self.state.services[service.name] = ServiceState(
            name=service.name,
            title=service.title,
            state="starting",
            port=service.port,
            address=service.address,
            log=str(self.layout.log(service.name)),
        )
        begin = time.monotonic()
        self._spawn(child)
        where = f" on {service.address}" if service.address else ""
        self._report(f"{service.title} is up{where} ({time.monotonic() - begin:.1f} s)")

    def _spawn(self, child: Child) -> None:
        """Start a service's process and wait until it answers.

        Raises:
            LocalStackError: it ended, or did not answer in time.
        """
        service, row = child.service, self.state.services[child.service.name]
        log = self.layout.log(service.name)
        child.due = None
        child.popen = process.spawn(
            service.argv,
            environ={**service.environ, process.MARK_SERVICE: service.name},
            cwd=service.cwd,
            log=log,
            dies_with_us=service.stop_signal,
            privilege=service.privilege,
        )
        identity = Identity.of(child.popen.pid)
        row.pid, row.started = child.popen.pid, identity.started if identity else ""
        self.state.save(self.layout)
        answered = process.wait_until(
            lambda: not child.running or service.ready(), seconds=service.ready_seconds, stopping=lambda: self.stopping
        )
        if not child.running:
            raise LocalStackError(
                f"{service.title} ended at its start with exit code {child.popen.returncode}: {process.tail(log)}.",
                f"Look into {log}.",
            )
        if not answered:
            raise LocalStackError(
                f"{service.title} did not answer within {service.ready_seconds:.0f} seconds.", f"Look into {log}."
            )
        service.once_ready()
        row.state, row.note = "up", ""
        self.state.save(self.layout)

    def _look_at(self, child: Child) -> None:
        """Notice a death, and start again what is due."""
        if child.popen and not child.running:
            self._mourn(child, f"ended with exit code {child.popen.returncode}")
        if child.due is not None and time.monotonic() >= child.due and not self.stopping:
            try:
                self._spawn(child)
            except LocalStackError as error:
                self._halt([child])
                self._mourn(child, error.problem)

    def _mourn(self, child: Child, reason: str) -> None:
        """Write a death down and decide when to start the service again."""
        service, row = child.service, self.state.services[child.service.name]
        process.end(process.offspring(self.layout.home, service.name), seconds=5)
        now = time.monotonic()
        child.popen = None
        child.deaths = [*(death for death in child.deaths if now - death < DEATHS_WINDOW), now]
        row.pid, row.restarts = None, row.restarts + 1
        if len(child.deaths) >= MOST_DEATHS:
            row.state = "failed"
            row.note = (
                f"{reason}; given up after {MOST_DEATHS} times within {DEATHS_WINDOW:.0f} seconds. "
                "'rds-lake up' tries again."
            )
        else:
            child.due = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (len(child.deaths) - 1))
            row.state, row.note = "restarting", reason
        _log(f"{service.name}: {row.note or reason}")
        self.state.save(self.layout)

    def _answer_requests(self) -> None:
        """Do what the signals asked for."""
        if not self.requests or self.stopping:
            return
        asked, self.requests = self.requests, []
        self.state.problem = self.state.remedy = ""
        try:
            for child in self.children.values():
                child.deaths = []
                if child.popen is None:
                    child.due = 0.0
                    self._look_at(child)
            if signal.SIGUSR1 in asked and not self.state.ui:
                self._say("starting")
                self._start_ui()
        except LocalStackError as error:
            self.state.problem, self.state.remedy = error.problem, error.remedy
            self._forget_ui()
        self.state.answered += len(asked)
        self._say("ready")

    def _forget_ui(self) -> None:
        """The UI did not start: go on without it."""
        half = [self.children.pop(name) for name in (dagster_ui.NAME, dagster_ui.DAEMON) if name in self.children]
        self._halt(half)
        for child in half:
            self.state.services.pop(child.service.name)

    # --- the end -----------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Clients before servers. Dagster's two go together, each takes more than a second."""
        self.stopping = True
        self.state.phase = "stopping"
        self.state.save(self.layout)
        clients = [child for name, child in self.children.items() if name in {dagster_ui.NAME, dagster_ui.DAEMON}]
        servers = [child for child in self.children.values() if child not in clients]
        for group in [clients, *([child] for child in reversed(servers))]:
            self._halt(group)
        process.end(process.offspring(self.layout.home), seconds=5)
        self.state.phase = "failed" if self.state.problem else "stopped"
        self.state.save(self.layout)

    def _halt(self, group: list[Child]) -> None:
        """Ask these to stop, wait, then kill what is left of them."""
        running = [(child, child.popen) for child in group if child.popen]
        for child, popen in running:
            popen.send_signal(child.service.stop_signal)
        for child, popen in running:
            try:
                popen.wait(child.service.stop_seconds)
            except subprocess.TimeoutExpired:
                _log(f"{child.service.name}: did not stop in {child.service.stop_seconds:.0f} s, killed")
            process.kill_group(popen.pid)  # also what it started and left behind
            popen.wait()
            process.end(process.offspring(self.layout.home, child.service.name), seconds=5)
            row = self.state.services[child.service.name]
            row.pid, row.state = None, "stopped"
            child.popen = None
        self.state.save(self.layout)

    # --- words -------------------------------------------------------------------------------------------------

    def _say(self, phase: str) -> None:
        self.state.phase = phase
        self.state.save(self.layout)

    def _report(self, text: str) -> None:
        _log(text)
        self.state.messages.append(text)
        self.state.save(self.layout)


def _drained(waker: int) -> bool:
    try:
        return bool(os.read(waker, 4096))
    except BlockingIOError:
        return False


def _child_environ(layout: Layout) -> dict[str, str]:
    """The environment of every child: ours, without what would send it to other servers, with our mark."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, process.MARK: str(layout.home)}


def _log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _lock(layout: Layout) -> IO[str] | None:
    """Take the stack's lock for as long as we, or our fork, live; None when another supervisor has it."""
    file = layout.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _to_background(lock: IO[str], log: Path) -> None:
    """Go on in a fork that belongs to no terminal. The lock is shared and stays; it names the fork from now on."""
    gate_reader, gate_writer = os.pipe()
    child = os.fork()
    if child:
        identity = Identity.of(child)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{child} {identity.started if identity else ''}\n")
        lock.flush()
        os.write(gate_writer, b".")
        os._exit(0)
    os.read(gate_reader, 1)
    for descriptor in (gate_reader, gate_writer):
        os.close(descriptor)
    os.setsid()
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def main() -> int:
    """Take the lock, go to the background, live."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ui", action="store_true")
    words = parser.parse_args()
    layout = Layout(words.home)
    lock = _lock(layout)
    if lock is None:
        return ALREADY_RUNNING
    _to_background(lock, layout.log("supervisor"))
    os.chdir(layout.home)
    process.end(process.offspring(layout.home), seconds=20)  # of a supervisor that was killed
    return Supervisor(layout, ui=words.ui, source_url=os.environ.get("RDS_LAKE_SOURCE_URL", "")).live()


if __name__ == "__main__":
    sys.exit(main())
