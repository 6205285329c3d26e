"""What changes a batch: each is one guarded UPDATE, and answers with the batch or with why not.

Where a batch ends: `store/endings.py`. A retry: `store/retries.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import orjson

from gristmill.db import Transaction, savepoint
from gristmill.domain.errors import Conflict, Gone, NotFound
from gristmill.domain.states import TERMINAL, BatchStatus
from gristmill.store import announcements, batches, histories, limits, retention, schedules
from gristmill.store.batches import Batch

_TURN = """
    UPDATE batch SET status = $3, paused_by = NULL
    WHERE id = $1 AND tenant_id = $2 AND status = $4 AND ending IS NULL RETURNING id
"""


async def pause(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> Batch:
    """No item of it starts after this commits: claims take the schedule row that this waits for and changes."""
    await schedules.lock(tx, batch_id)
    await _turn(tx, tenant_id, batch_id, BatchStatus.IN_PROGRESS, BatchStatus.PAUSED, "pause")
    await schedules.set_paused(tx, batch_id, True)
    await announcements.announce(tx, batch_id, "paused")
    return await batches.get(tx, tenant_id, batch_id)


async def resume(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> Batch:
    """A limit that the batch went beyond is judged anew, by what ends from now on."""
    while not await _let_start(tx, tenant_id, batch_id):
        await limits.wait_for_the_flush(tx, batch_id)
    await _turn(tx, tenant_id, batch_id, BatchStatus.PAUSED, BatchStatus.IN_PROGRESS, "resume")
    # Again: an ingest that ended while this waited for the batch has just made its schedule, of a batch that was paused.
    await schedules.set_paused(tx, batch_id, False)
    await announcements.announce(tx, batch_id, "resumed")
    return await batches.get(tx, tenant_id, batch_id)


_PAUSED = "SELECT true FROM batch WHERE id = $1 AND tenant_id = $2 AND status = 'paused'"


async def _let_start(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> bool:
    """Chats before counters, as a flush takes them. False: nothing has changed, and a flush is to be waited for."""
    try:
        async with savepoint(tx):  # its end lets the rows go
            await schedules.lock(tx, batch_id)
            if await tx.fetchval(_PAUSED, batch_id, tenant_id):
                await schedules.set_paused(tx, batch_id, False)
                await histories.let_go(tx, batch_id)
                await limits.begin_anew(tx, tenant_id, batch_id)
    except limits.Busy:
        return False
    return True


async def _turn(
    tx: Transaction, tenant_id: UUID, batch_id: UUID, old: BatchStatus, new: BatchStatus, action: str
) -> None:
    if await tx.fetchval(_TURN, batch_id, tenant_id, new.value, old.value) is None:
        raise await refusal(tx, tenant_id, batch_id, action)


async def cancel(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> Batch:
    """Nothing starts after this commits; what waits is ended with 499 by the sweeper (`store/endings.py`)."""
    await schedules.lock(tx, batch_id)
    cancelling = """
        UPDATE batch SET status = 'cancelling', ending = 'cancel', paused_by = NULL
        WHERE id = $1 AND tenant_id = $2 AND status IN ('in_progress', 'paused') AND ending IS NULL RETURNING id
    """
    if await tx.fetchval(cancelling, batch_id, tenant_id) is None:
        raise await refusal(tx, tenant_id, batch_id, "cancel")
    await schedules.remove(tx, batch_id)
    return await batches.get(tx, tenant_id, batch_id)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch shall have from now on; None: as it was. `any_concurrency`: without a limit of its own."""

    name: str | None = None
    metadata: Mapping[str, str] | None = None
    retention_days: int | None = None
    priority: int | None = None
    max_concurrency: int | None = None
    any_concurrency: bool = False
    deadline_seconds: int | None = None  # from where it was counted so far: the begin of the run

    @property
    def of_the_run(self) -> bool:
        """Whether they mean something only while the batch runs."""
        return self.any_concurrency or (
            (self.priority, self.max_concurrency, self.deadline_seconds) != (None, None, None)
        )


_CHANGE = """
UPDATE batch SET name = coalesce($3, name), metadata = coalesce($4::jsonb, metadata),
    expires_at = expires_at + make_interval(days => coalesce($5, retention_days) - retention_days),
    retention_days = coalesce($5, retention_days), priority = coalesce($6, priority),
    max_concurrency = CASE WHEN $8 THEN NULL ELSE coalesce($7, max_concurrency) END,
    deadline_at = deadline_at + make_interval(secs => coalesce($9, deadline_seconds) - deadline_seconds),
    deadline_seconds = coalesce($9, deadline_seconds)
WHERE id = $1 AND tenant_id = $2 AND (NOT $10 OR (status IN ('in_progress', 'paused') AND ending IS NULL))
RETURNING id
"""
_RESCHEDULE = """
UPDATE batch_schedule s SET weight = 10 ^ (b.priority / 100.0), max_concurrency = b.max_concurrency,
    deadline_at = b.deadline_at
FROM batch b WHERE b.id = $1 AND s.batch_id = b.id
"""


async def change(tx: Transaction, tenant_id: UUID, batch_id: UUID, changes: Changes) -> Batch:
    """The next claim goes by them. Raises Conflict if they are for a run and none is under way."""
    await schedules.lock(tx, batch_id)
    metadata = None if changes.metadata is None else orjson.dumps(dict(changes.metadata)).decode()
    changed = await tx.fetchval(
        _CHANGE, batch_id, tenant_id, changes.name, metadata, changes.retention_days, changes.priority,
        changes.max_concurrency, changes.any_concurrency, changes.deadline_seconds, changes.of_the_run,
    )  # fmt: skip
    if changed is None:
        raise await refusal(tx, tenant_id, batch_id, "change")
    await tx.execute(_RESCHEDULE, batch_id)
    return await batches.get(tx, tenant_id, batch_id)


async def delete(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> None:
    """Remove an ended batch; the rows of its items are erased soon, however many (store/retention.py). Chats stay."""
    terminal = [status.value for status in TERMINAL]
    # First, as in the lock order: a worker that still has items of it, recorded by others, shall record none of them.
    leases = """
        DELETE FROM lease USING batch b
        WHERE lease.batch_id = $1 AND b.id = $1 AND b.tenant_id = $2 AND b.status = ANY ($3)
    """
    await tx.execute(leases, batch_id, tenant_id, terminal)
    mine = "SELECT id FROM batch WHERE id = $1 AND tenant_id = $2 AND status = ANY ($3) FOR UPDATE"
    if await tx.fetchval(mine, batch_id, tenant_id, terminal) is None:
        raise await refusal(tx, tenant_id, batch_id, "delete")
    await retention.let_go(tx, [batch_id])


async def refusal(
    tx: Transaction, tenant_id: UUID, batch_id: UUID, action: str
) -> NotFound | Gone | Conflict:
    """Why the batch cannot take this turn: the error to raise."""
    row = await tx.fetchrow(
        "SELECT status, ending FROM batch WHERE id = $1 AND tenant_id = $2", batch_id, tenant_id
    )
    if row is None:
        return await retention.absent(tx, tenant_id, batch_id)
    draining = row["ending"] is not None and row["status"] == BatchStatus.IN_PROGRESS
    state = f"'{row['status']}'" + (" and draining" if draining else "")
    return Conflict(f"cannot {action} a batch with status {state}", code="wrong_status")
