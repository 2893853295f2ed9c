"""Files of a batch: Parquet and CSV, written from Arrow batches and read back as Arrow batches, bounded in memory.

A file is made in a spool (memory first, then a temporary file) and sent to S3 when it is whole, so that S3 never holds
a torn one. Writing the same rows in the same order gives the same bytes, which is how a re-run sees that nothing has
changed.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rds_lake.errors import SpecError
from rds_lake.lake.manifest import File
from rds_lake.lake.store import MIB, ObjectStore, digest

ROW_GROUP_ROWS = 122_880
"""Rows of one Parquet row group; small enough to bound memory, large enough to compress."""

SPOOL_BYTES = 32 * MIB
"""What a file may take of memory before its spool moves to disk."""

FILE_BYTES = 256 * MIB
"""Size at which a batch goes on in the next file: inside the 128 to 512 MB that Athena and Redshift like."""

READ_ROWS = 65_536
"""Rows of one batch that is read back."""

CSV_BLOCK_BYTES = 16 * MIB
"""What the CSV reader takes at a time; a row must not be longer."""


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class _CsvWriter:
    """CSV with a header; NULL is an empty field, an empty text is `""`, decimals keep all their digits."""

    def __init__(self, sink: IO[bytes], schema: pa.Schema) -> None:
        self._schema = pa.schema([pa.field(f.name, _csv_type(f.type)) for f in schema])
        self._writer = pa.csv.CSVWriter(sink, self._schema)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        arrays = [pc.cast(array, field.type) for array, field in zip(batch.columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that nobody will read."""
        self._writer.close()


def _csv_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_decimal(kind) else kind


def check_format(file_format: str, schema: pa.Schema, table: str) -> None:
    """Check that a format can carry every column.

    Raises:
        SpecError: CSV was asked for and a column is binary.
    """
    binary = [field.name for field in schema if pa.types.is_binary(field.type)]
    if file_format == "csv" and binary:
        raise SpecError(
            f"{table}: the column '{binary[0]}' is binary, which CSV cannot carry.",
            f"Set 'landing: {{format: parquet}}' in defs/{table}/defs.yaml.",
        )


def open_writer(sink: IO[bytes], schema: pa.Schema, file_format: str) -> _Writer:
    """A writer of record batches into a file, as `parquet` or `csv`."""
    if file_format == "csv":
        return _CsvWriter(sink, schema)
    return _RowGroups(pq.ParquetWriter(sink, schema, compression="zstd", coerce_timestamps="us"))


class _RowGroups:
    """Gathers rows into row groups of one size, so that the bytes do not depend on how the rows came."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        while self._rows >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(self._waiting)
            self._writer.write_table(table.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
            self._waiting = table.slice(ROW_GROUP_ROWS).to_batches()
            self._rows -= ROW_GROUP_ROWS

    def close(self) -> None:
        """Write what is waiting, then the file's footer."""
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that nobody will read."""
        self._waiting, self._rows = [], 0
        self._writer.close()


class Spool:
    """One file in the making."""

    def __init__(self, schema: pa.Schema, file_format: str) -> None:
        self.content: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - closed by us
        self._writer = open_writer(self.content, schema, file_format)
        self._open = True
        self.rows = 0
        self.size = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    @property
    def full(self) -> bool:
        """Whether the batch should go on in the next file."""
        return self.content.tell() >= FILE_BYTES

    def finish(self, key: str) -> File:
        """Close the file; it can be uploaded afterwards.

        Args:
            key: the key that it will have.
        """
        self._writer.close()
        self._open = False
        self.size = self.content.tell()
        return File(key=key, size=self.size, rows=self.rows, sha256=digest(self.content))

    def discard(self) -> None:
        """Give the memory or the temporary file back."""
        if self._open:  # else it would be closed by the garbage collector, after its file
            self._writer.abandon()
            self._open = False
        self.content.close()


@contextmanager
def open_batches(
    store: ObjectStore, file: File, schema: pa.Schema, file_format: str
) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of a stored file as record batches of the given schema."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as content:
        store.download(file.key, content)
        content.seek(0)
        yield _csv_batches(content, schema) if file_format == "csv" else _parquet_batches(content, schema)


def _parquet_batches(content: IO[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(content).iter_batches(READ_ROWS):
        yield batch.cast(schema)


def _csv_batches(content: IO[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    types: Mapping[str, pa.DataType] = {field.name: field.type for field in schema}
    reader = pa.csv.open_csv(
        content,
        read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        # An empty line is a row: the NULL of a table with one column.
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    for batch in reader:
        yield pa.record_batch(batch.columns, schema=schema)
