"""How many requests each tenant may send: counted here, in this process, so that no request waits for it.

A bucket for each tenant holds a minute's worth of requests, each takes one out, and they come back evenly. Several API processes
count each for itself: what they let through together is up to as many times as much.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

WINDOW_SECONDS = 60
_MAX_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """What is left to a tenant after a request. `reset_seconds`: until all is there again."""

    quota: int
    allowed: bool
    remaining: int
    reset_seconds: int
    retry_after_seconds: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit-Policy and RateLimit, as draft-ietf-httpapi-ratelimit-headers-10 has them."""
        policy = f'"tenant";q={self.quota};w={WINDOW_SECONDS}'
        left = f'"tenant";r={self.remaining};t={self.reset_seconds}'
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]


class Rates:
    """`per_minute` None: no limit."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._full_at: dict[UUID, float] = {}  # when the bucket is, if nothing more is taken

    def take(self, tenant_id: UUID) -> Rate | None:
        """Count one request; None: nothing is counted."""
        if self._per_minute is None:
            return None
        now, each = self._clock(), WINDOW_SECONDS / self._per_minute
        missing = max(0.0, self._full_at.get(tenant_id, now) - now)  # seconds' worth of requests
        short = missing + each - WINDOW_SECONDS
        allowed = short < 1e-6  # of a request, by rounding
        if allowed:
            missing += each
            self._remember(tenant_id, now, now + missing)
        remaining = math.floor((WINDOW_SECONDS - missing) / each + 1e-6)
        retry_after = 0 if allowed else math.ceil(short)
        return Rate(self._per_minute, allowed, max(0, remaining), math.ceil(missing), retry_after)

    def _remember(self, tenant_id: UUID, now: float, full_at: float) -> None:
        if len(self._full_at) >= _MAX_TENANTS:
            self._full_at = {one: at for one, at in self._full_at.items() if at > now}
        self._full_at[tenant_id] = full_at
