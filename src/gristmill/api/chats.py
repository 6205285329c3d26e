"""Chats: what was said in them. They are begun and continued by requests of batches."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
from gristmill.api.openapi import LIST, PAGE, READ, documented, enveloped, paged, parameter, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.domain.errors import NotFound
from gristmill.store import chats
from gristmill.store.chats import Chat, ChatFilters, StoredTurn

router = APIRouter(prefix="/api/v1/chats", tags=["Chats"])


def view(chat: Chat) -> dict[str, Any]:
    return {
        "history_id": chat.history_id,
        "agent_id": chat.agent_id,
        "name": chat.name,
        "external_user_id": chat.external_user_id,
        "created_at": chat.created_at,
    }


def _messages(turn: StoredTurn) -> Iterator[dict[str, Any]]:
    """The two messages of a turn."""
    common = {
        "conversation_id": turn.conversation_id,
        "batch_id": turn.batch_id,
        "created_at": turn.created_at,
    }
    yield {"role": "user", "content": turn.user_message, "attached_file_uuids": turn.file_ids, **common}
    yield {"role": "assistant", "content": turn.reply, "attached_file_uuids": [], **common}


def _id_of(history_id: str) -> int:
    if not (history_id.isascii() and history_id.isdecimal() and len(history_id) <= 18):
        raise NotFound("no such chat")
    return int(history_id)


@router.get(
    "",
    summary="List chats",
    responses=responses(*LIST),
    openapi_extra=documented(
        *PAGE,
        parameter("external_user_id", {"type": "string"}, "Only chats of this user"),
        parameter("name", {"type": "string"}, "Only chats of this name"),
        parameter("agent_id", {"type": "string", "format": "uuid"}, "Only chats begun with this agent"),
        answer=paged(ref("ChatAnswer")),
    ),
)
async def list_chats(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "chats:read")
    query = Query(request, (*pages.PARAMETERS, "external_user_id", "name", "agent_id"))
    filters = ChatFilters(query.text("name"), query.text("external_user_id"), query.uuid("agent_id"))
    page = pages.asked(request, query, key, "chats")
    before = int(page.position) if page.position else None
    async with parts(request).database.engine.connect() as connection:
        found, total = await chats.page(
            connection, key.tenant_id, filters, limit=page.fetch, offset=page.skip, before=before
        )
    rows = pages.rows(page, found, total, lambda chat: chat.history_id)
    return pages.listing(page, rows, [view(one) for one in rows.shown])


@router.get(
    "/{history_id}",
    summary="Get a chat",
    responses=responses(*READ),
    openapi_extra=documented(answer=enveloped(ref("ChatAnswer"))),
)
async def get_chat(request: Request, history_id: str) -> Response:
    key = await caller(request, "chats:read")
    Query(request, ()).check()
    async with parts(request).database.engine.connect() as connection:
        chat = await chats.get(connection, key.tenant_id, _id_of(history_id))
    return answer(view(chat))


@router.get(
    "/{history_id}/messages",
    summary="Messages of a chat",
    responses=responses(*READ),
    openapi_extra=documented(*PAGE, answer=paged(ref("MessageAnswer"))),
)
async def list_messages(request: Request, history_id: str) -> Response:
    """Oldest first. A turn is two messages with one `conversation_id`."""
    key = await caller(request, "chats:read")
    query = Query(request, pages.PARAMETERS)
    page = pages.asked(request, query, key, f"messages:{history_id}")
    # The cursor of this list is the number of messages already read: turns are only ever appended.
    first = int(page.position) if page.position else page.skip
    async with parts(request).database.engine.connect() as connection:
        chat = await chats.get(connection, key.tenant_id, _id_of(history_id))
        turns, total = await chats.turns_page(
            connection, chat.history_id, limit=page.fetch // 2 + 1, offset=first // 2
        )
    messages = [message for turn in turns for message in _messages(turn)][first % 2 :]
    numbered = list(enumerate(messages, first + 1))
    rows = pages.rows(page, numbered[: page.fetch], 2 * total, lambda one: one[0])
    shown = [message for _, message in rows.shown]
    return pages.listing(page, rows, shown)
