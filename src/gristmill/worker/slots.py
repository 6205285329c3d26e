"""Slots: coroutines that live as long as the worker and take one item after the other. A task per item would cost 4.4 µs, a
timeout per item 5.9 (docs/performance.md). One watch ends what runs over its time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from gristmill import metrics
from gristmill.domain.outcomes import Outcome, Retry
from gristmill.store.claims import ClaimedItem
from gristmill.upstream.circuit import CALLER, Caller, Circuit
from gristmill.worker.circuits import Circuits
from gristmill.worker.pace import Pace
from gristmill.worker.ready import Ready
from gristmill.worker.recorder import Recorder
from gristmill.worker.work import HeldLease, Job, Load, Work, excused, run, settle, timed_out

WOKEN = 2  # slots that a claim wakes, as does each whose item waits: so that items that never do stay in few
INTERRUPT_SECONDS = 5.0  # how long items may take to end once they are interrupted
# Items that never wait let the rest of the loop in after so long: each answer of Postgres to a claim or a flush waits as long.
# By a clock that knows less than the milliseconds of the loop's, which is the same one otherwise.
UNINTERRUPTED_SECONDS = 0.0005


class Slot:
    """Until when its item may run, on the loop's clock; None: it rests."""

    __slots__ = ("task", "until")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.until: float | None = None

    def postpone(self, seconds: float) -> None:
        """Its item waits for a permit: its time does not run."""
        if self.until is not None:
            self.until += seconds


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
        self._slots: set[Slot] = set()
        self._resting = 0  # of them
        self._overdue: set[Slot] = set()
        self._ended = 0  # since the worker began
        self._loop = asyncio.get_running_loop()
        self._slice_ends = 0.0
        self._slice: asyncio.Future[None] = self._loop.create_future()
        self._slice.set_result(None)
        self._ending = False

    def put(self, job: Job, claimed: Sequence[HeldLease]) -> None:
        """To be run, in this order."""
        if not self.has_some:
            self.pace.begun(self._ended)
        for held in claimed:
            job.hold(held.remaining)
            self._ready.put(job, held, held.begin())
        self._wake(WOKEN)

    @property
    def ready(self) -> Iterator[Job]:
        """The job of each item that waits for a slot."""
        return self._ready.jobs()

    @property
    def has_some(self) -> bool:
        """Whether anything runs, or is to."""
        return bool(self._ready) or self.is_running

    @property
    def is_running(self) -> bool:
        return self._running > 0

    @property
    def many_are_idle(self) -> bool:
        """So many that a claim is worth its cost."""
        return (self._concurrency - self._running) * 4 >= self._concurrency

    @property
    def stubborn(self) -> int:
        """Runs that go on although they were interrupted long ago, and may do so forever."""
        long_ago = self._loop.time() - INTERRUPT_SECONDS
        return sum(slot.until is not None and slot.until < long_ago for slot in self._overdue)

    @property
    def _running(self) -> int:
        return len(self._slots) - self._resting

    def _wake(self, most: int) -> None:
        """Wake slots for items that are ready; make more slots while there may be."""
        for _ in range(min(len(self._ready), most)):
            if self._idle:
                waiting = self._idle.popleft()
                if not waiting.done():
                    waiting.set_result(None)
            elif len(self._slots) < self._concurrency:
                self._begin_slot()
            else:
                return

    def _begin_slot(self) -> None:
        slot = Slot()
        slot.task = asyncio.create_task(self._live(slot))
        self._slots.add(slot)
        slot.task.add_done_callback(lambda _: self._slots.discard(slot))

    async def _live(self, slot: Slot) -> None:
        while not self._ending:
            if not (self._ready.turn or self._ready.next_turn()):
                await self._rest(slot, self._woken(), tells=True)
            elif time.monotonic() > self._slice_ends:
                await self._rest(slot, self._next_slice())
            else:
                self._loop.call_soon(self._wake_others, slot)
                await self._run_some(slot)

    def _wake_others(self, slot: Slot) -> None:
        """Called when the loop is let in for the first time since this one began: if its item waits for something, and only then,
        others can run meanwhile."""
        if slot.until is not None:
            self._wake(WOKEN)

    async def _rest(self, slot: Slot, over: asyncio.Future[None], *, tells: bool = False) -> None:
        slot.until = None
        self._resting += 1
        try:
            if tells:
                if not self.is_running:
                    self.pace.paused(self._ended)
                self.hurry_if_idle()
                self._freed()
            await over
        finally:
            self._resting -= 1

    def _woken(self) -> asyncio.Future[None]:
        """Done once there may be something for a slot."""
        waiting = self._loop.create_future()
        self._idle.append(waiting)
        return waiting

    def _next_slice(self) -> asyncio.Future[None]:
        """Let the rest of the loop in, and then the next batch. One slot goes on in the next round of the loop, and wakes
        others if it must."""
        if not self._slice.done():
            return self._woken()
        self._slice = self._loop.create_future()
        self._loop.call_soon(self._begin_slice)
        return self._slice

    def _begin_slice(self) -> None:
        self._slice_ends = time.monotonic() + UNINTERRUPTED_SECONDS
        self._ready.next_turn()
        if not self._slice.done():  # else the end of the worker interrupted whoever waits for it
            self._slice.set_result(None)

    def hurry_if_idle(self) -> None:
        """What has ended is recorded at once if nothing runs any more, nor is to."""
        if not self.has_some:
            self._recorder.hurry()

    async def _run_some(self, slot: Slot) -> None:
        """Items, one after the other, until none is left or the rest of the loop is to be let in. What is done here is done for
        each of a million: a call takes 0.1 µs. Of none is anything kept, be it its input, its answer, or its batch's key."""
        clock, add = time.monotonic, self._recorder.add
        while (turn := self._ready.turn) and (now := clock()) <= self._slice_ends and not self._ending:
            job, held, item = turn.popleft()
            slot.until = now + job.assignment.item_timeout_seconds
            if job.circuit is not None:
                await self._run_on(job.circuit, slot, (job, held, item))
                continue
            try:
                outcome = await run(job, held, item)
            except asyncio.CancelledError:
                if slot not in self._overdue:
                    self._give_back(job, held, item)
                    raise
                outcome = timed_out(job)
            self._ended += 1
            job.load.in_hand -= 1
            if self._overdue:
                self._end_interrupt(slot)
            verdict = settle(job, held, item, outcome)
            add(held, verdict)
            job.load.note(verdict)
            del outcome, verdict  # they may be large, and the next item may take long

    async def _run_on(self, circuit: Circuit, slot: Slot, work: Work) -> None:
        """An item that calls somebody: not while the circuit is open, and judged by how others fare."""
        job, held, item = work
        lease = held.lease
        if circuit.is_open and not lease.probing:
            self._give_back(*work)
            return
        again = lease.waited or lease.attempt > lease.losses + 1
        caller = Caller((lease.batch_id, item.ordinal), lease.probing, again)
        caller.postpone = slot.postpone
        began, token = circuit.clock(), CALLER.set(caller)
        try:
            outcome = await run(*work)
        except asyncio.CancelledError:
            if slot not in self._overdue:
                self._give_back(*work)
                raise
            outcome = replace(timed_out(job), outage=caller.cut_off)
        finally:
            CALLER.reset(token)
            caller.ended()
            if lease.probing:
                circuit.probe_ended(caller)
        self._ended += 1
        job.hold(-1)
        self._end_interrupt(slot)
        if not (isinstance(outcome, Retry) and outcome.outage):
            self._settle(work, outcome)
            return
        if caller.cut_off:
            circuit.failed(began, caller, "down")
        judge = partial(self._settle_doubtful, work, outcome)
        self._circuits.doubt(circuit, began, judge, waits=outcome.waiting)
        self._circuits.review()

    def _end_interrupt(self, slot: Slot) -> None:
        if slot in self._overdue:  # also when the processor went on in spite of it
            self._overdue.discard(slot)
            slot.task.uncancel()

    def _settle_doubtful(self, work: Work, outcome: Retry, is_excused: bool) -> None:
        self._settle(work, excused(outcome) if is_excused else outcome)
        self.hurry_if_idle()

    def _settle(self, work: Work, outcome: Outcome) -> None:
        job, held, _ = work
        verdict = settle(*work, outcome)
        self._recorder.add(held, verdict)
        job.load.note(verdict)

    def _give_back(self, job: Job, held: HeldLease, item: ClaimedItem) -> None:
        job.hold(-1)
        self._recorder.give_back(held, item.ordinal)

    async def watch(self) -> int:
        """End what runs over its time, judge what had to wait for that, and measure how fast items end of late."""
        self._circuits.review()
        now = self._loop.time()
        for slot in self._slots:
            if slot.until is not None and now > slot.until and slot not in self._overdue:
                self._overdue.add(slot)
                slot.task.cancel()
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
        metrics.items_in_flight(self._running)

    # --- the end ---

    def return_ready(self) -> None:
        """What has not started goes back."""
        for work in self._ready.taken():
            self._give_back(*work)
        self.hurry_if_idle()

    def drop(self) -> None:
        """What has not started is others' now."""
        for job, _, _ in self._ready.taken():
            job.hold(-1)

    async def interrupt(self) -> None:
        """Nothing starts any more; what runs is given back once it has ended."""
        self._ending = True
        tasks = [slot.task for slot in self._slots]
        for task in tasks:
            task.cancel()
        # A processor that does not let itself be interrupted must not keep the others from being recorded.
        if tasks:
            await asyncio.wait(tasks, timeout=INTERRUPT_SECONDS)
