"""Questions about a document, with a real worker: what was answered is not asked again, whatever happened."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson
import pytest

from factories import get, make_batch, sql, turn, violations
from fakes.llm import FakeLLM
from fakes.script import Script
from fakes.wire import Request
from gristmill.db import Database
from gristmill.domain.states import ItemStatus
from gristmill.processors.qa_generation import QaGeneration
from gristmill.settings import Settings
from gristmill.store import results, retries
from gristmill.store.new_batches import NewItem
from gristmill.store.results import Attempt, Result
from gristmill.upstream.client import Upstream
from mill import ended, eventually, working

CHUNKS = 8
TEXT = "\n\n".join(
    f"# Section {n}\n\nThe value of section {n} is exactly {n * n}.\nIts colour, too, is known: it is grey number {n}."
    for n in range(CHUNKS)
)
CONFIG = orjson.dumps({"max_characters": 200, "new_after": 200, "pairs_per_chunk": 2}).decode()


class Breakable:
    """A script that the endpoint follows until a section is asked about; `calls` counts by section."""

    def __init__(self, at: int) -> None:
        self.script = Script(seed=3, invented=0.2, pairs=2)
        self.calls: Counter[str] = Counter()
        self.broken: int | None = at

    def __call__(self, request: Request) -> tuple[int, dict[str, Any]]:
        section = request.said.split("\n")[0]
        self.calls[section] += 1
        if self.broken is not None and section == f"# Section {self.broken}":
            return 400, {"error": {"message": "no", "code": None}}
        return self.script(request)


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM() as server:
        yield server


@pytest.fixture
async def upstream(llm: FakeLLM) -> AsyncIterator[Upstream]:
    async with Upstream(Settings(llm_base_url=llm.url, llm_model="m")) as upstream:
        yield upstream


async def make(database: Database, **options: Any) -> UUID:
    items = [NewItem("item-0", orjson.dumps({"text": TEXT}).decode())]
    return await make_batch(database, items, processor="qa_generation", config=CONFIG, **options)


async def item(database: Database, batch_id: UUID) -> tuple[Result, list[Attempt]]:
    batch = await get(database, batch_id)
    async with database.connection() as connection:
        result, _, attempts = await results.one(connection, batch, "item-0")
        [result] = await results.with_checkpoints(connection, batch, [result])
    return result, attempts


async def test_a_retry_asks_only_what_was_not_answered_and_shows_the_attempt_before(
    database: Database, llm: FakeLLM, upstream: Upstream
) -> None:
    llm.script = breakable = Breakable(5)
    batch_id = await make(database)
    async with working(database, QaGeneration(), upstream=upstream) as worker:
        await ended(database, batch_id)
        failed, _ = await item(database, batch_id)
        assert failed.status is ItemStatus.FAILED
        assert orjson.loads(failed.error or "")["type"] == "upstream_rejected"
        assert failed.checkpoint is not None
        assert (failed.checkpoint.stage, failed.checkpoint.done, failed.checkpoint.total) == (
            "ASKING",
            5,
            CHUNKS,
        )

        breakable.broken = None
        await turn(database, retries.retry, batch_id)
        worker.wake()
        await ended(database, batch_id)

    assert (await get(database, batch_id)).run == 2
    result, [before] = await item(database, batch_id)
    assert result.status is ItemStatus.SUCCESS
    assert (before.run, orjson.loads(before.error)["type"]) == (1, "upstream_rejected")
    assert breakable.calls == {f"# Section {n}": 1 + (n == 5) for n in range(CHUNKS)}
    output = orjson.loads(result.output or "")
    assert output["pairs_given"] == breakable.script.told["pairs"] == 2 * CHUNKS
    assert output["dropped"]["passage_not_found"] == breakable.script.told["invented"] > 0
    assert len(output["pairs"]) == 2 * CHUNKS - breakable.script.told["invented"]
    assert result.checkpoint is not None
    assert (result.checkpoint.done, result.checkpoint.total) == (CHUNKS, CHUNKS)
    assert await sql(database, "SELECT data FROM item_checkpoint") == [None]
    assert await violations(database) == []


async def test_progress_is_seen_while_it_runs_and_an_interrupted_item_goes_on(
    database: Database, llm: FakeLLM, upstream: Upstream
) -> None:
    """The first worker is stopped while the fifth call is in flight; the second finishes."""
    script, fifth = Breakable(-1), asyncio.Event()
    held = "# Section 4"
    hold = asyncio.Event()

    async def seen() -> bool:
        result, _ = await item(database, batch_id)
        return result.checkpoint is not None and result.checkpoint.done == 4

    llm.script = script
    llm.gate = lambda request: hold if request.said.startswith(held) and not fifth.is_set() else None
    batch_id = await make(database)
    async with working(database, QaGeneration(), upstream=upstream, drain_seconds=0.1):
        await eventually(seen)
    fifth.set()
    hold.set()
    async with working(database, QaGeneration(), upstream=upstream):
        await ended(database, batch_id)
    result, _ = await item(database, batch_id)
    assert result.status is ItemStatus.SUCCESS
    assert all(script.calls[f"# Section {n}"] == 1 for n in range(CHUNKS) if n != 4)
    assert await violations(database) == []
