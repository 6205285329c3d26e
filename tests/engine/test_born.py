"""Batches whose first items are leased by the transaction that makes them: only where a claim would have taken them, too."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from factories import (
    TENANT,
    all_of,
    bear,
    claim,
    drain,
    events,
    get,
    lose,
    make_batch,
    make_born,
    make_worker,
    ordinals,
    reclaim,
    record,
    retry,
    sql,
    turn,
    violations,
    waiting,
)
from gristmill.db import Database
from gristmill.domain.limits import FailureThreshold, LimitAction
from gristmill.store import circuits, claims, leases, transitions, workers
from gristmill.store.new_batches import NewWebhook
from gristmill.store.recording import Flush
from mill import eventually

OTHER = UUID("00000000-0000-7000-8000-000000000002")
BLOCKED = "datname = current_database() AND wait_event_type = 'Lock'"


async def test_a_batch_is_made_with_its_first_items_in_a_lease(database: Database) -> None:
    worker = await make_worker(database)

    batch_id, born = await make_born(database, worker, 5, 3, config='{"a":1}')

    [lease] = born.leases
    assert (ordinals(born.leases), born.taken, lease.attempt, lease.losses) == ([0, 1, 2], 3, 1, 0)
    assert [item.input for item in lease.items] == ['{"text":"0"}', '{"text":"1"}', '{"text":"2"}']
    assert born.assignment is not None
    assert (born.assignment.batch_id, born.assignment.config) == (batch_id, '{"a":1}')
    batch = await get(database, batch_id)
    assert (batch.processing, batch.pending, batch.fresh) == (3, 2, False)
    assert await waiting(database, batch_id) == [(3, 4)]
    assert await violations(database) == []
    await record(database, worker, all_of(born.leases))
    assert await drain(database, worker) == 2
    assert (await get(database, batch_id)).success == 5


async def test_one_that_is_leased_whole_leaves_nothing_waiting(database: Database) -> None:
    worker = await make_worker(database)
    batch_id, born = await make_born(database, worker, 2, 9)
    assert ordinals(born.leases) == [0, 1]
    assert await waiting(database, batch_id) == []
    assert await claim(database, await make_worker(database), 9) == []
    await lose(database, worker)
    assert await waiting(database, batch_id) == [(0, 1)]
    assert await violations(database) == []


async def _waits(database: Database, **more: Any) -> None:
    await make_batch(database, 1, **more)


async def _suspected(database: Database) -> None:
    await make_batch(database, 1)
    for _ in range(2):
        worker = await make_worker(database)
        assert await claim(database, worker, 1)
        await lose(database, worker)


async def _with_room(database: Database) -> None:
    await make_batch(database, 3, max_concurrency=2)
    assert await claim(database, await make_worker(database), 1)


async def _due(database: Database) -> None:
    await _waits(database, circuit="model")
    await open_circuit(database)
    await sql(database, "UPDATE circuit SET until = now()")


async def _many(database: Database) -> None:
    for _ in range(100):
        await make_batch(database, 1, start_paused=True)


async def open_circuit(database: Database) -> None:
    async with database.transaction() as tx:
        await circuits.open_(tx, TENANT, "model", reason="down", seconds=3600.0, longest_seconds=3600.0)


@pytest.mark.parametrize(
    "others",
    [
        _waits,
        lambda database: _waits(database, tenant_id=OTHER),
        lambda database: _waits(database, processor="another"),
        _suspected,
        _with_room,
        _due,
        _many,
    ],
    ids=["the same tenant's", "another's", "for another processor", "a suspect", "below its limit", "a probe", "too many"],
)  # fmt: skip
async def test_nothing_is_leased_while_others_wait(database: Database, others: Any) -> None:
    await others(database)
    worker = await make_worker(database)
    batch_id, born = await make_born(database, worker, 3, {"noop": 3, "another": 1})
    assert (born.leases, born.taken) == ([], 0)
    assert await waiting(database, batch_id) == [(0, 2)]
    assert (await get(database, batch_id)).fresh


async def _paused(database: Database) -> None:
    await turn(database, transitions.pause, await make_batch(database, 1))


async def _running(database: Database) -> None:
    await make_batch(database, 2)
    assert await claim(database, await make_worker(database), 2)


async def _at_its_limit(database: Database) -> None:
    await make_batch(database, 3, max_concurrency=2)
    assert await claim(database, await make_worker(database), 2)


async def _later(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 1)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, 3600.0)]))


async def _closed_off(database: Database) -> None:
    await _waits(database, circuit="model")
    await open_circuit(database)


@pytest.mark.parametrize(
    "others",
    [
        _paused,
        _running,
        _at_its_limit,
        _later,
        _closed_off,
        lambda database: _waits(database, processor="nobody"),
    ],
    ids=["paused", "in flight", "at its limit", "for later", "closed off", "for a processor without slots"],
)
async def test_what_could_not_start_keeps_nothing_from_being_leased(database: Database, others: Any) -> None:
    await others(database)
    _, born = await make_born(database, await make_worker(database), 3, 3)
    assert born.taken == 3


async def test_a_batch_is_born_with_no_more_than_it_may_have(database: Database) -> None:
    worker = await make_worker(database)
    batch_id, born = await make_born(database, worker, 5, 4, max_concurrency=2)
    assert (born.taken, await claim(database, worker, 9)) == (2, [])
    assert (await get(database, batch_id)).processing == 2
    _, born = await make_born(
        database, worker, 5, 4, failure_threshold=FailureThreshold(0.5, 1, LimitAction.FAIL)
    )
    assert born.taken == 4
    _, born = await make_born(database, worker, 3, {"another": 3})
    assert born.taken == 0


async def test_a_batch_is_not_born_leased_where_it_may_not_start(database: Database) -> None:
    worker, dead = await make_worker(database), await make_worker(database)
    await lose(database, dead)
    assert (await make_born(database, dead, 3, 3))[1].taken == 0
    await drain(database, worker)
    assert (await make_born(database, worker, 3, 3, start_paused=True))[1].taken == 0
    await open_circuit(database)
    closed_off, born = await make_born(database, worker, 3, 3, circuit="model")
    assert born.taken == 0
    await turn(database, transitions.pause, closed_off)
    await drain(database, worker)
    await sql(database, "UPDATE circuit SET until = now()")  # a probe is a claim's
    assert (await make_born(database, worker, 3, 3, circuit="model"))[1].taken == 0


async def test_its_start_is_announced_in_the_same_breath_and_once(database: Database) -> None:
    worker = await make_worker(database)
    hook = NewWebhook("https://example.com/hook", ("created", "started"))
    batch_id, _ = await make_born(database, worker, 3, 2, webhook=hook)
    assert sorted(await events(database, batch_id)) == ["created", "started"]
    assert ordinals(await claim(database, worker, 5)) == [2]
    assert sorted(await events(database, batch_id)) == ["created", "started"]


async def test_what_is_born_leased_counts_for_the_share_of_its_tenant(database: Database) -> None:
    worker = await make_worker(database)
    for _ in range(3):
        await make_born(database, worker, 10, 10)
    mine, theirs = await make_batch(database, 50), await make_batch(database, 50, tenant_id=OTHER)
    assert await sql(database, "SELECT vtime FROM tenant_schedule WHERE tenant_id = $1", TENANT) == [30]
    assert [lease.batch_id for lease in await claim(database, worker, 10)] == [theirs]
    assert (await get(database, mine)).fresh


async def test_a_batch_waits_for_no_other_of_its_tenant_to_be_born_leased(database: Database) -> None:
    """Whose commit may wait for the disk."""
    worker = await make_worker(database)
    await make_born(database, worker, 1, 1)
    await make_born(database, worker, 1, 1, tenant_id=OTHER)
    async with database.transaction() as tx:
        _, first = await bear(tx, worker, 2, 2)
        async with asyncio.timeout(20):
            _, of_another = await make_born(database, worker, 2, 2, tenant_id=OTHER)
            _, second = await make_born(database, worker, 2, 2)
    assert (first.taken, of_another.taken, second.taken) == (2, 2, 0)
    assert await drain(database, worker) == 2
    assert await violations(database) == []


async def test_who_finds_out_what_it_has_waits_for_births_that_are_to_commit(database: Database) -> None:
    """A client that gave up waiting for a COMMIT has not ended it. The heartbeat does not wait for either."""
    worker = await make_worker(database)

    async def disown() -> int:
        async with database.transaction() as tx:
            return await leases.disown(tx, worker, [])

    async def waits() -> bool:
        return await sql(database, f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}") == [1]

    async with database.transaction() as tx:
        batch_id, born = await bear(tx, worker, 3, 2)
        assert born.taken == 2
        disowning = asyncio.create_task(disown())
        await eventually(waits)
        async with asyncio.timeout(20), database.transaction() as another:
            assert await workers.beat(another, worker)
    assert await disowning == 1
    assert await waiting(database, batch_id) == [(0, 1), (2, 2)]
    assert await violations(database) == []


async def test_a_worker_that_is_declared_dead_waits_for_no_birth(database: Database) -> None:
    worker = await make_worker(database)
    async with database.transaction() as tx:
        batch_id, born = await bear(tx, worker, 2, 2)
        async with asyncio.timeout(20):
            await lose(database, worker)
    assert born.taken == 2
    await reclaim(database)
    assert await waiting(database, batch_id) == [(0, 1)]
    assert await violations(database) == []


@pytest.mark.parametrize(("plain", "sent"), [(["another"], None), (["noop"], '{"a":1}')])
async def test_what_a_batch_runs_with_is_sent_only_with_its_items(
    database: Database, plain: list[str], sent: str | None
) -> None:
    """Not with the answer that there is something for a claim in a transaction: that one brings it."""
    worker = await make_worker(database)
    await make_batch(database, 1, config='{"a":1}')
    given = claims._given(worker, {"noop": 1}, ())
    async with database.connection() as connection:
        rows = await connection.fetch(claims._CLAIM, *given, False, plain, [], [], [], [], [], None)
    assert [row["config"] for row in rows] == [sent]
