"""The AWS endpoint of the local stack: MiniStack, with S3, Glue, Athena, SQS, DynamoDB and EventBridge."""

import sys
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

from rds_lake import settings
from rds_lake.errors import LocalStackError
from rds_lake.local.layout import BUCKET, DROP_BUCKET, PRIVATE_FOLDER, REGION
from rds_lake.local.ports import HOST
from rds_lake.local.service import Service, Site

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAME = "aws"


def endpoint(port: int) -> str:
    """AWS_ENDPOINT_URL."""
    return f"http://{HOST}:{port}"


def environment(site: Site) -> dict[str, str]:
    """What a client of our endpoint needs."""
    return {
        "AWS_ENDPOINT_URL": endpoint(site.ports[NAME]),
        "AWS_ACCESS_KEY_ID": site.secrets.aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": site.secrets.aws_secret_access_key,
        "AWS_DEFAULT_REGION": REGION,
    }


def service(site: Site) -> Service:
    """Describe how to run MiniStack."""
    folder = site.layout.home / "aws"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    port = site.ports[NAME]
    settings = {
        "BIND_HOST": HOST,  # its default is every address
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "IOT_MTLS_ENABLED": "0",  # or it opens port 8883
        "SFTP_ENABLED": "0",
        "PERSIST_STATE": "1",  # everything but S3 is written at a graceful stop only
        "STATE_DIR": str(folder / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "s3"),
        "LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
    }
    return Service(
        name=NAME,
        title="AWS endpoint (MiniStack)",
        argv=(sys.executable, "-m", "rds_lake.local.ministack"),
        cwd=folder,
        environ={**site.environ, **settings},
        ready=lambda: answers(f"{endpoint(port)}/_ministack/health"),
        address=endpoint(port),
        port=port,
        once_ready=lambda: _make(site),
    )


def answers(address: str) -> bool:
    """Whether an HTTP server gives a good answer."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  our own http address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _make(site: Site) -> None:
    """Make the buckets and the audit log's table."""
    import boto3

    from rds_lake.audit_log.log import AuditLog

    access = environment(site)
    session = boto3.Session(
        aws_access_key_id=access["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    _make_buckets(site, session.client("s3", endpoint_url=access["AWS_ENDPOINT_URL"]))
    AuditLog(
        session.client("dynamodb", endpoint_url=access["AWS_ENDPOINT_URL"]), settings.DEFAULTS["RDS_LAKE_AUDIT_TABLE"]
    ).create()


def _make_buckets(site: Site, client: "S3Client") -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    for bucket in (BUCKET, DROP_BUCKET):
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # made at an earlier start
                client.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            raise LocalStackError(
                f"The bucket '{bucket}' could not be made: {error}.", f"Look into {site.layout.log(NAME)}."
            ) from error
