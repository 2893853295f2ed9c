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
# Redshift's own numbers: serializable isolation violation; table made after the snapshot.
_PASSING = re.compile(r"\b(?:error|code):?\s*(?:1023|1018)\b", re.IGNORECASE)

_COLLISIONS = {
    errorcodes.UNIQUE_VIOLATION,
    errorcodes.DUPLICATE_TABLE,
    errorcodes.DUPLICATE_SCHEMA,
    errorcodes.DUPLICATE_OBJECT,
    errorcodes.DUPLICATE_COLUMN,
}
"""Of two sessions that create the same thing at once, `IF NOT EXISTS` or not, one may get these."""


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
    """The driver's error as ours, with a remedy; the address holds no password."""
    text = " ".join(str(error).split())
    problem = f"The {whose.title} at {address} says: {text}."
    code = error.pgcode or ""
    if code.startswith("28") or "password authentication failed" in text:
        return ConfigError(problem, f"Check the user and the password in {whose.variable}.")
    # While connecting the driver gives no code.
    if code == errorcodes.INVALID_CATALOG_NAME or re.search(r'FATAL: database ".*" does not exist', text):
        return ConfigError(problem, f"Correct the database in {whose.variable}.")
    if code in _COLLISIONS:
        return CollisionError(problem, "Another session made the same at the same moment: try again.")
    if code[:2] in _PASSING_CLASSES or (not code and isinstance(error, psycopg2.OperationalError)):
        return TransientError(problem, f"Is the {whose.title} up and reachable? 'rds-lake status' shows the local one.")
    if _PASSING.search(text):
        return TransientError(problem, "Another transaction was in the way: try again.")
    return PermanentError(problem, "Nothing was changed: the transaction was rolled back.")


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
            raise translate(error, self._address, self._whose) from error

    def copy_in(self, text: str, content: IO[bytes]) -> None:
        """Run PostgreSQL's `COPY ... FROM STDIN` with some content; Redshift has none."""
        self.statements.append(text)
        try:
            with self._raw.cursor() as cursor:
                cursor.copy_expert(text, content)
        except psycopg2.Error as error:
            raise translate(error, self._address, self._whose) from error

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


class Warehouse(Database):
    """The Redshift database that tables are kept in.

    Args:
        url: its address.
        iam_role: the role that COPY reads the lake with.
    """

    def __init__(self, url: DatabaseUrl, iam_role: str) -> None:
        super().__init__(url, WAREHOUSE)
        self.iam_role = iam_role
