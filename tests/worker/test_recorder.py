import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from factories import claim, get, make_batch, make_worker, sql, success, violations
from gristmill.db import Database
from gristmill.domain.states import BatchStatus
from gristmill.store.recording import COPY_FROM
from gristmill.worker.recorder import Recorder
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
