"""Limits of tenants and processors: how many items are in flight is read under the limit's lock, by the claim that adds to it."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from factories import TENANT, all_of, get, late_choice, lose, make_batch, make_worker, record, sql, violations
from gristmill.db import Database
from gristmill.domain.errors import NotFound
from gristmill.store import batches, claims, depth, limited_claims, service_limits, shares, spans
from gristmill.store.claims import Claim, Lease
from gristmill.store.limited_claims import Left
from gristmill.store.shares import Demand
from statements import HeardDatabase

OTHER = UUID("00000000-0000-7000-8000-000000000002")


@pytest.fixture(autouse=True)
async def tenants(database: Database) -> None:
    await sql(database, "INSERT INTO tenant (id, name) VALUES ($1, 'mine'), ($2, 'other')", TENANT, OTHER)


async def limit(database: Database, kind: service_limits.Kind, name: str, most: int) -> service_limits.Limit:
    async with database.transaction() as tx:
        return await service_limits.put(tx, kind, name, max_in_flight=most)


async def limited_claim(database: Database, worker: int, slots: int = 10) -> list[Lease]:
    """As a worker claims that knows of limits."""
    async with database.transaction(durable=False) as tx:
        return list((await limited_claims.claim(tx, worker, {"noop": slots})).leases)


def items(leases: list[Lease]) -> int:
    return sum(len(lease.items) for lease in leases)


@pytest.mark.parametrize(("kind", "name"), [("tenant", "mine"), ("processor", "noop")])
async def test_a_claim_takes_what_the_limit_leaves(
    database: Database, kind: service_limits.Kind, name: str
) -> None:
    await limit(database, kind, name, 7)
    await make_batch(database, 20)
    await make_batch(database, 20)
    one, two = await make_worker(database), await make_worker(database)
    first = await limited_claim(database, one, 5)
    second = await limited_claim(database, two, 5)
    assert (items(first), items(second), items(await limited_claim(database, one, 5))) == (5, 2, 0)
    await record(database, one, all_of(first))
    assert items(await limited_claim(database, two, 9)) == 5


async def test_what_another_tenant_starts_is_not_under_the_limit(database: Database) -> None:
    await limit(database, "tenant", "mine", 3)
    await make_batch(database, 10)
    theirs = await make_batch(database, 10, tenant_id=OTHER)
    worker = await make_worker(database)
    taken = [await limited_claim(database, worker) for _ in range(4)]
    assert sum(map(items, taken)) == 13
    assert (await get(database, theirs, OTHER)).processing == 10


async def test_items_of_a_cancelled_batch_and_of_a_dead_worker_count_while_they_may_run(
    database: Database,
) -> None:
    await limit(database, "tenant", "mine", 4)
    batch_id = await make_batch(database, 10)
    one, two = await make_worker(database), await make_worker(database)
    assert items(await limited_claim(database, one)) == 4
    await sql(database, "DELETE FROM batch_schedule WHERE batch_id = $1", batch_id)
    await make_batch(database, 10)
    assert items(await limited_claim(database, two)) == 0
    await lose(database, one)
    assert items(await limited_claim(database, two)) == 4


@pytest.mark.parametrize("seed", [1, 2])
async def test_claims_of_many_workers_at_once_never_start_more_than_the_limit(
    database: Database, seed: int
) -> None:
    chance = random.Random(seed)
    await limit(database, "tenant", "mine", 9)
    await limit(database, "processor", "noop", 12)
    batches = [await make_batch(database, 30) for _ in range(3)]
    batches += [await make_batch(database, 30, tenant_id=OTHER) for _ in range(3)]
    workers = [await make_worker(database) for _ in range(4)]
    most, of_mine = 0, 0

    async def work(worker: int) -> None:
        nonlocal most, of_mine
        while await sql(database, "SELECT FROM span LIMIT 1"):
            leases = await limited_claim(database, worker, chance.randint(1, 8))
            running = "SELECT coalesce(sum(remaining), 0)::int FROM lease"
            [now] = await sql(database, running)
            [mine] = await sql(
                database, f"{running} JOIN batch b ON b.id = batch_id WHERE b.tenant_id = $1", TENANT
            )
            most, of_mine = max(most, now), max(of_mine, mine)
            if leases:
                await record(database, worker, all_of(leases))

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, workers))
    assert most <= 12
    assert of_mine <= 9
    assert most > 8  # it was used by more than one
    assert await violations(database) == []
    for one in batches:
        assert await sql(database, "SELECT success FROM batch_count WHERE batch_id = $1", one) == [30]


async def test_a_limit_that_another_claim_holds_is_passed_over_and_nobody_waits_for_it(
    database: Database,
) -> None:
    await limit(database, "tenant", "mine", 5)
    await make_batch(database, 10)
    theirs = await make_batch(database, 10, tenant_id=OTHER)
    worker = await make_worker(database)
    async with database.transaction() as tx:
        await limited_claims.hold(tx, {"noop": 1})
        async with database.transaction() as other, asyncio.timeout(5):
            taken = await limited_claims.claim(other, worker, {"noop": 10})
            nothing_more = await limited_claims.hold(other, {"noop": 10})
    assert nothing_more == Left({}, missed=True)
    assert [lease.batch_id for lease in taken.leases] == [theirs]
    assert items(await limited_claim(database, worker)) == 5


async def test_what_a_limit_keeps_from_starting_is_nothing_that_more_workers_would_start(
    database: Database,
) -> None:
    await make_batch(database, 10)
    await limit(database, "tenant", "mine", 5)

    async def startable() -> int:
        async with database.connection() as connection:
            [one] = await depth.queue(connection)
        return one.startable

    assert await startable() == 5
    leases = await limited_claim(database, worker := await make_worker(database), 3)
    assert await startable() == 2
    leases += await limited_claim(database, worker)
    assert await startable() == 0
    await record(database, worker, all_of(leases))
    assert await startable() == 5


async def test_what_several_limits_leave_is_told_once_for_all_processors(database: Database) -> None:
    await make_batch(database, 10)
    await make_batch(database, 10, processor="another")
    await make_batch(database, 10, tenant_id=OTHER)
    await limit(database, "tenant", "mine", 6)
    await limit(database, "processor", "noop", 8)

    async def startable() -> dict[str, int]:
        async with database.connection() as connection:
            return {one.processor: one.startable for one in await depth.queue(connection)}

    found = await startable()
    assert found["noop"] == 8
    assert found.get("another", 0) <= 6
    await limit(database, "processor", "noop", 100)
    assert sum((await startable()).values()) == 10 + 6


async def test_calls_that_wait_for_a_rate_are_nothing_that_more_workers_would_start(
    database: Database,
) -> None:
    await make_batch(database, 10, circuit="model")
    async with database.transaction() as tx:
        limited = await service_limits.put(tx, "upstream", "model", max_in_flight=8, requests_per_minute=60)
    worker = await make_worker(database)

    async def startable(in_use: int, waiting: int) -> int:
        async with database.transaction() as tx:
            await shares.take(tx, limited, worker, Demand(in_use, waiting, 8))
        async with database.connection() as connection:
            return sum(one.startable for one in await depth.queue(connection))

    assert await startable(0, 0) == 8
    assert await startable(5, 0) == 3
    assert await startable(5, 1) == 0


@pytest.mark.parametrize(("kind", "name"), [("tenant", "mine"), ("processor", "noop")])
async def test_suspects_wait_for_nobody_while_a_limit_keeps_them_from_starting(
    database: Database, kind: service_limits.Kind, name: str
) -> None:
    one, two = await make_worker(database), await make_worker(database)
    await limit(database, kind, name, 4)
    await make_batch(database, 4)
    await limited_claim(database, one)
    await make_batch(database, 1)
    await sql(database, "UPDATE span SET losses = $1", spans.SUSPECT_LOSSES)
    async with database.connection() as connection:
        assert not await claims.suspects_wait(connection, two, ["noop"])
        assert await claims.suspects_wait(connection, one, ["noop"])  # once it has nothing in hand


async def test_a_claim_beside_a_limit_says_that_another_has_what_it_would_have_taken(
    database: Database,
) -> None:
    """The limit is another tenant's, and nobody has it."""
    await limit(database, "tenant", "mine", 4)
    one, two = await make_worker(database), await make_worker(database)

    async def missed() -> bool:
        async with database.transaction() as tx:
            left = await limited_claims.hold(tx, {"noop": 10})
            assert left.missed or left.free
            return left.missed

    async with database.transaction() as tx:
        assert await limited_claims.hold(tx, {"noop": 10}) == Left({})
    batch_id = await make_batch(database, 10, tenant_id=OTHER)
    async with database.transaction() as tx:
        assert (await claims.claim(tx, one, {"noop": 4})).taken == 4
        assert await missed()
    assert not await missed()
    assert items(await limited_claim(database, two)) == 6
    assert (await get(database, batch_id, OTHER)).processing == 10


async def test_a_claim_that_chose_what_another_took_meanwhile_says_to_look_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the limit of the one tenant, and so takes nothing of the other."""
    await limit(database, "tenant", "mine", 40)
    await limit(database, "tenant", "other", 40)
    await make_batch(database, 10)
    one, two = await make_worker(database), await make_worker(database)
    await limited_claim(database, one, 3)
    theirs = await make_batch(database, 10, tenant_id=OTHER)
    await sql(database, "UPDATE tenant_schedule SET vtime = 9 WHERE tenant_id = $1", OTHER)

    async def claim() -> Claim:
        async with database.transaction(durable=False) as tx:
            return await limited_claims.claim(tx, two, {"noop": 10})

    async with late_choice(database, monkeypatch, limited_claims, "_HOLD", claim()) as late:
        assert items(await limited_claim(database, one, 7)) == 7
    found = await late
    assert (found.taken, found.missed) == (0, True)
    assert {lease.batch_id for lease in (await claim()).leases} == {theirs}
    nothing = await claim()
    assert (nothing.taken, nothing.missed) == (0, False)


async def test_claims_of_different_tenants_go_on_beside_each_other(database: Database) -> None:
    names = ["mine", "other", "third", "fourth"]
    ids = [TENANT, OTHER, uuid4(), uuid4()]
    for name, tenant_id in zip(names, ids, strict=True):
        await sql(
            database, "INSERT INTO tenant (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant_id, name
        )
        await limit(database, "tenant", name, 5)
        await make_batch(database, 10, tenant_id=tenant_id)
    worker = await make_worker(database)
    taken = []
    async with contextlib.AsyncExitStack() as at_once, asyncio.timeout(20):
        for _ in names:
            tx = await at_once.enter_async_context(database.transaction())
            left = await limited_claims.hold(tx, {"noop": 3})
            taken += (await claims.claim(tx, worker, left.free, (), left.of_tenants)).leases
    assert len({lease.batch_id for lease in taken}) == 4
    assert items(taken) == 12


async def test_a_limited_tenant_that_can_start_nothing_keeps_the_others_from_nothing(
    database: Database,
) -> None:
    """Its turn would be the first."""
    for name in ("mine", "other"):
        await limit(database, "tenant", name, 5)
    worker = await make_worker(database)
    mine = await make_batch(database, 10, max_concurrency=2, circuit="url:somewhere")
    assert items(await limited_claim(database, worker)) == 2
    theirs = await make_batch(database, 10, tenant_id=OTHER)
    await sql(database, "UPDATE tenant_schedule SET vtime = CASE tenant_id WHEN $1 THEN 0 ELSE 1 END", TENANT)
    assert [lease.batch_id for lease in await limited_claim(database, worker, 3)] == [theirs]
    await sql(database, "UPDATE batch_schedule SET max_concurrency = NULL WHERE batch_id = $1", mine)
    async with database.transaction() as tx:
        held = [(TENANT, "url:somewhere", 0)]
        left = await limited_claims.hold(tx, {"noop": 3}, held)
        taken = (await claims.claim(tx, worker, left.free, held, left.of_tenants)).leases
    assert [lease.batch_id for lease in taken] == [theirs]


async def test_a_page_of_batches_sums_the_leases_once_and_without_a_limit_never(database: Database) -> None:
    for _ in range(5):
        await make_batch(database, 2)
    await limited_claim(database, await make_worker(database), 1)

    async def sums() -> list[int]:
        page = f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT {batches.COLUMNS} FROM {batches.SOURCE} WHERE b.tenant_id = $1"
        [plan] = await sql(database, page, TENANT)
        return [
            node["Actual Loops"]
            for node in nodes(json.loads(plan)[0]["Plan"])
            if "running" in node.get("Subplan Name", "")
        ]

    def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield plan
        for one in plan.get("Plans", ()):
            yield from nodes(one)

    assert await sums() == [0]
    await limit(database, "tenant", "other", 5)
    assert await sums() == [1]


async def test_nobody_looks_again_for_a_limited_tenant_that_wants_nothing(database: Database) -> None:
    await limit(database, "tenant", "mine", 5)
    await limit(database, "processor", "another", 5)
    async with database.transaction() as tx:
        assert not (await limited_claims.hold(tx, {"noop": 10})).missed


async def test_without_a_limit_a_claim_says_what_it_always_said(server) -> None:  # type: ignore[no-untyped-def]
    """By a worker that has looked, and found none."""
    from mill import Scripted, eventually, working

    name = f"gristmill_test_{uuid4().hex}"
    database = await HeardDatabase(await server.create(name, template=server.template)).open()
    try:
        async with working(database, Scripted()):
            batch_id = await make_batch(database, 3)

            async def done() -> bool:
                return (await get(database, batch_id)).success == 3

            await eventually(done)
        assert "limited_claims.hold" not in {heard.where for heard in database.heard}
        await sql(database, "INSERT INTO tenant (id, name) VALUES ($1, 'mine')", TENANT)
        await limit(database, "tenant", "mine", 5)
        async with working(database, Scripted()):
            batch_id = await make_batch(database, 3)
            await eventually(done)
        assert "limited_claims.hold" in {heard.where for heard in database.heard}
    finally:
        await database.close()
        await server.drop(name)


# --- of endpoints ----------------------------------------------------------------------------------------------------


async def test_the_shares_of_all_workers_are_never_more_than_the_limit(database: Database) -> None:
    chance = random.Random(1)
    limited = await limit(database, "upstream", "model", 20)
    workers = [await make_worker(database) for _ in range(4)]
    shares_now = dict.fromkeys(workers, 0)

    async def ask(worker: int) -> None:
        for _ in range(15):
            in_use = chance.randint(0, shares_now[worker])
            shares_now[worker] = in_use
            async with database.transaction() as tx:
                grant = await shares.take(tx, limited, worker, Demand(in_use, 0, chance.randint(0, 30)))
            assert grant
            assert grant.share is not None
            shares_now[worker] = grant.share
            assert sum(shares_now.values()) <= 20

    await asyncio.gather(*map(ask, workers))
    [total] = await sql(database, "SELECT sum(granted)::int FROM upstream_share")
    assert total <= 20


async def test_a_worker_that_was_declared_dead_is_granted_nothing_and_counts_no_more(
    database: Database,
) -> None:
    limited = await limit(database, "upstream", "model", 5)
    one, two = await make_worker(database), await make_worker(database)
    async with database.transaction() as tx:
        assert (await shares.take(tx, limited, one, Demand(0, 0, 5))).share == 5  # type: ignore[union-attr]
        assert (await shares.take(tx, limited, two, Demand(0, 0, 5))).share == 0  # type: ignore[union-attr]
    await sql(database, "UPDATE worker SET dead = true WHERE id = $1", one)
    async with database.transaction() as tx:
        assert await shares.take(tx, limited, one, Demand(0, 0, 5)) is None
        assert (await shares.take(tx, limited, two, Demand(0, 0, 5))).share == 5  # type: ignore[union-attr]
        await shares.forget(tx)
    assert await sql(database, "SELECT worker_id FROM upstream_share") == [two]


async def test_a_limit_of_a_tenant_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(NotFound):
        await limit(database, "tenant", "nobody", 5)
