"""A model's endpoint that goes away, limits the rate, and answers with all that can be wrong, to a fleet of real processes.

`make torture ARGS='-k upstreams'` keeps it away for 60 seconds, `make test` for 3. What is told at the end is for
docs/reliability.md.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from fakes.llm import FakeLLM
from fakes.menu import MENU
from fakes.wire import Request
from gristmill.db import Database
from gristmill.store.audit import audit
from stranger import TERMINAL
from torture.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

BATCHES = "/api/v1/batches"
LONG_SECONDS = 30  # away for so long: the long form, with all that can be away
WORKERS, EACH = 2, 16  # processes, and calls at once in each
SLACK_SECONDS = 0.7  # for what other processes had in hand when the first of them was told, on a busy machine


@dataclass
class Mill:
    fleet: Fleet
    llm: FakeLLM
    connection: "asyncpg.Connection[asyncpg.Record]"
    database_url: str = field(repr=False)

    async def post(self, texts: list[str], **more: Any) -> str:
        requests = [{"custom_id": f"{n}", "input": _body(text)} for n, text in enumerate(texts)]
        body = {"processor": "completion", "requests": requests} | more
        answer = await self.fleet.client.post(BATCHES, json=body)
        return str(answer.raise_for_status().json()["data"]["id"])

    async def see(self, batch_id: str) -> dict[str, Any]:
        answer = await self.fleet.client.get(f"{BATCHES}/{batch_id}")
        seen: dict[str, Any] = answer.raise_for_status().json()["data"]
        return seen

    async def results(self, batch_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        following = f"{BATCHES}/{batch_id}/results?limit=1000"
        while following:
            answer = (await self.fleet.client.get(following)).raise_for_status().json()
            rows += answer["data"]
            following = answer["pagination"]["next_page"]
        return rows

    async def ended(self, *batch_ids: str, seconds: float = 240) -> None:
        async def all_have() -> bool:
            return all([(await self.see(one))["status"] in TERMINAL for one in batch_ids])

        await until(all_have, seconds)

    async def open_circuits(self) -> int:
        count: int = await self.connection.fetchval("SELECT count(*) FROM circuit")
        return count

    async def closed(self, seconds: float) -> None:
        async def none_is_open() -> bool:
            return await self.open_circuits() == 0

        await until(none_is_open, seconds)

    async def violations(self) -> list[Any]:
        database = await Database(self.database_url).open()
        async with database.connection() as connection:
            found = await audit(connection)
        await database.close()
        return list(found)


def _body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def until(condition: Callable[[], Any], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def milling(url: str, folder: Path, llm: FakeLLM, **more: object) -> AsyncIterator[Mill]:
    settings = {"llm_base_url": llm.url, "llm_model": "m", "llm_concurrency": EACH, "concurrency": 64}
    async with Fleet(url, folder, workers=WORKERS, **(settings | more)) as fleet:
        connection = await asyncpg.connect(url)
        try:
            yield Mill(fleet, llm, connection, url)
        finally:
            await connection.close()


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM() as server:
        yield server


@pytest.fixture
def away_seconds(pytestconfig: pytest.Config) -> float:
    seconds: float = pytestconfig.getoption("away_seconds")
    return seconds


async def test_upstreams_that_are_away_are_called_little_and_fail_nobody(
    own_database_url: str, folder: Path, llm: FakeLLM, away_seconds: float
) -> None:
    """Promise 12: calls in the outage at most 1.1 times the items, closed within 30 s, no item failed."""
    faults = ["status:500", "status:503", "close"] if away_seconds >= LONG_SECONDS else ["status:500"]
    async with milling(own_database_url, folder, llm) as mill:
        await mill.ended(await mill.post(["before"] * 50))
        for fault in faults:
            await _away(mill, fault, away_seconds)
        assert await mill.violations() == []


async def _away(mill: Mill, fault: str, away_seconds: float) -> None:
    llm = mill.llm
    llm.always = fault
    before = len(llm.requests)
    batch_id = await mill.post([f"item {n}" for n in range(1000)], max_attempts=1)

    async def says_so() -> bool:
        reason = (await mill.see(batch_id))["waiting_reason"] or ""
        return bool(reason.startswith("upstream down until 20"))

    await until(says_so, 60)
    await asyncio.sleep(away_seconds)
    calls = len(llm.requests) - before
    llm.always = None
    back = time.monotonic()
    await mill.closed(30)
    closed_after = time.monotonic() - back
    await mill.ended(batch_id)
    seen = await mill.see(batch_id)
    print(
        f"{fault} for {away_seconds:g} s: {calls} calls for 1000 items, closed {closed_after:.1f} s after, "
        f"{seen['failed_requests']} failed, all ended {time.monotonic() - back:.1f} s after"
    )
    assert calls <= 1100
    assert (seen["completed_requests"], seen["failed_requests"]) == (1000, 0)


class Limited:
    """The script of an endpoint that limits the rate for a while: 429 to all, with the time left as seconds or as a date."""

    def __init__(self, llm: FakeLLM, seconds: float) -> None:
        self._answer = llm.script
        self._ends_at = time.monotonic() + seconds
        self.told: list[tuple[float, float]] = []  # when, and until when to be left alone

    def __call__(self, request: Request) -> tuple[int, dict[str, Any], dict[str, str]]:
        now = time.monotonic()
        if now >= self._ends_at:
            return (*self._answer(request), {})
        asked = min(5.0, max(1.0, self._ends_at - now))
        if len(self.told) % 2:
            value = formatdate(time.time() + asked, usegmt=True)  # whole seconds: up to one less
            self.told.append((now, now + asked - 1))
        else:
            value = f"{asked:.3f}"
            self.told.append((now, now + asked))
        return 429, {"error": {"message": "slow down"}}, {"Retry-After": value}


async def test_upstreams_that_limit_the_rate_are_left_alone_for_so_long(
    own_database_url: str, folder: Path, llm: FakeLLM, away_seconds: float
) -> None:
    """Promise 11: no call before the time, no attempt used, and 9/10 of the earlier rate within 30 s."""
    llm.latency_seconds = 0.4
    plain = llm.script
    async with milling(own_database_url, folder, llm) as mill:
        thousands = 5 if away_seconds >= LONG_SECONDS else 2
        batches = [
            await mill.post([f"item {n}" for n in range(1000)], max_attempts=1) for _ in range(thousands)
        ]
        await until(lambda: _at_full_width(llm), 60)
        began, done = time.monotonic(), len(llm.requests)
        await asyncio.sleep(max(3.0, away_seconds / 6))
        earlier = (len(llm.requests) - done) / (time.monotonic() - began)

        limited = Limited(llm, max(3.0, away_seconds / 3))
        llm.script = limited
        await until(lambda: _is_open(mill), 30)
        assert ((await mill.see(batches[-1]))["waiting_reason"] or "").startswith("throttled until 20")
        await mill.closed(60)
        llm.script, back = plain, time.monotonic()
        again_after, rate = await _rate_again(llm, 0.9 * earlier, back)
        early = [
            request.at - told
            for told, until_then in limited.told
            for request in llm.requests
            if told + SLACK_SECONDS < request.at < until_then - 0.01
        ]
        await mill.ended(*batches)
        rows = [row for one in batches for row in await mill.results(one)]
        print(
            f"429 for {away_seconds / 3:g} s: {len(limited.told)} calls told to wait, {len(early)} before the time, "
            f"{earlier:.0f} calls/s before, {rate:.0f} again {again_after:.1f} s after, "
            f"{sum(row['status'] == 'failed' for row in rows)} failed"
        )
        assert early == []
        assert again_after <= 30
        assert len(rows) == 1000 * thousands
        assert {row["status"] for row in rows} == {"success"}
        attempts = await mill.connection.fetchval("SELECT max(attempt) FROM result")
        assert attempts == 1
        assert await mill.violations() == []


async def _at_full_width(llm: FakeLLM) -> bool:
    return llm.in_flight >= WORKERS * EACH - 2


async def _is_open(mill: Mill) -> bool:
    return await mill.open_circuits() > 0


async def _rate_again(llm: FakeLLM, least: float, back: float) -> tuple[float, float]:
    """After how many seconds a window of two had the rate; and the rate."""
    while True:
        began, done = time.monotonic(), len(llm.requests)
        await asyncio.sleep(2)
        rate = (len(llm.requests) - done) / (time.monotonic() - began)
        if rate >= least or time.monotonic() - back > 60:
            return time.monotonic() - back, rate


class Memory:
    """The most that each process has had, looked at ten times a second."""

    def __init__(self, fleet: Fleet) -> None:
        self._processes = [psutil.Process(worker.pid) for worker in fleet.workers]
        self.before = max(one.memory_info().rss for one in self._processes)
        self.most = self.before

    async def watch(self) -> None:
        while True:
            with suppress(psutil.NoSuchProcess):  # the fleet has gone
                self.most = max(self.most, *(one.memory_info().rss for one in self._processes))
            await asyncio.sleep(0.1)


async def test_upstreams_with_every_fault_of_the_menu_end_right_and_fill_no_memory(
    own_database_url: str, folder: Path, llm: FakeLLM, away_seconds: float
) -> None:
    """Promise 10: refusals end at once with their code, the rest is tried again; what is well among it succeeds."""
    times = max(1, round(away_seconds / 12))
    texts = [f"[fault={fault}] {n}" for n in range(times) for fault, one in MENU.items() if not one.waits]
    texts += [f"[fault={fault}*3] {n}" for n in range(times) for fault, one in MENU.items() if one.waits]
    few = len(texts)
    texts += [f"good {n}" for n in range(1000 - few)]
    random.Random(10).shuffle(texts)  # all of them in a row would be an outage
    large = [f"[fault={('huge', 'bomb', 'huge_error')[n % 3]}] {n}" for n in range(WORKERS * EACH * times)]
    async with milling(own_database_url, folder, llm, llm_timeout_seconds=2) as mill:
        memory = Memory(mill.fleet)
        watching = asyncio.create_task(memory.watch())
        mixed = await mill.post(texts, max_attempts=2)
        await mill.ended(mixed)
        heavy = await mill.post([*large, *(f"good {n}" for n in range(200))], max_attempts=2)
        await mill.ended(heavy)
        watching.cancel()
        rows = await mill.results(mixed)
        grown = (memory.most - memory.before) / 2**20
        failed = sum(row["status"] == "failed" for row in rows)
        print(
            f"{len(MENU)} faults, {few} items of them and {len(large)} large among {1200 + len(large)}: {failed} failed, "
            f"memory of a worker {memory.before / 2**20:.0f} MiB, at most {grown:.0f} more"
        )
        for text, row in zip(texts, rows, strict=True):
            _check(text, row)
        assert grown < 200
        assert await mill.violations() == []


def _check(text: str, row: dict[str, Any]) -> None:
    fault = text.partition("]")[0].removeprefix("[fault=") if text.startswith("[") else ""
    expected = MENU.get(fault)
    if expected is None or expected.type is None:  # good, or one that only waits for a while
        assert (row["status"], row["attempt"]) == ("success", 1), text
        return
    assert (row["status"], row["error_code"], row["error"]["type"]) == ("failed", 500, expected.type), text
    assert row["attempt"] == (1 if expected.final else 2), text
