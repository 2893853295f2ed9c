"""Files that are at fault: each is refused with a record that says why, nothing is lost, and all others are loaded.

All of them are dropped together with good ones and handled in one pass, as a bad day would have it.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dropping import Drops
from rooms import PACKAGE

from rds_lake.audit_log.record import Record
from rds_lake.errors import TransientError
from rds_lake.files.check import Checked, Checker
from rds_lake.files.keeper import Keeper
from rds_lake.files.read import Texts
from rds_lake.files.version import FileVersion
from rds_lake.files.work import ATTEMPTS, Result, Work

GOOD = "id,name\n1,a\n2,b\n"


def parquet(columns: Mapping[str, Any]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(list(columns.values()), names=list(columns)), target)
    return target.getvalue()


def archive() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a.csv", GOOD)
    return target.getvalue()


def bomb(line: bytes) -> bytes:
    """A thousand megabytes of a line, packed: one block, made once, a thousand times in one gzip member."""
    piece = line * (1024 * 1024 // len(line))
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(1000):
        crc = zlib.crc32(piece, crc)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + block * 1000 + packer.flush() + struct.pack("<II", crc, 1000 * len(piece))


def noise(*, zeros: bool) -> bytes:
    draw = random.Random(1)
    return b"\xff" + bytes(draw.randrange(0 if zeros else 1, 256) for _ in range(5000))


PACKED = gzip.compress(("id,name\n" + "2,b\n" * 5000).encode(), mtime=0)
DRAW = random.Random(2)
NUMBERS = parquet({"id": [DRAW.randrange(10**9) for _ in range(10_000)]})

NOT_FIT = "Correct the file, or the schema; all such rows lie in discarded/ with their reasons."
FORM = "Its key must be {db}/append|truncate|schema/<table>/<file>."
NAME = "A table's name has letters, digits and _, up to 127 of them, and begins with a letter."
LONG = "t" * 128
HEADER = "Correct the header, or drop a schema file that adds the column. If it is a row: say 'header: absent'."
FIRST = (
    "It is the one that may name the columns. "
    "Correct it, or say 'header: absent' in the YAML if these files have no header."
)
TEXT = "Drop text, plain or packed with gzip."
QUOTE = "Close it, or double the quotes inside of fields."

FILES: dict[str, tuple[str | bytes, str]] = {
    # below append/things/: what is in it, and what its record says
    "empty.csv": (b"", "empty.csv is empty. Drop a file with rows."),
    "mark.csv": (b"\xef\xbb\xbf", "mark.csv is empty. Drop a file with rows."),
    "blank.csv": (b"\n\r\n\n", "blank.csv is empty. Drop a file with rows."),
    "empty.csv.gz": (gzip.compress(b""), "empty.csv.gz is empty. Drop a file with rows."),
    "header.csv": ("id,name\n", "header.csv has no rows, only a header. Drop a file with rows."),
    "wide.csv": (
        "1,a,x\n2,b,y\n",
        (
            "2 of 2 rows of wide.csv do not fit, more than the 10% that may be discarded. "
            f"The first: line 1: has 3 fields, not 2. {NOT_FIT}"
        ),
    ),
    "narrow.csv": (
        "id,name\n1\n2\n",
        (
            "2 of 2 rows of narrow.csv do not fit, more than the 10% that may be discarded. "
            f"The first: line 2: has 1 fields, not 2. {NOT_FIT}"
        ),
    ),
    "semicolons.csv": (
        "1;a\n2;b\n",
        (
            "2 of 2 rows of semicolons.csv do not fit, more than the 10% that may be discarded. "
            "The first: line 1: has 1 fields, not 2; its fields seem to be separated by ';', which 'delimiter' has to "
            f"say. {NOT_FIT}"
        ),
    ),
    "unknown.csv": (
        "id,surname\n1,a\n",
        (
            "The first row of unknown.csv looks like a header, but names the column 'surname', "
            f"which the table does not have (it has id, name). {HEADER}"
        ),
    ),
    "more.csv": (
        "id,name,x\n1,a,2\n",
        (
            "The first row of more.csv looks like a header, but names the column 'x', "
            f"which the table does not have (it has id, name). {HEADER}"
        ),
    ),
    "twice.csv": ("id,ID\n1,2\n", "twice.csv names the column 'id' twice. Name each column once."),
    "utf16.csv": (GOOD.encode("utf-16"), "utf16.csv is UTF-16, not utf-8. Say 'encoding: utf-16' in the YAML."),
    "utf16le.csv": (GOOD.encode("utf-16-le"), f"utf16le.csv is not text: it has NUL bytes. {TEXT}"),
    "latin.csv": (
        "id,name\n1,ä\n2,b\n".encode("latin-1"),
        (
            "1 of 2 rows of latin.csv do not fit, more than the 10% that may be discarded. "
            f"The first: line 2: is not utf-8: it has the byte 0xE4. {NOT_FIT}"
        ),
    ),
    "latin-first.csv": (
        "1,ä\n".encode("latin-1"),
        f"latin-first.csv, line 1, is not utf-8: it has the byte 0xE4. {FIRST}",
    ),
    "line.csv": (
        b"x" * 50_000_000,
        (
            "line.csv, line 1, is longer than 4 MB, which no row may be. "
            "Is it text with line breaks? Redshift takes rows of 4 MB."
        ),
    ),
    "open.csv": (
        '1,a\n2,"b\n' + "3,c\n" * 10,
        f"open.csv, line 2: a quoted field begins there and never ends. {QUOTE}",
    ),
    "open-large.csv": (
        '1,a\n2,"b\n' + "3,c\n" * 1_200_000,
        f"open-large.csv, line 2: a quoted field begins there and never ends. {QUOTE}",
    ),
    "bomb.csv.gz": (
        bomb(b"\n"),
        (
            "bomb.csv.gz unpacks to more than 250 times its {size:,} bytes, as no text does. "
            "If it is none that is meant to fill the disk, drop it unpacked."
        ),
    ),
    "bomb1.csv.gz": (
        bomb(b"1\n"),
        (
            "bomb1.csv.gz unpacks to more than 250 times its {size:,} bytes, as no text does. "
            "If it is none that is meant to fill the disk, drop it unpacked."
        ),
    ),
    "noise.csv": (noise(zeros=True), f"noise.csv is not text: it has NUL bytes. {TEXT}"),
    "noise2.csv": (
        noise(zeros=False),
        f"noise2.csv, line 1, is not utf-8: it has the byte 0xFF. {FIRST}",
    ),
    "archive.csv": (archive(), f"archive.csv is a zip archive, not text. {TEXT}"),
    "book.xlsx": (archive(), f"book.xlsx is a zip archive, not text. {TEXT}"),
    "letter.csv": (b"%PDF-1.7\n%\xe2\xe3", f"letter.csv is a PDF document, not text. {TEXT}"),
    "a.csv.bz2": (bz2.compress(GOOD.encode()), f"a.csv.bz2 is packed with bzip2, not text. {TEXT}"),
    "a.csv.xz": (lzma.compress(GOOD.encode()), f"a.csv.xz is packed with xz, not text. {TEXT}"),
    "a.csv.zst": (b"\x28\xb5\x2f\xfd1234", f"a.csv.zst is packed with zstd, not text. {TEXT}"),
    "parquet.csv": (NUMBERS, f"parquet.csv is a Parquet file, not text. {TEXT}"),
    "twice.csv.gz": (gzip.compress(PACKED), f"twice.csv.gz is not text: it has NUL bytes. {TEXT}"),
    "cut.csv.gz": (
        PACKED[:-20],
        (
            "cut.csv.gz cannot be unpacked: Compressed file ended before the end-of-stream marker was reached. "
            "Pack it again with gzip."
        ),
    ),
    "sum.csv.gz": (
        PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:],
        "sum.csv.gz cannot be unpacked: CRC check failed 0x0 != 0x3521252d. Pack it again with gzip.",
    ),
    "no.parquet": (
        GOOD,
        (
            "no.parquet is no Parquet file: Parquet magic bytes not found in footer. "
            "Either the file is corrupted or this is not a parquet file. Write it again."
        ),
    ),
    "cut.parquet": (
        NUMBERS[:-500],
        (
            "cut.parquet is no Parquet file: Parquet magic bytes not found in footer. "
            "Either the file is corrupted or this is not a parquet file. Write it again."
        ),
    ),
    "damaged.parquet": (
        NUMBERS[:1000] + b"\0" * 3000 + NUMBERS[4000:],
        "damaged.parquet is damaged: Corrupt snappy compressed data. Write it again.",
    ),
    "nested.parquet": (
        parquet({"id": [1], "name": [[1]]}),
        "nested.parquet: the column name is list<element: int64>, which no column can take. Write it as text.",
    ),
    "case.parquet": (
        parquet({"id": [1], "ID": [2]}),
        "case.parquet has two columns whose names differ in case only. Rename one of them.",
    ),
    "more.parquet": (
        parquet({"id": [1], "x": [2]}),
        (
            "more.parquet names the column 'x', which the table does not have (it has id, name). "
            "Write the file without it or under its right name, or drop a schema file that adds the column."
        ),
    ),
    "none.parquet": (
        parquet({"id": pa.array([], pa.int64())}),
        "none.parquet has no rows, only a header. Drop a file with rows.",
    ),
    "page.csv": (
        "<html><body>502, Bad Gateway</body></html>\n",
        (
            "1 of 1 rows of page.csv do not fit, more than the 10% that may be discarded. "
            f"The first: line 1: id is no bigint; name is no varchar(20). {NOT_FIT}"
        ),
    ),
    "zeros.csv": (GOOD.encode() + b"\0" * 9000, f"zeros.csv is not text: it has NUL bytes. {TEXT}"),
    "late-zeros.csv": (
        "id,name\n" + "1,a\n" * 5000 + "2,b\0\n" * 5000,
        (
            "5,000 of 10,000 rows of late-zeros.csv do not fit, more than the 10% that may be discarded. "
            f"The first: line 5,002: name is no varchar(20). {NOT_FIT}"
        ),
    ),
}

KEYS: dict[str, str] = {
    # below the database: what the record says of a file there
    "x.csv": "s3://{bucket}/{db}/x.csv has 2 parts in its key, not 4. " + FORM,
    "append/x.csv": "s3://{bucket}/{db}/append/x.csv has 3 parts in its key, not 4. " + FORM,
    "append/things/deep/x.csv": "s3://{bucket}/{db}/append/things/deep/x.csv has 5 parts in its key, not 4. " + FORM,
    "append/things/../x.csv": "s3://{bucket}/{db}/append/things/../x.csv has 5 parts in its key, not 4. " + FORM,
    "append/things//x.csv": "s3://{bucket}/{db}/append/things//x.csv has 5 parts in its key, not 4. " + FORM,
    "/append/things/x.csv": "s3://{bucket}/{db}//append/things/x.csv has 5 parts in its key, not 4. " + FORM,
    "append//x.csv": "s3://{bucket}/{db}/append//x.csv names the table '', which is no name for one. " + NAME,
    "append/../x.csv": "s3://{bucket}/{db}/append/../x.csv names the table '..', which is no name for one. " + NAME,
    "append/th-ings/x.csv": (
        "s3://{bucket}/{db}/append/th-ings/x.csv names the table 'th-ings', which is no name for one. " + NAME
    ),
    "append/1t/x.csv": "s3://{bucket}/{db}/append/1t/x.csv names the table '1t', which is no name for one. " + NAME,
    f"append/{LONG}/x.csv": (
        f"s3://{{bucket}}/{{db}}/append/{LONG}/x.csv names the table '{LONG}', which is no name for one. " + NAME
    ),
    "upsert/things/x.csv": "s3://{bucket}/{db}/upsert/things/x.csv names the unknown action 'upsert'. " + FORM,
    "Append/things/x.csv": "s3://{bucket}/{db}/Append/things/x.csv names the unknown action 'Append'. " + FORM,
    "schema/x.json": "s3://{bucket}/{db}/schema/x.json has 3 parts in its key, not 4. " + FORM,
    "append/nothing/x.csv": (
        "The table {db}.nothing is unknown: it has no schema. "
        "Drop a schema file into {db}/schema/nothing/ first, then this file again."
    ),
    "truncate/nothing/x.csv": (
        "The table {db}.nothing is unknown: it has no schema. "
        "Drop a schema file into {db}/schema/nothing/ first, then this file again."
    ),
}

DOCS = "docs/table-schema.json describes it."
SCHEMAS: dict[str, tuple[str | bytes, str]] = {
    # the table: the schema file, and what its record says
    "no_json": (
        "id bigint",
        "s.json is not JSON: Expecting value: line 1 column 1 (char 0). See docs/files.md for an example.",
    ),
    "no_text": (
        b"\xff\xfe{\0}\0",
        (
            "s.json is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte. "
            "See docs/files.md for an example."
        ),
    ),
    "deep": (
        "[" * 100_000,
        (
            "s.json is not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string. "
            "See docs/files.md for an example."
        ),
    ),
    "number": (
        "3",
        f"s.json is no schema of a table: Input should be a valid dictionary or instance of TableSchema. {DOCS}",
    ),
    "no_columns": (
        '{"columns": []}',
        f"s.json is no schema of a table: columns: Tuple should have at least 1 item after validation, not 0. {DOCS}",
    ),
    "type": (
        '[{"name": "a", "type": "int"}, {"name": "id", "type": "uuid"}]',
        (
            "s.json is no schema of a table: columns[1].type: 'uuid' is no type; there are smallint, integer, bigint, "
            "decimal(p,s), real, double precision, boolean, date, timestamp, timestamptz, varchar(n) with n in bytes, "
            f"text. {DOCS}"
        ),
    ),
    "system": (
        '[{"name": "a", "type": "int"}, {"name": "xmin", "type": "int"}]',
        (
            "s.json is no schema of a table: columns[1].name: 'xmin' is a name that the system keeps for itself: "
            f"choose another one. {DOCS}"
        ),
    ),
    "ours": (
        '[{"name": "a", "type": "int"}, {"name": "_LINE", "type": "int"}]',
        (
            "s.json is no schema of a table: columns[1].name: '_line' is a name that the system keeps for itself: "
            f"choose another one. {DOCS}"
        ),
    ),
    "twice": (
        '[{"name": "a", "type": "int"}, {"name": "A", "type": "int"}]',
        (
            "s.json is no schema of a table: two columns are called 'a' (upper and lower case are the same to "
            f"Redshift). {DOCS}"
        ),
    ),
    "keys": (
        '{"columns": [{"name": "a", "type": "int"}], "keys": ["b"]}',
        f"s.json is no schema of a table: keys names 'b', which is none of the columns. {DOCS}",
    ),
    "operations": (
        '{"columns": [{"name": "a", "type": "int"}], "allowed_operations": ["append", "delete"]}',
        (
            "s.json is no schema of a table: allowed_operations[1]: "
            f"Input should be 'append', 'truncate' or 'schema'. {DOCS}"
        ),
    ),
    "large": (b" " * (4 * 1024 * 1024 + 1), "s.json is larger than 4,194,304 bytes. Is it a schema file?"),
}

FINE = (
    "a b.csv",
    "ä美🙂.csv",
    "100%25%.csv",
    "a+b c.csv",
    "a#b?c&d=e;f.csv",
    "a\\b'\"<>`.csv",
    "\x01\x7f.csv",
    "..",
    ".",
    "report.json",
    "no-extension",
)


@dataclass(frozen=True)
class Pass:
    """What a bad day came to."""

    drops: Drops
    dropped: Mapping[str, FileVersion]
    records: Mapping[str, Record]
    bodies: Mapping[str, bytes]

    def told(self, text: str, name: str) -> str:
        """An error's text with the names of this pass."""
        drops = self.drops
        return text.format(bucket=drops.bucket, db=drops.database, size=self.dropped[name].size)


@pytest.fixture(scope="module")
def bad_day(rooms) -> Pass:
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint", "name varchar(20)")
    drops.run()
    bodies: dict[str, bytes] = {}
    keys = {f"append/things/{name}": body for name, (body, _) in FILES.items()}
    keys |= {key: f"1,{number}\n" for number, key in enumerate(KEYS)}
    keys |= {f"schema/{table}/s.json": body for table, (body, _) in SCHEMAS.items()}
    keys |= {f"append/things/{name}": f"{number},fine\n" for number, name in enumerate(FINE)}
    keys["append/things/" + longest(drops)] = f"{len(FINE)},fine\n"
    dropped = {}
    for key, body in keys.items():
        bodies[key] = body.encode() if isinstance(body, str) else body
        dropped[key] = drops.put(f"{drops.database}/{key}", bodies[key])
    drops.run()
    known = {record.file_id: record for record in drops.all_records()}
    records = {key: known[version.file_id] for key, version in dropped.items()}
    return Pass(drops, dropped, records, bodies)


def longest(drops: Drops) -> str:
    """A name that makes a key of 1,024 bytes."""
    rest = 1024 - len(f"{drops.database}/append/things/.csv")
    return "ä" * (rest // 2) + "n" * (rest % 2) + ".csv"


def check_refused(day: Pass, key: str, error: str) -> None:
    record, drops = day.records[key], day.drops
    assert record.error == day.told(error, key)
    assert (record.status, record.rows_loaded, record.attempts) == ("rejected", 0, 1)
    assert record.report.startswith(f"s3://{drops.bucket}/failed/")
    assert drops.original(record) == day.bodies[key]
    assert drops.report(record)["result"]["error"] == record.error
    if record.rows_discarded:
        assert len(drops.discarded(record)) == record.rows_discarded


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_and_kept_and_its_record_says_why(bad_day, name):
    check_refused(bad_day, f"append/things/{name}", FILES[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_file_in_a_wrong_place_is_refused_and_kept_and_its_record_says_why(bad_day, key):
    check_refused(bad_day, key, KEYS[key])


@pytest.mark.slow
@pytest.mark.parametrize("table", SCHEMAS)
def test_a_bad_schema_file_is_refused_and_kept_and_its_record_says_why(bad_day, table):
    check_refused(bad_day, f"schema/{table}/s.json", SCHEMAS[table][1])
    assert bad_day.drops.types(table) == []


@pytest.mark.slow
def test_files_with_strange_names_are_loaded_beside_all_the_bad_ones(bad_day):
    drops = bad_day.drops
    fine = [*FINE, longest(drops)]
    for name in fine:
        record = bad_day.records[f"append/things/{name}"]
        assert (record.status, record.error, record.rows_loaded) == ("completed", None, 1), name
        assert drops.original(record) == bad_day.bodies[f"append/things/{name}"]
    assert drops.rows("things", "id, name") == [(number, "fine") for number in range(len(fine))]


@pytest.mark.slow
def test_a_bad_day_loses_nothing(bad_day):
    drops = bad_day.drops
    drops.check_accounts("things")
    assert all(len(key.encode()) <= 1024 for key in drops.keys(""))
    moved = {record.moved_to for record in drops.all_records()}
    assert len(moved) == len(drops.all_records())
    assert {f"s3://{drops.bucket}/{key}" for key in drops.keys("")} >= moved
    assert not [key for key in drops.keys("staging/") if key.endswith("original")]


def test_the_documentation_tells_what_the_records_say():
    text = (PACKAGE.parent / "docs" / "files.md").read_text(encoding="utf-8")
    section = text.split("## What is said of bad files\n")[1].split("\n## ")[0]
    told = [line.split(" | ")[1].strip("` |") for line in section.splitlines() if line.startswith("| `")]
    says = [error for _, error in (*FILES.values(), *SCHEMAS.values())] + list(KEYS.values())
    names = {"bucket": "acme-drop", "db": "supply", "size": 1_019_000}
    assert len(told) == 23
    assert set(told) <= {error.format(**names).replace("|", r"\|") for error in says}


# --- operations and limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "action"), [(["truncate", "schema"], "append"), (["append"], "truncate"), ([], "append")]
)
def test_an_operation_that_the_schema_does_not_allow_is_refused(rooms, allowed, action):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint", allowed_operations=allowed)
    dropped = drops.drop(action, "things", "a.csv", "1\n")
    drops.run()
    record = drops.record(dropped)
    assert record.status == "rejected"
    assert record.error == (
        f"{drops.database}.things does not allow {action}; its schema allows {', '.join(allowed) or 'nothing'}. "
        "Drop it under another action, or allow it in the schema file."
    )
    assert drops.rows("things", "id") == []
    drops.check_accounts("things")


def test_a_schema_that_does_not_allow_to_be_changed_is_not_changed(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint", allowed_operations=["append"])
    drops.run()
    dropped = drops.schema("things", "id bigint", "more date", name="b.json")
    drops.run()
    record = drops.record(dropped)
    assert record.error == (
        f"{drops.database}.things does not allow schema; its schema allows append. "
        "Drop it under another action, or allow it in the schema file."
    )
    assert [name for name, *_ in drops.types("things")] == ["id"]
    drops.check_accounts("things")


@pytest.mark.parametrize(
    ("limit", "rows", "bad", "is_taken"),
    [
        (0.1, 10, 1, True),
        (0.1, 10, 2, False),
        (0.1, 9, 1, False),
        (0.29, 100, 29, True),  # 0.29 * 100 is 28.999999999999996
        (0.29, 100, 30, False),
        (0.005, 200, 1, True),
        (0.005, 199, 1, False),
        (0, 50, 0, True),
        (0, 50, 1, False),
        (1, 50, 49, True),
        (1, 50, 50, False),  # not one row is left
    ],
)
def test_the_share_of_rows_that_may_be_discarded_is_exact(rooms, limit, rows, bad, is_taken):
    drops = Drops.zone(rooms.environ, discard_limit=0.5, tables={"Things": {"discard_limit": limit}})
    drops.schema("things", "id bigint")
    dropped = drops.drop("append", "things", "a.csv", "".join(f"{'x' * (row < bad)}{row}\n" for row in range(rows)))
    drops.run()
    record = drops.record(dropped)
    assert record.status == ("completed" if is_taken else "rejected")
    assert (record.rows_read, record.rows_discarded) == (rows, bad)
    assert record.rows_loaded == (rows - bad if is_taken else 0)
    assert len(drops.rows("things", "id")) == record.rows_loaded
    if not is_taken:
        told = f"more than the {100 * limit:g}% that may be discarded" if limit < 1 else "so there is none to load"
        assert told in record.error
    drops.check_accounts("things")


# --- files that stop others ------------------------------------------------------------------------------------------


def test_a_table_whose_schema_was_overwritten_by_hand_stops_no_other(rooms):
    drops = Drops.zone(rooms.environ)
    for table in ("one", "two"):
        drops.schema(table, "id bigint")
    drops.run()
    drops.put(f"schemas/{drops.database}/one.json", "{}")
    stuck = [drops.drop("append", "one", "a.csv", "1\n"), drops.schema("one", "id bigint", name="again.json")]
    fine = drops.drop("append", "two", "a.csv", "1\n")
    drops.run()
    for version in stuck:
        record = drops.record(version)
        assert record.status == "failed"
        assert record.error == (
            f"s3://{drops.bucket}/schemas/{drops.database}/one.json is no schema that rds_lake wrote: "
            "KeyError('taken'). Move it away and drop the schema file again."
        )
    assert drops.record(fine).status == "completed"
    drops.check_accounts("two")


class Poisoned:
    """A receiver that one of its files takes down."""

    def __init__(self, inner: Any, name: str) -> None:
        self.inner = inner
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def work(self, works: Sequence[Work], kept: Keeper) -> Iterator[tuple[Work, Result]]:
        if any(work.version.name == self._name for work in works):
            raise MemoryError(self._name)
        yield from self.inner.work(works, kept)


def test_a_file_that_takes_its_worker_down_each_time_is_given_up_and_takes_no_other_with_it(rooms):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "id bigint")
    drops.run()
    dropped = [drops.drop("append", "things", f"{number}.csv", f"{number}\n") for number in range(7)]
    poison = dropped[3]
    drops.receiver = Poisoned(drops.receiver, poison.name)
    for number in range(ATTEMPTS):
        with pytest.raises(MemoryError):
            drops.run(run_id=f"run-{number}")
        drops.expire(*[version for version in dropped if version.file_id in drops.open_files()])
    assert drops.open_files() == [poison.file_id]
    assert drops.rows("things", "id") == [(number,) for number in range(7) if number != 3]
    drops.run(run_id="the-last")
    record = drops.record(poison)
    assert (record.status, record.attempts) == ("failed", ATTEMPTS + 1)
    assert record.error == (
        f"{ATTEMPTS} attempts ended without a result, each with the death of its process or a bug. "
        f"Look into the logs of run run-{ATTEMPTS - 1}."
    )
    assert drops.original(record) == b"3\n"
    drops.check_accounts("things")


def test_a_timestamp_of_parquet_in_no_year_discards_its_row_and_stops_no_other_file(rooms):
    drops = Drops.zone(rooms.environ, discard_limit=0.9)
    drops.schema("things", "v timestamp")
    drops.run()
    values = pa.array([0, 1_767_225_600_000_000_000], pa.timestamp("ms"))  # nanoseconds
    bad = drops.drop("append", "things", "bad.parquet", parquet({"v": values}))
    good = drops.drop("append", "things", "good.csv", "v\n2026-01-01\n")
    drops.run()
    record = drops.record(bad)
    assert record.status == drops.record(good).status == "completed"
    assert record.error == "1 of 2 rows were discarded; the first: line 2: v is no timestamp"
    [discarded] = drops.discarded(record)
    assert discarded["v"] == "1767225600000000000 as timestamp[ms], which is in no year from 1 to 9999"
    drops.check_accounts("things")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the check of files with the text `poison` fail."""
    check = Checker.check

    def fail(self: Checker, texts: Texts) -> Checked:
        if any("poison" in row.values() for row in texts.rows.to_pylist()):
            raise error
        return check(self, texts)

    monkeypatch.setattr(Checker, "check", fail)


def test_a_defect_that_one_file_brings_to_light_stops_no_other(rooms, monkeypatch):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "name varchar(20)")
    drops.run()
    failing(monkeypatch, duckdb.ConversionException("Could not convert string 'poison' to INT32"))
    one, bad, two = (drops.drop("append", "things", f"{text}.csv", text) for text in ("one", "poison", "two"))
    drops.run()
    record = drops.record(bad)
    assert (record.status, record.rows_loaded, record.attempts) == ("failed", 0, 1)
    assert record.error == (
        f"{bad.url}: ConversionException while it was checked, which is a defect of rds_lake. "
        "Report it, with 'trace' of this file's report. Other files are not held up."
    )
    report = drops.report(record)
    assert report["result"]["details"]["trace"][0].startswith("work.py:")
    assert report["result"]["details"]["trace"][-1].endswith(" fail")
    assert "string 'poison'" not in json.dumps(report)
    assert [drops.record(version).status for version in (one, two)] == ["completed"] * 2
    drops.check_accounts("things")


@pytest.mark.parametrize("error", [duckdb.OutOfMemoryException("full"), duckdb.IOException("full")])
def test_a_file_for_which_the_engine_has_no_room_waits_and_the_others_go_on(rooms, monkeypatch, error):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "name varchar(20)")
    drops.run()
    failing(monkeypatch, error)
    bad, fine = (drops.drop("append", "things", f"{text}.csv", text) for text in ("poison", "one"))
    with pytest.raises(TransientError, match=r"poison\.csv could not be checked: the engine's memory"):
        drops.run()
    assert (drops.record(bad).status, drops.record(fine).status) == ("processing", "completed")
    monkeypatch.undo()
    drops.expire(bad)
    drops.run()
    assert drops.rows("things", "name") == [("one",), ("poison",)]
    drops.check_accounts("things")


@pytest.mark.parametrize("error", [MemoryError("full"), OSError("too many open files")])
def test_what_is_the_machines_own_trouble_ends_the_run(rooms, monkeypatch, error):
    drops = Drops.zone(rooms.environ)
    drops.schema("things", "name varchar(20)")
    drops.run()
    failing(monkeypatch, error)
    bad = drops.drop("append", "things", "a.csv", "poison")
    with pytest.raises(type(error)):
        drops.run()
    assert drops.record(bad).status == "processing"


def test_schemas_may_name_columns_as_they_like_and_reserved_words_are_noted(rooms):
    names = ["user", "two words", 'a"b', "it's", "per%cent", "a%s%%d", "Käse 美", "semi;--", "brace{0}", "back\\slash"]
    names += ["text:user", "n" * 63, "_cleaned", "given"]
    columns = [{"name": name, "type": "varchar(20)"} for name in names]
    drops = Drops.zone(rooms.environ)
    schema = drops.drop("schema", "things", "s.json", json.dumps({"columns": columns, "keys": [names[2], "per%cent"]}))
    drops.run()
    record = drops.record(schema)
    assert (record.status, record.error) == ("completed", None)
    assert drops.report(record)["result"]["details"]["notes"] == [
        "user is a reserved word of Redshift: put it in double quotes"
    ]
    row = [f"value {number}" for number in range(len(names))]
    for number in range(2):
        drops.drop("append", "things", f"{number}.csv", ",".join(row) + "\n" + ",".join(row).upper() + "\n")
    drops.run()
    assert drops.rows("things") == [tuple(text.upper() for text in row), tuple(row)]
    drops.check_accounts("things", keyed=True)
