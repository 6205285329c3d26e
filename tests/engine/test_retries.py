"""A batch that runs again: what is chosen, what is kept, and that nothing of an earlier run gets in."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from factories import (
    TENANT,
    all_of,
    blocked,
    claim,
    drain,
    events,
    expire,
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
    waiting,
)
from gristmill.db import Database
from gristmill.domain.errors import Conflict, Invalid, NotFound
from gristmill.domain.states import BatchStatus
from gristmill.store import batches, endings, leases, recording, results, retries, transitions, workers
from gristmill.store.new_batches import NewItem, NewWebhook
from gristmill.store.recording import Flush
from gristmill.store.retries import Choice
from gristmill.store.spans import Waiting


async def ended_with(
    database: Database, worker: int, *codes: int | None, items: Sequence[NewItem] | None = None, **more: Any
) -> UUID:
    """A completed batch whose items ended with these codes; None: success."""
    batch_id = await make_batch(database, items or len(codes), **more)
    [lease] = await claim(database, worker, len(codes))
    await record(database, worker, Flush({lease.id: 0}, _ended(lease, codes)))
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    return batch_id


def _ended(lease: Any, codes: Sequence[int | None]) -> list[Any]:
    return [success(lease, n) if code is None else failure(lease, n, code) for n, code in enumerate(codes)]


async def again(database: Database, batch_id: UUID, choice: Choice = retries.ALL) -> batches.Batch:
    async with database.transaction() as tx:
        return await retries.retry(tx, TENANT, batch_id, choice)


async def attempts(database: Database, batch_id: UUID, custom_id: str) -> list[tuple[int, int, int]]:
    async with database.connection() as connection:
        batch = await batches.get(connection, TENANT, batch_id)
        _, _, found = await results.one(connection, batch, custom_id)
    return [(one.run, one.attempt, one.code) for one in found]


# --- what is chosen, what is kept -----------------------------------------------------------------------------------


async def test_a_retry_runs_the_failed_items_again_and_counts_go_back_exactly(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, 500, None, 400, None, 500)

    batch = await again(database, batch_id)

    assert (batch.status, batch.run, batch.ending) == (BatchStatus.IN_PROGRESS, 2, None)
    assert (batch.success, batch.failed, batch.pending, batch.completed_at) == (2, 0, 4, None)
    assert await waiting(database, batch_id) == [(0, 1), (3, 3), (5, 5)]
    assert await violations(database) == []
    assert await drain(database, worker) == 4
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, 6, 0)
    assert await attempts(database, batch_id, "item-0") == [(1, 1, 500)]
    assert await attempts(database, batch_id, "item-2") == []
    assert await violations(database) == []


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (Choice(error_codes=[400]), [(3, 3)]),
        (Choice(error_codes=[400, 500]), [(0, 1), (3, 3), (5, 5)]),
        (Choice(custom_ids=["item-5", "item-0", "item-2", "item-0"]), [(0, 0), (5, 5)]),
        (Choice(error_codes=[500], custom_ids=["item-3", "item-1"]), [(1, 1)]),
    ],
)
async def test_codes_and_custom_ids_choose_among_the_failed(
    database: Database, choice: Choice, chosen: list[tuple[int, int]]
) -> None:
    batch_id = await ended_with(database, await make_worker(database), 500, 500, None, 400, None, 500)

    batch = await again(database, batch_id, choice)

    assert await waiting(database, batch_id) == chosen
    assert batch.pending == sum(last - first + 1 for first, last in chosen)
    assert batch.failed == 4 - batch.pending
    assert await violations(database) == []


@pytest.mark.parametrize(
    "choice", [Choice(error_codes=[408]), Choice(custom_ids=["item-0"]), Choice(custom_ids=[])]
)
async def test_a_choice_of_nothing_is_refused_and_changes_nothing(database: Database, choice: Choice) -> None:
    batch_id = await ended_with(database, await make_worker(database), None, 500)

    with pytest.raises(Invalid) as refusal:
        await again(database, batch_id, choice)

    assert refusal.value.code == "nothing_to_retry"
    batch = await get(database, batch_id)
    assert (batch.status, batch.run, batch.failed) == (BatchStatus.COMPLETED, 1, 1)
    assert await violations(database) == []


async def test_custom_ids_that_the_batch_does_not_have_are_all_named(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, 500)
    await ended_with(database, worker, 500, items=[NewItem("elsewhere", "{}")])

    with pytest.raises(Invalid) as refusal:
        await again(database, batch_id, Choice(custom_ids=["item-0", "elsewhere", "item-1", "ITEM-1"]))

    assert [(one.pointer, one.code) for one in refusal.value.problems] == [
        ("/custom_ids/1", "unknown_custom_id"),
        ("/custom_ids/3", "unknown_custom_id"),
    ]
    assert (await get(database, batch_id)).run == 1


async def test_items_that_a_cancel_or_a_deadline_ended_can_be_run_after_all(database: Database) -> None:
    worker = await make_worker(database)
    cancelled, late = [await make_batch(database, 6) for _ in range(2)]
    await turn(database, transitions.cancel, cancelled)
    await expire(database, late)
    await sweep(database)
    before = await get(database, late)
    assert (before.status, before.expired, before.error is None) == (BatchStatus.FAILED, 6, False)

    for batch_id in (cancelled, late):
        batch = await again(database, batch_id)
        assert (batch.cancelled, batch.expired, batch.pending) == (0, 0, 6)
        assert (batch.error, batch.cancelled_at, batch.completed_at, batch.ending) == (None, None, None, None)
        assert await waiting(database, batch_id) == [(0, 5)]
    assert await sql(
        database, "SELECT deadline_at - now() > interval '23 h' FROM batch_schedule WHERE batch_id = $1", late
    ) == [True]
    assert await drain(database, worker) == 12
    assert await events(database, cancelled) == ["cancelled", "completed"]
    assert await events(database, late) == ["failed", "completed"]
    assert await attempts(database, cancelled, "item-3") == [(1, 0, 499)]
    async with database.connection() as connection:
        _, _, [attempt] = await results.one(connection, await get(database, late), "item-3")
    assert attempt.error == results.EXPIRED
    assert await violations(database) == []


async def test_each_run_has_its_own_event_and_delivery(database: Database) -> None:
    worker = await make_worker(database)
    hook = NewWebhook("https://a.example/", ("completed",))
    batch_id = await ended_with(database, worker, 500, None, webhook=hook)
    for _ in range(2):
        await again(database, batch_id)
        [lease] = await claim(database, worker, 5)
        await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0)]))

    rows = await sql(database, "SELECT run, type, body FROM event WHERE batch_id = $1 ORDER BY run", batch_id)
    assert [(run, kind) for run, kind, _ in rows] == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert len({body for _, _, body in rows}) == 3
    assert await sql(database, "SELECT count(DISTINCT event_id) FROM delivery") == [3]
    assert await attempts(database, batch_id, "item-0") == [(1, 1, 500), (2, 1, 500)]
    assert await violations(database) == []


async def test_what_a_failed_run_used_is_kept_with_it_and_stays_in_the_totals(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, 1)
    [lease] = await claim(database, worker, 1)
    spent = failure(lease, 0)
    spent.usage, spent.calls, spent.prompt_tokens = '{"total_calls":1}', 1, 7
    await record(database, worker, Flush({lease.id: 0}, [spent]))

    await again(database, batch_id)
    await drain(database, worker)

    batch = await get(database, batch_id)
    assert (batch.calls, batch.prompt_tokens) == (1, 7)
    async with database.connection() as connection:
        _, _, [attempt] = await results.one(connection, batch, "item-0")
    assert attempt.usage == '{"total_calls":1}'
    assert attempt.started_at is not None


async def test_attempts_count_anew_and_the_speed_is_that_of_the_new_run(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, *[None] * 50, 500, max_attempts=1)
    assert (await again(database, batch_id)).throughput is None

    [lease] = await claim(database, worker, 5)
    assert lease.attempt == 1
    await sql(database, "UPDATE lease SET started_at = now() - interval '10 s'")
    [began] = await sql(database, "SELECT started_at FROM lease")
    late = success(replace(lease, started_at=began), 50)
    await record(database, worker, Flush({lease.id: 0}, [late]))

    speed = (await get(database, batch_id)).throughput
    assert speed is not None
    assert 0.02 < speed < 0.11  # one item in 10 s, not 51


async def test_refused_items_never_run_again(database: Database) -> None:
    worker = await make_worker(database)
    items = [NewItem("good", "{}"), NewItem("bad", "{}", error='{"type":"invalid_input","message":"no"}')]
    batch_id = await make_batch(database, items)
    [lease] = await claim(database, worker, 5)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0, 400)]))

    batch = await again(database, batch_id)

    assert (batch.failed, batch.pending) == (1, 1)
    assert await waiting(database, batch_id) == [(0, 0)]
    await drain(database, worker)
    with pytest.raises(Invalid):
        await again(database, batch_id)
    with pytest.raises(Invalid):
        await again(database, batch_id, Choice(error_codes=[400], custom_ids=["bad"]))


async def test_a_retried_item_waits_for_its_chat(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, in_chats(7, 7, None))
    for _ in range(2):  # the second of the chat follows the first
        for lease in await claim(database, worker, 5):
            ended = [failure(lease, item.ordinal, history_id=item.history_id) for item in lease.items]
            await record(database, worker, Flush({lease.id: 0}, ended))
    other = await make_batch(database, in_chats(7))
    [theirs] = await claim(database, worker, 5)
    assert theirs.batch_id == other

    await again(database, batch_id)
    [free] = await claim(database, worker, 5)

    assert ordinals([free]) == [2]
    assert await violations(database) == []
    await record(database, worker, all_of([theirs]))
    [first] = await claim(database, worker, 5)
    assert (first.batch_id, ordinals([first])) == (batch_id, [0])
    assert await claim(database, worker, 5) == []
    await record(database, worker, all_of([first]))
    await record(database, worker, all_of([free]))
    assert await drain(database, worker) == 1
    assert await sql(database, "SELECT count(*) FROM history_lock") == [0]
    assert await violations(database) == []


async def test_a_hundred_thousand_failed_items_are_back_within_seconds(database: Database) -> None:
    """Every second of 200,000, so that no two are neighbours, and then all of them at once."""
    many = 200_000
    worker = await make_worker(database)
    batch_id = await make_batch(database, [NewItem(str(n), "{}") for n in range(many)])
    await turn(database, transitions.cancel, batch_id)
    async with database.transaction() as tx:
        while await endings.sweep(tx, most=50_000):
            pass
    await sql(database, "UPDATE result SET status = 1, code = NULL WHERE ordinal % 2 = 1")
    await sql(database, "UPDATE batch_count SET success = $1, failed = $1, cancelled = $1", many // 2)

    begun = time.monotonic()
    batch = await again(database, batch_id)
    took = time.monotonic() - begun

    assert (batch.pending, batch.success, batch.failed) == (many // 2, many // 2, 0)
    assert await sql(database, "SELECT count(*) FROM span") == [many // 2]
    assert took < 20  # about 1 s on a quiet machine; one row at a time takes minutes
    [lease, *more] = await claim(database, worker, 300)
    assert ordinals([lease, *more])[:3] == [0, 2, 4]
    await turn(database, transitions.cancel, batch_id)


# --- races ----------------------------------------------------------------------------------------------------------


async def test_a_zombie_of_an_earlier_run_changes_nothing_in_this_one(database: Database) -> None:
    """Its items were taken from it and failed with others. What it brings comes late, whatever it is."""
    zombie, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 4)
    [old] = await claim(database, zombie, 4)
    await lose(database, zombie)
    [lease] = await claim(database, worker, 4)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, n) for n in range(4)]))
    await again(database, batch_id)

    late = Flush({old.id: 0}, [success(old, 0), failure(old, 1)], [retry(old, 2)], [(old.id, _back(old, 3))])
    await record(database, zombie, late)

    batch = await get(database, batch_id)
    assert (batch.success, batch.failed, batch.pending) == (0, 0, 4)
    assert await waiting(database, batch_id) == [(0, 3)]
    assert await violations(database) == []
    [mine] = await claim(database, worker, 4)
    await record(database, zombie, late)
    await record(database, worker, all_of([mine]))
    await record(database, zombie, late)
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, 4, 0)
    assert await events(database, batch_id) == ["completed", "completed"]
    assert await violations(database) == []


def _back(lease: Any, ordinal: int) -> Waiting:
    return Waiting(lease.batch_id, ordinal, ordinal, lease.attempt - 1, lease.losses)


async def test_a_zombie_of_an_earlier_run_does_not_give_the_chat_of_this_one_up(database: Database) -> None:
    zombie, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, in_chats(7, 7))
    [old] = await claim(database, zombie, 1)
    await lose(database, zombie)
    while found := await claim(database, worker, 5):
        [lease] = found
        ended = [failure(lease, item.ordinal, history_id=7) for item in lease.items]
        await record(database, worker, Flush({lease.id: 0}, ended))
    await again(database, batch_id)
    [mine] = await claim(database, worker, 2)
    assert ordinals([mine]) == [0]

    await record(database, zombie, Flush({old.id: 0}, [failure(old, 0)]))
    await record(database, zombie, Flush({old.id: 0}, [failure(old, 0, history_id=7)]))

    assert await sql(database, "SELECT batch_id, ordinal FROM history_lock") == [(batch_id, 0)]
    assert await claim(database, worker, 2) == []
    await record(database, worker, all_of([mine]))
    assert await drain(database, worker) == 1
    assert await violations(database) == []


async def test_a_lease_left_over_when_the_batch_ended_is_void_in_the_next_run(database: Database) -> None:
    """The zombie recorded first: the batch ends while another worker still runs the item, which then wants to retry it."""
    zombie, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 2)
    [old] = await claim(database, zombie, 2)
    await lose(database, zombie)
    [running] = await claim(database, worker, 2)
    await record(database, zombie, Flush({old.id: 0}, [failure(old, 0), success(old, 1)]))
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await sql(database, "SELECT count(*) FROM lease") == [1]

    batch = await again(database, batch_id)
    assert (batch.pending, batch.processing) == (1, 0)
    await record(database, worker, Flush({running.id: 0}, [success(running, 1)], [retry(running, 0)]))

    assert await waiting(database, batch_id) == [(0, 0)]
    assert await violations(database) == []
    assert await drain(database, worker) == 1
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED


async def test_a_flush_under_way_for_a_left_over_lease_is_waited_for(database: Database) -> None:
    """It holds the lease, and puts an item back: into the ended batch, before the retry lays its own spans."""
    zombie, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 2)
    [old] = await claim(database, zombie, 2)
    await lose(database, zombie)
    [running] = await claim(database, worker, 2)
    await record(database, zombie, Flush({old.id: 0}, [failure(old, 0), success(old, 1)]))

    async with database.transaction() as tx:
        back = [(running.id, _back(running, n)) for n in range(2)]
        await recording.record(tx, worker, Flush({running.id: 0}, [], [], back), alone=False)
        retrying = asyncio.create_task(again(database, batch_id))
        await blocked(database, retrying)
        assert not retrying.done()

    assert (await retrying).pending == 1
    assert await waiting(database, batch_id) == [(0, 0)]
    assert await violations(database) == []


async def test_a_late_flush_that_waits_for_the_retry_is_withdrawn(database: Database) -> None:
    """It meets the result that the retry is just taking away, and would come in its place."""
    zombie, worker = await make_worker(database), await make_worker(database)
    batch_id = await make_batch(database, 1)
    [old] = await claim(database, zombie, 1)
    await lose(database, zombie)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0)]))

    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
        late = asyncio.create_task(record(database, zombie, Flush({old.id: 0}, [failure(old, 0)])))
        await blocked(database, late)
        assert not late.done()
    await late

    batch = await get(database, batch_id)
    assert (batch.failed, batch.pending) == (0, 1)
    assert await violations(database) == []
    assert await drain(database, worker) == 1
    assert (await get(database, batch_id)).success == 1


async def test_of_two_retries_at_once_one_is_refused(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, 500, None)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id, Choice(custom_ids=["item-0"]))
        second = asyncio.create_task(again(database, batch_id))
        await blocked(database, second)
        assert not second.done()

    with pytest.raises(Conflict, match="cannot retry a batch with status 'in_progress'"):
        await second
    batch = await get(database, batch_id)
    assert (batch.run, batch.pending, batch.failed) == (2, 1, 1)
    assert await violations(database) == []


async def test_a_delete_and_a_retry_exclude_each_other(database: Database) -> None:
    worker = await make_worker(database)
    deleted, retried = [await ended_with(database, worker, 500) for _ in range(2)]
    async with database.transaction() as tx:
        await transitions.delete(tx, TENANT, deleted)
        too_late = asyncio.create_task(again(database, deleted))
        await blocked(database, too_late)
    with pytest.raises(NotFound):
        await too_late

    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, retried)
        refused = asyncio.create_task(turn(database, transitions.delete, retried))
        await blocked(database, refused)
    with pytest.raises(Conflict, match="'in_progress'"):
        await refused
    assert await drain(database, worker) == 1
    assert await violations(database) == []
    assert await sql(database, "SELECT count(*) FROM span") == [0]


@pytest.mark.parametrize(
    ("action", "status"),
    [(transitions.pause, BatchStatus.PAUSED), (transitions.cancel, BatchStatus.CANCELLING)],
)
async def test_a_turn_is_refused_until_the_retry_commits_and_applies_to_the_new_run_from_then_on(
    database: Database, action: Any, status: BatchStatus
) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, 500)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
        with pytest.raises(Conflict, match="'completed'"):
            await turn(database, action, batch_id)
    await turn(database, action, batch_id)

    assert (await get(database, batch_id)).status is status
    assert await claim(database, worker, 5) == []
    assert await violations(database) == []
    await sweep(database)
    if action is transitions.cancel:
        batch = await get(database, batch_id)
        assert (batch.status, batch.cancelled, batch.run) == (BatchStatus.CANCELLED, 2, 2)
        assert await events(database, batch_id) == ["completed", "cancelled"]
        assert (await again(database, batch_id)).pending == 2
    else:
        await turn(database, transitions.resume, batch_id)
        assert await drain(database, worker) == 2
    assert await violations(database) == []


async def test_a_new_run_whose_deadline_passes_at_once_fails_again(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, None, deadline_seconds=10)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
        assert await endings.expire(tx) == 0
    assert await expire(database, batch_id) == 1
    await sweep(database)

    batch = await get(database, batch_id)
    assert (batch.status, batch.expired, batch.success, batch.run) == (BatchStatus.FAILED, 1, 1, 2)
    assert await events(database, batch_id) == ["completed", "failed"]
    assert await attempts(database, batch_id, "item-0") == [(1, 1, 500)]
    assert await violations(database) == []


async def test_nothing_of_a_retry_is_seen_before_it_commits(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500)
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
        assert await claim(database, worker, 5) == []
        assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert len(await claim(database, worker, 5)) == 1


async def test_a_retry_that_breaks_off_changes_nothing(database: Database) -> None:
    worker = await make_worker(database)
    batch_id = await ended_with(database, worker, 500, None)
    connection = await database.connect()
    transaction = connection.transaction()
    await transaction.start()
    await retries.retry(connection, TENANT, batch_id)
    await connection.close()  # as a process that ends here

    batch = await get(database, batch_id)
    assert (batch.status, batch.run, batch.failed) == (BatchStatus.COMPLETED, 1, 1)
    assert await attempts(database, batch_id, "item-0") == []
    assert await violations(database) == []


async def test_a_worker_that_dies_in_the_second_run_loses_its_items_in_that_run(database: Database) -> None:
    worker, dying = await make_worker(database), await make_worker(database)
    batch_id = await ended_with(database, worker, 500)
    await again(database, batch_id)
    await claim(database, dying, 1)
    async with database.transaction() as tx:
        await workers.leave(tx, dying)
    async with database.transaction() as tx:
        assert await leases.reclaim(tx) == 1

    assert await drain(database, worker) == 1
    assert await attempts(database, batch_id, "item-0") == [(1, 1, 500), (2, 1, 500)]
    assert await violations(database) == []
