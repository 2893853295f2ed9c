"""MiniStack, made to behave as AWS does in two places that we lean on: `python -m rds_lake.local.ministack`.

* Athena reads the files of the *registered* partitions; MiniStack 1.5 reads every file below the table's location, so
  a batch that no partition names any more would be counted twice.
* Glue has BatchDeletePartition; MiniStack 1.5 does not know it.
"""

import functools
import json
from typing import Any


def registered_files(location: str, keys: list[str], tables: list[dict[str, Any]], partitions: Any) -> list[str]:  # noqa: ANN401 - MiniStack's own store
    """Those of a table's files that a query may see.

    Args:
        location: the table's `s3://` location.
        keys: the files' `s3://` addresses.
        tables: Glue's tables.
        partitions: Glue's partitions by `database/table`.
    """
    for table in tables:
        if (table.get("StorageDescriptor") or {}).get("Location") != location or not table.get("PartitionKeys"):
            continue
        registered = partitions.get(f"{table['DatabaseName']}/{table['Name']}") or []
        places = tuple(item["StorageDescriptor"]["Location"].rstrip("/") + "/" for item in registered)
        return [key for key in keys if key.startswith(places)]
    return keys


def _patch_athena() -> None:
    from ministack.services import athena, glue

    original = athena._materialize_table_files

    @functools.wraps(original)
    def materialize(location: str, workdirs: list[str]) -> list[str]:
        files: list[str] = original(location, workdirs)
        if not files:
            return files
        root = workdirs[-1]
        addresses = {location.rstrip("/") + file.removeprefix(root): file for file in files}
        tables = [table for _, table in glue._tables.items()]
        return [addresses[key] for key in registered_files(location, list(addresses), tables, glue._partitions)]

    athena._materialize_table_files = materialize


def _patch_glue() -> None:
    from ministack.services import glue

    original = glue._handle_request_sync

    @functools.wraps(original)
    def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:  # noqa: ANN401
        if headers.get("x-amz-target", "").endswith(".BatchDeletePartition"):
            return _delete_partitions(glue, json.loads(body))
        return original(method, path, headers, body, query)

    glue._handle_request_sync = handle


def _delete_partitions(glue: Any, data: dict[str, Any]) -> Any:  # noqa: ANN401
    errors = []
    stored = glue._partitions.get(f"{data['DatabaseName']}/{data['TableName']}") or []
    present = [item["Values"] for item in stored]
    for item in data["PartitionsToDelete"]:
        if item["Values"] in present:
            glue._delete_partition({**data, "PartitionValues": item["Values"]})
        else:
            detail = {"ErrorCode": "EntityNotFoundException", "ErrorMessage": "Partition not found"}
            errors.append({"PartitionValues": item["Values"], "ErrorDetail": detail})
    return glue.json_response({"Errors": errors})


if __name__ == "__main__":
    from ministack.app import main

    _patch_athena()
    _patch_glue()
    main()
