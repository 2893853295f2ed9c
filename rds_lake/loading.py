"""Loading the code location for a command: a mistake in a table's YAML becomes one line with file, line and key.

`dg` shows such a mistake in its own way, so `rds_lake.assembly` itself lets Dagster's errors through.
"""

import dagster as dg
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster_shared.check import CheckError
from dagster_shared.error import DagsterUnresolvableSymbolError
from pydantic import ValidationError

from rds_lake.assembly import build_definitions
from rds_lake.errors import SpecError

MISTAKES = (ComponentTreeException, yaml.YAMLError, DagsterUnresolvableSymbolError, CheckError)
"""What loading a folder with a wrong YAML file raises."""


def load_definitions() -> dg.Definitions:
    """The code location.

    Raises:
        SpecError: a table's YAML is wrong.
    """
    try:
        return build_definitions(plugins=False)
    except MISTAKES as error:
        raise SpecError(explain(error), "Correct it; 'dg check defs' shows the lines.") from error


def explain(error: BaseException) -> str:
    """A mistake in a YAML file in one line: `file:line: key: what is wrong`, as far as it is known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}: {error.problem}."
    cause = error if isinstance(error, ValidationError) else error.__cause__
    if isinstance(cause, ValidationError):
        return "; ".join(_one(problem["loc"], problem["msg"]) for problem in cause.errors()) + "."
    text = " ".join(str(cause or error).split())
    return f"A table's defs.yaml cannot be loaded: {text.rstrip('.')}."


def _one(place: tuple[int | str, ...], message: str) -> str:
    """Dagster puts all it knows into one text: `attributes.owners at /folder/defs.yaml:4`."""
    key, _, position = str(place[0] if place else "").partition(" at ")
    said = message.removeprefix("Value error, ")
    return ": ".join(part for part in (position, key.removeprefix("attributes."), said) if part)
