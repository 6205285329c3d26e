import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import pytest

from databases import Server
from fakes import issuer
from fakes.librarian import Librarian
from fakes.wire import Request
from served import Served, serving
from stranger import Stranger, arrive, until

KEY = "sk-of-the-job-alone-0123456789"
TERMINAL = ("completed", "failed", "cancelled")
STATUSES = ("pending", "processing", "completed", "failed", "cancelled", "paused")
LONG = "The harbour of the town was rebuilt after the great flood, with warehouses, cranes and a lighthouse. "
JWT = {
    "jwt_issuer": issuer.ISSUER,
    "jwt_audience": issuer.AUDIENCE,
    "jwt_algorithm": "HS256",
    "jwt_key": issuer.public_pem("HS256"),
}


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(server, tmp_path_factory.mktemp("tagging"), **JWT) as mill:
        mill.llm.api_key = None  # any: which one came is looked up
        yield mill


class Held:
    """Calls of the model whose document has this word wait until the test lets them go."""

    def __init__(self) -> None:
        self.waits: dict[str, asyncio.Event] = {}

    def word(self, word: str) -> asyncio.Event:
        return self.waits.setdefault(word, asyncio.Event())

    def __call__(self, request: Request) -> asyncio.Event | None:
        text = json.dumps(request.body)
        return next((event for word, event in self.waits.items() if word in text), None)


@pytest.fixture
async def held(mill: Served) -> AsyncIterator[Held]:
    """The model of this test's own: it tags, and waits where it is told to."""
    held = Held()
    mill.llm.script, mill.llm.gate = Librarian(seed=1), held
    mill.llm.requests.clear()
    yield held
    for event in held.waits.values():
        event.set()
    mill.llm.gate = lambda _: None


@dataclass(frozen=True)
class Client:
    """A script as the seed has them: JSON, a bearer's token, paths of the seed and nothing else of ours."""

    stranger: Stranger

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stranger.key}"}

    async def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return await self.stranger.service.client.request(method, path, headers=self.headers, **more)

    async def start(self, documents: list[Any], job_id: str | None = None, **config: Any) -> dict[str, Any]:
        answer = await self.send("POST", "/api/batch/start", json=body(documents, job_id, **config))
        assert answer.status_code == 200, answer.text
        started: dict[str, Any] = answer.json()
        return started

    async def status(self, job_id: str) -> dict[str, Any]:
        answer = await self.send("GET", f"/api/batch/jobs/{job_id}/status")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["status"] in STATUSES
        return found

    async def turn(self, job_id: str, action: str) -> httpx2.Response:
        return await self.send("POST", f"/api/batch/jobs/{job_id}/{action}")

    async def until(self, job_id: str, *statuses: str) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            found = await self.status(job_id)
            return found if found["status"] in statuses else None

        return await until(reached)

    async def ended(self, job_id: str) -> dict[str, Any]:
        return await self.until(job_id, *TERMINAL)

    async def documents(self, job_id: str) -> list[dict[str, Any]]:
        answer = await self.send("GET", f"/api/history/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["documents"]
        return found

    @asynccontextmanager
    async def listening(
        self, mill: Served, job_id: str, *, by_query: bool = False, key: str | None = None
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        token = self.stranger.key if key is None else key
        url = f"{mill.url}/api/batch/ws/{job_id}".replace("http://", "ws://", 1)
        headers = {} if by_query or not token else {"Authorization": f"Bearer {token}"}
        params = {"token": token} if by_query else {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                url, headers=headers, params=params, timeout=aiohttp.ClientWSTimeout(ws_close=10)
            ) as ws,
        ):
            yield ws


def body(documents: list[Any], job_id: str | None = None, **config: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"documents": documents, "config": {"api_key": KEY, **config}}
    return made | ({} if job_id is None else {"job_id": job_id})


async def frames(ws: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    """All that come until the server closes."""
    async with asyncio.timeout(60):
        return [json.loads(message.data) async for message in ws]


async def frame(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    found: dict[str, Any] = await ws.receive_json(timeout=60)
    return found


@pytest.fixture
async def client(mill: Served, held: Held) -> Client:
    return Client(await arrive(mill))


@pytest.fixture
async def other(mill: Served) -> Client:
    return Client(await arrive(mill))
