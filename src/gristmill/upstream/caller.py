"""The item that a call is for, as those see it whom the call passes on its way."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

_LONG_SECONDS = 1e6  # longer than anything waits


def _nobody_watches(seconds: float) -> None:
    pass


@dataclass(slots=True)
class Caller:
    item: tuple[UUID, int]
    probing: bool = False
    again: bool = False  # it has failed before, and others have been answered since
    called: bool = False
    cut_off: bool = False  # in the middle of a call
    postpone: Callable[[float], None] = _nobody_watches  # let its time end so much later
    waits: int = 0  # of its calls so many wait for permits now (upstream/permits.py)
    waits_since: float = 0.0

    def begin_wait(self, now: float) -> None:
        """Its time stands still as long as one of its calls waits."""
        if not self.waits:
            self.waits_since = now
            self.postpone(_LONG_SECONDS)
        self.waits += 1

    def end_wait(self, now: float) -> None:
        self.waits -= 1
        if not self.waits:
            self.postpone(now - self.waits_since - _LONG_SECONDS)

    def ended(self) -> None:
        """Whatever it has left behind, its time is over: what runs now in its place is another's."""
        self.postpone = _nobody_watches


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
