"""What is no file's own fault: an object that may not be read, a full disk, a marker of a folder."""

import re
from collections.abc import Iterator

import pytest
from dropping import Drops
from rooms import Rooms

from rds_lake.errors import ConfigError, TransientError
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion
from rds_lake.lake.scratch import FullDiskError

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def drops(rooms: Rooms) -> Iterator[Drops]:
    made = Drops.zone(rooms.environ)
    made.schema("things", "id bigint", "name varchar(20)")
    made.run()
    yield made
    made.check_accounts("things")


def test_one_file_that_may_not_be_read_is_recorded_stays_and_stops_no_other(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FileStore.copy

    def copy(store: FileStore, version: FileVersion, target: str) -> FileVersion:
        if version.name == "secret.csv":
            raise ConfigError(f"AWS refused {version.url}: AccessDenied.", "Check the AWS credentials.")
        return plain(store, version, target)

    monkeypatch.setattr(FileStore, "copy", copy)
    secret = drops.drop("append", "things", "secret.csv", "1,a\n")
    good = drops.drop("append", "things", "good.csv", "2,b\n")
    drops.run()
    record = drops.record(secret)
    assert (record.status, record.moved_to) == ("failed", None)
    assert record.error == f"AWS refused {secret.url}: AccessDenied. See to it that it can be read, then drop it again."
    assert drops.record(good).status == "completed"
    assert drops.waiting() == [secret.key], "nobody could move it"
    assert drops.open_files() == []
    assert drops.run() == [], "it is finished"
    drops.s3.delete_object(Bucket=drops.bucket, Key=secret.key)


def test_a_full_temporary_folder_lets_files_wait(drops: Drops, monkeypatch: pytest.MonkeyPatch) -> None:
    version = drops.drop("append", "things", "waits.csv", "3,c\n")

    def full(*_: object, **__: object) -> None:
        raise FullDiskError("The temporary folder is full.", "Free space there.")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "fetch", full)
        with pytest.raises(TransientError, match="temporary folder is full"):
            drops.run()
    record = drops.record(version)
    assert (record.status, record.error) == ("processing", "The temporary folder is full. Free space there.")
    drops.expire(version)
    drops.run()
    assert drops.record(version).status == "completed"
    assert (3, "c") in drops.rows("things")


def test_with_a_wrong_password_of_the_warehouse_files_wait_and_none_is_said_to_have_failed(drops: Drops) -> None:
    url = drops.environ["RDS_LAKE_WAREHOUSE_URL"]
    wrong = re.sub(r"://([^:@/]*):[^@]*@", r"://\1:wrong@", url)
    assert wrong != url
    other = Drops({**drops.environ, "RDS_LAKE_WAREHOUSE_URL": wrong}, drops.spec)
    dropped = [drops.schema("others", "id bigint"), drops.drop("append", "others", "d.csv", "id\n4\n")]
    with pytest.raises(ConfigError, match="Check the user and the password in RDS_LAKE_WAREHOUSE_URL"):
        other.run()
    records = [drops.record(version) for version in dropped]
    assert [record.status for record in records] == ["processing", "processing"]
    assert all("password authentication failed" in (record.error or "") for record in records)
    drops.expire(*dropped)
    drops.run()
    assert [drops.record(version).status for version in dropped] == ["completed", "completed"]
    assert drops.rows("others", "id") == [(4,)]
    drops.check_accounts("others")


def test_a_marker_of_a_folder_is_no_file_and_an_object_without_a_name_is_refused(drops: Drops) -> None:
    key = f"{drops.database}/append/things/"
    drops.put(key, b"")
    assert drops.run() == []
    assert drops.waiting() == [key]
    drops.later()
    nameless = drops.put(key, b"5,e\n")
    drops.run()
    record = drops.record(nameless)
    assert record.status == "rejected"
    assert "names no file" in (record.error or "")
    assert drops.original(record) == b"5,e\n"
    assert drops.waiting() == []
