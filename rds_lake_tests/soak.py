"""The soak: writers that never stop, syncs that are killed at random, and the question at the end whether all is there.

Three tables are written by several connections at once: rows inserted, updated, back-dated, moved between partitions,
given another key and deleted, in transactions of which some are held open for seconds and some rolled back. All the
while `rds-lake sync` runs in a loop and is killed with SIGKILL at random moments. When the writers have stopped, one
more sync must bring every stage to what the source holds, row by row, by `rds-lake verify` and by readers of our own.

`python rds_lake_tests/soak.py --minutes 10` runs it on a stack of its own; `test_soak.py` runs a short one.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pymysql
from pipeline import Row, World, mysql, plain_rows, write_dagster_home

from rds_lake.definitions import PROJECT
from rds_lake.local import stack as local_stack
from rds_lake.spec import TableSpec

START = (datetime.now(UTC) - timedelta(days=2)).date()
STATUSES = ("NEW", "PAID", "SENT", "broken", None)
WEIGHTS = (40, 30, 25, 4, 1)
BUSY = {1205, 1213, 1020}  # lock wait timeout, deadlock, record changed since the last read
FIRST_ROWS = 2_000
HELD_OPEN = 0.15  # the share of transactions that stay open for a while
ROLLED_BACK = 0.1
KILLED = 0.5  # the share of syncs that are killed

DDL = {
    "orders": "id BIGINT PRIMARY KEY, updated_at DATETIME(6), amount DECIMAL(12,2), status VARCHAR(10), "
    "KEY by_cursor (updated_at)",
    "events": "origin VARCHAR(10), number INT, seen TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6) "
    "ON UPDATE CURRENT_TIMESTAMP(6), body VARCHAR(40), PRIMARY KEY (origin, number), KEY by_cursor (seen)",
    "accounts": "id INT PRIMARY KEY, balance DECIMAL(20,4)",
}
YAML = {
    "orders": f"""
  key: [id]
  cursor: {{ column: updated_at }}
  partitions: {{ by: hour, start: {START} }}
  rules:
    - {{ rule: accepted_values, name: known_status, column: status, values: [NEW, PAID, SENT] }}
""",
    "events": f"""
  key: [origin, number]
  cursor: {{ column: seen }}
  partitions: {{ by: day, start: {START} }}
""",
    "accounts": """
  key: [id]
""",
}


@dataclass
class Figures:
    """What happened."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    commits: int = 0
    rollbacks: int = 0
    held_open: int = 0
    syncs: int = 0
    kills: int = 0
    failures: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    verified: str = ""

    def __str__(self) -> str:
        return "\n".join(f"{name:>10}: {value}" for name, value in vars(self).items())


class Writer(threading.Thread):
    """One connection that writes in transactions until it is told to stop."""

    def __init__(self, url: str, seed: int, place: int, figures: Figures, stop: threading.Event) -> None:
        super().__init__(name=f"writer {place}")
        self.url, self.random, self.figures, self.stop = url, random.Random(f"{seed} {place}"), figures, stop
        self.number = place * 100_000_000  # no two writers take the same key, and all are an INT
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with mysql(self.url) as cursor:
                while not self.stop.is_set():
                    self.transaction(cursor)
        except BaseException as error:
            self.error = error
            raise

    def transaction(self, cursor: Any) -> None:
        """Some statements, then a commit, sometimes late, or a rollback."""
        done: Counter[str] = Counter()
        try:
            for _ in range(self.random.randint(1, 12)):
                kind, text, values = self.statement()
                done[kind] += cursor.execute(text, values)
        except pymysql.err.OperationalError as error:
            cursor.connection.rollback()
            if error.args[0] not in BUSY:
                raise
            return
        if self.random.random() < HELD_OPEN:
            self.figures.held_open += 1
            self.stop.wait(self.random.uniform(0.2, 4))
        if self.random.random() < ROLLED_BACK:
            cursor.connection.rollback()
            self.figures.rollbacks += 1
            return
        cursor.connection.commit()
        self.figures.commits += 1
        self.figures.inserted += done["inserted"]
        self.figures.updated += done["updated"]
        self.figures.deleted += done["deleted"]
        self.stop.wait(self.random.uniform(0, 0.05))

    def statement(self) -> tuple[str, str, tuple[Any, ...]]:
        """One change: its kind, the SQL and its values."""
        pick = self.random
        self.number += 1
        some = pick.randint(1, FIRST_ROWS)
        status = pick.choices(STATUSES, WEIGHTS)[0]
        seconds = pick.choice([0, 0, 0, 1, 60, 3600, 90_000])
        origin = pick.choice("abc")
        statements: list[tuple[str, str, tuple[Any, ...]]] = [
            ("inserted", "INSERT INTO orders VALUES (%s, NOW(6), %s, %s)", (self.number, some / 7, status)),
            (
                "inserted",
                "INSERT INTO orders VALUES (%s, NOW(6) - INTERVAL %s SECOND, %s, %s)",
                (self.number, seconds, some, status),
            ),
            ("updated", "UPDATE orders SET updated_at = NOW(6), status = %s WHERE id = %s", (status, some)),
            (
                "updated",
                "UPDATE orders SET updated_at = NOW(6) - INTERVAL %s SECOND, amount = amount + 1 WHERE id = %s",
                (seconds, some),
            ),
            ("updated", "UPDATE orders SET id = %s, updated_at = NOW(6) WHERE id = %s", (self.number, some)),
            ("deleted", "DELETE FROM orders WHERE id BETWEEN %s AND %s", (some, some + pick.choice([0, 0, 3]))),
            ("inserted", "INSERT INTO events (origin, number, body) VALUES (%s, %s, %s)", (origin, self.number, "new")),
            (
                "updated",
                "UPDATE events SET body = %s WHERE origin = %s AND number = %s",
                (f"text {self.number}", origin, some),
            ),
            ("updated", "UPDATE events SET seen = NULL WHERE origin = %s AND number = %s", (origin, some)),
            ("deleted", "DELETE FROM events WHERE origin = %s AND number = %s", (origin, some)),
            ("updated", "UPDATE accounts SET balance = balance - %s WHERE id = %s", (some, some % 50)),
            ("updated", "UPDATE accounts SET balance = balance + %s WHERE id = %s", (some, some % 49)),
        ]
        return pick.choice(statements)


class Soak:
    """The tables, the writers and the syncs of one soak.

    Args:
        environ: the variables of a running stack, with a source database, a bucket and a warehouse database of its own.
        folder: an empty folder.
        seed: what the random choices start from.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path, seed: int = 1) -> None:
        self.environ = {**environ, "DAGSTER_HOME": str(write_dagster_home(folder / "dagster"))}
        self.folder, self.seed = folder, seed
        self.random, self.figures = random.Random(seed), Figures()
        self.project = folder / "project"
        shutil.copytree(PROJECT / "rds_lake", self.project / "rds_lake", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROJECT / "pyproject.toml", self.project)
        shutil.rmtree(self.project / "rds_lake" / "defs")
        for name, text in YAML.items():
            place = self.project / "rds_lake" / "defs" / name
            place.mkdir(parents=True)
            head = f"type: rds_lake.components.TablePipeline\nattributes:\n  table: {name}\n"
            (place / "defs.yaml").write_text(head + text.lstrip("\n"))
        (self.project / "rds_lake" / "defs" / "__init__.py").write_text('"""The tables of the soak."""\n')

    def run(self, seconds: float) -> Figures:
        """Write and sync for some time, then compare."""
        self.fill()
        stop = threading.Event()
        url = self.environ["RDS_LAKE_SOURCE_URL"]
        writers = [Writer(url, self.seed, place, self.figures, stop) for place in range(1, 5)]
        for writer in writers:
            writer.start()
        try:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends and not any(writer.error for writer in writers):
                self.sync(killed=self.random.random() < KILLED)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        for writer in writers:
            if writer.error:
                raise writer.error
        self.settle()
        self.compare()
        return self.figures

    def fill(self) -> None:
        """The tables with their first rows."""
        with mysql(self.environ["RDS_LAKE_SOURCE_URL"]) as cursor:
            for name, columns in DDL.items():
                cursor.execute(f"DROP TABLE IF EXISTS {name}")
                cursor.execute(f"CREATE TABLE {name} ({columns})")
            rows = range(1, FIRST_ROWS + 1)
            now = datetime.now(UTC).replace(tzinfo=None)
            cursor.executemany(
                "INSERT INTO orders VALUES (%s, %s, 10, 'NEW')", [(n, now - timedelta(seconds=n * 30)) for n in rows]
            )
            cursor.executemany("INSERT INTO events (origin, number) VALUES (%s, %s)", [("abc"[n % 3], n) for n in rows])
            cursor.executemany("INSERT INTO accounts VALUES (%s, 1000)", [(n,) for n in range(50)])

    def command(self, *words: str) -> "subprocess.Popen[str]":
        """`rds-lake` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "rds_lake.cli", *words],
            cwd=self.project,
            env={**os.environ, **self.environ, "PYTHONPATH": str(self.project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def sync(self, *, killed: bool) -> None:
        """One `rds-lake sync`, killed at a random moment if wanted."""
        process = self.command("sync")
        self.figures.syncs += 1
        if killed:
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(1, 6))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                self.figures.kills += 1
                process.communicate()
                return
        said, _ = process.communicate(timeout=300)
        if process.returncode:
            self.figures.failures.append(said[-2000:])

    def settle(self) -> None:
        """Sync until the fence has passed everything, which is a few seconds after the last commit."""
        time.sleep(3)
        self.sync(killed=False)
        self.sync(killed=False)

    def verify(self, *words: str) -> str:
        """What `rds-lake verify` says last."""
        process = self.command("verify", *words)
        said, _ = process.communicate(timeout=600)
        if process.returncode:
            self.figures.failures.append(said[-4000:])
        return said.strip().splitlines()[-1]

    def compare(self) -> None:
        """Every stage with the source, row by row, by readers of our own; then by `rds-lake verify`."""
        with dg.DagsterInstance.ephemeral() as instance:
            world = World(dict(self.environ), instance, "soak")
            for name in DDL:
                spec = TableSpec.model_validate({"table": name})
                source = Counter(plain_rows(world.ask(f"SELECT * FROM {name}")))
                width = len(next(iter(source)))
                self.figures.rows[name] = source.total()
                for stage in ("landing", "archived"):
                    self._difference(source, world.lake_rows(name, stage))
                staged = world.lake_rows(name, "staging")
                discarded = world.lake_rows(name, "discarded")
                self._difference(source, staged + Counter({row[:width]: n for row, n in discarded.items()}))
                self._difference(staged, world.warehouse_rows(spec))
        self.figures.verified = self.verify("--rows")

    def _difference(self, wanted: Counter[Row], found: Counter[Row]) -> None:
        self.figures.lost += (wanted - found).total()
        self.figures.doubled += (found - wanted).total()


def main(words: Sequence[str] | None = None) -> int:
    """Run a soak on a stack of its own and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        home = Path(folder) / "home"
        try:
            running = local_stack.up(home, ui=False)
            figures = Soak(running.environ, Path(folder), given.seed).run(given.minutes * 60)
        finally:
            local_stack.down(home)
    sys.stdout.write(f"{figures}\n")
    return 1 if figures.lost or figures.doubled or figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
