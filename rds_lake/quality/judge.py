"""Which rows break which rules: the rules applied to rows as they stream by, in bounded memory.

DuckDB sees the columns that a rule reads and answers yes or no for each row; the rows themselves never pass through it.
Whether a value is NULL is seen without it, and a rule over one column whose values repeat is asked once for each value.
Rules over many rows see all of them before the first is judged. What is done with the rows, `rds_lake.quality.split`
says.
"""

import shutil
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from tempfile import mkdtemp
from threading import Lock
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake.files import REPEATED
from rds_lake.lake.manifest import Manifest
from rds_lake.quality.rules import (
    AT,
    FILE,
    KEEPS,
    ROW,
    ROWS,
    CompiledRules,
    Lookup,
    applying_rules,
    columns_read,
    engine_settings,
    fill_lookups,
    try_rules,
)

REMEMBERED = 1000
"""Values of a column for which it is remembered which rules they keep."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]
"""For each of some rows, whether it keeps one rule."""


@dataclass(frozen=True)
class Rows:
    """Some landed rows that follow one another.

    Attributes:
        batch: the rows.
        file: the name of the landed file that they came in.
        first: the position of the first in that file.
        before: how many rows of the landed batch come before them.
    """

    batch: pa.RecordBatch
    file: str
    first: int
    before: int

    def seen(self, names: frozenset[str]) -> pa.RecordBatch:
        """What rules see of them: some columns, in the landed order, and where each row stands."""
        place = np.arange(self.batch.num_rows, dtype=np.int64)
        marks = {FILE: pa.repeat(pa.scalar(self.file, pa.string()), len(place)), ROW: pa.array(place + self.first)}
        every = {**dict(zip(self.batch.schema.names, self.batch.columns, strict=True)), **marks}
        columns = {name: column for name, column in every.items() if name in names}
        return pa.record_batch({**columns, AT: pa.array(place + self.before)})

    def repeated(self, names: frozenset[str]) -> str | None:
        """The column of these, if it is one alone and has come as a dictionary of values that repeat."""
        if len(names) != 1 or not names.issubset(self.batch.schema.names):
            return None
        [name] = names
        column = self.batch.column(name)
        repeats = pa.types.is_dictionary(column.type) and len(column.dictionary) * REPEATED <= len(column)
        return name if repeats else None


@dataclass(frozen=True)
class Judged:
    """Some landed rows, and which of them break a rule.

    Attributes:
        rows: the rows.
        bad: the places, among these rows, of those that break a rule, in order.
        reasons: for each of those, the labels of the rules that it breaks.
    """

    rows: Rows
    bad: pa.Array
    reasons: pa.Array

    def valid(self) -> pa.RecordBatch:
        """The rows that keep every rule."""
        batch = self.rows.batch
        if not len(self.bad):
            return batch
        keeps = np.ones(batch.num_rows, dtype=bool)
        keeps[self.bad.to_numpy()] = False
        return batch.filter(pa.array(keeps))

    def invalid(self) -> pa.RecordBatch:
        """The others, as landed."""
        return self.rows.batch.take(self.bad)


class Judge:
    """Applies one table's rules to landed rows. Safe to use from several threads.

    Args:
        lookup_values: the present values of every lookup that the rules name.
    """

    def __init__(self, lookup_values: Mapping[Lookup, pa.Table]) -> None:
        self._lookup_values = lookup_values
        self._lock = Lock()  # one query at a time: DuckDB calls back into Python for the rows
        self._ready: tuple[CompiledRules, tuple[Column, ...]] | None = None
        self._reads: tuple[frozenset[str], ...] = ()
        self._known: dict[str, dict[str | None, tuple[bool, ...]]] = {}
        self._numbers = count()
        scratch = mkdtemp(prefix="rds_lake-")
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self._engine = duckdb.connect(config=engine_settings(scratch))

    def judged(
        self, landed: Manifest, rules: CompiledRules, read: Callable[[bool], Iterator[Rows]]
    ) -> Generator[Judged, None, None]:
        """Judge the rows of one landed batch.

        Args:
            landed: the batch.
            rules: its rules.
            read: reads its rows from the start, each time it is called; told whether texts may come as dictionaries.

        Raises:
            SpecError: a rule cannot be applied.
        """
        if rules.row_by_row:
            yield from (self._judged(rows, rules, self._one_by_one(landed, rules, rows)) for rows in read(True))
            return
        with self._together(landed, rules, read(False)) as kept:
            yield from (self._judged(rows, rules, kept(rows)) for rows in read(True))

    @staticmethod
    def _judged(rows: Rows, rules: CompiledRules, kept: Mapping[int, Flags]) -> Judged:
        bad = np.flatnonzero(~np.logical_and.reduce([np.ones(rows.batch.num_rows, dtype=bool), *kept.values()]))
        breaks = np.column_stack([~kept[number][bad] for number in sorted(kept)]) if len(bad) else np.zeros((0, 1))
        labels = pa.array([rule.label for rule in rules.rules], pa.string())
        ends = np.concatenate([[0], breaks.sum(axis=1).cumsum()])
        reasons = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), labels.take(pa.array(np.nonzero(breaks)[1])))
        return Judged(rows, pa.array(bad), reasons)

    def _one_by_one(self, landed: Manifest, rules: CompiledRules, rows: Rows) -> dict[int, Flags]:
        """For each rule, which rows keep it; every rule looks at one row alone."""
        with self._applying(landed, rules):
            kept: dict[int, Flags] = {}
            by_column: dict[str | None, list[int]] = {}
            for number, names in enumerate(self._reads):
                if column := rules.rules[number].filled:
                    kept[number] = rows.batch.column(column).is_valid().to_numpy(zero_copy_only=False)
                else:
                    by_column.setdefault(rows.repeated(names), []).append(number)
            for name, numbers in by_column.items():
                if name is None:
                    seen = rows.seen(frozenset().union(*(self._reads[number] for number in numbers)))
                    kept |= self._ask(rules, numbers, seen)
                else:
                    texts = rows.batch.column(name)
                    values = pa.concat_arrays([texts.dictionary, pa.nulls(1, texts.dictionary.type)])
                    place = texts.indices.fill_null(len(values) - 1).to_numpy()
                    found = self._ask_of_values(rules, numbers, name, values)
                    kept |= {number: flags[place] for number, flags in found.items()}
            return kept

    def _ask_of_values(self, rules: CompiledRules, numbers: list[int], name: str, values: pa.Array) -> dict[int, Flags]:
        """For each rule over one column alone, which values keep it; few values are remembered, and not asked again."""
        if len(values) > REMEMBERED:
            return self._ask(rules, numbers, pa.record_batch({name: values}))
        known = self._known.setdefault(name, {})
        if len(known) > REMEMBERED:
            known.clear()
        texts = values.to_pylist()
        if unknown := [text for text in texts if text not in known]:
            asked = self._ask(rules, numbers, pa.record_batch({name: pa.array(unknown, values.type)}))
            known.update(zip(unknown, zip(*(asked[number] for number in numbers), strict=True), strict=True))
        flags = np.array([known[text] for text in texts], dtype=bool)
        return {number: flags[:, place] for place, number in enumerate(numbers)}

    def _ask(self, rules: CompiledRules, numbers: list[int], seen: pa.RecordBatch) -> dict[int, Flags]:
        with self._given([seen]):
            found: dict[str, Any] = self._engine.execute(rules.keeps(ROWS, numbers)).fetchnumpy()
        return dict(zip(numbers, found.values(), strict=True))

    @contextmanager
    def _together(
        self, landed: Manifest, rules: CompiledRules, every: Iterator[Rows]
    ) -> Iterator[Callable[[Rows], dict[int, Flags]]]:
        """Apply rules to all rows at once; gives what says then, of some rows, which keep each rule.

        What was found waits in a table of the engine, which takes to the disk what is much.
        """
        first = next(every, None)  # fetched before the engine is taken, so that others may use it meanwhile
        if first is None:
            yield lambda _: {}
            return
        table = f"{KEEPS}broken_{next(self._numbers)}"
        with self._applying(landed, rules):
            names = frozenset().union(*self._reads)
            with self._given(rows.seen(names) for rows in chain([first], every)):
                self._engine.execute(f"CREATE TABLE {table} AS {rules.broken(ROWS)}")

        def kept(rows: Rows) -> dict[int, Flags]:
            size = rows.batch.num_rows
            text = f"SELECT * FROM {table} WHERE {AT} >= ? AND {AT} < ?"
            with self._lock:
                found: dict[str, Any] = self._engine.execute(text, [rows.before, rows.before + size]).fetchnumpy()
            place = found.pop(AT) - rows.before
            flags = np.ones((len(found), size), dtype=bool)
            flags[:, place] = list(found.values())
            return dict(enumerate(flags))

        try:
            yield kept
        finally:
            with self._lock:
                self._engine.execute(f"DROP TABLE {table}")

    @contextmanager
    def _applying(self, landed: Manifest, rules: CompiledRules) -> Iterator[None]:
        """Have the engine, ready for the rules: it may have been asked about other columns in between."""
        with self._lock, applying_rules(landed.table, f"the partition {landed.partition}"):
            if self._ready != (rules, landed.columns):
                marked = pa.schema([*arrow_schema(landed.columns), (FILE, pa.string()), (ROW, pa.int64())])
                fill_lookups(self._engine, rules, self._lookup_values, landed.table, landed.columns)
                try_rules(self._engine, rules, landed.table, marked)
                self._reads = columns_read(self._engine, rules, marked.names)
                self._ready = rules, landed.columns
                self._known = {}
            yield

    @contextmanager
    def _given(self, batches: Iterable[pa.RecordBatch]) -> Iterator[None]:
        """Have the engine know some batches, of which there is one at least, as the rows."""
        given = iter(batches)
        first = next(given)
        self._engine.register(ROWS, pa.RecordBatchReader.from_batches(first.schema, chain([first], given)))
        try:
            yield
        finally:
            self._engine.unregister(ROWS)
