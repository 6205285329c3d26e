"""What can go wrong with a call to a model's endpoint."""

import asyncio
import gzip
import json
import struct
import time
from contextlib import suppress
from email.utils import formatdate
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from fakes.answers import answer
from fakes.wire import Request, error, head, send

_CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "fake-model",
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def _chat(**message: Any) -> dict[str, Any]:
    told = {"role": "assistant", **message}
    return _CHAT | {"choices": [{"index": 0, "finish_reason": "stop", "message": told}]}


def _finished(reason: str) -> dict[str, Any]:
    return _CHAT | {"choices": [{"index": 0, "finish_reason": reason, "message": {"content": ""}}]}


# Whole answers with status 200 whose body is the fault.
BODIES: dict[str, object] = {
    "wrong_json": b'{"choices": [',
    "empty_body": b"",
    "json_array": [],
    "json_scalar": b"3",
    "invalid_utf8": b'{"choices": "\xff"}',
    "no_choices": _CHAT,
    "empty_choices": _CHAT | {"choices": []},
    "choice_without_message": _CHAT | {"choices": [{"index": 0}]},
    "content_null": _chat(content=None),
    "content_empty": _chat(content=" \n"),
    "content_parts": _chat(content=[{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]),
    "refusal": _chat(content=None, refusal="I will not."),
    "filtered": _finished("content_filter"),
    "cut": _finished("length"),
    "nul": _chat(content="a\x00b"),
    "nul_escaped": _chat(content="a\\u0000b"),
    "half_emoji": json.dumps(_chat(content="cut \ud83d")).encode(),
    "error_inside": error("The provider behind has failed"),
    "error_inside:429": error("slow down", code=429),
    "no_usage": {"model": "fake-model", "choices": _chat(content="twelve chars")["choices"]},
    "odd_usage": _chat(content="twelve chars")
    | {"usage": {"prompt_tokens": -1, "completion_tokens": "many"}},
    "bad_tool_calls": _chat(content=None, tool_calls=[{"function": {}}]),
    "deep": b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}",
}


class Misbehaviour:
    """One call that goes wrong. `do` answers whether the connection lives on."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer

    async def do(self, fault: str) -> bool:
        name, _, options = fault.partition(" ")
        if name in BODIES:
            return await send(self._writer, 200, BODIES[name])
        kind, _, argument = name.partition(":")
        if kind == "status":
            return await self.status(int(argument), dict([options.split("=", 1)]) if options else {})
        return bool(await getattr(self, kind)())

    async def status(self, status: int, options: dict[str, str]) -> bool:
        """`status:429 retry-after=2`; `date+5` stands for the HTTP date 5 seconds ahead."""
        if options.get("retry-after", "").startswith("date"):
            options["retry-after"] = formatdate(time.time() + float(options["retry-after"][4:]), usegmt=True)
        code = options.pop("code", None)
        message = f"This is a {status}, for the key {self._request.headers.get('authorization')}"
        return await send(self._writer, status, error(message, code=code), options)

    async def hang(self) -> None:
        """Until the client goes."""
        await self._reader.read()

    async def hang_in_body(self) -> None:
        await self._start(100, b'{"choices"')
        await self.hang()

    async def drip(self) -> None:
        """A byte now and then, for ever: only a deadline over the whole ends it."""
        await self._start(10**6, b"{")
        while not self._reader.at_eof():
            self._writer.write(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reader.read(1), 0.02)

    async def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def reset_in_body(self) -> None:
        await self._start(100, b'{"choices"')
        await self.reset()

    async def close(self) -> None:
        """Without a word."""

    async def short_body(self) -> None:
        await self._start(1000, b'{"choices": []}')

    async def cut_chunks(self) -> None:
        self._writer.write(head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        self._writer.write(b"10\r\n" + b'{"choices": [{}]' + b"\r\n40\r\nhalf")
        await self._writer.drain()

    async def bad_chunks(self) -> None:
        self._writer.write(head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        self._writer.write(b"zz\r\nnonsense\r\n")
        await self._writer.drain()

    async def bad_chunks_later(self) -> None:
        """The one that spoils it comes when the client has begun to read the body."""
        self._writer.write(head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        self._writer.write(b"1\r\n{\r\n")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reader.read(1), 0.05)
        self._writer.write(b"zz\r\nnonsense\r\n")
        await self.hang()

    async def not_http(self) -> None:
        self._writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await self._writer.drain()

    async def endless_headers(self) -> None:
        self._writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: " + b"x" * 100_000 + b"\r\n\r\n")
        await self._writer.drain()

    async def html(self) -> bool:
        return await send(self._writer, 200, b"<html>hello</html>", {"Content-Type": "text/html"})

    async def html_502(self) -> bool:
        return await send(self._writer, 502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})

    async def no_content(self) -> bool:
        self._writer.write(head(204, {}))
        return True

    async def huge(self) -> None:
        """50 MB without a Content-Length."""
        self._writer.write(head(200, {"Content-Type": "application/json", "Connection": "close"}))
        for _ in range(50):
            self._writer.write(b" " * 10**6)
            await self._writer.drain()

    async def huge_declared(self) -> None:
        await self._start(50 * 10**6, b"{")
        await self.hang()

    async def bomb(self) -> bool:
        """20 MB in 90 kB."""
        bomb = gzip.compress(bytes(20 * 10**6), 1)
        return await send(self._writer, 200, bomb, {"Content-Encoding": "gzip"})

    async def huge_error(self) -> None:
        self._writer.write(head(500, {"Content-Type": "text/plain", "Connection": "close"}))
        for _ in range(50):
            self._writer.write(b"x" * 10**6)
            await self._writer.drain()

    async def error_hangs(self) -> None:
        self._writer.write(head(500, {"Content-Type": "application/json", "Content-Length": "100"}))
        await self.hang()

    async def redirect(self) -> bool:
        return await send(self._writer, 307, b"", {"Location": "http://169.254.169.254/latest/meta-data/"})

    async def cookie(self) -> bool:
        return await send(self._writer, *answer(self._request), {"Set-Cookie": "tenant=a; Path=/"})

    async def _start(self, length: int, first: bytes) -> None:
        self._writer.write(head(200, {"Content-Type": "application/json", "Content-Length": str(length)}))
        self._writer.write(first)
        await self._writer.drain()
