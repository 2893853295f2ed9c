"""What the API answers when it can: the records as callers see them. Pure.

Owner and lease of a record are left out: who works on a file is nobody's business but the workers'.
"""

from datetime import datetime
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from rds_lake.audit_log.record import Record, Status

EXAMPLE_TABLE = "sales.customers"
EXAMPLE_FILE = "5f0c6a1e9d3b4c7a8e2f1d0b9c8a7e6f"
_EXAMPLE_KEY = "sales/customers/append/customers_2026-11-20.csv"


class RecordAnswer(BaseModel):
    """What is known of one version of a file, or of one run of a table's pipeline."""

    table_name: str = Field(description="What it is for: a table, or a feed.", examples=[EXAMPLE_TABLE])
    file_id: str = Field(description="Identifies this version of the file.", examples=[EXAMPLE_FILE])
    file_name: str = Field(description="The file's name.", examples=["customers_2026-11-20.csv"])
    action: str = Field(
        description="What is done with it: append, truncate, schema, upsert, sync.", examples=["append"]
    )
    status: Status = Field(
        description="How far it is. `rejected`: the file is at fault; `failed`: the file may be good.",
        examples=["completed"],
    )
    landed_timestamp: datetime = Field(
        description="When the file landed: the object's own time.", examples=["2026-11-20T10:00:00Z"]
    )
    processing_started: datetime | None = Field(
        description="When its processing began first.", examples=["2026-11-20T10:00:04.120000Z"]
    )
    processing_ended: datetime | None = Field(
        description="When its processing ended.", examples=["2026-11-20T10:00:09.450000Z"]
    )
    run_id: str | None = Field(
        description="The Dagster run that worked on it last.", examples=["0b6c2f0e-7d43-4d0c-9a0e-2b1a4a8d3c11"]
    )
    run_url: str | None = Field(
        description="That run in Dagster's UI, if the API knows where the UI is.",
        examples=["http://127.0.0.1:3000/runs/0b6c2f0e-7d43-4d0c-9a0e-2b1a4a8d3c11"],
    )
    rows_read: int | None = Field(description="Data rows of the file, bad ones included.", examples=[1000])
    rows_loaded: int | None = Field(description="Rows that went into the target.", examples=[998])
    rows_discarded: int | None = Field(description="Rows that did not.", examples=[2])
    error: str | None = Field(
        description="Why it was rejected or failed, or why rows were discarded.",
        examples=["2 rows break the type of amount"],
    )
    location: str | None = Field(description="Where the file landed.", examples=[f"s3://drop/{_EXAMPLE_KEY}"])
    moved_to: str | None = Field(
        description="Where the file lies now.", examples=[f"s3://lake/archived/{_EXAMPLE_KEY}"]
    )
    report: str | None = Field(description="Where its report lies.", examples=["s3://lake/reports/5f0c6a1e.json"])
    size: int | None = Field(description="The file's bytes.", examples=[48213])
    etag: str | None = Field(description="The object's ETag.", examples=["9b2cf535f27731c974343645a3985328"])
    version_id: str | None = Field(
        description="The object's version in a bucket with versioning.", examples=["3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY"]
    )
    attempts: int = Field(description="How often its processing was begun.", examples=[1])

    @classmethod
    def of(cls, record: Record, dagster_url: str | None) -> "RecordAnswer":
        """A record as callers see it."""
        return cls(
            table_name=record.table,
            file_id=record.file_id,
            file_name=record.file_name,
            action=record.action,
            status=record.status,
            landed_timestamp=record.landed_at,
            processing_started=record.started_at,
            processing_ended=record.ended_at,
            run_id=record.run_id,
            run_url=run_url(dagster_url, record.run_id),
            rows_read=record.rows_read,
            rows_loaded=record.rows_loaded,
            rows_discarded=record.rows_discarded,
            error=record.error,
            location=f"s3://{record.bucket}/{record.key}" if record.bucket and record.key else None,
            moved_to=record.moved_to,
            report=record.report,
            size=record.size,
            etag=record.etag,
            version_id=record.version_id,
            attempts=record.attempts,
        )


class LogsAnswer(BaseModel):
    """Some records of a table, newest first."""

    records: list[RecordAnswer]
    next_page_token: str | None = Field(
        description="Give it as `page_token`, beside the same filter, for the records after these; null at the end.",
        examples=[None],
    )


class TablesAnswer(BaseModel):
    """The names of the tables that have records."""

    tables: list[str] = Field(description="Their names, in order.", examples=[[EXAMPLE_TABLE, "sales.orders"]])
    next_page_token: str | None = Field(
        description="Give it as `page_token` for the names after these; null at the end.", examples=[None]
    )


class HealthAnswer(BaseModel):
    """The audit log answers."""

    status: Literal["ok"]
    audit_table: str = Field(description="The audit log's table in DynamoDB.", examples=["S3_Audit_1"])


def run_url(dagster_url: str | None, run_id: str | None) -> str | None:
    """The address of a run in Dagster's UI, None when the UI's or the run is not known."""
    if not dagster_url or not run_id:
        return None
    return f"{dagster_url.rstrip('/')}/runs/{quote(run_id, safe='')}"
