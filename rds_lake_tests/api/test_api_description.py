"""The API's description: what it must say, and page tokens, without any server."""

from typing import Any

import jsonschema_rs
import pytest
from api_harness import record_of

from rds_lake.api import tokens
from rds_lake.api.answers import RecordAnswer, run_url
from rds_lake.api.app import create_app
from rds_lake.api.auth import Auth
from rds_lake.api.parameters import RIGHT, LogsQuery
from rds_lake.audit_log.log import AuditLog

MODES = {"key": Auth("key", "k"), "iam": Auth("iam"), "off": Auth("off")}
REFUSAL = {"key": {"401"}, "iam": {"403"}, "off": {"403"}}
STATUSES = {
    "/logs": {"200", "400", "404", "422", "500", "503"},
    "/logs/{file_id}": {"200", "404", "422", "500", "503"},
    "/tables": {"200", "400", "422", "500", "503"},
}


def described(mode: str) -> dict[str, Any]:
    return create_app(AuditLog(None, "audit"), auth=MODES[mode], dagster_url=None).openapi()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_each_endpoint_declares_the_statuses_that_it_can_have_and_no_other(mode: str) -> None:
    paths = described(mode)["paths"]
    assert {path: set(item["get"]["responses"]) for path, item in paths.items()} == {
        **{path: statuses | REFUSAL[mode] for path, statuses in STATUSES.items()},
        "/health": {"200", "422", "503"},
    }
    assert all(set(item) == {"get"} for item in paths.values())


@pytest.mark.parametrize("mode", MODES)
def test_each_error_has_the_common_body_and_an_example_of_it(mode: str) -> None:
    description = described(mode)
    schemas = description["components"]["schemas"]
    assert not [name for name in schemas if "Validation" in name]
    problem = {**schemas["ProblemAnswer"], "components": {"schemas": schemas}}
    for item in description["paths"].values():
        for status, response in item["get"]["responses"].items():
            content = response["content"]["application/json"]
            if status != "200":
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemAnswer"}
                assert jsonschema_rs.validator_for(problem).is_valid(content["example"])
                assert all(content["example"]["error"].values())


@pytest.mark.parametrize(("mode", "scheme"), [("key", "ApiKey"), ("iam", "AwsSigV4"), ("off", None)])
def test_who_may_call_is_declared_at_each_endpoint_but_health(mode: str, scheme: str | None) -> None:
    description = described(mode)
    needed = {path: item["get"].get("security") for path, item in description["paths"].items()}
    assert needed.pop("/health") is None
    assert all(security == ([{scheme: []}] if scheme else None) for security in needed.values())
    assert set(description["components"].get("securitySchemes", {})) == ({scheme} if scheme else set())


def test_each_parameter_and_each_field_says_what_it_is_and_gives_an_example() -> None:
    description = described("key")
    for item in description["paths"].values():
        for parameter in item["get"].get("parameters", []):
            assert RIGHT[parameter["name"]] in parameter["description"], parameter
            examples = parameter["schema"].get("examples", [parameter["schema"].get("default")])
            assert parameter["name"] == "page_token" or examples[0] is not None, parameter
    for name, schema in description["components"]["schemas"]["RecordAnswer"]["properties"].items():
        assert schema["description"], name
        assert schema["examples"], name


def test_all_that_is_right_is_said_of_parameters_that_exist() -> None:
    assert set(RIGHT) == {*LogsQuery.model_fields, "file_id"}


def test_every_field_of_a_record_is_always_there() -> None:
    schema = described("key")["components"]["schemas"]["RecordAnswer"]
    assert set(schema["required"]) == set(schema["properties"])
    assert set(RecordAnswer.of(record_of(1), None).model_dump()) == set(schema["properties"])


@pytest.mark.parametrize("place", ["", "2026-11-20T10:00:00.000000Z#5f0c", "Käse 美", "x" * 1000])
def test_a_page_token_comes_back_as_it_was(place: str) -> None:
    token = tokens.seal(place, "logs", "a", None)
    assert tokens.unseal(token, "logs", "a", None) == place


@pytest.mark.parametrize("of", [(), ("logs",), ("logs", "b", None), ("logs", "a", "None"), ("logs", "a", None, None)])
def test_a_page_token_of_another_list_is_none(of: tuple[str | None, ...]) -> None:
    with pytest.raises(ValueError, match="of another list"):
        tokens.unseal(tokens.seal("x", "logs", "a", None), *of)


def test_a_page_token_that_was_changed_anywhere_is_none() -> None:
    token = tokens.seal("2026-11-20T10:00:00.000000Z#5f0c", "logs")
    for position, character in enumerate(token):
        other = "B" if character == "A" else "A"
        with pytest.raises(ValueError, match="token"):
            tokens.unseal(token[:position] + other + token[position + 1 :], "logs")


@pytest.mark.parametrize("token", ["", "A", "AA", "A" * 12, "+/+/", "A\n", "Ä", "\ud800", "\x00", "A" * 10**6])
def test_what_was_never_a_page_token_is_none(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        tokens.unseal(token, "logs")


@pytest.mark.parametrize(
    ("dagster", "run", "url"),
    [
        ("http://d", "r", "http://d/runs/r"),
        ("http://d/", "r", "http://d/runs/r"),
        ("http://d/prefix/", "a/b?c", "http://d/prefix/runs/a%2Fb%3Fc"),
        (None, "r", None),
        ("", "r", None),
        ("http://d", None, None),
    ],
)
def test_the_address_of_a_run(dagster: str | None, run: str | None, url: str | None) -> None:
    assert run_url(dagster, run) == url
