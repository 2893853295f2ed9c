"""The SQL of loading files: Redshift's own dialect, no TRUNCATE, no credential, and no value in a text."""

import re

import pytest
import sqlfluff

from rds_lake.files import statements
from rds_lake.files.schema import LINE
from rds_lake.files.statements import FileTarget
from rds_lake.warehouse.migrate import Migration, statements_alone, statements_beside, statements_instead
from rds_lake.warehouse.statements import FILES_OF

COLUMNS = (
    ("id", "BIGINT"),
    ("user", "VARCHAR(20)"),
    ('a "b" %s', "DECIMAL(12,2)"),
    ("timestamp", "TIMESTAMPTZ"),
    ("größe", "DOUBLE PRECISION"),
)
TARGETS = {
    "plain": FileTarget("sales", "things", COLUMNS, (), LINE),
    "keyed": FileTarget("sales", "order", COLUMNS, ("id", "user"), LINE),
    "hostile": FileTarget('sc"hema', "select", COLUMNS, ('a "b" %s',), LINE),
}
REFUSED = re.compile(
    r"\b(TRUNCATE|ON CONFLICT|RETURNING|SERIAL|JSONB|CTID|SAVEPOINT|ACCESS_KEY|CREDENTIALS|MERGE|DISTINCT ON)\b",
    re.IGNORECASE,
)
"""What Redshift lacks, or what must never stand in a load."""


WIDER = {"user": "rds_lake_wide_1", "id": "rds_lake_wide_2"}
"""What the wider columns are called until they take the places of the others."""


def all_statements(target: FileTarget) -> list[str]:
    migration = Migration((("new", "BIGINT"),), (("user", "VARCHAR(40)"),), (("id", "DECIMAL(20,0)"),))
    found = [
        *target.setup_ledger(),
        *target.setup(),
        target.lock(),
        target.create_incoming(),
        target.copy("s3://drop/it's/manifest.json", "arn:aws:iam::123456789012:role/r"),
        target.count_incoming(),
        target.clear_incoming(),
        target.drop_incoming(),
        target.any_row(),
        target.delete_all(),
        target.insert(),
        *statements_alone(target, migration),
        *statements_beside(target, migration, WIDER),
        *statements_instead(target, migration, WIDER),
        statements.entries_of(3),
        statements.entries_of_content(2),
        statements.ENTRIES_SINCE,
        statements.TRUNCATES,
        statements.REVIVE,
        statements.PIPELINE_OF,
        FILES_OF,
        statements.limit_wait(120),
        statements.UNLIMITED,
        statements.remember(2),
    ]
    return [*found, target.delete_same_keys()] if target.keys else found


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_statement_is_redshifts_own_dialect(target: FileTarget) -> None:
    for text in all_statements(target):
        plain = re.sub(r"(?<!%)%s", "'x'", text).replace("%%", "%")
        sqlfluff.parse(f"{plain};", dialect="redshift")  # raises when it cannot
        assert not REFUSED.search(re.sub(r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'", "x", text)), text


def test_text_keys_are_compared_with_their_trailing_blanks() -> None:
    text = TARGETS["keyed"].delete_same_keys()
    assert text == (
        'DELETE FROM "sales"."order" USING "incoming_file" WHERE "sales"."order"."id" = "incoming_file"."id" '
        'AND "sales"."order"."user" = "incoming_file"."user" '
        'AND "sales"."order"."user" || \'.\' = "incoming_file"."user" || \'.\''
    )


def test_the_line_of_a_row_is_copied_but_not_kept() -> None:
    target = TARGETS["plain"]
    assert f'"{LINE}" BIGINT' in target.create_incoming()
    assert LINE not in target.insert()
    assert all(LINE not in text for text in target.setup())


def test_names_of_locks_are_short_and_those_of_two_tables_differ_however_long_they_are() -> None:
    long = ["x" * 127, "x" * 126 + "y", "c", "b_c", "größe" * 20]
    schemas = ["s", "a_b", "a", "x" * 127, "größe" * 20]
    targets = [FileTarget(schema, table, COLUMNS, (), LINE) for schema in schemas for table in long]
    names = [target.lock_table.partition(".")[2].strip('"') for target in targets]
    assert len(set(names)) == len(targets)
    assert all(re.fullmatch(r"lock_file_.{1,40}_[0-9a-f]{8}", name) for name in names)
    assert max(len(name.encode()) for name in names) <= 63
    assert FileTarget("sales", "things", COLUMNS, (), LINE).lock_table == 'rds_lake."lock_file_sales_things_ffbdc1df"'
