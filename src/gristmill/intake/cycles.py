"""The cycle collector, kept from looking through what JSON is made of: a million values hold no cycles, and nothing else runs
while it looks at them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_leaving = 0


@contextmanager
def left_alone() -> Iterator[None]:
    """For the event loop's thread, which may be in several of these at a time."""
    global _leaving
    _leaving += 1
    gc.disable()
    try:
        yield
    finally:
        _leaving -= 1
        if _leaving == 0:
            gc.enable()
