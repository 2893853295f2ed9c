"""The audit log itself: claims, conditional changes, queries. The only place that speaks to DynamoDB.

A file is claimed by one transaction that puts its items on the condition that they are not there. Every later change
is made on the condition that the owner is still the same, so that of two workers one has no effect at all. Whoever
claims gets a lease; when it is over without an end, the next one takes over, with another owner.
"""

import base64
import binascii
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from rds_lake.audit_log.record import (
    MARK,
    NAMES,
    PARTITION,
    SORT,
    TABLES,
    Item,
    Record,
    Status,
    attribute,
    from_item,
    identity_key,
    key_item,
    open_key,
    pointed,
    pointer,
    stamp,
    to_item,
)
from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.lake.aws import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LEASE = timedelta(minutes=5)
"""How long an owner is left alone; who works longer extends it meanwhile."""

LOOKS = 5
"""How often a claim is tried when others claim or change the same file at that moment."""

MOST = 8
"""How often DynamoDB is asked for what it had no room for."""

BATCH = 100
"""Items that one BatchGetItem asks for, as many as DynamoDB takes."""

PAGE = 1000
"""Items of one Query when some of them will be left out."""

QUERIES = 10
"""Queries for one page of records: where a status is rare, the page may be short."""

PAUSE = 0.05
"""Seconds before DynamoDB is asked again for what it had no room for; doubled each time."""

_PASSING = {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "TransactionConflictException"}

_TOKEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z#[^\x00-\x1f]{1,200}", re.ASCII)


class LostClaimError(TransientError):
    """Somebody else works on the file now: this worker's lease was over."""


@dataclass(frozen=True)
class Page:
    """Some records of a table, newest first.

    Attributes:
        records: the records.
        token: what to ask for the next ones with; None at the end.
    """

    records: tuple[Record, ...]
    token: str | None


class AuditLog:
    """The audit log.

    Args:
        client: a boto3 client of DynamoDB.
        name: the table's name in DynamoDB.
        lease: how long an owner is left alone.
    """

    def __init__(self, client: "DynamoDBClient", name: str, lease: timedelta = LEASE) -> None:
        self._client = client
        self.name = name
        self.lease = lease
        self._known_tables: set[str] = set()

    def create(self) -> bool:
        """Make the table in DynamoDB; False when it is there already.

        Raises:
            RdsLakeError: it could not be made.
        """
        with self._errors():
            try:
                self._client.create_table(
                    TableName=self.name,
                    KeySchema=[
                        {"AttributeName": PARTITION, "KeyType": "HASH"},
                        {"AttributeName": SORT, "KeyType": "RANGE"},
                    ],
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in (PARTITION, SORT)],
                    BillingMode="PAY_PER_REQUEST",
                )
            except self._client.exceptions.ResourceInUseException:
                return False
            self._client.get_waiter("table_exists").wait(TableName=self.name, WaiterConfig={"Delay": 1})
            return True

    # --- claims -----------------------------------------------------------------------------------------------------

    def claim(self, record: Record) -> Record | None:
        """Claim a file that was noticed.

        Args:
            record: what is known of it; owner and lease are filled in here.

        Returns:
            The claimed record, of a file that a crashed worker left that one's with a new owner; None when it is
            finished, or somebody works on it.

        Raises:
            RdsLakeError: DynamoDB could not be asked.
        """
        for _ in range(LOOKS):
            fresh = replace(record, status="processing", owner=new_owner(), lease_until=self._lease_end())
            if self._put(fresh):
                return fresh
            held = self.find(record.file_id)
            if held is not None:
                return self.take_over(held)
        raise TransientError(f"The record of {record.file_name} changes all the time.", "Try again.")

    def _put(self, record: Record) -> bool:
        """Put a new record with its pointers; whether none was there."""
        new = "attribute_not_exists(TableName)"
        points = pointer(record)
        puts: list[Any] = [
            self._put_of(to_item(record), new),
            self._put_of({**identity_key(record.file_id), **points}, new),
            self._put_of({**open_key(record.receiver, record.file_id), **points}, new),
        ]
        if record.table not in self._known_tables:
            puts.append(self._put_of(key_item(TABLES, record.table)))
        with self._errors():
            try:
                self._client.transact_write_items(TransactItems=puts)
            except self._client.exceptions.TransactionCanceledException as error:
                _only_conditions(error)
                return False
        self._known_tables.add(record.table)
        return True

    def take_over(self, held: Record) -> Record | None:
        """Take a file over whose worker's lease is over; None when it is finished, still held, or taken by another."""
        now = datetime.now(UTC)
        if held.is_finished or (held.lease_until is not None and held.lease_until > now):
            return None
        mine = replace(held, owner=new_owner(), lease_until=self._lease_end())
        return mine if self._change(held, {"owner": mine.owner, "lease_until": mine.lease_until}) else None

    def begin(self, record: Record, run_id: str) -> Record:
        """Record that work on a claimed file begins.

        The attempt is counted in DynamoDB, not from what the caller knows: a run that is started again comes with the
        claim as it was made.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        given = self._update_of(record, {"run_id": run_id, "lease_until": self._lease_end()})
        given["UpdateExpression"] += ", #attempts = #attempts + :one, #started_at = if_not_exists(#started_at, :now)"
        given["ExpressionAttributeNames"] |= {f"#{name}": NAMES[name] for name in ("attempts", "started_at")}
        given["ExpressionAttributeValues"] |= {":one": {"N": "1"}, ":now": {"S": stamp(datetime.now(UTC))}}
        with self._errors():
            try:
                answer = self._client.update_item(**given, ReturnValues="ALL_NEW")
            except self._client.exceptions.ConditionalCheckFailedException as error:
                raise _lost(record) from error
        return from_item(answer["Attributes"])

    def extend(self, record: Record) -> Record:
        """Extend the lease of a file that is worked on.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        return self._changed(record, replace(record, lease_until=self._lease_end()), ("lease_until",))

    def postpone(self, record: Record, error: str, wait: timedelta) -> None:
        """Record that a file could not be done for reasons of ours, and let anybody try again after a while.

        It does not count as an attempt: files are given up over crashes, not over a warehouse that is away. Only the
        first one does, so that whoever begins next looks for what this one has left.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        attempts = max(1, record.attempts - 1)
        later = replace(record, attempts=attempts, lease_until=datetime.now(UTC) + wait).with_error(error)
        self._changed(record, later, ("attempts", "lease_until", "error"))

    def finish(self, record: Record, status: Status, **facts: Any) -> Record:  # noqa: ANN401 - attributes of a record
        """Record a file's end; it is not open any more.

        Args:
            record: the record as its owner knows it.
            status: how it ended.
            facts: attributes of the record that are known now.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        ended = replace(record, status=status, ended_at=datetime.now(UTC), **facts)
        ended = ended.with_error(ended.error)
        changes = {name: getattr(ended, name) for name in ("status", "ended_at", *facts)}
        remove: Any = {"Delete": {"TableName": self.name, "Key": open_key(record.receiver, record.file_id)}}
        items = [{"Update": self._update_of(record, changes)}, remove]
        for _ in range(LOOKS):
            with self._errors():
                try:
                    self._client.transact_write_items(TransactItems=items)
                except self._client.exceptions.TransactionCanceledException as error:
                    if "ConditionalCheckFailed" in _only_conditions(error):
                        raise _lost(record) from error
                    continue  # it met another change at that moment, such as our own heartbeat's
            return ended
        raise TransientError(f"The record of {record.file_name} changes all the time.", "Try again.")

    def _changed(self, held: Record, record: Record, names: Iterable[str]) -> Record:
        if not self._change(held, {name: getattr(record, name) for name in names}):
            raise _lost(held)
        return record

    def _change(self, held: Record, changes: Mapping[str, Any]) -> bool:
        """Change a record if its owner is still the same and it is not finished; whether it was changed."""
        with self._errors():
            try:
                self._client.update_item(**self._update_of(held, changes))
            except self._client.exceptions.ConditionalCheckFailedException:
                return False
        return True

    def _update_of(self, held: Record, changes: Mapping[str, Any]) -> Any:  # noqa: ANN401 - one update, of two forms
        known = {name: value for name, value in changes.items() if value is not None}
        gone = [f"#{name}" for name in changes if name not in known]  # such as the error of an earlier attempt
        sets = ", ".join(f"#{name} = :{name}" for name in known)
        removes = f"REMOVE {', '.join(gone)} " if gone else ""
        return {
            "TableName": self.name,
            "Key": key_item(held.table, held.landed_key),
            "UpdateExpression": f"{removes}SET {sets}",
            "ConditionExpression": "#held_owner = :held_owner AND #held_status = :held_status",
            "ExpressionAttributeNames": {
                "#held_owner": NAMES["owner"],
                "#held_status": NAMES["status"],
                **{f"#{name}": NAMES[name] for name in changes},
            },
            "ExpressionAttributeValues": {
                ":held_owner": {"S": held.owner},
                ":held_status": {"S": "processing"},
                **{f":{name}": attribute(name, value) for name, value in known.items()},
            },
        }

    def _put_of(self, item: Item, condition: str | None = None) -> dict[str, Any]:
        given: dict[str, Any] = {"TableName": self.name, "Item": item}
        return {"Put": {**given, "ConditionExpression": condition} if condition else given}

    def _lease_end(self) -> datetime:
        return datetime.now(UTC) + self.lease

    def write(self, record: Record) -> None:
        """Write a record that nobody claims: of a run that has ended. The same run's earlier one is replaced."""
        puts: list[Any] = [
            self._put_of(to_item(record.with_error(record.error))),
            self._put_of({**identity_key(record.file_id), **pointer(record)}),
            self._put_of(key_item(TABLES, record.table)),
        ]
        with self._errors():
            self._client.transact_write_items(TransactItems=puts)

    # --- questions --------------------------------------------------------------------------------------------------

    def find(self, file_id: str) -> Record | None:
        """The record of a file id, None when there is none."""
        return self.find_all([file_id]).get(file_id)

    def find_all(self, file_ids: Sequence[str]) -> dict[str, Record]:
        """The records of those of some file ids that have one."""
        points = self._get([identity_key(file_id) for file_id in dict.fromkeys(file_ids)])
        return {record.file_id: record for record in self._records(points)}

    def open_files(self, receiver: str) -> list[Record]:
        """What is claimed and not finished of one receiver."""
        points = list(self._query(f"{MARK}OPEN{MARK}{receiver}"))
        return [record for record in self._records(points) if not record.is_finished]

    def knows(self, table: str) -> bool:
        """Whether a table has records."""
        return bool(self._get([key_item(TABLES, table)]))

    def tables(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """The names of the tables that have records, in order.

        Args:
            after: only those that come after this one.
            limit: how many at most.
        """
        names = (item[SORT]["S"] for item in self._query(TABLES, after))
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
        given: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": f"{PARTITION} = :table AND {SORT} BETWEEN :first AND :last",
            "ExpressionAttributeValues": {":table": {"S": table}, ":first": {"S": first}, ":last": {"S": last}},
            "ScanIndexForward": False,
            "Limit": size,
            "ConsistentRead": True,
        }
        if status:
            given["FilterExpression"] = "#status = :status"
            given["ExpressionAttributeNames"] = {"#status": NAMES["status"]}
            given["ExpressionAttributeValues"][":status"] = {"S": status}
        if start:
            given["ExclusiveStartKey"] = start
        if first > last:
            return {"Items": []}
        with self._errors():
            return self._client.query(**given)

    def _query(self, partition: str, after: str | None = None) -> Iterator[Item]:
        values: Any = {":partition": {"S": partition}, **({":after": {"S": after}} if after else {})}
        with self._errors():
            pages = self._client.get_paginator("query").paginate(
                TableName=self.name,
                KeyConditionExpression=f"{PARTITION} = :partition" + (f" AND {SORT} > :after" if after else ""),
                ExpressionAttributeValues=values,
                ConsistentRead=True,
            )
            for page in pages:
                yield from page["Items"]

    def _records(self, points: Iterable[Item]) -> list[Record]:
        return [from_item(item) for item in self._get([pointed(item) for item in points])]

    def _get(self, keys: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        for start in range(0, len(keys), BATCH):
            asked: Any = {self.name: {"Keys": list(keys[start : start + BATCH]), "ConsistentRead": True}}
            for attempt in range(MOST):
                with self._errors():
                    answer = self._client.batch_get_item(RequestItems=asked)
                found += answer["Responses"].get(self.name, [])
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
                time.sleep(PAUSE * 2**attempt)
            else:
                raise TransientError(f"The DynamoDB table {self.name} has no room for reads.", "Try again.")
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with aws_errors(f"the DynamoDB table {self.name}"):
                yield
        except PermanentError as error:
            cause = error.__cause__
            code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
            if code == "ResourceNotFoundException":
                raise ConfigError(
                    f"The DynamoDB table {self.name}, which holds the audit log, does not exist.",
                    "Make it with 'rds-lake files setup', or correct RDS_LAKE_AUDIT_TABLE.",
                ) from error
            if code in {
                "ProvisionedThroughputExceededException",
                "RequestLimitExceeded",
                "TransactionConflictException",
            }:
                raise TransientError(error.problem, "Try again.") from error
            raise


def new_owner() -> str:
    """A name for whoever claims next: no two claims have the same."""
    return secrets.token_hex(8)


def _only_conditions(error: ClientError) -> set[str | None]:
    """The reasons of a cancelled transaction whose conditions did not hold, or that met another change.

    Raises:
        ClientError: it was cancelled over something else.
    """
    reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])}
    if not reasons or reasons - {None, "None", "ConditionalCheckFailed", "TransactionConflict"}:
        raise error
    return reasons


def _lost(record: Record) -> LostClaimError:
    return LostClaimError(
        f"{record.file_name} ({record.file_id}) was taken over by another worker.", "Nothing to do: that one goes on."
    )


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
