"""The MySQL source: connections, what its tables look like, and the small reads and writes around an extraction.

A connection speaks UTC and utf8mb4, in an SQL mode that bends no value, and turns the driver's errors into ours. Rows
in bulk are `snapshot`'s business.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.cursors import Cursor

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, SpecError, TransientError
from rds_lake.extract.compression import CompressedSocket
from rds_lake.extract.reader import MisfitError, read_all
from rds_lake.extract.types import Column, map_type, type_row, ways
from rds_lake.extract.values import checksummed, expression
from rds_lake.settings import DatabaseUrl
from rds_lake.sql import quote

if TYPE_CHECKING:
    Connection = pymysql.connections.Connection[Cursor]
else:
    Connection = pymysql.connections.Connection


CONNECT_TIMEOUT = 10
"""Seconds until a connection attempt is given up."""

READ_TIMEOUT = 3600
"""Seconds that one answer of the source may take: longer than any honest query, shorter than for ever."""

SQL_MODE = "STRICT_TRANS_TABLES"
"""The mode of our sessions, whatever the server's default is: another one may bend what is read (pad a CHAR to its full
length) or asked (take texts in double quotes for names, an empty text for NULL). This one cuts nothing that is written.
"""

MOST_ROWS = 2**63 - 1
"""Rows of one answer, the most that every server takes as `sql_select_limit`: its default may be a limit that cuts."""

_COLUMNS = (
    "SELECT column_name, column_type, is_nullable, character_set_name, generation_expression "
    "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s "
)

_UNIQUE = (
    "SELECT s.index_name, s.column_name, s.nullable FROM information_schema.statistics AS s "
    "JOIN information_schema.tables AS t ON t.table_schema = s.table_schema AND t.table_name = s.table_name "
    "LEFT JOIN information_schema.engines AS e ON e.engine = t.engine "
    "WHERE s.table_schema = %s AND s.table_name = %s AND t.table_schema = %s AND t.table_name = %s "
    "AND s.non_unique = 0 AND COALESCE(e.transactions, 'YES') <> 'NO'"
)
"""Unique indexes; none of an engine without snapshots (MyISAM): a row that moves while it is read may come twice."""

_ACCESS = {ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR}
_UNKNOWN = {ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.BAD_DB_ERROR}
_PRIVILEGE = {ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR}
_ALTERED = 1412
"""`Table definition has changed`: the table was altered after the snapshot that reads it was opened."""

_ENDED = {1317, 1969, 3024}
"""A statement was ended from outside: by KILL QUERY, or by a limit of its time (MariaDB's and MySQL's)."""

_PASSING = {*_ENDED, _ALTERED, ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.CON_COUNT_ERROR, 2002, 2003, 2006, 2013}


@cache
def _unverified() -> ssl.SSLContext:
    """TLS for a server whose certificate nobody asked to verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _QuickConnection(Connection):
    """The driver's connection, compressed if it is asked for.

    Without `ssl_ca` the driver would read all of the system's authorities, 35 ms, to use none.
    """

    def _request_authentication(self) -> None:
        driver: Any = self  # what is used here is not in its typed interface
        inherited: Any = super()
        inherited._request_authentication()
        if driver.client_flag & driver.server_capabilities & CLIENT.COMPRESS:
            driver._sock = CompressedSocket(driver._sock, driver._rfile)
            driver._rfile = driver._sock.file

    def _create_ssl_ctx(self, given: Any) -> ssl.SSLContext:  # noqa: ANN401 - the driver's own hook
        return given if isinstance(given, ssl.SSLContext) else _unverified()


@dataclass(frozen=True)
class SourceTable:
    """What the source says of one of its tables.

    Attributes:
        name: the table's name.
        columns: its columns in the source's order.
        unique_keys: column sets that the source itself keeps unique in whatever is read from one snapshot (primary key
            and unique indexes without NULL).
    """

    name: str
    columns: tuple[Column, ...]
    unique_keys: tuple[frozenset[str], ...]

    def is_unique(self, columns: tuple[str, ...]) -> bool:
        """Whether the source keeps these columns' values unique together."""
        return any(key <= set(columns) for key in self.unique_keys)


@dataclass(frozen=True)
class Whose:
    """A connection as the server itself sees it, behind whatever stands between.

    Attributes:
        server: what names the server.
        number: the connection's number there.
    """

    server: tuple[str, int]
    number: int

    @classmethod
    def of(cls, connection: Connection) -> "Whose | None":
        """That of a connection; None if the server has no such variables."""
        try:
            [(name, port, number)] = query(connection, "SELECT @@hostname, @@port, CONNECTION_ID()")
        except pymysql.MySQLError:
            return None
        return cls((str(name), int(port)), int(number))


def translate(error: pymysql.MySQLError, address: str) -> RdsLakeError:
    """The driver's error as ours, with a remedy; the address holds no password."""
    code, text = (error.args[0], str(error.args[1])) if len(error.args) > 1 else (0, str(error))
    problem = f"MySQL at {address} says: {text} ({code})."
    if code in _ACCESS:
        return ConfigError(problem, "Check the user and the password in RDS_LAKE_SOURCE_URL.")
    if code in _UNKNOWN:
        return SpecError(problem, "Correct the name in the table's defs.yaml or in RDS_LAKE_SOURCE_URL.")
    if code in _PRIVILEGE:
        return PermanentError(problem, "Grant the user of RDS_LAKE_SOURCE_URL what the README's configuration lists.")
    if code in _PASSING:
        return TransientError(problem, "Is the server up and reachable? 'rds-lake status' shows the local one.")
    return PermanentError(problem, "Look the number up in MySQL's error reference.")


class Source:
    """The MySQL database that tables are read from."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url

    @contextmanager
    def connect(self, patience: int = READ_TIMEOUT) -> Iterator[Connection]:
        """A connection in UTC, utf8mb4 and autocommit, in modes of its own, closed at the end.

        Args:
            patience: seconds that one answer may take.

        Raises:
            RdsLakeError: the server refuses, is not there, or goes away.
        """
        try:
            connection = self._open(patience)
        except pymysql.MySQLError as error:
            raise translate(error, self.url.address) from error
        try:
            yield connection
        except BaseException as error:
            # Not close(): in the middle of a stream that would first read the rest of the rows.
            connection._force_close()  # type: ignore[attr-defined]
            if isinstance(error, pymysql.MySQLError):
                raise translate(error, self.url.address) from error
            raise
        connection.close()

    def _open(self, patience: int) -> Connection:
        options = dict(self.url.options)
        authority = options.pop("ssl_ca", None)
        compress = options.pop("compress", "false")
        if compress not in {"true", "false"}:
            raise ConfigError(
                f"RDS_LAKE_SOURCE_URL has compress={compress}.", "Give compress=true or compress=false, or take it out."
            )
        if options:
            raise ConfigError(
                f"RDS_LAKE_SOURCE_URL has the option '{min(options)}', which is not known.",
                "Take it out. For TLS with a verified server give ssl_ca=<file of the authority's certificate>, for a "
                "compressed connection compress=true.",
            )
        if authority and not Path(authority).is_file():
            raise ConfigError(
                f"The ssl_ca file '{authority}' of RDS_LAKE_SOURCE_URL is not there.", "Correct its path."
            )
        return _QuickConnection(
            host=self.url.host,
            port=self.url.port,
            user=self.url.user,
            password=self.url.password,
            database=self.url.database,
            charset="utf8mb4",
            autocommit=True,
            client_flag=CLIENT.COMPRESS if compress == "true" else 0,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=patience,
            ssl=ssl.create_default_context(cafile=authority) if authority else None,
            # A slow bucket holds the reader back; the server must not take that for a client that is gone.
            init_command=f"SET time_zone='+00:00', net_write_timeout={READ_TIMEOUT}, sql_mode='{SQL_MODE}', "
            f"sql_select_limit={MOST_ROWS}",
        )

    def end_statement(self, whose: "Whose") -> None:
        """Have the server end the statement of another connection of ours, which nobody waits for any more.

        Until it has rows to send it would not notice that nobody is there: a sort may take minutes. Nothing is done if
        the source's address leads to another server this time, where the number is that of somebody else's.

        Args:
            whose: whose statement it is.

        Raises:
            RdsLakeError: the server cannot be reached, or the statement has ended by itself.
        """
        with self.connect(CONNECT_TIMEOUT) as other:
            here = Whose.of(other)
            if here is not None and replace(here, number=whose.number) == whose:
                query(other, f"KILL QUERY {whose.number}")

    def describe(self, table: str) -> SourceTable:
        """The columns and unique keys of a table.

        Raises:
            SpecError: the database has no such table, or the user may not see it.
        """
        with self.connect() as connection:
            columns = query(connection, f"{_COLUMNS} ORDER BY ordinal_position", (self.url.database, table))
            if not columns:
                raise SpecError(
                    f"MySQL at {self.url.address} has no table '{table}' that the user '{self.url.user}' can see.",
                    "Correct 'table' (or 'source_table') in the table's defs.yaml, or grant SELECT on it.",
                )
            keys = query(connection, _UNIQUE, (self.url.database, table) * 2)
        unique: dict[str, set[str]] = {}
        for index, column, _ in keys:
            unique.setdefault(index, set()).add(column)
        with_null = {index for index, _, nullable in keys if nullable == "YES"}
        return SourceTable(
            name=table,
            columns=tuple(_column(*row) for row in columns),
            unique_keys=tuple(frozenset(names) for index, names in unique.items() if index not in with_null),
        )

    def lookup(self, table: str, column: str) -> pa.Table:
        """The distinct values of a lookup table's column, NULL left out, in a fixed order.

        Returns:
            Two columns: `value`, carried as a landed column of that type is, NULL where it cannot be carried whole (no
            landed row has it); and `text`, what it is in a column that is carried as text.

        Raises:
            SpecError: the table is empty, which would discard every row; it is not there, or cannot be carried.
        """
        name, place = quote(column, "mysql"), quote(table, "mysql")
        with self.connect() as connection:
            found = query(connection, f"{_COLUMNS} AND column_name = %s", (self.url.database, table, column))
            if not found:
                query(connection, f"SELECT {name} FROM {place} LIMIT 0")  # the server's own words
                raise SpecError(
                    f"The type of '{column}' in the lookup table '{table}' is not to be seen.", "Grant SELECT on it."
                )
            own, text = _lookup_forms(_column(*found[0]))
            # By its bytes too: any collation of MySQL's, even a binary one, takes texts for equal that differ in
            # padding. CAST stands outside: what it makes of a decimal, MariaDB cuts when it keeps it for a while.
            asked = (
                f"SELECT {expression(own)}, {expression(text)} FROM (SELECT {name} FROM {place} "
                f"WHERE {name} IS NOT NULL GROUP BY {name}, CAST({checksummed(own)} AS BINARY)) AS distinct_values"
            )
            try:
                values = read_all(connection, (replace(own, name="value"), replace(text, name="text")), asked)
            except MisfitError as error:
                raise SpecError(
                    f"The lookup table '{table}' holds a value in '{column}' that cannot be carried whole.",
                    "Correct it at the source, or take the in_lookup rule out of the table's defs.yaml.",
                ) from error
        if not values.num_rows:
            raise SpecError(
                f"The lookup table '{table}' has no value in '{column}': every row would be discarded.",
                "Fill it, or take the in_lookup rule out of the table's defs.yaml.",
            )
        return values.sort_by("text")

    def append_fetch_details(self, log: str, table: str, last_fetched: datetime) -> None:
        """Append one row to the source's own log of extractions.

        Args:
            log: the log's table, with the columns tablename, last_fetched and updated_at.
            table: the table that was extracted.
            last_fetched: the fence up to which it was read, UTC.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {quote(log, 'mysql')} (tablename, last_fetched, updated_at) VALUES (%s, %s, NOW(6))",
                (table, last_fetched),
            )


def query(connection: Connection, text: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a small query."""
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return list(cursor.fetchall())


def _column(name: str, kind: str | bytes, nullable: str, charset: str | None, expression: str | bytes | None) -> Column:
    return Column(name, _text(kind), nullable == "YES", charset=charset, generated=_text(expression or ""))


def _lookup_forms(column: Column) -> tuple[Column, Column]:
    """A lookup's column as its own type, or as text if it has none, without what cannot be carried; and as text."""
    text = replace(column, as_="string")
    map_type(column.type, column=column.name, as_="string")  # refuses a type that is in no table
    if type_row(column.type).becomes is None:
        return text, text
    own = replace(column, as_="null") if "null" in ways(column.type) else column
    return own, own if own.mapped.arrow == pa.string() else text


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
