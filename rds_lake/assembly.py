"""Putting the code location together from a project's folder: its tables, the resources, and the automation sensor.

Nothing here calls AWS or a database.
"""

from pathlib import Path

import dagster as dg

from rds_lake import startup
from rds_lake.automation import automation_sensor
from rds_lake.receiving import receiver_specs
from rds_lake.resources.files import FilesResource
from rds_lake.resources.services import build_resources

PROJECT = Path(__file__).parent.parent


def build_definitions(project: Path = PROJECT, *, plugins: bool = True) -> dg.Definitions:
    """All definitions of a project folder.

    Args:
        project: the folder that holds `pyproject.toml` and the package with the `defs` folder.
        plugins: also describe every component of every installed package, for `dg` and the UI. That imports them all,
            which would be half the start of a command.

    Raises:
        SpecError: two drop zones or feeds are in each other's way, as far as their YAML alone says so.
    """
    startup.hold_little()
    definitions = dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=project) if plugins else _tables(project),
        dg.Definitions(
            resources={**build_resources(), "files": FilesResource()},
            sensors=[automation_sensor()],
            executor=dg.in_process_executor,
        ),
    )
    receiver_specs(definitions, {})
    return definitions


def _tables(project: Path) -> dg.Definitions:
    tree = dg.ComponentTree.for_project(project)
    return tree.build_defs(tree.defs_module_path)
