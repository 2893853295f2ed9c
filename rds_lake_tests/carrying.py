"""What the tests of types share: a table carried from the source to the warehouse by the production code alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import until
from rooms import Rooms, as_committed

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.catalog import publish
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import land
from rds_lake.lake.manifest import Manifest, Manifests
from rds_lake.plan import lookup_values
from rds_lake.quality.split import DISCARDED_GLUE_COLUMNS, Splitter
from rds_lake.spec import TableSpec
from rds_lake.sql import quote
from rds_lake.warehouse.load import load

ALL = "all"


@dataclass(frozen=True)
class Journey:
    """The batches of a whole table on its way."""

    landed: Manifest
    staged: Manifest
    discarded: Manifest


def carry(rooms: Rooms, spec: TableSpec) -> Journey:
    """Extract, split and load a table without partitions."""
    with open_snapshot(rooms.source, spec) as snapshot:
        landed = land(snapshot, rooms.store, [ALL])[ALL].manifest
    manifests = Manifests(rooms.store, TableKeys.of(spec))
    split = Splitter(rooms.store, spec, lookup_values(rooms.source, spec)).split(landed, None, None)
    for manifest in (split.discarded, split.staging):
        manifests.commit(manifest, manifests.read(manifest.stage, ALL))
    publish(rooms.catalog, rooms.store, spec, "staging", as_committed([split.staging]))
    publish(rooms.catalog, rooms.store, spec, "discarded", as_committed([split.discarded]), DISCARDED_GLUE_COLUMNS)
    load(rooms.warehouse, rooms.store, spec, [split.staging])
    return Journey(landed, split.staging, split.discarded)


def by_key(rows: list[tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
    """Rows by their first column."""
    return {row[0]: row for row in rows}


def in_warehouse(rooms: Rooms, spec: TableSpec) -> dict[Any, tuple[Any, ...]]:
    """The rows of a table of the warehouse, by their first column."""
    table = f"{quote(spec.warehouse.db_schema)}.{quote(spec.warehouse_name.lower())}"
    rows = rooms.ask(f"SELECT * FROM {table}")
    found = by_key([tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows])
    assert len(found) == len(rows)
    return found


def judged(rooms: Rooms, table: str, asked: Mapping[str, str]) -> dict[Any, tuple[Any, ...]]:
    """What the server itself says that it holds: an SQL expression for each column, all answers as text."""
    texts = ", ".join(asked.values())
    return {row[0]: row[1:] for row in rooms.sql(f"SELECT id, {texts} FROM {quote(table, 'mysql')}")}


def athena(rooms: Rooms, text: str) -> list[tuple[str | None, ...]]:
    """The rows of a query of Athena, as text; the first is the header."""
    client = rooms.client("athena")
    started = client.start_query_execution(
        QueryString=text,
        QueryExecutionContext={"Database": rooms.catalog.database},
        ResultConfiguration={"OutputLocation": rooms.store.url("athena-answers/")},
    )["QueryExecutionId"]

    def status() -> Any:
        return client.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]

    until(lambda: status()["State"] not in {"QUEUED", "RUNNING"})
    assert status()["State"] == "SUCCEEDED", status()
    rows = client.get_query_results(QueryExecutionId=started)["ResultSet"]["Rows"]
    return [tuple(cell.get("VarCharValue") for cell in row["Data"]) for row in rows]
