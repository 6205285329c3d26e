"""Limits of the whole service at work: several whole workers, one Postgres, one endpoint that counts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
import pytest

from factories import TENANT, get, make_batch, sql
from fakes.llm import FakeLLM
from gristmill.db import Database
from gristmill.domain.states import TERMINAL
from gristmill.metrics import REGISTRY
from gristmill.processors import get as processor
from gristmill.settings import Settings
from gristmill.store import service_limits, transitions
from gristmill.store.new_batches import NewItem
from gristmill.store.shares import Demand, keep_leases, take
from gristmill.upstream import permits
from gristmill.upstream.client import Upstream
from gristmill.worker import Worker
from gristmill.worker.shares import Shares
from mill import Scripted, ended, eventually, working


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM(latency_seconds=0.1) as server:
        yield server


@asynccontextmanager
async def workers(database: Database, llm: FakeLLM, count: int, **more: Any) -> AsyncIterator[list[Worker]]:
    settings = {"llm_concurrency": 24, "concurrency": 24, "llm_timeout_seconds": 20.0} | more
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            upstream = await stack.enter_async_context(
                Upstream(Settings(llm_base_url=llm.url, llm_model="m", **settings))
            )
            found.append(
                await stack.enter_async_context(
                    working(database, processor("completion"), upstream=upstream, **settings)
                )
            )
        yield found


async def limit(database: Database, kind: Any, name: str, most: int | None = None, **rates: int) -> None:
    async with database.transaction() as tx:
        await service_limits.put(tx, kind, name, max_in_flight=most, **rates)


async def make(database: Database, count: int, **more: Any) -> UUID:
    body = {"messages": [{"role": "user", "content": "hello"}]} | more.pop("body", {})
    items = [NewItem(f"item {number}", orjson.dumps(body).decode()) for number in range(count)]
    return await make_batch(database, items, processor="completion", **({"circuit": "model"} | more))


async def granted(database: Database) -> int:
    [total] = await sql(database, "SELECT coalesce(sum(granted), 0)::int FROM upstream_share")
    return int(total)


async def test_several_workers_never_call_more_at_once_than_the_limit_and_use_all_of_it(
    database: Database, llm: FakeLLM
) -> None:
    await limit(database, "upstream", "model", 10)
    async with workers(database, llm, 3):
        await ended(database, await make(database, 150))
    assert llm.most_in_flight == 10
    assert len(llm.requests) == 150


async def test_a_limit_that_is_lowered_raised_and_removed_takes_effect_while_calls_go_on(
    database: Database, llm: FakeLLM
) -> None:
    llm.latency_seconds = 0.2  # so that this one loop can begin as many in that time, on a busy machine
    await limit(database, "upstream", "model", 12)

    async def reaches(count: int) -> None:
        """As many as that at once, and no more, over the next calls."""
        llm.most_in_flight, before = llm.in_flight, len(llm.requests)

        async def so_many() -> bool:
            return llm.most_in_flight == count and len(llm.requests) > before + 3 * count

        await eventually(so_many, 60)

    async def goes_beyond() -> bool:
        return llm.most_in_flight > 20

    async with workers(database, llm, 2):
        batch_id = await make(database, 3000)
        await reaches(12)
        await limit(database, "upstream", "model", 3)

        async def has_sunk() -> bool:
            return await granted(database) <= 3

        await eventually(has_sunk, 60)
        await reaches(3)
        await limit(database, "upstream", "model", 20)
        await reaches(20)
        async with database.transaction() as tx:
            await service_limits.remove(tx, "upstream", "model")
        await eventually(goes_beyond)
        await sql(database, "UPDATE batch_schedule SET paused = true")
    assert (await get(database, batch_id)).failed == 0


async def test_the_requests_of_a_minute_are_never_more_than_the_limit_and_what_collects(
    database: Database, llm: FakeLLM
) -> None:
    """600 a minute are 10 a second; three seconds' worth and one may come on top (docs/decisions/0016)."""
    came: list[float] = []
    llm.gate = lambda request: came.append(time.monotonic())
    await limit(database, "upstream", "model", requests_per_minute=600)
    async with workers(database, llm, 3):
        began = time.monotonic()
        await ended(database, await make(database, 50))
        took = time.monotonic() - began
    assert len(came) == 50
    for first in range(50):
        for last in range(first, 50):
            assert last - first + 1 <= 10 * (came[last] - came[first]) + 31
    assert took > (50 - 31) / 10
    assert took < 30  # and nearly all that may come does


async def test_the_tokens_of_a_minute_are_counted_before_a_call_and_set_right_after_it(
    database: Database, llm: FakeLLM
) -> None:
    """Each call is thought to use 1,002 tokens, and uses 102."""
    usage = {"prompt_tokens": 2, "completion_tokens": 100, "total_tokens": 102}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    answer = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    llm.script = lambda request: (200, answer)
    came: list[float] = []
    llm.gate = lambda request: came.append(time.monotonic())
    await limit(database, "upstream", "model", tokens_per_minute=102 * 600)
    async with workers(database, llm, 2):
        await ended(database, await make(database, 40, body={"max_tokens": 1000}))
    took = came[-1] - came[0]
    assert took > (40 - 31) / 10  # 10 a second by what they use …
    assert took < 30  # … and not 1 by what they might


async def test_an_item_that_waits_for_a_permit_uses_no_attempt_and_none_of_its_time(
    database: Database, llm: FakeLLM
) -> None:
    await limit(database, "upstream", "model", 1)
    llm.latency_seconds = 0.5
    async with workers(database, llm, 1):
        batch_id = await make(database, 8, item_timeout_seconds=2, max_attempts=1)
        await ended(database, batch_id)
    assert (await get(database, batch_id)).success == 8
    assert await sql(database, "SELECT * FROM item_attempt") == []
    assert llm.most_in_flight == 1


async def test_an_item_that_waits_long_goes_back_and_comes_again(
    database: Database, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr("gristmill.upstream.errors.CROWDED_SECONDS", 0.2)
    held = asyncio.Event()
    llm.gate = lambda request: held
    await limit(database, "upstream", "model", 1)
    async with workers(database, llm, 1):
        batch_id = await make(database, 3, max_attempts=1)

        async def some_went_back() -> bool:
            return True in await sql(database, "SELECT waiting FROM span")

        await eventually(some_went_back)
        held.set()
        await ended(database, batch_id)
    assert (await get(database, batch_id)).success == 3
    assert llm.most_in_flight == 1


async def test_the_share_of_a_worker_that_dies_comes_back_and_is_nobodys_until_then(
    database: Database, llm: FakeLLM
) -> None:
    await limit(database, "upstream", "model", 6)
    batch_id = await make(database, 3000)
    [other] = await sql(
        database,
        """
        INSERT INTO worker (name, processors, concurrency, beat_at) VALUES ('other', '{}', 9, 'infinity') RETURNING id
        """,
    )
    share = "INSERT INTO upstream_share SELECT id, $1, 4, 4, 0, 4 FROM service_limit"
    await sql(database, share, other)

    async def many_calls() -> bool:
        return len(llm.requests) > 50

    async def calls_with_all() -> bool:
        return llm.most_in_flight == 6

    async with workers(database, llm, 1):
        await eventually(many_calls)
        assert llm.most_in_flight == 2
        await sql(database, "UPDATE worker SET beat_at = now() - interval '1 minute' WHERE id = $1", other)
        await eventually(calls_with_all)
        await sql(database, "UPDATE batch_schedule SET paused = true")
    assert llm.most_in_flight == 6
    assert (await get(database, batch_id)).failed == 0


async def test_what_is_not_used_any_more_is_given_back_also_of_an_endpoint_that_nobody_remembers(
    database: Database, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.circuits.KEPT", 0)
    monkeypatch.setattr("gristmill.worker.jobs.JOBS_KEPT", 0)
    await limit(database, "upstream", "model", 6)
    async with workers(database, llm, 1):
        await ended(database, await make(database, 40))

        async def all_given_back() -> bool:
            return await granted(database) == 0

        assert await sql(database, "SELECT count(*) FROM upstream_share") == [1]
        await eventually(all_given_back)


async def test_a_worker_that_leaves_gives_its_share_back_at_once(database: Database, llm: FakeLLM) -> None:
    await limit(database, "upstream", "model", 6)
    async with workers(database, llm, 1):
        await ended(database, await make(database, 20))
        assert await sql(database, "SELECT count(*) FROM upstream_share") == [1]
    assert await sql(database, "SELECT * FROM upstream_share") == []


async def test_what_could_not_call_soon_is_not_claimed(database: Database, llm: FakeLLM) -> None:
    held = asyncio.Event()
    llm.gate = lambda request: held
    await limit(database, "upstream", "model", 2)
    async with workers(database, llm, 1):
        first = await make(database, 8)

        async def crowded() -> bool:
            return await sql(database, "SELECT waiting FROM upstream_share") == [6]

        await eventually(crowded)
        second, elsewhere = await make(database, 8), await make(database, 1, circuit="url:other")

        async def goes_by() -> bool:
            return (await get(database, elsewhere)).processing == 1

        await eventually(goes_by)
        assert (await get(database, second)).processing == 0
        held.set()
        await ended(database, first, second, elsewhere)


async def test_what_is_granted_used_and_waited_for_is_told(database: Database, llm: FakeLLM) -> None:
    held = asyncio.Event()
    llm.gate = lambda request: held
    await limit(database, "upstream", "model", 3)

    def told(state: str) -> float | None:
        return REGISTRY.get_sample_value("gristmill_limited_calls", {"kind": "model", "state": state})

    async with workers(database, llm, 1):
        batch_id = await make(database, 60)

        async def all_told() -> bool:
            return (told("granted"), told("used")) == (3, 3) and (told("waiting") or 0) > 0

        await eventually(all_told)
        assert (await get(database, batch_id)).waiting_reason == "concurrency limit"
        held.set()
        await ended(database, batch_id)


@pytest.mark.parametrize(("kind", "name"), [("tenant", "mine"), ("processor", "noop")])
async def test_the_items_in_flight_of_a_tenant_or_a_processor_are_never_more_than_the_limit(
    database: Database, scripted: Scripted, kind: str, name: str
) -> None:
    await sql(database, "INSERT INTO tenant (id, name) VALUES ($1, 'mine')", TENANT)
    await limit(database, kind, name, 5)
    items = [NewItem(f"{number}", '{"do":"gate"}') for number in range(12)]
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(working(database, scripted))
        batches = [await make_batch(database, items) for _ in range(2)]

        async def five_run() -> bool:
            return scripted.at_gate == 5

        await eventually(five_run)
        for one in batches:
            assert (await get(database, one)).waiting_reason == "concurrency limit"
        most = 0

        async def let_through() -> bool:
            nonlocal most
            most = max(most, scripted.at_gate)
            scripted.gate.set()
            scripted.gate = asyncio.Event()
            return all([(await get(database, one)).status in TERMINAL for one in batches])

        await eventually(let_through, 60)
    assert most == 5


async def test_a_refused_call_that_allowed_a_giant_answer_does_not_block_the_endpoint(
    database: Database, llm: FakeLLM
) -> None:
    usual = llm.script
    refusal = (400, {"error": {"message": "too many"}})
    llm.script = lambda request: refusal if request.body["max_tokens"] > 1000 else usual(request)
    await limit(database, "upstream", "model", tokens_per_minute=600_000)
    async with workers(database, llm, 1):
        giant = await make(database, 1, body={"max_tokens": 2_000_000_000})
        await ended(database, giant)
        began = time.monotonic()
        small = await make(database, 5, body={"max_tokens": 100})
        await ended(database, small)
    assert (await get(database, giant)).failed == 1
    assert (await get(database, small)).success == 5
    assert time.monotonic() - began < 30  # half of a minute's worth, were it owed


async def test_requests_of_a_minute_do_not_collect_with_workers_that_may_not_call_just_now(
    database: Database, llm: FakeLLM
) -> None:
    """60 a minute are one a second; three seconds' worth and one may come on top."""
    held = asyncio.Event()
    came: list[float] = []

    def gate(request: Any) -> asyncio.Event:
        came.append(time.monotonic())
        return held

    llm.gate = gate
    await limit(database, "upstream", "model", 4, requests_per_minute=600)
    async with workers(database, llm, 4):
        batches = [await make(database, 10) for _ in range(6)]

        async def all_wait() -> bool:
            waiting = await sql(database, "SELECT waiting FROM upstream_share")
            return len(came) == 4 and len(waiting) == 4 and min(waiting) > 0

        await eventually(all_wait)
        left = "SELECT requests_left FROM service_limit WHERE requests_left = 10"

        async def nobody_has_any() -> bool:
            return bool(await sql(database, left))

        await eventually(nobody_has_any)  # the bucket is full, and stays so
        held.set()
        await ended(database, *batches)
    for first in range(len(came)):
        for last in range(first, len(came)):
            assert last - first + 1 <= 10 * (came[last] - came[first]) + 31


async def test_a_worker_that_ends_does_not_wait_for_those_that_wait_for_permits(
    database: Database, llm: FakeLLM
) -> None:
    await limit(database, "upstream", "model", 1)
    [other] = await sql(
        database,
        """
        INSERT INTO worker (name, processors, concurrency, beat_at) VALUES ('other', '{}', 9, 'infinity') RETURNING id
        """,
    )
    await sql(database, "INSERT INTO upstream_share SELECT id, $1, 1, 1, 0, 1 FROM service_limit", other)
    async with workers(database, llm, 1) as [worker]:
        batch_id = await make(database, 3)

        async def some_wait() -> bool:
            return 1 in await sql(database, "SELECT 1 FROM upstream_share WHERE waiting > 0")

        await eventually(some_wait)
        began = time.monotonic()
        await worker.drain(60)
        assert time.monotonic() - began < 20
    assert (await get(database, batch_id)).processing == 0
    assert await sql(database, "SELECT * FROM item_attempt") == []


@pytest.mark.parametrize("act", ["UPDATE batch_schedule SET paused = true", "cancel"])
async def test_what_waits_for_a_permit_does_not_call_after_a_pause_or_a_cancel(
    database: Database, llm: FakeLLM, act: str
) -> None:
    held = asyncio.Event()
    llm.gate = lambda request: held
    await limit(database, "upstream", "model", 1)
    async with workers(database, llm, 1):
        batch_id = await make(database, 2)

        async def one_waits() -> bool:
            return await sql(database, "SELECT waiting FROM upstream_share") == [1]

        await eventually(one_waits)
        if act == "cancel":
            async with database.transaction() as tx:
                await transitions.cancel(tx, TENANT, batch_id)
        else:
            await sql(database, act)

        async def only_one_is_in_hand() -> bool:
            return (await get(database, batch_id)).processing == 1

        await eventually(only_one_is_in_hand)
        held.set()

        async def it_has_ended() -> bool:
            return (await get(database, batch_id)).success == 1

        await eventually(it_has_ended)
    assert len(llm.requests) == 1


async def test_a_limit_that_a_stopped_process_holds_does_not_stall_the_others(database: Database) -> None:
    await limit(database, "upstream", "model", 5)
    await limit(database, "upstream", "url:there", 5)
    shares = Shares(database, Settings(), trusted=lambda: True, changed=lambda: None)
    [shares.worker_id] = await sql(
        database,
        """
        INSERT INTO worker (name, processors, concurrency, beat_at) VALUES ('me', '{}', 9, 'infinity') RETURNING id
        """,
    )
    stalled, other = shares.of("model"), shares.of("url:there")
    await shares.look()
    stalled.correct(-50)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        calls = [group.create_task(one.enter(0)) for one in (stalled, other)]
        async with database.transaction() as tx:
            await tx.execute("SELECT FROM service_limit WHERE name = 'model' FOR UPDATE")
            while not calls[1].done():
                await shares.step()
                await asyncio.sleep(0)
            assert not calls[0].done()
            assert stalled.overdrawn == -50  # what was to go back still is to
        while not calls[0].done():
            await shares.step()
            await asyncio.sleep(0)


async def test_an_answer_after_it_was_declared_dead_gives_a_worker_nothing(database: Database) -> None:
    await limit(database, "upstream", "model", 5)
    shares = Shares(database, Settings(), trusted=lambda: True, changed=lambda: None)
    [shares.worker_id] = await sql(
        database,
        """
        INSERT INTO worker (name, processors, concurrency, beat_at) VALUES ('me', '{}', 9, 'infinity') RETURNING id
        """,
    )
    permits = shares.of("model")
    await shares.look()
    call = asyncio.create_task(permits.enter(0))
    await asyncio.sleep(0)
    async with database.transaction() as tx:
        await tx.execute("SELECT FROM service_limit FOR UPDATE")
        asking = asyncio.create_task(shares.step())

        async def it_asks() -> bool:
            waits = "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return await sql(database, waits) == [True]

        await eventually(it_asks)
        shares.forfeit()
    await asking
    await shares.step()
    assert permits.share == 0
    assert not call.done()
    call.cancel()


async def test_calls_count_that_began_before_calls_at_once_were_limited(database: Database) -> None:
    await limit(database, "upstream", "model", requests_per_minute=600)
    first, second = await sql(
        database,
        """
        INSERT INTO worker (name, processors, concurrency, beat_at)
        VALUES ('a', '{}', 9, 'infinity'), ('b', '{}', 9, 'infinity') RETURNING id
        """,
    )
    async with database.transaction() as tx:
        [known] = await service_limits.all_(tx)
        await take(tx, known, first, Demand(in_use=4, waiting=0, wanted=4))
    await limit(database, "upstream", "model", 5)
    async with database.transaction() as tx:
        grant = await take(tx, known, second, Demand(in_use=0, waiting=5, wanted=5))
    assert grant is not None
    assert grant.share == 1


async def test_an_item_that_has_called_and_waits_keeps_its_lease(database: Database, llm: FakeLLM) -> None:
    await limit(database, "upstream", "model", 1)
    held = asyncio.Event()
    llm.gate = lambda request: held
    async with workers(database, llm, 1):
        batch_id = await make(database, 1)

        async def calls() -> bool:
            return len(llm.requests) == 1

        await eventually(calls)
        await sql(database, "UPDATE lease SET deadline_at = now() + interval '10 seconds'")
        [holder] = await sql(database, "SELECT worker_id FROM lease")
        late = "SELECT deadline_at > now() + interval '1 minute' FROM lease"
        async with database.transaction() as tx:
            await keep_leases(tx, holder, [(batch_id, 1)])
        assert await sql(database, late) == [False]
        async with database.transaction() as tx:
            await keep_leases(tx, holder, [(batch_id, 0)])
        assert await sql(database, late) == [True]
        held.set()
        await ended(database, batch_id)
