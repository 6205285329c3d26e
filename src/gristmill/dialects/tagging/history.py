"""Jobs of the past, with their documents; what has ended can be deleted."""

from enum import StrEnum
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.tagging import words
from gristmill.domain.states import BatchStatus
from gristmill.store import batches, results, transitions
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.results import Result

MOST_DOCUMENTS = 1000

router = APIRouter(include_in_schema=False)


class _Word(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# What has not begun and what runs is one status of ours; a job that is being cancelled is in neither list.
_STATUSES = {_Word.PENDING: BatchStatus.IN_PROGRESS, _Word.PROCESSING: BatchStatus.IN_PROGRESS}


@router.get("/api/history/jobs")
async def list_jobs(request: Request) -> Response:
    """The caller's own, newest first."""
    key = await caller(request, "batches:read")
    query = Query(request, ("limit", "offset", "status"), lenient=True)
    limit, offset = query.integer("limit", 1, 100, 50), query.integer("offset", 0, 2**31, 0)
    asked = query.choice("status", _Word)
    query.check()
    status = None if asked is None else _STATUSES.get(asked) or BatchStatus(asked.value)
    mine = BatchFilters(status=status, created_by=key.name, dialect=words.NAME)
    async with parts(request).database.connection() as connection:
        found, total = await batches.page(connection, key.tenant_id, mine, limit=limit, offset=offset)
    jobs = [_summary(batch) for batch in found]
    return as_json({"jobs": jobs, "total": total, "limit": limit, "offset": offset})


@router.get("/api/history/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """With its documents in their order: 1,000 from `offset` on, or fewer by `limit`."""
    key = await caller(request, "batches:read")
    query = Query(request, ("limit", "offset"), lenient=True)
    limit = query.integer("limit", 1, MOST_DOCUMENTS, MOST_DOCUMENTS)
    offset = query.integer("offset", 0, 2**31 - 1 - MOST_DOCUMENTS, 0)
    query.check()
    batch = await words.job(request, key, job_id)
    async with parts(request).database.connection() as connection:
        found = await results.window(connection, batch, offset, limit)
        inputs = await results.inputs(connection, batch, [one.ordinal for one in found])
    error = orjson.loads(batch.error)["message"] if batch.error else None
    detail = {"config": _config(batch), "error_message": error}
    documents = [_document(batch, one, inputs[one.ordinal]) for one in found]
    return as_json(_summary(batch) | detail | {"documents": documents})


@router.delete("/api/history/jobs/{job_id}")
async def delete_job(request: Request, job_id: str) -> Response:
    """Not before it has ended."""
    key = await caller(request, "batches:write")
    await base.ignore_body(request)
    batch = await words.job(request, key, job_id)
    async with parts(request).database.transaction() as tx:
        await transitions.delete(tx, key.tenant_id, batch.id)
    return as_json({"message": "Job deleted successfully", "job_id": job_id})


def _summary(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.dialect_key,
        "job_type": "batch",
        "status": words.word(batch),
        "total_documents": batch.total,
        "processed_count": batch.success,
        "failed_count": batch.failed,
        "started_at": batch.created_at,
        "completed_at": batch.ended_at,
        "created_at": batch.created_at,
    }


def _config(batch: Batch) -> dict[str, Any]:
    """Without the key, which is nowhere any more once the job has ended."""
    return {name: value for name, value in base.facts(batch).items() if name != "fingerprint"}


def _document(batch: Batch, result: Result, text: str) -> dict[str, Any]:
    given = orjson.loads(text)
    told = words.document(batch, result, given if isinstance(given, dict) else {})
    return {
        "id": f"{batch.id}-{result.ordinal}",
        "title": told["title"],
        "file_path": given.get("source", "") if isinstance(given, dict) else "",
        "file_source_type": given.get("source_type", "") if isinstance(given, dict) else "",
        "status": told["status"],
        "tags": told["tags"],
        "error_message": told["error"],
        "processed_at": result.processed_at,
        "created_at": batch.created_at,
    }
