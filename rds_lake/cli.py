"""The command line, `rds-lake`: words in, calls of the packages below, words out. No logic of its own.

A command imports what it needs when it runs, so that `--help` is quick.
"""

import shlex
import sys
from typing import Annotated

import typer

from rds_lake import settings
from rds_lake.errors import RdsLakeError

FAILED, MISUSED = 1, 2  # exit codes

app = typer.Typer(
    name="rds-lake",
    help="Keeps an S3 lake and a Redshift warehouse in step with MySQL on RDS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

UI = Annotated[bool, typer.Option("--ui/--no-ui", help="With Dagster's web UI and daemon, or only the servers.")]


@app.command()
def up(ui: UI = True) -> None:
    """Start the local stack: MySQL, an AWS endpoint, a warehouse, Dagster. Data are kept in RDS_LAKE_HOME."""
    from rds_lake.local import stack

    home = settings.home()
    before = stack.is_up(home) and (not ui or bool(stack.ui_address(home)))
    running = stack.up(home, ui=ui, report=typer.echo)
    typer.echo(f'{"Already up" if before else "Up"}, in {home}. Connect with: eval "$(rds-lake env)"')
    if running.ui_address:
        typer.echo(f"Dagster: {running.ui_address}")


@app.command()
def down() -> None:
    """Stop the local stack. Its data stay."""
    from rds_lake.local import stack

    stopped = stack.down(settings.home(), report=typer.echo)
    typer.echo("Stopped." if stopped else "Nothing was running.")


@app.command()
def status() -> None:
    """Show the local stack's services. Exit code 0 when all are up, 1 otherwise."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from rds_lake.local import stack

    home = settings.home()
    table = Table("service", "state", "pid", Column("address", overflow="fold"), box=box.SIMPLE_HEAD)
    for row in stack.status(home):
        colour = "green" if row.state == "up" else "red"
        note = f" ({row.note})" if row.note else ""
        table.add_row(row.title, f"[{colour}]{row.state}[/]{escape(note)}", str(row.pid or ""), row.address)
    console = Console(soft_wrap=True)
    if table.row_count:
        console.print(table)
        console.print(f"Logs: {home / 'logs'}", highlight=False)
    else:
        console.print(f"No local stack was set up in {home}.", highlight=False)
    if not stack.is_up(home):
        raise typer.Exit(FAILED)


@app.command()
def env() -> None:
    """Print `export` lines that make any client use the local stack."""
    from rds_lake.local import stack

    for name, value in stack.environment(settings.home()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def main() -> None:
    """Run the command line; an error that we know is one line, not a traceback."""
    from dotenv import load_dotenv

    load_dotenv(".env")
    try:
        app()
    except RdsLakeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(MISUSED)


if __name__ == "__main__":
    main()
