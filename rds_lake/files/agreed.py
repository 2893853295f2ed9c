"""The agreed schemas of a drop zone's tables: objects in its bucket, `schemas/<database>/<table>.json`.

They are what schema files have come to so far. Each is replaced on the condition that it is what was read before.
"""

import json
from dataclasses import dataclass
from datetime import datetime

from rds_lake.audit_log.record import moment_of, stamp
from rds_lake.errors import PermanentError
from rds_lake.files.schema import TableSchema
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion

SCHEMA_FILES = 100
"""Files that an agreed schema names: one that is taken again after a crash may have been followed by others."""


@dataclass(frozen=True)
class AgreedSchema:
    """The schema of a table as it stands.

    Attributes:
        schema: the schema.
        landed_at: when the file landed that it is from.
        file_ids: the last files that went into it, oldest first.
        etag: what a replacement must name.
    """

    schema: TableSchema
    landed_at: datetime
    file_ids: tuple[str, ...]
    etag: str


class AgreedSchemas:
    """The agreed schemas of one drop zone.

    Args:
        store: its bucket.
        database: its name.
    """

    def __init__(self, store: FileStore, database: str) -> None:
        self._store = store
        self._database = database

    def _key(self, table: str) -> str:
        return f"schemas/{self._database}/{table}.json"

    def has(self, table: str) -> bool:
        """Whether a table has a schema."""
        return self._store.look(self._key(table)) is not None

    def read(self, table: str) -> AgreedSchema | None:
        """The schema of a table, None when it has none.

        Raises:
            PermanentError: what lies there is none.
        """
        found = self._store.ours.get(self._key(table))
        if found is None:
            return None
        try:
            data = json.loads(found[0])
            schema, landed_at = TableSchema.model_validate(data["schema"]), moment_of(data["landed_at"])
            return AgreedSchema(schema, landed_at, tuple(data["file_ids"]), found[1])
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                f"{self._store.url(self._key(table))} is no schema that rds_lake wrote: {error!r}.",
                "Move it away and drop the schema file again.",
            ) from error

    def replace(self, table: str, schema: TableSchema, version: FileVersion, held: AgreedSchema | None) -> None:
        """Agree on a schema.

        Args:
            table: the table.
            schema: what its schema is from now on.
            version: the schema file that it is from.
            held: what it takes the place of, None for a table's first one.

        Raises:
            ConflictError: another schema file was faster; nothing was changed.
        """
        ids = [*(held.file_ids if held else ()), version.file_id][-SCHEMA_FILES:]
        data = {"landed_at": stamp(version.landed_at), "file_ids": ids, "schema": schema.model_dump()}
        self._store.ours.put_if(self._key(table), json.dumps(data, indent=1).encode(), etag=held.etag if held else None)
