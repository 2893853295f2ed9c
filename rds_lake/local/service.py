"""What a service of the local stack is, and what its module is given to describe it.

A service's module has one function `service(site)`: it sets the service up (downloads, an empty database) and returns
a `Service`, which the supervisor starts, watches, restarts and stops.
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rds_lake.local import process
from rds_lake.local.layout import Layout, Secrets
from rds_lake.local.process import Privilege


def _nothing() -> None:
    """No more to do once the service answers."""


@dataclass(frozen=True)
class Site:
    """Where services are set up: paths, ports, passwords, and how to say what is going on."""

    layout: Layout
    ports: Mapping[str, int]
    secrets: Secrets
    environ: Mapping[str, str]  # the environment of every child
    report: Callable[[str], None]
    stopping: Callable[[], bool]

    def run(
        self,
        argv: Sequence[str],
        *,
        log: str,
        remedy: str,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        privilege: Privilege = Privilege.OURS,
        stdin: IO[bytes] | None = None,
    ) -> None:
        """Run a set-up program to its end; its output goes to the service's log."""
        process.run(
            argv,
            environ={**self.environ, **(environ or {})},
            cwd=cwd or self.layout.home,
            log=self.layout.log(log),
            stopping=self.stopping,
            remedy=remedy,
            privilege=privilege,
            stdin=stdin,
        )


@dataclass(frozen=True)
class Service:
    """A server that the supervisor keeps running."""

    name: str
    title: str
    argv: tuple[str, ...]
    cwd: Path
    environ: Mapping[str, str]
    ready: Callable[[], bool]  # does it answer?
    address: str = ""
    port: int | None = None
    once_ready: Callable[[], None] = _nothing
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30
    ready_seconds: float = 60
    privilege: Privilege = Privilege.OURS
