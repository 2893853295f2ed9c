"""Files appended to tables of Redshift: every value arrives, every row is somewhere, every file is accounted for.

What was loaded is read with psycopg2, what was dropped with the csv module: the product never looks at its own work.
"""

import csv
import gzip
import io
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dropping import Drops, day

from rds_lake.audit_log.record import NAMES, Record
from rds_lake.files.keeper import Keeper
from rds_lake.files.work import Result, Work

COLUMNS = (
    "id bigint",
    "name varchar(100)",
    "amount decimal(12,2)",
    "born date",
    "at timestamp",
    "ok boolean",
    "ratio double precision",
    "note text",
)
NAMES_ONLY = [text.split()[0] for text in COLUMNS]

WORDS = [
    ["1", "Ada", "12.50", "1815-12-10", "2026-01-01 00:00:00", "true", "0.5", "plain"],
    ["2", "O'Neil, Ann", "-0.01", "0001-01-01", "2026-12-31T23:59:59.999999", "f", "-1.5e-7", 'a "quoted" word'],
    ["3", "two\nlines", "+9999999999.99", "9999-12-31", "2026-06-01 12:00", "YES", "1e308", "ends with\n"],
    ["4", "crlf\r\ninside", "", "", "", "", "", ""],
    ["5", "  blanks around  ", "1.00000", " 2024-02-29 ", "2024-02-29", "0", "3", "tab\there"],
    ["6", "\\N", "\\N", "\\N", "\\N", "\\N", "\\N", "\\N"],
    ["-7", "ÄÖÜ ß € ñ", ".5", "2000-01-01", "2000-01-01T00:00:00Z", "No", "00.10", ",;|'"],
    ["9223372036854775807", "100%", "0", "1999-12-31", "1999-12-31 23:59:59.5", "1", "-0", "''"],
    ["-9223372036854775808", "", "5.", "2026-11-20", "2026-11-20 01:02:03+00:00", "n", "+7", "\\"],
]
WIDE = [
    *WORDS,
    ["10", "美 🙂 e\u0301", "1", "2026-01-01", "2026-01-01", "t", "1", "\u202e right to left \u2028 \x1f \x0b \x85"],
]

_TRUE = {"true", "t", "yes", "y", "1"}


def value_of(name: str, text: str) -> Any:
    """What a text means, in words of Python's own."""
    if text == "\\N" or (name not in {"name", "note"} and not text.strip()):
        return None
    plain = text.strip()
    readers: dict[str, Any] = {
        "id": int,
        "amount": Decimal,
        "born": date.fromisoformat,
        "at": lambda given: datetime.fromisoformat(given.removesuffix("Z").removesuffix("+00:00")),
        "ok": lambda given: given.lower() in _TRUE,
        "ratio": float,
    }
    return readers[name](plain) if name in readers else text


def expected(text: str, *, header: bool, delimiter: str = ",") -> list[tuple[Any, ...]]:
    """The rows of a text, as the csv module sees them."""
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    names = [name.strip().lower() for name in rows[0]] if header else NAMES_ONLY
    body = rows[1:] if header else rows
    found = [dict(zip(names, row, strict=True)) for row in body]
    return sorted(
        (tuple(value_of(name, row.get(name, "\\N")) for name in NAMES_ONLY) for row in found), key=lambda row: row[0]
    )


def written(rows: Sequence[Sequence[str]], header: Sequence[str] = NAMES_ONLY, **options: Any) -> str:
    """Rows as delimited text."""
    target = io.StringIO()
    writer = csv.writer(target, **{"lineterminator": "\n", **options})
    writer.writerows([header, *rows] if header else rows)
    return target.getvalue()


TURNED = [NAMES_ONLY[at] for at in (7, 1, 0, 3)]
PLAIN = [[text.replace("\n", " ").replace("\r", " ").replace("\t", " ") for text in row] for row in WORDS]
FORMS: dict[str, tuple[str, bytes, dict[str, Any], dict[str, Any]]] = {
    # name: (file, bytes, how the YAML says that it is read, how the csv module is told to read it)
    "with a header": ("a.csv", written(WIDE).encode(), {}, {"text": written(WIDE)}),
    "without a header": ("a.csv", written(WIDE, ()).encode(), {}, {"text": written(WIDE, ()), "header": False}),
    "with a byte order mark": ("a.csv", written(WIDE).encode("utf-8-sig"), {}, {"text": written(WIDE)}),
    "with CRLF": (
        "a.csv",
        written(WIDE, lineterminator="\r\n").encode(),
        {},
        {"text": written(WIDE, lineterminator="\r\n")},
    ),
    "with a mark, CRLF and no header": (
        "a.csv",
        written(WIDE, (), lineterminator="\r\n").encode("utf-8-sig"),
        {},
        {"text": written(WIDE, (), lineterminator="\r\n"), "header": False},
    ),
    "with CR as on old Macs": (
        "a.csv",
        written(PLAIN, lineterminator="\r").encode(),
        {},
        {"text": written(PLAIN, lineterminator="\r")},
    ),
    "all quoted": ("a.csv", written(WIDE, quoting=csv.QUOTE_ALL).encode(), {}, {"text": written(WIDE)}),
    "gzip": ("a.csv.gz", gzip.compress(written(WIDE).encode()), {}, {"text": written(WIDE)}),
    "gzip of two parts": (
        "a.csv.gz",
        gzip.compress(written(WIDE[:5]).encode()) + gzip.compress(written(WIDE[5:], ()).encode()),
        {},
        {"text": written(WIDE)},
    ),
    "gzip that does not say so": ("a.csv", gzip.compress(written(WIDE).encode()), {}, {"text": written(WIDE)}),
    "tsv": ("a.tsv", written(WIDE, delimiter="\t").encode(), {}, {"text": written(WIDE)}),
    "tsv.gz": ("a.TSV.gz", gzip.compress(written(WIDE, delimiter="\t").encode()), {}, {"text": written(WIDE)}),
    "cp1252": ("a.csv", written(WORDS).encode("cp1252"), {"encoding": "cp1252"}, {"text": written(WORDS)}),
    "utf-16": ("a.csv", written(WIDE).encode("utf-16"), {"encoding": "utf-16"}, {"text": written(WIDE)}),
    "semicolons": ("a.txt", written(WIDE, delimiter=";").encode(), {"delimiter": ";"}, {"text": written(WIDE)}),
    "other columns in another order": (
        "a.csv",
        written([[row[7], row[1], row[0], row[3]] for row in WIDE], [" Note", "NAME", "Id ", "born"]).encode(),
        {},
        {"text": written([[row[7], row[1], row[0], row[3]] for row in WIDE], TURNED)},
    ),
    "no line break at the end": ("a.csv", written(WIDE).rstrip("\n").encode(), {}, {"text": written(WIDE)}),
    "empty lines": ("a.csv", ("\n\n" + written(PLAIN).replace("\n", "\n\n")).encode(), {}, {"text": written(PLAIN)}),
}


@pytest.fixture(scope="module")
def forms(rooms) -> tuple[Drops, dict[str, Record]]:
    """A table for each form, with a file of that form, all handled in one pass."""
    tables = {_table(form): {"csv": options} for form, (_, _, options, _) in FORMS.items()}
    drops = Drops.zone(rooms.environ, tables=tables)
    dropped = {}
    for form, (name, body, _, _) in FORMS.items():
        drops.schema(_table(form), *COLUMNS)
        dropped[form] = drops.drop("append", _table(form), name, body)
    drops.run()
    return drops, {form: drops.record(version) for form, version in dropped.items()}


def _table(form: str) -> str:
    return re.sub(r"\W", "_", form).lower()


@pytest.mark.parametrize("form", FORMS)
def test_every_value_of_a_text_arrives_as_the_csv_module_reads_it(forms, form):
    _, body, _, how = FORMS[form]
    drops, record = forms[0], forms[1][form]
    wanted = expected(how["text"], header=how.get("header", True))
    assert (record.status, record.error) == ("completed", None)
    found = drops.rows(_table(form), ", ".join(f'"{column}"' for column in NAMES_ONLY))
    assert len(found) == len(wanted) == record.rows_loaded
    for held, given in zip(found, wanted, strict=True):
        for column, one, other in zip(NAMES_ONLY, held, given, strict=True):
            assert one == other, (held[0], column)
    assert drops.original(record) == body


def test_files_of_all_forms_are_accounted_for(forms):
    forms[0].check_accounts(*map(_table, FORMS))


def parquet(table: pa.Table) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def test_every_value_of_a_parquet_file_arrives_as_pyarrow_reads_it(rooms):
    at = datetime.fromisoformat("2026-01-02T03:04:05.678901")
    table = pa.table(
        {
            "ID": pa.array([1, 2, 2**63 - 1], pa.int64()),
            "name": pa.array(["two\nlines", None, '  x,"y"  '], pa.string()).dictionary_encode(),
            "amount": pa.array([Decimal("0.10"), None, Decimal("-9999999999.99")], pa.decimal128(12, 2)),
            "born": pa.array([date(1, 1, 1), None, date(9999, 12, 31)], pa.date32()),
            "at": pa.array([at, None, at], pa.timestamp("us")),
            "ok": pa.array([True, None, False]),
            "ratio": pa.array([0.1, None, 1e-300], pa.float64()),
            "note": pa.array(["", None, "x" * 60000], pa.large_string()),
        }
    )
    drops = Drops.zone(rooms.environ)
    drops.schema("things", *COLUMNS)
    dropped = drops.drop("append", "things", "a.parquet", parquet(table))
    drops.run()
    record = drops.record(dropped)
    assert (record.status, record.error, record.rows_loaded) == ("completed", None, 3)
    held = drops.rows("things", ", ".join(f'"{column}"' for column in NAMES_ONLY))
    given = [tuple(row.values()) for row in table.to_pylist()]
    assert held == given
    drops.check_accounts("things")


def test_moments_with_a_zone_and_numbers_of_38_digits_keep_their_value(rooms):
    moments = ["2026-01-01T00:00:00Z", "2026-01-01 02:30:00.000001+02:30", "2025-12-31T18:30:00-0530", "2026-01-01"]
    moments += ["2026-01-01 00:00:00 UTC", "2026-01-01T00:00", "0001-01-02T00:00:00Z", "9999-12-30T23:59:59.999999Z"]
    numbers = ["9" * 28 + "." + "9" * 10, "-0.0000000001", "0", "1", "-" + "1" * 28, ".5", "5.", "+00001.10"]
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint", "at timestamptz", "n decimal(38,10)")
    lines = [f"{at},{moment},{number}\n" for at, (moment, number) in enumerate(zip(moments, numbers, strict=True))]
    text = drops.drop("append", "things", "a.csv", "".join(lines))
    wanted = [datetime.fromisoformat(moment.removesuffix(" UTC")) for moment in moments]
    wanted = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in wanted]
    values = [Decimal(number) for number in numbers]
    table = {
        "id": range(100, 108),
        "at": pa.array(wanted, pa.timestamp("us", "Europe/Berlin")),
        "n": pa.array(values, pa.decimal128(38, 10)),
    }
    typed = drops.drop("append", "things", "a.parquet", parquet(pa.table(table)))
    drops.run()
    assert [drops.record(version).error for version in (text, typed)] == [None, None]
    held = list(zip(wanted, values, strict=True))
    assert [row[1:] for row in drops.rows("things", "id, at, n")] == held * 2
    drops.check_accounts("things")


def test_a_file_of_many_batches_is_read_to_its_end(rooms):
    rows = 50_000
    lines = [f"{number},name {number}" if number % 1000 else f"{number},{'x' * 101}" for number in range(rows)]
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint", "name varchar(100)")
    dropped = drops.drop("append", "things", "a.csv", "\n".join(["id,name", *lines]))
    drops.run()
    record = drops.record(dropped)
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (rows, rows - 50, 50)
    found = drops.ask(f"SELECT COUNT(*), COUNT(DISTINCT id), SUM(id) FROM {drops.table('things')}")
    good = [number for number in range(rows) if number % 1000]
    assert found == [(len(good), len(good), sum(good))]
    bad = drops.discarded(record)
    assert [row["_line"] for row in bad] == [number + 2 for number in range(0, rows, 1000)]
    assert {row["name"] for row in bad} == {"x" * 101}
    drops.check_accounts("things")


# --- accounts --------------------------------------------------------------------------------------------------------

MIXED = (
    b"id,name,amount,born\n"  # 1
    b"1,fits,1.00,2026-01-01\n"  # 2
    b"x,no number,1.00,2026-01-01\n"  # 3
    b"3,too many digits,1.001,2026-01-01\n"  # 4
    b"4,no such day,1.00,2026-02-30\n"  # 5
    b"5,too,many,fields,here\n"  # 6
    b"6\n"  # 7
    b'7,"two\nlines",1.00,2026-01-01\n'  # 8, 9
    b'8,"wrong" quote,1.00,2026-01-01\n'  # 10
    b"9,not \xff utf-8,1.00,2026-01-01\n"  # 11
    b",no id,1.00,2026-01-01\n"  # 12
    b"11,this is far too long for it,1e3,01.02.2026\n"  # 13
    b"9223372036854775808,too large,1.00,2026-01-01\n"  # 14
    b"13,fits,,\n"  # 15
)
BAD = {
    3: ["id is no bigint"],
    4: ["amount is no decimal(12,2)"],
    5: ["born is no date"],
    6: ["has 5 fields, not 4"],
    7: ["has 1 fields, not 4"],
    10: ["is not well-formed: ',' expected after '\"'"],
    11: ["is not utf-8: it has the byte 0xFF"],
    12: ["id is missing"],
    13: ["name is no varchar(20)", "amount is no decimal(12,2)", "born is no date"],
    14: ["id is no bigint"],
}
FOUR = ("id bigint", "name varchar(20)", "amount decimal(12,2)", "born date")


def test_rows_that_do_not_fit_lie_in_discarded_with_their_line_and_all_of_their_reasons(rooms):
    drops = Drops.zone(rooms.environ, discard_limit=0.9)
    drops.schema("things", *FOUR, required=["id"])
    dropped = drops.drop("append", "things", "a.csv", MIXED)
    drops.run()
    record = drops.record(dropped)
    assert record.status == "completed"
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (13, 3, 10)
    assert record.error == "10 of 13 rows were discarded; the first: line 3: id is no bigint"
    assert drops.rows("things", "id, name, amount, born") == [
        (1, "fits", Decimal("1.00"), date(2026, 1, 1)),
        (7, "two\nlines", Decimal("1.00"), date(2026, 1, 1)),
        (13, "fits", None, None),
    ]
    found = {row["_line"]: row for row in drops.discarded(record)}
    assert {line: row["_reasons"] for line, row in found.items()} == BAD
    lines = MIXED.decode("utf-8", "surrogateescape").split("\n")
    for line, row in found.items():
        assert row["_file"] == "a.csv"
        whole = lines[line - 1].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if row["_raw"] is None:  # it could be cut into columns
            texts = [row[name] or "" for name in ("id", "name", "amount", "born")]
            assert ",".join(texts) == whole
        else:
            assert row["_raw"] == whole
    details = drops.report(record)["result"]["details"]
    assert sum(details["reasons"].values()) == 12  # line 13 has three
    assert details["discarded"].startswith(f"s3://{drops.bucket}/discarded/{drops.database}/append/things/")
    drops.check_accounts("things")


def test_a_handled_file_lies_in_processed_beside_its_report_and_nothing_is_lost(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    schema = drops.schema("things", "id bigint")
    body = b"id\n1\n2\nx\n" + b"".join(b"%d\n" % number for number in range(3, 20))
    dropped = drops.drop("append", "things", "a.csv", body)
    drops.run(run_id="run-7")
    record = drops.record(dropped)
    facts = {name: getattr(record, name) for name in NAMES}
    assert [name for name, value in facts.items() if value is None] == []
    stamp = f"{dropped.landed_at:%Y%m%dT%H%M%S}-{dropped.file_id[:12]}"
    folder = f"processed/{drops.database}/append/things/{stamp}/"
    assert drops.keys("processed/" + drops.database + "/append") == [f"{folder}a.csv", f"{folder}report.json"]
    assert record.moved_to == f"s3://{drops.bucket}/{folder}a.csv"
    assert record.report == f"s3://{drops.bucket}/{folder}report.json"
    assert drops.original(record) == body
    assert (record.table, record.action, record.run_id) == (f"{drops.database}.things", "append", "run-7")
    assert (record.key, record.etag, record.size) == (dropped.key, dropped.etag, len(body))
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (20, 19, 1)
    report = drops.report(record)
    assert report["file"] == dropped.url
    assert report["now_at"] == record.moved_to
    assert report["run_id"] == "run-7"
    assert report["result"]["details"]["reasons"] == {"id is no bigint": 1}
    [entry] = drops.ledger("things")
    assert (entry["file_id"], entry["action"], entry["file_name"]) == (dropped.file_id, "append", "a.csv")
    assert (entry["content"], entry["rows_loaded"]) == (record.content, 19)
    assert drops.keys(drops.database) == []
    assert not [key for key in drops.keys("staging/") if key.endswith("original")]
    assert drops.record(schema).moved_to.startswith(f"s3://{drops.bucket}/processed/{drops.database}/schema/things/")
    drops.check_accounts("things")


def test_many_files_of_several_tables_are_loaded_in_one_pass(rooms):
    drops = Drops.zone(rooms.environ)
    for table in ("one", "two", "three"):
        drops.schema(table, "id bigint", "file varchar(40)")
        for number in range(9):
            body = "".join(f"{row},{table}-{number}\n" for row in range(number + 1))
            drops.drop("append", table, f"{number}.csv", body)
    results = drops.run()
    assert len(results) == 30
    assert {record.status for record, _ in results} == {"completed"}
    for table in ("one", "two", "three"):
        found = drops.ask(f"SELECT file, COUNT(*) FROM {drops.table(table)} GROUP BY file ORDER BY file")
        assert found == [(f"{table}-{number}", number + 1) for number in range(9)]
    drops.check_accounts("one", "two", "three")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_an_appended_row_takes_the_place_of_that_of_its_key(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "area bigint", "id varchar(20)", "name varchar(20)", keys=["id", "area"])
    drops.drop("append", "things", "a.csv", "1,a,old\n1,b,old\n2,a,old\n")
    drops.run()
    drops.later()
    drops.drop("append", "things", "b.csv", "name,id,area\nnew,a,1\nnew,c,1\n")
    drops.run()
    assert drops.rows("things", "area, id, name") == [
        (1, "a", "new"),
        (1, "b", "old"),
        (1, "c", "new"),
        (2, "a", "old"),
    ]
    drops.check_accounts("things", keyed=True)


def test_of_a_key_that_comes_again_in_a_file_the_last_row_stays_and_the_others_are_discarded(rooms):
    drops = Drops.zone(rooms.environ, discard_limit=0.8)
    drops.schema("things", "id bigint", "name varchar(20)", "born date", keys=["id"])
    rows = ["1,first,2026-01-01", "2,only,", "1,second,", "x,bad,", "1,third,2026-03-03", "3,twice,", "3,twice,"]
    dropped = drops.drop("append", "things", "a.csv", "\n".join(rows))
    drops.run()
    record = drops.record(dropped)
    assert drops.rows("things", "id, name, born") == [
        (1, "third", date(2026, 3, 3)),
        (2, "only", None),
        (3, "twice", None),
    ]
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (7, 3, 4)
    found = drops.discarded(record)
    assert [(row["_line"], row["_reasons"]) for row in sorted(found, key=lambda row: row["_line"])] == [
        (1, ["key is repeated by a later row"]),
        (3, ["key is repeated by a later row"]),
        (4, ["id is no bigint"]),
        (6, ["key is repeated by a later row"]),
    ]
    [first] = [row for row in found if row["_line"] == 1]
    assert (first["id"], first["name"], first["born"]) == ("1", "first", "2026-01-01")
    assert record.error == "4 of 7 rows were discarded; the first: line 1: key is repeated by a later row"
    drops.check_accounts("things", keyed=True)


def test_a_key_without_a_value_is_discarded(rooms):
    drops = Drops.zone(rooms.environ, discard_limit=0.5)
    drops.schema("things", "id varchar(5)", "n bigint", keys=["id", "n"])
    dropped = drops.drop("append", "things", "a.csv", "id,n\n\\N,1\na,\n,1\nb,1\n")
    drops.run()
    assert [row["_reasons"] for row in drops.discarded(drops.record(dropped))] == [["id is missing"], ["n is missing"]]
    assert drops.rows("things", "id, n") == [("", 1), ("b", 1)]


def test_keys_that_differ_in_trailing_blanks_or_case_are_different_keys(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id varchar(10)", "n bigint", keys=["id"])
    drops.drop("append", "things", "a.csv", "a,1\na ,2\na  ,3\nA,4\n")
    drops.run()
    drops.later()
    drops.drop("append", "things", "b.csv", "a ,5\n a,6\n")
    drops.run()
    assert set(drops.rows("things", "id, n")) == {(" a", 6), ("A", 4), ("a", 1), ("a  ", 3), ("a ", 5)}
    drops.check_accounts("things", keyed=True)


# --- the same again --------------------------------------------------------------------------------------------------


def test_the_same_bytes_under_the_same_name_are_refused_until_a_truncate_came_between(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.drop("append", "things", "a.csv", "1\n2\n")
    drops.run()
    first = next(record for record in drops.records("things") if record.action == "append")
    drops.later()
    again = drops.drop("append", "things", "a.csv", "1\n2\n")
    drops.run()
    record = drops.record(again)
    assert (record.status, record.rows_read, record.rows_loaded) == ("rejected", 2, 0)
    assert record.error == (
        f"a.csv was loaded already: {first.file_id} has its name and its bytes. "
        "Drop it under another name if its rows are meant to be there twice."
    )
    assert drops.original(record) == b"1\n2\n"
    other = drops.drop("append", "things", "b.csv", "1\n2\n")
    drops.run()
    assert drops.record(other).status == "completed"
    assert drops.rows("things", "id") == [(1,), (1,), (2,), (2,)]
    drops.later()
    drops.drop("truncate", "things", "t.csv", "9\n")
    drops.run()
    drops.later()
    after = drops.drop("append", "things", "a.csv", "1\n2\n")
    drops.run()
    assert drops.record(after).status == "completed"
    assert drops.rows("things", "id") == [(1,), (2,), (9,)]
    drops.check_accounts("things")


def test_the_same_file_in_two_versions_that_are_handled_together_is_loaded_once(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint")
    drops.run()
    one = drops.drop("append", "things", "a.csv", "1\n2\n", landed_at=day(1))
    two = drops.drop("append", "things", "a.csv", "1\n2\n", landed_at=day(2))
    first, second = drops.settled(one, two)
    assert (first.status, second.status) == ("completed", "rejected")
    assert first.file_id in second.error
    assert drops.rows("things", "id") == [(1,), (2,)]
    drops.check_accounts("things")


def test_a_table_with_keys_takes_the_same_file_again(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "n bigint", keys=["id"])
    drops.run()
    versions = [
        drops.drop("append", "things", "a.csv", body, landed_at=day(at))
        for at, body in enumerate(["1,1\n2,1\n", "1,2\n", "1,1\n2,1\n"])
    ]
    for version in versions:
        assert drops.one(version).status == "completed"
    assert drops.rows("things", "id, n") == [(1, 1), (2, 1)]


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_two_versions_of_a_key_are_both_handled_in_their_order(rooms, together):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "n bigint", keys=["id"])
    drops.run()
    old = drops.drop("append", "things", "a.csv", "1,1\n2,1\n", landed_at=day(1))
    new = drops.drop("append", "things", "a.csv", "1,2\n", landed_at=day(2))
    assert old.file_id != new.file_id
    if together:
        drops.handle(new, old)
    else:
        drops.handle(new)
        drops.handle(old)
    records = [drops.record(old), drops.record(new)]
    assert [record.status for record in records] == ["completed", "completed"]
    assert [record.version_id for record in records] == [old.version_id, new.version_id]
    assert drops.rows("things", "id, n") == [(1, 2), (2, 1)]
    assert drops.original(drops.record(old)) == b"1,1\n2,1\n"
    assert drops.original(drops.record(new)) == b"1,2\n"
    drops.check_accounts("things", keyed=True)


def test_a_sweep_finds_the_older_version_once_the_newer_one_is_handled(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint")
    drops.run()
    old = drops.drop("append", "things", "a.csv", "1\n")
    new = drops.drop("append", "things", "a.csv", "2\n")
    assert [record.file_id for record, _ in drops.run()] == [new.file_id]
    assert [record.file_id for record, _ in drops.run()] == [old.file_id]
    assert drops.run() == []
    assert drops.rows("things", "id") == [(1,), (2,)]
    drops.check_accounts("things")


def test_of_a_file_that_was_overwritten_before_anybody_saw_it_only_the_new_one_is_loaded(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.drop("append", "things", "a.csv", "1\n")
    drops.drop("append", "things", "a.csv", "2\n")
    drops.run()
    assert drops.rows("things", "id") == [(2,)]
    drops.check_accounts("things")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_claimed_file_that_was_overwritten_or_deleted_is_refused_and_what_replaced_it_is_loaded(rooms, replaced):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    old = drops.drop("append", "things", "a.csv", "1\n")
    claimed = drops.claim(old)
    if replaced:
        drops.drop("append", "things", "a.csv", "2\n")
    else:
        drops.s3.delete_object(Bucket=drops.bucket, Key=old.key)
    drops.work(claimed)
    record = drops.record(old)
    assert (record.status, record.rows_loaded, record.moved_to) == ("rejected", 0, None)
    assert record.error == (
        f"s3://{drops.bucket}/{old.key} was deleted or replaced before it could be read. "
        "Nothing was loaded. What replaced it is handled as a file of its own."
    )
    drops.run()
    assert drops.rows("things", "id") == ([(2,)] if replaced else [])
    drops.check_accounts("things")


def test_a_file_that_is_overwritten_while_it_is_worked_on_is_loaded_as_it_was_and_the_new_one_too(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    old = drops.drop("append", "things", "a.csv", "1\n")
    new = []

    def overwrite(works: Sequence[Work], kept: Keeper) -> None:
        for work in works:
            kept.keep(work)
        new.append(drops.drop("append", "things", "a.csv", "2\n"))

    drops.receiver = Meddled(drops.receiver, overwrite)
    drops.handle(old)
    drops.receiver = drops.receiver.inner
    assert drops.keys(old.key) == [old.key]  # the new one was not deleted with the old one
    drops.run()
    assert drops.rows("things", "id") == [(1,), (2,)]
    assert [drops.original(drops.record(version)) for version in (old, *new)] == [b"1\n", b"2\n"]
    drops.check_accounts("things")


class Meddled:
    """A receiver before whose work something happens."""

    def __init__(self, inner: Any, before: Any) -> None:
        self.inner = inner
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def work(self, works: Sequence[Work], kept: Keeper) -> Iterator[tuple[Work, Result]]:
        self._before(works, kept)
        yield from self.inner.work(works, kept)


# --- order -----------------------------------------------------------------------------------------------------------


def made_of(files: Sequence[tuple[str, list[tuple[int, int]]]], *, keyed: bool) -> list[tuple[int, int]]:
    """What a table is after some files, by the plainest means."""
    rows: list[tuple[int, int]] = []
    for action, brought in files:
        if action == "truncate":
            rows = []
        if keyed:
            coming = dict(brought)
            rows = [row for row in rows if row[0] not in coming]
        rows += brought
    return sorted(rows)


SETS = {"appends only": "aaaaa", "a truncate in the middle": "aataa", "several truncates": "ataatta"}


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("actions", SETS)
def test_a_table_is_the_same_whatever_the_order_and_grouping_its_files_are_handled_in(rooms, actions, keyed):
    draw = random.Random(f"{actions} {keyed}")
    names = {"a": "append", "t": "truncate"}
    files = [
        (names[letter], [(key, 100 * at + key) for key in draw.sample(range(1, 7), 3)])
        for at, letter in enumerate(SETS[actions])
    ]
    wanted = made_of(files, keyed=keyed)
    for _ in range(2):
        drops = Drops.zone(rooms.environ, versioned=True)
        drops.schema("things", "id bigint", "n bigint", **({"keys": ["id"]} if keyed else {}))
        drops.run()
        versions = [
            drops.drop(action, "things", f"{at}.csv", written(rows, ("id", "n")), landed_at=day(at))
            for at, (action, rows) in enumerate(files)
        ]
        draw.shuffle(versions)
        left = list(versions)
        while left:
            count = draw.randint(1, 3)
            drops.handle(*left[:count])
            left = left[count:]
        assert drops.rows("things", "id, n") == wanted, [version.name for version in versions]
        assert {record.status for record in drops.all_records()} <= {"completed", "rejected"}
        for record in drops.all_records():
            if record.status == "rejected":
                assert record.error == (
                    f"{record.file_name} landed before a file that has replaced the whole table. "
                    "Drop it again if it is meant."
                )
        drops.check_accounts("things", keyed=keyed)


def test_a_late_file_of_a_table_with_keys_goes_below_those_that_landed_after_it(rooms):
    drops = Drops.zone(rooms.environ, versioned=True)
    drops.schema("things", "id bigint", "n bigint", keys=["id"])
    drops.run()
    late = drops.drop("append", "things", "1.csv", "1,1\n2,1\n3,1\n", landed_at=day(1))
    newer = [
        drops.drop("append", "things", "2.csv", "1,2\n2,2\n", landed_at=day(2)),
        drops.drop("append", "things", "3.csv", "1,3\n", landed_at=day(3)),
    ]
    drops.handle(*newer)
    record = drops.one(late)
    assert drops.rows("things", "id, n") == [(1, 3), (2, 2), (3, 1)]
    assert drops.report(record)["result"]["details"]["loaded again after it"] == [one.file_id for one in newer]
    drops.check_accounts("things", keyed=True)


# --- two workers -----------------------------------------------------------------------------------------------------


def both(one: Any, other: Any) -> None:
    """Do two things at once."""
    failed: list[BaseException] = []

    def kept(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=kept, args=(work,)) for work in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_two_workers_at_once_load_each_file_once(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    for number in range(24):
        drops.drop("append", "things", f"{number}.csv", f"{number}\n")
    other = Drops(drops.environ, drops.spec)
    both(drops.run, other.run)
    drops.run()
    records = drops.all_records()
    assert len(records) == 25
    assert {(record.status, record.attempts) for record in records} == {("completed", 1)}
    assert drops.rows("things", "id") == [(number,) for number in range(24)]
    drops.check_accounts("things")


@pytest.mark.parametrize("faster", ["the first", "the second", "both at once"])
def test_a_worker_that_lost_its_lease_and_goes_on_all_the_same_does_no_harm(rooms, faster):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    dropped = [drops.drop("append", "things", f"{number}.csv", f"{number}\n") for number in range(3)]
    other = Drops(drops.environ, drops.spec)
    claimed: list[Record] = []
    waiting = threading.Thread(target=lambda: other.work(claimed))

    def meanwhile(_: Sequence[Work], kept: Keeper) -> None:
        drops.expire(*dropped)
        claimed.extend(other.sweep())
        if faster == "the second":
            other.work(claimed)
        elif faster == "both at once":
            waiting.start()

    drops.receiver = Meddled(drops.receiver, meanwhile)
    assert drops.run() == []  # all were taken over
    if faster == "the first":
        other.work(claimed)
    elif faster == "both at once":
        waiting.join()
    assert {(record.status, record.attempts) for record in map(drops.record, dropped)} == {("completed", 2)}
    assert drops.rows("things", "id") == [(0,), (1,), (2,)]
    assert len([text for text in drops.said if "was taken over by another worker" in text]) == 3
    drops.check_accounts("things")


def test_a_worker_that_claimed_and_never_began_leaves_its_files_to_the_next_sweep(rooms):
    drops = Drops.zone(rooms.environ, lease=timedelta(milliseconds=1))
    drops.schema("things", "id bigint")
    dropped = drops.drop("append", "things", "a.csv", "1\n")
    lost = drops.sweep()
    assert len(lost) == 2
    time.sleep(0.01)
    other = Drops(drops.environ, drops.spec)
    assert len(other.run()) == 2
    assert drops.work(lost) == []  # it wakes up too late
    assert drops.rows("things", "id") == [(1,)]
    assert drops.record(dropped).attempts == 1
    drops.check_accounts("things")
