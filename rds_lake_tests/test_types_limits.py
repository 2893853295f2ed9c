"""What the lake can hold and Redshift cannot: such rows are discarded whole, with the reason, and never lost."""

import dagster as dg
import duckdb
import pyarrow as pa
import pytest
from carrying import by_key, carry, in_warehouse
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, mysql_table, rooms, table_spec

from rds_lake.extract.types import Column, arrow_schema
from rds_lake.quality.fits import ROW_MAX, fit_conditions
from rds_lake.spec import TableSpec

__all__ = ["mysql_table", "rooms"]

VARCHAR, VARBYTE = 65_535, 1_024_000


def failed(rooms, journey) -> dict[int, list[str]]:
    return {row[0]: row[-4] for row in rooms.rows(journey.discarded)}


@pytest.mark.stack
def test_a_text_that_redshift_cannot_hold_is_discarded_whole_at_the_exact_byte(rooms, mysql_table):
    table = mysql_table(
        "id INT PRIMARY KEY, doc MEDIUMTEXT, latin TEXT CHARACTER SET latin1, short VARCHAR(9)",
        rows=[
            (1, "x" * VARCHAR, "é" * 32_767, "fits"),
            (2, "x" * (VARCHAR + 1), "", "too long"),
            (3, "🧀" * 16_383 + "xyz", "é" * 32_768, "grows"),
            (4, "", "x" * VARCHAR, "a\0b"),
            (5, None, None, None),
            (6, "\0" + "x" * VARCHAR, "€" * 21_846, "\0"),
            (7, "🧀" * 16_384, "€" * 21_845, "€"),
        ],
    )
    journey = carry(rooms, table_spec(table, key=["id"]))
    assert failed(rooms, journey) == {
        2: ["fits_doc"],
        3: ["fits_latin"],
        4: ["fits_short"],
        6: ["fits_doc", "fits_latin", "fits_short"],
        7: ["fits_doc"],
    }
    assert journey.discarded.details == {"fits_doc": 3, "fits_latin": 2, "fits_short": 2}
    source = {row[0]: row for row in rooms.sql(f"SELECT * FROM {table}")}
    discarded = {row[0]: row[:4] for row in rooms.rows(journey.discarded)}
    assert discarded | by_key(rooms.rows(journey.staged)) == source
    assert set(in_warehouse(rooms, table_spec(table))) == {1, 5}


@pytest.mark.stack
def test_a_blob_and_a_row_that_redshift_cannot_hold_are_discarded_whole(rooms, mysql_table):
    blobs = ", ".join(f"b{number} LONGBLOB" for number in range(5))
    table = mysql_table(f"id INT PRIMARY KEY, {blobs}")
    spare = ROW_MAX - 4 * VARBYTE - 16  # what is left of 4 MB beside four blobs and the key
    rooms.fill(
        table,
        [
            (1, bytes(VARBYTE), None, b"", b"\0\xff", b"x"),
            (2, bytes(VARBYTE + 1), None, None, None, None),
            (3, *[bytes(VARBYTE)] * 4, bytes(spare)),
            (4, *[bytes(VARBYTE)] * 4, bytes(spare + 1)),
        ],
    )
    journey = carry(rooms, table_spec(table, key=["id"]))
    assert failed(rooms, journey) == {2: ["fits_b0"], 4: ["row_fits"]}
    assert {row[0]: len(row[1]) for row in rooms.rows(journey.discarded)} == {2: VARBYTE + 1, 4: VARBYTE}
    found = in_warehouse(rooms, table_spec(table))
    assert {key: [None if v is None else len(v) for v in row[1:]] for key, row in found.items()} == {
        1: [VARBYTE, None, 0, 2, 1],
        3: [*[VARBYTE] * 4, spare],
    }


def test_only_columns_that_can_hold_too_much_get_a_rule():
    narrow = [Column("id", "int"), Column("d", "decimal(65,30)"), Column("t", "time"), Column("b", "blob")]
    narrow += [Column("e", "enum('a')"), Column("h", "varbinary(9)", as_="string"), Column("m", "datetime")]
    assert list(fit_conditions(narrow)) == []
    wide = [
        Column("v", "varchar(5)"),
        Column("j", "json"),
        Column("m", "mediumblob"),
        Column("g", "point", as_="binary"),
    ]
    wide += [Column("s", "blob", as_="string")]
    assert [label for label, _ in fit_conditions(wide)] == ["fits_v", "fits_j", "fits_m", "fits_g", "fits_s"]
    assert [label for label, _ in fit_conditions([Column(f"t{n}", "text") for n in range(65)])][-1] == "row_fits"
    assert [label for label, _ in fit_conditions([Column(f"t{n}", "text") for n in range(64)])][-1] == "fits_t63"


TEXT_COLUMN = Column("odd \"'% name", "text")


@bounded(60)
@given(st.lists(st.none() | st.text(max_size=4).flatmap(lambda s: st.sampled_from([s, s * 16_384, s + "x" * 65_534]))))
def test_the_condition_over_a_text_is_what_python_says(values):
    [(_, condition)] = fit_conditions([TEXT_COLUMN])
    landed = pa.table({TEXT_COLUMN.name: pa.array(values, pa.string())}, schema=arrow_schema((TEXT_COLUMN,)))
    with duckdb.connect() as connection:
        connection.register("landed", landed)
        found = [row[0] for row in connection.execute(f"SELECT {condition} FROM landed").fetchall()]
    assert found == [v is None or (len(v.encode()) <= VARCHAR and "\0" not in v) for v in values]


@pytest.mark.stack
def test_a_sync_reports_what_became_null_and_what_redshift_cannot_hold(world):
    source = world.table("odd", "id INT PRIMARY KEY, at DATETIME, born DATE, note TEXT, INDEX (at)")
    with world.source() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        cursor.execute(
            f"INSERT INTO {source} VALUES (1, '2024-01-01', '0000-00-00', 'a'), (2, '2024-01-01', '2000-01-01', 'b'), "
            f"(3, '2024-01-02', '2021-00-01', 'c'), (4, '2024-01-02', NULL, CONCAT('d', CHAR(0)))"
        )
    spec = TableSpec.model_validate(
        {
            "table": "odd",
            "source_table": source,
            "key": ["id"],
            "cursor": {"column": "at"},
            "partitions": {"by": "day", "start": "2024-01-01"},
            "columns": {"born": {"as": None}},
        }
    )
    result = world.sync(spec)
    assert (result.error, result.failed) == (None, [])
    assert sorted(result.warned) == [
        "odd_landing carried_whole: 2 values could not be carried whole and are NULL: born (2)",
        "odd_landing fits_warehouse: rows that Redshift cannot hold break fits_note (1); the split discards them",
    ]
    assert [row[0] for row in world.query(f"SELECT id FROM {source} ORDER BY id")] == [1, 2, 3]
    details = {day: manifest["details"] for day, manifest in world.manifests("odd", "landing").items()}
    assert {day: details[day] for day in ("2024-01-01", "2024-01-02")} == {
        "2024-01-01": {"nulled_born": 1},
        "2024-01-02": {"nulled_born": 1},
    }
    assert world.manifests("odd", "landing")["2024-01-01"]["schema"][2] == {
        "name": "born",
        "type": "date",
        "nullable": True,
        "as": "null",
    }
    records = world.instance.fetch_materializations(dg.AssetKey("odd_landing"), limit=50).records
    shown = {record.partition_key: record.asset_materialization.metadata for record in records}
    assert shown["2024-01-02"]["nulled born"].value == 1
    assert world.sync(spec).partitions == 0
