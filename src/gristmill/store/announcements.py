"""What happens to a batch before it ends, told to the webhooks that asked for it, in the transaction that makes it true.

The ends are announced by `store/endings.py`. Here: `created`, `started` (its first requests were taken up by a worker),
`paused`, `resumed`.
"""

from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.webhooks import from_json
from gristmill.store import deliveries

_NOW = """
SELECT b.id AS batch_id, b.tenant_id, b.run, b.status, c.total, c.success, c.failed, clock_timestamp() AS at,
    b.webhook_url, b.webhook_events, b.webhook_secret, b.webhooks,
    1 + (
        SELECT count(*) FROM event e WHERE e.batch_id = b.id AND e.type = $2 AND e.run = b.run
    )::int AS occurrence
FROM batch b JOIN batch_count c ON c.batch_id = b.id
WHERE b.id = $1 AND (b.webhook_url IS NOT NULL OR b.webhooks IS NOT NULL)
"""


async def announce(tx: Transaction, batch_id: UUID, event: str) -> None:
    """`event` has just come true. Whoever calls this holds what keeps the next of its kind from happening meanwhile: the row
    of the batch that the transition has changed, or that of its schedule."""
    row = await tx.fetchrow(_NOW, batch_id, event)
    if row is not None and _wanted(row, event):
        await deliveries.queue(tx, [deliveries.Happened(event=event, **row)])


def _wanted(row: Record, event: str) -> bool:
    return event in (row["webhook_events"] or ()) or any(
        hook.wants(event) for hook in from_json(row["webhooks"])
    )
