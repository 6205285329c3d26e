"""Many runs of one batch, with real workers: nothing is lost, and nothing is run without a reason."""

import random
from uuid import UUID

from factories import get, make_batch, sql, turn, violations
from gristmill.db import Database
from gristmill.domain.outcomes import Failure, ItemError, Outcome, Success
from gristmill.domain.states import BatchStatus
from gristmill.processors.base import Context
from gristmill.store import retries
from mill import NoConfig, Script, Scripted, eventually, working

ITEMS = 400


class Flaky(Scripted):
    """Fails half of its runs, by a chance that is seeded."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(7)

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        self.runs[(context.batch_id, context.ordinal)] += 1
        if self.chance.random() < 0.5:
            return Failure(ItemError(500, "flaky", "by chance"))
        return Success(output="at last")


async def test_retried_until_nothing_fails_every_item_ran_once_for_each_of_its_attempts(
    database: Database,
) -> None:
    flaky = Flaky()
    async with working(database, flaky) as one, working(database, flaky) as two:
        batch_id = await make_batch(database, ITEMS)
        while await _failed(database, batch_id):
            await turn(database, retries.retry, batch_id)
            for worker in (one, two):
                worker.wake()

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, ITEMS, 0)
    assert batch.run > 4
    assert await sql(database, "SELECT count(*) FROM event") == [batch.run]
    attempts = dict(await sql(database, "SELECT ordinal, count(*)::int FROM item_attempt GROUP BY ordinal"))
    assert {ordinal: runs for (_, ordinal), runs in flaky.runs.items()} == {
        ordinal: attempts.get(ordinal, 0) + 1 for ordinal in range(ITEMS)
    }


async def _failed(database: Database, batch_id: UUID) -> int:
    """How many have failed once the run has ended."""

    async def ended() -> bool:
        return (await get(database, batch_id)).status is BatchStatus.COMPLETED

    await eventually(ended, seconds=60)
    assert await violations(database) == []
    return (await get(database, batch_id)).failed
