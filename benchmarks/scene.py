"""Where the contenders meet: a local stack of the benchmark's own, its addresses, and fresh corners of its servers.

Everything lies in one folder (`.bench` of the project unless told otherwise), so that tables and environments are made
once. The developer's own settings and servers are never looked at.
"""

import compileall
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import yaml

from rds_lake.extract.source import Source, query
from rds_lake.local import ports, stack
from rds_lake.local.layout import Layout
from rds_lake.settings import DatabaseUrl, parse_database_url

ROOT = Path(__file__).resolve().parent.parent
SOURCE, WAREHOUSE = "RDS_LAKE_SOURCE_URL", "RDS_LAKE_WAREHOUSE_URL"
OURS = ("RDS_LAKE_", "AWS_", "DAGSTER_", "BENCH_")
COSTLY = "PYTHONDONTWRITEBYTECODE"
"""With it each process would compile its modules anew, for some seconds."""


@dataclass(frozen=True)
class Scene:
    """A running stack, and the folder in which everything lies.

    Attributes:
        folder: the benchmark's folder.
        environ: the environment of whatever is measured: the machine's, and the stack's addresses.
    """

    folder: Path
    environ: Mapping[str, str]

    # --- folders ---

    @property
    def results(self) -> Path:
        """Files that contenders write, removed after each round."""
        return self._made("out")

    @property
    def work(self) -> Path:
        """Where contenders run: a folder without a `.env` or a `.rds_lake`."""
        return self._made("work")

    @property
    def kept(self) -> Path:
        """Files that are made once for several contenders."""
        return self._made("kept")

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fresh_folder(self, name: str) -> Path:
        """An empty folder of this name."""
        folder = self.folder / "fresh" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def remove_fresh(self) -> None:
        """Remove all folders of this kind."""
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)

    # --- the source ---

    @property
    def source_url(self) -> DatabaseUrl:
        """The source's address."""
        return parse_database_url(self.environ[SOURCE], scheme="mysql", variable=SOURCE)

    @cached_property
    def source(self) -> Source:
        """The source."""
        return Source(self.source_url)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement at the source; its rows."""
        with self.source.connect() as connection:
            return query(connection, statement)

    # --- the lake ---

    @cached_property
    def s3(self) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        """A client of the stack's S3."""
        return boto3.client(
            "s3",
            endpoint_url=self.environ["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environ["AWS_DEFAULT_REGION"],
        )

    def empty_bucket(self, bucket: str, prefix: str = "") -> str:
        """Make a bucket, or remove what is in it (below a prefix); returns its name."""
        known = {item["Name"] for item in self.s3.list_buckets()["Buckets"]}
        if bucket not in known:
            self.s3.create_bucket(Bucket=bucket)
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            if found := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                self.s3.delete_objects(Bucket=bucket, Delete={"Objects": found})
        return bucket

    # --- the warehouse ---

    def postgres_environ(self, database: str) -> dict[str, str]:
        """What makes `psql` and libpq speak to the PostgreSQL behind the warehouse, without the shim between."""
        url = parse_database_url(self.environ[WAREHOUSE], scheme="redshift", variable=WAREHOUSE)
        kept = ports.read(Layout(self.home)) or {}
        return {
            "PGHOST": url.host,
            "PGPORT": str(kept["postgres"]),
            "PGUSER": url.user,
            "PGPASSWORD": url.password,
            "PGDATABASE": database,
        }

    def postgres(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in the PostgreSQL behind the warehouse, each by itself; the rows of the last one."""
        of = self.postgres_environ(database)
        connection = psycopg2.connect(
            host=of["PGHOST"], port=of["PGPORT"], user=of["PGUSER"], password=of["PGPASSWORD"], dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def fresh_database(self, name: str) -> str:
        """An empty warehouse database; returns its `redshift://` address."""
        self.drop_database(name)
        self.postgres("postgres", f"CREATE DATABASE {name}")
        return self.environ[WAREHOUSE].rsplit("/", 1)[0] + f"/{name}"

    def drop_database(self, name: str) -> None:
        """Remove a warehouse database, and have what it left in memory written, at nobody's expense."""
        self.postgres("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "CHECKPOINT")

    # --- corners ---

    @property
    def home(self) -> Path:
        """The stack's folder."""
        return self.folder / "stack"

    def corner(self, name: str) -> dict[str, str]:
        """An environment with an empty bucket, warehouse database, catalog and Dagster instance of its own."""
        dagster = self.fresh_folder(f"{name}-dagster")
        shutil.copy(ROOT / "dagster.yaml", dagster)
        return {
            **self.environ,
            "RDS_LAKE_BUCKET": self.empty_bucket(name.replace("_", "-")),
            "RDS_LAKE_GLUE_DATABASE": f"{name}_{os.urandom(3).hex()}",
            WAREHOUSE: self.fresh_database(name),
            "DAGSTER_HOME": str(dagster),
        }

    def project(self, *tables: Mapping[str, Any]) -> Path:
        """A copy of the product that declares these tables and no others: put it on PYTHONPATH."""
        copy = self.fresh_folder("project")
        ignored = shutil.ignore_patterns("__pycache__", "defs")
        shutil.copytree(ROOT / "rds_lake", copy / "rds_lake", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        defs = copy / "rds_lake" / "defs"
        defs.mkdir()
        (defs / "__init__.py").touch()
        for table in tables:
            file = defs / table["table"] / "defs.yaml"
            file.parent.mkdir()
            content = {"type": "rds_lake.components.TablePipeline", "attributes": dict(table)}
            file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        compileall.compile_dir(copy, quiet=1)  # as pip does at an installation
        return copy


@contextmanager
def open_scene(folder: Path) -> Iterator[Scene]:
    """Start the benchmark's stack, and stop it at the end; its tables stay."""
    machine = {name: value for name, value in os.environ.items() if _is_the_machines(name)}
    for name in [name for name in os.environ if name not in machine]:
        del os.environ[name]
    home = folder / "stack"
    try:
        running = stack.up(home, ui=False, report=lambda line: say(f"  {line}"))
        yield Scene(folder, {**machine, **running.environ, **_address(running.environ[SOURCE])})
    finally:
        stack.down(home)


def _is_the_machines(name: str) -> bool:
    """Whether a variable says something of the machine, and not of the developer's own work with the product."""
    return name == "AWS_CA_BUNDLE" or not name.startswith((*OURS, COSTLY))


def _address(url: str) -> dict[str, str]:
    """The source's address in parts, for programs that know nothing of ours; passwords never stand in a command."""
    parts = parse_database_url(url, scheme="mysql", variable=SOURCE)
    return {
        "BENCH_HOST": parts.host,
        "BENCH_PORT": str(parts.port),
        "BENCH_USER": parts.user,
        "BENCH_PASSWORD": parts.password,
        "BENCH_DATABASE": parts.database,
    }


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
