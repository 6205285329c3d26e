"""The invariants of the engine, checked against the tables. Used by `gristmill audit` and by the tests.

results = success + failed ≤ total; terminal ⇔ counts = total ⇔ exactly one closing event of the run; every earlier run
has one, too; every item of a live batch without a result waits in one span or runs under a lease of this run; who waits
for a chat waits for somebody.
"""

from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Transaction


@dataclass(frozen=True, slots=True)
class Violation:
    batch_id: UUID
    rule: str


_INGESTING = "EXISTS (SELECT FROM ingest WHERE ingest.batch_id = b.id)"
# Its source could not be read: nothing of it was stored, and all of it counts as failed (store/endings.refuse).
_REFUSED = """coalesce(b.error LIKE '{"type":"bad_source"%', false)"""
_LIVE = f"b.status NOT IN ('completed', 'failed', 'cancelled') AND NOT {_INGESTING}"
_RANGES = "coalesce(range_agg(int4range(first, last, '[]')), '{}') AS ranges"
_UNENDED = """FROM generate_series(0, b.total - 1) AS ordinal
            WHERE NOT EXISTS (SELECT FROM result r WHERE r.batch_id = b.id AND r.ordinal = ordinal.ordinal)"""

RULES = {
    "counters equal the results": f"""
        SELECT c.batch_id FROM batch_count c LEFT JOIN batch b ON b.id = c.batch_id LEFT JOIN (
            SELECT batch_id, count(*) FILTER (WHERE status = 1) AS success, count(*) FILTER (WHERE status = 2) AS failed,
                count(*) FILTER (WHERE code = 499) AS cancelled, count(*) FILTER (WHERE code = 408) AS expired
            FROM result GROUP BY batch_id
        ) r ON r.batch_id = c.batch_id
        WHERE NOT {_REFUSED} AND (c.success, c.failed, c.cancelled, c.expired) IS DISTINCT FROM
            (coalesce(r.success, 0), coalesce(r.failed, 0), coalesce(r.cancelled, 0), coalesce(r.expired, 0))
    """,
    "the log has each result of its batch once, and no place twice": f"""
        SELECT c.batch_id FROM batch_count c JOIN batch b ON b.id = c.batch_id LEFT JOIN (
            SELECT r.batch_id, count(*) AS results, count(DISTINCT r.ordinal) AS items
            FROM (SELECT batch_id, at, unnest(ordinals) AS ordinal FROM result_log) l
            JOIN result r ON r.batch_id = l.batch_id AND r.ordinal = l.ordinal AND r.processed_at = l.at
            GROUP BY r.batch_id
        ) logged ON logged.batch_id = c.batch_id
        WHERE NOT {_REFUSED} AND (coalesce(logged.results, 0), coalesce(logged.items, 0))
                <> (c.success + c.failed, c.success + c.failed)
            OR EXISTS (
                SELECT FROM (
                    SELECT upto - cardinality(ordinals) AS since, lag(upto, 1, 0) OVER (PARTITION BY run ORDER BY upto) AS before,
                        run FROM result_log l WHERE l.batch_id = c.batch_id
                ) places WHERE since < before
            )
    """,
    "there are as many items as the total": f"""
        SELECT b.id FROM batch b WHERE b.total <> (SELECT count(*) FROM item WHERE batch_id = b.id)
            AND NOT {_INGESTING} AND NOT {_REFUSED}
    """,
    "a batch is terminal exactly when its counts are complete": """
        SELECT b.id FROM batch b JOIN batch_count c ON c.batch_id = b.id
        WHERE (b.status IN ('completed', 'failed', 'cancelled')) <> (c.success + c.failed = c.total)
    """,
    "a terminal batch has exactly one closing event of its run, a live one none": """
        SELECT b.id FROM batch b WHERE (b.status IN ('completed', 'failed', 'cancelled'))::int <> (
            SELECT count(*) FROM event e
            WHERE e.batch_id = b.id AND e.run = b.run AND e.type IN ('completed', 'failed', 'cancelled')
        )
    """,
    "every run before the present one has exactly one closing event": """
        SELECT b.id FROM batch b CROSS JOIN LATERAL (
            SELECT count(*) AS events, count(DISTINCT e.run) AS runs FROM event e
            WHERE e.batch_id = b.id AND e.run <> b.run AND e.type IN ('completed', 'failed', 'cancelled')
        ) e
        WHERE (e.events, e.runs) <> (b.run - 1, b.run - 1)
    """,
    "attempts are of runs that have begun": """
        SELECT a.batch_id FROM item_attempt a JOIN batch b ON b.id = a.batch_id WHERE a.run NOT BETWEEN 1 AND b.run
    """,
    "leases are of the present run": """
        SELECT l.batch_id FROM lease l JOIN batch b ON b.id = l.batch_id WHERE l.id <= b.first_lease_id
    """,
    "a batch may start items exactly while it is live, has its items, and nothing ends it": f"""
        SELECT b.id FROM batch b LEFT JOIN batch_schedule s ON s.batch_id = b.id
        WHERE (s.batch_id IS NOT NULL) <> (b.status IN ('in_progress', 'paused') AND b.ending IS NULL AND NOT {_INGESTING})
            OR s.paused <> (b.status = 'paused')
    """,
    "a batch that has ended is beyond no limit": """
        SELECT b.id FROM batch b JOIN batch_count c ON c.batch_id = b.id
        WHERE b.status IN ('completed', 'failed', 'cancelled') AND c.exceeded IS NOT NULL
    """,
    "claims look at the limits of a batch that has some": """
        SELECT s.batch_id FROM batch_schedule s JOIN batch_count c ON c.batch_id = s.batch_id
        WHERE s.limited <> (num_nonnulls(c.failure_ratio, c.max_tokens) > 0)
    """,
    "a batch that may start items has a tenant whose turn can come": """
        SELECT s.batch_id FROM batch_schedule s
        WHERE NOT EXISTS (SELECT FROM tenant_schedule t WHERE t.tenant_id = s.tenant_id)
    """,
    "every item of a live batch without a result is in a span or a lease": f"""
        SELECT b.id FROM batch b CROSS JOIN LATERAL (
            SELECT {_RANGES} FROM (
                SELECT first, last FROM span WHERE batch_id = b.id UNION ALL SELECT first, last FROM lease WHERE batch_id = b.id
            ) held
        ) held
        WHERE {_LIVE} AND EXISTS (SELECT {_UNENDED} AND NOT ordinal <@ held.ranges)
    """,
    "leases have all items to come that are in no span": f"""
        SELECT b.id FROM batch b CROSS JOIN LATERAL (SELECT {_RANGES} FROM span WHERE batch_id = b.id) waiting
        WHERE {_LIVE} AND (SELECT count(*) {_UNENDED} AND NOT ordinal <@ waiting.ranges)
            > (SELECT coalesce(sum(remaining), 0) FROM lease WHERE batch_id = b.id)
    """,
    "no item waits in two spans": """
        SELECT s.batch_id FROM span s WHERE EXISTS (
            SELECT FROM span o WHERE o.batch_id = s.batch_id AND o.id <> s.id AND o.first <= s.last AND s.first <= o.last
        )
    """,
    "a chat is held only by an item without a result": """
        SELECT k.batch_id FROM history_lock k JOIN result r ON r.batch_id = k.batch_id AND r.ordinal = k.ordinal
    """,
    "an item that waits for a chat waits for another that has it": """
        SELECT s.batch_id FROM span s JOIN batch_schedule b ON b.batch_id = s.batch_id AND NOT b.paused
        LEFT JOIN history_lock k ON k.history_id = s.history_id
        WHERE s.available_at = 'infinity'
            AND (k.history_id IS NULL OR (k.batch_id, k.ordinal) = (s.batch_id, s.first))
    """,
}


async def audit(connection: Transaction) -> list[Violation]:
    """All violations, in one snapshot. [] is the answer to hope for."""
    found: list[Violation] = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for rule, query in RULES.items():
            found += [Violation(row[0], rule) for row in await connection.fetch(query)]
    return found
