"""Webhooks under fire: receivers that fail, hang and reset, senders that are killed, and one receiver that hangs for all."""

import asyncio
import random
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from fakes.receiver import Received, Receiver, hang, reset, status
from gristmill.db import Database
from gristmill.domain.ids import uuid7
from gristmill.store import deliveries
from torture.fleet import Fleet
from torture.load import BATCHES
from torture.shims import impatient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RETRIES = [0.0, *([1.0] * 25)]  # so many that nobody is given up by chance
OTHER = UUID(int=2)


def by_chance(rng: random.Random) -> object:
    """30 of 100 get a 500, 10 no answer, 5 a reset, the others a 200."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        drawn = rng.random()
        what = (
            status(500)
            if drawn < 0.30
            else hang()
            if drawn < 0.40
            else reset()
            if drawn < 0.45
            else status(200)
        )
        await what(request, writer)

    return behaviour


async def announced(fleet: Fleet, receiver: Receiver, path: str) -> None:
    url = receiver.url.removesuffix("/hook") + path
    body = {"processor": "noop", "requests": [{"custom_id": "one", "input": {"text": "x"}}]}
    answer = await fleet.client.post(BATCHES, json=body | {"webhook": {"url": url, "secret": "hush"}})
    answer.raise_for_status()


async def test_every_event_is_accepted_whatever_happens_to_receivers_and_senders(
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool, scale: float
) -> None:
    """With the schedule of minutes in place of days; the timeout is a setting."""
    rng = random.Random(15)
    events, kills = (int(1000 * scale), int(20 * scale)) if at_length else (40, 1)
    receiver.behave(by_chance(rng))  # type: ignore[arg-type]
    settings = {"webhook_timeout_seconds": 2, "lease_seconds": 5}
    shim = impatient(RETRIES, record_seconds=3)
    async with Fleet(own_database_url, folder, workers=2, program=shim, **settings) as fleet:
        paths = [f"/hook/{n}" for n in range(events)]
        share = events // kills

        async def create(some: list[str]) -> None:
            for path in some:
                await announced(fleet, receiver, path)

        for at in range(0, events, share):
            creating = asyncio.create_task(create(paths[at : at + share]))
            await receiver.until(len(receiver.received) + rng.randint(1, share), timeout_seconds=120)
            await fleet.kill(rng.choice(fleet.workers))
            await creating
        connection = await asyncpg.connect(own_database_url)
        async with asyncio.timeout(600):
            while (counts := await by_status(connection)) != {"delivered": events}:
                assert "dead" not in counts
                await asyncio.sleep(0.2)
        await connection.close()
    for path in paths:
        posts = receiver.of(path)
        assert len({post.body for post in posts}) == 1
        assert len({post.headers["webhook-id"] for post in posts}) == 1
    assert len({post.headers["webhook-id"] for post in receiver.received}) == events
    print(f"{events} events in {len(receiver.received)} sends, {kills} senders killed: all accepted")


async def by_status(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, int]:
    rows = await connection.fetch("SELECT status::text, count(*) FROM delivery GROUP BY 1")
    return {row["status"]: row["count"] for row in rows}


async def test_a_tenant_whose_receiver_hangs_delays_nobody_else(
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool
) -> None:
    """Half of what waits is for one address, the others are for an address each."""
    waiting = 10_000 if at_length else 600
    settings = {"webhook_timeout_seconds": 15, "lease_seconds": 30}
    async with (
        Receiver() as hanging,
        Fleet(own_database_url, folder, workers=2 if at_length else 1, **settings) as fleet,
    ):
        hanging.behave(hang())
        await queue(own_database_url, hanging.url, waiting)
        await hanging.until(deliveries.MAX_PER_TENANT, timeout_seconds=60)
        waits = []
        for n in range(20 if at_length else 5):
            began = time.time()
            await announced(fleet, receiver, f"/hook/{n}")
            (post,) = await receiver.until(1, path=f"/hook/{n}")
            waits.append(post.at - began)
        most = deliveries.MAX_PER_TENANT * (2 + int((time.time() - hanging.received[0].at) / 15))
        assert len(hanging.received) <= most
    print(
        f"{waiting} events for receivers that hang; another's, with its batch, took {max(waits):.2f} s at most"
    )
    assert max(waits) <= 2


async def queue(database_url: str, url: str, count: int) -> None:
    """Events of one tenant, whose receivers are at that address."""
    database = await Database(database_url, timeout_seconds=60).open()
    for at in range(0, count, 500):
        async with database.transaction() as tx:
            for n in range(at, min(at + 500, count)):
                happened = deliveries.Happened(
                    batch_id=uuid7(),
                    tenant_id=OTHER,
                    event="completed",
                    run=1,
                    status="completed",
                    total=1,
                    success=1,
                    failed=0,
                    at=await tx.fetchval("SELECT now()"),
                    webhook_url=url if n % 2 else f"{url}/{n}",
                    webhook_events=None,
                    webhook_secret=None,
                )
                await deliveries.queue(tx, [happened])
    await database.close()
