"""Keeping what was said: the turn of a chat is appended in the transaction that records the item's result."""

from collections.abc import Sequence

from gristmill.db import Transaction
from gristmill.store.verdicts import Ended


async def number(tx: Transaction, ended: Sequence[Ended]) -> None:
    """Give each turn its conversation_id, and each new chat its history_id, before the results are written.

    The numbers of results that turn out to be recorded already are lost: gaps are harmless.
    """
    spoken = [e for e in ended if e.turn is not None]
    if not spoken:
        return
    new = [e for e in spoken if e.history_id is None]
    for e, history_id in zip(new, await _take(tx, "chat", "history_id", len(new)), strict=True):
        e.history_id = history_id
    for e, turn_id in zip(spoken, await _take(tx, "chat_turn", "conversation_id", len(spoken)), strict=True):
        e.conversation_id = turn_id


async def _take(tx: Transaction, table: str, column: str, count: int) -> list[int]:
    rows = await tx.fetch(
        "SELECT nextval(pg_get_serial_sequence($1, $2)) AS id FROM generate_series(1, $3)",
        table,
        column,
        count,
    )
    return [row["id"] for row in rows]


async def append(tx: Transaction, inserted: Sequence[Ended]) -> None:
    """Store the turns of items that were really recorded, and the chats they began."""
    spoken = [(e, e.turn) for e in inserted if e.turn is not None]
    if not spoken:
        return
    begun = [(e, turn) for e, turn in spoken if turn.history_id is None]
    await tx.execute(
        """
        INSERT INTO chat (history_id, tenant_id, agent_id, name, external_user_id)
        SELECT g.h, batch.tenant_id, g.a, g.n, g.u
        FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::text[]) AS g (h, b, a, n, u)
        JOIN batch ON batch.id = g.b
        """,
        [e.history_id for e, _ in begun],
        [e.lease.batch_id for e, _ in begun],
        [turn.agent_id for _, turn in begun],
        [turn.name for _, turn in begun],
        [turn.external_user_id for _, turn in begun],
    )
    await tx.executemany(
        """
        INSERT INTO chat_turn (history_id, conversation_id, batch_id, ordinal, user_message, reply, file_ids)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        [
            (
                e.history_id,
                e.conversation_id,
                e.lease.batch_id,
                e.ordinal,
                turn.user_message,
                turn.reply,
                list(turn.file_ids),
            )
            for e, turn in spoken
        ],
    )
