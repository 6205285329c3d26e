import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import pytest

from factories import claim, get, make_batch, make_worker, sql, success, violations, waiting
from gristmill.db import Database, Transaction
from gristmill.domain.states import BatchStatus
from gristmill.store import copying
from gristmill.store.claims import Lease
from gristmill.worker.recorder import FLUSH_ITEMS, LARGE, Recorder
from gristmill.worker.work import HeldLease
from mill import eventually

BLOCKED = "datname = current_database() AND wait_event_type = 'Lock'"


class Told:
    """What the recorder told whom, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._written = asyncio.Event()

    def ended(self) -> None:
        self.told.append("ended")

    def recorded(self, to_the_end: bool) -> None:
        self.told.append("recorded to the end" if to_the_end else "recorded")
        self._written.set()

    async def flush(self) -> list[str]:
        """All that was told since the last time, once something has been written."""
        async with asyncio.timeout(20):
            await self._written.wait()
        self._written.clear()
        told, self.told = self.told, []
        return told


@asynccontextmanager
async def recording(database: Database, worker_id: int, news: Told) -> AsyncIterator[Recorder]:
    recorder = Recorder(database, ended_batches=news.ended, recorded=news.recorded)
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
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, 2)
    held = HeldLease(lease, 2)

    async with recording(database, worker, news) as recorder:
        recorder.add(held, success(lease, 0))
        assert await news.flush() == ["recorded"]
        recorder.add(held, success(lease, 1))
        assert await news.flush() == ["ended", "recorded to the end"]
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED


async def test_the_sender_of_webhooks_is_woken_when_a_flush_was_sent_again_whose_commit_nobody_heard_of(
    database: Database,
) -> None:
    """It may have ended a batch the first time, and then ends none the second."""
    await make_batch(database, 2)
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, 2)

    async def blocked() -> bool:
        return await sql(database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [1]

    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM lease FOR UPDATE")
            recorder.add(HeldLease(lease, 2), success(lease, 0))
            await eventually(blocked)
            await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
        assert await news.flush() == ["ended", "recorded"]
    assert await sql(database, "SELECT ordinal FROM result") == [0]


async def test_few_verdicts_wait_for_company_until_there_is_none_to_come(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.recorder.LINGER_SECONDS", 1000)
    await make_batch(database, 2)
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, 2)
    held = HeldLease(lease, 2)

    async with recording(database, worker, news) as recorder:
        recorder.add(held, success(lease, 0))
        recorder.give_back(held, 1)
        await asyncio.sleep(0.1)  # no event says that nothing happens
        assert not news.told
        recorder.hurry()
        assert await news.flush() == ["recorded"]


@pytest.mark.parametrize("items", [20, copying.FEW + 10])
@pytest.mark.parametrize("place", ["content", "output"])
async def test_one_result_with_a_lone_surrogate_ends_as_failed_and_the_others_of_its_flush_as_they_are(
    database: Database, caplog: pytest.LogCaptureFixture, place: str, items: int
) -> None:
    """In one statement, or of so many results that they are copied; and it is not taken for a flush that has to be sent again."""
    batch_id = await make_batch(database, items)
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, items)
    held = HeldLease(lease, len(lease.items))
    async with recording(database, worker, news) as recorder:
        for item in lease.items:
            text = "\ud800" if item.ordinal == 7 else '"fine"'
            recorder.add(held, success(lease, item.ordinal, **{place: text}))
        await news.flush()
    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, items - 1, 1)
    [error] = await sql(database, "SELECT error FROM result WHERE ordinal = 7")
    assert "unstorable_result" in error
    assert [one.message for one in caplog.records] == ["a result cannot be stored"]
    assert await violations(database) == []


# --- beside a large flush ---


class Beside:
    """Some batches, leases of theirs, and locks that hold their flushes up before the end. The first has many items."""

    def __init__(self, database: Database, batches: list[UUID], leases: list[list[Lease]]) -> None:
        self._database = database
        self.batches = batches
        self._leases = leases

    async def hold_up(self, tx: Transaction, batch: int) -> None:
        await tx.execute("SELECT FROM batch_count WHERE batch_id = $1 FOR UPDATE", self.batches[batch])

    async def held_up(self, flushes: int) -> None:
        async def so_many() -> bool:
            query = f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}"
            return await sql(self._database, query) == [flushes]

        await eventually(so_many)

    def tell(self, recorder: Recorder, batch: int, number: int = 0, *, most: int | None = None) -> None:
        """All items of this lease of the batch have ended, or so many."""
        lease = self._leases[batch][number]
        held = HeldLease(lease, len(lease.items))
        for item in lease.items[:most]:
            recorder.add(held, success(lease, item.ordinal))

    async def has_ended(self, batch: int) -> None:
        async def ended() -> bool:
            return not await self.is_under_way(batch)

        await eventually(ended)

    async def is_under_way(self, batch: int) -> bool:
        return (await get(self._database, self.batches[batch])).status is BatchStatus.IN_PROGRESS


MANY, FEW, OTHERS, MORE = 0, 1, 2, 3


async def beside(database: Database, worker_id: int, *batches: tuple[int, ...]) -> Beside:
    """Batches with leases of so many items."""
    ids, leases = [], []
    for sizes in batches:
        ids.append(await make_batch(database, sum(sizes)))
        leases.append([one for slots in sizes for one in await claim(database, worker_id, slots)])
        assert [len(lease.items) for lease in leases[-1]] == list(sizes)
    return Beside(database, ids, leases)


async def test_what_a_few_items_came_to_passes_a_large_flush_of_another_batch(database: Database) -> None:
    """One after the other, also those that are too many together."""
    worker, news = await make_worker(database), Told()
    all_of = await beside(database, worker, (LARGE,), (FLUSH_ITEMS - 10,), (20,))
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await all_of.hold_up(tx, MANY)
            all_of.tell(recorder, MANY)
            await all_of.held_up(1)
            all_of.tell(recorder, FEW)
            all_of.tell(recorder, OTHERS)
            await all_of.has_ended(FEW)
            await all_of.has_ended(OTHERS)
            assert await all_of.is_under_way(MANY)
        await all_of.has_ended(MANY)
        await eventually(lambda: is_empty(recorder))
    assert await violations(database) == []


async def test_what_a_few_items_came_to_passes_a_large_flush_that_it_would_have_been_part_of(
    database: Database,
) -> None:
    worker, news = await make_worker(database), Told()
    both = await beside(database, worker, (LARGE,), (3,))
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await both.hold_up(tx, MANY)
            both.tell(recorder, MANY)
            both.tell(recorder, FEW)
            await both.has_ended(FEW)
            assert await both.is_under_way(MANY)
        await both.has_ended(MANY)
    assert await violations(database) == []


async def test_what_a_few_items_came_to_passes_a_large_flush_although_enough_for_the_next_is_there(
    database: Database,
) -> None:
    worker, news = await make_worker(database), Told()
    all_of = await beside(database, worker, (LARGE,), (3,), (FLUSH_ITEMS + 10,))
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await all_of.hold_up(tx, MANY)
            all_of.tell(recorder, MANY)
            await all_of.held_up(1)
            all_of.tell(recorder, OTHERS, most=FLUSH_ITEMS)
            all_of.tell(recorder, FEW)
            await all_of.has_ended(FEW)
            assert await all_of.is_under_way(MANY)
        await all_of.has_ended(MANY)
    assert await violations(database) == []


async def test_few_large_answers_that_wait_are_as_much_as_many_small_ones_until_they_are_acknowledged(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.recorder.FULL_CHARACTERS", 1000)
    await make_batch(database, 2)
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, 2)
    held = HeldLease(lease, 2)

    async def blocked() -> bool:
        return await sql(database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [1]

    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM lease FOR UPDATE")
            recorder.add(held, success(lease, 0, output=f'"{"x" * 1998}"'))
            await eventually(blocked)
            assert recorder.fullness == 2.0
            recorder.add(held, success(lease, 1, content="x" * 500))
            more = 2.5 + len('{"was":1}') / 1000
            assert recorder.fullness == more
            await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
            await eventually(lambda: is_unsent(recorder))
            assert recorder.fullness == more
        await news.flush()
        await eventually(lambda: is_empty(recorder))


async def is_unsent(recorder: Recorder) -> bool:
    return bool(recorder._unsent)


async def is_empty(recorder: Recorder) -> bool:
    return recorder.fullness == 0.0


async def test_no_two_flushes_of_one_batch_are_under_way(database: Database) -> None:
    """One could bring a lease down to less than the other had, which then would not count as held."""
    worker, news = await make_worker(database), Told()
    both = await beside(database, worker, (LARGE,), (3, 2))
    async with recording(database, worker, news) as recorder:

        async def looked() -> bool:
            return not recorder._some.is_set()

        async with database.transaction() as tx:
            await both.hold_up(tx, FEW)
            async with database.transaction() as other:
                await both.hold_up(other, MANY)
                both.tell(recorder, MANY)
                await both.held_up(1)
                both.tell(recorder, FEW, 0)
                await both.held_up(2)
            await both.has_ended(MANY)
            both.tell(recorder, FEW, 1)
            await eventually(looked)
            assert (len(recorder._sending), len(recorder._touched)) == (1, 1)
        await both.has_ended(FEW)
    assert await violations(database) == []


@pytest.mark.timeout(60, method="signal")  # a loop that never waits would let no other time limit end it
async def test_while_what_passes_is_held_up_all_others_go_on(database: Database) -> None:
    """Many of its own batch, that may not be taken; many and few of others, that may."""
    worker, news = await make_worker(database), Told()
    all_of = await beside(database, worker, (LARGE, LARGE), (3, LARGE), (3,), (3,))
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await all_of.hold_up(tx, FEW)
            async with database.transaction() as other:
                await all_of.hold_up(other, MANY)
                all_of.tell(recorder, MANY, 0)
                await all_of.held_up(1)
                all_of.tell(recorder, FEW, 0)
                await all_of.held_up(2)
                all_of.tell(recorder, FEW, 1)
            await all_of.held_up(1)
            all_of.tell(recorder, OTHERS)
            await all_of.has_ended(OTHERS)
            all_of.tell(recorder, MANY, 1)
            all_of.tell(recorder, MORE)
            await all_of.has_ended(MANY)
            await all_of.has_ended(MORE)
            assert await all_of.is_under_way(FEW)
        await all_of.has_ended(FEW)
    assert await violations(database) == []


async def test_at_the_end_what_passes_holds_up_no_others_and_is_sent_again_if_it_was_not_acknowledged(
    database: Database,
) -> None:
    worker, stop = await make_worker(database), asyncio.Event()
    all_of = await beside(database, worker, (LARGE,), (5,), (3,))
    recorder = Recorder(database, ended_batches=lambda: None, recorded=lambda _: None)
    recorder.worker_id = worker
    running = asyncio.create_task(recorder.run(stop))
    async with database.transaction() as tx:
        await all_of.hold_up(tx, FEW)
        async with database.transaction() as other:
            await all_of.hold_up(other, MANY)
            all_of.tell(recorder, MANY)
            await all_of.held_up(1)
            all_of.tell(recorder, FEW)
            await all_of.held_up(2)
        await all_of.has_ended(MANY)
        all_of.tell(recorder, OTHERS)
        stop.set()
        await all_of.has_ended(OTHERS)
        await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
    await running
    assert not await all_of.is_under_way(FEW)
    assert await violations(database) == []


async def test_a_large_flush_and_what_passes_it_are_both_sent_again_where_neither_was_acknowledged(
    database: Database,
) -> None:
    worker, news = await make_worker(database), Told()
    both = await beside(database, worker, (LARGE,), (3,))
    async with recording(database, worker, news) as recorder:
        async with database.transaction() as tx:
            await both.hold_up(tx, MANY)
            await both.hold_up(tx, FEW)
            both.tell(recorder, MANY)
            await both.held_up(1)
            both.tell(recorder, FEW)
            await both.held_up(2)
            await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
        await both.has_ended(MANY)
        await both.has_ended(FEW)
    assert await violations(database) == []


async def test_the_rest_of_a_lease_is_told_after_the_part_of_it_that_was_not_acknowledged(
    database: Database,
) -> None:
    """Else the part, which leaves more of the lease, would find it lowered already, and put nothing back."""
    batch_id = await make_batch(database, 4)
    worker, news = await make_worker(database), Told()
    [lease] = await claim(database, worker, 4)
    held = HeldLease(lease, 4)

    async def blocked() -> bool:
        return await sql(database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [1]

    async with recording(database, worker, news) as recorder, database.transaction() as tx:
        await tx.execute("SELECT FROM lease FOR UPDATE")
        recorder.add(held, success(lease, 0))
        recorder.give_back(held, 1)
        await eventually(blocked)
        await tx.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {BLOCKED}")
        recorder.add(held, success(lease, 2))
        recorder.add(held, success(lease, 3))
    assert await sql(database, "SELECT ordinal FROM result ORDER BY ordinal") == [0, 2, 3]
    assert await waiting(database, batch_id) == [(1, 1)]
    assert await violations(database) == []


async def test_what_postgres_refuses_keeps_nothing_else_from_being_recorded(database: Database) -> None:
    worker, news = await make_worker(database), Told()
    all_of = await beside(database, worker, (5,), (3,))
    refuse = f"ADD CONSTRAINT refuses CHECK (success = 0 OR batch_id <> '{all_of.batches[0]}')"
    await sql(database, f"ALTER TABLE batch_count {refuse}")
    try:
        async with recording(database, worker, news) as recorder:
            all_of.tell(recorder, 0)
            await eventually(partial(unsent, recorder))
            all_of.tell(recorder, 1)
            await all_of.has_ended(1)
            assert await all_of.is_under_way(0)
            await sql(database, "ALTER TABLE batch_count DROP CONSTRAINT refuses")
            await all_of.has_ended(0)
    finally:
        await sql(database, "ALTER TABLE batch_count DROP CONSTRAINT IF EXISTS refuses")
    assert await violations(database) == []


async def unsent(recorder: Recorder) -> bool:
    return bool(recorder._unsent)
