"""Schemathesis against the running API and its own description: all phases, all checks."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import schemathesis
from api_harness import KEY, TABLE, Client, keyed, new_log, record_of, serving, write
from figures import FIGURES
from rooms import Rooms
from schemathesis.config import (
    ChecksConfig,
    FuzzingPhaseConfig,
    GenerationConfig,
    PhasesConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
    StatefulPhaseConfig,
)
from schemathesis.core.failures import Failure
from schemathesis.engine import Status, events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData

from rds_lake.api.answers import EXAMPLE_FILE
from rds_lake.audit_log.record import STATUSES

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EXAMPLES = int(os.environ.get("API_FUZZ_EXAMPLES", "60"))
"""Examples of each operation and phase; thousands for a long run by hand."""

SEED = int(os.environ.get("API_FUZZ_SEED", "7"))


@pytest.fixture(scope="module")
def client(rooms: Rooms) -> Iterator[Client]:
    log = new_log(rooms)
    records = [record_of(number, status=STATUSES[number % len(STATUSES)]) for number in range(250)]
    records += [record_of(number, f"other.table_{number}", status="completed") for number in range(150)]
    records.append(record_of(1, file_id=EXAMPLE_FILE, status="completed"))
    write(rooms.client("dynamodb"), log, records)
    with serving(keyed(log)) as served:
        yield served


@dataclass
class Outcome:
    """What a run came to."""

    statuses: Counter[int] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    went_on: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        phases, statuses = (
            ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
            for counts in (self.phases, self.statuses)
        )
        return (
            f"api: schemathesis asked {sum(self.statuses.values()):,} times ({phases}), "
            f"{sum(self.checks.values()):,} checks of {len(self.checks)} kinds, {len(self.failures)} failed; "
            f"{self.excused} contradictions, {self.went_on} good page tokens; answers {statuses}"
        )

    def take(self, event: events.EngineEvent) -> None:
        """Count what the engine reports."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures.append(str(vars(event) if hasattr(event, "__dict__") else event))
        if not isinstance(event, events.ScenarioFinished):
            return
        for interaction in event.recorder.interactions.values():
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
                self.phases[event.phase.value] += 1
        for case, checks in event.recorder.checks.items():
            for check in checks:
                self.checks[check.name] += 1
                if check.status is Status.FAILURE:
                    failure = check.failure_info.failure if check.failure_info else None
                    request = event.recorder.interactions[case].request
                    self.failures.append(f"{check.name}: {request.method} {request.uri}: {failure}")


List = tuple[str, frozenset[tuple[str, object]]]


def list_of(url: str) -> tuple[List, str | None]:
    """What a request asks for a list of, and with which page token."""
    parts = urlsplit(url)
    given: dict[str, Any] = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    token = given.pop("page_token", None)
    given.pop("limit", None)
    asked = {name: moment(value) if name.startswith("landed_") else value for name, value in given.items()}
    return (parts.path, frozenset(asked.items())), token


@dataclass
class Oracle:
    """Knows, without the API's own code, when parameters that are right each are not right together."""

    handed_out: dict[str, List] = field(default_factory=dict)

    def take(self, url: str, answer: dict[str, Any]) -> None:
        """Remember the page token of an answer."""
        if answer["next_page_token"]:
            self.handed_out[answer["next_page_token"]] = list_of(url)[0]

    def contradicts(self, url: str) -> bool:
        """Whether a request contradicts itself, or holds a token that was never given for its list."""
        asked, token = list_of(url)
        if token is not None and self.handed_out.get(token) != asked:
            return True
        moments: dict[str, Any] = {name: value for name, value in asked[1] if name.startswith("landed_")}
        if "landed_timestamp" in moments:
            return len(moments) > 1
        return len(moments) == 2 and moments["landed_from"] > moments["landed_to"]


def moment(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def fuzz(client: Client, examples: int, seed: int) -> Outcome:
    """Let Schemathesis ask for everything that the description allows, and for what it does not."""
    generation = GenerationConfig(max_examples=examples, deterministic=False)
    project = ProjectConfig(
        headers={"X-API-Key": KEY},
        checks=ChecksConfig(),
        generation=generation,
        continue_on_failure=True,
        phases=PhasesConfig(fuzzing=FuzzingPhaseConfig(), stateful=StatefulPhaseConfig()),
    )
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), seed=seed)
    schema = schemathesis.openapi.from_url(f"{client.address}/openapi.json", config=config)
    outcome, oracle = Outcome(), Oracle()

    @schema.hook
    def after_call(context: Any, case: Any, response: Any) -> None:
        if response.status_code == 200 and response.json().keys() >= {"next_page_token"}:
            outcome.went_on += list_of(response.request.url)[1] is not None
            oracle.take(response.request.url, response.json())

    @schema.hook
    def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
        """Excuse a 400 where the description cannot say that parameters contradict each other; whether it counts."""
        excused = (
            isinstance(failure, RejectedPositiveData)
            and response.status_code == 400
            and response.json()["error"]["code"] in {"contradiction", "invalid_page_token"}
            and oracle.contradicts(response.request.url)
        )
        outcome.excused += excused
        return not excused

    for event in from_schema(schema).execute():
        outcome.take(event)
    return outcome


def test_schemathesis_finds_no_answer_that_the_description_does_not_promise(
    client: Client, record_property: Callable[[str, object], None]
) -> None:
    outcome = fuzz(client, EXAMPLES, SEED)
    record_property(FIGURES, str(outcome))
    assert outcome.failures == []
    assert {"examples", "coverage", "fuzzing", "stateful"} <= {phase.lower() for phase in outcome.phases}
    assert {200, 400, 401, 404, 405, 422} <= set(outcome.statuses)
    assert outcome.went_on > 0, "no page token was used"
    assert client.get("/logs", table_name=TABLE).status == 200
