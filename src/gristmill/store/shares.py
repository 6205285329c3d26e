"""What each worker has of an endpoint's limit: calls in flight, and slices of the requests and tokens of a minute.

All of it is given out under the lock of the limit's row, by the clock of Postgres. A share counts as long as its worker is alive:
one that is declared dead has lost it in that moment, whoever looks. A worker lowers what it allows itself first and asks
then, so that the sum over all workers is never more than the limit, wherever one of them breaks off.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain import shares
from gristmill.store import claims
from gristmill.store.service_limits import Limit


@dataclass(frozen=True, slots=True)
class Demand:
    """`in_use`: calls that go on now, and more of which do not begin before the answer; `waiting`: calls that wait; `wanted`:
    how many it could use; `soon`: how many begin within a slice, as others end.
    `…_back`: taken before and unused. `tokens_least`: of the first call that waits, for so long as `waited_seconds`;
    `overdrawn`: used beyond what was taken."""

    in_use: int
    waiting: int
    wanted: int
    soon: float = 0.0
    requests: int = 0
    requests_back: float = 0.0
    tokens: float = 0.0
    tokens_back: float = 0.0
    tokens_least: float = 0.0
    waited_seconds: float = 0.0
    overdrawn: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """`share` None: calls in flight are not limited. `capped`: with more calls at once, more of the rest would have been
    granted."""

    share: int | None
    requests: float
    tokens: float
    capped: bool = False


@dataclass(frozen=True, slots=True)
class _Poured:
    requests: float
    requests_left: float
    tokens: float
    tokens_left: float


# Whoever holds the row longer is stopped, or cut off: the other limits are not to wait for it.
LOCK_SECONDS = 0.3
_WAIT_SHORTLY = f"SET LOCAL lock_timeout = {round(LOCK_SECONDS * 1000)}"
# `since` is as of the lock, or earlier; it is added to `refilled_at`, so that no time counts twice.
_LOCK = f"""
SELECT id, max_in_flight, requests_per_minute, tokens_per_minute, requests_left, tokens_left,
    greatest(0, extract(epoch FROM clock_timestamp() - refilled_at))::float8 AS since,
    floor(extract(epoch FROM clock_timestamp()) / {shares.TURN_SECONDS})::bigint AS turn,
    EXISTS (SELECT FROM worker WHERE worker.id = $2 AND NOT dead) AS alive
FROM service_limit WHERE id = $1 FOR UPDATE
"""
# A second statement, so that it sees what the holder before has committed.
_OTHERS = """
SELECT s.worker_id, s.granted, s.wanted FROM upstream_share s JOIN worker w ON w.id = s.worker_id
WHERE s.limit_id = $1 AND s.worker_id <> $2 AND NOT w.dead
"""
_NOTE = """
WITH share AS (
    INSERT INTO upstream_share (limit_id, worker_id, granted, in_use, waiting, wanted) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (limit_id, worker_id) DO UPDATE SET
        granted = excluded.granted, in_use = excluded.in_use, waiting = excluded.waiting, wanted = excluded.wanted
)
UPDATE service_limit SET requests_left = $7, tokens_left = $8, refilled_at = refilled_at + make_interval(secs => $9)
WHERE id = $1
"""


async def take(tx: Transaction, limit: Limit, worker_id: int, demand: Demand) -> Grant | None:
    """None: there is no such limit any more, or this worker was declared dead. Raises LockNotAvailableError where another
    holds the limit for too long."""
    await tx.execute(_WAIT_SHORTLY)
    row = await tx.fetchrow(_LOCK, limit.id, worker_id)
    if row is None or not row["alive"]:
        return None
    share, granted = await _share(tx, row, worker_id, demand)
    startable = demand.requests if share is None else int(max(0, share - demand.in_use) + demand.soon)
    poured = _pour_both(row, demand, min(demand.requests, startable))
    left = (poured.requests_left, poured.tokens_left, row["since"])
    mine = (granted, demand.in_use, demand.waiting, demand.wanted)
    await tx.execute(_NOTE, row["id"], worker_id, *mine, *left)
    return Grant(share, poured.requests, poured.tokens, startable < demand.requests)


async def _share(tx: Transaction, row: Record, worker_id: int, demand: Demand) -> tuple[int | None, int]:
    if row["max_in_flight"] is None:
        return None, demand.in_use  # they count if that is limited from now on
    others = await tx.fetch(_OTHERS, row["id"], worker_id)
    wanted = {one["worker_id"]: one["wanted"] for one in others} | {worker_id: demand.wanted}
    to_others = sum(one["granted"] for one in others)
    return shares.share(row["max_in_flight"], worker_id, demand.in_use, wanted, to_others, row["turn"])


def _pour_both(row: Record, demand: Demand, calls: int) -> _Poured:
    """For so many calls at most: what could not be used now would be used all at once later, by all workers that have some.
    So nobody gets requests without tokens, or tokens without requests."""
    requests, requests_left = _requests(row, demand, calls)
    waits_for_requests = row["requests_per_minute"] is not None and requests < 1
    part = calls / demand.requests if demand.requests else 1.0
    if demand.waiting and (waits_for_requests or not calls):
        part = 0.0
    tokens, tokens_left = _tokens(row, demand, part)
    if demand.tokens_least > 0 and not tokens and row["tokens_per_minute"] is not None:
        requests, requests_left = _requests(row, demand, 0)
    return _Poured(requests, requests_left, tokens, tokens_left)


def _requests(row: Record, demand: Demand, calls: int) -> tuple[float, float]:
    if row["requests_per_minute"] is None:
        return 0.0, 0.0
    return shares.pour(
        row["requests_left"],
        row["requests_per_minute"],
        row["since"],
        back=demand.requests_back,
        asked=calls,
        least=1,
    )


def _tokens(row: Record, demand: Demand, part: float) -> tuple[float, float]:
    if row["tokens_per_minute"] is None:
        return 0.0, 0.0
    return shares.pour(
        row["tokens_left"],
        row["tokens_per_minute"],
        row["since"],
        back=demand.tokens_back - demand.overdrawn,
        asked=max(demand.tokens * part, demand.tokens_least) if part else 0.0,
        least=demand.tokens_least,
        waited=demand.waited_seconds,
    )


async def starting(tx: Transaction, batch_ids: Collection[UUID]) -> set[UUID]:
    """Those of the batches that may start something, or will again when their circuit closes."""
    rows = await tx.fetch(
        "SELECT batch_id FROM batch_schedule WHERE batch_id = ANY ($1) AND NOT paused AND deadline_at > now()",
        list(batch_ids),
    )
    return {row["batch_id"] for row in rows}


_KEEP = f"""
UPDATE lease SET deadline_at = now() + make_interval(secs => mine.seconds)
FROM (
    SELECT l.id, 2 * b.item_timeout_seconds + {claims.LEASE_SLACK_SECONDS} AS seconds
    FROM unnest($2::uuid[], $3::int[]) AS w (batch_id, ordinal)
    JOIN lease l ON l.batch_id = w.batch_id AND w.ordinal BETWEEN l.first AND l.last
    JOIN batch b ON b.id = l.batch_id
    WHERE l.worker_id = $1
        AND l.deadline_at < now() + make_interval(secs => b.item_timeout_seconds + {claims.LEASE_SLACK_SECONDS})
    FOR UPDATE OF l SKIP LOCKED
) mine WHERE lease.id = mine.id
"""


async def keep_leases(tx: Transaction, worker_id: int, items: Collection[tuple[UUID, int]]) -> None:
    """Of items whose time stands still because a call of theirs waits: this worker is not stuck."""
    await tx.execute(_KEEP, worker_id, [one for one, _ in items], [ordinal for _, ordinal in items])


async def give_back(tx: Transaction, worker_id: int) -> None:
    """All that this worker has: nothing it has called goes on."""
    await tx.execute("DELETE FROM upstream_share WHERE worker_id = $1", worker_id)


async def forget(tx: Transaction) -> None:
    """Remove those of dead workers, which count no more."""
    await tx.execute(
        """
        DELETE FROM upstream_share s
        WHERE NOT EXISTS (SELECT FROM worker w WHERE w.id = s.worker_id AND NOT w.dead)
        """
    )
