"""Widening: the least type that holds every value of two, among Redshift's types as the type table writes them.

Pure. The lake and the warehouse both ask here whether a column can follow a change of the source. The hard part is
what looks wider and is not: INTEGER has ten digits but not all numbers of ten, a REAL does not hold every INTEGER, and
a number as text may need more characters than the new text column has.
"""

import re
from dataclasses import dataclass

DECIMAL_MAX = 38

_BYTES = {"VARCHAR", "VARBYTE"}
_INTEGERS = {"SMALLINT": (4, 5), "INTEGER": (9, 10), "BIGINT": (18, 19)}
"""For each: how many digits it holds in any case, and how many its longest number has."""

_FLOATS = ("REAL", "DOUBLE PRECISION")
_EXACT_IN = {"REAL": {"SMALLINT"}, "DOUBLE PRECISION": {"SMALLINT", "INTEGER", "REAL"}, "TIMESTAMP": {"DATE"}}
"""What else than itself a type holds, value by value."""

_TEXT_LENGTH = {"SMALLINT": 6, "INTEGER": 11, "BIGINT": 20, "DATE": 10, "TIMESTAMP": 26}
"""Characters of the longest value as text."""


@dataclass(frozen=True)
class _Type:
    name: str
    size: int = 0
    scale: int = 0

    @classmethod
    def of(cls, text: str) -> "_Type":
        match = re.fullmatch(r"([A-Z ]+?)\s*(?:\((\d+)(?:,(\d+))?\))?", text)
        if match is None:
            return cls(text)
        name, size, scale = match.groups()
        return cls(name, int(size or 0), int(scale or 0))

    @property
    def is_exact_number(self) -> bool:
        return self.name == "DECIMAL" or self.name in _INTEGERS

    @property
    def whole_digits(self) -> int:
        """Digits before the point that its values may have."""
        return self.size - self.scale if self.name == "DECIMAL" else _INTEGERS[self.name][1]

    @property
    def text_length(self) -> int | None:
        """Characters of its longest value as text; None where the text would not be the value."""
        return self.size + 3 if self.name == "DECIMAL" else _TEXT_LENGTH.get(self.name)


def wider(held: str, wanted: str) -> str | None:
    """The least type that holds every value of both; None when there is none.

    Args:
        held: a type of Redshift, such as `DECIMAL(10,2)`.
        wanted: another one.
    """
    if holds(held, wanted):
        return held
    if holds(wanted, held):
        return wanted
    one, other = _Type.of(held), _Type.of(wanted)
    if one.is_exact_number and other.is_exact_number:
        return _decimal(max(one.whole_digits, other.whole_digits), max(one.scale, other.scale))
    names = {one.name, other.name}
    if names == {"INTEGER", "REAL"}:
        return "DOUBLE PRECISION"
    if "VARCHAR" in names:
        text, value = (one, other) if one.name == "VARCHAR" else (other, one)
        return f"VARCHAR({max(text.size, value.text_length)})" if value.text_length else None
    return None


def holds(outer: str, inner: str) -> bool:
    """Whether every value of one type is, unchanged, a value of another.

    Args:
        outer: the type that may be the wider one.
        inner: the type whose values it may hold.
    """
    big, small = _Type.of(outer), _Type.of(inner)
    if outer == inner or small.name in _EXACT_IN.get(big.name, ()):
        return True
    if big.name == small.name and big.name in _BYTES:
        return big.size >= small.size
    if big.name == "VARCHAR":
        return small.text_length is not None and small.text_length <= big.size
    return big.is_exact_number and small.is_exact_number and _holds_number(big, small)


def _holds_number(big: _Type, small: _Type) -> bool:
    if big.name not in _INTEGERS:
        return big.whole_digits >= small.whole_digits and big.scale >= small.scale
    if small.name in _INTEGERS:
        return _INTEGERS[small.name] <= _INTEGERS[big.name]
    return small.scale == 0 and small.size <= _INTEGERS[big.name][0]


def byte_limit(kind: str) -> int | None:
    """The most bytes that a value of a type may have, None for one that is not measured in bytes."""
    known = _Type.of(kind)
    return known.size if known.name in _BYTES else None


def _decimal(whole: int, scale: int) -> str | None:
    digits = whole + scale
    digits = 20 if digits == 19 else digits  # Redshift's 19 digits are a number of 64 bits, which ends before them
    return f"DECIMAL({digits},{scale})" if digits <= DECIMAL_MAX else None
