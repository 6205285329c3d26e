"""What the programs of this folder share: the jobs, and what is measured of them.

Each runs in an environment of its own, with one phase at a time: `install URL`, `enqueue URL JOBS`, `work URL JOBS SETTING`, and
prints one line of JSON. CPU seconds are of the process, from after its imports to the end of its work.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PER_CALL = 1000
END_SECONDS = 15.0


def texts(jobs: int) -> list[str]:
    """Of each job a text: {"text": …} is 250 bytes of JSON, and different for each."""
    return [f"{number:012d}".ljust(239, "x") for number in range(jobs)]


def parts(all_: Sequence[Any], size: int = PER_CALL) -> Iterator[Sequence[Any]]:
    return (all_[first : first + size] for first in range(0, len(all_), size))


class Starts:
    """Of jobs: the work is over when the last of them has started."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs
        self._first = self._last = 0.0
        self._cpu = time.process_time()
        self.all = asyncio.Event()

    def note(self) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._left -= 1
        if self._left == 0:
            self.all.set()

    def measured(self) -> dict[str, float]:
        """To be asked for when what has run is acknowledged."""
        return {"seconds": self._last - self._first, "cpu_seconds": time.process_time() - self._cpu}


@contextmanager
def measuring(into: dict[str, float]) -> Iterator[None]:
    """The block, as `seconds` and `cpu_seconds`."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    into |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


async def stopped(task: "asyncio.Task[Any]") -> None:
    """Cancelled, and given some time to put its things in order."""
    task.cancel()
    await asyncio.wait([task], timeout=END_SECONDS)


Phase = Callable[..., Coroutine[Any, Any, "dict[str, float] | None"]]


def main(*phases: Phase) -> None:
    import uvloop

    phase, url, *more = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run({one.__name__: one for one in phases}[phase](url, *more)) or {}))
