"""A tenant with little is not kept waiting by one with much."""

import asyncio
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from gristmill.embedded.postgres import EmbeddedPostgres
from gristmill.worker.items import AHEAD_SECONDS
from torture.checker import custom_id
from torture.fleet import Fleet
from torture.load import BATCHES
from torture.test_database import migrated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SLOTS = 64
ITEMS = 20_000
SECONDS = 0.2  # of an item
# A claim takes what is free, and what will be within a moment, and for something new some more. While two have work,
# start-time fair queueing lets one have at most a largest claim of each more than the other (Goyal, Vin and Cheng 1996,
# theorem 1).
MOST_AT_ONCE = SLOTS + 2 * int(SLOTS / SECONDS * AHEAD_SECONDS)
B_ITEMS = 100
ROUNDS = 7
END_SECONDS = 600


def items_of(given: dict[str, Any], count: int) -> list[dict[str, Any]]:
    return [{"custom_id": custom_id(n), "input": given} for n in range(count)]


async def post(client: httpx2.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post(BATCHES, json=body)
    batch_id: str = answer.raise_for_status().json()["data"]["id"]
    return batch_id


async def post_file(client: httpx2.AsyncClient, processor: str, given: dict[str, Any], count: int) -> str:
    """A batch of so many items, all of which are there when this returns."""
    lines = b"\n".join(orjson.dumps(one) for one in items_of(given, count))
    upload = await client.post("/api/v1/files?filename=much.jsonl", content=lines)
    source = {"file_id": upload.raise_for_status().json()["data"]["id"]}
    batch_id = await post(client, {"processor": processor, "source": source})
    await until(client, batch_id, lambda view: view["waiting_reason"] != "ingesting")
    return batch_id


async def until(client: httpx2.AsyncClient, batch_id: str, condition: Any) -> dict[str, Any]:
    async with asyncio.timeout(END_SECONDS):
        while True:
            answer = await client.get(f"{BATCHES}/{batch_id}")
            view: dict[str, Any] = answer.raise_for_status().json()["data"]
            if condition(view):
                return view
            await asyncio.sleep(0.02)


async def ended(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    while True:
        answer = await client.get(f"{BATCHES}/{batch_id}?wait=30")
        view: dict[str, Any] = answer.raise_for_status().json()["data"]
        if view["status"] == "completed":
            return view


def seconds_of(view: dict[str, Any]) -> float:
    """From its create to its end, by the clock of Postgres."""
    begun, done = (datetime.fromisoformat(view[name]) for name in ("created_at", "completed_at"))
    return (done - begun).total_seconds()


async def times(client: httpx2.AsyncClient, body: dict[str, Any], rounds: int) -> list[float]:
    return [seconds_of(await ended(client, await post(client, body))) for _ in range(rounds)]


async def started(client: httpx2.AsyncClient, batch_id: str) -> list[datetime]:
    """When its items were claimed, by the clock of Postgres; those that ran, ascending."""
    rows = await client.get(f"{BATCHES}/{batch_id}/results", headers={"accept": "application/x-ndjson"})
    at = [orjson.loads(line)["started_at"] for line in rows.raise_for_status().content.splitlines()]
    return sorted(datetime.fromisoformat(one) for one in at if one)


async def test_a_hundred_items_get_half_of_what_starts_beside_another_tenants_twenty_thousand(
    own_database_url: str, folder: Path
) -> None:
    """Told by numbers of items, not by time: it holds on a busy machine, too."""
    async with Fleet(own_database_url, folder, workers=1, concurrency=SLOTS, lease_seconds=30) as fleet:
        given = {"sleep_seconds": SECONDS}
        async with await fleet.client_of("tenant-b") as other:
            much = await post_file(fleet.client, "scripted", given, ITEMS)
            await until(fleet.client, much, lambda view: view["completed_requests"] > SLOTS)
            body = {"processor": "scripted", "requests": items_of(given, B_ITEMS)}
            little = await post(other, body)
            await ended(other, little)
            of_b = await started(other, little)
        left = (await fleet.client.get(f"{BATCHES}/{much}")).raise_for_status().json()["data"]
        assert left["pending_requests"] > 0, "A's were done before B's"
        (await fleet.client.post(f"{BATCHES}/{much}/cancel")).raise_for_status()
        await until(fleet.client, much, lambda view: view["processing_requests"] == 0)
        beside = [at for at in await started(fleet.client, much) if of_b[0] <= at <= of_b[-1]]
    print(f"while B's {B_ITEMS} items started, {len(beside)} of A's {ITEMS:,} did")
    assert len(of_b) == B_ITEMS
    assert len(beside) <= B_ITEMS + 2 * MOST_AT_ONCE


@pytest.mark.long
async def test_a_hundred_items_take_at_most_twice_as_long_beside_another_tenants_million(
    durable_postgres: EmbeddedPostgres, folder: Path, scale: float
) -> None:
    """Promise 21; items without work, one worker with default settings. On a machine that has nothing else to do."""
    items = int(1_000_000 * scale)
    url = await migrated(durable_postgres)
    async with Fleet(
        url, folder, workers=1, concurrency=256, lease_seconds=30, database_pool_size=10
    ) as fleet:
        body = {"processor": "noop", "requests": items_of({"text": "x" * 200}, B_ITEMS)}
        async with await fleet.client_of("tenant-b") as other:
            alone = (await times(other, body, ROUNDS + 1))[1:]  # the first finds everything cold
            much = await post_file(fleet.client, "noop", {"text": "x" * 200}, items)
            began = time.monotonic()
            beside = await times(other, body, ROUNDS)
            taken = time.monotonic() - began
            view = (await fleet.client.get(f"{BATCHES}/{much}")).raise_for_status().json()["data"]
        assert view["pending_requests"] > 0, "A's were done before B's"
    idle, busy = statistics.median(alone), statistics.median(beside)
    print(
        f"B's {B_ITEMS} items: {idle * 1000:.0f} ms alone [{min(alone) * 1000:.0f} - {max(alone) * 1000:.0f}], "
        f"{busy * 1000:.0f} ms [{min(beside) * 1000:.0f} - {max(beside) * 1000:.0f}] beside A's {items:,}: "
        f"{busy / idle:.2f} times; {ROUNDS} rounds within {taken:.1f} s"
    )
    assert busy <= 2 * idle
