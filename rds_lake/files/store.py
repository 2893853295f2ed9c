"""Objects that others write: read as one version of them, moved only if they are still that version.

`rds_lake.lake.store` is for objects that only we write; here every request names the version or the ETag that is meant.
That takes boto3, whose copies and deletions know conditions, and which takes any key; what lies under keys of ours goes
the shorter way.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import obstore
from botocore.exceptions import ClientError
from obstore.exceptions import PreconditionError

from rds_lake.errors import TransientError
from rds_lake.files.version import FileVersion, is_plain
from rds_lake.lake.aws import MISSING, ConflictError, aws_errors, is_of_bucket
from rds_lake.lake.s3 import interruptible
from rds_lake.lake.scratch import temporary_space
from rds_lake.lake.store import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAGE = 1000
CHUNK = 1024 * 1024
COPY_MAX = 5 * 1024**3
"""The largest object that S3 copies in one request."""

PUT_MAX = 8 * 1024**2
"""The largest file of ours that is sent in one request without further ado."""

_GONE = {"404", "NoSuchKey", "NoSuchVersion", "NotFound", "412", "PreconditionFailed"}


class VersionGoneError(Exception):
    """This version is not there any more: it was deleted, moved, or replaced by another one."""


@dataclass(frozen=True)
class Listed:
    """A page of a listing: the objects, and whether there are more."""

    versions: tuple[FileVersion, ...]
    more: bool


class FileStore:
    """A bucket that files are dropped into.

    Args:
        client: a boto3 client.
        ours: the same bucket, for the objects in it that only we write.

    Attributes:
        ours: the same.
        bucket: the bucket's name.
    """

    def __init__(self, client: "S3Client", ours: ObjectStore) -> None:
        self._client = client
        self.ours = ours
        self.bucket = ours.bucket

    def url(self, key: str) -> str:
        """The `s3://` address of a key."""
        return self.ours.url(key)

    def page(self, prefix: str, after: str = "") -> Listed:
        """The objects below a prefix, in the order of their keys, at most a thousand; folders' markers among them.

        Args:
            prefix: the prefix.
            after: the key to go on behind.
        """
        with aws_errors(self.url(prefix)):
            answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, StartAfter=after, MaxKeys=PAGE)
        return Listed(
            tuple(
                FileVersion(self.bucket, item["Key"], _plain(item["ETag"]), item["Size"], _second(item["LastModified"]))
                for item in answer.get("Contents", [])
            ),
            answer["IsTruncated"],
        )

    def list(self, prefix: str) -> Iterator[FileVersion]:
        """All objects below a prefix."""
        after, more = "", True
        while more:
            listed = self.page(prefix, after)
            yield from listed.versions
            more = listed.more and bool(listed.versions)
            after = listed.versions[-1].key if listed.versions else ""

    def has_versions(self) -> bool:
        """Whether objects of the bucket may have versions: where that was suspended, those of before have them."""
        with aws_errors(self.url("")):
            return self._client.get_bucket_versioning(Bucket=self.bucket).get("Status") in {"Enabled", "Suspended"}

    def look(self, key: str, version_id: str | None = None) -> FileVersion | None:
        """An object as it is now, or one version of it; None when it is not there."""
        which: Any = {"VersionId": version_id} if version_id else {}
        with aws_errors(self.url(key)):
            try:
                head = self._client.head_object(Bucket=self.bucket, Key=key, **which)
            except ClientError as error:
                if _is_gone(error):
                    return None
                raise
        known = head.get("VersionId")
        return FileVersion(
            self.bucket,
            key,
            _plain(head["ETag"]),
            head["ContentLength"],
            _second(head["LastModified"]),
            None if known == "null" else known,
        )

    def fetch(self, version: FileVersion, target: IO[bytes]) -> str:
        """Write the content of a version that lies under a key of ours into a file, and return its SHA-256.

        Raises:
            VersionGoneError: it is not there any more.
            RdsLakeError: S3 could not be asked, or the temporary folder is full.
        """
        which: Any = {"version": version.version_id} if version.version_id else {"if_match": f'"{version.etag}"'}
        digest, size = hashlib.sha256(), 0
        with aws_errors(version.url):
            try:
                found = interruptible(lambda: obstore.get(self.ours.s3, version.key, options=which))
                for chunk in found.stream(min_chunk_size=CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    with temporary_space():
                        target.write(chunk)
            except (MISSING, PreconditionError) as error:
                if is_of_bucket(error):
                    raise
                raise VersionGoneError(version.url) from error
        target.seek(0)
        if size != version.size:
            raise TransientError(f"Reading {version.url} ended after {size} of {version.size} bytes.", "Try again.")
        return digest.hexdigest()

    def upload_new(self, key: str, path: Path) -> bool:
        """Write an object from a file, unless there is one of this key; whether it was written.

        A file that takes several requests (`PUT_MAX`) is not written on that condition; S3 is asked first.
        """
        try:
            with aws_errors(self.url(key)):
                if path.stat().st_size <= PUT_MAX:
                    self._client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes(), IfNoneMatch="*")
                    return True
                if self.look(key) is not None:
                    return False
                self._client.upload_file(str(path), self.bucket, key)
        except ConflictError:
            return False
        return True

    def copy(self, version: FileVersion, target: str) -> FileVersion:
        """Copy a version inside the bucket; the copy.

        Raises:
            VersionGoneError: it is not there any more.
        """
        source: Any = {"Bucket": self.bucket, "Key": version.key}
        which: Any = {}
        if version.version_id:
            source["VersionId"] = version.version_id
        else:
            which["CopySourceIfMatch"] = f'"{version.etag}"'
        with aws_errors(version.url):
            try:
                if version.size <= COPY_MAX:
                    made = self._client.copy_object(Bucket=self.bucket, Key=target, CopySource=source, **which)
                    etag, known = _plain(made["CopyObjectResult"]["ETag"]), made.get("VersionId")
                    landed = _second(made["CopyObjectResult"]["LastModified"])
                    return FileVersion(self.bucket, target, etag, version.size, landed, known)
                self._client.copy(source, self.bucket, target, ExtraArgs=which)
            except ClientError as error:
                if _is_gone(error):
                    raise VersionGoneError(version.url) from error
                raise
        held = self.look(target)
        if held is None:
            raise VersionGoneError(target)
        return held

    def bring(self, version: FileVersion, target: str) -> None:
        """Copy a version that lies under a key of ours to any key.

        Raises:
            VersionGoneError: it is not there any more.
        """
        if version.version_id or version.size > COPY_MAX or not is_plain(target):
            self.copy(version, target)
            return
        with aws_errors(version.url):
            try:
                interruptible(lambda: obstore.copy(self.ours.s3, version.key, target))
            except MISSING as error:
                if is_of_bucket(error):
                    raise
                raise VersionGoneError(version.url) from error

    def delete(self, version: FileVersion, *, ours: bool = False) -> None:
        """Delete a version; one that is gone, or has been replaced, is left as it is.

        Args:
            version: the version.
            ours: whether nobody else writes its key, so that nothing can have replaced it.
        """
        if ours and not version.version_id:
            self.ours.delete([version.key])
            return
        which: Any = {"VersionId": version.version_id} if version.version_id else {"IfMatch": f'"{version.etag}"'}
        now = None if version.version_id else self.look(version.key)
        if now is not None and now.file_id != version.file_id:
            return
        with aws_errors(version.url):
            try:
                self._client.delete_object(Bucket=self.bucket, Key=version.key, **which)
            except ClientError as error:
                if not _is_gone(error):
                    raise


def _is_gone(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") in _GONE


def _plain(etag: str) -> str:
    return etag.strip('"')


def _second(moment: datetime) -> datetime:
    """A listing and a HEAD tell the time with and without its fraction."""
    return moment.astimezone(UTC).replace(microsecond=0)
