"""The layout of a table in the lake: how it is cut, and how its partition folders are called.

It is fixed once something has been landed. Were `partitions` or `cursor` changed afterwards, the old partitions would
stay beside the new ones, and every reader of the lake would count their rows twice: such a change is refused.
"""

from collections.abc import Collection, Iterable
from itertools import chain

from rds_lake.errors import SpecError
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys, is_batch_file
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.spec import Stage, TableSpec

STAGES: tuple[Stage, ...] = ("archived", "landing")
"""Where landed rows lie, under the folders of their partitions: alike in both, for whoever lands has checked it."""


def check_layout(store: ObjectStore, spec: TableSpec, landed: Collection[str] | None = None) -> None:
    """Check that what has been landed of a table is laid out as its YAML says now.

    Args:
        store: the lake's bucket.
        spec: the table's YAML.
        landed: the partitions that have a landing manifest, if they are known already.

    Raises:
        SpecError: it is laid out otherwise; nothing was changed.
    """
    keys = TableKeys.of(spec)
    if landed is None:
        landed = Manifests(store, keys).partitions("landing")
    if not landed:
        return
    check_partitions(spec, landed, "the lake")
    items = chain.from_iterable(store.list(keys.stage(stage)) for stage in STAGES)
    found = next((item.key for item in items if is_batch_file(item.key)), None)
    if found is not None and (folder := folder_of(found)) != keys.partition_column:
        raise _changed(spec, f"the lake's folders are called '{folder}=', the YAML makes '{keys.partition_column}='")


def check_partitions(spec: TableSpec, present: Iterable[str], where: str) -> None:
    """Check that partitions which are there are partitions of the table as its YAML cuts it now.

    Args:
        spec: the table's YAML.
        present: their keys.
        where: what holds them, for the message.

    Raises:
        SpecError: one is not.
    """
    if strays := [key for key in sorted(present) if not _is_partition(spec, key)]:
        cut = f"by {spec.partitions.by} from {spec.partitions.start}" if spec.partitions else "not at all"
        more = f" and {len(strays) - 1:,} more" if len(strays) > 1 else ""
        raise _changed(
            spec, f"{where} holds the partition {strays[0]}{more}, which a table that is cut {cut} does not have"
        )


def folder_of(key: str) -> str | None:
    """The name of the partition folder that a batch's file lies in, None for a table without partitions."""
    name, _, partition = key.split("/")[2].partition("=")
    return name if partition and name != "batch" else None


def _is_partition(spec: TableSpec, key: str) -> bool:
    partitioning = spec.partitioning
    if partitioning is None or key == WHOLE_TABLE:
        return partitioning is None and key == WHOLE_TABLE
    try:
        return partitioning.window(key).lower >= partitioning.start
    except ValueError:
        return False


def _changed(spec: TableSpec, problem: str) -> SpecError:
    return SpecError(
        f"{spec.table}: {problem}: 'partitions' or 'cursor' was changed after rows had been landed.",
        f"Put it back in defs/{spec.table}/defs.yaml, or start afresh under another name ('table', 'warehouse.table').",
    )
