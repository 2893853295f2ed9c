"""The code location: every table under `defs/`, the resources, and the automation sensor.

`defs` is made when the module is imported: a lazy form would be made again in each child process. Nothing here calls
AWS or a database.
"""

from pathlib import Path

import dagster as dg

from rds_lake.automation import automation_sensor
from rds_lake.resources.services import build_resources

PROJECT = Path(__file__).parent.parent


def build_definitions(project: Path = PROJECT) -> dg.Definitions:
    """All definitions of a project folder.

    Args:
        project: the folder that holds `pyproject.toml` and the package with the `defs` folder.
    """
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=project),
        dg.Definitions(resources=build_resources(), sensors=[automation_sensor()], executor=dg.in_process_executor),
    )


defs = build_definitions()
