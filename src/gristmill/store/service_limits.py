"""Limits of the whole service: what a tenant, a processor, or an endpoint may have in all workers together.

The row of a limit is the one truth, and its lock the right to start something under it. What is in flight of a tenant or a
processor is the sum over the leases of all workers, read under that lock by the claim that adds to it: no counter that could
leak. Of an endpoint see `store/shares.py`. Lock order: before everything else.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.domain.ids import uuid7
from gristmill.store import acts
from gristmill.store.acts import Action, Actor

Kind = Literal["tenant", "processor", "upstream"]
FIGURES = ("max_in_flight", "requests_per_minute", "tokens_per_minute")


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


async def is_processor(tx: Transaction, name: str) -> bool:
    """Whether a worker or a live batch has it, although it is not installed here."""
    found: bool = await tx.fetchval(
        """
        SELECT EXISTS (SELECT FROM worker WHERE $1 = ANY (processors)) OR EXISTS (SELECT FROM batch_schedule WHERE processor = $1)
        """,
        name,
    )
    return found


async def remove(tx: Transaction, kind: Kind, name: str) -> Limit:
    """Raises NotFound."""
    row = await tx.fetchrow(
        f"DELETE FROM service_limit WHERE kind = $1 AND name = $2 RETURNING {_COLUMNS}", kind, name
    )
    if row is None:
        raise NotFound("no such limit")
    await tx.execute("DELETE FROM upstream_share WHERE limit_id = $1", row["id"])
    return Limit(**row)


def used(leases: str = "true") -> str:
    """The query of all limits, with what is in use of them: `in_flight` and, of an endpoint, `granted` and `waiting`.

    The leases are summed once for each statement, and not at all where no tenant or processor is limited. `leases`: a condition,
    for only some of them.
    """
    return f"""
WITH running AS MATERIALIZED (
    SELECT b.tenant_id, b.processor, sum(lease.remaining)::int AS items
    FROM lease JOIN batch b ON b.id = lease.batch_id WHERE {leases} GROUP BY 1, 2
)
SELECT l.id, l.kind, l.name, l.max_in_flight, l.requests_per_minute, l.tokens_per_minute, l.changed_at, t.id AS tenant_id,
    CASE WHEN l.max_in_flight IS NOT NULL THEN s.granted END AS granted, coalesce(s.waiting, 0) AS waiting,
    coalesce(CASE l.kind
        WHEN 'tenant' THEN (SELECT sum(r.items) FROM running r WHERE r.tenant_id = t.id)
        WHEN 'processor' THEN (SELECT sum(r.items) FROM running r WHERE r.processor = l.name)
        ELSE s.in_use
    END, 0)::int AS in_flight
FROM service_limit l
LEFT JOIN tenant t ON l.kind = 'tenant' AND t.name = l.name
LEFT JOIN LATERAL (
    SELECT sum(granted) AS granted, sum(in_use) AS in_use, sum(waiting) AS waiting
    FROM upstream_share JOIN worker w ON w.id = worker_id WHERE limit_id = l.id AND NOT w.dead
) s ON l.kind = 'upstream'
"""


_USE = f"SELECT {_COLUMNS}, in_flight, granted FROM ({used()}) l"
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


async def before(tx: Transaction, kind: Kind, name: str) -> Limit | None:
    """What is there to be changed, for the log; locked until the commit."""
    row = await tx.fetchrow(
        f"SELECT {_COLUMNS} FROM service_limit WHERE kind = $1 AND name = $2 FOR UPDATE", kind, name
    )
    return None if row is None else Limit(**row)


async def note(tx: Transaction, actor: Actor, tenant_id: UUID, old: Limit | None, new: Limit | None) -> None:
    """For the log of administrative acts: set, or with `new` None removed. Only operators read it (store/acts.py)."""
    limit = new or old
    assert limit is not None
    details = {"name": limit.name, "kind": limit.kind, **_figures(new), "before": old and _figures(old)}
    action: Action = "limit.set" if new else "limit.removed"
    await acts.note_of_service(tx, actor, tenant_id, action, limit.id, details)


def _figures(limit: Limit | None) -> dict[str, int | None]:
    return {name: getattr(limit, name, None) for name in FIGURES}


def _use(row: dict[str, object]) -> Use:
    in_flight, granted = row.pop("in_flight"), row.pop("granted")
    return Use(Limit(**row), int(in_flight or 0), granted)  # type: ignore[arg-type,call-overload]


async def all_(tx: Transaction) -> list[Limit]:
    return [Limit(**row) for row in await tx.fetch(f"SELECT {_COLUMNS} FROM service_limit")]


# Of the batch `b`: what limit of the whole service keeps more of it from starting, in the words of `batches.Batch`; or NULL.
# What is inside of `jsonb_each_text` has nothing of the batch in it, so that it is found once for however many.
REACHED = f"""(
    SELECT reason FROM jsonb_each_text((
        SELECT jsonb_object_agg(u.kind || ' ' || coalesce(u.tenant_id::text, u.name), CASE
            WHEN u.max_in_flight <= u.in_flight OR num_nonnulls(u.requests_per_minute, u.tokens_per_minute) = 0
            THEN 'concurrency limit' ELSE 'rate limit'
        END) FROM ({used()}) u WHERE u.max_in_flight <= u.in_flight OR u.waiting > 0
    )) AS reached (what, reason)
    WHERE what IN ('tenant ' || b.tenant_id, 'processor ' || b.processor, 'upstream ' || b.circuit) LIMIT 1
)"""


def room(leases: str = "true") -> str:
    """A common table: how many more items each limited tenant and processor may start. `leases`: as for `used`."""
    return f"""
room AS MATERIALIZED (
    SELECT id, kind, name, tenant_id, greatest(0, max_in_flight - in_flight) AS slots FROM ({used(leases)}) u
    WHERE kind IN ('tenant', 'processor')
)
"""
