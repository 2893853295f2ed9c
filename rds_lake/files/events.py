"""Events: what S3 says of new objects, through EventBridge and an SQS queue.

They come at least once, in no order, late, or never. So an event is a hint to look at a key; what is there is claimed,
and the message is deleted after that. Both forms are understood, EventBridge's and that of S3's own notifications.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError
from rds_lake.files.machine import Receiver, new_record
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion
from rds_lake.lake.aws import aws_errors
from rds_lake.side_by_side import side_by_side
from rds_lake.wording import counted

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

MESSAGES = 10
"""Messages of one request, as many as SQS hands out."""

WAIT_SECONDS = 1
"""How long a request waits for messages; without waiting SQS asks some of its servers only."""

KEY_BYTES = 1024
"""The longest key that S3 knows."""

HIDDEN_SECONDS = 60
"""How long others do not get a message that is looked at; if it takes longer, they find that its file is claimed."""


@dataclass(frozen=True)
class Hint:
    """An object that an event is of."""

    bucket: str
    key: str
    version_id: str | None


@dataclass(frozen=True)
class Message:
    """A message of the queue.

    Attributes:
        receipt: what deletes it.
        hints: the objects that it is of.
        problem: why it could not be understood; None when it was.
    """

    receipt: str
    hints: tuple[Hint, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Taken:
    """What a look into the queue came to.

    Attributes:
        claimed: the files that were claimed.
        messages: how many messages were read.
        known: objects that were claimed before, by whomever.
        gone: objects that are not there any more.
        foreign: objects that are none of the receiver's.
        unreadable: objects that could not be looked at, or not be claimed.
        problems: messages that were not understood, and objects that could not be looked at or claimed; their messages
            stay in the queue, which moves them to its dead letters. And why messages could not be deleted.
        undeleted: messages that could not be deleted; they come again.
    """

    claimed: tuple[Record, ...] = ()
    messages: int = 0
    known: int = 0
    gone: int = 0
    foreign: int = 0
    unreadable: int = 0
    problems: tuple[str, ...] = ()
    undeleted: int = 0

    @property
    def summary(self) -> str:
        """The counts in words."""
        if not self.messages:
            return "No event has come."
        counts = {
            "known": self.known,
            "gone": self.gone,
            "not ours": self.foreign,
            "not readable": self.unreadable,
            "not understood": len(self.problems) - self.unreadable - bool(self.undeleted),
            "not deleted": self.undeleted,
        }
        told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        return f"{self.messages:,} events: {len(self.claimed):,} new files{f', {told}' if told else ''}."


def hints_of(body: str) -> tuple[Hint, ...]:
    """The objects that a message is of; none for S3's test message.

    Raises:
        ValueError: it is no message of S3.
    """
    data: Any = json.loads(body)
    if isinstance(data, Mapping) and data.get("Type") == "Notification" and isinstance(data.get("Message"), str):
        data = json.loads(data["Message"])  # through SNS
    try:
        if data.get("Event") == "s3:TestEvent":
            return ()
        if "Records" in data:
            return tuple(_of_notification(item["s3"]) for item in data["Records"])
        detail = data["detail"]
        return (_hint(detail["bucket"]["name"], detail["object"]["key"], detail["object"].get("version-id")),)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it has no {error}") from error


def _of_notification(item: Mapping[str, Any]) -> Hint:
    thing = item["object"]
    return _hint(item["bucket"]["name"], unquote_plus(thing["key"]), thing.get("versionId"))


def _hint(bucket: object, key: object, version_id: object) -> Hint:
    """An object that a message names.

    Raises:
        TypeError, ValueError: S3 has no such names; to ask it would end the tick that reads the other messages.
    """
    if not isinstance(bucket, str) or not isinstance(key, str) or not isinstance(version_id, str | None):
        raise TypeError("text as its bucket, key or version")
    if len(key.encode()) > KEY_BYTES:
        raise ValueError(f"its key has more than {KEY_BYTES:,} bytes")
    return Hint(bucket, key, version_id or None)


class EventQueue:
    """The SQS queue that events of one receiver come through.

    Args:
        client: a boto3 client.
        name: the queue's name.
    """

    def __init__(self, client: "SQSClient", name: str) -> None:
        self._client = client
        self.name = name
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Its address.

        Raises:
            ConfigError: there is no such queue.
        """
        if self._url is None:
            try:
                with aws_errors(f"the SQS queue {self.name}"):
                    self._url = self._client.get_queue_url(QueueName=self.name)["QueueUrl"]
            except PermanentError as error:
                if isinstance(error.__cause__, ClientError) and "NonExistentQueue" in str(error.__cause__):
                    raise ConfigError(
                        f"The SQS queue {self.name} does not exist.", "Make it with 'rds-lake files setup'."
                    ) from error
                raise
        return self._url

    def receive(self) -> list[Message]:
        """Some messages, none when there are none; they are hidden from others for a while."""
        with aws_errors(f"the SQS queue {self.name}"):
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=MESSAGES,
                WaitTimeSeconds=WAIT_SECONDS,
                VisibilityTimeout=HIDDEN_SECONDS,
            )
        return [_message(item["ReceiptHandle"], item["Body"]) for item in answer.get("Messages", [])]

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages; one that stays comes again, which does no harm."""
        for start in range(0, len(messages), MESSAGES):
            some = messages[start : start + MESSAGES]
            with aws_errors(f"the SQS queue {self.name}"):
                self._client.delete_message_batch(
                    QueueUrl=self.url,
                    Entries=[{"Id": str(at), "ReceiptHandle": item.receipt} for at, item in enumerate(some)],
                )


def _message(receipt: str, body: str) -> Message:
    try:
        return Message(receipt, hints_of(body))
    except (ValueError, RecursionError) as error:
        return Message(receipt, (), f"a message is not of S3: {error}")


def take_events(queue: EventQueue, receiver: Receiver, log: AuditLog, most: int = 500, seconds: float = 20) -> Taken:
    """Claim the files that events in the queue are of.

    Args:
        queue: the queue.
        receiver: the drop zone or feed that it is for.
        log: the audit log.
        most: about how many messages are read.
        seconds: how long to go on reading.

    Returns:
        What was claimed, also when something failed for other objects, or afterwards: nobody else would handle it
        before its lease is over.

    Raises:
        RdsLakeError: the queue could not be asked, or none of the objects could be looked at or claimed, such as when
            S3 refuses, or the audit log is away; the messages come again.
    """
    messages: list[Message] = []
    until = time.monotonic() + seconds
    while len(messages) < most and time.monotonic() < until and (some := queue.receive()):
        messages += some
    understood = [message for message in messages if message.problem is None]
    hints = dict.fromkeys(hint for message in understood for hint in message.hints)
    ours = [hint for hint in hints if hint.bucket == receiver.store.bucket and receiver.place(hint.key) is not None]
    found = dict(zip(ours, side_by_side(lambda hint: _claim(hint, receiver, log), ours), strict=True))
    refused = {hint: error for hint, error in found.items() if isinstance(error, RdsLakeError)}
    done = [message for message in understood if refused.keys().isdisjoint(message.hints)]
    trouble = _delete(queue, done)
    if refused and len(refused) == len(found):
        raise next(iter(refused.values()))
    claims = list(found.values())
    return Taken(
        claimed=tuple(_once(claim for claim in claims if isinstance(claim, Record))),
        messages=len(messages),
        known=sum(claim is True for claim in claims),
        gone=sum(claim is None for claim in claims),
        foreign=len(hints) - len(ours) + sum(claim is False for claim in claims),
        unreadable=len(refused),
        problems=(
            *(message.problem for message in messages if message.problem is not None),
            *(f"s3://{hint.bucket}/{hint.key} cannot be {_step(error)}: {error}" for hint, error in refused.items()),
            *([f"{counted(len(done), 'message')} could not be deleted, and come again: {trouble}"] if trouble else []),
        ),
        undeleted=len(done) if trouble else 0,
    )


def _delete(queue: EventQueue, messages: Sequence[Message]) -> RdsLakeError | None:
    """Delete messages; why that failed, which is no reason to forget what was claimed."""
    try:
        queue.delete(messages)
    except RdsLakeError as error:
        return error
    return None


def _step(error: RdsLakeError) -> str:
    return "looked at" if isinstance(error, PermanentError) else "claimed now"


def _claim(hint: Hint, receiver: Receiver, log: AuditLog) -> Record | bool | RdsLakeError | None:
    """The claimed file; True when it is known already, False when it is no file, None when it is not there any more.

    An error when it cannot be looked at or claimed: that stops no other file, and those that are claimed already are
    not forgotten over it.
    """
    try:
        version = _look(receiver.store, hint)
        if version is None:
            return None
        record = new_record(receiver, version)
        return (log.claim(record) or True) if record else False
    except RdsLakeError as error:
        return error


def _look(store: FileStore, hint: Hint) -> FileVersion | None:
    """The version that an event is of; None when it is gone, or its owner has deleted the key that it lies under."""
    now = store.look(hint.key)
    if now is None or hint.version_id in {None, now.version_id}:
        return now
    return store.look(hint.key, hint.version_id)


def _once(records: Iterable[Record]) -> list[Record]:
    return list({record.file_id: record for record in records}.values())
