"""seekdb as a MySQL server on a TCP port: the last resort of `mysql.py`, run as a process of its own.

The wheel opens a database in a folder and listens on a Unix socket only; this module adds the user and a plain TCP
proxy. Nothing here knows the rest of the local stack: `python -m rds_lake.local.seekdb --data FOLDER --port PORT`,
with the user's password in SEEKDB_PASSWORD.
"""

import argparse
import asyncio
import contextlib
import os
import signal
from typing import Any

from rds_lake.local.layout import SOURCE_DATABASE, USER
from rds_lake.local.ports import HOST

CHUNK = 65_536
LOGIN_PREFIX = 32  # bytes before the user's name in a client's first packet: flags, sizes, character set, filler


def main() -> None:
    """Open the database, serve it until SIGTERM, close it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--port", type=int, required=True)
    words = parser.parse_args()
    import pylibseekdb

    instance = pylibseekdb.open(words.data)
    try:
        options = instance.connection_options()
        _make_user(options, os.environ["SEEKDB_PASSWORD"])
        asyncio.run(_serve(words.port, options["unix_socket"]))
    finally:
        instance.close()


def _make_user(options: dict[str, Any], password: str) -> None:
    import pymysql

    with pymysql.connect(**options) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {SOURCE_DATABASE}")
        cursor.execute(f"CREATE USER IF NOT EXISTS '{USER}'@'%%' IDENTIFIED BY %s", (password,))
        cursor.execute(f"ALTER USER '{USER}'@'%%' IDENTIFIED BY %s", (password,))
        cursor.execute(f"GRANT ALL ON {SOURCE_DATABASE}.* TO '{USER}'@'%'")
        cursor.execute(f"GRANT PROCESS ON *.* TO '{USER}'@'%'")
        cursor.execute("SET GLOBAL time_zone = '+00:00'")


async def _serve(port: int, path: str) -> None:
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(_copy_as_our_user(reader, inner_writer), _copy(inner_reader, writer))

    await asyncio.start_server(connected, HOST, port)
    await stop.wait()


async def _copy_as_our_user(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Let nobody but our user log in: root has no password, and seekdb does not open again when it is given one."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        header = await source.readexactly(4)
        login = await source.readexactly(int.from_bytes(header[:3], "little"))
        if login[LOGIN_PREFIX:].partition(b"\0")[0] == USER.encode():
            target.write(header + login)
            await _copy(source, target)
    target.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    target.close()


if __name__ == "__main__":
    main()
