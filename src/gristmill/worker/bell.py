"""Telling workers that there is work: an event within the process, NOTIFY to the others. Only a hint; polling is the truth.

One NOTIFY per ring, after the commit, in a transaction of its own: inside a hot transaction it would cost seven times
the throughput. Rings of one kind that come while one is being sent are one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from gristmill.db import LOST, Database
from gristmill.domain.news import News
from gristmill.worker.loop import first_of

log = logging.getLogger(__name__)

CHANNEL = "gristmill_work"
# By itself it would wait for the disk, as it is told once it has committed.
_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_BY_WORD: Mapping[object, News] = {news.value: news for news in News}


class Bell:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._rung = asyncio.Event()
        self._untold: set[News] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.listeners: list[Callable[[News], None]] = []

    def ring(self, news: News = News.ANY) -> None:
        """There is work; may be called from anywhere on the loop, costs nothing."""
        self._pass_on(news)
        self._untold.add(news)
        self._rung.set()

    def start(self, *, listen: bool) -> None:
        """Pass rings on to other processes; with `listen`, also pass theirs on to the listeners here."""
        self._tasks.append(asyncio.create_task(self._send()))
        if listen:
            self._tasks.append(asyncio.create_task(self._listen()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            untold, self._untold = self._untold, set()
            try:
                async with self._database.connection() as connection:
                    for news in untold:
                        await connection.fetchval(_NOTIFY, CHANNEL, news.value)
            except LOST:
                log.debug("could not notify; pollers will find the work")
            except Exception:  # such as a full queue of notifications: the next may get through
                log.exception("could not notify; pollers will find the work")

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_until_lost()
            except LOST:
                log.debug("listening lost its connection; polling goes on")
            await asyncio.sleep(1)

    def _heard(self, _connection: object, _process_id: int, _channel: str, word: object) -> None:
        self._pass_on(_BY_WORD.get(word, News.ANY))

    def _pass_on(self, news: News) -> None:
        for listener in self.listeners:
            listener(news)

    async def _listen_until_lost(self) -> None:
        connection = await self._database.connect_to_listen()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._heard)
            while not lost.is_set():
                await connection.execute("SELECT")  # a half-open connection shows here
                await first_of(lost, seconds=30)
        finally:
            connection.terminate()
