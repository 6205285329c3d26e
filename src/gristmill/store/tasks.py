"""Tasks: the items of all batches of a tenant as one list, the newest batch first, within a batch in input order.

Totals are sums over the batches' counters, and a page is found by walking those: which batches it lies in, and from which
item on. Items are looked at only for the page itself. A search by name is the exception: it reads the names, and only so
long (`SEARCH_SECONDS`). Nothing waits in a list of tasks that is not in its batch: both are read in one snapshot.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.domain.states import ItemStatus, ResultStatus
from gristmill.store.results import error_of

SEARCH_SECONDS = 3.0
_MANY = 5000  # rows that take longer to be made tasks of than others should wait: about 4 µs each
# Batches that have their items. Of those that come from a file there are none before it has been read, nor if it could not be.
_STORED = """NOT EXISTS (SELECT FROM ingest WHERE ingest.batch_id = b.id)
    AND (b.error IS NULL OR b.error NOT LIKE '{"type":"bad_source"%')"""


@dataclass(frozen=True, slots=True)
class Task:
    """An item with what it needs of its batch to be shown alone."""

    batch_id: UUID
    ordinal: int
    custom_id: str
    processor: str
    name: str | None
    status: ItemStatus
    code: int | None
    error: str | None  # JSON
    collection: str | None
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    processed_at: datetime | None
    metadata: Mapping[str, str] = field(default_factory=dict)  # the batch's

    @property
    def progress(self) -> float:
        """0 to 1; exactly 1.0 once it has ended."""
        return float(self.status in (ItemStatus.SUCCESS, ItemStatus.FAILED))


@dataclass(frozen=True, slots=True)
class TaskFilters:
    """What a list of tasks shows; None means any. `name` is found anywhere in an item's name, in either case.

    `processors`: one of these. `metadata` pairs must all be the batch's; of `without_metadata` not all may be."""

    status: ItemStatus | None = None
    processor: str | None = None
    name: str | None = None
    collection: str | None = None
    created_by: str | None = None
    batch_id: UUID | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    without_metadata: Mapping[str, str] = field(default_factory=dict)
    processors: Collection[str] | None = None
    dialect: str | None = None

    def where(self, tenant_id: UUID) -> tuple[str, list[Any]]:
        """A condition on the batch `b`, and its arguments."""
        arguments: list[Any] = [tenant_id]
        condition = f"b.tenant_id = $1 AND {_STORED}"
        wanted: list[tuple[str, Any]] = [
            ("b.processor = {}", self.processor),
            ("b.collection = {}", self.collection),
            ("b.created_by = {}", self.created_by),
            ("b.id = {}", self.batch_id),
            ("b.metadata @> {}::jsonb", _as_json(self.metadata)),
            ("NOT b.metadata @> {}::jsonb", _as_json(self.without_metadata)),
            ("b.processor = ANY ({})", None if self.processors is None else list(self.processors)),
            ("b.dialect = {}", self.dialect),
        ]
        for one, value in wanted:
            if value is not None:
                arguments.append(value)
                condition += f" AND {one.format(f'${len(arguments)}')}"
        return condition, arguments


def _as_json(pairs: Mapping[str, str]) -> str | None:
    return orjson.dumps(dict(pairs)).decode() if pairs else None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """`counts` are of all that the filters match but for the status; `total` is of all filters."""

    tasks: Sequence[Task]
    counts: Mapping[ItemStatus, int]
    total: int


# Where a page lies: batches, and in each how many matching items are skipped and how many are shown. `n` is how many of a
# batch match, `upto` how many of it and those before. Where a whole batch matches, a place is an ordinal.
_WALK = """
WITH counted AS (
    SELECT b.id, c.total, c.success, c.failed, least(coalesce(l.processing, 0), c.total - c.success - c.failed) AS processing
    FROM batch b JOIN batch_count c ON c.batch_id = b.id
    LEFT JOIN (SELECT batch_id, sum(remaining) AS processing FROM lease GROUP BY batch_id) l ON l.batch_id = b.id
    WHERE {condition}
), matching AS (
    SELECT id, total, processing, success, failed, total - success - failed - processing AS pending, {n} AS n FROM counted
), placed AS (
    SELECT id, total, n, sum(n) OVER (ORDER BY id DESC) AS upto FROM matching WHERE n > 0
)
SELECT counts.*, places.* FROM (
    SELECT coalesce(sum(pending), 0)::bigint AS pending, coalesce(sum(processing), 0)::bigint AS processing,
        coalesce(sum(success), 0)::bigint AS success, coalesce(sum(failed), 0)::bigint AS failed FROM matching
) counts CROSS JOIN (
    SELECT array_agg(id ORDER BY id DESC) AS batch_ids,
        array_agg(greatest({offset} - (upto - n), 0)::int ORDER BY id DESC) AS skips,
        array_agg((least(upto, {offset} + {limit}) - greatest({offset}, upto - n))::int ORDER BY id DESC) AS sizes,
        array_agg(n = total ORDER BY id DESC) AS whole
    FROM placed WHERE upto > {offset} AND upto - n < {offset} + {limit}
) places
"""
_COUNTED = {
    None: "total",
    ItemStatus.PENDING: "total - success - failed - processing",
    ItemStatus.PROCESSING: "processing",
    ItemStatus.SUCCESS: "success",
    ItemStatus.FAILED: "failed",
}

# An item runs if a lease covers it and no span does (store/results.py). Ranges are read once for each batch; where there is no
# lease nothing runs, and the spans, which may be many, need not be read.
_RANGES = "coalesce(range_agg(int4range(first, last, '[]')), int4multirange())"
_HELD = f"""
    (SELECT {_RANGES} FROM lease WHERE lease.batch_id = given.batch_id) AS leased,
    CASE WHEN EXISTS (SELECT FROM lease WHERE lease.batch_id = given.batch_id)
        THEN (SELECT {_RANGES} FROM span WHERE span.batch_id = given.batch_id) ELSE int4multirange() END AS waiting
"""
_SEARCH = f"""
WITH found AS MATERIALIZED (
    SELECT b.id AS batch_id, i.ordinal FROM batch b JOIN item i ON i.batch_id = b.id
    WHERE {{condition}} AND i.name IS NOT NULL AND i.name ILIKE {{pattern}}
), held AS MATERIALIZED (
    SELECT given.batch_id, {_HELD} FROM (SELECT DISTINCT batch_id FROM found) given
), known AS (
    SELECT f.batch_id, f.ordinal, CASE
        WHEN r.status = {ResultStatus.SUCCESS:d} THEN 'success' WHEN r.status = {ResultStatus.FAILED:d} THEN 'failed'
        WHEN f.ordinal <@ held.leased AND NOT f.ordinal <@ held.waiting THEN 'processing' ELSE 'pending'
    END AS status
    FROM found f JOIN held ON held.batch_id = f.batch_id
    LEFT JOIN result r ON r.batch_id = f.batch_id AND r.ordinal = f.ordinal
), page AS (
    SELECT batch_id, ordinal FROM known WHERE {{status}} ORDER BY batch_id DESC, ordinal OFFSET {{offset}} LIMIT {{limit}}
)
SELECT counts.*, places.* FROM (
    SELECT count(*) FILTER (WHERE status = 'pending') AS pending, count(*) FILTER (WHERE status = 'processing') AS processing,
        count(*) FILTER (WHERE status = 'success') AS success, count(*) FILTER (WHERE status = 'failed') AS failed FROM known
) counts CROSS JOIN (
    SELECT array_agg(batch_id ORDER BY batch_id DESC, ordinal) AS batch_ids,
        array_agg(ordinal ORDER BY batch_id DESC, ordinal) AS skips, array_agg(1) AS sizes,
        array_agg(true) AS whole FROM page
) places
"""

# The items at places `skip` … `skip + size - 1` among those of one batch with a status, where they are not all. Those that wait
# are counted span by span. Only what has ended is counted off one by one, and only within the batch where the page begins.
_PLACES = {
    None: "SELECT 0 LIMIT 0",
    ItemStatus.PENDING: """
        SELECT generate_series(
            s.last - (s.upto - 1 - greatest(w.skip, s.upto - s.size)), s.last - (s.upto - least(w.skip + w.size, s.upto))
        ) FROM (
            SELECT last, last - first + 1 AS size, (sum(last - first + 1) OVER (ORDER BY first))::int AS upto
            FROM span WHERE span.batch_id = w.batch_id
        ) s WHERE s.upto > w.skip AND s.upto - s.size < w.skip + w.size
    """,
    ItemStatus.PROCESSING: """
        SELECT DISTINCT g.ordinal FROM lease
        CROSS JOIN LATERAL generate_series(lease.first, lease.last) AS g (ordinal)
        WHERE lease.batch_id = w.batch_id AND NOT g.ordinal <@ w.waiting
            AND NOT EXISTS (SELECT FROM result r WHERE r.batch_id = w.batch_id AND r.ordinal = g.ordinal)
        ORDER BY g.ordinal OFFSET w.skip LIMIT w.size
    """,
} | {
    status: f"""
        SELECT e.ordinal FROM result e WHERE e.batch_id = w.batch_id AND e.status = {stored:d}
        ORDER BY e.ordinal OFFSET w.skip LIMIT w.size
    """
    for status, stored in (
        (ItemStatus.SUCCESS, ResultStatus.SUCCESS),
        (ItemStatus.FAILED, ResultStatus.FAILED),
    )
}
# LIMIT 1: item by item, by key. A plain join reads the whole batch when Postgres thinks that a page is large.
_TASKS = f"""
WITH w AS MATERIALIZED (
    SELECT asked.*, held.leased, held.waiting
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::bool[]) WITH ORDINALITY AS asked (batch_id, skip, size, whole, place)
    JOIN (SELECT given.batch_id, {_HELD} FROM (SELECT DISTINCT * FROM unnest($1::uuid[]) AS one (batch_id)) given) held
        ON held.batch_id = asked.batch_id
)
SELECT b.id AS batch_id, i.ordinal, i.custom_id, b.processor, i.name, r.status, r.code, r.error, b.collection, b.created_by,
    b.created_at, b.metadata::text AS metadata, r.processed_at,
    r.status IS NULL AND i.ordinal <@ w.leased AND NOT i.ordinal <@ w.waiting AS running,
    CASE WHEN r.status IS NOT NULL THEN r.started_at ELSE (
        SELECT max(l.started_at) FROM lease l WHERE l.batch_id = b.id AND i.ordinal BETWEEN l.first AND l.last
    ) END AS started_at
FROM w JOIN batch b ON b.id = w.batch_id
CROSS JOIN LATERAL (
    SELECT generate_series(w.skip, w.skip + w.size - 1) WHERE w.whole
    UNION ALL SELECT * FROM ({{places}}) AS place WHERE NOT w.whole
) AS o (ordinal)
CROSS JOIN LATERAL (
    SELECT ordinal, custom_id, name FROM item WHERE batch_id = w.batch_id AND item.ordinal = o.ordinal LIMIT 1
) i
LEFT JOIN LATERAL (
    SELECT status, code, error, started_at, processed_at FROM result
    WHERE batch_id = w.batch_id AND result.ordinal = o.ordinal LIMIT 1
) r ON true
ORDER BY w.place, i.ordinal
"""


async def page(
    connection: Transaction, tenant_id: UUID, filters: TaskFilters, *, limit: int, offset: int
) -> TaskPage:
    """Raises Invalid when a search by name takes too long."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = await (_walk if filters.name is None else _search)(
            connection, tenant_id, filters, limit, offset
        )
        places = (found["batch_ids"] or [], found["skips"] or [], found["sizes"] or [], found["whole"] or [])
        among = filters.status if filters.name is None else None
        rows = await connection.fetch(_TASKS.format(places=_PLACES[among]), *places)
    counts = {status: int(found[status.value]) for status in ItemStatus}
    total = sum(counts.values()) if filters.status is None else counts[filters.status]
    found_tasks = _tasks(rows) if len(rows) < _MANY else await asyncio.to_thread(_tasks, rows)
    return TaskPage(found_tasks, counts, total)


def _tasks(rows: Sequence[Record]) -> list[Task]:
    return [_task(row) for row in rows]


async def _walk(
    connection: Transaction, tenant_id: UUID, filters: TaskFilters, limit: int, offset: int
) -> Record:
    condition, arguments = filters.where(tenant_id)
    statement = _WALK.format(condition=condition, n=_COUNTED[filters.status], limit=limit, offset=offset)
    [found] = await connection.fetch(statement, *arguments)
    return found


async def _search(
    connection: Transaction, tenant_id: UUID, filters: TaskFilters, limit: int, offset: int
) -> Record:
    condition, arguments = filters.where(tenant_id)
    arguments.append(_pattern(filters.name or ""))
    statement = _SEARCH.format(
        condition=condition,
        pattern=f"${len(arguments)}",
        status=f"status = '{filters.status.value}'" if filters.status else "true",
        limit=limit,
        offset=offset,
    )
    await connection.execute(f"SET LOCAL statement_timeout = {int(SEARCH_SECONDS * 1000):d}")
    try:
        [found] = await connection.fetch(statement, *arguments)
    except asyncpg.QueryCanceledError:
        detail = (
            "too many names to search; say more about the batches: batch_id, collection, created_by or type"
        )
        raise Invalid([Problem("file_name", "search_too_broad", detail)]) from None
    return found


def _pattern(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text}%"


async def one(connection: Transaction, tenant_id: UUID, batch_id: UUID, ordinal: int) -> Task:
    """Raises NotFound."""
    mine = await connection.fetchval(
        "SELECT total FROM batch WHERE id = $1 AND tenant_id = $2", batch_id, tenant_id
    )
    if mine is None or ordinal >= mine:
        raise NotFound("no such task")
    rows = await connection.fetch(_TASKS.format(places=_PLACES[None]), [batch_id], [ordinal], [1], [True])
    if not rows:  # its batch's file is still to be read
        raise NotFound("no such task")
    return _task(rows[0])


async def inputs(connection: Transaction, places: Sequence[tuple[UUID, int]]) -> dict[tuple[UUID, int], str]:
    """What the items at these places, (batch, ordinal), were given, as JSON text. Only for places that a page has told."""
    rows = await connection.fetch(
        """
        SELECT batch_id, ordinal, input FROM item
        JOIN unnest($1::uuid[], $2::int[]) AS given (b, o) ON batch_id = b AND ordinal = o
        """,
        [batch_id for batch_id, _ in places],
        [ordinal for _, ordinal in places],
    )
    return {(batch_id, ordinal): text for batch_id, ordinal, text in rows}


_ENDED = {ResultStatus.SUCCESS: ItemStatus.SUCCESS, ResultStatus.FAILED: ItemStatus.FAILED}


def _task(row: Record) -> Task:
    values = dict(row)
    running, ended = values.pop("running"), values["status"]
    if ended is None:
        values["status"] = ItemStatus.PROCESSING if running else ItemStatus.PENDING
        values["started_at"] = values["started_at"] if running else None
    else:
        values["status"] = _ENDED[ended]
    values["error"] = error_of(values["code"], values["error"])
    values["metadata"] = orjson.loads(values["metadata"])
    return Task(**values)
