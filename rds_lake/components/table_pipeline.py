"""`TablePipeline`: a table's YAML -> its assets, checks, schedule and sensor.

The convention: the component for the table `orders` makes the assets `orders_raw`, `orders_landing`, `orders_staging`,
`orders_discarded`, `orders_archived` and `orders_warehouse`, all in the group `orders`. What the YAML may say is
`rds_lake.spec.TableSpec`; this module only wires.
"""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from rds_lake.assets.archived import archived_asset
from rds_lake.assets.landing import landing_asset
from rds_lake.assets.raw import raw_asset
from rds_lake.assets.split import split_assets
from rds_lake.assets.warehouse import warehouse_asset
from rds_lake.automation import following_condition, landing_condition, observation_schedules, verification_job
from rds_lake.checks import table_checks
from rds_lake.sensors import landed_elsewhere_sensor
from rds_lake.spec import TableSpec


@dataclass
class TablePipeline(dg.Component):
    """One MySQL table, kept in step in the lake and in the warehouse.

    Attributes:
        spec: the table's YAML.
    """

    spec: TableSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model that the YAML's `attributes` are checked against, with file and line in each message."""
        return TableSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003 - Dagster's signature
        """The component for checked attributes."""
        return cls(TableSpec.model_validate(attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The table's definitions."""
        return table_definitions(self.spec)


def table_definitions(spec: TableSpec) -> dg.Definitions:
    """Everything that Dagster knows of one table."""
    following = following_condition()
    return dg.Definitions(
        assets=[
            raw_asset(spec),
            landing_asset(spec, landing_condition()),
            split_assets(spec, following),
            archived_asset(spec, following),
            warehouse_asset(spec, following),
        ],
        asset_checks=table_checks(spec),
        jobs=[verification_job(spec)],
        schedules=observation_schedules(spec),
        sensors=[landed_elsewhere_sensor(spec)],
    )
