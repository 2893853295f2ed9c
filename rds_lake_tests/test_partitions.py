"""Partitions: windows that tile time, and Dagster's own definitions, which must cut it the same way."""

from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, table_spec

from rds_lake.assets.common import partitions_def
from rds_lake.partitions import Partitioning, Unit, Window, floor, following

UNITS: tuple[Unit, ...] = ("hour", "day", "week", "month")
TICK = timedelta(microseconds=1)

units = st.sampled_from(UNITS)
moments = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2199, 12, 31))  # noqa: DTZ001 - wall clock


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def cut(unit: Unit, start: str = "1971-01-01") -> Partitioning:
    return Partitioning.of(unit, date.fromisoformat(start))


# --- windows ---------------------------------------------------------------------------------------------------------


@bounded(150)
@given(units, moments)
def test_a_moment_lies_in_the_window_of_its_key(unit, moment):
    window = cut(unit).window(cut(unit).key(moment))
    assert window.lower <= moment < window.upper


@bounded(150)
@given(units, moments)
def test_windows_tile_time_without_gap_or_overlap(unit, moment):
    partitioning = cut(unit)
    window = partitioning.window(partitioning.key(moment))
    assert partitioning.window(partitioning.key(window.upper)).lower == window.upper
    assert partitioning.window(partitioning.key(window.lower - TICK)).upper == window.lower
    assert partitioning.key(window.lower) == partitioning.key(window.upper - TICK)


@bounded(120)
@given(units, moments, moments)
def test_keys_sort_like_the_time_they_stand_for(unit, one, other):
    partitioning = cut(unit)
    assert (partitioning.key(one) < partitioning.key(other)) == (floor(one, unit) < floor(other, unit))


@pytest.mark.parametrize(
    ("unit", "moment", "key", "lower", "upper"),
    [
        ("hour", "2023-12-31T23:59:59.999999", "2023-12-31T23", "2023-12-31T23:00", "2024-01-01T00:00"),
        ("hour", "2024-02-29T23:00", "2024-02-29T23", "2024-02-29T23:00", "2024-03-01T00:00"),
        ("day", "2023-12-31T23:59:59.999999", "2023-12-31", "2023-12-31", "2024-01-01"),
        ("day", "2024-02-29T12:00", "2024-02-29", "2024-02-29", "2024-03-01"),
        ("day", "2023-02-28T23:00", "2023-02-28", "2023-02-28", "2023-03-01"),
        ("week", "2024-01-01", "2024-01-01", "2024-01-01", "2024-01-08"),
        ("week", "2023-12-31T23:59:59.999999", "2023-12-25", "2023-12-25", "2024-01-01"),
        ("week", "2025-01-01", "2024-12-30", "2024-12-30", "2025-01-06"),
        ("week", "2024-02-29", "2024-02-26", "2024-02-26", "2024-03-04"),
        ("month", "2024-02-29T23:59:59.999999", "2024-02", "2024-02-01", "2024-03-01"),
        ("month", "1900-02-28", "1900-02", "1900-02-01", "1900-03-01"),
        ("month", "2023-12-31", "2023-12", "2023-12-01", "2024-01-01"),
    ],
)
def test_year_ends_and_leap_days_are_cut_where_the_calendar_cuts_them(unit, moment, key, lower, upper):
    partitioning = cut(unit)
    assert partitioning.key(at(moment)) == key
    assert partitioning.window(key) == Window(at(lower), at(upper))


@pytest.mark.parametrize(
    ("unit", "key"),
    [
        ("week", "2024-01-02"),
        ("day", "2024-02-30"),
        ("day", "2023-02-29"),
        ("day", "2024-1-1"),
        ("day", "2024-01-01T00"),
        ("hour", "2024-01-01T24"),
        ("hour", "2024-01-01"),
        ("month", "2024-13"),
        ("month", "2024-01-01"),
        ("day", "all"),
        ("day", ""),
    ],
)
def test_a_text_that_is_no_key_has_no_window(unit, key):
    with pytest.raises(ValueError, match=r".+"):
        cut(unit).window(key)


def test_the_start_moves_down_to_the_start_of_its_unit():
    assert cut("week", "2024-01-04").start == at("2024-01-01")
    assert cut("month", "2024-01-31").start == at("2024-01-01")
    assert cut("day", "2024-01-31").start == at("2024-01-31")


# --- keys, ranges, spans ---------------------------------------------------------------------------------------------


@bounded(120)
@given(units, moments, st.integers(0, 40), st.integers(-3_000_000, 3_000_000))
def test_the_keys_of_a_span_are_the_partitions_that_overlap_it_and_no_others(unit, since, count, seconds):
    partitioning = cut(unit)
    until = since
    for _ in range(count):
        until = following(floor(until, unit), unit)
    until += timedelta(seconds=min(seconds, 3000 if unit == "hour" else seconds))
    windows = [partitioning.window(key) for key in partitioning.keys(since, until)]
    assert all(left.upper == right.lower for left, right in pairwise(windows))
    if since < until:
        assert windows[0].lower <= since < windows[0].upper
        assert windows[-1].lower < until <= windows[-1].upper
    else:
        assert all(window.lower < until for window in windows)


@pytest.mark.parametrize("unit", UNITS)
def test_no_key_lies_before_the_start_and_none_at_or_after_the_end(unit):
    partitioning = cut(unit, "2024-03-01")
    keys = list(partitioning.keys(at("2020-01-01"), at("2024-05-01")))
    assert partitioning.window(keys[0]).lower == partitioning.start
    assert partitioning.window(keys[-1]).lower < at("2024-05-01") <= partitioning.window(keys[-1]).upper
    assert list(partitioning.keys(at("2020-01-01"), partitioning.start)) == []


@bounded(120)
@given(units, moments, st.sets(st.integers(0, 60)), st.randoms())
def test_the_ranges_of_any_keys_cover_exactly_them_and_are_as_few_as_can_be(unit, first, chosen, random):
    partitioning = cut(unit)
    row = [floor(first, unit)]
    while len(row) < 62:
        row.append(following(row[-1], unit))
    keys = [partitioning.key(row[number]) for number in chosen]
    given_keys = keys * 2
    random.shuffle(given_keys)
    ranges = partitioning.ranges(given_keys)
    spans = [partitioning.span(*pair) for pair in ranges]
    covered = [key for span in spans for key in partitioning.keys(*span)]
    assert covered == sorted(keys)
    assert all(left.upper < right.lower for left, right in pairwise(spans))


# --- Dagster cuts the same way ---------------------------------------------------------------------------------------

# Zones ahead of and behind UTC, with half hours, and with days that have no midnight (clocks go forward at 00:00).
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Kiritimati",
)


def zoned(unit: Unit, zone: str, start: str = "2018-10-15"):
    return table_spec(
        "t", key=["id"], cursor={"column": "at", "timezone": zone}, partitions={"by": unit, "start": start}
    )


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", UNITS)
def test_dagster_yields_the_same_keys_and_windows(unit, zone):
    spec = zoned(unit, zone)
    partitioning, theirs = spec.partitioning, partitions_def(spec)
    now = at("2018-12-05T13:37:00" if unit == "hour" else "2019-04-09T13:37:00").replace(
        tzinfo=ZoneInfo("UTC" if unit == "hour" else zone)
    )
    keys = theirs.get_partition_keys(current_time=now)
    ours = list(partitioning.keys(partitioning.start, now.replace(tzinfo=None)))
    assert keys[: len(ours)] == ours
    clock = ZoneInfo("UTC" if unit == "hour" else zone)
    for key in ours:
        window, expected = theirs.time_window_for_partition_key(key), partitioning.window(key)
        # As instants: where a zone has no midnight, the window begins with the first moment that its clocks show.
        assert window.start.timestamp() == expected.lower.replace(tzinfo=clock).timestamp()
        assert window.end.timestamp() == expected.upper.replace(tzinfo=clock).timestamp()


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", UNITS)
def test_dagster_knows_the_partition_that_the_cursors_clock_is_in(unit, zone):
    spec = zoned(unit, zone)
    for text in ("2019-03-31T23:30:00", "2019-04-01T00:10:00", "2019-04-30T12:00:00", "2019-12-31T23:59:00"):
        now = at(text).replace(tzinfo=ZoneInfo("UTC"))
        clock = now.astimezone(spec.cursor.zone).replace(tzinfo=None)
        assert spec.partitioning.key(clock) in partitions_def(spec).get_partition_keys(current_time=now)


@pytest.mark.parametrize("unit", UNITS)
def test_keys_that_are_kept_are_those_that_dagster_lists_anew_as_time_goes_on_or_back(unit):
    theirs = partitions_def(zoned(unit, "Europe/Berlin"))
    for text in ("2018-12-05T13:37:00", "2018-12-05T14:00:00", "2018-12-31T23:30:00", "2018-12-05T13:37:00"):
        now = at(text).replace(tzinfo=ZoneInfo("UTC"))
        kept = theirs.get_partition_keys(current_time=now)
        assert kept == type(theirs).get_partition_keys(theirs, current_time=now)
        kept.clear()  # whoever changes the list changes its own
        assert theirs.get_partition_keys(current_time=now)


def test_a_table_without_partitions_has_none_in_dagster_either():
    assert partitions_def(table_spec("t")) is None
