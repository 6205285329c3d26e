"""Batches: create, list, get, pause, resume, cancel, delete."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, create, envelope, idempotency, pages, storing
from gristmill.api.auth import caller
from gristmill.api.envelope import answer, fragment
from gristmill.api.openapi import (
    CHANGE,
    LIST,
    PAGE,
    READ,
    WRITE,
    documented,
    enveloped,
    json_body,
    paged,
    parameter,
    ref,
    responses,
)
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query, uuid_of
from gristmill.api.schemas import BATCH_EXAMPLES, BatchChange
from gristmill.domain.errors import NotFound
from gristmill.domain.limits import FailureThreshold
from gristmill.domain.states import BatchStatus
from gristmill.domain.webhooks import from_json
from gristmill.intake import json
from gristmill.store import batches, transitions
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.keys import Key
from gristmill.store.transitions import Changes

MAX_WAIT_SECONDS = 60
_CHANGE_BYTES = 64 * 1024
_FILTERS = (
    "status",
    "processor",
    "agent_id",
    "created_after",
    "created_before",
    "name",
    "collection",
    "created_by",
)
_METADATA = "metadata."

router = APIRouter(prefix="/api/v1/batches", tags=["Batches"])


def view(batch: Batch) -> dict[str, Any]:
    """The nine keys of seed 004 first, then ours. `completed_requests` counts successes only."""
    return {
        "id": batch.id,
        "status": batch.status,
        "agent_id": batch.agent_id,
        "total_requests": batch.total,
        "completed_requests": batch.success,
        "failed_requests": batch.failed,
        "created_at": batch.created_at,
        "completed_at": batch.completed_at,
        "cancelled_at": batch.cancelled_at,
        "pending_requests": batch.pending,
        "processing_requests": batch.processing,
        "cancelled_requests": batch.cancelled,
        "expired_requests": batch.expired,
        "progress": batch.progress,
        "throughput": batch.throughput,
        "eta_seconds": batch.eta_seconds,
        "waiting_reason": batch.waiting_reason,
        "usage": _usage(batch),
        "processor": batch.processor,
        "configuration_id": batch.configuration_id,
        "upstream": fragment(batch.upstream),
        "name": batch.name,
        "metadata": batch.metadata,
        "collection": batch.collection,
        "created_by": batch.created_by,
        "priority": batch.priority,
        "max_attempts": batch.max_attempts,
        "item_timeout_seconds": batch.item_timeout_seconds,
        "max_concurrency": batch.max_concurrency,
        "failure_threshold": _threshold(batch.failure_threshold),
        "budget": batch.budget,
        "deadline_seconds": batch.deadline_seconds,
        "deadline_at": batch.deadline_at,
        "run": batch.run,
        "retention_days": batch.retention_days,
        "expires_at": batch.expires_at,
        "webhook": {"url": batch.webhook_url, "events": batch.webhook_events} if batch.webhook_url else None,
        "webhooks": [
            {"url": one.url, "events": one.events, "signatures": one.signatures}
            for one in from_json(batch.webhooks)
        ],
        "error": fragment(batch.error),
    }


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "total_calls": batch.calls,
        "total_prompt_tokens": batch.prompt_tokens,
        "total_completion_tokens": batch.completion_tokens,
        "total_tokens": batch.prompt_tokens + batch.completion_tokens,
        "cost_microusd": batch.cost_microusd,
    }


def _threshold(limit: FailureThreshold | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    return {"ratio": float(limit.ratio), "minimum": limit.minimum, "action": limit.action}


def id_of(batch_id: str) -> UUID:
    """Raises NotFound for what cannot be an id: such a batch does not exist."""
    found = uuid_of(batch_id)
    if found is None:
        raise NotFound("no such batch")
    return found


async def find(of: Parts, key: Key, batch_id: str) -> Batch:
    return (await of.reads.batch(key.tenant_id, id_of(batch_id))).batch


@router.post(
    "",
    status_code=202,
    summary="Create a batch",
    responses=responses(*WRITE, 409, 422),
    openapi_extra=documented(
        idempotency.HEADER,
        body=json_body("BatchCreate", BATCH_EXAMPLES),
        answer=enveloped(ref("BatchAnswer")),
        status=202,
    ),
)
async def create_batch(request: Request) -> Response:
    """Stores the whole batch or nothing. No request of it starts before the answer is decided."""
    key = await caller(request, "batches:write")
    of = parts(request)
    once = idempotency.Once(of, request, key.tenant_id)
    text = await body.read_json_text(request, of.settings.body_max_bytes)
    async with of.aside.turn(text) as run:
        await run(once.fingerprint, text)
        if (before := await once.before()) is not None:
            return before
        new, content = await create.new_batch(of, key, await run(json.parse, text, dict), run)
        return await storing.answered(of, once, (new, content), _made)


def _made(batch: Batch) -> Response:
    return answer(view(batch), 202, headers={"Location": f"/api/v1/batches/{batch.id}"})


@router.get(
    "",
    summary="List batches",
    responses=responses(*LIST),
    openapi_extra=documented(
        *PAGE,
        parameter(
            "status", {"enum": [status.value for status in BatchStatus]}, "Only batches in this status"
        ),
        parameter("processor", {"type": "string"}, "Only batches of this processor"),
        parameter("agent_id", {"type": "string", "format": "uuid"}, "Only batches with this default agent"),
        parameter("created_after", {"type": "string", "format": "date-time"}, "Only later ones"),
        parameter("created_before", {"type": "string", "format": "date-time"}, "Only earlier ones"),
        parameter("name", {"type": "string"}, "Only batches of this name"),
        parameter("collection", {"type": "string"}, "Only batches of this collection"),
        parameter("created_by", {"type": "string"}, "Only batches made with the API key of this name"),
        parameter(
            "metadata.<key>",
            {"type": "string"},
            "Only batches with this value; may be given for several keys",
        ),
        answer=paged(ref("BatchAnswer")),
    ),
)
async def list_batches(request: Request) -> Response:
    """Newest first. Links to other pages keep every filter."""
    key = await caller(request, "batches:read")
    query = Query(request, (*pages.PARAMETERS, *_FILTERS), prefix=_METADATA)
    filters = _filters(query)
    page = pages.asked(request, query, key, "batches")
    async with parts(request).database.connection() as connection:
        found, total = await batches.page(
            connection,
            key.tenant_id,
            filters,
            limit=page.fetch,
            offset=page.skip,
            before=page.before,
        )
    rows = pages.rows(page, found, total, lambda batch: batch.id)
    return pages.listing(page, rows, [view(batch) for batch in rows.shown])


def _filters(query: Query) -> BatchFilters:
    pairs = [name for name in query.values if name.startswith(_METADATA)]
    return BatchFilters(
        status=query.choice("status", BatchStatus),
        processor=query.text("processor"),
        agent_id=query.uuid("agent_id"),
        created_after=query.instant("created_after"),
        created_before=query.instant("created_before"),
        name=query.text("name"),
        collection=query.text("collection"),
        created_by=query.text("created_by"),
        metadata={name.removeprefix(_METADATA): query.text(name, 512) or "" for name in pairs},
    )


@router.get(
    "/{batch_id}",
    summary="Get a batch",
    responses=responses(*READ, 410),
    openapi_extra=documented(
        parameter(
            "wait",
            {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0},
            "Answer only when the status has changed, or after so many seconds",
        ),
        answer=enveloped(ref("BatchAnswer")),
    ),
)
async def get_batch(request: Request, batch_id: str) -> Response:
    """Counts are one snapshot: total = pending + processing + completed + failed."""
    key = await caller(request, "batches:read")
    query = Query(request, ("wait",))
    seconds = query.integer("wait", 0, MAX_WAIT_SECONDS, 0)
    query.check()
    of = parts(request)
    seen = await of.reads.batch(key.tenant_id, id_of(batch_id))
    if seconds and seen.batch.ended_at is None:
        return answer(view(await of.watch.changed(seen.batch, seconds, of.draining)))
    if seen.text is None:
        seen.text = envelope.enveloped(view(seen.batch))
    return Response(seen.text, media_type="application/json")


@router.patch(
    "/{batch_id}",
    summary="Change a batch",
    responses=responses(*CHANGE, 409, 410),
    openapi_extra=documented(
        body=json_body(
            "BatchChange", {"faster": {"summary": "Sooner", "value": {"priority": 50, "max_concurrency": 20}}}
        ),
        answer=enveloped(ref("BatchAnswer")),
    ),
)
async def change_batch(request: Request, batch_id: str) -> Response:
    """What is not named stays. Priority, concurrency and deadline while it runs or is paused: the next claim goes by
    them; the others at any time."""
    key = await caller(request, "batches:write")
    Query(request, ()).check()
    of = parts(request)
    given = await body.read_model(request, BatchChange, _CHANGE_BYTES)
    unlimited = "max_concurrency" in given.model_fields_set and given.max_concurrency is None
    changes = Changes(**dict(given), any_concurrency=unlimited)
    async with of.database.transaction() as tx:
        batch = await transitions.change(tx, key.tenant_id, id_of(batch_id), changes)
    of.wake()
    return answer(view(batch))


_ACTION: dict[str, Any] = {
    "status_code": 202,
    "responses": responses(*CHANGE, 409, 410),
    "openapi_extra": documented(answer=enveloped(ref("BatchAnswer")), status=202),
}


@router.post("/{batch_id}/pause", summary="Pause a batch", **_ACTION)
async def pause_batch(request: Request, batch_id: str) -> Response:
    """No request starts after the answer; those in flight finish normally. Only from in_progress."""
    key = await _actor(request)
    async with parts(request).database.transaction() as tx:
        batch = await transitions.pause(tx, key.tenant_id, id_of(batch_id))
    return answer(view(batch), 202)


@router.post("/{batch_id}/resume", summary="Resume a paused batch", **_ACTION)
async def resume_batch(request: Request, batch_id: str) -> Response:
    """Only from paused."""
    key = await _actor(request)
    of = parts(request)
    async with of.database.transaction() as tx:
        batch = await transitions.resume(tx, key.tenant_id, id_of(batch_id))
    of.wake()
    return answer(view(batch), 202)


@router.post("/{batch_id}/cancel", summary="Cancel a batch", **_ACTION)
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Pending requests end as failed with code 499, those in flight finish normally. From in_progress or paused."""
    key = await _actor(request)
    of = parts(request)
    async with of.database.transaction() as tx:
        batch = await transitions.cancel(tx, key.tenant_id, id_of(batch_id))
    of.wake()
    return answer(view(batch), 202)


async def _actor(request: Request) -> Key:
    """The caller of an action that takes no body, or an empty object."""
    key = await caller(request, "batches:write")
    Query(request, ()).check()
    await body.read_nothing(request)
    return key


@router.delete(
    "/{batch_id}",
    status_code=204,
    summary="Delete an ended batch",
    responses=responses(*READ, 409, 410),
    openapi_extra=documented(),
)
async def delete_batch(request: Request, batch_id: str) -> Response:
    """With its requests, results and deliveries. Chats stay. Only completed, failed or cancelled batches."""
    key = await caller(request, "batches:write")
    Query(request, ()).check()
    async with parts(request).database.transaction() as tx:
        await transitions.delete(tx, key.tenant_id, id_of(batch_id))
    return Response(status_code=204)
