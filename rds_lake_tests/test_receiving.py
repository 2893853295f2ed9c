"""Drop zones and feeds of a code location, and the command that puts files into them."""

from pathlib import Path

import pytest

from rds_lake.assets.files import claim_of, claim_text
from rds_lake.definitions import defs
from rds_lake.errors import ConfigError, SpecError
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.receiving import choose_receivers, drop, receiver_specs, refuse_shared_folders


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
    refuse_shared_folders([zone, feed("sales_feed"), DropZoneSpec(database="sales2")])
    refuse_shared_folders([zone, feed("own", prefix="sales/x", bucket="another")])
    for other in (feed("sales"), feed("below", prefix="sales/append")):
        with pytest.raises(SpecError, match="which lies in the folder sales/ of sales"):
            refuse_shared_folders([zone, other])


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("nowhere", None, None), "no drop zone or feed 'nowhere'"),
        (("supply", None, "append"), "needs a table and an action"),
        (("supply", "suppliers", None), r"Give --table, and --action append\|truncate\|schema"),
        (("supply", "suppliers", "delete"), "needs a table and an action"),
        (("transactions", "t", None), "neither tables nor actions"),
    ],
)
def test_a_file_is_dropped_into_places_only_that_there_are(
    place: tuple[str, str | None, str | None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_LAKE_DROP_BUCKET", "drop")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    file = tmp_path / "a.csv"
    file.write_text("1\n")
    with pytest.raises((SpecError, ConfigError), match=said):
        drop(receiver_specs(defs), file, *place)


def test_a_file_that_is_not_there_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDS_LAKE_DROP_BUCKET", "drop")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(ConfigError, match="There is no file"):
        drop(receiver_specs(defs), tmp_path / "no.csv", "supply", "suppliers", "append")


def test_a_claim_is_the_same_after_it_stood_in_the_configuration_of_a_run() -> None:
    from datetime import UTC, datetime

    from rds_lake.audit_log.record import Record

    record = Record("t", "f" * 32, "a.csv", "append", "processing", datetime.now(UTC), lease_until=datetime.now(UTC))
    assert claim_of(claim_text(record)) == record
