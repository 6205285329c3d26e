"""What a claim takes: never more than may start, never twice, and from whose turn it is."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from factories import (
    TENANT,
    all_of,
    blocked,
    claim,
    drain,
    expire,
    get,
    late_choice,
    lose,
    make_batch,
    make_worker,
    new_batch,
    ordinals,
    record,
    retry,
    sql,
    success,
    turn,
    violations,
)
from gristmill.db import Database
from gristmill.domain.ids import uuid7
from gristmill.domain.states import BatchStatus
from gristmill.store import claims, limited_claims, new_batches, schedules, transitions, workers
from gristmill.store.claims import Claim
from gristmill.store.new_batches import NewItem
from gristmill.store.recording import Flush

OTHER = UUID("00000000-0000-7000-8000-000000000002")


async def take(database: Database, worker_id: int, claims: int, slots: int = 10) -> Counter[UUID]:
    """How many items of each batch so many claims took, one after the other."""
    taken: Counter[UUID] = Counter()
    for _ in range(claims):
        for lease in await claim(database, worker_id, slots):
            taken[lease.batch_id] += len(lease.items)
    return taken


@pytest.mark.parametrize("slots", [1, 7, 100])
async def test_a_claim_takes_no_more_than_the_free_slots(database: Database, slots: int) -> None:
    await make_batch(database, 50)
    worker = await make_worker(database)

    claimed = await claim(database, worker, slots)

    assert ordinals(claimed) == list(range(min(slots, 50)))
    assert [item.input for lease in claimed for item in lease.items][:1] == ['{"text":"0"}']


async def test_no_slots_no_items(database: Database) -> None:
    await make_batch(database, 5)
    worker = await make_worker(database)

    assert await claim(database, worker, 0) == []
    assert await claim(database, worker, {}) == []


async def test_a_claim_over_many_small_spans_takes_no_more_than_the_free_slots(database: Database) -> None:
    await make_batch(database, 9)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 9)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, n) for n in range(9)]))

    sizes = [len(ordinals(await claim(database, worker, 4))) for _ in range(4)]

    assert sizes == [4, 4, 1, 0]
    assert await violations(database) == []


async def test_a_claim_locks_no_more_spans_than_it_takes(database: Database) -> None:
    await make_batch(database, 9)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 9)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, n) for n in range(9)]))

    async with database.transaction() as tx:
        assert len((await claims.claim(tx, worker, {"noop": 2})).leases) == 2
        assert len(await sql(database, "SELECT id FROM span FOR UPDATE SKIP LOCKED")) == 7


async def test_twenty_workers_at_once_never_take_the_same_item(database: Database) -> None:
    seeded = random.Random(20)
    for _ in range(3):
        for _ in range(3):
            await make_batch(database, seeded.randint(30, 120))
    seen: Counter[tuple[UUID, int]] = Counter()

    async def work(worker: int) -> None:
        for _ in range(12):
            for lease in await claim(database, worker, seeded.randint(1, 9)):
                seen.update((lease.batch_id, item.ordinal) for item in lease.items)
                if seeded.random() < 0.5:
                    await record(database, worker, all_of([lease]))

    await asyncio.gather(*[work(await make_worker(database)) for _ in range(20)])

    assert len(seen) > 300
    assert set(seen.values()) == {1}
    assert await violations(database) == []


async def test_a_claim_under_way_keeps_nobody_from_the_batches_of_other_tenants(database: Database) -> None:
    mine = await make_batch(database, 10)
    others = {await make_batch(database, 10, tenant_id=uuid7()) for _ in range(3)}
    worker = await make_worker(database)

    async with database.transaction() as tx:
        [first] = (await claims.claim(tx, worker, {"noop": 5})).leases
        taken = {lease.batch_id for _ in range(3) for lease in await claim(database, worker, 10)}
        assert taken == {mine, *others} - {first.batch_id}


async def test_nothing_starts_in_a_paused_cancelled_or_overdue_batch(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 3, start_paused=True)
    await turn(database, transitions.pause, await make_batch(database, 3))
    await turn(database, transitions.cancel, await make_batch(database, 3))
    await expire(database, await make_batch(database, 3))
    await make_batch(database, 3)
    await sql(database, "UPDATE batch_schedule SET deadline_at = now() WHERE NOT paused")  # not yet noticed

    assert await claim(database, worker, 10) == []
    assert await sql(database, "SELECT id FROM lease") == []


async def test_a_dead_worker_gets_nothing(database: Database) -> None:
    batch_id = await make_batch(database, 3)
    worker = await make_worker(database)
    async with database.transaction() as tx:
        await workers.leave(tx, worker)

    assert await claim(database, worker, 10) == []
    assert (await get(database, batch_id)).pending == 3


async def test_a_processor_without_a_free_slot_is_passed_over(database: Database) -> None:
    await make_batch(database, 3, processor="busy")
    await make_batch(database, 3, processor="unknown")
    free = await make_batch(database, 3, processor="free")
    worker = await make_worker(database)

    claimed = await claim(database, worker, {"busy": 0, "free": 2})

    assert [lease.batch_id for lease in claimed] == [free]
    assert ordinals(claimed) == [0, 1]


async def test_an_item_waits_for_its_time(database: Database) -> None:
    await make_batch(database, 1)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, 3600)]))
    assert await claim(database, worker, 1) == []

    await sql(database, "UPDATE span SET available_at = now()")

    assert ordinals(await claim(database, worker, 1)) == [0]


async def test_a_retried_item_knows_its_attempt_and_its_neighbours_know_theirs(database: Database) -> None:
    await make_batch(database, 4)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 3)
    flush = Flush({lease.id: 0}, [success(lease, 0)], [retry(lease, 1), retry(lease, 2, waiting=True)])
    await record(database, worker, flush)

    attempts = {
        item.ordinal: lease.attempt for lease in await claim(database, worker, 10) for item in lease.items
    }

    assert attempts == {1: 2, 2: 1, 3: 1}


async def test_an_item_recorded_by_a_lost_worker_is_not_run_again(database: Database) -> None:
    await make_batch(database, 3)
    zombie, heir = await make_worker(database), await make_worker(database)
    [lease] = await claim(database, zombie, 3)
    await lose(database, zombie)
    await record(database, zombie, Flush({lease.id: 2}, [success(lease, 1)]))

    assert ordinals(await claim(database, heir, 3)) == [0, 2]
    assert await sql(database, "SELECT remaining FROM lease") == [2]


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_batch_runs_no_more_items_than_its_limit(database: Database) -> None:
    batch_id = await make_batch(database, 20, max_concurrency=3)
    worker = await make_worker(database)

    [lease] = await claim(database, worker, 10)
    assert len(lease.items) == 3
    assert await claim(database, worker, 10) == []
    assert (await get(database, batch_id)).waiting_reason == "concurrency limit"
    await record(database, worker, Flush({lease.id: 1}, [success(lease, 0), success(lease, 1)]))

    assert ordinals(await claim(database, worker, 10)) == [3, 4]


async def test_a_batch_at_its_limit_keeps_no_other_waiting(database: Database) -> None:
    await make_batch(database, 20, max_concurrency=1)
    other = await make_batch(database, 20)
    worker = await make_worker(database)
    await claim(database, worker, 10)

    assert await take(database, worker, 2) == {other: 20}


async def test_many_workers_together_never_exceed_the_limit_of_a_batch(database: Database) -> None:
    batch_id = await make_batch(database, 80, max_concurrency=2)
    most = 0

    async def work(worker: int) -> None:
        nonlocal most
        while (await get(database, batch_id)).status is BatchStatus.IN_PROGRESS:
            claimed = await claim(database, worker, 2)
            [running] = await sql(database, "SELECT coalesce(sum(remaining), 0)::int FROM lease")
            most = max(most, running)
            if claimed:
                await record(database, worker, all_of(claimed))

    await asyncio.gather(*[work(await make_worker(database)) for _ in range(6)])

    assert most == 2
    assert await violations(database) == []


# --- shares ----------------------------------------------------------------------------------------------------------


async def test_three_items_behind_a_thousand_are_served_by_the_next_claim(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 1000)
    await take(database, worker, 5)
    small = await make_batch(database, 3)

    assert await take(database, worker, 1) == {small: 3}


async def test_three_items_behind_another_tenants_thousand_are_served_by_the_next_claim(
    database: Database,
) -> None:
    worker = await make_worker(database)
    await make_batch(database, 1000)
    await take(database, worker, 5)
    small = await make_batch(database, 3, tenant_id=OTHER)

    assert await take(database, worker, 1) == {small: 3}


async def test_three_items_of_a_tenant_that_was_here_before_are_served_by_the_next_claim(
    database: Database,
) -> None:
    worker = await make_worker(database)
    await make_batch(database, 100, tenant_id=OTHER)
    await drain(database, worker)
    await make_batch(database, 1000)
    await take(database, worker, 20)
    small = await make_batch(database, 3, tenant_id=OTHER)

    assert await take(database, worker, 1) == {small: 3}


async def test_tenants_share_evenly_whatever_the_number_of_their_batches(database: Database) -> None:
    worker = await make_worker(database)
    many = [await make_batch(database, 300) for _ in range(9)]
    alone = await make_batch(database, 300, tenant_id=OTHER)

    taken = await take(database, worker, 40)

    assert taken[alone] == 200
    assert max(taken[one] for one in many) - min(taken[one] for one in many) <= 10


async def test_priority_changes_the_share_and_starves_nobody(database: Database) -> None:
    worker = await make_worker(database)
    low, high = [await make_batch(database, 1000, priority=priority) for priority in (-50, 50)]

    taken = await take(database, worker, 44)

    assert taken[high] / taken[low] == pytest.approx(10, rel=0.1)
    assert taken[low] == 40


async def even(database: Database, worker_id: int, *batch_ids: UUID) -> bool:
    """Whether the next claims come from these batches alike, give or take one claim."""
    taken = await take(database, worker_id, 10 * len(batch_ids))
    return set(taken) == set(batch_ids) and max(taken.values()) - min(taken.values()) <= 20


async def test_a_batch_that_comes_late_earns_no_credit(database: Database) -> None:
    worker = await make_worker(database)
    early = await make_batch(database, 1000)
    await take(database, worker, 50)
    late = await make_batch(database, 1000)

    assert await even(database, worker, early, late)


async def test_a_tenant_that_comes_late_earns_no_credit(database: Database) -> None:
    worker = await make_worker(database)
    early = await make_batch(database, 1000)
    await take(database, worker, 50)
    late = await make_batch(database, 1000, tenant_id=OTHER)

    assert await even(database, worker, early, late)


async def test_a_tenant_that_had_the_mill_to_itself_owes_nothing_for_it(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 500)
    await drain(database, worker, slots=10)
    new = await make_batch(database, 1000, tenant_id=OTHER)
    await take(database, worker, 1)
    returned = await make_batch(database, 1000)

    assert await even(database, worker, new, returned)


@pytest.mark.parametrize("tenant_id", [TENANT, OTHER])
async def test_a_batch_that_was_paused_earns_no_credit(database: Database, tenant_id: UUID) -> None:
    worker = await make_worker(database)
    paused = await make_batch(database, 1000, tenant_id=tenant_id)
    await turn(database, transitions.pause, paused, tenant_id)
    other = await make_batch(database, 1000)
    await take(database, worker, 50)

    await turn(database, transitions.resume, paused, tenant_id)

    assert await even(database, worker, paused, other)


@pytest.mark.parametrize("tenant_id", [TENANT, OTHER])
async def test_a_batch_whose_items_waited_earns_no_credit(database: Database, tenant_id: UUID) -> None:
    worker = await make_worker(database)
    waited = await make_batch(database, 1000, tenant_id=tenant_id)
    await sql(database, "UPDATE span SET available_at = now() + interval '1 hour'")
    other = await make_batch(database, 1000)
    await take(database, worker, 50)

    await sql(database, "UPDATE span SET available_at = now()")

    assert await even(database, worker, waited, other)


@pytest.mark.parametrize("tenant_id", [TENANT, OTHER])
async def test_who_comes_late_is_not_put_level_with_a_batch_held_back_by_its_limit(
    database: Database, tenant_id: UUID
) -> None:
    worker = await make_worker(database)
    await make_batch(database, 1000, max_concurrency=1, tenant_id=tenant_id)
    busy = await make_batch(database, 2000)
    await take(database, worker, 50)
    late = await make_batch(database, 1000, tenant_id=uuid7() if tenant_id == OTHER else TENANT)

    [tenant_of_late] = await sql(database, "SELECT tenant_id FROM batch WHERE id = $1", late)
    assert (tenant_of_late == TENANT) == (tenant_id == TENANT)
    assert await even(database, worker, busy, late)


async def forget_tenants(database: Database) -> int:
    async with database.transaction() as tx:
        return await schedules.forget_tenants(tx)


async def tenants(database: Database) -> set[UUID]:
    return set(await sql(database, "SELECT tenant_id FROM tenant_schedule"))


async def test_a_tenant_who_wants_nothing_is_forgotten_once_others_have_had_as_much(
    database: Database,
) -> None:
    worker = await make_worker(database)
    await make_batch(database, 100)
    await drain(database, worker, slots=100)
    going_on = await make_batch(database, 1000, tenant_id=OTHER)

    assert await forget_tenants(database) == 0
    await take(database, worker, 15)
    assert await forget_tenants(database) == 1
    assert await tenants(database) == {OTHER}
    back = await make_batch(database, 1000)
    assert await even(database, worker, going_on, back)


async def test_a_tenant_who_owes_is_not_forgotten(database: Database) -> None:
    worker = await make_worker(database)
    other = await make_batch(database, 1000, tenant_id=OTHER)
    await take(database, worker, 1)
    await make_batch(database, 300)
    [lease] = await claim(database, worker, 300)
    await record(database, worker, all_of([lease]))

    assert await forget_tenants(database) == 0
    await make_batch(database, 1000)
    assert await take(database, worker, 20) == {other: 200}


async def test_a_tenant_whose_new_batch_is_not_yet_to_be_seen_is_not_forgotten(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 10)
    await drain(database, worker)
    await make_batch(database, 100, tenant_id=OTHER)
    await take(database, worker, 5)
    new = new_batch()

    async with database.transaction() as tx:
        await new_batches.create(tx, new, [NewItem("a", "{}")])
        assert await forget_tenants(database) == 0
    assert await violations(database) == []
    assert (await take(database, worker, 1))[new.id] == 1


async def test_a_tenant_who_is_just_being_forgotten_can_come_back(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 10)
    await drain(database, worker)
    await make_batch(database, 100, tenant_id=OTHER)
    await take(database, worker, 5)

    async with database.transaction() as tx:
        assert await schedules.forget_tenants(tx) == 1
        coming = asyncio.create_task(make_batch(database, 10))
        await blocked(database, coming)
    await coming
    assert await violations(database) == []


async def test_of_two_first_batches_of_a_tenant_that_are_made_at_once_both_may_start(
    database: Database,
) -> None:
    worker = await make_worker(database)
    first = new_batch()

    async with database.transaction() as tx:
        await new_batches.create(tx, first, [NewItem("a", "{}")])
        coming = asyncio.create_task(make_batch(database, 1))
        await blocked(database, coming)
    second = await coming
    assert await take(database, worker, 2) == {first.id: 1, second: 1}
    assert await violations(database) == []


async def waited(database: Database, batch_id: UUID) -> str | None:
    """Why the batch waits, after its items have waited for two seconds."""
    later = "UPDATE span SET available_at = now() - interval '2 seconds' WHERE batch_id = $1"
    await sql(database, later, batch_id)
    return (await get(database, batch_id)).waiting_reason


async def test_a_batch_is_said_to_be_queued_only_after_a_moment_and_while_others_run(
    database: Database,
) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, 3)
    assert (await get(database, batch_id)).waiting_reason is None
    assert await waited(database, batch_id) is None  # an idle mill is about to start it

    await make_batch(database, 3, tenant_id=OTHER)
    await sql(database, "UPDATE batch_schedule SET paused = batch_id = $1", batch_id)
    [lease] = await claim(database, worker, 3)
    await sql(database, "UPDATE batch_schedule SET paused = false")
    assert await waited(database, batch_id) == "queued behind other work"
    assert (await get(database, await make_batch(database, 3))).waiting_reason is None

    await record(database, worker, all_of([lease]))
    assert await waited(database, batch_id) is None
    await claim(database, worker, 1)
    assert await waited(database, batch_id) is None


async def look(database: Database, worker_id: int, slots: int = 9) -> Claim:
    """As a worker claims that knows of no limits."""
    async with database.connection() as connection:
        return await claims.claim(connection, worker_id, {"noop": slots}, plain=["noop"])


async def test_a_claim_says_that_another_has_what_it_would_have_taken(database: Database) -> None:
    first, second = await make_worker(database), await make_worker(database)
    nothing = await look(database, second)
    assert (nothing.taken, nothing.missed) == (0, False)
    batch_id = await make_batch(database, 5)
    async with database.transaction() as tx:
        assert (await claims.claim(tx, first, {"noop": 1})).taken == 1
        late = await look(database, second)
        assert (late.taken, late.missed) == (0, True)
    late = await look(database, second, 2)
    assert (late.taken, late.missed) == (2, False)
    await turn(database, transitions.pause, batch_id)
    paused = await look(database, second)
    assert (paused.taken, paused.missed) == (0, False)
    await turn(database, transitions.resume, batch_id)
    assert (await look(database, second)).taken == 2
    assert not (await look(database, second)).missed


@pytest.mark.parametrize("claiming", [claims.claim, limited_claims.claim])
async def test_a_part_is_taken_of_a_batch_of_which_more_waits_than_could_be_claimed(
    database: Database, claiming: Callable[..., Awaitable[Claim]]
) -> None:
    worker = await make_worker(database)
    batch_id = await make_batch(database, 14, max_concurrency=13)

    async def take(slots: int) -> list[tuple[int, int]]:
        async with database.transaction() as tx:
            leases = (await claiming(tx, worker, {"noop": slots}, part=3)).leases
        return sorted((one.items[0].ordinal, len(one.items)) for one in leases)

    assert await take(5) == [(0, 3)]
    assert await take(2) == [(3, 2)]
    assert await take(20) == [(5, 3)]  # eight may run, and nine wait
    await sql(database, "UPDATE batch_schedule SET max_concurrency = NULL")
    assert await take(6) == [(8, 6)]
    await sql(database, "DELETE FROM lease WHERE first IN (0, 3, 5)")
    back = "INSERT INTO span (batch_id, first, last, attempts, losses) VALUES ($1, $2, $3, 1, 0)"
    for first, last in [(0, 1), (3, 4), (6, 7)]:
        await sql(database, back, batch_id, first, last)
    assert await take(5) == [(0, 2), (3, 1)]
    assert await take(5) == [(4, 1), (6, 2)]
    assert await take(5) == []


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_claim_that_came_too_late_to_what_it_saw_takes_the_rest_or_says_to_look_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, begun: bool, all_of_it: bool
) -> None:
    """A batch that has not begun is in another range of virtual times than one that has: it is passed over."""
    first, second = await make_worker(database), await make_worker(database)
    await make_batch(database, 10)
    left = 10 - (await look(database, first, 3)).taken if begun else 10
    async with late_choice(database, monkeypatch, claims, "_CLAIM", look(database, second)) as late:
        taken = (await look(database, first, left if all_of_it else 4)).taken
        left -= taken
    claimed = await late
    assert claimed.taken == (left if begun else 0)
    assert claimed.missed == (not claimed.taken)
    again = await look(database, second)
    assert (claimed.taken + again.taken, again.missed) == (left, False)
    assert await violations(database) == []
