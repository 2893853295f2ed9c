"""AWS's errors as ours: those of boto3, which speaks to Glue, and of obstore, which speaks to S3."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError

_PASSING = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError"),
    *("ConcurrentModificationException", "OperationTimeoutException", "InternalServiceException"),
}
_CREDENTIALS = {
    *("AccessDenied", "AccessDeniedException", "401", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException"),
}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "400"}  # a HEAD is answered without words

MISSING = FileNotFoundError
"""What obstore raises when there is no such object."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"(?:<Code>|\(code: )(\w+)")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_REQUEST = re.compile(r"performing ([A-Z]+ \S+)")
_CAUSE = re.compile(r"(InvalidCertificate\(\w+\)?|dns error|ConnectionRefused|ConnectionReset|TimedOut)")
_SIGNED = re.compile(r"\s*(?:The Canonical String|The String-to-Sign|CanonicalString|StringToSign)")
"""What a service repeats of a request whose signature is wrong begins so: its headers, the session's token in them."""

_UNSENT = "error sending request"
_REDIRECTED = "Received redirect without LOCATION"
_LOGIN = re.compile(r"\bSSO\b|UnauthorizedSSOToken|Token has expired", re.IGNORECASE)
# What obstore says; `rds_lake_tests/lake/test_lake_s3.py` has such texts as S3 and a bad network make them.


class ConflictError(TransientError):
    """A conditional write was refused: somebody else wrote the object since it was read."""


class GoneError(TransientError):
    """An object that a manifest named is not there any more: who reads the manifest again finds where it is now."""


class UploadGoneError(TransientError):
    """An upload in parts is not there any more: it has been finished, or given up."""


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn boto3's and obstore's errors into ours.

    Args:
        what: the thing that was asked for, such as `s3://lake/orders/`.

    Raises:
        RdsLakeError: permanent for a missing bucket, table or right, transient for a lost connection or throttling.
    """
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise refused(what, code, status, str(error)) from error
    except NoCredentialsError as error:
        raise no_credentials(what) from error
    except EndpointConnectionError as error:
        raise _unreachable(what, str(error)) from error
    except BotoCoreError as error:
        raise TransientError(f"Asking AWS for {what} failed: {error}.", "Try again.") from error
    except (BaseError, MISSING) as error:
        raise error_of_s3(error, what) from error


def refused(what: str, code: str, status: int, said: str) -> RdsLakeError:
    """A refused AWS request as our error.

    Args:
        what: the thing that was asked for.
        code: AWS's own name of the error.
        status: the status of the HTTP answer.
        said: AWS's own words.
    """
    said = _SIGNED.split(said)[0].rstrip()
    problem = f"AWS refused {what}: {said}."
    if code == "NoSuchBucket":
        return ConfigError(
            f"The bucket of {what} does not exist.",
            "Create it, or correct what names it: RDS_LAKE_BUCKET, RDS_LAKE_DROP_BUCKET, or a YAML file.",
        )
    if code in _CONFLICT:
        return ConflictError(
            f"{what} was changed by another run while this one was working; this one changed nothing.",
            "Run it again if the other run has not done the same.",
        )
    if code in _CREDENTIALS:
        return ConfigError(problem, "Check the AWS credentials and what they may do with it.")
    if code in _ELSEWHERE:
        return ConfigError(
            problem, "Set AWS_DEFAULT_REGION to the region of the bucket; if it is, check the AWS credentials."
        )
    if status >= 500 or code in _PASSING:
        return TransientError(problem, "Try again.")
    return PermanentError(problem, "Look the code up in the service's error reference.")


def no_credentials(what: str) -> ConfigError:
    """Nobody has said who asks."""
    return ConfigError(
        f"No AWS credentials were found while asking for {what}.",
        'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; locally: eval "$(rds-lake env)".',
    )


def is_of_bucket(error: Exception) -> bool:
    """Whether what is not there is the whole bucket."""
    return "<Code>NoSuchBucket</Code>" in str(error)


def _unreachable(what: str, said: str) -> TransientError:
    return TransientError(
        f"The AWS endpoint could not be reached while asking for {what}: {said}.",
        "Check AWS_ENDPOINT_URL and the network; 'rds-lake status' shows the local stack.",
    )


def error_of_s3(error: Exception, what: str) -> RdsLakeError:
    """Obstore's error as ours. It has few kinds of them; what S3 has said stands in the text.

    Args:
        error: obstore's error; of what was sent aside, an `OSError`.
        what: the thing that was asked for.
    """
    text, _, details = str(error).partition("\n\nDebug source:")
    code, status = _first(_CODE, text), _first(_STATUS, text)
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return refused(what, "PreconditionFailed", 412, text)
    if not status and _UNSENT in text:
        why = _first(_CAUSE, details)
        return _unreachable(what, f"nobody answers to {_first(_REQUEST, text)}" + (f" ({why})" if why else ""))
    if _REDIRECTED in text:
        code = "PermanentRedirect"
    if not code and not status:
        if _LOGIN.search(text):
            return ConfigError(f"The AWS session of {what} has ended: {text}.", "Log in again: 'aws sso login'.")
        return TransientError(f"Asking AWS for {what} failed: {text}.", "Try again.")
    said = ": ".join([code or status, *_MESSAGE.findall(text)[:1]]).rstrip(".")
    if code == "NoSuchUpload":
        return UploadGoneError(f"AWS refused {what}: {said}.", "Try again.")
    return refused(what, code or status, int(status or 0), said)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
