"""Carrying: rows as they were read, put into the columns that were agreed on.

A column that the source has lost becomes NULL, one of another type is converted. A value that the agreed type does not
hold whole stops the landing, named with its row: a conversion counts only if the way back leads to the same value.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from rds_lake.errors import PermanentError
from rds_lake.extract.contract import Reading, Shape
from rds_lake.extract.types import Column
from rds_lake.extract.widening import DECIMAL_MAX, byte_limit, holds
from rds_lake.spec import TableSpec

SHOWN = 100
"""Characters of a bad value that an error shows."""


def carry(batches: Iterable[pa.RecordBatch], shape: Shape, spec: TableSpec) -> Iterator[pa.RecordBatch]:
    """Rows in the columns of a shape.

    Args:
        batches: the rows with the columns `shape.read`; columns that follow them are kept, at the end.
        shape: how they are read.
        spec: the table's YAML.

    Raises:
        PermanentError: a value does not fit; the message names table, column, value and key.
    """
    for batch in batches:
        yield _carried(batch, shape, spec)


def _carried(batch: pa.RecordBatch, shape: Shape, spec: TableSpec) -> pa.RecordBatch:
    fields, arrays, place = [], [], 0
    for reading in shape.readings:
        kind = reading.column.mapped.arrow
        fields.append(pa.field(reading.column.name, kind, nullable=reading.column.nullable))
        if reading.source is None:
            arrays.append(pa.nulls(batch.num_rows, kind))
            continue
        arrays.append(_converted(batch, batch.column(place), reading, reading.source, spec))
        place += 1
    for more in range(place, batch.num_columns):
        fields.append(batch.schema.field(more))
        arrays.append(batch.column(more))
    return pa.record_batch(arrays, schema=pa.schema(fields))


def _converted(batch: pa.RecordBatch, values: pa.Array, reading: Reading, source: Column, spec: TableSpec) -> pa.Array:
    held, read = reading.column.mapped, source.mapped
    if held.redshift == read.redshift and held.arrow == values.type:
        return values
    if holds(held.redshift, read.redshift):
        return _cast(values, held.arrow)
    converted = _attempt(values, held.arrow, byte_limit(held.redshift))
    if converted is None:
        raise _unfit(batch, values, reading, spec)
    return converted


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in another type; a decimal as text has all its digits, as the source prints it, and no exponent."""
    if pa.types.is_decimal(values.type) and pa.types.is_string(kind):
        return pa.array([None if value is None else format(value, "f") for value in values.to_pylist()], kind)
    return values if values.type == kind else values.cast(kind)


def _attempt(values: pa.Array, kind: pa.DataType, limit: int | None) -> pa.Array | None:
    """The values in another type, None when one of them is not the same there."""
    try:
        there = _cast(values, kind)
        # All digits on the way back: a whole number may need more than the decimal it comes from has.
        back = pa.decimal128(DECIMAL_MAX, values.type.scale) if pa.types.is_decimal(values.type) else values.type
        same = there.type == values.type or there.cast(back).equals(values.cast(back))
    except pa.ArrowInvalid:
        return None
    if limit is not None and (pc.max(pc.binary_length(there)).as_py() or 0) > limit:
        return None
    return there if same else None


def _unfit(batch: pa.RecordBatch, values: pa.Array, reading: Reading, spec: TableSpec) -> PermanentError:
    """The error over the first value that does not fit; personal data is not shown."""
    held = reading.column.mapped
    limit = byte_limit(held.redshift)
    row = next(n for n in range(len(values)) if _attempt(values.slice(n, 1), held.arrow, limit) is None)

    def shown(name: str, value: object) -> str:
        return "a personal value" if spec.is_personal(name) else repr(value)[:SHOWN]

    keys = [f"{key} = {shown(key, batch.column(key)[row].as_py())}" for key in spec.key if key in batch.schema.names]
    return PermanentError(
        f"{spec.table}: the column '{reading.column.name}' holds {shown(reading.column.name, values[row].as_py())} in "
        f"the row {', '.join(keys) or 'without a key'}, which the agreed type {reading.column.type} "
        f"({held.redshift}) cannot hold whole.",
        f"Set schema_changes: evolve in defs/{spec.table}/defs.yaml to follow the source, or correct the value; no row "
        "of this partition was changed in the lake.",
    )
