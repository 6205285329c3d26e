"""`/v1/batches`: batches of the processor `completion`, from an uploaded file of OpenAI's lines."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import parts
from gristmill.api.query import Query, uuid_of
from gristmill.dialects import base
from gristmill.dialects.base import facts, inward, outward, position
from gristmill.dialects.making import Making
from gristmill.dialects.openai import endpoints, outputs
from gristmill.dialects.openai.files import LIFETIMES, listing
from gristmill.dialects.openai.words import (
    BAD_SOURCE,
    BATCH,
    FILE,
    NAME,
    errors,
    status,
    unix,
    why,
)
from gristmill.domain.errors import Invalid, Problem
from gristmill.intake import problems
from gristmill.processors.completion import Completion
from gristmill.store import batches, files
from gristmill.store.batches import Batch, BatchFilters
from gristmill.store.keys import Key
from gristmill.store.origins import Origin

_PATH = "/v1/batches"
_MAX_BODY_BYTES = 64 * 1024
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}

router = APIRouter(prefix=_PATH, include_in_schema=False)


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LIFETIMES.start, lt=LIFETIMES.stop)]


class BatchCreate(BaseModel):
    """Unknown fields are passed over. `webhook` is ours (docs/dialects.md)."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None
    webhook: dict[str, Any] | None = None


def view(batch: Batch) -> dict[str, Any]:
    known, word, over = facts(batch), status(batch), unix(batch.ended_at)
    counted = word != "validating" and why(batch) != BAD_SOURCE  # then there are requests, and results
    return {
        "id": outward(BATCH, batch.id),
        "object": "batch",
        "endpoint": known["endpoint"],
        "model": None,
        "errors": errors(batch),
        "input_file_id": known["input_file_id"],
        "completion_window": known["window"],
        "status": word,
        "output_file_id": outputs.file_id(batch, "output"),
        "error_file_id": outputs.file_id(batch, "error"),
        "created_at": unix(batch.created_at),
        "in_progress_at": unix(batch.created_at) if counted else None,
        "expires_at": unix(batch.deadline_at),
        "finalizing_at": over if word in ("completed", "expired") else None,
        "completed_at": over if word == "completed" else None,
        "failed_at": over if word == "failed" else None,
        "expired_at": over if word == "expired" else None,
        "cancelling_at": known.get("cancelling_at") if word in ("cancelling", "cancelled") else None,
        "cancelled_at": over if word == "cancelled" else None,
        "request_counts": {
            "total": batch.total if counted else 0,
            "completed": batch.success if counted else 0,
            "failed": batch.failed if counted else 0,
        },
        "usage": {
            "input_tokens": batch.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.prompt_tokens + batch.completion_tokens,
        },
        "metadata": batch.metadata or None,
    }


@router.post("")
async def create_batch(request: Request) -> Response:
    """Answers at once; a worker reads the file, and tells in `errors` what is wrong with its lines."""
    key = await caller(request, "batches:write")
    making = Making.begin(request, key, _PATH)
    asked = problems.checked(BatchCreate, await making.body(_MAX_BODY_BYTES))
    if (before := await making.once.before()) is not None:
        return before
    canonical = _canonical(asked, await _input(request, key, asked.input_file_id))
    origin = Origin(NAME, facts=orjson.dumps(_facts(asked)).decode())
    kept = await endpoints.all_of(making.of, key)
    return await making.made(
        canonical, lambda new: endpoints.told(making.of, replace(new, origin=origin), kept), view
    )


async def _input(request: Request, key: Key, file_id: str) -> UUID:
    """Raises NotFound; Invalid for a file that was uploaded for something else."""
    found = inward(FILE, file_id)
    async with parts(request).database.engine.connect() as connection:
        file = await files.get(connection, key.tenant_id, found)
    if file.purpose not in ("batch", None):
        detail = "the file must be uploaded with the purpose batch"
        raise Invalid([Problem("input_file_id", "invalid_file_purpose", detail)])
    return found


def _canonical(asked: BatchCreate, file_id: UUID) -> dict[str, Any]:
    body = {
        "processor": Completion.name,
        "config": {"path": asked.endpoint.removeprefix("/v1")},
        "source": {"file_id": str(file_id), "format": "openai"},
        "metadata": asked.metadata or {},
        "deadline_seconds": _seconds(asked.completion_window),
    }
    return body if asked.webhook is None else body | {"webhook": asked.webhook}


def _seconds(window: str) -> int:
    """OpenAI knows 24h only; others in minutes, hours or days are ours."""
    found = _WINDOW.fullmatch(window)
    if found is None:
        detail = "completion_window: 24h, or another number of m, h or d"
        raise Invalid([Problem("completion_window", "invalid_completion_window", detail)])
    return int(found[1]) * _UNITS[found[2]]


def _facts(asked: BatchCreate) -> dict[str, Any]:
    known = {
        "endpoint": asked.endpoint,
        "window": asked.completion_window,
        "input_file_id": asked.input_file_id,
    }
    expires = asked.output_expires_after
    return known if expires is None else known | {"output_seconds": expires.seconds}


@router.get("")
async def list_batches(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "batches:read")
    query = Query(request, ("after", "limit"), lenient=True)
    limit = query.integer("limit", 1, 100, 20)
    before = position(query, "after", BATCH)
    query.check()
    async with parts(request).database.connection() as connection:
        found, _ = await batches.page(
            connection, key.tenant_id, BatchFilters(dialect=NAME), limit=limit + 1, before=before
        )
    return as_json(listing([view(batch) for batch in found[:limit]], more=len(found) > limit))


def _id(text: str) -> UUID:
    """Ours too: webhooks name a batch by it. Raises NotFound."""
    return uuid_of(text) or inward(BATCH, text)


@router.get("/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    key = await caller(request, "batches:read")
    return as_json(view(await base.find(request, key, NAME, _id(batch_id))))


@router.post("/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What has ended by then stays, and is in the output file once the batch is cancelled."""
    key = await caller(request, "batches:write")
    await base.ignore_body(request)
    batch = await base.find(request, key, NAME, _id(batch_id))
    now = {"cancelling_at": unix(datetime.now(UTC))}
    return as_json(view(await base.cancelled(parts(request), batch, _not_cancelled, now)))


def _not_cancelled(batch: Batch) -> str:
    return f"Cannot cancel a batch with status '{status(batch)}'."
