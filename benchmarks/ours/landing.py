"""`landing SPEC [PARTITION...]`: the work of the asset `<table>_landing`, its catalog included."""

from benchmarks.ours.rooms import open_rooms
from benchmarks.tables import END
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.catalog import publish
from rds_lake.lake.keys import WHOLE_TABLE
from rds_lake.lake.landing import land, standing


def main() -> None:
    """Land the named partitions, or those of the year."""
    rooms = open_rooms()
    spec, source, words = rooms
    store = rooms.store()
    cut = spec.partitioning
    partitions = list(words) or ([WHOLE_TABLE] if cut is None else list(cut.keys(cut.start, END)))
    replacing = standing(store, spec, partitions)
    with open_snapshot(source, spec) as snapshot:
        landed = land(snapshot, store, partitions, replacing=replacing)
    publish(rooms.catalog(), store, spec, "landing", [item.committed for item in landed.values()])


if __name__ == "__main__":
    main()
