"""Batches that are born leased start at once, whatever happens between their transaction and their start."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from asyncpg.pool import Pool

from factories import (
    TENANT,
    claim_some,
    get,
    lose,
    make_batch,
    make_worker,
    new_batch,
    sql,
    turn,
    violations,
    waiting,
)  # fmt: skip
from gristmill.db import Database
from gristmill.domain.errors import Conflict
from gristmill.domain.states import BatchStatus
from gristmill.store import assignments, claims, new_batches, transitions
from gristmill.store.new_batches import NewItem
from gristmill.store.transitions import Changes
from gristmill.worker import Worker
from gristmill.worker.births import Birth
from mill import Scripted, at_gate, ended, eventually, looked, working

NEVER = 3600.0  # no poll finds what is not told
PATIENT = 60.0  # no worker is thought dead because the machine is busy
Between = Callable[[UUID], Awaitable[object]]


class Unheard(Exception):
    """The answer to the COMMIT did not come."""


def gates(count: int, do: str = "gate") -> list[NewItem]:
    return [NewItem(f"item-{n}", f'{{"do":"{do}"}}') for n in range(count)]


async def bear(
    database: Database,
    worker: Worker,
    items: list[NewItem],
    *,
    between: Between | None = None,
    broken: bool = False,
    **more: Any,
) -> UUID:
    """As the API makes a batch, or `between` its commit and its start; `broken`: the transaction comes to nothing."""
    new = new_batch(**more)
    with worker.births.of(new, items) as birth:
        async with database.transaction(committed=birth.start if between is None else None) as tx:
            await new_batches.create(tx, new, items)
            await birth.lease(tx)
            if broken:
                raise Unheard
        if between is not None:
            await between(new.id)
            birth.start()
    if birth.some_wait:
        worker.wake()
    return new.id


@asynccontextmanager
async def idle_worker(database: Database, scripted: Scripted, **settings: Any) -> AsyncIterator[Worker]:
    """A worker that has found nothing to do, and does not look again before it is told."""
    async with working(database, scripted, lease_seconds=PATIENT, poll_seconds=NEVER, **settings) as worker:
        await idle(worker)
        yield worker


@asynccontextmanager
async def before_its_start(
    database: Database, worker: Worker, items: list[NewItem]
) -> AsyncIterator[tuple[UUID, Birth]]:
    """Of a batch that is stored, with what is leased of it: its id, and what starts it."""
    new = new_batch()
    with worker.births.of(new, items) as birth:
        async with database.transaction() as tx:
            await new_batches.create(tx, new, items)
            await birth.lease(tx)
        yield new.id, birth


async def unheard(_: UUID) -> None:
    raise Unheard


async def idle(worker: Worker) -> None:
    """Its first claim has found nothing, and it looks for no other before it is told."""

    async def waits() -> bool:
        # Somebody waits for news: a worker that has just been started has not begun its first claim.
        return bool(worker._items.news._waiters) and not (
            worker._items._in_doubt or worker._items.news.is_set()
        )

    await eventually(waits)


async def attempts(database: Database, batch_id: UUID) -> list[int]:
    return await sql(database, "SELECT attempt FROM result WHERE batch_id = $1 ORDER BY ordinal", batch_id)


async def test_what_is_born_leased_starts_without_a_claim(database: Database, scripted: Scripted) -> None:
    async with idle_worker(database, scripted) as worker:

        async def leased(batch_id: UUID) -> None:
            assert (await get(database, batch_id)).processing == 3
            assert scripted.started == []

        batch_id = await bear(database, worker, gates(3), between=leased)
        await at_gate(scripted, 3)
        scripted.gate.set()
        await ended(database, batch_id)
    assert (await attempts(database, batch_id), set(scripted.runs.values())) == ([1, 1, 1], {1})
    assert await violations(database) == []


async def test_what_has_no_slot_waits_for_a_claim(database: Database, scripted: Scripted) -> None:
    async with idle_worker(database, scripted, concurrency=2) as worker:
        batch_id = await bear(database, worker, gates(5))
        await at_gate(scripted, 2)
        assert await waiting(database, batch_id) == [(2, 4)]
        scripted.gate.set()
        await ended(database, batch_id)
    assert sorted(scripted.started) == [0, 1, 2, 3, 4]


async def test_slots_are_held_for_one_batch_at_a_time(database: Database, scripted: Scripted) -> None:
    async with idle_worker(database, scripted, concurrency=2) as worker:

        async def others_come(_: UUID) -> None:
            second = await bear(database, worker, gates(2))
            third = await make_batch(database, gates(2))
            for batch_id in (second, third):
                assert (await get(database, batch_id)).processing == 0
            worker.wake()

        first = await bear(database, worker, gates(2), between=others_come)
        await at_gate(scripted, 2)
        assert {batch_id for batch_id, _ in scripted.runs} == {first}
        scripted.gate.set()
        for batch_id in await sql(database, "SELECT id FROM batch"):
            await ended(database, batch_id)
    assert set(scripted.runs.values()) == {1}


@pytest.mark.parametrize("loss", ["its chat", "its size", "its script", "its fault"])
async def test_only_plain_items_are_leased(database: Database, scripted: Scripted, loss: str) -> None:
    items = gates(3)
    items[1] = {
        "its chat": NewItem("item-1", '{"do":"gate","history_id":7}', 7),
        "its size": NewItem("item-1", f'{{"do":"gate","text":"{"x" * 1024 * 1024}"}}'),
        "its script": NewItem("item-1", f'{{"do":"gate","text":"{"字" * 600 * 1024}"}}'),
        "its fault": NewItem("item-1", "{}", error='{"type":"bad"}'),
    }[loss]
    async with idle_worker(database, scripted) as worker:
        async with before_its_start(database, worker, items) as (batch_id, birth):
            assert (await get(database, batch_id)).processing == (0 if loss == "its fault" else 1)
            birth.start()
            assert birth.some_wait
        worker.wake()
        scripted.gate.set()
        await ended(database, batch_id)
    assert set(scripted.runs.values()) == {1}
    assert await violations(database) == []


async def test_a_commit_that_was_not_acknowledged_starts_nothing_twice(
    database: Database, scripted: Scripted
) -> None:
    async with idle_worker(database, scripted) as worker:
        with pytest.raises(Unheard):
            await bear(database, worker, gates(3), between=unheard)
        await at_gate(scripted, 3)  # by a claim, after the lease that nobody knew was given back
        scripted.gate.set()
        [batch_id] = await sql(database, "SELECT id FROM batch")
        await ended(database, batch_id)
    assert (await attempts(database, batch_id), set(scripted.runs.values())) == ([1, 1, 1], {1})
    assert await violations(database) == []


async def test_doubt_waits_for_those_whose_lease_is_not_known_yet(
    database: Database, scripted: Scripted
) -> None:
    async with idle_worker(database, scripted) as worker:

        async def another_breaks(_: UUID) -> None:
            look = asyncio.create_task(looked())
            async with before_its_start(database, worker, gates(1)) as (other, _):
                assert (await get(database, other)).processing == 1
            await look
            assert (await get(database, other)).processing == 1

        first = await bear(database, worker, gates(2), between=another_breaks)
        await at_gate(scripted, 3)  # the other's by a claim, which the end of the last birth wakes
        scripted.gate.set()
        await ended(database, first)
    assert set(scripted.runs.values()) == {1}


class Stop:
    """Where a function of the store waits for the test, once it is armed."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
        self.armed = False
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        real = getattr(owner, name)

        async def stopped(*args: Any, **more: Any) -> Any:
            answer = await real(*args, **more) if after else None
            if self.armed:
                self.armed = False
                self.reached.set()
                await self.go_on.wait()
            return answer if after else await real(*args, **more)

        patch.setattr(owner, name, stopped)


async def test_a_commit_that_was_not_acknowledged_while_a_claim_was_under_way_starts_nothing_twice(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim says nothing about it: only a look does."""
    claim = Stop(monkeypatch, claims, "claim")
    async with idle_worker(database, scripted) as worker:

        async def unheard_beside_a_claim(_: UUID) -> None:
            claim.armed = True
            worker.wake()
            await claim.reached.wait()
            raise Unheard

        with pytest.raises(Unheard):
            await bear(database, worker, gates(3), between=unheard_beside_a_claim)
        claim.go_on.set()
        await at_gate(scripted, 3)
        scripted.gate.set()
        [batch_id] = await sql(database, "SELECT id FROM batch")
        await ended(database, batch_id)
    assert (await attempts(database, batch_id), set(scripted.runs.values())) == ([1, 1, 1], {1})
    assert await violations(database) == []


async def test_a_worker_that_was_declared_dead_in_doubt_is_so_until_it_has_looked(
    database: Database, scripted: Scripted
) -> None:
    """Or a look that is under way would end the doubt of what broke after it."""
    async with idle_worker(database, scripted) as worker:
        worker._items.doubt()
        worker._items.drop()
        assert worker._items.offer(TENANT, "noop", None, 1) is None
        worker.wake()
        await idle(worker)
        offer = worker._items.offer(TENANT, "noop", None, 1)
        assert offer is not None
        worker._items.withdraw(offer)


async def test_a_claim_that_looks_its_batch_up_keeps_its_slots(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so for a batch that began elsewhere."""
    look = Stop(monkeypatch, assignments, "load")
    async with idle_worker(database, scripted, concurrency=4) as worker:
        begun = await make_batch(database, gates(5))
        other = await make_worker(database)
        assert (await claim_some(database, other, 1)).taken == 1
        look.armed = True
        worker.wake()
        await look.reached.wait()
        batch_id = await bear(database, worker, gates(4))
        assert (await get(database, batch_id)).processing == 0
        look.go_on.set()
        await at_gate(scripted, 4)
        assert {of for of, _ in scripted.runs} == {begun}
        scripted.gate.set()
        await lose(database, other)
        for one in (begun, batch_id):
            worker.wake()
            await ended(database, one)
    assert await violations(database) == []


async def test_a_suspect_does_not_start_beside_a_batch_that_is_being_born(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slots were offered while the worker, idle, looked for suspects."""
    look = Stop(monkeypatch, claims, "suspects_wait", after=True)
    async with idle_worker(database, scripted) as worker:
        suspect = await make_batch(database, gates(1), start_paused=True)
        await sql(database, "UPDATE span SET losses = 3")
        await turn(database, transitions.resume, suspect)
        look.armed = True
        worker.wake()
        await look.reached.wait()
        new = new_batch()
        with worker.births.of(new, gates(2)) as birth:
            step = asyncio.create_task(looked())
            look.go_on.set()
            await step
            assert (await get(database, suspect)).processing == 0
            async with database.transaction() as tx:
                await new_batches.create(tx, new, gates(2))
                await birth.lease(tx)
            birth.start()
            assert birth.some_wait
        worker.wake()
        scripted.gate.set()
        for batch_id in (suspect, new.id):
            await ended(database, batch_id)
    assert await violations(database) == []


async def test_who_gives_up_once_the_commit_is_answered_leaves_a_batch_that_runs(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the pool takes the connection back."""
    really, releasing = Pool.release, asyncio.Event()
    creating: asyncio.Task[UUID] | None = None

    async def slowly(pool: Pool, *given: Any, **more: Any) -> None:
        try:
            if asyncio.current_task() is creating:
                releasing.set()
                await asyncio.sleep(PATIENT)
        finally:
            await really(pool, *given, **more)

    monkeypatch.setattr(Pool, "release", slowly)
    async with idle_worker(database, scripted) as worker:
        creating = asyncio.create_task(bear(database, worker, gates(1)))
        await releasing.wait()
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert not worker._items._in_doubt
        await at_gate(scripted, 1)
        scripted.gate.set()
        await ended(database, *await sql(database, "SELECT id FROM batch"))
    assert set(scripted.runs.values()) == {1}
    assert await violations(database) == []


async def test_doubt_is_looked_into_as_soon_as_the_last_birth_has_ended(
    database: Database, scripted: Scripted
) -> None:
    """Also if it takes all the slots that were held for it."""
    async with idle_worker(database, scripted) as worker:
        async with before_its_start(database, worker, gates(1)) as (batch_id, birth):
            worker._items.doubt()
            look = asyncio.create_task(looked())
            worker.wake()
            await look
            assert not worker._items.news.is_set()
            birth.start()
            assert not birth.some_wait
            assert worker._items.news.is_set()
        await idle(worker)
        scripted.gate.set()
        await ended(database, batch_id)


async def test_nothing_is_left_to_come_when_a_worker_has_drained(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.AFTERWARDS_SECONDS", NEVER)
    async with idle_worker(database, scripted) as worker:
        worker.wake()
    assert worker._afterwards is not None
    assert worker._afterwards.cancelled()


async def test_a_create_that_comes_to_nothing_gives_its_slots_back(
    database: Database, scripted: Scripted
) -> None:
    async with idle_worker(database, scripted, concurrency=2) as worker:
        with pytest.raises(Unheard):
            await bear(database, worker, gates(2), broken=True)
        await idle(worker)
        batch_id = await bear(database, worker, gates(2))
        await at_gate(scripted, 2)
        scripted.gate.set()
        await ended(database, batch_id)
    assert await sql(database, "SELECT count(*) FROM batch") == [1]


async def test_a_worker_that_was_declared_dead_before_the_start_starts_nothing(
    database: Database, scripted: Scripted
) -> None:
    scripted.gate.set()
    async with working(database, scripted, lease_seconds=1.5) as worker:
        await idle(worker)
        before = worker._items.worker_id

        async def declared_dead(_: UUID) -> None:
            await sql(database, "UPDATE worker SET dead = true WHERE id = $1", before)

            async def reborn() -> bool:
                return worker._items.worker_id != before

            await eventually(reborn)

        batch_id = await bear(database, worker, gates(3), between=declared_dead)
        await ended(database, batch_id)
    assert (await attempts(database, batch_id), set(scripted.runs.values())) == ([2, 2, 2], {1})
    assert await violations(database) == []


async def test_a_drain_waits_for_the_start_and_gives_everything_back(
    database: Database, scripted: Scripted
) -> None:
    async with working(database, scripted, lease_seconds=PATIENT) as worker:
        await idle(worker)
        draining: list[asyncio.Task[None]] = []

        async def told_to_end(_: UUID) -> None:
            draining.append(asyncio.create_task(worker.drain(20.0)))

            async def closed() -> bool:
                return worker._items._closed

            await eventually(closed)

        batch_id = await bear(database, worker, gates(3), between=told_to_end)
        late = await bear(database, worker, gates(1))
        await draining[0]
    assert scripted.started == []
    assert await waiting(database, batch_id) == [(0, 0), (1, 1), (2, 2)]
    assert await waiting(database, late) == [(0, 0)]
    assert await sql(database, "SELECT DISTINCT attempts, losses FROM span") == [(0, 0)]
    assert await sql(database, "SELECT count(*) FROM lease") == [0]
    assert await violations(database) == []


async def test_what_was_leased_before_a_pause_is_in_flight(database: Database, scripted: Scripted) -> None:
    """As what a claim has taken is; and a cancelled batch ends with it."""
    async with idle_worker(database, scripted, concurrency=2) as worker:
        paused = await bear(
            database, worker, gates(3), between=lambda batch_id: turn(database, transitions.pause, batch_id)
        )
        await at_gate(scripted, 2)
        batch = await get(database, paused)
        assert (batch.status, batch.processing, batch.pending) == (BatchStatus.PAUSED, 2, 1)
        scripted.gate.set()

        async def recorded() -> bool:
            return (await get(database, paused)).success == 2

        await eventually(recorded)
        await turn(database, transitions.cancel, paused)
        worker.wake()
        await ended(database, paused)
    assert set(scripted.runs.values()) == {1}
    assert await violations(database) == []


# --- in any order ----------------------------------------------------------------------------------------------------


class Chances:
    """What happens to each batch, by a seed."""

    def __init__(self, database: Database, worker: Worker, seed: int, *, deaths: bool) -> None:
        self.database, self.worker, self.deaths = database, worker, deaths
        self.random = random.Random(seed)
        self.paused: set[UUID] = set()

    async def life(self) -> None:
        await self.moment(20)
        items = gates(self.random.randint(1, 6), self.random.choice(["succeed", "succeed", "retry", "wait"]))
        way = self.random.choice(["born", "born", "born", "born", "unheard", "broken", "claimed"])
        if way == "claimed":
            return await self.turned(await make_batch(self.database, items))
        between = {"born": self.turned, "unheard": unheard}.get(way)
        most = self.random.choice([None, None, 2])
        try:
            batch_id = await bear(
                self.database,
                self.worker,
                items,
                between=between,
                broken=way == "broken",
                max_concurrency=most,
            )
        except Unheard:
            return None
        return await self.turned(batch_id)

    async def turned(self, batch_id: UUID) -> None:
        await self.moment(3)
        what = self.random.choice(["nothing", "nothing", "cancel", "pause", "change", "death"])
        try:
            async with self.database.transaction() as tx:
                if what == "cancel":
                    await transitions.cancel(tx, TENANT, batch_id)
                elif what == "pause":
                    await transitions.pause(tx, TENANT, batch_id)
                    self.paused.add(batch_id)
                elif what == "change":
                    await transitions.change(tx, TENANT, batch_id, Changes(max_concurrency=1, priority=50))
                elif what == "death" and self.deaths:
                    await tx.execute(
                        "UPDATE worker SET dead = true WHERE id = $1", self.worker._items.worker_id
                    )
                    self.deaths = False
        except Conflict:  # it has ended
            pass

    async def moment(self, most: int) -> None:
        for _ in range(self.random.randint(0, most)):
            await asyncio.sleep(0)


@pytest.mark.parametrize(("seed", "deaths"), [(1, False), (2, False), (3, True), (4, True)])
async def test_whatever_happens_to_batches_at_their_birth_all_adds_up(
    database: Database, scripted: Scripted, seed: int, deaths: bool
) -> None:
    """A worker drains in the middle of it; the next does what is left."""
    patience = 2.0 if deaths else PATIENT
    async with working(database, scripted, concurrency=6, lease_seconds=patience) as worker:
        chances = Chances(database, worker, seed, deaths=deaths)
        lives = [asyncio.create_task(chances.life()) for _ in range(40)]

        async def half() -> bool:
            return sum(life.done() for life in lives) >= 20

        await eventually(half)
    await asyncio.gather(*lives)
    async with working(database, scripted, concurrency=6, lease_seconds=patience):
        for batch_id in chances.paused:
            if (await get(database, batch_id)).status is BatchStatus.PAUSED:
                await turn(database, transitions.resume, batch_id)
        for batch_id in await sql(database, "SELECT id FROM batch"):
            await ended(database, batch_id)
    assert await violations(database) == []
    if not deaths:  # nothing is lost, so that nothing is worked on twice without having asked for it
        asked = await sql(
            database, "SELECT batch_id, ordinal FROM item WHERE input LIKE '%retry%' OR input LIKE '%wait%'"
        )
        runs = {place: count for place, count in scripted.runs.items() if place not in set(asked)}
        assert set(runs.values()) == {1}
        assert max(scripted.runs.values()) <= 2
