"""Files: the same rows give the same bytes, and every value comes back as it went in."""

import io
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, record_batch

from rds_lake.errors import SpecError
from rds_lake.lake import files
from rds_lake.lake.files import check_format, open_batches, open_writer, read_batches
from rds_lake.lake.manifest import File
from rds_lake.lake.spool import Spool

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("money", pa.decimal128(38, 10)),
        pa.field("day", pa.date32()),
        pa.field("moment", pa.timestamp("us")),
        pa.field("single", pa.float32()),
        pa.field("twice", pa.float64()),
        pa.field("big", pa.int64()),
    ]
)

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    ["", '""', '"', "\n", "\r\n", "a,b", "NULL", " ", "\\N", "'", "a\nb,\"c\"\r", "#", "nan", "true"]
)  # fmt: skip
rows = st.tuples(
    st.integers(-(2**31), 2**31 - 1),
    texts,
    st.none() | st.decimals(min_value=-(10**28) + 1, max_value=10**28 - 1, places=10),
    st.none() | st.dates(min_value=date(1000, 1, 1)),
    st.none() | st.datetimes(min_value=datetime(1000, 1, 1)),  # noqa: DTZ001 - MySQL's own
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.integers(-(2**63), 2**63 - 1),
)


def written(batches, schema: pa.Schema, file_format: str) -> bytes:
    sink = io.BytesIO()
    writer = open_writer(sink, schema, file_format)
    for batch in batches:
        writer.write_batch(batch)
    writer.close()
    return sink.getvalue()


def stored(rooms, content: bytes, schema: pa.Schema, file_format: str) -> list[tuple]:
    key = f"{rooms.name()}/file"
    rooms.store.put(key, content)
    with open_batches(rooms.store, File(key, len(content), 0, ""), schema, file_format) as batches:
        found = list(batches)
    assert all(batch.schema == schema for batch in found)
    return [tuple(row.values()) for batch in found for row in batch.to_pylist()]


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
@bounded(25)
@given(lines=st.lists(rows, min_size=1, max_size=8))
def test_every_value_comes_back_as_it_went_in(rooms, file_format, lines):
    content = written([record_batch(lines, SCHEMA)], SCHEMA, file_format)
    assert stored(rooms, content, SCHEMA, file_format) == lines


def test_csv_keeps_null_apart_from_the_empty_text_and_from_texts_that_look_like_it(rooms):
    texts = [None, "", "NULL", "null", '""', "\\N", "a\nb", 'say "x", y', "\r\n", " ", "NaN"]
    lines = [(n, text, Decimal("0.10"), None, None, None, None, None) for n, text in enumerate(texts)]
    lines = [(*line[:2], line[2].quantize(Decimal("1E-10")), *line[3:]) for line in lines]
    content = written([record_batch(lines, SCHEMA)], SCHEMA, "csv")
    assert stored(rooms, content, SCHEMA, "csv") == lines
    assert content.split(b"\n")[0].startswith(b'"id","text"')


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_table_of_one_column_keeps_its_nulls(rooms, file_format):
    schema = pa.schema([pa.field("v", pa.string())])
    lines = [(None,), ("",), ("a",), (None,), ("\n",), (None,)]
    assert stored(rooms, written([record_batch(lines, schema)], schema, file_format), schema, file_format) == lines


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_long_text_comes_back_whole(rooms, file_format):
    schema = pa.schema([pa.field("id", pa.int32()), pa.field("v", pa.string())])
    lines = [(1, "x\n" * 1_500_000), (2, "short"), (3, "y" * 3_000_000)]
    assert stored(rooms, written([record_batch(lines, schema)], schema, file_format), schema, file_format) == lines


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_hostile_column_names_come_back(rooms, file_format):
    schema = pa.schema([pa.field(name, pa.string()) for name in ("a,b", "new\nline", "two words", "ü%s", "", " x ")])
    lines = [("1", None, "", "x", None, "y")]
    assert stored(rooms, written([record_batch(lines, schema)], schema, file_format), schema, file_format) == lines


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
@bounded(25)
@given(cuts=st.lists(st.integers(0, 500), max_size=6), data=st.data())
def test_the_bytes_do_not_depend_on_how_the_rows_came(file_format, cuts, data):
    schema = pa.schema([pa.field("id", pa.int32()), pa.field("v", pa.string()), pa.field("w", pa.string())])
    whole = record_batch([(n, f"v{n % 7}" if n % 5 else None, f"w{n}") for n in range(500)], schema)
    edges = [0, *sorted(cuts), 500]
    pieces = [whole.slice(left, right - left) for left, right in pairwise(edges)]
    if file_format == "parquet":
        pieces = [as_dictionaries(piece) if data.draw(st.booleans()) else piece for piece in pieces]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ROW_GROUP_ROWS", 120)
        assert written(pieces, schema, file_format) == written([whole], schema, file_format)


def as_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The texts as dictionaries that have other values too, in an order of their own."""
    others = pa.array(["zz", "v6", "v0", "w1"])

    def encoded(column: pa.Array) -> pa.Array:
        every = pa.concat_arrays([others, column]).dictionary_encode()
        return every.slice(len(others))

    arrays = [encoded(column) if pa.types.is_string(column.type) else column for column in batch.columns]
    return pa.record_batch(arrays, names=batch.schema.names)


def test_texts_that_repeat_can_be_read_as_a_dictionary_and_no_others():
    schema = pa.schema([pa.field(name, pa.string()) for name in ("few", "many", "a.b")])
    lines = [(f"v{n % 7}" if n % 5 else None, f"w{n}", "x") for n in range(500)]
    content = written([record_batch(lines, schema)], schema, "parquet")
    [batch] = read_batches(io.BytesIO(content), schema, "parquet", dictionaries=True)
    kinds = [pa.types.is_dictionary(column.type) for column in batch.columns]
    assert kinds == [True, False, True]
    assert [tuple(row.values()) for row in batch.to_pylist()] == lines
    [plain] = read_batches(io.BytesIO(content), schema, "parquet")
    assert plain.schema == schema
    assert pq.read_schema(io.BytesIO(content)) == schema  # whoever else reads the file sees texts


def test_values_that_hardly_repeat_get_no_dictionary(monkeypatch):
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 100)
    schema = pa.schema([pa.field("id", pa.int32()), pa.field("who", pa.int32()), pa.field("text", pa.string())])
    batch = record_batch([(n, n % 9, f"{n % 3}") for n in range(250)], schema)
    metadata = pq.read_metadata(io.BytesIO(written([batch], schema, "parquet")))
    assert metadata.num_row_groups == 3
    for number in range(3):
        group = metadata.row_group(number)
        assert [group.column(place).has_dictionary_page for place in range(3)] == [False, True, True]
        used = {name for place in range(3) for name in group.column(place).encodings}
        assert used <= {"PLAIN", "RLE", "RLE_DICTIONARY"}  # what every reader of Parquet's first version knows


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_some_of_the_columns_can_be_read(file_format):
    schema = pa.schema([pa.field(name, pa.string()) for name in ("a", "b", "a.b")])
    content = written([record_batch([("1", "2", "3")], schema)], schema, file_format)
    some = pa.schema([schema.field("a.b"), schema.field("a")])
    [batch] = read_batches(io.BytesIO(content), some, file_format)
    assert batch.to_pylist() == [{"a.b": "3", "a": "1"}]


def test_a_file_of_several_row_groups_reads_back_in_order(rooms, monkeypatch):
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(files, "READ_ROWS", 33)
    schema = pa.schema([pa.field("id", pa.int32())])
    content = written([record_batch([(n,) for n in range(350)], schema)], schema, "parquet")
    assert stored(rooms, content, schema, "parquet") == [(n,) for n in range(350)]


def test_a_spool_knows_rows_size_and_digest_of_its_file():
    import hashlib

    schema = pa.schema([pa.field("id", pa.int32())])
    spool = Spool(schema, "parquet")
    spool.write(record_batch([(1,), (2,)], schema))
    file = spool.finish("a/key")
    content = spool.content.read()
    assert file == File("a/key", len(content), 2, hashlib.sha256(content).hexdigest())
    spool.discard()
    assert spool.content.closed


def test_csv_cannot_carry_bytes_and_says_what_to_write_instead():
    schema = pa.schema([pa.field("id", pa.int32()), pa.field("raw", pa.binary())])
    check_format("parquet", schema, "t")
    with pytest.raises(SpecError, match=r"'raw' is binary.*format: parquet.*defs/t/defs\.yaml"):
        check_format("csv", schema, "t")
