"""Example files of each kind for the demo, invented: schema files, files for Redshift good and bad, transactions.

The rows are the same each time. Some are bad on purpose, so that the newcomer sees what becomes of them.
"""

import csv
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

CITIES = ("Oslo", "Malmö", "Århus", "Turku", "Gdańsk", "Kiel", "Rīga", "Tallinn")
KINDS = ("DEBIT", "CREDIT", "TRANSFER", "FEE")
FIRST = datetime(2026, 1, 1, 6, tzinfo=UTC)


@dataclass(frozen=True)
class DemoFile:
    """A file and where it is dropped; `table` and `action` are None for a feed."""

    name: str
    content: bytes
    database: str
    table: str | None = None
    action: str | None = None


def demo_files() -> Iterator[DemoFile]:
    """The files, in the order in which they are dropped."""
    yield DemoFile("suppliers.json", _schema(_SUPPLIERS, ["supplier_id"]), "supply", "suppliers", "schema")
    yield DemoFile("deliveries.json", _schema(_DELIVERIES), "supply", "deliveries", "schema")
    yield DemoFile("suppliers.csv", _csv(_suppliers()), "supply", "suppliers", "truncate")
    yield DemoFile("deliveries-january.csv", _csv(_deliveries(1, 2000)), "supply", "deliveries", "append")
    yield DemoFile("deliveries-february.csv", _csv(_deliveries(2001, 1500, bad=30)), "supply", "deliveries", "append")
    yield DemoFile("deliveries-lost.csv", _csv(_deliveries(9001, 20, bad=15)), "supply", "deliveries", "append")
    yield DemoFile("returns.csv", _csv([["return_id"], [1]]), "supply", "returns", "append")
    yield DemoFile("transactions.csv", _csv(_transactions(1000)), "transactions")


_SUPPLIERS: list[dict[str, object]] = [
    {"name": "supplier_id", "type": "integer", "nullable": False, "description": "Identifies a supplier"},
    {"name": "name", "type": "varchar(200)", "nullable": False},
    {"name": "city", "type": "varchar(100)"},
    {"name": "since", "type": "date"},
]
_DELIVERIES: list[dict[str, object]] = [
    {"name": "delivery_id", "type": "bigint", "nullable": False},
    {"name": "supplier_id", "type": "integer", "nullable": False},
    {"name": "arrived_at", "type": "timestamp"},
    {"name": "weight", "type": "decimal(10,3)", "description": "Kilograms"},
    {"name": "note", "type": "varchar(500)"},
]


def _schema(columns: Sequence[dict[str, object]], keys: Sequence[str] = ()) -> bytes:
    return json.dumps({"columns": columns, "keys": keys}, indent=1).encode()


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _suppliers() -> list[list[object]]:
    dice = random.Random(1)  # noqa: S311 - sample data
    rows: list[list[object]] = [["supplier_id", "name", "city", "since"]]
    rows += [
        [number, f"Supplier {number}, Ltd", dice.choice(CITIES), f"20{dice.randint(10, 25)}-0{dice.randint(1, 9)}-15"]
        for number in range(1, 101)
    ]
    return rows


def _deliveries(first: int, count: int, bad: int = 0) -> list[list[object]]:
    dice = random.Random(first)  # noqa: S311 - sample data
    rows: list[list[object]] = [["delivery_id", "supplier_id", "arrived_at", "weight", "note"]]
    for number in range(first, first + count):
        arrived = FIRST + timedelta(minutes=17 * number)
        weight = f"{dice.randint(1, 900_000) / 1000:.3f}"
        rows.append(
            [number, dice.randint(1, 100), f"{arrived:%Y-%m-%d %H:%M:%S}", weight, dice.choice(["", 'left, "outside"'])]
        )
    for row in dice.sample(rows[1:], bad):
        row[2:4] = dice.choice([["2026-02-30 10:00:00", row[3]], [row[2], "about 5 kg"], ["tomorrow", "n/a"]])
    return rows


def _transactions(count: int) -> list[list[object]]:
    dice = random.Random(7)  # noqa: S311 - sample data
    head = (
        "TransactionID,AccountNumber,CustomerID,TransactionDate,TransactionType,TransactionAmount,Currency,"
        "AccountBalance,BranchCode,MerchantCode,Description"
    )
    rows: list[list[object]] = [list(head.split(","))]
    for number in range(1, count + 1):
        date = (
            dice.choice(["2026-13-01", "", "yesterday"])
            if number % 97 == 0
            else f"{FIRST + timedelta(hours=number):%Y-%m-%d}"
        )
        rows.append(
            [
                *(
                    f"T{number:06d}",
                    f"ACC{dice.randint(1, 200):05d}",
                    "" if number % 53 == 0 else f"C{number % 400:04d}",
                ),
                *(date, dice.choice(KINDS), f"{dice.randint(1, 500_000) / 100:,.2f}", "EUR"),
                *(
                    f"{dice.randint(0, 9_000_000) / 100:,.2f}",
                    f"B{dice.randint(1, 9)}",
                    f"M{dice.randint(1, 50):03d}",
                    "",
                ),
            ]
        )
    return rows
