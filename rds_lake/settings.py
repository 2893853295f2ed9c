"""Configuration: environment variables, read once and checked, and nothing else.

Every variable that rds_lake reads stands in `VARIABLES`; the README lists them from there. Botocore reads its own
`AWS_*` variables (`AWS_ENDPOINT_URL` set means that the endpoint is a local one).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from rds_lake.errors import ConfigError

VARIABLES: Mapping[str, str] = {
    "RDS_LAKE_SOURCE_URL": "The MySQL source: mysql://user:password@host:port/database",
    "RDS_LAKE_BUCKET": "The lake's S3 bucket",
    "RDS_LAKE_GLUE_DATABASE": "The Glue database of the lake's tables (default rds_lake)",
    "RDS_LAKE_WAREHOUSE_URL": "The Redshift warehouse: redshift://user:password@host:port/database",
    "RDS_LAKE_REDSHIFT_IAM_ROLE": "ARN of the role that Redshift's COPY reads the lake with",
    "RDS_LAKE_DROP_BUCKET": "The bucket that files are dropped into, for drop zones and feeds",
    "RDS_LAKE_POSTGRES_URL": "PostgreSQL on RDS, for feeds: postgresql://user:password@host:port/database",
    "RDS_LAKE_AUDIT_TABLE": "The audit log's DynamoDB table; 'off': none for runs of tables (default S3_Audit_1)",
    "RDS_LAKE_API_KEY": "What callers of the REST API have to know",
    "RDS_LAKE_API_AUTH": "'key' or 'iam': who checks the callers of the REST API (default key)",
    "RDS_LAKE_DAGSTER_URL": "Address of Dagster's UI, for the links to runs",
    "RDS_LAKE_AUTOMATION": "'on' starts sensors and schedules with the deployment (default off: switch on in the UI)",
    "RDS_LAKE_MEMORY_MB": "Memory that a sync may take, in MB (default 400)",
    "RDS_LAKE_HOME": "Folder of the local stack's data and of Dagster's records (default .rds_lake)",
    "RDS_LAKE_MYSQL": "Where the local stack's MySQL comes from: path, debian or seekdb (default: what works)",
}

DEFAULTS: Mapping[str, str] = {
    "RDS_LAKE_GLUE_DATABASE": "rds_lake",
    "RDS_LAKE_AUDIT_TABLE": "S3_Audit_1",
    "RDS_LAKE_API_AUTH": "key",
    "RDS_LAKE_AUTOMATION": "off",
    "RDS_LAKE_MEMORY_MB": "400",
}

PROGRAM_MB = 340
"""What the program takes itself, before it has a row."""

DEFAULT_PORTS = {"mysql": 3306, "redshift": 5439, "postgresql": 5432}


@dataclass(frozen=True)
class DatabaseUrl:
    """A database address; its `repr` and `str` never show the password."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    database: str
    options: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"{self.scheme}://{self.user}:***@{self.host}:{self.port}/{self.database}"

    __str__ = __repr__

    @property
    def address(self) -> str:
        """Host, port and database, for messages: `host:port/database`."""
        return f"{self.host}:{self.port}/{self.database}"


def parse_database_url(text: str, *, scheme: str, variable: str) -> DatabaseUrl:
    """Take a database URL apart.

    Args:
        text: `scheme://user:password@host:port/database?option=value`; user and password percent-encoded.
        scheme: the scheme that it must have, a key of `DEFAULT_PORTS`.
        variable: the environment variable that it came from, for the error message.

    Raises:
        ConfigError: it is not of that form. The message never holds the text, which may contain a password.
    """
    remedy = f"Set it to {scheme}://user:password@host:{DEFAULT_PORTS[scheme]}/database (percent-encode the password)."
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORTS[scheme]
    except ValueError:  # an unreadable port or host: urlsplit's own message would repeat the text
        raise ConfigError(f"{variable} is not a URL.", remedy) from None
    database = unquote(parts.path.lstrip("/"))
    if parts.scheme != scheme:
        raise ConfigError(f"{variable} starts with '{parts.scheme}:', not with '{scheme}:'.", remedy)
    if not parts.hostname or not parts.username or not database:
        missing = "host" if not parts.hostname else "user" if not parts.username else "database"
        raise ConfigError(f"{variable} names no {missing}.", remedy)
    return DatabaseUrl(
        scheme=scheme,
        host=parts.hostname,
        port=port,
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        database=database,
        options=tuple(parse_qsl(parts.query)),
    )


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the local stack's data and of Dagster's records: `RDS_LAKE_HOME`, or `.rds_lake` here."""
    return Path(environ.get("RDS_LAKE_HOME") or ".rds_lake").expanduser().absolute()


def memory_for_rows(environ: Mapping[str, str] = os.environ) -> int:
    """Bytes of memory that rows may take: `RDS_LAKE_MEMORY_MB` without what the program takes itself.

    Raises:
        ConfigError: it is no number, or leaves nothing for rows.
    """
    given = required("RDS_LAKE_MEMORY_MB", environ)
    if not given.isdecimal() or int(given) <= PROGRAM_MB:
        raise ConfigError(
            f"RDS_LAKE_MEMORY_MB is '{given}', which leaves no memory for rows.",
            f"Give a number of MB above {PROGRAM_MB}, or take it out for {DEFAULTS['RDS_LAKE_MEMORY_MB']}.",
        )
    return (int(given) - PROGRAM_MB) * 1024 * 1024


def required(variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """The value of an environment variable, or its default if it has one.

    Raises:
        ConfigError: it is not set, or empty, and has no default.
    """
    value = environ.get(variable) or DEFAULTS.get(variable, "")
    if not value:
        raise ConfigError(
            f"{variable} is not set ({VARIABLES[variable]}).",
            "Set it in the environment or in .env, or start the local stack with 'rds-lake up'.",
        )
    return value
