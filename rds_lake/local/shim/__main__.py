"""The shim as a program: arguments, the listening server, the clean end at SIGTERM."""

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rds_lake.local.shim.redshift_copy import CopyJob
from rds_lake.local.shim.session import Session, Surroundings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

log = logging.getLogger("rds_lake.shim")

_COPIES_AT_ONCE = 16


@functools.cache
def _s3() -> "S3Client":
    """The client that all COPYs read with: botocore takes endpoint and credentials from AWS_* variables."""
    import boto3
    from botocore.config import Config

    # Path-style works with every local endpoint; a short timeout, so that a dead endpoint fails the COPY soon.
    config = Config(
        s3={"addressing_style": "path"}, connect_timeout=5, retries={"max_attempts": 2}, max_pool_connections=64
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return boto3.session.Session().client("s3", config=config, region_name=region)


def _chunks(job: CopyJob, columns: int, types: Sequence[str]) -> Iterator[bytes]:
    """The rows of a COPY; nothing is imported or read before the first is asked for."""
    from rds_lake.local.shim.source import csv_chunks

    yield from csv_chunks(_s3(), job, columns=columns, types=types)


def _warm_up() -> None:
    """Import what the first COPY would otherwise wait for."""
    import rds_lake.local.shim.source  # noqa: F401

    _s3()


async def serve(host: str, port: int, upstream_port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    sessions: set[asyncio.Task[None]] = set()
    executor = ThreadPoolExecutor(max_workers=_COPIES_AT_ONCE, thread_name_prefix="copy")
    around = Surroundings(upstream_host=host, upstream_port=upstream_port, executor=executor, chunks=_chunks)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            sessions.add(task)
            task.add_done_callback(sessions.discard)
        with contextlib.suppress(OSError):  # the client has gone
            await Session(reader, writer, around).run()

    server = await asyncio.start_server(connected, host, port, limit=1024 * 1024)
    log.info("listening on %s:%d for PostgreSQL on port %d", host, port, upstream_port)
    executor.submit(_warm_up)
    await stopping.wait()
    server.close()
    for task in list(sessions):
        task.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)
    executor.shutdown(wait=False, cancel_futures=True)
    log.info("stopped")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the shim."""
    parser = argparse.ArgumentParser(prog="python -m rds_lake.local.shim", description=__doc__)
    parser.add_argument("--listen", type=int, required=True, metavar="PORT", help="the port that clients connect to")
    parser.add_argument("--upstream", type=int, required=True, metavar="PORT", help="PostgreSQL's port")
    parser.add_argument("--host", default="127.0.0.1", help="the address of both (default %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        asyncio.run(serve(options.host, options.listen, options.upstream))
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", options.host, options.listen, error)  # noqa: TRY400 - a plain line
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread that waits for S3 would hold the process
