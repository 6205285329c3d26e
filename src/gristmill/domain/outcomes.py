"""What a processor may answer (an outcome), and what we do about it (a verdict).

Pure: no clock, no database, no HTTP. This is where the rule "how many attempts" lives.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args
from uuid import UUID

from gristmill.domain.retry import RetryPolicy
from gristmill.domain.usage import Usage

ErrorCode = Literal[400, 408, 499, 500]
ERROR_CODES = frozenset(get_args(ErrorCode))

LONGEST_DELAY_SECONDS = 30 * 24 * 3600.0  # as long as a batch may last


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item failed. `code` is one of the four numbers of the contract; the rest is the detail.

    `type` is a stable word for programs (`upstream_error`, `item_timeout`, `worker_lost`, …), `message` and
    `suggestion` are for people and hold no secrets.
    """

    code: ErrorCode
    type: str
    message: str
    upstream_status: int | None = None
    retryable: bool = False
    suggestion: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "message": self.message,
            "upstream_status": self.upstream_status,
            "retryable": self.retryable,
            "suggestion": self.suggestion,
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat: what was asked and what was answered, to be kept with the result."""

    user_message: str
    reply: str
    history_id: int | None  # None: the item began a new chat
    name: str | None = None  # both kept on a new chat
    external_user_id: str | None = None
    agent_id: UUID | None = None
    file_ids: tuple[UUID, ...] = ()  # attached to the user's message


@dataclass(slots=True)  # one per item: frozen would cost a microsecond more
class Success:
    """`content` is text for people (`response_content`), `output` any JSON value. At least one of them is set."""

    output: Any = None
    content: str | None = None
    usage: Usage | None = None
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Permanent: another attempt would fail the same way."""

    error: ItemError
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """May work later. `waiting` means that nothing is wrong with the item (429, no capacity, upstream down):
    it uses up no attempt and is bounded by the batch's deadline only. `delay_seconds` None: by the retry policy.
    `outage`: the other side may be down. Should others fare the same, it waits, too (upstream/circuit.py)."""

    error: ItemError
    delay_seconds: float | None = None
    waiting: bool = False
    usage: Usage | None = None
    outage: bool = False


Outcome = Success | Failure | Retry


@dataclass(frozen=True, slots=True)
class Requeue:
    """Run it again after `delay_seconds`. `attempts_used` counts those that are gone for good."""

    delay_seconds: float
    attempts_used: int
    error: ItemError
    waiting: bool


Verdict = Success | Failure | Requeue  # the first two: the item has ended with this result


def decide(outcome: Outcome, *, attempt: int, max_attempts: int, policy: RetryPolicy) -> Verdict:
    """What follows from the outcome of attempt number `attempt` (1-based)."""
    match outcome:
        case Success() | Failure():
            return outcome
        case Retry(error, delay_seconds, True):
            return Requeue(_bounded(delay_seconds, policy.delay(1)), attempt - 1, error, True)
        case Retry(error, _, False, usage) if attempt >= max_attempts:
            return Failure(error, usage)
        case Retry(error, delay_seconds):
            return Requeue(_bounded(delay_seconds, policy.delay(attempt)), attempt, error, False)


def _bounded(asked: float | None, planned: float) -> float:
    """What the processor asked for, if it is a delay: Postgres takes neither infinity nor NaN for one."""
    delay = planned if asked is None else asked
    return min(delay, LONGEST_DELAY_SECONDS) if delay > 0 else 0.0
