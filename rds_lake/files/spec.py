"""The YAML of drop zones and feeds, as frozen pydantic models: what users write.

What a table's columns are, a drop zone learns from schema files (`rds_lake.files.schema`); a feed declares them here.
"""

import re
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import NAME_BYTES, FileColumn, TableSchema
from rds_lake.files.types import DeclaredType, fits

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"

OUR_FOLDERS = frozenset({"processed", "failed", "staging", "discarded", "schemas", "cleaned", "source"})
"""What a drop zone's database or a feed cannot be called: these folders of the bucket are written by rds_lake."""

NAME_MAX = 63
"""Bytes of a name in PostgreSQL, which cuts a longer one off."""

RECEIVER_MAX = 55
"""Characters of the name of a drop zone or feed: a rule of EventBridge, `rds_lake_<name>`, has 64 at most."""

QUEUE_MAX = 75
"""Characters of a queue's name: SQS takes 80, and `<queue>_dead` is one, too."""

PREFIX_BYTES = 200
"""Bytes of a feed's folder: a key of S3 has 1024, and ours are longer than those of the files."""

PROCESSING_DATE = "processing_date"
"""The replacement that stands for the day of processing."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Receiver(_Model):
    description: str = ""
    owners: tuple[str, ...] = ()
    bucket: str | None = Field(default=None, description="The bucket, if it is not that of RDS_LAKE_DROP_BUCKET.")
    queue: str | None = Field(default=None, description="The SQS queue of its events, if not rds_lake_<name>.")
    csv: CsvOptions = CsvOptions()
    discard_limit: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The share of a file's rows that may be discarded; above it all is refused.",
    )

    @field_validator("queue")
    @classmethod
    def _is_a_queue(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{QUEUE_MAX}}}", value):
            raise ValueError(
                f"'{value}' is no name for a queue: it takes 1 to {QUEUE_MAX} letters, digits, _ and - (SQS takes 80 "
                "characters, and <queue>_dead is a queue as well)"
            )
        return value


def _checked_name(value: str) -> str:
    """The name of a drop zone or feed, which folders, queues, rules and assets are called after."""
    if len(value) > RECEIVER_MAX:
        raise ValueError(
            f"'{value}' has {len(value)} characters: a name takes {RECEIVER_MAX}, because rds_lake_<name> is a rule of "
            "EventBridge, which takes 64"
        )
    if value.lower() in OUR_FOLDERS:
        raise ValueError(f"'{value}' is a folder that rds_lake writes itself: choose another name")
    return value


def _checked_schema(value: str) -> str:
    """The name of a schema in the target's database."""
    if not re.fullmatch(NAME, value) or len(value) > NAME_MAX:
        raise ValueError(
            f"'{value}' is no name for a schema: it begins with a letter, has letters, digits and _ only, and at most "
            f"{NAME_MAX} of them"
        )
    return value


class ZoneTable(_Model):
    """A table of a drop zone that is an asset of its own."""

    description: str = ""
    csv: CsvOptions | None = Field(default=None, description="How its files are read, if not as the zone says.")
    discard_limit: float | None = Field(default=None, ge=0, le=1, description="As the zone's, for this table.")


class DropZoneSpec(_Receiver):
    """One drop zone: `s3://<bucket>/<database>/<action>/<table>/<file>`."""

    database: str = Field(pattern=NAME, description="The first part of the keys; what lies below is taken.")
    warehouse_schema: str | None = Field(
        default=None, alias="schema", description="The schema in Redshift, named like the database unless given."
    )
    new_tables: bool = Field(default=True, description="Whether a schema file may make a table that is not named here.")
    tables: dict[str, ZoneTable] = Field(default_factory=dict, description="The tables that are assets.")

    @field_validator("database")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _checked_name(value)

    @field_validator("warehouse_schema")
    @classmethod
    def _is_a_schema(cls, value: str | None) -> str | None:
        return None if value is None else _checked_schema(value)

    @field_validator("tables", mode="before")
    @classmethod
    def _may_say_nothing(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        names = [str(name).lower() for name in value]
        if wrong := [name for name in names if not re.fullmatch(NAME, name)]:
            raise ValueError(f"'{wrong[0]}' is no name for a table: it has letters, digits and _ only")
        if long := [name for name in names if len(name) > NAME_BYTES]:
            raise ValueError(f"'{long[0]}' is no name for a table: Redshift takes {NAME_BYTES} characters")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two tables are called '{twice[0]}' (upper and lower case are the same to Redshift)")
        return dict(zip(names, (given or {} for given in value.values()), strict=True))

    @property
    def name(self) -> str:
        """What it is called in assets, sensors and the audit log."""
        return self.database

    @property
    def root(self) -> str:
        """Its folder in the bucket, with its slash."""
        return f"{self.database}/"

    @property
    def schema_name(self) -> str:
        """The schema in Redshift."""
        return (self.warehouse_schema or self.database).lower()

    def csv_of(self, table: str) -> CsvOptions:
        """How a table's files are read."""
        found = self.tables.get(table)
        return found.csv if found and found.csv else self.csv

    def limit_of(self, table: str) -> float:
        """The share of rows that may be discarded."""
        found = self.tables.get(table)
        return found.discard_limit if found and found.discard_limit is not None else self.discard_limit


class Cleaning(_Model):
    """What takes the place of a value that is missing or invalid; the old one is kept in `_raw`."""

    column: str
    when: Literal["missing", "invalid", "missing_or_invalid"] = "missing"
    value: str = Field(description=f"The new value; {PROCESSING_DATE} is the day of processing.")

    @field_validator("column")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.strip().lower()

    @property
    def missing(self) -> bool:
        """Whether it is for missing values."""
        return self.when != "invalid"

    @property
    def invalid(self) -> bool:
        """Whether it is for invalid ones."""
        return self.when != "missing"

    def replacement(self, declared: DeclaredType, moment: datetime) -> str:
        """The text of the new value."""
        if self.value != PROCESSING_DATE:
            return self.value
        return f"{moment:%Y-%m-%d}" if declared.kind == "date" else f"{moment:%Y-%m-%d} 00:00:00"


class FeedTarget(_Model):
    """The table in PostgreSQL on RDS."""

    table: str = Field(pattern=NAME, max_length=NAME_MAX)
    db_schema: str = Field(default="public", alias="schema")

    @field_validator("db_schema")
    @classmethod
    def _is_a_schema(cls, value: str) -> str:
        return _checked_schema(value)


class FileFeedSpec(_Receiver):
    """One feed: files in `source/` are checked, cleaned, and put into a table of PostgreSQL on RDS."""

    csv: CsvOptions = CsvOptions(empty_is_null=True)
    feed: str = Field(pattern=NAME, description="Its name: of the assets, and of its folder in the bucket.")
    prefix: str | None = Field(default=None, description="Its folder in the bucket, named like the feed unless given.")
    columns: tuple[FileColumn, ...] = Field(min_length=1, description="The columns of its files.")
    key: tuple[str, ...] = Field(min_length=1, description="The columns that identify a row.")
    clean: tuple[Cleaning, ...] = Field(default=(), description="What takes the place of missing and invalid values.")
    target: FeedTarget
    schedule: str = Field(default="0 8 * * *", description="Cron expression (UTC); files also go on arrival.")

    @field_validator("feed")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _checked_name(value)

    @field_validator("prefix")
    @classmethod
    def _is_a_folder_of_its_own(cls, value: str | None) -> str | None:
        parts = value.strip("/").split("/") if value is not None else []
        if wrong := [part for part in parts if part in {"", ".", ".."} or re.search(r"[\x00-\x1f]", part)]:
            raise ValueError(f"'{value}' is no folder: it has the part '{wrong[0]}'")
        if ours := [part for part in parts if part.lower() in OUR_FOLDERS]:
            raise ValueError(
                f"'{value}' has '{ours[0]}' in it, a folder that rds_lake writes itself: choose another one"
            )
        if value is not None and len(value.encode()) > PREFIX_BYTES:
            raise ValueError(f"a prefix may have {PREFIX_BYTES} bytes")
        return value

    @model_validator(mode="after")
    def _is_a_schema(self) -> Self:
        columns = {column.name: column.declared for column in self.schema_of_files.columns}
        if long := [name for name in columns if len(name.encode()) > NAME_MAX]:
            raise ValueError(
                f"the column '{long[0]}' has a name of more than {NAME_MAX} bytes, which PostgreSQL cuts off"
            )
        for number, rule in enumerate(self.clean):
            if rule.column not in columns:
                raise ValueError(f"clean[{number}] names the column '{rule.column}', which the files do not have")
            if [other.column for other in self.clean].count(rule.column) > 1:
                raise ValueError(f"two entries of clean are for {rule.column}: join them with when: missing_or_invalid")
            declared = columns[rule.column]
            if not fits(declared, rule.replacement(declared, datetime(2000, 1, 1, tzinfo=UTC))):
                raise ValueError(
                    f"clean[{number}] puts '{rule.value}' into {rule.column}, which is no {declared.name.lower()}"
                )
        return self

    @property
    def name(self) -> str:
        """What it is called in assets, sensors and the audit log."""
        return self.feed

    @property
    def root(self) -> str:
        """Its folder in the bucket, with its slash."""
        return f"{(self.prefix or self.feed).strip('/')}/"

    @property
    def schema_of_files(self) -> TableSchema:
        """The schema of its files. A key that is cleaned may be missing in the file."""
        return TableSchema(columns=self.columns, keys=self.key, description=self.description)
