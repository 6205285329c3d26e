"""Checkpoints: written while an item runs, each in a small transaction of its own, and read by its next attempt.

Who may write is who holds the lease. Its row is locked for the time of the write: a worker that was declared dead, and
whose lease was taken back, finds none and changes nothing, however late it comes.
"""

from collections.abc import Sequence
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.checkpoints import Checkpoint

# FOR SHARE: whoever takes the lease back, or ends it, waits for this or makes it find nothing. An item that was given back
# although its processor did not let go of it is out of the lease once a later one has it.
_HELD = """
WITH held AS (
    SELECT FROM lease l WHERE id = $1 AND batch_id = $2 AND $3 BETWEEN first AND last
        AND NOT EXISTS (
            SELECT FROM lease o WHERE o.batch_id = $2 AND o.id > l.id AND $3 BETWEEN o.first AND o.last
        )
        AND EXISTS (SELECT FROM batch WHERE batch.id = $2 AND status IN ('in_progress', 'paused', 'cancelling'))
    FOR SHARE OF l
)
"""
_SAVE = f"""
{_HELD}
INSERT INTO item_checkpoint (batch_id, ordinal, stage, data, done, total)
SELECT $2, $3, $4, $5, $6, $7 FROM held
ON CONFLICT (batch_id, ordinal) DO UPDATE SET
    stage = excluded.stage, data = excluded.data, done = excluded.done, total = excluded.total, updated_at = now()
RETURNING true
"""
# Without `data`: a large value that does not change is not written again.
_ADVANCE = f"""
{_HELD}
UPDATE item_checkpoint SET done = $4, updated_at = now() FROM held
WHERE item_checkpoint.batch_id = $2 AND ordinal = $3
RETURNING true
"""


async def save(tx: Transaction, lease_id: int, batch_id: UUID, ordinal: int, checkpoint: Checkpoint) -> bool:
    """In place of the item's earlier one. False: the lease is no longer held, and nothing was written."""
    saved: bool | None = await tx.fetchval(
        _SAVE,
        lease_id,
        batch_id,
        ordinal,
        checkpoint.stage,
        checkpoint.data,
        checkpoint.done,
        checkpoint.total,
    )
    return saved or False


async def advance(tx: Transaction, lease_id: int, batch_id: UUID, ordinal: int, done: int) -> bool:
    """Set `done` of the item's checkpoint. False: the lease is no longer held, or there is no checkpoint."""
    advanced: bool | None = await tx.fetchval(_ADVANCE, lease_id, batch_id, ordinal, done)
    return advanced or False


async def load(connection: Transaction, batch_id: UUID, ordinal: int) -> Checkpoint | None:
    row = await connection.fetchrow(
        "SELECT stage, data, done, total FROM item_checkpoint WHERE batch_id = $1 AND ordinal = $2",
        batch_id,
        ordinal,
    )
    return Checkpoint(*row) if row else None


async def among(connection: Transaction, batch_id: UUID, ordinals: Sequence[int]) -> dict[int, Checkpoint]:
    """Those of these items that have one, without their data."""
    rows = await connection.fetch(
        "SELECT ordinal, stage, done, total FROM item_checkpoint WHERE batch_id = $1 AND ordinal = ANY ($2)",
        batch_id,
        ordinals,
    )
    return {ordinal: Checkpoint(stage, None, done, total) for ordinal, stage, done, total in rows}


async def of_items(
    connection: Transaction, places: Sequence[tuple[UUID, int]]
) -> dict[tuple[UUID, int], Checkpoint]:
    """Those of these items, (batch, ordinal), that have one, without their data."""
    rows = await connection.fetch(
        """
        SELECT batch_id, ordinal, stage, done, total FROM item_checkpoint
        JOIN unnest($1::uuid[], $2::int[]) AS given (b, o) ON batch_id = b AND ordinal = o
        """,
        [batch_id for batch_id, _ in places],
        [ordinal for _, ordinal in places],
    )
    return {
        (batch_id, ordinal): Checkpoint(stage, None, done, total)
        for batch_id, ordinal, stage, done, total in rows
    }


async def forget_data(tx: Transaction, batch_ids: Sequence[UUID], ordinals: Sequence[int]) -> None:
    """What these items would have needed for another attempt; how far they came stays."""
    await tx.execute(
        """
        UPDATE item_checkpoint c SET data = NULL FROM unnest($1::uuid[], $2::int[]) AS given (b, o)
        WHERE c.batch_id = given.b AND c.ordinal = given.o AND data IS NOT NULL
        """,
        batch_ids,
        ordinals,
    )
