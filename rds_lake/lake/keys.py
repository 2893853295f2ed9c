"""Where things lie in the bucket: the one place that builds S3 keys.

```
<table>/<stage>/<partition column>=<partition>/batch=<batch id>/part-00000.parquet
<table>/_manifests/<stage>/<partition>.json
<table>/_manifests/schema.json
```
A table without partitions has no partition folder, and its manifests are called `all.json`. Every prefix ends in `/`,
so that `orders/` never matches `orders_archive/`.
"""

import re
from dataclasses import dataclass

from rds_lake.spec import LAKE_STAGES, Stage, TableSpec

WHOLE_TABLE = "all"
"""What stands for the partition of a table that has none, in the names of manifests and in the ledger."""


_PARTITION = rf"{WHOLE_TABLE}|\d{{4}}-\d\d(-\d\d(T\d\d)?)?"
"""The keys of partitions, whatever the table is cut by."""

_BATCH = r"batch=(?P<batch>[^/]+)/part-\d{5,}\.(parquet|csv)"
"""What follows the partition's folder in the key of a batch's file."""


@dataclass(frozen=True)
class BatchFile:
    """What the key of a batch's file says."""

    stage: Stage
    partition: str
    batch: str


@dataclass(frozen=True)
class TableKeys:
    """The keys of one table's objects.

    Attributes:
        table: the table's name.
        partition_column: the name of the partition folders, None for a table without partitions.
    """

    table: str
    partition_column: str | None

    @classmethod
    def of(cls, spec: TableSpec) -> "TableKeys":
        """The keys of a declared table."""
        return cls(spec.table, spec.partition_column)

    def stage(self, stage: Stage) -> str:
        """The prefix of everything in a stage."""
        return f"{self.table}/{stage}/"

    def partition(self, stage: Stage, partition: str) -> str:
        """The prefix of all batches of a partition."""
        folder = f"{self.partition_column}={partition}/" if self.partition_column else ""
        return f"{self.stage(stage)}{folder}"

    def batch(self, stage: Stage, partition: str, batch: str) -> str:
        """The prefix of one batch's files."""
        return f"{self.partition(stage, partition)}batch={batch}/"

    def part(self, stage: Stage, partition: str, batch: str, number: int, suffix: str) -> str:
        """The key of one file of a batch; `suffix` is `parquet` or `csv`."""
        return f"{self.batch(stage, partition, batch)}part-{number:05d}.{suffix}"

    def manifests(self, stage: Stage) -> str:
        """The prefix of a stage's manifests."""
        return f"{self.table}/_manifests/{stage}/"

    def manifest(self, stage: Stage, partition: str) -> str:
        """The key of the manifest that names a partition's current batch."""
        return f"{self.manifests(stage)}{partition}.json"

    @property
    def schema(self) -> str:
        """The key of the agreed schema; no stage's manifests lie beside it."""
        return f"{self.table}/_manifests/schema.json"

    def partition_of(self, manifest_key: str) -> str:
        """The partition that a manifest's key stands for."""
        return manifest_key.rsplit("/", 1)[-1].removesuffix(".json")

    def batch_file(self, key: str) -> BatchFile | None:
        """What a key says, None when it is not one that `part` makes."""
        folder = rf"{re.escape(self.partition_column)}=(?P<partition>[^/]+)/" if self.partition_column else ""
        found = re.fullmatch(rf"{re.escape(self.table)}/(?P<stage>{'|'.join(LAKE_STAGES)})/{folder}{_BATCH}", key)
        if found is None:
            return None
        stage = next(stage for stage in LAKE_STAGES if stage == found["stage"])
        return BatchFile(stage, found["partition"] if self.partition_column else WHOLE_TABLE, found["batch"])

    def is_manifest(self, key: str) -> bool:
        """Whether a key is one of a manifest, of a stage or of a load."""
        names = rf"({'|'.join(LAKE_STAGES)})/({_PARTITION})|warehouse/[^/]+"
        return re.fullmatch(rf"{re.escape(self.table)}/_manifests/({names})\.json", key) is not None


def is_batch_file(key: str) -> bool:
    """Whether a key is one of a batch's file, whatever its table is cut by."""
    return re.fullmatch(rf"[^/]+/({'|'.join(LAKE_STAGES)})/([^/=]+=[^/]+/)?{_BATCH}", key) is not None
