"""The audit log's table in DynamoDB: made, read and written in items. The only place that speaks to DynamoDB.

What may pass by itself, DynamoDB says in two ways: as the error of a request, and as a reason for which it cancelled a
transaction. `_passes` knows both.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from rds_lake.audit_log.record import PARTITION, SORT, Item
from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.lake.aws import aws_errors
from rds_lake.pauses import pause

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LOOKS = 5
"""How often a transaction is tried that meets others, or finds no room, at that moment."""

MOST = 8
"""How often DynamoDB is asked for what it had no room for."""

BATCH = 100
"""Items that one BatchGetItem asks for, as many as DynamoDB takes."""

PAUSE = 0.05
"""Seconds before DynamoDB is asked again; doubled each time."""

_PASSING = frozenset(
    {
        *("ProvisionedThroughputExceeded", "RequestLimitExceeded", "Throttling", "ThrottlingError"),
        *("TransactionConflict", "TransactionInProgress"),
    }
)
_UNMET = "ConditionalCheckFailed"

Sleep = Callable[[float], None]


class AuditTable:
    """A table in DynamoDB.

    Args:
        client: a boto3 client of DynamoDB.
        name: the table's name.
        sleep: waits for some seconds.
    """

    def __init__(self, client: "DynamoDBClient", name: str, sleep: Sleep = time.sleep) -> None:
        self.client = client
        self.name = name
        self.sleep = sleep

    def create(self) -> bool:
        """Make it; False when it is there already.

        Raises:
            RdsLakeError: it could not be made.
        """
        with self._errors():
            try:
                self.client.create_table(
                    TableName=self.name,
                    KeySchema=[
                        {"AttributeName": PARTITION, "KeyType": "HASH"},
                        {"AttributeName": SORT, "KeyType": "RANGE"},
                    ],
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in (PARTITION, SORT)],
                    BillingMode="PAY_PER_REQUEST",
                )
            except self.client.exceptions.ResourceInUseException:
                return False
            self.client.get_waiter("table_exists").wait(TableName=self.name, WaiterConfig={"Delay": 1})
            return True

    def put(self, item: Item) -> None:
        """Write one item, whatever is there."""
        with self._errors():
            self.client.put_item(TableName=self.name, Item=item)

    def update(self, **given: Any) -> Item | None:  # noqa: ANN401 - as boto3 takes them
        """Change one item on a condition; the item as it is then, None when the condition does not hold."""
        with self._errors():
            try:
                return self.client.update_item(TableName=self.name, ReturnValues="ALL_NEW", **given)["Attributes"]
            except self.client.exceptions.ConditionalCheckFailedException:
                return None

    def write_together(self, requests: Sequence[Any], what: str) -> bool:
        """Do several things at once or none of them; False when a condition does not hold.

        Args:
            requests: each of them as TransactWriteItems takes it, without the table's name.
            what: what is written, for the error message.

        Raises:
            TransientError: it met other changes, or found no room, each time that it was tried.
        """
        items: list[Any] = [
            {kind: {"TableName": self.name, **given} for kind, given in request.items()} for request in requests
        ]
        for attempt in range(LOOKS):
            if attempt:
                self.sleep(pause(attempt, PAUSE))
            with self._errors():
                try:
                    self.client.transact_write_items(TransactItems=items)
                except self.client.exceptions.TransactionCanceledException as error:
                    reasons = _reasons(error)
                    if _UNMET in reasons:
                        return False
                    if not reasons or not all(map(_passes, reasons)):
                        raise
                    continue
            return True
        raise TransientError(
            f"{what} could not be written: DynamoDB's table {self.name} changes all the time, or has no room.",
            "Try again.",
        )

    def get(self, keys: Sequence[Item]) -> list[Item]:
        """The items of some keys, as far as they are there."""
        found: list[Item] = []
        for start in range(0, len(keys), BATCH):
            asked: Any = {self.name: {"Keys": list(keys[start : start + BATCH]), "ConsistentRead": True}}
            for attempt in range(MOST):
                with self._errors():
                    answer = self.client.batch_get_item(RequestItems=asked)
                found += answer["Responses"].get(self.name, [])
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
                self.sleep(pause(attempt + 1, PAUSE))
            else:
                raise TransientError(f"The DynamoDB table {self.name} has no room for reads.", "Try again.")
        return found

    def page(self, condition: str, values: Item, **more: Any) -> Any:  # noqa: ANN401 - boto3's answer
        """One page of the items that a condition on their keys holds for."""
        with self._errors():
            return self.client.query(
                TableName=self.name,
                KeyConditionExpression=condition,
                ExpressionAttributeValues=values,
                ConsistentRead=True,
                **more,
            )

    def query(self, partition: str, after: str | None = None) -> Iterator[Item]:
        """All items of a partition, in the order of their sort keys; only those behind one, if it is given."""
        condition = f"{PARTITION} = :partition" + (f" AND {SORT} > :after" if after else "")
        values: Item = {":partition": {"S": partition}, **({":after": {"S": after}} if after else {})}
        start: Any = {}
        while start is not None:
            answer = self.page(condition, values, **start)
            yield from answer["Items"]
            last = answer.get("LastEvaluatedKey")
            start = {"ExclusiveStartKey": last} if last else None

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
            if _passes(code):
                raise TransientError(error.problem, "Try again.") from error
            raise


def _passes(code: str) -> bool:
    """Whether what DynamoDB calls so, as an error or as a reason, may pass by itself."""
    return code.removesuffix("Exception") in _PASSING


def _reasons(error: ClientError) -> set[str]:
    """Why a transaction was cancelled."""
    given: Any = error.response
    return {reason["Code"] for reason in given.get("CancellationReasons", []) if reason.get("Code", "None") != "None"}
