"""One item of a chat at a time, in order, and nobody waits for a chat that nobody has. Seed 004, rule 23."""

import asyncio
import random
from collections import Counter
from uuid import UUID

import pytest

from factories import (
    TENANT,
    all_of,
    blocked,
    claim,
    drain,
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
)
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from gristmill.domain.states import BatchStatus
from gristmill.store import chats, claims, histories, recording, transitions
from gristmill.store.claims import Lease
from gristmill.store.recording import Flush

H = 7  # a chat


async def parked(database: Database) -> list[int]:
    return await sql(database, "SELECT first FROM span WHERE available_at = 'infinity' ORDER BY first")


async def holders(database: Database) -> list[tuple[int, UUID, int]]:
    return await sql(database, "SELECT * FROM history_lock ORDER BY history_id")


async def test_of_several_items_of_a_chat_one_starts_and_the_others_wait(database: Database) -> None:
    batch_id = await make_batch(database, in_chats(H, H, None, H, 8))
    worker = await make_worker(database)

    assert ordinals(await claim(database, worker, 10)) == [0, 2, 4]

    batch = await get(database, batch_id)
    assert (batch.processing, batch.pending) == (3, 2)
    assert batch.waiting_reason == "another item of the same chat is running"
    assert await claim(database, worker, 10) == []
    assert await violations(database) == []


async def test_a_claim_says_how_many_items_it_took_although_all_of_them_wait_for_their_chat(
    database: Database,
) -> None:
    worker = await make_worker(database)
    await make_batch(database, in_chats(7, 7, 7))
    assert len(await claim(database, worker, 1)) == 1

    async with database.transaction() as tx:
        assert await claims.claim(tx, worker, {"noop": 5}) == claims.Claim([], 2)
        assert await claims.claim(tx, worker, {"noop": 5}) == claims.Claim([], 0)


async def test_the_end_of_an_item_lets_the_next_of_its_chat_go(database: Database) -> None:
    batch_id = await make_batch(database, in_chats(H, H, H))
    worker = await make_worker(database)
    seen = []
    while claimed := await claim(database, worker, 10):
        seen.append(ordinals(claimed))
        await record(database, worker, all_of(claimed))

    assert seen == [[0], [1], [2]]
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await holders(database) == []
    assert await violations(database) == []


async def test_no_item_overtakes_an_earlier_one_that_waits_for_the_same_chat(database: Database) -> None:
    """Item 2 is still in the batch's first span, which is older than the one in which item 1 waits."""
    await make_batch(database, in_chats(H, H, H, None))
    worker = await make_worker(database)
    held = await claim(database, worker, 2)
    assert ordinals(held) == [0]
    await record(database, worker, all_of(held))

    claimed = await claim(database, worker, 2)
    assert ordinals(claimed) != [2]
    while H not in {item.history_id for lease in claimed for item in lease.items}:
        claimed = await claim(database, worker, 2)

    assert 1 in ordinals(claimed)
    assert 2 not in ordinals(claimed)


async def test_a_retry_keeps_the_chat(database: Database) -> None:
    await make_batch(database, in_chats(H, H))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 2)

    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, 3600)]))

    assert await claim(database, worker, 2) == []
    await sql(database, "UPDATE span SET available_at = now() WHERE first = 0")
    again = await claim(database, worker, 2)
    assert [(le.attempt, ordinals([le])) for le in again] == [(2, [0])]
    await record(database, worker, all_of(again))
    assert await drain(database, worker) == 1
    assert await violations(database) == []


async def test_a_loss_keeps_the_chat(database: Database) -> None:
    await make_batch(database, in_chats(H, H))
    worker, heir = await make_worker(database), await make_worker(database)
    await claim(database, worker, 2)

    await lose(database, worker)

    assert ordinals(await claim(database, heir, 2)) == [0]
    assert await violations(database) == []


async def test_a_failed_item_gives_its_chat_up(database: Database) -> None:
    await make_batch(database, in_chats(H, H))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 2)

    await record(database, worker, Flush({lease.id: 0}, [failure(lease, 0, history_id=H)]))

    assert ordinals(await claim(database, worker, 2)) == [1]


async def test_an_item_lost_for_good_gives_its_chat_up(database: Database) -> None:
    batch_id = await make_batch(database, in_chats(H, H), max_attempts=1)
    for _ in range(3):
        worker = await make_worker(database)
        assert ordinals(await claim(database, worker, 1)) in ([0], [])
        while not await sql(database, "SELECT id FROM lease"):  # item 1 was only parked
            await claim(database, worker, 1)
        await lose(database, worker)

    assert (await get(database, batch_id)).failed == 1
    assert await drain(database, await make_worker(database)) == 1
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED
    assert await violations(database) == []


@pytest.mark.parametrize("end", ["cancel", "deadline"])
async def test_an_item_ended_without_a_run_gives_its_chat_up(database: Database, end: str) -> None:
    ended = await make_batch(database, in_chats(H))
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    await record(database, worker, Flush({lease.id: 0}, [], [retry(lease, 0, 3600)]))
    other = await make_batch(database, in_chats(H))
    assert await claim(database, worker, 1) == []

    if end == "cancel":
        await turn(database, transitions.cancel, ended)
    else:
        await expire(database, ended)
    await sweep(database)

    [lease] = await claim(database, worker, 1)
    assert lease.batch_id == other
    assert await violations(database) == []


async def test_a_paused_batch_keeps_no_other_from_a_chat_it_waits_for(database: Database) -> None:
    running, paused, third = [await make_batch(database, in_chats(H)) for _ in range(3)]
    worker = await make_worker(database)
    held = await claim(database, worker, 1)
    while len(await parked(database)) < 2:
        await claim(database, worker, 1)
    await turn(database, transitions.pause, paused)

    await record(database, worker, all_of(held))

    assert held[0].batch_id == running
    held = await claim(database, worker, 1)
    assert [lease.batch_id for lease in held] == [third]
    await turn(database, transitions.resume, paused)
    assert await claim(database, worker, 1) == []
    await record(database, worker, all_of(held))
    assert await drain(database, worker) == 1
    assert await violations(database) == []


async def test_a_resumed_batch_takes_its_chats_up_in_order(database: Database) -> None:
    running = await make_batch(database, in_chats(H))
    paused = await make_batch(database, in_chats(H, H, H))
    worker = await make_worker(database)
    held = await claim(database, worker, 1)
    while await parked(database) != [0, 1]:
        await claim(database, worker, 1)
    await turn(database, transitions.pause, paused)
    await record(database, worker, all_of(held))
    assert (await get(database, running)).status is BatchStatus.COMPLETED

    await turn(database, transitions.resume, paused)

    seen: list[int] = []
    while (await get(database, paused)).status is not BatchStatus.COMPLETED:
        claimed = await claim(database, worker, 1)
        seen += ordinals(claimed)
        if claimed:
            await record(database, worker, all_of(claimed))
    assert seen == [0, 1, 2]
    assert await violations(database) == []


async def test_one_that_parks_while_the_chat_is_given_up_is_let_go(database: Database) -> None:
    """The claim has looked and parked but not committed when the holder ends: the holder waits, then sees it."""
    await make_batch(database, in_chats(H))
    await make_batch(database, in_chats(H))
    worker = await make_worker(database)
    held = await claim(database, worker, 1)

    async with database.transaction() as tx:
        assert await claims.claim(tx, worker, {"noop": 1}) == claims.Claim([], 1)
        leaving = asyncio.create_task(record(database, worker, all_of(held)))
        await blocked(database, leaving)
    await leaving

    assert await parked(database) == []
    assert await drain(database, worker) == 1
    assert await violations(database) == []


async def test_one_that_comes_while_the_chat_is_given_up_has_it_next(database: Database) -> None:
    """The holder has given it up but not committed when the claim looks: the claim waits, then gets it."""
    await make_batch(database, in_chats(H))
    await make_batch(database, in_chats(H))
    worker = await make_worker(database)
    held = await claim(database, worker, 1)

    async with database.transaction() as tx:
        await recording.record(tx, worker, all_of(held))
        coming = asyncio.create_task(claim(database, worker, 1))
        await blocked(database, coming)
        assert not coming.done()
    claimed = await coming

    assert len(claimed) == 1
    await record(database, worker, all_of(claimed))
    assert await holders(database) == []
    assert await violations(database) == []


async def test_a_chat_handed_to_an_item_that_is_just_being_cancelled_goes_on(database: Database) -> None:
    await make_batch(database, in_chats(H))
    cancelled, third = await make_batch(database, in_chats(H)), await make_batch(database, in_chats(H))
    worker = await make_worker(database)
    held = await claim(database, worker, 1)
    while len(await parked(database)) < 2:
        await claim(database, worker, 1)

    async with database.transaction() as tx:
        await recording.record(tx, worker, all_of(held))
        cancelling = asyncio.create_task(turn(database, transitions.cancel, cancelled))
        await cancelling
        await sweep(database)
    await sweep(database)

    assert (await get(database, cancelled)).status is BatchStatus.CANCELLED
    claimed = await claim(database, worker, 1)
    assert [lease.batch_id for lease in claimed] == [third]
    assert await violations(database) == []


async def test_an_item_recorded_by_a_lost_worker_does_not_keep_its_chat(database: Database) -> None:
    """Its heir is about to claim it again when the result arrives."""
    batch_id = await make_batch(database, in_chats(H, H))
    zombie, heir = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 2)
    await lose(database, zombie)

    async with database.transaction() as tx:
        await recording.record(tx, zombie, all_of(held))
        claiming = asyncio.create_task(claim(database, heir, 1))
        await blocked(database, claiming)
    claimed = await claiming

    assert ordinals(claimed) in ([], [1])
    while (await get(database, batch_id)).status is not BatchStatus.COMPLETED:
        if claimed:
            await record(database, heir, all_of(claimed))
        claimed = await claim(database, heir, 1)
    assert await holders(database) == []
    assert await violations(database) == []


async def test_an_item_that_two_workers_run_gives_its_chat_up_once_and_for_all(database: Database) -> None:
    await make_batch(database, in_chats(H, H))
    zombie, heir = await make_worker(database), await make_worker(database)
    held = await claim(database, zombie, 2)
    await lose(database, zombie)
    again = await claim(database, heir, 1)

    await record(database, zombie, all_of(held))
    [next_one] = await claim(database, heir, 1)
    await record(database, heir, all_of(again))

    assert [(h, ordinal) for h, _, ordinal in await holders(database)] == [(H, 1)]
    await record(database, heir, all_of([next_one]))
    assert await holders(database) == []
    assert await violations(database) == []


def said(lease: Lease, history_id: int | None, text: str) -> Flush:
    [item] = lease.items
    turn_ = Turn(text, f"reply to {text}", history_id)
    return Flush({lease.id: 0}, [success(lease, item.ordinal, history_id=history_id, turn=turn_)])


async def test_the_next_of_a_chat_sees_the_turn_of_the_one_before(database: Database) -> None:
    worker = await make_worker(database)
    await make_batch(database, 1)
    [opening] = await claim(database, worker, 1)
    await record(database, worker, said(opening, None, "first"))
    [history_id] = await sql(database, "SELECT history_id FROM chat")
    await make_batch(database, in_chats(history_id, history_id))

    for expected in (["first"], ["first", "second"]):
        [lease] = await claim(database, worker, 1)
        async with database.engine.connect() as connection:
            turns = await chats.turns(connection, TENANT, history_id)
        assert [one.user_message for one in turns] == expected
        await record(database, worker, said(lease, history_id, "second"))


async def test_a_turn_is_kept_only_with_the_result_that_counts(database: Database) -> None:
    await make_batch(database, 1)
    worker = await make_worker(database)
    [lease] = await claim(database, worker, 1)
    flush = said(lease, None, "hello")

    await record(database, worker, flush)
    await record(database, worker, flush)

    [(history_id, conversation_id)] = await sql(
        database, "SELECT history_id, conversation_id FROM chat_turn JOIN chat USING (history_id)"
    )
    assert await sql(database, "SELECT history_id, conversation_id FROM result") == [
        (history_id, conversation_id)
    ]


async def test_stranded_items_are_let_go_by_the_tidier(database: Database) -> None:
    await make_batch(database, in_chats(H, H))
    worker = await make_worker(database)
    await record(database, worker, all_of(await claim(database, worker, 1)))
    await sql(database, "UPDATE span SET available_at = 'infinity', history_id = $1", H)
    await sql(database, "DELETE FROM history_lock")

    async with database.transaction() as tx:
        assert await histories.let_stranded_go(tx) == 1
        assert await histories.let_stranded_go(tx) == 0

    assert await drain(database, worker) == 1


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_one_item_of_a_chat_runs_at_a_time_and_in_order(
    database: Database, seed: int
) -> None:
    """Four workers, four batches that share three chats; items succeed, retry, and are lost with their worker."""
    seeded = random.Random(seed)
    shared = [
        await make_batch(
            database, in_chats(*(seeded.choice([1, 2, 3, None]) for _ in range(12))), max_attempts=20
        )
        for _ in range(4)
    ]
    workers = [await make_worker(database) for _ in range(4)]
    held: dict[int, list[Lease]] = {worker: [] for worker in workers}
    ended: dict[tuple[UUID, int], list[int]] = {}

    async def work(worker: int) -> None:
        held[worker] += await claim(database, worker, seeded.randint(1, 4))
        running = Counter(item.history_id for some in held.values() for lease in some for item in lease.items)
        assert all(count == 1 for history_id, count in running.items() if history_id is not None)
        for lease in seeded.sample(held[worker], seeded.randint(0, len(held[worker]))):
            again = [item for item in lease.items if seeded.random() < 0.2]
            done = [item for item in lease.items if item not in again]
            held[worker].remove(lease)
            flush = Flush(
                {lease.id: 0},
                [success(lease, item.ordinal, history_id=item.history_id) for item in done],
                [retry(lease, item.ordinal) for item in again],
            )
            for item in done:
                ended.setdefault((lease.batch_id, item.history_id or 0), []).append(item.ordinal)
            await record(database, worker, flush)

    while not all([(await get(database, one)).status is BatchStatus.COMPLETED for one in shared]):
        await asyncio.gather(*(work(worker) for worker in seeded.sample(list(held), len(held))))
        if seeded.random() < 0.1:
            lost = seeded.choice(list(held))
            del held[lost]
            await lose(database, lost)
            held[await make_worker(database)] = []

    in_order = [order for (_, history_id), order in ended.items() if history_id]
    assert all(order == sorted(order) for order in in_order)
    assert await holders(database) == []
    assert [await events(database, one) for one in shared] == [["completed"]] * 4
    assert await violations(database) == []
