"""Failure thresholds and budgets: decided with the results that exceed them, whoever else is at the batch."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from factories import (
    TENANT,
    blocked,
    claim,
    drain,
    enforce,
    events,
    failure,
    get,
    in_chats,
    lose,
    make_batch,
    make_worker,
    ordinals,
    record,
    retry,
    sql,
    success,
    sweep,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.errors import Conflict
from gristmill.domain.limits import Budget, FailureThreshold, LimitAction
from gristmill.domain.states import BatchStatus
from gristmill.store import (
    batches,
    claims,
    counts,
    endings,
    limits,
    recording,
    results,
    retries,
    transitions,
)
from gristmill.store.claims import Lease
from gristmill.store.new_batches import NewItem, NewWebhook
from gristmill.store.recording import Flush

pytestmark = pytest.mark.usefixtures("recorded")

PAUSE, FAIL = LimitAction.PAUSE, LimitAction.FAIL
WEBHOOK = NewWebhook("https://a.example/", ("completed", "failed", "cancelled"))


def threshold(ratio: str, minimum: int, action: LimitAction = FAIL) -> FailureThreshold:
    return FailureThreshold(Decimal(ratio), minimum, action)


async def ended(database: Database, worker: int, lease: Lease, fates: str, **usage: int) -> None:
    """The first items of the lease, in one flush: f failed, s succeeded, r is to be tried again."""
    done = [
        (success if fate == "s" else failure)(lease, item.ordinal, usage="{}", **usage)
        for fate, item in zip(fates, lease.items, strict=False)
        if fate in "sf"
    ]
    again = [
        retry(lease, item.ordinal) for fate, item in zip(fates, lease.items, strict=False) if fate == "r"
    ]
    await record(database, worker, Flush({lease.id: len(lease.items) - len(fates)}, done, again))


async def run(database: Database, batch_id: UUID, fates: str, **usage: int) -> None:
    """Claim as many and end them so."""
    worker = await make_worker(database)
    taken = await claim(database, worker, len(fates))
    assert sum(len(lease.items) for lease in taken) == len(fates)
    for lease in taken:
        part, fates = fates[: len(lease.items)], fates[len(lease.items) :]
        await ended(database, worker, lease, part, **usage)


async def exceeded(database: Database, batch_id: UUID) -> Any:
    return (await sql(database, "SELECT exceeded FROM batch_count WHERE batch_id = $1", batch_id))[0]


async def errors_of(database: Database, batch_id: UUID) -> Sequence[tuple[int | None, str | None]]:
    async with database.connection() as connection:
        batch = await batches.get(connection, TENANT, batch_id)
        shown = await results.window(connection, batch, 0, 1000)
    return [(one.code, one.error) for one in shown]


# --- when a limit is exceeded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "minimum", "fates", "over"),
    [
        ("0.5", 4, "ff", False),  # not enough to judge
        ("0.5", 4, "ffss", False),  # half is not more than half
        ("0.5", 4, "fffs", True),
        ("0", 1, "ssss", False),
        ("0", 1, "sssf", True),
        ("1", 1, "ffff", False),
        ("0.29", 1, "f" * 29 + "s" * 71, False),  # exact: 0.29 × 100 is less than 29 in binary fractions
        ("0.29", 1, "f" * 30 + "s" * 70, True),
    ],
)
async def test_a_threshold_is_exceeded_by_more_than_its_ratio_of_at_least_its_minimum(
    database: Database, ratio: str, minimum: int, fates: str, over: bool
) -> None:
    batch_id = await make_batch(
        database, len(fates) + 1, failure_threshold=threshold(ratio, minimum), webhook=WEBHOOK
    )
    await run(database, batch_id, fates)

    assert await exceeded(database, batch_id) == ("threshold" if over else None)
    assert await enforce(database) == over
    assert await sweep(database) == ([1] if over else [])
    batch = await get(database, batch_id)
    assert batch.status is (BatchStatus.FAILED if over else BatchStatus.IN_PROGRESS)


async def test_a_budget_is_exceeded_by_prompts_and_answers_together(database: Database) -> None:
    batch_id = await make_batch(database, 3, budget=Budget(100, FAIL))
    await run(database, batch_id, "s", prompt_tokens=60, completion_tokens=39)
    assert await exceeded(database, batch_id) is None
    await run(database, batch_id, "s", completion_tokens=1)
    assert await exceeded(database, batch_id) == "budget"


async def test_items_that_were_refused_or_cancelled_or_came_too_late_have_not_failed(
    database: Database,
) -> None:
    refused = [NewItem(f"bad-{n}", "{}", error='{"type":"x","message":"x"}') for n in range(5)]
    good = [NewItem(f"good-{n}", "{}") for n in range(4)]
    batch_id = await make_batch(database, refused + good, failure_threshold=threshold("0.5", 2))
    await run(database, batch_id, "sf")
    assert await exceeded(database, batch_id) is None
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)
    assert await exceeded(database, batch_id) is None
    await ended(database, worker, lease, "s")
    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED


async def test_a_worker_that_is_lost_with_its_items_counts_as_their_failure(database: Database) -> None:
    batch_id = await make_batch(database, 2, max_attempts=1, failure_threshold=threshold("0.1", 1))
    for _ in range(3):
        worker = await make_worker(database)
        assert await claim(database, worker, 2)
        await lose(database, worker)
    assert await exceeded(database, batch_id) == "threshold"


# --- "fail" -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ({"failure_threshold": threshold("0.1", 1)}, "threshold_exceeded"),
        ({"budget": Budget(10, FAIL)}, "budget_exceeded"),
    ],
)
async def test_a_batch_that_fails_by_a_limit_drains_and_ends_once(
    database: Database, limit: dict[str, Any], kind: str
) -> None:
    batch_id = await make_batch(database, 6, webhook=WEBHOOK, **limit)
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [held] = await claim(database, worker, 2)
    await ended(database, worker, first, "f", prompt_tokens=10)
    assert await claim(database, worker, 10) == []  # at once, before anything else is known of it
    await enforce(database)

    batch = await get(database, batch_id)
    assert (batch.status, batch.waiting_reason) == (BatchStatus.IN_PROGRESS, "draining")
    for action in (transitions.pause, transitions.resume, transitions.cancel):
        with pytest.raises(Conflict, match="draining"):
            await turn(database, action, batch_id)
    assert await sweep(database) == [3]
    assert (await get(database, batch_id)).status is BatchStatus.IN_PROGRESS
    await ended(database, worker, held, "sr")  # what would have been tried again ends with its own code

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.FAILED, 1, 5)
    assert batch.completed_at is not None
    assert batch.error is not None
    assert f'"type":"{kind}"' in batch.error
    shown = await errors_of(database, batch_id)
    assert [code for code, _ in shown] == [500, None, 500, 500, 500, 500]
    assert all(f'"type":"{kind}","message":"' in (error or "") for _, error in shown[3:])
    assert '"type":"test"' in (shown[2][1] or "")
    assert await events(database, batch_id) == ["failed"]
    assert await violations(database) == []


async def test_a_threshold_that_the_last_items_exceed_fails_the_batch(database: Database) -> None:
    batch_id = await make_batch(database, 4, webhook=WEBHOOK, failure_threshold=threshold("0.5", 4))
    await run(database, batch_id, "fffs")
    batch = await get(database, batch_id)
    assert batch.status is BatchStatus.FAILED
    assert await events(database, batch_id) == ["failed"]
    assert await violations(database) == []


async def test_a_threshold_fails_a_batch_whose_rest_is_in_flight_even_if_all_of_that_succeeds(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 6, failure_threshold=threshold("0.5", 1))
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [held] = await claim(database, worker, 5)
    await ended(database, worker, first, "f")
    await enforce(database)
    assert (await get(database, batch_id)).waiting_reason == "draining"
    await ended(database, worker, held, "sssss")
    assert (await get(database, batch_id)).status is BatchStatus.FAILED


@pytest.mark.parametrize("action", [PAUSE, FAIL])
async def test_a_budget_that_the_last_items_use_up_stops_nothing(
    database: Database, action: LimitAction
) -> None:
    batch_id = await make_batch(database, 3, budget=Budget(10, action))
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [held] = await claim(database, worker, 2)
    await ended(database, worker, first, "s", prompt_tokens=10)
    assert await enforce(database) == 0
    assert (await get(database, batch_id)).waiting_reason is None
    await ended(database, worker, held, "ss", prompt_tokens=10)
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_a_budget_that_is_used_up_stops_what_comes_back_to_be_tried_again(database: Database) -> None:
    batch_id = await make_batch(database, 2, budget=Budget(10, FAIL))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 2)
    await ended(database, worker, lease, "sr", prompt_tokens=10)
    assert await claim(database, worker, 2) == []
    assert await enforce(database) == 1
    await sweep(database)
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.FAILED, 1, 1)


# --- "pause" ----------------------------------------------------------------------------------------------------------


async def test_a_batch_that_a_threshold_paused_says_so_and_is_judged_anew_after_its_resume(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 20, failure_threshold=threshold("0.5", 3, PAUSE))
    await run(database, batch_id, "fffs")
    assert await claim(database, await make_worker(database), 20) == []
    assert await enforce(database) == 1
    assert await enforce(database) == 0
    batch = await get(database, batch_id)
    assert (batch.status, batch.waiting_reason) == (BatchStatus.PAUSED, "paused: failure threshold exceeded")

    await turn(database, transitions.resume, batch_id)
    assert (await get(database, batch_id)).waiting_reason is None
    await run(database, batch_id, "ffsss")  # 5 of 9 in all, 2 of 5 since
    assert await enforce(database) == 0
    await run(database, batch_id, "fff")
    assert await enforce(database) == 1
    await turn(database, transitions.resume, batch_id)
    await drain(database, await make_worker(database))
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_a_limit_stays_exceeded_whatever_ends_before_the_batch_is_stopped(database: Database) -> None:
    batch_id = await make_batch(database, 20, failure_threshold=threshold("0.5", 3, PAUSE))
    worker = await make_worker(database)
    [first] = await claim(database, worker, 3)
    [held] = await claim(database, worker, 9)
    await ended(database, worker, first, "fff")
    await ended(database, worker, held, "sssssssss")
    assert await enforce(database) == 1
    assert (await get(database, batch_id)).status is BatchStatus.PAUSED


async def test_a_resume_after_a_budget_grants_as_much_again(database: Database) -> None:
    batch_id = await make_batch(database, 9, budget=Budget(100, PAUSE))
    await run(database, batch_id, "s", prompt_tokens=130)
    await enforce(database)
    assert (await get(database, batch_id)).waiting_reason == "paused: budget used up"
    await turn(database, transitions.resume, batch_id)
    await run(database, batch_id, "s", prompt_tokens=99)
    assert await enforce(database) == 0
    await run(database, batch_id, "s", prompt_tokens=1)
    assert await enforce(database) == 1
    batch = await get(database, batch_id)
    assert (batch.status, batch.prompt_tokens) == (BatchStatus.PAUSED, 230)


async def test_a_pause_and_resume_by_hand_grant_nothing(database: Database) -> None:
    batch_id = await make_batch(database, 9, budget=Budget(100, PAUSE), failure_threshold=threshold("0.5", 2))
    await run(database, batch_id, "f", prompt_tokens=60)
    await turn(database, transitions.pause, batch_id)
    assert (await get(database, batch_id)).waiting_reason == "paused"
    await turn(database, transitions.resume, batch_id)
    await run(database, batch_id, "s", prompt_tokens=40)
    assert await exceeded(database, batch_id) == "budget"


async def test_what_ends_under_a_pause_by_hand_may_say_why_it_should_stay(database: Database) -> None:
    batch_id = await make_batch(database, 9, failure_threshold=threshold("0.5", 2, PAUSE))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 2)
    await turn(database, transitions.pause, batch_id)
    await ended(database, worker, lease, "ff")
    await enforce(database)
    assert (await get(database, batch_id)).waiting_reason == "paused: failure threshold exceeded"
    await turn(database, transitions.resume, batch_id)
    assert await enforce(database) == 0
    assert len(await claim(database, worker, 9)) == 1


async def test_a_batch_that_was_paused_by_a_limit_completes_with_what_was_in_flight(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 3, failure_threshold=threshold("0.5", 1, PAUSE))
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [held] = await claim(database, worker, 1)
    await ended(database, worker, first, "f")
    await enforce(database)
    await turn(database, transitions.resume, batch_id)
    await ended(database, worker, held, "f")
    [last] = await claim(database, worker, 1) or [None]
    assert last is None  # it is exceeded anew
    await enforce(database)
    assert (await get(database, batch_id)).status is BatchStatus.PAUSED
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)
    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
    assert await violations(database) == []


async def test_a_limit_that_fails_the_batch_goes_before_one_that_paused_it(database: Database) -> None:
    batch_id = await make_batch(
        database, 9, failure_threshold=threshold("0.5", 1, PAUSE), budget=Budget(10, FAIL)
    )
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [held] = await claim(database, worker, 1)
    await ended(database, worker, first, "f")
    await enforce(database)
    assert (await get(database, batch_id)).status is BatchStatus.PAUSED
    await ended(database, worker, held, "s", prompt_tokens=10)
    await enforce(database)
    assert (await get(database, batch_id)).waiting_reason == "draining"
    await sweep(database)
    assert (await get(database, batch_id)).status is BatchStatus.FAILED


# --- retry ------------------------------------------------------------------------------------------------------------


async def test_each_run_has_the_threshold_and_the_budget_anew_and_the_tokens_stay_counted(
    database: Database,
) -> None:
    limited = {"failure_threshold": threshold("0.5", 2), "budget": Budget(100, FAIL)}
    batch_id = await make_batch(database, 6, webhook=WEBHOOK, **limited)
    await run(database, batch_id, "sff", prompt_tokens=20)
    await enforce(database)
    await sweep(database)
    assert (await get(database, batch_id)).status is BatchStatus.FAILED

    await turn(database, retries.retry, batch_id)
    batch = await get(database, batch_id)
    assert (batch.status, batch.error, batch.ending) == (BatchStatus.IN_PROGRESS, None, None)
    assert (batch.failure_threshold, batch.budget) == tuple(limited.values())
    await run(database, batch_id, "sf", prompt_tokens=20)  # 1 of 2, and 40 tokens in this run
    assert await exceeded(database, batch_id) is None
    await run(database, batch_id, "s", prompt_tokens=60)
    assert await exceeded(database, batch_id) == "budget"
    await enforce(database)
    await sweep(database)
    batch = await get(database, batch_id)
    assert (batch.status, batch.prompt_tokens, batch.success) == (BatchStatus.FAILED, 160, 3)
    assert await events(database, batch_id) == ["failed", "failed"]
    async with database.connection() as connection:
        _, _, attempts = await results.one(connection, batch, "item-5")
    assert '"type":"threshold_exceeded","message":"' in (attempts[0].error or "")
    assert await violations(database) == []


async def test_failures_that_a_retry_leaves_are_not_held_against_its_run(database: Database) -> None:
    batch_id = await make_batch(database, 6, failure_threshold=threshold("0.5", 2))
    await run(database, batch_id, "sfff")
    await enforce(database)
    await sweep(database)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id, retries.Choice(custom_ids=["item-4", "item-5"]))
    await run(database, batch_id, "ss")
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, 3, 3)


# --- races ------------------------------------------------------------------------------------------------------------


async def test_a_claim_that_waits_for_the_stop_gets_nothing(database: Database) -> None:
    batch_id = await make_batch(database, 9, failure_threshold=threshold("0", 1, PAUSE))
    await run(database, batch_id, "f")
    async with database.transaction() as tx:
        await limits.enforce(tx)
        assert await claim(database, await make_worker(database), 5) == []


async def test_the_stop_waits_for_a_claim_that_came_first(database: Database) -> None:
    """Its items are in flight when the batch shows that it was stopped."""
    batch_id = await make_batch(database, 9, failure_threshold=threshold("0", 1))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    async with database.transaction() as tx:
        assert len((await claims.claim(tx, worker, {"noop": 1})).leases) == 1
        await ended(database, worker, lease, "f")
        assert await enforce(database) == 0
    assert await enforce(database) == 1
    batch = await get(database, batch_id)
    assert (batch.waiting_reason, batch.processing) == ("draining", 1)


async def test_a_cancel_that_came_first_ends_the_batch_as_cancelled(database: Database) -> None:
    batch_id = await make_batch(database, 9, webhook=WEBHOOK, failure_threshold=threshold("0", 1))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await turn(database, transitions.cancel, batch_id)
    await ended(database, worker, lease, "f")
    assert await enforce(database) == 0
    await sweep(database)
    batch = await get(database, batch_id)
    assert (batch.status, batch.cancelled) == (BatchStatus.CANCELLED, 8)
    assert await exceeded(database, batch_id) is None
    assert await events(database, batch_id) == ["cancelled"]


async def test_a_cancel_that_waits_for_the_stop_is_refused(database: Database) -> None:
    batch_id = await make_batch(database, 9, failure_threshold=threshold("0", 1))
    await run(database, batch_id, "f")
    async with database.transaction() as tx:
        assert await limits.enforce(tx) == 1
        late = asyncio.create_task(turn(database, transitions.cancel, batch_id))
        await blocked(database, late)
        assert not late.done()
    with pytest.raises(Conflict, match="draining"):
        await late


async def test_a_resume_does_not_wait_for_a_flush_that_waits_for_it(database: Database) -> None:
    """The flush has the counters and wants the schedule row, for it ends the batch; the resume wants both, too."""
    batch_id = await make_batch(database, 2, failure_threshold=threshold("0", 1, PAUSE))
    worker = await make_worker(database)
    [first] = await claim(database, worker, 1)
    [last] = await claim(database, worker, 1)
    await ended(database, worker, first, "r")
    [again] = await claim(database, worker, 1)
    await ended(database, worker, again, "f")
    await sql(database, "UPDATE batch SET status = 'paused', paused_by = 'threshold' WHERE id = $1", batch_id)
    await sql(database, "UPDATE batch_schedule SET paused = true WHERE batch_id = $1", batch_id)
    async with database.transaction() as tx:
        tallies = await recording._insert(tx, [failure(last, last.items[0].ordinal)])
        complete = await counts.add(tx, recording._tallies(tallies))
        resuming = asyncio.create_task(turn(database, transitions.resume, batch_id))
        await blocked(database, resuming)
        assert not resuming.done()
        async with asyncio.timeout(0.9):  # Postgres looks for deadlocks after a second
            assert await endings.finish(tx, complete) == 1
    with pytest.raises(Conflict, match="'completed'"):
        await resuming


async def test_a_resume_lets_a_flush_count_whose_chat_it_waits_for(database: Database) -> None:
    """The flush gives the chat up and wants the counters; the resume wants both, for an item that waits for the chat."""
    batch_id = await make_batch(database, in_chats(7, 7, None), failure_threshold=threshold("0", 1, PAUSE))
    worker = await make_worker(database)
    [talking] = await claim(database, worker, 1)
    [failing] = await claim(database, worker, 2)
    await ended(database, worker, failing, "f")
    assert await enforce(database) == 1
    async with database.transaction() as tx:
        last = success(talking, 0, history_id=7)
        inserted = await recording._insert(tx, [last])
        await recording._give_chats_up(tx, inserted)
        resuming = asyncio.create_task(turn(database, transitions.resume, batch_id))
        await blocked(database, resuming)
        assert not resuming.done()
        async with asyncio.timeout(0.9):  # Postgres looks for deadlocks after a second
            await counts.add(tx, recording._tallies(inserted))
        await claims.set_remaining(tx, {talking.id: 0})
    await resuming
    assert ordinals(await claim(database, worker, 9)) == [1]
    assert await violations(database) == []


@pytest.mark.timeout(400)
async def test_of_a_stop_a_cancel_and_the_last_results_exactly_one_ends_the_batch(database: Database) -> None:
    """Workers, callers and upkeep side by side, in an order that the seed and Postgres choose."""
    chance = random.Random(20261125)
    ends = set()
    for action, cancelled_after in [(PAUSE, 99), (FAIL, 99), (PAUSE, 5), (FAIL, 5), (FAIL, 15)] * 3:
        batch_id = await make_batch(
            database, 30, webhook=WEBHOOK, failure_threshold=threshold("0.3", 5, action)
        )
        workers = [_work(database, chance.randrange(10**6)) for _ in range(3)]
        await asyncio.gather(
            *workers, _upkeep(database, batch_id), _cancel(database, batch_id, cancelled_after)
        )
        status = (await get(database, batch_id)).status
        ends.add(status)
        assert await events(database, batch_id) == [status.value]
        assert await violations(database) == []
    assert ends == {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED}


async def _work(database: Database, seed: int) -> None:
    chance, worker = random.Random(seed), await make_worker(database)
    odds = chance.choice(["ssf", "sfr", "ffs"])
    while (
        await sql(database, "SELECT count(*) FROM batch WHERE completed_at IS NULL AND cancelled_at IS NULL")
    )[0]:
        for lease in await claim(database, worker, chance.randint(1, 4)):
            await ended(database, worker, lease, "".join(chance.choice(odds) for _ in lease.items))


async def _upkeep(database: Database, batch_id: UUID) -> None:
    """And somebody who resumes whatever was paused."""
    while (batch := await get(database, batch_id)).completed_at is None and batch.cancelled_at is None:
        await enforce(database)
        await sweep(database, most=3)
        if batch.status is BatchStatus.PAUSED:
            with contextlib.suppress(Conflict):
                await turn(database, transitions.resume, batch_id)


async def _cancel(database: Database, batch_id: UUID, after: int) -> None:
    """Once so many items have ended."""
    while (batch := await get(database, batch_id)).completed_at is None:
        if batch.success + batch.failed >= after:
            with contextlib.suppress(Conflict):
                await turn(database, transitions.cancel, batch_id)
            return
