"""The heartbeat: files that are worked on keep their leases, however long the work takes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread

from rds_lake.audit_log.log import AuditLog
from rds_lake.errors import RdsLakeError
from rds_lake.files.work import Work


@contextmanager
def heartbeat(log: AuditLog, works: Mapping[str, Work]) -> Iterator[None]:
    """Extend the leases of files for as long as the block runs.

    Args:
        log: the audit log.
        works: the files, as they are at each beat.
    """
    done = Event()

    def beat() -> None:
        while not done.wait(log.lease.total_seconds() / 3):
            for work in list(works.values()):
                try:
                    log.extend(work.record)
                except RdsLakeError:
                    continue  # whoever settles the file finds out; the next beat may get through

    thread = Thread(target=beat, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
