"""What each worker has of an endpoint's limit: calls in flight, and slices of the requests and tokens of a minute.

All of it is given out under the lock of the limit's row, by the clock of Postgres. A share counts as long as its worker is alive:
one that is declared dead has lost it in that moment, whoever looks. A worker lowers what it allows itself first and asks
then, so that the sum over all workers is never more than the limit, wherever one of them breaks off.
"""

from dataclasses import dataclass

from asyncpg import Record

from gristmill.db import Transaction
from gristmill.domain import shares
from gristmill.store.service_limits import Limit


@dataclass(frozen=True, slots=True)
class Demand:
    """`in_use`: calls that go on now, and more of which do not begin before the answer; `waiting`: calls that wait; `wanted`:
    how many it could use.
    `…_back`: taken before and unused. `tokens_least`: of the first call that waits; `overdrawn`: used beyond what was taken."""

    in_use: int
    waiting: int
    wanted: int
    requests: int = 0
    requests_back: float = 0.0
    tokens: float = 0.0
    tokens_back: float = 0.0
    tokens_least: float = 0.0
    overdrawn: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """`share` None: calls in flight are not limited."""

    share: int | None
    requests: float
    tokens: float


# `since` is as of the lock, or earlier; it is added to `refilled_at`, so that no time counts twice.
_LOCK = """
SELECT id, max_in_flight, requests_per_minute, tokens_per_minute, requests_left, tokens_left,
    greatest(0, extract(epoch FROM clock_timestamp() - refilled_at))::float8 AS since,
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
    """None: there is no such limit any more, or this worker was declared dead."""
    row = await tx.fetchrow(_LOCK, limit.id, worker_id)
    if row is None or not row["alive"]:
        return None
    share, granted = await _share(tx, row, worker_id, demand)
    requests, requests_left = _requests(row, demand)
    tokens, tokens_left = _tokens(row, demand)
    left = (requests_left, tokens_left, row["since"])
    mine = (granted, demand.in_use, demand.waiting, demand.wanted)
    await tx.execute(_NOTE, row["id"], worker_id, *mine, *left)
    return Grant(share, requests, tokens)


async def _share(tx: Transaction, row: Record, worker_id: int, demand: Demand) -> tuple[int | None, int]:
    if row["max_in_flight"] is None:
        return None, 0
    others = await tx.fetch(_OTHERS, row["id"], worker_id)
    wanted = {one["worker_id"]: one["wanted"] for one in others} | {worker_id: demand.wanted}
    to_others = sum(one["granted"] for one in others)
    return shares.share(row["max_in_flight"], worker_id, demand.in_use, wanted, to_others)


def _requests(row: Record, demand: Demand) -> tuple[float, float]:
    if row["requests_per_minute"] is None:
        return 0.0, 0.0
    return shares.pour(
        row["requests_left"],
        row["requests_per_minute"],
        row["since"],
        back=demand.requests_back,
        asked=demand.requests,
        least=1,
    )


def _tokens(row: Record, demand: Demand) -> tuple[float, float]:
    if row["tokens_per_minute"] is None:
        return 0.0, 0.0
    return shares.pour(
        row["tokens_left"],
        row["tokens_per_minute"],
        row["since"],
        back=demand.tokens_back - demand.overdrawn,
        asked=demand.tokens,
        least=demand.tokens_least,
    )


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
