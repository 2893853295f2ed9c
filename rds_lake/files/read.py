"""Reading a file against a schema: its rows as texts, column by column, whatever the file's own form.

A batch has the line and one text per column; what cannot even be cut into columns comes beside it. Parquet goes the
same way: its values are written as texts that stand for the same value, so that one judgement serves both.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context
from itertools import chain
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import LINE, MISSING_COLUMN, RefusedError, TableSchema
from rds_lake.files.schema import SHOWN as COLUMN_SHOWN
from rds_lake.files.text import Broken, Record, read_records
from rds_lake.files.types import Written, written
from rds_lake.sql import quote

ROWS = 16_384
"""Rows of a batch."""

PIECE = 2048
"""Rows that are taken out of Parquet at a time: one of its values may stand for many megabytes."""

CHARACTERS = 8 * 1024 * 1024
"""Characters of text that end a batch: long rows make it shorter."""

SHOWN = 1000
"""Characters of the columns' names that a message shows."""

_PARQUET = (".parquet", ".parq", ".pq")

_EXACT = Context(prec=50)
_NO_DECIMAL = -(2**127)
"""The number of 39 digits that Arrow's own validation takes for one of 38, and that DuckDB fails on."""


@dataclass(frozen=True)
class Texts:
    """Some rows of a file.

    Attributes:
        rows: the line of each row (`LINE`; of Parquet its number, from 1), and those of the schema's columns that the
            file has.
        texts: for each of these columns the SQL of its text.
        broken: what stands between the rows and cannot be cut into columns.
        fits: the SQL of whether a value can be one of its column at all, for those columns where one may not be,
            whatever its text is.
    """

    rows: pa.Table
    texts: Mapping[str, str]
    broken: tuple[Broken, ...] = ()
    fits: Mapping[str, str] = field(default_factory=dict)


def is_parquet(name: str) -> bool:
    """Whether a file's name says that it is Parquet."""
    return name.lower().endswith(_PARQUET)


def read_texts(content: IO[bytes], name: str, size: int, schema: TableSchema, options: CsvOptions) -> Iterator[Texts]:
    """The rows of a file.

    Args:
        content: the file, at its start; it can seek.
        name: what it is called, which says of what form it is.
        size: its bytes.
        schema: the table's schema.
        options: how delimited text is to be read.

    Raises:
        RefusedError: it is no such file, or its columns are not the table's.
    """
    if is_parquet(name):
        return _read_parquet(content, name, schema)
    return _cut(read_records(content, name, size, options), name, schema, options)


# --- delimited text --------------------------------------------------------------------------------------------------


def _cut(records: Iterator[Record | Broken], name: str, schema: TableSchema, options: CsvOptions) -> Iterator[Texts]:
    first = next((item for item in records if not _is_empty(item)), None)
    if first is None:
        raise RefusedError(f"{name} is empty.", "Drop a file with rows.")
    if isinstance(first, Broken) and options.header != "absent":
        raise RefusedError(
            f"{name}, line {first.line}, {first.reason}. It is the one that may name the columns.",
            "Correct it, or say 'header: absent' in the YAML if these files have no header.",
        )
    header = isinstance(first, Record) and _is_header(first.fields, name, schema, options)
    names = _header_columns(first.fields, name, schema) if header and isinstance(first, Record) else schema.names
    gathered = _Gathered(name, names, options)
    # empty lines ahead of a header say nothing; ahead of a row they may be rows
    ahead = () if header else chain((Record(line, [], "") for line in range(1, first.line)), [first])
    for item in chain(ahead, records):
        gathered.take(item)
        if gathered.is_full:
            yield gathered.taken()
    yield gathered.taken()


def _is_empty(item: Record | Broken) -> bool:
    return isinstance(item, Record) and not item.fields


class _Gathered:
    """Records that become a batch.

    Args:
        file: what their file is called.
        names: the columns that each of them has.
        options: how they are read.
    """

    def __init__(self, file: str, names: Sequence[str], options: CsvOptions) -> None:
        self._file = file
        self._names = names
        self._nulls = frozenset(options.nulls)
        self._lines: list[int] = []
        self._rows: list[list[str]] = []
        self._broken: list[Broken] = []
        self._characters = 0

    @property
    def is_full(self) -> bool:
        """Whether it holds enough of them."""
        return len(self._rows) + len(self._broken) >= ROWS or self._characters >= CHARACTERS

    def take(self, item: Record | Broken) -> None:
        """Add a record. An empty line is one where each has a single field, else none.

        Raises:
            RefusedError: it has swallowed others, as it seems.
        """
        self._characters += len(item.raw)
        if isinstance(item, Broken):
            self._broken.append(item)
        elif not item.fields:
            if len(self._names) == 1:
                self._lines.append(item.line)
                self._rows.append([""])
        elif len(item.fields) != len(self._names):
            reason = f"has {len(item.fields)} fields, not {len(self._names)}{_hint(item.fields)}"
            if "\n" in item.raw or "\r" in item.raw:
                raise RefusedError(
                    f"{self._file}, line {item.line}: what begins there goes over several lines and {reason}.",
                    "Is a quote left open? Close it, and double the quotes inside of fields.",
                )
            self._broken.append(Broken(item.line, item.raw, reason))
        else:
            self._lines.append(item.line)
            self._rows.append(item.fields)

    def taken(self) -> Texts:
        """What was gathered, of which nothing is held any more."""
        columns = zip(*self._rows, strict=True) if self._rows else ([] for _ in self._names)
        arrays = [
            pa.array([None if value in self._nulls else value for value in values], pa.string()) for values in columns
        ]
        rows = pa.table([pa.array(self._lines, pa.int64()), *arrays], names=[LINE, *self._names])
        texts = Texts(rows, {name: quote(name) for name in self._names}, tuple(self._broken))
        self._lines, self._rows, self._broken, self._characters = [], [], [], 0
        return texts


def _is_header(fields: list[str], name: str, schema: TableSchema, options: CsvOptions) -> bool:
    """Whether the first row names the columns: all of it does, or nothing.

    Raises:
        RefusedError: some of it does. To guess would lose a row, or load a header as one.
    """
    if options.header != "auto":
        return options.header == "present"
    names = set(schema.names)
    are_names = [_folded(text) in names for text in fields]
    if any(are_names) and not all(are_names):
        raise _unknown(f"The first row of {name} looks like a header, but", fields, are_names.index(False), schema)
    return all(are_names)


def _header_columns(fields: list[str], name: str, schema: TableSchema) -> list[str]:
    given, names = [_folded(text) for text in fields], set(schema.names)
    for number, text in enumerate(given):
        if text not in names:
            raise _unknown(name, fields, number, schema)
        if given.count(text) > 1:
            code = MISSING_COLUMN if _missing(given, schema) else None
            raise RefusedError(f"{name} names the column '{text}' twice.", "Name each column once.", code)
    _check_required(name, given, schema)
    return given


def _check_required(name: str, given: Sequence[str], schema: TableSchema) -> None:
    if missing := _missing(given, schema):
        raise RefusedError(f"{name} lacks the column '{missing}', which needs a value.", "Add it.", MISSING_COLUMN)


def _missing(given: Sequence[str], schema: TableSchema) -> str | None:
    """The first column that needs a value and is not among those that a file has."""
    return min(schema.required - set(given), default=None)


def _unknown(
    what: str, fields: Sequence[str], number: int, schema: TableSchema, *, is_text: bool = True
) -> RefusedError:
    """The refusal of a header that names a column which the table has not.

    Args:
        what: what the sentence begins with.
        fields: the header.
        number: which of them it is, from 0.
        schema: the table's schema.
        is_text: whether it may be a row after all, whose texts may be somebody's data.
    """
    has = ", ".join(schema.names)
    has = has if len(has) <= SHOWN else f"{has[:SHOWN]}…"
    if is_text and any(column.personal for column in schema.columns):
        said = f"has a name for its {_ordinal(number + 1)} column that the table does not know"
    else:
        said = f"names the column '{_folded(fields[number])[:COLUMN_SHOWN]}', which the table does not have"
    missing = _missing([_folded(text) for text in fields], schema)
    lacks = f", and lacks '{missing}', which needs a value" if missing else ""
    remedy = "Correct the header, or drop a schema file that adds the column. If it is a row: say 'header: absent'."
    if not is_text:
        remedy = _parquet_remedy(fields[number])
    return RefusedError(
        f"{what} {said} (it has {has}){lacks}{_hint(fields)}.", remedy, MISSING_COLUMN if missing else None
    )


def _parquet_remedy(column: str) -> str:
    """What to do about a column of Parquet that the table has not."""
    if re.fullmatch("__index_level_[0-9]+__", column):
        return "It is the index that pandas writes beside the columns: write the file with index=False."
    return "Write the file without it or under its right name, or drop a schema file that adds the column."


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in {11, 12, 13} else last}"


def _hint(fields: Sequence[str]) -> str:
    if len(fields) == 1:
        for mark, word in ((";", "';'"), ("\t", "a tab"), ("|", "'|'")):
            if mark in fields[0]:
                return f"; its fields seem to be separated by {word}, which 'delimiter' has to say"
    return ""


def _folded(text: str) -> str:
    return text.strip().lower()


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _read_parquet(content: IO[bytes], name: str, schema: TableSchema) -> Iterator[Texts]:
    try:
        file = pq.ParquetFile(content, coerce_int96_timestamp_unit="us")  # as nanoseconds, 9999 would become 1816
        plain = _parquet_columns(list(file.schema_arrow), name, schema)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise RefusedError(f"{name} is no Parquet file: {str(error).rstrip('.')}.", "Write it again.") from error
    names, kinds = [LINE, *plain], [how.kind for how in plain.values()]
    texts = {given: how.text for given, how in plain.items()}
    fits = {given: how.fits for given, how in plain.items() if how.fits}
    row = 1
    try:
        for rows in _some_rows(file):
            lines = pa.array(range(row, row + rows.num_rows), pa.int64())
            values = [_plain(column, kind) for column, kind in zip(rows.columns, kinds, strict=True)]
            yield Texts(pa.table([lines, *values], names=names), texts, fits=fits)
            row += rows.num_rows
    except (pa.ArrowException, OSError) as error:
        raise RefusedError(f"{name} is damaged: {str(error).rstrip('.')}.", "Write it again.") from error


def _plain(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column without a dictionary, as values of the type that it is written from.

    Raises:
        pa.ArrowInvalid: it has what its own type has not.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal256(column.type):  # Arrow's own texts of small ones have exponents, which no decimal has
        return pa.chunked_array(
            [[None if value is None else f"{value:f}" for value in column.to_pylist()]], pa.string()
        )
    if pa.types.is_decimal128(column.type):
        least = pa.compute.min(column).as_py()
        if least is not None and int(least.scaleb(column.type.scale, _EXACT)) == _NO_DECIMAL:
            raise pa.ArrowInvalid(f"a value is no {column.type}")
    return column.cast(kind)


def _parquet_columns(columns: Sequence[pa.Field], name: str, schema: TableSchema) -> dict[str, Written]:
    """The columns of a file, each with how its values are written."""
    fields = {_folded(item.name): item for item in columns}
    if len(fields) < len(columns):
        raise RefusedError(f"{name} has two columns whose names differ in case only.", "Rename one of them.")
    given, names = list(fields), set(schema.names)
    for number, text in enumerate(given):
        if text not in names:
            raise _unknown(name, given, number, schema, is_text=False)
    _check_required(name, given, schema)
    return {given: _written(name, given, item) for given, item in fields.items()}


def _some_rows(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """The rows in batches of bounded size, whatever a file of a few bytes unpacks to."""
    gathered: list[pa.RecordBatch] = []
    for rows in file.iter_batches(batch_size=PIECE):
        rows.validate(full=True)  # texts that are no UTF-8, for one
        gathered.append(rows)
        if len(gathered) * PIECE >= ROWS or sum(some.nbytes for some in gathered) >= CHARACTERS:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)


def _written(name: str, given: str, item: pa.Field) -> Written:
    found = written(quote(given), item.type)
    if found is None:
        raise RefusedError(
            f"{name}: the column {item.name} is {item.type}, which no column can take.", "Write it as text."
        )
    return found
