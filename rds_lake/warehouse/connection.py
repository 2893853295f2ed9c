"""The connection to Redshift: statements with bound values, explicit transactions, errors turned into ours.

psycopg2 speaks to Redshift and, on a laptop, to the stand-in. It runs in autocommit, so that BEGIN and COMMIT stand
where they are written and nowhere else.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.settings import DatabaseUrl

CONNECT_TIMEOUT = 10
"""Seconds until a connection attempt is given up."""

_PASSING_CLASSES = {"08", "40", "53", "57"}  # connection, rollback by conflict, resources, operator intervention
_STOOD_STILL = errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT  # a transaction of ours kept others waiting
_STOOD = "due to idle-in-transaction timeout"  # the same, when the connection is found to be away
# Redshift's own numbers: serializable isolation violation; table made after the snapshot.
_PASSING = re.compile(r"\b(?:error|code):?\s*(?:1023|1018)\b", re.IGNORECASE)

_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)
"""What the driver raises without a code when the connection is away; or `DatabaseError` itself."""

STOOD_STILL = (
    "Nothing was changed. A session of ours stood still inside a transaction: see whether its machine was stopped, or "
    "had no time for it; then try again."
)
"""What to do when a server has ended a session that kept others waiting."""

_COLLISIONS = {
    errorcodes.DUPLICATE_TABLE,
    errorcodes.DUPLICATE_SCHEMA,
    errorcodes.DUPLICATE_OBJECT,
    errorcodes.DUPLICATE_COLUMN,
}
"""Of two sessions that create the same thing at once, `IF NOT EXISTS` or not, one may get these.

Or a unique violation of PostgreSQL's own catalog; one of any other table is about its rows.
"""

_DATA_CLASS = "22"
"""Errors over a value, which they tell."""

_VALUES = re.compile(r"""".*"|'.*'|(?:0x[0-9a-f]{2} ?)+""", re.DOTALL)


class CollisionError(TransientError):
    """Another session created the same thing at the same moment: now it exists."""


@dataclass(frozen=True)
class Whose:
    """Which database it is, for messages.

    Attributes:
        title: what it is called.
        variable: the environment variable that its address is from.
    """

    title: str
    variable: str


WAREHOUSE = Whose("warehouse", "RDS_LAKE_WAREHOUSE_URL")


def translate(error: psycopg2.Error, address: str, whose: Whose = WAREHOUSE) -> RdsLakeError:
    """The driver's error as ours, with a remedy; the address holds no password, the message no value of a row."""
    text, code = " ".join(str(error).split()), error.pgcode or ""
    problem = f"The {whose.title} at {address} says: {_said(error).rstrip('.')}."
    if code.startswith("28") or "password authentication failed" in text:
        return ConfigError(problem, f"Check the user and the password in {whose.variable}.")
    # While connecting the driver gives no code.
    if code == errorcodes.INVALID_CATALOG_NAME or re.search(r'FATAL: database ".*" does not exist', text):
        return ConfigError(problem, f"Correct the database in {whose.variable}.")
    if code in _COLLISIONS or (code == errorcodes.UNIQUE_VIOLATION and _is_of_catalog(error)):
        return CollisionError(problem, "Another session made the same at the same moment: try again.")
    is_lost = not code and (isinstance(error, _LOST) or type(error) is psycopg2.DatabaseError)
    if code[:2] in _PASSING_CLASSES or code == _STOOD_STILL or is_lost:
        is_idle = code == _STOOD_STILL or _STOOD in text
        up = f"Is the {whose.title} up and reachable? 'rds-lake status' shows the local one."
        return TransientError(problem, STOOD_STILL if is_idle else up)
    if _PASSING.search(text):
        return TransientError(problem, "Another transaction was in the way: try again.")
    return PermanentError(problem, "Nothing was changed: the transaction was rolled back.")


def _said(error: psycopg2.Error) -> str:
    """What a server says, without DETAIL, HINT and CONTEXT, which hold values of rows; all when no server says it."""
    known = error.diag
    if not known.message_primary:
        return " ".join(str(error).split())
    primary = known.message_primary
    if (error.pgcode or "").startswith(_DATA_CLASS) or "Value '" in primary:  # Redshift has other codes
        primary = _VALUES.sub("(a value)", primary)
    told = " ".join(primary.strip().splitlines()[:1]).rstrip(".")
    places = {"column": known.column_name, "constraint": known.constraint_name}
    more = [f"{what} {name}" for what, name in places.items() if name and name not in told]
    return f"{told} ({', '.join(more)})" if more else told


def _is_of_catalog(error: psycopg2.Error) -> bool:
    """Whether a unique violation is of the catalog: two sessions made the same thing."""
    known = error.diag
    return known.schema_name == "pg_catalog" or (known.constraint_name or "").startswith("pg_")


class Session:
    """One open connection."""

    def __init__(self, raw: connection, address: str, whose: Whose = WAREHOUSE) -> None:
        self._raw = raw
        self._address = address
        self._whose = whose
        self.statements: list[str] = []

    def execute(self, text: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; `%s` stands for a parameter, `%%` for a percent sign.

        Returns:
            The rows, none for a statement that returns no rows.
        """
        self.statements.append(text)
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(text, parameters)  # never None: a doubled percent sign stands for one in any statement
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            ours = self._translated(error)
        raise ours  # behind the handler, or it would bring the driver's text, with values, into logs

    def copy_in(self, text: str, content: IO[bytes]) -> None:
        """Run PostgreSQL's `COPY ... FROM STDIN` with some content; Redshift has none."""
        self.statements.append(text)
        try:
            with self._raw.cursor() as cursor:
                cursor.copy_expert(text, content)
                return
        except psycopg2.Error as error:
            ours = self._translated(error)
        raise ours

    def _translated(self, error: psycopg2.Error) -> RdsLakeError:
        return translate(error, self._address, self._whose)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN, and COMMIT at the end; ROLLBACK when an error passes through."""
        self.execute("BEGIN")
        try:
            yield
            self.execute("COMMIT")
        finally:
            if not self._raw.closed and self._raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                # Not rollback(), which does nothing in autocommit. A lost connection is rolled back by the server.
                with suppress(psycopg2.Error), self._raw.cursor() as cursor:
                    cursor.execute("ROLLBACK")


class Database:
    """A database that speaks PostgreSQL's protocol.

    Args:
        url: its address.
        whose: which one it is.
    """

    def __init__(self, url: DatabaseUrl, whose: Whose) -> None:
        self.url = url
        self._whose = whose

    @contextmanager
    def connect(self) -> Iterator[Session]:
        """A session, closed at the end.

        Raises:
            RdsLakeError: the database refuses, is not there, or goes away.
        """
        options: dict[str, Any] = dict(self.url.options)
        try:
            raw = psycopg2.connect(
                host=self.url.host,
                port=self.url.port,
                user=self.url.user,
                password=self.url.password,
                dbname=self.url.database,
                connect_timeout=CONNECT_TIMEOUT,
                application_name="rds_lake",
                keepalives_idle=30,
                **options,
            )
        except psycopg2.Error as error:
            raise translate(error, self.url.address, self._whose) from error
        raw.autocommit = True
        try:
            yield Session(raw, self.url.address, self._whose)
        finally:
            raw.close()

    def is_away(self) -> bool:
        """Whether it cannot be reached, so that nothing at all can be done with it now."""
        try:
            with self.connect() as session:
                session.execute("SELECT 1")
        except TransientError:
            return True
        return False


class Warehouse(Database):
    """The Redshift database that tables are kept in.

    Args:
        url: its address.
        iam_role: the role that COPY reads the lake with.
    """

    def __init__(self, url: DatabaseUrl, iam_role: str) -> None:
        super().__init__(url, WAREHOUSE)
        self.iam_role = iam_role
