"""Carrying rows into the agreed columns: each value stays what it is, or the row is named."""

from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, table_spec

from rds_lake.errors import PermanentError
from rds_lake.extract.carry import carry
from rds_lake.extract.contract import decide
from rds_lake.extract.types import Column, arrow_schema

ID = Column("id", "int(11)", nullable=False)


def carried(old: str, new: str, values: list, **more) -> list:
    """Values of a column that was of one type at the source and now is of another, under `discard`."""
    present = (ID, Column("v", new))
    agreed = decide("discard", "t", "t", None, (ID, Column("v", old)), "then").agreed
    shape = decide("discard", "t", "t", agreed, present, "now")
    batch = pa.record_batch([pa.array(range(len(values)), pa.int32()), pa.array(values, present[1].mapped.arrow)],
                            schema=arrow_schema(present))  # fmt: skip
    [done] = carry([batch], shape, table_spec("t", key=["id"], **more))
    assert done.schema == arrow_schema(shape.columns)
    return done.column("v").to_pylist()


@bounded(200)
@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_whole_numbers_are_carried_or_refused(values):
    if all(value is None or -(2**31) <= value < 2**31 for value in values):
        assert carried("int(11)", "bigint(20)", values) == values
    else:
        with pytest.raises(PermanentError):
            carried("int(11)", "bigint(20)", values)


@bounded(200)
@given(st.lists(st.none() | st.integers(-(10**10), 10**10).map(lambda n: Decimal(n).scaleb(-4))))
def test_decimals_are_carried_or_refused_never_rounded(values):
    fits = [v is None or (v == round(v, 2) and abs(v) < 10**6) for v in values]
    if all(fits):
        assert carried("decimal(8,2)", "decimal(12,4)", values) == values
    else:
        with pytest.raises(PermanentError, match=f"in the row id = {fits.index(False)}, "):
            carried("decimal(8,2)", "decimal(12,4)", values)


@pytest.mark.stack
@bounded(20)
@given(st.lists(st.decimals(-(10**7), 10**7, places=10), max_size=20), st.booleans())
def test_a_decimal_becomes_the_text_that_the_source_prints(rooms, numbers, fits):
    values = [Decimal(0), Decimal("0.0000000001"), Decimal("-0.0000001"), *numbers]
    agreed = "varchar(90)" if fits else "varchar(5)"  # 20 bytes: fewer than the longest decimal needs
    shown = rooms.sql("SELECT " + ", ".join(f"CAST(CAST('{value:f}' AS DECIMAL(20,10)) AS CHAR)" for value in values))[
        0
    ]
    assert carried(agreed, "decimal(20,10)", [*values, None]) == [*shown, None]


@bounded(200)
@given(st.lists(st.none() | st.text(max_size=12)))
def test_texts_are_carried_if_their_bytes_fit(values):
    if all(value is None or len(value.encode()) <= 20 for value in values):
        assert carried("varchar(5)", "varchar(12)", values) == values
    else:
        with pytest.raises(PermanentError, match=r"the agreed type varchar\(5\) \(VARCHAR\(20\)\) cannot hold whole"):
            carried("varchar(5)", "varchar(12)", values)


@pytest.mark.parametrize(
    ("old", "new", "value", "becomes"),
    [
        ("varchar(40)", "int(11)", -7, "-7"),
        ("varchar(40)", "decimal(8,2)", Decimal("1.50"), "1.50"),
        ("bigint(20)", "int(11)", 7, 7),
        ("double", "int(11)", 7, 7.0),
        ("float", "double", 0.5, 0.5),
        ("int(11)", "decimal(5,2)", Decimal("5.00"), 5),
        ("int(11)", "varchar(9)", "42", 42),
    ],
)
def test_a_value_that_means_the_same_is_carried(old, new, value, becomes):
    assert carried(old, new, [value, None]) == [becomes, None]


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("float", "double", 0.1),
        ("int(11)", "decimal(5,2)", Decimal("5.01")),
        ("int(11)", "varchar(9)", "007"),
        ("int(11)", "varchar(9)", "x"),
        ("date", "datetime", datetime(2024, 1, 1, 0, 0, 1)),  # noqa: DTZ001 - a DATETIME has no zone
    ],
)
def test_a_value_that_would_be_bent_is_refused_with_its_row(old, new, value):
    with pytest.raises(PermanentError) as caught:
        carried(old, new, [None, value])
    assert caught.value.problem.startswith(f"t: the column 'v' holds {value!r} in the row id = 1, which the agreed")


def test_personal_data_are_not_shown():
    with pytest.raises(PermanentError) as caught:
        carried("int(11)", "varchar(9)", ["secret"], columns={"v": {"personal": True}, "id": {"personal": True}})
    assert "holds a personal value in the row id = a personal value" in caught.value.problem
