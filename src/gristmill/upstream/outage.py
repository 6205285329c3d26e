"""How long to leave an endpoint alone that does not say so itself."""

import random
from dataclasses import dataclass

_MIN_SECONDS = 1.0
_MAX_SECONDS = 30.0
_JITTER = 0.2


@dataclass(slots=True)
class Outage:
    """Waits as long again as the endpoint has been without capacity so far, from 1 to 30 seconds, ± 20 %.

    So waits double while it is away, whatever the number of items that ask, and start small once it was back.
    """

    since: float | None = None  # by the monotonic clock

    def over(self) -> None:
        self.since = None

    def delay(self, now: float) -> float:
        if self.since is None:
            self.since = now
        planned = min(max(now - self.since, _MIN_SECONDS), _MAX_SECONDS)
        return planned * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter, not a secret
