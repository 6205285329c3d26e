"""Batches as they are read: with their live counts, one, some, or a page of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.limits import Budget, FailureThreshold, LimitAction
from gristmill.domain.states import TERMINAL, BatchStatus, Ending
from gristmill.store import retention, service_limits
from gristmill.store.counts import faded


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and its counts, read in one snapshot: total = pending + processing + success + failed."""

    id: UUID
    tenant_id: UUID
    status: BatchStatus
    ending: Ending | None
    paused_by: Ending | None  # the limit that paused it; None: somebody did
    processor: str
    agent_id: UUID | None
    configuration_id: str | None
    upstream: str | None  # JSON {model, own_key}
    name: str | None
    metadata: Mapping[str, str]
    collection: str | None
    created_by: str | None
    priority: int
    max_attempts: int
    item_timeout_seconds: float
    max_concurrency: int | None
    deadline_seconds: int
    deadline_at: datetime
    run: int
    error: str | None  # JSON
    webhook_url: str | None
    webhook_events: Sequence[str] | None
    webhooks: str | None  # JSON (domain/webhooks.py), with what must not be shown
    created_at: datetime
    completed_at: datetime | None
    cancelled_at: datetime | None
    retention_days: int
    expires_at: datetime | None
    total: int
    success: int
    failed: int
    processing: int
    cancelled: int  # part of failed
    expired: int  # part of failed
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_microusd: int
    throughput: float | None  # items a second
    next_at: datetime | None  # when the next waiting item may start; None: now, or nothing waits
    throttled: bool  # it waits for the upstream
    circuit_until: datetime | None  # what its items call is closed off until the next probe; None: it is not
    circuit_reason: str | None  # throttled or down
    waits_for_chat: bool
    limited: str | None  # by what limit of the whole service nothing more starts
    queued: bool  # it could start, has been able to for more than a moment, and others' items run
    has_worker: bool
    ingesting: bool  # its items are still in a file (store/ingests.py)
    fresh: bool  # nothing of it has been taken up yet in this run: its schedule was never charged
    dialect: str | None
    dialect_key: str | None
    dialect_facts: str | None  # JSON
    failure_threshold: FailureThreshold | None
    budget: Budget | None

    @property
    def ended_at(self) -> datetime | None:
        return self.completed_at or self.cancelled_at

    @property
    def pending(self) -> int:
        return self.total - self.success - self.failed - self.processing

    @property
    def progress(self) -> float:
        """Ended items in all, 0 to 1; exactly 1.0 only once the batch has ended."""
        if self.status in TERMINAL:
            return 1.0
        return min((self.success + self.failed) / self.total, 0.9999)

    @property
    def eta_seconds(self) -> int | None:
        """At the present speed; None while it is not known, or while nothing may start."""
        if self.status is not BatchStatus.IN_PROGRESS or not self.throughput:
            return None
        return round((self.pending + self.processing) / self.throughput)

    @property
    def waiting_reason(self) -> str | None:
        """Why waiting items do not start; None while they do, or when none waits."""
        if self.status is BatchStatus.PAUSED:
            return "paused" if self.paused_by is None else _PAUSED_BY[self.paused_by]
        if self.status is not BatchStatus.IN_PROGRESS:
            return None
        return "draining" if self.ending else self._reason_not_started()

    def _reason_not_started(self) -> str | None:
        if self.ingesting:
            return "ingesting"
        if self.pending == 0:
            return None
        if not self.has_worker:
            return "no worker for this processor"
        if self.circuit_until is not None:
            what = "throttled until" if self.circuit_reason == "throttled" else "upstream down until"
            return f"{what} {self.circuit_until:%Y-%m-%dT%H:%M:%SZ}"
        if self.waits_for_chat:
            return "another item of the same chat is running"
        if self.next_at is not None:
            what = "throttled until" if self.throttled else "retry at"
            return f"{what} {self.next_at:%Y-%m-%dT%H:%M:%SZ}"
        if self.max_concurrency is not None and self.processing >= self.max_concurrency:
            return "concurrency limit"
        if self.limited is not None:
            return self.limited
        return "queued behind other work" if self.queued else None


_PAUSED_BY = {
    Ending.THRESHOLD: "paused: failure threshold exceeded",
    Ending.BUDGET: "paused: budget used up",
}

# Rate: see store/counts.py. `finite_at` skips items that wait for a chat (available_at = infinity).
COLUMNS = f"""
    b.id, b.tenant_id, b.status, b.ending, b.paused_by, b.processor, b.agent_id, b.configuration_id, b.upstream, b.name,
    b.metadata::text AS metadata, b.collection, b.created_by,
    b.priority, b.max_attempts, b.item_timeout_seconds, b.max_concurrency, b.deadline_seconds,
    b.deadline_at, b.run, b.error, b.webhook_url, b.webhook_events, b.webhooks, b.created_at, b.completed_at, b.cancelled_at,
    b.retention_days, b.expires_at,
    c.total, c.success, c.failed, c.cancelled, c.expired, c.calls, c.prompt_tokens, c.completion_tokens,
    c.cost_microusd, c.failure_ratio, c.failure_minimum, c.failure_action, c.max_tokens, c.budget_action,
    least(l.processing, c.total - c.success - c.failed)::int AS processing,
    CASE
        WHEN c.started_at IS NULL OR c.success + c.failed = c.kept THEN NULL
        WHEN b.status IN ('completed', 'failed', 'cancelled') THEN
            (c.success + c.failed - c.kept) / greatest(extract(epoch FROM c.last_result_at - c.started_at), 0.001)::float8
        ELSE c.rate * {faded("c.last_result_at", "now()")} / greatest(1 - {faded("c.started_at", "now()")}, 0.0001)
    END AS throughput,
    w.next_at, w.throttled, w.waits_for_chat, w.limited, w.queued, w.has_worker, b.dialect, b.dialect_key, b.dialect_facts,
    circuit.until AS circuit_until, circuit.reason AS circuit_reason,
    EXISTS (SELECT FROM ingest WHERE ingest.batch_id = b.id) AS ingesting,
    EXISTS (SELECT FROM batch_schedule q WHERE q.batch_id = b.id AND q.vtime <= 0) AS fresh
"""
SOURCE = f"""
    batch b JOIN batch_count c ON c.batch_id = b.id
    LEFT JOIN circuit ON circuit.tenant_id = b.tenant_id AND circuit.name = b.circuit
    CROSS JOIN LATERAL (SELECT coalesce(sum(remaining), 0) AS processing FROM lease WHERE lease.batch_id = b.id) l
    CROSS JOIN LATERAL (
        SELECT CASE WHEN first_at > now() AND first_at < 'infinity' THEN first_at END AS next_at,
            coalesce(waiting, false) AS throttled, coalesce(first_at = 'infinity', false) AS waits_for_chat,
            CASE WHEN first_at <= now() THEN {service_limits.REACHED} END AS limited,
            CASE WHEN l.processing = 0 AND first_at <= now() - interval '1 second' THEN
                EXISTS (SELECT FROM lease o WHERE o.batch_id <> b.id)
            ELSE false END AS queued,
            EXISTS (SELECT FROM worker WHERE NOT dead AND b.processor = ANY (worker.processors)) AS has_worker
        FROM (SELECT) one LEFT JOIN LATERAL (
            SELECT available_at AS first_at, waiting FROM span
            WHERE span.batch_id = b.id ORDER BY available_at, id LIMIT 1
        ) s ON true
    ) w
"""


_GET = f"SELECT {COLUMNS} FROM {SOURCE} WHERE b.id = $1 AND b.tenant_id = $2"


async def get(connection: Transaction, tenant_id: UUID, batch_id: UUID) -> Batch:
    row = await connection.fetchrow(_GET, batch_id, tenant_id)
    if row is None:
        raise await retention.absent(connection, tenant_id, batch_id)
    return batch_of(row)


# Looked up one by one: a plain join may read all batches.
_AMONG = f"""
SELECT found.* FROM unnest($1::uuid[], $2::uuid[]) AS asked (tenant_id, id) CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM {SOURCE} WHERE b.id = asked.id AND b.tenant_id = asked.tenant_id LIMIT 1
) found
"""


async def among(
    connection: Transaction, asked: Sequence[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], Batch]:
    """Those of the (tenant, batch) asked for that are there."""
    if len(asked) == 1:
        row = await connection.fetchrow(_GET, asked[0][1], asked[0][0])
        return {} if row is None else {asked[0]: batch_of(row)}
    tenants, ids = (list(column) for column in zip(*asked, strict=True))
    found = [batch_of(row) for row in await connection.fetch(_AMONG, tenants, ids)]
    return {(batch.tenant_id, batch.id): batch for batch in found}


def batch_of(row: Record) -> Batch:
    values: dict[str, Any] = dict(row)
    values["status"] = BatchStatus(values["status"])
    for name in ("ending", "paused_by"):
        values[name] = Ending(values[name]) if values[name] else None
    values["failure_threshold"], values["budget"] = _limits(values)
    values["metadata"] = orjson.loads(values["metadata"])
    return Batch(**values)


def _limits(values: dict[str, Any]) -> tuple[FailureThreshold | None, Budget | None]:
    """Taken out of a row's values."""
    ratio, minimum, failing, most, stopping = (
        values.pop(name)
        for name in ("failure_ratio", "failure_minimum", "failure_action", "max_tokens", "budget_action")
    )
    threshold = None if ratio is None else FailureThreshold(ratio, minimum, LimitAction(failing))
    return threshold, None if most is None else Budget(most, LimitAction(stopping))


@dataclass(frozen=True, slots=True)
class BatchFilters:
    """What a list of batches shows; None means any. `metadata` pairs must all be there."""

    status: BatchStatus | None = None
    processor: str | None = None
    agent_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    name: str | None = None
    collection: str | None = None
    created_by: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    dialect: str | None = None
    statuses: Sequence[BatchStatus] = ()  # any of these; none named: any at all

    def where(self, tenant_id: UUID) -> tuple[str, list[Any]]:
        """A condition on `b`, and its arguments."""
        conditions, arguments = ["b.tenant_id = $1"], [tenant_id]
        wanted: list[tuple[str, Any]] = [
            ("b.status = {}", self.status.value if self.status else None),
            ("b.processor = {}", self.processor),
            ("b.agent_id = {}", self.agent_id),
            ("b.created_at > {}", self.created_after),
            ("b.created_at < {}", self.created_before),
            ("b.name = {}", self.name),
            ("b.collection = {}", self.collection),
            ("b.created_by = {}", self.created_by),
            ("b.dialect = {}", self.dialect),
            ("b.status = ANY ({})", [one.value for one in self.statuses] or None),
            (
                "b.metadata @> {}::jsonb",
                orjson.dumps(dict(self.metadata)).decode() if self.metadata else None,
            ),
        ]
        for condition, value in wanted:
            if value is not None:
                arguments.append(value)
                conditions.append(condition.format(f"${len(arguments)}"))
        return " AND ".join(conditions), arguments


async def page(
    connection: Transaction,
    tenant_id: UUID,
    filters: BatchFilters,
    *,
    limit: int,
    offset: int = 0,
    before: UUID | None = None,
    behind: UUID | None = None,
) -> tuple[list[Batch], int]:
    """Newest first, and how many the filters match in all. `before` (the last id of a page) goes on flat at any depth;
    `behind` (its first id) is the page above it."""
    condition, arguments = filters.where(tenant_id)
    total = await connection.fetchval(f"SELECT count(*) FROM batch b WHERE {condition}", *arguments)
    if before is not None:
        arguments.append(before)
        condition += f" AND b.id < ${len(arguments)}"
    if behind is not None:
        arguments.append(behind)
        condition += f" AND b.id > ${len(arguments)}"
    order = "DESC" if behind is None else "ASC"
    ids = (
        f"SELECT b.id FROM batch b WHERE {condition} ORDER BY b.id {order} LIMIT {limit:d} OFFSET {offset:d}"
    )
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM {SOURCE} WHERE b.id IN ({ids}) ORDER BY b.id DESC", *arguments
    )
    return [batch_of(row) for row in rows], total
