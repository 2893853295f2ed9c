"""`extract SPEC FILE`: a table's rows from the snapshot's reader, which reads ahead, into one Parquet file."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ours.rooms import open_rooms
from rds_lake.extract.snapshot import open_snapshot

ROW_GROUP_ROWS = 122_880


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows in tables of at least so many rows; the last one may have fewer."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if sum(each.num_rows for each in some) >= rows:
            yield pa.Table.from_batches(some)
            some = []
    if some:
        yield pa.Table.from_batches(some)


def main() -> None:
    """Extract."""
    rooms = open_rooms()
    [path] = rooms.words
    with (
        open_snapshot(rooms.source, rooms.spec) as snapshot,
        pq.ParquetWriter(path, snapshot.schema, compression="zstd") as writer,
    ):
        for table in gathered(snapshot.rows(), ROW_GROUP_ROWS):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


if __name__ == "__main__":
    main()
