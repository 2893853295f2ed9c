"""One process measured from outside: seconds on the clock, seconds of processor, and the peak memory of its tree.

The peak comes from /proc, looked at 50 times a second; where there is no /proc it is what the system's own accounts
say, which know only the largest process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.02
TIMEOUT = 1800.0
"""Seconds after which a process is ended: three times what the slowest peer takes for the largest table."""

PROC = Path("/proc")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        seconds: from its start to its end.
        cpu: of its processors, children included, the servers' not.
        peak_mb: the most memory that it and its children held at once, in MiB.
        code: its exit code; negative for a signal.
        said: the end of what it printed.
    """

    seconds: float
    cpu: float
    peak_mb: float
    code: int
    said: str


def measure(
    command: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    *,
    timeout: float = TIMEOUT,
) -> Measured:
    """Run a command to its end.

    Args:
        command: the program and its words.
        environ: its environment, all of it.
        folder: where it runs, and where what it prints is kept (`printed.txt`).
        timeout: seconds after which its process group is killed.
    """
    log = folder / "printed.txt"
    with log.open("wb") as printed:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watcher = _Watcher(process.pid)
        killer = threading.Timer(timeout, _kill, [process.pid])
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C: it has a group of its own and would go on
            _kill(process.pid)
            raise
        finally:
            killer.cancel()
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peak, seen = watcher.stop()
    said = log.read_text(encoding="utf-8", errors="replace")
    if seconds >= timeout:
        said += f"\nended after {timeout:.0f} s"
    return Measured(
        seconds=seconds,
        cpu=max(usage.ru_utime + usage.ru_stime, seen),  # a child that nobody waited for is in the second only
        peak_mb=peak / MIB if peak else usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024),
        code=process.returncode,
        said=said[-4000:],
    )


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


class _Watcher(threading.Thread):
    """Looks at a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self._peak = self._together = 0
        self._cpu: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            pids = _tree(self._pid)
            held = [_memory(pid) for pid in pids]
            self._cpu |= {pid: seconds for pid in pids if (seconds := _processor(pid))}
            together = sum(now for now, _ in held)
            # Together only what is seen twice: a child that is just being made still shows its parent's memory as its
            # own. A single process may have held more between two looks: the system remembers its own peak.
            self._peak = max([self._peak, min(together, self._together), *(most for _, most in held)])
            self._together = together

    def stop(self) -> tuple[int, float]:
        """The peak in bytes and the processor seconds that were seen; 0 when nothing could be."""
        self._over.set()
        self.join()
        return self._peak, sum(self._cpu.values())


def _tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        with suppress(OSError):  # it has just ended
            for thread in (PROC / str(each) / "task").iterdir():
                waiting += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def _memory(pid: int) -> tuple[int, int]:
    """What a process holds now, and the most that it ever held, in bytes."""
    try:
        text = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    now, most = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def _processor(pid: int) -> float:
    """The processor seconds of a process so far, without its children's."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
