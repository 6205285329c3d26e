"""The Postgres that everybody is measured on: durable, with the same few settings for all."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from benchmarks import meter
from gristmill.db import connect_options
from gristmill.embedded.postgres import DURABLE, EmbeddedPostgres

# As it comes, but for fewer checkpoints in the middle of a measurement and the memory of a small server of its own.
CHOSEN = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "min_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}
# Of so many parts is a log of that size. A server that has run for a while uses those again that it has; a new one makes each
# as it is needed, 16 MB of zeros that reach the disk while all commits wait.
LOG_PARTS = 256
SETTINGS = {
    **DURABLE,
    **CHOSEN,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "track_commit_timestamp": "on",  # tells when a batch became visible; 12 bytes a transaction
}


class Postgres:
    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self.cpu = meter.of_tree(server.process_id)

    def fresh(self, name: str) -> str:
        """An empty database; answers with its URL."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}", "CHECKPOINT")
        return urlsplit(self._server.url)._replace(path=f"/{name}").geturl()

    def run(self, *statements: str) -> None:
        _wait(_execute(self._server.url, statements))

    @property
    def version(self) -> str:
        return str(fetch(self._server.url, "SHOW server_version")[0][0])


@contextmanager
def running() -> Iterator[Postgres]:
    """In a folder that is gone afterwards, where TMPDIR says: that should be a disk."""
    folder = Path(tempfile.mkdtemp(prefix="gristmill-bench-"))
    folder.chmod(0o711)  # as root, Postgres runs as another user
    try:
        with EmbeddedPostgres(folder / "postgres", SETTINGS) as server:
            postgres = Postgres(server)
            parts = ("SELECT pg_logical_emit_message(false, '', '')", "SELECT pg_switch_wal()") * LOG_PARTS
            postgres.run(*parts, "CHECKPOINT")
            yield postgres
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    return _wait(_fetch(url, query, arguments))


def _wait(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def _execute(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(**connect_options(url))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _fetch(url: str, query: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(**connect_options(url))
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


def sync_microseconds(samples: int = 50) -> float:
    """What the disk takes to keep 8 kB, in the median: the floor of every commit."""
    taken = []
    with tempfile.TemporaryFile() as file:
        for _ in range(samples):
            os.pwrite(file.fileno(), os.urandom(8192), 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return sorted(taken)[samples // 2] * 1e6
