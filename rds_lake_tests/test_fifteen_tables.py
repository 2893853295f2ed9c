"""Fifteen related tables, declared in YAML alone, synced by the command, and compared row by row by other readers."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from ferry import CHANGES, TABLES, FerryTable, dated, ferry_rows
from pipeline import Row, World, write_dagster_home

from rds_lake import scaffold
from rds_lake.definitions import PROJECT
from rds_lake.extract.source import Source
from rds_lake.settings import parse_database_url
from rds_lake.spec import TableSpec

pytestmark = [pytest.mark.stack, pytest.mark.slow]

DOCS = PROJECT / "docs" / "fifteen-tables.md"


@pytest.fixture(scope="module")
def ferry(world: World) -> Iterator[World]:
    """The fifteen tables, filled."""
    try:
        with world.source() as cursor:
            for table in TABLES.values():
                cursor.execute(f"CREATE TABLE `{table.source}` ({table.columns}) DEFAULT CHARACTER SET utf8mb4")
            for name, content in ferry_rows():
                cursor.executemany(f"INSERT INTO `{name}` VALUES ({', '.join(['%s'] * len(content[0]))})", content)
        yield world
    finally:
        with world.source() as cursor:
            for table in reversed(TABLES.values()):
                cursor.execute(f"DROP TABLE IF EXISTS `{table.source}`")


@pytest.fixture(scope="module")
def project(ferry: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with no tables but these: each as proposed, and what was added by hand."""
    copy = tmp_path_factory.mktemp("ferry") / "project"
    shutil.copytree(PROJECT / "rds_lake", copy / "rds_lake", ignore=shutil.ignore_patterns("__pycache__", "defs"))
    shutil.copy(PROJECT / "pyproject.toml", copy)
    defs = copy / "rds_lake" / "defs"
    defs.mkdir()
    (defs / "__init__.py").touch()
    write_dagster_home(copy / "dagster")
    for name in TABLES:
        proposal = propose(ferry, TABLES[name])
        file = scaffold.write(proposal, defs=defs)
        if TABLES[name].by_hand:
            edit(file, yaml.safe_load(dated(TABLES[name].by_hand)))
    return copy


def propose(world: World, table: FerryTable) -> scaffold.Proposal:
    url = parse_database_url(world.environ["RDS_LAKE_SOURCE_URL"], scheme="mysql", variable="RDS_LAKE_SOURCE_URL")
    unit: Any = dict(zip(table.options[::2], table.options[1::2], strict=True)).get("--by")
    return scaffold.look(Source(url), table.source, by=unit)


def edit(file: Path, by_hand: dict[str, Any]) -> None:
    """Add keys to a file, or replace them."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in by_hand.items():
        before = content["attributes"].get(key)
        content["attributes"][key] = {**before, **value} if isinstance(before, dict) else value
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


Command = Callable[..., str]


@pytest.fixture(scope="module")
def command(ferry: World, project: Path) -> Command:
    """Run `rds-lake`; what it prints."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from rds_lake.cli import main; main()", *words],
            env={
                **os.environ,
                **ferry.environ,
                "DAGSTER_HOME": str(project / "dagster"),
                "RDS_LAKE_HOME": str(project / "none"),
                "PYTHONPATH": str(project),
            },
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return run


# --- other readers ---


def float32(value: float | None) -> float | None:
    """The single-precision number that a text of few digits stands for."""
    return None if value is None else float(struct.unpack("f", struct.pack("f", value))[0])


def comparable(values: Any, kinds: list[str]) -> Row:
    """A row as values that are equal when they are the same, whatever reader they come from."""
    return tuple(
        bytes(value)
        if isinstance(value, memoryview)
        else int.from_bytes(value, "big")
        if kind == "bit" and isinstance(value, bytes)
        else float32(value)
        if kind == "float"
        else value
        for value, kind in zip(values, kinds, strict=True)
    )


def columns_of(world: World, table: str) -> list[tuple[str, str]]:
    """A source table's columns and their types' names."""
    found = world.ask(
        "SELECT column_name, data_type, numeric_precision FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position",
        (table,),
    )
    return [(name, "text" if kind == "time" or digits == 65 else kind) for name, kind, digits in found]


def in_source(world: World, table: str) -> Counter[Row]:
    """The rows of the source: pymysql."""
    columns = columns_of(world, table)
    kinds = [kind for _, kind in columns]
    forms = {"text": "CAST({} AS CHAR)", "float": "{} + 0e0"}
    chosen = ", ".join(forms.get(kind, "{}").format(f"`{name}`") for name, kind in columns)
    return Counter(comparable(row, kinds) for row in world.ask(f"SELECT {chosen} FROM `{table}`".replace("%", "%%")))


def in_lake(world: World, name: str, stage: str) -> Counter[Row]:
    """The rows of a stage: the manifests, boto3 and pyarrow."""
    kinds = [kind for _, kind in columns_of(world, TABLES[name].source)]
    entries = [entry for manifest in world.manifests(name, stage).values() for entry in manifest["entries"]]
    found: Counter[Row] = Counter()
    for content in world.get_all([world.key(entry["url"]) for entry in entries]):
        columns = [column.to_pylist() for column in pq.read_table(io.BytesIO(content)).columns[: len(kinds)]]
        found.update(comparable(row, kinds) for row in zip(*columns, strict=True))
    return found


def in_warehouse(world: World, name: str) -> Counter[Row]:
    """The rows of the warehouse: psycopg2."""
    kinds = [kind for _, kind in columns_of(world, TABLES[name].source)]
    found = world.query(f'SELECT * FROM public."{TABLES[name].source.lower()}"')
    return Counter(comparable(row, kinds) for row in found)


def assert_the_same_everywhere(world: World) -> dict[str, Counter[Row]]:
    """Compare every table row by row; returns the rows of each."""
    rows_of = {}
    for name in TABLES:
        source = in_source(world, TABLES[name].source)
        once = Counter(set(source))
        assert in_lake(world, name, "archived") == source, name
        assert in_lake(world, name, "staging") == once, name
        assert in_lake(world, name, "discarded") == source - once, name
        assert in_warehouse(world, name) == once, name
        rows_of[name] = source
    return rows_of


# --- the tests ---


@pytest.mark.parametrize("name", TABLES)
def test_this_is_proposed_for_each_table(ferry: World, name: str) -> None:
    proposal = propose(ferry, TABLES[name])
    said = yaml.safe_load(proposal.text)["attributes"]
    TableSpec.model_validate(said)
    assert (said["table"], said.get("source_table", name)) == (name, TABLES[name].source)
    kept = {key: value for key, value in said.items() if key in {"key", "cursor", "partitions"}}
    assert kept == yaml.safe_load(dated(TABLES[name].proposed))


def test_the_proposal_points_at_what_is_to_be_added_by_hand(ferry: World) -> None:
    assert "lies after the clock in UTC" in propose(ferry, TABLES["sailing"]).text
    assert "# cursor: {column: recorded_at}" in propose(ferry, TABLES["tide_reading"]).text
    name = "rds_lake_booking guests_Changed At"
    assert f"CREATE INDEX `{name}` ON `booking guests` (`Changed At`);" in propose(ferry, TABLES["booking_guests"]).text
    assert "ON `gate_scan` (`updated_ms`, `scan_code`);" in propose(ferry, TABLES["gate_scan"]).text
    assert "Rows without modified_at: 24." in propose(ferry, TABLES["vehicle"]).text


@pytest.mark.timeout(900)  # a minute on a quiet machine
def test_every_row_of_every_table_arrives_and_follows_every_change(ferry: World, command: Command) -> None:
    assert command("sync").splitlines()[-1].startswith("In step")
    before = assert_the_same_everywhere(ferry)
    assert sum(rows.total() for rows in before.values()) > 3_000

    with ferry.source() as cursor:
        for statement in CHANGES:
            assert cursor.execute(dated(statement)), statement
    time.sleep(3.5)  # the fence keeps two seconds from now, and whole seconds from a transaction
    assert command("sync").splitlines()[-1].startswith("In step")
    after = assert_the_same_everywhere(ferry)
    assert [name for name in TABLES if before[name] == after[name]] == []

    objects = ferry.objects()
    assert command("sync").splitlines()[-1].startswith("Everything was in step already; nothing was done")
    assert ferry.objects() == objects
    assert command("verify", "--rows", "--strict").splitlines()[-1].startswith("No difference in ")


def test_the_documentation_says_what_was_declared_for_each() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        options = " ".join(table.options)
        assert cells[2] == (f"`{options}`" if options else "nothing")
        assert cells[3] == (f"`{table.by_hand[1:-1].replace('{day12}', 'DAY')}`" if table.by_hand else "nothing")
        assert cells[4] == table.why
