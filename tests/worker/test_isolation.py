"""Items that workers died with again and again run alone, and keep nobody else from running."""

import asyncio
import contextlib
from collections import defaultdict
from typing import Any
from uuid import UUID

import pytest

from factories import (
    TENANT,
    claim,
    claim_some,
    get,
    lose,
    make_batch,
    make_worker,
    ordinals,
    sql,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.outcomes import ItemError, Outcome, Retry, Success
from gristmill.domain.states import TERMINAL, BatchStatus
from gristmill.processors.base import Context
from gristmill.store import circuits, claims, transitions
from gristmill.store.new_batches import NewItem
from gristmill.upstream.circuit import Call
from gristmill.worker import Worker, slots
from gristmill.worker import circuits as worker_circuits
from mill import NoConfig, Script, Scripted, eventually, working

Place = tuple[UUID, int]


class Watchful(Scripted):
    """Knows of each item which others ran at the same time."""

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__()
        self.seconds = seconds
        self.running: set[Place] = set()
        self.beside: defaultdict[Place, set[Place]] = defaultdict(set)

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        place = (context.batch_id, context.ordinal)
        for other in self.running:
            self.beside[other].add(place)
        self.beside[place] |= self.running
        self.running.add(place)
        self.started.append(context.ordinal)
        await asyncio.sleep(self.seconds)
        self.running.remove(place)
        return Success(output=context.ordinal)


async def suspects(database: Database, items: int, **more: Any) -> UUID:
    """A batch, all of whose items two workers have died with."""
    batch_id = await make_batch(database, items, **more)
    for _ in range(2):
        worker = await make_worker(database)
        assert ordinals(await claim(database, worker, items)) == list(range(items))
        await lose(database, worker)
    return batch_id


async def all_ended(database: Database) -> bool:
    statuses = await sql(database, "SELECT status FROM batch")
    return {BatchStatus(status) for status in statuses} <= TERMINAL


async def test_a_claim_takes_suspects_only_if_it_is_for_them(database: Database) -> None:
    batch_id = await suspects(database, 3)
    worker = await make_worker(database)
    async with database.connection() as connection:
        assert await claims.suspects_wait(connection, worker, ["noop"])
        assert not await claims.suspects_wait(connection, worker, ["other"])
    async with database.transaction() as tx:
        assert (await claims.claim(tx, worker, {"noop": 9})).taken == 0
    async with database.transaction() as tx:
        assert ordinals((await claims.claim(tx, worker, {"noop": 1}, suspect=True)).leases) == [0]
    fresh = await make_batch(database, 2)
    assert {lease.batch_id for lease in (await claim_some(database, worker, 9)).leases} == {fresh}
    await turn(database, transitions.pause, batch_id)
    async with database.connection() as connection:
        assert not await claims.suspects_wait(connection, worker, ["noop"])


async def wait(database: Database, worker: int) -> bool:
    async with database.connection() as connection:
        return await claims.suspects_wait(connection, worker, ["noop"])


async def test_nobody_makes_room_for_suspects_that_could_not_start(database: Database) -> None:
    """Their circuit is open, their batch has as many in flight elsewhere as it may, is overdue, or beyond a limit."""
    batch_id = await suspects(database, 3, circuit="model")
    await sql(database, "UPDATE batch_schedule SET max_concurrency = 1 WHERE batch_id = $1", batch_id)
    mine, another = await make_worker(database), await make_worker(database)
    assert await wait(database, mine)

    async with database.transaction() as tx:
        await circuits.open_(tx, TENANT, "model", reason="down", seconds=60.0, longest_seconds=60.0)
    assert not await wait(database, mine)
    await sql(database, "UPDATE circuit SET until = now()")
    assert await wait(database, mine), "a suspect may be the probe"
    async with database.transaction() as tx:
        await circuits.close(tx, TENANT, "model")

    async with database.transaction() as tx:
        assert (await claims.claim(tx, another, {"noop": 1}, suspect=True)).taken == 1
    assert not await wait(database, mine)
    assert await wait(database, another), "what it has in hand itself will have ended"
    await lose(database, another)
    assert await wait(database, mine)

    for change in (
        "UPDATE batch_schedule SET deadline_at = now() - interval '1 s', limited = true WHERE batch_id = $1",
        "UPDATE batch_schedule SET deadline_at = now() + interval '1 h' WHERE batch_id = $1",
        "UPDATE batch_count SET exceeded = 'budget' WHERE batch_id = $1",
    ):
        await sql(database, change, batch_id)
        assert await wait(database, mine) == ("1 h" in change)


async def test_a_claim_takes_of_one_batch_either_its_suspects_or_the_others(database: Database) -> None:
    batch_id = await make_batch(database, 4)
    await sql(database, "UPDATE span SET first = 1 WHERE batch_id = $1", batch_id)
    await sql(database, "INSERT INTO span (batch_id, first, last, losses) VALUES ($1, 0, 0, 3)", batch_id)
    worker = await make_worker(database)
    async with database.transaction() as tx:
        assert ordinals((await claims.claim(tx, worker, {"noop": 9})).leases) == [1, 2, 3]
    async with database.transaction() as tx:
        assert ordinals((await claims.claim(tx, worker, {"noop": 9}, suspect=True)).leases) == [0]


async def test_suspects_run_alone_and_the_others_side_by_side(database: Database) -> None:
    suspected = await suspects(database, 4)
    innocent = await make_batch(database, 60)
    processor = Watchful()
    async with working(database, processor, concurrency=8):
        await eventually(lambda: all_ended(database))

    assert all(processor.beside[suspected, n] == set() for n in range(4))
    assert sum(len(processor.beside[innocent, n]) for n in range(60)) > 60
    assert [(await get(database, one)).success for one in (suspected, innocent)] == [4, 60]
    assert await violations(database) == []


async def test_a_suspect_waits_for_what_is_in_flight(database: Database) -> None:
    """Meanwhile nothing else starts; afterwards both do."""
    processor = Scripted()
    await make_batch(database, [NewItem("a", '{"do":"gate"}')])
    async with working(database, processor, concurrency=8) as worker:
        await eventually(lambda: _at_gate(processor))
        suspected = await suspects_beside(database)
        await eventually(lambda: _is_turn(worker))
        fresh = await make_batch(database, 4)
        worker.wake()
        await worker._items.step()
        assert [(await get(database, one)).pending for one in (suspected, fresh)] == [2, 4]

        processor.gate.set()
        await eventually(lambda: all_ended(database))
    assert [(await get(database, one)).success for one in (suspected, fresh)] == [2, 4]


async def test_who_waits_for_its_turn_goes_on_once_another_has_taken_the_suspects(database: Database) -> None:
    processor = Scripted()
    await make_batch(database, [NewItem("a", '{"do":"gate"}')])
    async with working(database, processor, concurrency=8) as worker:
        await eventually(lambda: _at_gate(processor))
        await suspects_beside(database)
        await eventually(lambda: _is_turn(worker))
        fresh = await make_batch(database, 4)
        other = await make_worker(database)
        for _ in range(2):
            async with database.transaction() as tx:
                assert (await claims.claim(tx, other, {"noop": 1}, suspect=True)).taken == 1

        async def fresh_ended() -> bool:
            return (await get(database, fresh)).success == 4

        await eventually(fresh_ended)
        assert processor.at_gate == 1
        processor.gate.set()
        await lose(database, other)
        await eventually(lambda: all_ended(database))


class Stubborn(Scripted):
    """Its items at the gate do not let themselves be interrupted."""

    async def _wait_at_gate(self) -> Outcome:
        self.at_gate += 1
        while not self.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.gate.wait()
        return Success(output="in spite of it")


async def test_suspects_do_not_wait_for_an_item_that_goes_on_although_it_was_interrupted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "INTERRUPT_SECONDS", 0.1)
    processor = Stubborn()
    stubborn = await make_batch(database, [NewItem("a", '{"do":"gate"}')], item_timeout_seconds=0.1)
    async with working(database, processor, concurrency=8):
        await eventually(lambda: _at_gate(processor))
        suspected = await suspects_beside(database)
        await eventually(lambda: _ended(database, suspected))
        assert (await get(database, stubborn)).processing == 1
        processor.gate.set()


async def test_others_do_not_wait_for_a_suspect_that_goes_on_although_it_was_interrupted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "INTERRUPT_SECONDS", 0.1)
    processor = Stubborn()
    suspected = await make_batch(
        database, [NewItem("a", '{"do":"gate"}')], item_timeout_seconds=0.1, start_paused=True
    )
    await sql(database, "UPDATE span SET losses = 3 WHERE batch_id = $1", suspected)
    await turn(database, transitions.resume, suspected)
    async with working(database, processor, concurrency=8):
        await eventually(lambda: _at_gate(processor))
        fresh = await make_batch(database, 4)
        await eventually(lambda: _ended(database, fresh))
        assert (await get(database, suspected)).processing == 1
        processor.gate.set()


class Failing(Scripted):
    """Items that are to fail do so in a call, as in an outage; the others see which batches are at work."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.at_work: set[UUID] = set()

    async def run(self, given: Script, context: Context[NoConfig]) -> Outcome:
        if given.do == "fail":
            with Call(context.services.circuit) as call:
                call.failed("down")
            return Retry(ItemError(500, "scripted", "as asked", retryable=True), outage=True)
        self.at_work.update(await sql(self.database, "SELECT batch_id FROM lease"))
        return Success()


async def test_a_suspect_waits_until_those_are_judged_that_failed_as_in_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would be lost with it, once more."""
    monkeypatch.setattr(worker_circuits, "DOUBT_SECONDS", 3.0)
    processor = Failing(database)
    await make_batch(database, [NewItem("a", '{"do":"fail"}')], circuit="model", max_attempts=1)
    async with working(database, processor, concurrency=8) as worker:

        async def in_doubt() -> bool:
            return bool(worker._circuits._doubtful)

        await eventually(in_doubt)
        suspected = await suspects_beside(database)
        worker.wake()
        await eventually(lambda: _ended(database, suspected))
    assert processor.at_work == {suspected}


async def _ended(database: Database, batch_id: UUID) -> bool:
    return (await get(database, batch_id)).status in TERMINAL


async def _at_gate(processor: Scripted) -> bool:
    return processor.at_gate == 1


async def _is_turn(worker: Worker) -> bool:
    return worker._items._isolation._began is not None


async def suspects_beside(database: Database) -> UUID:
    """A batch of two, made by hand: a worker is at work that would take them before they were lost."""
    batch_id = await make_batch(database, 2, start_paused=True)
    await sql(database, "UPDATE span SET losses = 3, last = first WHERE batch_id = $1", batch_id)
    await sql(database, "INSERT INTO span (batch_id, first, last, losses) VALUES ($1, 1, 1, 3)", batch_id)
    await turn(database, transitions.resume, batch_id)
    return batch_id
