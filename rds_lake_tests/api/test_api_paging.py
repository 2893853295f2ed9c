"""Ten thousand records, paged through while others are written."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count

import pytest
from api_harness import Client, keyed, new_log, record_of, serving, write
from figures import FIGURES
from rooms import Rooms

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import STATUSES, Record

pytestmark = [pytest.mark.stack, pytest.mark.slow]

RECORDS = 10_000
AT_ONCE = 7
"""Records of one moment: pages end in the middle of such a group."""


@pytest.fixture(scope="module")
def log(rooms: Rooms) -> AuditLog:
    return new_log(rooms)


@pytest.fixture(scope="module")
def old(rooms: Rooms, log: AuditLog) -> list[Record]:
    first = record_of(0)
    records = [
        record_of(
            number,
            status=STATUSES[number % len(STATUSES)],
            landed_at=first.landed_at + timedelta(seconds=number // AT_ONCE),
        )
        for number in range(RECORDS)
    ]
    write(rooms.client("dynamodb"), log, records)
    return records


@pytest.fixture(scope="module")
def client(log: AuditLog) -> Iterator[Client]:
    with serving(keyed(log)) as served:
        yield served


@pytest.fixture
def writer(rooms: Rooms, log: AuditLog, old: list[Record]) -> Iterator[list[Record]]:
    """Writes at the head, as fast as it can, until the test is over; what it has written."""
    written: list[Record] = []
    over = threading.Event()
    mine = AuditLog(rooms.client("dynamodb"), log.name)

    def run() -> None:
        for number in count(RECORDS + int(time.time() * 1000) % 10**9):
            if over.is_set():
                return
            claimed = mine.claim(record_of(number))
            assert claimed is not None
            written.append(mine.finish(claimed, "failed"))

    thread = threading.Thread(target=run)
    thread.start()
    yield written
    over.set()
    thread.join()
    assert written


@pytest.mark.parametrize("status", [None, "failed"])
@pytest.mark.parametrize("limit", [997])
def test_paging_shows_each_record_once_and_newest_first_while_others_are_written(
    client: Client,
    old: list[Record],
    writer: list[Record],
    status: str | None,
    limit: int,
    record_property: Callable[[str, object], None],
) -> None:
    asked = {"table_name": "sales.customers", "limit": limit, **({"status": status} if status else {})}
    before, started = len(writer), time.monotonic()
    pages = list(client.pages("/logs", **asked))
    took, meanwhile = time.monotonic() - started, len(writer) - before

    shown = [record for page in pages for record in page["records"]]
    ids = [record["file_id"] for record in shown]
    expected = {record.file_id for record in old if status in {None, record.status}}
    assert len(ids) == len(set(ids)), "a record was shown twice"
    assert expected <= set(ids), "a record was left out"
    order = [(record["landed_timestamp"], record["file_id"]) for record in shown]
    assert order == sorted(order, reverse=True)
    assert all(len(page["records"]) == limit for page in pages[:-1])
    assert meanwhile > 0, "nothing was written meanwhile"
    record_property(
        FIGURES,
        f"api: {len(ids):,} records of {RECORDS:,} (status {status}) in {len(pages)} pages of {limit} in {took:.2f} s, "
        f"{meanwhile} written meanwhile",
    )


def test_pages_of_a_span_hold_only_that_span(client: Client, old: list[Record]) -> None:
    first, last = old[700].landed_at, old[6999].landed_at
    given = {"landed_from": first.isoformat(), "landed_to": last.isoformat()}
    pages = list(client.pages("/logs", table_name="sales.customers", limit=1000, **given))
    ids = [record["file_id"] for page in pages for record in page["records"]]
    assert ids == [
        record.file_id
        for record in sorted(old, key=lambda record: record.landed_key, reverse=True)
        if first <= record.landed_at <= last
    ]
    assert len(ids) == 6300
