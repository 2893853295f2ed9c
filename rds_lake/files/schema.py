"""The schema of a table that files are loaded into: what a schema file may say, and how it may change.

Pure. A change may add columns and widen types; what would lose data is refused and says why. The order of the columns
is the schema file's own: files without a header are read in it. In the warehouse new columns come last.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rds_lake.errors import PermanentError
from rds_lake.extract.widening import holds
from rds_lake.files.formats import check_format
from rds_lake.files.types import DeclaredType

Operation = Literal["append", "truncate", "schema"]

LINE = "_line"
"""The column of staged files that says which line of the file a row is from."""

SYSTEM_COLUMNS = frozenset(
    {"oid", "xmin", "ctid", "cmin", "xmax", "cmax", "tableoid", "deletexid", "insertxid"}
    | {LINE, "_raw", "_file", "_reasons", "_file_id", "_landed_at"}
)
"""What no column of Redshift, or of ours, may be called."""

_RESERVED_WORDS = (
    "aes128 aes256 all allowoverwrite analyse analyze and any array as asc authorization backup between binary both "
    "bzip2 case cast check collate column constraint create cross current_date current_time current_timestamp "
    "current_user default deferrable deflate defrag delta desc disable distinct do else emptyasnull enable encode "
    "encrypt encryption end except explicit false for foreign freeze from full grant group gzip having identity ignore "
    "ilike in initially inner intersect interval into is isnull join leading left like limit localtime localtimestamp "
    "lun luns lzo minus natural new not notnull null nulls off offline offset oid old on only open or order outer "
    "overlaps parallel partition percent permissions pivot placing primary raw readratio recover references rejectlog "
    "resort respect restore right select session_user similar snapshot some sysdate system table tag tdes text255 "
    "text32k then timestamp to top trailing true truncatecolumns union unique unnest unpivot user using verbose wallet "
    "when where with without"
)

RESERVED = frozenset(_RESERVED_WORDS.split())
"""Redshift's reserved words (Database Developer Guide, r_pg_keywords): a query has to quote such a name."""

COLUMNS_MAX = 1599
"""Columns that a table may have: one of Redshift has 1600, and the one that rows come in through has their line too."""

NAME_BYTES = 127

SHOWN = 60
"""Characters of a name that a message shows: a file may hold any."""


MISSING_COLUMN = "missing_column"
"""The code of a refusal: the file lacks a column that needs a value."""


class RefusedError(PermanentError):
    """A file cannot be taken: it is at fault. It is recorded as rejected.

    Args:
        problem: what is wrong.
        remedy: what to do.
        code: a word for it that programs know.
    """

    def __init__(self, problem: str, remedy: str, code: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.code = code


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileColumn(_Model):
    """One column of a table that files are loaded into."""

    name: str = Field(description="Its name; Redshift folds it to lower case.")
    type: str = Field(description="Its type, such as bigint, decimal(12,2), varchar(200), date, timestamp.")
    nullable: bool = Field(default=True, description="Whether a row may have no value here.")
    description: str = Field(default="", description="What it means.")
    formats: tuple[str, ...] = Field(
        default=(), description="How dates and times are written, for strptime: '%d/%m/%Y'. ISO 8601 if there is none."
    )
    thousands: str = Field(default="", description="What separates thousands in numbers, such as ','.", max_length=1)
    personal: bool = Field(default=False, description="A note for readers; no column's values are shown.")

    @field_validator("name")
    @classmethod
    def _can_be_a_column(cls, value: str) -> str:
        name = value.strip().lower()
        if not name or len(name.encode()) > NAME_BYTES or re.search(r"[\x00-\x1f]", name):
            raise ValueError(
                f"{value[:SHOWN]!r} is no name for a column: it takes 1 to {NAME_BYTES} bytes of printable text"
            )
        if name in SYSTEM_COLUMNS:
            raise ValueError(f"'{name}' is a name that the system keeps for itself: choose another one")
        return name

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return DeclaredType.of(value).name.lower()

    @field_validator("thousands")
    @classmethod
    def _is_no_digit(cls, value: str) -> str:
        if value and (value in "0123456789.+-eE" or re.search("[\x00-\x1f\ud800-\udfff]", value)):
            raise ValueError(f"{value!r} cannot separate thousands: it is part of numbers, or no printable text")
        return value

    @model_validator(mode="after")
    def _is_written_as_its_type(self) -> Self:
        kind = self.declared.kind
        if self.formats and kind not in {"date", "timestamp", "timestamptz"}:
            raise ValueError(f"formats are for dates and times, and {self.name} is {self.type}")
        if self.thousands and kind not in {"integer", "decimal", "float"}:
            raise ValueError(f"thousands is for numbers, and {self.name} is {self.type}")
        for item in self.formats:
            check_format(item, zone=kind == "timestamptz")
        return self

    @property
    def declared(self) -> DeclaredType:
        """The type."""
        return DeclaredType.of(self.type)


class TableSchema(_Model):
    """The content of a schema file: the columns of a table, and what may be done to it."""

    columns: tuple[FileColumn, ...] = Field(min_length=1, max_length=COLUMNS_MAX, description="Its columns, in order.")
    keys: tuple[str, ...] = Field(
        default=(), description="The columns that identify a row: an appended row takes the place of that of its key."
    )
    allowed_operations: tuple[Operation, ...] = Field(
        default=("append", "truncate", "schema"), description="What files may do to it; anything else is refused."
    )
    description: str = Field(default="", description="What one row is.")

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = self.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two columns are called '{twice[0]}' (upper and lower case are the same to Redshift)")
        return self

    @field_validator("keys")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        keys = tuple(name.strip().lower() for name in value)
        if len(set(keys)) < len(keys):
            raise ValueError("a column is named twice in keys")
        return keys

    @model_validator(mode="after")
    def _keys_are_columns(self) -> Self:
        if missing := [key for key in self.keys if key not in self.names]:
            raise ValueError(f"keys names '{missing[0]}', which is none of the columns")
        return self

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        return [column.name for column in self.columns]

    @property
    def required(self) -> frozenset[str]:
        """The columns that need a value."""
        return frozenset({*self.keys, *(column.name for column in self.columns if not column.nullable)})

    @property
    def reserved(self) -> list[str]:
        """The columns that a query has to quote."""
        return [name for name in self.names if name in RESERVED]


def read_schema(content: bytes, where: str) -> TableSchema:
    """The schema that a file declares.

    Args:
        content: JSON: an object as `TableSchema`, or just the list of its columns.
        where: the file, for the error message.

    Raises:
        RefusedError: it is none; the message names the place and what is wrong.
    """
    try:
        given: Any = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_once)
        json.dumps(given, ensure_ascii=False).encode()  # halves of characters, which JSON can spell, are no text
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{where} is not JSON: {error}.", "See docs/files.md for an example.") from error
    if isinstance(given, list):
        given = {"columns": given}
    try:
        return TableSchema.model_validate(given)
    except ValidationError as error:
        problems = error.errors()  # pydantic also says that there are too few columns when one of them is wrong
        problems = [problem for problem in problems if problem["type"] != "too_short"] or problems
        told = "; ".join(_told(problem["loc"], problem["msg"]) for problem in problems[:5])
        raise RefusedError(
            f"{where} is no schema of a table: {told}.", "docs/table-schema.json describes it."
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object none of whose keys comes twice, which would hide what the first one says."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)[:SHOWN]}' comes twice")
    return dict(pairs)


def _told(place: Sequence[int | str], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:SHOWN]}" for part in place).lstrip(".")
    said = message.removeprefix("Value error, ")
    return f"{path}: {said}" if path else said


def evolve(held: TableSchema, wanted: TableSchema, table: str) -> TableSchema:
    """The schema that a table has after a schema file was taken.

    Args:
        held: the schema that it has.
        wanted: the one that the file declares.
        table: its name, for the error message.

    Raises:
        RefusedError: the change would lose data; the message says which column and why.
    """
    given = {column.name: column for column in wanted.columns}
    old = {column.name: column for column in held.columns}
    never_null = held.required
    problems = [
        problem
        for column in held.columns
        if (problem := _loss(column, given.get(column.name), may_be_null=column.name not in never_null))
    ]
    problems += [
        f"{column.name} is new and not nullable, but rows that are there have no value for it"
        for column in wanted.columns
        if column.name not in old and column.name in wanted.required
    ]
    if held.keys and wanted.keys != held.keys:
        problems.append(f"the keys are {', '.join(held.keys)} and cannot become {', '.join(wanted.keys) or 'none'}")
    if not held.keys and wanted.keys:
        problems.append("it has no keys, so rows that are there may repeat those that it is given")
    if problems:
        raise RefusedError(
            f"The schema of {table} would lose data: {'; '.join(problems)}.",
            "Add columns and widen types only; for anything else make another table.",
        )
    columns = tuple(_as_personal(column, old.get(column.name)) for column in wanted.columns)
    return wanted.model_copy(
        update={"columns": columns}
    )  # in its own order: that of files without a header from now on


def _as_personal(wanted: FileColumn, held: FileColumn | None) -> FileColumn:
    """A column that is as personal as it was, unless the file itself says whether it is."""
    if held and held.personal and "personal" not in wanted.model_fields_set:
        return wanted.model_copy(update={"personal": True})
    return wanted


def _loss(column: FileColumn, wanted: FileColumn | None, *, may_be_null: bool) -> str | None:
    """Why a column cannot become what a file wants, None when it can."""
    if wanted is None:
        return f"{column.name} is left out"
    if may_be_null and not wanted.nullable:
        return f"{column.name} may have rows without a value, so it stays nullable"
    if column.declared.name != wanted.declared.name and not holds(wanted.declared.name, column.declared.name):
        return f"{column.name} is {column.type}, and {wanted.type} does not hold all of its values"
    return None
