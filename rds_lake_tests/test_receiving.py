"""Drop zones and feeds of a code location, and the command that puts files into them."""

from pathlib import Path

import dagster as dg
import pytest
from pipeline import project
from rooms import Rooms

from rds_lake.assembly import build_definitions
from rds_lake.assets.files import claim_of, claim_text, receiver_assets
from rds_lake.cli import main
from rds_lake.definitions import defs
from rds_lake.errors import ConfigError, SpecError
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.local.stack import Stack
from rds_lake.receiving import (
    AlreadyWaitingError,
    Received,
    choose_receivers,
    drop,
    only_misconfigured,
    receiver_specs,
    refuse_disputes,
    set_up,
)
from rds_lake.resources.files import FilesResource

NOBODY = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
"""What it takes to name objects without asking for any."""


def feed(name: str, **more: object) -> FileFeedSpec:
    given = {"feed": name, "key": ["id"], "columns": [{"name": "id", "type": "bigint"}], "target": {"table": "t"}}
    return FileFeedSpec.model_validate({**given, **more})


def test_the_projects_drop_zones_and_feeds_are_found() -> None:
    specs = receiver_specs(defs)
    assert {name: type(spec) for name, spec in specs.items()} == {
        "supply": DropZoneSpec,
        "transactions": FileFeedSpec,
    }
    assert choose_receivers(specs, []) == list(specs.values())
    with pytest.raises(SpecError, match=r"no drop zone or feed 'x' \(there are: supply, transactions\)"):
        choose_receivers(specs, ["x"])


def test_two_that_would_take_the_same_files_are_refused() -> None:
    zone = DropZoneSpec(database="sales")
    refuse_disputes([zone, feed("sales_feed"), DropZoneSpec(database="sales2")], {})
    refuse_disputes([zone, feed("own", prefix="sales/x", bucket="another")], {})
    for other in (feed("own", prefix="sales"), feed("below", prefix="sales/append")):
        with pytest.raises(SpecError, match=r"which lies in the folder sales/ of (sales|own)"):
            refuse_disputes([zone, other], {})


def test_a_bucket_is_the_same_whether_the_yaml_or_the_environment_names_it() -> None:
    zone, other = DropZoneSpec(database="sales"), feed("own", prefix="sales/x", bucket="drop")
    for environ in ({}, {"RDS_LAKE_DROP_BUCKET": ""}, {"RDS_LAKE_DROP_BUCKET": "another"}):
        refuse_disputes([zone, other], environ)
    with pytest.raises(SpecError, match="own takes files below sales/x/, which lies in the folder sales/ of sales"):
        refuse_disputes([zone, other], {"RDS_LAKE_DROP_BUCKET": "drop"})


@pytest.mark.parametrize("name", ["sales", "Sales"])
def test_two_of_one_name_are_refused(name: str) -> None:
    for other in (feed(name, prefix="elsewhere"), DropZoneSpec(database=name, bucket="another")):
        with pytest.raises(SpecError, match=r"Two drop zones or feeds are called (S|s)ales"):
            refuse_disputes([DropZoneSpec(database="sales"), other], {})


def test_two_with_one_queue_are_refused() -> None:
    with pytest.raises(SpecError, match=r"own and sales have the same queue, rds_lake_sales|sales and own have"):
        refuse_disputes([DropZoneSpec(database="sales"), feed("own", queue="rds_lake_sales")], {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DropZoneSpec(database="a", schema="shared"), DropZoneSpec(database="b", schema="shared")),
        (DropZoneSpec(database="a", bucket="x"), DropZoneSpec(database="b", bucket="y", schema="A")),
    ],
)
def test_two_drop_zones_that_load_one_schema_are_refused(one: DropZoneSpec, other: DropZoneSpec) -> None:
    with pytest.raises(SpecError, match=r"(a and b|b and a) load the same schema, (shared|a): .*another schema\."):
        refuse_disputes([one, other], {"RDS_LAKE_DROP_BUCKET": "drop"})


def test_two_feeds_into_one_table_are_refused_and_those_into_others_are_not() -> None:
    def into(name: str, **target: str) -> FileFeedSpec:
        return feed(name, target={"table": "t", **target})

    with pytest.raises(SpecError, match=r"(a and b|b and a) load the same table, public\.t: .*another target\."):
        refuse_disputes([into("a"), into("b", schema="public")], {})
    for other in (into("b", schema="other"), into("b", table="u"), DropZoneSpec(database="b", schema="t")):
        refuse_disputes([into("a"), other], {})


@pytest.mark.parametrize("bucket", [None, "lake"])
def test_one_that_would_take_the_lakes_own_objects_is_refused(
    bucket: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DropZoneSpec(database="orders", bucket=bucket)
    environ = {"RDS_LAKE_BUCKET": "lake", "RDS_LAKE_DROP_BUCKET": "drop" if bucket else "lake"}
    with pytest.raises(SpecError, match=r"orders takes files in the bucket lake, which is that of the lake"):
        refuse_disputes([spec], environ)
    refuse_disputes([spec], {**environ, "RDS_LAKE_BUCKET": "another"})
    for name, value in {**environ, **NOBODY}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"the bucket lake, which is that of the lake \(RDS_LAKE_BUCKET\)"):
        FilesResource().receiver(spec)
    with pytest.raises(SpecError, match="which is that of the lake"):
        receiver_specs(dg.Definitions(assets=[receiver_assets(spec)]))
    monkeypatch.delenv("RDS_LAKE_BUCKET")
    assert FilesResource().receiver(spec).name == "orders"


ZONE = "type: rds_lake.components.DropZone\nattributes: {{ database: {database}, bucket: {bucket} }}\n"
FEED = """type: rds_lake.components.FileFeed
attributes:
  {{ feed: {feed}, prefix: {prefix}, bucket: {bucket}, key: [id], columns: [{{ name: id, type: bigint }}],
     target: {{ table: t }} }}
"""


@pytest.mark.parametrize(
    ("feed", "prefix", "said"),
    [("sales", "own", "Two drop zones or feeds are called"), ("own", "sales/x", "which lies in the folder sales/")],
)
def test_a_code_location_does_not_load_with_two_that_are_in_each_others_way(
    feed: str, prefix: str, said: str, tmp_path: Path
) -> None:
    yaml = {
        "zone": ZONE.format(database="sales", bucket="b"),
        "feed": FEED.format(feed=feed, prefix=prefix, bucket="b"),
    }
    with project(tmp_path, yaml) as folder, pytest.raises(SpecError, match=said):
        build_definitions(folder)


def test_a_code_location_loads_without_any_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RDS_LAKE_BUCKET", "RDS_LAKE_DROP_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    yaml = {"zone": ZONE.format(database="sales", bucket="b"), "feed": FEED.format(feed="own", prefix="x", bucket="b")}
    with project(tmp_path, yaml) as folder:
        assert list(receiver_specs(build_definitions(folder))) == ["own", "sales"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("nowhere", None, None), "no drop zone or feed 'nowhere'"),
        (("supply", None, "append"), "needs a table and an action"),
        (("supply", "suppliers", None), r"Give --table, and --action append\|truncate\|schema"),
        (("supply", "suppliers", "delete"), "needs a table and an action"),
        (("transactions", "t", None), "neither tables nor actions"),
        *((("supply", name, "append"), "is no name for a table") for name in ("a b", "1a", "a/b", "../x", "t" * 128)),
    ],
)
def test_a_file_is_dropped_into_places_only_that_there_are(
    place: tuple[str, str | None, str | None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**NOBODY, "RDS_LAKE_DROP_BUCKET": "drop"}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "a.csv"
    file.write_text("1\n")
    with pytest.raises((SpecError, ConfigError), match=said):
        drop(receiver_specs(defs), file, *place)


def test_a_file_that_is_not_there_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**NOBODY, "RDS_LAKE_DROP_BUCKET": "drop"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="There is no file"):
        drop(receiver_specs(defs), tmp_path / "no.csv", "supply", "suppliers", "append")


class Bucket:
    """The bucket of the project's drop zone and feed, of the stack."""

    def __init__(self, rooms: Rooms) -> None:
        self.s3, self.name = rooms.client("s3"), f"drop-{rooms.name('')}"
        self.s3.create_bucket(Bucket=self.name)

    def body(self, key: str) -> bytes:
        found: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        return found


@pytest.fixture
def bucket(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    rooms = Rooms.of(stack)
    made = Bucket(rooms)
    for name, value in {**rooms.environ, "RDS_LAKE_DROP_BUCKET": made.name}.items():
        monkeypatch.setenv(name, value)
    return made


PLACES = [
    (("supply", "suppliers", "append"), "supply/append/suppliers/a.csv"),
    (("supply", "Suppliers", "schema"), "supply/schema/Suppliers/a.csv"),
    (("transactions", None, None), "transactions/source/a.csv"),
]


@pytest.mark.stack
@pytest.mark.parametrize("size", [3, 8 * 1024**2 + 1])
@pytest.mark.parametrize(("place", "key"), PLACES)
def test_a_file_that_waits_is_not_overwritten(
    place: tuple[str, str | None, str | None], key: str, size: int, bucket: Bucket, tmp_path: Path
) -> None:
    specs, file = receiver_specs(defs), tmp_path / "a.csv"
    file.write_bytes(b"1" * size)
    assert drop(specs, file, *place) == f"s3://{bucket.name}/{key}"
    for content in (b"2" * size, b"1" * size):
        file.write_bytes(content)
        with pytest.raises(AlreadyWaitingError, match=r"is waiting there already\..*rds-lake receive.*another name"):
            drop(specs, file, *place)
        assert bucket.body(key) == b"1" * size
    bucket.s3.delete_object(Bucket=bucket.name, Key=key)  # it has been received
    assert drop(specs, file, *place)
    assert bucket.body(key) == b"1" * size


@pytest.mark.stack
def test_the_command_says_2_for_a_place_or_a_name_that_is_taken(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1\n")

    def said(table: str) -> tuple[int, str]:
        argv = ["rds-lake", "drop", str(file), "--db", "supply", "--table", table, "--action", "append"]
        monkeypatch.setattr("sys.argv", argv)
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    assert said("suppliers")[0] == 0
    code, text = said("suppliers")
    assert code == 2
    assert text == (
        f"error: s3://{bucket.name}/supply/append/suppliers/a.csv is waiting there already. "
        "Run 'rds-lake receive' first, or give the file another name.\n"
    )
    code, text = said("two words")
    assert (code, "'two words' is no name for a table" in text) == (2, True)
    assert bucket.s3.list_objects_v2(Bucket=bucket.name)["KeyCount"] == 1


def test_files_that_wait_are_told_of_by_their_reasons_in_a_few_lines() -> None:
    from datetime import UTC, datetime, timedelta

    from rds_lake.audit_log.record import Record
    from rds_lake.receiving import waiting_told

    now = datetime(2026, 11, 20, 10, tzinfo=UTC)

    def held(number: int, error: str | None, run: str | None = None) -> Record:
        landed = now + timedelta(seconds=number)
        until = now + timedelta(minutes=number)
        name = f"{number}.csv"
        return Record("t", name, name, "append", "processing", landed, lease_until=until, error=error, run_id=run)

    runs = {"on": True, "over": False, "elsewhere": None}
    assert waiting_told([], runs) == []
    assert waiting_told([held(2, "It is away.", "over"), held(1, "It is away.", "over")], runs) == [
        "2 files wait until 2026-11-20 10:02:00 UTC (1.csv, 2.csv): It is away."
    ]
    [busy] = waiting_told([held(1, "An old error.", "on"), held(2, None), held(3, None, "elsewhere")], runs)
    assert busy == (
        "3 files are worked on (1.csv, 2.csv, 3.csv); if the worker has died, they can be taken over from 2026-11-20 "
        "10:03:00 UTC on."
    )
    assert waiting_told([held(1, None, "over"), held(2, "Away.", "elsewhere")], runs) == [
        "1 file waits until 2026-11-20 10:01:00 UTC (1.csv): Its worker has ended without a word.",
        "1 file waits until 2026-11-20 10:02:00 UTC (2.csv): Away.",
    ]
    many = waiting_told([held(number, f"Reason {number}.") for number in range(100)], runs)
    assert len(many) == 6
    assert many[-1] == "95 more files for other reasons; the audit log has them."


def test_a_wrong_setting_counts_as_one_only_if_nothing_else_went_wrong() -> None:
    wrong, good = Received("a", failed=["No bucket."], misconfigured=True), Received("b")
    waiting, failed = Received("c", waiting=["1 file waits."]), Received("d", failed=["It is away."])
    also_failed = Received("e", failed=["No bucket.", "It is away."], misconfigured=True)
    also_waiting = Received("f", failed=["No bucket."], misconfigured=True, waiting=["1 file waits."])
    assert [each.ok for each in (wrong, good, waiting, failed)] == [False, True, False, False]
    assert only_misconfigured([wrong, good])
    for others in ([], [good], [wrong, waiting], [wrong, failed], [also_failed], [also_waiting]):
        assert not only_misconfigured(others)


@pytest.mark.stack
def test_one_that_cannot_be_asked_does_not_keep_the_others_from_their_files(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rds_lake import cli

    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("RDS_LAKE_AUDIT_TABLE", f"audit_{bucket.name.replace('-', '_')}")
    specs = receiver_specs(defs)
    list(set_up(list(specs.values()), FilesResource()))
    gone = {**specs, "supply": specs["supply"].model_copy(update={"bucket": "a-bucket-that-is-not-there"})}
    monkeypatch.setattr(cli, "_load_receivers", lambda: (defs, gone))
    assert cli._receive([]) == 2
    text = capsys.readouterr().out
    assert "error supply: The bucket of s3://a-bucket-that-is-not-there/" in text
    assert "Nothing new" not in text
    bucket.s3.put_object(Bucket=bucket.name, Key="transactions/source/empty.csv", Body=b"")
    assert cli._receive([]) == 1
    assert "empty.csv is empty" in capsys.readouterr().out
    monkeypatch.setattr(cli, "_load_receivers", lambda: (defs, specs))
    assert cli._receive([]) == 0
    assert "Nothing new has been dropped." in capsys.readouterr().out


def test_a_claim_is_the_same_after_it_stood_in_the_configuration_of_a_run() -> None:
    from datetime import UTC, datetime

    from rds_lake.audit_log.record import Record

    record = Record("t", "f" * 32, "a.csv", "append", "processing", datetime.now(UTC), lease_until=datetime.now(UTC))
    assert claim_of(claim_text(record)) == record
