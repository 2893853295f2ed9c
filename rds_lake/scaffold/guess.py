"""What names and values tell of a column: whether it may be the cursor, in which unit, whether it is personal data.

Pure, and never certain. The hard part is the cursor: a column that looks like one but is not set on every update would
hide edits, so each candidate says whether it sees them.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from rds_lake.extract.profile import ColumnProfile, Span, TableProfile
from rds_lake.partitions import Unit

Epoch = Literal["s", "ms", "us"]
"""The unit of a number that counts from 1970-01-01 00:00 UTC."""

FEWEST_ROWS = 1_000
"""Rows that a partition should hold: below it the files are many and small."""

MOST_ROWS = 5_000_000
"""Rows that a partition should not exceed: it is what is read again when one row of it changes."""

MOST_PARTITIONS = 5_000
"""Partitions that Dagster still shows well."""

DAYS: dict[Unit, float] = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30.4}
"""Length of the units, about."""

EPOCH_RANGE = (datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""Seconds since 1970 that an integer may stand for when its newest value is to be a recent time."""

PER_SECOND: dict[Epoch, int] = {"s": 1, "ms": 1_000, "us": 1_000_000}

TIMES = frozenset({"datetime", "timestamp"})
UPDATE_WORDS = frozenset({"updated", "update", "modified", "changed", "change", "edited", "touched", "mtime"})
CREATE_WORDS = frozenset(
    {"created", "create", "creation", "inserted", "added", "registered", "logged", "recorded", "occurred", "ctime"}
)
NO_TIME_WORDS = frozenset({"by", "count", "user", "version", "is", "id"})

CONTACT_WORDS = frozenset(
    {"email", "mail", "phone", "mobile", "telephone", "fax", "street", "address", "zip", "zipcode", "postcode"}
)
PERSON_WORDS = frozenset(
    {"iban", "ssn", "passport", "birth", "birthday", "birthdate", "dob", "surname", "lastname", "firstname", "fname"}
)
PERSONAL_PHRASES = (
    "first name",
    "last name",
    "full name",
    "family name",
    "given name",
    "maiden name",
    "e mail",
    "postal code",
    "post code",
    "zip code",
    "tax id",
    "tax number",
    "card number",
    "account number",
    "social security",
)


@dataclass(frozen=True)
class Candidate:
    """A column that may be the cursor.

    Attributes:
        column: the column.
        reason: why, for the comment.
        sees_edits: whether an update of a row is likely to set it.
    """

    column: ColumnProfile
    reason: str
    sees_edits: bool = True


@dataclass(frozen=True)
class Extent:
    """The time that a candidate's values cover, and their unit if they are numbers."""

    first: datetime
    last: datetime
    epoch: Epoch | None = None


def words(name: str) -> list[str]:
    """The words of a column's name: `lastUpdatedAt` and `last_updated_at` have the same."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def looks_personal(name: str) -> bool:
    """Whether a column's name looks like that of personal data."""
    found = words(name)
    text = f" {' '.join(found)} "
    return bool((CONTACT_WORDS | PERSON_WORDS) & set(found)) or any(
        f" {phrase} " in text for phrase in PERSONAL_PHRASES
    )


def candidates(table: TableProfile) -> list[Candidate]:
    """The columns that may be the cursor, the likeliest first."""
    found: list[tuple[int, Candidate]] = []
    for column in table.columns:
        rank = _rank(column)
        if rank is not None:
            place, reason = rank
            found.append((place, Candidate(column, reason, sees_edits=place < 10)))
    return [candidate for _, candidate in sorted(found, key=lambda item: item[0])]


def _rank(column: ColumnProfile) -> tuple[int, str] | None:
    """How likely a column is the cursor (0 is the likeliest, 10 and more: it does not see edits), and why."""
    is_time, is_date, is_integer = column.kind in TIMES, column.kind == "date", column.kind in {"int", "bigint"}
    if column.sets_itself and is_time:
        return 0, f"The server sets {column.name} on every update (ON UPDATE CURRENT_TIMESTAMP)."
    if not (is_time or is_date or is_integer) or NO_TIME_WORDS & set(words(column.name)):
        return None
    place = 0 if is_time else 2 if is_date else 1
    if _is_update_name(column.name):
        why = "is set on every insert and update; the source does not enforce it"
        return 1 + place, f"confirm: by its name, {column.name} {why}."
    if CREATE_WORDS & set(words(column.name)):
        return 10 + place, f"By its name, {column.name} is set on insert only."
    return None


def _is_update_name(name: str) -> bool:
    joined = "".join(words(name))
    return bool(UPDATE_WORDS & set(words(name))) or any(stem in joined for stem in ("lastupd", "updated", "modif"))


def epoch_unit(value: int) -> Epoch | None:
    """The unit in which a number is a time of our days, if there is one."""
    low, high = EPOCH_RANGE
    return next((unit for unit, factor in PER_SECOND.items() if low * factor <= value < high * factor), None)


def settle(candidate: Candidate, span: Span) -> Extent | None:
    """The time that a candidate's values cover, or None if it cannot be the cursor after all.

    A column without any value can be one when it holds dates or times; an integer must show that it counts time.
    """
    if candidate.column.kind in {*TIMES, "date"}:
        return Extent(span.first or span.now, span.last or span.now)
    if span.last is None or (unit := epoch_unit(int(span.last))) is None:
        return None
    return Extent(_since_1970(int(span.first), unit), _since_1970(int(span.last), unit), unit)


def _since_1970(value: int, unit: Epoch) -> datetime:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value * PER_SECOND["us"] // PER_SECOND[unit])
    return moment.replace(tzinfo=None)


def choose_unit(rows: int, extent: Extent, now: datetime) -> Unit:
    """The shortest window, from a day on, that holds enough rows; an hour where a day would hold too many.

    Args:
        rows: about how many rows there are.
        extent: the time that they cover.
        now: partitions are counted up to here, whether they have rows or not.
    """
    age = max((now - extent.first) / timedelta(days=1), 0)
    days = max((min(extent.last, now) - extent.first) / timedelta(days=1), 1)
    units: tuple[Unit, ...] = ("day", "week")
    if rows / days > MOST_ROWS and age / DAYS["hour"] <= MOST_PARTITIONS:
        return "hour"
    for unit in units:
        if age / DAYS[unit] <= MOST_PARTITIONS and rows * DAYS[unit] / days >= FEWEST_ROWS:
            return unit
    return "month"
