"""The objects behind one COPY: which they are, whether Redshift would take them, and their rows as CSV for PostgreSQL.

Blocking code (boto3, pyarrow): `session` runs it in a thread and takes one chunk at a time, so memory stays bounded
whatever the size of the files. Every refusal is a `SourceError`, which fails the statement as it would on Redshift.
"""

import binascii
import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from rds_lake.local.shim.redshift_copy import CopyJob, SourceError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_BATCH_ROWS: Final = 65_536
_BATCH_BYTES: Final = 16 * 1024 * 1024
_IN_MEMORY_BYTES: Final = 32 * 1024 * 1024
# A row is at most 4 MB on Redshift, and pyarrow wants each row within two blocks.
_CSV_BLOCK_BYTES: Final = 8 * 1024 * 1024
# What pyarrow says of a file that is empty, or ends with its header.
_NO_ROWS: Final = ("Empty CSV file", "Could not skip initial")
_WRITE = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed", batch_size=_BATCH_ROWS)


@dataclass(frozen=True)
class S3Object:
    """One object to load."""

    bucket: str
    key: str
    size: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class ManifestEntry:
    """One line of a manifest."""

    bucket: str
    key: str
    mandatory: bool
    content_length: int | None

    @property
    def url(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.key}"


def parse_manifest(text: bytes, url: str, *, needs_length: bool) -> list[ManifestEntry]:
    """The entries of a manifest, in order; an entry listed twice comes twice. Other top-level keys are ignored.

    Raises:
        SourceError: it is not of Redshift's form.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SourceError(f"manifest {url} is not JSON: {error}") from None
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise SourceError(f"manifest {url} has no list 'entries'")
    if not entries:
        raise SourceError(f"manifest {url} names no file: leave the COPY out when there is nothing to load")
    return [_entry(entry, number, url, needs_length=needs_length) for number, entry in enumerate(entries, 1)]


def _entry(entry: Any, number: int, url: str, *, needs_length: bool) -> ManifestEntry:  # noqa: ANN401 - it is JSON
    where = f"manifest {url}, entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
        raise SourceError(f"{where} has no 'url'")
    match = re.fullmatch(r"s3://([^/]+)/(.+)", entry["url"], re.DOTALL)
    if match is None:
        raise SourceError(f"{where}: '{entry['url']}' is not a full address in S3 (s3://bucket/key)")
    mandatory = entry.get("mandatory", False)
    if not isinstance(mandatory, bool):
        raise SourceError(f"{where}: 'mandatory' is {mandatory!r}, not true or false")
    meta = entry.get("meta")
    length = meta.get("content_length") if isinstance(meta, Mapping) else None
    if length is not None and (not isinstance(length, int) or isinstance(length, bool)):
        raise SourceError(f"{where}: 'meta.content_length' is {length!r}, not a number")
    if needs_length and length is None:
        raise SourceError(f"{where} has no 'meta.content_length', which Redshift needs for parquet")
    return ManifestEntry(match[1], match[2], mandatory, length)


def find_objects(s3: "S3Client", job: CopyJob) -> list[S3Object]:
    """The objects that a COPY loads, in order.

    Raises:
        SourceError: one that must be there is missing, has another size than the manifest says, or there is none.
    """
    found = list(_listed(s3, job) if job.manifest else _with_prefix(s3, job))
    if not found:
        what = "manifest" if job.manifest else "prefix"
        raise SourceError(f"the specified S3 {what} '{job.url}' does not lead to any object")
    return found


def _with_prefix(s3: "S3Client", job: CopyJob) -> Iterator[S3Object]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=job.bucket, Prefix=job.key)
    for page in pages:
        for item in page.get("Contents", []):
            if not (item["Key"].endswith("/") and item["Size"] == 0):  # a console's "folder"
                yield S3Object(job.bucket, item["Key"], item["Size"])


def _listed(s3: "S3Client", job: CopyJob) -> Iterator[S3Object]:
    text = s3.get_object(Bucket=job.bucket, Key=job.key)["Body"].read()
    for entry in parse_manifest(text, job.url, needs_length=job.format == "parquet"):
        try:
            size = s3.head_object(Bucket=entry.bucket, Key=entry.key)["ContentLength"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey", "NotFound"):
                raise
            if entry.mandatory:
                raise SourceError(f"{entry.url}, mandatory in manifest {job.url}, does not exist") from None
            continue
        if entry.content_length is not None and entry.content_length != size:
            raise SourceError(
                f"{entry.url} has {size} bytes, and manifest {job.url} says content_length {entry.content_length}"
            )
        yield S3Object(entry.bucket, entry.key, size)


def csv_chunks(s3: "S3Client", job: CopyJob, *, columns: int, types: Sequence[str] = ()) -> Iterator[bytes]:
    """The rows of a COPY as CSV for PostgreSQL: NULL is empty, an empty string is "", binary is hexadecimal.

    Args:
        s3: the client to read with.
        job: the COPY.
        columns: how many columns the table, or the statement's list, has.
        types: their types in PostgreSQL's words, if known.

    Raises:
        SourceError: an object is missing, unreadable, or of a kind that Redshift does not load.
    """
    where = job.url
    try:
        first: tuple[S3Object, pa.Schema] | None = None
        for item in find_objects(s3, job):
            where = item.url
            with _opened(s3, item) as file:
                batches = _Parquet(file, item, columns, types) if job.format == "parquet" else None
                if batches is not None:
                    first = first or (item, batches.schema)
                    _check_alike(first, item, batches.schema)
                for batch in batches or _csv_batches(file, job, columns, types):
                    yield from to_csv(batch)
    except ClientError as error:
        details = error.response.get("Error", {})
        raise SourceError(f"S3 refuses {where}: {details.get('Code')}: {details.get('Message')}") from error
    except (BotoCoreError, pa.ArrowException, OSError) as error:
        raise SourceError(f"cannot read {where}: {error}") from error


@contextlib.contextmanager
def _opened(s3: "S3Client", item: S3Object) -> Iterator[pa.NativeFile]:
    body = s3.get_object(Bucket=item.bucket, Key=item.key)["Body"]
    if item.size <= _IN_MEMORY_BYTES:
        yield pa.BufferReader(body.read())
        return
    with tempfile.NamedTemporaryFile(prefix="rds_lake_copy_") as copy:
        shutil.copyfileobj(body, copy, 1024 * 1024)
        copy.flush()
        file = pa.OSFile(copy.name)
    # The name is gone already, so that nothing stays behind however the process ends.
    with file:
        yield file


class _Parquet:
    """The batches of one parquet file, after a look at its columns."""

    def __init__(self, file: pa.NativeFile, item: S3Object, columns: int, types: Sequence[str]) -> None:
        # INT96, which Spark once wrote, is read to the microsecond by Redshift too.
        self._file = pq.ParquetFile(file, coerce_int96_timestamp_unit="us")
        self.schema: pa.Schema = self._file.schema_arrow
        if len(self.schema) != columns:
            raise SourceError(
                f"{item.url} has {len(self.schema)} columns and the table has {columns}: "
                "Redshift loads parquet by position, so the number must be the same"
            )
        for number, field in enumerate(self.schema, 1):
            reason = parquet_refusal(field.type) or (mismatch(field.type, types[number - 1]) if types else "")
            if reason:
                raise SourceError(f"{item.url}, column {number} ({field.name}): {reason}")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        meta = self._file.metadata
        size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        rows = _BATCH_BYTES * max(meta.num_rows, 1) // max(size, 1)
        return iter(self._file.iter_batches(batch_size=max(1, min(_BATCH_ROWS, rows))))


def _check_alike(first: tuple[S3Object, pa.Schema], item: S3Object, schema: pa.Schema) -> None:
    for number, (ours, theirs) in enumerate(zip(schema, first[1], strict=True), 1):
        if ours.type != theirs.type and not (pa.types.is_null(ours.type) or pa.types.is_null(theirs.type)):
            raise SourceError(
                f"column {number} is {ours.type} in {item.url} and {theirs.type} in {first[0].url}: "
                "the files of one COPY must have the same types"
            )


def parquet_refusal(kind: pa.DataType) -> str:
    """Why Redshift does not load a parquet column of this type; empty if it does."""
    t = pa.types
    reasons = (
        (
            t.is_timestamp(kind) and kind.unit == "ns",
            "timestamps in nanoseconds come out as the year 161065 on Redshift; write microseconds",
        ),
        (
            t.is_nested(kind),
            f"nested type {kind}; Redshift needs SERIALIZETOJSON for it, and the local warehouse does not have that",
        ),
        (t.is_unsigned_integer(kind), f"unsigned type {kind}; Redshift has none, widen it to the next signed type"),
        (
            t.is_time(kind) or t.is_duration(kind) or t.is_interval(kind),
            f"type {kind} cannot be loaded into Redshift from parquet; write it as text",
        ),
        (
            t.is_fixed_size_binary(kind),
            "binary of fixed length is refused by Redshift; write variable-length binary",
        ),
        (t.is_float16(kind) or t.is_decimal256(kind), f"Redshift has no type for {kind}"),
    )
    return next((reason for applies, reason in reasons if applies), "")


_SCALARS: Final[Mapping[str, tuple[pa.DataType, ...]]] = {
    "smallint": (pa.int8(), pa.int16()),
    "integer": (pa.int8(), pa.int16(), pa.int32()),
    "bigint": (pa.int64(),),
    "real": (pa.float32(),),
    "double precision": (pa.float64(),),
    "boolean": (pa.bool_(),),
    "date": (pa.date32(),),
    "bytea": (pa.binary(), pa.large_binary(), pa.binary_view()),
}
_TEXTS: Final = (pa.string(), pa.large_string(), pa.string_view())


def mismatch(kind: pa.DataType, column: str) -> str:
    """Why a parquet type does not fit a column, as Redshift converts nothing; empty if it fits."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return ""
    if column == "jsonb":
        return "text becomes one JSON string in a SUPER column; load into VARCHAR and INSERT with JSON_PARSE"
    base = re.sub(r"\(.*?\)", "", column).strip()
    if base in _SCALARS:
        fits = kind in _SCALARS[base]
    elif base == "numeric":
        fits = pa.types.is_decimal(kind) and _decimal_fits(kind, column)
    elif base.startswith("timestamp"):
        fits = pa.types.is_timestamp(kind)
    elif is_text(column):
        fits = kind in _TEXTS
    else:
        return ""
    return "" if fits else f"incompatible Parquet schema: the column's type is {column}, and {kind} in the file"


def _decimal_fits(kind: Any, column: str) -> bool:  # noqa: ANN401 - pyarrow has no types
    limits = [int(n) for n in re.findall(r"\d+", column)]
    precision, scale = limits or (38, kind.scale)
    return bool(kind.precision <= precision and kind.scale == scale)


def is_text(column: str) -> bool:
    """Whether a column, in PostgreSQL's words, holds text."""
    return column.startswith(("character", "text", "bpchar"))


def _csv_batches(file: pa.NativeFile, job: CopyJob, columns: int, types: Sequence[str]) -> Iterator[pa.RecordBatch]:
    names = [f"column {number}" for number in range(1, columns + 1)]
    # An empty field is NULL for a number and '' for text; without the types, unquoted ones are all NULL.
    nulls = [job.null_as] if types and not job.empty_as_null else [job.null_as, ""]
    stream = pa.CompressedInputStream(file, job.compression) if job.compression else file
    try:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=job.ignore_header, block_size=_CSV_BLOCK_BYTES, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=job.delimiter, quote_char=job.quote, newlines_in_values=True, ignore_empty_lines=False
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=job.empty_as_null,
            ),
        )
    except pa.ArrowInvalid as error:
        if any(text in str(error) for text in _NO_ROWS):
            return
        raise
    empties = [bool(types) and not is_text(types[i]) for i in range(columns)]
    for batch in reader:
        arrays = [_empty_to_null(a) if empties[i] else a for i, a in enumerate(batch.columns)]
        yield pa.RecordBatch.from_arrays(arrays, names=names)


def _empty_to_null(array: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)


def to_csv(batch: pa.RecordBatch) -> Iterator[bytes]:
    """A batch as CSV, in pieces of bounded size."""
    if batch.num_rows == 0:
        return
    names = [str(number) for number in range(batch.num_columns)]
    plain = pa.RecordBatch.from_arrays([_plain(array) for array in batch.columns], names=names)
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(plain, sink, _WRITE)
    text = memoryview(sink.getvalue())
    step = 1024 * 1024
    for start in range(0, len(text), step):
        yield bytes(text[start : start + step])


def _plain(array: pa.Array) -> pa.Array:
    """An array of a type that pyarrow writes the way PostgreSQL reads."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_null(kind):
        return array.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view():
        return hexadecimal(array.cast(pa.large_binary()))
    if kind == pa.string_view():
        return array.cast(pa.string())
    return array


def hexadecimal(array: pa.Array) -> pa.Array:
    """Binary values as PostgreSQL's hexadecimal text, without a look at single values."""
    validity, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[: array.offset + len(array) + 1]
    start, end = int(offsets[array.offset]), int(offsets[-1])
    digits = binascii.hexlify(memoryview(data)[start:end]) if data is not None else b""
    text = pa.LargeStringArray.from_buffers(
        len(array), pa.py_buffer((offsets - start) * 2), pa.py_buffer(digits), validity, -1, array.offset
    )
    prefix, nothing = pa.scalar("\\x", pa.large_string()), pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(prefix, text, nothing)
