"""Batches: nothing a reader sees before the commit, nothing sent when nothing has changed."""

from datetime import UTC, datetime
from threading import Event, active_count

import pyarrow as pa
import pytest
from rooms import daily, record_batch, refit

from rds_lake.errors import TransientError
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake import files
from rds_lake.lake.batch import BatchWriter, commit_if_new, is_whole, new_batch_id
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests

COLUMNS = (Column("id", "int(11)", nullable=False), Column("at", "datetime"), Column("v", "varchar(20)"))
SCHEMA = arrow_schema(COLUMNS)
NOON = datetime(2024, 1, 1, 12)  # noqa: DTZ001 - the cursor's clock
ROWS = [(1, NOON, "a"), (2, NOON, None), (3, None, "c")]


@pytest.fixture
def spec(rooms):
    return daily(rooms.name())


def writer(rooms, spec, rows=ROWS, **draft) -> BatchWriter:
    made = BatchWriter(rooms.store, TableKeys.of(spec), rooms.draft(spec, "landing", COLUMNS, **draft), SCHEMA)
    if rows:
        made.write(record_batch(rows, SCHEMA))
    return made


def committed(rooms, spec, rows=ROWS):
    return rooms.batch(spec, "landing", COLUMNS, rows)


def test_a_finished_batch_is_in_its_own_folder_and_reads_back(rooms, spec):
    done = writer(rooms, spec, batch="b1").finish(None)
    assert rooms.keys(f"{spec.table}/") == [f"{spec.table}/landing/at_day=2024-01-01/batch=b1/part-00000.parquet"]
    assert [file.key for file in done.files] == rooms.keys(f"{spec.table}/")
    assert rooms.rows(done) == ROWS
    assert (done.rows, done.size) == (3, rooms.store.size(done.files[0].key))
    assert is_whole(rooms.store, done)


def test_nothing_is_committed_before_the_caller_commits(rooms, spec):
    writer(rooms, spec).finish(None)
    assert rooms.keys(TableKeys.of(spec).manifests("landing")) == []


def test_unchanged_content_sends_nothing_and_keeps_the_old_batch(rooms, spec):
    before = committed(rooms, spec)
    keys = rooms.keys(f"{spec.table}/")
    done = writer(rooms, spec, fingerprint="2-new").finish(before.manifest)
    assert (done.batch, done.files) == (before.manifest.batch, before.manifest.files)
    assert done.fingerprint == "2-new"
    assert rooms.keys(f"{spec.table}/") == keys
    assert commit_if_new(Manifests(rooms.store, TableKeys.of(spec)), before.manifest, before) is before


def test_changed_content_is_a_new_batch_and_leaves_the_old_files(rooms, spec):
    before = committed(rooms, spec)
    done = writer(rooms, spec, [*ROWS, (4, NOON, "d")]).finish(before.manifest)
    assert done.batch != before.manifest.batch
    assert rooms.rows(done) == [*ROWS, (4, NOON, "d")]
    assert rooms.rows(before.manifest) == ROWS
    assert Manifests(rooms.store, TableKeys.of(spec)).require("landing", "2024-01-01") == before


def test_rows_that_are_gone_are_a_new_batch_without_files(rooms, spec):
    before = committed(rooms, spec)
    done = writer(rooms, spec, []).finish(before.manifest)
    assert (done.files, done.rows) == ((), 0)
    assert done.batch != before.manifest.batch
    again = writer(rooms, spec, []).finish(done)
    assert again.batch == done.batch


@pytest.mark.parametrize("harm", ["missing", "cut short"])
def test_a_damaged_current_file_is_written_anew(rooms, spec, harm):
    before = committed(rooms, spec)
    [file] = before.manifest.files
    if harm == "missing":
        rooms.store.delete([file.key])
    else:
        rooms.store.put(file.key, rooms.store.get(file.key)[0][:-1])
    assert not is_whole(rooms.store, before.manifest)
    done = writer(rooms, spec).finish(before.manifest)
    assert done.batch != before.manifest.batch
    assert rooms.rows(done) == ROWS


def test_a_change_of_columns_is_a_new_batch_even_when_the_bytes_are_the_same(rooms, spec):
    before = committed(rooms, spec)
    longer = (*COLUMNS[:2], Column("v", "varchar(30)"))
    made = BatchWriter(rooms.store, TableKeys.of(spec), rooms.draft(spec, "landing", longer), SCHEMA)
    made.write(record_batch(ROWS, SCHEMA))
    done = made.finish(before.manifest)
    assert [file.sha256 for file in done.files] == [file.sha256 for file in before.manifest.files]
    assert done.batch != before.manifest.batch


def test_an_abandoned_batch_leaves_no_object(rooms, spec, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES", 1)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    made = writer(rooms, spec, ROWS)
    made.write(record_batch(ROWS, SCHEMA))
    assert rooms.keys(f"{spec.table}/") != []
    made.abandon()
    assert rooms.keys(f"{spec.table}/") == []
    made.abandon()


def test_a_full_file_is_sent_while_the_next_is_written_and_its_failure_ends_the_batch(rooms, spec, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES", 1)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    may_fail = Event()

    def upload(*_):
        assert may_fail.wait(30)
        raise TransientError("S3 is gone.", "Try again.")

    made = writer(rooms, spec, [])
    monkeypatch.setattr(rooms.store, "upload", upload)
    made.write(record_batch(ROWS, SCHEMA))  # comes back although the upload does not
    may_fail.set()
    with pytest.raises(TransientError, match="S3 is gone"):
        made.finish(None)
    made.abandon()
    assert rooms.keys(f"{spec.table}/") == []


def test_a_batch_that_is_sent_before_its_end_holds_neither_rows_nor_threads(rooms, spec):
    made, threads = writer(rooms, spec, ROWS), active_count()
    made.send()
    assert active_count() == threads
    [file] = made.finish(None).files
    assert (file.rows, rooms.keys(f"{spec.table}/")) == (len(ROWS), [file.key])


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_batch_that_is_abandoned_with_rows_unsent_closes_its_file(rooms, spec, file_format, monkeypatch):
    import gc

    noticed = []
    monkeypatch.setattr("sys.unraisablehook", noticed.append)
    made = writer(rooms, spec, ROWS, format=file_format)
    made.abandon()
    del made
    gc.collect()
    assert noticed == []
    assert rooms.keys(f"{spec.table}/") == []


def test_a_large_batch_goes_on_in_further_files_in_order(rooms, spec, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES", 1)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    made = writer(rooms, spec, [])
    rows = [(n, NOON, f"v{n}") for n in range(7)]
    for start in range(0, 7, 2):
        made.write(record_batch(rows[start : start + 2], SCHEMA))
    done = made.finish(None)
    assert [file.key[-18:] for file in done.files] == [f"part-0000{n}.parquet" for n in range(len(done.files))]
    assert len(done.files) == 4
    assert rooms.rows(done) == rows
    keys = rooms.keys(f"{spec.table}/")
    again = writer(rooms, spec, [])
    for start in range(0, 7, 2):
        again.write(record_batch(rows[start : start + 2], SCHEMA))
    same = again.finish(done)
    assert same.files == done.files
    assert rooms.keys(f"{spec.table}/") == keys


def test_no_rows_make_no_file(rooms, spec):
    made = writer(rooms, spec, [])
    made.write(pa.RecordBatch.from_pylist([], schema=SCHEMA))
    assert made.finish(None).files == ()
    assert rooms.keys(f"{spec.table}/") == []


def test_batch_ids_sort_by_time_and_do_not_repeat():
    moments = [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=UTC),
    ]
    ids = [new_batch_id(moment) for moment in moments]
    assert ids == sorted(ids)
    assert len({new_batch_id(moments[0]) for _ in range(100)}) == 100


def test_a_manifest_that_says_the_same_is_not_written_again(rooms, spec):
    before = committed(rooms, spec)
    manifests = Manifests(rooms.store, TableKeys.of(spec))
    assert commit_if_new(manifests, before.manifest, before).etag == before.etag
    later = refit(before.manifest, fence="2031-01-01T00:00:00+00:00", snapshot="another")
    assert commit_if_new(manifests, later, before) == before
    newer = commit_if_new(manifests, refit(before.manifest, fingerprint="9-9"), before)
    assert newer.etag != before.etag
    assert manifests.require("landing", "2024-01-01") == newer
