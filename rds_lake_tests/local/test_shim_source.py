"""The shim's reader, without a server: rows to CSV, manifests, the fit of types."""

import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_lake.local.shim import source
from rds_lake.local.shim.redshift_copy import CopyJob, SourceError

# The first example pays for imports, and others may use the machine.
PATIENT = settings(deadline=None)


class Bucket:
    """An S3 client over a dictionary: just what the reader asks for."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects

    def get_paginator(self, _):
        return self

    def paginate(self, Bucket, Prefix):  # noqa: ARG002, N803 - boto3's names
        found = [{"Key": k, "Size": len(v)} for k, v in sorted(self.objects.items()) if k.startswith(Prefix)]
        return [{"Contents": found}] if found else [{}]

    def get_object(self, Bucket, Key):  # noqa: ARG002, N803
        return {"Body": io.BytesIO(self.objects[Key])}


def parquet(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def read(objects: dict[str, bytes], *, columns: int, types=(), **options) -> str:
    options = {"format": "csv"} | options
    job = CopyJob(("t",), (), "lake", "k", **options)
    return b"".join(source.csv_chunks(Bucket(**objects), job, columns=columns, types=types)).decode()


@PATIENT
@given(st.lists(st.binary(max_size=5) | st.none(), max_size=8), st.integers(0, 4), st.integers(0, 4))
def test_binary_becomes_hexadecimal_in_any_slice(values, start, length):
    array = pa.array(values, pa.large_binary()).slice(start, length)
    expected = [None if v is None else "\\x" + v.hex() for v in values[start : start + length]]
    assert source.hexadecimal(array).to_pylist() == expected


@PATIENT
@given(st.lists(st.tuples(st.integers(), st.text(st.characters(exclude_categories=["Cs"])) | st.none()), max_size=5))
def test_null_and_empty_text_stay_apart_in_csv(rows):
    batch = pa.record_batch({"a": [str(n) for n, _ in rows], "b": pa.array([t for _, t in rows], pa.string())})
    text = b"".join(source.to_csv(batch)).decode()
    expected = "".join(f'"{n}",' + ("" if t is None else '"' + t.replace('"', '""') + '"') + "\n" for n, t in rows)
    assert text == expected


def test_a_small_batch_is_read_at_a_time_when_rows_are_wide(monkeypatch):
    monkeypatch.setattr(source, "_BATCH_BYTES", 100_000)
    data = pa.table({"a": ["x" * 1000 + str(n) for n in range(1000)]})
    sizes = []
    monkeypatch.setattr(source, "to_csv", lambda batch: sizes.append(batch.num_rows) or iter([b""]))
    read({"k": parquet(data, use_dictionary=False, compression="none")}, columns=1, format="parquet")
    assert sum(sizes) == 1000
    assert max(sizes) <= 110


def test_a_large_file_goes_through_a_file_on_disk(monkeypatch):
    monkeypatch.setattr(source, "_IN_MEMORY_BYTES", 10)
    data = pa.table({"a": pa.array(range(10), pa.int32())})
    assert read({"k": parquet(data)}, columns=1, format="parquet").split() == [str(n) for n in range(10)]


def test_a_folder_marker_is_not_read():
    assert read({"k/": b"", "k/1": b"7\n"}, columns=1) == '"7"\n'


def test_csv_without_known_types_makes_unquoted_empties_null():
    assert read({"k": b'1,\n,""\n'}, columns=2) == '"1",\n,""\n'


def test_csv_with_known_types_keeps_empty_text():
    text = read({"k": b'1,\n"",\\N\n'}, columns=2, types=["integer", "character varying(5)"])
    assert text == '"1",""\n,\n'


@pytest.mark.parametrize("objects", [{"k": b""}, {"k": b"a,b\n"}, {"k": b"a,b"}])
def test_a_csv_file_with_nothing_but_its_header_has_no_rows(objects):
    assert read(objects, columns=2, ignore_header=1) == ""


def test_compressed_csv_is_read():
    assert read({"k": gzip.compress(b"1|x\n")}, columns=2, delimiter="|", compression="gzip") == '"1","x"\n'


def test_csv_that_is_not_utf8_is_refused():
    with pytest.raises(SourceError, match="cannot read s3://lake/k"):
        read({"k": b"\xff\xfe\n"}, columns=1)


def test_csv_that_python_writes_is_read_back():
    rows = [["1", 'a "b"'], ["2", "c\nd"], ["3", "e,f"]]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    assert list(csv.reader(io.StringIO(read({"k": text.getvalue().encode()}, columns=2)))) == rows


@pytest.mark.parametrize(
    ("kind", "column", "fits"),
    [
        (pa.int32(), "integer", True),
        (pa.int16(), "integer", True),
        (pa.int64(), "integer", False),
        (pa.int32(), "bigint", False),
        (pa.float32(), "double precision", False),
        (pa.decimal128(38, 10), "numeric(38,10)", True),
        (pa.decimal128(20, 10), "numeric(38,10)", True),
        (pa.decimal128(38, 9), "numeric(38,10)", False),
        (pa.string(), "character varying(25)", True),
        (pa.dictionary(pa.int32(), pa.string()), "character varying(25)", True),
        (pa.binary(), "character varying(25)", False),
        (pa.binary(), "bytea", True),
        (pa.timestamp("us"), "timestamp without time zone", True),
        (pa.timestamp("us", "UTC"), "timestamp with time zone", True),
        (pa.date32(), "timestamp without time zone", False),
        (pa.string(), "date", False),
        (pa.string(), "jsonb", False),
        (pa.null(), "integer", True),
        (pa.bool_(), "boolean", True),
    ],
)
def test_parquet_types_must_fit_their_columns(kind, column, fits):
    assert (source.mismatch(kind, column) == "") is fits
