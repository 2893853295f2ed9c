"""What the supervisor says about itself: one JSON file, replaced as a whole, read by `up`, `down` and `status`."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rds_lake.local.layout import Layout, write_private
from rds_lake.local.process import Identity

ALREADY_RUNNING = 3
"""Exit code of a supervisor that finds another one at work in its folder."""


@dataclass
class ServiceState:
    """One service: `starting`, `up`, `restarting`, `failed` or `stopped`."""

    name: str
    title: str
    state: str
    port: int | None
    address: str
    log: str
    pid: int | None = None
    started: str = ""
    restarts: int = 0
    note: str = ""

    @property
    def identity(self) -> Identity | None:
        """The service's process, when it has one."""
        return Identity(self.pid, self.started) if self.pid else None


@dataclass
class State:
    """A stack: `starting`, `ready`, `stopping`, `stopped` or `failed`."""

    supervisor: Identity
    phase: str = "starting"
    ui: bool = False
    source: str = ""  # the given source, without its password; empty when MySQL is our own
    messages: list[str] = field(default_factory=list)
    services: dict[str, ServiceState] = field(default_factory=dict)
    problem: str = ""
    remedy: str = ""
    answered: int = 0  # requests by signal that were carried out

    def save(self, layout: Layout) -> None:
        """Write it, in one step."""
        write_private(layout.state, json.dumps(asdict(self), indent=1))


def load(layout: Layout) -> State | None:
    """What a supervisor last said, or None when none ever did. Whether it is still alive is another question."""
    try:
        found: dict[str, Any] = json.loads(layout.state.read_text(encoding="utf-8"))
        services = {name: ServiceState(**each) for name, each in found.pop("services").items()}
        return State(supervisor=Identity(**found.pop("supervisor")), services=services, **found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # written by another version of rds_lake, or damaged
        return None


def holder(layout: Layout) -> Identity | None:
    """The supervisor that holds the lock, if it is alive."""
    try:
        pid, started = layout.lock.read_text(encoding="ascii").split(maxsplit=1)
        identity = Identity(int(pid), started.strip())
    except (OSError, ValueError):
        return None
    return identity if identity.alive() else None
