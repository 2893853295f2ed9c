"""How many requests a sync makes to AWS: a fixed number for what changed, and few for each partition of many."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import obstore
import pytest
from botocore.endpoint import Endpoint
from pipeline import World, order_rows

pytestmark = pytest.mark.stack

DAYS = 20

OF_A_PARTITION = {
    # its files: one is landed, one is staged, and one is discarded in three of four days of these orders
    "s3.PutObject": 3 + 5,  # and its manifests: in four stages, and landing's once more when it points at the archive
    "s3.CopyObject": 1,
    "s3.GetObject": 3,  # the split, and the checks of what was landed and what was staged
}

OF_A_FIRST_LOAD = {
    "s3.PutObject": 2,  # the agreed schema and the load's manifest
    "s3.GetObject": 7,
    "s3.ListObjectsV2": 31,
    "s3.DeleteObjects": 1,
    "glue": 17,
    "dynamodb.PutItem": 1,  # the audit log: that the table has records,
    "dynamodb.TransactWriteItems": 1,  # and the run's own
}

OF_ONE_ROW = {
    "s3.GetObject": 23,
    "s3.HeadObject": 6,
    "s3.ListObjectsV2": 10,
    "s3.PutObject": 9,
    "s3.CopyObject": 1,
    "s3.DeleteObjects": 1,
    "glue": 5 + 5,
    "dynamodb.PutItem": 1,
    "dynamodb.TransactWriteItems": 1,
}

OF_NOTHING = {"s3.GetObject": 1, "s3.ListObjectsV2": 7}


IN_ONE_REQUEST = {
    "get": "GetObject",
    "put": "PutObject",
    "head": "HeadObject",
    "copy": "CopyObject",
    "list": "ListObjectsV2",
    "delete": "DeleteObjects",
}
"""What obstore does by one request, as long as objects are small and listings short."""


@contextmanager
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The requests that are sent to AWS, by operation; those to Glue together."""
    sent: Counter[str] = Counter()
    real = Endpoint.make_request

    def counted(self: Any, model: Any, request: Any) -> Any:
        service = model.service_model.service_name
        sent[service if service == "glue" else f"{service}.{model.name}"] += 1
        return real(self, model, request)

    def counting(name: str, operation: str) -> None:
        plain = getattr(obstore, name)

        def call(*words: Any, **more: Any) -> Any:
            sent[f"s3.{operation}"] += 1
            return plain(*words, **more)

        patch.setattr(obstore, name, call)

    with monkeypatch.context() as patch:
        patch.setattr(Endpoint, "make_request", counted)
        for name, operation in IN_ONE_REQUEST.items():
            counting(name, operation)
        yield sent


def test_a_sync_asks_aws_for_what_it_does_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.orders("counted", rows=order_rows(DAYS * 20, DAYS))
    with requests(monkeypatch) as first:
        assert world.sync(spec).ok
    many = Counter({name: count * DAYS for name, count in OF_A_PARTITION.items()})
    assert first <= many + Counter(OF_A_FIRST_LOAD), first

    with requests(monkeypatch) as idle:
        assert world.sync(spec).partitions == 0
    assert idle <= Counter(OF_NOTHING), idle

    world.ask(f"UPDATE {spec.source_name} SET order_last_updated = order_last_updated + INTERVAL 1 SECOND LIMIT 1")
    with requests(monkeypatch) as one:
        assert world.sync(spec).partitions == 1
    assert one <= Counter(OF_ONE_ROW), one
    world.assert_in_step(spec)
