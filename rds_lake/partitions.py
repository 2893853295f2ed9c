"""Partitions: windows of the cursor column, as pure arithmetic.

A partition's key is the text of its lower bound (`2013-07-25` for a day), its window is half open: `lower <= cursor <
upper`. Times are wall-clock times in the cursor's own zone, without a zone of their own, as MySQL's DATETIME has them.
Dagster's partition definitions are made from the same units in `rds_lake.automation`; a test holds the two together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple

Unit = Literal["hour", "day", "week", "month"]

KEY_FORMATS: dict[Unit, str] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}


class Window(NamedTuple):
    """Half-open range of the cursor: `lower <= cursor < upper`."""

    lower: datetime
    upper: datetime


def floor(moment: datetime, unit: Unit) -> datetime:
    """The start of the unit that a moment lies in; weeks start on Monday."""
    day = datetime.combine(moment.date(), time())
    match unit:
        case "hour":
            return day + timedelta(hours=moment.hour)
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def following(start: datetime, unit: Unit) -> datetime:
    """The start of the next unit."""
    match unit:
        case "hour":
            return start + timedelta(hours=1)
        case "day":
            return start + timedelta(days=1)
        case "week":
            return start + timedelta(days=7)
        case "month":
            return (start + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True)
class Partitioning:
    """How a table is cut into partitions.

    Attributes:
        unit: the length of a window.
        start: lower bound of the first partition; moved down to the start of its unit.
    """

    unit: Unit
    start: datetime

    @classmethod
    def of(cls, unit: Unit, start: date) -> "Partitioning":
        """Partitions of a unit's length from a day on."""
        return cls(unit, floor(datetime.combine(start, time()), unit))

    @property
    def key_format(self) -> str:
        """The keys' strftime format."""
        return KEY_FORMATS[self.unit]

    def key(self, moment: datetime) -> str:
        """The key of the partition that a moment lies in."""
        return floor(moment, self.unit).strftime(self.key_format)

    def window(self, key: str) -> Window:
        """The half-open window of a partition.

        Raises:
            ValueError: the key is not one of this partitioning's keys.
        """
        lower = datetime.strptime(key, self.key_format)  # noqa: DTZ007 - wall-clock time, see the module
        if self.key(lower) != key:
            raise ValueError(f"'{key}' is not the start of a {self.unit}.")
        return Window(lower, following(lower, self.unit))

    def keys(self, since: datetime, until: datetime) -> Iterator[str]:
        """The keys of all partitions that overlap `since <= moment < until`, in order."""
        lower = max(floor(since, self.unit), self.start)
        while lower < until:
            yield lower.strftime(self.key_format)
            lower = following(lower, self.unit)

    def ranges(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """Runs of neighbouring partitions, as pairs of first and last key (both included), in order."""
        ordered = sorted(set(keys))
        if not ordered:
            return []
        breaks = [
            (left, right) for left, right in pairwise(ordered) if self.window(left).upper != self.window(right).lower
        ]
        firsts = [ordered[0], *(right for _, right in breaks)]
        lasts = [*(left for left, _ in breaks), ordered[-1]]
        return list(zip(firsts, lasts, strict=True))

    def span(self, first: str, last: str) -> Window:
        """The window from the first partition's start to the last one's end."""
        return Window(self.window(first).lower, self.window(last).upper)
