"""The source: what its tables look like, its lookups, and its refusals in words."""

import socket
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest
from pymysql.connections import Connection

from rds_lake.errors import ConfigError, SpecError, TransientError
from rds_lake.extract.source import Source, query
from rds_lake.extract.types import Column


def test_a_table_is_described_with_its_columns_in_order(rooms, mysql_table):
    table = mysql_table("`b` INT UNSIGNED NOT NULL, `a` VARCHAR(25), `c` DATETIME(6) NOT NULL, PRIMARY KEY (`b`)")
    assert rooms.source.describe(table).columns == (
        Column("b", "int(10) unsigned", nullable=False),
        Column("a", "varchar(25)"),
        Column("c", "datetime(6)", nullable=False),
    )


def test_an_unknown_table_is_named_with_the_place_to_correct(rooms):
    with pytest.raises(SpecError) as caught:
        rooms.source.describe("no_such_table")
    assert "has no table 'no_such_table'" in caught.value.problem
    assert rooms.source.url.address in caught.value.problem
    assert "defs.yaml" in caught.value.remedy


@pytest.mark.parametrize(
    ("columns", "unique", "not_unique"),
    [
        ("a INT PRIMARY KEY, b INT NOT NULL", [("a",), ("a", "b"), ("b", "a")], [("b",), ()]),
        ("a INT NOT NULL, b INT NOT NULL, PRIMARY KEY (a, b)", [("a", "b"), ("b", "a")], [("a",), ("b",)]),
        ("a INT NOT NULL, b INT NOT NULL, UNIQUE (b)", [("b",), ("a", "b")], [("a",)]),
        ("a INT, b INT NOT NULL, UNIQUE (a)", [], [("a",), ("a", "b")]),
        ("a INT, b INT NOT NULL, UNIQUE (a, b)", [], [("a", "b")]),
        ("a INT NOT NULL, b INT, KEY (a)", [], [("a",), ("a", "b")]),
    ],
)
def test_only_a_unique_index_without_null_keeps_columns_unique(rooms, mysql_table, columns, unique, not_unique):
    table = rooms.source.describe(mysql_table(columns))
    assert [table.is_unique(names) for names in unique] == [True] * len(unique)
    assert [table.is_unique(names) for names in not_unique] == [False] * len(not_unique)


@pytest.mark.parametrize(("engine", "unique"), [("InnoDB", True), ("MyISAM", False), ("MEMORY", False)])
def test_an_engine_without_snapshots_keeps_nothing_unique_while_it_is_read(rooms, mysql_table, engine, unique):
    table = mysql_table("a INT PRIMARY KEY", options=f"ENGINE={engine}")
    assert rooms.source.describe(table).is_unique(("a",)) == unique


def test_a_lookup_has_every_distinct_value_byte_for_byte_although_the_column_ignores_case_and_padding(
    rooms, mysql_table
):
    values = ["CLOSED", "closed", "CLOSED ", " CLOSED", "Straße", "STRASSE", "é", "e", "", "CLOSED", "NULL"]
    table = mysql_table(
        "v VARCHAR(20)", options="COLLATE utf8mb4_unicode_ci", rows=[(value,) for value in [*values, None, None]]
    )
    found = rooms.source.lookup(table, "v")
    assert sorted(found.column("value").to_pylist()) == sorted(set(values))
    assert found == rooms.source.lookup(table, "v")
    assert found.column("value") == found.column("text")


def test_a_lookup_has_its_values_as_they_are_carried_and_as_the_source_writes_them(rooms, mysql_table):
    table = mysql_table(
        "v VARCHAR(20) CHARACTER SET latin1, n INT(5) ZEROFILL, d DECIMAL(5,2), at DATETIME(3), b BIT(9), x BINARY(1)",
        rows=[("Käse", 7, "1.50", "2024-01-01", 256, b"\xff"), (None, 7, None, None, None, None)],
    )
    rooms.sql("SET sql_mode = ''", f"INSERT INTO {table} (at) VALUES ('0000-00-00')")
    expected = {
        "v": [("Käse", "Käse")],
        "n": [(7, "00007")],
        "d": [(Decimal("1.50"), "1.50")],
        "at": [(None, "0000-00-00 00:00:00.000"), (datetime(2024, 1, 1), "2024-01-01 00:00:00.000")],  # noqa: DTZ001
        "b": [(256, "256")],
        "x": [(b"\xff", "FF")],
    }
    found = {column: rooms.source.lookup(table, column).to_pylist() for column in expected}
    assert {column: [(row["value"], row["text"]) for row in rows] for column, rows in found.items()} == expected


@pytest.mark.parametrize("rows", [[], [(None,)]])
def test_a_lookup_without_values_is_an_error_since_it_would_discard_every_row(rooms, mysql_table, rows):
    table = mysql_table("v VARCHAR(20)", rows=rows)
    with pytest.raises(SpecError) as caught:
        rooms.source.lookup(table, "v")
    assert f"The lookup table '{table}' has no value in 'v'" in caught.value.problem
    assert "defs.yaml" in caught.value.remedy


@pytest.mark.parametrize(("table", "column"), [("no_such_table", "v"), (None, "no_such_column")])
def test_an_unknown_lookup_is_an_error_of_the_yaml(rooms, mysql_table, table, column):
    with pytest.raises(SpecError, match=r"no_such_(table|column).*defs\.yaml"):
        rooms.source.lookup(table or mysql_table("v INT", rows=[(1,)]), column)


def test_a_connection_speaks_utc_and_four_byte_text(rooms):
    with rooms.source.connect() as connection:
        assert query(connection, "SELECT @@session.time_zone, '🧀'") == [("+00:00", "🧀")]


def test_the_servers_default_mode_bends_no_value_and_its_limit_cuts_no_answer(rooms, mysql_table, monkeypatch):
    table = mysql_table("c CHAR(10), d DATE", rows=[("a\\'b", None)])
    rooms.sql("SET sql_mode = ''", f"INSERT INTO {table} VALUES ('', '0000-00-00')")
    modes = "PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE"
    given = Connection.set_character_set

    def with_defaults(connection, *arguments):  # comes before whatever the session sets itself
        given(connection, *arguments)
        connection.query(f"SET sql_mode = '{modes}', sql_select_limit = 1")

    monkeypatch.setattr(Connection, "set_character_set", with_defaults)
    with rooms.source.connect() as connection:
        assert query(connection, f"SELECT c, d FROM {table} ORDER BY c") == [("", "0000-00-00"), ("a\\'b", None)]
        assert len(query(connection, f"SELECT 1 FROM {table} WHERE c IN (%s, '')", ("a\\'b",))) == 2


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(source: Source, kind: type[Exception]) -> Exception:
    with pytest.raises(kind) as caught, source.connect():
        pass
    assert source.url.password not in str(caught.value)
    assert source.url.address in str(caught.value)
    return caught.value


def test_a_wrong_password_is_an_error_of_the_configuration_that_does_not_repeat_it(rooms):
    error = refusal(Source(replace(rooms.source.url, password="wr0ng-Secret")), ConfigError)
    assert error.remedy == "Check the user and the password in RDS_LAKE_SOURCE_URL."


def test_an_unknown_database_is_named_with_its_remedy(rooms):
    with (
        pytest.raises((SpecError, ConfigError)) as caught,
        Source(replace(rooms.source.url, database="no_such_db")).connect(),
    ):
        pass
    assert "no_such_db" in caught.value.problem
    assert "RDS_LAKE_SOURCE_URL" in caught.value.remedy
    assert rooms.source.url.password not in str(caught.value)


def test_an_unreachable_port_may_pass_by_itself(rooms):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = refusal(Source(replace(rooms.source.url, port=free.getsockname()[1])), TransientError)
    assert "rds-lake status" in error.remedy


def test_a_connection_that_is_killed_while_it_is_used_may_pass_by_itself(rooms):
    def use(connection):
        rooms.sql(f"KILL {connection.thread_id()}")
        query(connection, "SELECT 1")
        query(connection, "SELECT 1")  # the first may still have been answered

    with pytest.raises(TransientError, match=r"\(20(06|13)\)"), rooms.source.connect() as connection:
        use(connection)


def test_each_extraction_is_logged_at_the_source(rooms, mysql_table):
    log = mysql_table(
        "metadata_id INT AUTO_INCREMENT PRIMARY KEY, tablename VARCHAR(64), last_fetched DATETIME(6), "
        "updated_at DATETIME(6)"
    )
    moments = [datetime(2024, 1, 1, 2, 3, 4, 567), datetime(2024, 1, 2)]  # noqa: DTZ001 - MySQL's own
    for moment in moments:
        rooms.source.append_fetch_details(log, "orders", moment)
    found = rooms.sql(
        f"SELECT metadata_id, tablename, last_fetched, ABS(TIMESTAMPDIFF(SECOND, updated_at, NOW())) < 60 FROM {log}"
    )
    assert found == ((1, "orders", moments[0], 1), (2, "orders", moments[1], 1))
