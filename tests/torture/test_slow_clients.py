"""Connections that say nothing, or a byte at a time, keep nobody from being served, and are closed in time."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from torture.fleet import KEY, Fleet
from torture.load import BATCHES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HEAD = b"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nX-Drip: "
BODY = (
    b"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"X-API-Key: " + KEY.encode() + b"\r\nContent-Length: 100000\r\n\r\n{"
)
CLOSED_SECONDS = {"idle": 10, "head": 10, "body": 30}


async def hold(port: int, kind: str) -> float:
    """Seconds until the other side closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    ended = asyncio.create_task(_end(reader))
    if kind != "idle":
        writer.write(HEAD if kind == "head" else BODY)
    while not (await asyncio.wait((ended,), timeout=1))[0]:
        if kind != "idle":
            with suppress(ConnectionError):
                writer.write(b"x")
    writer.close()
    return ended.result() - began


async def _end(reader: asyncio.StreamReader) -> float:
    with suppress(ConnectionError):
        await reader.read()
    return time.monotonic()


async def healthy(fleet: Fleet, over: Callable[[], bool]) -> list[float]:
    """What answers take meanwhile, ascending."""
    took = []
    while not over():
        began = time.monotonic()
        answer = await fleet.client.get(f"{BATCHES}?limit=5")
        took.append(time.monotonic() - began)
        assert answer.status_code == 200
        await asyncio.sleep(0.02)
    return sorted(took)


async def test_idle_and_dripping_connections_starve_nobody_and_are_closed(
    own_database_url: str, folder: Path, at_length: bool
) -> None:
    kinds = ("idle", "head", "body") if at_length else ("idle", "head")
    count = 900 if at_length else 60
    async with Fleet(own_database_url, folder, workers=0) as fleet:
        port = urlsplit(fleet.apis[0].url).port
        assert port
        held = [
            (kinds[n % len(kinds)], asyncio.create_task(hold(port, kinds[n % len(kinds)])))
            for n in range(count)
        ]
        took = await healthy(fleet, lambda: all(task.done() for _, task in held))
    p99 = took[int(len(took) * 0.99)]
    closed = {kind: max(task.result() for one, task in held if one == kind) for kind in kinds}
    print(
        f"{count} connections, closed after {closed} s at most; {len(took)} answers, p99 {p99 * 1000:.0f} ms"
    )
    assert p99 < 0.5
    assert all(seconds <= CLOSED_SECONDS[kind] for kind, seconds in closed.items())
