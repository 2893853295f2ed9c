"""A ferry line in fifteen related tables: keys, cursors and types of many kinds.

The rows are the same each time, but that their first day is the Monday four weeks ago.

`TABLES` says of each what `rds-lake tables add` proposes and what a person has to add to it, and why. `CHANGES` is one
round of inserts, updates and deletes that touches every table.
"""

import json
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

Row = tuple[Any, ...]

TODAY = datetime.combine(datetime.now(UTC), datetime.min.time())
FIRST_DAY = TODAY - timedelta(days=TODAY.weekday() + 28)
DAYS = 14
BERLIN = ZoneInfo("Europe/Berlin")


@dataclass(frozen=True)
class FerryTable:
    """One table.

    Attributes:
        source: its name in MySQL.
        columns: its columns and keys, as DDL.
        proposed: the keys that `tables add` proposes, as YAML; descriptions and the like left out.
        options: what was said to `tables add`.
        by_hand: what a person adds or changes, as YAML.
        why: why.
    """

    source: str
    columns: str
    proposed: str
    options: tuple[str, ...] = ()
    by_hand: str = ""
    why: str = ""


def dated(text: str) -> str:
    """A text with its days filled in: `{day0}` is the first one; `{berlin}` is a present time in Berlin."""
    days = {f"{{day{number}}}": f"{FIRST_DAY + timedelta(days=number):%Y-%m-%d}" for number in (0, 2, 3, 12)}
    for name, value in {**days, "{berlin}": f"'{now_in_berlin()}'"}.items():
        text = text.replace(name, value)
    return text


TABLES: dict[str, FerryTable] = {
    "port": FerryTable(
        "port",
        "code CHAR(5) PRIMARY KEY COMMENT 'Country and place', name VARCHAR(60) NOT NULL COMMENT 'As signs spell it', "
        "opened YEAR, longest_wait TIME, depth FLOAT, berths TINYINT UNSIGNED, has_ramp BIT(1), note TINYTEXT",
        "{key: [code]}",
    ),
    "vessel": FerryTable(
        "vessel",
        "vessel_id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, sister_id INT UNSIGNED, name VARCHAR(40) NOT NULL, "
        "class ENUM('catamaran', 'ro-ro', 'it''s rented', ''), equipment SET('bar', 'lift', 'wifi', 'kennel'), "
        "flags BIT(12), displacement DECIMAL(30,10), built YEAR, top_speed FLOAT, "
        "updated_at TIMESTAMP(6) NOT NULL DEFAULT NOW(6) ON UPDATE NOW(6), INDEX (updated_at), "
        "FOREIGN KEY (sister_id) REFERENCES vessel (vessel_id)",
        "{key: [vessel_id], cursor: {column: updated_at}, partitions: {by: month, start: {day0}}}",
    ),
    "Route": FerryTable(
        "Route",
        "`from` CHAR(5) NOT NULL, `to` CHAR(5) NOT NULL, `order` SMALLINT NOT NULL, `key` VARCHAR(20) NOT NULL, "
        "distance DECIMAL(7,3), changed_on DATE NOT NULL, PRIMARY KEY (`from`, `to`), INDEX (changed_on), "
        "FOREIGN KEY (`from`) REFERENCES port (code), FOREIGN KEY (`to`) REFERENCES port (code)",
        "{key: [from, to], cursor: {column: changed_on}, partitions: {by: week, start: {day0}}}",
        options=("--by", "week"),
    ),
    "sailing": FerryTable(
        "sailing",
        "sail_date DATE NOT NULL, `from` CHAR(5) NOT NULL, `to` CHAR(5) NOT NULL, run TINYINT NOT NULL, "
        "vessel_id INT UNSIGNED, departs TIME NOT NULL, delay_minutes SMALLINT, last_updated DATETIME NOT NULL, "
        "PRIMARY KEY (sail_date, `from`, `to`, run), INDEX (last_updated), "
        "FOREIGN KEY (`from`, `to`) REFERENCES Route (`from`, `to`), "
        "FOREIGN KEY (vessel_id) REFERENCES vessel (vessel_id)",
        "{key: [sail_date, from, to, run], cursor: {column: last_updated}, partitions: {by: day, start: {day0}}}",
        options=("--by", "day"),
        by_hand="{cursor: {timezone: Europe/Berlin}}",
        why="The application writes wall-clock time of Berlin; a DATETIME does not say so.",
    ),
    "passenger": FerryTable(
        "passenger",
        "passenger_id BINARY(16) PRIMARY KEY, full_name VARCHAR(80) NOT NULL, email VARCHAR(120), phone CHAR(20), "
        "born DATE, prefs JSON, deleted_at DATETIME, "
        "modified TIMESTAMP NOT NULL DEFAULT NOW() ON UPDATE NOW(), INDEX (modified)",
        "{key: [passenger_id], cursor: {column: modified}, partitions: {by: week, start: {day0}}}",
        options=("--by", "week"),
    ),
    "booking": FerryTable(
        "booking",
        "booking_no BIGINT UNSIGNED PRIMARY KEY, passenger_id BINARY(16) NOT NULL, sail_date DATE NOT NULL, "
        "`from` CHAR(5) NOT NULL, `to` CHAR(5) NOT NULL, run TINYINT NOT NULL, price DECIMAL(10,2) NOT NULL, "
        "currency CHAR(3) NOT NULL, state ENUM('held', 'paid', 'void') NOT NULL, updated_at DATETIME(6) NOT NULL, "
        "INDEX (updated_at), FOREIGN KEY (passenger_id) REFERENCES passenger (passenger_id), "
        "FOREIGN KEY (sail_date, `from`, `to`, run) REFERENCES sailing (sail_date, `from`, `to`, run)",
        "{key: [booking_no], cursor: {column: updated_at}, partitions: {by: hour, start: {day12}}}",
        options=("--by", "hour"),
    ),
    "booking_guests": FerryTable(
        "booking guests",
        "`Booking No` BIGINT UNSIGNED NOT NULL, guest BINARY(16) NOT NULL, seat VARCHAR(5), "
        "`Changed At` TIMESTAMP(3) NOT NULL DEFAULT NOW(3) ON UPDATE NOW(3), PRIMARY KEY (`Booking No`, guest), "
        "FOREIGN KEY (`Booking No`) REFERENCES booking (booking_no), "
        "FOREIGN KEY (guest) REFERENCES passenger (passenger_id)",
        "{key: [Booking No, guest], cursor: {column: Changed At}, "
        "partitions: {by: week, start: {day12}, column: changed_at_week}}",
    ),
    "vehicle": FerryTable(
        "vehicle",
        "plate VARCHAR(12) PRIMARY KEY, owner BINARY(16), length_m DOUBLE, kind ENUM('bike', 'car', 'lorry') NOT NULL, "
        "modified_at DATETIME, INDEX (modified_at), FOREIGN KEY (owner) REFERENCES passenger (passenger_id)",
        "{key: [plate], cursor: {column: modified_at}, partitions: {by: month, start: {day0}}}",
    ),
    "gate_scan": FerryTable(
        "gate_scan",
        "scan_code VARCHAR(20) NOT NULL, booking_no BIGINT UNSIGNED, raw VARBINARY(40), updated_ms BIGINT NOT NULL, "
        "UNIQUE (scan_code), INDEX (updated_ms), FOREIGN KEY (booking_no) REFERENCES booking (booking_no)",
        "{key: [scan_code], cursor: {column: updated_ms, epoch: ms}, partitions: {by: week, start: {day12}}}",
    ),
    "crew": FerryTable(
        "crew",
        "crew_no INT PRIMARY KEY, reports_to INT, first_name VARCHAR(40), `select` VARCHAR(40), iban VARCHAR(34), "
        "salary DECIMAL(12,4), last_change DATETIME(3) NOT NULL, INDEX (last_change), "
        "FOREIGN KEY (reports_to) REFERENCES crew (crew_no)",
        "{key: [crew_no], cursor: {column: last_change}, partitions: {by: month, start: {day2}}}",
    ),
    "duty": FerryTable(
        "duty",
        "crew_no INT NOT NULL, sail_date DATE NOT NULL, `from` CHAR(5) NOT NULL, `to` CHAR(5) NOT NULL, "
        "run TINYINT NOT NULL, starts TIME(3) NOT NULL, job MEDIUMINT UNSIGNED, "
        "PRIMARY KEY (crew_no, sail_date, `from`, `to`, run), FOREIGN KEY (crew_no) REFERENCES crew (crew_no), "
        "FOREIGN KEY (sail_date, `from`, `to`, run) REFERENCES sailing (sail_date, `from`, `to`, run)",
        "{key: [crew_no, sail_date, from, to, run]}",
    ),
    "tariff": FerryTable(
        "tariff",
        "`from` CHAR(5) NOT NULL, `to` CHAR(5) NOT NULL, code VARCHAR(8) NOT NULL, "
        "tariff_no SMALLINT UNSIGNED NOT NULL, price DECIMAL(65,30) NOT NULL, created_at DATETIME NOT NULL, "
        "UNIQUE (`from`, `to`, code), UNIQUE (tariff_no), "
        "FOREIGN KEY (`from`, `to`) REFERENCES Route (`from`, `to`)",
        "{key: [tariff_no]}",
    ),
    "tide_reading": FerryTable(
        "tide_reading",
        "port CHAR(5) NOT NULL, recorded_at DATETIME(6) NOT NULL, level FLOAT, raw DOUBLE, INDEX (recorded_at), "
        "FOREIGN KEY (port) REFERENCES port (code)",
        "{}",
        by_hand="{cursor: {column: recorded_at}, partitions: {by: hour, start: {day12}}}",
        why="Readings are never edited, which the schema does not say; so the time of insertion can be the cursor.",
    ),
    "document": FerryTable(
        "document",
        "doc BIGINT PRIMARY KEY, port CHAR(5), title VARCHAR(100) NOT NULL, body MEDIUMTEXT, scan BLOB, meta JSON, "
        '`Käse "x" 100%s` VARCHAR(40), is_public BOOLEAN, updatedAt TIMESTAMP(6) NULL, INDEX (updatedAt), '
        "FOREIGN KEY (port) REFERENCES port (code)",
        "{key: [doc], cursor: {column: updatedAt}, partitions: {by: month, start: {day0}}}",
    ),
    "ledger_entry": FerryTable(
        "ledger_entry",
        "`period` MEDIUMINT UNSIGNED NOT NULL, `entry no` INT NOT NULL, booking_no BIGINT UNSIGNED, "
        "amount DECIMAL(38,10) NOT NULL, void TINYINT(1) NOT NULL, memo VARCHAR(60), "
        "lastModified DATETIME(3) NOT NULL, PRIMARY KEY (`period`, `entry no`), INDEX (lastModified), "
        "FOREIGN KEY (booking_no) REFERENCES booking (booking_no)",
        "{key: [period, entry no], cursor: {column: lastModified}, partitions: {by: month, start: {day0}}}",
    ),
}

PORTS = ("DEKEL", "DKGED", "SEGOT", "NOOSL", "EETLL", "FIHEL")
ROUTES = [(a, b) for a in PORTS for b in PORTS if a < b][:8]
TEXTS = (
    "plain",
    "Zoë 🚢⚓",
    "quote \" and ' back\\slash",
    "",
    None,
    "tab\tline\nend\r",
    "NULL",
    "\\N",
    "  blanks  ",
    "日本",
)


def now_in_berlin() -> datetime:
    """Ten minutes ago on a clock in Berlin: after the clock in UTC."""
    return datetime.now(UTC).astimezone(BERLIN).replace(tzinfo=None, microsecond=0) - timedelta(minutes=10)


def ferry_rows() -> Iterator[tuple[str, Sequence[Row]]]:
    """The rows of each table, parents first."""
    dice = random.Random(15)
    moments = [
        FIRST_DAY + timedelta(days=day, seconds=dice.randrange(86_400)) for day in range(DAYS) for _ in range(40)
    ]
    people = [uuid.UUID(int=dice.getrandbits(128)).bytes for _ in range(300)]
    sailings = [
        ((FIRST_DAY + timedelta(days=day)).date(), *route, run)
        for day in range(DAYS)
        for route in ROUTES
        for run in (1, 2, 3)
    ]
    bookings = [2**64 - 1 - number * 7 for number in range(500)]
    crew = range(101, 141)

    def text(number: int) -> str | None:
        return TEXTS[number % len(TEXTS)]

    def micro(number: int) -> datetime:
        """A moment within two days, to the microsecond, with ties."""
        return FIRST_DAY + timedelta(days=12, minutes=number // 3 * 5 % 2880, microseconds=number // 3 * 7919 % 10**6)

    yield (
        "port",
        [
            (
                code,
                f"Hafen {text(n)}",
                1901 + 25 * n,
                ("838:59:59", "-00:45:00", None)[n % 3],
                9.1 + n / 10,
                250 + n,
                n % 2,
                text(n),
            )
            for n, code in enumerate(PORTS)
        ],
    )
    yield "port", [("FIEMP", "leer", None, None, None, None, None, None)]
    yield (
        "vessel",
        [
            (
                *(
                    n,
                    n - 1 if n % 4 == 0 else None,
                    f"Fähre {n}",
                    ("catamaran", "ro-ro", "it's rented", "", None)[n % 5],
                ),
                *(
                    ("bar,wifi", "", "kennel,bar,lift", None)[n % 4],
                    n * 101 % 4096,
                    Decimal("98765432109876543210.0123456789") / n,
                ),
                *(None if n % 7 == 0 else 1950 + n, 12345.678 * n, moments[n * 13] + timedelta(microseconds=n)),
            )
            for n in range(1, 31)
        ],
    )
    yield (
        "Route",
        [
            (
                *route,
                -n,
                ("select", "Käse", "a,b", "")[n % 4],
                Decimal(n) / 7,
                (FIRST_DAY + timedelta(days=n * 2)).date(),
            )
            for n, route in enumerate(ROUTES)
        ],
    )
    yield "Route", [("FIHEL", "DEKEL", 99, "unused", None, FIRST_DAY.date())]
    yield (
        "sailing",
        [
            (*key, n % 30 + 1, f"{n % 24:02}:30:00", None if n % 3 else n % 90 - 10, moments[n])
            for n, key in enumerate(sailings)
        ]
        + [(date(2027, 1, 1), *ROUTES[0], 1, 1, "23:59:59", None, now_in_berlin())],
    )
    yield (
        "passenger",
        [
            (
                *(
                    person,
                    f"{text(n) or 'Ada'} {n}",
                    f"p{n}@example.com" if n % 5 else None,
                    f"+49 {n}" if n % 3 else None,
                ),
                *(date(1900 + n % 120, n % 12 + 1, n % 28 + 1) if n % 9 else None, preferences(n)),
                *(moments[n] + timedelta(days=1) if n % 11 == 0 else None, moments[n]),
            )
            for n, person in enumerate(people)
        ],
    )
    yield (
        "booking",
        [
            (
                number,
                people[n % 300],
                *sailings[n % 336],
                Decimal(n * 37 % 9999) / 100,
                "EUR",
                ("held", "paid", "void")[n % 3],
                micro(n),
            )
            for n, number in enumerate(bookings)
        ],
    )
    yield (
        "booking guests",
        [
            (
                number,
                people[(n * 5 + guest) % 300],
                text(n)[:5] if text(n) else None,
                micro(n).replace(microsecond=n % 1000 * 1000),
            )
            for n, number in enumerate(bookings)
            for guest in range(n % 3)
        ],
    )
    yield (
        "vehicle",
        [
            (
                f"KI {n}é",
                people[n] if n % 4 else None,
                n / 3,
                ("bike", "car", "lorry")[n % 3],
                None if n % 5 == 0 else moments[n],
            )
            for n in range(120)
        ],
    )
    yield (
        "gate_scan",
        [
            (
                f"s-{n:05}",
                bookings[n] if n % 3 else None,
                bytes([0, n % 256, 255]) * (n % 5),
                since_1970(micro(n)) * 1000 + n % 1000,
            )
            for n in range(400)
        ],
    )
    yield (
        "crew",
        [
            (
                *(number, 101 if number > 101 else None, text(number), text(number + 3), f"DE{number:020}"),
                *(Decimal(number * 12345) / 1000, moments[number] + timedelta(milliseconds=number)),
            )
            for number in crew
        ],
    )
    yield (
        "duty",
        [(crew[n % 40], *sailings[n], f"{n % 48:02}:15:00.{n % 1000:03}", n * 45_000 % 2**24) for n in range(336)],
    )
    yield (
        "tariff",
        [
            (
                *route,
                f"T{n}",
                60_000 + number * 10 + n,
                Decimal(10) ** (number * 4) + Decimal(1) / Decimal(2) ** 30,
                moments[n],
            )
            for number, route in enumerate(ROUTES)
            for n in range(5)
        ],
    )
    yield (
        "tide_reading",
        [(PORTS[n % 6], micro(n // 2), None if n % 50 == 0 else (n % 400 - 200) / 10, n / 7) for n in range(600)]
        + [(PORTS[0], micro(1), 1.5, 0.25)] * 3,
    )
    yield (
        "document",
        [
            (
                *(
                    n - 50,
                    PORTS[n % 6] if n % 2 else None,
                    f"{text(n)} {n}",
                    (text(n) or "") * n,
                    bytes(range(256)) * (n % 4),
                ),
                *(preferences(n), text(n), n % 2, moments[n * 5] + timedelta(microseconds=n * 997 % 10**6)),
            )
            for n in range(100)
        ],
    )
    yield (
        "ledger_entry",
        [
            (
                *(
                    202_600 + n % 9,
                    n,
                    bookings[n] if n % 2 else None,
                    Decimal((-1) ** n) * (Decimal(10) ** (n % 27) + Decimal("1E-10")),
                ),
                *(n % 7 == 0, text(n), moments[n] + timedelta(milliseconds=n)),
            )
            for n in range(400)
        ],
    )


def preferences(number: int) -> str | None:
    """A JSON text."""
    found = (
        None,
        {},
        {"meal": "fish 🐟", "seats": [1, 2.5, None]},
        [True, 'a"b'],
        "text",
        None,
        {"deep": {"er": -0.0}},
    )
    chosen = found[number % len(found)]
    return "null" if number % 13 == 0 else None if chosen is None else json.dumps(chosen, ensure_ascii=number % 2 == 0)


def since_1970(moment: datetime) -> int:
    """Seconds since 1970, of a moment in UTC."""
    return int(moment.replace(tzinfo=UTC).timestamp())


NEW = "0123456789ABCDEF0123456789ABCDEF"

BOOKED = (
    "SELECT `Booking No` FROM `booking guests` UNION SELECT booking_no FROM gate_scan WHERE booking_no IS NOT NULL "
    "UNION SELECT booking_no FROM ledger_entry WHERE booking_no IS NOT NULL"
)
TRAVELLING = (
    "SELECT passenger_id FROM booking UNION SELECT guest FROM `booking guests` "
    "UNION SELECT owner FROM vehicle WHERE owner IS NOT NULL"
)

CHANGES: tuple[str, ...] = (
    # Inserts, parents first.
    "INSERT INTO port VALUES ('SEXXX', 'Neu 🚢', 2155, '00:00:01', 0.3, 0, b'1', '')",
    "INSERT INTO vessel (vessel_id, name, displacement) VALUES (4000000000, 'Neu', 0.0000000001)",
    "INSERT INTO Route VALUES ('SEXXX', 'DEKEL', 1, 'neu', 0.001, UTC_DATE())",
    "INSERT INTO sailing VALUES ('2027-02-28', 'SEXXX', 'DEKEL', 127, 4000000000, '00:00', -5, {berlin})",
    f"INSERT INTO passenger (passenger_id, full_name) VALUES (X'{NEW}', 'Neu')",
    f"INSERT INTO booking VALUES (0, X'{NEW}', '2027-02-28', 'SEXXX', 'DEKEL', 127, 0, 'SEK', 'held', NOW(6))",
    f"INSERT INTO `booking guests` (`Booking No`, guest) VALUES (0, X'{NEW}')",
    f"INSERT INTO vehicle VALUES ('neu', X'{NEW}', 1e-300, 'car', NULL), ('Neu2', NULL, -1e300, 'car', NOW())",
    "INSERT INTO gate_scan VALUES ('neu', 0, X'00', UNIX_TIMESTAMP(NOW(3)) * 1000)",
    "INSERT INTO crew VALUES (-1, 101, NULL, '', NULL, -99999999.9999, NOW(3))",
    "INSERT INTO duty VALUES (-1, '2027-02-28', 'SEXXX', 'DEKEL', 127, '-838:59:58.999', 0)",
    "INSERT INTO tariff VALUES ('SEXXX', 'DEKEL', 'neu', 1, -0.000000000000000000000000000001, NOW())",
    "INSERT INTO tide_reading VALUES ('SEXXX', NOW(6), 1e-30, 0.1)",
    "INSERT INTO document (doc, title, scan, updatedAt) VALUES (-9223372036854775808, '🚢', X'FF00', NOW(6))",
    "INSERT INTO ledger_entry VALUES (0, 0, 0, -9999999999999999999999999999.9999999999, 1, NULL, NOW(3))",
    # Updates; a cursor that the server does not set is set by the application.
    "UPDATE port SET depth = 12.7, note = 'dredged' WHERE code = 'DEKEL'",
    "UPDATE vessel SET equipment = 'kennel', sister_id = 4000000000 WHERE vessel_id IN (2, 3)",
    "UPDATE Route SET distance = 1.5, changed_on = UTC_DATE() WHERE `order` = -2",
    "UPDATE sailing SET delay_minutes = 600, last_updated = {berlin} WHERE sail_date = '{day3}' AND run = 2",
    "UPDATE passenger SET deleted_at = NOW() WHERE full_name LIKE '%7'",
    "UPDATE booking SET state = 'void', updated_at = NOW(6) WHERE booking_no % 50 = 1",
    "UPDATE `booking guests` SET seat = '🚢' WHERE seat IS NULL",
    "UPDATE vehicle SET length_m = 4.2, modified_at = NOW() WHERE plate IN ('KI 5é', 'KI 6é')",
    "UPDATE gate_scan SET raw = NULL, updated_ms = UNIX_TIMESTAMP(NOW(3)) * 1000 WHERE scan_code < 's-00010'",
    "UPDATE crew SET reports_to = 102, last_change = NOW(3) WHERE crew_no > 130",
    "UPDATE duty SET job = 16777215 WHERE crew_no = 101",
    "UPDATE tariff SET price = price + 0.000000000000000000000000000001 WHERE code = 'T1'",
    "UPDATE document SET body = NULL, updatedAt = NOW(6) WHERE doc BETWEEN 0 AND 5",
    "UPDATE ledger_entry SET void = 1, lastModified = NOW(3) WHERE `entry no` IN (1, 2, 3)",
    # Deletes, children first; keys that change.
    "DELETE FROM ledger_entry WHERE `entry no` BETWEEN 20 AND 25",
    "DELETE FROM document WHERE doc = -50",
    "DELETE FROM tide_reading WHERE recorded_at < '{day12} 00:30' AND level < -5",
    "DELETE FROM tariff WHERE code = 'T2'",
    "DELETE FROM duty WHERE crew_no = 105",
    "DELETE FROM gate_scan WHERE scan_code LIKE '%99'",
    "UPDATE gate_scan SET scan_code = 'renamed' WHERE scan_code = 's-00050'",
    "DELETE FROM vehicle WHERE kind = 'bike'",
    "UPDATE vehicle SET plate = 'changed', modified_at = NOW() WHERE plate = 'KI 7é'",
    "DELETE FROM `booking guests` WHERE `Booking No` % 20 = 1",
    f"DELETE FROM booking WHERE booking_no NOT IN ({BOOKED})",
    "DELETE FROM crew WHERE crew_no = 105",
    "DELETE FROM sailing WHERE sail_date = '2027-01-01'",
    f"DELETE FROM passenger WHERE passenger_id NOT IN ({TRAVELLING})",
    "UPDATE sailing SET vessel_id = NULL, last_updated = {berlin} WHERE vessel_id = 30",
    "DELETE FROM vessel WHERE vessel_id = 30",
    "DELETE FROM Route WHERE `from` = 'FIHEL' AND `to` = 'DEKEL'",
    "DELETE FROM port WHERE code = 'FIEMP'",
)
