"""Limits of the service over real worker processes that are killed and stopped in the middle of their calls."""

import random
import signal
import time
from pathlib import Path

import pytest

from fakes.llm import FakeLLM
from gristmill.db import Database
from gristmill.store import service_limits
from torture.calls import Call, Calls, Life, Stop, lives, most_at_once, of_the_living
from torture.fleet import Worker
from torture.test_upstreams import BATCHES, Mill, milling, until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(500)]

LIMIT = 12  # of three workers with 16 slots each
LEASE_SECONDS = 3


async def test_the_living_never_call_an_endpoint_more_at_once_than_its_limit_while_workers_are_killed_and_stopped(
    own_database_url: str, folder: Path, at_length: bool, seed: int
) -> None:
    """The endpoint counts. A call takes less time than it takes to declare a worker dead.

    A worker that is stopped has calls in the air, and such as have their permit and are not on the wire yet. When it goes on
    after it was declared dead, these are made, while its share is others' (docs/decisions/0016): so many more may come.
    """
    chance = random.Random(seed)
    database = await Database(own_database_url).open()
    async with database.transaction() as tx:
        await service_limits.put(tx, "upstream", "model", max_in_flight=LIMIT)
    await database.close()
    async with (
        FakeLLM(latency_seconds=0.1) as llm,
        milling(
            own_database_url, folder, llm, poll_seconds=0.5, lease_seconds=LEASE_SECONDS, llm_api_key=str
        ) as mill,
    ):
        calls, stops = Calls(llm), list[Stop]()
        await mill.fleet.hire()
        batches = [await mill.post([f"{n}" for n in range(1000)]) for _ in range(30 if at_length else 15)]
        await _all_of_it(calls)
        for _ in range(5 if at_length else 1):
            await mill.fleet.kill(chance.choice(mill.fleet.workers))
            await _all_of_it(calls)
            stops.append(await _stop(mill, chance.choice(mill.fleet.workers)))
            await _all_of_it(calls)  # its share has come back
            await _go_on(mill, stops[-1])
            await _all_of_it(calls)
        for one in batches:
            await mill.fleet.client.post(f"{BATCHES}/{one}/cancel")
        await mill.ended(*batches)
        _check(calls.all(), await lives(mill.connection, mill.fleet.ever, LEASE_SECONDS), stops)
        assert await mill.violations() == []


async def _all_of_it(calls: Calls) -> None:
    """Once more as many calls go on as may."""
    calls.seen.clear()

    async def is_used() -> bool:
        return LIMIT in calls.seen

    await until(is_used, 90)


_LAST_LIFE = """
SELECT w.dead, s.granted, extract(epoch FROM started_at)::float8 AS began_at
FROM worker w LEFT JOIN upstream_share s ON s.worker_id = w.id
WHERE split_part(w.name, ':', 2)::int = $1 ORDER BY w.id DESC LIMIT 1
"""


async def _stop(mill: Mill, worker: Worker) -> Stop:
    """While it has its fair part, until the others have declared it dead."""

    async def has_its_part() -> bool:
        row = await mill.connection.fetchrow(_LAST_LIFE, worker.pid)
        return row is not None and (row["granted"] or 0) >= LIMIT // 3

    await until(has_its_part, 60)
    worker.strike(signal.SIGSTOP)
    stop = Stop(worker, worker.struck_at[-1])

    async def is_dead() -> bool:
        row = await mill.connection.fetchrow(_LAST_LIFE, worker.pid)
        assert row is not None
        stop.share = row["granted"] or stop.share
        return bool(row["dead"])

    await until(is_dead, 60)
    return stop


async def _go_on(mill: Mill, stop: Stop) -> None:
    stop.on_at = time.time()
    stop.worker.strike(signal.SIGCONT)

    async def has_joined_anew() -> bool:
        row = await mill.connection.fetchrow(_LAST_LIFE, stop.worker.pid)
        assert row is not None
        stop.again_at = row["began_at"]
        return stop.again_at > stop.at

    await until(has_joined_anew, 60)


def _check(calls: list[Call], lived: list[Life], stops: list[Stop]) -> None:
    living, most = most_at_once(of_the_living(calls, lived)), most_at_once(calls)
    over = [one.carried(calls) for one in stops]
    told = (
        f"{len(calls)} calls, limit {LIMIT}: at most {living} at once of living workers, {most} with those of workers that were "
        f"declared dead while they were stopped: {over}"
    )
    print(told)
    assert living == LIMIT, told
    assert all(one.sent + one.late <= one.share for one in over), told
    assert any(one.sent for one in over), told
