"""`read_connectorx TABLE FILE`: ConnectorX, streaming Arrow batches into a Parquet file."""

import sys

import address
import connectorx
import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    """Read and write."""
    table, file = sys.argv[1:]
    read = connectorx.read_sql(
        address.url(), f"SELECT * FROM `{table}`", return_type="arrow_stream", batch_size=122_880, protocol="binary"
    )
    reader = pa.RecordBatchReader.from_stream(read) if not isinstance(read, pa.RecordBatchReader) else read
    with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


if __name__ == "__main__":
    main()
