"""The sign of life of a worker process: a thread of its own, with a loop and a connection of its own.

A processor that blocks the event loop must not make its process look dead and its items run twice.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from gristmill import metrics
from gristmill.db import Database, unavailable
from gristmill.store import workers

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats for `worker_id` every `lease_seconds / 6`. `on_death` is called, in the thread, when the database says that
    this worker has been declared dead; the beating ends with that."""

    def __init__(
        self, database: Database, worker_id: int, lease_seconds: float, on_death: Callable[[], None]
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._every = lease_seconds / 6
        self._patience = lease_seconds * 5 / 6
        self._on_death = on_death
        self._last = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="heartbeat", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()

    @property
    def trusted(self) -> bool:
        """False: no beat has succeeded for so long that this worker may be declared dead; it should start nothing.
        Measured with this machine's monotonic clock, so that wrong clocks do not matter."""
        return time.monotonic() - self._last < self._patience

    async def _run(self) -> None:
        while not self._end.is_set():
            try:
                await self._beat_until_broken()
            except Exception as error:
                metrics.loop_failed("heartbeat")
                log.warning(
                    "no heartbeat", extra={"error": type(error).__name__}, exc_info=not unavailable(error)
                )
            await self._pause()

    async def _beat_until_broken(self) -> None:
        connection = await self._database.connect(command_timeout=self._every)
        try:
            while not self._end.is_set():
                began = time.monotonic()
                async with connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    alive = await workers.beat(connection, self._worker_id)
                if not alive:
                    self._end.set()
                    self._on_death()
                    return
                self._last = began
                metrics.loop_stepped("heartbeat")
                await self._pause()
        finally:
            connection.terminate()

    async def _pause(self) -> None:
        await asyncio.to_thread(self._end.wait, self._every)
