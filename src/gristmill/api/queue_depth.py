"""What autoscalers look at: measured when somebody scrapes, and not more often than is good for the database."""

import asyncio
import logging
import time

from gristmill import metrics
from gristmill.db import Database
from gristmill.store import depth

log = logging.getLogger(__name__)

AT_MOST_EVERY_SECONDS = 5.0  # the route asks for no key
_PATIENCE_SECONDS = 3.0  # a scraper waits for an answer


class QueueDepth:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._measured_at = -AT_MOST_EVERY_SECONDS
        self._one_at_a_time = asyncio.Lock()

    async def measure(self) -> None:
        """Set the gauges, unless that was just done. Without a database they are not told at all."""
        async with self._one_at_a_time:
            if time.monotonic() - self._measured_at < AT_MOST_EVERY_SECONDS:
                return
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS), self._database.connection() as connection:
                    found = await depth.queue(connection)
            except Exception as error:  # the other metrics are the more wanted then
                log.warning("the queue's depth is not known", extra={"error": type(error).__name__})
                metrics.queue_unknown()
            else:
                metrics.queue(
                    {one.processor: (one.startable, one.running, one.oldest_seconds) for one in found}
                )
            self._measured_at = time.monotonic()
