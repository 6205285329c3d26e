"""Items: claimed when they can start, and put into slots (worker/slots.py), which hand their verdicts to the recorder."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gristmill import metrics
from gristmill.db import Database, Transaction
from gristmill.processors.base import Processor, Services
from gristmill.store import claims, leases, limited_claims
from gristmill.store.assignments import Assignment
from gristmill.store.claims import Claim, Lease
from gristmill.upstream.circuit import Circuit
from gristmill.worker.circuits import Circuits
from gristmill.worker.fronts import Fronts
from gristmill.worker.isolation import Isolation, Turn
from gristmill.worker.jobs import Jobs
from gristmill.worker.loop import first_of
from gristmill.worker.recorder import Recorder
from gristmill.worker.shares import Shares
from gristmill.worker.slots import Slots
from gristmill.worker.work import HeldLease, Job, Load

log = logging.getLogger(__name__)

AHEAD_SECONDS = 0.05  # items so fast that their slots empty within a few claims are claimed that far ahead
# Longer ones are not: a slot that waits for a claim loses less of its time than they, claimed by one worker, may wait for a slot
# while another has some.
AHEAD_SHORTER_SECONDS = 0.25
AHEAD_MOST = 4000
AHEAD_EACH = 16  # and for each slot: they may turn out to be slow, and have to end before their lease does
AHEAD_LOOK_SECONDS = 0.005  # between looks whether half of what was claimed ahead has begun, and as much is to be claimed again
CLAIM_MOST = 1000  # at a time: what is new waits for the claim that is under way
# So it waits for less, as a rule: of a batch of which more is there. One of 1,000, as many clients make them, stays one claim.
CLAIM_PART = 700
# Once nothing new has come beside other work for so long: a drain has half as many claims to wait for, and nobody else is likely
# to.
QUIET_SECONDS = 1.0
CLAIM_MOST_QUIET = 2000
LINGER_SECONDS = 0.01  # how long a free slot may wait for others, so that a claim is worth its cost
# After a claim that another transaction got ahead of; twice as long after each further one, and at most so long.
MISSED_SECONDS = 0.01
MISSED_MOST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Offer:
    """Slots that are held for the first items of a batch that is being made."""

    worker_id: int
    processor: str
    slots: int
    free: Mapping[str, int]  # what a claim would be told of all processors
    circuit: Circuit | None


class Items:
    def __init__(
        self,
        database: Database,
        services: Services,
        processors: Mapping[str, Processor[Any, Any]],
        recorder: Recorder,
        circuits: Circuits,
        shares: Shares,
        fronts: Fronts,
        *,
        concurrency: int,
        upstream_concurrency: int,
        parser_concurrency: int,
        trusted: Callable[[], bool],
    ) -> None:
        self.news = asyncio.Event()
        self._rung = False  # there is something new since the last claim
        # On the loop's clock: when something new may last have come beside other work.
        self._rung_at = -math.inf
        self.worker_id = 0
        self._database = database
        self._processors = processors
        self._recorder = recorder
        self._circuits = circuits
        self._shares = shares
        self._fronts = fronts
        self._concurrency = concurrency
        self._upstream_concurrency = upstream_concurrency
        self._parser_concurrency = parser_concurrency
        self._trusted = trusted
        self._loads = {name: Load() for name in processors}
        self.slots = Slots(recorder, circuits, self._loads, concurrency=concurrency, freed=self._slot_is_free)
        self._jobs = Jobs(database, services, processors, circuits, self._loads)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._missed_seconds = MISSED_SECONDS
        self._held: dict[int, HeldLease] = {}
        self._claiming = False  # a claim is under way: what it takes has no slots yet
        self._in_doubt = False  # a claim or a birth broke: it may have committed without our knowing
        self._plain = [name for name, one in processors.items() if not one.has_chats]
        # The last look was a claim of anything, and it found nothing: no slot that gets free changes that.
        self._dry = False
        self._in_full = False  # what the last claim would have had needed a transaction
        self._unborn = 0  # batches that are being made, whose first items are to start here
        self._closed = False  # nothing more is taken
        self._isolation = Isolation(database, processors, self._is_busy)

    # --- claiming ---

    def ring(self) -> None:
        """There may be something new. It waits neither for what has been claimed ahead nor for what is to be recorded: the next
        claim may take some more. How much is bounded, however often this is called."""
        self._rung, self._dry = True, False
        if self._claiming or self._in_hand():
            self._rung_at = self._loop.time()
        self._missed_seconds = MISSED_SECONDS
        self.news.set()

    @property
    def is_dry(self) -> bool:
        """Nothing that could start waits, but what is rung for, and what waits for others to be recorded."""
        return self._dry and self._isolation.is_idle and not self._shares.limits_starts

    async def step(self) -> int:
        """Claim items of one batch for the free slots; answers with how many were taken from what waits: as long as any
        were, others may be there for the slots that are still free."""
        self._dry = False
        self._forget_ended_leases()
        if not self._trusted():
            self.slots.return_ready()
            return 0
        free = self._room()
        if not free:
            return 0
        turn = await self._isolation.turn(self.worker_id)
        if turn is Turn.OTHERS:
            rung, self._rung = self._rung, False
            nothing_or_full = {0, max(free.values()), self._part}
            claim = await self._claim(free)
            # Of a batch that is claimed as a whole, others may have come with it.
            self._rung |= rung and (claim.missed or claim.taken not in nothing_or_full)
            taken = claim.taken
            idle = not taken and not self._is_busy()
            looks = idle or self._isolation.is_time
            waits = looks and await self._isolation.due(self.worker_id)
            if not (waits and idle) or self._is_busy():  # slots may have been offered during the look
                return taken
            turn = Turn.SUSPECT  # there is nothing else to do
        return await self._claim_suspect(free) if turn is Turn.SUSPECT else 0

    async def _claim_suspect(self, free: Mapping[str, int]) -> int:
        claim = await self._claim(dict.fromkeys(free, 1), suspect=True)
        self._isolation.took(claim.taken)
        return claim.taken

    def _is_busy(self) -> bool:
        """What has ended is still lost with this process until it is judged and recorded."""
        runs = self._in_hand() > self.slots.stubborn
        return runs or self._circuits.judging or bool(self._recorder.unacknowledged)

    async def _claim(self, free: Mapping[str, int], *, suspect: bool = False) -> Claim:
        if self._in_doubt:
            if self._unborn:  # a lease that is being made is not known yet
                return Claim([], 0)
            await self._settle_doubt()
        self._claiming = True
        try:
            claim = await self._claim_and_take(free, suspect)
        finally:
            self._claiming = False
        if claim.missed:
            self._look_again()
        elif claim.taken:
            self._missed_seconds = MISSED_SECONDS
        return claim

    async def _claim_and_take(self, free: Mapping[str, int], suspect: bool) -> Claim:
        claimed_at = time.monotonic()
        if not (suspect or self._shares.limits_starts or self._in_full):
            claim = await self._claim_plainly(free, claimed_at)
            if not claim.in_full:
                return claim
        with self._doubting():
            claim = await self._claim_in_full(free, suspect)
        await self._take(claim, claimed_at)
        return claim

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._in_doubt = True
            raise

    async def _claim_plainly(self, free: Mapping[str, int], claimed_at: float) -> Claim:
        """In two round trips, if that can be done; nothing is taken of what needs a transaction. What it took is begun before the
        pool has its connection back, which takes three rounds of a loop that may be busy with other items."""
        held = self._circuits.held(job.circuit for job in self.slots.ready)
        async with self._database.connection() as connection:
            with self._doubting():
                claim = await claims.claim(
                    connection,
                    self.worker_id,
                    free,
                    held,
                    fronts=self._fronts.known,
                    plain=self._plain,
                    part=self._part,
                )
            if not claim.in_full:
                await self._take(claim, claimed_at, connection)
        something = claim.taken or claim.missed or claim.in_full or self._rung
        self._dry = not (something or held) and free.keys() == self._processors.keys()
        return claim

    async def _claim_in_full(self, free: Mapping[str, int], suspect: bool) -> Claim:
        """In a transaction."""
        held = self._circuits.held(job.circuit for job in self.slots.ready)
        fronts = () if suspect else self._fronts.known
        claiming = limited_claims.claim if self._shares.limits_starts else claims.claim
        async with self._database.transaction(durable=False) as tx:
            claim = await claiming(
                tx, self.worker_id, free, held, fronts=fronts, suspect=suspect, part=self._part
            )
        # The next of many like it, without asking first.
        self._in_full = not self._in_full and bool(claim.taken)
        return claim

    def _look_again(self) -> None:
        """In a moment: another transaction got ahead of this claim. Should it be stopped where it is, many may wait for it."""
        self._look_in(self._missed_seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self._missed_seconds = min(2 * self._missed_seconds, MISSED_MOST_SECONDS)

    def _in_hand(self) -> int:
        return sum(load.in_hand for load in self._loads.values())

    def _room(self) -> dict[str, int]:
        """What a claim may take: nothing while much waits to be recorded, a little of what is new until it is twice as much.
        Nor while most of what was claimed ahead is still to begin: it would take few."""
        fullness = self._recorder.fullness
        if fullness < 1:
            ahead = self._ahead()
            if ahead and not self._rung and self._in_hand() > self._concurrency + ahead // 2:
                self._look_in(AHEAD_LOOK_SECONDS)
                return {}
            return self._free(self._rung)
        if not self._rung or fullness >= 2:
            return {}
        return {name: min(slots, self._concurrency) for name, slots in self._free(rung=True).items()}

    def _free(self, rung: bool = False) -> dict[str, int]:
        """How many items of each processor could start now, and a few more if they start and end in no time."""
        in_hand, ahead = self._in_hand(), self._ahead()
        if rung:
            ahead += min(ahead, self._concurrency)
        most = CLAIM_MOST_QUIET if self._part is None else CLAIM_MOST
        free = {}
        for name, processor in self._processors.items():
            slots = self._concurrency - in_hand + ahead
            if processor.uses_upstream:
                slots = min(
                    self._concurrency - in_hand, self._upstream_concurrency - self._loads[name].in_hand
                )
            if processor.uses_parser:
                slots = min(
                    slots, self._concurrency - in_hand, self._parser_concurrency - self._loads[name].in_hand
                )
            if slots > 0:
                free[name] = min(slots, most)
        return free

    @property
    def _part(self) -> int | None:
        """The most of a batch that is not claimed as a whole, where that is less than of one that is."""
        return CLAIM_PART if self._loop.time() < self._rung_at + QUIET_SECONDS else None

    def _ahead(self) -> int:
        """How many items may wait for the slots, as they will be there within a moment."""
        per_second = self.slots.pace.per_second
        if per_second * AHEAD_SHORTER_SECONDS <= self._concurrency:
            return 0
        return min(int(per_second * AHEAD_SECONDS), AHEAD_MOST, AHEAD_EACH * self._concurrency)

    async def _settle_doubt(self) -> None:
        """Nothing is leased to this worker meanwhile. Nothing else ends the doubt: it may be that of another claim or birth."""
        # Those whose items have all ended may be on their way.
        known = self._recorder.unacknowledged.union(self._held)
        async with self._database.transaction() as tx:
            given_back = await leases.disown(tx, self.worker_id, known)
        self._in_doubt = False
        if given_back:
            log.warning("gave back leases of an unacknowledged claim", extra={"leases": given_back})

    def _forget_ended_leases(self) -> None:
        if len(self._held) > 2 * self._concurrency or not self.slots.is_running:
            self._held = {i: held for i, held in self._held.items() if held.remaining > 0}

    async def _take(self, claim: Claim, claimed_at: float, connection: Transaction | None = None) -> None:
        """Make what was claimed, which is of one batch, ready to run, and say how long the claim took."""
        metrics.claimed(time.monotonic() - claimed_at)
        claimed = [HeldLease(lease, len(lease.items)) for lease in claim.leases]
        if not claimed:
            return
        self._held.update({one.lease.id: one for one in claimed})
        try:
            job = await self._jobs.of(claimed[0].lease.batch_id, claim.assignment, connection)
        except Exception:
            self._give_back(claimed)
            raise
        if job is None:
            for held in claimed:
                self._held.pop(held.lease.id, None)
            return
        self._fronts.claimed(job.assignment.tenant_id)
        self._begin(claimed, job, claimed_at)

    def _begin(self, claimed: Sequence[HeldLease], job: Job, claimed_at: float) -> None:
        if job.circuit and not job.circuit.admits(claimed[0].lease.probing, claimed_at):
            self._give_back(claimed)
            return
        self.slots.put(job, claimed)

    def _hold_slots(self, processor: str, circuit: Circuit | None, count: int) -> None:
        self._loads[processor].in_hand += count
        if circuit:
            circuit.in_hand += count

    # --- batches that are born leased (worker/births.py) ---

    def offer(self, tenant_id: UUID, processor: str, circuit_name: str | None, most: int) -> Offer | None:
        """Hold so many of the slots that are free for a batch that is being made, at most `most`: what a claim would be
        told now. None if a claim would take nothing, or is under way and may take them. Ends with `take_born` or
        `withdraw`."""
        if self._closed or self._claiming or self._in_doubt:
            return None
        if not self._trusted() or not self._isolation.is_idle:
            return None
        if self._shares.limits_starts:  # a claim has to hold them, before everything else
            return None
        free = self._free() if self._recorder.fullness < 1 else {}
        slots = min(most, free.get(processor, 0))
        circuit = None if circuit_name is None else self._circuits.of(tenant_id, circuit_name)
        if circuit is not None:
            slots = 0 if circuit.is_open or circuit.permits.limits.some else min(slots, circuit.slots)
        if slots <= 0:
            return None
        self._unborn += 1
        self._hold_slots(processor, circuit, slots)
        return Offer(self.worker_id, processor, slots, free | {processor: slots}, circuit)

    def withdraw(self, offer: Offer, used: int = 0) -> None:
        """`used`: so many of the slots are going to be."""
        self._unborn -= 1
        self._hold_slots(offer.processor, offer.circuit, -offer.slots)
        if used < offer.slots or self._in_doubt:
            self.news.set()  # a claim may have found none meanwhile, or not have looked

    def take_born(self, offer: Offer, lease: Lease, assignment: Assignment, leased_at: float) -> None:
        """What was leased on an offer, and has committed: start it. What may not start any more goes back; what this worker
        had under the identity it was declared dead with is others'."""
        self.withdraw(offer, len(lease.items))
        if offer.worker_id != self.worker_id:
            return
        held = HeldLease(lease, len(lease.items))
        self._held[lease.id] = held
        if self._closed or not self._trusted():
            self._give_back([held])
        else:
            self._begin([held], self._jobs.prepared(assignment), leased_at)

    def doubt(self) -> None:
        """Whether the transaction that made a lease has committed is not known: the next claim finds out."""
        self._in_doubt = True

    def _slot_is_free(self) -> None:
        """News for the claimer: at once if enough slots are free or nothing runs, else after a moment."""
        if self._dry:  # what has ended may have kept something waiting, but only until it is recorded
            return
        if not self.slots.is_running or self.slots.many_are_idle:
            self.news.set()
        else:
            self._look_in(LINGER_SECONDS)

    def _look_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._look_now)

    def _look_now(self) -> None:
        self._timer = None
        self.news.set()

    # --- the end ---

    def _give_back(self, claimed: Sequence[HeldLease]) -> None:
        for held in claimed:
            for item in held.lease.items:
                self._recorder.give_back(held, item.ordinal)
        self.slots.hurry_if_idle()

    def drop(self) -> None:
        """This worker has been declared dead: what it has not started is others' now."""
        self._circuits.review(all_of_them=True)
        self.slots.drop()
        self._held.clear()

    async def drain(self, hurry: asyncio.Event, grace_seconds: float) -> None:
        """Give back what has not started; wait for what runs, at most the grace; then interrupt and give back the rest."""
        self._closed = True
        self.slots.return_ready()
        until = self._loop.time() + grace_seconds
        while (self.slots.is_running or self._unborn) and not hurry.is_set() and self._loop.time() < until:
            await first_of(hurry, seconds=0.02)
        await self.slots.interrupt()
        self._circuits.review(all_of_them=True)
        if self._timer is not None:
            self._timer.cancel()
