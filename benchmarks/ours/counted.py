"""`counted FILE WORD...`: `rds-lake WORD...`, its calls to AWS counted on the way out and written to a file as JSON."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.httpsession import URLLib3Session

from rds_lake import cli
from rds_lake.lake.store import PART_BYTES

CALLS: Counter[str] = Counter()


_send = URLLib3Session.send


def _counting_send(session: URLLib3Session, request: AWSRequest | AWSPreparedRequest) -> AWSResponse:
    target = request.headers.get("X-Amz-Target")  # S3 has none. Retries count as well.
    service = "Glue" if str(target).startswith("AWSGlue") else "calls to DynamoDB and SQS"
    CALLS[service if target else f"S3 {request.method}"] += 1
    return _send(session, request)


def _count(name: str, method: str) -> None:
    """Count what a function of obstore sends: one request, or one for each part of a large object; not its retries."""
    plain: Callable[..., Any] = getattr(obstore, name)

    def counting(*words: Any, **more: Any) -> Any:  # noqa: ANN401 - whatever it is called with
        CALLS[f"S3 {method}"] += 1
        if "chunk_size" in more and name == "put":
            _count_parts(words[2].seek(0, 2))
            words[2].seek(0)
        return plain(*words, **more)

    setattr(obstore, name, counting)


def _count_parts(size: int) -> None:
    """Count an upload in parts, of which one has been counted: its beginning and its end come on top."""
    CALLS["S3 PUT"] += -(-size // PART_BYTES) - 1
    CALLS["S3 POST"] += 2


class _Counted:
    """What is written in parts."""

    def __init__(self, writer: Any) -> None:  # noqa: ANN401 - obstore's
        self._writer, self._size = writer, 0

    def write(self, content: bytes) -> None:
        self._size += len(content)
        self._writer.write(content)

    def close(self) -> None:
        CALLS["S3 PUT"] += 1
        if self._size > PART_BYTES:
            _count_parts(self._size)
        self._writer.close()


def count_calls() -> None:
    """Have all calls to AWS be counted from now on."""
    for name, method in {"get": "GET", "get_range": "GET", "put": "PUT", "head": "HEAD", "copy": "PUT"}.items():
        _count(name, method)
    _count("list", "GET")  # a page; of more than a thousand objects there are more
    _count("list_with_delimiter", "GET")
    open_writer = obstore.open_writer
    obstore.open_writer = lambda *words, **more: _Counted(open_writer(*words, **more))  # type: ignore[assignment]
    _count("delete", "POST")
    URLLib3Session.send = _counting_send  # type: ignore[method-assign, assignment]


def main() -> None:
    """Run the command."""
    count_calls()
    file = Path(sys.argv.pop(1))
    try:
        cli.main()
    finally:
        file.write_text(json.dumps(CALLS), encoding="utf-8")


if __name__ == "__main__":
    main()
