"""A table's YAML as frozen pydantic models: the vocabulary that users write, and the only place that defines it.

Nothing here looks at a database. What can be checked without one (a rule names one column, a partitioned table has a
cursor) is checked while the YAML is read, so that the message carries file and line; what needs the source's own
columns is checked by `TableSpec.check_columns` when they are known.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rds_lake.errors import SpecError
from rds_lake.partitions import Partitioning, Unit, floor

Stage = Literal["raw", "landing", "staging", "discarded", "archived", "warehouse"]
LAKE_STAGES: tuple[Stage, ...] = ("landing", "staging", "discarded", "archived")


YEARS = range(1000, 9999)
"""The years that partitions may start in. MySQL promises no earlier date, and a year of three digits would not sort
among the keys; after the last of them a partition would have no end in the calendar.
"""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cursor(_Model):
    """The column that the source sets on every insert and update."""

    column: str
    timezone: str = Field(default="UTC", description="The zone of a DATETIME cursor's wall-clock times.")
    epoch: Literal["s", "ms", "us"] | None = Field(
        default=None, description="For an integer cursor: the unit that it counts since 1970-01-01 00:00 UTC."
    )
    nulls: Literal["include", "exclude", "raise"] = Field(
        default="include",
        description="Rows without a cursor value: part of the first partition, reported only, or an error.",
    )
    lag_seconds: int = Field(
        default=300,
        ge=0,
        le=366 * 86_400,
        description="The fence's distance from now where open transactions cannot be seen.",
    )
    lookback_days: int = Field(
        default=3, ge=0, description="How far behind what is loaded a recent observation looks; a full one sees all."
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"'{value}' is not a time zone; use an IANA name such as UTC or Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _epoch_is_utc(self) -> Self:
        if self.epoch is not None and self.timezone != "UTC":
            raise ValueError("an epoch counts from 1970-01-01 00:00 UTC in every zone: leave timezone out")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The cursor's time zone."""
        return ZoneInfo(self.timezone)


class Partitions(_Model):
    """Windows of the cursor: the unit of work, of retry and of replacement."""

    by: Unit = "day"
    start: date = Field(description="First day that has rows; an older row is reported, never left out silently.")
    column: str | None = Field(default=None, description="Name of the partition column in the lake's tables.")

    @model_validator(mode="after")
    def _in_the_calendar(self) -> Self:
        first = floor(datetime.combine(self.start, time()), self.by)
        if first.year not in YEARS:
            raise ValueError(
                f"start: the {self.by} of {self.start} begins in the year {first.year}, but MySQL promises no date "
                f"before {YEARS[0]}, and none can follow {YEARS[-1]}: give the first day that has rows"
            )
        return self


class _Rule(_Model):
    name: str | None = Field(default=None, description="What a discarded row's _failed_rules calls it.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads, as far as the YAML names them."""
        return ()

    @property
    def label(self) -> str:
        """The rule's name, made from its kind and columns unless the YAML gives one."""
        return self.name or "_".join([str(getattr(self, "rule", "")), *self.columns])


class _ColumnRule(_Rule):
    column: str
    allow_null: bool = Field(default=False, description="Whether a NULL keeps the rule; by default it breaks it.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that the rule reads."""
        return (self.column,)


class InLookup(_ColumnRule):
    """The value stands in a column of another source table, a text byte for byte."""

    rule: Literal["in_lookup"]
    lookup_table: str
    lookup_column: str


class AcceptedValues(_ColumnRule):
    """The value is one of these, byte for byte."""

    rule: Literal["accepted_values"]
    values: tuple[str | int | float, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        if isinstance(value, list) and any(isinstance(item, bool) for item in value):
            raise ValueError("a value is true or false, which YAML makes of ON, OFF, YES and NO: put it in quotes")
        return value


class NotNull(_Rule):
    """The value is not NULL."""

    rule: Literal["not_null"]
    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that the rule reads."""
        return (self.column,)


class Unique(_Rule):
    """No two rows of a batch share these values; the newest row stays, the others are discarded."""

    rule: Literal["unique"]
    unique_columns: tuple[str, ...] = Field(min_length=1, alias="columns")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values are unique together."""
        return self.unique_columns


class Matches(_ColumnRule):
    """The whole text matches a regular expression (RE2 syntax)."""

    rule: Literal["matches"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:  # Arrow has the engine that DuckDB will run it with; Python's own takes and refuses other patterns
            pc.match_substring_regex(pa.array([""]), pattern=value)
        except pa.ArrowInvalid as error:
            raise ValueError(f"'{value}' is not a regular expression: {error}") from error
        return value


class Between(_ColumnRule):
    """The value is at least `min` and at most `max`; one of the two may be missing."""

    rule: Literal["between"]
    min: int | float | str | None = None
    max: int | float | str | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("between needs min, max or both")
        return self


class SqlRule(_Rule):
    """Anything else: an SQL condition over the row that is true for a valid one; NULL counts as false."""

    rule: Literal["sql"]
    name: str
    where: str


RESERVED_LABELS = frozenset(
    {"unique_key", "accounted_for", "schema_as_declared", "duplicate_key", "duplicate_row", "row_fits"}
    | {"carried_whole"}
)

Rule = Annotated[
    InLookup | AcceptedValues | NotNull | Unique | Matches | Between | SqlRule, Field(discriminator="rule")
]


class Column(_Model):
    """What the YAML says of a column; the type itself is the source's."""

    description: str = ""
    type: str | None = Field(default=None, description="The source's type, if a change of it shall fail a check.")
    personal: bool = Field(default=False, description="Personal data: never shown in previews or reports.")
    as_: Literal["string", "null", "boolean", "binary", "exclude"] | None = Field(
        default=None, alias="as", description="How a column is carried that its own type's way cannot carry whole."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_a_word(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        """YAML reads the bare word null as no value, and a column's name with nothing behind it as well."""
        if value is None:
            return {}
        return {**value, "as": "null"} if isinstance(value, dict) and "as" in value and value["as"] is None else value


class Landing(_Model):
    """How landed files are written."""

    format: Literal["parquet", "csv"] = "parquet"


class WarehouseTable(_Model):
    """The table in Redshift."""

    db_schema: str = Field(default="public", alias="schema")
    table: str | None = Field(default=None, description="Named like the source's table unless given.")
    distribution_key: str | None = None
    sort_keys: tuple[str, ...] = ()


MAY_BE_EMPTY = frozenset({"owners", "key", "columns", "rules", "landing", "warehouse"})
"""Keys of a table's YAML that hold several entries, or none."""


class TableSpec(_Model):
    """One source table and what becomes of it."""

    table: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", description="Its name in rds_lake, and in all asset names.")
    source_table: str | None = Field(default=None, description="Its name in MySQL, if that differs.")
    description: str = ""
    owners: tuple[str, ...] = ()
    key: tuple[str, ...] = Field(default=(), description="The columns that identify a row.")
    cursor: Cursor | None = None
    partitions: Partitions | None = None
    columns: dict[str, Column] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    landing: Landing = Landing()
    warehouse: WarehouseTable = WarehouseTable()
    fetch_details: str | None = Field(default=None, description="A source table that gets one row per extraction.")
    schedule: str = Field(default="0 8 * * *", description="Cron expression (UTC) of the full observation.")
    recent_schedule: str | None = Field(
        default=None, description="Cron expression (UTC) of the cheap observation of recent partitions."
    )
    schema_changes: Literal["evolve", "freeze", "discard"] = Field(
        default="evolve", description="What a change of the source table's columns does."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        """A key with nothing below it, whose entries were taken out: as if it were not there."""
        if not isinstance(value, dict):
            return value
        return {key: given for key, given in value.items() if given is not None or key not in MAY_BE_EMPTY}

    @field_validator("owners")
    @classmethod
    def _owner_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not (owner.startswith("team:") and len(owner) > len("team:")) and not re.fullmatch(r"\S+@\S+", owner):
                raise ValueError(f"'{owner}' is neither an e-mail address nor team:<name>")
        return value

    @field_validator("rules")
    @classmethod
    def _distinct_labels(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        labels = [rule.label for rule in value]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two rules are called {twice[0]}: give one of them a name")
        for rule in value:
            if not re.fullmatch(r"[A-Za-z0-9_]+", rule.label):
                raise ValueError(f"'{rule.label}' is no name for a rule: give it one of letters, digits and _")
            implied = rule.label.startswith("fits_") or (rule.label.startswith("not_null_") and rule.rule != "not_null")
            if implied or rule.label in RESERVED_LABELS:
                raise ValueError(f"the name {rule.label} belongs to a check that every table has: choose another one")
        return value

    @model_validator(mode="after")
    def _cursor_and_partitions_together(self) -> Self:
        if (self.cursor is None) != (self.partitions is None):
            given, missing = ("cursor", "partitions") if self.cursor else ("partitions", "cursor")
            raise ValueError(f"{given} without {missing}: a partition is a window of the cursor, so give both or none")
        return self

    @model_validator(mode="after")
    def _overrides_leave_what_is_needed(self) -> Self:
        named = self.named_columns()
        for name, column in self.columns.items():
            places = [place for place in named.get(name, []) if place != "columns"]
            if column.as_ == "exclude" and places:
                raise ValueError(f"columns.{name} is excluded, but {places[0]} needs it: take one of the two out")
            if column.as_ == "null" and "key" in places:
                raise ValueError(f"columns.{name} is of the key, which cannot be NULL: use another 'as', or none")
            if column.as_ is not None and "cursor" in places:
                raise ValueError(f"columns.{name} is the cursor, which is read as its own type: take its 'as' out")
        return self

    @model_validator(mode="after")
    def _recent_needs_a_cursor(self) -> Self:
        if self.recent_schedule and self.cursor is None:
            raise ValueError("recent_schedule without cursor: without one, nothing tells which rows are recent")
        return self

    @property
    def source_name(self) -> str:
        """The table's name in MySQL."""
        return self.source_table or self.table

    @property
    def warehouse_name(self) -> str:
        """The table's name in Redshift."""
        return self.warehouse.table or self.source_name

    @property
    def partitioning(self) -> Partitioning | None:
        """How the table is cut, or None for a table that is extracted in full."""
        return Partitioning.of(self.partitions.by, self.partitions.start) if self.partitions else None

    @property
    def partition_column(self) -> str | None:
        """The name of the partition column in the lake, such as `order_last_updated_day`."""
        if self.partitions is None or self.cursor is None:
            return None
        plain = re.sub(r"[^A-Za-z0-9_]", "_", self.cursor.column)  # it is part of S3 keys
        return self.partitions.column or f"{plain}_{self.partitions.by}".lower()

    def asset(self, stage: Stage) -> str:
        """The name of a stage's asset, which is also its table in the Glue catalog."""
        return f"{self.table}_{stage}"

    @property
    def excluded(self) -> frozenset[str]:
        """The columns that are not carried at all."""
        return frozenset(name for name, column in self.columns.items() if column.as_ == "exclude")

    def is_personal(self, column: str) -> bool:
        """Whether a column's values must not be shown."""
        return column in self.columns and self.columns[column].personal

    def named_columns(self) -> dict[str, list[str]]:
        """Every column that the YAML names, with the places that name it."""
        named: dict[str, list[str]] = {}
        places: list[tuple[str, Sequence[str]]] = [
            ("key", self.key),
            ("cursor", (self.cursor.column,) if self.cursor else ()),
            ("columns", tuple(name for name in self.columns if name not in self.excluded)),
            *((f"rule {rule.label}", rule.columns) for rule in self.rules),
            ("warehouse.distribution_key", filter(None, [self.warehouse.distribution_key])),  # type: ignore[list-item]
            ("warehouse.sort_keys", self.warehouse.sort_keys),
        ]
        for place, columns in places:
            for column in columns:
                named.setdefault(column, []).append(place)
        return named

    def check_columns(self, present: Sequence[str]) -> None:
        """Check that the source has every column that the YAML names.

        Raises:
            SpecError: it has not; the message names column and place.
        """
        for column, places in self.named_columns().items():
            if column not in present:
                raise SpecError(
                    f"{self.table}: {places[0]} names the column '{column}', which the source table "
                    f"'{self.source_name}' does not have (it has: {', '.join(present)}).",
                    self._how_to_go_on_without(column, places),
                )

    def _how_to_go_on_without(self, column: str, places: Sequence[str]) -> str:
        """What to do about a column that the YAML names and the source does not have."""
        file = f"defs/{self.table}/defs.yaml"
        if places[0] != "columns":
            return f"Correct it in {file}, or add the column to the source."
        personal = ": it is personal, and its values would be shown under another name" * self.is_personal(column)
        return (
            "A column that the YAML names is never dropped silently, whatever schema_changes says. If the source "
            f"renamed it, rename columns.{column} in {file} as well{personal}; if it dropped it, take the entry out."
        )


def refuse_shared_targets(specs: Iterable[TableSpec]) -> None:
    """Refuse tables that would be kept in one: each would replace the other's partitions in Glue, or remove its rows.

    Raises:
        SpecError: two tables name the same table of the warehouse, or differ in case only, which Glue folds.
    """
    owners: dict[tuple[str, str], str] = {}
    names: dict[str, str] = {}
    for spec in specs:
        twin = names.setdefault(spec.table.lower(), spec.table)
        if twin != spec.table:
            raise SpecError(
                f"The tables '{twin}' and '{spec.table}' differ in case only: they would share their Glue tables.",
                f"Give one of them another 'table' in rds_lake/defs/{spec.table}/defs.yaml; 'source_table' may stay.",
            )
        place = (spec.warehouse.db_schema.lower(), spec.warehouse_name.lower())
        other = owners.setdefault(place, spec.table)
        if other != spec.table:
            raise SpecError(
                f"The tables '{other}' and '{spec.table}' are both loaded into {place[0]}.{place[1]}.",
                f"Give one of them another 'warehouse.table' in rds_lake/defs/{spec.table}/defs.yaml.",
            )
