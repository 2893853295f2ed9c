"""Delimited text: what was written is read back exactly, each record with its line; what is no such text is refused."""

import codecs
import csv
import gzip
import io
import random
import re
import time
import tracemalloc
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from rooms import bounded

from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import RefusedError
from rds_lake.files.text import RECORD_MAX, Broken, Record, read_records

MIB = 1024 * 1024


def records(content: bytes, name: str = "a.csv", **options: Any) -> list[Record | Broken]:
    return list(read_records(io.BytesIO(content), name, len(content), CsvOptions(**options)))


def rows(content: bytes, name: str = "a.csv", **options: Any) -> list[tuple[int, list[str]]]:
    """Line and fields of each record; none of them may be broken. Empty lines are left out."""
    found = records(content, name, **options)
    assert not [item for item in found if isinstance(item, Broken)]
    return [(item.line, item.fields) for item in found if isinstance(item, Record) and item.fields]


def refusal(content: bytes, name: str = "a.csv", **options: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        records(content, name, **options)
    assert name in str(caught.value)
    return str(caught.value)


# --- what a writer writes is read back -------------------------------------------------------------------------------

TERMINATORS = ("\n", "\r\n", "\r")
ENCODINGS = {
    "utf-8": "🧀é",
    "utf-16": "🧀é",
    "utf-16-le": "🧀é",
    "utf-16-be": "🧀é",
    "utf-32": "🧀é",
    "cp1252": "é€",
    "latin-1": "éÿ",
    "gb18030": "🧀é",
    "shift_jis": "あ",
}


def fields(special: str) -> st.SearchStrategy[str]:
    marks = st.sampled_from([*',;|\t" \n\r', "\r\n", '""', '",', "\n\n", "\\", "'", "\\N", "\0", "\x0b", "\x1c"])
    letters = st.sampled_from(["a", "0", "-1.5", *special])
    return st.lists(st.one_of(marks, letters), max_size=6).map("".join)


def lines_of(text: str) -> int:
    """How many line breaks a text has, counted by hand."""
    return len(re.findall("\r\n|\r|\n", text))


def enclosed(field: str, delimiter: str, quote: str, *, always: bool) -> str:
    """A field as RFC 4180 has it; the csv module leaves some line breaks without quotes."""
    if always or set(field) & {delimiter, quote, "\r", "\n"}:
        return f"{quote}{field.replace(quote, quote * 2)}{quote}"
    return field


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], list[tuple[int, list[str]]]]:
    """A file, how it is to be read, and what has to come out."""
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    known = fields(ENCODINGS[encoding])
    width = draw(st.integers(1, 4))
    table = draw(st.lists(st.lists(known, min_size=width, max_size=width), min_size=1, max_size=8))
    delimiter, quote = draw(st.sampled_from([',"', ';"', "\t'", "|~", ' "', 'a"', '\x01"', "0'"]))
    always = draw(st.booleans()) or width == 1
    text, line, expected = "", 1, []
    terminator = "\n"
    terminators = draw(st.sampled_from([*((one,) for one in TERMINATORS), ("\n", "\r\n")]))
    for row in table:
        terminator = draw(st.sampled_from(terminators))
        empty = draw(st.integers(0, 2))  # empty lines are no records
        text += terminator * empty + delimiter.join(enclosed(field, delimiter, quote, always=always) for field in row)
        text += terminator
        expected.append((line + empty, row))
        line += empty + 1 + sum(lines_of(field) if terminator == "\r" else field.count("\n") for field in row)
    if draw(st.booleans()):
        text = text.removesuffix(terminator)
    mark = draw(st.sampled_from(["", "\ufeff"])) if encoding in {"utf-8", "utf-16-le", "utf-16-be"} else ""
    content = (mark + text).encode(encoding)
    cut = draw(st.integers(0, len(content)))
    packed = draw(st.sampled_from(["not", "once", "in parts"]))
    if packed == "once":
        content = gzip.compress(content)
    elif packed == "in parts":
        content = b"".join(gzip.compress(part) for part in (content[:cut], b"", content[cut:]))
    return content, {"delimiter": delimiter, "quote": quote, "encoding": encoding}, expected


def is_text(content: bytes) -> bool:
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return b"\0" not in plain[:8192]


@given(written())
@bounded(300)
def test_any_table_is_read_back_exactly_with_the_line_of_each_record(made):
    content, options, expected = made
    if options["encoding"].startswith(("utf-16", "utf-32")) or is_text(content):
        assert rows(content, **options) == expected
    else:
        assert "NUL" in refusal(content, **options)


def test_many_records_are_read_back_across_every_buffer():
    source = random.Random(5)
    table = [["x" * source.randrange(300), "é\n" * source.randrange(5), f"{number}"] for number in range(3000)]
    for terminator, encoding in (("\n", "utf-8"), ("\r\n", "utf-16"), ("\r", "utf-8")):
        target = io.StringIO()
        csv.writer(target, lineterminator=terminator, quoting=csv.QUOTE_ALL).writerows(table)
        for content in (target.getvalue().encode(encoding), gzip.compress(target.getvalue().encode(encoding), 1)):
            found = rows(content, encoding=encoding)
            assert [fields for _, fields in found] == table
            line = 1
            for number, fields in found:
                assert number == line
                line += 1 + fields[1].count("\n")


def test_a_name_that_ends_in_tsv_says_that_tabs_separate():
    for name in ("a.tsv", "A.TSV", "a.tsv.gz", "a.b.TSV.GZ"):
        content = gzip.compress(b"a,b\tc\n") if name.lower().endswith("gz") else b"a,b\tc\n"
        assert rows(content, name) == [(1, ["a,b", "c"])]
    for name in ("tsv", "a.tsv.csv", "atsv", "a.tsv.zip"):
        assert rows(b"a,b\tc\n", name) == [(1, ["a", "b\tc"])]


def test_gzip_is_known_by_its_content_not_by_its_name():
    assert rows(gzip.compress(b"a,b\n"), "a.csv") == [(1, ["a", "b"])]
    assert rows(b"a,b\n", "a.csv.gz") == [(1, ["a", "b"])]
    assert rows(gzip.compress(b"a,b\n") + bytes(512), "a.csv.gz") == [(1, ["a", "b"])]


def test_blanks_quotes_in_the_middle_and_empty_fields_are_kept():
    assert rows(b' a , "b" ,5" disk,\'c\',,""\n') == [(1, [" a ", ' "b" ', '5" disk', "'c'", "", ""])]
    assert rows(b'"a""b","""","",\n') == [(1, ['a"b', '"', "", ""])]


def test_an_empty_line_has_no_fields_and_an_empty_value_in_quotes_is_one():
    found = records(b'a\n\n""\r\n\r\n \nb')
    assert [(item.line, item.fields) for item in found if isinstance(item, Record)] == [
        *((1, ["a"]), (2, []), (3, [""]), (4, []), (5, [" "]), (6, ["b"]))
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_carriage_return_alone_ends_no_record_of_a_file_with_other_line_ends(end):
    text = end.join(["1,x\ry", '2,"x\ry"', "\r3,x", '4,"a\r', 'b",c', "5,x", ""])
    found = records(text.encode())
    assert [(item.line, item.fields if isinstance(item, Record) else item.reason) for item in found] == [
        (1, "has a carriage return (CR) outside of quotes"),
        (2, ["2", "x\ry"]),
        (3, "has a carriage return (CR) outside of quotes"),
        (4, ["4", f"a\r{end}b", "c"]),
        (6, ["5", "x"]),
    ]
    assert found[0].raw == "1,x\ry"
    assert found[2].raw == "\r3,x"


@pytest.mark.parametrize(
    "text",
    [
        'a,"b\nc"\r1,2\r',
        '\ufeff"b\n",a\r1,2\r',
        '"a","b ""\n"" c"\r1,2\r',
        "a,b\r1,2",
        f'"{"x" * 70_000}\n","{"y" * 70_000}"\r1,2\r',
    ],
)
def test_where_only_carriage_returns_end_lines_they_do_though_values_have_others(text):
    assert rows(text.encode())[1][1] == ["1", "2"]


def test_a_file_of_one_line_may_end_with_anything():
    for end in ("", "\n", "\r", "\r\n"):
        assert rows(f"a,b{end}".encode()) == [(1, ["a", "b"])]
        assert rows(f'a,"b\r"{end}'.encode()) == [(1, ["a", "b\r"])]


def test_a_carriage_return_before_a_quote_leaves_it_open_where_records_end():
    assert "makes it impossible to tell where the record ends" in refusal(b'1,x\r2,"a\nb,c"\n3,d\n')


def test_only_line_breaks_break_lines():
    text = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\n2"
    assert rows(text.encode()) == [(1, [text[:-2]]), (2, ["2"])]


# --- a record that cannot be read breaks alone -----------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "é", "🧀", "b c"]), min_size=1, max_size=20), st.data())
@bounded(150)
def test_bytes_that_are_no_text_break_exactly_their_record(values, data):
    bad = data.draw(st.sets(st.integers(0, len(values) - 1)))
    byte = data.draw(
        st.sampled_from([b"\xff", b"\xc3", b"\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"])
    )
    lines = [f"{number},{value}".encode() + (byte if number in bad else b"") for number, value in enumerate(values)]
    found = records(b"\n".join(lines))
    assert [item.line for item in found] == list(range(1, len(values) + 1))
    for number, item in enumerate(found):
        assert isinstance(item, Broken) == (number in bad)
        assert item.raw.encode("utf-8", "surrogateescape") == lines[number]
        if isinstance(item, Broken):
            assert item.reason == f"is not utf-8: it has the byte 0x{byte[0]:02X}"


def test_bytes_that_another_encoding_does_not_know_break_their_record_too():
    found = records(b"a,1\n\x81,2\n\x80,3\n", encoding="cp1252")
    assert found[1] == Broken(2, "\udc81,2", "is not cp1252: it has the byte 0x81")
    assert found[2] == Record(3, ["€", "3"], "€,3")


def test_a_multi_line_record_breaks_with_all_of_its_lines():
    found = records(b'1,"a\nb\xff\nc"\n2,d\n')
    assert [(item.line, type(item)) for item in found] == [(1, Broken), (4, Record)]
    assert found[0].raw == '1,"a\nb\udcff\nc"'


def test_a_stray_quote_breaks_its_record():
    found = records(b'a,b\n"12" pipe",5\n1,"x ""y"" z"\n"6" and "7" pipes",6\n"c","d"\n')
    assert [item.line for item in found if isinstance(item, Broken)] == [2, 4]
    assert found[1] == Broken(2, '"12" pipe",5', "is not well-formed: ',' expected after '\"'")
    assert [item.fields for item in found if isinstance(item, Record)] == [["a", "b"], ["1", 'x "y" z'], ["c", "d"]]


@pytest.mark.parametrize(
    "content",
    [
        b'a,b\n"x"y,"foo\nbar,baz"\n1,2\n',  # a field over two lines: its end would be a record of two fields
        b'a,b\n"x"y,"foo\nbar\nbaz",2\n',
        b'a,b\n"x"y","foo\nbar",2\n',
        b'a,b\n"x"",1\n"y",2\n',  # the quote that is doubled swallows the next record
        b'a,b\n"x,1\n"y",2\n',
        b'a,b\n1,"x\n2,y\n3,"z"\n',
    ],
)
def test_where_a_record_might_end_elsewhere_the_file_is_refused_with_the_line(content):
    assert "line 2: a quote there makes it impossible to tell" in refusal(content)


@pytest.mark.parametrize(
    "content", [b'a,b\n1,"x\n2,y\n', b'a,b\n1,"x', b'a,b\n1,"', b'a,b\n1,"x""\n2,y', b'a,b\n1,"x\r\n\r\n\r\n']
)
def test_a_quote_that_is_never_closed_refuses_the_file_with_its_line(content):
    assert "line 2: a quoted field begins there and never ends" in refusal(content)


words = st.sampled_from(["a", "bc", "1", "", "x y", "two\nlines", "say no", "p, q", "é\r\nü"])


@given(st.lists(st.lists(words, min_size=3, max_size=3), min_size=2, max_size=8), st.data())
@example([["a", "bc", "1"], ["1", "two\nlines", "a"], ["1", "a", "a"]], None)
@bounded(600)
def test_one_quote_too_much_touches_no_other_record(table, data):
    target = io.StringIO()
    csv.writer(target, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(table)
    text = target.getvalue()
    places = [at for at in range(len(text)) if text[at] not in "\r\n"]  # a quote there is an end that is well-formed
    at = data.draw(st.sampled_from(places)) if data else text.index("two")
    before = rows(text.encode())
    try:
        found = records(f'{text[:at]}"{text[at:]}'.encode())
    except RefusedError as error:
        assert re.search(r"line \d+", str(error))  # noqa: PT017
        return
    touched = max(line for line, _ in before if lines_of(text[:at]) + 1 >= line)
    assert [item.line for item in found] == [line for line, _ in before]
    others = [(item.line, item.fields) for item in found if isinstance(item, Record) and item.line != touched]
    assert others == [(line, row) for line, row in before if line != touched]


@given(st.binary(max_size=200), st.sampled_from(["utf-8", "cp1252", "utf-16", "shift_jis", "gb18030", "iso2022_jp"]))
@example(b"\x1f\x8b", "utf-8")
@example(b"\x1f\x8b\x08\x00", "utf-8")
@example(b"\xff\xfe\x00\xd8,\x00", "utf-16")
@bounded(500)
def test_any_bytes_are_records_or_refused(content, encoding):
    try:
        found = records(content, encoding=encoding)
    except RefusedError:
        return
    assert all(before.line < item.line for before, item in pairwise(found))
    assert (
        sum(max(1, lines_of(item.raw)) for item in found) <= lines_of(content.decode(encoding, "surrogateescape")) + 1
    )
    for item in found:
        if isinstance(item, Record):
            "".join(item.fields).encode()


# --- what is no text at all ------------------------------------------------------------------------------------------


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.csv", "a,b\n")
    return target.getvalue()


def parquet() -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), target)
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zipped(), "a zip archive"),
        (parquet(), "a Parquet file"),
        (b"%PDF-1.7\n%", "a PDF document"),
        (codecs.encode(b"a,b\n", "bz2"), "packed with bzip2"),
        (b"\x28\xb5\x2f\xfd\x04", "packed with zstd"),
        (b"\xfd7zXZ\x00", "packed with xz"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document"),
        (b"\x7fELF\x02\x01\x01\x00", "NUL bytes"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "NUL bytes"),
        (b"a,b\n1,\x002\n", "NUL bytes"),
        (bytes(10), "NUL bytes"),
        (gzip.compress(zipped()), "a zip archive"),
        (gzip.compress(parquet()), "a Parquet file"),
        (gzip.compress(gzip.compress(b"a,b\n" * 9)), "NUL bytes"),
        (gzip.compress(bytes(10)), "NUL bytes"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_text_is_refused_and_told_what_it_is(content, told):
    assert told in refusal(content)


@pytest.mark.parametrize(
    "content",
    [b"\n", b"\r\n\r\n\n\n\r\r", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\n", gzip.compress(b""), gzip.compress(b"\n\n")],
)
def test_empty_lines_have_no_fields(content):
    assert rows(content) == []
    assert all(item.raw == "" for item in records(content))


def test_nul_bytes_far_behind_are_values_like_any_other():
    content = b"a,b\n" * 3000 + b"x\0y,\0\n"
    assert rows(content)[-1] == (3001, ["x\0y", "\0"])


def test_a_file_in_another_encoding_is_refused_and_told_which():
    utf16 = "id,näme\n".encode("utf-16")
    assert "is UTF-16, not utf-8" in refusal(utf16)
    assert "is UTF-16, not cp1252" in refusal(utf16, encoding="cp1252")
    assert "is UTF-16, not utf-8" in refusal(gzip.compress(utf16))
    assert "is UTF-8, not cp1252" in refusal(codecs.BOM_UTF8 + b"id\n", encoding="cp1252")
    assert "is UTF-8, not utf-16" in refusal(codecs.BOM_UTF8 + b"id\n", encoding="utf-16")
    assert rows(utf16, encoding="UTF16") == [(1, ["id", "näme"])]


def test_utf_16_that_is_none_is_refused_with_about_the_line():
    for content in (
        "a,b\né,1\n".encode("utf-16")[:-1],
        "a,b\n".encode("utf-16") + b"\x00\xd8" + ",1\n".encode("utf-16-le"),
    ):
        assert re.search(r"is not utf-16, on line [12] or behind it", refusal(content, encoding="utf-16"))


@pytest.mark.parametrize("cut", [2, 3, 9, 10, 15, -1, -4, -8, -9])
def test_a_gzip_file_that_was_cut_off_is_refused(cut):
    content = gzip.compress(b"id,name\n1,Ada\n" * 100)[:cut]
    assert "cannot be unpacked" in refusal(content)


def test_a_gzip_file_that_is_damaged_is_refused():
    content = gzip.compress(b"id,name\n1,Ada\n" * 100)
    for at in (12, 20, len(content) - 6, len(content) - 2):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        assert "cannot be unpacked" in refusal(bytes(damaged))
    assert "cannot be unpacked" in refusal(content + b"and what follows")
    assert "cannot be unpacked" in refusal(gzip.compress(b"a,b\n") + gzip.compress(b"c,d\n")[:-3])


# --- what is meant to fill memory or disk ----------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A file that goes on for ever: the same bytes again and again, up to a size that nobody has room for."""

    def __init__(self, head: bytes, again: bytes, size: int) -> None:
        self._head, self._again, self._size = head, again * (MIB // len(again)), size
        self.handed_out = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        assert (position, whence) == (0, 0)
        self.handed_out = 0
        return 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "nobody may ask for all of it"
        if self.handed_out == 0:
            self.handed_out += len(self._head)
            return self._head
        self.handed_out += min(size, MIB)
        assert self.handed_out < self._size, "somebody reads to the end"
        return self._again[:size]

    read1 = read


def peak(content: Any, size: int, most: int | None = None) -> tuple[float, str]:
    """The most memory, in MB, that reading took until the file was refused, and what was said."""
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError) as caught:
            deque(islice(read_records(content, "a.csv", size, CsvOptions()), most), maxlen=0)
        return tracemalloc.get_traced_memory()[1] / MIB, str(caught.value)
    finally:
        tracemalloc.stop()


def test_a_line_without_end_is_refused_in_little_memory():
    memory, said = peak(Endless(b"a,b\n", b"x", 64 * MIB), 10**12)
    assert "line 2, is longer than 4 MB" in said
    assert memory < 40
    memory, said = peak(Endless(b'a,b\n"', "é🧀".encode(), 64 * MIB), 10**12)
    assert "line 2, is longer than 4 MB" in said
    assert memory < 120


def test_a_quoted_field_without_end_is_refused_in_little_memory():
    memory, said = peak(Endless(b'a,b\n"x', b"y" * 1023 + b"\n", 64 * MIB), 10**12)
    assert "line 2: a quoted field begins there and never ends" in said
    assert memory < 60


def test_a_record_may_have_four_million_characters_and_not_one_more():
    exact = b'1,"' + b"x" * (RECORD_MAX - 5) + b'"\n'
    assert len(rows(exact)[0][1][1]) == RECORD_MAX - 5
    assert "longer than 4 MB" in refusal(exact.replace(b"1,", b"11,"))
    lines = b'1,"' + (b"x" * 1022 + b"\n") * 4110 + b'"\n'
    assert "line 1: a quoted field begins there and never ends" in refusal(lines)
    assert len(rows(b"," * (RECORD_MAX - 1) + b"\n")[0][1]) == RECORD_MAX


def bomb(again: bytes, count: int) -> bytes:
    """What a MB of the same bytes, `count` times, packs to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = again * (MIB // len(again))
    return b"".join(packer.compress(block) for _ in range(count)) + packer.flush()


@pytest.mark.parametrize("again", [b"\n", b"a,b\n", b"x", b'"\n', b"\xff\n"])
def test_a_gzip_bomb_is_refused_at_once_in_little_memory(again):
    content = b"".join([bomb(again, 100)] * 10)
    started = time.process_time()
    memory, said = peak(io.BytesIO(content), len(content), most=1)
    assert "times its" in said
    assert memory < 20
    assert time.process_time() - started < 5


def test_a_gzip_file_may_unpack_to_as_much_as_the_yaml_says():
    content = gzip.compress(random.Random(3).randbytes(MIB).hex().encode() + b"\n", 1)
    assert len(rows(content, max_expanded_mb=3)) == 1
    assert "unpacks to more than 1 MB" in refusal(content, max_expanded_mb=1)


def test_text_that_repeats_itself_is_no_bomb():
    content = bomb(b"a,%s\n" % (b"b" * 1021), 8)
    assert len(content) * 250 < 8 * MIB
    assert len(rows(content)) == 8 * 1024


def test_reading_a_large_file_takes_little_memory():
    line = b"1,Ada,1815-12-10,some more text that makes the line longer\n"
    content = line * (8 * MIB // len(line))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_records(io.BytesIO(content), "a.csv", len(content), CsvOptions()))
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()
    assert count == len(content) // len(line)


# --- how text is to be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ""},
        {"delimiter": "||"},
        {"delimiter": "\n"},
        {"delimiter": "\r"},
        {"delimiter": "\0"},
        {"delimiter": '"'},
        {"delimiter": "'", "quote": "'"},
        {"quote": ""},
        {"quote": '""'},
        {"quote": ","},
        {"quote": "\n"},
        {"encoding": "utf-9"},
        {"encoding": ""},
        {"encoding": "hex"},
        {"encoding": "base64"},
        {"encoding": "rot13"},
        {"encoding": "zlib"},
        {"encoding": "undefined"},
        {"encoding": "utf-7"},
        {"encoding": "unicode_escape"},
        {"encoding": "punycode"},
        {"encoding": "idna"},
        {"encoding": "a\0b"},
        {"header": "maybe"},
        {"header": True},
        {"nulls": "NULL"},
        {"max_expanded_mb": 0},
        {"separator": ","},
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(options):
    with pytest.raises(ValidationError):
        CsvOptions.model_validate(options)


def test_a_tab_may_be_spelt_out():
    assert {CsvOptions(delimiter=text).delimiter for text in ("\t", "\\t", "tab")} == {"\t"}


def all_encodings() -> Iterator[str]:
    import encodings.aliases

    for name in sorted(set(encodings.aliases.aliases.values())):
        try:
            yield CsvOptions(encoding=name).encoding
        except ValidationError:
            continue


def test_every_encoding_that_may_be_named_reads_plain_text_and_survives_any_bytes():
    known = list(all_encodings())
    assert {"utf-8", "utf-16", "cp1252", "iso8859-1", "shift_jis", "cp037"} <= set(known)
    for encoding in known:
        plain = "id,name\n1,Ada\n".encode(encoding)
        if encoding != "cp1026":  # which has the quotation mark elsewhere
            assert [fields for _, fields in rows(plain, encoding=encoding)] == [["id", "name"], ["1", "Ada"]]
        for seed in range(20):
            noise = random.Random(seed).randbytes(60).replace(b"\0", b"a")
            try:
                found = records(noise, encoding=encoding)
            except RefusedError:
                continue
            for item in found:
                if isinstance(item, Record):
                    assert item.raw.encode() is not None
