"""`/api/v1/beta/webhook-configs`: webhooks that are kept, to be named by batches."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body
from gristmill.api.auth import caller
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.api.query import Query
from gristmill.dialects import base
from gristmill.dialects.llamacloud import hooks, pages, words
from gristmill.dialects.llamacloud.hooks import PREFIX, Hook
from gristmill.domain.ids import uuid7
from gristmill.intake import problems
from gristmill.store import webhook_endpoints
from gristmill.store.keys import Key
from gristmill.store.webhook_endpoints import MAX_EACH, Endpoint

_PATH = "/api/v1/beta/webhook-configs"
_PAGED = "/api/v2/webhook-configs"
_MAX_BODY_BYTES = 64 * 1024
_HIDDEN = "********"

router = APIRouter(include_in_schema=False)


def view(of: Parts, key: Key, kept: Endpoint) -> dict[str, Any]:
    """Headers may carry credentials: their values are no more shown than the secret."""
    hook = hooks.opened(of, kept)
    return {
        "id": words.outward(PREFIX, kept.id),
        "tenant_id": words.project_of(key),
        "tenant_type": "project",
        "webhook_url": kept.url,
        "webhook_events": hook.webhook_events,
        "webhook_headers": dict.fromkeys(hook.webhook_headers or {}, _HIDDEN) or None,
        "webhook_output_format": hook.webhook_output_format,
        "has_secret": hook.webhook_signing_secret is not None,
        "created_at": words.instant(kept.created_at),
        "updated_at": words.instant(kept.updated_at),
    }


@router.post(_PATH)
async def create_config(request: Request) -> Response:
    key = await caller(request, "configurations:write")
    hook = await body.read_model(request, Hook, _MAX_BODY_BYTES)
    of, new_id = parts(request), uuid7()
    hooks.check(of, hook.webhook_url)
    sealed = hooks.sealed(of, new_id, hook)
    async with of.database.engine.begin() as connection:
        made = await webhook_endpoints.create(
            connection, key.tenant_id, new_id, url=hook.webhook_url, sealed=sealed, facts=hooks.facts(hook)
        )
    return as_json(view(of, key, made))


@router.get(_PATH)
async def list_configs(request: Request) -> Response:
    """All of them, newest first."""
    key = await caller(request, "configurations:read")
    of = parts(request)
    async with of.database.engine.connect() as connection:
        found = await webhook_endpoints.page(connection, key.tenant_id, limit=MAX_EACH, before=None)
    return as_json([view(of, key, one) for one in found if hooks.ours(one)])


@router.get(_PAGED)
async def list_configs_by_page(request: Request) -> Response:
    key = await caller(request, "configurations:read")
    query = Query(request, pages.PARAMETERS, lenient=True)
    page = pages.asked(request, query, key, "llamacloud/webhook-configs")
    of = parts(request)

    async def fetch(limit: int, before: UUID | None) -> Sequence[Endpoint]:
        async with of.database.engine.connect() as connection:
            return await webhook_endpoints.page(connection, key.tenant_id, limit=limit, before=before)

    shown, last = await pages.List(fetch, lambda one: one.id).page(page, hooks.ours)
    return pages.listing(request, key, page, [view(of, key, one) for one in shown], last)


@router.get(_PATH + "/{config_id}")
async def get_config(request: Request, config_id: str) -> Response:
    key = await caller(request, "configurations:read")
    of = parts(request)
    return as_json(view(of, key, await hooks.find(of, key, config_id)))


@router.put(_PATH + "/{config_id}")
async def change_config(request: Request, config_id: str) -> Response:
    """What is left out stays. Batches that were made with it keep their copy."""
    key = await caller(request, "configurations:write")
    given = await body.read_json(request, dict, _MAX_BODY_BYTES)
    of = parts(request)
    kept = await hooks.find(of, key, config_id)
    hook = problems.checked(Hook, _as_json(hooks.opened(of, kept)) | given)
    hooks.check(of, hook.webhook_url)
    changes = {
        "url": hook.webhook_url,
        "sealed": hooks.sealed(of, kept.id, hook),
        "dialect_facts": hooks.facts(hook),
    }
    async with of.database.engine.begin() as connection:
        changed = await webhook_endpoints.change(connection, key.tenant_id, kept.id, changes)
    return as_json(view(of, key, changed))


def _as_json(hook: Hook) -> dict[str, Any]:
    """The body that would make it again."""
    secrets = hook.secrets
    given = hook.model_dump(exclude={"webhook_headers", "webhook_signing_secret"})
    return given | {"webhook_headers": secrets["headers"], "webhook_signing_secret": secrets["secret"]}


@router.delete(_PATH + "/{config_id}", status_code=204)
async def delete_config(request: Request, config_id: str) -> Response:
    """Batches that were made with it keep their copy."""
    key = await caller(request, "configurations:write")
    await base.ignore_body(request)
    of = parts(request)
    kept = await hooks.find(of, key, config_id)
    async with of.database.engine.begin() as connection:
        await webhook_endpoints.remove(connection, key.tenant_id, kept.id)
    return Response(status_code=204)
