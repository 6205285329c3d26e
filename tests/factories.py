"""Rows for tests, made by the product's own functions, so that they are consistent with their state."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, TypeVar
from uuid import UUID

import pytest

from gristmill.db import Database, Transaction
from gristmill.domain.ids import uuid7
from gristmill.store import (
    batches,
    claims,
    endings,
    leases,
    limits,
    new_batches,
    recording,
    results,
    retention,
    workers,
)
from gristmill.store.audit import Violation, audit
from gristmill.store.batches import Batch
from gristmill.store.claims import Claim, ClaimedItem, Lease
from gristmill.store.new_batches import NewBatch, NewItem
from gristmill.store.recording import Flush
from gristmill.store.results import Result
from gristmill.store.verdicts import Answered, End, Ended, Retried

TENANT = UUID("00000000-0000-7000-8000-000000000001")
T = TypeVar("T")


def new_batch(**more: Any) -> NewBatch:
    """`more`: its fields."""
    return NewBatch(**({"id": uuid7(), "tenant_id": TENANT, "processor": "noop", "config": "{}"} | more))


def plain(items: int | Sequence[NewItem]) -> Sequence[NewItem]:
    """A number: that many with custom ids item-0, item-1, …"""
    if not isinstance(items, int):
        return items
    return [NewItem(f"item-{n}", f'{{"text":"{n}"}}') for n in range(items)]


async def make_batch(
    database: Database,
    items: int | Sequence[NewItem],
    **more: Any,
) -> UUID:
    """A stored batch; `more`: its fields."""
    new = new_batch(**more)
    async with database.transaction() as tx:
        await new_batches.create(tx, new, plain(items))
    return new.id


async def make_born(
    database: Database,
    worker_id: int,
    items: int | Sequence[NewItem],
    slots: int | Mapping[str, int],
    **more: Any,
) -> tuple[UUID, Claim]:
    """A batch whose first items are leased to this worker by the transaction that makes it, if nothing is in the way."""
    async with database.transaction() as tx:
        return await bear(tx, worker_id, items, slots, **more)


async def bear(
    tx: Transaction,
    worker_id: int,
    items: int | Sequence[NewItem],
    slots: int | Mapping[str, int],
    **more: Any,
) -> tuple[UUID, Claim]:
    """As `make_born`, in a transaction that may go on."""
    new, items = new_batch(**more), plain(items)
    free = {"noop": slots} if isinstance(slots, int) else slots
    claimed = [ClaimedItem(n, item.custom_id, None, item.input) for n, item in enumerate(items)]
    await new_batches.create(tx, new, items)
    return new.id, await claims.born(tx, worker_id, free, new.id, claimed)


def in_chats(*histories: int | None) -> list[NewItem]:
    """Items that continue these chats, in this order; None: none."""
    return [NewItem(f"item-{n}", "{}", history_id) for n, history_id in enumerate(histories)]


async def make_worker(database: Database, *, processors: Sequence[str] = ("noop",)) -> int:
    async with database.transaction() as tx:
        return await workers.join(tx, name="test:1", processors=processors, concurrency=100)


async def get(database: Database, batch_id: UUID, tenant_id: UUID = TENANT) -> Batch:
    async with database.connection() as connection:
        return await batches.get(connection, tenant_id, batch_id)


async def page(connection: Transaction, batch: Batch, **asked: Any) -> tuple[list[Result], int]:
    """Of results, as a page of the API reads them."""
    found, total = await results.rows(connection, batch, most_bytes=2**24, **asked)
    return [results.result_of(row) for row in found], total


async def claim(database: Database, worker_id: int, slots: int | Mapping[str, int]) -> list[Lease]:
    return list((await claim_some(database, worker_id, slots)).leases)


async def claim_some(database: Database, worker_id: int, slots: int | Mapping[str, int]) -> Claim:
    """Of what is not suspected, else one suspect, as an idle worker does it; again as long as another claim was faster."""
    free = {"noop": slots} if isinstance(slots, int) else slots
    async with asyncio.timeout(60):
        while True:
            async with database.transaction(durable=False) as tx:
                claimed = await claims.claim(tx, worker_id, free)
            if claimed.taken:
                return claimed
            if not claimed.missed:
                break
            await asyncio.sleep(0.001)
    async with database.transaction(durable=False) as tx:
        return await claims.claim(tx, worker_id, dict.fromkeys(free, 1), suspect=True)


def success(lease: Lease, ordinal: int, **more: Any) -> End:
    output = more.pop("output", f'{{"was":{ordinal}}}')
    if output is None or any(value is not None for value in more.values()):
        return Ended(lease, ordinal, output, **more)
    return Answered(lease, ordinal, output)


def failure(lease: Lease, ordinal: int, code: int = 500, **more: Any) -> Ended:
    return Ended(lease, ordinal, code=code, error='{"type":"test","message":"as asked"}', **more)


def retry(lease: Lease, ordinal: int, delay_seconds: float = 0.0, *, waiting: bool = False) -> Retried:
    used = lease.attempt - 1 if waiting else lease.attempt
    return Retried(failure(lease, ordinal), used, delay_seconds, waiting)


def all_of(leases: Sequence[Lease]) -> Flush:
    """Every item of the leases has succeeded."""
    ended = [
        success(lease, item.ordinal, history_id=item.history_id) for lease in leases for item in lease.items
    ]
    return Flush({lease.id: 0 for lease in leases}, ended)


ALONE = False  # of `record`, unless it is told


async def record(database: Database, worker_id: int, flush: Flush, *, alone: bool | None = None) -> None:
    async with database.transaction() as tx:
        await recording.record(tx, worker_id, flush, alone=ALONE if alone is None else alone)


async def drain(database: Database, worker_id: int, slots: int | Mapping[str, int] = 100) -> int:
    """Claim and succeed until nothing may start; answers with how many items that were."""
    done = 0
    while (claim := await claim_some(database, worker_id, slots)).taken:
        await record(database, worker_id, all_of(claim.leases), alone=True)
        done += sum(len(lease.items) for lease in claim.leases)
    return done


async def erase(database: Database) -> None:
    """What is left of batches that are gone, as far as it is due."""
    erased = 1
    while erased:
        async with database.transaction() as tx:
            erased = await retention.erase(tx)


Action = Callable[[Any, UUID, UUID], Awaitable[object]]


async def turn(database: Database, action: Action, batch_id: UUID, tenant_id: UUID = TENANT) -> None:
    """Pause, resume, cancel or delete."""
    async with database.transaction() as tx:
        await action(tx, tenant_id, batch_id)


async def lose(database: Database, worker_id: int) -> None:
    """The worker dies, and its leases are taken back."""
    async with database.transaction() as tx:
        await workers.leave(tx, worker_id)
    await reclaim(database)


async def reclaim(database: Database) -> int:
    """What the reaper does until it finds nothing; answers with how many leases that were."""
    taken = 0
    while True:
        async with database.transaction() as tx:
            found = await leases.reclaim(tx)
        if not found:
            return taken
        taken += found


async def expire(database: Database, batch_id: UUID) -> int:
    """The batch's deadline passes, and the next round of the sweeper sees it."""
    await sql(database, "UPDATE batch SET deadline_at = now() WHERE id = $1", batch_id)
    await sql(database, "UPDATE batch_schedule SET deadline_at = now() WHERE batch_id = $1", batch_id)
    async with database.transaction() as tx:
        return await endings.expire(tx)


async def enforce(database: Database) -> int:
    """What the sweeper does with batches that went beyond a limit; answers with how many it stopped."""
    async with database.transaction() as tx:
        return await limits.enforce(tx)


async def sweep(database: Database, most: int = 5000) -> list[int]:
    """What the sweeper does until it finds nothing; answers with how many items each round ended."""
    rounds = []
    while True:
        async with database.transaction() as tx:
            swept = await endings.sweep(tx, most=most)
        if not swept:
            return rounds
        rounds.append(swept)


async def sql(database: Database, statement: str, *arguments: Any) -> list[Any]:
    """The rows; those of one column as their values."""
    async with database.connection() as connection:
        rows = await connection.fetch(statement, *arguments)
    return [row[0] if len(row) == 1 else tuple(row) for row in rows]


async def blocked(database: Database, task: "asyncio.Task[Any]") -> None:
    """Until the task waits for a lock in Postgres, or is done."""
    query = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while not task.done() and await sql(database, query) == [0]:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def late_choice(
    database: Database, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, claim: Awaitable[T]
) -> AsyncIterator["asyncio.Future[T]"]:
    """By that statement a claim has seen what there is, and chooses at the end of the block. Others are as fast as ever."""
    seen = "FROM tenant_schedule ts LEFT JOIN"
    statement = getattr(module, name)
    assert seen in statement
    gate = await database.connect()
    try:
        await gate.execute("SELECT pg_advisory_lock(7)")
        with monkeypatch.context() as patch:
            waits = f"FROM (SELECT pg_advisory_xact_lock_shared(7)) AS waits CROSS JOIN {seen[5:]}"
            patch.setattr(module, name, statement.replace(seen, waits, 1))
            task = asyncio.ensure_future(claim)
            await blocked(database, task)
        yield task
        assert not task.done()
    finally:
        await gate.close()


async def waiting(database: Database, batch_id: UUID) -> list[tuple[int, int]]:
    """The spans of a batch, as first and last ordinal."""
    return await sql(
        database, "SELECT first, last FROM span WHERE batch_id = $1 ORDER BY first, id", batch_id
    )


def ordinals(claimed: Sequence[Lease]) -> list[int]:
    return [item.ordinal for lease in claimed for item in lease.items]


async def violations(database: Database) -> list[Violation]:
    async with database.connection() as connection:
        return await audit(connection)


async def events(database: Database, batch_id: UUID) -> list[str]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT type FROM event WHERE batch_id = $1 ORDER BY created_at", batch_id
        )
        return [row["type"] for row in rows]
