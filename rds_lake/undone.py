"""The stretches that a sync could not do, and the older ones that have to wait for them.

A row that is updated leaves its partition for a newer one. Where the newer one could not be loaded, the load of the
older one would take the row out of the warehouse: of the two states the old one is better. So an older stretch goes on
only if none of the rows that the warehouse holds of it stands in an undone one at the source. Keys are compared as the
audit compares them, by hashes that both servers compute alike.
"""

from dataclasses import replace

from rds_lake.cursors import holds_nulls
from rds_lake.extract.source import Source, SourceTable
from rds_lake.lake.agreement import present_shape
from rds_lake.lake.store import ObjectStore
from rds_lake.partitions import Window
from rds_lake.spec import TableSpec
from rds_lake.verify.canonical import is_summed
from rds_lake.verify.comparable import comparison
from rds_lake.verify.sides import SourceSide, WarehouseSide
from rds_lake.warehouse.connection import Warehouse
from rds_lake.warehouse.statements import Target

MOST = 1_000_000
"""Keys of undone stretches that are remembered; beyond them, whatever holds rows waits."""


class Undone:
    """The undone stretches of one table.

    Args:
        source: the MySQL source.
        store: the lake's bucket.
        warehouse: the warehouse.
        spec: the table's YAML.
        table: the table as the source describes it.
    """

    def __init__(
        self, source: Source, store: ObjectStore, warehouse: Warehouse, spec: TableSpec, table: SourceTable
    ) -> None:
        self._source = source
        self._store = store
        self._warehouse = warehouse
        self._spec = spec
        self._table = table
        self._windows: list[Window] = []
        self._keys: set[str] | None = set()

    def add(self, window: Window) -> None:
        """Remember a stretch that was not done."""
        self._windows.append(window)

    def waits(self, window: Window) -> bool:
        """Whether an older stretch has to wait: rows of it may have moved into an undone one.

        Raises:
            RdsLakeError: source or warehouse cannot be read.
        """
        with self._warehouse.connect() as session, self._source.connect() as connection:
            held = WarehouseSide(session, Target(self._spec, self._table.columns))
            shape, _ = present_shape(self._store, self._spec, self._table)
            asked = comparison(shape, self._spec.key, (), held.columns).source
            key = tuple(column for column in asked.columns if column.name in self._spec.key and is_summed(column))
            if not key or len(key) < len(self._spec.key):
                self._keys = None  # nothing tells a row that has moved from a new one
            else:
                asked = replace(asked, columns=key)
            here = SourceSide(connection, self._spec)
            while self._windows and self._keys is not None:
                undone = self._windows.pop()
                for rows in here.hashes(asked, undone, with_null=holds_nulls(self._spec, undone)):
                    self._keys |= {row[0] for row in rows}
                    if len(self._keys) > MOST:
                        self._keys = None
                        break
            found = held.hashes(asked, window, with_null=holds_nulls(self._spec, window))
            return any(self._keys is None or row[0] in self._keys for rows in found for row in rows)
