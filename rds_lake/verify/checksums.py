"""Row hashes and their sums as SQL, in each system's own words.

A row's hash is the MD5 of its values' canonical texts, NULL marked so that it differs from any text. A checksum is the
sum of the hashes' first 15 hexadecimal digits: the order of the rows does not matter, equal rows do not cancel each
other out, and the sums of two halves add up to the sum of the whole, which is what lets stages be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rds_lake.extract.types import Column
from rds_lake.verify.canonical import System, canonical, is_summed

_TOGETHER = 100
"""Values that are hashed together; hashes of more are hashed again, so that no text or expression grows too long."""

_NUMBER: dict[System, str] = {
    "mysql": "CAST(CONV(LEFT({0}, 15), 16, 10) AS UNSIGNED)",
    "lake": "CAST('0x' || left({0}, 15) AS BIGINT)",
    "warehouse": "CAST(STRTOL(LEFT({0}, 15), 16) AS DECIMAL(38, 0))",
}


@dataclass(frozen=True)
class Sum:
    """Some rows: how many, and the sum of their hashes."""

    rows: int = 0
    checksum: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        """The rows of both."""
        return Sum(self.rows + other.rows, self.checksum + other.checksum)

    def __sub__(self, other: "Sum") -> "Sum":
        """The rows without those of the other."""
        return Sum(self.rows - other.rows, self.checksum - other.checksum)


NOTHING = Sum()


Sources = Mapping[str, Column]
"""The columns that MySQL has under other types than those that they are compared as, by name in lower case."""

NO_SOURCES: Sources = {}


def row_hash(columns: Sequence[Column], system: System, sources: Sources = NO_SOURCES) -> str:
    """The SQL of a row's hash over those of its columns that have a canonical text."""
    parts = [
        _marked(canonical(column, sources.get(column.name.lower())).token(column.name, system), system)
        for column in columns
        if is_summed(column)
    ]
    groups = [parts[start : start + _TOGETHER] for start in range(0, len(parts), _TOGETHER)] or [["''"]]
    hashes = [f"MD5({_joined(group, system)})" for group in groups]
    return hashes[0] if len(hashes) == 1 else f"MD5({_joined(hashes, system)})"


def sums(columns: Sequence[Column], system: System, sources: Sources = NO_SOURCES) -> str:
    """The SQL of the two aggregates that make a `Sum`."""
    return f"COUNT(*), COALESCE(SUM({number(row_hash(columns, system, sources), system)}), 0)"


def number(hashed: str, system: System) -> str:
    """The SQL of a hash as the number that is summed up."""
    return _NUMBER[system].format(hashed)


def _marked(token: str, system: System) -> str:
    """A value between marks; none of the marks occurs in a canonical text."""
    marked = _joined(["'='", token, "','"], system)
    return f"COALESCE({marked}, '-,')"


def _joined(texts: Sequence[str], system: System) -> str:
    return f"CONCAT({', '.join(texts)})" if system == "mysql" else f"({' || '.join(texts)})"
