"""How fast items end here of late: a claim takes ahead what ends within a moment (worker/items.py)."""

import time

MEASURED_SECONDS = 0.05  # the shortest time over which the watch looks
# A burst counts as if it had taken so long at least: what is taken ahead on its word alone is no more than twice as much as it
# was. Ten items that end at once say little about a thousand others.
BURST_SECONDS = 0.025


class Pace:
    """`ended`: how many have ended since the worker began; `slots`: how many may run at a time."""

    def __init__(self, slots: int) -> None:
        self.per_second = 0.0
        self._slots = slots
        # Not by the loop's clock, which knows milliseconds.
        self._burst = self._watched = (time.monotonic(), 0)

    def begun(self, ended: int) -> None:
        """Something runs, and nothing did."""
        self._burst = (time.monotonic(), ended)

    def paused(self, ended: int) -> None:
        """Nothing runs any more, and nothing else is there to be run. All that began since `begun` has ended, and if it was as
        much as there are slots, the next may be as fast. Before the watch looks, items without work would have emptied them
        many times."""
        seconds, count = _since(self._burst, ended)
        if count >= self._slots:
            self.per_second = max(self.per_second, count / max(seconds, BURST_SECONDS))

    def watched(self, ended: int) -> None:
        """From time to time."""
        seconds, count = _since(self._watched, ended)
        if seconds >= MEASURED_SECONDS:
            self.per_second = 0.5 * self.per_second + 0.5 * count / seconds
            self._watched = (time.monotonic(), ended)


def _since(then: tuple[float, int], ended: int) -> tuple[float, int]:
    return time.monotonic() - then[0], ended - then[1]
