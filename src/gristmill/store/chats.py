"""Chats and their turns. Turns are written by the transaction that records an item's result."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gristmill.domain.errors import NotFound
from gristmill.domain.outcomes import Turn
from gristmill.tables import chat, chat_turn


@dataclass(frozen=True, slots=True)
class Chat:
    history_id: int
    agent_id: UUID | None
    name: str | None
    external_user_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredTurn:
    conversation_id: int
    batch_id: UUID
    user_message: str
    reply: str
    file_ids: tuple[UUID, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ChatFilters:
    name: str | None = None
    external_user_id: str | None = None
    agent_id: UUID | None = None


_COLUMNS = (chat.c.history_id, chat.c.agent_id, chat.c.name, chat.c.external_user_id, chat.c.created_at)


async def get(connection: AsyncConnection, tenant_id: UUID, history_id: int) -> Chat:
    """Raises NotFound."""
    rows = await connection.execute(
        select(*_COLUMNS).where(chat.c.tenant_id == tenant_id, chat.c.history_id == history_id)
    )
    row = rows.one_or_none()
    if row is None:
        raise NotFound("no such chat")
    return Chat(**row._asdict())


async def among(connection: AsyncConnection, tenant_id: UUID, history_ids: Iterable[int]) -> set[int]:
    """Those of the ids that are chats of this tenant."""
    rows = await connection.execute(
        select(chat.c.history_id).where(
            chat.c.tenant_id == tenant_id, chat.c.history_id.in_(list(history_ids))
        )
    )
    return set(rows.scalars())


async def page(
    connection: AsyncConnection,
    tenant_id: UUID,
    filters: ChatFilters,
    *,
    limit: int,
    offset: int,
    before: int | None,
) -> tuple[list[Chat], int]:
    """Newest first, and how many match in all. `before`: only chats older than that one."""
    wanted = _where(tenant_id, filters)
    total = (await connection.execute(select(func.count()).select_from(chat).where(wanted))).scalar_one()
    older = wanted if before is None else wanted & (chat.c.history_id < before)
    rows = await connection.execute(
        select(*_COLUMNS).where(older).order_by(chat.c.history_id.desc()).limit(limit).offset(offset)
    )
    return [Chat(**row._asdict()) for row in rows], total


def _where(tenant_id: UUID, filters: ChatFilters) -> ColumnElement[bool]:
    conditions = [chat.c.tenant_id == tenant_id]
    if filters.name is not None:
        conditions.append(chat.c.name == filters.name)
    if filters.external_user_id is not None:
        conditions.append(chat.c.external_user_id == filters.external_user_id)
    if filters.agent_id is not None:
        conditions.append(chat.c.agent_id == filters.agent_id)
    return and_(*conditions)


async def turns(connection: AsyncConnection, tenant_id: UUID, history_id: int) -> list[Turn]:
    """The whole chat, oldest first; [] for a chat that is unknown or another tenant's."""
    rows = await connection.execute(
        select(chat_turn.c.user_message, chat_turn.c.reply, chat_turn.c.file_ids)
        .join(chat, chat.c.history_id == chat_turn.c.history_id)
        .where(chat.c.tenant_id == tenant_id, chat.c.history_id == history_id)
        .order_by(chat_turn.c.conversation_id)
    )
    return [Turn(row.user_message, row.reply, history_id, file_ids=tuple(row.file_ids)) for row in rows]


async def turns_page(
    connection: AsyncConnection, history_id: int, *, limit: int, offset: int, after: int | None = None
) -> tuple[list[StoredTurn], int]:
    """Turns of a chat that `get` found to be the caller's own, oldest first, and how many it has."""
    mine = chat_turn.c.history_id == history_id
    total = (await connection.execute(select(func.count()).select_from(chat_turn).where(mine))).scalar_one()
    later = mine if after is None else mine & (chat_turn.c.conversation_id > after)
    rows = await connection.execute(
        select(
            chat_turn.c.conversation_id,
            chat_turn.c.batch_id,
            chat_turn.c.user_message,
            chat_turn.c.reply,
            chat_turn.c.file_ids,
            chat_turn.c.created_at,
        )
        .where(later)
        .order_by(chat_turn.c.conversation_id)
        .limit(limit)
        .offset(offset)
    )
    return [StoredTurn(**(row._asdict() | {"file_ids": tuple(row.file_ids)})) for row in rows], total
