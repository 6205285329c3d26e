"""Limits of the service over real worker processes that are killed and stopped in the middle of their calls."""

import random
import signal
from pathlib import Path

import pytest

from fakes.llm import FakeLLM
from fakes.wire import Request
from gristmill.db import Database
from gristmill.store import service_limits
from torture.test_upstreams import BATCHES, milling, until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(500)]

LIMIT = 12  # of three workers with 16 slots each


async def test_an_endpoint_is_never_called_more_at_once_than_its_limit_while_workers_are_killed_and_stopped(
    own_database_url: str, folder: Path, at_length: bool
) -> None:
    """The endpoint counts. A call takes less time than it takes to declare a worker dead."""
    chance = random.Random(1)
    database = await Database(own_database_url).open()
    async with database.transaction() as tx:
        await service_limits.put(tx, "upstream", "model", max_in_flight=LIMIT)
    await database.close()
    seen: set[int] = set()

    def look(request: Request) -> None:
        seen.add(llm.in_flight)

    async with (
        FakeLLM(latency_seconds=0.1) as llm,
        milling(own_database_url, folder, llm, poll_seconds=0.5) as mill,
    ):
        llm.gate = look
        await mill.fleet.hire()

        async def all_of_it() -> None:
            """Once more as many calls go on as may."""
            seen.clear()

            async def is_used() -> bool:
                return LIMIT in seen

            await until(is_used, 90)

        batches = [await mill.post([f"{n}" for n in range(1000)]) for _ in range(30 if at_length else 15)]
        await all_of_it()
        for _ in range(5 if at_length else 1):
            await mill.fleet.kill(chance.choice(mill.fleet.workers))
            await all_of_it()
            stopped = chance.choice(mill.fleet.workers)
            stopped.strike(signal.SIGSTOP)
            await all_of_it()  # its share has come back
            stopped.strike(signal.SIGCONT)
            await all_of_it()
        for one in batches:
            await mill.fleet.client.post(f"{BATCHES}/{one}/cancel")
        await mill.ended(*batches)
        assert llm.most_in_flight == LIMIT
        assert await mill.violations() == []
