"""The checksum computed from rows that were read, against what the source says of the same rows."""

from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import Rooms, bounded, table_spec

from rds_lake.extract.checksum import Checksum
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.types import Column
from rds_lake.spec import TableSpec

WHOLE = {
    "tinyint": (-(2**7), 2**7 - 1),
    "smallint unsigned": (0, 2**16 - 1),
    "mediumint": (-(2**23), 2**23 - 1),
    "int(10) unsigned": (0, 2**32 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
MOMENTS = ["date", "datetime", "datetime(1)", "datetime(3)", "datetime(4)", "datetime(6)", "timestamp(6)"]


def monthly(table: str, key: list[str]) -> TableSpec:
    """A table of a thousand years with the cursor `at`."""
    return table_spec(table, key=key, cursor={"column": "at"}, partitions={"by": "month", "start": "1000-01-01"})


def moment(kind: str, value: datetime) -> date:
    """A moment as a column of a type keeps it."""
    if kind == "date":
        return value.date()
    digits = int(kind.partition("(")[2][:1] or 0)
    step = 10 ** (6 - digits)
    return value.replace(microsecond=value.microsecond // step * step)


def _key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[:-1]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], str, list[tuple[Any, ...]]]:
    """Types of the key, type of the cursor, rows."""
    keys = draw(st.lists(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=3))
    kind = draw(st.sampled_from(MOMENTS))
    near = st.datetimes(datetime(1970, 1, 2), datetime(2037, 12, 31))  # noqa: DTZ001
    far = near if kind.startswith("timestamp") else st.datetimes(datetime(1000, 1, 1))  # noqa: DTZ001
    numbers = [st.integers(*WHOLE[name]) | st.integers(0, 12) | st.sampled_from(WHOLE[name]) for name in keys]
    row = st.tuples(*numbers, st.none() | (near | far).map(lambda value: moment(kind, value)))
    return keys, kind, draw(st.lists(row, min_size=1, max_size=30, unique_by=_key))


def computed(keys: list[str], kind: str, rows: list[tuple[Any, ...]], cut: int) -> str:
    names = [f"k{number}" for number in range(len(keys))]
    columns = [*(Column(*both, nullable=False) for both in zip(names, keys, strict=True)), Column("at", kind)]
    checksum = Checksum.of(monthly("t", names), columns)
    assert checksum
    arrays = [pa.array(v, c.mapped.arrow) for v, c in zip(zip(*rows, strict=True), columns, strict=True)]
    batch = pa.record_batch(arrays, names=[*names, "at"])
    for piece in (batch.slice(0, cut), batch.slice(cut)):
        if piece.num_rows:
            checksum.add(piece)
    return checksum.fingerprint


@pytest.mark.stack
@bounded(25)
@given(tables(), st.integers(0, 30))
def test_the_checksum_of_rows_is_what_the_source_says_of_them(rooms: Rooms, table, cut):
    keys, kind, rows = table
    names = [f"k{number}" for number in range(len(keys))]
    columns = ", ".join(f"{name} {key}" for name, key in zip(names, keys, strict=True))
    quoted = [f"({', '.join(map(_literal, row))})" for row in rows]
    rooms.sql(
        "DROP TABLE IF EXISTS checksums",
        f"CREATE TABLE checksums ({columns}, at {kind} NULL, PRIMARY KEY ({', '.join(names)}))",
        f"INSERT INTO checksums VALUES {', '.join(quoted)}",
    )
    with open_snapshot(rooms.source, monthly("checksums", names)) as snapshot:
        told = snapshot.fingerprints()
    below = [row for row in rows if row[-1] is None or _instant(row[-1]) < snapshot.fence.at]
    assert sum(int(value.partition("-")[0]) for value in told.values()) == len(below)
    total = sum(int(value.partition("-")[2], 16) for value in told.values())
    if below:
        assert computed(keys, kind, below, cut) == f"{len(below)}-{total:x}"


def _literal(value: date | int | None) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


def _instant(value: date) -> datetime:
    return value if isinstance(value, datetime) else datetime.combine(value, datetime.min.time())


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (Column("k", "int", nullable=True), "datetime"),
        (Column("k", "varchar(5)", nullable=False), "datetime"),
        (Column("k", "int(5) unsigned zerofill", nullable=False), "datetime"),
        (Column("k", "bigint unsigned", nullable=False), "datetime"),
        (Column("k", "year", nullable=False), "datetime"),
        (Column("k", "tinyint(1)", nullable=False, as_="boolean"), "datetime"),
        (Column("k", "int", nullable=False), "bigint"),
    ],
)
def test_of_other_tables_only_the_source_can_tell_it(key, kind):
    assert Checksum.of(monthly("t", ["k"]), [key, Column("at", kind)]) is None


def test_no_rows_have_the_fingerprint_of_none():
    columns = [Column("k", "int", nullable=False), Column("at", "datetime")]
    checksum = Checksum.of(monthly("t", ["k"]), columns)
    assert checksum
    assert checksum.fingerprint == "0"
