"""Workers whose clocks are wrong by an hour: nothing ends, expires or is taken away too early."""

import random
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from fakes.receiver import Receiver, status
from torture.checker import findings
from torture.evidence import gathered
from torture.fleet import Fleet
from torture.load import BATCHES, Load
from torture.shims import skewed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

HOUR = 3600.0


async def test_nothing_expires_early_where_the_clocks_of_workers_are_an_hour_wrong(
    own_database_url: str, folder: Path, receiver: Receiver, at_length: bool
) -> None:
    """One is fast, one is slow. A webhook is refused once, so that its next time matters, too."""
    receiver.behave(status(500), status(200))
    async with Fleet(own_database_url, folder, workers=0, lease_seconds=30) as fleet:
        for wrong_by in (HOUR, -HOUR):
            await fleet.hire(skewed(wrong_by))
        load = Load(fleet, receiver, folder, random.Random(22), patient=True)
        key = str(UUID(int=22))
        body = {"processor": "noop", "requests": [{"custom_id": "one", "input": {"text": "x"}}]}
        body |= {"deadline_seconds": 600}
        first = await fleet.client.post(BATCHES, json=body, headers={"idempotency-key": key})
        for _ in range(10 if at_length else 1):
            told = await load.post([{"text": str(n), "seconds": 0.3} for n in range(100)])
            await load.watch(told)
        await load.all_announced()
        if at_length:  # as long as the duties that forget take to come round, twice
            began = time.monotonic()
            await load.until(lambda: passed(began, 130))
        again = await fleet.client.post(BATCHES, json=body, headers={"idempotency-key": key})
        assert (again.status_code, again.json()) == (202, first.json())
        evidence = await gathered(load, own_database_url)
        connection = await asyncpg.connect(own_database_url)
        assert await connection.fetchval("SELECT count(*) FROM worker WHERE dead") == 0
        rows = await connection.fetch("SELECT status::text, error FROM batch")
        await connection.close()
    assert {row["status"] for row in rows} == {"completed"}
    begun = [at - time.time() for begins in evidence.ledger.begun.values() for at in begins]
    assert min(begun) < -HOUR / 2
    assert max(begun) > HOUR / 2  # both took part, and their clocks were wrong
    retried = [one["log"] for told in evidence.batches for one in told.deliveries if len(one["log"]) > 1]
    assert len(retried) == 1
    evidence.batches[0].deliveries[0]["log"] = [one for one in retried[0] if one["status_code"] == 200]
    evidence.received = [post for n, post in enumerate(evidence.received) if n]
    assert findings(evidence) == []


async def passed(began: float, seconds: float) -> bool:
    return time.monotonic() - began >= seconds
