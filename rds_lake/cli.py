"""The command line, `rds-lake`: words in, calls of the packages below, words out. No logic of its own.

A command imports what it needs when it runs, so that `--help` is quick.
"""

import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rds_lake import settings, startup
from rds_lake.errors import ConfigError, RdsLakeError
from rds_lake.partitions import Unit
from rds_lake.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster import Definitions

    from rds_lake.extract.source import Source
    from rds_lake.resources.files import ReceiverSpec
    from rds_lake.spec import TableSpec

FAILED, MISUSED = 1, 2  # exit codes; the second also when what was asked for could not be found out
SOURCE = "RDS_LAKE_SOURCE_URL"
WIDTH = 120  # columns of a table that goes to a file or a pipe

app = typer.Typer(
    name="rds-lake",
    help="Keeps an S3 lake and a Redshift warehouse in step with MySQL on RDS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

tables = typer.Typer()
app.add_typer(tables, name="tables")

files = typer.Typer(no_args_is_help=True, help="What dropped files need in AWS.")
app.add_typer(files, name="files")


def _moment(text: str) -> datetime:
    """A day, or a moment of it, of the command line.

    Raises:
        BadParameter: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None:
        raise typer.BadParameter(f"'{text}' is no day; write it as YYYY-MM-DD, or as YYYY-MM-DDTHH:MM:SS for a moment.")
    return moment


Since = Annotated[
    datetime | None,
    typer.Option(
        parser=_moment, metavar="DAY", help="Only partitions from the one that holds this day (YYYY-MM-DD) on."
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(parser=_moment, metavar="DAY", help="Only partitions that begin before this day (YYYY-MM-DD)."),
]
UI = Annotated[bool, typer.Option("--ui/--no-ui", help="With Dagster's web UI and daemon, or only the servers.")]


@app.command()
def up(ui: UI = True) -> None:
    """Start the local stack: MySQL, an AWS endpoint, a warehouse, Dagster. Data are kept in RDS_LAKE_HOME."""
    from rds_lake.local import stack

    home = settings.home()
    before = stack.is_up(home) and (not ui or bool(stack.ui_address(home)))
    running = stack.up(home, ui=False, report=typer.echo)
    os.environ.update(stack.environment(home))
    if not before:
        try:
            _set_up_files(lambda _: None)
        except RdsLakeError as error:  # such as a mistake in a YAML file: the servers are up all the same
            typer.echo(f"warning: what dropped files need could not be made: {error}", err=True)
    running = stack.up(home, ui=ui, report=typer.echo) if ui else running
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
    since: Since = None,
    until: Until = None,
    recent: Annotated[
        bool, typer.Option("--recent", help="Only what may have changed lately: cheap, for every few minutes.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Extract and load these partitions again, changed or not.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print Dagster's log as well.")] = False,
) -> None:
    """Bring tables in step: observe the source, do what changed, check.

    Exit code 0 when everything is in step, 1 when a table could not be done or a check that matters failed, 2 when the
    command or the configuration is wrong.
    """
    if recent and (since or until):
        raise ConfigError("--recent has a span of its own.", "Leave out --since and --until, or --recent.")
    _check_window(since, until)
    _use_local_stack()
    if not _sync(tables or [], since, until, recent=recent, again=again, verbose=verbose):
        raise typer.Exit(FAILED)


@tables.callback(invoke_without_command=True)
def tables_default(context: typer.Context) -> None:
    """List the tables: those that are declared, and those of the source that are not."""
    if context.invoked_subcommand is None:
        list_tables()


@tables.command("list")
def list_tables() -> None:
    """List the tables: those that are declared, and the source's others, with its estimate of their rows."""
    from rich.console import Console

    from rds_lake import console as view
    from rds_lake.extract.profile import list_tables as tables_of

    _use_local_stack()
    source = _source()
    _, specs = _load()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    view.show_tables(console, list(specs.values()), tables_of(source))


@tables.command("add")
def add_table(
    name: Annotated[str, typer.Argument(help="The table: MySQL's name, unless --source-table gives it.")],
    source_table: Annotated[str | None, typer.Option(help="Its name in MySQL, if that is another one.")] = None,
    by: Annotated[Unit | None, typer.Option(help="The length of a partition, if not as proposed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    only_print: Annotated[bool, typer.Option("--print", help="Print the file and write nothing.")] = False,
) -> None:
    """Write a table's defs.yaml, proposed from the source's schema.

    Exit code 0 when it is written, 2 when the source has no such table or the file is there already.
    """
    from rds_lake import scaffold

    _use_local_stack()
    proposal = scaffold.look(_source(), name, source_table, by)
    if only_print:
        typer.echo(proposal.text, nl=False)
        return
    file = scaffold.write(proposal, force=force)
    typer.echo(f"Wrote {file}.")
    for note in proposal.notes:
        typer.echo(f"  {note}")
    typer.echo(f"Next: read it through, check it with 'dg check defs', then run 'rds-lake sync {proposal.table}'.")


@app.command()
def verify(
    tables: Annotated[
        list[str] | None, typer.Argument(help="The tables; all that are declared when none is named.")
    ] = None,
    since: Since = None,
    until: Until = None,
    rows: Annotated[bool, typer.Option("--rows", help="Compare every row, not only where checksums differ.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when a partition is behind the source, too.")] = False,
) -> None:
    """Compare source, lake and warehouse, each counted again in its own SQL, and name the rows that differ.

    Exit code 0 when nothing differs, 1 when something does (with --strict also when something is behind the source), 2
    when the command or the configuration is wrong, or a table could not be compared and nothing else differs.
    """
    _check_window(since, until)
    _use_local_stack()
    if code := _verify(tables or [], since, until, rows=rows, strict=strict):
        raise typer.Exit(code)


@app.command()
def gc(
    tables: Annotated[
        list[str] | None, typer.Argument(help="The tables; all that are declared when none is named.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="How long a file stays that nobody names: longer than any run or query.")
    ] = 24,
) -> None:
    """Remove what no manifest names any more: superseded batches, files of killed runs, manifests of past loads.

    Exit code 0, or 2 when the command or the configuration is wrong or a table could not be swept. It may run beside a
    sync.
    """
    _use_local_stack()
    if not _gc(tables or [], grace_hours, dry_run=dry_run):
        raise typer.Exit(MISUSED)


@app.command()
def drop(
    file: Annotated[Path, typer.Argument(help="The file.")],
    db: Annotated[str, typer.Option("--db", help="The drop zone, or the feed.")],
    table: Annotated[str | None, typer.Option("--table", help="The table; not for a feed.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="append, truncate or schema; not for a feed.")] = None,
) -> None:
    """Put a file where it belongs in the bucket of a drop zone or feed.

    Exit code 0 when it is there, 2 when there is no such place, or a file of that name waits there.
    """
    from rds_lake import receiving

    _use_local_stack()
    _, specs = _load_receivers()
    typer.echo(receiving.drop(specs, file, db, table, action))


@app.command()
def receive(
    names: Annotated[
        list[str] | None, typer.Argument(help="The drop zones and feeds; all that are declared when none is named.")
    ] = None,
) -> None:
    """Notice what has been dropped and handle it, as the sensors do, in this process.

    Exit code 0 when every file was taken and none waits, 1 when one was refused, waits or could not be done, 2 when the
    command or the configuration is wrong and nothing else.
    """
    _use_local_stack()
    if code := _receive(names or []):
        raise typer.Exit(code)


@files.command("setup")
def files_setup() -> None:
    """Make what dropped files need in AWS: the audit log's table, a queue and a rule per drop zone and feed.

    It may be run again at any time. Exit code 0, or 2 when AWS refuses.
    """
    _use_local_stack()
    _set_up_files(typer.echo)


@app.command()
def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
) -> None:
    """Serve the audit log as a REST API until Ctrl-C. Its documentation is at /docs."""
    from rds_lake.api.serve import serve

    _use_local_stack()
    serve(host, port)


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
    done = _sync([], None, None)
    _demo_files()
    if ui:
        stack.up(home, ui=True, report=typer.echo)
        typer.echo(f"Dagster: {stack.ui_address(home)}  (Ctrl-C stops everything; the data stay)")
        _wait_for_interrupt()
        stack.down(home, report=typer.echo)
    else:
        typer.echo('The stack is still up. Connect with: eval "$(rds-lake env)"; stop it with: rds-lake down')
    if not done:
        raise typer.Exit(FAILED)


def _demo_files() -> None:
    """Drop the example files, the first time, and show what becomes of them."""
    import tempfile

    from rds_lake import receiving
    from rds_lake.local.demo_files import demo_files
    from rds_lake.resources.files import FilesResource

    _set_up_files(lambda _: None)
    _, specs = _load_receivers()
    if any(FilesResource().audit_log().records(name, limit=1).records for name in ("supply.suppliers", "transactions")):
        typer.echo("Files: the example files were dropped before.")
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in demo_files():
            path = Path(folder) / file.name
            path.write_bytes(file.content)
            try:
                typer.echo(f"Dropped {receiving.drop(specs, path, file.database, file.table, file.action)}")
            except receiving.AlreadyWaitingError:  # an earlier demo was stopped before it received them
                typer.echo(f"{file.name} was dropped before.")
    _receive([])


def _check_window(since: datetime | None, until: datetime | None) -> None:
    """Refuse a window that ends before it begins, which would hold nothing and look like success."""
    if since and until and since >= until:
        raise ConfigError(
            f"--until {until.isoformat(' ')} is not after --since {since.isoformat(' ')}, so no partition is meant.",
            "Swap the two, or give a later --until: partitions that begin before it are taken.",
        )


def _refuse_given_database(home: Path) -> None:
    """Keep the demo's tables out of a database that the environment or .env happens to name."""
    from rds_lake.local import stack

    if given := stack.given_source(home):
        url = settings.parse_database_url(given, scheme="mysql", variable=SOURCE)
        raise ConfigError(
            f"{SOURCE} names {url.address}, and the demo would write its sample tables there.",
            f"Unset {SOURCE} (look into .env too) to use the local MySQL, or say --use-my-database.",
        )


def _sync(
    tables: list[str],
    since: datetime | None,
    until: datetime | None,
    *,
    recent: bool = False,
    again: bool = False,
    verbose: bool = False,
) -> bool:
    """Sync tables and show what happened; whether all are in step."""
    import time
    import warnings

    from rich.console import Console

    started = time.monotonic()
    startup.leave_pandas_out()
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
                runs = "run of a sync that was killed is", "runs of a sync that was killed are"
                say(f"{counted(ended, *runs)} marked as failed; what was left undone is taken up again")
            runner = Sync(defs, instance, say, verbose=verbose)
            results = [runner.table(spec, since, until, recent=recent, again=again) for spec in chosen]
    view.show(console, results, time.monotonic() - started)
    return all(result.ok for result in results)


def _verify(tables: list[str], since: datetime | None, until: datetime | None, *, rows: bool, strict: bool) -> int:
    """Audit tables and show what was found; the exit code."""
    import time

    from rich.console import Console

    from rds_lake.console import progress
    from rds_lake.resources.services import LakeResource, ProgressResource, RdsResource, WarehouseResource
    from rds_lake.verify import view
    from rds_lake.verify.audit import Audit

    started = time.monotonic()
    chosen = _chosen(tables)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    source, lake, warehouse = RdsResource().source(), LakeResource(), WarehouseResource().warehouse()
    found = []
    with progress(console) as say:
        tell = ProgressResource.tell
        audit = Audit(source, lake.store(), lake.catalog(), warehouse, report=say, progress=tell)
        for number, spec in enumerate(chosen, 1):
            say(f"verifying {spec.table} ({number:,} of {len(chosen):,})")
            found.append((spec, audit.attempt(spec, since, until, rows=rows)))
    view.show(console, found, time.monotonic() - started)
    compared = [verdict for _, verdict in found if verdict.error is None]
    if not all(verdict.in_step if strict else not verdict.differs for verdict in compared):
        return FAILED
    return 0 if len(compared) == len(found) else MISUSED


def _gc(tables: list[str], grace_hours: float, *, dry_run: bool) -> bool:
    """Sweep tables and show what went; whether all could be swept."""
    from datetime import timedelta

    from rich.console import Console

    from rds_lake import sweeping as view
    from rds_lake.lake.gc import Collector
    from rds_lake.resources.services import LakeResource, WarehouseResource
    from rds_lake.warehouse import ledger

    chosen, declared = _chosen(tables), _chosen([])
    lake, warehouse = LakeResource(), WarehouseResource().warehouse()
    with warehouse.connect() as session:
        collector = Collector(
            lake.store(),
            lake.catalog(),
            lambda table: ledger.loads(session, table),
            grace=timedelta(hours=grace_hours),
            dry_run=dry_run,
        )
        swept = [collector.attempt(spec) for spec in chosen]
        strangers = [] if tables else collector.strangers(spec.table for spec in declared)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    view.show(console, swept, strangers, dry_run=dry_run)
    return not any(found.error for found in swept)


def _chosen(tables: list[str]) -> "list[TableSpec]":
    """The declared tables of these names; all when there are none."""
    from rds_lake.sync import choose

    _, specs = _load()
    return choose(specs, tables)


def _load() -> tuple["Definitions", dict[str, "TableSpec"]]:
    """The code location and its tables."""
    import warnings

    startup.leave_pandas_out()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's notes on its beta features are no business of a user's
        from rds_lake.loading import load_definitions
        from rds_lake.sync import table_specs

        defs = load_definitions()
        return defs, table_specs(defs)


def _load_receivers() -> "tuple[Definitions, dict[str, ReceiverSpec]]":
    """The code location and its drop zones and feeds."""
    from rds_lake.receiving import receiver_specs

    defs, _ = _load()
    return defs, receiver_specs(defs)


def _set_up_files(report: "Callable[[str], None]") -> None:
    """Make what dropped files need in AWS."""
    from rds_lake.receiving import set_up
    from rds_lake.resources.files import FilesResource

    _, specs = _load_receivers()
    for line in set_up(list(specs.values()), FilesResource()):
        report(line)


def _receive(names: list[str]) -> int:
    """Handle what has been dropped and show what became of it; the exit code."""
    import warnings

    from rich.console import Console

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's notes on its beta features are no business of a user's
        from rds_lake import console as view
        from rds_lake.receiving import Receive, choose_receivers, only_misconfigured
        from rds_lake.sync import open_instance

        defs, specs = _load_receivers()
        chosen = choose_receivers(specs, names)
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        with open_instance() as instance, view.progress(console) as say:
            runner = Receive(defs, instance, say)
            results = [runner.one(spec) for spec in chosen]
    view.show_received(console, results)
    if all(result.ok for result in results):
        return 0
    return MISUSED if only_misconfigured(results) else FAILED


def _source() -> "Source":
    """The MySQL source of the environment."""
    from rds_lake.extract.source import Source

    return Source(settings.parse_database_url(settings.required(SOURCE), scheme="mysql", variable=SOURCE))


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

    startup.begin()
    load_dotenv(".env")
    try:
        app()
    except RdsLakeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(MISUSED)
    finally:
        startup.end()


if __name__ == "__main__":
    main()
