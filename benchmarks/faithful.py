"""Whether values arrived as they are: a Parquet file against the source, read row by row with the plain driver.

It is generous: a value may come in any type and form that keeps what it says (a TIME as a text, a duration or
microseconds, bytes as bytes, a text for a number). A column is named when a value says something else.
"""

from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.scene import Scene

SAMPLE = 20_000
"""Rows that are compared: those with the lowest keys, which hold every form of value that the table has."""

TINY = Decimal("1e-5")
"""How far a FLOAT or DOUBLE may be from the text that MySQL shows, relative to it: it shows six digits of a FLOAT."""


def bent_columns(scene: Scene, table: str, file: Path, key: str = "id") -> list[str]:
    """The columns of which at least one value did not arrive as it is, or which did not arrive at all."""
    with scene.source.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM `{table}` ORDER BY `{key}` LIMIT {SAMPLE}")
        names = [each[0] for each in cursor.description or ()]
        given = list(zip(*cursor.fetchall(), strict=True))
    got = pq.read_table(file, filters=pc.field(key) <= SAMPLE).sort_by(key)
    return list(_bent(names, given, got))


def _bent(names: list[str], given: list[tuple[Any, ...]], got: Any) -> Iterator[str]:  # noqa: ANN401 - an Arrow table
    for name, values in zip(names, given, strict=True):
        if name not in got.column_names or not all(map(same, values, got[name].to_pylist())):
            yield name


def same(given: object, got: object) -> bool:
    """Whether two values say the same."""
    if given is None or got is None:
        return given is got
    for kind, compare in _KINDS:
        if isinstance(given, kind):
            return compare(given, got)
    return given == got or str(given) == str(got)


def _same_number(given: Any, got: object) -> bool:  # noqa: ANN401 - a number of some kind
    found = _number(got)
    if found is None:
        return False
    wanted = Decimal(str(given))
    return found == wanted or (isinstance(given, float) and abs(found - wanted) <= abs(wanted) * TINY)


def _number(value: object) -> Decimal | None:
    if isinstance(value, bytes | bytearray):
        return Decimal(int.from_bytes(value, "big"))
    try:
        return Decimal(int(value) if isinstance(value, bool) else str(value))
    except InvalidOperation:
        return None


def _same_duration(given: timedelta, got: object) -> bool:
    if isinstance(got, time):
        return given == timedelta(hours=got.hour, minutes=got.minute, seconds=got.second, microseconds=got.microsecond)
    if isinstance(got, timedelta):
        return got == given
    if isinstance(got, int):
        return timedelta(microseconds=got) == given
    return _duration(str(got)) == given


def _duration(text: str) -> timedelta | None:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = digits.split(":")
    if len(parts) != 3:
        return None
    try:
        hours, minutes, seconds = int(parts[0]), int(parts[1]), Decimal(parts[2])
    except (ValueError, InvalidOperation):
        return None
    return sign * timedelta(hours=hours, minutes=minutes, microseconds=int(seconds * 1_000_000))


def _same_moment(given: datetime, got: object) -> bool:
    if isinstance(got, datetime):  # with a zone, if any, that shows the same clock
        return got.replace(tzinfo=None) == given
    try:
        return datetime.fromisoformat(str(got)).replace(tzinfo=None) == given
    except ValueError:
        return False


def _same_day(given: date, got: object) -> bool:
    if isinstance(got, datetime):
        return got.replace(tzinfo=None) == datetime.combine(given, time())
    return got == given or str(got)[:10] == str(given)


def _same_bytes(given: bytes, got: object) -> bool:
    if isinstance(got, str):
        return got.lower() == given.hex()
    return got == given or (isinstance(got, int) and got == int.from_bytes(given, "big"))


def _same_text(given: str, got: object) -> bool:
    return got.decode(errors="replace") == given if isinstance(got, bytes) else got == given


_KINDS: tuple[tuple[Any, Callable[[Any, object], bool]], ...] = (
    ((int, float, Decimal), _same_number),
    (timedelta, _same_duration),
    (datetime, _same_moment),
    (date, _same_day),
    (bytes, _same_bytes),
    (str, _same_text),
)
