"""Permits for calls to one endpoint whose limits are of the whole service, as one process has them.

What may go out is what this worker was granted in Postgres (`store/shares.py`): so many calls at once, and slices of the requests
and tokens of a minute, which lapse. Where nothing is limited, a permit is a number that goes up and down.

A call that has to wait does so in line (upstream/line.py). That is no fault of its item: it uses no attempt, and the item's time
stands still. An item that waits long for its first call goes back to wait in Postgres.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import UUID

from gristmill.domain.shares import SLICE_SECONDS
from gristmill.upstream.caller import CALLER
from gristmill.upstream.line import Crowded as Crowded
from gristmill.upstream.line import Line, NotCalled, Waiter

# For the first call of an item. One that has called waits as long as it takes: its worker keeps its lease (worker/shares.py).
WAIT_SECONDS = 30.0
ASK_SECONDS = 0.05  # between two askings while there is something to be had
ASK_AGAIN_SECONDS = 0.25  # once there was less than was asked for
# Items that may be claimed beyond what may call, so that a permit that comes free is used at once: at least so many,
LEAST_AHEAD = 8
AHEAD = 4  # or this part of the share,
AHEAD_SECONDS = 2.0  # or what comes in this time, where requests or tokens of a minute are limited


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the whole service; None: none."""

    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def paced(self) -> bool:
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    @property
    def some(self) -> bool:
        return self.in_flight is not None or self.paced


class Permits:
    """For the tasks of one loop. `asking`: called when Postgres should be asked for more. `trusted`: whether what was granted
    is still this worker's for certain."""

    def __init__(
        self,
        name: str,
        *,
        asking: Callable[[], None] = lambda: None,
        trusted: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.limits = Limits()
        self._limited = False  # whether these say anything: looked at for each call
        self._limit_id: UUID | None = None
        self.calling = 0
        self.share = 0  # so many calls at once, where they are limited
        self.short = False  # there was less than was asked for
        self.capped = False  # … because no more calls at once were granted
        self.requests = self.tokens = 0.0  # taken in advance and unused
        self.overdrawn = 0.0  # tokens used beyond what was taken for them
        self.lapses_at = 0.0
        self._asking = asking
        self._trusted = trusted
        self._clock = clock
        self._waiting = Line()
        self._closed = False
        self._peaks = (0, 0)  # most that called or waited, since the last asking and before it
        self._begun = (0, 0.0)  # calls and tokens since the last asking
        self._pace = 0.0  # calls a second, of late
        self._asked_at = float("-inf")
        self._timer: asyncio.Handle | None = None  # for what is due at once, uvloop's knows no time
        self._timer_due = 0.0
        self._wants = False
        self._was_busy = False  # as Postgres was told when it was last asked

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def room(self, fresh: int) -> int | None:
        """How many more items may be claimed whose calls would go here; `fresh` of those in hand have not begun. None: as
        many as anybody likes."""
        if not self.limits.some:
            return None
        rooms = []
        if (most := self.limits.in_flight) is not None:
            ahead = min(max(LEAST_AHEAD, self.share // AHEAD), most)
            rooms.append(max(0, self.share - self.calling) + ahead)
        if self.limits.requests_per_minute is not None:
            rooms.append(max(1, int(AHEAD_SECONDS * self.limits.requests_per_minute / 60)))
        if self.limits.tokens_per_minute is not None and not rooms:
            rooms.append(max(LEAST_AHEAD, int(AHEAD_SECONDS * self._pace)))
        return max(0, min(rooms) - self.waiting - fresh)

    # --- one call ---

    def enter_freely(self) -> bool:
        """Where nothing is limited and nobody waits, as mostly, a call is begun, like by `enter`, and the answer is True."""
        if self._limited or self._waiting:
            return False
        self.calling += 1
        if self.calling > self._peaks[0]:
            self._peaks = (self.calling, self._peaks[1])
        return True

    async def enter(self, tokens: float) -> None:
        """Raises Crowded. Every call that is begun is ended by `leave`."""
        caller = CALLER.get()
        if self._waiting.is_free_for(caller) and self._admits(tokens):
            self._begin(tokens)
        else:
            await self._wait_in_line(Waiter(tokens, caller, self._clock()))
            while self._limited and not self._trusted():
                self.leave()  # stopped since it was let in: its share may be others' by now
                await self._wait_in_line(Waiter(tokens, caller, self._clock()))
        self._note_peak()

    async def _wait_in_line(self, waiter: Waiter) -> None:
        timer = None
        if not waiter.has_called:
            timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, waiter.give_up)
        if waiter.caller is not None:
            waiter.caller.begin_wait(waiter.since)
        self._waiting.append(waiter)
        try:
            self._note_peak()
            if self._closed:
                self._let_go()
            self.ask_soon()
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.had_its_turn:
                self.leave()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if waiter.caller is not None:
                waiter.caller.end_wait(self._clock())
            if waiter.in_line:
                self._waiting.remove(waiter)
                self.serve()  # it may have been in the way of others

    def leave(self) -> None:
        self.calling -= 1
        if not self._waiting:
            return
        self.serve()
        if self._waiting and self.capped and self.calling < self.share:
            self.ask_soon(ASK_SECONDS)

    def correct(self, more_tokens: float) -> None:
        """The call used so many more than was thought, or fewer."""
        self.overdrawn += more_tokens

    def unused(self) -> None:
        """Nobody was called: what the call took but its tokens is there again."""
        self.requests += self.limits.requests_per_minute is not None

    def serve(self) -> None:
        """Let in whose turn it is."""
        while self._waiting and self._admits(self._waiting.head.tokens):
            waiter = self._waiting.pop()
            if not waiter.admitted.done():
                self._begin(waiter.tokens)
                waiter.admitted.set_result(None)

    # --- who waits in vain ---

    def waiting_callers(self) -> Iterator[tuple[UUID, int, bool]]:
        """The items that wait: their batch, their ordinal, and whether they have called before."""
        for waiter in self._waiting:
            if waiter.caller is not None:
                yield (*waiter.caller.item, waiter.has_called)

    def drop(self, batch_ids: Collection[UUID]) -> None:
        """Nothing of these batches starts any more: what has not called goes back."""
        for waiter in self._waiting:
            if waiter.batch_id in batch_ids and not waiter.has_called:
                waiter.give_up(0.0)

    def close(self) -> None:
        """This worker ends: who has not called goes back, and who has as soon as there is nothing here to wait for."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        in_vain = self.limits.in_flight is not None and not (self.share or self.calling)
        for waiter in self._waiting:
            if in_vain or not waiter.has_called:
                waiter.give_up(0.0)

    def _admits(self, tokens: float) -> bool:
        limits = self.limits
        if not limits.some:
            return True
        if limits.in_flight is not None and self.calling >= self.share:
            return False
        if limits.paced and self._clock() >= self.lapses_at:
            return False
        if limits.requests_per_minute is not None and self.requests < 1:
            return False
        if limits.tokens_per_minute is not None and self.tokens < tokens:
            return False
        return self._trusted()

    def _begin(self, tokens: float) -> None:
        self.calling += 1
        if self.limits.paced:
            self.requests -= self.limits.requests_per_minute is not None
            self.tokens -= tokens if self.limits.tokens_per_minute is not None else 0
            calls, used = self._begun
            self._begun = (calls + 1, used + tokens)

    def _note_peak(self) -> None:
        self._peaks = (max(self._peaks[0], self.calling + len(self._waiting)), self._peaks[1])

    # --- what Postgres is asked for, and grants ---

    def limit(self, limits: Limits, limit_id: UUID | None = None) -> None:
        """What is newly limited begins with nothing, also where there was another limit before (`limit_id`)."""
        if (limits, limit_id) == (self.limits, self._limit_id):
            return
        if limit_id != self._limit_id:
            self.forfeit()
            self.overdrawn = 0.0
        if limits.in_flight is None or self.limits.in_flight is None:
            self.share = 0
        self.limits, self._limited, self._limit_id = limits, limits.some, limit_id
        if limits.some:
            self.ask_soon()
        self.serve()

    def forfeit(self) -> None:
        """All that was granted is others' now."""
        self.share, self.requests, self.tokens = 0, 0.0, 0.0

    @property
    def concerned(self) -> bool:
        """Whether there is something to ask for, or to give back."""
        return self.limits.some and bool(
            self.calling or self._waiting or self.share or self.overdrawn or self._was_busy
        )

    def due(self, idle_seconds: float) -> bool:
        """Whether to ask now: somebody waits, or the last asking is so long ago."""
        return self.concerned and (self._wants or self._clock() - self._asked_at >= idle_seconds)

    def freeze(self) -> None:
        """While Postgres is asked, no more calls go on than do now: so many are not given back."""
        self.share = min(self.share, self.calling)

    def wanted(self, most: int) -> int:
        """How many calls at once this worker could use: while some wait, twice what it has, so that shares grow fast."""
        now = self.calling + len(self._waiting)
        if self._waiting:
            return max(min(2 * now, most), self.calling)
        return max(now, *self._peaks)

    def asked(self) -> tuple[int, float]:
        """Requests and tokens for those that wait and, as of late, for those that will come until the next asking. Begins a
        new window."""
        calls, tokens = self._begun
        waiting = sum(waiter.tokens for waiter in self._waiting)
        passed = max(self._clock() - self._asked_at, ASK_SECONDS)
        ahead = 0.0 if self._waiting else SLICE_SECONDS / passed
        self._pace += (1 - math.exp(-passed / SLICE_SECONDS)) * (calls / passed - self._pace)
        self._begun, self._peaks, self._asked_at = (0, 0.0), (0, self._peaks[0]), self._clock()
        self._wants, self._was_busy = False, bool(self.calling or self._waiting)
        return len(self._waiting) + int(calls * ahead), waiting + tokens * ahead

    @property
    def soon(self) -> float:
        """Calls that will begin while a slice is good, as others end."""
        return self._pace * SLICE_SECONDS

    def head(self) -> tuple[float, float]:
        """The tokens of the first that waits, and for how long it has."""
        if not self._waiting:
            return 0.0, 0.0
        first = self._waiting.head
        return first.tokens, self._clock() - first.since

    def handed_back(self) -> tuple[float, float, float]:
        """Requests and tokens that were taken and not used, and are not from now on: nothing of what has lapsed. And the
        tokens used beyond what was taken for them, which are owed until Postgres has heard of them."""
        fresh = self._clock() < self.lapses_at
        requests, tokens = (self.requests, self.tokens) if fresh else (0.0, 0.0)
        self.requests = self.tokens = 0.0
        saved = max(0.0, -self.overdrawn)
        self.overdrawn += saved
        return requests, tokens + saved, self.overdrawn

    def ask_soon(self, pause: float | None = None) -> None:
        pause = pause or (ASK_AGAIN_SECONDS if self.short else ASK_SECONDS)
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, self._asked_at + pause - self._clock())
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer, self._timer_due = loop.call_at(due, self._ask), due

    def _ask(self) -> None:
        self._timer, self._wants = None, True
        self._asking()

    def granted(self) -> None:
        """There may be more, or less, than there was."""
        self.serve()
        if self._closed:
            self._let_go()
        if self._waiting:
            self.ask_soon()


class Permit:
    """The right to one call, as `async with`; raises Crowded when it is entered. `permits` None: nothing is limited.
    `tokens`: what the call is thought to use, with the shortest answer and the longest; asked only where that is limited."""

    def __init__(
        self, permits: Permits | None, tokens: Callable[[], tuple[int, int]] = lambda: (0, 0)
    ) -> None:
        self._permits = permits
        self._estimated = tokens
        self._least = 0  # tokens that it uses although nobody answers
        self._tokens: int | None = None  # that were taken for it

    async def __aenter__(self) -> Self:
        if self._permits is not None and not self._permits.enter_freely():
            if (most := self._permits.limits.tokens_per_minute) is not None:
                least, longest = self._estimated()
                self._least, self._tokens = min(least, most), min(longest, most)
            await self._permits.enter(self._tokens or 0)
        return self

    def used(self, tokens: Callable[[], int]) -> None:
        """What it really was; `tokens` is asked only where they are limited."""
        if self._permits is not None and self._tokens is not None:
            self._permits.correct(tokens() - self._tokens)
            self._tokens = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._permits is None:
            return
        called = not isinstance(error, NotCalled)
        if not called:
            self._permits.unused()
        if self._tokens is not None:  # nobody has answered
            self._permits.correct((self._least if called else 0) - self._tokens)
        self._permits.leave()
