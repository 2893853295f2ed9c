"""Which partitions an audit looks at, without any server."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily

from rds_lake.partitions import Unit
from rds_lake.verify.scope import Scope

UNITS: tuple[Unit, ...] = ("hour", "day", "week", "month")
FIRST = datetime(2024, 1, 1)  # noqa: DTZ001 - wall-clock time, as windows are
moments = st.none() | st.timedeltas(timedelta(days=-40), timedelta(days=70)).map(lambda after: FIRST + after)


def scope(unit: Unit, since: datetime | None, until: datetime | None) -> Scope:
    given: Any = {"by": unit, "start": "2024-01-01"}
    return Scope.of(daily("t", partitions=given), since, until, None)


@pytest.mark.parametrize(("unit", "key"), [("week", "2024-03-11"), ("month", "2024-03")])
def test_an_end_inside_a_partition_takes_the_whole_partition(unit: Unit, key: str) -> None:
    looked = scope(unit, None, datetime(2024, 3, 15))  # noqa: DTZ001
    partitioning = looked.spec.partitioning
    assert partitioning is not None
    assert looked.window is not None
    assert looked.has(key)
    assert looked.window.upper == partitioning.window(key).upper


@bounded(200)
@given(unit=st.sampled_from(UNITS), since=moments, until=moments)
def test_a_window_holds_whole_partitions_and_those_that_a_sync_would_observe(
    unit: Unit, since: datetime | None, until: datetime | None
) -> None:
    looked = scope(unit, since, until)
    partitioning = looked.spec.partitioning
    assert partitioning is not None
    end = until or FIRST + timedelta(days=80)
    wanted = set(partitioning.keys(since or FIRST, end))
    every = set(partitioning.keys(FIRST, FIRST + timedelta(days=80)))
    assert {key for key in every if looked.has(key)} - ({*every} - wanted if until is None else set()) == wanted
    if looked.window is not None:
        for key in every:
            lower, upper = partitioning.window(key)
            inside = looked.window.lower <= lower and upper <= looked.window.upper
            assert inside == looked.has(key), "whole, or not at all"
