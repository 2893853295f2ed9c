"""What callers may ask for: the parameters, what is right for each of them, and what they mean together. Pure.

A parameter that is wrong by itself is a 422, and OpenAPI says what is right. Parameters that are right each but not
together are a 400, because OpenAPI cannot say it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Request
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from rds_lake.api.answers import EXAMPLE_FILE, EXAMPLE_TABLE
from rds_lake.api.problems import ApiError, shown
from rds_lake.audit_log.record import STATUSES, Status, stamp

LONGEST_TABLE = 255
"""Characters of a table's name: two identifiers of 127, and a dot. UTF-8 makes 1,020 bytes of it at most, and a key in
DynamoDB holds 1,024."""

LONGEST_FILE_ID = 200
"""Characters of a file id, as many as a page token of the audit log takes."""

MOST = 1000

_DATE = r"(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
MOMENT = f"^{_DATE}T{_TIME}{_ZONE}?$"
"""What S3 can have stamped, and no more: a year that `datetime` cannot turn into UTC is none of them."""

_MOMENT_TEXT = (
    "a moment of the years 1970 to 2999 such as 2026-11-20T10:00:00Z: at most six digits of a second, and a zone such "
    "as Z or +01:00 (UTC when it is left out; write its + as %2B)"
)

RIGHT = {
    "table_name": f"the name of a table, 1 to {LONGEST_TABLE} characters",
    "landed_timestamp": _MOMENT_TEXT,
    "landed_from": _MOMENT_TEXT,
    "landed_to": _MOMENT_TEXT,
    "status": f"one of {', '.join(STATUSES)}",
    "limit": f"a whole number from 1 to {MOST}",
    "page_token": "the next_page_token of the answer before",
    "file_id": f"a file id, 1 to {LONGEST_FILE_ID} characters",
}
"""What is right for each parameter, for OpenAPI and for the answer to what is not."""


def _moment(text: object) -> datetime:
    """The moment that a caller named, in UTC.

    Raises:
        ValueError: it is none, or none that S3 can have stamped.
    """
    if not isinstance(text, str) or not re.fullmatch(MOMENT, text):
        raise ValueError("no moment")
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _whole(text: object) -> object:
    """A number as it is, unless it is written in a way that only Python understands, such as `1_0`.

    Raises:
        ValueError: it is not made of digits.
    """
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("no whole number")
    return text


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": MOMENT}),
]
Limit = Annotated[
    int, Field(ge=1, le=MOST, description=f"How many at most: {RIGHT['limit']}."), BeforeValidator(_whole)
]
PageToken = Annotated[
    str | SkipJsonSchema[None],
    Field(description=f"Where to go on: {RIGHT['page_token']}. Everything but `limit` has to be the same again."),
]
FileId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=LONGEST_FILE_ID,
        description=f"What to show: {RIGHT['file_id']}.",
        examples=[EXAMPLE_FILE],
    ),
]


class LogsQuery(BaseModel):
    """The parameters of `GET /logs`."""

    table_name: str = Field(
        min_length=1,
        max_length=LONGEST_TABLE,
        description=f"Whose records: {RIGHT['table_name']}. `GET /tables` lists them.",
        examples=[EXAMPLE_TABLE],
    )
    landed_timestamp: Moment | SkipJsonSchema[None] = Field(
        None,
        description=f"Only what landed at exactly this moment; not together with a span. It is {_MOMENT_TEXT}.",
        examples=["2026-11-20T10:00:00Z"],
    )
    landed_from: Moment | SkipJsonSchema[None] = Field(
        None,
        description=f"Only what landed at this moment or later. It is {_MOMENT_TEXT}.",
        examples=["2026-11-20T00:00:00Z"],
    )
    landed_to: Moment | SkipJsonSchema[None] = Field(
        None,
        description=f"Only what landed at this moment or before. It is {_MOMENT_TEXT}.",
        examples=["2026-11-20T23:59:59.999999Z"],
    )
    status: Status | SkipJsonSchema[None] = Field(
        None, description=f"Only what is that far: {RIGHT['status']}.", examples=["completed"]
    )
    limit: Limit = 100
    page_token: PageToken = None

    def span(self) -> tuple[datetime | None, datetime | None]:
        """The first and the last moment that is asked for; None where there is no bound.

        Raises:
            ApiError: the parameters contradict each other.
        """
        if self.landed_timestamp and (self.landed_from or self.landed_to):
            raise _contradiction(
                "landed_timestamp is one moment, landed_from and landed_to are a span of them.",
                "Give either landed_timestamp, or landed_from and landed_to.",
            )
        if self.landed_from and self.landed_to and self.landed_from > self.landed_to:
            raise _contradiction(
                f"landed_from {stamp(self.landed_from)} is after landed_to {stamp(self.landed_to)}.",
                "Swap the two.",
            )
        return self.landed_timestamp or self.landed_from, self.landed_timestamp or self.landed_to


class TablesQuery(BaseModel):
    """The parameters of `GET /tables`."""

    limit: Limit = 100
    page_token: PageToken = None


def only(model: type[BaseModel] | None) -> Callable[[Request], None]:
    """A dependency that refuses what is no parameter, and what is given twice: of two values one would be ignored.

    Args:
        model: the parameters; None when there are none.
    """
    names = tuple(model.model_fields) if model else ()

    def check(request: Request) -> None:
        seen: set[str] = set()
        for name, _ in request.query_params.multi_items():
            if name not in names:
                known = f"There are: {', '.join(names)}." if names else "It takes none."
                raise _invalid(f"There is no parameter '{shown(name)}'.", known)
            if name in seen:
                raise _invalid(f"{name} is given more than once.", f"Give it once: {RIGHT[name]}.")
            seen.add(name)

    return check


def wrong_parameter(error: Any) -> ApiError:  # noqa: ANN401 - one of pydantic's error dictionaries
    """The answer to a parameter that is not right, made from pydantic's account of it."""
    name = str(error["loc"][1])  # after it may follow which half of "a moment or nothing" did not like it
    right = RIGHT.get(name, "what GET /openapi.json says")
    if error["type"] == "missing":
        return _invalid(f"{name} is missing.", f"Give {name}: {right}.")
    return _invalid(f"{name} is '{shown(str(error['input']))}'.", f"Give {right}.")


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(422, "invalid_parameter", message, remedy)


def _contradiction(message: str, remedy: str) -> ApiError:
    return ApiError(400, "contradiction", message, remedy)
