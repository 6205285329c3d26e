"""The proxy does what it says: each fault is seen from both sides, and nothing else is changed."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from torture.proxy import Frontend, Proxy, schedule


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy.to_postgres(database_url) as proxy:
        yield proxy


@pytest.fixture
async def through(proxy: Proxy, database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(proxy.postgres_url(database_url), command_timeout=5)
    yield connection
    connection.terminate()


def query(text: bytes) -> bytes:
    return b"Q" + struct.pack("!I", 5 + len(text)) + text + b"\0"


def test_commits_are_counted_wherever_the_pieces_end() -> None:
    asks_for_tls = struct.pack("!II", 8, 80877103)
    begins = struct.pack("!II", 17, 3 << 16) + b"user\0me\0\0"
    said = asks_for_tls + begins + query(b"BEGIN;") + query(b"SELECT 'COMMIT'") + query(b"COMMIT;") * 2
    for size in (1, 3, 7, 1000):
        frontend = Frontend()
        assert sum(frontend.commits(said[at : at + size]) for at in range(0, len(said), size)) == 2


async def test_what_is_sliced_and_slowed_arrives_whole(
    proxy: Proxy, through: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    proxy.slice_bytes = 7
    assert await through.fetchval("SELECT repeat('x', 5000)") == "x" * 5000
    proxy.slice_bytes, proxy.bytes_per_second = 100, 20_000
    began = time.monotonic()
    assert await through.fetchval("SELECT repeat('y', 5000)") == "y" * 5000
    assert time.monotonic() - began >= 0.2
    proxy.heal()
    proxy.latency_seconds = 0.1
    began = time.monotonic()
    await through.fetchval("SELECT 1")
    assert time.monotonic() - began >= 0.2


async def test_a_dropped_reply_leaves_a_commit_that_nobody_heard_of(
    own_database_url: str,
) -> None:
    async with Proxy.to_postgres(own_database_url) as proxy:
        connection = await asyncpg.connect(proxy.postgres_url(own_database_url), command_timeout=5)
        async with connection.transaction():
            await connection.execute("CREATE TABLE noted (n int)")
        proxy.drop_every = 2
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            async with connection.transaction():
                await connection.execute("INSERT INTO noted VALUES (1)")
        assert (proxy.commits, proxy.dropped) == (2, 1)
    direct = await asyncpg.connect(own_database_url)
    assert await direct.fetchval("SELECT count(*) FROM noted") == 1
    await direct.close()


async def test_a_reset_ends_connections_and_a_black_hole_says_nothing(
    proxy: Proxy, through: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    assert proxy.freeze_all() == 1
    with pytest.raises(TimeoutError):
        await through.fetchval("SELECT 1", timeout=0.3)
    other = await asyncpg.connect(proxy.postgres_url(database_url))
    proxy.black_hole = True
    with pytest.raises(TimeoutError):
        await other.fetchval("SELECT 1", timeout=0.3)
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.postgres_url(database_url), timeout=0.3)
    proxy.heal()
    third = await asyncpg.connect(proxy.postgres_url(database_url))
    proxy.reset_all()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
        await third.fetchval("SELECT 1")
    for connection in (other, third):
        connection.terminate()
    await asyncio.sleep(0)


def test_a_schedule_is_that_of_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    faults = ["reset", "latency", "freeze"]
    assert schedule(7, faults, 10) == schedule(7, faults, 10)
    assert set(schedule(7, faults, 3)) == set(faults)
    assert "seed 7" in capsys.readouterr().out
