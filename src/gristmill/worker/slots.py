"""Slots: coroutines that live as long as the worker and take one item after the other. A task per item would cost 4.4 µs, a
timeout per item 5.9 (docs/performance.md). One watch ends what runs over its time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from gristmill import metrics
from gristmill.domain.outcomes import Outcome, Retry
from gristmill.upstream.circuit import CALLER, Caller, Circuit
from gristmill.worker.circuits import Circuits
from gristmill.worker.pace import Pace
from gristmill.worker.recorder import Recorder
from gristmill.worker.work import Job, Load, Work, excused, run, settle, timed_out

WOKEN = 4  # slots that a claim wakes; each wakes two more while items are left, so that items that never wait stay in few
INTERRUPT_SECONDS = 5.0  # how long items may take to end once they are interrupted
# Items that never wait let the rest of the loop in after so long: each answer of Postgres to a claim or a flush waits as long.
UNINTERRUPTED_SECONDS = 0.001


class Ready:
    """What waits for a slot: all of one batch in its order, and several batches in turns, so that what was claimed ahead of a
    large one does not keep a few items of another waiting. `turn` is taken from by whoever has a slot."""

    def __init__(self) -> None:
        self.turn: deque[Work] = deque()  # of one batch, the one whose turn it is
        self._others: dict[UUID, deque[Work]] = {}

    def __len__(self) -> int:
        return len(self.turn) + sum(map(len, self._others.values()))

    def __bool__(self) -> bool:
        return bool(self.turn or self._others)

    def put(self, works: Sequence[Work]) -> None:
        """Of one batch."""
        batch_id = works[0].held.lease.batch_id
        if not self or (self.turn and self.turn[0].held.lease.batch_id == batch_id):
            self.turn.extend(works)
        else:
            self._others.setdefault(batch_id, deque()).extend(works)

    def next_turn(self) -> bool:
        """Of the batch that has waited longest for it; whether there is anything."""
        if self._others:
            over, self.turn = self.turn, self._others.pop(next(iter(self._others)))
            if over:
                self._others[over[0].held.lease.batch_id] = over
        return bool(self.turn)

    def jobs(self) -> Iterator[Job]:
        """One for each item."""
        return (work.job for works in (self.turn, *self._others.values()) for work in works)

    def taken(self) -> Iterator[Work]:
        """All there is, which is not there any more."""
        while self.turn or self.next_turn():
            yield self.turn.popleft()


class Slots:
    """`loads`: of the processors by name. `freed` is called when a slot has nothing to do."""

    def __init__(
        self,
        recorder: Recorder,
        circuits: Circuits,
        loads: Mapping[str, Load],
        *,
        concurrency: int,
        freed: Callable[[], None],
    ) -> None:
        self.pace = Pace(concurrency)
        self._recorder = recorder
        self._circuits = circuits
        self._loads = loads
        self._concurrency = concurrency
        self._freed = freed
        self._ready = Ready()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._running: dict[asyncio.Task[None], float] = {}  # until when, on the loop's clock
        self._overdue: set[asyncio.Task[None]] = set()
        self._slots: set[asyncio.Task[None]] = set()
        self._ended = 0  # since the worker began
        self._loop = asyncio.get_running_loop()
        self._slice_ends = 0.0
        self._slice: asyncio.Future[None] = self._loop.create_future()
        self._slice.set_result(None)
        self._ending = False

    def put(self, works: Sequence[Work]) -> None:
        """To be run, in this order; they are of one batch, and held already (`Job.hold`)."""
        if not self.has_some:
            self.pace.begun(self._ended)
        self._ready.put(works)
        self._wake(WOKEN)

    @property
    def ready(self) -> Iterator[Job]:
        """The job of each item that waits for a slot."""
        return self._ready.jobs()

    @property
    def has_some(self) -> bool:
        """Whether anything runs, or is to."""
        return bool(self._running or self._ready)

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    @property
    def many_are_idle(self) -> bool:
        """So many that a claim is worth its cost."""
        return len(self._idle) * 4 >= self._concurrency

    @property
    def stubborn(self) -> int:
        """Runs that go on although they were interrupted long ago, and may do so forever."""
        long_ago = self._loop.time() - INTERRUPT_SECONDS
        return sum(self._running[task] < long_ago for task in self._overdue)

    def _wake(self, most: int) -> None:
        """Wake slots for items that are ready; make more slots while there may be."""
        for _ in range(min(len(self._ready), most)):
            if self._idle:
                waiting = self._idle.popleft()
                if not waiting.done():
                    waiting.set_result(None)
            elif len(self._slots) < self._concurrency:
                slot = asyncio.create_task(self._slot())
                self._slots.add(slot)
                slot.add_done_callback(self._slots.discard)
            else:
                return

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        fresh = True
        while not self._ending:
            if not (self._ready.turn or self._ready.next_turn()):
                if not self._running:
                    self.pace.paused(self._ended)
                self._freed()
                await self._rest()
                fresh = True
            now = self._loop.time()
            if now > self._slice_ends:
                await self._next_slice()
                fresh = True
            elif self._ready.turn:
                if fresh:
                    self._wake(2)
                    fresh = False
                work = self._ready.turn.popleft()
                if work.job.circuit is None:
                    self._settle(work, await self._outcome(task, work, now))
                else:
                    await self._run_on(work.job.circuit, task, work, now)
                del work  # a slot that rests keeps nothing of it, neither its input nor its batch's own key

    def _rest(self) -> asyncio.Future[None]:
        waiting = self._loop.create_future()
        self._idle.append(waiting)
        return waiting

    def _next_slice(self) -> asyncio.Future[None]:
        """Let the rest of the loop in, and then the next batch. One slot goes on in the next round of the loop, and wakes
        others if it must."""
        if not self._slice.done():
            return self._rest()
        self._slice = self._loop.create_future()
        self._loop.call_soon(self._begin_slice)
        return self._slice

    def _begin_slice(self) -> None:
        self._slice_ends = self._loop.time() + UNINTERRUPTED_SECONDS
        self._ready.next_turn()
        if not self._slice.done():  # else the end of the worker interrupted whoever waits for it
            self._slice.set_result(None)

    async def _run_on(self, circuit: Circuit, task: asyncio.Task[None], work: Work, now: float) -> None:
        """An item that calls somebody: not while the circuit is open, and judged by how others fare."""
        lease = work.held.lease
        if circuit.is_open and not lease.probing:
            work.job.hold(-1)
            self._recorder.give_back(work.held, work.item.ordinal)
            return
        again = lease.waited or lease.attempt > lease.losses + 1
        caller = Caller((lease.batch_id, work.item.ordinal), lease.probing, again)
        caller.postpone = partial(self._postpone, task)
        began, token = circuit.clock(), CALLER.set(caller)
        try:
            outcome = await self._outcome(task, work, now, caller)
        finally:
            CALLER.reset(token)
            caller.ended()
            if lease.probing:
                circuit.probe_ended(caller)
        if not (isinstance(outcome, Retry) and outcome.outage):
            self._settle(work, outcome)
            return
        if caller.cut_off:
            circuit.failed(began, caller, "down")
        judge = partial(self._settle_doubtful, work, outcome)
        self._circuits.doubt(circuit, began, judge, waits=outcome.waiting)
        self._circuits.review()

    async def _outcome(
        self, task: asyncio.Task[None], work: Work, now: float, caller: Caller | None = None
    ) -> Outcome:
        self._running[task] = now + work.job.assignment.item_timeout_seconds
        try:
            return await run(work)
        except asyncio.CancelledError:
            if task not in self._overdue:
                self._recorder.give_back(work.held, work.item.ordinal)
                raise
            late = timed_out(work)
            return replace(late, outage=True) if caller and caller.cut_off else late
        finally:
            self._ended += 1
            self._running.pop(task, None)
            work.job.hold(-1)
            if task in self._overdue:  # also when the processor went on in spite of it
                self._overdue.discard(task)
                task.uncancel()

    def _postpone(self, task: asyncio.Task[None], seconds: float) -> None:
        """Its item waits for a permit: its time does not run."""
        if task in self._running:
            self._running[task] += seconds

    def _settle_doubtful(self, work: Work, outcome: Retry, is_excused: bool) -> None:
        self._settle(work, excused(outcome) if is_excused else outcome)

    def _settle(self, work: Work, outcome: Outcome) -> None:
        verdict = settle(work, outcome)
        self._recorder.add(work.held, verdict)
        work.job.load.note(verdict)

    async def watch(self) -> int:
        """End what runs over its time, judge what had to wait for that, and measure how fast items end of late."""
        self._circuits.review()
        now = self._loop.time()
        for task, deadline in list(self._running.items()):
            if now > deadline and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._tell()
        self.pace.watched(self._ended)
        return 0

    def _tell(self) -> None:
        for processor, load in self._loads.items():
            if load.succeeded:
                metrics.items_ended(processor, "success", None, load.succeeded)
            for code, count in load.failed.items():
                metrics.items_ended(processor, "failed", code, count)
            for reason, count in load.requeued.items():
                metrics.items_requeued(processor, reason, count)
            load.succeeded = 0
            load.failed.clear()
            load.requeued.clear()
        metrics.items_in_flight(len(self._running))

    # --- the end ---

    def return_ready(self) -> None:
        """What has not started goes back."""
        for work in self._ready.taken():
            work.job.hold(-1)
            self._recorder.give_back(work.held, work.item.ordinal)

    def drop(self) -> None:
        """What has not started is others' now."""
        for work in self._ready.taken():
            work.job.hold(-1)

    async def interrupt(self) -> None:
        """Nothing starts any more; what runs is given back once it has ended."""
        self._ending = True
        for slot in self._slots:
            slot.cancel()
        # A processor that does not let itself be interrupted must not keep the others from being recorded.
        if self._slots:
            await asyncio.wait(self._slots, timeout=INTERRUPT_SECONDS)
