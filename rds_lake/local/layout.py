"""Where the local stack keeps things: the folders and files below its home, and the passwords that it made up.

Only paths and secrets belong here; what is inside a service's folder is that service's business.
"""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import rds_lake
from rds_lake.errors import LocalStackError

USER = "rds_lake"
SOURCE_DATABASE = "retail"
WAREHOUSE_DATABASE = "warehouse"
BUCKET = "lake"
DROP_BUCKET = "drop"
RDS_DATABASE = "rds"
REGION = "us-east-1"
IAM_ROLE = "arn:aws:iam::000000000000:role/rds_lake_redshift"  # any name will do: the local COPY does not assume it

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
NEEDED_MB = 400  # an empty MariaDB takes 45 MB, PostgreSQL 40 MB, Dagster's records 5 MB; the rest is for rows
LONGEST_HOME = 300  # characters; MariaDB's own limit for a file's path is 512


@dataclass(frozen=True)
class Secrets:
    """The passwords of one stack, made up at its first start."""

    mysql_password: str
    warehouse_password: str
    aws_access_key_id: str
    aws_secret_access_key: str
    source_url: str = ""  # the MySQL that the user gave instead of our own; its password is why it is kept here

    def __repr__(self) -> str:
        return "Secrets(***)"


@dataclass(frozen=True)
class Layout:
    """The files and folders of one stack."""

    home: Path

    @property
    def run(self) -> Path:
        """Files that mean something only while the stack is up."""
        return self.home / "run"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor for as long as it lives; its text is the supervisor's pid and start time."""
        return self.run / "lock"

    @property
    def state(self) -> Path:
        """What the supervisor last said about itself and its services."""
        return self.run / "state.json"

    @property
    def ports(self) -> Path:
        """The ports that were chosen at the first start."""
        return self.home / "ports.json"

    @property
    def secrets(self) -> Path:
        """The passwords that were made up at the first start."""
        return self.home / "secrets.json"

    @property
    def logs(self) -> Path:
        """One file per service."""
        return self.home / "logs"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.home / "dagster"

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.logs / f"{service}.log"

    @property
    def digest(self) -> str:
        """A short name for this home, for things that have to live elsewhere."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:12]


def project_root() -> Path:
    """The folder that holds pyproject.toml, workspace.yaml and dagster.yaml.

    Raises:
        LocalStackError: rds_lake was installed without its project folder.
    """
    root = Path(rds_lake.__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file():
        raise LocalStackError(
            f"There is no pyproject.toml in {root}: rds_lake was installed without its project folder.",
            "Install it from a checkout with 'make', or 'pip install -e .'.",
        )
    return root


def prepare(home: Path) -> Layout:
    """Make the home's folders and check that a stack can live there.

    Raises:
        LocalStackError: it cannot be made or written, its path is too long, or the disk is nearly full.
    """
    layout = Layout(home.expanduser().absolute())
    elsewhere = "Choose another folder with RDS_LAKE_HOME, for example RDS_LAKE_HOME=~/rds_lake_data."
    if len(str(layout.home)) > LONGEST_HOME:
        raise LocalStackError(
            f"The path of the local stack's folder has {len(str(layout.home))} characters; the servers allow "
            f"{LONGEST_HOME}: {layout.home}.",
            elsewhere,
        )
    try:
        for folder in (layout.home, layout.run, layout.logs):
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        probe = layout.run / f"probe-{os.getpid()}"
        probe.write_bytes(b"can write")
        probe.unlink()
    except OSError as error:
        raise LocalStackError(
            f"The local stack cannot write to its folder {layout.home}: {error.strerror}.", elsewhere
        ) from error
    free = shutil.disk_usage(layout.home).free // 2**20
    if free < NEEDED_MB:
        raise LocalStackError(
            f"The disk of the local stack's folder {layout.home} is nearly full: {free} MB are free, {NEEDED_MB} MB "
            "are needed.",
            f"Free some space. Or: {elsewhere}",
        )
    return layout


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; nobody else may read it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def read_secrets(layout: Layout) -> Secrets | None:
    """The passwords of the stack, or None when it was never set up.

    Raises:
        LocalStackError: the file was damaged.
    """
    try:
        text = layout.secrets.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Secrets(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise LocalStackError(
            f"{layout.secrets} is damaged.",
            f"Restore it, or delete {layout.home} to start again with empty servers.",
        ) from error


def keep_secrets(layout: Layout, *, source_url: str) -> Secrets:
    """The stack's passwords, made up when there are none yet; with the source that the user gave, if any."""
    kept = read_secrets(layout)
    known = Secrets(
        mysql_password=kept.mysql_password if kept else secrets.token_urlsafe(18),
        warehouse_password=kept.warehouse_password if kept else secrets.token_urlsafe(18),
        aws_access_key_id=kept.aws_access_key_id if kept else "LOCAL" + secrets.token_hex(8).upper(),
        aws_secret_access_key=kept.aws_secret_access_key if kept else secrets.token_urlsafe(30),
        source_url=source_url,
    )
    if known != kept:
        write_private(layout.secrets, json.dumps(known.__dict__, indent=2) + "\n")
    return known
