"""Processes that do a sync, or handle dropped files, and are stopped, held or watched at any of their calls.

The calls are found by recording, not listed by hand: every request to AWS, every command of the MySQL driver and
every statement of the warehouse's driver passes through a counter. A job can be told to be killed (SIGKILL) right
before its k-th call, or right after the server has answered it and before the answer is used; or to wait there.

A server process imports everything once and forks a child for each job, so that a run costs what it does and no more.
It is this file itself, run as a program; it speaks JSON lines. `Workers` is its client.
"""

import contextlib
import importlib
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

SCRATCH = "scratch"
"""The jobs' folder for temporary files, in the folder of their records."""

CONDITION_FAILED = {409, 412}
"""What S3 answers to a conditional PUT of something that another one wrote first."""

PAUSE = 0.005
PATIENCE = 240
"""Seconds after which a call that waits for another process gives up: the test has failed by then."""


@dataclass(frozen=True)
class Job:
    """What one process shall do.

    Attributes:
        environ: the variables of the product.
        spec: the table's YAML; or that of a drop zone or feed.
        stages: None for a sync; else the assets that are materialised, as a run from the UI would.
        partitions: first and last partition of such a run.
        kill: the number of the call at which the process dies, from 1; 0 for never.
        side: `before` the call is made, or `after` it was answered.
        hold: a pattern; the first call whose name it matches, and every other one, waits for the file `go`.
        hold_at: the same by the call's number.
        patch: values of modules, as `module:NAME` or `module:Class.NAME`.
        timeout: seconds after which a request to AWS has failed, so that a test of it does not take minutes.
        receiver: `zone` or `feed` for a job that handles dropped files; empty for one that syncs a table.
        queue: the queue of its events; without one it lists only.
        lease: seconds for which its claims are good.
    """

    environ: Mapping[str, str]
    spec: Mapping[str, Any]
    stages: Sequence[str] | None = None
    partitions: Sequence[str] = ()
    kill: int = 0
    side: str = "before"
    hold: str = ""
    hold_at: int = 0
    patch: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 0
    receiver: str = ""
    queue: str = ""
    lease: float = 300


@dataclass(frozen=True)
class Done:
    """How a job ended.

    Attributes:
        killed: whether it was killed.
        calls: the names of the calls that it began, in order.
        refused: the names of those that S3 refused because another process had been there first.
        result: what the sync says of itself; None when it was killed or raised an error.
        error: the error that it raised.
    """

    killed: bool
    calls: tuple[str, ...]
    refused: tuple[str, ...]
    result: Mapping[str, Any] | None
    error: str

    @property
    def ok(self) -> bool:
        """Whether the sync, or the run, did all that there was to do."""
        return self.result is not None and bool(self.result["ok"])

    @property
    def said(self) -> str:
        """What went wrong, in its own words."""
        return self.error if self.result is None else str(self.result["error"] or "")

    @property
    def writes(self) -> list[str]:
        """The calls that change something."""
        return [name for name in self.calls if WRITING.match(name)]


WRITING = re.compile(
    r"s3\.(Put|Delete|Copy|Upload|Create|Complete)|glue\.(Create|Update|Delete|Batch)|"
    r"(mysql|warehouse) (INSERT|UPDATE|DELETE|CREATE|COPY|ALTER|DROP|LOCK)"
)


# --- the client ----------------------------------------------------------------------------------------------------


class Worker:
    """A job under way."""

    def __init__(self, workers: "Workers", pid: int, folder: Path) -> None:
        self._workers = workers
        self.pid = pid
        self.folder = folder

    def wait(self) -> Done:
        """Wait until it has ended."""
        code = self._workers.ask({"wait": self.pid})["code"]
        result, error = self.folder / "result", self.folder / "error"
        killed = code == -signal.SIGKILL
        if not killed and not result.exists() and not error.exists():
            raise AssertionError(f"a job ended with {code}: {(self.folder / 'output').read_text(encoding='utf-8')}")
        return Done(
            killed=killed,
            calls=self.lines("calls"),
            refused=self.lines("refused"),
            result=json.loads(result.read_text(encoding="utf-8")) if result.exists() and not killed else None,
            error=error.read_text(encoding="utf-8") if error.exists() else "",
        )

    def lines(self, name: str) -> tuple[str, ...]:
        """What it has recorded so far under a name: `calls`, `refused`, and the numbers of the calls `answered`."""
        path = self.folder / name
        return tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()

    def held(self) -> bool:
        """Wait until it waits at its call; False when it has ended without coming there."""
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "held").exists():
            assert time.monotonic() < deadline, "the call was never made"
            if (self.folder / "ended").exists():
                return False
            time.sleep(PAUSE)
        return True

    @property
    def ended(self) -> bool:
        """Whether it has come to its end by itself."""
        return (self.folder / "ended").exists()

    def go(self) -> None:
        """Let it go on."""
        (self.folder / "go").touch()


class Workers:
    """The server process and its jobs.

    Args:
        folder: where the jobs' records are kept.
        wrap: words of a command before the server's own, such as one that gives it other mounts.
    """

    def __init__(self, folder: Path, wrap: Sequence[str] = ()) -> None:
        self._folder = folder
        self._number = 0
        scratch = folder / SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        self._server = subprocess.Popen(
            [*wrap, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},  # what a killed process leaves there goes with the test
        )
        self._talking = threading.Lock()

    def ask(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request to the server and wait for its answer."""
        assert self._server.stdin
        assert self._server.stdout
        with self._talking:
            self._server.stdin.write(json.dumps(words) + "\n")
            self._server.stdin.flush()
            line = self._server.stdout.readline()
        assert line, "the server of the jobs has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, job: Job) -> Worker:
        """Begin a job."""
        self._number += 1
        folder = self._folder / f"job{self._number}"
        folder.mkdir(parents=True)
        answer = self.ask({"start": asdict(job), "folder": str(folder)})
        return Worker(self, answer["pid"], folder)

    def run(self, job: Job) -> Done:
        """Do a job to its end."""
        return self.start(job).wait()

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


@contextmanager
def workers(folder: Path, wrap: Sequence[str] = ()) -> Iterator[Workers]:
    """A server of jobs, ended at the end."""
    made = Workers(folder, wrap)
    try:
        yield made
    finally:
        made.close()


# --- the child: counting, killing, holding -------------------------------------------------------------------------


class Gate:
    """Where every call to the outside passes."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._lock = threading.RLock()
        self._count = 0
        self._was_held = False
        self._calls, self._answered = (
            os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("calls", "answered")
        )

    def enter(self, name: str) -> int:
        """Count a call that is about to be made; its number."""
        with self._lock:
            if self._job.kill == self._count + 1 and self._job.side == "before":
                _die()
            self._count += 1
            os.write(self._calls, f"{name}\n".encode())
            if not self._was_held and (
                self._job.hold_at == self._count or (self._job.hold and re.search(self._job.hold, name))
            ):
                self._was_held = True
                (self._folder / "held").touch()
                _wait_for(self._folder / "go")  # under the lock: nobody else passes either
            return self._count

    def refuse(self, name: str, status: int) -> None:
        """S3 did not do what was asked; a condition that did not hold is recorded."""
        if status in CONDITION_FAILED:
            with (self._folder / "refused").open("a", encoding="utf-8") as refused:
                refused.write(f"{name}\n")

    def leave(self, number: int) -> None:
        """The server has answered a call."""
        os.write(self._answered, f"{number}\n".encode())
        if self._job.kill == number and self._job.side == "after":
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(PAUSE)


def watch(gate: Gate) -> None:
    """Have every call to AWS, to MySQL and to the warehouse pass through the gate, for the rest of this process."""
    _watch_aws(gate)
    _watch_s3(gate)
    _watch_mysql(gate)
    _watch_warehouse(gate)


def _watch_aws(gate: Gate) -> None:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

    plain = BaseClient._make_api_call

    def call(self: Any, operation: str, given: dict[str, Any]) -> Any:
        name = _aws_name(self.meta.service_model.service_name, operation, given)
        number = gate.enter(name)
        try:
            return plain(self, operation, given)
        except ClientError as error:
            gate.refuse(name, error.response["ResponseMetadata"]["HTTPStatusCode"])
            raise
        finally:  # a refusal is an answer too
            gate.leave(number)

    BaseClient._make_api_call = call


def _watch_s3(gate: Gate) -> None:
    """Have the functions of obstore pass through the gate; they are called what S3 calls them."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    def watched(plain: Callable[..., Any], operation: str) -> Callable[..., Any]:
        def call(store: Any, thing: Any = "", *words: Any, **more: Any) -> Any:
            written = words[0] if operation == "CopyObject" else thing
            name = _aws_name("s3", operation, {"Key": written if isinstance(written, str) else written[0]})
            number = gate.enter(name)
            try:
                return plain(store, thing, *words, **more)
            except (AlreadyExistsError, PreconditionError):
                gate.refuse(name, min(CONDITION_FAILED))
                raise
            finally:  # a refusal is an answer too
                gate.leave(number)

        return call

    def listing(store: Any, prefix: str, **more: Any) -> Iterator[Any]:
        number = gate.enter(_aws_name("s3", "ListObjectsV2", {"Prefix": prefix}))
        for some in listed(store, prefix, **more):
            gate.leave(number)
            yield some

    class Written:
        """What is written in parts: the object is there when it is closed."""

        def __init__(self, parts: Any, key: str) -> None:
            self._parts, self._key = parts, key
            self.write = parts.write

        def close(self) -> None:
            number = gate.enter(_aws_name("s3", "CompleteMultipartUpload", {"Key": self._key}))
            self._parts.close()
            gate.leave(number)

    listed, plain_writer = obstore.list, obstore.open_writer
    obstore.list = listing
    obstore.open_writer = lambda store, key, **more: Written(plain_writer(store, key, **more), key)
    for name, operation in {
        "get": "GetObject",
        "get_range": "GetObject",
        "put": "PutObject",
        "head": "HeadObject",
        "copy": "CopyObject",
        "delete": "DeleteObjects",
        "list_with_delimiter": "ListObjectsV2",
    }.items():
        setattr(obstore, name, watched(getattr(obstore, name), operation))


def _aws_name(service: str, operation: str, given: Mapping[str, Any]) -> str:
    key = given.get("Key") if isinstance(given.get("Key"), str) else None  # DynamoDB's are none
    thing = key or given.get("Prefix") or given.get("TableName") or given.get("Name") or ""
    if not thing and "Delete" in given:
        thing = given["Delete"]["Objects"][0]["Key"]
    return f"{service}.{operation} {re.sub(r'batch=[^/]+', 'batch=*', str(thing))}"


def _watch_mysql(gate: Gate) -> None:
    from pymysql.connections import Connection

    connect, execute = Connection.connect, Connection._execute_command

    def connecting(self: Any, sock: Any = None) -> None:
        number = gate.enter("mysql connect")
        connect(self, sock)
        gate.leave(number)

    def executing(self: Any, command: int, sql: Any) -> None:
        text = sql.decode(errors="replace") if isinstance(sql, bytes | bytearray) else str(sql)
        number = gate.enter("mysql " + (" ".join(text.split())[:90] or f"command {command}"))
        execute(self, command, sql)
        if gate._job.kill == number and gate._job.side == "after" and self._sock:
            select.select([self._sock], [], [], 10)  # the server has answered, and nobody has read it
        gate.leave(number)

    Connection.connect, Connection._execute_command = connecting, executing


def _watch_warehouse(gate: Gate) -> None:
    import psycopg2
    from psycopg2 import extensions

    plain = psycopg2.connect

    class Cursor(extensions.cursor):
        def execute(self, text: Any, given: Any = None) -> None:
            number = gate.enter("warehouse " + " ".join(str(text).split())[:90])
            super().execute(text, given)
            gate.leave(number)

        def copy_expert(self, text: Any, file: Any, *words: Any) -> None:
            number = gate.enter("warehouse " + " ".join(str(text).split())[:90])
            super().copy_expert(text, file, *words)
            gate.leave(number)

    class Connection(extensions.connection):
        def commit(self) -> None:
            number = gate.enter("warehouse commit")
            super().commit()
            gate.leave(number)

        def close(self) -> None:
            number = gate.enter("warehouse close")
            super().close()
            gate.leave(number)

    def connect(*words: Any, **more: Any) -> Any:
        number = gate.enter("warehouse connect")
        made = plain(*words, connection_factory=Connection, cursor_factory=Cursor, **more)
        gate.leave(number)
        return made

    psycopg2.connect = connect


# --- the child: the job --------------------------------------------------------------------------------------------

_prepared: dict[str, Any] = {}


def prepared(spec: Mapping[str, Any]) -> Any:
    """The code location of one table, made once."""
    import dagster as dg

    from rds_lake.components.table_pipeline import table_definitions
    from rds_lake.resources.services import build_resources
    from rds_lake.spec import TableSpec

    text = json.dumps(spec, sort_keys=True)
    if text not in _prepared:
        made = dg.Definitions.merge(
            table_definitions(TableSpec.model_validate(spec)),
            dg.Definitions(resources=build_resources(), executor=dg.in_process_executor),
        )
        made.resolve_implicit_global_asset_job_def()
        _prepared[text] = made
    return _prepared[text]


def perform(job: Job, definitions: Any) -> dict[str, Any]:
    """What the command does for one table; or a run of some assets, as the UI would start it."""
    import dagster as dg
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

    from rds_lake.spec import TableSpec
    from rds_lake.sync import Sync, end_dead_runs, open_instance

    spec = TableSpec.model_validate(job.spec)
    with open_instance() as instance:
        if job.stages is None:
            end_dead_runs(instance)
            return _told(Sync(definitions, instance).table(spec))
        keys = {dg.AssetKey(f"{spec.table}_{stage}") for stage in job.stages}
        run = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
        tags = {}
        if job.partitions:
            first, last = job.partitions
            tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        done = run.execute_in_process(run_config=quiet, instance=instance, tags=tags, raise_on_error=False)
        failed = [event.step_failure_data for event in done.get_step_failure_events()]
        said = [data.user_failure_data.description or "" for data in failed if data.user_failure_data]
        said += [str(data.error) for data in failed if not data.user_failure_data]
        retried = len([event for event in done.all_events if event.is_step_up_for_retry])
        return {"ok": done.success, "error": "; ".join(said) or None, "retried": retried}


def _told(result: Any) -> dict[str, Any]:
    return {**asdict(result), "ok": result.ok}


def handle_files(job: Job) -> dict[str, Any]:
    """What the sensors of a drop zone or feed and the run that they ask for do, once: notice, claim, handle."""
    from rds_lake.assets.files import claim_of, claim_text, claim_waiting
    from rds_lake.audit_log.log import AuditLog
    from rds_lake.files.events import take_events
    from rds_lake.files.machine import Machine
    from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
    from rds_lake.resources.files import FilesResource
    from rds_lake.resources.services import aws_client

    files = FilesResource()
    spec = (DropZoneSpec if job.receiver == "zone" else FileFeedSpec).model_validate(job.spec)
    log = AuditLog(aws_client("dynamodb"), job.environ["RDS_LAKE_AUDIT_TABLE"], timedelta(seconds=job.lease))
    receiver = files.receiver(spec)
    claimed = list(take_events(files.queue(job.queue), receiver, log).claimed) if job.queue else []
    claimed += claim_waiting(receiver, log)
    claimed = [claim_of(claim_text(record)) for record in claimed]  # through the configuration of a run
    handled = Machine(receiver, log, f"run-{os.getpid()}").run(claimed)
    ended = {record.file_id: result.status for record, result in handled}
    return {"ok": True, "error": None, "claimed": [record.file_id for record in claimed], "ended": ended}


def _child(job: Job, folder: Path) -> None:
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(job.environ)
    for place, value in job.patch.items():
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        setattr(reduce(getattr, owners, importlib.import_module(module)), name, value)
    if job.timeout:
        _shorten_timeouts(job.timeout)
    try:
        definitions = None if job.receiver else prepared(job.spec)
        watch(Gate(job, folder))
        told = handle_files(job) if job.receiver else perform(job, definitions)
        (folder / "result").write_text(json.dumps(told), encoding="utf-8")
    except BaseException as error:  # noqa: BLE001 - the edge of a process, which tells it to the one that started it
        traceback.print_exc()
        (folder / "error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            sys.stdout.flush()
        (folder / "ended").touch()
        os._exit(0)


def _shorten_timeouts(seconds: float) -> None:
    """Let a request of AWS fail after fewer seconds, and be sent again soon."""
    from botocore.config import Config

    from rds_lake.lake import s3
    from rds_lake.resources import services

    s3.PATIENCE = timedelta(seconds=seconds)
    s3.MOST_PAUSE = timedelta(seconds=0.2)
    made = services._session

    def hasty() -> Any:
        session = made()
        session._session.set_default_client_config(Config(read_timeout=seconds, connect_timeout=seconds))
        return session

    services._session = hasty


def _serve() -> None:
    _warm_up()
    answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"start": _start, "wait": _wait}
    for line in sys.stdin:
        words = json.loads(line)
        answer = answers["start" if "start" in words else "wait"](words)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _warm_up() -> None:
    """Import, before the forks, what a job would import first: a second for each of them."""
    import dagster._core.execution.execute_in_process  # noqa: F401
    import duckdb  # noqa: F401
    import pandas as pd  # noqa: F401 - pyarrow looks for it
    import pyarrow.dataset  # noqa: F401
    import rich.console  # noqa: F401 - Dagster's log
    from pipeline import write_dagster_home

    from rds_lake.event_log import open_dagster_instance

    beside = Path(tempfile.gettempdir()).parent  # the jobs' temporary folder itself may be a small disk
    with tempfile.TemporaryDirectory(dir=beside) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(write_dagster_home(Path(folder) / "dagster")))
        with open_dagster_instance():
            pass


def _warm_up_files(environ: Mapping[str, str]) -> None:
    """Import, before the forks, what a job of dropped files would, and read what botocore reads: half a second each."""
    importlib.import_module("rds_lake.assets.files")
    from rds_lake.resources.services import aws_client

    with pytest.MonkeyPatch.context() as patch:
        for name in (name for name in environ if name.startswith("AWS_")):
            patch.setenv(name, environ[name])
        for service in ("s3", "sqs", "dynamodb"):
            aws_client(service)


def _start(words: dict[str, Any]) -> dict[str, Any]:
    job = Job(**words["start"])
    if job.receiver:
        _warm_up_files(job.environ)
    else:
        prepared(job.spec)
    assert threading.active_count() == 1, "a fork of a process with threads would be another process"
    child = os.fork()
    if not child:
        _child(job, Path(words["folder"]))
    return {"pid": child}


def _wait(words: dict[str, Any]) -> dict[str, Any]:
    _, status = os.waitpid(words["wait"], 0)
    return {"code": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    _serve()
