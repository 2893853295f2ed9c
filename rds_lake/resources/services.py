"""The resources: source, lake and warehouse, configured by environment variables that are read when a run needs them.

Addresses and secrets are never Dagster configuration, so they cannot show up in its UI, logs or run records. Tests and
other callers may hand in an address instead.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import PrivateAttr

from rds_lake.audit_log.log import AuditLog
from rds_lake.extract.source import Source
from rds_lake.lake.catalog import Catalog
from rds_lake.lake.s3 import ATTEMPTS, open_s3
from rds_lake.lake.store import ObjectStore
from rds_lake.settings import parse_database_url, required
from rds_lake.side_by_side import CONCURRENCY
from rds_lake.warehouse.connection import Warehouse

if TYPE_CHECKING:
    import boto3


@lru_cache(maxsize=1)
def _session_for(_: frozenset[tuple[str, str]]) -> "boto3.Session":
    import boto3  # noqa: PLC0415 - takes long, and a sync without news does without it

    return boto3.Session()


def _session() -> "boto3.Session":
    """What clients are made from: one for as long as the variables are the same, because it keeps what it has read."""
    return _session_for(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))


def aws_client(service: Any) -> Any:  # noqa: ANN401 - boto3 makes its classes when they are asked for
    """A boto3 client, as everything here uses them."""
    from botocore.config import Config  # noqa: PLC0415 - see above

    options = Config(
        max_pool_connections=2 * CONCURRENCY,
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        user_agent="rds_lake",  # what CloudTrail shows; botocore's own is put together from its parts twice a request
    )
    return _session().client(service, config=options)


def object_store(bucket: str) -> ObjectStore:
    """A bucket, for the objects that only we write.

    Raises:
        ConfigError: there are no credentials.
    """
    return ObjectStore(open_s3(bucket, os.environ, _session), lambda: aws_client("s3"))


class RdsResource(dg.ConfigurableResource[None]):
    """The MySQL source on RDS: `RDS_LAKE_SOURCE_URL`."""

    def source(self) -> Source:
        """The source.

        Raises:
            ConfigError: the variable is missing or not a MySQL address.
        """
        variable = "RDS_LAKE_SOURCE_URL"
        return Source(parse_database_url(required(variable), scheme="mysql", variable=variable))


class LakeResource(dg.ConfigurableResource[None]):
    """The lake on S3 and its Glue catalog: `RDS_LAKE_BUCKET`, `RDS_LAKE_GLUE_DATABASE`, botocore's `AWS_*`."""

    _store: ObjectStore | None = PrivateAttr(default=None)
    _catalog: Catalog | None = PrivateAttr(default=None)

    def store(self) -> ObjectStore:
        """The lake's bucket; one client per run, making one costs more than using it.

        Raises:
            ConfigError: the variable is missing.
        """
        if self._store is None:
            self._store = object_store(required("RDS_LAKE_BUCKET"))
        return self._store

    def catalog(self) -> Catalog:
        """The lake's database in the Glue catalog."""
        if self._catalog is None:
            database = required("RDS_LAKE_GLUE_DATABASE")
            self._catalog = Catalog(aws_client("glue"), database)
        return self._catalog


class WarehouseResource(dg.ConfigurableResource[None]):
    """Redshift: `RDS_LAKE_WAREHOUSE_URL`, and `RDS_LAKE_REDSHIFT_IAM_ROLE` for COPY."""

    def warehouse(self) -> Warehouse:
        """The warehouse.

        Raises:
            ConfigError: a variable is missing or not a Redshift address.
        """
        variable = "RDS_LAKE_WAREHOUSE_URL"
        url = parse_database_url(required(variable), scheme="redshift", variable=variable)
        return Warehouse(url, required("RDS_LAKE_REDSHIFT_IAM_ROLE"))


class AuditResource(dg.ConfigurableResource[None]):
    """The audit log in DynamoDB: `RDS_LAKE_AUDIT_TABLE`."""

    _log: AuditLog | None = PrivateAttr(default=None)

    def log(self) -> AuditLog:
        """The audit log."""
        if self._log is None:
            self._log = AuditLog(aws_client("dynamodb"), required("RDS_LAKE_AUDIT_TABLE"))
        return self._log

    def pipelines_log(self) -> AuditLog | None:
        """The audit log for runs of tables, which do without it when the variable says `off`."""
        return None if required("RDS_LAKE_AUDIT_TABLE") == "off" else self.log()


class ProgressResource(dg.ConfigurableResource[None]):
    """Where assets tell how far they are; nobody listens unless the process set a listener, as `rds-lake sync` does."""

    listener: ClassVar[Callable[[str, int, int], None] | None] = None
    """Told of asset name, partitions done, partitions in all. Of the class: Dagster makes a new object for each run."""

    def of(self, asset: str, total: int) -> Callable[[int], None]:
        """A function to be told how many of an asset's partitions are done."""
        return lambda done: ProgressResource.tell(asset, done, total)

    @staticmethod
    def tell(asset: str, done: int, total: int) -> None:
        """Tell whoever listens how many of an asset's or a table's partitions are done."""
        if ProgressResource.listener is not None:
            ProgressResource.listener(asset, done, total)


def build_resources() -> dict[str, dg.ConfigurableResource[None]]:
    """All resources, by the names that assets ask for."""
    return {
        "rds": RdsResource(),
        "lake": LakeResource(),
        "warehouse": WarehouseResource(),
        "audit": AuditResource(),
        "progress": ProgressResource(),
    }
