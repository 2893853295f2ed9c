"""A version of an object, and where things about it lie in its bucket. Pure.

```
sales/append/customers/new.csv                                          where it was dropped
processed/sales/append/customers/20261128T101530-0f3a…/new.csv          where it ends, beside report.json
failed/…  staging/…  discarded/…                                        the same below another folder
```
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

Outcome = Literal["processed", "failed", "staging", "discarded", "cleaned"]

SCHEMA = "schema"
"""The action of a file that says what a table is."""

REPORT = "report.json"
ID_CHARACTERS = 32
SHOWN_CHARACTERS = 12

KEY_BYTES = 1024
"""Bytes of a key of S3. Ours are longer than those of the files: what would be too long is cut, and marked with `~`."""

PREFIX_BYTES = 800
NAME_END_BYTES = 40
"""Bytes at the end of a name that are never cut, so that the name says what the file is."""


@dataclass(frozen=True)
class FileVersion:
    """One version of an object.

    Attributes:
        bucket: its bucket.
        key: its key.
        etag: its ETag, without quotes.
        size: its bytes.
        landed_at: when it was written, in UTC, to the second, as S3 tells it.
        version_id: its version, in a bucket with versioning.
    """

    bucket: str
    key: str
    etag: str
    size: int
    landed_at: datetime
    version_id: str | None = None

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def file_id(self) -> str:
        """What identifies the version: the same for every event and every listing that shows it.

        Without versioning the time belongs to it: the same bytes under the same key may be dropped again later.
        """
        which = self.version_id or f"{self.etag} {self.landed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return hashlib.sha256("\0".join((self.bucket, self.key, which)).encode()).hexdigest()[:ID_CHARACTERS]

    @property
    def order(self) -> tuple[datetime, str]:
        """What puts the versions of all files into one order, whoever sees them when."""
        return self.landed_at, self.file_id


@dataclass(frozen=True)
class Place:
    """Where a dropped file belongs.

    Attributes:
        table: what it is for, as the audit log calls it.
        action: what it does there.
        root: the folder that all of ours lie in; empty for the bucket itself.
        folder: the folder of the file's kind, which is repeated below ours.
    """

    table: str
    action: str
    root: str
    folder: str

    @property
    def is_of_schema(self) -> bool:
        """Whether the file says what its table is, so that others need it."""
        return self.action == SCHEMA

    def prefix(self, outcome: Outcome, version: FileVersion) -> str:
        """The folder of one version's things; the same at each attempt."""
        stamp = f"{version.landed_at.astimezone(UTC):%Y%m%dT%H%M%S}"
        start, end = f"{self.root}{outcome}/", f"{stamp}-{version.file_id[:SHOWN_CHARACTERS]}/"
        return f"{start}{_cut_folder(self.folder, PREFIX_BYTES - _size(start + end))}{end}"

    def file(self, outcome: Outcome, version: FileVersion) -> str:
        """The key that the file itself has at its end."""
        name = {"": "file", ".": "file", "..": "file", REPORT: f"_{REPORT}"}.get(version.name, version.name)
        prefix = self.prefix(outcome, version)
        return f"{prefix}{_cut_name(name, KEY_BYTES - _size(prefix))}"


def _size(text: str) -> int:
    return len(text.encode())


def _cut_folder(folder: str, most: int) -> str:
    if _size(folder) <= most:
        return folder
    return folder.encode()[: most - 2].decode(errors="ignore").rstrip("/") + "~/"


def _cut_name(name: str, most: int) -> str:
    if _size(name) <= most:
        return name
    whole, kept = name.encode(), most - NAME_END_BYTES - 1
    return whole[:kept].decode(errors="ignore") + "~" + whole[-NAME_END_BYTES:].decode(errors="ignore")


def plain_parts(key: str) -> list[str]:
    """The parts of a key as ours can be called: none is empty or leads elsewhere, none has control characters."""
    return ["_" if part in {"", ".", ".."} else _CONTROLS.sub("_", part) for part in key.split("/")]


def is_plain(key: str) -> bool:
    """Whether a key is one that `rds_lake.lake.store` takes."""
    return plain_parts(key) == key.split("/")
