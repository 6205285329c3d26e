"""Batches as they are now, for many who ask at the same time.

Who asks while nobody else does starts a query. Who comes while it is under way waits for the next one, with all that have come
by then: one query for all of them, whichever batches they want, and one answer for all who want the same. Whatever a caller gets
was read after it had asked.
"""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from uuid import UUID

from gristmill.db import Database
from gristmill.store import batches, retention
from gristmill.store.batches import Batch

AT_ONCE = 2  # queries: one that is slow does not hold all up
MOST = 200  # batches in a query

_Key = tuple[UUID, UUID]  # tenant, batch


class Seen:
    """A batch, and what has been made of it for the first of those who share it."""

    __slots__ = ("batch", "text")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.text: bytes | None = None


class Reads:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[_Key, list[asyncio.Future[Seen]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0  # told by the tasks themselves: a set of them would be late by a turn of the loop
        self._starting = False

    async def batch(self, tenant_id: UUID, batch_id: UUID) -> Seen:
        """The batch as it is after this was called. Raises NotFound, or Gone."""
        waiting: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._asked.setdefault((tenant_id, batch_id), []).append(waiting)
        if self._under_way < AT_ONCE and not self._starting:
            self._start()
        return await waiting

    def _start(self) -> None:
        self._starting = True
        task = asyncio.create_task(self._run(), context=Context())  # it is nobody's in particular
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        self._starting = False
        self._under_way += 1
        try:
            while self._asked:
                await self._read({key: self._asked.pop(key) for key in list(self._asked)[:MOST]})
        finally:
            self._under_way -= 1

    async def _read(self, asked: dict[_Key, list[asyncio.Future[Seen]]]) -> None:
        try:
            async with self._database.connection() as connection:
                found = await batches.among(connection, list(asked))
                for key, waiting in asked.items():
                    if (batch := found.get(key)) is not None:
                        _tell(waiting, Seen(batch))
                    else:
                        _refuse(waiting, await retention.absent(connection, *key))
        except Exception as error:
            for waiting in asked.values():
                _refuse(waiting, error)


def _tell(waiting: Sequence[asyncio.Future[Seen]], seen: Seen) -> None:
    for one in waiting:
        if not one.done():  # else its caller has gone away
            one.set_result(seen)


def _refuse(waiting: Sequence[asyncio.Future[Seen]], error: Exception) -> None:
    for one in waiting:
        if not one.done():
            one.set_exception(error)
