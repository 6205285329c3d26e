"""The end of what is kept: batches whose time is over leave a tombstone, and the rows of their items are erased later.

A batch leaves at once, whatever its size: its own few rows go, those of its items are noted as `batch_remains`. They are
erased piece by piece, or with their whole partition where nobody else's rows are in it any more (`store/partitions.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.errors import Gone, NotFound
from gristmill.tables import PARTITIONED

# What a partition covers: until then the others of the week may have expired, too, and all of it goes in one stroke.
ERASED_WITHIN_DAYS = 7
TOMBSTONE_DAYS = 365
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is still known of a batch that was kept for as long as it was to be."""

    id: UUID
    status: str
    processor: str
    total: int
    success: int
    failed: int
    created_at: datetime
    ended_at: datetime
    expired_at: datetime

    def as_facts(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status,
            "processor": self.processor,
            "total_requests": self.total,
            "completed_requests": self.success,
            "failed_requests": self.failed,
            "created_at": self.created_at,
            "ended_at": self.ended_at,
            "expired_at": self.expired_at,
        }


# A delivery that is still to be sent keeps its batch.
_EXPIRED = f"""
SELECT id FROM batch
WHERE expires_at <= now() AND NOT EXISTS (
    SELECT FROM delivery d WHERE d.batch_id = batch.id AND d.status = 'pending'
)
ORDER BY expires_at LIMIT {_AT_ONCE} FOR UPDATE SKIP LOCKED
"""
_BURY = """
INSERT INTO batch_tombstone (id, tenant_id, status, processor, total, success, failed, created_at, ended_at)
SELECT b.id, b.tenant_id, b.status, b.processor, c.total, c.success, c.failed, b.created_at,
    coalesce(b.completed_at, b.cancelled_at)
FROM batch b JOIN batch_count c ON c.batch_id = b.id WHERE b.id = ANY ($1)
"""


async def expire(tx: Transaction) -> int:
    """Let some batches go whose time is over; answers with how many."""
    batch_ids = [row["id"] for row in await tx.fetch(_EXPIRED)]
    if batch_ids:
        await tx.execute(_BURY, batch_ids)
        await let_go(tx, batch_ids, within_days=ERASED_WITHIN_DAYS)
    return len(batch_ids)


_REMAINS = """
INSERT INTO batch_remains (batch_id, total, due_at)
SELECT id, total, now() + make_interval(days => $2) FROM batch WHERE id = ANY ($1)
"""
_ATTEMPTS = "DELETE FROM delivery_attempt USING delivery d WHERE delivery_id = d.id AND d.batch_id = ANY ($1)"


async def let_go(tx: Transaction, batch_ids: Sequence[UUID], *, within_days: int = 0) -> None:
    """Remove ended batches, which the caller has locked; the rows of their items wait to be erased, for so many days."""
    await tx.execute(_REMAINS, batch_ids, within_days)
    await tx.execute(_ATTEMPTS, batch_ids)
    for table in ("ingest", "delivery", "event", "batch_count", "span"):
        await tx.execute(f"DELETE FROM {table} WHERE batch_id = ANY ($1)", batch_ids)
    await tx.execute("DELETE FROM batch WHERE id = ANY ($1)", batch_ids)


_DUE = """
SELECT batch_id, total, erased FROM batch_remains WHERE due_at <= now()
ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def erase(tx: Transaction, *, most: int = 5000) -> int:
    """Erase the rows of up to `most` items of one batch that is gone; answers with how many items that were."""
    due = await tx.fetchrow(_DUE)
    if due is None:
        return 0
    batch_id, first, end = due["batch_id"], due["erased"], min(due["erased"] + most, due["total"])
    for table in PARTITIONED:
        place = "upto - 1" if table == "result_log" else "ordinal"  # of its last item
        rows = f"DELETE FROM {table} WHERE batch_id = $1 AND {place} >= $2 AND {place} < $3"
        await tx.execute(rows, batch_id, first, end)
    if end == due["total"]:
        await tx.execute("DELETE FROM batch_remains WHERE batch_id = $1", batch_id)
    else:
        await tx.execute("UPDATE batch_remains SET erased = $2 WHERE batch_id = $1", batch_id, end)
    return int(end - first)


async def forget_tombstones(tx: Transaction) -> None:
    await tx.execute(
        "DELETE FROM batch_tombstone WHERE expired_at < now() - make_interval(days => $1)", TOMBSTONE_DAYS
    )


_TOMBSTONE = """
SELECT id, status, processor, total, success, failed, created_at, ended_at, expired_at
FROM batch_tombstone WHERE id = $1 AND tenant_id = $2
"""


async def absent(connection: Transaction, tenant_id: UUID, batch_id: UUID) -> NotFound | Gone:
    """Why there is no such batch: the error to raise."""
    row = await connection.fetchrow(_TOMBSTONE, batch_id, tenant_id)
    if row is None:
        return NotFound("no such batch")
    stone = Tombstone(**row)
    return Gone(f"the batch was kept until {stone.expired_at:%Y-%m-%d}", about=stone.as_facts())
