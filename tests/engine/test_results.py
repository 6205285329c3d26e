"""Reading a batch while it runs: every item once, in input order, with the status it has."""

import asyncio
import random
from uuid import UUID

import pytest

import factories
from factories import (
    all_of,
    claim,
    drain,
    expire,
    failure,
    get,
    in_chats,
    lose,
    make_batch,
    make_worker,
    record,
    retry,
    sql,
    success,
    sweep,
    turn,
)
from gristmill.db import Database
from gristmill.domain.errors import NotFound
from gristmill.domain.states import BatchStatus, ItemStatus
from gristmill.store import results, transitions
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush
from gristmill.store.results import Attempt, Result

PENDING, PROCESSING = ItemStatus.PENDING, ItemStatus.PROCESSING
SUCCESS, FAILED = ItemStatus.SUCCESS, ItemStatus.FAILED


async def page(
    database: Database, batch_id: UUID, *, limit: int = 1000, **filters: object
) -> tuple[list[Result], int]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        return await factories.page(connection, batch, limit=limit, **filters)  # type: ignore[arg-type]


async def one(database: Database, batch_id: UUID, custom_id: str) -> tuple[Result, str, list[Attempt]]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        return await results.one(connection, batch, custom_id)


async def mixed(database: Database) -> UUID:
    """0 success, 1 failed, 2 waits for its next attempt, 3 runs, 4 waits for the chat of 3, 5 and 6 have not begun."""
    batch_id = await make_batch(database, in_chats(None, None, None, 7, 7, None, 7))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 5)
    flush = Flush({lease.id: 1}, [success(lease, 0), failure(lease, 1)], [retry(lease, 2, 3600)])
    await record(database, worker, flush)
    return batch_id


async def test_the_status_of_an_item_is_derived_from_where_it_is(database: Database) -> None:
    batch_id = await mixed(database)

    found, total = await page(database, batch_id)

    assert [one.status for one in found] == [SUCCESS, FAILED, PENDING, PROCESSING, PENDING, PENDING, PENDING]
    assert [one.ordinal for one in found] == list(range(7))
    assert [one.custom_id for one in found] == [f"item-{n}" for n in range(7)]
    assert [one.history_id for one in found] == [None, None, None, 7, 7, None, 7]
    assert total == 7


async def test_a_result_carries_what_was_recorded(database: Database) -> None:
    batch_id = await mixed(database)

    [good, bad, *_], _ = await page(database, batch_id)

    assert (good.output, good.error, good.code, good.attempt) == ('{"was":0}', None, None, 1)
    assert (bad.output, bad.error, bad.code) == (None, '{"type":"test","message":"as asked"}', 500)
    assert good.started_at is not None
    assert good.processed_at is not None
    assert good.started_at <= good.processed_at


@pytest.mark.parametrize(
    ("status", "ordinals"), [(SUCCESS, [0]), (FAILED, [1]), (PROCESSING, [3]), (PENDING, [2, 4, 5, 6])]
)
async def test_a_filter_by_status_finds_and_counts_its_items(
    database: Database, status: ItemStatus, ordinals: list[int]
) -> None:
    batch_id = await mixed(database)

    found, total = await page(database, batch_id, status=status)

    assert [one.ordinal for one in found] == ordinals
    assert {one.status for one in found} == {status}
    assert total == len(ordinals)


async def test_filters_by_code_and_custom_id_may_be_combined(database: Database) -> None:
    batch_id = await mixed(database)
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)

    async def ordinals(**filters: object) -> tuple[list[int], int]:
        found, total = await page(database, batch_id, **filters)  # type: ignore[arg-type]
        return [one.ordinal for one in found], total

    assert await ordinals(error_code=500) == ([1], 1)
    assert await ordinals(error_code=499) == ([2, 4, 5, 6], 4)
    assert await ordinals(error_code=499, limit=2) == ([2, 4], 4)
    assert await ordinals(error_code=499, limit=2, offset=2) == ([5, 6], 4)
    assert await ordinals(error_code=499, after=4) == ([5, 6], 4)
    assert await ordinals(error_code=408) == ([], 0)
    assert await ordinals(custom_id="item-3") == ([3], 1)
    assert await ordinals(custom_id="item-3", status=FAILED) == ([], 0)
    assert await ordinals(custom_id="item-5", status=FAILED, error_code=499) == ([5], 1)
    assert await ordinals(custom_id="ITEM-3") == ([], 0)
    assert await ordinals(status=SUCCESS, error_code=499) == ([], 0)


async def test_pages_and_filtered_pages_go_on_after_the_last_one(database: Database) -> None:
    batch_id = await make_batch(database, 10)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 10)
    ended = [(failure if n % 2 else success)(lease, n) for n in range(10)]
    await record(database, worker, Flush({lease.id: 0}, ended))

    async def ordinals(**filters: object) -> list[int]:
        found, _ = await page(database, batch_id, limit=3, **filters)  # type: ignore[arg-type]
        return [one.ordinal for one in found]

    assert await ordinals() == [0, 1, 2]
    assert await ordinals(offset=3) == [3, 4, 5]
    assert await ordinals(after=2) == [3, 4, 5]
    assert await ordinals(offset=9) == [9]
    assert await ordinals(offset=10) == []
    assert await ordinals(after=9) == []
    assert await ordinals(status=FAILED) == [1, 3, 5]
    assert await ordinals(status=FAILED, after=5) == [7, 9]
    assert await ordinals(status=FAILED, offset=3) == [7, 9]


async def test_items_that_never_ran_say_why(database: Database) -> None:
    cancelled, expired = await make_batch(database, 1), await make_batch(database, 1)
    await turn(database, transitions.cancel, cancelled)
    await expire(database, expired)
    await sweep(database)

    for batch_id, code, word in ((cancelled, 499, "batch_cancelled"), (expired, 408, "deadline_exceeded")):
        [[found], _] = await page(database, batch_id)
        assert (found.status, found.code, found.attempt) == (FAILED, code, 0)
        assert f'"{word}"' in (found.error or "")


async def test_one_item_shows_its_input_and_its_attempts(database: Database) -> None:
    batch_id = await make_batch(database, [NewItem("é/?", '{"a": 1}')])
    for step in ("fail", "die"):
        worker = await make_worker(database)
        [lease] = await claim(database, worker, 1)
        if step == "fail":
            await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0)]))
        else:
            await lose(database, worker)
    worker = await make_worker(database)
    await claim(database, worker, 1)

    found, given, attempts = await one(database, batch_id, "é/?")

    assert (found.status, given) == (PROCESSING, '{"a": 1}')
    assert [(past.run, past.attempt, past.code) for past in attempts] == [(1, 1, 500), (1, 2, 500)]
    assert '"worker_lost"' in attempts[1].error
    assert all(past.started_at and past.started_at <= past.ended_at for past in attempts)
    await drain(database, worker)
    with pytest.raises(NotFound):
        await one(database, batch_id, "e/?")


async def test_items_are_found_by_their_ordinals_and_so_are_those_that_run(database: Database) -> None:
    batch = await get(database, await mixed(database))
    async with database.connection() as connection:
        found = await results.at(connection, batch, [3, 1, 0, 99])
        assert [(one.ordinal, one.status) for one in found] == [(0, SUCCESS), (1, FAILED), (3, PROCESSING)]
        assert found == [
            one for one in await results.window(connection, batch, 0, 9) if one.ordinal in (0, 1, 3)
        ]
        assert await results.running(connection, batch, 10) == [3]
        assert sorted(await results.inputs(connection, batch, [2, 5, 99])) == [2, 5]


async def test_no_more_than_asked_for_of_what_runs_is_told_and_nothing_that_went_back(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 10)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 6)
    await record(
        database, worker, Flush({lease.id: 3}, [success(lease, 1)], [retry(lease, 2, 60), retry(lease, 4)])
    )
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        assert await results.running(connection, batch, 10) == [0, 3, 5]
        assert await results.running(connection, batch, 2) == [0, 3]


async def test_an_item_of_another_batch_is_not_found(database: Database) -> None:
    batch_id = await make_batch(database, [NewItem("here", "{}")])
    await make_batch(database, [NewItem("there", "{}")])

    with pytest.raises(NotFound):
        await one(database, batch_id, "there")


async def test_a_result_has_the_instants_of_its_row(database: Database) -> None:
    batch_id = await mixed(database)
    kept = await sql(database, "SELECT ordinal, started_at, processed_at FROM result ORDER BY ordinal")
    found, _ = await page(database, batch_id)
    assert [
        (one.ordinal, one.started_at, one.processed_at) for one in found if one.status in (SUCCESS, FAILED)
    ] == kept
    assert {one.processed_at for one in found if one.status in (PENDING, PROCESSING)} == {None}


@pytest.mark.parametrize("size", [1, 3, 7, 100])
async def test_windows_hold_every_item_once_in_order(database: Database, size: int) -> None:
    batch_id = await mixed(database)
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        found = [
            await results.window(connection, batch, first, size) for first in range(0, batch.total, size)
        ]

    assert [one.ordinal for window in found for one in window] == list(range(7))
    assert all(len(window) == size for window in found[:-1])


async def test_pages_of_a_running_batch_hold_every_item_once_and_in_order(database: Database) -> None:
    """Read over and over while items start, succeed, fail, are retried and are lost."""
    seeded = random.Random(3)
    batch_id = await make_batch(database, in_chats(*(seeded.choice([None, 1, 2]) for _ in range(60))))
    reads = 0

    async def work() -> None:
        worker = await make_worker(database)
        while (await get(database, batch_id)).status is BatchStatus.IN_PROGRESS:
            for lease in await claim(database, worker, seeded.randint(1, 6)):
                fate = seeded.random()
                if fate < 0.1:
                    await lose(database, worker)
                    worker = await make_worker(database)
                elif fate < 0.3:
                    again = [retry(lease, item.ordinal, waiting=True) for item in lease.items]
                    await record(database, worker, Flush({lease.id: 0}, [], again))
                else:
                    await record(database, worker, all_of([lease]))

    async def read() -> None:
        nonlocal reads
        ended: set[int] = set()
        while (batch := await get(database, batch_id)).status is BatchStatus.IN_PROGRESS:
            assert batch.total == batch.pending + batch.processing + batch.success + batch.failed
            assert min(batch.pending, batch.processing) >= 0
            found: list[Result] = []
            while True:
                more, _ = await page(database, batch_id, limit=25, offset=len(found))
                if not more:
                    break
                found += more
            assert [one.ordinal for one in found] == list(range(60))
            now = {one.ordinal for one in found if one.status in {SUCCESS, FAILED}}
            assert ended <= now
            ended = now
            reads += 1

    await asyncio.gather(work(), work(), work(), read())

    assert reads > 3
    found, _ = await page(database, batch_id)
    assert {one.status for one in found} <= {SUCCESS, FAILED}
    assert await sql(database, "SELECT count(*) FROM result") == [60]
