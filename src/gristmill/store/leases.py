"""Leases that lost their worker: what was not recorded waits again.

A first loss puts runs of items back whole. From the second on they come back one by one, and the last run that such an item
may have, as any after the third loss, is alone in its worker (worker/isolation.py): so a poison item, one that takes its
worker down, isolates itself. It ends as failed, `worker_lost`, when its attempts are used up.
"""

from collections.abc import Collection
from uuid import UUID

import orjson
from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.outcomes import ItemError
from gristmill.domain.states import ResultStatus
from gristmill.store import counts, endings, histories, spans
from gristmill.store.counts import Tally

# However few attempts a batch allows: an item that was only near a poison item must get a run of its own.
LEAST_LOSSES = 3
_ONE_BY_ONE_LOSSES = 2

WORKER_LOST = ItemError(
    code=500,
    type="worker_lost",
    message="The worker process ended while this item was running.",
    retryable=True,
    suggestion="If it happens again with the same item, its input may exhaust the worker's memory.",
)
_WORKER_LOST = orjson.dumps(WORKER_LOST.as_json()).decode()

# Locked first; what is missing is read in a second statement, so that it sees what the holder committed meanwhile.
# A worker that is not there any more is dead, too.
_LOST = """
SELECT l.id, l.batch_id, l.first, l.last, l.attempt, l.losses, l.started_at
FROM lease l LEFT JOIN worker w ON w.id = l.worker_id
WHERE coalesce(w.dead, true) OR l.deadline_at < now() ORDER BY l.id LIMIT 20 FOR UPDATE OF l SKIP LOCKED
"""
_UNKNOWN = """
SELECT id, batch_id, first, last, attempt, losses, started_at FROM lease
WHERE worker_id = $1 AND NOT id = ANY ($2::bigint[]) ORDER BY id FOR UPDATE
"""
# An item that was given back, to be retried, is out of this lease although its range still covers it: it is in a span, or
# in a lease that came later. Ranges read once, and searched for each item. No two spans of a batch overlap, so that those which
# reach into the lease come first by their last ordinal, and are no more than its items: thousands elsewhere cost nothing.
_RANGES = "coalesce(range_agg(int4range(first, last, '[]')), '{}')"
_MISSING = f"""
WITH waiting AS (
    SELECT {_RANGES} AS ranges FROM (
        SELECT first, last FROM span WHERE batch_id = $1 AND last >= $2 ORDER BY last LIMIT $3 - $2 + 1
    ) s
),
later AS (
    SELECT {_RANGES} AS ranges FROM lease WHERE batch_id = $1 AND id > $4 AND first <= $3 AND last >= $2
)
SELECT g.ordinal FROM generate_series($2::int, $3::int) AS g (ordinal)
WHERE NOT EXISTS (
        SELECT FROM result r WHERE r.batch_id = $1 AND r.ordinal = g.ordinal AND r.ordinal BETWEEN $2 AND $3
    )
    AND NOT g.ordinal <@ (SELECT ranges FROM waiting) AND NOT g.ordinal <@ (SELECT ranges FROM later)
ORDER BY g.ordinal
"""


async def reclaim(tx: Transaction) -> int:
    """Take up to 20 leases from dead or stuck workers; answers with how many. What waits again counts as an attempt."""
    lost = await tx.fetch(_LOST)
    tallies: dict[UUID, Tally] = {}
    ended: list[tuple[UUID, int, int]] = []
    for lease in lost:
        ended += await _take(tx, lease, tallies)
    await histories.leave(tx, await histories.held_by(tx, ended))
    await _end(tx, lost)
    await endings.finish(tx, await counts.add(tx, tallies))
    return len(lost)


async def _take(tx: Transaction, lease: Record, tallies: dict[UUID, Tally]) -> list[tuple[UUID, int, int]]:
    """Put what is missing of the lease back, or end it; answers with the ranges that have ended."""
    batch_id, attempt, losses = lease["batch_id"], lease["attempt"], lease["losses"] + 1
    missing = await _missing(tx, lease)
    if not missing:
        return []
    most: int | None = await tx.fetchval(
        "SELECT greatest(max_attempts, $2) FROM batch WHERE id = $1", batch_id, LEAST_LOSSES
    )
    if most is None:  # the batch has been deleted
        return []
    await _keep_attempts(tx, lease, missing)
    if attempt < most:
        one_by_one = losses >= _ONE_BY_ONE_LOSSES
        ranges = [(ordinal, ordinal) for ordinal in missing] if one_by_one else spans.runs(missing)
        if one_by_one and attempt + 1 == most:  # its last run
            losses = max(losses, spans.SUSPECT_LOSSES)
        waiting = [spans.Waiting(batch_id, a, b, attempt, losses, spans.FIRST_SECONDS) for a, b in ranges]
        await spans.put_back(tx, waiting)
        return []
    failed = await _fail(tx, batch_id, missing, attempt)
    if failed:
        tally = tallies.setdefault(batch_id, Tally())
        tally.failed += len(failed)
        tally.ordinals += failed
    return [(batch_id, first, last) for first, last in spans.runs(missing)]


async def _missing(tx: Transaction, lease: Record) -> list[int]:
    rows = await tx.fetch(_MISSING, lease["batch_id"], lease["first"], lease["last"], lease["id"])
    return [row["ordinal"] for row in rows]


async def _keep_attempts(tx: Transaction, lease: Record, ordinals: list[int]) -> None:
    await tx.execute(
        """
        INSERT INTO item_attempt (batch_id, ordinal, run, attempt, code, error, started_at)
        SELECT $1, ordinal, batch.run, $3, 500, $4, $5 FROM batch, unnest($2::int[]) AS ordinal WHERE batch.id = $1
        """,
        lease["batch_id"],
        ordinals,
        lease["attempt"],
        _WORKER_LOST,
        lease["started_at"],
    )


async def _fail(tx: Transaction, batch_id: UUID, ordinals: list[int], attempt: int) -> list[int]:
    rows = await tx.fetch(
        f"""
        INSERT INTO result (batch_id, ordinal, status, code, attempt, error)
        SELECT $1, ordinal, {ResultStatus.FAILED:d}, 500, $3, $4 FROM unnest($2::int[]) AS ordinal
        ON CONFLICT DO NOTHING RETURNING ordinal
        """,
        batch_id,
        ordinals,
        attempt,
        _WORKER_LOST,
    )
    return [row["ordinal"] for row in rows]


async def _end(tx: Transaction, leases: Collection[Record]) -> None:
    await tx.execute("DELETE FROM lease WHERE id = ANY ($1)", [lease["id"] for lease in leases])


async def disown(tx: Transaction, worker_id: int, known: Collection[int]) -> int:
    """Give back leases this worker has without knowing: a claim or a birth committed and its answer was lost. No attempt is
    used. Waits for births whose commit is still under way (`claims.born`): who gave up waiting for the disk has not ended it."""
    await tx.execute("SELECT FROM worker WHERE id = $1 FOR UPDATE", worker_id)
    unknown = await tx.fetch(_UNKNOWN, worker_id, list(known))
    for lease in unknown:
        ranges = spans.runs(await _missing(tx, lease))
        waiting = [
            spans.Waiting(lease["batch_id"], a, b, lease["attempt"] - 1, lease["losses"]) for a, b in ranges
        ]
        await spans.put_back(tx, waiting)
    await _end(tx, unknown)
    return len(unknown)
