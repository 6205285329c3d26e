"""Files whose time is over, and bytes that belong to no file: of broken-off uploads and of files that were deleted."""

import logging

from gristmill.db import Database
from gristmill.storage.base import Storage, StorageFailed, file_key
from gristmill.store import files
from gristmill.store.files import Discard

AT_ONCE = 200

log = logging.getLogger(__name__)


class Discards:
    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def step(self) -> int:
        """Any process may take it, several at once: bytes that are gone already are no error."""
        async with self._database.engine.begin() as connection:
            expired = await files.expire(connection, AT_ONCE)
        async with self._database.engine.connect() as connection:
            due = await files.due(connection, AT_ONCE)
        gone = await self._deleted(due)
        if gone:
            async with self._database.engine.begin() as connection:
                await files.discarded(connection, gone)
        return expired + len(gone)

    async def _deleted(self, due: list[Discard]) -> list[Discard]:
        """Those whose bytes are gone; the rest is tried again."""
        gone = []
        for one in due:
            try:
                await self._storage.delete(file_key(one.tenant_id, one.file_id))
            except StorageFailed as error:
                log.warning("bytes of deleted files are still there: %s", error)
                break
            gone.append(one)
        return gone
