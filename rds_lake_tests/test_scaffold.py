"""`rds-lake tables`: what is proposed for a table, from its names, keys, indexes and values, and the file itself."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, Rooms, bounded, mysql_table, rooms

from rds_lake import scaffold
from rds_lake.definitions import PROJECT
from rds_lake.errors import SpecError
from rds_lake.extract.indexes import missing_index
from rds_lake.extract.profile import ColumnProfile, Index, Span, TableProfile
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.local.stack import Stack
from rds_lake.scaffold.guess import Extent, candidates, choose_unit, epoch_unit, looks_personal
from rds_lake.scaffold.proposal import Proposal, propose
from rds_lake.spec import TableSpec
from rds_lake.sql import quote

__all__ = ["mysql_table", "rooms"]

stack_test = pytest.mark.stack

NOW, FIRST, LAST = map(datetime.fromisoformat, ("2026-03-01T12:00", "2026-01-05T10:00", "2026-02-23T10:00"))
IDENTITY = ColumnProfile("id", "int(11)", nullable=False)
PRIMARY = Index("PRIMARY", ("id",), unique=True)


def column(name: str, kind: str = "datetime", **more: Any) -> ColumnProfile:
    return ColumnProfile(name, kind, **more)


def table(*columns: ColumnProfile, indexes: tuple[Index, ...] = (PRIMARY,), **more: Any) -> TableProfile:
    given = {"name": "things", "rows": 100_000, **more}
    return TableProfile(columns=(IDENTITY, *columns), indexes=indexes, **given)


def proposal(profile: TableProfile, *, nulls: int = 0, zeros: int = 0, **ends: Any) -> Proposal:
    first, last = ends.get("first", FIRST), ends.get("last", LAST)
    return propose("things", profile, lambda _: Span(first, last, nulls, zeros, NOW))


def attributes(found: Proposal) -> dict[str, Any]:
    """What the file says; it is a table's YAML in any case."""
    read = yaml.safe_load(found.text)
    assert read["type"] == "rds_lake.components.TablePipeline"
    TableSpec.model_validate(read["attributes"])
    return dict(read["attributes"])


def cursor_of(*columns: ColumnProfile, **more: Any) -> Any:
    return attributes(proposal(table(*columns, **more))).get("cursor", {}).get("column")


# --- the cursor ---


def test_what_the_server_sets_on_update_comes_before_any_name() -> None:
    assert cursor_of(column("updated_at"), column("stamp", "timestamp", sets_itself=True)) == "stamp"
    notes = proposal(table(column("updated_at"), column("stamp", "timestamp", sets_itself=True))).notes
    assert notes[0] == "The server sets stamp on every update (ON UPDATE CURRENT_TIMESTAMP)."


@pytest.mark.parametrize(
    "name",
    [
        *("updated_at", "last_updated", "order_last_updated", "modified", "modified_on", "lastModified", "LAST_UPDATE"),
        *("lastupdate", "UpdatedAt", "date_modified", "last_change", "changed_at", "mtime", "last_edited"),
    ],
)
def test_usual_names_of_an_update_time_are_known(name: str) -> None:
    assert cursor_of(column("created_at"), column(name)) == name


@pytest.mark.parametrize(
    "name", ["updated_by", "update_count", "is_updated", "modified_by_user", "exchange", "happened"]
)
def test_a_name_that_is_no_update_time_is_not_taken(name: str) -> None:
    assert cursor_of(column(name)) is None
    assert cursor_of(column(name, "bigint(20)")) is None


def test_a_time_comes_before_a_number_and_a_number_before_a_date() -> None:
    day, number, time = column("updated_on", "date"), column("updated", "bigint(20)"), column("updated_at")
    assert [c.column.name for c in candidates(table(day, number, time))] == ["updated_at", "updated", "updated_on"]


def test_a_table_with_a_creation_time_only_is_extracted_in_full_and_the_choice_is_shown() -> None:
    found = proposal(table(column("created_at")))
    assert not {"cursor", "partitions"} & set(attributes(found))
    assert "as a cursor it would hide edits" in found.text
    assert "  # cursor: {column: created_at}\n" in found.text
    assert "  # partitions: {by: day, start: 2026-01-05}\n" in found.text


def test_a_table_without_any_such_column_is_extracted_in_full() -> None:
    found = proposal(table(column("due", "date"), column("note", "text")))
    assert set(attributes(found)) == {"table", "key"}
    assert "No column looks like a cursor" in found.text


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_numbers_that_count_from_1970_are_known_by_name_and_range(unit: str, factor: int) -> None:
    first, last = (int(datetime(2026, month, 5, tzinfo=UTC).timestamp()) * factor for month in (1, 2))
    found = proposal(table(column("updated", "bigint(20)")), first=first, last=last)
    assert attributes(found)["cursor"] == {"column": "updated", "epoch": unit}
    assert attributes(found)["partitions"]["start"] == date(2026, 1, 5)
    assert "the newest 2026-02-05 00:00" in found.text


@given(st.integers(0, 2**63))
@bounded(300)
def test_a_number_is_a_time_of_our_days_in_one_unit_at_most(value: int) -> None:
    unit = epoch_unit(value)
    within = {
        name
        for name, factor in (("s", 1), ("ms", 1_000), ("us", 1_000_000))
        if 946_684_800 <= value / factor < 4_102_444_800
    }
    assert within == ({unit} if unit else set())


@pytest.mark.parametrize("last", [7, None])
def test_a_number_out_of_range_is_no_cursor(last: int | None) -> None:
    assert "cursor" not in attributes(proposal(table(column("updated", "bigint(20)")), first=last, last=last))


def test_a_missing_index_comes_with_the_statement_that_makes_it() -> None:
    statement = "CREATE INDEX `rds_lake_things_updated_at` ON `things` (`updated_at`);"
    assert statement in proposal(table(column("updated_at"))).text
    indexed = (PRIMARY, Index("i", ("updated_at", "id")))
    assert "CREATE INDEX" not in proposal(table(column("updated_at"), indexes=indexed)).text
    behind = (PRIMARY, Index("i", ("id", "updated_at")))
    assert statement in proposal(table(column("updated_at"), indexes=behind)).text
    keyed = (Index("u", ("id",), unique=True), Index("i", ("updated_at",)))
    assert statement.replace(");", ", `id`);") in proposal(table(column("updated_at"), indexes=keyed)).text


def test_rows_without_a_cursor_value_are_counted() -> None:
    text = proposal(table(column("updated_at")), nulls=1_234, zeros=5).text
    assert "Rows without updated_at: 1,234." in text
    assert "Rows with a zero date in updated_at: 5." in text


@pytest.mark.parametrize(
    ("kind", "server", "zone"),
    [
        ("datetime", "UTC", None),
        ("datetime(6)", "Europe/Berlin", "Europe/Berlin"),
        ("date", "Asia/Tokyo", "Asia/Tokyo"),
        ("timestamp", "Europe/Berlin", None),
        ("datetime", "CEST", None),
    ],
)
def test_the_zone_of_a_datetime_is_the_servers_as_far_as_it_is_known(kind: str, server: str, zone: str | None) -> None:
    found = proposal(table(column("updated_at", kind), timezone=server))
    assert attributes(found)["cursor"].get("timezone") == zone
    assert ("confirm: updated_at is a DATE" in found.text) == (not kind.startswith("timestamp"))
    assert ("the server's is CEST" in found.text) == (server == "CEST")


def test_a_value_after_the_clock_is_pointed_out() -> None:
    found = proposal(table(column("updated_at")), last=NOW + timedelta(hours=2))
    assert "The newest value, 2026-03-01 14:00, lies after the clock in UTC, 2026-03-01 12:00." in found.text


# --- partitions ---


@pytest.mark.parametrize(
    ("rows", "days", "age", "unit"),
    [
        (400_000_000, 40, 40, "hour"),
        (400_000_000, 40, 4000, "day"),
        (1_000_000, 100, 100, "day"),
        (1_000_000, 100, 6000, "week"),
        (68_883, 364, 364, "week"),
        (5_000, 364, 364, "month"),
        (3, 1, 1, "month"),
        (0, 0, 0, "month"),
    ],
)
def test_a_partition_holds_neither_too_few_nor_too_many_rows(rows: int, days: int, age: int, unit: str) -> None:
    first = NOW - timedelta(days=age)
    assert choose_unit(rows, Extent(first, first + timedelta(days=days)), NOW) == unit


@given(st.integers(0, 10**11), st.integers(0, 20_000), st.integers(0, 20_000))
@bounded(300)
def test_there_are_never_more_than_some_thousand_partitions_but_months(rows: int, days: int, quiet: int) -> None:
    first = NOW - timedelta(days=days + quiet)
    unit = choose_unit(rows, Extent(first, first + timedelta(days=days)), NOW)
    length = {"hour": 1 / 24, "day": 1, "week": 7}.get(unit)
    assert length is None or (days + quiet) / length <= 5_000


def test_the_partition_column_gets_a_name_of_its_own_where_the_usual_one_is_taken_or_odd() -> None:
    odd = attributes(proposal(table(column("Changed At", sets_itself=True))))
    assert odd["partitions"]["column"] == "changed_at_day"
    taken = attributes(proposal(table(column("updated"), column("Updated_Day", "int(11)"))))
    assert taken["partitions"]["column"] == "updated_day_partition"
    assert "column" not in attributes(proposal(table(column("updated"))))["partitions"]


# --- the key ---


def test_without_a_primary_key_the_narrowest_unique_index_without_null_is_the_key() -> None:
    wide, narrow = (
        column("wide", "varchar(200)", nullable=False, octets=800),
        column("narrow", "int(11)", nullable=False),
    )
    hole = column("hole", "int(11)")
    indexes = (
        Index("a", ("wide",), unique=True),
        Index("b", ("wide", "narrow"), unique=True),
        Index("c", ("narrow",), unique=True),
        Index("d", ("hole",), unique=True),
        Index("e", (None,), unique=True),
        Index("f", ("id",)),
    )
    found = proposal(table(wide, narrow, hole, indexes=indexes))
    assert attributes(found)["key"] == ["narrow"]
    assert "the narrowest unique index" in found.text
    assert "key" not in attributes(proposal(table(hole, indexes=indexes[3:])))
    assert "neither a primary key nor" in proposal(table(hole, indexes=indexes[3:])).text


def test_a_view_has_no_key_and_says_so() -> None:
    found = proposal(table(column("updated_at"), indexes=(), engine=""))
    assert "key" not in attributes(found)
    assert "A view has no key" in found.text
    assert "CREATE INDEX" not in found.text


# --- columns ---


def test_comments_personal_data_and_types_without_a_counterpart_are_declared_and_nothing_else() -> None:
    profile = table(
        column("plain", "varchar(10)"),
        column("said", "varchar(10)", comment="What\nwas said"),
        column("e_mail", "varchar(10)", comment="Where to"),
        column("where", "point"),
        column("odd", "blackhole"),
        column("OID", "int(11)"),
        comment="All the things",
    )
    proposed = proposal(profile)
    found = attributes(proposed)
    assert found["description"] == "All the things"
    assert found["columns"] == {
        "said": {"description": "What was said"},
        "e_mail": {"description": "Where to", "personal": True},
        "where": {"as": "binary"},
        "odd": {"as": "exclude"},
        "OID": {"as": "exclude"},
    }
    left = "so it is left out ('as: exclude'): to carry it, make a view at the source that renames or converts it."
    assert proposed.notes[1:] == [
        "confirm: personal data, by the names of e_mail.",
        "where has the type point, which the lake does not have: it is carried 'as: binary' (see docs/types.md).",
        f"confirm: odd has the type blackhole, which the lake does not have, {left}",
        f"confirm: OID is called like a column that Redshift keeps for itself, {left}",
    ]


def test_a_key_that_sync_refuses_is_not_left_out_but_pointed_out() -> None:
    found = proposal(table(column("oid", "int(11)"), indexes=(Index("PRIMARY", ("oid",), unique=True),)))
    assert set(attributes(found)) == {"table", "key"}
    assert found.notes[-1] == (
        "confirm: oid is called like a column that Redshift keeps for itself, so sync refuses the table: "
        "make a view at the source that renames or converts it, and add that one instead."
    )


@pytest.mark.parametrize("name", ["email", "customerEmail", "phone_number", "IBAN", "first_name", "dob", "ZipCode"])
def test_names_of_personal_data(name: str) -> None:
    assert looks_personal(name)


@pytest.mark.parametrize("name", ["name", "mailed_at", "status", "emailing_list", "microphone", "zipped", "ibandwidth"])
def test_names_of_no_personal_data(name: str) -> None:
    assert not looks_personal(name)


# --- the text ---

NAMES = st.one_of(
    st.sampled_from(
        [*HOSTILE_NAMES, "on", "null", "1", "1e3", "~", "- a", "a: b", "# c", "{{ d }}", "2024-01-01", "<<", "*a"]
    ),
    st.text(
        st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF, exclude_characters="\0"), min_size=1, max_size=64
    ),
)


@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), comment=st.text(max_size=80))
@bounded(300)
def test_names_and_comments_of_any_kind_come_back_as_they_are(names: list[str], comment: str) -> None:
    columns = tuple(column(name, sets_itself=True, comment=comment) for name in names)
    profile = TableProfile(names[0], columns, (Index("PRIMARY", tuple(names), unique=True),), 10, comment)
    found = attributes(propose("things", profile, lambda _: Span(None, None, 1, 1, NOW)))
    assert found["key"] == names
    assert found["cursor"]["column"] == names[0]
    assert found.get("source_table", "things") == names[0]
    said = " ".join("".join(c if c.isprintable() else " " for c in comment).split())
    described = {name: {"description": said} if comment else {} for name in names}
    personal = {name: {"personal": True} if looks_personal(name) else {} for name in names}
    declared = {name: {**described[name], **personal[name]} for name in names}
    assert found.get("columns", {}) == {name: value for name, value in declared.items() if value}


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "ä"])
def test_a_name_that_no_table_can_have_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"'{name}' cannot be the name of a table: .* --source-table"):
        propose(name, table(), lambda _: Span(None, None, 0, 0, NOW))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("orders", None), ("orders", "orders")),
        (("a__b_", None), ("a__b_", "a__b_")),
        (("orders", "app orders"), ("orders", "app orders")),
        (("order lines", None), ("order_lines", "order lines")),
        (("2024-orders", None), ("t_2024_orders", "2024-orders")),
    ],
)
def test_a_name_of_mysqls_becomes_one_of_rds_lake(given: tuple[str, str | None], names: tuple[str, str]) -> None:
    assert scaffold.names_for(*given) == names


# --- the file ---


def test_a_file_that_is_there_is_replaced_with_force_only(tmp_path: Path) -> None:
    first, second = proposal(table()), proposal(table(comment="Other"))
    file = scaffold.write(first, defs=tmp_path)
    assert file == tmp_path / "things" / "defs.yaml"
    with pytest.raises(SpecError) as raised:
        scaffold.write(second, defs=tmp_path)
    assert str(raised.value) == (
        f"things: {file} is there already. Edit it, or replace it with --force; --print shows the proposal and writes "
        "nothing."
    )
    assert file.read_text() == first.text
    assert scaffold.write(second, force=True, defs=tmp_path) == file
    assert file.read_text() == second.text


def test_two_tables_whose_names_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    scaffold.write(proposal(table()), defs=tmp_path)
    other = propose("Things", table(), lambda _: Span(None, None, 0, 0, NOW))
    with pytest.raises(SpecError, match="differs in more than upper and lower case"):
        scaffold.write(other, force=True, defs=tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["things"]


# --- the source ---


def look(rooms: Rooms, table: str) -> tuple[Proposal, dict[str, Any]]:
    found = scaffold.look(rooms.source, "things", table)
    return found, attributes(found)


@stack_test
def test_the_source_tells_keys_comments_indexes_and_spans(rooms: Rooms, mysql_table: Callable[..., str]) -> None:
    table = mysql_table(
        "code CHAR(8) NOT NULL COMMENT 'What is on it', part SMALLINT NOT NULL, `e-mail` VARCHAR(40), place POINT, "
        "updated_at DATETIME(6), made TIMESTAMP(3) NOT NULL DEFAULT NOW(3) ON UPDATE NOW(3), PRIMARY KEY (part, code), "
        "INDEX (made)",
        options="COMMENT = 'Labels'",
    )
    rooms.sql(
        f"INSERT INTO {table} (code, part, made) VALUES ('a', 1, '2024-05-06 23:59:59.999'), ('b', 1, '2024-07-01')"
    )
    found, said = look(rooms, table)
    assert said == {
        "table": "things",
        "source_table": table,
        "description": "Labels",
        "key": ["part", "code"],
        "cursor": {"column": "made"},
        "partitions": {"by": "month", "start": date(2024, 5, 6)},
        "columns": {
            "code": {"description": "What is on it"},
            "e-mail": {"personal": True},
            "place": {"as": "binary"},
        },
    }
    assert "About 2 rows from 2024-05-06 to 2024-07-01" in found.text
    assert "CREATE INDEX" not in found.text


@stack_test
def test_zero_dates_do_not_start_the_partitions_and_are_counted(rooms: Rooms, mysql_table: Callable[..., str]) -> None:
    table = mysql_table("id INT PRIMARY KEY, last_updated DATETIME NULL")
    rooms.sql(
        "SET sql_mode = ''",
        f"INSERT INTO {table} VALUES (1, '0000-00-00'), (2, NULL), (3, NULL), (4, '2025-02-03 04:05:06'), "
        "(5, '2024-00-00')",
    )
    found, said = look(rooms, table)
    assert said["partitions"]["start"] == date(2024, 1, 1)
    assert "Rows without last_updated: 2." in found.text
    assert "Rows with a zero date in last_updated: 1." in found.text


@stack_test
def test_the_proposed_index_can_be_made_whatever_the_names(rooms: Rooms, mysql_table: Callable[..., str]) -> None:
    for name in HOSTILE_NAMES:
        table = mysql_table(
            f"{quote(name, 'mysql').replace('%%', '%')} INT PRIMARY KEY, `{rooms.name()}%d` INT, "
            "`Last Updated %s` DATETIME NOT NULL",
            name=f"{rooms.name()} {name}"[:64].strip(),
        )
        found, said = look(rooms, table)
        assert (said["key"], said["cursor"]["column"]) == ([name], "Last Updated %s")
        [statement] = [note.partition("Make one: ")[2] for note in found.notes if "Make one: " in note]
        with open_snapshot(rooms.source, TableSpec.model_validate(said)) as snapshot:
            assert str(missing_index(snapshot.spec, snapshot.indexes())).endswith(f" Make one: {statement}")
        rooms.sql(statement.removesuffix(";"))
        again, _ = look(rooms, table)
        assert "Make one" not in again.text


@stack_test
def test_a_view_is_proposed_without_a_key(rooms: Rooms, mysql_table: Callable[..., str]) -> None:
    table = mysql_table("id INT PRIMARY KEY, updated_at DATETIME")
    rooms.sql(f"INSERT INTO {table} VALUES (1, '2024-05-06')", f"CREATE VIEW {table}_v AS SELECT * FROM {table}")
    try:
        found, said = look(rooms, f"{table}_v")
    finally:
        rooms.sql(f"DROP VIEW {table}_v")
    assert "key" not in said
    assert said["cursor"]["column"] == "updated_at"
    assert "A view has no key" in found.text
    assert "About 1 row " in found.text


@stack_test
def test_an_unknown_table_is_an_error_that_names_close_ones(rooms: Rooms, mysql_table: Callable[..., str]) -> None:
    name = mysql_table("id INT", name=rooms.name("Parcels_"))
    with pytest.raises(SpecError) as raised:
        scaffold.look(rooms.source, name.lower()[:-1])
    address, user = rooms.source.url.address, rooms.source.url.user
    assert str(raised.value) == (
        f"MySQL at {address} has no table '{name.lower()[:-1]}' that the user '{user}' can see. Did you mean '{name}'?"
    )
    with pytest.raises(SpecError, match="'rds-lake tables' lists what is there"):
        scaffold.look(rooms.source, "@" * 40)


# --- the command ---


@pytest.fixture
def rds_lake(stack: Stack, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `rds-lake` in a copy of the project, as its users have it: exit code, output, errors."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "rds_lake", copy / "rds_lake", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", copy)

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", "from rds_lake.cli import main; main()", *words],
            env={**os.environ, **stack.environ, "PYTHONPATH": str(copy)},
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@stack_test
def test_tables_lists_what_is_declared_and_what_is_not_and_add_declares_it(
    rooms: Rooms,
    mysql_table: Callable[..., str],
    rds_lake: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    name = mysql_table("id INT PRIMARY KEY, updated_at DATETIME, KEY (updated_at)", name=rooms.name("p_"))
    file = tmp_path / "project" / "rds_lake" / "defs" / name / "defs.yaml"
    code, out, error = rds_lake("tables")
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if " orders " in f"{line} "] == ["orders"]
    assert [line.split()[:2] for line in out.splitlines() if f" {name} " in line] == [["not", "declared"]]

    code, printed, error = rds_lake("tables", "add", name, "--print")
    assert (code, error) == (0, "")
    assert not file.exists()
    assert yaml.safe_load(printed)["attributes"]["key"] == ["id"]

    code, out, error = rds_lake("tables", "add", name)
    assert (code, error) == (0, "")
    assert file.read_text() == printed
    first, *guesses, last = out.splitlines()
    assert first == f"Wrote {file}."
    assert "  The table is empty: correct start if older rows will come." in guesses
    assert last == f"Next: read it through, check it with 'dg check defs', then run 'rds-lake sync {name}'."

    code, out, error = rds_lake("tables", "add", name, "--by", "week")
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {name}: {file} is there already. Edit it, or replace it with --force;")
    code, out, error = rds_lake("tables", "add", name, "--by", "week", "--force")
    assert (code, error) == (0, "")
    assert yaml.safe_load(file.read_text())["attributes"]["partitions"]["by"] == "week"
    code, out, error = rds_lake("tables", "list")
    assert (code, error) == (0, "")
    assert [line.split() for line in out.splitlines() if name in line] == [[name, name, "0", "updated_at", "week"]]
