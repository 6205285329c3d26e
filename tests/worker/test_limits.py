"""A worker at work: what goes beyond a limit stops, by the worker's own loops."""

from decimal import Decimal
from uuid import UUID

from factories import events, get, make_batch, turn, violations
from gristmill.db import Database
from gristmill.domain.limits import FailureThreshold, LimitAction
from gristmill.domain.states import BatchStatus
from gristmill.store import transitions
from gristmill.store.new_batches import NewItem, NewWebhook
from mill import Scripted, eventually, working

ITEMS = 2000
WEBHOOK = NewWebhook("https://a.example/", ("failed",))


async def failing(database: Database, action: LimitAction) -> UUID:
    items = [NewItem(f"item-{n}", '{"do":"fail"}') for n in range(ITEMS)]
    threshold = FailureThreshold(Decimal("0.5"), 10, action)
    return await make_batch(database, items, failure_threshold=threshold, webhook=WEBHOOK, max_concurrency=8)


async def test_too_many_failures_fail_the_batch_and_the_rest_never_runs(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await failing(database, LimitAction.FAIL)

    async def failed() -> bool:
        return (await get(database, batch_id)).status is BatchStatus.FAILED

    async with working(database, scripted):
        await eventually(failed, 60)
    assert 10 <= sum(scripted.runs.values()) < ITEMS
    batch = await get(database, batch_id)
    assert (batch.failed, batch.pending) == (ITEMS, 0)
    assert await events(database, batch_id) == ["failed"]
    assert await violations(database) == []


async def test_too_many_failures_pause_the_batch_again_after_each_resume(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await failing(database, LimitAction.PAUSE)

    async def stands_still() -> bool:
        batch = await get(database, batch_id)
        return batch.waiting_reason == "paused: failure threshold exceeded" and batch.processing == 0

    async with working(database, scripted) as worker:
        await eventually(stands_still, 60)
        first = sum(scripted.runs.values())
        await turn(database, transitions.resume, batch_id)
        worker.wake()
        await eventually(stands_still, 60)
        second = sum(scripted.runs.values())
    assert 10 <= first < ITEMS
    assert first + 10 <= second < ITEMS
    assert (await get(database, batch_id)).failed == second
    assert await violations(database) == []
