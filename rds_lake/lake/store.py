"""Objects in the bucket: get, put (also conditionally), list, copy, delete, with botocore's errors turned into ours.

Every effect on S3 passes through here and through boto3, which is what lets tests stop the process between any two.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

MIB = 1024 * 1024
SINGLE_PUT_BYTES = 16 * MIB
"""Objects up to this size are sent in one request, larger ones in parts."""

DELETE_LIMIT = 1000
"""Keys of one DeleteObjects request (S3's own limit)."""

CONCURRENCY = 8
"""Requests under way at once where many objects are handled: they wait for S3, not for the processor."""

_PASSING = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout"),
    *("ConcurrentModificationException", "OperationTimeoutException", "InternalServiceException"),
}
_CREDENTIALS = {
    *("AccessDenied", "AccessDeniedException", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException"),
}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredObject:
    """One object as a listing shows it."""

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Upload:
    """An upload in parts that has not been finished."""

    key: str
    id: str
    started: datetime


class ConflictError(TransientError):
    """A conditional write was refused: somebody else wrote the object since it was read."""


class GoneError(TransientError):
    """An object that a manifest named is not there any more: who reads the manifest again finds where it is now."""


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn botocore's errors into ours.

    Args:
        what: the thing that was asked for, such as `s3://lake/orders/`.

    Raises:
        RdsLakeError: permanent for a missing bucket, table or right, transient for a lost connection or throttling.
    """
    try:
        yield
    except ClientError as error:
        raise translate(error, what) from error
    except NoCredentialsError as error:
        raise ConfigError(
            f"No AWS credentials were found while asking for {what}.",
            'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; locally: eval "$(rds-lake env)".',
        ) from error
    except EndpointConnectionError as error:
        raise TransientError(
            f"The AWS endpoint could not be reached while asking for {what}: {error}.",
            "Check AWS_ENDPOINT_URL and the network; 'rds-lake status' shows the local stack.",
        ) from error
    except BotoCoreError as error:
        raise TransientError(f"Asking AWS for {what} failed: {error}.", "Try again.") from error


def translate(error: ClientError, what: str) -> RdsLakeError:
    """A refused AWS request as our error."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    problem = f"AWS refused {what}: {error}."
    if code == "NoSuchBucket":
        return ConfigError(f"The bucket of {what} does not exist.", "Create it, or correct RDS_LAKE_BUCKET.")
    if code in {"PreconditionFailed", "ConditionalRequestConflict"}:
        return ConflictError(
            f"{what} was changed by another run while this one was working; this one changed nothing.",
            "Run it again if the other run has not done the same.",
        )
    if code in _CREDENTIALS:
        return ConfigError(problem, "Check the AWS credentials and what they may do with it.")
    if status >= 500 or code in _PASSING:
        return TransientError(problem, "Try again.")
    return PermanentError(problem, "Look the code up in the service's error reference.")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do the same for many items, several at once, results in order; the first error ends it."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(work, todo))


class ObjectStore:
    """The lake's bucket.

    Args:
        client: a boto3 S3 client; safe to use from several threads.
        bucket: the bucket's name.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self._transfer = TransferConfig(multipart_threshold=SINGLE_PUT_BYTES, multipart_chunksize=SINGLE_PUT_BYTES)

    def url(self, key: str) -> str:
        """The `s3://` address of a key or prefix."""
        return f"s3://{self.bucket}/{key}"

    def key(self, url: str) -> str:
        """The key of an `s3://` address in this bucket."""
        return url.removeprefix(f"s3://{self.bucket}/")

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and ETag of an object, None when there is none."""
        with aws_errors(self.url(key)):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=key)
                return answer["Body"].read(), answer["ETag"]
            except self.client.exceptions.NoSuchKey:
                return None

    def download(self, key: str, target: IO[bytes]) -> None:
        """Write an object's content into a file that is open for writing.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(key)), self._still_there(key):
            self.client.download_fileobj(self.bucket, key, target, Config=self._transfer)

    @contextmanager
    def _still_there(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            raise GoneError(
                f"{self.url(key)} is gone: another run moved or replaced it since its manifest was read.",
                "Run it again; if it stays gone, materialise the partition again from landing on.",
            ) from error

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        with aws_errors(self.url(key)):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def put_if(self, key: str, content: bytes, *, etag: str | None) -> str:
        """Write an object only if it still is what was read: the given ETag, or none at all.

        Returns:
            The new ETag.

        Raises:
            ConflictError: it has been written by somebody else; nothing was changed.
        """
        try:
            with aws_errors(self.url(key)):
                if etag is None:
                    answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=content, IfNoneMatch="*")
                else:
                    answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=content, IfMatch=etag)
            return answer["ETag"]
        except ConflictError:
            # When an answer is lost botocore sends the request again, which is then refused because of its own success.
            held = self.get(key)
            if held is None or held[0] != content:
                raise
            return held[1]

    def upload(self, key: str, content: IO[bytes], size: int) -> None:
        """Write an object from a file that stands at its start; a large one goes in parts."""
        if size <= SINGLE_PUT_BYTES:
            self.put(key, content.read())
            return
        with aws_errors(self.url(key)):
            self.client.upload_fileobj(content, self.bucket, key, Config=self._transfer)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below a prefix, in the order of their keys."""
        with aws_errors(self.url(prefix)):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield StoredObject(item["Key"], item["Size"], item["ETag"], item["LastModified"])

    def folders(self) -> Iterator[str]:
        """The bucket's top-level prefixes, each with its slash."""
        with aws_errors(self.url("")):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Delimiter="/"):
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"]

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """The uploads in parts below a prefix that have not been finished."""
        with aws_errors(self.url(prefix)):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Uploads", []):
                    yield Upload(item["Key"], item["UploadId"], item["Initiated"])

    def abort(self, upload: Upload) -> None:
        """Give up an upload in parts; one that is finished or gone meanwhile is no error."""
        with aws_errors(self.url(upload.key)), suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.id)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""
        head = self._head(key)
        return head["ContentLength"] if head else None

    def modified(self, key: str) -> datetime | None:
        """When an object was written, None when there is none."""
        head = self._head(key)
        return head["LastModified"] if head else None

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        with aws_errors(self.url(key)):
            try:
                return self.client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise

    def etag(self, key: str) -> str | None:
        """An object's ETag, None when there is none."""
        head = self._head(key)
        return head["ETag"] if head else None

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside the bucket, on the server's side; a large one in parts.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(source)), self._still_there(source):
            self.client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target, Config=self._transfer)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error.

        Raises:
            PermanentError: S3 kept some of them.
        """
        for start in range(0, len(keys), DELETE_LIMIT):
            some = keys[start : start + DELETE_LIMIT]
            with aws_errors(self.url(some[0])):
                answer = self.client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
                )
            for failed in answer.get("Errors", []):
                raise PermanentError(
                    f"S3 did not delete {self.url(failed.get('Key', ''))}: {failed.get('Message', '')}.",
                    "Check the right to delete objects, then run it again.",
                )


def digest(content: IO[bytes]) -> str:
    """The SHA-256 of a file's whole content; leaves the file at its start."""
    content.seek(0)
    value = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    content.seek(0)
    return value
