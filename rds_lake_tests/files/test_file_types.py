"""Declared types: a text is taken as the value that it says or not at all; Python's arithmetic is the judge of it."""

import re
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake.files.formats import check_format, pattern_of
from rds_lake.files.types import VARCHAR_MAX, DeclaredType, fits, judge

ENGINE = duckdb.connect()
ENGINE.execute("SET TimeZone = 'UTC'")

EXACT = Context(prec=1000)
BLANKS = "".join(
    character for character in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(character) == "Zs"
)
"""What may stand around a number or a date."""

LIMITS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
FLOATS = {"real": (24, -149, 128), "double precision": (53, -1074, 1024)}
"""Binary digits, the power of two of the least number, and that of the first one that is too large."""

KINDS = [
    *LIMITS,
    *(
        "decimal(1,0)",
        "decimal(5,5)",
        "decimal(12,2)",
        "decimal(20,0)",
        "decimal(38,0)",
        "decimal(38,19)",
        "decimal(38,37)",
    ),
    *FLOATS,
    *("boolean", "date", "timestamp", "timestamptz", "varchar(10)", "text"),
]


def values_of(kind: str, texts: Sequence[str | None], **how: Any) -> list[Any]:
    """What DuckDB makes of texts."""
    given = pa.table({"text": pa.array(texts, pa.string())})
    ENGINE.register("given", given)
    judged = judge(DeclaredType.of(kind), "text", **how)
    return ENGINE.sql(f"SELECT {judged} AS value FROM given").to_arrow_table().column("value").to_pylist()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def value_of(kind: str, text: str, **how: Any) -> Any:
    return values_of(kind, [text], **how)[0]


# --- what Python makes of a text, from the rules alone ---------------------------------------------------------------


def expected(kind: str, text: str, thousands: str = "") -> Any:
    declared = DeclaredType.of(kind)
    if declared.kind == "text":
        return text if len(text.encode()) <= declared.size and "\0" not in text else None
    plain = text.strip(BLANKS)
    if declared.kind == "boolean":
        words = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(
            ("false", "f", "no", "n", "0"), False
        )
        return words.get(plain.lower())
    if declared.kind in {"date", "timestamp", "timestamptz"}:
        return expected_moment(declared.kind, plain)
    return expected_number(declared, kind, plain, thousands)


def expected_number(declared: DeclaredType, kind: str, text: str, thousands: str) -> Any:
    found = re.fullmatch(r"([+-]?)([^.eE]*)((?:\.[0-9]*)?)((?:[eE][+-]?[0-9]+)?)", text)
    sign, whole, fraction, power = found.groups() if found else ("", "", "", "")
    if thousands and re.fullmatch(f"[0-9]{{1,3}}({re.escape(thousands)}[0-9]{{3}})+", whole):
        whole = whole.replace(thousands, "")
    is_number = re.fullmatch("[0-9]*", whole) and whole + fraction.strip(".")
    if not is_number or (power and declared.kind != "float") or (fraction and declared.kind == "integer"):
        return None
    plain = f"{sign}{whole or '0'}{fraction}{power}"
    if declared.kind == "float":
        return expected_float(kind, plain)
    number = Decimal(plain)
    if declared.kind == "integer":
        return int(number) if -LIMITS[kind] <= number < LIMITS[kind] else None
    scaled = number.scaleb(declared.scale, EXACT)
    is_exact = scaled == scaled.to_integral_value(context=EXACT)
    return number if is_exact and abs(scaled) < 10**declared.size else None


def expected_float(kind: str, text: str) -> float | None:
    """The nearest float; none when that is infinite, or zero although the number is not."""
    digits, least, most = FLOATS[kind]
    mantissa, _, power = text.lower().partition("e")
    if not re.search("[1-9]", mantissa):
        return 0.0
    exact = Fraction(mantissa) * Fraction(10) ** max(-2000, min(2000, int(power or 0)))
    size = exact.numerator.bit_length() - exact.denominator.bit_length()
    size -= abs(exact) < Fraction(2) ** size
    step = Fraction(2) ** max(size - digits + 1, least)
    near = round(exact / step) * step
    return float(near) if near and abs(near) < Fraction(2) ** most else None


def expected_moment(kind: str, text: str) -> Any:
    clock = r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})0*)?)?( ?(?:Z|UTC|[+-]\d\d(?::?\d\d)?))?)?"
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)" + ("" if kind == "date" else clock), text, re.ASCII)
    if found is None:
        return None
    year, month, day, *rest = found.groups()
    try:
        if kind == "date":
            return date(int(year), int(month), int(day))
        hour, minute, second, part, offset = rest
        clocks = [int(item or 0) for item in (hour, minute, second)] + [int((part or "").ljust(6, "0"))]
        moment = datetime.combine(date(int(year), int(month), int(day)), time(*clocks))
        shift = expected_shift((offset or "Z").strip())
        if shift is None or (kind == "timestamp" and (shift or not re.search("(Z|UTC|00)$", offset or "Z"))):
            return None
        return moment if kind == "timestamp" else (moment - shift).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def expected_shift(offset: str) -> timedelta | None:
    if offset in {"Z", "UTC"}:
        return timedelta(0)
    digits = offset[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 15 or minutes > 59:
        return None
    return timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)


# --- names of types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("int", "INTEGER"),
        ("INT8", "BIGINT"),
        (" double   precision ", "DOUBLE PRECISION"),
        ("Float4", "REAL"),
        ("varchar(200)", "VARCHAR(200)"),
        ("character varying ( 0200 )", "VARCHAR(200)"),
        ("nvarchar(1)", "VARCHAR(1)"),
        ("text", "VARCHAR(65535)"),
        ("decimal", "DECIMAL(18,0)"),
        ("numeric(12)", "DECIMAL(12,0)"),
        ("decimal( 12 , 2 )", "DECIMAL(12,2)"),
        ("decimal(19,2)", "DECIMAL(20,2)"),
        ("decimal(38,37)", "DECIMAL(38,37)"),
        ("timestamp without time zone", "TIMESTAMP"),
        ("timestamp\nwith time zone", "TIMESTAMPTZ"),
    ],
)
def test_a_type_is_known_by_all_of_its_names(given, name):
    assert DeclaredType.of(given).name == name
    assert DeclaredType.of(DeclaredType.of(given).name.lower()) == DeclaredType.of(given)


@pytest.mark.parametrize(
    "given",
    [
        *("", " ", "()", "money", "integer(4)", "date(3)", "text(5)", "varchar", "char", "varchar()", "varchar(0)"),
        *("varchar(65536)", "varchar(-1)", "varchar(1.5)", "varchar(max)", "varchar(1,2)", "varchar(5", "varchar 5"),
        *("varchar(9999999999)", "decimal(0)", "decimal(39)", "decimal(38,38)", "decimal(5,6)", "decimal(,2)"),
        *("decimal(5,-1)", "decimal(5,2,1)", "decimal(5;2)", "int; drop table x", "varchar(5) not null", "x" * 100_000),
    ],
)
def test_what_names_no_type_is_refused_with_a_short_message(given):
    with pytest.raises(ValueError, match=r"varchar|decimal") as caught:
        DeclaredType.of(given)
    assert len(str(caught.value)) < 400


# --- values that Python writes come back -----------------------------------------------------------------------------


def decimals(size: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**size - 1
    return st.integers(-most, most).map(lambda number: Decimal(number).scaleb(-scale, EXACT))


zones = st.integers(-15 * 60 - 59, 15 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(at("0001-01-01"), at("9999-12-31T23:59:59.999999"))
inner_moments = st.datetimes(at("0001-01-02"), at("9999-12-30"), timezones=zones)


@given(st.data())
@bounded(120)
def test_whatever_python_writes_comes_back_as_it_was(data):
    kind = data.draw(st.sampled_from(KINDS))
    declared = DeclaredType.of(kind)
    strategies: dict[str, Any] = {
        "integer": st.integers(-LIMITS.get(kind, 0), LIMITS.get(kind, 1) - 1),
        "decimal": decimals(declared.size, declared.scale),
        "float": st.floats(allow_nan=False, allow_infinity=False, width=32 if kind == "real" else 64),
        "boolean": st.booleans(),
        "date": st.dates(),
        "timestamp": moments,
        "timestamptz": inner_moments,
        "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
    }
    values = data.draw(st.lists(strategies[declared.kind], min_size=1, max_size=40))
    if declared.kind == "text":
        values = [value for value in values if len(value.encode()) <= declared.size]
    written = [f"{value:f}" if isinstance(value, Decimal) else str(value) for value in values]
    blank = data.draw(st.sampled_from(["", " ", "\u00a0", "  "])) if declared.kind != "text" else ""
    assert values_of(kind, [blank + text + blank for text in written]) == values
    if declared.kind in {"timestamp", "timestamptz"}:
        assert values_of(kind, [value.isoformat() for value in values]) == values


def test_numbers_at_their_limits_come_back_and_the_next_ones_do_not():
    for kind, limit in LIMITS.items():
        assert values_of(kind, [str(limit - 1), str(-limit), f"{limit - 1:+}", f"{limit - 1:0100}"]) == [
            *(limit - 1, -limit, limit - 1, limit - 1)
        ]
        assert values_of(kind, [str(limit), str(-limit - 1), "9" * 400]) == [None] * 3
    for size, scale in [(1, 0), (4, 4), (9, 2), (18, 18), (19, 0), (38, 0), (38, 37)]:
        kind, whole = f"decimal({size},{scale})", DeclaredType.of(f"decimal({size},{scale})").size
        most = Decimal(10**whole - 1).scaleb(-scale, EXACT)
        written = [f"{most:f}", f"-{most:f}", f"{most:f}" + ("0" * 50 if scale else "."), "0" * 60 + f"{most:f}"]
        assert values_of(kind, written) == [most, most.copy_negate(), most, most]
        over = Decimal(10**whole).scaleb(-scale, EXACT)
        between = f"{most:f}" + ("5" if scale else ".5")
        assert values_of(kind, [f"{over:f}", f"-{over:f}", between]) == [None] * 3


def test_a_text_is_measured_in_bytes_and_taken_with_all_of_its_blanks():
    texts = [
        "",
        " ",
        " a ",
        "é" * 5,
        "🧀🧀ab",
        "x" * 10,
        "\t\r\n",
        "\x7f\u2028",
        "é" * 5 + "x",
        "🧀🧀abc",
        "x" * 11,
        "a\0b",
        "\0",
    ]
    assert values_of("varchar(10)", texts) == [*texts[:8], *[None] * 5]
    largest = ["x" * VARCHAR_MAX, "é" * 32_767, "x" * (VARCHAR_MAX + 1), "é" * 32_768, "🧀" * 16_384]
    assert values_of("text", largest) == [*largest[:2], None, None, None]


def test_a_boolean_has_ten_spellings_in_any_case():
    for words, value in ((("true", "t", "yes", "y", "1"), True), (("false", "f", "no", "n", "0"), False)):
        for word in words:
            assert values_of("boolean", [word, word.upper(), word.title(), f" {word} "]) == [value] * 4
    assert (
        values_of("boolean", ["", " ", "on", "off", "2", "-1", "1.0", "tru", "ye\u017f", "tru\u0435", "0x1", "\tt"])
        == [None] * 12
    )


def test_no_value_is_no_value_of_any_type():
    for kind in KINDS:
        assert values_of(kind, [None]) == [None]


# --- what would have to be cut, rounded or guessed -------------------------------------------------------------------

NUMBERS_OF_NONE = [
    "",
    " ",
    "+",
    "-",
    ".",
    "+.",
    "-.",
    "e5",
    ".e5",
    "12abc",
    "abc",
    "1 2",
    "--1",
    "+-1",
    "1+",
    "0x10",
    "1_000",
]
NUMBERS_OF_NONE += [
    "٣",
    "\uff11\uff12",
    "²",
    "½",
    "Ⅷ",
    "inf",
    "-inf",
    "nan",
    "NaN",
    "Infinity",
    "1e",
    "1e+",
    "1.2.3",
    "1,234",
    "1\t",
    "\t1",
]
NUMBERS_OF_NONE += [
    "1\n",
    "\n1",
    "1\0",
    "\0",
    "$1",
    "1%",
    "1L",
    "1d",
    "1f",
    "(1)",
    "\u22121",
    "1e5_0",
    "0b1",
    "0o7",
    "1'000",
    "true",
]

REFUSED = {
    "integer": ["1.5", "1.0", "1.", ".5", "1e3", "1E0"],
    "decimal(9,2)": [
        "1e3",
        "1E0",
        "0.001",
        "1.005",
        "-0.009",
        "12345678.00",
        "1.000000000000000000000000000000000000001",
    ],
    "real": ["1e39", "-1e39", "3.4028236e38", "1e-46", "-1e-300", "1e400", "1e999999999999999999999"],
    "double precision": ["1e309", "1.7976931348623159e308", "1e-324", "-2e-324", "1e-999999999999999999999", "9" * 310],
    "date": [
        *(
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "2024-00-01",
            "2024-13-01",
            "2024-01-00",
            "2024-01-32",
            "0000-01-01",
        ),
        *(
            "24-01-01",
            "2024-1-1",
            "2024-01-1",
            "02024-01-01",
            "12024-01-01",
            "-2024-01-01",
            "+2024-01-01",
            "2024/01/01",
        ),
        *("20240101", "01.01.2024", "2024-01-01 00:00:00", "2024-01-01T00:00:00", "2024-01-01Z", "2024-01-01 (BC)"),
        *(
            "infinity",
            "-infinity",
            "epoch",
            "today",
            "now",
            "2024-W01-1",
            "2024-001",
            "\u0662\u0660\u0662\u0664-01-01",
            "2024\u201101\u201101",
            "1",
        ),
    ],
    "timestamp": [
        *(
            "2024-01-01T24:00:00",
            "2024-01-01 24:00",
            "2024-01-01T10:60:00",
            "2024-01-01T10:00:60",
            "2024-01-01T25:00:00",
        ),
        *(
            "2024-01-01T10:00:00+02:00",
            "2024-01-01T10:00:00-02",
            "2024-01-01T10:00:00+0001",
            "2024-01-01T10:00:00+00:01",
        ),
        *(
            "2024-01-01T10:00:00.1234567",
            "2024-01-01T10:00:00.",
            "2024-01-01T10:00:00,5",
            "2024-01-01T10",
            "2024-01-01T",
        ),
        *("2024-01-01  10:00:00", "2024-01-01t10:00:00", "2024-01-01T10:00:00z", "2024-01-01T1:00:00", "10:00:00"),
        *("2024-01-01T10:00:00 Europe/Berlin", "2024-01-01T10:00:00 CET", "2024-01-01T10:00:00  UTC", "2024-01-01Z"),
        *("infinity", "epoch", "1704067200", "2024-02-30T00:00:00", "0000-12-31T23:59:59", "2024-01-01T10:00:00ZZ"),
    ],
    "timestamptz": [
        *(
            "2024-01-01T10:00:00+16:00",
            "2024-01-01T10:00:00+99:99",
            "2024-01-01T10:00:00+01:60",
            "2024-01-01T10:00:00+1",
        ),
        *("2024-01-01T10:00:00+001", "2024-01-01T10:00:00 Europe/Berlin", "2024-01-01+02:00", "2024-01-01T24:00:00Z"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.999999-00:01", "2024-01-01T10:00:00.1234567Z", "infinity"),
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_cut_rounded_or_guessed_does_not_fit(kind):
    texts = REFUSED[kind] + (
        NUMBERS_OF_NONE if kind not in {"date", "timestamp", "timestamptz"} else ["", " ", "x", "\0"]
    )
    assert dict(zip(texts, values_of(kind, texts), strict=True)) == dict.fromkeys(texts)
    assert dict.fromkeys(texts) == {text: expected(kind, text) for text in texts}


def test_zeros_that_say_nothing_are_no_loss():
    assert values_of(
        "decimal(9,2)", ["1.5000000000000000000000000000000000000000", ".50", "5.", "-.0", "007", "+1.20"]
    ) == [*(Decimal("1.5"), Decimal("0.5"), Decimal(5), Decimal(0), Decimal(7), Decimal("1.2"))]
    assert value_of("timestamp", "2024-01-01T10:00:00.1234560000000000000000") == at("2024-01-01T10:00:00.123456")
    assert values_of("double precision", ["0e999999999", "-0", "0.0e-999", "00"]) == [0.0] * 4
    assert values_of("double precision", ["5e-324", "1.e5", ".5", "1E+2", "16777217"]) == [
        5e-324,
        1e5,
        0.5,
        100.0,
        16777217.0,
    ]


def test_moments_are_utc_unless_they_say_otherwise():
    ten = at("2024-01-01T10:00")
    ways = [
        "2024-01-01T10:00",
        "2024-01-01 10:00:00",
        "2024-01-01T10:00Z",
        "2024-01-01 10:00:00.000 UTC",
        "2024-01-01T10:00:00 Z",
    ]
    ways += [
        "2024-01-01T10:00:00+00",
        "2024-01-01T10:00:00-00:00",
        "2024-01-01T10:00+0000",
        "2024-01-01 10:00:00 +00:00",
    ]
    assert values_of("timestamp", ways) == [ten] * len(ways)
    assert values_of("timestamptz", ways) == [ten.replace(tzinfo=UTC)] * len(ways)
    shifted = [
        "2024-01-01T12:00+02:00",
        "2024-01-01T12:00:00 +02",
        "2024-01-01 07:29:00.0-0231",
        "2024-01-02T01:59+15:59",
    ]
    assert values_of("timestamptz", shifted) == [ten.replace(tzinfo=UTC)] * len(shifted)
    edge = ["0001-01-01T00:00:00Z", "0001-01-01T10:00:00+10:00", "9999-12-31T13:59:59.999999-10:00"]
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert values_of("timestamptz", edge) == [first, first, last]


# --- any text --------------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        *"0123456789+-.:,_ eETZ\t\0\n'",
        *(
            "00",
            "12",
            "31",
            "59",
            "60",
            "24",
            "2024",
            "0001",
            "9999",
            "-02-",
            "-12-31",
            "T10:00",
            " 23:59:59",
            ".123456",
            "+02:00",
        ),
        *(
            "UTC",
            "inf",
            "nan",
            "true",
            "F",
            "é",
            "🧀",
            "\u00a0",
            "٣",
            "9223372036854775808",
            "32768",
            "-2147483648",
            "e38",
            "e-46",
        ),
    ]
)
noise = st.lists(pieces, max_size=8).map("".join)
dates_like = st.tuples(
    st.sampled_from(["2024", "0000", "0001", "9999", "1900", "224"]),
    st.sampled_from(["-02-29", "-02-30", "-12-31", "-00-10", "-1-1", "/01/01"]),
    st.sampled_from(["", "T", " "]),
    st.sampled_from(["", "00:00", "23:59:59", "24:00:00", "10:00:00.000000", "10:00:00.0000001", "10:00:60", "1:00"]),
    st.sampled_from(["", "Z", " UTC", "+00", "-0000", "+14:00", "-12:30", "+16:00", "+1"]),
).map("".join)
numbers_like = st.tuples(
    st.sampled_from(["", "+", "-", "--"]),
    st.one_of(
        st.integers(0, 10**40).map(str), st.sampled_from(["", "0", "007", "32767", "2147483648", "1,234", "12,34"])
    ),
    st.sampled_from(["", ".", ".0", ".5", ".05", ".00000", "." + "0" * 45, "." + "9" * 37, ",5"]),
    st.sampled_from(["", "", "", "e0", "E+5", "e-5", "e38", "e308", "e-324", "e-46", "e"]),
).map("".join)


@given(st.sampled_from(KINDS), st.lists(st.one_of(noise, dates_like, numbers_like), min_size=1, max_size=60))
@example(
    "real", ["3.40282356779733661637539395458142568447e38", "3.40282356779733661637539395458142568448e38", "7.1e-46"]
)
@example("double precision", ["1.7976931348623158e308", "179769313486231580793e288", "2.4703282292062328e-324"])
@bounded(400)
def test_of_any_text_duckdb_and_python_say_the_same(kind, texts):
    found = dict(zip(texts, values_of(kind, texts), strict=True))
    assert found == {text: expected(kind, text) for text in texts}


@given(
    st.sampled_from([*LIMITS, "decimal(12,2)", "double precision"]),
    st.sampled_from(",' _|*\\\u202f"),
    st.lists(st.one_of(noise, numbers_like), min_size=1, max_size=40),
)
@bounded(100)
def test_of_any_number_with_thousands_too(kind, thousands, texts):
    texts = [text.replace(",", thousands) for text in texts]
    found = dict(zip(texts, values_of(kind, texts, thousands=thousands), strict=True))
    assert found == {text: expected(kind, text, thousands) for text in texts}


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30), st.sampled_from(",'_ \u00a0;^$[]()|{}?*\\\"")
)
@bounded(60)
def test_thousands_may_be_separated_by_any_mark(values, mark):
    assert values_of("bigint", [f"{value:,}".replace(",", mark) for value in values], thousands=mark) == values
    assert values_of("bigint", [str(value) for value in values], thousands=mark) == values
    parts = [Decimal(value).scaleb(-2, EXACT) for value in values]
    assert values_of("decimal(38,2)", [f"{part:,.2f}".replace(",", mark) for part in parts], thousands=mark) == parts


def test_thousands_that_stand_elsewhere_are_no_thousands():
    texts = [
        "1,23",
        "12,34,567",
        "1234,567",
        "1,234567",
        ",123",
        "1,",
        "1,,234",
        "1,234,",
        "1.234,5",
        "-,123",
        "0,00,000",
    ]
    assert values_of("integer", [*texts, "1,234.5"], thousands=",") == [None] * 12
    assert values_of("decimal(9,2)", [*texts, "1,234.005", "0.123,4"], thousands=",") == [None] * 13
    assert values_of("integer", ["1,234"]) == [None]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "formats", "text", "value"),
    [
        ("date", ("%d/%m/%Y",), "31/12/2024", date(2024, 12, 31)),
        ("date", ("%d/%m/%Y",), "1/2/2024", date(2024, 2, 1)),
        ("date", ("%d/%m/%Y",), "01/01/0001", date(1, 1, 1)),
        ("date", ("%Y%m%d",), "20241231", date(2024, 12, 31)),
        ("date", ("%d.%m.%y",), "31.12.68", date(2068, 12, 31)),
        ("date", ("%d.%m.%y",), "31.12.69", date(1969, 12, 31)),
        ("date", ("%d%b%Y",), "5may2024", date(2024, 5, 5)),
        ("date", ("%A, %B %d %Y",), "Tuesday, December 31 2024", date(2024, 12, 31)),
        ("date", ("%m/%d/%Y", "%d/%m/%Y"), "12/31/2024", date(2024, 12, 31)),
        ("date", ("%m/%d/%Y", "%d/%m/%Y"), "31/12/2024", date(2024, 12, 31)),
        ("date", ("%m/%d/%Y", "%d/%m/%Y"), "01/02/2024", date(2024, 1, 2)),
        ("date", ("%d/%m/%Y", "%d/%m/%y"), "31/12/24", date(2024, 12, 31)),
        ("date", ("%d/%m/%Y %H:%M",), "31/12/2024 00:00", date(2024, 12, 31)),
        ("date", ("%d%%%m'%Y",), "31%12'2024", date(2024, 12, 31)),
        ("timestamp", ("%Y%m%d%H%M%S%f",), "20241231235959123456", at("2024-12-31T23:59:59.123456")),
        ("timestamp", ("%d.%m.%Y %H:%M:%S.%f",), "31.12.2024 1:02:03.5", at("2024-12-31T01:02:03.500000")),
        ("timestamp", ("%I:%M %p %d-%m-%Y",), "12:05 am 31-12-2024", at("2024-12-31T00:05")),
        ("timestamp", ("%m/%d/%Y %I:%M:%S %p",), "12/31/2024 11:05:06 PM", at("2024-12-31T23:05:06")),
        ("timestamp", ("%d.%m.%Y",), "31.12.2024", at("2024-12-31T00:00")),
        ("timestamptz", ("%d.%m.%Y %H:%M %z",), "31.12.2024 10:00 +0230", at("2024-12-31T07:30+00:00")),
        ("timestamptz", ("%d.%m.%Y %H:%M%z",), "31.12.2024 10:00-02:00", at("2024-12-31T12:00+00:00")),
        ("timestamptz", ("%d.%m.%Y %H:%M",), "31.12.2024 10:00", at("2024-12-31T10:00+00:00")),
    ],
)
def test_a_format_says_how_dates_are_written(kind, formats, text, value):
    for item in formats:
        assert check_format(item, zone=kind == "timestamptz") == item
    assert values_of(kind, [text, f" {text} "], formats=formats) == [value, value]
    assert (
        values_of(kind, [text + "x", "x" + text, text + " 1", text[:-1] + "é", text + "\n"], formats=formats)
        == [None] * 5
    )


@pytest.mark.parametrize(
    ("kind", "formats", "texts"),
    [
        (
            "date",
            ("%d/%m/%Y",),
            ["30/02/2024", "31/04/2024", "00/01/2024", "01/13/2024", "31/12/24", "31/12/024", "31/12/0000"],
        ),
        (
            "date",
            ("%d/%m/%Y",),
            ["2024-12-31", "31/12/12024", "31/12/-024", "infinity", "-infinity", "epoch", "31//2024", ""],
        ),
        ("date", ("%d/%m/%Y",), ["٣١/١٢/٢٠٢٤", "31 /12/2024", "+1/12/2024", "031/12/2024", "31/12/2024 00:00"]),
        ("date", ("%Y%m%d",), ["2024123", "2024 1231", "202412310", "20241331"]),
        ("date", ("%d/%m/%Y %H:%M",), ["31/12/2024 10:00", "31/12/2024 24:00", "31/12/2024 00:01"]),
        ("date", ("%d.%m.%y",), ["31.12.2024", "31.12.4"]),
        ("date", ("%d %b %Y",), ["31 Dez 2024", "31 12 2024", "31  Dec 2024"]),
        (
            "timestamp",
            ("%d/%m/%Y %H:%M:%S.%f",),
            ["31/12/2024 10:00:00.1234567", "31/12/2024 10:00:00.", "31/12/2024 10:00:60.0"],
        ),
        ("timestamp", ("%d/%m/%Y %H:%M",), ["31/12/2024 24:00", "31/12/2024 10:00 +0200", "31/12/2024 10:00Z"]),
        ("timestamp", ("%d/%m/%Y %I:%M %p",), ["31/12/2024 13:00 PM", "31/12/2024 00:00 AM", "31/12/2024 10:00"]),
        (
            "timestamptz",
            ("%d/%m/%Y %H:%M %z",),
            ["31/12/2024 10:00 +99:00", "31/12/2024 10:00 +1660", "31/12/2024 10:00 CET"],
        ),
        ("timestamptz", ("%d/%m/%Y %H:%M %z",), ["01/01/0001 00:00 +0100", "31/12/9999 23:59 -0100"]),
    ],
)
def test_what_a_format_does_not_say_does_not_fit(kind, formats, texts):
    assert dict(zip(texts, values_of(kind, texts, formats=formats), strict=True)) == dict.fromkeys(texts)


@given(st.data())
@bounded(80)
def test_what_python_writes_in_a_format_is_read_in_it(data):
    day = data.draw(st.permutations([["%d", "%-d"], ["%m", "%-m", "%b", "%B"], ["%Y", "%y"]]))
    clock = data.draw(
        st.sampled_from(["", "%H:%M", "%-H.%-M.%-S", "%I-%M-%S %p", "%H%M%S%f", "%p %I:%M:%S.%f", "%H:%M:%S %z"])
    )
    parts = [data.draw(st.sampled_from(marks)) for marks in day]
    text = data.draw(st.sampled_from(["/", "-", ".", " ", " of ", "é", "%%", "\\", "[", "'"])).join(parts) + (
        f" {clock}" if clock else ""
    )
    check_format(text, zone=True)
    first, last = ("1969", "2068") if "%y" in text else ("1000", "9998")
    whens = data.draw(st.lists(st.datetimes(at(f"{first}-01-01"), at(f"{last}-12-31")), min_size=1, max_size=10))
    zone = data.draw(zones) if "%z" in text else UTC
    whens = [when.replace(tzinfo=zone) for when in whens]
    lost = [("[HI]", "hour"), ("M", "minute"), ("S", "second"), ("f", "microsecond")]
    nothing: dict[str, Any] = {name: 0 for mark, name in lost if not re.search(f"%-?{mark}", text)}
    written = [when.strftime(text) for when in whens]
    assert values_of("timestamptz", written, formats=(text,)) == [when.replace(**nothing) for when in whens]
    assert all(re.fullmatch(pattern_of(text), item) for item in written)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "leaves open"),
        ("x", "leaves open"),
        ("%d/%m", "%Y"),
        ("%Y-%m", "%d"),
        ("%Y-%d", "%m"),
        ("%H:%M", "%Y"),
        ("%d/%m/%Y %d", "twice"),
        ("%d/%m/%Y %y", "twice"),
        ("%d %m %b %Y", "twice"),
        ("%d/%m/%Y %I:%M", "%p"),
        ("%d/%m/%Y %H:%M %p", "%H"),
        ("%d/%m/%Y %H %I %p", "%H"),
        ("%Q", "%Q"),
        ("%d/%m/%Y %", "'%'"),
        ("%d/%m/%Y %-", "'%-'"),
        ("%d/%m/%Y %é", "%é"),
        ("%-Y-%m-%d", "%-Y"),
        ("%s", "%s"),
        ("%j/%Y", "%j"),
        ("%c", "%c"),
        ("%d/%m/%Y %S.%n", "%n"),
        ("%d/%m/%Y %Z", "%Z"),
        ("%d/%m/%Y %z", "timestamptz"),
        ("%d\0%m%Y", "printable"),
        ("%d\n%m%Y", "printable"),
        ("%d\ud800%m%Y", "printable"),
        (" %d/%m/%Y", "blank"),
        ("%d/%m/%Y\u00a0", "blank"),
    ],
)
def test_a_format_that_leaves_something_open_is_none(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        check_format(text, zone=False)


@given(
    st.lists(
        st.sampled_from(
            ["%Y", "%m", "%d", "%H", "%M", "%b", "%p", "%", "%%", "%Q", "é", "'", "[", "\\", " ", "9", "{"]
        ),
        max_size=8,
    ).map("".join)
)
@bounded(300)
def test_every_format_that_is_taken_can_be_read_with(text):
    try:
        check_format(text, zone=True)
    except ValueError:
        return
    written = datetime(2024, 12, 31, 11, 5, 6, tzinfo=UTC).strftime(text)
    assert value_of("timestamptz", written, formats=(text,)) is not None
    assert value_of("timestamptz", "no such date", formats=(text,)) is None


def test_a_single_text_can_be_asked_for():
    asked = [
        ("integer", "5", True),
        ("integer", "N/A", False),
        ("date", "2024-02-30", False),
        ("varchar(3)", "N/A", True),
    ]
    asked += [
        ("varchar(2)", "N/A", False),
        ("text", "", True),
        ("integer", "", False),
        ("text", "it's", True),
        ("boolean", "y", True),
    ]
    assert [fits(DeclaredType.of(kind), text) for kind, text, _ in asked] == [answer for *_, answer in asked]
