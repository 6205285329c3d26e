from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from databases import Server
from fakes.script import Script
from served import Served, serving
from stranger import Stranger, arrive, until

PROJECT = "1ed40ceefc8d40f8b884edb6a84e7768".replace("1", "p", 1)
APPLICATION = "app-1"


@pytest.fixture(scope="session")
async def mill(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(server, tmp_path_factory.mktemp("koosearch")) as mill:
        mill.llm.script = Script(seed=3, pairs=2)
        yield mill


@dataclass(frozen=True)
class Koo:
    """A client of KooSearch, at one knowledge base: its paths, its header, and nothing else of ours."""

    stranger: Stranger
    repo: str
    project: str = PROJECT
    application: str = APPLICATION

    @property
    def path(self) -> str:
        return f"/v1/{self.project}/applications/{self.application}/uni-search/{self.repo}"

    async def send(self, method: str, path: str, **more: Any) -> Any:
        headers = {"X-Auth-Token": self.stranger.key}
        return await self.stranger.service.client.request(method, self.path + path, headers=headers, **more)

    async def tasks(self, query: str = "") -> dict[str, Any]:
        answer = await self.send("GET", f"/tasks{query}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def create(self, task_type: str, file_ids: Sequence[str], **more: Any) -> tuple[int, int]:
        """How many were asked for, and how many were made."""
        answer = await self.send("POST", "/tasks", json={"task_type": task_type, "file_ids": file_ids} | more)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert sorted(body) == ["created_count", "total_count"]
        return body["total_count"], body["created_count"]

    async def settled(self, total: int, query: str = "") -> dict[str, Any]:
        """The list as soon as so many tasks have ended."""

        async def look() -> dict[str, Any] | None:
            found = await self.tasks(query)
            return found if found["success_count"] + found["fail_count"] == total else None

        return await until(look)


@pytest.fixture
async def stranger(mill: Served) -> Stranger:
    return await arrive(mill)


@pytest.fixture
async def koo(stranger: Stranger) -> Koo:
    return Koo(stranger, f"kb_{uuid4().hex[:12]}")
