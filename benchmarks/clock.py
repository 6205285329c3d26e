"""Time that passes by events only, and who has to wait for whom in it: for benchmarks/model.py."""

import heapq
from collections import deque
from collections.abc import Callable, Generator

Resume = Callable[[], None]
Steps = Generator["float | Callable[[Resume], None]", None, None]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Resume]] = []
        self._count = 0

    def at(self, seconds: float, call: Resume) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, call))

    def run(self) -> None:
        while self._due:
            self.now, _, call = heapq.heappop(self._due)
            call()

    def start(self, steps: Steps) -> None:
        """Takes them one after the other: a number is a time to wait, anything else calls back when it is done."""

        def on() -> None:
            for step in steps:
                if isinstance(step, float):
                    self.at(step, on)
                else:
                    step(on)
                return

        on()


class Cores:
    """So many at once, the others in the order they came."""

    def __init__(self, clock: Clock, count: int) -> None:
        self._clock, self._free, self._waiting = clock, count, deque[tuple[float, Resume]]()
        self.used = 0.0

    def use(self, seconds: float) -> Callable[[Resume], None]:
        def ask(resume: Resume) -> None:
            self._waiting.append((seconds, resume))
            self._next()

        return ask

    def _next(self) -> None:
        while self._free and self._waiting:
            seconds, resume = self._waiting.popleft()
            self._free -= 1
            self.used += seconds
            self._clock.at(seconds, lambda done=resume: self._done(done))  # type: ignore[misc]

    def _done(self, resume: Resume) -> None:
        self._free += 1
        resume()
        self._next()


class Thread:
    """Of a Python process: one thing at a time, on one of its host's cores."""

    def __init__(self, cores: Cores) -> None:
        self._cores, self._busy, self._waiting = cores, False, deque[tuple[float, Resume]]()

    def use(self, seconds: float) -> Callable[[Resume], None]:
        def ask(resume: Resume) -> None:
            self._waiting.append((seconds, resume))
            if not self._busy:
                self._next()

        return ask

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            seconds, resume = self._waiting.popleft()
            self._cores.use(seconds)(lambda: self._done(resume))

    def _done(self, resume: Resume) -> None:
        resume()
        self._next()


class Gate:
    """Held by one at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._held, self._waiting = clock, False, deque[Resume]()

    def take(self, resume: Resume) -> None:
        self._waiting.append(resume)
        self._next()

    def leave(self) -> None:
        self._held = False
        self._next()

    def _next(self) -> None:
        if not self._held and self._waiting:
            self._held = True
            self._clock.at(0.0, self._waiting.popleft())
