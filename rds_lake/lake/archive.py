"""The archive: landed files move from `landing` to `archived` once they have been split.

S3 has no move, so it is copy, verify, commit the archive's manifest, register it in the catalog, point landing's
manifest at the copies, delete the originals: each step can be repeated, the order is fixed, and the originals go last,
so that an object left in `landing` tells of a move that is not finished. Whoever needs the landed rows again finds them
through landing's manifest, wherever they lie now.
"""

from dataclasses import dataclass, replace

from rds_lake.errors import TransientError
from rds_lake.lake.batch import commit_if_new
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Committed, File, Manifest, Manifests
from rds_lake.lake.store import ObjectStore


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


def copy_to_archive(store: ObjectStore, keys: TableKeys, landed: Manifest, current: Committed | None) -> Archived:
    """Copy the landed files of one partition to the archive, verify them, and commit the archive's manifest.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        landed: the landed batch.
        current: the partition's current batch in the archive.

    Raises:
        ConflictError: another run archived the partition meanwhile.
        TransientError: a copy is not what it was copied from; the original is still there.
    """
    copies = tuple(_copied(keys, landed, file) for file in landed.files)
    moving = [(old, new) for old, new in zip(landed.files, copies, strict=True) if old.key != new.key]
    for old, new in moving:
        _copy(store, old, new)
    target = replace(landed, stage="archived", parent=landed.batch, files=copies)
    committed = commit_if_new(Manifests(store, keys), target, current)
    return Archived(committed, len(moving))


def vacate_landing(store: ObjectStore, keys: TableKeys, landed: Committed, archived: Manifest) -> None:
    """Point landing's manifest at the archive's copies, then delete the originals.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        landed: the landed batch, as it stands in the lake.
        archived: the archive's manifest for the same batch.

    Raises:
        ConflictError: another run landed the partition meanwhile; its files are left alone.
    """
    if landed.manifest.files != archived.files:
        Manifests(store, keys).commit(landed.manifest.with_files(archived.files), landed)
    leftovers = store.list(keys.batch("landing", landed.manifest.partition, landed.manifest.batch))
    store.delete([item.key for item in leftovers])


def _copied(keys: TableKeys, landed: Manifest, file: File) -> File:
    folder = keys.batch("archived", landed.partition, landed.batch)
    return replace(file, key=folder + file.key.rsplit("/", 1)[-1])


def _copy(store: ObjectStore, old: File, new: File) -> None:
    if store.size(old.key) is None and store.size(new.key) == new.size:
        return  # an earlier run got as far as deleting it
    store.copy(old.key, new.key)
    size = store.size(new.key)
    if size != old.size:
        raise TransientError(
            f"The archive's copy {store.url(new.key)} has {size} bytes, its original has {old.size}.",
            "The original was kept; run it again.",
        )
