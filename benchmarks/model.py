"""A model of one Postgres and its workers, for benchmarks/simulate.py: events are what costs time in a drain.

Turns of a worker's one thread, round trips to Postgres, its CPU, its waits for the disk, the row of a tenant that one claim at a
time charges, and the row of the counters that one flush of a batch has at a time. Fairness, reads and failures are left out.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.clock import Clock, Cores, Gate, Steps, Thread

POST_ITEMS = 1000
CLAIM_TRIPS = 2  # choose and cut, items
FLUSH_TRIPS = 5  # begin, leases, COPY, counters, commit
END_TRIPS = 4  # of a flush that ends batches
FLUSH_ITEMS, LINGER_SECONDS = 200, 0.05  # worker/recorder.py
AHEAD_SECONDS, AHEAD_MOST, CLAIM_MOST = 0.05, 4000, 1000  # worker/items.py
WATCH_SECONDS = 0.1
TURN_SECONDS = 0.001  # for so long items that never wait keep the loop
CLAIM_SHARE = 0.4  # of what an item costs in Postgres; the rest is the flush


@dataclass(frozen=True)
class Costs:
    """Microseconds of CPU for each item unless it says otherwise. From docs/performance.md, 2026-11-26, quiet machine."""

    post_python: float = 5.6
    post_postgres: float = 4.7
    post_client: float = 0.7
    python: float = 5.2  # of a drain, in claims of 1,000 and larger flushes
    postgres: float = 4.1
    chunk: float = 850.0  # of a claim and its flush, however few items; half of it in Postgres
    trip: float = 43.0  # a read by primary key, there and back (db.py)
    claim_trip: float = 400.0  # a claim takes 0.7 to 0.9 ms (docs/decisions/0018-fronts.md)
    disk: float = 74.0  # 8 kB reach the disk
    log: float = 2.8  # 1.4 KB at 500 MB/s, which nobody measured: one flush after the other


@dataclass(frozen=True)
class Plan:
    items: int
    workers: int = 1
    worker_cores: int = 2  # of each worker's host; none: those of Postgres
    postgres_cores: int = 2
    together: bool = True  # all on the host of Postgres
    slots: int = 256  # of each worker
    wait_seconds: float = 0.0  # of each item
    batch_items: int = POST_ITEMS
    tenants: int = 1
    posted: bool = False  # while they are worked, by one client, to a process that does both
    costs: Costs = field(default_factory=Costs)


@dataclass
class Batch:
    number: int
    waiting: int
    open: int  # items without a result
    counters: Gate
    claimed: bool = False  # somebody is at its schedule's row


class Mill:
    """One Postgres and its workers."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.clock = plan, Clock()
        self.postgres = Cores(self.clock, plan.postgres_cores)
        self.disk = Cores(self.clock, 1)
        self.tenants = [Gate(self.clock) for _ in range(plan.tenants)]
        self.batches = deque[Batch]()
        self.left = plan.items
        self.ended_at = 0.0
        self.workers = [
            Worker(self, self.postgres if plan.together else Cores(self.clock, plan.worker_cores))
            for _ in range(plan.workers)
        ]

    def drain(self) -> float:
        """Seconds until the last item has its result."""
        if self.plan.posted:
            self.clock.start(self._posts())
        else:
            self.batches.extend(
                Batch(number, size, size, Gate(self.clock)) for number, size in enumerate(self._sizes())
            )
        for worker in self.workers:
            worker.start()
        self.clock.run()
        assert self.left == 0, f"{self.left} items are left"
        return self.ended_at

    def _sizes(self) -> Iterator[int]:
        for first in range(0, self.plan.items, self.plan.batch_items):
            yield min(self.plan.batch_items, self.plan.items - first)

    def _posts(self) -> Steps:
        costs, thread = self.plan.costs, self.workers[0].thread
        for number, size in enumerate(self._sizes()):
            yield self.postgres.use(size * costs.post_client / 1e6)  # the client's, on the same cores
            yield thread.use(size * costs.post_python / 1e6)
            yield from self.statements(thread, 6, size * costs.post_postgres / 1e6)
            self.batches.append(Batch(number, size, size, Gate(self.clock)))
            for worker in self.workers:
                worker.news()

    def statements(self, thread: Thread, trips: int, seconds: float, trip: float | None = None) -> Steps:
        """`seconds` of Postgres in so many round trips. Each answer waits for the thread's turn."""
        for _ in range(trips):
            yield (self.plan.costs.trip if trip is None else trip) / 1e6
            yield self.postgres.use(seconds / trips)
            yield thread.use(1e-6)

    def startable(self) -> Batch | None:
        while self.batches and self.batches[0].waiting == 0:
            self.batches.popleft()
        return next((one for one in self.batches if one.waiting and not one.claimed), None)


class Worker:
    def __init__(self, mill: Mill, cores: Cores) -> None:
        self._mill, self._plan, self._costs = mill, mill.plan, mill.plan.costs
        self.thread = Thread(cores)
        self._in_hand = 0  # claimed, without a verdict
        self._ready: deque[tuple[Batch, int]] = deque()
        self._ended: dict[int, tuple[Batch, int]] = {}
        self._verdicts = self._ended_since = 0
        self._rate = 0.0  # items a second
        self._random = random.Random(1)
        self._claiming = self._turning = self._flushing = self._lingering = False
        # What a chunk costs whatever its size is in what was measured for each item.
        self._python = self._costs.python - self._costs.chunk / 2 / 700
        self._postgres = self._costs.postgres - self._costs.chunk / 2 / 700

    def start(self) -> None:
        self._mill.clock.start(self._watch())
        self.news()

    def _watch(self) -> Steps:
        """How fast items end of late, as worker/pace.py measures it, but for the first burst: so far ahead they are claimed."""
        while self._mill.left:
            yield WATCH_SECONDS
            self._rate = (self._rate + self._ended_since / WATCH_SECONDS) / 2
            self._ended_since = 0
            self.news()

    def news(self) -> None:
        ahead = 0 if self._plan.wait_seconds else min(int(self._rate * AHEAD_SECONDS), AHEAD_MOST)
        free = self._plan.slots - self._in_hand + ahead
        if not self._claiming and free > 0 and (batch := self._mill.startable()) is not None:
            self._claiming = True
            self._mill.clock.start(self._claim(batch, min(free, batch.waiting, CLAIM_MOST)))

    def _claim(self, batch: Batch, taken: int) -> Steps:
        batch.claimed = True
        batch.waiting -= taken
        self._in_hand += taken
        fixed = self._costs.chunk / 2 * CLAIM_SHARE
        each = (fixed + taken * self._postgres * CLAIM_SHARE) / 1e6 / CLAIM_TRIPS
        tenant = self._mill.tenants[batch.number % self._plan.tenants]
        yield tenant.take  # its row is charged, and others wait for the commit, which is part of the statement
        yield from self._mill.statements(self.thread, 1, each, self._costs.claim_trip)
        tenant.leave()
        yield from self._mill.statements(self.thread, CLAIM_TRIPS - 1, each, self._costs.claim_trip)
        batch.claimed = False
        yield self.thread.use(fixed / 1e6)
        self._claiming = False
        self._ready.append((batch, taken))
        if not self._turning:
            self._turning = True
            self._mill.clock.start(self._turns())
        for worker in self._mill.workers:  # the others may have passed this batch over
            worker.news()  # and this one looks again, as there may be more

    def _turns(self) -> Steps:
        most = max(1, int(TURN_SECONDS * 1e6 / self._python))
        while self._ready:
            batch, count = self._ready.popleft()
            now = min(count, most)
            if now < count:
                self._ready.appendleft((batch, count - now))
            yield self.thread.use(now * self._python / 1e6)
            if self._plan.wait_seconds:
                self._call(batch, now)
            else:
                self._verdict(batch, now)
        self._turning = False
        self._flush()

    def _call(self, batch: Batch, count: int) -> None:
        """Answers come when they come, so flushes are small: by eights, half as late again or half as early."""
        for first in range(0, count, 8):
            seconds = self._plan.wait_seconds * self._random.uniform(0.5, 1.5)
            some = min(8, count - first)
            self._mill.clock.at(seconds, lambda n=some: self._verdict(batch, n))  # type: ignore[misc]

    def _verdict(self, batch: Batch, count: int) -> None:
        self._in_hand -= count
        _, before = self._ended.get(batch.number, (batch, 0))
        self._ended[batch.number] = (batch, before + count)
        self._verdicts += count
        self._ended_since += count
        if not self._ready and (self._plan.slots - self._in_hand) * 4 >= self._plan.slots:
            self.news()
        if self._verdicts >= FLUSH_ITEMS or self._in_hand == 0:
            self._flush()
        elif not self._lingering:
            self._lingering = True
            self._mill.clock.at(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        self._lingering = False
        self._flush()

    def _flush(self) -> None:
        if self._verdicts and not self._flushing:
            self._flushing = True
            self._mill.clock.start(self._record())

    def _record(self) -> Steps:
        ended, count = [self._ended[number] for number in sorted(self._ended)], self._verdicts
        self._ended, self._verdicts = {}, 0
        fixed = self._costs.chunk / 2 * (1 - CLAIM_SHARE)
        yield self.thread.use(fixed / 1e6)
        each = (fixed + count * self._postgres * (1 - CLAIM_SHARE)) / 1e6 / FLUSH_TRIPS
        yield from self._mill.statements(self.thread, FLUSH_TRIPS - 2, each * (FLUSH_TRIPS - 2))
        for batch, _ in ended:
            yield batch.counters.take
        trips = 2 + (END_TRIPS if any(batch.open == n for batch, n in ended) else 0)
        yield from self._mill.statements(self.thread, trips, each * 2)
        yield self._mill.disk.use(count * self._costs.log / 1e6)
        yield self._costs.disk / 1e6
        for batch, n in ended:
            batch.open -= n
            batch.counters.leave()
        self._mill.left -= count
        self._mill.ended_at = self._mill.clock.now
        self._flushing = False
        if self._verdicts >= FLUSH_ITEMS or not self._in_hand:
            self._flush()
        self.news()
