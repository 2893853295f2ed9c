"""Components: the types that a `defs.yaml` may name."""

from rds_lake.components.table_pipeline import TablePipeline

__all__ = ["TablePipeline"]
