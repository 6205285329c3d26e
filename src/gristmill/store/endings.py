"""How a batch ends: its last result, its end and its announcement are one transaction.

Two ways lead here: the counters reach the total (`finish`), and what is left is ended without a run, because the batch
was cancelled, its deadline passed (`expire`) or a limit of it was exceeded (`store/limits.enforce`), then `sweep`.
"""

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain.states import Ending, ResultStatus
from gristmill.store import counts, deliveries, histories, limits, schedules
from gristmill.store.counts import Tally

CODES = {Ending.CANCEL: 499, Ending.DEADLINE: 408, Ending.THRESHOLD: 500, Ending.BUDGET: 500}

# A batch of which too many failed has failed, also if it was the last one that made them too many.
_WHY = (
    "coalesce(ending, CASE WHEN c.exceeded = 'threshold' AND c.failure_action = 'fail' THEN 'threshold' END)"
)
_ERROR = f"""
CASE {_WHY}
    WHEN 'deadline' THEN
        '{{"type":"deadline_exceeded","message":"The batch''s deadline passed before all of its requests had run."}}'
    WHEN 'threshold' THEN
        '{{"type":"threshold_exceeded","message":"More of the batch''s requests failed than its failure_threshold allows."}}'
    WHEN 'budget' THEN
        '{{"type":"budget_exceeded","message":"The batch used up its budget before all of its requests had run."}}'
END
"""


# The schedules first, as pause and cancel do: the count of them is a condition for all, so that they are locked before any batch
# is looked at. What a pause or cancel that was waited for has made of a batch is read again as its row is locked.
# By arrays, not by joins: see `claims._SET_REMAINING`.
def finishing(ids: str, counts: str) -> str:
    """SQL, of a WITH: `ends`, with what `tell` needs of the batches that end. `ids`: an array of those whose counts are complete;
    `counts`: these, in columns as `batch_count` has them."""
    return f"""
scheduled AS (SELECT batch_id FROM batch_schedule WHERE batch_id = ANY ({ids}) ORDER BY batch_id FOR UPDATE),
unscheduled AS (
    DELETE FROM batch_schedule WHERE batch_id = ANY ({ids}) AND batch_id = ANY (ARRAY(SELECT batch_id FROM scheduled))
),
finished AS (
    UPDATE batch SET
        status = CASE WHEN {_WHY} IS NULL THEN 'completed' WHEN ending = 'cancel' THEN 'cancelled' ELSE 'failed' END,
        completed_at = CASE WHEN ending IS DISTINCT FROM 'cancel' THEN clock_timestamp() END,
        cancelled_at = CASE WHEN ending = 'cancel' THEN clock_timestamp() END,
        expires_at = clock_timestamp() + make_interval(days => retention_days),
        ending = {_WHY},
        paused_by = NULL,
        upstream_key = NULL,
        error = {_ERROR}
    FROM {counts} c
    WHERE batch.id = ANY ({ids}) AND c.batch_id = batch.id AND status IN ('in_progress', 'paused', 'cancelling')
        AND (SELECT count(*) FROM scheduled) >= 0
    RETURNING batch.id, tenant_id, status, run, c.total, success, failed, coalesce(completed_at, cancelled_at) AS at,
        webhook_url, webhook_events, webhook_secret, webhooks
),
cleared AS (
    DELETE FROM span WHERE batch_id = ANY ({ids}) AND batch_id = ANY (ARRAY(SELECT id FROM finished))
    RETURNING batch_id, first, last
),
ends AS (
    SELECT finished.*, ARRAY(SELECT first FROM cleared WHERE batch_id = id ORDER BY first) AS firsts,
        ARRAY(SELECT last FROM cleared WHERE batch_id = id ORDER BY first) AS lasts
    FROM finished
)
"""


_FINISH = f"""
WITH judged AS (UPDATE batch_count SET exceeded = NULL WHERE batch_id = ANY ($1) AND exceeded IS NOT NULL),
{finishing("$1", "batch_count")}
SELECT * FROM ends
"""


async def finish(tx: Transaction, batch_ids: Sequence[UUID]) -> int:
    """End batches whose counts are complete, and write what announces it; answers with how many. Once each: a second call
    changes nothing.

    Few statements for all of them: a flush may end several, and each statement costs it a round trip.
    """
    if not batch_ids:
        return 0
    return await tell(tx, await tx.fetch(_FINISH, batch_ids))


async def tell(tx: Transaction, ended: Sequence[Record]) -> int:
    """What is left to do of batches that have ended in this transaction (`finishing`); answers with how many they are."""
    if ended:
        # What still waited are items that a lost worker did record after all.
        left = [(row["id"], *span) for row in ended for span in zip(row["firsts"], row["lasts"], strict=True)]
        await histories.leave(tx, await histories.held_by(tx, left))
        await _announce(tx, ended)
    return len(ended)


async def _announce(tx: Transaction, ended: Sequence[Record]) -> None:
    await deliveries.queue(
        tx,
        [
            deliveries.Happened(
                batch_id=row["id"],
                tenant_id=row["tenant_id"],
                event=row["status"],
                run=row["run"],
                status=row["status"],
                total=row["total"],
                success=row["success"],
                failed=row["failed"],
                at=row["at"],
                webhook_url=row["webhook_url"],
                webhook_events=row["webhook_events"],
                webhook_secret=row["webhook_secret"],
                webhooks=row["webhooks"],
            )
            for row in ended
        ],
    )


_REFUSE = """
WITH ended AS (
    UPDATE batch SET
        status = CASE WHEN ending = 'cancel' THEN 'cancelled' ELSE 'failed' END,
        completed_at = CASE WHEN ending IS DISTINCT FROM 'cancel' THEN clock_timestamp() END,
        cancelled_at = CASE WHEN ending = 'cancel' THEN clock_timestamp() END,
        expires_at = clock_timestamp() + make_interval(days => retention_days),
        upstream_key = NULL,
        error = $2
    WHERE id = $1 AND status IN ('in_progress', 'paused', 'cancelling')
    RETURNING *
)
UPDATE batch_count c SET failed = c.total FROM ended WHERE c.batch_id = ended.id
RETURNING ended.id, tenant_id, status, run, c.total, success, failed, coalesce(completed_at, cancelled_at) AS at,
    webhook_url, webhook_events, webhook_secret, webhooks
"""


async def refuse(tx: Transaction, batch_id: UUID, error: str) -> None:
    """End a batch that has no items, because they could not be read. All of it counts as failed. `error` is JSON."""
    row = await tx.fetchrow(_REFUSE, batch_id, error)
    if row is not None:
        await _announce(tx, [row])


_OVERDUE = """
SELECT s.batch_id FROM batch_schedule s
WHERE s.deadline_at <= now() AND (SELECT true FROM span w WHERE w.batch_id = s.batch_id LIMIT 1)
ORDER BY s.deadline_at LIMIT 20
"""


async def expire(tx: Transaction) -> int:
    """Stop batches whose deadline has passed while items still wait; they will end as failed. Answers with how many.

    A batch whose last items are in flight at its deadline is left to complete.
    """
    overdue = [row["batch_id"] for row in await tx.fetch(f"{_OVERDUE} FOR UPDATE OF s SKIP LOCKED")]
    if not overdue:
        return 0
    for batch_id in overdue:
        await schedules.remove(tx, batch_id)
    await tx.execute(
        """
        UPDATE batch SET ending = 'deadline', status = 'in_progress', paused_by = NULL
        WHERE id = ANY ($1) AND status IN ('in_progress', 'paused') AND ending IS NULL
        """,
        overdue,
    )
    return len(overdue)


# Literals as in batch_ending_idx: only then can a generic plan use it. Each step in the order of an index: else, where next to
# nothing is ending or one batch has nearly all spans, it looks cheaper to read a table whole until something is found.
def _waiting(lock: str = "") -> str:
    return f"""
    SELECT w.id, w.batch_id, w.first, w.last, w.attempts, b.ending
    FROM batch b CROSS JOIN LATERAL (SELECT * FROM span WHERE span.batch_id = b.id ORDER BY last LIMIT 500 {lock}) w
    WHERE b.ending IS NOT NULL AND b.status IN ('in_progress', 'cancelling')
    ORDER BY b.id LIMIT 500
    """


_END = f"""
WITH ended AS (
    INSERT INTO result (batch_id, ordinal, status, code, attempt, error)
    SELECT b, ordinal, {ResultStatus.FAILED:d}, c, a, e
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::text[]) AS given (b, f, l, c, a, e)
    CROSS JOIN LATERAL generate_series(f, l) AS ordinal ORDER BY b, ordinal
    ON CONFLICT DO NOTHING RETURNING batch_id, ordinal, code
)
SELECT batch_id, array_agg(ordinal) AS ordinals, count(*)::int AS failed, count(*) FILTER (WHERE code = 499)::int AS cancelled,
    count(*) FILTER (WHERE code = 408)::int AS expired
FROM ended GROUP BY batch_id
"""
# Each as it is, so that it goes by the same index: as a mere condition it would read a table whole that looks small.
_KINDS = (_OVERDUE, limits.BEYOND, _waiting())
_STOPS = f"SELECT {' OR '.join(f'EXISTS (SELECT FROM ({kind}) one)' for kind in _KINDS)}"


async def some_stop(connection: Transaction) -> bool:
    """Whether `expire`, `limits.enforce` or `sweep` would find something. Mostly none does, and each would take a transaction."""
    found: bool = await connection.fetchval(_STOPS)
    return found


# Codes that do not say all: the rest is kept in a word, and told at length when it is read (store/results.py).
_ERRORS = {
    Ending.THRESHOLD: '{"type":"threshold_exceeded"}',
    Ending.BUDGET: '{"type":"budget_exceeded"}',
}


async def sweep(tx: Transaction, *, most: int = 5000) -> int:
    """End up to `most` waiting items of batches that start nothing any more; answers with how many it looked at."""
    ranges = _front(await tx.fetch(_waiting("FOR UPDATE SKIP LOCKED")), most)
    if not ranges:
        return 0
    batch_ids, firsts, lasts, endings, attempts = (
        list(column) for column in zip(*ranges.values(), strict=True)
    )
    codes, errors = [CODES[ending] for ending in endings], [_ERRORS.get(ending) for ending in endings]
    rows = await tx.fetch(_END, batch_ids, firsts, lasts, codes, attempts, errors)
    await _shorten(tx, list(ranges), lasts)
    places = list(zip(batch_ids, firsts, lasts, strict=True))
    await histories.leave(tx, await histories.held_by(tx, places))
    await finish(tx, await counts.add(tx, {row["batch_id"]: _tally(row) for row in rows}))
    return sum(last - first + 1 for first, last in zip(firsts, lasts, strict=True))


def _front(spans: Sequence[Record], most: int) -> dict[int, tuple[UUID, int, int, Ending, int]]:
    """The first `most` items that wait, by span: batch, first and last ordinal, why it ends, attempts used up."""
    ranges = {}
    for span in sorted(spans, key=lambda row: (row["batch_id"], row["first"])):
        if most <= 0:
            break
        first, last = span["first"], min(span["last"], span["first"] + most - 1)
        ranges[span["id"]] = (span["batch_id"], first, last, Ending(span["ending"]), span["attempts"])
        most -= last - first + 1
    return ranges


async def _shorten(tx: Transaction, ids: Sequence[int], lasts: Sequence[int]) -> None:
    """Take off the spans what was ended of them."""
    gone = "DELETE FROM span WHERE id = ANY ($1::bigint[]) AND last = ($2::int[])[array_position($1::bigint[], id)]"
    # All but the last of them are ended whole.
    if int((await tx.execute(gone, ids, lasts)).split()[-1]) < len(ids):
        await tx.execute("UPDATE span SET first = $2 WHERE id = $1", ids[-1], lasts[-1] + 1)


def _tally(row: Record) -> Tally:
    return Tally(
        failed=row["failed"], cancelled=row["cancelled"], expired=row["expired"], ordinals=row["ordinals"]
    )


# Of batches that ended, or are gone, without them.
_LEFTOVERS = """
DELETE FROM {table} WHERE id IN (
    SELECT l.id FROM {table} l LEFT JOIN batch b ON b.id = l.batch_id
    WHERE b.id IS NULL OR b.status IN ('completed', 'failed', 'cancelled') FOR UPDATE OF l SKIP LOCKED
)
"""


async def clear_leftovers(tx: Transaction) -> int:
    """Remove the leases of workers whose items others recorded, and spans of what those gave back. Answers with how many."""
    done = [await tx.execute(_LEFTOVERS.format(table=table)) for table in ("lease", "span")]
    return sum(int(one.split()[-1]) for one in done)
