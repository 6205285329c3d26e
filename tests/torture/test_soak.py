"""How soon work starts while somebody holds a snapshot open, so that Postgres can remove no dead row: `make soak`."""

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from gristmill.embedded.postgres import EmbeddedPostgres
from torture.fleet import Fleet
from torture.load import BATCHES
from torture.test_database import migrated

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)]

PARTS = 10
BACKGROUND = 1000  # items of each batch that is worked off beside it, one after the other
EVERY_SECONDS = 0.25


async def start_of(fleet: Fleet) -> float:
    """Seconds from the POST of a batch of one to its start."""
    body = {"processor": "clock", "requests": [{"custom_id": "one", "input": {"text": "x"}}]}
    began = time.time()
    answer = await fleet.client.post(BATCHES, json=body)
    batch = answer.raise_for_status().json()["data"]["id"]
    await fleet.client.get(f"{BATCHES}/{batch}?wait=30")
    rows = (await fleet.client.get(f"{BATCHES}/{batch}/results")).raise_for_status().json()["data"]
    started: float = rows[0]["output"]["began"]
    return started - began


async def work_on(fleet: Fleet) -> None:
    """Without an end: what makes dead rows."""
    requests = [{"custom_id": f"req-{n}", "input": {"text": "x"}} for n in range(BACKGROUND)]
    while True:
        answer = await fleet.client.post(BATCHES, json={"processor": "noop", "requests": requests})
        batch = answer.raise_for_status().json()["data"]["id"]
        view = {"status": ""}
        while view["status"] != "completed":
            view = (await fleet.client.get(f"{BATCHES}/{batch}?wait=10")).json()["data"]


async def dead_rows(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    count: int = await connection.fetchval("SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables")
    return count


def at(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


async def test_work_starts_as_soon_with_a_snapshot_held_as_without(
    durable_postgres: EmbeddedPostgres, folder: Path, pytestconfig: pytest.Config
) -> None:
    seconds = pytestconfig.getoption("minutes") * 60
    url = await migrated(durable_postgres)
    async with Fleet(url, folder, workers=2, lease_seconds=30, concurrency=64, poll_seconds=1) as fleet:
        holder, control = await asyncpg.connect(url), await asyncpg.connect(url)
        working = asyncio.create_task(work_on(fleet))
        await asyncio.gather(*(start_of(fleet) for _ in range(20)))  # warm
        snapshot = holder.transaction(isolation="repeatable_read")
        await snapshot.start()
        await holder.fetchval("SELECT count(*) FROM batch")
        parts: list[list[float]] = []
        for number in range(PARTS):
            until = time.monotonic() + seconds / PARTS
            waits: list[float] = []
            while time.monotonic() < until:
                waits.append(await start_of(fleet))
                await asyncio.sleep(EVERY_SECONDS)
            parts.append(waits)
            told = f"p50 {at(waits, 0.5) * 1000:.0f} ms, p99 {at(waits, 0.99) * 1000:.0f} ms of {len(waits)}"
            items = await control.fetchval("SELECT sum(success) FROM batch_count")
            print(
                f"part {number + 1}: {told}; {items} items done, {await dead_rows(control)} dead rows",
                flush=True,
            )
        assert not working.done()
        working.cancel()
        await snapshot.rollback()
        await holder.close()
        await control.close()
    first, last = at([*parts[0], *parts[1]], 0.5), at([*parts[-2], *parts[-1]], 0.5)
    print(
        f"{seconds / 60:.0f} minutes: p50 of the first fifth {first * 1000:.0f} ms, of the last {last * 1000:.0f} ms"
    )
    assert last <= 2 * first + 0.02
