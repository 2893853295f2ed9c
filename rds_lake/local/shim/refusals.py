"""What PostgreSQL has and Redshift lacks, as a small table: run locally, it would only fail in production.

Pure. A statement that mentions `pg_catalog` is a client's own look at the catalogue (as psql does): it passes.
The list follows section "unsupported PostgreSQL features" of the Redshift Database Developer Guide; it is made of
what a loader may be tempted to use, and does not claim to be whole.
"""

from collections.abc import Sequence
from typing import Final

from rds_lake.local.shim.tokens import Kind, Token

# First words of a statement.
_STATEMENTS: Final = {
    "CREATE INDEX": "Redshift has no indexes (use SORTKEY)",
    "CREATE UNIQUE INDEX": "Redshift has no indexes (use SORTKEY)",
    "CREATE TRIGGER": "Redshift has no triggers",
    "CREATE CONSTRAINT TRIGGER": "Redshift has no triggers",
    "CREATE SEQUENCE": "Redshift has no sequences (use IDENTITY)",
    "CREATE TEMP SEQUENCE": "Redshift has no sequences (use IDENTITY)",
    "CREATE TEMPORARY SEQUENCE": "Redshift has no sequences (use IDENTITY)",
    "CREATE UNLOGGED": "Redshift has no unlogged tables",
    "CREATE TYPE": "Redshift has no user-defined types",
    "CREATE DOMAIN": "Redshift has no domains",
    "CREATE EXTENSION": "Redshift has no extensions",
    "CREATE RULE": "Redshift has no rules",
    "SAVEPOINT": "Redshift has no savepoints",
    "RELEASE": "Redshift has no savepoints",
    "ROLLBACK TO": "Redshift has no savepoints",
    "ROLLBACK WORK TO": "Redshift has no savepoints",
    "ROLLBACK TRANSACTION TO": "Redshift has no savepoints",
    "LISTEN": "Redshift has no LISTEN and NOTIFY",
    "NOTIFY": "Redshift has no LISTEN and NOTIFY",
    "UNLOAD": "UNLOAD is not supported by the local warehouse: read the rows with SELECT",
    "VALUES": "Redshift has no VALUES as a table",
}

# On Redshift these commit what is open, or fail, inside a transaction block.
_OUTSIDE_A_BLOCK: Final = {
    "TRUNCATE": "TRUNCATE commits the open transaction on Redshift and cannot be rolled back: use DELETE in a block",
    "VACUUM": "VACUUM cannot run in a transaction block",
}

# Runs of words anywhere in a statement.
_PHRASES: Final = {
    ("ON", "CONFLICT"): "Redshift has no ON CONFLICT (delete and insert in one transaction, or MERGE)",
    ("IS", "DISTINCT", "FROM"): "Redshift has no IS DISTINCT FROM",
    ("IS", "NOT", "DISTINCT", "FROM"): "Redshift has no IS DISTINCT FROM",
    ("STRING_AGG", "("): "Redshift has no string_agg (use LISTAGG)",
    ("ARRAY_AGG", "("): "Redshift has no array_agg (use LISTAGG)",
    ("CLOCK_TIMESTAMP", "("): "Redshift has no clock_timestamp (use GETDATE)",
    ("PG_SLEEP", "("): "Redshift has no pg_sleep",
    ("PG_ADVISORY_LOCK", "("): "Redshift has no advisory locks (LOCK a table)",
    ("PG_ADVISORY_XACT_LOCK", "("): "Redshift has no advisory locks (LOCK a table)",
    ("PG_TRY_ADVISORY_LOCK", "("): "Redshift has no advisory locks (LOCK a table)",
    ("PG_TRY_ADVISORY_XACT_LOCK", "("): "Redshift has no advisory locks (LOCK a table)",
}
_WRITING: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "WITH"})
_LONGEST_OPENING: Final = max(len(opening.split()) for opening in _STATEMENTS)


def refusal(tokens: Sequence[Token], *, in_block: bool) -> str:
    """Why Redshift does not run a statement; empty if it does, as far as we know.

    Args:
        tokens: the statement's significant tokens.
        in_block: it runs inside a transaction block, or beside other statements in one message.
    """
    words = [token.word for token in tokens]
    for length in range(1, _LONGEST_OPENING + 1):
        reason = _STATEMENTS.get(" ".join(words[:length]))
        if reason:
            return reason
    if in_block and words[:1] and words[0] in _OUTSIDE_A_BLOCK:
        return _OUTSIDE_A_BLOCK[words[0]]
    if in_block and words[:2] == ["ALTER", "TABLE"] and "ALTER" in words[2:] and "TYPE" in words:
        return "Redshift cannot alter a column's type in a transaction block"
    if "PG_CATALOG" in words:
        return ""
    return _phrase(words) or _system_column(tokens) or _alteration(words) or _delete_alias(tokens)


def _phrase(words: Sequence[str]) -> str:
    for index, word in enumerate(words):
        for phrase, reason in _PHRASES.items():
            if word == phrase[0] and tuple(words[index : index + len(phrase)]) == phrase:
                return reason
    if words[:1] and words[0] in _WRITING and "RETURNING" in words:
        return "Redshift has no RETURNING"
    return ""


def _system_column(tokens: Sequence[Token]) -> str:
    if any(token.kind in (Kind.WORD, Kind.NAME) and token.text.strip('"').lower() == "ctid" for token in tokens):
        return "Redshift has no ctid"
    return ""


def _alteration(words: Sequence[str]) -> str:
    if words[:2] != ["ALTER", "TABLE"]:
        return ""
    if "APPEND" in words:
        return "ALTER TABLE APPEND is not supported by the local warehouse (on Redshift it commits at once)"
    if words.count("ADD") > 1:
        return "Redshift adds one column per ALTER TABLE"
    return ""


def _delete_alias(tokens: Sequence[Token]) -> str:
    words = [token.word for token in tokens]
    if words[:2] != ["DELETE", "FROM"]:
        return ""
    index = 3
    while index + 1 < len(words) and words[index] == ".":
        index += 2
    if index < len(tokens) and words[index] not in ("USING", "WHERE"):
        return "Redshift's DELETE takes no alias for its target"
    return ""
