"""The service as its callers meet it: a real `gristmill serve`, spoken to over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from command import Command, Running
from fakes.llm import FakeLLM
from gristmill.db import Database
from service import Caller, new_tenant

BATCHES = "/api/v1/batches"
TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Mill:
    """`database` is for making keys and for moving the clock, never for looking what happened."""

    command: Command
    running: Running
    client: httpx2.AsyncClient
    database: Database
    llm: FakeLLM
    log: Path

    @property
    def url(self) -> str:
        return self.running.url


class Stranger(Caller):
    """A tenant of its own, with a key that may do everything."""

    async def ask(self, agent_id: str, *requests: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A new batch for an agent; a request that is text is its message."""
        named = [
            {"custom_id": f"req-{n}", **({"message": one} if isinstance(one, str) else one)}
            for n, one in enumerate(requests)
        ]
        return await self.make(agent_id=agent_id, requests=named, **fields)

    async def make(self, **body: Any) -> dict[str, Any]:
        made = await self.post(BATCHES, body)
        assert made.status_code == 202, made.text
        data: dict[str, Any] = made.json()["data"]
        return data

    async def scripted(self, *inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A new batch for the processor that does what its input says."""
        requests = [{"custom_id": f"req-{n}", "input": one} for n, one in enumerate(inputs)]
        return await self.make(processor="scripted", requests=requests, **fields)

    async def get_batch(self, batch_id: str) -> dict[str, Any]:
        data: dict[str, Any] = await self.data(f"{BATCHES}/{batch_id}")
        return data

    async def results(self, batch_id: str, query: str = "") -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = await self.data(f"{BATCHES}/{batch_id}/results{query}")
        return data

    async def act(self, batch_id: str, action: str) -> dict[str, Any]:
        """Pause, resume or cancel, which must be allowed."""
        answer = await self.post(f"{BATCHES}/{batch_id}/{action}")
        assert answer.status_code == 202, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def until(self, batch_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The batch as soon as the condition holds for it."""

        async def met() -> dict[str, Any] | None:
            batch = await self.get_batch(batch_id)
            return batch if condition(batch) else None

        return await until(met)

    async def ended(self, batch_id: str) -> dict[str, Any]:
        return await self.until(batch_id, lambda batch: batch["status"] in TERMINAL)


async def arrive(mill: Mill, scopes: Sequence[str] = ("admin",)) -> Stranger:
    caller = await new_tenant(mill, scopes)  # type: ignore[arg-type]  # only its database and its client are used
    return Stranger(caller.service, caller.tenant_id, caller.key)


async def until(
    look: Callable[[], Awaitable[dict[str, Any] | None]], seconds: float = 60.0
) -> dict[str, Any]:
    """What the look finds, once it finds something."""
    async with asyncio.timeout(seconds):
        while (found := await look()) is None:
            await asyncio.sleep(0.02)
    return found


def adds_up(batch: dict[str, Any]) -> bool:
    ended = batch["completed_requests"] + batch["failed_requests"]
    counted: int = batch["pending_requests"] + batch["processing_requests"] + ended
    return bool(batch["total_requests"] == counted)
