"""The peers: who does what, each in an environment of its own. The other modules here are the programs that they run.

A program knows nothing of ours: it finds the source's address in BENCH_* variables, S3's in AWS_*.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.contenders import CannotError, Contender, Facts, Step, nothing
from benchmarks.environments import mariadb_jar, python, release
from benchmarks.figures import FROM_S3
from benchmarks.looks import look_at_parquet, look_in_s3
from benchmarks.scene import Scene
from benchmarks.tables import CURSOR

FOLDER = Path(__file__).parent
BUCKET = "bench-peers"
COLD, MORE, NOTHING = "all rows", "one more row", "no change"
"""The steps of a pipeline: into an empty lake, after one insert, and once more."""

MOST_NAIVE = 5_000_000
"""Rows up to which the naive way is asked: it would take 8 GB for the 20 million."""

DLT_BACKENDS = ("pyarrow", "connectorx")


def _program(scene: Scene, environment: str, name: str, *words: str) -> list[str]:
    """The command of one of the programs beside this module.

    Raises:
        CannotError: its environment cannot be installed here.
    """
    return [str(python(scene, environment)), str(FOLDER / f"{name}.py"), *words]


Look = Callable[[Path], Facts]
"""Looks at a file, or a folder of files, when the clock has stopped."""


def extractors(scene: Scene, table: str, look: Look) -> list[Contender]:
    """Those that write a table to Parquet.

    Args:
        scene: the scene.
        table: the table.
        look: how what they wrote is looked at.
    """
    single = {
        f"{release('duckdb', 'duckdb')}, mysql extension": ("duckdb", "read_duckdb", "parquet"),
        f"{release('connectorx', 'connectorx')}, streaming": ("connectorx", "read_connectorx", "parquet"),
        f"{release('polars', 'polars')} (ConnectorX)": ("polars", "read_polars", "parquet"),
        f"{release('ingestr', 'ingestr')}, to CSV": ("ingestr", "read_ingestr", "csv"),
        f"{release('sling', 'sling-linux-amd64')}": ("sling", "copy_sling", "parquet"),
        f"the naive way: {release('naive', 'pandas')}, read_sql, to_parquet": ("naive", "naive", "parquet"),
    }
    found = [_peer(name, partial(_extraction, scene, table, look, *given)) for name, given in single.items()]
    name = f"{release('dlt', 'dlt')}, {{}} backend"
    found += [_peer(name.format(each), partial(_dlt, scene, table, look, each)) for each in DLT_BACKENDS]
    spark = _peer(f"{release('spark', 'pyspark')}, local[2], JDBC", partial(_spark, scene, table, look))
    return [*found, replace(spark, only_full=True)]


def _peer(name: str, step: Callable[[], Step]) -> Contender:
    """A peer that does the work in one step."""
    return Contender(name, "peer", lambda _: [step()])


def _extraction(scene: Scene, table: str, look: Look, environment: str, program: str, kind: str) -> Step:
    file = scene.results / f"{program}.{kind}"

    def after() -> Facts:
        try:
            return look(file)
        finally:
            file.unlink(missing_ok=True)

    target = f"file://{file}" if environment == "sling" else str(file)
    return Step(_program(scene, environment, program, table, target), after=after)


def _dlt(scene: Scene, table: str, look: Look, backend: str) -> Step:
    folder, state = scene.fresh_folder("dlt"), scene.fresh_folder("dlt-state")
    command = _program(scene, "dlt", "copy_dlt", table, backend, f"file://{folder}", str(state))
    return Step(command, after=lambda: look(folder / "lake" / table))


def _spark(scene: Scene, table: str, look: Look) -> Step:
    if shutil.which("java") is None:
        raise CannotError("there is no Java (apt-get install default-jre-headless)")
    folder = scene.fresh_folder("spark")
    command = _program(scene, "spark", "read_spark", table, str(folder / "rows"), str(mariadb_jar(scene)))
    return Step(command, after=lambda: look(folder))


def splitters(scene: Scene, landed: Path, statuses: Sequence[str], rows: int) -> list[Contender]:
    """Those that split a file, or the same file as an object in S3."""
    programs = {
        f"{release('polars', 'polars')}, lazy, two sinks": ("polars", "split_polars"),
        f"{release('duckdb', 'duckdb')}, two COPYs": ("duckdb", "split_duckdb"),
    }

    def split(environment: str, program: str) -> Step:
        folder = scene.fresh_folder("split")
        command = _program(scene, environment, program, str(landed), ",".join(statuses), str(folder))
        return Step(command, after=lambda: look_at_parquet(folder, rows))

    def split_s3(how: str) -> Step:
        bucket = scene.empty_bucket(BUCKET)
        scene.s3.upload_file(str(landed), bucket, "landed/rows.parquet")
        work = scene.fresh_folder("split")
        words = [f"s3://{bucket}/landed/rows.parquet", ",".join(statuses), f"s3://{bucket}/split", str(work), how]
        command = _program(scene, "polars", "split_s3", *words)
        return Step(command, after=lambda: look_in_s3(scene.s3, BUCKET, "split/", rows))

    polars = release("polars", "polars")
    by_s3 = {f"{polars}, {FROM_S3}, files fetched and sent by boto3": "boto3", f"{polars}, {FROM_S3}, alone": "alone"}
    return [
        *(_peer(name, partial(split, *given)) for name, given in programs.items()),
        *(_peer(name, partial(split_s3, how)) for name, how in by_s3.items()),
    ]


def copiers(
    scene: Scene, table: str, rows: int, less: Callable[[], None] = nothing, more: Callable[[], None] = nothing
) -> list[Contender]:
    """Those that copy a table to S3, and then what is new in it.

    Args:
        scene: the scene.
        table: the table.
        rows: how many it has at the start.
        less: leaves the table with those rows.
        more: adds one.
    """

    def steps(command: Sequence[str], prefix: str) -> list[Step]:
        def look(expected: int) -> Facts:
            return look_in_s3(scene.s3, BUCKET, prefix, expected)

        return [
            Step(command, {}, COLD, less, partial(look, rows)),
            Step(command, {}, MORE, more, partial(look, rows + 1)),
            Step(command, {}, NOTHING, nothing, partial(look, rows + 1)),
        ]

    def dlt(backend: str, _: int) -> list[Step]:
        state, target = scene.fresh_folder("dlt-state"), f"s3://{scene.empty_bucket(BUCKET)}/dlt"
        return steps(
            _program(scene, "dlt", "copy_dlt", table, backend, target, str(state), CURSOR), f"dlt/lake/{table}/"
        )

    def whole(environment: str, program: str, _: int) -> list[Step]:
        target = f"s3://{scene.empty_bucket(BUCKET)}/{table}/rows.parquet"
        return steps(_program(scene, environment, program, table, target), f"{table}/")

    version, sling, naive = release("dlt", "dlt"), release("sling", "sling-linux-amd64"), release("naive", "pandas")
    every = {f"{version}, {backend} backend: increments to S3": partial(dlt, backend) for backend in DLT_BACKENDS}
    every[f"{sling}: the whole table to S3 each time"] = partial(whole, "sling", "copy_sling")
    every[f"the naive way: {naive}, all to S3 each time"] = partial(whole, "naive", "naive")
    return [Contender(name, "peer", made) for name, made in every.items()]


def growing(scene: Scene, table: str, rows: int) -> list[Contender]:
    """Those whose memory and seconds are drawn against rows: bare copies to S3."""

    def first(contender: Contender) -> Contender:
        return replace(contender, steps=lambda number: contender.steps(number)[:1])

    words = ["connectorx", *(["naive"] if rows <= MOST_NAIVE else [])]
    every = copiers(scene, table, rows)
    return [first(each) for each in every if any(word in each.name for word in words)]
