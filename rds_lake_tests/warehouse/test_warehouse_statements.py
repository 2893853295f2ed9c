"""The statements: Redshift's own dialect, no TRUNCATE, no credential, no bound value in a text."""

import re
import socket
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest
import sqlfluff
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily, table_spec

from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.extract.types import Column
from rds_lake.partitions import Window
from rds_lake.warehouse import ledger, statements
from rds_lake.warehouse.connection import Warehouse
from rds_lake.warehouse.load import load
from rds_lake.warehouse.statements import Target, merge_windows

KINDS = [
    "int(11)", "bigint(20) unsigned", "decimal(10,2)", "float", "double", "date", "datetime(6)", "time", "varchar(25)",
    "longtext", "blob", "bit(1)", "decimal(65,30)",
]  # fmt: skip
COLUMNS = (
    Column("id", "int(11)"),
    Column("at", "datetime"),
    *(Column(f"C {number}", kind) for number, kind in enumerate(KINDS)),
)
SPECS = {
    "keyed": daily("orders", warehouse={"distribution_key": "id", "sort_keys": ["at", "id"], "schema": "shop"}),
    "compound key": daily("orders", key=["id", "C 0"]),
    "without a key": daily("orders", key=[]),
    "without a cursor": table_spec("customers", key=["id"]),
    "text key": daily("orders", key=["C 8", "id"]),
    "epoch": daily("orders", cursor={"column": "id", "epoch": "ms"}),
    "hostile": daily("select", warehouse={"table": 'the "real" name', "distribution_key": "C 1"}),
}


DAY = Window(datetime(2024, 1, 1), datetime(2024, 1, 2))  # noqa: DTZ001 - the cursor's clock
ARGUMENTS: dict[str, tuple] = {
    "copy": ("s3://lake/a/b.json", "arn:aws:iam::0:role/r"),
    "delete_window": (DAY,),
    "count_partitions": (DAY,),
    "keep_keys": ([DAY, DAY],),
}


OF_KEYS = {"delete_older", "count_held", "insert_newest", "keep_keys", "count_lost_keys"}


def all_statements(target: Target) -> list[str]:
    """Every statement that `Target` can make, found by looking at what it offers."""
    found: list[str] = []
    for name in sorted(vars(Target)):
        offered = getattr(Target, name)
        if name.startswith("_") or isinstance(offered, property) or not callable(offered):
            continue
        if name in {"delete_window", *OF_KEYS, "count_partitions"} and target.spec.cursor is None:
            continue  # a load never asks for these here
        if name in OF_KEYS and not target.spec.key:
            continue
        arguments = ARGUMENTS.get(name, ())
        made = getattr(target, name)(*arguments)
        found += [made] if isinstance(made, str) else [made[0]] if isinstance(made, tuple) else made
    return found


MODULE = [
    value for name, value in vars(statements).items() if name.isupper() and isinstance(value, str) and " " in value
] + [statements.forget(1), statements.forget(3), statements.remember(1), statements.remember(3)]
MODULE += [statements.read_ledger([]), statements.read_ledger(statements.ENTRY)]

STATEMENTS = {
    f"{name} {number}": text
    for name, spec in SPECS.items()
    for number, text in enumerate(all_statements(Target(spec, COLUMNS)))
}


def parses(text: str) -> None:
    whole = re.sub(r"(?<!%)%s", "'2024-01-01'", text).replace("%%", "%")
    sqlfluff.parse(whole + ";", dialect="redshift")


def test_the_statements_of_every_kind_of_table_are_found():
    starts = {text.split()[0] for text in STATEMENTS.values()} | {text.split()[0] for text in MODULE}
    assert starts >= {"CREATE", "LOCK", "COPY", "SELECT", "DELETE", "INSERT"}
    assert len(set(STATEMENTS.values())) > 25
    assert len(MODULE) >= 5


def test_every_statement_is_redshifts_own_dialect():
    for text in sorted({*STATEMENTS.values(), *MODULE}):
        parses(text)


def test_what_is_not_redshift_would_be_noticed():
    with pytest.raises(sqlfluff.api.simple.APIParsingError):
        parses("INSERT INTO a SELECT FROM WHERE ON CONFLICT")


def test_no_statement_truncates_or_names_a_credential():
    forbidden = re.compile(
        r"truncate|access_key|secret|password|credentials|session_token|alter table|vacuum", re.IGNORECASE
    )
    assert [text for text in [*STATEMENTS.values(), *MODULE] if forbidden.search(text)] == []


def test_what_a_load_really_sends_is_among_them_and_holds_no_value_and_no_credential(rooms):
    spec = daily(rooms.name(), warehouse={"distribution_key": "id"})
    columns = (*COLUMNS[:2], Column("v", "varchar(20)"))
    moment = datetime(2024, 1, 1, 11, 22, 33)  # noqa: DTZ001 - the cursor's clock
    rows = [(424242, moment, "a value")]
    staged = rooms.batch(spec, "staging", columns, rows, fingerprint="1-f1f1f1", rules="feedfeed").manifest
    done = load(rooms.warehouse, rooms.store, spec, [staged])
    with rooms.warehouse.connect() as session:
        ledger.read(session, spec.table)
        ledger.count_target(session, Target(spec, columns), ["2024-01-01"])
        sent = [*done.statements, *session.statements]
    for text in sent:
        parses(text)
    secrets = [rooms.warehouse.url.password, rooms.environ["AWS_SECRET_ACCESS_KEY"], rooms.environ["AWS_ACCESS_KEY_ID"]]
    values = ["424242", "a value", "11:22:33", "1-f1f1f1", "feedfeed", staged.batch, "2024-01-01"]
    assert [part for part in [*secrets, *values] if any(part in text for text in sent)] == []
    assert not any("TRUNCATE" in text.upper() for text in sent)


def test_the_ledger_is_empty_before_there_is_one(rooms):
    with rooms.warehouse.connect() as session:
        assert ledger.read(session, rooms.name()) == {}


def day(number: int) -> datetime:
    return datetime(2024, 1, number)  # noqa: DTZ001 - the cursor's clock


@bounded(100)
@given(st.lists(st.integers(1, 12).map(lambda number: Window(day(number), day(number + 1))), unique=True))
def test_merged_windows_cover_the_same_time_with_gaps_between_them(windows):
    merged = merge_windows(windows)
    assert all(left.upper < right.lower for left, right in pairwise(merged))
    assert sum((w.upper - w.lower).days for w in merged) == len(windows)
    assert all(any(m.lower <= w.lower and w.upper <= m.upper for m in merged) for w in windows)


# --- the connection --------------------------------------------------------------------------------------------------


def refusal(warehouse: Warehouse, kind: type[Exception]) -> Exception:
    with pytest.raises(kind) as caught, warehouse.connect():
        pass
    assert warehouse.url.password not in str(caught.value)
    assert warehouse.url.address in str(caught.value)
    return caught.value


def test_a_wrong_password_is_an_error_of_the_configuration_that_does_not_repeat_it(rooms):
    url = replace(rooms.warehouse.url, password="wr0ng-Secret")
    assert "RDS_LAKE_WAREHOUSE_URL" in refusal(Warehouse(url, ""), ConfigError).remedy


def test_an_unknown_database_is_an_error_of_the_configuration(rooms):
    url = replace(rooms.warehouse.url, database="no_such_db")
    assert "no_such_db" in refusal(Warehouse(url, ""), ConfigError).problem


def test_an_unreachable_port_may_pass_by_itself(rooms):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = replace(rooms.warehouse.url, port=free.getsockname()[1])
        assert "rds-lake status" in refusal(Warehouse(url, ""), TransientError).remedy


def test_a_wrong_statement_will_not_pass_by_itself(rooms):
    with rooms.warehouse.connect() as session, pytest.raises(PermanentError, match="no_such_table"):
        session.execute("SELECT * FROM no_such_table")


def test_an_error_inside_a_transaction_rolls_it_back_and_the_session_goes_on(rooms):
    name = rooms.name()
    with rooms.warehouse.connect() as session:
        session.execute(f"CREATE TABLE {name} (v INTEGER)")
        for breaks in (True, False):
            try:
                with session.transaction():
                    session.execute(f"INSERT INTO {name} VALUES (%s)", (1,))
                    if breaks:
                        session.execute("SELECT 1 / 0")
            except PermanentError:
                assert breaks
        assert session.execute(f"SELECT v FROM {name}") == [(1,)]


def test_a_percent_sign_is_written_twice_with_and_without_parameters(rooms):
    with rooms.warehouse.connect() as session:
        assert session.execute("SELECT '100%%'") == [("100%",)]
        assert session.execute("SELECT '100%%', %s", ("50%",)) == [("100%", "50%")]
