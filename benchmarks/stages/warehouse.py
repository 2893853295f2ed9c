"""The warehouse: staged batches loaded by the production COPY, changed rows merged, beside `psql` doing the bare work.

Both sides end in the same PostgreSQL; ours goes there through the shim, as the local stack's warehouse does.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from benchmarks.contenders import CannotError, Contender, Facts, Stage, Step
from benchmarks.limits import psql
from benchmarks.scene import WAREHOUSE, Scene
from benchmarks.stages.common import download, ours, prepare
from benchmarks.tables import END, make_changes, make_orders, orders_yaml

BARE_TABLE = (
    "CREATE TABLE orders (order_id INTEGER NOT NULL, order_last_updated TIMESTAMP, customer_id INTEGER, "
    "order_status VARCHAR(100))"
)
BARE_COPY = "\\copy {table} FROM '{file}' WITH (FORMAT csv)\n"
CHANGED_SHARE = 50
"""One row of so many is changed: 100,000 of 5 million."""


def load(scene: Scene, rows: int) -> Stage:
    """All staged rows into an empty warehouse, in one transaction."""
    staged = _Staged(scene, "bench-load", rows)
    file = staged.csv("orders/staging/", scene.kept / f"orders_{rows}.csv")
    script = scene.kept / "load.sql"
    script.write_text(BARE_COPY.format(table="orders", file=file), encoding="utf-8")

    def bare(_: int) -> Sequence[Step]:
        scene.fresh_database("bench_bare")
        scene.postgres("bench_bare", BARE_TABLE)
        return [psql(scene, "bench_bare", script)]

    def loaded(_: int) -> Sequence[Step]:
        environ = {**staged.environ, WAREHOUSE: scene.fresh_database("bench_load")}
        check = lambda: staged.check("bench_load")  # noqa: E731
        return [ours("load", staged.yaml, environ=environ, after=check)]

    return Stage(
        "load",
        "Load staged orders into the local warehouse",
        rows,
        [Contender("limit: psql \\copy of the ready CSV", "limit", bare), Contender("rds_lake", "ours", loaded)],
        notes="Ours: the production COPY of 12 staged months through the shim, rows counted, exchanged under the lock, "
        "ledger written, one transaction.",
        tidy=lambda: _tidy(scene, "bench-load", "bench_bare", "bench_load"),
    )


def merge(scene: Scene, rows: int) -> Stage:
    """Changed rows of many partitions, now in one, into a warehouse that holds all of them."""
    staged = _Staged(scene, "bench-merge", rows)
    file = staged.csv("orders/staging/", scene.kept / f"orders_{rows}.csv")
    environ = {**staged.environ, WAREHOUSE: scene.fresh_database("bench_merge")}
    prepare(scene, ours("load", staged.yaml, environ=environ))
    scene.fresh_database("bench_bare")
    first = scene.kept / "load.sql"
    first.write_text(BARE_COPY.format(table="orders", file=file), encoding="utf-8")
    scene.postgres("bench_bare", BARE_TABLE)
    prepare(scene, psql(scene, "bench_bare", first))
    for database in ("bench_merge", "bench_bare"):
        scene.postgres(database, "VACUUM ANALYZE orders")

    @cache
    def changes(number: int) -> tuple[str, Path]:
        """Land and split the changed rows of a round; their partition, and the same rows as CSV."""
        table = make_changes(scene.source, rows, rows // CHANGED_SHARE, number)
        yaml, partition = orders_yaml(table, by="month"), _month(number)
        prepare(scene, ours("landing", yaml, partition, environ=staged.environ))
        prepare(scene, ours("split", yaml, "commit", environ=staged.environ))
        folder = f"orders/staging/order_last_updated_month={partition}/"
        return partition, staged.csv(folder, scene.kept / f"{table}.csv")

    def bare(number: int) -> Sequence[Step]:
        _, changed = changes(number)
        script = scene.kept / "merge.sql"
        script.write_text(
            "BEGIN;\nCREATE TEMPORARY TABLE incoming (LIKE orders);\n"
            + BARE_COPY.format(table="incoming", file=changed)
            + "DELETE FROM orders USING incoming WHERE orders.order_id = incoming.order_id;\n"
            "INSERT INTO orders SELECT * FROM incoming;\nCOMMIT;\n",
            encoding="utf-8",
        )
        scene.postgres("bench_bare", "CHECKPOINT")
        return [psql(scene, "bench_bare", script)]

    def merged(number: int) -> Sequence[Step]:
        partition, _ = changes(number)
        scene.postgres("bench_merge", "CHECKPOINT")
        return [ours("load", staged.yaml, partition, environ=environ)]

    return Stage(
        "merge",
        f"Merge {rows // CHANGED_SHARE:,} changed orders into the warehouse",
        rows,
        [
            Contender("limit: psql, \\copy of the changes, delete, insert", "limit", bare),
            Contender("rds_lake", "ours", merged),
        ],
        notes="Each round changes other orders, spread over the whole year; their new versions lie in a month of "
        "their own.",
        tidy=lambda: _tidy(scene, "bench-merge", "bench_bare", "bench_merge"),
    )


class _Staged:
    """A bucket in which all orders are landed and split, by month."""

    def __init__(self, scene: Scene, bucket: str, rows: int) -> None:
        self.scene, self.bucket = scene, scene.empty_bucket(bucket)
        self.environ = {"RDS_LAKE_BUCKET": bucket, "RDS_LAKE_GLUE_DATABASE": bucket.replace("-", "_")}
        self.yaml = orders_yaml(make_orders(scene.source, rows), by="month")
        prepare(scene, ours("landing", self.yaml, environ=self.environ))
        prepare(scene, ours("split", self.yaml, "commit", environ=self.environ))
        self.rows = 0

    def csv(self, prefix: str, file: Path) -> Path:
        """The staged rows below a prefix as a CSV file."""
        table = download(self.scene, self.bucket, prefix)
        self.rows = self.rows or table.num_rows
        options = pa.csv.WriteOptions(include_header=False, quoting_style="needed")
        pa.csv.write_csv(table, file, options)
        return file

    def check(self, database: str) -> Facts:
        """See that the warehouse holds what was staged.

        Raises:
            CannotError: it does not.
        """
        [(found,)] = self.scene.postgres(database, "SELECT COUNT(*) FROM public.orders")
        if found != self.rows:
            raise CannotError(f"the warehouse holds {found:,} rows of {self.rows:,}")
        return {}


def _month(number: int) -> str:
    """The key of the month, counted from 0, after the year of the orders."""
    moment = END
    for _ in range(number):
        moment = (moment.replace(day=1) + timedelta(days=32)).replace(day=1)
    return f"{moment:%Y-%m}"


def _tidy(scene: Scene, bucket: str, *databases: str) -> None:
    scene.empty_bucket(bucket)
    for database in databases:
        scene.drop_database(database)
