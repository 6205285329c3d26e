"""How a result is shown, with the stage of its item where the processor works in stages, and its attempts."""

from typing import Any

import orjson

from gristmill import processors
from gristmill.api.envelope import fragment
from gristmill.domain.checkpoints import Checkpoint
from gristmill.domain.states import ItemStatus
from gristmill.intake.draft import AnyProcessor
from gristmill.store.batches import Batch
from gristmill.store.results import Attempt, Result


def view(result: Result, staged: AnyProcessor | None = None) -> dict[str, Any]:
    """The nine keys of seed 004 first. JSON text from the database goes out as it is. `staged`: see `staged_by`."""
    shown = {
        "custom_id": result.custom_id,
        "status": result.status,
        "response_content": result.content,
        "response_usage": fragment(result.usage),
        "error_code": result.code,
        "error_message": orjson.loads(result.error)["message"] if result.error else None,
        "history_id": result.history_id,
        "conversation_id": result.conversation_id,
        "processed_at": result.processed_at,
        "output": fragment(result.output),
        "error": fragment(result.error),
        "attempt": result.attempt,
        "started_at": result.started_at,
        "ordinal": result.ordinal,
    }
    return shown if staged is None else shown | stage_view(result.status, result.checkpoint, staged)


def staged_by(batch: Batch) -> AnyProcessor | None:
    """The batch's processor, if its items have stages to show."""
    return staged(batch.processor)


def staged(processor: str) -> AnyProcessor | None:
    """The processor of that name, if its items have stages to show."""
    found = processors.registry().get(processor)
    return found if found is not None and found.uses_checkpoints else None


def stage_view(status: ItemStatus, saved: Checkpoint | None, processor: AnyProcessor) -> dict[str, Any]:
    """Only for items that have a stage."""
    stage = processor.stage(status, saved.stage if saved else None)
    if stage is None:
        return {}
    return {
        "stage": stage,
        "processed_chunks": saved.done if saved else None,
        "total_chunks": saved.total if saved else None,
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "run": attempt.run,
        "attempt": attempt.attempt,
        "error_code": attempt.code,
        "error": fragment(attempt.error),
        "usage": fragment(attempt.usage),
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
    }
