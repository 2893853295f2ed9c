"""Servers that fail in the middle of a sync: S3 on a bad day, each server killed and restarted, a full disk."""

import io
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from faults import CLIENT_PATIENCE, At, Sometimes, bad_day
from figures import FIGURES
from kill_harness import SCRATCH, Workers, workers
from pipeline import World, make_world, order_rows, write_dagster_home
from rooms import open_store
from scenes import job_of, valid_status
from witness import Content, Subject, Watch, judge

from rds_lake.errors import TransientError
from rds_lake.lake import s3
from rds_lake.lake.aws import ConflictError
from rds_lake.lake.store import ObjectStore
from rds_lake.local import stack as local_stack
from rds_lake.resources.services import LakeResource

pytestmark = pytest.mark.stack


# --- S3 on a bad day ---------------------------------------------------------------------------------------------


def lake_through(world: World, address: str) -> ObjectStore:
    """The lake's bucket behind a proxy, for a client that soon loses patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "PATIENCE", timedelta(seconds=CLIENT_PATIENCE))
        return open_store({**world.environ, "AWS_ENDPOINT_URL": address}, world.bucket)


@pytest.mark.parametrize("kind", ["swallowed", "late"])
@pytest.mark.parametrize("before", [None, b"old"], ids=["first", "later"])
def test_a_conditional_write_whose_answer_was_lost_has_won(world: World, kind: str, before: bytes | None) -> None:
    key = f"lost/_manifests/{kind}{before}.json"
    store = LakeResource().store()
    etag = store.put_if(key, before, etag=None) if before else None
    with bad_day(world.environ["AWS_ENDPOINT_URL"], At("^PUT ", [kind])) as (address, day):
        written = lake_through(world, address).put_if(key, b"new", etag=etag)
    assert (day.done[kind], day.done["passed on"]) == (1, 2), "sent again, refused, and read back"
    assert store.get(key) == (b"new", written)


def test_a_conditional_write_that_another_run_won_has_lost_even_when_the_answer_was_lost(world: World) -> None:
    key = "lost/_manifests/other.json"
    world.put(key, b"the other's")
    with bad_day(world.environ["AWS_ENDPOINT_URL"], At("^PUT ", ["swallowed"])) as (address, day):
        store = lake_through(world, address)
        with pytest.raises(ConflictError, match="was changed by another run while this one was working"):
            store.put_if(key, b"mine", etag=None)
    assert day.done["swallowed"] == 1
    assert world.get(key) == b"the other's"


def test_an_object_whose_sending_breaks_off_is_read_again(world: World) -> None:
    key, content = "torn/part-00000.parquet", bytes(range(256)) * 8000
    world.put(key, content)
    with bad_day(world.environ["AWS_ENDPOINT_URL"], At("^GET ", ["torn"] * 2)) as (address, day):
        target = io.BytesIO()
        lake_through(world, address).download(key, target, len(content))
    assert (day.done["torn"], target.getvalue() == content) == (2, True)
    always = At("^GET ", ["torn"] * 9)
    with (
        bad_day(world.environ["AWS_ENDPOINT_URL"], always) as (address, day),
        pytest.raises(TransientError, match="Try again"),
    ):
        lake_through(world, address).get(key)
    assert day.done["torn"] == s3.ATTEMPTS


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_syncs_over_a_bad_network_lose_and_double_nothing(
    world: World, crew: Workers, seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    spec = world.orders(f"weather{seed}", rows=order_rows(40, 2))
    job = replace(job_of(world, spec, tmp_path / "dagster"), timeout=CLIENT_PATIENCE)
    subject = Subject(world, spec, valid_status)
    before: Content = {}
    tried = 0
    with bad_day(world.environ["AWS_ENDPOINT_URL"], Sometimes(seed, 0.1)) as (address, day):
        bad = replace(job, environ={**job.environ, "AWS_ENDPOINT_URL": address})
        for change in ("SELECT 1", f"DELETE FROM {spec.source_name} WHERE order_id = 5"):
            world.ask(change)
            after = subject.wanted()
            with Watch(subject, before, after).on() as watch:
                tries = [crew.run(bad)]
                while not tries[-1].ok and len(tries) < 5:
                    assert tries[-1].said, "an error says what it is"
                    tries.append(crew.run(bad))
            assert tries[-1].ok, tries[-1].said
            tried += len(tries)
            found = judge(subject)
            assert (found.lost, found.doubled, found.problems) == (0, 0, [])
            assert watch.violations == []
            before = after
        faults = dict(day.done)
    idle = crew.run(job)
    assert (idle.ok, idle.writes) == (True, [])
    record_property(FIGURES, f"bad network, seed {seed}: {faults}, syncs tried {tried}")


# --- servers that die ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    """A stack of its own, whose servers can be killed without harm to other tests."""
    home = tmp_path_factory.mktemp("fragile") / "home"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RDS_LAKE_SOURCE_URL", raising=False)  # another world's, which would be used instead
            running = local_stack.up(home, ui=False)
        with make_world(running) as made:
            yield home, made
    finally:
        local_stack.down(home)


UNREACHABLE = re.compile(
    r"'rds-lake status' shows the local (one|stack)\.$|^Asking AWS for .* Try again\.$|^AWS refused .* Try again\.$"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "at"),
    [
        ("mysql", "mysql SELECT `order_id`"),
        ("aws", r"s3\.PutObject \w+/_manifests/staging"),
        ("postgres", r"warehouse COPY \"public\""),
        ("warehouse", "warehouse COMMIT"),
    ],
)
def test_a_server_that_is_killed_in_the_middle_of_a_sync(
    fragile: tuple[Path, World],
    crew: Workers,
    service: str,
    at: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, world = fragile
    for name, value in world.environ.items():  # another world's variables would name another source
        monkeypatch.setenv(name, value)
    spec = world.orders(f"dies_{service}", rows=order_rows(40, 2))
    job = job_of(world, spec, tmp_path / "dagster")
    subject = Subject(world, spec, valid_status)
    held = crew.start(replace(job, hold=at))
    assert held.held()
    old = local_stack.kill_service(home, service)
    held.go()
    first = held.wait()
    assert first.ok or UNREACHABLE.search(first.said), first.said
    local_stack.wait_for_service(home, service, other_than=old)
    second = crew.run(job)
    assert second.ok, second.said
    assert judge(subject).problems == []
    idle = crew.run(job)
    assert (idle.ok, idle.writes) == (True, [])


# --- a full disk ---------------------------------------------------------------------------------------------------

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$0" && cp -r "$2"/. "$0" && shift 2 && exec "$@"'


def with_small_disk(folder: Path, size: str, content: Path) -> list[str]:
    """Words before a command that give it a small disk of its own at a folder, with some files on it."""
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(folder), size, str(content)]
    try:
        tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"this system has no unshare: {error}")
    if tried.returncode:
        pytest.skip(f"this system lets us mount nothing: {tried.stderr.strip()}")
    return words


@pytest.mark.slow
def test_a_full_temporary_folder_in_the_middle_of_a_sync(world: World, crew: Workers, tmp_path: Path) -> None:
    folder, empty = tmp_path / "jobs" / SCRATCH, tmp_path / "empty"
    folder.mkdir(parents=True)
    empty.mkdir()
    noise = random.Random(1)
    rows = [(number, moment, who, noise.randbytes(12).hex()) for number, moment, who, _ in order_rows(4000, 2)]
    spec = world.orders("spooled", rows=rows, rules=[])
    job = job_of(world, spec, tmp_path / "dagster")
    spooling = replace(job, patch={**job.patch, "rds_lake.lake.scratch:SPOOL_BYTES": 1000})
    with workers(tmp_path / "jobs", with_small_disk(folder, "48k", empty)) as cramped:
        full = cramped.run(spooling)
    assert (full.ok, full.said) == (
        False,
        f"The temporary folder {folder} is full. Free space there, or set TMPDIR to a folder with more.",
    )
    assert world.query("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'spooled'") == [(0,)]
    healed = crew.run(spooling)
    assert healed.ok, healed.said
    assert judge(Subject(world, spec, lambda _: True)).problems == []


@pytest.mark.slow
def test_a_full_dagster_home_in_the_middle_of_a_sync(world: World, crew: Workers, tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    spec = world.orders("recorded", rows=order_rows(40, 2))
    job = job_of(world, spec, home)
    disk = with_small_disk(home, "8m", write_dagster_home(tmp_path / "template"))
    with workers(tmp_path / "jobs", disk) as cramped:
        held = cramped.start(replace(job, hold="s3.PutObject recorded/_manifests/staging"))
        assert held.held()
        fill(Path(f"/proc/{held.pid}/root{home}/filler"))
        held.go()
        full = held.wait()
    assert not full.ok
    assert re.fullmatch(
        rf"Dagster's records in DAGSTER_HOME \({home}\) cannot be written: (database or disk is full|disk I/O error|No "
        r"space left on device)\. Free space on its disk, then sync again: it goes on where this one stopped\.",
        full.said,
    )
    healed = crew.run(job)
    assert healed.ok, healed.said
    assert judge(Subject(world, spec, valid_status)).problems == []


def fill(file: Path) -> None:
    """Write until nothing more fits."""
    with file.open("wb", buffering=0) as sink, suppress(OSError):
        while True:
            sink.write(bytes(4096))
