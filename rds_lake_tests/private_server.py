"""MariaDB servers of a test's own: with other options, another zone, a binary log or a primary than the stack's has.

They are the same program as the stack's, each with its own folder, port and user `root` without a password.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql

from rds_lake.errors import LocalStackError
from rds_lake.extract.source import Source
from rds_lake.local import layout, mysql, ports, process
from rds_lake.local.service import Site
from rds_lake.settings import DatabaseUrl, parse_database_url

DATABASE = "shop"
PLAIN = "plain"
"""A user who may read, and nothing else."""


@dataclass
class Server:
    """A MariaDB server.

    Attributes:
        folder: where its data lie.
        port: where it listens, on 127.0.0.1.
    """

    folder: Path
    port: int

    @property
    def url(self) -> DatabaseUrl:
        """Its address, for root."""
        text = f"mysql://root:@{ports.HOST}:{self.port}/{DATABASE}"
        return parse_database_url(text, scheme="mysql", variable="RDS_LAKE_SOURCE_URL")

    @property
    def source(self) -> Source:
        """The server as a source, read by root."""
        return Source(self.url)

    def source_of(self, user: str) -> Source:
        """The server as a source, read by another user."""
        return Source(replace(self.url, user=user))

    def connect(self, **options: Any) -> Any:
        """A plain connection in UTC and autocommit; the caller closes it."""
        given = {
            "host": ports.HOST,
            "port": self.port,
            "user": "root",
            "database": DATABASE,
            "autocommit": True,
            "init_command": "SET time_zone='+00:00'",
            **options,
        }
        return pymysql.connect(**given)

    def sql(self, *statements: str) -> Any:
        """Run statements without any formatting; the rows of the last one."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def status(self) -> dict[str, Any]:
        """What it says of itself as a replica."""
        with self.connect() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute("SHOW SLAVE STATUS")
            return dict(cursor.fetchone() or {})

    def accepts(self) -> bool:
        """Whether it accepts connections."""
        try:
            self.connect().close()
        except pymysql.MySQLError:
            return False
        return True


@contextmanager
def server(folder: Path, *options: str, environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A running server with further options; stopped at the end."""
    site = _site(folder)
    program = _program(site)
    data = folder / "mysql" / "data"
    data.parent.mkdir()
    mysql._make_data(site, program, data)
    start = folder / "start.sql"
    start.write_text(
        f"CREATE DATABASE {DATABASE};\nCREATE USER IF NOT EXISTS root@'{ports.HOST}';\n"
        f"GRANT ALL PRIVILEGES ON *.* TO root@'{ports.HOST}' WITH GRANT OPTION;\n"
        f"CREATE USER {PLAIN}@'{ports.HOST}';\nGRANT SELECT ON {DATABASE}.* TO {PLAIN}@'{ports.HOST}';\n"
    )
    port = _free_port()
    argv = [
        *program.command(data),
        f"--port={port}",
        f"--bind-address={ports.HOST}",
        "--socket=",
        f"--pid-file={folder / 'pid'}",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
        f"--init-file={start}",
        *options,
    ]
    running = process.spawn(
        argv, environ={**site.environ, **program.environ, **(environ or {})}, cwd=folder, log=site.layout.log("mysql")
    )
    made = Server(folder, port)
    try:
        up = process.wait_until(made.accepts, seconds=60, stopping=lambda: running.poll() is not None)
        assert up, process.tail(site.layout.log("mysql"))
        yield made
    finally:
        process.end([running.pid], seconds=20)
        running.wait()


def _site(folder: Path) -> Site:
    made = layout.prepare(folder)
    nothing = layout.Secrets("", "", "", "")
    return Site(made, {}, nothing, dict(os.environ), lambda _: None, lambda: False)


def _program(site: Site) -> mysql.MariaDb:
    """MariaDB as the stack finds it."""
    for way in ("path", "debian"):
        try:
            return mysql._find(site, way)
        except LocalStackError:
            if way == "debian":
                raise
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((ports.HOST, 0))
        return int(free.getsockname()[1])
