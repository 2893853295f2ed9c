"""Whether the source can answer for a table's fingerprints from an index alone, and the index that it would need.

InnoDB's secondary indexes carry the primary key, so an index that begins with the cursor is enough where the table's
key is the primary key. Without one, each observation reads the whole table, a recent one too.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from rds_lake.extract.source import Connection, query
from rds_lake.spec import TableSpec
from rds_lake.sql import quote, quote_all

PRIMARY = "PRIMARY"
LONGEST_NAME = 64
"""Characters of an index's name in MySQL."""


def read_indexes(connection: Connection, table: str) -> dict[str, list[str]] | None:
    """The columns of each of a table's indexes, in their order, by the index's name; None for a view."""
    rows = query(
        connection,
        "SELECT index_name, column_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = %s AND sub_part IS NULL AND index_type = 'BTREE' "
        "ORDER BY index_name, seq_in_index",
        (table,),
    )
    if not rows and _is_view(connection, table):
        return None
    found: dict[str, list[str]] = {}
    for index, column in rows:
        found.setdefault(index, []).append(column)
    return found


def _is_view(connection: Connection, table: str) -> bool:
    text = "SELECT table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
    return query(connection, text, (table,)) == [("VIEW",)]


def missing_index(spec: TableSpec, indexes: Mapping[str, Sequence[str]] | None) -> str | None:
    """A warning with the statement that mends it, when no index covers what a fingerprint reads; None when one does.

    Args:
        spec: the table's YAML.
        indexes: the columns of each of the source table's indexes; None for a view, on which none can be made.
    """
    if spec.cursor is None or indexes is None:
        return None
    lack = lacking(spec.source_name, spec.cursor.column, spec.key, indexes)
    return f"{spec.table}: {lack}" if lack else None


def lacking(table: str, cursor: str, key: Sequence[str], indexes: Mapping[str, Sequence[str | None]]) -> str | None:
    """What indexes lack for the fingerprints, with the statement that mends it; None when they lack nothing.

    Args:
        table: the table's name in MySQL.
        cursor: its cursor.
        key: its key.
        indexes: the columns of each of its indexes; an expression has no name.
    """
    primary = set(indexes.get(PRIMARY, ()))
    begin = [columns for columns in indexes.values() if columns[0] == cursor]
    if any(set(key) <= {*columns, *primary} for columns in begin):
        return None
    wanted = [cursor, *(column for column in key if column not in primary)]
    problem = (
        "no index of the source begins with the cursor" if not begin else "the cursor's index does not hold the key"
    )
    return f"{problem}, so each observation reads the whole table. Make one: {create_index(table, wanted)}"


def create_index(table: str, columns: Sequence[str]) -> str:
    """The statement that makes an index over some columns."""
    name = f"rds_lake_{table}_{columns[0]}"
    if len(name) > LONGEST_NAME:
        name = f"rds_lake_{sha256(name.encode()).hexdigest()[:20]}"
    text = f"CREATE INDEX {quote(name, 'mysql')} ON {quote(table, 'mysql')} ({quote_all(tuple(columns), 'mysql')});"
    return text.replace("%%", "%")  # it is shown, not sent
