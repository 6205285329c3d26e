"""The way back from a worker to the store: verdicts are collected and written many at a time.

While one flush is under way the next collects, so flushes grow with the speed of the items by themselves. What few items of
one batch have come to does not wait for a large flush of others: it passes it, in a flush of its own beside it. A flush that
was not acknowledged is sent again until it is; the store counts nothing twice.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg
import orjson

from gristmill import metrics
from gristmill.db import Database, unavailable, unstorable
from gristmill.domain.outcomes import ItemError
from gristmill.store import recording, result_rows
from gristmill.store.recording import Flush
from gristmill.store.spans import Waiting
from gristmill.store.verdicts import Answered, End, Ended, Retried
from gristmill.worker.work import HeldLease

log = logging.getLogger(__name__)

FLUSH_ITEMS = 200  # beyond 200 to 500 a larger flush gains nothing (docs/performance.md)
# Verdicts of a flush that takes so long, some 10 ms, that up to FLUSH_ITEMS of others pass it: more than those.
LARGE = 1000
LINGER_SECONDS = 0.05  # how long a verdict may wait for company while other items run
RESEND_SECONDS = 0.2
FULL = 8000  # verdicts waiting: the worker claims nothing more; so many that it goes on while a flush of many is written
FULL_CHARACTERS = 64 * 1024 * 1024  # or so much of what the items answered


@dataclass(frozen=True, slots=True)
class _Taken:
    flush: Flush
    batches: Set[UUID]
    size: int  # in characters, of what may be large

    @property
    def verdicts(self) -> int:
        """How many of them."""
        return len(self.flush.ended) + len(self.flush.retried) + len(self.flush.unstarted)


class Recorder:
    def __init__(
        self, database: Database, *, ended_batches: Callable[[], None], recorded: Callable[[bool], None]
    ) -> None:
        self._database = database
        self._ended_batches = ended_batches  # called after a flush that ended a batch, or may have
        # Called after each flush, with whether it ended all its batches and nothing else waited for it.
        self._recorded = recorded
        self.worker_id = 0
        self._touched: dict[int, HeldLease] = {}  # with verdicts that no flush has taken
        self._collected = 0  # verdicts of those
        self._size = 0  # in characters, of what may be large of those
        # Handed to the database, not yet acknowledged. No two of one batch: what is left of a lease is told in order.
        self._sending: list[_Taken] = []
        self._unsent: list[_Taken] = []  # the same, once that has failed: to be sent again
        self._is_large = False  # a flush of many is under way
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._passing = asyncio.Event()  # there may be something that need not wait for the large flush
        # As `_enough`, for verdicts: to set an event takes a tenth of what there is to do for one.
        self._is_enough = False

    @property
    def backlog(self) -> int:
        return self._collected + sum(taken.verdicts for taken in self._unsent)

    @property
    def fullness(self) -> float:
        """Of what waits to be recorded; at 1.0 it is time to wait, too. By size, what is on its way is a part of it."""
        # One that has just failed is in both for a moment.
        taken = {id(one): one.size for one in (*self._sending, *self._unsent)}
        return max(self.backlog / FULL, (self._size + sum(taken.values())) / FULL_CHARACTERS)

    @property
    def unacknowledged(self) -> set[int]:
        """Leases with verdicts that the database may not know yet."""
        sent = (*self._sending, *self._unsent)
        return self._touched.keys() | {lease_id for taken in sent for lease_id in taken.flush.remaining}

    def add(self, held: HeldLease, verdict: End | Retried) -> None:
        if type(verdict) is Answered:
            held.ended.append(verdict)
            self._size += len(verdict.output)
        elif isinstance(verdict, Ended):
            held.ended.append(verdict)
            self._size += result_rows.size(verdict)
        else:
            held.retried.append(verdict)
        held.remaining -= 1
        self._collected += 1
        # Of many, nothing else is to be done for nearly all.
        if not (self._is_enough and held.remaining and held.lease.id in self._touched):
            self._touch(held)

    def give_back(self, held: HeldLease, ordinal: int) -> None:
        """The item was not run, or not to its end: it waits again and no attempt is used."""
        lease = held.lease
        held.unstarted.append(Waiting(lease.batch_id, ordinal, ordinal, lease.attempt - 1, lease.losses))
        held.remaining -= 1
        self._collected += 1
        self._touch(held)

    def hurry(self) -> None:
        """Nothing runs any more that would be company for what there is: it goes at once."""
        if self._touched:
            self._is_enough = True
            self._enough.set()

    def _touch(self, held: HeldLease) -> None:
        if held.lease.id not in self._touched:
            self._touched[held.lease.id] = held
            self._some.set()
        if not self._is_enough and self._collected >= FLUSH_ITEMS:
            self._is_enough = True
            self._enough.set()
        if not held.remaining and self._is_large:
            self._passing.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Flush until `stop` is set and nothing is left to write."""
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self._wake())
        passing = asyncio.create_task(self._pass(stop))
        try:
            while not (stop.is_set() and passing.done() and self.backlog == 0):
                await self._wait(stop)
                self._some.clear()
                self._enough.clear()
                self._is_enough = False
                if stop.is_set() and not self._unsent and not self._free():
                    await passing  # there may be what has to wait for it, or what it could not send
                await self._flush()
        finally:
            stopped.cancel()
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    def _wake(self) -> None:
        """The end has come, whatever is waited for."""
        for event in (self._some, self._enough, self._passing):
            event.set()

    async def _wait(self, stop: asyncio.Event) -> None:
        if self._unsent:  # it has waited already, and perhaps no other verdict will ever come
            return
        if not stop.is_set():
            await self._some.wait()
        if not self._enough.is_set() and not stop.is_set():
            timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._enough.set)
            await self._enough.wait()
            timer.cancel()

    async def _flush(self) -> None:
        """What was sent before, and all else that has collected; if that is much, without what may pass it."""
        if self._unsent and not await self._send_before_others(self._unsent.pop(0), first_time=False):
            self._look_again()  # Postgres is away: nothing else has to be tried
            return
        # While something passes, nothing else would pick up what is left out here.
        passes = self._few() if self._collected >= LARGE and not self._sending else set()
        if taken := self._take(self._free() - passes):
            await self._send_before_others(taken, first_time=True, passes=bool(passes))
        if passes:
            self._look_again()

    async def _send_before_others(self, taken: _Taken, *, first_time: bool, passes: bool = False) -> bool:
        self._is_large = passes or taken.verdicts >= LARGE
        if passes:
            self._passing.set()
        try:
            return await self._send(taken, first_time=first_time)
        finally:
            self._is_large = False

    async def _pass(self, stop: asyncio.Event) -> None:
        """Beside large flushes, write what few items of other batches have come to."""
        while not stop.is_set():
            await self._passing.wait()
            self._passing.clear()
            while self._is_large and (taken := self._take(self._few())):
                await self._send(taken, first_time=True)
                self._look_again()

    def _look_again(self) -> None:
        """There may be what had to wait for the flush beside, or what that could not send."""
        if self.backlog:
            self._some.set()
            self._enough.set()

    def _free(self) -> set[UUID]:
        """The batches of which something has collected and nothing is under way."""
        sent = {batch_id for taken in (*self._sending, *self._unsent) for batch_id in taken.batches}
        return {held.lease.batch_id for held in self._touched.values()} - sent

    def _few(self) -> set[UUID]:
        """Those of them that pass a large flush, the first first: of which nothing is to come in the leases that have ended
        in part, and which are few together."""
        running = {held.lease.batch_id for held in self._touched.values() if held.remaining}
        sizes: Counter[UUID] = Counter()
        for held in self._touched.values():
            sizes[held.lease.batch_id] += held.verdicts
        free, passing, room = self._free() - running, set(), FLUSH_ITEMS
        for batch_id, size in sizes.items():
            if batch_id in free and size <= room:
                passing.add(batch_id)
                room -= size
        return passing

    def _take(self, batches: Set[UUID]) -> _Taken | None:
        """All that has collected of them. `remaining` is read in the same breath, so that it fits the verdicts taken."""
        some = [held for held in self._touched.values() if held.lease.batch_id in batches]
        if not some:
            return None
        flush = Flush(
            {held.lease.id: held.remaining for held in some},
            [ended for held in some for ended in held.ended],
            [retried for held in some for retried in held.retried],
            [(held.lease.id, waiting) for held in some for waiting in held.unstarted],
        )
        for held in some:
            del self._touched[held.lease.id]
            held.ended, held.retried, held.unstarted = [], [], []
        size = sum(map(result_rows.size, flush.ended)) if self._touched else self._size
        taken = _Taken(flush, batches, size)
        self._collected -= taken.verdicts
        self._size -= size
        return taken

    async def _send(self, taken: _Taken, *, first_time: bool) -> bool:
        """Whether Postgres has said anything to it. What it refuses is kept, and must not keep others from being recorded."""
        self._sending.append(taken)
        try:
            ended = await self._write(taken.flush, alone=first_time)
        except Exception as error:
            # Postgres is away, or chose this transaction to end a deadlock. What is sent again is not counted twice.
            self._unsent.append(taken)
            extra = {"error": type(error).__name__, "items": len(taken.flush.ended)}
            log.warning("flush not acknowledged", extra=extra, exc_info=not unavailable(error))
            await asyncio.sleep(RESEND_SECONDS)
            return not unavailable(error)
        finally:
            self._sending.remove(taken)
        if ended or not first_time:  # one that was sent before may have ended them then
            self._ended_batches()
        self._recorded(ended == len(taken.batches) and _is_plain(taken.flush))
        return True

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


def _is_plain(flush: Flush) -> bool:
    """Nothing of it had a chat that others may wait for."""
    return not flush.retried and all(type(one) is Answered for one in flush.ended)


def _unstorable(ended: End) -> Ended:
    error = ItemError(500, "unstorable_result", "The processor's answer cannot be stored.")
    text = orjson.dumps(error.as_json()).decode()
    return Ended(ended.lease, ended.ordinal, code=500, error=text, history_id=ended.history_id)
