"""Ended batches are kept for as long as they are to be: then a tombstone is left, and the rows of their items are erased."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from factories import TENANT, drain, erase, get, make_batch, make_worker, sql, turn, violations
from gristmill.db import Database
from gristmill.domain.errors import Gone, NotFound
from gristmill.domain.ids import first_uuid7_at, uuid7
from gristmill.store import batches, endings, partitions, retention, retries, transitions
from gristmill.store.new_batches import NewWebhook

OTHER = UUID("00000000-0000-7000-8000-000000000002")
BIG = ("item", "result")


async def ended(database: Database, items: int = 3, **more: object) -> UUID:
    batch_id = await make_batch(database, items, **more)  # type: ignore[arg-type]
    await drain(database, await make_worker(database))
    return batch_id


async def pass_time(database: Database, batch_id: UUID) -> None:
    await sql(database, "UPDATE batch SET expires_at = now() WHERE id = $1", batch_id)


async def expire(database: Database) -> int:
    async with database.transaction() as tx:
        return await retention.expire(tx)


async def erase_some(database: Database, most: int) -> int:
    async with database.transaction() as tx:
        return await retention.erase(tx, most=most)


async def rows(database: Database) -> int:
    return sum([(await sql(database, f"SELECT count(*) FROM {table}"))[0] for table in BIG])


async def test_a_batch_is_kept_from_its_end_on_for_as_long_as_it_says(database: Database) -> None:
    batch_id = await ended(database, retention_days=2)
    batch = await get(database, batch_id)
    assert batch.completed_at is not None
    assert batch.expires_at is not None
    assert abs(batch.expires_at - batch.completed_at - timedelta(days=2)) < timedelta(seconds=1)
    assert await expire(database) == 0


async def test_the_time_begins_anew_with_a_retry(database: Database) -> None:
    batch_id = await make_batch(database, 1)
    await turn(database, transitions.cancel, batch_id)
    async with database.transaction() as tx:
        await endings.sweep(tx)
        assert (await batches.get(tx, TENANT, batch_id)).expires_at is not None
        await retries.retry(tx, TENANT, batch_id)
    assert (await get(database, batch_id)).expires_at is None
    await drain(database, await make_worker(database))
    assert (await get(database, batch_id)).expires_at is not None


async def test_an_expired_batch_leaves_its_counts_to_its_tenant_and_nothing_to_others(
    database: Database,
) -> None:
    batch_id, kept = await ended(database, 3), await ended(database, 2)
    await pass_time(database, batch_id)
    assert await expire(database) == 1

    with pytest.raises(Gone) as gone:
        await get(database, batch_id)
    assert gone.value.about["total_requests"] == gone.value.about["completed_requests"] == 3
    assert gone.value.about["status"] == "completed"
    with pytest.raises(Gone):
        await turn(database, transitions.cancel, batch_id)
    with pytest.raises(NotFound):
        await get(database, batch_id, OTHER)
    assert (await get(database, kept)).total == 2
    assert await violations(database) == []


async def test_a_batch_whose_webhook_is_still_to_be_delivered_is_kept(database: Database) -> None:
    batch_id = await ended(database, webhook=NewWebhook("https://a.example/", ("completed",)))
    await pass_time(database, batch_id)
    assert await expire(database) == 0
    await sql(database, "UPDATE delivery SET status = 'dead'")
    assert await expire(database) == 1
    assert await sql(database, "SELECT count(*) FROM delivery") == [0]


async def test_two_who_expire_at_once_bury_each_batch_once(database: Database) -> None:
    for batch_id in [await ended(database, 1) for _ in range(10)]:
        await pass_time(database, batch_id)
    done = await asyncio.gather(*[expire(database) for _ in range(4)])
    while more := await expire(database):
        done.append(more)
    assert sum(done) == 10
    assert await sql(database, "SELECT count(*) FROM batch_tombstone") == [10]


async def test_rows_are_erased_piece_by_piece_and_no_others(database: Database) -> None:
    batch_id, kept = await ended(database, 5), await ended(database, 4)
    await turn(database, transitions.delete, batch_id)
    with pytest.raises(NotFound):
        await get(database, batch_id)
    assert await rows(database) == 18
    assert [await erase_some(database, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert await rows(database) == 8
    assert await sql(database, "SELECT DISTINCT batch_id FROM item") == [kept]
    assert await sql(database, "SELECT count(*) FROM batch_remains") == [0]


async def test_rows_of_an_expired_batch_wait_for_their_partition_for_a_week(database: Database) -> None:
    await pass_time(database, await ended(database))
    await expire(database)
    await erase(database)
    assert await rows(database) == 6
    await sql(database, "UPDATE batch_remains SET due_at = due_at - interval '7 days'")
    await erase(database)
    assert await rows(database) == 0


async def test_tombstones_are_forgotten_after_a_year(database: Database) -> None:
    await pass_time(database, await ended(database))
    await expire(database)
    async with database.transaction() as tx:
        await retention.forget_tombstones(tx)
    assert await sql(database, "SELECT count(*) FROM batch_tombstone") == [1]
    await sql(database, "UPDATE batch_tombstone SET expired_at = now() - interval '366 days'")
    async with database.transaction() as tx:
        await retention.forget_tombstones(tx)
    assert await sql(database, "SELECT count(*) FROM batch_tombstone") == [0]


async def test_the_state_of_a_batch_and_its_expiry_go_together(database: Database) -> None:
    await make_batch(database, 1)
    with pytest.raises(asyncpg.CheckViolationError):
        await sql(database, "UPDATE batch SET expires_at = now()")
    await drain(database, await make_worker(database))
    with pytest.raises(asyncpg.CheckViolationError):
        await sql(database, "UPDATE batch SET expires_at = NULL")


# --- partitions: DDL, so in a database of their own --------------------------------------------------------------------


@pytest.fixture
async def own(own_database_url: str):  # type: ignore[no-untyped-def]
    own = await Database(own_database_url).open()
    yield own
    await own.close()


def old_id() -> UUID:
    """Of a batch of ten weeks ago."""
    moment = datetime.now(UTC) - timedelta(weeks=10)
    return UUID(int=first_uuid7_at(int(moment.timestamp() * 1000)).int + uuid7().int % 2**60)


def monday_of(batch_id: UUID) -> datetime:
    at = datetime.fromtimestamp((batch_id.int >> 80) / 1000, UTC)
    day = at - timedelta(days=at.weekday())
    return day.replace(hour=0, minute=0, second=0, microsecond=0)


async def make_old(own: Database) -> UUID:
    """An ended batch in a partition of its own."""
    batch_id = old_id()
    connection = await own.connect()
    for table in partitions.PARTITIONED:
        await partitions._create(connection, table, monday_of(batch_id))
    await connection.close()
    made = await ended(own)
    for table, column in (
        ("batch", "id"),
        ("batch_count", "batch_id"),
        ("event", "batch_id"),
        *((t, "batch_id") for t in BIG),
    ):
        await sql(own, f"UPDATE {table} SET {column} = $1 WHERE {column} = $2", batch_id, made)
    return batch_id


async def names(own: Database) -> set[str]:
    return set(await sql(own, "SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r'"))


async def test_a_partition_is_dropped_when_none_of_its_batches_is_kept(own: Database) -> None:
    await partitions.ensure(own)
    batch_id = await make_old(own)
    there = await names(own)
    old = {partitions.name(table, monday_of(batch_id)) for table in partitions.PARTITIONED}
    assert old < there

    assert await partitions.drop_empty(own) == 0
    assert await names(own) == there

    await pass_time(own, batch_id)
    await expire(own)
    assert await partitions.drop_empty(own) == len(old)
    assert await names(own) == there - old
    assert await sql(own, "SELECT count(*) FROM batch_remains") == [0]
    assert await rows(own) == 0


async def test_a_partition_in_use_is_left_for_the_next_time(own: Database) -> None:
    batch_id = await make_old(own)
    await pass_time(own, batch_id)
    await expire(own)
    async with own.transaction() as tx:
        await tx.fetch("SELECT count(*) FROM item_checkpoint")
        before = await names(own)
        dropped = await partitions.drop_empty(own)
    after = await names(own)
    assert len(before - after) == dropped < len(partitions.PARTITIONED)
    assert await sql(own, "SELECT count(*) FROM batch_remains") == [1]
    await partitions.drop_empty(own)
    assert await sql(own, "SELECT count(*) FROM batch_remains") == [0]
