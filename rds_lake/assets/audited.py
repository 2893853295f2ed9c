"""Runs of table pipelines in the audit log: one record per run, when it has loaded a table or has failed.

The audit log is a witness, not a part of the chain: when it cannot be written, the run says so and goes on, for what it
has done is in the ledger.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dagster import AssetCheckExecutionContext, AssetExecutionContext

from rds_lake.assets.common import run_partitions
from rds_lake.audit_log.record import Record, Status
from rds_lake.errors import RdsLakeError
from rds_lake.resources.services import AuditResource
from rds_lake.spec import TableSpec

ACTION = "sync"

Context = AssetExecutionContext | AssetCheckExecutionContext


def record_load(
    context: Context, audit: AuditResource, spec: TableSpec, *, read: int, loaded: int, discarded: int
) -> None:
    """Record that a run has loaded a table.

    Args:
        context: of the run's last step.
        audit: the audit log.
        spec: the table's YAML.
        read: landed rows.
        loaded: rows of the partitions in the warehouse.
        discarded: rows that broke a rule.
    """
    _record(context, audit, spec, "completed", rows_read=read, rows_loaded=loaded, rows_discarded=discarded)


@contextmanager
def failure_recorded(context: Context, audit: AuditResource, spec: TableSpec) -> Iterator[None]:
    """Record the error that ends a step of a run."""
    try:
        yield
    except RdsLakeError as error:
        _record(context, audit, spec, "failed", error=str(error))
        raise


def record_blocked(context: Context, audit: AuditResource, spec: TableSpec, checks: Sequence[str]) -> None:
    """Record that checks which block a run have failed."""
    if checks:
        _record(context, audit, spec, "failed", error=f"Checks that block failed: {'; '.join(checks)}.")


def _record(context: Context, audit: AuditResource, spec: TableSpec, status: Status, **facts: Any) -> None:  # noqa: ANN401
    log = audit.pipelines_log()
    if log is None:
        return
    found = context.instance.get_run_record_by_id(context.run.run_id)
    began = found.create_timestamp.astimezone(UTC) if found else datetime.now(UTC)
    record = Record(
        table=spec.table,
        file_id=hashlib.sha256(f"{context.run.run_id} {spec.table}".encode()).hexdigest()[:32],
        file_name=_span(run_partitions(context.run.tags, spec.partitioning)),
        action=ACTION,
        status=status,
        landed_at=began,
        attempts=1,
        started_at=began,
        ended_at=datetime.now(UTC),
        run_id=context.run.run_id,
        **facts,
    )
    try:
        log.write(record)
    except RdsLakeError as error:
        context.log.warning(f"This run is not in the audit log: {error}")


def _span(partitions: Sequence[str] | None) -> str:
    """The partitions of a run in a few characters."""
    if not partitions:
        return "all partitions"
    return partitions[0] if len(partitions) == 1 else f"{partitions[0]} to {partitions[-1]}"
