"""Processes: start one so that it cannot outlive us, tell whether it is still the same one, end it and its offspring.

Nothing here knows which services there are. On Linux a child gets a signal when the supervisor dies, whatever killed
it, and every descendant carries a mark in its environment by which the next start finds what is left. Elsewhere (macOS)
the recorded process ids have to do.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from rds_lake.errors import LocalStackError

# In the environment of everything that a supervisor starts: the stack's home, and the service.
MARK, MARK_SERVICE = "RDS_LAKE_CHILD_OF", "RDS_LAKE_CHILD"
PROC = Path("/proc")
POLL = 0.02  # seconds
LOG_LIMIT = 20 * 2**20  # bytes; a longer log starts anew at the next start, one old one is kept
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


class Privilege(Enum):
    """What a server that refuses to run as root is given instead."""

    OURS = "ours"
    NAMESPACE = "namespace"  # a user namespace in which root has another number; its files stay root's
    NOBODY = "nobody"  # another user; its files must belong to that user


class StoppedError(Exception):
    """The supervisor was told to stop while it waited."""


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The identity of a running process, or None when there is none."""
        started = _started(pid)
        return cls(pid, started) if started else None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started


def _started(pid: int) -> str | None:
    """When the process started, in the system's own notation; None when it has ended (a zombie has)."""
    if PROC.is_dir():
        try:
            fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if not found or found[0].startswith("Z") else found[1].strip()


def offspring(home: Path, service: str = "") -> set[int]:
    """Every process that descends from a supervisor of this home, or from one of its services.

    Linux only; elsewhere none is found.
    """
    marks = {f"{MARK}={home}".encode()} | ({f"{MARK_SERVICE}={service}".encode()} if service else set())
    found = set()
    for folder in PROC.glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue  # somebody else's, or just ended
        if marks <= set(environ.split(b"\0")):
            found.add(int(folder.name))
    return {pid for pid in found if _started(pid)} - {os.getpid()}


def end(pids: Collection[int], *, seconds: float, first: signal.Signals = signal.SIGTERM) -> None:
    """End processes: ask, wait for so long, then kill."""
    waiting = {identity for pid in pids if (identity := Identity.of(pid))}
    for sign, patience in ((first, seconds), (signal.SIGKILL, 5.0)):
        for identity in waiting:
            send(identity, sign)
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            time.sleep(POLL)
            waiting = {identity for identity in waiting if identity.alive()}


def send(identity: Identity, sign: signal.Signals) -> None:
    """Signal a process if it is still the same one."""
    if identity.alive():
        try:
            os.kill(identity.pid, sign)
        except ProcessLookupError:
            return  # ended in between


def kill_group(pid: int) -> None:
    """Kill a process and what it started in its own group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # all of it has ended (macOS says 'not permitted' for a group of zombies)


def open_log(path: Path) -> IO[bytes]:
    """A log file to append to; a very long one is put aside first."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def tail(path: Path, lines: int = 4) -> str:
    """The end of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())


def spawn(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    dies_with_us: signal.Signals = signal.SIGTERM,
    privilege: Privilege = Privilege.OURS,
    stdin: IO[bytes] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, its output appended to a log.

    Call it from the main thread: the signal at our death belongs to the thread that forked.

    Raises:
        LocalStackError: the program is missing, or may not be started.
    """
    prepare = _preparation(privilege, dies_with_us)
    try:
        with open_log(log) as output:
            return subprocess.Popen(
                list(argv),
                stdin=stdin or subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(environ),
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509  the supervisor has one thread
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalStackError(
            f"{argv[0]} could not be started: {error}.", "Install it again: 'make clean', then 'make'."
        ) from error


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    stopping: Callable[[], bool],
    remedy: str,
    privilege: Privilege = Privilege.OURS,
    stdin: IO[bytes] | None = None,
) -> None:
    """Run a set-up program to its end.

    Raises:
        LocalStackError: it failed; the message holds the end of its output.
        StoppedError: we were told to stop meanwhile; the program was ended.
    """
    child = spawn(argv, environ=environ, cwd=cwd, log=log, privilege=privilege, stdin=stdin)
    while child.poll() is None:
        if stopping():
            kill_group(child.pid)
            child.wait()
            raise StoppedError
        time.sleep(POLL)
    if child.returncode:
        raise LocalStackError(
            f"{Path(argv[0]).name} failed with exit code {child.returncode}: {tail(log)} (see {log}).", remedy
        )


def wait_until(condition: Callable[[], bool], *, seconds: float, stopping: Callable[[], bool]) -> bool:
    """Wait for something to become true; False when the time is over.

    Raises:
        StoppedError: we were told to stop meanwhile.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if stopping():
            raise StoppedError
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def privilege_for_servers() -> Privilege:
    """How to start a server that refuses to run as root."""
    if os.geteuid() != 0:
        return Privilege.OURS
    try:
        subprocess.run([sys.executable, "-S", "-c", ""], check=True, preexec_fn=_leave_root_by_namespace)
    except (OSError, subprocess.SubprocessError):
        return Privilege.NOBODY  # containers often refuse namespaces
    return Privilege.NAMESPACE


def nobody() -> pwd.struct_passwd:
    """The unprivileged user that every system has."""
    return pwd.getpwnam("nobody")


def _preparation(privilege: Privilege, dies_with_us: signal.Signals) -> Callable[[], None]:
    """What the child does between fork and exec. Libraries are loaded before the fork, in the parent."""
    parent = os.getpid()
    set_death_signal = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    stranger = nobody() if privilege is Privilege.NOBODY else None

    def prepare() -> None:
        if privilege is Privilege.NAMESPACE:
            _leave_root_by_namespace()
        if stranger:
            os.setgroups([])
            os.setgid(stranger.pw_gid)
            os.setuid(stranger.pw_uid)
        if set_death_signal:  # after the change of user, which would clear it
            set_death_signal(PR_SET_PDEATHSIG, int(dies_with_us))
            if os.getppid() != parent:  # we died in between
                os._exit(1)

    return prepare


def _leave_root_by_namespace() -> None:
    """Become a user other than root in a new user namespace; to the outside, and for files, we stay who we are."""
    inside = nobody().pw_uid  # a number with a name: initdb looks it up
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1", encoding="ascii")
