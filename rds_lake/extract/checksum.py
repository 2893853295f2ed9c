"""The checksum of rows that have been read, which is what the source would answer if it were asked for it.

A landing needs the fingerprint of exactly what it read. Asking the source costs more than reading the rows, so it is
computed from them: what arrived is then compared, by the next observation, with what the source holds. It can be done
where the texts that the source takes the CRCs of are known without asking: for a key of integers and a cursor that is a
date or a time. For any other table the source is asked.

CRC32 is linear: the CRC of a text is the exclusive or of what each piece of it contributes at its place, and of a
constant for the length. So a text is cut into pieces of few possible values (four digits of a number, a day, a second
of the day), whose contributions are looked up for all rows at once. Both CRCs of a row, that of the text and that of
the text read backwards, are the two halves of one number (docs/decisions/0005-a-fingerprint-of-64-bits.md).
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.extract.fingerprint import EMPTY, version
from rds_lake.extract.types import Column
from rds_lake.spec import TableSpec

Numbers = np.ndarray[Any, np.dtype[Any]]

DIGITS = 4
"""Digits of a number that are looked up together."""

MOST_COLUMNS = 10
"""Most columns of a key whose numbers of digits together fit into one number."""

_INTEGER = re.compile(r"(tinyint|smallint|mediumint|int|bigint)\b(?!.*zerofill)", re.IGNORECASE)
_MOMENT = re.compile(r"(date|datetime|timestamp)(?:\((\d)\))?", re.IGNORECASE)
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND


class _Texts:
    """Texts of one width, as rows of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        rows = [text.encode("ascii") for text in texts]
        self.width = len(rows[0])
        self.rows = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), self.width)


@dataclass(frozen=True)
class _Piece:
    """A piece of the text of every row.

    Attributes:
        values: for each row the place of its text among the texts.
        texts: the texts that it may have.
    """

    values: Numbers
    texts: _Texts


@dataclass
class Checksum:
    """The checksum of one partition's rows, as `rds_lake.extract.fingerprint` has it.

    Attributes:
        key: the columns of the key, all integers, none NULL.
        cursor: the cursor's column.
        fraction: digits that its text has behind the second; None for a date.
        rows: how many rows were added.
    """

    key: tuple[str, ...]
    cursor: str
    fraction: int | None
    rows: int = 0
    _sums: list[int] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return (*self.key, self.cursor)

    @classmethod
    def of(cls, spec: TableSpec, columns: Sequence[Column]) -> "Checksum | None":
        """One for a table's rows; None if the source has to be asked.

        Args:
            spec: the table's YAML.
            columns: its columns as they are read.
        """
        known = {column.name: column for column in columns}
        if spec.cursor is None or not 0 < len(spec.key) <= MOST_COLUMNS:
            return None
        if not all(_is_integer(known[name]) for name in spec.key):
            return None
        kind = _MOMENT.fullmatch(known[spec.cursor.column].type)
        if kind is None or known[spec.cursor.column].as_ is not None:
            return None
        fraction = None if kind[1].lower() == "date" else int(kind[2] or 0)
        return cls(spec.key, spec.cursor.column, fraction)

    def new(self) -> "Checksum":
        """One of the same kind for other rows."""
        return Checksum(self.key, self.cursor, self.fraction)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        moments = batch.column(self.cursor)
        if moments.null_count:
            without = moments.is_null()
            self._add(batch.filter(without), None)
            batch = batch.filter(pc.invert(without))
        if batch.num_rows:
            kind = pa.date32() if self.fraction is None else pa.timestamp("us")
            cursor = _numbers(batch.column(self.cursor).cast(kind))
            self._add(batch, cursor.astype(np.int64) * _DAY if self.fraction is None else cursor)

    def _add(self, batch: pa.RecordBatch, cursor: Numbers | None) -> None:
        keys = [_numbers(batch.column(name)) for name in self.key]
        for shape, rows in _by_shape(keys):
            moments = None if cursor is None else list(_moment(cursor[rows], self.fraction))
            sums = _checksums([key[rows] for key in keys], shape, moments)
            # Of 32 bits each: a sum of the whole numbers would not fit.
            self._sums.append((int((sums >> np.uint64(32)).sum()) << 32) + int((sums & np.uint64(0xFFFFFFFF)).sum()))
        self.rows += batch.num_rows

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all rows that were added."""
        return version(self.rows, sum(self._sums)) if self.rows else EMPTY


def _is_integer(column: Column) -> bool:
    """Whether a column holds integers, and nothing but integers."""
    is_plain = column.as_ is None and not column.nullable
    return is_plain and bool(_INTEGER.match(column.type)) and pa.types.is_integer(column.mapped.arrow)


def _numbers(array: pa.Array) -> Numbers:
    """The values of an array without NULLs, not copied."""
    kind = np.dtype(f"i{array.type.bit_width // 8}")
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]


def _by_shape(keys: Sequence[Numbers]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Rows by how many digits their keys have (negative for negative numbers), on which the lengths of texts depend."""
    if all(len(set(_digits_of(key[[key.argmin(), key.argmax()]]).tolist())) == 1 for key in keys):
        yield tuple(_digits_of(key[:1]).item() for key in keys), slice(None)
        return
    shapes = np.stack([_digits_of(key) for key in keys], axis=1)
    code = np.zeros(len(shapes), np.int64)
    for column in shapes.T:
        code = code * 64 + column + 32
    for one in np.unique(code):
        rows = np.flatnonzero(code == one)
        yield tuple(shapes[rows[0]].tolist()), rows


def _digits_of(numbers: Numbers) -> Numbers:
    powers = np.array([10**power for power in range(1, 20)], np.uint64)
    digits = np.searchsorted(powers, _size(numbers), side="right") + 1
    return np.where(numbers < 0, -digits, digits)


def _size(numbers: Numbers) -> Numbers:
    """The numbers without their signs, that of the least one included."""
    return np.abs(numbers.astype(np.int64)).astype(np.uint64)


def _checksums(keys: Sequence[Numbers], shape: Sequence[int], moment: "list[_Part] | None") -> Numbers:
    """Both CRCs of rows whose keys have texts of the same lengths.

    Of a row with the key 170005 and the cursor 2024-01-02 03:04:05 the text is `'170005','2024-01-02 03:04:05'`. Its
    pieces are 17, 0005, the day and the second of the day, behind which stand 27, 23, 10 and 1 bytes; what is between
    them is the same in every row. So the CRC is that of the text with zero bytes for the pieces (`_template`), changed
    by what each piece contributes with so many bytes behind it (`_contributions`).

    Args:
        keys: the values of each column of the key.
        shape: how many digits those of each have.
        moment: the text of the cursor; None if no row has a value.
    """
    told = [_integer(key, digits) for key, digits in zip(keys, shape, strict=True)]
    cursor = [] if moment is None else [moment]
    forwards = _laid_out([*told, *cursor], quoted=True) + ([b",NULL"] if moment is None else [])
    backwards = _laid_out([*cursor, *reversed(told)], quoted=False)[::-1]
    found = np.full(len(keys[0]), zlib.crc32(_template(forwards)) << 32 | zlib.crc32(_template(backwards)), np.uint64)
    behind = [_behind(parts) for parts in (forwards, backwards)]
    for pieces in (*told, *cursor):
        for piece in pieces:
            if isinstance(piece, _Piece):
                places = [held[id(piece)] for held in behind]
                found ^= _contributions(piece.texts, *places)[piece.values]
    return found


_Part = _Piece | bytes


def _integer(numbers: Numbers, digits: int) -> list[_Part]:
    """The text of numbers that all have as many digits; negative ones if that is negative."""
    parts: list[_Part] = [b"-"] if digits < 0 else []
    size, left = _size(numbers), abs(digits)
    while left:
        width = (left - 1) % DIGITS + 1
        left -= width
        parts.append(_Piece((size // np.uint64(10**left) % np.uint64(10**width)).astype(np.intp), _digits(width)))
    return parts


def _moment(cursor: Numbers, fraction: int | None) -> Iterator[_Part]:
    """The text of moments, microseconds since 1970."""
    days = cursor // _DAY
    first = int(days.min())
    yield _Piece(days - first, _days(first, int(days.max())))
    if fraction is None:
        return
    rest = cursor - days * _DAY
    yield b" "
    yield _Piece(rest // _SECOND, _seconds())
    if fraction:
        yield b"."
        micros = rest % _SECOND
        yield _Piece(micros // 1_000 // 10 ** max(0, 3 - fraction), _digits(min(fraction, 3)))
        if fraction > 3:
            yield _Piece(micros % 1_000 // 10 ** (6 - fraction), _digits(fraction - 3))


def _laid_out(values: Sequence[Sequence[_Part]], *, quoted: bool) -> list[_Part]:
    """The pieces of a whole text: values with commas between them."""
    parts: list[_Part] = []
    for number, value in enumerate(values):
        quote = [b"'"] if quoted else []
        parts += [*([b","] if number else []), *quote, *value, *quote]
    return parts


def _template(parts: Sequence[_Part]) -> bytes:
    """A text whose pieces are zero bytes: its CRC is the constant that their contributions are added to."""
    return b"".join(part if isinstance(part, bytes) else bytes(part.texts.width) for part in parts)


def _behind(parts: Sequence[_Part]) -> dict[int, int]:
    """How many bytes follow each piece."""
    found, total = {}, 0
    for part in reversed(parts):
        found[id(part)] = total
        total += len(part) if isinstance(part, bytes) else part.texts.width
    return found


@lru_cache(maxsize=512)
def _contributions(texts: _Texts, behind: int, behind_backwards: int) -> Numbers:
    """What each text adds to the CRC of the whole text, and to that of the text backwards, in one number.

    Args:
        texts: the texts.
        behind: how many bytes follow in the whole text.
        behind_backwards: how many follow in the text backwards.
    """
    forwards, backwards = _linear(texts.rows, behind), _linear(texts.rows[:, ::-1], behind_backwards)
    return forwards.astype(np.uint64) << np.uint64(32) | backwards.astype(np.uint64)


def _linear(rows: Numbers, behind: int) -> Numbers:
    found = np.zeros(len(rows), np.uint32)
    for place in range(rows.shape[1]):
        found ^= _followed(behind + rows.shape[1] - 1 - place)[rows[:, place]]
    return found


@lru_cache(maxsize=256)
def _followed(zeros: int) -> Numbers:
    """What each byte adds to the CRC of a text, if so many bytes follow."""
    nothing = zlib.crc32(bytes(1 + zeros))
    return np.array([zlib.crc32(bytes([byte, *bytes(zeros)])) ^ nothing for byte in range(256)], np.uint32)


@lru_cache(maxsize=DIGITS)
def _digits(width: int) -> _Texts:
    """All numbers of so many digits, leading zeros included."""
    return _Texts(f"{number:0{width}}" for number in range(10**width))


@lru_cache(maxsize=1)
def _seconds() -> _Texts:
    """All seconds of a day."""
    return _Texts(f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" for second in range(86_400))


@lru_cache(maxsize=64)
def _days(first: int, last: int) -> _Texts:
    """All days from one to another, as days since 1970."""
    start = date(1970, 1, 1)
    return _Texts((start + timedelta(days=day)).isoformat() for day in range(first, last + 1))
