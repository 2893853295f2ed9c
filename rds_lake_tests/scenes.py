"""Tables in a certain state, with a change that the next sync will find: what syncs are killed and doubled over."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kill_harness import Job, Workers
from pipeline import VALID, Row, World, order_rows, write_dagster_home
from witness import Content, Subject

from rds_lake.spec import TableSpec

QUICK = {
    "rds_lake.assets.common:RETRY_SECONDS": 0.1,
}
"""Waits of the product, shortened for tests; that there are retries stays."""


@dataclass
class Scene:
    """A table in a certain state, with a change that the next sync will find."""

    name: str
    subject: Subject
    before: Content
    job: Job
    certain: tuple[str, ...] = ()
    """Parts of the names of calls that it is killed at in any case, however few the kills."""


def job_of(world: World, spec: TableSpec, home: Path) -> Job:
    """A sync of a table, recorded in a DAGSTER_HOME of its own."""
    environ = {**world.environ, "DAGSTER_HOME": str(write_dagster_home(home))}
    return Job(
        environ, spec.model_dump(mode="json", by_alias=True), patch={"rds_lake.assets.common:RETRY_SECONDS": 0.1}
    )


def valid_status(row: Row) -> bool:
    """Whether an order keeps all rules."""
    return row[3] in VALID


# --- the cases -------------------------------------------------------------------------------------------------------


def first_load(world: World, crew: Workers, home: Path) -> Scene:
    """A first load of two days, with bad rows."""
    spec = world.orders("firsts", rows=order_rows(40, 2))
    return Scene("first load", Subject(world, spec, valid_status), {}, job_of(world, spec, home))


def large_files(world: World, crew: Workers, home: Path) -> Scene:
    """A first load of files that are sent in parts while they are written, and read while they are fetched."""
    spec = world.orders("large", rows=order_rows(40, 2))
    job = job_of(world, spec, home)
    small = {"rds_lake.lake.spool:SINGLE_PUT_BYTES": 300, "rds_lake.lake.files:SINGLE_PUT_BYTES": 300}
    job = replace(job, patch={**job.patch, **small, "rds_lake.lake.store:PART_BYTES": 500})
    certain = "CompleteMultipartUpload large/landing", "CompleteMultipartUpload large/staging"
    return Scene("large files", Subject(world, spec, valid_status), {}, job, certain)


def increment(world: World, crew: Workers, home: Path) -> Scene:
    """A late row, an edit, a hard delete, a row that moves to another day, a day that is emptied, a day untouched."""
    spec = world.orders("more", rows=order_rows(48, 4))
    job = job_of(world, spec, home)
    subject = Subject(world, spec, valid_status)
    before = subject.wanted()
    assert crew.run(job).ok
    table = spec.source_name
    with world.source() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (9001, '2024-01-03 00:00:01', 7, 'CLOSED')")
        cursor.execute(
            f"UPDATE {table} SET customer_id = 99, order_last_updated = '2024-01-03 23:00' WHERE order_id = 26"
        )
        cursor.execute(f"DELETE FROM {table} WHERE order_id = 27")
        cursor.execute(f"UPDATE {table} SET order_last_updated = '2024-01-03 23:30' WHERE order_id = 3")
        cursor.execute(f"DELETE FROM {table} WHERE order_last_updated >= '2024-01-04'")
    return Scene("increment", subject, before, job)


def replaced(world: World, crew: Workers, home: Path) -> Scene:
    """A table without a cursor, which is replaced as a whole."""
    rows = [(number, f"thing {number}" if number % 7 else None, number * 3) for number in range(1, 31)]
    source = world.table("things", "id INT PRIMARY KEY, name VARCHAR(20), price INT", rows)
    spec = TableSpec.model_validate(
        {
            "table": "things",
            "source_table": source,
            "key": ["id"],
            "rules": [{"rule": "not_null", "column": "name"}],
            "warehouse": {"table": "things"},
        }
    )
    job = job_of(world, spec, home)
    subject = Subject(world, spec, lambda row: row[1] is not None)
    before = subject.wanted()
    assert crew.run(job).ok
    with world.source() as cursor:
        cursor.execute(f"DELETE FROM {source} WHERE id = 5")
        cursor.execute(f"UPDATE {source} SET name = 'named' WHERE id = 7")
        cursor.execute(f"INSERT INTO {source} VALUES (31, NULL, 1), (32, 'new', 2)")
    return Scene("replaced", subject, before, job)


def other_rules(world: World, crew: Workers, home: Path) -> Scene:
    """Rows that stay as they are under rules that do not."""
    spec = world.orders("ruled", rows=order_rows(40, 2))
    job = job_of(world, spec, home)
    before = Subject(world, spec, valid_status).wanted()
    assert crew.run(job).ok
    lookup = f"ruled_status_{world.token}"
    world.ask(f"DELETE FROM {lookup} WHERE status_name = 'ON_HOLD'")
    return Scene(
        "other rules", Subject(world, spec, lambda row: valid_status(row) and row[3] != "ON_HOLD"), before, job
    )


def more_columns(world: World, crew: Workers, home: Path) -> Scene:
    """A column more at the source: the schema is agreed on anew, all is landed again, the warehouse's table changes."""
    spec = world.orders("grown", rows=order_rows(40, 2))
    job = job_of(world, spec, home)
    subject = Subject(world, spec, valid_status)
    before = subject.wanted()
    assert crew.run(job).ok
    world.ask(f"ALTER TABLE {spec.source_name} ADD note VARCHAR(20) NOT NULL DEFAULT 'none'")
    world.ask(f"UPDATE {spec.source_name} SET note = 'some' WHERE order_id = 3")
    certain = "PutObject grown/_manifests/schema.json", f'ALTER TABLE "public"."{spec.warehouse_name}" ADD COLUMN'
    return Scene("more columns", subject, before, job, certain)


Case = Callable[[World, Workers, Path], Scene]

CASES: list[Case] = [first_load, large_files, increment, replaced, other_rules, more_columns]
