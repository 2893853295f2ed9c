"""What is gentle, asked of the real server: it alters columns of values on the edge, in sessions of all modes."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.extract.gentle import is_gentle, same_charset, same_type
from rds_lake.extract.types import Column
from rds_lake.extract.values import expression

TEXTS = ["", " ", "a", "a ", " a", "\U0001f600" * 3, "ß", "x\t", "7 "]
BYTES = [b"", b"a", b"a\0", b"a ", b"\xff" * 3]
ENUMS = {
    "enum('a','b')": ["a", "b", ""],
    "enum('b','a')": ["a", "b"],
    "enum('a','b','it''s','lo ng)')": ["a", "it's", "lo ng)"],
    "enum('A','B')": ["A", "B"],
    "set('a','b')": ["", "a", "a,b"],
    "set('a','b','cd')": ["cd", "a,b,cd"],
    "set('b','a')": ["b,a"],
}
TYPES: dict[str, list[Any]] = {
    **{
        f"{name}{sign}": [0, 1, 70, 2024, least, least + 2**bits - 1]
        for name, bits in (("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64))
        for sign, least in (("", -(2 ** (bits - 1))), (" unsigned", 0))
    },
    "year": [0, 1901, 1970, 2155],
    "bit(1)": [0, 1],
    "bit(8)": [0, 255],
    **{
        f"decimal({digits},{scale}){sign}": [0, "9" * (digits - scale) + "." + "9" * scale, *([] if sign else ["-0.1"])]
        for digits, scale in ((5, 1), (5, 2), (6, 2), (7, 3), (20, 10))
        for sign in ("", " unsigned")
    },
    "float": [0, 0.1, -1e30, 16777216],
    "double": [0, 0.1, 1e300],
    "double(10,2)": ["1.25"],
    "date": ["2024-02-29", "1000-01-01"],
    **{f"datetime({n})": ["2024-02-29 23:59:59.999999", "1000-01-01"] for n in (0, 3, 6)},
    **{f"timestamp({n})": ["2024-02-29 23:59:59.999999", "1971-01-01"] for n in (0, 3, 6)},
    **{f"time({n})": ["-838:59:58.999999", "00:00:00.000001"] for n in (0, 3, 6)},
    **{f"char({n})": [*TEXTS, "\U0001f600" * n, "a" * n] for n in (3, 9, 64)},
    **{f"varchar({n})": [*TEXTS, "\U0001f600" * n, "a" * (n - 1) + " "] for n in (3, 9, 63, 64, 255, 256)},
    "tinytext": [*TEXTS, "a" * 255, "\U0001f600" * 63],
    "text": [*TEXTS, "a" * 65535],
    "mediumtext": [*TEXTS, "a" * 65536],
    "longtext": [*TEXTS, "a" * 65536],
    **ENUMS,
    "binary(3)": BYTES,
    **{f"varbinary({n})": [*BYTES, b"\0" * n] for n in (3, 9, 255, 256)},
    "tinyblob": [*BYTES, b"\0" * 255],
    "blob": [*BYTES, b"\0" * 65535],
    "mediumblob": BYTES,
}  # fmt: skip
"""Types, and for each some values; a value that does not fit is what the server makes of it."""

MODES = ("", "STRICT_ALL_TABLES", "PAD_CHAR_TO_FULL_LENGTH")


def gentle(old: str, new: str, *, as_text: bool = False) -> bool:
    return is_gentle(Column("v", old), Column("v", new), as_text=as_text)


def altered(
    rooms, old: str, new: list[str], values: list[Any], mode: str, how: str | None = None
) -> list[tuple[list, list]]:
    """For each new type the values of a column before and after it was altered from the old type."""
    table = rooms.name()
    names = [f"c{n}" for n in range(len(new))]
    read = [expression(Column(name, old, as_=how)) for name in names]  # type: ignore[arg-type]
    again = [expression(Column(name, kind, as_=how)) for name, kind in zip(names, new, strict=True)]  # type: ignore[arg-type]
    with rooms.mysql(init_command="SET time_zone='+00:00', sql_mode=''") as connection, connection.cursor() as cursor:
        columns = ", ".join(f"{name} {old} NULL" for name in names)
        cursor.execute(f"CREATE TABLE {table} (n INT AUTO_INCREMENT PRIMARY KEY, {columns}) CHARACTER SET utf8mb4")
        try:
            marks = ", ".join(["%s"] * len(names))
            for value in [None, *values]:
                cursor.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", [value] * len(names))
            cursor.execute(f"SELECT {', '.join(read)} FROM {table} ORDER BY n")
            before = list(zip(*cursor.fetchall(), strict=True))
            cursor.execute(f"SET sql_mode='{mode}'")
            changes = ", ".join(f"MODIFY {name} {kind} NULL" for name, kind in zip(names, new, strict=True))
            cursor.execute(f"ALTER TABLE {table} {changes}")
            cursor.execute("SET sql_mode=''")
            cursor.execute(f"SELECT {', '.join(again)} FROM {table} ORDER BY n")
            after = list(zip(*cursor.fetchall(), strict=True))
        finally:
            cursor.execute(f"DROP TABLE {table}")
    return [(list(was), list(now)) for was, now in zip(before, after, strict=True)]


def pairs(*, as_text: bool = False) -> dict[str, list[str]]:
    """For each type the types that a change to is gentle."""
    found: dict[str, list[str]] = defaultdict(list)
    for old in TYPES:
        for new in TYPES:
            if old != new and gentle(old, new, as_text=as_text):
                found[old].append(new)
    return found


@pytest.mark.stack
@pytest.mark.parametrize("mode", MODES, ids=["not strict", "strict", "padded"])
def test_what_is_called_gentle_leaves_every_value_as_it_is(rooms, mode):
    found = pairs()
    assert sum(map(len, found.values())) > 150
    for old, new in found.items():
        for kind, (before, after) in zip(new, altered(rooms, old, new, TYPES[old], mode), strict=True):
            assert before == after, f"{old} to {kind}"


@pytest.mark.stack
def test_what_is_called_gentle_for_a_number_that_is_carried_as_text_leaves_its_text_as_it_is(rooms):
    numbers = {old: new for old, new in pairs(as_text=True).items() if Column("v", old).kind in {"number", "moment"}}
    assert numbers.keys() > {"tinyint", "decimal(5,2)"}
    for old, new in numbers.items():
        for kind, (before, after) in zip(new, altered(rooms, old, new, TYPES[old], "", "string"), strict=True):
            assert before == after, f"{old} to {kind}"


BENDS = [
    ("varchar(9)", "char(9)"), ("text", "char(64)"), ("varchar(9)", "varchar(3)"), ("mediumtext", "text"),
    ("text", "tinytext"), ("varchar(255)", "tinytext"), ("varchar(9)", "enum('a','b')"),
    ("enum('A','B')", "set('a','b')"),
    ("enum('a','b','it''s','lo ng)')", "enum('a','b')"), ("enum('A','B')", "enum('a','b')"),
    ("set('a','b')", "set('b','a')"),
    ("int", "year"), ("int", "smallint"), ("int", "int unsigned"), ("int unsigned", "int"),
    ("decimal(5,2)", "decimal(5,1)"), ("decimal(6,2)", "decimal(5,2)"), ("decimal(5,1)", "decimal(5,2)"),
    ("decimal(5,1)", "decimal(5,1) unsigned"), ("datetime(6)", "datetime(3)"), ("datetime(0)", "timestamp(0)"),
    ("binary(3)", "binary(9)"), ("varbinary(3)", "binary(3)"), ("blob", "tinyblob"), ("double", "float"),
]  # fmt: skip


@pytest.mark.stack
@pytest.mark.parametrize(("old", "new"), BENDS, ids=[f"{old} to {new}" for old, new in BENDS])
def test_what_bends_a_value_is_not_gentle(rooms, old, new):
    [(before, after)] = altered(rooms, old, [new], TYPES[old], "")
    assert before != after, "the server bends nothing here"
    assert not gentle(old, new)


@pytest.mark.stack
def test_a_char_gives_blanks_to_a_varchar_in_a_session_that_pads(rooms):
    [(before, after)] = altered(rooms, "char(3)", ["varchar(3)"], TYPES["char(3)"], "PAD_CHAR_TO_FULL_LENGTH")
    assert before != after
    assert not gentle("char(3)", "varchar(3)")
    assert gentle("char(3)", "char(9)")


@pytest.mark.stack
def test_null_becomes_a_value_in_a_session_that_is_not_strict(rooms, mysql_table):
    table = mysql_table("id INT PRIMARY KEY, v INT", rows=[(1, None)])
    with rooms.mysql() as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode=''")
        cursor.execute(f"ALTER TABLE {table} MODIFY v INT NOT NULL")
    assert rooms.sql(f"SELECT v FROM {table}") == ((0,),)
    assert not is_gentle(Column("v", "int"), Column("v", "int", nullable=False), as_text=False)
    assert is_gentle(Column("v", "int", nullable=False), Column("v", "int"), as_text=False)


CHARSETS = ["ascii", "latin1", "utf8mb3", "utf8mb4", "ucs2", "cp1251", "sjis"]
KINDS = ["varchar(40)", "char(40)", "tinytext", "text", "mediumtext"]


@pytest.mark.stack
@bounded(60)
@given(
    st.sampled_from(CHARSETS), st.sampled_from(["utf8mb4", *CHARSETS]), st.sampled_from(KINDS), st.sampled_from(KINDS),
    st.lists(st.text(st.sampled_from("aZ ßяñ€漢\U0001f600\x00?"), max_size=40), min_size=1, max_size=4),
)  # fmt: skip
def test_a_text_stays_what_it_is_in_another_character_set_where_that_is_called_gentle(
    rooms, old, new, kind, other, texts
):
    one, two = Column("v", kind, charset=old), Column("v", other, charset=new)
    long = ["ß" * (255 if old in {"latin1", "cp1251"} else 120)] if kind.endswith("text") else []
    if not is_gentle(one, two, as_text=False):
        return
    name = rooms.name()
    with rooms.mysql(init_command="SET time_zone='+00:00', sql_mode=''") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (n INT AUTO_INCREMENT PRIMARY KEY, v {kind} CHARACTER SET {old})")
        try:
            cursor.executemany(f"INSERT INTO {name} (v) VALUES (%s)", [(text,) for text in [*texts, *long]])
            cursor.execute(f"SELECT v FROM {name} ORDER BY n")
            before = cursor.fetchall()
            cursor.execute(f"ALTER TABLE {name} MODIFY v {other} CHARACTER SET {new}")
            cursor.execute(f"SELECT v FROM {name} ORDER BY n")
            assert cursor.fetchall() == before
        finally:
            cursor.execute(f"DROP TABLE {name}")


def test_what_a_newer_server_calls_a_character_set_is_no_change():
    assert same_charset(Column("v", "text", charset="utf8"), Column("v", "text", charset="utf8mb3"))
    assert same_charset(Column("v", "text"), Column("v", "text", charset="utf8mb4"))
    assert not same_charset(Column("v", "text", charset="utf8mb4"), Column("v", "text", charset="latin1"))
    assert not is_gentle(Column("v", "text", charset="utf8mb4"), Column("v", "text", charset="latin1"), as_text=False)
    assert not is_gentle(Column("v", "text", charset="sjis"), Column("v", "text", charset="utf8mb4"), as_text=False)


@bounded(300)
@given(*[st.sampled_from(sorted(TYPES))] * 3)
def test_one_gentle_change_after_another_is_a_gentle_one(one, two, three):
    if gentle(one, two) and gentle(two, three):
        assert gentle(one, three)


def test_display_width_is_no_part_of_a_type_until_zeros_are_printed():
    assert same_type("int(11)", "int", as_text=True)
    assert same_type("int(5) unsigned zerofill", "int(10) unsigned", as_text=False)
    assert not same_type("int(5) unsigned zerofill", "int(10) unsigned", as_text=True)
    assert not gentle("int(5) unsigned zerofill", "bigint(20) unsigned zerofill", as_text=True)
