"""The audit log: claims, and the changes of what is claimed.

A file is claimed by one transaction that puts its items on the condition that they are not there. Every later change
is made on the condition that the owner is still the same, so that of two workers one has no effect at all. Whoever
claims gets a lease; when it is over without an end, the next one takes over, with another owner.
"""

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rds_lake.audit_log.history import History
from rds_lake.audit_log.record import (
    NAMES,
    TABLES,
    Record,
    Status,
    attribute,
    from_item,
    identity_key,
    key_item,
    open_key,
    pointer,
    stamp,
    to_item,
)
from rds_lake.audit_log.table import LOOKS, PAUSE, AuditTable, Sleep
from rds_lake.errors import TransientError
from rds_lake.pauses import pause

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LEASE = timedelta(minutes=5)
"""How long an owner is left alone; who works longer extends it meanwhile."""

SILENCE = timedelta(days=2)
"""After so long without any owner work on a file begins anew: nobody has tried to do it, not even once a night."""

_NEW = {"ConditionExpression": "attribute_not_exists(TableName)"}


class LostClaimError(TransientError):
    """Somebody else works on the file now: this worker's lease was over."""


class AuditLog(History):
    """The audit log.

    Args:
        client: a boto3 client of DynamoDB.
        name: the table's name in DynamoDB.
        lease: how long an owner is left alone.
        sleep: waits for some seconds.
    """

    def __init__(
        self, client: "DynamoDBClient", name: str, lease: timedelta = LEASE, sleep: Sleep = time.sleep
    ) -> None:
        super().__init__(AuditTable(client, name, sleep))
        self.lease = lease
        self._sleep = sleep
        self._named: set[str] = set()

    def create(self) -> bool:
        """Make the table in DynamoDB; False when it is there already.

        Raises:
            RdsLakeError: it could not be made.
        """
        return self._table.create()

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
        self._name(record.table)
        for attempt in range(LOOKS):
            fresh = replace(record, status="processing", owner=new_owner(), lease_until=self._lease_end())
            if self._put(fresh):
                return fresh
            held = self.find(record.file_id)
            if held is not None:
                return self.take_over(held)
            self._sleep(pause(attempt + 1, PAUSE))  # of what one transaction puts, a look may see a part
        raise TransientError(f"The record of {record.file_name} changes all the time.", "Try again.")

    def _put(self, record: Record) -> bool:
        """Put a new record with its pointers; whether none was there."""
        points = pointer(record)
        items = (
            to_item(record),
            {**identity_key(record.file_id), **points},
            {**open_key(record.receiver, record.file_id), **points},
        )
        puts = [{"Put": {"Item": item, **_NEW}} for item in items]
        return self._table.write_together(puts, f"The record of {record.file_name}")

    def _name(self, table: str) -> None:
        """Put a table among those that have records.

        It is no part of the transactions, where all who claim files of one table would meet. It comes before them: a
        name without records harms nobody.
        """
        if table not in self._named:
            self._table.put(key_item(TABLES, table))
            self._named.add(table)

    def take_over(self, held: Record) -> Record | None:
        """Take a file over whose worker's lease is over; None when it is finished, still held, or taken by another."""
        now = datetime.now(UTC)
        if held.is_finished or (held.lease_until is not None and held.lease_until > now):
            return None
        is_forgotten = held.lease_until is not None and now - held.lease_until > SILENCE
        started = None if is_forgotten else held.started_at
        mine = replace(held, owner=new_owner(), lease_until=self._lease_end(), started_at=started)
        changes = {name: getattr(mine, name) for name in ("owner", "lease_until", "started_at")}
        return mine if self._change(held, changes) else None

    def begin(self, record: Record, run_id: str) -> Record:
        """Record that work on a claimed file begins.

        The attempt is counted in DynamoDB, not from what the caller knows: a run that is started again comes with the
        claim as it was made. Why it was put off before is not true any more.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        given = self._update_of(record, {"run_id": run_id, "lease_until": self._lease_end(), "error": None})
        given["UpdateExpression"] += ", #attempts = #attempts + :one, #started_at = if_not_exists(#started_at, :now)"
        given["ExpressionAttributeNames"] |= {f"#{name}": NAMES[name] for name in ("attempts", "started_at")}
        given["ExpressionAttributeValues"] |= {":one": {"N": "1"}, ":now": {"S": stamp(datetime.now(UTC))}}
        changed = self._table.update(**given)
        if changed is None:
            raise _lost(record)
        return from_item(changed)

    def extend(self, record: Record) -> Record:
        """Extend the lease of a file that is worked on.

        Raises:
            LostClaimError: somebody else has taken it over.
        """
        return self._changed(record, replace(record, lease_until=self._lease_end()), ("lease_until",))

    def is_fresh(self, record: Record) -> bool:
        """Whether nobody can have taken a file over: more than half of its lease is left, and clocks differ by less."""
        return record.lease_until is not None and record.lease_until - datetime.now(UTC) > self.lease / 2

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
        items = [
            {"Update": self._update_of(record, changes)},
            {"Delete": {"Key": open_key(record.receiver, record.file_id)}},
        ]
        if not self._table.write_together(items, f"The end of {record.file_name}"):
            raise _lost(record)
        return ended

    def _changed(self, held: Record, record: Record, names: Iterable[str]) -> Record:
        if not self._change(held, {name: getattr(record, name) for name in names}):
            raise _lost(held)
        return record

    def _change(self, held: Record, changes: Mapping[str, Any]) -> bool:
        """Change a record if its owner is still the same and it is not finished; whether it was changed."""
        return self._table.update(**self._update_of(held, changes)) is not None

    def _update_of(self, held: Record, changes: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in changes.items() if value is not None}
        gone = [f"#{name}" for name in changes if name not in known]  # such as the error of an earlier attempt
        sets = ", ".join(f"#{name} = :{name}" for name in known)
        removes = f"REMOVE {', '.join(gone)} " if gone else ""
        return {
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

    def _lease_end(self) -> datetime:
        return datetime.now(UTC) + self.lease

    def write(self, record: Record) -> None:
        """Write a record that nobody claims: of a run that has ended. The same run's earlier one is replaced."""
        self._name(record.table)
        items = (to_item(record.with_error(record.error)), {**identity_key(record.file_id), **pointer(record)})
        self._table.write_together([{"Put": {"Item": item}} for item in items], f"The record of {record.file_name}")


def new_owner() -> str:
    """A name for whoever claims next: no two claims have the same."""
    return secrets.token_hex(8)


def _lost(record: Record) -> LostClaimError:
    return LostClaimError(
        f"{record.file_name} ({record.file_id}) was taken over by another worker.", "Nothing to do: that one goes on."
    )
