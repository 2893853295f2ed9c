"""`DropZone`: files below `s3://<bucket>/<database>/<action>/<table>/` -> tables in Redshift, their assets and sensors.

What the YAML may say is `rds_lake.files.spec.DropZoneSpec`; this module only wires.
"""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from rds_lake.assets.files import receiver_assets
from rds_lake.file_sensors import receiver_job, receiver_sensors
from rds_lake.files.spec import DropZoneSpec


@dataclass
class DropZone(dg.Component):
    """A place in S3 that files are dropped into, to be loaded into Redshift.

    Attributes:
        spec: the drop zone's YAML.
    """

    spec: DropZoneSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model that the YAML's `attributes` are checked against, with file and line in each message."""
        return DropZoneSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003 - Dagster's signature
        """The component for checked attributes."""
        return cls(DropZoneSpec.model_validate(attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The drop zone's definitions."""
        assets = receiver_assets(self.spec)
        return dg.Definitions(
            assets=[assets], jobs=[receiver_job(self.spec, assets)], sensors=receiver_sensors(self.spec)
        )
