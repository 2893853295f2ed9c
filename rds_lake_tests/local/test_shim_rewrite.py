"""The shim's pure half: SQL text in, SQL text and COPY jobs out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_lake.local.shim import protocol as pg
from rds_lake.local.shim.redshift_copy import CopyJob, Refused, parse_copy
from rds_lake.local.shim.rewrite import raising, rewrite
from rds_lake.local.shim.tokens import Kind, joined, significant, statements, tokenize

# The first example pays for imports, and others may use the machine.
PATIENT = settings(deadline=None)
ROLE = "IAM_ROLE 'arn:aws:iam::123456789012:role/loader'"

# Pieces in which a naive tokenizer loses its way.
PIECES = st.sampled_from(
    [
        *("'it''s'", "''", "E'a\\'b'", "E'\\\\'", "';'", "'--'", "'/*'", '";"', '"a""b"', "$$;$$", "$t$ $$ ; ' $t$"),
        *("-- ; '\n", "/* ; /* ' */ \" */", ";", " ", "\n", "(", ")", ",", "select", "a", "1", "1.5e-3", "$1", "::"),
        *("ä", "日本", "\u00a0", "e", "E", "x$y$z", "$", "'open", '"open', "/* open", "$q$ open", "E'open\\", "\udc80"),
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text()


@PATIENT
@given(TEXTS)
def test_tokens_joined_are_the_text_again(text):
    assert joined(list(tokenize(text))) == text
    assert "".join(joined(part) for part in statements(text)) == text


@PATIENT
@given(TEXTS)
def test_what_is_not_redshifts_own_comes_back_as_it_was(text):
    words = {token.text.upper() for token in tokenize(text)}
    if '"' in text or words & {"COPY", "CREATE", "ALTER", "RETURNING", "CTID", "SYSDATE", "SET"}:
        return
    assert rewrite(text).sql == text


def test_semicolons_count_only_between_statements():
    text = "SELECT ';', $a$ ; $b$ ; $a$, \";\" /* ; */ -- ;\n; SELECT E'\\';' ; "
    found = statements(text)
    assert [len(significant(part)) > 0 for part in found] == [True, True, False]
    assert significant(found[1])[1].text == "E'\\';'"


@pytest.mark.parametrize("text", ["'a' 'b", "$1$", "a$b$c", "$ä$;$ä$", "/* /* */ ; */"])
def test_odd_texts_are_one_statement(text):
    assert len(statements(text)) == 1


def test_a_prefixed_quote_is_an_escape_string_only_after_a_lone_e():
    kinds = [token.kind for token in tokenize("me'x'")]
    assert kinds == [Kind.WORD, Kind.STRING]


# --- COPY ------------------------------------------------------------------------------------------------------------


def job(sql: str) -> CopyJob:
    return parse_copy(significant(list(tokenize(sql))))


def test_a_copy_is_read_whatever_the_order_of_its_words():
    expected = CopyJob(("s", "t"), ("a", "b c"), "lake", "k/m.json", "parquet", manifest=True)
    assert job(f"COPY s.T (a, \"B c\") FROM 's3://lake/k/m.json' {ROLE} FORMAT AS PARQUET MANIFEST") == expected
    assert job(f"copy S.t(a,\"b c\")from's3://lake/k/m.json'manifest statupdate off format parquet {ROLE}") == expected


def test_a_csv_copy_keeps_its_options():
    found = job(
        "COPY t FROM 's3://lake/it''s' CREDENTIALS 'aws_iam_role=arn:aws:iam::123456789012:role/x' CSV QUOTE AS '%' "
        "DELIMITER '\t' IGNOREHEADER 2 NULL AS 'n/a' GZIP EMPTYASNULL DATEFORMAT 'auto' TIMEFORMAT AS 'auto' "
        "REGION 'eu-west-1' COMPUPDATE OFF STATUPDATE ON ENCODING UTF8 MAXERROR 0"
    )
    assert (found.key, found.quote, found.delimiter, found.ignore_header) == ("it's", "%", "\t", 2)
    assert (found.null_as, found.compression, found.empty_as_null) == ("n/a", "gzip", True)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("COPY t FROM 's3://b/k' FORMAT PARQUET", "neither IAM_ROLE nor CREDENTIALS"),
        (f"COPY t FROM 's3://b/k' {ROLE}", "no FORMAT"),
        ("COPY t FROM 's3://b/k' IAM_ROLE 'me' CSV", "not the ARN of a role"),
        ("COPY t FROM 's3://b/k' IAM_ROLE CSV", "not a plain string"),
        ("COPY t FROM 's3://b/k' CREDENTIALS 'x' CSV", "neither 'aws_iam_role"),
        (f"COPY t FROM 's3://b/k' {ROLE} FORMAT PARQUET MAXERROR 1", "MAXERROR"),
        (f"COPY t FROM 's3://b/k' {ROLE} FORMAT PARQUET REGION 'x'", "accept REGION with"),
        (f"COPY t FROM 's3://b/k' {ROLE} FORMAT PARQUET GZIP", "accept GZIP with"),
        (f"COPY t FROM 's3://b/k' {ROLE} FORMAT PARQUET COMPUPDATE ON", "accept COMPUPDATE with"),
        (f"COPY t FROM 's3://b/k' {ROLE} FORMAT ORC", "FORMAT ORC is not supported"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV ACCEPTANYDATE", "ACCEPTANYDATE is not supported by the local"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV FORCE_NULL", "FORCE_NULL is not an option of Redshift"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV MANIFEST MANIFEST", "MANIFEST is given twice"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV IGNOREHEADER x", "x is not a number"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV IGNOREHEADER", "ends where"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV MAXERROR 10", "MAXERROR above 0"),
        (f"COPY t FROM 's3://b/k' {ROLE} CSV DATEFORMAT 'DD.MM.YY'", "DATEFORMAT 'DD.MM.YY'"),
        (f"COPY t FROM 's3://b' {ROLE} CSV", "not an address in S3"),
        (f"COPY t FROM '/etc/passwd' {ROLE} CSV", "not an address in S3"),
        ("COPY t FROM PROGRAM 'ls'", "not from PROGRAM"),
        ("COPY t FROM STDIN", "not from STDIN"),
        ("COPY t FROM AS 's3://b/k'", "not from AS"),
        (f"COPY t FROM E's3://b/k' {ROLE} CSV", "not a plain string"),
        ("COPY t FROM 'b/k'", "not an address in S3"),
        ("COPY t FROM", "COPY ends where"),
        ("COPY (SELECT 1) TO STDOUT", "no COPY TO"),
        ("COPY", "COPY is"),
        ("COPY a b FROM 's3://b/k'", "not the name of a table"),
    ],
)
def test_a_copy_that_cannot_run_says_why(sql, message):
    with pytest.raises(Refused, match=message):
        job(sql)


@PATIENT
@given(st.lists(st.sampled_from(f"COPY t ( a , ) . FROM 's3://b/k' E'x' {ROLE} FORMAT AS PARQUET 1 NULL".split())))
def test_any_run_of_copy_words_is_a_job_or_a_refusal(words):
    rewrite("COPY " + " ".join(words))


def test_copies_are_replaced_in_their_place_and_queued_in_order():
    done = rewrite(
        f"DELETE FROM t; -- first\nCOPY t FROM 's3://b/1' {ROLE} CSV ; COPY \"T\" (a) FROM 's3://b/2' {ROLE} CSV"
    )
    assert done.sql == (
        "DELETE FROM t;COPY \"t\" FROM STDIN (FORMAT csv, ENCODING 'UTF8');"
        'COPY "t" ("a") FROM STDIN (FORMAT csv, ENCODING \'UTF8\')'
    )
    assert [found.key for found in done.jobs] == ["1", "2"]


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t (a INT ENCODE az64 DISTKEY SORTKEY NOT NULL)", "CREATE TABLE t (a INT NOT NULL)"),
        ("CREATE TABLE t (a INT) DISTSTYLE ALL", "CREATE TABLE t (a INT)"),
        (
            "CREATE TABLE t (a INT) DISTSTYLE KEY DISTKEY(a) COMPOUND SORTKEY (a, b) ENCODE AUTO",
            "CREATE TABLE t (a INT)",
        ),
        ("CREATE TABLE t (a INT) BACKUP NO DISTSTYLE AUTO INTERLEAVED SORTKEY(a)", "CREATE TABLE t (a INT)"),
        (
            "CREATE TABLE IF NOT EXISTS s.t (j SUPER, v VARBYTE);",
            "CREATE TABLE IF NOT EXISTS s.t (j jsonb, v bytea);",
        ),
        ("CREATE TABLE t (a DECIMAL(38, 10) DEFAULT 0)", "CREATE TABLE t (a numeric(38,10) DEFAULT 0)"),
        ("CREATE TABLE t (a INT, PRIMARY KEY (a), UNIQUE (a))", "CREATE TABLE t (a INT NOT NULL)"),
        ("CREATE TABLE t (a INT REFERENCES u (a) UNIQUE)", "CREATE TABLE t (a INT)"),
        ("CREATE TABLE t DISTSTYLE EVEN AS SELECT 1 AS a", "CREATE TABLE t AS SELECT 1 AS a"),
        ("CREATE TABLE t (a, b) SORTKEY (a) AS (SELECT 1, 2)", "CREATE TABLE t (a, b) AS(SELECT 1,2)"),
        ("CREATE TEMP TABLE t (LIKE u)", "CREATE TEMP TABLE t (LIKE u INCLUDING CONSTRAINTS)"),
        (
            "CREATE TABLE t (LIKE s.u INCLUDING DEFAULTS)",
            "CREATE TABLE t (LIKE s.u INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        ),
        (
            'CREATE TABLE t ("A b" CHARACTER VARYING(9) NOT NULL)',
            (
                'CREATE TABLE t ("a b" varchar(9) NOT NULL CONSTRAINT "a b: too large for its type" '
                'CHECK (octet_length("a b") <= 9))'
            ),
        ),
        (
            'ALTER TABLE s.t RENAME COLUMN a TO "b";',
            (
                'DO $shim$BEGIN ALTER TABLE s.t RENAME COLUMN a TO "b"; IF EXISTS (SELECT 1 FROM pg_constraint WHERE '
                "conrelid = 's.t'::regclass AND conname = 'a: too large for its type') THEN ALTER TABLE s.t RENAME "
                'CONSTRAINT "a: too large for its type" TO "b: too large for its type"; END IF; END$shim$;'
            ),
        ),
        (
            "ALTER TABLE t ADD COLUMN c VARCHAR(MAX) ENCODE zstd",
            (
                'ALTER TABLE t ADD COLUMN c varchar(65535) CONSTRAINT "c: too large for its type" '
                'CHECK (octet_length("c") <= 65535)'
            ),
        ),
        (
            "ALTER TABLE t ALTER COLUMN c TYPE VARCHAR(5)",
            (
                'ALTER TABLE t ALTER COLUMN c TYPE varchar(5), DROP CONSTRAINT IF EXISTS "c: too large for its '
                'type", ADD CONSTRAINT "c: too large for its type" CHECK (octet_length("c") <= 5)'
            ),
        ),
    ],
)
def test_table_definitions_lose_what_only_redshift_has(sql, expected):
    assert rewrite(sql).sql == expected


def test_a_long_column_name_gets_an_unnamed_check():
    assert "CONSTRAINT" not in rewrite(f"CREATE TABLE t ({'c' * 40} VARCHAR(5))").sql


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE TABLE t (a SERIAL)", "no type SERIAL"),
        ("CREATE TABLE t (a INT[])", "no type with"),
        ("CREATE TABLE t (a VARCHAR(70000))", "longest is 65535"),
        ("CREATE TABLE t (a DECIMAL(39,2))", "widest has 38"),
        ("CREATE TABLE t (a INT CHECK (a > 0))", "no CHECK"),
        ("CREATE TABLE t (a INT, CHECK (a > 0))", "no CHECK"),
        ("CREATE TABLE t (a INT) PARTITION BY RANGE (a)", "PARTITION is not known"),
        ("CREATE UNLOGGED TABLE t (a INT)", "unlogged"),
        (f'CREATE TABLE t ("{"a" * 64}" INT)', "has a name of 64 bytes: the local warehouse holds 63 (Redshift 127)"),
    ],
)
def test_table_definitions_that_redshift_lacks_are_refused(sql, message):
    done = rewrite(sql)
    assert done.refused
    assert message in done.sql


TABLE_WORDS = [
    "CREATE",
    "TABLE",
    "t",
    "(",
    ")",
    ",",
    "a",
    '"B"',
    "VARCHAR",
    "5",
    "LIKE",
    "AS",
    "ENCODE",
    "PRIMARY",
    "KEY",
    ".",
]


@PATIENT
@given(st.lists(st.sampled_from(TABLE_WORDS)))
def test_any_run_of_table_words_is_rewritten_or_refused(words):
    rewrite("CREATE TABLE " + " ".join(words))
    rewrite("ALTER TABLE t ADD " + " ".join(words))
    rewrite("ALTER TABLE t ALTER COLUMN a TYPE " + " ".join(words))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        *("BEGIN", "COMMIT", "ROLLBACK", "SET TIME ZONE 'UTC'", "LOCK t", "DELETE FROM s.t USING u WHERE t.a = u.a"),
        *("SELECT 'ON CONFLICT', \"returning\" FROM t", "TRUNCATE t", "SELECT returning FROM t", "DELETE FROM t"),
        "SELECT array_agg(x) FROM pg_catalog.pg_class",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ],
)
def test_what_redshift_runs_passes_untouched(sql):
    assert rewrite(sql).sql == sql


@pytest.mark.parametrize("sql", ["TRUNCATE t", "VACUUM t"])
def test_what_commits_is_refused_inside_a_block(sql):
    assert rewrite(sql, in_transaction=True).refused
    assert rewrite(f"SELECT 1; {sql}").refused
    assert not rewrite(f"{sql};").refused


@PATIENT
@given(st.text())
def test_any_message_can_be_raised(message):
    text = raising(message)
    assert len(statements(text)) == 1
    assert message in text


# --- the wire --------------------------------------------------------------------------------------------------------

MESSAGES = st.lists(
    st.builds(pg.Message, st.sampled_from([b"D", b"Z", b"C", b"E", b"T"]), st.binary(max_size=40)), max_size=12
)


@PATIENT
@given(MESSAGES, st.lists(st.integers(1, 50), min_size=1))
def test_a_stream_cut_anywhere_gives_the_same_messages(messages, cuts):
    splitter = pg.Splitter([b"Z", b"E"])
    data = b"".join(message.encode() for message in messages)
    found = []
    position = turn = 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        found += splitter.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert b"".join(part if isinstance(part, bytes) else part.encode() for part in found) == data
    whole = [part for part in found if isinstance(part, pg.Message)]
    assert whole == [message for message in messages if message.type in (b"Z", b"E")]


def test_a_message_with_an_impossible_length_is_an_error():
    with pytest.raises(pg.ProtocolError):
        pg.Splitter([b"Z"]).feed(b"Z\0\0\0\1")


def test_the_start_keeps_only_what_postgresql_knows():
    body = b"user\0me\0client_protocol_version\x002\0database\0db\0driver_version\0x\0\0"
    kept = pg.parameters_body(pg.parameters(body))
    assert kept == b"user\0me\0database\0db\0\0"
