"""One Redshift COPY statement: what it means, and whether Redshift (and this shim) accepts it.

Pure: tokens in, a `CopyJob` or a `Refused` out. What the objects in S3 look like is the business of `source`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rds_lake.local.shim.tokens import Kind, Token, closing_parenthesis, joined, name_of, quoted, unquoted_string


class Refused(Exception):  # noqa: N818 - it is a verdict that becomes the client's error message
    """The statement cannot run; the message says why."""


class SourceError(Exception):
    """What lies in S3 cannot be loaded; the message names the object and the reason."""


@dataclass(frozen=True)
class CopyJob:
    """One COPY: into what, from where, and how the objects are to be read."""

    table: tuple[str, ...]
    columns: tuple[str, ...]
    bucket: str
    key: str
    format: Literal["parquet", "csv"]
    manifest: bool = False
    ignore_header: int = 0
    delimiter: str = ","
    quote: str = '"'
    null_as: str = "\\N"
    empty_as_null: bool = False
    compression: str | None = None

    @property
    def url(self) -> str:
        """The address as the statement gives it."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def table_name(self) -> str:
        """The table for messages."""
        return ".".join(self.table)

    @property
    def target(self) -> str:
        """The quoted table, for SQL."""
        return ".".join(quoted(part) for part in self.table)

    @property
    def postgres_sql(self) -> str:
        """The statement that PostgreSQL runs instead; the shim feeds it."""
        columns = f" ({', '.join(quoted(c) for c in self.columns)})" if self.columns else ""
        return f"COPY {self.target}{columns} FROM STDIN (FORMAT csv, ENCODING 'UTF8')"


_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[^\s,]+(,arn:aws[a-z-]*:iam::\d{12}:role/[^\s,]+)*")
_CREDENTIALS = re.compile(r"aws_iam_role=(?P<role>.+)|aws_access_key_id=.+;aws_secret_access_key=.+")
# Guide page copy-usage_notes-copy-from-columnar: all other words are refused with a columnar format.
_PARQUET_WORDS = frozenset({"IAM_ROLE", "CREDENTIALS", "FORMAT", "PARQUET", "MANIFEST", "STATUPDATE"})
_REAL_WORDS = frozenset({"ACCEPTINVCHARS", "ACCEPTANYDATE", "AVRO", "BLANKSASNULL", "COMPROWS", "ENCRYPTED", "ESCAPE"})
_REAL_WORDS |= {"EXPLICIT_IDS", "FILLRECORD", "FIXEDWIDTH", "IGNOREALLERRORS", "IGNOREBLANKLINES", "JSON", "LZOP"}
_REAL_WORDS |= {"MASTER_SYMMETRIC_KEY", "NOLOAD", "ORC", "READRATIO", "REMOVEQUOTES", "ROUNDEC", "SERIALIZETOJSON"}
_REAL_WORDS |= {"SHAPEFILE", "SSH", "TRIMBLANKS", "TRUNCATECOLUMNS"}


class _Reader:
    """Walks over the significant tokens of one COPY."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.position = 0

    def peek(self) -> Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self, what: str) -> Token:
        token = self.peek()
        if token is None:
            raise Refused(f"COPY ends where {what} was expected")
        self.position += 1
        return token

    def accept(self, *words: str) -> str:
        """Take the next token if it is one of the words; the word, or an empty string."""
        token = self.peek()
        if token is not None and token.word in words:
            self.position += 1
            return token.word
        return ""

    def string(self, after: str) -> str:
        self.accept("AS")
        token = self.take(f"a string after {after}")
        try:
            return unquoted_string(token)
        except ValueError as error:
            raise Refused(f"COPY: after {after}, {error}") from None

    def number(self, after: str) -> int:
        self.accept("AS")
        token = self.take(f"a number after {after}")
        if token.kind is not Kind.NUMBER or not token.text.isdigit():
            raise Refused(f"COPY: after {after}, {token.text} is not a number")
        return int(token.text)


def _one_of(reader: _Reader, word: str, *accepted: str) -> None:
    value = reader.string(word)
    if value.lower() not in {a.lower() for a in accepted}:
        raise Refused(f"COPY: {word} '{value}' is not supported by the local warehouse (only {', '.join(accepted)})")


def _one_character(reader: _Reader, word: str) -> str:
    value = reader.string(word)
    value = {"\\t": "\t"}.get(value, value)
    if len(value) != 1 or ord(value) > 127:
        raise Refused(f"COPY: {word} '{value}' is not a single ASCII character")
    return value


def _role(reader: _Reader, job: CopyJob) -> CopyJob:
    if reader.accept("DEFAULT"):
        return job
    role = reader.string("IAM_ROLE")
    if not _ROLE.fullmatch(role):
        raise Refused(f"COPY: IAM_ROLE '{role}' is not the ARN of a role (arn:aws:iam::<account>:role/<name>)")
    return job


def _credentials(reader: _Reader, job: CopyJob) -> CopyJob:
    match = _CREDENTIALS.fullmatch(reader.string("CREDENTIALS"))
    if match is None or (match["role"] and not _ROLE.fullmatch(match["role"])):
        raise Refused("COPY: CREDENTIALS is neither 'aws_iam_role=<ARN>' nor a pair of keys")
    return job


def _format(reader: _Reader, job: CopyJob) -> CopyJob:
    reader.accept("AS")
    word = reader.take("a format").word
    if word not in ("PARQUET", "CSV"):
        raise Refused(
            f"COPY: FORMAT {word or '(a string)'} is not supported by the local warehouse (PARQUET and CSV are)"
        )
    return _parquet(reader, job) if word == "PARQUET" else _csv(reader, job)


def _parquet(reader: _Reader, job: CopyJob) -> CopyJob:
    del reader
    return replace(job, format="parquet")


def _csv(reader: _Reader, job: CopyJob) -> CopyJob:
    quote = _one_character(reader, "QUOTE") if reader.accept("QUOTE") else job.quote
    return replace(job, format="csv", quote=quote)


def _switch(reader: _Reader, job: CopyJob) -> CopyJob:
    reader.accept("ON", "OFF", "TRUE", "FALSE", "PRESET")
    return job


def _null(reader: _Reader, job: CopyJob) -> CopyJob:
    return replace(job, null_as=reader.string("NULL"))


def _date_format(reader: _Reader, job: CopyJob) -> CopyJob:
    _one_of(reader, "DATEFORMAT", "auto", "YYYY-MM-DD")
    return job


def _time_format(reader: _Reader, job: CopyJob) -> CopyJob:
    _one_of(reader, "TIMEFORMAT", "auto", "YYYY-MM-DD HH:MI:SS", "YYYY-MM-DD HH24:MI:SS")
    return job


def _region(reader: _Reader, job: CopyJob) -> CopyJob:
    reader.string("REGION")
    return job


def _encoding(reader: _Reader, job: CopyJob) -> CopyJob:
    reader.accept("AS")
    token = reader.take("an encoding")
    if token.text.strip("'").upper() != "UTF8":
        raise Refused(f"COPY: ENCODING {token.text} is not supported by the local warehouse (only UTF8)")
    return job


def _max_error(reader: _Reader, job: CopyJob) -> CopyJob:
    if reader.number("MAXERROR"):
        raise Refused("COPY: MAXERROR above 0 is not supported by the local warehouse: it would lose rows silently")
    return job


# Every option that the shim runs or may safely ignore.
_OPTIONS: Mapping[str, Callable[[_Reader, CopyJob], CopyJob]] = {
    "IAM_ROLE": _role,
    "CREDENTIALS": _credentials,
    "FORMAT": _format,
    "PARQUET": _parquet,
    "CSV": _csv,
    "MANIFEST": lambda _, job: replace(job, manifest=True),
    "IGNOREHEADER": lambda reader, job: replace(job, ignore_header=reader.number("IGNOREHEADER")),
    "DELIMITER": lambda reader, job: replace(job, delimiter=_one_character(reader, "DELIMITER")),
    "NULL": _null,
    "EMPTYASNULL": lambda _, job: replace(job, empty_as_null=True),
    "GZIP": lambda _, job: replace(job, compression="gzip"),
    "BZIP2": lambda _, job: replace(job, compression="bz2"),
    "ZSTD": lambda _, job: replace(job, compression="zstd"),
    "DATEFORMAT": _date_format,
    "TIMEFORMAT": _time_format,
    "STATUPDATE": _switch,
    "COMPUPDATE": _switch,
    "REGION": _region,
    "ENCODING": _encoding,
    "MAXERROR": _max_error,
}


def _names(tokens: Sequence[Token], what: str) -> tuple[str, ...]:
    """Names between separators: `a.b` or `a, b`."""
    for index, token in enumerate(tokens):
        is_name = token.kind in (Kind.WORD, Kind.NAME)
        if is_name != (index % 2 == 0):
            raise Refused(f"COPY: {joined(tokens)} is not {what}")
    return tuple(name_of(t) for t in tokens[::2])


def _head(reader: _Reader) -> CopyJob:
    """The part up to FROM 's3://...'."""
    reader.take("COPY")
    start = reader.position
    while (token := reader.peek()) is not None and token.word not in ("(", "FROM", "TO"):
        reader.position += 1
    table = _names(reader.tokens[start : reader.position], "the name of a table")
    columns: tuple[str, ...] = ()
    if reader.peek() is not None and reader.tokens[reader.position].word == "(":
        end = closing_parenthesis(reader.tokens, reader.position)
        columns = _names(reader.tokens[reader.position + 1 : end], "a list of columns")
        reader.position = end + 1
    if not table or not reader.accept("FROM"):
        raise Refused("COPY is 'COPY table FROM 's3://...'' on Redshift: no COPY TO (use UNLOAD) and no COPY (query)")
    token = reader.peek()
    if token is not None and token.kind is not Kind.STRING:
        raise Refused(f"Redshift's COPY reads from S3, not from {token.text}")
    address = reader.string("FROM")
    match = re.fullmatch(r"s3://([^/]+)/(.+)", address, re.DOTALL)
    if match is None:
        raise Refused(f"COPY: '{address}' is not an address in S3 (s3://bucket/key)")
    return CopyJob(table=table, columns=columns, bucket=match[1], key=match[2], format="csv")


def _check(seen: set[str], job: CopyJob) -> None:
    if not seen & {"IAM_ROLE", "CREDENTIALS"}:
        raise Refused("COPY: neither IAM_ROLE nor CREDENTIALS is given, so Redshift may not read the bucket")
    if not seen & {"FORMAT", "PARQUET", "CSV"}:
        raise Refused("COPY: no FORMAT is given; the local warehouse reads PARQUET and CSV")
    surplus = sorted(seen - _PARQUET_WORDS)
    if job.format == "parquet" and surplus:
        raise Refused(f"COPY: Redshift does not accept {', '.join(surplus)} with FORMAT PARQUET")


def parse_copy(tokens: Sequence[Token]) -> CopyJob:
    """Read a COPY statement.

    Args:
        tokens: its significant tokens, the word COPY first.

    Raises:
        Refused: Redshift, or the shim, does not accept it.
    """
    reader = _Reader(tokens)
    job = _head(reader)
    seen: set[str] = set()
    while (token := reader.peek()) is not None:
        word = token.word
        reader.position += 1
        option = _OPTIONS.get(word)
        if option is None:
            known = word in _REAL_WORDS
            because = "is not supported by the local warehouse" if known else "is not an option of Redshift's COPY"
            raise Refused(f"COPY: {token.text} {because}")
        if word in seen:
            raise Refused(f"COPY: {word} is given twice")
        seen.add(word)
        job = option(reader, job)
    _check(seen, job)
    return job
