"""Waiting for a batch to change: readers of one batch share one look at the database at a time, soon at first, then per interval.

`follow` is the feed behind GET …/events and whatever else tells of items as they end: each reader pulls what comes after its own
position, so that a slow one keeps nothing but its present window in memory; those at the same position share the reading.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from gristmill.db import Database
from gristmill.domain.errors import TooMany
from gristmill.domain.states import TERMINAL
from gristmill.store import batches, feed
from gristmill.store.batches import Batch
from gristmill.store.feed import Position, Window

INTERVAL_SECONDS = 0.25
SOON_SECONDS = 0.02  # before the first look for who waits: a small batch has ended by then …
ITEM_SECONDS = 0.00001  # … and so much longer for each item that waits: it takes no less. Each further look after twice as long
FIRST_WINDOW = 8  # items read at once at first, until their size is known: a result may have 16 MiB …
WINDOW = 500  # … and at most, if together they have no more than about …
WINDOW_BYTES = 2 * 1024 * 1024  # … so many
MOST_FOLLOWERS = (
    1000  # of one tenant in one process: each may hold a window, and is looked after four times a second
)

# Whose and which batch; from where, up to where, how many items; with checkpoints or without.
_Asked = tuple[UUID, UUID, Position, Position, int, bool]


class Watch:
    """Holds no connection between looks, so thousands may wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looks: dict[tuple[UUID, UUID], asyncio.Task[Batch]] = {}
        self._windows: dict[_Asked, asyncio.Task[Window | None]] = {}
        self._followers = Counter[UUID]()

    async def changed(self, batch: Batch, seconds: float, stop: asyncio.Event) -> Batch:
        """The batch as soon as its status is another one, after so many seconds, or at `stop`. Raises NotFound."""
        clock = asyncio.get_running_loop()
        until, status, intervals = clock.time() + seconds, batch.status, between_looks(batch.pending)
        while batch.status is status and clock.time() < until and not stop.is_set():
            batch = await self.next(batch.tenant_id, batch.id, next(intervals))
        return batch

    def check_room(self, tenant_id: UUID) -> None:
        """For who is about to follow. Raises TooMany."""
        if self._followers[tenant_id] >= MOST_FOLLOWERS:
            detail = f"more than {MOST_FOLLOWERS:,} follow batches of this tenant at the same time"
            raise TooMany(detail, code="too_many_followers", retry_after_seconds=10)

    @contextmanager
    def _counted(self, tenant_id: UUID) -> Iterator[None]:
        self._followers[tenant_id] += 1
        try:
            yield
        finally:
            self._followers[tenant_id] -= 1
            if not self._followers[tenant_id]:
                del self._followers[tenant_id]

    async def follow(
        self, batch: Batch, position: Position, stop: asyncio.Event, *, staged: bool = False
    ) -> AsyncIterator[Batch | Window]:
        """Windows of items that have ended since `position`, then the batch as it stood by then, and so on, once an interval:
        until the batch it gave has ended, or `stop`. `staged`: with checkpoints. Raises NotFound once the batch is deleted."""
        size = FIRST_WINDOW
        with self._counted(batch.tenant_id):
            while True:
                while (window := await self._window(batch, position, size, staged)) is not None:
                    yield window
                    position, size = window.upto, _next_size(window)
                yield batch
                if batch.status in TERMINAL or stop.is_set():
                    return
                batch = await self.next(batch.tenant_id, batch.id, INTERVAL_SECONDS)

    async def next(self, tenant_id: UUID, batch_id: UUID, seconds: float) -> Batch:
        """The batch as it is after so many seconds, or at a look that others wait for. Raises NotFound."""
        look = self._looks.get((tenant_id, batch_id))
        if look is None:
            look = asyncio.create_task(self._look(tenant_id, batch_id, seconds))
            self._looks[tenant_id, batch_id] = look
            look.add_done_callback(_take_exception)
        # A reader that goes away must not take the look from the others.
        return await asyncio.shield(look)

    async def _window(self, batch: Batch, after: Position, size: int, staged: bool) -> Window | None:
        until = feed.end_of(batch)
        if after >= until:
            return None
        asked = (batch.tenant_id, batch.id, after, until, size, staged)
        reading = self._windows.get(asked)
        if reading is None:
            reading = self._windows[asked] = asyncio.create_task(self._read(batch, after, size, staged))
            reading.add_done_callback(_take_exception)
            reading.add_done_callback(lambda _: self._windows.pop(asked))
        return await asyncio.shield(reading)

    async def _read(self, batch: Batch, after: Position, size: int, staged: bool) -> Window | None:
        async with self._database.connection() as connection:
            return await feed.window(connection, batch, after, size, with_checkpoints=staged)

    async def _look(self, tenant_id: UUID, batch_id: UUID, seconds: float) -> Batch:
        try:
            await asyncio.sleep(seconds)
            async with self._database.connection() as connection:
                return await batches.get(connection, tenant_id, batch_id)
        finally:
            del self._looks[tenant_id, batch_id]


def between_looks(pending: int) -> Iterator[float]:
    """Seconds, for who waits for so many items."""
    yield min(SOON_SECONDS + pending * ITEM_SECONDS, INTERVAL_SECONDS)
    further = 2 * SOON_SECONDS
    while True:
        yield further
        further = min(2 * further, INTERVAL_SECONDS)


def _next_size(window: Window) -> int:
    """Of results of this size, what makes about WINDOW_BYTES; grows step by step, as the next may be larger."""
    count = max(len(window.ended), 1)
    size = sum(len(one.content or "") + len(one.output or "") for _, one in window.ended)
    return max(1, min(WINDOW, 8 * count, WINDOW_BYTES * count // max(size, 1)))


def _take_exception(look: asyncio.Task[Any]) -> None:
    if not look.cancelled():
        look.exception()
