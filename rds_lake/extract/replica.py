"""Whether the source is a replica, and how far it is behind its primary.

A replica does not show the open transactions of its primary, so its fence keeps a fixed distance on top of its lag. A
replica that has stopped says nothing of what it lacks: that is an error, not an old but quiet answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pymysql
from pymysql.constants import ER
from pymysql.cursors import DictCursor

from rds_lake.errors import PermanentError
from rds_lake.extract.source import Connection, query

_REFUSED = {ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.ACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR}
_STATUS = ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")  # MySQL 8.0.22 knows the first, older ones only the second
_STATUS_MARIADB = ("SHOW ALL SLAVES STATUS",)  # of all its primaries

_LEFTOVER = (
    " This server takes writes: if it has become a primary itself, let it forget the old one (RESET REPLICA ALL; on "
    "RDS CALL mysql.rds_reset_external_master)."
)


@dataclass(frozen=True)
class Replication:
    """That the source is a replica.

    Attributes:
        lag: how far it says that it is behind its primary; None when the user may not ask.
    """

    lag: timedelta | None


def read_replication(connection: Connection) -> Replication | None:
    """Ask the source whether it is a replica; None for a primary.

    A user without the privilege to ask is told by whether the server takes writes: a replica that does cannot be told
    from a primary.

    Raises:
        PermanentError: it is a replica that has stopped.
        pymysql.MySQLError: the server could not be asked.
    """
    [(version, *closed)] = query(connection, "SELECT VERSION(), @@global.read_only, @@global.innodb_read_only")
    statements = _STATUS_MARIADB if "mariadb" in str(version).lower() else _STATUS
    channels, read_only = _ask(connection, statements), any(map(int, closed))
    if channels:
        return Replication(lag=max(channel_lag(channel, writable=not read_only) for channel in channels))
    return Replication(lag=None) if read_only else None


def _ask(connection: Connection, statements: tuple[str, ...]) -> list[dict[str, Any]]:
    """The status of each primary that is followed; none when there is none, or when the user may not know."""
    for statement in statements:
        try:
            with connection.cursor(DictCursor) as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            if error.args[0] in _REFUSED:
                return []
            if error.args[0] != ER.PARSE_ERROR:
                raise
    return []  # a server without MySQL's replication


def channel_lag(status: Mapping[str, Any], *, writable: bool = False) -> timedelta:
    """How far a replica is behind one of its primaries.

    Args:
        status: one row of its status, under MySQL's or MariaDB's names.
        writable: whether the server takes writes, as a replica that was made a primary does.

    Raises:
        PermanentError: it does not run, or does not know.
    """
    names = {key.lower().replace("replica_", "slave_").replace("_source", "_master"): key for key in status}

    def value(name: str) -> Any:  # noqa: ANN401 - whatever the server returns
        return status[names[name]] if name in names else None

    behind = value("seconds_behind_master")
    threads = {part: str(value(f"slave_{part}_running")) for part in ("io", "sql")}
    if behind is None or set(threads.values()) != {"Yes"}:
        errors = [f"{part.upper()} error {number}" for part in threads if (number := value(f"last_{part}_errno"))]
        raise PermanentError(
            "The source is a replica that does not follow its primary: IO thread "
            f"{threads['io']}, SQL thread {threads['sql']}" + "".join(f", {text}" for text in errors) + ".",
            "Start it again (START REPLICA; what it says of itself: SHOW REPLICA STATUS), or let RDS_LAKE_SOURCE_URL "
            "name the primary." + (_LEFTOVER if writable else ""),
        )
    return timedelta(seconds=max(0, int(behind), int(value("sql_delay") or 0)))
