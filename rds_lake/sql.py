"""Quoting for SQL text: the one place that turns a name or a constant into SQL.

Values are bound as parameters wherever the protocol allows it. `literal` is for the few places that take no parameter
(COPY's options, a rule's constants inside a predicate).

The drivers of MySQL and PostgreSQL take `%s` for a parameter, and any other percent sign for a mistake; a name that
goes through them has its percent signs doubled.
"""

from typing import Literal

Dialect = Literal["mysql", "redshift", "ansi"]
"""`mysql` (pymysql) quotes names with backticks, `redshift` (psycopg2) and `ansi` (DuckDB) with double quotes."""


def quote(name: str, dialect: Dialect = "ansi") -> str:
    """A name as an SQL identifier, always quoted: reserved words, spaces and quotes inside it are safe."""
    mark = "`" if dialect == "mysql" else '"'
    quoted = mark + name.replace(mark, mark * 2) + mark
    return quoted if dialect == "ansi" else quoted.replace("%", "%%")


def quote_all(names: list[str] | tuple[str, ...], dialect: Dialect = "ansi") -> str:
    """Names as a comma-separated list of SQL identifiers."""
    return ", ".join(quote(name, dialect) for name in names)


def literal(value: str | float) -> str:
    """A constant as an SQL literal in ANSI form."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
