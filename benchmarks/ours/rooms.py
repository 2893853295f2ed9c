"""The rooms, made from the environment as the product's resources make them, but without Dagster.

What a program does not ask for is not imported: starting is part of what is measured.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rds_lake import startup
from rds_lake.extract.source import Source
from rds_lake.settings import parse_database_url, required
from rds_lake.spec import TableSpec

if TYPE_CHECKING:
    import boto3

    from rds_lake.lake.catalog import Catalog
    from rds_lake.lake.store import ObjectStore
    from rds_lake.warehouse.connection import Warehouse

SOURCE, WAREHOUSE = "RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL"


class Rooms(NamedTuple):
    """The table's YAML, which is the program's first word, in JSON; the source; and the program's other words."""

    spec: TableSpec
    source: Source
    words: Sequence[str]

    def store(self) -> "ObjectStore":
        """The lake's bucket."""
        from rds_lake.lake.s3 import open_s3
        from rds_lake.lake.store import ObjectStore

        def session() -> "boto3.Session":
            import boto3

            return boto3.Session()

        return ObjectStore(open_s3(required("RDS_LAKE_BUCKET"), os.environ, session), lambda: session().client("s3"))

    def catalog(self) -> "Catalog":
        """The lake's catalog."""
        import boto3

        from rds_lake.lake.catalog import Catalog

        return Catalog(boto3.client("glue"), required("RDS_LAKE_GLUE_DATABASE"))

    def warehouse(self) -> "Warehouse":
        """The warehouse."""
        from rds_lake.warehouse.connection import Warehouse

        url = parse_database_url(required(WAREHOUSE), scheme="redshift", variable=WAREHOUSE)
        return Warehouse(url, required("RDS_LAKE_REDSHIFT_IAM_ROLE"))


def open_rooms() -> Rooms:
    """The rooms for this program, which begins as a command does."""
    startup.begin()
    startup.leave_pandas_out()
    spec = TableSpec.model_validate(json.loads(sys.argv[1]))
    return Rooms(spec, Source(parse_database_url(required(SOURCE), scheme="mysql", variable=SOURCE)), sys.argv[2:])
