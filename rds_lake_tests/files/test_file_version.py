"""Versions of objects and the places that things about them have: one each, in the bucket's bounds, out of the way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded, open_store

from rds_lake.files.feed import FileFeed
from rds_lake.files.keeper import KEPT
from rds_lake.files.machine import Receiver, new_record, version_of
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.files.stage import DISCARDED, MANIFEST, PART
from rds_lake.files.store import FileStore
from rds_lake.files.version import KEY_BYTES, REPORT, FileVersion, Outcome, Place, plain_parts
from rds_lake.files.zone import DropZone

LANDED = datetime(2026, 11, 28, 10, 15, 30, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = ("processed", "failed", "staging", "discarded", "cleaned")
OURS = (REPORT, KEPT, MANIFEST, PART, DISCARDED)

AWS = {"AWS_ENDPOINT_URL": "http://nobody", "AWS_DEFAULT_REGION": "us-east-1"}
AWS |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
STORE = FileStore(None, open_store(AWS, "drops"))  # type: ignore[arg-type]


def nothing() -> None:
    raise AssertionError("a key alone needs no database")


ZONE = DropZone(DropZoneSpec(database="sales"), STORE, nothing)  # type: ignore[arg-type]
FEED = FileFeed(
    FileFeedSpec.model_validate(
        {"feed": "bank", "columns": [{"name": "id", "type": "int"}], "key": ["id"], "target": {"table": "t"}}
    ),
    STORE,
    nothing,  # type: ignore[arg-type]
)


def version(key: str = "sales/append/customers/a.csv", **more: object) -> FileVersion:
    given = {"bucket": "drops", "key": key, "etag": "abc", "size": 7, "landed_at": LANDED, **more}
    return FileVersion(**given)  # type: ignore[arg-type]


# --- what identifies a version ---------------------------------------------------------------------------------------


def test_an_event_and_a_listing_show_the_same_version():
    seen = version()
    assert seen.file_id == version(size=8).file_id
    assert seen.file_id == version(landed_at=LANDED.replace(microsecond=999_999)).file_id
    assert seen.file_id == version(landed_at=LANDED.astimezone(timezone(timedelta(hours=5, minutes=30)))).file_id
    assert len(seen.file_id) == 32
    assert set(seen.file_id) <= set("0123456789abcdef")


def test_any_other_version_has_another_id():
    others = [
        *(version(bucket="other"), version("sales/append/customers/b.csv"), version("sales/append/customers/A.csv")),
        *(
            version(etag="abd"),
            version(landed_at=LANDED + timedelta(seconds=1)),
            version(version_id="1"),
            version(version_id="2"),
        ),
        *(version("s", bucket="drop"), version(" sales/append/customers/a.csv"), version("drops", bucket="s")),
    ]
    ids = [version().file_id, *(other.file_id for other in others)]
    assert len(set(ids)) == len(ids)


def test_in_a_bucket_with_versions_the_version_alone_counts():
    one = version(version_id="v1")
    assert one.file_id == version(version_id="v1", etag="other", landed_at=LANDED + timedelta(days=1)).file_id
    assert one.file_id != version(version_id="v2").file_id


def test_versions_are_in_the_order_in_which_they_landed():
    early, late = version("b"), version("a", landed_at=LANDED + timedelta(seconds=1))
    assert early.order < late.order
    same = [version(name) for name in "abcdef"]
    assert sorted(same, key=lambda one: one.order) == sorted(same, key=lambda one: one.file_id)


def test_a_record_leads_back_to_its_version():
    for key in ("sales/append/customers/a b+c%20é🧀.csv", "sales/x", "sales//append/../customers/.."):
        made = version(key, version_id="v1")
        record = new_record(ZONE, made)
        assert record is not None
        assert version_of(record) == made


def test_a_version_has_a_name_and_an_address():
    assert version("a/b c/d e.csv").name == "d e.csv"
    assert version("a/b/").name == ""
    assert version("a").name == "a"
    assert version("a/b c.csv").url == "s3://drops/a/b c.csv"


# --- where things about it lie ---------------------------------------------------------------------------------------


def test_the_things_about_a_version_lie_below_one_folder_each():
    place = ZONE.place(version().key)
    assert place == Place("sales.customers", "append", "", "sales/append/customers/")
    shown = f"20261128T101530-{version().file_id[:12]}"
    assert place.prefix("staging", version()) == f"staging/sales/append/customers/{shown}/"
    assert place.file("processed", version()) == f"processed/sales/append/customers/{shown}/a.csv"
    feed, dropped = FEED.place("bank/source/a.csv"), version("bank/source/a.csv")
    assert feed == Place("bank", "upsert", "bank/", "")
    assert feed.file("failed", dropped) == f"bank/failed/20261128T101530-{dropped.file_id[:12]}/a.csv"


def test_the_place_is_the_same_in_every_time_zone():
    place = Place("sales.customers", "append", "", "sales/append/customers/")
    moved = version(landed_at=LANDED.astimezone(timezone(-timedelta(hours=8))))
    assert place.prefix("staging", moved) == place.prefix("staging", version())


@pytest.mark.parametrize("name", ["", ".", "..", REPORT])
def test_a_file_whose_name_is_one_of_ours_gets_another_one(name):
    place = ZONE.place(f"sales/append/customers/{name or 'x'}")
    assert place is not None
    dropped = version(f"sales/append/customers/{name}")
    prefix = place.prefix("processed", dropped)
    assert place.file("processed", dropped) == prefix + ("_report.json" if name == REPORT else "file")


HARD = [
    "a",
    " ",
    ".",
    "..",
    "",
    "é",
    "🧀",
    "a b",
    "%2F",
    "\\",
    "\t",
    "sales",
    "append",
    "customers",
    "staging",
    "processed",
    "report.json",
]
STARTS = ["sales/append/customers/", "sales/append/", "sales/", "bank/source/", "bank/source/x/"]
parts = st.sampled_from(HARD) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=8)
keys = st.one_of(
    st.lists(parts, max_size=9).map("/".join),
    st.tuples(st.sampled_from(STARTS), parts).map("".join),
    st.tuples(
        st.sampled_from(STARTS),
        st.sampled_from(["a", "é", "🧀", "a/", "é/", "../", "//", "🧀🧀🧀/", "x" * 200 + "/"]),
        st.integers(1, 1024),
        st.sampled_from(["", ".csv", ".csv.gz", "/a.csv", "é.csv", "." + "x" * 300]),
    ).map(lambda made: made[0] + made[1] * made[2] + made[3]),
)


def cut_to_a_key(text: str) -> str:
    return text.encode()[:KEY_BYTES].decode(errors="ignore")


@given(keys.map(cut_to_a_key), st.sampled_from([ZONE, FEED]))
@bounded(800)
def test_every_key_that_s3_knows_has_places_that_s3_knows(key, receiver: Receiver):
    place = receiver.place(key)
    if place is None:
        assert not key.startswith(receiver.prefixes()[0]) or key.endswith("/")
        return
    made = version(key)
    for outcome in OUTCOMES:
        prefix = place.prefix(outcome, made)
        for target in (place.file(outcome, made), *(prefix + name for name in OURS)):
            assert len(target.encode()) <= KEY_BYTES
            assert target.startswith(prefix)
            assert not {"", ".", ".."} & set(target.split("/"))
            assert all(not target.startswith(other) for one in (ZONE, FEED) for other in one.prefixes())
            assert ZONE.place(target) is None
            assert FEED.place(target) is None
        assert place.file(outcome, made) != prefix + REPORT
        assert prefix == place.prefix(outcome, replace(made, size=made.size + 1))
        assert prefix.count(made.file_id[:12]) == 1


@given(st.lists(keys.map(cut_to_a_key), min_size=2, max_size=2, unique=True), st.sampled_from(OUTCOMES))
@bounded(200)
def test_no_two_versions_share_a_folder(made, outcome):
    found = [(ZONE.place(key) or FEED.place(key), version(key)) for key in made]
    prefixes = [place.prefix(outcome, one) for place, one in found if place is not None]
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize(("letter", "suffix"), [*product(["a", "é", "🧀"], [".csv", ".csv.gz", ".parquet", ""])])
def test_a_name_that_is_too_long_keeps_its_end(letter, suffix):
    stem = "sales/append/customers/"
    name = letter * ((KEY_BYTES - len(stem) - len(suffix)) // len(letter.encode())) + suffix
    made = version(stem + name)
    place = ZONE.place(made.key)
    assert place is not None
    target = place.file("processed", made)
    assert KEY_BYTES - 8 <= len(target.encode()) <= KEY_BYTES
    assert target.endswith(suffix)
    assert "~" in target
    assert place.file("processed", version(stem + "a~b.csv")).endswith("/a~b.csv")


def test_keys_of_ordinary_length_are_not_cut():
    folder = "sales/" + "x" * 200 + "/" + "y" * 200 + "/"
    place = Place("sales", "unknown", "", folder)
    made = version(folder + "z" * 255)
    assert place.file("discarded", made).startswith(f"discarded/{folder}")
    assert place.file("discarded", made).endswith(f"/{'z' * 255}")


def test_what_leads_elsewhere_in_a_key_is_no_folder_of_ours():
    assert plain_parts("sales//append/../customers/./a..b/.../x") == [
        "sales",
        "_",
        "append",
        "_",
        "customers",
        "_",
        "a..b",
        "...",
        "x",
    ]
    assert plain_parts("a\x00b/\x1f/\x7f ") == ["a_b", "_", "_ "]
    place = ZONE.place("sales/../schemas/sales/customers.json")
    assert place == Place("sales", "unknown", "", "sales/_/schemas/sales/")
