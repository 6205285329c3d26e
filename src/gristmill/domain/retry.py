"""When to try again. Shared by items and webhook deliveries."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential delays with jitter, in seconds; the jitter is ± that share of the delay."""

    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 300.0
    jitter: float = 0.2

    def delay(self, attempt: int) -> float:
        """Seconds to wait after `attempt` (1-based) failed."""
        planned = min(self.base_seconds * self.factor ** (attempt - 1), self.max_seconds)
        return planned * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - jitter, not a secret


# Standard Webhooks 1.0.0, section on retries: seconds to wait before send number 1, 2, 3, …
WEBHOOK_SCHEDULE_SECONDS: tuple[float, ...] = (
    0,
    5,
    5 * 60,
    30 * 60,
    2 * 3600,
    5 * 3600,
    10 * 3600,
    14 * 3600,
    20 * 3600,
    24 * 3600,
)
WEBHOOK_JITTER = 0.2
