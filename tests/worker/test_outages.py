"""A whole worker and a model's endpoint that goes away and comes back (design 4, promises 10 to 12, in short).

The same at length, with several processes: tests/torture/test_upstreams.py.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID

import orjson
import pytest

from factories import TENANT, get, make_batch, sql, violations
from fakes.llm import FakeLLM
from fakes.menu import MENU, Expected
from gristmill.db import Database
from gristmill.metrics import REGISTRY
from gristmill.processors import get as processor
from gristmill.settings import Settings
from gristmill.store.new_batches import NewItem
from gristmill.upstream.client import Upstream
from mill import Scripted, ended, eventually, working

OTHER = UUID("00000000-0000-7000-8000-000000000002")


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM() as server:
        yield server


@asynccontextmanager
async def at_work(database: Database, llm: FakeLLM, **more: Any) -> AsyncIterator[None]:
    settings = {"llm_concurrency": 16, "llm_timeout_seconds": 20.0, "breaker_probe_seconds": 0.4} | more
    async with (
        Upstream(Settings(llm_base_url=llm.url, llm_model="m", **settings)) as upstream,
        working(database, processor("completion"), upstream=upstream, **settings),
    ):
        yield


def say(text: str) -> NewItem:
    body = {"messages": [{"role": "user", "content": text}]}
    return NewItem(text, orjson.dumps(body).decode())


async def make(database: Database, *texts: str, circuit: str | None = "model", **more: Any) -> UUID:
    items = [say(text) for text in texts]
    return await make_batch(database, items, processor="completion", circuit=circuit, **more)


def many(count: int) -> list[str]:
    return [f"item {number}" for number in range(count)]


async def probes_made(database: Database, count: int) -> None:
    """So many pauses have doubled since it opened; and then some, once they no longer grow."""
    seen: set[Any] = set()

    async def so_many() -> bool:
        seen.update(await sql(database, "SELECT until FROM circuit"))
        return len(seen) > count

    await eventually(so_many, 60)


async def closed(database: Database) -> None:
    async def none_is_open() -> bool:
        return await sql(database, "SELECT name FROM circuit") == []

    await eventually(none_is_open, 60)


@pytest.mark.parametrize("kind", ["refused", "status:503", "status:500", "status:502", "reset", "hang"])
async def test_an_outage_fails_no_item_and_is_called_little(
    database: Database, llm: FakeLLM, kind: str
) -> None:
    """Not even with a single attempt, and whether the endpoint refuses, breaks off, is in error, or is silent."""
    timeout = {"llm_timeout_seconds": 0.5} if kind == "hang" else {}
    async with at_work(database, llm, **timeout):
        batch_id = await make(database, *many(300), max_attempts=1)
        await eventually(lambda: some_succeeded(database, batch_id))
        before = len(llm.requests)
        if kind == "refused":
            await llm.stop()
        llm.always = None if kind == "refused" else kind
        await probes_made(database, 3)
        batch = await get(database, batch_id)
        assert (batch.waiting_reason or "").startswith("upstream down until 20")
        assert batch.pending > 0
        await eventually(lambda: told_by_metrics(1.0))
        assert len(llm.requests) - before <= 16 + 16 + 10  # in flight and on their way, and probes
        llm.always = None
        if kind == "refused":
            await llm.start(llm.port)
        await closed(database)
        await ended(database, batch_id)
    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (300, 0)
    assert await sql(database, "SELECT max(attempt) FROM result") == [1]
    assert await violations(database) == []


async def told_by_metrics(open_ones: float) -> bool:
    return REGISTRY.get_sample_value("gristmill_circuits_open", {"kind": "model"}) == open_ones


async def some_succeeded(database: Database, batch_id: UUID) -> bool:
    return (await get(database, batch_id)).success >= 20


async def test_items_that_run_out_of_their_time_in_an_outage_are_not_to_blame(
    database: Database, llm: FakeLLM
) -> None:
    """The endpoint is silent for longer than an item may run."""
    llm.always = "hang"
    async with at_work(database, llm):
        batch_id = await make(database, *many(40), max_attempts=1, item_timeout_seconds=1.0)
        await probes_made(database, 5)  # by then the first of them has run out of its time, too
        llm.always = None
        await ended(database, batch_id)
    assert (await get(database, batch_id)).failed == 0


async def test_other_tenants_and_other_keys_go_on_meanwhile(database: Database, llm: FakeLLM) -> None:
    async with at_work(database, llm):
        stuck = await make(database, *(f"[fault=status:503] {n}" for n in range(30)), deadline_seconds=3600)
        await probes_made(database, 1)
        mine = await make(database, *many(50), circuit="model:of-a-key-of-my-own")
        yours = await make(database, *many(50), tenant_id=OTHER)
        await ended(database, mine)
        await ended(database, yours, tenant_id=OTHER)
        batch = await get(database, stuck)
    assert (batch.success, batch.failed) == (0, 0)
    assert (batch.waiting_reason or "").startswith("upstream down until 20")


async def test_few_items_that_always_fail_use_up_their_attempts(database: Database, llm: FakeLLM) -> None:
    """Nine of them are no storm."""
    async with at_work(database, llm):
        batch_id = await make(database, *(f"[fault=status:500] {n}" for n in range(9)), max_attempts=2)
        await ended(database, batch_id)
    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (0, 9)
    assert len(llm.requests) == 18


async def test_a_crowd_of_items_that_are_to_blame_ends_with_all_its_attempts_used(
    database: Database, llm: FakeLLM
) -> None:
    """Sixty in front and a hundred good ones behind: what looks like an outage at first is told from one."""
    async with at_work(database, llm):
        texts = [f"[fault=status:500] {n}" for n in range(60)]
        batch_id = await make(database, *texts, *many(100), max_attempts=2)
        await ended(database, batch_id)
    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (100, 60)
    assert await sql(database, "SELECT DISTINCT attempt FROM result WHERE status = 2") == [2]


async def test_a_worker_that_ends_in_the_middle_of_a_doubt_uses_up_no_attempt(
    database: Database, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.worker.circuits.DOUBT_SECONDS", 600.0)
    async with at_work(database, llm):
        batch_id = await make(database, *(f"[fault=status:500*1] {n}" for n in range(5)), max_attempts=1)

        async def all_have_failed() -> bool:
            return len(llm.requests) == 5

        await eventually(all_have_failed)
    assert (await get(database, batch_id)).pending == 5
    async with at_work(database, llm):
        await ended(database, batch_id)
    assert (await get(database, batch_id)).success == 5


@pytest.mark.parametrize("asked", ["retry-after=2", "retry-after-ms=1500", "retry-after=date+3"])
async def test_nobody_calls_before_the_time_that_was_asked_for(
    database: Database, llm: FakeLLM, asked: str
) -> None:
    async with at_work(database, llm):
        batch_id = await make(database, *many(400), max_attempts=1)
        await eventually(lambda: some_succeeded(database, batch_id))
        began = time.time()
        before = len(llm.requests)
        llm.misbehave(*[f"status:429 {asked}"] * 3)
        await eventually(lambda: open_for(database, "throttled"))
        assert ((await get(database, batch_id)).waiting_reason or "").startswith("throttled until 20")
        await ended(database, batch_id)
    calls = [request.at for request in llm.requests[before:]]
    gap, last = max((later - earlier, earlier) for earlier, later in pairwise(calls))
    # A date has whole seconds, so it may be up to one less than 3 from when it was said.
    assert gap >= {"retry-after=2": 1.9, "retry-after-ms=1500": 1.4, "retry-after=date+3": 1.9}[asked]
    assert last - calls[0] < 8  # and goes on soon; a second call of three may be told to wait, too
    assert time.time() - began < 60
    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (400, 0)
    assert await sql(database, "SELECT max(attempt) FROM result") == [1]


async def open_for(database: Database, reason: str) -> bool:
    return await sql(database, "SELECT reason FROM circuit") == [reason]


async def test_as_many_calls_run_at_once_again_soon_after_a_rate_limit(
    database: Database, llm: FakeLLM
) -> None:
    llm.latency_seconds = 0.05
    async with at_work(database, llm):
        batch_id = await make(database, *many(3000))
        await eventually(lambda: some_succeeded(database, batch_id))
        llm.misbehave(*["status:429 retry-after=1"] * 16)
        await eventually(lambda: open_for(database, "throttled"))
        llm.most_in_flight = 0
        await closed(database)

        async def nine_tenths() -> bool:
            return llm.most_in_flight >= math.ceil(0.9 * 16)

        await eventually(nine_tenths, 30)
        await sql(database, "UPDATE batch_schedule SET paused = true")


async def test_an_endpoint_that_takes_fewer_calls_at_once_gets_fewer(
    database: Database, llm: FakeLLM
) -> None:
    """It refuses all beyond 6: what was refused waits and uses no attempt, and in time little is refused."""
    llm.latency_seconds = 0.05
    answer = llm.script

    def crowded(request: Any) -> tuple[int, dict[str, Any]]:
        return (429, {"error": {"message": "too many"}}) if llm.in_flight > 6 else answer(request)

    llm.script = crowded
    async with at_work(database, llm):
        batch_id = await make(database, *many(600), max_attempts=1)

        async def fewer() -> bool:
            least = REGISTRY.get_sample_value("gristmill_adaptive_limit_least", {"kind": "model"}) or 16
            return least <= 9

        await eventually(fewer, 60)
        llm.script = answer
        await ended(database, batch_id)
    assert (await get(database, batch_id)).failed == 0


async def test_a_fixed_limit_stays_where_it_is(database: Database, llm: FakeLLM) -> None:
    llm.latency_seconds = 0.05
    settings = {"adaptive_concurrency": False, "breaker_faults": 0}
    async with at_work(database, llm, **settings):
        batch_id = await make(database, *(f"{n} [fault=status:500*1]" for n in range(60)))
        await ended(database, batch_id)
        llm.together = asyncio.Barrier(16)  # nobody is answered before 16 have come
        batch_id = await make(database, *many(64))
        await ended(database, batch_id)
    assert llm.most_in_flight == 16


async def test_two_workers_share_what_one_has_found_out(database: Database, llm: FakeLLM) -> None:
    async with at_work(database, llm), at_work(database, llm):
        batch_id = await make(database, *many(400), max_attempts=1)
        await eventually(lambda: some_succeeded(database, batch_id))
        before = len(llm.requests)
        llm.always = "status:503"
        await probes_made(database, 4)
        assert len(llm.requests) - before <= 2 * (16 + 16) + 12
        llm.always = None
        await ended(database, batch_id)
    assert (await get(database, batch_id)).failed == 0


async def test_items_that_cannot_be_run_do_not_wait_for_one_probe_after_the_other(database: Database) -> None:
    """They call nobody: whether the endpoint is there is nothing to them."""
    batch_id = await make_batch(database, 5, config="[]", circuit="model")
    opened = "INSERT INTO circuit VALUES ($1, 'model', 'down', now(), 600, 600)"
    await sql(database, opened, TENANT)
    async with working(database, Scripted()):
        await ended(database, batch_id)
    assert (await get(database, batch_id)).failed == 5


async def test_every_fault_of_the_menu_ends_as_it_should(database: Database, llm: FakeLLM) -> None:
    """Each alone: without a breaker, of whose items as many as these would be a storm."""
    texts = [f"[fault={fault}] " for fault in MENU]
    async with at_work(database, llm, llm_timeout_seconds=1.0, breaker_faults=0):
        batch_id = await make(database, *texts, max_attempts=2)

        async def only_waiting_ones_are_left() -> bool:
            batch = await get(database, batch_id)
            return batch.failed + batch.success == len(MENU) - sum(one.waits for one in MENU.values())

        await eventually(only_waiting_ones_are_left, 90)
        rows = await sql(
            database,
            """
            SELECT json_build_array(item.custom_id, r.code, r.attempt, r.error::json)
            FROM result r JOIN item USING (batch_id, ordinal)
            """,
        )
    found = {row[0]: tuple(row[1:]) for row in map(orjson.loads, rows)}
    for fault, expected in MENU.items():
        check(fault, expected, found.get(f"[fault={fault}] "))


def check(fault: str, expected: Expected, found: tuple[Any, ...] | None) -> None:
    if expected.waits:
        assert found is None, fault
        return
    assert found is not None, fault
    code, attempt, error = found
    if expected.type is None:
        assert (code, attempt) == (None, 1), fault
        return
    assert (code, error["type"]) == (500, expected.type), fault
    assert attempt == (1 if expected.final else 2), fault
    if fault.startswith("status:"):
        assert error["upstream_status"] == int(fault[7:10]), fault


def test_the_menu_has_every_class_of_status_and_more() -> None:
    statuses = {int(fault[7:10]) for fault in MENU if fault.startswith("status:")}
    assert {status // 100 for status in statuses} == {3, 4, 5}
    assert len(MENU) >= 30
