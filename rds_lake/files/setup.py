"""Setting up what events need in AWS: the bucket's notifications, a rule of EventBridge and a queue per receiver.

Every step finds out what is there and adds only what is missing, so that it can be run at any time: what a queue that
is there already grants others, how long it keeps messages and where its dead letters go stays as its owner has it. Who
keeps their infrastructure in templates finds in docs/files.md what has to be there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from rds_lake.errors import PermanentError
from rds_lake.lake.aws import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

RECEIVES = 5
"""How often a message is handed out before it goes to the dead letters."""

RETENTION_SECONDS = 14 * 86_400
"""How long messages stay in a queue that is made here, the longest that SQS knows."""

SID = "rds_lake"
"""What our statement in a queue's policy is called."""


@dataclass(frozen=True)
class Wanted:
    """What one receiver needs.

    Attributes:
        name: the receiver.
        bucket: its bucket.
        prefixes: the prefixes that files are dropped under; nothing that rds_lake writes lies below them.
        queue: the name of its queue.
    """

    name: str
    bucket: str
    prefixes: tuple[str, ...]
    queue: str

    @property
    def rule(self) -> str:
        """The name of its rule in EventBridge."""
        return f"rds_lake_{self.name}"

    def pattern(self) -> dict[str, Any]:
        """The events that it wants."""
        keys = [{"prefix": prefix} for prefix in self.prefixes]
        return {
            "source": ["aws.s3"],
            "detail-type": ["Object Created"],
            "detail": {"bucket": {"name": [self.bucket]}, "object": {"key": keys}},
        }


class EventSetup:
    """Makes what is missing.

    Args:
        s3: a boto3 client.
        sqs: a boto3 client.
        events: a boto3 client of EventBridge.
    """

    def __init__(self, s3: "S3Client", sqs: "SQSClient", events: "EventBridgeClient") -> None:
        self._s3 = s3
        self._sqs = sqs
        self._events = events

    def make(self, wanted: Sequence[Wanted]) -> Iterator[str]:
        """Make what some receivers need; says in words what is there now.

        Raises:
            RdsLakeError: AWS refused a step; those before it stay.
        """
        for bucket in dict.fromkeys(item.bucket for item in wanted):
            yield self._notify(bucket)
        for item in wanted:
            yield self._connect(item)

    def _notify(self, bucket: str) -> str:
        """Have a bucket tell EventBridge of its objects, whatever else it tells whomever."""
        with aws_errors(f"the notifications of s3://{bucket}"):
            held: Any = self._s3.get_bucket_notification_configuration(Bucket=bucket)
            held.pop("ResponseMetadata", None)
            if "EventBridgeConfiguration" in held:
                return f"s3://{bucket} tells EventBridge of new objects already"
            wanted: Any = {**held, "EventBridgeConfiguration": {}}
            self._s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)
        return f"s3://{bucket} tells EventBridge of new objects"

    def _connect(self, wanted: Wanted) -> str:
        """Bring a receiver's events into its queue."""
        with aws_errors(f"the SQS queue {wanted.queue}"):
            dead = self._queue(f"{wanted.queue}_dead", {})
            redrive = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": str(RECEIVES)})
            queue = self._queue(wanted.queue, {"RedrivePolicy": redrive})
        with aws_errors(f"the EventBridge rule {wanted.rule}"):
            rule = self._events.put_rule(
                Name=wanted.rule,
                EventPattern=json.dumps(wanted.pattern()),
                Description=f"Files that land for {wanted.name}, for rds_lake",
            )["RuleArn"]
        with aws_errors(f"the SQS queue {wanted.queue}"):
            for each in (queue, dead):
                if policy := _granting(each.policy, _grant(each.arn, rule)):
                    self._sqs.set_queue_attributes(QueueUrl=each.url, Attributes={"Policy": policy})
        with aws_errors(f"the EventBridge rule {wanted.rule}"):
            answer = self._events.put_targets(
                Rule=wanted.rule, Targets=[{"Id": "queue", "Arn": queue.arn, "DeadLetterConfig": {"Arn": dead.arn}}]
            )
            if answer.get("FailedEntryCount"):
                raise PermanentError(
                    f"EventBridge did not take {wanted.queue} as a target: {answer['FailedEntries']}.",
                    "Check what the caller may do with the rule.",
                )
        prefixes = ", ".join(f"s3://{wanted.bucket}/{prefix}" for prefix in wanted.prefixes)
        return f"events of {prefixes} go to the queue {wanted.queue}"

    def _queue(self, name: str, needed: Mapping[str, str]) -> "_Queue":
        """A queue, made if it is not there; what it needs is set where it has nothing of the kind."""
        url = self._find(name)
        if url is None:
            given: Any = {"MessageRetentionPeriod": str(RETENTION_SECONDS), **needed}
            url = self._sqs.create_queue(QueueName=name, Attributes=given)["QueueUrl"]
        asked: Any = ["QueueArn", "Policy", *needed]
        held: Any = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=asked)["Attributes"]
        missing: Any = {attribute: value for attribute, value in needed.items() if not held.get(attribute)}
        if missing:
            self._sqs.set_queue_attributes(QueueUrl=url, Attributes=missing)
        return _Queue(url, held["QueueArn"], held.get("Policy", ""))

    def _find(self, name: str) -> str | None:
        try:
            return self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except ClientError as error:  # it has had two names
            if not re.search("NonExistentQueue|QueueDoesNotExist", str(error.response["Error"]["Code"])):
                raise
            return None


@dataclass(frozen=True)
class _Queue:
    url: str
    arn: str
    policy: str


def _grant(queue: str, rule: str) -> dict[str, Any]:
    """The right of one rule to send messages."""
    return {
        "Sid": SID,
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }


def _granting(held: str, grant: Mapping[str, Any]) -> str | None:
    """A queue's policy with a statement of ours in the place of an earlier one; None when it has it already."""
    policy: dict[str, Any] = json.loads(held) if held else {"Version": "2012-10-17"}
    found = policy.get("Statement", [])
    statements: list[Any] = found if isinstance(found, list) else [found]
    if grant in statements:
        return None
    unnamed = {name: value for name, value in grant.items() if name != "Sid"}
    others = [each for each in statements if each.get("Sid") != SID and each != unnamed]
    return json.dumps({**policy, "Statement": [*others, grant]})
