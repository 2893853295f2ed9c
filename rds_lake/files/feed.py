"""A feed at work: files in `source/` are checked, cleaned, and put into a table of PostgreSQL on RDS."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import duckdb

from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.files.keeper import Keeper
from rds_lake.files.schema import RefusedError
from rds_lake.files.spec import FileFeedSpec
from rds_lake.files.stage import Reading, Staged, open_engine, stage, staged_before
from rds_lake.files.store import FileStore
from rds_lake.files.upsert import FeedTable, is_loaded, put
from rds_lake.files.version import FileVersion, Place
from rds_lake.files.work import Result, Say, Waits, Work, details_of, refusals
from rds_lake.warehouse.connection import Database

SOURCE = "source/"
ACTION = "upsert"


class FileFeed:
    """One feed.

    Args:
        spec: its YAML.
        store: its bucket.
        database: makes the connection to PostgreSQL.
        say: told in words what goes on.
    """

    def __init__(
        self, spec: FileFeedSpec, store: FileStore, database: Callable[[], Database], say: Say = lambda _: None
    ) -> None:
        self._spec = spec
        self._store = store
        self._database = database
        self._say = say
        self._table = FeedTable(spec.target.db_schema, spec.target.table, spec.schema_of_files, bool(spec.clean))

    @property
    def name(self) -> str:
        """What it is called."""
        return self._spec.name

    @property
    def store(self) -> FileStore:
        """Its bucket."""
        return self._store

    def prefixes(self) -> Sequence[str]:
        """The prefix that files are dropped under."""
        return [self._spec.root + SOURCE]

    def place(self, key: str) -> Place | None:
        """Where a file belongs."""
        if not key.startswith(self._spec.root + SOURCE):
            return None
        return Place(self._spec.feed, ACTION, self._spec.root, "")

    def companions(self, works: Sequence[Work]) -> Iterable[FileVersion]:  # noqa: ARG002 - the protocol's form
        """None: no file of a feed needs another one."""
        return ()

    def work(self, works: Sequence[Work], kept: Keeper) -> Iterator[tuple[Work, Result | Waits]]:
        """Check and clean each file, and put its rows into the table."""
        held: Waits | None = None
        with open_engine() as engine:
            for work in works:
                if held is None:
                    self._say(f"{work.version.name}: {work.version.size:,} bytes")
                    staged = refusals(work, self._store, partial(self._clean, work, kept, engine))
                    done = self._put(staged) if isinstance(staged, Staged) else staged
                    held = done if isinstance(done, Waits) and done.with_table else None
                    yield work, done
                else:
                    yield work, held

    def _clean(self, work: Work, kept: Keeper, engine: duckdb.DuckDBPyConnection) -> Staged:
        """Check a file and clean its rows.

        Raises:
            RefusedError: it cannot be taken.
        """
        if "/" in work.version.key.removeprefix(self._spec.root + SOURCE) or not work.version.name:
            raise RefusedError(
                f"{work.version.url} lies in a folder of its own.", f"Drop it into {self._spec.root}{SOURCE} itself."
            )
        if work.record.attempts > 1 and (before := staged_before(self._store, work.place, work.version, "cleaned")):
            return before
        spec = self._spec
        reading = Reading(spec.schema_of_files, spec.csv, spec.discard_limit, spec.clean, "cleaned")
        with kept.content(work) as (content, digest):
            return stage(engine, self._store, work.place, work.version, content, digest, reading)

    def loaded(self, work: Work) -> Result | Waits | None:
        """The result of a file that is in the table, though no report says so; None when it is not."""
        staged = staged_before(self._store, work.place, work.version, "cleaned")
        if staged is None or not is_loaded(self._database(), self._table, staged.file_id):
            return None
        return self._put(staged)  # which finds it in the ledger

    def _put(self, staged: Staged) -> Result | Waits:
        try:
            done = put(self._database(), self._store, self._table, staged)
        except ConfigError:
            raise
        except TransientError as error:
            return Waits(error, with_table=self._database().is_away())
        except PermanentError as error:
            return Result("failed", staged.read, 0, staged.discarded, str(error), staged.content)
        if not done.is_new:
            self._say(f"{staged.name} is in the table already; it is settled now")
        older = staged.rows - done.rows
        told = [staged.story, f"{older:,} rows are older than those in the table" if older else None]
        return Result(
            "completed",
            staged.read,
            done.rows,
            staged.discarded,
            ". ".join(each for each in told if each) or None,
            staged.content,
            {**details_of(staged, self._store), "older": older},
        )
