"""Ports of the local stack: free ones on 127.0.0.1, chosen once, kept, and checked before each start."""

import errno
import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from rds_lake.errors import LocalStackError
from rds_lake.local.layout import Layout, write_private

HOST = "127.0.0.1"
NAMES = ("mysql", "aws", "postgres", "warehouse", "ui")
PREFERRED = {"ui": 3000}
# Below the range that Linux and macOS hand out to outgoing connections: a kept port is still free tomorrow.
RANGE = range(20_000, 32_000)


def read(layout: Layout) -> dict[str, int] | None:
    """The kept ports, or None when none were chosen yet.

    Raises:
        LocalStackError: the file was damaged.
    """
    try:
        text = layout.ports.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        kept = json.loads(text)
        return {name: int(kept[name]) for name in NAMES}
    except (ValueError, KeyError, TypeError) as error:
        raise LocalStackError(f"{layout.ports} is damaged.", "Delete it: new ports will be chosen.") from error


def keep(layout: Layout) -> dict[str, int]:
    """The kept ports, chosen now when there are none yet."""
    kept = read(layout)
    if kept is None:
        kept = _choose()
        write_private(layout.ports, json.dumps(kept, indent=2) + "\n")
    return kept


def check_free(layout: Layout, ports: dict[str, int], names: tuple[str, ...]) -> None:
    """See that nobody else listens on our ports.

    Raises:
        LocalStackError: somebody does.
    """
    for name in names:
        if not is_free(ports[name]):
            holder = _holder(ports[name])
            raise LocalStackError(
                f"Port {ports[name]} of the local stack's '{name}' service is in use by {holder or 'another process'}.",
                f"Stop that process, or delete {layout.ports} to have new ports chosen.",
            )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return _bind(probe, port)


def listens(port: int, host: str = HOST) -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _choose() -> dict[str, int]:
    chosen: dict[str, int] = {}
    with ExitStack() as held:  # all are held until the last is chosen, so that none is chosen twice
        for name in NAMES:
            for port in _candidates(name):
                probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                if _bind(probe, port):
                    chosen[name] = port
                    break
    if len(chosen) < len(NAMES):
        raise LocalStackError(
            f"No free port was found between {RANGE.start} and {RANGE.stop}.", "Stop some of the servers there."
        )
    return chosen


def _candidates(name: str) -> Iterator[int]:
    if name in PREFERRED:
        yield PREFERRED[name]
    yield from random.sample(RANGE, 200)


def _bind(probe: socket.socket, port: int) -> bool:
    # A closed connection's TIME_WAIT must not look like a server; a listening one is still refused.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        raise
    return True


def _holder(port: int) -> str:
    """Who listens on the port, as far as we may see: `nginx (pid 812)`; Linux only."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for link in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        try:
            if str(link.readlink()) in sockets:
                process = link.parent.parent
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (pid {process.name})"
        except OSError:
            continue  # somebody else's process, or one that has just ended
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: listening
                yield fields[9]
