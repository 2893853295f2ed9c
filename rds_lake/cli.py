"""The command line, `rds-lake`: words in, calls of the packages below, words out. No logic of its own.

A command imports what it needs when it runs, so that `--help` is quick.
"""

import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from rds_lake import settings
from rds_lake.errors import RdsLakeError

FAILED, MISUSED = 1, 2  # exit codes
SOURCE = "RDS_LAKE_SOURCE_URL"
WIDTH = 120  # columns of a table that goes to a file or a pipe

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
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=WIDTH, soft_wrap=True)
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


@app.command()
def sync(
    tables: Annotated[
        list[str] | None, typer.Argument(help="The tables; all that are declared when none is named.")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Only partitions from the one that holds this day on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only partitions that begin before this day.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print Dagster's log as well.")] = False,
) -> None:
    """Bring tables in step: observe the source, do what changed, check.

    Exit code 0 when everything is in step, 1 when a table could not be done or a check that matters failed, 2 when the
    command or the configuration is wrong.
    """
    _use_local_stack()
    if not _sync(tables or [], since, until, verbose=verbose):
        raise typer.Exit(FAILED)


@app.command()
def demo(
    ui: UI = True,
    orders: Annotated[
        Path | None,
        typer.Option(help="Orders from a headerless CSV: order_id,order_date,customer_id,order_status."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let --orders replace the orders that are there.")] = False,
    use_my_database: Annotated[
        bool,
        typer.Option("--use-my-database", help="Write the samples into the database of RDS_LAKE_SOURCE_URL."),
    ] = False,
) -> None:
    """Start the local stack, fill the source with sample data, sync, and show it in Dagster until Ctrl-C."""
    from rds_lake.local import demo_data, stack

    home = settings.home()
    if not use_my_database:
        _refuse_given_database(home)
    os.environ.setdefault("RDS_LAKE_AUTOMATION", "on")  # before the servers start: they inherit it
    stack.up(home, ui=False, report=typer.echo)
    os.environ.update(stack.environment(home))
    source = settings.parse_database_url(os.environ[SOURCE], scheme="mysql", variable=SOURCE)
    demo_data.create(source, orders_csv=orders, replace=replace, report=typer.echo)
    done = _sync([], None, None, verbose=False)
    if ui:
        stack.up(home, ui=True, report=typer.echo)
        typer.echo(f"Dagster: {stack.ui_address(home)}  (Ctrl-C stops everything; the data stay)")
        _wait_for_interrupt()
        stack.down(home, report=typer.echo)
    else:
        typer.echo('The stack is still up. Connect with: eval "$(rds-lake env)"; stop it with: rds-lake down')
    if not done:
        raise typer.Exit(FAILED)


def _refuse_given_database(home: Path) -> None:
    """Keep the demo's tables out of a database that the environment or .env happens to name."""
    from rds_lake.errors import ConfigError
    from rds_lake.local import stack

    if given := stack.given_source(home):
        url = settings.parse_database_url(given, scheme="mysql", variable=SOURCE)
        raise ConfigError(
            f"{SOURCE} names {url.address}, and the demo would write its sample tables there.",
            f"Unset {SOURCE} (look into .env too) to use the local MySQL, or say --use-my-database.",
        )


def _sync(tables: list[str], since: datetime | None, until: datetime | None, *, verbose: bool) -> bool:
    """Sync tables and show what happened; whether all are in step."""
    import time
    import warnings

    from rich.console import Console

    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's notes on its beta features are no business of a user's
        from rds_lake import console as view
        from rds_lake.loading import load_definitions
        from rds_lake.sync import Sync, choose, end_dead_runs, open_instance, table_specs

        defs = load_definitions()
        chosen = choose(table_specs(defs), tables)
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        with open_instance() as instance, view.progress(console) as say:
            if ended := end_dead_runs(instance):
                say(f"{ended} runs of a sync that was killed are marked as failed; their work is taken up again")
            runner = Sync(defs, instance, say, verbose=verbose)
            results = [runner.table(spec, since, until) for spec in chosen]
    view.show(console, results, time.monotonic() - started)
    return all(result.ok for result in results)


def _use_local_stack() -> None:
    """Use the local stack for whatever the environment does not name, if there is one."""
    from rds_lake.errors import LocalStackError
    from rds_lake.local import stack

    given = os.environ.get(SOURCE)
    try:
        local = stack.environment(settings.home())
    except LocalStackError:
        if given:
            return
        raise
    if given in {None, "", local[SOURCE]}:
        for name, value in local.items():
            os.environ.setdefault(name, value)


def _wait_for_interrupt() -> None:
    """Wait until Ctrl-C or SIGTERM."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


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
