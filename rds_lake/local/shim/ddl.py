"""Table definitions: Redshift's CREATE TABLE and ADD COLUMN as PostgreSQL understands them.

Pure. Distribution, sort keys and encodings go; types are translated; keys go too, because Redshift does not enforce
them and a load that breaks one must behave here as it does there. VARCHAR(n) counts bytes on Redshift, and
DECIMAL(19) ends early: a CHECK with a telling name stands in for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rds_lake.local.shim.redshift_copy import Refused
from rds_lake.local.shim.tokens import Kind, Token, closing_parenthesis, joined, name_of, quoted, split_commas
from rds_lake.sql import literal

MAX_VARCHAR_BYTES: Final = 65_535
DEFAULT_VARCHAR_BYTES: Final = 256  # of VARCHAR and TEXT without a length
DEFAULT_DECIMAL: Final = "18,0"
MAX_DECIMAL_DIGITS: Final = 38
_POSTGRES_NAME_BYTES: Final = 63
_TABLE_CONSTRAINTS: Final = frozenset({"PRIMARY", "UNIQUE", "FOREIGN", "CONSTRAINT", "CHECK", "EXCLUDE"})
_VARCHAR: Final = frozenset({"VARCHAR", "NVARCHAR", "TEXT"})
_MISSING_TYPES: Final = frozenset(
    {"BYTEA", "JSON", "JSONB", "UUID", "SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL4", "SERIAL8", "BIT", "MONEY"}
    | {"XML", "INET", "CIDR", "MACADDR", "TSVECTOR", "TSQUERY", "INTERVAL", "HSTORE", "OID", "POINT", "BOX", "PATH"}
    | {"POLYGON", "CIRCLE", "LINE", "LSEG"}
)
_TAIL_WORDS: Final = frozenset(
    {"BACKUP", "YES", "NO", "DISTSTYLE", "AUTO", "EVEN", "KEY", "ALL", "COMPOUND", "INTERLEAVED", "ENCODE"}
)
_KEYS_WITH_COLUMNS: Final = frozenset({"DISTKEY", "SORTKEY"})


@dataclass(frozen=True)
class Limit:
    """What a value must fulfil on Redshift beyond PostgreSQL's type; `{column}` stands for the column."""

    condition: str


def rewrite_create_table(tokens: Sequence[Token]) -> str:
    """PostgreSQL's text of a CREATE TABLE.

    Args:
        tokens: its significant tokens.

    Raises:
        Refused: it has a part that Redshift lacks.
    """
    start = next((i for i, t in enumerate(tokens) if t.word in ("(", "AS") or t.word in _TAIL_WORDS), len(tokens))
    start = next((i for i, t in enumerate(tokens[:start]) if t.word in _KEYS_WITH_COLUMNS), start)
    text = [_spaced(tokens[:start])]
    if start < len(tokens) and tokens[start].word == "(":
        end = closing_parenthesis(tokens, start)
        text.append(f"({_columns(tokens[start + 1 : end])})")
        start = end + 1
    query = next((i for i in range(start, len(tokens)) if tokens[i].word == "AS"), len(tokens))
    _check_tail(tokens[start:query])
    if query < len(tokens):
        text.append(_spaced(tokens[query:]))
    return " ".join(text)


def rewrite_add_column(tokens: Sequence[Token]) -> str:
    """PostgreSQL's text of ALTER TABLE t ADD [COLUMN] ..., or of ALTER COLUMN ... TYPE."""
    words = [t.word for t in tokens]
    if "ADD" in words:
        at = words.index("ADD") + 1
        if at < len(words) and words[at] in _TABLE_CONSTRAINTS:
            return "DO 'BEGIN END'"  # a key: Redshift does not enforce it
        at += words[at : at + 1] == ["COLUMN"]
        return f"{_spaced(tokens[:at])} {_column(tokens[at:], not_null=False)}"
    at = words.index("TYPE") + 1
    column = name_of(tokens[at - 2])
    rest, limit = _type(list(tokens[at:]))
    altered = f"{_spaced(tokens[:at])} {_spaced(rest)}"
    if limit:
        name = quoted(_check_name(column))
        altered += f", DROP CONSTRAINT IF EXISTS {name}, ADD {_check(column, limit)}"
    return altered


def rewrite_rename_column(tokens: Sequence[Token]) -> str:
    """PostgreSQL's text of ALTER TABLE t RENAME [COLUMN] a TO b, as the body of a block: its limit goes along."""
    at = next(i for i, token in enumerate(tokens) if token.word == "RENAME")
    table, (old, new) = _spaced(tokens[2:at]), (_check_name(name_of(tokens[i])) for i in (-3, -1))
    found = f"SELECT 1 FROM pg_constraint WHERE conrelid = {literal(table)}::regclass AND conname = {literal(old)}"
    moved = f"ALTER TABLE {table} RENAME CONSTRAINT {quoted(old)} TO {quoted(new)}"
    return f"BEGIN {_spaced(tokens)}; IF EXISTS ({found}) THEN {moved}; END IF; END"


def _spaced(tokens: Sequence[Token]) -> str:
    """The tokens' text; single blanks stand where they can do no harm."""
    text = ""
    for before, token in zip([None, *tokens], tokens, strict=False):
        glued = before is None or Kind.OTHER in (before.kind, token.kind)
        text += token.text if glued else " " + token.text
    return text


def _check_tail(tokens: Sequence[Token]) -> None:
    index = 0
    while index < len(tokens):
        word = tokens[index].word
        index += 1
        if word in _KEYS_WITH_COLUMNS:
            if index < len(tokens) and tokens[index].word == "(":
                index = closing_parenthesis(tokens, index) + 1
        elif word not in _TAIL_WORDS:
            raise Refused(f"CREATE TABLE: {joined(tokens[index - 1 : index])} is not known to Redshift here")
        elif word == "DISTSTYLE" and index < len(tokens) and tokens[index].word in ("AUTO", "EVEN", "KEY", "ALL"):
            index += 1


def _columns(tokens: Sequence[Token]) -> str:
    parts = [part for part in split_commas(tokens) if part]
    keys: set[str] = set()
    columns = []
    for part in parts:
        if part[0].word in _TABLE_CONSTRAINTS:
            keys |= _primary_key(part)
        else:
            columns.append(part)
    return ", ".join(_column(part, not_null=name_of(part[0]) in keys) for part in columns)


def _primary_key(tokens: Sequence[Token]) -> set[str]:
    """The columns of a table's PRIMARY KEY: they become NOT NULL, which Redshift does enforce."""
    words = [t.word for t in tokens]
    if "CHECK" in words or "EXCLUDE" in words:
        raise Refused(f"CREATE TABLE: Redshift has no {'CHECK' if 'CHECK' in words else 'EXCLUDE'} constraints")
    if "PRIMARY" not in words or "(" not in words:
        return set()
    opening = words.index("(")
    inside = tokens[opening + 1 : closing_parenthesis(tokens, opening)]
    return {name_of(part[0]) for part in split_commas(inside) if part}


def _column(tokens: Sequence[Token], *, not_null: bool) -> str:
    """One column's definition, or LIKE. What is no definition stays, for PostgreSQL to complain about."""
    if not tokens:
        return ""
    if tokens[0].word == "LIKE":
        # The checks stand in for the type, so they must go along.
        plain = [t for i, t in enumerate(tokens) if not _is_defaults(tokens, i)]
        defaults = " INCLUDING DEFAULTS" if any(t.word == "INCLUDING" for t in tokens) else ""
        return f"{_spaced(plain)}{defaults} INCLUDING CONSTRAINTS"
    if len(tokens) == 1:  # CREATE TABLE t (a, b) AS SELECT ...
        return tokens[0].text
    column = name_of(tokens[0])
    if len(column.encode()) > _POSTGRES_NAME_BYTES:
        raise Refused(
            f"the column '{column}' has a name of {len(column.encode())} bytes: the local warehouse holds "
            f"{_POSTGRES_NAME_BYTES} (Redshift 127), and would cut it"
        )
    rest, limit = _type(list(tokens[1:]))
    attributes, is_key = _attributes(rest)
    text = f"{tokens[0].text} {_spaced(attributes)}"
    if (not_null or is_key) and "NOT NULL" not in text.upper():
        text += " NOT NULL"
    return f"{text} {_check(column, limit)}" if limit else text


def _is_defaults(tokens: Sequence[Token], index: int) -> bool:
    return tokens[index].word in ("INCLUDING", "EXCLUDING") or tokens[index - 1].word in ("INCLUDING", "EXCLUDING")


def _type(tokens: list[Token]) -> tuple[list[Token], Limit | None]:
    """The tokens with the type, at their start, translated; and what PostgreSQL's type would let through."""
    if not tokens:
        return tokens, None
    word = tokens[0].word
    if word in _MISSING_TYPES or any(t.word == "[" for t in tokens):
        raise Refused(f"Redshift has no type {'with []' if word not in _MISSING_TYPES else word}")
    varying = len(tokens) > 1 and tokens[1].word == "VARYING"
    size, rest = _size(tokens[2 if varying else 1 :])
    if word == "SUPER":
        return [Token(Kind.WORD, "jsonb"), *rest], None
    if word in ("VARBYTE", "VARBINARY") or (word == "BINARY" and varying):
        return [Token(Kind.WORD, "bytea"), *rest], _bytes(int(size)) if size.isdigit() else None
    if word in ("DECIMAL", "NUMERIC"):
        return _decimal(size, rest)
    if word in _VARCHAR or (word in ("CHARACTER", "NCHAR") and varying):
        return _varchar(size, rest)
    return tokens, None


def _size(tokens: list[Token]) -> tuple[str, list[Token]]:
    """What stands in the parentheses behind a type, and the tokens behind them."""
    if not tokens or tokens[0].word != "(":
        return "", tokens
    end = closing_parenthesis(tokens, 0)
    return joined(tokens[1:end]), tokens[end + 1 :]


def _bytes(limit: int) -> Limit:
    return Limit(f"octet_length({{column}}) <= {limit}")


def _varchar(size: str, rest: list[Token]) -> tuple[list[Token], Limit]:
    text = size.upper() or str(DEFAULT_VARCHAR_BYTES)
    limit = MAX_VARCHAR_BYTES if text == "MAX" else int(text) if text.isdigit() else 0
    if not 1 <= limit <= MAX_VARCHAR_BYTES:
        raise Refused(f"VARCHAR({size}): Redshift's longest is {MAX_VARCHAR_BYTES} bytes")
    return [Token(Kind.WORD, f"varchar({limit})"), *rest], _bytes(limit)


def _decimal(size: str, rest: list[Token]) -> tuple[list[Token], Limit | None]:
    precision, _, scale = (size or DEFAULT_DECIMAL).partition(",")
    if precision.isdigit() and int(precision) > MAX_DECIMAL_DIGITS:
        raise Refused(f"DECIMAL({size}): Redshift's widest has {MAX_DECIMAL_DIGITS} digits")
    # Up to 19 digits it is a signed integer of 8 bytes, which ends before the 19 digits do.
    highest = "9223372036854775807" if precision == "19" else ""
    limit = Limit(f"abs({{column}}) <= {highest}::numeric / 10::numeric ^ {scale or 0}") if highest else None
    return [Token(Kind.WORD, f"numeric({size or DEFAULT_DECIMAL})"), *rest], limit


def _attributes(tokens: Sequence[Token]) -> tuple[list[Token], bool]:
    """The tokens after the name without Redshift's own attributes and keys; and whether it was a primary key."""
    kept: list[Token] = []
    is_key = False
    index = 0
    depth = 0
    while index < len(tokens):
        token = tokens[index]
        depth += {"(": 1, ")": -1}.get(token.word, 0)
        step = 0 if depth else _dropped(tokens, index)
        is_key = is_key or (step > 0 and token.word == "PRIMARY")
        if step == 0:
            kept.append(token)
        index += step or 1
    return kept, is_key


def _dropped(tokens: Sequence[Token], index: int) -> int:
    """How many tokens from `index` on are an attribute that PostgreSQL must not see."""
    word = tokens[index].word
    if word == "CHECK":
        raise Refused("CREATE TABLE: Redshift has no CHECK constraints")
    if word in ("PRIMARY", "ENCODE"):
        return 2
    if word == "UNIQUE" or word in _KEYS_WITH_COLUMNS:
        return 1
    if word == "REFERENCES":
        end = index + 2
        if end < len(tokens) and tokens[end].word == "(":
            end = closing_parenthesis(tokens, end) + 1
        return end - index
    return 0


def _check_name(column: str) -> str:
    return f"{column}: too large for its type"


def _check(column: str, limit: Limit) -> str:
    name = _check_name(column)
    # PostgreSQL would cut a longer name, and two columns might end up with the same.
    label = f"CONSTRAINT {quoted(name)} " if len(name.encode()) <= _POSTGRES_NAME_BYTES else ""
    return f"{label}CHECK ({limit.condition.replace('{column}', quoted(column))})"
