"""A private MariaDB from Debian's or Ubuntu's own packages, without root and without installing anything.

apt does the work with a state folder of its own, so signatures, sources and proxies are the system's. What it
unpacks lies in the user's cache, for all stacks.
"""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rds_lake.errors import LocalStackError
from rds_lake.local.service import Site

PACKAGE = "mariadb-server-core"
LOG = "mysql"
REMEDY = "Check the network and apt's sources, or install MariaDB yourself (apt-get install mariadb-server)."


def available() -> bool:
    """Whether this system has apt."""
    return all(shutil.which(program) for program in ("apt-get", "apt-cache", "dpkg-deb"))


def server(site: Site) -> Path:
    """The root folder of the unpacked packages; downloaded at the first call, at once afterwards.

    Raises:
        LocalStackError: apt could not get it, or it does not run here.
    """
    cache = cache_folder(site) / f"mariadb-{_system()}"
    with _locked(cache.parent):
        if not works(cache):
            shutil.rmtree(cache, ignore_errors=True)
            _unpack(site, cache)
    return cache


def cache_folder(site: Site) -> Path:
    """The user's cache, or the stack's own folder when that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (base / "rds_lake", site.layout.home / "cache"):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise LocalStackError(f"Neither {base} nor {site.layout.home} can be written.", "Set XDG_CACHE_HOME to a folder.")


def libraries(root: Path) -> str:
    """LD_LIBRARY_PATH of the unpacked packages."""
    return ":".join(str(folder) for folder in sorted(root.glob("**/lib/*-linux-gnu")))


def works(root: Path) -> bool:
    """Whether the unpacked server starts here (all libraries are there)."""
    program = root / "usr/sbin/mariadbd"
    if not program.is_file():
        return False
    environ = {**os.environ, "LD_LIBRARY_PATH": libraries(root)}
    try:
        answer = subprocess.run([program, "--version"], env=environ, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _system() -> str:
    release = platform.freedesktop_os_release()
    return f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', 'rolling')}-{platform.machine()}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two stacks that start at once download once."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(site: Site, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="apt-") as name:
        work = Path(name)
        for folder in ("state/lists/partial", "cache/archives/partial", "packages", "root"):
            (work / folder).mkdir(parents=True)
        apt = _Apt(site, work)
        site.report("MySQL: asking apt which packages a private MariaDB needs")
        apt.get("update", "-qq")
        packages = apt.missing(PACKAGE)
        site.report(f"MySQL: downloading {', '.join(packages)} (nothing is installed)")
        apt.get("download", "-q", *packages)
        for package in sorted((work / "packages").glob("*.deb")):
            site.run(["dpkg-deb", "-x", str(package), str(work / "root")], log=LOG, remedy=REMEDY)
        if not works(work / "root"):
            raise LocalStackError(f"The MariaDB of this system's packages does not start: {_lacks(work)}.", REMEDY)
        put_in_place(work / "root", target)


def put_in_place(root: Path, target: Path) -> None:
    """Give an unpacked server its final name, unless another stack was quicker.

    Raises:
        OSError: the name is taken by something that is no working server.
    """
    try:
        root.rename(target)
    except OSError:
        if not works(target):
            raise


class _Apt:
    """apt-get with a state of its own; only the list of installed packages is the system's."""

    def __init__(self, site: Site, work: Path) -> None:
        self.site, self.work = site, work
        settings = {
            "Dir::State": str(work / "state"),
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": str(work / "cache"),
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",
            "APT::Get::List-Cleanup": "0",
            "Acquire::Retries": "2",
        }
        self.options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def get(self, *words: str) -> None:
        self.site.run(
            ["apt-get", *self.options, *words],
            log=LOG,
            remedy=REMEDY,
            cwd=self.work / "packages",
            environ={"LC_ALL": "C"},
        )

    def missing(self, package: str) -> list[str]:
        """The package and what it needs beyond what is installed."""
        answer = subprocess.run(
            ["apt-get", *self.options, "-s", "--no-install-recommends", "install", package],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
        if answer.returncode:
            raise LocalStackError(f"apt cannot provide {package}: {answer.stderr.strip()}.", REMEDY)
        return sorted({package, *re.findall(r"^Inst (\S+)", answer.stdout, flags=re.MULTILINE)})


def _lacks(work: Path) -> str:
    """The libraries that the unpacked server does not find."""
    root = work / "root"
    answer = subprocess.run(
        ["ldd", root / "usr/sbin/mariadbd"],
        env={**os.environ, "LD_LIBRARY_PATH": libraries(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    absent = [line.strip() for line in answer.stdout.splitlines() if "not found" in line]
    return ", ".join(absent) or "reason unknown"
