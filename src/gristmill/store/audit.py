"""The invariants of the engine, checked against the tables. Used by `gristmill audit` and by the tests.

results = success + failed ≤ total; terminal ⇔ counts = total ⇔ exactly one closing event of the run; every item
of a live batch without a result waits in one span or runs under a lease.
"""

from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Transaction


@dataclass(frozen=True, slots=True)
class Violation:
    batch_id: UUID
    rule: str


_RULES = {
    "counters equal the results": """
        SELECT c.batch_id FROM batch_count c LEFT JOIN (
            SELECT batch_id, count(*) FILTER (WHERE status = 1) AS success, count(*) FILTER (WHERE status = 2) AS failed,
                count(*) FILTER (WHERE code = 499) AS cancelled, count(*) FILTER (WHERE code = 408) AS expired
            FROM result GROUP BY batch_id
        ) r USING (batch_id)
        WHERE (c.success, c.failed, c.cancelled, c.expired) IS DISTINCT FROM
            (coalesce(r.success, 0), coalesce(r.failed, 0), coalesce(r.cancelled, 0), coalesce(r.expired, 0))
    """,
    "there are as many items as the total": """
        SELECT b.id FROM batch b WHERE b.total <> (SELECT count(*) FROM item WHERE batch_id = b.id)
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
    "a batch may start items exactly while it is live and nothing ends it": """
        SELECT b.id FROM batch b LEFT JOIN batch_schedule s ON s.batch_id = b.id
        WHERE (s.batch_id IS NOT NULL) <> (b.status IN ('in_progress', 'paused') AND b.ending IS NULL)
            OR s.paused <> (b.status = 'paused')
    """,
    "every item of a live batch without a result is in a span or a lease": """
        SELECT b.id FROM batch b
        WHERE b.status NOT IN ('completed', 'failed', 'cancelled') AND EXISTS (
            SELECT FROM generate_series(0, b.total - 1) AS g (ordinal)
            WHERE NOT EXISTS (SELECT FROM result r WHERE r.batch_id = b.id AND r.ordinal = g.ordinal)
                AND NOT EXISTS (SELECT FROM span s WHERE s.batch_id = b.id AND g.ordinal BETWEEN s.first AND s.last)
                AND NOT EXISTS (SELECT FROM lease l WHERE l.batch_id = b.id AND g.ordinal BETWEEN l.first AND l.last)
        )
    """,
    "no item waits in two spans": """
        SELECT s.batch_id FROM span s WHERE EXISTS (
            SELECT FROM span o WHERE o.batch_id = s.batch_id AND o.id <> s.id AND o.first <= s.last AND s.first <= o.last
        )
    """,
    "a chat is held only by an item without a result": """
        SELECT k.batch_id FROM history_lock k JOIN result r ON r.batch_id = k.batch_id AND r.ordinal = k.ordinal
    """,
}


async def audit(connection: Transaction) -> list[Violation]:
    """All violations, in one snapshot. [] is the answer to hope for."""
    found: list[Violation] = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for rule, query in _RULES.items():
            found += [Violation(row[0], rule) for row in await connection.fetch(query)]
    return found
