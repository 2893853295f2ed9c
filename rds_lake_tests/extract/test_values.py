"""Values: what is asked for, and what becomes of the answers, one column at a time."""

from datetime import date

import pytest
import wire
from pymysql.constants import FIELD_TYPE
from rooms import daily

from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.stream import Field
from rds_lake.extract.types import Column
from rds_lake.extract.values import UNSPELT, UnfitError, checksummed, expression, nulled, to_arrow


@pytest.mark.parametrize(
    ("column", "asked", "checked"),
    [
        (Column("c", "int(11)"), "`c`", "`c`"),
        (Column("c", "float"), "(`c` + 0e0)", "(`c` + 0e0)"),
        (Column("c", "float", as_="string"), "CAST((`c` + 0e0) AS CHAR)", "CAST((`c` + 0e0) AS CHAR)"),
        (Column("c", "decimal(65,30)"), "CAST(`c` AS CHAR)", "CAST(`c` AS CHAR)"),
        (Column("c", "time(6)"), "CAST(`c` AS CHAR)", "CAST(`c` AS CHAR)"),
        (Column("c", "bit(8)"), "`c`", "(`c` + 0)"),
        (Column("c", "binary(16)"), "`c`", "HEX(`c`)"),
        (Column("c", "blob"), "`c`", "SHA1(`c`)"),
        (Column("c", "longtext"), "`c`", "SHA1(`c`)"),
        (Column("c", "point", as_="string"), "ST_AsText(`c`)", "SHA1(ST_AsText(`c`))"),
        (Column("c", "point", as_="binary"), "ST_AsBinary(`c`)", "SHA1(ST_AsBinary(`c`))"),
        (Column("c", "vector(3)", as_="binary"), "CAST(`c` AS BINARY)", "HEX(CAST(`c` AS BINARY))"),
        (Column("c", "varchar(5)", charset="latin1"), "`c`", "`c`"),
    ],
)
def test_a_column_is_asked_for_in_a_form_that_is_exact(column, asked, checked):
    assert (expression(column), checksummed(column)) == (asked, checked)


ZERO = (0, 0, 0, 0, 0, 0, 0)


def received(column, values):
    """A column's values as they come from the server."""
    kinds = {"date": FIELD_TYPE.DATE, "tinyint(1)": FIELD_TYPE.TINY, "bit(12)": FIELD_TYPE.BIT}
    return wire.received(Field(kinds.get(column.type, FIELD_TYPE.BLOB), unsigned=False), values)


@pytest.mark.parametrize(
    ("column", "values", "position"),
    [
        (Column("c", "date"), [None, date(1, 1, 1), ZERO, (2021, 0, 1, 0, 0, 0, 0)], 2),
        (Column("c", "tinyint(1)", as_="boolean"), [0, 1, None, -1, 2], 3),
        (Column("c", "varchar(5)", charset="cp1251"), ["a", None, UNSPELT + "98"], 2),
        (Column("c", "decimal(5,2)"), ["1.25", None, "1.255"], 2),
        (Column("c", "text"), ["a", b"\xff"], 1),
    ],
)
def test_the_first_value_that_does_not_fit_is_pointed_at(column, values, position):
    with pytest.raises(UnfitError) as caught:
        to_arrow(column, received(column, values))
    assert caught.value.position == position


def test_no_number_but_0_and_1_is_a_boolean():
    column = Column("c", "tinyint(1)", as_="boolean")
    for value in {*range(-128, 128)} - {0, 1}:
        with pytest.raises(UnfitError):
            to_arrow(column, received(column, [0, 1, value]))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (Column("c", "date", as_="null"), [None, ZERO, date(1, 1, 1)], [None, None, date(1, 1, 1)]),
        (Column("c", "text", as_="null"), ["x" * 65_535, "x" * 65_536, "a\0", ""], ["x" * 65_535, None, None, ""]),
        (Column("c", "longblob", as_="null"), [b"\0", bytes(1_024_001), None], [b"\0", None, None]),
        (Column("c", "char(1)", as_="null", charset="cp1251"), ["a", UNSPELT + "98"], ["a", None]),
        (Column("c", "blob", as_="string"), [b"\0\xff", b"", None], ["00FF", "", None]),
        (Column("c", "bit(12)"), [b"\x0f\xff", None, b"\0\1"], [4095, None, 1]),
        (Column("c", "bit(12)"), [None], [None]),
        (Column("c", "text", as_="binary"), ["é", "", None], [b"\xc3\xa9", b"", None]),
    ],
)
def test_an_override_makes_of_each_value_what_it_says_and_null_is_marked(column, values, expected):
    sent = received(column, values)
    array = to_arrow(column, sent)
    assert array.to_pylist() == expected
    marks = [value is not None and made is None for value, made in zip(values, expected, strict=True)]
    assert nulled(array, sent).to_pylist() == marks
    assert array.type == column.mapped.arrow


@pytest.mark.stack
def test_a_key_of_bytes_shows_in_the_fingerprint_of_its_partition(rooms, mysql_table):
    table = mysql_table("id BINARY(16) PRIMARY KEY, at DATETIME, INDEX (at)", rows=[(b"\xff" * 16, "2024-01-01")])
    seen = set()
    for last in (b"\xff", b"\0", b"'", b","):
        rooms.sql(f"UPDATE {table} SET id = X'{'ff' * 15}{last.hex()}'")
        with open_snapshot(rooms.source, daily(table)) as snapshot:
            seen.add(snapshot.fingerprints()["2024-01-01"])
    assert len(seen) == 4
