"""Functions that Redshift has and PostgreSQL lacks, made in the local warehouse so that the production SQL runs there.

They stand in the template that new databases are copied from, and in the warehouse's own database, whose data outlive
a new version of rds_lake.
"""

from typing import Final

STATEMENTS: Final = (
    # The number that a text stands for in a base; only the bases that rds_lake uses.
    """CREATE OR REPLACE FUNCTION public.strtol(digits text, base integer) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE base
        WHEN 16 THEN ('x' || lpad(digits, 16, '0'))::bit(64)::bigint
        WHEN 10 THEN digits::bigint
        ELSE ('base ' || base || ' of STRTOL is not supported by the local warehouse')::bigint END""",
    # A VARBYTE as text.
    """CREATE OR REPLACE FUNCTION public.from_varbyte(content bytea, form text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE lower(form)
        WHEN 'hex' THEN encode(content, 'hex')
        WHEN 'utf-8' THEN convert_from(content, 'UTF8')
        ELSE encode(content, form) END""",
)
