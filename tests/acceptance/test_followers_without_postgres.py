"""Postgres is stopped under those who follow a batch, and started again: both kinds are sent away, and find the rest."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from databases import Server
from dialects.tagging.conftest import Client, frame, frames
from fakes.librarian import Librarian
from fakes.sse import Event, events
from gristmill.db import Database
from gristmill.embedded.postgres import EmbeddedPostgres
from gristmill.store import schema
from served import Served, serving
from stranger import BATCHES, arrive, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TEXT = "The harbour of the town was rebuilt after the great flood, with warehouses and a lighthouse. "


@pytest.fixture
async def mill(durable_postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Served]:
    server = Server(durable_postgres.url, "template_of_the_service")
    database = Database(await server.create(server.template))
    await schema.migrate(database)
    await database.close()
    async with serving(server, tmp_path, log_format="json") as mill:
        mill.llm.script = Librarian(seed=1)
        mill.llm.api_key = None
        yield mill


def lines(mill: Served, message: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in mill.log.read_text().splitlines() if line.startswith("{")]
    return [one for one in found if one["message"] == message]


async def metric(mill: Served, name: str) -> dict[str, float]:
    """By its labels."""
    text = (await mill.client.get("/metrics")).text
    return {found[1]: float(found[2]) for found in re.finditer(rf"^{name}{{(.*)}} (.*)$", text, re.MULTILINE)}


def dies(postgres: EmbeddedPostgres) -> None:
    assert postgres._process is not None
    postgres._process.send_signal(signal.SIGQUIT)
    postgres._process.wait(30)


async def left_and_refused(mill: Served, client: Client, job_id: str, path: str) -> None:
    """Who leaves by itself and who is not let in is noted as such."""
    async with client.listening(mill, job_id) as ws:
        assert (await frame(ws))["type"] == "catchup"
    async with client.listening(mill, job_id, key="gm_none") as ws:
        await frames(ws)
    async with mill.client.stream("GET", path, headers={"x-api-key": client.stranger.key}) as stream:
        assert isinstance(await anext(aiter(events(stream))), Event)

    assert await gone(mill, 3) == LEFT


async def gone(mill: Served, count: int) -> list[tuple[str, str]]:
    """Of so many followers, as the log has them."""

    async def noted() -> dict[str, Any] | None:
        found = sorted((one["kind"], one["reason"]) for one in lines(mill, "follower gone"))
        return {"found": found} if len(found) >= count else None

    found: list[tuple[str, str]] = (await until(noted))["found"]
    return found


LEFT = [("sse", "left"), ("websocket", "left"), ("websocket", "refused")]


async def rest(stream: Any) -> list[Event]:
    return [one async for one in events(stream) if isinstance(one, Event)]


async def test_followers_are_sent_away_without_a_traceback_and_come_again_for_the_rest(
    mill: Served, durable_postgres: EmbeddedPostgres
) -> None:
    client = Client(await arrive(mill))
    held, go_on = asyncio.Event(), "second"
    mill.llm.gate = lambda request: held if go_on in request.said else None
    documents = [{"title": f"{n}", "description": TEXT + word} for n, word in enumerate(("first", go_on))]
    job_id = (await client.start(documents))["job_id"]
    [batch] = await client.stranger.data(BATCHES)
    path, headers = f"{BATCHES}/{batch['id']}/events", {"x-api-key": client.stranger.key}
    await left_and_refused(mill, client, job_id, path)
    told: list[Event] = []
    async with (
        asyncio.timeout(300),
        client.listening(mill, job_id) as ws,
        mill.client.stream("GET", path, headers=headers) as stream,
    ):
        feed = events(stream)
        async for one in feed:
            if isinstance(one, Event):
                told.append(one)
            if told and told[-1].name == "item":
                break
        assert (await frame(ws))["type"] == "catchup"
        await asyncio.to_thread(dies, durable_postgres)
        told += [one async for one in feed if isinstance(one, Event)]
        await frames(ws)
        assert (told[-1].name, ws.close_code) == ("drain", 1013)
    async with client.listening(mill, job_id) as ws:
        assert (await frames(ws), ws.close_code) == ([], 1013)
    assert (await mill.client.get(path, headers=headers)).status_code == 503

    await asyncio.to_thread(durable_postgres.revive)
    held.set()

    async def back() -> dict[str, Any] | None:
        answer = await mill.client.get(f"{BATCHES}/{batch['id']}", headers=headers)
        found: dict[str, Any] | None = answer.json()["data"]
        return found if found and found["status"] == "completed" else None

    await until(back)
    last = next(one.id for one in reversed(told) if one.id)
    resumed = {**headers, "Last-Event-ID": last}
    async with asyncio.timeout(60), mill.client.stream("GET", path, headers=resumed) as stream:
        again = await rest(stream)
    assert [one.id for one in told + again if one.name == "item"] == ["1-1", "1-2"]
    assert again[-1].data["status"] == "completed"
    async with client.listening(mill, job_id) as ws:
        assert [one["type"] for one in await frames(ws)] == ["catchup", "completed"]

    lost, seen = "database_unavailable", await gone(mill, 8)
    assert seen == sorted(
        [*LEFT, ("sse", lost), ("sse", "ended"), *[("websocket", lost)] * 2, ("websocket", "ended")]
    )
    assert {one["request_id"][:4] for one in lines(mill, "follower gone")} == {"req_"}
    assert "ASGI" not in mill.log.read_text()
    assert await metric(mill, "gristmill_followers_gone_total") == {
        f'kind="{kind}",reason="{reason}"': float(seen.count((kind, reason))) for kind, reason in seen
    }
    assert set((await metric(mill, "gristmill_followers")).values()) == {0.0}
