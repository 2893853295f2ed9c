"""The audit log that the environment names, for whatever serves the API."""

from collections.abc import Mapping

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from rds_lake.audit_log.log import AuditLog
from rds_lake.errors import ConfigError
from rds_lake.settings import required

THREADS = 40
"""Requests that a server works on at once, each in a thread of its own: so many Starlette has."""


def open_log(environ: Mapping[str, str]) -> AuditLog:
    """The audit log.

    API Gateway waits 29 seconds for an answer; botocore's own timeouts are twice as long.

    Raises:
        ConfigError: the environment lacks something, such as the region.
    """
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        user_agent="rds_lake",
        connect_timeout=3,
        read_timeout=10,
        max_pool_connections=THREADS,
    )
    name = required("RDS_LAKE_AUDIT_TABLE", environ)
    try:
        return AuditLog(boto3.Session().client("dynamodb", config=config), name)
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
        raise ConfigError(
            f"AWS cannot be asked for the DynamoDB table {name}: {error}.",
            "Set AWS_DEFAULT_REGION, and check the other AWS_* variables.",
        ) from error


def dagster_url(environ: Mapping[str, str]) -> str | None:
    """Where Dagster's UI is, None when the environment does not say."""
    return environ.get("RDS_LAKE_DAGSTER_URL") or None
