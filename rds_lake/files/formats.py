"""Formats of dates and moments, as strptime knows them: which may be declared, and how a text of one looks.

Pure. DuckDB's strptime takes more than a format says: `24` for a year of four digits, offsets of 99 hours, `2024123`,
which could be two days, the word infinity. So a text has to match the format's pattern as well.
"""

import re
from collections.abc import Sequence

YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
"""The years 1 to 9999."""

_NUMBERS = {
    **{mark: (1, 2) for letter in "dmHIMS" for mark in (f"%{letter}", f"%-{letter}")},
    "%y": (2, 2),
    "%f": (1, 6),
}
"""For each specifier how many digits it may have; one that touches another number has the most."""

_WORDS = {
    "%Y": YEAR,
    **dict.fromkeys(("%a", "%A", "%b", "%B"), "[A-Za-z]+"),
    "%p": "[AaPp][Mm]",
    "%z": "[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?",
    "%%": "%",
}

_SAME = {
    **{f"%-{letter}": f"%{letter}" for letter in "dmHIMS"},
    "%b": "%m",
    "%B": "%m",
    "%y": "%Y",
    "%A": "%a",
}
"""What says the same as another one."""


def check_format(text: str, *, zone: bool) -> str:
    """A format that dates or moments can be read with, as it was given.

    Args:
        text: the format.
        zone: whether its values have a zone.

    Raises:
        ValueError: it is none, or leaves open what is meant.
    """
    pieces = _pieces(text)
    if re.search("[\x00-\x1f\ud800-\udfff]", text):
        raise ValueError(f"{text!r} is no format: it may hold printable text only")
    if text != text.strip():
        raise ValueError(f"'{text}' begins or ends with a blank, without which texts are read")
    for piece in pieces:
        if piece[0] == "%" and piece not in _NUMBERS and piece not in _WORDS:
            known = " ".join(sorted({*_NUMBERS, *_WORDS}, key=str.lower))
            raise ValueError(f"'{text}' is no format: it has '{piece}', and there are {known}")
    marks = [_SAME.get(piece, piece) for piece in pieces if piece[0] == "%" and piece != "%%"]
    if twice := [mark for mark in marks if marks.count(mark) > 1]:
        raise ValueError(f"'{text}' says twice what {twice[0]} stands for")
    if missing := [mark for mark in ("%Y", "%m", "%d") if mark not in marks]:
        raise ValueError(f"'{text}' leaves open what {missing[0]} stands for")
    if ("%I" in marks) != ("%p" in marks) or {"%I", "%H"} <= set(marks):
        raise ValueError(f"'{text}' needs %H, or %I with %p")
    if "%z" in marks and not zone:
        raise ValueError(f"'{text}' has an offset (%z), which a timestamptz takes only")
    return text


def pattern_of(text: str) -> str:
    """The regular expression that all texts of a format match as a whole."""
    pieces = ["", *_pieces(text), ""]
    return "".join(_pattern(pieces[at], pieces[at - 1 : at + 2 : 2]) for at in range(1, len(pieces) - 1))


def _pattern(piece: str, neighbours: Sequence[str]) -> str:
    if piece in _NUMBERS:
        least, most = _NUMBERS[piece]
        touches = any(other in _NUMBERS or other == "%Y" or other.isdecimal() for other in neighbours)
        return f"[0-9]{{{most if touches else least},{most}}}"
    return _WORDS.get(piece) or re.escape(piece)


def _pieces(text: str) -> list[str]:
    return re.findall(r"%-?.?|[^%]", text, re.DOTALL)
