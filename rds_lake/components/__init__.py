"""Components: the types that a `defs.yaml` may name."""

from rds_lake.components.drop_zone import DropZone
from rds_lake.components.file_feed import FileFeed
from rds_lake.components.table_pipeline import TablePipeline

__all__ = ["DropZone", "FileFeed", "TablePipeline"]
