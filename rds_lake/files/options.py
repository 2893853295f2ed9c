"""How files of delimited text are read: the part of the YAML that drop zones and feeds share."""

import codecs
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Header = Literal["auto", "present", "absent"]

_NO_FILES = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode"})
"""Encodings of names and of source code: a text in one of them may stand for what is no text."""


class CsvOptions(BaseModel):
    """How a file of delimited text is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delimiter: str = Field(default=",", description="What separates fields; of a file called .tsv always a tab.")
    quote: str = Field(default='"', description="What encloses fields; doubled inside of them.")
    header: Header = Field(
        default="auto", description="Whether the first row names the columns; auto: if all of it are their names."
    )
    encoding: str = Field(default="utf-8", description="The encoding, as Python calls it.")
    nulls: tuple[str, ...] = Field(default=("\\N",), description="Texts that stand for NULL in every column.")
    empty_is_null: bool = Field(
        default=False, description="Whether a blank field is NULL in text columns too; in all others it always is."
    )
    max_expanded_mb: int = Field(
        default=4096, ge=1, description="The most that a file may unpack to, in MB: what is larger is refused."
    )

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, value: str) -> str:
        value = {"\\t": "\t", "tab": "\t"}.get(value, value)
        if len(value) != 1 or value in "\r\n\x00":
            raise ValueError("it must be one character, and no line break")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            name = codecs.lookup(value).name
            "a".encode(name)
        except (LookupError, ValueError) as error:  # some do not encode texts, and one nothing at all
            raise ValueError(f"'{value}' is no encoding that Python knows, such as utf-8, cp1252, utf-16") from error
        if name in _NO_FILES:
            raise ValueError(f"'{value}' is no encoding of files: say utf-8, cp1252 or utf-16, for example")
        return name

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both '{self.quote}'")
        return self
