"""A claimed file that is worked on, what may become of it, and what drop zones and feeds share in their work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeVar

import duckdb

from rds_lake.audit_log.record import Record, Status
from rds_lake.errors import ConfigError, PermanentError, RdsLakeError, TransientError
from rds_lake.files.schema import RefusedError
from rds_lake.files.stage import RefusedRowsError, Staged
from rds_lake.files.store import FileStore, VersionGoneError
from rds_lake.files.version import FileVersion, Place
from rds_lake.lake.scratch import FullDiskError

Say = Callable[[str], None]

Done = TypeVar("Done")

ATTEMPTS = 5
"""How often a file is begun; one that takes its worker down with it each time is given up."""


@dataclass(frozen=True)
class Result:
    """What became of a file.

    Attributes:
        status: how it ended.
        rows_read: its rows.
        rows_loaded: those that are in the target.
        rows_discarded: those that are in `discarded`.
        error: why it was refused, or why rows were discarded.
        content: the SHA-256 of its content.
        details: what else the report says.
    """

    status: Status
    rows_read: int | None = None
    rows_loaded: int | None = None
    rows_discarded: int | None = None
    error: str | None = None
    content: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def refused(cls, error: RdsLakeError, **facts: Any) -> "Result":  # noqa: ANN401 - as the class's own attributes
        """The result of a file that is at fault."""
        return cls("rejected", error=str(error), **{"rows_loaded": 0, **facts})


@dataclass(frozen=True)
class Work:
    """A claimed file that is worked on.

    Attributes:
        record: its record.
        version: the file.
        place: where it belongs.
        last_run: the run that worked on it before, as far as the claim says so.
        last_error: why it was put off before, likewise.
    """

    record: Record
    version: FileVersion
    place: Place
    last_run: str | None = None
    last_error: str | None = None


@dataclass(frozen=True)
class Waits:
    """A file cannot be done now, for reasons that are not its own.

    Attributes:
        error: the reason.
        with_table: whether the later files of its table have to wait, too: they need it, or would meet the same.
    """

    error: TransientError
    with_table: bool = False


def refusals(work: Work, store: FileStore, doing: Callable[[], Done]) -> Done | Result | Waits:
    """Do something with a file; when it is at fault, cannot be done, or not now, what is returned says so.

    Raises:
        ConfigError: something that all files need is not there.
    """
    try:
        return _guarded(work, doing)
    except VersionGoneError:
        error = RefusedError(
            f"{work.version.url} was deleted or replaced before it could be read.",
            "Nothing was loaded. What replaced it is handled as a file of its own.",
        )
        return Result.refused(error)
    except RefusedRowsError as error:
        done = error.staged
        facts = {"rows_read": done.read, "rows_discarded": done.discarded, "content": done.content}
        return Result.refused(error, **facts, details=details_of(done, store))
    except RefusedError as error:
        return Result.refused(error, details={"code": error.code} if error.code else {})
    except ConfigError:
        raise
    except (TransientError, FullDiskError) as error:  # where one file has no room, a smaller one may
        return Waits(TransientError(error.problem, error.remedy))
    except PermanentError as error:  # one file's trouble must not stop those that are worked on with it
        return Result("failed", rows_loaded=0, error=str(error))


def _guarded(work: Work, doing: Callable[[], Done]) -> Done | Result:
    """Do something with a file. A defect of ours that it brings to light is its result: the others go on.

    Raises:
        TransientError: the engine has no room for it.
    """
    try:
        return doing()
    except (RdsLakeError, VersionGoneError):
        raise
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise TransientError(
            f"{work.version.url} could not be checked: the engine's memory or its temporary folder is full.",
            "Free space in the temporary folder, or drop the file in parts.",
        ) from error
    except (MemoryError, OSError):  # the machine's own trouble, which the next file would meet, too
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, one file must not hold up all others again and again
        return _defect(work, error)


def _defect(work: Work, error: Exception) -> Result:
    """The result of a file whose check has failed in a way that nobody thought of. Values may be in what it says."""
    name = type(error).__name__
    trace = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
    said = PermanentError(
        f"{work.version.url}: {name} while it was checked, which is a defect of rds_lake.",
        "Report it, with 'trace' of this file's report. Other files are not held up.",
    )
    return Result("failed", rows_loaded=0, error=str(said), details={"trace": trace})


def details_of(done: Staged, store: FileStore) -> dict[str, Any]:
    """What a report says of a checked file beside its counts."""
    return {
        "reasons": dict(done.reasons),
        "cleaned": dict(done.cleaned),
        "discarded": store.url(done.discarded_key) if done.discarded_key else None,
        "staged": store.url(done.part) if done.part else None,
    }
