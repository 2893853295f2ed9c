"""The split: every landed row ends in exactly one place, with all the reasons and none besides."""

import io
import re
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, daily, lookup_of, record_batch, table_spec

from rds_lake.errors import SpecError
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake import files, spool
from rds_lake.lake.batch import BatchWriter
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.quality import inspect as inspecting
from rds_lake.quality import judge, repeated
from rds_lake.quality.inspect import KEYS_SHOWN, VALUES_SHOWN, Report, inspect
from rds_lake.quality.split import Splitter, needed_lookups

COLUMNS = (
    Column("id", "int(11)"),
    Column("at", "datetime"),
    Column("status", "varchar(25)"),
    Column("amount", "decimal(10,2)"),
)
STATUSES = ("CLOSED", "ON_HOLD")
LOOKUPS = {("statuses", "name"): lookup_of(STATUSES)}
START = datetime(2024, 1, 1)  # noqa: DTZ001 - the cursor's clock
VALID = {"rule": "in_lookup", "column": "status", "lookup_table": "statuses", "lookup_column": "name", "name": "valid"}


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def divide(rooms, spec, rows, **more):
    landed = rooms.batch(spec, "landing", COLUMNS, rows, **more).manifest
    return landed, Splitter(rooms.store, spec, LOOKUPS).split(landed, None, None)


def reasons(rooms, discarded) -> dict[int, list[str]]:
    return {row[-1]: row[-4] for row in rooms.rows(discarded)}


# --- the property ----------------------------------------------------------------------------------------------------

PYTHON_RULES = {
    "valid": (VALID, lambda row: row[2] in STATUSES),
    "valid_or_null": ({**VALID, "name": "valid_or_null", "allow_null": True}, lambda row: row[2] in (None, *STATUSES)),
    "listed": (
        {"rule": "accepted_values", "column": "status", "values": ["CLOSED", "it's"], "name": "listed"},
        lambda row: row[2] in ("CLOSED", "it's"),
    ),
    "there": ({"rule": "not_null", "column": "amount", "name": "there"}, lambda row: row[3] is not None),
    "shaped": (
        {"rule": "matches", "column": "status", "pattern": "[A-Z_]+", "name": "shaped"},
        lambda row: row[2] is not None and re.fullmatch("[A-Z_]+", row[2]) is not None,
    ),
    "small": (
        {"rule": "between", "column": "amount", "min": 0, "max": 9.5, "name": "small"},
        lambda row: row[3] is not None and 0 <= row[3] <= 9.5,
    ),
    "sane": (
        {"rule": "sql", "name": "sane", "where": "amount > 1 OR status = 'CLOSED'"},
        lambda row: (row[3] is not None and row[3] > 1) or row[2] == "CLOSED",
    ),
}

generated = st.lists(
    st.tuples(
        st.none() | st.integers(0, 9),
        st.integers(0, 5).map(at),
        st.sampled_from([None, "", "CLOSED", "closed", "CLOSED ", "ON_HOLD", "it's", "\n", "美"]),
        st.none() | st.decimals(min_value=-2, max_value=12, places=2),
    ),
    max_size=14,
)


@bounded(25)
@given(
    generated,
    st.sets(st.sampled_from(sorted(PYTHON_RULES))),
    st.booleans(),
    st.booleans(),
    st.sampled_from([2, files.READ_ROWS]),
    st.sampled_from([1, files.REPEATED]),
)
def test_every_landed_row_is_staged_or_discarded_with_exactly_the_rules_that_it_breaks(
    rooms, rows, chosen, unique, keyed, at_once, repeated
):
    rules = [PYTHON_RULES[name][0] for name in sorted(chosen)]
    spec = daily(rooms.name(), rules=rules, key=["id"] if keyed else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "READ_ROWS", at_once)
        patch.setattr(files, "REPEATED", repeated)  # 1: every text is kept, and judged, as a dictionary
        patch.setattr(judge, "REPEATED", repeated)
        landed, done = divide(rooms, spec, rows, source_unique=unique)

    expected: dict[int, list[str]] = {}
    best = {}
    for number, row in enumerate(rows):
        repeated = row[0] if keyed else row
        if repeated not in best or row[1] > rows[best[repeated]][1]:
            best[repeated] = number
    for number, row in enumerate(rows):
        labels = [name for name in sorted(chosen) if not PYTHON_RULES[name][1](row)]
        labels += ["not_null_id"] if keyed and row[0] is None else []
        if not unique and best[row[0] if keyed else row] != number:
            labels.append("duplicate_key" if keyed else "duplicate_row")
        if labels:
            expected[number] = labels

    assert done.staging.rows + done.discarded.rows == landed.rows == len(rows)
    assert rooms.rows(done.staging) == [row for number, row in enumerate(rows) if number not in expected]
    assert reasons(rooms, done.discarded) == expected
    assert {row[-1]: row[:4] for row in rooms.rows(done.discarded)} == {number: rows[number] for number in expected}
    counts: dict[str, int] = {}
    for labels in expected.values():
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    assert done.discarded.details == dict(sorted(counts.items()))


# --- what the batches say --------------------------------------------------------------------------------------------


def test_a_discarded_row_keeps_all_its_columns_and_says_where_it_came_from(rooms):
    spec = daily(rooms.name(), rules=[VALID])
    landed, done = divide(rooms, spec, [(1, at(1), "CLOSED", None), (2, at(2), "closed", None)])
    [file] = done.discarded.files
    body = rooms.store.client.get_object(Bucket=rooms.store.bucket, Key=file.key)["Body"].read()
    table = pq.read_table(io.BytesIO(body))
    assert table.to_pylist() == [
        {
            "id": 2,
            "at": at(2),
            "status": "closed",
            "amount": None,
            "_failed_rules": ["valid"],
            "_source_batch": landed.batch,
            "_source_file": "part-00000.parquet",
            "_source_row": 1,
        }
    ]
    assert done.staging.parent == done.discarded.parent == landed.batch
    assert done.staging.fingerprint == done.discarded.fingerprint == landed.fingerprint
    assert done.staging.rules == done.discarded.rules is not None


@pytest.mark.parametrize("unique", [True, False])
def test_rows_of_several_landed_files_are_told_apart_and_compared_with_one_another(rooms, monkeypatch, unique):
    spec = daily(rooms.name(), rules=[VALID])
    monkeypatch.setattr(spool, "FILE_BYTES", 1)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(files, "READ_ROWS", 2)
    draft = rooms.draft(spec, "landing", COLUMNS, source_unique=unique)
    writer = BatchWriter(rooms.store, TableKeys.of(spec), draft, arrow_schema(COLUMNS))
    rows = [(n % 5, at(n), "CLOSED" if n % 4 else "bad", None) for n in range(10)]
    for start in (0, 5):
        writer.write(record_batch(rows[start : start + 5], writer._schema))
    landed = writer.finish(None)
    assert len(landed.files) == 2
    done = Splitter(rooms.store, spec, LOOKUPS).split(landed, None, None)
    expected = [
        (*row, [*(["valid"] if row[2] == "bad" else []), *(["duplicate_key"] if n < 5 and not unique else [])], place)
        for n, row in enumerate(rows)
        for place in [(f"part-0000{n // 5}.parquet", n % 5)]
    ]
    found = rooms.rows(done.discarded)
    assert [(*row[:5], (row[6], row[7])) for row in found] == [row for row in expected if row[4]]
    assert rooms.rows(done.staging) == [row[:4] for row in expected if not row[4]]


@pytest.mark.parametrize(
    ("where", "bad"),
    [
        ("#1 > 1", [0, 1]),
        ("ID > 1 AND \"Status\" = 'b'", [0, 1]),
        ("list_contains([x for x in [1, 2] if x = id], id)", [0]),
        ("EXISTS (SELECT * FROM (SELECT id AS a) WHERE a > 1)", [0, 1]),
        ("_source_row <> 1 AND _source_file LIKE 'part-%'", [1]),
        ("1 = 1", []),
    ],
)
def test_a_rule_reads_what_it_names_in_whatever_way(rooms, where, bad):
    spec = daily(rooms.name(), rules=[{"rule": "sql", "name": "ours", "where": where}])
    rows = [(0, at(1), "a", 1), (1, at(1), "b", None), (2, at(1), "b", 3)]
    _, done = divide(rooms, spec, rows, source_unique=True)
    assert sorted(reasons(rooms, done.discarded)) == bad


def test_the_same_split_again_is_the_same_batch_and_another_rule_another(rooms):
    spec = daily(rooms.name(), rules=[VALID])
    landed, first = divide(rooms, spec, [(1, at(1), "CLOSED", None), (2, at(2), "x", None)])
    keys = rooms.keys(f"{spec.table}/")
    again = Splitter(rooms.store, spec, LOOKUPS).split(landed, first.staging, first.discarded)
    assert again == first
    assert rooms.keys(f"{spec.table}/") == keys
    anew = Splitter(rooms.store, spec, LOOKUPS).split(landed, None, None)
    assert anew.staging.same_content(first.staging)
    assert anew.staging.batch != first.staging.batch  # so that it never overwrites what a reader reads
    more = {("statuses", "name"): lookup_of([*STATUSES, "x"])}
    other = Splitter(rooms.store, spec, more).split(landed, first.staging, first.discarded)
    assert other.staging.batch != first.staging.batch
    assert (other.staging.rows, other.discarded.rows) == (2, 0)


def test_a_batch_of_many_files_split_again_is_the_same_and_keeps_its_files(rooms, monkeypatch):
    monkeypatch.setattr("rds_lake.lake.spool.FILE_BYTES", 300_000)
    spec = daily(rooms.name(), rules=[VALID])
    rows = [(n, at(1), "CLOSED" if n % 7 else "x", None) for n in range(260_000)]
    landed, first = divide(rooms, spec, rows)
    assert len(first.staging.files) > 1
    again = Splitter(rooms.store, spec, LOOKUPS).split(landed, first.staging, first.discarded)
    assert again == first
    assert all(rooms.store.size(file.key) == file.size for file in again.staging.files)


def test_a_csv_landing_is_split_like_any_other_and_staged_as_parquet(rooms):
    spec = table_spec(rooms.name(), key=["id"], landing={"format": "csv"}, rules=[VALID])
    rows = [(1, None, "CLOSED", None), (2, at(2), "", None), (3, at(3), None, None)]
    _, done = divide(rooms, spec, rows, source_unique=True)
    assert done.staging.format == done.discarded.format == "parquet"
    assert rooms.rows(done.staging) == rows[:1]
    assert reasons(rooms, done.discarded) == {1: ["valid"], 2: ["valid"]}


def test_an_empty_landing_gives_two_empty_batches(rooms):
    _, done = divide(rooms, daily(rooms.name(), rules=[VALID]), [])
    assert (done.staging.files, done.discarded.files, done.discarded.details) == ((), (), {})


def test_a_splitter_serves_many_partitions_one_after_the_other_and_at_once(rooms):
    from concurrent.futures import ThreadPoolExecutor

    spec = daily(rooms.name(), rules=[VALID, {"rule": "unique", "columns": ["amount"], "name": "one"}])
    rows = [(n, at(n), "CLOSED" if n % 3 else "bad", n) for n in range(50)]
    landed = [
        rooms.batch(spec, "landing", COLUMNS, rows, partition=f"2024-01-{day:02}").manifest for day in range(1, 9)
    ]
    splitter = Splitter(rooms.store, spec, LOOKUPS)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda manifest: splitter.split(manifest, None, None), landed))
    assert [(item.staging.rows, item.discarded.rows) for item in done] == [(33, 17)] * 8


@pytest.mark.parametrize(
    "where",
    [
        "no_such_column > 1",
        "amount >",
        "status > 1 > 2 AND",
        "SUM(amount) > 1",
        "1); DROP TABLE lookup_0; --",
        "amount <= (SELECT AVG(amount) FROM landed)",
        "COLUMNS(*) IS NOT NULL",
    ],
)
def test_a_rule_that_does_not_compile_is_named(rooms, where):
    spec = daily(rooms.name(), rules=[VALID, {"rule": "sql", "name": "my_rule", "where": where}])
    with pytest.raises(SpecError) as caught:
        divide(rooms, spec, [(1, at(1), "CLOSED", None)])
    assert f"{spec.table}: the rule my_rule cannot be applied" in caught.value.problem
    assert caught.value.remedy.startswith("A rule sees the columns of one row, and no table. Correct it in defs/")
    assert rooms.keys(f"{spec.table}/staging/") == []


def test_a_value_that_a_rule_cannot_take_names_the_partition_and_leaves_nothing(rooms):
    spec = daily(rooms.name(), rules=[{"rule": "sql", "name": "number", "where": "CAST(status AS INTEGER) > 0"}])
    with pytest.raises(SpecError, match=r"partition 2024-01-01.*TRY_CAST"):
        divide(rooms, spec, [(1, at(1), "CLOSED", None)])
    assert rooms.keys(f"{spec.table}/staging/") == []
    assert rooms.keys(f"{spec.table}/discarded/") == []


def test_the_engine_goes_on_after_a_failed_split(rooms):
    spec = daily(rooms.name(), rules=[{"rule": "sql", "name": "number", "where": "CAST(status AS INTEGER) > 0"}])
    splitter = Splitter(rooms.store, spec, {})
    bad = rooms.batch(spec, "landing", COLUMNS, [(1, at(1), "x", None)]).manifest
    good = rooms.batch(spec, "landing", COLUMNS, [(1, at(1), "7", None)]).manifest
    with pytest.raises(SpecError):
        splitter.split(bad, None, None)
    assert splitter.split(good, None, None).staging.rows == 1


def test_a_rule_over_a_column_that_was_not_landed_is_named_with_its_place(rooms):
    spec = daily(rooms.name(), rules=[{"rule": "not_null", "column": "ghost"}])
    with pytest.raises(SpecError, match="rule not_null_ghost names the column 'ghost'"):
        divide(rooms, spec, [(1, at(1), "CLOSED", None)])


@pytest.mark.parametrize("name", ["_failed_rules", "_source_batch", "_source_file", "_SOURCE_ROW", "_keeps_0"])
def test_a_source_column_that_is_called_like_one_of_ours_is_refused_by_name(rooms, name):
    spec = table_spec(rooms.name(), rules=[VALID])
    columns = (Column("status", "varchar(9)"), Column(name, "varchar(9)"))
    landed = rooms.batch(spec, "landing", columns, [("CLOSED", "theirs"), ("x", "theirs")]).manifest
    with pytest.raises(SpecError, match=rf"'{name}'.*source"):
        Splitter(rooms.store, spec, LOOKUPS).split(landed, None, None)


def test_each_lookup_is_needed_once(rooms):
    other = {**VALID, "name": "b", "lookup_column": "code"}
    assert needed_lookups(daily("t", rules=[VALID, {**VALID, "name": "a"}, other])) == (
        ("statuses", "name"),
        ("statuses", "code"),
    )


# --- inspection ------------------------------------------------------------------------------------------------------


def look(rooms, spec, *partitions):
    manifests = [
        rooms.batch(spec, "landing", COLUMNS, rows, partition=f"2024-01-{day:02}").manifest
        for day, rows in enumerate(partitions, 1)
    ]
    return inspect(rooms.store, spec, LOOKUPS, manifests)


def test_an_inspection_counts_the_broken_rows_and_shows_values_and_keys(rooms):
    spec = daily(rooms.name(), rules=[VALID, {"rule": "not_null", "column": "amount"}])
    first = [(1, at(1), "closed", 1), (2, at(2), "closed", 1), (3, at(3), None, 1), (4, at(4), "CLOSED", 1)]
    report = look(rooms, spec, first, [(5, at(5), "", None)], [])
    assert report.rows == 5
    valid, amount, key, fits = report.rules
    assert (valid.label, valid.broken) == ("valid", 4)
    assert valid.values[0] == ("closed", 2)
    assert set(valid.values) == {("closed", 2), (None, 1), ("", 1)}
    assert valid.keys == ("1", "2", "3", "5")
    assert (amount.label, amount.broken, amount.values, amount.keys) == ("not_null_amount", 1, ((None, 1),), ("5",))
    assert (key.label, key.broken) == ("not_null_id", 0)
    assert (fits.label, fits.broken) == ("fits_status", 0)


def test_an_inspection_is_not_confused_by_the_names_of_other_columns(rooms):
    spec = daily(rooms.name(), rules=[{"rule": "between", "column": "id", "max": 1}])
    columns = (*COLUMNS[:2], Column("v", "varchar(20)"), Column("n", "int"), Column("_partition", "int"))
    rows = [(1, at(1), "a", 1, 1), (1, at(1), "a", 1, 2), (2, at(1), "b", 2, 1), (3, at(2), "b", 2, 1)]
    report = inspect(rooms.store, spec, {}, [rooms.batch(spec, "landing", columns, rows).manifest])
    assert (report.rules[0].values, report.repeated_keys) == ((("2", 1), ("3", 1)), 1)


def test_an_inspection_caps_what_it_shows(rooms):
    report = look(rooms, daily(rooms.name(), rules=[VALID]), [(n, at(n), f"bad{n}", None) for n in range(60)])
    assert (report.rules[0].broken, len(report.rules[0].values), len(report.rules[0].keys)) == (
        60,
        VALUES_SHOWN,
        KEYS_SHOWN,
    )


def test_an_inspection_finds_keys_that_repeat_within_a_partition_only(rooms):
    spec = daily(rooms.name(), rules=[VALID, {"rule": "unique", "columns": ["id"], "name": "once"}])
    rows = [(1, at(1), "CLOSED", None), (1, at(2), "CLOSED", None), (2, at(2), "CLOSED", None)]
    report = look(rooms, spec, rows, [(2, at(1), "CLOSED", None)])
    assert report.repeated_keys == 1
    assert [rule.label for rule in report.rules] == ["valid", "not_null_id", "fits_status"]


def test_an_inspection_never_shows_personal_columns(rooms):
    columns = {"status": {"personal": True}, "id": {"personal": True}}
    spec = daily(rooms.name(), rules=[VALID], columns=columns)
    report = look(rooms, spec, [(424242, at(1), "secret", None)])
    assert report.rules[0].broken == 1
    assert (report.rules[0].values, report.rules[0].keys) == ((), ())
    assert "secret" not in repr(report)
    assert "424242" not in repr(report)


def test_an_inspection_of_nothing_reports_every_rule_unbroken(rooms):
    report = look(rooms, daily(rooms.name(), rules=[VALID]), [])
    assert (report.rows, report.repeated_keys) == (0, 0)
    assert [(rule.label, rule.broken) for rule in report.rules] == [("valid", 0)]


@pytest.mark.parametrize("suspicion", ["of what repeats", "of all", "of too many"])
def test_an_inspection_in_small_portions_finds_the_same(rooms, monkeypatch, suspicion):
    monkeypatch.setattr(inspecting, "CHUNK_ROWS", 3)
    monkeypatch.setattr(inspecting, "PORTION_ROWS", 5)
    monkeypatch.setattr(files, "READ_ROWS", 2)
    monkeypatch.setattr(repeated, "HELD", 4)
    if suspicion == "of too many":
        monkeypatch.setattr(inspecting, "SUSPECTS", 3)
    if suspicion == "of all":  # as if all hashes were equal
        monkeypatch.setattr(repeated, "_twice", np.unique)
    spec = daily(rooms.name(), rules=[VALID, {"rule": "sql", "name": "small", "where": "id < 90"}])
    rows = [(number % 7, at(1), "CLOSED" if number % 3 else "bad", number) for number in range(20)]
    report = look(rooms, spec, rows, [(99, at(1), "CLOSED", None)], [], [(3, at(1), "CLOSED", None)] * 3)
    assert (report.rows, report.repeated_keys) == (24, 7 + 1)
    assert [(rule.label, rule.broken) for rule in report.rules[:2]] == [("valid", 7), ("small", 1)]
    assert report.rules[0].values == (("bad", 7),)


def test_an_inspection_shows_rules_over_many_rows_all_those_of_a_partition(rooms, monkeypatch):
    monkeypatch.setattr(inspecting, "CHUNK_ROWS", 1)
    spec = daily(rooms.name(), rules=[{"rule": "sql", "name": "few", "where": "COUNT(*) OVER () < 3"}])
    report = look(
        rooms, spec, [(1, at(1), "a", None), (1, at(2), "b", None), (2, at(3), "c", None)], [(1, at(1), "a", None)]
    )
    assert (report.rules[0].broken, report.repeated_keys) == (3, 1)


@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=9), max_size=9), st.integers(1, 30))
def test_numbers_that_repeat_are_found_in_memory_and_on_disk(parts, held):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated, "HELD", held)
        taken = repeated.Repeated(Path(folder))
        for _ in range(2):
            for part in parts:
                taken.add(np.array(part, np.uint64))
            counts = Counter(number for part in parts for number in part)
            assert taken.found().tolist() == sorted(number for number, count in counts.items() if count > 1)
            assert list(Path(folder).iterdir()) == []


def test_an_inspection_that_needs_no_column_reads_none(rooms):
    columns = (Column("a", "int(11)"), Column("b", "int(11)"))
    spec = table_spec(rooms.name(), key=[])
    batch = rooms.batch(spec, "landing", columns, [(1, 2), (1, 2)], partition=WHOLE_TABLE).manifest
    assert inspect(rooms.store, spec, {}, [batch], keys=False).repeated_keys == 0
    assert inspect(rooms.store, spec, {}, [batch]) == Report(2, (), 1)
