"""`split SPEC [commit]`: a table's landed batches that are not split yet; committed only if that is said."""

from benchmarks.ours.rooms import open_rooms
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.plan import lookup_values
from rds_lake.quality.split import Splitter


def main() -> None:
    """Split them."""
    rooms = open_rooms()
    spec, source, words = rooms
    store = rooms.store()
    manifests = Manifests(store, TableKeys.of(spec))
    waiting = manifests.partitions("landing").keys() - manifests.partitions("staging").keys()
    landed = manifests.read_all("landing", waiting)
    splitter = Splitter(store, spec, lookup_values(source, spec))
    for batch in landed.values():
        made = splitter.split(batch.manifest, None, None)
        if words:
            manifests.commit(made.discarded, None)
            manifests.commit(made.staging, None)


if __name__ == "__main__":
    main()
