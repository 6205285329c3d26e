"""What a listener hears while nothing happens, and who may listen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

import factories
from gristmill.api.rates import Rates
from gristmill.dialects.tagging import socket
from gristmill.dialects.tagging.socket import Frame
from gristmill.store.origins import Origin
from service import Caller, Service


async def quiet() -> AsyncIterator[Frame | None]:
    for frame in (None, {"row_id": 1}, None, None, {"type": "completed"}):
        yield frame


async def test_10_a_look_that_brings_nothing_is_told_once_it_has_been_quiet_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [one async for one in socket._kept_alive(quiet())] == [{"row_id": 1}, {"type": "completed"}]
    monkeypatch.setattr(socket, "KEEP_ALIVE_SECONDS", 0.0)
    kept = {"type": "keepalive"}
    assert [one async for one in socket._kept_alive(quiet())] == [
        kept, {"row_id": 1}, kept, kept, {"type": "completed"},
    ]  # fmt: skip


async def listened(service: Service, caller: Caller, job_id: str) -> list[dict[str, Any]]:
    """All that the server says on a WebSocket until it closes; the client says nothing."""
    said: list[dict[str, Any]] = []
    opening = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if not opening:
            await asyncio.Event().wait()
        return opening.pop()

    async def send(message: Any) -> None:
        said.append(message)

    path = f"/api/batch/ws/{job_id}"
    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "ws", "query_string": b"",
        "headers": [(b"x-api-key", caller.key.encode())], "subprotocols": [], "client": None, "server": None,
    }  # fmt: skip
    async with asyncio.timeout(30):
        await service.app(scope, receive, send)
    return said


async def job(service: Service, caller: Caller, job_id: str) -> str:
    origin = Origin("tagging", job_id, "{}")
    await factories.make_batch(service.database, 1, tenant_id=caller.tenant_id, origin=origin)
    return job_id


async def test_listening_counts_among_the_requests_of_a_tenant(service: Service, caller: Caller) -> None:
    service.app.state.parts = replace(service.app.state.parts, rates=Rates(1))
    for refusal in ("Job does not exist", "more than 1 requests a minute"):
        said = await listened(service, caller, "unknown")
        assert (said[-1]["code"], said[-1]["reason"]) == (1008, refusal)


async def test_nobody_listens_for_ever(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "LONGEST_SECONDS", -1.0)
    said = await listened(service, caller, await job(service, caller, "a-long-one"))
    assert said[-1] == {"type": "websocket.close", "code": 1012, "reason": "come again"}
