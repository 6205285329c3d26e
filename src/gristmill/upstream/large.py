"""Few large answers at a time, so that many which come at once do not fill the memory together."""

import asyncio
from types import TracebackType
from typing import Self

LARGE_BYTES = 1024 * 1024  # an answer is held up from here on


class LargeAnswers:
    """Places for `most` answers larger than LARGE_BYTES; the others of that size wait, unread, within their own deadlines.

    What all calls hold is then at most LARGE_BYTES each, and `most` times what one answer may have.
    """

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    def one(self) -> "LargeAnswer":
        return LargeAnswer(self._places)


class LargeAnswer:
    """One answer, as `async with` around reading it and all that is made of it in its whole size."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._has_place = False

    async def grown_to(self, size: int) -> None:
        """Waits for a place once it is large."""
        if size > LARGE_BYTES and not self._has_place:
            await self._places.acquire()
            self._has_place = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_place:
            self._places.release()
