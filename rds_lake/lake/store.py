"""Objects in the bucket: get, put (also conditionally), list, copy, delete, with S3's errors turned into ours.

Every effect on S3 passes through here, which is what lets tests stop the process between any two.
"""

import builtins
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain
from os.path import commonpath
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

import obstore
from obstore.exceptions import InvalidPathError

from rds_lake.lake.aws import (
    MISSING,
    ConflictError,
    GoneError,
    UploadGoneError,
    aws_errors,
    error_of_s3,
    is_of_bucket,
)
from rds_lake.lake.s3 import interruptible, sent_again
from rds_lake.side_by_side import CONCURRENCY, side_by_side

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore import Bytes
    from obstore.store import S3Store

MIB = 1024 * 1024
SINGLE_PUT_BYTES = 16 * MIB
"""Objects up to this size are sent and fetched in one request, larger ones in parts."""

PART_BYTES = 6 * MIB
"""Size of the parts. S3 takes 10,000 of them."""

PARTS_AT_ONCE = 4

PARTS_UNDER_WAY = 2
"""Parts of one object that are sent while the next one is made."""

FEW = 2 * CONCURRENCY
"""Objects that are asked for one by one, side by side; of more, a listing is read."""

LISTED = 1000
"""Objects that a listing hands on at a time, as many as S3 sends."""

REMEMBERED_BYTES = 16 * MIB
"""What is kept of small objects that were read or written: some ten thousand manifests."""


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
        s3: the connection to the bucket (`rds_lake.lake.s3`); safe to use from several threads.
        client: makes a boto3 client, for the few questions that the connection has no word for.

    Attributes:
        s3: the connection.
        bucket: the bucket's name.
    """

    def __init__(self, s3: "S3Store", client: Callable[[], "S3Client"]) -> None:
        self.s3 = s3
        self._client = client
        self.bucket: str = s3.config["bucket"]
        self._memory = _Memory()

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client."""
        return self._client()

    def url(self, key: str) -> str:
        """The `s3://` address of a key or prefix."""
        return f"s3://{self.bucket}/{key}"

    def key(self, url: str) -> str:
        """The key of an `s3://` address in this bucket."""
        return url.removeprefix(f"s3://{self.bucket}/")

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and ETag of a small object, None when there is none."""
        with aws_errors(self.url(key)):
            try:
                content, etag = self._read(key)
            except MISSING as error:
                if is_of_bucket(error):
                    raise
                return None
        self._memory.keep(key, content, etag)
        return content, etag

    def get_as(self, key: str, etag: str) -> tuple[bytes, str] | None:
        """As `get`, of an object that was just found to have this ETag: not sent again when it is remembered."""
        held = self._memory.get(key)
        return held if held is not None and held[1] == etag else self.get(key)

    def recall(self, key: str) -> tuple[bytes, str] | None:
        """A small object as it was when it last passed through here, maybe no more; None if it never did."""
        return self._memory.get(key)

    def _read(self, key: str) -> tuple[bytes, str]:
        """An object's content and its ETag."""

        def read() -> tuple[bytes, str]:
            answer = obstore.get(self.s3, key)
            return bytes(answer.bytes()), answer.meta["e_tag"] or ""

        return interruptible(read)

    def download(self, key: str, target: IO[bytes], size: int) -> None:
        """Write an object's content into a file that is open for writing.

        Args:
            key: its key.
            target: the file.
            size: how large it is, which decides how it is fetched.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(key)), self._still_there(key):
            for part in [self._read(key)[0]] if size <= SINGLE_PUT_BYTES else self._parts(key, size):
                target.write(part)

    def _parts(self, key: str, size: int) -> Iterator[bytes]:
        """An object's content in parts, some of which are fetched ahead."""
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            for start in range(0, size, PART_BYTES):
                end = start + PART_BYTES
                waiting.append(pool.submit(obstore.get_range, self.s3, key, start=start, end=min(end, size)))
                if len(waiting) == PARTS_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def fetch(self, key: str) -> "Bytes":
        """An object's whole content.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(key)), self._still_there(key):
            return interruptible(lambda: obstore.get(self.s3, key).bytes())

    def fetch_part(self, key: str, start: int, end: int) -> "Bytes":
        """An object's bytes from one place up to another."""
        with aws_errors(self.url(key)), self._still_there(key):
            return interruptible(lambda: obstore.get_range(self.s3, key, start=start, end=end))

    def fetch_along(self, key: str) -> Generator["Bytes", None, None]:
        """An object's content from its start, in chunks of about a MiB, each fetched when it is taken."""
        with aws_errors(self.url(key)), self._still_there(key):
            yield from obstore.get(self.s3, key).stream(min_chunk_size=MIB)

    @contextmanager
    def _still_there(self, key: str) -> Iterator[None]:
        try:
            yield
        except MISSING as error:
            if is_of_bucket(error):
                raise
            raise GoneError(
                f"{self.url(key)} is gone: another run moved or replaced it since its manifest was read.",
                "Run it again; if it stays gone, materialise the partition again from landing on.",
            ) from error

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        with aws_errors(self.url(key)):
            interruptible(lambda: obstore.put(self.s3, key, content, use_multipart=False))

    def put_if(self, key: str, content: bytes, *, etag: str | None) -> str:
        """Write an object only if it still is what was read: the given ETag, or none at all.

        Returns:
            The new ETag.

        Raises:
            ConflictError: it has been written by somebody else; nothing was changed.
        """
        mode: Any = "create" if etag is None else {"e_tag": etag}
        try:
            with aws_errors(self.url(key)):
                written = sent_again(lambda: obstore.put(self.s3, key, content, mode=mode))["e_tag"] or ""
        except ConflictError:
            # When an answer is lost the request is sent again, which is then refused because of its own success.
            held = self.get(key)
            if held is None or held[0] != content:
                raise
            return held[1]
        self._memory.keep(key, content, written)
        return written

    def upload(self, key: str, content: IO[bytes], size: int) -> None:
        """Write an object from a file that stands at its start; a large one goes in parts."""
        if size <= SINGLE_PUT_BYTES:
            self.put(key, content.read())
            return
        with aws_errors(self.url(key)):
            interruptible(
                lambda: obstore.put(self.s3, key, content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
            )

    def open_upload(self, key: str) -> "Outgoing":
        """An object to be sent in parts while it is written; it is there when it is closed."""
        return Outgoing(self, key)

    def list(self, prefix: str, *, first: str = "", last: str | None = None) -> Iterator[StoredObject]:
        """All objects inside a folder and its folders, in the order of their keys.

        Args:
            prefix: the folder.
            first: a key of an object to begin at; a few before it may come as well.
            last: the key to end at.
        """
        after = first[:-1]
        with aws_errors(self.url(prefix)):
            try:
                listed = obstore.list(self.s3, prefix, offset=after or None, chunk_size=LISTED)
                while some := interruptible(lambda: next(iter(listed), None)):
                    for item in some:
                        if last is not None and item["path"] > last:
                            return
                        yield StoredObject(item["path"], item["size"], item["e_tag"] or "", item["last_modified"])
                        after = item["path"]
            except InvalidPathError:  # a stranger's, with `//` or `..` in its key
                yield from self._list_as_named(prefix, after, last)

    def _list_as_named(self, prefix: str, after: str, last: str | None) -> Iterator[StoredObject]:
        """As `list`, whatever objects are called."""
        folder: Any = {"Bucket": self.bucket, "Prefix": prefix and f"{prefix.rstrip('/')}/", "StartAfter": after}
        for page in self.client.get_paginator("list_objects_v2").paginate(**folder):
            for item in page.get("Contents", []):
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
            yield from chain.from_iterable(side_by_side(lambda folder: builtins.list(self.list(folder)), folders))
            return
        wanted, first, last = set(folders), min(folders), max(folders)
        for item in self.list(commonpath([first, last]), first=first, last=f"{last}\U0010ffff"):
            if f"{item.key.rpartition('/')[0]}/" in wanted:
                yield item

    def folders(self) -> Iterator[str]:
        """The bucket's top-level prefixes, each with its slash."""
        with aws_errors(self.url("")):
            for folder in interruptible(lambda: obstore.list_with_delimiter(self.s3))["common_prefixes"]:
                yield f"{folder}/"

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
                head = interruptible(lambda: obstore.head(self.s3, key))
            except MISSING:
                return None
            return StoredObject(key, head["size"], head["e_tag"] or "", head["last_modified"])

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside the bucket, on the server's side.

        S3 copies up to 5 GB in one request; our files end long before (`rds_lake.lake.spool.FILE_BYTES`).

        Args:
            source: its key.
            target: the copy's key.

        Raises:
            GoneError: there is no such object (any more).
        """
        with aws_errors(self.url(source)), self._still_there(source):
            interruptible(lambda: obstore.copy(self.s3, source, target))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error.

        Raises:
            PermanentError: S3 kept some of them.
        """
        if keys:
            with aws_errors(self.url(keys[0])):
                sent_again(lambda: obstore.delete(self.s3, keys))


class Outgoing:
    """An object that is sent in parts while it is written.

    Args:
        store: the bucket.
        key: the object's key.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._size = 0
        self._is_open = True
        with self._errors():
            self._writer = obstore.open_writer(store.s3, key, buffer_size=PART_BYTES, max_concurrency=PARTS_UNDER_WAY)

    def write(self, content: bytes) -> None:
        """Append bytes; waits while enough of them are under way."""
        with self._errors():
            self._writer.write(content)
        self._size += len(content)

    def close(self) -> None:
        """Send the rest, and have the object be there."""
        try:
            with self._errors():
                interruptible(self._writer.close)
        except UploadGoneError:  # when the answer is lost the request is sent again, which then finds no upload
            if self._store.size(self._key) != self._size:
                raise
        self._is_open = False

    def abandon(self) -> None:
        """Give up an object that is not closed; one that is stays.

        Raises:
            RdsLakeError: S3 could not be asked. What stays unfinished, `rds_lake.lake.gc` gives up.
        """
        if self._is_open:
            self._is_open = False
            for upload in self._store.uploads(self._key):
                self._store.abort(upload)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what a part says that was sent meanwhile into one of our errors."""
        what = self._store.url(self._key)
        try:
            with aws_errors(what):
                yield
        except OSError as error:
            raise error_of_s3(error, what) from error
