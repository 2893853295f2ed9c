"""The connection to S3: where it is, who asks, and how often a request is tried again.

Requests go through obstore, whose work is done outside of Python: one takes an eighth of the processor time that boto3
needs for it (docs/decisions/0008-s3-through-obstore.md). Who asks is found as boto3 finds it.
"""

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import GenericError
from obstore.store import S3Store

from rds_lake.errors import ConfigError
from rds_lake.lake.aws import no_credentials

if TYPE_CHECKING:
    import boto3
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

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

_ANSWERED = re.compile(r"status code: \d{3}|after \d+ retries|\(code: |Received redirect")
"""What an error says to which there was an answer, or that has been sent again already."""

Result = TypeVar("Result")


def open_s3(bucket: str, environ: Mapping[str, str], session: Callable[[], "boto3.Session"]) -> S3Store:
    """The connection to a bucket; nothing is sent yet.

    Nothing is left for obstore to look up in the environment, which it does in ways of its own.

    Args:
        bucket: the bucket's name.
        environ: the variables `AWS_*`, as boto3 reads them.
        session: makes boto3's session, which is asked for what the variables do not say.

    Raises:
        ConfigError: there are no credentials, or the file of AWS_CA_BUNDLE cannot be read.
    """
    region = environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    credentials = _given_credentials(environ) or _session_credentials(bucket, session)
    if not (region and endpoint):  # boto3 knows AWS's partitions, and its configuration files
        client = session().client("s3")
        endpoint = endpoint or client.meta.endpoint_url
        region = region or client.meta.region_name
    config: S3Config = {
        "bucket": bucket,
        "region": "us-east-1" if region == "aws-global" else region,
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "virtual_hosted_style_request": False,
        "skip_signature": False,
    }
    options: ClientConfig = {
        "user_agent": "rds_lake",  # what CloudTrail shows
        "connect_timeout": PATIENCE,
        "read_timeout": PATIENCE,
        "timeout": REQUEST,
        "allow_http": endpoint.startswith("http://"),
    }
    if authority := environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = _read(Path(authority))
    return S3Store(config=config, client_options=options, retry_config=_retry(), credential_provider=credentials)


def _given_credentials(environ: Mapping[str, str]) -> "Callable[[], S3Credential] | None":
    """Those that the variables hold, if they do."""
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        return None
    token = environ.get("AWS_SESSION_TOKEN") or None
    return lambda: {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}


def _session_credentials(bucket: str, session: Callable[[], "boto3.Session"]) -> "Callable[[], S3Credential]":
    """Those of boto3's session: of a profile or a role."""
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - boto3 takes long to import

    found = session()
    if found.get_credentials() is None:
        raise no_credentials(f"s3://{bucket}")
    return Boto3CredentialProvider(found, ttl=ASKED_AGAIN)


def _read(authority: Path) -> bytes:
    try:
        return authority.read_bytes()
    except OSError as error:
        raise ConfigError(f"The file of AWS_CA_BUNDLE cannot be read: {error}.", "Correct its path.") from error


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
            return interruptible(request)
        except GenericError as error:
            if _ANSWERED.search(str(error)):
                raise
            time.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), MOST_PAUSE).total_seconds())
    return interruptible(request)


def interruptible(request: Callable[[], Result]) -> Result:
    """Do a request so that Ctrl-C is heard meanwhile: on the main thread, which alone hears it, it is waited for."""
    if current_thread() is not main_thread():
        return request()
    answer: Future[Result] = Future()

    def ask() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            answer.set_exception(error)

    Thread(target=ask, name="s3", daemon=True).start()
    return answer.result()
