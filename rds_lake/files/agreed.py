"""The agreed schemas of a drop zone's tables: objects in its bucket, `schemas/<database>/<table>.json`.

They are what schema files have come to so far, one after the other: a data file is read under the schema of the moment
at which it landed, whenever it is handled. Each is replaced on the condition that it is what was read before.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rds_lake.audit_log.record import moment_of, stamp
from rds_lake.errors import PermanentError
from rds_lake.files.schema import TableSchema
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion

SCHEMA_FILES = 100
"""Schema files of a table that are remembered, the last ones; for files that landed before these, the oldest holds."""


@dataclass(frozen=True)
class Taken:
    """A schema file that was taken.

    Attributes:
        file_id: the file.
        landed_at: when it landed.
        schema: what the table's schema was from then on.
    """

    file_id: str
    landed_at: datetime
    schema: TableSchema


@dataclass(frozen=True)
class AgreedSchema:
    """The schema of a table.

    Attributes:
        taken: the schema files that it is from, in the order in which they landed; at least one.
        etag: what a replacement must name.
    """

    taken: tuple[Taken, ...]
    etag: str

    @property
    def schema(self) -> TableSchema:
        """The schema as it stands."""
        return self.taken[-1].schema

    @property
    def landed_at(self) -> datetime:
        """When the file landed that it is from."""
        return self.taken[-1].landed_at

    def at(self, moment: datetime) -> TableSchema:
        """The schema of a moment; before the first schema file it is that one's."""
        return next((each.schema for each in reversed(self.taken) if each.landed_at <= moment), self.taken[0].schema)

    def of(self, file_id: str) -> TableSchema | None:
        """The schema that a file has made, None if it was not taken."""
        return next((each.schema for each in self.taken if each.file_id == file_id), None)


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
            return AgreedSchema(tuple(_read(json.loads(found[0])["taken"])), found[1])
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
        new = Taken(version.file_id, version.landed_at, schema)
        taken = [*(held.taken if held else ()), new][-SCHEMA_FILES:]
        content = json.dumps({"taken": list(_written(taken))}, indent=1).encode()
        self._store.ours.put_if(self._key(table), content, etag=held.etag if held else None)


def _written(taken: Sequence[Taken]) -> Iterator[dict[str, Any]]:
    """As JSON; a schema that is the same as the one before is not repeated, for files may come with each delivery."""
    before: TableSchema | None = None
    for each in taken:
        schema = None if each.schema == before else each.schema.model_dump()
        yield {"file_id": each.file_id, "landed_at": stamp(each.landed_at), "schema": schema}
        before = each.schema


def _read(taken: Sequence[Mapping[str, Any]]) -> Iterator[Taken]:
    schema: TableSchema | None = None
    for each in taken:
        schema = schema if schema and each["schema"] is None else TableSchema.model_validate(each["schema"])
        yield Taken(each["file_id"], moment_of(each["landed_at"]), schema)
    if schema is None:
        raise ValueError("it names no schema file")
