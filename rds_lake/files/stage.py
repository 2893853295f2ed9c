"""Staging a file: its valid rows as Parquet in the bucket, the others in `discarded`, and a manifest of both.

The manifest is written last: where it is, the file has been checked, and whoever takes the file over goes on from
there. Its `entries` are Redshift's own COPY manifest.
"""

import json
import tempfile
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rds_lake.audit_log.record import moment_of, stamp
from rds_lake.errors import PermanentError
from rds_lake.files.check import Checker
from rds_lake.files.options import CsvOptions
from rds_lake.files.read import Texts, read_texts
from rds_lake.files.schema import LINE, RefusedError, TableSchema
from rds_lake.files.spec import Cleaning
from rds_lake.files.store import FileStore
from rds_lake.files.version import FileVersion, Outcome, Place
from rds_lake.lake.scratch import temporary_space
from rds_lake.quality.rules import engine_settings
from rds_lake.sql import literal, quote, quote_all

MANIFEST = "manifest.json"
PART = "part-00000.parquet"
DISCARDED = "discarded.parquet"
REPEATED = "key is repeated by a later row"


@dataclass(frozen=True)
class Staged:
    """A file that has been checked.

    Attributes:
        file_id: the version.
        name: what the file is called.
        url: where it was.
        landed_at: when it landed.
        content: the SHA-256 of its content.
        action: what it does.
        keys: the columns that identify a row.
        columns: names and types of the staged columns, in their order; the line comes last.
        rows: valid rows.
        discarded: rows that did not fit.
        reasons: how often each reason occurred.
        cleaned: how often each kind of value was replaced.
        first: line and reasons of the first discarded row, as text.
        part: the key of the staged rows; None when there is none.
        part_size: its bytes.
        discarded_key: the key of the discarded rows; None when there is none.
        manifest: the key of the manifest.
    """

    file_id: str
    name: str
    url: str
    landed_at: datetime
    content: str
    action: str
    keys: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    rows: int
    discarded: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    cleaned: Mapping[str, int] = field(default_factory=dict)
    first: str | None = None
    part: str | None = None
    part_size: int = 0
    discarded_key: str | None = None
    manifest: str = ""

    @property
    def read(self) -> int:
        """Rows of the file."""
        return self.rows + self.discarded

    @property
    def story(self) -> str | None:
        """What the record of a completed file says of its rows; None when all came in as they were."""
        told = (
            [f"{self.discarded:,} of {self.read:,} rows were discarded; the first: {self.first}"] if self.first else []
        )
        if self.cleaned:
            told.append("Replaced: " + ", ".join(f"{what} ({count:,})" for what, count in self.cleaned.items()))
        return ". ".join(told) or None

    @property
    def order(self) -> tuple[datetime, str]:
        """Its place among all files."""
        return self.landed_at, self.file_id

    def to_json(self, bucket: str) -> bytes:
        """The manifest as it is stored."""
        entry = {"url": f"s3://{bucket}/{self.part}", "mandatory": True, "meta": {"content_length": self.part_size}}
        facts = {**asdict(self), "landed_at": stamp(self.landed_at)}
        return json.dumps({"entries": [entry] if self.part else [], **facts}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "Staged":
        """A stored manifest.

        Raises:
            PermanentError: it is none.
        """
        try:
            data: dict[str, Any] = json.loads(content)
            del data["entries"]
            data["landed_at"] = moment_of(data["landed_at"])
            data["keys"] = tuple(data["keys"])
            data["columns"] = tuple((name, kind) for name, kind in data["columns"])
            return cls(**data)
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                f"{where} is no manifest of a staged file: {error!r}.", "Move it away; the file is then checked again."
            ) from error


@dataclass(frozen=True)
class Reading:
    """How a file is to be read and judged.

    Attributes:
        schema: the schema of its table.
        options: how its text is read.
        limit: the share of its rows that may be discarded.
        cleaning: what takes the place of missing and invalid values.
        outcome: the folder of the valid rows.
    """

    schema: TableSchema
    options: CsvOptions
    limit: float
    cleaning: tuple[Cleaning, ...] = ()
    outcome: Outcome = "staging"


def staged_before(store: FileStore, place: Place, version: FileVersion, outcome: Outcome = "staging") -> Staged | None:
    """What an earlier attempt has staged of a file, None when it did not come to its end."""
    key = place.prefix(outcome, version) + MANIFEST
    found = store.ours.get(key)
    return Staged.from_json(found[0], store.url(key)) if found else None


@contextmanager
def open_engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """The engine that files are checked with; each check takes a cursor of it, several may at once."""
    with (
        tempfile.TemporaryDirectory(prefix="rds_lake_") as folder,
        duckdb.connect(config=engine_settings(folder)) as engine,
    ):
        yield engine


def stage(
    engine: duckdb.DuckDBPyConnection,
    store: FileStore,
    place: Place,
    version: FileVersion,
    content: IO[bytes],
    digest: str,
    reading: Reading,
) -> Staged:
    """Check a file and write its rows, good and bad ones, into the bucket.

    Args:
        engine: of `open_engine`.
        store: the bucket.
        place: where the file belongs.
        version: the file.
        content: its content, from its start.
        digest: its SHA-256.
        reading: how it is to be read and judged.

    Raises:
        RefusedError: it cannot be taken. Bad rows lie in `discarded` all the same.
    """
    draft = Staged(
        file_id=version.file_id,
        name=version.name,
        url=version.url,
        landed_at=version.landed_at,
        content=digest,
        action=place.action,
        keys=reading.schema.keys,
        columns=tuple((column.name, column.declared.name) for column in reading.schema.columns),
        rows=0,
        discarded=0,
    )
    with tempfile.TemporaryDirectory(prefix="rds_lake_") as folder, temporary_space():
        staging = _Staging(engine, Path(folder), version, reading)
        done = staging.take(content, draft)
        bad = place.prefix("discarded", version) + DISCARDED
        if done.discarded:
            _send(store, bad, staging.discarded_path)
            done = replace(done, discarded_key=bad)
        _check_share(done, reading.limit)
        prefix = place.prefix(reading.outcome, version)
        if done.rows:
            _send(store, prefix + PART, staging.valid_path)
            done = replace(done, part=prefix + PART, part_size=staging.valid_path.stat().st_size)
    done = replace(done, manifest=prefix + MANIFEST)
    store.ours.put(done.manifest, done.to_json(store.bucket))
    return done


def _send(store: FileStore, key: str, path: Path) -> None:
    with path.open("rb") as content:
        store.ours.upload(key, content, path.stat().st_size)


class RefusedRowsError(RefusedError):
    """Too many rows of a file do not fit.

    Attributes:
        staged: what was counted.
    """

    def __init__(self, problem: str, remedy: str, staged: Staged) -> None:
        super().__init__(problem, remedy)
        self.staged = staged


def _check_share(done: Staged, limit: float) -> None:
    """Refuse a file without rows, or with too many bad ones.

    Raises:
        RefusedError: it is one.
    """
    if not done.read:
        raise RefusedError(f"{done.name} has no rows, only a header.", "Drop a file with rows.")
    share = Decimal(str(limit))  # 29 of 100 are 0.29, which 0.29 * 100 as floats is not
    is_too_much = done.discarded > share * done.read
    if is_too_much or not done.rows:
        why = f"more than the {limit * 100:g}% that may be discarded" if is_too_much else "so there is none to load"
        raise RefusedRowsError(
            f"{done.discarded:,} of {done.read:,} rows of {done.name} do not fit, {why}. The first: {done.first}.",
            "Correct the file, or the schema; all such rows lie in discarded/ with their reasons.",
            done,
        )


class _Staging:
    """The rows of one file on their way, in temporary files."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, folder: Path, version: FileVersion, reading: Reading) -> None:
        self._engine = engine
        self._folder = folder
        self._version = version
        self._reading = reading
        self.valid_path = folder / "valid.parquet"
        self.discarded_path = folder / "discarded.parquet"

    def take(self, content: IO[bytes], draft: Staged) -> Staged:
        """Read, check and write all rows; the counts."""
        reading, version = self._reading, self._version
        reasons: Counter[str] = Counter()
        cleaned: Counter[str] = Counter()
        rows = bad = 0
        first: tuple[int, str] | None = None
        with self._engine.cursor() as engine:
            checker = Checker(engine, reading.schema, reading.options, version.name, reading.cleaning)
            with (
                pq.ParquetWriter(self.valid_path, checker.valid_schema) as valid,
                pq.ParquetWriter(self.discarded_path, checker.discarded_schema) as discarded,
            ):
                for texts in self._texts(content):
                    found = checker.check(texts)
                    _write(valid, found.valid)
                    _write(discarded, found.discarded)
                    rows, bad = rows + found.valid.num_rows, bad + found.discarded.num_rows
                    reasons.update(found.reasons)
                    cleaned.update(found.cleaned)
                    first = first or found.first
            if reading.schema.keys and (repeated := self._repeated(engine)):
                moved = self._move(content, checker, repeated)
                rows, bad = rows - moved, bad + moved
                reasons[REPEATED] += moved
                first = min(first or (repeated[0], REPEATED), (repeated[0], REPEATED))
        return replace(
            draft,
            rows=rows,
            discarded=bad,
            reasons=dict(sorted(reasons.items())),
            cleaned=dict(sorted(cleaned.items())),
            first=f"line {first[0]:,}: {first[1]}" if first else None,
        )

    def _texts(self, content: IO[bytes]) -> Iterator[Texts]:
        version, reading = self._version, self._reading
        return read_texts(content, version.name, version.size, reading.schema, reading.options)

    def _repeated(self, engine: duckdb.DuckDBPyConnection) -> list[int]:
        """The lines of rows whose key comes again on a later line."""
        keys, file = quote_all(list(self._reading.schema.keys)), f"read_parquet({literal(str(self.valid_path))})"
        twice = f"SELECT {keys} FROM {file} GROUP BY ALL HAVING COUNT(*) > 1"
        if not engine.sql(f"SELECT 1 FROM ({twice}) LIMIT 1").fetchall():
            return []
        ranked = (
            f"SELECT {quote(LINE)} FROM {file} QUALIFY ROW_NUMBER() OVER "
            f"(PARTITION BY {keys} ORDER BY {quote(LINE)} DESC) > 1"
        )
        return [line for (line,) in engine.sql(f"SELECT * FROM ({ranked}) ORDER BY 1").fetchall()]

    def _move(self, content: IO[bytes], checker: Checker, lines: Sequence[int]) -> int:
        """Move rows from the valid ones to the discarded ones; how many.

        They are read again, as their values do not tell how they were written; some at a time, for they may be long.
        """
        valid, bad = (self._folder / name for name in ("valid2.parquet", "discarded2.parquet"))
        with (
            pq.ParquetWriter(valid, checker.valid_schema) as kept,
            pq.ParquetWriter(bad, checker.discarded_schema) as discarded,
        ):
            for rows in _row_groups(self.discarded_path):
                discarded.write_table(rows)
            for rows in _row_groups(self.valid_path):
                _write(kept, rows.filter(pa.compute.invert(_are_of(rows, lines))))
            content.seek(0)
            for texts in self._texts(content):
                moved = replace(texts, rows=texts.rows.filter(_are_of(texts.rows, lines)))
                if moved.rows.num_rows:
                    _write(discarded, checker.discard(moved, REPEATED))
        self.valid_path, self.discarded_path = valid, bad
        return len(lines)


def _are_of(rows: pa.Table, lines: Sequence[int]) -> pa.ChunkedArray:
    """Which rows are of some lines, which are in their order."""
    found = rows.column(LINE)
    ends = pa.compute.min_max(found).as_py()
    if ends["min"] is None:
        return pa.compute.is_null(found)
    some = lines[bisect_left(lines, ends["min"]) : bisect_right(lines, ends["max"])]
    return pa.compute.is_in(found, pa.array(some, pa.int64()))


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        yield from (file.read_row_group(number) for number in range(file.num_row_groups))


def _write(writer: pq.ParquetWriter, rows: pa.RecordBatch | pa.Table) -> None:
    if rows.num_rows:
        writer.write(rows)
