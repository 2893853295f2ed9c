"""The fence: the instant below which no open transaction of the source can still write a cursor value.

Every read ends at the fence, so that a row that commits late lies above it and comes with the next read. The fence is
looked at first and the snapshot opened second: the other way round, a transaction could commit between the two and its
rows would be below the fence and outside the snapshot, lost for ever.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pymysql
from pymysql.constants import ER

from rds_lake.extract.source import Connection, query

SKEW = timedelta(seconds=2)
"""Distance kept from the oldest transaction: `trx_started` has whole seconds, and InnoDB refreshes the view behind
`innodb_trx` only every 0.1 s, so a younger transaction may not be listed yet."""

LAG_WITHOUT_PROCESS = timedelta(minutes=5)
"""Distance kept from now when the user lacks the PROCESS privilege and cannot see others' transactions."""

_OLDEST_TRANSACTION = (
    "SELECT MIN(trx_started) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()"
)
# A statement that waits for a metadata lock has fixed its NOW() but has no transaction yet.
_OLDEST_STATEMENT = (
    "SELECT MIN(NOW(6) - INTERVAL time SECOND) FROM information_schema.processlist "
    "WHERE command IN ('Query', 'Execute') AND id <> CONNECTION_ID()"
)


@dataclass(frozen=True)
class Fence:
    """The upper bound of a read.

    Attributes:
        at: the bound, UTC without zone.
        held_back_by: how far an open transaction or statement holds it behind the clock, zero if none does.
        sees_transactions: False when it is a fixed lag because the user lacks the PROCESS privilege.
    """

    at: datetime
    held_back_by: timedelta
    sees_transactions: bool


def decide(now: datetime, oldest_transaction: datetime | None, oldest_statement: datetime | None) -> Fence:
    """The fence for what the server shows; all times in UTC without zone."""
    oldest = min(moment for moment in (now, oldest_transaction, oldest_statement) if moment is not None)
    return Fence(at=oldest - SKEW, held_back_by=now - oldest, sees_transactions=True)


def read_fence(connection: Connection) -> Fence:
    """Look at the server's clock, open transactions and running statements, before the snapshot is opened.

    Raises:
        pymysql.MySQLError: the server could not be asked.
    """
    [(now,)] = query(connection, "SELECT NOW(6)")
    try:
        [(transaction,)] = query(connection, _OLDEST_TRANSACTION)
    except pymysql.MySQLError as error:
        if error.args[0] != ER.SPECIFIC_ACCESS_DENIED_ERROR:
            raise
        return Fence(at=now - LAG_WITHOUT_PROCESS, held_back_by=timedelta(), sees_transactions=False)
    [(statement,)] = query(connection, _OLDEST_STATEMENT)
    return decide(now, transaction, statement)
