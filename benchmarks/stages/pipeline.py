"""The whole way, by the command `rds-lake sync` in a cold process: observed, landed, split, archived, loaded, checked.

The peers beside it copy the same rows to S3 and do nothing else.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from benchmarks.contenders import CannotError, Contender, Facts, Stage, Step
from benchmarks.peers import BUCKET, COLD, MORE, NOTHING, copiers, growing
from benchmarks.scene import ROOT, Scene
from benchmarks.tables import END, VALID, count, make_orders, orders_yaml


def pipeline(scene: Scene, rows: int) -> Stage:
    """All rows in a cold process, one row more, no change."""
    table = make_orders(scene.source, rows)

    def less() -> None:
        one_row_less(scene, table, rows)

    def more() -> None:
        one_row_more(scene, table, rows)

    def sync(by: str, _: int) -> Sequence[Step]:
        environ = _environ(scene, scene.project(orders_yaml(table, by=by)))
        program = [str(Path(sys.executable).parent / "rds-lake"), "sync", "orders"]
        return [
            Step(program, environ, COLD, before=less),
            Step(program, environ, MORE, before=more),
            Step(program, environ, NOTHING, after=lambda: _check(scene, environ, table)),
        ]

    return Stage(
        "pipeline",
        "The whole pipeline, in a cold process each time",
        rows,
        [
            Contender("rds_lake: rds-lake sync, everything checked", "ours", partial(sync, "day")),
            Contender("rds_lake: the same, cut into months", "ours", partial(sync, "month")),
            *copiers(scene, table, rows, less, more),
        ],
        notes="Ours: source to warehouse in 365 partitions (or 12), with every check. The peers copy the same rows to "
        "Parquet on the same S3, unsplit, unchecked, and into no warehouse.",
        tidy=lambda: _tidy(scene, table, rows),
    )


def first_load(scene: Scene, rows: int) -> Stage:
    """All rows over 365 partitions, source to warehouse: what it costs, and what is asked of whom."""
    table = make_orders(scene.source, rows)
    project = scene.project(orders_yaml(table))

    def sync(_: int) -> Sequence[Step]:
        return [_counted(scene, _environ(scene, project), table)]

    return Stage(
        "first_load",
        "First load of orders over 365 partitions, source to warehouse",
        rows,
        [Contender("rds_lake: rds-lake sync, everything checked", "ours", sync)],
        notes="Queries: the difference of the source's counter `Questions`, all statements of all connections. Calls "
        "to AWS are counted where they leave the process; what the warehouse's COPY reads is not among them.",
        tidy=lambda: _tidy(scene, table, rows),
    )


def growth(scene: Scene, rows: int) -> Stage:
    """The same at one of several sizes, and again without a change."""
    table = make_orders(scene.source, rows)

    project = scene.project(orders_yaml(table))

    def syncs(_: int) -> Sequence[Step]:
        environ = _environ(scene, project)
        return [_counted(scene, environ, table, name) for name in (COLD, NOTHING)]

    return Stage(
        "growth",
        "Growth: rds-lake sync against the number of rows",
        rows,
        [Contender("rds_lake: rds-lake sync, everything checked", "ours", syncs), *growing(scene, table, rows)],
        notes="The peers' bare copies to S3 are for comparison. Queries and calls are counted as for the first load.",
        tidy=lambda: _tidy(scene, table, rows),
    )


def one_row_more(scene: Scene, table: str, rows: int) -> None:
    """Add an order at the very end of the last day."""
    moment = END - timedelta(seconds=1)
    scene.sql(f"INSERT INTO `{table}` VALUES ({rows + 1}, '{moment}', 1, '{VALID[0]}')")


def one_row_less(scene: Scene, table: str, rows: int) -> None:
    """Take it away again."""
    scene.sql(f"DELETE FROM `{table}` WHERE order_id > {rows}")


def _environ(scene: Scene, project: Path) -> dict[str, str]:
    return {**scene.corner("bench_pipeline"), "PYTHONPATH": f"{project}:{ROOT}"}


def _counted(scene: Scene, environ: Mapping[str, str], table: str, name: str = "") -> Step:
    """A sync whose queries and calls are counted."""
    calls = scene.results / "calls.json"
    asked: list[int] = []

    def look() -> Facts:
        # The question itself, and what each connection says first, come on top.
        queries = _questions(scene) - asked[-1]
        _check(scene, environ, table)
        counted: dict[str, int] = json.loads(calls.read_text(encoding="utf-8"))
        return {"queries at the source": queries, **dict(sorted(counted.items()))}

    command = [sys.executable, "-m", "benchmarks.ours.counted", str(calls), "sync", "orders"]
    return Step(command, environ, name, before=lambda: asked.append(_questions(scene)), after=look)


def _questions(scene: Scene) -> int:
    [(_, value)] = scene.sql("SHOW GLOBAL STATUS LIKE 'Questions'")
    return int(value)


def _check(scene: Scene, environ: Mapping[str, str], table: str) -> Facts:
    """See that the warehouse holds every valid order.

    Raises:
        CannotError: it does not.
    """
    names = ", ".join(f"'{name}'" for name in VALID)
    [(valid,)] = scene.sql(f"SELECT COUNT(*) FROM `{table}` WHERE BINARY order_status IN ({names})")
    database = environ["RDS_LAKE_WAREHOUSE_URL"].rsplit("/", 1)[1]
    [(found,)] = scene.postgres(database, "SELECT COUNT(*) FROM public.orders")
    if found != valid:
        raise CannotError(f"the warehouse holds {found:,} rows of {valid:,}")
    return {}


def _tidy(scene: Scene, table: str, rows: int) -> None:
    one_row_less(scene, table, rows)
    for bucket in ("bench-pipeline", BUCKET):
        scene.empty_bucket(bucket)
    scene.drop_database("bench_pipeline")
    if count(scene.source, table) != rows:
        raise CannotError(f"{table} has other rows than at the start")
