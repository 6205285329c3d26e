"""How a batch turns, and that it ends once. Seed 004, rules 24 to 27, and every transition, allowed or not."""

import asyncio
import random
from collections.abc import Awaitable
from datetime import datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from factories import (
    TENANT,
    Action,
    all_of,
    blocked,
    claim,
    drain,
    enforce,
    erase,
    events,
    expire,
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
    success,
    sweep,
    turn,
    violations,
    waiting,
)
from gristmill.db import Database
from gristmill.domain.errors import Conflict, NotFound
from gristmill.domain.limits import FailureThreshold, LimitAction
from gristmill.domain.states import BatchStatus
from gristmill.store import batches, claims, endings, recording, retries, transitions
from gristmill.store.claims import Lease
from gristmill.store.new_batches import NewWebhook
from gristmill.store.recording import Flush
from gristmill.store.spans import Waiting
from gristmill.tables import metadata

pytestmark = pytest.mark.usefixtures("recorded")

OTHER = UUID("00000000-0000-7000-8000-000000000002")


async def in_flight(database: Database, items: int = 4, leased: int = 2) -> tuple[UUID, int, list[Lease]]:
    batch_id = await make_batch(database, items)
    worker = await make_worker(database)
    return batch_id, worker, await claim(database, worker, leased)


# --- every state, made as it comes about ------------------------------------------------------------------------------


async def fresh(database: Database) -> UUID:
    return await make_batch(database, 2)


async def paused(database: Database) -> UUID:
    return await make_batch(database, 2, start_paused=True)


async def cancelling(database: Database) -> UUID:
    batch_id = await make_batch(database, 2)
    await turn(database, transitions.cancel, batch_id)
    return batch_id


async def draining(database: Database) -> UUID:
    batch_id, _, _ = await in_flight(database)
    await expire(database, batch_id)
    return batch_id


async def completed(database: Database) -> UUID:
    batch_id, worker, [lease] = await in_flight(database, 2)
    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0), failure(lease, 1)]))
    return batch_id


async def failed(database: Database) -> UUID:
    batch_id = await make_batch(database, 2)
    await expire(database, batch_id)
    await sweep(database)
    return batch_id


async def cancelled(database: Database) -> UUID:
    batch_id = await cancelling(database)
    await sweep(database)
    return batch_id


STATES = {
    "in_progress": fresh,
    "paused": paused,
    "cancelling": cancelling,
    "draining": draining,
    "completed": completed,
    "failed": failed,
    "cancelled": cancelled,
}
ACTIONS: dict[str, Action] = {
    "pause": transitions.pause,
    "resume": transitions.resume,
    "cancel": transitions.cancel,
    "delete": transitions.delete,
    "retry": retries.retry,
}
ALLOWED = {
    ("in_progress", "pause"): BatchStatus.PAUSED,
    ("paused", "resume"): BatchStatus.IN_PROGRESS,
    ("in_progress", "cancel"): BatchStatus.CANCELLING,
    ("paused", "cancel"): BatchStatus.CANCELLING,
    ("completed", "delete"): None,
    ("failed", "delete"): None,
    ("cancelled", "delete"): None,
    ("completed", "retry"): BatchStatus.IN_PROGRESS,
    ("failed", "retry"): BatchStatus.IN_PROGRESS,
    ("cancelled", "retry"): BatchStatus.IN_PROGRESS,
}
FORBIDDEN = [(state, action) for state in STATES for action in ACTIONS if (state, action) not in ALLOWED]


@pytest.mark.parametrize(("state", "action"), ALLOWED)
async def test_a_transition_of_the_contract_is_made(database: Database, state: str, action: str) -> None:
    batch_id = await STATES[state](database)
    async with database.transaction() as tx:
        answer = await ACTIONS[action](tx, TENANT, batch_id)

    expected = ALLOWED[state, action]
    if expected is None:
        with pytest.raises(NotFound):
            await get(database, batch_id)
    else:
        assert isinstance(answer, batches.Batch)
        assert answer.status is (await get(database, batch_id)).status is expected
    assert await violations(database) == []


@pytest.mark.parametrize(("state", "action"), FORBIDDEN)
async def test_any_other_is_refused_and_names_the_status(database: Database, state: str, action: str) -> None:
    batch_id = await STATES[state](database)
    before = await get(database, batch_id)

    with pytest.raises(Conflict) as refusal:
        await turn(database, ACTIONS[action], batch_id)

    status = "in_progress" if state == "draining" else state
    assert f"'{status}'" in refusal.value.detail
    assert ("draining" in refusal.value.detail) == (state == "draining")
    assert action in refusal.value.detail
    after = await get(database, batch_id)
    assert (after.status, after.ending, after.failed) == (before.status, before.ending, before.failed)
    assert await violations(database) == []


@pytest.mark.parametrize("action", ACTIONS.values())
async def test_an_unknown_batch_and_another_tenants_are_both_not_found(
    database: Database, action: Action
) -> None:
    batch_id = await make_batch(database, 2, tenant_id=OTHER)

    with pytest.raises(NotFound) as unknown:
        await turn(database, action, uuid4())
    with pytest.raises(NotFound) as foreign:
        await turn(database, action, batch_id)

    assert unknown.value.detail == foreign.value.detail
    assert (await get(database, batch_id, OTHER)).status is BatchStatus.IN_PROGRESS


# --- what the sweeper looks for -------------------------------------------------------------------------------------


async def test_a_look_for_what_stops_sees_each_kind_and_nothing_else(database: Database) -> None:
    async def some_stop() -> bool:
        async with database.connection() as connection:
            return await endings.some_stop(connection)

    worker = await make_worker(database)
    cancelled, overdue = await make_batch(database, 3), await make_batch(database, 3)
    limited = await make_batch(database, 3, failure_threshold=FailureThreshold(0.1, 1, LimitAction.PAUSE))
    leases = [lease for _ in range(3) for lease in await claim(database, worker, 1)]
    assert {lease.batch_id for lease in leases} == {cancelled, overdue, limited}
    assert not await some_stop()

    await turn(database, transitions.cancel, cancelled)
    assert await some_stop()
    assert await sweep(database) == [2]
    assert not await some_stop()

    await sql(database, "UPDATE batch_schedule SET deadline_at = now() WHERE batch_id = $1", overdue)
    assert await some_stop()
    assert await expire(database, overdue) == 1
    await sweep(database)
    assert not await some_stop()

    [of_limited] = [lease for lease in leases if lease.batch_id == limited]
    await record(database, worker, Flush({of_limited.id: 0}, [failure(of_limited, 0)]))
    assert await some_stop()
    assert await enforce(database) == 1
    assert not await some_stop()


# --- cancel ----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_batch_ends_its_waiting_items_in_chunks(database: Database) -> None:
    batch_id = await make_batch(database, 25)
    await turn(database, transitions.cancel, batch_id)
    assert (await get(database, batch_id)).failed == 0

    assert await sweep(database, most=10) == [10, 10, 5]

    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.cancelled) == (BatchStatus.CANCELLED, 25, 25)
    assert batch.completed_at is None
    assert isinstance(batch.cancelled_at, datetime)
    assert await sql(database, "SELECT DISTINCT code, attempt FROM result") == [(499, 0)]
    assert await events(database, batch_id) == ["cancelled"]
    assert await violations(database) == []


async def test_many_single_items_are_swept_together(database: Database) -> None:
    batch_id = await make_batch(database, 30)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 30)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, n, 60) for n in range(30)]))
    await turn(database, transitions.cancel, batch_id)

    assert await sweep(database, most=20) == [20, 10]

    assert await sql(database, "SELECT DISTINCT code, attempt FROM result") == [(499, 1)]
    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
    assert await violations(database) == []


async def test_several_batches_are_swept(database: Database) -> None:
    ended = [await make_batch(database, 3) for _ in range(4)]
    kept = await make_batch(database, 3)
    for batch_id in ended[:2]:
        await turn(database, transitions.cancel, batch_id)
    for batch_id in ended[2:]:
        await expire(database, batch_id)

    assert sum(await sweep(database)) == 12

    statuses = [(await get(database, batch_id)).status.value for batch_id in ended]
    assert statuses == ["cancelled", "cancelled", "failed", "failed"]
    assert (await get(database, kept)).pending == 3
    assert await violations(database) == []


async def test_a_cancelled_batch_ends_when_its_items_in_flight_have_ended(database: Database) -> None:
    batch_id, worker, held = await in_flight(database)
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)
    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.processing) == (BatchStatus.CANCELLING, 2, 2)

    await record(database, worker, all_of(held))

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.cancelled) == (BatchStatus.CANCELLED, 2, 2)
    assert await events(database, batch_id) == ["cancelled"]
    assert await violations(database) == []


async def test_items_in_flight_that_are_lost_after_the_cancel_end_with_it(database: Database) -> None:
    batch_id, worker, _ = await in_flight(database)
    await turn(database, transitions.cancel, batch_id)

    await lose(database, worker)
    await sweep(database)

    batch = await get(database, batch_id)
    assert (batch.status, batch.cancelled) == (BatchStatus.CANCELLED, 4)
    assert await violations(database) == []


async def test_what_is_given_back_after_the_cancel_ends_with_it(database: Database) -> None:
    batch_id, worker, [lease] = await in_flight(database)
    await turn(database, transitions.cancel, batch_id)
    await sweep(database)
    await record(database, worker, Flush({lease.id: 0}, [], [], [(lease.id, Waiting(batch_id, 0, 1, 0, 0))]))
    await sweep(database)

    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
    assert await violations(database) == []


# --- deadline --------------------------------------------------------------------------------------------------------


async def test_a_batch_whose_deadline_passed_fails_with_what_waited(database: Database) -> None:
    batch_id = await make_batch(database, 3)

    assert await expire(database, batch_id) == 1
    batch = await get(database, batch_id)
    assert (batch.status, batch.waiting_reason) == (BatchStatus.IN_PROGRESS, "draining")
    await sweep(database)

    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.expired) == (BatchStatus.FAILED, 3, 3)
    assert batch.completed_at is not None
    assert '"deadline_exceeded"' in (batch.error or "")
    assert await sql(database, "SELECT DISTINCT code FROM result") == [408]
    assert await events(database, batch_id) == ["failed"]
    assert await violations(database) == []


async def test_items_in_flight_at_the_deadline_finish(database: Database) -> None:
    batch_id, worker, held = await in_flight(database)
    await expire(database, batch_id)
    await sweep(database)
    batch = await get(database, batch_id)
    assert (batch.status, batch.expired, batch.processing) == (BatchStatus.IN_PROGRESS, 2, 2)
    assert await claim(database, worker, 5) == []

    await record(database, worker, all_of(held))

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.expired) == (BatchStatus.FAILED, 2, 2)
    assert await events(database, batch_id) == ["failed"]
    assert await violations(database) == []


async def test_a_retry_after_the_deadline_ends_with_its_own_code(database: Database) -> None:
    batch_id, worker, [lease] = await in_flight(database)
    await expire(database, batch_id)
    await sweep(database)

    await record(database, worker, Flush({lease.id: 0}, [success(lease, 0)], [retry(lease, 1)]))

    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.expired) == (BatchStatus.FAILED, 3, 2)
    assert await violations(database) == []


async def test_a_batch_whose_last_items_are_in_flight_at_the_deadline_completes(database: Database) -> None:
    batch_id, worker, held = await in_flight(database, items=2)

    assert await expire(database, batch_id) == 0
    await record(database, worker, all_of(held))

    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await events(database, batch_id) == ["completed"]


async def test_a_paused_batch_fails_at_its_deadline(database: Database) -> None:
    batch_id = await make_batch(database, 2, start_paused=True)

    await expire(database, batch_id)
    await sweep(database)

    assert (await get(database, batch_id)).status is BatchStatus.FAILED
    assert await violations(database) == []


async def test_a_cancel_before_the_deadline_wins(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    await turn(database, transitions.cancel, batch_id)

    assert await expire(database, batch_id) == 0
    await sweep(database)

    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED


# --- completed -------------------------------------------------------------------------------------------------------


async def test_a_paused_batch_completes_when_its_last_item_in_flight_ends(database: Database) -> None:
    batch_id, worker, held = await in_flight(database, items=2)
    await turn(database, transitions.pause, batch_id)

    await record(database, worker, all_of(held))

    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await events(database, batch_id) == ["completed"]
    assert await violations(database) == []


async def test_a_batch_completes_even_if_all_of_its_items_failed(database: Database) -> None:
    batch_id, worker, [lease] = await in_flight(database, items=2)

    await record(database, worker, Flush({lease.id: 0}, [failure(lease, n) for n in range(2)]))

    batch = await get(database, batch_id)
    assert (batch.status, batch.failed, batch.progress) == (BatchStatus.COMPLETED, 2, 1.0)


async def test_one_flush_may_end_several_batches(database: Database) -> None:
    ids = [await make_batch(database, 2, webhook=NewWebhook("https://a.example/", ("completed",)))] * 1
    ids += [await make_batch(database, 3) for _ in range(3)]
    worker = await make_worker(database)
    held = [lease for _ in ids for lease in await claim(database, worker, 5)]

    await record(database, worker, all_of(held))

    assert [await events(database, batch_id) for batch_id in ids] == [["completed"]] * 4
    assert await sql(database, "SELECT batch_id FROM delivery") == ids[:1]
    assert await violations(database) == []


async def test_ended_batches_lose_the_spans_of_items_that_a_lost_worker_recorded(database: Database) -> None:
    ids = [await make_batch(database, in_chats(7, 8)), await make_batch(database, in_chats(9, 10))]
    zombie = await make_worker(database)
    held = [lease for _ in ids for lease in await claim(database, zombie, 2)]
    await lose(database, zombie)

    await record(database, zombie, all_of(held))

    assert [(await get(database, batch_id)).status for batch_id in ids] == [BatchStatus.COMPLETED] * 2
    assert await sql(database, "SELECT id FROM span") == []
    assert await sql(database, "SELECT history_id FROM history_lock") == []
    assert await violations(database) == []


async def test_leases_left_by_an_ended_batch_are_cleared(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    zombie, heir = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 2)
    await lose(database, zombie)
    await claim(database, heir, 2)
    await record(database, zombie, all_of(held))
    assert (await get(database, batch_id)).processing == 0
    other = await make_batch(database, 2)
    await claim(database, heir, 1)

    async with database.transaction() as tx:
        assert await endings.clear_leftovers(tx) == 1

    assert await sql(database, "SELECT batch_id FROM lease") == [other]


async def recorded_by_a_zombie(database: Database) -> tuple[UUID, int, list[Lease]]:
    """An ended batch whose items another worker is running for the second time."""
    batch_id = await make_batch(database, 3)
    zombie, heir = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 3)
    await lose(database, zombie)
    again = await claim(database, heir, 3)
    await record(database, zombie, all_of(held))
    return batch_id, heir, again


async def test_a_span_given_back_to_an_ended_batch_is_cleared(database: Database) -> None:
    batch_id, heir, [lease] = await recorded_by_a_zombie(database)
    kept = await make_batch(database, 2)
    await record(database, heir, Flush({lease.id: 0}, [], [], [(lease.id, Waiting(batch_id, 0, 2, 1, 1))]))
    assert await waiting(database, batch_id) == [(0, 2)]

    async with database.transaction() as tx:
        assert await endings.clear_leftovers(tx) == 1

    assert await waiting(database, batch_id) == []
    assert await waiting(database, kept) == [(0, 1)]


async def test_nothing_is_recorded_for_a_deleted_batch_by_a_worker_that_still_runs_its_items(
    database: Database,
) -> None:
    batch_id, heir, [lease] = await recorded_by_a_zombie(database)
    await turn(database, transitions.delete, batch_id)
    await erase(database)

    back = [(lease.id, Waiting(batch_id, 2, 2, 1, 1))]
    await record(database, heir, Flush({lease.id: 0}, [success(lease, 0)], [retry(lease, 1)], back))

    for table in ("result", "item_attempt", "span", "lease", "batch_count"):
        assert await sql(database, f"SELECT count(*) FROM {table}") == [0]


async def test_a_batch_is_not_deleted_while_a_lost_worker_records_for_it(database: Database) -> None:
    batch_id, heir, [lease] = await recorded_by_a_zombie(database)
    await lose(database, heir)
    async with database.transaction() as tx:
        await recording.record(tx, heir, Flush({lease.id: 0}, [success(lease, 0)]), alone=False)
        deleting = asyncio.create_task(turn(database, transitions.delete, batch_id))
        await blocked(database, deleting)
        assert not deleting.done()
    await deleting
    await erase(database)

    assert await sql(database, "SELECT count(*) FROM result") == [0]


async def test_a_deleted_batch_leaves_nothing_behind(database: Database) -> None:
    webhook = NewWebhook("https://a.example/", ("completed",))
    ids = [await make_batch(database, in_chats(7, None, 7), webhook=webhook) for _ in range(2)]
    worker = await make_worker(database)
    for _ in ids:
        for lease in await claim(database, worker, 2):
            again = [retry(lease, item.ordinal) for item in lease.items]
            await record(database, worker, Flush({lease.id: 0}, [], again))
    while not all([(await get(database, batch_id)).status is BatchStatus.COMPLETED for batch_id in ids]):
        await drain(database, worker)
    await sql(
        database,
        "INSERT INTO delivery_attempt (delivery_id, attempt, sent_at, duration_ms) SELECT id, 1, now(), 1 FROM delivery",
    )

    await turn(database, transitions.delete, ids[0])
    await erase(database)

    for table in metadata.sorted_tables:
        if "batch_id" in table.columns:
            column = "batch_id"
        elif table.name == "batch":
            column = "id"
        else:
            continue
        rows = await sql(database, f"SELECT DISTINCT {column} FROM {table.name}")
        assert ids[0] not in rows
    for table_name in ("item", "result", "item_attempt", "event", "delivery", "batch_count"):
        assert await sql(database, f"SELECT DISTINCT batch_id FROM {table_name}") == ids[1:]
    assert await sql(database, "SELECT count(*) FROM delivery_attempt") == [1]
    assert await violations(database) == []


# --- races -----------------------------------------------------------------------------------------------------------


async def started_after(statements: int, database: Database, what: Awaitable[None]) -> None:
    """Start only once so many statements have run: a head start for the others that grows and shrinks with the machine."""
    for _ in range(statements):
        await sql(database, "SELECT 1")
    await what


async def test_cancel_racing_the_last_result_ends_the_batch_once(database: Database) -> None:
    seeded = random.Random(7)
    seen: set[BatchStatus] = set()
    for round_ in range(250):
        if round_ >= 25 and len(seen) == 2:  # a busy machine may give all of a few rounds to one of them
            break
        batch_id, worker, held = await in_flight(database, items=3, leased=3)
        cancel = started_after(seeded.randint(0, 8), database, turn(database, transitions.cancel, batch_id))

        outcomes = await asyncio.gather(
            record(database, worker, all_of(held)), cancel, return_exceptions=True
        )
        await sweep(database)

        refused = [outcome for outcome in outcomes if outcome is not None]
        assert all(isinstance(one, Conflict) for one in refused)
        batch = await get(database, batch_id)
        assert batch.status is (BatchStatus.COMPLETED if refused else BatchStatus.CANCELLED)
        assert await events(database, batch_id) == [batch.status.value]
        seen.add(batch.status)
    assert seen == {BatchStatus.COMPLETED, BatchStatus.CANCELLED}
    assert await violations(database) == []


async def test_a_cancel_that_waits_for_the_last_result_is_refused(database: Database) -> None:
    batch_id, worker, held = await in_flight(database, items=2)
    async with database.transaction() as tx:
        await recording.record(tx, worker, all_of(held))
        late = asyncio.create_task(turn(database, transitions.cancel, batch_id))
        await blocked(database, late)
        assert not late.done()

    with pytest.raises(Conflict, match="'completed'"):
        await late
    assert await events(database, batch_id) == ["completed"]


async def test_a_last_result_that_waits_for_a_cancel_ends_the_batch_as_cancelled(database: Database) -> None:
    batch_id, worker, held = await in_flight(database, items=2)
    async with database.transaction() as tx:
        await transitions.cancel(tx, TENANT, batch_id)
        late = asyncio.create_task(record(database, worker, all_of(held)))
        await blocked(database, late)
        assert not late.done()
    await late

    batch = await get(database, batch_id)
    assert (batch.status, batch.success) == (BatchStatus.CANCELLED, 2)
    assert await events(database, batch_id) == ["cancelled"]
    assert await violations(database) == []


async def test_a_retry_racing_a_cancel_is_swept_or_ends_with_its_own_code(database: Database) -> None:
    seeded = random.Random(11)
    codes: set[int] = set()
    for round_ in range(300):
        if round_ >= 30 and len(codes) == 2:
            break
        batch_id, worker, [lease] = await in_flight(database, items=1, leased=1)
        retried = record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0)]))
        cancel = started_after(seeded.randint(0, 8), database, turn(database, transitions.cancel, batch_id))
        await asyncio.gather(retried, cancel)
        await sweep(database)

        assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
        codes.update(await sql(database, "SELECT code FROM result WHERE batch_id = $1", batch_id))
    assert codes == {499, 500}
    assert await violations(database) == []


@pytest.mark.parametrize("action", [transitions.pause, transitions.cancel])
async def test_nothing_starts_after_a_pause_or_cancel_has_answered(
    database: Database, action: Action
) -> None:
    seeded = random.Random(13)
    workers_ = [await make_worker(database) for _ in range(4)]
    started = set()
    for _ in range(20):
        batch_id = await make_batch(database, 200)
        answered = asyncio.Event()

        async def work(worker: int, over: asyncio.Event = answered) -> None:
            while True:
                last = over.is_set()
                await claim(database, worker, 2)
                if last:
                    return

        claiming = [asyncio.create_task(work(worker)) for worker in workers_]
        await started_after(seeded.randint(0, 3), database, turn(database, action, batch_id))
        before = await sql(database, "SELECT id FROM lease WHERE batch_id = $1 ORDER BY id", batch_id)
        [now] = await sql(database, "SELECT clock_timestamp()")
        answered.set()
        await asyncio.gather(*claiming)

        after = await sql(database, "SELECT id FROM lease WHERE batch_id = $1 ORDER BY id", batch_id)
        assert after == before
        late = "SELECT count(*) FROM lease WHERE batch_id = $1 AND started_at > $2"
        assert await sql(database, late, batch_id, now) == [0]
        started.add(len(after) > 0)
        if action is transitions.pause:
            await turn(database, transitions.cancel, batch_id)
    assert True in started


async def test_a_pause_waits_for_a_claim_that_is_under_way(database: Database) -> None:
    batch_id = await make_batch(database, 2)
    worker = await make_worker(database)
    async with database.transaction() as tx:
        assert ordinals((await claims.claim(tx, worker, {"noop": 1})).leases) == [0]
        pausing = asyncio.create_task(turn(database, transitions.pause, batch_id))
        await blocked(database, pausing)
        assert not pausing.done()
    await pausing

    assert await claim(database, worker, 1) == []
    batch = await get(database, batch_id)
    assert (batch.status, batch.processing) == (BatchStatus.PAUSED, 1)


async def test_counts_add_up_at_every_moment(database: Database) -> None:
    """While workers, the sweeper and a cancel are at it: total = pending + processing + success + failed, never back."""
    batch_id = await make_batch(database, 120)
    over = asyncio.Event()

    async def work(worker: int) -> None:
        while claimed := await claim(database, worker, 3):
            await record(database, worker, all_of(claimed), alone=True)

    async def watch() -> list[int]:
        done = []
        while not over.is_set():
            batch = await get(database, batch_id)
            assert batch.pending >= 0
            assert batch.processing >= 0
            assert batch.total == batch.pending + batch.processing + batch.success + batch.failed
            assert batch.progress < 1 or batch.status is BatchStatus.CANCELLED
            done.append(batch.success + batch.failed)
        return done

    watching = asyncio.create_task(watch())
    working = [asyncio.create_task(work(await make_worker(database))) for _ in range(3)]
    while (await get(database, batch_id)).success < 30:
        await sql(database, "SELECT 1")
    await turn(database, transitions.cancel, batch_id)
    await asyncio.gather(*working)
    await sweep(database, most=7)
    over.set()

    done = await watching
    assert all(earlier <= later for earlier, later in pairwise(done))
    assert (await get(database, batch_id)).status is BatchStatus.CANCELLED
    assert await violations(database) == []
