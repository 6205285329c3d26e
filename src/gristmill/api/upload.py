"""Files on their way into the storage: noted before the first byte, all of them kept, or none."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from gristmill.api import body
from gristmill.api.parts import Parts
from gristmill.db import Connection, unavailable
from gristmill.domain.errors import Invalid, Problem
from gristmill.domain.ids import uuid7
from gristmill.domain.inspection import Inspection
from gristmill.storage.base import PIECE_BYTES, StorageFailed, file_key
from gristmill.store import files, quotas
from gristmill.store.files import Discard, File, NewFile

_AT_ONCE = 100  # bytes of so many files go within the request that deletes them; a worker removes the rest

log = logging.getLogger(__name__)


class Upload:
    """`kept()` after the commit that makes them files; leaving the block without it removes every trace."""

    def __init__(self, of: Parts, tenant_id: UUID) -> None:
        self._of = of
        self._tenant_id = tenant_id
        self._ids: list[UUID] = []

    async def __aenter__(self) -> "Upload":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._ids:
            return
        try:
            async with self._of.database.engine.begin() as connection:
                given_up = await files.give_up(connection, self._tenant_id, self._ids)
            await discard(self._of, self._tenant_id, given_up)
        except (
            Exception
        ) as error:  # the note stays, and a worker finds it; what went wrong before matters more
            if not unavailable(error):
                log.warning("an upload could not be given up at once: %s", type(error).__name__)

    async def expect(self, count: int = 1) -> list[UUID]:
        """Ids for so many files. Raises Forbidden before anything is read, where there is no room for a single byte."""
        self._ids = [uuid7() for _ in range(count)]
        async with self._of.database.engine.begin() as connection:
            await quotas.hold_bytes(connection, self._tenant_id, self._of.settings.tenant_stored_bytes)
            await files.expect(connection, self._tenant_id, self._ids)
        return self._ids

    async def bring(
        self, file_id: UUID, pieces: AsyncIterator[bytes], *, allow_empty: bool = False
    ) -> Inspection:
        """Whole or not at all. Raises TooLarge, Invalid for an empty file, and what `pieces` raises."""
        inspection = Inspection()
        watched = _watched(pieces, inspection, self._of.settings.upload_max_bytes, allow_empty)
        await self._of.storage.put(file_key(self._tenant_id, file_id), watched)
        return inspection

    async def add(
        self,
        connection: Connection,
        news: Sequence[NewFile],
        *,
        retention_days: int | None = None,
        lifetime_seconds: int | None = None,
    ) -> list[File]:
        """Makes them files, for as long as the settings say or for `retention_days`, within the tenant's quota. They are to be
        seen once the caller's transaction commits. Raises Forbidden beyond the quota."""
        settings = self._of.settings
        return await files.add(
            connection,
            self._tenant_id,
            news,
            retention_days=retention_days or settings.file_retention_days,
            lifetime_seconds=lifetime_seconds,
            most_bytes=settings.tenant_stored_bytes,
        )

    def kept(self) -> None:
        self._ids = []


async def _watched(
    pieces: AsyncIterator[bytes], inspection: Inspection, max_bytes: int, allow_empty: bool
) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about 1 MiB, each looked at before it goes on."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if inspection.size + size > max_bytes:
            raise body.too_large(max_bytes)
        if size >= PIECE_BYTES:
            data, waiting, size = b"".join(waiting), [], 0
            await asyncio.to_thread(inspection.feed, data)
            yield data
    if size:
        data = b"".join(waiting)
        await asyncio.to_thread(inspection.feed, data)
        yield data
    if inspection.size == 0 and not allow_empty:
        raise Invalid([Problem("file", "empty_file", "the file is empty")])


async def discard(of: Parts, tenant_id: UUID, file_ids: Sequence[UUID]) -> None:
    """The bytes of files that are none any more. What cannot be done now is left to the workers."""
    gone = []
    for file_id in file_ids[:_AT_ONCE]:
        try:
            await of.storage.delete(file_key(tenant_id, file_id))
        except StorageFailed as error:
            log.warning("bytes of deleted files are still there: %s", error)
            break
        gone.append(Discard(tenant_id, file_id))
    if gone:
        async with of.database.engine.begin() as connection:
            await files.discarded(connection, gone)
