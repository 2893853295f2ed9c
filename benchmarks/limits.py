"""The limits: programs that do the least that can be done, to which everything else is a ratio.

For a read it is a client in C that discards the rows; without a compiler or libmariadb's headers it is the `mariadb`
program, which also formats them. For the warehouse it is PostgreSQL's own `psql`, on the same server.
"""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks.contenders import CannotError, Contender, Step
from benchmarks.figures import SORTED
from benchmarks.scene import Scene
from rds_lake.local import postgres

PROGRAM = Path(__file__).parent / "limit" / "discard.c"
PROTOCOLS = ("text", "binary")


@cache
def discarding_client(folder: Path) -> Path:
    """The compiled client.

    Raises:
        CannotError: this machine cannot compile it.
    """
    compiler, asked = shutil.which("cc"), shutil.which("mariadb_config")
    if not compiler or not asked:
        raise CannotError("a C compiler or mariadb_config is missing (apt-get install gcc libmariadb-dev)")
    flags = subprocess.run([asked, "--cflags", "--libs"], capture_output=True, text=True, check=True).stdout.split()
    program = folder / "discard"
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(PROGRAM), *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotError(f"the discarding client does not compile: {done.stderr.strip()[-200:]}")
    return program


def reading(scene: Scene, table: str, order_by: str = "") -> list[Contender]:
    """The clients that read a table and keep nothing of it; one of them has it sorted, if that is asked for."""
    try:
        program = discarding_client(scene.kept)
    except CannotError as error:
        return [Contender(f"limit: mariadb --quick ({error})", "limit", lambda _: _quick(table))]

    def step(protocol: str, order: str, _: int) -> Sequence[Step]:
        return [Step([str(program), protocol, table, order])]

    name = "limit: a C client that discards the rows, {} protocol"
    found = [Contender(name.format(protocol), "limit", partial(step, protocol, "")) for protocol in PROTOCOLS]
    if order_by:
        text = f"ORDER BY {order_by}"
        found.append(Contender(f"{name.format('text')}, {SORTED}", "limit", partial(step, "text", text)))
    return found


def _quick(table: str) -> Sequence[Step]:
    program = shutil.which("mariadb") or shutil.which("mysql")
    if program is None:
        raise CannotError("there is no program 'mariadb' either (apt-get install mariadb-client)")
    text = (
        f'MYSQL_PWD="$BENCH_PASSWORD" {program} --no-defaults --quick --host="$BENCH_HOST" --port="$BENCH_PORT" '
        f'--user="$BENCH_USER" "$BENCH_DATABASE" --execute "SELECT * FROM {table}" > /dev/null'
    )
    return [Step(["sh", "-c", text])]


def psql(scene: Scene, database: str, script: Path, *, name: str = "") -> Step:
    """A step that runs a script with `psql`, at the PostgreSQL behind the warehouse."""
    command = [str(postgres._programs() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script)]
    return Step(command, scene.postgres_environ(database), name)
