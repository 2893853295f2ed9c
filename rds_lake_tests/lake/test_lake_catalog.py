"""The catalog: what Athena sees is what the manifests name."""

import time
from datetime import datetime

import pytest
from rooms import FENCE, as_committed, daily, open_store, refit, table_spec

from rds_lake.extract.contract import Agreed, AgreedColumn
from rds_lake.extract.types import Column
from rds_lake.lake.agreement import agreed_to_json, recall_agreed
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.catalog import PARTITION_LIMIT, BatchPlace, CatalogTable, publish
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests

COLUMNS = (Column("id", "int(11)", nullable=False), Column("At", "datetime"), Column("v", "varchar(20)"))


def rows(count: int, day: int = 1) -> list[tuple]:
    return [(n, datetime(2024, 1, day), f"v{n}") for n in range(count)]  # noqa: DTZ001 - the cursor's clock


def athena(rooms, sql: str) -> list[list[str]]:
    client = rooms.client("athena")
    started = client.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": rooms.catalog.database},
        ResultConfiguration={"OutputLocation": f"s3://{rooms.store.bucket}/athena-results/"},
    )
    number = started["QueryExecutionId"]
    deadline = time.monotonic() + 30
    while (status := client.get_query_execution(QueryExecutionId=number)["QueryExecution"]["Status"])["State"] in {
        "QUEUED",
        "RUNNING",
    }:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status["State"] == "SUCCEEDED", status
    found = client.get_query_results(QueryExecutionId=number)["ResultSet"]["Rows"]
    return [[cell.get("VarCharValue") for cell in row["Data"]] for row in found[1:]]


def count(rooms, table: str, where: str = "") -> int:
    return int(athena(rooms, f'SELECT COUNT(*) FROM "{table}" {where}')[0][0])


def partitions(rooms, table: str) -> dict[str, str]:
    pages = rooms.catalog.client.get_paginator("get_partitions").paginate(
        DatabaseName=rooms.catalog.database, TableName=table
    )
    return {item["Values"][0]: item["StorageDescriptor"]["Location"] for page in pages for item in page["Partitions"]}


@pytest.fixture
def spec(rooms):
    return daily(rooms.name(), cursor={"column": "At"}, description="One row is one test.")


def landed(rooms, spec, day: int, number: int):
    return rooms.batch(spec, "staging", COLUMNS, rows(number, day), partition=f"2024-01-0{day}").manifest


def show(rooms, spec, manifests, stage="staging"):
    publish(rooms.catalog, rooms.store, spec, stage, as_committed(manifests))


def test_the_table_is_called_like_its_asset_and_has_the_columns_in_lower_case(rooms, spec):
    show(rooms, spec, [landed(rooms, spec, 1, 2)])
    table = rooms.catalog.client.get_table(DatabaseName=rooms.catalog.database, Name=f"{spec.table}_staging")["Table"]
    columns = [(item["Name"], item["Type"]) for item in table["StorageDescriptor"]["Columns"]]
    assert columns == [("id", "int"), ("at", "timestamp"), ("v", "string")]
    assert [(item["Name"], item["Type"]) for item in table["PartitionKeys"]] == [("at_day", "string")]
    assert table["StorageDescriptor"]["Location"] == f"s3://{rooms.store.bucket}/{spec.table}/staging/"
    assert table["Description"] == "One row is one test."
    assert "Parquet" in table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"]


def test_athena_counts_only_registered_batches(rooms, spec):
    first, second = landed(rooms, spec, 1, 3), landed(rooms, spec, 2, 4)
    landed(rooms, spec, 3, 50)  # never published
    show(rooms, spec, [first, second])
    name = spec.asset("staging")
    assert count(rooms, name) == 7
    assert count(rooms, name, "WHERE at_day = '2024-01-02'") == 4
    assert athena(rooms, f"SELECT id, v FROM \"{name}\" WHERE at_day = '2024-01-01' ORDER BY id") == [
        ["0", "v0"],
        ["1", "v1"],
        ["2", "v2"],
    ]


def test_a_partition_that_is_registered_again_moves_to_its_new_batch(rooms, spec):
    name = spec.asset("staging")
    first = landed(rooms, spec, 1, 3)
    show(rooms, spec, [first])
    before = partitions(rooms, name)
    show(rooms, spec, [first])
    assert partitions(rooms, name) == before
    second = landed(rooms, spec, 1, 5)  # the old files are still there
    assert count(rooms, name) == 3
    show(rooms, spec, [second])
    after = partitions(rooms, name)
    assert after.keys() == before.keys() == {"2024-01-01"}
    assert f"batch={second.batch}/" in after["2024-01-01"]
    assert count(rooms, name) == 5


def test_who_registers_late_does_not_put_a_superseded_batch_back(rooms, spec):
    name = spec.asset("staging")
    old = rooms.batch(spec, "staging", COLUMNS, rows(3, 1), partition="2024-01-01")
    new = rooms.batch(spec, "staging", COLUMNS, rows(5, 1), partition="2024-01-01")
    for committed in (new, old):
        publish(rooms.catalog, rooms.store, spec, "staging", [committed])
        assert f"batch={new.manifest.batch}/" in partitions(rooms, name)["2024-01-01"]
    assert count(rooms, name) == 5


def test_a_partition_without_rows_is_withdrawn_and_may_come_back(rooms, spec):
    name = spec.asset("staging")
    show(rooms, spec, [landed(rooms, spec, 1, 3), landed(rooms, spec, 2, 1)])
    show(rooms, spec, [landed(rooms, spec, 1, 0)])
    assert partitions(rooms, name).keys() == {"2024-01-02"}
    show(rooms, spec, [landed(rooms, spec, 1, 0)])
    assert count(rooms, name) == 1
    show(rooms, spec, [landed(rooms, spec, 1, 6)])
    assert count(rooms, name) == 7


def test_what_has_moved_to_the_archive_is_no_longer_in_landing(rooms, spec):
    keys, manifests = TableKeys.of(spec), Manifests(rooms.store, TableKeys.of(spec))
    committed = rooms.batch(spec, "landing", COLUMNS, rows(3))
    show(rooms, spec, [committed.manifest], "landing")
    assert count(rooms, spec.asset("landing")) == 3
    archived = copy_to_archive(rooms.store, keys, [committed.manifest], {})["2024-01-01"].manifest
    vacate_landing(rooms.store, keys, [committed], {"2024-01-01": archived})
    show(rooms, spec, [archived], "archived")
    show(rooms, spec, [manifests.require("landing", "2024-01-01").manifest], "landing")
    assert count(rooms, spec.asset("archived")) == 3
    assert count(rooms, spec.asset("landing")) == 0


def test_a_table_without_partitions_lies_where_its_current_batch_lies(rooms):
    spec = table_spec(rooms.name(), key=["id"])
    for number in (3, 5, 0):
        show(rooms, spec, [rooms.batch(spec, "staging", COLUMNS, rows(number)).manifest])
        assert count(rooms, spec.asset("staging")) == number


def test_athena_reads_a_csv_table_as_text(rooms):
    spec = table_spec(rooms.name(), key=["id"], landing={"format": "csv"})
    lines = [(1, None, 'say "x", y'), (2, datetime(2024, 1, 1), "")]  # noqa: DTZ001 - MySQL's own
    show(rooms, spec, [rooms.batch(spec, "landing", COLUMNS, lines).manifest], "landing")
    name = spec.asset("landing")
    assert count(rooms, name) == 2
    assert athena(rooms, f'SELECT id, v FROM "{name}" ORDER BY id')[0] == ["1", 'say "x", y']


def test_a_partition_is_read_in_the_format_of_its_own_batch(rooms):
    spec = daily(rooms.name())
    name, mixed = spec.asset("archived"), {"2024-01-01": "parquet", "2024-01-02": "csv"}
    made = {day: rooms.batch(spec, "archived", COLUMNS, rows(1), partition=day, format=mixed[day]) for day in mixed}
    longer = (*COLUMNS, Column("w", "int(11)"))
    grown = rooms.batch(spec, "archived", longer, [(*rows(1, 3)[0], 7)], partition="2024-01-03").manifest
    show(rooms, spec, [made["2024-01-01"].manifest], "archived")
    show(rooms, spec, [made["2024-01-02"].manifest], "archived")
    show(rooms, spec, [grown], "archived")  # more columns: all registered partitions get them
    places = rooms.catalog.all_places(name, partitioned=True)
    assert {day: place.format for day, place in places.items()} == {**mixed, "2024-01-03": "parquet"}
    assert rooms.catalog.places(name, partitioned=True, partitions=list(mixed)) == {day: places[day] for day in mixed}
    glue, table = rooms.catalog.client, {"DatabaseName": rooms.catalog.database, "TableName": name}
    kinds = {
        day: [
            item["Type"]
            for item in glue.get_partition(**table, PartitionValues=[day])["Partition"]["StorageDescriptor"]["Columns"]
        ]
        for day in mixed
    }
    assert kinds == {"2024-01-01": ["int", "timestamp", "string", "int"], "2024-01-02": ["string"] * 4}
    parameters = glue.get_table(DatabaseName=rooms.catalog.database, Name=name)["Table"]["Parameters"]
    assert parameters["skip.header.line.count"] == "1", "a CSV file's first line is no row, whatever is landed now"


def test_more_partitions_than_one_request_takes_are_registered_moved_and_withdrawn(rooms, spec):
    names = [f"p{number:03}" for number in range(PARTITION_LIMIT + 30)]
    table = CatalogTable(rooms.name(), (("id", "int"),), "day", f"s3://{rooms.store.bucket}/x/", "parquet")
    rooms.catalog.ensure_table(table)
    for place, known in (("a", names[:20]), ("b", names[10:50])):  # some of both are wrong, which does no harm
        locations = {name: f"s3://{rooms.store.bucket}/x/{name}/{place}/" for name in names}
        places = {name: BatchPlace(location, "parquet") for name, location in locations.items()}
        rooms.catalog.register(table, places, known)
        assert partitions(rooms, table.name) == locations
    rooms.catalog.withdraw(table, names[:60])
    assert partitions(rooms, table.name).keys() == set(names[60:])


def test_a_changed_table_is_brought_up_to_date(rooms):
    table = CatalogTable(rooms.name(), (("id", "int"),), None, f"s3://{rooms.store.bucket}/x/", "parquet")
    rooms.catalog.ensure_table(table)
    rooms.catalog.ensure_table(table)
    rooms.catalog.ensure_table(refit(table, columns=(("id", "bigint"), ("v", "string"))))
    found = rooms.catalog.client.get_table(DatabaseName=rooms.catalog.database, Name=table.name)["Table"]
    assert [item["Type"] for item in found["StorageDescriptor"]["Columns"]] == ["bigint", "string"]


def test_a_run_that_remembers_an_older_agreement_does_not_narrow_the_table(rooms, spec):
    others, key = open_store(rooms.environ, rooms.store.bucket), TableKeys.of(spec).schema
    columns = tuple(AgreedColumn(column, column.type, FENCE) for column in COLUMNS)
    older, newer = (Agreed(1, FENCE, columns[:number]) for number in (2, 3))
    etag = rooms.store.put_if(key, agreed_to_json(older), etag=None)
    show(rooms, spec, [landed(rooms, spec, 1, 2)])
    others.put_if(key, agreed_to_json(newer), etag=etag)
    publish(rooms.catalog, others, spec, "staging", as_committed([landed(rooms, spec, 2, 2)]))
    show(rooms, spec, [landed(rooms, spec, 3, 2)])
    assert recall_agreed(rooms.store, TableKeys.of(spec)).agreed == newer
    name, where = spec.asset("staging"), {"DatabaseName": rooms.catalog.database}
    table = rooms.catalog.client.get_table(**where, Name=name)["Table"]
    found = [table, *rooms.catalog.client.get_partitions(**where, TableName=name)["Partitions"]]
    assert [len(item["StorageDescriptor"]["Columns"]) for item in found] == [3] * 4


def test_publishing_nothing_makes_no_table(rooms, spec):
    show(rooms, spec, [])
    with pytest.raises(rooms.catalog.client.exceptions.EntityNotFoundException):
        rooms.catalog.client.get_table(DatabaseName=rooms.catalog.database, Name=spec.asset("staging"))
