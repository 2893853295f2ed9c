"""Rules compiled to SQL: one condition per rule, and one predicate that tells valid rows from invalid ones.

Every condition is two-valued (NULL counts as broken), so `NOT condition` is exactly the rows that break it.
The text is plain enough for DuckDB and Spark. Lookups are read through tables that the caller fills.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column
from rds_lake.quality.fits import fit_conditions
from rds_lake.spec import AcceptedValues, Between, InLookup, Matches, NotNull, Rule, SqlRule, TableSpec, Unique
from rds_lake.sql import literal, quote, quote_all

ROW = "_source_row"
"""Position of a row in its landed file; the last word where two rows are equal in everything else."""

FILE = "_source_file"
"""Name of the landed file that a row came in."""

KEEPS = "_keeps_"
"""How the columns begin that hold, inside the query only, whether a row keeps a rule."""

AT = f"{KEEPS}at"
"""Position of a row among those that the rules are applied to, inside the query only."""

ROWS = f"{KEEPS}rows"
"""The relation that rules are evaluated over, inside the query only. It can be read once, so no rule of a YAML may read
it again: it is not called as anybody would guess.
"""

Lookup = tuple[str, str]
"""A lookup table and its column."""

ENGINE_MEMORY = "256MB"
"""What DuckDB may hold before it goes to disk; only rules that compare rows with one another hold any."""

COMPILER = 1
"""Changes when the same YAML means something else, so that everything is split again."""


@dataclass(frozen=True)
class CompiledRule:
    """One rule as SQL.

    Attributes:
        label: what `_failed_rules` calls it.
        condition: true for a valid row, false for any other.
        implied: whether it is made from the columns alone, so that nothing in the YAML can make it fail.
        filled: the column that must not be NULL, if the condition says just that.
    """

    label: str
    condition: str
    implied: bool = False
    filled: str | None = None


@dataclass(frozen=True)
class CompiledRules:
    """A table's rules as SQL.

    Attributes:
        rules: the rules.
        compared: the columns that are looked up, each with its lookup, in the order of the tables `lookup_0`, ... that
            hold the lookup's values as values of the column.
    """

    rules: tuple[CompiledRule, ...]
    compared: tuple[tuple[str, Lookup], ...]

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lookups that the rules read."""
        return tuple(dict.fromkeys(lookup for _, lookup in self.compared))

    @property
    def predicate(self) -> str:
        """True for a row that keeps every rule."""
        return " AND ".join(f"({rule.condition})" for rule in self.rules) or "TRUE"

    @property
    def row_by_row(self) -> bool:
        """Whether every rule looks at one row alone, so that rows can be evaluated in portions."""
        return not any("over" in rule.condition.lower() for rule in self.rules)

    def select(self, relation: str) -> str:
        """A query that adds `_failed_rules` to every row: the labels of the broken rules, NULL when there are none."""
        if not self.rules:
            return f"SELECT *, NULL::VARCHAR[] AS _failed_rules FROM {relation}"
        return (
            f"SELECT * EXCLUDE ({', '.join(self._kept)}), CASE WHEN {' AND '.join(self._kept)} THEN NULL "
            f"ELSE {self._labels} END AS _failed_rules FROM (SELECT *, {self._flags} FROM {relation})"
        )

    def keeps(self, relation: str, numbers: Sequence[int]) -> str:
        """A query that says of each row whether it keeps some of the rules, in columns of the form `_keeps_0`."""
        flags = [f"CAST({self.rules[n].condition} AS BOOLEAN) AS {KEEPS}{n}" for n in numbers]
        return f"SELECT {', '.join(flags)} FROM {relation}"

    def broken(self, relation: str) -> str:
        """A query for the rows that break a rule, by where they stand, with the columns of `keeps`."""
        return (
            f"SELECT {AT}, {', '.join(self._kept)} FROM (SELECT {AT}, {self._flags} FROM {relation}) "
            f"WHERE NOT ({' AND '.join(self._kept)})"
        )

    @property
    def _kept(self) -> list[str]:
        """For each rule the column that says whether a row keeps it."""
        return [f"{KEEPS}{number}" for number in range(len(self.rules))]

    @property
    def _flags(self) -> str:
        return ", ".join(f"{rule.condition} AS {name}" for rule, name in zip(self.rules, self._kept, strict=True))

    @property
    def _labels(self) -> str:
        """The labels of the rules that a row does not keep."""
        named = zip(self._kept, self.rules, strict=True)
        cases = ", ".join(f"CASE WHEN NOT {name} THEN {literal(rule.label)} END" for name, rule in named)
        return f"list_filter([{cases}], lambda label: label IS NOT NULL)"

    def digest(self, lookup_values: Mapping[Lookup, pa.Table]) -> str:
        """What identifies the rules together with the lookups' present values."""
        content = {
            "compiler": COMPILER,
            "rules": [[rule.label, rule.condition] for rule in self.rules],
            "lookups": [[*lookup, *_content(lookup_values[lookup])] for lookup in self.lookups],
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def compile_rules(
    spec: TableSpec, columns: tuple[str, ...], *, source_unique: bool, carried: Sequence[Column] = ()
) -> CompiledRules:
    """A table's declared rules, and those that its key and its columns imply.

    A key column is never NULL, and rows do not repeat: neither a key, nor (without one) a whole row. Of rows that
    repeat the newest stays. What the warehouse cannot hold does not go there.

    Args:
        spec: the table's YAML.
        columns: the landed columns' names.
        source_unique: whether the source itself keeps the key unique, which saves looking for repetitions.
        carried: the landed columns, as far as the rules that their types imply are wanted.
    """
    rules: list[Rule] = list(spec.rules)
    not_null = {rule.column for rule in rules if isinstance(rule, NotNull)}
    rules += [
        NotNull(rule="not_null", column=column, name=f"not_null_{column}")
        for column in spec.key
        if column not in not_null
    ]
    if not source_unique:
        name = "duplicate_key" if spec.key else "duplicate_row"
        rules.append(Unique(rule="unique", columns=spec.key or columns, name=name))
    looked_up = [(r.column, (r.lookup_table, r.lookup_column)) for r in rules if isinstance(r, InLookup)]
    compared = tuple(dict.fromkeys(looked_up))
    newest_first = [f"{quote(spec.cursor.column)} DESC NULLS LAST"] if spec.cursor else []
    order = ", ".join([*newest_first, FILE, ROW])
    compiled = [
        CompiledRule(
            rule.label,
            _condition(rule, compared, order),
            filled=rule.column if isinstance(rule, NotNull) else None,
        )
        for rule in rules
    ]
    fitting = [CompiledRule(label, condition, implied=True) for label, condition in fit_conditions(carried)]
    return CompiledRules(rules=(*compiled, *fitting), compared=compared)


def _condition(rule: Rule, compared: tuple[tuple[str, Lookup], ...], order: str) -> str:
    match rule:
        case NotNull():
            return f"{quote(rule.column)} IS NOT NULL"
        case Unique():
            return f"ROW_NUMBER() OVER (PARTITION BY {quote_all(rule.columns)} ORDER BY {order}) = 1"
        case SqlRule():
            return f"COALESCE(({rule.where}), FALSE)"
        case InLookup():
            number = compared.index((rule.column, (rule.lookup_table, rule.lookup_column)))
            test = f"{quote(rule.column)} IN (SELECT v FROM lookup_{number})"
        case AcceptedValues():
            test = f"{quote(rule.column)} IN ({', '.join(map(literal, rule.values))})"
        case Matches():
            test = f"regexp_full_match(CAST({quote(rule.column)} AS VARCHAR), {literal(rule.pattern)})"
        case Between():
            bounds = ((">=", rule.min), ("<=", rule.max))
            test = " AND ".join(f"{quote(rule.column)} {op} {literal(v)}" for op, v in bounds if v is not None)
    return f"COALESCE({test}, {str(rule.allow_null).upper()})"


def _content(values: pa.Table) -> list[str]:
    return [str(values.schema.field("value").type), *values.column("text").to_pylist()]


def fill_lookups(
    connection: duckdb.DuckDBPyConnection,
    rules: CompiledRules,
    values: Mapping[Lookup, pa.Table],
    table: str,
    columns: Sequence[Column],
) -> None:
    """Make a connection ready: the tables that the conditions read their lookups from, and no progress bar.

    A lookup's value counts if it is one of the column's own type, unchanged. Texts would be no measure: the source and
    the engine write the same number or time in different ways.

    Args:
        connection: the engine.
        rules: the rules.
        values: the values of each lookup, as `Source.lookup` returns them.
        table: the table's name.
        columns: the columns of the rows that the rules are applied to.

    Raises:
        SpecError: a column cannot have any value of its lookup, so that every row would be discarded.
    """
    connection.execute("SET enable_progress_bar = false")  # it would be printed among what a command says
    present = {column.name: column for column in columns}
    for number, (name, lookup) in enumerate(rules.compared):
        column = present.get(name, Column(name, "text"))  # `try_rules` names one that is not there
        kind, own = column.mapped.arrow, values[lookup].schema.field("value").type
        given = _as_carried(column, values[lookup])
        connection.register("lookup_values", pa.table({"v": given}))
        there, back = (_engine_type(connection, each) for each in (kind, given.type))
        as_there = f"TRY_CAST(v AS {there})"
        connection.execute(
            f"CREATE OR REPLACE TABLE lookup_{number} AS "
            f"SELECT {as_there} AS v FROM lookup_values WHERE TRY_CAST({as_there} AS {back}) = v"
        )
        connection.unregister("lookup_values")
        [(count,)] = connection.execute(f"SELECT COUNT(*) FROM lookup_{number}").fetchall()
        if not count:
            raise SpecError(
                f"{table}: no value of the lookup '{'.'.join(lookup)}' ({own}) can be one of the column '{name}' "
                f"({column.type}, {kind}), so that every row would be discarded.",
                f"Name another lookup_column in defs/{table}/defs.yaml, or say how the column is carried ('as').",
            )


def _as_carried(column: Column, values: pa.Table) -> pa.ChunkedArray:
    """A lookup's values as a column carries its own; none where one has bytes and the other has not.

    Which text some bytes are, and which bytes a shape is, is not to be seen in them.
    """
    kind, own = column.mapped.arrow, values.schema.field("value").type
    are_bytes = column.kind == "bytes" or (column.kind == "spatial" and pa.types.is_binary(kind))
    if are_bytes != pa.types.is_binary(own):
        return values.column("value").slice(0, 0)
    if pa.types.is_string(kind):
        return values.column("text")
    as_bytes = pa.types.is_binary(kind) and pa.types.is_string(own)
    return values.column("value").cast(kind) if as_bytes else values.column("value")


def _engine_type(connection: duckdb.DuckDBPyConnection, kind: pa.DataType) -> str:
    """The engine's name of an Arrow type."""
    return str(connection.from_arrow(pa.table({"v": pa.array([], kind)})).types[0])


@contextmanager
def applying_rules(table: str, to: str) -> Iterator[None]:
    """Turn the engine's errors over real rows into ours.

    Args:
        table: the table's name.
        to: what the rules are applied to, for the message.

    Raises:
        SpecError: a rule fails on some value.
    """
    try:
        yield
    except duckdb.Error as error:
        raise SpecError(
            f"{table}: a rule could not be applied to {to}: {str(error).splitlines()[0]}.",
            f"Correct the rule in defs/{table}/defs.yaml (use TRY_CAST where a value may not convert).",
        ) from error


def try_rules(connection: duckdb.DuckDBPyConnection, rules: CompiledRules, table: str, schema: pa.Schema) -> None:
    """Try each rule on no rows, so that one that cannot be applied is named.

    Raises:
        SpecError: one cannot.
    """
    connection.register(ROWS, pa.Table.from_batches([], schema))
    for rule in rules.rules:
        if rule.implied:
            continue
        try:
            tried = connection.execute(f"SELECT *, CAST({rule.condition} AS BOOLEAN) FROM {ROWS}").to_arrow_table()
            if (values := tried.num_columns - len(schema)) != 1:
                raise duckdb.BinderException(f"it has {values} values for one row")
        except duckdb.Error as error:
            raise SpecError(
                f"{table}: the rule {rule.label} cannot be applied: {str(error).splitlines()[0]}.",
                f"A rule sees the columns of one row, and no table. Correct it in defs/{table}/defs.yaml.",
            ) from error


def columns_read(
    connection: duckdb.DuckDBPyConnection, rules: CompiledRules, names: Sequence[str]
) -> tuple[frozenset[str], ...]:
    """For each rule the columns that it reads, of those that there are; all where a rule does not name what it reads.

    The engine's own parser tells. A name that it tells may also be a lambda's or a lookup's own, which does no harm.

    Args:
        connection: the engine.
        rules: the rules, each of which it can apply.
        names: the columns.
    """
    if not rules.rules:
        return ()
    [(tree,)] = connection.execute(
        "SELECT json_serialize_sql(?)", [rules.keeps(ROWS, range(len(rules.rules)))]
    ).fetchall()
    conditions = json.loads(tree)["statements"][0]["node"]["select_list"]
    return tuple(_columns_of(condition, names) for condition in conditions)


def _columns_of(condition: Any, names: Sequence[str]) -> frozenset[str]:  # noqa: ANN401 - it is JSON
    kinds, found = _named(condition)
    if kinds & {"STAR", "POSITIONAL_REFERENCE"} or ROWS in found:
        return frozenset(names)
    return frozenset(name for name in names if name.lower() in found)


def _named(tree: Any) -> tuple[set[str], set[str]]:  # noqa: ANN401 - it is JSON
    """The kinds of expressions in a parsed statement, and the names in it, in lower case."""
    kinds: set[str] = set()
    names: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            kinds.add(str(node.get("class")))
            names.update(name.lower() for name in node.get("column_names", ()))
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return kinds, names


def engine_settings(scratch: str) -> dict[str, str | bool | int | float | list[str]]:
    """How DuckDB evaluates rules: bounded in memory, and in one order, so that equal rows make equal files.

    Args:
        scratch: a folder for what does not fit into memory.
    """
    alone = {"python_enable_replacements": False}  # no name in a rule stands for a variable of ours
    return {"threads": 1, "memory_limit": ENGINE_MEMORY, "temp_directory": scratch, **alone}
