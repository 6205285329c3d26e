"""Items that take their worker's process down, or all of its memory, fail; no other item does.

`make torture ARGS='-k poison'` does ten runs of 1,000 requests, `make test` two.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gristmill.db import Database
from gristmill.store.audit import audit
from torture.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REQUESTS = 1000
KINDS = ("segfault", "exhaust", "be_killed")  # one after the other, by the seed
PATIENCE_SECONDS = 330


@asynccontextmanager
async def replaced(fleet: Fleet) -> AsyncIterator[Counter[int]]:
    """Whatever worker ends is followed by another, as a supervisor would have it; with how they ended."""
    exits: Counter[int] = Counter()

    async def watch(worker: Any) -> None:
        exits[await asyncio.to_thread(worker.process.wait)] += 1
        fleet.workers.remove(worker)
        fleet.gone.append(worker)
        watching.append(asyncio.create_task(watch(await fleet.hire())))

    watching = [asyncio.create_task(watch(worker)) for worker in fleet.workers]
    try:
        yield exits
    finally:
        for task in watching:
            task.cancel()


async def test_a_poison_item_fails_and_the_other_999_succeed(
    own_database_url: str, folder: Path, seed: int
) -> None:
    """The others take long enough to be in flight beside it, each time that it takes the process down."""
    rng, began, kind = random.Random(seed), time.monotonic(), KINDS[(seed - 1) % len(KINDS)]
    place = rng.randrange(REQUESTS)
    requests = [
        {
            "custom_id": f"item-{n}",
            "input": {"text": str(n), "seconds": 0.05, "do": kind if n == place else "succeed"},
        }
        for n in range(REQUESTS)
    ]
    async with Fleet(own_database_url, folder, lease_seconds=8) as fleet, replaced(fleet) as exits:
        body = {"processor": "poison", "requests": requests, "max_attempts": 3}
        answer = await fleet.client.post("/api/v1/batches", json=body)
        batch_id = answer.json()["data"]["id"]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (batch := await shown(fleet, f"/api/v1/batches/{batch_id}?wait=30"))[
                "status"
            ] == "in_progress":
                pass
        failed = await shown(fleet, f"/api/v1/batches/{batch_id}/results?status=failed&limit=1000")
        told = Counter(exits)
    print(
        f"seed {seed}, {kind}: {batch['completed_requests']} of {REQUESTS} succeeded, {len(failed)} failed, "
        f"{sum(told.values())} workers went down, {time.monotonic() - began:.0f} s"
    )

    assert (batch["status"], batch["completed_requests"]) == ("completed", REQUESTS - 1)
    [one] = failed
    assert one["custom_id"] == f"item-{place}"
    if kind == "exhaust":  # Python says no before the system does
        assert (one["error"]["type"], told) == ("processor_error", {})
    else:
        number = signal.SIGSEGV if kind == "segfault" else signal.SIGKILL
        assert (one["error"]["type"], one["attempt"]) == ("worker_lost", 3)
        assert told == {-number: 3}
    database = await Database(own_database_url).open()
    async with database.connection() as connection:
        assert await audit(connection) == []
    await database.close()


async def shown(fleet: Fleet, path: str) -> Any:
    return (await fleet.client.get(path)).raise_for_status().json()["data"]
