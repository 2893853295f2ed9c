"""Files of a batch: Parquet and CSV, written from Arrow batches and read back as Arrow batches, bounded in memory.

Writing the same rows in the same order gives the same bytes, which is how a re-run sees that nothing has changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import RawIOBase
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rds_lake.errors import SpecError
from rds_lake.lake.manifest import File
from rds_lake.lake.passing import Passing
from rds_lake.lake.scratch import scratch_file, temporary_space
from rds_lake.lake.store import MIB, SINGLE_PUT_BYTES, ObjectStore

ROW_GROUP_ROWS = 122_880
"""Rows of one Parquet row group; small enough to bound memory, large enough to compress."""

ROW_GROUP_BYTES = 16 * MIB
"""Bytes of values at which a row group ends early: 4 rows of 4 MB."""

WAITING_BYTES = 4 * MIB
"""What a file that waits for its end may hold of unwritten rows."""

READ_ROWS = ROW_GROUP_ROWS
"""Rows of one batch that is read back, at most: a row group of narrow rows."""

READ_BYTES = 8 * MIB
"""Bytes of values at which a batch that is read back ends early, as far as the file tells its rows' average size."""

REPEATED = 4
"""How often a column's values must repeat, on average, for a dictionary of them to be worth its making."""

SHORT_BYTES = 256
"""Average size of a text up to which it is asked whether a dictionary is worth it."""

CSV_BLOCK_BYTES = 16 * MIB
"""What the CSV reader takes at a time; a row must not be longer."""

Content: TypeAlias = IO[bytes] | RawIOBase
"""A file that is read or written."""


def memory_of(size: int) -> int:
    """About how many bytes of memory it takes to read files of so many bytes and write their rows again.

    Values are some times larger than files, but no more of them is held than is read, and gathered and encoded for a
    row group, at a time. A thread keeps some of what it has used, however small its files are.
    """
    return min(4 * MIB + 16 * size, 6 * ROW_GROUP_BYTES)


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def settle(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class _CsvWriter:
    """CSV with a header; NULL is an empty field, an empty text is `""`, decimals keep all their digits."""

    def __init__(self, sink: Content, schema: pa.Schema) -> None:
        self._schema = pa.schema([pa.field(f.name, _csv_type(f.type)) for f in schema])
        self._writer = pa.csv.CSVWriter(sink, self._schema)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        arrays = [pc.cast(array, field.type) for array, field in zip(batch.columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def settle(self) -> None:
        """Nothing waits."""

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


def open_writer(sink: Content, schema: pa.Schema, file_format: str) -> _Writer:
    """A writer of record batches into a file, as `parquet` or `csv`."""
    if file_format == "csv":
        return _CsvWriter(sink, schema)
    return _RowGroups(sink, schema)


class _RowGroups:
    """Gathers rows into row groups that end by count or by size, so that the bytes do not depend on how rows came.

    Nor do they depend on whether texts came as such or as a dictionary. Which columns get a dictionary in the file is
    seen in its first row group: where values hardly repeat, making one takes longer than all the rest.
    """

    def __init__(self, sink: Content, schema: pa.Schema) -> None:
        self._sink = sink
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        sizes = np.cumsum(row_sizes(batch))
        start = 0
        while start < batch.num_rows:
            before = int(sizes[start - 1]) if start else 0
            full = int(np.searchsorted(sizes, ROW_GROUP_BYTES - self._bytes + before, side="left")) + 1
            end = min(batch.num_rows, full, start + ROW_GROUP_ROWS - self._rows)
            self._waiting.append(batch.slice(start, end - start))
            self._rows += end - start
            self._bytes += int(sizes[end - 1]) - before
            start = end
            if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [pa.chunked_array(self._alike(place)) for place in range(len(self._schema))]
            self._writer = self._writer or self._opened(columns)
            schema = self._writer.schema
            arrays = [_as(column, field.type) for column, field in zip(columns, schema, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._rows, self._bytes = [], 0, 0

    def _alike(self, place: int) -> list[pa.Array]:
        """What is waiting of a column: as it came, or as plain values where only some came as a dictionary."""
        chunks = [batch.column(place) for batch in self._waiting]
        plain = self._schema.field(place).type
        return chunks if len({chunk.type for chunk in chunks}) == 1 else [chunk.cast(plain) for chunk in chunks]

    def _opened(self, columns: Sequence[pa.ChunkedArray]) -> pq.ParquetWriter:
        repeated = [f for f, column in zip(self._schema, columns, strict=True) if _repeats(column, f.type)]
        encoded = {field.name for field in repeated if pa.types.is_string(field.type)}
        return pq.ParquetWriter(
            self._sink,
            pa.schema([f.with_type(_dictionary(f.type)) if f.name in encoded else f for f in self._schema]),
            compression="zstd",
            coerce_timestamps="us",
            use_dictionary=[f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in repeated],
            store_schema=False,  # it would say that the texts are dictionaries, to whoever reads them
        )

    def settle(self) -> None:
        """Write what is waiting if it is much; no more rows will come."""
        if self._bytes > WAITING_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is waiting, then the file's footer."""
        self._flush()
        self._writer = self._writer or self._opened([pa.chunked_array([], field.type) for field in self._schema])
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that nobody will read."""
        self._waiting, self._rows, self._bytes = [], 0, 0
        if self._writer is not None:
            self._writer.close()


def _dictionary(kind: pa.DataType) -> pa.DataType:
    return pa.dictionary(pa.int32(), kind)


def _repeats(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether a column's values repeat often enough; those of a list, of which there are only labels, always do."""
    if pa.types.is_list(kind):
        return True
    plain = column.cast(kind)
    if plain.nbytes > SHORT_BYTES * len(plain):
        return False
    return len(plain.unique()) * REPEATED <= len(plain)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """A column as plain values, or as one dictionary that has just its values, in the order of their appearance."""
    if not pa.types.is_dictionary(kind):
        return column.cast(kind)
    whole = column.cast(kind).unify_dictionaries().combine_chunks()
    used = whole.indices.unique().drop_null()
    places = np.zeros(len(whole.dictionary), dtype=np.int32)
    places[used.to_numpy()] = np.arange(len(used), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(places).take(whole.indices), whole.dictionary.take(used))


def row_sizes(batch: pa.RecordBatch) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """How many bytes each row's values take, about: lists, of which there are only short ones, count as nothing."""
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        elif pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            sizes += pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
        elif not pa.types.is_list(column.type):
            sizes += -(-column.type.bit_width // 8)
    return sizes


@contextmanager
def open_batches(
    store: ObjectStore, file: File, schema: pa.Schema, file_format: str, *, dictionaries: bool = False
) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of a stored file as record batches.

    Args:
        store: the lake's bucket.
        file: the file.
        schema: what the batches have: the file's columns, or some of them.
        file_format: the file's format.
        dictionaries: whether texts that the file keeps as a dictionary may come as one.

    Raises:
        RdsLakeError: the file is gone, S3 failed, or the temporary folder is full.
    """
    if file.size <= SINGLE_PUT_BYTES:
        content = pa.BufferReader(store.fetch(file.key))
        yield read_batches(content, schema, file_format, dictionaries=dictionaries)
    elif file_format == "parquet":
        with Passing(store, file) as passing:
            yield _parquet_batches(passing, schema, dictionaries=dictionaries)
    else:
        with scratch_file() as kept:
            with temporary_space():
                store.download(file.key, kept, file.size)
                kept.seek(0)
            yield read_batches(kept, schema, file_format)


def read_batches(
    content: Content, schema: pa.Schema, file_format: str, *, dictionaries: bool = False
) -> Iterator[pa.RecordBatch]:
    """The rows of a file that stands at its start, as record batches of the given schema (see `open_batches`)."""
    if file_format == "csv":
        return _csv_batches(content, schema)
    return _parquet_batches(content, schema, dictionaries=dictionaries)


def _parquet_batches(content: Content, schema: pa.Schema, *, dictionaries: bool) -> Iterator[pa.RecordBatch]:
    metadata = pq.read_metadata(content)
    encoded = _encoded(metadata, schema) if dictionaries else set()
    file = pq.ParquetFile(content, metadata=metadata, read_dictionary=sorted(encoded))
    columns = None if len(schema) == metadata.num_columns else schema.names
    wanted = pa.schema([f.with_type(_dictionary(f.type)) if f.name in encoded else f for f in schema])
    for number in range(metadata.num_row_groups):  # one by one: a batch over several would be larger than each of them
        group = metadata.row_group(number)
        if isinstance(content, Passing):
            content.show(*_extent(group))
        rows = READ_BYTES * group.num_rows // max(group.total_byte_size, 1)
        for batch in file.iter_batches(max(1, min(READ_ROWS, rows)), row_groups=[number], columns=columns):
            yield batch.cast(wanted)


def _extent(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Where a row group begins and ends in its file."""
    chunks = [group.column(place) for place in range(group.num_columns)]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    ends = [start + chunk.total_compressed_size for start, chunk in zip(starts, chunks, strict=True)]
    return min(starts), max(ends)


def _encoded(metadata: pq.FileMetaData, schema: pa.Schema) -> set[str]:
    """The text columns that a file keeps as dictionaries."""
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        texts -= {chunk.path_in_schema for chunk in chunks if not chunk.has_dictionary_page}
    return texts


def _csv_batches(content: Content, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    types: Mapping[str, pa.DataType] = {field.name: field.type for field in schema}
    reader = pa.csv.open_csv(
        content,
        read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        # An empty line is a row: the NULL of a table with one column.
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=types,
            include_columns=schema.names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        yield pa.record_batch(batch.columns, schema=schema)
