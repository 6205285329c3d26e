"""Events and their deliveries: the outbox, written in the transaction that makes an event true."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from gristmill.db import Transaction
from gristmill.domain.deliveries import Attempt, Dead, Delivered, RetryIn, Verdict
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.events import DEFAULT_SUBSCRIPTION, batch_event_body, event_id
from gristmill.domain.ids import uuid7
from gristmill.domain.states import DeliveryStatus
from gristmill.domain.webhooks import (
    DEFAULT_SIGNATURES,
    EXPIRED,
    FRUITLESS,
    Hook,
    Signature,
    body_for,
    from_json,
)
from gristmill.store.columns import columns

# In flight at a time, over all senders: what keeps one bad receiver from delaying others.
MAX_PER_RECEIVER = 10
MAX_PER_TENANT = 50

ATTEMPTS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class DeliveryToSend:
    """A claimed delivery. `leased_until` is the right to record its attempt; `secret` is still encrypted."""

    id: UUID
    tenant_id: UUID
    batch_id: UUID
    event_id: str
    event: str  # without the batch. prefix
    body: str
    url: str
    secret: bytes | None
    position: int
    leased_until: datetime
    hook: int | None = None  # its place in the batch's list; None: it is the batch's `webhook`
    signatures: tuple[Signature, ...] = DEFAULT_SIGNATURES


@dataclass(frozen=True, slots=True)
class PastAttempt:
    attempt: int  # 1-based, over all redeliveries
    sent_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    response: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one URL. `next_at` is None unless it is pending."""

    id: UUID
    event_id: str
    event: str
    batch_id: UUID
    url: str
    status: DeliveryStatus
    attempts: int
    next_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    log: tuple[PastAttempt, ...]  # the newest 100, oldest first


@dataclass(frozen=True, slots=True)
class Happened:
    """That `event` came true for a run of a batch, how its items stood then, and the webhooks the batch has.

    `webhook_secret` is encrypted for the batch; `webhooks` is its list as `domain/webhooks.as_json` has it.
    """

    batch_id: UUID
    tenant_id: UUID
    event: str
    run: int
    status: str
    total: int
    success: int
    failed: int
    at: datetime
    webhook_url: str | None
    webhook_events: Sequence[str] | None
    webhook_secret: bytes | None
    webhooks: str | None = None
    occurrence: int = 1


_QUEUE = """
WITH written AS (
    INSERT INTO event (id, batch_id, tenant_id, type, run, body, created_at, occurrence)
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::text[], $7::timestamptz[], $8::int[])
    ON CONFLICT DO NOTHING
    RETURNING id, tenant_id
)
INSERT INTO delivery (id, event_id, batch_id, tenant_id, url, secret, hook, signatures, body)
SELECT g.id, g.event_id, g.batch_id, written.tenant_id, g.url, g.secret, g.hook, string_to_array(g.signatures, ' '), g.body
FROM unnest($9::text[], $10::uuid[], $11::uuid[], $12::text[], $13::bytea[], $14::int[], $15::text[], $16::text[])
    AS g (event_id, batch_id, id, url, secret, hook, signatures, body)
JOIN written ON written.id = g.event_id
"""

_EXPIRED = "SELECT ending = 'deadline' FROM batch WHERE id = $1"

_Row = tuple[UUID, str, bytes | None, int | None, str | None, str | None]


async def queue(tx: Transaction, happened: Sequence[Happened]) -> None:
    """Write down, once each, what happened, and a delivery for each webhook that wants it.

    The body is frozen here: every attempt sends these bytes.
    """
    events, rows = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for one in happened:
        identifier = event_id(one.batch_id, one.event, one.run, one.occurrence)
        body = batch_event_body(
            identifier=identifier,
            event=one.event,
            at=one.at,
            batch_id=one.batch_id,
            status=one.status,
            total=one.total,
            success=one.success,
            failed=one.failed,
        )
        events.append(
            (identifier, one.batch_id, one.tenant_id, one.event, one.run, body, one.at, one.occurrence)
        )
        rows += [(identifier, one.batch_id, *row) for row in await _rows(tx, one, body)]
    await tx.execute(_QUEUE, *columns(events, 8), *columns(rows, 8))


async def _rows(tx: Transaction, happened: Happened, body: str) -> list[_Row]:
    event, hooks = happened.event, from_json(happened.webhooks)
    told = event
    if event == "completed" and happened.success == 0:
        told = FRUITLESS
    elif event == "failed" and any(hook.knows(EXPIRED) for hook in hooks):
        told = EXPIRED if await tx.fetchval(_EXPIRED, happened.batch_id) else event
    rows = list[_Row](_listed(hooks, event, told, body))
    wanted = DEFAULT_SUBSCRIPTION if happened.webhook_events is None else happened.webhook_events
    if happened.webhook_url is not None and event in wanted:
        rows.insert(0, (uuid7(), happened.webhook_url, happened.webhook_secret, None, None, None))
    return rows


def _listed(hooks: Sequence[Hook], event: str, told: str, body: str) -> Iterator[_Row]:
    """`told`: the event for those who have a word for what came to pass."""
    for place, hook in enumerate(hooks):
        mine = told if hook.knows(told) else event
        if hook.wants(mine):
            signatures = " ".join(hook.signatures)
            yield uuid7(), hook.url, hook.sealed, place, signatures, body_for(hook, mine, body)


# `place` numbers a receiver's due deliveries and `turn` a tenant's, those in flight first: who has least of them
# comes first, and nobody gets more than a share. What waits for a receiver whose share is in flight is left out
# before it is sorted, which is what costs. The ids are then locked by key and their state is checked again: another
# sender may have been quicker.
_CLAIM = f"""
WITH pending AS (
    SELECT id, tenant_id, hashtextextended(url, 0) AS receiver, next_at,
        coalesce(leased_until > now(), false) AS busy
    FROM delivery WHERE status = 'pending' AND next_at <= now()
), due AS (
    SELECT *, row_number() OVER (PARTITION BY tenant_id, receiver ORDER BY busy DESC, next_at, id) AS place
    FROM pending
    WHERE busy OR (tenant_id, receiver) NOT IN (
        SELECT tenant_id, receiver FROM pending WHERE busy GROUP BY 1, 2 HAVING count(*) >= {MAX_PER_RECEIVER}
    )
), fair AS (
    SELECT id, next_at, busy,
        row_number() OVER (PARTITION BY tenant_id ORDER BY busy DESC, place, next_at, id) AS turn
    FROM due WHERE place <= {MAX_PER_RECEIVER}
), free AS (
    SELECT id FROM delivery
    WHERE id = ANY (ARRAY(
        SELECT id FROM fair WHERE NOT busy AND turn <= {MAX_PER_TENANT} ORDER BY turn, next_at, id LIMIT $1
    ))
    AND status = 'pending' AND next_at <= now() AND (leased_until IS NULL OR leased_until <= now())
    FOR UPDATE SKIP LOCKED
)
UPDATE delivery SET leased_until = clock_timestamp() + make_interval(secs => $2)
FROM free, event
WHERE delivery.id = free.id AND event.id = delivery.event_id
RETURNING delivery.id, delivery.tenant_id, delivery.batch_id, event_id, event.type AS event,
    coalesce(delivery.body, event.body) AS body, url, secret, position, leased_until, hook, signatures
"""


async def claim(tx: Transaction, limit: int, lease_seconds: float) -> list[DeliveryToSend]:
    """Up to `limit` due deliveries, fair to tenants and receivers. Nobody else gets them for `lease_seconds`.

    Reads all that is due, so that no receiver's backlog hides another's: 12 ms with 10,000 due for one that
    hangs.
    """
    return [_to_send(**row) for row in await tx.fetch(_CLAIM, limit, lease_seconds)]


_DUE = """
SELECT EXISTS (
    SELECT FROM (
        SELECT FROM delivery
        WHERE status = 'pending' AND next_at <= now() AND (leased_until IS NULL OR leased_until <= now())
        ORDER BY next_at LIMIT 1
    ) one
)
"""


async def some_are_due(connection: Transaction) -> bool:
    """Whether `claim` may find something. Mostly there is nothing, and that takes a transaction and sorts."""
    found: bool = await connection.fetchval(_DUE)
    return found


def _to_send(*, signatures: list[str] | None, **row: Any) -> DeliveryToSend:
    wanted = DEFAULT_SIGNATURES if signatures is None else tuple(Signature(one) for one in signatures)
    return DeliveryToSend(**row, signatures=wanted)


_RECORD = """
WITH settled AS (
    UPDATE delivery SET
        status = $4, attempts = attempts + 1, position = $5, leased_until = NULL,
        next_at = clock_timestamp() + make_interval(secs => $6),
        delivered_at = CASE WHEN $4 = 'delivered' THEN clock_timestamp() END
    WHERE id = $1 AND tenant_id = $2 AND status = 'pending' AND leased_until = $3
    RETURNING id, attempts
)
INSERT INTO delivery_attempt (delivery_id, attempt, sent_at, duration_ms, status_code, error, response)
SELECT id, attempts, clock_timestamp() - make_interval(secs => $7 / 1000.0), $7, $8, $9, $10 FROM settled
"""


async def record(tx: Transaction, delivery: DeliveryToSend, attempt: Attempt, verdict: Verdict) -> bool:
    """Write down an attempt and what follows. False, and nothing changed, when the lease has been lost."""
    status, position, delay = _settled(verdict, delivery.position)
    done = await tx.execute(
        _RECORD,
        delivery.id,
        delivery.tenant_id,
        delivery.leased_until,
        status,
        position,
        delay,
        attempt.duration_ms,
        attempt.status_code,
        attempt.error,
        attempt.response,
    )
    return done == "INSERT 0 1"


def _settled(verdict: Verdict, position: int) -> tuple[DeliveryStatus, int, float]:
    match verdict:
        case Delivered():
            return DeliveryStatus.DELIVERED, position, 0.0
        case RetryIn(delay_seconds, following):
            return DeliveryStatus.PENDING, following, delay_seconds
        case Dead():
            return DeliveryStatus.DEAD, position, 0.0


_SELECT = """
SELECT d.id, event_id, type AS event, d.batch_id, url, status, attempts,
    CASE WHEN status = 'pending' THEN next_at END AS next_at, delivered_at, d.created_at
FROM delivery d JOIN event ON event.id = event_id
"""


async def list_for_batch(connection: Transaction, tenant_id: UUID, batch_id: UUID) -> list[Delivery]:
    """All deliveries of a batch's events, oldest first; none for an unknown batch or another tenant's."""
    return await _deliveries(
        connection, f"{_SELECT} WHERE d.tenant_id = $1 AND d.batch_id = $2 ORDER BY d.id", tenant_id, batch_id
    )


async def get(connection: Transaction, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """Raises NotFound."""
    found = await _deliveries(
        connection, f"{_SELECT} WHERE d.tenant_id = $1 AND d.id = $2", tenant_id, delivery_id
    )
    if not found:
        raise NotFound("no such delivery")
    return found[0]


_REDELIVER = """
UPDATE delivery SET status = 'pending', position = 0, next_at = now(), delivered_at = NULL
WHERE tenant_id = $1 AND id = $2 AND status IN ('delivered', 'dead')
RETURNING id
"""


async def redeliver(tx: Transaction, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivered or dead one again, now and from the start of the schedule: same event, same bytes.

    Raises NotFound, or Conflict while it is still pending.
    """
    taken = await tx.fetchval(_REDELIVER, tenant_id, delivery_id)
    delivery = await get(tx, tenant_id, delivery_id)
    if taken is None:
        raise Conflict(f"the delivery is {delivery.status}: only a delivered or dead one can be sent again")
    return delivery


_LOG = """
SELECT delivery_id, attempt, sent_at, duration_ms, status_code, error, response
FROM (
    SELECT *, row_number() OVER (PARTITION BY delivery_id ORDER BY attempt DESC) AS age
    FROM delivery_attempt WHERE delivery_id = ANY ($1)
) newest
WHERE age <= $2 ORDER BY delivery_id, attempt
"""


async def _deliveries(connection: Transaction, statement: str, *arguments: UUID) -> list[Delivery]:
    rows = await connection.fetch(statement, *arguments)
    logs: dict[UUID, list[PastAttempt]] = {row["id"]: [] for row in rows}
    for delivery_id, *attempt in await connection.fetch(_LOG, list(logs), ATTEMPTS_SHOWN):
        logs[delivery_id].append(PastAttempt(*attempt))
    return [
        Delivery(**(dict(row) | {"status": DeliveryStatus(row["status"]), "log": tuple(logs[row["id"]])}))
        for row in rows
    ]
