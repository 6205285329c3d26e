"""How many items may be at one endpoint at once, by how it does: additive increase, multiplicative decrease by windows.

One error says nothing, and a burst of them is one piece of news: a limit that is cut for each error of a burst falls to next to
nothing. So a window of a second is judged as a whole: at least two errors and at least a tenth of all calls cut the limit
to nine tenths, once.
"""

_WINDOW_SECONDS = 1.0
_LEAST_ERRORS = 2
_LEAST_SHARE = 0.1
_CUT = 0.9
_STEPS = 20  # from nothing to the most in so many windows: back within half a minute, whatever the most is


class AdaptiveLimit:
    """`most`: never above it, and it begins there. With `adaptive` false it stays there."""

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self._most = most
        self._adaptive = adaptive
        self._limit = float(most)
        self._began = float("-inf")
        self._calls = self._errors = self._peak = 0
        self.cuts = 0

    @property
    def now(self) -> int:
        return int(self._limit)

    @property
    def reduced(self) -> bool:
        return self.now < self._most

    def ended(self, now: float, *, error: bool, used: int) -> None:
        """A call has ended at `now` (monotonic seconds), while `used` items were at the endpoint."""
        self.turn(now)
        self._calls += 1
        self._errors += error
        self._peak = max(self._peak, used)

    def turn(self, now: float) -> None:
        """Judge the window if it is over, and begin another."""
        if now - self._began >= _WINDOW_SECONDS:
            self._judge()
            self._began = now
            self._calls = self._errors = self._peak = 0

    def _judge(self) -> None:
        if not self._adaptive or not self._calls:
            return
        if self._errors >= _LEAST_ERRORS and self._errors >= _LEAST_SHARE * self._calls:
            self._limit = max(1.0, self._limit * _CUT)
            self.cuts += 1
        elif 2 * self._peak >= self._limit:  # a limit that nobody comes near has not been tried
            self._limit = min(float(self._most), self._limit + max(1.0, self._most / _STEPS))
