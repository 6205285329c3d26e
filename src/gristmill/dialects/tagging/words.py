"""Jobs and their documents in the words of seed 001."""

import re
from typing import Any

import orjson
from starlette.requests import Request

from gristmill.api.parts import Parts, parts
from gristmill.dialects.base import facts
from gristmill.domain.errors import Invalid, NotFound, Problem
from gristmill.domain.states import BatchStatus, ItemStatus
from gristmill.store import origins
from gristmill.store.batches import Batch
from gristmill.store.keys import Key
from gristmill.store.results import Result

NAME = "tagging"
_JOB_ID = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
_WORDS = {
    BatchStatus.IN_PROGRESS: "processing",
    BatchStatus.PAUSED: "paused",
    BatchStatus.CANCELLING: "processing",
    BatchStatus.COMPLETED: "completed",
    BatchStatus.FAILED: "failed",
    BatchStatus.CANCELLED: "cancelled",
}
# What the model's endpoint answered, or did not; what is wrong with a document is none of these words.
_BUSY = (429, 529)
_NETWORK = frozenset(
    {"upstream_unavailable", "upstream_timeout", "upstream_connection_lost", "url_unreachable"}
)


def checked(job_id: str) -> str:
    """Raises Invalid for what no job can be called."""
    if _JOB_ID.fullmatch(job_id):
        return job_id
    detail = "Invalid job ID: 1 to 128 of the characters A-Z a-z 0-9 . _ : ~ -"
    raise Invalid([Problem("/job_id", "invalid_job_id", detail)])


async def find(of: Parts, key: Key, job_id: str) -> Batch:
    """Raises NotFound, Invalid."""
    checked(job_id)
    async with of.database.connection() as connection:
        try:
            return await origins.with_key(connection, key.tenant_id, NAME, job_id)
        except NotFound:
            raise NotFound("Job does not exist") from None


async def job(request: Request, key: Key, job_id: str) -> Batch:
    return await find(parts(request), key, job_id)


def word(batch: Batch) -> str:
    """`pending` until a document is taken up."""
    untouched = batch.processing == 0 and batch.success + batch.failed == 0
    return "pending" if untouched and batch.status is BatchStatus.IN_PROGRESS else _WORDS[batch.status]


def state(batch: Batch) -> dict[str, Any]:
    """`processed_count` counts successes; `progress` has the failed in it, too. The seed's text and the code behind it
    name the total in different ways: both are there."""
    return {
        "job_id": batch.dialect_key,
        "status": word(batch),
        "total_documents": batch.total,
        "total": batch.total,
        "processed_count": batch.success,
        "failed_count": batch.failed,
        "results_count": batch.success + batch.failed,
        "processing_count": batch.processing,
        "progress": batch.progress,
    }


def document(batch: Batch, result: Result, given: dict[str, Any]) -> dict[str, Any]:
    """A document that has ended, or waits; `given`: its input."""
    output = orjson.loads(result.output) if result.output else {}
    error = orjson.loads(result.error) if result.error else None
    return {
        "row_id": result.ordinal,
        "row_number": result.ordinal + 1,
        "title": title(given),
        "status": "success" if result.status is ItemStatus.SUCCESS else result.status.value,
        "success": result.status is ItemStatus.SUCCESS,
        "tags": output.get("tags", []),
        "error": error["message"] if error else None,
        "error_type": error_type(error),
        "retry_after_ms": None,
        "retry_count": max((result.attempt or 1) - 1, 0),
        "model_name": output.get("model") or facts(batch).get("model_name"),
        "metadata": output.get("metadata", {}),
    }


def title(given: dict[str, Any]) -> str:
    found = given.get("title") or given.get("filename") or given.get("source") or ""
    return found if isinstance(found, str) else ""


def error_type(error: dict[str, Any] | None) -> str | None:
    """None: nothing failed, or it was the document."""
    if error is None:
        return None
    if error.get("upstream_status") in _BUSY:
        return "rate-limit"
    kind = str(error.get("type"))
    if kind in _NETWORK:
        return "network"
    return "model-error" if kind.startswith("upstream_") or kind == "no_tags" else None


def seconds(batch: Batch) -> float:
    """From the creation to the end."""
    ended = batch.ended_at
    return round((ended - batch.created_at).total_seconds(), 2) if ended else 0.0
