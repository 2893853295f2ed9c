"""The fence: the instant below which no open transaction of the source can still write a cursor value.

Every read ends at the fence, so that a row that commits late lies above it and comes with the next read. Four looks,
and their order is what makes them safe: the clock, the running statements, the open transactions, and only then the
snapshot. Whatever was on its way when the clock was read is seen by one of the later looks, or has committed before
the snapshot and is in it. Any two of them swapped, and a row can slip through between them.

InnoDB shows its transactions from a copy that it renews only when nobody has looked at it for 0.1 s: a monitor that
asks more often keeps everybody at an old copy. A transaction of our own, begun just before, proves that the copy is
new, and that its times are the clock's.
"""

import random
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import pymysql
from pymysql.constants import ER

from rds_lake.errors import PermanentError, TransientError
from rds_lake.extract.replica import Replication, read_replication
from rds_lake.extract.source import Connection, query

SKEW = timedelta(seconds=2)
"""Distance kept from the oldest writer: a statement's age is told in whole seconds, rounded down, and `trx_started` has
whole seconds too."""

LAG = timedelta(seconds=300)
"""Distance kept from now where open transactions cannot be seen, unless the table's YAML says `cursor.lag_seconds`."""

CLOCKS_AGREE = timedelta(seconds=2)
"""How far the start of our own transaction may be from the clock that was read just before."""

PATIENCE = 8
"""How often InnoDB's copy of its transactions is asked for before it is taken for kept old by somebody else."""

REPORTED = timedelta(seconds=60)
"""A fence held back further than this is worth a line of its own."""

# Neither has run a statement of its own: replication is asked about by itself, the other has not even logged in.
_NOBODY = frozenset({"system user", "unauthenticated user"})
# Threads that run no statement. Not a list of those that do: an event's statement has the command 'Connect'.
_IDLE = frozenset(
    {"Sleep", "Daemon", "Binlog Dump", "Binlog Dump GTID", "Group Replication", "Slave_IO", "Slave_SQL", "Slave_worker"}
)

_THREADS = "SELECT id, user, host, command, time FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
# The text of our own statement only: it holds the mark by which a new copy is told from an old one.
_TRANSACTIONS = (
    "SELECT trx_mysql_thread_id, trx_started, trx_is_read_only, trx_autocommit_non_locking, "
    "trx_mysql_thread_id = CONNECTION_ID() AND INSTR(COALESCE(trx_query, ''), %s) > 0 "
    "FROM information_schema.innodb_trx"
)
_WITHOUT_INNODB = "oceanbase"  # seekdb: its innodb_trx always has one made-up row
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


@dataclass(frozen=True)
class Writer:
    """Somebody who may still write a cursor value that lies in the past. Never the statement's text: it may hold data.

    Attributes:
        kind: an open transaction, or a statement that runs.
        thread: the server's number of the connection; 0 when the transaction has lost it (prepared, XA).
        since: when it began, UTC without zone.
        account: user and host, as far as they are known.
    """

    kind: Literal["transaction", "statement"]
    thread: int
    since: datetime
    account: str | None = None

    def __str__(self) -> str:
        """Who it is, in words."""
        if not self.thread:
            return f"a transaction without a connection (prepared: see XA RECOVER), since {self.since:%F %T} UTC"
        who = f"{self.account}, " if self.account else ""
        return f"a {self.kind} of {who}connection {self.thread}, since {self.since:%F %T} UTC"


@dataclass(frozen=True)
class Fence:
    """The upper bound of a read.

    Attributes:
        at: the bound, UTC without zone.
        held_back_by: how far an open transaction or statement holds it behind the clock, zero if none does.
        sees_transactions: False when it is a fixed lag: the user lacks the PROCESS privilege, or it is a replica.
        held_by: which one holds it back.
        replica_lag: how far a replica says that it is behind its primary; None for a primary.
    """

    at: datetime
    held_back_by: timedelta
    sees_transactions: bool
    held_by: Writer | None = None
    replica_lag: timedelta | None = None

    def holder(self) -> str | None:
        """What holds it back, how far and since when, in words; None when nothing does."""
        if self.held_by is None or self.held_back_by < timedelta(seconds=1):
            return None
        return f"the fence is {_whole(self.held_back_by)} behind the clock, held by {self.held_by}"

    def story(self) -> list[str]:
        """What a person should know of it, one line each."""
        lines = [f"{holder[0].upper()}{holder[1:]}."] if (holder := self.holder()) else []
        if self.replica_lag is not None:
            lines.append(
                f"The source is a replica, {_whole(self.replica_lag)} behind its primary, whose open transactions it "
                "does not show: the fence keeps cursor.lag_seconds more."
            )
        elif not self.sees_transactions:
            lines.append(
                "The source does not show its open transactions: the fence is cursor.lag_seconds behind the clock. "
                "Grant PROCESS, and on a replica REPLICATION CLIENT, for a tighter one."
            )
        return lines


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))


def decide(now: datetime, writers: Iterable[Writer]) -> Fence:
    """The fence of a primary whose writers are all known; all times in UTC without zone."""
    oldest = min(writers, key=lambda writer: writer.since, default=None)
    if oldest is None or oldest.since >= now:
        return Fence(at=now - SKEW, held_back_by=timedelta(), sees_transactions=True)
    return Fence(oldest.since - SKEW, held_back_by=now - oldest.since, sees_transactions=True, held_by=oldest)


def decide_unseen(now: datetime, lag: timedelta, replication: Replication | None = None) -> Fence:
    """The fence where open transactions cannot be seen: a fixed lag, on a replica in addition to its own."""
    behind = replication.lag if replication else None
    return Fence(
        at=now - lag - (behind or timedelta()),
        held_back_by=timedelta(),
        sees_transactions=False,
        replica_lag=behind,
    )


class Thread(NamedTuple):
    """A connection, as the process list shows it."""

    id: int
    user: str
    host: str | None
    command: str
    seconds: int | None

    @property
    def account(self) -> str:
        """User and host, without the client's port."""
        return f"{self.user}@{(self.host or '').rpartition(':')[0] or self.host or '?'}"

    @property
    def runs(self) -> bool:
        """Whether it runs a statement."""
        return self.command not in _IDLE and self.user not in _NOBODY and self.seconds is not None


class Transaction(NamedTuple):
    """An open transaction, as InnoDB shows it."""

    thread: int
    started: datetime
    read_only: bool
    autocommit: bool

    @property
    def cannot_write(self) -> bool:
        """Whether it was begun as READ ONLY: no statement in it can write, nor any function that it calls."""
        return self.read_only and not self.autocommit


def writers(now: datetime, threads: Iterable[Thread], transactions: Iterable[Transaction]) -> list[Writer]:
    """Who may still write a cursor value before `now`.

    Args:
        now: the server's clock, read before the other two.
        threads: all other connections, read before the transactions.
        transactions: all other open transactions.
    """
    known = {thread.id: thread for thread in threads}
    open_now = list(transactions)
    readers = {item.thread for item in open_now if item.cannot_write}
    return [
        *(
            Writer(
                "transaction", item.thread, item.started, known[item.thread].account if item.thread in known else None
            )
            for item in open_now
            if not item.cannot_write
        ),
        *(
            Writer("statement", thread.id, now - timedelta(seconds=max(0, thread.seconds or 0)), thread.account)
            for thread in known.values()
            if thread.runs and thread.id not in readers
        ),
    ]


def read_fence(connection: Connection, lag: timedelta = LAG) -> Fence:
    """Look at the server's clock, running statements and open transactions, before the snapshot is opened.

    Args:
        connection: a connection outside any transaction.
        lag: the distance from now where open transactions cannot be seen.

    Raises:
        PermanentError: the source is a replica that has stopped, or its clocks do not agree.
        TransientError: the list of open transactions is kept old by somebody who reads it all the time.
        pymysql.MySQLError: the server could not be asked.
    """
    [(now, me, version)] = query(connection, "SELECT NOW(6), CONNECTION_ID(), VERSION()")
    replication = read_replication(connection)
    if replication is not None or _WITHOUT_INNODB in str(version).lower():
        return decide_unseen(now, lag, replication)
    threads = [Thread(*row) for row in query(connection, _THREADS)]
    try:
        own, begun, others = _fresh_transactions(connection, me)
    except pymysql.MySQLError as error:
        if error.args[0] != ER.SPECIFIC_ACCESS_DENIED_ERROR:
            raise
        return decide_unseen(now, lag)
    check_clocks(now, own.started, begun)
    return decide(now, writers(now, threads, others))


def check_clocks(before: datetime, started: datetime, after: datetime) -> None:
    """See that InnoDB's times are the clock's.

    Args:
        before: the clock, read before our own transaction began.
        started: when that transaction began, as InnoDB shows it.
        after: the clock, read after it had begun.

    Raises:
        PermanentError: they differ: InnoDB writes in the zone of the server's operating system.
    """
    leeway = CLOCKS_AGREE + timedelta(seconds=1)  # InnoDB shows whole seconds
    if not before - leeway <= started <= after + leeway:
        raise PermanentError(
            f"The source shows a transaction that began just now as begun at {started:%F %T}, while its clock in UTC "
            f"says {before:%F %T}: where open transactions end cannot be told.",
            "Run the MySQL server with its operating system's time zone set to UTC (TZ=UTC; RDS does), or take PROCESS "
            "from the user, so that reads end cursor.lag_seconds before now.",
        )


def _fresh_transactions(connection: Connection, me: int) -> tuple[Transaction, datetime, list[Transaction]]:
    """Our own transaction, begun by this call, the clock after that, and all transactions that began before."""
    mark = secrets.token_hex(8)
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN)
        try:
            [(begun,)] = query(connection, "SELECT NOW(6)")
            for attempt in range(PATIENCE):
                rows = query(connection, _TRANSACTIONS, (mark,))
                if own := [Transaction(*row) for *row, is_marked in rows if is_marked]:
                    return own[0], begun, [Transaction(*row) for *row, _ in rows if row[0] != me]
                # The server waits, not we: a copy that somebody else has made meanwhile shows the mark as well. Never
                # in step with another reader that waits like this.
                query(connection, "SELECT SLEEP(%s), %s", (random.uniform(0.11, 0.2) * 1.3**attempt, mark))  # noqa: S311
        finally:
            cursor.execute("COMMIT")
    raise TransientError(
        f"The source's list of open transactions was {PATIENCE} times too old to be used: somebody reads "
        "information_schema.innodb_trx more often than every 0.1 s, and InnoDB does not renew it meanwhile.",
        "Find the monitor that does, and let it look less often; a read like this one is tried again by itself.",
    )
