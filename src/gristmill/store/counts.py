"""The counters of a batch: one narrow row, updated once per flush, last in its transaction.

Only results that were really inserted are counted. When the counts reach the total, the batch has ended
(`store/endings.py`), in the same transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, chain
from uuid import UUID

from gristmill.db import Transaction


@dataclass(slots=True)
class Tally:
    """What one transaction adds to the counters of one batch."""

    success: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int = 0
    started_at: datetime | None = None  # of the earliest item among them
    ordinals: list[int] = field(default_factory=list)  # of all of them


def faded(since: str, until: str) -> str:
    """SQL: what is left of a rate after that time. Bounded, because exp() of less than -745 is an error in Postgres."""
    return f"exp(-least(greatest(extract(epoch FROM {until} - {since}), 0), 900)::float8 / 30)"


# Whether a limit of the batch (domain/limits.py) is exceeded, by what it has with the present tally. What was cancelled or
# came too late has not failed. A limit that fails the batch goes before one that pauses it, and either stays exceeded until
# it is judged anew.
_UNRUN = "(c.cancelled + g.cancelled + c.expired + g.expired)"
_FINISHED = f"(c.success + g.success + c.failed + g.failed - {_UNRUN} - c.finished_from)"
_FAILED = f"(c.failed + g.failed - {_UNRUN} - c.failed_from)"
_TOKENS = "(c.prompt_tokens + g.prompt_tokens + c.completion_tokens + g.completion_tokens - c.tokens_from)"
_TOO_MANY = f"{_FINISHED} >= c.failure_minimum AND {_FAILED} > c.failure_ratio * {_FINISHED}"
_USED_UP = f"{_TOKENS} >= c.max_tokens"
_EXCEEDED = f"""
    CASE
        WHEN c.exceeded = 'threshold' AND c.failure_action = 'fail' THEN 'threshold'
        WHEN c.exceeded = 'budget' AND c.budget_action = 'fail' THEN 'budget'
        WHEN c.failure_action = 'fail' AND {_TOO_MANY} THEN 'threshold'
        WHEN c.budget_action = 'fail' AND {_USED_UP} THEN 'budget'
        WHEN c.exceeded IS NOT NULL THEN c.exceeded
        WHEN {_TOO_MANY} THEN 'threshold'
        WHEN {_USED_UP} THEN 'budget'
    END
"""


def adding(at: int, *, once: str = "true") -> str:
    """SQL, of a WITH: `counted`, the rows of the counters with `batch_id` and whether they are `complete` by this. The parameters
    from `at` on are `arguments`. No counter is locked before `once` is known, and nothing is done if that is false."""
    ids, *columns = (f"${number}::{kind}[]" for number, kind in enumerate(_KINDS, at))
    *columns, ordinals = columns
    # `rate` is the exponentially weighted number of items a second with a time constant of 30 s: it fades with the time
    # since the last result, then gets what ended now. Readers divide by 1 - exp(-age / 30) so that a young batch shows right.
    # The row stays locked until the commit: what is written into the log beside it is in the order of the commits.
    # One UPDATE locks its rows in no certain order, so they are locked before.
    return f"""
locked AS (SELECT batch_id FROM batch_count WHERE {once} AND batch_id = ANY ({ids}) ORDER BY batch_id FOR UPDATE),
counted AS (
    UPDATE batch_count c SET
        success = c.success + g.success, failed = c.failed + g.failed,
        cancelled = c.cancelled + g.cancelled, expired = c.expired + g.expired,
        calls = c.calls + g.calls, prompt_tokens = c.prompt_tokens + g.prompt_tokens,
        completion_tokens = c.completion_tokens + g.completion_tokens, cost_microusd = c.cost_microusd + g.cost_microusd,
        started_at = least(c.started_at, coalesce(g.started_at, now())),
        rate = c.rate * {faded("coalesce(c.last_result_at, now())", "clock_timestamp()")} + (g.success + g.failed) / 30.0,
        last_result_at = clock_timestamp(), exceeded = {_EXCEEDED}
    FROM unnest({ids}, {", ".join(columns)}) AS g (
        batch_id, success, failed, cancelled, expired, calls, prompt_tokens, completion_tokens, cost_microusd, started_at,
        first, since
    )
    WHERE c.batch_id = g.batch_id AND c.batch_id = ANY (ARRAY(SELECT batch_id FROM locked))
    RETURNING c.batch_id, c.success, c.failed, c.total, c.success + c.failed AS upto,
        c.success + c.failed = c.total AS complete, c.exceeded, c.failure_action, c.budget_action,
        CASE WHEN g.first IS NULL THEN ({ordinals})[since + 1:since + g.success + g.failed]
            ELSE ARRAY(SELECT generate_series(g.first, g.first + g.success + g.failed - 1)) END AS ordinals
),
logged AS (
    INSERT INTO result_log (batch_id, run, upto, ordinals)
    SELECT batch.id, batch.run, upto, ordinals FROM counted JOIN batch ON batch.id = counted.batch_id
)
"""


# Of the batches, the fields of `Tally`, and its ordinals as `_columns` has them.
_KINDS = ("uuid", *["int"] * 4, *["bigint"] * 4, "timestamptz", *["int"] * 3)
_ADD = f"WITH {adding(1)} SELECT batch_id, complete FROM counted"


async def add(tx: Transaction, tallies: Mapping[UUID, Tally]) -> list[UUID]:
    """Add to the counters; answers with the batches that are complete by this, in ascending order."""
    counted = await tx.fetch(_ADD, *arguments(tallies)) if tallies else []
    return sorted(row["batch_id"] for row in counted if row["complete"])


def arguments(tallies: Mapping[UUID, Tally]) -> list[Sequence[object]]:
    """Of `adding`."""
    ids = sorted(tallies)
    return [ids, *_columns([tallies[batch_id] for batch_id in ids])]


def _columns(tallies: Collection[Tally]) -> list[list[object]]:
    *names, _ = Tally.__slots__
    columns: list[list[object]] = [[getattr(tally, name) for tally in tallies] for name in names]
    firsts: list[object] = [_first(tally.ordinals) for tally in tallies]
    # Lists of several lengths are no array of Postgres: they go as one, and where in it each begins.
    lists = [tally.ordinals if first is None else [] for tally, first in zip(tallies, firsts, strict=True)]
    ends = list[object](accumulate(map(len, lists), initial=0))
    return [*columns, firsts, ends[:-1], list[object](chain.from_iterable(lists))]


def _first(ordinals: Sequence[int]) -> int | None:
    """Of consecutive ones, which says all; the driver takes 0.15 µs for each number of a list."""
    first = ordinals[0] if ordinals else None
    return first if first is not None and ordinals == [*range(first, first + len(ordinals))] else None
