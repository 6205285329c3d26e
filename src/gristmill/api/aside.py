"""Work on large bodies: beside the event loop, and one body at a time.

64 MiB of JSON take a second or more to read and check. On the event loop, nobody would be answered meanwhile; several at
once would hold several times ten times their size. A thread alone does not help: the parser lets nobody else run, so that it gets
a large body in pieces (`intake/pieces.py`), and the validator gets what has very many parts in another process
(`intake/beside.py`).
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

LARGE_BYTES = 512 * 1024  # below, all of it takes a few milliseconds: less than others notice …
# … unless it is made of small values. So many {, [ and commas take 10 ms, 30 if each is a problem; a create of 1,000 requests
# has some 5,000.
LARGE_MARKS = 30_000

T = TypeVar("T")
Run = Callable[..., Awaitable[Any]]  # (function, *arguments) → its result


async def at_once(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


def large(texts: tuple[bytes, ...]) -> bool:
    size = sum(map(len, texts))
    if size > LARGE_BYTES or size <= LARGE_MARKS:
        return size > LARGE_BYTES
    return sum(text.count(mark) for text in texts for mark in (b",", b"{", b"[")) > LARGE_MARKS


class Aside:
    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *texts: bytes) -> AsyncIterator[Run]:
        """How to run what works on a body of these texts, and its turn to do so."""
        if not large(texts):
            yield at_once
            return
        async with self._turn:
            # A million values are many to look through for cycles, which JSON has none of; nothing else runs meanwhile.
            gc.disable()
            try:
                yield asyncio.to_thread
            finally:
                gc.enable()
