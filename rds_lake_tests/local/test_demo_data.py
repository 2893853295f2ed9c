"""The demo data: the same everywhere, loaded once, and never over a user's changes."""

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pymysql
import pytest

from rds_lake.errors import PermanentError, RdsLakeError
from rds_lake.local import demo_data
from rds_lake.local import stack as local_stack
from rds_lake.settings import DatabaseUrl, parse_database_url

# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orders():
    return demo_data.orders()


def test_the_invented_data_is_the_same_on_every_machine(orders):
    assert demo_data._digest(orders) == "4201a5e73dd33abaf2c12dae4e0b24b22f86d6c6bac29cc5b967fe109b7eaae1"
    assert (
        demo_data._digest(demo_data.customers()) == "a571aa887b8b0ba11f9c4f8677eef69f66df06afc4dd1bdd1c5b977c2231edae"
    )


def test_the_orders_fill_a_year_and_their_keys_are_unique(orders):
    assert len(orders) == len({order.order_id for order in orders}) == 68_883
    days = Counter(order.order_last_updated.date() for order in orders)
    assert len(days) == 365
    assert min(days) == dt.date(2013, 7, 25)
    assert all(1 <= order.customer_id <= 12_435 for order in orders)


def test_about_one_percent_of_the_statuses_is_invalid_in_every_way(orders):
    statuses = Counter(order.order_status for order in orders)
    invalid = {status: count for status, count in statuses.items() if status not in demo_data.STATUSES}
    assert 550 < sum(invalid.values()) < 830
    assert {None, "", "complete", " COMPLETE", "CLOSED ", "COMPLETED"} <= invalid.keys()
    assert statuses["COMPLETE"] / len(orders) == pytest.approx(0.33, abs=0.01)
    assert statuses["PENDING_PAYMENT"] / len(orders) == pytest.approx(0.22, abs=0.01)


def test_many_orders_share_their_second_and_some_fall_on_midnight(orders):
    instants = Counter(order.order_last_updated for order in orders)
    assert sum(count for count in instants.values() if count > 1) > 10_000
    assert sum(count for instant, count in instants.items() if instant.time() == dt.time()) > 365


def test_the_customers_hold_what_breaks_naive_pipelines():
    rows = demo_data.customers()
    assert len(rows) == 12_435 + 36
    assert len(set(rows)) == 12_435
    text = [str(value) for row in rows for value in row]
    assert all(any(mark in value for value in text) for mark in ("'", ",", '"', "\n", "é", "美"))
    assert any(None in row for row in rows)
    assert any("" in row for row in rows)


# --- files of orders -------------------------------------------------------------------------------------------------


def test_a_file_of_orders_is_taken_as_it_is(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text('1,2013-07-25 00:00:00.0,11599,CLOSED\n2,2013-07-25 00:00:01,256," closed "\n3,2013-07-26,1,\n')
    day = dt.datetime.fromisoformat("2013-07-25")
    assert demo_data.read_orders(path) == [
        (1, day, 11599, "CLOSED"),
        (2, day + dt.timedelta(seconds=1), 256, " closed "),
        (3, day + dt.timedelta(days=1), 1, ""),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2,2013-07-25 00:00:00.0,1", "3 fields"),
        (b"", "0 fields"),
        (b"two,2013-07-25 00:00:00.0,1,CLOSED", "order_id 'two'"),
        (b"2,2013-07-25 00:00:00.0,,CLOSED", "customer_id ''"),
        (b"2147483648,2013-07-25 00:00:00.0,1,CLOSED", "order_id '2147483648'"),
        (b"2,25.07.2013,1,CLOSED", "order_date '25.07.2013'"),
        (b"2,2013-07-25 00:00:00.5,1,CLOSED", "fraction"),
        (b"2,2013-07-25 00:00:00.0,1," + b"X" * 26, "longer than 25"),
        (b"1,2013-07-25 00:00:00.0,1,CLOSED", "already in line 1"),
        (b"2,2013-07-25 00:00:00.0,1,\xff", "UTF-8"),
        (b'2,2013-07-25 00:00:00.0,1,"CLOSED"X', "expected after"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, reason):
    path = tmp_path / "orders.csv"
    path.write_bytes(b"1,2013-07-25 00:00:00.0,1,CLOSED\n" + line + b"\n3,2013-07-25 00:00:00.0,1,CLOSED\n")
    with pytest.raises(PermanentError, match=rf"orders\.csv, line 2: .*{reason}"):
        demo_data.read_orders(path)


def test_a_file_that_is_empty_or_missing_is_named(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(PermanentError, match=r"empty\.csv holds no order"):
        demo_data.read_orders(tmp_path / "empty.csv")
    with pytest.raises(PermanentError, match=r"none\.csv cannot be read"):
        demo_data.read_orders(tmp_path / "none.csv")


# --- loading, against a real server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Iterator[DatabaseUrl]:
    """The MySQL source of a stack of its own: the tests empty it."""
    home = tmp_path_factory.mktemp("demo") / "home"
    try:
        address = local_stack.up(home, ui=False).environ["RDS_LAKE_SOURCE_URL"]
        yield parse_database_url(address, scheme="mysql", variable="RDS_LAKE_SOURCE_URL")
    finally:
        local_stack.down(home)


@pytest.fixture
def url(source) -> DatabaseUrl:
    for table in (*demo_data.TABLES, "fetch_details", "rds_lake_demo"):
        ask(source, f"DROP TABLE IF EXISTS {table}")
    return source


def ask(url: DatabaseUrl, sql: str):
    connection = pymysql.connect(
        host=url.host,
        port=url.port,
        user=url.user,
        password=url.password,
        database=url.database,
        charset="utf8mb4",
        autocommit=True,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def outcomes(summaries):
    return {summary.table: (summary.rows, summary.outcome) for summary in summaries}


@pytest.mark.stack
def test_the_source_is_filled_once_and_quickly(url, orders, record_property):
    lines: list[str] = []
    started = time.monotonic()
    first = demo_data.create(url, report=lines.append)
    seconds = time.monotonic() - started
    record_property("seconds", seconds)
    assert outcomes(first) == {
        "order_status_lookup": (9, "loaded"),
        "customers": (12_471, "loaded"),
        "orders": (68_883, "loaded"),
    }
    assert lines[-1] == "orders: 68,883 rows loaded"
    assert list(ask(url, "SELECT * FROM orders ORDER BY order_id")) == orders
    assert sorted(map(repr, ask(url, "SELECT * FROM customers"))) == sorted(map(repr, demo_data.customers()))
    assert set(outcomes(demo_data.create(url)).values()) == {(9, "kept"), (12_471, "kept"), (68_883, "kept")}
    assert seconds < 10


@pytest.mark.stack
def test_what_a_user_changed_stays(url):
    demo_data.create(url)
    changes = "DELETE FROM orders WHERE order_id > 10", "UPDATE orders SET order_status = 'X'", "DELETE FROM customers"
    for change in changes:
        ask(url, change)
    demo_data.create(url)
    assert ask(url, "SELECT COUNT(*), MIN(order_status), MAX(order_status) FROM orders") == ((10, "X", "X"),)
    assert ask(url, "SELECT COUNT(*) FROM customers") == ((0,),)


@pytest.mark.stack
def test_a_table_that_a_user_filled_stays(url):
    ask(url, demo_data.TABLES["orders"])
    ask(url, "INSERT INTO orders VALUES (1, NOW(), 1, 'MINE')")
    assert outcomes(demo_data.create(url))["orders"] == (1, "kept")


@pytest.mark.stack
def test_other_orders_replace_the_loaded_ones_only_when_asked(url, tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("7,2013-07-25 00:00:00.0,1,BAD STATUS\n")
    demo_data.create(url)
    with pytest.raises(PermanentError, match=r"68,883 rows that do not come from .*orders\.csv\. .*--replace"):
        demo_data.create(url, orders_csv=path)
    assert ask(url, "SELECT COUNT(*) FROM orders") == ((68_883,),)
    assert outcomes(demo_data.create(url, orders_csv=path, replace=True))["orders"] == (1, "replaced")
    assert outcomes(demo_data.create(url, orders_csv=path))["orders"] == (1, "kept")
    assert outcomes(demo_data.create(url))["orders"] == (1, "kept")
    assert ask(url, "SELECT order_id, order_status FROM orders") == ((7, "BAD STATUS"),)


@pytest.mark.stack
def test_two_loads_at_once_fill_the_source_once(url):
    ends: list[dict] = []
    threads = [threading.Thread(target=lambda: ends.append(outcomes(demo_data.create(url)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(end["orders"][1] for end in ends) == ["kept", "kept", "loaded"]
    assert ask(url, "SELECT COUNT(*) FROM customers") == ((12_471,),)


@pytest.mark.stack
def test_a_load_that_fails_leaves_nothing_behind(url, monkeypatch):
    rows = [*demo_data.customers()[:5], (1, *["x" * 300] * 7)]
    monkeypatch.setattr(demo_data, "customers", lambda: rows)
    with pytest.raises(RdsLakeError, match="Data too long"):
        demo_data.create(url)
    assert ask(url, "SELECT COUNT(*) FROM order_status_lookup") == ((0,),)
    monkeypatch.undo()
    assert outcomes(demo_data.create(url))["customers"] == (12_471, "loaded")


@pytest.mark.stack
def test_a_source_that_does_not_answer_is_named():
    with pytest.raises(RdsLakeError, match=r"127\.0\.0\.1:1/shop"):
        demo_data.create(DatabaseUrl("mysql", "127.0.0.1", 1, "root", "", "shop"))
