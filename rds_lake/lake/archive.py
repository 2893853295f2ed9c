"""The archive: landed files move from `landing` to `archived` once they have been split.

S3 has no move, so it is copy, verify, commit the archive's manifest, register it in the catalog, point landing's
manifest at the copies, delete the originals: each step can be repeated, the order is fixed, and the originals go last,
so that an object left in `landing` tells of a move that is not finished. Whoever needs the landed rows again finds them
through landing's manifest, wherever they lie now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rds_lake.errors import TransientError
from rds_lake.lake.aws import GoneError
from rds_lake.lake.batch import commit_if_new
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Committed, File, Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.side_by_side import side_by_side


@dataclass(frozen=True)
class Archived:
    """What archiving a partition did.

    Attributes:
        committed: the archive's batch.
        moved: files copied in this call; zero when they were there already.
    """

    committed: Committed
    moved: int

    @property
    def manifest(self) -> Manifest:
        """The archive's manifest."""
        return self.committed.manifest


def copy_to_archive(
    store: ObjectStore, keys: TableKeys, landed: Sequence[Manifest], current: Mapping[str, Committed]
) -> dict[str, Archived]:
    """Copy the landed files of some partitions to the archive, verify them, and commit the archive's manifests.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        landed: the landed batches.
        current: the partitions' current batches in the archive.

    Raises:
        ConflictError: another run archived a partition meanwhile.
        TransientError: a copy is not what it was copied from; the original is still there.
    """
    copies = {batch.partition: tuple(_copied(keys, batch, file) for file in batch.files) for batch in landed}
    moving = {
        batch.partition: [
            (old, new) for old, new in zip(batch.files, copies[batch.partition], strict=True) if old.key != new.key
        ]
        for batch in landed
    }
    _copy(store, [pair for pairs in moving.values() for pair in pairs])
    manifests = Manifests(store, keys)

    def commit(batch: Manifest) -> Archived:
        target = replace(batch, stage="archived", parent=batch.batch, files=copies[batch.partition])
        committed = commit_if_new(manifests, target, current.get(batch.partition))
        return Archived(committed, len(moving[batch.partition]))

    return {item.manifest.partition: item for item in side_by_side(commit, landed)}


def vacate_landing(
    store: ObjectStore, keys: TableKeys, landed: Sequence[Committed], archived: Mapping[str, Manifest]
) -> None:
    """Point landing's manifests at the archive's copies, then delete the originals.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        landed: the landed batches, as they stand in the lake.
        archived: for each partition, the archive's manifest for the same batch.

    Raises:
        ConflictError: another run landed a partition meanwhile; nothing was deleted.
    """
    manifests = Manifests(store, keys)

    def point(item: Committed) -> None:
        files = archived[item.manifest.partition].files
        if item.manifest.files != files:
            manifests.commit(item.manifest.with_files(files), item)

    side_by_side(point, landed)
    folders = [keys.batch("landing", item.manifest.partition, item.manifest.batch) for item in landed]
    store.delete([item.key for item in store.inside(folders)])


def _copied(keys: TableKeys, landed: Manifest, file: File) -> File:
    folder = keys.batch("archived", landed.partition, landed.batch)
    return replace(file, key=folder + file.key.rsplit("/", 1)[-1])


def _copy(store: ObjectStore, moving: Sequence[tuple[File, File]]) -> None:
    """Copy files and see that all copies are whole."""

    def copy(pair: tuple[File, File]) -> GoneError | None:
        old, new = pair
        try:
            store.copy(old.key, new.key)
        except GoneError as gone:  # an earlier run may have got as far as deleting it
            return gone
        return None

    gone = side_by_side(copy, moving)
    found = store.find([new.key for _, new in moving])
    for (old, new), error in zip(moving, gone, strict=True):
        size = found[new.key].size if new.key in found else None
        if size == old.size:
            continue
        raise error or TransientError(
            f"The archive's copy {store.url(new.key)} has {size} bytes, its original has {old.size}.",
            "The original was kept; run it again.",
        )
