"""Fronts spare a claim what has gone; they hide nothing that is there (`schedules.Front`)."""

import random
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import pytest

from factories import TENANT, all_of, bear, claim, get, make_batch, make_worker, record, sql, turn
from gristmill.db import Database
from gristmill.domain.errors import Conflict
from gristmill.domain.states import TERMINAL
from gristmill.store import claims, schedules, transitions
from gristmill.store.claims import Claim, Lease
from gristmill.store.schedules import Front
from gristmill.worker import fronts as kept
from gristmill.worker.fronts import Fronts

OTHER = UUID("00000000-0000-7000-8000-000000000002")


async def look(database: Database, known: Sequence[Front] = ()) -> list[Front]:
    async with database.connection() as connection:
        return await schedules.fronts(connection, [TENANT, OTHER], known)


async def claim_from(database: Database, worker: int, slots: int, fronts: Sequence[Front]) -> Claim:
    async with database.transaction(durable=False) as tx:
        return await claims.claim(tx, worker, {"noop": slots}, fronts=fronts)


async def in_use(fronts: Fronts, database: Database, worker: int) -> None:
    for _ in range(3):
        await claim(database, worker, 5)
        fronts.claimed(TENANT)
        await fronts.step()
    assert fronts.known


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_no_batch_is_hidden_by_a_front(database: Database, seed: int) -> None:
    """Fronts are used the moment they are seen, and as long as chance wants; each empty claim is compared with one that reads
    all."""
    rng, worker = random.Random(seed), await make_worker(database)
    fronts: list[Front] = []
    running: list[Lease] = []
    made: list[tuple[UUID, UUID]] = []
    claims = moves = 0
    for _ in range(250):
        what = rng.choice(["make", "claim", "claim", "claim", "claim", "look", "pause", "resume", "forget"])
        alive = [one for one in made if (await get(database, *one)).status not in TERMINAL]
        match what:
            case "make" if len(alive) < 6:
                tenant = rng.choice([TENANT, OTHER])
                more = {"priority": rng.choice([-100, 0, 100]), "max_concurrency": rng.choice([None, 1, 5])}
                made.append(
                    (await make_batch(database, rng.randint(1, 60), tenant_id=tenant, **more), tenant)
                )
            case "look":
                seen = await look(database, fronts)
                moves += seen != fronts
                fronts = seen
            case "claim":
                taken = await claim_from(database, worker, rng.randint(1, 8), fronts)
                claims += bool(taken.taken)
                if not taken.taken:
                    assert not (await claim_from(database, worker, 1, ())).taken
                running += taken.leases
                if rng.random() < 0.5:
                    await record(database, worker, all_of(running))
                    running.clear()
            case "pause" | "resume" if alive:
                batch_id, tenant = rng.choice(alive)
                with suppress(Conflict):  # it is already
                    await turn(
                        database,
                        transitions.pause if what == "pause" else transitions.resume,
                        batch_id,
                        tenant,
                    )
            case "forget":
                async with database.transaction() as tx:
                    await schedules.forget_tenants(tx)
    assert claims > 40
    assert moves > 5


async def test_a_front_is_where_the_first_live_batch_is(database: Database) -> None:
    worker = await make_worker(database)
    first, second = [await make_batch(database, 10) for _ in range(2)]
    [before] = await look(database)
    [at] = await sql(database, "SELECT vtime FROM batch_schedule WHERE batch_id = $1", first)
    assert before == (TENANT, at, 0)
    for _ in range(4):
        await record(database, worker, all_of(await claim(database, worker, 4)))
    [now] = await look(database, [before])
    assert now.fresh > before.fresh  # none is left that has not begun
    assert now.begun == 4  # that with which one was served last; the others are at 8
    assert await sql(
        database, "SELECT vtime FROM batch_schedule WHERE batch_id = ANY ($1)", [first, second]
    ) == [8, 8]


async def test_a_batch_that_is_resumed_comes_where_the_others_are(database: Database) -> None:
    worker = await make_worker(database)
    new, begun = [await make_batch(database, 50) for _ in range(2)]
    await turn(database, transitions.pause, new)
    await claim(database, worker, 3)
    await turn(database, transitions.pause, begun)
    await make_batch(database, 50)
    for _ in range(5):
        await claim(database, worker, 5)
    fronts = await look(database)
    for batch_id in (new, begun):
        await turn(database, transitions.resume, batch_id)
        taken = await claim_from(database, worker, 5, fronts)
        assert [lease.batch_id for lease in taken.leases] == [batch_id]


async def test_a_tenant_who_comes_back_is_not_behind_the_front_of_before(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 500)
    for _ in range(4):
        await record(database, worker, all_of(await claim(database, worker, 100)))
    fronts = await look(database)
    await record(database, worker, all_of(await claim(database, worker, 100)))
    other = await make_batch(database, 1000, tenant_id=OTHER)
    for _ in range(3):  # until he has had as much
        await claim(database, worker, 300)
    await turn(database, transitions.pause, other, OTHER)
    async with database.transaction() as tx:
        assert await schedules.forget_tenants(tx) == 1
    await make_batch(database, 10)
    for _ in range(2):
        assert (await claim_from(database, worker, 5, fronts)).taken == 5


async def test_a_front_is_used_only_when_it_is_as_old_as_a_look(database: Database) -> None:
    """What is being committed while it is seen may come in front of it."""
    worker, fronts = await make_worker(database), Fronts(database)
    await make_batch(database, 10)
    await claim(database, worker, 5)
    fronts.claimed(TENANT)
    await fronts.step()
    assert not fronts.known
    fronts.claimed(TENANT)
    await fronts.step()
    assert [front.tenant_id for front in fronts.known] == [TENANT]


async def test_what_a_slow_transaction_left_in_front_is_found_when_all_is_read(database: Database) -> None:
    worker, fronts = await make_worker(database), Fronts(database)
    batch_id = await make_batch(database, 100)
    for _ in range(2):
        await claim(database, worker, 5)
    for _ in range(kept.READ_ALL + 1):
        fronts.claimed(TENANT)
        await fronts.step()
    await sql(database, "UPDATE batch_schedule SET vtime = 1 WHERE batch_id = $1", batch_id)
    assert not (await claim_from(database, worker, 5, fronts.known)).taken
    for _ in range(kept.READ_ALL + 1):
        fronts.claimed(TENANT)
        await fronts.step()
    assert (await claim_from(database, worker, 5, fronts.known)).taken == 5


async def test_a_create_that_is_open_during_one_look_is_found_by_the_next(database: Database) -> None:
    worker, fronts = await make_worker(database), Fronts(database)
    await make_batch(database, 500)
    await in_use(fronts, database, worker)
    async with database.transaction() as tx:
        batch_id, _ = await bear(tx, worker, 10, 0)
        fronts.claimed(TENANT)
        await fronts.step()
    fronts.claimed(TENANT)
    await fronts.step()
    taken = await claim_from(database, worker, 5, fronts.known)
    assert [lease.batch_id for lease in taken.leases] == [batch_id]


async def test_a_worker_that_claims_nothing_gives_its_fronts_up(database: Database) -> None:
    worker, fronts = await make_worker(database), Fronts(database)
    await make_batch(database, 100)
    await in_use(fronts, database, worker)
    await fronts.step()
    assert not fronts.known
