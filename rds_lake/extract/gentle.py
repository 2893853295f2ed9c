"""Which changes of a column leave every value that it holds as it is, whatever session alters it: a pure decision.

The hard part is that `ALTER TABLE` refuses a value that does not fit in a strict session only. Any other cuts it,
rounds it or puts another in its place: NULL becomes 0, a character a question mark, 70 the year 1970. CHAR takes
trailing blanks away even in a strict one, and under PAD_CHAR_TO_FULL_LENGTH it gives more than it had to a VARCHAR. So
a change is gentle only if the new type holds every value that the old one can have. What is not known to be is not.
"""

import re

from rds_lake.extract.types import BLOB_OCTETS, TEXT_OCTETS, Column, SourceType

_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_MOMENTS = frozenset({"datetime", "timestamp"})  # TIME is carried as text, its fraction included
_LISTS = frozenset({"enum", "set"})
_WIDEST = 4
"""Bytes that a character may have."""

_SPELT = frozenset({"ascii", "latin1", "utf8mb3", "ucs2", "utf16", "utf16le", "utf32"})
"""Character sets whose every text is one of utf8mb4."""


def same_type(old: str, new: str, *, as_text: bool) -> bool:
    """Whether two MySQL types are one, apart from what is no part of their values.

    Args:
        old: one type.
        new: the other.
        as_text: whether the values are carried as the text that the server prints, which ZEROFILL is a part of.
    """
    return _normal(old, as_text) == _normal(new, as_text)


def same_charset(old: Column, new: Column) -> bool:
    """Whether two columns have the same character set, as far as both are known."""
    one, other = _charset(old), _charset(new)
    return one is None or other is None or one == other


def is_gentle(old: Column, new: Column, *, as_text: bool) -> bool:
    """Whether an `ALTER TABLE` leaves every value of a column as it is carried, whatever the session's mode.

    Args:
        old: the column as it was.
        new: the column as it is.
        as_text: whether numbers and moments are carried as the text that the server prints.
    """
    if old.nullable and not new.nullable:
        return False
    before, after = SourceType.of(old.type), SourceType.of(new.type)
    if not same_charset(old, new):
        spelt = _charset(new) == "utf8mb4" and _charset(old) in _SPELT
        return spelt and _holds_text(before, after, growth=_WIDEST)
    if same_type(old.type, new.type, as_text=as_text):
        return True
    return _holds_text(before, after) or _holds_bytes(before, after) or _holds_printed(before, after, as_text)


def _normal(kind: str, as_text: bool) -> str:
    """A MySQL type without the display width that older servers add to integers."""
    if as_text and "zerofill" in kind:
        return kind
    return re.sub(r"^((?:tiny|small|medium|big)?int|year)\(\d+\)", r"\1", kind.strip()).replace(" zerofill", "")


def _charset(column: Column) -> str | None:
    return "utf8mb3" if column.charset == "utf8" else column.charset  # newer servers say what older ones meant


def _holds_text(old: SourceType, new: SourceType, growth: int = 1) -> bool:
    """Whether a text type holds every text of another; a TEXT counts bytes, of which each may become `growth`."""
    if old.name in _LISTS and old.name == new.name:
        return new.members[: len(old.members)] == old.members
    characters = _characters(old)
    if characters is None or (old.name == "char") != (new.name == "char"):
        return False
    if new.name in TEXT_OCTETS:
        octets = growth * TEXT_OCTETS[old.name] if old.name in TEXT_OCTETS else _WIDEST * characters
        return new.name != "json" and octets <= TEXT_OCTETS[new.name]
    return new.name in {"char", "varchar"} and characters <= new.number(1)


def _characters(given: SourceType) -> int | None:
    """The most characters that a text may have; None for what is none."""
    if given.name in _LISTS:
        return max(map(len, given.members), default=0) if given.name == "enum" else len(",".join(given.members))
    if given.name in {"char", "varchar"}:
        return given.number(1)
    return TEXT_OCTETS.get(given.name) if given.name != "json" else None


def _holds_bytes(old: SourceType, new: SourceType) -> bool:
    """Whether bytes of variable length stay; BINARY has a fixed one, and is filled up."""
    was, now = (_octets(given) for given in (old, new))
    return was is not None and now is not None and was <= now


def _octets(given: SourceType) -> int | None:
    return given.number(1) if given.name == "varbinary" else BLOB_OCTETS.get(given.name)


def _holds_printed(old: SourceType, new: SourceType, as_text: bool) -> bool:
    """Whether a number or a moment stays, and where it is carried as text, its text as well."""
    if as_text and "zerofill" in old.text + new.text:
        return False
    if old.name in _BITS and new.name in _BITS:
        (least, most), (lower, upper) = _range(old), _range(new)
        return lower <= least and most <= upper
    if old.name == new.name == "decimal":
        (digits, scale), (room, places) = old.digits, new.digits
        whole = digits - scale <= room - places and (old.unsigned or not new.unsigned)
        return whole and (scale == places if as_text else scale <= places)
    if old.name == new.name and old.name in _MOMENTS:
        return not as_text and old.number(0) <= new.number(0)
    return False


def _range(given: SourceType) -> tuple[int, int]:
    bits = _BITS[given.name]
    return (0, 2**bits - 1) if given.unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
