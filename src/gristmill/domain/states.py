"""The states a batch, an item and a delivery can be in. Nothing else names a state."""

from enum import IntEnum, StrEnum


class BatchStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"  # every item was processed, even if each of them failed
    FAILED = (
        "failed"  # the batch failed (its deadline, its failure threshold, its budget), whatever its items did
    )
    CANCELLED = "cancelled"


TERMINAL = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED})


class Ending(StrEnum):
    """Why a batch starts nothing any more although items are left; decides how it will end."""

    CANCEL = "cancel"  # → cancelled, items left end with 499
    DEADLINE = "deadline"  # → failed, items left end with 408
    THRESHOLD = "threshold"  # → failed, items left end with 500: too many have failed
    BUDGET = "budget"  # → failed, likewise: its tokens are used up


class ItemStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"


class ResultStatus(IntEnum):
    """How `result.status` is stored."""

    SUCCESS = 1
    FAILED = 2


class DeliveryStatus(StrEnum):
    PENDING = "pending"  # will be sent at next_at
    DELIVERED = "delivered"
    DEAD = "dead"  # schedule exhausted, or the receiver answered 410; can be redelivered
