"""What `rds-lake verify` shows: a table, what differs and where, and what to do about it."""

from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rds_lake.partitions import Partitioning
from rds_lake.printing import print_table
from rds_lake.spec import TableSpec
from rds_lake.verify.audit import TableVerdict
from rds_lake.verify.judge import NO_TABLE
from rds_lake.verify.look import Verdict
from rds_lake.verify.rows import SIDES
from rds_lake.wording import counted

PARTITIONS_SHOWN = 50
"""Partitions of a table that are named one by one."""

REMEDIES_SHOWN = 5
"""Commands that are given for one table; more of them become one over the whole span."""


def show(console: Console, verdicts: Sequence[tuple[TableSpec, TableVerdict]], seconds: float) -> None:
    """Print what an audit found.

    Args:
        console: where to.
        verdicts: the tables with their verdicts.
        seconds: how long it took.
    """
    table = Table("table", "in step", "behind", "differ", *SIDES, "seconds", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for _, found in verdicts:
        behind = found.count("behind") + found.count("moving")
        table.add_row(
            found.table,
            f"{found.count('in step'):,}",
            f"{behind:,}" if behind else "",
            f"[red]{found.count('DIFFERS'):,}[/]" if found.count("DIFFERS") else "",
            *(f"{found.total(side):,}" for side in SIDES),
            f"{found.seconds:.1f}",
        )
    print_table(console, table)
    for _, found in verdicts:
        for line in lines(found):
            console.print(line, highlight=False, soft_wrap=True)
    for line in closing(verdicts, seconds):
        console.print(line, highlight=False, soft_wrap=True)


def lines(found: TableVerdict) -> list[str]:
    """What there is to say of a table's partitions, as marked-up lines."""
    said = [f"[red]DIFFERS[/] {found.table}: {escape(fault)}" for fault in found.faults]
    if found.error:
        said.append(f"[red]error[/] {found.table}: {escape(found.error.removeprefix(f'{found.table}: '))}")
    telling = [verdict for verdict in found.partitions if verdict.status != "in step" and verdict.faults != (NO_TABLE,)]
    for verdict in telling[:PARTITIONS_SHOWN]:
        said += _of_partition(found.table, verdict)
    if len(telling) > PARTITIONS_SHOWN:
        said.append(f"... and {counted(len(telling) - PARTITIONS_SHOWN, 'more partition')} of {found.table}")
    said += [f"[dim]note[/] {found.table}: {escape(note)}" for note in found.notes]
    return said


def _of_partition(table: str, verdict: Verdict) -> list[str]:
    name = f"{table} {verdict.partition}"
    if verdict.status == "moving":
        return [f"[yellow]moving[/] {name}: a run changed it while it was looked at, twice"]
    if verdict.status == "behind":
        return [f"[yellow]behind[/] {name}: {escape(verdict.behind or '')}"]
    said = [f"[red]DIFFERS[/] {name}: {escape('; '.join(verdict.faults))}"]
    said += [f"        {escape(line)}" for line in verdict.differences.lines]
    more = verdict.differences.keys - len(verdict.differences.lines)
    return [*said, *([f"        and {more:,} more"] if more else [])]


def closing(verdicts: Sequence[tuple[TableSpec, TableVerdict]], seconds: float) -> list[str]:
    """The last sentence, and before it what to do."""
    bad = [(spec, found) for spec, found in verdicts if found.differs]
    partitions = sum(len(found.partitions) for _, found in verdicts)
    failed = sum(found.error is not None for _, found in verdicts)
    missed = [f"[red]Not compared[/]: {failed:,} of {counted(len(verdicts), 'table')}, see above."] if failed else []
    if bad:
        commands = [f"  {command}" for spec, found in bad for command in remedies(spec, found)]
        advice = ["Extract these partitions again; a sync alone may not see the difference:", *commands]
        differ = sum(found.count("DIFFERS") for _, found in bad)
        faulty = sum(bool(found.faults) for _, found in bad)
        where = f"{differ:,} of {counted(partitions, 'partition')}"
        where += f" and in {counted(faulty, 'table')} as a whole" if faulty else ""
        return [
            *(advice if commands else []),
            *missed,
            f"[red]There are differences[/] in {where} ({seconds:.1f} s).",
        ]
    if not partitions:
        why = "nothing was compared" if missed else "nothing to compare: there is no partition"
        return [*missed, f"{why.capitalize()} ({seconds:.1f} s)."]
    tail = _behind([found for _, found in verdicts if not found.refused], "'rds-lake sync' takes them up")
    tail += _behind([found for _, found in verdicts if found.refused], "a sync will refuse them, see the notes")
    return [*missed, f"[green]No difference[/] in {counted(partitions, 'partition')} ({seconds:.1f} s).{tail}"]


def _behind(tables: Sequence[TableVerdict], what_then: str) -> str:
    count = sum(found.count("behind") + found.count("moving") for found in tables)
    return f" {counted(count, 'is', 'are')} behind: {what_then}." if count else ""


def remedies(spec: TableSpec, found: TableVerdict) -> list[str]:
    """The commands that put a table's differing partitions right."""
    partitioning = spec.partitioning
    keys = [verdict.partition for verdict in found.partitions if verdict.status == "DIFFERS"]
    if not keys:
        return []
    if partitioning is None:
        return [f"rds-lake sync {spec.table} --again"]
    ranges = partitioning.ranges(keys)
    if len(ranges) > REMEDIES_SHOWN:
        ranges = [(ranges[0][0], ranges[-1][1])]
    return [_command(spec.table, partitioning, first, last) for first, last in ranges]


def _command(table: str, partitioning: Partitioning, first: str, last: str) -> str:
    window = partitioning.span(first, last)
    return f"rds-lake sync {table} --since {_day(window.lower)} --until {_day(window.upper)} --again"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d" if moment.time() == datetime.min.time() else "%Y-%m-%dT%H:%M:%S")
