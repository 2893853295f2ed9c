"""The runs of table pipelines in the audit log."""

import pytest
from pipeline import DAYS, World, order_rows

from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.spec import TableSpec


def records(world: World, spec: TableSpec) -> list[Record]:
    """The audit log's records of a table, newest first."""
    return list(AuditLog(world.client("dynamodb"), "S3_Audit_1").records(spec.table).records)


def test_a_sync_is_one_record_with_its_counts(world: World) -> None:
    spec = world.orders("audited", rows=[*order_rows(200, DAYS), (9001, "2024-01-02", 7, "NO SUCH STATUS")])
    synced = world.sync(spec)
    assert synced.ok
    [record] = records(world, spec)
    assert (record.status, record.action, record.error) == ("completed", "sync", None)
    assert (record.rows_read, record.rows_loaded, record.rows_discarded) == (
        synced.rows["landing"],
        synced.rows["warehouse"],
        synced.rows["discarded"],
    )
    assert record.rows_read == record.rows_loaded + record.rows_discarded
    assert record.run_id
    assert record.started_at
    assert record.ended_at
    assert record.started_at <= record.ended_at
    assert spec.table in AuditLog(world.client("dynamodb"), "S3_Audit_1").tables()

    assert world.sync(spec).partitions == 0
    assert len(records(world, spec)) == 1, "a sync without news is no run"


def test_a_sync_that_fails_is_a_record_that_says_why(world: World) -> None:
    spec = world.orders("audited_failure", rows=order_rows(20, 2))
    world.query(f"CREATE TABLE public.{spec.warehouse_name} (order_id BOOLEAN)")
    assert not world.sync(spec).ok
    [record] = records(world, spec)
    assert record.status == "failed"
    assert record.error
    assert "order_id of the warehouse table" in record.error

    world.query(f"DROP TABLE public.{spec.warehouse_name}")
    assert world.sync(spec).ok
    assert [found.status for found in records(world, spec)] == ["completed", "failed"]


def test_a_run_that_a_check_blocks_is_a_record_that_names_the_check(world: World) -> None:
    coin = [{"rule": "sql", "name": "coin", "where": "random() < 0.9"}]
    spec = world.orders("audited_coin", rules=coin)
    assert not world.sync(spec).ok
    [record] = records(world, spec)
    assert (record.status, record.error) == ("failed", "Checks that block failed: coin.")


def test_a_sync_goes_on_without_the_audit_log_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.orders("unaudited", rows=order_rows(20, 2))
    monkeypatch.setenv("RDS_LAKE_AUDIT_TABLE", "NoSuchTable")
    assert world.sync(spec).ok
    assert records(world, spec) == []
    run = world.instance.get_runs(limit=1)[0]
    said = [entry.user_message for entry in world.instance.all_logs(run.run_id)]
    assert any("is not in the audit log" in text and "rds-lake files setup" in text for text in said)


def test_a_sync_asks_nothing_of_an_audit_log_that_is_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.orders("off", rows=order_rows(20, 2))
    monkeypatch.setenv("RDS_LAKE_AUDIT_TABLE", "off")
    assert world.sync(spec).ok
    assert records(world, spec) == []
