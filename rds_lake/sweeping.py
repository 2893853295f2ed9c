"""What `rds-lake gc` shows: what was removed, and what was left because it is not ours."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from rds_lake.lake.gc import LOADS, UPLOADS, Swept
from rds_lake.printing import print_table
from rds_lake.spec import LAKE_STAGES

KINDS = (*LAKE_STAGES, LOADS, UPLOADS)


def show(console: Console, swept: Sequence[Swept], strangers: Sequence[str], *, dry_run: bool) -> None:
    """Print what a sweep found.

    Args:
        console: where to.
        swept: the tables.
        strangers: folders of the bucket that belong to no declared table.
        dry_run: whether it was all left in place.
    """
    table = Table("table", *KINDS, "bytes", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for found in swept:
        size = sum(found.bytes.values())
        table.add_row(found.table, *(f"{found.objects.get(kind, 0):,}" for kind in KINDS), decimal(size))
    print_table(console, table)
    for line in lines(swept, strangers, dry_run=dry_run):
        console.print(line, highlight=False, soft_wrap=True)


def lines(swept: Sequence[Swept], strangers: Sequence[str], *, dry_run: bool) -> list[str]:
    """What there is to say beside the table, as marked-up lines."""
    said = []
    for found in swept:
        if found.error:
            said.append(f"[red]error[/] {found.table}: {escape(found.error.removeprefix(f'{found.table}: '))}")
        if found.unnamed:
            said.append(f"[yellow]left[/] {found.table}: {found.unnamed:,} files, and not one manifest to tell by")
        if found.strangers:
            some = ", ".join(found.examples) + (", ..." if found.strangers > len(found.examples) else "")
            said.append(f"[yellow]left[/] {found.table}: {found.strangers:,} objects are not ours: {escape(some)}")
    said += [f"[yellow]left[/] {escape(folder)}: no declared table is called so" for folder in strangers]
    objects = sum(sum(found.objects.values()) for found in swept)
    size = decimal(sum(sum(found.bytes.values()) for found in swept))
    if not objects and any(found.error for found in swept):
        return [*said, "Nothing was removed."]
    if not objects:
        return [*said, "Nothing to remove."]
    if dry_run:
        return [*said, f"Would remove {objects:,} objects, {size}. Nothing was removed."]
    return [*said, f"[green]Removed[/] {objects:,} objects, {size}."]
