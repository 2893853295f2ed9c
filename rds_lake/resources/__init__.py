"""Dagster resources: they hand out the objects of the rooms above, and keep Dagster out of those."""
