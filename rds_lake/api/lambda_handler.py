"""The API as a Lambda function behind API Gateway: HTTP APIs (payload 2.0) and REST APIs (payload 1.0)."""

import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from mangum import Mangum

from rds_lake.api import handlers
from rds_lake.api.app import create_app
from rds_lake.api.auth import AUTH, KEY, Auth
from rds_lake.api.connection import dagster_url, open_log
from rds_lake.api.problems import ApiError
from rds_lake.errors import ConfigError, RdsLakeError

_LOG = logging.getLogger(__name__)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - AWS Lambda's context
    """Answer one request that API Gateway hands on."""
    try:
        return _adapter()(_without_stage(event), context)
    except RdsLakeError as error:
        _LOG.error("%s", error)
        return _answer(handlers.problem_of(error))
    except UnicodeEncodeError:
        # JSON can hold half a surrogate pair, and Mangum cannot make a request of it.
        return _answer(
            ApiError(400, "bad_request", "The request holds what is no Unicode text.", "Encode it in UTF-8.")
        )


@cache
def _adapter() -> Mangum:
    """The app, made when it is first asked for something, and then kept.

    Raises:
        ConfigError: anybody could call it, or the environment lacks something.
    """
    auth = Auth.of(os.environ)
    if auth.mode == "off":
        raise ConfigError(
            f"{KEY} is not set.", f"Set {KEY}, or {AUTH} to 'iam' when API Gateway authorises callers with IAM."
        )
    app = create_app(open_log(os.environ), auth=auth, dagster_url=dagster_url(os.environ))
    return Mangum(app, lifespan="off")


def _without_stage(event: dict[str, Any]) -> dict[str, Any]:
    """The event with a path as the app knows it: an HTTP API puts the name of a stage before it."""
    context = event.get("requestContext") or {}
    http, stage = context.get("http"), context.get("stage")
    if not isinstance(http, Mapping) or stage in {None, "$default"}:
        return event
    first, rest = f"/{stage}", str(http["path"])
    if rest != first and not rest.startswith(f"{first}/"):
        return event
    path = rest.removeprefix(first) or "/"
    return {**event, "requestContext": {**context, "http": {**http, "path": path}}}


def _answer(error: ApiError) -> dict[str, Any]:
    """An answer without the app, in the form that both payloads take."""
    return {
        "statusCode": error.status,
        "headers": {"content-type": "application/json", **(error.headers or {})},
        "body": error.body.model_dump_json(),
        "isBase64Encoded": False,
    }
