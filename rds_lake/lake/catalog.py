"""The Glue catalog: the lake's tables and partitions, so that Athena can query what the manifests name.

A table is called like its asset. A partition's location is its current batch, so a query sees whole batches only; a
partition without rows is not registered. A table without partitions has its current batch as its own location.

A query fails when a partition's columns are of other types than the table's. So the table has the agreed columns, which
only become more and wider, whatever batch is published; and when they change, every registered partition gets them
before the table does, so that a crash in between is made good by the next one that publishes.

A partition is read in the format of its own batch, which is not the table's after a change of `landing.format`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rds_lake.errors import PermanentError
from rds_lake.lake.agreement import Stored, read_agreed, recall_agreed
from rds_lake.lake.aws import aws_errors
from rds_lake.lake.keys import WHOLE_TABLE, TableKeys
from rds_lake.lake.manifest import Committed, Manifest, Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.side_by_side import side_by_side
from rds_lake.spec import Stage, TableSpec

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient

PARTITION_LIMIT = 100
"""Partitions of one create or update request (Glue's own limit)."""

DELETE_LIMIT = 25
"""Partitions of one delete request (Glue's own limit)."""

_MISSING, _EXISTS = "EntityNotFoundException", "AlreadyExistsException"
"""What Glue says of one partition of a request."""

_Input = dict[str, Any]
"""Glue's PartitionInput."""

_FORMATS: Mapping[str, Mapping[str, Any]] = {
    "parquet": {
        "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
        "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
    },
    "csv": {
        "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
        "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
        "SerdeInfo": {
            "SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde",
            "Parameters": {"separatorChar": ",", "quoteChar": '"'},
        },
    },
}


_HEADER = "skip.header.line.count"
"""The table's parameter that keeps a CSV file's first line out; readers of other formats do not look at it."""


class BatchPlace(NamedTuple):
    """Where the files of a partition lie, as an `s3://` prefix, and their format."""

    location: str
    format: str


@dataclass(frozen=True)
class CatalogTable:
    """One table of the catalog.

    Attributes:
        name: its name.
        columns: names and Glue types of its columns, without the partition column.
        partition_column: the partition column's name, None for a table without partitions.
        location: the `s3://` prefix of the whole table.
        format: `parquet` or `csv`; that of the newest batch, where its partitions differ.
        description: what one row is.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    partition_column: str | None
    location: str
    format: str
    description: str = ""

    def storage(self, place: BatchPlace) -> dict[str, Any]:
        """Glue's StorageDescriptor for a place of this table."""
        # Athena's CSV reader knows text only; a type it cannot parse would fail the whole query.
        columns = [{"Name": name, "Type": "string" if place.format == "csv" else kind} for name, kind in self.columns]
        return {"Columns": columns, "Location": place.location, **_FORMATS[place.format]}

    def as_input(self) -> dict[str, Any]:
        """Glue's TableInput."""
        parameters = {"classification": self.format, "EXTERNAL": "TRUE"}
        if self.format == "csv":
            parameters[_HEADER] = "1"
        return {
            "Name": self.name,
            "Description": self.description,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": parameters,
            "PartitionKeys": [{"Name": self.partition_column, "Type": "string"}] if self.partition_column else [],
            "StorageDescriptor": self.storage(BatchPlace(self.location, self.format)),
        }


class Catalog:
    """One database of the Glue catalog.

    Args:
        client: a boto3 Glue client.
        database: the database's name; created when it is not there.
    """

    def __init__(self, client: "GlueClient", database: str) -> None:
        self.client = client
        self.database = database

    def ensure_table(self, table: CatalogTable, renewed: Callable[[], CatalogTable] | None = None) -> CatalogTable:
        """Create the table, or bring it up to date.

        Args:
            table: the table, maybe as it was wanted a moment ago.
            renewed: gives the table as it is wanted now; asked only when the catalog's own is not as `table` says, so
                that what is written is never out of date.

        Returns:
            The table as it stands in the catalog.
        """
        with aws_errors(f"the Glue table {self.database}.{table.name}"):
            try:
                present = self.client.get_table(DatabaseName=self.database, Name=table.name)["Table"]
            except self.client.exceptions.EntityNotFoundException:
                table = renewed() if renewed else table
                self._create(table.as_input())
                return table
            if covers(present, table.as_input()):
                return table
            table = renewed() if renewed else table
            wanted = table.as_input()
            if not covers(present, wanted):
                self._realign(table)
                if _HEADER in present.get("Parameters", {}):  # older partitions may be CSV still
                    wanted["Parameters"][_HEADER] = "1"
                self.client.update_table(DatabaseName=self.database, TableInput=wanted, SkipArchive=True)  # type: ignore[arg-type]
            return table

    def _realign(self, table: CatalogTable) -> None:
        """Give all registered partitions the table's columns; Parquet is read by name, and CSV is only added to."""
        if table.partition_column is None:
            return
        pages = self.client.get_paginator("get_partitions").paginate(DatabaseName=self.database, TableName=table.name)
        found = [item for page in pages for item in page["Partitions"]]
        wanted = [
            {"Values": item["Values"], "StorageDescriptor": table.storage(_known(item["StorageDescriptor"], table))}
            for item in found
        ]
        stale = [new for new, old in zip(wanted, found, strict=True) if not covers(old, new)]
        side_by_side(lambda some: self._update(table, some, ""), _chunks(stale, PARTITION_LIMIT))

    def _update(self, table: CatalogTable, inputs: Sequence[_Input], expected: str) -> list[_Input]:
        """Point known partitions at new places; those that are not known, if that may be."""
        entries = [{"PartitionValueList": item["Values"], "PartitionInput": item} for item in inputs]
        with aws_errors(f"the partitions of {self.database}.{table.name}"):
            answer = self.client.batch_update_partition(
                DatabaseName=self.database,
                TableName=table.name,
                Entries=entries,  # type: ignore[arg-type]
            )
        refused = [error["PartitionValueList"] for error in self._errors(answer, expected)]
        return [item for item in inputs if item["Values"] in refused]

    def _add(self, table: CatalogTable, inputs: Sequence[_Input], expected: str) -> list[_Input]:
        """Make partitions known; those that were known already, if that may be."""
        with aws_errors(f"the partitions of {self.database}.{table.name}"):
            answer = self.client.batch_create_partition(
                DatabaseName=self.database,
                TableName=table.name,
                PartitionInputList=inputs,  # type: ignore[arg-type]
            )
        refused = [error["PartitionValues"] for error in self._errors(answer, expected)]
        return [item for item in inputs if item["Values"] in refused]

    def _create(self, wanted: dict[str, Any]) -> None:
        try:
            self._create_table(wanted)
        except self.client.exceptions.EntityNotFoundException:
            described = {"Name": self.database, "Description": "The lake of rds_lake"}
            with suppress(self.client.exceptions.AlreadyExistsException):  # by another run: that is what is wanted
                self.client.create_database(DatabaseInput=described)  # type: ignore[arg-type]
            self._create_table(wanted)

    def _create_table(self, wanted: dict[str, Any]) -> None:
        try:
            self.client.create_table(DatabaseName=self.database, TableInput=wanted)  # type: ignore[arg-type]
        except self.client.exceptions.AlreadyExistsException:  # made by another run meanwhile
            self.client.update_table(DatabaseName=self.database, TableInput=wanted)  # type: ignore[arg-type]

    def register(self, table: CatalogTable, places: Mapping[str, BatchPlace], known: Collection[str] = ()) -> None:
        """Point partitions at their batches, whether they are known already or not.

        Args:
            table: the table.
            places: for each partition, where its current batch lies.
            known: the partitions that are probably known. It saves a request to be right, and is no harm to be wrong.
        """
        inputs: list[_Input] = [
            {"Values": [partition], "StorageDescriptor": table.storage(place)} for partition, place in places.items()
        ]
        probably = [item for item in inputs if item["Values"][0] in known]
        others = [item for item in inputs if item["Values"][0] not in known]

        def update(some: Sequence[_Input]) -> None:
            if missing := self._update(table, some, _MISSING):
                self._add(table, missing, "")

        def add(some: Sequence[_Input]) -> None:
            if present := self._add(table, some, _EXISTS):
                self._update(table, present, "")

        side_by_side(update, _chunks(probably, PARTITION_LIMIT))
        side_by_side(add, _chunks(others, PARTITION_LIMIT))

    def withdraw(self, table: CatalogTable, partitions: Iterable[str]) -> None:
        """Take partitions out of the catalog; those that are not there are no error."""

        def withdraw(some: Sequence[str]) -> None:
            with aws_errors(f"the partitions of {self.database}.{table.name}"):
                answer = self.client.batch_delete_partition(
                    DatabaseName=self.database,
                    TableName=table.name,
                    PartitionsToDelete=[{"Values": [partition]} for partition in some],
                )
            self._errors(answer, _MISSING)

        side_by_side(withdraw, _chunks(list(partitions), DELETE_LIMIT))

    def all_places(self, name: str, partitioned: bool) -> dict[str, BatchPlace]:
        """Where the catalog says that a table's partitions lie, empty for a table that it does not know.

        Args:
            name: the catalog's table.
            partitioned: whether it has partitions; a table without is its own, under the key of the whole table.
        """
        with aws_errors(f"the Glue table {self.database}.{name}"):
            try:
                if not partitioned:
                    table = self.client.get_table(DatabaseName=self.database, Name=name)["Table"]
                    return {WHOLE_TABLE: place_in(table["StorageDescriptor"])}
                pages = self.client.get_paginator("get_partitions").paginate(
                    DatabaseName=self.database, TableName=name, ExcludeColumnSchema=True
                )
                return {
                    partition["Values"][0]: place_in(partition["StorageDescriptor"])
                    for page in pages
                    for partition in page["Partitions"]
                }
            except self.client.exceptions.EntityNotFoundException:
                return {}

    def places(self, name: str, partitioned: bool, partitions: Sequence[str]) -> dict[str, BatchPlace]:
        """Where the catalog says that some partitions of a table lie, as `all_places` does for all."""
        if not partitioned:
            return self.all_places(name, partitioned)
        found: dict[str, BatchPlace] = {}
        for some in _chunks(partitions, PARTITION_LIMIT):
            with aws_errors(f"the partitions of {self.database}.{name}"):
                try:
                    answer = self.client.batch_get_partition(
                        DatabaseName=self.database,
                        TableName=name,
                        PartitionsToGet=[{"Values": [partition]} for partition in some],
                    )
                except self.client.exceptions.EntityNotFoundException:
                    return {}
            found |= {each["Values"][0]: place_in(each["StorageDescriptor"]) for each in answer["Partitions"]}
        return found

    def _errors(self, answer: Mapping[str, Any], expected: str) -> list[dict[str, Any]]:
        """The per-partition errors of an answer that are expected; any other is raised."""
        errors: list[dict[str, Any]] = answer.get("Errors", [])
        for error in errors:
            detail = error.get("ErrorDetail", {})
            if detail.get("ErrorCode") != expected:
                raise PermanentError(
                    f"Glue refused a partition of {self.database}: {detail.get('ErrorMessage', error)}.",
                    "Check the table in the Glue console, then materialise the partition again.",
                )
        return errors


def place_in(storage: Mapping[str, Any]) -> BatchPlace:
    """The place that a StorageDescriptor of Glue names; a format that is none of ours is called as its SerDe."""
    ours = (name for name, known in _FORMATS.items() if covers(storage, known))
    other = storage.get("SerdeInfo", {}).get("SerializationLibrary", "none")
    return BatchPlace(storage["Location"], next(ours, other))


def _known(storage: Mapping[str, Any], table: CatalogTable) -> BatchPlace:
    """The place of a registered partition, in the table's format where its own is none of ours."""
    place = place_in(storage)
    return place if place.format in _FORMATS else place._replace(format=table.format)


def covers(present: Any, wanted: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether an answer of Glue says all that is wanted; it adds fields of its own to what it was given."""
    if isinstance(wanted, Mapping):
        return isinstance(present, Mapping) and all(covers(present.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list):
        return isinstance(present, list) and len(present) == len(wanted) and all(map(covers, present, wanted))
    return bool(present == wanted)


def publish(
    catalog: Catalog,
    store: ObjectStore,
    spec: TableSpec,
    stage: Stage,
    committed: Sequence[Committed],
    extra_columns: tuple[tuple[str, str], ...] = (),
    before: Mapping[str, Committed] | None = None,
) -> None:
    """Register batches that were just committed, and whatever has taken their place meanwhile.

    Of two runs of one partition, the one that commits first may come here last. So the manifests are looked at once
    more after each registration: the catalog ends with the batches that stand there.

    Args:
        catalog: the catalog.
        store: the lake's bucket.
        spec: the table's YAML.
        stage: the stage.
        committed: the batches, of one table and stage. Batches whose files lie in another stage (landed ones that have
            been archived) and those without rows are withdrawn.
        extra_columns: names and Glue types of columns that the stage adds to the source's.
        before: the batches that these took the place of, by partition: those that the catalog probably knows.
    """
    keys = TableKeys.of(spec)
    manifests = Manifests(store, keys)
    known = {partition for partition, item in (before or {}).items() if _is_inside(keys, stage, item.manifest)}
    todo = list(committed)
    while todo:
        _register(catalog, store, spec, stage, [item.manifest for item in todo], extra_columns, known)
        standing = manifests.etags(stage, [item.manifest.partition for item in todo])
        replaced = [item.manifest.partition for item in todo if standing.get(item.manifest.partition) != item.etag]
        todo = list(manifests.read_all(stage, replaced).values())


def _register(
    catalog: Catalog,
    store: ObjectStore,
    spec: TableSpec,
    stage: Stage,
    manifests: Sequence[Manifest],
    extra_columns: tuple[tuple[str, str], ...],
    known: Collection[str],
) -> None:
    keys = TableKeys.of(spec)
    inside = {m.partition: m for m in manifests if _is_inside(keys, stage, m)}
    newest = manifests[-1]
    whole = keys.stage(stage)
    if spec.partition_column is None:
        whole = place_of(keys, stage, newest) or ""

    def described(stored: Stored | None) -> CatalogTable:
        columns = tuple(item.column for item in stored.agreed.columns) if stored else newest.columns
        return CatalogTable(
            name=spec.asset(stage).lower(),
            columns=tuple((column.name.lower(), column.mapped.glue) for column in columns) + extra_columns,
            partition_column=spec.partition_column,
            location=store.url(whole),
            format=newest.format,
            description=spec.description,
        )

    table = catalog.ensure_table(described(recall_agreed(store, keys)), lambda: described(read_agreed(store, keys)))
    if spec.partition_column is not None:
        places = {partition: BatchPlace(store.url(_folder(m)), m.format) for partition, m in inside.items()}
        catalog.register(table, places, known)
        catalog.withdraw(table, [m.partition for m in manifests if m.partition not in inside])


def place_of(keys: TableKeys, stage: Stage, manifest: Manifest) -> str | None:
    """The prefix that the catalog has to name for a batch, None when its partition is not to be registered."""
    if _is_inside(keys, stage, manifest):
        return _folder(manifest)
    # A table without partitions has to lie somewhere: where its batch would, with no file in it.
    return keys.batch(stage, manifest.partition, manifest.batch) if keys.partition_column is None else None


def _is_inside(keys: TableKeys, stage: Stage, manifest: Manifest) -> bool:
    """Whether a batch has files, and in that stage: landed ones lie in the archive once they have been archived."""
    return bool(manifest.files) and manifest.files[0].key.startswith(keys.stage(stage))


def _folder(manifest: Manifest) -> str:
    return manifest.files[0].key.rsplit("/", 1)[0] + "/"


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
