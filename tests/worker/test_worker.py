import asyncio
import gc
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest

from factories import TENANT, events, get, make_batch, make_worker, sql, violations
from gristmill.db import Database
from gristmill.domain.states import TERMINAL, BatchStatus, ItemStatus
from gristmill.metrics import REGISTRY
from gristmill.store import claims, results, transitions
from gristmill.store.claims import Claim, ClaimedItem
from gristmill.store.results import Attempt, Result
from gristmill.worker.items import AHEAD_LOOK_SECONDS, AHEAD_SECONDS, AHEAD_SHORTER_SECONDS
from gristmill.worker.pace import BURST_SECONDS, Pace
from gristmill.worker.recorder import Recorder
from gristmill.worker.work import HeldLease
from mill import Scripted, at_gate, ended, eventually, looked, script, working


async def item(
    database: Database, batch_id: UUID, custom_id: str = "item-0"
) -> tuple[Result, Sequence[Attempt]]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        result, _, attempts = await results.one(connection, batch, custom_id)
    return result, attempts


async def turn(database: Database, action: Any, batch_id: UUID) -> None:
    async with database.transaction() as tx:
        await action(tx, TENANT, batch_id)


async def test_each_outcome_ends_as_the_contract_says(database: Database, scripted: Scripted) -> None:
    batch_id = await make_batch(
        database,
        script(
            {"do": "succeed", "text": "a"}, {"do": "fail"}, {"do": "raise"}, {"do": "retry"}, {"do": "garble"}
        ),
    )
    async with working(database, scripted):
        await ended(database, batch_id)

    batch = await get(database, batch_id)
    assert (batch.status, batch.success, batch.failed) == (BatchStatus.COMPLETED, 3, 2)
    assert (await item(database, batch_id, "item-0"))[0].output == '{"text":"a"}'
    raised, _ = await item(database, batch_id, "item-2")
    assert raised.code == 500
    assert "secret" not in (raised.error or "")
    retried, attempts = await item(database, batch_id, "item-3")
    assert (retried.attempt, [a.attempt for a in attempts]) == (2, [1])
    assert (await item(database, batch_id, "item-4"))[0].content == "nul \ufffd and a lone surrogate ?"
    assert await violations(database) == []


@pytest.mark.parametrize("circuit", [None, "model"])
async def test_nothing_of_an_item_is_kept_once_it_has_ended(
    database: Database, scripted: Scripted, circuit: str | None
) -> None:
    """By the slots that are idle, either: they live as long as the worker."""

    async def nothing_kept() -> bool:
        gc.collect()
        return not any(type(one) in {HeldLease, ClaimedItem} for one in gc.get_objects())

    batch_id = await make_batch(
        database, script({"do": "succeed"}, {"do": "fail"}, {"do": "retry"}), circuit=circuit
    )
    async with working(database, scripted) as worker:
        await ended(database, batch_id)
        await eventually(nothing_kept)
        assert worker._items.slots._slots


async def test_claims_and_flushes_are_timed(database: Database, scripted: Scripted) -> None:
    def timed() -> list[float]:
        names = ("gristmill_claim_seconds_count", "gristmill_flush_seconds_count")
        return [REGISTRY.get_sample_value(name) or 0.0 for name in names]

    before = timed()
    batch_id = await make_batch(database, 3)
    async with working(database, scripted):
        await ended(database, batch_id)
    assert all(now > then for now, then in zip(timed(), before, strict=True))


async def test_nonsense_of_a_processor_ends_its_item_with_a_number_of_the_contract(
    database: Database, scripted: Scripted
) -> None:
    """Seed 004, rule 20: 400, 408, 499 or 500, and no other."""
    nonsense = ("number", "nothing", "shapeless", "endless_usage")
    batch_id = await make_batch(database, script(*[{"do": one} for one in nonsense], {"do": "succeed"}))
    async with working(database, scripted, concurrency=1):
        await ended(database, batch_id)

    found = [(await item(database, batch_id, f"item-{n}"))[0].code for n in range(5)]
    assert found == [500, 500, 500, 500, None]
    assert await violations(database) == []


async def test_attempts_end_at_the_most_allowed_and_waiting_uses_none_up(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(
        database, script({"do": "retry", "times": 9}, {"do": "wait", "times": 9}), max_attempts=3
    )
    async with working(database, scripted):
        await ended(database, batch_id)

    failed, attempts = await item(database, batch_id, "item-0")
    assert (failed.status, failed.attempt, len(attempts)) == (ItemStatus.FAILED, 3, 2)
    waited, attempts = await item(database, batch_id, "item-1")
    assert (waited.status, waited.attempt, len(attempts)) == (ItemStatus.SUCCESS, 1, 0)
    assert scripted.runs[batch_id, 1] == 10


async def test_an_item_over_its_time_is_interrupted_and_its_slot_is_free_again(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(
        database, script({"do": "hang"}, {"do": "succeed"}), item_timeout_seconds=1.0, max_attempts=1
    )
    async with working(database, scripted, concurrency=1):
        await ended(database, batch_id)

    result, _ = await item(database, batch_id, "item-0")
    assert (result.code, orjson.loads(result.error or "")["type"]) == (500, "item_timeout")
    assert (await get(database, batch_id)).success == 1


@pytest.mark.parametrize("circuit", [None, "model"])
async def test_a_slot_whose_item_resisted_its_timeout_still_times_the_next_one(
    database: Database, scripted: Scripted, circuit: str | None
) -> None:
    batch_id = await make_batch(
        database,
        script({"do": "resist"}, {"do": "hang"}),
        item_timeout_seconds=1.0,
        max_attempts=1,
        circuit=circuit,
    )
    async with working(database, scripted, concurrency=1):
        await ended(database, batch_id)

    assert (await item(database, batch_id, "item-0"))[0].output == '"ended in spite of it"'
    assert orjson.loads((await item(database, batch_id, "item-1"))[0].error or "")["type"] == "item_timeout"


async def test_a_drain_ends_although_an_item_resists_it(database: Database, scripted: Scripted) -> None:
    batch_id = await make_batch(database, script({"do": "resist"}))
    async with working(database, scripted, drain_seconds=0.1):

        async def running() -> bool:
            return (await get(database, batch_id)).processing == 1 and scripted.runs.total() == 1

        await eventually(running)
    assert (await get(database, batch_id)).status is BatchStatus.COMPLETED


async def test_no_more_items_run_than_there_are_slots(database: Database, scripted: Scripted) -> None:
    batch_id = await make_batch(database, script(*[{"do": "gate"}] * 20))
    async with working(database, scripted, concurrency=4):
        await at_gate(scripted, 4)
        assert (await get(database, batch_id)).processing == 4
        scripted.gate.set()
        await ended(database, batch_id)


async def test_a_paused_batch_lets_its_running_items_finish_and_starts_none(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, script(*[{"do": "gate"}] * 10))
    async with working(database, scripted, concurrency=3):
        await at_gate(scripted, 3)
        await turn(database, transitions.pause, batch_id)
        scripted.gate.set()

        async def three_done() -> bool:
            return (await get(database, batch_id)).success == 3

        await eventually(three_done)
        batch = await get(database, batch_id)
        assert (batch.status, batch.processing, batch.pending) == (BatchStatus.PAUSED, 0, 7)
        assert batch.waiting_reason == "paused"
        await turn(database, transitions.resume, batch_id)
        await ended(database, batch_id)
    assert scripted.runs.total() == 10


async def test_a_drain_returns_what_has_not_ended_and_uses_no_attempt(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, script(*[{"do": "gate"}] * 10))
    async with working(database, scripted, concurrency=4, drain_seconds=0.1):
        await at_gate(scripted, 4)
    batch = await get(database, batch_id)
    assert (batch.processing, batch.pending) == (0, 10)
    assert await violations(database) == []

    scripted.gate.set()
    async with working(database, scripted):
        await ended(database, batch_id)
    assert (await item(database, batch_id, "item-0"))[0].attempt == 1


async def test_a_worker_declared_dead_takes_a_new_identity_and_goes_on(
    database: Database, scripted: Scripted
) -> None:
    batch_id = await make_batch(database, script(*[{"do": "gate"}] * 4, *[{"do": "succeed"}] * 20))
    async with working(database, scripted, concurrency=4):
        await at_gate(scripted, 4)
        async with database.connection() as connection:
            await connection.execute("UPDATE worker SET dead = true")

        async def new_identity() -> bool:
            async with database.connection() as connection:
                return await connection.fetchval("SELECT count(*) FROM worker WHERE NOT dead") == 1

        await eventually(new_identity)
        scripted.gate.set()
        await ended(database, batch_id)
    assert (await get(database, batch_id)).success == 24
    assert await violations(database) == []


async def test_counts_add_up_at_every_read_while_a_batch_is_paused_resumed_and_cancelled_at_random(
    database: Database, scripted: Scripted
) -> None:
    seed = 20261122
    rng = random.Random(seed)
    batch_id = await make_batch(
        database, script(*[{"do": rng.choice(["succeed", "succeed", "fail", "retry"])}] * 10_000)
    )
    reads = 0
    async with working(database, scripted, concurrency=64):
        for _ in range(400):
            batch = await get(database, batch_id)
            assert batch.total == 10_000 == batch.pending + batch.processing + batch.success + batch.failed
            assert min(batch.pending, batch.processing, batch.success, batch.failed) >= 0
            reads += 1
            if batch.status in TERMINAL:
                break
            chosen = rng.choice([None, transitions.pause, transitions.resume, transitions.resume])
            if reads == 60:
                chosen = transitions.cancel
            if chosen is not None:
                await attempt(database, chosen, batch_id)
        await ended(database, batch_id)
    batch = await get(database, batch_id)
    assert batch.pending == batch.processing == 0
    assert await events(database, batch_id) == [batch.status.value]
    assert await violations(database) == [], f"seed {seed}"


async def attempt(database: Database, action: Any, batch_id: UUID) -> None:
    from gristmill.domain.errors import Conflict

    try:
        await turn(database, action, batch_id)
    except Conflict:
        return


async def test_two_items_of_one_chat_run_one_after_the_other_in_order(
    database: Database, scripted: Scripted
) -> None:
    first = await make_batch(database, script({"do": "say", "text": "hello"}))
    async with working(database, scripted):
        await ended(database, first)
        history_id = (await item(database, first))[0].history_id
        assert history_id is not None
        steps = [{"do": "say", "text": f"turn {n}", "history_id": history_id} for n in range(6)]
        batch_id = await make_batch(database, script(*steps))
        await ended(database, batch_id)

    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT user_message FROM chat_turn WHERE history_id = $1 ORDER BY conversation_id", history_id
        )
    assert [row["user_message"] for row in rows] == ["hello", *(f"turn {n}" for n in range(6))]
    assert await violations(database) == []


async def test_items_that_wait_for_their_chat_keep_no_other_batch_waiting_for_the_next_poll(
    database: Database, scripted: Scripted
) -> None:
    busy = await make_batch(database, script(*[{"do": "gate", "history_id": 7}] * 40))
    other = await make_batch(database, script({"do": "gate"}), priority=-100)

    async with working(database, scripted, poll_seconds=3600.0, concurrency=4):
        await at_gate(scripted, 2)
        scripted.gate.set()
        await ended(database, busy)
        await ended(database, other)
    assert await violations(database) == []


async def test_a_worker_that_another_got_ahead_of_looks_again_before_the_next_poll(
    database: Database, scripted: Scripted
) -> None:
    """Both are told of a batch at the same moment."""
    other = await make_worker(database)
    async with working(database, scripted, concurrency=4, poll_seconds=3600.0) as worker:
        await looked()
        batch_id = await make_batch(database, script(*[{"do": "gate"}] * 6))
        async with database.transaction() as tx:
            assert (await claims.claim(tx, other, {"noop": 2})).taken == 2
            worker.wake()
            await looked()
            assert scripted.at_gate == 0
        await at_gate(scripted, 4)
        scripted.gate.set()
    assert (await get(database, batch_id)).success == 4


async def test_something_new_does_not_wait_for_what_was_claimed_ahead(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    many = await make_batch(database, script(*[{"do": "gate"}] * 200))
    async with working(database, scripted, concurrency=4, poll_seconds=0.05) as worker:
        worker._items.slots.pace.per_second = 40 / AHEAD_SECONDS
        await eventually(lambda: claimed(database, many, 44))
        few = await make_batch(database, script({"do": "gate"}, {"do": "succeed"}))
        worker.wake()
        await eventually(lambda: claimed(database, few, 2))
        for _ in range(5):
            worker.wake()
            await looked()
        assert await sql(database, "SELECT sum(remaining)::int FROM lease") == [48]  # and no more than that
        scripted.started.clear()
        scripted.gate.set()
        await ended(database, few)
        assert scripted.started.index(1) < 20  # of the few: of the many, those with a low number had begun
    assert await violations(database) == []


async def test_items_that_take_long_are_not_claimed_ahead(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have a slot for them."""
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    many = await make_batch(database, script(*[{"do": "gate"}] * 40))
    async with working(database, scripted, concurrency=8, poll_seconds=0.05) as worker:
        worker._items.slots.pace.per_second = 8 / (1.01 * AHEAD_SHORTER_SECONDS)
        await eventually(lambda: claimed(database, many, 8))
        worker.wake()
        await looked()
        assert await claimed(database, many, 8)
        worker._items.slots.pace.per_second = 8 / (0.99 * AHEAD_SHORTER_SECONDS)
        worker.wake()
        await eventually(
            lambda: claimed(database, many, 8 + 2)
        )  # twice what ends in AHEAD_SECONDS, as it was rung
        scripted.gate.set()
        await ended(database, many)


async def test_once_all_slots_have_emptied_the_next_claim_takes_more_but_no_more_than_twice_what_they_had(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    async with working(database, scripted, concurrency=4, poll_seconds=0.05) as worker:
        pace = worker._items.slots.pace
        few = await make_batch(database, script(*[{"do": "succeed"}] * 3))
        await ended(database, few)
        assert pace.per_second == 0.0
        fast = await make_batch(database, script(*[{"do": "succeed"}] * 4))
        await ended(database, fast)
        assert 0 < pace.per_second <= 4 / BURST_SECONDS
        pace.per_second = 4 / BURST_SECONDS  # however slow this machine is today
        slow = await make_batch(database, script(*[{"do": "gate"}] * 200))
        await eventually(lambda: claimed(database, slow, 4 + 8))
        scripted.gate.set()
        await ended(database, slow)


@pytest.mark.parametrize(("begun", "taken"), [(9, [24]), (10, [24, 10])])
async def test_more_is_claimed_ahead_once_half_of_it_has_begun(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, begun: int, taken: list[int]
) -> None:
    """By itself: neither a poll nor a flush nor an idle slot comes to its help."""
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    monkeypatch.setattr("gristmill.worker.recorder.LINGER_SECONDS", 1000)
    steps = [{"do": "gate"}] * 3 + [{"do": "succeed"}] * begun + [{"do": "gate"}] * 80
    async with working(database, scripted, concurrency=4, poll_seconds=3600.0) as worker:
        await looked()
        worker._items.slots.pace.per_second = 20 / AHEAD_SECONDS
        worker._items._rung = False
        batch_id = await make_batch(database, script(*steps))
        worker._items.news.set()
        await at_gate(scripted, 4)
        await asyncio.sleep(4 * AHEAD_LOOK_SECONDS)  # no event says that nothing happens
        laid = "SELECT last - first + 1 FROM lease ORDER BY first"
        if len(taken) > 1:
            await eventually(lambda: claimed(database, batch_id, sum(taken)))
        assert await sql(database, laid) == taken
        scripted.gate.set()
        worker._recorder.hurry()
        await worker.drain(5)


async def test_all_that_is_rung_for_at_once_is_claimed_past_what_was_claimed_ahead(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    many = await make_batch(database, script(*[{"do": "gate"}] * 80))
    async with working(database, scripted, concurrency=4, poll_seconds=3600.0) as worker:
        await eventually(lambda: claimed(database, many, 4))
        worker._items.slots.pace.per_second = 20 / AHEAD_SECONDS
        worker._items.news.set()
        await eventually(lambda: claimed(database, many, 24))
        few = [await make_batch(database, script({"do": "gate"}), priority=50) for _ in range(3)]
        worker.wake()
        for one in few:
            await eventually(lambda one=one: claimed(database, one, 1))
        scripted.gate.set()
        await worker.drain(5)


async def test_many_free_slots_are_filled_by_several_claims(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST", 2)
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST_QUIET", 3)
    batch_id = await make_batch(database, script(*[{"do": "gate"}] * 8))
    async with working(database, scripted, concurrency=8, poll_seconds=3600.0):
        await at_gate(scripted, 8)
        assert await sql(database, "SELECT last - first + 1 FROM lease ORDER BY first") == [3, 3, 2]
        scripted.gate.set()
        await ended(database, batch_id)


async def test_while_something_new_comes_claims_are_smaller(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.items.CLAIM_PART", 2)
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST", 4)
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST_QUIET", 5)
    monkeypatch.setattr("gristmill.worker.items.QUIET_SECONDS", 3600.0)
    async with working(database, scripted, concurrency=9, poll_seconds=3600.0) as worker:
        first = await make_batch(database, script({"do": "gate"}))
        worker.wake()
        await at_gate(scripted, 1)
        batch_id = await make_batch(database, script(*[{"do": "gate"}] * 7))
        worker.wake()
        await at_gate(scripted, 8)
        laid = "SELECT last - first + 1 FROM lease WHERE batch_id = $1 ORDER BY first"
        assert await sql(database, laid, batch_id) == [2, 2, 3]
        scripted.gate.set()
        await ended(database, first, batch_id)


async def test_what_comes_while_nothing_else_is_there_is_claimed_by_large_claims(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST", 2)
    monkeypatch.setattr("gristmill.worker.items.CLAIM_MOST_QUIET", 3)
    monkeypatch.setattr("gristmill.worker.items.QUIET_SECONDS", 3600.0)
    async with working(database, scripted, concurrency=4, poll_seconds=3600.0) as worker:
        batch_id = await make_batch(database, script(*[{"do": "gate"}] * 4))
        worker.wake()
        await at_gate(scripted, 4)
        assert await sql(database, "SELECT last - first + 1 FROM lease ORDER BY first") == [3, 1]
        scripted.gate.set()
        await ended(database, batch_id)


async def test_rings_take_little_past_a_recorder_that_is_behind_and_nothing_past_one_that_is_far_behind(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "watched", lambda *_: None)
    async with working(database, scripted, concurrency=4, poll_seconds=0.05) as worker:
        worker._items.slots.pace.per_second = 40 / AHEAD_SECONDS
        with monkeypatch.context() as behind:
            behind.setattr(Recorder, "fullness", 1.0)
            batch_id = await make_batch(database, script(*[{"do": "gate"}] * 200))
            await looked()
            assert await sql(database, "SELECT count(*) FROM lease") == [0]
            worker.wake()
            await eventually(lambda: claimed(database, batch_id, 4))
            behind.setattr(Recorder, "fullness", 2.0)
            worker.wake()
            await looked()
            await looked()
            assert await claimed(database, batch_id, 4)
        scripted.gate.set()
        await ended(database, batch_id)


async def claimed(database: Database, batch_id: UUID, items: int) -> bool:
    query = "SELECT sum(remaining)::int FROM lease WHERE batch_id = $1"
    return await sql(database, query, batch_id) == [items]


async def test_a_claim_whose_answer_was_lost_is_given_back_and_claimed_again(
    database: Database, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Claim] = []
    really = claims.claim

    async def claimed(*given: Any, **more: Any) -> Claim:
        claim = await really(*given, **more)
        if claim.leases and not lost:
            lost.append(claim)
            raise ConnectionError("the answer")
        return claim

    monkeypatch.setattr(Scripted, "has_chats", False)  # one statement, which commits by itself
    monkeypatch.setattr(claims, "claim", claimed)
    batch_id = await make_batch(database, script(*[{"do": "succeed"}] * 3))
    async with working(database, scripted):
        await ended(database, batch_id)
    assert lost
    assert (await get(database, batch_id)).success == 3
