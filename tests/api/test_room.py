"""Large bodies: others have their turn meanwhile, and all of them together have but so much room."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gristmill.api import aside
from gristmill.settings import Settings
from service import Caller, Service, code_of

JSON = {"content-type": "application/json"}
VALIDATE = "/api/v1/batches/validate"
MEBI = 1024 * 1024


def body_of(request: bytes, count: int) -> bytes:
    """Requests of an any-JSON processor, each with this input."""
    requests = b",".join(b'{"custom_id":"%d","input":%s}' % (number, request) for number in range(count))
    return b'{"processor":"anything","requests":[%s]}' % requests


LARGE = {
    "9 million integers": (b"[%s]" % b",".join([b"1"] * 450_000), 20),
    "one list of integers": (b"[%s]" % b",".join([b"1"] * 9_000_000), 1),
    "a million objects": (b"[%s]" % b",".join([b'{"a":1}'] * 100_000), 10),
    "60 MiB of text": (b'"%s"' % (b"x" * 60_000), 1000),
    "one text of 60 MiB": (b'"%s"' % (b"x" * 60 * MEBI), 1),
    "escapes": (b'"%s"' % (b"\\u0041" * 150_000), 40),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", LARGE)
async def test_nobody_waits_long_for_a_large_body(caller: Caller, kind: str) -> None:
    """Measured in the time of the processor: how busy the machine is with other things does not matter."""
    body = body_of(*LARGE[kind])
    sent = asyncio.create_task(caller.send("POST", VALIDATE, content=body, headers=JSON))
    longest = 0.0
    while not sent.done():
        began = time.process_time()
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - began)
    assert (await sent).status_code in (200, 400)
    print(f"\n{kind}: {len(body) / MEBI:.0f} MiB, the loop waited at most {1000 * longest:.0f} ms")
    assert longest < 0.3  # 9 million integers at once take 1.2 s


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"bodies_max_bytes": 64 * MEBI})


async def test_bodies_find_no_more_room_than_there_is(caller: Caller, service: Service) -> None:
    room = service.app.state.parts.room
    whole, go_on = body_of(b'"%s"' % (b"x" * 1000), 900), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield whole[:-1]
        await go_on.wait()
        yield whole[-1:]

    room._max_bytes = 2 * len(whole) - 1
    slow = asyncio.create_task(caller.send("POST", VALIDATE, content=slowly(), headers=JSON))
    while room.taken < len(whole) - 1:
        await asyncio.sleep(0)
    refused = await caller.send("POST", VALIDATE, content=whole + b" ", headers=JSON)
    assert (code_of(refused, 503), refused.headers["retry-after"]) == ("busy", "5")
    go_on.set()
    assert (await slow).status_code == 200
    assert room.taken == 0
    assert (await caller.send("POST", VALIDATE, content=whole, headers=JSON)).status_code == 200


async def test_a_body_that_is_larger_than_all_the_room_is_taken_while_it_is_alone(
    caller: Caller, service: Service
) -> None:
    service.app.state.parts.room._max_bytes = 1
    assert (await caller.send("POST", VALIDATE, content=body_of(b"1", 2), headers=JSON)).status_code == 200


async def test_room_is_given_back_by_whoever_is_refused(caller: Caller, service: Service) -> None:
    for content in (b"{", b"{}", b"x" * (aside.LARGE_BYTES + 1)):
        assert (
            await caller.send("POST", "/api/v1/batches", content=content, headers=JSON)
        ).status_code == 400
    assert service.app.state.parts.room.taken == 0
