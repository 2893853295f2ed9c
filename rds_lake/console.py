"""What `rds-lake` shows on a terminal: a progress bar and a table of what happened, and the list of tables."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from rds_lake.extract.profile import Listed
from rds_lake.printing import print_table
from rds_lake.receiving import Received
from rds_lake.resources.services import ProgressResource
from rds_lake.spec import TableSpec
from rds_lake.sync import CHAIN, Report, TableResult

EVERY = 10.0
"""Seconds after which a line without a terminal says how far it is, if nothing else was said."""

SHOWN_STAGES = tuple(stage for stage in CHAIN if stage != "archived")


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """A progress bar that the assets of this process fill; yields a function for messages in words.

    Without a terminal it prints one line per message, and every ten seconds how far the assets are.
    """
    if not console.is_terminal:
        with _lines(console) as say:
            yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        doing = bars.add_task("", total=None, count="")
        known: dict[str, TaskID] = {}

        def tell(asset: str, done: int, total: int) -> None:
            if asset not in known:
                known[asset] = bars.add_task(asset, total=total, count="")
            bars.update(known[asset], completed=done, total=total, count=f"{done:,}/{total:,}")

        def say(message: str) -> None:
            for task in known.values():
                bars.remove_task(task)
            known.clear()
            bars.update(doing, description=escape(message))

        ProgressResource.listener = tell
        try:
            yield say
        finally:
            ProgressResource.listener = None


@contextmanager
def _lines(console: Console) -> Iterator[Report]:
    last = time.monotonic()

    def say(message: str) -> None:
        nonlocal last
        last = time.monotonic()
        console.print(message, highlight=False, markup=False)

    def tell(asset: str, done: int, total: int) -> None:
        if time.monotonic() - last >= EVERY:
            say(f"  {asset}: {done:,} of {total:,}")

    ProgressResource.listener = tell
    try:
        yield say
    finally:
        ProgressResource.listener = None


def show(console: Console, results: Sequence[TableResult], seconds: float) -> None:
    """Print what a sync did: a table, then whatever needs a person's eyes."""
    table = Table("table", "partitions", *SHOWN_STAGES, "checks", "seconds", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        table.add_row(
            result.table,
            f"{result.partitions:,}",
            *(f"{result.rows.get(stage, 0):,}" for stage in SHOWN_STAGES),
            _checks(result),
            f"{result.seconds:.1f}",
        )
    print_table(console, table)
    for result in results:
        for line in result.warned:
            console.print(f"[yellow]warning[/] {escape(line)}", highlight=False, soft_wrap=True)
        for line in result.failed:
            console.print(f"[red]failed[/] {escape(line)}", highlight=False, soft_wrap=True)
        if result.error:
            text = result.error.removeprefix(f"{result.table}: ")
            console.print(f"[red]error[/] {result.table}: {escape(text)}", highlight=False, soft_wrap=True)
    console.print(_closing(results, seconds), highlight=False, soft_wrap=True)


def show_received(console: Console, received: Sequence[Received]) -> None:
    """Print what became of dropped files: a table, then why some were refused, and what waits."""
    table = Table(
        "table",
        "file",
        "action",
        "status",
        *(Column(name, justify="right") for name in ("read", "loaded", "discarded")),
        box=box.SIMPLE_HEAD,
    )
    records = [record for each in received for record in each.records]
    for record in records:
        colour = {"completed": "green", "processing": "yellow"}.get(record.status, "red")
        counts = (record.rows_read, record.rows_loaded, record.rows_discarded)
        table.add_row(
            record.table,
            escape(record.file_name),
            record.action,
            f"[{colour}]{record.status}[/]",
            *("" if count is None else f"{count:,}" for count in counts),
        )
    if records:
        print_table(console, table)
    for record in records:
        if record.error and record.status != "processing":  # why such a one waits is told below
            word = "[yellow]note[/]" if record.status == "completed" else f"[red]{record.status}[/]"
            text = f"{word} {escape(record.file_name)}: {escape(record.error)}"
            console.print(text, highlight=False, soft_wrap=True)
    for each in received:
        lines = [f"[yellow]note[/] {each.name}: {escape(line)}" for line in each.notes]
        lines += [f"[red]error[/] {each.name}: {escape(line)}" for line in each.failed]
        lines += [f"[yellow]waiting[/] {each.name}: {escape(line)}" for line in each.waiting]
        for text in lines:
            console.print(text, highlight=False, soft_wrap=True)
    if not records and not any(each.waiting or each.failed for each in received):
        console.print("Nothing new has been dropped.", highlight=False)


def show_tables(console: Console, declared: Sequence[TableSpec], present: Sequence[Listed]) -> None:
    """Print the declared tables, then the source's others, with the source's estimate of their rows."""
    estimates = {item.name: item for item in present}
    table = Table("table", "source table", Column("rows, about", justify="right"), "cursor", "by", box=box.SIMPLE_HEAD)
    for spec in sorted(declared, key=lambda spec: spec.table):
        cursor, by = (spec.cursor.column, spec.partitions.by) if spec.cursor and spec.partitions else ("", "")
        found = estimates.get(spec.source_name)
        table.add_row(spec.table, escape(spec.source_name), _estimate(found), escape(cursor), by)
    sources = {spec.source_name for spec in declared}
    undeclared = [item for item in present if item.name not in sources]
    for item in undeclared:
        table.add_row("[dim]not declared[/]", escape(item.name), _estimate(item), "", "")
    print_table(console, table)
    if undeclared:
        console.print("'rds-lake tables add NAME' proposes the YAML of a table.", highlight=False)


def _estimate(item: Listed | None) -> str:
    if item is None:
        return "[red]not in the source[/]"
    return "a view" if item.is_view else f"{item.rows or 0:,}"


def _checks(result: TableResult) -> str:
    if result.error:
        return "[red]stopped[/]"
    parts = [f"[green]{result.passed} passed[/]"]
    parts += [f"[yellow]{len(result.warned)} warned[/]"] if result.warned else []
    parts += [f"[red]{len(result.failed)} failed[/]"] if result.failed else []
    return ", ".join(parts)


def _closing(results: Sequence[TableResult], seconds: float) -> str:
    if not all(result.ok for result in results):
        return f"[red]Not everything is in step[/] ({seconds:.1f} s). What is not said above stands in Dagster's runs."
    if not any(result.partitions for result in results):
        return f"Everything was in step already; nothing was done ({seconds:.1f} s)."
    return f"[green]In step[/] ({seconds:.1f} s)."
