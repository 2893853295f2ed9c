"""The audit log that the environment names, for whatever serves the API."""

from collections.abc import Mapping

import boto3
from botocore.config import Config

from rds_lake.audit_log.log import AuditLog
from rds_lake.settings import required

THREADS = 40
"""Requests that a server works on at once, each in a thread of its own: so many Starlette has."""


def open_log(environ: Mapping[str, str]) -> AuditLog:
    """The audit log.

    API Gateway waits 29 seconds for an answer; botocore's own timeouts are twice as long.
    """
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        user_agent="rds_lake",
        connect_timeout=3,
        read_timeout=10,
        max_pool_connections=THREADS,
    )
    return AuditLog(boto3.client("dynamodb", config=config), required("RDS_LAKE_AUDIT_TABLE", environ))


def dagster_url(environ: Mapping[str, str]) -> str | None:
    """Where Dagster's UI is, None when the environment does not say."""
    return environ.get("RDS_LAKE_DAGSTER_URL") or None
