"""A webhook receiver on a real socket that records what it gets and misbehaves on request.

    async with Receiver() as receiver:
        receiver.behave(status(500), hang(), status(204))  # one each for the next requests; the last stays
        ...
        await receiver.until(3)

It speaks HTTP/1.1 by hand, because a proper server would not let it send what is wrong.
"""

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

CHUNK = bytes(64 * 1024)


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    at: float = field(default_factory=time.time)


Behaviour = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """`url` ends with /hook. `accepted` counts connections, also those that never sent a request."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.received: list[Received] = []
        self.accepted = 0
        self._tls = tls
        self._host = host
        self._behaviours: dict[str | None, list[Behaviour]] = {None: [status(200)]}
        self._news = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://{self._host}:{self.port}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def behave(self, *behaviours: Behaviour, path: str | None = None) -> None:
        """What to do with the next requests (to that path), one each; the last stays."""
        self._behaviours[path] = list(behaviours)

    async def until(
        self, count: int, *, path: str | None = None, timeout_seconds: float = 20
    ) -> list[Received]:
        """Waits for `count` requests (to that path) and answers all of them."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: len(self.of(path)) >= count)
        return self.of(path)

    def of(self, path: str | None) -> list[Received]:
        return [one for one in self.received if path in (None, one.path)]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while request := await _read(reader):
                await self._note(request)
                await self._next(request.path)(request, writer)
                await writer.drain()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has had enough, or the test is over
        finally:
            self._connections.discard(task)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()

    async def _note(self, request: Received) -> None:
        async with self._news:
            self.received.append(request)
            self._news.notify_all()

    def _next(self, path: str) -> Behaviour:
        behaviours = self._behaviours.get(path) or self._behaviours[None]
        return behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]


async def _read(reader: asyncio.StreamReader) -> Received | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body)


def _head(code: int, **headers: object) -> bytes:
    lines = [
        f"HTTP/1.1 {code} Because",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def status(code: int, body: bytes = b"", **headers: object) -> Behaviour:
    """A proper answer. Header names are written with underscores."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(code, Content_Length=len(body), **headers) + body)

    return behaviour


def hang() -> Behaviour:
    """Takes the request and says nothing."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return behaviour


def hold(until: asyncio.Event, then: Behaviour | None = None) -> Behaviour:
    """Waits for the test, then answers."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        await until.wait()
        await (then or status(200))(request, writer)

    return behaviour


def reset() -> Behaviour:
    """Takes the request, then resets the connection."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        raise ConnectionResetError

    return behaviour


def raw(data: bytes, later: bytes = b"") -> Behaviour:
    """These bytes, then the end of the connection; or those of `later`, and no end."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if not later:
            raise ConnectionResetError
        await asyncio.sleep(0.05)  # so that they do not come in one piece
        writer.write(later)
        await writer.drain()
        await asyncio.Event().wait()

    return behaviour


def endless(code: int = 200, sent: list[int] | None = None) -> Behaviour:
    """A body of 1 GB as fast as it is taken. `sent` gets the bytes that were written."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(code, Content_Length=1 << 30))
        for _ in range((1 << 30) // len(CHUNK)):
            writer.write(CHUNK)
            if sent is not None:
                sent.append(len(CHUNK))
            await writer.drain()

    return behaviour


def drip(code: int = 200, every_seconds: float = 0.02, *, headers_too: bool = False) -> Behaviour:
    """One byte at a time, for ever: of the headers, or of the body after proper headers."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Drip: " if headers_too else _head(code, Content_Length=1 << 30))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(every_seconds)

    return behaviour


def huge_header() -> Behaviour:
    """A header of 100 MB."""

    async def behaviour(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Huge: ")
        for _ in range(1600):
            writer.write(b"x" * len(CHUNK))
            await writer.drain()

    return behaviour


def bomb(code: int = 200, megabytes: int = 200) -> Behaviour:
    """A small gzip body that becomes a large one."""
    body = gzip.compress(bytes(megabytes << 20), 9)
    return status(code, body, Content_Encoding="gzip")
