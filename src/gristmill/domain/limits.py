"""What a batch may cost before it stops: failures in proportion to what has finished, and tokens."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class LimitAction(StrEnum):
    PAUSE = "pause"  # it waits until somebody resumes it
    FAIL = "fail"  # nothing starts any more, and it ends as failed


@dataclass(frozen=True, slots=True)
class FailureThreshold:
    """Exceeded once more than `ratio` (0 to 1) of the items that finished have failed, and at least `minimum` have finished."""

    ratio: Decimal  # exact: 29 of 100 are not more than 0.29
    minimum: int
    action: LimitAction


@dataclass(frozen=True, slots=True)
class Budget:
    """Exceeded once the results have used `max_tokens`, those of prompts and answers together."""

    max_tokens: int
    action: LimitAction
