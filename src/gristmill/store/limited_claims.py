"""Claims where tenants or processors are limited (store/service_limits.py): what is to start is chosen as ever, and the limits
that it is under are held until the claim commits. Of everything else that is limited, such a claim starts nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from gristmill.db import Transaction
from gristmill.store import choice, claims, service_limits
from gristmill.store.claims import Claim
from gristmill.store.columns import columns
from gristmill.store.schedules import Front

# Whoever has the row of a limit may start something under it. One that another claim has is passed over, with its tenant, so that
# nobody waits for a process that was stopped in the middle of its claim.
_HELD = """
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT l.id FROM service_limit l WHERE l.id IN (next.processor_limit, next.tenant_limit)
        ORDER BY l.kind FOR UPDATE SKIP LOCKED
    ) AS ids OFFSET 0
) limits
"""
_HOLD = f"""
WITH {service_limits.room()},
free AS (
    SELECT f.processor, least(f.slots, r.slots) AS slots, r.id AS limit_id
    FROM unnest($1::text[], $2::int[]) AS f (processor, slots) LEFT JOIN room r ON r.kind = 'processor' AND r.name = f.processor
    WHERE f.slots > 0 AND (r.slots IS NULL OR r.slots > 0)
),
held AS (SELECT * FROM unnest($3::uuid[], $4::text[], $5::int[]) AS held (tenant_id, circuit, slots)),
capped AS (SELECT tenant_id, slots, id AS limit_id FROM room WHERE tenant_id IS NOT NULL),
front AS (SELECT * FROM unnest($7::uuid[], $8::float8[], $9::float8[]) AS front (tenant_id, fresh, begun)),
{
    choice.fair(
        "$6",
        ", limits.ids",
        _HELD,
        "cardinality(limits.ids) = num_nonnulls(next.processor_limit, next.tenant_limit)",
    )
}
SELECT ids FROM pick UNION ALL SELECT NULL WHERE {choice.MISSED}
"""
# A second statement, so that it sees what the claim that had the row before has committed. All limits: what is not held by now
# may not start, also under one that was made just now.
_LEFT = f"""
WITH {service_limits.room()}
SELECT id, kind, name, tenant_id, CASE WHEN id = ANY ($1) THEN slots ELSE 0 END AS slots FROM room
"""


@dataclass(frozen=True, slots=True)
class Left:
    """How many items may start: `free` of each processor, and `of_tenants` where one is limited. `missed`: as of a `Claim`."""

    free: Mapping[str, int]
    of_tenants: Sequence[tuple[UUID, int]] = ()
    missed: bool = False


async def claim(
    tx: Transaction,
    worker_id: int,
    free: Mapping[str, int],
    held: Sequence[tuple[UUID, str, int]] = (),
    *,
    fronts: Sequence[Front] = (),
    suspect: bool = False,
    part: int | None = None,
) -> Claim:
    """As `claims.claim`, in a transaction, where tenants or processors are limited."""
    left = await hold(tx, free, held, fronts=fronts, suspect=suspect)
    if not left.free:
        return Claim([], 0, missed=left.missed)
    found = await claims.claim(
        tx, worker_id, left.free, held, left.of_tenants, fronts=fronts, suspect=suspect, part=part
    )
    # What could start as its limits were chosen, others have had since.
    return found if found.taken else replace(found, missed=True)


async def hold(
    tx: Transaction,
    free: Mapping[str, int],
    held: Sequence[tuple[UUID, str, int]] = (),
    *,
    fronts: Sequence[Front] = (),
    suspect: bool = False,
) -> Left:
    """Hold the limits that what is next is under, until the caller's transaction ends."""
    wanted = [list(free), list(free.values()), *columns(held, 3), suspect, *columns(fronts, 3)]
    picked = await tx.fetchrow(_HOLD, *wanted)
    if picked is None or picked["ids"] is None:
        return Left({}, missed=picked is not None)
    rows = await tx.fetch(_LEFT, picked["ids"])
    of_processors = {row["name"]: row["slots"] for row in rows if row["kind"] == "processor"}
    return Left(
        {name: min(count, of_processors.get(name, count)) for name, count in free.items()},
        [(row["tenant_id"], row["slots"]) for row in rows if row["tenant_id"]],
    )
