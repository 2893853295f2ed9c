"""Schemathesis against the running API and its own description: all phases, all checks, and an oracle besides."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pytest
import schemathesis
from api_harness import KEY, TABLE, Client, keyed, new_log, record_of, serving, write
from api_oracle import Oracle, parted
from figures import FIGURES
from rooms import Rooms
from schemathesis.config import (
    CoveragePhaseConfig,
    GenerationConfig,
    PhasesConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.core.failures import Failure
from schemathesis.engine import Status, events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.schemas import BaseSchema

from rds_lake.api.answers import EXAMPLE_FILE
from rds_lake.api.parameters import LONGEST_TABLE
from rds_lake.audit_log.record import STATUSES

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EXAMPLES = int(os.environ.get("API_FUZZ_EXAMPLES", "60"))
"""Examples of each operation and phase; thousands for a long run by hand."""

SEED = int(os.environ.get("API_FUZZ_SEED", "7"))

OTHERS = tuple(f"other.table_{number}" for number in range(150))


@pytest.fixture(scope="module")
def client(rooms: Rooms) -> Iterator[Client]:
    log = new_log(rooms)
    records = [record_of(number, status=STATUSES[number % len(STATUSES)]) for number in range(250)]
    records += [record_of(0, name, status="completed") for name in OTHERS]
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
    foretold: int = 0
    contradictions: int = 0
    went_on: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        phases, statuses = (
            ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
            for counts in (self.phases, self.statuses)
        )
        return (
            f"api: schemathesis asked {sum(self.statuses.values()):,} times ({phases}), {sum(self.checks.values()):,} "
            f"checks of {len(self.checks)} kinds, {self.foretold:,} statuses foretold, {len(self.failures)} failures; "
            f"{self.contradictions:,} contradictions, {self.went_on:,} good page tokens; answers: {statuses}"
        )

    def take(self, event: events.EngineEvent) -> None:
        """Count what the engine reports."""
        if isinstance(event, events.NonFatalError):
            self.failures.append(f"{event.label}: {event.value}")
        if isinstance(event, events.FatalError):
            self.failures.append(repr(event.exception))
        if not isinstance(event, events.ScenarioFinished):
            return
        for interaction in event.recorder.interactions.values():
            assert interaction.response is not None, interaction.request.uri
            self.statuses[interaction.response.status_code] += 1
            self.phases[event.phase.value] += 1
        for case, checks in event.recorder.checks.items():
            for check in checks:
                self.checks[check.name] += 1
                if check.status is not Status.SUCCESS:
                    request = event.recorder.interactions[case].request
                    self.failures.append(f"{check.name}: {request.method} {request.uri}: {check.failure_info}")


def watch(schema: BaseSchema, oracle: Oracle, outcome: Outcome) -> None:
    """Ask more to the point than Schemathesis would, and compare each answer with what the description promises."""

    @schema.hook
    def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
        """Ask mostly for a table that is there, and without a page token: else every answer would be 404 or 400."""
        given = dict(query or {})
        name, token = given.get("table_name"), given.get("page_token")
        if isinstance(name, str) and 0 < len(name) <= LONGEST_TABLE and crc32(name.encode()) % 4:
            given["table_name"] = TABLE
        if isinstance(token, str) and len(token) % 4:
            del given["page_token"]
        return given if query is not None else None

    @schema.hook
    def after_call(context: Any, case: Any, response: Any) -> None:
        request, status = response.request, response.status_code
        if request.method != "GET" or request.headers.get("X-API-Key") != KEY:
            return
        promised = oracle.promised(request.url)
        outcome.foretold += 1
        if status not in promised:
            outcome.failures.append(f"{status} instead of {promised}: {request.url}")
        if status == 200:
            outcome.went_on += "page_token" in dict(parted(request.url)[1])
            oracle.take(request.url, response.json())

    @schema.hook
    def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
        """Excuse a 400 where the description cannot say that parameters contradict each other; whether it counts."""
        excused = (
            isinstance(failure, RejectedPositiveData)
            and response.status_code == 400
            and oracle.promised(response.request.url) == {400}
        )
        outcome.contradictions += excused
        return not excused


def fuzz(client: Client, examples: int, seed: int) -> Outcome:
    """Let Schemathesis ask for everything that the description allows, and for what it does not."""
    project = ProjectConfig(
        headers={"X-API-Key": KEY},
        generation=GenerationConfig(max_examples=examples),
        phases=PhasesConfig(coverage=CoveragePhaseConfig(generate_duplicate_query_parameters=True)),
        continue_on_failure=True,
    )
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), seed=seed)
    schema = schemathesis.openapi.from_url(f"{client.address}/openapi.json", config=config)
    outcome = Outcome()
    watch(schema, Oracle(client.get("/openapi.json").json, frozenset({TABLE, *OTHERS})), outcome)
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
    assert len(outcome.checks) >= 14, "a check of Schemathesis was off"
    assert outcome.went_on > 0, "no page token was used"
