"""Limits of the whole service: what a tenant, a processor, or an endpoint may have in all workers together.

The row of a limit is the one truth, and its lock the right to start something under it. What is in flight of a tenant or a
processor is the sum over the leases of all workers, read under that lock by the claim that adds to it: no counter that could
leak. Of an endpoint see `store/shares.py`. Lock order: before everything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson

from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.domain.ids import uuid7
from gristmill.store.acts import Action, Actor

Kind = Literal["tenant", "processor", "upstream"]


@dataclass(frozen=True, slots=True)
class Limit:
    """`name`: of the tenant, of the processor, or of the circuit (domain/circuits.py), whosever it is."""

    id: UUID
    kind: Kind
    name: str
    max_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """`in_flight`: items of a tenant or a processor; of an endpoint calls, as its workers last said. `granted`: what they may
    have; None: of another kind, or not limited so."""

    limit: Limit
    in_flight: int
    granted: int | None


_COLUMNS = "id, kind, name, max_in_flight, requests_per_minute, tokens_per_minute, changed_at"
_SET = f"""
INSERT INTO service_limit (id, kind, name, max_in_flight, requests_per_minute, tokens_per_minute)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (kind, name) DO UPDATE SET
    max_in_flight = excluded.max_in_flight, requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute, changed_at = now()
RETURNING {_COLUMNS}
"""


async def put(
    tx: Transaction,
    kind: Kind,
    name: str,
    *,
    max_in_flight: int | None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Limit:
    """In place of the one there was. Raises NotFound for a tenant that does not exist."""
    if kind == "tenant" and not await tx.fetchval("SELECT true FROM tenant WHERE name = $1", name):
        raise NotFound("no such tenant")
    [row] = await tx.fetch(_SET, uuid7(), kind, name, max_in_flight, requests_per_minute, tokens_per_minute)
    return Limit(**row)


async def remove(tx: Transaction, kind: Kind, name: str) -> Limit:
    """Raises NotFound."""
    row = await tx.fetchrow(
        f"DELETE FROM service_limit WHERE kind = $1 AND name = $2 RETURNING {_COLUMNS}", kind, name
    )
    if row is None:
        raise NotFound("no such limit")
    await tx.execute("DELETE FROM upstream_share WHERE limit_id = $1", row["id"])
    return Limit(**row)


_RUNNING = """
    SELECT b.tenant_id, b.processor, sum(lease.remaining)::int AS items
    FROM lease JOIN batch b ON b.id = lease.batch_id GROUP BY 1, 2
"""
_USE = f"""
WITH running AS ({_RUNNING})
SELECT l.id, l.kind, l.name, l.max_in_flight, l.requests_per_minute, l.tokens_per_minute, l.changed_at,
    CASE l.kind
        WHEN 'tenant' THEN (
            SELECT sum(items) FROM running r JOIN tenant t ON t.id = r.tenant_id WHERE t.name = l.name
        )
        WHEN 'processor' THEN (SELECT sum(items) FROM running r WHERE r.processor = l.name)
        ELSE (SELECT sum(in_use) FROM upstream_share s JOIN worker w ON w.id = s.worker_id WHERE s.limit_id = l.id AND NOT w.dead)
    END AS in_flight,
    (
        SELECT sum(granted) FROM upstream_share s JOIN worker w ON w.id = s.worker_id
        WHERE s.limit_id = l.id AND NOT w.dead AND l.max_in_flight IS NOT NULL
    ) AS granted
FROM service_limit l
"""
_PAGE = (
    f"{_USE} WHERE $3::text IS NULL OR (l.kind, l.name) > ($3, $4) ORDER BY l.kind, l.name LIMIT $1 OFFSET $2"
)


async def page(
    tx: Transaction, *, limit: int, offset: int = 0, after: tuple[str, str] | None = None
) -> tuple[list[Use], int]:
    """By kind and name, with what is in use, and how many there are. `after`: only those behind that one."""
    total: int = await tx.fetchval("SELECT count(*) FROM service_limit")
    rows = await tx.fetch(_PAGE, limit, offset, *(after or (None, None)))
    return [_use(dict(row)) for row in rows], total


async def get(tx: Transaction, kind: str, name: str) -> Use:
    """Raises NotFound."""
    row = await tx.fetchrow(f"{_USE} WHERE l.kind = $1 AND l.name = $2", kind, name)
    if row is None:
        raise NotFound("no such limit")
    return _use(dict(row))


_ACT = """
INSERT INTO audit_entry (
    id, tenant_id, action, target_id, actor_kind, actor_id, actor_name, address, request_id, details
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb)
"""


async def note(tx: Transaction, actor: Actor, tenant_id: UUID, action: Action, limit: Limit) -> None:
    """For the log of administrative acts (store/acts.py), in that of the tenant who did it."""
    details = {
        "name": limit.name,
        "kind": limit.kind,
        "max_in_flight": limit.max_in_flight,
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
    }
    who = (actor.kind, actor.id, actor.name, actor.address, actor.request_id)
    await tx.execute(_ACT, uuid7(), tenant_id, action, limit.id, *who, orjson.dumps(details).decode())


def _use(row: dict[str, object]) -> Use:
    in_flight, granted = row.pop("in_flight"), row.pop("granted")
    return Use(Limit(**row), int(in_flight or 0), granted)  # type: ignore[arg-type,call-overload]


async def all_(tx: Transaction) -> list[Limit]:
    return [Limit(**row) for row in await tx.fetch(f"SELECT {_COLUMNS} FROM service_limit")]


# Those under which nothing more may start just now.
FULL = f"""
    SELECT u.kind, u.name, t.id AS tenant_id FROM ({_USE}) u LEFT JOIN tenant t ON u.kind = 'tenant' AND t.name = u.name
    WHERE u.in_flight >= u.max_in_flight
"""
# Of the batch `b`: what limit of the whole service keeps more of it from starting, in the words of `batches.Batch`; or NULL.
REACHED = """(
    SELECT CASE
        WHEN g.max_in_flight <= used.items OR num_nonnulls(g.requests_per_minute, g.tokens_per_minute) = 0
        THEN 'concurrency limit' ELSE 'rate limit'
    END
    FROM service_limit g CROSS JOIN LATERAL (
        SELECT coalesce(sum(s.in_use), 0) AS items, coalesce(sum(s.waiting), 0) AS waiting
        FROM upstream_share s JOIN worker ON worker.id = s.worker_id
        WHERE g.kind = 'upstream' AND s.limit_id = g.id AND NOT worker.dead
        UNION ALL
        SELECT sum(o.remaining), 0 FROM lease o JOIN batch other ON other.id = o.batch_id
        WHERE CASE g.kind
            WHEN 'tenant' THEN other.tenant_id = b.tenant_id WHEN 'processor' THEN other.processor = b.processor
        END
    ) used
    WHERE (g.kind, g.name) IN (
        ('tenant', (SELECT name FROM tenant WHERE tenant.id = b.tenant_id)), ('processor', b.processor), ('upstream', b.circuit)
    ) AND (g.max_in_flight <= used.items OR used.waiting > 0) LIMIT 1
)"""

# --- under which a claim starts something ------------------------------------------------------------------------------

_CONCERNED = """
    l.kind = 'processor' AND l.name = ANY ($1)
    OR l.kind = 'tenant' AND EXISTS (SELECT FROM tenant t JOIN batch_schedule s ON s.tenant_id = t.id WHERE t.name = l.name)
"""
# Whoever has the row may start something under it. One that another claim has is passed over, so that nobody waits for a
# process that was stopped in the middle of its claim, and what is not limited goes on.
_HOLD = (
    f"SELECT l.id FROM service_limit l WHERE {_CONCERNED} ORDER BY l.kind, l.name FOR UPDATE OF l SKIP LOCKED"
)
# A second statement, so that it sees what the claim that had the row before has committed. All limits: what is not held by now
# may not start, also of a tenant whose first batch comes just now.
_LEFT = f"""
WITH running AS ({_RUNNING})
SELECT l.id, l.kind, l.name, t.id AS tenant_id, {_CONCERNED} AS concerned, l.max_in_flight - coalesce((
    SELECT sum(r.items) FROM running r WHERE CASE l.kind WHEN 'tenant' THEN r.tenant_id = t.id ELSE r.processor = l.name END
), 0)::int AS slots
FROM service_limit l LEFT JOIN tenant t ON l.kind = 'tenant' AND t.name = l.name
WHERE l.kind IN ('tenant', 'processor')
"""


@dataclass(frozen=True, slots=True)
class Left:
    """How many items may start: `free` of each processor, and `of_tenants` where one is limited. `elsewhere`: another claim
    has some of the limits just now, so that it is worth while to look again in a moment."""

    free: Mapping[str, int]
    of_tenants: Sequence[tuple[UUID, int]] = ()
    elsewhere: bool = False


async def hold(tx: Transaction, free: Mapping[str, int]) -> Left:
    """Hold the limits of tenants and processors until the caller's transaction ends; `free` as for `spans.claim`."""
    held = {row["id"] for row in await tx.fetch(_HOLD, list(free))}
    rows = await tx.fetch(_LEFT, list(free))
    slots = {row["id"]: max(0, row["slots"]) if row["id"] in held else 0 for row in rows}
    of_processors = {row["name"]: slots[row["id"]] for row in rows if row["kind"] == "processor"}
    return Left(
        {name: min(count, of_processors.get(name, count)) for name, count in free.items()},
        [
            (row["tenant_id"], slots[row["id"]])
            for row in rows
            if row["kind"] == "tenant" and row["tenant_id"]
        ],
        any(row["concerned"] and row["id"] not in held and row["slots"] > 0 for row in rows),
    )
