"""Columns that change at the source: what each contract makes of it, value by value, in lake, catalog and warehouse.

`Chain` does what a sync does with the rooms alone, so that each change can be tried under each contract; the end of the
module does the same through Dagster.
"""

import io
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import STAGES, VALID, World, failures, order_rows
from rooms import Rooms, as_committed, bounded, daily, enlarging_no_text, mysql_table, rooms, table_spec

from rds_lake.errors import PermanentError, SpecError, TransientError
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import Source
from rds_lake.lake.agreement import read_agreed
from rds_lake.lake.archive import copy_to_archive, vacate_landing
from rds_lake.lake.catalog import publish
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.landing import land
from rds_lake.lake.manifest import Manifests
from rds_lake.lake.store import ObjectStore
from rds_lake.plan import Plan, decide, examine, observe
from rds_lake.quality.inspect import inspect
from rds_lake.quality.split import DISCARDED_GLUE_COLUMNS, Splitter
from rds_lake.spec import LAKE_STAGES, TableSpec
from rds_lake.warehouse import ledger
from rds_lake.warehouse.connection import Session
from rds_lake.warehouse.load import load
from rds_lake.warehouse.migrate import WIDE

__all__ = ["mysql_table", "rooms"]

pytestmark = pytest.mark.stack

DAYS = ("2024-01-01", "2024-01-02", "2024-01-03")
COLUMNS = "id INT PRIMARY KEY, at DATETIME(6), v VARCHAR(10), n INT, d DECIMAL(8,2), KEY (at)"
ROWS = (
    (1, "2024-01-01 10:00:00", "one", 20240101, "1.25"),
    (2, "2024-01-01 10:00:00.000001", None, None, None),
    (3, "2024-01-02 00:00:00", "", 0, "-0.05"),
    (4, "2024-01-02 23:59:59.999999", "ünï ", 20240102, "99999.99"),
    (5, "2024-01-03 12:00:00", "five", 20991231, "0.00"),
    (95, "2024-01-03 12:00:00", "bad id", 20240103, "7.77"),
)
RULES = [{"rule": "between", "name": "small_id", "column": "id", "max": 90}]
Rows = list[dict[str, Any]]


@dataclass
class Chain:
    """One table taken through all rooms, as a sync does it."""

    rooms: Rooms
    spec: TableSpec
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = TableKeys.of(self.spec)
        self.manifests = Manifests(self.rooms.store, self.keys)

    def under(self, contract: str) -> "Chain":
        """The same table under another contract."""
        return Chain(self.rooms, self.spec.model_copy(update={"schema_changes": contract}))

    def alter(self, *statements: str, mode: str = "STRICT_ALL_TABLES") -> None:
        self.rooms.sql(
            f"SET sql_mode='{mode}'", *[text.replace("TABLE", f"TABLE {self.spec.source_name}") for text in statements]
        )

    def write(self, text: str) -> None:
        self.rooms.sql(text.replace("{}", self.spec.source_name))

    # --- doing ---

    def plan(self) -> Plan:
        seen = observe(self.rooms.source, self.rooms.store, self.spec)
        return decide(
            seen.fingerprints,
            examine(self.rooms.source, self.rooms.store, self.rooms.warehouse, self.spec, seen.table),
        )

    def sync(self) -> Plan:
        plan = self.plan()
        if plan.land:
            self.land(plan.land)
        if both := sorted({*plan.land, *plan.resume}):
            self.split(both)
            self.archive(both)
            self.load(both)
        return plan

    def land(self, days: Sequence[str]) -> None:
        with open_snapshot(self.rooms.source, self.spec) as snapshot:
            land(snapshot, self.rooms.store, days)
        self.publish("landing", days)

    def split(self, days: Sequence[str]) -> None:
        splitter = Splitter(self.rooms.store, self.spec, {})
        for day in days:
            now = {stage: self.manifests.read(stage, day) for stage in ("staging", "discarded")}
            old = {stage: item.manifest if item else None for stage, item in now.items()}
            done = splitter.split(self.manifests.require("landing", day).manifest, old["staging"], old["discarded"])
            self.manifests.commit(done.discarded, now["discarded"])
            self.manifests.commit(done.staging, now["staging"])
        self.publish("staging", days)
        self.publish("discarded", days, DISCARDED_GLUE_COLUMNS)

    def archive(self, days: Sequence[str]) -> None:
        landed = list(self.manifests.require_all("landing", days).values())
        archived = self.manifests.read_all("archived", days)
        copies = copy_to_archive(self.rooms.store, self.keys, [item.manifest for item in landed], archived)
        vacate_landing(self.rooms.store, self.keys, landed, {day: item.manifest for day, item in copies.items()})
        self.publish("archived", days)
        self.publish("landing", days)

    def staged(self, days: Sequence[str]) -> list[Any]:
        return [self.manifests.require("staging", day).manifest for day in days]

    def load(self, days: Sequence[str]) -> Any:
        return load(self.rooms.warehouse, self.rooms.store, self.spec, self.staged(days))

    def publish(self, stage: Any, days: Sequence[str], extra: Any = ()) -> None:
        manifests = [item.manifest for item in self.manifests.read_all(stage, days).values()]
        publish(self.rooms.catalog, self.rooms.store, self.spec, stage, as_committed(manifests), extra)

    # --- looking, without rds_lake's readers ---

    def source(self) -> Rows:
        with self.rooms.mysql() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(f"SELECT * FROM {self.spec.source_name}")
            return list(cursor.fetchall())

    def lake(self, stage: str) -> Rows:
        found: Rows = []
        for key in self.rooms.keys(f"{self.spec.table}/_manifests/{stage}/"):
            manifest = json.loads(self.body(key))
            names = [column["name"] for column in manifest["schema"]]
            for entry in manifest["entries"]:
                read = pq.read_table(io.BytesIO(self.body(self.rooms.store.key(entry["url"]))))
                assert read.column_names[: len(names)] == names, "a batch has the columns that its manifest says"
                found += read.to_pylist()
        return found

    def body(self, key: str) -> bytes:
        content: bytes = self.rooms.store.client.get_object(Bucket=self.rooms.store.bucket, Key=key)["Body"].read()
        return content

    def warehouse(self) -> Rows:
        connection = self.rooms.postgres()
        try:
            with connection.cursor() as cursor:
                cursor.execute(f'SELECT * FROM public."{self.spec.warehouse_name}"')
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def types(self) -> dict[str, str]:
        """The warehouse table's columns and types."""
        found = self.rooms.ask(
            "SELECT column_name, data_type, character_maximum_length, numeric_precision, numeric_scale "
            "FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
            (self.spec.warehouse_name,),
        )
        return {
            name: f"{kind}({length})" if length else f"{kind}({digits},{scale})" if kind == "numeric" else kind
            for name, kind, length, digits, scale in found
        }

    def ledger(self) -> dict[str, ledger.Entry]:
        with self.rooms.warehouse.connect() as session:
            return ledger.read(session, self.spec.table)

    def batches(self) -> dict[str, str]:
        return {day: item.manifest.batch for day, item in self.manifests.read_all("landing", DAYS).items()}

    def state(self) -> Any:
        objects = {item.key: item.etag for item in self.rooms.store.list(f"{self.spec.table}/")}
        return objects, self.ledger(), self.types(), canonical(self.warehouse())

    def athena(self, stage: str, columns: str) -> list[list[str | None]]:
        from lake.test_lake_catalog import athena

        rows: list[list[str | None]] = athena(self.rooms, f'SELECT {columns} FROM "{self.spec.table}_{stage}"')
        return sorted(rows, key=lambda row: [str(cell) for cell in row])

    # --- the promise ---

    def assert_in_step(self, expected: Rows) -> None:
        """Every stage holds exactly these rows, whatever was landed before or after a change of the columns."""
        good = [row for row in expected if row["id"] <= 90]
        landed, staged, discarded = self.lake("landing"), self.lake("staging"), self.lake("discarded")
        assert canonical(landed) == canonical(expected)
        assert canonical(self.lake("archived")) == canonical(expected)
        assert canonical(staged) == canonical(good)
        plain = [{name: value for name, value in row.items() if not name.startswith("_")} for row in discarded]
        assert canonical(plain) == canonical([row for row in expected if row["id"] > 90])
        assert canonical(self.warehouse()) == canonical(good)
        for day, entry in self.ledger().items():
            assert entry.batch == self.manifests.require("staging", day).manifest.batch
        self.assert_catalog(len(expected))
        assert self.plan().nothing, "a second sync has nothing to do"

    def assert_catalog(self, rows: int) -> None:
        """All partitions of every Glue table have the table's columns, and Athena reads all rows with all columns."""
        glue, database = self.rooms.client("glue"), self.rooms.catalog.database
        for stage in LAKE_STAGES[1:]:
            name = f"{self.spec.table}_{stage}"
            columns = glue.get_table(DatabaseName=database, Name=name)["Table"]["StorageDescriptor"]["Columns"]
            partitions = glue.get_partitions(DatabaseName=database, TableName=name)["Partitions"]
            assert all(item["StorageDescriptor"]["Columns"] == columns for item in partitions)
        names = ", ".join(f'"{column["Name"]}"' for column in columns)
        assert len(self.athena("archived", names)) == rows


def canonical(rows: Rows) -> list[tuple[tuple[str, Any], ...]]:
    """Rows in one order; a column that is missing is one that is NULL."""
    plain = [tuple(sorted((name, _plain(value)) for name, value in row.items() if value is not None)) for row in rows]
    return sorted(plain, key=lambda row: dict(row)["id"])


def _plain(value: Any) -> Any:
    return value.normalize() if isinstance(value, Decimal) else value


Make = Any


@pytest.fixture
def chain(rooms, mysql_table) -> Make:
    """Makes a table that has been synced once: `chain("freeze")`."""

    def make(contract: str = "evolve", columns: str = COLUMNS, rows: Sequence[Any] = ROWS, **more: Any) -> Chain:
        source = mysql_table(columns, rows=rows, options="DEFAULT CHARACTER SET utf8mb4")
        given = {"rules": RULES, "schema_changes": contract, **more}
        made = Chain(rooms, daily(source, **given) if "cursor" not in more else table_spec(source, **given))
        made.sync()
        return made

    return make


# --- each change under each contract ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """A change of the source.

    Attributes:
        alter: what is done to the table.
        after: what is done to the rows, without touching the cursor.
        said: the change in words.
        relands: the contracts under which every partition is landed again.
        types: what becomes of the warehouse's columns under `evolve`.
        lost: columns that are NULL from then on.
        left: columns that `discard` does not read.
    """

    alter: str
    said: str
    after: str = "DO 0"
    relands: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


BOTH, EVOLVE = ("evolve", "discard"), ("evolve",)
DRIFTS = {
    "added": Drift(
        "ALTER TABLE ADD COLUMN x INT", "'x' (int(11)) was added", "UPDATE {} SET x = id * 10", EVOLVE,
        (("x", "integer"),), left=("x",),
    ),
    "added with a default, NOT NULL": Drift(
        "ALTER TABLE ADD COLUMN x VARCHAR(5) NOT NULL DEFAULT 'new'", "'x' (varchar(5)) was added", relands=EVOLVE,
        types=(("x", "character varying(20)"),), left=("x",),
    ),
    "added in the middle": Drift(
        "ALTER TABLE ADD COLUMN x DATE AFTER id", "'x' (date) was added", "UPDATE {} SET x = '2024-02-29'", EVOLVE,
        (("x", "date"),), left=("x",),
    ),
    "dropped": Drift("ALTER TABLE DROP COLUMN n", "'n' (int(11)) was dropped", lost=("n",)),
    "renamed": Drift(
        "ALTER TABLE CHANGE n m INT", "'n' (int(11)) was dropped; 'm' (int(11)) was added; a renamed column looks like "
        "one that was dropped and one that was added", relands=EVOLVE, types=(("m", "integer"),), lost=("n",),
        left=("m",),
    ),
    "widened number": Drift(
        "ALTER TABLE MODIFY n BIGINT", "'n' is now bigint(20), was int(11)", relands=EVOLVE, types=(("n", "bigint"),)
    ),
    "widened text": Drift(
        "ALTER TABLE MODIFY v VARCHAR(200)", "'v' is now varchar(200), was varchar(10)",
        types=(("v", "character varying(800)"),),
    ),
    "widened decimal": Drift(
        "ALTER TABLE MODIFY d DECIMAL(12,4)", "'d' is now decimal(12,4), was decimal(8,2)", relands=EVOLVE,
        types=(("d", "numeric(12,4)"),),
    ),
    "narrowed number": Drift(
        "ALTER TABLE MODIFY id SMALLINT", "'id' is now smallint(6), was int(11)", relands=BOTH
    ),
    "narrowed text": Drift(
        "ALTER TABLE MODIFY v VARCHAR(6)", "'v' is now varchar(6), was varchar(10)", relands=BOTH
    ),
    "text that loses its trailing blanks": Drift(
        "ALTER TABLE MODIFY v CHAR(10)", "'v' is now char(10), was varchar(10)", relands=BOTH
    ),
    "text that becomes one of two words, not strict": Drift(
        "ALTER TABLE MODIFY v ENUM('ONE','FIVE')", "'v' is now enum('ONE','FIVE'), was varchar(10)", relands=BOTH
    ),
    "number that becomes a year, not strict": Drift(
        "ALTER TABLE MODIFY n YEAR", "'n' is now year(4), was int(11)", relands=BOTH
    ),
    "NULL that becomes a number, not strict": Drift(
        "ALTER TABLE MODIFY n INT NOT NULL", "'n' is NOT NULL now", relands=BOTH
    ),
    "narrowed decimal, which rounds": Drift(
        "ALTER TABLE MODIFY d DECIMAL(7,1)", "'d' is now decimal(7,1), was decimal(8,2)", relands=BOTH
    ),
    "number to text": Drift(
        "ALTER TABLE MODIFY n VARCHAR(9)", "'n' is now varchar(9), was int(11)", relands=BOTH,
        types=(("n", "character varying(36)"),),
    ),
    "text in a smaller character set, not strict": Drift(
        "ALTER TABLE MODIFY v VARCHAR(10) CHARACTER SET ascii",
        "'v' is in the character set ascii now, was in utf8mb4", relands=BOTH,
    ),
    "reordered": Drift(
        "ALTER TABLE MODIFY d DECIMAL(8,2) FIRST, MODIFY v VARCHAR(10) AFTER n",
        "the columns stand in another order now, from 'id' on, or have exchanged names", relands=BOTH,
    ),
    "several at once": Drift(
        "ALTER TABLE DROP COLUMN v, ADD COLUMN x INT DEFAULT 5 FIRST, MODIFY n BIGINT",
        "'v' (varchar(10)) was dropped; 'n' is now bigint(20), was int(11); 'x' (int(11)) was added; a renamed column "
        "looks like one that was dropped and one that was added", relands=EVOLVE,
        types=(("n", "bigint"), ("x", "integer")), lost=("v",), left=("x",),
    ),
}  # fmt: skip


def expected(chain: Chain, drift: Drift, contract: str, before: Rows, landed_again: set[str]) -> Rows:
    """The source's rows as the lake has to hold them now."""
    old = {row["id"]: row for row in before}
    rows = []
    for now in chain.source():
        row = {name: value for name, value in now.items() if contract == "evolve" or name not in drift.left}
        if contract == "discard" and isinstance(row.get("n"), str):
            row["n"] = int(row["n"])
        for name in drift.lost:
            again = f"{row['at']:%Y-%m-%d}" in landed_again
            row[name] = None if again or row["id"] not in old else old[row["id"]][name]
        rows.append(row)
    return rows


def said(drift: Drift, contract: str) -> list[str]:
    """What a contract writes down of a change."""
    changes = [text for text in drift.said.split("; ") if text and not text.startswith("a renamed")]
    return [text for text in changes if contract == "evolve" or not text.endswith("was added")]


SAME_UNDER_BOTH = ("reordered", "narrowed number", "narrowed text", "added with a default, NOT NULL")


@pytest.mark.parametrize(
    ("name", "contract"),
    [(name, contract) for name in DRIFTS for contract in BOTH if contract == "evolve" or name not in SAME_UNDER_BOTH],
)
def test_no_row_is_lost_and_no_value_bent(chain, name, contract):
    drift = DRIFTS[name]
    made: Chain = chain(contract)
    before, types, batches = made.source(), made.types(), made.batches()
    made.alter(drift.alter, mode="" if name.endswith("not strict") else "STRICT_ALL_TABLES")
    made.write(drift.after)
    made.write("UPDATE {} SET at = '2024-01-02 05:00:00' WHERE id = 3")  # a partition that changed in any case
    plan = made.sync()
    again = set(DAYS) if contract in drift.relands else {DAYS[1], *([DAYS[2]] if said(drift, contract) else [])}
    assert plan == Plan(tuple(sorted(again)), ())
    assert {day for day, batch in made.batches().items() if batch != batches[day]} <= again
    wanted = {**types, **dict(drift.types)} if contract == "evolve" else types
    assert made.types() == wanted
    made.assert_in_step(expected(made, drift, contract, before, again))
    stored = read_agreed(made.rooms.store, made.keys)
    assert stored.agreed.version == (2 if said(drift, contract) else 1)
    assert made.rooms.keys(f"{made.spec.table}/_manifests/schema") == [made.keys.schema]


@pytest.fixture(scope="module")
def frozen(rooms) -> Iterator[Chain]:
    """A table under `freeze`, and beside it a copy of the source that it is made from anew after each test."""
    source = rooms.name()
    rooms.sql(f"CREATE TABLE {source} ({COLUMNS}) DEFAULT CHARACTER SET utf8mb4")
    rooms.fill(source, ROWS)
    made = Chain(rooms, daily(source, rules=RULES, schema_changes="freeze"))
    made.sync()
    yield made
    rooms.sql(f"DROP TABLE {source}")


@pytest.mark.parametrize("name", DRIFTS)
def test_freeze_refuses_by_name_and_changes_nothing(frozen, name):
    drift, state, table = DRIFTS[name], frozen.state(), frozen.spec.table
    frozen.rooms.sql(f"CREATE TABLE {table}_kept LIKE {table}", f"INSERT INTO {table}_kept SELECT * FROM {table}")
    try:
        frozen.alter(drift.alter, mode="" if name.endswith("not strict") else "STRICT_ALL_TABLES")
        for refused in (frozen.sync, lambda: frozen.land(DAYS)):
            with pytest.raises(SpecError) as caught:
                refused()
            assert str(caught.value) == (
                f"{table}: the source table '{table}' has changed, and schema_changes is freeze: {drift.said}. "
                "Nothing was landed. Take the change back, or set schema_changes to evolve (to follow "
                f"it) or discard (to keep the columns as they were) in defs/{table}/defs.yaml."
            )
    finally:
        frozen.rooms.sql(f"DROP TABLE {table}", f"RENAME TABLE {table}_kept TO {table}")
    assert frozen.state() == state
    assert frozen.plan().nothing


@pytest.mark.parametrize("name", ["added", "dropped"])
def test_what_evolve_has_followed_is_what_freeze_holds_on_to(chain, name):
    made: Chain = chain("freeze", rows=ROWS[:1])
    made.alter(DRIFTS[name].alter)
    assert made.under("evolve").sync().land == DAYS[:1]
    assert made.sync().nothing


@pytest.mark.parametrize("contract", ["evolve", "discard"])
def test_a_type_that_nothing_holds_is_refused_and_changes_nothing(chain, contract):
    made: Chain = chain(contract)
    state = made.state()
    made.write("UPDATE {} SET n = 20240101")
    made.alter("ALTER TABLE MODIFY n DATE")
    for refused in (made.sync, lambda: made.land(DAYS)):
        with pytest.raises(SpecError) as caught:
            refused()
        assert str(caught.value) == (
            f"{made.spec.table}: the source table '{made.spec.table}' has the column 'n' as date now; it was int(11), "
            "and no type holds the values of both. Nothing was landed. Give the new values a column of another name at "
            "the source (take back a new 'as'), or start over with the present columns (see schema_changes in "
            "docs/tables.md)."
        )
    assert made.state() == state


@pytest.mark.parametrize(
    ("alter", "after", "shown"),
    [
        ("MODIFY n BIGINT", "SET n = 3000000000", ("n", "3000000000", "int(11) (INTEGER)")),
        ("MODIFY v VARCHAR(99)", "SET v = REPEAT('ü', 21)", ("v", f"'{'ü' * 21}'", "varchar(10) (VARCHAR(40))")),
    ],
    ids=["number", "text"],
)  # fmt: skip
def test_discard_refuses_a_value_that_the_agreed_type_does_not_hold(chain, alter, after, shown):
    made: Chain = chain("discard")
    made.alter(f"ALTER TABLE {alter}")
    made.sync()
    before = made.batches(), made.ledger(), canonical(made.warehouse())
    made.write(f"UPDATE {{}} {after}, at = '2024-01-03 13:00:00' WHERE id = 5")
    with pytest.raises(PermanentError) as caught:
        made.sync()
    table, (column, value, agreed) = made.spec.table, shown
    assert str(caught.value) == (
        f"{table}: the column '{column}' holds {value} in the row id = 5, which the agreed type {agreed} cannot hold "
        f"whole. Set schema_changes: evolve in defs/{table}/defs.yaml to follow the "
        "source, or correct the value; no row of this partition was changed in the lake."
    )
    assert (made.batches(), made.ledger(), canonical(made.warehouse())) == before
    made.under("evolve").sync()
    made.under("evolve").assert_in_step(made.source())


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        ("DROP COLUMN id", "key names the column 'id'"),
        ("CHANGE id ident INT", "key names the column 'id'"),
        ("CHANGE at moment DATETIME(6)", "cursor names the column 'at'"),
        ("DROP COLUMN n", "rule full names the column 'n'"),
    ],
)
@pytest.mark.parametrize("contract", ["evolve", "freeze", "discard"])
def test_a_column_that_the_yaml_names_cannot_go(chain, contract, alter, message):
    made: Chain = chain(contract, rules=[{"rule": "not_null", "name": "full", "column": "n"}], rows=ROWS[:1])
    state = made.state()
    made.alter(f"ALTER TABLE {alter}")
    names = ", ".join(made.source()[0])
    with pytest.raises(SpecError) as caught:
        made.sync()
    assert str(caught.value) == (
        f"{made.spec.table}: {message}, which the source table '{made.spec.table}' does not have (it has: {names}). "
        f"Correct it in defs/{made.spec.table}/defs.yaml, or add the column to the source."
    )
    assert made.state() == state


# --- longer stories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["CHANGE a b INT, CHANGE b a INT", "MODIFY g INT AS (id * 5) STORED"])
def test_an_exchange_of_names_or_another_expression_has_all_landed_again(chain, change):
    rows = [(1, "2024-01-01", 1, 100), (2, "2024-01-02", 2, None)]
    made: Chain = chain(columns="id INT PRIMARY KEY, at DATETIME(6), a INT, b INT, KEY (at)", rows=rows)
    made.alter("ALTER TABLE ADD COLUMN g INT AS (id * 2) STORED")
    made.sync()
    made.alter(f"ALTER TABLE {change}")
    assert made.sync().land == DAYS[:2]
    made.assert_in_step(made.source())


def test_what_an_earlier_version_agreed_on_is_no_change_and_learns_the_order(chain):
    made: Chain = chain(rows=ROWS[:1])
    content = json.loads(made.body(made.keys.schema))
    assert content.pop("order") == ["id", "at", "v", "n", "d"]
    for column in content["columns"]:
        assert column.pop("generated") == ""
    made.rooms.store.put(made.keys.schema, json.dumps(content).encode())
    assert made.plan().nothing
    made.land(DAYS[:1])
    stored = read_agreed(made.rooms.store, made.keys).agreed
    assert (stored.version, stored.order) == (1, ("id", "at", "v", "n", "d"))
    assert {item.column.generated for item in stored.columns} == {""}


def test_a_column_that_is_dropped_and_comes_back_is_filled_again_everywhere(chain):
    made: Chain = chain()
    made.alter("ALTER TABLE DROP COLUMN n")
    assert made.sync().land == DAYS[2:]  # so that it is written down
    assert made.sync().nothing
    made.write("UPDATE {} SET at = '2024-01-01 11:00:00' WHERE id = 1")
    assert made.sync().land == DAYS[:1]
    made.alter("ALTER TABLE ADD COLUMN n INT")
    made.write("UPDATE {} SET n = id")
    assert made.sync().land == DAYS
    made.assert_in_step(made.source())


def test_a_table_without_a_cursor_follows_as_well(chain):
    made: Chain = chain("evolve", "id INT, v VARCHAR(10)", [(1, "a"), (1, "a"), (95, None)], key=[], cursor=None)
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 1 FIRST, MODIFY id BIGINT, DROP COLUMN v")
    assert made.sync().land == ("all",)
    rows = made.source()
    assert sorted(row["id"] for row in made.lake("landing")) == [1, 1, 95]
    assert [(row["id"], row["x"], row["v"]) for row in made.lake("staging")] == [(1, 1, None)]  # one of two equal rows
    assert len(rows) == len(made.lake("staging")) + len(made.lake("discarded"))
    assert canonical(made.warehouse()) == canonical([{"id": 1, "x": 1}])
    assert made.plan().nothing


def test_csv_files_keep_the_order_of_their_columns(chain):
    made: Chain = chain("evolve", landing={"format": "csv"})
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3 AFTER id, DROP COLUMN v")
    assert made.sync().land == DAYS
    made.alter("ALTER TABLE DROP COLUMN n, ADD COLUMN y VARCHAR(3) FIRST")
    made.write("UPDATE {} SET at = '2024-01-03 14:00:00' WHERE id = 5")
    made.land(DAYS[2:])  # one partition alone, as a run from the UI does it
    heads = {}
    for day, item in made.manifests.read_all("landing", DAYS).items():
        [file] = item.manifest.files
        heads[day] = made.body(file.key).splitlines()[0].decode().replace('"', "")
    assert heads == {**dict.fromkeys(DAYS[:2], "id,at,v,n,d,x"), DAYS[2]: "id,at,v,n,d,x,y"}
    made.sync()
    assert made.athena("archived", "id, x, v, d")[0] == ["1", "3", None, "1.25"]
    assert made.athena("archived", "id, n, y")[0] == ["1", None, None]
    assert canonical(made.warehouse()) == canonical([row for row in made.source() if row["id"] <= 90])
    assert made.plan().nothing


def test_partitions_of_different_ages_are_read_and_loaded_side_by_side(chain):
    made: Chain = chain()
    before = made.source()
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3, MODIFY n BIGINT, MODIFY v VARCHAR(99)")
    made.write("UPDATE {} SET n = 3000000000, v = REPEAT('v', 90)")
    made.land(DAYS[1:2])  # from the UI: one partition, one asset at a time
    for step in (made.split, made.archive):
        step(DAYS[1:2])
    mixed = [row for row in made.source() if row["at"].day == 2] + [row for row in before if row["at"].day != 2]
    assert canonical(made.lake("archived")) == canonical(mixed)
    made.assert_catalog(len(mixed))
    found = inspect(made.rooms.store, made.spec, {}, [m for d in DAYS for m in made.staged([d])])
    assert (found.rows, found.repeated_keys, [rule.broken for rule in found.rules]) == (5, 0, [0] * len(found.rules))
    done = made.load(DAYS)
    assert sum(text.startswith("COPY") for text in done.statements) == 2
    assert canonical(made.warehouse()) == canonical([row for row in mixed if row["id"] <= 90])
    assert made.plan() == Plan((DAYS[0], DAYS[2]), ())
    made.sync()
    made.assert_in_step(made.source())


def test_a_manifest_and_a_ledger_of_an_earlier_version_are_told_by_their_columns(chain):
    made: Chain = chain()
    for stage in LAKE_STAGES:
        for key in made.rooms.keys(f"{made.spec.table}/_manifests/{stage}/"):
            content = json.loads(made.body(key))
            del content["shape"]
            made.rooms.store.put(key, json.dumps(content).encode())
    made.rooms.store.delete([made.keys.schema])
    made.rooms.ask("UPDATE rds_lake.load_ledger SET shape = NULL WHERE table_name = %s", (made.spec.table,))
    assert made.plan().nothing
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3")
    assert made.sync().land == DAYS
    made.assert_in_step(made.source())


def test_a_ledger_of_an_earlier_version_gets_its_new_column(chain):
    made: Chain = chain()
    made.rooms.ask("ALTER TABLE rds_lake.load_ledger DROP COLUMN shape")
    assert made.plan().nothing
    made.write("UPDATE {} SET at = '2024-01-02 05:00:00' WHERE id = 3")
    assert made.sync().land == DAYS[1:2]
    assert [entry.shape is None for _, entry in sorted(made.ledger().items())] == [True, False, True]
    made.assert_in_step(made.source())


def test_starting_over_lands_everything_again_with_the_present_columns(chain):
    made: Chain = chain("freeze")
    made.write("UPDATE {} SET n = 20240101")
    made.alter("ALTER TABLE MODIFY n DATE FIRST, DROP COLUMN v")
    made.rooms.store.delete([made.keys.schema])
    with pytest.raises(SpecError) as caught:
        made.sync()
    assert str(caught.value) == (
        f'The column n of the warehouse table "public"."{made.spec.table}" is INTEGER, staged is DATE, and no type '
        "holds the values of both. Nothing was changed. Rename or drop that column in the warehouse, then materialise "
        "all partitions of the table again."
    )
    made.rooms.ask(f"ALTER TABLE public.{made.spec.table} DROP COLUMN n")
    assert made.sync().land == DAYS
    made.assert_in_step(made.source())
    assert [row["n"] for row in made.warehouse()] == [date(2024, 1, 1)] * 5


# --- at the very moment ----------------------------------------------------------------------------------------------


def test_nobody_alters_the_table_while_it_is_read(chain):
    made: Chain = chain(rows=ROWS[:1])
    with open_snapshot(made.rooms.source, made.spec), pytest.raises(pymysql.MySQLError) as caught:
        made.rooms.sql("SET lock_wait_timeout = 1", f"ALTER TABLE {made.spec.table} ADD COLUMN x INT")
    assert caught.value.args[0] == 1205


def test_a_table_that_is_altered_while_a_snapshot_is_opened_is_tried_again(chain):
    made: Chain = chain(rows=ROWS[:1])

    class Late(Source):
        def describe(self, table: str) -> Any:
            found = super().describe(table)
            with suppress(pymysql.MySQLError):
                made.rooms.sql("SET lock_wait_timeout = 1", f"ALTER TABLE {table} ADD COLUMN x INT")
            return found

    with pytest.raises(TransientError) as caught, open_snapshot(Late(made.rooms.source.url), made.spec):
        pass
    assert str(caught.value) == (
        f"{made.spec.table}: the source table '{made.spec.table}' was altered at this very moment. Try again."
    )


def test_a_landing_that_dies_after_the_agreement_is_made_good(chain, monkeypatch):
    made: Chain = chain()
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3")
    original, written = ObjectStore.put_if, []

    def put_if(self: ObjectStore, key: str, content: bytes, **more: Any) -> str:
        if written and "schema" not in key:
            raise KeyboardInterrupt
        written.append(key)
        return original(self, key, content, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put_if", put_if)
        with pytest.raises(KeyboardInterrupt):
            made.sync()
    assert written == [made.keys.schema]
    assert made.sync().land == DAYS
    made.assert_in_step(made.source())


def test_two_landings_at_once_agree_on_one_schema(chain):
    made: Chain = chain()
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda day: made.land([day]), DAYS))
    assert read_agreed(made.rooms.store, made.keys).agreed.version == 2
    assert len({item.manifest.shape for item in made.manifests.read_all("landing", DAYS).values()}) == 1
    made.sync()
    made.assert_in_step(made.source())


MIGRATING = (
    "ALTER TABLE ADD COLUMN x INT DEFAULT 3, MODIFY n BIGINT, MODIFY v VARCHAR(99), MODIFY d DECIMAL(12,4), "
    "DROP COLUMN k"
)


def test_a_load_that_dies_before_any_statement_of_a_migration_leaves_a_right_table(chain, monkeypatch):
    made: Chain = chain(columns=f"{COLUMNS}, k VARCHAR(4) DEFAULT 'kept'", rows=[(*row, "kept") for row in ROWS])
    old = [row for row in made.source() if row["id"] <= 90]
    made.alter(MIGRATING)
    made.land(DAYS)
    made.split(DAYS)
    new = [row for row in made.source() if row["id"] <= 90]
    original, seen = Session.execute, []
    for step in range(100):
        count = 0

        def execute(self: Session, text: str, parameters: Any = (), step: int = step) -> Any:
            nonlocal count
            if count == step:
                raise KeyboardInterrupt
            count += 1
            seen.append(text)
            return original(self, text, parameters)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "execute", execute)
            try:
                made.load(DAYS)
            except KeyboardInterrupt:
                assert canonical(settled(made.warehouse())) == canonical(old)
                continue
        break
    done = " ".join(seen)
    for part in ("ADD COLUMN", "TYPE VARCHAR(396)", "RENAME COLUMN", "UPDATE", "DROP COLUMN", "COPY", "INSERT"):
        assert part in done
    assert step > 20
    assert canonical(made.warehouse()) == canonical(new)
    made.archive(DAYS)
    made.assert_in_step(made.source())


def settled(rows: Rows) -> Rows:
    """Rows without wider columns that were to take the places of others: the load that comes through removes them."""
    return [{name: value for name, value in row.items() if not name.startswith(WIDE)} for row in rows]


def test_loads_at_once_during_a_migration_all_succeed(chain):
    made: Chain = chain()
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3, MODIFY n BIGINT, MODIFY v VARCHAR(99)")
    made.land(DAYS)
    made.split(DAYS)
    barrier = threading.Barrier(3)

    def one(day: str) -> None:
        barrier.wait()
        made.load([day])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, DAYS))
    made.archive(DAYS)
    made.assert_in_step(made.source())


def test_a_text_that_cannot_be_enlarged_in_place_is_exchanged(chain, monkeypatch):
    made: Chain = chain()
    made.alter("ALTER TABLE MODIFY v VARCHAR(99)")
    made.write("UPDATE {} SET v = REPEAT('v', 90), at = '2024-01-02 06:00:00' WHERE id = 3")
    made.rooms.ask(
        f'ALTER TABLE public.{made.spec.table} DROP CONSTRAINT "v: too large for its type"'
    )  # the stand-in's
    with monkeypatch.context() as patch:
        seen = enlarging_no_text(patch)
        made.sync()
    assert any(text.startswith("UPDATE") and "CAST" in text for text in seen)
    assert made.types()["v"] == "character varying(396)"
    made.assert_in_step(made.source())


# --- the warehouse table's own columns -------------------------------------------------------------------------------


def test_columns_that_users_added_to_the_target_are_left_alone(chain):
    made: Chain = chain()
    table = f"public.{made.spec.table}"
    made.rooms.ask(f"ALTER TABLE {table} ADD COLUMN note VARCHAR(9) DEFAULT 'mine'")
    made.alter("ALTER TABLE ADD COLUMN x INT DEFAULT 3, MODIFY n BIGINT")
    made.sync()
    assert canonical(made.warehouse()) == canonical(
        [{**row, "note": "mine"} for row in made.source() if row["id"] <= 90]
    )
    made.rooms.ask(f"ALTER TABLE {table} ADD COLUMN must INTEGER")
    made.rooms.ask(f"UPDATE {table} SET must = 1")
    made.rooms.ask(f"ALTER TABLE {table} ALTER COLUMN must SET NOT NULL")
    with pytest.raises(SpecError) as caught:
        made.load(DAYS)
    assert str(caught.value) == (
        f'The warehouse table "public"."{made.spec.table}" has the column must, which is NOT NULL without a default '
        "and which no staged batch has. Nothing was changed. Let it be NULL, give it a default, or drop it, then "
        "materialise the table again."
    )


def test_a_distribution_key_is_not_exchanged(chain):
    made: Chain = chain(warehouse={"distribution_key": "n"})
    made.alter("ALTER TABLE MODIFY n BIGINT")
    before = made.types(), canonical(made.warehouse()), made.ledger()
    with pytest.raises(SpecError) as caught:
        made.sync()
    assert str(caught.value) == (
        f'The column n of the warehouse table "public"."{made.spec.table}" needs a wider type, but it is its '
        "distribution or sort key, which Redshift does not exchange. Nothing was changed. Rename the warehouse table, "
        "then materialise all partitions of it again."
    )
    assert (made.types(), canonical(made.warehouse()), made.ledger()) == before


# --- any history -----------------------------------------------------------------------------------------------------

histories = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "drop", "back", "wide", "narrow", "long", "move"]),
        st.sets(st.integers(0, 2), max_size=2),
        st.booleans(),
    ),
    min_size=2,
    max_size=5,
)


@pytest.mark.slow
@bounded(3)
@given(histories)
def test_whatever_changes_in_whatever_order_it_is_landed_all_ends_in_step(rooms, steps):
    source = rooms.name()
    rooms.sql(f"CREATE TABLE {source} ({COLUMNS}) DEFAULT CHARACTER SET utf8mb4")
    rooms.fill(source, ROWS)
    made = Chain(rooms, daily(source, rules=RULES))
    made.sync()
    for number, (step, touched, alone) in enumerate(steps):
        present = list(made.source()[0])
        text = {
            "add": f"ADD COLUMN x{number} INT DEFAULT {number} FIRST",
            "drop": "DROP COLUMN d" if "d" in present else "ADD COLUMN d DECIMAL(8,2) DEFAULT 1.5",
            "back": f"ADD COLUMN IF NOT EXISTS d DECIMAL(8,2) DEFAULT {number}",
            "wide": "MODIFY n BIGINT",
            "narrow": "MODIFY n INT",
            "long": f"MODIFY v VARCHAR({20 + number})",
            "move": "MODIFY v VARCHAR(90) FIRST",
        }[step]
        made.alter(f"ALTER TABLE {text}")
        for day in sorted(touched):
            made.write(f"UPDATE {{}} SET n = {number} WHERE DATE(at) = '{DAYS[day]}'")
        if alone and touched:
            made.land([DAYS[min(touched)]])
            made.split([DAYS[min(touched)]])
        for day in sorted(touched):
            made.write(f"UPDATE {{}} SET at = at + INTERVAL 1 SECOND WHERE DATE(at) = '{DAYS[day]}' AND id <> 4")
    made.write("UPDATE {} SET at = at + INTERVAL 1 MICROSECOND WHERE id <> 4")
    made.write("DELETE FROM {} WHERE id = 4")
    made.sync()
    made.assert_in_step(made.source())
    rooms.sql(f"DROP TABLE {source}")


# --- through Dagster -------------------------------------------------------------------------------------------------


DAY = "2024-01-05"


def test_a_sync_follows_and_a_second_one_does_nothing(world: World) -> None:
    spec = world.orders("drifting")
    assert world.sync(spec).ok
    world.ask(f"ALTER TABLE {spec.source_name} ADD COLUMN note VARCHAR(20) DEFAULT 'hi' AFTER order_id")
    done = world.materialize(spec, *STAGES, partition=DAY)  # one partition from the UI first
    assert done.success
    made = [
        event.step_materialization_data.materialization for event in done.all_events if event.is_step_materialization
    ]
    metadata = {item.asset_key.to_user_string(): item.metadata for item in made}
    assert metadata["drifting_landing"]["schema version"].value == 2
    assert metadata["drifting_landing"]["schema changes"].value == "- 'note' (varchar(20)) was added"
    assert metadata["drifting_warehouse"]["schema changes"].value == "- added note VARCHAR(80)"
    again = world.sync(spec)
    assert (again.ok, again.partitions) == (True, 9)
    assert world.sync(spec).partitions == 0
    columns = "order_id, order_last_updated, customer_id, order_status, note"
    source = {row[0]: row for row in world.ask(f"SELECT {columns} FROM {spec.source_name}")}
    held = {row[0]: row for row in world.warehouse_rows(spec)}
    landed = {row[0]: row for row in world.lake_rows("drifting", "landing")}
    assert landed == source
    assert held == {key: row for key, row in source.items() if row[3] in VALID}
    checks = world.check(spec)
    assert not [name for name, found in checks.items() if not found.passed and "landing" not in name]


def test_freeze_fails_a_sync_and_a_run_from_the_ui_with_the_same_words_and_discard_leaves_the_column_out(
    world: World,
) -> None:
    spec = world.orders("frozen", order_rows(50, 5), schema_changes="freeze")
    assert world.sync(spec).ok
    before = world.outline(spec)
    world.ask(f"ALTER TABLE {spec.source_name} ADD COLUMN note INT")
    done = world.sync(spec)
    message = (
        f"frozen: the source table '{spec.source_name}' has changed, and schema_changes is freeze: 'note' (int(11)) "
        "was added. Nothing was landed. Take the change back, or set schema_changes to evolve (to follow "
        "it) or discard (to keep the columns as they were) in defs/frozen/defs.yaml."
    )
    assert done.error == message
    run = world.materialize(spec, *STAGES, partition=DAY)
    assert failures(run) == [message]
    assert world.outline(spec) == before

    world.ask(f"INSERT INTO {spec.source_name} VALUES (101, '2024-01-05 10:00:00', 1, 'CLOSED', 7)")
    done = world.sync(spec.model_copy(update={"schema_changes": "discard"}))
    assert (done.ok, done.error, done.partitions) == (True, None, 1)
    source = world.ask(f"SELECT order_id, order_last_updated, customer_id, order_status FROM {spec.source_name}")
    assert world.lake_rows("frozen", "landing") == Counter(source)
    assert world.warehouse_rows(spec) == Counter(row for row in source if row[3] in VALID)
