"""Large bodies: others have their turn meanwhile, and all of them together have but so much room."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from gristmill.api import aside
from gristmill.settings import Settings
from service import Caller, Service, code_of

JSON = {"content-type": "application/json"}
VALIDATE = "/api/v1/batches/validate"
MEBI = 1024 * 1024
LONGEST_SECONDS = 0.05


def body_of(request: bytes, count: int, processor: bytes = b"anything", beside: bytes = b"") -> bytes:
    """Requests, each with this input; that processor takes any JSON."""
    requests = b",".join(b'{"custom_id":"%d","input":%s}' % (number, request) for number in range(count))
    return b'{"processor":"%s","requests":[%s]%s}' % (processor, requests, beside)


def list_of(value: bytes, count: int) -> bytes:
    return b"[%s]" % b",".join([value] * count)


FIELDS = b",".join(b'"%x":1' % number for number in range(100_000))
LARGE = {
    "9 million integers": body_of(list_of(b"1", 450_000), 20),
    "one list of integers": body_of(list_of(b"1", 9_000_000), 1),
    "a million objects": body_of(list_of(b'{"a":1}', 100_000), 10),
    "lists in lists": body_of(list_of(b"[[[[[[[[]]]]]]]]", 60_000), 5),
    "too large to be stored": body_of(list_of(b'{"a":1}', 340_000), 2),
    "fields that are not known": body_of(b'{"text":"a",%s}' % FIELDS, 3, b"noop"),
    "fields beside the requests": body_of(b"1", 1, beside=b"," + FIELDS),
    "in a small body": body_of(list_of(b"[[[[[[[[]]]]]]]]", 30_000), 1),
    "60 MiB of text": body_of(b'"%s"' % (b"x" * 60_000), 1000),
    "one text of 60 MiB": body_of(b'"%s"' % (b"x" * 60 * MEBI), 1),
    "escapes": body_of(b'"%s"' % (b"\\u0041" * 150_000), 40),
}


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    """As they come from a socket: for each one waits."""
    for at in range(0, len(body), 64 * 1024):
        await asyncio.sleep(0)
        yield body[at : at + 64 * 1024]


async def longest_wait(work: "asyncio.Task[httpx2.Response]") -> float:
    """For how long the loop did nothing else, in seconds of the processor: those of all threads, so that waiting for one that
    lets nobody else run counts."""
    longest = 0.0
    while not work.done():
        began = time.process_time()
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - began)
    return longest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", [VALIDATE, "/api/v1/batches"])
@pytest.mark.parametrize("kind", LARGE)
async def test_nobody_waits_long_for_a_large_body(caller: Caller, kind: str, path: str) -> None:
    """The best of a few: on a busy machine the other thread may go on for a while before the loop's gets a processor."""
    await caller.post(path, {"processor": "anything", "requests": [{"custom_id": "a", "input": 1}]})
    waits: list[float] = []
    while min(waits, default=1.0) > LONGEST_SECONDS and len(waits) < 5:
        sent = asyncio.create_task(caller.send("POST", path, content=pieces_of(LARGE[kind]), headers=JSON))
        waits.append(await longest_wait(sent))
        assert (await sent).status_code in (200, 202, 400)
    size = len(LARGE[kind]) / MEBI
    print(f"\n{kind}: {size:.0f} MiB, the loop waited at most {1000 * min(waits):.0f} ms")
    assert min(waits) < LONGEST_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nobody_waits_long_for_a_file_of_large_records(caller: Caller) -> None:
    line = b'{"custom_id":"%d","input":%s}'
    records = [line % (n, list_of(b"[[[[[[[[]]]]]]]]", 30_000)) for n in range(3)]
    records += [line % (n, b'{"a":%s}' % list_of(b'{"a":1}', 120)) for n in range(3, 1500)]
    source = {"format": "jsonl", "file_id": await caller.upload(b"\n".join(records), "a.jsonl")}
    waits: list[float] = []
    while min(waits, default=1.0) > LONGEST_SECONDS and len(waits) < 5:
        sent = asyncio.create_task(caller.post(VALIDATE, {"processor": "anything", "source": source}))
        waits.append(await longest_wait(sent))
        assert (await sent).json()["data"]["valid"]
    print(f"\na file: the loop waited at most {1000 * min(waits):.0f} ms")
    assert min(waits) < LONGEST_SECONDS


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
