"""The agreed schema as it stands in the bucket: one JSON object per table, beside its manifests.

Whoever lands a table agrees on its schema first, whether `sync`, a run from the UI or a backfill asked for it. The hard
part is that two may do so at once with different columns in mind: the object is written with a condition, and it must
be done while a snapshot is open that holds the source table's definition still, so that what is compared is what the
source has now and not what it had a moment ago.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from rds_lake.errors import PermanentError, SpecError
from rds_lake.extract.contract import Agreed, AgreedColumn, AgreedCursor, Change, Shape, decide, same_columns
from rds_lake.extract.source import SourceTable
from rds_lake.extract.types import Column
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.spec import TableSpec

ATTEMPTS = 5
"""How often the agreed schema is looked at again because another run changed it meanwhile."""


@dataclass(frozen=True)
class Stored:
    """An agreed schema as it stands in the lake, with the ETag that a replacement must name."""

    agreed: Agreed
    etag: str


def read_agreed(store: ObjectStore, keys: TableKeys) -> Stored | None:
    """A table's agreed schema, None before its first landing.

    Raises:
        PermanentError: the object is not one that rds_lake wrote.
    """
    return _stored(store, keys, store.get(keys.schema))


def recall_agreed(store: ObjectStore, keys: TableKeys) -> Stored | None:
    """As `read_agreed`, but as this process saw it last, if it ever did: others may have changed it meanwhile."""
    return _stored(store, keys, store.recall(keys.schema) or store.get(keys.schema))


def _stored(store: ObjectStore, keys: TableKeys, found: tuple[bytes, str] | None) -> Stored | None:
    if found is None:
        return None
    content, etag = found
    return Stored(agreed_from_json(content, store.url(keys.schema)), etag)


def present_shape(store: ObjectStore, spec: TableSpec, table: SourceTable) -> tuple[Shape, bool]:
    """How a table would be landed now, and whether there is an agreed schema yet; nothing is written.

    Raises:
        SpecError: the contract refuses the source's present columns, or rows have landed by another cursor.
    """
    stored = _binding(store, spec, table, read_agreed(store, TableKeys.of(spec)))
    return _decide(spec, table, stored), stored is not None


def agree(store: ObjectStore, spec: TableSpec, table: SourceTable) -> Shape:
    """How a table is landed now; a change of the agreed schema is written down before this returns.

    Args:
        store: the lake's bucket.
        spec: the table's YAML.
        table: the table as the source describes it, in an open snapshot.

    Raises:
        SpecError: the contract refuses the source's present columns, or rows have landed by another cursor; nothing was
            changed.
        ConflictError: others keep changing the agreed schema.
    """
    keys = TableKeys.of(spec)
    for attempt in range(1, ATTEMPTS + 1):
        stored = read_agreed(store, keys)
        binding = _binding(store, spec, table, stored)
        shape = _decide(spec, table, binding)
        if binding is not None and not shape.changes and not binding.agreed.lacks(shape.agreed):
            return shape
        try:
            store.put_if(keys.schema, agreed_to_json(shape.agreed), etag=stored.etag if stored else None)
        except ConflictError:
            if attempt == ATTEMPTS:
                raise
        else:
            return shape
    raise AssertionError("unreachable")


def _binding(store: ObjectStore, spec: TableSpec, table: SourceTable, stored: Stored | None) -> Stored | None:
    """The agreed schema, unless nothing was ever landed in it and the source, or the YAML, is not like it any more.

    A first landing that fails (a value that cannot be carried, for example) leaves its agreement behind. It must not
    stand against the remedy, whatever the contract.
    """
    if stored is None or (_is_like(stored.agreed, table) and stored.agreed.cursor in {None, _cursor(spec)}):
        return stored
    return stored if Manifests(store, TableKeys.of(spec)).partitions("landing") else None


def _is_like(agreed: Agreed, table: SourceTable) -> bool:
    """Whether the source has the agreed columns, in the order in which they were agreed on as far as it is known."""
    order = tuple(column.name.lower() for column in table.columns)
    return agreed.order in {None, order} and same_columns([item.column for item in agreed.columns], table.columns)


def _decide(spec: TableSpec, table: SourceTable, stored: Stored | None) -> Shape:
    now = datetime.now(UTC).isoformat()
    agreed, cursor = stored.agreed if stored else None, _cursor(spec)
    if agreed is not None and agreed.cursor not in {None, cursor}:
        raise SpecError(
            f"{spec.table}: rows have landed by {_said(agreed.cursor)}, the YAML has {_said(cursor)} now: 'cursor' was "
            "changed after rows had been landed. Nothing was landed.",
            f"Put it back in defs/{spec.table}/defs.yaml, or start afresh under another name ('table', "
            "'warehouse.table').",
        )
    shape = decide(spec.schema_changes, spec.table, spec.source_name, agreed, table.columns, now)
    return replace(shape, agreed=replace(shape.agreed, cursor=cursor))


def _cursor(spec: TableSpec) -> AgreedCursor | None:
    return AgreedCursor(spec.cursor.column, spec.cursor.timezone, spec.cursor.epoch) if spec.cursor else None


def _said(cursor: AgreedCursor | None) -> str:
    if cursor is None:
        return "no cursor"
    return f"the cursor '{cursor.column}' ({f'epoch {cursor.epoch}' if cursor.epoch else cursor.timezone})"


def agreed_to_json(agreed: Agreed) -> bytes:
    """An agreed schema as it is stored."""
    columns = [
        {
            **_plain(item.column),
            "source": item.source,
            "stamp": item.stamp,
            "dropped": item.dropped,
            "source_as": item.source_as,
        }
        for item in agreed.columns
    ]
    changes = [asdict(change) for change in agreed.changes]
    content = {
        "version": agreed.version,
        "since": agreed.since,
        "columns": columns,
        "order": agreed.order,
        "cursor": asdict(agreed.cursor) if agreed.cursor else None,
        "changes": changes,
    }
    return json.dumps(content, indent=1).encode()


def _plain(column: Column) -> dict[str, Any]:
    """A column's own fields; one that is not given is left out."""
    values = {field.name.rstrip("_"): getattr(column, field.name) for field in fields(column)}
    return {name: value for name, value in values.items() if value is not None}


def agreed_from_json(content: bytes, where: str) -> Agreed:
    """A stored agreed schema.

    Args:
        content: the JSON text.
        where: its address, for the error message.

    Raises:
        PermanentError: it is not one of ours.
    """
    known = {field.name.rstrip("_"): field.name for field in fields(Column)}
    try:
        data: dict[str, Any] = json.loads(content)
        columns = tuple(
            AgreedColumn(
                Column(**{known[name]: value for name, value in item.items() if name in known}),
                item["source"],
                item["stamp"],
                item["dropped"],
                item["source_as"],
            )
            for item in data["columns"]
        )
        changes = tuple(Change(item["version"], item["at"], tuple(item["what"])) for item in data["changes"])
        order, cursor = data.get("order"), data.get("cursor")
        return Agreed(
            version=data["version"],
            since=data["since"],
            columns=columns,
            changes=changes,
            order=tuple(order) if order is not None else None,
            cursor=AgreedCursor(**cursor) if cursor is not None else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(
            f"{where} is not an agreed schema that rds_lake wrote: {error!r}.",
            "Delete it: the next landing agrees on the source's present columns, and everything is landed again.",
        ) from error
