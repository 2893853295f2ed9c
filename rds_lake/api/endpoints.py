"""The endpoints: what the audit log is asked, and what is made of its answers. `app` says how they are served."""

from typing import Annotated, Any

from fastapi import Query

from rds_lake.api import tokens
from rds_lake.api.answers import HealthAnswer, LogsAnswer, RecordAnswer, TablesAnswer
from rds_lake.api.parameters import RIGHT, FileId, LogsQuery, TablesQuery
from rds_lake.api.problems import ApiError, declared, shown
from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import MARK, stamp
from rds_lake.errors import ConfigError, PermanentError

Responses = dict[int | str, dict[str, Any]]

_TOKEN_PROBLEM = "page_token is no token of this list."  # noqa: S105 - no secret
_TOKEN_REMEDY = (
    f"Give {RIGHT['page_token']}, and everything else but limit as it was then; leave it out for the first page."
)
_RETRY = {"Retry-After": "Seconds to wait before trying again, when it may pass by itself."}

INVALID: Responses = {
    422: declared(
        "invalid_parameter",
        "A parameter is missing, unknown, given twice, or not right",
        "limit is '0'.",
        f"Give {RIGHT['limit']}.",
    )
}
UNKNOWN_PARAMETER: Responses = {
    422: declared(
        "invalid_parameter", "There is a parameter, and it takes none", "There is no parameter 'key'.", "It takes none."
    )
}
BAD_TOKEN: Responses = {
    400: declared("invalid_page_token", "The page token is none of this list", _TOKEN_PROBLEM, _TOKEN_REMEDY)
}
CONTRADICTION: Responses = {
    400: declared(
        "contradiction",
        "Parameters contradict each other, or the page token is none of this list",
        "landed_timestamp is one moment, landed_from and landed_to are a span of them.",
        "Give either landed_timestamp, or landed_from and landed_to.",
    )
}
UNKNOWN_TABLE: Responses = {
    404: declared(
        "unknown_table",
        "No table of this name has records",
        "There are no records of a table 'sales.custmers'.",
        "GET /tables lists them.",
    )
}
UNKNOWN_FILE: Responses = {
    404: declared(
        "unknown_file",
        "No record has this file id",
        "There is no record of the file id '0000'.",
        "GET /logs shows the file ids of a table's records.",
    )
}
TROUBLE: Responses = {
    500: declared(
        "internal",
        "The audit log refused the question",
        "The audit log's table in DynamoDB could not be asked (ValidationException).",
        "The server's log says more.",
    ),
    503: declared(
        "unavailable",
        "The audit log does not answer",
        "The audit log's table in DynamoDB could not be asked (EndpointConnectionError).",
        "Try again in a moment.",
        _RETRY,
    ),
}
UNHEALTHY: Responses = {503: TROUBLE[503]}


class Endpoints:
    """The endpoints.

    Args:
        log: the audit log.
        dagster_url: where Dagster's UI is, for links to runs.
    """

    def __init__(self, log: AuditLog, dagster_url: str | None) -> None:
        self._log = log
        self._dagster_url = dagster_url

    def list_logs(self, query: Annotated[LogsQuery, Query()]) -> LogsAnswer:
        """The records of a table, newest first.

        Page through them with `next_page_token`: each record comes once, however many are added meanwhile.
        """
        since, until = query.span()
        bounds = [None if moment is None else stamp(moment) for moment in (since, until)]
        of = ("logs", query.table_name, *bounds, query.status)
        token = _place(query.page_token, *of)
        if query.table_name.startswith(MARK):
            raise _unknown_table(query.table_name)
        try:
            page = self._log.records(
                query.table_name, since=since, until=until, status=query.status, limit=query.limit, token=token
            )
        except ValueError as error:
            if token is None:
                raise
            raise _bad_token() from error
        if not page.records and page.token is None and not self._log.knows(query.table_name):
            raise _unknown_table(query.table_name)
        return LogsAnswer(
            records=[RecordAnswer.of(record, self._dagster_url) for record in page.records],
            next_page_token=page.token and tokens.seal(page.token, *of),
        )

    def get_log(self, file_id: FileId) -> RecordAnswer:
        """The record of one version of a file."""
        record = self._log.find(file_id)
        if record is None:
            raise ApiError(
                404,
                "unknown_file",
                f"There is no record of the file id '{shown(file_id)}'.",
                "GET /logs shows the file ids of a table's records.",
            )
        return RecordAnswer.of(record, self._dagster_url)

    def list_tables(self, query: Annotated[TablesQuery, Query()]) -> TablesAnswer:
        """The names of the tables that have records, in order."""
        after = _place(query.page_token, "tables")
        names = self._log.tables(after, query.limit + 1)
        now = names[: query.limit]
        more = len(names) > len(now)
        return TablesAnswer(tables=now, next_page_token=tokens.seal(now[-1], "tables") if more else None)

    def health(self) -> HealthAnswer:
        """Whether the audit log answers. It takes no key."""
        try:
            self._log.find("health")
        except PermanentError as error:  # whatever the matter is, it is not healthy: 503
            raise ConfigError(error.problem, error.remedy) from error
        return HealthAnswer(status="ok", audit_table=self._log.name)


def _place(token: str | None, *of: str | None) -> str | None:
    """Where a list goes on.

    Raises:
        ApiError: the token is none of this list.
    """
    if token is None:
        return None
    try:
        return tokens.unseal(token, *of)
    except ValueError as error:
        raise _bad_token() from error


def _bad_token() -> ApiError:
    return ApiError(400, "invalid_page_token", _TOKEN_PROBLEM, _TOKEN_REMEDY)


def _unknown_table(name: str) -> ApiError:
    return ApiError(
        404, "unknown_table", f"There are no records of a table '{shown(name)}'.", "GET /tables lists them."
    )
