"""Who may call: a key in a header, AWS's IAM in front of the API, or, on this machine only, anybody."""

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Request, Security
from fastapi.security import APIKeyHeader

from rds_lake.api.problems import ApiError, declared
from rds_lake.errors import ConfigError
from rds_lake.settings import required

KEY, AUTH = "RDS_LAKE_API_KEY", "RDS_LAKE_API_AUTH"
HEADER = "X-API-Key"

_NO_KEY = f"The header {HEADER} is missing, or its key is not the right one."
_NO_KEY_REMEDY = f"Send the key that the API was started with in the header {HEADER}."
_NO_PROOF = "The request did not come through an API Gateway that checks its callers with IAM."
_NO_PROOF_REMEDY = "Sign the request (AWS SigV4), and send it to an API Gateway route with IAM authorisation."

_NOT_LOCAL = "Without a key the API answers under the names of this machine only."
_NOT_LOCAL_REMEDY = f"Ask 127.0.0.1 or localhost, or set {KEY}."

_by_key = APIKeyHeader(
    name=HEADER, scheme_name="ApiKey", auto_error=False, description=f"The key that the API was started with ({KEY})."
)
_by_iam = APIKeyHeader(
    name="Authorization",
    scheme_name="AwsSigV4",
    auto_error=False,
    description="AWS's signature, version 4, of the service execute-api. API Gateway checks it.",
)


@dataclass(frozen=True)
class Auth:
    """Who may call.

    Attributes:
        mode: `key`: who knows the key; `iam`: whom API Gateway lets through; `off`: anybody.
        key: the key; its `repr` never shows it.
    """

    mode: Literal["key", "iam", "off"]
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if (self.mode == "key") != bool(self.key):
            raise ValueError(f"a key belongs to the mode 'key' and to no other, not to '{self.mode}'")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Auth":
        """Who may call, as the environment says.

        Raises:
            ConfigError: what it says makes no sense.
        """
        mode = required(AUTH, environ)
        if mode not in {"key", "iam"}:
            raise ConfigError(f"{AUTH} is '{mode}'.", f"Set it to 'key', and {KEY} too, or to 'iam'.")
        if mode == "iam":
            return cls("iam")
        key = environ.get(KEY, "")
        if key != key.strip() or not key.isprintable():
            raise ConfigError(
                f"{KEY} begins or ends with a space, or holds a character that cannot be printed.",
                "Take that out: no header can carry it.",
            )
        return cls("key", key) if key else cls("off")


def guard(auth: Auth) -> Callable[..., None]:
    """A dependency that refuses who may not call."""
    if auth.mode == "key":
        key = auth.key.encode()

        def check_key(given: Annotated[str | None, Security(_by_key)]) -> None:
            # Starlette reads the bytes of a header as Latin-1.
            if given is None or not hmac.compare_digest(given.encode("latin-1"), key):
                raise ApiError(401, "unauthorized", _NO_KEY, _NO_KEY_REMEDY, {"WWW-Authenticate": "ApiKey"})

        return check_key
    if auth.mode == "iam":

        def check_proof(request: Request, _: Annotated[str | None, Security(_by_iam)]) -> None:
            if not came_through_iam(request.scope.get("aws.event")):
                raise ApiError(403, "forbidden", _NO_PROOF, _NO_PROOF_REMEDY)

        return check_proof

    def check_host(request: Request) -> None:
        """Anybody on this machine may call; but no page of a browser that has a name of its own lead here."""
        if not _is_here(request.url.hostname or ""):
            raise ApiError(403, "forbidden", _NOT_LOCAL, _NOT_LOCAL_REMEDY)

    return check_host


def _is_here(name: str) -> bool:
    """Whether a name, as a caller wrote it, is one of this machine for itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def came_through_iam(event: Any) -> bool:  # noqa: ANN401 - what AWS Lambda was called with, if it was
    """Whether an event of API Gateway proves that IAM has authorised the caller.

    HTTP APIs (payload 2.0) say so in `requestContext.authorizer.iam`, REST APIs (payload 1.0) in
    `requestContext.identity.userArn`. No header of the caller's reaches either.
    """
    context = _dict(_dict(event).get("requestContext"))
    if _dict(event).get("version") == "2.0":
        caller = _dict(_dict(context.get("authorizer")).get("iam"))
    else:
        caller = _dict(context.get("identity"))
    arn = caller.get("userArn")
    return isinstance(arn, str) and arn.startswith("arn:")


def refusals(auth: Auth) -> dict[int | str, dict[str, Any]]:
    """What `guard` may answer, for OpenAPI."""
    if auth.mode == "key":
        challenge = {"WWW-Authenticate": "The scheme that is asked for: ApiKey."}
        return {401: declared("unauthorized", "No key, or a wrong one", _NO_KEY, _NO_KEY_REMEDY, challenge)}
    if auth.mode == "iam":
        return {403: declared("forbidden", "Not authorised by IAM", _NO_PROOF, _NO_PROOF_REMEDY)}
    return {403: declared("forbidden", "Not addressed to this machine", _NOT_LOCAL, _NOT_LOCAL_REMEDY)}


def _dict(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever stands in an event
    return value if isinstance(value, Mapping) else {}
