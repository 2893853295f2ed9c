"""`load SPEC [PARTITION...]`: staged batches into the warehouse, all in one transaction with their ledger rows."""

from benchmarks.ours.rooms import open_rooms
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifests
from rds_lake.warehouse.load import load


def main() -> None:
    """Load the named partitions, or all that are staged."""
    rooms = open_rooms()
    spec, _, words = rooms
    store = rooms.store()
    manifests = Manifests(store, TableKeys.of(spec))
    staged = manifests.read_all("staging", words or manifests.partitions("staging"))
    load(rooms.warehouse(), store, spec, [item.manifest for _, item in sorted(staged.items())])


if __name__ == "__main__":
    main()
