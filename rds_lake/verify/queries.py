"""The SELECTs of the audit: sums per partition, hashes row by row, and the values behind some hashes. Pure text.

The same three questions go to MySQL, to DuckDB over the lake's files, and to the warehouse.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rds_lake.extract.types import Column
from rds_lake.verify.canonical import Canonical, System, canonical, is_summed
from rds_lake.verify.checksums import Sources, row_hash, sums


@dataclass(frozen=True)
class Questions:
    """What is asked of one table.

    Attributes:
        columns: the columns that are compared, as lake and warehouse hold them.
        key: those of them that identify a row; none for whole rows.
        sources: those of the source's columns whose type is another one.
    """

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    sources: tuple[Column, ...] = ()

    @property
    def floats(self) -> tuple[Column, ...]:
        """The columns without a canonical text: compared as numbers, row by row."""
        return tuple(column for column in self.columns if not is_summed(column))

    @property
    def identifying(self) -> tuple[Column, ...]:
        """The columns that tell rows apart: the key's, or all."""
        return tuple(c for c in self.columns if c.name in self.key and is_summed(c)) or self.columns

    @property
    def _sources(self) -> Sources:
        return {column.name.lower(): column for column in self.sources}

    def _form(self, column: Column) -> Canonical:
        return canonical(column, self._sources.get(column.name.lower()))

    def sums(self, system: System, relation: str, where: str = "1 = 1", group: str = "") -> str:
        """Count and checksum, by a group if one is given."""
        first, last = (f"{group} AS partition_of, ", " GROUP BY 1") if group else ("", "")
        found = sums(_spelled(self.columns, system), system, self._sources)
        return f"SELECT {first}{found} FROM {relation} WHERE {where}{last}"

    def hashes(self, system: System, relation: str, where: str = "1 = 1") -> str:
        """For each row: the key's hash, the row's hash, and the numbers that no hash covers."""
        floats = "".join(
            f", {self._form(column).token(column.name, system)} AS f{number}"
            for number, column in enumerate(_spelled(self.floats, system))
        )
        row = row_hash(_spelled(self.columns, system), system, self._sources)
        return f"SELECT {self.key_hash(system)} AS kh, {row} AS rh{floats} FROM {relation} WHERE {where}"

    def key_hash(self, system: System) -> str:
        """The SQL of what identifies a row, as a hash."""
        return row_hash(_spelled(self.identifying, system), system, self._sources)

    def with_keys(self, system: System, hashes: int) -> str:
        """A condition for the rows of some keys; the keys' hashes are its parameters."""
        marks = ", ".join(["?" if system == "lake" else "%s"] * hashes)
        return f"{self.key_hash(system)} IN ({marks})"

    def values(self, system: System, relation: str, where: str) -> str:
        """For each row: the key's hash, then for each column its token and what is shown of it."""
        pairs = ", ".join(
            f"{self._form(column).token(column.name, system)} AS t{number}, "
            f"{self._form(column).shown(column.name, system)} AS s{number}"
            for number, column in enumerate(_spelled(self.columns, system))
        )
        return f"SELECT {self.key_hash(system)} AS kh, {pairs} FROM {relation} WHERE {where}"


def _spelled(columns: Sequence[Column], system: System) -> tuple[Column, ...]:
    """Columns as a system spells them: the warehouse's are in lower case."""
    if system != "warehouse":
        return tuple(columns)
    return tuple(replace(column, name=column.name.lower()) for column in columns)
