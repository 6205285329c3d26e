"""Jobs at work: their status, and pause, resume and cancel."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.dialects import base
from gristmill.dialects.tagging import words
from gristmill.domain.states import BatchStatus
from gristmill.store import batches, transitions
from gristmill.store.batches import Batch, BatchFilters

MOST_ACTIVE = 1000

router = APIRouter(include_in_schema=False)


@router.get("/api/batch/jobs/{job_id}/status")
async def get_status(request: Request, job_id: str) -> Response:
    key = await caller(request, "batches:read")
    return as_json(words.state(await words.job(request, key, job_id)))


@router.post("/api/batch/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: str) -> Response:
    """What runs ends by itself; what waits ends at once."""
    return await _turn(request, job_id, transitions.cancel, "Job cancelled")


@router.post("/api/batch/jobs/{job_id}/pause")
async def pause(request: Request, job_id: str) -> Response:
    """Shown as paused at once; the documents that are being processed are still completed."""
    return await _turn(request, job_id, transitions.pause, "Job paused")


@router.post("/api/batch/jobs/{job_id}/resume")
async def resume(request: Request, job_id: str) -> Response:
    return await _turn(request, job_id, transitions.resume, "Job resumed")


async def _turn(
    request: Request, job_id: str, action: Callable[[Any, UUID, UUID], Awaitable[Batch]], message: str
) -> Response:
    key = await caller(request, "batches:write")
    await base.ignore_body(request)
    of = parts(request)
    found = await words.job(request, key, job_id)
    async with of.database.transaction() as tx:
        await action(tx, key.tenant_id, found.id)
    of.wake()
    return as_json({"message": message, "job_id": job_id})


@router.get("/api/batch/active")
async def list_active(request: Request) -> Response:
    """The caller's own that run or are paused, newest first: at most 1,000 of each."""
    key = await caller(request, "batches:read")
    found: list[Batch] = []
    async with parts(request).database.connection() as connection:
        for status in (BatchStatus.IN_PROGRESS, BatchStatus.PAUSED):
            mine = BatchFilters(status=status, created_by=key.name, dialect=words.NAME)
            found += (await batches.page(connection, key.tenant_id, mine, limit=MOST_ACTIVE))[0]
    found.sort(key=lambda batch: batch.id, reverse=True)
    return as_json({"jobs": [words.state(batch) for batch in found]})
