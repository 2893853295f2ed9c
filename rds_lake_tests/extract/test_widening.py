"""The least type that holds the values of two: over each type's whole domain."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.extract.widening import byte_limit, holds, wider

BITS = {"SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    top = 10**digits - 1
    return st.integers(-top, top).map(lambda n: Decimal(n).scaleb(-scale))


def values(kind: str) -> st.SearchStrategy:
    """Any value of a type, its ends often."""
    if kind in BITS:
        end = 2 ** (BITS[kind] - 1)
        return st.integers(-end, end - 1) | st.sampled_from([-end, end - 1])
    name, _, rest = kind.partition("(")
    sizes = [int(text) for text in rest.rstrip(")").split(",")]
    if name == "DECIMAL":
        top = Decimal(10 ** sizes[0] - 1).scaleb(-sizes[1])
        return decimals(*sizes) | st.sampled_from([top, -top])
    return st.text("ab", max_size=sizes[0])


def is_value(value: object, kind: str) -> bool:
    """Whether a value is one of a type's, without rounding and cutting."""
    name, _, rest = kind.partition("(")
    if name == "VARCHAR":
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
        return len(text) <= int(rest.rstrip(")"))
    if isinstance(value, str):
        return False
    if kind in BITS:
        return value == int(value) and -(2 ** (BITS[kind] - 1)) <= value < 2 ** (BITS[kind] - 1)
    digits, scale = (int(text) for text in rest.rstrip(")").split(","))
    return abs(value) < Decimal(10) ** (digits - scale) and value == round(Decimal(value), scale)


sizes = st.tuples(st.integers(1, 18), st.integers(0, 6)).filter(lambda pair: pair[1] <= pair[0])
exact = st.sampled_from(list(BITS)) | sizes.map(lambda pair: f"DECIMAL({pair[0]},{pair[1]})")
kinds = exact | st.integers(1, 30).map(lambda n: f"VARCHAR({n})")


@bounded(300)
@given(kinds, kinds, st.data())
def test_the_wider_type_has_every_value_of_both(one, other, data):
    both = wider(one, other)
    assert both == wider(other, one)
    assert both is not None
    assert holds(both, one)
    assert holds(both, other)
    for kind in (one, other):
        assert is_value(data.draw(values(kind)), both)


@bounded(300)
@given(kinds, kinds, st.data())
def test_a_type_that_does_not_hold_another_misses_one_of_its_values(outer, inner, data):
    assume(not holds(outer, inner))
    assert not outer.startswith("VARCHAR") or byte_limit(outer) is not None
    name, _, rest = inner.partition("(")
    if name == "VARCHAR":
        worst = ["x" * int(rest.rstrip(")"))]
    elif inner in BITS:
        worst = [-(2 ** (BITS[inner] - 1)), 2 ** (BITS[inner] - 1) - 1]
    else:
        digits, scale = (int(text) for text in rest.rstrip(")").split(","))
        worst = [-Decimal(10**digits - 1).scaleb(-scale), Decimal(1).scaleb(-scale)]
    if outer.startswith("VARCHAR") and name == "DECIMAL":
        return  # three characters are reckoned for sign, point and a leading zero, whether there is one or not
    assert not all(is_value(value, outer) for value in worst)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("SMALLINT", "BIGINT", "BIGINT"),
        ("INTEGER", "DECIMAL(9,0)", "INTEGER"),
        ("INTEGER", "DECIMAL(10,0)", "DECIMAL(10,0)"),
        ("INTEGER", "DECIMAL(5,2)", "DECIMAL(12,2)"),
        ("BIGINT", "DECIMAL(20,0)", "DECIMAL(20,0)"),
        ("DECIMAL(16,0)", "DECIMAL(6,3)", "DECIMAL(20,3)"),  # 19 digits end early on Redshift
        ("DECIMAL(38,0)", "DECIMAL(5,2)", None),
        ("REAL", "DOUBLE PRECISION", "DOUBLE PRECISION"),
        ("REAL", "INTEGER", "DOUBLE PRECISION"),
        ("REAL", "BIGINT", None),
        ("DATE", "TIMESTAMP", "TIMESTAMP"),
        ("VARCHAR(40)", "VARCHAR(800)", "VARCHAR(800)"),
        ("VARBYTE(4)", "VARBYTE(8)", "VARBYTE(8)"),
        ("VARCHAR(4)", "INTEGER", "VARCHAR(11)"),
        ("VARCHAR(40)", "TIMESTAMP", "VARCHAR(40)"),
        ("VARCHAR(40)", "DOUBLE PRECISION", None),  # its text has fewer digits than it has
        ("INTEGER", "DATE", None),
        ("BOOLEAN", "SMALLINT", None),
        ("VARCHAR(4)", "VARBYTE(4)", None),
        ("TIMESTAMPTZ", "TIMESTAMP", None),
    ],
)
def test_pairs_of_types(one, other, both):
    assert wider(one, other) == both == wider(other, one)
