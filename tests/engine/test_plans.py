"""What the statements read that run for every claim, flush or page: bounded by what they answer, not by what waits.

Told by Postgres itself (auto_explain): the plans are those of the statements as the product runs them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

import factories
from factories import TENANT, claim, get, in_chats, make_batch, make_worker, sql, turn
from gristmill.db import Database
from gristmill.domain.states import ItemStatus
from gristmill.store import batches, depth, endings, feed, leases, results, spans, workers
from gristmill.store.feed import Position

ITEMS = 20_000
CHATS = 2_000
# Rows that all nodes of a plan handle, for each item claimed: its span, its item, its lease, on their way through a dozen nodes.
PER_ITEM = 30


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


class Watched:
    """A connection, and the rows that its statements have handled since the last look."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection
        self._plans: list[str] = []
        connection.add_log_listener(lambda _, message: self._plans.append(str(message.message)))  # type: ignore[attr-defined]

    async def rows(self, least: int = 2) -> int:
        """Of at least so many statements."""
        await self.connection.execute("SELECT 1")  # the notices before it have come
        await asyncio.sleep(0)
        plans = [orjson.loads(text.partition("plan:")[2]) for text in self._plans if "plan:" in text]
        self._plans.clear()
        own = [
            plan["Plan"] for plan in plans if "pg_catalog" not in plan["Query Text"]
        ]  # else the driver's, about types
        assert len(own) >= least, "no plan was told"
        return round(sum(_handled(node) for plan in own for node in _nodes(plan)))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


_REMOVED = ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")


def _handled(node: dict[str, Any]) -> float:
    """Rows it gave on, and those it looked at in vain. Each is a mean over its loops."""
    each: float = node["Actual Rows"] + sum(node.get(name, 0) for name in _REMOVED)
    return each * node["Actual Loops"]


@asynccontextmanager
async def watched(database: Database, mode: str) -> AsyncIterator[Watched]:
    await sql(database, "ANALYZE")
    connection = await database.connect()
    try:
        await connection.execute("LOAD 'auto_explain'")
        options = {"log_min_duration": "0", "log_analyze": "on", "log_timing": "off", "log_format": "json"}
        for name, value in {**options, "log_level": "notice"}.items():
            await connection.execute(f"SET auto_explain.{name} = {value}")
        await connection.execute(f"SET plan_cache_mode = {mode}")
        yield Watched(connection)
    except asyncpg.UndefinedFileError:
        pytest.skip("this Postgres comes without auto_explain")
    finally:
        await connection.close()


async def wait_singly(database: Database, batch_id: UUID) -> None:
    """Its items wait one by one, each for its next attempt."""
    await sql(database, "DELETE FROM span WHERE batch_id = $1", batch_id)
    statement = "INSERT INTO span (batch_id, first, last, attempts) SELECT $1, n, n, 1 FROM generate_series(0, $2::int - 1) n"
    await sql(database, statement, batch_id, ITEMS)


@pytest.mark.parametrize("singly", [False, True])
async def test_a_claim_reads_what_it_takes(database: Database, mode: str, singly: bool) -> None:
    batch_id = await make_batch(database, ITEMS)
    if singly:
        await wait_singly(database, batch_id)
    worker = await make_worker(database)

    async with watched(database, mode) as seen:
        for _ in range(3):
            async with seen.connection.transaction():
                assert (await spans.claim(seen.connection, worker, {"noop": 100})).taken == 100
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
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await claim(database, await make_worker(database), 100)
    batch = await get(database, batch_id)

    async with watched(database, mode) as seen:
        found, _ = await factories.page(seen.connection, batch, limit=100, offset=ITEMS * 9 // 10)
        assert found[0].ordinal == ITEMS * 9 // 10
        assert await seen.rows() < 100 * PER_ITEM


async def test_what_runs_is_found_without_reading_what_waits(database: Database, mode: str) -> None:
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await claim(database, await make_worker(database), 100)
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
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await claim(database, await make_worker(database), 100)

    async with watched(database, mode) as seen:
        assert (await batches.get(seen.connection, TENANT, batch_id)).pending == ITEMS - 100
        assert await seen.rows() < 3 * 100


async def test_how_much_waits_is_told_without_reading_it(database: Database, mode: str) -> None:
    batch_id = await make_batch(database, ITEMS)
    await wait_singly(database, batch_id)
    await claim(database, await make_worker(database), 100)

    async with watched(database, mode) as seen:
        [found] = await depth.queue(seen.connection)
        assert (found.startable, found.running) == (ITEMS - 100, 100)
        assert await seen.rows(least=1) < 6 * 100


async def test_a_sweep_of_items_in_chats_reads_what_it_ends(database: Database, mode: str) -> None:
    batch_id = await make_batch(database, in_chats(*(n % CHATS for n in range(ITEMS))))
    worker = await make_worker(database)
    await claim(database, worker, CHATS)
    for _ in range(3):
        await claim(database, worker, CHATS)  # to park as many
    await turn(database, batches.cancel, batch_id)

    async with watched(database, mode) as seen:
        for _ in range(3):
            async with seen.connection.transaction():
                assert await endings.sweep(seen.connection, most=500) == 500
            assert (
                await seen.rows() < 2 * ITEMS
            )  # it may look through all spans once, but not once for each item
