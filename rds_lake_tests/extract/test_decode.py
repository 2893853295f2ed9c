"""Rows taken apart all at once, against the same rows written value by value, and against a plain walk."""

import string
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from pymysql.constants import FIELD_TYPE
from rooms import bounded

from rds_lake.extract.decode import MOMENTS, Values, decode
from rds_lake.extract.packets import HEAD, is_row, length_at, row_starts
from rds_lake.extract.stream import Block, Field

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - clocks without a zone

TEXTS = st.one_of(
    st.text(string.printable, max_size=12).map(str.encode),
    st.binary(max_size=40),
    st.sampled_from([0, 250, 251, 252, 65_535, 65_536, 70_000]).map(lambda size: b"\0" * size),
)


def values_of(field: Field) -> st.SearchStrategy[Any]:
    """Any value of a field's type, NULL among them."""
    if field.type in {FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE}:
        some: st.SearchStrategy[Any] = st.floats(width=32 if field.type == FIELD_TYPE.FLOAT else 64, allow_nan=False)
    elif field.type in wire.NUMBERS:
        bits = 8 * {"b": 1, "h": 2, "i": 4, "q": 8}[wire.NUMBERS[field.type]]
        some = st.integers(0, 2**bits - 1) if field.unsigned else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    elif field.type == FIELD_TYPE.DATE:
        some = st.dates()
    else:
        some = st.datetimes() if field.type in MOMENTS else TEXTS
    return st.none() | some


FIELDS = st.builds(
    Field,
    st.sampled_from([*wire.NUMBERS, *MOMENTS - {FIELD_TYPE.NEWDATE}, FIELD_TYPE.VAR_STRING, FIELD_TYPE.NEWDECIMAL]),
    st.booleans(),
).filter(lambda field: not field.unsigned or field.type in wire.NUMBERS)

TABLES = st.lists(FIELDS, min_size=1, max_size=20).flatmap(
    lambda fields: st.tuples(st.just(fields), st.lists(st.tuples(*map(values_of, fields)), min_size=1, max_size=12))
)


def told(values: Values) -> list[Any]:
    """A column as Python values."""
    found = values.content.to_pylist() if hasattr(values.content, "to_pylist") else values.content.tolist()
    if values.field.type in MOMENTS:
        found = [np.datetime64(value, "us").item() for value in found]
        found = [value.date() if values.field.type == FIELD_TYPE.DATE else value for value in found]
    nulls = [False] * len(found) if values.nulls is None else values.nulls.tolist()
    return [None if is_null else value for value, is_null in zip(found, nulls, strict=True)]


@bounded(150)
@given(TABLES)
def test_rows_taken_apart_are_the_rows_that_were_sent(table):
    fields, rows = table
    found = decode(wire.block(wire.row(fields, row) for row in rows), fields)
    assert list(zip(*map(told, found), strict=True)) == rows
    assert all(values.unfit is None for values in found)


@bounded(200)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30).map(lambda content: b"\0" + content),
            # Rows that hold what looks like the heads of other rows.
            st.integers(1, 9).map(lambda count: b"\0" + b"\x02\0\0\x01\0\0" * count),
            st.integers(65_530, 65_540).map(bytes),
        ),
        max_size=40,
    ),
    st.integers(0, 255),
    st.integers(0, 20),
    st.sampled_from([b"", b"\x05\0\0\x07\xfe\0\0\x02\0", b"\xff\xff\xff\x01\0"]),
)
def test_rows_are_found_where_a_walk_from_packet_to_packet_finds_them(rows, first, cut, more):
    sent = wire.packets(rows, first) + more
    end = max(0, len(sent) - cut)
    content = np.frombuffer(sent + bytes(16), np.uint8)
    walked, place = [], 0
    while is_row(content, place, end):
        walked.append(place)
        place += HEAD + length_at(content, place)
    starts, stop = row_starts(content, 0, end)
    assert (starts.tolist(), stop) == (walked, place)


@pytest.mark.parametrize(
    ("sent", "spelt"),
    [
        ((0, 0, 0, 0, 0, 0, 0), "0000-00-00 00:00:00"),
        ((2024, 0, 10, 0, 0, 0, 0), "2024-00-10 00:00:00"),
        ((2024, 2, 0, 1, 2, 3, 0), "2024-02-00 01:02:03"),
        ((2023, 2, 29, 0, 0, 0, 5), "2023-02-29 00:00:00"),
        ((0, 1, 1, 0, 0, 0, 0), "0000-01-01 00:00:00"),
    ],
)
def test_a_moment_that_the_calendar_does_not_have_is_marked_and_spelt(sent, spelt):
    moments = [None, datetime(2024, 2, 29), sent, datetime(9999, 12, 31, 23, 59, 59, 999_999)]  # noqa: DTZ001
    found = wire.received(Field(FIELD_TYPE.DATETIME, unsigned=False), moments)
    assert found.unfit is not None
    assert found.unfit.tolist() == [False, False, True, False]
    assert found.first_unfit == spelt
    assert [told(found)[place] for place in (0, 1, 3)] == [moments[place] for place in (0, 1, 3)]


def test_a_date_of_the_first_and_of_the_last_day_arrives():
    days = [date(1, 1, 1), date(1969, 12, 31), date(1970, 1, 1), date(2000, 2, 29), date(9999, 12, 31)]
    assert told(wire.received(Field(FIELD_TYPE.DATE, unsigned=False), days)) == days


def test_a_text_of_16_mib_has_its_length_in_eight_bytes():
    texts = [b"a", b"x" * (2**24), None, b"b"]
    rows = [wire.row([Field(FIELD_TYPE.BLOB, unsigned=False)], [text]) for text in texts]
    content = np.frombuffer(b"".join(bytes(4) + row for row in rows) + bytes(16), np.uint8)
    starts = np.cumsum([0] + [4 + len(row) for row in rows[:-1]])
    [found] = decode(Block(content, starts), [Field(FIELD_TYPE.BLOB, unsigned=False)])
    assert told(found) == texts
