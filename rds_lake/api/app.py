"""The app, put together: endpoints, who may call them, what goes wrong, and all of it for OpenAPI."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel

from rds_lake.api import endpoints, handlers
from rds_lake.api.auth import Auth, guard, refusals
from rds_lake.api.endpoints import Endpoints, Responses
from rds_lake.api.parameters import LogsQuery, TablesQuery, only
from rds_lake.audit_log.log import AuditLog

_DESCRIPTION = """\
What has become of each file that landed, and of each run of a table's pipeline.

Every answer that is not a success has the body `{"error": {"code", "message", "remedy"}}`. Parameters that are not
listed here are refused.
"""

_NEXT = "$response.body#/next_page_token"
_FILTER = ("table_name", "landed_timestamp", "landed_from", "landed_to", "status")

LOGS_LINKS: Responses = {
    200: {
        "links": {
            "record": {
                "operationId": "get_log",
                "parameters": {"file_id": "$response.body#/records/0/file_id"},
                "description": "The first of the records.",
            },
            "next": {
                "operationId": "list_logs",
                "parameters": {"page_token": _NEXT, **{name: f"$request.query.{name}" for name in _FILTER}},
                "description": "The records after these, with the same filter.",
            },
        }
    }
}
TABLES_LINKS: Responses = {
    200: {
        "links": {
            "logs": {
                "operationId": "list_logs",
                "parameters": {"table_name": "$response.body#/tables/0"},
                "description": "The records of the first of the tables.",
            },
            "next": {
                "operationId": "list_tables",
                "parameters": {"page_token": _NEXT},
                "description": "The names after these.",
            },
        }
    }
}


def create_app(log: AuditLog, *, auth: Auth, dagster_url: str | None) -> FastAPI:
    """The API.

    Args:
        log: the audit log.
        auth: who may call.
        dagster_url: where Dagster's UI is, for links to runs; None when nobody knows.
    """
    app = FastAPI(
        title="rds_lake audit log",
        description=_DESCRIPTION,
        version="1.0.0",
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    asked = Endpoints(log, dagster_url)
    app.include_router(_guarded(asked, auth))
    app.add_api_route(
        "/health",
        asked.health,
        operation_id="health",
        dependencies=[Depends(only(None))],
        responses={**endpoints.UNHEALTHY, **endpoints.UNKNOWN_PARAMETER},
    )
    handlers.install(app)
    return app


def _guarded(asked: Endpoints, auth: Auth) -> APIRouter:
    """The endpoints that not everybody may call."""
    router = APIRouter(dependencies=[Depends(guard(auth))], responses=refusals(auth))
    _add(
        router,
        "/logs",
        asked.list_logs,
        LogsQuery,
        {**LOGS_LINKS, **endpoints.CONTRADICTION, **endpoints.UNKNOWN_TABLE},
    )
    _add(router, "/logs/{file_id}", asked.get_log, None, endpoints.UNKNOWN_FILE)
    _add(
        router,
        "/tables",
        asked.list_tables,
        TablesQuery,
        {**TABLES_LINKS, **endpoints.BAD_TOKEN},
    )
    return router


def _add(
    router: APIRouter,
    path: str,
    endpoint: Callable[..., Any],
    parameters: type[BaseModel] | None,
    responses: Responses,
) -> None:
    """Add an endpoint that refuses what is none of its parameters."""
    router.add_api_route(
        path,
        endpoint,
        operation_id=endpoint.__name__,
        dependencies=[Depends(only(parameters))],
        responses={**responses, **endpoints.INVALID, **endpoints.TROUBLE},
    )
