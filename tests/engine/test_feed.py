"""The feed: each item that ended, once, in the order of the commits, whoever recorded it and wherever a reader resumes."""

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from factories import (
    TENANT,
    all_of,
    blocked,
    claim,
    drain,
    erase,
    expire,
    failure,
    get,
    lose,
    make_batch,
    make_worker,
    record,
    sql,
    success,
    sweep,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.states import TERMINAL, BatchStatus
from gristmill.store import feed, recording, retention, retries, transitions
from gristmill.store.feed import BEGINNING, Position
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush
from gristmill.store.results import Result

Told = tuple[Position, Result]


async def told(
    database: Database, batch_id: UUID, after: Position = BEGINNING, *, limit: int = 100
) -> list[Told]:
    """All that has ended since, as the batch stands now."""
    return [one async for one in _told(database, batch_id, after, limit)]


async def _told(database: Database, batch_id: UUID, after: Position, limit: int) -> AsyncIterator[Told]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        while (window := await feed.window(connection, batch, after, limit)) is not None:
            assert len(window.ended) <= limit
            for one in window.ended:
                yield one
            after = window.upto


def ordinals(given: list[Told]) -> list[int]:
    return [result.ordinal for _, result in given]


async def again(database: Database, batch_id: UUID) -> None:
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)


async def test_items_are_told_in_the_order_they_ended_with_a_place_each(database: Database) -> None:
    batch_id = await make_batch(database, 5)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 5)
    for left, ordinal in ((4, 3), (3, 0), (2, 4)):
        await record(database, worker, Flush({lease.id: left}, [success(lease, ordinal)]))
    await record(database, worker, Flush({lease.id: 0}, [failure(lease, 1), success(lease, 2)]))
    found = await told(database, batch_id)
    assert [position for position, _ in found] == [Position(1, n) for n in range(1, 6)]
    assert ordinals(found)[:3] == [3, 0, 4]
    assert sorted(ordinals(found)) == [0, 1, 2, 3, 4]
    assert await violations(database) == []


async def test_resuming_anywhere_gives_the_rest_and_nothing_twice(database: Database) -> None:
    batch_id = await make_batch(database, 30)
    worker = await make_worker(database)
    while claimed := await claim(database, worker, 7):
        await record(database, worker, all_of(claimed))
    every = await told(database, batch_id)
    assert len(every) == 30
    for place in range(31):
        for limit in (1, 4, 100):
            rest = await told(database, batch_id, Position(1, place), limit=limit)
            assert rest == every[place:]


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_doubled_while_workers_record_at_once_and_readers_come_and_go(
    database: Database, seed: int
) -> None:
    """Readers follow by what each has seen so far; commits overlap, and some flushes are sent twice."""
    chance = random.Random(seed)
    batch_id = await make_batch(database, 600)
    heard: list[list[Told]] = [[] for _ in range(3)]

    async def work() -> None:
        worker = await make_worker(database)
        while claimed := await claim(database, worker, chance.randint(1, 25)):
            for lease in claimed:
                items = [item.ordinal for item in lease.items]
                chance.shuffle(items)
                while items:
                    now, items = items[:3], items[3:]
                    flush = Flush({lease.id: len(items)}, [success(lease, ordinal) for ordinal in now])
                    await record(database, worker, flush, alone=True)
                    if chance.random() < 0.1:
                        await record(database, worker, flush)

    async def listen(mine: list[Told]) -> None:
        while (await get(database, batch_id)).status not in TERMINAL or len(mine) < 600:
            after = mine[-1][0] if mine else BEGINNING
            mine += await told(database, batch_id, after, limit=chance.randint(1, 50))
            await asyncio.sleep(0)

    async with asyncio.timeout(90):
        await asyncio.gather(*(work() for _ in range(4)), *(listen(mine) for mine in heard))
    for mine in heard:
        assert [position.place for position, _ in mine] == list(range(1, 601))
        assert sorted(ordinals(mine)) == list(range(600))
    assert heard[0] == heard[1] == heard[2]
    assert await violations(database) == []


@pytest.mark.parametrize("alone", [True, False])
async def test_a_flush_that_waits_for_another_to_commit_is_told_after_it(
    database: Database, alone: bool
) -> None:
    batch_id = await make_batch(database, 2)
    first, second = await make_worker(database), await make_worker(database)
    [early], [late] = await claim(database, first, 1), await claim(database, second, 1)
    async with database.transaction() as tx:
        await recording.record(tx, first, Flush({early.id: 0}, [success(early, 0)]), alone=False)
        flush = Flush({late.id: 0}, [success(late, 1)])
        waiting = asyncio.create_task(record(database, second, flush, alone=alone))
        await blocked(database, waiting)
        assert await told(database, batch_id) == []
    await waiting
    assert ordinals(await told(database, batch_id)) == [0, 1]


async def test_a_retry_tells_what_stayed_once_and_what_ran_again_in_its_new_run(database: Database) -> None:
    batch_id = await make_batch(database, 4)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 4)
    await record(database, worker, Flush({lease.id: 2}, [failure(lease, 2), success(lease, 0)]))
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 3), failure(lease, 1)]))
    before = await told(database, batch_id)
    assert sorted(ordinals(before)) == [0, 1, 2, 3]
    await again(database, batch_id)
    assert sorted(ordinals(await told(database, batch_id))) == [0, 3]
    # Who had seen the first flush only gets what stayed of the second.
    assert ordinals(await told(database, batch_id, Position(1, 2))) == [3]
    await drain(database, worker)
    rest = await told(database, batch_id, Position(1, 4))
    assert sorted(ordinals(rest)) == [1, 2]
    assert [position for position, _ in rest] == [Position(2, 3), Position(2, 4)]
    assert sorted(ordinals(await told(database, batch_id))) == [0, 1, 2, 3]
    assert sorted(ordinals(await told(database, batch_id, limit=1))) == [0, 1, 2, 3]
    assert await violations(database) == []


async def test_what_ends_without_a_run_is_told_too(database: Database) -> None:
    """Refused at the creation, cancelled, overdue, lost with its worker."""
    refused = [NewItem("bad", "{}", error='{"type":"invalid","message":"no"}')]
    cancelled = await make_batch(database, [NewItem("good", "{}"), *refused, NewItem("late", "{}")])
    assert ordinals(await told(database, cancelled)) == [1]
    overdue = await make_batch(database, 3)
    await turn(database, transitions.cancel, cancelled)
    await expire(database, overdue)
    await sweep(database, most=2)
    assert sorted(ordinals(await told(database, cancelled))) == [0, 1, 2]
    assert sorted(ordinals(await told(database, overdue))) == [0, 1, 2]
    assert {result.code for _, result in await told(database, overdue)} == {408}
    poison = await make_batch(database, 1, max_attempts=1)
    for _ in range(3):
        worker = await make_worker(database)
        await claim(database, worker, 1)
        await lose(database, worker)
    assert [result.code for _, result in await told(database, poison)] == [500]
    assert (await get(database, poison)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


async def test_a_batch_is_told_only_as_far_as_it_was_read(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 2)
    await record(database, worker, Flush({lease.id: 1}, [success(lease, 0)]))
    earlier = await get(database, batch_id)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 1)]))
    async with database.connection() as connection:
        window = await feed.window(connection, earlier, BEGINNING, 10)
    assert window is not None
    assert [result.ordinal for _, result in window.ended] == [0]


async def test_deleting_a_batch_leaves_nothing_of_its_log(database: Database) -> None:
    batch_id = await make_batch(database, 9)
    worker = await make_worker(database)
    while claimed := await claim(database, worker, 2):
        await record(database, worker, all_of(claimed))
    other = await make_batch(database, 1)
    await drain(database, worker)
    await turn(database, transitions.delete, batch_id)
    async with database.transaction() as tx:
        assert await retention.erase(tx, most=3) == 3
    assert await sql(database, "SELECT upto FROM result_log WHERE batch_id = $1 ORDER BY 1", batch_id) == [
        4,
        6,
        8,
        9,
    ]
    await erase(database)
    assert await sql(database, "SELECT batch_id FROM result_log") == [other]
    await turn(database, transitions.delete, other)
    await erase(database)
    assert await sql(database, "SELECT count(*) FROM result_log") == [0]
