"""The MySQL source of the local stack: which server there is, its empty database, its user.

A server is looked for in this order: MariaDB on this machine, MariaDB from the system's packages (unpacked privately),
seekdb from a wheel. `RDS_LAKE_MYSQL` forces one. A home stays with the kind of server that its data was made with.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rds_lake.errors import LocalStackError
from rds_lake.local import debian
from rds_lake.local.layout import PRIVATE_FOLDER, SOURCE_DATABASE, USER, write_private
from rds_lake.local.ports import HOST
from rds_lake.local.service import Service, Site

NAME = "mysql"
FORCE = "RDS_LAKE_MYSQL"
KINDS = {"path": "mariadb", "debian": "mariadb", "seekdb": "seekdb"}  # where it comes from -> whose data files
EXTRA_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/usr/local/mysql/bin")
SYSTEM_TABLES = (
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
)
# Small, because a laptop has other things to do; durable, because a lost commit would look like a lost row.
TUNING = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--innodb-flush-log-at-trx-commit=1",
    "--performance-schema=OFF",
    "--max-connections=100",
    "--max-allowed-packet=64M",
)


@dataclass(frozen=True)
class MariaDb:
    """A MariaDB server program and its files."""

    program: Path
    share: Path
    version: str
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def command(self, data: Path) -> list[str]:
        """The command line up to what differs between a set-up and a server."""
        as_root = ("--user=root",) if os.geteuid() == 0 else ()
        words = [str(self.program), "--no-defaults", *as_root, *self.options]
        # A temporary folder of its own: a server that starts removes what it finds there of others'.
        return [*words, f"--datadir={data}", f"--tmpdir={data.parent}", f"--lc-messages-dir={self.share}", *TUNING]


def url(password: str, port: int) -> str:
    """The address that our own source has."""
    return f"mysql://{USER}:{password}@{HOST}:{port}/{SOURCE_DATABASE}"


def service(site: Site) -> Service:
    """Find a server, make its data folder, describe how to run it.

    Raises:
        LocalStackError: no server could be had; the message says what was tried.
    """
    failures = []
    for source in _sources(site):
        try:
            found = _seekdb(site) if source == "seekdb" else _mariadb(site, _find(site, source))
        except LocalStackError as error:
            failures.append(f"{source}: {error.problem}")
            site.report(f"MySQL: {error.problem} Trying the next way")
        else:
            _note_kind(site, KINDS[source])
            return found
    raise LocalStackError(
        f"No MySQL server could be had. {' '.join(failures)}",
        "Install MariaDB (apt-get install mariadb-server, brew install mariadb), or set RDS_LAKE_SOURCE_URL to a "
        "MySQL that you have.",
    )


def _folder(site: Site) -> Path:
    folder = site.layout.home / "mysql"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def _sources(site: Site) -> list[str]:
    """The ways to try, in order."""
    forced = os.environ.get(FORCE, "")
    if forced and forced not in KINDS:
        raise LocalStackError(f"{FORCE} is '{forced}'.", f"Set it to one of {', '.join(KINDS)}, or unset it.")
    note = _folder(site) / "kind"
    kind = note.read_text(encoding="ascii").strip() if note.is_file() else ""
    wanted = [forced] if forced else list(KINDS)
    fitting = [source for source in wanted if not kind or KINDS[source] == kind]
    if not fitting:
        raise LocalStackError(
            f"{FORCE} is '{forced}', but the data in {note.parent} was made by {kind}.",
            f"Unset {FORCE}, or use another RDS_LAKE_HOME.",
        )
    return fitting


def _note_kind(site: Site, kind: str) -> None:
    (_folder(site) / "kind").write_text(kind + "\n", encoding="ascii")


# --- MariaDB -----------------------------------------------------------------------------------------------------


def _find(site: Site, source: str) -> MariaDb:
    if source == "path":
        return _on_this_machine()
    if not debian.available():
        raise LocalStackError("this system has no apt.", "Install MariaDB.")
    root = debian.server(site)
    environ = {"LD_LIBRARY_PATH": debian.libraries(root)}
    program, share = root / "usr/sbin/mariadbd", root / "usr/share/mysql"
    options = (f"--basedir={root / 'usr'}", f"--plugin-dir={root / 'usr/lib/mysql/plugin'}")
    return MariaDb(program, share, _version(program, environ), options, environ)


def _on_this_machine() -> MariaDb:
    """The first MariaDB on PATH, or in the folders that a user's PATH often lacks."""
    for program in _programs():
        version = _version(program, {})
        if "MariaDB" in version:
            return MariaDb(program, _share(program), version)
    raise LocalStackError("no mariadbd is on PATH.", "Install MariaDB.")


def _programs() -> Iterator[Path]:
    path = os.pathsep.join([os.environ.get("PATH", ""), *EXTRA_FOLDERS])
    for name in ("mariadbd", "mysqld"):
        found = shutil.which(name, path=path)
        if found:
            yield Path(found)


def _version(program: Path, environ: Mapping[str, str]) -> str:
    """`10.11.19-MariaDB`, or the empty string when the program does not run."""
    answer = _ask(program, environ, "--version")
    found = re.search(r"Ver (\S+)", answer)
    return found.group(1) if found else ""


def _share(program: Path) -> Path:
    """The folder of the server's messages, which also holds the SQL of its system tables."""
    answer = _ask(program, {}, "--no-defaults", "--verbose", "--help")
    found = re.search(r"^lc-messages-dir\s+(\S.*)$", answer, flags=re.MULTILINE)
    folders = [Path(found.group(1).strip())] if found else []
    prefix = program.resolve().parent.parent
    folders += [prefix / "share/mysql", prefix / "share/mariadb", prefix / "share"]
    for folder in folders:
        if (folder / SYSTEM_TABLES[0]).is_file():
            return folder
    raise LocalStackError(f"{program} has no {SYSTEM_TABLES[0]} with it.", "Install MariaDB's server package.")


def _ask(program: Path, environ: Mapping[str, str], *words: str) -> str:
    as_root = ("--user=root",) if os.geteuid() == 0 and words[0] != "--version" else ()
    try:
        answer = subprocess.run(
            [program, *words, *as_root],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout


def _mariadb(site: Site, server: MariaDb) -> Service:
    folder = _folder(site)
    data = folder / "mariadb"
    if not data.is_dir():
        site.report(f"MySQL: making an empty database with MariaDB {server.version}")
        _make_data(site, server, data)
    start = folder / "start.sql"
    write_private(start, _start_sql(site))
    port = site.ports[NAME]
    argv = [
        *server.command(data),
        f"--port={port}",
        f"--bind-address={HOST}",
        "--socket=",  # none: its path would have to be short
        f"--pid-file={folder / 'pid'}",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_unicode_ci",
        "--default-time-zone=+00:00",
        f"--init-file={start}",
    ]
    return Service(
        name=NAME,
        title=f"MySQL (MariaDB {server.version.partition('-')[0]})",
        argv=tuple(argv),
        cwd=folder,
        environ={**site.environ, **server.environ},
        ready=lambda: answers(site),
        address=f"mysql://{USER}@{HOST}:{port}/{SOURCE_DATABASE}",
        port=port,
    )


def _make_data(site: Site, server: MariaDb, data: Path) -> None:
    """Make the system tables; in a folder aside, so that half a database is never taken for one."""
    new = data.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=PRIVATE_FOLDER)
    with tempfile.TemporaryFile() as script:
        # One statement per line: that is how the server's set-up mode reads.
        script.write(b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n")
        for name in SYSTEM_TABLES:
            script.write((server.share / name).read_bytes() + b"\n")
        script.seek(0)
        argv = [*server.command(new), "--bootstrap", "--enforce-storage-engine="]
        site.run(
            argv,
            log=NAME,
            remedy=f"Look into the log, or set {FORCE} to another way.",
            environ=server.environ,
            stdin=script,
        )
    new.rename(data)


def _start_sql(site: Site) -> str:
    """What the server runs before it accepts its first connection: one user, with the rights that production has."""
    user = f"'{USER}'@'{HOST}'"
    return "\n".join(
        [
            f"CREATE DATABASE IF NOT EXISTS {SOURCE_DATABASE};",
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{site.secrets.mysql_password}';",
            f"ALTER USER {user} IDENTIFIED BY '{site.secrets.mysql_password}';",
            f"GRANT ALL PRIVILEGES ON {SOURCE_DATABASE}.* TO {user};",
            f"GRANT PROCESS ON *.* TO {user};",
            "DELETE FROM mysql.global_priv WHERE User IN ('root', '');",  # they have no password
            "DELETE FROM mysql.proxies_priv WHERE User IN ('root', '');",
            "FLUSH PRIVILEGES;",
            "",
        ]
    )


def answers(site: Site) -> bool:
    """Whether our user gets in.

    Raises:
        LocalStackError: the server is up and refuses our password.
    """
    import pymysql

    try:
        pymysql.connect(
            host=HOST,
            port=site.ports[NAME],
            user=USER,
            password=site.secrets.mysql_password,
            database=SOURCE_DATABASE,
            connect_timeout=5,
        ).close()
    except pymysql.err.OperationalError:
        return False
    return True


# --- seekdb ------------------------------------------------------------------------------------------------------


def _seekdb(site: Site) -> Service:
    if importlib.util.find_spec("pylibseekdb") is None:
        site.report(
            "MySQL: no MariaDB is to be had here, so the wheel 'pylibseekdb' is installed (145 MB). It speaks MySQL's "
            "protocol but is not MySQL, and it writes a telemetry file of its own into its data folder"
        )
        site.run([*_installer(), "pylibseekdb"], log=NAME, remedy="Check the network and pip's settings.")
    port = site.ports[NAME]
    folder = _folder(site)
    argv = (sys.executable, "-m", "rds_lake.local.seekdb", "--data", str(folder / "seekdb"), "--port", str(port))
    return Service(
        name=NAME,
        title="MySQL (seekdb)",
        argv=argv,
        cwd=folder,
        environ={**site.environ, "SEEKDB_PASSWORD": site.secrets.mysql_password, "TELEMETRY_ENABLED": "false"},
        ready=lambda: answers(site),
        address=f"mysql://{USER}@{HOST}:{port}/{SOURCE_DATABASE}",
        port=port,
    )


def _installer() -> list[str]:
    """pip, or uv for an environment that was made without pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise LocalStackError("there is neither pip nor uv to install pylibseekdb with.", "Install pip.")
