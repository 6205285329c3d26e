"""`/v1/webhook_endpoints`: where OpenAI's clients have the ends of their batches told, signed by a secret that is made here.

A batch is told to the endpoints that were there when it was made. Where to and signed by what is looked up each time.
"""

import re
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.base import outward, position
from gristmill.dialects.openai import endpoints
from gristmill.dialects.openai.endpoints import EVENTS, MAX_EACH, PREFIX, Kept
from gristmill.dialects.openai.files import listing
from gristmill.dialects.openai.words import unix
from gristmill.domain.errors import Conflict, Invalid, Problem
from gristmill.intake import problems
from gristmill.net.addresses import AddressRefused, check_url
from gristmill.webhooks.sender import Post, send

_PATH = "/v1/webhook_endpoints"
_MAX_BODY_BYTES = 64 * 1024
_EVENT = re.compile(r"[a-z_]{1,32}(\.[a-z_]{1,32}){1,3}")
_OLD_SECONDS = 24 * 3600
_SHOWN = 4  # of a secret's last characters

router = APIRouter(include_in_schema=False)

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
EventTypes = Annotated[list[str], Field(min_length=1, max_length=100)]


class EndpointCreate(BaseModel):
    """Unknown fields are passed over, here and below."""

    name: Name
    url: Url
    event_types: EventTypes


class EndpointUpdate(BaseModel):
    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class Rotation(BaseModel):
    keep_old_secret_active_for_24_hours: bool = False


class Sample(BaseModel):
    event_type: str


def view(kept: Kept, secret: str | None = None) -> dict[str, Any]:
    """`secret`: shown when it is new, and never again."""
    shown = {
        "id": outward(PREFIX, kept.id),
        "object": "webhook_endpoint",
        "name": kept.name,
        "url": kept.url,
        "event_types": list(kept.event_types),
        "signing_secret_hint": f"whsec_…{kept.secret[-_SHOWN:]}",
        "created_at": unix(kept.created_at),
        "updated_at": unix(kept.updated_at),
    }
    return shown if secret is None else shown | {"signing_secret": secret}


@router.get("/v1/webhook_event_types")
async def list_event_types(request: Request) -> Response:
    """Those that come to pass here."""
    await caller(request, "configurations:read")
    return as_json({"object": "list", "data": list(EVENTS)})


@router.post(_PATH)
async def create_endpoint(request: Request) -> Response:
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, EndpointCreate, _MAX_BODY_BYTES)
    of = parts(request)
    _check(of, given.url, given.event_types)
    if len(await endpoints.all_of(of, key)) >= MAX_EACH:
        raise Conflict(f"at most {MAX_EACH} webhook endpoints are kept", code="too_many_endpoints")
    made = await endpoints.create(of, key, given.name, given.url, tuple(given.event_types))
    return as_json(view(made, made.secret))


def _check(of: Parts, url: str | None, event_types: list[str] | None) -> None:
    """What belongs to OpenAI's other products is kept and never comes to pass. Raises Invalid."""
    if event_types is not None:
        wrong = [one for one in event_types if not _EVENT.fullmatch(one)]
        if wrong or not set(event_types) & set(EVENTS):
            detail = f"event_types: names of events, one of {', '.join(EVENTS)} among them"
            raise Invalid([Problem("event_types", "invalid_event_types", detail)])
    if url is not None:
        try:
            check_url(url, allow_private=of.settings.allow_private_addresses)
        except AddressRefused as refused:
            raise Invalid([Problem("url", "address_refused", f"url: {refused}")]) from None


@router.get(_PATH)
async def list_endpoints(request: Request) -> Response:
    """Newest first."""
    key = await caller(request, "configurations:read")
    query = Query(request, ("after", "limit"), lenient=True)
    limit, after = query.integer("limit", 1, 100, 20), position(query, "after", PREFIX)
    query.check()
    found = await endpoints.all_of(parts(request), key)
    rest = [one for one in found if after is None or one.id < after]
    return as_json(listing([view(one) for one in rest[:limit]], more=len(rest) > limit))


@router.get(_PATH + "/{endpoint_id}")
async def get_endpoint(request: Request, endpoint_id: str) -> Response:
    key = await caller(request, "configurations:read")
    return as_json(view(await endpoints.find(parts(request), key, endpoint_id)))


@router.post(_PATH + "/{endpoint_id}")
async def update_endpoint(request: Request, endpoint_id: str) -> Response:
    """What is left out stays. Batches that run tell the new URL; which of their events was settled when they were made."""
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, EndpointUpdate, _MAX_BODY_BYTES)
    of = parts(request)
    before = await endpoints.find(of, key, endpoint_id)
    _check(of, given.url, given.event_types)
    after = replace(
        before,
        name=given.name or before.name,
        url=given.url or before.url,
        event_types=tuple(given.event_types or before.event_types),
    )
    return as_json(view(before if after == before else await endpoints.change(of, key, after)))


@router.delete(_PATH + "/{endpoint_id}")
async def delete_endpoint(request: Request, endpoint_id: str) -> Response:
    """Nothing more is sent to it, of whatever batch."""
    key = await caller(request, "configurations:write")
    await base.ignore_body(request)
    of = parts(request)
    await endpoints.remove(of, key, await endpoints.find(of, key, endpoint_id))
    return as_json({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


@router.post(_PATH + "/{endpoint_id}/rotate_secret")
async def rotate_secret(request: Request, endpoint_id: str) -> Response:
    """From now on all is signed by the new one, what batches of before have to tell included."""
    key = await caller(request, "configurations:write")
    given = problems.checked(Rotation, await body.read_optional(request, _MAX_BODY_BYTES))
    of = parts(request)
    before = await endpoints.find(of, key, endpoint_id)
    until = time.time() + _OLD_SECONDS
    former = {"secret": before.secret, "until": until} if given.keep_old_secret_active_for_24_hours else None
    rotated = await endpoints.change(of, key, replace(before, secret=endpoints.new_secret(), former=former))
    return as_json(view(rotated, rotated.secret))


@router.post(_PATH + "/{endpoint_id}/test")
async def send_sample(request: Request, endpoint_id: str) -> Response:
    """At once, and once. Raises Invalid where nobody answers."""
    key = await caller(request, "configurations:write")
    given = await body.read_model(request, Sample, _MAX_BODY_BYTES)
    of = parts(request)
    kept = await endpoints.find(of, key, endpoint_id)
    if given.event_type not in EVENTS:
        detail = f"event_type: one of {', '.join(EVENTS)}"
        raise Invalid([Problem("event_type", "invalid_event_type", detail)])
    event_id, text = endpoints.sample(given.event_type)
    post = Post(event_id, text, kept.url, kept.secrets, endpoints.SIGNATURES)
    attempt = await send(of.http, post, of.settings.webhook_timeout_seconds)
    if attempt.status_code is None:
        raise Invalid([Problem("url", "no_answer", f"the endpoint has not answered: {attempt.error}")])
    return as_json(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": given.event_type,
            "status_code": attempt.status_code,
            "success": True,
        }
    )
