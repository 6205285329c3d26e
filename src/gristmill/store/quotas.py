"""What one tenant may have at a time: unended batches and requests, bytes of files. Exact, also when many ask at once.

Whoever adds to it locks the tenant's row first, and looks then: what others added before has committed, and is seen.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.db import Transaction
from gristmill.domain.errors import Forbidden, TooMany
from gristmill.tables import file, tenant

# When to ask again: what ends makes room, and nobody knows when.
RETRY_AFTER_SECONDS = 30
CODE = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Quotas:
    """Of one tenant; None: as many as he likes."""

    active_batches: int | None = None  # that have not ended
    pending_requests: int | None = None  # of those, that have not ended


_USED = """
SELECT count(*) AS batches, coalesce(sum(c.total - c.success - c.failed), 0)::bigint AS requests
FROM batch b JOIN batch_count c ON c.batch_id = b.id
WHERE b.tenant_id = $1 AND b.status IN ('in_progress', 'paused', 'cancelling')
"""


async def hold(
    tx: Transaction, tenant_id: UUID, quotas: Quotas | None, *, batches: int = 0, requests: int = 0
) -> None:
    """See that so many more are allowed; nobody else of the tenant can add any before the caller's transaction ends. Raises
    TooMany."""
    if quotas is None or quotas == Quotas():
        return
    await tx.execute("SELECT FROM tenant WHERE id = $1 FOR NO KEY UPDATE", tenant_id)
    [used] = await tx.fetch(_USED, tenant_id)
    for what, most, so_many in (
        ("batches", quotas.active_batches, used["batches"] + batches),
        ("requests", quotas.pending_requests, used["requests"] + requests),
    ):
        if most is not None and so_many > most:
            detail = f"at most {most:,} {what} that have not ended; wait until some have"
            raise TooMany(detail, code=CODE, retry_after_seconds=RETRY_AFTER_SECONDS)


async def hold_bytes(connection: AsyncConnection, tenant_id: UUID, most: int | None, more: int = 1) -> None:
    """Likewise for files. Raises Forbidden: room comes by deleting only, not by waiting."""
    if most is None:
        return
    await connection.execute(
        select(tenant.c.id).where(tenant.c.id == tenant_id).with_for_update(key_share=True)
    )
    used = await connection.execute(
        select(func.coalesce(func.sum(file.c.bytes), 0)).where(file.c.tenant_id == tenant_id)
    )
    if int(used.scalar_one()) + more > most:
        raise Forbidden(f"at most {most:,} bytes of files; delete some", code=CODE)
