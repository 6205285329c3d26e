"""Batches as they are made: stored whole, with their items, waiting from then on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson

from gristmill.db import Transaction
from gristmill.domain.errors import NotFound
from gristmill.domain.limits import Budget, FailureThreshold
from gristmill.domain.states import BatchStatus
from gristmill.domain.webhooks import Hook, as_json
from gristmill.store import announcements, copying, endings, limits, origins, quotas, rejects, schedules
from gristmill.store.copying import NULL, are_few, escaped
from gristmill.store.origins import Origin
from gristmill.store.quotas import Quotas


@dataclass(slots=True)  # not frozen: that would cost 1 µs an item
class NewItem:
    """`input` is JSON text that its processor has accepted. Ordinals follow the order of the items.

    `error` (JSON): it was refused; it is stored as failed with code 400 and never runs.
    """

    custom_id: str
    input: str
    history_id: int | None = None
    name: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NewWebhook:
    url: str
    events: tuple[str, ...]
    secret: bytes | None = None  # encrypted


@dataclass(frozen=True, slots=True)
class NewUpstream:
    """What a batch brings for its calls to the model; None: the operator's. `key` is encrypted and bound to the batch."""

    model: str | None = None
    key: bytes | None = None
    circuit: str | None = None  # of calls with that key (domain/circuits.py)

    def as_json(self) -> str:
        """What may be shown, and stays."""
        return orjson.dumps({"model": self.model, "own_key": self.key is not None}).decode()


@dataclass(frozen=True, slots=True)
class NewBatch:
    """`config` is JSON text, a snapshot: later changes of an agent or a configuration do not reach this batch.

    `config_secrets` is what it shows as asterisks, encrypted and bound to `config:<id>` (processors/secrets.py).
    """

    id: UUID
    tenant_id: UUID
    processor: str
    config: str
    agent_id: UUID | None = None
    configuration_id: str | None = None  # where `config` was taken from
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    collection: str | None = None
    created_by: str | None = None
    priority: int = 0
    max_attempts: int = 3
    item_timeout_seconds: float = 300.0
    max_concurrency: int | None = None
    deadline_seconds: int = 86_400
    start_paused: bool = False
    retention_days: int = 30
    webhook: NewWebhook | None = None
    webhooks: tuple[Hook, ...] = ()  # beside it
    config_secrets: bytes | None = None
    upstream: NewUpstream | None = None
    origin: Origin | None = None
    failure_threshold: FailureThreshold | None = None
    budget: Budget | None = None
    circuit: str | None = None  # what its items call (domain/circuits.py)
    quotas: Quotas | None = None  # that its tenant has to keep to


# First and last ordinals, both inclusive; one whose last is below its first is empty.
Ranges = tuple[Sequence[int], Sequence[int]]


def _laying(firsts: str, lasts: str) -> str:
    """SQL: the ranges in these parameters wait."""
    return f"""
    INSERT INTO span (batch_id, first, last)
    SELECT $1, f, l FROM unnest({firsts}::int[], {lasts}::int[]) AS given (f, l) WHERE f <= l
    """


_ITEM_COLUMNS = ("batch_id", "ordinal", "custom_id", "history_id", "input", "name")
_INSERT = f"""
WITH new AS (
    INSERT INTO batch (
        id, tenant_id, status, processor, agent_id, config, name, metadata, collection, created_by, priority,
        max_attempts, item_timeout_seconds, max_concurrency, deadline_seconds, deadline_at, total,
        webhook_url, webhook_events, webhook_secret, configuration_id, retention_days, circuit, webhooks
    ) VALUES (
        $1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, $12, $13, $14, $15::int, now() + make_interval(secs => $15::int),
        $16, $17, $18, $19, $20, $22, $23, $24
    )
),
waiting AS ({_laying("$25", "$26")}),
stored AS (
    INSERT INTO item ({", ".join(_ITEM_COLUMNS)})
    SELECT $1, given.ordinal - 1, custom_id, history_id, input, name
    FROM unnest($27::text[], $28::bigint[], $29::text[], $30::text[]) WITH ORDINALITY
        AS given (custom_id, history_id, input, name, ordinal)
),
own AS (
    SELECT $2::uuid AS tenant_id, $4::text AS processor, $11::int AS priority, $3::text AS status, $14::int AS max_concurrency,
        now() + make_interval(secs => $15::int) AS deadline_at, $23::text AS circuit, false AS limited
    WHERE $31::bool
),
{schedules.ADDING}
INSERT INTO batch_count (batch_id, total, failed, kept, finished_from, failed_from) VALUES ($1, $16, $21, $21, $21, $21)
RETURNING EXISTS (SELECT FROM scheduled)
"""


async def create(tx: Transaction, new: NewBatch, items: Sequence[NewItem]) -> None:
    """Store a whole batch. It starts when the caller's transaction commits, unless it starts paused. If each of its items
    was refused, it has ended by then."""
    refused = _refused(0, items)
    waiting = _waiting(len(items), [ordinal for ordinal, _ in refused])
    few = are_few(items, lambda item: len(item.input))
    # What is told in later statements belongs to its schedule.
    plain = new.upstream is None and new.failure_threshold is None and new.budget is None
    scheduled = await insert(tx, new, len(items), len(refused), waiting, items if few else (), schedule=plain)
    if not few:
        await add_items(tx, new.id, 0, items)
    elif refused:
        await rejects.record(tx, new.id, refused)
    if not scheduled:
        await schedules.add(tx, new.id)
    if len(refused) == len(items):
        await endings.finish(tx, [new.id])


async def create_of_directory(tx: Transaction, new: NewBatch, directory_id: UUID) -> None:
    """An item for each file that is in the directory now, by name; its custom id is the file's id. Raises NotFound for
    a directory that is empty or gone."""
    stored = await tx.execute(
        """
        INSERT INTO item (batch_id, ordinal, custom_id, input, name)
        SELECT $1, row_number() OVER (ORDER BY e.name, e.file_id) - 1, e.file_id::text,
            json_build_object('file_id', e.file_id)::text, left(e.name, 255)
        FROM directory d JOIN directory_file e ON e.directory_id = d.id
        WHERE d.id = $2 AND d.tenant_id = $3
        """,
        new.id,
        directory_id,
        new.tenant_id,
    )
    total = int(stored.split()[-1])
    if total == 0:
        raise NotFound("no such directory, or it is empty by now")
    await insert(tx, new, total, waiting=_waiting(total))
    await schedules.add(tx, new.id)


async def insert(
    tx: Transaction,
    new: NewBatch,
    total: int,
    failed: int = 0,
    waiting: Ranges = ((), ()),
    items: Sequence[NewItem] = (),
    *,
    schedule: bool = False,
) -> bool:
    """The batch with the ranges that are `waiting` and with these `items`, which are few: the others come later. `failed` of all
    count as such already. Nothing of it can start before its schedule is there: answers whether it is, which it may be if
    `schedule`.

    Raises TooMany if it goes beyond a quota, and what `origins.lay_down` and `add_items` raise.
    """
    await quotas.hold(tx, new.tenant_id, new.quotas, batches=1, requests=total - failed)
    webhook = new.webhook
    status = BatchStatus.PAUSED if new.start_paused else BatchStatus.IN_PROGRESS
    scheduled: bool = await tx.fetchval(
        _INSERT,
        new.id,
        new.tenant_id,
        status.value,
        new.processor,
        new.agent_id,
        new.config,
        new.name,
        orjson.dumps(dict(new.metadata)).decode(),
        new.collection,
        new.created_by,
        new.priority,
        new.max_attempts,
        new.item_timeout_seconds,
        new.max_concurrency,
        new.deadline_seconds,
        total,
        webhook.url if webhook else None,
        list(webhook.events) if webhook else None,
        webhook.secret if webhook else None,
        new.configuration_id,
        failed,
        new.retention_days,
        new.circuit,
        as_json(new.webhooks),
        *waiting,
        [item.custom_id for item in items],
        [item.history_id for item in items],
        [item.input for item in items],
        [item.name for item in items],
        schedule,
    )
    if new.config_secrets is not None:  # a statement of its own, for the few batches that have some
        await tx.execute("UPDATE batch SET config_secrets = $2 WHERE id = $1", new.id, new.config_secrets)
    if new.upstream is not None:
        await bring(tx, new.id, new.upstream)
    if new.origin is not None:
        await origins.lay_down(tx, new.id, new.origin)
    if new.failure_threshold is not None or new.budget is not None:
        await limits.lay_down(tx, new.id, new.failure_threshold, new.budget)
    if webhook or new.webhooks:
        await announcements.announce(tx, new.id, "created")
    return scheduled


async def bring(tx: Transaction, batch_id: UUID, upstream: NewUpstream) -> None:
    """Let the batch call the model with these. The key goes when the batch ends (store/endings.py)."""
    statement = """
        UPDATE batch SET upstream = $2, upstream_key = $3, circuit = CASE WHEN circuit IS NOT NULL THEN $4::text END
        WHERE id = $1
    """
    await tx.execute(statement, batch_id, upstream.as_json(), upstream.key, upstream.circuit)


async def add_items(tx: Transaction, batch_id: UUID, first: int, items: Sequence[NewItem]) -> None:
    """Items with the ordinals from `first` on, and the results of those that were refused, uncounted.

    Raises UniqueViolationError for a custom id that the batch has already.
    """
    batch = str(batch_id)
    lines = (
        f"{batch}\t{ordinal}\t{escaped(item.custom_id)}\t{NULL if item.history_id is None else item.history_id}\t"
        f"{escaped(item.input)}\t{NULL if item.name is None else escaped(item.name)}\n"
        for ordinal, item in enumerate(items, first)
    )
    await copying.copy(tx, "item", _ITEM_COLUMNS, lines)
    if refused := _refused(first, items):
        await rejects.record(tx, batch_id, refused)


def _refused(first: int, items: Sequence[NewItem]) -> list[tuple[int, str]]:
    """The ordinals of those that were, from `first` on, with what is wrong."""
    return [(ordinal, item.error) for ordinal, item in enumerate(items, first) if item.error is not None]


async def lay_spans(tx: Transaction, batch_id: UUID, total: int, ended: Sequence[int] = ()) -> None:
    """All items wait, save those that have `ended` (ascending ordinals)."""
    await tx.execute(_laying("$2", "$3"), batch_id, *_waiting(total, ended))


def _waiting(total: int, ended: Sequence[int] = ()) -> Ranges:
    """All but those that have `ended`."""
    return [0, *(ordinal + 1 for ordinal in ended)], [*(ordinal - 1 for ordinal in ended), total - 1]
