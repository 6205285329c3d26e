"""What follows from one attempt to deliver an event: it is delivered, tried again, or given up."""

import random
from dataclasses import dataclass
from typing import Literal

from gristmill.domain.retry import WEBHOOK_JITTER, WEBHOOK_SCHEDULE_SECONDS

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
GONE = 410
ENDPOINT_DELETED = "endpoint_deleted"  # nothing was sent: the kept endpoint is no more


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST, or the try at one. `error` is a word the tenant may read; either it or `status_code` is set.

    `response` is the beginning of the answer's body, `retry_after_seconds` what the receiver asked for.
    """

    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response: str | None = None
    retry_after_seconds: float | None = None

    @property
    def accepted(self) -> bool:
        """Only 2xx: a redirect is not followed, so it has delivered nothing."""
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass(frozen=True, slots=True)
class Delivered:
    pass


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Send again, as number `position` (0-based) of the schedule."""

    delay_seconds: float
    position: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Not sent again unless somebody asks for it: the receiver answered 410, its endpoint was deleted, or the schedule is
    used up."""

    reason: Literal["gone", "exhausted"]


Verdict = Delivered | RetryIn | Dead


def after(attempt: Attempt, position: int) -> Verdict:
    """What follows from the send at `position` (0-based) of the schedule."""
    if attempt.accepted:
        return Delivered()
    if attempt.status_code == GONE or attempt.error == ENDPOINT_DELETED:
        return Dead("gone")
    if position + 1 >= len(WEBHOOK_SCHEDULE_SECONDS):
        return Dead("exhausted")
    asked = min(attempt.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS)
    return RetryIn(max(_planned(position + 1), asked), position + 1)


def _planned(position: int) -> float:
    jitter = random.uniform(1 - WEBHOOK_JITTER, 1 + WEBHOOK_JITTER)  # noqa: S311 - jitter, not a secret
    return WEBHOOK_SCHEDULE_SECONDS[position] * jitter
