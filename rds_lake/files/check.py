"""Checking rows against a schema: which fit, which do not and why, and what cleaning puts in the place of a value.

Each row comes out once: as typed values, or as discarded with its texts, its line and all of its reasons. No reason
holds a value, so that reports show no personal data.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from rds_lake.files.options import CsvOptions
from rds_lake.files.read import Texts
from rds_lake.files.schema import LINE, FileColumn, TableSchema
from rds_lake.files.spec import Cleaning
from rds_lake.files.text import Broken
from rds_lake.files.types import judge
from rds_lake.sql import literal, quote

REASONS, RAW, FILE = "_reasons", "_raw", "_file"

_TEXT, _FITS, _VALUE, _CLEANED, _PAIRS = " text of ", " fits ", " value of ", " cleaned", " pairs"
"""Names inside of the query, which no column has: none begins with a blank."""

UNREADABLE = "unreadable"
"""How records are counted that cannot be cut into columns."""


@dataclass(frozen=True)
class Checked:
    """Some rows after the check.

    Attributes:
        valid: the rows that fit, typed, with their line; where values were replaced, `_raw` has the old ones.
        discarded: the others: `_file`, `_line`, `_reasons`, `_raw` (the record's own text, where it could not be cut),
            and each column as text.
        reasons: how often each reason occurs; of those that are discarded, and of those that were cleaned.
        first: the line and reasons of the first discarded row.
    """

    valid: pa.RecordBatch
    discarded: pa.RecordBatch
    reasons: Counter[str]
    cleaned: Counter[str]
    first: tuple[int, str] | None


class Checker:
    """Checks the rows of one file.

    Args:
        engine: a connection of DuckDB.
        schema: the table's schema.
        options: how the file is read.
        name: what it is called.
        cleaning: what is put in the place of values; none for a drop zone.
        moment: the time of processing.
    """

    def __init__(
        self,
        engine: duckdb.DuckDBPyConnection,
        schema: TableSchema,
        options: CsvOptions,
        name: str,
        cleaning: Sequence[Cleaning] = (),
        moment: datetime | None = None,
    ) -> None:
        engine.execute("SET TimeZone = 'UTC'")  # of moments that name no zone
        self._engine = engine
        self._schema = schema
        self._options = options
        self._name = name
        self._cleaning = {rule.column: rule for rule in cleaning}
        self._moment = moment or datetime.now(UTC)

    @property
    def valid_schema(self) -> pa.Schema:
        """What valid rows are."""
        fields = [pa.field(column.name, column.declared.arrow) for column in self._schema.columns]
        raw = [pa.field(RAW, pa.string())] if self._cleaning else []
        return pa.schema([*fields, pa.field(LINE, pa.int64()), *raw])

    @property
    def discarded_schema(self) -> pa.Schema:
        """What discarded rows are."""
        own = [(FILE, pa.string()), (LINE, pa.int64()), (REASONS, pa.list_(pa.string())), (RAW, pa.string())]
        return pa.schema([*own, *((name, pa.string()) for name in self._schema.names)])

    def check(self, texts: Texts) -> Checked:
        """Check some rows."""
        found = self._judged(texts)
        reasons = found.column(REASONS)
        is_valid = pa.compute.equal(pa.compute.list_value_length(reasons), 0)
        valid = found.filter(is_valid).select(self.valid_schema.names).cast(self.valid_schema)
        bad = found.filter(pa.compute.invert(is_valid))
        discarded = pa.concat_tables([self._discarded(bad), self._broken(texts.broken)])
        counts = Counter(reason for row in bad.column(REASONS).to_pylist() for reason in row)
        if texts.broken:
            counts[UNREADABLE] += len(texts.broken)
        cleaned = Counter(reason for row in found.filter(is_valid).column(_CLEANED).to_pylist() for reason in row)
        return Checked(_whole(valid), _whole(discarded), counts, cleaned, _first(discarded))

    def discard(self, texts: Texts, reason: str) -> pa.RecordBatch:
        """Rows that fit, as discarded for a reason that the whole file gives."""
        given = ", ".join(
            f"{self._text(column, texts)} AS {_text_name(column.name)}" for column in self._schema.columns
        )
        query = f"SELECT {quote(LINE)}, [{literal(reason)}]::VARCHAR[] AS {REASONS}, {given} FROM given"
        return _whole(self._discarded(self._asked(query, texts)))

    def _judged(self, texts: Texts) -> pa.Table:
        return self._asked(self._query(texts), texts)

    def _asked(self, query: str, texts: Texts) -> pa.Table:
        self._engine.register("given", texts.rows)
        try:
            return self._engine.sql(query).to_arrow_table()
        finally:
            self._engine.unregister("given")

    def _query(self, texts: Texts) -> str:
        """Step by step, so that no step repeats the SQL of the one before: a table may have a thousand columns."""
        columns, required = self._schema.columns, self._schema.required
        parts = [
            _Part(column, self._cleaning.get(column.name), column.name in required, column.name in texts.fits)
            for column in columns
        ]
        given = [f"{self._text(part.column, texts)} AS {part.text}" for part in parts]
        given += [f"{texts.fits[part.name]} AS {part.fits}" for part in parts if part.is_bounded]
        judged = [f"{part.judged} AS {part.plain}" for part in parts]
        values = [f"{part.value(self._moment)} AS {quote(part.name)}" for part in parts]
        shown = [part.text for part in parts]
        reasons = ", ".join(part.reason for part in parts)
        cleaned = ", ".join(part.cleaned for part in parts if part.rule)
        pairs = ", ".join(part.pair for part in parts if part.rule)
        some = "list_filter([{}], lambda x: x IS NOT NULL)"
        raw = f"to_json(map_from_entries({some.format(pairs)}))" if pairs else "NULL"
        return (
            f"SELECT *, CASE WHEN len({quote(_CLEANED)}) > 0 THEN {quote(_PAIRS)} END AS {RAW} FROM "
            f"(SELECT {quote(LINE)}, {', '.join(values)}, {', '.join(shown)}, "
            f"{some.format(reasons)}::VARCHAR[] AS {REASONS}, {some.format(cleaned) if cleaned else '[]'}::VARCHAR[] "
            f"AS {quote(_CLEANED)}, {raw} AS {quote(_PAIRS)} FROM "
            f"(SELECT *, {', '.join(judged)} FROM (SELECT {quote(LINE)}, {', '.join(given)} FROM given)))"
        )

    def _text(self, column: FileColumn, texts: Texts) -> str:
        """SQL of a column's text, NULL where there is no value."""
        text = texts.texts.get(column.name)
        if text is None:
            return "CAST(NULL AS VARCHAR)"
        if column.name in texts.fits:  # it is never blank, and long
            return text
        if not column.declared.is_text or self._options.empty_is_null:
            return f"CASE WHEN trim({text}) <> '' THEN {text} END"
        return text

    def _discarded(self, bad: pa.Table) -> pa.Table:
        names = pa.repeat(pa.scalar(self._name), bad.num_rows)
        none = pa.nulls(bad.num_rows, pa.string())
        texts = [bad.column(_TEXT + name) for name in self._schema.names]
        columns = [names, bad.column(LINE), bad.column(REASONS), none, *texts]
        return pa.table(columns, names=self.discarded_schema.names).cast(self.discarded_schema)

    def _broken(self, broken: Sequence[Broken]) -> pa.Table:
        rows = [
            {
                FILE: self._name,
                LINE: item.line,
                REASONS: [item.reason],
                RAW: item.raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
            }
            for item in broken
        ]
        return pa.Table.from_pylist(rows, schema=self.discarded_schema)


@dataclass(frozen=True)
class _Part:
    """The SQL of one column.

    Attributes:
        column: the column.
        rule: what takes the place of its values.
        required: whether it needs one.
        is_bounded: whether the file may hold values that are none of any column, whatever their text is.
    """

    column: FileColumn
    rule: Cleaning | None
    required: bool
    is_bounded: bool

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name

    @property
    def text(self) -> str:
        """Its text."""
        return _text_name(self.name)

    @property
    def fits(self) -> str:
        """Whether it can be a value at all."""
        return quote(_FITS + self.name)

    @property
    def plain(self) -> str:
        """The value that the text stands for, NULL if it does not fit."""
        return quote(_VALUE + self.name)

    @property
    def judged(self) -> str:
        """What makes `plain` of `text`."""
        value = judge(self.column.declared, self.text, formats=self.column.formats, thousands=self.column.thousands)
        return f"CASE WHEN {self.fits} THEN {value} END" if self.is_bounded else value

    @property
    def _is_missing(self) -> str:
        """Whether there is no value; for cleaning, blanks are none."""
        blank = f" OR trim({self.text}) = ''" if self.rule else ""
        return f"({self.text} IS NULL{blank})"

    @property
    def _is_invalid(self) -> str:
        """Whether there is a text that is no value; for cleaning, and one that `_raw` can keep: JSONB takes no NUL."""
        return f"(NOT {self._is_missing} AND {self.plain} IS NULL AND NOT contains({self.text}, chr(0)))"

    @property
    def _is_replaced(self) -> str:
        whens = [self._is_missing] if self.rule and self.rule.missing else []
        whens += [self._is_invalid] if self.rule and self.rule.invalid else []
        return f"({' OR '.join(whens)})"

    def value(self, moment: datetime) -> str:
        """The value, or what takes its place."""
        if self.rule is None:
            return self.plain
        new = judge(self.column.declared, literal(self.rule.replacement(self.column.declared, moment)))
        return f"CASE WHEN {self._is_replaced} THEN {new} ELSE {self.plain} END"

    @property
    def reason(self) -> str:
        """Why the row does not fit, NULL when it does."""
        replaced = f"WHEN {self._is_replaced} THEN NULL" if self.rule else ""
        missing = literal(f"{self.name} is missing") if self.required else "NULL"
        wrong = literal(f"{self.name} is no {self.column.type}")
        return f"CASE {replaced} WHEN {self._is_missing} THEN {missing} WHEN {self.plain} IS NULL THEN {wrong} END"

    @property
    def cleaned(self) -> str:
        """What was replaced, NULL when nothing was."""
        missing, invalid = (literal(f"{self.name} was {what}") for what in ("missing", "invalid"))
        return f"CASE WHEN NOT {self._is_replaced} THEN NULL WHEN {self._is_missing} THEN {missing} ELSE {invalid} END"

    @property
    def pair(self) -> str:
        """The column's name and its old text, NULL when nothing was replaced."""
        return f"CASE WHEN {self._is_replaced} THEN {{'key': {literal(self.name)}, 'value': {self.text}}} END"


def _text_name(column: str) -> str:
    return quote(_TEXT + column)


def _whole(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _first(discarded: pa.Table) -> tuple[int, str] | None:
    if not discarded.num_rows:
        return None
    lines = discarded.column(LINE)
    at = pa.compute.index(lines, pa.compute.min(lines)).as_py()
    return lines[at].as_py(), "; ".join(discarded.column(REASONS)[at].as_py())
