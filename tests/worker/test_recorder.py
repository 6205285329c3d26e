import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from factories import claim, get, make_batch, make_worker, sql, success, violations
from gristmill.db import Database, Transaction
from gristmill.domain.states import BatchStatus
from gristmill.store.recording import COPY_FROM
from gristmill.store.spans import Lease
from gristmill.worker.recorder import LARGE, Recorder
from gristmill.worker.work import HeldLease
from mill import eventually

BLOCKED = "datname = current_database() AND wait_event_type = 'Lock'"


class News:
    """What the recorder told whom, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._written = asyncio.Event()

    def ended(self) -> None:
        self.told.append("ended")

    def drained(self) -> None:
        self.told.append("drained")
        self._written.set()

    async def flush(self) -> list[str]:
        """All that was told since the last time, once something has been written."""
        async with asyncio.timeout(20):
            await self._written.wait()
        self._written.clear()
        told, self.told = self.told, []
        return told


@asynccontextmanager
async def recording(database: Database, worker_id: int, news: News) -> AsyncIterator[Recorder]:
    recorder = Recorder(database, ended_batches=news.ended, drained=news.drained)
    recorder.worker_id = worker_id
    stop = asyncio.Event()
    task = asyncio.create_task(recorder.run(stop))
    yield recorder
    stop.set()
    await task


async def test_the_sender_of_webhooks_is_woken_by_the_flush_that_ends_a_batch_and_by_no_other(
    database: Database,
) -> None:
    batch_id = await make_batch(database, 2)
    worker, news = await make_worker(database), News()
    [lease] = await claim(database, worker, 2)
    held = HeldLease(lease, 2)

    async with recording(database, worker, news) as recorder:
        recorder.add(held, success(lease, 0))
        assert await news.flush() == ["drained"]
        recorder.add(held, success(lease, 1))
        assert await news.flush() == ["ended", "drained"]
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED


async def test_the_sender_of_webhooks_is_woken_when_a_flush_was_sent_again_whose_commit_nobody_heard_of(
    database: Database,
) -> None:
    """It may have ended a batch the first time, and then ends none the second."""
    await make_batch(database, 2)
    worker, news = await make_worker(database), News()
    [lease] = await claim(database, worker, 2)

    async def blocked() -> bool:
        return await sql(database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [1]

    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM lease FOR UPDATE")
            recorder.add(HeldLease(lease, 2), success(lease, 0))
            await eventually(blocked)
            await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
        assert await news.flush() == ["ended", "drained"]
    assert await sql(database, "SELECT ordinal FROM result") == [0]


async def test_one_result_with_a_lone_surrogate_ends_as_failed_and_the_others_of_its_flush_as_they_are(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Of so many results that they are copied; and it is not taken for a flush that has to be sent again."""
    batch_id = await make_batch(database, COPY_FROM + 10)
    worker, news = await make_worker(database), News()
    [lease] = await claim(database, worker, COPY_FROM + 10)
    held = HeldLease(lease, len(lease.items))
    async with recording(database, worker, news) as recorder:
        for item in lease.items:
            recorder.add(
                held, success(lease, item.ordinal, content="\ud800" if item.ordinal == 7 else "fine")
            )
        await news.flush()
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, COPY_FROM + 9, 1)
    [error] = await sql(database, "SELECT error FROM result WHERE ordinal = 7")
    assert "unstorable_result" in error
    assert [one.message for one in caplog.records] == ["a result cannot be stored"]
    assert await violations(database) == []


# --- beside a large flush ---


class Beside:
    """A batch of many, a batch of five in two leases, and locks that hold their flushes up where they begin, and where they
    end."""

    def __init__(self, database: Database, many: UUID, few: UUID, leases: list[Lease]) -> None:
        self.many, self.few, self.leases = many, few, leases
        self._database = database

    async def hold_up(self, tx: Transaction, batch_id: UUID) -> None:
        await tx.execute("SELECT FROM batch_count WHERE batch_id = $1 FOR UPDATE", batch_id)

    async def held_up(self, flushes: int) -> None:
        async def so_many() -> bool:
            return await sql(self._database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [
                flushes
            ]

        await eventually(so_many)

    def tell(self, recorder: Recorder, *numbers: int) -> None:
        """All items of these leases have ended."""
        for lease in (self.leases[number] for number in numbers):
            held = HeldLease(lease, len(lease.items))
            for item in lease.items:
                recorder.add(held, success(lease, item.ordinal))

    async def has_ended(self, batch_id: UUID) -> None:
        async def ended() -> bool:
            return (await get(self._database, batch_id)).status is BatchStatus.COMPLETED

        await eventually(ended)

    async def is_under_way(self, batch_id: UUID) -> bool:
        return (await get(self._database, batch_id)).status is BatchStatus.IN_PROGRESS


async def beside(database: Database, worker_id: int) -> Beside:
    many = await make_batch(database, LARGE)
    leases = await claim(database, worker_id, LARGE)
    few = await make_batch(database, 5)
    for slots in (3, 2):
        leases += await claim(database, worker_id, slots)
    assert [len(lease.items) for lease in leases] == [LARGE, 3, 2]
    return Beside(database, many, few, leases)


async def test_what_a_few_items_came_to_passes_a_large_flush_of_another_batch(database: Database) -> None:
    worker, news = await make_worker(database), News()
    both = await beside(database, worker)
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await both.hold_up(tx, both.many)
            both.tell(recorder, 0)
            await both.held_up(1)
            both.tell(recorder, 1, 2)
            await both.has_ended(both.few)
            assert await both.is_under_way(both.many)
        await both.has_ended(both.many)
    assert await violations(database) == []


async def test_what_a_few_items_came_to_passes_a_large_flush_that_it_would_have_been_part_of(
    database: Database,
) -> None:
    worker, news = await make_worker(database), News()
    both = await beside(database, worker)
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await both.hold_up(tx, both.many)
            both.tell(recorder, 0, 1, 2)
            await both.has_ended(both.few)
            assert await both.is_under_way(both.many)
        await both.has_ended(both.many)
    assert await violations(database) == []


async def test_no_two_flushes_of_one_batch_are_under_way(database: Database) -> None:
    """One could bring a lease down to less than the other had, which then would not count as held."""
    worker, news = await make_worker(database), News()
    both = await beside(database, worker)
    async with recording(database, worker, news) as recorder:

        async def looked() -> bool:
            return not recorder._some.is_set()

        async with database.transaction() as tx:
            await both.hold_up(tx, both.few)
            async with database.transaction() as other:
                await both.hold_up(other, both.many)
                both.tell(recorder, 0)
                await both.held_up(1)
                both.tell(recorder, 1)
                await both.held_up(2)
            await both.has_ended(both.many)
            both.tell(recorder, 2)
            await eventually(looked)
            assert (len(recorder._sending), len(recorder._touched)) == (1, 1)
        await both.has_ended(both.few)
    assert await violations(database) == []


async def test_at_the_end_what_passed_and_was_not_acknowledged_is_sent_again(database: Database) -> None:
    worker, stop = await make_worker(database), asyncio.Event()
    both = await beside(database, worker)
    recorder = Recorder(database, ended_batches=lambda: None, drained=lambda: None)
    recorder.worker_id = worker
    running = asyncio.create_task(recorder.run(stop))
    async with database.transaction() as tx:
        await both.hold_up(tx, both.few)
        async with database.transaction() as other:
            await both.hold_up(other, both.many)
            both.tell(recorder, 0)
            await both.held_up(1)
            both.tell(recorder, 1, 2)
            await both.held_up(2)
        await both.has_ended(both.many)
        stop.set()
        await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
    await running
    assert (await get(database, both.few)).status is BatchStatus.COMPLETED
    assert await violations(database) == []
