"""Waiting for a batch to change: readers of one batch share one look at the database per interval."""

import asyncio
from uuid import UUID

from gristmill.db import Database
from gristmill.store import batches
from gristmill.store.batches import Batch

INTERVAL_SECONDS = 0.25


class Watch:
    """Holds no connection between looks, so thousands may wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looks: dict[UUID, asyncio.Task[Batch]] = {}

    async def changed(self, batch: Batch, seconds: float, stop: asyncio.Event) -> Batch:
        """The batch as soon as its status is another one, after so many seconds, or at `stop`. Raises NotFound."""
        clock = asyncio.get_running_loop()
        until, status = clock.time() + seconds, batch.status
        while batch.status is status and clock.time() < until and not stop.is_set():
            batch = await self._next(batch.tenant_id, batch.id)
        return batch

    async def _next(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        look = self._looks.get(batch_id)
        if look is None:
            look = self._looks[batch_id] = asyncio.create_task(self._look(tenant_id, batch_id))
            look.add_done_callback(_take_exception)
        # A reader that goes away must not take the look from the others.
        return await asyncio.shield(look)

    async def _look(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        try:
            await asyncio.sleep(INTERVAL_SECONDS)
            async with self._database.connection() as connection:
                return await batches.get(connection, tenant_id, batch_id)
        finally:
            del self._looks[batch_id]


def _take_exception(look: asyncio.Task[Batch]) -> None:
    if not look.cancelled():
        look.exception()
