"""A version of an object, and where things about it lie in its bucket. Pure.

```
sales/append/customers/new.csv                                          where it was dropped
processed/sales/append/customers/20261128T101530-0f3a…/new.csv          where it ends, beside report.json
failed/…  staging/…  discarded/…                                        the same below another folder
```
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Outcome = Literal["processed", "failed", "staging", "discarded", "cleaned"]

REPORT = "report.json"
ID_CHARACTERS = 32
SHOWN_CHARACTERS = 12


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
        which = self.version_id or f"{self.etag} {self.landed_at:%Y-%m-%dT%H:%M:%SZ}"
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

    def prefix(self, outcome: Outcome, version: FileVersion) -> str:
        """The folder of one version's things; the same at each attempt."""
        stamp = f"{version.landed_at.astimezone(UTC):%Y%m%dT%H%M%S}"
        return f"{self.root}{outcome}/{self.folder}{stamp}-{version.file_id[:SHOWN_CHARACTERS]}/"

    def file(self, outcome: Outcome, version: FileVersion) -> str:
        """The key that the file itself has at its end."""
        name = version.name if version.name not in {"", ".", ".."} else "file"
        return f"{self.prefix(outcome, version)}{name}"


def plain_parts(key: str) -> list[str]:
    """The parts of a key as folders of ours can be called: none is empty or leads elsewhere."""
    return [part if part not in {"", ".", ".."} else "_" for part in key.split("/")]
