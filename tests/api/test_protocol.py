"""Slow and hostile clients, on real sockets: nobody holds a connection for long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gristmill.api import body, front, protocol
from gristmill.cli.server import Server, bind
from service import Caller, Service

SHORT = 0.5


class Line:
    """A connection that says what it is told to, and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def drip(self, text: bytes, seconds: float) -> None:
        """Byte by byte until the other side closes."""
        try:
            for byte in text:
                await self.say(bytes([byte]))
                await asyncio.sleep(seconds)
        except ConnectionError:
            return

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        text = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, text

    async def closed(self) -> bytes:
        """What still came before the end."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@pytest.fixture
async def http_server(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", SHORT)
    monkeypatch.setattr(protocol, "STALL_SECONDS", SHORT)
    monkeypatch.setattr(front, "LINGER_SECONDS", SHORT)
    monkeypatch.setattr(body, "IDLE_SECONDS", SHORT)
    monkeypatch.setattr(body, "GRACE_SECONDS", 3 * SHORT)
    async with serving(service.app) as server:
        yield server


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Server]:
    server = Server(app, drain_seconds=1)
    task = asyncio.create_task(server.serve([bind("127.0.0.1", 0)]))
    while not server.started:
        await asyncio.sleep(0)
    yield server
    server.should_exit = True
    await task


def address_of(server: Server) -> tuple[str, int]:
    found: tuple[str, int] = server.servers[0].sockets[0].getsockname()
    return found


@pytest.fixture
def address(http_server: Server) -> tuple[str, int]:
    return address_of(http_server)


@pytest.fixture
async def line(address: tuple[str, int], caller: Caller) -> AsyncIterator[Line]:
    """After the caller is made: meanwhile an idle connection would have been closed."""
    async with connected(address) as one:
        yield one


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Line]:
    """Not before there is something to say: an idle connection is soon closed."""
    one = Line(*await asyncio.open_connection(*address))
    async with asyncio.timeout(20):
        yield one
    one.writer.close()


def post(caller: Caller, *headers: str) -> bytes:
    lines = [
        "POST /api/v1/batches HTTP/1.1",
        "Host: x",
        f"x-api-key: {caller.key}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def batch(n: int) -> bytes:
    requests = [{"custom_id": str(i), "input": {"text": "x" * 250}} for i in range(n)]
    return orjson.dumps({"processor": "noop", "requests": requests})


async def test_a_connection_that_says_nothing_is_closed(line: Line) -> None:
    assert await line.closed() == b""


async def test_a_head_that_stops_or_drips_is_closed(line: Line) -> None:
    began = time.monotonic()
    dripping = asyncio.create_task(line.drip(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 200, 0.05))
    assert await line.closed() == b""
    assert time.monotonic() - began < 10 * SHORT
    await dripping


async def test_blank_lines_between_requests_keep_nothing_open(line: Line) -> None:
    await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await line.answer())[0] == 200
    dripping = asyncio.create_task(line.drip(b"\r\n" * 200, 0.05))
    assert await line.closed() == b""
    await dripping


async def test_a_head_without_end_is_closed_before_it_fills_the_memory(line: Line) -> None:
    sent = 0
    try:
        await line.say(b"GET /healthz HTTP/1.1\r\nX-Long: ")
        for _ in range(1000):
            await line.say(b"x" * 16384)
            sent += 16384
    except ConnectionError:
        pass
    assert sent < 8 * 1024 * 1024
    assert await line.closed() == b""


async def test_a_body_that_stops_is_408(line: Line, caller: Caller) -> None:
    await line.say(post(caller, "Content-Length: 500") + b'{"processor"')
    status, headers, text = await line.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert orjson.loads(text)["error"]["code"] == "request_timeout"
    assert await line.closed() == b""


async def test_a_body_that_drips_is_408(line: Line, caller: Caller) -> None:
    await line.say(post(caller, "Content-Length: 500"))
    dripping = asyncio.create_task(line.drip(batch(2)[:400], 0.05))
    status, _, _ = await line.answer()
    assert status == 408
    await line.closed()
    await dripping


async def test_a_body_is_413_before_it_is_read(line: Line, caller: Caller) -> None:
    await line.say(post(caller, f"Content-Length: {10**12}"))
    status, headers, text = await line.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert orjson.loads(text)["error"]["code"] == "too_large"


async def test_a_chunked_body_is_counted(line: Line, caller: Caller, service: Service) -> None:
    await line.say(post(caller, "Transfer-Encoding: chunked"))
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    limit = service.app.state.parts.settings.body_max_bytes
    try:
        for _ in range(limit // 65536 + 2):
            await line.say(piece)
    except ConnectionError:
        return  # closed while we were still sending
    assert (await line.answer())[0] == 413


async def test_a_chunked_body_is_read(line: Line, caller: Caller) -> None:
    text = batch(2)
    await line.say(
        post(caller, "Transfer-Encoding: chunked") + f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n"
    )
    assert (await line.answer())[0] == 202


async def test_a_body_of_a_thousand_requests_arrives_in_pieces_of_any_size(
    line: Line, caller: Caller
) -> None:
    text = batch(1000)
    for _ in range(2):  # the second on the same connection
        await line.say(post(caller, f"Content-Length: {len(text)}") + text)
        assert (await line.answer())[0] == 202


async def test_a_refusal_before_a_small_body_was_read_keeps_the_connection(
    line: Line, caller: Caller
) -> None:
    head = f"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: {len(batch(300))}\r\n\r\n".encode()
    await line.say(head + batch(300))
    status, headers, _ = await line.answer()
    assert (status, headers.get("connection")) == (401, None)
    await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await line.answer())[0] == 200


async def test_expect_continue_is_refused_without_the_body(line: Line, caller: Caller) -> None:
    await line.say(post(caller, "Content-Length: 100000000", "Expect: 100-continue"))
    assert (await line.answer())[0] == 413


async def test_a_hundred_idle_connections_leave_others_fast(address: tuple[str, int]) -> None:
    idle = [Line(*await asyncio.open_connection(*address)) for _ in range(100)]
    slowest = 0.0
    async with connected(address) as line:
        for _ in range(20):
            began = time.monotonic()
            await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await line.answer())[0] == 200
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2.0  # a few milliseconds, if the machine has nothing else to do
    for one in idle:
        assert await one.closed() == b""
        one.writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
async def test_what_is_no_http_is_refused(line: Line, head: bytes) -> None:
    await line.say(head)
    said = await line.closed()
    assert said == b"" or said.startswith(b"HTTP/1.1 4")


async def test_a_stream_that_nobody_reads_holds_no_database_connection(
    address: tuple[str, int], caller: Caller, service: Service
) -> None:
    made = await caller.batch([{"custom_id": f"{n}" + "x" * 240, "input": {"text": ""}} for n in range(1000)])
    lines = [f"GET /api/v1/batches/{made['id']}/results HTTP/1.1", "Host: x", f"x-api-key: {caller.key}"]
    pool = service.database.pool
    async with connected(address) as line:
        await line.say("\r\n".join([*lines, "Accept: application/x-ndjson", "", ""]).encode())
        await line.reader.readuntil(b"\r\n\r\n")
        while pool.get_idle_size() != pool.get_size():
            await asyncio.sleep(0.01)


async def test_who_sends_all_before_reading_gets_the_refusal(line: Line, caller: Caller) -> None:
    text = batch(20_000)
    await line.say(post(replace(caller, key="wrong"), f"Content-Length: {len(text)}") + text)
    status, headers, _ = await line.answer()
    assert (status, headers["connection"]) == (401, "close")
    assert await line.closed() == b""


async def test_who_never_stops_sending_after_a_refusal_is_cut_off(line: Line, caller: Caller) -> None:
    await line.say(post(replace(caller, key="wrong"), "Transfer-Encoding: chunked"))
    assert (await line.answer())[0] == 401
    async with asyncio.timeout(40 * SHORT):
        with suppress(ConnectionError):
            while True:
                await line.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


@pytest.fixture
async def download(address: tuple[str, int], caller: Caller) -> AsyncIterator[Line]:
    """The answer to a request for a file that no socket's buffers hold: its head has been read."""
    file_id = await caller.upload(b"x" * SIZE)
    one = Line(*await asyncio.open_connection(*address))
    lines = [f"GET /api/v1/files/{file_id}/content HTTP/1.1", "Host: x", f"x-api-key: {caller.key}", "", ""]
    async with asyncio.timeout(60):
        await one.say("\r\n".join(lines).encode())
        await one.reader.readuntil(b"\r\n\r\n")
        yield one
    one.writer.close()


SIZE = 32 * 1024 * 1024


async def test_head_of_a_file_tells_its_size_and_sends_none_of_it(
    address: tuple[str, int], caller: Caller
) -> None:
    file_id = await caller.upload(b"x" * 1_000_000)
    lines = [f"HEAD /api/v1/files/{file_id}/content HTTP/1.1", "Host: x", f"x-api-key: {caller.key}", "", ""]
    async with connected(address) as line:
        await line.say("\r\n".join(lines).encode())
        head = (await line.reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200")
        assert "content-length: 1000000" in head
        await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await line.answer())[0] == 200


async def test_head_of_a_stream_ends_it(address: tuple[str, int], caller: Caller) -> None:
    made = await caller.batch(1000)
    lines = [f"HEAD /api/v1/batches/{made['id']}/results HTTP/1.1", "Host: x", f"x-api-key: {caller.key}"]
    async with connected(address) as line:
        await line.say("\r\n".join([*lines, "Accept: application/x-ndjson", "", ""]).encode())
        head = await line.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await line.answer())[0] == 200


async def test_an_answer_that_nobody_reads_is_given_up(download: Line, http_server: Server) -> None:
    while http_server.server_state.connections:
        await asyncio.sleep(0.01)
    assert len(await download.closed()) < SIZE


async def test_an_answer_that_is_read_slowly_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 2.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * SIZE})

    async with serving(app) as server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*address_of(server))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while piece := await reader.read(SIZE // 10):
            size += len(piece)
            if size < SIZE:
                await asyncio.sleep(0.3 * len(piece) / (SIZE // 10))
        assert size > SIZE  # with the head
        writer.close()
