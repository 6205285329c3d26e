"""A model's endpoint for tests: a real HTTP server that speaks the OpenAI API, records, and misbehaves.

    async with FakeLLM() as llm:
        llm.misbehave("status:429 retry-after=2", "reset")  # the next two calls; `llm.always` is for all
        ... GRISTMILL_LLM_BASE_URL=llm.url ...
        llm.requests[0].body["messages"]

What a user's message holds steers the answer, so that a test of the whole service can do it, too:
`[fault=NAME]` on every call, `[fault=NAME*2]` on the first two with that message, `[say=TEXT]` is the answer,
`[call=TOOL {"a": 1}]` asks for a tool (one round each; with `[forever]` again and again), `[hold=NAME]` waits until
the test calls `release(NAME)`. Else the answer repeats the message. Alone, from `tests`: `python -m fakes.llm`.
"""

import asyncio
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from fakes.answers import answer
from fakes.faults import Misbehaviour
from fakes.wire import Request, error, read, send

_STEER = re.compile(r"\[fault=([a-z0-9_:]+(?: [a-z-]+=[^\]*]*)?)(?:\*(\d+))?\]")
_HOLD = re.compile(r"\[hold=(\S+?)\]")


class FakeLLM:
    """Listens on 127.0.0.1 and a free port within `async with`. With `api_key`, answers 401 to every other.

    With `together`, no call is answered before so many have come.
    """

    def __init__(self, *, api_key: str | None = None, latency_seconds: float = 0.0) -> None:
        self.api_key = api_key
        self.latency_seconds = latency_seconds
        self.always: str | None = None
        # What it says when all is well: status, body, and headers where there are some.
        self.script: Callable[[Request], tuple[Any, ...]] = answer
        self.gate: Callable[[Request], asyncio.Event | None] = lambda request: None  # what a call waits for
        self.together: asyncio.Barrier | None = None
        self.requests: list[Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.connections = 0
        self._faults: deque[str] = deque()
        self._steered: Counter[str] = Counter()
        self._held: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
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

    def release(self, name: str) -> None:
        """Lets every call that this name holds be answered, now and later."""
        self._held[name].set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A server that is stopping must not wait for, nor complain about, a client that went away.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await read(reader):
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
            if held := _HOLD.search(request.said):
                await self._held[held[1]].wait()
            if gate := self.gate(request):
                await gate.wait()
            if self.together:
                await self.together.wait()
            if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
                given = request.headers.get("authorization", "")
                return await send(writer, 401, error(f"Incorrect API key provided: {given}"))
            if fault := self._fault(request):
                return await Misbehaviour(request, reader, writer).do(fault)
            return await send(writer, *self.script(request))
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


async def main() -> None:
    async with FakeLLM() as llm:
        print(llm.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
