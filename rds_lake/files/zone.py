"""The drop zone at work: files below `<database>/<action>/<table>/` into tables of Redshift.

A table is what its schema files have come to (`rds_lake.files.agreed`). Files are staged in the order in which they
landed, each under the schema of that moment, then loaded table by table.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from itertools import groupby
from typing import Any

import duckdb

from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.files.agreed import AgreedSchema, AgreedSchemas
from rds_lake.files.keeper import Keeper
from rds_lake.files.load import LoadedFiles, is_loaded, load_files, prepare
from rds_lake.files.schema import LINE, NAME_BYTES, RefusedError, TableSchema, evolve, read_schema
from rds_lake.files.spec import NAME, DropZoneSpec
from rds_lake.files.stage import Reading, Staged, open_engine, stage, staged_before
from rds_lake.files.statements import FileTarget
from rds_lake.files.store import FileStore
from rds_lake.files.version import SCHEMA, FileVersion, Place, plain_parts
from rds_lake.files.work import Result, Say, Waits, Work, details_of, refusals
from rds_lake.lake.aws import ConflictError
from rds_lake.side_by_side import side_by_side
from rds_lake.warehouse.connection import Warehouse

ACTIONS = ("append", "truncate", SCHEMA)

SCHEMA_MAX = 4 * 1024 * 1024
"""Bytes of a schema file."""

UNKNOWN = "unknown"
"""The action of a file whose key names none."""


class DropZone:
    """One drop zone.

    Args:
        spec: its YAML.
        store: its bucket.
        warehouse: makes the connection to Redshift.
        say: told in words what goes on.
    """

    def __init__(
        self, spec: DropZoneSpec, store: FileStore, warehouse: Callable[[], Warehouse], say: Say = lambda _: None
    ) -> None:
        self._spec = spec
        self._store = store
        self._warehouse = warehouse
        self._say = say
        self._agreed = AgreedSchemas(store, spec.database)

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
        return [f"{self._spec.database}/"]

    def place(self, key: str) -> Place | None:
        """Where a file belongs; of one whose key says it wrongly, as much as it says."""
        if not key.startswith(f"{self._spec.database}/"):
            return None
        parts = key.split("/")
        folder = "/".join(plain_parts(key)[:-1]) + "/"
        if len(parts) == 4 and parts[1] in ACTIONS and _is_name(parts[2]):
            return Place(f"{parts[0]}.{parts[2].lower()}", parts[1], "", folder)
        return Place(self._spec.database, UNKNOWN, "", folder)

    def companions(self, works: Sequence[Work]) -> Iterable[FileVersion]:
        """The schema files that wait and have to be taken before or with others, whichever event comes first.

        Those that landed before the last of these files. Of a table without a schema data files need all, for the
        first may be none.
        """
        last: dict[str, datetime] = {}
        for work in works:
            if work.place.action in ACTIONS:
                last[work.place.table] = max(work.version.landed_at, last.get(work.place.table, work.version.landed_at))
        found: list[tuple[str, FileVersion]] = []
        for version in self._store.list(f"{self._spec.database}/schema/") if last else ():
            place = self.place(version.key)  # the table may be written in any case
            if place and place.is_of_schema and place.table in last:
                found.append((place.table, version))
        with_data = {work.place.table for work in works if not work.place.is_of_schema}
        lacking = {table for table in with_data & {table for table, _ in found} if self._is_new(table)}
        needed = [version for table, version in found if table in lacking or version.landed_at <= last[table]]
        if not needed or not self._store.has_versions():
            return needed
        # A listing does not say which version an object is; without it the file would have a second identity.
        return [version for version in side_by_side(self._looked_up, needed) if version is not None]

    def _looked_up(self, version: FileVersion) -> FileVersion | None:
        try:
            return self._store.look(version.key)
        except PermanentError as error:  # whoever claims it tells of it; the others are taken all the same
            self._say(f"{version.url} cannot be looked at: {error}")
            return None

    def _schema_folder(self, table: str) -> str:
        return f"{self._spec.database}/schema/{table}/"

    def work(self, works: Sequence[Work], kept: Keeper) -> Iterator[tuple[Work, Result | Waits]]:
        """Take schema files, stage data files, load them table by table."""
        staged: dict[str, list[tuple[Work, Staged]]] = {}
        with open_engine() as engine:
            for work, done in self._checked(works, kept, engine):
                if isinstance(done, Staged):
                    staged.setdefault(work.place.table, []).append((work, done))
                else:
                    yield work, done
        away: Waits | None = None
        for table, files in staged.items():
            if away is not None:
                yield from ((work, away) for work, _ in files)
                continue
            waits = None
            for work, done in self._load(table, files):
                yield work, done
                waits = done if isinstance(done, Waits) else waits
            away = waits if waits and self._warehouse().is_away() else None

    # --- checking ----------------------------------------------------------------------------------------------------

    def _checked(
        self, works: Sequence[Work], kept: Keeper, engine: duckdb.DuckDBPyConnection
    ) -> Iterator[tuple[Work, Result | Waits | Staged]]:
        """Each file after its check, in the order in which they landed, of one moment schema files first.

        A table's first schema comes before all of its files. Between two schema files several are checked at once. What
        follows a schema file that waits has to wait, too.
        """
        held: dict[str, Waits] = {}
        taken: set[str] = set()

        def take(work: Work) -> Result | Waits:
            taken.add(work.version.file_id)
            if work.place.table in held:
                return held[work.place.table]
            done: Result | Waits = refusals(work, self._store, partial(self._take_schema, work, kept))
            if isinstance(done, Waits):
                held[work.place.table] = done = replace(done, with_table=True)
            return done

        ordered = sorted(works, key=_moment)
        schemas = [work for work in ordered if work.place.is_of_schema]
        lacking = {table for table in {work.place.table for work in schemas} if self._is_new(table)}
        for work in schemas:
            if work.place.table in lacking:
                done = take(work)
                yield work, done
                if isinstance(done, Waits) or done.status == "completed":
                    lacking.discard(work.place.table)
        rest = [work for work in ordered if work.version.file_id not in taken]
        for is_schema, some in groupby(rest, key=lambda work: work.place.is_of_schema):
            if is_schema:
                yield from ((work, take(work)) for work in some)
            else:
                together = list(some)
                yield from ((work, held[work.place.table]) for work in together if work.place.table in held)
                yield from self._check_all([w for w in together if w.place.table not in held], kept, engine)

    def _is_new(self, table: str) -> bool:
        return not self._agreed.has(table.partition(".")[2])

    def _check_all(
        self, works: Sequence[Work], kept: Keeper, engine: duckdb.DuckDBPyConnection
    ) -> Iterator[tuple[Work, Result | Waits | Staged]]:
        known = cache(self._known)

        def check(work: Work) -> Result | Waits | Staged:
            return refusals(work, self._store, partial(self._check, work, kept, engine, known))

        yield from zip(works, side_by_side(check, works), strict=True)

    def _check(
        self, work: Work, kept: Keeper, engine: duckdb.DuckDBPyConnection, known: Callable[[str, str], AgreedSchema]
    ) -> Staged:
        """Stage a data file, under the schema that its table had when it landed.

        Raises:
            RefusedError: it cannot be taken.
        """
        table = self._table(work)
        if work.record.attempts > 1 and (before := staged_before(self._store, work.place, work.version)):
            return before
        schema = known(table, work.place.table).at(work.version.landed_at)
        _check_allowed(schema, work)
        reading = Reading(schema, self._spec.csv_of(table), self._spec.limit_of(table))
        with kept.content(work) as (content, digest):
            return stage(engine, self._store, work.place, work.version, content, digest, reading)

    def _table(self, work: Work) -> str:
        """The table that a key names.

        Raises:
            RefusedError: the key is not of the right form; the message says what is wrong.
        """
        database, parts = self._spec.database, _parts(work)
        form = f"Its key must be {database}/append|truncate|schema/<table>/<file>."
        if len(parts) != 4:
            raise RefusedError(f"{work.version.url} has {len(parts)} parts in its key, not 4.", form)
        if not work.version.name:
            raise RefusedError(f"{work.version.url} names no file.", form)
        if parts[1] not in ACTIONS:
            raise RefusedError(f"{work.version.url} names the unknown action '{parts[1]}'.", form)
        if not _is_name(parts[2]):
            raise RefusedError(
                f"{work.version.url} names the table '{parts[2]}', which is no name for one.",
                f"A table's name has letters, digits and _, up to {NAME_BYTES} of them, and begins with a letter.",
            )
        return parts[2].lower()

    def _known(self, table: str, name: str) -> AgreedSchema:
        """The schema of a table.

        Raises:
            RefusedError: there is none.
        """
        if agreed := self._agreed.read(table):
            return agreed
        raise RefusedError(
            f"The table {name} is unknown: it has no schema.",
            f"Drop a schema file into {self._schema_folder(table)} first, then this file again.",
        )

    # --- schemas -----------------------------------------------------------------------------------------------------

    def _take_schema(self, work: Work, kept: Keeper) -> Result:
        """Take a schema file: agree on it, and make the table in Redshift what it says.

        Raises:
            RefusedError: it is no schema, or the change would lose data.
        """
        table = self._table(work)
        if work.version.size > SCHEMA_MAX:
            raise RefusedError(f"{work.version.name} is larger than {SCHEMA_MAX:,} bytes.", "Is it a schema file?")
        with kept.content(work) as (content, digest):
            wanted = read_schema(content.read(), work.version.name)
        while True:
            held = self._agreed.read(table)
            if held and (before := held.of(work.version.file_id)):  # an earlier attempt went as far as that
                schema = before
                break
            schema = self._next_schema(table, held, wanted, work)
            self._prepare(table, schema)
            try:
                self._agreed.replace(table, schema, work.version, held)
            except ConflictError:
                continue  # another schema file was faster: look what it says
            break
        return _taken(schema, digest)

    def _next_schema(self, table: str, held: AgreedSchema | None, wanted: TableSchema, work: Work) -> TableSchema:
        if held is None:
            if table not in self._spec.tables and not self._spec.new_tables:
                raise RefusedError(
                    f"The table {work.place.table} is not named in the YAML, and new_tables is false.",
                    f"Add it below 'tables' of the drop zone {self._spec.database}.",
                )
            return wanted
        if held.landed_at > work.version.landed_at:
            raise RefusedError(
                f"{work.version.name} landed before the file that the present schema of {work.place.table} is from.",
                "Drop it again if it is meant.",
            )
        _check_allowed(held.schema, work)
        return evolve(held.schema, wanted, work.place.table)

    def _prepare(self, table: str, schema: TableSchema) -> None:
        with self._warehouse().connect() as session:
            prepare(session, self.target(table, schema), adopt=table in self._spec.tables)

    def target(self, table: str, schema: TableSchema) -> FileTarget:
        """The statements for a table."""
        columns = tuple((column.name, column.declared.name) for column in schema.columns)
        return FileTarget(self._spec.schema_name, table, columns, schema.keys, LINE)

    # --- what has taken effect ---------------------------------------------------------------------------------------

    def loaded(self, work: Work) -> Result | Waits | None:
        """The result of a file that took effect, though no report says so; None when it did not."""
        _, _, table = work.place.table.partition(".")
        agreed = self._agreed.read(table) if table else None
        if agreed is None:
            return None
        if work.place.is_of_schema:
            schema = agreed.of(work.version.file_id)
            return _taken(schema, None) if schema else None
        staged = staged_before(self._store, work.place, work.version)
        if staged is None or not is_loaded(self._warehouse(), self.target(table, agreed.schema), staged.file_id):
            return None
        [(_, done)] = self._load(work.place.table, [(work, staged)])  # which finds it in the ledger
        return done

    # --- loading -----------------------------------------------------------------------------------------------------

    def _load(self, table: str, files: Sequence[tuple[Work, Staged]]) -> Iterator[tuple[Work, Result | Waits]]:
        """Load the staged files of a table together; if they cannot be, one after the other, so that good ones are."""
        works = [work for work, _ in files]
        staged = [done for _, done in files]
        try:
            loaded = self._load_together(table, staged)
        except ConfigError:
            raise
        except TransientError as error:
            yield from ((work, Waits(error, with_table=True)) for work in works)
            return
        except PermanentError as error:
            if len(files) == 1:
                one = staged[0]
                yield works[0], Result("failed", one.read, 0, one.discarded, str(error), one.content)
                return
            for file in files:
                yield from self._load(table, [file])
            return
        for work, done in files:
            yield work, self._loaded(done, loaded)

    def _load_together(self, table: str, staged: Sequence[Staged]) -> LoadedFiles:
        agreed = self._agreed.read(table.partition(".")[2])
        if agreed is None:
            raise PermanentError(f"The schema of {table} is gone.", "Drop the schema file again.")
        target = self.target(table.partition(".")[2], agreed.schema)
        return load_files(self._warehouse(), self._store, target, staged, self._say)

    def _loaded(self, done: Staged, loaded: LoadedFiles) -> Result:
        facts: dict[str, Any] = {"rows_read": done.read, "rows_discarded": done.discarded, "content": done.content}
        details = details_of(done, self._store)
        if done.file_id in loaded.repeated:
            error = RefusedError(
                f"{done.name} was loaded already: {loaded.repeated[done.file_id]} has its name and its bytes.",
                "Drop it under another name if its rows are meant to be there twice.",
            )
            return Result.refused(error, **facts, details=details)
        if done.file_id in loaded.superseded:
            error = RefusedError(
                f"{done.name} landed before a file that has replaced the whole table.", "Drop it again if it is meant."
            )
            return Result.refused(error, **facts, details=details)
        if loaded.revived and done.action == "truncate":
            details = {**details, "came in after it": list(loaded.revived)}
        if loaded.again:
            details = {**details, "loaded again after it": list(loaded.again)}
        return Result("completed", rows_loaded=loaded.rows[done.file_id], error=done.story, details=details, **facts)


def _taken(schema: TableSchema, digest: str | None) -> Result:
    """The result of a schema file."""
    notes = [f"{name} is a reserved word of Redshift: put it in double quotes" for name in schema.reserved]
    details = {"columns": {column.name: column.type for column in schema.columns}, "notes": notes}
    return Result("completed", rows_read=0, rows_loaded=0, rows_discarded=0, content=digest, details=details)


def _check_allowed(schema: TableSchema, work: Work) -> None:
    if work.place.action not in schema.allowed_operations:
        allowed = ", ".join(schema.allowed_operations) or "nothing"
        raise RefusedError(
            f"{work.place.table} does not allow {work.place.action}; its schema allows {allowed}.",
            "Drop it under another action, or allow it in the schema file.",
        )


def _moment(work: Work) -> tuple[datetime, bool, str]:
    return work.version.landed_at, not work.place.is_of_schema, work.version.file_id


def _parts(work: Work) -> list[str]:
    return work.version.key.split("/")


def _is_name(text: str) -> bool:
    """Whether a table can be called so; Redshift would cut a longer name, and two tables might become one."""
    return re.fullmatch(NAME, text) is not None and len(text) <= NAME_BYTES
