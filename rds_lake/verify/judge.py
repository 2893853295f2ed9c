"""The verdict on one partition: what was found on each side in, what it means out. A pure function.

Three outcomes. `in step`: everything agrees. `behind`: the source changed, or a run ended on its way, and the next sync
takes it up; no fault. `DIFFERS`: something is not what it must be, and no sync would see it or be expected to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rds_lake.extract.fingerprint import EMPTY
from rds_lake.lake.manifest import Manifest
from rds_lake.spec import LAKE_STAGES, Stage
from rds_lake.verify.checksums import NOTHING, Sum
from rds_lake.verify.rows import Checks, Side
from rds_lake.warehouse.ledger import Entry
from rds_lake.wording import counted

Status = Literal["in step", "behind", "moving", "DIFFERS"]

NO_TABLE = "the warehouse table does not exist"
"""The fault of a partition whose loaded rows went with the whole table."""

_NO_CHECKS = Checks(source=False, archived=False, split=False, loaded=False)
_SPLIT: tuple[Literal["staging", "discarded"], ...] = ("staging", "discarded")


@dataclass(frozen=True)
class Evidence:
    """What was found of one partition.

    Attributes:
        partition: its key.
        fingerprint: the source's fingerprint now.
        held_back: whether the fence stands before the one that it was landed under.
        reshaped: whether it lies in other columns than it would be landed in now.
        rules: digest of the rules as they are now; None where no sync could apply them.
        batches: the current manifests.
        entry: the ledger's row.
        sums: rows and checksums by side; a damaged batch has none.
        damage: what is wrong with files, by stage.
        unreadable: what is wrong with manifests that cannot be read, by stage; they are not among the batches.
        catalog: what is wrong with the catalog.
        no_table: whether the warehouse has no such table at all.
        superseded: staged rows that gave way to a newer version of their key in another partition.
    """

    partition: str
    fingerprint: str = EMPTY
    held_back: bool = False
    reshaped: bool = False
    rules: str | None = None
    batches: Mapping[Stage, Manifest] = field(default_factory=dict)
    entry: Entry | None = None
    sums: Mapping[Side, Sum] = field(default_factory=dict)
    damage: Mapping[Stage, str] = field(default_factory=dict)
    unreadable: Mapping[Stage, str] = field(default_factory=dict)
    catalog: tuple[str, ...] = ()
    no_table: bool = False
    superseded: Sum = NOTHING

    def sum(self, side: Side) -> Sum:
        """The rows of a side, none when nothing was found there."""
        return self.sums.get(side, NOTHING)


@dataclass(frozen=True)
class Opinion:
    """What is thought of a partition's batches, before rows are compared.

    Attributes:
        checks: which equalities have to hold.
        behind: why the next sync takes the partition up, None when it does not.
        faults: what must not be.
    """

    checks: Checks
    behind: str | None
    faults: tuple[str, ...]


def opinion(found: Evidence) -> Opinion:
    """Which equalities have to hold in a partition, and what is wrong apart from them."""
    if found.unreadable:
        return Opinion(_NO_CHECKS, None, tuple(found.unreadable.values()))
    landed = found.batches.get("landing")
    if landed is None:
        return _never_landed(found)
    unfinished, faults = _chain(found, landed)
    changed = _changed(found, landed)
    reached = set(found.batches) - set(unfinished)
    whole = set(found.batches) - set(found.damage)
    checks = Checks(
        source=changed is None and "landing" in whole,
        archived={"landing", "archived"} <= whole and "archived" in reached,
        split={"landing", "staging", "discarded"} <= whole and {"staging", "discarded"} <= reached,
        loaded=not found.no_table and "staging" in whole and "warehouse" not in unfinished and "staging" in reached,
    )
    faults = [*dict.fromkeys(found.damage.values()), *faults, *_ledger(found, checks)]
    if found.no_table and found.entry is not None and found.entry.loaded:
        faults.append(NO_TABLE)
    if not unfinished and not found.damage:
        faults += found.catalog
    behind = changed or next(iter(unfinished.values()), None) or _by_old_rules(found)
    return Opinion(checks, behind, tuple(faults))


def unequal(found: Evidence, checks: Checks) -> tuple[str, ...]:
    """The equalities that have to hold and do not."""
    said = []
    if checks.source:
        said += _pair("the source", found.sum("source"), "landing", found.sum("landing"))
    if checks.archived:
        said += _pair("landing", found.sum("landing"), "archived", found.sum("archived"))
    if checks.split:
        split = found.sum("staging") + found.sum("discarded")
        said += _pair("landing", found.sum("landing"), "staging and discarded together", split)
    if checks.loaded:
        held = found.sum("warehouse") + found.superseded
        said += _pair("staging", found.sum("staging"), "the warehouse", held)
    return tuple(said)


def _pair(one: str, first: Sum, other: str, second: Sum) -> list[str]:
    if first == second:
        return []
    if first.rows == second.rows:
        return [f"{one} and {other} hold {counted(first.rows, 'row')} each, with different values"]
    return [f"{one} {_hold(one)} {counted(first.rows, 'row')}, {other} {second.rows:,}"]


def _hold(one: str) -> str:
    return "hold" if one.endswith("together") else "holds"


def _changed(found: Evidence, landed: Manifest) -> str | None:
    """Why the source's rows cannot be expected in the lake yet."""
    if found.held_back:
        return "an open transaction holds the fence before the one that it was landed under"
    if found.fingerprint != landed.fingerprint:
        return "the source has changed since"
    return "the source's columns have changed since" if found.reshaped else None


def _by_old_rules(found: Evidence) -> str | None:
    """Why the next sync splits and loads the landed rows again."""
    if found.rules is None or found.entry is None or found.entry.rules == found.rules:
        return None
    return "the rules have changed since"


def _never_landed(found: Evidence) -> Opinion:
    later = [stage for stage in LAKE_STAGES if stage in found.batches]
    faults = []
    if later:
        faults.append(f"landing has no manifest, though {' and '.join(later)} have one")
    if found.entry is not None:
        faults.append(f"landing has no manifest, though the ledger says that {found.entry.batch} is loaded")
    if found.sum("warehouse").rows and not faults:
        faults.append(f"the warehouse holds {_held(found, 'row that was', 'rows that were')} never landed")
    waiting = None if found.fingerprint == EMPTY else "never landed yet"
    return Opinion(_NO_CHECKS, waiting, tuple(faults))


def _held(found: Evidence, one: str, many: str | None = None) -> str:
    return counted(found.sum("warehouse").rows, one, many)


def _chain(found: Evidence, landed: Manifest) -> tuple[dict[Side, str], list[str]]:
    """The stages that the landed batch has not reached: those that a sync will bring, and those that it would not."""
    entry = found.entry
    batches = found.batches
    staged = batches.get("staging")
    split = {stage for stage in _SPLIT if _follows(batches.get(stage), landed)}
    missing: dict[Side, str] = {}
    for stage in _SPLIT:
        if stage not in split:
            missing[stage] = f"landed, not split yet ({stage})"
    if len({batches[stage].rules for stage in split}) > 1:
        missing["staging"] = "split by new rules in part"
    archived = batches.get("archived")
    if archived is None or archived.batch != landed.batch:
        missing["archived"] = "split, not archived yet"
    if staged is None or entry is None or entry.batch != staged.batch or not entry.fingerprint:
        missing["warehouse"] = "staged, not loaded yet"
    if not missing or _is_taken_up(found, landed, staged):
        return missing, []
    return missing, [_gap(found, side) for side in missing]


def _is_taken_up(found: Evidence, landed: Manifest, staged: Manifest | None) -> bool:
    """Whether a chain that stops somewhere is one that a run left behind, and the next sync goes on with."""
    entry = found.entry
    if entry is None:
        return not found.sum("warehouse").rows
    if entry.fingerprint != landed.fingerprint or found.reshaped:
        return True
    in_landing = any(file.key.startswith(f"{landed.table}/landing/") for file in landed.files)
    by_other_rules = staged is not None and staged.rules != entry.rules
    return in_landing or by_other_rules


def _follows(batch: Manifest | None, landed: Manifest) -> bool:
    return batch is not None and batch.parent == landed.batch


def _gap(found: Evidence, side: Side) -> str:
    entry = found.entry
    if side == "warehouse":
        if entry is None:
            return f"the ledger has no row for it, though the warehouse holds {_held(found, 'row')}"
        staged = found.batches.get("staging")
        return f"the ledger names the batch {entry.batch}, staging holds {staged.batch if staged else 'none'}"
    if side not in found.batches:
        return f"{side} has no manifest, though a batch of it was loaded"
    return f"the batch in {side} was not made from the one in landing"


def _ledger(found: Evidence, checks: Checks) -> list[str]:
    """Where the ledger's own counts are wrong."""
    entry = found.entry
    if not checks.loaded or entry is None:
        return []
    said = []
    staged, held = found.batches["staging"].rows, found.sum("warehouse").rows
    if entry.staged != staged:
        told = counted(entry.staged, "row was", "rows were")
        said.append(f"the ledger says that {told} staged, they are {staged:,}")
    if entry.loaded != held:
        told = counted(entry.loaded, "row was", "rows were")
        said.append(f"the ledger says that {told} loaded, there are {held:,}")
    return said
