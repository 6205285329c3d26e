"""The item that a call is for, as those see it whom the call passes on its way."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID


def _nobody_watches(seconds: float) -> None:
    pass


@dataclass(slots=True)
class Caller:
    item: tuple[UUID, int]
    probing: bool = False
    again: bool = False  # it has failed before, and others have been answered since
    called: bool = False
    cut_off: bool = False  # in the middle of a call
    waited_seconds: float = 0.0  # for permits (upstream/permits.py)
    postpone: Callable[[float], None] = _nobody_watches  # let its time end so much later


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
