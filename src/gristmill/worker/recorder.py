"""The way back from a worker to the store: verdicts are collected and written many at a time, one flush after the other.

While one flush is under way the next collects, so flushes grow with the speed of the items by themselves. A flush that
was not acknowledged is sent again until it is; the store counts nothing twice.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import orjson

from gristmill import metrics
from gristmill.db import Database, unavailable, unstorable
from gristmill.domain.outcomes import ItemError
from gristmill.domain.states import ResultStatus
from gristmill.store import recording
from gristmill.store.recording import Ended, Flush, Retried
from gristmill.store.spans import Waiting
from gristmill.worker.work import HeldLease

log = logging.getLogger(__name__)

FLUSH_ITEMS = 200  # beyond 200 to 500 a larger flush gains nothing (docs/performance.md)
LINGER_SECONDS = 0.05  # how long a verdict may wait for company while other items run
RESEND_SECONDS = 0.2
FULL = 4000  # verdicts waiting: the worker claims nothing more


class Recorder:
    def __init__(
        self, database: Database, *, ended_batches: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        self._database = database
        self._ended_batches = ended_batches  # called after a flush that ended a batch, or may have
        self._drained = drained  # called when there is room again
        self.worker_id = 0
        self.busy: Callable[[], bool] = lambda: (
            False
        )  # are items running, whose verdicts are worth waiting for?
        self._ended: list[Ended] = []
        self._retried: list[Retried] = []
        self._unstarted: list[tuple[int, Waiting]] = []
        self._touched: dict[int, HeldLease] = {}
        self._sending: Flush | None = None  # handed to the database, not yet acknowledged
        self._unsent: Flush | None = None  # the same, once that has failed: to be sent again
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        # The same, for verdicts: to set an event takes a tenth of what there is to do for one.
        self._is_enough = False

    @property
    def backlog(self) -> int:
        unsent = len(self._unsent.ended) if self._unsent else 0
        return len(self._ended) + len(self._retried) + len(self._unstarted) + unsent

    @property
    def unacknowledged(self) -> set[int]:
        """Leases with verdicts that the database may not know yet."""
        return {*self._touched, *(self._sending.remaining if self._sending else ())}

    def add(self, held: HeldLease, verdict: Ended | Retried) -> None:
        if isinstance(verdict, Ended):
            self._ended.append(verdict)
        else:
            self._retried.append(verdict)
        self._touch(held)

    def give_back(self, held: HeldLease, ordinal: int) -> None:
        """The item was not run, or not to its end: it waits again and no attempt is used."""
        lease = held.lease
        self._unstarted.append(
            (lease.id, Waiting(lease.batch_id, ordinal, ordinal, lease.attempt - 1, lease.losses))
        )
        self._touch(held)

    def _touch(self, held: HeldLease) -> None:
        held.remaining -= 1
        if held.lease.id not in self._touched:
            self._touched[held.lease.id] = held
            self._some.set()
        if not self._is_enough and (len(self._ended) >= FLUSH_ITEMS or not self.busy()):
            self._is_enough = True
            self._enough.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Flush until `stop` is set and nothing is left to write."""
        while not (stop.is_set() and self.backlog == 0):
            await self._wait(stop)
            if self.backlog:
                await self._flush()

    async def _wait(self, stop: asyncio.Event) -> None:
        if self._unsent is not None:  # it has waited already, and perhaps no other verdict will ever come
            return
        if not self._some.is_set():
            some, end = asyncio.ensure_future(self._some.wait()), asyncio.ensure_future(stop.wait())
            await asyncio.wait((some, end), return_when=asyncio.FIRST_COMPLETED)
            some.cancel()
            end.cancel()
        if not self._enough.is_set() and not stop.is_set():
            timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._enough.set)
            await self._enough.wait()
            timer.cancel()

    async def _flush(self) -> None:
        first_time = self._unsent is None
        flush = self._sending = self._unsent or self._take()
        try:
            ended = await self._write(flush, alone=first_time)
        except Exception as error:
            # Postgres is away, or chose this transaction to end a deadlock. What is sent again is not counted twice.
            self._unsent = flush
            extra = {"error": type(error).__name__, "items": len(flush.ended)}
            log.warning("flush not acknowledged", extra=extra, exc_info=not unavailable(error))
            await asyncio.sleep(RESEND_SECONDS)
            return
        self._sending = self._unsent = None
        if ended or not first_time:  # one that was sent before may have ended them then
            self._ended_batches()
        self._drained()

    def _take(self) -> Flush:
        """All that has collected. `remaining` is read in the same breath, so that it fits the verdicts taken."""
        flush = Flush(
            {lease_id: held.remaining for lease_id, held in self._touched.items()},
            self._ended,
            self._retried,
            self._unstarted,
        )
        self._ended, self._retried, self._unstarted, self._touched = [], [], [], {}
        self._some.clear()
        self._enough.clear()
        self._is_enough = False
        return flush

    async def _write(self, flush: Flush, *, alone: bool) -> int:
        """Answers with how many batches ended by it."""
        try:
            began = time.monotonic()
            async with self._database.transaction() as tx:
                ended = await recording.record(tx, self.worker_id, flush, alone=alone)
            metrics.flushed(time.monotonic() - began)
            return ended
        except asyncpg.UniqueViolationError:
            if not alone:
                raise
            return await self._write(flush, alone=False)
        except Exception as error:
            if not unstorable(error):
                raise
            log.error(
                "a result cannot be stored", extra={"error": type(error).__name__, "items": len(flush.ended)}
            )
            return await self._write_one_by_one(flush)

    async def _write_one_by_one(self, flush: Flush) -> int:
        """One result the database refuses must not keep the others from being recorded: it ends as failed."""
        ended = 0
        for one in flush.apart():
            try:
                ended += await self._write_plainly(one)
            except Exception as error:
                if not unstorable(error):
                    raise
                ended += await self._write_plainly(replace(one, ended=[_unstorable(e) for e in one.ended]))
        return ended

    async def _write_plainly(self, flush: Flush) -> int:
        async with self._database.transaction() as tx:
            return await recording.record(tx, self.worker_id, flush, alone=False)


def _unstorable(ended: Ended) -> Ended:
    error = ItemError(500, "unstorable_result", "The processor's answer cannot be stored.")
    text = orjson.dumps(error.as_json()).decode()
    return Ended(
        ended.lease_id,
        ended.batch_id,
        ended.ordinal,
        ResultStatus.FAILED,
        500,
        ended.attempt,
        ended.started_at,
        error=text,
        history_id=ended.history_id,
    )
