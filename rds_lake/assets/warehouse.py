"""`<table>_warehouse`: the table in Redshift, loaded from staging."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue

from rds_lake.assets.audited import failure_recorded, record_load
from rds_lake.assets.common import (
    IN_ONE_RUN,
    WAREHOUSE_POOL,
    Condition,
    asset_options,
    column_lineage,
    column_schema,
    failures,
    partitions_of,
)
from rds_lake.errors import PermanentError
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import LOADED_FROM, Committed, Manifest, Manifests, lake_state, unaccounted
from rds_lake.resources.services import AuditResource, LakeResource, ProgressResource, WarehouseResource
from rds_lake.spec import Stage, TableSpec
from rds_lake.warehouse.load import load

SHOWN_SQL = 600
"""Characters of a statement that the UI shows; the ledger's INSERT grows with the partitions."""


def warehouse_asset(spec: TableSpec, condition: Condition) -> dg.AssetsDefinition:
    """The warehouse asset of a table."""
    name = spec.asset("warehouse")

    @dg.asset(
        name=name,
        # The archive first: `sync` trusts the ledger, and an emptied partition leaves no file in `landing` to tell by.
        deps=[spec.asset("staging"), spec.asset("archived")],
        backfill_policy=IN_ONE_RUN,
        **asset_options(spec, "warehouse", condition),
        pool=WAREHOUSE_POOL,
    )
    def load_table(
        context: AssetExecutionContext,
        lake: LakeResource,
        warehouse: WarehouseResource,
        progress: ProgressResource,
        audit: AuditResource,
    ) -> None:
        partitions = partitions_of(context, spec)
        with failures(), failure_recorded(context, audit, spec):
            manifests = Manifests(lake.store(), TableKeys.of(spec))
            staged, states, discarded = accounted_batches(manifests, partitions)
            done = load(warehouse.warehouse(), lake.store(), spec, staged, context.log.warning, states=states)
        valid = sum(manifest.rows for manifest in staged)
        loaded = sum(done.rows.values())
        record_load(context, audit, spec, read=valid + discarded, loaded=loaded, discarded=discarded)
        for line in done.migrated:
            context.log.warning(f"The warehouse table {spec.warehouse_name} was altered: {line}.")
        progress.of(name, len(partitions))(len(partitions))
        context.log.info(f"Loaded {loaded:,} rows into {spec.warehouse_name} in one transaction.")
        last = max(manifest.partition for manifest in staged)
        for manifest in staged:
            rows = done.rows[manifest.partition]
            count = "dagster/partition_row_count" if spec.partitioning else "dagster/row_count"
            facts: dict[str, Any] = {
                count: rows,
                "rows": rows,
                "rows staged": manifest.rows,
                "batch": manifest.batch,
            }
            if manifest.partition == last:
                if done.migrated:
                    facts["schema changes"] = MetadataValue.md("\n".join(f"- {text}" for text in done.migrated))
                facts["copied from"] = done.manifest or "nothing to copy"
                facts["sql"] = MetadataValue.md(f"```sql\n{_shown(done.statements)}\n```")
                facts["dagster/column_schema"] = column_schema(spec, manifest.columns)
                facts["dagster/column_lineage"] = column_lineage(spec, "warehouse", manifest.columns)
            context.add_asset_metadata(facts, partition_key=manifest.partition if spec.partitioning else None)

    return load_table


def accounted_batches(manifests: Manifests, partitions: Sequence[str]) -> tuple[list[Manifest], dict[str, str], int]:
    """The staging batches of some partitions, provided that they account for every landed row.

    With them, by partition, the state of the lake that they belong to: the ledger keeps it, so that a sync sees when
    the lake has moved on without the warehouse. At last, how many of the landed rows were discarded.

    The blocking check says the same, but only to its own run; a load that is asked for alone must not slip past it.

    Raises:
        PermanentError: a partition has no staging batch, or its batches do not add up.
    """
    found: dict[Stage, dict[str, Committed]] = {"staging": manifests.require_all("staging", partitions)}
    found |= {stage: manifests.read_all(stage, partitions) for stage in LOADED_FROM if stage != "staging"}
    landed, staged, discarded = ({key: item.manifest for key, item in found[stage].items()} for stage in LOADED_FROM)
    if bad := unaccounted(landed, staged, discarded):
        table = staged[bad[0]].table
        raise PermanentError(
            f"{table}: the partition {bad[0]} is not accounted for: its landed rows are not all staged or discarded.",
            f"Materialise {table}_staging for it again, then load it.",
        )
    states = {key: lake_state(found[stage][key].etag for stage in LOADED_FROM) for key in partitions if key in landed}
    return list(staged.values()), states, sum(discarded[key].rows for key in landed)


def _shown(statements: Sequence[str]) -> str:
    cut = [text if len(text) <= SHOWN_SQL else f"{text[:SHOWN_SQL]} ..." for text in statements]
    return ";\n".join(cut) + ";"
