"""The archive: landed files move from `landing` to `archived` once they have been split.

S3 has no move, so it is copy, verify, commit the archive's manifest, point landing's manifest at the copies, delete the
originals: each step can be repeated, the order is fixed, and the originals go last. Whoever needs the landed rows again
finds them through landing's manifest, wherever they lie now.
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
        manifest: the archive's manifest.
        moved: files copied in this call; zero when they were there already.
    """

    manifest: Manifest
    moved: int


def archive(store: ObjectStore, keys: TableKeys, landed: Committed, current: Committed | None) -> Archived:
    """Move the landed files of one partition to the archive. Resumable at every step.

    Args:
        store: the lake's bucket.
        keys: the table's keys.
        landed: the landed batch.
        current: the partition's current batch in the archive.

    Raises:
        ConflictError: another run landed or archived the partition meanwhile.
        TransientError: a copy is not what it was copied from; the original is still there.
    """
    manifests = Manifests(store, keys)
    originals = landed.manifest.files
    copies = tuple(_copied(keys, landed.manifest, file) for file in originals)
    moving = [(old, new) for old, new in zip(originals, copies, strict=True) if old.key != new.key]
    for old, new in moving:
        _copy(store, old, new)
    target = replace(landed.manifest, stage="archived", parent=landed.manifest.batch, files=copies)
    committed = commit_if_new(manifests, target, current)
    if moving:
        manifests.commit(landed.manifest.with_files(copies), landed)
    leftovers = store.list(keys.batch("landing", landed.manifest.partition, landed.manifest.batch))
    store.delete([item.key for item in leftovers])
    return Archived(committed.manifest, len(moving))


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
