"""One message's SQL as PostgreSQL runs it: statement by statement, with the COPYs that the shim has to feed.

Pure. What needs no change comes back as it was, blanks and comments included. A statement that cannot run becomes one
that raises the reason, in its place, so that the transaction fails there as it would on Redshift.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rds_lake.local.shim import ddl
from rds_lake.local.shim.redshift_copy import CopyJob, Refused, parse_copy
from rds_lake.local.shim.refusals import refusal
from rds_lake.local.shim.tokens import Kind, Token, joined, significant, statements

# Redshift's limit for one statement.
MAX_STATEMENT_BYTES: Final = 16 * 1024 * 1024
_NOT_SUPPORTED: Final = "0A000"
_BEGIN: Final = frozenset({"BEGIN", "START"})
_END: Final = frozenset({"COMMIT", "END", "ROLLBACK", "ABORT"})
# Redshift's functions without arguments, in PostgreSQL's words.
_FUNCTIONS: Final = {
    "GETDATE": "date_trunc('second', statement_timestamp())::timestamp",
    "SYSDATE": "transaction_timestamp()::timestamp",
}


@dataclass(frozen=True)
class Rewritten:
    """What PostgreSQL gets."""

    sql: str
    jobs: tuple[CopyJob, ...] = ()
    refused: bool = False  # a statement in it raises the reason


def rewrite(sql: str, *, in_transaction: bool = False, last_copy_count: int = 0) -> Rewritten:
    """Translate the SQL of one message.

    Args:
        sql: the client's text: any number of statements.
        in_transaction: the connection is inside a transaction block when the message starts.
        last_copy_count: what `pg_last_copy_count()` gives.
    """
    texts: list[str] = []
    jobs: list[CopyJob] = []
    refused = False
    parts = statements(sql)
    in_block = in_transaction or sum(1 for part in parts if significant(part)) > 1
    for part in parts:
        meaningful = significant(part)
        if not meaningful:
            texts.append(joined(part))
            continue
        try:
            text, job = _statement(part, meaningful, in_block=in_block, last_copy_count=last_copy_count)
        except Refused as reason:
            text, job, refused = raising(str(reason)) + _ending(part), None, True
        texts.append(text)
        if job is not None:
            jobs.append(job)
    return Rewritten("".join(texts), tuple(jobs), refused)


def raising(message: str, *, state: str = _NOT_SUPPORTED) -> str:
    """A statement that fails with a message."""
    tag = "$m$"
    while tag in message:
        tag = f"$m{len(tag)}$"
    return _block(f"BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = {tag}{message}{tag}; END")


def analyzing(target: str) -> str:
    """A statement that takes the statistics of a temporary table, if it is one and there.

    Args:
        target: the table, quoted.
    """
    name = target.replace("'", "''")
    return _block(
        f"DECLARE loaded regclass := pg_catalog.to_regclass('{name}'); BEGIN IF EXISTS (SELECT FROM "
        "pg_catalog.pg_class WHERE oid = loaded AND relpersistence = 't') "
        "THEN EXECUTE 'ANALYZE ' || loaded; END IF; END"
    )


def _block(body: str) -> str:
    outer = "$shim$"
    while outer in body:
        outer = f"$shim{len(outer)}$"
    return f"DO {outer}{body}{outer}"


def _ending(part: Sequence[Token]) -> str:
    return ";" if part[-1].word == ";" else ""


def _statement(
    part: Sequence[Token], meaningful: Sequence[Token], *, in_block: bool, last_copy_count: int
) -> tuple[str, CopyJob | None]:
    reason = refusal(meaningful, in_block=in_block)
    if reason:
        raise Refused(reason)
    words = [token.word for token in meaningful[:4]]
    if words[0] == "COPY":
        job = parse_copy(meaningful)
        return job.postgres_sql + _ending(part), job
    if any(token.word == "PG_CATALOG" for token in meaningful):
        return joined(part), None
    lowered = _functions([_folded(token) for token in part], last_copy_count)
    if words[0] == "CREATE" and "TABLE" in words:
        return ddl.rewrite_create_table(significant(lowered)) + _ending(part), None
    if words[:2] == ["ALTER", "TABLE"] and _changes_a_column(meaningful):
        return ddl.rewrite_add_column(significant(lowered)) + _ending(part), None
    if words[:2] == ["ALTER", "TABLE"] and _renames_a_column(meaningful):
        return _block(ddl.rewrite_rename_column(significant(lowered))) + _ending(part), None
    return joined(lowered), None


def _changes_a_column(tokens: Sequence[Token]) -> bool:
    words = [token.word for token in tokens]
    return "ADD" in words or ("ALTER" in words[2:] and "TYPE" in words)


def _renames_a_column(tokens: Sequence[Token]) -> bool:
    """Whether it is ALTER TABLE t RENAME [COLUMN] a TO b, and not RENAME TO b."""
    words = [token.word for token in tokens if token.word != ";"]
    return "RENAME" in words and words[-2] == "TO" and words[-3] != "RENAME"


def _folded(token: Token) -> Token:
    """A quoted name in lower case: Redshift folds it unless told otherwise, PostgreSQL does not."""
    if token.kind is not Kind.NAME or token.text.islower():
        return token
    return Token(Kind.NAME, re.sub("[A-Z]+", lambda m: m.group().lower(), token.text))


def _functions(tokens: Sequence[Token], last_copy_count: int) -> list[Token]:
    """The tokens with calls of Redshift's own functions replaced."""
    found: list[Token] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        call = token.word if token.kind is Kind.WORD else ""
        empty = [t.word for t in tokens[index + 1 : index + 3]] == ["(", ")"]
        if empty and call == "PG_LAST_COPY_COUNT":
            found.append(Token(Kind.OTHER, f"({last_copy_count})"))
            index += 2
        elif call == "SYSDATE" or (empty and call == "GETDATE"):
            found.append(Token(Kind.OTHER, f"({_FUNCTIONS[call]})"))
            index += 2 if empty else 0
        elif call == "JSON_PARSE":
            found.append(Token(Kind.WORD, "pg_catalog.jsonb"))
        else:
            found.append(token)
        index += 1
    return found
