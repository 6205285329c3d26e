"""A worker: its loops, its identity, and its orderly end. In the API's process or alone, any number of them."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from gristmill import processors
from gristmill.db import Database, process_name
from gristmill.documents.pool import default_children
from gristmill.domain.news import News
from gristmill.processors.base import Processor, Services
from gristmill.settings import Settings
from gristmill.storage.base import Storage
from gristmill.store import workers
from gristmill.vault import Vault
from gristmill.worker import fronts
from gristmill.worker.births import Births
from gristmill.worker.circuits import Circuits
from gristmill.worker.deliveries import Deliveries
from gristmill.worker.discards import Discards
from gristmill.worker.fronts import Fronts
from gristmill.worker.heartbeat import Heartbeat
from gristmill.worker.ingests import Ingests
from gristmill.worker.items import Items
from gristmill.worker.loop import Step, keep_taking
from gristmill.worker.recorder import Recorder
from gristmill.worker.shares import LOOK_SECONDS, Shares
from gristmill.worker.upkeep import Upkeep

log = logging.getLogger(__name__)

# What is not waited for by anybody looks for news a moment later: the items of a new batch shall not wait beside it.
AFTERWARDS_SECONDS = 0.01
# Items of one processor that reads documents, in flight for each document that is read at a time: enough to keep the children
# busy while other items talk to a sink or a model, few enough that none waits out its time for its turn.
ITEMS_PER_CHILD = 16


class Worker:
    """`registry` None: the processors that are installed."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        services: Services,
        vault: Vault,
        registry: Mapping[str, Processor[Any, Any]] | None = None,
        *,
        storage: Storage,
    ) -> None:
        self._database = database
        self._settings = settings
        self._registry = processors.registry() if registry is None else registry
        self._recorder = Recorder(
            database, ended_batches=self._batches_may_have_ended, recorded=self._recorded
        )
        self._shares = Shares(database, settings, trusted=self._is_trusted, changed=self._there_is_room)
        self._circuits = Circuits(database, settings, changed=self._there_is_room, permits=self._shares.of)
        self._fronts = Fronts(database)
        self._items = Items(
            database,
            services,
            self._registry,
            self._recorder,
            self._circuits,
            self._shares,
            self._fronts,
            concurrency=settings.concurrency,
            upstream_concurrency=settings.llm_concurrency,
            parser_concurrency=ITEMS_PER_CHILD * default_children(),
            trusted=self._is_trusted,
        )
        self.births = Births(self._items)
        self._deliveries = Deliveries(database, services.http, vault, settings)
        self._deliveries_news = asyncio.Event()
        self._upkeep_news = asyncio.Event()
        self._upkeep = Upkeep(database, lease_seconds=settings.lease_seconds)
        self._discards = Discards(database, storage)
        self._ingests = Ingests(
            database,
            services,
            self._registry,
            lease_seconds=settings.lease_seconds,
            allow_private=settings.allow_private_addresses,
            done=self._file_is_read,
        )
        self._ingests_news = asyncio.Event()
        self._heartbeat: Heartbeat | None = None
        self._stop_claiming = asyncio.Event()
        self._stop_recording = asyncio.Event()
        self._stop_duties = asyncio.Event()
        self._hurry = asyncio.Event()
        self._afterwards: asyncio.TimerHandle | None = None
        self._claiming: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._duties: list[asyncio.Task[None]] = []
        self._ingesting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._take_identity()
        await self._shares.look()
        poll = self._settings.poll_seconds
        self._claiming = asyncio.create_task(
            keep_taking(
                "items", self._items.step, news=self._items.news, stop=self._stop_claiming, idle_seconds=poll
            )
        )
        self._recording = asyncio.create_task(self._recorder.run(self._stop_recording))
        lease = self._settings.lease_seconds
        self._duty("watch", self._items.slots.watch, 0.1)
        self._duty("circuits", self._circuits.step, poll, self._circuits.news)
        self._duty("shares", self._shares.step, min(poll, LOOK_SECONDS), self._shares.news)
        self._duty("fronts", self._fronts.step, fronts.LOOK_SECONDS)
        self._duty("deliveries", self._deliveries.step, poll, self._deliveries_news)
        self._ingesting = self._duty("ingests", self._ingests.step, poll, self._ingests_news)
        self._duty("reaper", self._freeing(self._upkeep.reap), min(5.0, lease / 3))
        self._duty("sweeper", self._freeing(self._upkeep.sweep), 1.0, self._upkeep_news)
        self._duty("tidier", self._upkeep.tidy, 60.0)
        self._duty("discards", self._discards.step, 60.0)
        self._duty("retention", self._upkeep.retain, 60.0)
        self._duty("partitions", self._upkeep.partition, 3600.0)

    def wake(self, news: News = News.ANY) -> None:
        """There may be work: look now instead of at the next poll."""
        if news is News.FILE:
            self._ingests_news.set()
            return
        self._items.ring()
        if self._afterwards is None:
            self._afterwards = asyncio.get_running_loop().call_later(AFTERWARDS_SECONDS, self._wake_others)

    def _wake_others(self) -> None:
        self._afterwards = None
        self._ingests_news.set()
        self._upkeep_news.set()

    def hurry(self) -> None:
        """While draining: do not wait for what runs; still record what has ended."""
        self._hurry.set()

    async def drain(self, grace_seconds: float) -> None:
        """Stop claiming, return what has not started, wait for what runs, flush, say goodbye. In that order."""
        self._stop_claiming.set()
        if self._claiming is not None:
            await self._claiming
        self._shares.close()
        await self._items.drain(self._hurry, grace_seconds)
        self._stop_recording.set()
        if self._recording is not None:
            await asyncio.wait((self._recording,), timeout=self._settings.lease_seconds)
            self._recording.cancel()
        await self._deliveries.drain(0 if self._hurry.is_set() else grace_seconds)
        self._stop_duties.set()
        if self._ingesting is not None:
            self._ingesting.cancel()  # a large file may take longer than we have; another process begins anew
        await asyncio.gather(*self._duties, return_exceptions=True)
        if self._afterwards is not None:
            self._afterwards.cancel()
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        if self._heartbeat is None:
            return
        self._heartbeat.stop()
        try:
            async with self._database.transaction() as tx:
                await self._shares.give_back(tx)
                await workers.leave(tx, self._items.worker_id)
        except Exception as error:  # others will notice by the silence
            log.warning("left without a goodbye", extra={"error": type(error).__name__})

    def _duty(
        self, name: str, step: Step, idle_seconds: float, news: asyncio.Event | None = None
    ) -> asyncio.Task[None]:
        looping = keep_taking(
            name, step, news=news or asyncio.Event(), stop=self._stop_duties, idle_seconds=idle_seconds
        )
        duty = asyncio.create_task(looping)
        self._duties.append(duty)
        return duty

    def _freeing(self, step: Step) -> Step:
        """What waited for what it has ended, or taken back, may start."""

        async def stepped() -> int:
            done = await step()
            if done:
                self._there_is_room()
            return done

        return stepped

    def _is_trusted(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.trusted

    def _there_is_room(self) -> None:
        self._items.news.set()  # not `wake`: a flush makes nothing that the sweeper should look at once

    def _recorded(self, to_the_end: bool) -> None:
        """`to_the_end`: of all its batches, so that nobody waited for it, be it for a slot of the batch or for a chat."""
        if not (to_the_end and self._items.is_dry):
            self._there_is_room()

    def _file_is_read(self) -> None:
        """Its items may start; or its batch was cancelled meanwhile, and is to be ended."""
        self._items.ring()
        self._upkeep_news.set()

    def _batches_may_have_ended(self) -> None:
        self._deliveries_news.set()

    async def _take_identity(self) -> None:
        async with self._database.transaction() as tx:
            worker_id = await workers.join(
                tx,
                name=process_name(),
                processors=sorted(self._registry),
                concurrency=self._settings.concurrency,
            )
        self._items.worker_id = self._recorder.worker_id = self._shares.worker_id = worker_id
        loop = asyncio.get_running_loop()

        def on_death() -> None:  # called in the heartbeat's thread
            loop.call_soon_threadsafe(self._declared_dead)

        self._heartbeat = Heartbeat(self._database, worker_id, self._settings.lease_seconds, on_death)
        self._heartbeat.start()
        log.info("worker ready", extra={"worker_id": worker_id, "concurrency": self._settings.concurrency})

    def _declared_dead(self) -> None:
        log.warning("declared dead; taking a new identity", extra={"worker_id": self._items.worker_id})
        self._heartbeat = None
        self._shares.forfeit()
        self._items.drop()
        self._duties.append(asyncio.create_task(self._reborn()))

    async def _reborn(self) -> None:
        while not self._stop_duties.is_set():
            try:
                await self._take_identity()
                self._items.ring()
                return
            except Exception:
                log.exception("no new identity yet")
                await asyncio.sleep(1)
