"""Batches: nothing a reader sees before the commit, nothing sent when nothing has changed."""

import io
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_hex
from threading import Event, active_count

import pyarrow as pa
import pytest
from faults import At, bad_day
from rooms import daily, open_store, record_batch, refit

from rds_lake.errors import TransientError
from rds_lake.extract.types import Column, arrow_schema
from rds_lake.lake import files, passing, spool
from rds_lake.lake import store as stores
from rds_lake.lake.aws import GoneError
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
    monkeypatch.setattr(spool, "FILE_BYTES", 1)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    made = writer(rooms, spec, ROWS)
    made.write(record_batch(ROWS, SCHEMA))
    assert rooms.keys(f"{spec.table}/") != []
    made.abandon()
    assert rooms.keys(f"{spec.table}/") == []
    made.abandon()


def test_a_full_file_is_sent_while_the_next_is_written_and_its_failure_ends_the_batch(rooms, spec, monkeypatch):
    monkeypatch.setattr(spool, "FILE_BYTES", 1)
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
    monkeypatch.setattr(spool, "FILE_BYTES", 1)
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


NOISE = [(n, NOON, token_hex(10)) for n in range(60_000)]
"""Rows that no compression makes small: 0.7 MB a row group of 30,000."""


@pytest.fixture
def large(monkeypatch) -> None:
    """Files count as large from a few bytes on."""
    for module in (spool, files, stores):
        monkeypatch.setattr(module, "SINGLE_PUT_BYTES", 100_000)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 7_000)


def first_writer(rooms, spec, rows, **draft) -> BatchWriter:
    draft = rooms.draft(spec, "landing", COLUMNS, **draft)
    made = BatchWriter(rooms.store, TableKeys.of(spec), draft, SCHEMA, send_early=True)
    made.write(record_batch(rows, SCHEMA))
    return made


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_large_file_that_is_sent_while_it_is_written_is_the_same_and_there_when_it_is_whole(rooms, spec, file_format):
    made = first_writer(rooms, spec, NOISE[:30_000], format=file_format)
    made.write(record_batch(NOISE[30_000:], SCHEMA))
    assert made._spool is not None
    assert made._spool.content.closed, "it is not held here any more"
    assert rooms.keys(f"{spec.table}/") == []
    [file] = made.finish(None).files
    assert rooms.keys(f"{spec.table}/") == [file.key]
    body = rooms.store.client.get_object(Bucket=rooms.store.bucket, Key=file.key)["Body"].read()
    assert (file.size, file.sha256) == (len(body), sha256(body).hexdigest())
    found = pa.Table.from_batches(files.read_batches(io.BytesIO(body), SCHEMA, file_format))
    assert [tuple(row.values()) for row in found.to_pylist()] == NOISE
    assert writer(rooms, spec, NOISE, format=file_format).finish(None).files[0].sha256 == file.sha256


@pytest.mark.usefixtures("large")
def test_a_large_file_that_is_abandoned_leaves_no_unfinished_upload(rooms, spec):
    made = first_writer(rooms, spec, NOISE)
    made.abandon()
    assert list(rooms.store.uploads(f"{spec.table}/")) == []
    assert rooms.keys(f"{spec.table}/") == []
    made.abandon()


@pytest.mark.usefixtures("large")
def test_giving_up_hides_no_error_when_s3_is_gone_as_well(rooms, spec, monkeypatch):
    def gone(*_):
        raise TransientError("S3 is gone.", "Try again.")

    made = first_writer(rooms, spec, NOISE)
    for name in ("uploads", "delete"):
        monkeypatch.setattr(rooms.store, name, gone)
    made.abandon()
    monkeypatch.undo()
    for upload in rooms.store.uploads(f"{spec.table}/"):
        rooms.store.abort(upload)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("names", [SCHEMA.names, ["v"]])
def test_a_large_file_is_read_while_it_is_fetched(rooms, spec, monkeypatch, names):
    monkeypatch.setattr(passing, "FOOTER_BYTES", 65_536)
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 100)  # a footer that is longer than that
    monkeypatch.setattr(stores, "MIB", 10_000)
    [file] = writer(rooms, spec, NOISE).finish(None).files
    schema = pa.schema([SCHEMA.field(name) for name in names])
    with files.open_batches(rooms.store, file, schema, "parquet") as batches:
        found = pa.Table.from_batches(batches)
    assert found.equals(pa.Table.from_batches([record_batch(NOISE, SCHEMA)]).select(names))
    with files.open_batches(rooms.store, file, schema, "parquet") as batches:
        next(batches)  # and no more


@pytest.mark.usefixtures("large")
def test_a_large_file_that_is_gone_is_said_to_be(rooms, spec):
    [file] = writer(rooms, spec, NOISE).finish(None).files
    rooms.store.delete([file.key])
    with pytest.raises(GoneError), files.open_batches(rooms.store, file, SCHEMA, "parquet") as batches:
        list(batches)


@pytest.mark.usefixtures("large")
def test_a_large_file_whose_fetching_breaks_off_is_fetched_on(rooms, spec):
    [file] = writer(rooms, spec, NOISE).finish(None).files
    with bad_day(rooms.environ["AWS_ENDPOINT_URL"], At("^GET ", ["torn"] * 3)) as (address, day):
        store = open_store({**rooms.environ, "AWS_ENDPOINT_URL": address}, rooms.store.bucket)
        with files.open_batches(store, file, SCHEMA, "parquet") as batches:
            found = pa.Table.from_batches(batches)
    assert day.done["torn"] == 3
    assert found.num_rows == len(NOISE)
