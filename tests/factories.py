"""Rows for tests, made by the product's own functions, so that they are consistent with their state."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from gristmill.db import Database
from gristmill.domain.ids import uuid7
from gristmill.domain.states import ResultStatus
from gristmill.store import batches, recording, spans, workers
from gristmill.store.audit import Violation, audit
from gristmill.store.batches import Batch, NewBatch, NewItem, NewWebhook
from gristmill.store.recording import Ended, Flush, Retried
from gristmill.store.spans import Lease

TENANT = UUID("00000000-0000-7000-8000-000000000001")


async def make_batch(
    database: Database,
    items: int | Sequence[NewItem],
    *,
    tenant_id: UUID = TENANT,
    processor: str = "noop",
    config: str = "{}",
    webhook: NewWebhook | None = None,
    **more: Any,
) -> UUID:
    """A stored batch; `items` a number: that many with custom ids item-0, item-1, …"""
    if isinstance(items, int):
        items = [NewItem(f"item-{n}", f'{{"text":"{n}"}}') for n in range(items)]
    new = replace(NewBatch(uuid7(), tenant_id, processor, config), webhook=webhook, **more)
    async with database.transaction() as tx:
        await batches.create(tx, new, items)
    return new.id


async def make_worker(database: Database, *, processors: Sequence[str] = ("noop",)) -> int:
    async with database.transaction() as tx:
        return await workers.join(tx, name="test:1", processors=processors, concurrency=100)


async def get(database: Database, batch_id: UUID, tenant_id: UUID = TENANT) -> Batch:
    async with database.connection() as connection:
        return await batches.get(connection, tenant_id, batch_id)


async def claim(database: Database, worker_id: int, slots: int | Mapping[str, int]) -> list[Lease]:
    free = {"noop": slots} if isinstance(slots, int) else slots
    async with database.transaction(durable=False) as tx:
        return await spans.claim(tx, worker_id, free)


def success(lease: Lease, ordinal: int, **more: Any) -> Ended:
    ended = Ended(
        lease.id, lease.batch_id, ordinal, ResultStatus.SUCCESS, None, lease.attempt, lease.started_at
    )
    ended.output = f'{{"was":{ordinal}}}'
    for name, value in more.items():
        setattr(ended, name, value)
    return ended


def failure(lease: Lease, ordinal: int, code: int = 500) -> Ended:
    return Ended(
        lease.id,
        lease.batch_id,
        ordinal,
        ResultStatus.FAILED,
        code,
        lease.attempt,
        lease.started_at,
        error='{"type":"test","message":"as asked"}',
    )


def retry(lease: Lease, ordinal: int, delay_seconds: float = 0.0, *, waiting: bool = False) -> Retried:
    used = lease.attempt - 1 if waiting else lease.attempt
    return Retried(failure(lease, ordinal), used, lease.losses, delay_seconds, waiting)


def all_of(leases: Sequence[Lease]) -> Flush:
    """Every item of the leases has succeeded."""
    ended = [
        success(lease, item.ordinal, history_id=item.history_id) for lease in leases for item in lease.items
    ]
    return Flush({lease.id: 0 for lease in leases}, ended)


async def record(database: Database, worker_id: int, flush: Flush, *, alone: bool = False) -> None:
    async with database.transaction() as tx:
        await recording.record(tx, worker_id, flush, alone=alone)


async def drain(database: Database, worker_id: int, slots: int | Mapping[str, int] = 100) -> int:
    """Claim and succeed until nothing may start; answers with how many items that were."""
    done = 0
    while leases := await claim(database, worker_id, slots):
        await record(database, worker_id, all_of(leases), alone=True)
        done += sum(len(lease.items) for lease in leases)
    return done


async def violations(database: Database) -> list[Violation]:
    async with database.connection() as connection:
        return await audit(connection)


async def events(database: Database, batch_id: UUID) -> list[str]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT type FROM event WHERE batch_id = $1 ORDER BY created_at", batch_id
        )
        return [row["type"] for row in rows]
