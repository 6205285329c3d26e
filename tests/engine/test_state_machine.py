"""Anything may follow anything: whatever callers, workers, their deaths and the clock do in whatever order, all adds up.

`make test ARGS='-k state_machine --hypothesis-profile thorough'` takes 500 × 50 steps.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import factories
from factories import (
    TENANT,
    failure,
    in_chats,
    make_batch,
    make_worker,
    retry,
    sql,
    success,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.deliveries import Attempt, after
from gristmill.domain.errors import Conflict, Invalid
from gristmill.domain.events import SUBSCRIBABLE
from gristmill.domain.limits import Budget, FailureThreshold, LimitAction
from gristmill.domain.states import TERMINAL, BatchStatus, ResultStatus
from gristmill.store import (
    circuits,
    deliveries,
    endings,
    histories,
    leases,
    limits,
    retries,
    schedules,
    transitions,
    workers,
)
from gristmill.store.batches import Batch
from gristmill.store.claims import ClaimedItem, Lease
from gristmill.store.deliveries import DeliveryToSend
from gristmill.store.new_batches import NewWebhook
from gristmill.store.recording import Flush
from gristmill.store.spans import Waiting
from gristmill.store.transitions import Changes
from gristmill.tables import metadata

T = TypeVar("T")

IN_PROGRESS, PAUSED, CANCELLING = BatchStatus.IN_PROGRESS, BatchStatus.PAUSED, BatchStatus.CANCELLING
EDGES = {
    IN_PROGRESS: {PAUSED, CANCELLING, BatchStatus.COMPLETED, BatchStatus.FAILED},
    PAUSED: {IN_PROGRESS, CANCELLING, BatchStatus.COMPLETED, BatchStatus.FAILED},
    CANCELLING: {BatchStatus.CANCELLED},
}
TURNS: dict[str, tuple[factories.Action, set[BatchStatus]]] = {
    "pause": (transitions.pause, {IN_PROGRESS}),
    "resume": (transitions.resume, {PAUSED}),
    "cancel": (transitions.cancel, {IN_PROGRESS, PAUSED}),
    "delete": (transitions.delete, set(TERMINAL)),
}
# Twice what makes trouble.
FATES = ("keep", "retry", "succeed", "fail", "retry", "wait", "give back", "keep")
EARLY_FATES = ("keep", "give back", "retry", "keep", "wait", "give back")
LATE_FATES = ("succeed", "fail", "keep", "retry")


def over(ratio: str, action: LimitAction) -> FailureThreshold:
    return FailureThreshold(Decimal(ratio), 2, action)


@dataclass
class Flight:
    """A lease in a worker's hands. `lost`: the database has taken it back, and the worker does not know yet."""

    worker: int
    lease: Lease
    open: dict[int, ClaimedItem]  # without a verdict yet, by ordinal
    lost: bool = False


class Mill(RuleBasedStateMachine):
    database: Database
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.batch_ids: list[UUID] = []
        self.seen: dict[UUID, Batch] = {}
        self.workers: list[int] = []
        self.flights: list[Flight] = []
        self.results: dict[tuple[UUID, int], tuple[int, int | None]] = {}
        self.delivered: Counter[UUID] = Counter()
        self.calling: set[UUID] = set()  # batches on the one circuit there is
        self.circuit = "closed"  # or "open", or "due": for a probe

    def run(self, what: Awaitable[T]) -> T:
        return self.loop.run_until_complete(what)  # type: ignore[arg-type]

    def in_transaction(self, step: Callable[[Any], Awaitable[T]]) -> T:
        async def one() -> T:
            async with self.database.transaction() as tx:
                return await step(tx)

        return self.run(one())

    # --- what callers do ---

    @initialize()
    def begin(self) -> None:
        for circuit in (None, "model"):
            self.create([None, 1, None, 1, 2, None, None, None], circuit)
        self.workers = [self.run(make_worker(self.database)) for _ in "ab"]

    @rule(
        chats=st.lists(st.sampled_from([None, None, None, 1, 2]), min_size=2, max_size=8),
        start_paused=st.booleans(),
        max_concurrency=st.sampled_from([None, None, 1, 2]),
        max_attempts=st.integers(1, 3),
        failure_threshold=st.sampled_from([None, None, *(over("0.3", action) for action in LimitAction)]),
        budget=st.sampled_from([None, None, *(Budget(30, action) for action in LimitAction)]),
        webhook=st.sampled_from([None, NewWebhook("https://a.example/", SUBSCRIBABLE)]),
        circuit=st.sampled_from([None, "model"]),
    )
    def create(self, chats: list[int | None], circuit: str | None, **more: Any) -> None:
        batch_id = self.run(make_batch(self.database, in_chats(*chats), circuit=circuit, **more))
        self.batch_ids.append(batch_id)
        if circuit is not None:
            self.calling.add(batch_id)

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        count=st.integers(1, 6),
        slots=st.integers(1, 5),
        max_concurrency=st.sampled_from([None, None, 2]),
        webhook=st.sampled_from([None, NewWebhook("https://a.example/", SUBSCRIBABLE)]),
        circuit=st.sampled_from([None, "model"]),
        heard=st.sampled_from([True, True, True, False]),
    )
    def create_born(
        self, data: st.DataObject, count: int, slots: int, circuit: str | None, heard: bool, **more: Any
    ) -> None:
        """Leased as it is made. Not heard: the commit was not acknowledged, and the worker gives back what it does not know."""
        self.pass_over_others(data.draw(st.booleans()))
        worker = data.draw(st.sampled_from(self.workers))
        waits = self.some_wait()
        made = factories.make_born(self.database, worker, count, slots, circuit=circuit, **more)
        batch_id, born = self.run(made)
        self.batch_ids.append(batch_id)
        if circuit is not None:
            self.calling.add(batch_id)
        stopped = circuit is not None and self.circuit != "closed"
        most = min(count, slots, more["max_concurrency"] or count)
        assert born.taken == (0 if waits or stopped else most)
        self.take(worker, born.leases, heard)

    def pass_over_others(self, really: bool) -> None:
        """Else nearly always something waits."""
        for batch_id in self.batch_ids if really else ():
            if (batch := self.get(batch_id)).status is IN_PROGRESS and batch.ending is None:
                self.run(turn(self.database, transitions.pause, batch_id))

    def some_wait(self) -> bool:
        """Whether anything could be claimed if a worker had slots without end."""
        others = "SELECT batch_id FROM batch_schedule"
        startable = [self.get(batch_id) for batch_id in self.run(sql(self.database, others))]
        return any(
            batch.status is IN_PROGRESS
            and (batch.id not in self.calling or self.circuit != "open")
            and (batch.max_concurrency is None or self.in_leases(batch.id) < batch.max_concurrency)
            and not self.is_beyond_a_limit(batch.id)
            and self.has_ready_spans(batch.id)
            for batch in startable
        )

    def is_beyond_a_limit(self, batch_id: UUID) -> bool:
        exceeded = "SELECT exceeded IS NOT NULL FROM batch_count WHERE batch_id = $1"
        return bool(self.run(sql(self.database, exceeded, batch_id))[0])

    def in_leases(self, batch_id: UUID) -> int:
        held = "SELECT coalesce(sum(remaining), 0) FROM lease WHERE batch_id = $1"
        return int(self.run(sql(self.database, held, batch_id))[0])

    def has_ready_spans(self, batch_id: UUID) -> bool:
        ready = "SELECT id FROM span WHERE batch_id = $1 AND available_at <= now()"
        return bool(self.run(sql(self.database, ready, batch_id)))

    @precondition(lambda self: self.batch_ids)
    @rule(data=st.data(), most=st.sampled_from([None, 1, 3]), priority=st.integers(-100, 100))
    def change(self, data: st.DataObject, most: int | None, priority: int) -> None:
        batch = self.get(data.draw(st.sampled_from(self.batch_ids)))
        changes = Changes(priority=priority, max_concurrency=most, any_concurrency=most is None)
        if batch.status in (IN_PROGRESS, PAUSED) and batch.ending is None:
            changed = self.in_transaction(lambda tx: transitions.change(tx, TENANT, batch.id, changes))
            assert (changed.priority, changed.max_concurrency) == (priority, most)
        else:
            with pytest.raises(Conflict):
                self.in_transaction(lambda tx: transitions.change(tx, TENANT, batch.id, changes))

    @rule(to=st.sampled_from(["open", "due", "due", "closed", "closed"]))
    def turn_circuit(self, to: str) -> None:
        """What the worker tells of it, and time."""
        if to == "closed":
            self.in_transaction(lambda tx: circuits.close(tx, TENANT, "model"))
        elif to == "open" or self.circuit == "closed":
            opening = {"reason": "down", "seconds": 3600.0, "longest_seconds": 3600.0}
            self.in_transaction(lambda tx: circuits.open_(tx, TENANT, "model", **opening))
            to = "open"
        else:
            self.run(sql(self.database, "UPDATE circuit SET until = now()"))
        self.circuit = to

    @precondition(lambda self: self.batch_ids)
    @rule(data=st.data(), action=st.sampled_from([*sorted(TURNS), "pause", "resume", "resume"]))
    def turn(self, data: st.DataObject, action: str) -> None:
        batch = self.get(data.draw(st.sampled_from(self.batch_ids)))
        do, allowed = TURNS[action]
        if batch.status in allowed and (batch.ending is None or action == "delete"):
            self.run(turn(self.database, do, batch.id))
            if action == "delete":
                self.forget(batch.id)
        else:
            with pytest.raises(Conflict):
                self.run(turn(self.database, do, batch.id))

    @precondition(lambda self: any(batch.status in TERMINAL for batch in self.seen.values()))
    @rule(data=st.data())
    def retry_failed(self, data: st.DataObject) -> None:
        ended = [batch_id for batch_id, batch in self.seen.items() if batch.status in TERMINAL]
        batch_id = data.draw(st.sampled_from(ended))
        before = self.get(batch_id)
        if before.failed == 0:
            with pytest.raises(Invalid):
                self.run(turn(self.database, retries.retry, batch_id))
            return
        self.run(turn(self.database, retries.retry, batch_id))
        self.seen[batch_id] = self.get(batch_id)
        assert (self.seen[batch_id].run, self.seen[batch_id].pending) == (before.run + 1, before.failed)
        self.results = {
            place: result
            for place, result in self.results.items()
            if place[0] != batch_id or result[0] == ResultStatus.SUCCESS
        }
        for flight in self.flights:
            flight.lost = flight.lost or flight.lease.batch_id == batch_id

    def forget(self, batch_id: UUID) -> None:
        self.batch_ids.remove(batch_id)
        del self.seen[batch_id]
        self.results = {place: result for place, result in self.results.items() if place[0] != batch_id}

    # --- what workers do ---

    @rule()
    def join(self) -> None:
        self.workers.append(self.run(make_worker(self.database)))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), slots=st.integers(1, 5), answered=st.sampled_from([True, True, True, False]))
    def claim(self, data: st.DataObject, slots: int, answered: bool) -> None:
        """Not answered: the claim commits, the worker does not hear of it, and gives back what it does not know."""
        self.claim_some(data.draw(st.sampled_from(self.workers)), slots, answered)

    def claim_some(self, worker: int, slots: int, answered: bool = True) -> list[Flight]:
        claimed = self.run(factories.claim(self.database, worker, slots))
        assert sum(len(lease.items) for lease in claimed) <= slots
        for lease in claimed:
            batch = self.get(lease.batch_id)
            assert (batch.status, batch.ending) == (IN_PROGRESS, None)
            assert batch.max_concurrency is None or batch.processing <= batch.max_concurrency
            assert not any((lease.batch_id, item.ordinal) in self.results for item in lease.items)
            assert lease.probing == (lease.batch_id in self.calling and self.circuit == "due")
            assert lease.batch_id not in self.calling or self.circuit != "open"
        if any(lease.probing for lease in claimed):
            assert sum(len(lease.items) for lease in claimed) == 1
            self.circuit = "open"
        return self.take(worker, claimed, answered)

    def take(self, worker: int, claimed: Sequence[Lease], answered: bool) -> list[Flight]:
        new = [Flight(worker, lease, {i.ordinal: i for i in lease.items}) for lease in claimed]
        if answered:
            self.flights += new
        else:
            known = [flight.lease.id for flight in self.flights]
            given_back = self.in_transaction(lambda tx: leases.disown(tx, worker, known))
            assert given_back == len(claimed)
        self.check_nothing_runs_twice()
        return new if answered else []

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), slots=st.integers(3, 6), again=st.booleans())
    def claim_and_record(self, data: st.DataObject, slots: int, again: bool) -> None:
        """What a mill does all day."""
        for flight in self.claim_some(data.draw(st.sampled_from(self.workers)), slots):
            self.record_of(flight, data, again)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), again=st.booleans(), back=st.booleans())
    def probe(self, data: st.DataObject, again: bool, back: bool) -> None:
        """What others have waits; then some of it, for the other side."""
        worker = data.draw(st.sampled_from(self.workers))
        self.turn_circuit("open")
        while self.claim_some(worker, 6):
            pass
        self.turn_circuit("due")
        for flight in self.claim_some(worker, 6):
            self.record_of(flight, data, again)
        if back:
            self.turn_circuit("closed")

    @precondition(lambda self: self.flights and len(self.workers) > 1)
    @rule(data=st.data(), again=st.booleans(), heir_first=st.booleans())
    def outlive(self, data: st.DataObject, again: bool, heir_first: bool) -> None:
        """A worker is thought dead in the middle of its work, and others take what it gave back, before and afterwards;
        what it still has to say comes late."""
        apt = [one for one in self.flights if one.worker in self.workers and len(one.open) > 1]
        flight = data.draw(st.sampled_from(apt or self.flights))
        others = [worker for worker in self.workers if worker != flight.worker]
        self.record_of(flight, data, again, EARLY_FATES)
        for _ in range(2):
            self.claim_some(others[0], 6)
        if flight.worker in self.workers:
            self.lose_one(flight.worker)
        self.reap()
        self.results_stay_as_they_are()
        if heir_first:
            self.claim_some(others[-1], 5)
        if flight in self.flights:
            self.record_of(flight, data, again, LATE_FATES)
        self.results_stay_as_they_are()
        for _ in range(3):
            self.claim_some(others[-1], 6)

    def check_nothing_runs_twice(self) -> None:
        running = [
            (flight.lease.batch_id, item)
            for flight in self.flights
            if not flight.lost
            for item in flight.open.values()
            if (flight.lease.batch_id, item.ordinal) not in self.results
        ]
        places = Counter((batch_id, item.ordinal) for batch_id, item in running)
        chats = Counter(item.history_id for _, item in running if item.history_id is not None)
        assert all(count == 1 for count in [*places.values(), *chats.values()])

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), again=st.booleans())
    def record(self, data: st.DataObject, again: bool) -> None:
        """Verdicts of some items of one lease, also of one that was lost."""
        self.record_of(data.draw(st.sampled_from(self.flights)), data, again)

    def record_of(
        self, flight: Flight, data: st.DataObject, again: bool, possible: Sequence[str] = FATES
    ) -> None:
        """`again`: sent twice."""
        fates = {ordinal: data.draw(st.sampled_from(possible)) for ordinal in sorted(flight.open)}
        flush = self.flush(flight, fates)
        for _ in range(1 + again):
            self.run(factories.record(self.database, flight.worker, flush))
        if not flight.open:
            self.flights.remove(flight)

    def flush(self, flight: Flight, fates: dict[int, str]) -> Flush:
        lease, ended, retried, back = flight.lease, [], [], []
        for ordinal, fate in fates.items():
            if fate == "keep":
                continue
            history_id = flight.open.pop(ordinal).history_id
            if fate in {"succeed", "fail"}:
                end = success if fate == "succeed" else failure
                used = {"usage": "{}", "prompt_tokens": 10} if ordinal % 2 else {}
                ended.append(end(lease, ordinal, history_id=history_id, **used))
            elif fate == "give back":
                at = Waiting(lease.batch_id, ordinal, ordinal, lease.attempt - 1, lease.losses)
                back.append((lease.id, at))
            else:
                later = retry(lease, ordinal, 3600.0 * (ordinal % 2), waiting=fate == "wait")
                later.ended.history_id = history_id
                retried.append(later)
        return Flush({lease.id: len(flight.open)}, ended, retried, back)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.lose_one(data.draw(st.sampled_from(self.workers)))

    def lose_one(self, worker: int) -> None:
        self.workers.remove(worker)
        self.in_transaction(lambda tx: workers.leave(tx, worker))

    # --- what upkeep does ---

    @rule(
        step=st.sampled_from(["reap", "sweep", "tidy", "time_passes", "deliver"]),
        most=st.integers(1, 5),
        status_code=st.sampled_from([200, 500, 410]),
    )
    def upkeep(self, step: str, most: int, status_code: int) -> None:
        if step == "sweep":
            self.sweep(most)
        elif step == "deliver":
            self.deliver(status_code)
        else:
            {"reap": self.reap, "tidy": self.tidy, "time_passes": self.time_passes}[step]()

    def reap(self) -> None:
        self.run(factories.reclaim(self.database))
        for flight in self.flights:
            flight.lost = flight.lost or flight.worker not in self.workers

    @precondition(lambda self: self.batch_ids)
    @rule(data=st.data(), dice=st.integers(0, 5))
    def expire(self, data: st.DataObject, dice: int) -> None:
        """Seldom: else most batches end before much has happened to them."""
        if dice == 0:
            self.expire_one(data)

    def expire_one(self, data: st.DataObject) -> None:
        self.run(factories.expire(self.database, data.draw(st.sampled_from(self.batch_ids))))

    def sweep(self, most: int) -> None:
        self.in_transaction(limits.enforce)
        self.in_transaction(lambda tx: endings.sweep(tx, most=most))

    def tidy(self) -> None:
        self.in_transaction(endings.clear_leftovers)
        assert self.in_transaction(histories.let_stranded_go) == 0
        self.in_transaction(schedules.forget_tenants)

    def time_passes(self) -> None:
        """All that waits for a later attempt may start."""
        self.run(sql(self.database, "UPDATE span SET available_at = now() WHERE available_at < 'infinity'"))

    def deliver(self, status_code: int) -> None:
        for sent in self.in_transaction(lambda tx: deliveries.claim(tx, 10, 60.0)):
            attempt = Attempt(duration_ms=1, status_code=status_code)
            assert self.settle(sent, attempt) == (sent.batch_id in self.batch_ids)
            assert not self.settle(sent, attempt)
            self.delivered[sent.id] += status_code == 200
        assert all(count == 1 for count in self.delivered.values() if count)

    def settle(self, sent: DeliveryToSend, attempt: Attempt) -> bool:
        verdict = after(attempt, sent.position)
        return self.in_transaction(lambda tx: deliveries.record(tx, sent, attempt, verdict))

    # --- what is always true ---

    @invariant()
    def all_adds_up(self) -> None:
        assert self.run(violations(self.database)) == []
        for batch_id in self.batch_ids:
            batch, before = self.get(batch_id), self.seen.get(batch_id)
            assert batch.total == batch.pending + batch.processing + batch.success + batch.failed
            assert min(batch.pending, batch.processing) >= 0
            assert (batch.status in TERMINAL) == (batch.success + batch.failed == batch.total)
            if before is not None and before.status is not batch.status:
                reachable = EDGES[before.status]
                assert batch.status in reachable | {end for one in reachable for end in EDGES.get(one, set())}
            self.seen[batch_id] = batch

    @invariant()
    def results_stay_as_they_are(self) -> None:
        rows = self.run(sql(self.database, "SELECT batch_id, ordinal, status, code FROM result"))
        now = {(batch_id, ordinal): (status, code) for batch_id, ordinal, status, code in rows}
        assert now.items() >= self.results.items()
        assert {batch_id for batch_id, _ in now} <= set(self.batch_ids)
        self.results = now

    def get(self, batch_id: UUID) -> Batch:
        return self.run(factories.get(self.database, batch_id, TENANT))

    # --- the end: whatever was left undone, every batch ends ---

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            for table in metadata.sorted_tables:
                self.run(sql(self.database, f"DELETE FROM {table.name}"))

    def finish(self) -> None:
        for worker in self.workers:
            self.in_transaction(lambda tx, worker=worker: workers.leave(tx, worker))  # type: ignore[misc]
        self.run(factories.reclaim(self.database))
        self.turn_circuit("closed")
        self.in_transaction(endings.expire)  # who was left to complete, and has something to start again
        worker = self.run(make_worker(self.database))
        while not {self.get(batch_id).status for batch_id in self.batch_ids} <= TERMINAL:
            before = sum(
                self.get(batch_id).success + self.get(batch_id).failed for batch_id in self.batch_ids
            )
            self.run(factories.enforce(self.database))
            for batch_id in self.batch_ids:
                if self.get(batch_id).status is PAUSED:
                    self.run(turn(self.database, transitions.resume, batch_id))
            self.run(factories.sweep(self.database))
            self.time_passes()
            while self.run(factories.drain(self.database, worker)):
                self.time_passes()
            after = sum(self.get(batch_id).success + self.get(batch_id).failed for batch_id in self.batch_ids)
            assert after > before, "nothing of what is left can start"
        self.all_adds_up()
        assert {self.get(batch_id).status for batch_id in self.batch_ids} <= TERMINAL
        assert self.run(sql(self.database, "SELECT history_id FROM history_lock")) == []


@pytest.mark.timeout(7200)  # for the thorough one
def test_whatever_happens_in_whatever_order_all_adds_up(database_url: str) -> None:
    thorough = settings.get_current_profile_name() == "thorough"
    loop = asyncio.new_event_loop()
    try:
        Mill.loop, Mill.database = loop, loop.run_until_complete(Database(database_url).open())
        run_state_machine_as_test(
            Mill,
            settings=settings(
                max_examples=500 if thorough else 16,
                stateful_step_count=50 if thorough else 30,
                derandomize=not thorough,
                phases=Phase if thorough else (Phase.generate,),  # to make a failure small takes minutes
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        loop.run_until_complete(Mill.database.close())
    finally:
        loop.close()
