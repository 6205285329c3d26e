"""Calls as an endpoint sees them, each with the worker that made it: how many went on at once, and on whose share.

All moments are Unix seconds, those of Postgres included: one machine, one clock.
"""

import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import asyncpg

from fakes.llm import FakeLLM
from fakes.wire import Request
from torture.fleet import Worker


@dataclass(frozen=True)
class Call:
    worker: str
    began_at: float  # it had come, which is later than its permit
    ended_at: float


@dataclass(frozen=True)
class Life:
    """Of a worker as its row tells it: when it joined, and from when on others could declare it dead; infinity if nobody has."""

    worker: str
    began_at: float
    lapsed_at: float


class Calls:
    """`seen`: how many went on at once, whenever one ended; to be cleared at will. Workers call with their names as keys."""

    def __init__(self, llm: FakeLLM) -> None:
        self.seen: set[int] = set()
        self._llm = llm
        self._ended: dict[int, float] = {}
        self._zero = time.time() - time.monotonic()
        llm.gate = self._end

    def _end(self, request: Request) -> None:
        self.seen.add(self._llm.in_flight)
        self._ended[id(request)] = time.monotonic()

    def all(self) -> list[Call]:
        """In the order in which they came; those that go on end now."""
        now = time.monotonic()
        return [
            Call(
                one.headers["authorization"].removeprefix("Bearer "),
                self._zero + one.at,
                self._zero + self._ended.get(id(one), now),
            )
            for one in self._llm.requests
        ]


def most_at_once(calls: Iterable[Call]) -> int:
    """They are in the order in which they began."""
    most, ends = 0, list[float]()
    for one in calls:
        while ends and ends[0] <= one.began_at:
            heapq.heappop(ends)
        heapq.heappush(ends, one.ended_at)
        most = max(most, len(ends))
    return most


# What came so soon after a worker had joined anew was still sent by the one that was declared dead: nobody has a share sooner.
_SETTLING_SECONDS = 0.1


def life_of(call: Call, lives: Sequence[Life]) -> Life:
    own = [one for one in lives if one.worker == call.worker]
    begun = [one for one in own if one.began_at + _SETTLING_SECONDS <= call.began_at]
    return max(begun or own[:1], key=lambda one: one.began_at)


def of_the_living(calls: Iterable[Call], lives: Sequence[Life]) -> list[Call]:
    """Each as long as its worker could not be declared dead: what is promised to be within the limit."""
    cut = [(one, life_of(one, lives).lapsed_at) for one in calls]
    return [
        replace(one, ended_at=min(one.ended_at, lapsed_at))
        for one, lapsed_at in cut
        if one.began_at < lapsed_at
    ]


async def lives(
    connection: "asyncpg.Connection[asyncpg.Record]", workers: Iterable[Worker], lease_seconds: float
) -> list[Life]:
    """In the order of their beginning."""
    names = {worker.pid: worker.name for worker in workers}
    rows = await connection.fetch(
        """
        SELECT split_part(name, ':', 2)::int AS pid, extract(epoch FROM started_at)::float8 AS began_at,
            CASE WHEN dead THEN extract(epoch FROM beat_at)::float8 + $1 ELSE 'infinity' END AS lapsed_at
        FROM worker ORDER BY started_at
        """,
        lease_seconds,
    )
    return [Life(names[row["pid"]], row["began_at"], row["lapsed_at"]) for row in rows]


@dataclass(frozen=True)
class Carried:
    """Calls of a worker that was declared dead while it was stopped. It had a permit for each: `sent` had gone out before,
    `late` came when it went on. `share`: what it had when it was stopped."""

    sent: int
    late: int
    share: int


@dataclass
class Stop:
    """Of a worker that was declared dead meanwhile. `again_at`: when it had joined anew; from then on it has another share."""

    worker: Worker
    at: float
    share: int = 0
    on_at: float = 0.0  # when it went on
    again_at: float = 0.0

    def carried(self, calls: Iterable[Call]) -> Carried:
        own = [one for one in calls if one.worker == self.worker.name and one.began_at < self.again_at]
        sent = sum(one.began_at < self.on_at and one.ended_at > self.at for one in own)
        return Carried(sent, sum(one.began_at >= self.on_at for one in own), self.share)
