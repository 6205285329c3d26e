"""Work on large bodies: beside the event loop, and one body at a time.

64 MiB of JSON take a second or more to read and check. On the event loop, nobody would be answered meanwhile; several at
once would hold several times ten times their size. A thread alone does not help: the parser lets nobody else run, so that it gets
a large body in pieces (`intake/pieces.py`, `intake/runs.py`), and the validator gets what has very many parts in another
process (`intake/beside.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from gristmill.domain import marks
from gristmill.intake import cycles

# Below, all of it takes a few milliseconds, less than others notice, unless it is made of small values.
LARGE_BYTES = 512 * 1024
LARGE_CONTAINERS = 20_000  # so many lists and objects take 10 ms
# All marks are only counted where one step has taken so long, such as the parsing: a create of 1,000 requests takes half of it.
_DOUBTFUL_SECONDS = 0.002

T = TypeVar("T")
Run = Callable[..., Awaitable[Any]]  # (function, *arguments) → its result


async def at_once(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


def large(*texts: bytes) -> bool:
    """Whether to parse them takes long for others, as far as that can be said before."""
    size = sum(map(len, texts))
    return size > LARGE_BYTES or (size > LARGE_CONTAINERS and _containers(texts) > LARGE_CONTAINERS)


def _containers(texts: tuple[bytes, ...]) -> int:
    return sum(text.count(mark) for text in texts for mark in (b"{", b"["))


class Aside:
    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *texts: bytes, parsed: bool = False) -> AsyncIterator[Run]:
        """How to run what works on a body of these texts, and its turn to do so. If they are not `parsed`, that comes first."""
        async with AsyncExitStack() as held:
            run = _Running(self._turn, held, texts, 2 * _DOUBTFUL_SECONDS if parsed else 0.0)
            if large(*texts):
                await run.aside()
            yield run


class _Running:
    """Runs at once, until it shows that the body is made of so many values that the rest is better done as that of large ones."""

    def __init__(
        self, turn: asyncio.Lock, held: AsyncExitStack, texts: tuple[bytes, ...], seconds: float
    ) -> None:
        self._turn = turn
        self._held = held
        self._texts = texts
        self._seconds = seconds
        self._aside = self._known = False

    async def aside(self) -> None:
        """From now on in a thread, and alone."""
        await self._held.enter_async_context(self._turn)
        self._held.enter_context(cycles.left_alone())
        self._aside = self._known = True

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        if not self._known and self._seconds > _DOUBTFUL_SECONDS:
            self._known = True
            if marks.count(*self._texts) > marks.MANY:
                await self.aside()
        if self._aside:
            return await asyncio.to_thread(function, *arguments)
        if self._known:
            return function(*arguments)
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self._seconds = max(self._seconds, time.thread_time() - began)
