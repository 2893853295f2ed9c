"""Delimited text: bytes in, records out, each with the line that it begins on.

Memory stays small whatever the file is: one line and one record are held, and both are bounded. What is no such text
at all (an archive, a program, a line without end) is refused as a whole; a single record that cannot be read comes as
`Broken`, and reading goes on behind it.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import RefusedError

RECORD_MAX = 4 * 1024 * 1024
"""Characters of a line, of a field and of a record: Redshift takes rows of 4 MB."""

csv.field_size_limit(RECORD_MAX)

MIB = 1024 * 1024
RATIO, RATIO_FROM = 250, 64 * MIB
"""A file that unpacks to this many times its size is refused once it has unpacked to so many bytes. Text packs to a
tenth, repeated text to a fiftieth; DEFLATE ends at 1032.
"""

_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "packed with bzip2",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xfd7zXZ\x00": "packed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SNIFFED = 8192

_ENDS_FROM, _ENDS_TO = 64 * 1024, MIB
"""Bytes in which a line's end is looked for: so many at first, each time twice as many, in the end so many."""

_LONE_CR = "new-line character seen in unquoted field"
"""What `csv` says of a CR in the middle of a line."""

_ESCAPED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are no text."""


@dataclass(frozen=True)
class Record:
    """One record: the line that it begins on, from 1, its fields, and what stands there."""

    line: int
    fields: list[str]
    raw: str


@dataclass(frozen=True)
class Broken:
    """A record that cannot be read: the line that it begins on, what stands there, and what is wrong with it."""

    line: int
    raw: str
    reason: str


def read_records(content: IO[bytes], name: str, size: int, options: CsvOptions) -> Iterator[Record | Broken]:
    """The records of a file; an empty line comes as one without fields.

    Args:
        content: the file, at its start; read to its end, it stays open.
        name: what it is called.
        size: its bytes.
        options: how it is to be read.

    Raises:
        RefusedError: it is no delimited text.
    """
    head = content.read(_SNIFFED)
    content.seek(0)
    if not head:
        raise RefusedError(f"{name} is empty.", "Drop a file with rows.")
    plain: IO[bytes] = content
    if head.startswith(_GZIP):
        plain = _unpacked(content, name, size, options.max_expanded_mb * MIB)
        head = plain.read(_SNIFFED)
        plain.seek(0)
    _check_is_text(head, name, options)
    delimiter = "\t" if re.search(r"\.tsv(\.gz)?$", name, re.IGNORECASE) else options.delimiter
    ends = _line_ends(plain, delimiter, options)
    plain.seek(0)
    lines = _Lines(plain, name, options, ends)
    yield from _parsed(lines, delimiter, options)
    lines.release()


def _check_is_text(head: bytes, name: str, options: CsvOptions) -> None:
    for magic, what in _ARCHIVES.items():
        if head.startswith(magic):
            raise RefusedError(f"{name} is {what}, not text.", "Drop text, plain or packed with gzip.")
    is_wide = options.encoding.startswith(("utf-16", "utf-32"))
    if head.startswith(_UTF16) and not is_wide:
        raise RefusedError(f"{name} is UTF-16, not {options.encoding}.", "Say 'encoding: utf-16' in the YAML.")
    if head.startswith(_UTF8_MARK) and not options.encoding.startswith("utf-8"):
        raise RefusedError(f"{name} is UTF-8, not {options.encoding}.", "Say 'encoding: utf-8' in the YAML.")
    if b"\x00" in head and not is_wide:
        raise RefusedError(f"{name} is not text: it has NUL bytes.", "Drop text, plain or packed with gzip.")


def _unpacked(content: IO[bytes], name: str, size: int, most: int) -> IO[bytes]:
    """The content of a gzip file, which has been found to be whole and not to grow beyond all measure.

    It is unpacked once to find that out: row by row it would take minutes, unpacking alone is a hundred times faster.

    Raises:
        RefusedError: it is damaged, or too large.
    """
    done = 0
    try:
        with gzip.GzipFile(fileobj=content, mode="rb") as file:
            while done <= most and (chunk := file.read(MIB)):
                done += len(chunk)
                if done > max(RATIO_FROM, RATIO * size):
                    raise RefusedError(
                        f"{name} unpacks to more than {RATIO} times its {size:,} bytes, as no text does.",
                        "If it is none that is meant to fill the disk, drop it unpacked.",
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RefusedError(f"{name} cannot be unpacked: {error}.", "Pack it again with gzip.") from error
    if done > most:
        raise RefusedError(
            f"{name} unpacks to more than {most // MIB:,} MB.", "Drop it in parts, or raise max_expanded_mb."
        )
    content.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=content, mode="rb"))


def _line_ends(content: IO[bytes], delimiter: str, options: CsvOptions) -> Literal["\n", ""]:
    """What ends a line, as `TextIOWrapper` is told it: LF (and CRLF), or anything, CR alone too.

    Where LF ends lines, a CR alone belongs to a value: it ends no record, which would load a part of it as a row.
    """
    mark, quote = re.escape(delimiter), re.escape(options.quote)
    quoted = re.compile(rf"(^|[{mark}\r\n]){quote}[^{quote}]*(?:{quote}{quote}[^{quote}]*)*(?:{quote}|\Z)")
    decoder = codecs.getincrementaldecoder(options.encoding)("replace")
    text, size = "", _ENDS_FROM
    while size <= _ENDS_TO and (more := content.read(size)):
        try:
            text += decoder.decode(more)
        except UnicodeError:  # what is wrong is said when the lines are read
            break
        plain = quoted.sub(r"\1", text.removeprefix("\ufeff"))
        if "\n" in plain:
            return "\n"
        if "\r" in plain[:-1]:
            return ""
        size *= 2
    return ""


class _Lines:
    """The lines of a text, each with its line break, and those of the present record.

    Args:
        content: the text, at its start.
        name: what its file is called.
        options: how it is to be read.
        ends: what ends a line, see `_line_ends`.
    """

    def __init__(self, content: IO[bytes], name: str, options: CsvOptions, ends: Literal["\n", ""]) -> None:
        encoding = "utf-8-sig" if options.encoding == "utf-8" else options.encoding
        errors = "strict" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._text = io.TextIOWrapper(content, encoding=encoding, errors=errors, newline=ends)
        self._name = name
        self._encoding = options.encoding
        self.record: list[str] = []
        self._length = 0
        self.number = 0

    def release(self) -> None:
        """Leave the content open, which would be closed with its reader."""
        self._text.detach()

    def begin(self) -> None:
        """A new record begins."""
        self.record, self._length = [], 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(RECORD_MAX + 1)
        except UnicodeError as error:
            raise RefusedError(
                f"{self._name} is not {self._encoding}, on line {self.number + 1} or behind it: {error}.",
                "Save it in that encoding, or name its own in the YAML ('encoding').",
            ) from error
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = line.removeprefix("\ufeff")  # a mark that codecs such as utf-16-le leave there
        self._length += len(line)
        if len(line) > RECORD_MAX:
            raise RefusedError(
                f"{self._name}, line {self.number}, is longer than {RECORD_MAX // MIB} MB, which no row may be.",
                "Is it text with line breaks? Redshift takes rows of 4 MB.",
            )
        if self._length > RECORD_MAX:
            raise self.never_closed()
        self.record.append(line)
        return line

    def never_closed(self) -> RefusedError:
        """The error for a quote that swallows what comes after it."""
        first = self.number - len(self.record) if self._length > RECORD_MAX else self.number - len(self.record) + 1
        return RefusedError(
            f"{self._name}, line {first}: a quoted field begins there and never ends.",
            "Close it, or double the quotes inside of fields.",
        )

    def no_end(self, first: int) -> RefusedError:
        """The error for a quote after which it cannot be told where the record ends."""
        return RefusedError(
            f"{self._name}, line {first}: a quote there makes it impossible to tell where the record ends.",
            "Double the quotes inside of fields.",
        )

    @property
    def raw(self) -> str:
        """The text of the present record."""
        return "".join(self.record).rstrip("\r\n")


class _Reader:
    """The records of some lines, as `csv` cuts them.

    A stray quote breaks the record that it is in. Where that record ends is sure only as long as nothing else can be
    meant: what comes behind it must not look like the rest of a quoted field that begins there.
    """

    def __init__(self, lines: _Lines, delimiter: str, quote: str) -> None:
        self._lines = lines
        self._form: Any = {"delimiter": delimiter, "quotechar": quote, "doublequote": True, "strict": True}
        self._quote = quote
        self._reader = csv.reader(lines, **self._form)
        self._stray: int | None = None

    def next(self, first: int) -> list[str] | str:
        """The fields of the next record, none of an empty line; or what is wrong with it.

        Args:
            first: the line that it begins on.

        Raises:
            StopIteration: there is none.
            RefusedError: a quote is never closed, or makes it impossible to tell where a record ends.
        """
        try:
            fields = next(self._reader)
        except csv.Error as error:
            if "unexpected end of data" in str(error) or "field larger than" in str(error):
                raise self._lines.never_closed() from error
            if len(self._lines.record) > 1:
                raise self._lines.no_end(first) from error
            is_cr = _LONE_CR in str(error)
            self._check(None if is_cr and self._quote not in self._lines.raw else first)
            return "has a carriage return (CR) outside of quotes" if is_cr else f"is not well-formed: {error}"
        if self._stray is not None:
            self._check(None)
        return fields

    def _check(self, broken: int | None) -> None:
        """Refuse the file when the present record may be the end of an earlier one."""
        if self._stray is not None and self._quote in self._lines.raw and self._closes():
            raise self._lines.no_end(self._stray)
        self._stray = self._stray or broken

    def _closes(self) -> bool:
        first, *rest = self._lines.record
        try:
            next(csv.reader([f"{self._quote}.{first}", *rest], **self._form))
        except csv.Error:
            return False
        return True


def _parsed(lines: _Lines, delimiter: str, options: CsvOptions) -> Iterator[Record | Broken]:
    reader = _Reader(lines, delimiter, options.quote)
    while True:
        lines.begin()
        first = lines.number + 1
        try:
            fields = reader.next(first)
        except StopIteration:
            return
        raw = lines.raw
        if isinstance(fields, str):
            yield Broken(first, raw, fields)
            continue
        if not raw.isascii() and (found := _ESCAPED.search(raw)):
            byte = ord(found[0]) - 0xDC00
            yield Broken(first, raw, f"is not {options.encoding}: it has the byte 0x{byte:02X}")
        else:
            yield Record(first, fields, raw)
