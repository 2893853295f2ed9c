"""The code location, as Dagster's processes load it.

`defs` is made when the module is imported: a lazy form would be made again in each child process.
"""

from rds_lake.assembly import PROJECT, build_definitions

defs = build_definitions(PROJECT)
