"""Which exception becomes which answer. What AWS said goes to the server's log only: it may name keys and accounts."""

import logging
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rds_lake.api.parameters import wrong_parameter
from rds_lake.api.problems import ApiError, Code
from rds_lake.errors import ConfigError, RdsLakeError, TransientError

RETRY_AFTER = "5"
"""Seconds after which a caller may try again."""

_LOG = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Give an app the API's own answers to whatever goes wrong."""
    app.exception_handler(ApiError)(_answer)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_refused)
    app.exception_handler(RdsLakeError)(_ours)
    app.exception_handler(Exception)(_unexpected)


def answer(error: ApiError) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(error.body.model_dump(), error.status, error.headers)


def problem_of(error: RdsLakeError) -> ApiError:
    """An error of rds_lake as an answer, without what AWS said about it."""
    if isinstance(error, TransientError):
        return ApiError(503, "unavailable", _public(error), "Try again in a moment.", {"Retry-After": RETRY_AFTER})
    if isinstance(error, ConfigError):
        return ApiError(503, "misconfigured", _public(error), _public_remedy(error))
    return ApiError(500, "internal", _public(error), _public_remedy(error))


def _answer(_: Request, error: ApiError) -> JSONResponse:
    return answer(error)


def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    return answer(wrong_parameter(error.errors()[0]))


def _refused(request: Request, error: HTTPException) -> JSONResponse:
    code: Code = "bad_request"
    message, remedy = str(error.detail), "GET /openapi.json says what can be asked for."
    if error.status_code == 404:
        code, message = "unknown_path", "There is nothing at this path."
    elif error.status_code == 405:
        code, message = "method_not_allowed", f"This path does not take {request.method}."
    return answer(ApiError(error.status_code, code, message, remedy, error.headers))


def _ours(_: Request, error: RdsLakeError) -> JSONResponse:
    _LOG.error("%s", error)
    return answer(problem_of(error))


def _unexpected(_: Request, __: Exception) -> JSONResponse:
    """Starlette raises the exception again once it is answered, so that the server logs it."""
    return answer(ApiError(500, "internal", "The API failed over this request.", "The server's log says why."))


def _public(error: RdsLakeError) -> str:
    """What went wrong, for anybody."""
    if said := _by_aws(error):
        return f"The audit log's table in DynamoDB could not be asked ({said})."
    return error.problem


def _public_remedy(error: RdsLakeError) -> str:
    return "The server's log says more." if _by_aws(error) else error.remedy


def _by_aws(error: RdsLakeError) -> str:
    """AWS's name of an error whose words are AWS's own; empty when they are ours."""
    for cause in _causes(error):
        if isinstance(cause, ClientError):
            return str(cause.response["Error"]["Code"])
        if isinstance(cause, BotoCoreError):
            return type(cause).__name__
    return ""


def _causes(error: RdsLakeError) -> Iterator[BaseException]:
    """What an error repeats the words of: its cause, unless the error has words of its own for it."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, RdsLakeError) and cause.problem != error.problem:
            return
        yield cause
        cause = cause.__cause__
