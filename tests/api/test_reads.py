"""Reading one batch for many: one query for all who wait, and never an answer older than the question."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from uuid import UUID, uuid4

import pytest

from factories import TENANT, make_batch
from gristmill.api.reads import AT_ONCE, Reads, Seen
from gristmill.db import Database
from gristmill.domain.errors import NotFound
from gristmill.store import transitions
from gristmill.store.transitions import Changes
from service import Caller

WRITES = 60


@pytest.fixture
async def impatient(database: Database) -> AsyncIterator[Database]:
    """Statements have two seconds: no fewer, as it takes a busy machine half a one to open a connection."""
    made = await Database(database.url, timeout_seconds=2).open()
    yield made
    await made.close()


async def rename(database: Database, batch_id: UUID, name: str) -> None:
    async with database.transaction() as tx:
        await transitions.change(tx, TENANT, batch_id, Changes(name=name))


async def test_all_who_ask_at_once_share_one_reading(database: Database) -> None:
    reads, batch_id = Reads(database), await make_batch(database, 2)
    seen = await asyncio.gather(*(reads.batch(TENANT, batch_id) for _ in range(50)))
    assert len({id(one) for one in seen}) == 1
    assert seen[0].batch.total == 2


async def test_nobody_gets_what_was_read_before_it_asked(database: Database) -> None:
    reads, batch_id = Reads(database), await make_batch(database, 2)
    over = asyncio.Event()

    async def poll() -> None:
        while not over.is_set():
            await reads.batch(TENANT, batch_id)

    others = [asyncio.create_task(poll()) for _ in range(4)]
    try:
        for number in range(WRITES):
            await rename(database, batch_id, str(number))
            assert (await reads.batch(TENANT, batch_id)).batch.name == str(number)
    finally:
        over.set()
        await asyncio.gather(*others)


async def test_different_batches_are_read_together_each_for_its_owner(database: Database) -> None:
    reads, stranger = Reads(database), uuid4()
    ids = [await make_batch(database, size) for size in (1, 2, 3)]
    asked = [*((TENANT, one) for one in ids), (stranger, ids[0]), (TENANT, uuid4())]
    found = await asyncio.gather(*(reads.batch(*one) for one in asked), return_exceptions=True)
    assert [one.batch.total for one in found if isinstance(one, Seen)] == [1, 2, 3]
    assert [type(one) for one in found[3:]] == [NotFound, NotFound]


async def test_another_tenant_that_asks_with_the_owner_is_told_nothing(caller: Caller, other: Caller) -> None:
    path = f"/api/v1/batches/{(await caller.batch())['id']}"
    answers = await asyncio.gather(*(one.get(path) for one in (caller, other, caller, other)))
    assert [answer.status_code for answer in answers] == [200, 404, 200, 404]


async def test_who_goes_away_takes_nothing_from_the_others(database: Database) -> None:
    reads, batch_id = Reads(database), await make_batch(database, 2)
    first, second = (asyncio.create_task(reads.batch(TENANT, batch_id)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).batch.id == batch_id


async def test_a_reading_that_fails_fails_for_all_and_the_next_is_a_new_one(impatient: Database) -> None:
    reads, batch_id = Reads(impatient), await make_batch(impatient, 2)
    async with impatient.pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK TABLE batch_count")
        waiting = [asyncio.create_task(reads.batch(TENANT, batch_id)) for _ in range(AT_ONCE + 3)]
        failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in failed} == {TimeoutError}
    assert (await reads.batch(TENANT, batch_id)).batch.id == batch_id


async def test_none_of_many_who_come_and_go_is_forgotten(database: Database) -> None:
    reads, ids = Reads(database), [await make_batch(database, 1) for _ in range(3)]
    turns = count()

    async def ask() -> None:
        while (turn := next(turns)) < 600:
            assert (await reads.batch(TENANT, ids[turn % 3])).batch.id == ids[turn % 3]

    async with asyncio.timeout(30):
        await asyncio.gather(*(ask() for _ in range(7)))
