"""What a `rds-lake sync` spends its time on from the start of its process: with no change, and with one changed row.

`python benchmarks/startup.py` starts a stack of its own with the demo's tables (`--rows N`: that many orders), brings
them in step once, then syncs again in processes of their own, the two cases in turn. It prints medians of processor
and clock milliseconds by phase. An import is counted as one wherever it happens, and not to the phase around it; what
runs side by side counts in each phase's clock, so phases may add up to more than the whole.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rds_lake.extract.fence import SKEW
from rds_lake.extract.source import Source
from rds_lake.local import demo_data
from rds_lake.local import stack as local_stack
from rds_lake.settings import parse_database_url

ROUNDS = 5
FENCE_SECONDS = SKEW.total_seconds() + 2
"""How long a row waits until a sync takes it."""

CASES = {"no change": False, "one changed row": True}
PHASES = ("imports", "definitions", "instance", "observation", "records", "run", "the rest", "the whole process")

PROCESS = """
import importlib._bootstrap as machinery, json, sys, threading, time

WRAPPED = {
    "rds_lake.loading": {"load_definitions": "definitions"},
    "rds_lake.sync": {
        "table_specs": "definitions", "open_instance": "instance", "end_dead_runs": "instance",
        "Sync._look": "observation", "Sync._run": "run",
        "Sync._record_source_check": "records", "Sync._record_observation": "records",
    },
}
began = time.perf_counter()
spent, open_phases, find = {}, threading.local(), machinery._find_and_load


def timed(phase, call, *given, **named):
    '''Count a call to a phase: its time without that of phases within it.'''
    stack = open_phases.__dict__.setdefault("stack", [])
    if stack and stack[-1][0] == phase:
        return call(*given, **named)
    stack.append([phase, 0.0, 0.0])
    cpu, wall = time.thread_time(), time.perf_counter()
    try:
        return call(*given, **named)
    finally:
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        _, inner_cpu, inner_wall = stack.pop()
        total = spent.setdefault(phase, [0.0, 0.0])
        total[0] += cpu - inner_cpu
        total[1] += wall - inner_wall
        if stack:
            stack[-1][1] += cpu
            stack[-1][2] += wall


def wrap(place, name, phase):
    call = getattr(place, name, None)
    if call is not None:
        setattr(place, name, lambda *given, **named: timed(phase, call, *given, **named))


def load(name, importer):
    known = name in sys.modules
    module = timed("imports", find, name, importer)
    if name in WRAPPED and not known:
        for path, phase in WRAPPED[name].items():
            owner, _, attribute = path.rpartition(".")
            wrap(getattr(module, owner) if owner else module, attribute, phase)
    return module


machinery._find_and_load = load
sys.argv = ["rds-lake", "sync", "orders"]
code = 0
try:
    from rds_lake.cli import main
    main()
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps({"code": code, "spent": spent}), file=sys.stderr)
"""


def one_sync(environ: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Processor and clock milliseconds of one sync, by phase."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    wall, after = time.perf_counter() - began, os.times()
    told = json.loads(done.stderr.splitlines()[-1])
    if told["code"]:
        raise RuntimeError(done.stdout)
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    found = {phase: (cpu * 1000, wall * 1000) for phase, (cpu, wall) in told["spent"].items()}
    rest = cpu * 1000 - sum(each for each, _ in found.values()), wall * 1000 - sum(each for _, each in found.values())
    return {**found, "the rest": rest, "the whole process": (cpu * 1000, wall * 1000)}


def fill(source: Source, rows: int) -> None:
    """Replace the demo's orders by this many, spread evenly over the same days, and one in a hundred not valid."""
    step = demo_data.DAYS * 86_400 / rows
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE orders")
        cursor.execute(
            f"INSERT INTO orders SELECT seq, '{demo_data.FIRST_DAY}' + INTERVAL FLOOR(seq * {step}) SECOND, "
            f"seq % 12435, IF(seq % 100, 'COMPLETE', 'unknown') FROM seq_0_to_{rows - 1}"
        )
        cursor.execute("ANALYZE TABLE orders")


def change(source: Source, number: int) -> None:
    """Change one row of one day, and wait until the fence has passed the change."""
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE orders SET customer_id = -1 - %s, order_last_updated = order_last_updated "
            "+ INTERVAL 1 SECOND WHERE order_id = 1",
            (number,),
        )
    time.sleep(FENCE_SECONDS)


def measure(environ: dict[str, str], source: Source) -> dict[str, dict[str, tuple[float, float]]]:
    """Medians by case and phase."""
    taken: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for number in range(ROUNDS):
        for case, changed in CASES.items():
            if changed:
                change(source, number)
            taken.setdefault(case, []).append(one_sync(environ))
    return {
        case: {phase: _median([each.get(phase, (0, 0)) for each in all_]) for phase in PHASES}
        for case, all_ in taken.items()
    }


def _median(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(cpu for cpu, _ in pairs), statistics.median(wall for _, wall in pairs)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a sync spends its time on when little or nothing happened.")
    parser.add_argument("--rows", type=int, default=demo_data.ORDERS)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="startup") as folder:
        home = Path(folder) / "home"
        try:
            environ = local_stack.up(home, ui=False).environ
            url = parse_database_url(environ["RDS_LAKE_SOURCE_URL"], scheme="mysql", variable="RDS_LAKE_SOURCE_URL")
            source = Source(url)
            demo_data.create(url)
            if given.rows != demo_data.ORDERS:
                fill(source, given.rows)
            one_sync(environ)
            medians = measure(environ, source)
        finally:
            local_stack.down(home)
    sys.stdout.write(f"{given.rows:,} rows, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    sys.stdout.write(f"{'':<20}" + "".join(f"{case + ': processor ms':>32}{'clock ms':>10}" for case in CASES) + "\n")
    for phase in PHASES:
        cells = "".join(f"{cpu:>32,.0f}{wall:>10,.0f}" for cpu, wall in (medians[case][phase] for case in CASES))
        sys.stdout.write(f"{phase:<20}{cells}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
