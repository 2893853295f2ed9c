"""How tables are printed: as wide as they are, on whatever terminal."""

from rich.console import Console
from rich.table import Table

WIDEST = 10_000
"""Columns that no table needs."""


def print_table(console: Console, table: Table) -> None:
    """Print a table; what a narrow terminal does not hold runs over, so that no number loses a digit."""
    wide = console.options.update(width=WIDEST)
    table.width = console.measure(table, options=wide).maximum
    console.print(table, crop=False, soft_wrap=True)
