"""Circuits in the tables: what a claim takes while one is open, and what the batch says of it."""

import asyncio
from uuid import UUID

from factories import (
    TENANT,
    all_of,
    claim,
    claim_some,
    failure,
    get,
    in_chats,
    lose,
    make_batch,
    make_worker,
    ordinals,
    record,
    retry,
    sql,
    violations,
)
from gristmill.db import Database
from gristmill.store import circuits, claims, retries
from gristmill.store.new_batches import NewUpstream
from gristmill.store.recording import Flush

OTHER = UUID("00000000-0000-7000-8000-000000000002")


async def opened(
    database: Database, seconds: float | None = 30.0, *, tenant_id: UUID = TENANT, reason: str = "down"
) -> None:
    async with database.transaction() as tx:
        await circuits.open_(tx, tenant_id, "model", reason=reason, seconds=seconds, longest_seconds=10.0)


async def due(database: Database) -> None:
    """The time of the next probe has come."""
    await sql(database, "UPDATE circuit SET until = now() - interval '1 second'")


async def pause(database: Database) -> float:
    [seconds] = await sql(database, "SELECT extract(epoch FROM until - now())::float8 FROM circuit")
    found: float = seconds
    return found


async def test_a_batch_whose_circuit_is_open_is_passed_over_and_no_other_waits_for_it(
    database: Database,
) -> None:
    held = await make_batch(database, 5, circuit="model", priority=100)
    own_key = await make_batch(database, 2, circuit="model:abc")
    nobody = await make_batch(database, 2)
    elsewhere = await make_batch(database, 2, circuit="model", tenant_id=OTHER)
    worker = await make_worker(database)
    await opened(database)

    taken = [lease.batch_id for _ in range(6) for lease in await claim(database, worker, 10)]
    assert sorted(taken) == sorted([own_key, nobody, elsewhere])
    assert await sql(database, "SELECT first, last FROM span WHERE batch_id = $1", held) == [(0, 4)]

    async with database.transaction() as tx:
        await circuits.close(tx, TENANT, "model")
    [lease] = await claim(database, worker, 10)
    assert (lease.batch_id, len(lease.items), lease.probing) == (held, 5, False)
    assert await violations(database) == []


async def test_of_all_batches_and_workers_one_item_probes_at_a_time(database: Database) -> None:
    for _ in range(4):
        await make_batch(database, 50, circuit="model")
    workers = [await make_worker(database) for _ in range(6)]
    await opened(database)
    for _ in range(3):
        await due(database)
        found = await asyncio.gather(*(claim(database, worker, 10) for worker in workers))
        leases = [lease for leases in found for lease in leases]
        assert [(lease.probing, len(lease.items)) for lease in leases] == [(True, 1)]
    assert await violations(database) == []


async def test_pauses_between_probes_double_up_to_the_longest(database: Database) -> None:
    await make_batch(database, 50, circuit="model")
    worker = await make_worker(database)
    await opened(database, None)
    assert 0.5 < await pause(database) <= 1.2
    for planned in (2.0, 4.0, 8.0, 10.0, 10.0):
        await due(database)
        assert len(await claim(database, worker, 10)) == 1
        assert planned * 0.7 < await pause(database) <= planned * 1.2


async def test_a_probe_that_is_lost_with_its_worker_is_followed_by_another(database: Database) -> None:
    await make_batch(database, 50, circuit="model")
    first, second = await make_worker(database), await make_worker(database)
    await opened(database)
    await due(database)
    assert len(await claim(database, first, 10)) == 1
    await lose(database, first)
    assert await claim(database, second, 10) == []
    await due(database)
    [lease] = await claim(database, second, 10)
    assert lease.probing


async def test_one_that_is_open_stays_so_for_the_longest_that_was_asked_for(database: Database) -> None:
    await opened(database, 60.0)
    await opened(database, 5.0, reason="throttled")
    assert 50 < await pause(database) <= 60
    await opened(database, 90.0)
    assert 80 < await pause(database) <= 90


async def test_a_probe_that_called_nobody_is_followed_at_once(database: Database) -> None:
    await make_batch(database, 50, circuit="model")
    worker = await make_worker(database)
    await opened(database)
    await due(database)
    assert len(await claim(database, worker, 10)) == 1
    async with database.transaction() as tx:
        await circuits.let_probe(tx, TENANT, "model")
    assert len(await claim(database, worker, 10)) == 1


async def test_a_probe_whose_chat_is_busy_is_followed_at_once_until_one_can_call(database: Database) -> None:
    """The one that has the chat came back from a call and is behind the others in the batch."""
    await make_batch(database, in_chats(*[1] * 6), circuit="model")
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, waiting=True)]))
    await opened(database, None)
    await due(database)
    for _ in range(5):
        claimed = await claim_some(database, worker, 10)
        assert (claimed.leases, claimed.taken) == ([], 1)
    [lease] = await claim(database, worker, 10)
    assert (lease.probing, ordinals([lease])) == (True, [0])
    assert 2.0 * 0.7 < await pause(database) <= 2.0 * 1.2
    assert await violations(database) == []


async def test_a_batch_says_why_it_waits(database: Database) -> None:
    batch_id = await make_batch(database, 5, circuit="model")
    await make_worker(database)
    assert (await get(database, batch_id)).waiting_reason is None
    await opened(database)
    batch = await get(database, batch_id)
    assert batch.circuit_until is not None
    assert batch.waiting_reason == f"upstream down until {batch.circuit_until:%Y-%m-%dT%H:%M:%SZ}"
    await opened(database, 60, reason="throttled")
    assert ((await get(database, batch_id)).waiting_reason or "").startswith("throttled until 20")
    async with database.transaction() as tx:
        await circuits.close(tx, TENANT, "model")
    assert (await get(database, batch_id)).waiting_reason is None


async def test_a_claim_takes_no_more_than_the_circuit_has_room_for(database: Database) -> None:
    full = await make_batch(database, 20, circuit="model")
    other = await make_batch(database, 20, circuit="model:abc")
    worker = await make_worker(database)

    async def take(slots: int) -> tuple[UUID, int]:
        async with database.transaction() as tx:
            taken = await claims.claim(tx, worker, {"noop": 10}, [(TENANT, "model", slots)])
        return taken.leases[0].batch_id, taken.taken

    assert await take(3) == (full, 3)
    assert await take(-1) == (other, 10)
    assert await take(0) == (other, 10)
    assert await take(100) == (full, 10)


async def test_what_an_outage_gives_back_is_one_span_again(database: Database) -> None:
    await make_batch(database, 40, circuit="model")
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 20)
    back = [retry(lease, number, waiting=True) for number in range(19)]
    counted = retry(lease, 19)
    await record(database, worker, Flush({lease.id: 0}, [], [*back, counted]))
    rows = await sql(database, "SELECT ARRAY[first, last, attempts] FROM span ORDER BY first")
    assert rows == [[0, 18, 0], [19, 19, 1], [20, 39, 0]]
    assert await violations(database) == []


async def test_a_lease_says_whether_its_items_came_back_from_a_wait(database: Database) -> None:
    await make_batch(database, 6, circuit="model")
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 4)
    again = [retry(lease, 0, waiting=True), retry(lease, 1, waiting=True), retry(lease, 2), retry(lease, 3)]
    await record(database, worker, Flush({lease.id: 0}, [], again))
    leases = await claim(database, worker, 6)
    waited = {item.ordinal: one.waited for one in leases for item in one.items}
    assert waited == {0: True, 1: True, 2: False, 3: False, 4: False, 5: False}


async def test_what_was_lost_more_than_once_stays_apart_in_an_outage(database: Database) -> None:
    await make_batch(database, 3, circuit="model")
    for _ in range(2):
        worker = await make_worker(database)
        await claim(database, worker, 3)
        await lose(database, worker)
    worker = await make_worker(database)
    leases = await claim(database, worker, 3)
    again = [retry(lease, lease.items[0].ordinal, waiting=True) for lease in leases]
    await record(database, worker, Flush({lease.id: 0 for lease in leases}, [], again))
    assert await sql(database, "SELECT last - first FROM span") == [0, 0, 0]


async def test_circuits_that_nobody_wants_any_more_are_forgotten(database: Database) -> None:
    await opened(database)
    await opened(database, tenant_id=OTHER)
    await sql(database, "UPDATE circuit SET until = now() - interval '2 days' WHERE tenant_id = $1", OTHER)
    async with database.transaction() as tx:
        await circuits.forget(tx)
    assert await sql(database, "SELECT tenant_id FROM circuit") == [TENANT]


async def test_a_retry_keeps_the_circuit_and_a_key_of_its_own_brings_another(database: Database) -> None:
    batch_id = await make_batch(database, 1, circuit="model", upstream=NewUpstream("m", None, "model"))
    worker = await make_worker(database)

    async def fails() -> None:
        [lease] = await claim(database, worker, 1)
        await record(database, worker, Flush(all_of([lease]).remaining, [failure(lease, 0)]))

    async def circuit() -> list[str]:
        return await sql(database, "SELECT circuit FROM batch_schedule WHERE batch_id = $1", batch_id)

    await fails()
    async with database.transaction() as tx:
        await retries.retry(tx, TENANT, batch_id)
    assert await circuit() == ["model"]
    await fails()
    async with database.transaction() as tx:
        again = NewUpstream("m", b"sealed", "model:abc")
        await retries.retry(tx, TENANT, batch_id, upstream=again, key_given=True)
    assert await circuit() == ["model:abc"]
