"""A table without cursor and key: landed as CSV, extracted in full, its doubles discarded, replaced as a whole."""

import csv
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from pipeline import STAGES, Row, World, plain_rows, redshift

from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack

PEOPLE: list[Row] = [
    (1, "Zoë", 'Lee "Ace"', "one,two"),
    (2, "D'Arcy", "line\nbreak", "\r\n"),
    (3, None, "", "NULL"),
    (4, "", None, "\\N"),
    (None, None, None, None),
    (6, " padded ", "tab\there", "美咲 \U0001f600"),
    (7, '"', '""', "'"),
    (3, None, "", "NULL"),
    (3, "", "", "NULL"),
    (7, '"', '""', "'"),
    (7, '"', '""', "'"),
    (None, None, None, None),
]


def people(world: World, name: str, rows: list[Row]) -> TableSpec:
    source = world.table(name, "id INT, first VARCHAR(40), last VARCHAR(40), note VARCHAR(40)", rows)
    declared = {"table": name, "source_table": source, "landing": {"format": "csv"}, "warehouse": {"table": name}}
    return TableSpec.model_validate(declared)


def test_every_text_arrives_as_it_is_and_doubles_are_discarded_with_the_reason(world: World) -> None:
    spec = people(world, "people", PEOPLE)
    done = world.sync(spec)
    assert done.ok, done
    once = Counter(set(PEOPLE))
    assert world.lake_rows("people", "staging") == once
    assert world.warehouse_rows(spec) == once
    discarded = world.lake_rows("people", "discarded")
    assert Counter(row[:4] for row in discarded.elements()) == Counter(PEOPLE) - once
    assert {row[4] for row in discarded} == {("duplicate_row",)}
    assert sorted(world.manifests("people", "archived")) == ["all"]
    assert world.objects("people/landing/") == {}


def test_the_landed_csv_is_read_by_any_reader_and_tells_null_from_an_empty_text(world: World) -> None:
    spec = people(world, "readers", PEOPLE)
    assert world.sync(spec).ok
    [entry] = world.manifests("readers", "landing")["all"]["entries"]
    assert entry["url"].startswith(f"s3://{world.bucket}/readers/archived/batch=")
    assert entry["url"].endswith("/part-00000.csv")
    content = world.get(world.key(entry["url"])).decode()
    header, *rows = csv.reader(io.StringIO(content, newline=""))
    assert header == ["id", "first", "last", "note"]
    assert Counter(map(tuple, rows)) == Counter(
        tuple("" if value is None else str(value) for value in row) for row in PEOPLE
    )
    assert '3,,"","NULL"' in content
    assert '4,"",,"\\N"' in content


def test_any_asset_again_and_a_sync_with_nothing_to_do_change_nothing(world: World) -> None:
    spec = people(world, "again", PEOPLE)
    assert world.sync(spec).ok
    objects, rows = world.objects("again/"), world.warehouse_rows(spec)
    for stage in (*STAGES, *reversed(STAGES)):
        assert world.materialize(spec, stage).success
    files = {key for key in world.objects("again/") if "/_manifests/" not in key}
    assert files == {key for key in objects if "/_manifests/" not in key}
    assert world.warehouse_rows(spec) == rows
    assert world.sync(spec).partitions == 0


def test_a_change_anywhere_replaces_the_whole(world: World) -> None:
    spec = people(world, "changing", PEOPLE)
    assert world.sync(spec).ok
    world.ask(f"UPDATE {spec.source_name} SET note = 'changed' WHERE id = 6")
    world.ask(f"DELETE FROM {spec.source_name} WHERE id IS NULL")
    done = world.sync(spec)
    assert (done.ok, done.partitions) == (True, 1)
    assert world.warehouse_rows(spec) == Counter(set(plain_rows(world.ask(f"SELECT * FROM {spec.source_name}"))))

    world.ask(f"DELETE FROM {spec.source_name}")
    assert world.sync(spec).ok
    assert world.warehouse_rows(spec) == Counter()


def test_a_reader_never_sees_nothing_or_a_mixture_while_it_is_replaced(world: World) -> None:
    rows: list[Row] = [(number, "version 0", "x", "y") for number in range(500)]
    spec = people(world, "polled", rows)
    assert world.sync(spec).ok
    stop = Event()

    def poll() -> Counter[Row]:
        seen: Counter[Row] = Counter()
        with redshift(world.environ["RDS_LAKE_WAREHOUSE_URL"]) as cursor:
            while not stop.is_set():
                cursor.execute("SELECT COUNT(*), MIN(first), MAX(first) FROM polled")
                seen[cursor.fetchone()] += 1
        return seen

    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(poll)
        try:
            for version in (1, 2, 3):
                world.ask(f"UPDATE {spec.source_name} SET first = 'version {version}'")
                assert world.sync(spec).ok
        finally:
            stop.set()
        seen = polled.result()
    assert set(seen) <= {(500, f"version {version}", f"version {version}") for version in range(4)}
    assert len(seen) >= 3, "the reader saw it change"
    assert seen.total() > 50
