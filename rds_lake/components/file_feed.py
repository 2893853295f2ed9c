"""`FileFeed`: files in `source/` -> checked, cleaned, and put into a table of PostgreSQL on RDS.

What the YAML may say is `rds_lake.files.spec.FileFeedSpec`; this module only wires.
"""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from rds_lake.assets.files import receiver_assets
from rds_lake.automation import automation_is_on
from rds_lake.file_sensors import receiver_job, receiver_sensors
from rds_lake.files.spec import FileFeedSpec


@dataclass
class FileFeed(dg.Component):
    """Files of one form that come again and again, to be cleaned and put into a table.

    Attributes:
        spec: the feed's YAML.
    """

    spec: FileFeedSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model that the YAML's `attributes` are checked against, with file and line in each message."""
        return FileFeedSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003 - Dagster's signature
        """The component for checked attributes."""
        return cls(FileFeedSpec.model_validate(attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The feed's definitions."""
        spec = self.spec
        assets = receiver_assets(spec)
        job = receiver_job(spec, assets)
        schedule = dg.ScheduleDefinition(
            name=f"{spec.name}_files_schedule",
            job=job,
            cron_schedule=spec.schedule,
            description=f"Handles all files of {spec.name} that wait ({spec.schedule}, UTC).",
            default_status=dg.DefaultScheduleStatus.RUNNING if automation_is_on() else dg.DefaultScheduleStatus.STOPPED,
        )
        return dg.Definitions(assets=[assets], jobs=[job], schedules=[schedule], sensors=receiver_sensors(spec))
