"""What the audit log knows: records by file id, of a table in pages, and the names of the tables."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from rds_lake.audit_log.record import (
    MARK,
    NAMES,
    PARTITION,
    SORT,
    TABLES,
    Item,
    Record,
    Status,
    from_item,
    identity_key,
    key_item,
    pointed,
    stamp,
)
from rds_lake.audit_log.table import AuditTable

PAGE = 1000
"""Items of one Query when some of them will be left out."""

QUERIES = 10
"""Queries for one page of records: where a status is rare, the page may be short."""

_TOKEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z#[^\x00-\x1f]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Page:
    """Some records of a table, newest first.

    Attributes:
        records: the records.
        token: what to ask for the next ones with; None at the end.
    """

    records: tuple[Record, ...]
    token: str | None


class History:
    """The records.

    Args:
        table: where they are.
    """

    def __init__(self, table: AuditTable) -> None:
        self._table = table

    @property
    def name(self) -> str:
        """The table's name in DynamoDB."""
        return self._table.name

    def find(self, file_id: str) -> Record | None:
        """The record of a file id, None when there is none."""
        return self.find_all([file_id]).get(file_id)

    def find_all(self, file_ids: Sequence[str]) -> dict[str, Record]:
        """The records of those of some file ids that have one."""
        points = self._table.get([identity_key(file_id) for file_id in dict.fromkeys(file_ids)])
        return {record.file_id: record for record in self._records(points)}

    def open_files(self, receiver: str) -> list[Record]:
        """What is claimed and not finished of one receiver."""
        points = self._table.query(f"{MARK}OPEN{MARK}{receiver}")
        return [record for record in self._records(points) if not record.is_finished]

    def knows(self, table: str) -> bool:
        """Whether a table has records."""
        return bool(self._table.get([key_item(TABLES, table)]))

    def tables(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """The names of the tables that have records, in order.

        Args:
            after: only those that come after this one.
            limit: how many at most.
        """
        names = (item[SORT]["S"] for item in self._table.query(TABLES, after))
        return list(islice((name for name in names if not name.startswith(MARK)), limit))

    def records(
        self,
        table: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        status: Status | None = None,
        limit: int = 100,
        token: str | None = None,
    ) -> Page:
        """Records of a table, newest first.

        Args:
            table: the table.
            since: only those that landed at this moment or later.
            until: only those that landed at this moment or before.
            status: only those of this status.
            limit: how many at most.
            token: of the page before.

        Returns:
            The records; where those of a status are rare, it may have few or none and a token all the same.

        Raises:
            ValueError: the token is none of this log's, or lies outside of what is asked for.
        """
        first = stamp(since) if since else "0"
        last = f"{stamp(until)}{chr(ord(MARK) + 1)}" if until else "9999~"
        start = key_item(table, _sort_of(token, first, last)) if token else None
        found: list[Record] = []
        for _ in range(QUERIES):
            answer = self._page(table, (first, last), status, start, PAGE if status else limit + 1)
            found += [from_item(item) for item in answer["Items"]]
            start = answer.get("LastEvaluatedKey")
            if len(found) > limit:
                return Page(tuple(found[:limit]), _token_of(found[limit - 1].landed_key))
            if start is None:
                break
        return Page(tuple(found), _token_of(start[SORT]["S"]) if start else None)

    def _page(self, table: str, span: tuple[str, str], status: Status | None, start: Item | None, size: int) -> Any:  # noqa: ANN401 - boto3's answer
        first, last = span
        if first > last:
            return {"Items": []}
        values = {":table": {"S": table}, ":first": {"S": first}, ":last": {"S": last}}
        given: dict[str, Any] = {"ScanIndexForward": False, "Limit": size}
        if status:
            given["FilterExpression"] = "#status = :status"
            given["ExpressionAttributeNames"] = {"#status": NAMES["status"]}
            values[":status"] = {"S": status}
        if start:
            given["ExclusiveStartKey"] = start
        return self._table.page(f"{PARTITION} = :table AND {SORT} BETWEEN :first AND :last", values, **given)

    def _records(self, points: Iterable[Item]) -> list[Record]:
        return [from_item(item) for item in self._table.get([pointed(item) for item in points])]


def _token_of(sort: str) -> str:
    return base64.urlsafe_b64encode(sort.encode()).decode().rstrip("=")


def _sort_of(token: str, first: str, last: str) -> str:
    """The sort key that a token stands for.

    Raises:
        ValueError: it is no token, or not of a span; DynamoDB refuses to begin outside of what it is asked for.
    """
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise ValueError("this is no page token") from error
    if not _TOKEN.fullmatch(text) or not first <= text <= last:
        raise ValueError("this is no page token")
    return text
