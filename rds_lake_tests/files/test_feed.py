"""The transactions feed, as its YAML declares it: files are cleaned and put into PostgreSQL, once and in their order.

What was dropped is read with the csv module, what arrived with psycopg2.
"""

import csv
import io
import json
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rooms as shared
import yaml
from dropping import POSTGRES, Drops, day

from rds_lake.errors import TransientError
from rds_lake.files import feed as feed_module
from rds_lake.files import upsert
from rds_lake.files.feed import FileFeed
from rds_lake.warehouse.connection import Database

YAML = Path(shared.PACKAGE) / "defs" / "transactions" / "defs.yaml"
HEADER = (
    "TransactionID,AccountNumber,CustomerID,TransactionDate,TransactionType,TransactionAmount,Currency,AccountBalance,"
    "BranchCode,MerchantCode,Description"
)
NAMES = HEADER.lower().split(",")


def feed(rooms: Any, **more: Any) -> Drops:
    """The feed of the YAML, with a bucket and a schema in PostgreSQL of its own."""
    attributes = {**yaml.safe_load(YAML.read_text())["attributes"], **more}
    name = attributes.pop("feed")
    return Drops.feed(rooms.environ, name, versioned=True, **attributes)


def row(number: int, **changes: str) -> str:
    """A line of the bank's export."""
    values = {
        "transactionid": f"T{number:05}",
        "accountnumber": f"DE{number:020}",
        "customerid": f"C{number:03}",
        "transactiondate": f"2026-01-{number % 28 + 1:02}",
        "transactiontype": "Debit",
        "transactionamount": "23,988.51",
        "currency": "EUR",
        "accountbalance": "1,234,567.89",
        "branchcode": "B1",
        "merchantcode": "M1",
        "description": "groceries",
        **changes,
    }
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerow([values[name] for name in NAMES])
    return target.getvalue()


def export(*rows: str) -> str:
    """A file of the bank's export."""
    return "".join([HEADER, "\n", *rows])


def expected(text: str) -> list[tuple[Any, ...]]:
    """What the table has to have for rows that need no cleaning, as the csv module reads them."""
    readers = {
        "transactiondate": date.fromisoformat,
        "transactionamount": lambda given: Decimal(given.replace(",", "")),
        "accountbalance": lambda given: Decimal(given.replace(",", "")),
    }
    found = []
    for given in csv.DictReader(io.StringIO(text, newline="")):
        folded = {name.lower(): value for name, value in given.items()}
        values = [readers.get(name, str)(folded[name]) if folded[name].strip() else None for name in NAMES]
        found.append(tuple(values))
    return sorted(found)


ALL = ", ".join(NAMES)


def test_a_file_of_the_bank_arrives_value_by_value_and_each_row_tells_where_it_is_from(rooms):
    drops = feed(rooms)
    text = export(
        row(1),
        row(2, description='he said "no", twice', transactionamount="0.00", accountbalance="-1,000.10"),
        row(3, description="two\nlines\n\\.\nand\ttabs", transactionamount="9,999,999,999,999,999.99"),
        row(4, description="\\", merchantcode="N/A", transactionamount="-.5", branchcode="null"),
        row(5, transactiontype="", currency="", accountbalance="", branchcode=" ", merchantcode="", description=""),
        row(6, transactionid="t ", customerid=" padded ", description="ÄÖÜ ß € 美 🙂"),
        row(7, transactionid="t", transactionamount="5", accountbalance="5.", description="'; DROP TABLE x; --"),
        row(8, description="{1,2}", transactionamount="+1.5", accountbalance="0001.10", currency="€"),
    )
    dropped = drops.source("export.csv", text, day(1))
    record = drops.one(dropped)
    assert (record.status, record.error) == ("completed", None)
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (8, 8, 0)
    assert sorted(drops.rows("", ALL)) == expected(text)
    lines = {held[0]: held[1:] for held in drops.rows("", "transactionid, _file_id, _landed_at, _line, _raw")}
    assert lines["T00001"] == (dropped.file_id, day(1), 2, None)
    assert lines["T00004"] == (dropped.file_id, day(1), 8, None)  # behind one of four lines
    drops.check_accounts()


def test_a_handled_file_lies_in_the_feeds_own_folders(rooms):
    drops = feed(rooms)
    text = export(*map(row, range(20)), row(21, transactionamount="much"))
    dropped = drops.source("export.csv", text, day(1))
    record = drops.one(dropped)
    stamp = f"20260102T000000-{dropped.file_id[:12]}"
    assert drops.keys("") == [
        f"transactions/cleaned/{stamp}/manifest.json",
        f"transactions/cleaned/{stamp}/part-00000.parquet",
        f"transactions/discarded/{stamp}/discarded.parquet",
        f"transactions/processed/{stamp}/export.csv",
        f"transactions/processed/{stamp}/report.json",
    ]
    assert drops.original(record) == text.encode()
    assert (record.table, record.action, record.receiver) == ("transactions", "upsert", "transactions")
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (21, 20, 1)
    assert record.error == ("1 of 21 rows were discarded; the first: line 22: transactionamount is no decimal(18,2)")
    [bad] = drops.discarded(record)
    assert (bad["_line"], bad["transactionid"], bad["transactionamount"]) == (22, "T00021", "much")
    assert len(drops.parquet(f"transactions/cleaned/{stamp}/part-00000.parquet")) == 20
    [entry] = drops.ledger()
    assert (entry["file_id"], entry["rows_loaded"], entry["content"]) == (dropped.file_id, 20, record.content)
    drops.check_accounts()


def test_missing_and_invalid_values_are_replaced_and_what_stood_there_is_kept(rooms):
    drops = feed(rooms)
    before = datetime.now(UTC).date()
    record = drops.one(
        drops.source(
            "export.csv",
            export(
                row(1, customerid=""),
                row(2, customerid="   "),
                row(3, transactiondate=""),
                row(4, transactiondate="31/02/2026"),
                row(5, transactiondate="2026-02-30"),
                row(6, transactiondate="yesterday, or so", customerid=""),
                row(7, transactiondate=" 2026-01-31 "),
                row(8, customerid="\\N", transactiondate="\\N"),
            ),
            day(1),
        )
    )
    after = datetime.now(UTC).date()
    assert (record.status, record.rows_loaded) == ("completed", 8)
    assert record.error == (
        "Replaced: customerid was missing (4), transactiondate was invalid (3), transactiondate was missing (2)"
    )
    found = {held[0]: held[1:] for held in drops.rows("", "transactionid, customerid, transactiondate, _raw")}
    today = found["T00003"][1]
    assert before <= today <= after
    assert found == {
        "T00001": ("N/A", date(2026, 1, 2), {"customerid": None}),
        "T00002": ("N/A", date(2026, 1, 3), {"customerid": None}),
        "T00003": ("C003", today, {"transactiondate": None}),
        "T00004": ("C004", today, {"transactiondate": "31/02/2026"}),
        "T00005": ("C005", today, {"transactiondate": "2026-02-30"}),
        "T00006": ("N/A", today, {"customerid": None, "transactiondate": "yesterday, or so"}),
        "T00007": ("C007", date(2026, 1, 31), None),
        "T00008": ("N/A", today, {"customerid": None, "transactiondate": None}),
    }
    assert drops.report(record)["result"]["details"]["cleaned"] == {
        "customerid was missing": 4,
        "transactiondate was invalid": 3,
        "transactiondate was missing": 2,
    }
    drops.check_accounts()


def test_rows_that_cleaning_does_not_mend_are_discarded_with_their_reasons(rooms):
    drops = feed(rooms, discard_limit=0.9)
    record = drops.one(
        drops.source(
            "export.csv",
            export(
                row(1, transactionid=""),
                row(2, accountnumber=""),
                row(3, transactionamount=""),
                row(4, transactionamount="12,34.5"),
                row(5, transactionamount="1.005"),
                row(6, transactionamount="12345678901234567.00"),
                row(7, currency="EURO", accountbalance="1.234,56"),
                row(8, description="x" * 1001),
                "one,two\n",
                row(10),
            ),
        )
    )
    assert (record.status, record.rows_read, record.rows_loaded, record.rows_discarded) == ("completed", 10, 1, 9)
    assert {line["_line"]: line["_reasons"] for line in drops.discarded(record)} == {
        2: ["transactionid is missing"],
        3: ["accountnumber is missing"],
        4: ["transactionamount is missing"],
        5: ["transactionamount is no decimal(18,2)"],
        6: ["transactionamount is no decimal(18,2)"],
        7: ["transactionamount is no decimal(18,2)"],
        8: ["currency is no varchar(3)", "accountbalance is no decimal(18,2)"],
        9: ["description is no varchar(1000)"],
        10: ["has 2 fields, not 11"],
    }
    assert drops.rows("", "transactionid") == [("T00010",)]
    drops.check_accounts()


@pytest.mark.parametrize("column", ["TransactionID", "AccountNumber", "CustomerID", "TransactionAmount"])
def test_a_file_that_lacks_a_column_is_refused_and_the_record_names_it(rooms, column):
    drops = feed(rooms)
    names = [name for name in HEADER.split(",") if name != column]
    at = HEADER.split(",").index(column)
    values = next(csv.reader([row(1)]))
    text = ",".join(names) + "\n" + ",".join(f'"{value}"' for value in values[:at] + values[at + 1 :]) + "\n"
    record = drops.one(drops.source("export.csv", text))
    assert (record.status, record.rows_loaded) == ("rejected", 0)
    assert record.error == f"export.csv lacks the column '{column.lower()}', which needs a value. Add it."
    assert record.moved_to.startswith(f"s3://{drops.bucket}/transactions/failed/")
    assert drops.original(record) == text.encode()
    drops.check_accounts()


def test_columns_that_may_be_empty_may_be_missing_and_come_in_any_order(rooms):
    drops = feed(rooms)
    text = 'transactionamount,TRANSACTIONID,customerid,accountnumber,transactiondate\n"1,000",T1,C1,A1,2026-01-01\n'
    assert drops.one(drops.source("export.csv", text)).status == "completed"
    assert drops.rows("", ALL) == [
        ("T1", "A1", "C1", date(2026, 1, 1), None, Decimal("1000.00"), None, None, None, None, None)
    ]


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("a.csv", "", "a.csv is empty. Drop a file with rows."),
        ("a.csv", HEADER + "\n", "a.csv has no rows, only a header. Drop a file with rows."),
        (
            "sub/a.csv",
            export(row(1)),
            (
                "s3://{bucket}/transactions/source/sub/a.csv lies in a folder of its own. "
                "Drop it into transactions/source/ itself."
            ),
        ),
        (
            "a.csv",
            HEADER + ",more\n",
            (
                "The first row of a.csv looks like a header, but has a name for its 12th column that the table "
                f"does not know (it has {', '.join(NAMES)}). Correct the header, or drop a schema file that adds "
                "the column. If it is a row: say 'header: absent'."
            ),
        ),
        (
            "a.csv",
            export(row(1), row(2, transactionamount="x")),
            (
                "1 of 2 rows of a.csv do not fit, more than the 10% "
                "that may be discarded. The first: line 3: transactionamount is no decimal(18,2). "
                "Correct the file, or the schema; all such rows lie in discarded/ with their reasons."
            ),
        ),
    ],
    ids=["empty", "only a header", "in a folder", "an unknown column", "too many bad rows"],
)
def test_a_bad_file_is_refused_and_changes_nothing(rooms, name, body, error):
    drops = feed(rooms)
    drops.one(drops.source("first.csv", export(row(1, description="old")), day(1)))
    dropped = drops.source(name, body, day(2))
    record = drops.one(dropped)
    assert (record.status, record.error) == ("rejected", error.format(bucket=drops.bucket))
    assert drops.original(record) == body.encode()
    assert drops.rows("", "transactionid, description") == [("T00001", "old")]
    drops.check_accounts()


# --- upserts ---------------------------------------------------------------------------------------------------------


def test_a_row_gives_way_to_one_of_a_later_file_and_never_to_one_of_an_older(rooms):
    drops = feed(rooms)
    drops.one(drops.source("2.csv", export(row(1, description="second"), row(2, description="second")), day(2)))
    drops.one(drops.source("3.csv", export(row(2, description="third", transactiondate="x")), day(3)))
    late = drops.one(
        drops.source(
            "1.csv", export(*(row(number, description="first", customerid="") for number in (1, 2, 3))), day(1)
        )
    )
    assert (late.status, late.rows_read, late.rows_loaded, late.rows_discarded) == ("completed", 3, 1, 0)
    assert late.error == "Replaced: customerid was missing (3). 2 rows are older than those in the table"
    assert [entry["rows_loaded"] for entry in drops.ledger()] == [1, 2, 1]
    assert drops.rows("", "transactionid, description, _raw, _landed_at") == [
        ("T00001", "second", None, day(2)),
        ("T00002", "third", {"transactiondate": "x"}, day(3)),
        ("T00003", "first", {"customerid": None}, day(1)),
    ]
    drops.one(drops.source("4.csv", export(row(2, description="fourth")), day(4)))
    [(raw,)] = drops.ask(f"SELECT _raw FROM {drops.table()} WHERE transactionid = 'T00002'")
    assert raw is None  # the replaced value was that of a row that is not there any more
    drops.check_accounts()


def test_a_row_of_a_feed_that_cleans_no_more_keeps_nothing_of_the_one_that_was_cleaned(rooms):
    drops = feed(rooms)
    drops.one(drops.source("1.csv", export(row(1, customerid=""), row(2, customerid="")), day(1)))
    plain = Drops(drops.environ, drops.spec.model_copy(update={"clean": ()}))
    plain.one(plain.source("2.csv", export(row(1)), day(2)))
    assert drops.rows("", "transactionid, customerid, _raw") == [
        ("T00001", "C001", None),
        ("T00002", "N/A", {"customerid": None}),
    ]


def test_of_a_key_that_comes_again_in_a_file_the_last_row_stays(rooms):
    drops = feed(rooms, discard_limit=0.7)
    rows = [row(1, description="first"), row(2), row(1, description="second"), row(1, description="third")]
    record = drops.one(drops.source("export.csv", export(*rows)))
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (4, 2, 2)
    assert drops.rows("", "transactionid, description") == [("T00001", "third"), ("T00002", "groceries")]
    assert [(bad["_line"], bad["_reasons"], bad["description"]) for bad in drops.discarded(record)] == [
        (2, ["key is repeated by a later row"], "first"),
        (4, ["key is repeated by a later row"], "second"),
    ]
    drops.check_accounts()


def test_the_table_is_the_same_whatever_the_order_its_files_are_handled_in(rooms):
    draw = random.Random(7)
    files = [[(key, f"{at}-{key}") for key in draw.sample(range(8), 4)] for at in range(6)]
    wanted = sorted({f"T{key:05}": text for rows in files for key, text in rows}.items())
    for _ in range(3):
        drops = feed(rooms)
        versions = [
            drops.source(f"{at}.csv", export(*(row(key, description=text) for key, text in rows)), day(at))
            for at, rows in enumerate(files)
        ]
        draw.shuffle(versions)
        drops.handle(*versions[:2])
        for version in versions[2:4]:
            drops.handle(version)
        drops.handle(*versions[4:])
        assert drops.rows("", "transactionid, description") == wanted
        drops.check_accounts()


def test_to_run_again_and_to_drop_the_same_again_leaves_the_table_the_same(rooms):
    drops = feed(rooms)
    text = export(*map(row, range(5)))
    drops.source("export.csv", text)
    assert len(drops.run()) == 1
    before = drops.rows("", ALL)
    assert drops.run() == []
    drops.source("export.csv", text)
    assert [record.status for record, _ in drops.run()] == ["completed"]
    assert drops.rows("", ALL) == before
    assert len(drops.ledger()) == 2
    drops.check_accounts()


def test_a_file_that_is_in_the_table_already_is_only_settled(rooms):
    drops = feed(rooms)
    dropped = drops.source("export.csv", export(row(1, description="of the file")))
    work = drops.machine()._begin(drops.claim(dropped))  # a worker that dies once the table has the rows
    list(drops.receiver.work(work, drops.machine()._keeper))
    drops.ask(f"UPDATE {drops.table()} SET description = 'changed since'")
    drops.expire(dropped)
    [(record, _)] = drops.run()
    assert (record.status, record.attempts, record.rows_loaded) == ("completed", 2, 1)
    assert drops.rows("", "transactionid, description") == [("T00001", "changed since")]
    assert "export.csv is in the table already; it is settled now" in drops.said
    drops.check_accounts()


def test_two_workers_at_once_put_each_file_in_once(rooms):
    drops = feed(rooms)
    versions = [
        drops.source(f"{at}.csv", export(*(row(key, description=str(at)) for key in range(10))), day(at))
        for at in range(8)
    ]
    others = [Drops(drops.environ, drops.spec) for _ in range(2)]
    failed: list[BaseException] = []

    def work(other: Drops, some: Sequence[Any]) -> None:
        try:
            for version in some:
                other.handle(version)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [
        threading.Thread(target=work, args=[others[0], versions]),
        threading.Thread(target=work, args=[others[1], versions[::-1]]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {drops.record(version).status for version in versions} == {"completed"}
    assert drops.rows("", "transactionid, description") == [(f"T{key:05}", "7") for key in range(10)]
    assert len(drops.ledger()) == 8
    drops.check_accounts()


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def test_when_postgresql_is_away_files_wait_and_are_put_in_once_it_is_back(rooms):
    drops = feed(rooms)
    dropped = drops.source("export.csv", export(row(1)))
    url = drops.url(POSTGRES)
    away = f"postgresql://{url.user}:secret@{url.host}:1/{url.database}"
    lost = Drops({**drops.environ, POSTGRES: away}, drops.spec)
    with pytest.raises(TransientError, match="Connection refused"):
        lost.run(run_id="run-1")
    record = drops.record(dropped)
    assert (record.status, record.run_id, record.ended_at) == ("processing", "run-1", None)
    assert record.error.startswith(f"The PostgreSQL on RDS at {url.host}:1/{url.database} says: ")
    assert "secret" not in record.error
    assert record.lease_until > datetime.now(UTC)
    assert drops.waiting() == [dropped.key]
    assert drops.open_files() == [dropped.file_id]
    assert drops.run() == []  # it is left alone for a while
    drops.expire(dropped)
    [(record, _)] = drops.run(run_id="run-2")
    assert (record.status, record.error, record.run_id) == ("completed", None, "run-2")
    assert drops.record(dropped).error is None
    assert drops.rows("", "transactionid") == [("T00001",)]
    drops.check_accounts()


def test_a_worker_that_stands_still_in_a_transaction_does_not_keep_the_next_one_waiting(rooms, monkeypatch):
    drops = feed(rooms)
    dropped = drops.source("a.csv", export(row(1), row(2)))
    pieces, asked, others = upsert._pieces, [], []

    def put(*given: Any) -> upsert.Done:
        asked.append(given[1:])
        return upsert.put(*given)

    def stand_still(*given: Any):
        if not others:
            others.append(None)
            others[0] = upsert.put(drops.postgres(), *asked[0])  # waits for the one that waits for it
        yield from pieces(*given)

    monkeypatch.setattr(feed_module, "put", put)
    monkeypatch.setattr(upsert, "_pieces", stand_still)
    monkeypatch.setattr(upsert, "IDLE_SECONDS", 1)
    record = drops.one(dropped)
    assert others == [upsert.Done(2, is_new=True)]
    assert (record.status, record.rows_loaded) == ("completed", 2)
    assert sorted(drops.rows("", "transactionid")) == [("T00001",), ("T00002",)]
    drops.check_accounts()


def test_a_download_that_takes_long_is_no_standing_still(rooms, monkeypatch):
    drops = feed(rooms)
    dropped = drops.source("a.csv", export(row(1)))
    fetch = drops.store.fetch

    def slowly(version: Any, target: Any) -> str:
        if "/cleaned/" in version.key:
            time.sleep(1.5)
        return fetch(version, target)

    monkeypatch.setattr(drops.store, "fetch", slowly)
    monkeypatch.setattr(upsert, "IDLE_SECONDS", 1)
    monkeypatch.setattr(upsert, "ATTEMPTS", 1)
    assert drops.one(dropped).status == "completed"
    drops.check_accounts()


def test_a_worker_that_stands_still_is_told_so(rooms, monkeypatch):
    drops = feed(rooms)
    dropped = drops.source("a.csv", export(row(1)))
    pieces = upsert._pieces

    def stand_still(*given: Any):
        time.sleep(1.5)
        yield from pieces(*given)

    monkeypatch.setattr(upsert, "_pieces", stand_still)
    monkeypatch.setattr(upsert, "IDLE_SECONDS", 1)
    monkeypatch.setattr(upsert, "ATTEMPTS", 1)
    with pytest.raises(TransientError, match=r"ended the session that was putting in a\.csv, after [12] s"):
        drops.handle(dropped)
    assert "stood still inside a transaction: see whether its machine was stopped" in drops.record(dropped).error
    assert drops.ledger() == []


def test_files_that_were_done_when_postgresql_went_away_are_settled_and_the_others_wait(rooms):
    drops = feed(rooms)
    first, second = (drops.source(f"{at}.csv", export(row(at)), day(at)) for at in (1, 2))
    asked = []

    def database() -> Database:
        asked.append(True)
        if len(asked) > 1:
            raise TransientError("It is away.", "Try again.")
        return drops.postgres()

    drops.receiver = FileFeed(drops.spec, drops.store, database, drops.said.append)
    with pytest.raises(TransientError, match="It is away"):
        drops.handle(first, second)
    assert [drops.record(version).status for version in (first, second)] == ["completed", "processing"]
    assert drops.record(second).error == "It is away. Try again."
    drops.expire(second)
    asked.clear()
    assert [record.file_id for record, _ in drops.run()] == [second.file_id]
    assert drops.rows("", "transactionid") == [("T00001",), ("T00002",)]
    drops.check_accounts()


def test_a_column_that_the_yaml_has_and_the_table_has_not_is_added(rooms):
    drops = feed(rooms)
    drops.one(drops.source("1.csv", export(row(1)), day(1)))
    columns = [*yaml.safe_load(YAML.read_text())["attributes"]["columns"], {"name": "channel", "type": "varchar(9)"}]
    wider = Drops(
        drops.environ, drops.spec.model_validate({**drops.spec.model_dump(by_alias=True), "columns": columns})
    )
    text = f"{HEADER},Channel\n{row(2).strip()},online\n"
    assert wider.one(wider.source("2.csv", text, day(2))).status == "completed"
    assert drops.rows("", "transactionid, channel") == [("T00001", None), ("T00002", "online")]


def test_a_table_whose_column_would_round_the_values_takes_none(rooms):
    drops = feed(rooms)
    drops.one(drops.source("1.csv", export(row(1)), day(1)))
    data = drops.spec.model_dump(by_alias=True)
    columns = [{**column, "type": column["type"].replace("(18,2)", "(18,4)")} for column in data["columns"]]
    finer = Drops(drops.environ, drops.spec.model_validate({**data, "columns": columns}))
    dropped = finer.source("2.csv", export(row(1, transactionamount="1.2345")), day(2))
    record = finer.one(dropped)
    assert record.status == "failed"
    assert record.error == (
        f"The column transactionamount of {finer.table().replace(chr(34), '')} is DECIMAL(18,2), and the YAML says "
        "DECIMAL(18,4), which it does not hold. Alter the table, or correct the YAML; then drop the file again."
    )
    assert drops.rows("", "transactionid, transactionamount") == [("T00001", Decimal("23988.51"))]
    drops.check_accounts()


THEIRS = {
    "id": "varchar(9)",
    "name": "varchar(20)",
    "amount": "numeric(12,2)",
    "day": "date",
    "at": "timestamp",
}
"""The columns of a table that somebody else made, of which `id` is the primary key."""


def beside(rooms: Any, made: str = "", **columns: str) -> Drops:
    """A feed into a table that somebody else made, with a row in it; `made` if it is no such table.

    Args:
        rooms: the stack.
        made: makes it, where `{}` stands for its name.
        columns: the types of columns that are not as `THEIRS` has them.
    """
    types = {"id": "varchar(9)", "name": "varchar(20)", "amount": "decimal(12,2)", "day": "date", "at": "timestamp"}
    told = [{"name": name, "type": kind, "nullable": name != "id"} for name, kind in types.items()]
    drops = Drops.feed(rooms.environ, "theirs", versioned=True, columns=told, key=["id"])
    given = ", ".join(f'"{name}" {kind}' for name, kind in {**THEIRS, **columns}.items())
    drops.ask(f'CREATE SCHEMA "{drops.spec.target.db_schema}"')
    drops.ask((made or f"CREATE TABLE {{}} ({given}, PRIMARY KEY (id))").format(drops.table()))
    return drops


def test_rows_of_a_table_that_was_there_before_give_way_and_tell_nothing_of_where_they_are_from(rooms):
    drops = beside(rooms)
    drops.ask(f"INSERT INTO {drops.table()} (id, name) VALUES ('a', 'old'), ('b', 'old')")
    record = drops.one(drops.source("1.csv", "id,name,amount\na,new,1.5\nc,new,2\n", day(1)))
    assert (record.status, record.rows_loaded, record.error) == ("completed", 2, None)
    assert drops.rows("", "id, name, amount, _line, _landed_at, _raw") == [
        ("a", "new", Decimal("1.50"), 2, day(1), None),
        ("b", "old", None, None, None, None),
        ("c", "new", Decimal("2.00"), 3, day(1), None),
    ]
    older = drops.one(drops.source("0.csv", "id,name\na,older\nb,older\n", day(0)))
    assert (older.rows_loaded, older.error) == (1, "1 rows are older than those in the table")
    assert drops.rows("", "id, name") == [("a", "new"), ("b", "older"), ("c", "new")]
    drops.check_accounts()


def test_a_row_without_a_moment_gives_way_also_where_somebody_has_added_our_columns(rooms):
    drops = beside(rooms, _line="bigint", _raw="jsonb", _file_id="text", _landed_at="timestamptz")
    drops.ask(f"INSERT INTO {drops.table()} (id, name) VALUES ('a', 'old')")
    drops.ask(f"INSERT INTO {drops.table()} (id, name, _landed_at) VALUES ('b', 'old', %s)", (day(1),))
    assert drops.one(drops.source("1.csv", "id,name\na,new\nb,new\n", day(1))).rows_loaded == 2
    assert drops.rows("", "id, name") == [("a", "new"), ("b", "new")]
    drops.check_accounts()


KEYLESS = "is there already, but has no primary key and no unique constraint on exactly (id), the key of the feed."
COLUMNS = ", ".join(f'"{name}" {kind}' for name, kind in THEIRS.items())


@pytest.mark.parametrize(
    "made",
    [
        f"CREATE TABLE {{}} ({COLUMNS})",
        f"CREATE TABLE {{}} ({COLUMNS}, PRIMARY KEY (id, name))",
        f"CREATE TABLE {{0}} ({COLUMNS}); CREATE UNIQUE INDEX ON {{0}} (id) WHERE name IS NOT NULL",
        f"CREATE TABLE {{0}} ({COLUMNS}); CREATE UNIQUE INDEX ON {{0}} (lower(id))",
        f"CREATE TABLE {{0}} ({COLUMNS}, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)",
    ],
    ids=["none", "of more columns", "over a part", "over an expression", "deferred"],
)
def test_a_table_that_somebody_else_made_without_the_key_is_left_alone(rooms, made):
    drops = beside(rooms, made)
    drops.ask(f"INSERT INTO {drops.table()} (id, name) VALUES ('a', 'theirs')")
    record = drops.one(drops.source("1.csv", "id,name\na,new\n"))
    assert (record.status, record.rows_loaded) == ("failed", 0)
    assert record.error == (
        f"{place(drops)} {KEYLESS} Add one (a full one, not deferrable), or correct 'key' in the YAML; then drop the "
        "file again."
    )
    assert drops.rows("", "id, name") == [("a", "theirs")]
    assert [column[0] for column in drops.types()] == list(THEIRS)
    drops.check_accounts()


def place(drops: Drops) -> str:
    """The target as messages call it."""
    return drops.table().replace('"', "")


@pytest.mark.parametrize(
    "made",
    [
        f"CREATE TABLE {{0}} ({COLUMNS}, note text NOT NULL DEFAULT 'x', number bigserial, CONSTRAINT c UNIQUE (id))",
        f"CREATE TABLE {{0}} ({COLUMNS}, number int GENERATED ALWAYS AS IDENTITY); CREATE UNIQUE INDEX ON {{0}} (id)",
        f"CREATE TABLE {{0}} ({COLUMNS}); CREATE UNIQUE INDEX ON {{0}} (id) INCLUDE (name)",
        "CREATE TABLE {} (id text, name text, amount numeric, day timestamptz, at text, UNIQUE (id))",
    ],
    ids=["defaults", "an identity", "an index with more in it", "types without a length"],
)
def test_a_table_that_somebody_else_made_takes_the_rows_when_it_has_what_they_need(rooms, made):
    drops = beside(rooms, made)
    record = drops.one(drops.source("1.csv", "id,name,amount\na,new,1.50\n", day(1)))
    assert (record.status, record.error) == ("completed", None)
    assert drops.rows("", "id, name, amount") == [("a", "new", Decimal("1.50"))]
    drops.check_accounts()


@pytest.mark.parametrize(
    ("column", "kind", "error"),
    [
        ("name", "varchar(3)", "is VARCHAR(3), and the YAML says VARCHAR(20), which it does not hold."),
        ("name", "char(20)", "is character(20), and the YAML says VARCHAR(20), which it does not hold."),
        ("name", "uuid", "is uuid, and the YAML says VARCHAR(20), which it does not hold."),
        ("amount", "numeric(12,1)", "is DECIMAL(12,1), and the YAML says DECIMAL(12,2), which it does not hold."),
        ("amount", "money", "is money, and the YAML says DECIMAL(12,2), which it does not hold."),
        (
            "at",
            "timestamp(0)",
            "is timestamp without time zone(0), and the YAML says TIMESTAMP, which it does not hold.",
        ),
        ("_line", "text", "is text, and rds_lake keeps BIGINT there."),
        ("_landed_at", "timestamptz(0)", "is timestamp with time zone(0), and rds_lake keeps TIMESTAMPTZ there."),
        ("note", "text NOT NULL", "needs a value, which the files of the feed do not bring."),
        ("_raw", "jsonb NOT NULL", "needs a value, which the files of the feed do not bring."),
    ],
)
def test_a_table_that_would_change_the_values_or_need_others_takes_none_and_stays_as_it_is(rooms, column, kind, error):
    drops = beside(rooms, **{column: kind})
    before = drops.types()
    record = drops.one(drops.source("1.csv", "id,name\na,ab   \n"))
    assert (record.status, record.rows_loaded) == ("failed", 0)
    assert record.error.startswith(f"The column {column} of {place(drops)} {error} ")
    assert record.error.endswith("; then drop the file again.")
    assert (drops.rows(), drops.types()) == ([], before)
    drops.check_accounts()


def test_a_view_is_not_loaded_into(rooms):
    drops = beside(rooms, "CREATE VIEW {} AS SELECT 'a' AS id")
    record = drops.one(drops.source("1.csv", "id,name\na,b\n"))
    assert record.status == "failed"
    assert record.error == (
        f"{place(drops)} is no table (a view, or the like). Name another one as 'target' in the YAML, or move it away; "
        "then drop the file again."
    )
    drops.check_accounts()


def test_a_parquet_file_is_cleaned_and_put_in_like_any_other(rooms):
    drops = feed(rooms)
    table = pa.table(
        {
            "TransactionID": ["T1", "T2"],
            "AccountNumber": ["A1", "A2"],
            "CustomerID": pa.array([None, "C2"]),
            "TransactionDate": pa.array([date(2026, 1, 1), None], pa.date32()),
            "TransactionAmount": pa.array([Decimal("0.10"), Decimal("-9999999999999999.99")], pa.decimal128(18, 2)),
        }
    )
    body = io.BytesIO()
    pq.write_table(table, body)
    record = drops.one(drops.source("a.parquet", body.getvalue()))
    assert (record.status, record.rows_loaded) == ("completed", 2)
    held = drops.rows("", "transactionid, customerid, transactionamount, _raw")
    assert held == [
        ("T1", "N/A", Decimal("0.10"), {"customerid": None}),
        ("T2", "C2", Decimal("-9999999999999999.99"), {"transactiondate": None}),
    ]
    assert json.loads(drops.body(record.report))["result"]["rows_loaded"] == 2
    drops.check_accounts()
