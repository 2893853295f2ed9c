"""Records of the audit log, and the items that DynamoDB keeps them as. Pure.

| item | TableName (partition key) | LandedKey (sort key) | for |
|---|---|---|---|
| record | the table | `<landed>#<file id>` | "all records of a table, newest first, since a time" is one Query |
| identity | `#FILE#<file id>` | `FILE` | each version of an object is claimed once; finds the record of a file id |
| open | `#OPEN#<receiver>` | the file id | what is claimed and not finished is one Query |
| table | `#TABLES` | the table | the names of all tables are one Query |

A moment in a key is UTC of fixed width, so that it sorts as text. `landed` is the object's own time, never that of its
processing: the same event seen twice makes the same keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

Status = Literal["processing", "completed", "rejected", "failed"]
"""`rejected`: the file is at fault; `failed`: it could not be done although the file may be good."""

STATUSES: tuple[Status, ...] = get_args(Status)

Item = dict[str, Any]
"""An item in DynamoDB's own form: `{"TableName": {"S": "sales.customers"}, ...}`."""

PARTITION, SORT = "TableName", "LandedKey"
TABLES = "#TABLES"
IDENTITY = "FILE"
MARK = "#"
"""What no table's name begins with."""

ERROR_CHARACTERS = 2000
"""An item holds 400 KB; a longer story stands in the file's report."""


@dataclass(frozen=True)
class Record:
    """What is known of one file version, or of one run of a table's pipeline.

    Attributes:
        table: what it is for: `sales.customers` of a drop zone, the name of a feed or of a table's pipeline.
        file_id: what identifies the version, in hexadecimal.
        file_name: the last part of the object's key.
        action: `append`, `truncate` or `schema` of a drop zone, `upsert` of a feed, `sync` of a pipeline.
        status: how far it is.
        landed_at: the object's own time, in UTC.
        receiver: the drop zone or feed that takes it.
        owner: who works on it; every change of the record is made on the condition that this is still so.
        lease_until: until when the owner is left alone.
        attempts: how often it has been begun.
        started_at: when its processing began first.
        ended_at: when it ended.
        run_id: the Dagster run that worked on it last.
        rows_read: data rows of the file, bad ones included.
        rows_loaded: rows that went into the target.
        rows_discarded: rows that did not, and lie in `discarded`.
        error: why it was refused or failed, or why rows were discarded.
        bucket: where the object was.
        key: its key.
        etag: its ETag.
        version_id: its version in a bucket with versioning.
        size: its bytes.
        moved_to: where the file lies now, `s3://...`.
        report: the address of its report, `s3://...`.
        content: digest of the file's content.
    """

    table: str
    file_id: str
    file_name: str
    action: str
    status: Status
    landed_at: datetime
    receiver: str = ""
    owner: str = ""
    lease_until: datetime | None = None
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    run_id: str | None = None
    rows_read: int | None = None
    rows_loaded: int | None = None
    rows_discarded: int | None = None
    error: str | None = None
    bucket: str | None = None
    key: str | None = None
    etag: str | None = None
    version_id: str | None = None
    size: int | None = None
    moved_to: str | None = None
    report: str | None = None
    content: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nobody will work on it any more."""
        return self.status != "processing"

    @property
    def landed_key(self) -> str:
        """The record's sort key."""
        return landed_key(self.landed_at, self.file_id)

    def with_error(self, text: str | None) -> "Record":
        """The same with an error, cut to what a record holds."""
        return replace(self, error=text[:ERROR_CHARACTERS] if text else None)


NAMES: Mapping[str, str] = {
    "table": PARTITION,
    "file_id": "FileID",
    "file_name": "FileName",
    "action": "Action",
    "status": "Status",
    "landed_at": "UploadTimestamp",
    "receiver": "Receiver",
    "owner": "Owner",
    "lease_until": "LeaseUntil",
    "attempts": "Attempts",
    "started_at": "ProcessingStartTimestamp",
    "ended_at": "ProcessingEndTimestamp",
    "run_id": "RunID",
    "rows_read": "RowsRead",
    "rows_loaded": "RowsLoaded",
    "rows_discarded": "RowsDiscarded",
    "error": "Error",
    "bucket": "Bucket",
    "key": "Key",
    "etag": "ETag",
    "version_id": "VersionID",
    "size": "Size",
    "moved_to": "MovedTo",
    "report": "Report",
    "content": "ContentSHA256",
}
"""How the attributes of a record are called in DynamoDB."""

_MOMENTS = frozenset({"landed_at", "lease_until", "started_at", "ended_at"})


def stamp(moment: datetime) -> str:
    """A moment as keys hold it: UTC of fixed width, `2026-11-20T12:34:56.123456Z`."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def moment_of(text: str) -> datetime:
    """A moment that `stamp` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def landed_key(landed_at: datetime, file_id: str) -> str:
    """The sort key of a record."""
    return f"{stamp(landed_at)}{MARK}{file_id}"


def key_item(table: str, sort: str) -> Item:
    """The key of an item."""
    return {PARTITION: {"S": table}, SORT: {"S": sort}}


def to_item(record: Record) -> Item:
    """A record as DynamoDB keeps it; what is not known is left out."""
    item = key_item(record.table, record.landed_key)
    for name in NAMES:
        value = getattr(record, name)
        if value is not None:
            item[NAMES[name]] = attribute(name, value)
    return item


def attribute(name: str, value: Any) -> dict[str, str]:  # noqa: ANN401 - a number, a text or a moment
    """The value of a record's attribute as DynamoDB keeps it."""
    if name in _MOMENTS:
        return {"S": stamp(value)}
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def from_item(item: Mapping[str, Any]) -> Record:
    """A record as DynamoDB returned it."""
    known: dict[str, Any] = {}
    for field in fields(Record):
        value = item.get(NAMES[field.name])
        if value is None:
            continue
        text = next(iter(value.values()))
        is_moment = field.name in _MOMENTS
        known[field.name] = moment_of(text) if is_moment else int(text) if "N" in value else text
    return Record(**known)


def identity_key(file_id: str) -> Item:
    """The key of the item that finds the record of a file id."""
    return key_item(f"{MARK}FILE{MARK}{file_id}", IDENTITY)


def open_key(receiver: str, file_id: str) -> Item:
    """The key of the item that says that a file is claimed and not finished."""
    return key_item(f"{MARK}OPEN{MARK}{receiver}", file_id)


def pointer(record: Record) -> Item:
    """What identity and open items hold beside their key: where the record is."""
    return {"RecordTable": {"S": record.table}, "RecordKey": {"S": record.landed_key}}


def pointed(item: Mapping[str, Any]) -> Item:
    """The key of the record that such an item points to."""
    return key_item(item["RecordTable"]["S"], item["RecordKey"]["S"])
