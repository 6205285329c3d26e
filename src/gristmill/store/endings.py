"""How a batch ends: its last result, its end and its announcement are one transaction.

Two ways lead here: the counters reach the total (`finish`), and what is left is ended without a run, because the batch
was cancelled or its deadline passed (`expire`, then `sweep`).
"""

from collections.abc import Sequence
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.states import BatchStatus, Ending, ResultStatus
from gristmill.store import counts, deliveries, histories, schedules
from gristmill.store.counts import Tally

CODES = {Ending.CANCEL: 499, Ending.DEADLINE: 408}

_FINISH = """
UPDATE batch SET
    status = CASE WHEN ending IS NULL THEN 'completed' WHEN ending = 'cancel' THEN 'cancelled' ELSE 'failed' END,
    completed_at = CASE WHEN ending IS DISTINCT FROM 'cancel' THEN clock_timestamp() END,
    cancelled_at = CASE WHEN ending = 'cancel' THEN clock_timestamp() END,
    error = CASE WHEN ending = 'deadline' THEN
        '{"type":"deadline_exceeded","message":"The batch''s deadline passed before all of its requests had run."}'
    END
FROM batch_count c
WHERE batch.id = $1 AND c.batch_id = $1 AND status IN ('in_progress', 'paused', 'cancelling')
RETURNING batch.id, tenant_id, status, run, c.total, success, failed, coalesce(completed_at, cancelled_at) AS at,
    webhook_url, webhook_events, webhook_secret
"""


async def finish(tx: Transaction, batch_ids: Sequence[UUID]) -> None:
    """End batches whose counts are complete, and write what announces it. Once each: a second call changes nothing."""
    for batch_id in batch_ids:
        await schedules.remove(tx, batch_id)  # before the batch row: the order in which pause and cancel lock
        row = await tx.fetchrow(_FINISH, batch_id)
        if row is None:
            continue
        await _clear_spans(tx, batch_id, row["total"])
        await deliveries.queue(
            tx,
            batch_id=batch_id,
            tenant_id=row["tenant_id"],
            event=row["status"],
            run=row["run"],
            status=row["status"],
            total=row["total"],
            success=row["success"],
            failed=row["failed"],
            at=row["at"],
            webhook_url=row["webhook_url"],
            webhook_events=row["webhook_events"],
            webhook_secret=row["webhook_secret"],
        )


async def _clear_spans(tx: Transaction, batch_id: UUID, total: int) -> None:
    """What still waits are items that a lost worker did record after all."""
    if await tx.execute("DELETE FROM span WHERE batch_id = $1", batch_id) != "DELETE 0":
        await histories.leave(tx, await histories.held_by(tx, batch_id, 0, total - 1))


_OVERDUE = """
SELECT s.batch_id FROM batch_schedule s
WHERE s.deadline_at <= now() AND EXISTS (SELECT FROM span w WHERE w.batch_id = s.batch_id)
ORDER BY s.deadline_at LIMIT 20 FOR UPDATE OF s SKIP LOCKED
"""


async def expire(tx: Transaction) -> int:
    """Stop batches whose deadline has passed while items still wait; they will end as failed. Answers with how many.

    A batch whose last items are in flight at its deadline is left to complete.
    """
    overdue = [row["batch_id"] for row in await tx.fetch(_OVERDUE)]
    for batch_id in overdue:
        await schedules.remove(tx, batch_id)
    await tx.execute(
        """
        UPDATE batch SET ending = 'deadline', status = 'in_progress'
        WHERE id = ANY ($1) AND status IN ('in_progress', 'paused') AND ending IS NULL
        """,
        overdue,
    )
    return len(overdue)


# Literals as in batch_ending_idx: only then can a generic plan use it.
_NEXT_SPAN = """
SELECT w.id, w.batch_id, w.first, w.last, w.attempts, b.ending FROM batch b JOIN span w ON w.batch_id = b.id
WHERE b.ending IS NOT NULL AND b.status IN ('in_progress', 'cancelling')
ORDER BY b.id, w.id LIMIT 1 FOR UPDATE OF w SKIP LOCKED
"""
_END_RANGE = f"""
INSERT INTO result (batch_id, ordinal, status, code, attempt)
SELECT $1, ordinal, {ResultStatus.FAILED:d}, $4, $5 FROM generate_series($2::int, $3::int) AS ordinal
ON CONFLICT DO NOTHING
"""


async def sweep(tx: Transaction, *, most: int = 5000) -> int:
    """End up to `most` waiting items of a batch that starts nothing any more; answers with how many it looked at."""
    span = await tx.fetchrow(_NEXT_SPAN)
    if span is None:
        return 0
    ending, batch_id, first = Ending(span["ending"]), span["batch_id"], span["first"]
    last = min(span["last"], first + most - 1)
    done: str = await tx.execute(_END_RANGE, batch_id, first, last, CODES[ending], span["attempts"])
    if last == span["last"]:
        await tx.execute("DELETE FROM span WHERE id = $1", span["id"])
    else:
        await tx.execute("UPDATE span SET first = $2 WHERE id = $1", span["id"], last + 1)
    await histories.leave(tx, await histories.held_by(tx, batch_id, first, last))
    await finish(tx, await counts.add(tx, {batch_id: _tally(ending, int(done.split()[-1]))}))
    swept: int = last - first + 1
    return swept


def _tally(ending: Ending, ended: int) -> Tally:
    if ending is Ending.CANCEL:
        return Tally(failed=ended, cancelled=ended)
    return Tally(failed=ended, expired=ended)


async def clear_leftovers(tx: Transaction) -> int:
    """Remove leases of batches that ended without them: a zombie's, whose items others recorded. Answers with how many."""
    terminal = [status.value for status in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED)]
    done: str = await tx.execute(
        """
        DELETE FROM lease WHERE id IN (
            SELECT l.id FROM lease l LEFT JOIN batch b ON b.id = l.batch_id
            WHERE b.id IS NULL OR b.status = ANY ($1) FOR UPDATE OF l SKIP LOCKED
        )
        """,
        terminal,
    )
    return int(done.split()[-1])
