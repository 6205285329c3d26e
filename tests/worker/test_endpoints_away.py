"""A URL of a configuration that is away, or asks to be left alone: as for the model's endpoint (test_outages.py)."""

from collections.abc import AsyncIterator
from itertools import pairwise
from uuid import UUID

import orjson
import pytest

from factories import get, make_batch, sql, violations
from fakes.receiver import Received, Receiver, reset, status
from gristmill.db import Database
from gristmill.processors import get as processor
from gristmill.store.new_batches import NewItem
from mill import ended, eventually, working

SETTINGS = {"breaker_probe_seconds": 0.4, "concurrency": 16}


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def make(database: Database, endpoint: Receiver, count: int, name: str = "http") -> UUID:
    url = {"url": endpoint.url, "timeout_seconds": 20.0}
    config, given = (url, {}) if name == "http" else ({"sink": url}, {"text": "Something to say. " * 5})
    items = [NewItem(f"item-{n}", orjson.dumps(given).decode()) for n in range(count)]
    text = orjson.dumps(config).decode()
    return await make_batch(database, items, processor=name, config=text, circuit="url:1", max_attempts=1)


async def open_until(database: Database) -> list[object]:
    return await sql(database, "SELECT until FROM circuit")


@pytest.mark.parametrize("name", ["http", "pipeline"])
@pytest.mark.parametrize("behaviour", [status(500), status(503), reset()], ids=["500", "503", "reset"])
async def test_an_endpoint_that_is_away_is_left_alone_and_fails_nobody(
    database: Database, endpoint: Receiver, name: str, behaviour: object
) -> None:
    endpoint.behave(behaviour)  # type: ignore[arg-type]
    batch_id = await make(database, endpoint, 120, name)
    async with working(database, processor(name), **SETTINGS):
        seen: set[object] = set()

        async def probed() -> bool:
            seen.update(await open_until(database))
            return len(seen) > 3

        await eventually(probed, 60)
        assert ((await get(database, batch_id)).waiting_reason or "").startswith("upstream down until 20")
        assert endpoint.accepted <= 16 + 16 + 8
        endpoint.behave(status(200))
        await ended(database, batch_id)
    batch = await get(database, batch_id)
    assert (batch.success, batch.failed) == (120, 0)
    assert await violations(database) == []


async def test_an_endpoint_that_asks_for_it_is_left_alone_for_so_long(
    database: Database, endpoint: Receiver
) -> None:
    endpoint.behave(status(429, Retry_After=2), status(200))
    batch_id = await make(database, endpoint, 60)
    async with working(database, processor("http"), **SETTINGS):
        await ended(database, batch_id)
    calls: list[Received] = endpoint.received
    assert max(later.at - earlier.at for earlier, later in pairwise(calls)) >= 1.9
    assert (await get(database, batch_id)).failed == 0
