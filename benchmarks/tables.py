"""The tables that are measured: what they look like at the source, how rows are made, and their YAML.

`orders` has the columns of the demo's table. Its cursor mostly follows its key: 15 of 100 orders were updated up to
five days later. Rows come from MariaDB's sequences, the quickest source of them, and are the same on every machine.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from rds_lake.extract.source import Source, query

DAYS = 365
START = datetime(2024, 1, 1)  # noqa: DTZ001 - the cursor's clock
END = START + timedelta(days=DAYS)
VALID = (
    *("CANCELED", "CLOSED", "COMPLETE", "ON_HOLD", "PAYMENT_REVIEW", "PENDING", "PENDING_PAYMENT", "PROCESSING"),
    "SUSPECTED_FRAUD",
)
_INVALID = "'COMPLETED', 'complete', ' CLOSED', '', NULL"
LOOKUP = "order_status_lookup"
CURSOR = "order_last_updated"
AT_ONCE = 1_000_000
"""Rows of one INSERT."""

_ORDERS = (
    "order_id INT NOT NULL, order_last_updated DATETIME NOT NULL, customer_id INT NOT NULL, order_status VARCHAR(25), "
    "PRIMARY KEY (order_id)"
)
_ORDERS_INDEX = "ADD INDEX by_last_updated (order_last_updated)"

WIDE: dict[str, tuple[str, str]] = {
    "id": ("INT PRIMARY KEY", "seq"),
    "tiny": ("TINYINT UNSIGNED", "IF(seq % 5 = 0, NULL, seq % 256)"),
    "flag": ("TINYINT(1)", "CAST(seq % 3 AS SIGNED) - 1"),
    "small": ("SMALLINT UNSIGNED", "IF(seq % 4 = 1, NULL, seq * 7 % 65536)"),
    "medium": ("MEDIUMINT UNSIGNED", "seq * 13 % 16777216"),
    "whole": ("INT UNSIGNED", "4294967295 - seq"),
    "big": ("BIGINT UNSIGNED", "IF(seq % 3 = 0, NULL, 18446744073709551615 - seq)"),
    "signed_big": ("BIGINT", "CAST(seq AS SIGNED) * 1000003 - 4611686018427387904"),
    "price": ("DECIMAL(10,2)", "seq * 37 % 10000000 / 100"),
    "rate": ("DECIMAL(18,6)", "IF(seq % 2 = 0, NULL, seq / 7)"),
    "amount": ("DECIMAL(38,10)", "CAST(seq AS DECIMAL(38,10)) * 1234567890123456789.0123456789"),
    "ratio": ("FLOAT", "seq / 3"),
    "score": ("DOUBLE", "IF(seq % 4 = 2, NULL, SQRT(seq))"),
    "born": ("DATE", "IF(seq % 6 = 0, NULL, '1950-01-01' + INTERVAL seq % 25000 DAY)"),
    "made": ("DATETIME", "'2024-01-01' + INTERVAL seq SECOND"),
    "changed": ("DATETIME(6)", "'2024-01-01 00:00:00.000000' + INTERVAL seq * 31557 MICROSECOND"),
    "seen": ("TIMESTAMP NULL", "IF(seq % 3 = 1, NULL, '2024-03-01' + INTERVAL seq SECOND)"),
    "lasted": ("TIME", "IF(seq % 7 = 0, NULL, SEC_TO_TIME(CAST(seq * 7919 % 6000000 AS SIGNED) - 3000000))"),
    "lasted_exactly": ("TIME(6)", "SEC_TO_TIME(seq % 86400 + seq % 1000000 / 1000000)"),
    "built": ("YEAR", "IF(seq % 8 = 0, NULL, 1950 + seq % 200)"),
    "code": ("CHAR(8)", "LPAD(HEX(seq), 8, '0')"),
    "name": ("VARCHAR(60)", "IF(seq % 5 = 1, NULL, CONCAT('Zoë Łukasz 美咲 ', seq))"),
    "latin": ("VARCHAR(60) CHARACTER SET latin1", "IF(seq % 5 = 2, NULL, CONCAT('Müller Peña ', seq % 997))"),
    "note": ("TEXT", "IF(seq % 2 = 1, NULL, REPEAT(CONCAT('line ', seq, '; '), seq % 6))"),
    "document": ("JSON", """IF(seq % 4 = 3, NULL, CONCAT('{"id": ', seq, ', "tags": ["a", "b"]}'))"""),
    "state": ("ENUM('new','open','won''t do','done')", "1 + seq % 4"),
    "options": ("SET('gift','express','insured')", "seq % 8"),
    "digest": ("BINARY(16)", "UNHEX(MD5(seq))"),
    "token": ("VARBINARY(32)", "IF(seq % 3 = 2, NULL, UNHEX(SHA1(seq)))"),
    "bits": ("BIT(8)", "IF(seq % 9 = 0, NULL, seq % 256)"),
}
"""The 30 columns of `wide`: type, and value of the row number `seq`. Many of them hold NULL in many rows."""


def orders_name(rows: int) -> str:
    """What the orders table of so many rows is called."""
    return f"orders_{rows}"


def changes_name(rows: int, number: int) -> str:
    """What the table is called that holds the changed orders of one merge."""
    return f"orders_{rows}_changes_{number}"


def wide_name(rows: int) -> str:
    """What the wide table of so many rows is called."""
    return f"wide_{rows}"


def make_orders(source: Source, rows: int) -> str:
    """Make the orders, unless they are there; returns the table's name."""
    moment = f"{_before_end(f'FLOOR(seq * {DAYS * 86_400} / {rows}) + {_later()}')}"
    select = f"seq + 1, {moment}, 1 + CRC32(CONCAT('c', seq)) % 12435, {_status()}"
    _make_lookup(source)
    return _make(source, orders_name(rows), _ORDERS, select, 0, rows, _ORDERS_INDEX)


def make_changes(source: Source, rows: int, changed: int, number: int) -> str:
    """Make a table of changed orders: every so-and-so-many-th one, written again in a month of its own after the last.

    Args:
        source: the source.
        rows: of the orders table.
        changed: how many of them.
        number: from 0; other numbers change other orders, in later months.
    """
    step = rows // changed
    first = f"'{END}' + INTERVAL {number} MONTH"
    select = f"seq * {step} + {number} + 1, {first} + INTERVAL seq SECOND, 1 + seq % 12435, {_valid_status()}"
    return _make(source, changes_name(rows, number), _ORDERS, select, 0, changed, _ORDERS_INDEX)


def make_wide(source: Source, rows: int) -> str:
    """Make the wide table, unless it is there; returns its name."""
    columns = ", ".join(f"`{name}` {kind}" for name, (kind, _) in WIDE.items())
    return _make(source, wide_name(rows), columns, ", ".join(value for _, value in WIDE.values()), 1, rows)


def count(source: Source, table: str) -> int:
    """How many rows a table has."""
    with source.connect() as connection:
        [(rows,)] = query(connection, f"SELECT COUNT(*) FROM `{table}`")
    return int(rows)


def orders_yaml(source_table: str, *, by: str | None = "day", table: str = "orders") -> dict[str, Any]:
    """The YAML of an orders table, as Python values.

    Args:
        source_table: its name at the source.
        by: the unit of its partitions; None for a table without a cursor, which is extracted in full.
        table: what it is called in the lake and in the warehouse.
    """
    cut: dict[str, Any] = (
        {} if by is None else {"cursor": {"column": CURSOR}, "partitions": {"by": by, "start": START.date()}}
    )
    return {
        "table": table,
        "source_table": source_table,
        "key": ["order_id"],
        **cut,
        "rules": [
            {
                "rule": "in_lookup",
                "name": "valid_status",
                "column": "order_status",
                "lookup_table": LOOKUP,
                "lookup_column": "status_name",
            }
        ],
        "warehouse": {"table": table, "distribution_key": "order_id"},
    }


def wide_yaml(source_table: str) -> dict[str, Any]:
    """The YAML of the wide table, as Python values."""
    return {"table": "wide", "source_table": source_table, "key": ["id"]}


def _later() -> str:
    return "IF(CRC32(CONCAT('l', seq)) % 100 < 15, CRC32(CONCAT('d', seq)) % 432000, 0)"


def _before_end(seconds: str) -> str:
    """The moment so many seconds after the start; at the latest the last second but one of the year."""
    return f"'{START}' + INTERVAL LEAST({seconds}, {DAYS * 86_400 - 2}) SECOND"


def _status() -> str:
    """One of a hundred is not valid."""
    chance = "CRC32(CONCAT('i', seq))"
    return f"IF({chance} % 100 = 0, ELT(1 + {chance} DIV 100 % 5, {_INVALID}), {_valid_status()})"


def _valid_status() -> str:
    names = ", ".join(f"'{name}'" for name in VALID)
    return f"ELT(1 + CRC32(CONCAT('s', seq)) % {len(VALID)}, {names})"


def _make_lookup(source: Source) -> None:
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {LOOKUP} (status_name VARCHAR(25) PRIMARY KEY)")
        cursor.executemany(f"INSERT IGNORE INTO {LOOKUP} VALUES (%s)", [(name,) for name in VALID])


def _make(source: Source, table: str, columns: str, select: str, first: int, rows: int, index: str = "") -> str:
    """Make a table under another name first, so that half of one is never taken for a table."""
    with source.connect() as connection, connection.cursor() as cursor:
        if cursor.execute(f"SHOW TABLES LIKE '{table}'"):
            return table
        cursor.execute(f"DROP TABLE IF EXISTS `{table}_new`")
        cursor.execute(f"CREATE TABLE `{table}_new` ({columns})")
        for low, high in _ranges(first, rows):
            cursor.execute(f"INSERT INTO `{table}_new` SELECT {select} FROM seq_{low}_to_{high}")
        if index:
            cursor.execute(f"ALTER TABLE `{table}_new` {index}")
        cursor.execute(f"ANALYZE TABLE `{table}_new`")
        cursor.execute(f"RENAME TABLE `{table}_new` TO `{table}`")
    return table


def _ranges(first: int, rows: int) -> Iterator[tuple[int, int]]:
    for low in range(first, first + rows, AT_ONCE):
        yield low, min(low + AT_ONCE, first + rows) - 1
