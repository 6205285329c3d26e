"""What the statements read that run for every claim, flush or page: bounded by what they answer, not by what waits.

Told by Postgres itself (auto_explain): the plans are those of the statements as the product runs them.
"""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

import factories
from factories import TENANT, claim, get, in_chats, make_batch, make_worker, sql, turn
from gristmill.db import Database
from gristmill.domain.states import ItemStatus
from gristmill.store import (
    batches,
    claims,
    deliveries,
    depth,
    endings,
    feed,
    ingests,
    leases,
    results,
    transitions,
    workers,
)
from gristmill.store.feed import Position
from plans import watched

ITEMS = 20_000
CHATS = 2_000
BATCHES = 2_000
# Rows that all nodes of a plan handle, for each item claimed: its span, its item, its lease, on their way through a dozen nodes.
PER_ITEM = 35


# Of the rows of one batch, each with ids of its own: those of one number are the same in all tables.
_COPIES = """
INSERT INTO {table} OVERRIDING USER VALUE
SELECT copy.* FROM {table} one CROSS JOIN generate_series(1, $2::int) n CROSS JOIN LATERAL jsonb_populate_record(
    one, jsonb_build_object('{key}', overlay($1::uuid::text PLACING lpad(to_hex(n), 12, '0') FROM 25))
) copy WHERE one.{key} = $1
"""


# To one receiver, long ago.
_DELIVERED = """
WITH told AS (
    INSERT INTO event (id, batch_id, tenant_id, type, run, body, created_at, occurrence)
    SELECT 'told', id, tenant_id, 'completed', 1, '{}', now(), 1 FROM batch WHERE id = $1 RETURNING *
)
INSERT INTO delivery (id, event_id, batch_id, tenant_id, url, status, attempts, next_at, delivered_at)
SELECT gen_random_uuid(), told.id, batch_id, tenant_id, 'https://receiver.example/', 'delivered', 1, now(), now()
FROM told, generate_series(1, $2::int)
"""


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    """Of its own: it is filled, and its statistics are taken."""
    one = await Database(own_database_url, timeout_seconds=60.0).open()
    yield one
    await one.close()


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def mode(request: pytest.FixtureRequest) -> str:
    """A prepared statement gets a generic plan at its sixth use if that looks no worse."""
    chosen: str = request.param
    return chosen


async def wait_singly(database: Database, batch_id: UUID) -> None:
    """Its items wait one by one, each for its next attempt."""
    await sql(database, "DELETE FROM span WHERE batch_id = $1", batch_id)
    statement = "INSERT INTO span (batch_id, first, last, attempts) SELECT $1, n, n, 1 FROM generate_series(0, $2::int - 1) n"
    await sql(database, statement, batch_id, ITEMS)


async def at_work(database: Database) -> UUID:
    """A batch of which 100 items run and all others wait one by one."""
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await claim(database, await make_worker(database), 100)
    return batch_id


@pytest.mark.parametrize("singly", [False, True])
async def test_a_claim_reads_what_it_takes(database: Database, mode: str, singly: bool) -> None:
    batch_id = await make_batch(database, ITEMS)
    if singly:
        await wait_singly(database, batch_id)
    worker = await make_worker(database)

    async with watched(database, mode) as seen:
        for _ in range(3):
            async with seen.connection.transaction():
                assert (await claims.claim(seen.connection, worker, {"noop": 100})).taken == 100
            assert await seen.rows() < 100 * PER_ITEM


async def test_a_lost_lease_is_taken_back_without_reading_all_that_waits(
    database: Database, mode: str
) -> None:
    batch_id = await make_batch(database, ITEMS)
    worker = await make_worker(database)
    [whole] = await claim(database, worker, 100)
    await wait_singly(database, batch_id)
    await sql(database, "DELETE FROM span WHERE first <= $1", whole.items[-1].ordinal)
    singles = await claim(database, worker, 19)
    async with database.transaction() as tx:
        await workers.leave(tx, worker)

    async with watched(database, mode) as seen:
        async with seen.connection.transaction():
            assert await leases.reclaim(seen.connection) == 1 + len(singles)
        assert await seen.rows() < (100 + 19) * PER_ITEM


@pytest.mark.parametrize("status", [ItemStatus.PENDING, ItemStatus.PROCESSING])
async def test_a_filtered_page_reads_each_item_and_span_once(
    database: Database, mode: str, status: ItemStatus
) -> None:
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await sql(
        database, "UPDATE span SET available_at = now() + interval '1 hour' WHERE first < $1", ITEMS // 2
    )
    await claim(database, await make_worker(database), 100)
    batch = await get(database, batch_id)

    async with watched(database, mode) as seen:
        found, total = await factories.page(seen.connection, batch, limit=1000, status=status)
        assert (len(found), total) == ((1000, ITEMS - 100) if status is ItemStatus.PENDING else (100, 100))
        assert await seen.rows() < 10 * ITEMS


async def test_a_page_far_behind_reads_what_it_shows(database: Database, mode: str) -> None:
    batch_id = await at_work(database)
    batch = await get(database, batch_id)

    async with watched(database, mode) as seen:
        found, _ = await factories.page(seen.connection, batch, limit=100, offset=ITEMS * 9 // 10)
        assert found[0].ordinal == ITEMS * 9 // 10
        assert await seen.rows() < 100 * PER_ITEM


async def test_what_runs_is_found_without_reading_what_waits(database: Database, mode: str) -> None:
    batch_id = await at_work(database)
    batch = await get(database, batch_id)

    async with watched(database, mode) as seen:
        assert len(await results.running(seen.connection, batch, 1000)) == 100
        assert await seen.rows() < 100 * PER_ITEM


@pytest.mark.parametrize("each", [1, 5000])
async def test_the_feed_is_resumed_anywhere_by_reading_what_it_tells(
    database: Database, mode: str, each: int
) -> None:
    """In many rows of one item, and in few of many."""
    batch_id = await make_batch(database, ITEMS)
    recorded = """
        WITH ended AS (
            INSERT INTO result (batch_id, ordinal, status, attempt)
            SELECT $1, n, 1, 1 FROM generate_series(0, $2::int - 1) n
        )
        INSERT INTO result_log (batch_id, run, upto, ordinals)
        SELECT $1, 1, n, ARRAY(SELECT generate_series(n - $3::int, n - 1)) FROM generate_series($3::int, $2::int, $3::int) n
    """
    await sql(database, recorded, batch_id, ITEMS, each)
    await sql(database, "UPDATE batch_count SET success = total WHERE batch_id = $1", batch_id)
    batch = await get(database, batch_id)

    async with watched(database, mode) as seen:
        window = await feed.window(seen.connection, batch, Position(1, ITEMS * 9 // 10), 100)
        assert window is not None
        assert [result.ordinal for _, result in window.ended] == list(range(18_000, 18_100))
        assert await seen.rows() < 100 * PER_ITEM


async def test_a_batch_is_read_without_reading_what_waits(database: Database, mode: str) -> None:
    batch_id = await at_work(database)

    async with watched(database, mode) as seen:
        assert (await batches.get(seen.connection, TENANT, batch_id)).pending == ITEMS - 100
        assert await seen.rows() < 3 * 100


async def test_how_much_waits_is_told_without_reading_it(database: Database, mode: str) -> None:
    await at_work(database)

    async with watched(database, mode) as seen:
        [found] = await depth.queue(seen.connection)
        assert (found.startable, found.running) == (ITEMS - 100, 100)
        assert await seen.rows(least=1) < 6 * 100


async def test_a_look_for_something_to_do_reads_nothing_of_batches_that_run_or_have_ended(
    database: Database, mode: str
) -> None:
    """Of as many that run as were cancelled. One has all that waits, item by item; of one more, being cancelled, the last runs.
    Nothing is to be stopped, read or sent."""
    runs, ended = await make_batch(database, 2), await make_batch(database, 2)
    await turn(database, transitions.cancel, ended)
    await factories.sweep(database)
    for table, key in {"batch": "id", "batch_count": "batch_id", "batch_schedule": "batch_id"}.items():
        for batch_id in (runs, ended):
            await sql(database, _COPIES.format(table=table, key=key), batch_id, BATCHES)

    waits, ends = await make_batch(database, ITEMS), await make_batch(database, 1)
    await wait_singly(database, waits)
    await sql(database, "UPDATE batch SET status = 'cancelling', ending = 'cancel' WHERE id = $1", ends)
    await sql(database, "DELETE FROM batch_schedule WHERE batch_id = $1", ends)
    await sql(database, "DELETE FROM span WHERE batch_id <> $1", waits)
    await sql(database, _DELIVERED, ends, BATCHES)

    async with watched(database, mode) as seen:
        assert not await endings.some_stop(seen.connection)
        assert await ingests.claim(seen.connection, 30.0, ["noop"]) is None
        assert not await deliveries.some_are_due(seen.connection)
        assert await seen.rows(least=3) < BATCHES // 10


async def test_a_sweep_of_items_in_chats_reads_what_it_ends(database: Database, mode: str) -> None:
    batch_id = await make_batch(database, in_chats(*(n % CHATS for n in range(ITEMS))))
    worker = await make_worker(database)
    await claim(database, worker, CHATS)
    for _ in range(3):
        await claim(database, worker, CHATS)  # to park as many
    await turn(database, transitions.cancel, batch_id)

    async with watched(database, mode) as seen:
        for _ in range(3):
            async with seen.connection.transaction():
                assert await endings.sweep(seen.connection, most=500) == 500
            assert (
                await seen.rows() < 2 * ITEMS
            )  # it may look through all spans once, but not once for each item
