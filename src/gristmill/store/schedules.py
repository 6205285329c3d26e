"""Which batch is next: start-time fair queueing on two levels, the tenant first, then the batch within the tenant.

Each tenant and each batch has a virtual time: the items it started so far, divided by its weight. Who has the least of
those that may start something is next. Whoever has less than the one served before came late, was paused or had to wait:
it is served at once, but charged from there on (`store/claims.py`), so that idle time earns no credit and nobody owes for a
time in which no other wanted anything. Priority is a weight (10 ** (priority / 100), so 0.1 to 10): it changes the share,
and starves nobody.

Batches that have not begun come first, in the order of their creation: their virtual time is a moment, far below 0.

A row of `batch_schedule` exists exactly as long as its batch may start items; who holds its lock decides whether one may.
A row of `tenant_schedule` is there for each of their tenants, and for who owes for what it had.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from gristmill.db import Transaction
from gristmill.store.columns import columns

# The virtual time of what has not begun: seconds, below 0 for some hundred years yet.
_FRESH = "(extract(epoch FROM clock_timestamp())::float8 - 1e10)"
# SQL, of a WITH: the batch $1 may start items; `own` is a row of what has to be known of it. `scheduled` is empty if `own` is, or
# if another transaction made the tenant's row meanwhile. That row is shared until the caller's transaction ends, so that nobody
# forgets a tenant whose batch is not yet to be seen. Claims, which change no key, go on meanwhile. Inserted only if it is not
# there: ON CONFLICT waits for whoever has it locked, to be changed, and that may be a batch of the tenant that is born leased,
# whose commit waits for the disk.
ADDING = f"""
known AS (SELECT FROM tenant_schedule t JOIN own USING (tenant_id) FOR KEY SHARE OF t),
fresh AS (
    INSERT INTO tenant_schedule (tenant_id) SELECT tenant_id FROM own WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (tenant_id) DO NOTHING RETURNING tenant_id
),
scheduled AS (
    INSERT INTO batch_schedule (
        batch_id, tenant_id, processor, weight, vtime, paused, max_concurrency, deadline_at, circuit, limited
    )
    SELECT $1, tenant_id, processor, 10 ^ (priority / 100.0), {_FRESH}, status = 'paused', max_concurrency, deadline_at,
        circuit, limited
    FROM own WHERE EXISTS (SELECT FROM known) OR EXISTS (SELECT FROM fresh)
    RETURNING batch_id
)
"""
_ADD = f"""
WITH own AS (
    SELECT tenant_id, processor, priority, status, max_concurrency, deadline_at, circuit,
        num_nonnulls(c.failure_ratio, c.max_tokens) > 0 AS limited
    FROM batch b JOIN batch_count c ON c.batch_id = b.id WHERE b.id = $1
),
{ADDING}
SELECT FROM scheduled
"""


async def add(tx: Transaction, batch_id: UUID) -> None:
    """Let a batch start items as soon as this commits."""
    while not await tx.fetch(_ADD, batch_id):
        pass  # another transaction made its tenant's row meanwhile, and has ended: look again


async def lock(tx: Transaction, batch_id: UUID) -> None:
    """Wait for a claim of this batch that is under way; none can begin until the caller's transaction ends."""
    await tx.execute("SELECT FROM batch_schedule WHERE batch_id = $1 FOR UPDATE", batch_id)


# What was paused is served as soon as ever if it comes where others are by now: not behind a front.
_SET_PAUSED = f"""
UPDATE batch_schedule s SET paused = $2, vtime = CASE
    WHEN $2 THEN vtime
    WHEN vtime <= 0 THEN {_FRESH}
    ELSE greatest(vtime, (SELECT batches_started FROM tenant_schedule t WHERE t.tenant_id = s.tenant_id))
END WHERE batch_id = $1
"""


async def set_paused(tx: Transaction, batch_id: UUID, paused: bool) -> None:
    await tx.execute(_SET_PAUSED, batch_id, paused)


# By an array, not by a join: see `claims._SET_REMAINING`.
_REMOVE = """
DELETE FROM batch_schedule WHERE batch_id = ANY ($1) AND batch_id = ANY (ARRAY(
    SELECT batch_id FROM batch_schedule WHERE batch_id = ANY ($1) ORDER BY batch_id FOR UPDATE
))
"""


async def remove(tx: Transaction, *batch_ids: UUID) -> None:
    """Nothing of these batches starts once this has committed. Locked in ascending order, as everywhere."""
    await tx.execute(_REMOVE, batch_ids)


async def alive(tx: Transaction, batch_ids: set[UUID]) -> set[UUID]:
    """Those of the batches that may still start items; they cannot be cancelled before the caller's transaction ends."""
    rows = await tx.fetch(
        "SELECT batch_id FROM batch_schedule WHERE batch_id = ANY ($1) ORDER BY batch_id FOR SHARE",
        sorted(batch_ids),
    )
    return {row["batch_id"] for row in rows}


# Who has no more than whoever is served comes to: as if new, it would be charged from there on, too. Locked first, and looked at
# again in a second statement: a batch may have come between.
_IDLE = """
SELECT tenant_id FROM tenant_schedule t
WHERE vtime <= (SELECT max(started) FROM tenant_schedule)
    AND NOT EXISTS (SELECT FROM batch_schedule s WHERE s.tenant_id = t.tenant_id)
LIMIT 1000 FOR UPDATE SKIP LOCKED
"""
_FORGET = """
DELETE FROM tenant_schedule t
WHERE tenant_id = ANY ($1) AND NOT EXISTS (SELECT FROM batch_schedule s WHERE s.tenant_id = t.tenant_id)
"""


async def forget_tenants(tx: Transaction) -> int:
    """Remove those who have nothing to start, since each claim looks at all; answers with how many. It changes nobody's
    share: who owes for what it had is kept until the others have come as far.
    """
    idle = [row["tenant_id"] for row in await tx.fetch(_IDLE)]
    return int((await tx.execute(_FORGET, idle)).split()[-1]) if idle else 0


class Front(NamedTuple):
    """Virtual times of a tenant below which nothing waited: of batches that have not begun, and of those that have. What comes
    later is behind it, if its transaction is not older than the look. Rows that have gone are in front of it, and as long as
    somebody holds a snapshot, Postgres reads each of them before it finds one that is there."""

    tenant_id: UUID
    fresh: float
    begun: float


# Who is charged next comes to at least `batches_started`, as its claim sees it, so the front of those that have begun is not
# beyond it.
_FRONTS = f"""
SELECT t.tenant_id,
    coalesce((
        SELECT s.vtime FROM batch_schedule s
        WHERE s.tenant_id = t.tenant_id AND NOT s.paused AND s.vtime BETWEEN coalesce(k.fresh, '-Infinity') AND 0
        ORDER BY s.vtime, s.batch_id LIMIT 1
    ), {_FRESH}) AS fresh,
    least(t.batches_started, (
        SELECT s.vtime FROM batch_schedule s
        WHERE s.tenant_id = t.tenant_id AND NOT s.paused AND s.vtime >= coalesce(k.begun, 0) AND s.vtime > 0
        ORDER BY s.vtime, s.batch_id LIMIT 1
    )) AS begun
FROM unnest($1::uuid[]) AS wanted (tenant_id) JOIN tenant_schedule t USING (tenant_id)
LEFT JOIN unnest($2::uuid[], $3::float8[], $4::float8[]) AS k (tenant_id, fresh, begun)
    ON k.tenant_id = t.tenant_id AND k.begun <= t.batches_started
"""


async def fronts(
    connection: Transaction, tenant_ids: Collection[UUID], known: Sequence[Front] = ()
) -> list[Front]:
    """Of those tenants. Read from the fronts that are `known` on; without them from the beginning, however long it takes."""
    rows = await connection.fetch(_FRONTS, list(tenant_ids), *columns(known, 3))
    return [Front(*row) for row in rows]
