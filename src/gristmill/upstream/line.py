"""The line in which calls to one endpoint wait for their permits (upstream/permits.py).

First those of items that have called before, in the order in which they came: what an item has called for is lost if it goes
back, and as long as others get in before it, no item of several calls ever ends.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from gristmill.upstream.caller import Caller


class NotCalled(Exception):
    """The call was not made."""


class Crowded(NotCalled):
    """No permit came free for too long. `delay_seconds`: until the item asks again; None: as usual."""

    def __init__(self, delay_seconds: float | None = None) -> None:
        super().__init__()
        self.delay_seconds = delay_seconds


@dataclass(slots=True, eq=False)
class Waiter:
    tokens: float
    caller: Caller | None
    since: float
    in_line: bool = True
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_called(self) -> bool:
        return self.caller is not None and self.caller.called

    @property
    def batch_id(self) -> UUID | None:
        return None if self.caller is None else self.caller.item[0]

    @property
    def had_its_turn(self) -> bool:
        return self.admitted.done() and not self.admitted.cancelled() and self.admitted.exception() is None

    def give_up(self, delay_seconds: float | None = None) -> None:
        if not self.admitted.done():
            self.admitted.set_exception(Crowded(delay_seconds))


class Line:
    def __init__(self) -> None:
        self._again: deque[Waiter] = deque()
        self._first: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._again) + len(self._first)

    def __bool__(self) -> bool:
        return bool(self._first or self._again)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._again
        yield from self._first

    @property
    def head(self) -> Waiter:
        return (self._again or self._first)[0]

    def is_free_for(self, caller: Caller | None) -> bool:
        """Whether nobody waits who comes before this one."""
        return not (self._again if caller is not None and caller.called else len(self))

    def append(self, waiter: Waiter) -> None:
        (self._again if waiter.has_called else self._first).append(waiter)

    def pop(self) -> Waiter:
        waiter = (self._again or self._first).popleft()
        waiter.in_line = False
        return waiter

    def remove(self, waiter: Waiter) -> None:
        if waiter.in_line:
            waiter.in_line = False
            (self._again if waiter in self._again else self._first).remove(waiter)
