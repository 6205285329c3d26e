"""One item in a worker's hands: run its processor, decide what follows, and put it into the words of the store."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gristmill.domain.outcomes import (
    ERROR_CODES,
    Failure,
    ItemError,
    Outcome,
    Requeue,
    Retry,
    Success,
    Verdict,
    decide,
)
from gristmill.domain.states import ResultStatus
from gristmill.domain.usage import Usage
from gristmill.processors.base import Context, Processor, Services
from gristmill.store.assignments import Assignment
from gristmill.store.recording import Ended, Retried
from gristmill.store.spans import ClaimedItem, Lease

log = logging.getLogger(__name__)


@dataclass(slots=True)
class HeldLease:
    """A lease and how many of its items are still without a verdict."""

    lease: Lease
    remaining: int


@dataclass(frozen=True, slots=True)
class Job:
    """What all items of a batch share, ready for use."""

    assignment: Assignment
    processor: Processor[Any, Any]
    config: Any  # None: what was stored does not fit the processor as it is installed here
    read: Callable[[str], Any]  # from JSON to the processor's input model


@dataclass(slots=True)
class Work:
    held: HeldLease
    item: ClaimedItem
    job: Job


def prepared(assignment: Assignment, processor: Processor[Any, Any]) -> Job:
    read = processor.input_model.__pydantic_validator__.validate_json  # model_validate_json costs 1.4 µs more
    try:
        config = processor.config_model.model_validate_json(assignment.config)
    except Exception:  # nearly always a ValidationError; a validator of its own may raise anything
        config = None
    return Job(assignment, processor, config, read)


def _unfit() -> Outcome:
    return Failure(
        ItemError(
            500,
            "configuration_unfit",
            "The batch's stored configuration does not fit the processor that is installed on this worker.",
            suggestion="Run the same version of the processor on the API and on every worker.",
        )
    )


async def run(work: Work, services: Services) -> Outcome:
    """No transaction is open here: a processor may take as long as its timeout, which is watched from outside."""
    assignment, item, lease = work.job.assignment, work.item, work.held.lease
    context = Context(
        assignment.tenant_id,
        lease.batch_id,
        item.ordinal,
        item.custom_id,
        lease.attempt,
        work.job.config,
        services,
    )
    if work.job.config is None:
        return _unfit()
    try:
        return await work.job.processor.run(work.job.read(item.input), context)
    except (Exception, BaseExceptionGroup, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # over its time, or the worker ends: whatever came of that
            raise asyncio.CancelledError from None
        _tell(work, error)
        return Failure(
            ItemError(500, "processor_error", f"The processor failed with {type(error).__name__}.")
        )


def _tell(work: Work, error: BaseException) -> None:
    """A bug of the processor ends its item. What it raised may quote the input: neither the log nor the caller
    gets more than its type, and the log the place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error(
        "processor failed",
        extra={
            "processor": work.job.assignment.processor,
            "batch_id": str(work.held.lease.batch_id),
            "error": type(error).__name__,
            "place": f"{place.filename}:{place.lineno}",
        },
    )


def timed_out(work: Work) -> Outcome:
    seconds = work.job.assignment.item_timeout_seconds
    return Retry(
        ItemError(
            500,
            "item_timeout",
            f"The item ran longer than {seconds:g} seconds.",
            retryable=True,
            suggestion="Allow more time with item_timeout_seconds.",
        )
    )


def settle(work: Work, outcome: Outcome) -> Ended | Retried:
    """What the store is to be told: the item's end, or that it waits for another attempt.

    A processor may answer with anything. What would break the flush, and with it the results of others, ends its item.
    """
    try:
        return _settled(work, outcome)
    except Exception as error:
        _tell(work, error)
        message = "The processor answered with something that cannot be kept."
        return _failed(work, ItemError(500, "processor_error", message), None)


def _settled(work: Work, outcome: Outcome) -> Ended | Retried:
    if not isinstance(outcome, Outcome):
        raise TypeError
    job, lease = work.job, work.held.lease
    verdict: Verdict = decide(
        outcome, attempt=lease.attempt, max_attempts=job.assignment.max_attempts, policy=job.processor.retry
    )
    match verdict:
        case Success():
            return _succeeded(work, verdict)
        case Failure(error, usage):
            return _failed(work, error, usage)
        case Requeue(delay_seconds, attempts_used, error, waiting):
            ended = _failed(work, error, outcome.usage)
            return Retried(ended, attempts_used, lease.losses, delay_seconds, waiting)


def _ended(work: Work, status: ResultStatus, code: int | None, usage: Usage | None) -> Ended:
    lease = work.held.lease
    ended = Ended(lease.id, lease.batch_id, work.item.ordinal, status, code, lease.attempt, lease.started_at)
    ended.history_id = work.item.history_id
    if usage is not None:
        ended.usage = orjson.dumps(usage.as_json()).decode()
        ended.calls = len(usage.calls)
        ended.prompt_tokens = usage.prompt_tokens
        ended.completion_tokens = usage.completion_tokens
        ended.cost_microusd = usage.cost_microusd or 0
    return ended


def _succeeded(work: Work, success: Success) -> Ended | Retried:
    try:
        output = None if success.output is None else orjson.dumps(success.output).decode()
    except TypeError:
        error = ItemError(500, "processor_error", "The processor answered with something that is not JSON.")
        return _failed(work, error, success.usage)
    ended = _ended(work, ResultStatus.SUCCESS, None, success.usage)
    ended.output = output
    ended.content = None if success.content is None else storable(success.content)
    ended.turn = success.turn
    return ended


def _failed(work: Work, error: ItemError, usage: Usage | None) -> Ended:
    if error.code not in ERROR_CODES:
        raise ValueError
    ended = _ended(work, ResultStatus.FAILED, error.code, usage)
    ended.error = storable(orjson.dumps(error.as_json()).decode())
    return ended


def storable(text: str) -> str:
    """Postgres' text holds neither NUL nor lone surrogates; a model may answer with either."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
