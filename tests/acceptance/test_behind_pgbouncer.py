"""The service behind a PgBouncer that lends its connections for one transaction each: nothing of ours stays in a connection."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from command import Command, wait_for
from databases import Server
from factories import TENANT, all_of, claim, make_batch, make_worker, record, sql, violations
from gristmill.db import Database
from pooler import Pooler, pooling

CONNECTIONS = 3  # fewer than any process of ours would have


@pytest.fixture(scope="module")
def pooler(server: Server):  # type: ignore[no-untyped-def]
    with pooling(server.url, CONNECTIONS) as running:
        yield running


@pytest.fixture
async def pooled_url(server: Server, pooler: Pooler) -> AsyncIterator[str]:
    name = f"gristmill_test_{uuid4().hex}"
    await server.create(name, template=server.template)
    yield pooler.url_of(name)
    await server.drop(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await Database(url, prepared=False).open()
    yield database
    await database.close()


async def test_both_ways_to_postgres_share_connections_with_others(pooled_url: str) -> None:
    """Many at once, over fewer connections, so that each statement finds one that others had."""
    async with opened(pooled_url) as one, opened(pooled_url) as other:

        async def by_pool(database: Database, number: int) -> int:
            async with database.transaction() as tx:
                return await tx.fetchval("SELECT $1::int + cardinality($2::uuid[])", number, [TENANT])  # type: ignore[no-any-return]

        async def by_engine(database: Database, number: int) -> int:
            async with database.engine.begin() as connection:
                await connection.execute(text("SELECT count(*) FROM tenant WHERE id = :id"), {"id": TENANT})
                return (
                    await connection.execute(text("SELECT CAST(:n AS int) + 1"), {"n": number})
                ).scalar_one()

        ways = [
            way(database, n) for n in range(40) for way in (by_pool, by_engine) for database in (one, other)
        ]
        assert sorted(await asyncio.gather(*ways)) == sorted(n + 1 for n in range(40) for _ in range(4))


SETTINGS = {
    "secret_key": "a secret key for tests, 32 bytes",
    "api_key": "gm_the-operators-own-key-in-the-settings",
    "database_prepared_statements": "false",
    "poll_seconds": "600",  # so that nothing is found by polling
    "drain_seconds": "2",
}
BATCH = {"processor": "noop", "requests": [{"custom_id": "a", "input": {"text": "a"}}]}


async def test_api_and_worker_do_their_work_and_wake_each_other_past_it(
    server: Server, pooler: Pooler, tmp_path: Path
) -> None:
    """Also the migrations go through it: the database is empty at the start."""
    name = f"gristmill_test_{uuid4().hex}"
    await server.create(name)
    given = {
        **SETTINGS,
        "data_dir": str(tmp_path),
        "database_url": pooler.url_of(name),
        "database_listen_url": server.url_of(name),
    }
    command = Command(
        {f"GRISTMILL_{key.upper()}": value for key, value in given.items()}, log=tmp_path / "log"
    )
    try:
        await asyncio.to_thread(_work, command)
    finally:
        await server.drop(name)


def _work(command: Command) -> None:
    with command.serve("--no-worker") as api, command.start("worker") as worker:
        wait_for(worker, "at work")
        with api.client(SETTINGS["api_key"]) as client:
            first = client.post("/api/v1/batches", json=BATCH).json()["data"]["id"]
            end = time.monotonic() + 60
            while (
                client.get(f"/api/v1/batches/{first}", params={"wait": 1}).json()["data"]["status"]
                != "completed"
            ):
                assert time.monotonic() < end, (command.log or Path()).read_text()[-2000:]
                client.post("/api/v1/batches", json=BATCH).raise_for_status()  # it may not have listened yet
            found = client.get(f"/api/v1/batches/{first}/results").json()["data"]
            assert [one["status"] for one in found] == ["success"]
            agent = client.post("/api/v1/agents", json={"name": "Test"})
            assert agent.status_code == 201, agent.text
        worker.terminate()
        assert worker.wait(60) == 0
        assert api.stop() == 0


async def test_processes_lead_batches_through_their_lives_over_the_same_connections(pooled_url: str) -> None:
    async def lead(database: Database) -> None:
        await make_batch(database, 300)
        worker = await make_worker(database)
        while leases := await claim(database, worker, 40):
            await record(database, worker, all_of(leases), alone=len(leases[0].items) % 2 == 0)

    async with opened(pooled_url) as one, opened(pooled_url) as other:
        await asyncio.gather(*(lead(database) for database in (one, other) for _ in range(3)))
        assert await sql(one, "SELECT status, count(*) FROM batch GROUP BY 1") == [("completed", 6)]
        assert await violations(one) == []
