"""The messages a model gets: instructions, the chat so far, files, and what the user says now."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from gristmill.domain.outcomes import Failure, ItemError, Turn
from gristmill.processors import attachments
from gristmill.processors.attachments import Part
from gristmill.processors.base import Services
from gristmill.processors.refusals import Refused

MAX_FILES_BYTES = 32 * 1024 * 1024  # of all files of one request, those of earlier turns included

Message = dict[str, Any]


async def messages(
    instructions: str,
    history_id: int | None,
    message: str,
    file_ids: Sequence[UUID],
    *,
    tenant_id: UUID,
    services: Services,
) -> list[Message]:
    """Oldest first. Raises Refused for a file that is gone, unreadable or too much."""
    files = _Files(tenant_id, services)
    now = await files.user_message(message, file_ids)
    turns = await services.turns(tenant_id, history_id) if history_id is not None else ()
    told: list[Message] = [{"role": "system", "content": instructions}] if instructions.strip() else []
    for turn in turns:
        told += await files.earlier(turn)
    return [*told, now]


class _Files:
    """Reads the files of one request, each within the limit over all of them."""

    def __init__(self, tenant_id: UUID, services: Services) -> None:
        self._tenant_id = tenant_id
        self._services = services
        self._bytes_left = MAX_FILES_BYTES

    async def user_message(self, message: str, file_ids: Sequence[UUID]) -> Message:
        parts = [await self._part(file_id) for file_id in file_ids]
        if None in parts:
            gone = file_ids[parts.index(None)]
            raise Refused(
                Failure(ItemError(400, "attachment_not_found", f"There is no file {gone}, or no longer."))
            )
        return _user([part for part in parts if part], message)

    async def earlier(self, turn: Turn) -> list[Message]:
        """A file that has been deleted since is left out: the chat goes on without it."""
        parts = [part for file_id in turn.file_ids if (part := await self._part(file_id))]
        return [_user(parts, turn.user_message), {"role": "assistant", "content": turn.reply}]

    async def _part(self, file_id: UUID) -> Part | None:
        file = await self._services.attachment(self._tenant_id, file_id)
        if file is None:
            return None
        self._bytes_left -= len(file.data)
        if self._bytes_left < 0:
            message = f"The files of this chat have more than {MAX_FILES_BYTES} bytes together."
            raise Refused(Failure(ItemError(400, "attachments_too_large", message)))
        return attachments.part(file)


def _user(parts: list[Part], message: str) -> Message:
    """Plain text unless there is an image: some endpoints take nothing else."""
    parts = [*parts, {"type": "text", "text": message}]
    if all(part["type"] == "text" for part in parts):
        return {"role": "user", "content": "\n\n".join(part["text"] for part in parts)}
    return {"role": "user", "content": parts}
