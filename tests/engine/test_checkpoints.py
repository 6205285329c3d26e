"""Who may keep how far an item has come: the holder of its lease, and nobody who has lost it."""

import asyncio
from uuid import UUID

import pytest

import factories
from factories import (
    Flush,
    all_of,
    blocked,
    claim,
    drain,
    erase,
    failure,
    get,
    lose,
    make_batch,
    make_worker,
    record,
    retry,
    sql,
    success,
    turn,
)
from gristmill.db import Database
from gristmill.domain.checkpoints import Checkpoint
from gristmill.store import checkpoints, leases, results, transitions, workers
from gristmill.store.claims import Lease

HALF = Checkpoint("sending", '{"parts":["a","b"]}', 1, 2)


async def save(database: Database, lease: Lease, checkpoint: Checkpoint = HALF, ordinal: int = 0) -> bool:
    async with database.transaction() as tx:
        return await checkpoints.save(tx, lease.id, lease.batch_id, ordinal, checkpoint)


async def advance(database: Database, lease: Lease, done: int, ordinal: int = 0) -> bool:
    async with database.transaction() as tx:
        return await checkpoints.advance(tx, lease.id, lease.batch_id, ordinal, done)


async def load(database: Database, batch_id: UUID, ordinal: int = 0) -> Checkpoint | None:
    async with database.connection() as connection:
        return await checkpoints.load(connection, batch_id, ordinal)


async def claimed(database: Database, items: int = 1) -> tuple[int, Lease]:
    """A batch, all of whose items one worker holds."""
    await make_batch(database, items)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, items)
    return worker, lease


async def test_the_next_attempt_finds_what_the_last_one_saved(database: Database) -> None:
    worker, lease = await claimed(database)
    assert await load(database, lease.batch_id) is None
    assert await save(database, lease)
    assert await advance(database, lease, 2)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0)]))
    await claim(database, worker, 1)
    assert await load(database, lease.batch_id) == Checkpoint(HALF.stage, HALF.data, 2, 2)


async def test_a_later_save_replaces_all_of_the_one_before(database: Database) -> None:
    _, lease = await claimed(database)
    await save(database, lease)
    assert await save(database, lease, Checkpoint("closing"))
    assert await load(database, lease.batch_id) == Checkpoint("closing", None, 0, None)


async def test_a_worker_that_lost_its_lease_cannot_set_an_item_back(database: Database) -> None:
    zombie, stale = await claimed(database)
    await save(database, stale)
    await lose(database, zombie)
    assert not await save(database, stale, Checkpoint("beginning"))
    [fresh] = await claim(database, await make_worker(database), 1)
    await save(database, fresh, Checkpoint("sending", "{}", 2, 2))
    assert not await save(database, stale, Checkpoint("beginning"))
    assert not await advance(database, stale, 0)
    assert await load(database, stale.batch_id) == Checkpoint("sending", "{}", 2, 2)


async def test_a_save_that_meets_the_reaper_waits_and_finds_its_lease_gone(database: Database) -> None:
    zombie, stale = await claimed(database)
    async with database.transaction() as tx:
        await workers.leave(tx, zombie)
    async with database.transaction() as reaping:
        assert await leases.reclaim(reaping) == 1
        saving = asyncio.create_task(save(database, stale))
        await blocked(database, saving)
        assert not saving.done()
    assert not await saving
    assert await load(database, stale.batch_id) is None


async def test_the_reaper_leaves_a_lease_alone_while_its_holder_saves(database: Database) -> None:
    zombie, stale = await claimed(database)
    async with database.transaction() as tx:
        await workers.leave(tx, zombie)
    async with database.transaction() as saving:
        assert await checkpoints.save(saving, stale.id, stale.batch_id, 0, HALF)
        async with database.transaction() as reaping:
            assert await leases.reclaim(reaping) == 0
    async with database.transaction() as reaping:
        assert await leases.reclaim(reaping) == 1
    assert await load(database, stale.batch_id) == HALF


async def test_an_item_given_back_out_of_a_lease_that_goes_on_is_its_next_holders(database: Database) -> None:
    """The lease still covers it by its range: a processor may not have let go when its time was over."""
    worker, old = await claimed(database, 2)
    await record(database, worker, Flush({old.id: 1}, [], [retry(old, 0)]))
    [new] = await claim(database, worker, 1)
    assert await save(database, new)
    assert not await save(database, old, Checkpoint("beginning"))
    assert await load(database, old.batch_id) == HALF
    assert await save(database, old, ordinal=1)


@pytest.mark.parametrize("ordinal", [-1, 1, 7])
async def test_only_items_of_the_lease_are_written(database: Database, ordinal: int) -> None:
    _, lease = await claimed(database)
    assert not await save(database, lease, ordinal=ordinal)
    assert not await advance(database, lease, 1)  # nothing was saved yet
    assert await sql(database, "SELECT count(*) FROM item_checkpoint") == [0]


async def test_a_success_drops_the_data_and_keeps_how_far_it_came(database: Database) -> None:
    worker, lease = await claimed(database, 3)
    for ordinal in range(3):
        await save(database, lease, ordinal=ordinal)
    ended = [success(lease, 0, checkpointed=True), success(lease, 1), failure(lease, 2)]
    await record(database, worker, Flush({lease.id: 0}, ended))
    kept = await sql(
        database, "SELECT ordinal, data IS NULL, done, total FROM item_checkpoint ORDER BY ordinal"
    )
    assert kept == [(0, True, 1, 2), (1, False, 1, 2), (2, False, 1, 2)]


async def test_deleting_a_batch_deletes_its_checkpoints_and_no_others(database: Database) -> None:
    worker, lease = await claimed(database)
    _, other = await claimed(database)
    await save(database, lease)
    await save(database, other)
    await record(database, worker, all_of([lease]))
    await turn(database, transitions.delete, lease.batch_id)
    await erase(database)
    assert await load(database, lease.batch_id) is None
    assert await load(database, other.batch_id) == HALF


async def test_nothing_is_kept_once_the_batch_has_ended(database: Database) -> None:
    """A zombie whose items others have recorded still has its lease until the tidier comes."""
    _, lease = await claimed(database)
    await sql(database, "UPDATE worker SET dead = true")
    other = await make_worker(database)
    await sql(database, "INSERT INTO span (batch_id, first, last) VALUES ($1, 0, 0)", lease.batch_id)
    assert await drain(database, other) == 1
    assert await sql(database, "SELECT count(*) FROM lease") == [1]
    assert not await save(database, lease)


async def test_results_have_checkpoints_only_where_they_are_asked_for(database: Database) -> None:
    _, lease = await claimed(database, 3)
    await save(database, lease, ordinal=1)
    batch = await get(database, lease.batch_id)
    async with database.connection() as connection:
        found, _ = await factories.page(connection, batch, limit=10)
        assert [one.checkpoint for one in found] == [None] * 3
        asked = await results.with_checkpoints(connection, batch, found)
        assert [one.checkpoint for one in asked] == [None, Checkpoint("sending", None, 1, 2), None]
        assert await results.with_checkpoints(connection, batch, []) == []


async def test_a_page_of_checkpoints_is_read_by_key(database: Database) -> None:
    """One probe for each item of the page, in the one partition of the batch's week."""
    _, lease = await claimed(database)
    async with database.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        lines = await connection.fetch(
            "EXPLAIN SELECT stage FROM item_checkpoint WHERE batch_id = $1 AND ordinal = ANY ($2)",
            lease.batch_id,
            [0, 1, 2],
        )
    plan = "\n".join(line[0] for line in lines)
    assert "Index" in plan
    assert plan.count(" on item_checkpoint_w") <= 2  # the table, and with a bitmap its index
