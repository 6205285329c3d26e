"""The duties that keep the house: reaping, sweeping, expiring, partitions. Each is a step; any process may take it."""

import time

from gristmill import metrics
from gristmill.db import Database, unavailable
from gristmill.store import (
    circuits,
    endings,
    histories,
    idempotency,
    leases,
    limits,
    partitions,
    retention,
    schedules,
    shares,
    workers,
)


class Upkeep:
    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._judges_from = 0.0  # by the monotonic clock

    async def reap(self) -> int:
        """Declare silent workers dead, and take the leases of the dead and the stuck back."""
        try:
            return await self._reap()
        except Exception as error:
            if unavailable(error):  # for others, too: who could not beat meanwhile may be alive
                self._judges_from = time.monotonic() + self._lease_seconds
            raise

    async def _reap(self) -> int:
        if time.monotonic() >= self._judges_from:
            async with self._database.transaction() as tx:
                await workers.declare_dead(tx, silent_seconds=self._lease_seconds)
        async with self._database.transaction() as tx:
            lost = await leases.reclaim(tx)
        metrics.leases_lost(lost)
        return lost

    async def sweep(self) -> int:
        """Stop batches whose deadline has passed or that went beyond a limit, and end what waits in batches that start
        nothing any more."""
        async with self._database.connection() as connection:
            if not await endings.some_stop(connection):
                return 0
        async with self._database.transaction() as tx:
            stopped = await endings.expire(tx)
        async with self._database.transaction() as tx:
            stopped += await limits.enforce(tx)
        async with self._database.transaction() as tx:
            return stopped + await endings.sweep(tx)

    async def tidy(self) -> int:
        """Remove what crashes leave over, of which a healthy system has none, tenants who want nothing any more, and
        idempotency keys whose time is over."""
        async with self._database.transaction() as tx:
            await endings.clear_leftovers(tx)
            await histories.let_stranded_go(tx)
            await workers.forget(tx)
            await idempotency.forget(tx)
            await retention.forget_tombstones(tx)
            await circuits.forget(tx)
            await shares.forget(tx)
        async with self._database.transaction() as tx:
            await schedules.forget_tenants(tx)
        return 0

    async def retain(self) -> int:
        """Let batches go whose time is over, and erase what is left of those that are gone."""
        async with self._database.transaction() as tx:
            expired = await retention.expire(tx)
        async with self._database.transaction() as tx:
            return expired + await retention.erase(tx)

    async def partition(self) -> int:
        """Keep partitions ahead of the clock, and drop those in which nothing is kept any more."""
        await partitions.ensure(self._database)
        return await partitions.drop_empty(self._database)
