"""The fingerprints are answered from an index alone; where they cannot be, a warning says which index to make."""

import pytest
from rooms import daily, table_spec

from rds_lake.extract import fingerprint
from rds_lake.extract.indexes import create_index, missing_index
from rds_lake.extract.snapshot import Snapshot, open_snapshot
from rds_lake.extract.source import query
from rds_lake.partitions import Window

TABLES = {
    "an integer key": ("id INT PRIMARY KEY, at DATETIME(6), note VARCHAR(200), KEY (at)", ["id"]),
    "a composite key": (
        "a INT, b VARCHAR(9), at DATETIME, note VARCHAR(200), PRIMARY KEY (a, b), KEY (at)",
        ["a", "b"],
    ),
    "a text key": ("id VARCHAR(40) PRIMARY KEY, at TIMESTAMP(3) NULL, note VARCHAR(200), KEY (at)", ["id"]),
    "a key in another index": ("pk INT PRIMARY KEY, id INT, at DATETIME, note VARCHAR(200), KEY (at, id)", ["id"]),
}


def fill(rooms, table: str, columns: str) -> None:
    """2,000 rows over a hundred days."""
    names = [part.split()[0] for part in columns.split(", ") if not part.startswith(("PRIMARY", "KEY", "b)", "id)"))]
    values = {"at": "'2024-01-01' + INTERVAL seq * 72 MINUTE", "note": "REPEAT('x', 200)"}
    rooms.sql(
        f"INSERT INTO {table} SELECT {', '.join(values.get(name, 'seq') for name in names)} FROM seq_1_to_2000",
        f"ANALYZE TABLE {table}",
    )


def plans(snapshot: Snapshot, monkeypatch, window: Window | None) -> list[dict[str, object]]:
    """How the server answers each query of an observation."""
    asked = []

    def listening(connection, text, parameters=()):
        asked.append((text, parameters))
        return query(connection, text, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "query", listening)
        snapshot.fingerprints(window)
        snapshot.rows_outside()
    names = ("id", "select", "table", "type", "possible", "key", "key_len", "ref", "rows", "extra")
    return [
        dict(zip(names, row, strict=True))
        for text, parameters in asked
        for row in query(snapshot._connection, f"EXPLAIN {text}", parameters)
    ]


@pytest.mark.parametrize(("columns", "key"), TABLES.values(), ids=TABLES)
def test_no_query_of_an_observation_leaves_the_cursors_index(rooms, mysql_table, monkeypatch, columns, key):
    table = mysql_table(columns)
    fill(rooms, table, columns)
    with open_snapshot(rooms.source, daily(table, key=key)) as snapshot:
        day = snapshot.spec.partitioning.window("2024-04-01").lower
        full = plans(snapshot, monkeypatch, None)
        recent = plans(snapshot, monkeypatch, Window(day, snapshot.below_fence().upper))
        assert missing_index(snapshot.spec, snapshot.indexes()) is None
    for plan in [*full, *recent]:
        assert plan["key"] == "at", plan
        assert "Using index" in str(plan["extra"]), plan
        assert plan["type"] in {"range", "ref", "index"}, plan
    assert recent[0]["type"] == "range"
    assert int(str(recent[0]["rows"])) < 400, "the recent days only"
    for outside in recent[1:]:
        assert outside["type"] in {"range", "ref"}, outside
        assert int(str(outside["rows"])) <= 2, outside


BARE = {
    "no index": ("id INT PRIMARY KEY, at DATETIME(6)", ["id"], "no index of the source begins with the cursor", "`at`"),
    "second place": (
        "id INT PRIMARY KEY, n INT, at DATETIME, KEY (n, at)",
        ["id"],
        "no index of the source begins with the cursor",
        "`at`",
    ),
    "another key": (
        "pk INT PRIMARY KEY, id INT, at DATETIME, KEY (at)",
        ["id", "pk"],
        "the cursor's index does not hold the key",
        "`at`, `id`",
    ),
    "half of the key": (
        "pk INT PRIMARY KEY, id VARCHAR(900), at DATETIME, KEY (at, id(4))",
        ["id"],
        "the cursor's index does not hold the key",
        "`at`, `id`",
    ),
}


@pytest.mark.parametrize(("columns", "key", "problem", "wanted"), list(BARE.values())[:3], ids=list(BARE)[:3])
def test_a_missing_index_is_named_and_the_statement_that_is_shown_mends_it(
    rooms, mysql_table, monkeypatch, columns, key, problem, wanted
):
    table = mysql_table(columns)
    with open_snapshot(rooms.source, daily(table, key=key)) as snapshot:
        warning = missing_index(snapshot.spec, snapshot.indexes())
    statement = f"CREATE INDEX `rds_lake_{table}_at` ON `{table}` ({wanted});"
    assert warning == f"{table}: {problem}, so each observation reads the whole table. Make one: {statement}"
    rooms.sql(statement)
    with open_snapshot(rooms.source, daily(table, key=key)) as snapshot:
        assert missing_index(snapshot.spec, snapshot.indexes()) is None
        assert all("Using index" in str(plan["extra"]) for plan in plans(snapshot, monkeypatch, None)[:1])


def test_an_index_over_the_beginning_of_a_key_only_does_not_hold_it(rooms, mysql_table):
    columns, key, problem, wanted = BARE["half of the key"]
    table = mysql_table(columns)
    with open_snapshot(rooms.source, daily(table, key=key)) as snapshot:
        warning = missing_index(snapshot.spec, snapshot.indexes())
    assert warning
    assert problem in warning
    assert warning.endswith(f"({wanted});")


def test_nobody_is_told_to_make_an_index_on_a_view(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, at DATETIME")
    rooms.sql(f"CREATE VIEW v_{table} AS SELECT * FROM {table}")
    try:
        with open_snapshot(rooms.source, daily(f"v_{table}")) as snapshot:
            assert missing_index(snapshot.spec, snapshot.indexes()) is None
    finally:
        rooms.sql(f"DROP VIEW v_{table}")
    bare = mysql_table("id INT, at DATETIME")
    with open_snapshot(rooms.source, daily(bare)) as snapshot:
        assert "CREATE INDEX" in str(missing_index(snapshot.spec, snapshot.indexes()))


def test_a_table_without_a_cursor_needs_no_index():
    assert missing_index(table_spec("t"), {}) is None


def test_a_statement_for_long_and_hostile_names_is_one_that_the_server_takes(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, `a%s``b` DATETIME", name=f"{'n' * 50}{rooms.name()[:12]}")
    spec = daily("t", source_table=table, cursor={"column": "a%s`b"})
    rooms.sql(create_index(table, ["a%s`b"]))
    with open_snapshot(rooms.source, spec) as snapshot:
        assert missing_index(spec, snapshot.indexes()) is None
