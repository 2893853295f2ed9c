"""A run that a whole sync overtakes between two of its reads takes nothing back, and what it began is finished."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pipeline import World, order_rows, plain_rows

from rds_lake.assets import common, landing, warehouse
from rds_lake.errors import PermanentError
from rds_lake.lake.manifest import Manifests
from rds_lake.spec import TableSpec

pytestmark = pytest.mark.stack

DAY = "2024-01-02"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RETRY_SECONDS", 0)


def once(world: World, spec: TableSpec, real: Callable[..., Any]) -> Callable[..., Any]:
    """A step that is followed, the first time, by one more order and a whole sync."""
    done: list[bool] = []

    def held(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        if not done and (real is not REQUIRE or given[1:] == ("landing", [DAY])):
            done.append(True)
            world.ask(f"INSERT INTO {spec.source_name} VALUES (9001, '{DAY} 12:00:00', 1, 'CLOSED')")
            assert world.sync(spec).ok
        return found

    return held


REQUIRE = Manifests.require_all


def test_a_landing_whose_snapshot_is_older_than_the_batch_that_stands_does_not_replace_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world.orders("older", rows=order_rows(30, 3))
    assert world.sync(spec).ok
    world.ask(f"DELETE FROM {spec.source_name} WHERE order_id = 12")
    monkeypatch.setattr(landing, "agree", once(world, spec, landing.agree))
    assert world.materialize(spec, "landing", partition=DAY).success, "it looks again, with a new snapshot"
    state, source = world.state(spec), plain_rows(world.ask(f"SELECT * FROM {spec.source_name}"))
    assert state.rows["landing"] == state.rows["archived"] == Counter(source)
    assert 9001 in {row[0] for row in state.rows["warehouse"]}


def test_a_split_of_a_batch_that_was_replaced_meanwhile_does_not_replace_the_newer_split(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world.orders("split_late", rows=order_rows(30, 3))
    assert world.sync(spec).ok
    with monkeypatch.context() as patch:
        patch.setattr(Manifests, "require_all", once(world, spec, REQUIRE))
        world.materialize(spec, "staging", "discarded", partition=DAY)
    state = world.assert_in_step(spec)
    assert 9001 in {row[0] for row in state.rows["staging"]}
    assert world.sync(spec).partitions == 0


def test_a_sync_again_that_ends_before_the_load_is_taken_up_by_the_next_sync(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world.orders("again", rows=order_rows(30, 3))
    assert world.sync(spec).ok
    world.ask(f"UPDATE {spec.source_name} SET customer_id = 777 WHERE order_id = 5")
    assert world.sync(spec).partitions == 0, "the fingerprint does not see it"

    def dies(*_: Any, **__: Any) -> Any:
        raise PermanentError("The load was stopped.", "Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(warehouse, "load", dies)
        assert not world.sync(spec, again=True).ok
    done = world.sync(spec)
    assert (done.ok, done.partitions) == (True, 3)
    world.assert_in_step(spec)
