"""Failure thresholds and budgets: what follows when a batch goes beyond one.

Whether it has is decided where results are counted, in the row of the counters and in that transaction
(`store/counts.py`). From its commit on claims pass the batch over. Here, a moment later, the batch turns: it is paused, or
what waits in it is ended (`store/endings.py`). Both take its schedule row as pause and cancel do, so that nothing starts
once the new state can be read.
"""

from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction, savepoint
from gristmill.domain.limits import Budget, FailureThreshold, LimitAction
from gristmill.store import announcements, schedules

_SET = """
UPDATE batch_count SET failure_ratio = $2, failure_minimum = $3, failure_action = $4, max_tokens = $5, budget_action = $6
WHERE batch_id = $1
"""


async def lay_down(
    tx: Transaction, batch_id: UUID, threshold: FailureThreshold | None, budget: Budget | None
) -> None:
    """Of a new batch, before its schedule row is there."""
    await tx.execute(
        _SET,
        batch_id,
        threshold.ratio if threshold else None,
        threshold.minimum if threshold else None,
        threshold.action.value if threshold else None,
        budget.max_tokens if budget else None,
        budget.action.value if budget else None,
    )


# A batch that used up its budget with its last items is left to complete: there is nothing to stop. One of which too many
# have failed by then has failed all the same, here or in `endings.finish`.
BEYOND = """
SELECT s.batch_id, c.exceeded, CASE c.exceeded WHEN 'threshold' THEN c.failure_action ELSE c.budget_action END AS action
FROM batch_count c JOIN batch_schedule s ON s.batch_id = c.batch_id JOIN batch b ON b.id = c.batch_id
WHERE c.exceeded IS NOT NULL
    AND (b.paused_by IS NULL OR CASE c.exceeded WHEN 'threshold' THEN c.failure_action ELSE c.budget_action END = 'fail')
    AND (
        EXISTS (SELECT FROM span w WHERE w.batch_id = c.batch_id)
        OR (c.exceeded = 'threshold' AND c.failure_action = 'fail')
    )
ORDER BY s.batch_id LIMIT 20
"""
# Read again by a statement of its own once the schedule row is held: a resume that committed while `BEYOND` was looking for
# rows to lock has let the batch go on, and the counters it read are those of before.
_EXCEEDED = "SELECT exceeded FROM batch_count WHERE batch_id = $1"


async def enforce(tx: Transaction) -> int:
    """Stop batches that went beyond a limit of theirs; answers with how many."""
    stopped = 0
    for row in await tx.fetch(f"{BEYOND} FOR UPDATE OF s SKIP LOCKED"):
        if await tx.fetchval(_EXCEEDED, row["batch_id"]) != row["exceeded"]:
            continue
        stopped += 1
        if row["action"] == LimitAction.FAIL:
            await _fail(tx, row)
        else:
            await _pause(tx, row)
    return stopped


async def _fail(tx: Transaction, beyond: Record) -> None:
    await schedules.remove(tx, beyond["batch_id"])
    ending = """
        UPDATE batch SET ending = $2, status = 'in_progress', paused_by = NULL
        WHERE id = $1 AND status IN ('in_progress', 'paused') AND ending IS NULL
    """
    await tx.execute(ending, beyond["batch_id"], beyond["exceeded"])


async def _pause(tx: Transaction, beyond: Record) -> None:
    """Also of a batch that its owner paused meanwhile: it says why it should stay so."""
    paused = """
        UPDATE batch b SET status = 'paused', paused_by = $2 FROM batch was
        WHERE b.id = $1 AND was.id = $1 AND b.status IN ('in_progress', 'paused') AND b.ending IS NULL
        RETURNING was.status = 'in_progress'
    """
    turned = await tx.fetchval(paused, beyond["batch_id"], beyond["exceeded"])
    await schedules.set_paused(tx, beyond["batch_id"], True)
    if turned:
        await announcements.announce(tx, beyond["batch_id"], "paused")


_STOPPED = """
SELECT EXISTS (
    SELECT FROM batch b JOIN batch_count c ON c.batch_id = b.id
    WHERE b.id = $1 AND b.tenant_id = $2 AND b.status = 'paused' AND c.exceeded IS NOT NULL
)
"""
_COUNTERS = "SELECT FROM batch_count WHERE batch_id = $1 FOR UPDATE"
# What is exceeded is counted from here on; the other limit goes on as it is.
BEGIN_ANEW = """
    finished_from = CASE WHEN exceeded = 'threshold' THEN success + failed - cancelled - expired ELSE finished_from END,
    failed_from = CASE WHEN exceeded = 'threshold' THEN failed - cancelled - expired ELSE failed_from END,
    tokens_from = CASE WHEN exceeded = 'budget' THEN prompt_tokens + completion_tokens ELSE tokens_from END,
    exceeded = NULL
"""


class Busy(Exception):
    """A flush has the counters, and may wait for what the caller holds."""


async def begin_anew(tx: Transaction, tenant_id: UUID, batch_id: UUID) -> None:
    """Of a paused batch: let a limit that it went beyond be judged by what ends from now on.

    Raises Busy. A flush that brings the last results has the counters and waits for the schedule row: whoever holds that must
    not wait for the counters, but let it go and `wait_for_the_flush`.
    """
    if not await tx.fetchval(_STOPPED, batch_id, tenant_id):
        return
    if not await tx.fetch(f"{_COUNTERS} SKIP LOCKED", batch_id):
        raise Busy
    await tx.execute(f"UPDATE batch_count SET {BEGIN_ANEW} WHERE batch_id = $1", batch_id)


async def wait_for_the_flush(tx: Transaction, batch_id: UUID) -> None:
    try:
        async with savepoint(tx):  # its end lets the row go
            await tx.fetch(_COUNTERS, batch_id)
            raise Busy
    except Busy:
        pass
