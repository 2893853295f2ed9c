"""The manifest: the small JSON object that names the files of a partition's current batch. Writing it is the commit.

It has the form of Redshift's own COPY manifest (`entries` with `url`, `mandatory`, `meta.content_length`), so that a
load can use it as it is, and says beside that what the batch holds. `docs/manifest.md` describes each field.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from rds_lake.errors import PermanentError
from rds_lake.extract.types import Column
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.store import FEW, ObjectStore
from rds_lake.side_by_side import side_by_side
from rds_lake.spec import Stage

VERSION = 1


Head: TypeAlias = tuple[Mapping[str, str | None], ...]
"""The first rows of a batch: the text of each value by its column, None for NULL."""


@dataclass(frozen=True)
class File:
    """One file of a batch.

    Attributes:
        key: its key in the lake's bucket.
        size: its length in bytes.
        rows: its number of rows.
        sha256: the digest of its content.
    """

    key: str
    size: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What one partition's current batch of one stage is.

    Attributes:
        table: the table's name.
        stage: the stage.
        partition: the partition's key, `all` for a table without partitions.
        batch: the batch's id.
        files: its files, none when it has no rows.
        columns: the source's columns, in the files' order (the discarded stage adds its own at the end).
        fingerprint: the source's fingerprint that the rows were read with, in the same snapshot.
        fence: the fence that they were read under, ISO 8601 in UTC.
        format: the files' format.
        parent: the batch that this one was made from, for a stage after landing.
        rules: digest of the rules that it was split by, for staging and discarded.
        details: counts worth keeping: rows discarded by rule, values made NULL by column (`nulled_<column>`).
        source_unique: whether the source itself keeps the table's key unique.
        shape: digest of the agreed columns that it was landed in; None in a manifest of an earlier version.
        snapshot: what names the source's snapshot that the rows were read in: batches of one snapshot have no row in
            common. None when nobody said.
        head: its first rows as short texts, if this process wrote it; not stored.
    """

    table: str
    stage: Stage
    partition: str
    batch: str
    files: tuple[File, ...]
    columns: tuple[Column, ...]
    fingerprint: str
    fence: str
    format: str = "parquet"
    parent: str | None = None
    rules: str | None = None
    details: dict[str, int] = field(default_factory=dict)
    source_unique: bool = False
    shape: str | None = None
    snapshot: str | None = None
    head: Head | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return sum(file.size for file in self.files)

    def same_content(self, other: "Manifest") -> bool:
        """Whether two batches hold the same bytes in the same order, wherever their files lie."""
        mine, theirs = ([(file.sha256, file.size, file.rows) for file in m.files] for m in (self, other))
        return mine == theirs and self.columns == other.columns and self.format == other.format

    def to_json(self, bucket: str) -> bytes:
        """The manifest as it is stored."""
        return json.dumps(
            {
                "entries": [
                    {
                        "url": f"s3://{bucket}/{file.key}",
                        "mandatory": True,
                        "meta": {"content_length": file.size, "record_count": file.rows, "sha256": file.sha256},
                    }
                    for file in self.files
                ],
                "version": VERSION,
                "table": self.table,
                "stage": self.stage,
                "partition": self.partition,
                "batch": self.batch,
                "rows": self.rows,
                "fingerprint": self.fingerprint,
                "fence": self.fence,
                "format": self.format,
                "parent": self.parent,
                "rules": self.rules,
                "details": self.details,
                "source_unique": self.source_unique,
                "shape": self.shape,
                "snapshot": self.snapshot,
                "schema": [_stored(column) for column in self.columns],
            },
            indent=1,
        ).encode()

    @classmethod
    def from_json(cls, content: bytes, bucket: str, where: str) -> "Manifest":
        """A stored manifest.

        Args:
            content: the JSON text.
            bucket: the lake's bucket, in which all its files lie.
            where: the manifest's address, for the error message.

        Raises:
            PermanentError: it is not a manifest of ours.
        """
        try:
            data: dict[str, Any] = json.loads(content)
            files = tuple(
                File(
                    key=entry["url"].removeprefix(f"s3://{bucket}/"),
                    size=entry["meta"]["content_length"],
                    rows=entry["meta"]["record_count"],
                    sha256=entry["meta"]["sha256"],
                )
                for entry in data["entries"]
            )
            columns = tuple(
                Column(item["name"], item["type"], item["nullable"], item.get("as")) for item in data["schema"]
            )
            names = ("table", "stage", "partition", "batch", "fingerprint", "fence", "format", "parent", "rules")
            return cls(
                **{name: data[name] for name in names},
                files=files,
                columns=columns,
                details=data["details"],
                source_unique=data["source_unique"],
                shape=data.get("shape"),
                snapshot=data.get("snapshot"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PermanentError(
                f"{where} is not a manifest that rds_lake wrote: {error!r}.",
                "Move it away and materialise the partition again.",
            ) from error

    def with_files(self, files: Iterable[File]) -> "Manifest":
        """The same batch, its files elsewhere."""
        return replace(self, files=tuple(files))


def _stored(column: Column) -> dict[str, Any]:
    plain = {"name": column.name, "type": column.type, "nullable": column.nullable}
    return plain if column.as_ is None else {**plain, "as": column.as_}


@dataclass(frozen=True)
class Committed:
    """A manifest as it stands in the lake, with the ETag that a replacement must name."""

    manifest: Manifest
    etag: str


def lake_state(etags: Iterable[str]) -> str:
    """What identifies the state of the lake that a load takes.

    Args:
        etags: of the manifests that it rests on, in the order of `LOADED_FROM`.
    """
    return hashlib.sha256(" ".join(etags).encode()).hexdigest()[:32]


LOADED_FROM: tuple[Stage, ...] = ("landing", "staging", "discarded")
"""The stages that account for a loaded partition; the archive holds landing's files, whose manifest says where."""


def unaccounted(
    landed: Mapping[str, Manifest], staged: Mapping[str, Manifest], discarded: Mapping[str, Manifest]
) -> list[str]:
    """The partitions whose landed rows are not all staged or discarded, or whose batches do not stem from one another.

    Args:
        landed: the current landed batches by partition.
        staged: the current staging batches.
        discarded: the current discarded batches.
    """
    return [
        key
        for key, batch in landed.items()
        if key not in staged
        or key not in discarded
        or {staged[key].parent, discarded[key].parent} != {batch.batch}
        or staged[key].rows + discarded[key].rows != batch.rows
    ]


class Manifests:
    """The manifests of one table.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
    """

    def __init__(self, store: ObjectStore, keys: TableKeys) -> None:
        self._store = store
        self._keys = keys

    def read(self, stage: Stage, partition: str) -> Committed | None:
        """The current batch of a partition, None when there has never been one."""
        key = self._keys.manifest(stage, partition)
        return self._committed(key, self._store.get(key))

    def _committed(self, key: str, found: tuple[bytes, str] | None) -> Committed | None:
        if found is None:
            return None
        content, etag = found
        return Committed(Manifest.from_json(content, self._store.bucket, self._store.url(key)), etag)

    def read_all(self, stage: Stage, partitions: Iterable[str]) -> dict[str, Committed]:
        """The current batches of those of the partitions that have one, in the order that they were given in.

        Of many partitions one listing tells which have a manifest, and its ETag whether this process knows it already.
        """
        wanted = {partition: self._keys.manifest(stage, partition) for partition in partitions}
        if len(wanted) > FEW:
            listed = self._store.find(wanted.values())
            wanted = {partition: key for partition, key in wanted.items() if key in listed}
            contents = side_by_side(lambda key: self._store.get_as(key, listed[key].etag), wanted.values())
        else:
            contents = side_by_side(self._store.get, wanted.values())
        found = {
            partition: self._committed(key, content)
            for (partition, key), content in zip(wanted.items(), contents, strict=True)
        }
        return {partition: item for partition, item in found.items() if item is not None}

    def require(self, stage: Stage, partition: str) -> Committed:
        """The current batch of a partition.

        Raises:
            PermanentError: there has never been one.
        """
        return self.require_all(stage, [partition])[partition]

    def require_all(self, stage: Stage, partitions: Sequence[str]) -> dict[str, Committed]:
        """The current batches of some partitions.

        Raises:
            PermanentError: one of them has never had any.
        """
        found = self.read_all(stage, partitions)
        for partition in partitions:
            if partition not in found:
                table = self._keys.table
                raise PermanentError(
                    f"{table}: the partition {partition} has no batch in {stage}.",
                    f"Materialise {table}_{stage} for it first, or run 'rds-lake sync {table}'.",
                )
        return found

    def partitions(self, stage: Stage) -> dict[str, str]:
        """All partitions that have a manifest, with the manifest's ETag; one request per thousand.

        What lies beside them (the object that a console makes for a folder, somebody's notes) is none of ours.
        """
        listed = self._store.list(self._keys.manifests(stage))
        return {self._keys.partition_of(item.key): item.etag for item in listed if self._keys.is_manifest(item.key)}

    def etags(self, stage: Stage, partitions: Iterable[str]) -> dict[str, str]:
        """The ETags of the manifests of those of the partitions that have one."""
        keys = {self._keys.manifest(stage, partition): partition for partition in partitions}
        return {keys[key]: item.etag for key, item in self._store.find(keys).items()}

    def commit(self, manifest: Manifest, replacing: Committed | None) -> Committed:
        """Make a batch the current one, provided that `replacing` still is.

        Raises:
            ConflictError: another run committed first; nothing was changed.
        """
        key = self._keys.manifest(manifest.stage, manifest.partition)
        content = manifest.to_json(self._store.bucket)
        etag = self._store.put_if(key, content, etag=replacing.etag if replacing else None)
        return Committed(manifest, etag)
