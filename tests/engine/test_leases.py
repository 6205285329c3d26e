"""What is lost with a worker waits again, exactly once."""

import asyncio
import random

import pytest

from factories import (
    all_of,
    claim,
    drain,
    events,
    failure,
    get,
    lose,
    make_batch,
    make_worker,
    ordinals,
    reclaim,
    record,
    retry,
    sql,
    success,
    violations,
    waiting,
)
from gristmill.db import Database
from gristmill.domain.states import BatchStatus
from gristmill.store import leases, spans
from gristmill.store.recording import Flush


async def test_a_first_loss_puts_runs_of_items_back_whole(database: Database) -> None:
    batch_id = await make_batch(database, 10)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 10)
    await record(database, worker, Flush({lease.id: 8}, [success(lease, 3), failure(lease, 4)]))

    await lose(database, worker)

    assert await waiting(database, batch_id) == [(0, 2), (5, 9)]
    assert await violations(database) == []


async def test_a_second_loss_puts_items_back_one_by_one(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    for _ in range(2):
        worker = await make_worker(database)
        await claim(database, worker, 3)
        await lose(database, worker)

    assert await waiting(database, batch_id) == [(0, 0), (1, 1), (2, 2)]
    assert await violations(database) == []


async def test_what_was_lost_is_taken_up_before_what_has_never_begun(database: Database) -> None:
    """Else it would wait for all of a large batch."""
    await make_batch(database, 1000)
    lost = await make_worker(database)
    [lease] = await claim(database, lost, 10)
    await lose(database, lost)
    [again] = await claim(database, await make_worker(database), 10)
    assert ordinals([again]) == ordinals([lease])


async def test_an_item_lost_three_times_ends_as_failed(database: Database) -> None:
    batch_id = await make_batch(database, 1, max_attempts=1)
    for _ in range(3):
        worker = await make_worker(database)
        [lease] = await claim(database, worker, 1)
        await lose(database, worker)

    assert lease.attempt == 3
    batch = await get(database, batch_id)
    assert (batch.status, batch.failed) == (BatchStatus.COMPLETED, 1)
    [(code, attempt, error)] = await sql(database, "SELECT code, attempt, error FROM result")
    assert (code, attempt) == (500, 3)
    assert '"worker_lost"' in error
    assert await events(database, batch_id) == ["completed"]
    assert await violations(database) == []


async def test_losses_count_as_attempts(database: Database) -> None:
    batch_id = await make_batch(database, 1, max_attempts=5)
    for expected in range(1, 6):
        worker = await make_worker(database)
        [lease] = await claim(database, worker, 1)
        assert lease.attempt == expected
        await lose(database, worker)

    assert (await get(database, batch_id)).failed == 1


async def test_each_lost_run_is_kept_in_the_history_of_its_item(database: Database) -> None:
    await make_batch(database, 2)
    for _ in range(2):
        worker = await make_worker(database)
        await claim(database, worker, 2)
        await lose(database, worker)

    kept = await sql(
        database, "SELECT ordinal, attempt, code, run FROM item_attempt ORDER BY ordinal, attempt"
    )
    assert kept == [(0, 1, 500, 1), (0, 2, 500, 1), (1, 1, 500, 1), (1, 2, 500, 1)]
    assert all('"worker_lost"' in error for error in await sql(database, "SELECT error FROM item_attempt"))
    assert await sql(database, "SELECT count(*) FROM item_attempt WHERE started_at IS NULL") == [0]


async def test_a_poison_item_ends_alone_and_its_neighbours_succeed(database: Database) -> None:
    """Every worker that holds item 4 dies before it records anything; max_attempts is 1."""
    batch_id = await make_batch(database, 10, max_attempts=1)
    worker = await make_worker(database)
    deaths = 0
    while claimed := await claim(database, worker, 10):
        held = [lease for lease in claimed if 4 in ordinals([lease])]
        for lease in claimed:
            if lease not in held and deaths > 1:
                await record(database, worker, all_of([lease]))
        if held:
            deaths += 1
            await lose(database, worker)
            worker = await make_worker(database)

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, 9, 1)
    assert await sql(database, "SELECT ordinal FROM result WHERE status = 2") == [4]
    assert deaths == 3
    assert await violations(database) == []


@pytest.mark.parametrize(("allowed", "beside_others"), [(1, 2), (3, 2), (4, 3), (9, 3)])
async def test_an_item_runs_alone_for_its_last_run_or_after_three_losses(
    database: Database, allowed: int, beside_others: int
) -> None:
    """Those lost for the second time come back one by one all the same."""
    batch_id = await make_batch(database, 2, max_attempts=allowed)
    for lost in range(beside_others):
        worker = await make_worker(database)
        claimed = await claim(database, worker, 2)
        assert [one.losses for one in claimed] == [lost] * len(claimed)
        assert len(ordinals(claimed)) == 2
        await lose(database, worker)
        assert await waiting(database, batch_id) == ([(0, 1)] if lost == 0 else [(0, 0), (1, 1)])

    worker = await make_worker(database)
    assert ordinals(await claim(database, worker, 2)) == [
        0
    ]  # no more than that, as nothing else can be claimed
    assert await sql(database, "SELECT losses FROM lease") == [spans.SUSPECT_LOSSES]


async def test_a_stuck_lease_of_a_live_worker_is_taken_at_its_deadline(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    worker = await make_worker(database)
    await claim(database, worker, 2)
    assert await reclaim(database) == 0

    await sql(database, "UPDATE lease SET deadline_at = now() - interval '1 s'")

    assert await reclaim(database) == 1
    assert await waiting(database, batch_id) == [(0, 1)]
    assert await sql(database, "SELECT dead FROM worker") == [False]


async def test_a_lease_of_a_worker_nobody_knows_is_taken(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    await claim(database, await make_worker(database), 2)
    await sql(database, "DELETE FROM worker")

    assert await reclaim(database) == 1
    assert await waiting(database, batch_id) == [(0, 1)]


async def test_a_lease_of_a_batch_that_is_gone_keeps_no_other_from_being_taken(database: Database) -> None:
    gone = await make_batch(database, 2)
    worker = await make_worker(database)
    await claim(database, worker, 2)
    await sql(database, "DELETE FROM batch WHERE id = $1", gone)
    batch_id = await make_batch(database, 2)
    await claim(database, worker, 2)

    await lose(database, worker)

    assert await sql(database, "SELECT id FROM lease") == []
    assert await waiting(database, gone) == []
    assert await waiting(database, batch_id) == [(0, 1)]


async def test_a_lease_lasts_twice_the_timeout_of_an_item_and_a_minute(database: Database) -> None:
    await make_batch(database, 1, item_timeout_seconds=40.0)
    await claim(database, await make_worker(database), 1)

    [seconds] = await sql(database, "SELECT extract(epoch FROM deadline_at - started_at)::float8 FROM lease")
    assert seconds == pytest.approx(140)


async def test_a_retried_item_is_taken_back_from_the_worker_that_has_it_now(database: Database) -> None:
    """Lease 1 still covers ordinal 1 with its range, but gave it back: losing lease 2 must not lose the item."""
    batch_id = await make_batch(database, 3)
    first, second = await make_worker(database), await make_worker(database)
    [lease] = await claim(database, first, 3)
    await record(database, first, Flush({lease.id: 2}, [], [retry(lease, 1)]))
    assert ordinals(await claim(database, second, 3)) == [1]

    await lose(database, second)

    assert await waiting(database, batch_id) == [(1, 1)]
    await record(database, first, Flush({lease.id: 0}, [success(lease, 0), success(lease, 2)]))
    assert await drain(database, first) == 1
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_a_retried_item_stays_with_its_new_worker_when_the_old_one_is_lost(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    first, second = await make_worker(database), await make_worker(database)
    [lease] = await claim(database, first, 3)
    await record(database, first, Flush({lease.id: 2}, [], [retry(lease, 1)]))
    held = await claim(database, second, 3)

    await lose(database, first)

    assert await waiting(database, batch_id) == [(0, 0), (2, 2)]
    await record(database, second, all_of(held))
    assert await drain(database, second) == 2
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_two_claimedthat_share_a_range_may_be_lost_together(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    first, second, third = [await make_worker(database) for _ in range(3)]
    [lease] = await claim(database, first, 3)
    await record(database, first, Flush({lease.id: 2}, [], [retry(lease, 1)]))
    await claim(database, second, 3)

    await sql(database, "UPDATE worker SET dead = true WHERE id = ANY ($1)", [first, second])
    assert await reclaim(database) == 2

    assert await waiting(database, batch_id) == [(0, 0), (1, 1), (2, 2)]
    assert await drain(database, third) == 3
    assert await violations(database) == []


async def test_what_a_claim_took_whose_answer_was_lost_is_given_back_without_an_attempt(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 6)
    worker = await make_worker(database)
    [known] = await claim(database, worker, 2)
    await claim(database, worker, 3)  # its answer is lost on the way

    async with database.transaction() as tx:
        assert await leases.disown(tx, worker, [known.id]) == 1

    assert await waiting(database, batch_id) == [(2, 4), (5, 5)]
    assert await sql(database, "SELECT count(*) FROM item_attempt") == [0]
    await record(database, worker, all_of([known]))
    assert {lease.attempt for lease in await claim(database, worker, 10)} == {1}
    assert await violations(database) == []


async def test_disowning_leaves_other_workers_alone(database: Database) -> None:
    await make_batch(database, 4)
    worker, other = await make_worker(database), await make_worker(database)
    await claim(database, other, 2)

    async with database.transaction() as tx:
        assert await leases.disown(tx, worker, []) == 0

    assert await sql(database, "SELECT worker_id FROM lease") == [other]


async def test_losing_a_worker_while_it_records_neither_loses_nor_counts_twice(database: Database) -> None:
    """Two connections: the reaper takes the lease at the moment in which its worker records a part of it."""
    seeded = random.Random(4)
    for _ in range(25):
        batch_id = await make_batch(database, 8)
        zombie, heir = await make_worker(database), await make_worker(database)
        [lease] = await claim(database, zombie, 8)
        await sql(database, "UPDATE worker SET dead = true WHERE id = $1", zombie)
        verdicts = seeded.sample(range(8), seeded.randint(1, 8))
        back = verdicts[: seeded.randint(0, 2)]
        flush = Flush(
            {lease.id: 8 - len(verdicts)},
            [success(lease, n) for n in verdicts if n not in back],
            [retry(lease, n) for n in back],
        )

        await asyncio.gather(
            *seeded.sample([record(database, zombie, flush), reclaim(database)], 2)
        )  # in either order
        await reclaim(database)  # a lease the reaper skipped because the worker was recording
        await drain(database, heir)

        batch = await get(database, batch_id)
        assert (batch.status, batch.success) == (BatchStatus.COMPLETED, 8)
        assert await events(database, batch_id) == ["completed"]
        assert await violations(database) == []
