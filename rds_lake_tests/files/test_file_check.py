"""Reading and checking: every row of a file comes out once, typed as it was written, or discarded with its reasons."""

import io
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import HOSTILE_NAMES, bounded

from rds_lake.files.check import Checker
from rds_lake.files.options import CsvOptions
from rds_lake.files.read import CHARACTERS, PIECE, ROWS, is_parquet, read_texts
from rds_lake.files.schema import MISSING_COLUMN, RefusedError, TableSchema
from rds_lake.files.spec import Cleaning
from rds_lake.quality.rules import engine_settings

ENGINE = duckdb.connect(config=engine_settings("/tmp"))
NOON = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)


def schema(*columns: str, keys: Sequence[str] = (), **more: dict[str, Any]) -> TableSchema:
    """A schema of columns such as `id integer`; `!` at the end says that a value is needed, `more` what else is."""
    given = []
    for text in columns:
        name, _, kind = text.rstrip("!").rpartition(" ") if text.count(" ") == 1 else text.rstrip("!").partition(" ")
        given.append({"name": name, "type": kind, "nullable": not text.endswith("!"), **more.get(name, {})})
    return TableSchema.model_validate({"columns": given, "keys": keys})


CUSTOMERS = schema("id integer", "name varchar(20)", "born date", keys=["id"])


@dataclass
class Outcome:
    valid: list[dict[str, Any]] = field(default_factory=list)
    discarded: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    firsts: list[tuple[int, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def lines(self) -> list[int]:
        return sorted(row["_line"] for row in [*self.valid, *self.discarded])

    @property
    def why(self) -> dict[int, list[str]]:
        return {row["_line"]: row["_reasons"] for row in self.discarded}


def check(
    wanted: TableSchema, content: str | bytes, name: str = "a.csv", clean: Sequence[dict[str, str]] = (), **options: Any
) -> Outcome:
    body = content.encode() if isinstance(content, str) else content
    how, done = CsvOptions(**options), Outcome()
    checker = Checker(ENGINE, wanted, how, name, [Cleaning.model_validate(rule) for rule in clean], NOON)
    for texts in read_texts(io.BytesIO(body), name, len(body), wanted, how):
        found = checker.check(texts)
        assert found.valid.schema == checker.valid_schema
        assert found.discarded.schema == checker.discarded_schema
        done.valid += found.valid.to_pylist()
        done.discarded += found.discarded.to_pylist()
        done.reasons += found.reasons
        done.cleaned += found.cleaned
        done.firsts += [found.first] if found.first else []
        done.batches.append(found.valid.num_rows + found.discarded.num_rows)
    return done


def refusal(wanted: TableSchema, content: str | bytes, name: str = "a.csv", **options: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        check(wanted, content, name, **options)
    assert name in str(caught.value)
    return str(caught.value)


ADA = {"id": 1, "name": "Ada", "born": date(1815, 12, 10)}


# --- which row names the columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["auto", "present"])
@pytest.mark.parametrize(
    "content",
    [
        "id,name,born\n1,Ada,1815-12-10\n",
        "born,id,name\n1815-12-10,1,Ada\n",
        " ID ,\tName,BORN\n1,Ada,1815-12-10\n",
        '"id","name","born"\r\n"1","Ada","1815-12-10"\r\n',
        "\ufeffid,name,born\n1,Ada,1815-12-10",
        '\ufeff"id",name,born\n1,Ada,1815-12-10',
        "\n\n\nid,name,born\n\n1,Ada,1815-12-10",
        '"id\n",name,born\n1,Ada,1815-12-10',
    ],
)
def test_a_header_names_the_columns_in_any_order_and_case(content, header):
    done = check(CUSTOMERS, content, header=header)
    assert [{name: row[name] for name in ADA} for row in done.valid] == [ADA]
    assert not done.discarded


@pytest.mark.parametrize("header", ["auto", "absent"])
def test_without_a_header_the_columns_come_as_the_schema_has_them(header):
    done = check(CUSTOMERS, "1,Ada,1815-12-10\n2,Bob,\n", header=header)
    assert done.valid == [ADA | {"_line": 1}, {"id": 2, "name": "Bob", "born": None, "_line": 2}]


def test_a_header_that_is_said_to_be_absent_is_a_row_like_any_other():
    done = check(CUSTOMERS, "id,name,born\n1,Ada,1815-12-10\n", header="absent")
    assert done.why == {1: ["id is no integer", "born is no date"]}
    assert [row["id"] for row in done.valid] == [1]


def test_a_row_that_looks_like_a_header_is_one_only_in_the_first_place():
    words = schema("name text", "kind text")
    assert [row["_line"] for row in check(words, "name,kind\nname,kind\nkind,name\n").valid] == [2, 3]
    assert [row["_line"] for row in check(words, "name,kind\nname,kind\n", header="absent").valid] == [1, 2]
    assert check(words, "kind,name\n1,2\n").valid == [{"kind": "1", "name": "2", "_line": 2}]


def test_a_column_that_may_be_empty_may_be_left_out():
    done = check(CUSTOMERS, "name,id\nAda,1\n")
    assert done.valid == [{"id": 1, "name": "Ada", "born": None, "_line": 2}]
    assert check(CUSTOMERS, "id\n7\n").valid == [{"id": 7, "name": None, "born": None, "_line": 2}]
    assert check(schema("id integer"), "id\n7\n").valid == [{"id": 7, "_line": 2}]


@pytest.mark.parametrize("header", ["auto", "present"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name,born\nAda,1815-12-10\n", "lacks the column 'id', which needs a value"),
        ("id,id,name\n1,1,Ada\n", "names the column 'id' twice"),
        ("id, ID,born\n1,1,\n", "names the column 'id' twice"),
        ("id,name,birth\n1,Ada,1815-12-10\n", "names the column 'birth', which the table does not have"),
        ("id,name,born,more\n1,Ada,1815-12-10,x\n", "names the column 'more'"),
        ("id,nom\n1,Ada\n", "names the column 'nom'"),
        ("nom,id\nAda,1\n", "names the column 'nom'"),
        ("id,name,\n1,Ada,\n", "names the column ''"),
        ("id,name,born\xff\n1,Ada,1815-12-10\n".encode("latin-1"), "line 1, is not utf-8: it has the byte 0xFF"),
        ('id,"name"s,born\n1,Ada,1815-12-10\n', "line 1, is not well-formed"),
    ],
)
def test_a_header_that_is_wrong_is_refused(content, told, header):
    assert told in refusal(CUSTOMERS, content, header=header)


@pytest.mark.parametrize("header", ["auto", "present"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("custid,name,born\n", MISSING_COLUMN),  # renamed
        ("name,born\n", MISSING_COLUMN),
        ("name,name,born\n", MISSING_COLUMN),
        ("id,nom,born\n", None),
        ("id,id,born\n", None),
    ],
)
def test_a_refusal_has_the_code_of_a_missing_column_whatever_else_is_wrong(content, code, header):
    with pytest.raises(RefusedError) as caught:
        check(CUSTOMERS, f"{content}1,Ada,1815-12-10\n", header=header)
    assert caught.value.code == code
    if code and "twice" not in str(caught.value):
        assert "lacks 'id', which needs a value" in str(caught.value).replace("the column ", "")


def test_a_refusal_of_parquet_has_the_code_of_a_missing_column_too():
    with pytest.raises(RefusedError, match=r"names the column 'custid'.*, and lacks 'id', which needs") as caught:
        check(CUSTOMERS, parquet({"custid": [1]}), "a.parquet")
    assert caught.value.code == MISSING_COLUMN


@pytest.mark.parametrize(
    "first",
    [
        "telephone,town,name",  # one of three
        "name,telephone,town",
        "x,city,x",
        "Name ,,",
        "1,name,2026",
    ],
)
def test_a_first_row_of_which_a_part_names_columns_is_neither_loaded_nor_dropped(first):
    people = schema("name text", "city text", "phone text")
    said = refusal(people, f"{first}\nAda,London,1\n")
    assert said.startswith("The first row of a.csv looks like a header, but names the column '")
    assert said.endswith("If it is a row: say 'header: absent'.")
    rows = check(people, f"{first}\nAda,London,1\n", header="absent")
    assert [row["_line"] for row in rows.valid] == [1, 2]


def test_a_first_row_without_a_name_of_a_column_is_a_row():
    people = schema("name text", "city text", "phone text")
    assert [row["name"] for row in check(people, "Ada,London,1\nBob,Paris,2\n").valid] == ["Ada", "Bob"]
    assert [row["name"] for row in check(people, "nom,ville,numero\n").valid] == ["nom"]


@pytest.mark.parametrize("header", ["auto", "present"])
@pytest.mark.parametrize("place", [0, 1, 2, 10, 11, 21])
def test_a_header_that_may_be_somebodys_data_is_refused_without_its_text(place, header):
    names = [f"c{number}" for number in range(22)]
    given = [*names[:place], "Ada Lovelace", *names[place + 1 :]]
    plain = schema(*(f"{name} text" for name in names))
    assert "'ada lovelace'" in refusal(plain, ",".join(given), header=header)
    secret = schema(*(f"{name} text" for name in names), c5={"personal": True})
    said = refusal(secret, ",".join(given), header=header)
    assert "lovelace" not in said.lower()
    ordinal = {0: "1st", 1: "2nd", 2: "3rd", 10: "11th", 11: "12th", 21: "22nd"}[place]
    assert f"has a name for its {ordinal} column that the table does not know (it has c0, c1" in said


def test_a_header_of_parquet_is_shown_as_it_holds_no_data():
    secret = schema("id integer", id={"personal": True})
    assert "names the column 'nom'" in refusal(secret, parquet({"nom": ["Ada"]}), "a.parquet")


def test_a_header_that_must_be_there_is_refused_when_it_is_not():
    assert "names the column '1', which the table does not have" in refusal(CUSTOMERS, "1,Ada,\n", header="present")
    assert "'delimiter' has to say" in refusal(CUSTOMERS, "id;name;born\n1;Ada;\n", header="present")


def test_a_first_line_that_cannot_be_read_is_a_row_when_there_is_no_header():
    done = check(CUSTOMERS, b"1,\xff,\n2,Bob,\n", header="absent")
    assert (done.why.keys(), [row["id"] for row in done.valid]) == ({1}, [2])


def test_messages_stay_short_whatever_the_header_says():
    assert len(refusal(CUSTOMERS, f"id,{'x' * 100_000}\n1,2\n")) < 500
    wide = schema(*(f"column_{number:04} integer" for number in range(1000)))
    assert len(refusal(wide, "column_0001,none\n1,2\n")) < 1500


@pytest.mark.parametrize("content", ["", "\n", "\n\r\n", "\ufeff"])
def test_a_file_without_anything_is_refused(content):
    assert "is empty" in refusal(CUSTOMERS, content)


def test_a_file_of_a_header_alone_has_no_rows():
    assert check(CUSTOMERS, "id,name,born\n").lines == []


# --- every row comes out once ----------------------------------------------------------------------------------------


def test_a_row_with_too_few_or_too_many_fields_is_discarded_with_its_text():
    done = check(CUSTOMERS, 'id,name,born\n1,Ada\n2,"Bob, the ""first""",1900-01-01,x\n3,Cy,\n,\n')
    assert done.why == {
        2: ["has 2 fields, not 3"],
        3: ["has 4 fields, not 3"],
        5: ["has 2 fields, not 3"],
    }
    assert [row["_raw"] for row in done.discarded] == ["1,Ada", '2,"Bob, the ""first""",1900-01-01,x', ","]
    assert [row["id"] for row in done.valid] == [3]
    assert done.reasons == {"unreadable": 3}
    assert done.firsts == [(2, "has 2 fields, not 3")]


@pytest.mark.parametrize(("mark", "word"), [(";", "';'"), ("\t", "a tab"), ("|", "'|'")])
def test_a_file_with_another_delimiter_is_told_so(mark, word):
    done = check(CUSTOMERS, f"1{mark}Ada{mark}1815-12-10\n")
    assert done.why == {
        1: [f"has 1 fields, not 3; its fields seem to be separated by {word}, which 'delimiter' has to say"]
    }
    assert check(CUSTOMERS, f"1{mark}Ada{mark}1815-12-10\n", delimiter=mark).valid == [ADA | {"_line": 1}]


def test_what_seems_to_have_swallowed_other_rows_refuses_the_file():
    rows = "".join(f"{number},name,\n" for number in range(2, 1000))
    for content in (f'1,"Ada,\n{rows}1000,5"\n', '1,"a\nb"\n2,c,\n', '1,"a\r\nb",,\n'):
        assert "line 1: what begins there goes over several lines" in refusal(CUSTOMERS, content)


def test_all_reasons_of_a_row_are_told_and_none_holds_a_value():
    secret = "s3cr3t"
    content = (
        f"id,name,born\n{secret},{secret * 4},{secret}\n,{secret},{secret}\n1,{secret},\n2,{secret}\n3,{secret},\xff\n"
    )
    done = check(CUSTOMERS, content.encode("latin-1"))
    assert done.why == {
        2: ["id is no integer", "name is no varchar(20)", "born is no date"],
        3: ["id is missing", "born is no date"],
        5: ["has 2 fields, not 3"],
        6: ["is not utf-8: it has the byte 0xFF"],
    }
    assert done.reasons == {
        "id is no integer": 1,
        "name is no varchar(20)": 1,
        "born is no date": 2,
        "id is missing": 1,
        "unreadable": 2,
    }
    assert done.firsts == [(2, "id is no integer; name is no varchar(20); born is no date")]
    told = [*done.reasons, *done.cleaned, *(text for texts in done.why.values() for text in texts), done.firsts[0][1]]
    assert not [text for text in told if secret in text]
    assert done.discarded[0] | {"_reasons": []} == {
        "_file": "a.csv",
        "_line": 2,
        "_reasons": [],
        "_raw": None,
        "id": secret,
        "name": secret * 4,
        "born": secret,
    }


def test_bytes_that_are_no_text_are_shown_as_they_are():
    done = check(CUSTOMERS, "id,name,born\n1,é\n2,".encode() + b"\xc3\x28\xff,\n")
    assert [row["_raw"] for row in done.discarded] == ["1,é", "2,\\xc3(\\xff,"]


kinds = st.sampled_from(["good", "null", "lines", "wrong", "key", "few", "many", "bytes", "quote", "empty"])


@given(st.lists(kinds, min_size=1, max_size=40), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.randoms())
@bounded(150)
def test_every_record_comes_out_once_valid_or_discarded_with_its_line(rows, end, has_header, source):
    body, line, valid, discarded = b"", 1, {}, {}
    if has_header:
        body, line = b"id,name,born" + end.encode(), 2
    for number, kind in enumerate(rows):
        name = source.choice(["Ada", "O'Neil", "é🧀", "" if kind != "lines" else "-"])
        made: dict[str, tuple[str, list[str] | None]] = {
            "good": (f"{number},{name},2024-02-29", None),
            "null": (f" {number} ,{name}, ", None),
            "lines": (f'{number},"{name}\n\r",', None),
            "wrong": (f"{number}.5,{name},2024-02-30", ["id is no integer", "born is no date"]),
            "key": (f",{name},", ["id is missing"]),
            "few": (f"{number},{name}", ["has 2 fields, not 3"]),
            "many": (f"{number},{name},,", ["has 4 fields, not 3"]),
            "bytes": (f"{number},{name}\udcff,", ["is not utf-8: it has the byte 0xFF"]),
            "quote": (f'{number},"{name}"x,', ["is not well-formed: ',' expected after '\"'"]),
        }
        text, reasons = made.get(kind, ("", None))
        if kind in made and reasons is None:
            valid[line] = {"id": number, "name": f"{name}\n\r" if kind == "lines" else name}
        elif kind in made:
            discarded[line] = reasons
        body += (text + end).encode("utf-8", "surrogateescape")
        line += 1 + (kind == "lines")
    if not valid and not discarded and not has_header:
        return
    done = check(CUSTOMERS, body, header="present" if has_header else "absent")
    assert {row["_line"]: {"id": row["id"], "name": row["name"]} for row in done.valid} == valid
    assert done.why == discarded
    assert len(done.valid) + len(done.discarded) == len(valid) + len(discarded)
    assert sum(done.reasons.values()) == sum(len(reasons) for reasons in discarded.values() if reasons)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_empty_line_of_a_file_of_one_column_is_a_row_with_an_empty_field(end):
    """So COPY writes NULL."""
    number, word = schema("n integer"), schema("a text", "b text")
    for header in ("", f"n{end}", f"{end}n{end}"):
        ahead = header.count(end)
        done = check(number, f"{header}1{end}{end}3{end}{end}{end}")
        assert [(row["_line"] - ahead, row["n"]) for row in done.valid] == [
            *((1, 1), (2, None), (3, 3), (4, None), (5, None))
        ]
    done = check(number, f"{end}{end}1{end}")
    assert [(row["_line"], row["n"]) for row in done.valid] == [(1, None), (2, None), (3, 1)]
    done = check(schema("n integer!"), f"{end}1{end}{end}", header="absent")
    assert done.why == {1: ["n is missing"], 3: ["n is missing"]}
    done = check(word, f"b{end}x{end}{end}")
    assert [(row["a"], row["b"]) for row in done.valid] == [(None, "x"), (None, "")]
    assert [row["a"] for row in check(word, f"{end}1,2{end}{end}3,4{end}{end}").valid] == ["1", "3"]


def test_a_carriage_return_in_the_middle_of_a_line_cuts_no_value():
    done = check(schema("id integer", "name text"), '1,x\ry\n2,"x\ry"\n3,z\n', header="absent")
    assert [(row["_line"], row["id"], row["name"]) for row in done.valid] == [(2, 2, "x\ry"), (3, 3, "z")]
    assert done.why == {1: ["has a carriage return (CR) outside of quotes"]}
    assert [row["_raw"] for row in done.discarded] == ["1,x\ry"]


def test_many_empty_lines_are_read_in_little_memory():
    done = check(schema("n integer"), "1" + "\n" * (2 * ROWS + 1))
    assert max(done.batches) == ROWS
    assert sum(done.batches) == 2 * ROWS + 1


def test_rows_keep_their_order_and_lines_over_batches():
    count = 2 * ROWS + 17
    body = "".join(f"{number},{'x' if number % 1000 else 'y' * 21},\n" for number in range(count))
    done = check(CUSTOMERS, body)
    assert done.batches == [ROWS, ROWS, 17]
    assert done.lines == list(range(1, count + 1))
    assert [row["id"] for row in done.valid] == [number for number in range(count) if number % 1000]
    assert [row["_line"] for row in done.discarded] == list(range(1, count + 1, 1000))
    assert [line for line, _ in done.firsts] == [1, 17001, 33001][: len(done.firsts)]


def test_long_rows_make_batches_shorter():
    long = "x" * (1024 * 1024)
    done = check(schema("id integer", "note text"), "".join(f"{number},{long}\n" for number in range(40)))
    assert max(done.batches) <= CHARACTERS // len(long) + 1
    assert sum(done.batches) == 40


# --- names -----------------------------------------------------------------------------------------------------------

OURS = [
    "given",
    "x",
    "key",
    "value",
    "_cleaned",
    "_pairs",
    "text:a",
    "text of a",
    "value of a",
    "a",
    "line",
    "moved",
    "main",
]


def test_a_column_may_have_any_name():
    names = [*OURS, *(name.lower() for name in HOSTILE_NAMES)]
    wanted = TableSchema.model_validate({"columns": [{"name": name, "type": "integer"} for name in names]})
    good, bad = range(len(names)), ["x"] * len(names)
    done = check(wanted, f"{','.join(map(str, good))}\n{','.join(bad)}\n", clean=[{"column": names[2], "value": "5"}])
    assert [[row[name] for name in names] for row in done.valid] == [list(good)]
    assert done.why == {2: [f"{name} is no integer" for name in names]}
    assert [[row[name] for name in names] for row in done.discarded] == [bad]
    some = TableSchema.model_validate({"columns": [{"name": name, "type": "text"} for name in OURS]})
    assert check(some, "a\n1\n").valid == [{**dict.fromkeys(OURS), "a": "1", "_line": 2}]


def test_a_table_of_hundreds_of_columns_is_checked_in_seconds():
    """DuckDB has needed minutes for it, or all of the memory."""
    kinds = ["boolean", "timestamptz", "integer", "real", "varchar(9)", "decimal(9,2)", "date", "timestamp"]
    values = ["yes", "2024-01-01T10:00+02:00", "7", "1.5", "a", "1.25", "2024-01-01", "2024-01-01"]
    wanted = schema(*(f"c{number} {kinds[number % 8]}!" for number in range(600)))
    row = ",".join(values[number % 8] for number in range(600))
    started = time.process_time()
    done = check(wanted, f"{row}\n{row.replace('yes', 'maybe')}\n")
    assert time.process_time() - started < 30
    assert len(done.valid) == 1
    assert [len(reasons) for reasons in done.why.values()] == [75]


# --- what is no value ------------------------------------------------------------------------------------------------


def test_an_empty_field_is_an_empty_text_and_no_other_value():
    wanted = schema("a integer", "b text", "c boolean", "d date", "e text!")
    assert check(wanted, ',,,,\n " ", , , ,x\n'.replace('" "', "")).valid == [
        {"a": None, "b": "", "c": None, "d": None, "e": "", "_line": 1},
        {"a": None, "b": " ", "c": None, "d": None, "e": "x", "_line": 2},
    ]
    done = check(wanted, ",,,,\n, ,,,x\n", empty_is_null=True)
    assert done.valid == [{"a": None, "b": None, "c": None, "d": None, "e": "x", "_line": 2}]
    assert done.why == {1: ["e is missing"]}


def test_texts_that_stand_for_null_do_so_in_every_column():
    wanted = schema("a integer", "b text", "c text!")
    assert check(wanted, '\\N,\\N,x\n"\\N",\\\\N,\\n\n').valid == [
        {"a": None, "b": None, "c": "x", "_line": 1},
        {"a": None, "b": "\\\\N", "c": "\\n", "_line": 2},
    ]
    done = check(wanted, "NULL,NULL,x\n-,\\N,NULL\n", nulls=("NULL", "-"))
    assert done.valid == [{"a": None, "b": None, "c": "x", "_line": 1}]
    assert done.why == {2: ["c is missing"]}
    assert check(wanted, "\\N,,x\n", nulls=()).why == {1: ["a is no integer"]}
    assert check(wanted, "1,,x\n", nulls=("",)).valid[0]["b"] is None


# --- cleaning --------------------------------------------------------------------------------------------------------

STATES = {"good": "5", "missing": "", "blank": "  ", "null": "\\N", "invalid": "x'y"}


@pytest.mark.parametrize("when", ["missing", "invalid", "missing_or_invalid"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("need", ["", "!"])
def test_a_value_is_replaced_when_the_yaml_says_so(when, state, need):
    wanted = schema("id integer", f"n integer{need}")
    done = check(wanted, f"1,{STATES[state]}\n", clean=[{"column": "n", "when": when, "value": "-1"}])
    is_missing, is_invalid = state in {"missing", "blank", "null"}, state == "invalid"
    if (is_missing and when != "invalid") or (is_invalid and when != "missing"):
        was = "missing" if is_missing else "invalid"
        old = None if is_missing else STATES[state]
        assert done.valid == [{"id": 1, "n": -1, "_line": 1, "_raw": json.dumps({"n": old}, separators=(",", ":"))}]
        assert done.cleaned == {f"n was {was}": 1}
    elif is_invalid or (is_missing and need):
        assert done.why == {1: [f"n is {'no integer' if is_invalid else 'missing'}"]}
        assert not done.cleaned
    else:
        assert done.valid == [{"id": 1, "n": 5 if state == "good" else None, "_line": 1, "_raw": None}]
        assert not done.cleaned


@pytest.mark.parametrize("empty_is_null", [False, True])
def test_a_blank_text_is_missing_where_it_is_cleaned_and_kept_as_it_was(empty_is_null):
    rule = {"column": "name", "value": "N/A"}
    done = check(
        schema("id integer", "name varchar(5)"), "1,\n2,  \n3,\\N\n4,Ada\n", clean=[rule], empty_is_null=empty_is_null
    )
    assert [row["name"] for row in done.valid] == ["N/A", "N/A", "N/A", "Ada"]
    olds = [None, None, None] if empty_is_null else ["", "  ", None]
    assert [json.loads(row["_raw"])["name"] for row in done.valid[:3]] == olds
    assert done.cleaned == {"name was missing": 3}


hostile = st.lists(
    st.sampled_from([*"\"'\\{}[]:,%$\n\r\t\x01\x7f é🧀", "null", "true", '","', "\\u0000", "\u2028"]),
    min_size=1,
    max_size=8,
).map("".join)


@given(st.lists(hostile, min_size=1, max_size=10))
@bounded(100)
def test_the_old_text_is_kept_exactly(values):
    quoted = [value.replace('"', '""') for value in values]
    body = "".join(f'{number},"{value}","{value}"\n' for number, value in enumerate(quoted))
    rules = [{"column": name, "when": "missing_or_invalid", "value": "0"} for name in ("n", "m")]
    done = check(schema("id integer", "n integer", "m integer"), body, clean=rules, header="absent")
    assert [(row["id"], row["n"], row["m"]) for row in done.valid] == [(number, 0, 0) for number in range(len(values))]
    blank = [None if not value.strip(" \N{NO-BREAK SPACE}") else value for value in values]
    assert [json.loads(row["_raw"]) for row in done.valid] == [{"n": value, "m": value} for value in blank]


def test_a_text_with_a_nul_is_not_replaced_but_discards_its_row():
    """PostgreSQL takes none, and `_raw` could not keep it."""
    rules = [{"column": name, "when": "missing_or_invalid", "value": "2026-01-01"} for name in ("day", "word")]
    padding = "2026-01-01,a\n" * 1000
    content = padding + "2026-\0-01,a\n2026-01-01,a\0b\n\0,\0\n32/01,\n"
    done = check(schema("day date", "word varchar(20)"), content, clean=rules)
    assert done.why == {
        1001: ["day is no date"],
        1002: ["word is no varchar(20)"],
        1003: ["day is no date", "word is no varchar(20)"],
    }
    assert [row["day"] for row in done.discarded] == ["2026-\0-01", "2026-01-01", "\0"]
    assert done.cleaned == {"day was invalid": 1, "word was missing": 1}


def test_a_row_that_is_discarded_counts_as_no_cleaned_one():
    rules = [{"column": "name", "value": "N/A"}]
    done = check(CUSTOMERS, "x,,\n1,,\n", clean=rules)
    assert done.why == {1: ["id is no integer"]}
    assert done.discarded[0]["name"] == ""
    assert done.cleaned == {"name was missing": 1}


def test_a_key_may_be_cleaned():
    done = check(CUSTOMERS, "id,name,born\n,Ada,\n", clean=[{"column": "id", "value": "0"}])
    assert [row["id"] for row in done.valid] == [0]
    assert done.valid[0]["_raw"] == '{"id":null}'


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("date", "processing_date", date(2026, 11, 20)),
        ("timestamp", "processing_date", datetime.fromisoformat("2026-11-20")),
        ("timestamptz", "processing_date", datetime(2026, 11, 20, tzinfo=UTC)),
        ("varchar(30)", "processing_date", "2026-11-20 00:00:00"),
        ("timestamptz", "2024-01-01T10:00+02:00", datetime(2024, 1, 1, 8, tzinfo=UTC)),
        ("boolean", "Y", True),
        ("double precision", "-1e-3", -0.001),
        ("real", "0.5", 0.5),
        ("decimal(5,2)", "9.90", Decimal("9.9")),
        ("smallint", "+7", 7),
        ("varchar(9)", "it's %s", "it's %s"),
        ("text", "", ""),
    ],
)
def test_a_replacement_is_read_as_the_file_would_be(kind, value, expected):
    done = check(schema("id integer", f"a {kind}"), "1,\\N\n", clean=[{"column": "a", "value": value}])
    assert [row["a"] for row in done.valid] == [expected]


def test_a_replacement_is_iso_whatever_the_format_of_the_file():
    wanted = schema("id integer", "d date", d={"formats": ["%d/%m/%Y"]})
    rule = {"column": "d", "when": "missing_or_invalid", "value": "processing_date"}
    done = check(wanted, "1,31/12/2024\n2,\n3,2024-12-31\n", clean=[rule])
    assert [row["d"] for row in done.valid] == [date(2024, 12, 31), NOON.date(), NOON.date()]
    assert done.valid[2]["_raw"] == '{"d":"2024-12-31"}'


# --- Parquet ---------------------------------------------------------------------------------------------------------


def parquet(table: pa.Table | dict[str, Any], **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), target, **options)
    return target.getvalue()


def column(kind: str, values: pa.Array) -> Outcome:
    return check(schema(f"a {kind}"), parquet({"a": values}), "a.parquet")


BERLIN = timezone(timedelta(hours=1))
SECOND = 1_704_067_200
NAIVE = datetime.fromisoformat("2024-01-01T00:00:00.000001")

TAKEN: list[tuple[str, pa.Array, list[Any]]] = [
    ("bigint", pa.array([1, -(2**63), 2**63 - 1, None]), [1, -(2**63), 2**63 - 1, None]),
    *(
        ("smallint", pa.array([0, 100], kind), [0, 100])
        for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint32(), pa.uint64())
    ),
    ("decimal(20,0)", pa.array([2**64 - 1], pa.uint64()), [Decimal(2**64 - 1)]),
    ("varchar(20)", pa.array([5], pa.int32()), ["5"]),
    (
        "double precision",
        pa.array([0.1, -0.0, 5e-324, 1.7976931348623157e308]),
        [0.1, 0.0, 5e-324, 1.7976931348623157e308],
    ),
    (
        "double precision",
        pa.array([0.1, 3.4028234663852886e38], pa.float32()),
        [0.10000000149011612, 3.4028234663852886e38],
    ),
    ("real", pa.array([0.1, 1e-45], pa.float32()), [0.10000000149011612, 1.401298464324817e-45]),
    ("real", pa.array([1.5, None], pa.float16()), [1.5, None]),
    ("decimal(9,2)", pa.array([1.25]), [Decimal("1.25")]),
    ("decimal(38,2)", pa.array([Decimal("-1.50")], pa.decimal128(10, 2)), [Decimal("-1.5")]),
    ("decimal(38,0)", pa.array([Decimal(10**38 - 1)], pa.decimal128(38, 0)), [Decimal(10**38 - 1)]),
    ("decimal(38,2)", pa.array([Decimal("1.50"), None], pa.decimal256(50, 2)), [Decimal("1.5"), None]),
    ("decimal(38,20)", pa.array([Decimal("1e-20"), Decimal(0)], pa.decimal256(60, 20)), [Decimal("1e-20"), Decimal(0)]),
    ("decimal(9,2)", pa.array([Decimal("1.50")], pa.decimal32(5, 2)), [Decimal("1.5")]),
    ("bigint", pa.array([Decimal(7)], pa.decimal128(10, 0)), [7]),
    ("boolean", pa.array([True, None, False]), [True, None, False]),
    ("boolean", pa.array([0, 1]), [False, True]),
    *(
        ("date", pa.array([date.min, date.max, None], kind), [date.min, date.max, None])
        for kind in (pa.date32(), pa.date64())
    ),
    ("timestamp", pa.array([date.min], pa.date32()), [datetime.min]),  # noqa: DTZ901
    *(
        ("timestamp", pa.array([SECOND * 10**digits], pa.timestamp(unit)), [NAIVE.replace(microsecond=0)])
        for unit, digits in (("s", 0), ("ms", 3), ("us", 6), ("ns", 9))
    ),
    ("timestamp", pa.array([SECOND * 10**9 + 1000], pa.timestamp("ns")), [NAIVE]),
    ("timestamp", pa.array([SECOND * 10**6 + 1], pa.timestamp("us", "Europe/Berlin")), [NAIVE]),
    ("timestamptz", pa.array([SECOND * 10**6 + 1], pa.timestamp("us")), [NAIVE.replace(tzinfo=UTC)]),
    *(
        (
            "timestamptz",
            pa.array([SECOND * 10**9 + 1000, None], pa.timestamp("ns", zone)),
            [NAIVE.replace(tzinfo=UTC), None],
        )
        for zone in ("UTC", "Europe/Berlin", "+05:30")
    ),
    (
        "timestamptz",
        pa.array([-62_135_596_800, 253_402_300_799], pa.timestamp("s", "UTC")),
        [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)],
    ),
    *(
        ("text", pa.array(["a", "", "é🧀", None, " 1 "], kind), ["a", "", "é🧀", None, " 1 "])
        for kind in (pa.string(), pa.large_string(), pa.string_view())
    ),
    ("text", pa.array([True, False]), ["true", "false"]),
    ("text", pa.array([date(2024, 1, 1)]), ["2024-01-01"]),
    ("integer", pa.array(["1", " 2 ", "", None]), [1, 2, None, None]),
    ("integer", pa.nulls(2), [None, None]),
    ("text", pa.nulls(2), [None, None]),
    ("text", pa.array(["a", "b", "a", None]).dictionary_encode(), ["a", "b", "a", None]),
    ("bigint", pa.array([7, 5, 7]).dictionary_encode(), [7, 5, 7]),
    ("timestamp", pa.array([NAIVE, NAIVE]).dictionary_encode(), [NAIVE, NAIVE]),
]


@pytest.mark.parametrize(
    ("kind", "values", "expected"), TAKEN, ids=[f"{values.type}-{kind}" for kind, values, _ in TAKEN]
)
def test_a_parquet_column_is_taken_as_the_value_that_it_holds(kind, values, expected):
    done = column(kind, values)
    assert [row["a"] for row in done.valid] == expected
    assert not done.discarded
    assert done.lines == list(range(1, len(expected) + 1))


DISCARDED: list[tuple[str, pa.Array]] = [
    ("smallint", pa.array([2**15, -(2**15) - 1])),
    ("bigint", pa.array([2**63], pa.uint64())),
    ("integer", pa.array([1.5])),
    ("real", pa.array([1e39, 1e-50])),
    ("real", pa.array([float("nan"), float("inf"), float("-inf")], pa.float32())),
    ("double precision", pa.array([float("nan"), float("inf")])),
    ("decimal(9,2)", pa.array([Decimal("1.005")], pa.decimal128(10, 3))),
    ("decimal(9,2)", pa.array([0.1], pa.float32())),
    ("decimal(9,2)", pa.array([Decimal(10**40)], pa.decimal256(50, 2))),
    ("boolean", pa.array([2, -1])),
    ("integer", pa.array([True])),
    ("date", pa.array([datetime.fromisoformat("2024-01-01T10:00")], pa.timestamp("us"))),
    ("timestamp", pa.array([SECOND * 10**9 + 1, SECOND * 10**9 - 1], pa.timestamp("ns"))),
    ("timestamptz", pa.array([SECOND * 10**9 + 1, SECOND * 10**9 + 999], pa.timestamp("ns", "UTC"))),
    ("timestamp", pa.array([-62_135_596_801, 253_402_300_800], pa.timestamp("s"))),
    ("timestamptz", pa.array([-62_135_596_801, 253_402_300_800], pa.timestamp("s", "UTC"))),
    ("date", pa.array([-719_163, 2_932_897], pa.date32())),
    ("varchar(3)", pa.array(["éé", "abcd", "a\0"])),
    ("varchar(3)", pa.array(["éé", "abcd", "éé"]).dictionary_encode()),
]


@pytest.mark.parametrize(("kind", "values"), DISCARDED, ids=[f"{values.type}-{kind}" for kind, values in DISCARDED])
def test_a_parquet_value_that_would_be_rounded_or_cut_is_discarded(kind, values):
    done = column(kind, values)
    assert done.valid == []
    assert done.why == {line: [f"a is no {kind}"] for line in range(1, len(values) + 1)}
    assert None not in [row["a"] for row in done.discarded]


EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EDGES = [-62_135_596_800, 253_402_300_800, 0, 2**63 // 10**9, -(2**63) // 10**9]
"""Seconds at which a calendar or a type ends, or begins."""


def moment(number: int, unit: str) -> datetime | None:
    """The moment that a number of Parquet stands for, by Python alone; None where it is none of microseconds."""
    micros, rest = divmod(number * 10**6, UNITS[unit])
    try:
        return None if rest else EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return None


@st.composite
def moments(draw: st.DrawFn) -> tuple[pa.Array, str]:
    unit = draw(st.sampled_from(list(UNITS)))
    near = [second * UNITS[unit] + shift for second in EDGES for shift in (-1000, -1, 0, 1, 1000)]
    inside = [number for number in near if -(2**63) <= number < 2**63]
    ends = [-(2**63), -(2**63) + 1, 2**63 - 1, 2**63 - 2, -(2**63) // 1000, 2**63 // 1000]
    one = st.none() | st.sampled_from(inside + ends) | st.integers(-(2**63), 2**63 - 1)
    numbers = draw(st.lists(one, min_size=1, max_size=8))
    return pa.array(numbers, pa.timestamp(unit, draw(st.sampled_from([None, "UTC", "Europe/Berlin"])))), unit


@given(moments(), st.booleans())
@bounded(300)
def test_any_moment_of_any_unit_is_taken_exactly_or_discarded(made, as_dictionary):
    values, unit = made
    numbers = values.cast(pa.int64()).to_pylist()
    wanted = {line: moment(number, unit) for line, number in enumerate(numbers, 1) if number is not None}
    if unit == "s":  # which Parquet has not: they are kept as milliseconds
        wanted = {line: value for line, value in wanted.items() if abs(numbers[line - 1]) < 2**63 // 1000}
        values = pa.array([number if line in wanted else None for line, number in enumerate(numbers, 1)], values.type)
    done = column("timestamp", values.dictionary_encode() if as_dictionary else values)
    assert {row["_line"]: row["a"] for row in done.valid if row["a"]} == {
        line: value for line, value in wanted.items() if value
    }
    assert sorted(done.why) == [line for line, value in wanted.items() if not value]
    assert all(row["a"] and "inf" not in row["a"] for row in done.discarded)


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-719_163, 2_932_897]), min_size=1))
@bounded(100)
def test_any_date_of_parquet_is_taken_exactly_or_discarded(days):
    for kind in (pa.date32(), pa.date64()):
        numbers = pa.array(days, pa.int32()) if kind == pa.date32() else pa.array(days, pa.int64())
        values = (numbers if kind == pa.date32() else pa.compute.multiply(numbers, 86_400_000)).cast(kind)
        done = column("date", values)
        inside = {line: day for line, day in enumerate(days, 1) if day is not None and -719_162 <= day <= 2_932_896}
        assert {row["_line"]: (row["a"] - date(1970, 1, 1)).days for row in done.valid if row["a"]} == inside
        assert sorted(done.why) == [line for line, day in enumerate(days, 1) if day is not None and line not in inside]


@pytest.mark.parametrize(
    "values",
    [
        *(pa.array([2**63 - 1, -(2**63), -(2**63) + 1], pa.timestamp(unit)) for unit in ("ms", "us")),
        pa.array([2**63 // 1000, 253_402_300_800], pa.timestamp("s", "UTC")),
        pa.array([2**31 - 1, -(2**31), -(2**31) + 1, 2_932_897], pa.int32()).cast(pa.date32()),
    ],
    ids=lambda values: str(values.type),
)
def test_what_is_in_no_year_of_the_calendar_is_no_text_either(values):
    done = column("varchar(200)", values)
    assert done.valid == []
    assert done.why == {line: ["a is no varchar(200)"] for line in range(1, len(values) + 1)}
    kept = pa.timestamp("ms", values.type.tz) if str(values.type).startswith("timestamp[s") else values.type
    numbers = values.cast(kept).cast(pa.int32() if values.type == pa.date32() else pa.int64()).to_pylist()
    told = f" as {kept}, which is in no year from 1 to 9999"
    assert [row["a"] for row in done.discarded] == [f"{number}{told}" for number in numbers]


def test_nanoseconds_are_shown_with_all_of_their_digits():
    values = pa.array([1, -1, 1500, 10**9, -(2**63), 2**63 - 1], pa.timestamp("ns"))
    done = column("text", values)
    assert [row["a"] for row in done.valid] == [
        *("1970-01-01 00:00:00.000000001", "1969-12-31 23:59:59.999999999", "1970-01-01 00:00:00.000001500"),
        *("1970-01-01 00:00:01", "1677-09-21 00:12:43.145224192", "2262-04-11 23:47:16.854775807"),
    ]


def test_int96_holds_every_year_as_spark_writes_it():
    wanted = [EPOCH, datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime(1, 1, 1)]  # noqa: DTZ001
    content = parquet({"a": pa.array(wanted, pa.timestamp("us"))}, use_deprecated_int96_timestamps=True)
    assert [row["a"] for row in check(schema("a timestamp"), content, "a.parquet").valid] == wanted


def test_a_moment_that_is_none_is_replaced_where_the_yaml_says_so():
    values = pa.array([0, 2**63 - 1], pa.timestamp("ms"))
    rules = [{"column": "a", "when": "invalid", "value": "processing_date"}]
    done = check(schema("a timestamp"), parquet({"a": values}), "a.parquet", rules)
    assert [row["a"] for row in done.valid] == [EPOCH, datetime(2026, 11, 20)]  # noqa: DTZ001
    assert "9223372036854775807" in done.valid[1]["_raw"]


FIXED = [
    *(pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.binary(3), pa.time32("s"), pa.time32("ms")),
    *(pa.time64("us"), pa.time64("ns"), *(pa.duration(unit) for unit in UNITS)),
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in (None, "UTC", "Asia/Tokyo")),
    *(pa.decimal32(9, 3), pa.decimal64(18, 9), pa.decimal128(38, 38), pa.decimal128(38, 0), pa.decimal128(1, 0)),
    *(pa.decimal256(76, 0), pa.decimal256(76, 76), pa.decimal256(40, 3)),
]
KINDS = [
    *("smallint", "bigint", "decimal(38,37)", "decimal(5,2)", "real", "double precision", "boolean", "date"),
    *("timestamp", "timestamptz", "varchar(10)", "text"),
]


@st.composite
def any_bits(draw: st.DrawFn) -> pa.Array:
    """Values of any type of Arrow's of fixed width, made of bits that need not mean anything."""
    kind = draw(st.sampled_from(FIXED))
    width = kind.bit_width // 8
    extreme = [b"\xff" * width, b"\0" * width, b"\xff" * (width - 1) + b"\x7f", b"\0" * (width - 1) + b"\x80"]
    piece = st.sampled_from(extreme) | st.binary(min_size=width, max_size=width)
    pieces = draw(st.lists(piece, min_size=1, max_size=6))
    storage = pa.binary(width) if pa.types.is_fixed_size_binary(kind) else kind
    return pa.Array.from_buffers(storage, len(pieces), [None, pa.py_buffer(b"".join(pieces))])


@given(any_bits(), st.sampled_from(KINDS), st.booleans())
@bounded(500)
def test_no_value_of_any_type_of_parquet_ends_the_check(values, kind, cleans):
    try:
        content = parquet(pa.table({"a": values}))
    except (pa.ArrowException, OSError):  # the writer itself takes it for none
        return
    rules = [{"column": "a", "when": "invalid", "value": "1"}] if cleans and kind in {"bigint", "text"} else []
    try:
        done = check(schema(f"a {kind}"), content, "a.parquet", rules)
    except RefusedError:
        return
    assert done.lines == list(range(1, len(values) + 1))
    assert all(row["a"] for row in done.discarded)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([b"a"]),
        pa.array([b"ab"], pa.binary(2)),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.time32("s")),
        pa.array([1], pa.time64("us")),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([b"a"]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_a_parquet_column_that_is_no_single_value_refuses_the_file(values):
    said = refusal(schema("a text", "b text"), parquet({"b": pa.nulls(1, pa.string()), "a": values}), "a.parquet")
    assert "the column a is" in said
    assert "which no column can take" in said


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"id": [1], "nom": ["Ada"]}), "names the column 'nom'"),
        (pa.table({"name": ["Ada"]}), "lacks the column 'id'"),
        (pa.table([pa.array([1]), pa.array([1])], names=["id", "ID"]), "differ in case only"),
        (pa.table([pa.array([1]), pa.array([1])], names=["id", " id"]), "differ in case only"),
        (pa.table({"id": [1], "": ["Ada"]}), "names the column ''"),
    ],
)
def test_parquet_columns_must_be_those_of_the_table(table, told):
    assert told in refusal(CUSTOMERS, parquet(table), "a.parquet")


def test_an_unknown_column_of_parquet_is_no_matter_of_headers():
    said = refusal(CUSTOMERS, parquet({"id": [1], "nom": ["Ada"]}), "a.parquet")
    assert said.endswith(
        "Write the file without it or under its right name, or drop a schema file that adds the column."
    )
    said = refusal(CUSTOMERS, parquet({"id": [1], "__index_level_0__": [0]}), "a.parquet")
    assert said.endswith("the index that pandas writes beside the columns: write the file with index=False.")


def test_parquet_columns_may_come_in_any_order_and_be_left_out():
    done = check(CUSTOMERS, parquet({"BORN ": [None, date(1815, 12, 10)], "ID": [None, 1]}), "a.PARQUET")
    assert done.valid == [{"id": 1, "name": None, "born": date(1815, 12, 10), "_line": 2}]
    assert done.why == {1: ["id is missing"]}


def test_parquet_of_many_row_groups_keeps_its_rows_in_order():
    count = ROWS + 100
    done = check(CUSTOMERS, parquet({"id": list(range(count))}, row_group_size=1000, compression="zstd"), "a.pq")
    assert [row["id"] for row in done.valid] == list(range(count))
    assert done.lines == list(range(1, count + 1))


def test_a_small_parquet_file_that_stands_for_much_is_read_in_small_pieces():
    content = parquet({"id": list(range(4000)), "name": ["x" * 100_000] * 4000})
    assert len(content) < 2**18
    batches = list(read_texts(io.BytesIO(content), "a.parquet", len(content), CUSTOMERS, CsvOptions()))
    assert sum(texts.rows.num_rows for texts in batches) == 4000
    assert max(texts.rows.nbytes for texts in batches) < CHARACTERS + PIECE * 101_000


def test_parquet_without_rows_has_none():
    assert check(CUSTOMERS, parquet({"id": pa.array([], pa.int64())}), "a.parquet").lines == []


def test_parquet_values_are_cleaned_as_texts_are():
    rules = [{"column": "name", "value": "N/A"}, {"column": "born", "when": "invalid", "value": "processing_date"}]
    content = parquet({"id": [1, 2], "name": pa.array([None, "Bob"]).dictionary_encode(), "born": ["no", None]})
    done = check(CUSTOMERS, content, "a.parquet", rules)
    assert [(row["name"], row["born"], row["_raw"]) for row in done.valid] == [
        ("N/A", NOON.date(), '{"name":null,"born":"no"}'),
        ("Bob", None, None),
    ]


def test_a_parquet_file_is_known_by_its_name():
    assert [
        name for name in ("a.parquet", "A.PARQ", "a.pq", "a.csv", "parquet", "a.parquet.gz") if is_parquet(name)
    ] == [*("a.parquet", "A.PARQ", "a.pq")]
    assert "is no Parquet file" in refusal(CUSTOMERS, "id\n1\n", "a.parquet")
    assert "is no Parquet file" in refusal(CUSTOMERS, b"", "a.parquet")
    assert "is a Parquet file, not text" in refusal(CUSTOMERS, parquet({"id": [1]}), "a.csv")


def test_texts_of_parquet_that_are_no_utf_8_refuse_the_file():
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    said = refusal(CUSTOMERS, parquet({"id": [1], "name": broken}), "a.parquet")
    assert "is damaged" in said
    assert "UTF8" in said


def test_a_damaged_parquet_file_is_refused_or_read():
    source = random.Random(11)
    ids, moments = list(range(50)), pa.array([SECOND] * 50, pa.timestamp("ns", "Europe/Berlin"))
    contents = [
        parquet({"id": ids, "name": ["é"] * 50, "born": [date(2024, 1, 1)] * 50}),
        parquet(
            {"id": ids, "name": pa.array(["a", "b"] * 25).dictionary_encode(), "born": moments}, compression="zstd"
        ),
        parquet({"id": [1.5] * 50, "name": ["a\0"] * 50}, use_dictionary=False, compression="none"),
    ]
    refused = 0
    for _ in range(600):
        damaged = bytearray(source.choice(contents))
        for _ in range(source.choice([1, 1, 3])):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        cut = source.choice([len(damaged), len(damaged), source.randrange(len(damaged))])
        try:
            done = check(CUSTOMERS, bytes(damaged[:cut]), "a.parquet")
        except RefusedError:
            refused += 1
            continue
        assert done.lines == list(range(1, len(done.lines) + 1))
    assert 100 < refused < 600


floats = st.floats(allow_nan=False, allow_infinity=False)
short_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
TYPED: dict[tuple[str, pa.DataType], st.SearchStrategy[Any]] = {
    ("bigint", pa.int64()): st.integers(-(2**63), 2**63 - 1),
    ("double precision", pa.float64()): floats,
    ("double precision", pa.float32()): short_floats,
    ("real", pa.float32()): short_floats,
    ("decimal(38,9)", pa.decimal128(38, 9)): st.decimals(-(10**15), 10**15, places=9),
    ("date", pa.date32()): st.dates(),
    ("timestamp", pa.timestamp("us")): st.datetimes(),
    ("timestamptz", pa.timestamp("us", "America/New_York")): st.datetimes(timezones=st.just(UTC)),
    ("boolean", pa.bool_()): st.booleans(),
    ("text", pa.string()): st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
}


@pytest.mark.parametrize("zone", ["\N{GRINNING FACE}", "Mars/Olympus", "+99:99"])
def test_a_time_zone_that_there_is_not_is_no_harm(zone):
    """What Parquet keeps is UTC; the zone only says how to show it."""
    done = column("timestamptz", pa.array([SECOND], pa.timestamp("s", zone)))
    assert [row["a"] for row in done.valid] == [NAIVE.replace(microsecond=0, tzinfo=UTC)]


typed = st.sampled_from(list(TYPED)).flatmap(
    lambda kinds: st.tuples(st.just(kinds), st.lists(st.none() | TYPED[kinds], max_size=9))
)


@given(typed, st.booleans())
@bounded(200)
def test_any_value_of_parquet_comes_back_as_it_was(made, as_dictionary):
    (kind, arrow), values = made
    array = pa.array(values, arrow)
    done = column(kind, array.dictionary_encode() if as_dictionary else array)
    assert [row["a"] for row in done.valid] == values
    assert not done.discarded
