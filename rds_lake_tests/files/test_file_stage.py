"""Staging: what lies in the bucket once a file has been checked. Only the bucket is a stand-in, a dictionary."""

import csv
import gzip
import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.errors import PermanentError
from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import RefusedError, TableSchema
from rds_lake.files.spec import Cleaning
from rds_lake.files.stage import REPEATED, Reading, RefusedRowsError, Staged, open_engine, stage, staged_before
from rds_lake.files.version import FileVersion, Place

LANDED = datetime(2026, 11, 28, 10, 15, 30, tzinfo=UTC)
PLACE = Place("sales.customers", "append", "", "sales/append/customers/")
COLUMNS = [{"name": "id", "type": "integer"}, {"name": "name", "type": "varchar(20)"}]
KEYED = TableSchema.model_validate({"columns": COLUMNS, "keys": ["id"]})
PLAIN = TableSchema.model_validate({"columns": COLUMNS})


class Bucket:
    """What staging asks of a `FileStore`."""

    bucket = "drops"

    def __init__(self) -> None:
        self.ours = self
        self.objects: dict[str, bytes] = {}

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, content: bytes) -> None:
        self.objects[key] = content

    def upload(self, key: str, content: IO[bytes], size: int) -> None:
        self.objects[key] = content.read()
        assert len(self.objects[key]) == size

    def get(self, key: str) -> tuple[bytes, str] | None:
        return (self.objects[key], "etag") if key in self.objects else None

    def rows(self, key: str | None) -> list[dict[str, Any]]:
        return pq.read_table(io.BytesIO(self.objects[key])).to_pylist() if key else []


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine() as opened:
        yield opened


def version(content: bytes, name: str = "a.csv") -> FileVersion:
    return FileVersion("drops", f"sales/append/customers/{name}", "etag", len(content), LANDED)


def staged(
    engine: Any, text: str | bytes, schema: TableSchema = KEYED, limit: float = 1, name: str = "a.csv", **more: Any
) -> tuple[Staged, Bucket]:
    content, bucket = text.encode() if isinstance(text, str) else text, Bucket()
    reading = Reading(schema, CsvOptions(), limit, **more)
    digest = hashlib.sha256(content).hexdigest()
    done = stage(engine, bucket, PLACE, version(content, name), io.BytesIO(content), digest, reading)  # type: ignore[arg-type]
    return done, bucket


def test_good_rows_bad_rows_and_a_manifest_lie_in_the_bucket(engine):
    done, bucket = staged(engine, "id,name\n1,Ada\nx,Bob\n3,Cy\n4\n")
    folder = f"20261128T101530-{done.file_id[:12]}"
    assert sorted(bucket.objects) == [
        f"discarded/sales/append/customers/{folder}/discarded.parquet",
        f"staging/sales/append/customers/{folder}/manifest.json",
        f"staging/sales/append/customers/{folder}/part-00000.parquet",
    ]
    assert bucket.rows(done.part) == [{"id": 1, "name": "Ada", "_line": 2}, {"id": 3, "name": "Cy", "_line": 4}]
    assert [(row["_line"], row["_reasons"], row["_raw"], row["id"]) for row in bucket.rows(done.discarded_key)] == [
        (3, ["id is no integer"], None, "x"),
        (5, ["has 1 fields, not 2"], "4", None),
    ]
    assert (done.rows, done.discarded, done.read, done.first) == (2, 2, 4, "line 3: id is no integer")
    assert done.reasons == {"id is no integer": 1, "unreadable": 1}
    assert (done.columns, done.keys) == ((("id", "INTEGER"), ("name", "VARCHAR(20)")), ("id",))


def test_the_manifest_is_redshifts_own_and_tells_all_that_is_known(engine):
    done, bucket = staged(engine, "id,name\n1,Ada\nx,Bob\n")
    manifest = json.loads(bucket.objects[done.manifest])
    size = len(bucket.objects[done.part or ""])
    assert manifest["entries"] == [
        {"url": f"s3://drops/{done.part}", "mandatory": True, "meta": {"content_length": size}}
    ]
    assert done.part_size == size
    found = staged_before(bucket, PLACE, version(b"id,name\n1,Ada\nx,Bob\n"))  # type: ignore[arg-type]
    assert found == done
    assert staged_before(Bucket(), PLACE, version(b"")) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"entries": []}', b'{"entries": [], "x": 1}', b"\xff"]
)
def test_what_is_no_manifest_is_told_with_its_address(content):
    with pytest.raises(PermanentError, match="s3://drops/m is no manifest"):
        Staged.from_json(content, "s3://drops/m")


def test_of_rows_with_one_key_the_last_one_stays(engine):
    done, bucket = staged(engine, "id,name\n1,Ada\n2,Bob\n1,Eve\nx,y\n1,Max\n2,Zoe\n3,Cy\n")
    assert bucket.rows(done.part) == [
        *(
            {"id": 1, "name": "Max", "_line": 6},
            {"id": 2, "name": "Zoe", "_line": 7},
            {"id": 3, "name": "Cy", "_line": 8},
        )
    ]
    assert [(row["_line"], row["_reasons"], row["id"], row["name"]) for row in bucket.rows(done.discarded_key)] == [
        (5, ["id is no integer"], "x", "y"),
        (2, [REPEATED], "1", "Ada"),
        (3, [REPEATED], "2", "Bob"),
        (4, [REPEATED], "1", "Eve"),
    ]
    assert (done.rows, done.discarded, done.first) == (3, 4, f"line 2: {REPEATED}")
    assert done.reasons == {"id is no integer": 1, REPEATED: 3}
    same, _ = staged(engine, "id,name\n1,Ada\n2,Bob\n1,Eve\n", PLAIN)
    assert (same.rows, same.discarded) == (3, 0)


@pytest.mark.parametrize(
    ("kind", "texts", "count"),
    [
        ("varchar(9)", ["a", "A", "a ", " a", "", "á", "a\u0301"], 7),
        ("double precision", ["0", "-0", "0.0", "1e0", "1"], 2),
        ("decimal(9,2)", ["1", "1.0", "01.00", "+1", "-1"], 2),
        ("timestamptz", ["2024-01-01T10:00Z", "2024-01-01T12:00+02:00", "2024-01-01 10:00"], 1),
        ("boolean", ["yes", "1", "t", "no"], 2),
        ("date", ["2024-01-01", " 2024-01-01 "], 1),
    ],
)
def test_keys_are_the_same_when_their_values_are(engine, kind, texts, count):
    schema = TableSchema.model_validate(
        {"columns": [{"name": "k", "type": kind}, {"name": "n", "type": "int"}], "keys": ["k"]}
    )
    done, bucket = staged(engine, "".join(f'"{text}",{number}\n' for number, text in enumerate(texts)), schema)
    assert done.rows == count
    assert done.read == len(texts)
    assert [row["n"] for row in bucket.rows(done.part)] == sorted(row["n"] for row in bucket.rows(done.part))


def test_a_row_that_was_cleaned_and_is_repeated_keeps_its_old_values(engine):
    rules = (Cleaning(column="name", value="N/A"),)
    done, bucket = staged(engine, "id,name\n1,\n1,Ada\n2,\n", KEYED, cleaning=rules, outcome="cleaned")
    [repeated] = bucket.rows(done.discarded_key)
    assert (repeated["name"], repeated["_raw"]) == ("", None)
    assert [row["_raw"] for row in bucket.rows(done.part)] == [None, '{"name":""}']
    assert done.part is not None
    assert done.part.startswith("cleaned/")


WRITTEN = TableSchema.model_validate(
    {
        "columns": [
            {"name": "id", "type": "integer"},
            {"name": "day", "type": "date", "formats": ["%d/%m/%Y"]},
            {"name": "pay", "type": "decimal(9,2)", "thousands": ","},
            {"name": "is_new", "type": "boolean"},
            {"name": "word", "type": "text"},
        ],
        "keys": ["id"],
    }
)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
@pytest.mark.parametrize("header", ["", "word,is_new,pay,day,id\n"])
def test_rows_that_are_repeated_are_discarded_as_they_were_written(engine, pack, header):
    first = ["007", "03/04/2026", "1,000.5", "yes", ' "a"\n']
    lines = io.StringIO()
    rows = [first, ["8", "", "", "", "x"], ["+7", "04/04/2026", " 1 ", "T", ""], ["7", "", "", "", "last"]]
    csv.writer(lines, lineterminator="\n").writerows(row[::-1] if header else row for row in rows)
    done, bucket = staged(engine, pack((header + lines.getvalue() + "bad\n").encode()), WRITTEN)
    told = [
        [row["_raw"]] if row["_raw"] else [row[name] for name in ("id", "day", "pay", "is_new", "word")]
        for row in bucket.rows(done.discarded_key)
    ]
    assert told == [["bad"], first, ["+7", "04/04/2026", " 1 ", "T", ""]]
    assert [row["word"] for row in bucket.rows(done.part)] == ["x", "last"]


def test_rows_of_parquet_that_are_repeated_are_discarded_with_their_values(engine):
    target = io.BytesIO()
    moments = pa.array([0, 1500, 2], pa.timestamp("ns", "Europe/Berlin"))
    pq.write_table(pa.table({"at": moments, "id": pa.array([1, 2, 2]).dictionary_encode()}), target)
    columns = [{"name": "id", "type": "bigint"}, {"name": "at", "type": "text"}]
    schema = TableSchema.model_validate({"columns": columns, "keys": ["id"]})
    done, bucket = staged(engine, target.getvalue(), schema, name="a.parquet")
    assert [(row["_line"], row["id"], row["at"], row["_reasons"]) for row in bucket.rows(done.discarded_key)] == [
        (2, "2", "1970-01-01 00:00:00.000001500Z", [REPEATED])
    ]


def test_a_column_that_is_called_as_ours_is_no_harm_when_rows_are_moved(engine):
    names = ["line", "moved", "valid", "given"]
    schema = TableSchema.model_validate(
        {"columns": [{"name": name, "type": "int"} for name in names], "keys": ["line"]}
    )
    done, bucket = staged(engine, "1,9,9,9\n1,8,8,8\n", schema)
    assert [row["_line"] for row in bucket.rows(done.part)] == [2]
    assert [row["moved"] for row in bucket.rows(done.discarded_key)] == ["9"]


@pytest.mark.parametrize(
    ("bad", "good", "limit", "taken"),
    [
        *((29, 71, 0.29, True), (30, 70, 0.29, False), (1, 9, 0.1, True), (7, 3, 0.7, True), (3, 27, 0.1, True)),
        *(
            (0, 5, 0, True),
            (1, 999, 0, False),
            (99, 1, 1, True),
            (5, 0, 1, False),
            (1, 199, 0.005, True),
            (2, 198, 0.005, False),
        ),
    ],
)
def test_the_share_that_may_be_discarded_is_exact(engine, bad, good, limit, taken):
    text = "x,a\n" * bad + "".join(f"{number},a\n" for number in range(good))
    if taken:
        done, _ = staged(engine, text, limit=limit)
        assert (done.rows, done.discarded) == (good, bad)
        return
    with pytest.raises(RefusedRowsError) as caught:
        staged(engine, text, limit=limit)
    assert f"{bad:,} of {bad + good:,} rows of a.csv do not fit" in str(caught.value)
    why = f"more than the {limit * 100:g}% that may be discarded" if limit < 1 else "so there is none to load"
    assert f"do not fit, {why}. The first: line 1" in str(caught.value)
    assert "The first: line 1: id is no integer" in str(caught.value)
    assert (caught.value.staged.rows, caught.value.staged.discarded) == (good, bad)


def test_a_file_that_is_refused_leaves_its_bad_rows_and_no_manifest(engine):
    content, bucket = b"x,secret\n1,Ada\n", Bucket()
    reading = Reading(KEYED, CsvOptions(), 0)
    with pytest.raises(RefusedRowsError) as caught:
        stage(engine, bucket, PLACE, version(content), io.BytesIO(content), "digest", reading)  # type: ignore[arg-type]
    assert list(bucket.objects) == [caught.value.staged.discarded_key]
    assert [row["name"] for row in bucket.rows(caught.value.staged.discarded_key)] == ["secret"]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["id,name\n", '"id","name"\r\n\r\n'])
def test_a_header_alone_is_refused(engine, text):
    with pytest.raises(RefusedError, match=r"a\.csv has no rows, only a header"):
        staged(engine, text)


def test_long_rows_that_are_repeated_are_moved_in_little_memory(engine):
    """The engine has 256 MB; these rows take more."""
    columns = [{"name": "id", "type": "integer"}, {"name": "a", "type": "text"}, {"name": "b", "type": "text"}]
    schema = TableSchema.model_validate({"columns": columns, "keys": ["id"]})
    text = "".join(f"{number % 7},{'x' * 65_000},{'y' * 65_000}\n" for number in range(1500))
    done, bucket = staged(engine, text, schema)
    assert (done.rows, done.discarded) == (7, 1493)
    assert [row["_line"] for row in bucket.rows(done.part)] == list(range(1494, 1501))


def test_the_same_file_is_staged_to_the_same_bytes(engine):
    text = "id,name\n" + "".join(f"{number % 90},{'é' * (number % 30)}\n" for number in range(1000))
    (one, first), (two, second) = staged(engine, text), staged(engine, text)
    assert one == two
    assert first.objects == second.objects


def test_a_temporary_folder_may_have_any_name(engine, tmp_path, monkeypatch):
    folder = tmp_path / 'it\'s a "folder" é'
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    done, _ = staged(engine, "1,a\n1,b\n")
    assert (done.rows, done.discarded) == (1, 1)
    assert list(folder.iterdir()) == []


cells = st.sampled_from(["1", "2", " 2 ", "3", "", "x", "7.5"])


@given(
    st.lists(st.tuples(cells, st.sampled_from(["", "Ada", "a,b", "y" * 21])), min_size=1, max_size=25),
    st.booleans(),
    st.booleans(),
)
@bounded(120)
def test_every_row_is_staged_once_or_discarded_once(rows, keyed, cleans):
    schema = KEYED if keyed else PLAIN
    text = "".join(f'{key},"{name}"\n' for key, name in rows)
    rules = (Cleaning(column="id", when="missing_or_invalid", value="2"),) if cleans else ()
    meant = [(key.strip() if key.strip() in {"1", "2", "3"} else "2" if cleans else key, name) for key, name in rows]
    fits = [key in {"1", "2", "3"} or (not key and not keyed) for key, _ in meant]
    last = {key: line for line, (key, name) in enumerate(meant, 1) if fits[line - 1] and len(name) <= 20}
    good = [
        line
        for line, (key, name) in enumerate(meant, 1)
        if fits[line - 1] and len(name) <= 20 and (not keyed or last[key] == line)
    ]
    with open_engine() as engine:
        if not good:
            with pytest.raises(RefusedRowsError):
                staged(engine, text, schema, cleaning=rules)
            return
        done, bucket = staged(engine, text, schema, cleaning=rules)
    assert [row["_line"] for row in bucket.rows(done.part)] == good
    bad = bucket.rows(done.discarded_key)
    assert sorted(row["_line"] for row in bad) == [line for line in range(1, len(rows) + 1) if line not in good]
    assert Counter(reason for row in bad for reason in row["_reasons"]) == done.reasons
    assert (done.rows, done.discarded, done.read) == (len(good), len(bad), len(rows))
    if bad:
        least = min(bad, key=lambda row: row["_line"])
        assert done.first == f"line {least['_line']}: {'; '.join(least['_reasons'])}"
    assert replace(done, part=None) == replace(Staged.from_json(bucket.objects[done.manifest], "m"), part=None)
