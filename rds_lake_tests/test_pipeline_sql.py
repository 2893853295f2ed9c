"""Every statement that a pipeline sends to the warehouse is Redshift's SQL, and none holds a credential."""

import re
from urllib.parse import urlsplit

import pytest
import sqlfluff
from pipeline import STAGES, Row, World

from rds_lake.spec import TableSpec
from rds_lake.warehouse.connection import Session

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def statements(world: World) -> list[str]:
    """What is sent by a first sync, an increment, a change of columns, a re-run and all checks, of both kinds."""
    sent: dict[str, None] = {}
    original = Session.execute

    def execute(self: Session, text: str, parameters: tuple[object, ...] = ()) -> list[Row]:
        sent[text] = None
        return original(self, text, parameters)

    orders = world.orders(warehouse={"schema": "shop", "distribution_key": "order_id", "sort_keys": ["customer_id"]})
    source = world.table("people", "id INT, name VARCHAR(40)", [(1, "a"), (1, "a"), (2, None)])
    alter = f"ALTER TABLE {source} MODIFY id BIGINT, MODIFY name VARCHAR(60), ADD COLUMN note INT"
    people = TableSpec.model_validate({"table": "people", "source_table": source})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "execute", execute)
        for spec in (orders, people):
            assert world.sync(spec).ok
            world.check(spec)
        move = "UPDATE {} SET order_last_updated = '2024-01-02' WHERE order_id = 777"
        world.ask(move.format(orders.source_name))
        assert world.sync(orders).ok
        world.ask(alter)
        world.query("ALTER TABLE rds_lake.load_ledger DROP COLUMN shape")
        assert world.sync(people).ok
        assert world.materialize(orders, *STAGES, partition="2024-01-04").success
    return list(sent)


def test_every_statement_passes_the_redshift_dialect(statements: list[str]) -> None:
    kinds = {" ".join(text.split()[:2]) for text in statements}
    assert {"COPY", "LOCK", "DELETE", "INSERT", "BEGIN", "COMMIT", "CREATE"} <= {kind.split()[0] for kind in kinds}
    altered = " ".join(text for text in statements if text.startswith("ALTER"))
    assert all(word in altered for word in ("ADD COLUMN shape", "ADD COLUMN", "TYPE VARCHAR", "RENAME", "DROP COLUMN"))
    for text in statements:
        short = re.sub(r"(, \((%s, )+%s\))+", "", text)  # one row of the ledger's INSERT is as good as ten
        sqlfluff.parse(short.replace("%%", "%").replace("%s", "'x'"), dialect="redshift")  # raises when it cannot


def test_no_statement_holds_a_credential_or_commits_in_the_middle(world: World, statements: list[str]) -> None:
    password = urlsplit(world.environ["RDS_LAKE_WAREHOUSE_URL"]).password
    secrets = [password, world.environ["AWS_SECRET_ACCESS_KEY"], world.environ["AWS_ACCESS_KEY_ID"]]
    for text in statements:
        assert not [secret for secret in secrets if str(secret) in text]
        assert not re.search(r"TRUNCATE|CREDENTIALS|ACCESS_KEY|PASSWORD", text, re.IGNORECASE)
    [copies] = [{text.split(" FROM ")[0] for text in statements if text.startswith("COPY")}]
    into_empty = {f'COPY "shop"."orders_{world.token}"', f'COPY "public"."people_{world.token}"'}
    assert copies == {'COPY "incoming_orders"', 'COPY "incoming_people"', *into_empty}
    assert all("IAM_ROLE 'arn:aws:iam::" in text for text in statements if text.startswith("COPY"))
