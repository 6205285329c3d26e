"""Exclusive chats: of all items that continue one chat, at most one runs, in input order.

The first to be claimed takes the chat's row in `history_lock` and keeps it until it has ended, through retries and
crashes: the row names the item, not the worker. Others are parked: a span of one item with available_at = infinity.
Whoever ends the item that has the chat lets the next parked one go, in the same transaction.
"""

from collections.abc import Collection
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


_LEAVE = """
SELECT k.history_id FROM history_lock k
JOIN unnest($1::bigint[], $2::uuid[], $3::int[]) AS given (h, b, o) ON k.history_id = h AND k.batch_id = b AND k.ordinal = o
ORDER BY k.history_id FOR UPDATE OF k
"""
# A statement after the DELETE, so that it sees what those parked that we waited for.
_LET_GO = """
UPDATE span SET available_at = now() WHERE id IN (
    SELECT DISTINCT ON (history_id) id FROM span
    WHERE history_id = ANY ($1) AND available_at = 'infinity' ORDER BY history_id, batch_id, first
)
"""


async def leave(tx: Transaction, ended: Collection[Seat]) -> None:
    """The items have ended: give their chats up, and let the next of each go."""
    if not ended:
        return
    freed = [row["history_id"] for row in await tx.fetch(_LEAVE, *_columns(ended))]
    if freed:
        await tx.execute("DELETE FROM history_lock WHERE history_id = ANY ($1)", freed)
        await tx.execute(_LET_GO, freed)


async def held_by(tx: Transaction, batch_id: UUID, first: int, last: int) -> list[Seat]:
    """The chats that items of this range have."""
    rows = await tx.fetch(
        "SELECT history_id, batch_id, ordinal FROM history_lock WHERE batch_id = $1 AND ordinal BETWEEN $2 AND $3",
        batch_id,
        first,
        last,
    )
    return [Seat(*row) for row in rows]


async def let_stranded_go(tx: Transaction) -> int:
    """Free parked items whose chat nobody has. There should be none: a safety net, counted by the sweeper."""
    done: str = await tx.execute(
        """
        UPDATE span SET available_at = now() WHERE id IN (
            SELECT DISTINCT ON (s.history_id) s.id FROM span s
            WHERE s.history_id IS NOT NULL AND s.available_at = 'infinity'
                AND NOT EXISTS (SELECT FROM history_lock k WHERE k.history_id = s.history_id)
            ORDER BY s.history_id, s.batch_id, s.first
        )
        """
    )
    return int(done.split()[-1])


def _columns(seats: Collection[Seat]) -> tuple[list[int], list[UUID], list[int]]:
    return [s.history_id for s in seats], [s.batch_id for s in seats], [s.ordinal for s in seats]
