"""The demo's source: invented orders and customers for MySQL, the same on every machine.

What is made is decided by arithmetic on PCG64's raw bits, which no version of numpy may change. Loading happens once:
a marker table remembers what was loaded, and whatever a user has changed since then stays. Some of it is bad on
purpose (misspelt, padded or missing statuses, doubled customers, ties in the cursor): that is what the pipeline is for.
"""

import csv
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pymysql
import pymysql.cursors

from rds_lake.errors import PermanentError
from rds_lake.extract.source import translate
from rds_lake.settings import DatabaseUrl

ORDERS: Final = 68_883
FIRST_DAY: Final = dt.date(2013, 7, 25)
DAYS: Final = 365
CUSTOMERS: Final = 12_435
DOUBLED_CUSTOMERS: Final = 36

# Per mille; what is left of 1,000 is COMPLETE.
STATUSES: Final = {
    "ON_HOLD": 55,
    "PAYMENT_REVIEW": 10,
    "PROCESSING": 120,
    "CLOSED": 110,
    "SUSPECTED_FRAUD": 22,
    "COMPLETE": 332,
    "PENDING": 110,
    "CANCELED": 20,
    "PENDING_PAYMENT": 221,
}
_INVALID_PER_MILLE: Final = 10
_INVALID: Final = (
    *("COMPLETED", "PENDNG_PAYMENT", "CANCELLED", "PROCESING", "ON HOLD"),  # misspelt
    *("complete", "Pending_Payment", "Closed", "cAnCeLeD"),  # wrong case
    *(" COMPLETE", "CLOSED ", "  PENDING  ", "PROCESSING\t"),  # padded
    *("", "", None, None),
)

TABLES: Final = {
    "order_status_lookup": "CREATE TABLE IF NOT EXISTS order_status_lookup (status_name VARCHAR(25) PRIMARY KEY)",
    "customers": (
        "CREATE TABLE IF NOT EXISTS customers (customer_id INT, customer_fname VARCHAR(45), "
        "customer_lname VARCHAR(45), customer_email VARCHAR(90), customer_street VARCHAR(255), "
        "customer_city VARCHAR(45), customer_state VARCHAR(45), customer_zipcode VARCHAR(45))"
    ),
    "orders": (
        "CREATE TABLE IF NOT EXISTS orders (order_id INT PRIMARY KEY, order_last_updated DATETIME, customer_id INT, "
        "order_status VARCHAR(25), INDEX orders_by_last_updated (order_last_updated))"
    ),
}
FETCH_DETAILS: Final = (
    "CREATE TABLE IF NOT EXISTS fetch_details (metadata_id INT AUTO_INCREMENT PRIMARY KEY, tablename VARCHAR(64), "
    "last_fetched DATETIME(6), updated_at DATETIME(6))"
)
_MARKER: Final = (
    "CREATE TABLE IF NOT EXISTS rds_lake_demo (tablename VARCHAR(64) PRIMARY KEY, content CHAR(64) NOT NULL)"
)
_CHARACTERS: Final = " DEFAULT CHARACTER SET utf8mb4"
_STATUS_LENGTH: Final = 25
_INT_RANGE: Final = range(-(2**31), 2**31)

_FIRST_NAMES: Final = (
    *("Mary", "Zoë", "José", "Aoife", "Björn", "Chloé", "D'Arcy", "Emma", "François", "Grete", "Håkon", "Inès"),
    *("Jürgen", "Kim", "Łukasz", "Mia", "Noor", "Olga", "Priya", "Quinn", "Renée", "Søren", "Tomáš", "Umar", "Vera"),
    *("Wei", "Ximena", "Yusuf", "Anna-Lena", "美咲"),
)
_LAST_NAMES: Final = (
    *("Smith", "O'Brien", "García", "Müller", "Nguyễn", "Østergård", "Kowalski", "D'Angelo", "Lefèvre", "Šimek"),
    *("van der Berg", "Johnson", "Çelik", "Ivanova", "Peña", "Sørensen", "Brown, Jr.", 'Lee "Ace"', "Hall", "Yilmaz"),
    *("Adeyemi", "Fernández", "Grünwald", "McAllister", "Þórsdóttir", "山田", "St. John", "Lindqvist", "Rossi"),
)
_STREETS: Final = (
    *("Elm Street", "O'Connell Road", "Rue de l'Église", "Harbour Lane", "Mühlgasse", "Sunny View", "Old Mill Way"),
    *("Quiet Grove", "Copper Heights", "Round Meadow", "Żabia", "Calle Nueva"),
)
_CITIES: Final = (
    *("Northfield", "São Bento", "Brookhaven", "Sainte-Claire", "Oakmont", "Nova Ves", "Riverton", "Altmünster"),
    *("Port Mary", "Silver Falls", "Córdoba", "East Hollow", "Fort Williams"),
)
_STATES: Final = ("TX", "CA", "NY", "FL", "PR", "IL", "OH", "WA", "NJ", "MI", "")

Value = int | str | None | dt.datetime
Row = tuple[Value, ...]


class Order(NamedTuple):
    """A row of `orders`."""

    order_id: int
    order_last_updated: dt.datetime
    customer_id: int
    order_status: str | None


@dataclass(frozen=True)
class TableSummary:
    """What became of one table."""

    table: str
    rows: int
    outcome: str  # "loaded", "replaced" or "kept"


class _Dice:
    """Numbers below a bound from raw bits: `below(n)` gives the next, for ever the same."""

    def __init__(self, seed: int, supply: int) -> None:
        raw = np.random.PCG64(seed).random_raw(supply)
        self._upcoming: Iterator[int] = iter((raw >> np.uint64(32)).tolist())

    def below(self, bound: int) -> int:
        return next(self._upcoming) * bound >> 32

    def one_of(self, values: Sequence[str]) -> str:
        return values[self.below(len(values))]


def orders() -> list[Order]:
    """The invented orders, by id: about 1 % with a status that is not valid, and many in the same second."""
    dice = _Dice(20130725, ORDERS * 8)
    per_mille = [name for name, share in STATUSES.items() for _ in range(share)]
    start = dt.datetime.combine(FIRST_DAY, dt.time())
    found: list[Order] = []
    second = 0
    for number in range(ORDERS):
        day = number * DAYS // ORDERS
        opens = day != (number - 1) * DAYS // ORDERS
        chance = dice.below(100)
        if opens or (second == day * 86_400 and chance < 60):
            second = day * 86_400  # a few orders of each day came at midnight exactly
        elif chance >= 25:  # a quarter shares its second with the one before
            left = max(1, (day + 1) * ORDERS // DAYS - number)
            second += dice.below(max(1, ((day + 1) * 86_400 - second) * 2 // (left + 1)))
        touched = second
        if dice.below(100) < 15:  # updated later, so that the cursor does not follow the key
            touched = min(second + dice.below(5 * 86_400), DAYS * 86_400 - 1)
        invalid = dice.below(1000) < _INVALID_PER_MILLE
        status = _INVALID[dice.below(len(_INVALID))] if invalid else dice.one_of(per_mille)
        found.append(Order(number + 1, start + dt.timedelta(seconds=touched), 1 + dice.below(CUSTOMERS), status))
    return found


def customers() -> list[Row]:
    """The invented customers; some rows come twice, as the table has no key."""
    dice = _Dice(12435, CUSTOMERS * 16)
    found: list[Row] = []
    for number in range(1, CUSTOMERS + 1):
        first, last = dice.one_of(_FIRST_NAMES), dice.one_of(_LAST_NAMES)
        email: str | None = f"customer.{number}@example.com"
        street = f"{1 + dice.below(9999)} {dice.one_of(_STREETS)}"
        kind = dice.below(100)
        if kind < 5:
            street += f", Apt {1 + dice.below(90)}"
        elif kind < 7:
            street = f'"The Old House"\n{street}'
        zipcode: str | None = f"{dice.below(100_000):05d}"
        gap = dice.below(100)
        if gap < 3:
            email = None
        elif gap < 5:
            email = ""
        elif gap < 7:
            zipcode = None
        city, state = dice.one_of(_CITIES), dice.one_of(_STATES)
        found.append((number, first, last, email, street, city, state, zipcode))
    step = CUSTOMERS // DOUBLED_CUSTOMERS
    return found + [found[number * step] for number in range(DOUBLED_CUSTOMERS)]


def read_orders(path: Path) -> list[Order]:
    """The orders of a CSV file without header: order_id,order_date,customer_id,order_status.

    Statuses are taken as they are, good or bad.

    Raises:
        PermanentError: a line is malformed; the message names file and line.
    """
    found: list[Order] = []
    lines: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                order = _order(fields, path, reader.line_num)
                if order.order_id in lines:
                    raise _malformed(
                        path, reader.line_num, f"order {order.order_id} is already in line {lines[order.order_id]}"
                    )
                lines[order.order_id] = reader.line_num
                found.append(order)
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}.", "Name a file that exists.") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1 if error.start else 1
        raise _malformed(path, line, "it is not UTF-8 from there on") from error
    except csv.Error as error:
        raise _malformed(path, reader.line_num, str(error)) from error
    if not found:
        raise PermanentError(f"{path} holds no order.", "Name a file with orders.")
    return found


def _malformed(path: Path, line: int, reason: str) -> PermanentError:
    return PermanentError(
        f"{path}, line {line}: {reason}.",
        "Each line must be order_id,order_date,customer_id,order_status, the date like 2013-07-25 00:00:00.0.",
    )


def _order(fields: Sequence[str], path: Path, line: int) -> Order:
    if len(fields) != len(Order._fields):
        raise _malformed(path, line, f"it has {len(fields)} fields, not {len(Order._fields)}")
    order_id, date, customer_id, status = fields
    numbers = []
    for name, text in (("order_id", order_id), ("customer_id", customer_id)):
        if not text.isascii() or not text.removeprefix("-").isdigit() or int(text) not in _INT_RANGE:
            raise _malformed(path, line, f"{name} '{text}' is not an integer of 4 bytes")
        numbers.append(int(text))
    if len(status) > _STATUS_LENGTH:
        raise _malformed(path, line, f"order_status '{status}' is longer than {_STATUS_LENGTH} characters")
    try:
        instant = dt.datetime.fromisoformat(date)
    except ValueError:
        raise _malformed(path, line, f"order_date '{date}' is not a date") from None
    if instant.tzinfo is not None or instant.microsecond:
        raise _malformed(path, line, f"order_date '{date}' has a zone or a fraction, and the column holds neither")
    return Order(numbers[0], instant, numbers[1], status)


def create(
    url: DatabaseUrl,
    *,
    orders_csv: Path | None = None,
    replace: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[TableSummary]:
    """Fill the MySQL source, or leave it alone if it is filled.

    Args:
        url: the source.
        orders_csv: a file of orders to load instead of the invented ones.
        replace: exchange the orders that are there, in one transaction.
        report: takes one line per table.

    Raises:
        PermanentError: the file is malformed, or `orders` is filled with something else and `replace` is not set.
        RdsLakeError: the source refuses, or does not answer. Nothing is loaded in part.
    """
    wanted = read_orders(orders_csv) if orders_csv else None
    try:
        with _connected(url) as connection, connection.cursor() as cursor:
            for statement in (_MARKER, FETCH_DETAILS, *TABLES.values()):
                cursor.execute(statement + _CHARACTERS)
            loader = _Loader(cursor)
            summaries = [
                loader.fill("order_status_lookup", lambda: [(status,) for status in STATUSES]),
                loader.fill("customers", customers),
                loader.orders(wanted, orders_csv, replace=replace),
            ]
            connection.commit()
    except pymysql.MySQLError as error:
        raise translate(error, url.address) from error
    for summary in summaries:
        report(f"{summary.table}: {summary.rows:,} rows {summary.outcome}")
    return summaries


def _connected(url: DatabaseUrl) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        host=url.host,
        port=url.port,
        user=url.user,
        password=url.password,
        database=url.database,
        charset="utf8mb4",
        connect_timeout=10,
        # Nothing may be cut or changed on its way into the tables, whatever the server's default.
        sql_mode="TRADITIONAL",
        init_command="SET time_zone = '+00:00'",
        autocommit=False,
    )


class _Loader:
    """Fills tables inside the caller's transaction, each one only once."""

    def __init__(self, cursor: pymysql.cursors.Cursor) -> None:
        self._cursor = cursor

    def fill(self, table: str, rows: Callable[[], Sequence[Row]]) -> TableSummary:
        """Fill a table that nobody has filled yet."""
        if not self._claim(table) or self._count(table):
            return self._kept(table)
        return self._load(table, rows(), "loaded")

    def orders(self, wanted: Sequence[Order] | None, source: Path | None, *, replace: bool) -> TableSummary:
        """Fill `orders`, from the file or with the invented ones, unless it holds other orders already."""
        fresh = self._claim("orders") and not self._count("orders")
        if fresh or replace:
            self._cursor.execute("DELETE FROM orders")
            return self._load("orders", wanted or orders(), "loaded" if fresh else "replaced")
        if wanted is not None and self._content("orders") != _digest(wanted):
            raise PermanentError(
                f"The table orders holds {self._count('orders'):,} rows that do not come from {source}.",
                "Ask for the replacement explicitly (--replace): it deletes all orders, also those that you changed.",
            )
        return self._kept("orders")

    def _claim(self, table: str) -> bool:
        """Whether this is the first load of the table; another one at the same time waits here for our end."""
        return bool(self._cursor.execute("INSERT IGNORE INTO rds_lake_demo VALUES (%s, '')", (table,)))

    def _content(self, table: str) -> str:
        self._cursor.execute("SELECT content FROM rds_lake_demo WHERE tablename = %s FOR UPDATE", (table,))
        row = self._cursor.fetchone()
        return str(row[0]) if row else ""

    def _count(self, table: str) -> int:
        self._cursor.execute(f"SELECT COUNT(*) FROM {table}")
        row = self._cursor.fetchone()
        return int(row[0]) if row else 0

    def _kept(self, table: str) -> TableSummary:
        return TableSummary(table, self._count(table), "kept")

    def _load(self, table: str, rows: Sequence[Row], outcome: str) -> TableSummary:
        marks = ", ".join(["%s"] * len(rows[0]))
        self._cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        self._cursor.execute("UPDATE rds_lake_demo SET content = %s WHERE tablename = %s", (_digest(rows), table))
        return TableSummary(table, len(rows), outcome)


def _digest(rows: Sequence[Row]) -> str:
    """What tells one content from another."""
    return hashlib.sha256("\n".join(repr(tuple(map(str, row))) for row in rows).encode()).hexdigest()
