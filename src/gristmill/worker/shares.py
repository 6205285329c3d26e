"""What this worker has of the limits of the whole service: looked up, asked for by demand, and given back."""

import logging
import time
from asyncio import Event
from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

from asyncpg import LockNotAvailableError

from gristmill import metrics
from gristmill.db import Database, Transaction
from gristmill.domain.circuits import MODEL
from gristmill.domain.shares import SLICE_SECONDS
from gristmill.settings import Settings
from gristmill.store import service_limits, shares
from gristmill.store.service_limits import Limit
from gristmill.store.shares import Demand, Grant
from gristmill.upstream.permits import Limits, Permits
from gristmill.worker.loop import guarded

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # a change of a limit is seen after so long


class Shares:
    """`trusted`: whether this worker is alive for certain, as others see it. `changed`: called when items may start that
    could not before."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        trusted: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self.worker_id = 0
        self.news = Event()  # for the loop that takes the steps
        self._database = database
        self._trusted = trusted
        self._changed = changed
        self._most = {MODEL: settings.llm_concurrency, "url": settings.concurrency}
        self._look_seconds = min(LOOK_SECONDS, settings.poll_seconds)
        self._limits: dict[str, Limit] = {}  # of endpoints
        self._looked_at = float("-inf")
        self._known: WeakValueDictionary[str, Permits] = WeakValueDictionary()
        self._kept: set[Permits] = set()  # Postgres knows of something that these have
        self._again_at: dict[str, float] = {}  # where another held the limit for too long
        self._closed = False
        self.limits_starts = False  # whether a tenant or a processor is limited

    def of(self, name: str) -> Permits:
        """For the circuits of this name, whosever they are."""
        if (known := self._known.get(name)) is None:
            known = self._known[name] = Permits(name, asking=self.news.set, trusted=self._trusted)
            self._set_limit(known)
            if self._closed:
                known.close()
        return known

    def _set_limit(self, permits: Permits) -> None:
        limit = self._limits.get(permits.name)
        permits.limit(_limits(limit), None if limit is None else limit.id)

    async def step(self) -> int:
        """Look at the limits if that is due, and ask for what is wanted."""
        if time.monotonic() - self._looked_at >= self._look_seconds / 2:
            await self.look()
        for permits in [one for one in list(self._known.values()) if one.due(self._look_seconds / 2)]:
            if time.monotonic() >= self._again_at.get(permits.name, 0.0):
                await guarded("shares", partial(self._ask, permits))
        self._measure()
        return 0

    async def look(self) -> None:
        async with self._database.connection() as connection:
            found = await service_limits.all_(connection)
        self._looked_at = time.monotonic()
        limited = any(one.kind != "upstream" for one in found)
        if self.limits_starts and not limited:
            self._changed()
        self.limits_starts = limited
        self._limits = {one.name: one for one in found if one.kind == "upstream"}
        for permits in list(self._known.values()):
            self._set_limit(permits)
        await self._look_at_waiters()
        self._kept = {one for one in self._kept if one.concerned}

    async def _look_at_waiters(self) -> None:
        """What waits for its first call goes back if its batch starts nothing any more; what has called keeps its lease."""
        known = [one for one in list(self._known.values()) if one.waiting]
        waiting = [one for permits in known for one in permits.waiting_callers()]
        new = {batch_id for batch_id, _, has_called in waiting if not has_called}
        begun = [(batch_id, ordinal) for batch_id, ordinal, has_called in waiting if has_called]
        if not waiting or not self.worker_id:
            return
        async with self._database.transaction(durable=False) as tx:
            stopped = new - await shares.starting(tx, new)
            if begun:
                await shares.keep_leases(tx, self.worker_id, begun)
        for permits in known:
            permits.drop(stopped)

    async def _ask(self, permits: Permits) -> int:
        """Whatever goes wrong on the way, less is used here than Postgres thinks."""
        limit = self._limits.get(permits.name)
        if limit is None or not self.worker_id or not self._trusted():
            return 0
        self._kept.add(permits)
        permits.freeze()
        worker_id, demand = self.worker_id, self._demand(permits)
        taken_at = time.monotonic()
        try:
            async with self._database.transaction() as tx:
                grant = await shares.take(tx, limit, worker_id, demand)
        except LockNotAvailableError:
            self._put_off(permits, demand)
            return 0
        if grant is not None and worker_id == self.worker_id:
            permits.overdrawn -= demand.overdrawn
            self._grant(permits, grant, demand, taken_at)
        (self._kept.add if permits.concerned else self._kept.discard)(permits)
        return 1

    def _put_off(self, permits: Permits, demand: Demand) -> None:
        """Another has the limit's row, and has been stopped or cut off: what was to go back still is to."""
        log.warning("a limit is held elsewhere", extra={"endpoint": permits.name.partition(":")[0]})
        permits.correct(-demand.tokens_back)
        self._again_at[permits.name] = time.monotonic() + LOOK_SECONDS

    def _demand(self, permits: Permits) -> Demand:
        """What was taken and not used goes back, unless it has lapsed; it is not used from now on."""
        wanted = permits.wanted(self._most[permits.name.partition(":")[0]])
        requests, tokens = permits.asked()
        least, waited = permits.head()
        unused_requests, unused_tokens, overdrawn = permits.handed_back()
        return Demand(
            permits.calling,
            permits.waiting,
            wanted,
            permits.soon,
            requests=requests,
            requests_back=unused_requests,
            tokens=tokens,
            tokens_back=unused_tokens,
            tokens_least=least,
            waited_seconds=waited,
            overdrawn=overdrawn,
        )

    def _grant(self, permits: Permits, grant: Grant, demand: Demand, taken_at: float) -> None:
        if grant.share is not None:
            permits.share = grant.share
        permits.requests, permits.tokens = grant.requests, grant.tokens
        permits.lapses_at = taken_at + SLICE_SECONDS
        limits = permits.limits
        permits.capped = grant.capped
        permits.short = (
            (grant.share is not None and grant.share < demand.wanted)
            or (limits.requests_per_minute is not None and grant.requests < demand.requests)
            or (limits.tokens_per_minute is not None and grant.tokens < demand.tokens)
        )
        permits.granted()
        self._changed()

    def forfeit(self) -> None:
        """This worker was declared dead: what it had is others', also what is just being granted to it."""
        self.worker_id = 0
        for permits in list(self._known.values()):
            permits.forfeit()

    def close(self) -> None:
        """This worker ends: what has not called here goes to others."""
        self._closed = True
        for permits in list(self._known.values()):
            permits.close()

    async def give_back(self, tx: Transaction) -> None:
        await shares.give_back(tx, self.worker_id)

    def _measure(self) -> None:
        for kind in self._most:
            ones = [
                one
                for one in list(self._known.values())
                if one.limits.some and one.name.partition(":")[0] == kind
            ]
            metrics.permits(
                kind,
                granted=sum(one.share for one in ones),
                used=sum(one.calling for one in ones),
                waiting=sum(one.waiting for one in ones),
            )


def _limits(limit: Limit | None) -> Limits:
    if limit is None:
        return Limits()
    return Limits(limit.max_in_flight, limit.requests_per_minute, limit.tokens_per_minute)
