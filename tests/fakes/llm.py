"""A model's endpoint for tests: a real HTTP server that speaks the OpenAI API, records, and misbehaves.

    async with FakeLLM() as llm:
        llm.misbehave("status:429 retry-after=2", "reset")  # the next two calls; `llm.always` is for all
        ... GRISTMILL_LLM_BASE_URL=llm.url ...
        llm.requests[0].body["messages"]

What a user's message holds steers the answer, so that a test of the whole service can do it, too:
`[fault=NAME]` on every call, `[fault=NAME*2]` on the first two with that message, `[say=TEXT]` is the answer,
`[call=TOOL {"a": 1}]` asks for a tool (one round each; with `[forever]` again and again). Else the answer
repeats the message. Alone, from `tests`: `python -m fakes.llm`.
"""

import asyncio
import gzip
import json
import re
import struct
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Self

from fakes.answers import answer

_STEER = re.compile(r"\[fault=([a-z0-9_:]+(?: [a-z-]+=[^\]*]*)?)(?:\*(\d+))?\]")


@dataclass(frozen=True)
class Request:
    """One request as it came. `body` is the JSON in it, or None."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)

    @property
    def said(self) -> str:
        """The text of the last user message (or of `input`)."""
        body = self.body if isinstance(self.body, dict) else {}
        users = [message for message in body.get("messages", []) if message.get("role") == "user"]
        content = users[-1].get("content") if users else body.get("input", "")
        return content if isinstance(content, str) else json.dumps(content)


class FakeLLM:
    """Listens on 127.0.0.1 and a free port within `async with`. With `api_key`, answers 401 to every other.

    With `together`, no call is answered before so many have come.
    """

    def __init__(self, *, api_key: str | None = None, latency_seconds: float = 0.0) -> None:
        self.api_key = api_key
        self.latency_seconds = latency_seconds
        self.always: str | None = None
        self.together: asyncio.Barrier | None = None
        self.requests: list[Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections = 0
        self._faults: deque[str] = deque()
        self._steered: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", port, limit=2**26, backlog=1024
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def misbehave(self, *faults: str) -> None:
        """The next calls, one fault each, in this order."""
        self._faults.extend(faults)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A server that is stopping must not wait for, nor complain about, a client that went away.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await _read(reader):
                if not await self._serve(request, reader, writer):
                    break
        with suppress(ConnectionError):
            writer.close()

    async def _serve(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers; whether the connection lives on."""
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency_seconds:
                await asyncio.sleep(self.latency_seconds)
            if self.together:
                await self.together.wait()
            if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
                given = request.headers.get("authorization", "")
                return await _send(writer, 401, _error(f"Incorrect API key provided: {given}"))
            if fault := self._fault(request):
                return await _Misbehaviour(request, reader, writer).do(fault)
            return await _send(writer, *answer(request))
        finally:
            self.in_flight -= 1

    def _fault(self, request: Request) -> str | None:
        if self._faults:
            return self._faults.popleft()
        said = request.said
        if steered := _STEER.search(said):
            self._steered[said] += 1
            if not steered[2] or self._steered[said] <= int(steered[2]):
                return steered[1]
        return self.always


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = start.split(" ")
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    return Request(method, path, headers, body)


def _error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None, **more}}


async def _send(
    writer: asyncio.StreamWriter, status: int, body: object, headers: Mapping[str, str] | None = None
) -> bool:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
    writer.write(_head(status, named) + raw)
    await writer.drain()
    return True


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode()


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
_BODIES: dict[str, object] = {
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
    "error_inside": _error("The provider behind has failed"),
    "error_inside:429": _error("slow down", code=429),
    "no_usage": {"model": "fake-model", "choices": _chat(content="twelve chars")["choices"]},
    "odd_usage": _chat(content="twelve chars")
    | {"usage": {"prompt_tokens": -1, "completion_tokens": "many"}},
    "bad_tool_calls": _chat(content=None, tool_calls=[{"function": {}}]),
    "deep": b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}",
}


class _Misbehaviour:
    """One call that goes wrong. `do` answers whether the connection lives on."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer

    async def do(self, fault: str) -> bool:
        name, _, options = fault.partition(" ")
        if name in _BODIES:
            return await _send(self._writer, 200, _BODIES[name])
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
        return await _send(self._writer, status, _error(message, code=code), options)

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
        self._writer.write(_head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        self._writer.write(b"10\r\n" + b'{"choices": [{}]' + b"\r\n40\r\nhalf")
        await self._writer.drain()

    async def bad_chunks(self) -> None:
        self._writer.write(_head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        self._writer.write(b"zz\r\nnonsense\r\n")
        await self._writer.drain()

    async def not_http(self) -> None:
        self._writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await self._writer.drain()

    async def endless_headers(self) -> None:
        self._writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: " + b"x" * 100_000 + b"\r\n\r\n")
        await self._writer.drain()

    async def html(self) -> bool:
        return await _send(self._writer, 200, b"<html>hello</html>", {"Content-Type": "text/html"})

    async def html_502(self) -> bool:
        return await _send(self._writer, 502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})

    async def no_content(self) -> bool:
        self._writer.write(_head(204, {}))
        return True

    async def huge(self) -> None:
        """50 MB without a Content-Length."""
        self._writer.write(_head(200, {"Content-Type": "application/json", "Connection": "close"}))
        for _ in range(50):
            self._writer.write(b" " * 10**6)
            await self._writer.drain()

    async def huge_declared(self) -> None:
        await self._start(50 * 10**6, b"{")
        await self.hang()

    async def bomb(self) -> bool:
        """50 MB in 50 kB."""
        return await _send(self._writer, 200, gzip.compress(b" " * 50 * 10**6), {"Content-Encoding": "gzip"})

    async def huge_error(self) -> None:
        self._writer.write(_head(500, {"Content-Type": "text/plain", "Connection": "close"}))
        for _ in range(50):
            self._writer.write(b"x" * 10**6)
            await self._writer.drain()

    async def error_hangs(self) -> None:
        self._writer.write(_head(500, {"Content-Type": "application/json", "Content-Length": "100"}))
        await self.hang()

    async def redirect(self) -> bool:
        return await _send(self._writer, 307, b"", {"Location": "http://169.254.169.254/latest/meta-data/"})

    async def cookie(self) -> bool:
        return await _send(self._writer, *answer(self._request), {"Set-Cookie": "tenant=a; Path=/"})

    async def _start(self, length: int, first: bytes) -> None:
        self._writer.write(_head(200, {"Content-Type": "application/json", "Content-Length": str(length)}))
        self._writer.write(first)
        await self._writer.drain()


async def main() -> None:
    async with FakeLLM() as llm:
        print(llm.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
