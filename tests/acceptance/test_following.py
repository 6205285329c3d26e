"""The feed of a batch while it runs, over a real socket: what is told, how it is resumed, and how it ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from fakes.sse import Event, events
from served import ADMIN_KEY
from stranger import BATCHES, TERMINAL, Mill, Stranger, adds_up

Stream = AsyncIterator[Event | str]


@asynccontextmanager
async def following(stranger: Stranger, batch_id: str, last: str | None = None) -> AsyncIterator[Stream]:
    headers = {"x-api-key": stranger.key} | ({"Last-Event-ID": last} if last else {})
    path = f"{BATCHES}/{batch_id}/events"
    async with asyncio.timeout(60), stranger.service.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        yield events(answer)


async def next_of(stream: Stream, name: str, **values: Any) -> Event:
    """The next event of that name, with these values in its data."""
    async for one in stream:
        if isinstance(one, Event) and one.name == name and values.items() <= one.data.items():
            return one
    raise AssertionError(f"the stream ended without {name} {values}")


async def test_a_batch_is_followed_from_its_start_over_a_pause_to_its_end(stranger: Stranger) -> None:
    slow = [{"sleep_seconds": 0.05}] * 40
    batch = await stranger.scripted(*slow, max_concurrency=1, start_paused=True)
    told: list[Event] = []
    async with following(stranger, batch["id"]) as stream:
        assert (await next_of(stream, "status")).data["status"] == "paused"
        await stranger.act(batch["id"], "resume")
        async for one in stream:
            assert isinstance(one, Event)
            told.append(one)
            if one.name == "status":
                break
        assert told[-1].data["status"] == "in_progress"
        await stranger.act(batch["id"], "pause")
        async for one in stream:
            assert isinstance(one, Event)
            told.append(one)
            if one.name == "status":
                break
        assert told[-1].data["status"] == "paused"
        await stranger.act(batch["id"], "resume")
        told += [one async for one in stream if isinstance(one, Event)]
    items = [one for one in told if one.name == "item"]
    assert [one.id for one in items] == [f"1-{n}" for n in range(1, 41)]
    assert len({one.data["custom_id"] for one in items}) == 40
    assert (told[-1].name, told[-1].data["status"], told[-1].id) == ("status", "completed", "1-40.end")
    progress = [one.data for one in told if one.name == "progress"]
    assert all(adds_up(one) for one in progress)
    assert [one["progress"] for one in progress] == sorted(one["progress"] for one in progress)
    assert progress[-1]["progress"] == 1.0


async def test_connections_that_break_at_random_miss_nothing_and_get_nothing_twice(
    stranger: Stranger,
) -> None:
    batch = await stranger.scripted(*[{"sleep_seconds": 0.01}] * 300, max_concurrency=8)
    seen: list[str] = []
    last, over = None, False
    while not over:
        async with following(stranger, batch["id"], last) as stream:
            here = 0
            async for one in stream:
                if isinstance(one, Event):
                    last = one.id or last
                    here += one.name == "item"
                    seen += [one.data["custom_id"]] if one.name == "item" else []
                    over = one.name == "status" and one.data["status"] in TERMINAL
                if here == 37 or over:
                    break
    assert sorted(seen) == sorted(f"req-{n}" for n in range(300))
    headers = {"x-api-key": stranger.key, "Last-Event-ID": last or ""}
    again = await stranger.service.client.get(f"{BATCHES}/{batch['id']}/events", headers=headers)
    assert again.status_code == 204


async def test_many_followers_of_one_batch_hear_the_same(stranger: Stranger) -> None:
    batch = await stranger.scripted(*[{"sleep_seconds": 0.01}] * 60, max_concurrency=4)

    async def hear() -> list[str]:
        async with following(stranger, batch["id"]) as stream:
            return [one.id or "" async for one in stream if isinstance(one, Event) and one.name == "item"]

    heard = await asyncio.gather(*(hear() for _ in range(40)))
    assert heard == [[f"1-{n}" for n in range(1, 61)]] * 40


async def test_a_batch_that_is_deleted_under_a_follower_ends_the_feed(stranger: Stranger) -> None:
    batch = await stranger.scripted({"do": "hang"})
    async with following(stranger, batch["id"]) as stream:
        await next_of(stream, "status")
        await stranger.act(batch["id"], "cancel")
        # Its one request hangs: the batch stays as it is until it is ended from outside.
        rest = asyncio.create_task(anext(aiter_of(stream, "deleted")))
        await stranger.service.database.pool.execute("DELETE FROM batch WHERE id = $1", batch["id"])
        assert (await rest).data == {}


async def aiter_of(stream: Stream, name: str) -> Stream:
    async for one in stream:
        if isinstance(one, Event) and one.name == name:
            yield one


@pytest.mark.slow
async def test_a_server_that_stops_sends_its_followers_away_with_a_way_back(
    mill: Mill, own_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("draining")
    command = type(mill.command)(
        mill.command.environment | {
            "GRISTMILL_DATABASE_URL": own_database_url, "GRISTMILL_DATA_DIR": str(folder),
            "GRISTMILL_DRAIN_SECONDS": "20",
        },
        log=folder / "log",
    )  # fmt: skip
    body = {
        "processor": "scripted",
        "max_concurrency": 1,
        "requests": [{"custom_id": str(n), "input": {"sleep_seconds": 0.2}} for n in range(300)],
    }
    key = {"x-api-key": ADMIN_KEY}
    with command.serve() as running:
        async with httpx2.AsyncClient(
            base_url=running.url, headers=key, timeout=30, trust_env=False
        ) as client:
            batch = (await client.post(BATCHES, json=body)).json()["data"]
            async with asyncio.timeout(60), client.stream("GET", f"{BATCHES}/{batch['id']}/events") as answer:
                stream = events(answer)
                first = await next_of(stream, "item")
                os.kill(running.process.pid, signal.SIGTERM)
                rest = [one async for one in stream]
        assert await asyncio.to_thread(running.process.wait, 60) == 0
    assert first.id == "1-1"
    assert rest[-1] == Event("drain", {}, None)
