"""What the API's description promises for a request, found out from the description alone.

Schemathesis 4.32 lets much pass: of a request with a wrong parameter it takes any answer when another parameter of the
query is right, and it cannot know which parameters contradict each other. This says which status a request must have.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema_rs

from rds_lake.api.parameters import LONGEST_FILE_ID

Query = list[tuple[str, str]]
ListOf = tuple[str, frozenset[tuple[str, object]]]


@dataclass
class Oracle:
    """Knows what must be answered.

    Attributes:
        description: the API's OpenAPI document.
        tables: the tables that have records.
        handed_out: the page tokens that were answered, each with what it is a list of.
    """

    description: Mapping[str, Any]
    tables: frozenset[str]
    handed_out: dict[str, ListOf] = field(default_factory=dict)

    def take(self, url: str, answer: Mapping[str, Any]) -> None:
        """Remember the page token of an answer."""
        if answer.get("next_page_token"):
            path, query = parted(url)
            self.handed_out[answer["next_page_token"]] = list_of(path, query)

    def promised(self, url: str) -> set[int]:
        """The statuses of which a GET of this address with the right key must have one."""
        path, query = parted(url)
        if path == "/health":
            return {422} if query else {200}
        if path in {"/logs", "/tables"}:
            return self._of_list(path, query)
        file_id = path.removeprefix("/logs/")
        if file_id in {"", path} or "/" in file_id:
            return {404}
        return {422} if query or len(file_id) > LONGEST_FILE_ID else {200, 404}

    def _of_list(self, path: str, query: Query) -> set[int]:
        if not self._is_right(path, query):
            return {422}
        if self.contradicts(path, query):
            return {400}
        return {200} if path == "/tables" or dict(query)["table_name"] in self.tables else {404}

    def _is_right(self, path: str, query: Query) -> bool:
        """Whether each parameter is declared, given once, and of its schema."""
        declared = {parameter["name"]: parameter for parameter in self.description["paths"][path]["get"]["parameters"]}
        given = dict(query)
        required = {name for name, parameter in declared.items() if parameter["required"]}
        return (
            len(given) == len(query)
            and required <= set(given) <= set(declared)
            and all(fits(value, declared[name]["schema"]) for name, value in query)
        )

    def contradicts(self, path: str, query: Query) -> bool:
        """Whether parameters contradict each other, or a page token was never answered for this list."""
        token = dict(query).get("page_token")
        if token is not None and self.handed_out.get(token) != list_of(path, query):
            return True
        moments = {name: moment(value) for name, value in query if name.startswith("landed_")}
        if "landed_timestamp" in moments:
            return len(moments) > 1
        return len(moments) == 2 and moments["landed_from"] > moments["landed_to"]


def parted(url: str) -> tuple[str, Query]:
    """The path and the parameters of an address, decoded."""
    parts = urlsplit(url)
    return unquote(parts.path), parse_qsl(parts.query, keep_blank_values=True)


def list_of(path: str, query: Query) -> ListOf:
    """What a list is of, whatever its page and however its moments are written."""
    return path, frozenset(
        (name, moment(value) if name.startswith("landed_") else value)
        for name, value in query
        if name not in {"page_token", "limit"}
    )


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether the text of a parameter is one of a schema."""
    value: object = text
    if schema["type"] == "integer":
        value = int(text) if re.fullmatch("[0-9]{1,9}", text) else text
    elif schema.get("format") == "date-time" and not re.search(r"(Z|[+-]..:..)$", text):
        value = f"{text}Z"  # the description says so in words: without a zone it is UTC
    return jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True).is_valid(value)


def moment(text: str) -> datetime:
    """A moment in UTC."""
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
