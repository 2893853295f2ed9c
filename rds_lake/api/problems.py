"""What the API answers when it cannot do what was asked: one body for all of it, and the errors that become it.

Which exception becomes which of them stands in `handlers`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

Code = Literal[
    "invalid_parameter",
    "contradiction",
    "invalid_page_token",
    "unauthorized",
    "forbidden",
    "unknown_table",
    "unknown_file",
    "unknown_path",
    "method_not_allowed",
    "bad_request",
    "unavailable",
    "misconfigured",
    "internal",
]

SHOWN = 60
"""Characters of a caller's own input that an answer repeats."""


class Problem(BaseModel):
    """What is wrong, and what to do about it."""

    code: Code = Field(description="What is wrong, for programs.")
    message: str = Field(description="What is wrong, for people.")
    remedy: str = Field(description="What to do about it.")


class ProblemAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: Problem


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(
        self, status: int, code: Code, message: str, remedy: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.body = ProblemAnswer(error=Problem(code=code, message=message, remedy=remedy))
        self.headers = headers
        super().__init__(message)


def shown(text: str) -> str:
    """A caller's own input as an answer repeats it: cut, and in any case valid UTF-8."""
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return cut.encode("utf-8", "replace").decode()


def declared(
    code: Code, description: str, message: str, remedy: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Such an answer as OpenAPI declares it, with an example."""
    example = ProblemAnswer(error=Problem(code=code, message=message, remedy=remedy)).model_dump()
    given: dict[str, Any] = {
        "model": ProblemAnswer,
        "description": description,
        "content": {"application/json": {"example": example}},
    }
    if headers:
        given["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return given
