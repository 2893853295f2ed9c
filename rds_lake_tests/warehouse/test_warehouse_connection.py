"""Errors of the server as ours: which may pass, and that no message holds a value of a row."""

import io
import secrets
import traceback
from collections.abc import Iterator

import psycopg2
import pytest
from rooms import Rooms

from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.files.upsert import RDS
from rds_lake.settings import parse_database_url
from rds_lake.warehouse.connection import CollisionError, Database, Session, translate

pytestmark = pytest.mark.stack

SECRET = "DE89370400440532013000"


@pytest.fixture
def database(rooms: Rooms) -> Database:
    variable = "RDS_LAKE_POSTGRES_URL"
    return Database(parse_database_url(rooms.environ[variable], scheme="postgresql", variable=variable), RDS)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.connect() as made:
        yield made


@pytest.fixture
def table(session: Session) -> Iterator[str]:
    name = f"t_{secrets.token_hex(4)}"
    session.execute(f"CREATE TABLE {name} (id BIGINT, iban TEXT UNIQUE, short VARCHAR(3), needed TEXT NOT NULL)")
    yield name
    session.execute(f"DROP TABLE {name}")


def shown(error: BaseException) -> str:
    """All that a log shows of an error."""
    return "".join(traceback.format_exception(error))


def test_a_row_that_violates_another_unique_index_is_no_collision(session: Session, table: str) -> None:
    insert = f"INSERT INTO {table} VALUES (1, %s, 'a', 'b')"
    session.execute(insert, (SECRET,))
    with pytest.raises(PermanentError) as caught:
        session.execute(insert, (SECRET,))
    assert caught.value.problem.endswith(f'says: duplicate key value violates unique constraint "{table}_iban_key".')


@pytest.mark.parametrize(
    "catalog", ["INSERT INTO pg_catalog.pg_namespace SELECT * FROM pg_namespace WHERE nspname = 'public'"]
)
def test_a_unique_violation_of_the_catalog_is_a_collision(session: Session, catalog: str) -> None:
    session.execute("SET allow_system_table_mods = on")
    with pytest.raises(CollisionError):
        session.execute(catalog)


@pytest.mark.parametrize("statement", ["CREATE SCHEMA public", "CREATE TABLE {} (id INT)", "ALTER TABLE {} ADD id INT"])
def test_to_make_what_is_there_is_a_collision(session: Session, table: str, statement: str) -> None:
    with pytest.raises(CollisionError):
        session.execute(statement.format(table))


@pytest.mark.parametrize(
    "values",
    [
        f"'{SECRET}', 'i', 'a', 'b'",
        f"1, 'i', '{SECRET}', 'b'",
        f"1, '{SECRET}', 'a', NULL",
        f"'{SECRET}\nand more \"quoted\" {SECRET}', 'i', 'a', 'b'",
        f"'{SECRET}'::date::text::bigint, 'i', 'a', 'b'",
        "99999999999999999999, 'i', 'a', 'b'",
    ],
)
def test_no_message_and_no_log_shows_a_value(session: Session, table: str, values: str) -> None:
    with pytest.raises(PermanentError) as caught:
        session.execute(f"INSERT INTO {table} VALUES ({values})")
    assert SECRET not in str(caught.value)
    assert "DETAIL" not in str(caught.value)
    assert ".." not in str(caught.value)
    assert not isinstance(caught.value.__cause__ or caught.value.__context__, psycopg2.Error)


def test_what_copy_refuses_is_told_without_the_value(session: Session, table: str) -> None:
    line = f"{SECRET},i,a,b\n".encode()
    with pytest.raises(PermanentError) as caught:
        session.copy_in(f"COPY {table} FROM STDIN (FORMAT csv)", io.BytesIO(line))
    assert SECRET not in shown(caught.value)
    assert caught.value.problem.endswith("says: invalid input syntax for type bigint: (a value).")


def test_a_column_that_lacks_a_value_is_named(session: Session, table: str) -> None:
    with pytest.raises(PermanentError, match='null value in column "needed"') as caught:
        session.execute(f"INSERT INTO {table} (iban) VALUES ('{SECRET}')")
    assert SECRET not in shown(caught.value)


def test_a_statement_that_takes_too_long_may_pass(session: Session) -> None:
    session.execute("SET statement_timeout = 50")
    with pytest.raises(TransientError, match="statement timeout"):
        session.execute("SELECT pg_sleep(5)")


def test_a_connection_that_is_lost_may_pass(database: Database) -> None:
    with database.connect() as session, database.connect() as other:
        [(process,)] = session.execute("SELECT pg_backend_pid()")
        other.execute("SELECT pg_terminate_backend(%s)", (process,))
        for _ in range(2):  # the second time the driver itself knows that it is closed, and says so without a code
            with pytest.raises(TransientError):
                session.execute("SELECT 1")
    assert not database.is_away()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg2.InterfaceError("connection already closed"), TransientError),
        (psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"), TransientError),
        (psycopg2.OperationalError("server closed the connection unexpectedly.\n"), TransientError),
        (psycopg2.OperationalError('FATAL: database "x" does not exist'), ConfigError),
        (psycopg2.ProgrammingError("can't adapt"), PermanentError),
    ],
)
def test_an_error_without_a_code_keeps_its_text(error: psycopg2.Error, kind: type[RdsLakeError]) -> None:
    ours = translate(error, "host:1/db")
    assert type(ours) is kind
    told = " ".join(str(error).split()).rstrip(".")
    assert ours.problem == f"The warehouse at host:1/db says: {told}."
