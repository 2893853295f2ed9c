"""The resource of dropped files, configured by environment variables that are read when they are needed."""

import os

import dagster as dg

from rds_lake.audit_log.log import AuditLog
from rds_lake.errors import ConfigError
from rds_lake.files.events import EventQueue
from rds_lake.files.feed import FileFeed
from rds_lake.files.machine import Receiver
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.files.store import FileStore
from rds_lake.files.upsert import RDS
from rds_lake.files.work import Say
from rds_lake.files.zone import DropZone
from rds_lake.resources.services import AuditResource, WarehouseResource, aws_client, object_store
from rds_lake.settings import parse_database_url, required
from rds_lake.warehouse.connection import Database

ReceiverSpec = DropZoneSpec | FileFeedSpec


def _silent(_: str) -> None:
    """Say nothing."""


class FilesResource(dg.ConfigurableResource[None]):
    """What dropped files need: their bucket, the queues of events, the audit log, PostgreSQL on RDS."""

    def store(self, bucket: str | None) -> FileStore:
        """The bucket that files are dropped into: the one that the YAML names, or that of `RDS_LAKE_DROP_BUCKET`.

        Raises:
            ConfigError: the variable is missing, or it is the lake's bucket, whose own objects would be taken.
        """
        name = bucket or required("RDS_LAKE_DROP_BUCKET")
        if name == os.environ.get("RDS_LAKE_BUCKET"):
            raise ConfigError(
                f"Files cannot be dropped into the bucket {name}, which is that of the lake (RDS_LAKE_BUCKET): the "
                "lake's own objects would be taken.",
                "Correct RDS_LAKE_DROP_BUCKET, or the bucket in the YAML.",
            )
        return FileStore(aws_client("s3"), object_store(name))

    def queue(self, name: str) -> EventQueue:
        """A queue of events."""
        return EventQueue(aws_client("sqs"), name)

    def audit_log(self) -> AuditLog:
        """The audit log.

        Raises:
            ConfigError: it is switched off, but files cannot do without it.
        """
        if required("RDS_LAKE_AUDIT_TABLE") == "off":
            raise ConfigError(
                "RDS_LAKE_AUDIT_TABLE is 'off', but dropped files are claimed in the audit log.", "Name a table."
            )
        return AuditResource().log()

    def postgres(self) -> Database:
        """PostgreSQL on RDS.

        Raises:
            ConfigError: the variable is missing or not a PostgreSQL address.
        """
        variable = "RDS_LAKE_POSTGRES_URL"
        return Database(parse_database_url(required(variable), scheme="postgresql", variable=variable), RDS)

    def receiver(self, spec: ReceiverSpec, say: Say = _silent) -> Receiver:
        """A drop zone or a feed at work."""
        store = self.store(spec.bucket)
        if isinstance(spec, DropZoneSpec):
            return DropZone(spec, store, WarehouseResource().warehouse, say)
        return FileFeed(spec, store, self.postgres, say)
