"""Where things lie in the bucket: the one place that builds S3 keys.

```
<table>/<stage>/<partition column>=<partition>/batch=<batch id>/part-00000.parquet
<table>/_manifests/<stage>/<partition>.json
```
A table without partitions has no partition folder, and its manifests are called `all.json`. Every prefix ends in `/`,
so that `orders/` never matches `orders_archive/`.
"""

from dataclasses import dataclass

from rds_lake.spec import Stage, TableSpec

WHOLE_TABLE = "all"
"""What stands for the partition of a table that has none, in the names of manifests and in the ledger."""


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

    def partition_of(self, manifest_key: str) -> str:
        """The partition that a manifest's key stands for."""
        return manifest_key.rsplit("/", 1)[-1].removesuffix(".json")
