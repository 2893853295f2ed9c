"""Rows that differ: which keys, which columns, which values where.

The sides' hashes stream into one table of DuckDB, which finds the keys whose rows are not alike on all sides; only the
rows of the few that are shown are read again, with their values.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

from rds_lake.cursors import bound
from rds_lake.extract.types import Column
from rds_lake.lake.manifest import Manifest
from rds_lake.partitions import Window
from rds_lake.spec import Stage, TableSpec
from rds_lake.verify.canonical import SHOWN
from rds_lake.verify.checksums import Sum, number
from rds_lake.verify.queries import Questions
from rds_lake.verify.sides import LakeSide, Row, SourceSide, WarehouseSide

KEYS_SHOWN = 10
"""Rows of a partition that a report names, and versions of one of them."""

Side = Stage | Literal["source"]
SIDES: tuple[Side, ...] = ("source", "landing", "archived", "staging", "discarded", "warehouse")

_COUNTS = ", ".join(f"COUNT(*) FILTER (side = '{side}') AS {side}" for side in SIDES)
_ALIKE = f"SELECT kh, xh, ANY_VALUE(rh) AS rh, {_COUNTS} FROM hashed GROUP BY kh, xh"
_INSERT = "INSERT INTO hashed SELECT '{side}', kh, rh, {exact} FROM {{0}}"


@dataclass(frozen=True)
class Checks:
    """Which equalities have to hold in a partition; a partition that a sync will take has not all of them.

    Attributes:
        source: the source's rows are the landed ones.
        archived: the landed rows are the archived ones.
        split: the landed rows are the staged and the discarded ones.
        loaded: the staged rows are the warehouse's.
    """

    source: bool
    archived: bool
    split: bool
    loaded: bool

    @property
    def condition(self) -> str:
        """The SQL of a row that is not alike where it has to be."""
        parts = {
            "source <> landing": self.source,
            "landing <> archived": self.archived,
            "landing <> staging + discarded": self.split,
            "warehouse > staging OR (staging > warehouse AND kh NOT IN (SELECT kh FROM superseded))": self.loaded,
        }
        return " OR ".join(f"({part})" for part, wanted in parts.items() if wanted) or "FALSE"

    def are_unlike(self, counts: Mapping[Side, int]) -> bool:
        """Whether a row that stands so often on each side is not alike where it has to be."""
        held = Counter(counts)
        return (
            (self.source and held["source"] != held["landing"])
            or (self.archived and held["landing"] != held["archived"])
            or (self.split and held["landing"] != held["staging"] + held["discarded"])
            or (self.loaded and held["staging"] != held["warehouse"])
        )

    @property
    def sides(self) -> set[Side]:
        """Who takes part."""
        parts: tuple[tuple[bool, tuple[Side, ...]], ...] = (
            (self.source, ("source", "landing")),
            (self.archived, ("landing", "archived")),
            (self.split, ("landing", "staging", "discarded")),
            (self.loaded, ("staging", "warehouse")),
        )
        return {side for wanted, sides in parts if wanted for side in sides}


@dataclass(frozen=True)
class Place:
    """One partition, as the servers are asked for it.

    Attributes:
        source: its window, cut at the fence; None for a table without partitions.
        warehouse: its window.
        with_null: whether rows without a cursor value belong to it.
    """

    source: Window | None
    warehouse: Window | None
    with_null: bool


@dataclass(frozen=True)
class Differences:
    """Rows of one partition that are not alike.

    Attributes:
        keys: how many keys.
        lines: some of them in words.
    """

    keys: int = 0
    lines: tuple[str, ...] = ()

    def __add__(self, other: "Differences") -> "Differences":
        """Those that two comparisons found; a key that both found counts twice."""
        return Differences(self.keys + other.keys, self.lines + other.lines)


NONE = Differences()


class RowComparison:
    """Compares the rows of one table's partitions, one partition after the other.

    Args:
        spec: the table's YAML.
        source: the table in MySQL.
        lake: the lake's files.
        warehouse: the table in the warehouse.
    """

    def __init__(self, spec: TableSpec, source: SourceSide, lake: LakeSide, warehouse: WarehouseSide) -> None:
        self._spec = spec
        self._source = source
        self._lake = lake
        self._warehouse = warehouse
        self._knows_newest = False

    def read(self, questions: Questions, place: Place, batches: Mapping[Stage, Manifest], sides: set[Side]) -> None:
        """Take in the hashes of a partition.

        Args:
            questions: what is compared.
            place: where the partition lies at the servers.
            batches: its batches.
            sides: who takes part.

        Raises:
            DamagedError: a file cannot be read.
        """
        engine = self._lake.engine
        engine.execute("CREATE OR REPLACE TABLE hashed (side VARCHAR, kh VARCHAR, rh VARCHAR, xh VARCHAR)")
        engine.execute("CREATE OR REPLACE TABLE superseded (kh VARCHAR)")
        if "source" in sides:
            self._insert("source", questions, self._source.hashes(questions, place.source, with_null=place.with_null))
        if "warehouse" in sides:
            self._insert(
                "warehouse", questions, self._warehouse.hashes(questions, place.warehouse, with_null=place.with_null)
            )
        for stage, batch in batches.items():
            if stage in sides:
                self._lake.insert(questions, batch, _INSERT.format(side=stage, exact=_exact(questions)))

    def superseded(self, questions: Questions, place: Place) -> Sum:
        """The staged rows that the warehouse lacks because it holds a newer version of their key elsewhere."""
        if self._spec.cursor is None or not self._spec.key or place.warehouse is None:
            return Sum()
        engine = self._lake.engine
        if not self._knows_newest:
            engine.execute("CREATE TABLE newest (kh VARCHAR, moment VARCHAR)")
            for rows in self._warehouse.newest(questions):
                portion = [(key, _sortable(moment)) for key, moment in rows if moment is not None]
                self._take(portion, ("kh", "moment"), "INSERT INTO newest SELECT * FROM {0}")
            self._knows_newest = True
        upper = _sortable(bound(self._spec.cursor, place.warehouse.upper))
        engine.execute(
            "INSERT INTO superseded SELECT kh FROM hashed WHERE side IN ('staging', 'warehouse') GROUP BY kh "
            "HAVING COUNT(*) FILTER (side = 'staging') > COUNT(*) FILTER (side = 'warehouse') "
            "AND kh IN (SELECT kh FROM newest WHERE moment >= ?)",
            [upper],
        )
        [(rows, checksum)] = engine.execute(
            f"SELECT COALESCE(SUM(staging - warehouse), 0), "
            f"COALESCE(SUM((staging - warehouse) * {number('rh', 'lake')}::HUGEINT), 0) FROM ({_ALIKE}) "
            "WHERE kh IN (SELECT kh FROM superseded)"
        ).fetchall()
        return Sum(int(rows), int(checksum))

    def differences(
        self, questions: Questions, place: Place, batches: Mapping[Stage, Manifest], checks: Checks
    ) -> Differences:
        """The keys whose rows are not alike, after `read`."""
        engine = self._lake.engine
        unlike = f"SELECT DISTINCT kh FROM ({_ALIKE}) WHERE {checks.condition}"
        [(count,)] = engine.execute(f"SELECT COUNT(*) FROM ({unlike})").fetchall()
        if not count:
            return Differences()
        keys = [key for (key,) in engine.execute(f"{unlike} ORDER BY kh LIMIT {KEYS_SHOWN}").fetchall()]
        found: dict[Side, list[Row]] = {}
        for stage, batch in batches.items():
            if stage in checks.sides:
                found[stage] = self._lake.values(questions, batch, keys)
        null = place.with_null
        if checks.source:
            found["source"] = self._source.values(questions, keys, place.source, with_null=null)
        if checks.loaded:
            found["warehouse"] = self._warehouse.values(questions, keys, place.warehouse, with_null=null)
        lines = sorted(
            _line(self._spec, questions, checks, {side: _of(rows, key) for side, rows in found.items()}) for key in keys
        )
        return Differences(count, tuple(lines))

    def _insert(self, side: Side, questions: Questions, portions: Iterator[list[Row]]) -> None:
        names = ("kh", "rh", *(f"f{index}" for index, _ in enumerate(questions.floats)))
        for rows in portions:
            self._take(rows, names, _INSERT.format(side=side, exact=_exact(questions)))

    def _take(self, rows: Sequence[Row], names: Sequence[str], insert: str) -> None:
        if not rows:
            return
        types = [pa.float64() if name.startswith("f") else pa.string() for name in names]
        columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), types, strict=True)]
        self._lake.engine.register("portion", pa.table(columns, names=list(names)))
        self._lake.engine.execute(insert.format("portion"))
        self._lake.engine.unregister("portion")


def _exact(questions: Questions) -> str:
    """The hash of a row with its numbers, which one engine writes for all sides."""
    floats = "".join(f" || ',' || COALESCE(CAST(f{index} AS VARCHAR), '-')" for index, _ in enumerate(questions.floats))
    return f"md5(rh{floats})" if floats else "rh"


def _sortable(moment: Any) -> str:  # noqa: ANN401 - a cursor's value
    """A cursor's value as a text that sorts like it: numbers padded, a date as its midnight."""
    if isinstance(moment, int | Decimal):
        return f"{int(moment) + 10**20:021d}"
    return (moment if isinstance(moment, datetime) else datetime.combine(moment, time())).isoformat(" ")


def _of(rows: Sequence[Row], key: str) -> list[Row]:
    return [row[1:] for row in rows if row[0] == key]


def _line(spec: TableSpec, questions: Questions, checks: Checks, found: Mapping[Side, list[Row]]) -> str:
    """One key in words."""
    first = next((rows[0] for rows in found.values() if rows), None)
    key = key_text(spec, questions, first)
    counts = {side: len(found.get(side, ())) for side in SIDES if side in checks.sides}
    if max(counts.values(), default=0) > 1:
        return _repeated(spec, questions, checks, found, counts)
    said = _counted(counts, checks)
    said += _columns(spec, questions, {side: rows[0] for side, rows in found.items() if rows})
    return f"{key}: {'; '.join(said)}"


def _repeated(
    spec: TableSpec, questions: Questions, checks: Checks, found: Mapping[Side, list[Row]], counts: Mapping[Side, int]
) -> str:
    """A key that stands more than once on a side, in words: each version of its row is counted by itself."""
    versions: dict[Row, tuple[Row, Counter[Side]]] = {}
    for side, rows in found.items():
        for row in rows:
            versions.setdefault(tuple(map(repr, row[::2])), (row, Counter()))[1][side] += 1
    varying = [
        column.name
        for column, tokens in zip(questions.columns, zip(*versions, strict=True), strict=True)
        if len(set(tokens)) > 1
    ]
    apart = []
    for row, mine in versions.values():
        held = {side: mine[side] for side in counts}
        if checks.are_unlike(held):
            named = f"with {_named(spec, questions, row, varying)}: " if varying else ""
            apart.append(named + "; ".join(_counted(held, checks)))
    said = sorted(apart)[:KEYS_SHOWN] or _counted(counts, checks)
    said += [f"and {len(apart) - len(said):,} more"] if len(apart) > len(said) else []
    first = next(row for row, _ in versions.values())
    same = _named(spec, questions, first, [name for name in _key_names(spec, questions) if name not in varying])
    return f"{same}{', ' if varying and same else ': ' if same else ''}{'; '.join(said)}"


def key_text(spec: TableSpec, questions: Questions, row: Row | None) -> str:
    """What a person knows a row by, from its tokens and shown values; personal values are not shown."""
    return "a row that is gone by now" if row is None else _named(spec, questions, row, _key_names(spec, questions))


def _key_names(spec: TableSpec, questions: Questions) -> Sequence[str]:
    """The columns that a row is named by: the key's, or all."""
    return spec.key or [column.name for column in questions.columns]


def _named(spec: TableSpec, questions: Questions, row: Row, names: Sequence[str]) -> str:
    """Some columns of a row with their values."""
    shown = {
        column.name: "(personal)" if spec.is_personal(column.name) else _value(column, row[2 * index + 1])
        for index, column in enumerate(questions.columns)
    }
    return ", ".join(f"{name} {shown[name]}" for name in names if name in shown)


def _counted(counts: Mapping[Side, int], checks: Checks) -> list[str]:
    """What is wrong with how often a row stands on each side."""
    has = {side: count for side, count in counts.items() if count}
    if max(counts.values(), default=0) > 1:
        return [", ".join(f"{count} in {side}" for side, count in counts.items() if side != "discarded" or count)]
    wanted: list[Side] = []
    wanted += ["source", "landing"] if checks.source else []
    wanted += ["landing", "archived"] if checks.archived else []
    wanted += ["warehouse"] if checks.loaded and ("staging" in has or "discarded" not in has) else []
    missing = [side for side in dict.fromkeys(wanted) if side not in has]
    from_staging = checks.split or (checks.loaded and "warehouse" in has)
    if from_staging and not {"staging", "discarded"} & set(has):
        missing.append("staging")
    if checks.loaded and "discarded" in has and "warehouse" in has:
        return [f"discarded, yet in the warehouse (in {', '.join(has)})"]
    return [f"not in {', '.join(missing)} (in {', '.join(has)})"] if missing and has else []


def _columns(spec: TableSpec, questions: Questions, rows: Mapping[Side, Row]) -> list[str]:
    """The columns whose values are not the same on all sides that have the row."""
    said = []
    for index, column in enumerate(questions.columns):
        by_token: dict[Any, list[Side]] = {}
        for side in SIDES:
            if side in rows:
                by_token.setdefault(rows[side][2 * index], []).append(side)
        if len(by_token) < 2:
            continue
        if spec.is_personal(column.name):
            groups = " from ".join(", ".join(sides) for sides in by_token.values())
            said.append(f"{column.name} (personal) differs: {groups}")
            continue
        values = [
            f"{_value(column, rows[sides[0]][2 * index + 1])} in {', '.join(sides)}" for sides in by_token.values()
        ]
        said.append(f"{column.name} is {' but '.join(values)}")
    return said


def _value(column: Column, shown: Any) -> str:  # noqa: ANN401 - what a driver returns
    if shown is None:
        return "NULL"
    text = str(shown)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return repr(text) if pa.types.is_string(column.mapped.arrow) else text
