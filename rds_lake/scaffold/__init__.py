"""`tables add`: a table's YAML, proposed from what the source itself knows of the table, and written where tables live.

`guess` judges names and values, `proposal` decides, `text` writes YAML; here the source is asked and the file is made.
"""

import re
from pathlib import Path

from rds_lake.errors import SpecError
from rds_lake.extract.profile import read_profile, read_span
from rds_lake.extract.source import Source
from rds_lake.partitions import Unit
from rds_lake.scaffold.proposal import NAME, Proposal, propose

DEFS = Path(__file__).parent.parent / "defs"
"""The folder that holds one folder per table."""


def names_for(name: str, source_table: str | None) -> tuple[str, str]:
    """The table's names in rds_lake and in MySQL.

    Args:
        name: what the user called it. If nothing else is given it is MySQL's name, which may hold what an asset's name
            must not, such as blanks.
        source_table: MySQL's name, if it was given.
    """
    if source_table is not None or NAME.fullmatch(name):
        return name, source_table or name
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return (plain if plain[:1].isalpha() else f"t_{plain}".rstrip("_")), name


def look(source: Source, name: str, source_table: str | None = None, by: Unit | None = None) -> Proposal:
    """Ask the source and propose.

    Args:
        source: the MySQL source.
        name: the table's name; MySQL's own unless `source_table` is given.
        source_table: its name in MySQL.
        by: the length of a partition, if the user has chosen it.

    Raises:
        SpecError: the source has no such table, or the name cannot be that of one.
    """
    table, real = names_for(name, source_table)
    profile = read_profile(source, real)
    return propose(table, profile, lambda column: read_span(source, real, column), by)


def write(proposal: Proposal, *, force: bool = False, defs: Path = DEFS) -> Path:
    """Write the proposal's file; returns its path.

    Args:
        proposal: the proposal.
        force: whether a file that is there is replaced.
        defs: the folder that holds one folder per table.

    Raises:
        SpecError: there is a file already, for this table or for one whose name differs in case only.
    """
    taken = {folder.name.lower(): folder for folder in defs.iterdir() if (folder / "defs.yaml").is_file()}
    file = taken.get(proposal.table.lower(), defs / proposal.table) / "defs.yaml"
    if file.is_file() and (not force or file.parent.name != proposal.table):
        raise SpecError(
            f"{proposal.table}: {file} is there already.",
            "Edit it, or replace it with --force; --print shows the proposal and writes nothing."
            if file.parent.name == proposal.table
            else "Choose a name that differs in more than upper and lower case.",
        )
    file.parent.mkdir(exist_ok=True)
    file.write_text(proposal.text, encoding="utf-8")
    return file
