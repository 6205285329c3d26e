"""One item in a worker's hands: run its processor, decide what follows, and put it into the words of the store."""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gristmill.domain.checkpoints import MAX_BYTES, CheckpointsAway, CheckpointTooLarge, LeaseLost
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
from gristmill.domain.sources import SourceRefused
from gristmill.domain.usage import Usage
from gristmill.processors.base import Context, Processor, Services
from gristmill.processors.secrets import binding, put_back, upstream_binding
from gristmill.store.assignments import Assignment
from gristmill.store.claims import ClaimedItem, Lease
from gristmill.store.spans import Waiting
from gristmill.store.verdicts import Answered, End, Ended, Retried
from gristmill.upstream.circuit import Circuit
from gristmill.vault import VaultError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class HeldLease:
    """A lease, how many of its items are still without a verdict, and the verdicts that are not on their way yet."""

    lease: Lease
    remaining: int
    ended: list[End] = field(default_factory=list)
    retried: list[Retried] = field(default_factory=list)
    unstarted: list[Waiting] = field(default_factory=list)

    @property
    def verdicts(self) -> int:
        """How many of them."""
        return len(self.ended) + len(self.retried) + len(self.unstarted)

    def begin(self) -> Sequence[ClaimedItem]:
        """Its items, which are not the lease's any more: each goes as it ends."""
        items = self.lease.items
        self.lease = replace(self.lease, items=())
        return items


@dataclass(slots=True)
class Load:
    """One processor's share of this worker. What has ended is added up here and told by the watch: a metric costs 2 µs each
    time, this a hundredth."""

    in_hand: int = 0  # items claimed and without a verdict
    succeeded: int = 0  # since the watch last looked, as the two below
    failed: Counter[int | None] = field(default_factory=Counter)  # by code
    requeued: Counter[str] = field(default_factory=Counter)  # by reason

    def note(self, verdict: End | Retried) -> None:
        if isinstance(verdict, Retried):
            self.requeued["waiting" if verdict.waiting else "retry"] += 1
        elif verdict.code is None:
            self.succeeded += 1
        else:
            self.failed[verdict.code] += 1


@dataclass(frozen=True, slots=True)
class Job:
    """What all items of a batch share, ready for use."""

    assignment: Assignment
    load: Load
    processor: Processor[Any, Any]
    config: Any
    read: Callable[[str], Any]  # from JSON to the processor's input model
    services: Services  # with the batch's own key and model, where it brought some
    circuit: Circuit | None  # of what the items call
    refusal: Failure | None  # set: what was stored cannot be used here, so none of the items can be run

    def hold(self, count: int) -> None:
        """So many more of its items, or fewer, are claimed and without a verdict."""
        self.load.in_hand += count
        if self.circuit:
            self.circuit.in_hand += count


Work = tuple[Job, HeldLease, ClaimedItem]  # of a class of its own it would take 0.1 µs more


def prepared(
    assignment: Assignment,
    load: Load,
    processor: Processor[Any, Any],
    services: Services,
    circuit: Circuit | None = None,
) -> Job:
    read = processor.input_model.__pydantic_validator__.validate_json  # model_validate_json costs 1.4 µs more
    try:
        services = _on(circuit, _with_own_upstream(assignment, services))
        config = processor.config_model.model_validate_json(_opened(assignment, services.decrypt))
    except VaultError:
        return Job(assignment, load, processor, None, read, services, circuit, _UNREADABLE)
    except Exception:  # nearly always a ValidationError; a validator of its own may raise anything
        return Job(assignment, load, processor, None, read, services, circuit, _UNFIT)
    return Job(assignment, load, processor, config, read, services, circuit, None)


def _on(circuit: Circuit | None, services: Services) -> Services:
    upstream = None if services.upstream is None else services.upstream.on(circuit)
    return services if circuit is None else replace(services, circuit=circuit, upstream=upstream)


def _with_own_upstream(assignment: Assignment, services: Services) -> Services:
    """Raises VaultError, also where the batch's own key is gone: the operator's must never take its place unasked."""
    if assignment.upstream is None or services.upstream is None:
        return services
    brought = orjson.loads(assignment.upstream)
    api_key = None
    if brought["own_key"]:
        if assignment.upstream_key is None:
            raise VaultError("the batch has ended")
        bound_to = upstream_binding(assignment.batch_id)
        api_key = services.decrypt(assignment.upstream_key, bound_to).decode()
    return replace(services, upstream=services.upstream.with_own(api_key, brought["model"]))


def _opened(assignment: Assignment, decrypt: Callable[[bytes, str], bytes]) -> str:
    """Raises VaultError; LookupError for secrets that have no place in the configuration."""
    if assignment.config_secrets is None:
        return assignment.config
    secrets = decrypt(assignment.config_secrets, binding(assignment.batch_id))
    return put_back(assignment.config, secrets)


_UNFIT = Failure(
    ItemError(
        500,
        "configuration_unfit",
        "The batch's stored configuration does not fit the processor that is installed on this worker.",
        suggestion="Run the same version of the processor on the API and on every worker.",
    )
)
_UNREADABLE = Failure(
    ItemError(
        500,
        "secret_unreadable",
        "The secrets of the batch cannot be decrypted.",
        suggestion="Start the worker with the GRISTMILL_SECRET_KEY under which the batch was made.",
    )
)


async def run(job: Job, held: HeldLease, item: ClaimedItem) -> Outcome:
    """No transaction is open here: a processor may take as long as its timeout, which is watched from outside."""
    lease = held.lease
    if job.refusal is not None:
        return job.refusal
    context = Context(
        job.assignment.tenant_id,
        lease.batch_id,
        item.ordinal,
        item.custom_id,
        lease.attempt,
        job.config,
        job.services,
        lease.id if job.processor.uses_checkpoints else None,
    )
    try:
        return await job.processor.run(job.read(item.input), context)
    except (CheckpointTooLarge, CheckpointsAway, LeaseLost) as trouble:
        return _without_checkpoint(trouble)
    except SourceRefused as refused:
        return refused.outcome()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # whatever a library calls an exception
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # over its time, or the worker ends: whatever came of that
            raise asyncio.CancelledError from None
        _tell(job, held, error)
        return Failure(
            ItemError(500, "processor_error", f"The processor failed with {type(error).__name__}.")
        )


def _without_checkpoint(trouble: Exception) -> Outcome:
    match trouble:
        case CheckpointTooLarge():
            message = f"What the item would have to keep between its stages is larger than {MAX_BYTES} bytes."
            suggestion = "Split the input into several requests."
            return Failure(ItemError(500, "checkpoint_too_large", message, suggestion=suggestion))
        case CheckpointsAway():
            message = "How far the item has come could be neither read nor kept."
            error = ItemError(500, "checkpoints_unavailable", message, retryable=True)
            return Retry(error, waiting=True)
    # Another worker has the item, so this is recorded nowhere.
    return Retry(ItemError(500, "lease_lost", "The item is another worker's by now.", retryable=True))


def _tell(job: Job, held: HeldLease, error: BaseException) -> None:
    """A bug of the processor ends its item. What it raised may quote the input: neither the log nor the caller
    gets more than its type, and the log the place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error(
        "processor failed",
        extra={
            "processor": job.assignment.processor,
            "batch_id": str(held.lease.batch_id),
            "error": type(error).__name__,
            "place": f"{place.filename}:{place.lineno}",
        },
    )


def timed_out(job: Job) -> Retry:
    seconds = job.assignment.item_timeout_seconds
    return Retry(
        ItemError(
            500,
            "item_timeout",
            f"The item ran longer than {seconds:g} seconds.",
            retryable=True,
            suggestion="Allow more time with item_timeout_seconds.",
        )
    )


def excused(outcome: Retry) -> Retry:
    """The other side is away: it was no attempt, and the circuit says when the next may begin."""
    return replace(outcome, waiting=True, delay_seconds=0.0)


def settle(job: Job, held: HeldLease, item: ClaimedItem, outcome: Outcome) -> End | Retried:
    """What the store is to be told: the item's end, or that it waits for another attempt.

    A processor may answer with anything. What would break the flush, and with it the results of others, ends its item.
    """
    try:
        if (
            type(outcome) is Success
            and outcome.output is not None
            and outcome.content is None
            and outcome.usage is None
            and outcome.turn is None
            and item.history_id is None
            and not job.processor.uses_checkpoints
        ):
            try:
                return Answered(held.lease, item.ordinal, orjson.dumps(outcome.output).decode())
            except TypeError:  # no JSON: `_succeeded` says so
                pass
        return _settled(job, held, item, outcome)
    except Exception as error:
        _tell(job, held, error)
        message = "The processor answered with something that cannot be kept."
        return _failed(held, item, ItemError(500, "processor_error", message), None)


def _settled(job: Job, held: HeldLease, item: ClaimedItem, outcome: Outcome) -> End | Retried:
    if not isinstance(outcome, Outcome):
        raise TypeError
    verdict: Verdict = decide(
        outcome,
        attempt=held.lease.attempt,
        max_attempts=job.assignment.max_attempts,
        policy=job.processor.retry,
    )
    match verdict:
        case Success():
            return _succeeded(job, held, item, verdict)
        case Failure(error, usage):
            return _failed(held, item, error, usage)
        case Requeue(delay_seconds, attempts_used, error, waiting):
            ended = _failed(held, item, error, outcome.usage)
            return Retried(ended, attempts_used, delay_seconds, waiting)
        case _:
            raise TypeError


def _succeeded(job: Job, held: HeldLease, item: ClaimedItem, success: Success) -> Ended:
    try:
        # Not kept as bytes: those have the room in which they were written, and a worker keeps thousands.
        output = None if success.output is None else orjson.dumps(success.output).decode()
    except TypeError:
        error = ItemError(500, "processor_error", "The processor answered with something that is not JSON.")
        return _failed(held, item, error, success.usage)
    ended = _ended(held, item, success.usage)
    ended.output = output
    ended.content = None if success.content is None else _storable(success.content)
    ended.turn = success.turn
    ended.checkpointed = job.processor.uses_checkpoints
    return ended


def _failed(held: HeldLease, item: ClaimedItem, error: ItemError, usage: Usage | None) -> Ended:
    if error.code not in ERROR_CODES:
        raise ValueError
    ended = _ended(held, item, usage)
    ended.code = error.code
    ended.error = _storable(orjson.dumps(error.as_json()).decode())
    return ended


def _ended(held: HeldLease, item: ClaimedItem, usage: Usage | None) -> Ended:
    ended = Ended(held.lease, item.ordinal, history_id=item.history_id)
    if usage is not None:
        ended.usage = orjson.dumps(usage.as_json()).decode()
        ended.calls = len(usage.calls)
        ended.prompt_tokens = usage.prompt_tokens
        ended.completion_tokens = usage.completion_tokens
        ended.cost_microusd = usage.cost_microusd or 0
    return ended


def _storable(text: str) -> str:
    """Postgres' text holds neither NUL nor lone surrogates; a model may answer with either."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
