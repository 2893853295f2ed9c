"""Reader: the rows of a SELECT as Arrow record batches of bounded size, each value exactly as the type table says."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from pymysql.constants import FIELD_TYPE

from rds_lake.extract.decode import MOMENTS, Values, decode
from rds_lake.extract.stream import Block, Stream
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.extract.values import UnfitError, nulled, to_arrow

BATCH_ROWS = 65_536
"""Most rows of one batch."""

BATCH_BYTES = 16 * 1024 * 1024
"""Most bytes that the values of fixed width take in one batch; a row full of NULLs is short until it is Arrow."""

NULLED = "nulled_"
"""How the columns begin that a batch has at its end, one for each column `as: null`: whether a value became NULL."""


class MisfitError(ValueError):
    """A value that cannot be carried whole.

    Args:
        column: its column.
        row: the row's values, by column, as they came.
    """

    def __init__(self, column: Column, row: dict[str, Any]) -> None:
        self.column = column
        self.row = row
        super().__init__(f"{column.name} cannot be carried whole")


def read(
    driver: Any,  # noqa: ANN401 - see `Stream`
    columns: Sequence[Column],
    text: str,
    parameters: Sequence[Any] = (),
) -> Iterator[pa.RecordBatch]:
    """The rows of a SELECT.

    Args:
        driver: the driver's connection; if the rows are not read to their end it is of no more use.
        columns: the columns.
        text: the SELECT, which asks for `expression(column)` of each of them, with `%s` for its parameters.
        parameters: the values of the parameters.

    Yields:
        Batches with these columns, and after them one `nulled_<column>` for each column `as: null`.

    Raises:
        MisfitError: a value cannot be carried whole.
        pymysql.MySQLError: the server refuses, reports an error among the rows, or goes away.
    """
    stream = Stream(driver, text, parameters)
    schema = _schema(columns)
    most = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, sum(_width(field.type) for field in schema))))
    for block in stream.blocks():
        for first in range(0, len(block.starts), most):
            some = Block(block.content, block.starts[first : first + most])
            yield _batch(decode(some, stream.fields), columns, schema)


def read_all(driver: Any, columns: Sequence[Column], text: str) -> pa.Table:  # noqa: ANN401 - see `Stream`
    """The rows of a small SELECT, as `read` has them, without the marks of what became NULL."""
    batches = list(read(driver, columns, text))
    return pa.Table.from_batches(batches, _schema(columns)).select([column.name for column in columns])


def _schema(columns: Sequence[Column]) -> pa.Schema:
    marks = [pa.field(NULLED + column.name, pa.bool_()) for column in columns if column.as_ == "null"]
    return pa.schema([*arrow_schema(tuple(columns)), *marks])


def _width(kind: pa.DataType) -> int:
    """Bytes that a value takes, whatever it is; of a text, those that say where it ends."""
    return 4 if pa.types.is_string(kind) or pa.types.is_binary(kind) else -(-kind.bit_width // 8)


def _batch(rows: list[Values], columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    arrays, marks = [], []
    for column, values in zip(columns, rows, strict=True):
        try:
            arrays.append(to_arrow(column, values))
        except UnfitError as error:
            place = error.position
            shown = {each.name: _shown(each, found, place) for each, found in zip(columns, rows, strict=True)}
            raise MisfitError(column, shown) from error
        if column.as_ == "null":
            marks.append(nulled(arrays[-1], values))
    return pa.record_batch([*arrays, *marks], schema=schema)


def _shown(column: Column, values: Values, row: int) -> Any:  # noqa: ANN401 - any value
    """One value for a message: None, a number, a text, bytes or a moment."""
    if values.nulls is not None and values.nulls[row]:
        return None
    if isinstance(values.content, pa.Array):
        content = values.content[row].as_py()
        if values.field.type == FIELD_TYPE.BIT:
            return int.from_bytes(content, "big")
        return content if pa.types.is_binary(column.mapped.arrow) else content.decode(errors="replace")
    number = values.content[row].item()
    if values.field.type not in MOMENTS:
        return number
    if values.unfit is not None and values.unfit[row]:
        return values.first_unfit if row == int(values.unfit.argmax()) else "no moment"
    moment = datetime(1970, 1, 1) + timedelta(microseconds=number)  # noqa: DTZ001 - the column's own clock
    return moment if values.field.type in {FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP} else moment.date()
