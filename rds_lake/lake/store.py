"""Objects in the bucket: get, put (also conditionally), list, copy, delete, with botocore's errors turned into ours.

Every effect on S3 passes through here and through boto3, which is what lets tests stop the process between any two.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from os.path import commonpath
from threading import Condition, Lock
from typing import IO, TYPE_CHECKING, Any, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
SINGLE_PUT_BYTES = 16 * MIB
"""Objects up to this size are sent and fetched in one request, larger ones in parts."""

PART_BYTES = 8 * MIB
"""Size of the parts: boto3 holds ten of them in memory. S3 takes 10,000 parts."""

PARTS_AT_ONCE = 4

SINGLE_COPY_BYTES = 512 * MIB
"""Objects up to this size are copied in one request: the bytes stay in S3, whose own limit is 5 GB."""

DELETE_LIMIT = 1000
"""Keys of one DeleteObjects request (S3's own limit)."""

CONCURRENCY = 8
"""Requests under way at once where many objects are handled: they wait for S3, not for the processor."""

FEW = 2 * CONCURRENCY
"""Objects that are asked for one by one, side by side; of more, a listing is read."""

READ_ATTEMPTS = 5
"""How often an answer is asked for again that broke off; botocore repeats only what was not answered at all."""

REMEMBERED_BYTES = 16 * MIB
"""What is kept of small objects that were read or written: some ten thousand manifests."""

_BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)

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


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], cost: Callable[[Item], int] | None = None, budget: int = 0
) -> list[Result]:
    """Do the same for many items, several at once, results in order; the first error ends it.

    Args:
        work: what is done.
        items: for what.
        cost: what an item takes while it is worked on, such as bytes of memory.
        budget: what all that are worked on may take together; an item that costs more is worked on alone.
    """
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    room = _Room(budget)

    def within_budget(item: Item) -> Result:
        with room.taken(cost(item) if cost else 0):
            return work(item)

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(within_budget, todo))


class _Room:
    """A budget that several threads share."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._changed = Condition()

    @contextmanager
    def taken(self, cost: int) -> Iterator[None]:
        """Wait until there is room, and take it for as long as the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + cost <= self._budget)
            self._used += cost
        try:
            yield
        finally:
            with self._changed:
                self._used -= cost
                self._changed.notify_all()


class _Memory:
    """The small objects that were read or written last, each as of one ETag. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._bytes = 0

    def keep(self, key: str, content: bytes, etag: str) -> None:
        with self._lock:
            self._bytes += len(content) - len(self._held.pop(key, (b"", ""))[0])
            self._held[key] = content, etag
            while self._bytes > REMEMBERED_BYTES:
                _, (dropped, _) = self._held.popitem(last=False)
                self._bytes -= len(dropped)

    def get(self, key: str) -> tuple[bytes, str] | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)


class ObjectStore:
    """The lake's bucket.

    It remembers the small objects that passed through `get` and `put_if`. What is remembered is never taken for what
    stands in the bucket: that is asked, and an ETag that comes back as it is remembered saves sending the content.

    Args:
        client: a boto3 S3 client; safe to use from several threads.
        bucket: the bucket's name.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self._transfer = TransferConfig(
            multipart_threshold=SINGLE_PUT_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        self._memory = _Memory()

    def url(self, key: str) -> str:
        """The `s3://` address of a key or prefix."""
        return f"s3://{self.bucket}/{key}"

    def key(self, url: str) -> str:
        """The key of an `s3://` address in this bucket."""
        return url.removeprefix(f"s3://{self.bucket}/")

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and ETag of a small object, None when there is none."""
        content = bytearray()
        with aws_errors(self.url(key)):
            try:
                etag = self._read(key, content.clear, content.extend)
            except self.client.exceptions.NoSuchKey:
                return None
        self._memory.keep(key, bytes(content), etag)
        return bytes(content), etag

    def get_as(self, key: str, etag: str) -> tuple[bytes, str] | None:
        """As `get`, of an object that was just found to have this ETag: not sent again when it is remembered."""
        held = self._memory.get(key)
        return held if held is not None and held[1] == etag else self.get(key)

    def recall(self, key: str) -> tuple[bytes, str] | None:
        """A small object as it was when it last passed through here, maybe no more; None if it never did."""
        return self._memory.get(key)

    def _read(self, key: str, start: Callable[[], object], write: Callable[[bytes], object]) -> str:
        """Read an object's content from its start; its ETag."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            start()
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=key)
                for chunk in answer["Body"].iter_chunks(MIB):
                    write(chunk)
            except _BROKEN_OFF:
                if attempt == READ_ATTEMPTS:
                    raise
            else:
                return answer["ETag"]
        raise AssertionError("unreachable")

    def download(self, key: str, target: IO[bytes], size: int) -> None:
        """Write an object's content into a file that is open for writing, empty, and stands at its start.

        Args:
            key: its key.
            target: the file.
            size: how large it should be, which decides how it is fetched; what is there is written, whatever its size.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(key)), self._still_there(key):
            if size <= SINGLE_PUT_BYTES:
                self._read(key, lambda: (target.seek(0), target.truncate()), target.write)
            else:
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
        except ConflictError:
            # When an answer is lost botocore sends the request again, which is then refused because of its own success.
            held = self.get(key)
            if held is None or held[0] != content:
                raise
            return held[1]
        self._memory.keep(key, content, answer["ETag"])
        return answer["ETag"]

    def upload(self, key: str, content: IO[bytes], size: int) -> None:
        """Write an object from a file that stands at its start; a large one goes in parts."""
        if size <= SINGLE_PUT_BYTES:
            self.put(key, content.read())
            return
        with aws_errors(self.url(key)):
            self.client.upload_fileobj(content, self.bucket, key, Config=self._transfer)

    def list(
        self, prefix: str, *, first: str = "", last: str | None = None, page: int | None = None
    ) -> Iterator[StoredObject]:
        """All objects below a prefix, in the order of their keys.

        Args:
            prefix: the prefix.
            first: a key of an object to begin at; a few before it may come as well.
            last: the key to end at.
            page: how many are asked for at once, if fewer than S3 gives by itself: for whoever needs only the first.
        """
        more: dict[str, Any] = {"StartAfter": first[:-1]} if first else {}
        if page is not None:
            more["PaginationConfig"] = {"PageSize": page}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **more)
        with aws_errors(self.url(prefix)):
            for items in pages:
                for item in items.get("Contents", []):
                    if last is not None and item["Key"] > last:
                        return
                    yield StoredObject(item["Key"], item["Size"], item["ETag"], item["LastModified"])

    def find(self, keys: Collection[str]) -> dict[str, StoredObject]:
        """Those of some objects that are there: asked one by one, or, if they are many, listed from first to last."""
        if len(keys) <= FEW:
            return {item.key: item for item in side_by_side(self._head, keys) if item}
        wanted, first, last = set(keys), min(keys), max(keys)
        listed = self.list(commonpath([first, last]), first=first, last=last)
        return {item.key: item for item in listed if item.key in wanted}

    def inside(self, folders: Collection[str]) -> Iterator[StoredObject]:
        """The objects directly inside some folders (prefixes that end in `/`), listed as `find` does."""
        if len(folders) <= FEW:
            yield from chain.from_iterable(side_by_side(lambda folder: list(self.list(folder)), folders))
            return
        wanted, first, last = set(folders), min(folders), max(folders)
        for item in self.list(commonpath([first, last]), first=first, last=f"{last}\U0010ffff"):
            if f"{item.key.rpartition('/')[0]}/" in wanted:
                yield item

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
        found = self._head(key)
        return found.size if found else None

    def modified(self, key: str) -> datetime | None:
        """When an object was written, None when there is none."""
        found = self._head(key)
        return found.modified if found else None

    def _head(self, key: str) -> StoredObject | None:
        with aws_errors(self.url(key)):
            try:
                head = self.client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise
            return StoredObject(key, head["ContentLength"], head["ETag"], head["LastModified"])

    def copy(self, source: str, target: str, size: int) -> None:
        """Copy an object inside the bucket, on the server's side; a large one in parts.

        Args:
            source: its key.
            target: the copy's key.
            size: how large it should be, which decides how it is copied.

        Raises:
            GoneError: there is no such object (any more).
        """
        place: Any = {"Bucket": self.bucket, "Key": source}
        with aws_errors(self.url(source)), self._still_there(source):
            if size <= SINGLE_COPY_BYTES:
                self.client.copy_object(CopySource=place, Bucket=self.bucket, Key=target)
            else:
                self.client.copy(place, self.bucket, target, Config=self._transfer)

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
