"""Spans: runs of items of one batch that wait, and the ways back from a lease to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from gristmill.db import Transaction
from gristmill.store.columns import columns

# An item that was there when so many workers died is suspected, and runs alone (worker/isolation.py). Sooner if it may not
# be lost so often (store/leases.py). Two are chance: of what one of 50 kills in 100,000 items cuts off, another cuts off 5 %
# again, and these would wait for each other (promise 2 of docs/reliability.md).
SUSPECT_LOSSES = 3
# A delay that is long over: spans are taken in the order of their times, and what a lost worker had begun must not wait
# behind all of a large batch that has not begun yet.
FIRST_SECONDS = -1e9


@dataclass(frozen=True, slots=True)
class Waiting:
    """Items of one lease that go back to wait: consecutive ordinals with the same history."""

    batch_id: UUID
    first: int
    last: int
    attempts: int  # used up
    losses: int
    delay_seconds: float = 0.0
    upstream_busy: bool = False  # why it waits: 429, no capacity, upstream down; else for its next attempt


def joined(waiting: Iterable[Waiting]) -> list[Waiting]:
    """What waits for the other side becomes one range again where neighbours wait alike: an outage leaves a batch as it was.
    Those that were lost more than once stay apart (store/leases.py)."""
    ranges: list[Waiting] = []
    for one in sorted(waiting, key=_place):
        last = ranges[-1] if ranges else one
        if one.upstream_busy and one.losses < 2 and one == replace(last, first=last.last + 1, last=one.last):
            ranges[-1] = replace(last, last=one.last)
        else:
            ranges.append(one)
    return ranges


async def put_back(tx: Transaction, waiting: Sequence[Waiting]) -> None:
    """The items wait again, to be claimed after their delay."""
    if not waiting:
        return
    rows = [
        (w.batch_id, w.first, w.last, w.attempts, w.losses, w.delay_seconds, w.upstream_busy)
        for w in sorted(waiting, key=_place)
    ]
    await tx.execute(
        """
        INSERT INTO span (batch_id, first, last, attempts, losses, available_at, waiting)
        SELECT b, f, l, a, s, now() + make_interval(secs => d), w
        FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::float8[], $7::bool[])
            AS given (b, f, l, a, s, d, w)
        """,
        *columns(rows, 7),
    )


def _place(waiting: Waiting) -> tuple[UUID, int]:
    return waiting.batch_id, waiting.first


def runs(ordinals: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ordinals as ranges of consecutive ones, first and last inclusive."""
    ranges: list[tuple[int, int]] = []
    for ordinal in ordinals:
        if ranges and ranges[-1][1] == ordinal - 1:
            ranges[-1] = (ranges[-1][0], ordinal)
        else:
            ranges.append((ordinal, ordinal))
    return ranges
