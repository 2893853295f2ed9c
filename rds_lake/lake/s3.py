"""The connection to S3: where it is, who asks, and how often a request is tried again.

Requests go through obstore, whose work is done outside of Python: one takes an eighth of the processor time that boto3
needs for it (docs/decisions/0008-s3-through-obstore.md). Who asks is found as boto3 finds it.
"""

import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import GenericError
from obstore.store import S3Store

from rds_lake.lake.aws import no_credentials

if TYPE_CHECKING:
    import boto3
    from obstore.store import ClientConfig, RetryConfig, S3Config

ATTEMPTS = 5
"""How often a request is sent, at most, when its answer is an error that may pass or does not come."""

MOST_PAUSE = timedelta(seconds=15)
"""The longest pause between two attempts; they begin with a tenth of a second and double."""

PATIENCE = timedelta(seconds=60)
"""How long to wait for a connection, and for an answer to go on."""

REQUEST = timedelta(minutes=15)
"""How long a request may take in all."""

ASKED_AGAIN = timedelta(minutes=5)
"""How long credentials of a session are used before it is asked again. It renews those of a role ten minutes, at the
latest, before they expire."""

FIRST_PAUSE = timedelta(seconds=0.1)

_ANSWERED = re.compile(r"status code: \d{3}")

Result = TypeVar("Result")


def open_s3(bucket: str, environ: Mapping[str, str], session: Callable[[], "boto3.Session"]) -> S3Store:
    """The connection to a bucket; nothing is sent yet.

    Args:
        bucket: the bucket's name.
        environ: the variables `AWS_*`, as boto3 reads them.
        session: makes boto3's session, which is asked for credentials and region if no variable says them.

    Raises:
        ConfigError: there are no credentials.
    """
    options: S3Config = {"bucket": bucket}
    provider = None
    region = environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION")
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        options["access_key_id"] = environ["AWS_ACCESS_KEY_ID"]
        options["secret_access_key"] = environ["AWS_SECRET_ACCESS_KEY"]
        if token := environ.get("AWS_SESSION_TOKEN"):
            options["session_token"] = token
    else:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - boto3 takes long to import

        found = session()
        if found.get_credentials() is None:
            raise no_credentials(f"s3://{bucket}")
        provider = Boto3CredentialProvider(found, ttl=ASKED_AGAIN)
        region = region or found.region_name
    if region:
        options["region"] = region
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if not endpoint and region and region.startswith("cn-"):
        endpoint = f"https://s3.{region}.amazonaws.com.cn"
    if endpoint:
        options["endpoint"] = endpoint
    return S3Store(
        config=options,
        client_options=_client(environ, is_plain=bool(endpoint and endpoint.startswith("http://"))),
        retry_config=_retry(),
        credential_provider=provider,
    )


def _client(environ: Mapping[str, str], *, is_plain: bool) -> "ClientConfig":
    options: ClientConfig = {
        "user_agent": "rds_lake",  # what CloudTrail shows
        "connect_timeout": PATIENCE,
        "read_timeout": PATIENCE,
        "timeout": REQUEST,
        "allow_http": is_plain,
    }
    if authority := environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(authority).read_bytes()
    return options


def _retry() -> "RetryConfig":
    return {
        "max_retries": ATTEMPTS - 1,
        "backoff": {"init_backoff": FIRST_PAUSE, "max_backoff": MOST_PAUSE},
        "retry_timeout": timedelta(minutes=3),
    }


def sent_again(request: Callable[[], Result]) -> Result:
    """Do a request that the connection does not repeat by itself when no answer has come.

    Whoever asks knows what it means that the server may have done it already.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return request()
        except GenericError as error:
            if _ANSWERED.search(str(error)):
                raise
            time.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), MOST_PAUSE).total_seconds())
    return request()
