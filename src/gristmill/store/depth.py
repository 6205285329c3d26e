"""How much work waits, for autoscalers: from the counters of live batches, whatever the number of their items."""

from dataclasses import dataclass

from gristmill.db import Transaction
from gristmill.store import service_limits

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Depth:
    """Of one processor, over all tenants. `startable`: items that more free slots would start now, up to a batch's limit of
    concurrency, and at most as many as each limit of the whole service leaves; `running`: items in flight; `oldest_seconds`: for
    so long the first of those could have been started."""

    processor: str
    startable: int
    running: int
    oldest_seconds: float


def _within(source: str, kind: str, key: str, same: str) -> str:
    """Of the rows of `source` as many items as the limits of that kind leave room for, the first rows first."""
    return f"""
    SELECT s.tenant_id, s.processor, s.circuit, s.since, CASE WHEN r.items IS NULL THEN s.items ELSE
        greatest(0, least(s.items, r.items - (sum(s.items) OVER (
            PARTITION BY s.{key} ORDER BY s.tenant_id, s.processor, s.circuit
        ) - s.items)))
    END AS items
    FROM {source} s LEFT JOIN room r ON r.kind = '{kind}' AND {same}
"""


# Of a batch that may start anything now all that waits is counted, also what waits for its next attempt: how much that is,
# only its spans know, and they may be as many as its items. Where calls wait for a rate, more slots would start nothing.
_QUEUE = f"""
WITH room AS MATERIALIZED (
    SELECT kind, name, tenant_id, CASE
        WHEN waiting > 0 AND num_nonnulls(requests_per_minute, tokens_per_minute) > 0 THEN 0
        ELSE greatest(0, max_in_flight - in_flight)
    END AS items
    FROM ({service_limits.used()}) u
),
running AS MATERIALIZED (SELECT batch_id, sum(remaining)::int AS items FROM lease GROUP BY batch_id),
waiting AS (
    SELECT s.tenant_id, s.processor, s.circuit, now() - first.available_at AS since, least(
        k.total - k.success - k.failed - coalesce(running.items, 0), s.max_concurrency - coalesce(running.items, 0)
    ) AS items
    FROM batch_schedule s
    JOIN batch_count k ON k.batch_id = s.batch_id
    CROSS JOIN LATERAL (
        SELECT available_at FROM span WHERE span.batch_id = s.batch_id ORDER BY available_at, id LIMIT 1
    ) first
    LEFT JOIN circuit c ON c.tenant_id = s.tenant_id AND c.name = s.circuit
    LEFT JOIN running ON running.batch_id = s.batch_id
    WHERE NOT s.paused AND s.deadline_at > now() AND k.exceeded IS NULL AND c.until IS NULL AND first.available_at <= now()
),
together AS (
    SELECT tenant_id, processor, circuit, sum(items) AS items, max(since) AS since
    FROM waiting WHERE items > 0 GROUP BY 1, 2, 3
),
of_endpoints AS ({_within("together", "upstream", "circuit", "r.name = s.circuit")}),
of_tenants AS ({_within("of_endpoints", "tenant", "tenant_id", "r.tenant_id = s.tenant_id")}),
of_processors AS ({_within("of_tenants", "processor", "processor", "r.name = s.processor")})
SELECT processor, coalesce(sum(startable), 0)::bigint AS startable, coalesce(sum(running), 0)::bigint AS running,
    coalesce(extract(epoch FROM max(since)), 0)::float8 AS oldest_seconds
FROM (
    SELECT processor, items AS startable, 0 AS running, since FROM of_processors WHERE items > 0
    UNION ALL
    SELECT b.processor, 0, running.items, NULL FROM running JOIN batch b ON b.id = running.batch_id
) each GROUP BY processor
"""


async def queue(connection: Transaction) -> list[Depth]:
    """Of the processors that have work. About 5 µs for each live batch (docs/scaling.md)."""
    return [Depth(**row) for row in await connection.fetch(_QUEUE, timeout=LOOK_SECONDS)]
