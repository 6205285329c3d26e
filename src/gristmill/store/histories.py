"""Exclusive chats: of all items that continue one chat, at most one runs, in input order.

The first to be claimed takes the chat's row in `history_lock` and keeps it until it has ended, through retries and
crashes: the row names the item, not the worker. Others are parked: a span of one item with available_at = infinity.
Whoever ends the item that has the chat hands it on to the next parked one, in the same transaction: an item that was not
parked cannot come between. Items of paused batches are passed over, and look again when their batch is resumed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Transaction


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """An item and the chat it continues."""

    history_id: int
    batch_id: UUID
    ordinal: int


_ENTER = """
INSERT INTO history_lock (history_id, batch_id, ordinal)
SELECT h, b, o FROM unnest($1::bigint[], $2::uuid[], $3::int[]) AS given (h, b, o) ORDER BY h
ON CONFLICT (history_id) DO NOTHING
"""
# Shares the rows of those who have the chats: they cannot leave between our look and our parking, which would leave a
# parked item that nobody lets go.
_HOLDERS = "SELECT history_id, batch_id, ordinal FROM history_lock WHERE history_id = ANY ($1) ORDER BY history_id FOR SHARE"


async def enter(tx: Transaction, wanted: Collection[Seat]) -> set[Seat]:
    """Those of the wanted that have their chat from now on. Of several for one chat the first in order gets it."""
    first: dict[int, Seat] = {}
    for seat in sorted(wanted):
        first.setdefault(seat.history_id, seat)
    while True:
        await tx.execute(_ENTER, *_columns(first.values()))
        holders = {Seat(*row) for row in await tx.fetch(_HOLDERS, list(first))}
        if len(holders) == len(first):  # else a holder left between the two statements
            return holders & set(wanted)


async def park(tx: Transaction, waiting: Collection[tuple[Seat, int, int]]) -> None:
    """Let items wait for their chat: (seat, attempts used up, losses)."""
    if not waiting:
        return
    seats = [seat for seat, _, _ in waiting]
    await tx.execute(
        """
        INSERT INTO span (history_id, batch_id, first, last, attempts, losses, available_at)
        SELECT h, b, o, o, a, l, 'infinity'
        FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::int[]) AS given (h, b, o, a, l)
        """,
        *_columns(seats),
        [attempts for _, attempts, _ in waiting],
        [losses for _, _, losses in waiting],
    )


# Only what has a result gives its chat up: a worker of an earlier run may name an item that has the chat in this one.
_LEAVE = """
SELECT k.history_id FROM history_lock k
JOIN unnest($1::bigint[], $2::uuid[], $3::int[]) AS given (h, b, o) ON k.history_id = h AND k.batch_id = b AND k.ordinal = o
WHERE EXISTS (SELECT FROM result r WHERE r.batch_id = b AND r.ordinal = o)
ORDER BY k.history_id FOR UPDATE OF k
"""
# A statement of its own, so that it sees what those parked that the one before waited for. A span that is locked is being
# ended by the sweeper.
_HAND_ON = """
WITH next AS (
    SELECT n.* FROM unnest($1::bigint[]) AS freed (history_id) CROSS JOIN LATERAL (
        SELECT s.id, s.history_id, s.batch_id, s.first
        FROM span s JOIN batch_schedule b ON b.batch_id = s.batch_id AND NOT b.paused
        WHERE s.history_id = freed.history_id AND s.available_at = 'infinity'
        ORDER BY s.batch_id, s.first LIMIT 1 FOR UPDATE OF s SKIP LOCKED
    ) n
),
woken AS (UPDATE span SET available_at = now() FROM next WHERE span.id = next.id),
handed AS (
    UPDATE history_lock k SET batch_id = next.batch_id, ordinal = next.first FROM next WHERE k.history_id = next.history_id
)
DELETE FROM history_lock k
WHERE k.history_id = ANY ($1) AND NOT EXISTS (SELECT FROM next WHERE next.history_id = k.history_id)
"""


async def leave(tx: Transaction, ended: Collection[Seat]) -> None:
    """The items have ended: hand their chats on to those that wait for them."""
    if not ended:
        return
    freed = [row["history_id"] for row in await tx.fetch(_LEAVE, *_columns(ended))]
    if freed:
        await tx.execute(_HAND_ON, freed)


async def held_by(tx: Transaction, ranges: Sequence[tuple[UUID, int, int]]) -> list[Seat]:
    """The chats that items of these ranges have: (batch, first ordinal, last ordinal).

    By way of the items, range by range and lock by lock (OFFSET keeps it so): the table of locks has no index for it, and may
    be as long as the list of those who wait.
    """
    if not ranges:
        return []
    rows = await tx.fetch(
        """
        SELECT k.history_id, k.batch_id, k.ordinal FROM unnest($1::uuid[], $2::int[], $3::int[]) AS given (b, f, l)
        CROSS JOIN LATERAL (
            SELECT history_id FROM item
            WHERE batch_id = b AND ordinal BETWEEN f AND l AND history_id IS NOT NULL ORDER BY ordinal OFFSET 0
        ) i
        CROSS JOIN LATERAL (
            SELECT * FROM history_lock WHERE history_id = i.history_id AND batch_id = b AND ordinal BETWEEN f AND l OFFSET 0
        ) k
        """,
        *(list(column) for column in zip(*ranges, strict=True)),
    )
    return [Seat(*row) for row in rows]


# The first parked item of each chat. Locked before the chats are entered: else the sweeper could end an item that is
# just getting its chat.
_PARKED = """
SELECT s.history_id, s.batch_id, s.first FROM span s WHERE s.available_at = 'infinity' AND s.id IN (
    SELECT DISTINCT ON (w.history_id) w.id FROM span w JOIN batch_schedule b ON b.batch_id = w.batch_id AND NOT b.paused
    WHERE w.history_id IS NOT NULL AND w.available_at = 'infinity' AND {condition}
    ORDER BY w.history_id, w.batch_id, w.first
) FOR UPDATE OF s SKIP LOCKED
"""
_PARKED_IN_BATCH = _PARKED.format(condition="w.batch_id = $1")
_STRANDED = _PARKED.format(
    condition="NOT EXISTS (SELECT FROM history_lock k WHERE k.history_id = w.history_id)"
)
_WAKE = """
UPDATE span SET available_at = now() FROM unnest($1::bigint[], $2::uuid[], $3::int[]) AS given (h, b, o)
WHERE span.history_id = h AND span.batch_id = b AND span.first = o AND span.available_at = 'infinity'
"""


async def let_go(tx: Transaction, batch_id: UUID) -> None:
    """The batch is resumed: its parked items take the chats that were given up while it was passed over. Chats that are
    held are asked for, too, as their holder may be giving them up right now."""
    await _wake(tx, [Seat(*row) for row in await tx.fetch(_PARKED_IN_BATCH, batch_id)])


async def let_stranded_go(tx: Transaction) -> int:
    """Free parked items whose chat nobody has. There should be none: a safety net, counted by the sweeper."""
    return await _wake(tx, [Seat(*row) for row in await tx.fetch(_STRANDED)])


async def _wake(tx: Transaction, parked: Collection[Seat]) -> int:
    entered = await enter(tx, parked)
    if entered:
        await tx.execute(_WAKE, *_columns(entered))
    return len(entered)


def _columns(seats: Collection[Seat]) -> tuple[list[int], list[UUID], list[int]]:
    return [s.history_id for s in seats], [s.batch_id for s in seats], [s.ordinal for s in seats]
