"""The API for tests: callers with their keys, and shorthands for what most tests need first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx2
from fastapi import FastAPI

from fakes import issuer
from gristmill.db import Database
from gristmill.store import keys
from gristmill.vault import Vault

VAULT = Vault(b"a secret key for tests, 32 bytes")


@dataclass(frozen=True)
class Service:
    app: FastAPI
    database: Database
    client: httpx2.AsyncClient
    woken: asyncio.Event


@dataclass(frozen=True)
class Caller:
    """Sends requests with its key; `bearer`: as a bearer's, as tokens have to come."""

    service: Service
    tenant_id: UUID
    key: str
    bearer: bool = False

    async def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        own = {"Authorization": f"Bearer {self.key}"} if self.bearer else {"x-api-key": self.key}
        headers = {**own, **more.pop("headers", {})}
        return await self.service.client.request(method, path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self.send("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        if body is not None:
            more["json"] = body
        return await self.send("POST", path, **more)

    async def data(self, path: str, **more: Any) -> Any:
        """The data of an answer that must be 200."""
        answer = await self.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def agent(self, *, publish: bool = True, **fields: Any) -> str:
        """The id of a new agent."""
        made = await self.post("/api/v1/agents", {"name": "Test", **fields})
        assert made.status_code == 201, made.text
        agent_id: str = made.json()["data"]["id"]
        if publish:
            published = await self.post(f"/api/v1/agents/{agent_id}/publish")
            assert published.status_code == 200, published.text
        return agent_id

    async def configuration(self, processor: str = "scripted", **config: Any) -> str:
        """The id of a new configuration."""
        given = {"name": "Test", "processor": processor, "config": config}
        made = await self.post("/api/v1/configurations", given)
        assert made.status_code == 201, made.text
        configuration_id: str = made.json()["data"]["id"]
        return configuration_id

    async def batch(self, requests: Sequence[Any] | int = 2, **fields: Any) -> dict[str, Any]:
        """A new batch of the processor `noop`; `requests` a number: that many."""
        if isinstance(requests, int):
            requests = [{"custom_id": f"req-{n}", "input": {"text": str(n)}} for n in range(requests)]
        made = await self.post("/api/v1/batches", {"processor": "noop", "requests": requests, **fields})
        assert made.status_code == 202, made.text
        data: dict[str, Any] = made.json()["data"]
        return data

    async def upload(self, content: bytes, filename: str = "notes.txt") -> str:
        """The id of a new file."""
        made = await self.post("/api/v1/files", files={"file": (filename, content)})
        assert made.status_code == 201, made.text
        file_id: str = made.json()["data"]["id"]
        return file_id

    async def directory(self, *file_ids: str, name: str = "Test") -> str:
        """The id of a new directory with these files."""
        made = await self.post("/api/v1/directories", {"name": name})
        assert made.status_code == 201, made.text
        directory_id: str = made.json()["data"]["id"]
        if file_ids:
            added = await self.post(f"/api/v1/directories/{directory_id}/files", {"file_ids": list(file_ids)})
            assert added.status_code == 200, added.text
        return directory_id


async def new_tenant(service: Service, scopes: Sequence[str] = ("admin",)) -> Caller:
    async with service.database.engine.begin() as connection:
        tenant_id = await keys.ensure_tenant(connection, f"tenant {uuid4()}")
    return await new_key(service, tenant_id, scopes)


async def new_key(service: Service, tenant_id: UUID, scopes: Sequence[str]) -> Caller:
    async with service.database.engine.begin() as connection:
        _, plain = await keys.create(connection, VAULT, tenant_id, name="test", scopes=scopes)
    return Caller(service, tenant_id, plain)


async def new_token(service: Service, tenant_id: UUID, scopes: Sequence[str]) -> Caller:
    """Somebody with a token for that tenant."""
    async with service.database.engine.connect() as connection:
        name = (await keys.tenants(connection))[tenant_id]
    token = issuer.token("HS256", tenant=name, scope=" ".join(scopes))
    return Caller(service, tenant_id, token, bearer=True)


def problems(answer: httpx2.Response, status: int = 400) -> dict[str, str]:
    """Pointer → code of a refusal, whose envelope is checked on the way."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["data"] is None
    assert body["error_code"] == status
    assert body["message"]
    error = body["error"]
    assert error["status"] == status
    assert error["request_id"] == answer.headers["x-request-id"]
    return {one["pointer"]: one["code"] for one in error["errors"]}


def code_of(answer: httpx2.Response, status: int) -> str:
    """The code of a refusal as a whole."""
    problems(answer, status)
    code: str = answer.json()["error"]["code"]
    return code
