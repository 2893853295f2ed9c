"""What drop zones and feeds share in their work: refusals as results, and what a report says of a checked file."""

from collections.abc import Callable
from typing import Any, TypeVar

from rds_lake.errors import ConfigError, PermanentError, TransientError
from rds_lake.files.machine import Result, Work
from rds_lake.files.schema import RefusedError
from rds_lake.files.stage import RefusedRowsError, Staged
from rds_lake.files.store import FileStore, VersionGoneError
from rds_lake.lake.scratch import FullDiskError

Done = TypeVar("Done")


def refusals(work: Work, store: FileStore, doing: Callable[[], Done]) -> Done | Result:
    """Do something with a file; when it turns out to be at fault, or cannot be done, the result says so.

    Raises:
        TransientError, ConfigError: something that all files need is not there.
    """
    try:
        return doing()
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
        return Result.refused(error)
    except ConfigError:
        raise
    except FullDiskError as error:
        raise TransientError(error.problem, error.remedy) from error  # it is not the file's fault, and may pass
    except PermanentError as error:  # one file's trouble must not stop those that are worked on with it
        return Result("failed", rows_loaded=0, error=str(error))


def details_of(done: Staged, store: FileStore) -> dict[str, Any]:
    """What a report says of a checked file beside its counts."""
    return {
        "reasons": dict(done.reasons),
        "cleaned": dict(done.cleaned),
        "discarded": store.url(done.discarded_key) if done.discarded_key else None,
        "staged": store.url(done.part) if done.part else None,
    }
