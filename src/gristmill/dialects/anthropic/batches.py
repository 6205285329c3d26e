"""`/v1/messages/batches`: up to 100,000 requests in one create, read as they arrive."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gristmill.api import body, inline
from gristmill.api.aside import large
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json, dumps
from gristmill.api.idempotency import Once
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.api.result_streams import windows
from gristmill.api.upload import Upload
from gristmill.dialects import base
from gristmill.dialects.anthropic.words import BATCH, NAME, outcome, status
from gristmill.dialects.base import facts, inward, outward, position
from gristmill.dialects.making import Making
from gristmill.domain.errors import Conflict, Invalid, Problem
from gristmill.intake import json
from gristmill.intake.elements import Elements
from gristmill.intake.problems import pointer
from gristmill.intake.rows import MAX_LINE_BYTES
from gristmill.processors.messages import Messages
from gristmill.store import batches, transitions
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.origins import Origin

MAX_REQUESTS = 100_000
MAX_BYTES = 256 * 1024 * 1024
_AROUND_BYTES = 64 * 1024
_DEADLINE_SECONDS = 86_400
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_PATH = "/v1/messages/batches"

router = APIRouter(prefix=_PATH, include_in_schema=False)


def view(batch: Batch) -> dict[str, Any]:
    batch_id = outward(BATCH, batch.id)
    return {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": status(batch),
        "request_counts": {
            "processing": batch.pending + batch.processing,
            "succeeded": batch.success,
            "errored": batch.failed - batch.cancelled - batch.expired,
            "canceled": batch.cancelled,
            "expired": batch.expired,
        },
        "created_at": batch.created_at,
        "expires_at": batch.deadline_at,
        "ended_at": batch.ended_at,
        "cancel_initiated_at": facts(batch).get("cancel_initiated_at"),
        "archived_at": None,
        # Relative: clients send their key along, so it must lead nowhere but here, by whatever name they know us.
        "results_url": f"{_PATH}/{batch_id}/results" if batch.ended_at else None,
    }


@router.post("")
async def create_batch(request: Request) -> Response:
    key = await caller(request, "batches:write")
    body.check_json_type(request)
    making = Making.begin(request, key, _PATH)
    canonical = {"processor": Messages.name, "deadline_seconds": _DEADLINE_SECONDS}
    async with Upload(making.of, key.tenant_id) as upload:
        requests = _requests(request, making.once)
        new, content = await inline.read(making.of, key, upload, canonical, requests, most=MAX_REQUESTS)
        return await making.stored((replace(new, origin=Origin(NAME)), content), view, upload.kept)


async def _requests(request: Request, once: Once) -> AsyncIterator[dict[str, Any]]:
    """As they arrive. Raises Invalid for the first that is none; its parameters are looked at when it runs."""
    elements = Elements("requests", element_bytes=MAX_LINE_BYTES, rest_bytes=_AROUND_BYTES)
    digest = hashlib.sha256()
    index = 0
    async for piece in body.stream(request, MAX_BYTES):
        digest.update(piece)
        for text in elements.feed(piece):
            yield await asyncio.to_thread(_read, index, text) if large(text) else _read(index, text)
            index += 1
    elements.rest()
    once.fingerprint(digest.digest())


def _read(index: int, text: bytes) -> dict[str, Any]:
    at = pointer("requests", index)
    try:
        given = json.parse(text, dict)
    except Invalid as refused:
        raise Invalid([Problem(at, one.code, one.detail) for one in refused.problems]) from None
    custom_id = given.get("custom_id")
    if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
        detail = "1 to 64 letters, digits, underscores and hyphens"
        raise Invalid([Problem(f"{at}/custom_id", "invalid_custom_id", detail)])
    return {"custom_id": custom_id, "input": given.get("params")}


@router.get("")
async def list_batches(request: Request) -> Response:
    """Newest first; `before_id` is the page above that batch."""
    key = await caller(request, "batches:read")
    query = Query(request, ("after_id", "before_id", "limit"), lenient=True)
    limit = query.integer("limit", 1, 1000, 20)
    before, behind = position(query, "after_id", BATCH), position(query, "before_id", BATCH)
    query.check()
    filters = BatchFilters(dialect=NAME)
    async with parts(request).database.connection() as connection:
        found, _ = await batches.page(
            connection, key.tenant_id, filters, limit=limit + 1, before=before, behind=behind
        )
    more = len(found) > limit
    shown = [view(batch) for batch in (found[:limit] if behind is None else found[-limit:])]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return as_json({"data": shown, "has_more": more, "first_id": first, "last_id": last})


@router.get("/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    key = await caller(request, "batches:read")
    return as_json(view(await base.find(request, key, NAME, inward(BATCH, batch_id))))


@router.post("/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What has ended by then stays."""
    key = await caller(request, "batches:write")
    await base.ignore_body(request)
    batch = await base.find(request, key, NAME, inward(BATCH, batch_id))
    now = {"cancel_initiated_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    return as_json(view(await base.cancelled(parts(request), batch, _not_cancelled, now)))


def _not_cancelled(batch: Batch) -> str:
    return f"a batch whose processing_status is {status(batch)} cannot be canceled"


@router.delete("/{batch_id}")
async def delete_batch(request: Request, batch_id: str) -> Response:
    """With its results. Only once it has ended."""
    key = await caller(request, "batches:write")
    batch = await base.find(request, key, NAME, inward(BATCH, batch_id))
    try:
        async with parts(request).database.transaction() as tx:
            await transitions.delete(tx, key.tenant_id, batch.id)
    except Conflict:
        detail = f"a batch whose processing_status is {status(batch)} cannot be deleted"
        raise Conflict(detail, code="wrong_status") from None
    return as_json({"id": batch_id, "type": "message_batch_deleted"})


@router.get("/{batch_id}/results")
async def get_results(request: Request, batch_id: str) -> Response:
    """One a line, in the order of the requests. Only once the batch has ended."""
    key = await caller(request, "batches:read")
    batch = await base.find(request, key, NAME, inward(BATCH, batch_id))
    if status(batch) != "ended":
        raise Conflict("the batch has no results before it has ended", code="wrong_status")
    return StreamingResponse(_lines(parts(request), batch), media_type="application/x-jsonl")


async def _lines(of: Parts, batch: Batch) -> AsyncIterator[bytes]:
    async for window in windows(of, batch, {}):
        lines = [dumps({"custom_id": one.custom_id, "result": outcome(one)}) for one in window]
        yield b"\n".join(lines) + b"\n"
