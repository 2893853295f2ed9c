"""The reference reader: rows as the driver hands them out, one by one, in the text protocol. Slow, and plain to see.

It is the judge of the product's reader, which takes the binary protocol apart by itself: both ask the same question,
and must come to the same Arrow values, value by value.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import SSCursor

from rds_lake.extract.snapshot import Snapshot
from rds_lake.extract.types import Column

MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError)
"""What Arrow raises over a value that is none of a type."""

CONVERSIONS: dict[Any, Callable[..., Any]] = {
    **{key: value for key, value in conversions.items() if isinstance(key, int)},
    FIELD_TYPE.BIT: lambda value: int.from_bytes(value, "big"),
}
"""The driver's own conversions, but for bit fields."""


def reference_rows(snapshot: Snapshot) -> list[tuple[Any, ...]]:
    """All rows of a snapshot's table, as Python values of the Arrow types that the type table names."""
    columns = snapshot.table.columns
    snapshot.connection.decoders = dict(CONVERSIONS)
    rows = list(_fetched(snapshot))
    arrays = [reference_array(column, values) for column, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return list(zip(*(array.to_pylist() for array in arrays), strict=True))


def _fetched(snapshot: Snapshot) -> Iterator[tuple[Any, ...]]:
    text, parameters = snapshot.rows_query()
    with snapshot.connection.cursor(SSCursor) as cursor:
        cursor.execute(text, parameters)
        yield from cursor.fetchall_unbuffered()


def reference_array(column: Column, values: Sequence[Any]) -> pa.Array:
    """The values of a column as Arrow, one by one; for a column `as: null`, NULL where one is no value of the type."""
    return pa.array([_value(column, value) for value in values], type=column.mapped.arrow)


def _value(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.as_ == "boolean":
        return bool(value)
    if column.as_ == "string" and column.kind == "bytes":
        return value.hex().upper()
    if column.as_ != "null":
        return value
    try:
        pa.array([value], type=column.mapped.arrow)
    except MISFITS:
        return None
    return value
